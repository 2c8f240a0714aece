/* The source's side of the SQLite backend: rows behind a cursor, and the witness. */
#include "handle.h"

#include <stdlib.h>
#include <unistd.h>

#include "alloc_fail.h"
#include "base/hash.h"

#define SOURCE (&ldg_backend_sqlite)
#define LOG "ledger_entries_mutations"

static struct ldg_sqlite s;
static struct ldg_log_batch batch;
static ledger_store *store;
static sqlite3 *db;
static const struct ldg_log_limits wide = { 1000, (size_t)1 << 30 };

static int setup(void **state)
{
    int rc = tst_setup(state);

    if (rc == 0) {
        store = tst_open(*state, TST_SQLITE, "source");
        db = raw_open(tst_path(*state, "source.db"));
        handle_open(&s, tst_path(*state, "source.db"), LDG_ROLE_SOURCE, 0);
        memset(&batch, 0, sizeof(batch));
        ldg_arena_init(&batch.arena, 1 << 16);
    }
    return rc;
}

static int teardown(void **state)
{
    handle_close(&s);
    sqlite3_close(db);
    ldg_arena_fini(&batch.arena);
    return tst_teardown(state);
}

static void reopen(struct tst_env *env)
{
    handle_close(&s);
    handle_open(&s, tst_path(env, "source.db"), LDG_ROLE_SOURCE, 0);
}

static ledger_rc read_try(const char *state, const struct ldg_log_limits *limits, ledger_error *err)
{
    memset(err, 0, sizeof(*err));
    return SOURCE->source->log_read(&s, state, limits, &batch, err);
}

static void read_ok(const char *state, const struct ldg_log_limits *limits)
{
    ledger_error err;
    ledger_rc rc = read_try(state, limits, &err);

    tst_ok(rc, &err);
}

/* Reads on from where the last read ended. */
static void read_next(const struct ldg_log_limits *limits)
{
    char state[LDG_CURSOR_STATE_MAX];

    memcpy(state, batch.next_state, sizeof(state));
    read_ok(state, limits);
}

static void append(int count)
{
    for (int i = 0; i < count; i++)
        assert_true(tst_append(store, "s", "{\"a\":1}", NULL, NULL) > 0);
}

/* --- rows ------------------------------------------------------------------------------------- */

static void test_empty(void **state)
{
    read_ok("", &wide);
    assert_int_equal(batch.count, 0);
    assert_false(batch.more);
    assert_string_equal(batch.next_state, "");
    assert_int_equal(batch.next_position, 0);
}

static void test_rows(void **state)
{
    int64_t now = ldg_clock_now_us();

    append(3);
    read_ok("", &wide);
    assert_int_equal(batch.count, 3);
    assert_false(batch.more);
    assert_int_equal(batch.rows[0].position, 1);
    assert_int_equal(batch.next_position, 3);
    assert_true(batch.rows[2].created_at_us >= now - 1000 &&
                batch.rows[2].created_at_us < now + 60 * 1000000LL);
    assert_memory_equal(batch.rows[0].payload.data, "{\"type\":\"append\"", 16);
    assert_int_equal(batch.bytes, batch.rows[0].payload.size + batch.rows[1].payload.size +
                                      batch.rows[2].payload.size);
    char state_text[LDG_CURSOR_STATE_MAX];
    memcpy(state_text, batch.next_state, sizeof(state_text));
    read_next(&wide);
    assert_int_equal(batch.count, 0);
    assert_string_equal(batch.next_state, state_text);
    assert_int_equal(batch.next_position, 3);
    append(1);
    read_next(&wide);
    assert_int_equal(batch.count, 1);
    assert_int_equal(batch.rows[0].position, 4);
}

static void test_limits(void **state)
{
    struct ldg_log_limits limits = { 4, (size_t)1 << 30 };

    append(10);
    read_ok("", &limits);
    assert_int_equal(batch.count, 4);
    assert_true(batch.more);
    read_next(&limits);
    assert_true(batch.more);
    read_next(&limits);
    assert_int_equal(batch.count, 2);
    assert_false(batch.more);
    limits.max_count = 10;
    read_ok("", &limits);
    assert_int_equal(batch.count, 10);
    assert_false(batch.more); /* exactly all */

    size_t one = batch.rows[0].payload.size;
    limits.max_bytes = 3 * one;
    read_ok("", &limits);
    assert_int_equal(batch.count, 3);
    assert_true(batch.more);
    limits.max_bytes = 3 * one - 1;
    read_ok("", &limits);
    assert_int_equal(batch.count, 2);
    limits.max_bytes = 1; /* one at least */
    read_ok("", &limits);
    assert_int_equal(batch.count, 1);
    assert_true(batch.more);
}

