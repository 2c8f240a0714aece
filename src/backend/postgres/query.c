/* Reading entries.
 *
 * Hides how a filter becomes SQL and how a page is bounded: the server adds up the sizes of the
 * rows, from what is stored of them, and sends only those that fit, so that memory holds one page
 * and never what LIMIT would allow. Invariants: every value is bound; a row that other programs
 * have left unreadable is named by its id. */
#include "backend/postgres/postgres.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define READ_MAX_BYTES ((size_t)64 * 1024 * 1024)
#define SQL_MAX_BYTES ((size_t)16 * 1024)
#define FILTER_MAX_BYTES ((size_t)512 * 1024 * 1024)

/* --- one row --------------------------------------------------------------------------------- */

/* Where a row of the columns {e} goes. raw: a damaged column is given as it is, and is no error. */
struct target {
    const struct ldg_pg *pg;
    const PGresult *result;
    struct ldg_arena *arena;
    bool raw;
};

static ledger_rc fill_text(const struct target *t, int row, int column, const char **ret_text,
                           ledger_error *err)
{
    const char *text = ldg_pg_get_text(t->result, row, column);
    char *copy = NULL;

    if (!*text) {
        *ret_text = "";
        return LEDGER_OK;
    }
    copy = ldg_arena_strdup(t->arena, text);
    if (!copy)
        return ldg_fail_nomem(err);
    *ret_text = copy;
    return LEDGER_OK;
}

/* The text of a jsonb of another shape, as the only tag or as the value of "". */
static ledger_rc fill_raw_json(const struct target *t, int row, int column, ledger_map *map,
                               ledger_list *list, ledger_error *err)
{
    ledger_bytes json = ldg_pg_get_bytes(t->result, row, column);
    const size_t version = json.size > 0; /* a byte before the text */
    char *text = ldg_arena_strndup(t->arena, json.size ? (const char *)json.data + version : "",
                                   json.size - version);
    const ledger_pair pair = { .key = "", .value = text };
    const void *item = NULL;

    if (text)
        item = map ? ldg_arena_memdup(t->arena, &pair, sizeof(pair))
                   : ldg_arena_memdup(t->arena, &text, sizeof(text));
    if (!item)
        return ldg_fail_nomem(err);
    if (map)
        *map = (ledger_map){ .items = item, .count = 1 };
    else
        *list = (ledger_list){ .items = item, .count = 1 };
    return LEDGER_OK;
}

/* An object or a list of strings. Either map or list is given. */
static ledger_rc fill_json(const struct target *t, int row, int column, const char *name,
                           ledger_map *map, ledger_list *list, ledger_error *err)
{
    ledger_rc rc = map ? ldg_pg_get_map(t->result, row, column, t->arena, map, err)
                       : ldg_pg_get_list(t->result, row, column, t->arena, list, err);
    if (rc == LEDGER_ERR_DATA || rc == LEDGER_ERR_TOO_LARGE) {
        const ledger_error why = *err;
        rc = t->raw ? fill_raw_json(t, row, column, map, list, err)
                    : ldg_pg_fail_row(t->pg, ldg_pg_get_int64(t->result, row, LDG_PG_E_ID), name,
                                      why.message, err);
    }
    return rc;
}

static ledger_rc fill_payload(const struct target *t, int row, int column,
                              ledger_bytes *ret_payload, ledger_error *err)
{
    ledger_bytes payload = ldg_pg_get_bytes(t->result, row, column);
    void *copy = ldg_arena_memdup(t->arena, payload.size ? payload.data : "", payload.size);

    if (!copy)
        return ldg_fail_nomem(err);
    *ret_payload = (ledger_bytes){ .data = copy, .size = payload.size };
    return LEDGER_OK;
}

/* The id at the origin: the text, or what Go wrote, else our number. */
static ledger_rc fill_source_id(const struct target *t, int row, const char **ret_text,
                                ledger_error *err)
{
    char number[24];
    ledger_rc rc = fill_text(t, row, LDG_PG_E_SOURCE_ID, ret_text, err);

    if (rc == LEDGER_OK && !**ret_text && ldg_pg_get_int64(t->result, row, LDG_PG_E_ORIGIN) != 0 &&
        !PQgetisnull(t->result, row, LDG_PG_E_SOURCE_POS)) {
        snprintf(number, sizeof(number), "%" PRId64,
                 ldg_pg_get_int64(t->result, row, LDG_PG_E_SOURCE_POS));
        *ret_text = ldg_arena_strdup(t->arena, number);
        if (!*ret_text)
            rc = ldg_fail_nomem(err);
    }
    return rc;
}

