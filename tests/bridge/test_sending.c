/* bridge/sending.c: what a delivery was made of is known again, whatever happened between. */
#include <string.h>

#include "bridge/stages.h"
#include "fixtures.h"
#include "workload.h"

struct rig {
    ledger_store *store;
    struct ldg_cursor_keeper *cursor;
    struct ldg_sending sending;
};

static struct rig open_rig(void *env, const char *from)
{
    struct rig rig = { .store = tst_open(env, TST_SQLITE, "state") };
    rig.cursor = ldg_calloc(1, sizeof(*rig.cursor));
    assert_non_null(rig.cursor);
    rig.cursor->store = rig.store;
    rig.cursor->name = "orders";
    snprintf(rig.cursor->from, sizeof(rig.cursor->from), "%s", from);
    return rig;
}

static void close_rig(struct rig *rig)
{
    ldg_sending_fini(&rig->sending);
    ldg_free(rig->cursor);
}

/* As another process begins. */
static void restart(struct rig *rig)
{
    ldg_sending_fini(&rig->sending);
}

static void begin(struct rig *rig, const int64_t *positions, size_t count, uint32_t *ret_numbers)
{
    struct ldg_op *ops = ldg_calloc(count, sizeof(*ops));
    ledger_error err;
    assert_non_null(ops);
    for (size_t i = 0; i < count; i++)
        ops[i].log_position = positions[i];
    tst_ok(ldg_sending_begin(&rig->sending, rig->store, rig->cursor, ops, count, true, &err), &err);
    for (size_t i = 0; i < count; i++)
        ret_numbers[i] = ops[i].delivery;
    ldg_free(ops);
}

static void check(struct rig *rig, const int64_t *positions, const uint32_t *wanted, size_t count)
{
    uint32_t numbers[16];
    assert_true(count <= 16);
    begin(rig, positions, count, numbers);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(numbers[i], wanted[i]);
}

/* Events of several ops, gaps, and one that was committed late with a lower position. */
static void later_ones_get_the_next_number(void **state)
{
    struct rig rig = open_rig(*state, "a");
    check(&rig, (const int64_t[]){ 10, 10, 11, 20 }, (const uint32_t[]){ 1, 1, 1, 1 }, 4);
    check(&rig, (const int64_t[]){ 10, 10, 11, 20 }, (const uint32_t[]){ 1, 1, 1, 1 }, 4);
    check(&rig, (const int64_t[]){ 5, 10, 10, 11, 20, 21 }, (const uint32_t[]){ 2, 1, 1, 1, 1, 2 },
          6);
    restart(&rig);
    check(&rig, (const int64_t[]){ 5, 6, 10, 11, 20, 21, 22 },
          (const uint32_t[]){ 2, 3, 1, 1, 1, 2, 3 }, 7);
    restart(&rig);
    check(&rig, (const int64_t[]){ 6, 22 }, (const uint32_t[]){ 3, 3 }, 2);
    close_rig(&rig);
}

/* Where the cursor has moved nothing was tried yet; where it comes back to, it was. */
static void another_cursor_begins_anew(void **state)
{
    struct rig rig = open_rig(*state, "a");
    check(&rig, (const int64_t[]){ 1, 2 }, (const uint32_t[]){ 1, 1 }, 2);
    check(&rig, (const int64_t[]){ 1, 2, 3 }, (const uint32_t[]){ 1, 1, 2 }, 3);
    memcpy(rig.cursor->from, "b", 2);
    check(&rig, (const int64_t[]){ 3, 4 }, (const uint32_t[]){ 1, 1 }, 2);
    restart(&rig);
    memcpy(rig.cursor->from, "c", 2);
    check(&rig, (const int64_t[]){ 3, 4, 5 }, (const uint32_t[]){ 1, 1, 1 }, 3);
    restart(&rig);
    check(&rig, (const int64_t[]){ 5, 6 }, (const uint32_t[]){ 1, 2 }, 2);
    close_rig(&rig);
}

