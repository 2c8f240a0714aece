/* What schema.c (looking), migrate.c (making and mending) and check.c share: the shape that the
 * tables should have, and the one they have. */
#ifndef LDG_BACKEND_POSTGRES_SCHEMA_H
#define LDG_BACKEND_POSTGRES_SCHEMA_H

#include "backend/postgres/postgres.h"

enum ldg_pg_table {
    LDG_PG_ENTRIES,
    LDG_PG_CURSORS,
    LDG_PG_META,
    LDG_PG_ORIGINS,
    LDG_PG_PARKED,
    LDG_PG_FOREIGN,
    LDG_PG_LOG,
    LDG_PG_TABLE_COUNT
};
enum ldg_pg_index {
    LDG_PG_IDX_STREAM,
    LDG_PG_IDX_DEDUP,
    LDG_PG_IDX_ORIGIN,
    LDG_PG_IDX_PARKED,
    LDG_PG_IDX_TXID,
    LDG_PG_IDX_FULL_TEXT,
    LDG_PG_INDEX_COUNT
};

/* What a store may have. */
enum {
    LDG_PG_HAS_TABLE = 1 << 0, /* << enum ldg_pg_table */
    LDG_PG_HAS_LOG = LDG_PG_HAS_TABLE << LDG_PG_LOG,
    LDG_PG_HAS_INDEX = 1 << LDG_PG_TABLE_COUNT, /* << enum ldg_pg_index */
    LDG_PG_HAS_FULL_TEXT = LDG_PG_HAS_INDEX << LDG_PG_IDX_FULL_TEXT,
    LDG_PG_HAS_SOURCE_ID = 1 << 13,
    LDG_PG_HAS_ORIGIN = 1 << 14,
    LDG_PG_HAS_SOURCE_POS = 1 << 15,
    LDG_PG_HAS_MUTATION_POS = 1 << 16,
    LDG_PG_HAS_CURSOR_STATE = 1 << 17,
    LDG_PG_HAS_CURSOR_MOVED = 1 << 18,
    LDG_PG_HAS_IDENTITY = 1 << 19,
    LDG_PG_HAS_TXID = 1 << 20,
    LDG_PG_HAS_TXID_DEFAULT = 1 << 21,
    LDG_PG_HAS_NOTIFY = 1 << 22,
    LDG_PG_HAS_WORDS = 1 << 23, /* the function that the index of full text is on */
    LDG_PG_HAS_TAGS_POS = 1 << 24,
    LDG_PG_HAS_ANNOTATIONS_POS = 1 << 25,
};
/* What every store needs, without its log. */
#define LDG_PG_NEEDS                                                                               \
    ((uint32_t)((1 << LDG_PG_LOG) - 1) | (LDG_PG_HAS_INDEX << LDG_PG_IDX_STREAM) |                 \
     (LDG_PG_HAS_INDEX << LDG_PG_IDX_DEDUP) | (LDG_PG_HAS_INDEX << LDG_PG_IDX_ORIGIN) |            \
     (LDG_PG_HAS_INDEX << LDG_PG_IDX_PARKED) | LDG_PG_HAS_SOURCE_ID | LDG_PG_HAS_ORIGIN |          \
     LDG_PG_HAS_SOURCE_POS | LDG_PG_HAS_MUTATION_POS | LDG_PG_HAS_TAGS_POS |                       \
     LDG_PG_HAS_ANNOTATIONS_POS | LDG_PG_HAS_CURSOR_STATE | LDG_PG_HAS_CURSOR_MOVED |              \
     LDG_PG_HAS_IDENTITY)
#define LDG_PG_LOG_NEEDS                                                                           \
    ((uint32_t)LDG_PG_HAS_LOG | LDG_PG_HAS_TXID | LDG_PG_HAS_TXID_DEFAULT |                        \
     (LDG_PG_HAS_INDEX << LDG_PG_IDX_TXID))

struct ldg_pg_column {
    const char *name;
    Oid type;
    uint32_t has;    /* set when it is there */
    const char *ddl; /* NULL: a table without it has another shape */
};
struct ldg_pg_table_def {
    const char *name; /* with {t}, {l} */
    const struct ldg_pg_column *columns;
    const char *ddl;
};
struct ldg_pg_index_def {
    const char *name; /* with {t}, {l} */
    enum ldg_pg_table table;
    bool unique, partial;
    const char *columns; /* "stream,id"; NULL: an expression */
    const char *ddl;     /* behind CREATE [UNIQUE] INDEX [CONCURRENTLY] */
};
extern const struct ldg_pg_table_def ldg_pg_tables[LDG_PG_TABLE_COUNT];
extern const struct ldg_pg_index_def ldg_pg_indexes[LDG_PG_INDEX_COUNT];

enum {
    LDG_PG_MAY_ALTER = 1 << 0, /* it is the role's own */
    LDG_PG_MAY_SELECT = 1 << 1,
    LDG_PG_MAY_INSERT = 1 << 2,
    LDG_PG_MAY_UPDATE = 1 << 3,
    LDG_PG_MAY_DELETE = 1 << 4,
    LDG_PG_ROWS_HIDDEN = 1 << 5, /* row-level security shows the role a part of it */
    LDG_PG_UNLOGGED = 1 << 6,
};

/* How a store was found. */
struct ldg_pg_shape {
    uint32_t has;                           /* LDG_PG_HAS_… */
    uint32_t invalid;                       /* indexes (1 << enum) left over by a broken build */
    uint32_t tables[LDG_PG_TABLE_COUNT];    /* LDG_PG_MAY_… */
    char owners[LDG_PG_TABLE_COUNT][64];    /* of the tables */
    int64_t caches[LDG_PG_TABLE_COUNT];     /* of the sequences of their ids; 0: none */
    char sequences[LDG_PG_TABLE_COUNT][64]; /* that the role may not use, or "" */
    char schema[64]; /* of the entries, or where they would be made; "": none */
    char role[64];
    bool may_create;         /* tables in that schema */
    int64_t database, table; /* oids */
    bool has_origins;
    struct ldg_identity identity;
};

/* schema.c. One or two round trips. Errors: SCHEMA for what is there but cannot be ours. */
ledger_rc ldg_pg_look(struct ldg_pg *pg, bool want_log, struct ldg_pg_shape *ret_shape,
                      ledger_error *err);
/* name or pattern with the names put in. */
const char *ldg_pg_name(const struct ldg_pg *pg, const char *pattern, char out[80]);

/* migrate.c. Adds what `need` (LDG_PG_HAS_…) names and the store lacks; waits for no lock longer
 * than 100 ms where writers would have to wait behind it. *shape is how the store is afterwards. */
ledger_rc ldg_pg_migrate(struct ldg_pg *pg, uint32_t need, bool want_log, bool new_identity,
                         struct ldg_pg_shape *shape, ledger_error *err);

#endif
