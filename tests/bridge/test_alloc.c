/* The n-th allocation fails, for all n: in a bridge, its thread, status, verify, cursor set and
 * what deals with parked events. An error or none, never a crash or a leak; and afterwards the sink
 * still becomes what the source is. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "alloc_fail.h"
#include "fixtures.h"
#include "oracle.h"
#include "recorder.h"
#include "workload.h"

static uint64_t next_n(uint64_t n)
{
    return n < tst_scale(400) ? n + 1 : n + 1 + n / 16;
}

/* Does the call with the n-th allocation failing; true: it did fail. */
#define WITH_FAILURE(n, call)                                                                      \
    (alloc_fail_at(n), (call), failures = alloc_fail_failures(), alloc_fail_off(), failures > 0)

static ledger_rc create_and_drain(ledger_store *source, ledger_store *sink,
                                  const ledger_bridge_options *o, ledger_error *err)
{
    ledger_bridge *bridge = NULL;
    uint64_t read = 1;
    ledger_rc rc = ledger_bridge_create(source, sink, o, &bridge, err);
    while (rc == LEDGER_OK && read > 0)
        rc = ledger_bridge_poll(bridge, &read, err);
    ledger_bridge_destroy(&bridge);
    return rc;
}

static ledger_rc start_and_wait(ledger_store *source, ledger_store *sink,
                                const ledger_bridge_options *o, ledger_error *err)
{
    ledger_bridge *bridge = NULL;
    ledger_rc rc = ledger_bridge_create(source, sink, o, &bridge, err);
    if (rc == LEDGER_OK)
        rc = ledger_bridge_start(bridge, err);
    if (rc == LEDGER_OK)
        rc = ledger_bridge_wait(bridge, true, tst_slow(30000), err);
    ledger_bridge_destroy(&bridge);
    return rc;
}

/* A source with every kind of event, two bad ones among them. */
static void fill(ledger_store *source)
{
    struct tst_workload w;
    tst_workload_init(&w, 42);
    w.small = true;
    w.stream_count = 2;
    tst_workload_run(&w, source, 25);
    tst_log_text(source, "{\"type\":\"later\",\"stream\":\"s\"}");
    tst_log_text(source, "no event");
    tst_workload_run(&w, source, 10);
}

/* A connection that is given up for want of memory is missed by the next statement; and the answer
 * to a COMMIT may be what there was no memory for. */
static bool is_expected(ledger_rc rc, int from, int to)
{
    return rc == LEDGER_ERR_NOMEM ||
           (rc == LEDGER_ERR_CONNECT && (tst_is_postgres(from) || tst_is_postgres(to))) ||
           (rc == LEDGER_ERR_UNKNOWN_OUTCOME && tst_is_postgres(to));
}

/* Each handle is a process of the server: fewer of them. */
static uint64_t next_n_of(uint64_t n, int from, int to)
{
    return tst_is_postgres(from) || tst_is_postgres(to) ? n + 1 + n / 4 : next_n(n);
}

static void bridge_with_failing_allocations(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        uint64_t failures = 1, n = 1;
        fill(source);
        for (; failures > 0; n = next_n_of(n, from, to)) {
            ledger_bridge_options o;
            ledger_error err = { 0 };
            ledger_rc rc = LEDGER_OK;
            char name[32];
            snprintf(name, sizeof name, "sink%" PRIu64, n);
            ledger_store *sink = tst_open(env, to, name);
            tst_bridge_options(&o);
            o.batch_size = 20;
            o.parallel_streams = n % 2 + 1;
            bool failed = WITH_FAILURE(n, rc = create_and_drain(source, sink, &o, &err));
            if (rc != LEDGER_OK && !(failed && is_expected(rc, from, to)))
                tst_fail("allocation %" PRIu64 ": %s: %s", n, ledger_rc_name(rc), err.message);
            (void)tst_bridge_once(source, sink, &o);
            tst_assert_equal(source, sink, 0);
            tst_close(env, sink);
        }
        assert_true(n > 50 || tst_is_postgres(from) || tst_is_postgres(to)); /* so many did fail */
    }
}

