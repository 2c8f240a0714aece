/* What a batch amounts to: several ops on one entry, one key, one stream. Each case on every way:
 * what is taken for granted, with rows ahead, and what was looked up; with ids drawn before and
 * without. */
#include "ops.h"

static enum fake_way way;

/* Once for each way, from an empty sink. */
#define ON_EVERY_WAY for (int n_ = 0; n_ < 6 && begin_way(n_); n_++)

static bool begin_way(int n)
{
    fake_free(f);
    (void)setup(NULL);
    way = (enum fake_way)(n / 2);
    f->reserves = n % 2 == 1;
    return true;
}

static void add_and_trim(void **state)
{
    ON_EVERY_WAY
    {
        append(A, 1, "s", "1", "k");
        append(A, 2, "s", "2", "");
        tag(A, 1, "s", "t");
        trim(A, 1, "s");
        tag(A, 1, "s", "gone");
        run(way, "aaaam");
        holds("s", "2");
        assert_int_equal(f->now->event_count, 4);
        if (f->reserves && way != FAKE_INFORMED)
            assert_true(f->was_optimistic);
    }
}

static void what_was_here_is_no_news(void **state)
{
    ON_EVERY_WAY
    {
        append(A, 1, "s", "1", "k");
        run(way, "a");
        append(A, 1, "s", "1", "k");
        tag(A, 1, "s", "t");
        trim(A, 1, "s");
        run(way, "raa");
        assert_false(f->was_optimistic);
        holds("s", "");
        assert_int_equal(f->now->event_count, 3);
        /* the key of one that is added and trimmed was not free */
        append(A, 2, "s", "2", "k");
        run(way, "a");
        append(A, 3, "s", "3", "k");
        trim(A, 3, "s");
        run(way, "da");
        assert_false(f->was_optimistic);
    }
}

static void trim_and_add_again(void **state)
{
    ON_EVERY_WAY
    {
        append(A, 1, "s", "1", "");
        append(A, 2, "s", "2", "");
        run(way, "aa");
        trim(A, 2, "s");
        append(A, 1, "s", "1", "");
        tag(A, 1, "s", "t");
        run(way, "aaa");
        holds("s", "1[t]");
        /* added, trimmed and added in one batch */
        append(A, 3, "s", "3", "");
        tag(A, 3, "s", "lost");
        trim(A, 3, "s");
        append(A, 3, "s", "3", "");
        annotate(A, 3, "s", "k", "v");
        run(way, "aaaaa");
        holds("s", "3{k=v}");
    }
}

static void survivors_stay(void **state)
{
    static const ledger_id kept[] = { { .number = 2 }, { .number = 4 } };

    ON_EVERY_WAY
    {
        struct ldg_op *op;

        append(A, 1, "s", "1", "");
        append(A, 2, "s", "2", "");
        append(A, 3, "t", "3", "");
        append(B, 1, "s", "4", "");
        run(way, "aaaa");
        append(A, 4, "s", "5", "");
        append(A, 5, "s", "6", "");
        op = trim(A, 4, "s");
        op->survivors = kept;
        op->survivor_count = 2;
        tag(A, 4, "s", "t");
        tag(A, 1, "s", "t");
        run(way, "aaaam");
        holds("s", "2 4 5[t] 6");
        holds("t", "3");
        trim(A, 9, "nothing here");
        trim(A, 9, "t")->mutation_origin = 0; /* our own came back */
        run(way, "rr");
        holds("t", "3");
    }
}

static void a_trim_frees_a_key(void **state)
{
    ON_EVERY_WAY
    {
        append(A, 1, "s", "1", "k");
        run(way, "a");
        append(A, 2, "s", "2", "k");
        trim(A, 1, "s");
        append(A, 3, "s", "3", "k");
        append(A, 4, "s", "4", "k");
        append(A, 5, "t", "5", "k"); /* of another stream */
        run(way, "daada");
        holds("s", "3");
        /* added, trimmed, used again */
        append(A, 6, "s", "6", "l");
        trim(A, 6, "s");
        append(A, 7, "s", "7", "l");
        run(way, "aaa");
        holds("s", "7");
    }
}

