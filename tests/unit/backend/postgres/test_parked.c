/* Parked events of the PostgreSQL backend: what is its own in keeping them. */
#include "sink.h"

#include "../parked_cases.h"
#include "alloc_fail.h"

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

/* A batch that waits for the retry has drawn its ids before: what is tried again comes behind it.
 */
static void test_trim_after_a_retry(void **state)
{
    int64_t ids[3];

    park_three(ids);
    tst_pg_sql(k.db, "ALTER TABLE t DROP CONSTRAINT refuse");
    assert_true(retry(ids[0], &k.ops[0]));
    tst_pg_sql(k.db, "INSERT INTO t(id, stream, payload, origin, source_pos) "
                     "SELECT id - 1, 's', '{}', origin, 2 FROM t");
    sink_begin(&k);
    sink_trim(&k, "s", 1);
    sink_apply(&k);
    sink_is(&k, "SELECT string_agg(source_pos::text, ',') FROM t", "2");
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
        TEST(test_pieces),        TEST(test_large_events),       TEST(test_retry_waits_for_bridges),
        TEST(test_cut_append),    TEST(test_trim_after_a_retry), TEST(test_attempts_have_times),
        TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
