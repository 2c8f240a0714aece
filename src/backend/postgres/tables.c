/* The shape that the tables of a store should have.
 *
 * Hides their DDL. Columns and types are the Go module's; ours come last, so that it goes on
 * working on the same tables. */
#include "backend/postgres/schema.h"

#include <stdio.h>
#include <string.h>

static const struct ldg_pg_column entry_columns[] = {
    { "id", LDG_PG_INT8, 0, NULL },
    { "stream", LDG_PG_TEXT, 0, NULL },
    { "payload", LDG_PG_BYTEA, 0, NULL },
    { "order_key", LDG_PG_TEXT, 0, NULL },
    { "dedup_key", LDG_PG_TEXT, 0, NULL },
    { "schema_version", LDG_PG_INT4, 0, NULL },
    { "metadata", LDG_PG_JSONB, 0, NULL },
    { "tags", LDG_PG_JSONB, 0, NULL },
    { "annotations", LDG_PG_JSONB, 0, NULL },
    { "created_at", LDG_PG_TIMESTAMPTZ, 0, NULL },
    { "updated_at", LDG_PG_TIMESTAMPTZ, 0, NULL },
    { "source_id", LDG_PG_TEXT, LDG_PG_HAS_SOURCE_ID, "source_id TEXT NOT NULL DEFAULT ''" },
    { "origin", LDG_PG_INT4, LDG_PG_HAS_ORIGIN, "origin INTEGER NOT NULL DEFAULT 0" },
    { "source_pos", LDG_PG_INT8, LDG_PG_HAS_SOURCE_POS, "source_pos BIGINT" },
    { "mutation_pos", LDG_PG_INT8, LDG_PG_HAS_MUTATION_POS, "mutation_pos BIGINT" },
    { "tags_pos", LDG_PG_INT8, LDG_PG_HAS_TAGS_POS, "tags_pos BIGINT" },
    { "annotations_pos", LDG_PG_INT8, LDG_PG_HAS_ANNOTATIONS_POS, "annotations_pos BIGINT" },
    { NULL, 0, 0, NULL },
};
static const struct ldg_pg_column cursor_columns[] = {
    { "name", LDG_PG_TEXT, 0, NULL },
    { "cursor", LDG_PG_TEXT, 0, NULL },
    { "state", LDG_PG_TEXT, LDG_PG_HAS_CURSOR_STATE, "state TEXT NOT NULL DEFAULT ''" },
    { "moved_at", LDG_PG_TIMESTAMPTZ, LDG_PG_HAS_CURSOR_MOVED, "moved_at TIMESTAMPTZ" },
    { NULL, 0, 0, NULL },
};
static const struct ldg_pg_column meta_columns[] = {
    { "id", LDG_PG_INT4, 0, NULL },
    { "uuid", LDG_PG_TEXT, 0, NULL },
    { "epoch", LDG_PG_INT8, 0, NULL },
    { "created_at", LDG_PG_TIMESTAMPTZ, 0, NULL },
    { NULL, 0, 0, NULL },
};
static const struct ldg_pg_column origins_columns[] = {
    { "id", LDG_PG_INT4, 0, NULL },
    { "uuid", LDG_PG_TEXT, 0, NULL },
    { "epoch", LDG_PG_INT8, 0, NULL },
    { "name", LDG_PG_TEXT, 0, NULL },
    { "adopted", LDG_PG_BOOL, 0, NULL },
    { "ordered", LDG_PG_BOOL, 0, NULL },
    { "go_ids", LDG_PG_INT4, LDG_PG_HAS_GO_IDS, "go_ids INTEGER NOT NULL DEFAULT 0" },
    { NULL, 0, 0, NULL },
};
static const struct ldg_pg_column parked_columns[] = {
    { "id", LDG_PG_INT8, 0, NULL },
    { "source_uuid", LDG_PG_TEXT, 0, NULL },
    { "origin", LDG_PG_INT4, 0, NULL },
    { "log_position", LDG_PG_INT8, 0, NULL },
    { "entry", LDG_PG_INT8, 0, NULL },
    { "stream", LDG_PG_TEXT, 0, NULL },
    { "type", LDG_PG_TEXT, 0, NULL },
    { "reason", LDG_PG_TEXT, 0, NULL },
    { "attempts", LDG_PG_INT8, 0, NULL },
    { "parked_at", LDG_PG_TIMESTAMPTZ, 0, NULL },
    { "attempted_at", LDG_PG_TIMESTAMPTZ, 0, NULL },
    { "event_time", LDG_PG_TIMESTAMPTZ, 0, NULL },
    { "event", LDG_PG_BYTEA, 0, NULL },
    { "entry_id", LDG_PG_TEXT, LDG_PG_HAS_ENTRY_ID, "entry_id TEXT NOT NULL DEFAULT ''" },
    { NULL, 0, 0, NULL },
};
static const struct ldg_pg_column foreign_columns[] = {
    { "origin", LDG_PG_INT4, 0, NULL },
    { "entry", LDG_PG_INT8, 0, NULL },
    { "mutation_origin", LDG_PG_INT4, 0, NULL },
    { "kind", LDG_PG_INT4, 0, NULL },
    { "position", LDG_PG_INT8, 0, NULL },
    { "id", LDG_PG_INT8, 0, NULL },
    { NULL, 0, 0, NULL },
};
static const struct ldg_pg_column log_columns[] = {
    { "id", LDG_PG_INT8, 0, NULL },
    { "stream", LDG_PG_TEXT, 0, NULL },
    { "payload", LDG_PG_BYTEA, 0, NULL },
    { "schema_version", LDG_PG_INT4, 0, NULL },
    { "created_at", LDG_PG_TIMESTAMPTZ, 0, NULL },
    { "txid", LDG_PG_XID8, LDG_PG_HAS_TXID, "txid xid8" },
    { NULL, 0, 0, NULL },
};

