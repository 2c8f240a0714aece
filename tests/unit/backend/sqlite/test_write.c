/* Append, tags, annotations: rows as they are stored, and taking part in somebody else's
 * transaction.
 */
#include "handle.h"

#include <stdlib.h>

#include "alloc_fail.h"
#include "event/event.h"
#include "sqlite_oom.h"

static ledger_mutation_event last_event(sqlite3 *db, struct ldg_arena *arena)
{
    ledger_mutation_event event;
    ledger_error err;
    sqlite3_stmt *stmt = NULL;
    assert_int_equal(sqlite3_prepare_v2(db,
                                        "SELECT payload, created_at FROM "
                                        "ledger_entries_mutations WHERE stream = '_' "
                                        "ORDER BY id DESC LIMIT 1",
                                        -1, &stmt, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    assert_int_equal(sqlite3_column_type(stmt, 0), SQLITE_BLOB);
    size_t size = (size_t)sqlite3_column_bytes(stmt, 0);
    ledger_bytes json = { ldg_arena_memdup(arena, sqlite3_column_blob(stmt, 0), size), size };
    tst_ok(ldg_event_decode(json, arena, &event, &err), &err);
    sqlite3_finalize(stmt);
    return event;
}

static int64_t fixed_now_us(void)
{
    return 1795405334123456; /* 2026-11-23T03:42:14.123456Z */
}

static void test_append(void **state)
{
    struct tst_env *env = *state;
    ledger_error err = { 0 };
    struct ldg_arena arena;
    ldg_arena_init(&arena, 0);
    ledger_store *store = tst_open(env, TST_SQLITE, "a");
    sqlite3 *db = tst_sqlite(store);
    const ledger_pair metadata[] = { { "z", "1" }, { "a", "<&>" }, { "z", "2" } };
    const char *tags[] = { "b", "a" };
    const ledger_append_input inputs[] = {
        { .payload = { " {\"n\": 1.50} ", 13 },
          .order_key = "o",
          .dedup_key = "k",
          .schema_version = 3,
          .metadata = { metadata, 3 },
          .tags = { tags, 2 } },
        { .payload = { "null", 4 }, .dedup_key = "k" },
        { .payload = { "\"<\"", 3 } },
    };
    ledger_ids ids = { 0 };
    ldg_clock_set_now(fixed_now_us);
    tst_ok(ledger_store_append(store, "s", inputs, 3, &ids, &err), &err);
    ldg_clock_set_now(NULL);
    assert_int_equal(ids.count, 2);
    assert_true(ids.items[1].number > ids.items[0].number);
    assert_null(ids.items[0].text);
    /* Text forms. */
    assert_int_equal(tst_query_int(db,
                                   "SELECT count(*) FROM ledger_entries WHERE id = %lld AND "
                                   "stream = 's' AND payload = x'207b226e223a20312e35307d20' "
                                   "AND order_key = 'o' AND dedup_key = 'k' "
                                   "AND schema_version = 3 "
                                   "AND metadata = '{\"a\":\"<&>\",\"z\":\"2\"}' "
                                   "AND tags = '[\"b\",\"a\"]' AND annotations IS NULL "
                                   "AND source_id = '' AND updated_at IS NULL AND origin = 0 "
                                   "AND source_pos IS NULL AND mutation_pos IS NULL "
                                   "AND created_at = '2026-11-23T03:42:14.123'",
                                   (long long)ids.items[0].number),
                     1);
    assert_int_equal(tst_query_int(db,
                                   "SELECT count(*) FROM ledger_entries WHERE id = %lld AND "
                                   "typeof(payload) = 'blob' AND metadata IS NULL "
                                   "AND tags = '[]' AND schema_version = 1",
                                   (long long)ids.items[1].number),
                     1);
    /* One event for the call, with the new entries only. */
    assert_int_equal(tst_query_int(db, EVENTS), 1);
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM ledger_entries_mutations "
                                       "WHERE created_at = '2026-11-23T03:42:14.123' "
                                       "AND schema_version = 1 AND tags = '[]'"),
                     1);
    ledger_mutation_event event = last_event(db, &arena);
    assert_int_equal(event.type, LEDGER_MUTATION_APPEND);
    assert_string_equal(event.stream, "s");
    assert_int_equal(event.entry_count, 2);
    assert_int_equal(strtoll(event.entries[0].id, NULL, 10), ids.items[0].number);
    assert_int_equal(event.entries[0].created_at_us, 1795405334123000);
    assert_int_equal(event.entries[0].metadata.count, 2);
    assert_int_equal(event.entries[0].tags.count, 2);
    assert_string_equal(event.entries[0].order_key, "o");
    assert_string_equal(event.origin, "");
    ledger_ids_destroy(&ids);

    /* All of them known: nothing is written, no event. */
    tst_ok(ledger_store_append(store, "s", inputs, 2, &ids, &err), &err);
    assert_int_equal(ids.count, 0);
    assert_int_equal(tst_query_int(db, EVENTS), 1);
    /* The key belongs to its stream. */
    tst_ok(ledger_store_append(store, "t", inputs, 1, NULL, &err), &err);
    assert_int_equal(tst_query_int(db, EVENTS), 2);
    sqlite3_close(db);
    ldg_arena_fini(&arena);
}

