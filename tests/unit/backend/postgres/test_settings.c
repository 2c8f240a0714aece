/* What a session of ours is like, whatever its database has set for others. */
#include "fixtures.h"
#include "pg_server.h"

#include <stdlib.h>
#include <string.h>

#include "backend/postgres/postgres.h"

static struct ldg_pg pg;
static ledger_error err;
static PGconn *other;

static const struct {
    const char *name, *theirs, *ours;
} settings[] = {
    { "quote_all_identifiers", "on", "off" }, { "standard_conforming_strings", "off", "on" },
    { "transform_null_equals", "on", "off" }, { "array_nulls", "off", "on" },
    { "gin_fuzzy_search_limit", "1", "0" },   { "exit_on_error", "on", "off" },
};
#define SETTINGS (sizeof(settings) / sizeof(settings[0]))

static void must(ledger_rc rc)
{
    if (rc != LEDGER_OK)
        fail_msg("%s: %s", ledger_rc_name(rc), err.message);
}

static void is(const char *name, const char *wanted)
{
    char text[200];
    PGresult *result = NULL;
    snprintf(text, sizeof(text), "SELECT current_setting('%s')", name);
    must(ldg_pg_run_text(&pg, "asking", text, NULL, &result, &err));
    if (strcmp(ldg_pg_get_text(result, 0, 0), wanted) != 0)
        fail_msg("%s is %s, not %s", name, ldg_pg_get_text(result, 0, 0), wanted);
    PQclear(result);
}

static void prepare_handle(enum ldg_role role, const char *more)
{
    memset(&pg, 0, sizeof(pg));
    pg.url = ldg_strdup(tst_pg_url(tst_pg_shared(), "theirs", NULL, more));
    pg.label = ldg_strdup("test");
    pg.table = ldg_strdup("t");
    pg.log_table = ldg_strdup("l");
    pg.busy_timeout_ms = 300;
    pg.reply_timeout_ms = 20000;
    pg.role = role;
}

static void release_handle(void)
{
    ldg_pg_close_conn(&pg);
    ldg_free(pg.url);
    ldg_free(pg.label);
    ldg_free(pg.table);
    ldg_free(pg.log_table);
    ldg_free(pg.where);
    memset(&pg, 0, sizeof(pg));
}

static void connect_as(enum ldg_role role, const char *more)
{
    release_handle();
    prepare_handle(role, more);
    must(ldg_pg_connect(&pg, &err));
}

static int setup(void **state)
{
    struct tst_pg *server = tst_pg_shared();
    other = tst_pg_connect(server, NULL);
    tst_pg_sql(other, "DROP DATABASE IF EXISTS theirs");
    tst_pg_sql(other, "CREATE DATABASE theirs TEMPLATE template0");
    for (size_t i = 0; i < SETTINGS; i++)
        tst_pg_sql(other, "ALTER DATABASE theirs SET %s = '%s'", settings[i].name,
                   settings[i].theirs);
    return 0;
}

static int teardown(void **state)
{
    release_handle();
    PQfinish(other);
    return 0;
}

static void test_meaning(void **state)
{
    static const enum ldg_role roles[] = { LDG_ROLE_USER, LDG_ROLE_SOURCE, LDG_ROLE_SINK };
    for (size_t r = 0; r < 3; r++) {
        connect_as(roles[r], NULL);
        for (size_t i = 0; i < SETTINGS; i++)
            is(settings[i].name, settings[i].ours);
    }
    /* What only a user's own triggers see stays as it is. */
    tst_pg_sql(other, "ALTER DATABASE theirs SET timezone = 'Asia/Kathmandu'");
    connect_as(LDG_ROLE_SINK, NULL);
    is("timezone", "Asia/Kathmandu");
}

/* Of a session that is not ours nothing is changed, but in our transactions. */
static void test_not_ours(void **state)
{
    static const char *const limits[] = { "statement_timeout", "300000" };
    bool own = false;
    tst_pg_sql(other, "ALTER DATABASE theirs SET %s = '%s'", limits[0], limits[1]);
    for (int pooled = 0; pooled < 2; pooled++) {
        release_handle();
        prepare_handle(LDG_ROLE_USER, NULL);
        PGconn *conn = tst_pg_connect_url(pg.url);
        PQsetClientEncoding(conn, "UTF8");
        must(ldg_pg_take(&pg, conn, &err));
        pg.pooled = pg.own_conn = pooled; /* as what stands behind a pooler */
        is("quote_all_identifiers", "on");
        must(ldg_pg_begin_write(&pg, NULL, &own, &err));
        for (size_t i = 0; i < SETTINGS; i++)
            is(settings[i].name, settings[i].ours);
        is("statement_timeout", pooled ? "0" : "5min");
        must(ldg_pg_end(&pg, own, LEDGER_OK, &err));
        for (size_t i = 0; i < SETTINGS; i++)
            is(settings[i].name, settings[i].theirs);
        is("statement_timeout", "5min");
        pg.own_conn = true; /* to be closed */
    }
}

