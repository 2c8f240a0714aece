/* What the ops of a range amount to, op by op in the order of the log, on a picture of the entries
 * that they name.
 *
 * Hides what ops on one entry, one key and one stream come to together. Pure: no I/O. Invariant:
 * rows and outcomes are those of one op after the other, in every way a batch can take; what an
 * optimistic plan takes for granted is found out by whoever writes it. */
#include "sink/plan.h"

#include <string.h>

#include "base/error.h"
#include "event/event.h"

static ledger_rc cannot_tell(const char *why, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_REJECTED, "%s", why);
}

/* --- marks ----------------------------------------------------------------------------------- */

static struct ldg_sink_mark *mark_find(const struct ldg_sink_item *item, int origin,
                                       enum ldg_op_kind kind)
{
    struct ldg_sink_mark *mark = item->marks;

    while (mark != NULL && (mark->origin != origin || mark->kind != kind))
        mark = mark->next;
    return mark;
}

static ledger_rc mark_set(struct ldg_sink_batch *b, struct ldg_sink_item *item,
                          const struct ldg_op *op, ledger_error *err)
{
    struct ldg_sink_mark *mark = mark_find(item, op->mutation_origin, op->kind);

    if (mark == NULL) {
        mark = ldg_arena_calloc(b->arena, 1, sizeof(*mark));
        if (mark == NULL)
            return ldg_fail_nomem(err);
        mark->origin = op->mutation_origin;
        mark->kind = op->kind;
        mark->next = item->marks;
        item->marks = mark;
    }
    mark->position = op->position;
    if (!mark->is_new)
        b->plan->mark_count++;
    mark->is_new = true;
    return LEDGER_OK;
}

/* --- appends --------------------------------------------------------------------------------- */

/* An append of an entry that is in the table as this batch left it. */
static ledger_rc compare_added(const struct ldg_sink_batch *b, const struct ldg_sink_item *item,
                               const struct ldg_op *op, const char **ret_field, ledger_error *err)
{
    const ledger_append_entry *entry = item->append->entry;
    const struct ldg_stored stored = {
        .stream = { item->append->stream, strlen(item->append->stream) },
        .payload = entry->payload,
        .order_key = { entry->order_key, strlen(entry->order_key) },
        .dedup_key = { entry->dedup_key, strlen(entry->dedup_key) },
        .schema_version = entry->schema_version,
        .metadata = entry->metadata,
        .created_at_us = item->append->time_us,
        .by_go = item->append->inexact,
    };

    return ldg_op_compare(op, &stored, b->arena, ret_field, err);
}

/* Came the entry by another way, after this batch had drawn its ids? What comes behind it in its
 * stream, in this batch or in one that drew its ids after it, would get a lower one. */
static ledger_rc check_overtaken(struct ldg_sink_batch *b, const struct ldg_sink_item *item,
                                 uint32_t i, ledger_error *err)
{
    if (b->reserved == NULL || b->reserved[i] < b->lowest_reserved || item->id <= b->reserved[i])
        return LEDGER_OK;
    b->overtaken = true;
    return ldg_fail(err, LEDGER_ERR_BUSY,
                    "another bridge has added an entry of this batch meanwhile");
}

/* What is here already is looked at first: a replay must not be refused, nor wait. */
static ledger_rc resolve_replay(struct ldg_sink_batch *b, const struct ldg_sink_item *item,
                                uint32_t i, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    const char *field = item->differs;
    ledger_rc rc = LEDGER_OK;

    if (item->state == LDG_SINK_ADDED || op != item->append)
        rc = compare_added(b, item, op, &field, err);
    if (rc == LEDGER_OK && field == NULL)
        field = item->differs;
    if (rc == LEDGER_OK && field != NULL && !b->plan->informed)
        return cannot_tell("two entries have one key", err);
    if (rc == LEDGER_OK && field != NULL) {
        rc = ldg_op_fail_reused(op, field, err);
        b->culprit = i;
    }
    if (rc == LEDGER_OK)
        rc = check_overtaken(b, item, i, err);
    b->outcomes[i] = LDG_OUTCOME_REPLAYED;
    return rc;
}

static void add_entry(struct ldg_sink_batch *b, struct ldg_sink_item *item, uint32_t i)
{
    const struct ldg_op *op = &b->ops[i];

    item->state = LDG_SINK_ADDED;
    item->stream = op->stream;
    item->append = op;
    item->append_index = i;
    item->dedup_key = op->entry->dedup_key;
    item->id = b->reserved != NULL ? b->reserved[i] : 0;
    item->differs = NULL;
    item->tags_pos = item->annotations_pos = 0;
    b->plan->add_count++;
    b->outcomes[i] = LDG_OUTCOME_APPLIED;
    b->ids[i] = item->id;
    ldg_plan_enter(b->plan, item);
}

