/* Growing byte buffer. The memory doubles up to the cap; a failure sticks in `rc`, so that later
 * appends cannot leave a text with a hole in it. Invariant: size <= max, size < cap, and
 * data[size] is NUL once data is there. */
#include "base/buf.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#define FIRST_CAP 64

void ldg_buf_init(struct ldg_buf *buf, size_t max_bytes)
{
    *buf = (struct ldg_buf){ .max = max_bytes < SIZE_MAX / 2 ? max_bytes : SIZE_MAX / 2 };
}

void ldg_buf_fini(struct ldg_buf *buf)
{
    ldg_free(buf->data);
    ldg_buf_init(buf, buf->max);
}

void ldg_buf_reset(struct ldg_buf *buf)
{
    buf->size = 0;
    buf->rc = LEDGER_OK;
    if (buf->data != NULL)
        buf->data[0] = '\0';
}

/* Makes room for size more bytes and the NUL. */
static ledger_rc reserve(struct ldg_buf *buf, size_t size)
{
    if (buf->rc != LEDGER_OK)
        return buf->rc;
    if (size > buf->max - buf->size) {
        buf->rc = LEDGER_ERR_TOO_LARGE;
        return buf->rc;
    }
    size_t need = buf->size + size + 1;
    if (need <= buf->cap)
        return LEDGER_OK;
    size_t cap = buf->cap > 0 ? buf->cap : FIRST_CAP;
    while (cap < need)
        cap *= 2;
    if (cap > buf->max + 1)
        cap = buf->max + 1;
    char *data = ldg_realloc(buf->data, cap);
    if (data == NULL) {
        buf->rc = LEDGER_ERR_NOMEM;
        return buf->rc;
    }
    buf->data = data;
    buf->cap = cap;
    return LEDGER_OK;
}

ledger_rc ldg_buf_append(struct ldg_buf *buf, const void *data, size_t size)
{
    ledger_rc rc = reserve(buf, size);
    if (rc != LEDGER_OK)
        return rc;
    if (size > 0)
        memcpy(buf->data + buf->size, data, size);
    buf->size += size;
    buf->data[buf->size] = '\0';
    return LEDGER_OK;
}

ledger_rc ldg_buf_puts(struct ldg_buf *buf, const char *s)
{
    return ldg_buf_append(buf, s, strlen(s));
}

ledger_rc ldg_buf_putc(struct ldg_buf *buf, char c)
{
    return ldg_buf_append(buf, &c, 1);
}

ledger_rc ldg_buf_printf(struct ldg_buf *buf, const char *fmt, ...)
{
    va_list args;
    char small[256];
    va_start(args, fmt);
    int size = vsnprintf(small, sizeof small, fmt, args);
    va_end(args);
    if (size < 0) {
        if (buf->rc == LEDGER_OK)
            buf->rc = LEDGER_ERR_TOO_LARGE; /* over INT_MAX: over any cap of ours too */
        return buf->rc;
    }
    if ((size_t)size < sizeof small)
        return ldg_buf_append(buf, small, (size_t)size);
    ledger_rc rc = reserve(buf, (size_t)size);
    if (rc != LEDGER_OK)
        return rc;
    va_start(args, fmt);
    vsnprintf(buf->data + buf->size, (size_t)size + 1, fmt, args);
    va_end(args);
    buf->size += (size_t)size;
    return LEDGER_OK;
}

char *ldg_buf_take(struct ldg_buf *buf)
{
    char *data = buf->data;
    if (buf->rc != LEDGER_OK) {
        ldg_free(data); /* a text with a hole is nobody's result */
        data = NULL;
    }
    ldg_buf_init(buf, buf->max);
    return data;
}
