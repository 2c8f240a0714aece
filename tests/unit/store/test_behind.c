/* Who waits behind whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "store/backend.h"

#define A "log of a"
#define B "log of b"

/* A parked event of one entry: "source_uuid" of its log, its position there, its row. */
struct parked {
    const char *log;
    int64_t position, row;
};

/* Does the event that is parked in rows[own] wait behind the one in rows[other]? */
static bool waits(const struct parked *rows, size_t count, size_t own, size_t other)
{
    const struct ldg_op op = { .source_uuid = rows[own].log, .log_position = rows[own].position };
    struct ldg_place place = ldg_place_of(&op, rows[own].row);

    for (size_t i = 0; i < count; i++)
        ldg_place_note(&place, rows[i].log, rows[i].position, rows[i].row);
    return ldg_place_is_behind(&place, rows[other].log, rows[other].position, rows[other].row);
}

static void one_log_goes_by_position(void **state)
{
    static const struct parked rows[] = { { A, 9, 1 }, { A, 5, 2 } };

    assert_true(waits(rows, 2, 0, 1));
    assert_false(waits(rows, 2, 1, 0));
}

static void two_logs_go_by_their_rows(void **state)
{
    static const struct parked rows[] = { { A, 90, 1 }, { B, 10, 2 } };
    const struct ldg_op op = { .source_uuid = A, .log_position = 1 };
    struct ldg_place place = ldg_place_of(&op, INT64_MAX);

    assert_false(waits(rows, 2, 0, 1));
    assert_true(waits(rows, 2, 1, 0));
    /* what is not parked comes behind all of another log */
    assert_true(ldg_place_is_behind(&place, B, 10, 2));
    ldg_place_note(&place, B, 10, 2); /* and those tell nothing of where it stands */
    assert_true(ldg_place_is_behind(&place, B, 10, 2));
}

/* The event of a before the one that was parked first was parked last, since the log was read
 * again: it goes first, then that one, then b's. */
static void three_make_no_circle(void **state)
{
    static const struct parked rows[] = { { A, 9, 1 }, { B, 1, 2 }, { A, 5, 3 } };

    assert_true(waits(rows, 3, 0, 2));
    assert_true(waits(rows, 3, 1, 0));
    assert_false(waits(rows, 3, 2, 1));
    assert_false(waits(rows, 3, 2, 0));
}

/* However events of three logs were parked: one of them can go first, and then another one. */
static void there_is_always_one_that_goes_first(void **state)
{
    static const char *const logs[] = { A, B, "log of c" };
    uint32_t random = 1;

    for (int round = 0; round < 3000; round++) {
        struct parked rows[7];
        size_t count = sizeof(rows) / sizeof(rows[0]);

        for (size_t i = 0; i < count; i++) {
            random = random * 1664525 + 1013904223;
            rows[i] = (struct parked){ logs[(random >> 16) % 3], (int64_t)((random >> 20) % 4),
                                       (int64_t)i };
        }
        while (count > 0) {
            size_t first = count;

            for (size_t i = 0; i < count && first == count; i++) {
                bool free = true;

                for (size_t k = 0; k < count && free; k++)
                    free = k == i || !waits(rows, count, i, k);
                if (free)
                    first = i;
            }
            assert_true(first < count);
            rows[first] = rows[--count];
        }
    }
}

static void an_event_that_may_bring_the_entry(void **state)
{
    const struct ldg_op op = { .source_uuid = A, .log_position = 5, .stream = "s" };
    const ledger_id none = { 0 }, some = { .number = 1 };

    assert_true(ldg_op_may_come_by(&op, A, 4, none, "s"));
    assert_true(ldg_op_may_come_by(&op, A, 4, none, ""));
    assert_true(ldg_op_may_come_by(&op, A, 4, none, NULL));
    assert_false(ldg_op_may_come_by(&op, A, 4, none, "t"));
    assert_false(ldg_op_may_come_by(&op, A, 4, some, "s"));
    assert_false(ldg_op_may_come_by(&op, A, 5, none, "s"));
    assert_false(ldg_op_may_come_by(&op, B, 4, none, "s"));
}

static void why_an_op_waits(void **state)
{
    char text[LDG_OP_WAIT_MAX];

    ldg_op_wait_reason(INT64_MAX, LDG_WAIT_ENTRY, text);
    assert_string_equal(text, "behind parked event 9223372036854775807");
    ldg_op_wait_reason(7, LDG_WAIT_MISSING, text);
    assert_string_equal(text, "its entry may be in parked event 7");
    ldg_op_wait_reason(INT64_MAX, LDG_WAIT_KEY, text);
    assert_string_equal(text, "its dedup key may be set free by parked event 9223372036854775807");
}

static void which_outcomes_may_have_to_wait(void **state)
{
    for (int kind = LDG_OP_APPEND; kind <= LDG_OP_PARK; kind++) {
        for (uint8_t outcome = LDG_OUTCOME_MISSING; outcome <= LDG_OUTCOME_PARKED; outcome++) {
            const struct ldg_op op = { .kind = (enum ldg_op_kind)kind };
            const bool missing = outcome == LDG_OUTCOME_MISSING &&
                                 (kind == LDG_OP_SET_TAGS || kind == LDG_OP_SET_ANNOTATIONS);
            const bool key = outcome == LDG_OUTCOME_DEDUPLICATED && kind == LDG_OP_APPEND;
            enum ldg_wait wait;
            assert_int_equal(ldg_op_may_wait(&op, outcome, &wait), missing || key);
            if (missing || key)
                assert_int_equal(wait, key ? LDG_WAIT_KEY : LDG_WAIT_MISSING);
        }
    }
}

static void what_may_be_a_trim(void **state)
{
    assert_true(ldg_op_may_trim("trim"));
    assert_true(ldg_op_may_trim("of a later version"));
    assert_true(ldg_op_may_trim(""));
    assert_false(ldg_op_may_trim("append"));
    assert_false(ldg_op_may_trim("set_tags"));
    assert_false(ldg_op_may_trim("set_annotations"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_log_goes_by_position),
        cmocka_unit_test(two_logs_go_by_their_rows),
        cmocka_unit_test(three_make_no_circle),
        cmocka_unit_test(there_is_always_one_that_goes_first),
        cmocka_unit_test(an_event_that_may_bring_the_entry),
        cmocka_unit_test(why_an_op_waits),
        cmocka_unit_test(which_outcomes_may_have_to_wait),
        cmocka_unit_test(what_may_be_a_trim),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
