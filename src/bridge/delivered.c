/* What the sink has and the state store does not know of yet.
 *
 * Hides how an op that comes again is recognised. Invariant: while the process lives each op is
 * delivered once, whatever fails; after a crash it may come again, under the same key. */
#include <stdlib.h>
#include <string.h>

#include "bridge/deliver.h"

static int compare_delivered(const void *a, const void *b)
{
    const struct ldg_delivered_op *x = a, *y = b;
    if (x->log_position != y->log_position)
        return x->log_position < y->log_position ? -1 : 1;
    return (x->part > y->part) - (x->part < y->part);
}

static ledger_rc reserve(struct ldg_delivered *delivered, size_t cap, ledger_error *err)
{
    if (cap <= delivered->cap)
        return LEDGER_OK;
    void *ops = ldg_realloc(delivered->ops, cap * sizeof(*delivered->ops));
    if (ops == NULL)
        return ldg_fail_nomem(err);
    delivered->ops = ops;
    delivered->cap = cap;
    return LEDGER_OK;
}

ledger_rc ldg_delivered_recall(struct ldg_delivered *delivered, const char *from,
                               const struct ldg_op *ops, size_t count, bool *is_done,
                               uint8_t *outcomes, ledger_error *err)
{
    /* The earlier try began at the same cursor, or its commit took place although it failed. */
    if (strcmp(delivered->from, from) != 0 && strcmp(delivered->next, from) != 0)
        delivered->count = 0;
    memcpy(delivered->from, from, strlen(from) + 1);
    ledger_rc rc = reserve(delivered, delivered->count + count, err);
    if (rc != LEDGER_OK || delivered->count == 0)
        return rc;
    qsort(delivered->ops, delivered->count, sizeof(*delivered->ops), compare_delivered);
    for (size_t i = 0; i < count; i++) {
        const struct ldg_delivered_op wanted = { .log_position = ops[i].log_position,
                                                 .part = ops[i].part };
        const struct ldg_delivered_op *found =
            bsearch(&wanted, delivered->ops, delivered->count, sizeof(wanted), compare_delivered);
        is_done[i] = found != NULL;
        if (found != NULL)
            outcomes[i] = found->outcome;
    }
    return LEDGER_OK;
}

void ldg_delivered_add(struct ldg_delivered *delivered, const struct ldg_op *op, uint8_t outcome)
{
    delivered->ops[delivered->count++] = (struct ldg_delivered_op){
        .log_position = op->log_position,
        .part = op->part,
        .outcome = outcome,
    };
}

void ldg_delivered_set_next(struct ldg_delivered *delivered, const char *next)
{
    memcpy(delivered->next, next, strlen(next) + 1);
}

void ldg_delivered_forget(struct ldg_delivered *delivered, const struct ldg_op *ops, size_t count)
{
    const int64_t end = count > 0 ? ops[count - 1].log_position : 0;
    size_t kept = 0;
    for (size_t i = 0; i < delivered->count; i++)
        if (delivered->ops[i].log_position > end)
            delivered->ops[kept++] = delivered->ops[i];
    delivered->count = kept;
}

void ldg_delivered_fini(struct ldg_delivered *delivered)
{
    ldg_free(delivered->ops);
    ldg_free(delivered->retried);
    memset(delivered, 0, sizeof(*delivered));
}
