/* The sink's side: origins, cursors, and the batch that a bridge applies.
 *
 * Invariant: fence, changes, the sink's own log and the cursor are one transaction. An op is keyed
 * by (origin, id there), so applying it again changes nothing. */
#include "backend/memory/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- origins --------------------------------------------------------------------------------- */

static int origin_number(const struct ldg_mem_table *table, const struct ldg_identity *identity)
{
    if (strcmp(table->identity.uuid, identity->uuid) == 0 &&
        table->identity.epoch == identity->epoch)
        return 0;
    for (size_t i = 0; i < table->origin_count; i++) {
        const struct ldg_identity *known = &table->origins[i].identity;
        if (strcmp(known->uuid, identity->uuid) == 0 && known->epoch == identity->epoch)
            return (int)i + 1;
    }
    return -1;
}

static ledger_rc origin_add(struct ldg_mem_table *table, const struct ldg_identity *identity,
                            const char *name, int *ret_number, ledger_error *err)
{
    struct ldg_mem_origin *origins =
        ldg_realloc(table->origins, (table->origin_count + 1) * sizeof(*origins));
    if (!origins)
        return ldg_fail_nomem(err);
    table->origins = origins;
    char *copy = ldg_strdup(name);
    if (!copy)
        return ldg_fail_nomem(err);
    origins[table->origin_count++] = (struct ldg_mem_origin){
        .identity = *identity,
        .name = copy,
        .sorted = true,
    };
    *ret_number = (int)table->origin_count;
    return LEDGER_OK;
}

ledger_rc ldg_mem_origin_get(void *ctx, const struct ldg_identity *identity, const char *name,
                             int *ret_origin, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "origin_get", err);
    if (rc != LEDGER_OK)
        return rc;
    int number = origin_number(m->table, identity);
    if (number < 0)
        rc = origin_add(m->table, identity, name, &number, err);
    rc = ldg_mem_leave(m, rc, err);
    if (rc == LEDGER_OK)
        *ret_origin = number;
    return rc;
}

ledger_rc ldg_mem_origin_list(void *ctx, struct ldg_arena *arena, struct ldg_identity **ret_items,
                              int **ret_numbers, size_t *ret_count, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "origin_list", err);
    if (rc != LEDGER_OK)
        return rc;
    const size_t count = m->table->origin_count;
    struct ldg_identity *items = ldg_arena_calloc(arena, count, sizeof(*items));
    int *numbers = ldg_arena_calloc(arena, count, sizeof(*numbers));
    if (!items || !numbers)
        rc = ldg_fail_nomem(err);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        items[i] = m->table->origins[i].identity;
        numbers[i] = (int)i + 1;
    }
    rc = ldg_mem_leave(m, rc, err);
    if (rc == LEDGER_OK) {
        *ret_items = items;
        *ret_numbers = numbers;
        *ret_count = count;
    }
    return rc;
}

/* The row of an origin; FOREIGN ones are BUSY. *ret_row NULL: it is not here. */
static ledger_rc find_row(struct ldg_memory *m, int origin, ledger_id key,
                          struct ldg_mem_row **ret_row, ledger_error *err)
{
    struct ldg_mem_row *row = NULL;
    *ret_row = NULL;
    if (origin == 0) {
        row = ldg_mem_row_of(m, key);
        if (row && !row->origin && ldg_mem_state(&row->stamp, &m->tx) == LDG_MEM_LIVE)
            *ret_row = row;
        return LEDGER_OK;
    }
    const uint64_t hash = ldg_mem_hash_origin(origin, key);
    while ((row = ldg_mem_index_next(m->table, LDG_MEM_BY_ORIGIN, hash, row))) {
        if (row->origin != origin || !ldg_id_equal(row->key, key))
            continue;
        enum ldg_mem_state state = ldg_mem_state(&row->stamp, &m->tx);
        if (state == LDG_MEM_FOREIGN)
            return ldg_mem_fail_locked("the entry", err);
        if (state == LDG_MEM_LIVE)
            *ret_row = row;
    }
    return LEDGER_OK;
}

