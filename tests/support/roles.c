#include "roles.h"

#include "store/registry.h"

#define BACKENDS_MAX 8

void tst_backend_copy(struct tst_backend *copy, const struct ldg_backend *of)
{
    copy->backend = *of;
    copy->store = *of->store;
    copy->source = *of->source;
    copy->sink = *of->sink;
    copy->state = *of->state;
    copy->verify = *of->verify;
    copy->backend.store = &copy->store;
    copy->backend.source = &copy->source;
    copy->backend.sink = &copy->sink;
    copy->backend.state = &copy->state;
    copy->backend.verify = &copy->verify;
}

static void cut_cursors(struct tst_backend *b)
{
    b->state.cursor_get = NULL;
    b->state.cursor_set = NULL;
    b->state.cursor_list = NULL;
    b->backend.caps &= ~(uint64_t)LDG_CAP_OVERLAP_APPLY;
}

static void cut_trim(struct tst_backend *b)
{
    b->store.trim = NULL;
    b->sink.takes &= ~(1U << LDG_OP_TRIM);
}

static void cut_all(struct tst_backend *b)
{
    b->store = (struct ldg_store_role){
        .append = b->store.append,
        .read = b->store.read,
        .count = b->store.count,
        .stat = b->store.stat,
        .list_streams = b->store.list_streams,
    };
    b->backend.caps = 0;
    b->backend.source = NULL;
    b->backend.sink = NULL;
    b->backend.state = NULL;
    b->backend.verify = NULL;
}

void tst_cut(ledger_store *store, enum tst_cut cut)
{
    static struct tst_backend copies[TST_CUTS][BACKENDS_MAX];
    static void (*const cuts[TST_CUTS])(struct tst_backend *) = { cut_cursors, cut_trim, cut_all };
    size_t i = 0;
    while (ldg_registry_get(i) != store->backend)
        i++;
    struct tst_backend *copy = &copies[cut][i];
    if (!copy->backend.name) { /* they may be in use: never made twice */
        tst_backend_copy(copy, store->backend);
        cuts[cut](copy);
    }
    store->backend = &copy->backend;
}
