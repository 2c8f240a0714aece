/* Names of streams in any locale, look-ups, a table of Go's. */
#include "handle.h"

#include <stdlib.h>

#include "alloc_fail.h"

static struct ldg_pg pg;
static ledger_error err;
static PGconn *conn;
static struct ldg_arena arena;

static void open_on(const char *url)
{
    handle_open(&pg, url, "t", LDG_ROLE_USER, LEDGER_MUTATION_LOG_OFF, LEDGER_STORE_CREATE);
    conn = tst_pg_connect_url(url);
    ldg_arena_init(&arena, 0);
    memset(&err, 0, sizeof(err));
}

static int setup(void **state)
{
    tst_pg_require();
    if (tst_setup(state) != 0)
        return -1;
    open_on(tst_url(*state, TST_POSTGRES, "a"));
    return 0;
}

static int teardown(void **state)
{
    PQfinish(conn);
    handle_close(&pg);
    ldg_arena_fini(&arena);
    return tst_teardown(state);
}

static void add(const char *stream)
{
    tst_pg_sql(conn, "INSERT INTO t(stream, payload) VALUES ('%s', '1')", stream);
}

static const char *names_after(const char *after, size_t limit)
{
    static char text[256];
    ledger_names names = { 0 };

    tst_ok(ldg_pg_list_streams(&pg, after, limit, &names, &err), &err);
    text[0] = '\0';
    for (size_t i = 0; i < names.count; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s<%s>", i ? " " : "",
                 names.items[i]);
    ledger_names_destroy(&names);
    return text;
}

static void check_names(void)
{
    static const char *const streams[] = { "b", "", "a", "B", "b", "\xc3\xa4", "_", "a b", "ab" };

    assert_string_equal(names_after(NULL, 0), "");
    for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++)
        add(streams[i]);
    assert_string_equal(names_after(NULL, 0), "<> <B> <_> <a> <a b> <ab> <b> <\xc3\xa4>");
    assert_string_equal(names_after("", 3), "<B> <_> <a>");
    assert_string_equal(names_after("B", 2), "<_> <a>");
    assert_string_equal(names_after("a", 2), "<a b> <ab>");
    assert_string_equal(names_after("aa", 1), "<ab>");
    assert_string_equal(names_after("b", 9), "<\xc3\xa4>");
    assert_string_equal(names_after("\xc3\xa4", 9), "");
    /* Many rows in one stream cost one step. */
    tst_pg_sql(conn, "INSERT INTO t(stream, payload) SELECT 'm', '1' FROM "
                     "generate_series(1, 20000); ANALYZE t");
    assert_string_equal(names_after("b", 2), "<m> <\xc3\xa4>");
}

/* Bytewise whatever the database's locale: bytes themselves, ICU's English, one column's own. */
static void test_streams(void **state)
{
    check_names();
}

static void test_streams_of_a_locale(void **state)
{
    struct tst_pg *server = tst_pg_shared();

    if (tst_pg_int(server, NULL, "SELECT count(*) FROM pg_database WHERE datname = 'icu'") == 0)
        tst_pg_exec(server, NULL,
                    "CREATE DATABASE icu TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C' "
                    "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'");
    PQfinish(conn);
    handle_close(&pg);
    open_on(tst_pg_url(server, "icu", NULL, NULL));
    tst_pg_sql(conn, "TRUNCATE t");
    check_names();
    tst_pg_sql(conn, "TRUNCATE t; ALTER TABLE t ALTER COLUMN stream TYPE TEXT COLLATE \"C\"");
    ldg_pg_forget(&pg);
    check_names();
}

static void test_entries_by_id(void **state)
{
    const ledger_id ids[] = { { .number = 2 }, { .number = 99 }, { .number = 1 }, { .number = 2 } };
    ledger_entry *entries = NULL;

    tst_pg_sql(conn, "INSERT INTO t(stream, payload, tags, created_at) VALUES "
                     "('s', ' 1 ', '{}', '2025-11-24 16:00:00.5+00'), "
                     "('', '', '[]', 'infinity')");
    tst_ok(ldg_pg_entries_by_id(&pg, ids, 4, &arena, &entries, &err), &err);
    assert_int_equal(entries[0].id.number, 2);
    assert_string_equal(entries[0].stream, "");
    assert_int_equal(entries[0].payload.size, 0);
    assert_true(entries[0].created_at_us == LEDGER_NO_TIME);
    assert_int_equal(entries[1].id.number, 0);
    assert_int_equal(entries[2].id.number, 1);
    assert_string_equal(entries[2].stream, "s");
    assert_memory_equal(entries[2].payload.data, " 1 ", 3);
    assert_true(entries[2].created_at_us == 1764000000500000);
    assert_string_equal(entries[2].source_id, "");
    assert_int_equal(entries[3].id.number, 2);
}

static const char *kept(int origin, const char *stream, int64_t before)
{
    static char text[256];
    ledger_id *ids = NULL;
    size_t count = 99;

    tst_ok(
        ldg_pg_trim_survivors(&pg, origin, stream, ldg_id_of(before), &arena, &ids, &count, &err),
        &err);
    text[0] = '\0';
    for (size_t i = 0; i < count; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%lld", i ? " " : "",
                 (long long)ids[i].number);
    return text;
}

