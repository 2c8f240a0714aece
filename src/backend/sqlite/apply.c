/* The fenced batch: one transaction of fence, ops and cursor.
 *
 * Because data and cursor commit together a replay is the exception, so appends go in by plain
 * multi-row inserts; a batch that hits a constraint is rolled back whole and done again op by op.
 * Invariants: the cursor moves only in the transaction that applied what lies before it; a stream's
 * ids here follow the order of the log; whatever fails leaves nothing behind. */
#include "backend/sqlite/apply.h"

#include "base/hash.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* With fewer rows than this per stream the indexes gain more from the order of streams than the
 * index of the origin loses by it (measured: 1.2 of log order at one row, 0.97 at twenty). */
#define SORT_ROWS_PER_STREAM 4
#define SORT_MIN_ROWS 64

/* --- ids ------------------------------------------------------------------------------------- */

static ledger_rc next_id(struct ldg_sqlite_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (b->next_id == 0)
        rc = ldg_sqlite_run_ints(b->s, LDG_STMT_APPLY_NEXT_ID, "asking for the next id", NULL, 0,
                                 &b->next_id, err);
    /* Over the end SQLite picks free ids itself: no order can be kept. */
    if (rc == LEDGER_OK && (b->next_id <= 0 || b->next_id > INT64_MAX - (int64_t)b->count))
        rc = ldg_sqlite_fail_ids(b->s, b->s->table, err);
    return rc;
}

/* --- the bulk path --------------------------------------------------------------------------- */

/* Finds the slot of a stream among the pending ones; *ret_known: it is there. */
static size_t slot_of(const struct ldg_sqlite_batch *b, const char *stream, bool *ret_known)
{
    size_t slot = ldg_hash64(stream, strlen(stream), 0) & b->slot_mask;

    while (b->slots[slot] != 0) {
        const char *other = b->pending[b->slots[slot] - 1].op->stream;

        if (other == stream || strcmp(other, stream) == 0)
            break;
        slot = (slot + 1) & b->slot_mask;
    }
    *ret_known = b->slots[slot] != 0;
    return slot;
}

static int compare_streams(const void *a, const void *b)
{
    const struct ldg_sqlite_pending *const *x = a, *const *y = b;
    int order = strcmp((*x)->op->stream, (*y)->op->stream);

    if (order == 0)
        order = (*x)->index < (*y)->index ? -1 : 1;
    return order;
}

/* Puts the pending rows in the order of their streams where that helps the indexes, and gives out
 * ids in the order of insertion: the table grows at its end, and each stream keeps its order. */
static void arrange(struct ldg_sqlite_batch *b)
{
    size_t n = b->pending_count;

    for (size_t i = 0; i < n; i++)
        b->sorted[i] = &b->pending[i];
    if (n >= SORT_MIN_ROWS && b->stream_count > n / SORT_ROWS_PER_STREAM)
        qsort(b->sorted, n, sizeof(const struct ldg_sqlite_pending *), compare_streams);
    for (size_t i = 0; i < n; i++)
        b->pending[b->sorted[i] - b->pending].id = b->next_id + (int64_t)i;
    b->next_id += (int64_t)n;
}

