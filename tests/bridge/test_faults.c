/* The n-th call fails, for all n: of a memory sink and source by script, of SQLite files by a file
 * system that fails. After the fault is over the sink equals the source, and no event was counted
 * twice. t8: a second bridge takes over while the first stands at any point of its work. */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fault_vfs.h"
#include "fixtures.h"
#include "memory_faults.h"
#include "oracle.h"
#include "recorder.h"
#include "roles.h"
#include "workload.h"

static const char *memory_name(const ledger_store *store)
{
    const char *url = ledger_store_url(store);
    assert_int_equal(strncmp(url, "memory:", 7), 0);
    return url + 7;
}

static void small_batches(ledger_bridge_options *o)
{
    tst_bridge_options(o);
    o->batch_size = 7;
    o->backlog_batch_size = 14;
}

/* Polls until the log is empty, through errors; same_bridge: goes on with the one that failed. */
static size_t carry_through(ledger_store *source, ledger_store *sink,
                            const ledger_bridge_options *o, bool same_bridge)
{
    ledger_bridge *bridge = NULL;
    size_t errors = 0;
    uint64_t read = 1;
    while (read > 0) {
        ledger_error err = { 0 };
        ledger_rc rc = LEDGER_OK;
        if (bridge == NULL)
            rc = ledger_bridge_create(source, sink, o, &bridge, &err);
        if (rc == LEDGER_OK)
            rc = ledger_bridge_poll(bridge, &read, &err);
        if (bridge != NULL)
            tst_check_counters(bridge);
        if (rc == LEDGER_OK)
            continue;
        if (err.code != rc || err.message[0] == '\0')
            tst_fail("%s without a proper error", ledger_rc_name(rc));
        if (++errors > 60)
            tst_fail("no way through the fault: %s: %s", ledger_rc_name(rc), err.message);
        if (!same_bridge)
            ledger_bridge_destroy(&bridge);
        read = 1;
    }
    ledger_bridge_destroy(&bridge);
    return errors;
}

/* 1, 2, 3 … fine and then in larger steps. */
static uint64_t next_after(uint64_t n, uint64_t fine)
{
    return n < fine ? n + 1 : n + 1 + n / 8;
}

static uint64_t next_n(uint64_t n)
{
    return next_after(n, tst_scale(80));
}

static void fill(ledger_store *source, uint64_t seed, size_t count)
{
    struct tst_workload w;
    tst_workload_init(&w, seed);
    w.small = true;
    w.stream_count = 3;
    tst_workload_run(&w, source, count);
    /* A random workload may roll everything back; a fault in applying needs something to apply. */
    (void)tst_append(source, "s", "1", NULL, NULL);
}

/* --- memory: by script -------------------------------------------------------------------------
 */

static const ledger_rc fault_codes[] = { LEDGER_ERR_CONNECT, LEDGER_ERR_IO, LEDGER_ERR_BUSY,
                                         LEDGER_ERR_NOMEM, LEDGER_ERR_INTERNAL };

enum which { SINK, SOURCE };

static void memory_calls_fail(struct tst_env *env, enum which which,
                              enum ldg_memory_fault_kind kind, const char *callback,
                              bool same_bridge, size_t parallel)
{
    uint64_t seed = tst_seed();
    int others = which == SOURCE ? TST_SINK_COUNT : TST_KIND_COUNT;
    for (int other = 0; other < others; other++, tst_env_reset(env)) {
        if (!tst_kind_here(other))
            continue;
        enum tst_kind from = which == SOURCE ? TST_MEMORY : (enum tst_kind)other;
        enum tst_kind to = which == SINK ? TST_MEMORY : (enum tst_kind)other;
        ledger_store *source = tst_open(env, from, "source");
        uint64_t fine = tst_scale(tst_is_postgres(other) ? 20 : 80);
        bool hit = true;
        fill(source, seed, 60);
        for (uint64_t n = 1; hit; n = next_after(n, fine)) {
            char name[32];
            ledger_bridge_options o;
            snprintf(name, sizeof name, "sink%" PRIu64, n);
            ledger_store *sink = tst_open(env, to, name);
            const char *victim = memory_name(which == SINK ? sink : source);
            struct ldg_memory_fault fault = { .callback = callback, .kind = kind, .nth = n };
            if (kind == LDG_MEMORY_FAIL)
                fault.code = fault_codes[n % (sizeof fault_codes / sizeof fault_codes[0])];
            small_batches(&o);
            o.parallel_streams = parallel;
            assert_int_equal(ldg_memory_fault_add(victim, &fault), LEDGER_OK);
            uint64_t before = ldg_memory_call_count(victim, callback);
            (void)carry_through(source, sink, &o, same_bridge);
            hit = ldg_memory_call_count(victim, callback) - before >= n;
            ldg_memory_faults_clear(victim);
            assert_int_equal(tst_bridge_once(source, sink, &o), 0);
            tst_assert_equal(source, sink, 0);
            tst_close(env, sink);
        }
    }
}

