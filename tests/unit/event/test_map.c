/* Sorting, merging and comparing maps, and decimal ids. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "event/event.h"
#include "event_util.h"

#define MAP(...)                                                                                   \
    ((ledger_map){ (const ledger_pair[]){ __VA_ARGS__ },                                           \
                   sizeof((const ledger_pair[]){ __VA_ARGS__ }) / sizeof(ledger_pair) })
#define LIST(...)                                                                                  \
    ((ledger_list){ (const char *const[]){ __VA_ARGS__ },                                          \
                    sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *) })

static void sorts_and_the_last_wins(void **state)
{
    struct ldg_arena arena;
    ledger_map map;
    ldg_arena_init(&arena, 0);
    assert_int_equal(ldg_map_sort(MAP({ "b", "1" }, { "a", "2" }, { "b", "3" }, { "", "4" },
                                      { "a", NULL }, { "\xff", "5" }, { "B", "6" }),
                                  &arena, &map, NULL),
                     LEDGER_OK);
    assert_true(ldg_map_equal(
        map, MAP({ "", "4" }, { "B", "6" }, { "a", NULL }, { "b", "3" }, { "\xff", "5" })));
    /* Equal neighbours in an order that looks sorted. */
    assert_int_equal(
        ldg_map_sort(MAP({ "a", "1" }, { "a", "2" }, { "a", "3" }), &arena, &map, NULL), LEDGER_OK);
    assert_true(ldg_map_equal(map, MAP({ "a", "3" })));
    assert_int_equal(ldg_map_sort((ledger_map){ 0 }, &arena, &map, NULL), LEDGER_OK);
    assert_int_equal(map.count, 0);
    ldg_arena_fini(&arena);
}

static void a_sorted_map_is_not_copied(void **state)
{
    struct ldg_arena arena;
    ledger_map map, sorted = MAP({ "a", "1" }, { "b", "2" }, { "ba", "3" });
    ldg_arena_init(&arena, 0);
    assert_int_equal(ldg_map_sort(sorted, &arena, &map, NULL), LEDGER_OK);
    assert_ptr_equal(map.items, sorted.items);
    assert_null(arena.chunks);
    ldg_arena_fini(&arena);
}

/* Against the plainest way to do it. */
static void random_maps_sort(void **state)
{
    uint64_t seed = 1;
    for (int round = 0; round < 2000; round++) {
        struct ldg_arena arena;
        ledger_pair items[40];
        size_t count = random_below(&seed, 40);
        ledger_map map;
        ldg_arena_init(&arena, 0);
        for (size_t i = 0; i < count; i++)
            items[i] =
                (ledger_pair){ random_text(&seed, 2, &arena), random_text(&seed, 5, &arena) };
        assert_int_equal(ldg_map_sort((ledger_map){ items, count }, &arena, &map, NULL), LEDGER_OK);
        for (size_t i = 1; i < map.count; i++)
            assert_true(strcmp(map.items[i - 1].key, map.items[i].key) < 0);
        for (size_t i = 0; i < count; i++) {
            const char *expected = NULL, *found = NULL;
            for (size_t k = 0; k < count; k++) {
                if (strcmp(items[k].key, items[i].key) == 0)
                    expected = items[k].value;
            }
            for (size_t k = 0; k < map.count; k++) {
                if (strcmp(map.items[k].key, items[i].key) == 0)
                    found = map.items[k].value;
            }
            assert_ptr_equal(found, expected);
        }
        ldg_arena_fini(&arena);
    }
}

static void merges(void **state)
{
    struct ldg_arena arena;
    ledger_map map, base = MAP({ "a", "1" }, { "c", "3" }, { "e", "5" }), none = { 0 };
    ldg_arena_init(&arena, 0);
    assert_int_equal(ldg_map_merge(base,
                                   MAP({ "e", NULL }, { "b", "2" }, { "c", "x" }, { "z", NULL },
                                       { "b", "last" }, { "f", "6" }),
                                   &arena, &map, NULL),
                     LEDGER_OK);
    assert_true(ldg_map_equal(map, MAP({ "a", "1" }, { "b", "last" }, { "c", "x" }, { "f", "6" })));
    assert_int_equal(ldg_map_merge(base, none, &arena, &map, NULL), LEDGER_OK);
    assert_true(ldg_map_equal(map, base));
    assert_int_equal(ldg_map_merge(none, base, &arena, &map, NULL), LEDGER_OK);
    assert_true(ldg_map_equal(map, base));
    assert_int_equal(ldg_map_merge(none, none, &arena, &map, NULL), LEDGER_OK);
    assert_int_equal(map.count, 0);
    assert_int_equal(
        ldg_map_merge(base, MAP({ "a", NULL }, { "c", NULL }, { "e", NULL }), &arena, &map, NULL),
        LEDGER_OK);
    assert_int_equal(map.count, 0);
    /* An empty value is a value. */
    assert_int_equal(ldg_map_merge(base, MAP({ "a", "" }), &arena, &map, NULL), LEDGER_OK);
    assert_true(ldg_map_equal(map, MAP({ "a", "" }, { "c", "3" }, { "e", "5" })));
    ldg_arena_fini(&arena);
}