static void test_many_rows(void **state)
{
    struct ldg_log_limits limits = { 5000, (size_t)1 << 30 };

    tst_exec(db,
             "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000) "
             "INSERT INTO " LOG "(stream, payload) SELECT CASE WHEN i %% 3 THEN '_' ELSE 'x' END, "
             "CAST('p' || i AS BLOB) FROM n");
    read_ok("", &limits);
    assert_int_equal(batch.count, 3000); /* whatever their column `stream` holds */
    assert_memory_equal(batch.rows[2999].payload.data, "p3000", 5);
}

/* What others may have put there. */
static void test_odd_rows(void **state)
{
    tst_exec(db, "CREATE TABLE old AS SELECT * FROM " LOG "; DROP TABLE " LOG "; CREATE TABLE " LOG
                 "(id INTEGER PRIMARY KEY, stream TEXT, payload, schema_version, created_at)");
    tst_exec(db, "INSERT INTO " LOG " VALUES (1, '_', 'text', 1, '2025-11-24 16:00:00'), "
                 "(2, '_', NULL, 1, NULL), (3, '_', x'', 1, 'noon'), (4, '_', 42, 1, 5)");
    handle_close(&s);
    handle_open(&s, sqlite3_db_filename(db, "main"), LDG_ROLE_SOURCE, 0);
    read_ok("", &wide);
    assert_int_equal(batch.count, 4);
    assert_memory_equal(batch.rows[0].payload.data, "text", 4);
    assert_int_equal(batch.rows[0].created_at_us, 1764000000000000);
    assert_int_equal(batch.rows[1].payload.size, 0);
    assert_non_null(batch.rows[1].payload.data);
    assert_int_equal(batch.rows[1].created_at_us, LEDGER_NO_TIME);
    assert_int_equal(batch.rows[2].payload.size, 0);
    assert_int_equal(batch.rows[2].created_at_us, LEDGER_NO_TIME);
    assert_memory_equal(batch.rows[3].payload.data, "42", 2);
    read_next(&wide);
    assert_int_equal(batch.count, 0);
}

/* Read straight into the arena, and hashed piece by piece. */
static void test_large_rows(void **state)
{
    static const size_t sizes[] = { 1048575, 1048576, 1048577, 5000000 };

    for (size_t i = 0; i < 4; i++)
        tst_exec(db, "INSERT INTO " LOG "(stream, payload) VALUES ('_', randomblob(%d))",
                 (int)sizes[i]);
    tst_exec(db, "INSERT INTO " LOG "(stream, payload) VALUES ('_', printf('%%.2000000c', 'x'))");
    read_ok("", &wide);
    assert_int_equal(batch.count, 5);
    for (size_t i = 0; i < 5; i++) {
        sqlite3_stmt *stmt = NULL;
        assert_int_equal(
            sqlite3_prepare_v2(db, "SELECT payload FROM " LOG " WHERE id = ?", -1, &stmt, NULL),
            SQLITE_OK);
        sqlite3_bind_int64(stmt, 1, (int64_t)i + 1);
        assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
        assert_int_equal(sqlite3_column_bytes(stmt, 0), batch.rows[i].payload.size);
        assert_true(memcmp(sqlite3_column_blob(stmt, 0), batch.rows[i].payload.data,
                           batch.rows[i].payload.size) == 0);
        sqlite3_finalize(stmt);
    }
    /* The same witness, whether the row is read or only looked at. */
    for (size_t n = 1; n <= 5; n++) {
        const struct ldg_log_limits limits = { n, (size_t)1 << 30 };
        ledger_error err = { 0 };
        char at[LDG_CURSOR_STATE_MAX];

        read_ok("", &limits);
        tst_ok(SOURCE->source->log_cursor_at(&s, (int64_t)n, at, &err), &err);
        assert_string_equal(at, batch.next_state);
        read_next(&wide);
        assert_int_equal(batch.count, 5 - n);
    }
}

