/* What only PostgreSQL makes possible, at the level of a bridge: w6 w8 and the traps t3 t5 t8 t9
 * t10 t11 t12 of the reference, and a source that moves or goes back. Those that any backend can
 * fall into are in test_regressions.c and test_traps.c; t1 is in test_pg_faults.c. */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "go_pg_tables.h"
#include "oracle.h"
#include "pg_rig.h"
#include "workload.h"

/* The library on a connection whose transactions the test makes. */
static ledger_store *open_on(struct tst_env *env, PGconn *conn)
{
    ledger_store_options o;
    ledger_store_options_defaults(&o);
    o.connection = conn;
    o.connection_kind = LEDGER_CONNECTION_POSTGRES;
    return tst_open_with(env, TST_POSTGRES, NULL, &o);
}

/* --- w6: set back by hand ----------------------------------------------------------------------
 */

static void w6_replay_from_the_beginning(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        if (!tst_is_postgres(to))
            continue;
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        struct tst_workload w;
        struct tst_history before;
        tst_workload_init(&w, tst_seed());
        tst_workload_run(&w, source, tst_scale(150));
        (void)tst_bridge_once(source, sink, NULL);
        tst_history_load(sink, &before);
        tst_exec_on(sink, "UPDATE ledger_entries_cursors SET state = '', cursor = ''");
        assert_true(tst_bridge_once(source, sink, NULL) > 0);
        tst_assert_unchanged(&before, sink);
        tst_exec_on(sink, "DELETE FROM ledger_entries_cursors");
        assert_true(tst_bridge_once(source, sink, NULL) > 0);
        tst_assert_unchanged(&before, sink);
        tst_assert_equal(source, sink, 0);
        tst_history_free(&before);
    }
}

/* --- w8, t3: a trim beside an append -----------------------------------------------------------
 */

enum order { ONE_BATCH, TRIM_FIRST, APPEND_FIRST, ORDERS };

/* The entry with the lower id commits around the trim: the source keeps it, and so does the sink.
 */
static void t3_append_commits_around_a_trim(void **state)
{
    struct tst_env *env = *state;
    tst_pg_require();
    TST_EACH_SINK(env, to)
    {
        for (int order = 0; order < ORDERS; order++) {
            char name[2][32];
            snprintf(name[0], sizeof name[0], "source%d", order);
            snprintf(name[1], sizeof name[1], "sink%d", order);
            ledger_store *source = tst_open(env, TST_POSTGRES, name[0]);
            ledger_store *sink = tst_open(env, (enum tst_kind)to, name[1]);
            PGconn *appending = tst_pg_connect_url(ledger_store_url(source));
            PGconn *trimming = tst_pg_connect_url(ledger_store_url(source));
            ledger_store *appender = open_on(env, appending);
            ledger_store *trimmer = open_on(env, trimming);
            ledger_bridge *bridge = tst_bridge(source, sink, NULL);
            (void)tst_append(source, "s", "{\"n\":0}", NULL, NULL);
            (void)tst_drain(bridge);

            tst_pg_sql(appending, "BEGIN");
            int64_t kept = tst_append(appender, "s", "{\"n\":1}", NULL, NULL);
            int64_t gone = tst_append(source, "s", "{\"n\":2}", NULL, NULL);
            assert_true(gone > kept);
            tst_pg_sql(trimming, "BEGIN");
            assert_int_equal(tst_trim(trimmer, "s", gone), 2); /* entry 0, too */
            switch (order) {
            case TRIM_FIRST:
                tst_pg_sql(trimming, "COMMIT");
                (void)tst_drain(bridge);
                tst_assert_equal(source, sink, 0);
                tst_pg_sql(appending, "COMMIT");
                break;
            case APPEND_FIRST:
                tst_pg_sql(appending, "COMMIT");
                (void)tst_drain(bridge);
                tst_assert_equal(source, sink, TST_CMP_ANY_ORDER);
                tst_pg_sql(trimming, "COMMIT");
                break;
            default:
                tst_pg_sql(appending, "COMMIT");
                tst_pg_sql(trimming, "COMMIT");
                break;
            }
            (void)tst_append(source, "s", "{\"n\":3}", NULL, NULL);
            (void)tst_drain(bridge);
            assert_int_equal(tst_count(source, "s"), 2);
            assert_int_equal(tst_count(sink, "s"), 2);
            tst_assert_equal(source, sink, TST_CMP_ANY_ORDER);
            ledger_bridge_destroy(&bridge);
            tst_close(env, appender);
            tst_close(env, trimmer);
            PQfinish(appending);
            PQfinish(trimming);
        }
    }
}

/* --- a network that stops in the middle of a batch ----------------------------------------------
 */

/* A sink behind a proxy, with a source in memory. */
struct wired {
    ledger_store *source, *sink, *through;
    struct tst_proxy *proxy;
};

