/* A store on PostgreSQL over its connection's life: lost and found again, transactions and
 * snapshots that end with it, the caller's own connection, names. */
#include "alloc_fail.h"
#include "fixtures.h"
#include "pg_server.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ledger/ledger.h"
#include "store/handle.h"
#include "store/intern.h"

#include "backend/postgres/postgres.h"

static ledger_error err;
static ledger_store *store;
static PGconn *other;
static char url[400];

static ledger_rc open_url(const char *name, uint32_t flags, ledger_store **ret_store)
{
    ledger_store_options options;
    ledger_store_options_defaults(&options);
    options.url = name;
    options.flags = flags;
    options.busy_timeout_ms = 300;
    memset(&err, 0, sizeof(err));
    return ledger_store_open(&options, ret_store, &err);
}

static void must(ledger_rc rc)
{
    if (rc != LEDGER_OK)
        fail_msg("%s: %s", ledger_rc_name(rc), err.message);
}

static int setup(void **state)
{
    struct tst_pg *server = tst_pg_shared();
    other = tst_pg_connect(server, NULL);
    tst_pg_sql(other, "DROP SCHEMA IF EXISTS life CASCADE");
    snprintf(url, sizeof(url), "%s", tst_pg_schema_url(server, "life"));
    tst_pg_sql(other, "SET search_path = life");
    must(open_url(url, LEDGER_STORE_CREATE, &store));
    return 0;
}

static int teardown(void **state)
{
    ledger_store_close(&store);
    PQfinish(other);
    return 0;
}

static ledger_rc append(ledger_store *to, const char *payload)
{
    ledger_append_input input = { .payload = { payload, strlen(payload) } };
    memset(&err, 0, sizeof(err));
    return ledger_store_append(to, "s", &input, 1, NULL, &err);
}

static struct ldg_pg *inside(ledger_store *of)
{
    return of->ctx;
}

static void kill_it(void)
{
    int64_t pid;
    while ((pid = tst_pg_sql_int(other, "SELECT max(pid) FROM pg_stat_activity WHERE "
                                        "application_name LIKE 'ledger%%' AND pid != "
                                        "pg_backend_pid()")) > 0)
        tst_pg_terminate(other, (int)pid);
}

static uint64_t count(ledger_store *of)
{
    uint64_t n = 0;
    must(ledger_store_count(of, NULL, &n, &err));
    return n;
}

static void test_comes_back(void **state)
{
    must(append(store, "1"));
    for (int i = 0; i < 3; i++) {
        kill_it();
        must(append(store, "2")); /* noticed before anything was sent */
        kill_it();
        must(ledger_store_health(store, &err));
    }
    assert_int_equal(count(store), 4);
    assert_int_equal(inside(store)->connect_count, 7);
}

static void test_transaction_is_lost(void **state)
{
    must(ledger_store_begin(store, &err));
    must(append(store, "1"));
    kill_it();
    for (int i = 0; i < 3; i++) {
        ledger_rc rc = append(store, "2");
        assert_int_equal(rc, i == 0 ? LEDGER_ERR_CONNECT : LEDGER_ERR_INVALID);
        assert_non_null(strstr(err.message, "roll back"));
    }
    assert_int_equal(ledger_store_commit(store, &err), LEDGER_ERR_CONNECT);
    must(append(store, "3"));

    must(ledger_store_begin(store, &err));
    must(append(store, "4"));
    kill_it();
    must(ledger_store_rollback(store, &err));
    must(append(store, "5"));

    /* Its commit is what notices, and nothing was sent. */
    must(ledger_store_begin(store, &err));
    must(append(store, "6"));
    kill_it();
    assert_int_equal(ledger_store_commit(store, &err), LEDGER_ERR_CONNECT);
    assert_int_equal(count(store), 2);
    must(ledger_store_begin(store, &err));
    must(append(store, "7"));
    must(ledger_store_commit(store, &err));
    assert_int_equal(count(store), 3);
}

static void test_failed_transaction(void **state)
{
    tst_pg_sql(other, "ALTER TABLE ledger_entries ADD CHECK (stream != 'bad')");
    must(ledger_store_begin(store, &err));
    must(append(store, "1"));
    ledger_append_input input = { .payload = { "1", 1 } };
    assert_int_equal(ledger_store_append(store, "bad", &input, 1, NULL, &err), LEDGER_ERR_REJECTED);
    assert_int_equal(append(store, "1"), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_store_commit(store, &err), LEDGER_ERR_INVALID);
    assert_int_equal(count(store), 0);
    must(append(store, "1"));
}

