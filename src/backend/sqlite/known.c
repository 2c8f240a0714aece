/* What the sink has of the things that a batch names.
 *
 * Hides the look-ups of the sink library: one prepared statement, run for each thing, which costs
 * no round trip here. Invariant: what is compared with an append is the row as this transaction
 * sees it. */
#include "backend/sqlite/apply.h"

#include <stdlib.h>
#include <string.h>

static const char looking[] = "looking for entries";

static const char *text_at(const struct ldg_sql *q, int column)
{
    const char *text = (const char *)sqlite3_column_text(q->stmt, column);

    return text != NULL ? text : "";
}

/* The same, and its bytes. */
static ledger_bytes text_bytes(const struct ldg_sql *q, int column)
{
    const char *text = text_at(q, column);

    return (ledger_bytes){ text, (size_t)sqlite3_column_bytes(q->stmt, column) };
}

ledger_rc ldg_sqlite_has_triggers(struct ldg_sqlite_batch *b, bool *ret_any, ledger_error *err)
{
    static const char find[] =
        "SELECT EXISTS (SELECT 1 FROM main.sqlite_master WHERE type = 'trigger' "
        "AND tbl_name = '%T' COLLATE NOCASE)";
    int64_t any = 0;
    ledger_rc rc = LEDGER_OK;

    if (!b->triggers_known) {
        rc = ldg_sql_exec_ints(b->store, "looking for triggers", find, LDG_NO_INTS, &any, err);
        b->triggers_known = rc == LEDGER_OK;
        b->triggers_any = any != 0;
    }
    *ret_any = b->triggers_any;
    return rc;
}

/* --- entries --------------------------------------------------------------------------------- */

/* clang-format off */
/* ?3 is it to be compared, ?4 are its annotations looked at? Where there is a source_id Go's bridge
 * may have written the row; where that is the key, only if the origin took over from it. */
#define ENTRY                                                                                      \
    "SELECT origin, " LDG_SQLITE_KEY ", id, stream, dedup_key, "                                   \
        "coalesce(tags_pos, mutation_pos, 0), coalesce(annotations_pos, mutation_pos, 0), "        \
        "CASE WHEN ?4 THEN annotations END, CASE WHEN ?3 THEN payload END, order_key, "            \
        "schema_version, metadata, created_at, source_id != '' AND (origin = 0 "                   \
            "OR source_pos IS NOT NULL "                                                           \
            "OR (SELECT adopted FROM main.\"%T_origins\" AS o WHERE o.id = origin)) "              \
        "FROM main.\"%T\" WHERE "
/* clang-format on */
enum {
    ENTRY_ORIGIN,
    ENTRY_KEY,
    ENTRY_ID,
    ENTRY_STREAM,
    ENTRY_DEDUP_KEY,
    ENTRY_TAGS_POS,
    ENTRY_ANNOTATIONS_POS,
    ENTRY_ANNOTATIONS,
    ENTRY_PAYLOAD,
    ENTRY_ORDER_KEY,
    ENTRY_SCHEMA_VERSION,
    ENTRY_METADATA,
    ENTRY_CREATED_AT,
    ENTRY_BY_GO,
};

/* Annotations that can be merged with others: a JSON object of strings, or none. */
static bool is_mergeable(struct ldg_sqlite_batch *b, struct ldg_sql *q, ledger_error *err)
{
    const ledger_bytes text = ldg_sql_bytes(q, ENTRY_ANNOTATIONS);
    ledger_map map;
    ledger_rc rc = LEDGER_OK;

    if (q->rc == LEDGER_OK && text.data != NULL) {
        ldg_arena_reset(&b->store->merge_arena);
        rc = ldg_json_get_map(text, false, &b->store->merge_arena, &map, err);
    }
    if (rc != LEDGER_OK && rc != LEDGER_ERR_DATA)
        q->rc = rc;
    return rc == LEDGER_OK;
}

/* Takes what an append is compared with. *ret_differs: metadata that is no map is not what was
 * carried. */
