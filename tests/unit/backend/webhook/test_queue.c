/* Streams and their turns, and where requests end besides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "ops.h"

static void streams_take_turns(void **state)
{
    static const char *const streams[] = { "a", "b", "a", "c", "b", "a" };
    struct test_ops all = { 0 };
    struct ldg_webhook_queue queue;
    struct ldg_arena arena;
    ledger_error err;
    ldg_arena_init(&arena, 0);
    for (size_t i = 0; i < 6; i++)
        test_op(&all, LDG_OP_APPEND, streams[i]);
    assert_int_equal(ldg_webhook_queue_init(&queue, all.ops, 6, &arena, &err), LEDGER_OK);
    assert_int_equal(queue.lane_count, 3);
    struct ldg_webhook_lane *a = ldg_webhook_queue_take(&queue);
    struct ldg_webhook_lane *b = ldg_webhook_queue_take(&queue);
    struct ldg_webhook_lane *c = ldg_webhook_queue_take(&queue);
    assert_null(ldg_webhook_queue_take(&queue)); /* each once, until it is put back */
    assert_int_equal(a->head, 0);
    assert_int_equal(queue.next[0], 2);
    assert_int_equal(queue.next[2], 5);
    assert_int_equal(queue.next[5], LDG_WEBHOOK_NO_OP);
    assert_int_equal(b->head, 1);
    assert_int_equal(queue.next[1], 4);
    assert_int_equal(c->head, 3);
    ldg_webhook_queue_put(&queue, c, LDG_WEBHOOK_NO_OP);
    ldg_webhook_queue_put(&queue, a, 2);
    ldg_webhook_queue_put(&queue, b, 4);
    assert_ptr_equal(ldg_webhook_queue_take(&queue), a);
    assert_int_equal(a->head, 2);
    assert_ptr_equal(ldg_webhook_queue_take(&queue), b);
    assert_null(ldg_webhook_queue_take(&queue));
    ldg_arena_fini(&arena);
}

static void many_streams(void **state)
{
    enum { COUNT = 5000 };
    struct ldg_op *ops = calloc(COUNT, sizeof(*ops));
    char(*names)[16] = calloc(COUNT, sizeof(*names));
    bool *seen = calloc(COUNT, sizeof(*seen));
    struct ldg_webhook_queue queue;
    struct ldg_webhook_lane *lane;
    struct ldg_arena arena;
    ledger_error err;
    size_t lanes = 0, ops_seen = 0;
    ldg_arena_init(&arena, 0);
    for (size_t i = 0; i < COUNT; i++) {
        (void)snprintf(names[i], sizeof(names[i]), "stream-%zu", i % 1777);
        ops[i] = (struct ldg_op){ .stream = names[i], .log_position = (int64_t)i };
    }
    assert_int_equal(ldg_webhook_queue_init(&queue, ops, COUNT, &arena, &err), LEDGER_OK);
    while ((lane = ldg_webhook_queue_take(&queue)) != NULL) {
        lanes++;
        int64_t last = -1;
        for (uint32_t at = lane->head; at != LDG_WEBHOOK_NO_OP; at = queue.next[at]) {
            assert_string_equal(ops[at].stream, ops[lane->head].stream);
            assert_true(ops[at].log_position > last);
            assert_false(seen[at]);
            last = ops[at].log_position;
            seen[at] = true;
            ops_seen++;
        }
    }
    assert_int_equal(lanes, 1777);
    assert_int_equal(ops_seen, COUNT);
    ldg_arena_fini(&arena);
    free(seen);
    free(names);
    free(ops);
}

static void cuts(void **state)
{
    struct ldg_webhook_cuts cuts = { 0 };
    ledger_error err;
    assert_false(ldg_webhook_cuts_has(&cuts, &(struct ldg_op){ .log_position = 1 }));
    for (int i = 0; i < 2; i++) /* twice is as once */
        for (int64_t position = 100; position > 0; position -= 2)
            for (uint32_t part = 0; part < 6; part += 2) {
                const struct ldg_op op = { .log_position = position, .part = part };
                assert_int_equal(ldg_webhook_cuts_add(&cuts, &op, &err), LEDGER_OK);
            }
    assert_int_equal(cuts.count, 150);
    for (int64_t position = 0; position <= 101; position++)
        for (uint32_t part = 0; part < 7; part++) {
            const struct ldg_op op = { .log_position = position, .part = part };
            assert_int_equal(ldg_webhook_cuts_has(&cuts, &op),
                             position > 0 && position % 2 == 0 && part % 2 == 0 && part < 6);
        }
    ldg_webhook_cuts_fini(&cuts);
    assert_int_equal(cuts.count, 0);
}

static ledger_rc add_cuts(void *ctx)
{
    struct ldg_webhook_cuts cuts = { 0 };
    ledger_rc rc = LEDGER_OK;
    for (int64_t i = 0; rc == LEDGER_OK && i < 20; i++)
        rc = ldg_webhook_cuts_add(&cuts, &(struct ldg_op){ .log_position = i }, NULL);
    ldg_webhook_cuts_fini(&cuts);
    return rc;
}

static ledger_rc make_queue(void *ctx)
{
    struct test_ops *all = ctx;
    struct ldg_webhook_queue queue;
    struct ldg_arena arena;
    ldg_arena_init(&arena, 0);
    const ledger_rc rc = ldg_webhook_queue_init(&queue, all->ops, all->count, &arena, NULL);
    ldg_arena_fini(&arena);
    return rc;
}

static void out_of_memory(void **state)
{
    struct test_ops all = { 0 };
    test_op(&all, LDG_OP_APPEND, "a");
    assert_true(alloc_fail_each(make_queue, &all) >= 1);
    assert_true(alloc_fail_each(add_cuts, NULL) >= 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_take_turns),
        cmocka_unit_test(many_streams),
        cmocka_unit_test(cuts),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