/* Runs, of distance one and of others, backwards, and the ends of the range. */
static void every_shape_is_known_again(void **state)
{
    static const int64_t shapes[][6] = {
        { 1, 2, 3, 4, 5, 6 },           { 2, 4, 6, 8, 9, 10 },
        { 6, 5, 4, 3, 2, 1 },           { INT64_MAX, 1, INT64_MAX - 1, 2, INT64_MAX - 2, 3 },
        { 100, 1, 100000000, 7, 8, 9 },
    };
    const uint32_t first[] = { 1, 1, 1, 1, 1, 1 };
    struct rig rig = open_rig(*state, "");
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        uint32_t numbers[7];
        int64_t more[7] = { 55 };
        snprintf(rig.cursor->from, sizeof(rig.cursor->from), "%zu", i);
        check(&rig, shapes[i], first, 6);
        restart(&rig);
        memcpy(more + 1, shapes[i], sizeof(shapes[i]));
        begin(&rig, more, 7, numbers);
        assert_int_equal(numbers[0], 2);
        for (size_t k = 1; k < 7; k++)
            assert_int_equal(numbers[k], 1);
    }
    close_rig(&rig);
}

/* The row has no room for so many that have nothing in common: the rest goes one by one, before and
 * after a restart, for nobody knows any more with whom it went. */
static void what_finds_no_room_goes_alone(void **state)
{
    enum { COUNT = 5000 };
    static int64_t positions[COUNT + 1];
    static uint32_t before[COUNT + 1], after[COUNT + 1];
    uint64_t random = 7;
    size_t joined = 0;
    struct rig rig = open_rig(*state, "a");
    for (size_t i = 0; i <= COUNT; i++)
        positions[i] =
            (i > 0 ? positions[i - 1] : 0) + 1000000 + (int64_t)tst_random_below(&random, 1000000);
    begin(&rig, positions, COUNT, before);
    while (joined < COUNT && before[joined] == 1)
        joined++;
    assert_in_range(joined, 1000, COUNT - 1000);
    for (size_t i = joined; i < COUNT; i++)
        assert_int_equal(before[i], before[i - 1] + 1);
    begin(&rig, positions, COUNT, after);
    for (size_t i = 0; i < joined; i++)
        assert_int_equal(after[i], 1);
    restart(&rig);
    begin(&rig, positions, COUNT + 1, after);
    for (size_t i = 0; i < joined; i++)
        assert_int_equal(after[i], 1);
    for (size_t i = joined; i <= COUNT; i++)
        assert_true(after[i] > after[i - 1]);
    close_rig(&rig);
}

#define LOG_US INT64_C(1700000000000000)

static void send(struct rig *rig, struct ldg_op *ops, size_t count)
{
    ledger_error err;
    tst_ok(ldg_sending_begin(&rig->sending, rig->store, rig->cursor, ops, count, true, &err), &err);
}

static void is_trim_of(const struct ldg_op *op, const int64_t *survivors, size_t count)
{
    assert_int_equal(op->survivor_count, count);
    for (size_t i = 0; i < count; i++)
        assert_true(ldg_id_equal(op->survivors[i], ldg_id_of(survivors[i])));
}

