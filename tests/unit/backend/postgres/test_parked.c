/* Parked events of the PostgreSQL backend: kept, waited for, tried again, dropped. */
#include "sink.h"

#include "alloc_fail.h"

#define UNREFUSE "ALTER TABLE t DROP CONSTRAINT refuse"

static struct sink k;

static int setup(void **state)
{
    tst_pg_require();
    int rc = tst_setup(state);

    if (rc == 0) {
        sink_open(&k, tst_url(*state, TST_POSTGRES, "a"), LEDGER_LOG_OFF);
        tst_pg_sql(k.db, "ALTER TABLE t ADD CONSTRAINT refuse CHECK (payload <> '\"bad\"')");
    }
    return rc;
}

static int teardown(void **state)
{
    sink_close(&k);
    return tst_teardown(state);
}

static size_t list(struct ldg_arena *arena, struct ldg_parked_row **rows)
{
    ledger_error err = { 0 };
    size_t count;

    ldg_arena_reset(arena);
    tst_ok(SINK->parked_list(&k.s, 0, 100, arena, rows, &count, &err), &err);
    return count;
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
    assert_int_equal(rows[0].source_pos, 5);
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

    tst_ok(SINK->parked_list(&k.s, rows[0].id, 100, &arena, &rows, &listed, &err), &err);
    assert_int_equal(listed, 1);
    tst_ok(SINK->parked_list(&k.s, 0, 1, &arena, &rows, &listed, &err), &err);
    assert_int_equal(listed, 1);
    tst_ok(SINK->parked_count(&k.s, NULL, &count, &err), &err);
    assert_int_equal(count, 2);
    tst_ok(SINK->parked_count(&k.s, OTHER_UUID, &count, &err), &err);
    assert_int_equal(count, 1);
    ldg_arena_fini(&arena);
}

/* Of an append of several entries only the refused one is kept, and exactly that. */
static void test_cut_append(void **state)
{
    static const char text[] =
        "{\"type\":\"append\",\"stream\":\"s\",\"entries\":["
        "{\"id\":\"1\",\"payload\":1,\"schema_version\":1},"
        "{\"id\":\"2\",\"payload\":\"bad\",\"dedup_key\":\"k\",\"schema_version\":3,"
        "\"metadata\":{\"a\":\"b\"},\"tags\":[\"t\"]},"
        "{\"id\":\"3\",\"payload\":3,\"schema_version\":1}],\"origin\":\"x:1\",\"origin_pos\":9}";
    ledger_mutation_event event;
    struct ldg_parked_row *rows;
    ledger_error err = { 0 };
    struct ldg_arena arena, rows_arena;

    ldg_arena_init(&arena, 0);
    ldg_arena_init(&rows_arena, 0);
    tst_ok(ldg_event_decode((ledger_bytes){ text, sizeof(text) - 1 }, &arena, &event, &err), &err);
    for (size_t i = 0; i < 3; i++) {
        struct ldg_op *op = sink_append(&k, "s", (int64_t)i + 1, "1", "");
        op->entry = &event.entries[i];
        op->event = (ledger_bytes){ text, sizeof(text) - 1 };
        op->log_position = 1;
        op->event_index = 0;
    }
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_PARKED);
    assert_int_equal(k.outcomes[2], LDG_OUTCOME_APPLIED);
    assert_int_equal(list(&rows_arena, &rows), 1);
    tst_ok(ldg_event_decode(rows[0].event, &arena, &event, &err), &err);
    assert_int_equal(event.entry_count, 1);
    assert_string_equal(event.entries[0].id, "2");
    assert_int_equal(event.entries[0].payload.size, 5);
    assert_memory_equal(event.entries[0].payload.data, "\"bad\"", 5);
    assert_string_equal(event.entries[0].dedup_key, "k");
    assert_int_equal(event.entries[0].schema_version, 3);
    assert_int_equal(event.entries[0].metadata.count, 1);
    assert_int_equal(event.entries[0].tags.count, 1);
    assert_string_equal(event.origin, "x:1");
    assert_int_equal(event.origin_pos, 9);
    ldg_arena_fini(&arena);
    ldg_arena_fini(&rows_arena);
}

