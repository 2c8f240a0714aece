/* Making, mending and refusing tables; check(). */
#include "handle.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc_fail.h"
#include "go_tables.h"

#define PROCESSES 6

static bool has_column(sqlite3 *db, const char *table, const char *column)
{
    return tst_query_int(db, "SELECT count(*) FROM pragma_table_info('%s') WHERE name = '%s'",
                         table, column) == 1;
}

static bool has_index(sqlite3 *db, const char *name)
{
    return tst_query_int(db,
                         "SELECT count(*) FROM sqlite_master WHERE type = 'index' "
                         "AND name = '%s'",
                         name) == 1;
}

static void check_ours(sqlite3 *db, const char *t)
{
    char name[128];
    assert_true(has_column(db, t, "source_id"));
    assert_true(has_column(db, t, "origin"));
    assert_true(has_column(db, t, "source_pos"));
    assert_true(has_column(db, t, "mutation_pos"));
    assert_true(has_column(db, t, "tags_pos"));
    assert_true(has_column(db, t, "annotations_pos"));
    snprintf(name, sizeof(name), "idx_%s_dedup", t);
    assert_true(has_index(db, name));
    snprintf(name, sizeof(name), "idx_%s_stream", t);
    assert_true(has_index(db, name));
    snprintf(name, sizeof(name), "idx_%s_origin", t);
    assert_true(has_index(db, name));
    snprintf(name, sizeof(name), "idx_%s_key", t);
    assert_true(has_index(db, name));
    snprintf(name, sizeof(name), "idx_%s_parked_key", t);
    assert_true(has_index(db, name));
    snprintf(name, sizeof(name), "%s_parked", t);
    assert_true(has_column(db, name, "entry_id"));
    snprintf(name, sizeof(name), "%s_cursors", t);
    assert_true(has_column(db, name, "state"));
    assert_true(has_column(db, name, "moved_at"));
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM %s_meta", t), 1);
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM %s_origins", t), 0);
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM %s_parked", t), 0);
}

static void test_create(void **state)
{
    struct tst_env *env = *state;
    ledger_error err;
    ledger_store *store = NULL;
    char url[700];
    snprintf(url, sizeof(url), "%s", tst_url(env, TST_SQLITE, "a"));
    /* A keyword is a name like any other. */
    tst_ok(store_try(url, "select", LEDGER_STORE_CREATE, &store, &err), &err);
    assert_true(tst_append(store, "s", "1", "k", "t") > 0);
    tst_tag(store, "s", 1, "u");
    tst_annotate(store, "s", 1, "a", "b");
    assert_int_equal(tst_count(store, "s"), 1);
    assert_int_equal(tst_trim(store, "s", 1), 1);
    sqlite3 *db = tst_sqlite(store);
    check_ours(db, "select");
    /* Only what is needed: no other index slows the writer down. */
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM sqlite_master WHERE type = 'index' "
                                       "AND tbl_name = 'select'"),
                     4);
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM sqlite_master WHERE type = 'index' "
                                       "AND tbl_name = 'select_mutations'"),
                     0);
    sqlite3_close(db);
    ledger_store_close(&store);
    /* Names are compared as SQLite does. */
    tst_ok(store_try(url, "SELECT", 0, &store, &err), &err);
    ledger_store_close(&store);
    tst_fails(store_try(url, "other", 0, &store, &err), LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "--table other"));
    tst_fails(store_try(url, NULL, 0, &store, &err), LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "ledger_entries"));
}

static void test_log_modes(void **state)
{
    struct tst_env *env = *state;
    ledger_error err = { 0 };
    ledger_store_options o;
    ledger_store *store = NULL;
    ledger_store_options_defaults(&o);
    o.flags = LEDGER_STORE_CREATE;
    o.log = LEDGER_MUTATION_LOG_OFF;
    store = tst_open_with(env, TST_SQLITE, "a", &o);
    assert_false(ledger_store_has_log(store));
    tst_close(env, store);
    o.flags = 0;
    o.log = LEDGER_MUTATION_LOG_AUTO;
    store = tst_open_with(env, TST_SQLITE, "a", &o);
    assert_false(ledger_store_has_log(store));
    tst_append(store, "s", "1", NULL, NULL);
    tst_close(env, store);
    o.log = LEDGER_MUTATION_LOG_ON;
    o.url = tst_url(env, TST_SQLITE, "a");
    tst_fails(ledger_store_open(&o, &store, &err), LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "ledger_entries_mutations"));
    o.flags = LEDGER_STORE_CREATE;
    store = tst_open_with(env, TST_SQLITE, "a", &o);
    assert_true(ledger_store_has_log(store));
    tst_close(env, store);
    o.flags = 0;
    o.log = LEDGER_MUTATION_LOG_OFF;
    store = tst_open_with(env, TST_SQLITE, "a", &o);
    assert_false(ledger_store_has_log(store));
    tst_append(store, "s", "1", NULL, NULL);
    sqlite3 *db = tst_sqlite(store);
    assert_int_equal(tst_query_int(db, EVENTS), 0);
    sqlite3_close(db);
    /* Another name for the log. */
    o.flags = LEDGER_STORE_CREATE;
    o.log = LEDGER_MUTATION_LOG_ON;
    o.table = "t";
    o.log_table = "t_events";
    o.url = NULL;
    store = tst_open_with(env, TST_SQLITE, "b", &o);
    tst_append(store, "s", "1", NULL, NULL);
    db = tst_sqlite(store);
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM t_events"), 1);
    sqlite3_close(db);
}