static ledger_rc insert_group(struct ldg_sqlite_batch *b,
                              const struct ldg_sqlite_pending *const *rows, size_t count,
                              ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(b->s,
                                         count == 32  ? LDG_STMT_APPLY_INSERT_32
                                         : count == 8 ? LDG_STMT_APPLY_INSERT_8
                                                      : LDG_STMT_APPLY_INSERT_1,
                                         err);
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    for (size_t i = 0; i < count; i++)
        LDG_BIND(code, ldg_sqlite_bind_row(stmt, (int)i * LDG_INSERT_COLUMNS + 1, rows[i]));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE)
        rc = ldg_sqlite_op_fail(b->s, code, "adding entries", err);
    else if (sqlite3_changes(b->s->db) != (int)count) /* a trigger left one out: find out which */
        rc =
            ldg_fail(err, LEDGER_ERR_REJECTED, "a trigger of table \"%s\" drops rows", b->s->table);
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc flush(struct ldg_sqlite_batch *b, ledger_error *err)
{
    size_t n = b->pending_count;
    ledger_rc rc = LEDGER_OK;

    if (n == 0)
        goto out;
    rc = next_id(b, err);
    if (rc != LEDGER_OK)
        goto out;
    arrange(b);
    for (size_t done = 0, group; rc == LEDGER_OK && done < n; done += group) {
        group = n - done >= 32 ? 32 : n - done >= 8 ? 8 : 1;
        rc = insert_group(b, b->sorted + done, group, err);
    }
    for (size_t i = 0; rc == LEDGER_OK && i < n; i++) {
        b->outcomes[b->pending[i].index] = LDG_OUTCOME_APPLIED;
        rc = ldg_sqlite_chain_append(b, b->pending[i].op, b->pending[i].id, err);
    }
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_chain_flush(b, err);
    for (size_t i = 0; i < n; i++) {
        if (b->pending[i].slot != LDG_NOT_PENDING)
            b->slots[b->pending[i].slot] = 0;
    }
    b->pending_count = 0;
    b->stream_count = 0;
out:
    return rc;
}

