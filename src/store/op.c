/* What an op and its fence mean, whatever the database: for the backends, so that none has an
 * opinion of its own. Pure: no I/O, no state. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "event/event.h"
#include "store/backend.h"

static ledger_mutation_type type_of(enum ldg_op_kind kind)
{
    static const ledger_mutation_type types[] = {
        [LDG_OP_APPEND] = LEDGER_MUTATION_APPEND,
        [LDG_OP_SET_TAGS] = LEDGER_MUTATION_SET_TAGS,
        [LDG_OP_SET_ANNOTATIONS] = LEDGER_MUTATION_SET_ANNOTATIONS,
        [LDG_OP_TRIM] = LEDGER_MUTATION_TRIM,
        [LDG_OP_PARK] = LEDGER_MUTATION_UNKNOWN,
    };

    return types[kind];
}

ledger_mutation_event ldg_op_event(const struct ldg_op *op)
{
    ledger_mutation_event event = ldg_event_blank(type_of(op->kind), op->stream, op->time_us);

    event.tags = op->tags;
    event.annotations = op->annotations;
    event.origin_pos = op->position;
    return event;
}

void ldg_op_event_ids(const struct ldg_op *op, const char *id, const char *source_id,
                      ledger_mutation_event *event)
{
    if (op->kind == LDG_OP_TRIM)
        event->before_id = id;
    else
        event->entry_id = id;
    event->source_id = source_id;
}

void ldg_op_wait_reason(int64_t log_position, bool entry_missing, char text[LDG_OP_WAIT_MAX])
{
    snprintf(text, LDG_OP_WAIT_MAX,
             entry_missing ? "its entry may be in parked event %" PRId64
                           : "behind parked event %" PRId64,
             log_position);
}

ledger_rc ldg_cursor_compare(const char *name, const struct ldg_cursor *found,
                             const struct ldg_cursor *expected, ledger_error *err)
{
    if (!found)
        return ldg_fail(err, LEDGER_ERR_FENCED, "cursor \"%s\" was deleted", name);
    if (strcmp(found->state, expected->state) != 0 ||
        strcmp(found->readable, expected->readable) != 0)
        return ldg_fail(err, LEDGER_ERR_FENCED,
                        "another bridge has moved cursor \"%s\" from \"%s\" to \"%s\"", name,
                        expected->readable, found->readable);
    return LEDGER_OK;
}

bool ldg_op_keeps(const struct ldg_op *op, int64_t source_pos)
{
    size_t low = 0, high = op->kept_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (op->kept[middle] < source_pos)
            low = middle + 1;
        else
            high = middle;
    }
    return low < op->kept_count && op->kept[low] == source_pos;
}

ledger_rc ldg_op_parked_event(const struct ldg_op *op, struct ldg_buf *buf, ledger_bytes *ret_event,
                              ledger_error *err)
{
    struct ldg_arena arena;
    ledger_mutation_event event;
    ledger_append_entry entry;
    ledger_bytes result = op->event;
    ledger_error ignored = { 0 };
    ledger_rc rc = LEDGER_OK;

    ldg_arena_init(&arena, 0);
    if (op->kind != LDG_OP_APPEND)
        goto out;
    rc = ldg_event_decode(op->event, &arena, &event, &ignored);
    if (rc == LEDGER_ERR_NOMEM) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    if (rc != LEDGER_OK || event.entry_count <= 1) { /* as it was read is best */
        rc = LEDGER_OK;
        goto out;
    }
    entry = *op->entry;
    if (entry.created_at_us == LEDGER_NO_TIME)
        entry.created_at_us = op->time_us;
    event.entries = &entry;
    event.entry_count = 1;
    rc = ldg_event_encode(&event, buf, err);
    result = (ledger_bytes){ .data = buf->data, .size = buf->size };
out:
    ldg_arena_fini(&arena);
    if (rc == LEDGER_OK)
        *ret_event = result;
    return rc;
}
