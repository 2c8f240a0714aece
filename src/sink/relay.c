/* Bridged mutations in the sink's own log, so that bridges can be chained.
 *
 * Hides how an event names its origin. Invariant: one event comes, one goes out, in the transaction
 * that applied it and behind its rows; what changed nothing here writes none. */
#include "sink/sink.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "event/event.h"

#define EVENT_BUFFER_KEPT ((size_t)1024 * 1024)

struct origin_text {
    int number;
    char text[LDG_UUID_TEXT_MAX + 24]; /* "uuid:epoch" */
};

struct relay {
    struct ldg_sink_batch *b;
    struct origin_text *origins; /* all that the batch names */
    size_t origin_count, origin_cap;
    ledger_append_entry *entries;    /* of the event in hand */
    char (*ids)[LEDGER_ID_TEXT_MAX]; /* two per entry */
    size_t entry_cap;
    struct ldg_buf text;
};

/* --- origins --------------------------------------------------------------------------------- */

static const char *origin_known(const struct relay *r, int number)
{
    for (size_t i = 0; i < r->origin_count; i++) {
        if (r->origins[i].number == number)
            return r->origins[i].text;
    }
    return NULL;
}

static ledger_rc origin_load(struct relay *r, int number, ledger_error *err)
{
    struct ldg_sink_batch *b = r->b;
    struct ldg_identity identity;
    struct origin_text *item;
    ledger_rc rc;

    if (origin_known(r, number) != NULL)
        return LEDGER_OK;
    if (r->origin_count == r->origin_cap) {
        const size_t cap = r->origin_cap == 0 ? 4 : r->origin_cap * 2;
        struct origin_text *more = ldg_arena_calloc(b->arena, cap, sizeof(*more));

        if (more == NULL)
            return ldg_fail_nomem(err);
        if (r->origin_count > 0)
            memcpy(more, r->origins, r->origin_count * sizeof(*more));
        r->origins = more;
        r->origin_cap = cap;
    }
    rc = b->sink->origin(b->ctx, number, &identity, err);
    if (rc != LEDGER_OK)
        return rc;
    item = &r->origins[r->origin_count++];
    item->number = number;
    snprintf(item->text, sizeof(item->text), "%s:%" PRId64, identity.uuid, identity.epoch);
    return LEDGER_OK;
}

/* All before the first event: no other statement runs while events are written. */
static ledger_rc origins_load(struct relay *r, ledger_error *err)
{
    const struct ldg_sink_batch *b = r->b;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < b->count; i++) {
        if (b->ids[i] == 0)
            continue;
        rc = origin_load(r, b->ops[i].mutation_origin, err);
        if (rc == LEDGER_OK && b->ops[i].origin != b->ops[i].mutation_origin)
            rc = origin_load(r, b->ops[i].origin, err);
    }
    return rc;
}

/* --- events ---------------------------------------------------------------------------------- */

static ledger_rc put_event(struct relay *r, const ledger_mutation_event *event, ledger_error *err)
{
    struct ldg_sink_batch *b = r->b;
    ledger_rc rc;

    ldg_buf_reset(&r->text);
    rc = ldg_event_encode(event, &r->text, err);
    if (rc == LEDGER_OK)
        rc = b->sink->log_event(b->ctx, (ledger_bytes){ r->text.data, r->text.size }, err);
    if (r->text.cap > EVENT_BUFFER_KEPT) {
        const size_t max = r->text.max;

        ldg_buf_fini(&r->text);
        ldg_buf_init(&r->text, max);
    }
    return rc;
}

static ledger_rc grow_entries(struct relay *r, size_t count, ledger_error *err)
{
    if (count <= r->entry_cap)
        return LEDGER_OK;
    r->entry_cap = count;
    r->entries = ldg_arena_calloc(r->b->arena, count, sizeof(*r->entries));
    r->ids = ldg_arena_calloc(r->b->arena, count, 2 * sizeof(*r->ids));
    return r->entries != NULL && r->ids != NULL ? LEDGER_OK : ldg_fail_nomem(err);
}

