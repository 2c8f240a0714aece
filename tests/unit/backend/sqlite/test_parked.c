/* Parked events of the SQLite backend: kept, waited for, tried again, dropped. */
#include "sink.h"

#include "../parked_cases.h"
#include "alloc_fail.h"

static int setup(void **state)
{
    int rc = tst_setup(state);

    if (rc == 0) {
        sink_open(&k, tst_path(*state, "sink.db"), LEDGER_MUTATION_LOG_OFF);
        tst_exec(k.db, "CREATE TRIGGER refuse BEFORE INSERT ON t WHEN CAST(NEW.payload AS TEXT) = "
                       "'\"bad\"' BEGIN SELECT RAISE(ABORT, 'no bad ones'); END");
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
    assert_string_equal(rows[0].reason, "no bad ones");
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
    sink_is(&k, "SELECT group_concat(attempts || reason, ';') FROM t_parked",
            "2no bad ones;2behind parked event 1;1behind parked event 1");
    assert_int_equal(tst_query_int(k.db, "SELECT count(attempted_at) FROM t_parked"), 2);
    tst_exec(k.db, "DROP TRIGGER refuse");
    assert_false(retry(ids[2], &k.ops[2]));
    for (size_t i = 0; i < 3; i++)
        assert_true(retry(ids[i], &k.ops[i]));
    sink_is(&k, "SELECT tags || annotations FROM t", "[\"x\"]{\"a\":\"b\"}");
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t_parked"), 0);
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
    tst_exec(k.db, "DROP TRIGGER refuse; DELETE FROM t_parked");
    tst_fails(SINK->state->parked_retry(&k.s, ids[0], &k.ops[0], 1, &applied, &err),
              LEDGER_ERR_NOT_FOUND, &err);
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t"), 0);
    tst_fails(SINK->state->parked_note(&k.s, ids[0], "r", &err), LEDGER_ERR_NOT_FOUND, &err);
    tst_fails(SINK->state->parked_retry(&k.s, ids[0], NULL, 0, &applied, &err),
              LEDGER_ERR_NOT_FOUND, &err);
}

static void test_retry_does_not_reuse_a_position(void **state)
{
    int64_t ids[3];

    park_three(ids);
    tst_exec(k.db, "DROP TRIGGER refuse");
    tst_exec(k.db, "INSERT INTO t(stream, payload, origin, source_pos) VALUES ('s', '7', %d, 1)",
             k.origin);
    assert_false(retry(ids[0], &k.ops[0]));
    assert_non_null(strstr(sink_text(&k, "SELECT reason FROM t_parked"), "twice"));
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
    tst_exec(k.db, "DROP TRIGGER refuse");
    ldg_arena_init(&arena, 0);
    assert_int_equal(list(&arena, &rows), 2);
    assert_false(retry(rows[1].id, &k.ops[1]));
    assert_true(retry(rows[0].id, &k.ops[0]));
    assert_true(retry(rows[1].id, &k.ops[1]));
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t"), 1);
    ldg_arena_fini(&arena);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_rows),
        TEST(test_cut_append),
        TEST(test_retry_in_order),
        TEST(test_retry_of_a_row_that_is_gone),
        TEST(test_retry_without_ops),
        TEST(test_retry_does_not_reuse_a_position),
        TEST(test_retry_behind_an_unknown_one),
        TEST(test_two_logs),
        TEST(test_drop_and_note),
        TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
