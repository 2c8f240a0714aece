/* Two sink transactions under way at once: whatever becomes of either, the sink ends equal to the
 * source, in the source's order, and the counters add up. */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "memory_faults.h"
#include "oracle.h"
#include "workload.h"

#define BATCH 5

static const char *memory_name(const ledger_store *store)
{
    return ledger_store_url(store) + strlen("memory:");
}

struct ends {
    ledger_store *source, *sink;
};

static struct ends ends_open(struct tst_env *env)
{
    return (struct ends){ .source = tst_open(env, TST_MEMORY, "source"),
                          .sink = tst_open(env, TST_MEMORY, "sink") };
}

/* Appends, mostly; `mixed`: with changes and trims between them. */
static void fill(struct ends *ends, uint64_t seed, size_t count, bool mixed)
{
    uint64_t random = seed;
    for (size_t i = 0; i < count; i++) {
        char stream[16], payload[32], key[16];
        snprintf(stream, sizeof stream, "s%" PRIu64, tst_random_below(&random, 4));
        snprintf(payload, sizeof payload, "{\"n\":%zu}", i);
        snprintf(key, sizeof key, "k%zu", i);
        int64_t id = tst_append(ends->source, stream, payload,
                                tst_random_below(&random, 3) == 0 ? key : NULL, NULL);
        if (mixed && tst_random_below(&random, 12) == 0)
            tst_tag(ends->source, stream, id, "t");
        if (mixed && tst_random_below(&random, 60) == 0)
            (void)tst_trim(ends->source, stream, id);
    }
}

static void bridge_options(ledger_bridge_options *o)
{
    tst_bridge_options(o);
    o->batch_size = o->backlog_batch_size = BATCH;
    o->retry_max_ms = 4;
}

/* Lets a bridge of its own thread carry all there is. */
static ledger_bridge_stats run_until_empty(struct ends *ends, const ledger_bridge_options *options)
{
    ledger_bridge_stats stats;
    ledger_error err = { 0 };
    ledger_bridge *bridge = tst_bridge(ends->source, ends->sink, options);
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
    ledger_bridge_stop(bridge);
    tst_check_counters(bridge);
    ledger_bridge_get_stats(bridge, &stats);
    ledger_bridge_destroy(&bridge);
    return stats;
}

/* While a batch has not committed, the one behind it is begun and no other. The first one of all
 * goes alone. */
static void two_are_under_way_and_no_more(void **state)
{
    struct tst_env *env = *state;
    struct ends ends = ends_open(env);
    struct ldg_memory_fault hold = { .callback = "apply", .kind = LDG_MEMORY_HOLD, .nth = 2 };
    ledger_bridge_options o;
    ledger_error err = { 0 };
    fill(&ends, tst_seed(), 60, false);
    bridge_options(&o);
    assert_int_equal(ldg_memory_fault_add(memory_name(ends.sink), &hold), LEDGER_OK);
    ledger_bridge *bridge = tst_bridge(ends.source, ends.sink, &o);
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    assert_true(ldg_memory_wait_held(memory_name(ends.sink), 60000));
    TST_AWAIT(ldg_memory_call_count(memory_name(ends.sink), "apply") >= 3);
    tst_sleep_us(20000);
    assert_int_equal(ldg_memory_call_count(memory_name(ends.sink), "apply"), 3);
    assert_int_equal(tst_count(ends.sink, NULL), BATCH);
    ldg_memory_release(memory_name(ends.sink));
    tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
    ledger_bridge_stop(bridge);
    tst_check_counters(bridge);
    ledger_bridge_destroy(&bridge);
    ldg_memory_faults_clear(memory_name(ends.sink));
    tst_assert_equal(ends.source, ends.sink, 0);
}

/* A stop waits for what is under way and counts it. */
static void a_stop_lands_what_is_under_way(void **state)
{
    struct tst_env *env = *state;
    for (size_t i = 0; i < tst_scale(40); i++, tst_env_reset(env)) {
        struct ends ends = ends_open(env);
        ledger_bridge_options o;
        ledger_bridge_stats stats;
        ledger_bridge_status status;
        ledger_error err = { 0 };
        fill(&ends, tst_seed() + i, 300, i % 2 == 0);
        bridge_options(&o);
        ledger_bridge *bridge = tst_bridge(ends.source, ends.sink, &o);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        tst_sleep_us((int64_t)i * 150);
        ledger_bridge_stop(bridge);
        tst_check_counters(bridge);
        ledger_bridge_get_stats(bridge, &stats);
        ledger_bridge_destroy(&bridge);
        tst_ok(ledger_bridge_status_get(ends.source, ends.sink, NULL, &status, &err), &err);
        if (status.has_cursor && stats.read_count > 0)
            assert_string_equal(status.position, stats.position);
        (void)run_until_empty(&ends, &o);
        tst_assert_equal(ends.source, ends.sink, 0);
    }
}

