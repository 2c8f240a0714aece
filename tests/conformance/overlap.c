/* Two batches under way at once, and others who come in between: what each may do before the one
 * in front of it has ended, and that ids follow the order of the log all the same.
 *
 * Each batch has a handle and a thread of its own; what happens in between is done where the first
 * one says that its ids are reserved, so every run is the same. */
#include "sink.h"

#include <pthread.h>

#include "stage.h"

enum { BEGUN, RESERVED, DONE };

/* One of two batches. */
struct half {
    struct sink *sink;
    ledger_store *store;
    struct half *lead, *behind;           /* NULL: there is none */
    void (*meanwhile)(struct sink *sink); /* done once ids are reserved, also those behind */
    struct ldg_cursor expected, next;
    struct ldg_apply apply;
    uint8_t *outcomes;
    pthread_t thread;
    int stage;
    ledger_rc rc;
    ledger_error err;
};

static void ids_reserved(void *ctx)
{
    struct half *half = ctx;

    if (half->stage != BEGUN)
        return;
    tst_stage_reach(&half->stage, RESERVED);
    if (half->behind != NULL)
        tst_stage_await(&half->behind->stage, RESERVED);
    if (half->meanwhile != NULL)
        half->meanwhile(half->sink);
}

static ledger_rc await_commit_order(void *ctx, ledger_error *err)
{
    struct half *half = ctx;

    ids_reserved(half);
    if (half->lead == NULL)
        return LEDGER_OK;
    tst_stage_await(&half->lead->stage, DONE);
    if (half->lead->rc == LEDGER_OK)
        return LEDGER_OK;
    err->code = LEDGER_ERR_FENCED;
    return LEDGER_ERR_FENCED;
}

static void *run(void *ctx)
{
    struct half *half = ctx;

    half->rc = ldg_store_apply(half->store, &half->apply, half->outcomes, &half->err);
    tst_stage_reach(&half->stage, DONE);
    return NULL;
}

static void half_init(struct half *half, struct sink *sink, const struct ldg_cursor *expected,
                      size_t first, size_t count)
{
    *half = (struct half){ .sink = sink, .expected = *expected, .next = *expected };
    snprintf(half->next.state, sizeof(half->next.state), "%p %zu of %lld", (void *)half, first,
             (long long)sink->position);
    half->outcomes = sink->outcomes + first;
    half->apply = (struct ldg_apply){
        .name = "c",
        .expected = &half->expected,
        .next = &half->next,
        .ops = sink->ops + first,
        .count = count,
        .await_commit_order = await_commit_order,
        .ids_reserved = ids_reserved,
        .overlap_ctx = half,
    };
}

/* As a bridge does it: the batch that has failed is done once more, alone. */
static void run_alone(struct half *half)
{
    ledger_error err;

    half->apply.await_commit_order = NULL;
    half->apply.ids_reserved = NULL;
    ok(ldg_store_apply(half->store, &half->apply, half->outcomes, &err));
}

/* The ops of the batch that was made up in two, the first one with `first` ops. ret_rc: what each
 * ended with; then the ones that failed are done again. */
static void run_in_two(struct sink *sink, size_t first, void (*meanwhile)(struct sink *sink),
                       ledger_rc ret_rc[2])
{
    ledger_store *store = NULL;
    struct half a, b;
    ledger_error err;

    ok(ldg_store_reopen(sink->store, LDG_ROLE_SINK, NULL, &store, &err));
    half_init(&a, sink, &sink->cursor, 0, first);
    half_init(&b, sink, &a.next, first, sink->count - first);
    a.store = sink->store;
    b.store = store;
    a.behind = &b;
    b.lead = &a;
    a.meanwhile = meanwhile;
    memset(sink->outcomes, 0xff, sizeof(sink->outcomes));
    assert_int_equal(pthread_create(&a.thread, NULL, run, &a), 0);
    tst_stage_await(&a.stage, RESERVED);
    (void)run(&b);
    assert_int_equal(pthread_join(a.thread, NULL), 0);
    ret_rc[0] = a.rc;
    ret_rc[1] = b.rc;
    if (a.rc != LEDGER_OK)
        run_alone(&a);
    if (b.rc != LEDGER_OK)
        run_alone(&b);
    sink->cursor = b.next;
    sink->count = 0;
    ledger_store_close(&store);
}

