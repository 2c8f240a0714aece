/* Chains, rings and meshes: a sink that has a log is a source too. Every change arrives everywhere
 * once, under the id of its origin, and nothing runs in circles. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "oracle.h"
#include "workload.h"

/* --- chains and meshes -------------------------------------------------------------------------
 */

static void chain_of_three(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        if (!tst_kind_has_log(to)) /* it is a source too */
            continue;
        ledger_store *a = tst_open(env, from, "a");
        ledger_store *b = tst_open(env, to, "b");
        ledger_store *c = tst_open(env, from, "c");
        struct tst_workload wa, wb;
        ledger_error err = { 0 };
        tst_workload_init(&wa, tst_seed());
        tst_workload_init(&wb, tst_seed() + 1);
        wa.no_dedup = wb.no_dedup = true;
        wb.prefix = "own"; /* b has entries of its own too */
        for (int round = 0; round < 4; round++) {
            tst_workload_run(&wa, a, tst_scale(100));
            tst_workload_run(&wb, b, tst_scale(50));
            (void)tst_bridge_once(a, b, NULL);
            (void)tst_bridge_once(b, c, NULL);
            tst_assert_equal(a, b, TST_CMP_OWN);
            tst_assert_equal(a, c, TST_CMP_OWN);
            tst_assert_equal(b, c, 0);
            assert_int_equal(tst_bridge_once(b, c, NULL), 0);
        }
        /* A replay of either part changes nothing. */
        tst_ok(ledger_bridge_cursor_set(a, b, "default", "0", false, &err), &err);
        tst_ok(ledger_bridge_cursor_set(b, c, "default", "0", false, &err), &err);
        (void)tst_bridge_once(a, b, NULL);
        (void)tst_bridge_once(b, c, NULL);
        tst_assert_equal(a, b, TST_CMP_OWN);
        tst_assert_equal(b, c, 0);
    }
}

/* The same of a trim up to an id that nobody had yet: what it left in the middle store must not go
 * at the end of the chain when it comes again. */
static void replayed_trim_in_a_chain(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        if (!tst_kind_has_log(to)) /* it is a source too */
            continue;
        for (int last = 0; last < TST_SINK_COUNT; last++) {
            if (!tst_kind_here(last) || !tst_pair_is_telling(to, last))
                continue;
            char name[3][16];
            snprintf(name[0], sizeof name[0], "a%d", last);
            snprintf(name[1], sizeof name[1], "b%d", last);
            snprintf(name[2], sizeof name[2], "c%d", last);
            ledger_store *a = tst_open(env, from, name[0]);
            ledger_store *b = tst_open(env, to, name[1]);
            ledger_store *c = tst_open(env, (enum tst_kind)last, name[2]);
            ledger_error err = { 0 };
            for (int i = 0; i < 3; i++)
                tst_append(a, "s", "{}", NULL, NULL);
            assert_int_equal(tst_trim(a, "s", 6), 3);
            for (int i = 0; i < 5; i++)
                tst_append(a, "s", "{}", NULL, NULL);
            (void)tst_bridge_once(a, b, NULL);
            (void)tst_bridge_once(b, c, NULL);
            tst_assert_equal(a, c, 0);
            tst_ok(ledger_bridge_cursor_set(a, b, "default", "0", false, &err), &err);
            (void)tst_bridge_once(a, b, NULL);
            tst_assert_equal(a, b, 0);
            (void)tst_bridge_once(b, c, NULL);
            tst_assert_equal(a, c, 0);
            tst_ok(ledger_bridge_cursor_set(b, c, "default", "0", false, &err), &err);
            (void)tst_bridge_once(b, c, NULL);
            tst_assert_equal(a, c, 0);
        }
    }
}

static ledger_bridge *named_bridge(ledger_store *from, ledger_store *to, const char *name,
                                   size_t batch_size)
{
    ledger_bridge_options o;
    tst_bridge_options(&o);
    o.name = name;
    o.batch_size = batch_size;
    return tst_bridge(from, to, &o);
}

static void end(ledger_bridge **bridge)
{
    tst_check_counters(*bridge);
    ledger_bridge_destroy(bridge);
}

static void settle(ledger_store *a, ledger_store *b)
{
    ledger_bridge *there = named_bridge(a, b, "a-b", 500), *back = named_bridge(b, a, "b-a", 500);
    uint64_t read = 1;
    for (int round = 0; read > 0; round++) {
        if (round == 10)
            tst_fail("opposite bridges do not settle");
        read = tst_drain(there);
        read += tst_drain(back);
    }
    end(&there);
    end(&back);
}

static void opposite_bridges_settle(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        if (!tst_kind_has_log(to)) /* it is a source too */
            continue;
        ledger_store *a = tst_open(env, from, "a");
        ledger_store *b = tst_open(env, to, "b");
        struct tst_workload wa, wb;
        tst_workload_init(&wa, tst_seed());
        tst_workload_init(&wb, tst_seed() + 1);
        wa.no_dedup = wb.no_dedup = true;
        wa.prefix = "a";
        wb.prefix = "b";
        for (int round = 0; round < 4; round++) {
            tst_workload_run(&wa, a, tst_scale(80));
            tst_workload_run(&wb, b, tst_scale(80));
            settle(a, b);
            tst_assert_equal(a, b, 0);
        }
    }
}

