/* The way of a batch: what the database refuses is found and parked, and nothing else is. */
#include "ops.h"

static void put_many(int64_t count, int64_t refused)
{
    for (int64_t i = 0; i < count; i++)
        append(A, i + 1, "s", i == refused ? "\"no\"" : "1", "");
}

/* --- the culprit ----------------------------------------------------------------------------- */

static void halving_finds_the_culprit(void **state)
{
    f->refuses = refuses_no;
    f->no_log = true; /* that has a savepoint, too */
    put_many(16, 11);
    run(FAKE_INFORMED, "aaaaaaaaaaapaaaa");
    parked_are("12:the entry is refused");
    /* 0-16 no, 0-8, 8-16 no, 8-12 no, 8-10, 10-12 no, 10, 11 no, 11 parked, 12-16 */
    assert_int_equal(f->ranges, 10);
    assert_int_equal(f->looked_up, 10);
    assert_int_equal(f->rechecks, 1);
    assert_int_equal(f->restarts, 0);
}

static void who_knows_the_culprit_is_not_halved(void **state)
{
    f->refuses = refuses_no;
    f->tells = f->no_log = true;
    put_many(16, 11);
    run(FAKE_INFORMED, "aaaaaaaaaaapaaaa");
    assert_int_equal(f->ranges, 5); /* all no, before it, it no, it parked, behind it */
    put_many(16, 0);                /* those are here, but the one that is parked */
    ops[0].key = num(17);
    run(FAKE_INFORMED, "prrrrrrrrrrprrrr");
}

static void a_refusal_undoes_the_optimistic_way(void **state)
{
    f->refuses = refuses_no;
    f->reserves = true;
    put_many(4, 2);
    run(FAKE_OVERLAP, "aapa");
    assert_false(f->was_optimistic);
    assert_int_equal(f->ahead, 1);
    holds("s", "1 1 1");
}

static void several_culprits_are_parked_each(void **state)
{
    f->refuses = refuses_no;
    for (int hint = 0; hint < 2; hint++) {
        f->tells = hint;
        for (int64_t i = 0; i < 8; i++)
            append(A, 10 * hint + i + 1, "s", i % 3 == 1 ? "\"no\"" : "1", "");
        run(FAKE_INFORMED, "apaapaap");
        assert_int_equal(f->rechecks, 1);
    }
    assert_int_equal(f->now->parked_count, 6);
}

static void later_events_of_its_entry_wait(void **state)
{
    f->refuses = refuses_no;
    append(A, 1, "s", "\"no\"", "");
    append(A, 2, "s", "2", "");
    tag(A, 1, "s", "t");
    tag(A, 2, "s", "t");
    run(FAKE_OPTIMISTIC, "papa");
    parked_are("1:the entry is refused, 3:behind parked event 1");
    holds("s", "2[t]");
}

static void a_change_is_refused_alone(void **state)
{
    f->refuses = refuses_no;
    append(A, 1, "s", "1", "");
    append(A, 2, "s", "2", "");
    run(FAKE_INFORMED, "aa");
    tag(A, 1, "s", "t");
    tag(A, 1, "s", "no");
    annotate(A, 1, "s", "k", "v");
    tag(A, 2, "s", "t");
    run(FAKE_OPTIMISTIC, "appa");
    holds("s", "1[t] 2[t]");
    parked_are("4:the change is refused, 5:behind parked event 4");
}

/* --- the database ends the transaction ------------------------------------------------------- */

static void a_lost_transaction_begins_again(void **state)
{
    f->refuses = refuses_no;
    f->loses = true;
    put_many(16, 11);
    run(FAKE_INFORMED, "aaaaaaaaaaapaaaa");
    parked_are("12:the entry is refused");
    holds("s", "1 1 1 1 1 1 1 1 1 1 1 1 1 1 1");
    assert_int_equal(f->restarts, 5); /* 16, 8, 4, 2, 1 at a time */
    assert_int_equal(f->tries, 6);
}

static void a_lost_transaction_with_a_culprit(void **state)
{
    f->refuses = refuses_no;
    f->loses = f->tells = true;
    put_many(7, 3);
    run(FAKE_INFORMED, "aaapaaa");
    at_position(1);
    put_many(7, 3);
    ops[6].key = num(9);
    run(FAKE_INFORMED, "rrrprra");
    assert_int_equal(f->now->parked[0].attempts, 2);
}

/* --- what is no verdict on an event ---------------------------------------------------------- */