/* One that nothing comes behind. */
static ledger_rc run_ahead(struct sink *sink, void (*meanwhile)(struct sink *sink))
{
    struct half a;
    ledger_rc rc;

    half_init(&a, sink, &sink->cursor, 0, sink->count);
    a.store = sink->store;
    a.meanwhile = meanwhile;
    memset(sink->outcomes, 0xff, sizeof(sink->outcomes));
    (void)run(&a);
    rc = a.rc;
    if (rc != LEDGER_OK)
        run_alone(&a);
    sink->cursor = a.next;
    sink->count = 0;
    return rc;
}

/* A worker of another bridge of this name commits its share: the first entry of the batch. */
static void share_comes_in(struct sink *sink)
{
    const struct ldg_apply share = {
        .name = "c", .expected = &sink->cursor, .ops = sink->ops, .count = 1
    };
    ledger_store *store = NULL;
    uint8_t outcome = LDG_OUTCOME_NONE;
    ledger_error err;

    ok(ldg_store_reopen(sink->store, LDG_ROLE_SINK, NULL, &store, &err));
    ok(ldg_store_apply(store, &share, &outcome, &err));
    assert_int_equal(outcome, LDG_OUTCOME_APPLIED);
    ledger_store_close(&store);
}

/* The first batch finds its entry, with an id behind those that the second one has reserved. */
static void found_by_the_one_before(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    ledger_rc rc[2];
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_append(sink, sink->a, 2, "s", "2", NULL);
    run_in_two(sink, 1, share_comes_in, rc);
    sink_is(sink, "ra");
    sink_holds(sink, "s", "1 2");
    assert_int_equal(rc[0], LEDGER_ERR_BUSY);
    assert_int_equal(rc[1], LEDGER_ERR_FENCED);
}

/* The same inside of one batch. */
static void found_by_the_batch_itself(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_append(sink, sink->a, 2, "s", "2", NULL);
    const ledger_rc rc = run_ahead(sink, share_comes_in);
    sink_is(sink, "ra");
    sink_holds(sink, "s", "1 2");
    assert_int_equal(rc, LEDGER_ERR_BUSY);
}

static void program_writes(struct sink *sink)
{
    ledger_store *program = conf_open(sink->env, "sink");

    conf_append_dedup(program, "s", "6", "k");
    conf_close(sink->env, program);
}

/* What was here before, and what others write, is in nobody's way: no batch fails. */
static void replays_overlap(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    ledger_rc rc[2];
    for (int round = 0; round < 3; round++) {
        sink->position = 0; /* the same events again, and others behind them */
        sink_append(sink, sink->a, 1, "s", "1", NULL);
        sink_append(sink, sink->a, 2, "s", "2", NULL);
        sink_append(sink, sink->a, 3, "s", "3", NULL);
        sink_append(sink, sink->a, 3, "s", "3", NULL)->time_us = sink->ops[2].time_us;
        sink_append(sink, sink->a, 4, "s", "4", NULL);
        sink_append(sink, sink->a, 5, "s", "5", round > 0 ? "k" : NULL);
        if (round > 0)
            sink->ops[5].key.number = 6;
        run_in_two(sink, 4, round == 1 ? program_writes : NULL, rc);
        assert_int_equal(rc[0], LEDGER_OK);
        assert_int_equal(rc[1], LEDGER_OK);
        sink_is(sink, round == 0 ? "aaaraa" : "rrrrrd");
        sink_holds(sink, "s", round == 0 ? "1 2 3 4 5" : "1 2 3 4 5 6");
    }
}

#define TWO (LDG_CAP_OVERLAP_APPLY | LDG_CAP_ATOMIC_BATCH | LDG_CAP_TX_CURSOR | LDG_CAP_ORIGINS)
const struct conf_case conf_overlap_cases[] = {
    { "found by the batch before", found_by_the_one_before, TWO, 0 },
    { "found by the batch itself", found_by_the_batch_itself, TWO, 0 },
    { "replays overlap", replays_overlap, TWO, 0 },
};
const size_t conf_overlap_case_count = sizeof(conf_overlap_cases) / sizeof(conf_overlap_cases[0]);
