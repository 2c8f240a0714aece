/* Planning: what to do at the sink for each event, or why nothing. Pure: it sees events, the
 * caller's choices and the origins' numbers, and talks to nobody.
 *
 * An op addresses an entry by (origin, id at that origin), never by an id of the sink. Order in is
 * order out. */
#include <stdio.h>
#include <string.h>

#include "bridge/stages.h"

bool ldg_identity_parse(const char *text, struct ldg_identity *ret_identity)
{
    const char *colon = strrchr(text, ':');
    int64_t epoch;
    if (colon == NULL || colon == text || (size_t)(colon - text) >= sizeof(ret_identity->uuid) ||
        !ldg_int64_parse(colon + 1, false, &epoch))
        return false;
    memset(ret_identity, 0, sizeof(*ret_identity));
    memcpy(ret_identity->uuid, text, (size_t)(colon - text));
    ret_identity->epoch = epoch;
    return true;
}

static bool identity_equal(const struct ldg_identity *a, const struct ldg_identity *b)
{
    return a->epoch == b->epoch && strcmp(a->uuid, b->uuid) == 0;
}

static int find_identity(const struct ldg_origin_cache *origins, const struct ldg_identity *id)
{
    if (identity_equal(id, &origins->sink_identity))
        return 0;
    if (identity_equal(id, &origins->source_identity))
        return origins->source;
    for (size_t i = 0; i < origins->count; i++)
        if (identity_equal(id, &origins->items[i].identity))
            return origins->items[i].number;
    return -1;
}

/* -1: unknown. */
static int find_origin(const struct ldg_origin_cache *origins, const char *text)
{
    struct ldg_identity identity;
    return ldg_identity_parse(text, &identity) ? find_identity(origins, &identity) : -1;
}

static ledger_rc resolve(struct ldg_origin_cache *origins, ledger_store *store, const char *text,
                         ledger_error *err)
{
    struct ldg_identity identity;
    int number;
    if (text[0] == '\0' || !ldg_identity_parse(text, &identity) ||
        find_identity(origins, &identity) >= 0)
        return LEDGER_OK; /* a text that is no origin is the plan's to refuse */
    ledger_rc rc = ldg_store_origin_get(store, &identity, "", &number, err);
    if (rc != LEDGER_OK)
        return rc;
    if (origins->count == origins->cap) {
        size_t cap = origins->cap == 0 ? 8 : origins->cap * 2;
        void *items = ldg_realloc(origins->items, cap * sizeof(*origins->items));
        if (items == NULL)
            return ldg_fail_nomem(err);
        origins->items = items;
        origins->cap = cap;
    }
    origins->items[origins->count++] =
        (struct ldg_origin_item){ .identity = identity, .number = number };
    return LEDGER_OK;
}

ledger_rc ldg_origins_resolve(struct ldg_origin_cache *origins, ledger_store *store,
                              const ledger_mutation_event *event, ledger_error *err)
{
    ledger_rc rc = resolve(origins, store, event->origin, err);
    return rc == LEDGER_OK ? resolve(origins, store, event->entry_origin, err) : rc;
}

void ldg_origins_fini(struct ldg_origin_cache *origins)
{
    ldg_free(origins->items);
    origins->items = NULL;
    origins->count = origins->cap = 0;
}

static const char *explain(struct ldg_arena *arena, const char *what, const char *value)
{
    size_t size = strlen(what) + strlen(value) + 4;
    char *text = ldg_arena_alloc(arena, size);
    if (text != NULL)
        (void)snprintf(text, size, "%s \"%s\"", what, value);
    return text != NULL ? text : what; /* short of memory: the reason without its value */
}

size_t ldg_plan_op_count(const struct ldg_batch_event *item)
{
    if (item->bad == NULL && item->event.type == LEDGER_MUTATION_APPEND)
        return item->event.entry_count;
    return 1;
}

/* Where the event's entries live: their origin's number and whose id names them. */
struct address {
    int mutation_origin;
    int entry_origin;
    bool by_source_id;
    const char *text; /* of the entry's origin; "": the source's own */
};