/* Rows that are gone when their events are read again, and survivors that are gone, or new. */
static void what_tables_told_is_known_again(void **state)
{
    const ledger_id two[] = { ldg_id_of(3), ldg_id_of(70) }, late[] = { ldg_id_of(4) };
    const struct ldg_op first[] = {
        { .kind = LDG_OP_APPEND,
          .log_position = 10,
          .from_row = true,
          .log_time_us = LOG_US,
          .time_us = LOG_US + 1000 },
        { .kind = LDG_OP_APPEND,
          .log_position = 11,
          .from_row = true,
          .log_time_us = LOG_US,
          .time_us = LOG_US },
        { .kind = LDG_OP_APPEND,
          .log_position = 11,
          .part = 1,
          .from_row = true,
          .log_time_us = LOG_US,
          .time_us = LOG_US - 5 },
        { .kind = LDG_OP_APPEND, .log_position = 12, .log_time_us = LOG_US, .time_us = LOG_US + 9 },
        { .kind = LDG_OP_TRIM, .log_position = 13, .survivors = two, .survivor_count = 2 },
        { .kind = LDG_OP_TRIM, .log_position = 14 },
    };
    const struct ldg_op again[] = {
        { .kind = LDG_OP_APPEND,
          .log_position = 9,
          .from_row = true,
          .log_time_us = LOG_US,
          .time_us = LOG_US + 2000 },
        { .kind = LDG_OP_APPEND,
          .log_position = 10,
          .inexact = true,
          .log_time_us = LOG_US,
          .time_us = LOG_US },
        { .kind = LDG_OP_APPEND,
          .log_position = 11,
          .inexact = true,
          .log_time_us = LOG_US,
          .time_us = LOG_US },
        { .kind = LDG_OP_APPEND,
          .log_position = 11,
          .part = 1,
          .from_row = true,
          .log_time_us = LOG_US,
          .time_us = LOG_US - 5 },
        { .kind = LDG_OP_APPEND, .log_position = 12, .log_time_us = LOG_US, .time_us = LOG_US + 9 },
        { .kind = LDG_OP_TRIM, .log_position = 13 },
        { .kind = LDG_OP_TRIM, .log_position = 14, .survivors = late, .survivor_count = 1 },
        { .kind = LDG_OP_TRIM, .log_position = 15, .survivors = late, .survivor_count = 1 },
    };
    enum { FIRST = sizeof(first) / sizeof(first[0]), AGAIN = sizeof(again) / sizeof(again[0]) };
    static const int64_t offsets[] = { 2000, 1000, 0, -5, 9 };
    struct ldg_op ops[AGAIN];
    struct rig rig = open_rig(*state, "a");
    memcpy(ops, first, sizeof(first));
    send(&rig, ops, FIRST);
    assert_memory_equal(&ops[0].time_us, &first[0].time_us, sizeof(ops[0].time_us));
    for (int i = 0; i < 4; i++) {
        if (i > 1)
            restart(&rig);
        memcpy(ops, again, sizeof(again));
        if (i > 0) /* by now it is an earlier try's, too */
            ops[0] = (struct ldg_op){ .kind = LDG_OP_APPEND,
                                      .log_position = 9,
                                      .inexact = true,
                                      .log_time_us = LOG_US,
                                      .time_us = LOG_US };
        send(&rig, ops, AGAIN);
        for (size_t k = 0; k < sizeof(offsets) / sizeof(offsets[0]); k++)
            assert_true(ops[k].time_us == LOG_US + offsets[k]);
        is_trim_of(&ops[5], (const int64_t[]){ 3, 70 }, 2);
        is_trim_of(&ops[6], NULL, 0);
        is_trim_of(&ops[7], (const int64_t[]){ 4 }, 1);
    }
    close_rig(&rig);
}

/* What found no room is as it is read now. */
static void there_is_room_for_some_details(void **state)
{
    enum { COUNT = 3000 };
    struct rig rig = open_rig(*state, "a");
    struct ldg_op *ops = ldg_calloc(COUNT, sizeof(*ops));
    size_t kept = 0;
    assert_non_null(ops);
    for (int i = 0; i < 3; i++) {
        if (i == 2)
            restart(&rig);
        for (size_t k = 0; k < COUNT; k++)
            ops[k] = (struct ldg_op){ .kind = LDG_OP_APPEND,
                                      .log_position = (int64_t)k + 1,
                                      .from_row = i == 0,
                                      .inexact = i > 0,
                                      .log_time_us = LOG_US,
                                      .time_us = i == 0 ? LOG_US + 1000 : LOG_US };
        send(&rig, ops, COUNT);
        for (size_t k = 0; i < 2 && k < COUNT; k++)
            assert_true(ops[k].time_us == LOG_US + 1000);
    }
    while (kept < COUNT && ops[kept].time_us == LOG_US + 1000)
        kept++;
    assert_in_range(kept, 500, COUNT - 500);
    for (size_t k = kept; k < COUNT; k++)
        assert_true(ops[k].time_us == LOG_US);
    for (size_t k = 0; k < COUNT; k++)
        assert_int_equal(ops[k].delivery, 1);
    ldg_free(ops);
    close_rig(&rig);
}

