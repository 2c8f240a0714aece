/* Delivering: ops into a sink that keeps no state. Another store keeps it.
 *
 * Is the cursor as expected? Which ops wait behind parked events? Those are parked. The sink takes
 * the rest, in order; one that it refuses is parked, and what is on the same entry waits behind it.
 * Then cursor and parked events are written, in one fenced transaction of the state store.
 *
 * Hides what of a batch was delivered and is not known to the state store yet. Invariant: while the
 * process lives each op is delivered once, whatever fails; after a crash it may come again, under
 * the same key. */
#include <stdlib.h>
#include <string.h>

#include "bridge/stages.h"

#define NOT_PARKED INT64_MAX

/* An op by its entry, so that a parked event finds those that wait for it. */
struct slot {
    int origin;
    ledger_id key;
    uint32_t index;
};

struct delivery {
    struct ldg_deliverer *deliverer;
    struct ldg_arena *arena;
    const struct ldg_op *ops;
    size_t count;
    uint8_t *outcomes;
    bool *is_done;            /* per op: delivered */
    const char **reasons;     /* per op: why it is parked; NULL: it is not */
    struct slot *slots;       /* by entry, then in order of the log; NULL: nobody asked yet */
    struct ldg_place *places; /* per op: among the events that are parked on its entry; likewise */
    int64_t own_row;          /* of the parked event that is tried again; else NOT_PARKED */
    bool own_is_there;        /* it still is on the list */
    struct ldg_refusals refusals;
};

static int compare_entries(const struct slot *a, int origin, ledger_id key)
{
    if (a->origin != origin)
        return a->origin < origin ? -1 : 1;
    return ldg_id_compare(a->key, key);
}

static int compare_slots(const void *a, const void *b)
{
    const struct slot *x = a, *y = b;
    const int entries = compare_entries(x, y->origin, y->key);
    return entries != 0 ? entries : (x->index > y->index) - (x->index < y->index);
}

static ledger_rc begin(struct delivery *run, struct ldg_deliverer *deliverer,
                       struct ldg_arena *arena, const struct ldg_op *ops, size_t count,
                       uint8_t *outcomes, int64_t own_row, ledger_error *err)
{
    *run = (struct delivery){
        .deliverer = deliverer,
        .arena = arena,
        .ops = ops,
        .count = count,
        .outcomes = outcomes,
        .is_done = ldg_arena_calloc(arena, count, sizeof(*run->is_done)),
        .reasons = ldg_arena_calloc(arena, count, sizeof(*run->reasons)),
        .own_row = own_row,
        .refusals = deliverer->refusals,
    };
    if (run->is_done == NULL || run->reasons == NULL)
        return ldg_fail_nomem(err);
    ldg_refusals_begin(&run->refusals);
    return LEDGER_OK;
}

/* --- what was delivered and is not committed yet --------------------------------------------- */

static int compare_delivered(const void *a, const void *b)
{
    const struct ldg_delivered_op *x = a, *y = b;
    if (x->log_position != y->log_position)
        return x->log_position < y->log_position ? -1 : 1;
    return (x->part > y->part) - (x->part < y->part);
}

/* Finds those of an earlier try from the same cursor, or of one whose commit took place although it
 * failed; and makes room for the rest. */
static ledger_rc recall(struct delivery *run, const char *from, ledger_error *err)
{
    struct ldg_delivered *delivered = run->deliverer->delivered;
    if (strcmp(delivered->from, from) != 0 && strcmp(delivered->next, from) != 0)
        delivered->count = 0;
    memcpy(delivered->from, from, strlen(from) + 1);
    if (delivered->cap < delivered->count + run->count) {
        const size_t cap = delivered->count + run->count;
        void *ops = ldg_realloc(delivered->ops, cap * sizeof(*delivered->ops));
        if (ops == NULL)
            return ldg_fail_nomem(err);
        delivered->ops = ops;
        delivered->cap = cap;
    }
    if (delivered->count == 0)
        return LEDGER_OK;
    qsort(delivered->ops, delivered->count, sizeof(*delivered->ops), compare_delivered);
    for (size_t i = 0; i < run->count; i++) {
        const struct ldg_delivered_op wanted = { .log_position = run->ops[i].log_position,
                                                 .part = run->ops[i].part };
        const struct ldg_delivered_op *found =
            bsearch(&wanted, delivered->ops, delivered->count, sizeof(wanted), compare_delivered);
        run->is_done[i] = found != NULL;
        if (found != NULL)
            run->outcomes[i] = found->outcome;
    }
    return LEDGER_OK;
}

