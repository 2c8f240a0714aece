/* Keys, ids and versions: they sort as ids do, and grow with each change that counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "backend/clickhouse/clickhouse.h"
#include "workload.h"

#define UUID "12345678-1234-4234-8234-123456789012"

static void keys_sort_as_ids_do(void **state)
{
    static const ledger_id ids[] = {
        { .number = 1 },
        { .number = 9 },
        { .number = 10 },
        { .number = 123456789 },
        { .number = INT64_MAX },
        { .text = "!" },
        { .text = "0" },
        { .text = "01" },
        { .text = "07" },
        { .text = "1"
                  "0a" },
        { .text = "\xc3\xa4" },
    };
    char last[LDG_CH_KEY_MAX] = "";
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        char key[LDG_CH_KEY_MAX];
        ledger_id back;
        ldg_ch_key(ids[i], key);
        assert_true(strcmp(last, key) < 0);
        assert_true(ldg_ch_key_parse(key, &back));
        assert_true(ldg_id_equal(back, ids[i]));
        memcpy(last, key, sizeof key);
    }
    char key[LDG_CH_KEY_MAX];
    ledger_id back;
    ldg_ch_key((ledger_id){ .number = -5 }, key);
    assert_string_equal(key, "");
    ldg_ch_key((ledger_id){ 0 }, key);
    assert_true(ldg_ch_key_parse(key, &back));
    assert_true(ldg_id_is_none(back));
    static const char *const none[] = { ":", "x", "00x", "99999999999999999999" };
    for (size_t i = 0; i < 4; i++)
        assert_false(ldg_ch_key_parse(none[i], &back));
}

static void ids_are_unique_and_fit(void **state)
{
    char id[LEDGER_ID_TEXT_MAX], other[LEDGER_ID_TEXT_MAX], key[LDG_CH_KEY_MAX];
    char text[LEDGER_ID_TEXT_MAX];
    ldg_ch_id("0000000000000000042", 3, id);
    assert_string_equal(id, "0000000000000000042-3");
    ldg_ch_id(":65f0a1", 12, id);
    assert_string_equal(id, "65f0a1-12");
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    ldg_ch_key((ledger_id){ .text = text }, key);
    ldg_ch_id(key, 1, id);
    assert_int_equal(strlen(id), LEDGER_ID_TEXT_MAX - 1);
    assert_memory_equal(id, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 39);
    text[sizeof text - 2] = 'b';
    ldg_ch_key((ledger_id){ .text = text }, key);
    ldg_ch_id(key, 1, other);
    assert_string_not_equal(id, other);
    ldg_ch_id(key, 2, id);
    assert_string_not_equal(id, other);
    for (size_t i = 0; i + 1 < sizeof text; i += 3) /* no half character */
        memcpy(text + i, "\xe2\x82\xac", 3);
    ldg_ch_key((ledger_id){ .text = text }, key);
    ldg_ch_id(key, 123456, id);
    assert_true(ldg_utf8_valid(id, strlen(id)));
    assert_true(strlen(id) < LEDGER_ID_TEXT_MAX);
    /* none is ever taken for a number */
    ledger_id back;
    ldg_ch_id("9223372036854775807", 1, id);
    assert_true(ldg_id_parse(id, &back));
    assert_non_null(back.text);
}

static void versions_grow(void **state)
{
    uint64_t seed = 7;
    for (int round = 0; round < 1000; round++) {
        struct ldg_ch_positions p = { .appended = 1 + (int64_t)tst_random_below(&seed, 100) };
        int64_t position = p.appended;
        uint64_t last = ldg_ch_version(&p), live = last;
        for (int step = 0; step < 20; step++) {
            position += 1 + (int64_t)tst_random_below(&seed, 5);
            switch (tst_random_below(&seed, 3)) {
            case 0:
                p.tags = position;
                break;
            case 1:
                p.annotations = position;
                break;
            default:
                p.foreign += 1 + tst_random_below(&seed, 1000);
                break;
            }
            live = ldg_ch_version(&p);
            assert_true(live > last);
            assert_true((live & LDG_CH_TRIMMED) == 0);
            last = live;
        }
        /* Trimmed: also one that has seen nothing else beats all that were not. */
        const struct ldg_ch_positions gone = { .appended = p.appended, .trimmed = position + 1 };
        assert_true(ldg_ch_version(&gone) > live);
        p.trimmed = position + 1;
        assert_true(ldg_ch_version(&p) > live);
    }
    const struct ldg_ch_positions much = { INT64_MAX, INT64_MAX, INT64_MAX, 0, UINT64_MAX };
    assert_true(ldg_ch_version(&much) == LDG_CH_TRIMMED - 1);
    const struct ldg_ch_positions none = { -1, -1, 0, 0, 0 };
    assert_true(ldg_ch_version(&none) == 0);
}

static void foreign_positions(void **state)
{
    char name[LDG_CH_ORIGIN_TEXT_MAX + 2];
    enum ldg_op_kind kind;
    const char *origin;
    ldg_ch_foreign_name(LDG_OP_SET_TAGS, UUID ":1", name);
    assert_string_equal(name, "t " UUID ":1");
    assert_true(ldg_ch_foreign_parse(name, &kind, &origin));
    assert_int_equal(kind, LDG_OP_SET_TAGS);
    assert_string_equal(origin, UUID ":1");
    ldg_ch_foreign_name(LDG_OP_SET_ANNOTATIONS, UUID ":1", name);
    assert_true(ldg_ch_foreign_parse(name, &kind, &origin));
    assert_int_equal(kind, LDG_OP_SET_ANNOTATIONS);
    assert_false(ldg_ch_foreign_parse("x y", &kind, &origin));
    assert_false(ldg_ch_foreign_parse("", &kind, &origin));
    assert_false(ldg_ch_foreign_parse("tx", &kind, &origin));
    const ledger_pair pairs[] = { { "a", "5" }, { "b", "x" }, { "c", "37" } };
    assert_int_equal(ldg_ch_foreign_sum((ledger_map){ pairs, 3 }), 42);
}

static void origins(void **state)
{
    struct ldg_identity identity = { .epoch = 7 };
    char text[LDG_CH_ORIGIN_TEXT_MAX];
    memcpy(identity.uuid, UUID, sizeof UUID);
    ldg_ch_origin_text(&identity, text);
    assert_string_equal(text, UUID ":7");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_sort_as_ids_do),
        cmocka_unit_test(ids_are_unique_and_fit),
        cmocka_unit_test(versions_grow),
        cmocka_unit_test(foreign_positions),
        cmocka_unit_test(origins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