static const ledger_rc codes[] = {
    LEDGER_ERR_CONNECT, LEDGER_ERR_IO,     LEDGER_ERR_BUSY,
    LEDGER_ERR_NOMEM,   LEDGER_ERR_FENCED, LEDGER_ERR_UNKNOWN_OUTCOME
};

static void fails_on_call(struct tst_env *env, enum ldg_memory_fault_kind kind, size_t times,
                          const char *callback)
{
    /* The first handle is opened when the bridge is made, which fails with it. */
    for (uint64_t n = strcmp(callback, "open") == 0 ? 2 : 1; n <= 12; n++) {
        for (size_t c = 0; c < (kind == LDG_MEMORY_FAIL ? sizeof codes / sizeof codes[0] : 1);
             c++) {
            struct ends ends = ends_open(env);
            struct ldg_memory_fault fault = { .callback = callback,
                                              .kind = kind,
                                              .nth = n,
                                              .times = times,
                                              .code =
                                                  kind == LDG_MEMORY_FAIL ? codes[c] : LEDGER_OK };
            ledger_bridge_options o;
            fill(&ends, tst_seed() + n, 80, c % 2 == 1);
            bridge_options(&o);
            assert_int_equal(ldg_memory_fault_add(memory_name(ends.sink), &fault), LEDGER_OK);
            (void)run_until_empty(&ends, &o);
            ldg_memory_faults_clear(memory_name(ends.sink));
            tst_assert_equal(ends.source, ends.sink, 0);
            tst_env_reset(env);
        }
    }
}

/* Batches that are begun are no success: a sink that takes nothing any more is waited for, and
 * given up in time. */
static void a_sink_that_takes_no_more(void **state)
{
    static const ledger_rc lasting[] = { LEDGER_ERR_FULL, LEDGER_ERR_CONNECT, LEDGER_ERR_BUSY };
    struct tst_env *env = *state;
    for (size_t i = 0; i < sizeof lasting / sizeof lasting[0]; i++, tst_env_reset(env)) {
        struct ends ends = ends_open(env);
        const struct ldg_memory_fault fault = {
            .callback = "apply", .nth = 4, .times = UINT64_MAX, .code = lasting[i]
        };
        ledger_bridge_options o;
        ledger_bridge_stats stats;
        ledger_error err = { 0 };
        fill(&ends, tst_seed() + i, 300, false);
        bridge_options(&o);
        o.retry_for_ms = 300;
        assert_int_equal(ldg_memory_fault_add(memory_name(ends.sink), &fault), LEDGER_OK);
        ledger_bridge *bridge = tst_bridge(ends.source, ends.sink, &o);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        tst_fails(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), lasting[i], &err);
        ledger_bridge_get_stats(bridge, &stats);
        assert_true(stats.error_count > 1); /* and more, where the machine has time for them */
        ledger_bridge_destroy(&bridge);
        ldg_memory_faults_clear(memory_name(ends.sink));
        o.retry_for_ms = -1;
        (void)run_until_empty(&ends, &o);
        tst_assert_equal(ends.source, ends.sink, 0);
    }
}

static void either_fails(void **state)
{
    fails_on_call(*state, LDG_MEMORY_FAIL, 1, "apply");
}

static void both_fail(void **state)
{
    fails_on_call(*state, LDG_MEMORY_FAIL, 2, "apply");
}

static void either_loses_its_acknowledgement(void **state)
{
    fails_on_call(*state, LDG_MEMORY_LOSE_ACK, 1, "apply");
}

static void both_lose_their_acknowledgement(void **state)
{
    fails_on_call(*state, LDG_MEMORY_LOSE_ACK, 2, "apply");
}

static void either_is_applied_in_half(void **state)
{
    fails_on_call(*state, LDG_MEMORY_APPLY_HALF, 1, "apply");
}

/* The second handle cannot be opened: it goes without. */
static void no_second_handle(void **state)
{
    fails_on_call(*state, LDG_MEMORY_FAIL, 1, "open");
}

/* Keys that repeat, so that rows of one batch stand in the way of the other. */
static void batches_hit_the_same_keys(void **state)
{
    struct tst_env *env = *state;
    for (size_t i = 0; i < tst_scale(30); i++, tst_env_reset(env)) {
        struct ends ends = ends_open(env);
        ledger_store *other = tst_open(env, TST_MEMORY, "other");
        ledger_bridge_options o;
        uint64_t random = tst_seed() + i, expected = 0;
        bridge_options(&o);
        /* The sink has some of the keys from elsewhere, so appends are left out. */
        for (int k = 0; k < 40; k++) {
            char key[8];
            snprintf(key, sizeof key, "k%d", k);
            if (tst_random_below(&random, 3) == 0)
                tst_append(other, "s", "0", key, NULL);
        }
        (void)tst_bridge_once(other, ends.sink, NULL);
        const uint64_t before = tst_count(ends.sink, NULL);
        ledger_bridge_options own = o;
        own.name = "own";
        for (int k = 0; k < 60; k++) {
            char key[8];
            snprintf(key, sizeof key, "k%d", k);
            tst_append(ends.source, "s", "1", key, NULL);
        }
        expected = 60;
        const ledger_bridge_stats stats = run_until_empty(&ends, &own);
        assert_int_equal(stats.read_count, expected);
        assert_int_equal(stats.dedup_count, before);
        assert_int_equal(stats.apply_count, expected - before);
        assert_int_equal(tst_count(ends.sink, "s"), expected);
    }
}

