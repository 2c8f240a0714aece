/* Faults of PostgreSQL servers and of the network, each against the source and against the sink,
 * while writers write. After each the bridge goes on by itself, and the sink equals the source. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "oracle.h"
#include "pg_rig.h"
#include "recorder.h"
#include "roles.h"
#include "workload.h"

#define EACH_SIDE(side)                                                                            \
    for (enum tst_side side = TST_SOURCE_SIDE; side < TST_SIDES; side = (enum tst_side)(side + 1))

static uint64_t below(uint64_t *random, uint64_t n)
{
    return tst_random_below(random, n);
}

static void sessions_are_terminated(void **state)
{
    EACH_SIDE(side)
    {
        struct tst_rig *rig =
            tst_rig_start(*state, &(struct tst_rig_options){ .chained = side == TST_SINK_SIDE });
        uint64_t random = tst_seed();
        int64_t ended = 0;
        size_t times = tst_scale(40);
        for (size_t i = 0; i < times; i++) {
            tst_sleep_us((int64_t)below(&random, 60000));
            ended += tst_rig_terminate(rig, side);
            if (i % 4 == 0)
                tst_rig_await(rig, "after pg_terminate_backend");
        }
        assert_true(ended >= (int64_t)times / 4); /* after each await there is one */
        tst_rig_end(&rig, "pg_terminate_backend of %" PRId64 " sessions at the %s", ended,
                    tst_side_name(side));
    }
}

static void server_stops_and_starts(struct tst_env *env, enum tst_pg_stop how, const char *name,
                                    size_t times)
{
    EACH_SIDE(side)
    {
        struct tst_rig *rig =
            tst_rig_start(env, &(struct tst_rig_options){ .chained = side == TST_SOURCE_SIDE });
        uint64_t random = tst_seed();
        for (size_t i = 0; i < times; i++) {
            tst_sleep_us((int64_t)below(&random, 150000));
            tst_pg_stop(rig->pg[side], how);
            if (i % 2)
                tst_sleep_us((int64_t)below(&random, 100000));
            tst_pg_run(rig->pg[side]);
            tst_rig_await(rig, name);
        }
        tst_rig_end(&rig, "%zu %s and restarts of the %s", times, name, tst_side_name(side));
    }
}

static void immediate_shutdowns(void **state)
{
    server_stops_and_starts(*state, TST_PG_IMMEDIATE, "immediate shutdowns", tst_scale(8));
}

static void fast_shutdowns(void **state)
{
    server_stops_and_starts(*state, TST_PG_FAST, "fast shutdowns", tst_scale(3));
}

/* t1: transactions that were aborted and not flushed give their numbers back. */
static void t1_server_is_killed(void **state)
{
    EACH_SIDE(side)
    {
        struct tst_rig *rig =
            tst_rig_start(*state, &(struct tst_rig_options){ .writer_count = 4,
                                                             .chained = side == TST_SINK_SIDE });
        uint64_t random = tst_seed();
        size_t times = tst_scale(side == TST_SOURCE_SIDE ? 30 : 15);
        for (size_t i = 0; i < times; i++) {
            tst_sleep_us((int64_t)below(&random, 80000));
            tst_pg_kill(rig->pg[side]);
            tst_pg_run(rig->pg[side]);
            tst_rig_await(rig, "after kill -9 of the server");
        }
        tst_rig_end(&rig, "t1: %zu kill -9 of the server of the %s", times, tst_side_name(side));
    }
}

/* Commits that the server forgets in a crash: nothing is lost silently. What was carried and then
 * forgotten is noticed; else the bridge goes on. */