static void memory_sink_fails_on_call_n(void **state)
{
    memory_calls_fail(*state, SINK, LDG_MEMORY_FAIL, NULL, true, 1);
}

static void memory_sink_fails_on_call_n_and_restart(void **state)
{
    memory_calls_fail(*state, SINK, LDG_MEMORY_FAIL, NULL, false, 1);
}

static void memory_parallel_sink_fails_on_call_n(void **state)
{
    memory_calls_fail(*state, SINK, LDG_MEMORY_FAIL, NULL, true, 3);
}

static void memory_sink_loses_acknowledgement_n(void **state)
{
    memory_calls_fail(*state, SINK, LDG_MEMORY_LOSE_ACK, NULL, true, 1);
}

static void memory_sink_loses_acknowledgement_n_and_restart(void **state)
{
    memory_calls_fail(*state, SINK, LDG_MEMORY_LOSE_ACK, NULL, false, 1);
}

static void memory_parallel_sink_loses_acknowledgement_n(void **state)
{
    memory_calls_fail(*state, SINK, LDG_MEMORY_LOSE_ACK, "apply", true, 3);
}

static void memory_sink_applies_half_of_batch_n(void **state)
{
    memory_calls_fail(*state, SINK, LDG_MEMORY_APPLY_HALF, "apply", true, 1);
}

static void memory_source_fails_on_call_n(void **state)
{
    memory_calls_fail(*state, SOURCE, LDG_MEMORY_FAIL, NULL, true, 1);
}

static void memory_source_fails_on_call_n_and_restart(void **state)
{
    memory_calls_fail(*state, SOURCE, LDG_MEMORY_FAIL, NULL, false, 1);
}

/* The thread gets over what may pass by itself, without help. */
static void thread_retries_transient_errors(void **state)
{
    struct tst_env *env = *state;
    static const char *const callbacks[] = { "apply", "log_read", "cursor_get", "origin_get",
                                             "identity" };
    for (size_t c = 0; c < sizeof callbacks / sizeof callbacks[0]; c++, tst_env_reset(env)) {
        ledger_store *source = tst_open(env, TST_MEMORY, "source");
        ledger_store *sink = tst_open(env, TST_MEMORY, "sink");
        ledger_bridge_options o;
        ledger_bridge_stats stats;
        ledger_error err = { 0 };
        fill(source, tst_seed(), 80);
        small_batches(&o);
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        for (uint64_t n = 1; n < 12; n += 3) {
            struct ldg_memory_fault fault = { .callback = callbacks[c], .nth = n, .times = 2 };
            assert_int_equal(ldg_memory_fault_add(memory_name(sink), &fault), LEDGER_OK);
            assert_int_equal(ldg_memory_fault_add(memory_name(source), &fault), LEDGER_OK);
        }
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
        ledger_bridge_stop(bridge);
        ledger_bridge_get_stats(bridge, &stats);
        tst_check_counters(bridge);
        ledger_bridge_destroy(&bridge);
        ldg_memory_faults_clear(memory_name(sink));
        ldg_memory_faults_clear(memory_name(source));
        tst_assert_equal(source, sink, 0);
        if (c < 2)
            assert_true(stats.error_count > 0);
    }
}

struct told {
    pthread_mutex_t mutex;
    size_t failed, again;
};

static void tell(void *ctx, ledger_log_level level, const char *message, const ledger_attr *attrs,
                 size_t attr_count)
{
    struct told *told = ctx;
    pthread_mutex_lock(&told->mutex);
    told->failed += level == LEDGER_LOG_WARN && strstr(message, "failed") != NULL;
    told->again += level == LEDGER_LOG_WARN && strstr(message, "works again") != NULL;
    pthread_mutex_unlock(&told->mutex);
}

