/* The brake: a sink that refuses everything is no reason to park everything.
 *
 * Hides when refusals of the database are too many to be the events' own. Pure: no I/O; who applies
 * a batch works on a copy, and keeps it only when the batch is committed. Invariant: a kind of
 * operation that works now and then, or is refused for ever new reasons, never stops a bridge. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "store/backend.h"

uint64_t ldg_refusal_reason(const ledger_error *err, const char *name)
{
    return ldg_hash64(name, strlen(name), (uint64_t)(uint32_t)err->native_code);
}

void ldg_refusals_begin(struct ldg_refusals *r)
{
    memset(&r->batch, 0, sizeof(r->batch));
}

void ldg_refusals_applied(struct ldg_refusals *r, enum ldg_op_kind kind)
{
    r->run_count = 0;
    r->batch.kinds[kind].applied = true;
}

void ldg_refusals_outcomes(struct ldg_refusals *r, const struct ldg_op *ops,
                           const uint8_t *outcomes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (outcomes[i] == LDG_OUTCOME_APPLIED)
            ldg_refusals_applied(r, ops[i].kind);
    }
}

static ledger_rc fail(uint32_t count, const ledger_error *why, ledger_error *err)
{
    const ledger_error reason = *why; /* may be err */

    return ldg_fail_native(err, LEDGER_ERR_REFUSED_ALL, reason.backend, reason.native_code,
                           "the sink refuses everything: %u operations for one reason, and none "
                           "of the kind was taken between them: %.240s. Mend the sink; nothing of "
                           "this batch was parked. If the events are at fault, --refusal-limit 0 "
                           "parks them",
                           (unsigned)count, reason.message);
}

/* The count of this reason; the one that came up first makes room. */
static uint32_t count_run(struct ldg_refusals *r, uint64_t reason)
{
    size_t i = 0;

    while (i < r->run_count && r->runs[i].reason != reason)
        i++;
    if (i == LDG_REFUSAL_REASONS) {
        memmove(r->runs, r->runs + 1, (LDG_REFUSAL_REASONS - 1) * sizeof(r->runs[0]));
        i--;
        r->run_count--;
    }
    if (i == r->run_count) {
        r->runs[i] = (struct ldg_refusal_run){ .reason = reason };
        r->run_count++;
    }
    return ++r->runs[i].count;
}

ledger_rc ldg_refusals_note(struct ldg_refusals *r, enum ldg_op_kind kind, uint64_t reason,
                            const ledger_error *why, ledger_error *err)
{
    struct ldg_refusal_kind *k = &r->batch.kinds[kind];
    const uint32_t count = count_run(r, reason);

    k->mixed = k->mixed || (k->refused > 0 && k->reason != reason);
    k->reason = reason;
    k->refused++;
    r->batch.why = *why;
    return r->limit > 0 && count >= r->limit ? fail(count, why, err) : LEDGER_OK;
}

/* Where a batch has nothing that speaks against it, half as many are enough. */
static uint32_t batch_limit(const struct ldg_refusals *r)
{
    return r->limit / 2 + r->limit % 2;
}

/* All of a kind, whatever became of the others: a table that takes no row takes changes. */
static bool is_kind_refused(const struct ldg_refusals *r)
{
    bool refused = false;

    for (int kind = 0; kind <= LDG_OP_PARK && !refused; kind++) {
        const struct ldg_refusal_kind *k = &r->batch.kinds[kind];

        refused = k->refused >= batch_limit(r) && !k->applied && !k->mixed;
    }
    return refused;
}

static bool is_all_refused(const struct ldg_refusals *r, uint32_t refused)
{
    return r->run_count == 1 && refused >= batch_limit(r) && r->runs[0].count >= refused;
}

ledger_rc ldg_refusals_end(struct ldg_refusals *r, ledger_error *err)
{
    uint32_t refused = 0;
    bool applied = false;

    for (int kind = 0; kind <= LDG_OP_PARK; kind++) {
        refused += r->batch.kinds[kind].refused;
        applied = applied || r->batch.kinds[kind].applied;
    }
    if (r->limit > 0 && refused > 0 &&
        ((!applied && is_all_refused(r, refused)) || is_kind_refused(r)))
        return fail(refused, &r->batch.why, err);
    return LEDGER_OK;
}
