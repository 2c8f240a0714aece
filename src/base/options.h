/* Options structs of the public headers, which grow from version to version. Each begins with its
 * size, as the program was compiled with it, so that a program and a library of different versions
 * understand each other (as Linux's copy_struct_from_user). New fields go to the end. */
#ifndef LDG_BASE_OPTIONS_H
#define LDG_BASE_OPTIONS_H

#include "base/error.h"

/* What this version knows of one of them. */
struct ldg_options {
    const char *name;     /* "ledger_store_options" */
    const void *defaults; /* the struct itself, with its `size` */
    size_t size;
    size_t least; /* in the first version; see LDG_OPTIONS_UP_TO */
};

/* The size of a struct at the time when `field` was its last. */
#define LDG_OPTIONS_UP_TO(type, field)                                                             \
    ((offsetof(type, field) + sizeof(((type *)NULL)->field) + sizeof(size_t) - 1) /                \
     sizeof(size_t) * sizeof(size_t))

/* Sets `size` bytes of the caller's to the defaults; what this version does not know of them is 0.
 * options may be NULL. */
void ldg_options_init(const struct ldg_options *known, void *options, size_t size);
/* Copies what the caller's struct has over the defaults; NULL: the defaults. ret_options has
 * known->size bytes. Errors: INVALID (a size of no version, which is a struct whose defaults were
 * forgotten; an option is set that only a later version knows). */
ledger_rc ldg_options_take(const struct ldg_options *known, const void *options, void *ret_options,
                           ledger_error *err);

#endif
