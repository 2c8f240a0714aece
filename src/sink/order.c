/* Do the ids of an origin's entries rise here as they do there? Where they do, in each stream, a
 * trim ends at its last entry; where an entry has come late it has to look at the whole stream.
 *
 * Hides how that is found out without a look at the table per entry. Invariant: an origin that
 * counts as ordered is; one that does not may be. So where others may add at the same time what is
 * not seen here, or with ids that they reserved before, it counts as one no more; nor does one
 * whose keys are texts. */
#include "sink/sink.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* Entries that come so late are taken for ones out of order without a look. */
#define LATE_MAX 50000

static struct ldg_sink_order *order_of(const struct ldg_sink_batch *b, int origin)
{
    for (size_t i = 0; i < b->order_count; i++) {
        if (b->orders[i].origin == origin)
            return &b->orders[i];
    }
    return NULL;
}

bool ldg_sink_is_ordered(const struct ldg_sink_batch *b, int origin)
{
    const struct ldg_sink_order *order = order_of(b, origin);

    return order != NULL && order->ordered && !b->beside;
}

static ledger_rc order_add(struct ldg_sink_batch *b, size_t *cap, int origin, ledger_error *err)
{
    if (b->order_count == *cap) {
        struct ldg_sink_order *more;

        *cap = *cap == 0 ? 4 : *cap * 2;
        more = ldg_arena_calloc(b->arena, *cap, sizeof(*more));
        if (more == NULL)
            return ldg_fail_nomem(err);
        if (b->order_count > 0)
            memcpy(more, b->orders, b->order_count * sizeof(*more));
        b->orders = more;
    }
    b->orders[b->order_count++] =
        (struct ldg_sink_order){ .origin = origin, .lowest_new = INT64_MAX };
    return LEDGER_OK;
}

ledger_rc ldg_sink_orders_collect(struct ldg_sink_batch *b, ledger_error *err)
{
    size_t cap = 0;
    ledger_rc rc = LEDGER_OK;

    b->order_count = 0;
    b->orders = NULL;
    for (size_t i = 0; rc == LEDGER_OK && i < b->count; i++) {
        const struct ldg_op *op = &b->ops[i];
        struct ldg_sink_order *order;

        if (op->origin <= 0 || (op->kind != LDG_OP_APPEND && op->kind != LDG_OP_TRIM))
            continue;
        if (order_of(b, op->origin) == NULL)
            rc = order_add(b, &cap, op->origin, err);
        if (rc != LEDGER_OK || op->kind != LDG_OP_APPEND)
            continue;
        order = order_of(b, op->origin);
        if (op->key.number < order->lowest_new)
            order->lowest_new = op->key.number;
        if (op->key.number > order->highest_new)
            order->highest_new = op->key.number;
        order->new_count++;
    }
    for (size_t i = 0; i < b->order_count; i++) {
        struct ldg_sink_order *order = &b->orders[i];

        order->gaps = order->new_count > 0 &&
                      (uint64_t)order->highest_new - (uint64_t)order->lowest_new + 1 !=
                          (uint64_t)order->new_count;
    }
    return rc;
}

/* From now on it counts as out of order. */
static void give_up(struct ldg_sink_order *order)
{
    order->disorder = true;
    order->ordered = false;
}

ledger_rc ldg_sink_orders_load(struct ldg_sink_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < b->order_count; i++) {
        b->orders[i].disorder = false;
        rc = b->sink->order_load(b->ctx, b, &b->orders[i], err);
    }
    return rc;
}

void ldg_sink_orders_seen(struct ldg_sink_batch *b, int origin, int64_t id)
{
    struct ldg_sink_order *order = order_of(b, origin);
    bool own = false;

    if (order == NULL || !order->ordered || id <= b->lowest_reserved)
        return;
    for (size_t i = 0; i < b->count && !own; i++)
        own = b->reserved[i] == id;
    if (!own)
        give_up(order);
}

/* --- entries that come late ------------------------------------------------------------------ */

/* Ops of the plan's rows of one origin. */
struct rows {
    const struct ldg_sink_batch *b;
    uint32_t *ops;
    size_t count;
    bool rises, texts;
};

