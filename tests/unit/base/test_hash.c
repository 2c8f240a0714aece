/* The values are kept in cursors: the vectors below never change. The rest shows that it mixes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"

/* Over the bytes 0, 1, 2, … (mod 251) of the given size. */
static const struct {
    size_t size;
    uint64_t seed, hash;
} vectors[] = {
    { 0, UINT64_C(0x0), UINT64_C(0xf169e024df1444ff) },
    { 1, UINT64_C(0x1), UINT64_C(0x621258f1e4e73833) },
    { 2, UINT64_C(0x123456789abcdef), UINT64_C(0x003c1b871570c3f4) },
    { 7, UINT64_C(0x0), UINT64_C(0x1565734365bd52ea) },
    { 8, UINT64_C(0x1), UINT64_C(0xae95b2f990b61e3b) },
    { 9, UINT64_C(0x123456789abcdef), UINT64_C(0xfede26b82af96340) },
    { 15, UINT64_C(0x0), UINT64_C(0xe7852a8e0aa65a28) },
    { 16, UINT64_C(0x1), UINT64_C(0xe2ef19a3d99ae7f1) },
    { 17, UINT64_C(0x123456789abcdef), UINT64_C(0x392fc76276e71ffa) },
    { 31, UINT64_C(0x0), UINT64_C(0xcc2222fde9fbffb1) },
    { 32, UINT64_C(0x1), UINT64_C(0xf56f31c08259773d) },
    { 33, UINT64_C(0x123456789abcdef), UINT64_C(0x0906ffe7b3d3c195) },
    { 63, UINT64_C(0x0), UINT64_C(0xd6cb2fae5b696f05) },
    { 64, UINT64_C(0x1), UINT64_C(0x78c41ab0cbce5b2c) },
    { 65, UINT64_C(0x123456789abcdef), UINT64_C(0xec824023333cfe49) },
    { 127, UINT64_C(0x0), UINT64_C(0x983aa37c00a12bb3) },
    { 128, UINT64_C(0x1), UINT64_C(0x5228432187b2e674) },
    { 129, UINT64_C(0x123456789abcdef), UINT64_C(0x52693ee7677b123f) },
    { 1000, UINT64_C(0x0), UINT64_C(0xb43ba57b00627f5f) },
    { 5000, UINT64_C(0x1), UINT64_C(0x91e89ba4b075e7eb) },
    { 200, UINT64_C(0x0), UINT64_C(0x0a5705f7bf2f93be) },
    { 200, UINT64_C(0x1), UINT64_C(0x66bdfe51b1015925) },
    { 200, UINT64_C(0x123456789abcdef), UINT64_C(0x345bf7f7d3c7c561) },
};

static void fill(unsigned char *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        data[i] = (unsigned char)(i % 251);
}

static void vectors_hold(void **state)
{
    static unsigned char data[5001];
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        for (size_t shift = 0; shift < 2; shift++) { /* the same at any alignment */
            fill(data + shift, vectors[i].size);
            assert_int_equal(ldg_hash64(data + shift, vectors[i].size, vectors[i].seed),
                             vectors[i].hash);
        }
    }
}

static void empty_may_be_null(void **state)
{
    assert_int_equal(ldg_hash64(NULL, 0, 0), ldg_hash64("x", 0, 0));
    assert_int_not_equal(ldg_hash64(NULL, 0, 0), ldg_hash64(NULL, 0, 1));
}

/* Flipping any bit flips about half of the result's bits, wherever it is. */
static void every_bit_counts(void **state)
{
    static const size_t sizes[] = { 1, 7, 8, 15, 16, 17, 31, 63, 64, 65, 127, 128, 200 };
    unsigned char data[200];
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        fill(data, sizes[s]);
        uint64_t hash = ldg_hash64(data, sizes[s], 5);
        size_t flipped = 0;
        for (size_t bit = 0; bit < sizes[s] * 8; bit++) {
            data[bit / 8] ^= (unsigned char)(1 << bit % 8);
            uint64_t other = ldg_hash64(data, sizes[s], 5);
            data[bit / 8] ^= (unsigned char)(1 << bit % 8);
            assert_in_range(__builtin_popcountll(hash ^ other), 8, 56);
            flipped += (size_t)__builtin_popcountll(hash ^ other);
        }
        assert_in_range(flipped * 10 / (sizes[s] * 8), 280, 360);
    }
}

static void zeros_of_each_size_differ(void **state)
{
    enum { COUNT = 1000 };
    static const unsigned char zeros[COUNT];
    static uint64_t hashes[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        hashes[i] = ldg_hash64(zeros, i, 0);
        for (size_t k = 0; k < i; k++)
            assert_int_not_equal(hashes[i], hashes[k]);
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Two hundred thousand short keys that differ little: no collision, even spread over buckets. */
static void numbers_spread(void **state)
{
    enum { COUNT = 200000, BUCKETS = 1024 };
    uint64_t *hashes = malloc(COUNT * sizeof *hashes);
    static unsigned buckets[BUCKETS];
    assert_non_null(hashes);
    for (uint64_t i = 0; i < COUNT; i++) {
        hashes[i] = ldg_hash64(&i, sizeof i, 0);
        buckets[hashes[i] % BUCKETS]++;
    }
    for (size_t i = 0; i < BUCKETS; i++)
        assert_in_range(buckets[i], 100, 300); /* 195 expected */
    qsort(hashes, COUNT, sizeof *hashes, compare);
    for (size_t i = 1; i < COUNT; i++)
        assert_int_not_equal(hashes[i - 1], hashes[i]);
    free(hashes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_hold),     cmocka_unit_test(empty_may_be_null),
        cmocka_unit_test(every_bit_counts), cmocka_unit_test(zeros_of_each_size_differ),
        cmocka_unit_test(numbers_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
