/* Opening, closing, errors, transactions and snapshots of the SQLite backend. */
#include "handle.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static void text_of(sqlite3 *db, const char *sql, char *out, size_t size)
{
    sqlite3_stmt *stmt = NULL;
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    snprintf(out, size, "%s", (const char *)sqlite3_column_text(stmt, 0));
    sqlite3_finalize(stmt);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_url_forms(void **state)
{
    struct tst_env *env = *state;
    ledger_error err;
    ledger_store *store = NULL;
    char url[700], back[64];
    snprintf(url, sizeof(url), "sqlite://%s", tst_path(env, "slashes.db"));
    tst_ok(store_try(url, NULL, LEDGER_STORE_CREATE, &store, &err), &err);
    ledger_store_close(&store);
    assert_true(tst_file_exists(tst_path(env, "slashes.db")));

    /* A relative name; and one that SQLite alone would read as a URI. */
    assert_non_null(getcwd(url, sizeof(url)));
    assert_int_equal(chdir(env->dir), 0);
    tst_ok(store_try("sqlite:relative.db", NULL, LEDGER_STORE_CREATE, &store, &err), &err);
    ledger_store_close(&store);
    tst_ok(store_try("sqlite:file:odd.db?mode=memory", NULL, LEDGER_STORE_CREATE, &store, &err),
           &err);
    ledger_store_close(&store);
    assert_int_equal(chdir(url), 0);
    assert_true(tst_file_exists(tst_path(env, "relative.db")));
    assert_true(tst_file_exists(tst_path(env, "file:odd.db?mode=memory")));

    tst_ok(store_try("sqlite::memory:", NULL, LEDGER_STORE_CREATE, &store, &err), &err);
    assert_true(tst_append(store, "s", "{}", NULL, NULL) == 1);
    ledger_store *other = NULL;
    tst_fails(ldg_store_reopen(store, LDG_ROLE_SINK, NULL, &other, &err), LEDGER_ERR_INVALID, &err);
    ledger_store_close(&store);

    tst_fails(store_try("sqlite:", NULL, LEDGER_STORE_CREATE, &store, &err), LEDGER_ERR_INVALID,
              &err);
    tst_fails(store_try("sqlite://", NULL, LEDGER_STORE_CREATE, &store, &err), LEDGER_ERR_INVALID,
              &err);
    (void)back;
}

static void test_bad_files(void **state)
{
    struct tst_env *env = *state;
    ledger_error err;
    ledger_store *store = NULL;
    char url[700];

    snprintf(url, sizeof(url), "sqlite:%s", tst_path(env, "none.db"));
    tst_fails(store_try(url, NULL, 0, &store, &err), LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "store init"));
    assert_non_null(strstr(err.message, "no such file"));
    assert_false(tst_file_exists(tst_path(env, "none.db")));

    snprintf(url, sizeof(url), "sqlite:%s/deep/er.db", env->dir);
    tst_fails(store_try(url, NULL, LEDGER_STORE_CREATE, &store, &err), LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "no such folder"));

    /* A bridge waits for a file that it had. */
    for (int role = LDG_ROLE_SOURCE; role <= LDG_ROLE_SINK; role++) {
        struct ldg_sqlite s;
        tst_fails(handle_try(&s, tst_path(env, "none.db"), (enum ldg_role)role, 0, &err),
                  LEDGER_ERR_CONNECT, &err);
        assert_non_null(strstr(err.message, "no such file"));
        assert_true(err.flags & LEDGER_ERROR_RETRY);
        snprintf(url, sizeof(url), "%s/deep/er.db", env->dir);
        tst_fails(handle_try(&s, url, (enum ldg_role)role, 0, &err), LEDGER_ERR_CONNECT, &err);
    }

    snprintf(url, sizeof(url), "sqlite:%s", env->dir);
    tst_fails(store_try(url, NULL, LEDGER_STORE_CREATE, &store, &err), LEDGER_ERR_PERMISSION, &err);
    assert_non_null(strstr(err.message, "folder"));
    snprintf(url, sizeof(url), "sqlite:%s/", env->dir);
    tst_fails(store_try(url, NULL, LEDGER_STORE_CREATE, &store, &err), LEDGER_ERR_PERMISSION, &err);

    snprintf(url, sizeof(url), "sqlite:%s", tst_path(env, "pipe"));
    assert_int_equal(mkfifo(tst_path(env, "pipe"), 0600), 0);
    tst_fails(store_try(url, NULL, 0, &store, &err), LEDGER_ERR_PERMISSION, &err);

    write_file(tst_path(env, "text.db"),
               "This is no database, however long one looks at it. It has "
               "more than a hundred bytes, though, so that there is a header to be looked at.\n");
    snprintf(url, sizeof(url), "sqlite:%s", tst_path(env, "text.db"));
    tst_fails(store_try(url, NULL, 0, &store, &err), LEDGER_ERR_CORRUPT, &err);
    tst_fails(store_try(url, NULL, LEDGER_STORE_CREATE, &store, &err), LEDGER_ERR_CORRUPT, &err);
    assert_int_equal(err.native_code, SQLITE_NOTADB);
    assert_string_equal(err.backend, "sqlite");

    sqlite3 *db = raw_open(tst_path(env, "utf16.db"));
    tst_exec(db, "PRAGMA encoding='UTF-16le'; CREATE TABLE t(a)");
    sqlite3_close(db);
    snprintf(url, sizeof(url), "sqlite:%s", tst_path(env, "utf16.db"));
    tst_fails(store_try(url, NULL, LEDGER_STORE_CREATE, &store, &err), LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "UTF-8"));

    /* An empty file is an empty database. */
    write_file(tst_path(env, "empty.db"), "");
    snprintf(url, sizeof(url), "sqlite:%s", tst_path(env, "empty.db"));
    tst_fails(store_try(url, NULL, 0, &store, &err), LEDGER_ERR_SCHEMA, &err);
    tst_ok(store_try(url, NULL, LEDGER_STORE_CREATE, &store, &err), &err);
    ledger_store_close(&store);
    assert_null(store);
}