static ledger_rc resolve_append(struct ldg_sink_batch *b, struct ldg_sink_item *item, uint32_t i,
                                const struct ldg_sink_item **ret_holder, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];

    /* Changes of it were planned before: whether they have a row is not known. */
    if (item->state == LDG_SINK_UNKNOWN && (item->changed || item->unseen))
        return cannot_tell("an entry comes behind its changes", err);
    if (op->origin == 0) { /* written here and gone since */
        b->outcomes[i] = LDG_OUTCOME_MISSING;
        return LEDGER_OK;
    }
    *ret_holder = ldg_plan_holder(b->plan, op->stream, op->entry->dedup_key);
    if (*ret_holder != NULL)
        b->outcomes[i] = LDG_OUTCOME_DEDUPLICATED;
    else
        add_entry(b, item, i);
    return LEDGER_OK;
}

/* --- changes --------------------------------------------------------------------------------- */

/* A kind that was left out for a while comes after younger changes of the other. */
static struct ldg_sink_span *span_of(struct ldg_sink_item *item, const struct ldg_op *op)
{
    return op->kind == LDG_OP_SET_TAGS ? &item->tags_at : &item->annotations_at;
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static bool is_old(struct ldg_sink_item *item, const struct ldg_op *op)
{
    const struct ldg_sink_mark *mark;
    int64_t last;

    if (ldg_sink_is_guarded(op)) {
        last = later(span_of(item, op)->last,
                     op->kind == LDG_OP_SET_TAGS ? item->tags_pos : item->annotations_pos);
    } else {
        mark = mark_find(item, op->mutation_origin, op->kind);
        last = mark != NULL ? mark->position : 0;
    }
    return op->position <= last;
}

/* Of a row that was here before: the later value of a key counts, and NULL deletes it there. */
static ledger_rc append_map(const struct ldg_sink_batch *b, ledger_map old, ledger_map new,
                            ledger_map *ret_map, ledger_error *err)
{
    ledger_pair *both = ldg_arena_calloc(b->arena, old.count + new.count, sizeof(*both));

    if (both == NULL)
        return ldg_fail_nomem(err);
    if (old.count > 0)
        memcpy(both, old.items, old.count * sizeof(*both));
    if (new.count > 0)
        memcpy(both + old.count, new.items, new.count * sizeof(*both));
    return ldg_map_sort((ledger_map){ both, old.count + new.count }, b->arena, ret_map, err);
}

static ledger_rc merge(const struct ldg_sink_batch *b, struct ldg_sink_item *item,
                       const struct ldg_op *op, ledger_error *err)
{
    ledger_rc rc;

    if (item->state == LDG_SINK_ADDED)
        rc = ldg_map_merge(item->annotations, op->annotations, b->arena, &item->annotations, err);
    else
        rc = append_map(b, item->annotations, op->annotations, &item->annotations, err);
    item->annotated = true;
    return rc;
}

/* A late change leaves the time that a younger one of the other kind has set. */
static bool sets_time(const struct ldg_sink_item *item, const struct ldg_op *op)
{
    const int64_t other = op->kind == LDG_OP_SET_TAGS
                              ? later(item->annotations_pos, item->annotations_at.last)
                              : later(item->tags_pos, item->tags_at.last);

    return !ldg_sink_is_guarded(op) || op->position >= other;
}

/* The change becomes part of the item. */
static ledger_rc fold(struct ldg_sink_batch *b, struct ldg_sink_item *item, uint32_t i,
                      ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    struct ldg_sink_span *span = span_of(item, op);
    ledger_rc rc = LEDGER_OK;

    if (sets_time(item, op))
        item->time_us = ldg_sink_time(b, op);
    if (op->kind == LDG_OP_SET_TAGS)
        item->tags = op;
    else
        rc = merge(b, item, op, err);
    if (ldg_sink_is_guarded(op)) {
        if (span->last == 0)
            span->first = op->position;
        span->last = op->position;
    } else if (rc == LEDGER_OK) {
        rc = mark_set(b, item, op, err);
    }
    if (!item->changed && item->state != LDG_SINK_ADDED)
        b->plan->change_count++;
    item->changed = true;
    b->plan->before[i - b->first] = item->last_change;
    item->last_change = i;
    b->outcomes[i] = LDG_OUTCOME_APPLIED;
    b->ids[i] = item->id;
    return rc;
}

/* Did a trim of this batch take the entry away, if it was here? */
static bool was_trimmed(struct ldg_sink_batch *b, const struct ldg_op *op)
{
    struct ldg_sink_plan *p = b->plan;
    const struct ldg_sink_group *group;
    bool trimmed = false;

    if (!p->has_trims)
        return false;
    group = ldg_plan_group(p, op->origin, op->stream);
    for (uint32_t i = group->last_trim; i != LDG_SINK_NONE && !trimmed; i = p->before[i - b->first])
        trimmed = ldg_op_trims(&b->ops[i], op->key);
    return trimmed;
}

/* Optimistic: nothing is known of the row but what this batch has done to it. */
static ledger_rc resolve_unknown(struct ldg_sink_batch *b, struct ldg_sink_item *item, uint32_t i,
                                 ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];

