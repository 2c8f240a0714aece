/* How long events have waited, whatever the clocks of writers and bridges say. */
#include <stdlib.h>
#include <string.h>

#include "bridge/stages.h"
#include "fixtures.h"

#define SECOND INT64_C(1000000)
#define HOUR (3600 * SECOND)
#define NOW (INT64_C(1800000000) * SECOND)

static void the_lag_of_a_pair(void **state)
{
    static const struct {
        int64_t oldest_us, moved_us;
        double seconds;
        bool wrong_time, known;
    } cases[] = {
        /* Right clocks: an idle pair, its last event of long ago, is not late. */
        { NOW - 3 * SECOND, NOW - HOUR, 3, false, true },
        { NOW - HOUR, NOW - 3 * SECOND, 3600, false, true },
        { NOW - SECOND, LEDGER_NO_TIME, 1, false, true },
        { NOW, NOW - HOUR, 0, false, true },
        /* Clocks that are kept right differ a little. */
        { NOW + SECOND, NOW - HOUR, 0, false, true },
        /* Two hours ahead; 2106; 1970; no time at all. */
        { NOW + 2 * HOUR, NOW - 4 * SECOND, 4, true, true },
        { INT64_C(4294967296) * SECOND, NOW - 4 * SECOND, 4, true, true },
        { 10 * SECOND, NOW - 4 * SECOND, 4, true, true },
        { -HOUR, NOW - 4 * SECOND, 4, true, true },
        { LEDGER_NO_TIME, NOW - 4 * SECOND, 4, true, true },
        { NOW + HOUR, NOW + SECOND, 0, true, true },
        /* The bridge's clock was wrong as well, or it never moved. */
        { NOW + 2 * HOUR, NOW + HOUR, 0, true, false },
        { NOW + 2 * HOUR, LEDGER_NO_TIME, 0, true, false },
        { NOW + 2 * HOUR, 5 * SECOND, 0, true, false },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct ldg_lag lag = ldg_lag_of_pair(NOW, cases[i].oldest_us, cases[i].moved_us);
        if (lag.seconds != cases[i].seconds || lag.wrong_time != cases[i].wrong_time ||
            lag.known != cases[i].known)
            tst_fail("case %zu: %.1f s, wrong time %d, known %d", i, lag.seconds, lag.wrong_time,
                     lag.known);
    }
}

static void what_a_bridge_has_seen(void **state)
{
    struct ldg_backlog w = { 0 };
    const int64_t t = 100 * SECOND;
    (void)state;
    /* The first look finds something: its own time is all that is known. */
    ldg_backlog_look(&w, true, t);
    assert_true(ldg_backlog_lag(&w, 7 * SECOND, t) == 7);
    assert_true(ldg_backlog_lag(&w, -2 * HOUR, t) == 0);
    /* It stands: what is waited counts, however far ahead the writer is. */
    ldg_backlog_look(&w, true, t + 5 * SECOND);
    assert_true(ldg_backlog_lag(&w, -2 * HOUR, t + 5 * SECOND) == 5);
    assert_true(ldg_backlog_lag(&w, 9 * SECOND, t + 5 * SECOND) == 9);
    /* Progress with more behind it: counted anew. */
    ldg_backlog_progress(&w, true, t + 6 * SECOND);
    assert_true(ldg_backlog_lag(&w, -2 * HOUR, t + 8 * SECOND) == 2);
    ldg_backlog_progress(&w, false, t + 9 * SECOND);
    assert_true(ldg_backlog_lag(&w, -2 * HOUR, t + 10 * SECOND) == 0);
    /* The log was empty two seconds ago: nothing has waited for 56 years. */
    ldg_backlog_look(&w, false, t + 10 * SECOND);
    ldg_backlog_look(&w, true, t + 12 * SECOND);
    assert_true(ldg_backlog_lag(&w, 56 * 365 * 24 * HOUR, t + 12 * SECOND) == 2);
}