/* A read transaction ends with its batch: a checkpoint can start the WAL again. */
static void test_reading_holds_nothing(void **state)
{
    append(5);
    read_ok("", &wide);
    assert_int_equal(tst_query_int(db, "PRAGMA wal_checkpoint(TRUNCATE)"), 0);
    assert_true(sqlite3_get_autocommit(s.db) != 0);
    read_next(&wide);
    assert_int_equal(batch.count, 0);
}

/* --- cursor -------------------------------------------------------------------------------------
 */

static void test_state_text(void **state)
{
    static const char *const bad[] = {
        "x",
        "7",
        "sqlite:2:u:1:1:1:0000000000000000",
        "sqlite:1::1:1:1:0000000000000000",
        "sqlite:1:u:1:1:1:000000000000000",
        "sqlite:1:u:1:1:1:00000000000000000",
        "sqlite:1:u:1:1:1:000000000000000G",
        "sqlite:1:u:-1:1:1:0000000000000000",
        "sqlite:1:u:1:1:0000000000000000",
        "sqlite:1:u:1:99999999999999999999:1:0000000000000000",
        "sqlite:1:u:1::1:0000000000000000",
        "sqlite:1:uuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu:1:1:1:0000000000000000",
    };
    ledger_error err = { 0 };
    char text[LDG_CURSOR_STATE_MAX], expected[LDG_CURSOR_STATE_MAX];
    int64_t position = -1;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        tst_fails(read_try(bad[i], &wide, &err), LEDGER_ERR_DATA, &err);
        assert_non_null(strstr(err.message, "not a cursor of a SQLite source"));
        tst_fails(SOURCE->source->log_check(&s, bad[i], &position, &err), LEDGER_ERR_DATA, &err);
    }
    tst_fails(read_try("postgres:1:u:1:1:1:0000000000000000", &wide, &err),
              LEDGER_ERR_CURSOR_MISMATCH, &err);
    assert_non_null(strstr(err.message, "--name"));
    tst_ok(SOURCE->source->log_check(&s, "", &position, &err), &err);
    assert_int_equal(position, 0);
    tst_ok(SOURCE->source->log_cursor_at(&s, 0, text, &err), &err);
    snprintf(expected, sizeof(expected), "sqlite:1:%s:1:0:0:0000000000000000", s.identity.uuid);
    assert_string_equal(text, expected);
    append(2);
    tst_exec(db, "UPDATE " LOG " SET created_at = '2025-11-24T16:00:00.500' WHERE id = 2");
    read_ok(text, &wide);
    assert_int_equal(batch.count, 2);
    const ledger_bytes last = batch.rows[1].payload;
    uint64_t hash = ldg_hash64("2025-11-24T16:00:00.500", 23, ldg_hash64(last.data, last.size, 2));
    snprintf(expected, sizeof(expected), "sqlite:1:%s:1:2:2:%016llx", s.identity.uuid,
             (unsigned long long)hash);
    assert_string_equal(batch.next_state, expected);
    tst_ok(SOURCE->source->log_check(&s, expected, &position, &err), &err);
    assert_int_equal(position, 2);
}

static void test_cursor_at(void **state)
{
    ledger_error err = { 0 };
    char text[LDG_CURSOR_STATE_MAX];

    append(5);
    tst_exec(db, "DELETE FROM " LOG " WHERE id = 4");
    tst_ok(SOURCE->source->log_cursor_at(&s, 4, text, &err), &err);
    assert_non_null(strstr(text, ":4:3:"));
    read_ok(text, &wide);
    assert_int_equal(batch.count, 1);
    assert_int_equal(batch.rows[0].position, 5);
    /* Rows may go, even all; a position that never was one is of a later log. */
    tst_exec(db, "DELETE FROM " LOG " WHERE id > 3");
    tst_ok(SOURCE->source->log_cursor_at(&s, 5, text, &err), &err);
    assert_non_null(strstr(text, ":5:3:"));
    read_ok(text, &wide);
    assert_int_equal(batch.count, 0);
    assert_int_equal(batch.next_position, 5);
    tst_fails(SOURCE->source->log_cursor_at(&s, 6, text, &err), LEDGER_ERR_SOURCE_REWOUND, &err);
    assert_non_null(strstr(err.message, "ends at 5"));
    assert_non_null(strstr(err.message, "cursor set"));
    assert_non_null(strstr(text, ":5:3:"));
}