static void nothing_is_parked_unless_it_may(void **state)
{
    f->refuses = refuses_no;
    f->lets_reject = true;
    put_many(4, 2);
    assert_int_equal(try_batch(FAKE_INFORMED), LEDGER_ERR_REJECTED);
    assert_int_equal(err.done_count, 2);
    assert_int_equal(err.native_code, 1);
    assert_string_equal(err.message, "the sink refuses event 3 (append of stream \"s\"): the entry "
                                     "is refused");
    assert_int_equal(f->now->row_count, 0);
    assert_int_equal(f->rechecks, 0);
    /* what cannot be read is no refusal of the database */
    odd(1, "s", "odd");
    run(FAKE_INFORMED, "p");
}

/* The first op that ends the batch is told, whatever comes behind it. */
static void a_refusal_comes_before_a_key_used_again(void **state)
{
    f->refuses = refuses_no;
    f->lets_reject = true;
    append(A, 1, "s", "1", "");
    run(FAKE_INFORMED, "a");
    append(A, 2, "s", "2", "");
    append(A, 3, "s", "\"no\"", "");
    append(A, 1, "s", "another", "");
    assert_int_equal(try_batch(FAKE_INFORMED), LEDGER_ERR_REJECTED);
    assert_int_equal(err.done_count, 1);
    append(A, 2, "s", "2", "");
    append(A, 1, "s", "another", "");
    append(A, 3, "s", "\"no\"", "");
    assert_int_equal(try_batch(FAKE_INFORMED), LEDGER_ERR_POSITION_REUSED);
    holds("s", "1");
}

static void tables_are_looked_at_first(void **state)
{
    f->refuses = refuses_no;
    f->fail_recheck = LEDGER_ERR_SCHEMA;
    put_many(4, 2);
    assert_int_equal(try_batch(FAKE_INFORMED), LEDGER_ERR_SCHEMA);
    assert_int_equal(f->now->row_count + f->now->parked_count, 0);
    odd(1, "s", "odd"); /* is not looked at for this */
    run(FAKE_INFORMED, "p");
}

static void the_brake_stops(void **state)
{
    struct ldg_refusals brake = { .limit = 4 };

    f->refuses = refuses_no;
    f->brake = &brake;
    for (int64_t i = 1; i <= 4; i++)
        append(A, i, "s", "\"no\"", "");
    assert_int_equal(try_batch(FAKE_OPTIMISTIC), LEDGER_ERR_REFUSED_ALL);
    assert_int_equal(f->now->parked_count, 0);
    assert_int_equal(brake.run_count, 0); /* a copy was worked on */
    /* half as many are enough where nothing speaks against it */
    append(A, 1, "s", "\"no\"", "");
    append(A, 2, "s", "\"no\"", "");
    assert_int_equal(try_batch(FAKE_INFORMED), LEDGER_ERR_REFUSED_ALL);
    assert_int_equal(f->now->parked_count, 0);
    append(A, 1, "s", "\"no\"", "");
    append(A, 2, "s", "2", "");
    append(A, 3, "s", "\"no\"", "");
    run(FAKE_INFORMED, "pap");
    assert_int_equal(brake.runs[0].count, 1); /* one since one was applied */
    /* those that were parked before count no more */
    at_position(7);
    append(A, 1, "s", "\"no\"", "");
    append(A, 2, "s", "2", "");
    append(A, 3, "s", "\"no\"", "");
    run(FAKE_INFORMED, "prp");
    assert_int_equal(brake.runs[0].count, 1);
    append(A, 4, "s", "4", "");
    run(FAKE_OPTIMISTIC, "a");
    assert_int_equal(brake.run_count, 0);
}

static void failures_pass_through(void **state)
{
    static const char *const callbacks[] = {
        "find_parked", "look_up",    "unpark",     "change",    "add",    "note",
        "park",        "save",       "release",    "undo",      "origin", "log_begin",
        "log_end",     "order_load", "order_late", "order_note"
    };

    f->refuses = refuses_no;
    append(A, 5, "s", "5", "");
    odd(3, "s", "odd");
    run(FAKE_INFORMED, "ap");
    for (size_t i = 0; i < sizeof(callbacks) / sizeof(callbacks[0]); i++) {
        const size_t rows = f->now->row_count;

        f->fail_callback = callbacks[i];
        at_position(2);
        append(A, 3, "s", "3", ""); /* comes late, and was parked */
        tag(A, 5, "s", "t")->mutation_origin = B;
        append(A, 4, "s", "\"no\"", "");
        assert_int_equal(try_batch(FAKE_INFORMED), LEDGER_ERR_NOMEM);
        assert_int_equal(f->now->row_count, rows);
        assert_int_equal(f->now->parked_count, 1);
        if (strcmp(callbacks[i], "find_parked") == 0) {
            append(A, 7, "s", "7", "");
            assert_int_equal(try_batch(FAKE_OPTIMISTIC), LEDGER_ERR_NOMEM);
        }
    }
    f->fail_callback = NULL;
    at_position(2);
    append(A, 3, "s", "3", "");
    tag(A, 5, "s", "t")->mutation_origin = B;
    append(A, 4, "s", "\"no\"", "");
    run(FAKE_INFORMED, "aap");
}