static void t1_server_is_killed_with_asynchronous_commits(void **state)
{
    size_t times = tst_scale(10), noticed = 0, resumed = 0;
    struct tst_rig *rig =
        tst_rig_start(*state, &(struct tst_rig_options){ .writer_count = 3, .asynchronous = true });
    uint64_t random = tst_seed();
    for (size_t i = 0; i < times; i++) {
        ledger_error err = { 0 };
        int64_t until = tst_mono_us() + 1000 * TST_PATIENCE_MS;
        tst_sleep_us((int64_t)below(&random, 150000));
        tst_pg_kill(rig->pg[TST_SOURCE_SIDE]);
        tst_pg_run(rig->pg[TST_SOURCE_SIDE]);
        uint64_t marks = 0, there = 0;
        ledger_append_input input = { .payload = { "{}", 2 } };
        while (ledger_store_append(rig->store[TST_SOURCE_SIDE], "after", &input, 1, NULL, &err) !=
                   LEDGER_OK ||
               ledger_store_count(rig->store[TST_SOURCE_SIDE], "after", &marks, &err) != LEDGER_OK)
            assert_true(tst_mono_us() < until);
        ledger_rc rc = LEDGER_ERR_TIMEOUT;
        while (rc == LEDGER_ERR_TIMEOUT && there < marks) {
            rc = ledger_bridge_wait(rig->bridge, false, 5, &err);
            if (ledger_store_count(rig->store[TST_SINK_SIDE], "after", &there, &err) != LEDGER_OK)
                there = 0;
            if (tst_mono_us() > until)
                tst_fail("after kill -9 with asynchronous commits: neither carried nor noticed");
        }
        if (rc == LEDGER_ERR_TIMEOUT) {
            resumed++;
            continue;
        }
        if (rc != LEDGER_ERR_SOURCE_REWOUND && rc != LEDGER_ERR_POSITION_REUSED)
            tst_fail("after kill -9: %s: %s", ledger_rc_name(rc), err.message);
        noticed++; /* the operator starts the sink anew */
        tst_rig_unbridge(rig);
        tst_exec_on(rig->store[TST_SINK_SIDE],
                    "TRUNCATE ledger_entries, ledger_entries_cursors, ledger_entries_parked");
        tst_rig_bridge(rig);
        tst_rig_await(rig, "in a sink that was emptied");
    }
    tst_rig_end(&rig, "t1: %zu kill -9 with asynchronous commits: %zu resumed, %zu noticed", times,
                resumed, noticed);
}

/* --- the network -------------------------------------------------------------------------------
 */

static void connections_are_cut(void **state)
{
    EACH_SIDE(side)
    {
        struct tst_rig *rig =
            tst_rig_start(*state, &(struct tst_rig_options){ .chained = side == TST_SOURCE_SIDE });
        uint64_t random = tst_seed(), before;
        size_t times = tst_scale(60), hits = 0;
        for (size_t i = 0; i < times; i++) {
            before = tst_rig_error_count(rig);
            if (i % 4 == 3) {
                tst_sleep_us((int64_t)below(&random, 30000));
                tst_proxy_cut(rig->proxy[side]);
            } else { /* in the middle of a request or of an answer */
                int64_t until = tst_mono_us() + 2000000;
                tst_proxy_arm(rig->proxy[side], (enum tst_proxy_way)(1 + below(&random, 2)),
                              1 + below(&random, i % 2 ? 300 : 20000), TST_PROXY_CUT);
                while (!tst_proxy_hit(rig->proxy[side]) && tst_mono_us() < until)
                    tst_sleep_us(500);
                hits += tst_proxy_hit(rig->proxy[side]);
                tst_proxy_arm(rig->proxy[side], TST_BOTH_WAYS, 0, TST_PROXY_CUT);
            }
            if (i % 5 == 0) {
                tst_proxy_refuse(rig->proxy[side], true);
                tst_proxy_cut(rig->proxy[side]);
                tst_rig_await_error(rig, before, "nobody is let in");
                tst_proxy_refuse(rig->proxy[side], false);
                tst_rig_await(rig, "after a cut");
            }
        }
        assert_true(hits > times / 3);
        tst_rig_end(&rig, "%zu cut connections to the %s, %zu at a chosen byte", times,
                    tst_side_name(side), hits);
    }
}

