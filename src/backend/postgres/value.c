/* Values on their way to the server and back.
 *
 * Hides the binary forms of the protocol: numbers in network order, times since 2000, the version
 * byte of jsonb, arrays. Invariant: no value ever becomes part of a statement's text. */
#include "backend/postgres/postgres.h"

#include <assert.h>
#include <endian.h>
#include <limits.h>
#include <string.h>

/* 2000-01-01 in microseconds since 1970. */
#define EPOCH_US INT64_C(946684800000000)
/* The server takes no value of 1 GB, nor a message much over it. */
#define VALUE_MAX_BYTES ((size_t)1024 * 1024 * 1024 - 1)
#define ARRAY_HEAD_BYTES 20
#define JSONB_VERSION 1

/* --- parameters ------------------------------------------------------------------------------ */

enum { TEXT, BINARY };

static void add(struct ldg_pg_args *args, Oid type, int format, const void *data, size_t size)
{
    assert(args->count < LDG_PG_ARGS_MAX);
    if (size > VALUE_MAX_BYTES) {
        args->rc = LEDGER_ERR_TOO_LARGE;
        size = 0;
    }
    args->types[args->count] = type;
    args->values[args->count] = data;
    args->lengths[args->count] = (int)size;
    args->formats[args->count] = format;
    args->count++;
}

void ldg_pg_arg_text(struct ldg_pg_args *args, const char *text)
{
    add(args, LDG_PG_TEXT, BINARY, text, text ? strlen(text) : 0);
}

void ldg_pg_arg_json(struct ldg_pg_args *args, const char *text, size_t size)
{
    /* As text, because the binary form would need a byte in front of it. */
    assert(!text || !text[size]);
    add(args, LDG_PG_JSONB, TEXT, text, size);
}

void ldg_pg_arg_bytes(struct ldg_pg_args *args, const void *data, size_t size)
{
    add(args, LDG_PG_BYTEA, BINARY, data || size ? data : "", size);
}

static void put32(char *out, uint32_t value)
{
    value = htobe32(value);
    memcpy(out, &value, sizeof(value));
}

static void put64(char *out, uint64_t value)
{
    value = htobe64(value);
    memcpy(out, &value, sizeof(value));
}

void ldg_pg_arg_int64(struct ldg_pg_args *args, int64_t value)
{
    char *out = args->numbers[args->count];
    put64(out, (uint64_t)value);
    add(args, LDG_PG_INT8, BINARY, out, 8);
}

void ldg_pg_arg_int32(struct ldg_pg_args *args, int32_t value)
{
    char *out = args->numbers[args->count];
    put32(out, (uint32_t)value);
    add(args, LDG_PG_INT4, BINARY, out, 4);
}

void ldg_pg_arg_bool(struct ldg_pg_args *args, bool value)
{
    char *out = args->numbers[args->count];
    out[0] = (char)value;
    add(args, LDG_PG_BOOL, BINARY, out, 1);
}

/* A time so early that it has no number there is refused by the server as one out of range. */
static int64_t server_time(int64_t time_us)
{
    return time_us < INT64_MIN + 1 + EPOCH_US ? INT64_MIN + 1 : time_us - EPOCH_US;
}

void ldg_pg_arg_time(struct ldg_pg_args *args, int64_t time_us)
{
    char *out = args->numbers[args->count];
    if (time_us == LEDGER_NO_TIME) {
        add(args, LDG_PG_TIMESTAMPTZ, BINARY, NULL, 0);
        return;
    }
    put64(out, (uint64_t)server_time(time_us));
    add(args, LDG_PG_TIMESTAMPTZ, BINARY, out, 8);
}

void ldg_pg_arg_array(struct ldg_pg_args *args, Oid type, const struct ldg_buf *array)
{
    if (array->rc != LEDGER_OK)
        args->rc = array->rc;
    add(args, type, BINARY, array->data ? array->data : "", array->size);
}

void ldg_pg_arg_key(struct ldg_pg_args *args, ledger_id key)
{
    if (key.text != NULL)
        ldg_pg_arg_text(args, key.text);
    else
        ldg_pg_arg_int64(args, key.number);
}

void ldg_pg_arg_keys(struct ldg_pg_args *args, enum ldg_pg_kind kind, const struct ldg_buf *array)
{
    ldg_pg_arg_array(args, kind == LDG_PG_TEXTS ? LDG_PG_TEXT_ARRAY : LDG_PG_INT8_ARRAY, array);
}

/* --- arrays ---------------------------------------------------------------------------------- */

void ldg_pg_array_begin(struct ldg_buf *buf, Oid element)
{
    char head[ARRAY_HEAD_BYTES];
    put32(head, 1);     /* dimensions */
    put32(head + 4, 0); /* the server looks for nulls itself */
    put32(head + 8, element);
    put32(head + 12, 0); /* items: at the end */
    put32(head + 16, 1); /* lower bound */
    ldg_buf_reset(buf);
    ldg_buf_append(buf, head, sizeof(head));
}