static void test_limits(void **state)
{
    static const char *const names[] = { "statement_timeout", "idle_session_timeout",
                                         "idle_in_transaction_session_timeout",
                                         "transaction_timeout" };
    const size_t known = PQserverVersion(other) >= 170000 ? 4 : 3;
    char *version = tst_pg_sql_text(other, "SHOW server_version");
    print_message("server %s\n", version);
    free(version);
    for (size_t i = 0; i < known; i++)
        tst_pg_sql(other, "ALTER DATABASE theirs SET %s = '5min'", names[i]);
    connect_as(LDG_ROLE_SOURCE, "options=-cstatement_timeout%3D9s");
    for (size_t i = 0; i < known; i++)
        is(names[i], "0");
    connect_as(LDG_ROLE_SINK, NULL);
    for (size_t i = 0; i < known; i++)
        is(names[i], "0");
    /* A program keeps what it has asked for itself, and what ends transactions that it forgot. */
    connect_as(LDG_ROLE_USER, "options=-cstatement_timeout%3D9s");
    is(names[0], "9s");
    is(names[1], "0");
    is(names[2], "5min");
    connect_as(LDG_ROLE_USER, NULL);
    is(names[0], "0");

    /* Where a transaction has the limits, our own settings take them off. */
    bool own = false;
    static const char off[] = "SELECT " LDG_PG_NO_LIMITS(
        "statement_timeout,transaction_timeout,idle_in_transaction_session_timeout,no_such");
    connect_as(LDG_ROLE_USER, "options=-cstatement_timeout%3D9s");
    must(ldg_pg_begin_write(&pg, off, &own, &err));
    is(names[0], "0");
    is(names[2], "0");
    must(ldg_pg_end(&pg, own, LEDGER_OK, &err));
    is(names[0], "9s");
}

/* Limits that end a session, those of versions to come too, are told as what they are and can be
 * tried again. */
static void test_words(void **state)
{
    static const struct {
        const char *state, *words;
        ledger_rc rc;
    } cases[] = {
        { "25P03", "idle_in_transaction_session_timeout", LEDGER_ERR_CONNECT },
        { "25P04", "transaction_timeout", LEDGER_ERR_CONNECT },
        { "25P77", "settings of this role", LEDGER_ERR_BUSY },
        { "57014", "statement_timeout", LEDGER_ERR_BUSY },
        { "57P05", "idle_session_timeout", LEDGER_ERR_CONNECT },
        { "57P77", "", LEDGER_ERR_CONNECT },
        { "57077", "settings of this role", LEDGER_ERR_BUSY },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[100];
        connect_as(LDG_ROLE_SINK, NULL);
        snprintf(text, sizeof(text), "DO $$BEGIN RAISE SQLSTATE '%s'; END$$", cases[i].state);
        tst_fails(ldg_pg_run_text(&pg, "trying", text, NULL, NULL, &err), cases[i].rc, &err);
        assert_int_equal(err.flags, LEDGER_ERROR_RETRY);
        if (!strstr(err.message, cases[i].words))
            fail_msg("%s", err.message);
    }
    /* An error that ends the session. */
    connect_as(LDG_ROLE_SINK, NULL);
    must(ldg_pg_run_text(&pg, "trying", "SET exit_on_error = on", NULL, NULL, &err));
    tst_fails(ldg_pg_run_text(&pg, "trying", "DO $$BEGIN RAISE SQLSTATE '57077'; END$$", NULL, NULL,
                              &err),
              LEDGER_ERR_CONNECT, &err);
    assert_null(pg.conn);
}

/* Whose limit of connections it is that keeps us out. */
static void test_connection_limits(void **state)
{
    static const struct {
        const char *set, *reset, *words;
    } cases[] = {
        { "ALTER ROLE few CONNECTION LIMIT 0", "ALTER ROLE few CONNECTION LIMIT -1",
          "ALTER ROLE ... CONNECTION LIMIT" },
        { "ALTER DATABASE theirs CONNECTION LIMIT 0", "ALTER DATABASE theirs CONNECTION LIMIT -1",
          "ALTER DATABASE ... CONNECTION LIMIT" },
    };
    tst_pg_sql(other, "DROP ROLE IF EXISTS few; CREATE ROLE few LOGIN");
    for (size_t i = 0; i < 2; i++) {
        tst_pg_sql(other, "%s", cases[i].set);
        release_handle();
        prepare_handle(LDG_ROLE_SOURCE, NULL);
        ldg_free(pg.url);
        pg.url = ldg_strdup(tst_pg_url(tst_pg_shared(), "theirs", "few", NULL));
        tst_fails(ldg_pg_connect(&pg, &err), LEDGER_ERR_CONNECT, &err);
        tst_pg_sql(other, "%s", cases[i].reset);
        assert_string_equal(ldg_pg_sqlstate(&err), "53300");
        if (!strstr(err.message, cases[i].words))
            fail_msg("%s", err.message);
    }
    struct tst_pg *small = tst_pg_start(&(struct tst_pg_options){
        .settings = "max_connections = 4\nsuperuser_reserved_connections = 3\n" });
    PGconn *one = tst_pg_connect(small, NULL);
    tst_pg_sql(one, "CREATE ROLE few LOGIN");
    release_handle();
    prepare_handle(LDG_ROLE_SOURCE, NULL);
    ldg_free(pg.url);
    pg.url = ldg_strdup(tst_pg_url(small, NULL, "few", NULL));
    tst_fails(ldg_pg_connect(&pg, &err), LEDGER_ERR_CONNECT, &err);
    if (!strstr(err.message, "max_connections"))
        fail_msg("%s", err.message);
    PQfinish(one);
    tst_pg_destroy(&small);
    tst_pg_sql(other, "DROP ROLE few");
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_meaning), TEST(test_not_ours),          TEST(test_limits),
        TEST(test_words),   TEST(test_connection_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
