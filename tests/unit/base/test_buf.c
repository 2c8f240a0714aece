/* Growth, the cap, the sticky failure, and taking the memory over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <wchar.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "base/buf.h"
#include "base/mem.h"

static void appends_and_ends_in_nul(void **state)
{
    struct ldg_buf buf;
    ldg_buf_init(&buf, 1000);
    assert_null(buf.data);
    assert_int_equal(ldg_buf_puts(&buf, "ab"), LEDGER_OK);
    assert_int_equal(ldg_buf_putc(&buf, 'c'), LEDGER_OK);
    assert_int_equal(ldg_buf_append(&buf, "d\0e", 3), LEDGER_OK);
    assert_int_equal(ldg_buf_printf(&buf, "-%d-%s", 42, "x"), LEDGER_OK);
    assert_int_equal(ldg_buf_append(&buf, NULL, 0), LEDGER_OK);
    assert_int_equal(buf.size, 11);
    assert_memory_equal(buf.data, "abcd\0e-42-x", 12);
    ldg_buf_fini(&buf);
    assert_null(buf.data);
    assert_int_equal(buf.size, 0);
    assert_int_equal(buf.max, 1000);
    ldg_buf_fini(&buf);
}

static void append_of_nothing_is_an_empty_text(void **state)
{
    struct ldg_buf buf;
    ldg_buf_init(&buf, 0);
    assert_int_equal(ldg_buf_puts(&buf, ""), LEDGER_OK);
    LDG_AUTO_FREE char *text = ldg_buf_take(&buf);
    assert_string_equal(text, "");
    ldg_buf_fini(&buf);
}

static void grows_to_its_cap_and_not_over(void **state)
{
    struct ldg_buf buf;
    ldg_buf_init(&buf, 1000);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(ldg_buf_putc(&buf, (char)('a' + i % 26)), LEDGER_OK);
    assert_int_equal(buf.size, 1000);
    assert_int_equal(buf.cap, 1001);
    assert_int_equal(ldg_buf_putc(&buf, 'x'), LEDGER_ERR_TOO_LARGE);
    assert_int_equal(buf.rc, LEDGER_ERR_TOO_LARGE);
    assert_int_equal(buf.size, 1000);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(buf.data[i], 'a' + i % 26);
    assert_int_equal(buf.data[1000], '\0');
    ldg_buf_fini(&buf);
}

static void failure_sticks_until_reset(void **state)
{
    struct ldg_buf buf;
    ldg_buf_init(&buf, 10);
    assert_int_equal(ldg_buf_puts(&buf, "12345678901"), LEDGER_ERR_TOO_LARGE);
    assert_int_equal(ldg_buf_putc(&buf, '1'), LEDGER_ERR_TOO_LARGE);
    assert_int_equal(ldg_buf_printf(&buf, "%d", 1), LEDGER_ERR_TOO_LARGE);
    assert_int_equal(ldg_buf_append(&buf, "", 0), LEDGER_ERR_TOO_LARGE);
    ldg_buf_reset(&buf);
    assert_int_equal(buf.rc, LEDGER_OK);
    assert_int_equal(ldg_buf_puts(&buf, "1234567890"), LEDGER_OK);
    ldg_buf_reset(&buf);
    assert_string_equal(buf.data, "");
    assert_int_equal(ldg_buf_puts(&buf, "x"), LEDGER_OK);
    assert_string_equal(buf.data, "x");
    ldg_buf_fini(&buf);
}

static void take_hands_over(void **state)
{
    struct ldg_buf buf;
    ldg_buf_init(&buf, 10);
    assert_null(ldg_buf_take(&buf));
    ldg_buf_puts(&buf, "one");
    char *one = ldg_buf_take(&buf);
    assert_null(buf.data);
    ldg_buf_puts(&buf, "two");
    assert_string_equal(one, "one");
    ldg_free(one);
    /* A text with a hole in it is not given out. */
    ldg_buf_puts(&buf, "too long for it");
    ldg_buf_puts(&buf, "x");
    assert_null(ldg_buf_take(&buf));
    assert_int_equal(buf.rc, LEDGER_OK);
    ldg_buf_fini(&buf);
}

static void printf_of_any_length(void **state)
{
    static char long_text[5001];
    struct ldg_buf buf;
    memset(long_text, 'y', 5000);
    for (int size = 0; size <= 5000; size += size < 300 ? 1 : 777) {
        ldg_buf_init(&buf, 6000);
        assert_int_equal(ldg_buf_printf(&buf, "<%.*s>", size, long_text), LEDGER_OK);
        assert_int_equal(buf.size, size + 2);
        assert_int_equal(buf.data[size + 1], '>');
        assert_int_equal(buf.data[size + 2], '\0');
        ldg_buf_fini(&buf);
    }
    static const wchar_t wide[] = { 0x10ffff, 0 }; /* cannot be written: printf itself fails */
    ldg_buf_init(&buf, 4999);
    assert_int_equal(ldg_buf_printf(&buf, "%ls", wide), LEDGER_ERR_TOO_LARGE);
    assert_int_equal(ldg_buf_printf(&buf, "%ls", wide), LEDGER_ERR_TOO_LARGE);
    ldg_buf_reset(&buf);
    assert_int_equal(ldg_buf_printf(&buf, "%s", long_text), LEDGER_ERR_TOO_LARGE);
    ldg_buf_fini(&buf);
}

static void sizes_cannot_overflow(void **state)
{
    struct ldg_buf buf;
    ldg_buf_init(&buf, SIZE_MAX);
    ldg_buf_puts(&buf, "x");
    assert_int_equal(ldg_buf_append(&buf, "x", SIZE_MAX), LEDGER_ERR_TOO_LARGE);
    ldg_buf_reset(&buf);
    ldg_buf_puts(&buf, "x");
    assert_int_equal(ldg_buf_append(&buf, "x", SIZE_MAX - 1), LEDGER_ERR_TOO_LARGE);
    ldg_buf_fini(&buf);
}

static ledger_rc fill(void *ctx)
{
    struct ldg_buf buf;
    ldg_buf_init(&buf, (size_t)1 << 20);
    for (int i = 0; i < 300; i++) {
        ldg_buf_puts(&buf, "some text");
        ldg_buf_printf(&buf, "%0300d", i);
    }
    ledger_rc rc = buf.rc;
    ldg_buf_fini(&buf);
    return rc;
}

static void every_allocation_may_fail(void **state)
{
    assert_in_range(alloc_fail_each(fill, NULL), 5, 30); /* doubling */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appends_and_ends_in_nul),
        cmocka_unit_test(append_of_nothing_is_an_empty_text),
        cmocka_unit_test(grows_to_its_cap_and_not_over),
        cmocka_unit_test(failure_sticks_until_reset),
        cmocka_unit_test(take_hands_over),
        cmocka_unit_test(printf_of_any_length),
        cmocka_unit_test(sizes_cannot_overflow),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
