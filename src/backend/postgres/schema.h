/* The shape that the tables should have (tables.c), and the one they have (catalog.c): for schema.c
 * (opening), grants.c, migrate.c (making and mending) and check.c. */
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
    LDG_PG_IDX_ORIGIN_TEXT,
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
    LDG_PG_HAS_SOURCE_ID = 1 << 14,
    LDG_PG_HAS_ORIGIN = 1 << 15,
    LDG_PG_HAS_SOURCE_POS = 1 << 16,
    LDG_PG_HAS_MUTATION_POS = 1 << 17,
    LDG_PG_HAS_CURSOR_STATE = 1 << 18,
    LDG_PG_HAS_CURSOR_MOVED = 1 << 19,
    LDG_PG_HAS_IDENTITY = 1 << 20,
    LDG_PG_HAS_TXID = 1 << 21,
    LDG_PG_HAS_TXID_DEFAULT = 1 << 22,
    LDG_PG_HAS_NOTIFY = 1 << 23,
    LDG_PG_HAS_WORDS = 1 << 24, /* the function that the index of full text is on */
    LDG_PG_HAS_TAGS_POS = 1 << 25,
    LDG_PG_HAS_ANNOTATIONS_POS = 1 << 26,
    LDG_PG_HAS_TXID_GUARD = 1 << 27, /* no row can be written without a transaction number */
    LDG_PG_HAS_GO_IDS = 1 << 28,
    LDG_PG_HAS_ENTRY_ID = 1 << 29,
};
/* Where an origin's ids are texts; a store without it takes such entries neither in nor aside. */
#define LDG_PG_TEXT_NEEDS                                                                          \
    ((uint32_t)LDG_PG_HAS_ENTRY_ID | (LDG_PG_HAS_INDEX << LDG_PG_IDX_ORIGIN_TEXT))
/* What every store needs, without its log. */
#define LDG_PG_NEEDS                                                                               \
    ((uint32_t)((1 << LDG_PG_LOG) - 1) | (LDG_PG_HAS_INDEX << LDG_PG_IDX_STREAM) |                 \
     (LDG_PG_HAS_INDEX << LDG_PG_IDX_DEDUP) | (LDG_PG_HAS_INDEX << LDG_PG_IDX_ORIGIN) |            \
     (LDG_PG_HAS_INDEX << LDG_PG_IDX_PARKED) | LDG_PG_HAS_SOURCE_ID | LDG_PG_HAS_ORIGIN |          \
     LDG_PG_HAS_SOURCE_POS | LDG_PG_HAS_MUTATION_POS | LDG_PG_HAS_TAGS_POS |                       \
     LDG_PG_HAS_ANNOTATIONS_POS | LDG_PG_HAS_CURSOR_STATE | LDG_PG_HAS_CURSOR_MOVED |              \
     LDG_PG_HAS_GO_IDS | LDG_PG_HAS_IDENTITY | LDG_PG_TEXT_NEEDS)
#define LDG_PG_LOG_NEEDS                                                                           \
    ((uint32_t)LDG_PG_HAS_LOG | LDG_PG_HAS_TXID | LDG_PG_HAS_TXID_DEFAULT |                        \
     (LDG_PG_HAS_INDEX << LDG_PG_IDX_TXID))

/* A constraint on the log's column txid; an ORM that maps the column would write NULL there. */
#define LDG_PG_TXID_GUARD "ledger_txid"

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
/* name or pattern with the names put in. */
const char *ldg_pg_name(const struct ldg_pg *pg, const char *pattern, char out[80]);

enum {
    LDG_PG_MAY_ALTER = 1 << 0, /* it is the role's own */
    LDG_PG_MAY_SELECT = 1 << 1,
    LDG_PG_MAY_INSERT = 1 << 2,
    LDG_PG_MAY_UPDATE = 1 << 3,
    LDG_PG_MAY_DELETE = 1 << 4,
    LDG_PG_ROWS_HIDDEN = 1 << 5, /* row-level security shows the role a part of it */
    LDG_PG_UNLOGGED = 1 << 6,
    LDG_PG_TEMPORARY = 1 << 7,
    LDG_PG_HAS_CHILDREN = 1 << 8, /* tables inherit from it: it shows their rows as its own */
    LDG_PG_ROUNDS_TIMES = 1 << 9, /* a time keeps less than microseconds */
};

