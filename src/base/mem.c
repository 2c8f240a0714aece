/* The one place that calls the C allocator, so that tests can make every allocation of the library
 * fail and so that a size of 0 never gives NULL. Memory is plain libc memory: results handed to
 * callers are freed with free(). */
#include "base/mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void *ldg_malloc(size_t size)
{
    return malloc(size > 0 ? size : 1);
}

void *ldg_calloc(size_t count, size_t size)
{
    if (size > 0 && count > SIZE_MAX / size)
        return NULL;
    return count > 0 && size > 0 ? calloc(count, size) : calloc(1, 1);
}

void *ldg_realloc(void *p, size_t size)
{
    return realloc(p, size > 0 ? size : 1);
}

char *ldg_strdup(const char *s)
{
    size_t size = strlen(s) + 1;
    char *copy = ldg_malloc(size);
    if (copy != NULL)
        memcpy(copy, s, size);
    return copy;
}

void ldg_free(void *p)
{
    free(p);
}

void ldg_free_secret(char *secret)
{
    if (secret != NULL)
        explicit_bzero(secret, strlen(secret));
    ldg_free(secret);
}

void ldg_free_cleanup(void *pp)
{
    void *p;
    memcpy(&p, pp, sizeof p); /* pp points to a pointer of any type */
    free(p);
}