static void wire(struct tst_env *env, enum tst_kind kind, struct wired *w)
{
    struct tst_pg *pg = tst_pg_shared();
    char socket_path[300], url[900];
    const char *direct, *schema;
    ledger_store_options o;
    snprintf(socket_path, sizeof socket_path, "%s/.s.PGSQL.%d", pg->dir, pg->port);
    w->proxy = tst_proxy_start(socket_path, 0);
    w->source = tst_open(env, TST_MEMORY, "source");
    w->sink = tst_open(env, kind, "sink");
    direct = ledger_store_url(w->sink);
    schema = strstr(direct, "options=");
    assert_non_null(schema);
    snprintf(url, sizeof url,
             "postgresql:///postgres?host=127.0.0.1&port=%d&user=postgres&sslmode=disable&%s",
             tst_proxy_port(w->proxy), schema);
    ledger_store_options_defaults(&o);
    o.url = url;
    o.log = tst_kind_has_log((int)kind) ? LEDGER_MUTATION_LOG_ON : LEDGER_MUTATION_LOG_OFF;
    w->through = tst_open_with(env, kind, NULL, &o);
}

/* The connection is cut at each byte of a batch, the commit and its answer among them. */
static void t5_cut_at_every_byte(void **state)
{
    static const enum tst_kind kinds[] = { TST_PLAIN_POSTGRES, TST_POSTGRES };
    struct tst_env *env = *state;
    uint64_t random = tst_seed();
    size_t cuts = 0, unknown = 0, other = 0;
    tst_pg_require();
    for (size_t k = 0; k < 2; k++, tst_env_reset(env)) {
        struct wired w;
        wire(env, kinds[k], &w);
        ledger_bridge *bridge = tst_bridge(w.source, w.through, NULL);
        for (int way = TST_TO_SERVER; way <= TST_TO_CLIENT; way++) {
            uint64_t n = 1, whole = 0;
            bool hit = true;
            while (hit) {
                ledger_error err = { 0 };
                uint64_t read = 1;
                (void)tst_append(w.source, "s", "{\"n\":1}", NULL, NULL);
                (void)tst_drain(bridge); /* a new connection; its statements are prepared */
                (void)tst_append(w.source, "s", "{\"n\":2}", NULL, "t");
                tst_proxy_arm(w.proxy, (enum tst_proxy_way)way, whole == 0 ? 0 : n, TST_PROXY_CUT);
                for (int errors = 0; read > 0; errors++) {
                    ledger_rc rc = ledger_bridge_poll(bridge, &read, &err);
                    if (rc == LEDGER_OK) {
                        errors--;
                        continue;
                    }
                    if (!(err.flags & LEDGER_ERROR_RETRY) || errors > 3)
                        tst_fail("cut at byte %" PRIu64 " to the %s: %s: %s", n,
                                 way == TST_TO_SERVER ? "server" : "client", ledger_rc_name(rc),
                                 err.message);
                    unknown += rc == LEDGER_ERR_UNKNOWN_OUTCOME;
                    other += rc != LEDGER_ERR_UNKNOWN_OUTCOME;
                    read = 1;
                }
                if (whole == 0) { /* how long it is; what follows is about as long */
                    whole = tst_proxy_bytes(w.proxy, (enum tst_proxy_way)way);
                    continue;
                }
                hit = tst_proxy_hit(w.proxy);
                cuts += hit;
                tst_proxy_arm(w.proxy, TST_BOTH_WAYS, 0, TST_PROXY_CUT);
                assert_int_equal(tst_count(w.sink, "s"), tst_count(w.source, "s"));
                /* Each byte of the end, where the commit is; of what is before, some. */
                n += n + 70 >= whole && tst_scale(100) >= 100
                         ? 1
                         : 1 + tst_random_below(&random, 2 + whole / tst_scale(25));
            }
        }
        tst_check_counters(bridge);
        ledger_bridge_destroy(&bridge);
        tst_assert_equal(w.source, w.sink, 0);
        tst_proxy_destroy(&w.proxy);
    }
    assert_true(unknown > 0 && other > 0);
    print_message("t5: cut at %zu bytes: %zu unknown outcomes, %zu other errors; exactly once\n",
                  cuts, unknown, other);
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

/* One bridge stands still at some byte of its batch, with an entry that is trimmed meanwhile; a
 * second one takes over, if the first does not hold the lock; then the first goes on. */
static void t8_worker_held_in_its_batch(void **state)
{
    static const enum tst_kind kinds[] = { TST_PLAIN_POSTGRES, TST_POSTGRES };
    struct tst_env *env = *state;
    uint64_t random = tst_seed();
    size_t held = 0, overtaken = 0, waited = 0;
    tst_pg_require();
    for (size_t k = 0; k < 4; k++, tst_env_reset(env)) {
        struct wired w;
        ledger_bridge_options o;
        ledger_store_options so;
        wire(env, kinds[k % 2], &w);
        ledger_store_options_defaults(&so);
        so.url = ledger_store_url(w.sink);
        so.log =
            tst_kind_has_log((int)kinds[k % 2]) ? LEDGER_MUTATION_LOG_ON : LEDGER_MUTATION_LOG_OFF;
        so.busy_timeout_ms = 30;
        ledger_store *other_sink = tst_open_with(env, kinds[k % 2], NULL, &so);
        tst_bridge_options(&o);
        o.parallel_streams = k < 2 ? 1 : 3;
        ledger_bridge *other = tst_bridge(w.source, other_sink, &o);
        struct polling p = { .bridge = tst_bridge(w.source, w.through, &o) };
        bool hit = true;
        for (uint64_t n = 1; hit; n += 1 + tst_random_below(&random, 2000 / tst_scale(20))) {
            ledger_error err = { 0 };
            int64_t until = tst_mono_us() + 1000 * TST_PATIENCE_MS;
            (void)tst_append(w.source, "s", "{\"n\":1}", NULL, NULL);
            (void)tst_append(w.source, "other", "{\"n\":1}", NULL, NULL);
            (void)tst_drain(p.bridge); /* connected, prepared */
            (void)tst_append(w.source, "third", "{}", NULL, NULL);
            int64_t id = tst_append(w.source, "s", "{\"n\":2}", NULL, "t");
            (void)tst_append(w.source, "other", "{}", NULL, NULL);
            tst_proxy_arm(w.proxy, TST_TO_SERVER, n, TST_PROXY_STALL);
            assert_int_equal(pthread_create(&p.thread, NULL, poll_once, &p), 0);
            while (!tst_proxy_hit(w.proxy) && pthread_tryjoin_np(p.thread, NULL) != 0)
                if (tst_sleep_us(200), tst_mono_us() > until)
                    tst_fail("byte %" PRIu64 " is never reached, and the poll never ends", n);
            hit = tst_proxy_hit(w.proxy);
            tst_proxy_arm(w.proxy, TST_BOTH_WAYS, 0, TST_PROXY_STALL);
            (void)tst_trim(w.source, "s", id);
            (void)tst_append(w.source, "s", "{\"n\":3}", NULL, NULL);
            if (hit) {
                held++;
                ledger_rc rc = ledger_bridge_poll(other, NULL, &err);
                if (rc == LEDGER_OK)
                    overtaken++;
                else if (rc == LEDGER_ERR_BUSY || rc == LEDGER_ERR_FENCED)
                    waited++;
                else
                    tst_ok(rc, &err);
                tst_proxy_release(w.proxy);
                assert_int_equal(pthread_join(p.thread, NULL), 0);
                if (p.rc != LEDGER_OK && !(p.err.flags & LEDGER_ERROR_RETRY))
                    tst_ok(p.rc, &p.err); /* fenced off, it has read again */
            }
            (void)tst_drain(other);
            (void)tst_drain(p.bridge);
            tst_assert_equal(w.source, w.sink, 0);
        }
        tst_check_counters(other);
        tst_check_counters(p.bridge);
        ledger_bridge_destroy(&other);
        ledger_bridge_destroy(&p.bridge);
        tst_proxy_destroy(&w.proxy);
    }
    print_message("t8: held at %zu bytes: %zu overtaken, %zu waited for\n", held, overtaken,
                  waited);
    assert_true(overtaken > 0);
}

/* A worker of another bridge read before the trim, and adds the entry after the trim was done here:
 * the cursor does not pass the trim while such a worker is at it, and the trim has the last word.
 */
static void t8_worker_adds_behind_a_trim(void **state)
{
    static const enum tst_kind kinds[] = { TST_PLAIN_POSTGRES, TST_POSTGRES };
    static const char waits[] = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN "
                                "(SELECT pid FROM pg_stat_activity WHERE datname = "
                                "current_database())";
    struct tst_env *env = *state;
    tst_pg_require();
    for (size_t k = 0; k < 2; k++, tst_env_reset(env)) {
        ledger_store *source = tst_open(env, TST_MEMORY, "source");
        ledger_store *sink = tst_open(env, kinds[k], "sink");
        PGconn *worker = tst_pg_connect_url(ledger_store_url(sink));
        int64_t until = tst_mono_us() + 1000 * TST_PATIENCE_MS;
        ledger_bridge_options o;
        tst_bridge_options(&o);
        o.parallel_streams = 3;
        struct polling p = { .bridge = tst_bridge(source, sink, &o) };
        (void)tst_append(source, "s", "{\"n\":1}", NULL, NULL);
        (void)tst_drain(p.bridge);

        tst_pg_sql(worker, "BEGIN; SELECT FROM ledger_entries_cursors FOR SHARE");
        int64_t id = tst_append(source, "s", "{\"n\":2}", NULL, NULL);
        (void)tst_append(source, "other", "{}", NULL, NULL);
        (void)tst_trim(source, "s", id);
        (void)tst_append(source, "s", "{\"n\":3}", NULL, NULL);
        assert_int_equal(pthread_create(&p.thread, NULL, poll_once, &p), 0);
        while (tst_pg_sql_int(worker, waits) == 0)
            if (tst_sleep_us(1000), tst_mono_us() > until)
                tst_fail("the bridge does not wait for the worker");
        tst_pg_sql(worker,
                   "INSERT INTO ledger_entries(stream, payload, origin, source_pos) "
                   "SELECT 's', '{\"n\":2}', id, %" PRId64 " FROM ledger_entries_origins; "
                   "UPDATE ledger_entries_origins SET ordered = false; COMMIT",
                   id);
        assert_int_equal(pthread_join(p.thread, NULL), 0);
        tst_ok(p.rc, &p.err);
        (void)tst_drain(p.bridge);
        assert_int_equal(tst_count(sink, "s"), 1);
        tst_assert_equal(source, sink, 0);
        ledger_bridge_destroy(&p.bridge);
        PQfinish(worker);
    }
}

/* --- t9: a busy table of the Go module ----------------------------------------------------------
 */

struct init {
    pthread_t thread;
    const char *url;
    ledger_store *store;
    ledger_rc rc;
    ledger_error err;
};

static void *init_store(void *arg)
{
    struct init *init = arg;
    ledger_store_options o;
    ledger_store_options_defaults(&o);
    o.flags = LEDGER_STORE_CREATE;
    o.log = LEDGER_MUTATION_LOG_ON;
    o.url = init->url;
    init->rc = ledger_store_open(&o, &init->store, &init->err);
    return NULL;
}

/* From the Go module's tables, in use, to a sink that holds all of it. */
static void t9_go_tables_in_use(void **state)
{
    struct tst_env *env = *state;
    tst_pg_require();
    TST_EACH_SINK(env, to)
    {
        struct init init = { 0 };
        int64_t written = 0;
        char url[900];
        snprintf(url, sizeof url, "%s", tst_url(env, TST_POSTGRES, "source"));
        PGconn *conn = tst_pg_connect_url(url), *open_tx = tst_pg_connect_url(url);
        tst_go_pg_create(conn, "ledger_entries", true);
        for (int i = 0; i < 20; i++)
            (void)tst_go_pg_append(conn, "ledger_entries", true, "old", "{\"n\":1}", NULL, NULL);
        tst_pg_sql(open_tx, "BEGIN");
        (void)tst_go_pg_append(open_tx, "ledger_entries", true, "long", "[1]", NULL, NULL);
        init.url = url;
        assert_int_equal(pthread_create(&init.thread, NULL, init_store, &init), 0);
        int64_t begun = tst_mono_us();
        tst_pg_sql(conn, "SET statement_timeout = '30s'"); /* one that waits does so to the end */
        while (written < 10 || tst_mono_us() - begun < 500000) {
            (void)tst_go_pg_append(conn, "ledger_entries", true, "s", "{}", NULL, NULL);
            written++;
            tst_sleep_us(2000);
        }
        assert_int_not_equal(pthread_tryjoin_np(init.thread, NULL), 0); /* it waits, alone */
        tst_pg_sql(open_tx, "COMMIT");
        assert_int_equal(pthread_join(init.thread, NULL), 0);
        tst_ok(init.rc, &init.err);
        ledger_store_close(&init.store);
        (void)tst_go_pg_append(conn, "ledger_entries", true, "s", "{\"last\":1}", NULL, NULL);
        ledger_store *source = tst_open(env, TST_POSTGRES, "source");
        ledger_store *sink = tst_open(env, (enum tst_kind)to, "sink");
        assert_int_equal(tst_bridge_once(source, sink, NULL), 22 + written);
        tst_assert_equal(source, sink, TST_CMP_ANY_ORDER);
        PQfinish(conn);
        PQfinish(open_tx);
    }
}

/* --- t10: a standby -----------------------------------------------------------------------------
 */

static void t10_standby_is_refused(void **state)
{
    struct tst_env *env = *state;
    struct tst_pg *pg = tst_pg_start(NULL);
    ledger_store_options o;
    ledger_bridge *bridge = NULL;
    ledger_bridge_options b;
    ledger_error err = { 0 };
    char url[900];
    ledger_store_options_defaults(&o);
    o.flags = LEDGER_STORE_CREATE;
    o.log = LEDGER_MUTATION_LOG_ON;
    o.url = url;
    snprintf(url, sizeof url, "%s", tst_pg_url(pg, NULL, NULL, NULL));
    ledger_store *primary = tst_open_with(env, TST_POSTGRES, NULL, &o);
    (void)tst_append(primary, "s", "{}", NULL, NULL);
    struct tst_pg *copy = tst_pg_standby(pg);
    ledger_store *memory[2] = { tst_open(env, TST_MEMORY, "sink"),
                                tst_open(env, TST_MEMORY, "source") };
    snprintf(url, sizeof url, "%s", tst_pg_url(copy, NULL, NULL, NULL));
    o.flags = LEDGER_STORE_READ_ONLY;
    ledger_store *standby = tst_open_with(env, TST_POSTGRES, NULL, &o);
    assert_int_equal(tst_count(standby, "s"), 1); /* may be looked at */
    tst_bridge_options(&b);
    bridge = tst_bridge(standby, memory[0], &b);
    tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_READ_ONLY, &err);
    assert_non_null(strstr(err.message, "standby"));
    tst_ok(ledger_bridge_start(bridge, &err), &err); /* and does not try for ever */
    tst_fails(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), LEDGER_ERR_READ_ONLY, &err);
    ledger_bridge_destroy(&bridge);
    o.flags = 0;
    ledger_store *none = NULL;
    tst_fails(ledger_store_open(&o, &none, &err), LEDGER_ERR_READ_ONLY, &err);
    assert_non_null(strstr(err.message, "standby"));
    bridge = tst_bridge(memory[1], standby, &b);
    tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_READ_ONLY, &err);
    ledger_bridge_destroy(&bridge);
    tst_close(env, standby);
    tst_close(env, primary);
    tst_pg_destroy(&copy);
    tst_pg_destroy(&pg);
}

