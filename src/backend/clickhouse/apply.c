/* The batch: fence, ops, parked events, cursor; each after the one before. Appends that meet
 * nothing may be sent while the batch before them is on its way; the fence comes behind them then.
 *
 * There is no transaction. A batch that breaks off is done again from its cursor, and what was
 * written of it is written again as it is: the same row, with the same version. So appends are not
 * looked for; a change is made of the row that is there. Invariants: the cursor is written last,
 * and nothing that it passes is not written; a bridge that was overtaken writes what is known
 * already, and its cursor loses to the one that is further.
 *
 * Dedup keys are not looked at. Those of one source are unique there; whether two sources use one
 * key cannot be found out beside others who write, and shall not depend on how batches are cut. */
#include "backend/clickhouse/apply.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"

/* --- callbacks ------------------------------------------------------------------------------- */

/* Numbers that rise, and differ from those that another bridge gives at the same time. */
static int64_t new_parked_id(const struct ldg_ch_batch *b)
{
    return ((b->s.now_us / 1000) << 20) + b->parked_salt + (int64_t)b->park_count;
}

static struct ldg_parked_row row_of_park(const struct ldg_ch_park *park)
{
    const struct ldg_op *op = park->op;
    struct ldg_parked_row row = {
        .id = park->id,
        .log_position = op->log_position,
        .origin = op->origin,
        .key = op->key,
        .type_name = ldg_or_empty(op->type_name),
        .stream = ldg_or_empty(op->stream),
        .reason = park->reason,
        .attempts = park->known != NULL ? park->known->row.attempts + 1 : 1,
        .time_us = op->log_time_us,
    };

    memcpy(row.source_uuid, ldg_or_empty(op->source_uuid),
           strlen(ldg_or_empty(op->source_uuid)) + 1);
    return row;
}

static bool is_unparked(const struct ldg_ch_batch *b, int64_t id)
{
    bool is = false;

    for (size_t i = 0; i < b->unparked_count && !is; i++)
        is = b->unparked[i]->row.id == id;
    return is;
}

static bool is_parked_anew(const struct ldg_ch_batch *b, int64_t id)
{
    bool is = false;

    for (size_t i = 0; i < b->park_count && !is; i++)
        is = b->parks[i].id == id;
    return is;
}

/* Those of the table, as they will be when the batch is done so far. */
static ledger_rc find_parked(void *ctx, const struct ldg_op *ops, size_t count,
                             struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                             size_t *ret_count, ledger_error *err)
{
    struct ldg_ch_batch *b = ctx;
    struct ldg_parked_row *rows;
    size_t row_count = 0;
    ledger_rc rc = ldg_ch_parked_near_all(b->ch, ops, count, arena, &b->near, &b->near_count, err);

    if (rc != LEDGER_OK)
        return rc;
    rows = ldg_arena_calloc(arena, b->near_count + b->park_count + 1, sizeof(*rows));
    if (rows == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < b->near_count; i++) {
        if (!is_unparked(b, b->near[i].row.id) && !is_parked_anew(b, b->near[i].row.id))
            rows[row_count++] = b->near[i].row;
    }
    for (size_t i = 0; i < b->park_count; i++) {
        if (!b->parks[i].is_gone)
            rows[row_count++] = row_of_park(&b->parks[i]);
    }
    *ret_rows = rows;
    *ret_count = row_count;
    return LEDGER_OK;
}

static const struct ldg_ch_parked *near_of(const struct ldg_ch_batch *b, const struct ldg_op *op)
{
    for (size_t i = 0; i < b->near_count; i++) {
        const struct ldg_parked_row *row = &b->near[i].row;

        if (row->log_position == op->log_position && ldg_id_equal(row->key, op->key) &&
            ldg_op_is_of_log(op, row->source_uuid))
            return &b->near[i];
    }
    return NULL;
}

