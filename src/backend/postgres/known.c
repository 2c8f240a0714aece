/* What the sink has of the things that a batch names: asked for once, with all of them.
 *
 * Hides the look-ups of the sink library. Invariant: what is compared with an append is the row as
 * this transaction sees it; payloads come in pieces that fit into memory. */
#include "backend/postgres/apply.h"

#include <string.h>

/* As much as is looked at in one round trip. */
#define LOOK_MAX_ITEMS 10000
#define LOOK_MAX_BYTES ((size_t)4 * 1024 * 1024)

static const char looking[] = "looking for entries";

/* --- entries --------------------------------------------------------------------------------- */

enum {
    ENTRY_ORIGIN,
    ENTRY_KEY,
    ENTRY_ID,
    ENTRY_STREAM,
    ENTRY_DEDUP_KEY,
    ENTRY_TAGS_POS,
    ENTRY_ANNOTATIONS_POS,
    ENTRY_MERGEABLE,
    ENTRY_WHOLE, /* the rest is there: an append is compared with it */
    ENTRY_PAYLOAD,
    ENTRY_ORDER_KEY,
    ENTRY_SCHEMA_VERSION,
    ENTRY_METADATA,
    ENTRY_BY_GO,
    ENTRY_CREATED_AT,
};

/* clang-format off */
#define LOOK(whole, source_id, from)                                                               \
    "SELECT e.origin, coalesce(e.source_pos, e.id), e.id, e.stream, e.dedup_key, "                 \
        "coalesce(e.tags_pos, e.mutation_pos, 0), "                                                \
        "coalesce(e.annotations_pos, e.mutation_pos, 0), " LDG_PG_MERGEABLE("e") ", " whole ", "   \
        "CASE WHEN " whole " THEN e.payload END, e.order_key, e.schema_version, "                  \
        "CASE WHEN " whole " THEN e.metadata END, " source_id " <> '', e.created_at FROM " from

/* $1 origins, $2 ids there, $3 is it to be compared? */
#define BY_ORIGIN                                                                                  \
    "unnest($1::int4[], $2::int8[], $3::bool[]) AS x(origin, pos, whole) "                         \
    "JOIN \"{t}\" AS e ON e.origin = x.origin AND e.source_pos = x.pos WHERE x.origin <> 0"
#define BY_ID                                                                                      \
    "unnest($1::int4[], $2::int8[], $3::bool[]) AS x(origin, pos, whole) "                         \
    "JOIN \"{t}\" AS e ON e.id = x.pos WHERE x.origin = 0 AND e.origin = 0"
/* $1 streams, $2 dedup keys */
#define BY_DEDUP_KEY                                                                               \
    "unnest($1::text[], $2::text[]) AS x(stream, key) "                                            \
    "JOIN \"{t}\" AS e ON e.stream = x.stream AND e.dedup_key = x.key AND e.dedup_key <> ''"
/* clang-format on */

/* [1]: of a table that lacks the column source_id */
static const char *const by_origin[2] = { LOOK("x.whole", "e.source_id", BY_ORIGIN),
                                          LOOK("x.whole", "''::text", BY_ORIGIN) };
static const char *const by_id[2] = { LOOK("x.whole", "e.source_id", BY_ID),
                                      LOOK("x.whole", "''::text", BY_ID) };
static const char by_dedup_key[] = LOOK("false", "''::text", BY_DEDUP_KEY);

