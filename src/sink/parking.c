/* Who waits behind whom: while an event of an entry is parked no later one of that entry is
 * applied; it is parked behind, as is an append whose dedup key a parked trim would set free.
 *
 * The order of parked events is that of store/behind.c. Pure: over the rows that were looked up and
 * those that this range adds. */
#include "sink/plan.h"

#include <string.h>

#include "base/error.h"

/* Ids of the rows that this range parks: above all that are in the table, and below INT64_MAX,
 * which says that no row is tried again. */
#define NEW_IDS (INT64_MAX / 2)

static bool same_text(const char *a, const char *b)
{
    return strcmp(ldg_or_empty(a), ldg_or_empty(b)) == 0;
}

static bool is_of_log(const struct ldg_sink_parked *row, const struct ldg_op *op)
{
    return ldg_op_is_of_log(op, row->source_uuid);
}

static void link_row(struct ldg_sink_batch *b, struct ldg_sink_parked *row)
{
    struct ldg_sink_plan *p = b->plan;
    struct ldg_sink_item *item = NULL;

    row->next = p->parked;
    p->parked = row;
    row->next_of_item = NULL;
    if (!ldg_id_is_none(row->key))
        item = ldg_plan_find(p, row->origin, row->key);
    if (item == NULL)
        return;
    row->next_of_item = item->parked;
    item->parked = row;
}

ledger_rc ldg_sink_find_parked(struct ldg_sink_batch *b, ledger_error *err)
{
    struct ldg_parked_row *rows = NULL;
    struct ldg_sink_parked *parked;
    size_t count = 0;
    ledger_rc rc = LEDGER_OK;

    if (b->first < b->end)
        rc = b->sink->find_parked(b->ctx, b->ops + b->first, b->end - b->first, b->arena, &rows,
                                  &count, err);
    if (rc != LEDGER_OK || count == 0)
        return rc;
    parked = ldg_arena_calloc(b->arena, count, sizeof(*parked));
    if (parked == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < count; i++) {
        parked[i] = (struct ldg_sink_parked){
            .id = rows[i].id,
            .source_uuid = rows[i].source_uuid,
            .log_position = rows[i].log_position,
            .origin = rows[i].origin,
            .key = rows[i].key,
            .stream = rows[i].stream,
            .type_name = rows[i].type_name,
        };
        link_row(b, &parked[i]);
    }
    return LEDGER_OK;
}

/* --- behind whom ----------------------------------------------------------------------------- */

static struct ldg_place place_of(const struct ldg_sink_batch *b, const struct ldg_op *op,
                                 const struct ldg_sink_item *item)
{
    struct ldg_place place = ldg_place_of(op, b->parked_id);

    for (const struct ldg_sink_parked *row = item->parked; row != NULL; row = row->next_of_item) {
        if (!row->gone)
            ldg_place_note(&place, row->source_uuid, row->log_position, row->id);
    }
    return place;
}

/* May the event be a trim that deletes `holder`? One that can be read is compared; one of op's own
 * log that cannot be read may be anything. */
static bool may_free(const struct ldg_sink_batch *b, const struct ldg_sink_parked *row,
                     const struct ldg_op *op, const struct ldg_sink_item *holder)
{
    const bool earlier =
        is_of_log(row, op) ? row->log_position < op->log_position : row->id < b->parked_id;

    if (strcmp(row->type_name, "trim") == 0 && !ldg_id_is_none(row->key))
        return earlier && same_text(row->stream, op->stream) && holder->origin == row->origin &&
               ldg_id_is_up_to(holder->key, row->key);
    return is_of_log(row, op) && earlier &&
           (*row->stream == '\0' || same_text(row->stream, op->stream)) &&
           ldg_op_may_trim(row->type_name);
}

int64_t ldg_sink_parked_before(const struct ldg_sink_batch *b, const struct ldg_op *op,
                               enum ldg_wait wait, const struct ldg_sink_item *item,
                               const struct ldg_sink_item *holder)
{
    const bool of_entry = wait == LDG_WAIT_ENTRY;
    const struct ldg_sink_parked *row = of_entry ? item->parked : b->plan->parked;
    struct ldg_place place = { 0 };
    int64_t before = 0;

    if (of_entry && row != NULL)
        place = place_of(b, op, item);
    for (; row != NULL; row = of_entry ? row->next_of_item : row->next) {
        bool is_before;

        if (row->gone || row->id == b->parked_id)
            continue;
        if (of_entry)
            is_before = ldg_place_is_behind(&place, row->source_uuid, row->log_position, row->id);
        else if (wait == LDG_WAIT_MISSING)
            is_before =
                ldg_op_may_come_by(op, row->source_uuid, row->log_position, row->key, row->stream);
        else
            is_before = may_free(b, row, op, holder);
        if (is_before && (before == 0 || row->log_position < before))
            before = row->log_position;
    }
    return before;
}

