/* Parked events, as every backend of a sink has them. Payload "bad" is refused. */
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

static void test_retry_without_ops(void **state)
{
    int64_t ids[3];

    park_three(ids);
    assert_true(retry(ids[0], NULL));
    assert_int_equal(sink_int(&k, "SELECT count(*) FROM t_parked"), 2);
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

static void test_drop_and_note(void **state)
{
    ledger_error err = { 0 };
    uint64_t dropped;
    int64_t ids[3];

    park_three(ids);
    tst_ok(SINK->state->parked_note(&k.s, ids[1], "still \"odd\"", &err), &err);
    sink_is(&k, "SELECT attempts || reason FROM t_parked WHERE log_position = 2", "2still \"odd\"");
    tst_ok(SINK->state->parked_drop(&k.s, ids[1], &dropped, &err), &err);
    assert_int_equal(dropped, 1);
    tst_fails(SINK->state->parked_drop(&k.s, ids[1], &dropped, &err), LEDGER_ERR_NOT_FOUND, &err);
    tst_ok(SINK->state->parked_drop(&k.s, 0, &dropped, &err), &err);
    assert_int_equal(dropped, 2);
    tst_ok(SINK->state->parked_drop(&k.s, 0, &dropped, &err), &err);
    assert_int_equal(dropped, 0);
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
