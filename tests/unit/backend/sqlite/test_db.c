/* Statements: kept by the address of their text, the first failure told, nothing left open; and
 * none of those in use sorts or scans a table where an index is meant to be used. */
#include "handle.h"

#include "go_tables.h"

static struct ldg_sqlite s;

static int setup(void **state)
{
    tst_setup(state);
    handle_open(&s, tst_path(*state, "a.db"), LDG_ROLE_USER, LEDGER_STORE_CREATE);
    return 0;
}

static int teardown(void **state)
{
    handle_close(&s);
    return tst_teardown(state);
}

static ledger_rc add(const char *stream, const char *payload, size_t size, ledger_error *err)
{
    struct ldg_sql q;
    ldg_sql_begin(&q, &s, "adding a row",
                  "INSERT INTO main.\"%T\"(stream, payload, metadata, updated_at, schema_version) "
                  "VALUES (?1, ?2, ?3, ?4, ?5)",
                  err);
    ldg_sql_text(&q, stream);
    ldg_sql_blob(&q, payload, size);
    ldg_sql_text_n(&q, "{}tail", 2);
    ldg_sql_time(&q, size > 0 ? 1000 : LEDGER_NO_TIME);
    ldg_sql_int(&q, 7);
    return ldg_sql_run(&q);
}

static void test_rows(void **state)
{
    static const char text[] = "SELECT stream, payload, updated_at, schema_version, metadata "
                               "FROM main.\"%T\" WHERE id > ?1 ORDER BY id";
    ledger_error err = { 0 };
    struct ldg_sql q;
    sqlite3_stmt *first;
    struct ldg_arena arena;
    ledger_bytes bytes;
    int64_t count = 0;

    ldg_arena_init(&arena, 0);
    tst_ok(add("a", "xyz", 3, &err), &err);
    tst_ok(add("b", NULL, 0, &err), &err);
    ldg_sql_begin(&q, &s, "reading", text, &err);
    first = q.stmt;
    ldg_sql_int(&q, 0);
    assert_true(ldg_sql_row(&q));
    assert_string_equal(ldg_sql_copy(&q, 0, &arena), "a");
    bytes = ldg_sql_bytes(&q, 1);
    assert_int_equal(bytes.size, 3);
    assert_memory_equal(bytes.data, "xyz", 3);
    assert_int_equal(ldg_sql_column_time(q.stmt, 2), 1000);
    assert_int_equal(sqlite3_column_int(q.stmt, 3), 7);
    assert_string_equal(sqlite3_column_text(q.stmt, 4), "{}");
    assert_true(ldg_sql_row(&q));
    assert_int_equal(sqlite3_column_type(q.stmt, 1), SQLITE_BLOB); /* empty, but no NULL */
    assert_int_equal(ldg_sql_column_time(q.stmt, 2), LEDGER_NO_TIME);
    assert_string_equal(ldg_sql_copy(&q, 2, &arena), "");
    ldg_sql_again(&q);
    ldg_sql_int(&q, 1);
    assert_true(ldg_sql_row(&q));
    assert_string_equal(ldg_sql_copy(&q, 0, &arena), "b");
    assert_false(ldg_sql_row(&q));
    tst_ok(ldg_sql_end(&q), &err);

    ldg_sql_begin(&q, &s, "reading", text, &err);
    assert_ptr_equal(q.stmt, first);
    ldg_sql_int(&q, 0);
    assert_true(ldg_sql_row(&q));
    tst_ok(ldg_sql_end(&q), &err);
    assert_false(sqlite3_stmt_busy(first));

    ldg_sql_begin_once(&q, &s, "reading", "SELECT '%T', '%L', '%AB%'", &err);
    assert_true(ldg_sql_row(&q));
    assert_string_equal(sqlite3_column_text(q.stmt, 0), "ledger_entries");
    assert_string_equal(sqlite3_column_text(q.stmt, 1), "ledger_entries_mutations");
    assert_string_equal(sqlite3_column_text(q.stmt, 2), "%AB%");
    tst_ok(ldg_sql_end(&q), &err);

    tst_ok(ldg_sql_exec_ints(&s, "counting",
                             "SELECT count(*) FROM main.\"%T\" WHERE id IN (?1, ?2)",
                             LDG_INTS(1, 9), &count, &err),
           &err);
    assert_int_equal(count, 1);
    tst_ok(ldg_sql_exec_ints(&s, "counting", "SELECT count(*) FROM main.\"%T\"", LDG_NO_INTS,
                             &count, &err),
           &err);
    assert_int_equal(count, 2);
    ldg_arena_fini(&arena);
    (void)state;
}