static void test_identity(void **state)
{
    struct tst_env *env = *state;
    struct ldg_identity a, b, c;
    ledger_error err;
    struct ldg_sqlite s;
    const char *path = tst_path(env, "a.db");
    handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_CREATE);
    tst_ok(ldg_backend_sqlite.state->identity(&s, &a, &err), &err);
    assert_int_equal(strlen(a.uuid), 36);
    assert_int_equal(a.epoch, 1);
    handle_close(&s);
    handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_CREATE);
    tst_ok(ldg_backend_sqlite.state->identity(&s, &b, &err), &err);
    assert_string_equal(a.uuid, b.uuid);
    const ledger_append_input input = { .payload = { "1", 1 } };
    tst_ok(ldg_sqlite_append(&s, "s", &input, 1, NULL, &err), &err);
    handle_close(&s);
    handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_CREATE | LEDGER_STORE_NEW_IDENTITY);
    tst_ok(ldg_backend_sqlite.state->identity(&s, &b, &err), &err);
    assert_string_not_equal(a.uuid, b.uuid);
    assert_int_equal(tst_query_int(s.db, ENTRIES), 1);
    assert_int_equal(tst_query_int(s.db, EVENTS), 1);
    handle_close(&s);
    handle_open(&s, path, LDG_ROLE_SINK, 0);
    tst_ok(ldg_backend_sqlite.state->identity(&s, &c, &err), &err);
    assert_string_equal(b.uuid, c.uuid);
    tst_exec(s.db, "UPDATE ledger_entries_meta SET uuid = ''");
    handle_close(&s);
    tst_fails(handle_try(&s, path, LDG_ROLE_USER, 0, &err), LEDGER_ERR_DATA, &err);
}

/* A table that Go made becomes ours and stays Go's. */
static void upgrade(struct tst_env *env, bool old)
{
    const char *tag = "go";
    sqlite3 *db = raw_open(tst_path(env, "go.db"));
    if (old)
        tst_go_create_old(db, "ledger_entries");
    else
        tst_go_create(db, "ledger_entries", true);
    if (!old)
        tst_go_append(db, "ledger_entries", true, "s",
                      &(struct tst_go_entry){
                          .payload = "{ \"a\": \"<b>\" }", .dedup_key = "k", .tags = { &tag, 1 } });
    const int64_t rows = tst_query_int(db, ENTRIES);

    ledger_store_options o;
    ledger_store_options_defaults(&o);
    ledger_store *store = tst_open_with(env, TST_SQLITE, "go", &o);
    check_ours(db, "ledger_entries");
    assert_int_equal(ledger_store_has_log(store), !old);
    if (!old) {
        assert_int_equal(tst_append(store, "s", "1", "k", NULL), 0); /* its key is there */
        assert_true(has_index(db, "idx_ledger_entries_source"));
        assert_true(has_index(db, "idx_ledger_entries_tags"));
    }
    const int64_t ours = tst_append(store, "s", "1", "l", NULL);
    assert_true(ours > rows);

    /* Go opens it again and goes on. */
    tst_go_create(db, "ledger_entries", true);
    assert_int_equal(tst_go_append(db, "ledger_entries", true, "s",
                                   &(struct tst_go_entry){ .payload = "2", .dedup_key = "l" }),
                     0);
    assert_true(tst_go_put(db, "ledger_entries", true, "s", "2") > ours);
    tst_go_set_tags(db, "ledger_entries", true, "s", ours, (ledger_list){ &tag, 1 });
    tst_go_annotate(db, "ledger_entries", true, "s", ours, "k", "v");
    tst_go_set_cursor(db, "ledger_entries", "default", "0000000000000000005");
    tst_go_set_cursor(db, "ledger_entries", "default", "0000000000000000004");
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM ledger_entries_cursors "
                                       "WHERE cursor = '0000000000000000005' AND state = ''"),
                     1);
    assert_int_equal(tst_count(store, "s"), rows + 2);
    assert_int_equal(tst_go_trim(db, "ledger_entries", true, "s", ours), rows + 1);
    assert_int_equal(tst_count(store, "s"), 1);
    tst_close(env, store);
    sqlite3_close(db);
}

