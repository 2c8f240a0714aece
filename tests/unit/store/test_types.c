#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "base/mem.h"
#include "ledger/ledger.h"
#include "store/batch.h"

static void version_is_the_headers(void **state)
{
    assert_string_equal(ledger_version(), LEDGER_VERSION);
}

static void empty_results(void **state)
{
    ledger_batch *batch = NULL;
    assert_int_equal(ledger_batch_count(NULL), 0);
    assert_null(ledger_batch_entry(NULL, 0));
    ledger_batch_destroy(NULL);
    ledger_batch_destroy(&batch);
    ledger_ids_destroy(NULL);
    ledger_names_destroy(NULL);
    batch = ldg_batch_create();
    assert_non_null(batch);
    assert_int_equal(ledger_batch_count(batch), 0);
    assert_null(ledger_batch_entry(batch, 0));
    ledger_batch_destroy(&batch);
    assert_null(batch);
    alloc_fail_at(1);
    assert_null(ldg_batch_create());
    alloc_fail_off();
}

static void ids_and_names_own_their_text(void **state)
{
    ledger_ids ids = { .items = ldg_calloc(2, sizeof(ledger_id)), .count = 2 };
    ledger_names names = { .items = ldg_calloc(2, sizeof(char *)), .count = 2 };
    ids.items[0].number = 1;
    ids.items[1].text = ldg_strdup("text");
    names.items[0] = ldg_strdup("a");
    names.items[1] = ldg_strdup("b");
    ledger_ids_destroy(&ids);
    ledger_names_destroy(&names);
    assert_null(ids.items);
    assert_int_equal(ids.count, 0);
    assert_null(names.items);
    assert_int_equal(names.count, 0);
}

static void int64_codec(void **state)
{
    static const struct {
        int64_t number;
        const char *text;
    } rows[] = { { 0, "0000000000000000000" },
                 { 1, "0000000000000000001" },
                 { 9, "0000000000000000009" },
                 { 10, "0000000000000000010" },
                 { INT64_MAX, "9223372036854775807" } };
    static const char *const bad[] = {
        "",   " 1", "1 ", "-1", "+1", "0x1", "1.0", "9223372036854775808", "99999999999999999999",
        "abc"
    };
    const ledger_id_codec *codec = &ledger_int64_codec;
    char text[LEDGER_ID_TEXT_MAX];
    ledger_id id;
    ledger_error err;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(codec->encode((ledger_id){ .number = rows[i].number }, text, &err), 0);
        assert_string_equal(text, rows[i].text);
        assert_int_equal(codec->decode(text, &id, &err), 0);
        assert_true(id.number == rows[i].number);
        assert_null(id.text);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        id.number = 77;
        assert_int_equal(codec->decode(bad[i], &id, &err), LEDGER_ERR_INVALID);
        assert_int_equal(id.number, 77);
    }
    assert_int_equal(codec->decode("7", &id, NULL), 0);
    assert_int_equal(id.number, 7);
    assert_int_equal(codec->decode(NULL, &id, &err), LEDGER_ERR_INVALID);
    assert_int_equal(codec->encode((ledger_id){ .number = -1 }, text, &err), LEDGER_ERR_INVALID);
    assert_int_equal(codec->encode((ledger_id){ .text = "1" }, text, NULL), LEDGER_ERR_INVALID);
    assert_int_equal(codec->zero().number, 0);
    assert_null(codec->zero().text);
    assert_true(codec->less((ledger_id){ .number = 9 }, (ledger_id){ .number = 10 }));
    assert_false(codec->less((ledger_id){ .number = 10 }, (ledger_id){ .number = 10 }));
}

static void string_codec(void **state)
{
    const ledger_id_codec *codec = &ledger_string_codec;
    char text[LEDGER_ID_TEXT_MAX], longest[LEDGER_ID_TEXT_MAX + 1];
    ledger_id id;
    ledger_error err;
    memset(longest, 'f', LEDGER_ID_TEXT_MAX);
    longest[LEDGER_ID_TEXT_MAX] = '\0';
    assert_int_equal(codec->encode((ledger_id){ .text = "65a1" }, text, &err), 0);
    assert_string_equal(text, "65a1");
    assert_int_equal(codec->decode(text, &id, &err), 0);
    assert_ptr_equal(id.text, text);
    assert_int_equal(codec->encode((ledger_id){ .text = longest + 1 }, text, &err), 0);
    assert_int_equal(codec->encode((ledger_id){ .text = longest }, text, &err),
                     LEDGER_ERR_TOO_LARGE);
    assert_int_equal(codec->encode((ledger_id){ .number = 1 }, text, &err), LEDGER_ERR_INVALID);
    assert_int_equal(codec->decode(NULL, &id, &err), LEDGER_ERR_INVALID);
    assert_string_equal(codec->zero().text, "");
    assert_true(codec->less(codec->zero(), (ledger_id){ .text = "0" }));
    assert_true(codec->less((ledger_id){ .text = "10" }, (ledger_id){ .text = "9" }));
    assert_false(codec->less((ledger_id){ .text = "a" }, (ledger_id){ 0 }));
    assert_true(codec->less((ledger_id){ 0 }, (ledger_id){ .text = "a" }));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_is_the_headers),
        cmocka_unit_test(empty_results),
        cmocka_unit_test(ids_and_names_own_their_text),
        cmocka_unit_test(int64_codec),
        cmocka_unit_test(string_codec),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
