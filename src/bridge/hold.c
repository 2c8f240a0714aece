/* Which ops are kept from the sink: the parked ones, and what waits behind them on their entry or
 * stream.
 *
 * Hides how a parked event finds the ops that wait for it. Invariants: no op overtakes one of its
 * entry that is parked; what the sink has does not wait. */
#include <stdlib.h>
#include <string.h>

#include "bridge/deliver.h"

/* An op by its entry, so that a parked event finds those that wait for it. */
struct ldg_hold_slot {
    int origin;
    ledger_id key;
    uint32_t index;
};

static int compare_entries(const struct ldg_hold_slot *a, int origin, ledger_id key)
{
    if (a->origin != origin)
        return a->origin < origin ? -1 : 1;
    return ldg_id_compare(a->key, key);
}

static int compare_slots(const void *a, const void *b)
{
    const struct ldg_hold_slot *x = a, *y = b;
    const int entries = compare_entries(x, y->origin, y->key);
    return entries != 0 ? entries : (x->index > y->index) - (x->index < y->index);
}

ledger_rc ldg_hold_init(struct ldg_hold *hold, const struct ldg_op *ops, size_t count,
                        const bool *is_done, int64_t own_row, struct ldg_arena *arena,
                        ledger_error *err)
{
    *hold = (struct ldg_hold){
        .arena = arena,
        .ops = ops,
        .count = count,
        .is_done = is_done,
        .reasons = ldg_arena_calloc(arena, count, sizeof(*hold->reasons)),
        .own_row = own_row,
    };
    return hold->reasons != NULL ? LEDGER_OK : ldg_fail_nomem(err);
}

static ledger_rc park(struct ldg_hold *hold, size_t index, const char *reason, ledger_error *err)
{
    hold->reasons[index] = ldg_arena_strdup(hold->arena, reason);
    return hold->reasons[index] != NULL ? LEDGER_OK : ldg_fail_nomem(err);
}

/* --- behind one parked event ----------------------------------------------------------------- */

static bool is_decided(const struct ldg_hold *hold, size_t index)
{
    return hold->reasons[index] != NULL || (hold->is_done != NULL && hold->is_done[index]);
}

static ledger_rc wait_behind(struct ldg_hold *hold, size_t index, const struct ldg_parked_row *row,
                             enum ldg_wait wait, ledger_error *err)
{
    char reason[LDG_OP_WAIT_MAX];
    ldg_op_wait_reason(row->log_position, wait, reason);
    return park(hold, index, reason, err);
}

/* Most batches have nothing to do with anything that is parked, and need no order of their entries.
 */
static ledger_rc sort_entries(struct ldg_hold *hold, ledger_error *err)
{
    if (hold->slots != NULL)
        return LEDGER_OK;
    hold->slots = ldg_arena_alloc(hold->arena, hold->count * sizeof(*hold->slots));
    hold->places = ldg_arena_alloc(hold->arena, hold->count * sizeof(*hold->places));
    if (hold->slots == NULL || hold->places == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < hold->count; i++) {
        hold->slots[i] =
            (struct ldg_hold_slot){ hold->ops[i].origin, hold->ops[i].key, (uint32_t)i };
        hold->places[i] = ldg_place_of(&hold->ops[i], hold->own_row);
    }
    qsort(hold->slots, hold->count, sizeof(*hold->slots), compare_slots);
    return LEDGER_OK;
}

/* What comes again and is parked stays so, until it is tried again. */
static bool stays_parked(const struct ldg_parked_row *row, const struct ldg_op *op)
{
    return op->kind != LDG_OP_PARK && row->log_position == op->log_position &&
           ldg_op_is_of_log(op, row->source_uuid);
}

/* The sink cannot be asked what it has: an event of the stream whose entry is not known may be the
 * one that brings what a change is on. One whose stream is not known either holds nothing back. */