/* Each side changes and trims what the other wrote, one side at a time. */
static void changes_at_the_other_side_come_back(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        if (!tst_kind_has_log(to)) /* it is a source too */
            continue;
        ledger_store *a = tst_open(env, from, "a");
        ledger_store *b = tst_open(env, to, "b");
        uint64_t random = tst_seed();
        for (int round = 0; round < 6; round++) {
            ledger_store *side = round % 2 == 0 ? a : b;
            struct tst_workload w;
            tst_workload_init(&w, tst_random(&random));
            w.no_dedup = true;
            w.stream_count = 3; /* the same streams at both sides */
            tst_workload_learn(&w, side);
            tst_workload_run(&w, side, tst_scale(80));
            settle(a, b);
            tst_assert_equal(a, b, 0);
        }
    }
}

/* Both directions at once, in threads, while both sides are written. */
static void opposite_bridges_at_the_same_time(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        if (!tst_kind_has_log(to))
            continue;
        ledger_store *a = tst_open(env, from, "a");
        ledger_store *b = tst_open(env, to, "b");
        ledger_bridge *bridges[2];
        struct tst_workload wa, wb;
        ledger_bridge_options o;
        ledger_error err = { 0 };
        tst_bridge_options(&o);
        o.interval_ms = 20;
        o.batch_size = 10;
        o.name = "a-b";
        bridges[0] = tst_bridge(a, b, &o);
        o.name = "b-a";
        bridges[1] = tst_bridge(b, a, &o);
        for (int i = 0; i < 2; i++)
            tst_ok(ledger_bridge_start(bridges[i], &err), &err);
        tst_workload_init(&wa, tst_seed());
        tst_workload_init(&wb, tst_seed() + 1);
        wa.no_dedup = wb.no_dedup = true;
        wa.small = wb.small = true;
        wa.prefix = "a";
        wb.prefix = "b";
        /* The bridge into a store waits while a transaction of this thread is open there. */
        wa.no_transactions = wb.no_transactions = true;
        for (size_t i = 0; i < tst_scale(40); i++) {
            tst_workload_run(&wa, a, 4);
            tst_workload_run(&wb, b, 4);
        }
        for (int round = 0; round < 3; round++)
            for (int i = 0; i < 2; i++)
                tst_ok(ledger_bridge_wait(bridges[i], true, TST_PATIENCE_MS, &err), &err);
        for (int i = 0; i < 2; i++) {
            ledger_bridge_stop(bridges[i]);
            tst_check_counters(bridges[i]);
            ledger_bridge_destroy(&bridges[i]);
        }
        settle(a, b);
        tst_assert_equal(a, b, 0);
    }
}

/* a -> b -> c -> a: nothing comes home twice. */
static void ring_of_three_settles(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        if (!tst_kind_has_log(to))
            continue;
        ledger_store *stores[3] = { tst_open(env, from, "a"), tst_open(env, to, "b"),
                                    tst_open(env, from, "c") };
        struct tst_workload w[3];
        ledger_bridge *bridges[3];
        for (int i = 0; i < 3; i++) {
            static const char *const prefixes[] = { "a", "b", "c" };
            tst_workload_init(&w[i], tst_seed() + (uint64_t)i);
            w[i].prefix = prefixes[i];
            w[i].no_dedup = true;
            bridges[i] = tst_bridge(stores[i], stores[(i + 1) % 3], NULL);
        }
        for (int round = 0; round < 4; round++) {
            uint64_t read = 1;
            for (int i = 0; i < 3; i++)
                tst_workload_run(&w[i], stores[i], tst_scale(40));
            for (int turn = 0; read > 0; turn++) {
                assert_true(turn < 10);
                read = 0;
                for (int i = 0; i < 3; i++)
                    read += tst_drain(bridges[i]);
            }
            tst_assert_equal(stores[0], stores[1], 0);
            tst_assert_equal(stores[1], stores[2], 0);
        }
        for (int i = 0; i < 3; i++)
            end(&bridges[i]);
    }
}

/* The same changes over two ways, of which one is slow: a -> b -> d and a -> c -> d. */
static void diamond_of_two_ways(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *a = tst_open(env, from, "a");
        ledger_store *b = tst_open(env, from, "b");
        ledger_store *c = tst_open(env, TST_SQLITE, "c");
        ledger_store *d = tst_open(env, to, "d");
        ledger_bridge *a_b = named_bridge(a, b, "default", 9),
                      *a_c = named_bridge(a, c, "default", 9);
        ledger_bridge *b_d = named_bridge(b, d, "b", 9), *c_d = named_bridge(c, d, "c", 9);
        struct tst_workload w;
        uint64_t random = tst_seed();
        tst_workload_init(&w, random);
        for (size_t round = 0; round < 4 + tst_pair_scale(36); round++) {
            tst_workload_run(&w, a, tst_scale(10));
            if (tst_random_below(&random, 2) == 0)
                (void)tst_drain(a_b);
            if (tst_random_below(&random, 5) == 0)
                (void)tst_drain(a_c);
            if (tst_random_below(&random, 2) == 0)
                (void)tst_drain(b_d);
            if (tst_random_below(&random, 3) == 0)
                (void)tst_drain(c_d);
        }
        (void)tst_drain(a_b);
        (void)tst_drain(a_c);
        (void)tst_drain(b_d);
        (void)tst_drain(c_d);
        end(&a_b);
        end(&a_c);
        end(&b_d);
        end(&c_d);
        tst_assert_equal(a, b, 0);
        tst_assert_equal(a, c, 0);
        tst_assert_equal(a, d, TST_CMP_ANY_ORDER);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(chain_of_three),
        T(replayed_trim_in_a_chain),
        T(opposite_bridges_settle),
        T(changes_at_the_other_side_come_back),
        T(opposite_bridges_at_the_same_time),
        T(ring_of_three_settles),
        T(diamond_of_two_ways),
    };
    return cmocka_run_group_tests_name("mesh", tests, NULL, NULL);
}