/* Only the duplicate is passed over; whatever else the database refuses is an error. */
static void w19_only_duplicates_are_ignored(void **state)
{
    struct tst_env *env = *state;
    ledger_error err = { 0 };
    ledger_store *store = tst_open(env, TST_SQLITE, "a");
    sqlite3 *db = tst_sqlite(store);
    tst_exec(db, "CREATE UNIQUE INDEX mine ON ledger_entries(order_key) WHERE order_key != ''; "
                 "CREATE TRIGGER no BEFORE INSERT ON ledger_entries WHEN new.stream = 'no' "
                 "BEGIN SELECT raise(ABORT, 'not here'); END");
    const ledger_append_input first = { .payload = { "1", 1 }, .order_key = "o" };
    const ledger_append_input inputs[] = {
        { .payload = { "1", 1 }, .dedup_key = "a" },
        { .payload = { "1", 1 }, .dedup_key = "b", .order_key = "o" },
    };
    ledger_ids ids = { 0 };
    tst_ok(ledger_store_append(store, "s", &first, 1, NULL, &err), &err);
    tst_fails(ledger_store_append(store, "s", inputs, 2, &ids, &err), LEDGER_ERR_REJECTED, &err);
    assert_null(ids.items);
    tst_fails(ledger_store_append(store, "s", &first, 1, NULL, &err), LEDGER_ERR_REJECTED, &err);
    tst_fails(ledger_store_append(store, "no", inputs, 1, NULL, &err), LEDGER_ERR_REJECTED, &err);
    assert_non_null(strstr(err.message, "not here"));
    assert_int_equal(tst_query_int(db, ENTRIES), 1);
    assert_int_equal(tst_query_int(db, EVENTS), 1);

    /* The same in a transaction: the call is undone, the rest stays. */
    tst_ok(ledger_store_begin(store, &err), &err);
    tst_append(store, "t", "1", NULL, NULL);
    tst_fails(ledger_store_append(store, "s", inputs, 2, NULL, &err), LEDGER_ERR_REJECTED, &err);
    tst_append(store, "t", "2", NULL, NULL);
    tst_ok(ledger_store_commit(store, &err), &err);
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM ledger_entries WHERE stream = 't'"),
                     2);
    assert_int_equal(tst_query_int(db, ENTRIES), 3);
    assert_int_equal(tst_query_int(db, EVENTS), 3);

    /* The log refuses: neither entry nor change stays. */
    tst_exec(db, "CREATE TRIGGER nolog BEFORE INSERT ON ledger_entries_mutations "
                 "BEGIN SELECT raise(ABORT, 'no log'); END");
    tst_fails(ledger_store_append(store, "s", inputs, 1, NULL, &err), LEDGER_ERR_REJECTED, &err);
    tst_ok(ledger_store_begin(store, &err), &err);
    tst_fails(ledger_store_append(store, "s", inputs, 1, NULL, &err), LEDGER_ERR_REJECTED, &err);
    tst_fails(
        ledger_store_set_tags(store, "s", (ledger_id){ .number = 1 }, (ledger_list){ 0 }, &err),
        LEDGER_ERR_REJECTED, &err);
    tst_fails(ledger_store_trim(store, "s", (ledger_id){ .number = 1 }, NULL, &err),
              LEDGER_ERR_REJECTED, &err);
    tst_ok(ledger_store_commit(store, &err), &err);
    assert_int_equal(tst_query_int(db, ENTRIES), 3);
    assert_int_equal(tst_query_int(db, EVENTS), 3);
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM ledger_entries "
                                       "WHERE updated_at IS NOT NULL"),
                     0);
    /* A trigger may also end the whole transaction: then the message says so. */
    tst_exec(db, "DROP TRIGGER nolog; CREATE TRIGGER nolog BEFORE INSERT ON "
                 "ledger_entries_mutations BEGIN SELECT raise(ROLLBACK, 'no log'); END");
    tst_ok(ledger_store_begin(store, &err), &err);
    tst_fails(ledger_store_append(store, "s", inputs, 1, NULL, &err), LEDGER_ERR_REJECTED, &err);
    assert_non_null(strstr(err.message, "rolled"));
    tst_fails(ledger_store_append(store, "s", inputs, 1, NULL, &err), LEDGER_ERR_INVALID, &err);
    tst_ok(ledger_store_rollback(store, &err), &err);
    assert_int_equal(tst_query_int(db, ENTRIES), 3);
    sqlite3_close(db);
}