static ledger_rc hold_stream(struct ldg_hold *hold, const struct ldg_parked_row *row,
                             ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < hold->count; i++) {
        const struct ldg_op *op = &hold->ops[i];
        if (is_decided(hold, i))
            continue;
        if (stays_parked(row, op))
            rc = park(hold, i, row->reason, err);
        else if (ldg_op_is_change(op) && row->stream[0] != '\0' &&
                 ldg_op_may_come_by(op, row->source_uuid, row->log_position, row->key, row->stream))
            rc = wait_behind(hold, i, row, LDG_WAIT_MISSING, err);
    }
    return rc;
}

/* The ops on the row's entry. */
static const struct ldg_hold_slot *slots_of(const struct ldg_hold *hold,
                                            const struct ldg_parked_row *row, size_t *ret_count)
{
    size_t low = 0, high = hold->count, end;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (compare_entries(&hold->slots[middle], row->origin, row->key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (end = low; end < hold->count; end++)
        if (compare_entries(&hold->slots[end], row->origin, row->key) != 0)
            break;
    *ret_count = end - low;
    return hold->slots + low;
}

static void note_places(struct ldg_hold *hold, const struct ldg_parked_row *row)
{
    size_t count;
    const struct ldg_hold_slot *slots = slots_of(hold, row, &count);
    for (size_t i = 0; i < count; i++)
        ldg_place_note(&hold->places[slots[i].index], row->source_uuid, row->log_position, row->id);
}

static ledger_rc hold_entry(struct ldg_hold *hold, const struct ldg_parked_row *row,
                            ledger_error *err)
{
    size_t count;
    const struct ldg_hold_slot *slots = slots_of(hold, row, &count);
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        const uint32_t index = slots[i].index;
        const struct ldg_op *op = &hold->ops[index];
        if (is_decided(hold, index))
            continue;
        if (stays_parked(row, op))
            rc = park(hold, index, row->reason, err);
        else if (op->kind != LDG_OP_TRIM &&
                 ldg_place_is_behind(&hold->places[index], row->source_uuid, row->log_position,
                                     row->id))
            rc = wait_behind(hold, index, row, LDG_WAIT_ENTRY, err);
    }
    return rc;
}

static ledger_rc hold_behind(struct ldg_hold *hold, const struct ldg_parked_row *row,
                             ledger_error *err)
{
    return ldg_id_is_none(row->key) ? hold_stream(hold, row, err) : hold_entry(hold, row, err);
}

static ledger_rc hold_behind_op(struct ldg_hold *hold, size_t index, ledger_error *err)
{
    const struct ldg_op *op = &hold->ops[index];
    struct ldg_parked_row row = {
        .log_position = op->log_position,
        .origin = op->origin,
        .key = op->key,
        .stream = op->stream,
        .reason = hold->reasons[index],
    };
    memcpy(row.source_uuid, op->source_uuid, strlen(op->source_uuid) + 1);
    ledger_rc rc = sort_entries(hold, err);
    return rc == LEDGER_OK ? hold_behind(hold, &row, err) : rc;
}

/* --- behind all of them ---------------------------------------------------------------------- */

ledger_rc ldg_hold_park(struct ldg_hold *hold, size_t index, const char *reason, ledger_error *err)
{
    ledger_rc rc = park(hold, index, reason, err);
    return rc == LEDGER_OK ? hold_behind_op(hold, index, err) : rc;
}

ledger_rc ldg_hold_find(struct ldg_hold *hold, ledger_store *state, ledger_error *err)
{
    struct ldg_parked_row *rows = NULL;
    size_t count = 0;
    ledger_rc rc =
        ldg_store_parked_near(state, hold->ops, hold->count, hold->arena, &rows, &count, err);
    if (rc == LEDGER_OK && count > 0)
        rc = sort_entries(hold, err);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++)
        if (!ldg_id_is_none(rows[i].key))
            note_places(hold, &rows[i]);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        if (rows[i].id == hold->own_row)
            hold->own_is_there = true;
        else
            rc = hold_behind(hold, &rows[i], err);
    }
    for (size_t i = 0; rc == LEDGER_OK && i < hold->count; i++)
        if (hold->ops[i].kind == LDG_OP_PARK)
            rc = ldg_hold_park(hold, i, hold->ops[i].reason, err);
    return rc;
}
