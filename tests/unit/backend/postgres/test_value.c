/* Values through a server and back: nothing changes on the way. */
#include "fixtures.h"
#include "pg_server.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "backend/postgres/postgres.h"

static struct ldg_pg pg;
static ledger_error err;

static int setup(void **state)
{
    memset(&pg, 0, sizeof(pg));
    pg.url = ldg_strdup(tst_pg_url(tst_pg_shared(), NULL, NULL, NULL));
    pg.label = ldg_strdup("test");
    pg.table = ldg_strdup("t");
    pg.log_table = ldg_strdup("l");
    pg.busy_timeout_ms = 1000;
    pg.reply_timeout_ms = 20000;
    if (ldg_pg_connect(&pg, &err) != LEDGER_OK)
        fail_msg("%s", err.message);
    return 0;
}

static int teardown(void **state)
{
    ldg_pg_close_conn(&pg);
    ldg_free(pg.url);
    ldg_free(pg.label);
    ldg_free(pg.table);
    ldg_free(pg.log_table);
    ldg_free(pg.where);
    return 0;
}

static PGresult *ask(const char *text, const struct ldg_pg_args *args)
{
    PGresult *result = NULL;
    if (ldg_pg_run_text(&pg, "asking", text, args, &result, &err) != LEDGER_OK)
        fail_msg("%s: %s", text, err.message);
    return result;
}

static void test_numbers(void **state)
{
    static const int64_t numbers[] = { 0, 1, -1, INT64_MAX, INT64_MIN, 1234567890123 };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        struct ldg_pg_args args = { 0 };
        ldg_pg_arg_int64(&args, numbers[i]);
        ldg_pg_arg_int32(&args, (int32_t)numbers[i]);
        ldg_pg_arg_bool(&args, numbers[i] & 1);
        PGresult *r =
            ask("SELECT $1, $2, $3, $1::text, NULL::int8, $1 % 7 = 0, 5::text::xid8", &args);
        assert_int_equal(ldg_pg_get_int64(r, 0, 0), numbers[i]);
        assert_int_equal(ldg_pg_get_int64(r, 0, 1), (int32_t)numbers[i]);
        assert_int_equal(ldg_pg_get_bool(r, 0, 2), numbers[i] & 1);
        assert_int_equal(strtoll(ldg_pg_get_text(r, 0, 3), NULL, 10), numbers[i]);
        assert_int_equal(ldg_pg_get_int64(r, 0, 4), 0);
        assert_int_equal(ldg_pg_get_bool(r, 0, 5), numbers[i] % 7 == 0);
        assert_int_equal(ldg_pg_get_int64(r, 0, 6), 5);
        PQclear(r);
    }
}

static void test_texts_and_bytes(void **state)
{
    struct ldg_pg_args args = { 0 };
    ldg_pg_arg_text(&args, "it's \\ \"ä\" €");
    ldg_pg_arg_text(&args, NULL);
    ldg_pg_arg_text(&args, "abc");
    ldg_pg_arg_bytes(&args, "a\0\\b\xff", 5);
    ldg_pg_arg_bytes(&args, NULL, 0);
    ldg_pg_arg_text(&args, "");
    PGresult *r = ask("SELECT $1, $2::text, $3, $4, $5, $6, $2 IS NULL", &args);
    assert_string_equal(ldg_pg_get_text(r, 0, 0), "it's \\ \"ä\" €");
    assert_true(PQgetisnull(r, 0, 1));
    assert_string_equal(ldg_pg_get_text(r, 0, 1), "");
    assert_string_equal(ldg_pg_get_text(r, 0, 2), "abc");
    assert_int_equal(ldg_pg_get_bytes(r, 0, 3).size, 5);
    assert_memory_equal(ldg_pg_get_bytes(r, 0, 3).data, "a\0\\b\xff", 5);
    assert_int_equal(ldg_pg_get_bytes(r, 0, 4).size, 0);
    assert_false(PQgetisnull(r, 0, 4));
    assert_false(PQgetisnull(r, 0, 5));
    assert_true(ldg_pg_get_bool(r, 0, 6));
    PQclear(r);
}

