/* The tests' own tools: an oracle that sees nothing, or a fault that never comes, would make every
 * other test worthless. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "child.h"
#include "fault_vfs.h"
#include "fixtures.h"
#include "ldg_config.h"
#include "oracle.h"
#include "workload.h"
#if LDG_WITH_POSTGRES
#include "pg_server.h"
#include "proxy.h"
#endif

/* Each of these has to be seen. */
static void oracle_sees_every_difference(void **state)
{
    struct tst_env *env = *state;
    static const char *const tampers[] = {
        "UPDATE ledger_entries SET payload = CAST('{\"n\": 5}' AS BLOB) WHERE source_pos = 5",
        "UPDATE ledger_entries SET order_key = 'x' WHERE source_pos = 5",
        "UPDATE ledger_entries SET dedup_key = 'x' WHERE source_pos = 5",
        "UPDATE ledger_entries SET schema_version = 9 WHERE source_pos = 5",
        "UPDATE ledger_entries SET metadata = '{\"a\":\"b\"}' WHERE source_pos = 5",
        "UPDATE ledger_entries SET tags = '[\"b\",\"a\"]' WHERE source_pos = 5",
        "UPDATE ledger_entries SET tags = '[\"a\",\"b\",\"b\"]' WHERE source_pos = 5",
        "UPDATE ledger_entries SET annotations = '{\"a\":\"b\"}' WHERE source_pos = 5",
        "UPDATE ledger_entries SET annotations = '{}' WHERE source_pos = 6",
        "UPDATE ledger_entries SET created_at = '2001-01-01T00:00:00.000' WHERE source_pos = 5",
        "UPDATE ledger_entries SET updated_at = '2001-01-01T00:00:00.000' WHERE source_pos = 5",
        "UPDATE ledger_entries SET updated_at = NULL WHERE source_pos = 6",
        "UPDATE ledger_entries SET stream = 'elsewhere' WHERE source_pos = 5",
        "UPDATE ledger_entries SET source_pos = 5000 WHERE source_pos = 5",
        "UPDATE ledger_entries SET origin = 0, source_pos = NULL WHERE source_pos = 5",
        "DELETE FROM ledger_entries WHERE source_pos = 1",
        "DELETE FROM ledger_entries WHERE source_pos = 10",
        "DELETE FROM ledger_entries",
        "UPDATE ledger_entries SET id = 1000 WHERE source_pos = 5", /* order */
        "INSERT INTO ledger_entries (stream, payload) VALUES ('s', CAST('{}' AS BLOB))",
    };
    for (size_t i = 0; i < sizeof tampers / sizeof tampers[0]; i++, tst_env_reset(env)) {
        ledger_store *source = tst_open(env, TST_MEMORY, "source");
        ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
        struct tst_history a, b;
        char text[1024] = "";
        for (int n = 1; n <= 10; n++) {
            const char *tags[] = { "a", "b" };
            char payload[32];
            ledger_error err = { 0 };
            ledger_append_input input = { .payload.data = payload, .tags = { tags, 2 } };
            snprintf(payload, sizeof payload, "{\"n\":%d}", n);
            input.payload.size = strlen(payload);
            tst_ok(ledger_store_append(source, "s", &input, 1, NULL, &err), &err);
        }
        tst_annotate(source, "s", 6, "k", "v");
        (void)tst_bridge_once(source, sink, NULL);
        tst_history_load(source, &a);
        tst_history_load(sink, &b);
        assert_int_equal(a.count, 10);
        assert_true(tst_history_equal(&a, &b, 0, text, sizeof text));
        assert_true(tst_history_equal(&a, &b, TST_CMP_OWN, text, sizeof text));
        tst_history_free(&b);
        tst_exec_on(sink, "%s", tampers[i]);
        tst_history_load(sink, &b);
        if (tst_history_equal(&a, &b, 0, text, sizeof text))
            tst_fail("the oracle does not see: %s", tampers[i]);
        assert_string_not_equal(text, "");
        tst_history_free(&a);
        tst_history_free(&b);
    }
}

static void log_oracle_agrees_with_a_random_source(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    struct tst_workload w;
    sqlite3 *db;
    tst_workload_init(&w, tst_seed());
    for (int i = 0; i < 5; i++) {
        tst_workload_run(&w, source, 200);
        tst_assert_log_agrees(source);
    }
    db = tst_sqlite(source);
    assert_true(tst_query_int(db, "SELECT count(*) FROM ledger_entries") > 50);
    for (int type = 0; type < 4; type++) /* the workload makes every kind of event */
        assert_true(tst_query_int(db,
                                  "SELECT count(*) FROM ledger_entries_mutations WHERE"
                                  " CAST(payload AS TEXT) LIKE '{\"type\":\"%s\"%%'",
                                  ledger_mutation_type_name((ledger_mutation_type)type)) >= 2);
    sqlite3_close(db);
}

