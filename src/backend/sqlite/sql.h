/* Statements of the sink that do not stand beside their caller yet. */
#ifndef LDG_BACKEND_SQLITE_SQL_H
#define LDG_BACKEND_SQLITE_SQL_H

#include "backend/sqlite/db.h"

enum ldg_sqlite_stmt_id {
    /* write.c */
    LDG_STMT_SET_TAGS,
    LDG_STMT_DELETE, /* one entry by id: an append that takes itself back */
    /* cursors.c */
    LDG_STMT_ORIGIN_IDENTITY,
    LDG_STMT_ORIGIN_ORDER,
    LDG_STMT_GO_FIND,
    /* apply.c, ops.c */
    LDG_STMT_APPLY_INSERT_1, /* plain multi-row inserts of 1, 8 and 32 rows with explicit ids */
    LDG_STMT_APPLY_INSERT_8,
    LDG_STMT_APPLY_INSERT_32,
    LDG_STMT_APPLY_INSERT_SAFE, /* one row, conflict targets named */
    LDG_STMT_APPLY_FIND,        /* the whole entry, to compare */
    LDG_STMT_APPLY_FIND_LOCAL,
    LDG_STMT_APPLY_FIND_DEDUP,
    LDG_STMT_APPLY_LOOK, /* what a change needs to know; _LOCAL: origin 0, by id */
    LDG_STMT_APPLY_LOOK_LOCAL,
    LDG_STMT_APPLY_TAGS,
    LDG_STMT_APPLY_TAGS_OLDER,
    LDG_STMT_TRIGGERS,
    LDG_STMT_APPLY_ANNOTATIONS,
    LDG_STMT_APPLY_TRIM,
    LDG_STMT_APPLY_TRIM_ORDERED,
    LDG_STMT_APPLY_LATER,
    LDG_STMT_APPLY_TRIM_LOCAL,
    LDG_STMT_APPLY_TRIM_HIGHEST,
    LDG_STMT_APPLY_TRIM_HIGHEST_ORDERED,
    LDG_STMT_APPLY_TRIM_HIGHEST_LOCAL,
    LDG_STMT_APPLY_TRIM_LIST, /* what would be trimmed, where some are kept */
    LDG_STMT_APPLY_TRIM_LIST_LOCAL,
    LDG_STMT_FOREIGN_ANY, /* changes made where the entry was not */
    LDG_STMT_FOREIGN_GET,
    LDG_STMT_FOREIGN_PUT,
    LDG_STMT_FOREIGN_TRIM,
    LDG_STMT_FOREIGN_DELETE,
    LDG_STMT_APPLY_NEXT_ID,
    /* parked.c */
    LDG_STMT_PARKED_ANY,
    LDG_STMT_PARKED_OF_ENTRY,
    LDG_STMT_PARKED_UNKNOWN,
    LDG_STMT_PARKED_OF_KEY,
    LDG_STMT_PARK,
    LDG_STMT_PARKED_DONE,
    LDG_STMT_PARKED_TRIM,
    LDG_STMT_PARKED_TRIM_LIST,
    LDG_STMT_PARKED_LIST,
    LDG_STMT_PARKED_COUNT,
    LDG_STMT_PARKED_NOTE,
    LDG_STMT_PARKED_DROP,
    LDG_STMT_COUNT
};

/* The statement, prepared on first use and reset; NULL with err set. */
sqlite3_stmt *ldg_sqlite_stmt(struct ldg_sqlite *s, enum ldg_sqlite_stmt_id id, ledger_error *err);
/* Runs a statement with integers; *ret_value (may be NULL): its first column, if a row came. */
ledger_rc ldg_sqlite_run_ints(struct ldg_sqlite *s, enum ldg_sqlite_stmt_id id, const char *doing,
                              const int64_t *values, int count, int64_t *ret_value,
                              ledger_error *err);

#endif
