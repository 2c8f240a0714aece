/* What of our tables, columns and indexes a file has, for schema.c and check.c. */
#ifndef LDG_BACKEND_SQLITE_SCHEMA_H
#define LDG_BACKEND_SQLITE_SCHEMA_H

#include "backend/sqlite/sqlite.h"

#define NAME_MAX_BYTES 128 /* of a table or index, with what we add to its name */

enum {
    HAS_ENTRY = 1 << 0,
    HAS_SOURCE_ID = 1 << 1,
    HAS_ORIGIN = 1 << 2,
    HAS_SOURCE_POS = 1 << 3,
    HAS_MUTATION_POS = 1 << 4,
    HAS_IDX_DEDUP = 1 << 5,
    HAS_IDX_STREAM = 1 << 6,
    HAS_IDX_ORIGIN = 1 << 7,
    HAS_CURSORS = 1 << 8,
    HAS_CURSOR_STATE = 1 << 9,
    HAS_CURSOR_MOVED = 1 << 10,
    HAS_META = 1 << 11,
    HAS_IDENTITY = 1 << 12,
    HAS_ORIGINS = 1 << 13,
    HAS_PARKED = 1 << 14,
    HAS_IDX_PARKED = 1 << 15,
    HAS_FOREIGN = 1 << 16,
    HAS_TAGS_POS = 1 << 17,
    HAS_ANNOTATIONS_POS = 1 << 18,
    HAS_GO_IDS = 1 << 19,
    HAS_IDX_KEY = 1 << 20,
    HAS_ENTRY_ID = 1 << 21,
    HAS_IDX_PARKED_KEY = 1 << 22,
    HAS_LOG = 1 << 23,
    HAS_ALL_BUT_LOG = (1 << 23) - 1,
    HAS_TO_READ = HAS_ALL_BUT_LOG & ~(HAS_FOREIGN | HAS_TAGS_POS | HAS_ANNOTATIONS_POS |
                                      HAS_GO_IDS | HAS_IDX_KEY | HAS_ENTRY_ID | HAS_IDX_PARKED_KEY),
};

/* Reads what is there. Errors: SCHEMA for what is there but cannot be ours. */
ledger_rc ldg_sqlite_catalog_read(struct ldg_sqlite *s, bool want_log, uint32_t *ret_has,
                                  ledger_error *err);

#endif