/* One text with other numbers of rows is as many statements. */
static void test_rows_of_values(void **state)
{
    static const char text[] = "INSERT INTO main.\"%T\"(stream, payload) VALUES %V";
    static const int sizes[] = { 1, 3, 1, 3 };
    sqlite3_stmt *seen[4];
    ledger_error err = { 0 };
    struct ldg_sql q;
    int64_t count = 0;

    for (size_t i = 0; i < 4; i++) {
        ldg_sql_begin_rows(&q, &s, "adding rows", text, 2, sizes[i], &err);
        seen[i] = q.stmt;
        for (int row = 0; row < sizes[i]; row++) {
            ldg_sql_text(&q, "s");
            ldg_sql_blob(&q, "x", 1);
        }
        tst_ok(ldg_sql_run(&q), &err);
    }
    assert_ptr_equal(seen[0], seen[2]);
    assert_ptr_equal(seen[1], seen[3]);
    assert_ptr_not_equal(seen[0], seen[1]);
    tst_ok(ldg_sql_exec_ints(&s, "counting", "SELECT count(*) FROM main.\"%T\"", LDG_NO_INTS,
                             &count, &err),
           &err);
    assert_int_equal(count, 8);
    (void)state;
}

static ledger_rc as_schema(struct ldg_sqlite *handle, int code, const char *doing,
                           ledger_error *err)
{
    return ldg_fail_native(err, LEDGER_ERR_SCHEMA, "sqlite", code, "%s: %s", doing,
                           sqlite3_errmsg(handle->db));
}

static void test_failures(void **state)
{
    ledger_error err = { 0 };
    struct ldg_sql q;

    /* A text that cannot be prepared: every call after it does nothing. */
    ldg_sql_begin(&q, &s, "reading", "SELECT no_such FROM main.\"%T\" WHERE id = ?1", &err);
    ldg_sql_int(&q, 1);
    ldg_sql_text(&q, "x");
    assert_false(ldg_sql_row(&q));
    ldg_sql_again(&q);
    assert_false(ldg_sql_row(&q));
    tst_fails(ldg_sql_end(&q), LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "store init"));
    ldg_sql_begin_once(&q, &s, "reading it", "SELECT no_such", &err);
    tst_fails(ldg_sql_run(&q), LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "while reading it: no such column"));

    /* One value more than there are parameters. */
    ldg_sql_begin(&q, &s, "reading", "SELECT ?1", &err);
    ldg_sql_int(&q, 1);
    ldg_sql_int(&q, 2);
    assert_false(ldg_sql_row(&q));
    tst_fails(ldg_sql_end(&q), LEDGER_ERR_INTERNAL, &err);

    /* The first failure is told, by whom the caller says. */
    tst_exec(s.db, "CREATE TRIGGER no BEFORE INSERT ON ledger_entries BEGIN "
                   "SELECT raise(ABORT, 'not here'); END");
    tst_fails(add("a", "x", 1, &err), LEDGER_ERR_REJECTED, &err);
    assert_non_null(strstr(err.message, "while adding a row: not here"));
    ldg_sql_begin(&q, &s, "adding", "INSERT INTO main.\"%T\"(stream, payload) VALUES ('s', '')",
                  &err);
    q.fail = as_schema;
    tst_fails(ldg_sql_run(&q), LEDGER_ERR_SCHEMA, &err);
    assert_string_equal(err.message, "adding: not here");

    /* A caller's own ends the rows. */
    ldg_sql_begin(&q, &s, "reading", "SELECT 1 UNION ALL SELECT 2", &err);
    assert_true(ldg_sql_row(&q));
    q.rc = ldg_fail(&err, LEDGER_ERR_DATA, "a bad row");
    assert_false(ldg_sql_row(&q));
    tst_fails(ldg_sql_end(&q), LEDGER_ERR_DATA, &err);

    tst_ok(ldg_sql_check(&s, &err), &err);
    tst_exec(s.db, "ALTER TABLE ledger_entries DROP COLUMN updated_at");
    tst_fails(ldg_sql_check(&s, &err), LEDGER_ERR_SCHEMA, &err);
    (void)state;
}

