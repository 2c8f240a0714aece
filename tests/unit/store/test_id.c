#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "store/id.h"

static ledger_id text_id(const char *text)
{
    return (ledger_id){ .text = text };
}

static void numbers_come_before_texts(void **state)
{
    static const ledger_id ascending[] = {
        { .number = -4 },
        { .number = 0 },
        { .number = 9 },
        { .number = 10 },
        { .number = INT64_MAX },
        { .text = "10" },
        { .text = "65f0a1b2c3d4e5f600000009" },
        { .text = "65f0a1b2c3d4e5f60000000a" },
        { .text = "9" },
        { .text = "\xc3\xa4" }, /* bytewise: behind all of ASCII */
    };
    const size_t count = sizeof(ascending) / sizeof(*ascending);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < count; k++) {
            const int order = ldg_id_compare(ascending[i], ascending[k]);
            assert_int_equal((order > 0) - (order < 0), (i > k) - (i < k));
            assert_int_equal(ldg_id_equal(ascending[i], ascending[k]), i == k);
        }
}

static void a_trim_reaches_its_own_kind(void **state)
{
    assert_true(ldg_id_is_up_to(ldg_id_of(9), ldg_id_of(9)));
    assert_true(ldg_id_is_up_to(ldg_id_of(9), ldg_id_of(10)));
    assert_false(ldg_id_is_up_to(ldg_id_of(10), ldg_id_of(9)));
    assert_true(ldg_id_is_up_to(text_id("10"), text_id("9")));
    assert_false(ldg_id_is_up_to(text_id("9"), text_id("10")));
    assert_false(ldg_id_is_up_to(ldg_id_of(1), text_id("9")));
    assert_false(ldg_id_is_up_to(text_id("9"), ldg_id_of(10)));
}

static void none(void **state)
{
    assert_true(ldg_id_is_none((ledger_id){ 0 }));
    assert_false(ldg_id_is_none(ldg_id_of(1)));
    assert_false(ldg_id_is_none(text_id("")));
}

static void hashes_follow_equality(void **state)
{
    const char copy[] = "65f0a1b2c3d4e5f600000009";
    assert_true(ldg_id_hash(text_id("65f0a1b2c3d4e5f600000009"), 1) ==
                ldg_id_hash(text_id(copy), 1));
    assert_true(ldg_id_hash(ldg_id_of(7), 1) == ldg_id_hash(ldg_id_of(7), 1));
    assert_false(ldg_id_hash(ldg_id_of(7), 1) == ldg_id_hash(ldg_id_of(8), 1));
    assert_false(ldg_id_hash(ldg_id_of(7), 1) == ldg_id_hash(ldg_id_of(7), 2));
    assert_false(ldg_id_hash(text_id("a"), 1) == ldg_id_hash(text_id("b"), 1));
}

static void the_text_says_the_kind(void **state)
{
    static const struct {
        const char *text;
        int64_t number;
    } numbers[] = {
        { "1", 1 },
        { "0", 0 },
        { "-7", -7 },
        { "9223372036854775807", INT64_MAX },
    };
    static const char *const texts[] = {
        "007", "9223372036854775808", "650000000000000000000001", "a", "-", "--1", "1 ", "\xc3\xa4",
    };
    char longest[LEDGER_ID_TEXT_MAX + 1], buffer[LEDGER_ID_TEXT_MAX];
    ledger_id id = { 0 };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
        assert_true(ldg_id_parse(numbers[i].text, &id));
        assert_null(id.text);
        assert_true(id.number == numbers[i].number);
        assert_string_equal(ldg_id_text(id, buffer), numbers[i].text);
    }
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        assert_true(ldg_id_parse(texts[i], &id));
        assert_ptr_equal(id.text, texts[i]);
        assert_ptr_equal(ldg_id_text(id, buffer), texts[i]);
    }
    memset(longest, 'x', sizeof(longest));
    longest[LEDGER_ID_TEXT_MAX - 1] = '\0';
    assert_true(ldg_id_parse(longest, &id));
    longest[LEDGER_ID_TEXT_MAX - 1] = 'x';
    longest[LEDGER_ID_TEXT_MAX] = '\0';
    assert_false(ldg_id_parse(longest, &id));
    assert_false(ldg_id_parse("", &id));
    assert_false(ldg_id_parse("\xff", &id));
}

static void copies_own_their_text(void **state)
{
    char text[] = "65f0a1b2c3d4e5f600000009";
    struct ldg_id_own own = { 0 };
    struct ldg_arena arena;
    ledger_id copy = { 0 };
    assert_true(ldg_id_is_none(own.id));
    ldg_arena_init(&arena, 0);
    assert_true(ldg_id_copy(text_id(text), &arena, &copy));
    ldg_id_own_set(&own, text_id(text));
    text[0] = 'x';
    assert_string_equal(copy.text, "65f0a1b2c3d4e5f600000009");
    assert_string_equal(own.id.text, "65f0a1b2c3d4e5f600000009");
    assert_true(ldg_id_copy(ldg_id_of(5), &arena, &copy));
    ldg_id_own_set(&own, ldg_id_of(5));
    assert_true(ldg_id_equal(copy, ldg_id_of(5)) && ldg_id_equal(own.id, ldg_id_of(5)));
    ldg_arena_fini(&arena);
    ldg_arena_init(&arena, 0);
    alloc_fail_at(1);
    assert_false(ldg_id_copy(text_id(text), &arena, &copy));
    alloc_fail_off();
    ldg_arena_fini(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_come_before_texts),
        cmocka_unit_test(a_trim_reaches_its_own_kind),
        cmocka_unit_test(none),
        cmocka_unit_test(hashes_follow_equality),
        cmocka_unit_test(the_text_says_the_kind),
        cmocka_unit_test(copies_own_their_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
