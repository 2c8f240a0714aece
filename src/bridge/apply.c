/* Applying: ops into the sink. The only writer to it.
 *
 * One batch: one call, one transaction, with fence and cursor. A batch that is begun ahead gets a
 * thread and a handle of its own, so that two may be under way: the second adds its rows while the
 * first commits, and waits for that commit before it compares the fence. They begin, commit and end
 * in the order of the log; what the first one fails at makes the second give up.
 *
 * Parallel streams: streams are dealt out by hash to workers with handles of their own; each
 * commits its share only while the cursor still is where the batch began, and when all have
 * committed the cursor moves by compare-and-set. A crash in between leaves a part applied and the
 * cursor behind it: it is applied again, as a no-op. Another bridge's workers may be at a shorter
 * batch from the same cursor and add late what a trim of this one has deleted; so the trims are
 * done once more in the transaction that moves the cursor, which waits for them all and lets no
 * other begin. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "bridge/stages.h"

#define SERIAL_AFTER_COLLISION 64

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
                           uint32_t refusal_limit, ledger_error *err)
{
    applier->sink = sink;
    applier->serial_left = 1;
    applier->refusals.limit = refusal_limit;
    applier->inflight[0].sink = sink;
    applier->inflight[0].applier = applier->inflight[1].applier = applier;
    pthread_mutex_init(&applier->mutex, NULL);
    pthread_cond_init(&applier->cond, NULL);
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
    if (applier->sink == NULL)
        return;
    ledger_store_close(&applier->inflight[1].sink);
    pthread_mutex_destroy(&applier->mutex);
    pthread_cond_destroy(&applier->cond);
    applier->sink = NULL;
}

/* --- parallel streams ------------------------------------------------------------------------ */

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
    apply.park_rejected = false; /* a share does not tell whether the sink refuses everything */
    apply.refusals = NULL;
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

/* --- one batch ------------------------------------------------------------------------------- */

static struct ldg_inflight *inflight_at(struct ldg_applier *applier, size_t index)
{
    return &applier->inflight[((size_t)applier->first + index) % 2];
}

/* What is left to do when all shares are committed: the trims, and the cursor. */
static ledger_rc keep_trims(struct ldg_batch *batch, struct ldg_apply *apply,
                            uint8_t **ret_outcomes, ledger_error *err)
{
    struct ldg_op *trims;
    size_t count = 0;
    apply->count = 0;
    for (size_t i = 0; i < batch->op_count; i++)
        count += batch->ops[i].kind == LDG_OP_TRIM;
    if (count == 0)
        return LEDGER_OK;
    trims = ldg_arena_alloc(&batch->plan, count * sizeof(*trims));
    *ret_outcomes = ldg_arena_alloc(&batch->plan, count);
    if (trims == NULL || *ret_outcomes == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < batch->op_count; i++)
        if (batch->ops[i].kind == LDG_OP_TRIM)
            trims[apply->count++] = batch->ops[i];
    apply->ops = trims;
    return LEDGER_OK;
}

/* Where the n-th trim stands in the batch. */
static size_t index_of_trim(const struct ldg_batch *batch, size_t n)
{
    size_t i = 0;
    while (batch->ops[i].kind != LDG_OP_TRIM || n-- > 0)
        i++;
    return i;
}

static ledger_rc submit(struct ldg_inflight *inflight, ledger_error *err)
{
    struct ldg_applier *applier = inflight->applier;
    struct ldg_batch *batch = inflight->batch;
    struct ldg_apply apply = inflight->apply;
    uint8_t *outcomes = batch->outcomes;
    bool split = can_split(applier, batch);
    ledger_rc rc = LEDGER_OK;
    if (split)
        rc = apply_split(applier, &inflight->apply, batch, err);
    if (rc == LEDGER_ERR_REJECTED && apply.park_rejected) { /* by one, in order */
        split = false;
        rc = LEDGER_OK;
    }
    if (rc == LEDGER_OK && split)
        rc = keep_trims(batch, &apply, &outcomes, err);
    if (rc == LEDGER_OK) {
        rc = ldg_store_apply(inflight->sink, &apply, outcomes, err);
        if (rc == LEDGER_OK)
            inflight->applied_count++;
        else if (rc == LEDGER_ERR_REJECTED && split && err->done_count < apply.count)
            err->done_count = index_of_trim(batch, err->done_count);
    }
    return rc;
}