/* Not undone when it fails half-way: what is adopted stays adopted, and a second call goes on. */
static ledger_rc adopt(struct ldg_memory *m, int origin, const struct ldg_claim *claims,
                       size_t count, uint64_t *ret_adopted, ledger_error *err)
{
    struct ldg_mem_table *table = m->table;
    uint64_t adopted = 0;
    ledger_rc rc = LEDGER_OK;
    if (origin < 1 || (size_t)origin > table->origin_count)
        return ldg_fail_native(err, LEDGER_ERR_INVALID, "memory", 0, "there is no origin %d",
                               origin);
    table->origins[origin - 1].adopted = true;
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        ledger_id key = claims[i].key;
        struct ldg_mem_row *row = ldg_mem_row_of(m, claims[i].id), *other = NULL;
        if (!row || row->origin || !*row->source_id || row->stamp.created_by ||
            ldg_mem_state(&row->stamp, &m->tx) == LDG_MEM_GONE)
            continue;
        if (key.text)
            key.text = row->source_id; /* the same, and lives as long */
        rc = find_row(m, origin, key, &other, err);
        if (rc != LEDGER_OK || other)
            continue; /* that entry was carried again already */
        row->origin = origin;
        row->key = key;
        rc =
            ldg_mem_index_add(table, LDG_MEM_BY_ORIGIN, row, ldg_mem_hash_origin(origin, key), err);
        if (rc == LEDGER_OK)
            rc = ldg_mem_origin_rows_add(table, row, err);
        if (rc == LEDGER_OK) {
            adopted++;
        } else {
            ldg_mem_index_remove(table, LDG_MEM_BY_ORIGIN, row);
            row->origin = 0;
            row->key = ldg_id_of(0);
        }
    }
    if (rc == LEDGER_OK)
        *ret_adopted = adopted;
    return rc;
}

ledger_rc ldg_mem_origin_adopt(void *ctx, int origin, const struct ldg_claim *claims, size_t count,
                               uint64_t *ret_adopted, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    uint64_t adopted = 0;
    ledger_rc rc = ldg_mem_enter(m, "origin_adopt", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_mem_leave(m, adopt(m, origin, claims, count, &adopted, err), err);
    if (rc == LEDGER_OK)
        *ret_adopted = adopted;
    return rc;
}

ledger_rc ldg_mem_origin_last(void *ctx, int origin, struct ldg_arena *arena, ledger_id *ret_id,
                              ledger_error *err)
{
    struct ldg_memory *m = ctx;
    const struct ldg_mem_row *last = NULL;
    ledger_rc rc = ldg_mem_enter(m, "origin_last", err);
    if (rc != LEDGER_OK)
        return rc;
    for (size_t i = 0; i < m->table->rows.count; i++) {
        const struct ldg_mem_row *row = m->table->rows.items[i];
        if (row->origin == origin && ldg_mem_visible(&row->stamp, &m->tx, ldg_mem_seq(m)) &&
            (!last || ldg_id_compare(row->key, last->key) > 0))
            last = row;
    }
    const ledger_id id = ldg_mem_id_in(m, last ? last->id : 0, arena);
    if (last && ldg_id_is_none(id))
        rc = ldg_fail_nomem(err);
    rc = ldg_mem_leave(m, rc, err);
    if (rc == LEDGER_OK)
        *ret_id = id;
    return rc;
}

static void version_rewind(struct ldg_mem_version *version, bool own, int origin, int64_t position)
{
    size_t kept = 0;
    if (own && version->tags_pos > position)
        version->tags_pos = 0;
    if (own && version->annotations_pos > position)
        version->annotations_pos = 0;
    for (size_t i = 0; i < version->mark_count; i++) {
        if (version->marks[i].origin != origin || version->marks[i].position <= position)
            version->marks[kept++] = version->marks[i];
    }
    version->mark_count = kept;
}

/* In place: nobody but apply() looks at it. */
ledger_rc ldg_mem_origin_rewind(void *ctx, int origin, int64_t position, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "origin_rewind", err);
    if (rc != LEDGER_OK)
        return rc;
    for (size_t i = 0; i < m->table->rows.count; i++) {
        struct ldg_mem_row *row = m->table->rows.items[i];
        const bool own = row->origin == origin;
        version_rewind(row->version, own, origin, position);
        if (row->pending)
            version_rewind(row->pending, own, origin, position);
    }
    return ldg_mem_leave(m, LEDGER_OK, err);
}

ledger_rc ldg_mem_origin_skips(void *ctx, int origin, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "origin_skips", err);
    (void)origin;
    if (rc != LEDGER_OK)
        return rc;
    m->table->skipped = true;
    return ldg_mem_leave(m, LEDGER_OK, err);
}

static void version_unguard(struct ldg_mem_version *version)
{
    size_t kept = 0;
    version->annotations_pos = 0;
    for (size_t i = 0; i < version->mark_count; i++) {
        if (version->marks[i].kind != LDG_OP_SET_ANNOTATIONS)
            version->marks[kept++] = version->marks[i];
    }
    version->mark_count = kept;
}

ledger_rc ldg_mem_origin_unguard(void *ctx, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "origin_unguard", err);
    if (rc != LEDGER_OK)
        return rc;
    for (size_t i = 0; i < m->table->rows.count && m->table->skipped; i++) {
        struct ldg_mem_row *row = m->table->rows.items[i];
        version_unguard(row->version);
        if (row->pending)
            version_unguard(row->pending);
    }
    return ldg_mem_leave(m, LEDGER_OK, err);
}