/* An entry that may come late is compared with what is in the table, so nothing may be pending. */
static ledger_rc pend_order(struct ldg_sqlite_batch *b, const struct ldg_op *op, ledger_error *err)
{
    struct ldg_sqlite_order *order = NULL;
    ledger_rc rc;

    rc = ldg_sqlite_order_get(b, op->origin, &order, err);
    if (rc == LEDGER_OK && order->ordered && op->key.number <= order->highest)
        rc = flush(b, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_order_added(b, op, err);
    return rc;
}

static ledger_rc pend(struct ldg_sqlite_batch *b, size_t index, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[index];
    struct ldg_sqlite_pending *p;
    bool known;
    ledger_rc rc;

    rc = pend_order(b, op, err);
    if (rc != LEDGER_OK)
        goto out;
    p = &b->pending[b->pending_count];
    rc = ldg_sqlite_pending_fill(b, op, p, err);
    if (rc != LEDGER_OK)
        goto out;
    p->index = index;
    if (b->pending_count == 0) {
        b->ascending = true;
        b->lowest = b->highest = op->key.number;
    } else {
        b->ascending =
            b->ascending && op->key.number > p[-1].op->key.number && op->origin == p[-1].op->origin;
        if (op->key.number < b->lowest)
            b->lowest = op->key.number;
        if (op->key.number > b->highest)
            b->highest = op->key.number;
    }
    b->pending_count++;
    size_t slot = slot_of(b, op->stream, &known);
    if (!known) {
        b->slots[slot] = (uint32_t)b->pending_count;
        p->slot = (uint32_t)slot;
        b->stream_count++;
    }
out:
    return rc;
}

/* May the op find or delete a row that is still pending? Says yes when in doubt. */
static bool touches_pending(const struct ldg_sqlite_batch *b, const struct ldg_op *op)
{
    size_t low = 0, high = b->pending_count;
    bool touches;

    if (high == 0) {
        touches = false;
    } else if (b->s->has_log) { /* the sink's log keeps the order of the source's */
        touches = true;
    } else if (op->kind == LDG_OP_TRIM) {
        (void)slot_of(b, op->stream, &touches);
    } else if (op->origin == 0 || op->key.number < b->lowest || op->key.number > b->highest) {
        touches = false;
    } else if (!b->ascending || op->origin != b->pending[0].op->origin) {
        touches = true;
    } else {
        while (low < high) {
            size_t middle = low + (high - low) / 2;

            if (b->pending[middle].op->key.number < op->key.number)
                low = middle + 1;
            else
                high = middle;
        }
        touches = low < b->pending_count && b->pending[low].op->key.number == op->key.number;
    }
    return touches;
}

static ledger_rc bulk_run(struct ldg_sqlite_batch *b, ledger_error *err)
{
    size_t slots = 64;
    ledger_rc rc = LEDGER_OK;

    while (slots < 2 * b->count)
        slots *= 2;
    b->slot_mask = slots - 1;
    b->slots = ldg_arena_calloc(&b->s->scratch, slots, sizeof(*b->slots));
    b->pending = ldg_arena_calloc(&b->s->scratch, b->count, sizeof(*b->pending));
    b->sorted = ldg_arena_calloc(&b->s->scratch, b->count, sizeof(*b->sorted));
    if (b->slots == NULL || b->pending == NULL || b->sorted == NULL) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    for (size_t i = 0; rc == LEDGER_OK && i < b->count; i++) {
        const struct ldg_op *op = &b->ops[i];

        if (op->kind == LDG_OP_APPEND) {
            rc = pend(b, i, err);
        } else {
            if (touches_pending(b, op))
                rc = flush(b, err);
            if (rc == LEDGER_OK)
                rc = ldg_sqlite_op_run(b, op, &b->outcomes[i], err);
        }
    }
    if (rc == LEDGER_OK)
        rc = flush(b, err);
out:
    return rc;
}

/* Appends that name no position of another store, and events to park, are none of its business. */
static bool bulk_suits(const struct ldg_apply *apply)
{
    bool suits = apply->count > 0 && apply->count <= UINT32_MAX / 4;

    for (size_t i = 0; suits && i < apply->count; i++) {
        const struct ldg_op *op = &apply->ops[i];

        suits = op->kind != LDG_OP_PARK && (op->kind != LDG_OP_APPEND || op->origin > 0);
    }
    return suits;
}

/* --- op by op -------------------------------------------------------------------------------- */

static ledger_rc park_new(struct ldg_sqlite_batch *b, size_t index, const char *reason,
                          bool *ret_new, ledger_error *err)
{
    ledger_rc rc = ldg_sqlite_chain_flush(b, err);

    if (rc == LEDGER_OK)
        rc = ldg_sqlite_park(b->s, &b->ops[index], reason, ret_new, err);
    if (rc == LEDGER_OK) {
        b->outcomes[index] = LDG_OUTCOME_PARKED;
        b->parked_any = true;
    }
    return rc;
}

static ledger_rc park(struct ldg_sqlite_batch *b, size_t index, const char *reason,
                      ledger_error *err)
{
    bool is_new;

    return park_new(b, index, reason, &is_new, err);
}

/* Must the op wait behind a parked event? *ret_parked: it was parked too. */
static ledger_rc wait_behind(struct ldg_sqlite_batch *b, size_t index, enum ldg_wait wait,
                             bool *ret_parked, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[index];
    char reason[LDG_OP_WAIT_MAX];
    int64_t position = 0;
    ledger_rc rc = LEDGER_OK;

    *ret_parked = false;
    if (!b->parked_any || op->kind == LDG_OP_TRIM || op->kind == LDG_OP_PARK)
        goto out;
    rc = ldg_sqlite_parked_before(b->s, op, wait, b->parked_id, &position, err);
    if (rc != LEDGER_OK || position == 0)
        goto out;
    ldg_op_wait_reason(position, wait, reason);
    if (b->can_park) {
        *ret_parked = true;
        rc = park(b, index, reason, err);
    } else {
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "%s", reason);
        err->done_count = index;
    }
out:
    return rc;
}

/* SQLite has ended the transaction by itself (a trigger's RAISE(ROLLBACK)): the batch starts again
 * with this op parked from the beginning. */
static ledger_rc force_park(struct ldg_sqlite_batch *b, size_t index, const ledger_error *why,
                            ledger_error *err)
{
    if (b->forced == NULL)
        b->forced = ldg_arena_calloc(&b->s->scratch, b->count, sizeof(*b->forced));
    if (b->forced == NULL)
        return ldg_fail_nomem(err);
    b->forced[index] = (struct ldg_sqlite_forced){ .is_set = true, .why = *why };
    return LEDGER_OK;
}

/* What the database refuses. Before anything is parked: is it the event, or are the tables no
 * longer what they were, or does it refuse everything? */