/* The primary itself comes back as a standby, and is promoted later. */
static void t10_primary_becomes_a_standby(void **state)
{
    struct tst_rig *rig = tst_rig_start(*state, &(struct tst_rig_options){ 0 });
    struct tst_pg *pg = rig->pg[TST_SOURCE_SIDE];
    char path[300];
    tst_rig_stop_writers(rig);
    (void)tst_append(rig->store[TST_SOURCE_SIDE], "late", "{}", NULL, NULL);
    tst_pg_stop(pg, TST_PG_FAST);
    snprintf(path, sizeof path, "%s/standby.signal", pg->data);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fclose(file);
    tst_pg_run(pg);
    assert_int_equal(tst_pg_int(pg, NULL, "SELECT pg_is_in_recovery()::int"), 1);
    uint64_t before = tst_rig_error_count(rig);
    tst_rig_await_error(rig, before + 2, "a standby");
    assert_int_equal(tst_pg_int(pg, NULL, "SELECT pg_is_in_recovery()::int"), 1);
    tst_pg_promote(pg);
    tst_rig_end(&rig, "t10: the source was a standby for a while");
}

/* --- t11: a transaction that stays open over a large log ----------------------------------------
 */

static const char fill_procedure[] =
    "CREATE PROCEDURE fill(count int, each int) LANGUAGE plpgsql AS $$ BEGIN"
    " FOR k IN 1 .. count / each LOOP"
    "  INSERT INTO ledger_entries_mutations (stream, payload) SELECT '_', convert_to("
    "   '{\"type\":\"trim\",\"stream\":\"none\",\"before_id\":\"' || i || '\"}', 'UTF8')"
    "   FROM generate_series(1, each) AS i;"
    "  COMMIT;"
    " END LOOP; END $$";