static ledger_rc fill_entry(const struct target *t, int row, ledger_entry *entry, ledger_error *err)
{
    ledger_entry e = {
        .id = { .number = ldg_pg_get_int64(t->result, row, LDG_PG_E_ID) },
        .schema_version = (int)ldg_pg_get_int64(t->result, row, LDG_PG_E_SCHEMA_VERSION),
        .created_at_us = ldg_pg_get_time(t->result, row, LDG_PG_E_CREATED_AT),
        .updated_at_us = ldg_pg_get_time(t->result, row, LDG_PG_E_UPDATED_AT),
    };
    ledger_rc rc = fill_text(t, row, LDG_PG_E_STREAM, &e.stream, err);
    if (rc == LEDGER_OK)
        rc = fill_payload(t, row, LDG_PG_E_PAYLOAD, &e.payload, err);
    if (rc == LEDGER_OK)
        rc = fill_text(t, row, LDG_PG_E_ORDER_KEY, &e.order_key, err);
    if (rc == LEDGER_OK)
        rc = fill_text(t, row, LDG_PG_E_DEDUP_KEY, &e.dedup_key, err);
    if (rc == LEDGER_OK)
        rc = fill_json(t, row, LDG_PG_E_METADATA, "metadata", &e.metadata, NULL, err);
    if (rc == LEDGER_OK)
        rc = fill_json(t, row, LDG_PG_E_TAGS, "tags", NULL, &e.tags, err);
    if (rc == LEDGER_OK)
        rc = fill_json(t, row, LDG_PG_E_ANNOTATIONS, "annotations", &e.annotations, NULL, err);
    if (rc == LEDGER_OK)
        rc = fill_source_id(t, row, &e.source_id, err);
    if (rc == LEDGER_OK)
        rc = fill_text(t, row, LDG_PG_E_ORIGIN_UUID, &e.origin, err);
    if (rc == LEDGER_OK)
        *entry = e;
    return rc;
}

/* --- a page ---------------------------------------------------------------------------------- */

/* What a row takes when it is here. octet_length() does not load a payload that lies outside of its
 * row, and neither does the window: it hands on where the payload is. */
#define ROW_BYTES                                                                                  \
    "coalesce(200 + octet_length(payload)::bigint + octet_length(stream) + "                       \
    "octet_length(order_key) + octet_length(dedup_key) + "                                         \
    "coalesce(octet_length(metadata::text), 0) + octet_length(tags::text) + "                      \
    "coalesce(octet_length(annotations::text), 0), 200)"

/* A statement under way: its text and what is bound. */
struct query {
    struct ldg_buf sql;
    struct ldg_buf filters[4]; /* bound: needle or known ids, tags, metadata, annotations */
    struct ldg_pg_args args;
};

static void query_init(struct query *q)
{
    q->args = (struct ldg_pg_args){ 0 };
    ldg_buf_init(&q->sql, SQL_MAX_BYTES);
    for (size_t i = 0; i < sizeof(q->filters) / sizeof(q->filters[0]); i++)
        ldg_buf_init(&q->filters[i], FILTER_MAX_BYTES);
}

static void query_fini(struct query *q)
{
    ldg_buf_fini(&q->sql);
    for (size_t i = 0; i < sizeof(q->filters) / sizeof(q->filters[0]); i++)
        ldg_buf_fini(&q->filters[i]);
}

static ledger_rc query_rc(const struct query *q, ledger_error *err)
{
    ledger_rc rc = q->sql.rc;
    for (size_t i = 0; rc == LEDGER_OK && i < sizeof(q->filters) / sizeof(q->filters[0]); i++)
        rc = q->filters[i].rc;
    if (rc == LEDGER_ERR_NOMEM)
        return ldg_fail_nomem(err);
    return rc == LEDGER_OK ? rc : ldg_fail(err, rc, "the filters of this read are too large");
}

