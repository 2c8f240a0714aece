/* Servers, databases and roles that are set to something else than ours, and tables that are
 * altered while bridges run. Registered a second time with a server of a later version
 * (LEDGER_TEST_LATER_PG), which has limits that Debian's has not. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixtures.h"
#include "oracle.h"
#include "pg_server.h"
#include "workload.h"

static char why_not[600]; /* there is no later server */

/* Can somebody else than root run it? Servers run as another user. */
static bool may_run(const char *program)
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0)
        _exit((geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) ||
              access(program, X_OK) != 0);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status == 0;
}

static void choose_server(const char *later)
{
    char probe[500];
    if (later == NULL)
        return;
    snprintf(probe, sizeof probe, "%s/initdb", later);
    if (may_run(probe))
        (void)setenv("LEDGER_TEST_PG_BIN", later, 1);
    else
        snprintf(why_not, sizeof why_not,
                 "no server of a later version that can be run in %s; ./dev deps test fetches one "
                 "where npm is",
                 later);
}

static void require_server(void)
{
    if (why_not[0] != '\0') {
        print_message("%s\n", why_not);
        skip();
    }
    tst_pg_require();
}

/* Two databases, owned by a role that is no superuser. */
static void make_databases(void)
{
    struct tst_pg *pg = tst_pg_shared();
    PGconn *conn = tst_pg_connect(pg, NULL);
    char *version = tst_pg_sql_text(conn, "SHOW server_version");
    print_message("server %s\n", version);
    free(version);
    tst_pg_sql(conn, "DROP DATABASE IF EXISTS set_source");
    tst_pg_sql(conn, "DROP DATABASE IF EXISTS set_sink");
    tst_pg_sql(conn, "DROP ROLE IF EXISTS owner");
    tst_pg_sql(conn, "CREATE ROLE owner LOGIN");
    tst_pg_sql(conn, "CREATE DATABASE set_source TEMPLATE template0 OWNER owner");
    tst_pg_sql(conn, "CREATE DATABASE set_sink TEMPLATE template0 OWNER owner");
    PQfinish(conn);
}

static const char *const databases[] = { "set_source", "set_sink" };

static bool server_knows(const char *setting)
{
    return tst_pg_int(tst_pg_shared(), NULL, "SELECT count(*) FROM pg_settings WHERE name = '%s'",
                      setting) == 1;
}

static void set_for_both(const char *setting, const char *value)
{
    for (int i = 0; i < 2 && server_knows(setting); i++) {
        tst_pg_exec(tst_pg_shared(), NULL, "ALTER DATABASE %s SET %s = '%s'", databases[i], setting,
                    value);
        tst_pg_exec(tst_pg_shared(), NULL, "ALTER ROLE owner IN DATABASE %s SET %s = '%s'",
                    databases[i], setting, value);
    }
}

/* In the database, with the test's own settings; as a superuser. */
static void sql(int database, const char *text)
{
    PGconn *conn = tst_pg_connect(tst_pg_shared(), databases[database]);
    tst_pg_sql(conn, "%s", text);
    PQfinish(conn);
}

static int64_t sink_int(const char *text)
{
    return tst_pg_int(tst_pg_shared(), "set_sink", "%s", text);
}

static ledger_store *open_store(struct tst_env *env, int database, uint32_t flags)
{
    ledger_store_options o;
    ledger_store_options_defaults(&o);
    o.url = tst_pg_url(tst_pg_shared(), databases[database], "owner", NULL);
    o.flags = flags;
    o.log = flags & LEDGER_STORE_CREATE && database == 1 ? LEDGER_MUTATION_LOG_OFF
                                                         : LEDGER_MUTATION_LOG_AUTO;
    return tst_open_with(env, database == 0 ? TST_POSTGRES : TST_PLAIN_POSTGRES, NULL, &o);
}

static void no_error_found(void *ctx, ledger_severity severity, const char *subject,
                           const char *text)
{
    if (severity == LEDGER_FINDING_ERROR)
        tst_fail("%s: %s", subject, text);
}

static void verify(ledger_store *source, ledger_store *sink)
{
    ledger_error err;
    ledger_verify_result result = { 0 };
    tst_ok(ledger_bridge_verify(source, sink, NULL, &result, &err), &err);
    assert_int_equal(result.difference_count, 0);
}

/* --- what statements mean ----------------------------------------------------------------------
 */