static void remember(struct delivery *run, size_t index)
{
    struct ldg_delivered *delivered = run->deliverer->delivered;
    run->is_done[index] = true;
    delivered->ops[delivered->count++] = (struct ldg_delivered_op){
        .log_position = run->ops[index].log_position,
        .part = run->ops[index].part,
        .outcome = run->outcomes[index],
    };
}

/* The state store knows of the batch. It may be shorter than one that was tried before: what was
 * delivered behind its end is part of the next one. */
static void forget(const struct delivery *run)
{
    struct ldg_delivered *delivered = run->deliverer->delivered;
    const int64_t end = run->count > 0 ? run->ops[run->count - 1].log_position : 0;
    size_t kept = 0;
    for (size_t i = 0; i < delivered->count; i++)
        if (delivered->ops[i].log_position > end)
            delivered->ops[kept++] = delivered->ops[i];
    delivered->count = kept;
}

void ldg_delivered_fini(struct ldg_delivered *delivered)
{
    ldg_free(delivered->ops);
    ldg_free(delivered->retried);
    memset(delivered, 0, sizeof(*delivered));
}

/* --- who waits behind whom ------------------------------------------------------------------- */

static ledger_rc park(struct delivery *run, size_t index, const char *reason, ledger_error *err)
{
    run->reasons[index] = ldg_arena_strdup(run->arena, reason);
    run->outcomes[index] = LDG_OUTCOME_PARKED;
    return run->reasons[index] != NULL ? LEDGER_OK : ldg_fail_nomem(err);
}

static ledger_rc wait_behind(struct delivery *run, size_t index, const struct ldg_parked_row *row,
                             enum ldg_wait wait, ledger_error *err)
{
    char reason[LDG_OP_WAIT_MAX];
    if (run->is_done[index] || run->reasons[index] != NULL)
        return LEDGER_OK;
    ldg_op_wait_reason(row->log_position, wait, reason);
    return park(run, index, reason, err);
}

/* What comes again and is parked stays so, until it is tried again. */
static ledger_rc stay_parked(struct delivery *run, size_t index, const struct ldg_parked_row *row,
                             ledger_error *err)
{
    if (run->is_done[index] || run->reasons[index] != NULL)
        return LEDGER_OK;
    return park(run, index, row->reason, err);
}

/* Most batches have nothing to do with anything that is parked, and need no order of their entries.
 */
static ledger_rc sort_entries(struct delivery *run, ledger_error *err)
{
    if (run->slots != NULL)
        return LEDGER_OK;
    run->slots = ldg_arena_alloc(run->arena, run->count * sizeof(*run->slots));
    run->places = ldg_arena_alloc(run->arena, run->count * sizeof(*run->places));
    if (run->slots == NULL || run->places == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < run->count; i++) {
        run->slots[i] = (struct slot){ run->ops[i].origin, run->ops[i].key, (uint32_t)i };
        run->places[i] = ldg_place_of(&run->ops[i], run->own_row);
    }
    qsort(run->slots, run->count, sizeof(*run->slots), compare_slots);
    return LEDGER_OK;
}

static bool is_same_event(const struct ldg_parked_row *row, const struct ldg_op *op)
{
    return row->log_position == op->log_position && ldg_op_is_of_log(op, row->source_uuid);
}

/* The sink cannot be asked what it has: an event of the stream whose entry is not known may be the
 * one that brings what a change is on. One whose stream is not known either holds nothing back. */
static ledger_rc hold_stream(struct delivery *run, const struct ldg_parked_row *row,
                             ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < run->count; i++) {
        const struct ldg_op *op = &run->ops[i];
        if (is_same_event(row, op) && op->kind != LDG_OP_PARK)
            rc = stay_parked(run, i, row, err);
        else if (ldg_op_is_change(op) && row->stream[0] != '\0' &&
                 ldg_op_may_come_by(op, row->source_uuid, row->log_position, row->key, row->stream))
            rc = wait_behind(run, i, row, LDG_WAIT_MISSING, err);
    }
    return rc;
}