/* Ops [first, end): appends of one event. */
static ledger_rc relay_appends(struct relay *r, size_t first, size_t end, ledger_error *err)
{
    const struct ldg_sink_batch *b = r->b;
    const struct ldg_op *op;
    ledger_mutation_event event;
    size_t count = 0;
    ledger_rc rc;

    while (first < end && b->ids[first] == 0)
        first++;
    if (first == end)
        return LEDGER_OK;
    rc = grow_entries(r, end - first, err);
    if (rc != LEDGER_OK)
        return rc;
    for (size_t i = first; i < end; i++) {
        ledger_append_entry *entry = &r->entries[count];
        char *id = r->ids[2 * count];

        if (b->ids[i] == 0)
            continue;
        snprintf(id, LEDGER_ID_TEXT_MAX, "%" PRId64, b->ids[i]);
        *entry = *b->ops[i].entry;
        entry->id = id;
        entry->source_id = ldg_id_text(b->ops[i].key, r->ids[2 * count + 1]);
        entry->created_at_us = ldg_sink_time(b, &b->ops[i]);
        count++;
    }
    op = &b->ops[first];
    event = ldg_op_event(op, b->now_us);
    event.origin = origin_known(r, op->mutation_origin);
    if (op->origin != op->mutation_origin)
        event.entry_origin = origin_known(r, op->origin);
    event.created_at_us = r->entries[0].created_at_us;
    event.entries = r->entries;
    event.entry_count = count;
    return put_event(r, &event, err);
}

static ledger_rc relay_change(struct relay *r, size_t i, ledger_error *err)
{
    const struct ldg_op *op = &r->b->ops[i];
    char id[24], source_id[LEDGER_ID_TEXT_MAX];
    ledger_mutation_event event = ldg_op_event(op, r->b->now_us);

    event.origin = origin_known(r, op->mutation_origin);
    if (op->origin != op->mutation_origin)
        event.entry_origin = origin_known(r, op->origin);
    snprintf(id, sizeof(id), "%" PRId64, r->b->ids[i]);
    ldg_op_event_ids(op, id, ldg_id_text(op->key, source_id), &event);
    return put_event(r, &event, err);
}

static bool is_same_event(const struct ldg_op *a, const struct ldg_op *b)
{
    return b->kind == LDG_OP_APPEND && a->event_index == b->event_index &&
           (a->stream == b->stream || strcmp(a->stream, b->stream) == 0);
}

static ledger_rc relay_all(struct relay *r, ledger_error *err)
{
    const struct ldg_sink_batch *b = r->b;
    ledger_rc rc = LEDGER_OK;
    size_t at = 0;

    for (size_t i = 0, end; rc == LEDGER_OK && i < b->count; i = end) {
        at = i;
        end = i + 1;
        if (b->ops[i].kind == LDG_OP_APPEND) {
            while (end < b->count && is_same_event(&b->ops[i], &b->ops[end]))
                end++;
            rc = relay_appends(r, i, end, err);
        } else if (b->ids[i] != 0) {
            rc = relay_change(r, i, err);
        }
    }
    if (rc != LEDGER_OK)
        err->done_count = at;
    return rc;
}

ledger_rc ldg_sink_relay(struct ldg_sink_batch *b, ledger_error *err)
{
    struct relay r = { .b = b };
    bool any = false;
    ledger_rc rc;

    for (size_t i = 0; b->has_log && i < b->count && !any; i++)
        any = b->ids[i] != 0;
    if (!any)
        return LEDGER_OK;
    rc = origins_load(&r, err);
    if (rc == LEDGER_OK)
        rc = b->sink->log_begin(b->ctx, err);
    if (rc != LEDGER_OK) {
        err->done_count = SIZE_MAX;
        return rc;
    }
    ldg_buf_init(&r.text, b->event_max);
    rc = relay_all(&r, err);
    ldg_buf_fini(&r.text);
    if (rc == LEDGER_OK) {
        rc = b->sink->log_end(b->ctx, err);
        if (rc != LEDGER_OK)
            err->done_count = SIZE_MAX;
    }
    return rc;
}