static void network_stalls_for_a_while(void **state)
{
    EACH_SIDE(side)
    {
        struct tst_rig *rig = tst_rig_start(*state, &(struct tst_rig_options){ 0 });
        uint64_t random = tst_seed();
        size_t times = tst_scale(12);
        for (size_t i = 0; i < times; i++) {
            tst_sleep_us((int64_t)below(&random, 30000));
            tst_proxy_stall(rig->proxy[side], 1 + (int)below(&random, 3));
            tst_sleep_us((int64_t)below(&random, 300000));
            if (i % 3 == 0) /* and is gone */
                tst_proxy_cut(rig->proxy[side]);
            tst_proxy_stall(rig->proxy[side], 0);
            tst_proxy_delay(rig->proxy[side], i % 3 == 1 ? 20000 : 0);
            tst_rig_await(rig, "after a stall");
        }
        tst_proxy_delay(rig->proxy[side], 0);
        tst_rig_end(&rig, "%zu stalls and delays on the way to the %s", times, tst_side_name(side));
    }
}

/* One connection to each side falls silent for good, in the middle of a message, mostly of a COPY,
 * and nobody closes it. New ones work. */
static void connections_fall_silent(void **state)
{
    /* 20 seconds without an answer, and as long as the server keeps a transaction that nobody ends.
     */
    struct tst_rig *rig =
        tst_rig_start(*state, &(struct tst_rig_options){ .await_us = 180 * 1000000LL });
    int64_t until = tst_mono_us() + tst_slow(20000000);
    uint64_t random = tst_seed();
    for (int side = 0; side < TST_SIDES; side++)
        tst_proxy_arm(rig->proxy[side], TST_TO_SERVER, 1 + below(&random, 8000), TST_PROXY_STALL);
    while (!tst_proxy_hit(rig->proxy[TST_SOURCE_SIDE]) || !tst_proxy_hit(rig->proxy[TST_SINK_SIDE]))
        if (tst_sleep_us(1000), tst_mono_us() > until)
            break; /* the first one holds the other up */
    assert_true(tst_proxy_hit(rig->proxy[TST_SOURCE_SIDE]) ||
                tst_proxy_hit(rig->proxy[TST_SINK_SIDE]));
    tst_rig_end(&rig, "a connection to each side that fell silent for good");
}

/* --- what the server's own limits do -----------------------------------------------------------
 */

/* As the user of the database sets it, for sessions to come; the old ones end. */
static void set_for_all(struct tst_rig *rig, enum tst_side side, const char *setting)
{
    tst_pg_exec(rig->pg[side], NULL, "ALTER DATABASE postgres %s", setting);
    (void)tst_rig_terminate(rig, side);
}

static void limits_of_the_server(struct tst_env *env, const char *name, const char *value,
                                 bool must_pass)
{
    EACH_SIDE(side)
    {
        struct tst_rig *rig =
            tst_rig_start(env, &(struct tst_rig_options){ .chained = side == TST_SOURCE_SIDE,
                                                          .batch_size = 500 });
        char setting[100];
        size_t times = tst_scale(4);
        for (size_t i = 0; i < times; i++) {
            snprintf(setting, sizeof setting, "SET %s = %s", name, value);
            set_for_all(rig, side, setting);
            tst_sleep_us(100000);
            if (must_pass)
                tst_rig_await(rig, name);
            snprintf(setting, sizeof setting, "RESET %s", name);
            set_for_all(rig, side, setting);
            tst_rig_await(rig, name);
        }
        tst_rig_end(&rig, "%zu times %s = %s at the %s", times, name, value, tst_side_name(side));
    }
}

static void statement_timeout(void **state)
{
    limits_of_the_server(*state, "statement_timeout", "'2ms'", false);
}

static void idle_in_transaction_timeout(void **state)
{
    limits_of_the_server(*state, "idle_in_transaction_session_timeout", "'1ms'", true);
}

static void read_only_by_default(void **state)
{
    limits_of_the_server(*state, "default_transaction_read_only", "on", true);
}

static void serializable_by_default(void **state)
{
    limits_of_the_server(*state, "default_transaction_isolation", "'serializable'", true);
}

/* --- a full disk -------------------------------------------------------------------------------
 */

static char mounted[300];

static void unmount(void)
{
    if (mounted[0] != '\0') {
        (void)umount2(mounted, MNT_DETACH);
        (void)rmdir(mounted);
    }
    mounted[0] = '\0';
}

