/* Origins, adoption and cursors of the SQLite backend: what is its own in them. */
#include "sink.h"

#include "alloc_fail.h"

static struct sink k;

static int setup(void **state)
{
    int rc = tst_setup(state);

    if (rc == 0)
        sink_open(&k, tst_path(*state, "sink.db"), LEDGER_MUTATION_LOG_OFF);
    return rc;
}

static int teardown(void **state)
{
    sink_close(&k);
    return tst_teardown(state);
}

static void test_damaged_origins(void **state)
{
    struct ldg_identity *items;
    ledger_error err = { 0 };
    struct ldg_arena arena;
    int *numbers;
    size_t count;

    assert_true(k.s.has_origins);
    tst_exec(k.db, "UPDATE t_origins SET uuid = printf('%%.100c', 'x') WHERE id = 1");
    ldg_arena_init(&arena, 0);
    tst_fails(SINK->state->origin_list(&k.s, &arena, &items, &numbers, &count, &err),
              LEDGER_ERR_SCHEMA, &err);
    ldg_arena_fini(&arena);
}

/* Rows with these numbers, which the Go bridge left. */
static uint64_t adopt_up_to(int64_t last)
{
    static struct ldg_claim claims[13000];
    size_t count = 0;
    uint64_t adopted = 0;
    ledger_error err = { 0 };

    for (int64_t id = 1; id <= last; id++) {
        if (id % 1000 != 1)
            claims[count++] = (struct ldg_claim){ .id.number = id, .key.number = id };
    }
    claims[count++] = (struct ldg_claim){ .id.number = last + 1, .key.number = 2 };
    claims[count++] = (struct ldg_claim){ .id.number = last + 9, .key.number = last + 9 };
    tst_ok(SINK->state->origin_adopt(&k.s, k.origin, claims, count, &adopted, &err), &err);
    return adopted;
}

static void test_adopt(void **state)
{
    uint64_t adopted;

    /* What the Go bridge left, some of our own between, and one number a second time. */
    tst_exec(k.db, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 12000) "
                   "INSERT INTO t(stream, payload, source_id) SELECT 's', '{}', "
                   "CASE WHEN i %% 4 = 0 THEN '' ELSE printf('%%019d', i) END FROM n");
    tst_exec(k.db, "INSERT INTO t(stream, payload, source_id) VALUES ('s', '{}', '2')");
    adopted = adopt_up_to(12000);
    assert_int_equal(adopted, 12000 * 3 / 4 - 12);
    assert_int_equal(tst_query_int(k.db,
                                   "SELECT count(*) FROM t WHERE origin = %d AND source_pos = "
                                   "id AND source_id != ''",
                                   k.origin),
                     (int)adopted);
    assert_int_equal(tst_query_int(k.db, "SELECT adopted FROM t_origins WHERE id = %d", k.origin),
                     1);
    assert_int_equal(adopt_up_to(12000), 0);

    /* A replay of what Go carried: its payload was compacted on the way, which is no other entry.
     */
    sink_append(&k, "s", 2, " { }\n", "");
    tst_exec(k.db, "UPDATE t SET order_key = 'o' WHERE source_pos = 2");
    sink_append(&k, "s", 20000, "{}", "");
    sink_tags(&k, "s", 3, "x");
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_REPLAYED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[2], LDG_OUTCOME_APPLIED);
}

static void test_cursor_of_another_kind(void **state)
{
    struct ldg_cursor cursor;
    ledger_error err = { 0 };

    tst_exec(k.db, "INSERT INTO t_cursors(name, cursor) VALUES ('go', '0000000000000000042')");
    tst_ok(SINK->state->cursor_get(&k.s, "go", true, &cursor, &err), &err);
    assert_string_equal(cursor.state, "");
    assert_string_equal(cursor.readable, "0000000000000000042");
    tst_exec(k.db, "UPDATE t_cursors SET cursor = printf('%%.100c', 'x') WHERE name = 'go'");
    tst_fails(SINK->state->cursor_get(&k.s, "go", true, &cursor, &err), LEDGER_ERR_DATA, &err);
    tst_exec(k.db, "UPDATE t_cursors SET cursor = '', state = printf('%%.20000c', 'x'), "
                   "moved_at = 'soon' WHERE name = 'go'");
    tst_fails(SINK->state->cursor_get(&k.s, "go", true, &cursor, &err), LEDGER_ERR_DATA, &err);
}

/* A table that only Go has opened, in a file we may only read. */
static void test_cursor_of_a_go_table(void **state)
{
    struct tst_env *env = *state;
    struct ldg_cursor cursor;
    ledger_error err = { 0 };
    struct ldg_sqlite s;
    sqlite3 *db;
    const char *path = tst_path(env, "go.db");
    const struct ldg_open open = { .path = path,
                                   .table = "t",
                                   .log_table = "t_mutations",
                                   .log = LEDGER_MUTATION_LOG_OFF,
                                   .flags = LEDGER_STORE_READ_ONLY };

    db = raw_open(path);
    tst_exec(db,
             "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, "
             "payload BLOB NOT NULL, order_key TEXT NOT NULL DEFAULT '', dedup_key TEXT NOT NULL "
             "DEFAULT '', schema_version INTEGER NOT NULL DEFAULT 1, metadata TEXT, tags TEXT "
             "NOT NULL DEFAULT '[]', annotations TEXT, source_id TEXT NOT NULL DEFAULT '', "
             "created_at TEXT NOT NULL DEFAULT '', updated_at TEXT)");
    for (int round = 0; round < 2; round++) {
        memset(&s, 0, sizeof(s));
        tst_ok(SINK->open(&s, &open, &err), &err);
        if (round == 0) {
            tst_fails(SINK->state->cursor_get(&s, "default", false, &cursor, &err),
                      LEDGER_ERR_NOT_FOUND, &err);
        } else {
            tst_ok(SINK->state->cursor_get(&s, "default", false, &cursor, &err), &err);
            assert_string_equal(cursor.readable, "0000000000000000042");
        }
        SINK->close(&s);
        if (round == 0)
            tst_exec(db, "CREATE TABLE t_cursors(name TEXT NOT NULL PRIMARY KEY, cursor TEXT NOT "
                         "NULL); INSERT INTO t_cursors VALUES ('default', '0000000000000000042')");
    }
    sqlite3_close(db);
}