/* A database that is away for long fills no log: it is told once, and once when it is back. */
static void a_lost_database_is_told_once(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_MEMORY, "source");
    ledger_store *sink = tst_open(env, TST_MEMORY, "sink");
    struct ldg_memory_fault fault = { .callback = "apply", .times = 20 };
    struct told told = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    ledger_bridge_options o;
    ledger_bridge_stats stats;
    ledger_error err = { 0 };
    fill(source, tst_seed(), 5);
    tst_bridge_options(&o);
    o.logger = (ledger_logger){ .ctx = &told, .log = tell };
    assert_int_equal(ldg_memory_fault_add(memory_name(sink), &fault), LEDGER_OK);
    ledger_bridge *bridge = tst_bridge(source, sink, &o);
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
    ledger_bridge_stop(bridge);
    ledger_bridge_get_stats(bridge, &stats);
    assert_true(stats.error_count >= 20);
    assert_int_equal(told.failed, 1);
    assert_int_equal(told.again, 1);
    ledger_bridge_destroy(&bridge);
    ldg_memory_faults_clear(memory_name(sink));
}

static void thread_gives_up_after_retry_for(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_MEMORY, "source");
    ledger_store *sink = tst_open(env, TST_MEMORY, "sink");
    struct ldg_memory_fault fault = { .callback = "apply", .times = UINT64_MAX };
    ledger_bridge_options o;
    ledger_bridge_stats stats;
    ledger_error err = { 0 };
    fill(source, tst_seed(), 20);
    tst_bridge_options(&o);
    o.retry_for_ms = 100;
    assert_int_equal(ldg_memory_fault_add(memory_name(sink), &fault), LEDGER_OK);
    ledger_bridge *bridge = tst_bridge(source, sink, &o);
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    tst_fails(ledger_bridge_wait(bridge, false, TST_PATIENCE_MS, &err), LEDGER_ERR_CONNECT, &err);
    ledger_bridge_get_stats(bridge, &stats);
    assert_true(stats.error_count >= 2);
    assert_true(stats.backlog_count > 0); /* a dead bridge does not look idle */
    assert_true(stats.lag_seconds > 0);
    ledger_bridge_destroy(&bridge);

    /* A sink that did not answer in time has ended it: no reason to wait once more. */
    ldg_memory_faults_clear(memory_name(sink));
    fault.code = LEDGER_ERR_TIMEOUT;
    assert_int_equal(ldg_memory_fault_add(memory_name(sink), &fault), LEDGER_OK);
    bridge = tst_bridge(source, sink, &o);
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    tst_fails(ledger_bridge_wait(bridge, false, TST_PATIENCE_MS, &err), LEDGER_ERR_BUSY, &err);
    assert_true((err.flags & LEDGER_ERROR_RETRY) != 0);
    ledger_bridge_destroy(&bridge);

    /* And stops at once when it is told so in the middle of its pauses. */
    o.retry_for_ms = -1;
    o.retry_min_ms = o.retry_max_ms = 600000;
    bridge = tst_bridge(source, sink, &o);
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    tst_sleep_us(50000);
    int64_t begun = tst_mono_us();
    ledger_bridge_stop(bridge);
    assert_true(tst_mono_us() - begun < 60 * 1000000LL);
    ledger_bridge_destroy(&bridge);
}

/* --- SQLite: by a failing file system ----------------------------------------------------------
 */

static const struct {
    uint32_t ops;
    int rc;
    const char *what;
} file_faults[] = {
    { TST_FAULT_WRITE, SQLITE_IOERR_WRITE, "write error" },
    { TST_FAULT_WRITE, SQLITE_FULL, "disk full" },
    { TST_FAULT_SYNC, SQLITE_IOERR_FSYNC, "sync error" },
    { TST_FAULT_READ, SQLITE_IOERR_READ, "read error" },
    { TST_FAULT_OPEN, SQLITE_IOERR, "open error" },
    { TST_FAULT_TRUNCATE | TST_FAULT_DELETE, SQLITE_IOERR_TRUNCATE, "truncate error" },
    { TST_FAULT_LOCK, SQLITE_IOERR_LOCK, "lock error" },
};
#define FILE_FAULT_COUNT (sizeof file_faults / sizeof file_faults[0])

