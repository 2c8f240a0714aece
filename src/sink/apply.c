/* The way of a batch: optimistic, informed, halved.
 *
 * Hides when the sink is asked, and how the one op is found that the database refuses. Invariants:
 * what is refused leaves nothing behind, and no later op of its entry overtakes it; nothing is
 * parked before the tables were looked at once more. */
#include "sink/plan.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"

/* A range of its own costs about as much as so many ops more. */
#define PIECE_MIN 64

/* --- one plan -------------------------------------------------------------------------------- */

bool ldg_sink_is_plain(const struct ldg_op *ops, size_t count)
{
    bool plain = count > 0;

    for (size_t i = 0; plain && i < count; i++) {
        switch (ops[i].kind) {
        case LDG_OP_APPEND:
            plain = ops[i].origin > 0;
            break;
        case LDG_OP_SET_TAGS:
        case LDG_OP_SET_ANNOTATIONS:
            plain = ldg_op_was_made_here(&ops[i]) || ldg_sink_is_guarded(&ops[i]);
            break;
        case LDG_OP_TRIM:
            break;
        case LDG_OP_PARK:
        default:
            plain = false;
            break;
        }
    }
    return plain;
}

ledger_rc ldg_sink_begin(struct ldg_sink_batch *b, ledger_error *err)
{
    b->first = 0;
    b->end = b->count;
    b->plan = NULL;
    b->culprit = b->suspect = SIZE_MAX;
    if (b->count >= UINT32_MAX / 8)
        return ldg_fail(err, LEDGER_ERR_TOO_LARGE, "a batch of %zu operations is too large",
                        b->count);
    return ldg_sink_orders_collect(b, err);
}

static ledger_rc plan_range(struct ldg_sink_batch *b, bool informed, ledger_error *err)
{
    ledger_rc rc = ldg_plan_begin(b, informed, err);

    if (rc == LEDGER_OK && informed)
        ldg_sink_collect(b);
    if (rc == LEDGER_OK && informed && b->parked_any)
        rc = ldg_sink_find_parked(b, err);
    if (rc == LEDGER_OK && informed)
        rc = b->sink->look_up(b->ctx, b, err);
    return rc == LEDGER_OK ? ldg_sink_resolve(b, err) : rc;
}

ledger_rc ldg_sink_plan(struct ldg_sink_batch *b, ledger_error *err)
{
    b->culprit = b->suspect = SIZE_MAX;
    return plan_range(b, false, err);
}

ledger_rc ldg_sink_may_wait(struct ldg_sink_batch *b, bool *ret_may, ledger_error *err)
{
    const bool planned = b->plan != NULL;
    ledger_rc rc = LEDGER_OK;

    *ret_may = false;
    if (!b->parked_any)
        return LEDGER_OK;
    if (!planned)
        rc = ldg_plan_begin(b, false, err);
    if (rc == LEDGER_OK)
        rc = ldg_sink_find_parked(b, err);
    *ret_may = rc == LEDGER_OK && b->plan->parked != NULL;
    if (!planned)
        b->plan = NULL;
    return rc;
}

static ledger_rc write_plan(struct ldg_sink_batch *b, bool added, ledger_error *err)
{
    const struct ldg_sink_plan *p = b->plan;
    ledger_rc rc = ldg_sink_orders_check(b, err);

    if (rc == LEDGER_OK && p->unparked_count > 0)
        rc = b->sink->unpark(b->ctx, b, err);
    if (rc == LEDGER_OK && (p->change_count > 0 || p->trim_count > 0))
        rc = b->sink->change(b->ctx, b, err);
    if (rc == LEDGER_OK && p->add_count > 0 && !added)
        rc = b->sink->add(b->ctx, b, err);
    if (rc == LEDGER_OK && p->mark_count > 0) {
        b->marks_any = true; /* for the next range */
        rc = b->sink->note(b->ctx, b, err);
    }
    return rc;
}

/* What an earlier try has noted does not count. */
static void begin_brake(struct ldg_sink_batch *b)
{
    if (b->brake == NULL)
        return;
    *b->brake = *b->refusals;
    ldg_refusals_begin(b->brake);
}

