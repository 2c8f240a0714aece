/* Chunked bump allocator. Only the newest chunk is filled; what does not fit a chunk well gets one
 * of its own behind it, so that a large payload does not waste the rest of the present chunk.
 * Chunks grow with what was handed out, from CHUNK_MIN to CHUNK_MAX. Under AddressSanitizer the
 * unused parts and a gap behind each allocation are poisoned: an overrun is seen as on the heap. */
#include "base/arena.h"

#include <stdalign.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/mem.h"

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif

#ifdef ARENA_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(p, size) ASAN_POISON_MEMORY_REGION(p, size)
#define UNPOISON(p, size) ASAN_UNPOISON_MEMORY_REGION(p, size)
#define GAP 16
#else
#define POISON(p, size) ((void)(p), (void)(size))
#define UNPOISON(p, size) ((void)(p), (void)(size))
#define GAP 0
#endif

#define CHUNK_MIN ((size_t)4 * 1024)
#define CHUNK_MAX ((size_t)256 * 1024)

struct ldg_arena_chunk {
    struct ldg_arena_chunk *next;
    size_t size; /* of data */
    size_t used;
    alignas(max_align_t) char data[];
};

void ldg_arena_init(struct ldg_arena *arena, size_t keep_bytes)
{
    *arena = (struct ldg_arena){ .keep = keep_bytes };
}

void ldg_arena_keep(struct ldg_arena *arena, size_t keep_bytes)
{
    arena->keep = keep_bytes;
}

static void free_chunk(struct ldg_arena_chunk *chunk)
{
    UNPOISON(chunk->data, chunk->size);
    ldg_free(chunk);
}

static void free_chunks(struct ldg_arena_chunk *chunk)
{
    while (chunk != NULL) {
        struct ldg_arena_chunk *next = chunk->next;
        free_chunk(chunk);
        chunk = next;
    }
}

void ldg_arena_reset(struct ldg_arena *arena)
{
    struct ldg_arena_chunk *lists[] = { arena->spare, arena->chunks };
    size_t kept = 0;
    arena->chunks = NULL;
    arena->spare = NULL;
    for (size_t i = 0; i < 2; i++) {
        struct ldg_arena_chunk *chunk = lists[i];
        while (chunk != NULL) {
            struct ldg_arena_chunk *next = chunk->next;
            if (chunk->size <= CHUNK_MAX && chunk->size <= arena->keep &&
                kept <= arena->keep - chunk->size) {
                kept += chunk->size;
                chunk->used = 0;
                POISON(chunk->data, chunk->size);
                chunk->next = arena->spare;
                arena->spare = chunk;
            } else {
                free_chunk(chunk);
            }
            chunk = next;
        }
    }
    arena->used = 0;
}

void ldg_arena_fini(struct ldg_arena *arena)
{
    free_chunks(arena->chunks);
    free_chunks(arena->spare);
    *arena = (struct ldg_arena){ .keep = arena->keep };
}

/* A chunk with at least size bytes of room, from the spare ones or new; not linked yet. */
static struct ldg_arena_chunk *get_chunk(struct ldg_arena *arena, size_t size)
{
    for (struct ldg_arena_chunk **link = &arena->spare; *link != NULL; link = &(*link)->next) {
        struct ldg_arena_chunk *chunk = *link;
        if (chunk->size >= size) {
            *link = chunk->next;
            return chunk;
        }
    }
    struct ldg_arena_chunk *chunk = ldg_malloc(sizeof *chunk + size);
    if (chunk == NULL)
        return NULL;
    chunk->size = size;
    chunk->used = 0;
    POISON(chunk->data, size);
    return chunk;
}

static size_t align_up(size_t n, size_t align)
{
    return (n + align - 1) & ~(align - 1);
}

/* The usual size of the next chunk: as much again as was handed out, within bounds. */
static size_t chunk_size(const struct ldg_arena *arena)
{
    size_t size = CHUNK_MIN;
    while (size < arena->used && size < CHUNK_MAX)
        size *= 2;
    return size - sizeof(struct ldg_arena_chunk);
}

static void *take(struct ldg_arena *arena, struct ldg_arena_chunk *chunk, size_t start, size_t size)
{
    void *p = chunk->data + start;
    chunk->used = start + size + GAP;
    arena->used += size;
    UNPOISON(p, size);
    return p;
}

static void *alloc_aligned(struct ldg_arena *arena, size_t size, size_t align)
{
    struct ldg_arena_chunk *head = arena->chunks;
    if (size > SIZE_MAX / 2)
        return NULL; /* below, sums cannot overflow */
    if (head != NULL) {
        size_t start = align_up(head->used, align);
        if (start <= head->size && size + GAP <= head->size - start)
            return take(arena, head, start, size);
    }
    size_t usual = chunk_size(arena);
    bool own = size + GAP > usual / 4;
    struct ldg_arena_chunk *chunk = get_chunk(arena, own ? size + GAP : usual);
    if (chunk == NULL)
        return NULL;
    if (own && head != NULL && chunk->size < 2 * size + GAP) {
        chunk->next = head->next;
        head->next = chunk;
    } else {
        chunk->next = head;
        arena->chunks = chunk;
    }
    return take(arena, chunk, 0, size);
}

void *ldg_arena_alloc(struct ldg_arena *arena, size_t size)
{
    /* One byte at least, so that no two results are the same address. */
    return alloc_aligned(arena, size > 0 ? size : 1, alignof(max_align_t));
}

void *ldg_arena_calloc(struct ldg_arena *arena, size_t count, size_t size)
{
    if (size > 0 && count > SIZE_MAX / size)
        return NULL;
    void *p = ldg_arena_alloc(arena, count * size);
    if (p != NULL)
        memset(p, 0, count * size);
    return p;
}

char *ldg_arena_strdup(struct ldg_arena *arena, const char *s)
{
    return ldg_arena_strndup(arena, s, strlen(s));
}

char *ldg_arena_strndup(struct ldg_arena *arena, const char *s, size_t size)
{
    if (size == SIZE_MAX)
        return NULL;
    char *copy = alloc_aligned(arena, size + 1, 1);
    if (copy == NULL)
        return NULL;
    if (size > 0)
        memcpy(copy, s, size);
    copy[size] = '\0';
    return copy;
}

void *ldg_arena_memdup(struct ldg_arena *arena, const void *p, size_t size)
{
    void *copy = ldg_arena_alloc(arena, size);
    if (copy != NULL && size > 0)
        memcpy(copy, p, size);
    return copy;
}

void *ldg_arena_grow(struct ldg_arena *arena, void *items, size_t item_size, size_t count,
                     size_t *cap)
{
    const size_t next = *cap == 0 ? 16 : *cap * 2;
    void *more;

    if (count < *cap)
        return items;
    more = ldg_arena_calloc(arena, next, item_size);
    if (more == NULL)
        return NULL;
    if (count > 0)
        memcpy(more, items, count * item_size);
    *cap = next;
    return more;
}