ledger_rc ldg_mem_origin_unclaimed(void *ctx, bool *ret_any, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    bool any = false;
    ledger_rc rc = ldg_mem_enter(m, "origin_unclaimed", err);
    if (rc != LEDGER_OK)
        return rc;
    for (size_t i = 0; i < m->table->rows.count && !any; i++) {
        const struct ldg_mem_row *row = m->table->rows.items[i];
        any =
            !row->origin && *row->source_id && ldg_mem_visible(&row->stamp, &m->tx, ldg_mem_seq(m));
    }
    rc = ldg_mem_leave(m, LEDGER_OK, err);
    if (rc == LEDGER_OK)
        *ret_any = any;
    return rc;
}

/* --- cursors --------------------------------------------------------------------------------- */

static const struct ldg_cursor *cursor_seen(const struct ldg_memory *m,
                                            const struct ldg_mem_cursor *cursor)
{
    const int64_t seq = ldg_mem_seq(m);
    const struct ldg_mem_cursor_value *value = cursor ? cursor->value : NULL;
    while (value && value->seq > seq)
        value = value->next;
    return value ? &value->cursor : NULL;
}

static ledger_rc cursor_get(struct ldg_memory *m, const char *name, bool create,
                            struct ldg_cursor *ret_cursor, ledger_error *err)
{
    struct ldg_mem_cursor *cursor = ldg_mem_cursor_find(m->table, name);
    ledger_rc rc = LEDGER_OK;
    if (!cursor_seen(m, cursor) && create && !m->in_snapshot) {
        const struct ldg_cursor fresh = { .moved_at_us = LEDGER_NO_TIME };
        const size_t mark = m->tx.count;
        if (!cursor && !(cursor = ldg_mem_cursor_make(m->table, name)))
            return ldg_fail_nomem(err);
        rc = ldg_mem_finish(m, mark, ldg_mem_cursor_write(m, cursor, &fresh, err));
    }
    const struct ldg_cursor *seen = cursor_seen(m, cursor);
    if (rc == LEDGER_OK && !seen)
        rc = ldg_fail_native(err, LEDGER_ERR_NOT_FOUND, "memory", 0, "there is no cursor \"%.64s\"",
                             name);
    if (rc == LEDGER_OK)
        *ret_cursor = *seen;
    return rc;
}

ledger_rc ldg_mem_cursor_get(void *ctx, const char *name, bool create,
                             struct ldg_cursor *ret_cursor, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    struct ldg_cursor cursor;
    ledger_rc rc = ldg_mem_enter(m, "cursor_get", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_mem_leave(m, cursor_get(m, name, create, &cursor, err), err);
    if (rc == LEDGER_OK)
        *ret_cursor = cursor;
    return rc;
}

static ledger_rc cursor_set(struct ldg_memory *m, const char *name,
                            const struct ldg_cursor *expected, const struct ldg_cursor *next,
                            ledger_error *err)
{
    struct ldg_mem_cursor *cursor = ldg_mem_cursor_find(m->table, name);
    if (cursor && (cursor->locked_by || cursor->share_count))
        return ldg_mem_fail_locked("the cursor", err);
    if (expected) {
        ledger_rc rc = ldg_cursor_compare(name, cursor_seen(m, cursor), expected, err);
        if (rc != LEDGER_OK)
            return rc;
    }
    if (!cursor && !(cursor = ldg_mem_cursor_make(m->table, name)))
        return ldg_fail_nomem(err);
    return ldg_mem_cursor_write(m, cursor, next, err);
}

ledger_rc ldg_mem_cursor_set(void *ctx, const char *name, const struct ldg_cursor *expected,
                             const struct ldg_cursor *next, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "cursor_set", err);
    if (rc != LEDGER_OK)
        return rc;
    const size_t mark = m->tx.count;
    rc = cursor_set(m, name, expected, next, err);
    return ldg_mem_leave(m, ldg_mem_finish(m, mark, rc), err);
}