    if (was_trimmed(b, op)) {
        b->outcomes[i] = LDG_OUTCOME_MISSING;
        return LEDGER_OK;
    }
    if (item->changed && (is_old(item, op) || strcmp(item->stream, op->stream) != 0))
        return cannot_tell("changes of an entry come twice", err);
    item->stream = op->stream; /* one that was trimmed may have named another */
    return fold(b, item, i, err);
}

static ledger_rc resolve_change(struct ldg_sink_batch *b, struct ldg_sink_item *item, uint32_t i,
                                ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    ledger_rc rc = LEDGER_OK;

    if (item->state == LDG_SINK_UNKNOWN && !item->unseen)
        return resolve_unknown(b, item, i, err);
    if (!ldg_plan_is_here(item) || strcmp(item->stream, op->stream) != 0)
        b->outcomes[i] = LDG_OUTCOME_MISSING;
    else if (is_old(item, op))
        b->outcomes[i] = LDG_OUTCOME_REPLAYED;
    else if (op->kind == LDG_OP_SET_ANNOTATIONS && item->unmergeable)
        rc = ldg_fail(err, LEDGER_ERR_REJECTED,
                      "the annotations of entry %lld are no JSON object of strings",
                      (long long)item->id);
    else
        rc = fold(b, item, i, err);
    if (rc == LEDGER_ERR_REJECTED)
        b->culprit = i;
    return rc;
}

/* --- trims ----------------------------------------------------------------------------------- */

/* The item is deleted. What was planned for its row is planned no more. */
static void delete_item(struct ldg_sink_batch *b, struct ldg_sink_item *item, uint32_t trim)
{
    struct ldg_sink_plan *p = b->plan;

    if (item->state == LDG_SINK_ADDED) {
        p->add_count--;
        p->unseen_count += !p->informed && !item->unseen;
        item->unseen = !p->informed;
        if (item->id > b->ids[trim])
            b->ids[trim] = item->id;
    } else if (item->changed) {
        p->change_count--;
    }
    for (const struct ldg_sink_mark *mark = item->marks; mark != NULL; mark = mark->next)
        p->mark_count -= mark->is_new;
    item->state = p->informed ? LDG_SINK_ABSENT : LDG_SINK_UNKNOWN;
    item->id = 0;
    item->changed = item->annotated = false;
    item->tags = NULL;
    item->annotations = (ledger_map){ NULL, 0 };
    item->tags_at = item->annotations_at = (struct ldg_sink_span){ 0 };
    item->tags_pos = item->annotations_pos = 0;
    item->time_us = LEDGER_NO_TIME;
    item->marks = NULL;
    item->last_change = LDG_SINK_NONE;
}

static ledger_rc resolve_trim(struct ldg_sink_batch *b, uint32_t i, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    struct ldg_sink_plan *p = b->plan;
    struct ldg_sink_group *group = ldg_plan_group(p, op->origin, op->stream);
    uint32_t *link = &group->first, last = LDG_SINK_NONE;

    while (*link != LDG_SINK_NONE) {
        struct ldg_sink_item *item = &p->items[*link];

        if (ldg_op_trims(op, item->key)) {
            /* Events name it by its id: it has to be in first, so the range ends before the trim.
             */
            if (item->state == LDG_SINK_ADDED && item->id == 0) {
                b->culprit = i;
                return cannot_tell("an entry is trimmed that has no id yet", err);
            }
            *link = item->next;
            delete_item(b, item, i);
        } else {
            last = *link;
            link = &item->next;
        }
    }
    group->last = last;
    if (!group->trimmed || ldg_id_compare(op->key, group->reach) > 0)
        group->reach = op->key;
    group->trimmed = true;
    p->before[i - b->first] = group->last_trim;
    group->last_trim = i;
    p->trim_count++;
    /* until ldg_sink_trimmed() */
    b->outcomes[i] = ldg_sink_park_trim(b, op) ? LDG_OUTCOME_APPLIED : LDG_OUTCOME_REPLAYED;
    return LEDGER_OK;
}

