/* A bump allocator: many small allocations, one free. Reset keeps the first chunks for reuse. */
#ifndef LDG_BASE_ARENA_H
#define LDG_BASE_ARENA_H

#include <stddef.h>

struct ldg_arena_chunk;
struct ldg_arena {
    struct ldg_arena_chunk *chunks; /* in use, newest first */
    struct ldg_arena_chunk *spare;  /* kept by reset, empty */
    size_t used;                    /* bytes handed out since init or reset */
    size_t keep;                    /* reset frees all but about this much */
};

void ldg_arena_init(struct ldg_arena *arena, size_t keep_bytes); /* allocates nothing */
void ldg_arena_keep(struct ldg_arena *arena, size_t keep_bytes); /* from the next reset on */
void ldg_arena_reset(struct ldg_arena *arena);                   /* everything handed out is gone */
void ldg_arena_fini(struct ldg_arena *arena);

/* Aligned for any type; not zeroed; NULL when out of memory. size 0 gives a valid pointer. */
void *ldg_arena_alloc(struct ldg_arena *arena, size_t size);
void *ldg_arena_calloc(struct ldg_arena *arena, size_t count, size_t size); /* checks, zeroes */
char *ldg_arena_strdup(struct ldg_arena *arena, const char *s);
char *ldg_arena_strndup(struct ldg_arena *arena, const char *s, size_t size); /* adds NUL */
void *ldg_arena_memdup(struct ldg_arena *arena, const void *p, size_t size);
/* An array with room for an item more than the count that it holds: items as it is, or a larger
 * copy. *cap: how many it has room for, 0 before the first. NULL when out of memory. */
void *ldg_arena_grow(struct ldg_arena *arena, void *items, size_t item_size, size_t count,
                     size_t *cap);

#endif