static void put_item(struct ldg_buf *buf, const char *prefix, size_t prefix_size, const void *data,
                     size_t size)
{
    char head[4];
    if (size > VALUE_MAX_BYTES - prefix_size) {
        buf->rc = buf->rc == LEDGER_OK ? LEDGER_ERR_TOO_LARGE : buf->rc;
        return;
    }
    put32(head, data ? (uint32_t)(prefix_size + size) : UINT32_MAX);
    ldg_buf_append(buf, head, sizeof(head));
    if (data) {
        ldg_buf_append(buf, prefix, prefix_size);
        ldg_buf_append(buf, data, size);
    }
}

void ldg_pg_array_bytes(struct ldg_buf *buf, const void *data, size_t size)
{
    put_item(buf, "", 0, data, size);
}

void ldg_pg_array_text(struct ldg_buf *buf, const char *text)
{
    put_item(buf, "", 0, text, text ? strlen(text) : 0);
}

void ldg_pg_array_keys_begin(struct ldg_buf *buf, enum ldg_pg_kind kind)
{
    ldg_pg_array_begin(buf, kind == LDG_PG_TEXTS ? LDG_PG_TEXT : LDG_PG_INT8);
}

void ldg_pg_array_key(struct ldg_buf *buf, ledger_id key)
{
    if (key.text != NULL)
        ldg_pg_array_text(buf, key.text);
    else
        ldg_pg_array_int64(buf, key.number);
}

void ldg_pg_array_null(struct ldg_buf *buf)
{
    put_item(buf, "", 0, NULL, 0);
}

void ldg_pg_array_position(struct ldg_buf *buf, int64_t position)
{
    if (position != 0)
        ldg_pg_array_int64(buf, position);
    else
        ldg_pg_array_null(buf);
}

void ldg_pg_array_bool(struct ldg_buf *buf, bool value)
{
    const char out = (char)value;
    put_item(buf, "", 0, &out, 1);
}

void ldg_pg_array_jsonb(struct ldg_buf *buf, const char *text, size_t size)
{
    static const char version = JSONB_VERSION;
    put_item(buf, &version, 1, text, size);
}

void ldg_pg_array_int64(struct ldg_buf *buf, int64_t value)
{
    char out[8];
    put64(out, (uint64_t)value);
    put_item(buf, "", 0, out, sizeof(out));
}

void ldg_pg_array_int32(struct ldg_buf *buf, int32_t value)
{
    char out[4];
    put32(out, (uint32_t)value);
    put_item(buf, "", 0, out, sizeof(out));
}

void ldg_pg_array_time(struct ldg_buf *buf, int64_t time_us)
{
    char out[8];
    if (time_us == LEDGER_NO_TIME) {
        put_item(buf, "", 0, NULL, 0);
        return;
    }
    put64(out, (uint64_t)server_time(time_us));
    put_item(buf, "", 0, out, sizeof(out));
}

void ldg_pg_array_end(struct ldg_buf *buf, size_t count)
{
    if (buf->rc != LEDGER_OK)
        return;
    if (count > INT32_MAX) {
        buf->rc = LEDGER_ERR_TOO_LARGE;
        return;
    }
    if (count == 0) { /* an empty array has no dimension */
        put32(buf->data, 0);
        buf->size = 12;
        buf->data[buf->size] = '\0';
        return;
    }
    put32(buf->data + 12, (uint32_t)count);
}

/* --- tags, metadata, annotations ------------------------------------------------------------- */

static ledger_rc put_fail(const struct ldg_buf *buf, ledger_error *err)
{
    return buf->rc == LEDGER_ERR_NOMEM
               ? ldg_fail_nomem(err)
               : ldg_fail(err, LEDGER_ERR_REJECTED, "tags, metadata or annotations are too large");
}

ledger_rc ldg_pg_put_list(struct ldg_buf *buf, ledger_list list, ledger_error *err)
{
    ldg_buf_reset(buf);
    return ldg_json_put_list(buf, list) == LEDGER_OK ? LEDGER_OK : put_fail(buf, err);
}

ledger_rc ldg_pg_put_map(struct ldg_buf *buf, ledger_map map, struct ldg_arena *arena,
                         ledger_error *err)
{
    ledger_map sorted;
    ledger_rc rc = ldg_map_sort(map, arena, &sorted, err);

    ldg_buf_reset(buf);
    if (rc == LEDGER_OK && ldg_json_put_map(buf, sorted) != LEDGER_OK)
        rc = put_fail(buf, err);
    return rc;
}