static void count_outcomes(const struct ldg_sink_batch *b)
{
    if (b->brake != NULL)
        ldg_refusals_outcomes(b->brake, b->ops + b->first, b->outcomes + b->first,
                              b->end - b->first);
}

ledger_rc ldg_sink_write(struct ldg_sink_batch *b, bool added, ledger_error *err)
{
    ledger_rc rc;

    begin_brake(b);
    rc = write_plan(b, added, err);
    if (rc == LEDGER_OK)
        rc = ldg_sink_relay(b, err);
    if (rc == LEDGER_OK)
        rc = ldg_sink_orders_note(b, err);
    if (rc == LEDGER_OK)
        count_outcomes(b);
    return rc;
}

/* --- parking --------------------------------------------------------------------------------- */

/* Before anything is parked that the database refuses: is it the event? */
static ledger_rc recheck(struct ldg_sink_batch *b, ledger_error *err)
{
    ledger_rc rc = b->rechecked ? LEDGER_OK : b->sink->recheck(b->ctx, err);

    b->rechecked = rc == LEDGER_OK;
    return rc;
}

static ledger_rc park_one(struct ldg_sink_batch *b, const struct ldg_sink_park *park,
                          ledger_error *err)
{
    const struct ldg_op *op = &b->ops[park->index];
    bool is_new = false;
    ledger_rc rc = park->refused ? recheck(b, err) : LEDGER_OK;

    if (rc == LEDGER_OK)
        rc = b->sink->park(b->ctx, op, park->reason, &is_new, err);
    if (rc != LEDGER_OK)
        return rc;
    b->parked_any = true;
    if (park->refused && is_new && b->brake != NULL) {
        const struct ldg_sink_reason *why = &b->park_reason[park->index];

        rc = ldg_refusals_note(b->brake, op->kind, why->reason, &why->why, err);
    }
    return rc;
}

static ledger_rc park_all(struct ldg_sink_batch *b, ledger_error *err)
{
    const struct ldg_sink_plan *p = b->plan;
    ledger_rc rc = LEDGER_OK;

    for (uint32_t i = 0; rc == LEDGER_OK && i < p->park_count; i++)
        rc = park_one(b, &p->parks[i], err);
    return rc;
}

/* Op i is parked from the beginning when it is tried next. */
static ledger_rc refuse(struct ldg_sink_batch *b, size_t i, const ledger_error *why,
                        ledger_error *err)
{
    if (b->park_reason == NULL)
        b->park_reason = ldg_arena_calloc(b->arena, b->count, sizeof(*b->park_reason));
    if (b->park_reason == NULL)
        return ldg_fail_nomem(err);
    b->park_reason[i] = (struct ldg_sink_reason){
        .is_set = true,
        .why = *why,
        .reason = b->sink->reason(b->ctx, why),
    };
    return LEDGER_OK;
}

/* --- ranges ---------------------------------------------------------------------------------- */

static ledger_rc do_range(struct ldg_sink_batch *b, ledger_error *err)
{
    ledger_rc rc = plan_range(b, true, err);

    if (rc == LEDGER_OK)
        rc = write_plan(b, false, err);
    if (rc == LEDGER_OK)
        rc = park_all(b, err);
    return rc;
}

/* The one op that the database refuses. */
static ledger_rc refuse_alone(struct ldg_sink_batch *b, size_t i, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    const ledger_error why = *err;
    ledger_rc rc = LEDGER_ERR_REJECTED;

    if (b->can_park && b->park_rejected)
        return refuse(b, i, &why, err);
    if (b->can_park)
        rc = ldg_fail_native(err, LEDGER_ERR_REJECTED, why.backend, why.native_code,
                             "the sink refuses event %" PRId64 " (%s of stream \"%.60s\"): %.300s",
                             op->log_position, op->type_name != NULL ? op->type_name : "",
                             op->stream, why.message);
    err->done_count = i;
    return rc;
}