/* --- plans ----------------------------------------------------------------------------------- */

#define VT ldg_backend_sqlite

/* All that a source, and the program that writes into it, ask of a store. */
static void use_store(struct ldg_sqlite *h)
{
    ledger_error err = { 0 };
    struct ldg_arena arena;
    struct ldg_log_batch batch = { 0 };
    const struct ldg_log_limits limits = { .max_count = 10, .max_bytes = 1000 };
    const ledger_append_input input = { .payload = { "{}", 2 }, .dedup_key = "k" };
    struct ldg_log_stat stat;
    struct ldg_history_row *rows;
    ledger_entry *entries;
    ledger_ids ids = { 0 };
    ledger_id id;
    ledger_stream_stat stream_stat;
    char state[LDG_CURSOR_STATE_MAX];
    const ledger_id first = { .number = 1 }, text = { .text = "x" };
    ledger_id *kept;
    size_t count;
    uint64_t number;

    ldg_arena_init(&arena, 0);
    ldg_arena_init(&batch.arena, 0);
    tst_exec(h->db, "INSERT INTO ledger_entries_origins(id, uuid, epoch) VALUES (1, 'u', 1)");
    tst_ok(VT.store->append(h, "s", &input, 1, &ids, &err), &err);
    tst_ok(VT.store->set_tags(h, "s", ids.items[0], (ledger_list){ 0 }, &err), &err);
    tst_ok(VT.store->set_annotations(h, "s", ids.items[0], (ledger_map){ 0 }, &err), &err);
    tst_ok(VT.store->count(h, "s", &number, &err), &err);
    tst_ok(VT.store->stat(h, "s", &stream_stat, &err), &err);
    tst_ok(VT.source->entries_by_id(h, &first, 1, &arena, &entries, &err), &err);
    for (int origin = 0; origin < 2; origin++) {
        tst_ok(VT.verify->history(h, origin, ldg_id_of(0), 10, 0, &arena, &rows, &count, &err),
               &err);
        tst_ok(VT.verify->history_of(h, origin, &first, 1, 0, &arena, &rows, &count, &err), &err);
        tst_ok(VT.source->trim_survivors(h, origin, "s", ldg_id_of(9), &arena, &kept, &count, &err),
               &err);
    }
    tst_ok(VT.verify->history_of(h, 1, &text, 1, 0, &arena, &rows, &count, &err), &err);
    tst_ok(VT.source->trim_survivors(h, 1, "s", text, &arena, &kept, &count, &err), &err);
    tst_ok(VT.state->origin_last(h, 1, &arena, &id, &err), &err);
    tst_fails(VT.store->find_by_source_id(h, "s", "7", &id, &err), LEDGER_ERR_NOT_FOUND, &err);
    tst_ok(VT.source->log_cursor_at(h, 1, state, &err), &err);
    tst_ok(VT.source->log_stat(h, "", &stat, &err), &err);
    tst_ok(VT.source->log_read(h, state, &limits, &batch, &err), &err);
    tst_ok(VT.store->trim(h, "s", ids.items[0], &number, &err), &err);
    tst_ok(VT.store->tx_begin(h, &err), &err); /* an append that takes itself back */
    tst_exec(h->db, "CREATE TEMP TRIGGER full BEFORE INSERT ON ledger_entries_mutations BEGIN "
                    "SELECT raise(ABORT, 'full'); END");
    tst_fails(VT.store->append(h, "s", &input, 1, NULL, &err), LEDGER_ERR_REJECTED, &err);
    tst_exec(h->db, "DROP TRIGGER temp.full");
    tst_ok(VT.store->tx_rollback(h, &err), &err);
    ledger_ids_destroy(&ids);
    ldg_arena_fini(&arena);
    ldg_arena_fini(&batch.arena);
}

