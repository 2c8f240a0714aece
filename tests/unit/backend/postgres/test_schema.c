/* Making, mending and refusing tables, beside writers and other programs; check(). */
#include "handle.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc_fail.h"
#include "backend/postgres/schema.h"
#include "base/clock.h"
#include "go_pg_tables.h"

#define PROCESSES 4
#define T LEDGER_DEFAULT_TABLE

struct fixture {
    struct tst_env *env;
    char url[300]; /* of a schema of its own */
    PGconn *conn;  /* a superuser's, in it */
    struct ldg_pg pg;
    ledger_error err;
};

struct found {
    char text[16384];
    int counts[3];
};

static int setup(void **state)
{
    struct fixture *f = test_calloc(1, sizeof(*f));
    void *env = NULL;
    tst_pg_require();
    if (tst_setup(&env) != 0)
        return -1;
    f->env = env;
    snprintf(f->url, sizeof(f->url), "%s", tst_url(f->env, TST_POSTGRES, "a"));
    f->conn = tst_pg_connect_url(f->url);
    tst_pg_sql(f->conn, "SET client_min_messages = error");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    void *env = f->env;
    char *schema = tst_pg_sql_text(f->conn, "SELECT current_schema()");
    tst_pg_sql(f->conn, "DROP SCHEMA \"%s\" CASCADE", schema);
    free(schema);
    PQfinish(f->conn);
    test_free(f);
    return tst_teardown(&env);
}

static ledger_rc try_as(struct fixture *f, const char *url, enum ldg_role role, uint32_t flags)
{
    return handle_try(&f->pg, url, T, role, LEDGER_MUTATION_LOG_AUTO, flags, &f->err);
}

static ledger_rc try_open(struct fixture *f, uint32_t flags)
{
    return try_as(f, f->url, LDG_ROLE_USER, flags);
}

static void open_now(struct fixture *f, uint32_t flags)
{
    ledger_rc rc = try_open(f, flags);
    tst_ok(rc, &f->err);
}

static void says(const struct fixture *f, const char *text)
{
    if (!strstr(f->err.message, text))
        tst_fail("not \"%s\": %s", text, f->err.message);
}

static int64_t append(struct fixture *f, const char *dedup_key)
{
    const ledger_append_input input = { .payload = { "1", 1 }, .dedup_key = dedup_key };
    ledger_ids ids = { 0 };
    ledger_rc rc = ldg_pg_append(&f->pg, "s", &input, 1, &ids, &f->err);
    tst_ok(rc, &f->err);
    int64_t id = ids.count ? ids.items[0].number : 0;
    ledger_ids_destroy(&ids);
    return id;
}

static bool has_column(PGconn *conn, const char *table, const char *column)
{
    return tst_pg_sql_int(conn,
                          "SELECT count(*) FROM pg_attribute WHERE attrelid = '\"%s\"'::regclass "
                          "AND attname = '%s' AND NOT attisdropped",
                          table, column) == 1;
}

static bool has_index(PGconn *conn, const char *name)
{
    return tst_pg_sql_int(conn,
                          "SELECT count(*) FROM pg_index AS i JOIN pg_class AS c "
                          "ON c.oid = i.indexrelid WHERE c.relname = '%s' AND i.indisvalid "
                          "AND c.relnamespace = current_schema()::regnamespace",
                          name) == 1;
}

static void check_ours(PGconn *conn, const char *t, bool with_log)
{
    static const char *const columns[] = { "source_id",    "origin",   "source_pos",
                                           "mutation_pos", "tags_pos", "annotations_pos" };
    static const char *const indexes[] = { "stream_id", "dedup", "origin", "origin_text",
                                           "parked_entry" };
    char name[128];
    for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++)
        assert_true(has_column(conn, t, columns[i]));
    for (size_t i = 0; i < sizeof(indexes) / sizeof(indexes[0]); i++) {
        snprintf(name, sizeof(name), "idx_%s_%s", t, indexes[i]);
        assert_true(has_index(conn, name));
    }
    snprintf(name, sizeof(name), "%s_cursors", t);
    assert_true(has_column(conn, name, "state"));
    assert_true(has_column(conn, name, "moved_at"));
    snprintf(name, sizeof(name), "%s_parked", t);
    assert_true(has_column(conn, name, "entry_id"));
    assert_int_equal(tst_pg_sql_int(conn, "SELECT count(*) FROM %s_meta", t), 1);
    assert_int_equal(tst_pg_sql_int(conn, "SELECT count(*) FROM %s_origins", t), 0);
    assert_int_equal(tst_pg_sql_int(conn, "SELECT count(*) FROM %s_parked", t), 0);
    assert_int_equal(tst_pg_sql_int(conn, "SELECT count(*) FROM %s_foreign", t), 0);
    if (with_log) {
        snprintf(name, sizeof(name), "%s_mutations", t);
        assert_true(has_column(conn, name, "txid"));
        snprintf(name, sizeof(name), "idx_%s_mutations_txid", t);
        assert_true(has_index(conn, name));
        assert_int_equal(tst_pg_sql_int(conn,
                                        "SELECT count(*) FROM pg_attrdef WHERE adrelid = "
                                        "'%s_mutations'::regclass AND pg_get_expr(adbin, adrelid) "
                                        "= 'pg_current_xact_id()'",
                                        t),
                         1);
    }
}

/* --- making ---------------------------------------------------------------------------------- */

static void test_create(void **state)
{
    struct fixture *f = *state;
    open_now(f, LEDGER_STORE_CREATE);
    assert_true(f->pg.has_ours && f->pg.has_log && f->pg.has_txid && f->pg.has_source_id);
    assert_false(f->pg.has_notify || f->pg.has_full_text || f->pg.has_origins);
    assert_non_null(strstr(f->pg.wake_name, "postgres:"));
    assert_int_equal(append(f, "k"), 1);
    check_ours(f->conn, T, true);
    /* Only what is needed: no other index slows the writer down. */
    assert_int_equal(
        tst_pg_sql_int(f->conn, "SELECT count(*) FROM pg_index WHERE indrelid = '" T "'::regclass"),
        5);
    assert_int_equal(tst_pg_sql_int(f->conn, "SELECT count(*) FROM pg_index WHERE indrelid = '" T
                                             "_mutations'::regclass"),
                     2);
    handle_close(&f->pg);
    /* Nothing is missing: nothing is written. */
    char *before = tst_pg_sql_text(f->conn, "SELECT max(xmin::text::bigint) FROM pg_class");
    open_now(f, LEDGER_STORE_CREATE);
    handle_close(&f->pg);
    char *after = tst_pg_sql_text(f->conn, "SELECT max(xmin::text::bigint) FROM pg_class");
    assert_string_equal(before, after);
    free(before);
    free(after);
    assert_int_equal(try_as(f, f->url, LDG_ROLE_SOURCE, 0), LEDGER_OK);
    handle_close(&f->pg);
    assert_int_equal(try_as(f, f->url, LDG_ROLE_SINK, 0), LEDGER_OK);
    handle_close(&f->pg);
}

static void test_names(void **state)
{
    struct fixture *f = *state;
    ledger_rc rc = handle_try(&f->pg, f->url, "Select", LDG_ROLE_USER, LEDGER_MUTATION_LOG_AUTO,
                              LEDGER_STORE_CREATE, &f->err);
    tst_ok(rc, &f->err);
    assert_true(append(f, NULL) > 0);
    handle_close(&f->pg);
    assert_int_equal(tst_pg_sql_int(f->conn, "SELECT count(*) FROM \"select\""), 1);
    tst_fails(
        handle_try(&f->pg, f->url, "other", LDG_ROLE_USER, LEDGER_MUTATION_LOG_AUTO, 0, &f->err),
        LEDGER_ERR_SCHEMA, &f->err);
    says(f, "--table other");
    tst_fails(try_open(f, 0), LEDGER_ERR_SCHEMA, &f->err);
    says(f, "ledger_entries");
    /* The longest names that fit. */
    char name[60];
    memset(name, 'x', sizeof(name));
    name[LDG_PG_TABLE_MAX_BYTES] = '\0';
    for (int i = 0; i < 2; i++) {
        rc =
            handle_try(&f->pg, f->url, name, LDG_ROLE_USER, LEDGER_MUTATION_LOG_AUTO,
                       LEDGER_STORE_CREATE | LEDGER_STORE_NOTIFY | LEDGER_STORE_FULL_TEXT, &f->err);
        tst_ok(rc, &f->err);
        assert_true(append(f, NULL) > 0);
        handle_close(&f->pg);
    }
}

