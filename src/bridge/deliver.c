/* Delivering: ops into a sink that keeps no state. Another store keeps it.
 *
 * Is the cursor as expected? Which ops wait behind parked events? Those are parked. The sink takes
 * the rest, in order; one that it refuses is parked, and what is on the same entry waits behind it.
 * Then cursor and parked events are written, in one fenced transaction of the state store.
 *
 * Hides what of a batch the sink is given, and how often. Invariant: the cursor passes nothing that
 * is neither delivered nor parked. */
#include <stdlib.h>
#include <string.h>

#include "bridge/deliver.h"

struct delivery {
    struct ldg_deliverer *deliverer;
    struct ldg_arena *arena;
    const struct ldg_op *ops;
    size_t count;
    uint8_t *outcomes;
    bool *is_done; /* per op: delivered */
    struct ldg_hold hold;
    struct ldg_refusals refusals;
};

/* --- what the sink is given ------------------------------------------------------------------ */

static int compare_turns(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Ops in order of their deliveries, and of the log within one. */
static uint64_t *take_turns(const struct delivery *run)
{
    uint64_t *turns = ldg_arena_calloc(run->arena, run->count, sizeof(*turns));
    bool in_order = true;
    for (size_t i = 0; turns != NULL && i < run->count; i++) {
        turns[i] = (uint64_t)run->ops[i].delivery << 32 | i;
        in_order = in_order && (i == 0 || turns[i - 1] < turns[i]);
    }
    if (!in_order)
        qsort(turns, run->count, sizeof(*turns), compare_turns);
    return turns;
}

/* What is left of a batch. */
struct rest {
    struct delivery *run;
    const struct ldg_op *ops;
    struct ldg_op *copies; /* what is left only grows less; NULL: none were needed yet */
    uint32_t *index;       /* in the batch, of each */
    uint8_t *outcomes;
    size_t count;
};

/* In these turns; the batch's own ops where that is all of them as they are. */
static ledger_rc collect(const struct delivery *run, const uint64_t *turns, struct rest *rest,
                         ledger_error *err)
{
    bool as_it_is = !ldg_give_renumbers(run->deliverer);
    rest->count = 0;
    for (size_t i = 0; i < run->count; i++) {
        const uint32_t at = (uint32_t)turns[i];
        if (run->is_done[at] || run->hold.reasons[at] != NULL)
            continue;
        as_it_is = as_it_is && at == rest->count;
        rest->index[rest->count++] = at;
    }
    rest->ops = run->ops;
    if (rest->count == 0 || as_it_is)
        return LEDGER_OK;
    if (rest->copies == NULL)
        rest->copies = ldg_arena_alloc(run->arena, rest->count * sizeof(*rest->copies));
    if (rest->copies == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < rest->count; i++)
        rest->copies[i] = run->ops[rest->index[i]];
    rest->ops = rest->copies;
    return ldg_give_renumber(run->deliverer, rest->copies, rest->count, err);
}

/* The last op of an event of which none is parked? Ops of one event are on one stream, and come in
 * order. */
static bool ends_event(const struct delivery *run, size_t index)
{
    const uint32_t event = run->ops[index].event_index;
    if (index + 1 < run->count && run->ops[index + 1].event_index == event)
        return false;
    for (size_t i = index; i > 0 && run->ops[i - 1].event_index == event; i--)
        if (run->hold.reasons[i - 1] != NULL)
            return false;
    return true;
}

static void note_done(struct delivery *run, size_t index, uint8_t outcome)
{
    struct ldg_delivered *delivered = run->deliverer->delivered;
    run->is_done[index] = true;
    run->outcomes[index] = outcome;
    ldg_delivered_add(delivered, &run->ops[index], outcome);
    ldg_refusals_applied(&run->refusals, run->ops[index].kind);
    if (outcome == LDG_OUTCOME_APPLIED && ends_event(run, index))
        atomic_fetch_add_explicit(&delivered->event_count, 1, memory_order_relaxed);
}

static void op_done(void *done_ctx, size_t index)
{
    const struct rest *rest = done_ctx;
    note_done(rest->run, rest->index[index], LDG_OUTCOME_APPLIED);
}

static ledger_rc give(struct delivery *run, struct rest *rest, int64_t *ret_pause_ms,
                      ledger_error *err)
{
    const struct ldg_apply apply = { .ops = rest->ops,
                                     .count = rest->count,
                                     .ret_pause_ms = ret_pause_ms,
                                     .op_done = op_done,
                                     .done_ctx = rest };
    ledger_rc rc = ldg_give(run->deliverer, &apply, rest->outcomes, err);
    for (size_t i = 0; i < rest->count; i++)
        if (rest->outcomes[i] != LDG_OUTCOME_NONE && !run->is_done[rest->index[i]])
            note_done(run, rest->index[i], rest->outcomes[i]);
    if (rc == LEDGER_ERR_REJECTED)
        err->done_count = rest->index[err->done_count];
    return rc;
}

static ledger_rc park_refused(struct delivery *run, size_t index, ledger_error *err)
{
    const ledger_error why = *err;
    const uint64_t reason =
        ldg_refusal_reason(&why, why.native_code != 0 ? why.backend : why.message);
    ledger_rc rc = ldg_refusals_note(&run->refusals, run->ops[index].kind, reason, &why, err);
    return rc == LEDGER_OK ? ldg_hold_park(&run->hold, index, why.message, err) : rc;
}

/* Until nothing is left, or something fails that is not the events' fault. REJECTED, where nothing
 * is to be parked: err->done_count is the op. */
static ledger_rc deliver_rest(struct delivery *run, bool may_park, int64_t *ret_pause_ms,
                              ledger_error *err)
{
    struct rest rest = {
        .run = run,
        .index = ldg_arena_alloc(run->arena, run->count * sizeof(*rest.index)),
        .outcomes = ldg_arena_alloc(run->arena, run->count),
    };
    const uint64_t *turns = take_turns(run);
    if (rest.index == NULL || rest.outcomes == NULL || turns == NULL)
        return ldg_fail_nomem(err);
    ledger_rc rc = collect(run, turns, &rest, err);
    while (rc == LEDGER_OK && rest.count > 0) {
        rc = give(run, &rest, ret_pause_ms, err);
        if (rc == LEDGER_ERR_REJECTED && may_park)
            rc = park_refused(run, err->done_count, err);
        if (rc == LEDGER_OK)
            rc = collect(run, turns, &rest, err);
    }
    return rc;
}

/* --- what the state store is given ----------------------------------------------------------- */

/* Trims go to the state store as well: it forgets what is parked of entries that are gone. */
static bool concerns_state(const struct delivery *run, size_t index)
{
    return run->hold.reasons[index] != NULL || run->ops[index].kind == LDG_OP_TRIM;
}

static size_t count_state(const struct delivery *run)
{
    size_t count = 0;
    for (size_t i = 0; i < run->count; i++)
        count += concerns_state(run, i);
    return count;
}

static void collect_state(struct delivery *run, struct ldg_op *ops)
{
    size_t count = 0;
    for (size_t i = 0; i < run->count; i++) {
        if (!concerns_state(run, i))
            continue;
        ops[count] = run->ops[i];
        if (run->hold.reasons[i] != NULL) {
            ops[count].kind = LDG_OP_PARK;
            ops[count].reason = run->hold.reasons[i];
            run->outcomes[i] = LDG_OUTCOME_PARKED;
        }
        count++;
    }
}

static ledger_rc commit(struct delivery *run, const struct ldg_cursor_keeper *cursor,
                        const struct ldg_cursor *next, ledger_error *err)
{
    const size_t count = count_state(run);
    struct ldg_op *ops = ldg_arena_alloc(run->arena, count * sizeof(*ops));
    uint8_t *outcomes = ldg_arena_alloc(run->arena, count);
    if (ops == NULL || outcomes == NULL)
        return ldg_fail_nomem(err);
    collect_state(run, ops);
    const struct ldg_apply apply = {
        .name = cursor->name,
        .expected = &cursor->row,
        .next = next,
        .ops = ops,
        .count = count,
        .park_rejected = true,
    };
    return ldg_store_apply(run->deliverer->state, &apply, outcomes, err);
}

/* --- a batch --------------------------------------------------------------------------------- */

static ledger_rc check_cursor(const struct ldg_cursor_keeper *cursor, ledger_error *err)
{
    struct ldg_cursor *row = ldg_malloc(sizeof(*row));
    if (row == NULL)
        return ldg_fail_nomem(err);
    ledger_rc rc = ldg_store_cursor_get(cursor->store, cursor->name, false, row, err);
    if (rc == LEDGER_OK || rc == LEDGER_ERR_NOT_FOUND)
        rc = ldg_cursor_compare(cursor->name, rc == LEDGER_OK ? row : NULL, &cursor->row, err);
    ldg_free(row);
    return rc;
}

static ledger_rc begin(struct delivery *run, struct ldg_deliverer *deliverer,
                       struct ldg_batch *batch, const char *from, ledger_error *err)
{
    struct ldg_arena *arena = &batch->plan;
    const size_t count = batch->op_count;
    *run = (struct delivery){
        .deliverer = deliverer,
        .arena = arena,
        .ops = batch->ops,
        .count = count,
        .outcomes = batch->outcomes,
        .is_done = ldg_arena_calloc(arena, count, sizeof(*run->is_done)),
        .refusals = deliverer->refusals,
    };
    if (run->is_done == NULL)
        return ldg_fail_nomem(err);
    ldg_refusals_begin(&run->refusals);
    ledger_rc rc =
        ldg_hold_init(&run->hold, run->ops, count, run->is_done, LDG_NOT_PARKED, arena, err);
    if (rc == LEDGER_OK)
        rc = ldg_delivered_recall(deliverer->delivered, from, run->ops, count, run->is_done,
                                  run->outcomes, err);
    return rc;
}

ledger_rc ldg_deliver(struct ldg_deliverer *deliverer, struct ldg_cursor_keeper *cursor,
                      struct ldg_batch *batch, bool may_park, ledger_error *err)
{
    struct delivery run;
    struct ldg_cursor *next = ldg_arena_calloc(&batch->plan, 1, sizeof(*next));
    ledger_rc rc = next != NULL ? check_cursor(cursor, err) : ldg_fail_nomem(err);
    if (rc == LEDGER_OK)
        rc = begin(&run, deliverer, batch, cursor->from, err);
    /* A sink that has the entries must not lose those that came between two tries. */
    const bool trims = (ldg_store_caps(deliverer->sink) & LDG_CAP_VERIFY) == 0;
    if (rc == LEDGER_OK && batch->op_count > 0)
        rc = ldg_sending_begin(deliverer->sending, deliverer->state, cursor, batch->ops,
                               batch->op_count, trims, err);
    if (rc == LEDGER_OK)
        rc = ldg_hold_find(&run.hold, deliverer->state, err);
    if (rc == LEDGER_OK)
        rc = deliver_rest(&run, may_park, &deliverer->pause_ms, err);
    if (rc == LEDGER_OK)
        rc = ldg_refusals_end(&run.refusals, err);
    if (rc == LEDGER_OK)
        rc = ldg_cursor_next(cursor, &cursor->row, &batch->log, next, err);
    if (rc == LEDGER_OK) {
        ldg_delivered_set_next(deliverer->delivered, next->state);
        rc = commit(&run, cursor, next, err);
    }
    if (rc == LEDGER_OK) {
        deliverer->refusals = run.refusals;
        ldg_delivered_forget(deliverer->delivered, run.ops, run.count);
        ldg_cursor_moved(cursor, next);
    }
    return rc;
}
