/* Sizes of 0, products that overflow, and the cleanup attribute. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "base/mem.h"

static void size_zero_is_a_pointer(void **state)
{
    void *a = ldg_malloc(0), *b = ldg_calloc(0, 8), *c = ldg_calloc(8, 0);
    void *d = ldg_realloc(ldg_malloc(5), 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_non_null(c);
    assert_non_null(d);
    ldg_free(a);
    ldg_free(b);
    ldg_free(c);
    ldg_free(d);
    ldg_free(NULL);
    ldg_free_secret(NULL);
    ldg_free_secret(ldg_strdup("secret"));
}

static void calloc_zeroes_and_checks_the_product(void **state)
{
    unsigned char *p = ldg_calloc(7, 11);
    assert_non_null(p);
    for (size_t i = 0; i < 77; i++)
        assert_int_equal(p[i], 0);
    ldg_free(p);
    assert_null(ldg_calloc(SIZE_MAX / 2, 3));
    assert_null(ldg_calloc(3, SIZE_MAX / 2));
}

static void realloc_keeps_the_content(void **state)
{
    char *p = ldg_realloc(NULL, 4);
    assert_non_null(p);
    memcpy(p, "abc", 4);
    p = ldg_realloc(p, 100000);
    assert_non_null(p);
    assert_string_equal(p, "abc");
    ldg_free(p);
}

static void strdup_copies(void **state)
{
    LDG_AUTO_FREE char *p = ldg_strdup("text");
    LDG_AUTO_FREE char *empty = ldg_strdup("");
    LDG_AUTO_FREE char *nothing = NULL;
    assert_string_equal(p, "text");
    assert_string_equal(empty, "");
    assert_null(nothing);
}

static void failure_is_null(void **state)
{
    alloc_fail_from(1);
    void *a = ldg_malloc(1), *b = ldg_calloc(1, 1), *c = ldg_realloc(NULL, 1);
    char *d = ldg_strdup("x");
    alloc_fail_off();
    assert_null(a);
    assert_null(b);
    assert_null(c);
    assert_null(d);
    assert_int_equal(alloc_fail_failures(), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(size_zero_is_a_pointer),
        cmocka_unit_test(calloc_zeroes_and_checks_the_product),
        cmocka_unit_test(realloc_keeps_the_content),
        cmocka_unit_test(strdup_copies),
        cmocka_unit_test(failure_is_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
