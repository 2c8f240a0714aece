/* The fenced batch, as every backend of a sink has it. */
#ifndef TESTS_UNIT_BACKEND_APPLY_CASES_H
#define TESTS_UNIT_BACKEND_APPLY_CASES_H

#include <stdlib.h>

#include "sink_ops.h"

static struct sink k; /* large */

/* What the including test gives, in its own SQL: payload "bad" is refused from now on; what
 * t_origins says. */
static void refuse_bad(void);
static void check_ordered(bool ordered);

static void test_fenced(void **state)
{
    ledger_error err;

    sink_exec(&k, "UPDATE t_cursors SET state = 'other'");
    sink_append(&k, "s", 1, "{}", "");
    tst_fails(sink_try(&k, &err), LEDGER_ERR_FENCED, &err);
    sink_exec(&k, "UPDATE t_cursors SET state = '', cursor = 'other'");
    tst_fails(sink_try(&k, &err), LEDGER_ERR_FENCED, &err);
    assert_non_null(strstr(err.message, "other"));
    sink_exec(&k, "DELETE FROM t_cursors");
    tst_fails(sink_try(&k, &err), LEDGER_ERR_FENCED, &err);
    assert_int_equal(sink_int(&k, "SELECT count(*) FROM t"), 0);
    assert_int_equal(k.outcomes[0], 0xee);
}

static void test_no_cursor_name(void **state)
{
    ledger_error err = { 0 };
    uint8_t outcome;

    sink_append(&k, "s", 1, "{}", "");
    const struct ldg_apply apply = { .ops = k.ops, .count = 1 };
    tst_ok(SINK->sink->apply(&k.s, &apply, &outcome, &err), &err);
    assert_int_equal(outcome, LDG_OUTCOME_APPLIED);
    sink_is(&k, "SELECT state FROM t_cursors", "");
    const struct ldg_apply check = { .name = "default", .expected = &k.cursor };
    tst_ok(SINK->sink->apply(&k.s, &check, &outcome, &err), &err); /* a fence alone */
    sink_is(&k, "SELECT state FROM t_cursors", "");
}

static void test_w6_replay_changes_nothing(void **state)
{
    ledger_error err;

    sink_append(&k, "s", 1, "{\"a\":1}", "k");
    sink_append(&k, "s", 2, "{}", "");
    sink_tags(&k, "s", 1, "x");
    sink_annotate(&k, "s", 2, "n", "v");
    sink_apply(&k);
    char *before = strdup(sink_text(&k, SINK_ALL));
    sink_exec(&k, "UPDATE t_cursors SET state = '', cursor = ''"); /* set back by hand */
    tst_ok(SINK->state->cursor_get(&k.s, "default", false, &k.cursor, &err), &err);
    sink_apply(&k);
    for (size_t i = 0; i < k.count; i++)
        assert_int_equal(k.outcomes[i], LDG_OUTCOME_REPLAYED);
    sink_is(&k, SINK_ALL, before);
    free(before);
}

static void test_t2_position_reused(void **state)
{
    static const char *const fields[] = { "stream",    "payload",  "order_key",
                                          "dedup_key", "metadata", "created_at" };
    ledger_error err;

    const int64_t time_us = sink_append(&k, "s", 1, "{}", "k")->time_us;
    sink_apply(&k);
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        sink_begin(&k);
        sink_append(&k, "other", 9, "{}", ""); /* goes with the batch */
        struct ldg_op *op =
            sink_append(&k, i == 0 ? "S" : "s", 1, i == 1 ? "{ }" : "{}", i == 3 ? "K" : "k");
        ledger_append_entry entry = *op->entry;
        const ledger_pair pair = { "a", "b" };
        if (i == 2)
            entry.order_key = "other";
        if (i == 4)
            entry.metadata = (ledger_map){ &pair, 1 };
        op->entry = &entry;
        op->time_us = i == 5 ? time_us + 1000 : time_us;
        tst_fails(sink_try(&k, &err), LEDGER_ERR_POSITION_REUSED, &err);
        assert_non_null(strstr(err.message, op->stream));
        assert_non_null(strstr(err.message, fields[i]));
        assert_int_equal(sink_int(&k, "SELECT count(*) FROM t"), 1);
    }
}

static void test_deduplicated(void **state)
{
    sink_append(&k, "s", 1, "{}", "k");
    sink_append(&k, "s", 2, "{}", "k");
    sink_append(&k, "other", 3, "{}", "k");
    sink_append(&k, "s", 4, "{}", "");
    sink_append(&k, "s", 5, "{}", "");
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_DEDUPLICATED);
    assert_int_equal(k.outcomes[2], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[4], LDG_OUTCOME_APPLIED);
    assert_int_equal(sink_int(&k, "SELECT count(*) FROM t"), 4);
}

static void t6_batch(void)
{
    sink_append(&k, "s", 101, "{}", "K");
    sink_trim(&k, "s", 101);
    sink_append(&k, "s", 102, "{}", "K");
    sink_apply(&k);
    assert_int_equal(sink_int(&k, "SELECT count(*) FROM t WHERE stream = 's'"), 1);
    assert_int_equal(sink_int(&k, "SELECT source_pos FROM t WHERE stream = 's'"), 102);
}

static void test_t6_append_trim_append(void **state)
{
    t6_batch();
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[2], LDG_OUTCOME_APPLIED);
}

static void test_t6_append_trim_append_fallback(void **state)
{
    sink_append(&k, "x", 1, "{}", "same");
    sink_append(&k, "x", 2, "{}", "same"); /* sends the batch to the other path */
    t6_batch();
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_DEDUPLICATED);
}

static void test_w19_refused_stops(void **state)
{
    ledger_error err;

    refuse_bad();
    k.stop = true;
    sink_append(&k, "s", 1, "{}", "");
    sink_append(&k, "s", 2, "\"bad\"", "");
    tst_fails(sink_try(&k, &err), LEDGER_ERR_REJECTED, &err);
    assert_int_equal(err.done_count, 1);
    assert_non_null(strstr(err.message, "no bad ones"));
    assert_int_equal(sink_int(&k, "SELECT count(*) FROM t"), 0);
    sink_is(&k, "SELECT state FROM t_cursors", "");
}

/* A batch that is rolled back takes what it knew with it. */
static void test_order_is_rolled_back(void **state)
{
    ledger_error err;

    sink_append(&k, "s", 5, "{}", "");
    sink_apply(&k);
    refuse_bad();
    k.stop = true;
    sink_begin(&k);
    sink_append(&k, "s", 4, "{}", "");
    sink_append(&k, "s", 6, "\"bad\"", "");
    tst_fails(sink_try(&k, &err), LEDGER_ERR_REJECTED, &err);
    check_ordered(true);
    k.stop = false;
    sink_apply(&k);
    check_ordered(false);
}

static ledger_rc oom_run(void *ctx)
{
    uint8_t outcomes[16];
    ledger_error err = { 0 };
    const struct ldg_apply apply = { .ops = k.ops, .count = k.count, .park_rejected = true };

    return SINK->sink->apply(&k.s, &apply, outcomes, &err);
}

#endif