static void test_callers_transaction(void **state)
{
    struct tst_env *env = *state;
    ledger_error err = { 0 };
    sqlite3 *db = raw_open(tst_path(env, "a.db"));
    sqlite3 *other = raw_open(tst_path(env, "a.db"));
    ledger_store *store = store_on(env, db, LEDGER_STORE_CREATE);
    tst_exec(db, "CREATE TABLE orders(id INTEGER PRIMARY KEY)");

    tst_exec(db, "BEGIN; INSERT INTO orders VALUES (1)");
    int64_t id = tst_append(store, "s", "1", NULL, NULL);
    tst_tag(store, "s", id, "t");
    tst_annotate(store, "s", id, "k", "v");
    tst_append(store, "s", "2", NULL, NULL);
    tst_trim(store, "s", id);
    tst_fails(ledger_store_begin(store, &err), LEDGER_ERR_INVALID, &err);
    assert_false(sqlite3_get_autocommit(db));
    assert_int_equal(tst_query_int(other, ENTRIES), 0);
    tst_exec(db, "ROLLBACK");
    assert_int_equal(tst_query_int(other, ENTRIES), 0);
    assert_int_equal(tst_query_int(other, EVENTS), 0);

    tst_exec(db, "BEGIN; INSERT INTO orders VALUES (1)");
    id = tst_append(store, "s", "1", NULL, NULL);
    tst_tag(store, "s", id, "t");
    /* What fails leaves the transaction as it was. */
    tst_fails(
        ledger_store_set_tags(store, "s", (ledger_id){ .number = 99 }, (ledger_list){ 0 }, &err),
        LEDGER_ERR_NOT_FOUND, &err);
    assert_false(sqlite3_get_autocommit(db));
    tst_exec(db, "COMMIT");
    assert_int_equal(tst_query_int(other, ENTRIES), 1);
    assert_int_equal(tst_query_int(other, EVENTS), 2);
    assert_int_equal(tst_query_int(other, "SELECT count(*) FROM orders"), 1);

    /* Inside a savepoint of the caller's, too. */
    tst_exec(db, "BEGIN; SAVEPOINT ldg");
    tst_tag(store, "s", id, "u");
    tst_append(store, "s", "3", NULL, NULL);
    tst_exec(db, "ROLLBACK TO ldg; RELEASE ldg; COMMIT");
    assert_int_equal(tst_query_int(other, ENTRIES), 1);
    assert_int_equal(tst_query_int(other, EVENTS), 2);

    /* A reader in the way of the caller's first write. */
    tst_exec(other, "BEGIN IMMEDIATE");
    sqlite3_busy_timeout(db, 0);
    tst_exec(db, "BEGIN");
    const ledger_append_input input = { .payload = { "1", 1 } };
    tst_fails(ledger_store_append(store, "s", &input, 1, NULL, &err), LEDGER_ERR_BUSY, &err);
    tst_exec(db, "COMMIT");
    tst_exec(other, "COMMIT");
    tst_close(env, store);
    sqlite3_close(other);
    sqlite3_close(db);
}