/* The test is worth something only if faults came: of these kinds at least two. */
static void check_reached(size_t fault, uint64_t last_n, uint32_t sure)
{
    if ((file_faults[fault].ops & sure) != 0 && last_n < 3)
        tst_fail("no %s came before call %" PRIu64, file_faults[fault].what, last_n);
}

static void sqlite_sink_fails(struct tst_env *env, enum tst_kind to, bool same_bridge)
{
    uint64_t seed = tst_seed();
    tst_fault_vfs_install();
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    fill(source, seed, 60);
    for (size_t f = 0; f < FILE_FAULT_COUNT; f++) {
        bool hit = true;
        uint64_t n = 1;
        for (; hit; n = next_n(n)) {
            char name[32], part[40];
            ledger_bridge_options o;
            snprintf(name, sizeof name, "sink%zu-%" PRIu64, f, n);
            snprintf(part, sizeof part, "/%s.db", name);
            ledger_store *sink = tst_open(env, to, name);
            small_batches(&o);
            tst_fault_arm(part, file_faults[f].ops, (long)n, file_faults[f].rc, false);
            (void)carry_through(source, sink, &o, same_bridge);
            hit = tst_fault_hits() > 0;
            tst_fault_disarm();
            assert_int_equal(tst_bridge_once(source, sink, &o), 0);
            tst_assert_equal(source, sink, 0);
            tst_close(env, sink);
        }
        check_reached(f, n, TST_FAULT_WRITE | TST_FAULT_READ | TST_FAULT_OPEN | TST_FAULT_LOCK);
    }
    tst_env_reset(env);
    tst_fault_vfs_remove();
}

static void sqlite_sink_fails_on_call_n(void **state)
{
    sqlite_sink_fails(*state, TST_SQLITE, true);
}

static void sqlite_sink_fails_on_call_n_and_restart(void **state)
{
    sqlite_sink_fails(*state, TST_SQLITE, false);
}

static void plain_sink_fails_on_call_n(void **state)
{
    sqlite_sink_fails(*state, TST_PLAIN, true);
}

static void plain_sink_fails_on_call_n_and_restart(void **state)
{
    sqlite_sink_fails(*state, TST_PLAIN, false);
}

static void sqlite_source_fails_on_call_n(void **state)
{
    struct tst_env *env = *state;
    tst_fault_vfs_install();
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    fill(source, tst_seed(), 60);
    for (size_t f = 0; f < FILE_FAULT_COUNT; f++) {
        bool hit = true;
        uint64_t n = 1;
        for (; hit; n = next_n(n)) {
            char name[32];
            ledger_bridge_options o;
            snprintf(name, sizeof name, "sink%zu-%" PRIu64, f, n);
            ledger_store *sink = tst_open(env, TST_MEMORY, name);
            small_batches(&o);
            tst_fault_arm("/source.db", file_faults[f].ops, (long)n, file_faults[f].rc, false);
            (void)carry_through(source, sink, &o, n % 2 == 0);
            hit = tst_fault_hits() > 0;
            tst_fault_disarm();
            tst_assert_equal(source, sink, 0);
            tst_close(env, sink);
        }
        check_reached(f, n, TST_FAULT_READ | TST_FAULT_OPEN | TST_FAULT_LOCK);
    }
    tst_env_reset(env);
    tst_fault_vfs_remove();
}