static void thread_with_failing_allocations(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        uint64_t failures = 1;
        fill(source);
        for (uint64_t n = 1; failures > 0; n += 1 + n / 4) {
            ledger_bridge_options o;
            ledger_error err = { 0 };
            ledger_rc rc = LEDGER_OK;
            char name[32];
            snprintf(name, sizeof name, "sink%" PRIu64, n);
            ledger_store *sink = tst_open(env, to, name);
            tst_bridge_options(&o);
            o.batch_size = 5;
            o.backlog_batch_size = 10;
            (void)WITH_FAILURE(n, rc = start_and_wait(source, sink, &o, &err));
            if (rc != LEDGER_OK && !is_expected(rc, from, to))
                tst_fail("allocation %" PRIu64 ": %s: %s", n, ledger_rc_name(rc), err.message);
            (void)tst_bridge_once(source, sink, &o);
            tst_assert_equal(source, sink, 0);
            tst_close(env, sink);
        }
    }
}

static bool see_nothing(void *ctx, const ledger_parked *parked)
{
    return true;
}

/* The calls beside a bridge: each fails with NOMEM or works, and changes nothing when it fails. */
static void other_calls_with_failing_allocations(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        struct tst_history before;
        fill(source);
        (void)tst_bridge_once(source, sink, NULL);
        tst_history_load(sink, &before);
        for (int call = 0; call < 5; call++) {
            uint64_t failures = 1;
            for (uint64_t n = 1; failures > 0; n = next_n_of(n, from, to)) {
                ledger_error err = { 0 };
                ledger_bridge_status status = { .backlog_count = 77 };
                ledger_verify_options v;
                ledger_verify_result result = { .source_count = 77 };
                uint64_t applied = 77, left = 77;
                ledger_rc rc = LEDGER_OK;
                bool failed = false, untouched = true;
                ledger_verify_options_defaults(&v);
                switch (call) {
                case 0:
                    failed = WITH_FAILURE(
                        n, rc = ledger_bridge_status_get(source, sink, NULL, &status, &err));
                    untouched = status.backlog_count == 77;
                    break;
                case 1:
                    failed =
                        WITH_FAILURE(n, rc = ledger_bridge_verify(source, sink, &v, &result, &err));
                    untouched = result.source_count == 77;
                    break;
                case 2:
                    failed = WITH_FAILURE(
                        n, rc = ledger_bridge_cursor_set(source, sink, NULL, "3", false, &err));
                    break;
                case 3:
                    failed = WITH_FAILURE(
                        n, rc = ledger_bridge_parked_retry(source, sink, 0, &applied, &left, &err));
                    untouched = applied == 77 && left == 77;
                    break;
                default:
                    failed = WITH_FAILURE(
                        n, rc = ledger_bridge_parked_list(sink, see_nothing, NULL, &err));
                    break;
                }
                if (rc != LEDGER_OK && !(failed && is_expected(rc, from, to)))
                    tst_fail("call %d, allocation %" PRIu64 ": %s: %s", call, n, ledger_rc_name(rc),
                             err.message);
                if (rc != LEDGER_OK && !untouched)
                    tst_fail("call %d, allocation %" PRIu64 ": a failed call set its result", call,
                             n);
            }
        }
        tst_assert_unchanged(&before, sink);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_unchanged(&before, sink);
        tst_history_free(&before);
    }
}

/* --- an own sink, with a state store --------------------------------------------------------- */

static ledger_store *open_state(const char *url)
{
    ledger_store_options options;
    ledger_store *kept = NULL;
    ledger_error err;
    ledger_store_options_defaults(&options);
    options.url = url;
    options.table = LEDGER_BRIDGE_DEFAULT_STATE_TABLE;
    options.flags = LEDGER_STORE_CREATE;
    tst_ok(ledger_store_open(&options, &kept, &err), &err);
    return kept;
}

static ledger_rc deliver_all(ledger_store *source, struct tst_recorder *recorder,
                             const ledger_bridge_options *o, ledger_error *err)
{
    const ledger_sink sink = tst_recorder_sink(recorder);
    ledger_bridge *bridge = NULL;
    uint64_t read = 1;
    ledger_rc rc = ledger_bridge_create_to(source, &sink, o, &bridge, err);
    while (rc == LEDGER_OK && read > 0)
        rc = ledger_bridge_poll(bridge, &read, err);
    ledger_bridge_destroy(&bridge);
    return rc;
}