static void test_w15_another_source(void **state)
{
    struct tst_env *env = *state;
    ledger_store *other = tst_open(env, TST_SQLITE, "other");
    ledger_error err = { 0 };
    int64_t position;
    struct ldg_sqlite o;

    append(1);
    assert_true(tst_append(other, "s", "{}", NULL, NULL) > 0);
    read_ok("", &wide);
    handle_open(&o, tst_path(env, "other.db"), LDG_ROLE_SOURCE, 0);
    struct ldg_log_batch theirs = { .count = 0 };
    ldg_arena_init(&theirs.arena, 0);
    tst_fails(SOURCE->source->log_read(&o, batch.next_state, &wide, &theirs, &err),
              LEDGER_ERR_CURSOR_MISMATCH, &err);
    assert_non_null(strstr(err.message, s.identity.uuid));
    assert_non_null(strstr(err.message, o.identity.uuid));
    assert_non_null(strstr(err.message, "--name"));
    tst_fails(SOURCE->source->log_check(&o, batch.next_state, &position, &err),
              LEDGER_ERR_CURSOR_MISMATCH, &err);
    ldg_arena_fini(&theirs.arena);
    handle_close(&o);
    /* The same store, begun anew. */
    tst_exec(db, "UPDATE ledger_entries_meta SET epoch = 2");
    char at[LDG_CURSOR_STATE_MAX];
    memcpy(at, batch.next_state, sizeof(at));
    reopen(env);
    tst_fails(read_try(at, &wide, &err), LEDGER_ERR_CURSOR_MISMATCH, &err);
    assert_non_null(strstr(err.message, "epoch"));
}

/* --- witness ------------------------------------------------------------------------------------
 */

static void check_rewound(const char *at, const char *word)
{
    ledger_error err = { 0 };
    int64_t position;

    tst_fails(read_try(at, &wide, &err), LEDGER_ERR_SOURCE_REWOUND, &err);
    assert_int_equal(batch.count, 0);
    assert_non_null(strstr(err.message, word));
    assert_non_null(strstr(err.message, "cursor set"));
    tst_fails(SOURCE->source->log_check(&s, at, &position, &err), LEDGER_ERR_SOURCE_REWOUND, &err);
}

static void test_witness(void **state)
{
    char at[LDG_CURSOR_STATE_MAX];

    append(3);
    read_ok("", &wide);
    memcpy(at, batch.next_state, sizeof(at));
    reopen(*state);
    read_ok(at, &wide); /* unchanged */
    tst_exec(db, "UPDATE " LOG " SET payload = payload || ' ' WHERE id = 3");
    check_rewound(at, "is another one now"); /* the same handle, and nothing follows */
    append(1);
    check_rewound(at, "is another one now");
    reopen(*state);
    check_rewound(at, "is another one now");
    tst_exec(db, "DELETE FROM " LOG " WHERE id >= 3");
    reopen(*state);
    check_rewound(at, "is gone");
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM " LOG), 2);
}

/* A cursor takes the time of its row as it is stored, whatever it is. */
static void test_witness_time(void **state)
{
    static const char *const times[] = { "'2025-11-24T16:00:00.500'", "7", "''", "x'00ff'",
                                         "hex(zeroblob(300))" };
    char at[LDG_CURSOR_STATE_MAX], same[LDG_CURSOR_STATE_MAX];
    ledger_error err = { 0 };

    append(3);
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        tst_exec(db, "UPDATE " LOG " SET created_at = %s WHERE id = 3", times[i]);
        read_ok("", &wide);
        memcpy(at, batch.next_state, sizeof(at));
        tst_ok(SOURCE->source->log_cursor_at(&s, 3, same, &err), &err);
        assert_string_equal(at, same);
        tst_exec(db, "UPDATE " LOG " SET created_at = '2025-11-24T16:00:00.501' WHERE id = 3");
        check_rewound(at, "is another one now");
    }
}

/* A backup that is put back into the same file, under an open handle: nothing follows the cursor,
 * and the file is the same. */