static ledger_rc park_refused(struct ldg_sqlite_batch *b, size_t index, const ledger_error *why,
                              ledger_error *err)
{
    const uint64_t reason = ldg_refusal_reason(why, "");
    bool is_new = false;
    ledger_rc rc = LEDGER_OK;

    if (!b->looked_again)
        rc = ldg_sqlite_schema_verify(b->s, err);
    b->looked_again = rc == LEDGER_OK;
    if (rc == LEDGER_OK)
        rc = park_new(b, index, why->message, &is_new, err);
    if (rc == LEDGER_OK && is_new && b->brake != NULL)
        rc = ldg_refusals_note(b->brake, b->ops[index].kind, reason, why, err);
    return rc;
}

/* Tries one op inside a savepoint where a refusal shall not take the others with it. */
static ledger_rc try_one(struct ldg_sqlite_batch *b, size_t index, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[index];
    bool parked = false;
    uint8_t outcome = LDG_OUTCOME_MISSING;
    enum ldg_wait wait;
    ledger_rc rc = LEDGER_OK;

    if (b->can_park && b->park_rejected) {
        rc = ldg_sqlite_chain_flush(b,
                                    err); /* what came before stays, whatever becomes of this op */
        if (rc == LEDGER_OK)
            rc = ldg_sqlite_save(b->s, err);
    }
    if (rc != LEDGER_OK)
        goto out;
    rc = ldg_sqlite_op_run(b, op, &outcome, err);
    if (rc == LEDGER_OK && b->can_park && b->park_rejected) {
        rc = ldg_sqlite_chain_flush(b, err);
        if (rc == LEDGER_OK)
            rc = ldg_sqlite_release(b->s, err);
    }
    if (rc == LEDGER_OK && ldg_op_may_wait(op, outcome, &wait))
        rc = wait_behind(b, index, wait, &parked, err);
    if (rc != LEDGER_OK || parked)
        goto out;
    b->outcomes[index] = outcome;
    if (b->parked_any && b->can_park)
        rc = ldg_sqlite_parked_done(b->s, op, err);
out:
    return rc;
}

/* An op that the database refused: parked, or the end of the batch. *ret_again: start again. */
static ledger_rc refused(struct ldg_sqlite_batch *b, size_t index, bool *ret_again,
                         ledger_error *err)
{
    const struct ldg_op *op = &b->ops[index];
    const ledger_error why = *err;
    ledger_rc rc;

    ldg_sqlite_order_forget(b);
    b->chain_count = 0; /* at most what this op had gathered */
    if (!b->can_park) {
        err->done_count = index;
        rc = err->code;
    } else if (!b->park_rejected) {
        rc = ldg_fail_native(err, LEDGER_ERR_REJECTED, "sqlite", err->native_code,
                             "the sink refuses event %" PRId64 " (%s of stream \"%.60s\"): %.300s",
                             op->log_position, op->type_name != NULL ? op->type_name : "",
                             op->stream, why.message);
        err->done_count = index;
    } else if (sqlite3_get_autocommit(b->s->db)) {
        rc = force_park(b, index, &why, err);
        *ret_again = true;
    } else {
        rc = ldg_sqlite_undo(b->s, err);
        if (rc == LEDGER_OK)
            rc = park_refused(b, index, &why, err);
    }
    return rc;
}

/* What is here already is looked for first: a replay must not be refused, nor wait. */
static ledger_rc replayed(struct ldg_sqlite_batch *b, size_t index, bool *ret_replayed,
                          ledger_error *err)
{
    const struct ldg_op *op = &b->ops[index];
    ledger_rc rc = LEDGER_OK;

    *ret_replayed = ldg_op_came_round(op);
    if (op->kind == LDG_OP_APPEND)
        rc = ldg_sqlite_op_replayed(b, op, ret_replayed, err);
    if (rc == LEDGER_OK && *ret_replayed) {
        b->outcomes[index] = LDG_OUTCOME_REPLAYED;
        if (b->parked_any && b->can_park)
            rc = ldg_sqlite_parked_done(b->s, op, err);
    }
    return rc;
}