static struct ldg_stored take_stored(struct ldg_sqlite_batch *b, struct ldg_sql *q,
                                     const char **ret_differs, ledger_error *err)
{
    struct ldg_stored stored = {
        .stream = text_bytes(q, ENTRY_STREAM),
        .payload = ldg_sql_bytes(q, ENTRY_PAYLOAD),
        .order_key = text_bytes(q, ENTRY_ORDER_KEY),
        .dedup_key = text_bytes(q, ENTRY_DEDUP_KEY),
        .schema_version = sqlite3_column_int64(q->stmt, ENTRY_SCHEMA_VERSION),
        .created_at_us = ldg_sql_column_time(q->stmt, ENTRY_CREATED_AT),
        .by_go = sqlite3_column_int(q->stmt, ENTRY_BY_GO) != 0,
    };
    const ledger_bytes metadata = ldg_sql_bytes(q, ENTRY_METADATA);
    ledger_rc rc = LEDGER_OK;

    if (q->rc == LEDGER_OK && metadata.size > 0)
        rc = ldg_json_get_map(metadata, false, b->s.arena, &stored.metadata, err);
    if (rc == LEDGER_ERR_DATA)
        *ret_differs = "metadata";
    else if (rc != LEDGER_OK)
        q->rc = rc;
    return stored;
}

static void take_entry(struct ldg_sqlite_batch *b, struct ldg_sql *q, bool whole, ledger_error *err)
{
    struct ldg_stored stored;
    struct ldg_sink_found found = {
        .origin = sqlite3_column_int(q->stmt, ENTRY_ORIGIN),
        .key = ldg_sql_key(q, ENTRY_KEY),
        .id = sqlite3_column_int64(q->stmt, ENTRY_ID),
        .stream = text_at(q, ENTRY_STREAM),
        .dedup_key = text_at(q, ENTRY_DEDUP_KEY),
        .tags_pos = sqlite3_column_int64(q->stmt, ENTRY_TAGS_POS),
        .annotations_pos = sqlite3_column_int64(q->stmt, ENTRY_ANNOTATIONS_POS),
        .unmergeable = !is_mergeable(b, q, err),
    };

    if (whole) {
        stored = take_stored(b, q, &found.differs, err);
        found.stored = &stored;
    }
    if (q->rc == LEDGER_OK)
        q->rc = ldg_sink_found_entry(&b->s, &found, err);
}

static ledger_rc look_for_item(struct ldg_sqlite_batch *b, const struct ldg_sink_item *item,
                               bool annotates, ledger_error *err)
{
    const bool whole = item->append != NULL;
    struct ldg_sql q;

    if (item->origin == 0 && item->key.text != NULL) /* ids here are numbers, and "07" is none */
        return LEDGER_OK;
    ldg_sql_begin_key(&q, b->store, looking,
                      item->origin != 0 ? ENTRY "origin = ?1 AND %K = ?2 AND %I"
                                        : ENTRY "+origin = ?1 AND id = ?2",
                      item->origin, item->key, err);
    ldg_sql_int(&q, whole);
    ldg_sql_int(&q, annotates);
    if (ldg_sql_row(&q))
        take_entry(b, &q, whole, err);
    return ldg_sql_end(&q);
}

/* The entry that has the dedup key of one that is not here itself, or will be gone. */
static ledger_rc look_for_key(struct ldg_sqlite_batch *b, const struct ldg_sink_item *item,
                              ledger_error *err)
{
    const struct ldg_op *op = item->append;
    struct ldg_sql q;

    if (op == NULL || op->entry->dedup_key[0] == '\0' ||
        (item->state == LDG_SINK_STORED && !b->s.plan->has_trims))
        return LEDGER_OK;
    ldg_sql_begin(&q, b->store, looking, ENTRY "stream = ?1 AND dedup_key = ?2 AND dedup_key != ''",
                  err);
    ldg_sql_text(&q, op->stream);
    ldg_sql_text(&q, op->entry->dedup_key);
    ldg_sql_int(&q, false);
    ldg_sql_int(&q, false);
    if (ldg_sql_row(&q))
        take_entry(b, &q, false, err);
    return ldg_sql_end(&q);
}

/* --- marks, Go's ids ------------------------------------------------------------------------- */