/* A table that only Go has opened, by a role that may only read. */
static void test_go_table(void **state)
{
    const char *url = tst_url(*state, TST_POSTGRES, "go");
    struct ldg_history_row *rows;
    struct ldg_cursor cursor;
    ledger_entry *entries;
    ledger_names names;
    ledger_id id;
    size_t count;
    bool any;

    PQfinish(conn);
    handle_close(&pg);
    conn = tst_pg_connect_url(url);
    tst_pg_sql(conn,
               "CREATE TABLE t(id BIGSERIAL PRIMARY KEY, stream TEXT NOT NULL, "
               "payload BYTEA NOT NULL, order_key TEXT NOT NULL DEFAULT '', "
               "dedup_key TEXT NOT NULL DEFAULT '', schema_version INTEGER NOT NULL DEFAULT 1, "
               "metadata JSONB, tags JSONB NOT NULL DEFAULT '[]', annotations JSONB, "
               "source_id TEXT NOT NULL DEFAULT '', created_at TIMESTAMPTZ NOT NULL DEFAULT now(), "
               "updated_at TIMESTAMPTZ); CREATE INDEX idx_t_stream_id ON t(stream, id); "
               "CREATE UNIQUE INDEX idx_t_dedup ON t(stream, dedup_key) WHERE dedup_key != ''; "
               "INSERT INTO t(stream, payload, source_id) VALUES ('s', '1', ''), ('s', '2', '42')");
    handle_open(&pg, url, "t", LDG_ROLE_USER, LEDGER_MUTATION_LOG_OFF, LEDGER_STORE_READ_ONLY);
    tst_ok(ldg_pg_read(&pg, "s", NULL, NULL, &arena, &entries, &count, &err), &err);
    assert_int_equal(count, 2);
    assert_string_equal(entries[1].source_id, "42");
    assert_string_equal(entries[1].origin, "");
    tst_ok(ldg_pg_history(&pg, 0, ldg_id_of(0), 10, 0, &arena, &rows, &count, &err), &err);
    assert_int_equal(count, 2);
    tst_ok(ldg_pg_find_by_source_id(&pg, "s", "42", &id, &err), &err);
    assert_int_equal(id.number, 2);
    tst_fails(ldg_pg_find_by_source_id(&pg, "s", "43", &id, &err), LEDGER_ERR_NOT_FOUND, &err);
    assert_string_equal(kept(0, "s", 1), "1");
    assert_string_equal(names_after(NULL, 0), "<s>");
    tst_ok(ldg_pg_origin_unclaimed(&pg, &any, &err), &err);
    assert_true(any);
    tst_fails(ldg_pg_cursor_get(&pg, "default", false, &cursor, &err), LEDGER_ERR_NOT_FOUND, &err);
    tst_ok(ldg_pg_cursor_list(&pg, &names, &err), &err);
    assert_int_equal(names.count, 0);
    tst_pg_sql(conn, "CREATE TABLE t_cursors(name TEXT NOT NULL PRIMARY KEY, cursor TEXT NOT NULL);"
                     "INSERT INTO t_cursors VALUES ('default', '0000000000000000042')");
    tst_ok(ldg_pg_cursor_get(&pg, "default", false, &cursor, &err), &err);
    assert_string_equal(cursor.readable, "0000000000000000042");
    assert_string_equal(cursor.state, "");
    tst_ok(ldg_pg_cursor_list(&pg, &names, &err), &err);
    assert_int_equal(names.count, 1);
    ledger_names_destroy(&names);
}

static ledger_rc oom_run(void *ctx)
{
    const ledger_id ids[] = { { .number = 1 }, { .number = 2 } };
    ledger_error local = { 0 };
    ledger_entry *entries;
    ledger_names names = { 0 };
    ledger_id id;
    ledger_stream_stat stat;
    struct ldg_arena own;
    ledger_id *kept_ids;
    size_t count;

    ldg_arena_init(&own, 0);
    ledger_rc rc = ldg_pg_list_streams(&pg, NULL, 0, &names, &local);
    if (rc == LEDGER_OK)
        ledger_names_destroy(&names);
    if (rc == LEDGER_OK)
        rc = ldg_pg_entries_by_id(&pg, ids, 2, &own, &entries, &local);
    if (rc == LEDGER_OK)
        rc = ldg_pg_trim_survivors(&pg, 0, "s", ldg_id_of(9), &own, &kept_ids, &count, &local);
    if (rc == LEDGER_OK)
        rc = ldg_pg_stat(&pg, "s", &stat, &local);
    if (rc == LEDGER_OK)
        rc = ldg_pg_find_by_source_id(&pg, "s", "7", &id, &local);
    ldg_arena_fini(&own);
    return rc;
}

static void test_out_of_memory(void **state)
{
    tst_pg_sql(conn, "INSERT INTO t(stream, payload, source_id) VALUES ('s', '1', '7'), "
                     "('t', '1', '')");
    alloc_fail_each(oom_run, NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_streams),  TEST(test_streams_of_a_locale), TEST(test_entries_by_id),
        TEST(test_go_table), TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
