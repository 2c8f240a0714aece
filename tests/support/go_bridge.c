/* See go_bridge.h. */
#include "go_bridge.h"

#include <inttypes.h>
#include <stdlib.h>

#include "event/event.h"
#include "pg_server.h"

#define T LEDGER_DEFAULT_TABLE
#define BATCH 500

/* One of the two stores, on a connection of its own. */
struct end {
    sqlite3 *db;
    PGconn *conn; /* NULL: SQLite */
};

static void end_open(struct end *end, const ledger_store *store)
{
    *end = (struct end){ 0 };
    if (strcmp(ledger_store_backend(store), "postgres") == 0)
        end->conn = tst_pg_connect_url(ledger_store_url(store));
    else
        end->db = tst_sqlite(store);
}

static void end_close(struct end *end)
{
    if (end->conn)
        PQfinish(end->conn);
    else
        sqlite3_close(end->db);
}

/* First column of the first row, free(); NULL: no row, or null. */
static char *ask(const struct end *end, const char *sql)
{
    sqlite3_stmt *stmt = NULL;
    char *text = NULL;
    if (end->conn) {
        PGresult *result = PQexec(end->conn, sql);
        if (PQresultStatus(result) != PGRES_TUPLES_OK && PQresultStatus(result) != PGRES_COMMAND_OK)
            tst_fail("Go's bridge: %s: %s", sql, PQerrorMessage(end->conn));
        if (PQntuples(result) > 0 && !PQgetisnull(result, 0, 0))
            text = strdup(PQgetvalue(result, 0, 0));
        PQclear(result);
        return text;
    }
    if (sqlite3_prepare_v2(end->db, sql, -1, &stmt, NULL) != SQLITE_OK)
        tst_fail("Go's bridge: %s: %s", sql, sqlite3_errmsg(end->db));
    int rc = sqlite3_step(stmt);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        tst_fail("Go's bridge: %s: %s", sql, sqlite3_errmsg(end->db));
    if (rc == SQLITE_ROW && sqlite3_column_type(stmt, 0) != SQLITE_NULL)
        text = strdup((const char *)sqlite3_column_text(stmt, 0));
    sqlite3_finalize(stmt);
    return text;
}

/* %q as sqlite3_mprintf() has it, which suits both. */
static char *ask_f(const struct end *end, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *sql = sqlite3_vmprintf(fmt, args);
    va_end(args);
    assert_non_null(sql);
    char *text = ask(end, sql);
    sqlite3_free(sql);
    return text;
}

static void run_f(const struct end *end, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *sql = sqlite3_vmprintf(fmt, args);
    va_end(args);
    assert_non_null(sql);
    free(ask(end, sql));
    sqlite3_free(sql);
}

static int64_t find(const struct end *sink, const char *stream, const char *source_id)
{
    char *text =
        ask_f(sink, "SELECT id FROM " T " WHERE stream = '%q' AND source_id = '%q' LIMIT 1", stream,
              source_id);
    int64_t id = text ? strtoll(text, NULL, 10) : 0;
    free(text);
    return id;
}

static void list_text(struct ldg_buf *buf, ledger_list list)
{
    ldg_buf_reset(buf);
    assert_int_equal(ldg_json_put_list(buf, list), LEDGER_OK);
}

static void append(const struct end *sink, const char *stream, const ledger_append_entry *entry)
{
    struct ldg_buf metadata, tags;
    char *payload = strndup(entry->payload.data, entry->payload.size);
    ldg_buf_init(&metadata, 1 << 20);
    ldg_buf_init(&tags, 1 << 20);
    list_text(&tags, entry->tags);
    assert_int_equal(ldg_json_put_map(&metadata, entry->metadata), LEDGER_OK);
    run_f(sink,
          "INSERT %s INTO " T " (stream, payload, order_key, dedup_key, schema_version, "
          "metadata, tags, source_id) VALUES ('%q', %s('%q' %s), '%q', '%q', %d, "
          "nullif('%q', '{}')%s, '%q', '%q')%s",
          sink->conn ? "" : "OR IGNORE", stream, sink->conn ? "convert_to" : "CAST", payload,
          sink->conn ? ", 'UTF8'" : "AS BLOB", entry->order_key, entry->dedup_key,
          entry->schema_version, metadata.data, sink->conn ? "::jsonb" : "", tags.data, entry->id,
          sink->conn ? " ON CONFLICT (stream, dedup_key) WHERE dedup_key != '' DO NOTHING" : "");
    free(payload);
    ldg_buf_fini(&metadata);
    ldg_buf_fini(&tags);
}