/* Of the statement that took longest at the server, the shortest time that it took. */
static double slowest_ms(PGconn *conn)
{
    char *text = tst_pg_sql_text(
        conn, "SELECT max(min_exec_time + min_plan_time) FROM pg_stat_statements s"
              " JOIN pg_database d ON d.oid = s.dbid WHERE datname = 'postgres'"
              " AND query LIKE '%%mutations%%' AND query NOT LIKE '%%fill%%' AND calls >= 5");
    double ms = strtod(text, NULL);
    free(text);
    tst_pg_sql(conn, "SELECT pg_stat_statements_reset()");
    return ms;
}

static void t11_long_transaction_costs_nothing(void **state)
{
    struct tst_env *env = *state;
    const struct tst_pg_options options = {
        .settings = "shared_preload_libraries = 'pg_stat_statements'\n"
                    "pg_stat_statements.track_planning = on\nshared_buffers = 512MB\n"
                    "max_wal_size = 4GB\nsynchronous_commit = off",
    };
    int64_t rows = tst_scale(100) >= 100 ? 500000 : 200000; /* to read them takes 30 ms and more */
    struct tst_pg *pg = tst_pg_start(&options);
    PGconn *open_tx, *conn = tst_pg_connect(pg, NULL);
    ledger_store_options o;
    ledger_bridge_options b;
    ledger_error err = { 0 };
    char url[900], position[32];
    ledger_store_options_defaults(&o);
    o.flags = LEDGER_STORE_CREATE;
    o.log = LEDGER_MUTATION_LOG_ON;
    o.url = url;
    snprintf(url, sizeof url, "%s", tst_pg_url(pg, NULL, NULL, NULL));
    ledger_store *source = tst_open_with(env, TST_POSTGRES, NULL, &o);
    ledger_store *sink = tst_open(env, TST_MEMORY, "sink");
    tst_pg_sql(conn, "%s", fill_procedure);
    tst_pg_sql(conn, "CREATE EXTENSION pg_stat_statements");
    open_tx = tst_pg_connect(pg, NULL);
    tst_pg_sql(open_tx, "BEGIN; INSERT INTO ledger_entries_mutations (stream, payload) VALUES ('_',"
                        " '{\"type\":\"trim\",\"stream\":\"none\",\"before_id\":\"1\"}')");
    tst_pg_sql(conn, "CALL fill(%" PRId64 ", 10000)", rows);
    tst_pg_sql(conn, "ANALYZE ledger_entries_mutations");
    snprintf(position, sizeof position, "%" PRId64,
             tst_pg_sql_int(conn, "SELECT max(id) FROM ledger_entries_mutations"));
    tst_bridge_options(&b);
    ledger_bridge *bridge = tst_bridge(source, sink, &b);
    tst_ok(ledger_bridge_cursor_set(source, sink, "default", position, true, &err), &err);
    (void)tst_drain(bridge); /* wherever it begins */

    tst_pg_sql(conn, "SELECT pg_stat_statements_reset()");
    for (int i = 0; i < 30; i++)
        assert_int_equal(tst_drain(bridge), 0);
    double idle_ms = slowest_ms(conn);
    tst_pg_sql(conn, "CALL fill(20000, 1000)");
    for (int i = 0; i < 30; i++) {
        uint64_t read = 0;
        tst_ok(ledger_bridge_poll(bridge, &read, &err), &err);
        assert_int_equal(read, 500);
    }
    double page_ms = slowest_ms(conn);
    assert_int_equal(tst_drain(bridge), 5000);
    tst_pg_sql(open_tx, "COMMIT");
    assert_int_equal(tst_drain(bridge), 1);
    print_message("t11: %" PRId64 " rows and a transaction that stays open: an empty poll %.2f ms,"
                  " a page of 500 out of 20,000 %.2f ms at the server\n",
                  rows, idle_ms, page_ms);
    if (idle_ms <= 0 || idle_ms > 1.0 || page_ms <= 0 || page_ms > 5.0)
        tst_fail("an empty poll %.2f ms, a page %.2f ms", idle_ms, page_ms);
    ledger_bridge_destroy(&bridge);
    tst_close(env, source);
    PQfinish(open_tx);
    PQfinish(conn);
    tst_pg_destroy(&pg);
}