/* What ends at its first row, or sorts no more rows than there are origins, or than a trim has left
 * of those whose keys are texts. */
static bool may_scan(const char *sql)
{
    return strstr(sql, "SELECT EXISTS") || strstr(sql, "LIMIT 1") ||
           strstr(sql, "GROUP BY e.origin") || strstr(sql, "UNION SELECT entry_id");
}

/* "SCAN (subquery-3)" is of a few rows. */
static bool scans_table(const char *plan)
{
    for (; (plan = strstr(plan, "SCAN ")); plan += 5) {
        if (plan[5] != '(')
            return true;
    }
    return false;
}

/* Also with all of Go's indexes, which could lead SQLite elsewhere. */
static void test_plans(void **state)
{
    static const char *const of_origin[][2] = {
        { "origin = ?1 AND source_pos > ?2", "idx_ledger_entries_origin" },
        { "origin = ?1 AND source_pos = ?2", "idx_ledger_entries_origin" },
        { "origin = ?1 AND source_id > ?2", "idx_ledger_entries_key" },
        { "origin = ?1 AND source_id = ?2", "idx_ledger_entries_key" },
    };
    struct tst_env *env = *state;
    char plan[2048];

    for (int go = 0; go < 2; go++) {
        struct ldg_sqlite h;
        const char *path = tst_path(env, go ? "go.db" : "ours.db");
        int used = 0;
        if (go) {
            sqlite3 *db = raw_open(path);
            tst_go_create(db, "ledger_entries", true);
            sqlite3_close(db);
        }
        handle_open(&h, path, LDG_ROLE_USER, LEDGER_STORE_CREATE);
        use_store(&h);
        for (sqlite3_stmt *stmt = sqlite3_next_stmt(h.db, NULL); stmt;
             stmt = sqlite3_next_stmt(h.db, stmt), used++) {
            if (may_scan(sqlite3_sql(stmt)))
                continue;
            plan_of(h.db, stmt, plan, sizeof(plan));
            if (scans_table(plan) || strstr(plan, "TEMP B-TREE") || strstr(plan, "AUTOMATIC"))
                tst_fail("%s: %s", sqlite3_sql(stmt), plan);
        }
        assert_in_range(used, 25, 60);
        for (size_t i = 0; i < sizeof(of_origin) / sizeof(of_origin[0]); i++) {
            plan_of(h.db, stmt_with(&h, of_origin[i][0]), plan, sizeof(plan));
            assert_non_null(strstr(plan, of_origin[i][1]));
        }
        /* up to an id of the stream */
        plan_of(h.db, stmt_with(&h, "UNION SELECT entry FROM"), plan, sizeof(plan));
        assert_non_null(strstr(plan, "(stream=? AND"));
        assert_non_null(strstr(plan, "idx_ledger_entries_parked_entry"));
        plan_of(h.db, stmt_with(&h, "UNION SELECT entry_id FROM"), plan, sizeof(plan));
        assert_non_null(strstr(plan, "(stream=?"));
        assert_non_null(strstr(plan, "idx_ledger_entries_parked_key"));
        /* by the text, and not by all that the origin has */
        plan_of(h.db, stmt_with(&h, "AND source_id = ?2 AND +stream"), plan, sizeof(plan));
        assert_non_null(strstr(plan, "idx_ledger_entries_key (origin=? AND source_id=?)"));
        plan_of(h.db, stmt_with(&h, "_mutations\" WHERE id > ?1 ORDER BY id LIMIT ?2"), plan,
                sizeof(plan));
        assert_non_null(strstr(plan, "INTEGER PRIMARY KEY"));
        handle_close(&h);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows_of_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_plans, tst_setup, tst_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
