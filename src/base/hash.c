/* 64-bit hash by multiply and fold: a 64x64 multiplication whose halves are xored mixes 16 bytes
 * per step; four independent lanes keep the multiplier busy on long inputs. Reads little-endian, so
 * values are the same on every machine. They are stored in cursors: this file never changes (the
 * unit test holds the vectors). */
#include "base/hash.h"

#include <string.h>

/* Fractional parts of the cube roots of 2, 3, 5, 7, 11, 13, 17 and 19, made odd. */
#define K0 UINT64_C(0x428a2f98d728ae23)
#define K1 UINT64_C(0x7137449123ef65cd)
#define K2 UINT64_C(0xb5c0fbcfec4d3b2f)
#define K3 UINT64_C(0xe9b5dba58189dbbd)
#define K4 UINT64_C(0x3956c25bf348b539)
#define K5 UINT64_C(0x59f111f1b605d019)
#define K6 UINT64_C(0x923f82a4af194f9b)
#define K7 UINT64_C(0xab1c5ed5da6d8119)

static uint64_t read64(const unsigned char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}

static uint64_t fold(uint64_t a, uint64_t b)
{
#ifdef __SIZEOF_INT128__
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
#else
    uint64_t al = (uint32_t)a, ah = a >> 32, bl = (uint32_t)b, bh = b >> 32;
    uint64_t ll = al * bl, lh = al * bh, hl = ah * bl, hh = ah * bh;
    uint64_t mid = (ll >> 32) + (uint32_t)lh + (uint32_t)hl;
    uint64_t low = (mid << 32) | (uint32_t)ll;
    uint64_t high = hh + (lh >> 32) + (hl >> 32) + (mid >> 32);
    return low ^ high;
#endif
}

/* The rotated old state is xored in again, so that a factor that happens to be zero cannot wipe out
 * what came before. */
static uint64_t step(uint64_t state, const unsigned char *p, uint64_t ka, uint64_t kb)
{
    return ((state << 29) | (state >> 35)) ^ fold(read64(p) ^ ka, read64(p + 8) ^ kb ^ state);
}

uint64_t ldg_hash64(const void *data, size_t size, uint64_t seed)
{
    const unsigned char *p = data;
    size_t left = size;
    uint64_t state = fold(seed ^ K0, K1) ^ seed;
    if (left >= 64) {
        uint64_t a = state, b = state ^ K2, c = state ^ K3, d = state ^ K4;
        for (; left >= 64; left -= 64, p += 64) {
            a = step(a, p, K0, K1);
            b = step(b, p + 16, K2, K3);
            c = step(c, p + 32, K4, K5);
            d = step(d, p + 48, K6, K7);
        }
        state = fold(a ^ K5, b ^ K6) ^ fold(c ^ K7, d ^ K0) ^ a ^ d;
    }
    for (; left >= 16; left -= 16, p += 16)
        state = step(state, p, K2, K5);
    if (left > 0) {
        unsigned char last[16] = { 0 }; /* the size below tells padding from zeros */
        memcpy(last, p, left);
        state = step(state, last, K3, K6);
    }
    state = fold(state ^ K7, (uint64_t)size ^ K4) ^ state;
    return fold(state ^ K1, K0);
}
