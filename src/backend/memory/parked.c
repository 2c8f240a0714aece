/* Parked events: kept aside with their reason, listed, tried again, dropped.
 *
 * Invariant: no event on an entry passes an older parked one of the same entry, and no append one
 * that may be the trim which sets its dedup key free. */
#include "backend/memory/memory.h"

#include <string.h>

static bool live(const struct ldg_memory *m, const struct ldg_mem_parked *parked)
{
    return ldg_mem_state(&parked->stamp, &m->tx) == LDG_MEM_LIVE;
}

bool ldg_mem_parked_any(const struct ldg_memory *m)
{
    return m->table->parked_count > 0;
}

static bool of_same_log(const struct ldg_mem_parked *parked, const struct ldg_op *op)
{
    return strcmp(parked->row.source_uuid, op->source_uuid ? op->source_uuid : "") == 0;
}

/* Positions of two logs cannot be compared: there the one that was parked first goes first,
 * together with what its own log has before it. So no two ever wait for each other. `first`: the
 * lowest id of op and of the parked events behind it in its log. */
static bool goes_before(const struct ldg_mem_parked *parked, const struct ldg_op *op, int64_t first)
{
    if (of_same_log(parked, op))
        return parked->row.log_position < op->log_position;
    return parked->row.id < first;
}

static bool is_same_entry(const struct ldg_mem_parked *parked, const struct ldg_op *op)
{
    return !ldg_id_is_none(parked->row.key) && ldg_id_equal(parked->row.key, op->key) &&
           parked->origin == op->origin;
}

/* An event of op's own log in which its entry may be, or what else became of its stream. */
static bool is_unknown(const struct ldg_mem_parked *parked, const struct ldg_op *op)
{
    return of_same_log(parked, op) &&
           (!*parked->row.stream || strcmp(parked->row.stream, op->stream) == 0);
}

/* Would the event delete `found`, an entry of op's stream? */
static bool may_delete(const struct ldg_memory *m, const struct ldg_mem_parked *parked,
                       const struct ldg_op *op, const struct ldg_mem_row *found)
{
    char text[LEDGER_ID_TEXT_MAX];
    const struct ldg_parked_row *row = &parked->row;
    if (!ldg_op_may_trim(row->type_name))
        return false;
    if (ldg_id_is_none(row->key) ||
        ledger_mutation_type_parse(row->type_name) != LEDGER_MUTATION_TRIM)
        return is_unknown(parked, op);
    return strcmp(row->stream, op->stream) == 0 && parked->origin == found->origin &&
           ldg_id_is_up_to(ldg_id_is_none(found->key) ? ldg_mem_id(m, found->id, text) : found->key,
                           row->key);
}

int64_t ldg_mem_parked_before(const struct ldg_memory *m, const struct ldg_op *op, int64_t own_id,
                              enum ldg_wait wait, const struct ldg_mem_row *found)
{
    int64_t position = 0, first = own_id ? own_id : INT64_MAX;
    for (size_t i = 0; wait == LDG_WAIT_ENTRY && i < m->table->parked_count; i++) {
        const struct ldg_mem_parked *parked = m->table->parked[i];
        if (live(m, parked) && of_same_log(parked, op) && is_same_entry(parked, op) &&
            parked->row.log_position > op->log_position && parked->row.id < first)
            first = parked->row.id;
    }
    for (size_t i = 0; i < m->table->parked_count; i++) {
        const struct ldg_mem_parked *parked = m->table->parked[i];
        const struct ldg_parked_row *row = &parked->row;
        if (!live(m, parked) || row->id == own_id || !goes_before(parked, op, first))
            continue;
        const bool waits = wait == LDG_WAIT_ENTRY ? is_same_entry(parked, op)
                           : wait == LDG_WAIT_MISSING
                               ? ldg_id_is_none(row->key) && is_unknown(parked, op)
                               : may_delete(m, parked, op, found);
        if (waits && (position == 0 || row->log_position < position))
            position = row->log_position;
    }
    return position;
}