/* A small disk for a tablespace; false, and *ret_why: not here. */
static bool mount_small(const char **ret_why)
{
    static char why[200];
    static bool registered;
    const struct passwd *user = getpwnam("postgres");
    char options[100];
    *ret_why = why;
    if (geteuid() != 0 || user == NULL) {
        snprintf(why, sizeof why, "a full tablespace needs root, who may mount a small disk");
        return false;
    }
    if (!registered) {
        registered = true;
        assert_int_equal(atexit(unmount), 0);
    }
    snprintf(mounted, sizeof mounted, "/tmp/ledger-small-XXXXXX");
    assert_non_null(mkdtemp(mounted));
    snprintf(options, sizeof options, "size=24m,mode=0700,uid=%u,gid=%u", (unsigned)user->pw_uid,
             (unsigned)user->pw_gid);
    if (mount("tmpfs", mounted, "tmpfs", 0, options) != 0) {
        snprintf(why, sizeof why, "a full tablespace needs a small disk, but mount: %s",
                 strerror(errno));
        (void)rmdir(mounted);
        mounted[0] = '\0';
        return false;
    }
    return true;
}

static void fill_disk(const char *path)
{
    static char block[65536];
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    for (size_t size = sizeof block; size >= 512; size /= 2)
        while (write(fd, block, size) > 0)
            ;
    close(fd);
}

/* What is left in pages that are there already is soon full as well. */
static uint64_t appends_until_full(struct tst_rig *rig)
{
    static char payload[4000];
    const ledger_append_input input = { .payload = { payload, sizeof payload } };
    ledger_error err;
    memset(payload, '1', sizeof payload);
    while (ledger_store_append(rig->store[TST_SOURCE_SIDE], "large", &input, 1, NULL, &err) ==
           LEDGER_OK)
        ;
    assert_int_equal(err.code, LEDGER_ERR_FULL);
    return 1;
}

static void full_tablespace(void **state)
{
    EACH_SIDE(side)
    {
        char filler[400];
        const char *why;
        size_t times = tst_scale(3);
        uint64_t refused = 0;
        tst_pg_require();
        if (!mount_small(&why)) {
            print_message("%s\n", why);
            skip();
        }
        struct tst_rig *rig =
            tst_rig_start(*state, &(struct tst_rig_options){ .side = side, .tablespace = mounted });
        snprintf(filler, sizeof filler, "%s/filler", mounted);
        for (size_t i = 0; i < times; i++) {
            uint64_t before = tst_rig_error_count(rig);
            fill_disk(filler);
            if (side == TST_SINK_SIDE)
                tst_rig_await_error(rig, before, "the disk is full");
            else
                refused += appends_until_full(rig);
            tst_sleep_us(300000);
            assert_int_equal(unlink(filler), 0);
            tst_rig_await(rig, "there is room again");
        }
        if (side == TST_SOURCE_SIDE) { /* only writers need room there */
            tst_rig_stop_writers(rig);
            refused += rig->writer_errors[LEDGER_ERR_FULL];
        }
        tst_rig_end(&rig, "%zu times a full tablespace at the %s (%" PRIu64 " writes refused)",
                    times, tst_side_name(side), refused);
        unmount();
    }
}

/* --- fail-over ---------------------------------------------------------------------------------
 */

static void standby_is_promoted(void **state)
{
    EACH_SIDE(side)
    {
        struct tst_rig *rig =
            tst_rig_start(*state, &(struct tst_rig_options){ .side = side, .with_standby = true });
        tst_sleep_us(300000);
        tst_pg_kill(rig->pg[side]);
        tst_sleep_us(50000);
        tst_pg_promote(rig->standby);
        tst_rig_await(rig, "after the promotion");
        tst_rig_end(&rig, "1 kill -9 of the primary and promotion of its standby at the %s",
                    tst_side_name(side));
    }
}

/* --- a state store ---------------------------------------------------------------------------
 */