/* Append, tags, annotations of one entry: refused, then waiting. ids[i]: their rows. */
static void park_three(int64_t ids[3])
{
    struct ldg_parked_row *rows;
    struct ldg_arena arena;

    sink_append(&k, "s", 1, "\"bad\"", "");
    sink_tags(&k, "s", 1, "x");
    sink_annotate(&k, "s", 1, "a", "b");
    sink_apply(&k);
    ldg_arena_init(&arena, 0);
    assert_int_equal(list(&arena, &rows), 3);
    for (size_t i = 0; i < 3; i++)
        ids[i] = rows[i].id;
    ldg_arena_fini(&arena);
}

static bool retry(int64_t id, const struct ldg_op *op)
{
    ledger_error err = { 0 };
    bool applied = false;

    tst_ok(SINK->parked_retry(&k.s, id, op, op != NULL, &applied, &err), &err);
    return applied;
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
    tst_fails(SINK->parked_retry(&k.s, ids[0], &k.ops[0], 1, &applied, &err), LEDGER_ERR_NOT_FOUND,
              &err);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t"), 0);
    tst_fails(SINK->parked_note(&k.s, ids[0], "r", &err), LEDGER_ERR_NOT_FOUND, &err);
    tst_fails(SINK->parked_retry(&k.s, ids[0], NULL, 0, &applied, &err), LEDGER_ERR_NOT_FOUND,
              &err);
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

static void test_retry_without_ops(void **state)
{
    int64_t ids[3];

    park_three(ids);
    assert_true(retry(ids[0], NULL));
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t_parked"), 2);
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

static void test_retry_behind_an_unknown_one(void **state)
{
    struct ldg_parked_row *rows;
    struct ldg_arena arena;

    sink_op(&k, LDG_OP_PARK, "", 0)->reason = "unreadable";
    sink_tags(&k, "s", 3, "x");
    sink_apply(&k);
    ldg_arena_init(&arena, 0);
    assert_int_equal(list(&arena, &rows), 2);
    assert_false(retry(rows[1].id, &k.ops[1]));
    assert_true(retry(rows[0].id, NULL));
    assert_true(retry(rows[1].id, &k.ops[1])); /* its entry is just not here */
    assert_int_equal(list(&arena, &rows), 0);
    ldg_arena_fini(&arena);
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

static void test_drop_and_note(void **state)
{
    ledger_error err = { 0 };
    uint64_t dropped;
    int64_t ids[3];

    park_three(ids);
    tst_ok(SINK->parked_note(&k.s, ids[1], "still \"odd\"", &err), &err);
    sink_is(&k, "SELECT attempts || reason FROM t_parked WHERE log_position = 2", "2still \"odd\"");
    tst_ok(SINK->parked_drop(&k.s, ids[1], &dropped, &err), &err);
    assert_int_equal(dropped, 1);
    tst_fails(SINK->parked_drop(&k.s, ids[1], &dropped, &err), LEDGER_ERR_NOT_FOUND, &err);
    tst_ok(SINK->parked_drop(&k.s, 0, &dropped, &err), &err);
    assert_int_equal(dropped, 2);
    tst_ok(SINK->parked_drop(&k.s, 0, &dropped, &err), &err);
    assert_int_equal(dropped, 0);
}

/* The pieces without a batch around them. */
static void test_pieces(void **state)
{
    const int64_t kept[] = { 4 };
    struct ldg_parked_row *rows;
    ledger_error err = { 0 };
    struct ldg_arena arena;
    int64_t position = -1;
    bool own = false, any = false;

    ldg_arena_init(&arena, 0);
    tst_ok(ldg_pg_write_begin(&k.s, NULL, &own, &err), &err);
    for (int64_t i = 1; i <= 5; i++)
        tst_ok(ldg_pg_park(&k.s, sink_append(&k, "s", i, "1", ""), "r", &err), &err);
    tst_ok(ldg_pg_park(&k.s, sink_append(&k, "u", 2, "1", ""), "r", &err), &err);
    /* A message that was cut inside of a character. */
    tst_ok(ldg_pg_park(&k.s, &k.ops[0], "a\xc3\xa4\xff \xe2\x82", &err), &err);
    struct ldg_op *op = sink_tags(&k, "s", 3, "x");
    tst_ok(ldg_pg_parked_before(&k.s, op, false, INT64_MAX, &position, &err), &err);
    assert_int_equal(position, 3);
    op->source_pos = 9;
    tst_ok(ldg_pg_parked_before(&k.s, op, false, INT64_MAX, &position, &err), &err);
    assert_int_equal(position, 0);
    tst_ok(ldg_pg_parked_before(&k.s, op, true, INT64_MAX, &position, &err), &err);
    assert_int_equal(position, 0);
    tst_ok(ldg_pg_parked_done(&k.s, &k.ops[4], &err), &err);
    op = sink_trim(&k, "s", 4);
    op->kept = kept;
    op->kept_count = 1;
    tst_ok(ldg_pg_parked_trim(&k.s, op, &any, &err), &err);
    assert_true(any);
    tst_ok(ldg_pg_parked_trim(&k.s, op, &any, &err), &err);
    assert_false(any);
    tst_ok(ldg_pg_write_end(&k.s, own, LEDGER_OK, &err), &err);
    assert_int_equal(list(&arena, &rows), 2);
    assert_int_equal(rows[0].source_pos, 4);
    assert_string_equal(rows[1].stream, "u");

    op = &k.ops[0];
    tst_ok(ldg_pg_park(&k.s, op, "a\xc3\xa4\xff \xe2\x82", &err), &err);
    assert_int_equal(list(&arena, &rows), 3);
    assert_string_equal(rows[2].reason, "a\xc3\xa4? ??");
    assert_int_equal(rows[2].attempts, 1);
    tst_ok(ldg_pg_park(&k.s, op, "r2", &err), &err);
    assert_int_equal(list(&arena, &rows), 3);
    assert_string_equal(rows[2].reason, "r2");
    assert_int_equal(rows[2].attempts, 2);
    tst_ok(ldg_pg_parked_note(&k.s, rows[2].id, "\xff", &err), &err);
    assert_int_equal(list(&arena, &rows), 3);
    assert_string_equal(rows[2].reason, "?");
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
    tst_ok(SINK->parked_list(&k.s, 0, 100, &arena, &rows, &count, &err), &err);
    assert_int_equal(count, 2);
    assert_int_equal(rows[1].event.size, 30000000);
    tst_ok(SINK->parked_list(&k.s, rows[1].id, 100, &arena, &rows, &count, &err), &err);
    assert_int_equal(count, 2);
    ldg_arena_fini(&arena);
}

/* A retry waits for the batch that a bridge is committing. */
static void test_retry_waits_for_bridges(void **state)
{
    ledger_error err = { 0 };
    bool applied = true;

    tst_ok(ldg_pg_park(&k.s, sink_append(&k, "s", 1, "1", ""), "r", &err), &err);
    tst_pg_sql(k.db, "BEGIN; SELECT FROM t_cursors FOR UPDATE");
    tst_fails(SINK->parked_retry(&k.s, 1, NULL, 0, &applied, &err), LEDGER_ERR_BUSY, &err);
    tst_pg_sql(k.db, "ROLLBACK");
    tst_ok(SINK->parked_retry(&k.s, 1, NULL, 0, &applied, &err), &err);
    assert_true(applied);
}

static ledger_rc oom_list(void *ctx)
{
    struct ldg_parked_row *rows;
    ledger_error err = { 0 };
    struct ldg_arena arena;
    size_t count;
    ledger_rc rc;

    ldg_arena_init(&arena, 0);
    rc = SINK->parked_list(&k.s, 0, 100, &arena, &rows, &count, &err);
    ldg_arena_fini(&arena);
    return rc;
}

static void test_out_of_memory(void **state)
{
    for (int i = 0; i < 40; i++)
        sink_append(&k, "s", i + 1, "\"bad\"", "");
    sink_apply(&k);
    alloc_fail_each(oom_list, NULL);
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