static void test_go_tables(void **state)
{
    upgrade(*state, false);
}

static void test_old_go_tables(void **state)
{
    upgrade(*state, true);
}

/* Without permission to write the table is read as it is. */
static void test_go_table_read_only(void **state)
{
    struct tst_env *env = *state;
    for (int old = 0; old < 2; old++) {
        struct ldg_sqlite s;
        struct ldg_arena arena;
        struct ldg_identity identity;
        struct ldg_history_row *rows;
        ledger_entry *entries;
        ledger_id id;
        size_t count = 0;
        ledger_error err;
        const char *path = tst_path(env, old ? "old.db" : "new.db");
        sqlite3 *db = raw_open(path);
        if (old)
            tst_go_create_old(db, "ledger_entries");
        else
            tst_go_create(db, "ledger_entries", true);
        tst_exec(db, "INSERT INTO ledger_entries(stream, payload) VALUES ('s', '1')");
        if (!old)
            tst_go_append(db, "ledger_entries", false, "s",
                          &(struct tst_go_entry){ .payload = "2", .source_id = "0007" });
        ldg_arena_init(&arena, 0);
        handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_READ_ONLY);
        tst_ok(ldg_sqlite_read(&s, "s", NULL, NULL, &arena, &entries, &count, &err), &err);
        assert_int_equal(count, old ? 1 : 2);
        assert_string_equal(entries[count - 1].source_id, old ? "" : "0007");
        assert_string_equal(entries[0].origin, "");
        tst_ok(ldg_sqlite_history(&s, 0, ldg_id_of(0), 10, 0, &arena, &rows, &count, &err), &err);
        assert_int_equal(count, old ? 1 : 2);
        ledger_rc rc = ldg_sqlite_find_by_source_id(&s, "s", "0007", &id, &err);
        assert_int_equal(rc, old ? LEDGER_ERR_NOT_FOUND : LEDGER_OK);
        tst_fails(ldg_backend_sqlite.state->identity(&s, &identity, &err), LEDGER_ERR_PERMISSION,
                  &err);
        assert_non_null(strstr(err.message, "store init"));
        assert_false(has_column(db, "ledger_entries", "origin"));
        handle_close(&s);
        ldg_arena_fini(&arena);
        sqlite3_close(db);
    }
}

/* In the caller's transaction no table is changed; the rest works. */
static void test_go_table_in_transaction(void **state)
{
    struct tst_env *env = *state;
    ledger_error err = { 0 };
    sqlite3 *db = raw_open(tst_path(env, "go.db"));
    tst_go_create(db, "ledger_entries", true);
    tst_exec(db, "BEGIN");
    ledger_store *store = store_on(env, db, 0);
    assert_false(sqlite3_get_autocommit(db));
    assert_false(has_column(db, "ledger_entries", "origin"));
    int64_t id = tst_append(store, "s", "1", "k", NULL);
    tst_tag(store, "s", id, "t");
    tst_annotate(store, "s", id, "a", "b");
    tst_trim(store, "s", id);
    tst_close(env, store);
    ledger_store_options o;
    ledger_store_options_defaults(&o);
    o.connection = db;
    o.flags = LEDGER_STORE_CREATE;
    tst_fails(ledger_store_open(&o, &store, &err), LEDGER_ERR_INVALID, &err);
    tst_exec(db, "COMMIT");
    store = tst_open_with(env, TST_SQLITE, NULL, &o);
    check_ours(db, "ledger_entries");
    tst_close(env, store);
    sqlite3_close(db);
}

/* Texts are compared by their bytes, also by an index that came later, and under a handle at work.
 */