static void test_log_modes(void **state)
{
    static const struct {
        ledger_log_mode log;
        uint32_t flags;
        ledger_rc rc;
        bool has_log;
    } steps[] = {
        { LEDGER_MUTATION_LOG_OFF, LEDGER_STORE_CREATE, LEDGER_OK, false },
        { LEDGER_MUTATION_LOG_AUTO, 0, LEDGER_OK, false },
        { LEDGER_MUTATION_LOG_ON, 0, LEDGER_ERR_SCHEMA, false },
        { LEDGER_MUTATION_LOG_ON, LEDGER_STORE_CREATE, LEDGER_OK, true },
        { LEDGER_MUTATION_LOG_OFF, 0, LEDGER_OK, false },
        { LEDGER_MUTATION_LOG_AUTO, 0, LEDGER_OK, true },
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        ledger_rc rc =
            handle_try(&f->pg, f->url, T, LDG_ROLE_USER, steps[i].log, steps[i].flags, &f->err);
        assert_int_equal(rc, steps[i].rc);
        if (rc != LEDGER_OK)
            continue;
        assert_int_equal(f->pg.has_log, steps[i].has_log);
        append(f, NULL);
        handle_close(&f->pg);
    }
    assert_int_equal(tst_pg_sql_int(f->conn, "SELECT count(*) FROM " T "_mutations"), 2);
}

static void test_identity(void **state)
{
    struct fixture *f = *state;
    open_now(f, LEDGER_STORE_CREATE);
    struct ldg_identity first = f->pg.identity;
    assert_int_equal(strlen(first.uuid), 36);
    assert_int_equal(first.epoch, 1);
    handle_close(&f->pg);
    open_now(f, LEDGER_STORE_CREATE);
    assert_string_equal(f->pg.identity.uuid, first.uuid);
    append(f, NULL);
    handle_close(&f->pg);
    open_now(f, LEDGER_STORE_CREATE | LEDGER_STORE_NEW_IDENTITY);
    assert_string_not_equal(f->pg.identity.uuid, first.uuid);
    first = f->pg.identity;
    handle_close(&f->pg);
    open_now(f, 0);
    assert_string_equal(f->pg.identity.uuid, first.uuid);
    /* Behind an open handle: after a reconnect it is noticed. */
    tst_ok(ldg_pg_schema_recheck(&f->pg, &f->err), &f->err);
    tst_pg_sql(f->conn, "UPDATE " T "_meta SET epoch = 2");
    tst_fails(ldg_pg_schema_recheck(&f->pg, &f->err), LEDGER_ERR_SCHEMA, &f->err);
    says(f, first.uuid);
    handle_close(&f->pg);
    tst_pg_sql(f->conn, "UPDATE " T "_meta SET uuid = ''");
    tst_fails(try_open(f, 0), LEDGER_ERR_DATA, &f->err);
}

static void test_options(void **state)
{
    struct fixture *f = *state;
    open_now(f, LEDGER_STORE_CREATE);
    append(f, NULL);
    handle_close(&f->pg);
    for (int i = 0; i < 2; i++) {
        open_now(f, LEDGER_STORE_CREATE | LEDGER_STORE_NOTIFY | LEDGER_STORE_FULL_TEXT);
        assert_true(f->pg.has_notify && f->pg.has_full_text);
        handle_close(&f->pg);
    }
    tst_pg_sql(f->conn, "LISTEN \"ledger_" T "_mutations\"");
    open_now(f, 0);
    assert_true(f->pg.has_notify && f->pg.has_full_text);
    append(f, NULL);
    tst_pg_sql(f->conn, "SELECT 1");
    PGnotify *notify = PQnotifies(f->conn);
    assert_non_null(notify);
    PQfreemem(notify);
    /* Nothing that a payload holds keeps it from being written. */
    tst_pg_sql(f->conn, "INSERT INTO " T "(stream, payload) VALUES ('x', '\\xff00'), "
                        "('x', convert_to('{\"a\":\"\\u0000\"}', 'UTF8')), ('x', 'not json'), "
                        "('x', ''), ('x', convert_to((SELECT '[' || string_agg('\"' || "
                        "md5(i::text) || '\"', ',') || ']' FROM generate_series(1, 100000) AS i), "
                        "'UTF8')), ('y', convert_to('{\"Gr\\u00f6\\u00dfe\":\"a\\nb\"}', 'UTF8'))");
    assert_int_equal(tst_pg_sql_int(f->conn, "SELECT count(*) FROM " T " WHERE " T "_words(payload)"
                                             " @@ plainto_tsquery('simple', 'b größe')"),
                     1);
    handle_close(&f->pg);
    /* A trigger that was switched off is switched on again. */
    tst_pg_sql(f->conn, "ALTER TABLE " T "_mutations DISABLE TRIGGER " T "_mutations_notify");
    open_now(f, 0);
    assert_false(f->pg.has_notify);
    handle_close(&f->pg);
    open_now(f, LEDGER_STORE_CREATE | LEDGER_STORE_NOTIFY);
    assert_true(f->pg.has_notify);
    handle_close(&f->pg);
}

/* The entries may be in a later schema of search_path: what is added goes beside them. */
static void test_search_path(void **state)
{
    struct fixture *f = *state;
    char *schema = tst_pg_sql_text(f->conn, "SELECT current_schema()");
    char url[400];
    tst_go_pg_create(f->conn, T, true);
    tst_pg_sql(f->conn, "CREATE SCHEMA \"%s_first\"", schema);
    snprintf(
        url, sizeof(url), "%s",
        tst_pg_url(tst_pg_shared(), NULL, NULL, "options=-csearch_path%3DFIRST_first%2CFIRST"));
    char text[400], *out = text;
    for (const char *p = url; *p;) {
        if (strncmp(p, "FIRST", 5) == 0) {
            out += snprintf(out, 100, "%s", schema);
            p += 5;
        } else {
            *out++ = *p++;
        }
    }
    *out = '\0';
    ledger_rc rc = try_as(f, text, LDG_ROLE_USER, LEDGER_STORE_CREATE);
    tst_ok(rc, &f->err);
    handle_close(&f->pg);
    check_ours(f->conn, T, true);
    assert_int_equal(tst_pg_sql_int(f->conn,
                                    "SELECT count(*) FROM pg_class WHERE relnamespace = "
                                    "'\"%s_first\"'::regnamespace",
                                    schema),
                     0);
    tst_pg_sql(f->conn, "DROP SCHEMA \"%s_first\"", schema);
    free(schema);
    snprintf(text, sizeof(text), "%s",
             tst_pg_url(tst_pg_shared(), NULL, NULL, "options=-csearch_path%3Dnone_such"));
    tst_fails(try_as(f, text, LDG_ROLE_USER, LEDGER_STORE_CREATE), LEDGER_ERR_SCHEMA, &f->err);
    says(f, "search_path");
}

/* --- tables of Go ---------------------------------------------------------------------------- */

/* A table that Go made becomes ours and stays Go's. */
static void upgrade(struct fixture *f, bool old)
{
    if (old)
        tst_go_pg_create_old(f->conn, T);
    else
        tst_go_pg_create(f->conn, T, true);
    if (!old)
        tst_go_pg_append(f->conn, T, true, "s", "{\"a\":1}", "k", NULL);
    const int64_t rows = tst_pg_sql_int(f->conn, "SELECT count(*) FROM " T);
    const int64_t file = tst_pg_sql_int(f->conn, "SELECT pg_relation_filenode('" T "')");
    open_now(f, 0);
    check_ours(f->conn, T, !old);
    /* Without rewriting it. */
    assert_int_equal(tst_pg_sql_int(f->conn, "SELECT pg_relation_filenode('" T "')"), file);
    assert_int_equal(f->pg.has_log, !old);
    if (!old) {
        assert_int_equal(append(f, "k"), 0); /* its key is there */
        assert_true(has_index(f->conn, "idx_" T "_source"));
        assert_true(has_index(f->conn, "idx_" T "_tags"));
        assert_int_equal(tst_pg_sql_int(f->conn, "SELECT count(*) FROM " T "_mutations "
                                                 "WHERE txid IS NULL"),
                         1);
    }
    const int64_t ours = append(f, "l");
    assert_true(ours > rows);
    /* Go opens it again and goes on. */
    tst_go_pg_create(f->conn, T, true);
    assert_int_equal(tst_go_pg_append(f->conn, T, true, "s", "2", "l", NULL), 0);
    assert_true(tst_go_pg_append(f->conn, T, true, "s", "2", NULL, "7") > ours);
    if (!old)
        assert_int_equal(tst_pg_sql_int(f->conn, "SELECT count(*) FROM " T "_mutations "
                                                 "WHERE txid IS NOT NULL"),
                         2);
    tst_go_pg_set_cursor(f->conn, T, "default", "0000000000000000005");
    tst_go_pg_set_cursor(f->conn, T, "default", "0000000000000000004");
    assert_int_equal(tst_pg_sql_int(f->conn, "SELECT count(*) FROM " T "_cursors WHERE "
                                             "cursor = '0000000000000000005' AND state = ''"),
                     1);
    handle_close(&f->pg);
}

static void test_go_tables(void **state)
{
    upgrade(*state, false);
}

static void test_old_go_tables(void **state)
{
    upgrade(*state, true);
}

