/* Parked events of the PostgreSQL backend: kept, waited for, tried again, dropped. */
#include "sink.h"

#include "../parked_cases.h"
#include "alloc_fail.h"

#define UNREFUSE "ALTER TABLE t DROP CONSTRAINT refuse"

static int setup(void **state)
{
    tst_pg_require();
    int rc = tst_setup(state);

    if (rc == 0) {
        sink_open(&k, tst_url(*state, TST_POSTGRES, "a"), LEDGER_MUTATION_LOG_OFF);
        tst_pg_sql(k.db, "ALTER TABLE t ADD CONSTRAINT refuse CHECK (payload <> '\"bad\"')");
    }
    return rc;
}

static int teardown(void **state)
{
    sink_close(&k);
    return tst_teardown(state);
}

static void test_rows(void **state)
{
    struct ldg_parked_row *rows;
    ledger_error err = { 0 };
    struct ldg_arena arena;
    uint64_t count;
    size_t listed;
    struct ldg_op *op;

    ldg_arena_init(&arena, 0);
    assert_int_equal(list(&arena, &rows), 0);
    op = sink_append(&k, "s", 5, "\"bad\"", "");
    op->event = (ledger_bytes){ "{\"the\":\"event\"}", 15 };
    op = sink_op(&k, LDG_OP_PARK, "", 0);
    op->reason = "not JSON";
    op->event = (ledger_bytes){ "\0\1", 2 };
    op->log_time_us = LEDGER_NO_TIME;
    op->type_name = NULL;
    op->source_uuid = OTHER_UUID;
    sink_apply(&k);
    assert_int_equal(list(&arena, &rows), 2);
    assert_string_equal(rows[0].source_uuid, SOURCE_UUID);
    assert_int_equal(rows[0].log_position, 1);
    assert_int_equal(rows[0].key.number, 5);
    assert_string_equal(rows[0].type_name, "append");
    assert_string_equal(rows[0].stream, "s");
    assert_non_null(strstr(rows[0].reason, "refuse"));
    assert_int_equal(rows[0].attempts, 1);
    assert_int_equal(rows[0].time_us, 1764000000001000);
    assert_true(ldg_clock_now_us() - rows[0].parked_at_us < 60 * 1000000);
    assert_int_equal(rows[0].event.size, 15);
    assert_memory_equal(rows[1].event.data, "\0\1", 2);
    assert_int_equal(rows[1].time_us, LEDGER_NO_TIME);
    assert_string_equal(rows[1].type_name, "");

    tst_ok(SINK->state->parked_list(&k.s, rows[0].id, 100, &arena, &rows, &listed, &err), &err);
    assert_int_equal(listed, 1);
    tst_ok(SINK->state->parked_list(&k.s, 0, 1, &arena, &rows, &listed, &err), &err);
    assert_int_equal(listed, 1);
    tst_ok(SINK->state->parked_count(&k.s, NULL, &count, &err), &err);
    assert_int_equal(count, 2);
    tst_ok(SINK->state->parked_count(&k.s, OTHER_UUID, &count, &err), &err);
    assert_int_equal(count, 1);
    ldg_arena_fini(&arena);
}

static void test_retry_in_order(void **state)
{
    int64_t ids[3];

    park_three(ids);
    assert_false(retry(ids[0], &k.ops[0]));
    assert_false(retry(ids[1], &k.ops[1])); /* still behind the first */
    sink_is(&k,
            "SELECT string_agg(attempts || CASE WHEN reason LIKE '%refuse%' THEN 'refused' "
            "ELSE reason END, ';' ORDER BY id) FROM t_parked",
            "2refused;2behind parked event 1;1behind parked event 1");
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(attempted_at) FROM t_parked"), 2);
    tst_pg_sql(k.db, UNREFUSE);
    assert_false(retry(ids[2], &k.ops[2]));
    for (size_t i = 0; i < 3; i++)
        assert_true(retry(ids[i], &k.ops[i]));
    sink_is(&k, "SELECT tags::text || annotations::text FROM t", "[\"x\"]{\"a\": \"b\"}");
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t_parked"), 0);
    /* What comes next goes straight through. */
    sink_begin(&k);
    sink_tags(&k, "s", 1, "y");
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_APPLIED);
}