static int compare_names(const void *a, const void *b)
{
    char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

static ledger_rc cursor_list(const struct ldg_memory *m, ledger_names *names, ledger_error *err)
{
    size_t most = 0;
    for (const struct ldg_mem_cursor *cursor = m->table->cursors; cursor; cursor = cursor->next)
        most++;
    names->items = ldg_calloc(most + 1, sizeof(*names->items));
    if (!names->items)
        return ldg_fail_nomem(err);
    for (const struct ldg_mem_cursor *cursor = m->table->cursors; cursor; cursor = cursor->next) {
        if (!cursor_seen(m, cursor))
            continue;
        if (!(names->items[names->count] = ldg_strdup(cursor->name)))
            return ldg_fail_nomem(err);
        names->count++;
    }
    qsort(names->items, names->count, sizeof(*names->items), compare_names);
    return LEDGER_OK;
}

ledger_rc ldg_mem_cursor_list(void *ctx, ledger_names *ret_names, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_names names = { 0 };
    ledger_rc rc = ldg_mem_enter(m, "cursor_list", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_mem_leave(m, cursor_list(m, &names, err), err);
    if (rc == LEDGER_OK)
        *ret_names = names;
    else
        ledger_names_destroy(&names);
    return rc;
}

/* --- ops ------------------------------------------------------------------------------------- */

static int64_t op_time(const struct ldg_memory *m, const struct ldg_op *op)
{
    return op->time_us != LEDGER_NO_TIME ? ldg_mem_trunc_ms(op->time_us) : m->apply_us;
}

static ledger_bytes bytes_of(const char *text)
{
    return (ledger_bytes){ text, strlen(text) };
}

/* Is the entry of an append here already? */
static ledger_rc append_replayed(struct ldg_memory *m, const struct ldg_op *op, bool *ret_replayed,
                                 ledger_error *err)
{
    struct ldg_mem_row *row = NULL;
    const char *field = NULL;
    ledger_rc rc = find_row(m, op->origin, op->key, &row, err);
    if (rc != LEDGER_OK)
        return rc;
    if (row) {
        const struct ldg_stored stored = {
            .stream = bytes_of(row->stream->name),
            .payload = row->payload,
            .order_key = bytes_of(row->order_key),
            .dedup_key = bytes_of(row->dedup_key),
            .schema_version = row->schema_version,
            .metadata = row->metadata,
            .created_at_us = row->created_at_us,
            .by_go = *row->source_id,
        };
        rc = ldg_op_compare(op, &stored, &m->scratch, &field, err);
        if (rc == LEDGER_OK && field)
            rc = ldg_op_fail_reused(op, field, err);
        /* What follows it, here or in a batch that drew its ids later, would get a lower one. */
        if (rc == LEDGER_OK && op->origin != 0 && m->reserved_id && row->id > m->reserved_id)
            rc = ldg_fail_native(err, LEDGER_ERR_BUSY, "memory", 0,
                                 "another bridge has added an entry of this batch meanwhile");
    }
    if (rc != LEDGER_OK)
        return rc;
    *ret_replayed = row != NULL;
    return LEDGER_OK;
}

/* Of an entry that is not here. found: the one that has its dedup key. */
static ledger_rc apply_append(struct ldg_memory *m, const struct ldg_op *op,
                              const struct ldg_mem_row *found, uint8_t *outcome, int64_t *ret_id,
                              ledger_error *err)
{
    struct ldg_mem_row *row = NULL;
    ledger_rc rc;
    if (op->origin == 0) { /* written here and gone since */
        *outcome = LDG_OUTCOME_MISSING;
        return LEDGER_OK;
    }
    if (found) {
        *outcome = LDG_OUTCOME_DEDUPLICATED;
        return LEDGER_OK;
    }
    const struct ldg_mem_new_row fresh = {
        .id = m->reserved_id,
        .stream = op->stream,
        .payload = op->entry->payload,
        .order_key = op->entry->order_key,
        .dedup_key = op->entry->dedup_key,
        .source_id = "",
        .schema_version = op->entry->schema_version,
        .metadata = op->entry->metadata,
        .tags = op->entry->tags,
        .created_at_us = op_time(m, op),
        .origin = op->origin,
        .key = op->key,
    };
    rc = ldg_mem_insert(m, &fresh, &row, err);
    if (rc == LEDGER_OK) {
        *outcome = LDG_OUTCOME_APPLIED;
        *ret_id = row->id;
    }
    return rc;
}

/* *ret_row NULL: the change has nothing to do here, and *outcome says why. */
static ledger_rc set_look(struct ldg_memory *m, const struct ldg_op *op,
                          struct ldg_mem_row **ret_row, uint8_t *outcome, ledger_error *err)
{
    struct ldg_mem_row *row = NULL;
    ledger_rc rc = find_row(m, op->origin, op->key, &row, err);
    if (rc != LEDGER_OK)
        return rc;
    if (!row || strcmp(row->stream->name, op->stream) != 0) {
        *outcome = LDG_OUTCOME_MISSING;
        return LEDGER_OK;
    }
    if (ldg_mem_change_known(ldg_mem_version_seen(row, &m->tx, LDG_MEM_NOW), op))
        *outcome = LDG_OUTCOME_REPLAYED;
    else
        *ret_row = row;
    return LEDGER_OK;
}

static ledger_rc apply_set(struct ldg_memory *m, const struct ldg_op *op, struct ldg_mem_row *row,
                           uint8_t *outcome, int64_t *ret_id, ledger_error *err)
{
    const struct ldg_mem_version *old = ldg_mem_version_seen(row, &m->tx, LDG_MEM_NOW);
    const int64_t time_us = ldg_mem_change_time(old, op, op_time(m, op));
    ledger_map merged;
    ledger_rc rc;
    if (op->kind == LDG_OP_SET_TAGS) {
        rc = ldg_mem_update(m, row, op->tags, old->annotations, time_us, op, err);
    } else {
        rc = ldg_map_merge(old->annotations, op->annotations, &m->scratch, &merged, err);
        if (rc == LEDGER_OK)
            rc = ldg_mem_update(m, row, old->tags, merged, time_us, op, err);
    }
    if (rc == LEDGER_OK) {
        *outcome = LDG_OUTCOME_APPLIED;
        *ret_id = row->id;
    }
    return rc;
}

static ledger_rc apply_trim(struct ldg_memory *m, const struct ldg_op *op, uint8_t *outcome,
                            int64_t *ret_highest, ledger_error *err)
{
    const struct ldg_mem_stream *stream = ldg_mem_stream_find(m->table, op->stream);
    uint64_t unparked = 0;
    int64_t highest = 0; /* rows are in order of id */
    char text[LEDGER_ID_TEXT_MAX];
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && stream && i < stream->rows.count; i++) {
        struct ldg_mem_row *row = stream->rows.items[i];
        const ledger_id key = op->origin ? row->key : ldg_mem_id(m, row->id, text);
        if (row->origin != op->origin || (!op->origin && *row->source_id) || ldg_id_is_none(key) ||
            !ldg_mem_visible(&row->stamp, &m->tx, LDG_MEM_NOW) || !ldg_op_trims(op, key))
            continue;
        rc = ldg_mem_delete(m, row, err);
        highest = row->id;
    }
    if (rc == LEDGER_OK)
        rc = ldg_mem_parked_trim(m, op, &unparked, err);
    if (rc == LEDGER_OK) {
        *outcome = highest || unparked ? LDG_OUTCOME_APPLIED : LDG_OUTCOME_REPLAYED;
        *ret_highest = highest;
    }
    return rc;
}

static ledger_rc park(struct ldg_memory *m, const struct ldg_op *op, const char *reason,
                      uint8_t *outcome, ledger_error *err)
{
    ledger_rc rc = ldg_mem_park(m, op, reason, NULL, err);
    if (rc == LEDGER_OK)
        *outcome = LDG_OUTCOME_PARKED;
    return rc;
}

/* Parks op, or, when a parked event is tried again, refuses it. */
static ledger_rc set_aside(struct ldg_memory *m, const struct ldg_op *op, bool may_park,
                           const char *reason, uint8_t *outcome, ledger_error *err)
{
    if (may_park)
        return park(m, op, reason, outcome, err);
    return ldg_fail_native(err, LEDGER_ERR_REJECTED, "memory", 0, "%s", reason);
}

static ledger_rc refused(struct ldg_memory *m, const struct ldg_op *op, bool may_park,
                         uint8_t *outcome, ledger_error *err)
{
    static const char text[] = "the database refuses this event";
    ledger_error why;
    bool is_new = false;
    ledger_rc rc = ldg_fail_native(&why, LEDGER_ERR_REJECTED, "memory", 0, "%s", text);
    if (may_park) {
        rc = ldg_mem_park(m, op, text, &is_new, err);
        *outcome = LDG_OUTCOME_PARKED;
    } else {
        *err = why;
    }
    if (rc == LEDGER_OK && is_new && m->brake)
        rc = ldg_refusals_note(m->brake, op->kind, ldg_refusal_reason(&why, ""), &why, err);
    return rc;
}

/* Must the op be set aside behind a parked event? *ret_waits: it was. found: as apply_append() gave
 * it. */
static ledger_rc wait_behind(struct ldg_memory *m, const struct ldg_op *op, int64_t own_id,
                             enum ldg_wait wait, const struct ldg_mem_row *found, bool *ret_waits,
                             uint8_t *outcome, ledger_error *err)
{
    char reason[LDG_OP_WAIT_MAX];
    const int64_t before = ldg_mem_parked_before(m, op, own_id, wait, found);
    if (!before)
        return LEDGER_OK;
    *ret_waits = true;
    ldg_op_wait_reason(before, wait, reason);
    return set_aside(m, op, own_id == 0, reason, outcome, err);
}

/* What the op does, where it neither waits nor is refused. row: of the entry that is changed, NULL:
 * it is not here. found: the entry that has the dedup key of an append. */
static ledger_rc do_op(struct ldg_memory *m, const struct ldg_op *op, struct ldg_mem_row *row,
                       struct ldg_mem_row *found, uint8_t *outcome, int64_t *ret_id,
                       ledger_error *err)
{
    switch (op->kind) {
    case LDG_OP_APPEND:
        return apply_append(m, op, found, outcome, ret_id, err);
    case LDG_OP_SET_TAGS:
    case LDG_OP_SET_ANNOTATIONS:
        return row ? apply_set(m, op, row, outcome, ret_id, err) : LEDGER_OK;
    case LDG_OP_TRIM:
        return apply_trim(m, op, outcome, ret_id, err);
    case LDG_OP_PARK:
        break;
    }
    return LEDGER_OK;
}

/* *ret_id: the entry's id here; of a trim: the highest that it deleted; 0: none. */
static ledger_rc apply_op(struct ldg_memory *m, const struct ldg_op *op, bool park_rejected,
                          int64_t own_id, uint8_t *outcome, int64_t *ret_id, ledger_error *err)
{
    const bool on_entry = op->kind == LDG_OP_APPEND || op->kind == LDG_OP_SET_TAGS ||
                          op->kind == LDG_OP_SET_ANNOTATIONS;
    const bool changes = on_entry && op->kind != LDG_OP_APPEND;
    const bool any_parked = ldg_mem_parked_any(m);
    struct ldg_mem_row *found = NULL, *row = NULL;
    enum ldg_wait wait = LDG_WAIT_ENTRY;
    bool waits = false;
    ledger_rc rc = LEDGER_OK;

    if (op->kind == LDG_OP_PARK)
        return set_aside(m, op, own_id == 0, op->reason ? op->reason : "", outcome, err);
    /* First what is here already: it must not be refused, nor wait. */
    bool replayed = ldg_op_was_made_here(op);
    if (op->kind == LDG_OP_APPEND)
        rc = append_replayed(m, op, &replayed, err);
    if (rc == LEDGER_OK && replayed) {
        *outcome = LDG_OUTCOME_REPLAYED;
        if (any_parked && own_id == 0)
            rc = ldg_mem_parked_done(m, op, err);
    }
    if (rc != LEDGER_OK || replayed)
        return rc;
    if (on_entry && any_parked) {
        rc = wait_behind(m, op, own_id, wait, NULL, &waits, outcome, err);
        if (rc != LEDGER_OK || waits)
            return rc;
    }
    if (changes)
        rc = set_look(m, op, &row, outcome, err);
    else if (op->kind == LDG_OP_APPEND && op->origin != 0)
        rc = ldg_mem_dedup_find(m, op->stream, op->entry->dedup_key, &found, err);
    if (rc != LEDGER_OK)
        return rc;
    /* The database lets be what it is not asked to write. */
    const bool writes = changes                     ? row != NULL
                        : op->kind == LDG_OP_APPEND ? op->origin != 0 && !found
                                                    : true;
    if (writes && ldg_mem_refuses(m, op))
        return refused(m, op, park_rejected, outcome, err);
    rc = do_op(m, op, row, found, outcome, ret_id, err);
    if (rc == LEDGER_OK && any_parked && ldg_op_may_wait(op, *outcome, &wait))
        rc = wait_behind(m, op, own_id, wait, found, &waits, outcome, err);
    if (rc == LEDGER_OK && !waits && any_parked && own_id == 0)
        rc = ldg_mem_parked_done(m, op, err);
    return rc;
}

/* --- the sink's own log ---------------------------------------------------------------------- */

static const char *key_text(struct ldg_arena *arena, ledger_id key)
{
    char *buffer = ldg_arena_alloc(arena, LEDGER_ID_TEXT_MAX);
    return buffer ? ldg_id_text(key, buffer) : NULL;
}

/* The same of an id here. */
static const char *own_text(struct ldg_memory *m, int64_t number)
{
    char *buffer = ldg_arena_alloc(&m->scratch, LEDGER_ID_TEXT_MAX);
    return buffer ? ldg_id_text(ldg_mem_id(m, number, buffer), buffer) : NULL;
}

/* Entries of an append event: those of the ops that were applied. */
static ledger_rc chain_entries(struct ldg_memory *m, const struct ldg_op *ops, size_t count,
                               const uint8_t *outcomes, const int64_t *ids,
                               ledger_mutation_event *event, ledger_error *err)
{
    ledger_append_entry *entries = ldg_arena_calloc(&m->scratch, count, sizeof(*entries));
    size_t used = 0;
    if (!entries)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < count; i++) {
        if (outcomes[i] != LDG_OUTCOME_APPLIED || ops[i].kind != LDG_OP_APPEND)
            continue;
        entries[used] = *ops[i].entry;
        entries[used].id = own_text(m, ids[i]);
        entries[used].source_id = key_text(&m->scratch, ops[i].key);
        entries[used].created_at_us =
            ops[i].time_us != LEDGER_NO_TIME ? ops[i].time_us : m->apply_us;
        if (!entries[used].id || !entries[used].source_id)
            return ldg_fail_nomem(err);
        used++;
    }
    event->entries = entries;
    event->entry_count = used;
    return LEDGER_OK;
}