/* Without permission to change it the table is used as it is. */
static void test_go_table_read_only(void **state)
{
    struct fixture *f = *state;
    for (int old = 0; old < 2; old++) {
        struct ldg_arena arena;
        struct ldg_identity identity;
        ledger_entry *entries;
        size_t count = 0;
        if (old)
            tst_go_pg_create_old(f->conn, T);
        else
            tst_go_pg_create(f->conn, T, true);
        tst_pg_sql(f->conn, "INSERT INTO " T "(stream, payload) VALUES ('s', '1')");
        ldg_arena_init(&arena, 0);
        open_now(f, LEDGER_STORE_READ_ONLY);
        tst_ok(ldg_pg_read(&f->pg, "s", NULL, NULL, &arena, &entries, &count, &f->err), &f->err);
        assert_int_equal(count, 1);
        tst_fails(ldg_backend_postgres.state->identity(&f->pg, &identity, &f->err),
                  LEDGER_ERR_PERMISSION, &f->err);
        assert_false(has_column(f->conn, T, "origin"));
        handle_close(&f->pg);
        tst_fails(try_as(f, f->url, LDG_ROLE_SOURCE, LEDGER_STORE_READ_ONLY), LEDGER_ERR_SCHEMA,
                  &f->err);
        says(f, "store init");
        ldg_arena_fini(&arena);
        tst_pg_sql(f->conn, "DROP TABLE " T);
    }
}

/* In the caller's transaction no table is changed; the rest works. */
static void test_in_transaction(void **state)
{
    struct fixture *f = *state;
    struct ldg_open o = { .table = T,
                          .log_table = T "_mutations",
                          .connection = f->conn,
                          .busy_timeout_ms = 1000,
                          .label = "test" };
    const char *tag = "t";
    const ledger_pair pair = { "a", "b" };
    tst_go_pg_create(f->conn, T, true);
    tst_pg_sql(f->conn, "BEGIN");
    memset(&f->pg, 0, sizeof(f->pg));
    tst_ok(ldg_backend_postgres.open(&f->pg, &o, &f->err), &f->err);
    assert_false(f->pg.has_ours);
    assert_true(f->pg.has_log);
    ledger_id id = { .number = append(f, "k") };
    assert_int_equal(append(f, "k"), 0);
    uint64_t deleted = 0;
    tst_ok(ldg_pg_set_tags(&f->pg, "s", id, (ledger_list){ &tag, 1 }, &f->err), &f->err);
    tst_ok(ldg_pg_set_annotations(&f->pg, "s", id, (ledger_map){ &pair, 1 }, &f->err), &f->err);
    tst_ok(ldg_pg_trim(&f->pg, "s", id, &deleted, &f->err), &f->err);
    assert_int_equal(deleted, 1);
    handle_close(&f->pg);
    assert_int_equal(PQtransactionStatus(f->conn), PQTRANS_INTRANS);
    assert_false(has_column(f->conn, T, "origin"));
    assert_int_equal(tst_pg_sql_int(f->conn, "SELECT count(*) FROM " T "_mutations"), 4);
    o.flags = LEDGER_STORE_CREATE;
    memset(&f->pg, 0, sizeof(f->pg));
    tst_fails(ldg_backend_postgres.open(&f->pg, &o, &f->err), LEDGER_ERR_INVALID, &f->err);
    tst_pg_sql(f->conn, "COMMIT");
    memset(&f->pg, 0, sizeof(f->pg));
    tst_ok(ldg_backend_postgres.open(&f->pg, &o, &f->err), &f->err);
    handle_close(&f->pg);
    check_ours(f->conn, T, true);
    /* The session's own settings are as before. */
    char *timeout = tst_pg_sql_text(f->conn, "SHOW lock_timeout");
    assert_string_equal(timeout, "0");
    free(timeout);
}

/* --- other shapes ---------------------------------------------------------------------------- */

#define COLUMNS                                                                                    \
    "stream TEXT, payload BYTEA, order_key TEXT, dedup_key TEXT, schema_version INT, "             \
    "metadata JSONB, tags JSONB, annotations JSONB, created_at TIMESTAMPTZ, updated_at "           \
    "TIMESTAMPTZ"

static void test_other_shapes(void **state)
{
    static const struct {
        const char *ddl, *said;
    } cases[] = {
        { "CREATE VIEW " T " AS SELECT 1 AS id", "is a view" },
        { "CREATE MATERIALIZED VIEW " T " AS SELECT 1 AS id", "is a materialized view" },
        { "CREATE SEQUENCE " T, "is a sequence" },
        { "CREATE TABLE x(a int); CREATE INDEX " T " ON x(a)", "is an index" },
        { "CREATE TYPE " T " AS (a int)", "is a type" },
        { "CREATE TABLE " T "(id bigint, stream text) PARTITION BY LIST (stream)",
          "is a partitioned table" },
        { "CREATE TABLE " T "(id BIGSERIAL PRIMARY KEY, name TEXT)", "\"stream\"" },
        { "CREATE TABLE " T "(id TEXT PRIMARY KEY, " COLUMNS ")", "\"id\" of type text" },
        { "CREATE TABLE " T "(id BIGSERIAL, " COLUMNS ", PRIMARY KEY (id, stream))",
          "not its primary key" },
        { "CREATE TABLE " T "(id BIGINT PRIMARY KEY, " COLUMNS ")", "without a sequence" },
        { "CREATE TABLE " T "(id BIGSERIAL PRIMARY KEY, " COLUMNS ", who TEXT NOT NULL)",
          "\"who\" that has to be filled" },
        { "CREATE TABLE " T "(id BIGSERIAL PRIMARY KEY, " COLUMNS "); "
          "ALTER TABLE " T " ALTER payload TYPE JSONB USING NULL",
          "\"payload\" of type jsonb, where a ledger has bytea" },
        { "CREATE TABLE " T "_cursors(who TEXT)", "\"name\"" },
        { "CREATE TABLE " T "_meta(who TEXT)", "\"id\"" },
        { "CREATE TABLE " T "_origins(id INTEGER PRIMARY KEY)", "\"uuid\"" },
        { "CREATE TABLE " T "_parked(id BIGSERIAL PRIMARY KEY)", "\"source_uuid\"" },
        { "CREATE TABLE " T "_foreign(id BIGINT)", "\"origin\"" },
        { "CREATE TABLE " T "_mutations(id BIGSERIAL PRIMARY KEY)", "\"stream\"" },
        { "CREATE TABLE x(a int); CREATE INDEX idx_" T "_dedup ON x(a)", "idx_" T "_dedup" },
        { "CREATE SEQUENCE idx_" T "_origin", "idx_" T "_origin" },
    };
    struct fixture *f = *state;
    char *schema = tst_pg_sql_text(f->conn, "SELECT current_schema()");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        tst_pg_sql(f->conn, "DROP SCHEMA \"%s\" CASCADE; CREATE SCHEMA \"%s\"", schema, schema);
        tst_pg_sql(f->conn, "%s", cases[i].ddl);
        const char *all = "SELECT count(*) FROM pg_class";
        int64_t before = tst_pg_sql_int(f->conn, "%s", all);
        tst_fails(try_open(f, LEDGER_STORE_CREATE), LEDGER_ERR_SCHEMA, &f->err);
        says(f, cases[i].said);
        assert_int_equal(tst_pg_sql_int(f->conn, "%s", all), before);
    }
    /* What is more than needed stands in nobody's way. */
    tst_pg_sql(f->conn, "DROP SCHEMA \"%s\" CASCADE; CREATE SCHEMA \"%s\"", schema, schema);
    tst_pg_sql(f->conn,
               "CREATE TABLE " T "(id BIGINT PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "
               "who TEXT NOT NULL DEFAULT 'x', why TEXT, " COLUMNS ")");
    open_now(f, LEDGER_STORE_CREATE);
    assert_true(append(f, "k") > 0);
    handle_close(&f->pg);
    /* A log that is not asked for may be anything. */
    tst_pg_sql(f->conn, "DROP TABLE " T "_mutations; CREATE VIEW " T "_mutations AS SELECT 1");
    handle_open(&f->pg, f->url, T, LDG_ROLE_USER, LEDGER_MUTATION_LOG_OFF, LEDGER_STORE_CREATE);
    handle_close(&f->pg);
    free(schema);
}

