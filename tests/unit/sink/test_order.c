/* Do ids rise here as they do there? The fake checks each time that what counts as in order is. */
#include "ops.h"

static bool ordered(int origin)
{
    return !f->now->disordered[origin];
}

static void in_order_trims_end_early(void **state)
{
    for (int64_t i = 1; i <= 9; i++)
        append(A, i, i % 3 == 0 ? "t" : "s", "1", "");
    run(FAKE_OPTIMISTIC, "aaaaaaaaa");
    assert_true(ordered(A));
    assert_int_equal(f->order_looks, 0);
    trim(A, 4, "s");
    run(FAKE_OPTIMISTIC, "a");
    assert_int_equal(f->ended_early, 1);
    holds("s", "1 1 1");
}

static void a_late_entry(void **state)
{
    append(A, 5, "s", "5", "");
    append(A, 9, "t", "9", "");
    run(FAKE_OPTIMISTIC, "aa");
    append(A, 6, "s", "6", ""); /* late, but not in its stream */
    append(A, 7, "s", "7", "");
    append(B, 1, "s", "of b", "");
    run(FAKE_OPTIMISTIC, "aaa");
    assert_true(ordered(A));
    assert_int_equal(f->order_looks, 1);
    append(A, 8, "t", "8", "");
    run(FAKE_OPTIMISTIC, "a");
    assert_false(ordered(A));
    assert_true(ordered(B));
    trim(A, 8, "t"); /* looks at all of the stream */
    run(FAKE_OPTIMISTIC, "a");
    assert_int_equal(f->ended_early, 0);
    holds("t", "9");
    append(A, 3, "s", "3", ""); /* nothing more to find out */
    run(FAKE_OPTIMISTIC, "a");
    assert_int_equal(f->order_looks, 0);
}

static void late_within_the_batch(void **state)
{
    append(A, 2, "s", "2", "");
    append(A, 1, "t", "1", "");
    append(A, 3, "s", "3", "");
    run(FAKE_OPTIMISTIC, "aaa");
    assert_true(ordered(A));
    append(A, 5, "s", "5", "");
    append(B, 2, "s", "2", "");
    append(A, 4, "s", "4", "");
    trim(A, 4, "s");
    run(FAKE_OPTIMISTIC, "aaaa");
    assert_false(ordered(A));
    assert_true(ordered(B));
    holds("s", "5 2");
}

/* One range of a batch comes behind the others. */
static void late_behind_another_range(void **state)
{
    f->refuses = refuses_no;
    append(A, 5, "s", "5", "");
    append(A, 9, "s", "\"no\"", "");
    append(A, 4, "s", "4", "");
    run(FAKE_INFORMED, "apa");
    assert_false(ordered(A));
    append(B, 5, "s", "5", "");
    append(B, 9, "s", "\"no\"", "");
    append(B, 6, "s", "6", "");
    run(FAKE_INFORMED, "apa");
    assert_true(ordered(B)); /* what was refused does not count */
    assert_int_equal(f->order_looks, 0);
}

static void rows_that_are_ahead_do_not_count(void **state)
{
    f->reserves = true;
    append(A, 5, "s", "5", "");
    append(A, 9, "t", "9", "");
    run(FAKE_OVERLAP, "aa");
    append(A, 7, "s", "7", "");
    append(A, 8, "s", "8", "");
    run(FAKE_OVERLAP, "aa");
    assert_int_equal(f->ahead, 2);
    assert_int_equal(f->order_looks, 1);
    assert_true(ordered(A));
}

static void so_late_is_not_looked_for(void **state)
{
    append(A, 100000, "s", "1", "");
    run(FAKE_OPTIMISTIC, "a");
    append(A, 49000, "t", "2", "");
    run(FAKE_OPTIMISTIC, "a");
    assert_int_equal(f->order_looks, 0);
    assert_false(ordered(A));
}

static void text_keys_have_no_order(void **state)
{
    append_key(A, txt("a"), "s", "1", "");
    append(B, 1, "s", "2", "");
    run(FAKE_OPTIMISTIC, "aa");
    assert_false(ordered(A));
    assert_true(ordered(B));
}

static void beside_others_no_order_is_sure(void **state)
{
    append(A, 1, "s", "1", "");
    run(FAKE_OPTIMISTIC, "a");
    f->beside = true;
    trim(A, 0, "s");
    run(FAKE_OPTIMISTIC, "r");
    assert_int_equal(f->ended_early, 0);
    assert_true(ordered(A)); /* it adds nothing */
    append(A, 2, "s", "2", "");
    run(FAKE_OPTIMISTIC, "a");
    assert_false(ordered(A));
}

