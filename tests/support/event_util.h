/* Comparing and making mutation events, for the tests of the decoder and its fuzz targets. */
#ifndef TEST_EVENT_UTIL_H
#define TEST_EVENT_UTIL_H

#include "ledger/event.h"

#include "base/arena.h"

/* Every field equal? Maps in any order of keys; NULL strings count as "". Returns the name of the
 * first field that differs, NULL if none does. */
const char *event_difference(const ledger_mutation_event *a, const ledger_mutation_event *b);

/* A seeded generator (splitmix64). */
uint64_t random_next(uint64_t *seed);
size_t random_below(uint64_t *seed, size_t limit);
/* Up to max_size bytes of UTF-8 without NUL: quotes, controls, characters of all lengths. */
const char *random_text(uint64_t *seed, size_t max_size, struct ldg_arena *arena);
/* A JSON value with white space around it. */
ledger_bytes random_json(uint64_t *seed, struct ldg_arena *arena);
/* An event with every required field, and optional ones at random. Maps are sorted. */
ledger_mutation_event random_event(uint64_t *seed, struct ldg_arena *arena);

#endif