static ledger_rc park(void *ctx, const struct ldg_op *op, const char *reason, bool *ret_new,
                      ledger_error *err)
{
    struct ldg_ch_batch *b = ctx;
    const struct ldg_ch_parked *known = near_of(b, op);

    b->parks = ldg_arena_grow(b->s.arena, b->parks, sizeof(*b->parks), b->park_count, &b->park_cap);
    if (b->parks == NULL)
        return ldg_fail_nomem(err);
    b->parks[b->park_count] = (struct ldg_ch_park){
        .id = known != NULL ? known->row.id : new_parked_id(b),
        .op = &b->ops[op - b->s.ops], /* as it came, with its dedup key */
        .reason = reason,
        .known = known,
    };
    b->park_count++;
    *ret_new = known == NULL;
    return LEDGER_OK;
}

static ledger_rc unpark(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    struct ldg_ch_batch *b = ctx;

    for (size_t i = 0; i < s->plan->unparked_count; i++) {
        const int64_t id = s->plan->unparked[i];

        for (size_t k = 0; k < b->park_count; k++)
            b->parks[k].is_gone = b->parks[k].is_gone || b->parks[k].id == id;
        for (size_t k = 0; k < b->near_count; k++) {
            if (b->near[k].row.id != id)
                continue;
            b->unparked = ldg_arena_grow(s->arena, b->unparked, sizeof(*b->unparked),
                                         b->unparked_count, &b->unparked_cap);
            if (b->unparked == NULL)
                return ldg_fail_nomem(err);
            b->unparked[b->unparked_count++] = &b->near[k];
        }
    }
    return LEDGER_OK;
}

/* Foreign positions stand in the rows. */
static ledger_rc note(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    return LEDGER_OK;
}

/* What is not written yet is taken back by not writing it. */
static ledger_rc save(void *ctx, ledger_error *err)
{
    struct ldg_ch_batch *b = ctx;

    b->park_saved = b->park_count;
    b->unparked_saved = b->unparked_count;
    return LEDGER_OK;
}

static ledger_rc release(void *ctx, ledger_error *err)
{
    return LEDGER_OK;
}

static ledger_rc undo(void *ctx, bool *ret_lost, ledger_error *err)
{
    struct ldg_ch_batch *b = ctx;

    b->park_count = b->park_saved;
    b->unparked_count = b->unparked_saved;
    ldg_ch_block_reset(&b->ch->rows);
    *ret_lost = false;
    return LEDGER_OK;
}

static ledger_rc recheck(void *ctx, ledger_error *err)
{
    return ldg_ch_schema_verify(((struct ldg_ch_batch *)ctx)->ch, err);
}

static uint64_t reason(void *ctx, const ledger_error *err)
{
    return ldg_refusal_reason(err, "");
}

/* Trims go by the table's own key. */
static ledger_rc order_load(void *ctx, struct ldg_sink_batch *s, struct ldg_sink_order *order,
                            ledger_error *err)
{
    order->ordered = false;
    order->highest = 0;
    return LEDGER_OK;
}

static const struct ldg_sink callbacks = {
    .find_parked = find_parked,
    .look_up = ldg_ch_look_up,
    .unpark = unpark,
    .change = ldg_ch_change,
    .add = ldg_ch_add,
    .note = note,
    .park = park,
    .save = save,
    .release = release,
    .undo = undo,
    .recheck = recheck,
    .reason = reason,
    .order_load = order_load,
};

/* --- the beginning --------------------------------------------------------------------------- */

/* The ops for the plan: without dedup keys. */
static ledger_rc leave_keys_out(struct ldg_ch_batch *b, ledger_error *err)
{
    struct ldg_op *ops;
    ledger_append_entry *entries;
    size_t keyed = 0, at = 0;

    for (size_t i = 0; i < b->s.count; i++)
        keyed += ldg_op_has_dedup_key(&b->ops[i]);
    if (keyed == 0)
        return LEDGER_OK;
    ops = ldg_arena_memdup(b->s.arena, b->ops, b->s.count * sizeof(*ops));
    entries = ldg_arena_alloc(b->s.arena, keyed * sizeof(*entries));
    if (ops == NULL || entries == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < b->s.count; i++) {
        if (!ldg_op_has_dedup_key(&ops[i]))
            continue;
        entries[at] = *ops[i].entry;
        entries[at].dedup_key = "";
        ops[i].entry = &entries[at++];
    }
    b->s.ops = ops;
    return LEDGER_OK;
}