/* --- t12: two origins that wait for each other ---------------------------------------------------
 */

static void t12_crossed_dedup_keys(void **state)
{
    static const enum tst_kind kinds[] = { TST_PLAIN_POSTGRES, TST_POSTGRES };
    enum { KEYS = 1500 };
    const struct tst_pg_options options = { .settings = "deadlock_timeout = 10ms" };
    struct tst_env *env = *state;
    struct tst_pg *pg = tst_pg_start(&options);
    size_t rounds = tst_scale(20);
    uint64_t errors = 0;
    for (size_t round = 0; round < rounds; round++, tst_env_reset(env)) {
        ledger_store *sources[2] = { tst_open(env, TST_MEMORY, "a"),
                                     tst_open(env, TST_MEMORY, "b") };
        ledger_bridge *bridges[2] = { NULL, NULL };
        ledger_append_input inputs[2][KEYS] = { { { { 0 } } } };
        char keys[KEYS][16];
        ledger_store_options o;
        ledger_error err = { 0 };
        uint64_t deduplicated = 0;
        char schema[32];
        snprintf(schema, sizeof schema, "round%zu", round);
        ledger_store_options_defaults(&o);
        o.flags = LEDGER_STORE_CREATE;
        o.log = tst_kind_has_log((int)kinds[round % 2]) ? LEDGER_MUTATION_LOG_ON
                                                        : LEDGER_MUTATION_LOG_OFF;
        o.url = tst_pg_schema_url(pg, schema);
        ledger_store *sink = tst_open_with(env, kinds[round % 2], NULL, &o);
        for (int i = 0; i < KEYS; i++) {
            snprintf(keys[i], sizeof keys[i], "K%d", i);
            for (int k = 0; k < 2; k++) {
                ledger_append_input *input = &inputs[k][k == 0 ? i : KEYS - 1 - i];
                input->payload = (ledger_bytes){ k == 0 ? "\"a\"" : "\"b\"", 3 };
                input->dedup_key = keys[i];
            }
        }
        for (int k = 0; k < 2; k++)
            for (int i = 0; i < KEYS; i += 100)
                tst_ok(ledger_store_append(sources[k], "s", &inputs[k][i], 100, NULL, &err), &err);
        for (int i = 0; i < 2; i++) {
            ledger_bridge_options b;
            tst_bridge_options(&b);
            b.name = i == 0 ? "a" : "b";
            bridges[i] = tst_bridge(sources[i], sink, &b);
        }
        for (int i = 0; i < 2; i++)
            tst_ok(ledger_bridge_start(bridges[i], &err), &err);
        for (int i = 0; i < 2; i++)
            tst_ok(ledger_bridge_wait(bridges[i], true, TST_PATIENCE_MS, &err), &err);
        for (int i = 0; i < 2; i++) {
            ledger_bridge_stats stats;
            ledger_bridge_stop(bridges[i]);
            ledger_bridge_get_stats(bridges[i], &stats);
            tst_check_counters(bridges[i]);
            deduplicated += stats.dedup_count;
            errors += stats.error_count;
            assert_int_equal(stats.park_count, 0);
            ledger_bridge_destroy(&bridges[i]);
        }
        assert_true(deduplicated >= KEYS / 100);
        assert_int_equal(tst_count(sink, "s"), KEYS);
    }
    print_message("t12: %zu rounds: %" PRId64 " deadlocks, %" PRIu64 " failed polls; all arrived\n",
                  rounds, tst_pg_int(pg, NULL, "SELECT sum(deadlocks) FROM pg_stat_database"),
                  errors);
    tst_pg_destroy(&pg);
}

