/* A growing byte buffer with a named cap. After the first failure every append fails, so a caller
 * may append many times and look at `rc` once. */
#ifndef LDG_BASE_BUF_H
#define LDG_BASE_BUF_H

#include <stddef.h>

#include "ledger/error.h"

struct ldg_buf {
    char *data; /* NUL behind size, once something was appended */
    size_t size;
    size_t cap;
    size_t max;   /* content never grows over this */
    ledger_rc rc; /* OK, NOMEM or TOO_LARGE */
};

void ldg_buf_init(struct ldg_buf *buf, size_t max_bytes); /* allocates nothing */
void ldg_buf_fini(struct ldg_buf *buf);
void ldg_buf_reset(struct ldg_buf *buf); /* keeps the memory, clears rc */
ledger_rc ldg_buf_append(struct ldg_buf *buf, const void *data, size_t size);
ledger_rc ldg_buf_puts(struct ldg_buf *buf, const char *s);
ledger_rc ldg_buf_putc(struct ldg_buf *buf, char c);
ledger_rc ldg_buf_printf(struct ldg_buf *buf, const char *fmt, ...) LEDGER_PRINTF(2, 3);
/* Hands the memory over (ldg_free); the buffer is empty again. NULL if nothing was appended, or if
 * an append failed. */
char *ldg_buf_take(struct ldg_buf *buf);

#endif
