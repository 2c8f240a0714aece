/* One parked event, tried again in a sink that keeps no state. Then it is off the list of the state
 * store, or has an attempt more there, and a reason.
 *
 * Invariant: while the process lives each op is delivered once: what an earlier try of the row has
 * delivered is left out. */
#include "bridge/deliver.h"

struct retry {
    struct ldg_deliverer *deliverer;
    struct ldg_arena *arena;
    const struct ldg_parked_row *row;
    const struct ldg_op *ops; /* those of the event that the row stands for */
    size_t count;
};

/* --- what an earlier try has delivered ------------------------------------------------------- */

static bool is_of_row(const struct ldg_retried_op *op, const struct ldg_parked_row *row)
{
    return op->row == row->id && op->log_position == row->log_position &&
           op->attempts == row->attempts;
}

static bool was_retried(const struct ldg_delivered *delivered, const struct ldg_parked_row *row,
                        uint32_t part)
{
    bool was = false;
    for (size_t i = 0; i < delivered->retried_count && !was; i++)
        was = is_of_row(&delivered->retried[i], row) && delivered->retried[i].part == part;
    return was;
}

static ledger_rc reserve_retried(struct ldg_delivered *delivered, size_t count, ledger_error *err)
{
    const size_t cap = delivered->retried_count + count;
    if (cap <= delivered->retried_cap)
        return LEDGER_OK;
    void *retried = ldg_realloc(delivered->retried, cap * sizeof(*delivered->retried));
    if (retried == NULL)
        return ldg_fail_nomem(err);
    delivered->retried = retried;
    delivered->retried_cap = cap;
    return LEDGER_OK;
}

/* The row was written: it is gone, or has an attempt more. */
static void forget_retried(struct ldg_delivered *delivered, const struct ldg_parked_row *row,
                           bool is_gone)
{
    size_t kept = 0;
    for (size_t i = 0; i < delivered->retried_count; i++) {
        struct ldg_retried_op op = delivered->retried[i];
        const bool stays = !is_gone && is_of_row(&op, row);
        op.attempts += stays;
        if (stays || op.row != row->id)
            delivered->retried[kept++] = op;
    }
    delivered->retried_count = kept;
}

/* --- one try --------------------------------------------------------------------------------- */

/* Delivers what no earlier try has. */
static ledger_rc deliver_rest(const struct retry *run, ledger_error *err)
{
    const struct ldg_parked_row *row = run->row;
    struct ldg_delivered *delivered = run->deliverer->delivered;
    struct ldg_op *ops = ldg_arena_calloc(run->arena, run->count, sizeof(*ops));
    uint8_t *outcomes = ldg_arena_alloc(run->arena, run->count);
    struct ldg_apply apply = { 0 };
    ledger_rc rc = ops != NULL && outcomes != NULL ? reserve_retried(delivered, run->count, err)
                                                   : ldg_fail_nomem(err);
    for (size_t i = 0; rc == LEDGER_OK && i < run->count; i++)
        if (!was_retried(delivered, row, run->ops[i].part))
            ops[apply.count++] = run->ops[i];
    if (rc == LEDGER_OK)
        rc = ldg_give_renumber(run->deliverer, ops, apply.count, err);
    if (rc != LEDGER_OK || apply.count == 0)
        return rc;
    apply.ops = ops;
    rc = ldg_give(run->deliverer, &apply, outcomes, err);
    for (size_t i = 0; i < apply.count; i++)
        if (outcomes[i] != LDG_OUTCOME_NONE)
            delivered->retried[delivered->retried_count++] = (struct ldg_retried_op){
                .row = row->id,
                .log_position = row->log_position,
                .attempts = row->attempts,
                .part = ops[i].part,
            };
    return rc;
}

/* Takes it off the list, or notes why it stays. */
static ledger_rc write_row(const struct retry *run, const char *reason, bool *ret_applied,
                           ledger_error *err)
{
    const struct ldg_parked_row *row = run->row;
    ledger_store *state = run->deliverer->state;
    struct ldg_op *trims = ldg_arena_calloc(run->arena, run->count, sizeof(*trims));
    size_t trim_count = 0;
    bool applied = false;
    ledger_rc rc = LEDGER_OK;
    if (trims == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < run->count; i++)
        if (run->ops[i].kind == LDG_OP_TRIM)
            trims[trim_count++] = run->ops[i];
    if (reason != NULL)
        rc = ldg_store_parked_note(state, row->id, reason, err);
    else
        rc = ldg_store_parked_retry(state, row->id, trims, trim_count, &applied, err);
    if (rc == LEDGER_OK) {
        forget_retried(run->deliverer->delivered, row, applied);
        *ret_applied = applied;
    }
    return rc;
}

static const char *first_reason(const struct ldg_hold *hold)
{
    const char *reason = NULL;
    for (size_t i = 0; reason == NULL && i < hold->count; i++)
        reason = hold->reasons[i];
    return reason;
}

/* Must it still wait? *ret_reason NULL: no. Errors: NOT_FOUND (somebody has taken it off the list).
 */
static ledger_rc look_behind(const struct retry *run, const char **ret_reason, ledger_error *err)
{
    struct ldg_hold hold;
    ledger_rc rc = ldg_hold_init(&hold, run->ops, run->count, NULL, run->row->id, run->arena, err);
    if (rc == LEDGER_OK)
        rc = ldg_hold_find(&hold, run->deliverer->state, err);
    if (rc == LEDGER_OK && run->count > 0 && !hold.own_is_there)
        rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no parked event %lld", (long long)run->row->id);
    if (rc == LEDGER_OK)
        *ret_reason = first_reason(&hold);
    return rc;
}

ledger_rc ldg_redeliver(struct ldg_deliverer *deliverer, const struct ldg_parked_row *row,
                        const struct ldg_op *ops, size_t count, struct ldg_arena *arena,
                        bool *ret_applied, ledger_error *err)
{
    struct ldg_op *own = ldg_arena_calloc(arena, count, sizeof(*own));
    struct retry run = { .deliverer = deliverer, .arena = arena, .row = row, .ops = own };
    const char *reason = NULL;
    if (own == NULL)
        return ldg_fail_nomem(err);
    /* Each entry of an append has a row of its own. */
    for (size_t i = 0; i < count; i++)
        if (ldg_id_is_none(row->key) || ldg_id_equal(row->key, ops[i].key))
            own[run.count++] = ops[i];
    ledger_rc rc = look_behind(&run, &reason, err);
    if (rc != LEDGER_OK)
        return rc;
    if (reason == NULL)
        rc = deliver_rest(&run, err);
    if (rc == LEDGER_ERR_REJECTED) {
        reason = ldg_arena_strdup(arena, err->message);
        rc = reason != NULL ? LEDGER_OK : ldg_fail_nomem(err);
    }
    return rc == LEDGER_OK ? write_row(&run, reason, ret_applied, err) : rc;
}