/* Ids that are texts are not kept; then all is as it is read now. */
static void survivors_of_texts_are_read_again(void **state)
{
    const ledger_id text = { .text = "x" };
    struct ldg_op op = {
        .kind = LDG_OP_TRIM, .log_position = 1, .survivors = &text, .survivor_count = 1
    };
    struct rig rig = open_rig(*state, "a");
    for (int i = 0; i < 3; i++) {
        if (i == 2)
            restart(&rig);
        send(&rig, &op, 1);
        assert_ptr_equal(op.survivors, &text);
        assert_int_equal(op.survivor_count, 1);
    }
    close_rig(&rig);
}

/* What somebody else has written there is no reason to stop. */
static void garbage_is_as_nothing(void **state)
{
    static const char *const texts[] = {
        "garbage",
        "1 d24ec4f1a98c6e5b",
        "1 /",
        "%s/",
        "%s/1 2x",
        "%s/1 2x0",
        "%s/1x99999999999",
        "%s 5",
        "%s/5 1x2097153",
        "%s/1 x3",
        "%s/9999999999999999999999 1x3/",
        "%s/3@",
        "%s/3@3",
        "%s/3@3.",
        "%s/3@3.-1",
        "%s/3@3.4294967296",
        "%s/3@3.0:",
        "%s/3@3.0:1,",
        "%s/3@3.0:1 4",
        "%s/9223372036854775807 9223372036854775807@9223372036854775807.0@9223372036854775807.0x",
        "%s/3+x",
        "%s/3@+x",
    };
    struct rig rig = open_rig(*state, "a");
    struct ldg_cursor *row = ldg_calloc(2, sizeof(*row));
    char head[32];
    ledger_error err;
    assert_non_null(row);
    check(&rig, (const int64_t[]){ 3 }, (const uint32_t[]){ 1 }, 1);
    memcpy(head, rig.sending.row.state, strcspn(rig.sending.row.state, "/") + 1);
    head[strcspn(head, "/")] = '\0';
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        const char *rest = strncmp(texts[i], "%s", 2) == 0 ? texts[i] + 2 : NULL;
        tst_ok(ldg_store_cursor_get(rig.store, "orders/sending", false, &row[0], &err), &err);
        row[1] = row[0];
        snprintf(row[1].state, sizeof(row[1].state), "%s%s", rest != NULL ? head : texts[i],
                 rest != NULL ? rest : "");
        tst_ok(ldg_store_cursor_set(rig.store, "orders/sending", &row[0], &row[1], &err), &err);
        restart(&rig);
        check(&rig, (const int64_t[]){ 3, 4 }, (const uint32_t[]){ 1, 1 }, 2);
    }
    ldg_free(row);
    close_rig(&rig);
}

/* Two of one name: whoever writes second is told, and finds what the first one sends. */
static void two_of_one_name_are_fenced(void **state)
{
    struct rig a = open_rig(*state, "a"), b = open_rig(*state, "a");
    struct ldg_op op = { .log_position = 9 };
    ledger_error err;
    check(&a, (const int64_t[]){ 1, 2 }, (const uint32_t[]){ 1, 1 }, 2);
    check(&b, (const int64_t[]){ 1, 2, 3 }, (const uint32_t[]){ 1, 1, 2 }, 3);
    tst_fails(ldg_sending_begin(&a.sending, a.store, a.cursor, &op, 1, true, &err),
              LEDGER_ERR_FENCED, &err);
    assert_int_equal(op.delivery, 0);
    check(&a, (const int64_t[]){ 1, 2, 3, 4 }, (const uint32_t[]){ 1, 1, 2, 3 }, 4);
    close_rig(&a);
    close_rig(&b);
}

static void knows_its_names(void **state)
{
    (void)state;
    assert_true(ldg_sending_is_name("orders/sending"));
    assert_true(ldg_sending_is_name("/sending"));
    assert_false(ldg_sending_is_name("orders"));
    assert_false(ldg_sending_is_name("sending"));
    assert_false(ldg_sending_is_name("orders/sending2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(later_ones_get_the_next_number),    T(another_cursor_begins_anew),
        T(every_shape_is_known_again),        T(what_finds_no_room_goes_alone),
        T(what_tables_told_is_known_again),   T(there_is_room_for_some_details),
        T(survivors_of_texts_are_read_again), T(garbage_is_as_nothing),
        T(two_of_one_name_are_fenced),        T(knows_its_names),
    };
    return cmocka_run_group_tests_name("sending", tests, NULL, NULL);
}