/* Adds `text`, then the number of the parameter that was bound last, then `rest`. */
static void put_bound(struct query *q, const char *text, const char *rest)
{
    ldg_buf_printf(&q->sql, "%s$%d%s", text, q->args.count, rest);
}

/* Orders of a page. Of one stream, or origin, the order names that, too, and the conditions compare
 * both (below), so that no plan goes along the primary key through the entries of all others, or
 * takes what lies behind for a few rows that are soon sorted. */
enum order { BY_ID, BY_ID_DOWN, BY_STREAM, BY_STREAM_DOWN, BY_SOURCE_POS, BY_SOURCE_ID };
static const char *const order_texts[] = {
    [BY_ID] = "id",
    [BY_ID_DOWN] = "id DESC",
    [BY_STREAM] = "stream, id",
    [BY_STREAM_DOWN] = "stream DESC, id DESC",
    [BY_SOURCE_POS] = "origin, source_pos",
    [BY_SOURCE_ID] = ("origin, " LDG_PG_TEXT_OF("")),
};

/* The conditions of the rows are put between these two. */
static void page_begin(struct query *q, enum order order)
{
    ldg_buf_printf(&q->sql,
                   "SELECT {e} FROM (SELECT *, sum(ldg_bytes) OVER (ORDER BY %s "
                   "ROWS UNBOUNDED PRECEDING) AS ldg_total FROM (SELECT *, " ROW_BYTES
                   " AS ldg_bytes FROM \"{t}\" WHERE true",
                   order_texts[order]);
}

/* The first row comes whatever its size. */
static void page_end(struct query *q, enum order order, size_t limit, size_t max_bytes)
{
    ldg_pg_arg_int64(&q->args, limit < INT64_MAX ? (int64_t)limit : INT64_MAX);
    ldg_buf_printf(&q->sql, " ORDER BY %s LIMIT $%d) AS w) AS e ", order_texts[order],
                   q->args.count);
    ldg_pg_arg_int64(&q->args, max_bytes < INT64_MAX ? (int64_t)max_bytes : INT64_MAX);
    ldg_buf_printf(&q->sql, "WHERE e.ldg_total <= $%d OR e.ldg_total = e.ldg_bytes ORDER BY %s",
                   q->args.count, order_texts[order]);
}

static ledger_rc query_run(struct ldg_pg *pg, struct query *q, const char *doing,
                           PGresult **ret_result, ledger_error *err)
{
    ledger_rc rc = query_rc(q, err);

    if (rc == LEDGER_OK)
        rc = ldg_pg_run_text(pg, doing, q->sql.data, &q->args, ret_result, err);
    return rc;
}

/* --- filters --------------------------------------------------------------------------------- */

/* Bytes of any kind become characters one by one, so that no payload can fail, and the C locale
 * folds only ASCII. PostgreSQL has no text with a NUL: where there is one both sides are escaped.
 * $%d: what is looked for, in lower case, as bytes. */
#define CONTAINS                                                                                   \
    " AND CASE WHEN position(decode('00', 'hex') IN payload) = 0 "                                 \
    "THEN strpos(lower(convert_from(payload, 'LATIN1') COLLATE \"C\"), "                           \
    "(SELECT convert_from($%d, 'LATIN1'))) > 0 "                                                   \
    "ELSE strpos(lower(encode(payload, 'escape') COLLATE \"C\"), "                                 \
    "(SELECT encode($%d, 'escape'))) > 0 END"

static void put_search(struct query *q, const char *search, struct ldg_buf *needle)
{
    const size_t size = strlen(search);

    if (size == 0)
        return;
    ldg_buf_append(needle, search, size);
    for (size_t i = 0; needle->rc == LEDGER_OK && i < size; i++) {
        if (needle->data[i] >= 'A' && needle->data[i] <= 'Z')
            needle->data[i] = (char)(needle->data[i] + 'a' - 'A');
    }
    if (needle->rc != LEDGER_OK)
        return;
    ldg_pg_arg_bytes(&q->args, needle->data, size);
    ldg_buf_printf(&q->sql, CONTAINS, q->args.count, q->args.count);
}