/* What a program writes into the source: an error, and entry and event both or neither. */
static void sqlite_writer_fails_on_call_n(void **state)
{
    struct tst_env *env = *state;
    uint64_t seed = tst_seed();
    tst_fault_vfs_install();
    for (size_t f = 0; f < FILE_FAULT_COUNT; f++) {
        bool hit = true;
        uint64_t n = 1;
        for (; hit; n = next_n(n)) {
            struct tst_workload w;
            size_t errors = 0;
            ledger_store *source = tst_open(env, TST_SQLITE, "source");
            ledger_store *sink = tst_open(env, TST_MEMORY, "sink");
            tst_workload_init(&w, seed);
            w.small = true;
            w.stream_count = 3;
            tst_fault_arm("/source.db", file_faults[f].ops, (long)n, file_faults[f].rc, false);
            for (int i = 0; i < 40 || w.in_transaction; i++) {
                ledger_error err = { 0 };
                if (tst_workload_step(&w, source, &err) != LEDGER_OK) {
                    assert_string_not_equal(err.message, "");
                    errors++;
                    if (w.in_transaction) { /* the user's way out */
                        ledger_rc rc = ledger_store_rollback(source, &err);
                        if (rc != LEDGER_OK && rc != LEDGER_ERR_INVALID)
                            tst_ok(rc, &err);
                        w.in_transaction = false;
                    }
                    if (errors > 20)
                        tst_fail("%s at call %" PRIu64 " does not heal: %s", file_faults[f].what, n,
                                 err.message);
                }
            }
            hit = tst_fault_hits() > 0;
            tst_fault_disarm();
            tst_assert_log_agrees(source);
            (void)tst_bridge_once(source, sink, NULL);
            tst_assert_equal(source, sink, 0);
            tst_env_reset(env);
        }
        check_reached(f, n, TST_FAULT_WRITE | TST_FAULT_LOCK);
    }
    tst_fault_vfs_remove();
}

/* A full disk stays full for a while; the thread waits and goes on. */
static void sqlite_sink_disk_full_for_a_while(void **state)
{
    struct tst_env *env = *state;
    tst_fault_vfs_install();
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
    ledger_bridge_options o;
    ledger_bridge_stats stats;
    ledger_error err = { 0 };
    fill(source, tst_seed(), 100);
    small_batches(&o);
    ledger_bridge *bridge = tst_bridge(source, sink, &o);
    tst_fault_arm("/sink.db", TST_FAULT_WRITE, 30, SQLITE_FULL, true);
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    TST_AWAIT(tst_fault_hits() >= 3);
    tst_fails(ledger_bridge_wait(bridge, false, 20, &err), LEDGER_ERR_TIMEOUT, &err); /* it lives */
    tst_fault_disarm();
    tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
    ledger_bridge_get_stats(bridge, &stats);
    assert_true(stats.error_count > 0);
    tst_check_counters(bridge);
    ledger_bridge_destroy(&bridge);
    tst_assert_equal(source, sink, 0);
    tst_env_reset(env);
    tst_fault_vfs_remove();
}

/* Reading a source never writes to it, nor checkpoints, nor takes a lock that blocks writers. */
static void sqlite_source_is_never_written(void **state)
{
    struct tst_env *env = *state;
    tst_fault_vfs_install();
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = tst_open(env, TST_MEMORY, "sink");
    fill(source, tst_seed(), 200);
    tst_fault_arm("/source.db",
                  TST_FAULT_WRITE | TST_FAULT_TRUNCATE | TST_FAULT_DELETE | TST_FAULT_SYNC, 0, 0,
                  false);
    assert_true(tst_bridge_once(source, sink, NULL) > 0);
    ledger_bridge *bridge = tst_bridge(source, sink, NULL);
    ledger_error err = { 0 };
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
    ledger_bridge_destroy(&bridge);
    ledger_bridge_status status;
    tst_ok(ledger_bridge_status_get(source, sink, "default", &status, &err), &err);
    ledger_verify_options v;
    ledger_verify_result result;
    ledger_verify_options_defaults(&v);
    tst_ok(ledger_bridge_verify(source, sink, &v, &result, &err), &err);
    assert_int_equal(result.difference_count, 0);
    if (tst_fault_count() != 0)
        tst_fail("the bridge wrote to its source %ld times", tst_fault_count());
    tst_fault_disarm();
    tst_assert_equal(source, sink, 0);
    tst_env_reset(env);
    tst_fault_vfs_remove();
}

