/* A fast 64-bit hash for witnesses and hash tables. Not for hostile keys. Its values are stored in
 * cursors: the function never changes. */
#ifndef LDG_BASE_HASH_H
#define LDG_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t ldg_hash64(const void *data, size_t size, uint64_t seed);

#endif