/* Root may do all that is refused here: then the files are another user's, and so is what we do. */
static void test_permissions(void **state)
{
    const uid_t nobody = 65534;
    struct tst_env *env = *state;
    ledger_error err;
    ledger_store *store = NULL;
    char url[700];
    bool was_root = geteuid() == 0;
    if (was_root) {
        assert_int_equal(chown(env->dir, nobody, (gid_t)-1), 0);
        assert_int_equal(setresuid(nobody, nobody, 0), 0);
    }
    assert_int_equal(mkdir(tst_path(env, "ro"), 0500), 0);
    snprintf(url, sizeof(url), "sqlite:%s", tst_path(env, "ro/new.db"));
    tst_fails(store_try(url, NULL, LEDGER_STORE_CREATE, &store, &err), LEDGER_ERR_PERMISSION, &err);
    tst_close(env, tst_open(env, TST_SQLITE, "a"));
    assert_int_equal(chmod(tst_path(env, "a.db"), 0), 0);
    snprintf(url, sizeof(url), "sqlite:%s", tst_path(env, "a.db"));
    tst_fails(store_try(url, NULL, 0, &store, &err), LEDGER_ERR_PERMISSION, &err);
    if (was_root)
        assert_int_equal(setresuid(0, 0, 0), 0);
}

