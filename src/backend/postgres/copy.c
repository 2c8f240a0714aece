/* The binary form of COPY, put together in pieces and sent as they fill up; what is larger than a
 * piece is sent from where it lies. The first failure is kept. */
#include "backend/postgres/apply.h"

#include <endian.h>
#include <string.h>

/* 2000-01-01 in microseconds since 1970. */
#define EPOCH_US INT64_C(946684800000000)

static void copy_flush(struct ldg_pg_copy *c)
{
    if (c->rc == LEDGER_OK && c->used > 0)
        c->rc = ldg_pg_copy_put(c->pg, c->data, c->used, c->err);
    c->used = 0;
}

static void copy_raw(struct ldg_pg_copy *c, const void *data, size_t size)
{
    if (size > LDG_PG_COPY_BYTES - c->used)
        copy_flush(c);
    if (size > LDG_PG_COPY_BYTES) { /* as it lies there */
        if (c->rc == LEDGER_OK)
            c->rc = ldg_pg_copy_put(c->pg, data, size, c->err);
    } else if (size > 0) {
        memcpy(c->data + c->used, data, size);
        c->used += size;
    }
}

static void copy_32(struct ldg_pg_copy *c, uint32_t value)
{
    value = htobe32(value);
    copy_raw(c, &value, sizeof(value));
}

static void copy_64(struct ldg_pg_copy *c, uint64_t value)
{
    copy_32(c, 8);
    value = htobe64(value);
    copy_raw(c, &value, sizeof(value));
}

ledger_rc ldg_pg_copy_open(struct ldg_pg_copy *c, struct ldg_pg_batch *b, const char *template,
                           ledger_error *err)
{
    static const char head[] = "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0";

    *c = (struct ldg_pg_copy){ .pg = b->pg, .data = b->sink->copy, .err = err };
    c->rc = ldg_pg_copy_begin(b->pg, template, err);
    copy_raw(c, head, sizeof(head)); /* with the last NUL of its 19 bytes */
    return c->rc;
}

void ldg_pg_copy_row(struct ldg_pg_copy *c, int columns)
{
    uint16_t count = htobe16((uint16_t)columns);

    copy_raw(c, &count, sizeof(count));
    c->rows++;
}

void ldg_pg_copy_bytes(struct ldg_pg_copy *c, const void *data, size_t size)
{
    copy_32(c, (uint32_t)size);
    copy_raw(c, data, size);
}

void ldg_pg_copy_text(struct ldg_pg_copy *c, const char *text)
{
    ldg_pg_copy_bytes(c, text, strlen(text));
}

void ldg_pg_copy_json(struct ldg_pg_copy *c, const char *text, size_t size)
{
    copy_32(c, (uint32_t)size + 1);
    copy_raw(c, "\1", 1); /* version */
    copy_raw(c, text, size);
}

void ldg_pg_copy_int32(struct ldg_pg_copy *c, int32_t value)
{
    copy_32(c, 4);
    copy_32(c, (uint32_t)value);
}

void ldg_pg_copy_int64(struct ldg_pg_copy *c, int64_t value)
{
    copy_64(c, (uint64_t)value);
}

void ldg_pg_copy_time(struct ldg_pg_copy *c, int64_t time_us)
{
    /* One so early that it has no number there is refused as out of range. */
    copy_64(c, (uint64_t)(time_us < INT64_MIN + 1 + EPOCH_US ? INT64_MIN + 1 : time_us - EPOCH_US));
}

void ldg_pg_copy_null(struct ldg_pg_copy *c)
{
    copy_32(c, UINT32_MAX);
}

ledger_rc ldg_pg_copy_close(struct ldg_pg_copy *c, ledger_error *err)
{
    uint64_t rows = 0;

    copy_raw(c, "\377\377", 2);
    copy_flush(c);
    if (c->rc == LEDGER_OK)
        c->rc = ldg_pg_copy_end(c->pg, &rows, err);
    if (c->rc == LEDGER_OK && rows != c->rows)
        c->rc = ldg_fail(err, LEDGER_ERR_REJECTED, "a trigger of table \"%s\" drops rows",
                         c->pg->table);
    return c->rc;
}
