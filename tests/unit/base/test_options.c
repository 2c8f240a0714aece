/* Options of an older and of a later program, and of one that forgot to initialise them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/options.h"

/* Three versions of one struct; the library is of the second. */
struct first {
    size_t size;
    int64_t a;
    bool b;
};
struct second {
    size_t size;
    int64_t a;
    bool b;
    const char *c;
    int64_t d;
};
struct third {
    size_t size;
    int64_t a;
    bool b;
    const char *c;
    int64_t d;
    int64_t e;
};

static const struct ldg_options known = {
    .name = "ledger_some_options",
    .defaults = &(const struct second){ .size = sizeof(struct second), .a = 1, .c = "c", .d = 4 },
    .size = sizeof(struct second),
    .least = LDG_OPTIONS_UP_TO(struct second, b),
};

static void defaults_of_every_version(void **state)
{
    struct {
        struct first options;
        int64_t behind;
    } old;
    struct second own;
    struct third later;
    size_t none = 77;
    memset(&old, 0xee, sizeof(old));
    memset(&own, 0xee, sizeof(own));
    memset(&later, 0xee, sizeof(later));

    ldg_options_init(&known, &own, sizeof(own));
    assert_int_equal(own.size, sizeof(own));
    assert_int_equal(own.a, 1);
    assert_false(own.b);
    assert_string_equal(own.c, "c");
    assert_int_equal(own.d, 4);

    ldg_options_init(&known, &old.options, sizeof(old.options));
    assert_int_equal(old.options.size, sizeof(old.options));
    assert_int_equal(old.options.a, 1);
    assert_int_equal(old.behind, (int64_t)0xeeeeeeeeeeeeeeee);

    ldg_options_init(&known, &later, sizeof(later));
    assert_int_equal(later.size, sizeof(later));
    assert_int_equal(later.d, 4);
    assert_int_equal(later.e, 0);

    ldg_options_init(&known, NULL, sizeof(own));
    ldg_options_init(&known, &none, sizeof(none) - 1);
    assert_int_equal(none, 77);
}

static void options_of_every_version(void **state)
{
    const struct first old = { .size = sizeof(old), .a = 2, .b = true };
    const struct second own = { .size = sizeof(own), .a = 3, .d = 5 };
    struct third later = { .size = sizeof(later), .a = 6, .c = "x" };
    struct second taken;
    ledger_error err = { 0 };

    assert_int_equal(ldg_options_take(&known, NULL, &taken, &err), LEDGER_OK);
    assert_memory_equal(&taken, known.defaults, sizeof(taken));

    assert_int_equal(ldg_options_take(&known, &old, &taken, &err), LEDGER_OK);
    assert_int_equal(taken.size, sizeof(taken));
    assert_int_equal(taken.a, 2);
    assert_true(taken.b);
    assert_string_equal(taken.c, "c");
    assert_int_equal(taken.d, 4);

    assert_int_equal(ldg_options_take(&known, &own, &taken, &err), LEDGER_OK);
    assert_int_equal(taken.a, 3);
    assert_null(taken.c);
    assert_int_equal(taken.d, 5);

    assert_int_equal(ldg_options_take(&known, &later, &taken, &err), LEDGER_OK);
    assert_int_equal(taken.size, sizeof(taken));
    assert_int_equal(taken.a, 6);
    assert_string_equal(taken.c, "x");

    later.e = (int64_t)1 << 56; /* the last byte, or the first */
    taken.a = 99;
    assert_int_equal(ldg_options_take(&known, &later, &taken, &err), LEDGER_ERR_INVALID);
    assert_non_null(strstr(err.message, "does not know"));
    assert_non_null(strstr(err.message, "ledger_some_options_defaults()"));
    assert_int_equal(taken.a, 99);
    assert_int_equal(ldg_options_take(&known, &later, &taken, NULL), LEDGER_ERR_INVALID);
}

static void sizes_of_no_version(void **state)
{
    static const size_t sizes[] = {
        0,       1,        sizeof(size_t), sizeof(struct first) - sizeof(size_t),
        1 << 20, SIZE_MAX, SIZE_MAX - 7,   sizeof(struct second) + 1,
    };
    struct second taken = { .a = 99 };
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        const struct second forgotten = { .size = sizes[i] };
        ledger_error err = { 0 };
        assert_int_equal(ldg_options_take(&known, &forgotten, &taken, &err), LEDGER_ERR_INVALID);
        assert_non_null(strstr(err.message, "call ledger_some_options_defaults() first"));
        assert_int_equal(taken.a, 99);
    }
    assert_int_equal(known.least, sizeof(struct first));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_of_every_version),
        cmocka_unit_test(options_of_every_version),
        cmocka_unit_test(sizes_of_no_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
