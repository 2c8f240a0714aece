/* What refuses every event is the sink's fault and parks nothing; what refuses one event parks that
 * one. With triggers, indexes, privileges and ids as users make them. */
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "oracle.h"

static bool count_parked(void *ctx, const ledger_parked *p)
{
    (void)p;
    ++*(size_t *)ctx;
    return true;
}

static size_t parked(ledger_store *sink)
{
    size_t count = 0;
    ledger_error err = { 0 };
    tst_ok(ledger_bridge_parked_list(sink, count_parked, &count, &err), &err);
    return count;
}

static void says(const ledger_error *err, const char *words, const char *what)
{
    if (strstr(err->message, words) == NULL)
        tst_fail("%s: the message lacks '%s': %s", what, words, err->message);
}

/* --- triggers and indexes of the user's own
 * -------------------------------------------------------
 */

#define WHEN "new.dedup_key = 'bad' OR new.stream = 'all' "
static const struct {
    bool postgres;
    const char *make, *drop;
} refusals[] = {
    { false,
      "CREATE TRIGGER f BEFORE INSERT ON ledger_entries WHEN " WHEN
      "BEGIN SELECT raise(ABORT, 'no'); "
      "END",
      "DROP TRIGGER f" },
    { false,
      "CREATE TRIGGER f BEFORE INSERT ON ledger_entries WHEN " WHEN "BEGIN SELECT raise(ROLLBACK, "
      "'no'); "
      "END",
      "DROP TRIGGER f" },
    { false,
      "CREATE TRIGGER f AFTER INSERT ON ledger_entries WHEN " WHEN
      "BEGIN SELECT raise(ROLLBACK, 'no'); "
      "END",
      "DROP TRIGGER f" },
    { false,
      "CREATE TRIGGER f BEFORE INSERT ON ledger_entries WHEN " WHEN
      "BEGIN SELECT raise(FAIL, 'no'); "
      "END",
      "DROP TRIGGER f" },
    { false,
      "CREATE TRIGGER f BEFORE INSERT ON ledger_entries WHEN " WHEN
      "BEGIN SELECT raise(IGNORE); END",
      "DROP TRIGGER f" },
    { true,
      "CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; "
      "END'; CREATE TRIGGER f BEFORE INSERT ON ledger_entries FOR EACH ROW WHEN (" WHEN ") EXECUTE "
      "FUNCTION f()",
      "DROP TRIGGER f ON ledger_entries" },
    { true,
      "CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; "
      "END'; CREATE CONSTRAINT TRIGGER f AFTER INSERT ON ledger_entries FOR EACH ROW WHEN (" WHEN
      ") "
      "EXECUTE FUNCTION f()",
      "DROP TRIGGER f ON ledger_entries" },
    { true,
      "CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; "
      "END'; CREATE TRIGGER f BEFORE INSERT ON ledger_entries FOR EACH ROW WHEN (" WHEN ") EXECUTE "
      "FUNCTION f()",
      "DROP TRIGGER f ON ledger_entries" },
};

static ledger_store *open_sink(struct tst_env *env, bool postgres, bool plain)
{
    return tst_open(env,
                    postgres ? plain ? (enum tst_kind)TST_PLAIN_POSTGRES : TST_POSTGRES
                    : plain  ? (enum tst_kind)TST_PLAIN
                             : TST_SQLITE,
                    "sink");
}