/* The sequence that an id column takes its numbers from. */
struct ldg_pg_sequence {
    char name[144];  /* as it is written in a statement; "": there is none */
    char owned[144]; /* the same, of the one that belongs to the column */
    bool may_use;
    bool falls, cycles; /* counts down; begins anew at its end */
    int64_t cache;      /* so many ids a session draws at once */
};

/* How a store was found. */
struct ldg_pg_shape {
    uint32_t has;                        /* LDG_PG_HAS_… */
    uint32_t invalid;                    /* indexes (1 << enum) left over by a broken build */
    uint32_t tables[LDG_PG_TABLE_COUNT]; /* LDG_PG_MAY_… */
    char owners[LDG_PG_TABLE_COUNT][64]; /* of the tables */
    struct ldg_pg_sequence sequences[LDG_PG_TABLE_COUNT]; /* of their ids */
    char feeders[LDG_PG_TABLE_COUNT][64];                 /* subscriptions that fill them, or "" */
    char schema[64]; /* of the entries, or where they would be made; "": none */
    char role[64];
    bool may_create;         /* tables in that schema */
    int64_t database, table; /* oids */
    bool has_origins;
    struct ldg_identity identity;
};

static inline bool ldg_pg_has_table(const struct ldg_pg_shape *shape, size_t table)
{
    return shape->has & (uint32_t)LDG_PG_HAS_TABLE << table;
}

/* catalog.c. One or two round trips. Errors: SCHEMA for what is there but cannot be ours. */
ledger_rc ldg_pg_catalog_read(struct ldg_pg *pg, bool want_log, struct ldg_pg_shape *ret_shape,
                              ledger_error *err);
/* All but the identity: one round trip. */
ledger_rc ldg_pg_catalog_read_tables(struct ldg_pg *pg, bool want_log,
                                     struct ldg_pg_shape *ret_shape, ledger_error *err);

/* schema.c. What makes a table that is complete of no use to a bridge: which properties it must
 * have, the server lets its owner change at any time. */
enum ldg_pg_fault {
    LDG_PG_FAULT_HIDDEN,   /* rows are left out without an error */
    LDG_PG_FAULT_KEPT,     /* a crash, or the end of a session, empties it */
    LDG_PG_FAULT_CHILDREN, /* other tables' rows show up in it, and no index holds for both */
    LDG_PG_FAULT_SEQUENCE, /* ids do not rise in the order in which they are drawn */
    LDG_PG_FAULT_FED,      /* rows come from a publisher, with its transaction numbers */
    LDG_PG_FAULT_COUNT
};
/* false: the table has no such fault. *ret_rc: PERMISSION or SCHEMA; text: what it is, and the
 * statement that helps, to stand behind the table's name. */
bool ldg_pg_find_fault(const struct ldg_pg *pg, const struct ldg_pg_shape *shape,
                       enum ldg_pg_table table, enum ldg_pg_fault fault, ledger_rc *ret_rc,
                       char *text, size_t text_size);
/* grants.c. What a role uses the tables for. */
enum ldg_pg_use { LDG_PG_USE_PROGRAM, LDG_PG_USE_SOURCE, LDG_PG_USE_SINK, LDG_PG_USE_COUNT };
/* Writes the GRANTs, with ; between, that the role lacks for it. all: also for what only some
 * events need, and a bridge may be told to skip. false: it lacks nothing. */
bool ldg_pg_lacks_grants(const struct ldg_pg *pg, const struct ldg_pg_shape *shape,
                         enum ldg_pg_use use, bool all, char *out, size_t out_size);
/* An end of a bridge: what it cannot do without is told when it starts, not with the first event.
 * Errors: PERMISSION. */
ledger_rc ldg_pg_check_role(const struct ldg_pg *pg, const struct ldg_pg_shape *shape,
                            ledger_error *err);

/* migrate.c. Adds what `need` (LDG_PG_HAS_…) names and the store lacks; waits for no lock longer
 * than 100 ms where writers would have to wait behind it. *shape is how the store is afterwards. */
ledger_rc ldg_pg_migrate(struct ldg_pg *pg, uint32_t need, bool want_log, bool new_identity,
                         struct ldg_pg_shape *shape, ledger_error *err);

#endif