static void put_words(struct query *q, const char *search)
{
    ldg_pg_arg_text(&q->args, search);
    put_bound(q, " AND " LDG_PG_FULL_TEXT " @@ plainto_tsquery('simple', ", ")");
}

static void put_tags(struct query *q, const ledger_read_options *o, struct ldg_buf *json)
{
    ledger_list tag = { .items = &o->tag, .count = o->tag && *o->tag };

    /* One containment each: of a list of two, one could be an index's and the other not. */
    if (tag.count) {
        ldg_json_put_list(json, tag);
        ldg_buf_putc(json, '\0');
    }
    const size_t second = json->size;
    if (o->all_tags.count)
        ldg_json_put_list(json, o->all_tags);
    if (json->rc != LEDGER_OK)
        return;
    if (tag.count) {
        ldg_pg_arg_json(&q->args, json->data, second - 1);
        put_bound(q, " AND tags @> ", "");
    }
    if (o->all_tags.count) {
        ldg_pg_arg_json(&q->args, json->data + second, json->size - second);
        put_bound(q, " AND tags @> ", "");
    }
}

/* One object per pair, since of a key that is asked for twice an object keeps the last. */
static ledger_rc put_map(struct query *q, const char *condition, ledger_map map,
                         struct ldg_buf *array, ledger_error *err)
{
    struct ldg_buf json;
    ledger_rc rc = LEDGER_OK;

    if (!map.count)
        return LEDGER_OK;
    ldg_buf_init(&json, FILTER_MAX_BYTES);
    ldg_pg_array_begin(array, LDG_PG_JSONB);
    for (size_t i = 0; rc == LEDGER_OK && i < map.count; i++) {
        ldg_buf_reset(&json);
        rc = ldg_json_put_map(&json, (ledger_map){ .items = &map.items[i], .count = 1 });
        if (rc == LEDGER_OK)
            ldg_pg_array_jsonb(array, json.data, json.size);
    }
    ldg_pg_array_end(array, map.count);
    ldg_buf_fini(&json);
    if (rc == LEDGER_ERR_NOMEM)
        return ldg_fail_nomem(err);
    if (rc != LEDGER_OK)
        return ldg_fail(err, rc, "the filters of this read are too large");
    ldg_pg_arg_array(&q->args, LDG_PG_JSONB_ARRAY, array);
    put_bound(q, condition, ")");
    return LEDGER_OK;
}

/* Ids above `low` and up to `high`. */
static void put_range(struct query *q, const char *stream, int64_t low, int64_t high)
{
    if (stream) {
        ldg_pg_arg_text(&q->args, stream);
        const int stream_arg = q->args.count;
        ldg_pg_arg_int64(&q->args, low);
        ldg_pg_arg_int64(&q->args, high);
        ldg_buf_printf(&q->sql, " AND (stream, id) > ($%d, $%d) AND (stream, id) <= ($%d, $%d)",
                       stream_arg, stream_arg + 1, stream_arg, stream_arg + 2);
        return;
    }
    if (low != INT64_MIN) {
        ldg_pg_arg_int64(&q->args, low);
        put_bound(q, " AND id > ", "");
    }
    if (high != INT64_MAX) {
        ldg_pg_arg_int64(&q->args, high);
        put_bound(q, " AND id <= ", "");
    }
}

static ledger_rc put_filters(struct query *q, const char *search, const ledger_read_options *o,
                             ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (o->order_key && *o->order_key) {
        ldg_pg_arg_text(&q->args, o->order_key);
        put_bound(q, " AND order_key = ", "");
    }
    put_tags(q, o, &q->filters[1]);
    rc = put_map(q, " AND metadata @> ALL (", o->metadata, &q->filters[2], err);
    if (rc == LEDGER_OK)
        rc = put_map(q, " AND annotations @> ALL (", o->annotations, &q->filters[3], err);
    if (rc == LEDGER_OK && search && o->full_text)
        put_words(q, search);
    else if (rc == LEDGER_OK && search)
        put_search(q, search, &q->filters[0]);
    return rc;
}

/* --- many rows ------------------------------------------------------------------------------- */

/* known: only what lies between these ids. */
struct known {
    const int64_t *ids;
    size_t count;
};