static void test_indexes(void **state)
{
    struct fixture *f = *state;
    tst_go_pg_create(f->conn, T, false);
    /* One of that name over other columns. */
    tst_pg_sql(f->conn, "DROP INDEX idx_" T "_dedup; "
                        "CREATE INDEX idx_" T "_dedup ON " T "(dedup_key)");
    tst_fails(try_open(f, 0), LEDGER_ERR_SCHEMA, &f->err);
    says(f, "idx_" T "_dedup");
    /* Rows that a missing one would have refused; what was begun is taken away again. */
    tst_pg_sql(f->conn, "DROP INDEX idx_" T "_dedup; INSERT INTO " T "(stream, payload, dedup_key) "
                        "VALUES ('s', '1', 'k'), ('s', '2', 'k')");
    tst_fails(try_open(f, 0), LEDGER_ERR_SCHEMA, &f->err);
    says(f, "same key");
    assert_int_equal(tst_pg_sql_int(f->conn, "SELECT count(*) FROM pg_class WHERE relname = 'idx_" T
                                             "_dedup' AND relnamespace = "
                                             "current_schema()::regnamespace"),
                     0);
    tst_pg_sql(f->conn, "DELETE FROM " T " WHERE payload = '2'");
    open_now(f, 0);
    check_ours(f->conn, T, false);
    handle_close(&f->pg);
    /* A build that was broken off. */
    tst_pg_sql(f->conn, "UPDATE pg_index SET indisvalid = false WHERE indexrelid IN "
                        "('idx_" T "_origin'::regclass, 'idx_" T "_stream_id'::regclass)");
    open_now(f, 0);
    check_ours(f->conn, T, false);
    handle_close(&f->pg);
}

/* Behind a pooler each statement may be in another session. */
static void test_pooled(void **state)
{
    struct fixture *f = *state;
    const struct ldg_open o = { .table = T, .log_table = T "_mutations", .url = f->url };
    open_now(f, LEDGER_STORE_CREATE);
    f->pg.pooled = true;
    tst_pg_sql(f->conn, "DROP INDEX idx_" T "_origin; UPDATE pg_index SET indisvalid = false "
                        "WHERE indexrelid = 'idx_" T "_mutations_txid'::regclass");
    tst_ok(ldg_pg_schema_open(&f->pg, &o, &f->err), &f->err);
    check_ours(f->conn, T, true);
    handle_close(&f->pg);
}

static void test_log_cache(void **state)
{
    struct fixture *f = *state;
    open_now(f, LEDGER_STORE_CREATE);
    handle_close(&f->pg);
    tst_pg_sql(f->conn, "ALTER SEQUENCE " T "_mutations_id_seq CACHE 10");
    tst_fails(try_as(f, f->url, LDG_ROLE_SOURCE, 0), LEDGER_ERR_SCHEMA, &f->err);
    says(f, "CACHE 1");
    assert_int_equal(try_as(f, f->url, LDG_ROLE_SINK, 0), LEDGER_OK);
    handle_close(&f->pg);
}

/* What the owner may change at any time, and a bridge cannot do with: refused at its start, with
 * the statement that helps, and found by check(). */
static void check(struct fixture *f, struct found *found);
static void finds(const struct found *found, const char *text);

static void test_faults(void **state)
{
    static const struct {
        enum ldg_role role;
        const char *ddl, *said, *found, *help;
    } cases[] = {
        { LDG_ROLE_SINK, "ALTER SEQUENCE " T "_id_seq CACHE 64", "CACHE 64",
          "1 " T ": its sequence has CACHE 64", "ALTER SEQUENCE " T "_id_seq CACHE 1" },
        { LDG_ROLE_SINK, "ALTER SEQUENCE " T "_id_seq INCREMENT -1 MINVALUE -1000 RESTART 1000",
          "counts down", "1 " T ": its sequence counts down",
          "ALTER SEQUENCE " T "_id_seq INCREMENT BY 1 NO MINVALUE NO MAXVALUE RESTART WITH 2000" },
        { LDG_ROLE_SINK, "ALTER SEQUENCE " T "_id_seq CYCLE", "CYCLE", "1 " T ": its sequence",
          "ALTER SEQUENCE " T "_id_seq NO CYCLE" },
        { LDG_ROLE_SINK, "ALTER SEQUENCE " T "_parked_id_seq CACHE 2", T "_parked",
          "1 " T "_parked: its sequence", "ALTER SEQUENCE " T "_parked_id_seq CACHE 1" },
        { LDG_ROLE_SOURCE, "ALTER SEQUENCE " T "_mutations_id_seq INCREMENT -1", "counts down",
          "2 " T "_mutations: its sequence counts down",
          "ALTER SEQUENCE " T "_mutations_id_seq INCREMENT BY 1" },
        { LDG_ROLE_SOURCE, "ALTER SEQUENCE " T "_mutations_id_seq CYCLE", "CYCLE",
          "2 " T "_mutations: its sequence", "ALTER SEQUENCE " T "_mutations_id_seq NO CYCLE" },
        { LDG_ROLE_SOURCE, "ALTER TABLE " T "_mutations SET UNLOGGED", "UNLOGGED",
          "2 " T "_mutations: UNLOGGED", "ALTER TABLE " T "_mutations SET LOGGED" },
        { LDG_ROLE_SINK, "ALTER TABLE " T "_cursors SET UNLOGGED", "UNLOGGED",
          "2 " T "_cursors: UNLOGGED", "ALTER TABLE " T "_cursors SET LOGGED" },
        { LDG_ROLE_SINK, "CREATE TABLE child () INHERITS (" T ")", "inherit",
          "2 " T ": other tables inherit", "ALTER TABLE child NO INHERIT " T },
        { LDG_ROLE_SOURCE, "CREATE TABLE children () INHERITS (" T "_mutations)", "inherit",
          "2 " T "_mutations: other tables inherit",
          "ALTER TABLE children NO INHERIT " T "_mutations" },
    };
    struct fixture *f = *state;
    static struct found found;

    open_now(f, LEDGER_STORE_CREATE);
    handle_close(&f->pg);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        tst_pg_sql(f->conn, "%s", cases[i].ddl);
        tst_fails(try_as(f, f->url, cases[i].role, 0), LEDGER_ERR_SCHEMA, &f->err);
        says(f, cases[i].said);
        says(f, "ALTER ");
        open_now(f, 0);
        check(f, &found);
        finds(&found, cases[i].found);
        handle_close(&f->pg);
        tst_pg_sql(f->conn, "%s", cases[i].help);
        tst_ok(try_as(f, f->url, cases[i].role, 0), &f->err);
        handle_close(&f->pg);
    }
    /* An increment above one leaves gaps, no more. */
    tst_pg_sql(f->conn, "ALTER SEQUENCE " T "_id_seq INCREMENT 2");
    tst_ok(try_as(f, f->url, LDG_ROLE_SINK, 0), &f->err);
    handle_close(&f->pg);
    /* Those that may change rows are told. */
    tst_pg_sql(f->conn, "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS "
                        "'BEGIN NEW.txid = ''1''; RETURN NEW; END'; "
                        "CREATE TRIGGER meddler BEFORE INSERT ON " T "_mutations FOR EACH ROW "
                        "EXECUTE FUNCTION meddle(); "
                        "CREATE RULE dropper AS ON INSERT TO " T "_parked DO INSTEAD NOTHING");
    open_now(f, 0);
    check(f, &found);
    finds(&found, "1 " T "_mutations: trigger meddler (BEFORE INSERT)");
    finds(&found, "1 " T "_parked: rule dropper");
    tst_pg_sql(f->conn, "CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON " T "_cursors "
                        "FOR EACH STATEMENT EXECUTE FUNCTION meddle(); "
                        "CREATE TRIGGER outbox AFTER INSERT ON " T " FOR EACH ROW "
                        "EXECUTE FUNCTION meddle(); "
                        "ALTER TABLE " T "_mutations DISABLE TRIGGER meddler");
    check(f, &found);
    finds(&found, "1 " T "_cursors: trigger guard (BEFORE UPDATE OR DELETE)");
    finds(&found, "0 " T ": trigger outbox (AFTER INSERT)");
    assert_null(strstr(found.text, "meddler"));
    handle_close(&f->pg);
}

/* What the next write would run into is known before it. */
static void finds_not(struct fixture *f, struct found *found, const char *text)
{
    check(f, found);
    if (strstr(found->text, text) != NULL)
        tst_fail("\"%s\" in:\n%s", text, found->text);
}

