/* What a batch changes and deletes, and what is kept of it beside the entries.
 *
 * Hides the statements of changes and trims. Invariants: a change older than the last one of its
 * log loses; a row that a trigger keeps as it is counts as refused. */
#include "backend/sqlite/apply.h"

#include <stdlib.h>
#include <string.h>

static const char trimming[] = "trimming a stream";

/* A trigger's RAISE(IGNORE) leaves a row as it is, and no statement tells. */
static ledger_rc fail_kept(const struct ldg_sqlite_batch *b, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_REJECTED, "a trigger of table \"%s\" keeps a row as it is",
                    b->store->table);
}

/* --- changes --------------------------------------------------------------------------------- */

/* The row of an item, as far as a change has to know it. */
struct row {
    int64_t id; /* 0: there is none */
    int64_t tags_pos, annotations_pos;
    int64_t last; /* change by its own log, of either kind */
};

static bool is_older(const struct row *row, const struct ldg_sink_item *item)
{
    return (item->tags_at.first == 0 || row->tags_pos < item->tags_at.first) &&
           (item->annotations_at.first == 0 || row->annotations_pos < item->annotations_at.first);
}

static ledger_rc merge(struct ldg_sqlite_batch *b, struct ldg_sql *q, int column,
                       const struct ldg_sink_item *item, ledger_error *err)
{
    const ledger_bytes old = ldg_sql_bytes(q, column);

    if (q->rc != LEDGER_OK)
        return q->rc;
    ldg_buf_reset(&b->text);
    q->rc = ldg_sqlite_merge(b->store, old, item->annotations, &b->text, err);
    if (q->rc == LEDGER_ERR_DATA || q->rc == LEDGER_ERR_TOO_LARGE)
        err->code = q->rc = LEDGER_ERR_REJECTED;
    return q->rc;
}

/* An item of which nothing is known; b->text: the annotations that it comes to. */
static ledger_rc look_for(struct ldg_sqlite_batch *b, const struct ldg_sink_item *item,
                          struct row *row, ledger_error *err)
{
    /* clang-format off */
    static const char find[] =
        "SELECT id, coalesce(tags_pos, mutation_pos, 0), "
            "coalesce(annotations_pos, mutation_pos, 0), "
            "max(coalesce(tags_pos, 0), coalesce(annotations_pos, 0)), "
            "CASE WHEN ?4 THEN annotations END "
        "FROM main.\"%T\" WHERE origin = ?1 AND %K = ?2 AND %I AND +stream = ?3";
    /* clang-format on */
    struct ldg_sql q;

    *row = (struct row){ 0 };
    ldg_sql_begin_key(&q, b->store, "looking for an entry", find, item->origin, item->key, err);
    q.fail = ldg_sqlite_op_fail;
    ldg_sql_text(&q, item->stream);
    ldg_sql_int(&q, item->annotated);
    if (ldg_sql_row(&q)) {
        row->id = sqlite3_column_int64(q.stmt, 0);
        row->tags_pos = sqlite3_column_int64(q.stmt, 1);
        row->annotations_pos = sqlite3_column_int64(q.stmt, 2);
        row->last = sqlite3_column_int64(q.stmt, 3);
        if (item->annotated && is_older(row, item))
            (void)merge(b, &q, 4, item, err);
    }
    return ldg_sql_end(&q);
}

static ledger_rc merge_stored(struct ldg_sqlite_batch *b, const struct ldg_sink_item *item,
                              ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin(&q, b->store, "looking for an entry",
                  "SELECT annotations FROM main.\"%T\" WHERE id = ?1", err);
    ldg_sql_int(&q, item->id);
    if (ldg_sql_row(&q))
        (void)merge(b, &q, 0, item, err);
    return ldg_sql_end(&q);
}

/* clang-format off */
/* ?1 id, ?2 time (null: as it is), and of each kind its value and position (null: no change by the
 * entry's own log) */