/* An entry came by another way, with an id behind those that are reserved for this batch. */
static void others_came_in_between(void **state)
{
    static const struct ldg_op two[] = { { .kind = LDG_OP_APPEND, .origin = A, .key = { 5 } },
                                         { .kind = LDG_OP_TRIM, .origin = B, .key = { 5 } } };
    static const int64_t reserved[] = { 10, 0 };
    struct ldg_sink_batch b = {
        .arena = &f->arena, .ops = two, .count = 2, .reserved = reserved, .lowest_reserved = 10
    };

    assert_int_equal(ldg_sink_begin(&b, &err), LEDGER_OK);
    assert_int_equal(b.order_count, 2);
    b.orders[0].ordered = b.orders[1].ordered = true;
    ldg_sink_orders_seen(&b, A, 9);  /* before them */
    ldg_sink_orders_seen(&b, A, 10); /* one of them: the batch's own */
    ldg_sink_orders_seen(&b, C, 11); /* the batch adds none of its */
    assert_true(ldg_sink_is_ordered(&b, A));
    assert_false(ldg_sink_is_ordered(&b, C));
    ldg_sink_orders_seen(&b, A, 11);
    assert_false(ldg_sink_is_ordered(&b, A));
    assert_true(b.orders[0].disorder);
    ldg_sink_orders_seen(&b, A, 12); /* no more to lose */
    assert_true(ldg_sink_is_ordered(&b, B));
    b.beside = true;
    assert_false(ldg_sink_is_ordered(&b, B));
}

/* One of them is the batch's own: what it adds behind that one would get a lower id. */
static void others_have_overtaken_it(void **state)
{
    for (int way = FAKE_OPTIMISTIC; way <= FAKE_INFORMED; way++) {
        fake_free(f);
        (void)setup(NULL);
        f->reserves = true;
        f->last_id = 100;
        append(A, 1, "s", "1", "");
        append(A, 7, "s", "7", "k");
        run((enum fake_way)way, "aa"); /* 101, 102 */
        f->last_id = 99;
        append(A, 1, "s", "1", "");
        append(A, 1, "s", "1", "");
        append(A, 2, "s", "2", "");
        assert_int_equal(try_batch((enum fake_way)way), LEDGER_ERR_BUSY); /* 100 … */
        holds("s", "1 7");
        /* Another entry with its key, and one that is only changed, do not count. */
        f->last_id = 100;
        append(A, 1, "s", "1", "");
        tag(A, 7, "s", "t");
        append(B, 2, "s", "2", "k");
        run((enum fake_way)way, "rad"); /* 101, 102 */
        f->last_id = 102;
        append(A, 1, "s", "1", "");
        append(B, 3, "s", "3", "");
        run((enum fake_way)way, "ra");
        holds("s", "1 7[t] 3");
    }
}

static void many_origins(void **state)
{
    for (int origin = 1; origin < FAKE_ORIGINS_MAX; origin++) {
        append(origin, 2, "s", "2", "");
        append(origin, origin % 2 == 0 ? 1 : 3, "s", "1", "");
    }
    run(FAKE_OPTIMISTIC, "aaaaaaaaaaaaaa");
    for (int origin = 1; origin < FAKE_ORIGINS_MAX; origin++)
        assert_true(ordered(origin) == (origin % 2 != 0));
}

static void gaps_are_told(void **state)
{
    static const struct ldg_op all[] = { { .kind = LDG_OP_APPEND, .origin = A, .key = { 5 } },
                                         { .kind = LDG_OP_APPEND, .origin = A, .key = { 4 } },
                                         { .kind = LDG_OP_APPEND, .origin = B, .key = { 1 } },
                                         { .kind = LDG_OP_APPEND, .origin = B, .key = { 3 } },
                                         { .kind = LDG_OP_APPEND, .origin = 0, .key = { 9 } },
                                         { .kind = LDG_OP_SET_TAGS, .origin = C, .key = { 9 } } };
    struct ldg_sink_batch b = { .arena = &f->arena, .ops = all, .count = 6 };

    assert_int_equal(ldg_sink_begin(&b, &err), LEDGER_OK);
    assert_int_equal(b.order_count, 2);
    assert_int_equal(b.orders[0].lowest_new, 4);
    assert_int_equal(b.orders[0].highest_new, 5);
    assert_int_equal(b.orders[0].new_count, 2);
    assert_false(b.orders[0].gaps);
    assert_true(b.orders[1].gaps);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(in_order_trims_end_early),
        TEST(a_late_entry),
        TEST(late_within_the_batch),
        TEST(late_behind_another_range),
        TEST(rows_that_are_ahead_do_not_count),
        TEST(so_late_is_not_looked_for),
        TEST(text_keys_have_no_order),
        TEST(beside_others_no_order_is_sure),
        TEST(others_came_in_between),
        TEST(others_have_overtaken_it),
        TEST(many_origins),
        TEST(gaps_are_told),
    };

    return cmocka_run_group_tests_name("sink order", tests, NULL, NULL);
}