/* --- a source that moves, or goes back
 * ------------------------------------------------------------ */

static void run_shell(const char *fmt, ...) LEDGER_PRINTF(1, 2);
static void run_shell(const char *fmt, ...)
{
    char text[2000];
    va_list args;
    int status = -1;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", text, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status != 0)
        tst_fail("status %d: %s", status, text);
}

/* All rows in another cluster: told, and acknowledged, after which it goes on exactly there. */
static void dump_restored_elsewhere(void **state)
{
    struct tst_env *env = *state;
    const struct tst_pg_options other = { .own_cluster = true };
    struct tst_pg *pg[2] = { tst_pg_start(NULL), tst_pg_start(&other) };
    char url[2][900];
    ledger_store_options o;
    ledger_error err = { 0 };
    struct tst_workload w;
    uint64_t read = 0;
    bool changed = false;
    ledger_store_options_defaults(&o);
    o.flags = LEDGER_STORE_CREATE;
    o.log = LEDGER_MUTATION_LOG_ON;
    for (int i = 0; i < 2; i++)
        snprintf(url[i], sizeof url[i], "%s", tst_pg_url(pg[i], NULL, NULL, NULL));
    o.url = url[0];
    ledger_store *source = tst_open_with(env, TST_POSTGRES, NULL, &o);
    ledger_store *sink = tst_open(env, TST_POSTGRES, "sink");
    tst_workload_init(&w, tst_seed());
    tst_workload_run(&w, source, tst_scale(200));
    (void)tst_bridge_once(source, sink, NULL);
    tst_workload_run(&w, source, 30); /* not carried yet */
    tst_close(env, source);
    run_shell("pg_dump '%s' | psql -XAtq -v ON_ERROR_STOP=1 '%s' >/dev/null", url[0], url[1]);
    tst_pg_destroy(&pg[0]);
    o.url = url[1];
    source = tst_open_with(env, TST_POSTGRES, NULL, &o);
    ledger_bridge *bridge = tst_bridge(source, sink, NULL);
    tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_CURSOR_MISMATCH, &err);
    assert_non_null(strstr(err.message, "acknowledge"));
    ledger_bridge_destroy(&bridge);
    tst_ok(ledger_bridge_cursor_acknowledge(source, sink, "default", &changed, &err), &err);
    assert_true(changed);
    tst_workload_run(&w, source, tst_scale(100));
    (void)tst_bridge_once(source, sink, NULL);
    tst_assert_equal(source, sink, 0);
    assert_int_equal(tst_bridge_once(source, sink, NULL), 0);
    tst_ok(ledger_bridge_cursor_acknowledge(source, sink, "default", &changed, &err), &err);
    assert_false(changed);
    tst_close(env, source);
    tst_pg_destroy(&pg[1]);
}