static void test_collations(void **state)
{
    struct tst_env *env = *state;
    ledger_store *store = tst_open(env, TST_SQLITE, "a"), *other = NULL;
    sqlite3 *db = tst_sqlite(store);
    const ledger_append_input input = { .payload = { "1", 1 } };
    ledger_ids ids = { 0 };
    ledger_error err;

    tst_append(store, "s", "1", "k", NULL);
    tst_exec(db,
             "DROP INDEX idx_ledger_entries_dedup; CREATE UNIQUE INDEX idx_ledger_entries_dedup "
             "ON ledger_entries(stream COLLATE NOCASE, dedup_key) WHERE dedup_key != ''");
    tst_fails(ledger_store_append(store, "s", &input, 1, &ids, &err), LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "collation"));
    tst_fails(store_try(tst_url(env, TST_SQLITE, "a"), NULL, LEDGER_STORE_CREATE, &other, &err),
              LEDGER_ERR_SCHEMA, &err);
    tst_exec(db, "DROP INDEX idx_ledger_entries_dedup");
    other = tst_open(env, TST_SQLITE, "a");
    /* What others do to tables of their own is nothing to us. */
    tst_exec(db, "CREATE TABLE theirs(name TEXT COLLATE NOCASE)");
    assert_true(tst_append(store, "S", "1", "k", NULL) > 0);
    assert_true(tst_append(other, "t", "1", "k", NULL) > 0);
    /* A table that was made anew. */
    tst_exec(db, "ALTER TABLE ledger_entries_cursors RENAME TO old; CREATE TABLE "
                 "ledger_entries_cursors(name TEXT COLLATE NOCASE PRIMARY KEY, cursor TEXT, state "
                 "TEXT, moved_at TEXT)");
    tst_fails(ledger_store_append(other, "s", &input, 1, &ids, &err), LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "NOCASE"));
    sqlite3_close(db);
}

static void test_other_shapes(void **state)
{
    struct tst_env *env = *state;
    static const struct {
        const char *ddl, *said;
    } cases[] = {
        { "CREATE VIEW ledger_entries AS SELECT 1 AS id", "view" },
        { "CREATE TABLE ledger_entries(id INTEGER PRIMARY KEY, name TEXT)", "\"stream\"" },
        { "CREATE VIRTUAL TABLE ledger_entries USING fts5(stream)", "virtual" },
        { "CREATE TABLE x(a); CREATE INDEX ledger_entries ON x(a)", "index" },
        { "CREATE TABLE ledger_entries(id TEXT PRIMARY KEY, stream, payload, order_key, dedup_key, "
          "schema_version, metadata, tags, annotations, created_at, updated_at)",
          "\"id\"" },
        { "CREATE TABLE ledger_entries(id INTEGER, stream, payload, order_key, dedup_key, "
          "schema_version, metadata, tags, annotations, created_at, updated_at, "
          "PRIMARY KEY (id, stream))",
          "\"id\"" },
        { "CREATE TABLE ledger_entries(id INTEGER PRIMARY KEY, stream TEXT COLLATE NOCASE, "
          "payload, order_key, dedup_key, schema_version, metadata, tags, annotations, created_at, "
          "updated_at)",
          "collation NOCASE" },
        { "CREATE TABLE ledger_entries(id INTEGER PRIMARY KEY, stream TEXT, payload, order_key, "
          "dedup_key VARCHAR(20) COLLATE RTRIM, schema_version, metadata, tags, annotations, "
          "created_at, updated_at)",
          "collation RTRIM" },
        { "CREATE TABLE ledger_entries(id INTEGER PRIMARY KEY, stream INTEGER, payload, order_key, "
          "dedup_key, schema_version, metadata, tags, annotations, created_at, updated_at)",
          "of type INTEGER" },
        { "CREATE TABLE ledger_entries(id INTEGER PRIMARY KEY, stream TEXT, payload, order_key, "
          "dedup_key STRING, schema_version, metadata, tags, annotations, created_at, updated_at)",
          "of type STRING" },
        { "CREATE TABLE ledger_entries_cursors(name TEXT COLLATE NOCASE PRIMARY KEY, cursor TEXT)",
          "collation NOCASE" },
        { "CREATE TABLE ledger_entries_meta(id INTEGER PRIMARY KEY, uuid TEXT COLLATE NOCASE, "
          "epoch, created_at)",
          "collation NOCASE" },
        { "CREATE TABLE ledger_entries_cursors(who TEXT)", "\"name\"" },
        { "CREATE TABLE ledger_entries_meta(who TEXT)", "\"id\"" },
        { "CREATE TABLE ledger_entries_origins(id INTEGER PRIMARY KEY)", "\"uuid\"" },
        { "CREATE TABLE ledger_entries_parked(id INTEGER PRIMARY KEY)", "\"source_uuid\"" },
        { "CREATE TABLE ledger_entries_mutations(id INTEGER PRIMARY KEY)", "\"stream\"" },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ledger_error err;
        ledger_store *store = NULL;
        sqlite3 *db = raw_open(tst_path(env, "a.db"));
        tst_exec(db, "%s", cases[i].ddl);
        int64_t before = tst_query_int(db, "SELECT count(*) FROM sqlite_master");
        tst_fails(store_try(tst_url(env, TST_SQLITE, "a"), NULL, LEDGER_STORE_CREATE, &store, &err),
                  LEDGER_ERR_SCHEMA, &err);
        if (!strstr(err.message, cases[i].said))
            tst_fail("%s: %s", cases[i].ddl, err.message);
        assert_int_equal(tst_query_int(db, "SELECT count(*) FROM sqlite_master"), before);
        sqlite3_close(db);
        tst_env_reset(env);
    }
    /* An index that bears the name of ours. */
    ledger_error err;
    ledger_store *store = NULL;
    sqlite3 *db = raw_open(tst_path(env, "a.db"));
    tst_go_create(db, "ledger_entries", false);
    tst_exec(db, "DROP INDEX idx_ledger_entries_dedup; "
                 "CREATE INDEX idx_ledger_entries_dedup ON ledger_entries(dedup_key)");
    tst_fails(store_try(tst_url(env, TST_SQLITE, "a"), NULL, 0, &store, &err), LEDGER_ERR_SCHEMA,
              &err);
    assert_non_null(strstr(err.message, "idx_ledger_entries_dedup"));
    /* And rows that a missing one would have refused. */
    tst_exec(db, "DROP INDEX idx_ledger_entries_dedup; "
                 "INSERT INTO ledger_entries(stream, payload, dedup_key) "
                 "VALUES ('s', '1', 'k'), ('s', '2', 'k')");
    tst_fails(store_try(tst_url(env, TST_SQLITE, "a"), NULL, 0, &store, &err), LEDGER_ERR_SCHEMA,
              &err);
    assert_false(has_column(db, "ledger_entries", "origin"));
    sqlite3_close(db);
}