static void whatever_is_set(void **state)
{
    static const struct {
        const char *name, *value;
    } settings[] = {
        { "quote_all_identifiers", "on" },
        { "standard_conforming_strings", "off" },
        { "escape_string_warning", "off" },
        { "backslash_quote", "off" },
        { "bytea_output", "escape" },
        { "datestyle", "SQL, DMY" },
        { "intervalstyle", "sql_standard" },
        { "timezone", "Asia/Kathmandu" },
        { "extra_float_digits", "-15" },
        { "xmloption", "document" },
        { "array_nulls", "off" },
        { "transform_null_equals", "on" },
        { "row_security", "off" },
        { "check_function_bodies", "off" },
        { "default_transaction_isolation", "serializable" },
        { "default_transaction_read_only", "on" },
        { "default_transaction_deferrable", "on" },
        { "synchronous_commit", "local" },
        { "gin_fuzzy_search_limit", "1" },
        { "exit_on_error", "on" },
        { "enable_indexscan", "off" },
        { "enable_indexonlyscan", "off" },
        { "enable_nestloop", "off" },
        { "enable_hashjoin", "off" },
        { "enable_mergejoin", "off" },
        { "enable_material", "off" },
        { "plan_cache_mode", "force_custom_plan" },
        { "join_collapse_limit", "1" },
        { "work_mem", "64kB" },
        { "client_min_messages", "debug1" },
        { "lc_messages", "C" },
        { "default_text_search_config", "pg_catalog.german" },
        { "lock_timeout", "1" },
        { "tcp_keepalives_idle", "7200" },
    };
    struct tst_env *env = *state;
    ledger_error err;
    struct tst_workload w;
    require_server();
    make_databases();
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++)
        set_for_both(settings[i].name, settings[i].value);
    ledger_store *source = open_store(env, 0, LEDGER_STORE_CREATE | LEDGER_STORE_NOTIFY);
    ledger_store *sink = open_store(env, 1, LEDGER_STORE_CREATE);
    tst_workload_init(&w, tst_seed());
    for (int round = 0; round < 3; round++) {
        tst_workload_run(&w, source, tst_scale(60));
        /* a key that the sink has already, which ends the bulk path with an error */
        char key[32];
        snprintf(key, sizeof key, "taken%d", round);
        (void)tst_append(sink, "both", "{\"at\":\"sink\"}", key, NULL);
        (void)tst_append(source, "both", "{\"at\":\"source\"}", key, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        /* opened again: now the tables are there */
        tst_close(env, source);
        tst_close(env, sink);
        source = open_store(env, 0, round == 1 ? LEDGER_STORE_CREATE : 0);
        sink = open_store(env, 1, 0);
    }
    assert_int_equal(sink_int("SELECT count(*) FROM ledger_entries_parked"), 0);
    tst_ok(ledger_store_check(source, no_error_found, NULL, &err), &err);
    tst_ok(ledger_store_check(sink, no_error_found, NULL, &err), &err);
    assert_int_equal(tst_count(sink, "both"), 3);
}

/* --- how long they may take --------------------------------------------------------------------
 */

/* A limit that a role has for web requests: a batch takes longer, an append too, and both ends are
 * idle for longer in between. */
static void limits_of_a_role(void **state)
{
    static const char *const limits[] = { "statement_timeout", "transaction_timeout",
                                          "idle_session_timeout",
                                          "idle_in_transaction_session_timeout" };
    static const char slow[] =
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM "
        "pg_sleep(0.004); RETURN NEW; END$$; CREATE TRIGGER slow BEFORE INSERT ON ledger_entries "
        "FOR EACH ROW EXECUTE FUNCTION slow()";
    struct tst_env *env = *state;
    ledger_append_input inputs[100];
    ledger_error err;
    require_server();
    for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++)
        inputs[i] = (ledger_append_input){ .payload = { "{}", 2 } };
    make_databases();
    for (int i = 0; i < 2; i++) {
        tst_close(env, open_store(env, i, LEDGER_STORE_CREATE));
        sql(i, slow);
    }
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        set_for_both(limits[i], "200ms");
    ledger_store *source = open_store(env, 0, 0);
    ledger_store *sink = open_store(env, 1, 0);
    ledger_bridge *bridge = tst_bridge(source, sink, NULL);
    for (int round = 0; round < 2; round++) {
        tst_ok(ledger_store_append(source, "s", inputs, 100, NULL, &err), &err);
        tst_sleep_us(300000);
        (void)tst_drain(bridge);
        verify(source, sink);
        tst_sleep_us(300000);
    }
    assert_int_equal(tst_count(sink, "s"), 200);
    assert_int_equal(sink_int("SELECT count(*) FROM ledger_entries_parked"), 0);
    ledger_bridge_destroy(&bridge);
}