static void test_times(void **state)
{
    static const struct {
        int64_t us;
        const char *text;
    } times[] = {
        { 0, "1970-01-01 00:00:00+00" },
        { 1795420234123456, "2026-11-23 07:50:34.123456+00" },
        { -1, "1969-12-31 23:59:59.999999+00" },
        { 946684800000000, "2000-01-01 00:00:00+00" },
    };
    PQclear(ask("SET timezone = 'UTC'", NULL));
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        struct ldg_pg_args args = { 0 };
        ldg_pg_arg_time(&args, times[i].us);
        PGresult *r = ask("SELECT $1, $1::text", &args);
        assert_int_equal(ldg_pg_get_time(r, 0, 0), times[i].us);
        assert_string_equal(ldg_pg_get_text(r, 0, 1), times[i].text);
        PQclear(r);
    }
    struct ldg_pg_args args = { 0 };
    ldg_pg_arg_time(&args, LEDGER_NO_TIME);
    PGresult *r =
        ask("SELECT $1, $1 IS NULL, 'infinity'::timestamptz, '-infinity'::timestamptz", &args);
    assert_true(ldg_pg_get_bool(r, 0, 1));
    for (int column = 0; column < 4; column++)
        assert_int_equal(column == 1 || ldg_pg_get_time(r, 0, column) == LEDGER_NO_TIME, 1);
    PQclear(r);
    /* Out of the server's range: an error of this value, not of the connection. */
    memset(&args, 0, sizeof(args));
    ldg_pg_arg_time(&args, INT64_MIN + 1);
    assert_int_equal(ldg_pg_run_text(&pg, "asking", "SELECT $1", &args, NULL, &err),
                     LEDGER_ERR_DATA);
    assert_true(ldg_pg_is_row_fault(&err));
    assert_non_null(pg.conn);
}

static void test_json(void **state)
{
    static const char map_text[] = "{\"b\": \"2\", \"a\": \"ä\\u0001\"}";
    static const char list_text[] = "[\"x\", \"\", \"x\"]";
    struct ldg_arena arena;
    struct ldg_pg_args args = { 0 };
    ledger_map map = { 0 };
    ledger_list list = { 0 };
    ldg_arena_init(&arena, 0);
    ldg_pg_arg_json(&args, map_text, sizeof(map_text) - 1);
    ldg_pg_arg_json(&args, list_text, sizeof(list_text) - 1);
    ldg_pg_arg_json(&args, NULL, 0);
    PGresult *r =
        ask("SELECT $1, $2, $3::jsonb, '{\"a\": 1}'::jsonb, 'null'::jsonb, 'x'::text", &args);
    assert_int_equal(ldg_pg_get_map(r, 0, 0, &arena, &map, &err), LEDGER_OK);
    assert_int_equal(map.count, 2);
    assert_string_equal(map.items[0].key, "a");
    assert_string_equal(map.items[0].value, "ä\001");
    assert_string_equal(map.items[1].value, "2");
    assert_int_equal(ldg_pg_get_list(r, 0, 1, &arena, &list, &err), LEDGER_OK);
    assert_int_equal(list.count, 3);
    assert_string_equal(list.items[2], "x");
    assert_int_equal(ldg_pg_get_map(r, 0, 2, &arena, &map, &err), LEDGER_OK);
    assert_int_equal(map.count, 0);
    assert_int_equal(ldg_pg_get_list(r, 0, 2, &arena, &list, &err), LEDGER_OK);
    assert_int_equal(list.count, 0);
    assert_int_equal(ldg_pg_get_map(r, 0, 3, &arena, &map, &err), LEDGER_ERR_DATA);
    assert_int_equal(ldg_pg_get_list(r, 0, 3, &arena, &list, &err), LEDGER_ERR_DATA);
    assert_int_equal(ldg_pg_get_map(r, 0, 4, &arena, &map, &err), LEDGER_OK);
    assert_int_equal(ldg_pg_get_map(r, 0, 5, &arena, &map, &err), LEDGER_ERR_DATA);
    assert_int_equal(ldg_pg_get_list(r, 0, 5, &arena, &list, &err), LEDGER_ERR_DATA);
    PQclear(r);
    ldg_arena_fini(&arena);
}