/* The row that was carried keeps its time: it is the cursor's witness. */
static void date_the_newest(ledger_store *store, enum tst_kind kind, const char *what)
{
    const bool ahead = strcmp(what, "ahead") == 0;
    const char *table = ledger_store_table(store);
    const char *time =
        ahead ? "strftime('%Y-%m-%dT%H:%M:%f', 'now', '+2 hours')" : "'1970-01-01T00:00:10.000'";
    if (tst_is_postgres(kind))
        time = ahead ? "now() + interval '2 hours'" : "timestamptz '1970-01-01 00:00:10Z'";
    tst_exec_on(store,
                "UPDATE %s_mutations SET created_at = %s WHERE id = (SELECT max(id) FROM "
                "%s_mutations)",
                table, time, table);
}

/* Status of a pair whose writer's clock is ahead, or of 1970, from outside. */
static void status_sees_a_bridge_that_stands(void **state)
{
    static const char *const clocks[] = { "ahead", "1970" };
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        if (from == TST_MEMORY)
            continue; /* its rows cannot be changed from outside; the decision is the same */
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_status status;
        ledger_error err = { 0 };
        tst_append(source, "s", "1", NULL, NULL);
        for (size_t i = 0; i < 2; i++) {
            assert_int_equal(tst_bridge_once(source, sink, NULL), 1);
            tst_append(source, "s", "2", NULL, NULL);
            date_the_newest(source, (enum tst_kind)from, clocks[i]);
            tst_sleep_us(30000);
            tst_ok(ledger_bridge_status_get(source, sink, "default", &status, &err), &err);
            assert_int_equal(status.backlog_count, 1);
            assert_true(status.wrong_time);
            assert_false(status.lag_unknown);
            assert_true(status.lag_seconds >= 0.03 && status.lag_seconds < 60);
            assert_true(status.oldest_us != LEDGER_NO_TIME);
        }
    }
}

static int64_t clock_offset_us;

static int64_t jumping_clock(void)
{
    return NOW + tst_mono_us() + clock_offset_us;
}

/* A bridge whose sink refuses: its own figures grow, though the writer's clock is ahead, and though
 * the clock of its own machine jumps. */
static void a_running_bridge_counts_by_itself(void **state)
{
    struct tst_env *env = *state;
    ledger_bridge_stats stats;
    ledger_error err = { 0 };
    uint64_t read = 0;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
    ldg_clock_set_now(jumping_clock);
    clock_offset_us = 2 * HOUR;
    tst_append(source, "s", "1", NULL, NULL);
    clock_offset_us = 0;
    ledger_bridge *bridge = tst_bridge(source, sink, NULL);
    tst_exec_on(sink, "CREATE TRIGGER full_disk BEFORE UPDATE ON ledger_entries_cursors "
                      "BEGIN SELECT RAISE(ABORT, 'no'); END");
    assert_int_not_equal(ledger_bridge_poll(bridge, &read, &err), LEDGER_OK);
    ledger_bridge_get_stats(bridge, &stats);
    assert_int_equal(stats.backlog_count, 1);
    tst_sleep_us(50000);
    ledger_bridge_get_stats(bridge, &stats);
    assert_true(stats.lag_seconds >= 0.05 && stats.lag_seconds < 60);
    clock_offset_us = -HOUR;
    assert_int_not_equal(ledger_bridge_poll(bridge, &read, &err), LEDGER_OK);
    ledger_bridge_get_stats(bridge, &stats);
    assert_true(stats.lag_seconds >= 0.05 && stats.lag_seconds < 60);
    tst_exec_on(sink, "DROP TRIGGER full_disk");
    assert_int_equal(tst_drain(bridge), 1);
    ledger_bridge_get_stats(bridge, &stats);
    assert_true(stats.lag_seconds == 0);
    /* A writer's clock that is far behind: the log was empty a moment ago. */
    clock_offset_us = -24 * HOUR;
    tst_append(source, "s", "2", NULL, NULL);
    clock_offset_us = 0;
    tst_ok(ledger_bridge_poll(bridge, &read, &err), &err);
    ledger_bridge_get_stats(bridge, &stats);
    assert_true(stats.lag_seconds >= 0 && stats.lag_seconds < 60);
    ledger_bridge_destroy(&bridge);
    ldg_clock_set_now(NULL);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(the_lag_of_a_pair),
        T(what_a_bridge_has_seen),
        T(status_sees_a_bridge_that_stands),
        T(a_running_bridge_counts_by_itself),
    };
    return cmocka_run_group_tests_name("lag", tests, NULL, NULL);
}