static void rows_may_come_first(void **state)
{
    f->reserves = true;
    append(A, 1, "s", "1", "");
    append(A, 2, "s", "2", "k");
    trim(A, 1, "s");
    run(FAKE_OVERLAP, "aaa");
    assert_true(f->was_optimistic);
    assert_int_equal(f->ahead, 1);
    /* below the trim, but behind it */
    trim(A, 9, "s");
    append(A, 3, "s", "3", "");
    run(FAKE_OVERLAP, "aa");
    assert_true(f->was_optimistic);
    assert_int_equal(f->ahead, 1);
    holds("s", "3");
    /* a key is used again */
    append(A, 10, "s", "10", "l");
    trim(A, 10, "s");
    append(A, 11, "s", "11", "l");
    run(FAKE_OVERLAP, "aaa");
    assert_true(f->was_optimistic);
    assert_int_equal(f->ahead, 1);
    /* another stream's trim */
    trim(A, 20, "t");
    append(A, 12, "s", "12", "l2");
    run(FAKE_OVERLAP, "ra");
    assert_int_equal(f->ahead, 2);
}

static void trims_name_the_keys_before_them(void **state)
{
    f->reserves = true;
    append(B, 1, "s", "of b", "k");
    run(FAKE_OPTIMISTIC, "a");
    append(A, 1, "s", "1", "k"); /* would have met b's entry */
    trim(B, 1, "s");
    run(FAKE_OPTIMISTIC, "da");
    assert_false(f->was_optimistic);
    append(A, 2, "s", "2", "l");
    run(FAKE_OPTIMISTIC, "a");
    trim(A, 2, "s"); /* this one comes after the trim */
    append(A, 3, "s", "3", "l");
    run(FAKE_OPTIMISTIC, "aa");
    assert_true(f->was_optimistic);
}

/* --- changes --------------------------------------------------------------------------------- */

static void changes_become_part_of_the_row(void **state)
{
    ON_EVERY_WAY
    {
        append(A, 1, "s", "1", "");
        tag(A, 1, "s", "a");
        annotate(A, 1, "s", "k", "v");
        annotate(A, 1, "s", "gone", "v");
        annotate(A, 1, "s", "gone", NULL);
        tag(A, 1, "s", "b");
        run(way, "aaaaaa");
        holds("s", "1[b]{k=v}");
        assert_int_equal(fake_find(f, A, num(1))->tags_pos, 6);
        assert_int_equal(fake_find(f, A, num(1))->annotations_pos, 5);
        assert_int_equal(fake_find(f, A, num(1))->updated_at_us, TIME_US + 6);
        annotate(A, 1, "s", "l", "w");
        annotate(A, 1, "s", "k", NULL);
        annotate(A, 1, "s", "m", "x");
        tag(A, 1, "other", "not here");
        tag(A, 2, "s", "not here");
        run(way, "aaamm");
        holds("s", "1[b]{l=w}{m=x}");
        at_position(1);
        append(A, 1, "s", "1", "");
        tag(A, 1, "s", "a");
        run(way, "rr");
        holds("s", "1[b]{l=w}{m=x}");
        at_position(8); /* one of them was made before, the other was not */
        annotate(A, 1, "s", "k", NULL);
        at_position(20);
        annotate(A, 1, "s", "n", "y");
        run(way, "ra");
        holds("s", "1[b]{l=w}{m=x}{n=y}");
    }
}