/* An old copy of the whole server is put back: the bridge stops before it applies anything. */
static void server_put_back(void **state)
{
    struct tst_env *env = *state;
    struct tst_pg *pg = tst_pg_start(NULL);
    char url[900];
    ledger_store_options o;
    ledger_error err = { 0 };
    struct tst_history before;
    uint64_t read = 0;
    ledger_store_options_defaults(&o);
    o.flags = LEDGER_STORE_CREATE;
    o.log = LEDGER_MUTATION_LOG_ON;
    o.url = url;
    snprintf(url, sizeof url, "%s", tst_pg_url(pg, NULL, NULL, NULL));
    ledger_store *source = tst_open_with(env, TST_POSTGRES, NULL, &o);
    ledger_store *sink = tst_open(env, TST_POSTGRES, "sink");
    for (int i = 0; i < 10; i++)
        (void)tst_append(source, "s", "{\"kept\":1}", NULL, NULL);
    tst_pg_stop(pg, TST_PG_FAST);
    run_shell("cp -a '%s' '%s.old'", pg->data, pg->data);
    tst_pg_run(pg);
    for (int i = 0; i < 10; i++)
        (void)tst_append(source, "s", "{\"lost\":1}", NULL, NULL);
    assert_int_equal(tst_bridge_once(source, sink, NULL), 20);
    tst_history_load(sink, &before);
    ledger_bridge *bridge = tst_bridge(source, sink, NULL);
    (void)tst_drain(bridge);
    static const int rewritten[] = { 0, 10, 25 };
    for (size_t i = 0; i < sizeof rewritten / sizeof rewritten[0]; i++) {
        tst_pg_stop(pg, TST_PG_FAST);
        run_shell("rm -rf '%s' && cp -a '%s.old' '%s'", pg->data, pg->data, pg->data);
        tst_pg_run(pg);
        for (int k = 0; k < rewritten[i]; k++)
            (void)tst_append(source, "s", "{\"other\":1}", NULL, NULL);
        ledger_rc rc = ledger_bridge_poll(bridge, &read, &err);
        if (rc == LEDGER_ERR_CONNECT) /* the first to notice that the old server is gone */
            rc = ledger_bridge_poll(bridge, &read, &err);
        tst_fails(rc, LEDGER_ERR_SOURCE_REWOUND, &err);
        tst_assert_unchanged(&before, sink);
    }
    ledger_bridge_destroy(&bridge);
    tst_history_free(&before);
    tst_close(env, source);
    tst_pg_destroy(&pg);
}

/* A fail-over to a standby that had not got the last commits: noticed, whatever is written next. */
static void failover_that_lost_commits(void **state)
{
    struct tst_env *env = *state;
    for (int more = 0; more < 2; more++, tst_env_reset(env)) {
        struct tst_pg *pg = tst_pg_start(NULL);
        struct tst_pg *standby = tst_pg_standby(pg);
        char url[900];
        ledger_store_options o;
        ledger_error err = { 0 };
        struct tst_history before;
        uint64_t read = 0;
        ledger_rc rc = LEDGER_ERR_CONNECT;
        snprintf(url, sizeof url,
                 "postgresql:///postgres?host=%s,%s&port=%d,%d&user=postgres"
                 "&target_session_attrs=read-write",
                 pg->dir, standby->dir, pg->port, standby->port);
        ledger_store_options_defaults(&o);
        o.flags = LEDGER_STORE_CREATE;
        o.log = LEDGER_MUTATION_LOG_ON;
        o.url = url;
        ledger_store *source = tst_open_with(env, TST_POSTGRES, NULL, &o);
        ledger_store *sink = tst_open(env, TST_POSTGRES, "sink");
        for (int i = 0; i < 10; i++)
            (void)tst_append(source, "s", "{\"kept\":1}", NULL, NULL);
        TST_AWAIT(tst_pg_int(standby, NULL,
                             "SELECT (to_regclass('ledger_entries') IS NOT NULL)::int") == 1);
        TST_AWAIT(tst_pg_int(standby, NULL, "SELECT count(*) FROM ledger_entries") >= 10);
        tst_pg_stop(standby, TST_PG_FAST); /* it gets no more */
        for (int i = 0; i < 10; i++)
            (void)tst_append(source, "s", "{\"lost\":1}", NULL, NULL);
        ledger_bridge *bridge = tst_bridge(source, sink, NULL);
        assert_int_equal(tst_drain(bridge), 20);
        tst_history_load(sink, &before);
        tst_pg_kill(pg);
        tst_pg_run(standby);
        tst_pg_promote(standby);
        for (int i = 0; i < (more ? 30 : 0); i++)
            while (ledger_store_append(source, "s",
                                       &(ledger_append_input){ .payload = { "{}", 2 } }, 1, NULL,
                                       &err) != LEDGER_OK)
                assert_true(err.flags & LEDGER_ERROR_RETRY);
        for (int i = 0; i < 100 && rc == LEDGER_ERR_CONNECT; i++)
            rc = ledger_bridge_poll(bridge, &read, &err);
        tst_fails(rc, LEDGER_ERR_SOURCE_REWOUND, &err);
        tst_assert_unchanged(&before, sink);
        ledger_bridge_destroy(&bridge);
        tst_history_free(&before);
        tst_close(env, source);
        tst_pg_destroy(&standby);
        tst_pg_destroy(&pg);
    }
}