static void test_read_only(void **state)
{
    struct tst_env *env = *state;
    ledger_error err;
    ledger_store *store = tst_open(env, TST_SQLITE, "a");
    ledger_store *reader = NULL;
    struct ldg_sqlite s;
    tst_append(store, "s", "1", NULL, NULL);
    tst_ok(store_try(ledger_store_url(store), NULL, LEDGER_STORE_READ_ONLY, &reader, &err), &err);
    assert_int_equal(tst_count(reader, "s"), 1);
    ledger_store_close(&reader);
    /* Below store.c the file itself refuses. */
    handle_open(&s, tst_path(env, "a.db"), LDG_ROLE_USER, LEDGER_STORE_READ_ONLY);
    const ledger_append_input input = { .payload = { "1", 1 } };
    tst_fails(ldg_sqlite_append(&s, "s", &input, 1, NULL, &err), LEDGER_ERR_PERMISSION, &err);
    handle_close(&s);
    tst_close(env, store);
    /* Nothing is made without permission to write. */
    sqlite3 *db = raw_open(tst_path(env, "empty.db"));
    tst_exec(db, "CREATE TABLE other(a)");
    sqlite3_close(db);
    tst_fails(handle_try(&s, tst_path(env, "empty.db"), LDG_ROLE_USER,
                         LEDGER_STORE_CREATE | LEDGER_STORE_READ_ONLY, &err),
              LEDGER_ERR_SCHEMA, &err);
}

static void test_new_database_is_wal(void **state)
{
    struct tst_env *env = *state;
    char text[32];
    tst_close(env, tst_open(env, TST_SQLITE, "new"));
    sqlite3 *db = raw_open(tst_path(env, "new.db"));
    text_of(db, "PRAGMA journal_mode", text, sizeof(text));
    assert_string_equal(text, "wal");
    sqlite3_close(db);
    /* One that is there keeps what it has. */
    db = raw_open(tst_path(env, "old.db"));
    tst_exec(db, "CREATE TABLE other(a)");
    sqlite3_close(db);
    ledger_store *store = tst_open(env, TST_SQLITE, "old");
    tst_append(store, "s", "1", NULL, NULL);
    tst_close(env, store);
    db = raw_open(tst_path(env, "old.db"));
    text_of(db, "PRAGMA journal_mode", text, sizeof(text));
    assert_string_equal(text, "delete");
    sqlite3_close(db);
}

static void test_roles(void **state)
{
    struct tst_env *env = *state;
    struct ldg_sqlite s;
    int value = 0;
    tst_close(env, tst_open(env, TST_SQLITE, "a"));
    const char *path = tst_path(env, "a.db");

    handle_open(&s, path, LDG_ROLE_USER, 0);
    assert_int_equal(tst_query_int(s.db, "PRAGMA synchronous"), 2);
    assert_int_equal(tst_query_int(s.db, "PRAGMA query_only"), 0);
    handle_close(&s);

    handle_open(&s, path, LDG_ROLE_SOURCE, 0);
    assert_int_equal(tst_query_int(s.db, "PRAGMA query_only"), 1);
    assert_int_equal(tst_query_int(s.db, "PRAGMA wal_autocheckpoint"), 0);
    sqlite3_db_config(s.db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, -1, &value);
    assert_int_equal(value, 1);
    handle_close(&s);

    handle_open(&s, path, LDG_ROLE_SINK, 0);
    assert_int_equal(tst_query_int(s.db, "PRAGMA synchronous"), 1);
    assert_int_equal(tst_query_int(s.db, "PRAGMA wal_autocheckpoint"), 1000);
    ldg_backend_sqlite.sink->hint_backlog(&s, true);
    assert_int_equal(tst_query_int(s.db, "PRAGMA wal_autocheckpoint"), 4000);
    ldg_backend_sqlite.sink->hint_backlog(&s, false);
    assert_int_equal(tst_query_int(s.db, "PRAGMA wal_autocheckpoint"), 1000);
    handle_close(&s);

    /* A rollback journal is only safe when it waits for the disk. */
    sqlite3 *db = raw_open(path);
    tst_exec(db, "PRAGMA journal_mode=DELETE");
    sqlite3_close(db);
    handle_open(&s, path, LDG_ROLE_SINK, 0);
    assert_int_equal(tst_query_int(s.db, "PRAGMA synchronous"), 2);
    handle_close(&s);
}