/* --- parked events are tried again ----------------------------------------------------------- */

static void a_retry_may_have_to_wait(void **state)
{
    append(A, 1, "s", "1", "");
    odd(1, "s", "odd");
    tag(A, 1, "s", "t");
    run(FAKE_OPTIMISTIC, "app");
    at_position(3);
    tag(A, 1, "s", "t");
    assert_false(retry_row(1));
    assert_string_equal(err.message, "behind parked event 2");
    assert_int_equal(f->now->parked[1].attempts, 2);
    at_position(2);
    tag(A, 1, "s", "before");
    assert_true(retry_row(0));
    at_position(3);
    tag(A, 1, "s", "t");
    assert_true(retry_row(0));
    parked_are("");
    holds("s", "1[t]");
}

static void a_retry_is_refused(void **state)
{
    f->refuses = refuses_no;
    append(A, 1, "s", "\"no\"", "");
    run(FAKE_INFORMED, "p");
    at_position(1);
    append(A, 1, "s", "\"no\"", "");
    assert_false(retry_row(0));
    assert_int_equal(err.done_count, 0);
    parked_are("1:the entry is refused");
    at_position(1);
    odd(1, "s", "odd")->reason = NULL;
    assert_false(retry_row(0));
    parked_are("1:this operation is not known here");
    at_position(1);
    odd(1, "s", "odd");
    assert_false(retry_row(0));
    parked_are("1:cannot be read");
    assert_int_equal(f->now->parked[0].attempts, 4);
    f->refuses = NULL;
    at_position(1);
    append(A, 1, "s", "\"no\"", "");
    assert_true(retry_row(0));
    parked_are("");
}

static void a_park_without_reason(void **state)
{
    odd(1, "s", "odd")->reason = NULL;
    run(FAKE_OPTIMISTIC, "p");
    parked_are("1:");
}

/* --- what the backend asks ------------------------------------------------------------------- */

static void plain_is_what_can_be_taken_for_granted(void **state)
{
    assert_false(ldg_sink_is_plain(ops, 0));
    append(A, 1, "s", "1", "");
    tag(A, 1, "s", "t");
    annotate(A, 1, "s", "k", "v");
    tag(A, 1, "s", "t")->mutation_origin = 0;
    trim(B, 1, "s");
    trim(0, 1, "s")->mutation_origin = A;
    assert_true(ldg_sink_is_plain(ops, op_count));
    odd(1, "s", "odd");
    assert_false(ldg_sink_is_plain(ops, op_count));
    op_count--;
    append(0, 1, "s", "1", ""); /* of the sink's own entry */
    assert_false(ldg_sink_is_plain(ops, op_count));
    op_count--;
    tag(A, 1, "s", "t")->mutation_origin = B; /* of another log */
    assert_false(ldg_sink_is_plain(ops, op_count));
    op_count--;
    annotate(0, 1, "s", "k", "v")->mutation_origin = B;
    assert_false(ldg_sink_is_plain(ops, op_count));
}

static void a_batch_has_a_limit(void **state)
{
    struct ldg_sink_batch b = { .count = UINT32_MAX / 8 };

    assert_int_equal(ldg_sink_begin(&b, &err), LEDGER_ERR_TOO_LARGE);
    assert_non_null(strstr(err.message, "536870911"));
    run(FAKE_OPTIMISTIC, ""); /* none is fine */
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(halving_finds_the_culprit),
        TEST(who_knows_the_culprit_is_not_halved),
        TEST(a_refusal_undoes_the_optimistic_way),
        TEST(several_culprits_are_parked_each),
        TEST(later_events_of_its_entry_wait),
        TEST(a_change_is_refused_alone),
        TEST(a_lost_transaction_begins_again),
        TEST(a_lost_transaction_with_a_culprit),
        TEST(nothing_is_parked_unless_it_may),
        TEST(a_refusal_comes_before_a_key_used_again),
        TEST(tables_are_looked_at_first),
        TEST(the_brake_stops),
        TEST(failures_pass_through),
        TEST(a_retry_may_have_to_wait),
        TEST(a_retry_is_refused),
        TEST(a_park_without_reason),
        TEST(plain_is_what_can_be_taken_for_granted),
        TEST(a_batch_has_a_limit),
    };

    return cmocka_run_group_tests_name("sink apply", tests, NULL, NULL);
}