static const char *find_address(const ledger_mutation_event *event,
                                const struct ldg_origin_cache *origins, struct ldg_arena *arena,
                                struct address *ret)
{
    ret->mutation_origin = origins->source;
    ret->entry_origin = origins->source;
    ret->by_source_id = false;
    ret->text = event->origin;
    if (event->origin[0] != '\0') {
        ret->mutation_origin = find_origin(origins, event->origin);
        if (ret->mutation_origin < 0)
            return explain(arena, "origin is not uuid:epoch:", event->origin);
        ret->entry_origin = ret->mutation_origin;
        ret->by_source_id = true;
    }
    if (event->entry_origin[0] != '\0') {
        ret->entry_origin = find_origin(origins, event->entry_origin);
        if (ret->entry_origin < 0)
            return explain(arena, "entry_origin is not uuid:epoch:", event->entry_origin);
        ret->by_source_id = true;
        ret->text = event->entry_origin;
    }
    return NULL;
}

/* The key that the text of an id says, a number from `least` on; else what is wrong with it. An id
 * of the source's own is of the source's kind; one of a third store may be of either. */
static const char *find_key(const char *id, const struct address *address, int64_t least,
                            const struct ldg_origin_cache *origins, struct ldg_arena *arena,
                            ledger_id *ret_key)
{
    const bool own = !address->by_source_id;
    ledger_id key;
    if (own && !origins->source_has_texts && (!ldg_id_parse(id, &key) || key.text != NULL))
        return explain(arena, "entry id is not a number:", id);
    if (own && origins->source_has_texts && ldg_id_parse(id, &key) && key.text == NULL)
        return explain(arena, "entry id is a number, and the source's ids are texts:", id);
    if (!ldg_id_parse(id, &key))
        return explain(arena, "entry id is neither a number nor a text of 1 to 63 bytes:", id);
    if (key.text != NULL && !origins->sink_takes_texts)
        return explain(arena, "entry id is a text, which this kind of sink cannot keep:", id);
    if (key.text == NULL && key.number < least)
        return explain(arena, "entry id is not a positive number:", id);
    *ret_key = key.number < 0 ? ldg_id_of(0) : key; /* no entry has one below: it reaches nothing */
    return NULL;
}

/* The ops of an event, and how many; what makes it impossible after all: the reason. */
static const char *plan_ops(const struct ldg_batch_event *item, const struct address *address,
                            const struct ldg_op *base, const struct ldg_origin_cache *origins,
                            struct ldg_arena *arena, struct ldg_op *ops, size_t *ret_count)
{
    const ledger_mutation_event *event = &item->event;
    const char *id = address->by_source_id ? event->source_id : event->entry_id, *why;
    *ret_count = 1;
    if (event->type != LEDGER_MUTATION_APPEND)
        ops[0] = *base;
    switch (event->type) {
    case LEDGER_MUTATION_APPEND:
        for (size_t i = 0; i < event->entry_count; i++) {
            const ledger_append_entry *entry = &event->entries[i];
            id = address->by_source_id ? entry->source_id : entry->id;
            ops[i] = *base;
            ops[i].kind = LDG_OP_APPEND;
            ops[i].part = (uint32_t)i;
            ops[i].parts = (uint32_t)event->entry_count;
            ops[i].entry = entry;
            ops[i].from_row = item->is_completed && entry->created_at_us != LEDGER_NO_TIME;
            if (entry->created_at_us != LEDGER_NO_TIME)
                ops[i].time_us = entry->created_at_us;
            else
                ops[i].inexact = true; /* the row that has the bytes is gone */
            why = find_key(id, address, 1, origins, arena, &ops[i].key);
            if (why != NULL)
                return why;
        }
        *ret_count = event->entry_count;
        return NULL;
    case LEDGER_MUTATION_SET_TAGS:
        ops[0].kind = LDG_OP_SET_TAGS;
        ops[0].tags = event->tags;
        break;
    case LEDGER_MUTATION_SET_ANNOTATIONS:
        ops[0].kind = LDG_OP_SET_ANNOTATIONS;
        ops[0].annotations = event->annotations;
        break;
    case LEDGER_MUTATION_TRIM:
        id = address->by_source_id ? event->source_id : event->before_id;
        ops[0].kind = LDG_OP_TRIM;
        ops[0].survivors = item->survivors;
        ops[0].survivor_count = item->survivor_count;
        break;
    case LEDGER_MUTATION_UNKNOWN:
        return explain(arena, "unknown mutation type", event->type_name);
    }
    return find_key(id, address, event->type == LEDGER_MUTATION_TRIM ? INT64_MIN : 0, origins,
                    arena, &ops[0].key);
}

