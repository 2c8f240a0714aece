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
    ENTRY_TEXT, /* the key, where it is one */
};

/* clang-format off */
#define LOOK(whole, by_go, text, from)                                                             \
    "SELECT e.origin, coalesce(e.source_pos, e.id), e.id, e.stream, e.dedup_key, "                 \
        "coalesce(e.tags_pos, e.mutation_pos, 0), "                                                \
        "coalesce(e.annotations_pos, e.mutation_pos, 0), " LDG_PG_MERGEABLE("e") ", " whole ", "   \
        "CASE WHEN " whole " THEN e.payload END, e.order_key, e.schema_version, "                  \
        "CASE WHEN " whole " THEN e.metadata END, " by_go ", e.created_at, " text " FROM " from

/* $1 origins, $2 ids there, $3 is it to be compared? */
#define NAMED(type)                                                                                \
    "unnest($1::int4[], $2::" type "[], $3::bool[]) AS x(origin, key, whole) JOIN \"{t}\" AS e ON "
#define BY_NUMBER NAMED("int8") LDG_PG_IS_NUMBER " WHERE x.origin <> 0"
#define BY_TEXT NAMED("text") LDG_PG_IS_TEXT
#define BY_ID NAMED("int8") "e.id = x.key WHERE x.origin = 0 AND e.origin = 0"
/* $1 streams, $2 dedup keys */
#define BY_DEDUP_KEY                                                                               \
    "unnest($1::text[], $2::text[]) AS x(stream, key) "                                            \
    "JOIN \"{t}\" AS e ON e.stream = x.stream AND e.dedup_key = x.key AND e.dedup_key <> ''"
/* clang-format on */

#define ANY_TEXT "CASE WHEN " LDG_PG_OF_TEXTS("e.") " THEN e.source_id END"
/* A row of texts has a source_id whoever wrote it. */
#define IS_ADOPTED "EXISTS (SELECT FROM \"{t}_origins\" AS o WHERE o.id = e.origin AND o.adopted)"

static const char by_number[] = LOOK("x.whole", "e.source_id <> ''", "NULL::text", BY_NUMBER);
static const char by_text[] = LOOK("x.whole", IS_ADOPTED, "e.source_id", BY_TEXT);
static const char by_id[] = LOOK("x.whole", "e.source_id <> ''", "NULL::text", BY_ID);
static const char by_dedup_key[] = LOOK("false", "false", ANY_TEXT, BY_DEDUP_KEY);

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
        .key = ldg_pg_get_key(result, row, ENTRY_KEY, ENTRY_TEXT),
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

/* As much as is asked for at once. */
struct page {
    uint32_t end;
    size_t counts[LDG_PG_KINDS];
    bool local;
};

/* Items from `first` on, as many as one answer may hold; of each kind three arrays. */
static void put_items(struct ldg_pg_batch *b, uint32_t first, struct page *page)
{
    const int kinds = b->has_texts ? LDG_PG_KINDS : LDG_PG_NUMBERS + 1;
    const struct ldg_sink_plan *p = b->s.plan;
    struct ldg_buf *arrays = b->sink->arrays;
    uint32_t end = first;
    size_t bytes = 0;

    *page = (struct page){ .local = false };
    for (int kind = 0; kind < kinds; kind++) {
        ldg_pg_array_begin(&arrays[3 * kind], LDG_PG_INT4);
        ldg_pg_array_keys_begin(&arrays[3 * kind + 1], (enum ldg_pg_kind)kind);
        ldg_pg_array_begin(&arrays[3 * kind + 2], LDG_PG_BOOL);
    }
    for (; end < b->named_count && end - first < LOOK_MAX_ITEMS && bytes < LOOK_MAX_BYTES; end++) {
        const struct ldg_sink_item *item = &p->items[end];
        const enum ldg_pg_kind kind = ldg_pg_kind_of(item->key);
        struct ldg_buf *a = &arrays[3 * kind];

        page->counts[kind]++;
        page->local = page->local || item->origin == 0;
        ldg_pg_array_int32(&a[0], item->origin);
        ldg_pg_array_key(&a[1], item->key);
        ldg_pg_array_bool(&a[2], item->append != NULL);
        if (item->append != NULL)
            bytes += item->append->entry->payload.size;
    }
    page->end = end;
    for (int i = 0; i < 3 * kinds; i++)
        ldg_pg_array_end(&arrays[i], page->counts[i / 3]);
}

static ledger_rc send_items(struct ldg_pg_batch *b, const char *template, enum ldg_pg_kind kind,
                            ledger_error *err)
{
    struct ldg_buf *a = &b->sink->arrays[3 * kind];
    struct ldg_pg_args args = { 0 };

    ldg_pg_arg_array(&args, LDG_PG_INT4_ARRAY, &a[0]);
    ldg_pg_arg_keys(&args, kind, &a[1]);
    ldg_pg_arg_array(&args, LDG_PG_BOOL_ARRAY, &a[2]);
    return ldg_pg_pipe_send(b->pg, looking, template, &args, err);
}