static void workload_repeats_itself(void **state)
{
    struct tst_env *env = *state;
    uint64_t seed = tst_seed();
    struct tst_history h[2];
    for (int i = 0; i < 2; i++) {
        struct tst_workload w;
        ledger_store *store = tst_open(env, TST_SQLITE, i == 0 ? "one" : "two");
        tst_workload_init(&w, seed);
        tst_workload_run(&w, store, 300);
        tst_history_load(store, &h[i]);
    }
    assert_int_equal(h[0].count, h[1].count);
    for (size_t i = 0; i < h[0].count; i++) {
        assert_int_equal(h[0].entries[i].id, h[1].entries[i].id);
        assert_string_equal(h[0].entries[i].stream, h[1].entries[i].stream);
        assert_string_equal(h[0].entries[i].payload, h[1].entries[i].payload);
        assert_string_equal(h[0].entries[i].tags, h[1].entries[i].tags);
        assert_string_equal(h[0].entries[i].annotations, h[1].entries[i].annotations);
    }
    tst_history_free(&h[0]);
    tst_history_free(&h[1]);
}

static void count_hit(void *ctx)
{
    (*(int *)ctx)++;
}

static void faults_come_when_they_are_due(void **state)
{
    struct tst_env *env = *state;
    tst_fault_vfs_install();
    ledger_store *store = tst_open(env, TST_SQLITE, "store");
    ledger_error err = { 0 };
    ledger_append_input input = { .payload = { "{}", 2 } };
    int hits = 0;
    tst_fault_arm("/store.db", TST_FAULT_WRITE, 0, SQLITE_FULL, false);
    tst_append(store, "s", "{}", NULL, NULL);
    long writes = tst_fault_count();
    assert_true(writes >= 2);
    assert_int_equal(tst_fault_hits(), 0);
    tst_fault_arm("/another.db", TST_FAULT_WRITE, 1, SQLITE_FULL, true);
    tst_append(store, "s", "{}", NULL, NULL);
    assert_int_equal(tst_fault_count(), 0);
    tst_fault_arm("/store.db", TST_FAULT_WRITE, 2, SQLITE_FULL, false);
    tst_fails(ledger_store_append(store, "s", &input, 1, NULL, &err), LEDGER_ERR_FULL, &err);
    assert_int_equal(tst_fault_hits(), 1);
    tst_append(store, "s", "{}", NULL, NULL);
    tst_fault_arm("/store.db", TST_FAULT_WRITE, 1, SQLITE_FULL, true);
    for (int i = 0; i < 3; i++)
        tst_fails(ledger_store_append(store, "s", &input, 1, NULL, &err), LEDGER_ERR_FULL, &err);
    assert_true(tst_fault_hits() >= 3);
    tst_fault_arm("/store.db", TST_FAULT_ALL, 3, SQLITE_FULL, false);
    tst_fault_on_hit(count_hit, &hits);
    tst_append(store, "s", "{}", NULL, NULL);
    assert_int_equal(hits, 1);
    tst_fault_disarm();
    assert_int_equal(tst_count(store, NULL), 4);
    tst_env_reset(env);
    tst_fault_vfs_remove();
}

static int bound_to(int port, int option)
{
    const int one = 1;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    if (option != 0)
        assert_int_equal(setsockopt(fd, SOL_SOCKET, option, &one, sizeof one), 0);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 1) == 0)
        return fd;
    close(fd);
    return -1;
}

/* A server starts a while after its port was chosen, and comes back to it. */
static void a_free_port_stays_free(void **state)
{
    const int port = tst_free_port();
    static const int options[] = { SO_REUSEADDR, SO_REUSEPORT };
    assert_int_equal(bound_to(port, 0), -1);
    for (size_t i = 0; i < 2; i++) {
        int fd = bound_to(port, options[i]);
        assert_true(fd >= 0);
        close(fd);
        assert_int_equal(bound_to(port, 0), -1);
    }
}