/* An event that could not be read may lack anything. */
static void plan_park(const struct ldg_batch_event *item, const struct ldg_plan_rules *rules,
                      const struct ldg_op *base, bool readable, struct ldg_op *op)
{
    const ledger_mutation_event *event = &item->event;
    ledger_id entry;
    *op = *base;
    op->kind = LDG_OP_PARK;
    op->reason = item->bad;
    /* It may still say whose entry it is; what follows on that entry waits. Of a trim that would be
     * taken for the last entry which it deletes. */
    if ((!readable || event->type == LEDGER_MUTATION_UNKNOWN) &&
        event->type != LEDGER_MUTATION_TRIM && event->entry_id != NULL &&
        ldg_id_parse(event->entry_id, &entry) &&
        (entry.text != NULL) == rules->origins->source_has_texts &&
        (entry.text == NULL || rules->origins->sink_takes_texts) && entry.number >= 0)
        op->key = entry;
    if (op->origin < 0)
        op->origin = rules->origins->source;
    if (op->mutation_origin < 0)
        op->mutation_origin = rules->origins->source;
    if (op->stream == NULL)
        op->stream = "";
    if (op->type_name == NULL)
        op->type_name = "";
}

size_t ldg_plan_event(struct ldg_batch_event *item, const struct ldg_log_row *row, uint32_t index,
                      const struct ldg_plan_rules *rules, struct ldg_arena *arena,
                      struct ldg_op *ops)
{
    const ledger_mutation_event *event = &item->event;
    const bool readable = item->bad == NULL;
    struct address address = { .mutation_origin = rules->origins->source,
                               .entry_origin = rules->origins->source,
                               .text = "" };
    size_t count = 1;

    item->fate = LDG_FATE_OPS;
    if (readable) {
        if (event->type < LEDGER_MUTATION_UNKNOWN && (rules->skip_types >> event->type & 1) != 0) {
            item->fate = LDG_FATE_SKIP_OPTION;
            return 0;
        }
        item->bad = find_address(event, rules->origins, arena, &address);
        if (item->bad == NULL && event->origin[0] != '\0' && address.mutation_origin == 0) {
            item->fate = LDG_FATE_SKIP_ORIGIN;
            return 0;
        }
    }

    const struct ldg_op base = {
        .origin = address.entry_origin,
        .mutation_origin = address.mutation_origin,
        .position = event->origin[0] != '\0' ? event->origin_pos : row->position,
        .log_position = row->position,
        .log_time_us = row->created_at_us,
        .stream = event->stream,
        .time_us =
            event->created_at_us != LEDGER_NO_TIME ? event->created_at_us : row->created_at_us,
        .type_name = event->type_name,
        .source_uuid = rules->origins->source_identity.uuid,
        .event = row->payload,
        .event_index = index,
        .source_epoch = rules->origins->source_identity.epoch,
        .origin_text = address.text,
        .mutation_origin_text = event->origin,
    };
    if (item->bad == NULL)
        item->bad = plan_ops(item, &address, &base, rules->origins, arena, ops, &count);
    if (item->bad != NULL) {
        plan_park(item, rules, &base, readable, &ops[0]);
        count = 1;
    }
    return count;
}

ledger_rc ldg_plan(struct ldg_batch *batch, const struct ldg_plan_rules *rules, ledger_error *err)
{
    struct ldg_arena *arena = &batch->plan;
    size_t max_ops = 0;
    ldg_arena_reset(arena);
    for (size_t i = 0; i < batch->log.count; i++)
        max_ops += ldg_plan_op_count(&batch->events[i]);
    batch->ops = ldg_arena_alloc(arena, (max_ops + 1) * sizeof(*batch->ops));
    batch->outcomes = ldg_arena_calloc(arena, max_ops + 1, 1);
    if (batch->ops == NULL || batch->outcomes == NULL)
        return ldg_fail_nomem(err);
    batch->op_count = 0;
    for (size_t i = 0; i < batch->log.count; i++) {
        struct ldg_batch_event *item = &batch->events[i];
        batch->op_count += ldg_plan_event(item, &batch->log.rows[i], (uint32_t)i, rules, arena,
                                          batch->ops + batch->op_count);
        batch->has_bad |= item->bad != NULL;
    }
    return LEDGER_OK;
}
