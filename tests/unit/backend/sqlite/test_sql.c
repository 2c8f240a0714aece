/* The texts of the statements: each prepares on the tables as they are made, and none sorts or
 * scans a table where an index is meant to be used. */
#include "handle.h"

#include "go_tables.h"

static void test_all_prepare(void **state)
{
    struct tst_env *env = *state;
    struct ldg_sqlite s;
    ledger_error err = { 0 };
    handle_open(&s, tst_path(env, "a.db"), LDG_ROLE_USER, LEDGER_STORE_CREATE);
    for (int id = 0; id < LDG_STMT_COUNT; id++) {
        char *sql = ldg_sqlite_sql(&s, (enum ldg_sqlite_stmt_id)id);
        assert_non_null(sql);
        assert_null(strchr(sql, '%'));
        sqlite3_stmt *stmt = ldg_sqlite_stmt(&s, (enum ldg_sqlite_stmt_id)id, &err);
        if (!stmt)
            tst_fail("%s: %s", sql, err.message);
        assert_ptr_equal(ldg_sqlite_stmt(&s, (enum ldg_sqlite_stmt_id)id, &err), stmt);
        sqlite3_free(sql);
    }
    handle_close(&s);
}

static void plan_of(struct ldg_sqlite *s, enum ldg_sqlite_stmt_id id, char *out, size_t size)
{
    sqlite3_stmt *stmt = NULL;
    char *sql = ldg_sqlite_sql(s, id);
    char *explain = sqlite3_mprintf("EXPLAIN QUERY PLAN %s", sql);
    assert_int_equal(sqlite3_prepare_v2(s->db, explain, -1, &stmt, NULL), SQLITE_OK);
    out[0] = '\0';
    while (sqlite3_step(stmt) == SQLITE_ROW)
        snprintf(out + strlen(out), size - strlen(out), "%s; ",
                 (const char *)sqlite3_column_text(stmt, 3));
    sqlite3_finalize(stmt);
    sqlite3_free(explain);
    sqlite3_free(sql);
}

/* Also with all of Go's indexes, which could lead SQLite elsewhere. */
static void test_plans(void **state)
{
    struct tst_env *env = *state;
    static const enum ldg_sqlite_stmt_id by_key[] = {
        LDG_STMT_SET_TAGS,       LDG_STMT_SET_ANNOTATIONS, LDG_STMT_GET_PAYLOAD,
        LDG_STMT_GET_MUTABLE,    LDG_STMT_DELETE,          LDG_STMT_HISTORY_LOCAL,
        LDG_STMT_HISTORY_ORIGIN, LDG_STMT_LOG_READ,        LDG_STMT_LOG_ROW,
        LDG_STMT_LOG_OLDEST,     LDG_STMT_LOG_NEAREST,     LDG_STMT_TRIM,
        LDG_STMT_APPLY_FIND,
    };
    for (int go = 0; go < 2; go++) {
        struct ldg_sqlite s;
        char plan[1024];
        const char *path = tst_path(env, go ? "go.db" : "ours.db");
        if (go) {
            sqlite3 *db = raw_open(path);
            tst_go_create(db, "ledger_entries", true);
            sqlite3_close(db);
        }
        handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_CREATE);
        for (size_t i = 0; i < sizeof(by_key) / sizeof(by_key[0]); i++) {
            plan_of(&s, by_key[i], plan, sizeof(plan));
            if (strstr(plan, "SCAN") || strstr(plan, "TEMP B-TREE") || strstr(plan, "AUTOMATIC"))
                tst_fail("statement %d: %s", (int)by_key[i], plan);
        }
        plan_of(&s, LDG_STMT_HISTORY_ORIGIN, plan, sizeof(plan));
        assert_non_null(strstr(plan, "idx_ledger_entries_origin"));
        plan_of(&s, LDG_STMT_APPLY_FIND, plan, sizeof(plan));
        assert_non_null(strstr(plan, "idx_ledger_entries_origin"));
        plan_of(&s, LDG_STMT_TRIM_KEPT_ORIGIN, plan, sizeof(plan)); /* up to an id of the stream */
        assert_null(strstr(plan, "SCAN"));
        assert_non_null(strstr(plan, "(stream=? AND"));
        assert_non_null(strstr(plan, "idx_ledger_entries_parked_entry"));
        plan_of(&s, LDG_STMT_LOG_READ, plan, sizeof(plan));
        assert_non_null(strstr(plan, "INTEGER PRIMARY KEY"));
        handle_close(&s);
    }
}

static void test_expand(void **state)
{
    struct ldg_sqlite s = { .table = (char *)(uintptr_t) "t",
                            .log_table = (char *)(uintptr_t) "l" };
    char *text = ldg_sqlite_expand(&s, "%T%L x%T_y %Y-%m%");
    assert_string_equal(text, "tl"
                              " xt_y %Y-%m%");
    sqlite3_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_prepare, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(test_plans, tst_setup, tst_teardown),
        cmocka_unit_test(test_expand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