static ledger_rc look_for_marks_of(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                                   ledger_error *err)
{
    /* clang-format off */
#define MARK                                                                                       \
    "SELECT id, mutation_origin, kind, position FROM main.\"%T_foreign\" "                         \
    "WHERE origin = ?1 AND kind < 3 AND entry = "
    static const char *const find[2] = {
        MARK "?2",
        MARK "(SELECT -e.id FROM main.\"%T\" AS e WHERE origin = ?1 AND %K = ?2 AND %I)",
    };
#undef MARK
    /* clang-format on */
    struct ldg_sql q;

    ldg_sql_begin_key(&q, b->store, "looking for an earlier change", find[op->key.text != NULL],
                      op->origin, op->key, err);
    while (ldg_sql_row(&q)) {
        const struct ldg_sink_mark mark = {
            .origin = sqlite3_column_int(q.stmt, 1),
            .kind = sqlite3_column_int(q.stmt, 2) == 1 ? LDG_OP_SET_TAGS : LDG_OP_SET_ANNOTATIONS,
            .position = sqlite3_column_int64(q.stmt, 3),
        };

        q.rc = ldg_sink_found_mark(&b->s, op->origin, op->key, sqlite3_column_int64(q.stmt, 0),
                                   &mark, err);
    }
    return ldg_sql_end(&q);
}

static ledger_rc look_for_marks(struct ldg_sqlite_batch *b, ledger_error *err)
{
    const struct ldg_sink_batch *s = &b->s;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = s->first; rc == LEDGER_OK && i < s->end; i++) {
        if (ldg_sink_is_foreign(&s->ops[i]))
            rc = look_for_marks_of(b, &s->ops[i], err);
    }
    return rc;
}

static ledger_rc has_go_index(struct ldg_sqlite_batch *b, bool *ret_has, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (!b->go_index_known)
        rc = ldg_sqlite_has_go_index(b->store, &b->go_index, err);
    b->go_index_known = rc == LEDGER_OK;
    *ret_has = b->go_index;
    return rc;
}

/* Is the entry to be added one whose row carries its source_id in Go's unique index? */
static ledger_rc has_source_id(struct ldg_sqlite_batch *b, const struct ldg_sink_item *item,
                               bool *ret_has, ledger_error *err)
{
    *ret_has = false;
    if (item->append == NULL || item->origin == 0 || item->state == LDG_SINK_STORED)
        return LEDGER_OK;
    if (item->key.text != NULL)
        return has_go_index(b, ret_has, err);
    *ret_has = item->origin == b->go_origin;
    return LEDGER_OK;
}

/* Has another row the source_id of the item already, in Go's unique index? If the Go bridge has
 * carried that row, it is this very entry: FOREIGN_BRIDGE. Else its number is this one's by chance,
 * and the entry goes without; a text has no other place, and the index refuses it. */
static ledger_rc look_for_source_id(struct ldg_sqlite_batch *b, struct ldg_sink_item *item,
                                    ledger_error *err)
{
    /* clang-format off */
    static const char find[] = /* in the columns of ENTRY; the first: has nobody claimed it? */
        "SELECT origin = 0 AND source_pos IS NULL, NULL, id, stream, dedup_key, NULL, NULL, NULL, "
            "payload, order_key, schema_version, metadata, created_at, true "
        "FROM main.\"%T\" WHERE source_id = ?1 AND source_id != ''";
    /* clang-format on */
    char source_id[LEDGER_ID_TEXT_MAX];
    const char *differs = NULL;
    struct ldg_sql q;

    ldg_sql_begin(&q, b->store, looking, find, err);
    ldg_sql_text(&q, ldg_id_text(item->key, source_id));
    if (ldg_sql_row(&q)) {
        const bool unclaimed = sqlite3_column_int(q.stmt, ENTRY_ORIGIN) != 0;
        const struct ldg_stored stored = take_stored(b, &q, &differs, err);

        item->without_source_id = true;
        if (q.rc == LEDGER_OK && unclaimed && differs == NULL)
            q.rc = ldg_op_compare(item->append, &stored, b->s.arena, &differs, err);
        if (q.rc == LEDGER_OK && unclaimed && differs == NULL)
            q.rc = ldg_op_fail_foreign(item->append, b->store->table, err);
    }
    return ldg_sql_end(&q);
}

/* --- all ------------------------------------------------------------------------------------- */

