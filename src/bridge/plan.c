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

int ldg_origin_find(const struct ldg_origin_cache *origins, const char *text)
{
    struct ldg_identity identity;
    return ldg_identity_parse(text, &identity) ? find_identity(origins, &identity) : -1;
}

static ledger_rc resolve(struct ldg_origin_cache *origins, ledger_store *sink, const char *text,
                         ledger_error *err)
{
    struct ldg_identity identity;
    int number;
    if (text[0] == '\0' || !ldg_identity_parse(text, &identity) ||
        find_identity(origins, &identity) >= 0)
        return LEDGER_OK; /* a text that is no origin is the plan's to refuse */
    ledger_rc rc = ldg_store_origin_get(sink, &identity, "", &number, err);
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
        (struct ldg_origin_item){.identity = identity, .number = number};
    return LEDGER_OK;
}

ledger_rc ldg_origins_resolve(struct ldg_origin_cache *origins, ledger_store *sink,
                              const ledger_mutation_event *event, ledger_error *err)
{
    ledger_rc rc = resolve(origins, sink, event->origin, err);
    return rc == LEDGER_OK ? resolve(origins, sink, event->entry_origin, err) : rc;
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
};

static const char *find_address(const ledger_mutation_event *event,
                                const struct ldg_origin_cache *origins, struct ldg_arena *arena,
                                struct address *ret)
{
    ret->mutation_origin = origins->source;
    ret->entry_origin = origins->source;
    ret->by_source_id = false;
    if (event->origin[0] != '\0') {
        ret->mutation_origin = ldg_origin_find(origins, event->origin);
        if (ret->mutation_origin < 0)
            return explain(arena, "origin is not uuid:epoch:", event->origin);
        ret->entry_origin = ret->mutation_origin;
        ret->by_source_id = true;
    }
    if (event->entry_origin[0] != '\0') {
        ret->entry_origin = ldg_origin_find(origins, event->entry_origin);
        if (ret->entry_origin < 0)
            return explain(arena, "entry_origin is not uuid:epoch:", event->entry_origin);
        ret->by_source_id = true;
    }
    return NULL;
}