/* Whatever fails: all of it comes, in order, and what comes twice is the same. */
static void own_sink_with_failing_allocations(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    uint64_t failures = 1, n = 1;
    fill(source);
    for (; failures > 0; n = next_n(n)) {
        struct tst_recorder recorder;
        ledger_bridge_options o;
        ledger_error err = { 0 };
        ledger_rc rc = LEDGER_OK;
        char url[600];
        snprintf(url, sizeof url, "memory:own-%" PRIu64, n);
        if (n % 8 == 0)
            snprintf(url, sizeof url, "sqlite:%s/state-%" PRIu64 ".db", env->dir, n);
        ledger_store *kept = open_state(url); /* memory lives as long as a handle */
        tst_recorder_init(&recorder, 4000);
        recorder.most = n % 5;
        tst_bridge_options(&o);
        o.batch_size = 20;
        o.state_url = url;
        const bool failed = WITH_FAILURE(n, rc = deliver_all(source, &recorder, &o, &err));
        if (rc != LEDGER_OK && !(failed && rc == LEDGER_ERR_NOMEM))
            tst_fail("allocation %" PRIu64 ": %s: %s", n, ledger_rc_name(rc), err.message);
        tst_ok(deliver_all(source, &recorder, &o, &err), &err);
        const size_t again = tst_recorder_check(&recorder, source, kept);
        if (again > 20 * 3) /* an append may have several entries */
            tst_fail("allocation %" PRIu64 ": %zu came again, more than a batch", n, again);
        tst_recorder_fini(&recorder);
        ledger_store_close(&kept);
    }
    assert_true(n > 50);
}

/* A retry fails at any point: what is parked stays so until it was delivered. */
static void retry_with_failing_allocations(void **state)
{
    struct tst_env *env = *state;
    uint64_t failures = 1, n = 1;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    const int64_t id = tst_append(source, "s", "\"refused\"", NULL, NULL);
    tst_tag(source, "s", id, "x");
    for (; failures > 0; n++) {
        struct tst_recorder recorder;
        ledger_bridge_options o;
        ledger_bridge_status status;
        ledger_error err = { 0 };
        ledger_bridge *bridge = NULL;
        ledger_rc rc = LEDGER_OK;
        uint64_t applied = 77, left = 77;
        char url[64];
        snprintf(url, sizeof url, "memory:retry-%" PRIu64, n);
        ledger_store *kept = open_state(url);
        tst_recorder_init(&recorder, 100);
        const ledger_sink sink = tst_recorder_sink(&recorder);
        tst_bridge_options(&o);
        o.state_url = url;
        tst_ok(ledger_bridge_create_to(source, &sink, &o, &bridge, &err), &err);
        recorder.refuse = "refused";
        assert_int_equal(tst_drain(bridge), 2);
        assert_int_equal(recorder.count, 0);
        recorder.refuse = NULL;
        const bool failed =
            WITH_FAILURE(n, rc = ledger_bridge_retry(bridge, 0, &applied, &left, &err));
        if (rc != LEDGER_OK && (!failed || rc != LEDGER_ERR_NOMEM || applied != 77))
            tst_fail("allocation %" PRIu64 ": %s: %s", n, ledger_rc_name(rc), err.message);
        tst_ok(ledger_bridge_status_get(source, kept, NULL, &status, &err), &err);
        assert_true(recorder.count + status.parked_count >= 2); /* nothing is lost */
        tst_ok(ledger_bridge_retry(bridge, 0, NULL, &left, &err), &err);
        assert_int_equal(left, 0);
        assert_true(tst_recorder_check(&recorder, source, kept) <= 1);
        ledger_bridge_destroy(&bridge);
        tst_recorder_fini(&recorder);
        ledger_store_close(&kept);
    }
    assert_true(n > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(bridge_with_failing_allocations),      T(thread_with_failing_allocations),
        T(other_calls_with_failing_allocations), T(own_sink_with_failing_allocations),
        T(retry_with_failing_allocations),
    };
    /* TSan is slow, and has nothing to look for where all is done by one thread. */
    const char *sanitized = getenv("LEDGER_TEST_SANITIZED");
    if (sanitized != NULL && strcmp(sanitized, "thread") == 0)
        cmocka_set_test_filter("thread_*");
    return cmocka_run_group_tests_name("allocations", tests, NULL, NULL);
}