static size_t count_parked(struct ldg_sqlite *s, struct ldg_arena *arena)
{
    struct ldg_parked_row *rows = NULL;
    size_t count = 0;
    ledger_error err;
    tst_ok(ldg_sqlite_parked_list(s, 0, 10, arena, &rows, &count, &err), &err);
    if (count > 0)
        assert_int_equal(rows[0].key.number, 7);
    return count;
}

/* A file of the time before keys could be texts: read as it is where it cannot be written, else
 * mended. */
static void test_file_without_text_keys(void **state)
{
    const ledger_id text = { .text = "x" };
    struct tst_env *env = *state;
    const char *path = tst_path(env, "a.db");
    struct ldg_history_row *rows;
    struct ldg_arena arena;
    struct ldg_sqlite s;
    ledger_id *ids;
    size_t count = 9;
    ledger_error err;

    ldg_arena_init(&arena, 0);
    handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_CREATE);
    handle_close(&s);
    sqlite3 *db = raw_open(path);
    tst_exec(db, "DROP INDEX idx_ledger_entries_key; DROP INDEX idx_ledger_entries_parked_key; "
                 "ALTER TABLE ledger_entries_parked DROP COLUMN entry_id; "
                 "INSERT INTO ledger_entries_origins(id, uuid, epoch) VALUES (1, 'u', 1); "
                 "INSERT INTO ledger_entries(stream, payload, origin, source_pos) "
                 "VALUES ('s', '1', 1, 5); "
                 "INSERT INTO ledger_entries_parked(source_uuid, origin, log_position, entry, "
                 "stream, type, reason, parked_at) "
                 "VALUES ('u', 1, 1, 7, 's', 'append', 'r', '2026-01-01T00:00:00.000')");
    const int64_t version = tst_query_int(db, "PRAGMA schema_version");

    handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_READ_ONLY);
    assert_int_equal(count_parked(&s, &arena), 1);
    tst_ok(ldg_sqlite_history(&s, 1, ldg_id_of(0), 10, 0, &arena, &rows, &count, &err), &err);
    assert_int_equal(count, 1);
    assert_int_equal(rows[0].key.number, 5);
    tst_ok(ldg_sqlite_trim_survivors(&s, 1, "s", text, &arena, &ids, &count, &err), &err);
    assert_int_equal(count, 0);
    tst_ok(ldg_sqlite_trim_survivors(&s, 1, "s", ldg_id_of(9), &arena, &ids, &count, &err), &err);
    assert_int_equal(count, 2);
    handle_close(&s);
    assert_int_equal(tst_query_int(db, "PRAGMA schema_version"), version);

    handle_open(&s, path, LDG_ROLE_SOURCE, 0);
    assert_true(has_index(db, "idx_ledger_entries_key"));
    assert_true(has_index(db, "idx_ledger_entries_parked_key"));
    assert_true(has_column(db, "ledger_entries_parked", "entry_id"));
    assert_int_equal(count_parked(&s, &arena), 1);
    tst_ok(ldg_sqlite_trim_survivors(&s, 1, "s", text, &arena, &ids, &count, &err), &err);
    assert_int_equal(count, 0);
    handle_close(&s);
    sqlite3_close(db);
    ldg_arena_fini(&arena);
}