/* From here on none is looked for in the table. */
static ledger_rc load_origins(const struct ldg_ch_batch *b, ledger_error *err)
{
    const struct ldg_ch_origin *origin;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < b->s.count; i++) {
        rc = ldg_ch_origin_find(b->ch, b->ops[i].origin, &origin, err);
        if (rc == LEDGER_OK && b->ops[i].mutation_origin != b->ops[i].origin)
            rc = ldg_ch_origin_find(b->ch, b->ops[i].mutation_origin, &origin, err);
    }
    return rc;
}

static ledger_rc batch_init(struct ldg_ch_batch *b, struct ldg_clickhouse *ch,
                            const struct ldg_op *ops, size_t count, ledger_error *err)
{
    int64_t *reserved;
    ledger_rc rc;

    ldg_arena_reset(&ch->scratch);
    ldg_ch_block_reset(&ch->rows);
    *b = (struct ldg_ch_batch){
        .ch = ch,
        .ops = ops,
        .salt = ch->nonce,
        .parked_salt = (int64_t)(ldg_random_u64() & 0xFF) << 12,
        .s = { .sink = &callbacks,
               .ctx = b,
               .arena = &ch->scratch,
               .ops = ops,
               .count = count,
               .lowest_reserved = INT64_MAX,
               .parked_id = INT64_MAX,
               .now_us = ldg_clock_now_us() },
    };
    ldg_buf_init(&b->text, LEDGER_MAX_PAYLOAD_BYTES);
    ldg_buf_init(&b->other, LEDGER_MAX_PAYLOAD_BYTES);
    ldg_arena_init(&b->merging, (size_t)1024 * 1024);
    b->s.outcomes = ldg_arena_calloc(&ch->scratch, count + 1, sizeof(*b->s.outcomes));
    b->s.ids = ldg_arena_calloc(&ch->scratch, count + 1, sizeof(*b->s.ids));
    reserved = ldg_arena_calloc(&ch->scratch, count + 1, sizeof(*reserved));
    if (b->s.outcomes == NULL || b->s.ids == NULL || reserved == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < count; i++)
        reserved[i] = 1; /* an id is none of numbers here; this one says that there will be one */
    b->s.reserved = reserved;
    rc = leave_keys_out(b, err);
    if (rc == LEDGER_OK)
        rc = load_origins(b, err);
    return rc == LEDGER_OK ? ldg_sink_begin(&b->s, err) : rc;
}

static void batch_fini(struct ldg_ch_batch *b)
{
    ldg_buf_fini(&b->text);
    ldg_buf_fini(&b->other);
    ldg_arena_fini(&b->merging);
    ldg_ch_block_reset(&b->ch->rows);
}

/* --- its ways -------------------------------------------------------------------------------- */

/* REJECTED is no verdict: the sink has to be asked. */
static ledger_rc go_optimistic(struct ldg_ch_batch *b, ledger_error *err)
{
    bool may_wait;
    ledger_rc rc = ldg_sink_may_wait(&b->s, &may_wait, err);

    if (rc == LEDGER_OK && may_wait)
        return ldg_fail(err, LEDGER_ERR_REJECTED, "an operation may have to wait");
    if (rc == LEDGER_OK)
        rc = ldg_sink_orders_load(&b->s, err);
    if (rc == LEDGER_OK)
        rc = ldg_sink_plan(&b->s, err);
    return rc == LEDGER_OK ? ldg_sink_write(&b->s, false, err) : rc;
}

static ledger_rc go_informed(struct ldg_ch_batch *b, ledger_error *err)
{
    bool again = false; /* never set: nothing is lost with a transaction, and there is no log */

    b->park_count = b->unparked_count = 0;
    b->s.plan = NULL;
    ldg_ch_block_reset(&b->ch->rows);
    return ldg_sink_apply(&b->s, &again, err);
}

