/* Backends that can do less than the one they are a copy of. */
#ifndef LDG_TEST_ROLES_H
#define LDG_TEST_ROLES_H

#include "store/handle.h"

/* A backend whose every role may be changed. */
struct tst_backend {
    struct ldg_backend backend;
    struct ldg_store_role store;
    struct ldg_source_role source;
    struct ldg_sink_role sink;
    struct ldg_state_role state;
    struct ldg_verify_role verify;
};
/* `of` has all roles; so has the copy. */
void tst_backend_copy(struct tst_backend *copy, const struct ldg_backend *of);

/* What is taken away. */
enum tst_cut {
    TST_CUT_CURSORS, /* a sink that keeps none */
    TST_CUT_TRIM,    /* trims are neither made nor taken */
    TST_CUT_ALL,     /* entries are added and read, and that is all */
    TST_CUTS
};
/* From this handle, and from every one that is opened of it. */
void tst_cut(ledger_store *store, enum tst_cut cut);

#endif
