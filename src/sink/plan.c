/* The tables of a plan.
 *
 * Hides two open hashes and the chains of what is here. Invariant: an item is in its group while it
 * is here; its dedup key may stand in the hash when it is not. */
#include "sink/plan.h"

#include <string.h>

#include "base/error.h"
#include "base/hash.h"

static bool has_text(const char *text)
{
    return text != NULL && *text != '\0';
}

static bool has_room(const struct ldg_sink_batch *b, const struct ldg_sink_plan *p)
{
    return p->items != NULL && p->before != NULL && p->item_slots != NULL && p->key_slots != NULL &&
           (!p->has_trims || (p->groups != NULL && p->group_slots != NULL)) &&
           (!b->can_park || p->parks != NULL);
}

ledger_rc ldg_plan_begin(struct ldg_sink_batch *b, bool informed, ledger_error *err)
{
    const size_t count = b->end - b->first;
    /* an op names one entry; the one that has its dedup key may be another */
    const size_t items = informed ? 2 * count : count;
    struct ldg_sink_plan *p = ldg_arena_calloc(b->arena, 1, sizeof(*p));
    size_t slots = 64;

    b->plan = p;
    if (p == NULL)
        return ldg_fail_nomem(err);
    p->informed = informed;
    p->only_adds = !informed;
    for (size_t i = b->first; i < b->end; i++) {
        p->only_adds = p->only_adds && b->ops[i].kind == LDG_OP_APPEND && b->ops[i].origin > 0;
        p->has_trims = p->has_trims || b->ops[i].kind == LDG_OP_TRIM;
    }
    if (p->only_adds)
        return LEDGER_OK;
    while (slots < 2 * items)
        slots *= 2;
    p->mask = slots - 1;
    p->items = ldg_arena_alloc(b->arena, items * sizeof(*p->items));
    p->before = ldg_arena_alloc(b->arena, count * sizeof(*p->before));
    p->item_slots = ldg_arena_calloc(b->arena, slots, sizeof(*p->item_slots));
    p->key_slots = ldg_arena_calloc(b->arena, slots, sizeof(*p->key_slots));
    if (p->has_trims) {
        p->groups = ldg_arena_alloc(b->arena, items * sizeof(*p->groups));
        p->group_slots = ldg_arena_calloc(b->arena, slots, sizeof(*p->group_slots));
    }
    if (b->can_park)
        p->parks = ldg_arena_alloc(b->arena, count * sizeof(*p->parks));
    return has_room(b, p) ? LEDGER_OK : ldg_fail_nomem(err);
}

/* --- entries --------------------------------------------------------------------------------- */

static uint32_t *item_slot(const struct ldg_sink_plan *p, int origin, ledger_id key)
{
    size_t at = ldg_id_hash(key, (uint64_t)origin) & p->mask;

    while (p->item_slots[at] != 0) {
        const struct ldg_sink_item *item = &p->items[p->item_slots[at] - 1];

        if (item->origin == origin && ldg_id_equal(item->key, key))
            break;
        at = (at + 1) & p->mask;
    }
    return &p->item_slots[at];
}

struct ldg_sink_item *ldg_plan_find(const struct ldg_sink_plan *p, int origin, ledger_id key)
{
    const uint32_t *slot = p->item_slots != NULL ? item_slot(p, origin, key) : NULL;

    return slot != NULL && *slot != 0 ? &p->items[*slot - 1] : NULL;
}

struct ldg_sink_item *ldg_plan_item(struct ldg_sink_plan *p, int origin, ledger_id key,
                                    const char *stream)
{
    uint32_t *slot = item_slot(p, origin, key);
    struct ldg_sink_item *item;

    if (*slot != 0)
        return &p->items[*slot - 1];
    item = &p->items[p->item_count];
    *slot = ++p->item_count;
    *item = (struct ldg_sink_item){
        .origin = origin,
        .key = key,
        .stream = stream,
        .state = p->informed ? LDG_SINK_ABSENT : LDG_SINK_UNKNOWN,
        .time_us = LEDGER_NO_TIME,
        .last_change = LDG_SINK_NONE,
        .next = LDG_SINK_NONE,
    };
    return item;
}

/* --- streams --------------------------------------------------------------------------------- */

struct ldg_sink_group *ldg_plan_group(struct ldg_sink_plan *p, int origin, const char *stream)
{
    size_t at = ldg_hash64(stream, strlen(stream), (uint64_t)origin) & p->mask;
    struct ldg_sink_group *group;