/* --- what becomes of the rows ---------------------------------------------------------------- */

static struct ldg_sink_parked *find_row(const struct ldg_sink_batch *b, const struct ldg_op *op)
{
    struct ldg_sink_parked *row = b->plan->parked;

    while (row != NULL && (row->gone || row->log_position != op->log_position ||
                           !is_of_log(row, op) || !ldg_id_equal(row->key, op->key)))
        row = row->next;
    return row;
}

ledger_rc ldg_sink_park(struct ldg_sink_batch *b, size_t index, const char *reason, bool refused,
                        ledger_error *err)
{
    const struct ldg_op *op = &b->ops[index];
    struct ldg_sink_plan *p = b->plan;
    struct ldg_sink_parked *row = p->parked != NULL ? find_row(b, op) : NULL;

    p->parks[p->park_count++] =
        (struct ldg_sink_park){ .index = (uint32_t)index, .reason = reason, .refused = refused };
    b->outcomes[index] = LDG_OUTCOME_PARKED;
    b->ids[index] = 0;
    if (row == NULL) {
        row = ldg_arena_calloc(b->arena, 1, sizeof(*row));
        if (row == NULL)
            return ldg_fail_nomem(err);
        *row = (struct ldg_sink_parked){
            .id = NEW_IDS + ++p->last_parked_id,
            .source_uuid = ldg_or_empty(op->source_uuid),
            .log_position = op->log_position,
            .origin = op->origin,
            .key = op->key,
        };
        link_row(b, row);
    }
    row->stream = ldg_or_empty(op->stream); /* more of it may be known than before */
    row->type_name = ldg_or_empty(op->type_name);
    return LEDGER_OK;
}

void ldg_sink_park_done(struct ldg_sink_batch *b, const struct ldg_op *op)
{
    if (!b->can_park)
        return;
    for (struct ldg_sink_parked *row = b->plan->parked; row != NULL; row = row->next) {
        if (row->log_position == op->log_position && is_of_log(row, op) &&
            (ldg_id_is_none(row->key) || ldg_id_equal(row->key, op->key)))
            row->gone = true;
    }
}

/* Parked rows that were not looked up are deleted by the trim's own statement. */
bool ldg_sink_park_trim(struct ldg_sink_batch *b, const struct ldg_op *op)
{
    struct ldg_sink_plan *p = b->plan;
    const uint32_t before = p->park_count;
    uint32_t kept = 0;
    bool any = false;

    for (struct ldg_sink_parked *row = p->parked; row != NULL; row = row->next) {
        if (!row->gone && row->origin == op->origin && !ldg_id_is_none(row->key) &&
            same_text(row->stream, op->stream) && ldg_op_trims(op, row->key))
            row->gone = any = true;
    }
    for (uint32_t i = 0; i < before; i++) {
        const struct ldg_op *parked = &b->ops[p->parks[i].index];

        if (parked->origin == op->origin && !ldg_id_is_none(parked->key) &&
            same_text(parked->stream, op->stream) && ldg_op_trims(op, parked->key))
            continue;
        p->parks[kept++] = p->parks[i];
    }
    p->park_count = kept;
    return any;
}

ledger_rc ldg_sink_park_end(struct ldg_sink_batch *b, ledger_error *err)
{
    struct ldg_sink_plan *p = b->plan;
    int64_t *ids;
    size_t count = 0;

    for (const struct ldg_sink_parked *row = p->parked; row != NULL; row = row->next)
        count += row->gone && row->id < NEW_IDS;
    if (count == 0)
        return LEDGER_OK;
    ids = ldg_arena_alloc(b->arena, count * sizeof(*ids));
    if (ids == NULL)
        return ldg_fail_nomem(err);
    p->unparked = ids;
    for (const struct ldg_sink_parked *row = p->parked; row != NULL; row = row->next) {
        if (row->gone && row->id < NEW_IDS)
            ids[p->unparked_count++] = row->id;
    }
    return LEDGER_OK;
}
