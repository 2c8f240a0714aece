/* What the tables look like, between schema.c and check.c. */
#ifndef LDG_BACKEND_CLICKHOUSE_SCHEMA_H
#define LDG_BACKEND_CLICKHOUSE_SCHEMA_H

#include "backend/clickhouse/clickhouse.h"

enum ldg_ch_table {
    LDG_CH_ENTRIES,
    LDG_CH_CURSORS,
    LDG_CH_PARKED,
    LDG_CH_ORIGINS,
    LDG_CH_CURRENT, /* the view */
    LDG_CH_TABLES,
};
extern const char *const ldg_ch_suffixes[LDG_CH_TABLES];

#define LDG_CH_FAULT_MAX 256
/* One of them, as the server describes it. */
struct ldg_ch_shape {
    bool is_there;
    char engine[64];       /* "ReplicatedReplacingMergeTree" */
    char full[1024];       /* "ReplacingMergeTree(version, is_deleted) ORDER BY …" */
    char sorting_key[256]; /* "stream, origin, entry_key" */
    /* What keeps us from working with it, and what to do; "": nothing. */
    char fault[LDG_CH_FAULT_MAX];
};

/* Asks for all of them. version: of the server, "26.9.1.1". Errors: UNSUPPORTED (too old). */
ledger_rc ldg_ch_shapes(struct ldg_clickhouse *ch, struct ldg_ch_shape shapes[LDG_CH_TABLES],
                        char version[64], ledger_error *err);
/* The engine stands in front of others: Distributed. */
bool ldg_ch_shape_is_distributed(const struct ldg_ch_shape *shape);
/* What is wrong with engine and sorting key of a table whose columns are right; pure. */
void ldg_ch_shape_judge(struct ldg_ch_shape *shape, const char *table, enum ldg_ch_table which);
/* Is the version one that has what we need? */
bool ldg_ch_version_is_new(const char *version);

#endif
