/* What the backend answers: the rows that it has looked up, and what became of what it wrote.
 *
 * Hides which answer stands for which ops. Invariant: what is kept of a row is a copy; of an entry
 * that was looked up twice the first answer counts. */
#include "sink/plan.h"

#include <string.h>

#include "base/error.h"

/* --- what is here ---------------------------------------------------------------------------- */

void ldg_sink_collect(struct ldg_sink_batch *b)
{
    for (size_t i = b->first; i < b->end; i++) {
        const struct ldg_op *op = &b->ops[i];
        struct ldg_sink_item *item;

        if (op->kind != LDG_OP_APPEND && op->kind != LDG_OP_SET_TAGS &&
            op->kind != LDG_OP_SET_ANNOTATIONS)
            continue;
        item = ldg_plan_item(b->plan, op->origin, op->key, op->stream);
        if (op->kind == LDG_OP_APPEND && item->append == NULL) {
            item->append = op;
            item->append_index = (uint32_t)i;
        }
    }
}

ledger_rc ldg_sink_found_entry(struct ldg_sink_batch *b, const struct ldg_sink_found *found,
                               ledger_error *err)
{
    struct ldg_sink_item *item = ldg_plan_find(b->plan, found->origin, found->key);
    ledger_id key;
    ledger_rc rc = LEDGER_OK;

    if (item != NULL && item->state == LDG_SINK_STORED)
        return LEDGER_OK; /* by its key and by its dedup key */
    if (item == NULL) {
        if (!ldg_id_copy(found->key, b->arena, &key))
            return ldg_fail_nomem(err);
        item = ldg_plan_item(b->plan, found->origin, key, "");
    }
    item->differs = found->differs;
    if (item->append != NULL && found->stored != NULL && item->differs == NULL)
        rc = ldg_op_compare(item->append, found->stored, b->arena, &item->differs, err);
    if (rc != LEDGER_OK)
        return rc;
    item->state = LDG_SINK_STORED;
    item->id = found->id;
    item->tags_pos = found->tags_pos;
    item->annotations_pos = found->annotations_pos;
    item->unmergeable = found->unmergeable;
    if (strcmp(item->stream, found->stream) != 0)
        item->stream = ldg_arena_strdup(b->arena, found->stream);
    item->dedup_key = ldg_arena_strdup(b->arena, found->dedup_key != NULL ? found->dedup_key : "");
    if (item->stream == NULL || item->dedup_key == NULL)
        return ldg_fail_nomem(err);
    ldg_plan_enter(b->plan, item);
    ldg_sink_orders_seen(b, item->origin, item->id);
    return LEDGER_OK;
}

ledger_rc ldg_sink_found_mark(struct ldg_sink_batch *b, int origin, ledger_id key, int64_t id,
                              const struct ldg_sink_mark *mark, ledger_error *err)
{
    struct ldg_sink_item *item = ldg_plan_find(b->plan, origin, key);
    struct ldg_sink_mark *copy;

    /* What is deleted here and carried again begins anew. */
    if (item == NULL || item->state != LDG_SINK_STORED || item->id != id)
        return LEDGER_OK;
    copy = ldg_arena_memdup(b->arena, mark, sizeof(*mark));
    if (copy == NULL)
        return ldg_fail_nomem(err);
    copy->is_new = false;
    copy->next = item->marks;
    item->marks = copy;
    return LEDGER_OK;
}

/* --- what became of it ----------------------------------------------------------------------- */

ledger_rc ldg_sink_changed(struct ldg_sink_batch *b, const struct ldg_sink_item *item, bool changed,
                           int64_t id, int64_t tags_pos, int64_t annotations_pos, ledger_error *err)
{
    const struct ldg_sink_plan *p = b->plan;
    const bool older = tags_pos < item->tags_at.last || annotations_pos < item->annotations_at.last;
    uint8_t outcome = LDG_OUTCOME_APPLIED;

    if (!changed && p->informed)
        return ldg_fail(err, LEDGER_ERR_BUSY, "another transaction changes the same entries");
    if (!changed && id != 0 && older) /* or there is nothing to merge with */
        return ldg_fail(err, LEDGER_ERR_REJECTED, "a change was made before, another was not");
    if (!changed)
        outcome = id == 0 ? LDG_OUTCOME_MISSING : LDG_OUTCOME_REPLAYED;
    for (uint32_t i = item->last_change; i != LDG_SINK_NONE; i = p->before[i - b->first]) {
        b->outcomes[i] = outcome;
        b->ids[i] = changed ? id : 0;
    }
    return LEDGER_OK;
}

void ldg_sink_trimmed(struct ldg_sink_batch *b, size_t index, int64_t highest, bool unparked)
{
    if (highest > b->ids[index])
        b->ids[index] = highest;
    if (b->ids[index] > 0 || unparked)
        b->outcomes[index] = LDG_OUTCOME_APPLIED;
}

void ldg_sink_added(struct ldg_sink_batch *b, struct ldg_sink_item *item, size_t index, int64_t id)
{
    b->ids[index] = id;
    if (item == NULL)
        return;
    item->id = id;
    for (uint32_t i = item->last_change; i != LDG_SINK_NONE; i = b->plan->before[i - b->first])
        b->ids[i] = id;
}