/* --- keys that no index takes ------------------------------------------------------------------
 */

/* Nothing that could be compressed. */
static const char *random_key(char *key, size_t size)
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
    uint64_t seed = tst_seed();
    for (size_t i = 0; i < size; i++)
        key[i] = digits[tst_random(&seed) % 64];
    key[size] = '\0';
    return key;
}

static void keys_longer_than_an_index_takes(void **state)
{
    struct tst_env *env = *state;
    char stream[LEDGER_MAX_STREAM_BYTES + 1], key[LEDGER_MAX_KEY_BYTES + 1];
    ledger_error err;
    tst_pg_require();
    random_key(stream, LEDGER_MAX_STREAM_BYTES);
    for (int go = 0; go < 2; go++) {
        ledger_append_input inputs[2] = { { .payload = { "{}", 2 } }, { .payload = { "{}", 2 } } };
        if (go) {
            PGconn *conn = tst_pg_connect_url(tst_url(env, TST_POSTGRES, "go"));
            tst_go_pg_create(conn, LEDGER_DEFAULT_TABLE, true);
            PQfinish(conn);
        }
        ledger_store *store = tst_open(env, TST_POSTGRES, go ? "go" : "ours");
        inputs[1].dedup_key = random_key(key, 2670 - LEDGER_MAX_STREAM_BYTES);
        tst_ok(ledger_store_append(store, stream, inputs, 2, NULL, &err), &err);
        inputs[1].dedup_key = random_key(key, LEDGER_MAX_KEY_BYTES);
        tst_fails(ledger_store_append(store, "s", inputs, 2, NULL, &err), LEDGER_ERR_TOO_LARGE,
                  &err);
        assert_non_null(strstr(err.message, "entry 2 of 2"));
        assert_non_null(strstr(err.message, "2,670 bytes"));
        tst_fails(ledger_store_append(store, "s", inputs + 1, 1, NULL, &err), LEDGER_ERR_TOO_LARGE,
                  &err);
        assert_non_null(strstr(err.message, "2,670 bytes"));
        assert_int_equal(tst_count(store, "s"), 0);
        /* Only the Go module has an index of it. */
        inputs[1] = (ledger_append_input){ .payload = { "{}", 2 }, .order_key = key };
        ledger_rc rc = ledger_store_append(store, "s", inputs + 1, 1, NULL, &err);
        assert_int_equal(rc, go ? LEDGER_ERR_TOO_LARGE : LEDGER_OK);
        if (go)
            assert_non_null(strstr(err.message, "2,670 bytes"));
    }
    /* Where another store takes it: parked here, with the reason; the rest goes on. */
    for (int to = TST_POSTGRES; to < TST_SINK_COUNT; to++) {
        if (!tst_is_postgres(to))
            continue;
        char name[2][32];
        snprintf(name[0], sizeof name[0], "long%d", to);
        snprintf(name[1], sizeof name[1], "sink%d", to);
        ledger_store *source = tst_open(env, TST_SQLITE, name[0]);
        ledger_store *sink = tst_open(env, (enum tst_kind)to, name[1]);
        (void)tst_append(source, "s", "1", NULL, NULL);
        (void)tst_append(source, "s", "2", random_key(key, LEDGER_MAX_KEY_BYTES), NULL);
        (void)tst_append(source, stream, "3", random_key(key, 1640), NULL);
        (void)tst_append(source, "s", "4", NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(tst_count(sink, "s"), 2);
        assert_int_equal(tst_count(sink, stream), 1);
        assert_int_equal(tst_query_int_on(sink, "SELECT count(*) FROM ledger_entries_parked WHERE "
                                                "reason LIKE '%%2,670 bytes%%'"),
                         1);
        assert_int_equal(tst_query_int_on(sink, "SELECT count(*) FROM ledger_entries_parked"), 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(w6_replay_from_the_beginning),
        T(t3_append_commits_around_a_trim),
        T(t5_cut_at_every_byte),
        T(t8_worker_held_in_its_batch),
        T(t8_worker_adds_behind_a_trim),
        T(t9_go_tables_in_use),
        T(t10_standby_is_refused),
        T(t10_primary_becomes_a_standby),
        T(t11_long_transaction_costs_nothing),
        T(t12_crossed_dedup_keys),
        T(dump_restored_elsewhere),
        T(server_put_back),
        T(failover_that_lost_commits),
        T(keys_longer_than_an_index_takes),
    };
    return cmocka_run_group_tests_name("traps of PostgreSQL", tests, NULL, NULL);
}