/* The state store of a sink without cursors: a lost position is a replay, to no effect. */
static void cursor_file_fails_on_call_n(void **state)
{
    struct tst_env *env = *state;
    tst_fault_vfs_install();
    ledger_store *source = tst_open(env, TST_MEMORY, "source");
    fill(source, tst_seed(), 50);
    for (size_t f = 0; f < FILE_FAULT_COUNT; f++) {
        bool hit = true;
        uint64_t n = 1;
        for (; hit; n = next_n(n)) {
            char name[32], part[60];
            ledger_bridge_options o;
            snprintf(name, sizeof name, "sink%zu-%" PRIu64, f, n);
            snprintf(part, sizeof part, "state%zu-%" PRIu64 ".db", f, n);
            ledger_store *sink = tst_open(env, TST_MEMORY, name);
            tst_cut(sink, TST_CUT_CURSORS);
            small_batches(&o);
            o.cursor_file = tst_path(env, part);
            tst_fault_arm(part, file_faults[f].ops, (long)n, file_faults[f].rc, false);
            (void)carry_through(source, sink, &o, n % 2 == 0);
            hit = tst_fault_hits() > 0;
            tst_fault_disarm();
            o.cursor_file = tst_path(env, part);
            assert_int_equal(tst_bridge_once(source, sink, &o), 0);
            tst_assert_equal(source, sink, 0);
            tst_close(env, sink);
        }
        check_reached(f, n, TST_FAULT_WRITE | TST_FAULT_OPEN | TST_FAULT_LOCK);
    }
    tst_env_reset(env);
    tst_fault_vfs_remove();
}

/* Polls to the end, through errors, with one bridge or a new one after each. */
static void deliver_through(ledger_store *source, struct tst_recorder *recorder,
                            const ledger_bridge_options *o, bool same_bridge)
{
    const ledger_sink sink = tst_recorder_sink(recorder);
    ledger_bridge *bridge = NULL;
    size_t errors = 0;
    uint64_t read = 1;
    while (read > 0) {
        ledger_error err = { 0 };
        ledger_rc rc = LEDGER_OK;
        if (bridge == NULL)
            rc = ledger_bridge_create_to(source, &sink, o, &bridge, &err);
        if (rc == LEDGER_OK)
            rc = ledger_bridge_poll(bridge, &read, &err);
        if (rc == LEDGER_OK)
            continue;
        if (++errors > 60)
            tst_fail("no way through the fault: %s: %s", ledger_rc_name(rc), err.message);
        if (!same_bridge)
            ledger_bridge_destroy(&bridge);
        read = 1;
    }
    ledger_bridge_destroy(&bridge);
}

/* An own sink, whose state store fails: while the bridge lives each event comes once; over a new
 * start the batch that was under way comes again. */
static void state_file_of_an_own_sink_fails_on_call_n(void **state)
{
    struct tst_env *env = *state;
    tst_fault_vfs_install();
    ledger_store *source = tst_open(env, TST_MEMORY, "source");
    fill(source, tst_seed(), 50);
    for (size_t f = 0; f < FILE_FAULT_COUNT; f++) {
        bool hit = true;
        uint64_t n = 1;
        for (; hit; n = next_n(n)) {
            char file[60], url[700];
            struct tst_recorder recorder;
            ledger_bridge_options o;
            snprintf(file, sizeof file, "own%zu-%" PRIu64 ".db", f, n);
            snprintf(url, sizeof url, "sqlite:%s", tst_path(env, file));
            tst_recorder_init(&recorder, 4000);
            recorder.most = n % 4;
            small_batches(&o);
            o.state_url = url;
            tst_fault_arm(file, file_faults[f].ops, (long)n, file_faults[f].rc, false);
            deliver_through(source, &recorder, &o, n % 2 == 0);
            hit = tst_fault_hits() > 0;
            tst_fault_disarm();
            const size_t again = tst_recorder_check(&recorder, source, NULL);
            if (again > (n % 2 == 0 ? 0U : o.batch_size * TST_WORKLOAD_APPEND_MAX))
                tst_fail("%s, call %" PRIu64 ": %zu came again", file_faults[f].what, n, again);
            tst_recorder_fini(&recorder);
        }
        check_reached(f, n, TST_FAULT_WRITE | TST_FAULT_OPEN | TST_FAULT_LOCK);
    }
    tst_env_reset(env);
    tst_fault_vfs_remove();
}

/* --- t8: a take-over at any point --------------------------------------------------------------
 */

struct takeover {
    ledger_store *source, *sink;
    uint64_t at, calls;
    bool done, inside;
    int64_t trim_id;
    ledger_bridge *other;
};