static bool has_changes(const struct ldg_ch_batch *b)
{
    bool has = false;

    for (size_t i = 0; i < b->s.count && !has; i++)
        has = ldg_op_is_change(&b->ops[i]);
    return has;
}

/* An entry may have come by way of another store, which changed it. Added once more as it was
 * appended it counts less than the row that is here; but together with a change it may count more,
 * and what the other store changed would be gone. */
static bool may_come_by_two_ways(const struct ldg_ch_batch *b)
{
    return has_changes(b) && b->ch->origin_count > 2; /* the table itself, and one source */
}

static ledger_rc run_ops(struct ldg_ch_batch *b, bool may_guess, ledger_error *err)
{
    struct ldg_clickhouse *ch = b->ch;
    const bool optimistic = may_guess && !ch->may_be_known &&
                            ldg_sink_is_plain(b->s.ops, b->s.count) && !may_come_by_two_ways(b);
    bool informed = !optimistic;
    ledger_rc rc = LEDGER_OK;

    if (b->s.count == 0)
        return LEDGER_OK;
    if (optimistic) {
        rc = go_optimistic(b, err);
        informed = rc == LEDGER_ERR_REJECTED;
    }
    if (informed)
        rc = go_informed(b, err);
    if (rc == LEDGER_OK)
        ch->may_be_known = informed && ldg_op_any_known(b->s.ops, b->s.outcomes, b->s.count);
    return rc;
}

/* --- the end --------------------------------------------------------------------------------- */

static ledger_rc put_park(struct ldg_ch_batch *b, size_t index, struct ldg_buf *buf,
                          ledger_error *err)
{
    const struct ldg_ch_park *park = &b->parks[index];
    const struct ldg_op *op = park->op;
    const struct ldg_ch_origin *origin;
    struct ldg_ch_parked parked = {
        .row = row_of_park(park),
        .version = park->known != NULL ? park->known->version : 0,
    };
    ledger_rc rc = ldg_ch_origin_find(b->ch, op->origin, &origin, err);

    if (rc == LEDGER_OK)
        rc = ldg_op_parked_event(op, buf, &parked.row.event, err);
    if (rc != LEDGER_OK)
        return rc;
    parked.origin = op->origin > 0 ? origin->text : "";
    parked.row.parked_at_us = b->s.now_us;
    ldg_ch_parked_put(b->ch, &parked, park->is_gone);
    return LEDGER_OK;
}

static ledger_rc write_parked(struct ldg_ch_batch *b, ledger_error *err)
{
    struct ldg_buf buf;
    ledger_rc rc = LEDGER_OK;

    if (b->park_count == 0 && b->unparked_count == 0)
        return LEDGER_OK;
    for (size_t i = 0; i < b->unparked_count; i++)
        ldg_ch_parked_put(b->ch, b->unparked[i], true);
    for (size_t i = 0; rc == LEDGER_OK && i < b->park_count; i++) {
        if (b->parks[i].is_gone && b->parks[i].known == NULL)
            continue;
        ldg_buf_init(&buf, LEDGER_MAX_PAYLOAD_BYTES * 2);
        rc = put_park(b, i, &buf, err);
        ldg_buf_fini(&buf);
    }
    return rc == LEDGER_OK && b->ch->rows.row_count > 0 ? ldg_ch_parked_insert(b->ch, err) : rc;
}

static ledger_rc move_cursor(struct ldg_ch_batch *b, const struct ldg_ch_cursor_row *row,
                             ledger_error *err)
{
    const struct ldg_apply *apply = b->apply;
    ledger_rc rc;

    if (apply->name == NULL || apply->next == NULL)
        return LEDGER_OK;
    rc = ldg_ch_cursor_write(b->ch, apply->name, apply->next, row->version + 1, err);
    if (rc == LEDGER_OK)
        b->ch->cursor_version = row->version + 1;
    return rc;
}

/* --- a batch --------------------------------------------------------------------------------- */