#define UPDATE(columns)                                                                            \
    "UPDATE main.\"%T\" SET updated_at = coalesce(?2, updated_at), " columns " WHERE id = ?1"
static const char update_tags[] = UPDATE("tags = ?3, tags_pos = coalesce(?4, tags_pos)");
static const char update_annotations[] = UPDATE(
    "annotations = ?3, annotations_pos = coalesce(?4, annotations_pos)");
static const char update_both[] = UPDATE(
    "tags = ?3, tags_pos = coalesce(?4, tags_pos), "
    "annotations = ?5, annotations_pos = coalesce(?6, annotations_pos)");
/* clang-format on */

/* b->text: the annotations. */
static ledger_rc update(struct ldg_sqlite_batch *b, const struct ldg_sink_item *item, int64_t id,
                        const char *tags, int64_t time_us, ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin(&q, b->store, "changing an entry",
                  !item->annotated     ? update_tags
                  : item->tags == NULL ? update_annotations
                                       : update_both,
                  err);
    q.fail = ldg_sqlite_op_fail;
    ldg_sql_int(&q, id);
    ldg_sql_time(&q, time_us);
    if (item->tags != NULL) {
        ldg_sql_text(&q, tags);
        ldg_sql_position(&q, item->tags_at.last);
    }
    if (item->annotated) {
        ldg_sql_text_n(&q, b->text.data, b->text.size);
        ldg_sql_position(&q, item->annotations_at.last);
    }
    if (ldg_sql_run(&q) == LEDGER_OK && sqlite3_changes(b->store->db) == 0)
        return fail_kept(b, err);
    return q.rc;
}

/* Guard and change in one statement, where the row's id is not wanted. */
static ledger_rc set_tags_at_once(struct ldg_sqlite_batch *b, const struct ldg_sink_item *item,
                                  const char *tags, bool *ret_changed, ledger_error *err)
{
    /* clang-format off */
    /* A kind of change that was left out for a while comes late: what was changed after it keeps
     * its time. */
    static const char set[] =
        "UPDATE main.\"%T\" SET tags = ?4, tags_pos = ?6, "
            "updated_at = CASE WHEN annotations_pos > ?6 THEN updated_at ELSE ?5 END "
        "WHERE origin = ?1 AND %K = ?2 AND %I AND +stream = ?3 "
        "AND coalesce(tags_pos, mutation_pos, 0) < ?7";
    /* clang-format on */
    struct ldg_sql q;

    ldg_sql_begin_key(&q, b->store, "setting tags", set, item->origin, item->key, err);
    q.fail = ldg_sqlite_op_fail;
    ldg_sql_text(&q, item->stream);
    ldg_sql_text(&q, tags);
    ldg_sql_time(&q, item->time_us);
    ldg_sql_int(&q, item->tags_at.last);
    ldg_sql_int(&q, item->tags_at.first);
    *ret_changed = ldg_sql_run(&q) == LEDGER_OK && sqlite3_changes(b->store->db) > 0;
    return q.rc;
}

/* Optimistic: guards are compared with the row as it is. */
static ledger_rc change_unknown(struct ldg_sqlite_batch *b, const struct ldg_sink_item *item,
                                const char *tags, ledger_error *err)
{
    struct row row = { 0 };
    bool changed = false;
    ledger_rc rc = LEDGER_OK;

    if (!item->annotated && !b->s.has_log)
        rc = set_tags_at_once(b, item, tags, &changed, err);
    if (rc != LEDGER_OK || changed)
        return rc == LEDGER_OK ? ldg_sink_changed(&b->s, item, true, 0, 0, 0, err) : rc;
    rc = look_for(b, item, &row, err);
    changed = rc == LEDGER_OK && row.id != 0 && is_older(&row, item);
    if (changed) {
        const bool late = row.last > item->tags_at.last && row.last > item->annotations_at.last;

        rc = update(b, item, row.id, tags, late ? LEDGER_NO_TIME : item->time_us, err);
    }
    return rc == LEDGER_OK ? ldg_sink_changed(&b->s, item, changed, row.id, row.tags_pos,
                                              row.annotations_pos, err)
                           : rc;
}