static ledger_rc rows_of(struct ldg_sink_batch *b, int origin, struct rows *rows, ledger_error *err)
{
    struct ldg_sink_item *item;
    size_t at = 0, i;
    int64_t last = INT64_MIN;

    *rows = (struct rows){ .b = b, .rises = true };
    rows->ops = ldg_arena_alloc(b->arena, (b->end - b->first) * sizeof(*rows->ops));
    if (rows->ops == NULL)
        return ldg_fail_nomem(err);
    while (ldg_sink_next_add(b, &at, &item, &i)) {
        const ledger_id key = b->ops[i].key;

        if (b->ops[i].origin != origin)
            continue;
        rows->texts = rows->texts || key.text != NULL;
        rows->rises = rows->rises && key.number > last;
        last = key.number;
        rows->ops[rows->count++] = (uint32_t)i;
    }
    return LEDGER_OK;
}

static int compare_rows(const void *a, const void *b, void *ctx)
{
    const struct ldg_sink_batch *batch = ctx;
    const uint32_t *x = a, *y = b;
    const int order = strcmp(batch->ops[*x].stream, batch->ops[*y].stream);

    return order != 0 ? order : *x < *y ? -1 : *x > *y;
}

/* Does the batch itself bring an entry behind a later one of its stream? Sorts the rows. */
static bool late_within(const struct rows *rows)
{
    const struct ldg_op *ops = rows->b->ops;
    bool late = false;

    if (rows->rises)
        return false;
    qsort_r(rows->ops, rows->count, sizeof(*rows->ops), compare_rows, (void *)rows->b);
    for (size_t i = 1; i < rows->count && !late; i++) {
        const struct ldg_op *a = &ops[rows->ops[i - 1]], *b = &ops[rows->ops[i]];

        late = b->key.number < a->key.number && strcmp(a->stream, b->stream) == 0;
    }
    return late;
}

/* Has a stream in the table a later entry than one of the rows? */
static ledger_rc late_before(struct ldg_sink_batch *b, const struct ldg_sink_order *order,
                             const struct rows *rows, bool *ret_late, ledger_error *err)
{
    uint32_t *below = ldg_arena_alloc(b->arena, rows->count * sizeof(*below));
    int64_t lowest = INT64_MAX;
    size_t count = 0;

    if (below == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < rows->count; i++) {
        const int64_t number = b->ops[rows->ops[i]].key.number;

        if (number >= order->highest)
            continue;
        below[count++] = rows->ops[i];
        if (number < lowest)
            lowest = number;
    }
    *ret_late = count > 0 && order->highest - lowest > LATE_MAX;
    if (count == 0 || *ret_late)
        return LEDGER_OK;
    return b->sink->order_late(b->ctx, b, order, below, count, ret_late, err);
}

/* The next range of the batch comes behind this one. */
static int64_t highest_of(const struct rows *rows, int64_t highest)
{
    for (size_t i = 0; i < rows->count; i++) {
        if (rows->b->ops[rows->ops[i]].key.number > highest)
            highest = rows->b->ops[rows->ops[i]].key.number;
    }
    return highest;
}

ledger_rc ldg_sink_orders_check(struct ldg_sink_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < b->order_count; i++) {
        struct ldg_sink_order *order = &b->orders[i];
        struct rows rows;
        bool late = false;

        if (!order->ordered || order->new_count == 0 || b->plan->add_count == 0)
            continue;
        rc = rows_of(b, order->origin, &rows, err);
        if (rc != LEDGER_OK || rows.count == 0)
            continue;
        late = b->beside || rows.texts;
        if (!late)
            rc = late_before(b, order, &rows, &late, err);
        if (rc == LEDGER_OK && !late)
            late = late_within(&rows);
        if (late)
            give_up(order);
        order->highest = highest_of(&rows, order->highest);
    }
    return rc;
}

ledger_rc ldg_sink_orders_note(struct ldg_sink_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < b->order_count; i++) {
        if (b->orders[i].disorder)
            rc = b->sink->order_note(b->ctx, b->orders[i].origin, err);
    }
    return rc;
}