static void a_late_change_keeps_the_time(void **state)
{
    ON_EVERY_WAY
    {
        append(A, 1, "s", "1", "");
        run(way, "a");
        at_position(9);
        annotate(A, 1, "s", "k", "v");
        run(way, "a");
        at_position(5); /* was left out for a while */
        tag(A, 1, "s", "late");
        run(way, "a");
        holds("s", "1[late]{k=v}");
        assert_int_equal(fake_find(f, A, num(1))->updated_at_us, TIME_US + 9);
        at_position(12);
        tag(A, 1, "s", "t");
        at_position(11);
        annotate(A, 1, "s", "k", "w");
        run(way, "aa");
        holds("s", "1[t]{k=w}");
        assert_int_equal(fake_find(f, A, num(1))->updated_at_us, TIME_US + 12);
        at_position(13);
        tag(A, 1, "s", "now")->time_us = LEDGER_NO_TIME;
        run(way, "a");
        assert_int_equal(fake_find(f, A, num(1))->updated_at_us, 1);
    }
}

static void changes_come_twice(void **state)
{
    ON_EVERY_WAY
    {
        append(A, 1, "s", "1", "");
        run(way, "a");
        tag(A, 1, "s", "a");
        at_position(2);
        tag(A, 1, "s", "a");
        run(way, "ar");
        tag(A, 1, "s", "b");
        tag(A, 1, "t", "in another stream");
        run(way, "am");
        holds("s", "1[b]");
    }
}

static void an_entry_comes_behind_its_changes(void **state)
{
    ON_EVERY_WAY
    {
        tag(A, 1, "s", "early");
        append(A, 2, "s", "2", "");
        append(A, 1, "s", "1", "");
        run(way, "maa");
        assert_false(f->was_optimistic);
        holds("s", "2 1");
        assert_true(f->now->disordered[A]);
    }
}

static void changed_then_trimmed(void **state)
{
    ON_EVERY_WAY
    {
        append(A, 1, "s", "1", "");
        run(way, "a");
        tag(A, 1, "s", "t");
        tag(A, 1, "s", "t")->mutation_origin = way == FAKE_INFORMED ? B : A;
        trim(A, 1, "s");
        annotate(A, 1, "s", "k", "v");
        tag(A, 5, "s", "never was here");
        run(way, "aaamm");
        holds("s", "");
        assert_int_equal(f->now->event_count, 4);
        assert_int_equal(f->now->mark_count, 0);
        append(A, 2, "s", "2", "");
        run(way, "a");
        trim(A, 2, "s");
        tag(A, 2, "s", "gone");
        tag(A, 2, "t", "never was in this stream");
        run(way, "amm");
    }
}

static void other_logs_have_marks(void **state)
{
    append(A, 1, "s", "1", "");
    run(FAKE_OPTIMISTIC, "a");
    log_of(B);
    tag(A, 1, "s", "b1")->mutation_origin = B;
    tag(A, 1, "s", "b2")->mutation_origin = B;
    annotate(A, 1, "s", "k", "v")->mutation_origin = B;
    run(FAKE_OPTIMISTIC, "aaa");
    holds("s", "1[b2]{k=v}");
    assert_int_equal(f->now->mark_count, 2);
    at_position(1);
    tag(A, 1, "s", "b1")->mutation_origin = B;
    tag(A, 1, "s", "c")->mutation_origin = C;
    run(FAKE_OPTIMISTIC, "ra");
    log_of(A);
    tag(A, 1, "s", "a"); /* between two logs the one that comes last wins */
    run(FAKE_OPTIMISTIC, "a");
    holds("s", "1[a]{k=v}");
    at_position(3);
    trim(A, 1, "s");
    append(A, 1, "s", "1", "");
    log_of(B);
    at_position(1);
    tag(A, 1, "s", "b1")->mutation_origin = B; /* what is carried again begins anew */
    run(FAKE_INFORMED, "aaa");
    holds("s", "1[b1]");
}

/* A mark that one range of a batch writes the next one sees. */
static void marks_in_the_same_batch(void **state)
{
    f->refuses = refuses_no;
    append(A, 1, "s", "1", "");
    run(FAKE_OPTIMISTIC, "a");
    log_of(B);
    tag(A, 1, "s", "b")->mutation_origin = B;
    append(A, 2, "s", "\"no\"", "");
    at_position(1);
    tag(A, 1, "s", "b")->mutation_origin = B;
    run(FAKE_INFORMED, "apr");
}