static void triggers_that_refuse(void **state)
{
    struct tst_env *env = *state;
    for (size_t i = 0; i < 2 * (sizeof refusals / sizeof refusals[0]); i++, tst_env_reset(env)) {
        const bool postgres = refusals[i / 2].postgres;
        if (!tst_kind_here(postgres ? TST_POSTGRES : TST_SQLITE))
            continue;
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        ledger_store *sink = open_sink(env, postgres, i % 2);
        ledger_error err = { 0 };
        uint64_t read = 0, applied = 0, left = 0;
        /* one */
        tst_exec_on(sink, "%s", refusals[i / 2].make);
        for (int k = 0; k < 12; k++)
            (void)tst_append(source, "s", "{}", k == 5 ? "bad" : NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(parked(sink), 1);
        assert_int_equal(tst_count(sink, "s"), 11);
        tst_exec_on(sink, "%s", refusals[i / 2].drop);
        tst_ok(ledger_bridge_parked_retry(source, sink, 0, &applied, &left, &err), &err);
        assert_int_equal(applied, 1);
        /* all */
        tst_exec_on(sink, "%s", refusals[i / 2].make);
        for (int k = 0; k < 12; k++)
            (void)tst_append(source, "all", "{}", NULL, NULL);
        ledger_bridge *bridge = tst_bridge(source, sink, NULL);
        for (int k = 0; k < 2; k++) {
            tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_REFUSED_ALL, &err);
            assert_int_equal(parked(sink), 0);
            assert_int_equal(tst_count(sink, "all"), 0);
        }
        ledger_bridge_destroy(&bridge);
        tst_exec_on(sink, "%s", refusals[i / 2].drop);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, TST_CMP_ANY_ORDER);
    }
}

/* A user's own unique index: what it keeps out is one event; a constant admits one row only. */
static void a_unique_index_of_the_user(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_SINK(env, kind)
    {
        if (kind == TST_MEMORY)
            continue;
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        ledger_store *sink = tst_open(env, (enum tst_kind)kind, "sink");
        ledger_append_input input = { .payload = { "{}", 2 }, .order_key = "twice" };
        ledger_ids ids = { 0 };
        ledger_error err = { 0 };
        uint64_t read = 0;
        tst_exec_on(sink, "CREATE UNIQUE INDEX own ON ledger_entries (order_key) "
                          "WHERE order_key != ''");
        for (int k = 0; k < 2; k++) {
            (void)tst_append(source, "s", "{}", NULL, NULL);
            tst_ok(ledger_store_append(source, "s", &input, 1, &ids, &err), &err);
            ledger_ids_destroy(&ids);
        }
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(parked(sink), 1);
        assert_int_equal(tst_count(sink, "s"), 3);
        tst_exec_on(sink, "DROP INDEX own; DELETE FROM ledger_entries_parked; "
                          "DELETE FROM ledger_entries WHERE id > 1; "
                          "CREATE UNIQUE INDEX own ON ledger_entries ((stream = 's'))");
        for (int k = 0; k < 12; k++)
            (void)tst_append(source, "s", "{}", NULL, NULL);
        ledger_bridge *bridge = tst_bridge(source, sink, NULL);
        tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_REFUSED_ALL, &err);
        assert_int_equal(parked(sink), 0);
        ledger_bridge_destroy(&bridge);
    }
}

/* --- ids ----------------------------------------------------------------------------------------
 */

static void make_always(ledger_store *store, const char *table)
{
    tst_exec_on(store,
                "ALTER TABLE %s ALTER id DROP DEFAULT; DROP SEQUENCE %s_id_seq; "
                "ALTER TABLE %s ALTER id ADD GENERATED ALWAYS AS IDENTITY",
                table, table, table);
}

/* A table as one would write it today: all of a source's calls and both ways of a sink work. */
static void generated_always_as_identity(void **state)
{
    static const char *const tables[] = { "ledger_entries", "ledger_entries_mutations",
                                          "ledger_entries_parked" };
    struct tst_env *env = *state;
    for (int plain = 0; plain < 2 && tst_kind_here(TST_POSTGRES); plain++, tst_env_reset(env)) {
        ledger_store *source = tst_open(env, TST_POSTGRES, "source");
        ledger_store *sink = open_sink(env, true, plain);
        ledger_append_input inputs[40];
        ledger_ids ids = { 0 };
        ledger_error err = { 0 };
        for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
            make_always(source, tables[i]);
            if (!plain || strstr(tables[i], "_mutations") == NULL)
                make_always(sink, tables[i]);
        }
        int64_t first = tst_append(source, "s", "{}", "k", "t");
        for (size_t i = 0; i < 40; i++)
            inputs[i] = (ledger_append_input){ .payload = { "{}", 2 } };
        tst_ok(ledger_store_append(source, "s", inputs, 40, &ids, &err), &err);
        ledger_ids_destroy(&ids);
        (void)tst_bridge_once(source, sink, NULL);
        /* one after the other, beside an event that is bad indeed, which is parked */
        (void)tst_append(source, "s", "{}", "k2", NULL);
        tst_log_text(source, "{\"type\":\"later\",\"stream\":\"t\"}");
        tst_tag(source, "s", first, "u");
        (void)tst_append(source, "s", "{}", "k3", NULL);
        (void)tst_trim(source, "s", first + 5);
        (void)tst_append(source, "s", "{}", NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(parked(sink), 1);
        tst_assert_equal(source, sink, TST_CMP_ANY_ORDER);
        (void)tst_append(sink, "own", "{}", NULL, NULL);
    }
}