static ledger_rc look_for_items(struct ldg_pg_batch *b, uint32_t first, uint32_t *ret_end,
                                ledger_error *err)
{
    struct page page;
    ledger_error ignored;
    ledger_rc rc = ldg_pg_pipe_begin(b->pg, err);

    if (rc != LEDGER_OK)
        return rc;
    put_items(b, first, &page);
    *ret_end = page.end;
    const bool numbers = page.counts[LDG_PG_NUMBERS] > 0, texts = page.counts[LDG_PG_TEXTS] > 0;
    if (numbers)
        rc = send_items(b, by_number, LDG_PG_NUMBERS, err);
    if (rc == LEDGER_OK && page.local)
        rc = send_items(b, by_id, LDG_PG_NUMBERS, err);
    if (rc == LEDGER_OK && texts)
        rc = send_items(b, by_text, LDG_PG_TEXTS, err);
    for (int i = 0; rc == LEDGER_OK && i < numbers + page.local + texts; i++)
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

/* The entries that may have marks; their keys, in the same order. A mark names one that has a text
 * by its id here (ldg_pg_mark_entry()), so that one was looked up before. */
static size_t put_marked(struct ldg_pg_batch *b, ledger_id *keys)
{
    const struct ldg_sink_plan *p = b->s.plan;
    struct ldg_buf *a = b->sink->arrays;
    size_t count = 0;
    bool texts = false;

    ldg_pg_array_begin(&a[0], LDG_PG_INT4);
    ldg_pg_array_begin(&a[1], LDG_PG_INT8);
    for (size_t i = b->s.first; i < b->s.end; i++) {
        const struct ldg_op *op = &b->s.ops[i];

        texts = texts || (ldg_sink_is_foreign(op) && op->key.text != NULL);
        if (!ldg_sink_is_foreign(op) || op->key.text != NULL)
            continue;
        ldg_pg_array_int32(&a[0], op->origin);
        ldg_pg_array_int64(&a[1], op->key.number);
        keys[count++] = op->key;
    }
    for (uint32_t i = 0; texts && i < b->named_count; i++) {
        if (p->items[i].key.text == NULL || p->items[i].state != LDG_SINK_STORED)
            continue;
        ldg_pg_array_int32(&a[0], p->items[i].origin);
        ldg_pg_array_int64(&a[1], ldg_pg_mark_entry(&p->items[i]));
        keys[count++] = p->items[i].key;
    }
    return count;
}

static ledger_rc look_for_marks(struct ldg_pg_batch *b, ledger_error *err)
{
    static const char find[] =
        "SELECT x.n, f.origin, f.id, f.mutation_origin, f.kind, f.position "
        "FROM unnest($1::int4[], $2::int8[]) WITH ORDINALITY AS x(origin, entry, n) "
        "JOIN \"{t}_foreign\" AS f ON f.origin = x.origin AND f.entry = x.entry WHERE f.kind < 3";
    ledger_id *keys = ldg_arena_calloc(b->s.arena, b->s.end - b->s.first, sizeof(*keys));
    PGresult *result = NULL;
    size_t count;
    ledger_rc rc;

    if (keys == NULL)
        return ldg_fail_nomem(err);
    count = put_marked(b, keys);
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

        rc = ldg_sink_found_mark(&b->s, (int)ldg_pg_get_int64(result, row, 1),
                                 keys[ldg_pg_get_int64(result, row, 0) - 1],
                                 ldg_pg_get_int64(result, row, 2), &mark, err);
    }
    PQclear(result);
    return rc;
}

/* An entry that goes into Go's unique index on source_id, if it is not here. */
static bool meets_go(const struct ldg_pg_batch *b, const struct ldg_sink_item *item)
{
    return item->append != NULL && item->state != LDG_SINK_STORED &&
           (item->key.text != NULL ? b->go_index[0] != '\0' : item->origin == b->go_origin);
}

/* A row that nobody has claimed: from its third column on what an entry is compared by. */
static ledger_rc compare_with_go(struct ldg_pg_batch *b, const PGresult *result, int row,
                                 const struct ldg_op *op, ledger_error *err)
{
    struct ldg_stored stored = {
        .stream = ldg_pg_get_bytes(result, row, 2),
        .payload = ldg_pg_get_bytes(result, row, 3),
        .order_key = ldg_pg_get_bytes(result, row, 4),
        .dedup_key = ldg_pg_get_bytes(result, row, 5),
        .schema_version = ldg_pg_get_int64(result, row, 6),
        .created_at_us = LEDGER_NO_TIME,
        .by_go = true,
    };
    const char *differs = NULL;
    ledger_rc rc = ldg_pg_get_map(result, row, 7, b->s.arena, &stored.metadata, err);

    if (rc == LEDGER_ERR_DATA) /* what is no map is not what was carried */
        return LEDGER_OK;
    if (rc == LEDGER_OK)
        rc = ldg_op_compare(op, &stored, b->s.arena, &differs, err);
    if (rc == LEDGER_OK && differs == NULL)
        rc = ldg_op_fail_foreign(op, b->pg->table, err);
    return rc;
}

/* Which entries have a source_id that another row has already, in Go's unique index? If the Go
 * bridge has carried that row, it is this very entry: FOREIGN_BRIDGE. Else its id is this one's
 * by chance: where that is a number the entry goes without, and where it is a text Go's index
 * refuses it. */
static ledger_rc look_for_source_ids(struct ldg_pg_batch *b, ledger_error *err)
{
    static const char find[] =
        "SELECT x.n, e.origin = 0 AND e.source_pos IS NULL, e.stream, e.payload, e.order_key, "
        "e.dedup_key, e.schema_version, e.metadata "
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

        if (!meets_go(b, item))
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
        if (ldg_pg_get_bool(result, row, 1))
            rc = compare_with_go(b, result, row, item->append, err);
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
    if (rc == LEDGER_OK && b->has_texts)
        rc = ldg_pg_go_index(b->pg, b->go_index, err);
    if (rc == LEDGER_OK && (b->go_origin != 0 || b->go_index[0] != '\0'))
        rc = look_for_source_ids(b, err);
    return rc;
}