static void test_ids_left(void **state)
{
    static const struct {
        const char *ddl, *found, *help;
    } cases[] = {
        { "SELECT setval('" T "_id_seq', 1, false)",
          "2 " T ": sequence " T "_id_seq lies behind its rows (0, and the highest id is 2)",
          "SELECT setval('" T "_id_seq', (SELECT max(id) FROM \"" T "\"))" },
        { "ALTER SEQUENCE " T "_mutations_id_seq RESTART WITH 2",
          "2 " T "_mutations: sequence " T "_mutations_id_seq lies behind",
          "SELECT setval('" T "_mutations_id_seq', (SELECT max(id) FROM \"" T "_mutations\"))" },
        { "INSERT INTO " T "_parked(id, source_uuid, origin, log_position, stream, type, reason, "
          "parked_at) VALUES (5, 'u', 1, 1, 's', 't', 'r', now())",
          "2 " T "_parked: sequence " T "_parked_id_seq lies behind",
          "SELECT setval('" T "_parked_id_seq', (SELECT max(id) FROM \"" T "_parked\"))" },
        { "ALTER SEQUENCE " T "_id_seq AS smallint; SELECT setval('" T "_id_seq', 32767)",
          "2 " T ": sequence " T "_id_seq has run out of ids (32767 of 32767)",
          "ALTER SEQUENCE " T "_id_seq AS bigint MAXVALUE 9223372036854775807" },
        { "ALTER SEQUENCE " T "_mutations_id_seq AS integer; "
          "SELECT setval('" T "_mutations_id_seq', 2000000000)",
          "1 " T "_mutations: sequence " T "_mutations_id_seq has less than a tenth",
          "ALTER SEQUENCE " T "_mutations_id_seq AS bigint MAXVALUE 9223372036854775807" },
        { "ALTER SEQUENCE " T "_parked_id_seq MAXVALUE 10; SELECT setval('" T
          "_parked_id_seq', 10)",
          "2 " T "_parked: sequence " T "_parked_id_seq has run out",
          "ALTER SEQUENCE " T "_parked_id_seq AS bigint MAXVALUE 9223372036854775807" },
        { "SELECT setval('" T "_id_seq', 9223372036854775800)",
          "1 " T ": sequence " T "_id_seq has less than a tenth",
          "SELECT setval('" T "_id_seq', (SELECT max(id) FROM \"" T "\"))" },
    };
    struct fixture *f = *state;
    static struct found found;

    open_now(f, LEDGER_STORE_CREATE);
    append(f, "a");
    append(f, "b");
    finds_not(f, &found, "sequence ");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        tst_pg_sql(f->conn, "%s", cases[i].ddl);
        check(f, &found);
        finds(&found, cases[i].found);
        finds(&found, cases[i].help);
        tst_pg_sql(f->conn, "%s", cases[i].help);
        finds_not(f, &found, "sequence ");
        append(f, NULL);
    }
    /* Begun anew behind all rows, or an empty table: nothing is wrong. */
    tst_pg_sql(f->conn, "ALTER SEQUENCE " T "_id_seq RESTART WITH 1000000; TRUNCATE " T "_parked; "
                        "ALTER SEQUENCE " T "_parked_id_seq RESTART");
    finds_not(f, &found, "sequence ");
    handle_close(&f->pg);
}

/* What a role lacks is told for each thing that it may be meant for; only what it may read is
 * looked into. */
static void test_lacking_grants(void **state)
{
    struct fixture *f = *state;
    static struct found found;
    char *schema = tst_pg_sql_text(f->conn, "SELECT current_schema()");
    char role[64], more[128], url[400];

    snprintf(role, sizeof(role), "app_%s", schema);
    snprintf(more, sizeof(more), "options=-csearch_path%%3D%s", schema);
    snprintf(url, sizeof(url), "%s", tst_pg_url(tst_pg_shared(), NULL, role, more));
    open_now(f, LEDGER_STORE_CREATE);
    append(f, "a");
    check(f, &found);
    finds(&found, "0 role: ");
    handle_close(&f->pg);
    tst_pg_sql(f->conn,
               "CREATE ROLE \"%s\" LOGIN; GRANT USAGE ON SCHEMA \"%s\" TO \"%s\"; "
               "GRANT SELECT, INSERT, UPDATE ON " T " TO \"%s\"; "
               "GRANT SELECT ON " T "_meta, " T "_origins TO \"%s\"; "
               "GRANT USAGE ON SEQUENCE " T "_id_seq TO \"%s\"",
               role, schema, role, role, role, role);
    tst_ok(try_as(f, url, LDG_ROLE_USER, 0), &f->err);
    check(f, &found);
    char text[640];
    snprintf(text, sizeof(text),
             "1 role: for a program that writes entries \"%s\" lacks a privilege: GRANT DELETE ON "
             "\"" T "\" TO \"%s\"; GRANT INSERT ON \"" T "_mutations\" TO \"%s\"; GRANT USAGE ON "
             "SEQUENCE " T "_mutations_id_seq TO \"%s\"",
             role, role, role, role);
    finds(&found, text);
    finds(&found, "1 role: for a bridge that reads from here");
    finds(&found, "1 role: for a bridge that writes here");
    tst_pg_sql(f->conn,
               "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA \"%s\" TO \"%s\"; "
               "GRANT USAGE ON ALL SEQUENCES IN SCHEMA \"%s\" TO \"%s\"",
               schema, role, schema, role);
    /* One who may draw from a sequence, and not read it, is told of rows beyond it as well. */
    tst_pg_sql(f->conn, "UPDATE " T " SET id = 77");
    check(f, &found);
    finds(&found, "0 role: ");
    finds(&found, "2 " T ": sequence " T "_id_seq lies behind");
    handle_close(&f->pg);
    free(schema);
}

/* Columns that the server compares, fills or gives another type than a ledger's. */
static void test_columns(void **state)
{
    static const struct {
        const char *ddl, *said, *help;
    } cases[] = {
        { "ALTER TABLE " T " ALTER stream TYPE text COLLATE blind", "collation \"blind\"",
          "ALTER TABLE " T " ALTER stream TYPE text COLLATE \"C\"" },
        { "ALTER TABLE " T " ALTER dedup_key TYPE text COLLATE blind", "\"dedup_key\"",
          "ALTER TABLE " T " ALTER dedup_key TYPE text COLLATE \"C\"" },
        { "ALTER TABLE " T "_cursors ALTER name TYPE text COLLATE blind", "\"name\"",
          "ALTER TABLE " T "_cursors ALTER name TYPE text" },
        { "ALTER TABLE " T "_origins ALTER uuid TYPE text COLLATE blind", "\"uuid\"",
          "ALTER TABLE " T "_origins ALTER uuid TYPE text" },
        { "ALTER TABLE " T "_parked ALTER stream TYPE text COLLATE blind", "\"stream\"",
          "ALTER TABLE " T "_parked ALTER stream TYPE text" },
        { "DROP INDEX idx_" T "_dedup; CREATE UNIQUE INDEX idx_" T "_dedup ON " T
          "(stream COLLATE blind, dedup_key) WHERE dedup_key <> ''",
          "collation", "DROP INDEX idx_" T "_dedup" },
        { "ALTER TABLE " T " DROP order_key; ALTER TABLE " T
          " ADD order_key text GENERATED ALWAYS AS ('x') STORED",
          "GENERATED", "ALTER TABLE " T " ALTER order_key DROP EXPRESSION" },
        { "ALTER TABLE " T " ALTER origin DROP DEFAULT; ALTER TABLE " T
          " ALTER origin ADD GENERATED ALWAYS AS IDENTITY",
          "DROP IDENTITY", "ALTER TABLE " T " ALTER origin DROP IDENTITY" },
        { "ALTER TABLE " T "_mutations ALTER txid DROP DEFAULT; "
          "DROP INDEX idx_" T "_mutations_txid; ALTER TABLE " T
          "_mutations ALTER txid TYPE bigint USING 1",
          "of type bigint, where a ledger has xid8",
          "ALTER TABLE " T "_mutations RENAME txid TO was; "
          "ALTER TABLE " T "_mutations ALTER was DROP NOT NULL" },
    /* narrower than what an event may hold: the command is complete */
#define MENDED(table, column, type)                                                                \
    "ALTER TABLE \"" table "\" ALTER COLUMN \"" column "\" TYPE " type
#define NARROW(table, column, narrow, wide)                                                        \
    { "ALTER TABLE " table " ALTER " column " TYPE " narrow, MENDED(table, column, wide),          \
      MENDED(table, column, wide) }
        NARROW(T, "order_key", "varchar(5)", "text"),
        NARROW(T, "source_id", "char(5)", "text"),
        NARROW(T, "schema_version", "smallint", "integer"),
        NARROW(T, "source_pos", "integer", "bigint"),
        NARROW(T "_cursors", "cursor", "varchar(20)", "text"),
        NARROW(T "_parked", "log_position", "integer", "bigint"),
        NARROW(T "_mutations", "stream", "varchar(5)", "text"),
        { "ALTER TABLE " T " ALTER created_at TYPE timestamp", "AT TIME ZONE 'UTC'",
          "ALTER TABLE " T " ALTER COLUMN created_at TYPE timestamptz USING created_at AT TIME "
          "ZONE 'UTC'" },
#undef NARROW
#undef MENDED
    };
    struct fixture *f = *state;
    static struct found found;

    open_now(f, LEDGER_STORE_CREATE);
    tst_pg_sql(
        f->conn,
        "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = "
        "false)");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        tst_pg_sql(f->conn, "%s", cases[i].ddl);
        check(f, &found);
        finds(&found, cases[i].said);
        handle_close(&f->pg);
        tst_fails(try_as(f, f->url, LDG_ROLE_SINK, 0), LEDGER_ERR_SCHEMA, &f->err);
        says(f, cases[i].said);
        tst_fails(try_open(f, LEDGER_STORE_CREATE), LEDGER_ERR_SCHEMA, &f->err);
        says(f, cases[i].said);
        tst_pg_sql(f->conn, "%s", cases[i].help);
        open_now(f, LEDGER_STORE_CREATE);
    }
    handle_close(&f->pg);
    tst_ok(try_as(f, f->url, LDG_ROLE_SOURCE, 0), &f->err);
    handle_close(&f->pg);
}