/* Ranges that are still to be done, the next one last. */
struct ranges {
    struct ldg_sink_range {
        size_t first, end;
    } * items;
    size_t count;
    size_t refused_count;          /* ops of which the backend knew that they are refused */
    struct ldg_sink_order *orders; /* as they were before the one in hand */
};

static void push(struct ranges *ranges, size_t first, size_t end)
{
    if (first < end)
        ranges->items[ranges->count++] = (struct ldg_sink_range){ first, end };
}

/* In pieces of `width` ops. */
static void push_pieces(struct ranges *ranges, size_t first, size_t end, size_t width)
{
    while (first < end) {
        const size_t last = first + (end - first - 1) / width * width;

        push(ranges, last, end);
        end = last;
    }
}

/* Each piece costs as much as PIECE_MIN ops, and what shares a piece with a culprit is done twice.
 * The sum is smallest at about the square root of PIECE_MIN times the distance of the culprits. */
static size_t piece_width(size_t distance)
{
    size_t width = PIECE_MIN;

    while (width / PIECE_MIN < distance / width)
        width *= 2;
    return width;
}

/* The culprit alone between the others. */
static void push_around(struct ranges *ranges, size_t first, size_t end, size_t culprit)
{
    const size_t distance = (culprit + 1) / ++ranges->refused_count;

    push_pieces(ranges, culprit + 1, end, piece_width(distance));
    push(ranges, culprit, culprit + 1);
    push(ranges, first, culprit);
}

/* The range in hand was refused: the halves, or the culprit alone between the others. */
static ledger_rc split(struct ldg_sink_batch *b, struct ranges *ranges, ledger_error *err)
{
    const size_t first = b->first, end = b->end, culprit = b->culprit;
    const size_t middle = first + (end - first) / 2;
    ledger_rc rc = LEDGER_OK;

    if (end - first == 1) {
        rc = refuse_alone(b, first, err);
        if (rc == LEDGER_OK)
            push(ranges, first, end);
    } else if (culprit >= first && culprit < end) {
        push_around(ranges, first, end, culprit);
    } else {
        push(ranges, middle, end);
        push(ranges, first, middle);
    }
    return rc;
}

/* What a retry runs into, and an op that was parked for it once, is the verdict; and a key that is
 * used again, once what comes before it is done. */
static bool is_final(const struct ldg_sink_batch *b, ledger_rc rc)
{
    const bool alone = b->end - b->first == 1;

    if (rc != LEDGER_ERR_REJECTED && rc != LEDGER_ERR_POSITION_REUSED)
        return true;
    return !b->can_park || (alone && rc == LEDGER_ERR_POSITION_REUSED) ||
           (alone && b->park_reason != NULL && b->park_reason[b->first].is_set);
}

static ledger_rc next_range(struct ldg_sink_batch *b, struct ranges *ranges, bool *ret_again,
                            ledger_error *err)
{
    const struct ldg_sink_range range = ranges->items[--ranges->count];
    ledger_error why;
    bool lost = false;
    ledger_rc rc;

    b->first = range.first;
    b->end = range.end;
    b->culprit = SIZE_MAX;
    if (b->order_count > 0)
        memcpy(ranges->orders, b->orders, b->order_count * sizeof(*b->orders));
    rc = b->sink->save(b->ctx, err);
    if (rc != LEDGER_OK)
        return rc;
    rc = do_range(b, err);
    if (rc == LEDGER_OK) {
        count_outcomes(b);
        return b->sink->release(b->ctx, err);
    }
    if (is_final(b, rc)) {
        if (rc == LEDGER_ERR_REJECTED)
            err->done_count = b->culprit != SIZE_MAX ? b->culprit : b->first;
        return rc;
    }
    why = *err;
    rc = b->sink->undo(b->ctx, &lost, err);
    if (rc != LEDGER_OK)
        return rc;
    if (b->order_count > 0)
        memcpy(b->orders, ranges->orders, b->order_count * sizeof(*b->orders));
    *err = why;
    rc = split(b, ranges, err);
    if (rc == LEDGER_OK && lost) {
        b->width = (range.end - range.first + 1) / 2;
        *ret_again = true;
    }
    return rc;
}