/* The entry table without our index for dedup keys, dropped behind an open handle. */
static void test_changed_behind_us(void **state)
{
    struct tst_env *env = *state;
    ledger_error err = { 0 };
    ledger_store *store = tst_open(env, TST_SQLITE, "a");
    const ledger_append_input input = { .payload = { "1", 1 }, .dedup_key = "k" };
    tst_append(store, "s", "1", NULL, NULL);
    tst_exec_on(store, "DROP INDEX idx_ledger_entries_dedup");
    tst_fails(ledger_store_append(store, "s", &input, 1, NULL, &err), LEDGER_ERR_SCHEMA, &err);
    tst_exec_on(store, "DROP TABLE ledger_entries_mutations");
    const ledger_append_input plain = { .payload = { "1", 1 } };
    tst_fails(ledger_store_append(store, "s", &plain, 1, NULL, &err), LEDGER_ERR_SCHEMA, &err);
    assert_int_equal(tst_count(store, "s"), 1);
}

static void open_in_children(const char *path, uint32_t flags)
{
    int gate[2];
    pid_t pids[PROCESSES];
    assert_int_equal(pipe(gate), 0);
    for (int i = 0; i < PROCESSES; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            struct ldg_sqlite s;
            ledger_error err;
            char c;
            const ledger_append_input input = { .payload = { "1", 1 } };
            close(gate[1]);
            (void)!read(gate[0], &c, 1); /* until the parent closes it */
            ledger_rc rc = handle_try(&s, path, LDG_ROLE_USER, flags, &err);
            if (rc == LEDGER_OK) {
                rc = ldg_sqlite_append(&s, "s", &input, 1, NULL, &err);
                handle_close(&s);
            }
            if (rc != LEDGER_OK)
                print_error("%s\n", err.message);
            _exit(rc == LEDGER_OK ? 0 : 1);
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
}

static void test_init_at_once(void **state)
{
    struct tst_env *env = *state;
    for (int round = 0; round < 5; round++) {
        open_in_children(tst_path(env, "a.db"), LEDGER_STORE_CREATE);
        sqlite3 *db = raw_open(tst_path(env, "a.db"));
        assert_int_equal(tst_query_int(db, ENTRIES), PROCESSES);
        assert_int_equal(tst_query_int(db, EVENTS), PROCESSES);
        check_ours(db, "ledger_entries");
        sqlite3_close(db);

        db = raw_open(tst_path(env, "go.db"));
        tst_go_create(db, "ledger_entries", true);
        sqlite3_close(db);
        open_in_children(tst_path(env, "go.db"), 0);
        db = raw_open(tst_path(env, "go.db"));
        assert_int_equal(tst_query_int(db, ENTRIES), PROCESSES);
        assert_int_equal(tst_query_int(db, EVENTS), PROCESSES);
        check_ours(db, "ledger_entries");
        sqlite3_close(db);
        tst_env_reset(env);
    }
}

struct seen {
    int ok, warnings, errors;
    char last[512];
};

static void count_finding(void *ctx, ledger_severity severity, const char *subject,
                          const char *text)
{
    struct seen *seen = ctx;
    seen->ok += severity == LEDGER_FINDING_OK;
    seen->warnings += severity == LEDGER_FINDING_WARNING;
    seen->errors += severity == LEDGER_FINDING_ERROR;
    if (severity == LEDGER_FINDING_ERROR)
        snprintf(seen->last, sizeof(seen->last), "%s: %s", subject, text);
}

static void test_check(void **state)
{
    struct tst_env *env = *state;
    ledger_error err = { 0 };
    struct seen seen = { 0 };
    ledger_store *store = tst_open(env, TST_SQLITE, "a");
    int expected_warnings = 0;
    int v = sqlite3_libversion_number();
    if (!(v >= 3051003 || (v >= 3050007 && v < 3051000) || (v >= 3044006 && v < 3045000)))
        expected_warnings++;
    tst_ok(ledger_store_check(store, count_finding, &seen, &err), &err);
    assert_int_equal(seen.errors, 0);
    assert_int_equal(seen.warnings, expected_warnings);
    assert_true(seen.ok > 15);

    tst_exec_on(store, "DROP INDEX idx_ledger_entries_origin");
    seen = (struct seen){ 0 };
    tst_ok(ledger_store_check(store, count_finding, &seen, &err), &err);
    assert_int_equal(seen.errors, 1);
    assert_non_null(strstr(seen.last, "idx_ledger_entries_origin"));

    tst_exec_on(store, "CREATE UNIQUE INDEX idx_ledger_entries_origin ON "
                       "ledger_entries(origin, source_pos) WHERE source_pos IS NOT NULL; "
                       "INSERT INTO ledger_entries_origins(uuid, epoch) "
                       "SELECT uuid, epoch FROM ledger_entries_meta");
    seen = (struct seen){ 0 };
    tst_ok(ledger_store_check(store, count_finding, &seen, &err), &err);
    assert_int_equal(seen.errors, 1);
    assert_non_null(strstr(seen.last, "copy"));

    tst_exec_on(store, "DROP TABLE ledger_entries_origins; DROP TABLE ledger_entries_mutations");
    seen = (struct seen){ 0 };
    tst_ok(ledger_store_check(store, count_finding, &seen, &err), &err);
    assert_int_equal(seen.errors, 2); /* and a column of the first */
    assert_int_equal(seen.warnings, expected_warnings + 1);

    tst_exec_on(store, "ALTER TABLE ledger_entries RENAME COLUMN tags TO labels");
    seen = (struct seen){ 0 };
    tst_ok(ledger_store_check(store, count_finding, &seen, &err), &err);
    assert_true(seen.errors >= 1);

    sqlite3 *db = raw_open(tst_path(env, "b.db"));
    tst_exec(db, "CREATE TABLE ledger_entries(id INTEGER PRIMARY KEY, stream TEXT NOT NULL, "
                 "payload BLOB NOT NULL, order_key TEXT NOT NULL DEFAULT '', "
                 "dedup_key TEXT NOT NULL DEFAULT '', schema_version INTEGER DEFAULT 1, "
                 "metadata TEXT, tags TEXT DEFAULT '[]', annotations TEXT, created_at TEXT, "
                 "updated_at TEXT); PRAGMA synchronous=OFF");
    store = store_on(env, db, LEDGER_STORE_CREATE);
    seen = (struct seen){ 0 };
    tst_ok(ledger_store_check(store, count_finding, &seen, &err), &err);
    assert_int_equal(seen.errors, 0);
    /* No AUTOINCREMENT, no WAL, no waiting for the disk. */
    assert_int_equal(seen.warnings, expected_warnings + 3);
    tst_close(env, store);
    sqlite3_close(db);
}

struct said {
    char text[8192];
};

static void note_finding(void *ctx, ledger_severity severity, const char *subject, const char *text)
{
    struct said *said = ctx;
    const size_t size = strlen(said->text);
    snprintf(said->text + size, sizeof(said->text) - size, "%d %s: %s\n", (int)severity, subject,
             text);
}

static void finds(ledger_store *store, const char *text, bool expected)
{
    struct said said = { "" };
    ledger_error err = { 0 };
    tst_ok(ledger_store_check(store, note_finding, &said, &err), &err);
    if ((strstr(said.text, text) != NULL) != expected)
        tst_fail("%s is %sfound in:\n%s", text, expected ? "not " : "", said.text);
}

/* What the next write would run into, or a later one, is known before it. */
static void test_check_ids(void **state)
{
#define AT_END(table)                                                                              \
    "UPDATE sqlite_sequence SET seq = 9223372036854775807 WHERE name = '" table "'"
#define MENDED(table)                                                                              \
    "UPDATE sqlite_sequence SET seq = (SELECT coalesce(max(id), 0) FROM \"" table "\") "           \
    "WHERE name = '" table "' COLLATE NOCASE"
    static const struct {
        const char *sql, *found, *help;
    } cases[] = {
        { AT_END("ledger_entries"), "2 ledger_entries: it has run out of ids",
          MENDED("ledger_entries") },
        { AT_END("ledger_entries_mutations"), "2 ledger_entries_mutations: it has run out",
          MENDED("ledger_entries_mutations") },
        { "INSERT INTO sqlite_sequence(name, seq) VALUES ('ledger_entries_parked', "
          "9000000000000000000)",
          "1 ledger_entries_parked: less than a tenth", MENDED("ledger_entries_parked") },
        { "UPDATE sqlite_sequence SET seq = 1 WHERE name = 'ledger_entries'",
          "1 ledger_entries: sqlite_sequence lies behind its rows (1, and the highest id is 2)",
          MENDED("ledger_entries") },
        { "DELETE FROM sqlite_sequence WHERE name = 'ledger_entries_mutations'",
          "1 ledger_entries_mutations: sqlite_sequence lies behind its rows (0,",
          "INSERT INTO sqlite_sequence(name, seq) SELECT 'ledger_entries_mutations', max(id) FROM "
          "\"ledger_entries_mutations\"" },
    };
    struct tst_env *env = *state;
    ledger_store *store = tst_open(env, TST_SQLITE, "a");

    (void)tst_append(store, "s", "1", NULL, NULL);
    (void)tst_append(store, "s", "2", NULL, NULL);
    finds(store, "sqlite_sequence", false);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        tst_exec_on(store, "%s", cases[i].sql);
        finds(store, cases[i].found, true);
        finds(store, cases[i].help, true);
        tst_exec_on(store, "%s", cases[i].help);
        finds(store, "sqlite_sequence", false);
    }
    tst_exec_on(store, "UPDATE ledger_entries SET id = 9223372036854775807 WHERE id = 2");
    finds(store, "2 ledger_entries: it has run out of ids", true);
    finds(store, "carry its rows into a new table", true);
#undef AT_END
#undef MENDED
}

