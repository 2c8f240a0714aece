/* Applying: ops into the sink. The only writer to it.
 *
 * Serial: one call, one transaction, with fence and cursor. Parallel: streams are dealt out by hash
 * to workers with handles of their own; each commits its share only while the cursor still is where
 * the batch began, and when all have committed the cursor moves by compare-and-set. A crash in
 * between leaves a part applied and the cursor behind it: it is applied again, as a no-op. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "bridge/stages.h"

struct ldg_apply_worker {
    ledger_store *sink;
    pthread_t thread;
    bool has_thread;
    struct ldg_op *ops;     /* its share, in order */
    uint32_t *origin_index; /* where each stood in the batch */
    uint8_t *outcomes;
    size_t count, cap;
    const struct ldg_apply *template;
    ledger_rc rc;
    ledger_error err;
};

ledger_rc ldg_applier_init(struct ldg_applier *applier, ledger_store *sink, size_t parallel,
                           ledger_error *err)
{
    memset(applier, 0, sizeof(*applier));
    applier->sink = sink;
    if (parallel <= 1 || (ldg_store_caps(sink) & LDG_CAP_PARALLEL_APPLY) == 0)
        return LEDGER_OK; /* a sink with one writer gains nothing from several */
    applier->workers = ldg_calloc(parallel, sizeof(*applier->workers));
    if (applier->workers == NULL)
        return ldg_fail_nomem(err);
    applier->worker_count = parallel;
    for (size_t i = 0; i < parallel; i++) {
        ledger_rc rc = ldg_store_reopen(sink, LDG_ROLE_SINK, NULL, &applier->workers[i].sink, err);
        if (rc != LEDGER_OK)
            return rc;
    }
    return LEDGER_OK;
}

void ldg_applier_fini(struct ldg_applier *applier)
{
    for (size_t i = 0; i < applier->worker_count; i++) {
        struct ldg_apply_worker *worker = &applier->workers[i];
        ldg_free(worker->ops);
        ldg_free(worker->origin_index);
        ldg_free(worker->outcomes);
        ledger_store_close(&worker->sink);
    }
    ldg_free(applier->workers);
    applier->workers = NULL;
    applier->worker_count = 0;
}

static ledger_rc worker_reserve(struct ldg_apply_worker *worker, size_t cap, ledger_error *err)
{
    if (cap <= worker->cap)
        return LEDGER_OK;
    struct ldg_op *ops = ldg_malloc(cap * sizeof(*ops));
    uint32_t *index = ldg_malloc(cap * sizeof(*index));
    uint8_t *outcomes = ldg_malloc(cap);
    if (ops == NULL || index == NULL || outcomes == NULL) {
        ldg_free(ops);
        ldg_free(index);
        ldg_free(outcomes);
        return ldg_fail_nomem(err);
    }
    ldg_free(worker->ops);
    ldg_free(worker->origin_index);
    ldg_free(worker->outcomes);
    worker->ops = ops;
    worker->origin_index = index;
    worker->outcomes = outcomes;
    worker->cap = cap;
    return LEDGER_OK;
}

static void *worker_main(void *arg)
{
    struct ldg_apply_worker *worker = arg;
    struct ldg_apply apply = *worker->template;
    apply.ops = worker->ops;
    apply.count = worker->count;
    apply.next = NULL;
    worker->rc = ldg_store_apply(worker->sink, &apply, worker->outcomes, &worker->err);
    return NULL;
}

/* A parked event may belong to any entry, so a batch that parks one is applied in order, by one. */
static bool can_split(const struct ldg_applier *applier, const struct ldg_batch *batch)
{
    return applier->worker_count > 1 && batch->op_count > 1 && !batch->has_bad;
}

static ledger_rc apply_split(struct ldg_applier *applier, const struct ldg_apply *apply,
                             struct ldg_batch *batch, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; i < applier->worker_count; i++) {
        applier->workers[i].count = 0;
        rc = worker_reserve(&applier->workers[i], batch->op_count, err);
        if (rc != LEDGER_OK)
            return rc;
    }
    for (size_t i = 0; i < batch->op_count; i++) {
        const struct ldg_op *op = &batch->ops[i];
        uint64_t hash = ldg_hash64(op->stream, strlen(op->stream), 0);
        struct ldg_apply_worker *worker = &applier->workers[hash % applier->worker_count];
        worker->ops[worker->count] = *op;
        worker->origin_index[worker->count++] = (uint32_t)i;
    }
    for (size_t i = 0; i < applier->worker_count; i++) {
        struct ldg_apply_worker *worker = &applier->workers[i];
        worker->template = apply;
        worker->rc = LEDGER_OK;
        if (worker->count == 0)
            continue;
        worker->has_thread = pthread_create(&worker->thread, NULL, worker_main, worker) == 0;
        if (!worker->has_thread)
            (void)worker_main(worker);
    }
    /* Every worker is waited for; the first that failed speaks for the batch. */
    for (size_t i = 0; i < applier->worker_count; i++) {
        struct ldg_apply_worker *worker = &applier->workers[i];
        if (worker->count == 0)
            continue;
        if (worker->has_thread)
            pthread_join(worker->thread, NULL);
        worker->has_thread = false;
        if (worker->rc == LEDGER_OK) {
            for (size_t k = 0; k < worker->count; k++)
                batch->outcomes[worker->origin_index[k]] = worker->outcomes[k];
        } else if (rc == LEDGER_OK) {
            rc = worker->rc;
            if (err != NULL) {
                *err = worker->err;
                if (rc == LEDGER_ERR_REJECTED && worker->err.done_count < worker->count)
                    err->done_count = worker->origin_index[worker->err.done_count];
            }
        }
    }
    return rc;
}

ledger_rc ldg_apply(struct ldg_applier *applier, struct ldg_cursor_keeper *cursor,
                    struct ldg_batch *batch, int bridged_origin, bool park, ledger_error *err)
{
    struct ldg_cursor next;
    ledger_rc rc = ldg_cursor_next(cursor, &batch->log, &next, err);
    if (rc != LEDGER_OK)
        return rc;
    struct ldg_apply apply = {
        .name = cursor->in_sink ? cursor->name : NULL,
        .expected = cursor->in_sink ? &cursor->row : NULL,
        .next = cursor->in_sink ? &next : NULL,
        .ops = batch->ops,
        .count = batch->op_count,
        .park_rejected = park,
        .bridged_origin = bridged_origin,
    };
    if (can_split(applier, batch)) {
        rc = apply_split(applier, &apply, batch, err);
        apply.count = 0; /* only the cursor is left to move */
    }
    if (rc == LEDGER_OK && (apply.count > 0 || cursor->in_sink)) {
        rc = ldg_store_apply(applier->sink, &apply, batch->outcomes, err);
        if (rc == LEDGER_OK)
            applier->applied_count++;
    }
    if (rc == LEDGER_OK)
        rc = ldg_cursor_moved(cursor, &next, err);
    return rc;
}