static ledger_rc row_run(struct ldg_sqlite_batch *b, bool *ret_again, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    *ret_again = false;
    b->chain_count = 0;
    for (size_t i = 0; rc == LEDGER_OK && b->next_id == 0 && i < b->count; i++) {
        if (b->ops[i].kind == LDG_OP_APPEND)
            rc = next_id(b, err);
    }
    for (size_t i = 0; rc == LEDGER_OK && !*ret_again && i < b->count; i++) {
        const struct ldg_op *op = &b->ops[i];
        bool parked = false; /* or done with, in another way */

        if (b->forced != NULL && b->forced[i].is_set) {
            rc = park_refused(b, i, &b->forced[i].why, err);
        } else if (op->kind == LDG_OP_PARK && b->can_park) {
            rc = park(b, i, op->reason != NULL ? op->reason : "", err);
        } else {
            rc = replayed(b, i, &parked, err);
            if (rc == LEDGER_OK && !parked)
                rc = wait_behind(b, i, LDG_WAIT_ENTRY, &parked, err);
            if (rc == LEDGER_OK && !parked) {
                rc = try_one(b, i, err);
                if (rc == LEDGER_ERR_REJECTED)
                    rc = refused(b, i, ret_again, err);
            }
        }
        if (rc == LEDGER_OK && b->brake != NULL)
            ldg_refusals_outcomes(b->brake, op, &b->outcomes[i], 1);
    }
    if (rc == LEDGER_OK && !*ret_again)
        rc = ldg_sqlite_chain_flush(b, err);
    if (rc == LEDGER_OK && !*ret_again && b->brake != NULL)
        rc = ldg_refusals_end(b->brake, err);
    return rc;
}

static void batch_init(struct ldg_sqlite_batch *b, struct ldg_sqlite *s, const struct ldg_op *ops,
                       size_t count)
{
    memset(b, 0, sizeof(*b));
    b->s = s;
    b->ops = ops;
    b->count = count;
    b->parked_id = INT64_MAX;
    b->now_us = ldg_clock_now_us();
    ldg_time_format_ms(b->now_us, b->now);
    ldg_buf_init(&b->text, s->event_buf.max);
    ldg_arena_reset(&s->scratch);
}

ledger_rc ldg_sqlite_apply_ops(struct ldg_sqlite *s, const struct ldg_op *ops, size_t count,
                               int64_t parked_id, ledger_error *err)
{
    struct ldg_sqlite_batch b;
    bool again;
    int ignored;
    ledger_rc rc;

    batch_init(&b, s, ops, count);
    b.parked_any = b.foreign_any = true;
    b.parked_id = parked_id;
    b.outcomes = ldg_arena_calloc(&s->scratch, count, sizeof(*b.outcomes));
    rc = b.outcomes != NULL ? ldg_sqlite_go_origin(s, &b.go_origin, &ignored, err)
                            : ldg_fail_nomem(err);
    if (rc == LEDGER_OK)
        rc = row_run(&b, &again, err);
    ldg_buf_fini(&b.text);
    return rc;
}

/* --- the batch ------------------------------------------------------------------------------- */

/* What the side tables hold decides how the batch is done. */
static ledger_rc batch_look(struct ldg_sqlite_batch *b, ledger_error *err)
{
    int64_t any = 0;
    int ignored;
    ledger_rc rc = ldg_sqlite_parked_any(b->s, &b->parked_any, err);

    if (rc == LEDGER_OK)
        rc = ldg_sqlite_run_ints(b->s, LDG_STMT_FOREIGN_ANY, "looking for changes of others", NULL,
                                 0, &any, err);
    b->foreign_any = any != 0;
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_go_origin(b->s, &b->go_origin, &ignored, err);
    return rc;
}