static void test_restored_in_place(void **state)
{
    struct tst_env *env = *state;
    sqlite3 *old = raw_open(tst_path(env, "old.db"));
    char at[LDG_CURSOR_STATE_MAX];
    sqlite3_backup *backup;

    append(2);
    backup = sqlite3_backup_init(old, "main", db, "main");
    assert_int_equal(sqlite3_backup_step(backup, -1), SQLITE_DONE);
    assert_int_equal(sqlite3_backup_finish(backup), SQLITE_OK);
    append(2);
    read_ok("", &wide);
    memcpy(at, batch.next_state, sizeof(at));
    read_ok(at, &wide);
    backup = sqlite3_backup_init(db, "main", old, "main");
    assert_int_equal(sqlite3_backup_step(backup, -1), SQLITE_DONE);
    assert_int_equal(sqlite3_backup_finish(backup), SQLITE_OK);
    check_rewound(at, "is gone");
    check_rewound(at, "is gone"); /* and not only the first time */
    sqlite3_close(old);
}

static int look_ups(unsigned what, void *ctx, void *stmt, void *text)
{
    if (what == SQLITE_TRACE_PROFILE && strstr(sqlite3_sql(stmt), "WHERE id = ?1") != NULL)
        ++*(int *)ctx;
    (void)text;
    return 0;
}

/* A witness may be large: with nothing new it is not read again. */
static void test_idle_look_is_cheap(void **state)
{
    int count = 0;

    append(2);
    read_ok("", &wide);
    sqlite3_trace_v2(s.db, SQLITE_TRACE_PROFILE, look_ups, &count);
    for (int i = 0; i < 3; i++)
        read_next(&wide);
    assert_int_equal(count, 0);
    tst_exec(db, "INSERT INTO ledger_entries(stream, payload) VALUES ('s', '1')");
    for (int i = 0; i < 3; i++)
        read_next(&wide);
    assert_int_equal(count, 1);
    sqlite3_trace_v2(s.db, 0, NULL, NULL);
}