/* The ops on the row's entry. */
static const struct slot *slots_of(const struct delivery *run, const struct ldg_parked_row *row,
                                   size_t *ret_count)
{
    size_t low = 0, high = run->count, end;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (compare_entries(&run->slots[middle], row->origin, row->key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (end = low; end < run->count; end++)
        if (compare_entries(&run->slots[end], row->origin, row->key) != 0)
            break;
    *ret_count = end - low;
    return run->slots + low;
}

static void note_places(struct delivery *run, const struct ldg_parked_row *row)
{
    size_t count;
    const struct slot *slots = slots_of(run, row, &count);
    for (size_t i = 0; i < count; i++)
        ldg_place_note(&run->places[slots[i].index], row->source_uuid, row->log_position, row->id);
}

static ledger_rc hold_entry(struct delivery *run, const struct ldg_parked_row *row,
                            ledger_error *err)
{
    size_t count;
    const struct slot *slots = slots_of(run, row, &count);
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        const uint32_t index = slots[i].index;
        const struct ldg_op *op = &run->ops[index];
        if (is_same_event(row, op) && op->kind != LDG_OP_PARK)
            rc = stay_parked(run, index, row, err);
        else if (op->kind != LDG_OP_TRIM &&
                 ldg_place_is_behind(&run->places[index], row->source_uuid, row->log_position,
                                     row->id))
            rc = wait_behind(run, index, row, LDG_WAIT_ENTRY, err);
    }
    return rc;
}

static ledger_rc hold_behind(struct delivery *run, const struct ldg_parked_row *row,
                             ledger_error *err)
{
    return ldg_id_is_none(row->key) ? hold_stream(run, row, err) : hold_entry(run, row, err);
}

static ledger_rc hold_behind_op(struct delivery *run, size_t index, ledger_error *err)
{
    const struct ldg_op *op = &run->ops[index];
    struct ldg_parked_row row = {
        .log_position = op->log_position,
        .origin = op->origin,
        .key = op->key,
        .stream = op->stream,
        .reason = run->reasons[index],
    };
    memcpy(row.source_uuid, op->source_uuid, strlen(op->source_uuid) + 1);
    ledger_rc rc = sort_entries(run, err);
    return rc == LEDGER_OK ? hold_behind(run, &row, err) : rc;
}

/* Behind what is parked in the state store, and behind ops that could not be planned. Others may
 * park there, try again and drop at any time, so it is asked for each batch. */
static ledger_rc find_waiting(struct delivery *run, ledger_error *err)
{
    struct ldg_parked_row *rows = NULL;
    size_t count = 0;
    ledger_rc rc = ldg_store_parked_near(run->deliverer->state, run->ops, run->count, run->arena,
                                         &rows, &count, err);
    if (rc == LEDGER_OK && count > 0)
        rc = sort_entries(run, err);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++)
        if (!ldg_id_is_none(rows[i].key))
            note_places(run, &rows[i]);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        if (rows[i].id == run->own_row)
            run->own_is_there = true;
        else
            rc = hold_behind(run, &rows[i], err);
    }
    for (size_t i = 0; rc == LEDGER_OK && i < run->count; i++) {
        if (run->ops[i].kind != LDG_OP_PARK)
            continue;
        rc = park(run, i, run->ops[i].reason, err);
        if (rc == LEDGER_OK)
            rc = hold_behind_op(run, i, err);
    }
    return rc;
}

/* --- numbers of origins ---------------------------------------------------------------------- */

void ldg_deliverer_fini(struct ldg_deliverer *deliverer)
{
    ldg_free(deliverer->origins);
    deliverer->origins = NULL;
    deliverer->origin_count = deliverer->origin_cap = 0;
}

/* text: "uuid:epoch" of the origin; "": of the store whose log was read. */
static ledger_rc add_origin(struct ldg_deliverer *deliverer, const struct ldg_op *op, int number,
                            const char *text, ledger_error *err)
{
    struct ldg_identity identity = { .epoch = op->source_epoch };
    int at_sink = 0;
    memcpy(identity.uuid, op->source_uuid, strlen(op->source_uuid) + 1);
    if (text[0] != '\0' && !ldg_identity_parse(text, &identity))
        return ldg_fail(err, LEDGER_ERR_INTERNAL, "an op's origin is not uuid:epoch");
    ledger_rc rc = ldg_store_origin_get(deliverer->sink, &identity, "", &at_sink, err);
    if (rc == LEDGER_OK && deliverer->origin_count == deliverer->origin_cap) {
        const size_t cap = deliverer->origin_cap + 8;
        void *origins = ldg_realloc(deliverer->origins, cap * sizeof(*deliverer->origins));
        if (origins == NULL)
            return ldg_fail_nomem(err);
        deliverer->origins = origins;
        deliverer->origin_cap = cap;
    }
    if (rc == LEDGER_OK)
        deliverer->origins[deliverer->origin_count++] =
            (struct ldg_origin_pair){ .number = number, .at_sink = at_sink };
    return rc;
}