static void set_state(struct ldg_inflight *inflight, int state)
{
    struct ldg_applier *applier = inflight->applier;
    pthread_mutex_lock(&applier->mutex);
    if (state > (int)inflight->state)
        inflight->state = state;
    pthread_cond_broadcast(&applier->cond);
    pthread_mutex_unlock(&applier->mutex);
}

static void *submit_main(void *arg)
{
    struct ldg_inflight *inflight = arg;
    const struct ldg_batch *batch = inflight->batch;
    inflight->rc = submit(inflight, &inflight->err);
    inflight->was_new = inflight->rc == LEDGER_OK &&
                        !ldg_op_any_known(batch->ops, batch->outcomes, batch->op_count);
    set_state(inflight, LDG_INFLIGHT_DONE);
    return NULL;
}

static void inflight_ids_reserved(void *ctx)
{
    set_state(ctx, LDG_INFLIGHT_RESERVED);
}

static ledger_rc inflight_await_commit_order(void *ctx, ledger_error *err)
{
    struct ldg_inflight *inflight = ctx;
    struct ldg_applier *applier = inflight->applier;
    inflight_ids_reserved(inflight);
    pthread_mutex_lock(&applier->mutex);
    while (inflight->lead != NULL && inflight->lead->state != LDG_INFLIGHT_DONE)
        pthread_cond_wait(&applier->cond, &applier->mutex);
    ledger_rc rc = inflight->lead != NULL ? inflight->lead->rc : inflight->lead_rc;
    if (inflight->lead != NULL)
        inflight->after_new = inflight->lead->was_new;
    pthread_mutex_unlock(&applier->mutex);
    return rc == LEDGER_OK
               ? LEDGER_OK
               : ldg_fail(err, LEDGER_ERR_FENCED, "the batch before this one was not committed");
}

/* --- two batches under way ------------------------------------------------------------------- */

/* Without a transaction all that is sent stands at once: the two then may do only what comes to the
 * same in whichever order. */
static bool is_of_any_order(const struct ldg_batch *batch)
{
    bool is = true;
    for (size_t i = 0; is && i < batch->op_count; i++)
        is = batch->ops[i].kind == LDG_OP_APPEND;
    return is;
}

bool ldg_apply_may_overlap(struct ldg_applier *applier, const struct ldg_batch *batch)
{
    const uint64_t caps = ldg_store_caps(applier->sink);
    if (applier->workers != NULL || batch->has_bad || batch->op_count == 0 ||
        (caps & LDG_CAP_OVERLAP_APPLY) == 0 ||
        ((caps & LDG_CAP_ATOMIC_BATCH) == 0 && !is_of_any_order(batch)))
        return false;
    if (applier->serial_left > 0) {
        applier->serial_left--;
        return false;
    }
    if (applier->inflight[1].sink == NULL) {
        if (ldg_store_reopen(applier->sink, LDG_ROLE_SINK, NULL, &applier->inflight[1].sink,
                             NULL) != LEDGER_OK) {
            applier->serial_left = SERIAL_AFTER_COLLISION; /* it goes without */
            return false;
        }
        ldg_store_hint_backlog(applier->inflight[1].sink, applier->backlog);
    }
    return true;
}

/* Until the batch before has reserved its ids, this one must not: ids follow the order of the log.
 */
static void wait_for_lead(struct ldg_inflight *inflight)
{
    struct ldg_applier *applier = inflight->applier;
    pthread_mutex_lock(&applier->mutex);
    while (inflight->lead->state < LDG_INFLIGHT_RESERVED)
        pthread_cond_wait(&applier->cond, &applier->mutex);
    pthread_mutex_unlock(&applier->mutex);
}