/* A row that was trimmed or dropped meanwhile must not bring its entry back. */
static void test_retry_of_a_row_that_is_gone(void **state)
{
    ledger_error err = { 0 };
    bool applied = true;
    int64_t ids[3];

    park_three(ids);
    tst_pg_sql(k.db, UNREFUSE "; DELETE FROM t_parked");
    tst_fails(SINK->state->parked_retry(&k.s, ids[0], &k.ops[0], 1, &applied, &err),
              LEDGER_ERR_NOT_FOUND, &err);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t"), 0);
    tst_fails(SINK->state->parked_note(&k.s, ids[0], "r", &err), LEDGER_ERR_NOT_FOUND, &err);
    tst_fails(SINK->state->parked_retry(&k.s, ids[0], NULL, 0, &applied, &err),
              LEDGER_ERR_NOT_FOUND, &err);
}

/* A batch that waits for the retry has drawn its ids before: what is tried again comes behind it.
 */
static void test_trim_after_a_retry(void **state)
{
    int64_t ids[3];

    park_three(ids);
    tst_pg_sql(k.db, UNREFUSE);
    assert_true(retry(ids[0], &k.ops[0]));
    tst_pg_sql(k.db, "INSERT INTO t(id, stream, payload, origin, source_pos) "
                     "SELECT id - 1, 's', '{}', origin, 2 FROM t");
    sink_begin(&k);
    sink_trim(&k, "s", 1);
    sink_apply(&k);
    sink_is(&k, "SELECT string_agg(source_pos::text, ',') FROM t", "2");
}

static void test_retry_does_not_reuse_a_position(void **state)
{
    int64_t ids[3];

    park_three(ids);
    tst_pg_sql(k.db, UNREFUSE);
    tst_pg_sql(k.db, "INSERT INTO t(stream, payload, origin, source_pos) VALUES ('s', '7', %d, 1)",
               k.origin);
    assert_false(retry(ids[0], &k.ops[0]));
    if (!strstr(sink_text(&k, "SELECT reason FROM t_parked ORDER BY id"), "twice"))
        tst_fail("%s", sink_text(&k, "SELECT string_agg(reason, chr(10)) FROM t_parked"));
}

/* Two logs bring events of one entry: the one that was parked first goes first, and each finds its
 * turn. */
static void test_two_logs(void **state)
{
    struct ldg_parked_row *rows;
    struct ldg_arena arena;

    sink_append(&k, "s", 1, "\"bad\"", "")->log_position = 90;
    struct ldg_op *op = sink_append(&k, "s", 1, "\"bad\"", "");
    op->source_uuid = OTHER_UUID;
    op->log_position = 10;
    op->time_us = k.ops[0].time_us;
    sink_apply(&k);
    tst_pg_sql(k.db, UNREFUSE);
    ldg_arena_init(&arena, 0);
    assert_int_equal(list(&arena, &rows), 2);
    assert_false(retry(rows[1].id, &k.ops[1]));
    assert_true(retry(rows[0].id, &k.ops[0]));
    assert_true(retry(rows[1].id, &k.ops[1]));
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t"), 1);
    ldg_arena_fini(&arena);
}

/* Was it not parked before? */
static bool park(const struct ldg_op *op, const char *reason)
{
    ledger_error err = { 0 };
    bool is_new = false;

    tst_ok(ldg_pg_park(&k.s, op, reason, &is_new, &err), &err);
    return is_new;
}