/* One try: fence, ops, cursor, commit. REJECTED of a bulk try, and *ret_again, are no verdict. */
static ledger_rc apply_once(struct ldg_sqlite_batch *b, const struct ldg_apply *apply, bool bulk,
                            bool *ret_bulk, bool *ret_again, ledger_error *err)
{
    struct ldg_sqlite *s = b->s;
    struct ldg_cursor now;
    bool own, found = false;
    ledger_rc rc;

    *ret_again = false;
    ldg_sqlite_order_forget(b);
    if (b->brake != NULL) {
        *b->brake = *apply->refusals;
        ldg_refusals_begin(b->brake);
    }
    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = ldg_sqlite_not_moved(s, err);
    if (rc == LEDGER_OK && apply->name != NULL)
        rc = ldg_sqlite_cursor_fence(s, apply->name, apply->expected, err);
    if (rc == LEDGER_OK)
        rc = batch_look(b, err);
    *ret_bulk = bulk && !b->parked_any;
    if (rc == LEDGER_OK)
        rc = *ret_bulk ? bulk_run(b, err) : row_run(b, ret_again, err);
    if (rc == LEDGER_OK && *ret_again) {
        if (!own) { /* what the caller had done before is gone too */
            *ret_again = false;
            rc = ldg_fail(err, LEDGER_ERR_REJECTED,
                          "a trigger of the sink has rolled the caller's transaction back");
        }
        goto out;
    }
    if (rc == LEDGER_OK && apply->name != NULL && apply->next != NULL)
        rc = ldg_sqlite_cursor_move(
            s, apply->name, apply->next,
            apply->next->moved_at_us != LEDGER_NO_TIME ? apply->next->moved_at_us : b->now_us, err);
    if (rc == LEDGER_OK && apply->name != NULL && apply->next != NULL &&
        sqlite3_changes(s->db) == 0)
        rc = ldg_schema_fail_kept_out(s->table, "cursors", err);
    bool committing = rc == LEDGER_OK;
    rc = ldg_sqlite_write_end(s, own, rc, err);
    /* Where the commit itself met an I/O error only the file knows: the cursor moved with the data,
     * so it tells. */
    if (rc == LEDGER_ERR_IO && committing && own && apply->name != NULL && apply->next != NULL &&
        strcmp(apply->next->state, apply->expected->state) != 0) {
        ledger_error ignored = { 0 };

        if (ldg_sqlite_cursor_read(s, apply->name, &found, &now, &ignored) != LEDGER_OK)
            rc = ldg_fail_native(err, LEDGER_ERR_UNKNOWN_OUTCOME, "sqlite", err->native_code,
                                 "the commit met an input or output error, and the cursor cannot "
                                 "be read");
        else if (found && strcmp(now.state, apply->next->state) == 0)
            rc = LEDGER_OK;
    }
out:
    return rc;
}

/* An event that ends the bridge is not to blame for tables that are no longer what they were. */
static ledger_rc blame(struct ldg_sqlite *s, ledger_error *err)
{
    ledger_error why = { 0 };

    if (ldg_sqlite_schema_verify(s, &why) == LEDGER_ERR_SCHEMA)
        *err = why;
    return err->code;
}

ledger_rc ldg_sqlite_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                           ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    bool bulk = bulk_suits(apply), was_bulk = false, again;
    struct ldg_sqlite_batch b;
    struct ldg_refusals brake;
    ledger_rc rc;

    batch_init(&b, s, apply->ops, apply->count);
    b.can_park = true;
    b.park_rejected = apply->park_rejected;
    b.brake = apply->park_rejected && apply->refusals != NULL ? &brake : NULL;
    b.outcomes = ldg_arena_calloc(&s->scratch, apply->count, sizeof(*b.outcomes));
    if (b.outcomes == NULL) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    do {
        was_bulk = false;
        rc = apply_once(&b, apply, bulk, &was_bulk, &again, err);
        if (rc == LEDGER_ERR_REJECTED && was_bulk) {
            /* Op by op tells a replay from a duplicate from a refusal. */
            bulk = false;
            again = true;
            b.pending_count = b.chain_count = 0;
            rc = LEDGER_OK;
        }
    } while (rc == LEDGER_OK && again);
    if (rc == LEDGER_ERR_REJECTED)
        rc = blame(s, err);
    if (rc != LEDGER_OK)
        goto out;
    if (b.brake != NULL) {
        if (was_bulk && b.brake->run_count > 0)
            ldg_refusals_outcomes(b.brake, apply->ops, b.outcomes, apply->count);
        *apply->refusals = brake;
    }
    if (apply->count > 0)
        memcpy(ret_outcomes, b.outcomes, apply->count);
    s->applied_count++;
    ldg_sqlite_durable_committed(s);
out:
    ldg_buf_fini(&b.text);
    return rc;
}