ledger_rc ldg_apply_start(struct ldg_applier *applier, const struct ldg_cursor_keeper *cursor,
                          struct ldg_batch *batch, bool park, bool ahead, ledger_error *err)
{
    struct ldg_inflight *lead = applier->count > 0 ? inflight_at(applier, 0) : NULL;
    if (lead == NULL && !ahead)
        applier->first = 0;
    struct ldg_inflight *inflight = inflight_at(applier, applier->count);
    inflight->expected = lead != NULL ? lead->next : cursor->row;
    ledger_rc rc = ldg_cursor_next(cursor, &inflight->expected, &batch->log, &inflight->next, err);
    if (rc != LEDGER_OK)
        return rc;
    inflight->batch = batch;
    inflight->apply = (struct ldg_apply){
        .name = cursor->name,
        .expected = &inflight->expected,
        .next = &inflight->next,
        .ops = batch->ops,
        .count = batch->op_count,
        .park_rejected = park,
        .refusals = &applier->refusals,
        .await_commit_order = ahead ? inflight_await_commit_order : NULL,
        .ids_reserved = ahead ? inflight_ids_reserved : NULL,
        .overlap_ctx = ahead ? inflight : NULL,
        .after_new = &inflight->after_new,
    };
    inflight->after_new = lead == NULL && applier->last_new;
    inflight->rc = inflight->lead_rc = LEDGER_OK;
    memset(&inflight->err, 0, sizeof(inflight->err));
    inflight->lead = lead;
    inflight->state = LDG_INFLIGHT_BEGUN;
    applier->collided = false;
    applier->count++;
    if (ahead && lead != NULL)
        wait_for_lead(inflight);
    inflight->has_thread =
        ahead && pthread_create(&inflight->thread, NULL, submit_main, inflight) == 0;
    if (!inflight->has_thread)
        (void)submit_main(inflight); /* without a thread it is done at once */
    return LEDGER_OK;
}

/* Takes the oldest off the list. */
static struct ldg_inflight *complete(struct ldg_applier *applier)
{
    struct ldg_inflight *inflight = inflight_at(applier, 0);
    struct ldg_inflight *behind = applier->count > 1 ? inflight_at(applier, 1) : NULL;
    if (inflight->has_thread)
        pthread_join(inflight->thread, NULL);
    inflight->has_thread = false;
    pthread_mutex_lock(&applier->mutex);
    if (behind != NULL) {
        behind->lead_rc = inflight->rc;
        behind->after_new = inflight->was_new;
        behind->lead = NULL;
    }
    inflight->state = LDG_INFLIGHT_IDLE;
    pthread_cond_broadcast(&applier->cond);
    pthread_mutex_unlock(&applier->mutex);
    applier->first = 1 - applier->first;
    applier->count--;
    return inflight;
}

ledger_rc ldg_apply_finish(struct ldg_applier *applier, struct ldg_cursor_keeper *cursor,
                           struct ldg_batch **ret_batch, ledger_error *err)
{
    struct ldg_inflight *inflight = complete(applier);
    const bool overlapped = inflight->apply.await_commit_order != NULL;
    ledger_rc rc = inflight->rc;
    *ret_batch = inflight->batch;
    inflight->batch = NULL;
    if (rc == LEDGER_OK) {
        applier->last = (struct ldg_ticket){ .slot = (int)(inflight - applier->inflight),
                                             .count = inflight->applied_count };
        ldg_cursor_moved(cursor, &inflight->next);
    } else if (err != NULL) {
        *err = inflight->err;
    }
    applier->last_new = inflight->was_new;
    while (rc != LEDGER_OK && applier->count > 0)
        complete(applier)->batch = NULL;
    /* Each of the two may have held what the other one waited for. */
    applier->collided = rc == LEDGER_ERR_BUSY && overlapped;
    if (applier->collided)
        applier->serial_left = SERIAL_AFTER_COLLISION;
    else if (rc != LEDGER_OK && applier->serial_left == 0)
        applier->serial_left = 1;
    return rc;
}

const char *ldg_apply_end(const struct ldg_applier *applier, const struct ldg_cursor_keeper *cursor)
{
    if (applier->count == 0)
        return cursor->from;
    return applier->inflight[((size_t)applier->first + applier->count - 1) % 2].next.state;
}

bool ldg_apply_is_durable(struct ldg_applier *applier, struct ldg_ticket ticket)
{
    struct ldg_inflight *inflight = &applier->inflight[ticket.slot];
    /* One thread at a time per handle: not while it is under way. */
    if (inflight->durable_count < ticket.count && inflight->batch == NULL)
        inflight->durable_count = ldg_store_durable_count(inflight->sink, inflight->applied_count);
    return inflight->durable_count >= ticket.count;
}

void ldg_apply_hint_backlog(struct ldg_applier *applier, bool backlog)
{
    applier->backlog = backlog;
    for (int i = 0; i < 2; i++)
        if (applier->inflight[i].sink != NULL)
            ldg_store_hint_backlog(applier->inflight[i].sink, backlog);
}
