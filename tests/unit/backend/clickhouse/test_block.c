/* Rows that are packed while they are written: what comes out is what went in, however it was cut,
 * and without memory nothing does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zstd.h>

#include "alloc_fail.h"
#include "backend/clickhouse/block.h"
#include "backend/clickhouse/rowbinary.h"
#include "workload.h"

static void write_rows(struct ldg_ch_block *block, const char *large, size_t size)
{
    for (int i = 0; i < 2000; i++) {
        ldg_ch_block_text(block, i % 2 ? "short" : "");
        ldg_ch_block_bytes(block, (ledger_bytes){ large, i % 100 == 0 ? size : (size_t)i % 700 });
        ldg_ch_block_u8(block, (uint8_t)i);
        ldg_ch_block_i32(block, -i);
        ldg_ch_block_u64(block, UINT64_MAX - (uint64_t)i);
        ldg_ch_block_i64(block, -i);
        ldg_ch_block_row(block);
    }
}

static void what_goes_in_comes_out(void **state)
{
    enum { LARGE = 300 * 1000, ROOM = 64 * 1024 * 1024 };
    char *large = malloc(LARGE), *plain = malloc(ROOM);
    struct ldg_ch_block block;
    ledger_error err;
    uint64_t seed = 3, hash = 0;
    assert_non_null(large);
    assert_non_null(plain);
    for (size_t i = 0; i < LARGE; i++)
        large[i] = (char)tst_random(&seed);
    ldg_ch_block_init(&block);
    for (int round = 0; round < 3; round++) {
        write_rows(&block, large, LARGE);
        assert_int_equal(block.row_count, 2000);
        assert_int_equal(ldg_ch_block_end(&block, &err), LEDGER_OK);
        ZSTD_DStream *stream = ZSTD_createDStream();
        ZSTD_inBuffer in = { block.packed.data, block.packed.size, 0 };
        ZSTD_outBuffer out = { plain, ROOM, 0 };
        size_t left = 1;
        while (left > 0 && in.pos < in.size) {
            left = ZSTD_decompressStream(stream, &out, &in);
            assert_false(ZSTD_isError(left));
        }
        assert_int_equal(left, 0);
        ZSTD_freeDStream(stream);
        struct ldg_ch_reader r = { (const uint8_t *)plain, (const uint8_t *)plain + out.pos,
                                   false };
        for (int i = 0; i < 2000; i++) {
            assert_int_equal(ldg_ch_read_bytes(&r).size, i % 2 ? 5 : 0);
            const ledger_bytes bytes = ldg_ch_read_bytes(&r);
            assert_int_equal(bytes.size, i % 100 == 0 ? LARGE : i % 700);
            assert_memory_equal(bytes.data, large, bytes.size);
            assert_int_equal(ldg_ch_read_byte(&r), (uint8_t)i);
            assert_int_equal((int32_t)ldg_ch_read_u32(&r), -i);
            assert_true(ldg_ch_read_u64(&r) == UINT64_MAX - (uint64_t)i);
            assert_int_equal(ldg_ch_read_i64(&r), -i);
        }
        assert_false(r.bad);
        assert_ptr_equal(r.p, r.end);
        /* the same rows have the same hash: a retried block is known by it */
        if (round > 0)
            assert_true(block.hash == hash);
        hash = block.hash;
        ldg_ch_block_reset(&block);
        assert_int_equal(block.row_count, 0);
    }
    ldg_ch_block_u8(&block, 1);
    assert_int_equal(ldg_ch_block_end(&block, &err), LEDGER_OK);
    assert_true(block.hash != hash);
    ldg_ch_block_fini(&block);
    free(large);
    free(plain);
}

static ledger_rc write_block(void *ctx)
{
    static const char large[200 * 1000];
    struct ldg_ch_block block;
    ledger_error err;
    ldg_ch_block_init(&block);
    write_rows(&block, large, sizeof large);
    ledger_rc rc = ldg_ch_block_end(&block, &err);
    ldg_ch_block_fini(&block);
    return rc;
}

static void without_memory(void **state)
{
    assert_true(alloc_fail_each(write_block, NULL) > 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_goes_in_comes_out),
        cmocka_unit_test(without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