static ledger_rc change_stored(struct ldg_sqlite_batch *b, const struct ldg_sink_item *item,
                               const char *tags, ledger_error *err)
{
    ledger_rc rc = item->annotated ? merge_stored(b, item, err) : LEDGER_OK;

    if (rc == LEDGER_OK)
        rc = update(b, item, item->id, tags, item->time_us, err);
    return rc == LEDGER_OK ? ldg_sink_changed(&b->s, item, true, item->id, 0, 0, err) : rc;
}

static ledger_rc change_items(struct ldg_sqlite_batch *b, ledger_error *err)
{
    const struct ldg_sink_plan *p = b->s.plan;
    ledger_rc rc = LEDGER_OK;

    for (uint32_t i = 0; rc == LEDGER_OK && i < p->item_count; i++) {
        const struct ldg_sink_item *item = &p->items[i];
        const char *tags = NULL;

        if (!ldg_sink_changes(item))
            continue;
        if (item->tags != NULL)
            rc = ldg_sqlite_list_text(b, item->tags->tags, &tags, err);
        if (rc == LEDGER_OK)
            rc = p->informed ? change_stored(b, item, tags, err)
                             : change_unknown(b, item, tags, err);
        if (rc == LEDGER_ERR_REJECTED)
            b->s.culprit = item->last_change;
    }
    return rc;
}

/* --- entries that are added and trimmed at once ---------------------------------------------- */

static ledger_rc is_here(struct ldg_sqlite_batch *b, const struct ldg_sink_item *item, bool *ret_is,
                         ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin_key(&q, b->store, "looking for an entry",
                      "SELECT 1 FROM main.\"%T\" WHERE origin = ?1 AND %K = ?2 AND %I",
                      item->origin, item->key, err);
    *ret_is = ldg_sql_row(&q);
    return ldg_sql_end(&q);
}

static ledger_rc has_key(struct ldg_sqlite_batch *b, const char *stream, const char *key,
                         bool *ret_has, ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin(&q, b->store, "looking for an entry",
                  "SELECT 1 FROM main.\"%T\" WHERE stream = ?1 AND dedup_key = ?2 "
                  "AND dedup_key != ''",
                  err);
    ldg_sql_text(&q, stream);
    ldg_sql_text(&q, key);
    *ret_has = ldg_sql_row(&q);
    return ldg_sql_end(&q);
}

/* They are left out; but had one of them a key that is here, its outcome is another. */
static ledger_rc look_for_unseen(struct ldg_sqlite_batch *b, ledger_error *err)
{
    const struct ldg_sink_plan *p = b->s.plan;
    ledger_rc rc = LEDGER_OK;

    for (uint32_t i = 0; rc == LEDGER_OK && i < p->item_count; i++) {
        const struct ldg_sink_item *item = &p->items[i];
        bool here = false, taken = false;

        if (!item->unseen)
            continue;
        rc = is_here(b, item, &here, err);
        if (rc == LEDGER_OK && !here && item->append->entry->dedup_key[0] != '\0')
            rc = has_key(b, item->append->stream, item->append->entry->dedup_key, &taken, err);
        if (rc == LEDGER_OK && (here || taken))
            rc = ldg_fail(err, LEDGER_ERR_REJECTED, "an entry that is trimmed was here before");
    }
    return rc;
}

/* --- trims ----------------------------------------------------------------------------------- */

/* clang-format off */
/* ?1 origin, ?2 up to and with, ?3 stream, ?4 no row behind this id; the index of the origin would
 * visit other streams too */