ledger_rc ldg_pg_split_map(ledger_map map, struct ldg_arena *arena, ledger_map *ret_set,
                           ledger_list *ret_unset, ledger_error *err)
{
    ledger_map sorted;
    ledger_pair *set;
    const char **unset;
    ledger_rc rc = ldg_map_sort(map, arena, &sorted, err);

    if (rc != LEDGER_OK)
        return rc;
    set = ldg_arena_calloc(arena, sorted.count, sizeof(*set));
    unset = ldg_arena_calloc(arena, sorted.count, sizeof(*unset));
    if (set == NULL || unset == NULL)
        return ldg_fail_nomem(err);
    *ret_set = (ledger_map){ set, 0 };
    *ret_unset = (ledger_list){ unset, 0 };
    for (size_t i = 0; i < sorted.count; i++) {
        if (sorted.items[i].value != NULL)
            set[ret_set->count++] = sorted.items[i];
        else
            unset[ret_unset->count++] = sorted.items[i].key;
    }
    return LEDGER_OK;
}

/* --- results --------------------------------------------------------------------------------- */

static uint32_t get32(const char *p)
{
    uint32_t value;
    memcpy(&value, p, sizeof(value));
    return be32toh(value);
}

static uint64_t get64(const char *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof(value));
    return be64toh(value);
}

int64_t ldg_pg_get_int64(const PGresult *result, int row, int column)
{
    const char *p = PQgetvalue(result, row, column);
    switch (PQgetlength(result, row, column)) {
    case 8:
        return (int64_t)get64(p);
    case 4:
        return (int32_t)get32(p);
    default:
        return 0;
    }
}

bool ldg_pg_get_bool(const PGresult *result, int row, int column)
{
    return PQgetlength(result, row, column) == 1 && *PQgetvalue(result, row, column);
}

int64_t ldg_pg_get_time(const PGresult *result, int row, int column)
{
    if (PQgetlength(result, row, column) != 8)
        return LEDGER_NO_TIME;
    int64_t value = (int64_t)get64(PQgetvalue(result, row, column));
    if (value == INT64_MIN || value > INT64_MAX - EPOCH_US) /* -infinity, infinity */
        return LEDGER_NO_TIME;
    return value + EPOCH_US;
}

ledger_bytes ldg_pg_get_bytes(const PGresult *result, int row, int column)
{
    return (ledger_bytes){ .data = PQgetvalue(result, row, column),
                           .size = (size_t)PQgetlength(result, row, column) };
}

ledger_id ldg_pg_get_key(const PGresult *result, int row, int number, int text)
{
    if (PQgetlength(result, row, text) > 0)
        return (ledger_id){ .text = ldg_pg_get_text(result, row, text) };
    return ldg_id_of(ldg_pg_get_int64(result, row, number));
}

const char *ldg_pg_get_text(const PGresult *result, int row, int column)
{
    return PQgetvalue(result, row, column);
}

/* The text behind the version byte. */
static bool jsonb_text(const PGresult *result, int row, int column, ledger_bytes *ret_text)
{
    ledger_bytes bytes = ldg_pg_get_bytes(result, row, column);
    const char *p = bytes.data;
    if (!bytes.size || *p != JSONB_VERSION)
        return false;
    *ret_text = (ledger_bytes){ .data = p + 1, .size = bytes.size - 1 };
    return true;
}

ledger_rc ldg_pg_get_map(const PGresult *result, int row, int column, struct ldg_arena *arena,
                         ledger_map *ret_map, ledger_error *err)
{
    ledger_bytes text;
    if (PQgetisnull(result, row, column)) {
        *ret_map = (ledger_map){ 0 };
        return LEDGER_OK;
    }
    if (!jsonb_text(result, row, column, &text))
        return ldg_fail(err, LEDGER_ERR_DATA, "not of type jsonb, or of a version not known here");
    return ldg_json_get_map(text, false, arena, ret_map, err);
}

ledger_rc ldg_pg_get_list(const PGresult *result, int row, int column, struct ldg_arena *arena,
                          ledger_list *ret_list, ledger_error *err)
{
    ledger_bytes text;
    if (PQgetisnull(result, row, column)) {
        *ret_list = (ledger_list){ 0 };
        return LEDGER_OK;
    }
    if (!jsonb_text(result, row, column, &text))
        return ldg_fail(err, LEDGER_ERR_DATA, "not of type jsonb, or of a version not known here");
    return ldg_json_get_list(text, arena, ret_list, err);
}

ledger_rc ldg_pg_get_int64s(const PGresult *result, int row, int column, struct ldg_arena *arena,
                            int64_t **ret_items, size_t *ret_count, ledger_error *err)
{
    const ledger_bytes bytes = ldg_pg_get_bytes(result, row, column);
    const char *p = bytes.data;
    size_t count = 0;
    if (bytes.size >= ARRAY_HEAD_BYTES) {
        count = get32(p + 12);
        if (get32(p) != 1 || bytes.size != ARRAY_HEAD_BYTES + count * 12)
            return ldg_fail(err, LEDGER_ERR_INTERNAL, "not an array of numbers");
    }
    int64_t *items = ldg_arena_calloc(arena, count, sizeof(*items));
    if (!items)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < count; i++)
        items[i] = (int64_t)get64(p + ARRAY_HEAD_BYTES + i * 12 + 4);
    *ret_items = items;
    *ret_count = count;
    return LEDGER_OK;
}