static ledger_rc number_at_sink(struct ldg_deliverer *deliverer, const struct ldg_op *op,
                                const char *text, int *number, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    size_t i = 0;
    while (i < deliverer->origin_count && deliverer->origins[i].number != *number)
        i++;
    if (i == deliverer->origin_count)
        rc = add_origin(deliverer, op, *number, text, err);
    if (rc == LEDGER_OK)
        *number = deliverer->origins[i].at_sink;
    return rc;
}

/* A sink that numbers origins itself goes by its own numbers, not by those of the state store. */
static bool numbers_origins(const struct ldg_deliverer *deliverer)
{
    return (ldg_store_caps(deliverer->sink) & LDG_CAP_ORIGINS) != 0;
}

static ledger_rc number_origins(struct ldg_deliverer *deliverer, struct ldg_op *ops, size_t count,
                                ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        rc = number_at_sink(deliverer, &ops[i], ops[i].origin_text, &ops[i].origin, err);
        if (rc == LEDGER_OK)
            rc = number_at_sink(deliverer, &ops[i], ops[i].mutation_origin_text,
                                &ops[i].mutation_origin, err);
    }
    return rc;
}

/* --- one batch ------------------------------------------------------------------------------- */

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

static ledger_rc park_refused(struct delivery *run, size_t index, ledger_error *err)
{
    const ledger_error why = *err;
    const uint64_t reason =
        ldg_refusal_reason(&why, why.native_code != 0 ? why.backend : why.message);
    ledger_rc rc = ldg_refusals_note(&run->refusals, run->ops[index].kind, reason, &why, err);
    if (rc == LEDGER_OK)
        rc = park(run, index, why.message, err);
    return rc == LEDGER_OK ? hold_behind_op(run, index, err) : rc;
}

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

/* What the sink is given of a batch. */
struct rest {
    const struct ldg_op *ops;
    struct ldg_op *copies; /* what is left only grows less; NULL: none were needed yet */
    uint32_t *index;       /* in the batch, of each */
    uint8_t *outcomes;
    size_t count;
};