/* While the first bridge stands still, the source changes and a second bridge carries it on. */
static void take_over(struct takeover *t)
{
    ledger_error err = { 0 };
    uint64_t read = 1;
    t->inside = true;
    (void)tst_trim(t->source, "s", t->trim_id);
    tst_append(t->source, "s", "{\"after\":\"the trim\"}", "K", NULL);
    for (int i = 0; i < 50 && read > 0; i++) {
        ledger_rc rc = ledger_bridge_poll(t->other, &read, &err);
        if (rc == LEDGER_ERR_FENCED)
            continue;
        if (rc == LEDGER_ERR_BUSY) /* the first one holds the lock: it is not overtaken */
            break;
        tst_ok(rc, &err);
    }
    t->done = true;
    t->inside = false;
}

static void count_and_take_over(void *ctx)
{
    take_over(ctx);
}

static void hook_and_take_over(void *ctx, const char *callback, const void *handle)
{
    struct takeover *t = ctx;
    if (!t->inside && !t->done && ++t->calls == t->at)
        take_over(t);
}

static void taken_over_at_every_point(struct tst_env *env, enum tst_kind to, size_t parallel)
{
    bool hit = true;
    for (uint64_t n = 1; hit; n = next_n(n), tst_env_reset(env)) {
        ledger_store_options so;
        ledger_store_options_defaults(&so);
        so.flags = LEDGER_STORE_CREATE;
        so.busy_timeout_ms = 1; /* nobody lets go while we wait: it is the same thread */
        ledger_store *source = tst_open(env, TST_MEMORY, "source");
        so.log = tst_kind_has_log((int)to) ? LEDGER_MUTATION_LOG_AUTO : LEDGER_MUTATION_LOG_OFF;
        ledger_store *sink = tst_open_with(env, to, "sink", &so);
        struct takeover t = { .source = source, .sink = sink, .at = n };
        ledger_bridge_options o;
        ledger_error err = { 0 };
        uint64_t read = 1;
        tst_append(source, "s", "{\"n\":1}", NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        tst_bridge_options(&o);
        t.other = tst_bridge(source, sink, &o);
        (void)tst_drain(t.other);
        tst_append(source, "s", "{\"n\":2}", "K", "x");
        t.trim_id = tst_append(source, "s", "{\"n\":3}", NULL, "y");
        tst_tag(source, "s", t.trim_id, "z");
        tst_append(source, "other", "{\"n\":4}", NULL, NULL);
        tst_append(source, "third", "{\"n\":5}", NULL, NULL);
        o.parallel_streams = parallel;
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        if (to == TST_MEMORY) {
            assert_int_equal(ldg_memory_set_hook(memory_name(sink), hook_and_take_over, &t),
                             LEDGER_OK);
        } else {
            tst_fault_arm("/sink.db", TST_FAULT_ALL, (long)n, SQLITE_OK, false);
            tst_fault_on_hit(count_and_take_over, &t);
        }
        for (int i = 0; i < 50 && read > 0; i++) {
            ledger_rc rc = ledger_bridge_poll(bridge, &read, &err);
            if (rc != LEDGER_ERR_FENCED && rc != LEDGER_ERR_BUSY)
                tst_ok(rc, &err);
            else
                read = 1;
        }
        if (to == TST_MEMORY)
            assert_int_equal(ldg_memory_set_hook(memory_name(sink), NULL, NULL), LEDGER_OK);
        else
            tst_fault_disarm();
        hit = t.done;
        tst_check_counters(bridge);
        tst_check_counters(t.other);
        (void)tst_drain(bridge);
        (void)tst_drain(t.other);
        tst_assert_equal(source, sink, 0);
        ledger_bridge_destroy(&bridge);
        ledger_bridge_destroy(&t.other);
    }
}

static void t8_memory_sink_taken_over_at_every_point(void **state)
{
    taken_over_at_every_point(*state, TST_MEMORY, 1);
}

static void t8_sqlite_sink_taken_over_at_every_point(void **state)
{
    tst_fault_vfs_install();
    taken_over_at_every_point(*state, TST_SQLITE, 1);
    taken_over_at_every_point(*state, TST_PLAIN, 1);
    tst_fault_vfs_remove();
}

struct polling {
    pthread_t thread;
    ledger_bridge *bridge;
    ledger_rc rc;
    ledger_error err;
};

static void *poll_once(void *arg)
{
    struct polling *p = arg;
    p->rc = ledger_bridge_poll(p->bridge, NULL, &p->err);
    return NULL;
}

/* One of several workers is held before its commit, with what it locks, while a second bridge tries
 * to take over. */
static void t8_parallel_worker_held_before_its_commit(void **state)
{
    struct tst_env *env = *state;
    for (uint64_t nth = 1; nth <= 4; nth++, tst_env_reset(env)) {
        ledger_store *source = tst_open(env, TST_MEMORY, "source");
        ledger_store *sink = tst_open(env, TST_MEMORY, "sink");
        struct ldg_memory_fault hold = { .callback = "apply", .kind = LDG_MEMORY_HOLD, .nth = nth };
        struct polling p = { 0 };
        ledger_bridge_options o;
        ledger_error err = { 0 };
        int64_t last[6];
        uint64_t read;
        tst_bridge_options(&o);
        o.parallel_streams = 4;
        tst_append(source, "first", "{}", NULL, NULL);
        ledger_bridge *other = tst_bridge(source, sink, NULL);
        p.bridge = tst_bridge(source, sink, &o);
        (void)tst_drain(p.bridge);
        (void)tst_drain(other);
        for (int i = 0; i < 6; i++) {
            char stream[8];
            snprintf(stream, sizeof stream, "s%d", i);
            tst_append(source, stream, "{\"n\":1}", "K", NULL);
            last[i] = tst_append(source, stream, "{\"n\":2}", NULL, NULL);
        }
        assert_int_equal(ldg_memory_fault_add(memory_name(sink), &hold), LEDGER_OK);
        assert_int_equal(pthread_create(&p.thread, NULL, poll_once, &p), 0);
        bool held = ldg_memory_wait_held(memory_name(sink), 2000);
        for (int i = 0; i < 6; i++) {
            char stream[8];
            snprintf(stream, sizeof stream, "s%d", i);
            (void)tst_trim(source, stream, last[i]);
            tst_append(source, stream, "{\"n\":3}", "K", NULL);
        }
        for (int i = 0; held && i < 3; i++) {
            ledger_rc rc = ledger_bridge_poll(other, &read, &err);
            if (rc != LEDGER_OK && rc != LEDGER_ERR_BUSY && rc != LEDGER_ERR_FENCED)
                tst_ok(rc, &err);
        }
        ldg_memory_release(memory_name(sink));
        assert_int_equal(pthread_join(p.thread, NULL), 0);
        if (p.rc != LEDGER_ERR_FENCED && p.rc != LEDGER_ERR_BUSY)
            tst_ok(p.rc, &p.err);
        ldg_memory_faults_clear(memory_name(sink));
        (void)tst_drain(p.bridge);
        (void)tst_drain(other);
        tst_check_counters(p.bridge);
        tst_check_counters(other);
        ledger_bridge_destroy(&p.bridge);
        ledger_bridge_destroy(&other);
        tst_assert_equal(source, sink, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(memory_sink_fails_on_call_n),
        T(memory_sink_fails_on_call_n_and_restart),
        T(memory_parallel_sink_fails_on_call_n),
        T(memory_sink_loses_acknowledgement_n),
        T(memory_sink_loses_acknowledgement_n_and_restart),
        T(memory_parallel_sink_loses_acknowledgement_n),
        T(memory_sink_applies_half_of_batch_n),
        T(memory_source_fails_on_call_n),
        T(memory_source_fails_on_call_n_and_restart),
        T(thread_retries_transient_errors),
        T(a_lost_database_is_told_once),
        T(thread_gives_up_after_retry_for),
        T(sqlite_sink_fails_on_call_n),
        T(sqlite_sink_fails_on_call_n_and_restart),
        T(plain_sink_fails_on_call_n),
        T(plain_sink_fails_on_call_n_and_restart),
        T(sqlite_source_fails_on_call_n),
        T(sqlite_writer_fails_on_call_n),
        T(sqlite_sink_disk_full_for_a_while),
        T(sqlite_source_is_never_written),
        T(cursor_file_fails_on_call_n),
        T(state_file_of_an_own_sink_fails_on_call_n),
        T(t8_memory_sink_taken_over_at_every_point),
        T(t8_sqlite_sink_taken_over_at_every_point),
        T(t8_parallel_worker_held_before_its_commit),
    };
    return cmocka_run_group_tests_name("faults", tests, NULL, NULL);
}