/* The event of one group of ops (one event of the log that was read), for the next in the chain. */
static ledger_rc log_group(struct ldg_memory *m, const struct ldg_op *ops, size_t count,
                           const uint8_t *outcomes, const int64_t *ids, ledger_error *err)
{
    char origin[LDG_MEM_ORIGIN_TEXT_MAX], entry_origin[LDG_MEM_ORIGIN_TEXT_MAX] = "";
    size_t first = 0;
    while (first < count && (outcomes[first] != LDG_OUTCOME_APPLIED || ids[first] == 0))
        first++;
    if (first == count || !m->log)
        return LEDGER_OK;
    const struct ldg_op *op = &ops[first];
    ldg_mem_origin_text(m->table, op->mutation_origin, origin);
    if (op->origin != op->mutation_origin)
        ldg_mem_origin_text(m->table, op->origin, entry_origin);
    ledger_mutation_event event = ldg_op_event(op, m->apply_us);
    event.origin = origin;
    event.entry_origin = entry_origin;
    ledger_rc rc = LEDGER_OK;
    if (op->kind == LDG_OP_APPEND) {
        rc = chain_entries(m, ops, count, outcomes, ids, &event, err);
    } else {
        const char *id = own_text(m, ids[first]);
        const char *source_id = key_text(&m->scratch, op->key);
        if (id && source_id)
            ldg_op_event_ids(op, id, source_id, &event);
        else
            rc = ldg_fail_nomem(err);
    }
    if (rc == LEDGER_OK)
        rc = ldg_mem_log_event(m, &event, m->apply_us, err);
    return rc;
}