/* Same columns and types as the Go module's; ours come last. */
#define ENTRY_DDL                                                                                  \
    "id BIGSERIAL PRIMARY KEY, stream TEXT NOT NULL, payload BYTEA NOT NULL, "                     \
    "order_key TEXT NOT NULL DEFAULT '', dedup_key TEXT NOT NULL DEFAULT '', "                     \
    "schema_version INTEGER NOT NULL DEFAULT 1, metadata JSONB, "                                  \
    "tags JSONB NOT NULL DEFAULT '[]'::jsonb, annotations JSONB, "                                 \
    "source_id TEXT NOT NULL DEFAULT '', created_at TIMESTAMPTZ NOT NULL DEFAULT now(), "          \
    "updated_at TIMESTAMPTZ"

const struct ldg_pg_table_def ldg_pg_tables[LDG_PG_TABLE_COUNT] = {
    [LDG_PG_ENTRIES] = { "{t}", entry_columns,
                         "(" ENTRY_DDL ", origin INTEGER NOT NULL DEFAULT 0, source_pos BIGINT, "
                         "mutation_pos BIGINT, tags_pos BIGINT, annotations_pos BIGINT)" },
    [LDG_PG_CURSORS] = { "{t}_cursors", cursor_columns,
                         "(name TEXT NOT NULL PRIMARY KEY, cursor TEXT NOT NULL, "
                         "state TEXT NOT NULL DEFAULT '', moved_at TIMESTAMPTZ)" },
    [LDG_PG_META] = { "{t}_meta", meta_columns,
                      "(id INTEGER PRIMARY KEY CHECK (id = 1), uuid TEXT NOT NULL, "
                      "epoch BIGINT NOT NULL, created_at TIMESTAMPTZ NOT NULL)" },
    [LDG_PG_ORIGINS] = { "{t}_origins", origins_columns,
                         "(id INTEGER PRIMARY KEY, uuid TEXT NOT NULL, epoch BIGINT NOT NULL, "
                         "name TEXT NOT NULL DEFAULT '', adopted BOOLEAN NOT NULL DEFAULT false, "
                         "ordered BOOLEAN NOT NULL DEFAULT true, "
                         "go_ids INTEGER NOT NULL DEFAULT 0, UNIQUE (uuid, epoch))" },
    [LDG_PG_PARKED] = { "{t}_parked", parked_columns,
                        "(id BIGSERIAL PRIMARY KEY, source_uuid TEXT NOT NULL, "
                        "origin INTEGER NOT NULL, log_position BIGINT NOT NULL, "
                        "entry BIGINT NOT NULL DEFAULT 0, stream TEXT NOT NULL, "
                        "type TEXT NOT NULL, reason TEXT NOT NULL, "
                        "attempts BIGINT NOT NULL DEFAULT 1, parked_at TIMESTAMPTZ NOT NULL, "
                        "attempted_at TIMESTAMPTZ, event_time TIMESTAMPTZ, event BYTEA, "
                        "entry_id TEXT NOT NULL DEFAULT '', "
                        "UNIQUE (source_uuid, log_position, entry))" },
    /* last positions of changes that were made in another store than their entry */
    [LDG_PG_FOREIGN] = { "{t}_foreign", foreign_columns,
                         "(origin INTEGER NOT NULL, entry BIGINT NOT NULL, "
                         "mutation_origin INTEGER NOT NULL, kind INTEGER NOT NULL, "
                         "position BIGINT NOT NULL, id BIGINT NOT NULL, "
                         "PRIMARY KEY (origin, entry, mutation_origin, kind))" },
    [LDG_PG_LOG] = { "{l}", log_columns,
                     "(" ENTRY_DDL ", txid xid8 NOT NULL DEFAULT pg_current_xact_id())" },
};

