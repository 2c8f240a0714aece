/* Origins and cursors of the PostgreSQL backend: adoption, damage, waiting, two at once. */
#include "handle.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "alloc_fail.h"

#define SOURCE_UUID "11111111-1111-4111-8111-111111111111"
#define OTHER_UUID "22222222-2222-4222-8222-222222222222"

static struct ldg_pg pg;
static ledger_error err;
static char url[300];
static PGconn *conn;

static int setup(void **state)
{
    tst_pg_require();
    if (tst_setup(state) != 0)
        return -1;
    snprintf(url, sizeof(url), "%s", tst_url(*state, TST_POSTGRES, "a"));
    handle_open(&pg, url, "t", LDG_ROLE_SINK, LEDGER_MUTATION_LOG_OFF, LEDGER_STORE_CREATE);
    conn = tst_pg_connect_url(url);
    memset(&err, 0, sizeof(err));
    return 0;
}

static int teardown(void **state)
{
    PQfinish(conn);
    handle_close(&pg);
    return tst_teardown(state);
}

static void must(const char *text, const char *is)
{
    char *value = tst_pg_sql_text(conn, "%s", text);
    assert_string_equal(value ? value : "", is);
    free(value);
}

/* The name is of the first who came; whether there are origins is known before they are asked for.
 */
static void test_names_and_damage(void **state)
{
    const struct ldg_identity one = { .uuid = SOURCE_UUID, .epoch = 1 };
    struct ldg_identity *items;
    struct ldg_arena arena;
    int number = 99, *numbers;
    size_t count = 99;

    ldg_arena_init(&arena, 0);
    tst_ok(ldg_pg_origin_get(&pg, &pg.identity, "self", &number, &err), &err);
    assert_false(pg.has_origins);
    tst_ok(ldg_pg_origin_get(&pg, &one, "one", &number, &err), &err);
    assert_true(pg.has_origins);
    tst_ok(ldg_pg_origin_get(&pg, &one, "renamed", &number, &err), &err);
    must("SELECT name FROM t_origins WHERE id = 1", "one");
    tst_pg_sql(conn, "UPDATE t_origins SET uuid = '' WHERE id = 1");
    tst_fails(ldg_pg_origin_list(&pg, &arena, &items, &numbers, &count, &err), LEDGER_ERR_SCHEMA,
              &err);
    ldg_arena_fini(&arena);
}

struct race {
    struct ldg_pg pg;
    int numbers[20];
    ledger_rc rc;
    ledger_error err;
};

static void *make_origins(void *arg)
{
    struct race *race = arg;

    for (int i = 0; i < 20 && race->rc == LEDGER_OK; i++) {
        const struct ldg_identity identity = { .uuid = OTHER_UUID, .epoch = i };
        race->rc = ldg_pg_origin_get(&race->pg, &identity, "", &race->numbers[i], &race->err);
    }
    return NULL;
}