/* By the salt alone two tries of a block are told from two blocks. A server remembers tokens longer
 * than rows: after somebody has emptied the tables all comes again, and versions, too; the time of
 * the last move does not. A cursor that never moved has none, and the salt is this handle's own.
 * version: 0 where it is not known yet. */
static uint64_t salt_of(const struct ldg_ch_batch *b, const struct ldg_cursor *cursor,
                        uint64_t version)
{
    const char *name = b->apply->name;
    const uint64_t moved = version ^ (uint64_t)cursor->moved_at_us;

    return cursor->moved_at_us == LEDGER_NO_TIME
               ? b->ch->nonce
               : ldg_hash64(cursor->state, strlen(cursor->state),
                            ldg_hash64(name, strlen(name), moved));
}

/* Another store may have become known since the origins were loaded, and brought entries of the
 * batch. */
static ledger_rc meet_origins(struct ldg_ch_batch *b, const struct ldg_ch_cursor_row *row,
                              ledger_error *err)
{
    const bool looked = b->apply->name != NULL;

    return has_changes(b) && (!looked || row->origin_count != b->ch->origin_count)
               ? ldg_ch_origins_load(b->ch, err)
               : LEDGER_OK;
}

/* The first batch of this handle need not be the first of its bridge. */
static void heed_hint(const struct ldg_ch_batch *b)
{
    if (b->ch->cursor_version == 0 && b->apply->after_new != NULL && *b->apply->after_new)
        b->ch->may_be_known = false;
}

/* Is the cursor where the batch was read from? Of a sink without one there is no answer. */
static ledger_rc look_at_fence(struct ldg_ch_batch *b, struct ldg_ch_cursor_row *row,
                               ledger_error *err)
{
    const struct ldg_apply *apply = b->apply;
    ledger_rc rc = LEDGER_OK;

    if (apply->name == NULL)
        return LEDGER_OK;
    rc = ldg_ch_cursor_look(b->ch, apply->name, row, err);
    if (rc == LEDGER_OK)
        rc = ldg_cursor_compare(apply->name, row->is_there ? &row->cursor : NULL, apply->expected,
                                err);
    if (row->version <= 1) /* never moved: what comes again is one that broke off */
        b->ch->may_be_known = false;
    heed_hint(b);
    if (row->version != b->ch->cursor_version) /* it was moved by another handle, or bridge */
        ldg_ch_trimmed_forget(b->ch);
    ldg_ch_trimmed_meet(b->ch, b->ops, b->s.count);
    b->ch->parked_any = b->s.parked_any = row->parked_count > 0;
    b->salt = salt_of(b, &row->cursor, row->version);
    return rc;
}

/* May its rows be sent while the batch before it, and the look at its own fence, are still to come?
 * Rows that are added do nothing to others, and once more they are the same; so nothing is wrong
 * with them if the batch before fails, or the fence is no longer as expected. */
static bool may_go_ahead(const struct ldg_ch_batch *b)
{
    bool may = b->apply->await_commit_order != NULL && !b->ch->may_be_known && !b->ch->parked_any;

    for (size_t i = 0; may && i < b->s.count; i++)
        may = b->ops[i].kind == LDG_OP_APPEND && b->ops[i].origin > 0;
    return may;
}

static ledger_rc send_ahead(struct ldg_ch_batch *b, ledger_error *err)
{
    ledger_rc rc;

    b->apply->ids_reserved(b->apply->overlap_ctx);
    b->salt = salt_of(b, b->apply->expected, 0);
    rc = ldg_sink_orders_load(&b->s, err);
    if (rc == LEDGER_OK)
        rc = ldg_sink_plan(&b->s, err);
    return rc == LEDGER_OK ? ldg_ch_add(b, &b->s, err) : rc;
}

