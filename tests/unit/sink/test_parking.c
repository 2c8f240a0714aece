/* Who waits behind whom. */
#include "ops.h"

static void entries_apart(void **state)
{
    append(A, 1, "s", "1", "");
    append(A, 2, "s", "2", "");
    odd(1, "s", "odd");
    tag(A, 1, "s", "t");
    tag(A, 2, "s", "t");
    append(B, 1, "s", "of b", "");
    run(FAKE_OPTIMISTIC, "aappaa");
    parked_are("3:cannot be read, 4:behind parked event 3");
    /* in later batches, too: optimistic where it does not concern them */
    tag(A, 2, "s", "u");
    run(FAKE_OPTIMISTIC, "a");
    assert_true(f->was_optimistic);
    tag(A, 1, "s", "u");
    run(FAKE_OPTIMISTIC, "p");
    holds("s", "1 2[u] of b");
}

static void replays_do_not_wait(void **state)
{
    append(A, 1, "s", "1", "");
    odd(1, "s", "odd");
    run(FAKE_OPTIMISTIC, "ap");
    at_position(1);
    append(A, 1, "s", "1", "");
    run(FAKE_OPTIMISTIC, "r");
}

static void the_entry_may_be_in_it(void **state)
{
    odd(0, "", "");
    odd(0, "t", "odd");
    tag(A, 1, "s", "t"); /* may be in the first */
    tag(A, 2, "t", "t"); /* may be in either; the lower position is told */
    append(A, 3, "s", "3", "");
    tag(A, 3, "s", "is here");
    run(FAKE_OPTIMISTIC, "ppppaa");
    parked_are("1:cannot be read, 2:cannot be read, 3:its entry may be in parked event 1, "
               "4:its entry may be in parked event 1");
    log_of(B);
    tag(B, 1, "s", "of another log");
    run(FAKE_OPTIMISTIC, "m");
    log_of(A);
    at_position(0);
    positions[A] = -1;
    tag(A, 9, "s", "came before"); /* log position 0 */
    run(FAKE_OPTIMISTIC, "m");
}

static void the_key_may_be_set_free(void **state)
{
    append(A, 1, "s", "1", "k");
    append(B, 1, "s", "b", "l");
    run(FAKE_OPTIMISTIC, "aa");
    odd(1, "s", "trim");         /* of a's entries up to 1 */
    append(A, 2, "s", "2", "k"); /* its key is about to be free */
    append(A, 3, "s", "3", "l"); /* that one is b's */
    append(A, 4, "t", "4", "k");
    log_of(B);
    append(B, 2, "s", "b2", "k"); /* of another log: it was parked first */
    run(FAKE_OPTIMISTIC, "ppdap");
    parked_are("3:cannot be read, 4:its dedup key may be set free by parked event 3, "
               "1:its dedup key may be set free by parked event 3");
    log_of(A);
    at_position(3);
    trim(A, 1, "s");
    assert_true(retry_row(0));
    at_position(4);
    append(A, 2, "s", "2", "k");
    assert_true(retry_row(0));
    log_of(B);
    at_position(1);
    append(B, 2, "s", "b2", "k");
    assert_true(retry_row(0)); /* the key is a's again */
    parked_are("");
    holds("s", "b 2");
}

/* Of a later version it may be a trim; of its own log, and this stream. */
static void the_key_and_unknown_kinds(void **state)
{
    append(A, 1, "s", "1", "k");
    append(A, 1, "t", "1", "k")->key = num(2);
    run(FAKE_OPTIMISTIC, "aa");
    odd(7, "s", "odd");
    odd(8, "s", "append");
    append(A, 3, "t", "3", "k");
    append(A, 4, "s", "4", "k");
    run(FAKE_OPTIMISTIC, "ppdp");
    odd(0, "", "");
    append(A, 5, "t", "5", "k");
    log_of(B);
    append(B, 6, "t", "6", "k");
    run(FAKE_OPTIMISTIC, "ppd");
}

static void an_event_is_known_better_later(void **state)
{
    append(A, 1, "s", "1", "k");
    odd(2, "s", "odd"); /* may be a trim */
    run(FAKE_OPTIMISTIC, "ap");
    odd(2, "s", "odd");
    at_position(2);
    odd(2, "s", "append"); /* is none */
    at_position(4);
    append(A, 3, "s", "3", "k");
    run(FAKE_OPTIMISTIC, "ppp"); /* behind event 3 */
    assert_string_equal(f->now->parked[2].reason,
                        "its dedup key may be set free by parked event 3");
    at_position(3);
    odd(2, "s", "append");
    at_position(4);
    append(A, 3, "s", "3", "k");
    run(FAKE_INFORMED, "pd");
}