/* Applies ops inside m->tx. An op behind a parked event is parked too; own_id: the parked row that
 * is being tried again (0: none), which stands in nobody's way: there it is REJECTED instead. */
static ledger_rc apply_ops(struct ldg_memory *m, const struct ldg_op *ops, size_t count,
                           bool park_rejected, int64_t own_id, uint8_t *outcomes, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    ldg_arena_reset(&m->scratch);
    int64_t *ids = ldg_arena_calloc(&m->scratch, count, sizeof(*ids));
    if (!ids)
        return ldg_fail_nomem(err);
    m->apply_us = ldg_mem_now_us();
    for (size_t begin = 0, end = 0; rc == LEDGER_OK && begin < count; begin = end) {
        for (; rc == LEDGER_OK && end < count && ops[end].event_index == ops[begin].event_index;
             end++) {
            m->reserved_id = m->first_id ? m->first_id + (int64_t)end : 0;
            rc = apply_op(m, &ops[end], park_rejected, own_id, &outcomes[end], &ids[end], err);
            m->reserved_id = 0;
            if (rc != LEDGER_OK)
                err->done_count = end;
            else if (m->brake)
                ldg_refusals_outcomes(m->brake, &ops[end], &outcomes[end], 1);
        }
        if (rc == LEDGER_OK)
            rc = log_group(m, &ops[begin], end - begin, &outcomes[begin], &ids[begin], err);
    }
    return rc;
}