static void annotations_that_cannot_be_merged(void **state)
{
    append(A, 1, "s", "1", "");
    append(A, 2, "s", "2", "");
    run(FAKE_OPTIMISTIC, "aa");
    fake_find(f, A, num(1))->unmergeable = true;
    for (int n = 0; n < 2; n++) {
        tag(A, 2, "s", "t");
        annotate(A, 1, "s", "k", "v");
        tag(A, 2, "s", "u");
        run(n == 0 ? FAKE_OPTIMISTIC : FAKE_INFORMED, "apa");
    }
    assert_non_null(strstr(f->now->parked[0].reason, "entry 1 are no JSON object of strings"));
    holds("s", "1 2[u]");
}

/* Behind the fence nobody else changes them, unless by hand. */
static void another_transaction_is_in_the_way(void **state)
{
    append(A, 1, "s", "1", "");
    run(FAKE_OPTIMISTIC, "a");
    f->is_beaten = true;
    tag(A, 1, "s", "t");
    assert_int_equal(try_batch(FAKE_OPTIMISTIC), LEDGER_ERR_BUSY);
    holds("s", "1");
}

static void marks_of_other_rows(void **state)
{
    const struct ldg_sink_mark mark = { .origin = B, .kind = LDG_OP_SET_TAGS, .position = 9 };

    append(A, 1, "s", "1", "");
    append(A, 2, "s", "2", "");
    run(FAKE_OPTIMISTIC, "aa");
    f->stray_mark = &mark; /* of a row that had the id before, of none, of none that is asked for */
    log_of(B);
    tag(A, 1, "s", "t")->mutation_origin = B;
    tag(A, 3, "s", "t")->mutation_origin = B;
    run(FAKE_INFORMED, "am");
}

/* Streams, entries and keys find their places in tables that fill up. */
static void many_streams(void **state)
{
    static char names[OPS_MAX][8];

    ON_EVERY_WAY
    {
        for (int i = 0; i < OPS_MAX / 2; i++) {
            snprintf(names[i], sizeof(names[i]), "s%d", i);
            append(i % 2 == 0 ? A : B, i + 1, names[i], "1", names[i]);
        }
        for (int i = 0; i < OPS_MAX / 2; i++)
            trim(i % 3 == 0 ? A : B, 100, names[i]);
        assert_int_equal(try_batch(way), LEDGER_OK);
        for (int i = 0; i < OPS_MAX / 2; i++)
            assert_int_equal(outcomes[OPS_MAX / 2 + i], (i % 2 == 0) == (i % 3 == 0)
                                                            ? LDG_OUTCOME_APPLIED
                                                            : LDG_OUTCOME_REPLAYED);
    }
}

static void own_mutations_come_round(void **state)
{
    ledger_append_entry own = { .payload = { "\"own\"", 5 }, .order_key = "", .dedup_key = "" };

    fake_put(f, 0, num(0), "s", &own, TIME_US);
    append(A, 1, "s", "1", "");
    tag(A, 1, "s", "ours")->mutation_origin = 0;
    tag(0, 1, "s", "ours");
    trim(0, 1, "s");
    trim(A, 1, "s")->mutation_origin = 0;
    run(FAKE_OPTIMISTIC, "arrrr");
    assert_true(f->was_optimistic);
    tag(0, 1, "s", "from a")->mutation_origin = A;
    tag(0, 7, "s", "gone")->mutation_origin = A;
    run(FAKE_OPTIMISTIC, "am");
    holds("s", "\"own\"[from a] 1");
    append(0, 9, "s", "gone", "");
    run(FAKE_OPTIMISTIC, "m");
    trim(0, 1, "s")->mutation_origin = A;
    run(FAKE_OPTIMISTIC, "a");
    holds("s", "1");
}