/* The ids of the sink's own log: what comes after the entry in one transaction. */
static const struct {
    bool postgres;
    const char *make, *mend; /* SCHEMA: mend is in the message, and it helps */
    ledger_rc code;
} log_faults[] = {
    { false,
      "UPDATE sqlite_sequence SET seq = 9223372036854775807 WHERE name = "
      "'ledger_entries_mutations'",
      "UPDATE sqlite_sequence SET seq = (SELECT coalesce(max(id), 0) FROM "
      "\"ledger_entries_mutations\") WHERE name = 'ledger_entries_mutations' COLLATE NOCASE",
      LEDGER_ERR_SCHEMA },
    { false,
      "CREATE TRIGGER f BEFORE INSERT ON ledger_entries_mutations BEGIN SELECT raise(ABORT, 'no'); "
      "END",
      "DROP TRIGGER f", LEDGER_ERR_REFUSED_ALL },
    { true, "SELECT setval('ledger_entries_mutations_id_seq', 1, false)",
      "SELECT setval('ledger_entries_mutations_id_seq', (SELECT max(id) FROM "
      "\"ledger_entries_mutations\"))",
      LEDGER_ERR_SCHEMA },
    { true,
      "ALTER SEQUENCE ledger_entries_mutations_id_seq MAXVALUE 3; "
      "SELECT setval('ledger_entries_mutations_id_seq', 3)",
      "ALTER SEQUENCE ledger_entries_mutations_id_seq AS bigint MAXVALUE 9223372036854775807",
      LEDGER_ERR_SCHEMA },
    { true, "ALTER TABLE ledger_entries_mutations ADD CONSTRAINT f CHECK (id < 0) NOT VALID",
      "ALTER TABLE ledger_entries_mutations DROP CONSTRAINT f", LEDGER_ERR_REFUSED_ALL },
};

static void ids_of_the_sink_s_own_log(void **state)
{
    struct tst_env *env = *state;
    for (size_t i = 0; i < 2 * (sizeof log_faults / sizeof log_faults[0]);
         i++, tst_env_reset(env)) {
        const bool postgres = log_faults[i / 2].postgres;
        const char *mend = log_faults[i / 2].mend;
        if (!tst_kind_here(postgres ? TST_POSTGRES : TST_SQLITE))
            continue;
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        ledger_store *sink = open_sink(env, postgres, false);
        ledger_error err = { 0 };
        uint64_t read = 0;
        (void)tst_append(source, "s", "{}", NULL, NULL);
        (void)tst_append(source, "s", "{}", NULL, NULL);
        ledger_bridge *bridge = tst_bridge(source, sink, NULL);
        (void)tst_drain(bridge);
        tst_exec_on(sink, "%s", log_faults[i / 2].make);
        for (int k = 0; k < (log_faults[i / 2].code == LEDGER_ERR_SCHEMA ? 3 : 12); k++)
            (void)tst_append(source, "s", "{}", NULL, NULL);
        if (i % 2)
            tst_log_text(source, "{\"type\":\"later\",\"stream\":\"t\"}");
        tst_fails(ledger_bridge_poll(bridge, &read, &err), log_faults[i / 2].code, &err);
        if (log_faults[i / 2].code == LEDGER_ERR_SCHEMA)
            says(&err, mend, mend);
        assert_int_equal(parked(sink), 0);
        assert_int_equal(tst_count(sink, "s"), 2);
        ledger_bridge_destroy(&bridge);
        tst_exec_on(sink, "%s", mend);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, TST_CMP_ANY_ORDER);
    }
}