/* New rows have a transaction number, in whatever way the column came. */
static void test_txid_guard(void **state)
{
    struct fixture *f = *state;
    static struct found found;
    for (int go = 0; go < 2; go++) {
        if (go) {
            tst_go_pg_create(f->conn, T, true);
            tst_go_pg_append(f->conn, T, true, "s", "1", NULL, NULL);
        }
        open_now(f, LEDGER_STORE_CREATE);
        PGresult *r = PQexec(f->conn, "INSERT INTO " T "_mutations(stream, payload, txid) "
                                      "VALUES ('_', '{}', NULL)");
        assert_int_equal(PQresultStatus(r), PGRES_FATAL_ERROR);
        PQclear(r);
        assert_int_equal(
            tst_pg_sql_int(f->conn, "SELECT count(*) FROM " T "_mutations WHERE txid IS NULL"), go);
        /* A default that only looks like it is none. */
        tst_pg_sql(f->conn, "ALTER TABLE " T "_mutations ALTER txid SET DEFAULT "
                            "nullif(pg_current_xact_id(), pg_current_xact_id())");
        check(f, &found);
        finds(&found, "2 " T "_mutations: column txid lacks its default");
        handle_close(&f->pg);
        open_now(f, LEDGER_STORE_CREATE);
        check(f, &found);
        assert_null(strstr(found.text, "txid lacks"));
        tst_pg_sql(f->conn, go ? "ALTER TABLE " T "_mutations DROP CONSTRAINT " LDG_PG_TXID_GUARD
                               : "ALTER TABLE " T "_mutations ALTER txid DROP NOT NULL");
        check(f, &found);
        finds(&found, "1 " T "_mutations: column txid takes NULL");
        handle_close(&f->pg);
        /* A bridge does without; the owner's `store init` brings it. */
        tst_ok(try_as(f, f->url, LDG_ROLE_SOURCE, 0), &f->err);
        handle_close(&f->pg);
        open_now(f, LEDGER_STORE_CREATE);
        check(f, &found);
        assert_null(strstr(found.text, "takes NULL"));
        handle_close(&f->pg);
        char *schema = tst_pg_sql_text(f->conn, "SELECT current_schema()");
        tst_pg_sql(f->conn, "DROP SCHEMA \"%s\" CASCADE; CREATE SCHEMA \"%s\"", schema, schema);
        free(schema);
    }
}

/* The table is archived: renamed, and made anew like it. What went along with the old one is named
 * with the statement that brings it back, and no id is given out twice. */
static void test_swapped_tables(void **state)
{
    struct fixture *f = *state;
    open_now(f, LEDGER_STORE_CREATE);
    for (int i = 0; i < 3; i++)
        append(f, NULL);
    handle_close(&f->pg);
    tst_pg_sql(f->conn, "ALTER TABLE " T " RENAME TO old; "
                        "CREATE TABLE " T " (LIKE old INCLUDING ALL)");
    for (int step = 0; step < 8 && try_open(f, LEDGER_STORE_CREATE) != LEDGER_OK; step++) {
        assert_int_equal(f->err.code, LEDGER_ERR_SCHEMA);
        char *help = strstr(f->err.message, "ALTER ");
        assert_non_null(help);
        help[strcspn(help, ")")] = '\0';
        tst_pg_sql(f->conn, "%s", help);
    }
    assert_int_equal(append(f, NULL), 4);
    check_ours(f->conn, T, true);
    handle_close(&f->pg);
    assert_int_equal(tst_pg_sql_int(f->conn, "SELECT count(*) FROM pg_index "
                                             "WHERE indrelid = 'old'::regclass"),
                     5);
    /* An id that is given otherwise than by the sequence. */
    tst_pg_sql(f->conn, "ALTER TABLE " T " ALTER id DROP DEFAULT");
    tst_fails(try_open(f, 0), LEDGER_ERR_SCHEMA, &f->err);
    says(f, "SET DEFAULT nextval('" T "_id_seq')");
}

/* The server's texts differ with this setting; what it has does not. */
static void test_quoted_identifiers(void **state)
{
    struct fixture *f = *state;
    char url[400];
    open_now(f, LEDGER_STORE_CREATE);
    handle_close(&f->pg);
    snprintf(url, sizeof(url), "%s%%20-cquote_all_identifiers%%3Don", f->url);
    tst_ok(try_as(f, url, LDG_ROLE_SOURCE, LEDGER_STORE_CREATE), &f->err);
    handle_close(&f->pg);
    PGconn *given = tst_pg_connect_url(url);
    const struct ldg_open o = {
        .table = T, .log_table = T "_mutations", .connection = given, .label = "test"
    };
    static struct found found;
    memset(&f->pg, 0, sizeof(f->pg));
    tst_ok(ldg_backend_postgres.open(&f->pg, &o, &f->err), &f->err);
    check(f, &found);
    assert_int_equal(found.counts[LEDGER_FINDING_ERROR], 0);
    handle_close(&f->pg);
    PQfinish(given);
}

/* --- others at the same time ----------------------------------------------------------------- */

static pid_t init_in_child(const char *url, uint32_t flags, int gate)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static struct ldg_pg pg;
        ledger_error err;
        const ledger_append_input input = { .payload = { "1", 1 } };
        char c;
        handle_busy_ms = HANDLE_PATIENT_MS;
        if (gate >= 0)
            (void)!read(gate, &c, 1); /* until the parent closes it */
        ledger_rc rc =
            handle_try(&pg, url, T, LDG_ROLE_USER, LEDGER_MUTATION_LOG_AUTO, flags, &err);
        if (rc == LEDGER_OK) {
            rc = ldg_pg_append(&pg, "s", &input, 1, NULL, &err);
            handle_close(&pg);
        }
        if (rc != LEDGER_OK)
            print_error("%s\n", err.message);
        _exit(rc == LEDGER_OK ? 0 : 1);
    }
    return pid;
}

static void init_at_once(struct fixture *f, uint32_t flags)
{
    int gate[2];
    pid_t pids[PROCESSES];
    assert_int_equal(pipe(gate), 0);
    for (int i = 0; i < PROCESSES; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            close(gate[1]);
            pid_t child = init_in_child(f->url, flags, gate[0]);
            int status = -1;
            waitpid(child, &status, 0);
            _exit(status ? 1 : 0);
        }
    }
    close(gate[0]);
    close(gate[1]);
    int failed = 0;
    for (int i = 0; i < PROCESSES; i++) {
        int status = -1;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        failed += status != 0;
    }
    assert_int_equal(failed, 0);
    check_ours(f->conn, T, true);
    assert_int_equal(tst_pg_sql_int(f->conn, "SELECT count(*) FROM " T), PROCESSES);
    assert_int_equal(tst_pg_sql_int(f->conn, "SELECT count(*) FROM " T "_mutations"), PROCESSES);
}

/* Moves the tables out of the schema and back, all at once, until it is killed. */
static pid_t move_in_child(const struct fixture *f, const char *schema)
{
    static const char *const tables[] = { "",        "_cursors", "_meta",     "_origins",
                                          "_parked", "_foreign", "_mutations" };
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        PGconn *conn = tst_pg_connect_url(f->url);
        for (bool away = true;; away = !away) {
            tst_pg_sql(conn, "BEGIN");
            for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
                tst_pg_sql(conn, "ALTER TABLE \"%s%s\"." T "%s SET SCHEMA \"%s%s\"", schema,
                           away ? "" : "_away", tables[i], schema, away ? "_away" : "");
            tst_pg_sql(conn, "COMMIT");
        }
    }
    return pid;
}

/* A look while another program makes the tables sees all that one transaction made, or nothing. */
static void test_look_is_of_one_moment(void **state)
{
    const uint32_t all =
        ((1 << LDG_PG_TABLE_COUNT) - 1) | LDG_PG_HAS_INDEX << LDG_PG_IDX_STREAM |
        LDG_PG_HAS_INDEX << LDG_PG_IDX_DEDUP | LDG_PG_HAS_INDEX << LDG_PG_IDX_ORIGIN |
        LDG_PG_HAS_INDEX << LDG_PG_IDX_PARKED | LDG_PG_HAS_INDEX << LDG_PG_IDX_TXID;
    struct fixture *f = *state;
    struct ldg_pg_shape shape;
    int there = 0, gone = 0, status;
    open_now(f, LEDGER_STORE_CREATE);
    char *schema = tst_pg_sql_text(f->conn, "SELECT current_schema()");
    tst_pg_sql(f->conn, "CREATE SCHEMA \"%s_away\"", schema);
    pid_t pid = move_in_child(f, schema);
    for (int i = 0; i < 400 || there < 20 || gone < 20; i++) {
        ledger_rc rc = ldg_pg_catalog_read(&f->pg, true, &shape, &f->err);
        /* The identity is a statement of its own. */
        if (rc != LEDGER_OK && strcmp(ldg_pg_sqlstate(&f->err), "42P01") == 0)
            continue;
        tst_ok(rc, &f->err);
        assert_true((shape.has & all) == 0 || (shape.has & all) == all);
        there += (shape.has & all) != 0;
        gone += (shape.has & all) == 0;
    }
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    handle_close(&f->pg);
    tst_pg_sql(f->conn, "DROP SCHEMA \"%s_away\" CASCADE", schema);
    free(schema);
}