ledger_rc ldg_sqlite_look_up(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    struct ldg_sqlite_batch *b = ctx;
    struct ldg_sink_plan *p = s->plan;
    const uint32_t named = p->item_count; /* those behind are found by their dedup keys */
    bool annotates = false;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = s->first; i < s->end; i++)
        annotates = annotates || s->ops[i].kind == LDG_OP_SET_ANNOTATIONS;
    for (uint32_t i = 0; rc == LEDGER_OK && i < named; i++)
        rc = look_for_item(b, &p->items[i], annotates, err);
    for (uint32_t i = 0; rc == LEDGER_OK && i < named; i++) {
        struct ldg_sink_item *item = &p->items[i];
        bool carries = false;

        rc = look_for_key(b, item, err);
        if (rc == LEDGER_OK)
            rc = has_source_id(b, item, &carries, err);
        if (rc == LEDGER_OK && carries)
            rc = look_for_source_id(b, item, err);
    }
    return rc == LEDGER_OK && s->marks_any ? look_for_marks(b, err) : rc;
}

/* --- the order of an origin's entries (sink/order.c) ----------------------------------------- */

ledger_rc ldg_sqlite_order_load(void *ctx, struct ldg_sink_batch *s, struct ldg_sink_order *order,
                                ledger_error *err)
{
    /* clang-format off */
    static const char get[] =
        "SELECT ordered, coalesce((SELECT max(source_pos) FROM main.\"%T\" "
            "WHERE origin = ?1 AND source_pos IS NOT NULL), 0) "
        "FROM main.\"%T_origins\" WHERE id = ?1";
    /* clang-format on */
    struct ldg_sqlite_batch *b = ctx;
    struct ldg_sql q;

    (void)s;
    order->ordered = false;
    order->highest = 0;
    ldg_sql_begin(&q, b->store, "looking for an origin", get, err);
    ldg_sql_int(&q, order->origin);
    if (ldg_sql_row(&q)) {
        order->ordered = sqlite3_column_int(q.stmt, 0) != 0;
        order->highest = sqlite3_column_int64(q.stmt, 1);
    }
    return ldg_sql_end(&q);
}

static int compare_ops(const void *a, const void *b, void *ctx)
{
    const struct ldg_op *ops = ctx, *x = &ops[*(const uint32_t *)a],
                        *y = &ops[*(const uint32_t *)b];
    const int order = strcmp(x->stream, y->stream);

    if (order != 0)
        return order;
    return x->key.number < y->key.number ? -1 : x->key.number > y->key.number;
}

/* Is there an op of this stream with a lower key? ops are sorted. */
static bool is_behind(const struct ldg_op *ops, const uint32_t *sorted, size_t count,
                      const char *stream, int64_t key)
{
    size_t low = 0, high = count;

    while (low < high) {
        const size_t middle = low + (high - low) / 2;

        if (strcmp(ops[sorted[middle]].stream, stream) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && strcmp(ops[sorted[low]].stream, stream) == 0 &&
           ops[sorted[low]].key.number < key;
}

ledger_rc ldg_sqlite_order_late(void *ctx, struct ldg_sink_batch *s,
                                const struct ldg_sink_order *order, const uint32_t *ops,
                                size_t count, bool *ret_late, ledger_error *err)
{
    struct ldg_sqlite_batch *b = ctx;
    uint32_t *sorted = ldg_arena_memdup(s->arena, ops, count * sizeof(*ops));
    int64_t lowest = INT64_MAX;
    struct ldg_sql q;

    *ret_late = false;
    if (sorted == NULL)
        return ldg_fail_nomem(err);
    qsort_r(sorted, count, sizeof(*sorted), compare_ops, (void *)s->ops);
    for (size_t i = 0; i < count; i++) {
        if (s->ops[ops[i]].key.number < lowest)
            lowest = s->ops[ops[i]].key.number;
    }
    ldg_sql_begin(&q, b->store, "looking for later entries",
                  "SELECT stream, source_pos FROM main.\"%T\" "
                  "WHERE origin = ?1 AND source_pos > ?2",
                  err);
    ldg_sql_int(&q, order->origin);
    ldg_sql_int(&q, lowest);
    while (!*ret_late && ldg_sql_row(&q))
        *ret_late =
            is_behind(s->ops, sorted, count, text_at(&q, 0), sqlite3_column_int64(q.stmt, 1));
    return ldg_sql_end(&q);
}

ledger_rc ldg_sqlite_order_note(void *ctx, int origin, ledger_error *err)
{
    struct ldg_sqlite_batch *b = ctx;

    return ldg_sqlite_origin_disorder(b->store, origin, "noting a late entry", err);
}
