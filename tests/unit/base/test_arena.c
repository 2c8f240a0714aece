/* Alignment, no overlap, reuse after reset, own chunks for large pieces, failing allocations. */
#include <setjmp.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "base/arena.h"

static bool is_aligned(const void *p)
{
    return (uintptr_t)p % alignof(max_align_t) == 0;
}

/* Pieces of all sizes, each filled with its own byte and checked at the end. */
static void pieces_do_not_overlap(void **state)
{
    enum { COUNT = 3000 };
    static unsigned char *pieces[COUNT];
    static size_t sizes[COUNT];
    struct ldg_arena arena;
    ldg_arena_init(&arena, 1 << 20);
    for (int round = 0; round < 3; round++) {
        size_t total = 0;
        for (size_t i = 0; i < COUNT; i++) {
            sizes[i] = i % 100 == 99 ? i * 7 : i % 97;
            pieces[i] = ldg_arena_alloc(&arena, sizes[i]);
            assert_non_null(pieces[i]);
            assert_true(is_aligned(pieces[i]));
            memset(pieces[i], (int)(i & 0xff), sizes[i]);
            total += sizes[i];
        }
        for (size_t i = 0; i < COUNT; i++) {
            for (size_t k = 0; k < sizes[i]; k++)
                assert_int_equal(pieces[i][k], i & 0xff);
        }
        assert_true(arena.used >= total);
        ldg_arena_reset(&arena);
        assert_int_equal(arena.used, 0);
    }
    ldg_arena_fini(&arena);
    ldg_arena_fini(&arena); /* twice is fine */
}