static void test_names(void **state)
{
    struct tst_env *env = *state;
    struct ldg_sqlite s, t;
    char url[700], other[700], tiny[8];
    tst_close(env, tst_open(env, TST_SQLITE, "a"));
    assert_int_equal(symlink(tst_path(env, "a.db"), tst_path(env, "link.db")), 0);
    handle_open(&s, tst_path(env, "a.db"), LDG_ROLE_USER, 0);
    handle_open(&t, tst_path(env, "link.db"), LDG_ROLE_USER, 0);
    assert_string_equal(ldg_backend_sqlite.wake_key(&s), ldg_backend_sqlite.wake_key(&t));
    assert_int_equal(ldg_backend_sqlite.wake_key(&s)[0], '/');
    assert_true(ldg_backend_sqlite.describe(&s, url, sizeof(url)));
    assert_true(ldg_backend_sqlite.describe(&t, other, sizeof(other)));
    /* Another handle goes by the name as it was given: the link may be changed. */
    assert_memory_equal(url, "sqlite:/", 8);
    assert_non_null(strstr(url, "/a.db"));
    assert_non_null(strstr(other, "/link.db"));
    assert_false(ldg_backend_sqlite.describe(&s, tiny, sizeof(tiny)));
    handle_close(&s);
    handle_close(&t);
    handle_open(&s, ":memory:", LDG_ROLE_USER, LEDGER_STORE_CREATE);
    handle_open(&t, ":memory:", LDG_ROLE_USER, LEDGER_STORE_CREATE);
    assert_string_not_equal(ldg_backend_sqlite.wake_key(&s), ldg_backend_sqlite.wake_key(&t));
    assert_false(ldg_backend_sqlite.describe(&s, url, sizeof(url)));
    handle_close(&s);
    handle_close(&t);
}

static void test_transactions(void **state)
{
    struct tst_env *env = *state;
    ledger_error err;
    ledger_store *store = tst_open(env, TST_SQLITE, "a");
    sqlite3 *db = tst_sqlite(store);
    tst_ok(ledger_store_begin(store, &err), &err);
    tst_fails(ledger_store_begin(store, &err), LEDGER_ERR_INVALID, &err);
    tst_append(store, "s", "1", NULL, NULL);
    tst_append(store, "t", "2", NULL, NULL);
    assert_int_equal(tst_query_int(db, ENTRIES), 0);
    tst_ok(ledger_store_rollback(store, &err), &err);
    assert_int_equal(tst_query_int(db, ENTRIES), 0);
    assert_int_equal(tst_query_int(db, EVENTS), 0);
    tst_fails(ledger_store_rollback(store, &err), LEDGER_ERR_INVALID, &err);
    tst_fails(ledger_store_commit(store, &err), LEDGER_ERR_INVALID, &err);

    tst_ok(ledger_store_begin(store, &err), &err);
    int64_t id = tst_append(store, "s", "1", NULL, NULL);
    tst_tag(store, "s", id, "x");
    tst_ok(ledger_store_commit(store, &err), &err);
    assert_int_equal(tst_query_int(db, ENTRIES), 1);
    assert_int_equal(tst_query_int(db, EVENTS), 2);

    /* An open transaction ends with its store. */
    tst_ok(ledger_store_begin(store, &err), &err);
    tst_append(store, "s", "1", NULL, NULL);
    tst_close(env, store);
    assert_int_equal(tst_query_int(db, ENTRIES), 1);
    sqlite3_close(db);
}

static void test_snapshot(void **state)
{
    struct tst_env *env = *state;
    ledger_error err;
    ledger_store *writer = tst_open(env, TST_SQLITE, "a");
    struct ldg_sqlite s;
    uint64_t count = 0;
    tst_append(writer, "s", "1", NULL, NULL);
    handle_open(&s, tst_path(env, "a.db"), LDG_ROLE_USER, 0);
    tst_ok(ldg_backend_sqlite.verify->snapshot_begin(&s, &err), &err);
    tst_fails(ldg_backend_sqlite.verify->snapshot_begin(&s, &err), LEDGER_ERR_INVALID, &err);
    tst_append(writer, "s", "2", NULL, NULL);
    tst_ok(ldg_sqlite_count(&s, "s", &count, &err), &err);
    assert_int_equal(count, 1);
    const ledger_append_input input = { .payload = { "1", 1 } };
    tst_fails(ldg_sqlite_append(&s, "s", &input, 1, NULL, &err), LEDGER_ERR_INVALID, &err);
    ldg_backend_sqlite.verify->snapshot_end(&s);
    ldg_backend_sqlite.verify->snapshot_end(&s);
    tst_ok(ldg_sqlite_count(&s, "s", &count, &err), &err);
    assert_int_equal(count, 2);
    tst_ok(ldg_backend_sqlite.verify->snapshot_begin(&s, &err), &err);
    handle_close(&s);
}