static ledger_rc take_entry(struct ldg_pg_batch *b, const PGresult *result, int row,
                            ledger_error *err)
{
    struct ldg_stored stored = {
        .stream = ldg_pg_get_bytes(result, row, ENTRY_STREAM),
        .payload = ldg_pg_get_bytes(result, row, ENTRY_PAYLOAD),
        .order_key = ldg_pg_get_bytes(result, row, ENTRY_ORDER_KEY),
        .dedup_key = ldg_pg_get_bytes(result, row, ENTRY_DEDUP_KEY),
        .schema_version = ldg_pg_get_int64(result, row, ENTRY_SCHEMA_VERSION),
        .created_at_us = ldg_pg_get_time(result, row, ENTRY_CREATED_AT),
        .by_go = ldg_pg_get_bool(result, row, ENTRY_BY_GO),
    };
    struct ldg_sink_found found = {
        .origin = (int)ldg_pg_get_int64(result, row, ENTRY_ORIGIN),
        .key = ldg_id_of(ldg_pg_get_int64(result, row, ENTRY_KEY)),
        .id = ldg_pg_get_int64(result, row, ENTRY_ID),
        .stream = ldg_pg_get_text(result, row, ENTRY_STREAM),
        .dedup_key = ldg_pg_get_text(result, row, ENTRY_DEDUP_KEY),
        .tags_pos = ldg_pg_get_int64(result, row, ENTRY_TAGS_POS),
        .annotations_pos = ldg_pg_get_int64(result, row, ENTRY_ANNOTATIONS_POS),
        .unmergeable = !ldg_pg_get_bool(result, row, ENTRY_MERGEABLE),
    };
    ledger_rc rc = LEDGER_OK;

    if (ldg_pg_get_bool(result, row, ENTRY_WHOLE)) {
        found.stored = &stored;
        rc = ldg_pg_get_map(result, row, ENTRY_METADATA, b->s.arena, &stored.metadata, err);
    }
    if (rc == LEDGER_ERR_DATA) { /* what is no map is not what was carried */
        found.differs = "metadata";
        rc = LEDGER_OK;
    }
    return rc == LEDGER_OK ? ldg_sink_found_entry(&b->s, &found, err) : rc;
}

static ledger_rc receive_entries(struct ldg_pg_batch *b, ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_pipe_receive(b->pg, looking, &result, err);

    for (int row = 0; rc == LEDGER_OK && row < PQntuples(result); row++)
        rc = take_entry(b, result, row, err);
    PQclear(result);
    return rc;
}

/* Items [first, *ret_end): as many as one answer may hold. */
static size_t put_items(struct ldg_pg_batch *b, uint32_t first, bool *ret_local)
{
    const struct ldg_sink_plan *p = b->s.plan;
    struct ldg_buf *a = b->sink->arrays;
    uint32_t end = first;
    size_t bytes = 0;

    *ret_local = false;
    ldg_pg_array_begin(&a[0], LDG_PG_INT4);
    ldg_pg_array_begin(&a[1], LDG_PG_INT8);
    ldg_pg_array_begin(&a[2], LDG_PG_BOOL);
    for (; end < b->named_count && end - first < LOOK_MAX_ITEMS && bytes < LOOK_MAX_BYTES; end++) {
        const struct ldg_sink_item *item = &p->items[end];

        *ret_local = *ret_local || item->origin == 0;
        ldg_pg_array_int32(&a[0], item->origin);
        ldg_pg_array_int64(&a[1], item->key.number);
        ldg_pg_array_bool(&a[2], item->append != NULL);
        if (item->append != NULL)
            bytes += item->append->entry->payload.size;
    }
    for (int i = 0; i < 3; i++)
        ldg_pg_array_end(&a[i], end - first);
    return end;
}

static ledger_rc look_for_items(struct ldg_pg_batch *b, uint32_t first, uint32_t *ret_end,
                                ledger_error *err)
{
    const int old = !b->pg->has_source_id;
    struct ldg_buf *a = b->sink->arrays;
    struct ldg_pg_args args = { 0 };
    ledger_error ignored;
    bool local;
    ledger_rc rc = ldg_pg_pipe_begin(b->pg, err);

    if (rc != LEDGER_OK)
        return rc;
    *ret_end = put_items(b, first, &local);
    ldg_pg_arg_array(&args, LDG_PG_INT4_ARRAY, &a[0]);
    ldg_pg_arg_array(&args, LDG_PG_INT8_ARRAY, &a[1]);
    ldg_pg_arg_array(&args, LDG_PG_BOOL_ARRAY, &a[2]);
    rc = ldg_pg_pipe_send(b->pg, looking, by_origin[old], &args, err);
    if (rc == LEDGER_OK && local)
        rc = ldg_pg_pipe_send(b->pg, looking, by_id[old], &args, err);
    for (int i = 0; rc == LEDGER_OK && i < 1 + local; i++)
        rc = receive_entries(b, err);
    if (ldg_pg_pipe_end(b->pg, rc == LEDGER_OK ? err : &ignored) != LEDGER_OK && rc == LEDGER_OK)
        rc = err->code;
    return rc;
}