static void test_arrays(void **state)
{
    struct ldg_buf buf[6];
    struct ldg_arena arena;
    int64_t *items = NULL;
    size_t count = 99;
    struct ldg_pg_args args = { 0 };
    ldg_arena_init(&arena, 0);
    for (size_t i = 0; i < 6; i++)
        ldg_buf_init(&buf[i], (size_t)1 << 20);
    ldg_pg_array_begin(&buf[0], LDG_PG_INT8);
    ldg_pg_array_int64(&buf[0], INT64_MIN);
    ldg_pg_array_int64(&buf[0], 7);
    ldg_pg_array_end(&buf[0], 2);
    ldg_pg_array_begin(&buf[1], LDG_PG_TEXT);
    ldg_pg_array_text(&buf[1], "a,\"{b");
    ldg_pg_array_text(&buf[1], NULL);
    ldg_pg_array_end(&buf[1], 2);
    ldg_pg_array_begin(&buf[2], LDG_PG_BYTEA);
    ldg_pg_array_bytes(&buf[2], "\0\1", 2);
    ldg_pg_array_bytes(&buf[2], "", 0);
    ldg_pg_array_end(&buf[2], 2);
    ldg_pg_array_begin(&buf[3], LDG_PG_JSONB);
    ldg_pg_array_jsonb(&buf[3], "{\"k\":\"v\"} rest", 9);
    ldg_pg_array_jsonb(&buf[3], NULL, 0);
    ldg_pg_array_end(&buf[3], 2);
    ldg_pg_array_begin(&buf[4], LDG_PG_TIMESTAMPTZ);
    ldg_pg_array_time(&buf[4], 0);
    ldg_pg_array_time(&buf[4], LEDGER_NO_TIME);
    ldg_pg_array_end(&buf[4], 2);
    ldg_pg_array_begin(&buf[5], LDG_PG_INT4);
    ldg_pg_array_end(&buf[5], 0);
    ldg_pg_arg_array(&args, LDG_PG_INT8_ARRAY, &buf[0]);
    ldg_pg_arg_array(&args, LDG_PG_TEXT_ARRAY, &buf[1]);
    ldg_pg_arg_array(&args, LDG_PG_BYTEA_ARRAY, &buf[2]);
    ldg_pg_arg_array(&args, LDG_PG_JSONB_ARRAY, &buf[3]);
    ldg_pg_arg_array(&args, LDG_PG_TIMESTAMPTZ_ARRAY, &buf[4]);
    ldg_pg_arg_array(&args, LDG_PG_INT4_ARRAY, &buf[5]);
    PGresult *r = ask("SELECT a, b, c, d, extract(epoch FROM e)::int8, cardinality($6), $1, "
                      "'{}'::int8[] FROM unnest($1, $2, $3, $4, $5) AS u(a, b, c, d, e)",
                      &args);
    assert_int_equal(PQntuples(r), 2);
    assert_int_equal(ldg_pg_get_int64(r, 0, 0), INT64_MIN);
    assert_int_equal(ldg_pg_get_int64(r, 1, 0), 7);
    assert_string_equal(ldg_pg_get_text(r, 0, 1), "a,\"{b");
    assert_true(PQgetisnull(r, 1, 1));
    assert_memory_equal(ldg_pg_get_bytes(r, 0, 2).data, "\0\1", 2);
    assert_int_equal(ldg_pg_get_bytes(r, 1, 2).size, 0);
    assert_false(PQgetisnull(r, 1, 2));
    assert_string_equal(ldg_pg_get_text(r, 0, 3) + 1, "{\"k\": \"v\"}");
    assert_true(PQgetisnull(r, 1, 3));
    assert_false(PQgetisnull(r, 0, 4));
    assert_true(PQgetisnull(r, 1, 4));
    assert_int_equal(ldg_pg_get_int64(r, 0, 5), 0);
    assert_int_equal(ldg_pg_get_int64s(r, 0, 6, &arena, &items, &count, &err), LEDGER_OK);
    assert_int_equal(count, 2);
    assert_int_equal(items[0], INT64_MIN);
    assert_int_equal(items[1], 7);
    assert_int_equal(ldg_pg_get_int64s(r, 0, 7, &arena, &items, &count, &err), LEDGER_OK);
    assert_int_equal(count, 0);
    PQclear(r);
    r = ask("SELECT '{{1,2},{3,4}}'::int8[]", NULL);
    assert_int_equal(ldg_pg_get_int64s(r, 0, 0, &arena, &items, &count, &err), LEDGER_ERR_INTERNAL);
    PQclear(r);

    /* A failure while it was built comes out where it is used. */
    ldg_buf_fini(&buf[0]);
    ldg_buf_init(&buf[0], 30);
    ldg_pg_array_begin(&buf[0], LDG_PG_INT8);
    ldg_pg_array_int64(&buf[0], 1);
    ldg_pg_array_end(&buf[0], 1);
    memset(&args, 0, sizeof(args));
    ldg_pg_arg_array(&args, LDG_PG_INT8_ARRAY, &buf[0]);
    assert_int_equal(ldg_pg_run_text(&pg, "asking", "SELECT $1", &args, NULL, &err),
                     LEDGER_ERR_TOO_LARGE);
    for (size_t i = 0; i < 6; i++)
        ldg_buf_fini(&buf[i]);
    ldg_arena_fini(&arena);
}

static void test_too_large(void **state)
{
    struct ldg_pg_args args = { 0 };
    /* Never read: the size alone is too much. */
    ldg_pg_arg_bytes(&args, "", (size_t)1 << 30);
    assert_int_equal(ldg_pg_run_text(&pg, "asking", "SELECT $1", &args, NULL, &err),
                     LEDGER_ERR_TOO_LARGE);
    memset(&args, 0, sizeof(args));
    ldg_pg_arg_bytes(&args, "", (size_t)600 << 20);
    ldg_pg_arg_bytes(&args, "", (size_t)600 << 20);
    assert_int_equal(ldg_pg_run_text(&pg, "asking", "SELECT $1, $2", &args, NULL, &err),
                     LEDGER_ERR_TOO_LARGE);
    PQclear(ask("SELECT 1", NULL));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_numbers), TEST(test_texts_and_bytes), TEST(test_times),
        TEST(test_json),    TEST(test_arrays),          TEST(test_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