/* Two bridges that start at once get the same number for the same origin. */
static void test_origins_at_once(void **state)
{
    struct race races[2] = { 0 };
    pthread_t threads[2];

    for (int i = 0; i < 2; i++)
        handle_open_patient(&races[i].pg, url, "t", LDG_ROLE_SINK, LEDGER_MUTATION_LOG_OFF, 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, make_origins, &races[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 2; i++) {
        tst_ok(races[i].rc, &races[i].err);
        handle_close(&races[i].pg);
    }
    assert_memory_equal(races[0].numbers, races[1].numbers, sizeof(races[0].numbers));
    must("SELECT count(*) || ' ' || max(id) FROM t_origins", "20 20");
}

/* Rows with these numbers, which the Go bridge left. */
static uint64_t adopt_up_to(int64_t last)
{
    static struct ldg_claim claims[13000];
    size_t count = 0;
    uint64_t adopted = 0;

    for (int64_t id = 1; id <= last; id++) {
        if (id % 1000 != 1)
            claims[count++] = (struct ldg_claim){ .id.number = id, .key.number = id };
    }
    claims[count++] = (struct ldg_claim){ .id.number = last + 1, .key.number = 2 };
    claims[count++] = (struct ldg_claim){ .id.number = last + 9, .key.number = last + 9 };
    tst_ok(ldg_pg_origin_adopt(&pg, 1, claims, count, &adopted, &err), &err);
    return adopted;
}

static void test_adopt(void **state)
{
    const struct ldg_identity identity = { .uuid = SOURCE_UUID, .epoch = 1 };
    uint64_t adopted = 0;
    ledger_id last = { 0 };
    bool any = false;
    int origin = 0;

    tst_ok(ldg_pg_origin_get(&pg, &identity, "", &origin, &err), &err);
    tst_ok(ldg_pg_origin_unclaimed(&pg, &any, &err), &err);
    assert_false(any);
    /* What the Go bridge left, some of our own between, and one number a second time. */
    tst_pg_sql(conn, "INSERT INTO t(stream, payload, source_id) SELECT 's', '{}', "
                     "CASE WHEN i %% 4 = 0 THEN '' ELSE lpad(i::text, 19, '0') END "
                     "FROM generate_series(1, 12000) AS i");
    tst_pg_sql(conn, "INSERT INTO t(stream, payload, source_id) VALUES ('s', '{}', '2')");
    tst_ok(ldg_pg_origin_unclaimed(&pg, &any, &err), &err);
    assert_true(any);
    adopted = adopt_up_to(12000);
    assert_int_equal(adopted, 12000 * 3 / 4 - 12);
    assert_int_equal(tst_pg_sql_int(conn,
                                    "SELECT count(*) FROM t WHERE origin = %d AND "
                                    "source_pos = id AND source_id <> ''",
                                    origin),
                     (int)adopted);
    must("SELECT adopted || ' ' || ordered FROM t_origins", "true false");
    tst_ok(ldg_pg_origin_last(&pg, origin, NULL, &last, &err), &err);
    assert_int_equal(last.number, 11999);
    assert_int_equal(adopt_up_to(12000), 0);
    tst_ok(ldg_pg_origin_unclaimed(&pg, &any, &err), &err);
    assert_true(any); /* the second with one number */
}

static void test_rewind(void **state)
{
    tst_pg_sql(conn, "INSERT INTO t(stream, payload, origin, source_pos, mutation_pos) VALUES "
                     "('s', '1', 1, 1, 5), ('s', '1', 1, 2, 6), ('s', '1', 2, 1, 7), "
                     "('s', '1', 0, NULL, 9); INSERT INTO t_foreign(origin, entry, "
                     "mutation_origin, kind, position, id) VALUES (2, 1, 1, 1, 5, 1), "
                     "(2, 2, 1, 1, 6, 1), (1, 1, 2, 1, 9, 1)");
    tst_ok(ldg_pg_origin_rewind(&pg, 1, 5, &err), &err);
    must("SELECT string_agg(coalesce(mutation_pos::text, '-'), ' ' ORDER BY id) FROM t", "5 - 7 9");
    must("SELECT string_agg(position::text, ' ' ORDER BY position) FROM t_foreign", "5 9");
    tst_pg_sql(conn, "UPDATE t SET tags_pos = id + 4, annotations_pos = 9 - id");
    tst_ok(ldg_pg_origin_rewind(&pg, 1, 5, &err), &err);
    must("SELECT string_agg(coalesce(tags_pos::text, '-') || '/' || "
         "coalesce(annotations_pos::text, '-'), ' ' ORDER BY id) FROM t",
         "5/- -/- 7/6 8/5");
    tst_ok(ldg_pg_origin_unguard(&pg, &err), &err);
    must("SELECT count(mutation_pos)::text || count(tags_pos)::text FROM t", "03");
}

static void test_cursor_of_another_kind(void **state)
{
    struct ldg_cursor cursor;

    tst_pg_sql(conn, "INSERT INTO t_cursors(name, cursor) VALUES ('go', '0000000000000000042')");
    tst_ok(ldg_pg_cursor_get(&pg, "go", true, &cursor, &err), &err);
    assert_string_equal(cursor.state, "");
    assert_string_equal(cursor.readable, "0000000000000000042");
    tst_pg_sql(conn, "UPDATE t_cursors SET cursor = repeat('x', 100) WHERE name = 'go'");
    tst_fails(ldg_pg_cursor_get(&pg, "go", true, &cursor, &err), LEDGER_ERR_DATA, &err);
    tst_pg_sql(conn, "UPDATE t_cursors SET cursor = '', state = repeat('x', 20000)");
    tst_fails(ldg_pg_cursor_get(&pg, "go", true, &cursor, &err), LEDGER_ERR_DATA, &err);
}

/* A sink's read waits for whoever is committing; a user's does not. */
static void test_cursor_waits(void **state)
{
    struct ldg_cursor cursor, next = { .moved_at_us = LEDGER_NO_TIME };
    struct ldg_pg user;

    tst_ok(ldg_pg_cursor_get(&pg, "default", true, &cursor, &err), &err);
    handle_open(&user, url, "t", LDG_ROLE_USER, LEDGER_MUTATION_LOG_OFF, 0);
    tst_pg_sql(conn, "BEGIN; UPDATE t_cursors SET cursor = '7'");
    tst_ok(ldg_pg_cursor_get(&user, "default", false, &cursor, &err), &err);
    assert_string_equal(cursor.readable, "");
    tst_fails(ldg_pg_cursor_get(&pg, "default", false, &cursor, &err), LEDGER_ERR_BUSY, &err);
    tst_fails(ldg_pg_cursor_set(&pg, "default", &cursor, &next, &err), LEDGER_ERR_BUSY, &err);
    assert_true(err.flags & LEDGER_ERROR_RETRY);
    /* Also where the session is not ours, as behind a pooler. */
    pg.pooled = true;
    tst_pg_sql(pg.conn, "SET lock_timeout = 0");
    tst_fails(ldg_pg_cursor_get(&pg, "default", false, &cursor, &err), LEDGER_ERR_BUSY, &err);
    tst_fails(ldg_pg_cursor_set(&pg, "default", NULL, &next, &err), LEDGER_ERR_BUSY, &err);
    assert_int_equal(PQtransactionStatus(pg.conn), PQTRANS_IDLE);
    tst_pg_sql(conn, "COMMIT");
    tst_ok(ldg_pg_cursor_get(&pg, "default", false, &cursor, &err), &err);
    assert_string_equal(cursor.readable, "7");
    tst_ok(ldg_pg_cursor_set(&pg, "default", &cursor, &next, &err), &err);
    handle_close(&user);
}

/* Inside a transaction that is open already only our own part is undone. */
static void test_write_inside(void **state)
{
    bool own = true, outer = false;

    tst_ok(ldg_pg_begin_write(&pg, NULL, &outer, &err), &err);
    assert_true(outer);
    tst_pg_sql(conn, "INSERT INTO t_origins(id, uuid, epoch) VALUES (1, 'x', 1)");
    tst_ok(ldg_pg_run(&pg, LDG_PG_FRESH, "test",
                      "INSERT INTO \"{t}\"(stream, payload) "
                      "VALUES ('s', '1')",
                      NULL, NULL, &err),
           &err);
    tst_ok(ldg_pg_write_begin(&pg, NULL, &own, &err), &err);
    assert_false(own);
    ledger_rc rc = ldg_pg_run(&pg, LDG_PG_FRESH, "test", "SELECT 1 / 0", NULL, NULL, &err);
    tst_fails(ldg_pg_write_end(&pg, own, rc, &err), LEDGER_ERR_DATA, &err);
    tst_ok(ldg_pg_write_begin(&pg, NULL, &own, &err), &err);
    tst_ok(ldg_pg_run(&pg, LDG_PG_FRESH, "test",
                      "INSERT INTO \"{t}\"(stream, payload) "
                      "VALUES ('s', '2')",
                      NULL, NULL, &err),
           &err);
    tst_ok(ldg_pg_write_end(&pg, own, LEDGER_OK, &err), &err);
    tst_ok(ldg_pg_end(&pg, outer, LEDGER_OK, &err), &err);
    must("SELECT count(*) FROM t", "2");
}

static ledger_rc oom_run(void *ctx)
{
    const struct ldg_identity identity = { .uuid = OTHER_UUID, .epoch = 1 };
    struct ldg_identity *items;
    struct ldg_cursor cursor;
    ledger_error local = { 0 };
    ledger_names names = { 0 };
    struct ldg_arena arena;
    int *numbers, number;
    size_t count;

    ldg_arena_init(&arena, 0);
    ledger_rc rc = ldg_pg_cursor_list(&pg, &names, &local);
    if (rc == LEDGER_OK) {
        ledger_names_destroy(&names);
        rc = ldg_pg_origin_get(&pg, &identity, "", &number, &local);
    }
    if (rc == LEDGER_OK)
        rc = ldg_pg_origin_list(&pg, &arena, &items, &numbers, &count, &local);
    if (rc == LEDGER_OK)
        rc = ldg_pg_cursor_get(&pg, "default", true, &cursor, &local);
    ldg_arena_fini(&arena);
    return rc;
}

static void test_out_of_memory(void **state)
{
    tst_pg_sql(conn, "INSERT INTO t_cursors(name, cursor) SELECT 'n' || i, '' "
                     "FROM generate_series(1, 20) AS i");
    alloc_fail_each(oom_run, NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_names_and_damage), TEST(test_origins_at_once),        TEST(test_adopt),
        TEST(test_rewind),           TEST(test_cursor_of_another_kind), TEST(test_cursor_waits),
        TEST(test_write_inside),     TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