/* --- privileges ---------------------------------------------------------------------------------
 */

/* Taken from a bridge at work: 77, with the GRANT; also of single columns. */
static void privileges_that_are_revoked(void **state)
{
    static const char *const revoked[] = {
        "INSERT ON ledger_entries",
        "SELECT ON ledger_entries",
        "INSERT ON ledger_entries_mutations",
        "UPDATE ON ledger_entries_cursors",
        "INSERT ON ledger_entries_parked",
        "USAGE ON SEQUENCE ledger_entries_id_seq",
        "USAGE ON SEQUENCE ledger_entries_mutations_id_seq",
        "USAGE ON SEQUENCE ledger_entries_parked_id_seq",
        "column", /* one that an entry needs */
    };
    struct tst_env *env = *state;
    for (size_t i = 0; i < sizeof revoked / sizeof revoked[0] && tst_kind_here(TST_POSTGRES);
         i++, tst_env_reset(env)) {
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        ledger_store *owner = tst_open(env, TST_POSTGRES, "sink");
        const bool column = strcmp(revoked[i], "column") == 0;
        char url[640];
        ledger_error err = { 0 };
        uint64_t read = 0;
        tst_exec_on(owner,
                    "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'carrier') "
                    "THEN CREATE ROLE carrier LOGIN; END IF; EXECUTE format('GRANT USAGE ON "
                    "SCHEMA %%I TO carrier; GRANT ALL ON ALL TABLES IN SCHEMA %%I TO carrier; "
                    "GRANT ALL ON ALL SEQUENCES IN SCHEMA %%I TO carrier', current_schema(), "
                    "current_schema(), current_schema()); END $$");
        /* parameters of a URL: the last one counts */
        snprintf(url, sizeof url, "%s&user=carrier", ledger_store_url(owner));
        ledger_store *sink = tst_open_with(
            env, TST_POSTGRES, "sink",
            &(ledger_store_options){ .size = sizeof(ledger_store_options), .url = url });
        (void)tst_append(source, "s", "{}", NULL, NULL);
        ledger_bridge *bridge = tst_bridge(source, sink, NULL);
        (void)tst_drain(bridge);
        if (column)
            tst_exec_on(owner, "REVOKE INSERT ON ledger_entries FROM carrier; "
                               "GRANT INSERT (id, stream, payload) ON ledger_entries TO carrier");
        else if (strstr(revoked[i], "SEQUENCE") != NULL)
            tst_exec_on(owner, "REVOKE ALL ON SEQUENCE %s FROM carrier",
                        strstr(revoked[i], "SEQUENCE") + strlen("SEQUENCE "));
        else
            tst_exec_on(owner, "REVOKE %s FROM carrier", revoked[i]);
        for (int k = 0; k < 3; k++)
            (void)tst_append(source, "s", "{}", NULL, NULL);
        if (strstr(revoked[i], "parked") != NULL)
            tst_log_text(source, "{\"type\":\"later\",\"stream\":\"t\"}");
        tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_PERMISSION, &err);
        says(&err, "GRANT", revoked[i]);
        assert_int_equal(parked(owner), 0);
        assert_int_equal(tst_count(owner, "s"), 1);
        ledger_bridge_destroy(&bridge);
        tst_exec_on(owner, "GRANT %s TO carrier", column ? "INSERT ON ledger_entries" : revoked[i]);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, owner, TST_CMP_ANY_ORDER);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, tst_setup, tst_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(triggers_that_refuse),        T(a_unique_index_of_the_user),
        T(ids_of_the_sink_s_own_log),   T(generated_always_as_identity),
        T(privileges_that_are_revoked),
    };
    return cmocka_run_group_tests_name("sink faults", tests, NULL, NULL);
}