struct runner {
    struct ends *ends;
    pthread_t thread;
};

static void *run_thread(void *arg)
{
    struct runner *runner = arg;
    ledger_bridge_options o;
    bridge_options(&o);
    o.parallel_streams = 1;
    (void)run_until_empty(runner->ends, &o);
    return NULL;
}

/* Any number of bridges on one pair: whoever is late gives up both of its batches. */
static void bridges_take_each_other_over(void **state)
{
    struct tst_env *env = *state;
    for (size_t i = 0; i < tst_scale(15); i++, tst_env_reset(env)) {
        struct ends ends = ends_open(env);
        struct runner runners[3];
        fill(&ends, tst_seed() + i, 200, i % 2 == 0);
        for (size_t k = 0; k < 3; k++) {
            runners[k].ends = &ends;
            assert_int_equal(pthread_create(&runners[k].thread, NULL, run_thread, &runners[k]), 0);
        }
        for (size_t k = 0; k < 3; k++)
            assert_int_equal(pthread_join(runners[k].thread, NULL), 0);
        tst_assert_equal(ends.source, ends.sink, 0);
    }
}

/* A refused entry in the middle: parked, or the bridge stops right before it. */
static void a_refused_entry(void **state)
{
    struct tst_env *env = *state;
    for (int stop = 0; stop < 2; stop++, tst_env_reset(env)) {
        for (int at = 0; at < 23; at += 11, tst_env_reset(env)) {
            struct ends ends = ends_open(env);
            ledger_bridge_options o;
            ledger_error err = { 0 };
            bridge_options(&o);
            o.on_bad_event = stop ? LEDGER_BAD_EVENT_STOP : LEDGER_BAD_EVENT_PARK;
            for (int i = 0; i < 60; i++)
                tst_append(ends.source, i == 30 + at ? "bad" : "s", "1", NULL, NULL);
            tst_refuse(ends.sink, "bad");
            if (!stop) {
                assert_int_equal(run_until_empty(&ends, &o).park_count, 1);
                assert_int_equal(tst_count(ends.sink, NULL), 59);
                continue;
            }
            ledger_bridge *bridge = tst_bridge(ends.source, ends.sink, &o);
            tst_ok(ledger_bridge_start(bridge, &err), &err);
            tst_fails(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), LEDGER_ERR_REJECTED,
                      &err);
            tst_check_counters(bridge);
            ledger_bridge_destroy(&bridge);
            assert_int_equal(tst_count(ends.sink, NULL), 30 + at);
        }
    }
}

static void random_faults(void **state)
{
    struct tst_env *env = *state;
    static const enum ldg_memory_fault_kind kinds[] = { LDG_MEMORY_FAIL, LDG_MEMORY_LOSE_ACK,
                                                        LDG_MEMORY_APPLY_HALF };
    for (size_t i = 0; i < tst_scale(60); i++, tst_env_reset(env)) {
        struct ends ends = ends_open(env);
        uint64_t random = tst_seed() + i;
        ledger_bridge_options o;
        bridge_options(&o);
        o.backlog_batch_size = BATCH + tst_random_below(&random, 20);
        for (int k = 0; k < 6; k++) {
            struct ldg_memory_fault fault = { .callback = "apply",
                                              .kind = kinds[tst_random_below(&random, 3)],
                                              .nth = 1 + tst_random_below(&random, 30),
                                              .times = 1 + tst_random_below(&random, 2) };
            if (fault.kind == LDG_MEMORY_FAIL)
                fault.code = codes[tst_random_below(&random, sizeof codes / sizeof codes[0])];
            assert_int_equal(ldg_memory_fault_add(memory_name(ends.sink), &fault), LEDGER_OK);
        }
        fill(&ends, random, 250, i % 3 == 0);
        (void)run_until_empty(&ends, &o);
        ldg_memory_faults_clear(memory_name(ends.sink));
        tst_assert_equal(ends.source, ends.sink, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(two_are_under_way_and_no_more),
        T(a_stop_lands_what_is_under_way),
        T(a_sink_that_takes_no_more),
        T(either_fails),
        T(both_fail),
        T(either_loses_its_acknowledgement),
        T(both_lose_their_acknowledgement),
        T(either_is_applied_in_half),
        T(no_second_handle),
        T(batches_hit_the_same_keys),
        T(bridges_take_each_other_over),
        T(a_refused_entry),
        T(random_faults),
    };
    return cmocka_run_group_tests_name("overlap", tests, NULL, NULL);
}