static void test_snapshot(void **state)
{
    must(append(store, "1"));
    must(ldg_store_snapshot_begin(store, &err));
    assert_int_equal(count(store), 1);
    tst_pg_sql(other, "DELETE FROM ledger_entries");
    assert_int_equal(count(store), 1);
    assert_int_equal(ldg_store_snapshot_begin(store, &err), LEDGER_ERR_INVALID);
    kill_it();
    uint64_t n = 0;
    assert_int_equal(ledger_store_count(store, NULL, &n, &err), LEDGER_ERR_CONNECT);
    assert_int_equal(ledger_store_count(store, NULL, &n, &err), LEDGER_ERR_CONNECT);
    ldg_store_snapshot_end(store);
    assert_int_equal(count(store), 0);
}

/* The server goes and comes back; meanwhile it is a clear error. */
static void test_restart(void **state)
{
    struct tst_pg *server = tst_pg_start(NULL);
    ledger_store *s = NULL;
    must(open_url(tst_pg_url(server, NULL, NULL, NULL), LEDGER_STORE_CREATE, &s));
    must(append(s, "1"));
    tst_pg_stop(server, TST_PG_IMMEDIATE);
    assert_int_equal(append(s, "2"), LEDGER_ERR_CONNECT);
    assert_int_equal(err.flags, LEDGER_ERROR_RETRY);
    assert_int_equal(append(s, "2"), LEDGER_ERR_CONNECT);
    tst_pg_run(server);
    must(append(s, "2"));
    assert_int_equal(count(s), 2);

    /* Whatever the server's defaults are, what is written is written. */
    tst_pg_configure(server, "default_transaction_read_only = on\n"
                             "default_transaction_isolation = serializable\n");
    tst_pg_reload(server);
    must(append(s, "3"));
    tst_pg_stop(server, TST_PG_FAST);
    tst_pg_run(server);
    must(append(s, "4"));
    must(ledger_store_begin(s, &err));
    must(append(s, "5"));
    must(ledger_store_commit(s, &err));
    assert_int_equal(count(s), 5);
    ledger_store_close(&s);
    tst_pg_destroy(&server);
}

/* Dropped behind our back while the connection was away. */
static void test_not_what_it_was(void **state)
{
    tst_pg_sql(other, "DROP TABLE ledger_entries CASCADE");
    kill_it();
    assert_int_equal(append(store, "1"), LEDGER_ERR_SCHEMA);
    assert_int_equal(append(store, "1"), LEDGER_ERR_SCHEMA);
}

static void test_given(void **state)
{
    for (int owns = 0; owns < 2; owns++) {
        PGconn *given = tst_pg_connect_url(url);
        ledger_store *s = NULL, *second = NULL;
        ledger_store_options options;
        ledger_store_options_defaults(&options);
        options.connection = given;
        options.connection_kind = LEDGER_CONNECTION_POSTGRES;
        options.flags = owns ? LEDGER_OWN_CONN : 0;
        must(ledger_store_open(&options, &s, &err));
        tst_pg_sql(given, "BEGIN; CREATE TABLE mine(x int)");
        must(append(s, "1"));
        assert_int_equal(ledger_store_begin(s, &err), LEDGER_ERR_INVALID);
        assert_int_equal(count(s), 1);
        assert_int_equal(count(store), 0);
        tst_pg_sql(given, "ROLLBACK");
        assert_int_equal(count(s), 0);
        must(ledger_store_begin(s, &err));
        must(append(s, "1"));
        must(ledger_store_rollback(s, &err));

        /* A second handle finds the same place, through a URL made of it. */
        must(ldg_store_reopen(s, LDG_ROLE_SINK, "copy", &second, &err));
        must(append(second, "2"));
        assert_int_equal(count(s), 1);
        assert_string_equal(inside(s)->wake_name, inside(second)->wake_name);
        ledger_store_close(&second);
        ledger_store_close(&s);
        tst_pg_sql(other, "DELETE FROM ledger_entries");
        if (!owns)
            PQfinish(given);
    }
}