static ledger_rc run(struct ldg_ch_batch *b, struct ldg_ch_cursor_row *row, ledger_error *err)
{
    const struct ldg_apply *apply = b->apply;
    ledger_rc rc = LEDGER_OK;
    bool ahead, refused;

    heed_hint(b);
    ahead = may_go_ahead(b);
    if (ahead)
        rc = send_ahead(b, err);
    refused = rc == LEDGER_ERR_REJECTED; /* which op it is has time until then */
    if ((rc == LEDGER_OK || refused) && apply->await_commit_order != NULL)
        rc = apply->await_commit_order(apply->overlap_ctx, err);
    if (rc == LEDGER_OK)
        rc = look_at_fence(b, row, err);
    if (rc == LEDGER_OK)
        rc = meet_origins(b, row, err);
    if (rc == LEDGER_OK && ahead && !refused && !b->s.parked_any)
        rc = ldg_sink_write(&b->s, true, err);
    else if (rc == LEDGER_OK)
        rc = run_ops(b, !ahead, err);
    if (rc == LEDGER_OK)
        rc = write_parked(b, err);
    if (rc == LEDGER_OK && apply->name != NULL)
        rc = ldg_ch_trimmed_note(b->ch, b->ops, b->s.outcomes, b->s.count, err);
    if (rc == LEDGER_OK)
        rc = move_cursor(b, row, err);
    return rc;
}

/* What comes before an op that is refused is done. */
static void give_done(const struct ldg_ch_batch *b, uint8_t *ret_outcomes, const ledger_error *err)
{
    if (b->apply->name == NULL && err->done_count < b->s.count && err->done_count > 0)
        memcpy(ret_outcomes, b->s.outcomes, err->done_count);
}

ledger_rc ldg_ch_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                       ledger_error *err)
{
    struct ldg_ch_cursor_row *row = ldg_calloc(1, sizeof(*row));
    struct ldg_ch_batch b;
    struct ldg_refusals brake;
    ledger_rc rc = batch_init(&b, ctx, apply->ops, apply->count, err);

    if (rc == LEDGER_OK && row == NULL)
        rc = ldg_fail_nomem(err);
    b.apply = apply;
    b.s.can_park = true;
    b.s.park_rejected = apply->park_rejected;
    b.s.refusals = apply->refusals;
    b.s.brake = apply->park_rejected && apply->refusals != NULL ? &brake : NULL;
    if (rc == LEDGER_OK)
        rc = run(&b, row, err);
    /* Without a fence it is not known whether somebody else was here. */
    if (rc != LEDGER_OK || apply->name == NULL)
        ldg_ch_trimmed_forget(b.ch);
    if (rc != LEDGER_OK)
        b.ch->may_be_known = true;
    if (rc == LEDGER_OK) {
        if (b.s.brake != NULL)
            *apply->refusals = brake;
        if (apply->count > 0)
            memcpy(ret_outcomes, b.s.outcomes, apply->count);
    } else if (rc == LEDGER_ERR_REJECTED) {
        give_done(&b, ret_outcomes, err);
    }
    batch_fini(&b);
    ldg_free(row);
    return rc;
}

/* --- a parked event once more ---------------------------------------------------------------- */

/* What it stands for is written before it goes. */
static ledger_rc retry(struct ldg_ch_batch *b, const struct ldg_ch_parked *parked,
                       ledger_error *err)
{
    ledger_rc rc = b->s.count > 0 ? go_informed(b, err) : LEDGER_OK;

    if (rc == LEDGER_OK) {
        ldg_ch_parked_put(b->ch, parked, true);
        rc = ldg_ch_parked_insert(b->ch, err);
    }
    return rc;
}

ledger_rc ldg_ch_parked_retry(void *ctx, int64_t id, const struct ldg_op *ops, size_t count,
                              bool *ret_applied, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    struct ldg_ch_parked parked;
    struct ldg_ch_batch b;
    ledger_rc rc = batch_init(&b, ch, ops, count, err);

    ldg_ch_trimmed_forget(ch);
    b.s.parked_id = id;
    b.s.parked_any = true;
    b.salt = ldg_random_u64() | 1;
    if (rc == LEDGER_OK)
        rc = ldg_ch_parked_find(ch, id, &ch->scratch, &parked, err);
    if (rc == LEDGER_OK)
        rc = retry(&b, &parked, err);
    batch_fini(&b);
    return ldg_sink_retried(rc, ch, id, ldg_ch_parked_note, ret_applied, err);
}