#if LDG_WITH_POSTGRES
static void a_server_is_killed_and_runs_again(void **state)
{
    const struct tst_pg_options options = { .tcp = true, .settings = "wal_level = replica" };
    struct tst_pg *pg = tst_pg_start(&options);
    struct tst_pg *standby;
    PGconn *conn = tst_pg_connect_url(tst_pg_url_tcp(pg, NULL, NULL, "sslmode=disable"));
    tst_pg_sql(conn, "CREATE TABLE t (n int); INSERT INTO t VALUES (%d)", 7);
    standby = tst_pg_standby(pg);
    assert_int_equal(tst_pg_int(standby, NULL, "SELECT n FROM t"), 7);
    assert_int_equal(tst_pg_int(standby, NULL, "SELECT pg_is_in_recovery()::int"), 1);
    tst_pg_kill(pg);
    assert_int_equal(PQstatus(conn), CONNECTION_OK); /* it does not know yet */
    PQclear(PQexec(conn, "SELECT 1"));
    assert_int_equal(PQstatus(conn), CONNECTION_BAD);
    PQfinish(conn);
    tst_pg_run(pg);
    assert_int_equal(tst_pg_int(pg, NULL, "SELECT n FROM t"), 7);
    tst_pg_stop(pg, TST_PG_FAST);
    tst_pg_promote(standby);
    tst_pg_exec(standby, NULL, "UPDATE t SET n = 8");
    tst_pg_configure(pg, "statement_timeout = '5min'");
    tst_pg_run(pg);
    assert_int_equal(tst_pg_int(pg, NULL, "SELECT n FROM t"), 7);
    assert_int_equal(tst_pg_int(standby, NULL, "SELECT n FROM t"), 8);
    conn = tst_pg_connect_url(tst_pg_url(pg, NULL, NULL, NULL));
    char *text = tst_pg_sql_text(conn, "SHOW statement_timeout");
    assert_string_equal(text, "5min");
    free(text);
    PQfinish(conn);
    tst_pg_destroy(&standby);
    tst_pg_destroy(&pg);
    assert_null(pg);
}

static void the_network_fails_at_the_chosen_byte(void **state)
{
    struct tst_pg *pg = tst_pg_shared();
    char socket_path[300], url[300];
    PGresult *result;
    snprintf(socket_path, sizeof socket_path, "%s/.s.PGSQL.%d", pg->dir, pg->port);
    struct tst_proxy *proxy = tst_proxy_start(socket_path, 0);
    snprintf(url, sizeof url,
             "postgresql:///postgres?host=127.0.0.1&port=%d&user=postgres&sslmode=disable",
             tst_proxy_port(proxy));
    PGconn *conn = tst_pg_connect_url(url);
    tst_pg_sql(conn, "CREATE TABLE t (n int)");
    assert_int_equal(tst_proxy_connections(proxy), 1);
    /* Cut in the answer: it was done. Cut in the question: it was not. */
    for (int way = TST_TO_SERVER; way <= TST_TO_CLIENT; way++) {
        tst_proxy_arm(proxy, (enum tst_proxy_way)way, 10, TST_PROXY_CUT);
        result = PQexec(conn, "INSERT INTO t VALUES (1)");
        assert_int_equal(PQresultStatus(result), PGRES_FATAL_ERROR);
        PQclear(result);
        assert_int_equal(PQstatus(conn), CONNECTION_BAD);
        assert_true(tst_proxy_hit(proxy));
        assert_int_equal(tst_proxy_bytes(proxy, (enum tst_proxy_way)way), 9);
        PQfinish(conn);
        conn = tst_pg_connect_url(url);
        assert_int_equal(tst_pg_sql_int(conn, "SELECT count(*) FROM t"), way == TST_TO_CLIENT);
    }
    tst_proxy_delay(proxy, 50000);
    int64_t begun = tst_mono_us();
    tst_pg_sql(conn, "SELECT 1");
    assert_true(tst_mono_us() - begun >= 100000); /* there and back */
    tst_proxy_delay(proxy, 0);
    tst_proxy_stall(proxy, TST_TO_CLIENT);
    assert_int_equal(PQsendQuery(conn, "SELECT 1"), 1);
    tst_sleep_us(50000);
    assert_int_equal(PQconsumeInput(conn), 1);
    assert_int_equal(PQisBusy(conn), 1);
    tst_proxy_stall(proxy, 0);
    result = PQgetResult(conn);
    assert_int_equal(PQresultStatus(result), PGRES_TUPLES_OK);
    PQclear(result);
    assert_null(PQgetResult(conn));
    tst_proxy_refuse(proxy, true);
    assert_int_equal(PQping(url), PQPING_NO_RESPONSE);
    tst_pg_sql(conn, "SELECT 1"); /* the old one lives */
    tst_proxy_cut(proxy);
    result = PQexec(conn, "SELECT 1");
    assert_int_equal(PQstatus(conn), CONNECTION_BAD);
    PQclear(result);
    PQfinish(conn);
    assert_int_equal(tst_proxy_connections(proxy), 0);
    tst_proxy_destroy(&proxy);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(oracle_sees_every_difference),
        T(log_oracle_agrees_with_a_random_source),
        T(workload_repeats_itself),
        T(faults_come_when_they_are_due),
        T(a_free_port_stays_free),
#if LDG_WITH_POSTGRES
        T(a_server_is_killed_and_runs_again),
        T(the_network_fails_at_the_chosen_byte),
#endif
    };
    return cmocka_run_group_tests_name("support", tests, NULL, NULL);
}