static void test_names(void **state)
{
    ledger_store_options options;
    ledger_store *s = NULL;
    char name[64] = "";
    ledger_store_options_defaults(&options);
    options.url = url;
    options.flags = LEDGER_STORE_CREATE;
    options.table = memset(name, 'N', LDG_PG_TABLE_MAX_BYTES);
    must(ledger_store_open(&options, &s, &err));
    must(append(s, "1"));
    ledger_store_close(&s);
    assert_int_equal(tst_pg_sql_int(other, "SELECT count(*) FROM %.44s", name), 1);
    name[LDG_PG_TABLE_MAX_BYTES] = 'N';
    assert_int_equal(ledger_store_open(&options, &s, &err), LEDGER_ERR_INVALID);
    assert_non_null(strstr(err.message, "44"));
    options.table = "Select"; /* a word of SQL, and folded as without quotes */
    must(ledger_store_open(&options, &s, &err));
    must(append(s, "1"));
    ledger_store_close(&s);
    assert_int_equal(tst_pg_sql_int(other, "SELECT count(*) FROM \"select\""), 1);
}

static void test_label(void **state)
{
    ledger_store_options options;
    ledger_store *s = NULL;
    ledger_store_options_defaults(&options);
    options.url = url;
    options.label = "orders/ä and a name that is longer than the sixty-three bytes of PostgreSQL";
    must(ledger_store_open(&options, &s, &err));
    assert_int_equal(tst_pg_sql_int(other, "SELECT count(*) FROM pg_stat_activity WHERE "
                                           "application_name LIKE 'orders/%%'"),
                     1);
    ledger_store_close(&s);
}

/* A privilege that is missing is named, with the words that give it. */
static void test_privileges(void **state)
{
    static const struct {
        const char *missing, *says;
    } cases[] = {
        { "INSERT ON ledger_entries", "GRANT INSERT ON TABLE ledger_entries TO clerk" },
        { "INSERT ON ledger_entries_mutations",
          "GRANT INSERT ON TABLE ledger_entries_mutations TO clerk" },
        { "ALL ON SEQUENCE ledger_entries_mutations_id_seq",
          "GRANT USAGE ON SEQUENCE ledger_entries_mutations_id_seq TO clerk" },
    };
    struct tst_pg *server = tst_pg_shared();
    char clerk_url[400];
    tst_pg_sql(other, "DROP ROLE IF EXISTS clerk; CREATE ROLE clerk LOGIN; GRANT USAGE ON SCHEMA "
                      "life TO clerk; ALTER ROLE clerk SET search_path = life");
    snprintf(clerk_url, sizeof(clerk_url), "%s", tst_pg_url(server, NULL, "clerk", NULL));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ledger_store *s = NULL;
        tst_pg_sql(other, "GRANT ALL ON ALL TABLES IN SCHEMA life TO clerk; "
                          "GRANT ALL ON ALL SEQUENCES IN SCHEMA life TO clerk");
        must(open_url(clerk_url, 0, &s));
        must(append(s, "1"));
        tst_pg_sql(other, "REVOKE %s FROM clerk", cases[i].missing);
        assert_int_equal(append(s, "2"), LEDGER_ERR_PERMISSION);
        if (!strstr(err.message, cases[i].says))
            fail_msg("%s", err.message);
        /* Asked for once; a refusal in a transaction, too. */
        assert_int_equal(append(s, "2"), LEDGER_ERR_PERMISSION);
        assert_non_null(strstr(err.message, cases[i].says));
        ledger_store_close(&s);
    }
    tst_pg_sql(other, "DROP OWNED BY clerk; DROP ROLE clerk");
}

/* Every allocation of ours fails once: an error, nothing written twice, nothing leaked. */
static ledger_rc live(void *ctx)
{
    ledger_store *s = NULL;
    ledger_rc rc = open_url(url, 0, &s);
    if (rc == LEDGER_OK)
        rc = ledger_store_begin(s, &err);
    if (rc == LEDGER_OK)
        rc = append(s, "1");
    if (rc == LEDGER_OK)
        rc = ledger_store_commit(s, &err);
    if (rc == LEDGER_OK)
        rc = ledger_store_health(s, &err);
    ledger_store_close(&s);
    return rc;
}

static void test_allocations(void **state)
{
    alloc_fail_each(live, NULL);
    assert_int_equal(err.code, LEDGER_OK);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_comes_back),
        TEST(test_transaction_is_lost),
        TEST(test_failed_transaction),
        TEST(test_snapshot),
        TEST(test_restart),
        TEST(test_not_what_it_was),
        TEST(test_given),
        TEST(test_names),
        TEST(test_label),
        TEST(test_privileges),
        TEST(test_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