/* --- the same id, another entry -------------------------------------------------------------- */

static void reused(enum fake_way on, const char *field)
{
    char text[64];

    snprintf(text, sizeof(text), "with another %s", field);
    assert_int_equal(try_batch(on), LEDGER_ERR_POSITION_REUSED);
    assert_non_null(strstr(err.message, text));
}

static void a_position_is_used_twice(void **state)
{
    ON_EVERY_WAY
    {
        append(A, 1, "s", "1", "");
        append(A, 1, "s", "1", "");
        append(A, 1, "s", "2", "");
        reused(way, "payload");
        holds("s", "");
        append(A, 1, "s", "1", "");
        append(A, 1, "s", "1", "");
        run(way, "ar");
        append(A, 1, "s", "1", "");
        append(A, 1, "t", "1", "");
        reused(way, "stream");
        append(A, 1, "s", "1", "");
        append(A, 1, "s", "1", "")->time_us += 10000;
        reused(way, "created_at");
        append(A, 1, "s", "2", "");
        append(A, 1, "s", "2", ""); /* the same as the first; but not as what is here */
        reused(way, "payload");
        append(A, 1, "s", "1", "k");
        reused(way, "dedup_key");
    }
}

/* What was trimmed before it an entry is not compared with; and one that comes twice is added once,
 * without being refused for it. */
static void what_was_trimmed_is_forgotten(void **state)
{
    ON_EVERY_WAY
    {
        f->no_log = true;
        append(A, 1, "s", "1", "");
        run(way, "a");
        trim(A, 1, "s");
        append(A, 1, "s", "2", "");
        append(A, 1, "s", "2", "");
        run(way, "aar");
        holds("s", "2");
        append(A, 2, "s", "3", "");
        append(A, 2, "s", "3", "");
        run(way, "ar");
        assert_int_equal(f->ranges, 1);
    }
}

static void an_own_entry_is_another(void **state)
{
    ledger_append_entry own = {
        .payload = { "1", 1 }, .order_key = "", .dedup_key = "", .schema_version = 1
    };

    fake_put(f, 0, num(0), "s", &own, TIME_US);
    append(0, 1, "s", "1", "");
    run(FAKE_OPTIMISTIC, "r");
    append(0, 1, "s", "2", "");
    reused(FAKE_OPTIMISTIC, "payload");
}

static void text_keys(void **state)
{
    ON_EVERY_WAY
    {
        append_key(A, txt("a"), "s", "1", "");
        append_key(A, txt("b"), "s", "2", "");
        append_key(A, txt("B"), "s", "3", "");
        run(way, "aaa");
        ops[0] = *op_add(LDG_OP_TRIM, A, txt("a"), "s");
        append_key(A, txt("c"), "s", "4", "");
        append_key(A, txt("b"), "s", "2", "");
        run(way, "aar");
        holds("s", "2 4");
        assert_true(f->now->disordered[A]);
    }
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(add_and_trim),
        TEST(what_was_here_is_no_news),
        TEST(trim_and_add_again),
        TEST(survivors_stay),
        TEST(a_trim_frees_a_key),
        TEST(rows_may_come_first),
        TEST(trims_name_the_keys_before_them),
        TEST(changes_become_part_of_the_row),
        TEST(a_late_change_keeps_the_time),
        TEST(changes_come_twice),
        TEST(an_entry_comes_behind_its_changes),
        TEST(changed_then_trimmed),
        TEST(other_logs_have_marks),
        TEST(marks_in_the_same_batch),
        TEST(annotations_that_cannot_be_merged),
        TEST(another_transaction_is_in_the_way),
        TEST(marks_of_other_rows),
        TEST(many_streams),
        TEST(own_mutations_come_round),
        TEST(a_position_is_used_twice),
        TEST(what_was_trimmed_is_forgotten),
        TEST(an_own_entry_is_another),
        TEST(text_keys),
    };

    return cmocka_run_group_tests_name("sink resolve", tests, NULL, NULL);
}
