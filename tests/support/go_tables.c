/* See go_tables.h. The text forms are those of encoding/json: compact, keys of maps ascending, with
 * < > & and the line separators escaped. */
#include "go_tables.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void run(sqlite3 *db, const char *fmt, ...) LEDGER_PRINTF(2, 3);
static void run(sqlite3 *db, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *sql = sqlite3_vmprintf(fmt, args);
    va_end(args);
    char *text = NULL;
    assert_non_null(sql);
    if (sqlite3_exec(db, sql, NULL, NULL, &text) != SQLITE_OK)
        fail_msg("%s: %s", sql, text);
    sqlite3_free(sql);
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *fmt, const char *table)
{
    sqlite3_stmt *stmt = NULL;
    sqlite3_str *text = sqlite3_str_new(NULL);
    for (const char *p = fmt; *p; p++) {
        if (p[0] == '%' && p[1] == 'T') {
            sqlite3_str_appendall(text, table);
            p++;
        } else {
            sqlite3_str_appendchar(text, 1, *p);
        }
    }
    char *sql = sqlite3_str_finish(text);
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_free(sql);
    return stmt;
}

static void finish(sqlite3 *db, sqlite3_stmt *stmt)
{
    int rc = sqlite3_step(stmt);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        fail_msg("%s: %s", sqlite3_sql(stmt), sqlite3_errmsg(db));
    sqlite3_finalize(stmt);
}

/* --- tables ---------------------------------------------------------------------------------- */

static void create_store(sqlite3 *db, const char *table)
{
    run(db,
        "CREATE TABLE IF NOT EXISTS %s (id INTEGER PRIMARY KEY AUTOINCREMENT, "
        "stream TEXT NOT NULL, payload BLOB NOT NULL, order_key TEXT NOT NULL DEFAULT '', "
        "dedup_key TEXT NOT NULL DEFAULT '', schema_version INTEGER NOT NULL DEFAULT 1, "
        "metadata TEXT, tags TEXT NOT NULL DEFAULT '[]', annotations TEXT, "
        "source_id TEXT NOT NULL DEFAULT '', "
        "created_at TEXT NOT NULL DEFAULT (strftime('%%Y-%%m-%%dT%%H:%%M:%%f','now')), "
        "updated_at TEXT)",
        table);
    run(db, "CREATE INDEX IF NOT EXISTS idx_%s_stream_id ON %s(stream, id)", table, table);
    run(db, "CREATE INDEX IF NOT EXISTS idx_%s_stream ON %s(stream)", table, table);
    run(db, "CREATE INDEX IF NOT EXISTS idx_%s_stream_order ON %s(stream, order_key, id)", table,
        table);
    run(db,
        "CREATE UNIQUE INDEX IF NOT EXISTS idx_%s_dedup ON %s(stream, dedup_key) "
        "WHERE dedup_key != ''",
        table, table);
    /* A table without the column gets it; one that has it answers with this very error. */
    char *sql =
        sqlite3_mprintf("ALTER TABLE %s ADD COLUMN source_id TEXT NOT NULL DEFAULT ''", table);
    char *text = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &text) != SQLITE_OK)
        assert_non_null(strstr(text, "duplicate column name"));
    sqlite3_free(text);
    sqlite3_free(sql);
    run(db,
        "CREATE UNIQUE INDEX IF NOT EXISTS idx_%s_source ON %s(source_id) WHERE source_id != ''",
        table, table);
    run(db,
        "CREATE TABLE IF NOT EXISTS %s_cursors "
        "(name TEXT NOT NULL PRIMARY KEY, cursor TEXT NOT NULL)",
        table);
    run(db, "CREATE INDEX IF NOT EXISTS idx_%s_tags ON %s(stream, tags)", table, table);
}

void tst_go_create(sqlite3 *db, const char *table, bool with_log)
{
    char log[128];
    create_store(db, table);
    if (with_log) {
        sqlite3_snprintf((int)sizeof(log), log, "%s_mutations", table);
        create_store(db, log);
    }
}