#define BRIDGED "stream = ?3 AND id <= ?4 AND +origin = ?1 AND +%K <= ?2 AND %I"
#define LOCAL                                                                                      \
    "stream = ?3 AND id <= ?4 AND +origin = ?1 AND +source_pos IS NULL AND +source_id = ''"
/* Whatever there is to be done with the rows, [1] of those that were written here. */
static const char *const trim_rows[2] = {
    "DELETE FROM main.\"%T\" WHERE " BRIDGED,
    "DELETE FROM main.\"%T\" WHERE " LOCAL,
};
static const char *const highest_row[2] = {
    "SELECT coalesce(max(id), 0) FROM main.\"%T\" WHERE " BRIDGED,
    "SELECT coalesce(max(id), 0) FROM main.\"%T\" WHERE " LOCAL,
};
static const char *const list_rows[2] = {
    "SELECT id, %K FROM main.\"%T\" WHERE " BRIDGED,
    "SELECT id, id FROM main.\"%T\" WHERE " LOCAL,
};
static const char *const key_rows[2] = {
    "SELECT dedup_key FROM main.\"%T\" WHERE " BRIDGED " AND +dedup_key != ''",
    "SELECT dedup_key FROM main.\"%T\" WHERE " LOCAL " AND +dedup_key != ''",
};
/* Before the entries go: they tell which rows are theirs. */
#define FORGET(rows)                                                                               \
    "DELETE FROM main.\"%T_foreign\" WHERE origin = ?1 AND entry IN ("                             \
        "SELECT " LDG_SQLITE_MARKED " FROM main.\"%T\" WHERE " rows ")"
static const char *const forget_marks[2] = { FORGET(BRIDGED), FORGET(LOCAL) };
#undef FORGET
/* clang-format on */

static void begin_trim(struct ldg_sql *q, struct ldg_sqlite_batch *b, const char *text,
                       const struct ldg_op *op, int64_t end, ledger_error *err)
{
    ldg_sql_begin_key(q, b->store, trimming, text, op->origin, op->key, err);
    q->fail = ldg_sqlite_op_fail;
    ldg_sql_text(q, op->stream);
    ldg_sql_int(q, end);
}

/* No row that the trim deletes has a higher id. Where a stream's ids rise with those of its origin
 * it ends at its last entry, or before the first that stays; texts do not count as rising. */
static ledger_rc trim_end(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t *ret_end,
                          ledger_error *err)
{
    /* clang-format off */
    static const char find[] =
        "SELECT coalesce("
            "(SELECT id FROM main.\"%T\" WHERE origin = ?1 AND source_pos = ?2 AND +stream = ?3), "
            "(SELECT id FROM main.\"%T\" WHERE stream = ?3 AND +origin = ?1 AND +source_pos > ?2 "
                "ORDER BY id LIMIT 1), ?4)";
    /* clang-format on */
    struct ldg_sql q;

    *ret_end = op->origin == 0 ? op->key.number : INT64_MAX;
    if (op->origin == 0 || op->key.text != NULL || !ldg_sink_is_ordered(&b->s, op->origin))
        return LEDGER_OK;
    begin_trim(&q, b, find, op, INT64_MAX, err);
    if (ldg_sql_row(&q))
        *ret_end = sqlite3_column_int64(q.stmt, 0);
    return ldg_sql_end(&q);
}

/* The highest id of what the trim deletes. 0: there is nothing. */
static ledger_rc trim_highest(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t end,
                              int64_t *ret_highest, ledger_error *err)
{
    struct ldg_sql q;

    begin_trim(&q, b, highest_row[op->origin == 0], op, end, err);
    if (ldg_sql_row(&q))
        *ret_highest = sqlite3_column_int64(q.stmt, 0);
    return ldg_sql_end(&q);
}