static ledger_rc put_gaps(struct query *q, const struct known *known, struct ldg_buf *array,
                          ledger_error *err)
{
    ldg_pg_array_begin(array, LDG_PG_INT8);
    for (size_t i = 0; i < known->count; i++)
        ldg_pg_array_int64(array, known->ids[i]);
    ldg_pg_array_end(array, known->count);
    if (array->rc != LEDGER_OK)
        return ldg_fail_nomem(err);
    ldg_pg_arg_array(&q->args, LDG_PG_INT8_ARRAY, array);
    put_bound(q, " AND NOT EXISTS (SELECT FROM unnest(", ") AS k(id) WHERE k.id = \"{t}\".id)");
    return LEDGER_OK;
}

static ledger_rc put_conditions(struct query *q, const char *stream, const char *search,
                                const ledger_read_options *o, const struct known *known,
                                ledger_error *err)
{
    int64_t low = INT64_MIN, high = INT64_MAX;
    ledger_rc rc;

    if (o->has_after && o->descending)
        high = o->after.number - (o->after.number > INT64_MIN);
    else if (o->has_after)
        low = o->after.number;
    if (known)
        high = known->ids[known->count - 1];
    put_range(q, stream, low, high);
    rc = put_filters(q, search, o, err);
    if (rc == LEDGER_OK && known)
        rc = put_gaps(q, known, &q->filters[0], err);
    return rc;
}

static ledger_rc read_page(struct ldg_pg *pg, const char *stream, const char *search,
                           const ledger_read_options *o, const struct known *known,
                           struct ldg_arena *arena, ledger_entry **ret_entries, size_t *ret_count,
                           ledger_error *err)
{
    const enum order order =
        (stream ? BY_STREAM : BY_ID) + (o->descending ? BY_ID_DOWN - BY_ID : 0);
    const size_t limit = o->limit ? o->limit : LEDGER_READ_LIMIT_DEFAULT;
    const size_t max_bytes = o->max_bytes ? o->max_bytes : READ_MAX_BYTES;
    ledger_entry *entries = NULL;
    size_t count = 0;
    PGresult *result = NULL;
    struct query q;

    query_init(&q);
    ledger_rc rc = ldg_pg_enter(pg, err);
    if (rc == LEDGER_OK && search && o->full_text && !pg->has_full_text)
        rc = ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                      "table \"%s\" has no index of full text; make it with `ledgerctl store init "
                      "--full-text`",
                      pg->table);
    if (rc != LEDGER_OK)
        goto out;
    page_begin(&q, order);
    rc = put_conditions(&q, stream, search, o, known, err);
    if (rc != LEDGER_OK)
        goto out;
    page_end(&q, order, limit, max_bytes);
    rc = query_run(pg, &q, search ? "searching entries" : "reading entries", &result, err);
    if (rc != LEDGER_OK)
        goto out;
    count = (size_t)PQntuples(result);
    entries = ldg_arena_calloc(arena, count, sizeof(*entries));
    if (!entries) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    const struct target target = { .pg = pg, .result = result, .arena = arena };
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++)
        rc = fill_entry(&target, (int)i, &entries[i], err);
out:
    PQclear(result);
    query_fini(&q);
    if (rc == LEDGER_OK) {
        *ret_entries = entries;
        *ret_count = count;
    }
    return rc;
}

ledger_rc ldg_pg_read(void *ctx, const char *stream, const char *search,
                      const ledger_read_options *options, struct ldg_arena *arena,
                      ledger_entry **ret_entries, size_t *ret_count, ledger_error *err)
{
    const ledger_read_options none = { 0 };

    return read_page(ctx, stream, search, options ? options : &none, NULL, arena, ret_entries,
                     ret_count, err);
}

ledger_rc ldg_pg_read_gaps(void *ctx, const char *stream, const ledger_read_options *options,
                           const int64_t *known, size_t known_count, struct ldg_arena *arena,
                           ledger_entry **ret_entries, size_t *ret_count, ledger_error *err)
{
    const struct known ids = { known, known_count };

    return read_page(ctx, stream, NULL, options, &ids, arena, ret_entries, ret_count, err);
}