/* As they stand in the row. */
static void test_tags_and_annotations(void **state)
{
    struct tst_env *env = *state;
    ledger_error err = { 0 };
    ledger_store *store = tst_open(env, TST_SQLITE, "a");
    sqlite3 *db = tst_sqlite(store);
    const ledger_id id = { .number = tst_append(store, "s", "1", NULL, "old") };
    const char *tags[] = { "b", "a", "b" };
    ldg_clock_set_now(fixed_now_us);
    tst_ok(ledger_store_set_tags(store, "s", id, (ledger_list){ tags, 3 }, &err), &err);
    ldg_clock_set_now(NULL);
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM ledger_entries "
                                       "WHERE tags = '[\"b\",\"a\",\"b\"]' "
                                       "AND updated_at = '2026-11-23T03:42:14.123'"),
                     1);
    tst_ok(ledger_store_set_tags(store, "s", id, (ledger_list){ 0 }, &err), &err);
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM ledger_entries WHERE tags = '[]'"), 1);

    const ledger_pair some[] = { { "b", "2" }, { "a.b", "1" }, { "gone", NULL } };
    const ledger_pair none[] = { { "a.b", NULL }, { "b", NULL } };
    tst_ok(ledger_store_set_annotations(store, "s", id, (ledger_map){ some, 3 }, &err), &err);
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM ledger_entries "
                                       "WHERE annotations = '{\"a.b\":\"1\",\"b\":\"2\"}'"),
                     1);
    tst_ok(ledger_store_set_annotations(store, "s", id, (ledger_map){ none, 2 }, &err), &err);
    assert_int_equal(tst_query_int(db, "SELECT count(*) FROM ledger_entries "
                                       "WHERE annotations = '{}'"),
                     1);

    /* Somebody left something else in the column. */
    const int64_t events = tst_query_int(db, EVENTS);
    tst_exec(db, "UPDATE ledger_entries SET annotations = '[1]'");
    tst_fails(ledger_store_set_annotations(store, "s", id, (ledger_map){ some, 1 }, &err),
              LEDGER_ERR_DATA, &err);
    assert_non_null(strstr(err.message, "row 1"));
    assert_int_equal(tst_query_int(db, EVENTS), events);
    sqlite3_close(db);
}

static void test_merge_function(void **state)
{
    struct tst_env *env = *state;
    struct ldg_sqlite s;
    handle_open(&s, tst_path(env, "a.db"), LDG_ROLE_USER, LEDGER_STORE_CREATE);
    assert_int_equal(tst_query_int(s.db, "SELECT ldg_merge_annotations('{\"b\":\"\\u003c\"}', "
                                         "'{\"a\":\"1\",\"c\":null}') = "
                                         "'{\"a\":\"1\",\"b\":\"<\"}'"),
                     1);
    assert_int_equal(tst_query_int(s.db, "SELECT ldg_merge_annotations(NULL, '{\"a\":null}') = "
                                         "'{}'"),
                     1);
    assert_int_equal(
        sqlite3_exec(s.db, "SELECT ldg_merge_annotations('nonsense', '{}')", NULL, NULL, NULL),
        SQLITE_MISMATCH);
    handle_close(&s);
}

static void test_large(void **state)
{
    struct tst_env *env = *state;
    ledger_error err = { 0 };
    const size_t size = 5 * 1024 * 1024;
    char *big = test_malloc(size);
    memset(big, 'x', size);
    big[0] = big[size - 1] = '"';
    ledger_store *store = tst_open(env, TST_SQLITE, "a");
    const ledger_append_input inputs[] = { { .payload = { big, size } },
                                           { .payload = { big, size } } };
    tst_ok(ledger_store_append(store, "s", inputs, 2, NULL, &err), &err);
    ledger_batch *batch = NULL;
    tst_ok(ledger_store_read(store, "s", NULL, &batch, &err), &err);
    assert_int_equal(ledger_batch_count(batch), 2);
    assert_int_equal(ledger_batch_entry(batch, 1)->payload.size, size);
    assert_memory_equal(ledger_batch_entry(batch, 1)->payload.data, big, size);
    ledger_batch_destroy(&batch);
    sqlite3 *db = tst_sqlite(store);
    assert_true(tst_query_int(db, "SELECT length(payload) FROM ledger_entries_mutations") >
                (int64_t)(2 * size));
    sqlite3_close(db);
    test_free(big);
}

struct job {
    struct ldg_sqlite *s;
    int what;
};

