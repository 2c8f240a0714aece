/* Values in RowBinary, and what is read of an answer that is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "backend/clickhouse/rowbinary.h"

static struct ldg_ch_reader reader_of(const void *data, size_t size)
{
    return (struct ldg_ch_reader){ .p = data, .end = (const uint8_t *)data + size };
}

static void lengths(void **state)
{
    static const uint64_t values[] = { 0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX };
    static const size_t sizes[] = { 1, 1, 1, 2, 2, 3, 5, 10 };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        uint8_t out[LDG_CH_LENGTH_MAX];
        assert_int_equal(ldg_ch_put_length(values[i], out), sizes[i]);
        uint64_t back = 0;
        for (size_t k = 0; k < sizes[i]; k++)
            back |= (uint64_t)(out[k] & 0x7F) << (7 * k);
        assert_true(back == values[i]);
        assert_true((out[sizes[i] - 1] & 0x80) == 0);
    }
}

static void numbers(void **state)
{
    uint8_t out[13];
    ldg_ch_put_number(0x1122334455667788, 8, out);
    assert_int_equal(out[0], 0x88);
    assert_int_equal(out[7], 0x11);
    ldg_ch_put_number((uint32_t)-2, 4, out + 8);
    out[12] = 7;
    struct ldg_ch_reader r = reader_of(out, sizeof out);
    assert_true(ldg_ch_read_u64(&r) == 0x1122334455667788);
    assert_int_equal((int32_t)ldg_ch_read_u32(&r), -2);
    assert_int_equal(ldg_ch_read_byte(&r), 7);
    assert_false(r.bad);
    assert_int_equal(ldg_ch_read_byte(&r), 0);
    assert_true(r.bad);
}

static void rows_and_texts(void **state)
{
    static const char answer[] = "\1\3abc\0\1\1x\2yz";
    struct ldg_ch_reader r = reader_of(answer, sizeof answer - 1);
    assert_true(ldg_ch_read_row(&r));
    ledger_bytes text = ldg_ch_read_bytes(&r);
    assert_int_equal(text.size, 3);
    assert_memory_equal(text.data, "abc", 3);
    text = ldg_ch_read_bytes(&r);
    assert_int_equal(text.size, 0);
    assert_non_null(text.data);
    assert_true(ldg_ch_read_row(&r));
    assert_int_equal(ldg_ch_read_bytes(&r).size, 1);
    assert_int_equal(ldg_ch_read_bytes(&r).size, 2);
    assert_false(ldg_ch_read_row(&r));
    assert_false(r.bad);
}

/* Cut anywhere it is never whole, but between two rows. */
static void cut_answers(void **state)
{
    static const char answer[] = "\1\3abc\1\1\1x\2yz\1";
    static const size_t whole[] = { 0, 6, 12 };
    for (size_t size = 0; size <= 12; size++) {
        struct ldg_ch_reader r = reader_of(answer, size);
        bool is_whole = false;
        while (ldg_ch_read_row(&r)) {
            size_t fields = r.p == (const uint8_t *)answer + 1 ? 1 : 2;
            for (size_t i = 0; i < fields; i++)
                (void)ldg_ch_read_bytes(&r);
            if (fields == 1)
                (void)ldg_ch_read_byte(&r);
        }
        for (size_t i = 0; i < 3; i++)
            is_whole = is_whole || whole[i] == size;
        assert_int_equal(!r.bad, is_whole);
    }
}

/* The text of an error is no row, and lengths that no answer can have end it. */
static void what_is_no_answer(void **state)
{
    static const struct {
        const char *data;
        size_t size;
    } texts[] = {
        { "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10 },
        { "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 10 },
        { "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 13 },
        { "\x05"
          "1234",
          5 },
        { "", 0 },
    };
    struct ldg_ch_reader r = reader_of("Code: 60", 8);
    assert_false(ldg_ch_read_row(&r));
    assert_true(r.bad);
    assert_memory_equal(r.p, "Code", 4); /* to be looked at */
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        r = reader_of(texts[i].data, texts[i].size);
        assert_int_equal(ldg_ch_read_bytes(&r).size, 0);
        assert_true(r.bad);
        assert_ptr_equal(r.p, r.end);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths),           cmocka_unit_test(numbers),
        cmocka_unit_test(rows_and_texts),    cmocka_unit_test(cut_answers),
        cmocka_unit_test(what_is_no_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