/* --- the batch ------------------------------------------------------------------------------- */

static bool only_adds(const struct ldg_apply *apply)
{
    bool only = true;
    for (size_t i = 0; i < apply->count && only; i++)
        only = apply->ops[i].kind == LDG_OP_APPEND;
    return only;
}

/* For as long as they are not used, who follows the table must not pass them. */
static void reserve_ids(struct ldg_memory *m, size_t count)
{
    m->first_id = m->table->last_id + 1;
    m->table->last_id += (int64_t)count;
    m->next_reserving = m->table->reserving;
    m->table->reserving = m;
}

static void forget_ids(struct ldg_memory *m)
{
    struct ldg_memory **link = &m->table->reserving;
    while (*link && *link != m)
        link = &(*link)->next_reserving;
    if (*link)
        *link = m->next_reserving;
    m->first_id = 0;
}

/* What may be done while an earlier batch is still under way: entries that hit no key, and write no
 * event, which would come before that batch's. Then waits until that one is committed. Others
 * may come in meanwhile; the rows are ours. */
static ledger_rc apply_ahead(struct ldg_memory *m, const struct ldg_apply *apply, uint8_t *outcomes,
                             bool *ret_done, ledger_error *err)
{
    bool done = false;
    reserve_ids(m, apply->count);
    pthread_mutex_unlock(&m->db->mutex);
    apply->ids_reserved(apply->overlap_ctx);
    pthread_mutex_lock(&m->db->mutex);
    if (only_adds(apply) && !m->log && !m->apply_half && !ldg_mem_parked_any(m)) {
        done = apply_ops(m, apply->ops, apply->count, false, 0, outcomes, err) == LEDGER_OK;
        for (size_t i = 0; i < apply->count && done; i++)
            done = outcomes[i] == LDG_OUTCOME_APPLIED;
        if (!done) {
            ldg_mem_undo(m, 0);
            memset(outcomes, 0, apply->count);
        }
    }
    pthread_mutex_unlock(&m->db->mutex);
    ledger_rc rc = apply->await_commit_order(apply->overlap_ctx, err);
    pthread_mutex_lock(&m->db->mutex);
    *ret_done = done;
    return rc;
}

