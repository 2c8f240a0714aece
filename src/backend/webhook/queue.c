/* The ops of a batch by stream: a stream has one request under way at a time, so its order stays,
 * and others go beside it. Pure. */
#include <string.h>

#include "backend/webhook/webhook.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/mem.h"

/* --- where requests end besides -------------------------------------------------------------- */

void ldg_webhook_cuts_fini(struct ldg_webhook_cuts *cuts)
{
    ldg_free(cuts->items);
    *cuts = (struct ldg_webhook_cuts){ 0 };
}

/* The place of op's cut, be it there or not. */
static size_t find_cut(const struct ldg_webhook_cuts *cuts, const struct ldg_op *op)
{
    size_t low = 0, high = cuts->count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const struct ldg_webhook_cut *cut = &cuts->items[middle];
        if (cut->log_position < op->log_position ||
            (cut->log_position == op->log_position && cut->part < op->part))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool ldg_webhook_cuts_has(const struct ldg_webhook_cuts *cuts, const struct ldg_op *op)
{
    const size_t at = find_cut(cuts, op);
    return at < cuts->count && cuts->items[at].log_position == op->log_position &&
           cuts->items[at].part == op->part;
}

ledger_rc ldg_webhook_cuts_add(struct ldg_webhook_cuts *cuts, const struct ldg_op *op,
                               ledger_error *err)
{
    if (ldg_webhook_cuts_has(cuts, op))
        return LEDGER_OK;
    if (cuts->count == cuts->cap) {
        const size_t cap = cuts->cap > 0 ? 2 * cuts->cap : 16;
        struct ldg_webhook_cut *items = ldg_realloc(cuts->items, cap * sizeof(*items));
        if (items == NULL)
            return ldg_fail_nomem(err);
        cuts->items = items;
        cuts->cap = cap;
    }
    const size_t at = find_cut(cuts, op);
    memmove(cuts->items + at + 1, cuts->items + at, (cuts->count - at) * sizeof(*cuts->items));
    cuts->items[at] =
        (struct ldg_webhook_cut){ .log_position = op->log_position, .part = op->part };
    cuts->count++;
    return LEDGER_OK;
}

/* --- lanes ----------------------------------------------------------------------------------- */

/* The slot of a stream in an open table of numbers of lanes, 0: free, else the number and 1. */
static uint32_t *find_slot(const struct ldg_webhook_queue *queue, uint32_t *table, size_t size,
                           const char *stream)
{
    size_t at = ldg_hash64(stream, strlen(stream), 0) & (size - 1);
    while (table[at] != 0 &&
           strcmp(queue->ops[queue->lanes[table[at] - 1].head].stream, stream) != 0)
        at = (at + 1) & (size - 1);
    return &table[at];
}

ledger_rc ldg_webhook_queue_init(struct ldg_webhook_queue *queue, const struct ldg_op *ops,
                                 size_t count, struct ldg_arena *arena, ledger_error *err)
{
    size_t size = 16;
    while (size < 2 * count)
        size *= 2;
    *queue = (struct ldg_webhook_queue){
        .ops = ops,
        .next = ldg_arena_calloc(arena, count, sizeof(*queue->next)),
        .lanes = ldg_arena_calloc(arena, count, sizeof(*queue->lanes)),
        .ring = ldg_arena_calloc(arena, count, sizeof(*queue->ring)),
    };
    uint32_t *table = ldg_arena_calloc(arena, size, sizeof(*table));
    if (queue->next == NULL || queue->lanes == NULL || queue->ring == NULL || table == NULL)
        return ldg_fail_nomem(err);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t *slot = find_slot(queue, table, size, ops[i].stream);
        queue->next[i] = LDG_WEBHOOK_NO_OP;
        if (*slot == 0) {
            const uint32_t lane = (uint32_t)queue->lane_count++;
            queue->lanes[lane] = (struct ldg_webhook_lane){ .head = i, .tail = i };
            queue->ring[queue->ring_count++] = lane;
            *slot = lane + 1;
        } else {
            struct ldg_webhook_lane *lane = &queue->lanes[*slot - 1];
            queue->next[lane->tail] = i;
            lane->tail = i;
        }
    }
    return LEDGER_OK;
}

struct ldg_webhook_lane *ldg_webhook_queue_take(struct ldg_webhook_queue *queue)
{
    if (queue->ring_count == 0)
        return NULL;
    struct ldg_webhook_lane *lane = &queue->lanes[queue->ring[queue->ring_first]];
    queue->ring_first = (queue->ring_first + 1) % queue->lane_count;
    queue->ring_count--;
    return lane;
}

void ldg_webhook_queue_put(struct ldg_webhook_queue *queue, struct ldg_webhook_lane *lane,
                           uint32_t head)
{
    lane->head = head;
    if (head == LDG_WEBHOOK_NO_OP)
        return;
    queue->ring[(queue->ring_first + queue->ring_count) % queue->lane_count] =
        (uint32_t)(lane - queue->lanes);
    queue->ring_count++;
}