static void test_init_at_once(void **state)
{
    struct fixture *f = *state;
    char *schema = tst_pg_sql_text(f->conn, "SELECT current_schema()");
    for (int round = 0; round < 2; round++) {
        init_at_once(f, LEDGER_STORE_CREATE | LEDGER_STORE_NOTIFY);
        tst_pg_sql(f->conn, "DROP SCHEMA \"%s\" CASCADE; CREATE SCHEMA \"%s\"", schema, schema);
        tst_go_pg_create(f->conn, T, true);
        init_at_once(f, LEDGER_STORE_CREATE);
        tst_pg_sql(f->conn, "DROP SCHEMA \"%s\" CASCADE; CREATE SCHEMA \"%s\"", schema, schema);
    }
    free(schema);
}

/* Writers go on while store init waits behind an open transaction. */
static void t9_writers_go_on(void **state)
{
    struct fixture *f = *state;
    PGconn *open_tx = tst_pg_connect_url(f->url);
    int64_t done = 0;
    int status = -1;
    tst_go_pg_create(f->conn, T, true);
    tst_pg_sql(open_tx, "BEGIN");
    tst_go_pg_append(open_tx, T, true, "long", "1", NULL, NULL);
    pid_t child = init_in_child(f->url, 0, -1);
    const int64_t start_us = ldg_clock_mono_us();
    tst_pg_sql(f->conn, "SET statement_timeout = '30s'"); /* one that waits does so to the end */
    while (done < 10 || ldg_clock_mono_us() - start_us < 1500000) {
        tst_go_pg_append(f->conn, T, true, "s", "1", NULL, NULL);
        done++;
        usleep(2000);
    }
    assert_int_equal(waitpid(child, &status, WNOHANG), 0); /* it still waits */
    tst_pg_sql(open_tx, "COMMIT");
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    check_ours(f->conn, T, true);
    assert_int_equal(tst_pg_sql_int(f->conn, "SELECT count(*) FROM " T "_mutations "
                                             "WHERE txid IS NULL"),
                     done + 1);
    PQfinish(open_tx);
}

static int64_t late_us;

/* Each look at the clock is a minute later. */
static int64_t hasty_clock(void)
{
    late_us += 60000000;
    return late_us;
}

static void test_gives_up(void **state)
{
    struct fixture *f = *state;
    PGconn *open_tx = tst_pg_connect_url(f->url);
    tst_go_pg_create(f->conn, T, true);
    tst_pg_sql(open_tx, "BEGIN");
    tst_go_pg_append(open_tx, T, true, "long", "1", NULL, NULL);
    /* Connecting looks at the clock, too. */
    PGconn *given = tst_pg_connect_url(f->url);
    const struct ldg_open o = { .table = T,
                                .log_table = T "_mutations",
                                .connection = given,
                                .busy_timeout_ms = 1000,
                                .label = "test" };
    memset(&f->pg, 0, sizeof(f->pg));
    ldg_clock_set_mono(hasty_clock);
    ledger_rc rc = ldg_backend_postgres.open(&f->pg, &o, &f->err);
    ldg_clock_set_mono(NULL);
    tst_fails(rc, LEDGER_ERR_BUSY, &f->err);
    says(f, "another transaction");
    PQfinish(given);
    tst_pg_sql(open_tx, "ROLLBACK");
    PQfinish(open_tx);
    open_now(f, 0);
    check_ours(f->conn, T, true);
    handle_close(&f->pg);
}

/* --- privileges ------------------------------------------------------------------------------ */

static void test_privileges(void **state)
{
    struct fixture *f = *state;
    char *schema = tst_pg_sql_text(f->conn, "SELECT current_schema()");
    char role[64], more[128], url[400];
    snprintf(role, sizeof(role), "app_%s", schema);
    snprintf(more, sizeof(more), "options=-csearch_path%%3D%s", schema);
    snprintf(url, sizeof(url), "%s", tst_pg_url(tst_pg_shared(), NULL, role, more));
    tst_pg_sql(f->conn, "CREATE ROLE \"%s\" LOGIN", role);
    /* A schema that the role may not even look into. */
    tst_go_pg_create(f->conn, T, true);
    tst_fails(try_as(f, url, LDG_ROLE_SOURCE, 0), LEDGER_ERR_PERMISSION, &f->err);
    says(f, "GRANT USAGE ON SCHEMA");
    tst_pg_sql(f->conn, "DROP TABLE " T ", " T "_mutations; DROP TABLE IF EXISTS " T "_cursors");
    tst_pg_sql(f->conn, "GRANT USAGE ON SCHEMA \"%s\" TO \"%s\"", schema, role);
    /* May not make tables. */
    tst_fails(try_as(f, url, LDG_ROLE_USER, LEDGER_STORE_CREATE), LEDGER_ERR_PERMISSION, &f->err);
    says(f, "CREATE on schema");
    /* May not change Go's, and works with them as they are. */
    tst_go_pg_create(f->conn, T, true);
    tst_pg_sql(f->conn,
               "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA \"%s\" TO \"%s\"; "
               "GRANT USAGE ON ALL SEQUENCES IN SCHEMA \"%s\" TO \"%s\"",
               schema, role, schema, role);
    assert_int_equal(try_as(f, url, LDG_ROLE_USER, 0), LEDGER_OK);
    assert_false(f->pg.has_ours);
    assert_true(append(f, "k") > 0);
    handle_close(&f->pg);
    tst_fails(try_as(f, url, LDG_ROLE_USER, LEDGER_STORE_CREATE), LEDGER_ERR_PERMISSION, &f->err);
    says(f, "is not the owner");
    tst_fails(try_as(f, url, LDG_ROLE_SINK, 0), LEDGER_ERR_PERMISSION, &f->err);
    says(f, "is not the owner");
    /* Made by their owner, used by others. */
    open_now(f, LEDGER_STORE_CREATE);
    handle_close(&f->pg);
    tst_fails(try_as(f, url, LDG_ROLE_USER, 0), LEDGER_ERR_PERMISSION, &f->err);
    says(f, T "_");
    tst_pg_sql(f->conn, "GRANT SELECT ON " T "_meta, " T "_origins TO \"%s\"", role);
    assert_int_equal(try_as(f, url, LDG_ROLE_USER, LEDGER_STORE_CREATE), LEDGER_OK);
    assert_true(f->pg.has_ours);
    assert_true(append(f, NULL) > 0);
    handle_close(&f->pg);
    assert_int_equal(try_as(f, url, LDG_ROLE_SOURCE, 0), LEDGER_OK);
    handle_close(&f->pg);
    tst_pg_sql(f->conn, "REVOKE SELECT ON " T "_mutations FROM \"%s\"", role);
    tst_fails(try_as(f, url, LDG_ROLE_SOURCE, 0), LEDGER_ERR_PERMISSION, &f->err);
    says(f, "GRANT SELECT ON \"" T "_mutations\"");
    tst_fails(try_as(f, url, LDG_ROLE_SINK, 0), LEDGER_ERR_PERMISSION, &f->err);
    says(f, "GRANT INSERT ON \"" T "_origins\"");
    tst_pg_sql(f->conn,
               "GRANT INSERT ON " T "_origins TO \"%s\"; "
               "GRANT SELECT, INSERT ON " T "_parked, " T "_foreign TO \"%s\"",
               role, role);
    tst_fails(try_as(f, url, LDG_ROLE_SINK, 0), LEDGER_ERR_PERMISSION, &f->err);
    says(f, "SEQUENCE " T "_parked_id_seq");
    tst_pg_sql(f->conn, "GRANT USAGE ON SEQUENCE " T "_parked_id_seq TO \"%s\"", role);
    assert_int_equal(try_as(f, url, LDG_ROLE_SINK, 0), LEDGER_OK);
    handle_close(&f->pg);
    /* A table that a version before this one made: a program can use it, a sink cannot. */
    tst_pg_sql(f->conn, "ALTER TABLE " T " DROP COLUMN tags_pos, DROP COLUMN annotations_pos");
    assert_int_equal(try_as(f, url, LDG_ROLE_USER, 0), LEDGER_OK);
    assert_true(f->pg.has_ours);
    handle_close(&f->pg);
    tst_fails(try_as(f, url, LDG_ROLE_SINK, 0), LEDGER_ERR_PERMISSION, &f->err);
    says(f, "run `ledgerctl store init`");
    open_now(f, 0);
    assert_true(has_column(f->conn, T, "tags_pos"));
    assert_true(has_column(f->conn, T, "annotations_pos"));
    handle_close(&f->pg);
    assert_int_equal(try_as(f, url, LDG_ROLE_SINK, 0), LEDGER_OK);
    handle_close(&f->pg);
    /* Rows that a source would not see. */
    tst_pg_sql(f->conn,
               "GRANT SELECT ON " T "_mutations TO \"%s\"; "
               "ALTER TABLE " T "_mutations ENABLE ROW LEVEL SECURITY",
               role);
    tst_fails(try_as(f, url, LDG_ROLE_SOURCE, 0), LEDGER_ERR_PERMISSION, &f->err);
    says(f, "row-level security");
    says(f, T "_mutations");
    says(f, "BYPASSRLS");
    tst_pg_sql(f->conn, "ALTER TABLE " T "_mutations DISABLE ROW LEVEL SECURITY; "
                        "ALTER TABLE " T " ENABLE ROW LEVEL SECURITY");
    tst_fails(try_as(f, url, LDG_ROLE_SOURCE, 0), LEDGER_ERR_PERMISSION, &f->err);
    says(f, "table \"" T "\": row-level security");
    tst_fails(try_as(f, url, LDG_ROLE_SINK, 0), LEDGER_ERR_PERMISSION, &f->err);
    says(f, "row-level security");
    /* Any other session of ours is refused by the server, and told why. */
    assert_int_equal(try_as(f, url, LDG_ROLE_USER, 0), LEDGER_OK);
    uint64_t count = 0;
    tst_fails(ldg_pg_count(&f->pg, "s", &count, &f->err), LEDGER_ERR_PERMISSION, &f->err);
    says(f, "BYPASSRLS");
    static struct found found;
    check(f, &found);
    finds(&found, "2 " T ": row-level security");
    handle_close(&f->pg);
    tst_pg_sql(f->conn, "ALTER TABLE " T " DISABLE ROW LEVEL SECURITY; "
                        "ALTER TABLE " T "_parked ENABLE ROW LEVEL SECURITY");
    tst_fails(try_as(f, url, LDG_ROLE_SOURCE, 0), LEDGER_ERR_PERMISSION, &f->err);
    says(f, T "_parked");
    tst_pg_sql(f->conn, "ALTER ROLE \"%s\" BYPASSRLS", role);
    tst_ok(try_as(f, url, LDG_ROLE_SINK, 0), &f->err);
    handle_close(&f->pg);
    /* An owner is exempt, unless it is not. */
    tst_pg_sql(f->conn, "ALTER ROLE \"%s\" NOBYPASSRLS; ALTER TABLE " T "_parked OWNER TO \"%s\"",
               role, role);
    tst_ok(try_as(f, url, LDG_ROLE_SINK, 0), &f->err);
    handle_close(&f->pg);
    tst_pg_sql(f->conn, "ALTER TABLE " T "_parked FORCE ROW LEVEL SECURITY");
    tst_fails(try_as(f, url, LDG_ROLE_SINK, 0), LEDGER_ERR_PERMISSION, &f->err);
    says(f, "NO FORCE ROW LEVEL SECURITY");
    tst_pg_sql(f->conn, "ALTER TABLE " T "_parked OWNER TO postgres");
    tst_pg_sql(f->conn, "DROP OWNED BY \"%s\"; DROP ROLE \"%s\"", role, role);
    free(schema);
}