static void test_busy(void **state)
{
    struct tst_env *env = *state;
    ledger_error err;
    ledger_store_options o;
    ledger_store_options_defaults(&o);
    o.flags = LEDGER_STORE_CREATE;
    o.busy_timeout_ms = 10;
    ledger_store *store = tst_open_with(env, TST_SQLITE, "a", &o);
    sqlite3 *db = tst_sqlite(store);
    tst_exec(db, "BEGIN IMMEDIATE");
    const ledger_append_input input = { .payload = { "1", 1 } };
    tst_fails(ledger_store_append(store, "s", &input, 1, NULL, &err), LEDGER_ERR_BUSY, &err);
    assert_int_equal(err.flags, LEDGER_ERROR_RETRY);
    assert_non_null(strstr(err.message, "a.db"));
    tst_fails(ledger_store_begin(store, &err), LEDGER_ERR_BUSY, &err);
    tst_exec(db, "COMMIT");
    tst_ok(ledger_store_append(store, "s", &input, 1, NULL, &err), &err);
    sqlite3_close(db);
}

/* Without WAL a reader keeps a commit out: the transaction stays open and is committed again. */
static void test_busy_commit(void **state)
{
    struct tst_env *env = *state;
    ledger_error err;
    ledger_store_options o;
    sqlite3_stmt *reader = NULL;
    ledger_store_options_defaults(&o);
    o.flags = LEDGER_STORE_CREATE;
    o.busy_timeout_ms = 10;
    ledger_store *store = tst_open_with(env, TST_SQLITE, "a", &o);
    tst_close(env, store);
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(tst_path(env, "a.db"), &db), SQLITE_OK);
    tst_exec(db, "PRAGMA journal_mode=DELETE");
    store = tst_open_with(env, TST_SQLITE, "a", &o);
    const ledger_append_input input = { .payload = { "1", 1 } };
    tst_ok(ledger_store_begin(store, &err), &err);
    tst_ok(ledger_store_append(store, "s", &input, 1, NULL, &err), &err);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT name FROM sqlite_master", -1, &reader, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(reader), SQLITE_ROW);
    tst_fails(ledger_store_commit(store, &err), LEDGER_ERR_BUSY, &err);
    tst_ok(ledger_store_append(store, "s", &input, 1, NULL, &err), &err);
    sqlite3_finalize(reader);
    tst_ok(ledger_store_commit(store, &err), &err);
    assert_int_equal(tst_query_int(db, ENTRIES), 2);
    assert_int_equal(tst_query_int(db, EVENTS), 2);
    sqlite3_close(db);
}