/* The file and a prefix of its WAL put back, as power loss does; then other writes follow. */
static void test_t2_wal_prefix(void **state)
{
    struct tst_env *env = *state;
    char at[LDG_CURSOR_STATE_MAX], wal[600];
    sqlite3 *writer = raw_open(tst_path(env, "source.db"));
    long prefix;
    FILE *f;

    tst_close(env, store);
    sqlite3_close(db);
    tst_exec(writer, "PRAGMA wal_autocheckpoint = 0; PRAGMA wal_checkpoint(TRUNCATE)");
    tst_exec(writer, "INSERT INTO " LOG "(stream, payload) VALUES ('_', '1')");
    snprintf(wal, sizeof(wal), "%s", tst_path(env, "source.db-wal"));
    f = fopen(wal, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    prefix = ftell(f);
    fclose(f);
    tst_exec(writer, "INSERT INTO " LOG "(stream, payload) VALUES ('_', '2')");
    read_ok("", &wide);
    assert_int_equal(batch.count, 2);
    memcpy(at, batch.next_state, sizeof(at));
    /* As the disk held it. */
    tst_copy_file(tst_path(env, "source.db"), tst_path(env, "lost.db"));
    tst_copy_file(wal, tst_path(env, "lost.db-wal"));
    assert_int_equal(truncate(tst_path(env, "lost.db-wal"), prefix), 0);
    sqlite3_close(writer);
    handle_close(&s);
    handle_open(&s, tst_path(env, "lost.db"), LDG_ROLE_SOURCE, 0);
    check_rewound(at, "is gone");
    db = raw_open(tst_path(env, "lost.db"));
    tst_exec(db, "INSERT INTO " LOG "(stream, payload) VALUES ('_', 'two'), ('_', '3')");
    handle_close(&s);
    handle_open(&s, tst_path(env, "lost.db"), LDG_ROLE_SOURCE, 0);
    check_rewound(at, "is another one now");
}

static void test_replaced_file(void **state)
{
    struct tst_env *env = *state;
    ledger_error err;

    append(2);
    read_ok("", &wide);
    tst_exec(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    tst_copy_file(tst_path(env, "source.db"), tst_path(env, "copy.db"));
    assert_int_equal(rename(tst_path(env, "copy.db"), tst_path(env, "source.db")), 0);
    char at[LDG_CURSOR_STATE_MAX];
    memcpy(at, batch.next_state, sizeof(at));
    tst_fails(read_try(at, &wide, &err), LEDGER_ERR_CONNECT, &err);
    assert_true(err.flags & LEDGER_ERROR_RETRY);
    reopen(env);
    read_ok(at, &wide);
    assert_int_equal(unlink(tst_path(env, "source.db")), 0);
    tst_fails(read_try(at, &wide, &err), LEDGER_ERR_CONNECT, &err);
}

/* --- stat ---------------------------------------------------------------------------------------
 */

static void test_stat(void **state)
{
    struct ldg_log_stat stat = { 0 };
    ledger_error err = { 0 };
    char at[LDG_CURSOR_STATE_MAX];

    tst_ok(SOURCE->source->log_stat(&s, "", &stat, &err), &err);
    assert_int_equal(stat.head, 0);
    assert_int_equal(stat.backlog_count, 0);
    assert_int_equal(stat.oldest_us, LEDGER_NO_TIME);
    append(4);
    tst_exec(db, "DELETE FROM " LOG " WHERE id = 3");
    tst_exec(db, "UPDATE " LOG " SET created_at = '2025-11-24T16:00:00.500' WHERE id = 2");
    tst_ok(SOURCE->source->log_cursor_at(&s, 1, at, &err), &err);
    tst_ok(SOURCE->source->log_stat(&s, at, &stat, &err), &err);
    assert_int_equal(stat.head, 4);
    assert_int_equal(stat.backlog_count, 2);
    assert_int_equal(stat.oldest_us, 1764000000500000);
    tst_ok(SOURCE->source->log_cursor_at(&s, 4, at, &err), &err);
    tst_ok(SOURCE->source->log_stat(&s, at, &stat, &err), &err);
    assert_int_equal(stat.backlog_count, 0);
    /* Beyond 1,000 the difference of the ids will do. */
    tst_exec(db, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1001) "
                 "INSERT INTO " LOG "(stream, payload) SELECT '_', '' FROM n");
    tst_ok(SOURCE->source->log_stat(&s, at, &stat, &err), &err);
    assert_int_equal(stat.backlog_count, 1001);
    tst_exec(db, "DELETE FROM " LOG " WHERE id %% 10 = 7");
    tst_ok(SOURCE->source->log_stat(&s, at, &stat, &err), &err);
    assert_int_equal(stat.backlog_count, 1001 - 100);
}

/* --- failures -----------------------------------------------------------------------------------
 */

static ledger_rc oom_run(void *ctx)
{
    ledger_error err = { 0 };
    ledger_rc rc;

    ldg_arena_fini(&batch.arena); /* what it keeps would hide failures */
    ldg_arena_init(&batch.arena, 0);
    rc = SOURCE->source->log_read(&s, ctx, &wide, &batch, &err);
    if (rc != LEDGER_OK)
        assert_int_equal(batch.count, 0);
    return rc;
}

static void test_out_of_memory(void **state)
{
    char at[LDG_CURSOR_STATE_MAX];
    ledger_error err = { 0 };

    append(200);
    tst_exec(db, "INSERT INTO " LOG "(stream, payload) VALUES ('_', randomblob(3000000))");
    tst_ok(SOURCE->source->log_cursor_at(&s, 201, at, &err), &err);
    append(1);
    alloc_fail_each(oom_run, at); /* the witness is the large row */
    alloc_fail_each(oom_run, (char[]){ "" });
    assert_int_equal(batch.count, 202);
}

static void test_no_log(void **state)
{
    ledger_error err;

    tst_exec(db, "DROP TABLE " LOG);
    tst_fails(read_try("", &wide, &err), LEDGER_ERR_SCHEMA, &err);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_empty),
        TEST(test_rows),
        TEST(test_limits),
        TEST(test_many_rows),
        TEST(test_odd_rows),
        TEST(test_large_rows),
        TEST(test_reading_holds_nothing),
        TEST(test_state_text),
        TEST(test_cursor_at),
        TEST(test_w15_another_source),
        TEST(test_witness),
        TEST(test_witness_time),
        TEST(test_restored_in_place),
        TEST(test_idle_look_is_cheap),
        TEST(test_t2_wal_prefix),
        TEST(test_replaced_file),
        TEST(test_stat),
        TEST(test_out_of_memory),
        TEST(test_no_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