/* Fence, ops (of which `ahead` says that they are done), cursor; in m->tx. brake NULL: none. */
static ledger_rc apply_batch(struct ldg_memory *m, const struct ldg_apply *apply, size_t count,
                             bool ahead, struct ldg_mem_cursor *cursor, struct ldg_refusals *brake,
                             uint8_t *outcomes, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    if (apply->name) {
        if (cursor && (cursor->locked_by || (apply->next && cursor->share_count)))
            return ldg_mem_fail_locked("the cursor", err);
        rc = ldg_cursor_compare(apply->name, cursor_seen(m, cursor), apply->expected, err);
    }
    if (brake) {
        *brake = *apply->refusals;
        ldg_refusals_begin(brake);
        if (rc == LEDGER_OK && ahead)
            ldg_refusals_outcomes(brake, apply->ops, outcomes, count);
    }
    m->brake = brake;
    if (rc == LEDGER_OK && !ahead)
        rc = apply_ops(m, apply->ops, count, apply->park_rejected, 0, outcomes, err);
    m->brake = NULL;
    if (rc == LEDGER_OK && brake)
        rc = ldg_refusals_end(brake, err);
    if (rc == LEDGER_OK && apply->name && apply->next && count == apply->count)
        rc = ldg_mem_cursor_write(m, cursor, apply->next, err);
    return rc;
}

static ledger_rc apply_locked(struct ldg_memory *m, const struct ldg_apply *apply,
                              uint8_t *ret_outcomes, ledger_error *err)
{
    const bool half = m->apply_half && apply->count > 1;
    const size_t count = half ? apply->count / 2 : apply->count;
    struct ldg_mem_cursor *cursor = apply->name ? ldg_mem_cursor_find(m->table, apply->name) : NULL;
    uint8_t *outcomes = ldg_calloc(apply->count + 1, 1);
    struct ldg_refusals brake;
    const bool braked = apply->park_rejected && apply->refusals;
    bool ahead = false;
    if (!outcomes)
        return ldg_fail_nomem(err);
    ledger_rc rc =
        apply->await_commit_order ? apply_ahead(m, apply, outcomes, &ahead, err) : LEDGER_OK;
    if (rc == LEDGER_OK)
        rc = apply_batch(m, apply, count, ahead, cursor, braked ? &brake : NULL, outcomes, err);
    if (rc == LEDGER_OK) {
        const bool shares = cursor && !apply->next;
        cursor = cursor && shares ? cursor : NULL;
        if (cursor)
            cursor->share_count++;
        ldg_mem_hold(m); /* others may come in here; rows and cursor are ours */
        if (cursor)
            cursor->share_count--;
    }
    rc = ldg_mem_finish(m, 0, rc);
    forget_ids(m);
    if (rc == LEDGER_OK && braked)
        *apply->refusals = brake;
    if (rc == LEDGER_OK && half) {
        rc = ldg_fail_native(err, LEDGER_ERR_PARTIAL, "memory", 0,
                             "%zu of %zu operations were done, as the test's script says", count,
                             apply->count);
        err->done_count = count;
    }
    if (rc == LEDGER_OK && !m->lose_ack)
        memcpy(ret_outcomes, outcomes, apply->count);
    ldg_free(outcomes);
    return rc;
}

ledger_rc ldg_mem_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                        ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "apply", err);
    if (rc != LEDGER_OK)
        return rc;
    return ldg_mem_leave(m, apply_locked(m, apply, ret_outcomes, err), err);
}

/* --- a parked event once more ---------------------------------------------------------------- */

static ledger_rc retry(struct ldg_memory *m, int64_t id, const struct ldg_op *ops, size_t count,
                       bool *ret_applied, ledger_error *err)
{
    struct ldg_mem_parked *parked = ldg_mem_parked_find(m, id, err);
    const size_t mark = m->tx.count;
    uint8_t *outcomes = NULL;
    bool applied = false;
    ledger_rc rc = LEDGER_OK;
    if (!parked)
        return err->code;
    outcomes = ldg_calloc(count + 1, 1);
    if (!outcomes)
        return ldg_fail_nomem(err);
    rc = ldg_mem_unpark(m, parked, err);
    if (rc == LEDGER_OK)
        rc = apply_ops(m, ops, count, false, id, outcomes, err);
    if (rc == LEDGER_OK) {
        applied = true;
    } else if (rc == LEDGER_ERR_REJECTED || rc == LEDGER_ERR_POSITION_REUSED) {
        ldg_mem_undo(m, mark);
        rc = ldg_mem_parked_again(ldg_mem_parked_find(m, id, err), err->message, err);
    }
    ldg_free(outcomes);
    rc = ldg_mem_finish(m, mark, rc);
    if (rc == LEDGER_OK)
        *ret_applied = applied;
    return rc;
}

ledger_rc ldg_mem_parked_retry(void *ctx, int64_t id, const struct ldg_op *ops, size_t count,
                               bool *ret_applied, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "parked_retry", err);
    if (rc != LEDGER_OK)
        return rc;
    return ldg_mem_leave(m, retry(m, id, ops, count, ret_applied, err), err);
}
