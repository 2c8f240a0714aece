/* Allocation. The only place that calls malloc; every function may fail and says so with NULL. */
#ifndef LDG_BASE_MEM_H
#define LDG_BASE_MEM_H

#include <stddef.h>

void *ldg_malloc(size_t size);
void *ldg_calloc(size_t count, size_t size); /* checks the product */
void *ldg_realloc(void *p, size_t size);
char *ldg_strdup(const char *s);
void ldg_free(void *p);
void ldg_free_secret(char *secret); /* overwritten first; NULL is fine */

/* Frees a heap pointer variable at the end of its scope: LDG_AUTO_FREE char *p = NULL; */
void ldg_free_cleanup(void *pp);
#define LDG_AUTO_FREE __attribute__((cleanup(ldg_free_cleanup)))

#endif