/* One that is shorter than what sets up a session. */
static void limit_of_a_millisecond(void **state)
{
    struct tst_env *env = *state;
    require_server();
    make_databases();
    for (int i = 0; i < 2; i++)
        tst_close(env, open_store(env, i, LEDGER_STORE_CREATE));
    set_for_both("statement_timeout", "1ms");
    for (int round = 0; round < 3; round++) {
        ledger_store *source = open_store(env, 0, 0);
        ledger_store *sink = open_store(env, 1, 0);
        (void)tst_append(source, "s", "{}", NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        verify(source, sink);
        tst_close(env, source);
        tst_close(env, sink);
    }
}

/* --- tables that are altered -------------------------------------------------------------------
 */

static void write_some(ledger_store *source, int n)
{
    char key[32];
    snprintf(key, sizeof key, "k%d", n);
    int64_t id = tst_append(source, "t", "{\"n\":1}", key, NULL);
    (void)tst_append(source, "t", "{\"n\":2}", NULL, NULL);
    (void)tst_append(source, "u", "{\"n\":3}", NULL, NULL);
    tst_tag(source, "t", id, "tag");
    tst_annotate(source, "t", id, "key", key);
    if (n % 3 == 2)
        (void)tst_trim(source, "t", id);
}

static void columns_altered_while_running(void **state)
{
    static const char *const tables[] = { "ledger_entries",         "ledger_entries_mutations",
                                          "ledger_entries_cursors", "ledger_entries_origins",
                                          "ledger_entries_parked",  "ledger_entries_foreign",
                                          "ledger_entries_meta" };
    /* Every column gets its own type again, texts with another collation than they had. */
    static const char alter[] =
        "DO $$ DECLARE c record; BEGIN FOR c IN SELECT a.attname, a.attrelid::regclass AS t, "
        "format_type(a.atttypid, a.atttypmod) AS type, a.atttypid = 'text'::regtype AS is_text, "
        "a.attcollation = '\"C\"'::regcollation AS is_c FROM pg_attribute AS a "
        "WHERE a.attrelid = to_regclass('%s') AND a.attnum > 0 AND NOT a.attisdropped LOOP "
        "EXECUTE format('ALTER TABLE %%s ALTER %%I TYPE %%s %%s', c.t, c.attname, c.type, "
        "CASE WHEN NOT c.is_text THEN '' WHEN c.is_c THEN 'COLLATE \"default\"' "
        "ELSE 'COLLATE \"C\"' END); END LOOP; END $$; "
        "ALTER TABLE IF EXISTS %s ADD COLUMN IF NOT EXISTS more text";
    struct tst_env *env = *state;
    require_server();
    make_databases();
    ledger_store *source = open_store(env, 0, LEDGER_STORE_CREATE);
    ledger_store *sink = open_store(env, 1, LEDGER_STORE_CREATE);
    ledger_bridge *bridge = tst_bridge(source, sink, NULL);
    int n = 0, taken = 0;
    for (size_t round = 0; round < 2 * sizeof tables / sizeof tables[0]; round++) {
        char text[1200], key[32];
        write_some(source, n++);
        (void)tst_drain(bridge);
        snprintf(text, sizeof text, alter, tables[round / 2], tables[round / 2]);
        for (int i = 0; i < 2; i++)
            sql(i, text);
        if (round % 2 == 1) { /* the way op by op */
            snprintf(key, sizeof key, "k%d", n);
            (void)tst_append(sink, "t", "{\"at\":\"sink\"}", key, NULL);
            taken++;
        }
        write_some(source, n++);
        (void)tst_drain(bridge);
        assert_int_equal(sink_int("SELECT count(*) FROM ledger_entries_parked"), 0);
        assert_int_equal(tst_count(sink, "u"), n);
    }
    assert_true(taken > 0);
    assert_int_equal(tst_count(source, "u"), tst_count(sink, "u"));
    tst_check_counters(bridge);
    ledger_bridge_destroy(&bridge);
}

/* A trigger of the sink that throws away what the session has prepared. */
static void statements_thrown_away(void **state)
{
    static const char thrower[] =
        "CREATE FUNCTION thrower() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN EXECUTE "
        "'DEALLOCATE ALL'; RETURN NEW; END$$; CREATE TRIGGER thrower BEFORE INSERT ON "
        "ledger_entries FOR EACH ROW EXECUTE FUNCTION thrower()";
    struct tst_env *env = *state;
    ledger_error err;
    uint64_t read = 1;
    require_server();
    make_databases();
    ledger_store *source = open_store(env, 0, LEDGER_STORE_CREATE);
    ledger_store *sink = open_store(env, 1, LEDGER_STORE_CREATE);
    ledger_bridge *bridge = tst_bridge(source, sink, NULL);
    for (int n = 0; n < 4; n++) {
        write_some(source, n);
        if (n == 1)
            sql(1, thrower);
        read = 1;
        for (int tries = 0; read > 0 && tries < 20; tries++) {
            ledger_rc rc = ledger_bridge_poll(bridge, &read, &err);
            if (rc != LEDGER_OK)
                assert_int_equal(err.flags, LEDGER_ERROR_RETRY);
        }
        assert_int_equal(read, 0);
    }
    tst_assert_equal(source, sink, 0);
    assert_int_equal(sink_int("SELECT count(*) FROM ledger_entries_parked"), 0);
    ledger_bridge_destroy(&bridge);
}

int main(void)
{
    choose_server(getenv("LEDGER_TEST_LATER_PG"));
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(whatever_is_set),        T(limits_of_a_role),
        T(limit_of_a_millisecond), T(columns_altered_while_running),
        T(statements_thrown_away),
    };
    return cmocka_run_group_tests_name("settings of PostgreSQL", tests, NULL, NULL);
}
