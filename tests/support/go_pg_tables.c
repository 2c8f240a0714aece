/* See go_pg_tables.h. */
#include "go_pg_tables.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "pg_server.h"

#define COLUMNS                                                                                    \
    "id BIGSERIAL PRIMARY KEY, stream TEXT NOT NULL, payload BYTEA NOT NULL, "                     \
    "order_key TEXT NOT NULL DEFAULT '', dedup_key TEXT NOT NULL DEFAULT '', "                     \
    "schema_version INTEGER NOT NULL DEFAULT 1, metadata JSONB, "                                  \
    "tags JSONB NOT NULL DEFAULT '[]'::jsonb, annotations JSONB, "                                 \
    "created_at TIMESTAMPTZ NOT NULL DEFAULT now(), updated_at TIMESTAMPTZ"

static void create_store(PGconn *conn, const char *t)
{
    tst_pg_sql(conn, "CREATE TABLE IF NOT EXISTS %s (" COLUMNS ")", t);
    tst_pg_sql(conn, "CREATE INDEX IF NOT EXISTS idx_%s_stream_id ON %s(stream, id)", t, t);
    tst_pg_sql(conn, "CREATE INDEX IF NOT EXISTS idx_%s_stream ON %s(stream)", t, t);
    tst_pg_sql(conn, "CREATE INDEX IF NOT EXISTS idx_%s_stream_order ON %s(stream, order_key, id)",
               t, t);
    tst_pg_sql(conn,
               "CREATE UNIQUE INDEX IF NOT EXISTS idx_%s_dedup ON %s(stream, dedup_key) "
               "WHERE dedup_key != ''",
               t, t);
    tst_pg_sql(conn, "CREATE INDEX IF NOT EXISTS idx_%s_tags ON %s USING GIN(tags)", t, t);
    tst_pg_sql(conn, "ALTER TABLE %s ADD COLUMN IF NOT EXISTS source_id TEXT NOT NULL DEFAULT ''",
               t);
    tst_pg_sql(conn,
               "CREATE UNIQUE INDEX IF NOT EXISTS idx_%s_source ON %s(source_id) "
               "WHERE source_id != ''",
               t, t);
    tst_pg_sql(conn,
               "CREATE TABLE IF NOT EXISTS %s_cursors "
               "(name TEXT NOT NULL PRIMARY KEY, cursor TEXT NOT NULL)",
               t);
}

void tst_go_pg_create(PGconn *conn, const char *table, bool with_log)
{
    char log[128];
    create_store(conn, table);
    snprintf(log, sizeof(log), "%s_mutations", table);
    if (with_log)
        create_store(conn, log);
}

void tst_go_pg_create_old(PGconn *conn, const char *table)
{
    tst_pg_sql(conn, "CREATE TABLE %s (" COLUMNS ")", table);
    tst_pg_sql(conn,
               "CREATE UNIQUE INDEX idx_%s_dedup ON %s(stream, dedup_key) WHERE dedup_key != ''",
               table, table);
}

static int64_t insert(PGconn *conn, const char *table, const char *stream, const char *payload,
                      const char *dedup_key, const char *source_id)
{
    char sql[512];
    int64_t id = 0;
    const char *values[] = { stream, payload, "",   dedup_key ? dedup_key : "",
                             "1",    NULL,    "[]", source_id ? source_id : "" };
    const int lengths[8] = { 0, (int)strlen(payload) }, formats[8] = { 0, 1 };
    snprintf(sql, sizeof(sql),
             "INSERT INTO %s (stream, payload, order_key, dedup_key, schema_version, metadata, "
             "tags, source_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (stream, "
             "dedup_key) WHERE dedup_key != '' DO NOTHING RETURNING id",
             table);
    PGresult *result = PQexecParams(conn, sql, 8, NULL, values, lengths, formats, 0);
    if (PQresultStatus(result) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", sql, PQerrorMessage(conn));
    if (PQntuples(result))
        sscanf(PQgetvalue(result, 0, 0), "%" SCNd64, &id);
    PQclear(result);
    return id;
}

int64_t tst_go_pg_append(PGconn *conn, const char *table, bool with_log, const char *stream,
                         const char *payload, const char *dedup_key, const char *source_id)
{
    const bool own = PQtransactionStatus(conn) == PQTRANS_IDLE;
    char event[4096], log[128];
    if (own)
        tst_pg_sql(conn, "BEGIN");
    int64_t id = insert(conn, table, stream, payload, dedup_key, source_id);
    if (id && with_log) {
        snprintf(event, sizeof(event),
                 "{\"type\":\"append\",\"stream\":\"%s\",\"entries\":[{\"id\":\"%" PRId64
                 "\",\"payload\":%s%s%s%s,\"schema_version\":1}]}",
                 stream, id, payload, dedup_key ? ",\"dedup_key\":\"" : "",
                 dedup_key ? dedup_key : "", dedup_key ? "\"" : "");
        snprintf(log, sizeof(log), "%s_mutations", table);
        insert(conn, log, "_", event, NULL, NULL);
    }
    if (own)
        tst_pg_sql(conn, "COMMIT");
    return id;
}

void tst_go_pg_set_cursor(PGconn *conn, const char *table, const char *name, const char *cursor)
{
    tst_pg_sql(conn,
               "INSERT INTO %s_cursors (name, cursor) VALUES ('%s', '%s') ON CONFLICT (name) "
               "DO UPDATE SET cursor = EXCLUDED.cursor WHERE %s_cursors.cursor < EXCLUDED.cursor",
               table, name, cursor, table);
}
