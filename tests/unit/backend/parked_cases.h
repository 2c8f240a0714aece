/* Parked events where both SQL backends keep them alike. Payload "bad" is refused. What a sink owes
 * its callers is in tests/conformance. */
#ifndef TESTS_UNIT_BACKEND_PARKED_CASES_H
#define TESTS_UNIT_BACKEND_PARKED_CASES_H

#include "alloc_fail.h"
#include "sink_ops.h"

static struct sink k; /* large */

static size_t list(struct ldg_arena *arena, struct ldg_parked_row **rows)
{
    ledger_error err = { 0 };
    size_t count;

    ldg_arena_reset(arena);
    tst_ok(SINK->state->parked_list(&k.s, 0, 100, arena, rows, &count, &err), &err);
    return count;
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

    tst_ok(SINK->state->parked_retry(&k.s, id, op, op != NULL, &applied, &err), &err);
    return applied;
}

/* For those who look at the table. */
static void test_attempts_have_times(void **state)
{
    ledger_error err = { 0 };
    int64_t ids[3];

    park_three(ids);
    assert_int_equal(sink_int(&k, "SELECT count(attempted_at) FROM t_parked"), 0);
    assert_false(retry(ids[0], &k.ops[0]));
    assert_false(retry(ids[1], &k.ops[1]));
    assert_int_equal(sink_int(&k, "SELECT count(attempted_at) FROM t_parked"), 2);
    tst_ok(SINK->state->parked_note(&k.s, ids[2], "r", &err), &err);
    assert_int_equal(sink_int(&k, "SELECT count(attempted_at) FROM t_parked"), 3);
}

static ledger_rc oom_list(void *ctx)
{
    struct ldg_parked_row *rows;
    ledger_error err = { 0 };
    struct ldg_arena arena;
    size_t count;
    ledger_rc rc;

    ldg_arena_init(&arena, 0);
    rc = SINK->state->parked_list(&k.s, 0, 100, &arena, &rows, &count, &err);
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

#endif
