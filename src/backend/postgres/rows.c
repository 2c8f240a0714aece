/* A batch op by op, in the order of the log: what is here already, what waits behind a parked
 * event, what is done, and what is refused and parked.
 *
 * Hides savepoints: they are set only once the database has refused something. Invariant: what is
 * refused leaves nothing behind, and no later op of its entry overtakes it. */
#include "backend/postgres/apply.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* One round trip. */
#define RUN_MAX_OPS 100
#define RUN_MAX_BYTES ((size_t)1024 * 1024)

static const char release_op[] = "RELEASE SAVEPOINT ldg_op";

ledger_rc ldg_pg_op_statement(struct ldg_pg_batch *b, const char *doing, const char *template,
                              const struct ldg_pg_args *args, PGresult **ret_result,
                              ledger_error *err)
{
    ledger_error ignored;
    ledger_rc rc;

    if (!b->savepoints || b->savepoint_open)
        return ldg_pg_run(b->pg, LDG_PG_KEEP, doing, template, args, ret_result, err);
    rc = ldg_pg_pipe_begin(b->pg, err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_pg_pipe_send(b->pg, doing, "SAVEPOINT ldg_op", NULL, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_send(b->pg, doing, template, args, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_receive(b->pg, doing, NULL, err);
    b->savepoint_open = rc == LEDGER_OK;
    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_receive(b->pg, doing, ret_result, err);
    if (ldg_pg_pipe_end(b->pg, rc == LEDGER_OK ? err : &ignored) != LEDGER_OK && rc == LEDGER_OK)
        rc = err->code;
    return rc;
}

static ledger_rc savepoint_end(struct ldg_pg_batch *b, bool undo, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (!b->savepoint_open)
        return LEDGER_OK;
    b->savepoint_open = false;
    if (undo)
        rc = ldg_pg_run(b->pg, LDG_PG_KEEP, "undoing an operation", "ROLLBACK TO SAVEPOINT ldg_op",
                        NULL, NULL, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_run(b->pg, LDG_PG_KEEP, "ending an operation", release_op, NULL, NULL, err);
    return rc;
}

static ledger_rc park_new(struct ldg_pg_batch *b, size_t i, const char *reason, bool *ret_new,
                          ledger_error *err)
{
    ledger_rc rc = ldg_pg_park_new(b->pg, &b->ops[i], reason, ret_new, err);

    b->ids[i] = 0;
    if (rc == LEDGER_OK) {
        b->outcomes[i] = LDG_OUTCOME_PARKED;
        b->parked_any = true;
    }
    return rc;
}

static ledger_rc park(struct ldg_pg_batch *b, size_t i, const char *reason, ledger_error *err)
{
    bool is_new;

    return park_new(b, i, reason, &is_new, err);
}

/* Must the op wait behind a parked event? *ret_parked: it was parked too. */
static ledger_rc wait_behind(struct ldg_pg_batch *b, size_t i, enum ldg_wait wait, bool *ret_parked,
                             ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    char reason[LDG_OP_WAIT_MAX];
    int64_t position = 0;
    ledger_rc rc = LEDGER_OK;

    *ret_parked = false;
    if (!b->parked_any || op->kind == LDG_OP_TRIM || op->kind == LDG_OP_PARK)
        goto out;
    rc = ldg_pg_parked_before(b->pg, op, wait, b->parked_id, &position, err);
    if (rc != LEDGER_OK || position == 0)
        goto out;
    ldg_op_wait_reason(position, wait, reason);
    if (b->can_park) {
        *ret_parked = true;
        rc = park(b, i, reason, err);
    } else {
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "%s", reason);
        err->done_count = i;
    }
out:
    return rc;
}

static ledger_rc park_refused(struct ldg_pg_batch *b, size_t i, const ledger_error *why,
                              uint64_t reason, ledger_error *err)
{
    bool is_new = false;
    ledger_rc rc = ldg_pg_look_again(b, err);

    if (rc == LEDGER_OK)
        rc = park_new(b, i, why->message, &is_new, err);
    if (rc == LEDGER_OK && is_new && b->brake != NULL)
        rc = ldg_refusals_note(b->brake, b->ops[i].kind, reason, why, err);
    return rc;
}

/* An op that the database refused: parked, or the end of this try. */
static ledger_rc refused(struct ldg_pg_batch *b, size_t i, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    const ledger_error why = *err;
    const uint64_t reason = ldg_pg_refusal_reason(b->pg, err);
    ledger_rc rc = LEDGER_ERR_REJECTED;

    err->done_count = i;
    if (b->can_park && b->savepoints) {
        rc = savepoint_end(b, true, err);
        if (rc == LEDGER_OK)
            rc = park_refused(b, i, &why, reason, err);
    } else if (b->can_park && !b->park_rejected) {
        rc = ldg_fail_native(err, LEDGER_ERR_REJECTED, "postgres", err->native_code,
                             "the sink refuses event %" PRId64 " (%s of stream \"%.60s\"): %.300s",
                             op->log_position, op->type_name != NULL ? op->type_name : "",
                             op->stream, why.message);
        err->done_count = i;
    }
    return rc;
}

static ledger_rc try_one(struct ldg_pg_batch *b, size_t i, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    enum ldg_wait wait;
    bool parked = false;
    ledger_rc rc = ldg_pg_op_run(b, i, err);

    if (rc == LEDGER_ERR_REJECTED)
        return refused(b, i, err);
    if (rc == LEDGER_OK)
        rc = savepoint_end(b, false, err);
    if (rc == LEDGER_OK && ldg_op_may_wait(op, b->outcomes[i], &wait))
        rc = wait_behind(b, i, wait, &parked, err);
    if (rc == LEDGER_OK && !parked && b->parked_any && b->can_park)
        rc = ldg_pg_parked_done(b->pg, op, err);
    return rc;
}

/* A plain append, which can go together with its neighbours? */
static bool runs_along(const struct ldg_pg_batch *b, size_t i, const char *const *seen)
{
    return !b->savepoints && !b->parked_any && b->ops[i].kind == LDG_OP_APPEND &&
           b->ops[i].origin > 0 && seen[i] == NULL && (b->forced == NULL || !b->forced[i].is_set);
}

/* The end of the run of appends that begins with i; i: none. */
static size_t run_end(const struct ldg_pg_batch *b, size_t i, size_t limit, const char *const *seen)
{
    size_t end = i, bytes = 0;

    while (end < limit && end - i < RUN_MAX_OPS && bytes < RUN_MAX_BYTES &&
           runs_along(b, end, seen))
        bytes += b->ops[end++].entry->payload.size;
    return end;
}

static ledger_rc row_one(struct ldg_pg_batch *b, size_t i, const char *seen, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    bool done = false;
    ledger_rc rc = LEDGER_OK;

    if (b->forced != NULL && b->forced[i].is_set)
        return park_refused(b, i, &b->forced[i].why, b->forced[i].reason, err);
    if (op->kind == LDG_OP_PARK && b->can_park)
        return park(b, i, op->reason != NULL ? op->reason : "", err);
    /* What is here already comes first: a replay must not be refused, nor wait. */
    if (seen != NULL && seen != LDG_PG_SEEN_SAME)
        return ldg_op_fail_reused(op, seen, err);
    if (seen != NULL || ldg_op_came_round(op)) {
        b->outcomes[i] = LDG_OUTCOME_REPLAYED;
        b->ids[i] = 0;
        return b->parked_any && b->can_park ? ldg_pg_parked_done(b->pg, op, err) : LEDGER_OK;
    }
    rc = wait_behind(b, i, LDG_WAIT_ENTRY, &done, err);
    if (rc == LEDGER_OK && !done)
        rc = try_one(b, i, err);
    return rc;
}

ledger_rc ldg_pg_rows_run(struct ldg_pg_batch *b, ledger_error *err)
{
    const char **seen = ldg_arena_calloc(&b->sink->arena, b->count, sizeof(*seen));
    size_t seen_end = 0, end;
    ledger_rc rc = seen != NULL ? LEDGER_OK : ldg_fail_nomem(err);

    b->savepoint_open = false;
    memset(b->ids, 0, b->count * sizeof(*b->ids)); /* a plan for all at once may have left some */
    for (size_t i = 0; rc == LEDGER_OK && i < b->count; i = end) {
        if (i == seen_end)
            rc = ldg_pg_ops_seen(b, i, seen, &seen_end, err);
        if (rc != LEDGER_OK)
            break;
        end = run_end(b, i, seen_end, seen);
        if (end > i + 1) {
            rc = ldg_pg_ops_appends(b, i, end, err);
            if (rc == LEDGER_ERR_REJECTED)
                rc = refused(b, err->done_count, err);
        } else {
            end = i + 1;
            rc = row_one(b, i, seen[i], err);
        }
        if (rc == LEDGER_OK && b->brake != NULL)
            ldg_refusals_outcomes(b->brake, b->ops + i, b->outcomes + i, end - i);
    }
    return rc;
}