/* An own sink, and a store that keeps no cursor, fed by way of state tables in one server. */
struct fed {
    ledger_store *source, *sink;
    struct tst_recorder recorder;
    ledger_bridge *bridges[2];
};

static void fed_start(struct fed *fed, struct tst_env *env, const char *url)
{
    ledger_bridge_options o;
    ledger_error err;
    fed->source = tst_open(env, TST_SQLITE, "source");
    fed->sink = tst_open(env, TST_PLAIN, "sink");
    tst_cut(fed->sink, TST_CUT_CURSORS);
    tst_recorder_init(&fed->recorder, 20000);
    const ledger_sink own = tst_recorder_sink(&fed->recorder);
    tst_bridge_options(&o);
    o.batch_size = 7;
    o.backlog_batch_size = 20;
    o.interval_ms = 50;
    o.retry_max_ms = 100;
    o.state_url = url;
    o.name = "own";
    tst_ok(ledger_bridge_create_to(fed->source, &own, &o, &fed->bridges[0], &err), &err);
    o.name = "store";
    fed->bridges[1] = tst_bridge(fed->source, fed->sink, &o);
    for (int i = 0; i < 2; i++)
        tst_ok(ledger_bridge_start(fed->bridges[i], &err), &err);
}

static void fed_await(struct fed *fed)
{
    ledger_error err;
    for (int i = 0; i < 2; i++)
        tst_ok(ledger_bridge_wait(fed->bridges[i], true, TST_PATIENCE_MS, &err), &err);
}

static uint64_t fed_error_count(struct fed *fed)
{
    ledger_bridge_stats stats;
    ledger_bridge_get_stats(fed->bridges[0], &stats);
    return stats.error_count;
}

/* Nothing is lost, the order is kept, and while the process lives nothing comes twice. */
static void state_store_goes_away(void **state)
{
    struct tst_env *env = *state;
    struct fed fed = { 0 };
    struct tst_workload w;
    uint64_t random = tst_seed();
    const size_t times = tst_scale(20);
    tst_pg_require();
    struct tst_pg *pg = tst_pg_start(NULL);
    fed_start(&fed, env, tst_pg_url(pg, NULL, NULL, NULL));
    tst_workload_init(&w, random);
    w.small = true;
    w.stream_count = 3;
    for (size_t i = 0; i < times; i++) {
        const uint64_t before = fed_error_count(&fed);
        tst_workload_run(&w, fed.source, 20);
        tst_sleep_us((int64_t)below(&random, 30000));
        if (i % 3 == 0)
            tst_pg_stop(pg, TST_PG_FAST);
        else
            tst_pg_kill(pg);
        tst_workload_run(&w, fed.source, 10);
        (void)tst_append(fed.source, "s", "1", NULL, NULL); /* the others may be rolled back */
        TST_AWAIT(fed_error_count(&fed) != before);
        tst_pg_run(pg);
        if (i % 4 == 3)
            fed_await(&fed);
    }
    fed_await(&fed);
    assert_int_equal(tst_recorder_check(&fed.recorder, fed.source, NULL), 0);
    tst_assert_equal(fed.source, fed.sink, 0);
    print_message("%zu stops and kills of a state store: %zu deliveries, none twice\n", times,
                  fed.recorder.count);
    for (int i = 0; i < 2; i++) {
        tst_check_counters(fed.bridges[i]);
        ledger_bridge_destroy(&fed.bridges[i]);
    }
    tst_recorder_fini(&fed.recorder);
    tst_pg_destroy(&pg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(sessions_are_terminated),
        T(immediate_shutdowns),
        T(fast_shutdowns),
        T(t1_server_is_killed),
        T(t1_server_is_killed_with_asynchronous_commits),
        T(connections_are_cut),
        T(network_stalls_for_a_while),
        T(connections_fall_silent),
        T(statement_timeout),
        T(idle_in_transaction_timeout),
        T(read_only_by_default),
        T(serializable_by_default),
        T(full_tablespace),
        T(standby_is_promoted),
        T(state_store_goes_away),
    };
    return cmocka_run_group_tests_name("faults of PostgreSQL", tests, NULL, NULL);
}
