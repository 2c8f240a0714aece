/* The wrapped allocator. The counter runs all the time, failing costs one comparison; atomic, since
 * a bridge has threads. Invariant: without alloc_fail_at or _from nothing ever fails. */
#include "alloc_fail.h"

#include <stdatomic.h>
#include <stddef.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static _Atomic uint64_t call_count, failure_count;
static _Atomic uint64_t first_failing = UINT64_MAX, last_failing = UINT64_MAX;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *p, size_t size);

static bool is_failing(void)
{
    uint64_t number = atomic_fetch_add(&call_count, 1) + 1;
    if (number < atomic_load(&first_failing) || number > atomic_load(&last_failing))
        return false;
    atomic_fetch_add(&failure_count, 1);
    return true;
}

void *__wrap_malloc(size_t size)
{
    return is_failing() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return is_failing() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return is_failing() ? NULL : __real_realloc(p, size);
}

static void set_range(uint64_t first, uint64_t last)
{
    atomic_store(&first_failing, UINT64_MAX);
    atomic_store(&call_count, 0);
    atomic_store(&failure_count, 0);
    atomic_store(&last_failing, last);
    atomic_store(&first_failing, first);
}

void alloc_fail_at(uint64_t n)
{
    set_range(n, n);
}

void alloc_fail_from(uint64_t n)
{
    set_range(n, UINT64_MAX - 1);
}

void alloc_fail_off(void)
{
    atomic_store(&first_failing, UINT64_MAX); /* the counts stay to be read */
}

uint64_t alloc_fail_count(void)
{
    return atomic_load(&call_count);
}

uint64_t alloc_fail_failures(void)
{
    return atomic_load(&failure_count);
}

static uint64_t each(void (*arm)(uint64_t n), ledger_rc (*run)(void *ctx), void *ctx)
{
    for (uint64_t n = 1;; n++) {
        arm(n);
        ledger_rc rc = run(ctx);
        alloc_fail_off();
        if (alloc_fail_failures() == 0) {
            assert_int_equal(rc, LEDGER_OK);
            return alloc_fail_count();
        }
        if (rc == LEDGER_OK)
            fail_msg("allocation %llu failed and nobody noticed", (unsigned long long)n);
    }
}

uint64_t alloc_fail_each(ledger_rc (*run)(void *ctx), void *ctx)
{
    each(alloc_fail_from, run, ctx);
    return each(alloc_fail_at, run, ctx);
}