static ledger_rc do_job(void *ctx)
{
    struct job *job = ctx;
    ledger_error err;
    const ledger_pair pairs[] = { { "b", "1" }, { "a", "2" } };
    const char *tags[] = { "x", "y" };
    const ledger_append_input inputs[] = {
        { .payload = { "1", 1 }, .metadata = { pairs, 2 }, .tags = { tags, 2 } },
        { .payload = { "2", 1 }, .dedup_key = "k" },
        { .payload = { "3", 1 } },
    };
    ledger_ids ids = { 0 };
    ledger_rc rc = LEDGER_OK;
    switch (job->what) {
    case 0:
        rc = ldg_sqlite_append(job->s, "s", inputs, 3, &ids, &err);
        ledger_ids_destroy(&ids);
        break;
    case 1:
        rc = ldg_sqlite_set_tags(job->s, "s", (ledger_id){ .number = 1 }, (ledger_list){ tags, 2 },
                                 &err);
        break;
    case 2:
        rc = ldg_sqlite_set_annotations(job->s, "s", (ledger_id){ .number = 1 },
                                        (ledger_map){ pairs, 2 }, &err);
        break;
    case 3:
        rc = ldg_sqlite_trim(job->s, "t", (ledger_id){ .number = 5 }, NULL, &err);
        break;
    }
    return rc;
}

/* Numbers of entries and events, put together so that a half-done call shows. */
static void check_whole(sqlite3 *db)
{
    int64_t entries = tst_query_int(db, "SELECT count(*) FROM ledger_entries WHERE stream = 's'");
    int64_t in_events = tst_query_int(db, "SELECT count(*) FROM ledger_entries_mutations AS m, "
                                          "json_each(CAST(m.payload AS TEXT), '$.entries')");
    assert_int_equal(entries, in_events);
}

static void test_allocations(void **state)
{
    struct tst_env *env = *state;
    for (int in_tx = 0; in_tx < 2; in_tx++) {
        for (int what = 0; what < 4; what++) {
            struct ldg_sqlite s;
            ledger_error err;
            const ledger_append_input input = { .payload = { "1", 1 } };
            struct job job = { &s, what };
            handle_open(&s, tst_path(env, "a.db"), LDG_ROLE_USER, LEDGER_STORE_CREATE);
            tst_ok(ldg_sqlite_append(&s, "s", &input, 1, NULL, &err), &err);
            if (in_tx)
                tst_exec(s.db, "BEGIN IMMEDIATE");
            alloc_fail_each(do_job, &job);
            if (in_tx) {
                assert_false(sqlite3_get_autocommit(s.db));
                tst_exec(s.db, "COMMIT");
            }
            check_whole(s.db);
            assert_true(sqlite3_get_autocommit(s.db));
            handle_close(&s);
            tst_env_reset(env);
        }
    }
}

/* The same with SQLite's own allocations. */
static void test_sqlite_allocations(void **state)
{
    struct tst_env *env = *state;
    struct ldg_sqlite s;
    ledger_error err;
    const ledger_append_input input = { .payload = { "1", 1 } };
    handle_open(&s, tst_path(env, "a.db"), LDG_ROLE_USER, LEDGER_STORE_CREATE);
    tst_ok(ldg_sqlite_append(&s, "s", &input, 1, NULL, &err), &err);
    handle_close(&s);
    for (int what = 0; what < 8; what++) {
        const bool in_tx = what >= 4;
        bool hit = true;
        for (long n = 1; hit; n += n < 40 ? 1 : 7) { /* the later ones are alike */
            struct job job = { &s, what % 4 };
            handle_open(&s, tst_path(env, "a.db"), LDG_ROLE_USER, 0);
            tst_exec(s.db, "PRAGMA synchronous=OFF; DELETE FROM ledger_entries "
                           "WHERE dedup_key = 'k'; DELETE FROM ledger_entries_mutations; "
                           "DELETE FROM ledger_entries WHERE id > 1; "
                           "INSERT INTO ledger_entries_mutations(stream, payload) "
                           "VALUES ('_', '{\"entries\":[1]}')");
            if (in_tx)
                tst_exec(s.db, "BEGIN IMMEDIATE");
            sqlite_oom_at(n);
            ledger_rc rc = do_job(&job);
            hit = sqlite_oom_off();
            if (rc != LEDGER_OK && (rc != LEDGER_ERR_NOMEM || !hit))
                tst_fail("job %d, allocation %ld: %s", what, n, ledger_rc_name(rc));
            if (in_tx && !sqlite3_get_autocommit(s.db))
                tst_exec(s.db, "COMMIT");
            check_whole(s.db);
            assert_true(sqlite3_get_autocommit(s.db));
            handle_close(&s);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_append, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(w19_only_duplicates_are_ignored, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_callers_transaction, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_tags_and_annotations, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_merge_function, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_large, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_allocations, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_sqlite_allocations, tst_setup, tst_teardown),
    };
    sqlite_oom_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