/* *ret_highest: without a log nobody asks which id, but whether there was one. */
static ledger_rc trim_all(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t end,
                          int64_t *ret_highest, ledger_error *err)
{
    struct ldg_sql q;
    int64_t left = 0;
    bool triggers;
    ledger_rc rc = LEDGER_OK;

    if (b->s.marks_any) {
        begin_trim(&q, b, forget_marks[op->origin == 0], op, end, err);
        q.fail = ldg_sqlite_own_fail;
        rc = ldg_sql_run(&q);
    }
    if (rc == LEDGER_OK && b->s.has_log)
        rc = trim_highest(b, op, end, ret_highest, err);
    if (rc != LEDGER_OK)
        return rc;
    begin_trim(&q, b, trim_rows[op->origin == 0], op, end, err);
    rc = ldg_sql_run(&q);
    if (rc == LEDGER_OK && !b->s.has_log)
        *ret_highest = sqlite3_changes(b->store->db) > 0;
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_has_triggers(b, &triggers, err);
    if (rc == LEDGER_OK && triggers)
        rc = trim_highest(b, op, end, &left, err);
    return rc == LEDGER_OK && left != 0 ? fail_kept(b, err) : rc;
}

/* Ids, in the arena, of what a trim deletes when the source keeps some of it. */
static ledger_rc trim_list(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t end,
                           int64_t **ret_ids, size_t *ret_count, ledger_error *err)
{
    int64_t *ids = NULL;
    size_t count = 0, cap = 0;
    struct ldg_sql q;

    begin_trim(&q, b, list_rows[op->origin == 0], op, end, err);
    while (ldg_sql_row(&q)) {
        if (ldg_op_survives(op, ldg_sql_key(&q, 1)))
            continue;
        ids = ldg_arena_grow(b->s.arena, ids, sizeof(*ids), count, &cap);
        if (ids == NULL) {
            q.rc = ldg_fail_nomem(err);
            break;
        }
        ids[count++] = sqlite3_column_int64(q.stmt, 0);
    }
    *ret_ids = ids;
    *ret_count = count;
    return ldg_sql_end(&q);
}

static ledger_rc delete_one(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t id,
                            ledger_error *err)
{
    static const char forget[] = "DELETE FROM main.\"%T_foreign\" WHERE origin = ?1 AND entry = "
                                 "(SELECT " LDG_SQLITE_MARKED " FROM main.\"%T\" WHERE id = ?2)";
    struct ldg_sql q;
    ledger_rc rc = LEDGER_OK;

    if (b->s.marks_any)
        rc = ldg_sql_exec_ints(b->store, trimming, forget, LDG_INTS(op->origin, id), NULL, err);
    if (rc != LEDGER_OK)
        return rc;
    ldg_sql_begin(&q, b->store, trimming, "DELETE FROM main.\"%T\" WHERE id = ?1", err);
    q.fail = ldg_sqlite_op_fail;
    ldg_sql_int(&q, id);
    rc = ldg_sql_run(&q);
    return rc == LEDGER_OK && sqlite3_changes(b->store->db) == 0 ? fail_kept(b, err) : rc;
}

static ledger_rc trim_but_survivors(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                                    int64_t end, int64_t *ret_highest, ledger_error *err)
{
    int64_t *ids = NULL;
    size_t count = 0;
    ledger_rc rc = trim_list(b, op, end, &ids, &count, err);

    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        rc = delete_one(b, op, ids[i], err);
        if (ids[i] > *ret_highest)
            *ret_highest = ids[i];
    }
    return rc;
}

/* A key that the batch uses before the trim was not free then, if the trim deletes it. */
static ledger_rc check_keys(struct ldg_sqlite_batch *b, size_t index, int64_t end,
                            ledger_error *err)
{
    const struct ldg_op *op = &b->s.ops[index];
    bool taken = false;
    struct ldg_sql q;
    ledger_rc rc;

    if (b->s.plan->informed || b->s.plan->add_count == 0)
        return LEDGER_OK;
    begin_trim(&q, b, key_rows[op->origin == 0], op, end, err);
    while (!taken && ldg_sql_row(&q))
        taken =
            ldg_sink_adds_key_before(&b->s, index, (const char *)sqlite3_column_text(q.stmt, 0));
    rc = ldg_sql_end(&q);
    return rc == LEDGER_OK && taken
               ? ldg_fail(err, LEDGER_ERR_REJECTED, "an entry has the key of one that is trimmed")
               : rc;
}

