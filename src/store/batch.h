/* Inside view of ledger_batch: one arena owns the entries and all they point to. */
#ifndef LDG_STORE_BATCH_H
#define LDG_STORE_BATCH_H

#include "ledger/types.h"

#include "base/arena.h"

struct ledger_batch {
    struct ldg_arena arena;
    ledger_entry *entries;
    size_t count;
};

/* Empty; NULL when out of memory. */
ledger_batch *ldg_batch_create(void);

#endif