/* --- dedup keys, marks, Go's ids ------------------------------------------------------------- */

/* A statement whose parameters are the first two arrays, of the same length. */
static ledger_rc run_pairs(struct ldg_pg_batch *b, const char *doing, const char *template,
                           Oid type0, Oid type1, size_t count, PGresult **ret_result,
                           ledger_error *err)
{
    struct ldg_buf *a = b->sink->arrays;
    struct ldg_pg_args args = { 0 };

    ldg_pg_array_end(&a[0], count);
    ldg_pg_array_end(&a[1], count);
    ldg_pg_arg_array(&args, type0, &a[0]);
    ldg_pg_arg_array(&args, type1, &a[1]);
    return ldg_pg_run(b->pg, LDG_PG_KEEP, doing, template, &args, ret_result, err);
}

static ledger_rc look_for_keys(struct ldg_pg_batch *b, ledger_error *err)
{
    const struct ldg_sink_plan *p = b->s.plan;
    struct ldg_buf *a = b->sink->arrays;
    PGresult *result = NULL;
    size_t count = 0;
    ledger_rc rc;

    ldg_pg_array_begin(&a[0], LDG_PG_TEXT);
    ldg_pg_array_begin(&a[1], LDG_PG_TEXT);
    for (uint32_t i = 0; i < b->named_count; i++) {
        const struct ldg_op *op = p->items[i].append;

        if (op == NULL || op->entry->dedup_key[0] == '\0')
            continue;
        ldg_pg_array_text(&a[0], op->stream);
        ldg_pg_array_text(&a[1], op->entry->dedup_key);
        count++;
    }
    if (count == 0)
        return LEDGER_OK;
    rc = run_pairs(b, looking, by_dedup_key, LDG_PG_TEXT_ARRAY, LDG_PG_TEXT_ARRAY, count, &result,
                   err);
    for (int row = 0; rc == LEDGER_OK && row < PQntuples(result); row++)
        rc = take_entry(b, result, row, err);
    PQclear(result);
    return rc;
}

static bool is_remote(const struct ldg_op *op)
{
    return (op->kind == LDG_OP_SET_TAGS || op->kind == LDG_OP_SET_ANNOTATIONS) &&
           op->mutation_origin != 0 && !ldg_sink_is_guarded(op);
}

