/* The brake: what is one event's, and what is the sink's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "store/backend.h"

static struct ldg_refusals r;
static ledger_error err;

static int setup(void **state)
{
    r = (struct ldg_refusals){ .limit = 10 };
    ldg_refusals_begin(&r);
    return 0;
}

static ledger_rc refuse(enum ldg_op_kind kind, int code, const char *name)
{
    ledger_error why;

    (void)ldg_fail_native(&why, LEDGER_ERR_REJECTED, "sqlite", code, "no: %s", name);
    return ldg_refusals_note(&r, kind, ldg_refusal_reason(&why, name), &why, &err);
}

/* *ret_count: how many were parked before the brake. */
static ledger_rc refuse_many(enum ldg_op_kind kind, const char *name, int count, int *ret_count)
{
    ledger_rc rc = LEDGER_OK;

    for (*ret_count = 0; rc == LEDGER_OK && *ret_count < count;) {
        rc = refuse(kind, 19, name);
        *ret_count += rc == LEDGER_OK;
    }
    return rc;
}

static void so_many_in_a_row_stop(void **state)
{
    int count;

    assert_int_equal(refuse_many(LDG_OP_APPEND, "c", 100, &count), LEDGER_ERR_REFUSED_ALL);
    assert_int_equal(count, 9);
    assert_int_equal(err.native_code, 19);
    assert_string_equal(err.backend, "sqlite");
    assert_non_null(strstr(err.message, "10 operations"));
    assert_non_null(strstr(err.message, "no: c"));
    assert_non_null(strstr(err.message, "--refusal-limit 0"));
    assert_int_equal(ledger_rc_exit_code(err.code), 78);
    assert_int_equal(err.flags, LEDGER_ERROR_FATAL);
}

/* The longest words of a database leave room for what to do. */
static void words_are_not_cut_off(void **state)
{
    char name[400];
    int count;

    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    assert_int_equal(refuse_many(LDG_OP_APPEND, name, 100, &count), LEDGER_ERR_REFUSED_ALL);
    assert_non_null(strstr(err.message, "--refusal-limit 0 parks them"));
}

static void batches_count_on(void **state)
{
    int count;

    for (int i = 0; i < 9; i++) {
        ldg_refusals_begin(&r);
        assert_int_equal(refuse(LDG_OP_SET_TAGS, 19, "c"), LEDGER_OK);
        assert_int_equal(ldg_refusals_end(&r, &err), LEDGER_OK);
    }
    ldg_refusals_begin(&r);
    assert_int_equal(refuse(LDG_OP_SET_TAGS, 19, "c"), LEDGER_ERR_REFUSED_ALL);
    /* One that works ends the row. */
    ldg_refusals_applied(&r, LDG_OP_SET_TAGS);
    assert_int_equal(refuse_many(LDG_OP_SET_TAGS, "c", 9, &count), LEDGER_OK);
}

/* Changes of what is there already say nothing about appends. */
static void a_kind_stops_a_batch(void **state)
{
    for (int i = 0; i < 5; i++) {
        assert_int_equal(ldg_refusals_end(&r, &err), LEDGER_OK);
        assert_int_equal(refuse(LDG_OP_APPEND, 19, "c"), LEDGER_OK);
        ldg_refusals_applied(&r, LDG_OP_SET_TAGS);
        ldg_refusals_applied(&r, LDG_OP_TRIM);
    }
    assert_int_equal(ldg_refusals_end(&r, &err), LEDGER_ERR_REFUSED_ALL);
    /* Not where one of the kind works. */
    ldg_refusals_applied(&r, LDG_OP_APPEND);
    assert_int_equal(ldg_refusals_end(&r, &err), LEDGER_OK);
}

static void reasons_are_counted_apart(void **state)
{
    char name[8];

    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "c%d", i);
        assert_int_equal(refuse(LDG_OP_APPEND, 19, name), LEDGER_OK);
        assert_true(r.run_count <= LDG_REFUSAL_REASONS);
    }
    assert_int_equal(ldg_refusals_end(&r, &err), LEDGER_OK);
    /* A bad event between does not hide the others. */
    (void)setup(state);
    for (int i = 0; i < 9; i++) {
        assert_int_equal(refuse(LDG_OP_APPEND, 19, "c"), LEDGER_OK);
        if (i % 3 == 0)
            assert_int_equal(refuse(LDG_OP_APPEND, 20, ""), LEDGER_OK);
    }
    assert_int_equal(refuse(LDG_OP_APPEND, 19, "c"), LEDGER_ERR_REFUSED_ALL);
}

static void a_whole_batch_stops(void **state)
{
    int count;

    assert_int_equal(refuse_many(LDG_OP_APPEND, "c", 4, &count), LEDGER_OK);
    assert_int_equal(ldg_refusals_end(&r, &err), LEDGER_OK);
    assert_int_equal(refuse(LDG_OP_SET_TAGS, 19, "c"), LEDGER_OK);
    assert_int_equal(ldg_refusals_end(&r, &err), LEDGER_ERR_REFUSED_ALL);
    assert_non_null(strstr(err.message, "5 operations"));
    /* Not when one of them works, or has another reason. */
    ldg_refusals_applied(&r, LDG_OP_TRIM);
    assert_int_equal(ldg_refusals_end(&r, &err), LEDGER_OK);
    (void)setup(state);
    assert_int_equal(refuse_many(LDG_OP_APPEND, "c", 5, &count), LEDGER_OK);
    assert_int_equal(refuse(LDG_OP_APPEND, 20, "c"), LEDGER_OK);
    assert_int_equal(ldg_refusals_end(&r, &err), LEDGER_OK);
}

static void outcomes_of_a_batch(void **state)
{
    const struct ldg_op ops[] = { { .kind = LDG_OP_APPEND }, { .kind = LDG_OP_SET_TAGS } };
    uint8_t outcomes[] = { LDG_OUTCOME_REPLAYED, LDG_OUTCOME_DEDUPLICATED };
    int count;

    assert_int_equal(refuse_many(LDG_OP_APPEND, "c", 9, &count), LEDGER_OK);
    ldg_refusals_outcomes(&r, ops, outcomes, 2);
    assert_int_equal(r.run_count, 1);
    outcomes[1] = LDG_OUTCOME_APPLIED;
    ldg_refusals_outcomes(&r, ops, outcomes, 2);
    assert_int_equal(r.run_count, 0);
    assert_int_equal(refuse_many(LDG_OP_SET_TAGS, "c", 9, &count), LEDGER_OK);
}

static void no_limit_is_no_brake(void **state)
{
    int count;

    r.limit = 0;
    assert_int_equal(refuse_many(LDG_OP_APPEND, "c", 1000, &count), LEDGER_OK);
    assert_int_equal(ldg_refusals_end(&r, &err), LEDGER_OK);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, setup)
    const struct CMUnitTest tests[] = {
        TEST(so_many_in_a_row_stop), TEST(words_are_not_cut_off),     TEST(batches_count_on),
        TEST(a_kind_stops_a_batch),  TEST(reasons_are_counted_apart), TEST(a_whole_batch_stops),
        TEST(outcomes_of_a_batch),   TEST(no_limit_is_no_brake),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