/* --- check ----------------------------------------------------------------------------------- */

static void note(void *ctx, ledger_severity severity, const char *subject, const char *text)
{
    struct found *found = ctx;
    size_t used = strlen(found->text);
    found->counts[severity]++;
    snprintf(found->text + used, sizeof(found->text) - used, "%d %s: %s\n", (int)severity, subject,
             text);
}

static void check(struct fixture *f, struct found *found)
{
    memset(found, 0, sizeof(*found));
    ledger_rc rc = ldg_pg_check(&f->pg, note, found, &f->err);
    tst_ok(rc, &f->err);
}

static void finds(const struct found *found, const char *text)
{
    if (!strstr(found->text, text))
        tst_fail("not \"%s\" in:\n%s", text, found->text);
}

static void test_check(void **state)
{
    struct fixture *f = *state;
    struct found found;
    open_now(f, LEDGER_STORE_CREATE);
    check(f, &found);
    assert_int_equal(found.counts[LEDGER_FINDING_ERROR], 0);
    finds(&found, "0 server: PostgreSQL");
    finds(&found, "0 " T "_mutations.txid: there");
    finds(&found, "1 fsync: off");
    tst_pg_sql(f->conn, "INSERT INTO " T "(stream, payload, origin, source_pos) "
                        "VALUES ('s', '1', 3, 1), ('s', '1', 3, 2), ('s', '1', 5, 1); "
                        "INSERT INTO " T "_origins SELECT 5, uuid, epoch FROM " T "_meta; "
                        "ALTER SEQUENCE " T "_id_seq CACHE 5; "
                        "ALTER SEQUENCE " T "_mutations_id_seq CACHE 7; "
                        "ALTER TABLE " T "_mutations ALTER txid DROP DEFAULT; "
                        "INSERT INTO " T "_mutations(stream, payload, txid) "
                        "VALUES ('_', '{}', '9000000000000'); "
                        "DROP INDEX idx_" T "_stream_id; DROP TABLE " T "_foreign; "
                        "ALTER TABLE " T " DROP COLUMN mutation_pos; "
                        "ALTER TABLE " T "_parked SET UNLOGGED; "
                        "UPDATE pg_index SET indisvalid = false "
                        "WHERE indexrelid = 'idx_" T "_dedup'::regclass");
    check(f, &found);
    finds(&found, "2 identity: a source of this store has the same one");
    finds(&found, "2 " T ": entries of 1 origins");
    finds(&found, "1 " T ": its sequence has CACHE 5");
    finds(&found, "2 " T "_mutations: its sequence has CACHE 7");
    finds(&found, "2 " T "_mutations: column txid lacks its default");
    finds(&found, "2 " T "_mutations: it holds transaction numbers");
    finds(&found, "2 idx_" T "_stream_id: the index is missing");
    finds(&found, "2 idx_" T "_dedup: invalid");
    finds(&found, "2 " T "_foreign: the table is missing");
    finds(&found, "2 " T ".mutation_pos: the column is missing");
    finds(&found, "2 " T "_parked: UNLOGGED");
    /* It changed nothing. */
    assert_false(has_index(f->conn, "idx_" T "_stream_id"));
    tst_pg_sql(f->conn, "DROP TABLE " T "_meta");
    check(f, &found);
    finds(&found, "2 " T "_meta: the table is missing");
    tst_pg_sql(f->conn, "ALTER TABLE " T " RENAME stream TO other");
    check(f, &found);
    finds(&found, "2 " T ": ");
    finds(&found, "\"other\"");
    tst_pg_sql(f->conn, "DROP TABLE " T "_mutations");
    tst_pg_sql(f->conn, "DROP TABLE " T);
    check(f, &found);
    finds(&found, "2 " T ": the table is missing");
    finds(&found, "1 " T "_mutations: no mutation log");
    handle_close(&f->pg);
}

/* --- memory ---------------------------------------------------------------------------------- */

static ledger_rc open_and_check(void *ctx)
{
    struct fixture *f = ctx;
    static struct found found;
    memset(&found, 0, sizeof(found));
    ledger_rc rc = try_open(f, LEDGER_STORE_CREATE);
    if (rc == LEDGER_OK) {
        rc = ldg_pg_check(&f->pg, note, &found, &f->err);
        handle_close(&f->pg);
    }
    return rc;
}

static void test_no_memory(void **state)
{
    struct fixture *f = *state;
    tst_go_pg_create(f->conn, T, true);
    alloc_fail_each(open_and_check, f);
    check_ours(f->conn, T, true);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_create),
        TEST(test_names),
        TEST(test_log_modes),
        TEST(test_identity),
        TEST(test_options),
        TEST(test_search_path),
        TEST(test_go_tables),
        TEST(test_old_go_tables),
        TEST(test_go_table_read_only),
        TEST(test_in_transaction),
        TEST(test_other_shapes),
        TEST(test_indexes),
        TEST(test_pooled),
        TEST(test_log_cache),
        TEST(test_init_at_once),
        TEST(t9_writers_go_on),
        TEST(test_gives_up),
        TEST(test_privileges),
        TEST(test_check),
        TEST(test_no_memory),
        TEST(test_look_is_of_one_moment),
        TEST(test_faults),
        TEST(test_ids_left),
        TEST(test_lacking_grants),
        TEST(test_columns),
        TEST(test_txid_guard),
        TEST(test_swapped_tables),
        TEST(test_quoted_identifiers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