static void test_check_triggers(void **state)
{
    struct tst_env *env = *state;
    ledger_store *store = tst_open(env, TST_SQLITE, "a");

    finds(store, "trigger", false);
    tst_exec_on(store, "CREATE TRIGGER first BEFORE INSERT ON ledger_entries BEGIN SELECT 1; END; "
                       "CREATE TRIGGER plain DELETE ON Ledger_Entries_Parked BEGIN SELECT 1; END; "
                       "CREATE TRIGGER outbox AFTER UPDATE ON ledger_entries_cursors "
                       "BEGIN SELECT 1; END");
    finds(store, "1 ledger_entries: trigger first may drop or refuse", true);
    finds(store, ": trigger plain may drop or refuse", true);
    finds(store, "0 ledger_entries_cursors: trigger outbox (AFTER)", true);
}

/* Root may write everywhere but for what is mounted read-only, so the test is another user then. */
static void test_check_may_write(void **state)
{
    struct tst_env *env = *state;
    ledger_store *store = tst_open(env, TST_SQLITE, "a");
    const char *path = tst_path(env, "a.db");
    const bool is_root = geteuid() == 0;

    finds(store, "may not write", false);
    assert_int_equal(chmod(path, 0444), 0);
    assert_int_equal(chmod(tst_path(env, ""), 0755), 0);
    if (is_root)
        assert_int_equal(seteuid(65534), 0);
    finds(store, "1 file: this user may not write to", true);
    if (is_root)
        assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(path, 0644), 0);
}