/* --- history --------------------------------------------------------------------------------- */

/* Entries of a store, by their ids there: of one kind. */
struct history {
    struct ldg_pg *pg;
    int origin;
    enum order order;
    struct ldg_arena *arena;
    struct ldg_history_row *rows;
    size_t count;
};

static enum order history_order(int origin, enum ldg_pg_kind kind)
{
    if (origin <= 0)
        return BY_ID;
    return kind == LDG_PG_TEXTS ? BY_SOURCE_ID : BY_SOURCE_POS;
}

/* Did Go's bridge write rows of texts, too? Each has a source_id, whoever wrote it. */
static ledger_rc is_adopted(const struct history *h, bool *ret_adopted, ledger_error *err)
{
    static const char get[] = "SELECT adopted::int::bigint FROM \"{t}_origins\" WHERE id = $1";
    struct ldg_pg_args args = { 0 };
    int64_t adopted = 0;
    bool found;
    ledger_rc rc;

    ldg_pg_arg_int32(&args, h->origin);
    rc = ldg_pg_run_int64(h->pg, "looking for an origin", get, &args, &found, &adopted, err);
    *ret_adopted = adopted != 0;
    return rc;
}

static ledger_rc history_take(struct history *h, const PGresult *result, ledger_error *err)
{
    const struct target target = { .pg = h->pg, .result = result, .arena = h->arena, .raw = true };
    const size_t count = (size_t)PQntuples(result);
    const bool texts = h->order == BY_SOURCE_ID;
    struct ldg_history_row *rows = ldg_arena_calloc(h->arena, count, sizeof(*rows));
    ledger_entry *entries = ldg_arena_calloc(h->arena, count, sizeof(*entries));
    bool adopted = true;
    ledger_rc rc = rows && entries ? LEDGER_OK : ldg_fail_nomem(err);

    if (rc == LEDGER_OK && texts && count > 0)
        rc = is_adopted(h, &adopted, err);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        rc = fill_entry(&target, (int)i, &entries[i], err);
        rows[i] = (struct ldg_history_row){
            .key = texts ? (ledger_id){ .text = entries[i].source_id } : entries[i].id,
            .has_source_id = adopted && PQgetlength(result, (int)i, LDG_PG_E_SOURCE_ID) > 0,
            .entry = &entries[i],
        };
        if (h->order == BY_SOURCE_POS)
            rows[i].key = ldg_id_of(ldg_pg_get_int64(result, (int)i, LDG_PG_E_SOURCE_POS));
    }
    if (rc == LEDGER_OK) {
        h->rows = rows;
        h->count = count;
    }
    return rc;
}

/* The conditions of the keys are there. A log may carry what the Go bridge brought, so for origin 0
 * that is of this table. */
static ledger_rc history_read(struct history *h, struct query *q, size_t limit, size_t max_bytes,
                              ledger_error *err)
{
    const struct ldg_pg *pg = h->pg;
    PGresult *result = NULL;
    ledger_rc rc;

    if (h->origin == LDG_ORIGIN_UNCLAIMED)
        ldg_buf_puts(&q->sql, pg->has_source_id ? " AND source_id <> ''" : " AND false");
    if (h->origin <= 0 && pg->has_ours) {
        /* Two conditions would promise one row of a table that was never analyzed, and each page
         * be looked for in all of it. */
        ldg_buf_puts(&q->sql, " AND CASE WHEN origin = 0 THEN source_pos IS NULL ELSE false END");
    }
    page_end(q, h->order, limit, max_bytes ? max_bytes : SIZE_MAX);
    rc = query_run(h->pg, q, "reading the history", &result, err);
    if (rc == LEDGER_OK)
        rc = history_take(h, result, err);
    PQclear(result);
    return rc;
}