static void annotate(const struct end *sink, int64_t id, const ledger_pair *pair)
{
    if (sink->conn && pair->value)
        run_f(sink,
              "UPDATE " T " SET annotations = coalesce(annotations, '{}') || "
              "jsonb_build_object('%q', '%q'), updated_at = now() WHERE id = %lld",
              pair->key, pair->value, (long long)id);
    else if (sink->conn)
        run_f(sink,
              "UPDATE " T " SET annotations = coalesce(annotations, '{}') - '%q', "
              "updated_at = now() WHERE id = %lld",
              pair->key, (long long)id);
    else
        run_f(sink,
              "UPDATE " T " SET annotations = json_patch(coalesce(annotations, '{}'), "
              "json_object('%q', %Q)), updated_at = strftime('%%Y-%%m-%%dT%%H:%%M:%%f','now') "
              "WHERE id = %lld",
              pair->key, pair->value, (long long)id);
}

/* False: its entry is not found, and it is dropped. */
static bool apply(const struct end *sink, const ledger_mutation_event *event)
{
    struct ldg_buf tags;
    int64_t id = 0;
    switch (event->type) {
    case LEDGER_MUTATION_APPEND:
        for (size_t i = 0; i < event->entry_count; i++)
            append(sink, event->stream, &event->entries[i]);
        return true;
    case LEDGER_MUTATION_SET_TAGS:
        id = find(sink, event->stream, event->entry_id);
        ldg_buf_init(&tags, 1 << 20);
        list_text(&tags, event->tags);
        run_f(sink, "UPDATE " T " SET tags = '%q', updated_at = %s WHERE id = %lld", tags.data,
              sink->conn ? "now()" : "strftime('%Y-%m-%dT%H:%M:%f','now')", (long long)id);
        ldg_buf_fini(&tags);
        return id != 0;
    case LEDGER_MUTATION_SET_ANNOTATIONS:
        id = find(sink, event->stream, event->entry_id);
        for (size_t i = 0; i < event->annotations.count; i++)
            annotate(sink, id, &event->annotations.items[i]);
        return id != 0;
    case LEDGER_MUTATION_TRIM:
        id = find(sink, event->stream, event->before_id);
        run_f(sink, "DELETE FROM " T " WHERE stream = '%q' AND id <= %lld", event->stream,
              (long long)id);
        return id != 0;
    case LEDGER_MUTATION_UNKNOWN:
        break;
    }
    tst_fail("Go's bridge: unknown event");
}

static void set_cursor(const struct end *sink, const char *name, int64_t position)
{
    run_f(sink,
          "INSERT INTO " T "_cursors (name, cursor) VALUES ('%q', '%019lld') ON CONFLICT (name) "
          "DO UPDATE SET cursor = excluded.cursor WHERE excluded.cursor > " T "_cursors.cursor",
          name, (long long)position);
}

static int64_t get_cursor(const struct end *sink, const char *name)
{
    char *text = ask_f(sink, "SELECT cursor FROM " T "_cursors WHERE name = '%q'", name);
    int64_t position = text ? strtoll(text, NULL, 10) : 0;
    free(text);
    return position;
}

/* killed_after 0: never. */
static size_t carry(const ledger_store *from, const ledger_store *to, const char *name,
                    size_t killed_after)
{
    struct end source, sink;
    size_t dropped = 0, done = 0;
    end_open(&source, from);
    end_open(&sink, to);
    int64_t position = get_cursor(&sink, name), carried = position;
    while (killed_after == 0 || done < killed_after) {
        char *id =
            ask_f(&source, "SELECT min(id) FROM " T "_mutations WHERE stream = '_' AND id > %lld",
                  (long long)position);
        int64_t next = id ? strtoll(id, NULL, 10) : 0;
        free(id);
        if (next == 0)
            break;
        char *payload =
            ask_f(&source,
                  source.conn ? "SELECT convert_from(payload, 'UTF8') FROM " T "_mutations "
                                "WHERE id = %lld"
                              : "SELECT CAST(payload AS TEXT) FROM " T "_mutations WHERE id = %lld",
                  (long long)next);
        ledger_event *event = NULL;
        ledger_error err = { 0 };
        tst_ok(ledger_event_decode((ledger_bytes){ payload, strlen(payload) }, &event, &err), &err);
        dropped += !apply(&sink, ledger_event_get(event));
        ledger_event_destroy(&event);
        free(payload);
        position = next;
        if (++done % BATCH == 0)
            set_cursor(&sink, name, carried = position);
    }
    if (killed_after == 0 && position > carried)
        set_cursor(&sink, name, position);
    end_close(&source);
    end_close(&sink);
    return dropped;
}

size_t tst_go_bridge(const ledger_store *source, const ledger_store *sink, const char *name)
{
    return carry(source, sink, name, 0);
}

void tst_go_bridge_killed(const ledger_store *source, const ledger_store *sink, const char *name,
                          size_t count)
{
    (void)carry(source, sink, name, count);
}

void tst_go_open(const ledger_store *store)
{
    struct end end;
    end_open(&end, store);
    run_f(&end, "CREATE UNIQUE INDEX IF NOT EXISTS idx_" T "_source ON " T "(source_id) "
                "WHERE source_id != ''");
    end_close(&end);
}
