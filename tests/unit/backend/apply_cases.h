/* The fenced batch where both SQL backends keep it alike: cases that look at rows and columns. What
 * a sink owes its callers is in tests/conformance. */
#ifndef TESTS_UNIT_BACKEND_APPLY_CASES_H
#define TESTS_UNIT_BACKEND_APPLY_CASES_H

#include "sink_ops.h"
#include "workload.h"

static struct sink k; /* large */

/* What the including test gives, in its own SQL: payload "bad" is refused from now on. */
static void refuse_bad(void);

/* While a stream's ids rise with those of its origin a trim ends at its last entry; what comes late
 * ends that, in any way it can come. */
static void check_ordered(bool ordered)
{
    assert_int_equal(
        sink_int(&k, "SELECT count(*) FROM t_origins WHERE ordered AND id = %d", k.origin),
        ordered);
}

/* The entries of the stream: so many, from this position at the source on. */
static void check_left(const char *stream, int64_t count, int64_t lowest)
{
    assert_int_equal(sink_int(&k, "SELECT count(*) FROM t WHERE stream = '%s'", stream), count);
    assert_int_equal(sink_int(&k, "SELECT min(source_pos) FROM t WHERE stream = '%s'", stream),
                     lowest);
}

/* A cursor that says no time has moved now. */
static void test_cursor_has_a_time(void **state)
{
    sink_append(&k, "s", 1, "{}", "");
    sink_apply(&k);
    assert_int_equal(sink_int(&k, "SELECT count(*) FROM t_cursors WHERE moved_at > '2020-01-01'"),
                     1);
}

/* A version before this one kept one position for both kinds: neither takes an older change. */
static void test_one_position_of_an_older_version(void **state)
{
    sink_append(&k, "s", 1, "{}", "");
    sink_apply(&k);
    sink_exec(&k, "UPDATE t SET mutation_pos = 50");
    for (int round = 0; round < 2; round++) {
        sink_begin(&k);
        sink_tags(&k, "s", 1, "old")->position = 50;
        sink_annotate(&k, "s", 1, "a", "old")->position = 49;
        sink_apply(&k);
        assert_int_equal(k.outcomes[0], LDG_OUTCOME_REPLAYED);
        assert_int_equal(k.outcomes[1], LDG_OUTCOME_REPLAYED);
        sink_begin(&k);
        sink_tags(&k, "s", 1, "new")->position = 51 + round;
        sink_apply(&k);
        assert_int_equal(k.outcomes[0], LDG_OUTCOME_APPLIED);
    }
    sink_begin(&k);
    sink_annotate(&k, "s", 1, "a", "new")->position = 51;
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_APPLIED);
    assert_int_equal(sink_int(&k, "SELECT tags_pos FROM t"), 52);
    assert_int_equal(sink_int(&k, "SELECT annotations_pos FROM t"), 51);
    assert_int_equal(sink_int(&k, "SELECT mutation_pos FROM t"), 50);
    assert_int_equal(sink_int(&k, "SELECT count(*) FROM t WHERE CAST(tags AS TEXT) LIKE "
                                  "'%%new%%' AND CAST(annotations AS TEXT) LIKE '%%new%%'"),
                     1);
}

/* Ids of a stream follow its log, however many streams there are, and however many rows go in at
 * once. */
static void test_ids_follow_the_log(void **state)
{
    static const unsigned stream_counts[] = { 1, 10, 1000 };
    uint64_t random = 3;
    int64_t pos = 0;

    for (size_t i = 0; i < 3; i++) {
        sink_begin(&k);
        for (int n = 0; n < 1000; n++) {
            char stream[24];
            snprintf(stream, sizeof(stream), "s%u",
                     (unsigned)tst_random_below(&random, stream_counts[i]));
            sink_append(&k, stream, ++pos, "{}", "");
        }
        sink_apply(&k);
    }
    assert_int_equal(sink_int(&k, "SELECT count(*) FROM t"), 3000);
    assert_int_equal(sink_int(&k, "SELECT count(*) FROM t AS a JOIN t AS b ON a.stream = b.stream "
                                  "AND a.id < b.id AND a.source_pos > b.source_pos"),
                     0);
    /* What the store writes itself goes on behind. */
    const ledger_append_input input = { .payload = { "{}", 2 } };
    ledger_ids ids = { 0 };
    ledger_error err = { 0 };
    tst_ok(SINK->store->append(&k.s, "own", &input, 1, &ids, &err), &err);
    assert_true(ids.items[0].number > sink_int(&k, "SELECT max(id) FROM t WHERE origin > 0"));
    ledger_ids_destroy(&ids);
}

/* Somebody else's transaction keeps what it had when a batch inside it is undone. */
static void test_inside_a_transaction(void **state)
{
    ledger_error err = { 0 };
    uint8_t outcomes[4];

    refuse_bad();
    tst_ok(SINK->store->tx_begin(&k.s, &err), &err);
    sink_append(&k, "s", 1, "{}", "");
    const struct ldg_apply good = { .ops = k.ops, .count = 1 };
    tst_ok(SINK->sink->apply(&k.s, &good, outcomes, &err), &err);
    sink_append(&k, "s", 2, "{}", "");
    sink_append(&k, "s", 3, "\"bad\"", "");
    const struct ldg_apply bad = { .ops = k.ops + 1, .count = 2 };
    tst_fails(SINK->sink->apply(&k.s, &bad, outcomes, &err), LEDGER_ERR_REJECTED, &err);
    tst_ok(SINK->store->tx_commit(&k.s, &err), &err);
    assert_int_equal(sink_int(&k, "SELECT count(*) FROM t"), 1);
    assert_int_equal(sink_int(&k, "SELECT source_pos FROM t"), 1);
}

static void test_trim_after_late_entries(void **state)
{
    static const char *const keys[] = { "", "same" }; /* in bulk; op by op */
    int64_t base = 0;

    for (int i = 0; i < 4; i++, base += 100) {
        const bool apart = i >= 2; /* the trim in a batch of its own */

        sink_exec(&k, "UPDATE t_origins SET ordered = true; DELETE FROM t");
        sink_begin(&k);
        sink_append(&k, "s", base + 1, "{}", "");
        sink_append(&k, "s", base + 5, "{}", "");
        sink_append(&k, "x", base + 8, "{}", keys[i % 2]);
        sink_append(&k, "x", base + 9, "{}", keys[i % 2]);
        sink_append(&k, "other", base + 4, "{}", ""); /* late, but the first of its stream */
        sink_apply(&k);
        check_ordered(true);
        sink_begin(&k);
        sink_append(&k, "x", base + 11, "{}", keys[i % 2]);
        sink_append(&k, "s", base + 3, "{}", "");
        sink_append(&k, "s", base + 2, "{}", "");
        if (apart) {
            sink_apply(&k);
            check_ordered(false);
            sink_begin(&k);
        }
        sink_trim(&k, "s", base + 2);
        sink_apply(&k);
        check_ordered(false);
        check_left("s", 2, base + 3);
        sink_begin(&k);
        sink_trim(&k, "s", base + 3);
        sink_apply(&k);
        check_left("s", 1, base + 5);
    }
    /* Late within what is still pending. */
    sink_exec(&k, "UPDATE t_origins SET ordered = true; DELETE FROM t");
    sink_begin(&k);
    sink_append(&k, "s", 5, "{}", "");
    sink_append(&k, "s", 4, "{}", "");
    sink_append(&k, "s", 6, "{}", "");
    sink_apply(&k);
    check_ordered(false);
    sink_begin(&k);
    sink_trim(&k, "s", 4);
    sink_apply(&k);
    check_left("s", 2, 5);
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