static ledger_rc history_behind(struct history *h, ledger_id after, size_t limit, size_t max_bytes,
                                ledger_error *err)
{
    struct query q;
    ledger_rc rc;

    query_init(&q);
    h->order = history_order(h->origin, ldg_pg_kind_of(after));
    page_begin(&q, h->order);
    ldg_pg_arg_key(&q.args, after);
    if (h->origin > 0)
        ldg_pg_arg_int32(&q.args, h->origin);
    switch (h->order) {
    case BY_SOURCE_POS:
        ldg_buf_puts(&q.sql, " AND source_pos IS NOT NULL AND (origin, source_pos) > ($2, $1)"
                             " AND (origin, source_pos) <= ($2, 9223372036854775807)");
        break;
    case BY_SOURCE_ID:
        ldg_buf_puts(&q.sql, " AND origin = $2 AND " LDG_PG_OF_TEXTS(""));
        ldg_buf_puts(&q.sql, " AND " LDG_PG_TEXT_OF("") " > $1");
        break;
    default:
        ldg_buf_puts(&q.sql, " AND id > $1");
        break;
    }
    rc = history_read(h, &q, limit, max_bytes, err);
    query_fini(&q);
    return rc;
}

ledger_rc ldg_pg_history(void *ctx, int origin, ledger_id after, size_t limit, size_t max_bytes,
                         struct ldg_arena *arena, struct ldg_history_row **ret_rows,
                         size_t *ret_count, ledger_error *err)
{
    struct history h = { .pg = ctx, .origin = origin, .arena = arena };
    ledger_rc rc = ldg_pg_enter(ctx, err);

    if (rc == LEDGER_OK)
        rc = history_behind(&h, after, limit, max_bytes, err);
    /* Texts come behind all numbers. */
    if (rc == LEDGER_OK && h.count == 0 && h.order == BY_SOURCE_POS && h.pg->has_text_keys)
        rc = history_behind(&h, (ledger_id){ .text = "" }, limit, max_bytes, err);
    if (rc == LEDGER_OK) {
        *ret_rows = h.rows;
        *ret_count = h.count;
    }
    return rc;
}

/* Of keys [first, end) those of one kind, which stand together. */
static ledger_rc history_among(struct history *h, const ledger_id *keys, size_t count,
                               enum ldg_pg_kind kind, size_t max_bytes, ledger_error *err)
{
    struct query q;
    struct ldg_buf *array = &q.filters[0];
    ledger_rc rc;

    query_init(&q);
    h->order = history_order(h->origin, kind);
    page_begin(&q, h->order);
    ldg_pg_array_keys_begin(array, kind);
    for (size_t i = 0; i < count; i++)
        ldg_pg_array_key(array, keys[i]);
    ldg_pg_array_end(array, count);
    ldg_pg_arg_keys(&q.args, kind, array);
    if (h->origin > 0) {
        ldg_pg_arg_int32(&q.args, h->origin);
        ldg_buf_puts(&q.sql, " AND origin = $2");
    }
    switch (h->order) {
    case BY_SOURCE_POS:
        ldg_buf_puts(&q.sql, " AND source_pos = ANY ($1)");
        break;
    case BY_SOURCE_ID:
        ldg_buf_puts(&q.sql, " AND " LDG_PG_OF_TEXTS("") " AND " LDG_PG_TEXT_OF("") " = ANY ($1)");
        break;
    default:
        ldg_buf_puts(&q.sql, " AND id = ANY ($1)");
        break;
    }
    rc = history_read(h, &q, SIZE_MAX, max_bytes, err);
    query_fini(&q);
    return rc;
}

ledger_rc ldg_pg_history_of(void *ctx, int origin, const ledger_id *keys, size_t count,
                            size_t max_bytes, struct ldg_arena *arena,
                            struct ldg_history_row **ret_rows, size_t *ret_count, ledger_error *err)
{
    struct history h = { .pg = ctx, .origin = origin, .arena = arena };
    size_t numbers = 0;
    ledger_rc rc = ldg_pg_enter(ctx, err);

    while (numbers < count && keys[numbers].text == NULL)
        numbers++;
    if (rc == LEDGER_OK && numbers > 0)
        rc = history_among(&h, keys, numbers, LDG_PG_NUMBERS, max_bytes, err);
    if (rc == LEDGER_OK && h.count == 0 && numbers < count && origin > 0 && h.pg->has_text_keys)
        rc = history_among(&h, keys + numbers, count - numbers, LDG_PG_TEXTS, max_bytes, err);
    if (rc == LEDGER_OK) {
        *ret_rows = h.rows;
        *ret_count = h.count;
    }
    return rc;
}