static void compares(void **state)
{
    ledger_map none = { 0 };
    ledger_list empty = { 0 };
    assert_true(ldg_map_equal(none, none));
    assert_false(ldg_map_equal(none, MAP({ "a", "1" })));
    assert_true(ldg_map_equal(MAP({ "a", "1" }, { "b", NULL }), MAP({ "a", "1" }, { "b", NULL })));
    assert_false(ldg_map_equal(MAP({ "a", "1" }), MAP({ "a", "2" })));
    assert_false(ldg_map_equal(MAP({ "a", "1" }), MAP({ "b", "1" })));
    assert_false(ldg_map_equal(MAP({ "a", NULL }), MAP({ "a", "" })));
    assert_false(ldg_map_equal(MAP({ "a", "" }), MAP({ "a", NULL })));
    assert_true(ldg_list_equal(empty, empty));
    assert_false(ldg_list_equal(empty, LIST("a")));
    assert_true(ldg_list_equal(LIST("a", "b"), LIST("a", "b")));
    assert_false(ldg_list_equal(LIST("a", "b"), LIST("b", "a")));
}

static void parses_ids(void **state)
{
    static const struct {
        const char *text;
        bool plain, padded;
        int64_t value;
    } cases[] = {
        { "0", true, true, 0 },
        { "7", true, true, 7 },
        { "123", true, true, 123 },
        { "9223372036854775807", true, true, INT64_MAX },
        { "9223372036854775808", false, false, 0 },
        { "92233720368547758070", false, false, 0 },
        { "0000000000000000042", false, true, 42 },
        { "00", false, true, 0 },
        { "01", false, true, 1 },
        { "", false, false, 0 },
        { "-1", false, false, 0 },
        { "+1", false, false, 0 },
        { " 1", false, false, 0 },
        { "1 ", false, false, 0 },
        { "1.0", false, false, 0 },
        { "0x1", false, false, 0 },
        { "1e3", false, false, 0 },
        { "\xd9\xa1", false, false, 0 }, /* a digit, but no ASCII one */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t value = -5;
        assert_int_equal(ldg_int64_parse(cases[i].text, false, &value), cases[i].plain);
        assert_int_equal(value, cases[i].plain ? cases[i].value : -5);
        value = -5;
        assert_int_equal(ldg_int64_parse(cases[i].text, true, &value), cases[i].padded);
        assert_int_equal(value, cases[i].padded ? cases[i].value : -5);
    }
}

static ledger_rc merge_once(void *ctx)
{
    struct ldg_arena arena;
    ledger_map map;
    ledger_pair items[100], changes[100];
    char keys[200][4];
    for (int i = 0; i < 100; i++) {
        memcpy(keys[i], (char[]){ 'k', (char)('z' - i % 26), (char)('a' + i / 26), '\0' }, 4);
        memcpy(keys[100 + i], (char[]){ 'm', (char)('z' - i % 26), (char)('a' + i / 26), '\0' }, 4);
        items[i] = (ledger_pair){ keys[i], "v" };
        changes[i] = (ledger_pair){ keys[100 + i], i % 3 == 0 ? NULL : "w" };
    }
    ldg_arena_init(&arena, 0);
    ledger_error err = { 0 };
    ledger_rc rc =
        ldg_map_merge((ledger_map){ items, 100 }, (ledger_map){ changes, 100 }, &arena, &map, &err);
    if (rc == LEDGER_OK)
        assert_int_equal(map.count, 166);
    else
        assert_int_equal(err.code, LEDGER_ERR_NOMEM);
    ldg_arena_fini(&arena);
    return rc;
}

/* Sorted inputs, too many for one chunk: the result is the only allocation. */
static ledger_rc merge_sorted(void *ctx)
{
    struct ldg_arena arena;
    ledger_map map, sorted = *(ledger_map *)ctx;
    ldg_arena_init(&arena, 0);
    ledger_rc rc = ldg_map_merge(sorted, sorted, &arena, &map, NULL);
    ldg_arena_fini(&arena);
    return rc;
}

static void every_allocation_may_fail(void **state)
{
    ledger_map sorted = MAP({ "a", "1" }, { "b", "2" });
    assert_int_equal(alloc_fail_each(merge_sorted, &sorted), 1);
    assert_in_range(alloc_fail_each(merge_once, NULL), 2, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sorts_and_the_last_wins),
        cmocka_unit_test(a_sorted_map_is_not_copied),
        cmocka_unit_test(random_maps_sort),
        cmocka_unit_test(merges),
        cmocka_unit_test(compares),
        cmocka_unit_test(parses_ids),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