/* What is left, in these turns; the batch's own ops where that is all of them as they are. */
static ledger_rc collect(const struct delivery *run, const uint64_t *turns, struct rest *rest,
                         ledger_error *err)
{
    bool as_it_is = !numbers_origins(run->deliverer);
    rest->count = 0;
    for (size_t i = 0; i < run->count; i++) {
        const uint32_t at = (uint32_t)turns[i];
        if (run->is_done[at] || run->reasons[at] != NULL)
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
    return numbers_origins(run->deliverer)
               ? number_origins(run->deliverer, rest->copies, rest->count, err)
               : LEDGER_OK;
}

/* Ops whose outcome is not NONE are done and stay so, whatever is returned. */
static ledger_rc apply_to_sink(const struct ldg_deliverer *deliverer, const struct ldg_apply *apply,
                               uint8_t *outcomes, ledger_error *err)
{
    const bool is_atomic = (ldg_store_caps(deliverer->sink) & LDG_CAP_ATOMIC_BATCH) != 0;
    memset(outcomes, LDG_OUTCOME_NONE, apply->count);
    err->done_count = 0;
    ledger_rc rc = ldg_store_apply(deliverer->sink, apply, outcomes, err);
    if (rc != LEDGER_OK && is_atomic)
        memset(outcomes, LDG_OUTCOME_NONE, apply->count);
    if (rc == LEDGER_ERR_REJECTED &&
        (err->done_count >= apply->count || outcomes[err->done_count] != LDG_OUTCOME_NONE))
        return ldg_fail(err, LEDGER_ERR_INTERNAL, "the sink refuses what it was not given, or has");
    return rc;
}

static ledger_rc give(struct delivery *run, const struct rest *rest, int64_t *ret_pause_ms,
                      ledger_error *err)
{
    const struct ldg_apply apply = { .ops = rest->ops,
                                     .count = rest->count,
                                     .ret_pause_ms = ret_pause_ms };
    ledger_rc rc = apply_to_sink(run->deliverer, &apply, rest->outcomes, err);
    for (size_t i = 0; i < rest->count; i++) {
        if (rest->outcomes[i] == LDG_OUTCOME_NONE)
            continue;
        run->outcomes[rest->index[i]] = rest->outcomes[i];
        remember(run, rest->index[i]);
        ldg_refusals_applied(&run->refusals, rest->ops[i].kind);
    }
    if (rc == LEDGER_ERR_REJECTED)
        err->done_count = rest->index[err->done_count];
    return rc;
}

/* Until nothing is left, or something fails that is not the events' fault. REJECTED, where nothing
 * is to be parked: err->done_count is the op. */
static ledger_rc deliver_rest(struct delivery *run, bool may_park, int64_t *ret_pause_ms,
                              ledger_error *err)
{
    struct rest rest = {
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

/* Trims go to the state store as well: it forgets what is parked of entries that are gone. */
static bool concerns_state(const struct delivery *run, size_t index)
{
    return run->reasons[index] != NULL || run->ops[index].kind == LDG_OP_TRIM;
}

static size_t count_state(const struct delivery *run)
{
    size_t count = 0;
    for (size_t i = 0; i < run->count; i++)
        count += concerns_state(run, i);
    return count;
}

static void collect_state(const struct delivery *run, struct ldg_op *ops)
{
    size_t count = 0;
    for (size_t i = 0; i < run->count; i++) {
        if (!concerns_state(run, i))
            continue;
        ops[count] = run->ops[i];
        if (run->reasons[i] != NULL) {
            ops[count].kind = LDG_OP_PARK;
            ops[count].reason = run->reasons[i];
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

ledger_rc ldg_deliver(struct ldg_deliverer *deliverer, struct ldg_cursor_keeper *cursor,
                      struct ldg_batch *batch, bool may_park, ledger_error *err)
{
    struct delivery run;
    struct ldg_cursor *next = ldg_arena_calloc(&batch->plan, 1, sizeof(*next));
    ledger_rc rc = next != NULL ? check_cursor(cursor, err) : ldg_fail_nomem(err);
    if (rc == LEDGER_OK)
        rc = begin(&run, deliverer, &batch->plan, batch->ops, batch->op_count, batch->outcomes,
                   NOT_PARKED, err);
    if (rc == LEDGER_OK)
        rc = recall(&run, cursor->from, err);
    if (rc == LEDGER_OK && batch->op_count > 0)
        rc = ldg_sending_begin(deliverer->sending, deliverer->state, cursor, batch->ops,
                               batch->op_count, err);
    if (rc == LEDGER_OK)
        rc = find_waiting(&run, err);
    if (rc == LEDGER_OK)
        rc = deliver_rest(&run, may_park, &deliverer->pause_ms, err);
    if (rc == LEDGER_OK)
        rc = ldg_refusals_end(&run.refusals, err);
    if (rc == LEDGER_OK)
        rc = ldg_cursor_next(cursor, &cursor->row, &batch->log, next, err);
    if (rc == LEDGER_OK) {
        memcpy(deliverer->delivered->next, next->state, strlen(next->state) + 1);
        rc = commit(&run, cursor, next, err);
    }
    if (rc == LEDGER_OK) {
        deliverer->refusals = run.refusals;
        forget(&run);
        ldg_cursor_moved(cursor, next);
    }
    return rc;
}

/* --- one parked event ------------------------------------------------------------------------ */

static bool is_of_row(const struct ldg_retried_op *op, const struct ldg_parked_row *row)
{
    return op->row == row->id && op->log_position == row->log_position &&
           op->attempts == row->attempts;
}

static bool was_retried(const struct ldg_delivered *delivered, const struct ldg_parked_row *row,
                        uint32_t part)
{
    bool was = false;
    for (size_t i = 0; i < delivered->retried_count && !was; i++)
        was = is_of_row(&delivered->retried[i], row) && delivered->retried[i].part == part;
    return was;
}

static ledger_rc reserve_retried(struct ldg_delivered *delivered, size_t count, ledger_error *err)
{
    const size_t cap = delivered->retried_count + count;
    if (cap <= delivered->retried_cap)
        return LEDGER_OK;
    void *retried = ldg_realloc(delivered->retried, cap * sizeof(*delivered->retried));
    if (retried == NULL)
        return ldg_fail_nomem(err);
    delivered->retried = retried;
    delivered->retried_cap = cap;
    return LEDGER_OK;
}

/* The row was written: it is gone, or has an attempt more. */
static void forget_retried(struct ldg_delivered *delivered, const struct ldg_parked_row *row,
                           bool is_gone)
{
    size_t kept = 0;
    for (size_t i = 0; i < delivered->retried_count; i++) {
        struct ldg_retried_op op = delivered->retried[i];
        const bool stays = !is_gone && is_of_row(&op, row);
        op.attempts += stays;
        if (stays || op.row != row->id)
            delivered->retried[kept++] = op;
    }
    delivered->retried_count = kept;
}

/* Delivers what no earlier try has. */
static ledger_rc deliver_parked(const struct delivery *run, const struct ldg_parked_row *row,
                                ledger_error *err)
{
    struct ldg_delivered *delivered = run->deliverer->delivered;
    struct ldg_op *ops = ldg_arena_calloc(run->arena, run->count, sizeof(*ops));
    struct ldg_apply apply = { 0 };
    ledger_rc rc = ops != NULL ? reserve_retried(delivered, run->count, err) : ldg_fail_nomem(err);
    for (size_t i = 0; rc == LEDGER_OK && i < run->count; i++)
        if (!was_retried(delivered, row, run->ops[i].part))
            ops[apply.count++] = run->ops[i];
    if (rc == LEDGER_OK && numbers_origins(run->deliverer))
        rc = number_origins(run->deliverer, ops, apply.count, err);
    if (rc != LEDGER_OK || apply.count == 0)
        return rc;
    apply.ops = ops;
    rc = apply_to_sink(run->deliverer, &apply, run->outcomes, err);
    for (size_t i = 0; i < apply.count; i++)
        if (run->outcomes[i] != LDG_OUTCOME_NONE)
            delivered->retried[delivered->retried_count++] = (struct ldg_retried_op){
                .row = row->id,
                .log_position = row->log_position,
                .attempts = row->attempts,
                .part = ops[i].part,
            };
    return rc;
}

/* Takes it off the list, or notes why it stays. */
static ledger_rc write_parked(const struct delivery *run, const struct ldg_parked_row *row,
                              const char *reason, bool *ret_applied, ledger_error *err)
{
    ledger_store *state = run->deliverer->state;
    struct ldg_op *trims = ldg_arena_calloc(run->arena, run->count, sizeof(*trims));
    size_t trim_count = 0;
    bool applied = false;
    ledger_rc rc = LEDGER_OK;
    if (trims == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < run->count; i++)
        if (run->ops[i].kind == LDG_OP_TRIM)
            trims[trim_count++] = run->ops[i];
    if (reason != NULL)
        rc = ldg_store_parked_note(state, row->id, reason, err);
    else
        rc = ldg_store_parked_retry(state, row->id, trims, trim_count, &applied, err);
    if (rc == LEDGER_OK) {
        forget_retried(run->deliverer->delivered, row, applied);
        *ret_applied = applied;
    }
    return rc;
}

static const char *first_reason(const struct delivery *run)
{
    const char *reason = NULL;
    for (size_t i = 0; reason == NULL && i < run->count; i++)
        reason = run->reasons[i];
    return reason;
}

ledger_rc ldg_deliver_parked(struct ldg_deliverer *deliverer, const struct ldg_parked_row *row,
                             const struct ldg_op *ops, size_t count, struct ldg_arena *arena,
                             bool *ret_applied, ledger_error *err)
{
    struct delivery run;
    struct ldg_op *own = ldg_arena_calloc(arena, count, sizeof(*own));
    uint8_t *outcomes = ldg_arena_calloc(arena, count, 1);
    size_t own_count = 0;
    if (own == NULL || outcomes == NULL)
        return ldg_fail_nomem(err);
    /* Each entry of an append has a row of its own. */
    for (size_t i = 0; i < count; i++)
        if (ldg_id_is_none(row->key) || ldg_id_equal(row->key, ops[i].key))
            own[own_count++] = ops[i];
    ledger_rc rc = begin(&run, deliverer, arena, own, own_count, outcomes, row->id, err);
    if (rc == LEDGER_OK)
        rc = find_waiting(&run, err);
    if (rc == LEDGER_OK && own_count > 0 && !run.own_is_there)
        rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no parked event %lld", (long long)row->id);
    if (rc != LEDGER_OK)
        return rc;
    const char *reason = first_reason(&run);
    if (reason == NULL)
        rc = deliver_parked(&run, row, err);
    if (rc == LEDGER_ERR_REJECTED) {
        reason = ldg_arena_strdup(arena, err->message);
        rc = reason != NULL ? LEDGER_OK : ldg_fail_nomem(err);
    }
    return rc == LEDGER_OK ? write_parked(&run, row, reason, ret_applied, err) : rc;
}