    while (p->group_slots[at] != 0) {
        group = &p->groups[p->group_slots[at] - 1];
        if (group->origin == origin &&
            (group->stream == stream || strcmp(group->stream, stream) == 0))
            return group;
        at = (at + 1) & p->mask;
    }
    group = &p->groups[p->group_count];
    p->group_slots[at] = ++p->group_count;
    *group = (struct ldg_sink_group){
        .origin = origin,
        .stream = stream,
        .first = LDG_SINK_NONE,
        .last = LDG_SINK_NONE,
        .last_trim = LDG_SINK_NONE,
    };
    return group;
}

static void group_enter(struct ldg_sink_plan *p, struct ldg_sink_item *item)
{
    const uint32_t number = (uint32_t)(item - p->items);
    struct ldg_sink_group *group = ldg_plan_group(p, item->origin, item->stream);

    item->next = LDG_SINK_NONE;
    if (group->first == LDG_SINK_NONE)
        group->first = number;
    else
        p->items[group->last].next = number;
    group->last = number;
}

/* --- dedup keys ------------------------------------------------------------------------------ */

static size_t key_start(const struct ldg_sink_plan *p, const char *stream, const char *key)
{
    return ldg_hash64(key, strlen(key), ldg_hash64(stream, strlen(stream), 0)) & p->mask;
}

static void key_enter(struct ldg_sink_plan *p, const struct ldg_sink_item *item)
{
    const uint32_t number = (uint32_t)(item - p->items) + 1;
    size_t at = key_start(p, item->stream, item->dedup_key);

    while (p->key_slots[at] != 0 && p->key_slots[at] != number)
        at = (at + 1) & p->mask;
    p->key_slots[at] = number;
}

struct ldg_sink_item *ldg_plan_holder(struct ldg_sink_plan *p, const char *stream, const char *key)
{
    if (!has_text(key))
        return NULL;
    for (size_t at = key_start(p, stream, key); p->key_slots[at] != 0; at = (at + 1) & p->mask) {
        struct ldg_sink_item *item = &p->items[p->key_slots[at] - 1];

        if (strcmp(item->dedup_key, key) != 0 || strcmp(item->stream, stream) != 0)
            continue;
        if (ldg_plan_is_here(item))
            return item;
        p->key_again = true;
    }
    return NULL;
}

void ldg_plan_enter(struct ldg_sink_plan *p, struct ldg_sink_item *item)
{
    if (has_text(item->dedup_key))
        key_enter(p, item);
    if (p->has_trims)
        group_enter(p, item);
}

/* --- what the plan says ---------------------------------------------------------------------- */

/* A trim would delete an entry that the batch adds behind it, though it lies below; and whether the
 * key of one that is added and trimmed was free can be seen only before it is used again. */
bool ldg_sink_may_add_first(const struct ldg_sink_batch *b)
{
    const struct ldg_sink_plan *p = b->plan;
    bool may = !p->key_again;

    for (uint32_t g = 0; g < p->group_count && may; g++) {
        const struct ldg_sink_group *group = &p->groups[g];

        if (!group->trimmed)
            continue;
        for (uint32_t at = group->first; at != LDG_SINK_NONE && may; at = p->items[at].next)
            may = ldg_id_compare(p->items[at].key, group->reach) > 0;
    }
    return may;
}

/* Not in order of the items: an entry may be named, or added and trimmed, before it comes. */
bool ldg_sink_next_add(const struct ldg_sink_batch *b, size_t *at, struct ldg_sink_item **ret_item,
                       size_t *ret_index)
{
    const struct ldg_sink_plan *p = b->plan;

    while (*at < b->end - b->first) {
        const size_t i = b->first + (*at)++;
        const struct ldg_op *op = &b->ops[i];
        struct ldg_sink_item *item = NULL;

        if (!p->only_adds && op->kind == LDG_OP_APPEND)
            item = ldg_plan_find(p, op->origin, op->key);
        if (!p->only_adds &&
            (item == NULL || item->state != LDG_SINK_ADDED || item->append_index != i))
            continue;
        *ret_item = item;
        *ret_index = i;
        return true;
    }
    return false;
}

bool ldg_sink_adds_key_before(const struct ldg_sink_batch *b, size_t index, const char *key)
{
    const struct ldg_sink_plan *p = b->plan;
    const char *stream = b->ops[index].stream;

    if (p->informed || p->only_adds || !has_text(key))
        return false;
    for (size_t at = key_start(p, stream, key); p->key_slots[at] != 0; at = (at + 1) & p->mask) {
        const struct ldg_sink_item *item = &p->items[p->key_slots[at] - 1];

        if (item->state == LDG_SINK_ADDED && item->append_index < index &&
            strcmp(item->dedup_key, key) == 0 && strcmp(item->stream, stream) == 0)
            return true;
    }
    return false;
}
