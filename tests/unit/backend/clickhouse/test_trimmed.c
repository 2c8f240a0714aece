/* What is known to be gone of a stream, and when that is forgotten. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "backend/clickhouse/clickhouse.h"

static void note(struct ldg_clickhouse *ch, enum ldg_op_kind kind, const char *stream, int64_t id)
{
    const struct ldg_op op = {
        .kind = kind, .origin = 1, .mutation_origin = 1, .stream = stream, .key.number = id
    };
    const uint8_t outcome = LDG_OUTCOME_APPLIED;
    ledger_error err;
    assert_int_equal(ldg_ch_trimmed_note(ch, &op, &outcome, 1, &err), LEDGER_OK);
}

static void is(const struct ldg_clickhouse *ch, const char *stream, int64_t id)
{
    char key[LDG_CH_KEY_MAX];
    const char *known = ldg_ch_trimmed_to(ch, 1, stream);
    ldg_ch_key(ldg_id_of(id), key);
    assert_string_equal(known != NULL ? known : "", key);
}

static void trims_are_remembered(void **state)
{
    struct ldg_clickhouse ch = { 0 };
    is(&ch, "s", 0);
    note(&ch, LDG_OP_APPEND, "s", 5);
    note(&ch, LDG_OP_TRIM, "s", 5);
    note(&ch, LDG_OP_TRIM, "t", 9);
    is(&ch, "s", 5);
    is(&ch, "t", 9);
    is(&ch, "u", 0);
    assert_null(ldg_ch_trimmed_to(&ch, 2, "s")); /* of another origin */
    note(&ch, LDG_OP_TRIM, "s", 3);              /* none goes back */
    is(&ch, "s", 5);
    note(&ch, LDG_OP_APPEND, "s", 6);
    note(&ch, LDG_OP_TRIM, "s", 6);
    is(&ch, "s", 6);
    note(&ch, LDG_OP_APPEND, "s", 4); /* one that comes late */
    is(&ch, "s", 0);
    note(&ch, LDG_OP_TRIM, "s", 6);
    is(&ch, "s", 6);
    ldg_ch_trimmed_forget(&ch);
    is(&ch, "s", 0);
    is(&ch, "t", 0);
}

/* Trims that leave something, or are not done. */
static void what_is_not_gone(void **state)
{
    struct ldg_clickhouse ch = { 0 };
    const ledger_id kept = { .number = 2 };
    const struct ldg_op op = {
        .kind = LDG_OP_TRIM, .origin = 1, .mutation_origin = 1, .stream = "s", .key.number = 5
    };
    struct ldg_op ops[3] = { op, op, op };
    const uint8_t outcomes[3] = { LDG_OUTCOME_APPLIED, LDG_OUTCOME_REPLAYED, LDG_OUTCOME_PARKED };
    ops[0].survivors = &kept;
    ops[0].survivor_count = 1;
    ops[1].mutation_origin = 0; /* made here: it is not done */
    ledger_error err;
    assert_int_equal(ldg_ch_trimmed_note(&ch, ops, outcomes, 3, &err), LEDGER_OK);
    assert_null(ldg_ch_trimmed_to(&ch, 1, "s"));
}

static void many_streams(void **state)
{
    struct ldg_clickhouse ch = { 0 };
    char name[32];
    for (int i = 0; i < 10000; i++) {
        snprintf(name, sizeof name, "%d", i);
        note(&ch, LDG_OP_TRIM, name, i + 1);
        is(&ch, name, ch.trimmed != NULL ? i + 1 : 0);
    }
    ldg_ch_trimmed_forget(&ch);
}

static ledger_rc trim_twice(void *ctx)
{
    struct ldg_clickhouse ch = { 0 };
    const struct ldg_op op = {
        .kind = LDG_OP_TRIM, .origin = 1, .mutation_origin = 1, .stream = "s", .key.number = 5
    };
    struct ldg_op ops[2] = { op, op };
    const uint8_t outcomes[2] = { LDG_OUTCOME_APPLIED, LDG_OUTCOME_APPLIED };
    ledger_error err;
    ops[1].key.number = 6;
    ledger_rc rc = ldg_ch_trimmed_note(&ch, ops, outcomes, 2, &err);
    ldg_ch_trimmed_forget(&ch);
    return rc;
}

static void without_memory(void **state)
{
    assert_int_equal(alloc_fail_each(trim_twice, NULL), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trims_are_remembered),
        cmocka_unit_test(what_is_not_gone),
        cmocka_unit_test(many_streams),
        cmocka_unit_test(without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