static ledger_rc trim(struct ldg_sqlite_batch *b, size_t index, ledger_error *err)
{
    const struct ldg_op *op = &b->s.ops[index];
    int64_t end, highest = 0;
    bool unparked = false;
    ledger_rc rc = trim_end(b, op, &end, err);

    if (rc == LEDGER_OK)
        rc = check_keys(b, index, end, err);
    if (rc == LEDGER_OK)
        rc = op->survivor_count > 0 ? trim_but_survivors(b, op, end, &highest, err)
                                    : trim_all(b, op, end, &highest, err);
    if (rc == LEDGER_OK && b->s.parked_any)
        rc = ldg_sqlite_parked_trim(b->store, op, &unparked, err);
    if (rc == LEDGER_OK)
        ldg_sink_trimmed(&b->s, index, highest, unparked);
    else if (rc == LEDGER_ERR_REJECTED)
        b->s.culprit = index;
    return rc;
}

/* --- all ------------------------------------------------------------------------------------- */

ledger_rc ldg_sqlite_unpark(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    struct ldg_sqlite_batch *b = ctx;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < s->plan->unparked_count; i++)
        rc = ldg_sqlite_parked_delete(b->store, s->plan->unparked[i], err);
    return rc;
}

ledger_rc ldg_sqlite_change(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    struct ldg_sqlite_batch *b = ctx;
    ledger_rc rc = LEDGER_OK;

    if (s->plan->unseen_count > 0)
        rc = look_for_unseen(b, err);
    if (rc == LEDGER_OK && s->plan->change_count > 0)
        rc = change_items(b, err);
    for (size_t i = s->first; rc == LEDGER_OK && s->plan->trim_count > 0 && i < s->end; i++) {
        if (ldg_sink_trims(s, i))
            rc = trim(b, i, err);
    }
    return rc;
}

static ledger_rc note_mark(struct ldg_sqlite_batch *b, const struct ldg_sink_item *item,
                           const struct ldg_sink_mark *mark, ledger_error *err)
{
    /* A row counts while the entry has the id that it had then: what is deleted here and carried
     * again begins anew. */
    static const char put[] =
        "INSERT OR REPLACE INTO main.\"%T_foreign\"(origin, entry, mutation_origin, kind, id, "
        "position) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    struct ldg_sql q;

    ldg_sql_begin(&q, b->store, "noting a change", put, err);
    q.fail = ldg_sqlite_own_fail;
    ldg_sql_int(&q, item->origin);
    ldg_sql_int(&q, item->key.text != NULL ? -item->id : item->key.number);
    ldg_sql_int(&q, mark->origin);
    ldg_sql_int(&q, mark->kind == LDG_OP_SET_TAGS ? 1 : 2);
    ldg_sql_int(&q, item->id);
    ldg_sql_int(&q, mark->position);
    return ldg_sql_run(&q);
}

ledger_rc ldg_sqlite_note(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    struct ldg_sqlite_batch *b = ctx;
    const struct ldg_sink_plan *p = s->plan;
    ledger_rc rc = LEDGER_OK;

    for (uint32_t i = 0; rc == LEDGER_OK && i < p->item_count; i++) {
        const struct ldg_sink_mark *mark = p->items[i].marks;

        for (; rc == LEDGER_OK && mark != NULL; mark = mark->next) {
            if (mark->is_new)
                rc = note_mark(b, &p->items[i], mark, err);
        }
    }
    return rc;
}