static ledger_rc do_ranges(struct ldg_sink_batch *b, bool *ret_again, ledger_error *err)
{
    const size_t width = b->width > 0 && b->width < b->count ? b->width : b->count;
    struct ranges ranges = { .count = 0 };
    ledger_rc rc = LEDGER_OK;

    /* ranges never overlap, and none is empty */
    ranges.items = ldg_arena_alloc(b->arena, (b->count + 1) * sizeof(*ranges.items));
    ranges.orders = ldg_arena_calloc(b->arena, b->order_count, sizeof(*ranges.orders));
    if (ranges.items == NULL || ranges.orders == NULL)
        return ldg_fail_nomem(err);
    if (b->suspect < b->count && width == b->count)
        push_around(&ranges, 0, b->count, b->suspect);
    else
        push_pieces(&ranges, 0, b->count, width);
    b->suspect = SIZE_MAX;
    while (rc == LEDGER_OK && ranges.count > 0 && !*ret_again)
        rc = next_range(b, &ranges, ret_again, err);
    b->first = 0;
    b->end = b->count;
    return rc;
}

/* An event that the own log cannot take: it is parked from the beginning of the next try. */
static ledger_rc relay_refused(struct ldg_sink_batch *b, bool *ret_again, ledger_error *err)
{
    const size_t i = err->done_count;
    const ledger_error why = *err;
    ledger_rc rc = LEDGER_ERR_REJECTED;

    if (!b->can_park || !b->park_rejected || i >= b->count ||
        (b->park_reason != NULL && b->park_reason[i].is_set))
        return rc;
    rc = refuse(b, i, &why, err);
    *ret_again = rc == LEDGER_OK;
    return rc;
}

/* Where it is not known which event was refused, the events are written one by one. */
static ledger_rc relay(struct ldg_sink_batch *b, bool *ret_again, ledger_error *err)
{
    ledger_error why;
    bool lost = false;
    ledger_rc rc = b->has_log ? b->sink->save(b->ctx, err) : LEDGER_OK;

    if (rc != LEDGER_OK || !b->has_log)
        return rc;
    rc = ldg_sink_relay(b, err);
    if (rc == LEDGER_OK)
        return b->sink->release(b->ctx, err);
    if (rc != LEDGER_ERR_REJECTED)
        return rc;
    why = *err;
    rc = b->sink->undo(b->ctx, &lost, err);
    if (rc != LEDGER_OK)
        return rc;
    *err = why;
    if (why.done_count != SIZE_MAX || b->log_alone)
        return relay_refused(b, ret_again, err);
    b->log_alone = true;
    *ret_again = lost;
    return lost ? LEDGER_OK : relay(b, ret_again, err);
}

ledger_rc ldg_sink_apply(struct ldg_sink_batch *b, bool *ret_again, ledger_error *err)
{
    ledger_rc rc;

    *ret_again = false;
    begin_brake(b);
    for (size_t i = 0; i < b->order_count; i++)
        b->orders[i].gaps = b->orders[i].new_count > 0; /* they themselves may be here */
    rc = ldg_sink_orders_load(b, err);
    if (rc == LEDGER_OK)
        rc = do_ranges(b, ret_again, err);
    if (rc == LEDGER_OK && !*ret_again)
        rc = relay(b, ret_again, err);
    if (rc == LEDGER_OK && !*ret_again && b->brake != NULL)
        rc = ldg_refusals_end(b->brake, err);
    if (rc == LEDGER_OK && !*ret_again)
        rc = ldg_sink_orders_note(b, err);
    return rc;
}

ledger_rc ldg_sink_retried(ledger_rc rc, void *ctx, int64_t id,
                           ledger_rc (*parked_note)(void *ctx, int64_t id, const char *reason,
                                                    ledger_error *err),
                           bool *ret_applied, ledger_error *err)
{
    const bool refused = rc == LEDGER_ERR_REJECTED || rc == LEDGER_ERR_POSITION_REUSED;
    ledger_error why;

    if (refused) {
        why = *err;
        rc = parked_note(ctx, id, why.message, err);
    }
    if (rc == LEDGER_OK)
        *ret_applied = !refused;
    return rc;
}