/* A full database ends the whole transaction: what follows must not be committed alone. */
static void test_full(void **state)
{
    struct tst_env *env = *state;
    ledger_error err;
    struct ldg_sqlite s;
    char *big = test_malloc(2000000);
    memset(big, '1', 2000000);
    handle_open(&s, tst_path(env, "a.db"), LDG_ROLE_USER, LEDGER_STORE_CREATE);
    const ledger_append_input small = { .payload = { "1", 1 } };
    const ledger_append_input input = { .payload = { big, 2000000 } };
    tst_exec(s.db, "PRAGMA max_page_count=100");
    tst_fails(ldg_sqlite_append(&s, "s", &input, 1, NULL, &err), LEDGER_ERR_FULL, &err);
    assert_int_equal(err.flags, LEDGER_ERROR_RETRY);
    tst_ok(ldg_backend_sqlite.store->tx_begin(&s, &err), &err);
    tst_ok(ldg_sqlite_append(&s, "s", &small, 1, NULL, &err), &err);
    tst_fails(ldg_sqlite_append(&s, "s", &input, 1, NULL, &err), LEDGER_ERR_FULL, &err);
    if (sqlite3_get_autocommit(s.db)) {
        tst_fails(ldg_sqlite_append(&s, "s", &small, 1, NULL, &err), LEDGER_ERR_INVALID, &err);
        tst_fails(ldg_backend_sqlite.store->tx_commit(&s, &err), LEDGER_ERR_INVALID, &err);
        assert_int_equal(tst_query_int(s.db, ENTRIES), 0);
    } else {
        tst_ok(ldg_backend_sqlite.store->tx_commit(&s, &err), &err);
        assert_int_equal(tst_query_int(s.db, ENTRIES), 1);
    }
    assert_int_equal(tst_query_int(s.db, ENTRIES), tst_query_int(s.db, EVENTS));
    handle_close(&s);
    test_free(big);
}

static void test_health(void **state)
{
    struct tst_env *env = *state;
    ledger_error err;
    ledger_store *store = tst_open(env, TST_SQLITE, "a");
    tst_ok(ledger_store_health(store, &err), &err);
    assert_int_equal(rename(tst_path(env, "a.db"), tst_path(env, "b.db")), 0);
    tst_fails(ledger_store_health(store, &err), LEDGER_ERR_CONNECT, &err);
    assert_int_equal(rename(tst_path(env, "b.db"), tst_path(env, "a.db")), 0);
    tst_ok(ledger_store_health(store, &err), &err);
    tst_exec_on(store, "DROP TABLE ledger_entries");
    tst_fails(ledger_store_health(store, &err), LEDGER_ERR_SCHEMA, &err);
}

static void test_callers_connection(void **state)
{
    struct tst_env *env = *state;
    sqlite3 *db = raw_open(tst_path(env, "a.db"));
    int64_t pages = tst_query_int(db, "PRAGMA cache_size");
    ledger_store *store = store_on(env, db, LEDGER_STORE_CREATE);
    assert_string_equal(ledger_store_backend(store), "sqlite");
    assert_int_equal(tst_query_int(db, "PRAGMA cache_size"), pages);
    assert_int_equal(tst_query_int(db, "PRAGMA busy_timeout"), 5000);
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM pragma_journal_mode "
                                       "WHERE journal_mode = 'delete'"),
                     1);
    tst_append(store, "s", "1", NULL, NULL);
    int64_t id = tst_append(store, "s", "2", "k", NULL);
    tst_annotate(store, "s", id, "a", "b");
    tst_close(env, store);
    assert_int_equal(tst_query_int(db, ENTRIES), 2);
    assert_int_equal(sqlite3_next_stmt(db, NULL) == NULL, 1);

    /* A call that fails leaves the connection to its owner. */
    ledger_store_options o;
    ledger_store_options_defaults(&o);
    ledger_error err = { 0 };
    o.connection = db;
    o.table = "missing";
    o.flags = LEDGER_OWN_CONN;
    tst_fails(ledger_store_open(&o, &store, &err), LEDGER_ERR_SCHEMA, &err);
    assert_int_equal(tst_query_int(db, ENTRIES), 2);
    /* And one that works may be told to take it. */
    o.table = NULL;
    store = tst_open_with(env, TST_SQLITE, NULL, &o);
    ledger_store *other = NULL;
    tst_ok(ldg_store_reopen(store, LDG_ROLE_SOURCE, NULL, &other, &err), &err);
    ledger_store_close(&other);
    tst_close(env, store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_url_forms, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_bad_files, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_permissions, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_read_only, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_new_database_is_wal, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_roles, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_names, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_transactions, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_snapshot, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_busy, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_busy_commit, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_full, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_health, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_callers_connection, tst_setup, tst_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
