/* The Go module's bridge before, behind and after ours, in both databases: what it left is taken
 * over, what ours carried it finds, and neither does the other's work a second time. Go's bridge is
 * played by plain SQL (go_bridge.h). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "go_bridge.h"
#include "go_pg_tables.h"
#include "go_tables.h"
#include "oracle.h"

#define T LEDGER_DEFAULT_TABLE
#define EACH_DATABASE(env, kind)                                                                   \
    TST_EACH_SOURCE(env, kind)                                                                     \
    if (kind != TST_MEMORY)

static enum tst_kind plain(int kind)
{
    return kind == TST_POSTGRES ? TST_PLAIN_POSTGRES : TST_PLAIN;
}

static int64_t count(const ledger_store *store, const char *where)
{
    return tst_query_int_on(store, "SELECT count(*) FROM " T " WHERE %s", where);
}

static int64_t cursor_of(const ledger_store *sink, const char *name)
{
    return tst_query_int_on(
        sink, "SELECT CAST(cursor AS BIGINT) FROM " T "_cursors WHERE name = '%s'", name);
}

static void exactly_equal(ledger_store *source, ledger_store *sink)
{
    ledger_verify_options options;
    ledger_verify_result result;
    ledger_error err = { 0 };
    ledger_verify_options_defaults(&options);
    tst_ok(ledger_bridge_verify(source, sink, &options, &result, &err), &err);
    assert_int_equal(result.difference_count, 0);
    assert_int_equal(result.pending_count, 0);
    tst_assert_equal(source, sink, TST_CMP_OWN | TST_CMP_ANY_TIME | TST_CMP_ANY_ORDER);
}

/* --- a Go bridge behind a sink of ours ------------------------------------------------------- */

/* It knows entries by their ids in the middle store: a trim has to name one of those. */
static void f3_a_go_bridge_behind_ours_trims(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source = tst_open(env, kind, "source");
        ledger_store *middle = tst_open(env, kind, "middle");
        ledger_store *end = tst_open(env, plain(kind), "end");
        int64_t ids[10];
        tst_go_open(end);
        (void)tst_append(middle, "s", "\"of the middle\"", NULL, NULL);
        (void)tst_append(end, "s", "\"of the end\"", NULL, NULL);
        for (int i = 0; i < 10; i++)
            ids[i] = tst_append(source, "s", "1", NULL, NULL);
        (void)tst_bridge_once(source, middle, NULL);
        assert_int_equal(tst_go_bridge(middle, end, "go"), 0);
        assert_int_equal(tst_count(end, "s"), 12);
        (void)tst_trim(source, "s", ids[3]);
        tst_tag(source, "s", ids[8], "x");
        (void)tst_bridge_once(source, middle, NULL);
        assert_int_equal(tst_go_bridge(middle, end, "go"), 0);
        /* Go's trim takes all that lies below, the entry of the middle, too, and "of the end". */
        assert_int_equal(count(end, "source_id != ''"), 6);
        /* A program trims the middle store: bridged entries and its own. */
        (void)tst_append(middle, "s", "\"of the middle\"", NULL, NULL);
        (void)tst_trim(middle, "s", tst_query_int_on(middle, "SELECT max(id) FROM " T) - 2);
        (void)tst_go_bridge(middle, end, "go");
        assert_int_equal(count(end, "source_id != ''"), 2);
    }
}

/* --- the cursor's readable form -------------------------------------------------------------- */

static void f9_the_readable_position_never_goes_back(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source = tst_open(env, kind, "source");
        ledger_store *sink = tst_open(env, plain(kind), "sink");
        ledger_bridge_options options;
        ledger_error err = { 0 };
        uint64_t read = 1;
        int64_t last = 20;
        tst_bridge_options(&options);
        options.batch_size = options.backlog_batch_size = 3;
        for (int i = 0; i < 10; i++)
            (void)tst_append(source, "s", "1", NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        for (int i = 0; i < 15; i++)
            (void)tst_append(source, "s", "1", NULL, NULL);
        tst_exec_on(sink, "UPDATE " T "_cursors SET cursor = '%019d' WHERE name = 'default'", 20);
        ledger_bridge *bridge = tst_bridge(source, sink, &options);
        while (read > 0) {
            tst_ok(ledger_bridge_poll(bridge, &read, &err), &err);
            assert_true(cursor_of(sink, "default") >= last);
            last = cursor_of(sink, "default");
        }
        assert_int_equal(last, 25);
        ledger_bridge_destroy(&bridge);
        exactly_equal(source, sink);
        /* On purpose it does. */
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", "4", false, &err), &err);
        assert_int_equal(cursor_of(sink, "default"), 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#undef T
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(f3_a_go_bridge_behind_ours_trims),
        T(f9_the_readable_position_never_goes_back),
    };
    return cmocka_run_group_tests_name("go_bridge", tests, NULL, NULL);
}
