/* Each allocation of a batch fails in turn: NOMEM, and nothing has changed. */
#include "ops.h"

static size_t left; /* allocations until one fails; 0: none does */

static bool fails(const struct ldg_arena *arena)
{
    return f != NULL && arena == &f->batch_arena && left > 0 && --left == 0;
}

void *__real_ldg_arena_alloc(struct ldg_arena *arena, size_t size);
void *__wrap_ldg_arena_alloc(struct ldg_arena *arena, size_t size);
void *__wrap_ldg_arena_alloc(struct ldg_arena *arena, size_t size)
{
    return fails(arena) ? NULL : __real_ldg_arena_alloc(arena, size);
}

void *__real_ldg_arena_calloc(struct ldg_arena *arena, size_t count, size_t size);
void *__wrap_ldg_arena_calloc(struct ldg_arena *arena, size_t count, size_t size);
void *__wrap_ldg_arena_calloc(struct ldg_arena *arena, size_t count, size_t size)
{
    return fails(arena) ? NULL : __real_ldg_arena_calloc(arena, count, size);
}

void *__real_ldg_arena_memdup(struct ldg_arena *arena, const void *data, size_t size);
void *__wrap_ldg_arena_memdup(struct ldg_arena *arena, const void *data, size_t size);
void *__wrap_ldg_arena_memdup(struct ldg_arena *arena, const void *data, size_t size)
{
    return fails(arena) ? NULL : __real_ldg_arena_memdup(arena, data, size);
}

char *__real_ldg_arena_strdup(struct ldg_arena *arena, const char *text);
char *__wrap_ldg_arena_strdup(struct ldg_arena *arena, const char *text);
char *__wrap_ldg_arena_strdup(struct ldg_arena *arena, const char *text)
{
    return fails(arena) ? NULL : __real_ldg_arena_strdup(arena, text);
}

/* Fails each in turn until the batch gets through. */
static void try_all(enum fake_way way, const char *letters)
{
    const size_t count = op_count, rows = f->now->row_count, parked = f->now->parked_count,
                 events = f->now->event_count;
    const size_t before = f->reserves ? 2 : 1; /* of the fake */
    ledger_rc rc = LEDGER_ERR_NOMEM;
    size_t n = 0;

    while (rc != LEDGER_OK) {
        left = before + ++n;
        op_count = count;
        rc = try_batch(way);
        if (rc == LEDGER_OK)
            break;
        assert_int_equal(rc, LEDGER_ERR_NOMEM);
        assert_string_equal(err.message, "out of memory");
        assert_int_equal(f->now->row_count, rows);
        assert_int_equal(f->now->parked_count, parked);
        assert_int_equal(f->now->event_count, events);
    }
    assert_true(left > 0); /* the last one was not needed */
    left = 0;
    assert_true(n > 5);
    outcomes_are(letters);
}

static ledger_map unsorted(void)
{
    static const ledger_pair pairs[] = { { "z", "1" }, { "a", "2" } };

    return (ledger_map){ pairs, 2 };
}

static void of_an_optimistic_batch(void **state)
{
    for (int ids = 0; ids < 2; ids++) {
        const int64_t key = 100 * ids;

        f->reserves = ids;
        append(A, key + 1, "s", "1", "");
        append(A, key + 2, "s", "2", ids == 0 ? "k" : "l");
        tag(A, key + 2, "s", "t");
        annotate(A, key + 2, "s", "k", "v");
        annotate(A, key + 1, "s", "k", "v")->annotations = unsorted();
        if (ids != 0)
            trim(A, key + 1, "s");
        for (int origin = B; origin < FAKE_ORIGINS_MAX; origin++)
            append(origin, key + 1, "s", "1", "");
        try_all(ids == 0 ? FAKE_OPTIMISTIC : FAKE_OVERLAP,
                ids == 0 ? "aaaaaaaaaaa" : "aaaaaaaaaaaa");
    }
    append(A, 301, "s", "1", ""); /* of a plan that only adds; a late one */
    append(A, 300, "s", "1", "");
    try_all(FAKE_OPTIMISTIC, "aa");
    assert_true(f->was_optimistic);
}

static void of_an_informed_batch(void **state)
{
    static struct fake_state before;

    f->refuses = refuses_no;
    append_key(C, txt("text"), "s", "c", "held");
    append(A, 10, "s", "10", "k")->entry = append(A, 11, "s", "11", "")->entry;
    op_count = 1;
    append(A, 10, "s", "10", "k");
    append(A, 11, "s", "11", "");
    append(A, 12, "s", "12", "");
    run(FAKE_OPTIMISTIC, "aaaa");
    tag(A, 10, "s", "b")->mutation_origin = B;
    odd(0, "", "");
    odd(5, "s", "odd");
    odd(6, "s", "odd");
    run(FAKE_INFORMED, "appp");
    memcpy(&before, f->now, sizeof(before));
    for (int ids = 0; ids < 2; ids++) {
        memcpy(f->now, &before, sizeof(before));
        f->reserves = ids;
        at_position(positions[A] + 1);
        append(A, 10, "s", "10", "k");
        append(A, 3, "s", "3", "held");
        append(A, 4, "s", "4", "");
        tag(A, 4, "s", "t");
        annotate(A, 4, "s", "k", "v")->annotations = unsorted();
        annotate(A, 11, "s", "k", "v")->annotations = unsorted();
        annotate(A, 11, "s", "k", "w")->mutation_origin = B;
        tag(A, 10, "s", "c")->mutation_origin = B;
        tag(A, 5, "s", "waits");
        append(A, 20, "s", "\"no\"", "");
        trim(A, 5, "s");
        at_position(positions[A] + 5);
        append(B, 1, "s", "1", "");
        try_all(FAKE_INFORMED, "rpaaaaaappaa");
    }
}

static void of_a_batch_that_the_log_refuses(void **state)
{
    f->event_max = 0;
    append(A, 1, "s", "1", "");
    append(A, 2, "s", "2", "");
    try_all(FAKE_INFORMED, "aa");
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(of_an_optimistic_batch),
        TEST(of_an_informed_batch),
        TEST(of_a_batch_that_the_log_refuses),
    };

    return cmocka_run_group_tests_name("sink nomem", tests, NULL, NULL);
}