/* The rows of two logs: the one that was parked first goes first. */
static void two_logs_never_wait_for_each_other(void **state)
{
    append(A, 1, "s", "1", "");
    run(FAKE_OPTIMISTIC, "a");
    log_of(B);
    at_position(50);
    odd(1, "s", "odd")->origin = A; /* row 0 */
    run(FAKE_OPTIMISTIC, "p");
    log_of(A);
    tag(A, 1, "s", "a"); /* row 1: log position 2, lower, but parked later */
    run(FAKE_OPTIMISTIC, "p");
    log_of(B);
    at_position(51);
    tag(A, 1, "s", "b51")->mutation_origin = B; /* row 2 */
    run(FAKE_OPTIMISTIC, "p");
    parked_are("50:cannot be read, 2:behind parked event 50, 51:behind parked event 2");
    at_position(51);
    tag(A, 1, "s", "b51")->mutation_origin = B;
    assert_false(retry_row(2));
    at_position(50);
    tag(A, 1, "s", "b50")->mutation_origin = B;
    assert_true(retry_row(0));
    log_of(A);
    at_position(2);
    tag(A, 1, "s", "a");
    assert_true(retry_row(0));
    log_of(B);
    at_position(51);
    tag(A, 1, "s", "b51")->mutation_origin = B;
    assert_true(retry_row(0));
    holds("s", "1[b51]");
}

/* An event comes before one of its own log that was parked first: what was parked between them
 * waits for both, and it for neither. */
static void an_earlier_event_is_parked_later(void **state)
{
    append(A, 1, "s", "1", "");
    run(FAKE_OPTIMISTIC, "a");
    at_position(9);
    odd(1, "s", "odd"); /* row 0 */
    run(FAKE_OPTIMISTIC, "p");
    log_of(B);
    tag(A, 1, "s", "b")->mutation_origin = B; /* row 1: behind a/9 */
    run(FAKE_OPTIMISTIC, "p");
    log_of(A);
    at_position(5);
    tag(A, 1, "s", "a5"); /* before a/9, which is before b/1 */
    run(FAKE_OPTIMISTIC, "a");
    at_position(6);
    odd(1, "s", "odd"); /* row 2 */
    run(FAKE_OPTIMISTIC, "p");
    at_position(6);
    tag(A, 1, "s", "a6");
    assert_true(retry_row(2));
    log_of(B);
    at_position(1);
    tag(A, 1, "s", "b")->mutation_origin = B;
    assert_false(retry_row(1));
    assert_string_equal(err.message, "behind parked event 9");
}

static void what_is_done_is_parked_no_more(void **state)
{
    odd(0, "", "");
    odd(2, "s", "odd");
    run(FAKE_OPTIMISTIC, "pp");
    at_position(1); /* can be read now */
    append(A, 1, "s", "1", "");
    append(A, 2, "s", "2", "");
    tag(A, 3, "s", "t");
    run(FAKE_OPTIMISTIC, "aam");
    parked_are("");
    /* an own mutation, and a trim, too */
    odd(0, "", "");
    odd(0, "", "");
    run(FAKE_OPTIMISTIC, "pp");
    at_position(4);
    tag(A, 1, "s", "ours")->mutation_origin = 0;
    trim(A, 0, "s");
    run(FAKE_OPTIMISTIC, "rr");
    parked_are("");
}

static void trims_drop_what_is_parked(void **state)
{
    static const ledger_id kept[] = { { .number = 4 } };
    struct ldg_op *op;

    for (int way = FAKE_OPTIMISTIC; way <= FAKE_INFORMED; way++) {
        for (int64_t i = 2; i <= 6; i++)
            odd(i, i == 5 ? "t" : "s", "odd");
        odd(0, "s", "odd");
        run((enum fake_way)way, "pppppp");
        op = trim(A, 5, "s");
        op->survivors = kept;
        op->survivor_count = 1;
        trim(B, 100, "s");
        run((enum fake_way)way, "ar");
        assert_int_equal(f->now->parked_count, 4); /* survivor, other stream, later, unknown */
        trim(A, 100, "s");
        trim(A, 100, "t");
        run((enum fake_way)way, "aa");
        assert_int_equal(f->now->parked_count, 1);
        f->now->parked_count = 0;
    }
    /* of the same batch */
    odd(2, "s", "odd");
    odd(9, "s", "odd");
    trim(A, 5, "s");
    trim(A, 5, "s");
    run(FAKE_INFORMED, "ppar");
    assert_int_equal(f->now->parked_count, 1);
    tag(A, 9, "s", "t");
    trim(A, 9, "s");
    append(A, 9, "s", "9", ""); /* does not wait any more */
    run(FAKE_INFORMED, "paa");
    parked_are("");
    /* what was done before it the trim does not find */
    odd(2, "s", "odd");
    run(FAKE_INFORMED, "p");
    positions[A]--;
    tag(A, 2, "s", "t");
    trim(A, 5, "s");
    run(FAKE_INFORMED, "mr");
    parked_are("");
}

/* find_parked() may give more than was asked for. */
static void rows_that_do_not_concern(void **state)
{
    f->shows_all = true;
    odd(7, "other", "odd");
    run(FAKE_OPTIMISTIC, "p");
    append(A, 1, "s", "1", "");
    tag(A, 1, "s", "t");
    run(FAKE_OPTIMISTIC, "aa");
    assert_false(f->was_optimistic);
    holds("s", "1[t]");
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(entries_apart),
        TEST(replays_do_not_wait),
        TEST(the_entry_may_be_in_it),
        TEST(the_key_may_be_set_free),
        TEST(the_key_and_unknown_kinds),
        TEST(an_event_is_known_better_later),
        TEST(two_logs_never_wait_for_each_other),
        TEST(an_earlier_event_is_parked_later),
        TEST(what_is_done_is_parked_no_more),
        TEST(trims_drop_what_is_parked),
        TEST(rows_that_do_not_concern),
    };

    return cmocka_run_group_tests_name("sink parking", tests, NULL, NULL);
}