ledger_rc ldg_plan_event(const struct ldg_batch_event *item, const struct ldg_log_row *row,
                         uint32_t index, const struct ldg_plan_rules *rules,
                         struct ldg_arena *arena, struct ldg_op *ops, size_t *ret_count,
                         const char **ret_bad, uint8_t *ret_fate, ledger_error *err)
{
    const ledger_mutation_event *event = &item->event;
    struct address address = {.mutation_origin = rules->origins->source};
    const char *bad = item->bad;
    size_t count = 0;

    *ret_bad = NULL;
    *ret_fate = LDG_FATE_OPS;
    *ret_count = 0;
    if (bad == NULL && event->type < LEDGER_MUTATION_UNKNOWN &&
        (rules->skip_types >> event->type & 1) != 0) {
        *ret_fate = LDG_FATE_SKIP_OPTION;
        return LEDGER_OK;
    }
    if (bad == NULL)
        bad = find_address(event, rules->origins, arena, &address);
    if (bad == NULL && event->origin[0] != '\0' && address.mutation_origin == 0) {
        *ret_fate = LDG_FATE_SKIP_ORIGIN;
        return LEDGER_OK;
    }

    struct ldg_op base = {
        .origin = address.entry_origin,
        .mutation_origin = address.mutation_origin,
        .position = event->origin[0] != '\0' ? event->origin_pos : row->position,
        .log_position = row->position,
        .log_time_us = row->created_at_us,
        .stream = event->stream,
        .time_us = event->created_at_us != LEDGER_NO_TIME ? event->created_at_us
                                                          : row->created_at_us,
        .type_name = event->type_name,
        .source_uuid = rules->origins->source_identity.uuid,
        .event = row->payload,
        .event_index = index,
    };
    if (bad == NULL) {
        const char *id = event->type == LEDGER_MUTATION_TRIM ? event->before_id : event->entry_id;
        switch (event->type) {
        case LEDGER_MUTATION_APPEND:
            for (; count < event->entry_count && bad == NULL; count++) {
                const ledger_append_entry *entry = &event->entries[count];
                id = address.by_source_id ? entry->source_id : entry->id;
                ops[count] = base;
                ops[count].kind = LDG_OP_APPEND;
                ops[count].entry = entry;
                if (entry->created_at_us != LEDGER_NO_TIME)
                    ops[count].time_us = entry->created_at_us;
                if (!ldg_int64_parse(id, false, &ops[count].source_pos) ||
                    ops[count].source_pos <= 0)
                    bad = explain(arena, "entry id is not a positive number:", id);
            }
            break;
        case LEDGER_MUTATION_SET_TAGS:
        case LEDGER_MUTATION_SET_ANNOTATIONS:
        case LEDGER_MUTATION_TRIM:
            id = address.by_source_id ? event->source_id : id;
            ops[0] = base;
            count = 1;
            if (event->type == LEDGER_MUTATION_SET_TAGS) {
                ops[0].kind = LDG_OP_SET_TAGS;
                ops[0].tags = event->tags;
            } else if (event->type == LEDGER_MUTATION_SET_ANNOTATIONS) {
                ops[0].kind = LDG_OP_SET_ANNOTATIONS;
                ops[0].annotations = event->annotations;
            } else {
                ops[0].kind = LDG_OP_TRIM;
                ops[0].kept = item->kept;
                ops[0].kept_count = item->kept_count;
            }
            if (!ldg_int64_parse(id, false, &ops[0].source_pos))
                bad = explain(arena, "entry id is not a number:", id);
            break;
        case LEDGER_MUTATION_UNKNOWN:
            bad = explain(arena, "unknown mutation type", event->type_name);
            break;
        }
        if (event->type >= LEDGER_MUTATION_UNKNOWN && bad == NULL)
            bad = "unknown mutation type";
    }
    if (bad != NULL) {
        /* An unknown type may still say whose entry it is; what follows on that entry waits. */
        int64_t entry = 0;
        ops[0] = base;
        ops[0].kind = LDG_OP_PARK;
        ops[0].reason = bad;
        if (item->bad == NULL && event->type == LEDGER_MUTATION_UNKNOWN &&
            event->entry_id != NULL && ldg_int64_parse(event->entry_id, false, &entry))
            ops[0].source_pos = entry;
        if (ops[0].origin < 0)
            ops[0].origin = rules->origins->source;
        if (ops[0].mutation_origin < 0)
            ops[0].mutation_origin = rules->origins->source;
        if (ops[0].stream == NULL)
            ops[0].stream = "";
        if (ops[0].type_name == NULL)
            ops[0].type_name = "";
        count = 1;
        *ret_bad = bad;
    }
    *ret_count = count;
    return LEDGER_OK;
}

ledger_rc ldg_plan(struct ldg_batch *batch, const struct ldg_plan_rules *rules, ledger_error *err)
{
    struct ldg_arena *arena = &batch->log.arena;
    size_t max_ops = 0;
    for (size_t i = 0; i < batch->log.count; i++)
        max_ops += ldg_plan_op_count(&batch->events[i]);
    batch->ops = ldg_arena_calloc(arena, max_ops + 1, sizeof(*batch->ops));
    batch->outcomes = ldg_arena_calloc(arena, max_ops + 1, 1);
    if (batch->ops == NULL || batch->outcomes == NULL)
        return ldg_fail_nomem(err);
    batch->op_count = 0;
    for (size_t i = 0; i < batch->log.count; i++) {
        struct ldg_batch_event *item = &batch->events[i];
        const char *bad = NULL;
        size_t count = 0;
        ledger_rc rc = ldg_plan_event(item, &batch->log.rows[i], (uint32_t)i, rules, arena,
                                      batch->ops + batch->op_count, &count, &bad, &item->fate, err);
        if (rc != LEDGER_OK)
            return rc;
        if (bad != NULL) {
            item->bad = bad;
            batch->has_bad = true;
        }
        batch->op_count += count;
    }
    return LEDGER_OK;
}