static void size_zero_is_distinct(void **state)
{
    struct ldg_arena arena;
    ldg_arena_init(&arena, 0);
    void *a = ldg_arena_alloc(&arena, 0), *b = ldg_arena_alloc(&arena, 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_ptr_not_equal(a, b);
    assert_non_null(ldg_arena_calloc(&arena, 0, 8));
    assert_non_null(ldg_arena_memdup(&arena, NULL, 0));
    assert_string_equal(ldg_arena_strndup(&arena, NULL, 0), "");
    ldg_arena_fini(&arena);
}

static void copies(void **state)
{
    struct ldg_arena arena;
    ldg_arena_init(&arena, 0);
    char *a = ldg_arena_strdup(&arena, "hello");
    char *b = ldg_arena_strndup(&arena, "hello", 3);
    char *c = ldg_arena_strdup(&arena, "");
    unsigned char *d = ldg_arena_memdup(&arena, "\0\1\2", 3);
    unsigned char *e = ldg_arena_calloc(&arena, 1000, 10);
    assert_true(is_aligned(d)); /* after strings of odd length */
    assert_string_equal(a, "hello");
    assert_string_equal(b, "hel");
    assert_string_equal(c, "");
    assert_memory_equal(d, "\0\1\2", 3);
    for (size_t i = 0; i < 10000; i++)
        assert_int_equal(e[i], 0);
    ldg_arena_fini(&arena);
}

/* Memory that was used before is not zero: calloc must clear it. */
static void calloc_after_reset_is_zero(void **state)
{
    struct ldg_arena arena;
    ldg_arena_init(&arena, 1 << 20);
    memset(ldg_arena_alloc(&arena, 3000), 0xff, 3000);
    ldg_arena_reset(&arena);
    unsigned char *p = ldg_arena_calloc(&arena, 3000, 1);
    for (size_t i = 0; i < 3000; i++)
        assert_int_equal(p[i], 0);
    ldg_arena_fini(&arena);
}

static uint64_t allocations_of_round(struct ldg_arena *arena, size_t piece, size_t count)
{
    alloc_fail_at(UINT64_MAX);
    for (size_t i = 0; i < count; i++)
        assert_non_null(ldg_arena_alloc(arena, piece));
    uint64_t made = alloc_fail_count();
    alloc_fail_off();
    return made;
}

static void reset_keeps_for_reuse(void **state)
{
    struct ldg_arena arena;
    ldg_arena_init(&arena, 4 << 20);
    uint64_t first = allocations_of_round(&arena, 100, 5000);
    assert_in_range(first, 2, 20); /* chunks grow: far fewer than pieces */
    ldg_arena_reset(&arena);
    assert_int_equal(allocations_of_round(&arena, 100, 5000), 0);
    ldg_arena_fini(&arena);

    ldg_arena_init(&arena, 0); /* keep nothing */
    allocations_of_round(&arena, 100, 50);
    ldg_arena_reset(&arena);
    assert_null(arena.chunks);
    assert_null(arena.spare);
    ldg_arena_fini(&arena);
}

/* A batch with one huge payload does not hold its memory for ever. */
static void reset_gives_large_pieces_back(void **state)
{
    struct ldg_arena arena;
    ldg_arena_init(&arena, (size_t)8 << 20);
    assert_non_null(ldg_arena_alloc(&arena, 10));
    assert_non_null(ldg_arena_alloc(&arena, (size_t)4 << 20));
    ldg_arena_reset(&arena);
    assert_int_equal(allocations_of_round(&arena, (size_t)4 << 20, 1), 1);
    ldg_arena_fini(&arena);
}

/* A large piece between small ones does not end the present chunk. */
static void large_piece_gets_its_own_chunk(void **state)
{
    struct ldg_arena arena;
    ldg_arena_init(&arena, 0);
    char *before = ldg_arena_alloc(&arena, 16);
    char *large = ldg_arena_alloc(&arena, 100000);
    char *after = ldg_arena_alloc(&arena, 16);
    assert_non_null(large);
    assert_in_range(after - before, 16, 64);
    ldg_arena_fini(&arena);
}

static void impossible_sizes_fail(void **state)
{
    struct ldg_arena arena;
    ldg_arena_init(&arena, 0);
    assert_null(ldg_arena_alloc(&arena, SIZE_MAX));
    assert_null(ldg_arena_alloc(&arena, SIZE_MAX - 64));
    assert_null(ldg_arena_alloc(&arena, SIZE_MAX / 2 + 1));
    assert_null(ldg_arena_calloc(&arena, SIZE_MAX / 2, 3));
    assert_null(ldg_arena_strndup(&arena, "", SIZE_MAX));
    assert_non_null(ldg_arena_alloc(&arena, 1)); /* still good */
    ldg_arena_fini(&arena);
}

static void an_array_grows(void **state)
{
    struct ldg_arena arena;
    size_t cap = 0;
    int *items = NULL;
    ldg_arena_init(&arena, 0);
    for (int i = 0; i < 40; i++) {
        int *before = items;
        size_t room = cap;
        items = ldg_arena_grow(&arena, items, sizeof(*items), (size_t)i, &cap);
        assert_non_null(items);
        assert_in_range(cap, (size_t)i + 1, 64);
        if ((size_t)i < room)
            assert_ptr_equal(items, before);
        items[i] = i;
    }
    for (int i = 0; i < 40; i++)
        assert_int_equal(items[i], i);
    assert_null(ldg_arena_grow(&arena, items, SIZE_MAX / 2, cap, &cap));
    assert_int_equal(cap, 64);
    ldg_arena_fini(&arena);
}

static ledger_rc fill(void *ctx)
{
    struct ldg_arena arena;
    ledger_rc rc = LEDGER_OK;
    ldg_arena_init(&arena, 0);
    for (size_t i = 0; i < 100 && rc == LEDGER_OK; i++) {
        if (ldg_arena_alloc(&arena, i * 50) == NULL || ldg_arena_calloc(&arena, i, 30) == NULL ||
            ldg_arena_strdup(&arena, "text") == NULL ||
            ldg_arena_strndup(&arena, "text", 2) == NULL ||
            ldg_arena_memdup(&arena, &arena, sizeof arena) == NULL)
            rc = LEDGER_ERR_NOMEM;
    }
    /* What there is stays good after a failure. */
    ldg_arena_reset(&arena);
    ldg_arena_fini(&arena);
    return rc;
}

static void every_allocation_may_fail(void **state)
{
    assert_in_range(alloc_fail_each(fill, NULL), 5, 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_do_not_overlap),
        cmocka_unit_test(size_zero_is_distinct),
        cmocka_unit_test(copies),
        cmocka_unit_test(calloc_after_reset_is_zero),
        cmocka_unit_test(reset_keeps_for_reuse),
        cmocka_unit_test(reset_gives_large_pieces_back),
        cmocka_unit_test(large_piece_gets_its_own_chunk),
        cmocka_unit_test(impossible_sizes_fail),
        cmocka_unit_test(an_array_grows),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