const struct ldg_pg_index_def ldg_pg_indexes[LDG_PG_INDEX_COUNT] = {
    [LDG_PG_IDX_STREAM] = { "idx_{t}_stream_id", LDG_PG_ENTRIES, false, false, "stream,id",
                            "\"idx_{t}_stream_id\" ON \"{t}\"(stream, id)" },
    [LDG_PG_IDX_DEDUP] = { "idx_{t}_dedup", LDG_PG_ENTRIES, true, true, "stream,dedup_key",
                           "\"idx_{t}_dedup\" ON \"{t}\"(stream, dedup_key) "
                           "WHERE dedup_key != ''" },
    [LDG_PG_IDX_ORIGIN] = { "idx_{t}_origin", LDG_PG_ENTRIES, true, true, "origin,source_pos",
                            "\"idx_{t}_origin\" ON \"{t}\"(origin, source_pos) "
                            "WHERE source_pos IS NOT NULL" },
    [LDG_PG_IDX_ORIGIN_TEXT] = { "idx_{t}_origin_text", LDG_PG_ENTRIES, true, true,
                                 "origin,source_id",
                                 "\"idx_{t}_origin_text\" ON \"{t}\""
                                 "(origin, " LDG_PG_TEXT_OF("") ") WHERE " LDG_PG_OF_TEXTS("") },
    [LDG_PG_IDX_PARKED] = { "idx_{t}_parked_entry", LDG_PG_PARKED, false, false, "origin,entry",
                            "\"idx_{t}_parked_entry\" ON \"{t}_parked\"(origin, entry)" },
    [LDG_PG_IDX_TXID] = { "idx_{l}_txid", LDG_PG_LOG, false, false, "txid,id",
                          "\"idx_{l}_txid\" ON \"{l}\"(txid, id)" },
    [LDG_PG_IDX_FULL_TEXT] = { "idx_{t}_fts", LDG_PG_ENTRIES, false, false, NULL,
                               "\"idx_{t}_fts\" ON \"{t}\" USING gin (" LDG_PG_FULL_TEXT ")" },
};

const char *ldg_pg_name(const struct ldg_pg *pg, const char *pattern, char out[80])
{
    size_t size = 0;
    for (const char *p = pattern; *p && size + 1 < 80; p++) {
        const bool table = strncmp(p, "{t}", 3) == 0, log = strncmp(p, "{l}", 3) == 0;
        if (table || log) {
            int n = snprintf(out + size, 80 - size, "%s", table ? pg->table : pg->log_table);
            size += (size_t)n < 80 - size ? (size_t)n : 79 - size;
            p += 2;
        } else {
            out[size++] = *p;
        }
    }
    out[size] = '\0';
    return out;
}