void tst_go_create_old(sqlite3 *db, const char *table)
{
    run(db,
        "CREATE TABLE %s (id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, "
        "payload BLOB NOT NULL, order_key TEXT NOT NULL DEFAULT '', "
        "dedup_key TEXT NOT NULL DEFAULT '', schema_version INTEGER NOT NULL DEFAULT 1, "
        "metadata TEXT, tags TEXT NOT NULL DEFAULT '[]', annotations TEXT, "
        "created_at TEXT NOT NULL DEFAULT (strftime('%%Y-%%m-%%dT%%H:%%M:%%f','now')), "
        "updated_at TEXT)",
        table);
    run(db, "CREATE UNIQUE INDEX idx_%s_dedup ON %s(stream, dedup_key) WHERE dedup_key != ''",
        table, table);
}

/* --- JSON ------------------------------------------------------------------------------------ */

/* Bytes inside a string, which encoding/json writes in another way than they came. */
static size_t put_html_safe(sqlite3_str *out, const char *p)
{
    const unsigned char *u = (const unsigned char *)p;
    if (*u == '<' || *u == '>' || *u == '&') {
        sqlite3_str_appendf(out, "\\u%04x", (unsigned)*u);
        return 1;
    }
    if (u[0] == 0xe2 && u[1] == 0x80 && (u[2] == 0xa8 || u[2] == 0xa9)) {
        sqlite3_str_appendf(out, "\\u%04x", 0x2000u + (u[2] & 0x3fu));
        return 3;
    }
    return 0;
}

static void put_string(sqlite3_str *out, const char *s)
{
    sqlite3_str_appendchar(out, 1, '"');
    while (*s) {
        size_t taken = put_html_safe(out, s);
        if (taken) {
            s += taken;
            continue;
        }
        switch (*s) {
        case '"':
        case '\\':
            sqlite3_str_appendchar(out, 1, '\\');
            sqlite3_str_appendchar(out, 1, *s);
            break;
        case '\n':
            sqlite3_str_appendall(out, "\\n");
            break;
        case '\r':
            sqlite3_str_appendall(out, "\\r");
            break;
        case '\t':
            sqlite3_str_appendall(out, "\\t");
            break;
        default:
            if ((unsigned char)*s < 0x20)
                sqlite3_str_appendf(out, "\\u%04x", (unsigned)*s);
            else
                sqlite3_str_appendchar(out, 1, *s);
            break;
        }
        s++;
    }
    sqlite3_str_appendchar(out, 1, '"');
}

/* json.RawMessage: white space goes, strings stay but for the HTML characters. */
static void put_compact(sqlite3_str *out, const char *json)
{
    bool in_string = false;
    while (*json) {
        size_t taken = put_html_safe(out, json);
        if (taken) {
            json += taken;
            continue;
        }
        if (in_string && *json == '\\' && json[1]) {
            sqlite3_str_append(out, json, 2);
            json += 2;
            continue;
        }
        if (*json == '"')
            in_string = !in_string;
        if (in_string || !strchr(" \t\r\n", *json))
            sqlite3_str_appendchar(out, 1, *json);
        json++;
    }
}

static void put_list(sqlite3_str *out, ledger_list list)
{
    sqlite3_str_appendchar(out, 1, '[');
    for (size_t i = 0; i < list.count; i++) {
        if (i)
            sqlite3_str_appendchar(out, 1, ',');
        put_string(out, list.items[i]);
    }
    sqlite3_str_appendchar(out, 1, ']');
}

/* Items must be ascending by key, as encoding/json sorts them. */
static void put_map(sqlite3_str *out, ledger_map map)
{
    sqlite3_str_appendchar(out, 1, '{');
    for (size_t i = 0; i < map.count; i++) {
        if (i)
            sqlite3_str_appendchar(out, 1, ',');
        put_string(out, map.items[i].key);
        sqlite3_str_appendchar(out, 1, ':');
        if (map.items[i].value)
            put_string(out, map.items[i].value);
        else
            sqlite3_str_appendall(out, "null");
    }
    sqlite3_str_appendchar(out, 1, '}');
}

static void put_field(sqlite3_str *out, const char *name, const char *value)
{
    if (value && *value) {
        sqlite3_str_appendf(out, ",\"%s\":", name);
        put_string(out, value);
    }
}