static ledger_rc look_for_marks(struct ldg_pg_batch *b, ledger_error *err)
{
    static const char find[] =
        "SELECT f.origin, f.entry, f.id, f.mutation_origin, f.kind, f.position "
        "FROM unnest($1::int4[], $2::int8[]) AS x(origin, entry) "
        "JOIN \"{t}_foreign\" AS f ON f.origin = x.origin AND f.entry = x.entry WHERE f.kind < 3";
    struct ldg_buf *a = b->sink->arrays;
    PGresult *result = NULL;
    size_t count = 0;
    ledger_rc rc;

    ldg_pg_array_begin(&a[0], LDG_PG_INT4);
    ldg_pg_array_begin(&a[1], LDG_PG_INT8);
    for (size_t i = b->s.first; i < b->s.end; i++) {
        if (!is_remote(&b->s.ops[i]))
            continue;
        ldg_pg_array_int32(&a[0], b->s.ops[i].origin);
        ldg_pg_array_int64(&a[1], b->s.ops[i].key.number);
        count++;
    }
    if (count == 0)
        return LEDGER_OK;
    rc = run_pairs(b, "looking for earlier changes", find, LDG_PG_INT4_ARRAY, LDG_PG_INT8_ARRAY,
                   count, &result, err);
    for (int row = 0; rc == LEDGER_OK && row < PQntuples(result); row++) {
        const struct ldg_sink_mark mark = {
            .origin = (int)ldg_pg_get_int64(result, row, 3),
            .kind =
                ldg_pg_get_int64(result, row, 4) == 1 ? LDG_OP_SET_TAGS : LDG_OP_SET_ANNOTATIONS,
            .position = ldg_pg_get_int64(result, row, 5),
        };

        rc = ldg_sink_found_mark(&b->s, (int)ldg_pg_get_int64(result, row, 0),
                                 ldg_id_of(ldg_pg_get_int64(result, row, 1)),
                                 ldg_pg_get_int64(result, row, 2), &mark, err);
    }
    PQclear(result);
    return rc;
}

/* Which entries have a source_id that another row has already, in Go's unique index? If the Go
 * bridge has carried that row, it is this very entry: FOREIGN_BRIDGE. Else its number is this one's
 * by chance, and the entry goes without. */
static ledger_rc look_for_source_ids(struct ldg_pg_batch *b, ledger_error *err)
{
    static const char find[] =
        "SELECT x.n, e.stream, e.payload, e.origin = 0 AND e.source_pos IS NULL "
        "FROM unnest($1::text[], $2::int4[]) AS x(source_id, n) "
        "JOIN \"{t}\" AS e ON e.source_id = x.source_id AND e.source_id <> ''";
    struct ldg_sink_plan *p = b->s.plan;
    struct ldg_buf *a = b->sink->arrays;
    PGresult *result = NULL;
    size_t count = 0;
    ledger_rc rc;

    ldg_pg_array_begin(&a[0], LDG_PG_TEXT);
    ldg_pg_array_begin(&a[1], LDG_PG_INT4);
    for (uint32_t i = 0; i < b->named_count; i++) {
        const struct ldg_sink_item *item = &p->items[i];
        char source_id[LEDGER_ID_TEXT_MAX];

        if (item->append == NULL || item->origin != b->go_origin || item->state == LDG_SINK_STORED)
            continue;
        ldg_pg_array_text(&a[0], ldg_id_text(item->key, source_id));
        ldg_pg_array_int32(&a[1], (int32_t)i);
        count++;
    }
    if (count == 0)
        return LEDGER_OK;
    rc = run_pairs(b, looking, find, LDG_PG_TEXT_ARRAY, LDG_PG_INT4_ARRAY, count, &result, err);
    for (int row = 0; rc == LEDGER_OK && row < PQntuples(result); row++) {
        struct ldg_sink_item *item = &p->items[ldg_pg_get_int64(result, row, 0)];

        item->without_source_id = true;
        if (ldg_pg_get_bool(result, row, 3) &&
            ldg_op_is_of_go(item->append, ldg_pg_get_bytes(result, row, 1),
                            ldg_pg_get_bytes(result, row, 2)))
            rc = ldg_op_fail_foreign(item->append, b->pg->table, err);
    }
    PQclear(result);
    return rc;
}

ledger_rc ldg_pg_look_up(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    struct ldg_pg_batch *b = ctx;
    uint32_t at = 0;
    ledger_rc rc = LEDGER_OK;

    b->named_count = s->plan->item_count;
    while (rc == LEDGER_OK && at < b->named_count)
        rc = look_for_items(b, at, &at, err);
    if (rc == LEDGER_OK)
        rc = look_for_keys(b, err);
    if (rc == LEDGER_OK && s->marks_any)
        rc = look_for_marks(b, err);
    if (rc == LEDGER_OK && b->go_origin != 0)
        rc = look_for_source_ids(b, err);
    return rc;
}