static ledger_rc open_and_close(void *ctx)
{
    struct ldg_sqlite s;
    ledger_error err;
    ledger_rc rc = handle_try(&s, ctx, LDG_ROLE_USER, LEDGER_STORE_CREATE, &err);
    if (rc == LEDGER_OK)
        handle_close(&s);
    return rc;
}

/* Only a sink's writes need the table of foreign changes: one who may only read goes without. */
static void test_without_foreign_changes(void **state)
{
    const char *path = tst_path(*state, "a.db");
    struct ldg_sqlite s;
    sqlite3 *db;

    handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_CREATE);
    handle_close(&s);
    db = raw_open(path);
    tst_exec(db, "DROP TABLE " LEDGER_DEFAULT_TABLE "_foreign");
    handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_READ_ONLY);
    assert_true(s.has_ours);
    handle_close(&s);
    handle_open(&s, path, LDG_ROLE_SINK, 0);
    handle_close(&s);
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM " LEDGER_DEFAULT_TABLE "_foreign"), 0);
    sqlite3_close(db);
}

/* Nor the positions of each kind of change, which versions before this one did not have. */
static void test_without_positions_of_kinds(void **state)
{
    const char *path = tst_path(*state, "a.db");
    struct ldg_sqlite s;
    sqlite3 *db;

    handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_CREATE);
    handle_close(&s);
    db = raw_open(path);
    tst_exec(db, "ALTER TABLE " LEDGER_DEFAULT_TABLE " DROP COLUMN tags_pos; "
                 "ALTER TABLE " LEDGER_DEFAULT_TABLE " DROP COLUMN annotations_pos");
    handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_READ_ONLY);
    assert_true(s.has_ours);
    handle_close(&s);
    handle_open(&s, path, LDG_ROLE_SINK, 0);
    handle_close(&s);
    assert_true(has_column(db, LEDGER_DEFAULT_TABLE, "tags_pos"));
    assert_true(has_column(db, LEDGER_DEFAULT_TABLE, "annotations_pos"));
    sqlite3_close(db);
}

static void test_allocations(void **state)
{
    struct tst_env *env = *state;
    alloc_fail_each(open_and_close, (void *)tst_path(env, "a.db"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_create, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_log_modes, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_identity, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_go_tables, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_old_go_tables, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_go_table_read_only, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_file_without_text_keys, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_go_table_in_transaction, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_other_shapes, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_collations, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_changed_behind_us, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_init_at_once, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_check, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_check_ids, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_check_triggers, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_check_may_write, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_without_foreign_changes, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_without_positions_of_kinds, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_allocations, tst_setup, tst_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