ledger_rc ldg_mem_parked_done(struct ldg_memory *m, const struct ldg_op *op, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < m->table->parked_count; i++) {
        struct ldg_mem_parked *parked = m->table->parked[i];
        if (live(m, parked) && parked->row.log_position == op->log_position &&
            (ldg_id_is_none(parked->row.key) || ldg_id_equal(parked->row.key, op->key)) &&
            strcmp(parked->row.source_uuid, op->source_uuid ? op->source_uuid : "") == 0)
            rc = ldg_mem_unpark(m, parked, err);
    }
    return rc;
}

ledger_rc ldg_mem_parked_trim(struct ldg_memory *m, const struct ldg_op *op, uint64_t *ret_deleted,
                              ledger_error *err)
{
    uint64_t deleted = 0;
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < m->table->parked_count; i++) {
        struct ldg_mem_parked *parked = m->table->parked[i];
        if (!live(m, parked) || parked->origin != op->origin || ldg_id_is_none(parked->row.key) ||
            strcmp(parked->row.stream, op->stream) != 0 || !ldg_op_trims(op, parked->row.key))
            continue;
        rc = ldg_mem_unpark(m, parked, err);
        deleted++;
    }
    if (rc == LEDGER_OK)
        *ret_deleted = deleted;
    return rc;
}

static ledger_rc fail_no_parked(int64_t id, ledger_error *err)
{
    return ldg_fail_native(err, LEDGER_ERR_NOT_FOUND, "memory", 0, "there is no parked event %lld",
                           (long long)id);
}

struct ldg_mem_parked *ldg_mem_parked_find(const struct ldg_memory *m, int64_t id,
                                           ledger_error *err)
{
    for (size_t i = 0; i < m->table->parked_count; i++) {
        if (m->table->parked[i]->row.id == id && live(m, m->table->parked[i]))
            return m->table->parked[i];
    }
    (void)!fail_no_parked(id, err);
    return NULL;
}

static ledger_rc copy_row(const struct ldg_mem_parked *parked, struct ldg_arena *arena,
                          struct ldg_parked_row *row, ledger_error *err)
{
    *row = parked->row;
    row->origin = parked->origin;
    row->type_name = ldg_arena_strdup(arena, parked->row.type_name);
    row->stream = ldg_arena_strdup(arena, parked->row.stream);
    row->reason = ldg_arena_strdup(arena, parked->reason);
    row->event.data = ldg_arena_strndup(arena, parked->row.event.data, parked->row.event.size);
    return ldg_id_copy(parked->row.key, arena, &row->key) && row->type_name && row->stream &&
                   row->reason && row->event.data
               ? LEDGER_OK
               : ldg_fail_nomem(err);
}

static ledger_rc list(const struct ldg_memory *m, int64_t after, size_t limit,
                      struct ldg_arena *arena, struct ldg_parked_row **ret_rows, size_t *ret_count,
                      ledger_error *err)
{
    const size_t most = m->table->parked_count < limit ? m->table->parked_count : limit;
    struct ldg_parked_row *rows = ldg_arena_calloc(arena, most, sizeof(*rows));
    size_t count = 0;
    if (!rows)
        return ldg_fail_nomem(err);
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < m->table->parked_count && count < most; i++) {
        const struct ldg_mem_parked *parked = m->table->parked[i];
        if (parked->row.id > after && ldg_mem_visible(&parked->stamp, &m->tx, ldg_mem_seq(m)))
            rc = copy_row(parked, arena, &rows[count++], err);
    }
    if (rc != LEDGER_OK)
        return rc;
    *ret_rows = rows;
    *ret_count = count;
    return LEDGER_OK;
}

ledger_rc ldg_mem_parked_list(void *ctx, int64_t after, size_t limit, struct ldg_arena *arena,
                              struct ldg_parked_row **ret_rows, size_t *ret_count,
                              ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "parked_list", err);
    if (rc != LEDGER_OK)
        return rc;
    return ldg_mem_leave(m, list(m, after, limit, arena, ret_rows, ret_count, err), err);
}

static bool may_concern(const struct ldg_mem_parked *parked, const struct ldg_op *op)
{
    const struct ldg_parked_row *row = &parked->row;
    const bool of_stream = !*row->stream || strcmp(row->stream, op->stream) == 0;
    if (is_same_entry(parked, op) || row->log_position == op->log_position)
        return true;
    if (op->kind == LDG_OP_APPEND)
        return of_stream && op->entry->dedup_key[0] && ldg_op_may_trim(row->type_name);
    return of_stream && ldg_op_is_change(op) && ldg_id_is_none(row->key);
}