/* --- all ops --------------------------------------------------------------------------------- */

/* *ret_waits: op was parked behind another event, or is refused because of it. */
static ledger_rc wait_behind(struct ldg_sink_batch *b, uint32_t i, enum ldg_wait wait,
                             const struct ldg_sink_item *item, const struct ldg_sink_item *holder,
                             bool *ret_waits, ledger_error *err)
{
    const int64_t position = ldg_sink_parked_before(b, &b->ops[i], wait, item, holder);
    char text[LDG_OP_WAIT_MAX];
    const char *reason;
    ledger_rc rc = LEDGER_OK;

    *ret_waits = position != 0;
    if (position == 0)
        return LEDGER_OK;
    ldg_op_wait_reason(position, wait, text);
    if (!b->can_park) {
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "%s", text);
        b->culprit = i;
        return rc;
    }
    reason = ldg_arena_strdup(b->arena, text);
    return reason != NULL ? ldg_sink_park(b, i, reason, false, err) : ldg_fail_nomem(err);
}

/* An op on an entry. */
static ledger_rc resolve_entry(struct ldg_sink_batch *b, uint32_t i, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    const bool append = op->kind == LDG_OP_APPEND;
    struct ldg_sink_item *item = ldg_plan_item(b->plan, op->origin, op->key, op->stream);
    const struct ldg_sink_item *holder = NULL;
    enum ldg_wait wait;
    bool waits = false;
    ledger_rc rc = LEDGER_OK;

    if (append && ldg_plan_is_here(item)) {
        rc = resolve_replay(b, item, i, err);
    } else {
        rc = wait_behind(b, i, LDG_WAIT_ENTRY, item, NULL, &waits, err);
        if (rc == LEDGER_OK && !waits)
            rc =
                append ? resolve_append(b, item, i, &holder, err) : resolve_change(b, item, i, err);
        if (rc == LEDGER_OK && !waits && ldg_op_may_wait(op, b->outcomes[i], &wait))
            rc = wait_behind(b, i, wait, item, holder, &waits, err);
    }
    if (rc == LEDGER_OK && !waits)
        ldg_sink_park_done(b, op);
    return rc;
}

static ledger_rc resolve_one(struct ldg_sink_batch *b, uint32_t i, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    ledger_rc rc = LEDGER_OK;

    b->ids[i] = 0;
    b->outcomes[i] = LDG_OUTCOME_MISSING;
    if (b->park_reason != NULL && b->park_reason[i].is_set)
        return ldg_sink_park(b, i, b->park_reason[i].why.message, true, err);
    if (ldg_op_was_made_here(op)) { /* it is here already: it neither waits nor is refused */
        b->outcomes[i] = LDG_OUTCOME_REPLAYED;
        ldg_sink_park_done(b, op);
        return LEDGER_OK;
    }
    switch (op->kind) {
    case LDG_OP_APPEND:
    case LDG_OP_SET_TAGS:
    case LDG_OP_SET_ANNOTATIONS:
        rc = resolve_entry(b, i, err);
        break;
    case LDG_OP_TRIM:
        rc = resolve_trim(b, i, err);
        if (rc == LEDGER_OK)
            ldg_sink_park_done(b, op);
        break;
    case LDG_OP_PARK:
    default:
        if (b->can_park)
            return ldg_sink_park(b, i, op->reason != NULL ? op->reason : "", false, err);
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "%s",
                      op->reason != NULL ? op->reason : "this operation is not known here");
        b->culprit = i;
        break;
    }
    return rc;
}

ledger_rc ldg_sink_resolve(struct ldg_sink_batch *b, ledger_error *err)
{
    struct ldg_sink_plan *p = b->plan;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = b->first; p->only_adds && i < b->end; i++) {
        b->ids[i] = b->reserved != NULL ? b->reserved[i] : 0;
        b->outcomes[i] = LDG_OUTCOME_APPLIED;
        p->add_count++;
    }
    for (size_t i = b->first; rc == LEDGER_OK && !p->only_adds && i < b->end; i++)
        rc = resolve_one(b, (uint32_t)i, err);
    if (rc == LEDGER_OK)
        rc = ldg_sink_park_end(b, err);
    return rc;
}