static ledger_rc oom_run(void *ctx)
{
    struct ldg_identity *items;
    ledger_error err = { 0 };
    ledger_names names = { 0 };
    struct ldg_arena arena;
    int *numbers;
    size_t count;
    ledger_rc rc;

    ldg_arena_init(&arena, 0);
    rc = SINK->state->cursor_list(&k.s, &names, &err);
    if (rc == LEDGER_OK) {
        ledger_names_destroy(&names);
        rc = SINK->state->origin_list(&k.s, &arena, &items, &numbers, &count, &err);
    }
    ldg_arena_fini(&arena);
    return rc;
}

static void test_out_of_memory(void **state)
{
    for (int i = 0; i < 20; i++)
        tst_exec(k.db, "INSERT INTO t_cursors(name, cursor) VALUES ('n%d', '')", i);
    alloc_fail_each(oom_run, NULL);
}

static void test_busy(void **state)
{
    struct ldg_cursor next = { .moved_at_us = LEDGER_NO_TIME };
    ledger_error err = { 0 };

    sqlite3_busy_timeout(k.s.db, 10);
    tst_exec(k.db, "BEGIN IMMEDIATE");
    tst_fails(SINK->state->cursor_set(&k.s, "default", NULL, &next, &err), LEDGER_ERR_BUSY, &err);
    sink_append(&k, "s", 1, "{}", "");
    tst_fails(sink_try(&k, &err), LEDGER_ERR_BUSY, &err);
    tst_exec(k.db, "COMMIT");
    sink_apply(&k);
}

/* What is written to a file that has lost its name is lost. */
static void test_file_moved(void **state)
{
    const char *aside = tst_path(*state, "aside.db");
    ledger_error err = { 0 };

    sink_append(&k, "s", 1, "{}", "");
    sink_apply(&k);
    for (int replaced = 0; replaced < 2; replaced++) {
        assert_int_equal(rename(k.s.path, aside), 0);
        if (replaced)
            sqlite3_close(raw_open(k.s.path));
        sink_begin(&k);
        sink_append(&k, "s", 2, "{}", "");
        tst_fails(sink_try(&k, &err), LEDGER_ERR_CONNECT, &err);
        assert_true(err.flags & LEDGER_ERROR_RETRY);
        assert_true(sqlite3_get_autocommit(k.s.db));
        tst_fails(SINK->state->cursor_get(&k.s, "default", true, &k.cursor, &err),
                  LEDGER_ERR_CONNECT, &err);
        assert_int_equal(rename(aside, k.s.path), 0);
    }
    sink_begin(&k);
    sink_append(&k, "s", 2, "{}", "");
    sink_apply(&k);
    sink_is(&k, "SELECT count(*) FROM t", "2");
}

/* Go's own index answers the question whether it left something. */
static void test_unclaimed_uses_the_index(void **state)
{
    ledger_error err = { 0 };
    char plan[1024];
    bool any;

    tst_exec(k.db, "CREATE UNIQUE INDEX idx_t_source ON t(source_id) WHERE source_id != ''");
    tst_ok(SINK->state->origin_unclaimed(&k.s, &any, &err), &err);
    plan_of(k.s.db, stmt_with(&k.s, "source_id > ''"), plan, sizeof(plan));
    assert_non_null(strstr(plan, "idx_t_source"));
}

/* A trim takes along what was noted of the entries that it deletes, and no more. */
static void test_foreign_rows_go_with_entries(void **state)
{
    static const char count[] = "SELECT group_concat(origin || ':' || entry) FROM t_foreign";
    const struct ldg_identity identity = { .uuid = OTHER_UUID, .epoch = 1 };
    const ledger_id kept = { .number = 2 };
    ledger_error err = { 0 };
    int other = 0;

    tst_ok(SINK->state->origin_get(&k.s, &identity, "other", &other, &err), &err);
    for (int64_t i = 1; i <= 4; i++)
        sink_append(&k, i == 3 ? "u" : "s", i, "{}", "");
    sink_apply(&k);
    sink_begin(&k);
    for (int64_t i = 1; i <= 4; i++)
        sink_tags(&k, i == 3 ? "u" : "s", i, "x")->mutation_origin = other;
    sink_apply(&k);
    sink_is(&k, count, "1:1,1:2,1:3,1:4");
    sink_begin(&k);
    struct ldg_op *op = sink_op(&k, LDG_OP_TRIM, "s", 3);
    op->survivors = &kept;
    op->survivor_count = 1;
    sink_apply(&k);
    sink_is(&k, count, "1:2,1:3,1:4");
    sink_begin(&k);
    sink_op(&k, LDG_OP_TRIM, "s", 3);
    sink_apply(&k);
    sink_is(&k, count, "1:3,1:4");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_damaged_origins),
        TEST(test_adopt),
        TEST(test_cursor_of_another_kind),
        TEST(test_cursor_of_a_go_table),
        TEST(test_out_of_memory),
        TEST(test_busy),
        TEST(test_file_moved),
        TEST(test_unclaimed_uses_the_index),
        TEST(test_foreign_rows_go_with_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