static ledger_rc near(const struct ldg_memory *m, const struct ldg_op *ops, size_t op_count,
                      struct ldg_arena *arena, struct ldg_parked_row **ret_rows, size_t *ret_count,
                      ledger_error *err)
{
    struct ldg_parked_row *rows = ldg_arena_calloc(arena, m->table->parked_count, sizeof(*rows));
    size_t count = 0;
    ledger_rc rc = rows ? LEDGER_OK : ldg_fail_nomem(err);
    for (size_t i = 0; rc == LEDGER_OK && i < m->table->parked_count; i++) {
        const struct ldg_mem_parked *parked = m->table->parked[i];
        bool concerns = false;
        for (size_t k = 0; k < op_count && !concerns; k++)
            concerns = may_concern(parked, &ops[k]);
        if (!concerns || !ldg_mem_visible(&parked->stamp, &m->tx, ldg_mem_seq(m)))
            continue;
        rc = copy_row(parked, arena, &rows[count], err);
        rows[count++].event = (ledger_bytes){ "", 0 };
    }
    if (rc == LEDGER_OK) {
        *ret_rows = rows;
        *ret_count = count;
    }
    return rc;
}

ledger_rc ldg_mem_parked_near(void *ctx, const struct ldg_op *ops, size_t count,
                              struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                              size_t *ret_count, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "parked_near", err);
    if (rc != LEDGER_OK)
        return rc;
    return ldg_mem_leave(m, near(m, ops, count, arena, ret_rows, ret_count, err), err);
}

ledger_rc ldg_mem_parked_count(void *ctx, const char *source_uuid, uint64_t *ret_count,
                               ledger_error *err)
{
    struct ldg_memory *m = ctx;
    uint64_t count = 0;
    ledger_rc rc = ldg_mem_enter(m, "parked_count", err);
    if (rc != LEDGER_OK)
        return rc;
    for (size_t i = 0; i < m->table->parked_count; i++) {
        const struct ldg_mem_parked *parked = m->table->parked[i];
        if (ldg_mem_visible(&parked->stamp, &m->tx, ldg_mem_seq(m)) &&
            (!source_uuid || strcmp(parked->row.source_uuid, source_uuid) == 0))
            count++;
    }
    rc = ldg_mem_leave(m, LEDGER_OK, err);
    if (rc == LEDGER_OK)
        *ret_count = count;
    return rc;
}

ledger_rc ldg_mem_parked_note(void *ctx, int64_t id, const char *reason, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "parked_note", err);
    if (rc != LEDGER_OK)
        return rc;
    struct ldg_mem_parked *parked = ldg_mem_parked_find(m, id, err);
    rc = parked ? ldg_mem_parked_again(parked, reason, err) : err->code;
    return ldg_mem_leave(m, rc, err);
}

static ledger_rc drop(struct ldg_memory *m, int64_t id, uint64_t *ret_dropped, ledger_error *err)
{
    uint64_t dropped = 0;
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < m->table->parked_count; i++) {
        struct ldg_mem_parked *parked = m->table->parked[i];
        if (!live(m, parked) || (id != 0 && parked->row.id != id))
            continue;
        rc = ldg_mem_unpark(m, parked, err);
        dropped++;
    }
    if (rc == LEDGER_OK && id != 0 && dropped == 0)
        rc = fail_no_parked(id, err);
    if (rc == LEDGER_OK)
        *ret_dropped = dropped;
    return rc;
}

ledger_rc ldg_mem_parked_drop(void *ctx, int64_t id, uint64_t *ret_dropped, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    uint64_t dropped = 0;
    ledger_rc rc = ldg_mem_enter(m, "parked_drop", err);
    if (rc != LEDGER_OK)
        return rc;
    const size_t mark = m->tx.count;
    rc = drop(m, id, &dropped, err);
    rc = ldg_mem_leave(m, ldg_mem_finish(m, mark, rc), err);
    if (rc == LEDGER_OK)
        *ret_dropped = dropped;
    return rc;
}