static sqlite3_str *event_begin(const char *type, const char *stream)
{
    sqlite3_str *out = sqlite3_str_new(NULL);
    sqlite3_str_appendf(out, "{\"type\":\"%s\",\"stream\":", type);
    put_string(out, stream);
    return out;
}

static void event_end(sqlite3 *db, const char *table, sqlite3_str *out)
{
    char log[128];
    sqlite3_str_appendchar(out, 1, '}');
    int size = sqlite3_str_length(out);
    char *event = sqlite3_str_finish(out);
    assert_non_null(event);
    sqlite3_snprintf((int)sizeof(log), log, "%s_mutations", table);
    sqlite3_stmt *stmt = prepare(db,
                                 "INSERT OR IGNORE INTO %T (stream, payload, order_key, dedup_key, "
                                 "schema_version, metadata, tags, source_id) "
                                 "VALUES ('_', ?1, '', '', 1, NULL, '[]', '')",
                                 log);
    sqlite3_bind_blob(stmt, 1, event, size, SQLITE_STATIC);
    finish(db, stmt);
    sqlite3_free(event);
}

/* --- writes ---------------------------------------------------------------------------------- */

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

int64_t tst_go_append(sqlite3 *db, const char *table, bool with_log, const char *stream,
                      const struct tst_go_entry *entry)
{
    int64_t id = 0;
    sqlite3_str *tags = sqlite3_str_new(NULL), *metadata = sqlite3_str_new(NULL);
    put_list(tags, entry->tags);
    put_map(metadata, entry->metadata);
    char *tags_text = sqlite3_str_finish(tags), *metadata_text = sqlite3_str_finish(metadata);
    bool own = sqlite3_get_autocommit(db);
    if (own)
        run(db, "BEGIN");
    sqlite3_stmt *stmt = prepare(db,
                                 "INSERT OR IGNORE INTO %T (stream, payload, order_key, dedup_key, "
                                 "schema_version, metadata, tags, source_id) "
                                 "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                                 table);
    sqlite3_bind_text(stmt, 1, stream, -1, SQLITE_STATIC);
    sqlite3_bind_blob(stmt, 2, entry->payload, (int)strlen(entry->payload), SQLITE_STATIC);
    sqlite3_bind_text(stmt, 3, or_empty(entry->order_key), -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 4, or_empty(entry->dedup_key), -1, SQLITE_STATIC);
    sqlite3_bind_int(stmt, 5, entry->schema_version ? entry->schema_version : 1);
    if (entry->metadata.count)
        sqlite3_bind_text(stmt, 6, metadata_text, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 7, tags_text, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 8, or_empty(entry->source_id), -1, SQLITE_STATIC);
    finish(db, stmt);
    if (sqlite3_changes(db) > 0)
        id = sqlite3_last_insert_rowid(db);
    if (id && with_log) {
        sqlite3_str *out = event_begin("append", stream);
        sqlite3_str_appendf(out, ",\"entries\":[{\"id\":\"%lld\",\"payload\":", (long long)id);
        put_compact(out, entry->payload);
        put_field(out, "order_key", entry->order_key);
        put_field(out, "dedup_key", entry->dedup_key);
        sqlite3_str_appendf(out, ",\"schema_version\":%d",
                            entry->schema_version ? entry->schema_version : 1);
        if (entry->metadata.count) {
            sqlite3_str_appendall(out, ",\"metadata\":");
            put_map(out, entry->metadata);
        }
        if (entry->tags.count) {
            sqlite3_str_appendall(out, ",\"tags\":");
            put_list(out, entry->tags);
        }
        sqlite3_str_appendall(out, "}]");
        event_end(db, table, out);
    }
    if (own)
        run(db, "COMMIT");
    sqlite3_free(tags_text);
    sqlite3_free(metadata_text);
    return id;
}

int64_t tst_go_put(sqlite3 *db, const char *table, bool with_log, const char *stream,
                   const char *payload)
{
    const struct tst_go_entry entry = { .payload = payload };
    return tst_go_append(db, table, with_log, stream, &entry);
}

void tst_go_set_tags(sqlite3 *db, const char *table, bool with_log, const char *stream, int64_t id,
                     ledger_list tags)
{
    sqlite3_str *text = sqlite3_str_new(NULL);
    put_list(text, tags);
    char *json = sqlite3_str_finish(text);
    bool own = sqlite3_get_autocommit(db);
    if (own)
        run(db, "BEGIN");
    sqlite3_stmt *stmt = prepare(db,
                                 "UPDATE %T SET tags = ?1, "
                                 "updated_at = strftime('%Y-%m-%dT%H:%M:%f','now') "
                                 "WHERE stream = ?2 AND id = ?3",
                                 table);
    sqlite3_bind_text(stmt, 1, json, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, stream, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 3, id);
    finish(db, stmt);
    assert_int_equal(sqlite3_changes(db), 1);
    if (with_log) {
        sqlite3_str *out = event_begin("set_tags", stream);
        sqlite3_str_appendf(out, ",\"entry_id\":\"%lld\"", (long long)id);
        if (tags.count) {
            sqlite3_str_appendall(out, ",\"tags\":");
            put_list(out, tags);
        }
        event_end(db, table, out);
    }
    if (own)
        run(db, "COMMIT");
    sqlite3_free(json);
}

void tst_go_annotate(sqlite3 *db, const char *table, bool with_log, const char *stream, int64_t id,
                     const char *key, const char *value)
{
    const ledger_pair pair = { key, value };
    sqlite3_str *text = sqlite3_str_new(NULL);
    put_string(text, key);
    char *path = sqlite3_str_finish(text);
    bool own = sqlite3_get_autocommit(db);
    if (own)
        run(db, "BEGIN");
    sqlite3_stmt *stmt = prepare(db,
                                 "UPDATE %T SET annotations = CASE WHEN ?2 IS NULL "
                                 "THEN json_remove(coalesce(annotations, '{}'), '$.' || ?1) "
                                 "ELSE json_set(coalesce(annotations, '{}'), '$.' || ?1, ?2) END, "
                                 "updated_at = strftime('%Y-%m-%dT%H:%M:%f','now') "
                                 "WHERE stream = ?3 AND id = ?4",
                                 table);
    sqlite3_bind_text(stmt, 1, path, -1, SQLITE_STATIC);
    if (value)
        sqlite3_bind_text(stmt, 2, value, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 3, stream, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 4, id);
    finish(db, stmt);
    assert_int_equal(sqlite3_changes(db), 1);
    if (with_log) {
        sqlite3_str *out = event_begin("set_annotations", stream);
        sqlite3_str_appendf(out, ",\"entry_id\":\"%lld\",\"annotations\":", (long long)id);
        put_map(out, (ledger_map){ &pair, 1 });
        event_end(db, table, out);
    }
    if (own)
        run(db, "COMMIT");
    sqlite3_free(path);
}

int64_t tst_go_trim(sqlite3 *db, const char *table, bool with_log, const char *stream,
                    int64_t before)
{
    bool own = sqlite3_get_autocommit(db);
    if (own)
        run(db, "BEGIN");
    sqlite3_stmt *stmt = prepare(db, "DELETE FROM %T WHERE stream = ?1 AND id <= ?2", table);
    sqlite3_bind_text(stmt, 1, stream, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 2, before);
    finish(db, stmt);
    int64_t deleted = sqlite3_changes(db);
    if (with_log) {
        sqlite3_str *out = event_begin("trim", stream);
        sqlite3_str_appendf(out, ",\"before_id\":\"%lld\"", (long long)before);
        event_end(db, table, out);
    }
    if (own)
        run(db, "COMMIT");
    return deleted;
}

void tst_go_set_cursor(sqlite3 *db, const char *table, const char *name, const char *cursor)
{
    sqlite3_stmt *stmt = prepare(db,
                                 "INSERT INTO %T_cursors (name, cursor) VALUES (?1, ?2) "
                                 "ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor "
                                 "WHERE excluded.cursor > %T_cursors.cursor",
                                 table);
    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, cursor, -1, SQLITE_STATIC);
    finish(db, stmt);
}