/* The pieces without a batch around them. */
static void test_pieces(void **state)
{
    const ledger_id kept[] = { { .number = 4 } };
    struct ldg_parked_row *rows;
    ledger_error err = { 0 };
    struct ldg_arena arena;
    bool own = false, any = false;

    ldg_arena_init(&arena, 0);
    tst_ok(ldg_pg_write_begin(&k.s, NULL, &own, &err), &err);
    for (int64_t i = 1; i <= 5; i++)
        assert_true(park(sink_append(&k, "s", i, "1", ""), "r"));
    assert_true(park(sink_append(&k, "u", 2, "1", ""), "r"));
    /* A message that was cut inside of a character. */
    assert_false(park(&k.ops[0], "a\xc3\xa4\xff \xe2\x82"));
    struct ldg_op *op = sink_trim(&k, "s", 4);
    op->survivors = kept;
    op->survivor_count = 1;
    tst_ok(ldg_pg_parked_trim(&k.s, op, &any, &err), &err);
    assert_true(any);
    tst_ok(ldg_pg_parked_trim(&k.s, op, &any, &err), &err);
    assert_false(any);
    tst_ok(ldg_pg_write_end(&k.s, own, LEDGER_OK, &err), &err);
    assert_int_equal(list(&arena, &rows), 3);
    assert_int_equal(rows[0].key.number, 4);
    assert_int_equal(rows[1].key.number, 5);
    assert_string_equal(rows[2].stream, "u");

    op = &k.ops[0];
    assert_true(park(op, "a\xc3\xa4\xff \xe2\x82"));
    assert_int_equal(list(&arena, &rows), 4);
    assert_string_equal(rows[3].reason, "a\xc3\xa4? ??");
    assert_int_equal(rows[3].attempts, 1);
    assert_false(park(op, "r2"));
    assert_int_equal(list(&arena, &rows), 4);
    assert_string_equal(rows[3].reason, "r2");
    assert_int_equal(rows[3].attempts, 2);
    tst_ok(ldg_pg_parked_note(&k.s, rows[3].id, "\xff", &err), &err);
    assert_int_equal(list(&arena, &rows), 4);
    assert_string_equal(rows[3].reason, "?");
    ldg_arena_fini(&arena);
}

/* A page of large events ends by their bytes. */
static void test_large_events(void **state)
{
    struct ldg_parked_row *rows;
    ledger_error err = { 0 };
    struct ldg_arena arena;
    size_t count = 0;

    tst_pg_sql(k.db, "INSERT INTO t_parked(source_uuid, origin, log_position, stream, type, "
                     "reason, parked_at, event) SELECT 'u', 1, i, 's', 't', 'r', now(), "
                     "convert_to(repeat('x', 30000000), 'UTF8') FROM generate_series(1, 4) AS i");
    ldg_arena_init(&arena, 0);
    tst_ok(SINK->state->parked_list(&k.s, 0, 100, &arena, &rows, &count, &err), &err);
    assert_int_equal(count, 2);
    assert_int_equal(rows[1].event.size, 30000000);
    tst_ok(SINK->state->parked_list(&k.s, rows[1].id, 100, &arena, &rows, &count, &err), &err);
    assert_int_equal(count, 2);
    ldg_arena_fini(&arena);
}

/* A retry waits for the batch that a bridge is committing. */
static void test_retry_waits_for_bridges(void **state)
{
    ledger_error err = { 0 };
    bool applied = true;

    assert_true(park(sink_append(&k, "s", 1, "1", ""), "r"));
    tst_pg_sql(k.db, "BEGIN; SELECT FROM t_cursors FOR UPDATE");
    tst_fails(SINK->state->parked_retry(&k.s, 1, NULL, 0, &applied, &err), LEDGER_ERR_BUSY, &err);
    tst_pg_sql(k.db, "ROLLBACK");
    tst_ok(SINK->state->parked_retry(&k.s, 1, NULL, 0, &applied, &err), &err);
    assert_true(applied);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_pieces),
        TEST(test_large_events),
        TEST(test_retry_waits_for_bridges),
        TEST(test_rows),
        TEST(test_cut_append),
        TEST(test_retry_in_order),
        TEST(test_retry_of_a_row_that_is_gone),
        TEST(test_trim_after_a_retry),
        TEST(test_retry_without_ops),
        TEST(test_retry_does_not_reuse_a_position),
        TEST(test_retry_behind_an_unknown_one),
        TEST(test_two_logs),
        TEST(test_drop_and_note),
        TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
