/* Makes allocations of the program under test fail. Works in executables linked with
 * alloc_fail_link_args (--wrap): every call of malloc, calloc and realloc out of our own objects is
 * counted; shared libraries are left alone. */
#ifndef TEST_ALLOC_FAIL_H
#define TEST_ALLOC_FAIL_H

#include <stdbool.h>
#include <stdint.h>

#include "ledger/error.h"

void alloc_fail_at(uint64_t n);   /* the n-th allocation from now gives NULL; 1 is the next */
void alloc_fail_from(uint64_t n); /* the n-th and all later ones */
void alloc_fail_off(void);
uint64_t alloc_fail_count(void);    /* allocations since the last alloc_fail_at or _from */
uint64_t alloc_fail_failures(void); /* how many of them were made to fail */

/* Calls run(ctx) with the n-th allocation failing, for n = 1, 2, … until a run gets through without
 * a failure; then once more for each n with all later ones failing too. Asserts that a run with a
 * failure returns an error, and the last one OK. run must free what it made in both cases (leaks
 * show under AddressSanitizer) and must not allocate through cmocka. Returns the number of
 * allocations of a good run. */
uint64_t alloc_fail_each(ledger_rc (*run)(void *ctx), void *ctx);

#endif
