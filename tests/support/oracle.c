/* See oracle.h. Nothing in here calls the library's codec, scanner or bridge. */
#include "oracle.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "clickhouse.h"
#include "ldg_config.h"
#if LDG_WITH_POSTGRES
#include "pg_server.h"
#endif

static char *text_dup(const char *s)
{
    char *copy = strdup(s != NULL ? s : "");
    assert_non_null(copy);
    return copy;
}

/* "2026-11-23T03:42:14.123" (a blank or T, 0 to 9 digits of fraction, Z or nothing). */
static int64_t time_ms(const char *text)
{
    struct tm tm = { 0 };
    int64_t ms = 0;
    const char *rest;
    if (text == NULL || text[0] == '\0')
        return INT64_MIN;
    rest = strptime(text, text[10] == 'T' ? "%Y-%m-%dT%H:%M:%S" : "%Y-%m-%d %H:%M:%S", &tm);
    if (rest == NULL)
        tst_fail("not a time: %s", text);
    if (*rest == '.') {
        int64_t unit = 100;
        for (rest++; *rest >= '0' && *rest <= '9'; rest++, unit /= 10)
            ms += (*rest - '0') * unit;
    }
    if (*rest != '\0' && strcmp(rest, "Z") != 0)
        tst_fail("not a time in UTC: %s", text);
    return (int64_t)timegm(&tm) * 1000 + ms;
}

static int64_t us_to_ms(int64_t us)
{
    if (us == LEDGER_NO_TIME)
        return INT64_MIN;
    return us >= 0 ? us / 1000 : -((-us + 999) / 1000);
}

static char *json_canonical(json_t *value)
{
    char *text = json_dumps(value, JSON_SORT_KEYS | JSON_COMPACT | JSON_ENCODE_ANY);
    assert_non_null(text);
    json_decref(value);
    return text;
}

/* Column text -> sorted compact JSON; NULL and "null" -> empty. */
static char *column_json(const char *text, const char *empty, int64_t id)
{
    json_error_t error;
    json_t *value;
    if (text == NULL || text[0] == '\0' || strcmp(text, "null") == 0)
        return text_dup(empty);
    value = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
    if (value == NULL)
        tst_fail("entry %" PRId64 ": column is not JSON (%s): %s", id, error.text, text);
    if (json_is_array(value) != (empty[0] == '['))
        tst_fail("entry %" PRId64 ": column has another type: %s", id, text);
    return json_canonical(value);
}

static char *map_json(ledger_map map)
{
    json_t *object = json_object();
    for (size_t i = 0; i < map.count; i++) {
        json_t *value = json_string(map.items[i].value);
        assert_non_null(value);
        if (json_object_get(object, map.items[i].key) != NULL)
            tst_fail("a map came out with the key %s twice", map.items[i].key);
        assert_int_equal(json_object_set_new(object, map.items[i].key, value), 0);
    }
    return json_canonical(object);
}

static char *list_json(ledger_list list)
{
    json_t *array = json_array();
    for (size_t i = 0; i < list.count; i++) {
        json_t *value = json_string(list.items[i]);
        assert_non_null(value);
        assert_int_equal(json_array_append_new(array, value), 0);
    }
    return json_canonical(array);
}

static struct tst_entry *add(struct tst_history *h)
{
    if ((h->count & (h->count - 1)) == 0) {
        size_t cap = h->count == 0 ? 1 : h->count * 2;
        h->entries = realloc(h->entries, cap * sizeof h->entries[0]);
        assert_non_null(h->entries);
    }
    return memset(&h->entries[h->count++], 0, sizeof h->entries[0]);
}

static int compare_keys(const struct tst_entry *a, const struct tst_entry *b)
{
    int c = strcmp(a->origin, b->origin);
    if (c == 0)
        c = strcmp(a->stream, b->stream);
    if (c == 0)
        c = (a->source_id > b->source_id) - (a->source_id < b->source_id);
    return c;
}

static int compare_entries(const void *a, const void *b)
{
    return compare_keys(a, b);
}

/* --- loading ------------------------------------------------------------------------------- */

static const char *column_text(sqlite3_stmt *stmt, int i)
{
    return (const char *)sqlite3_column_text(stmt, i);
}

static bool has_column(sqlite3 *db, const char *table, const char *column)
{
    return tst_query_int(db,
                         "SELECT count(*) FROM pragma_table_info('%s')"
                         " WHERE name = '%s'",
                         table, column) == 1;
}

static void load_sqlite(ledger_store *store, struct tst_history *h)
{
    sqlite3 *db = tst_sqlite(store);
    sqlite3_stmt *stmt = NULL;
    const char *table = ledger_store_table(store);
    bool ours = has_column(db, table, "origin");
    char *sql;
    int rc;
    if (ours) {
        sql = sqlite3_mprintf("SELECT uuid FROM main.\"%w_meta\"", table);
        assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
        snprintf(h->uuid, sizeof h->uuid, "%s", column_text(stmt, 0));
        sqlite3_finalize(stmt);
        sqlite3_free(sql);
        sql = sqlite3_mprintf(
            "SELECT e.id, e.stream, e.payload, e.order_key, e.dedup_key, e.schema_version,"
            " e.metadata, e.tags, e.annotations, e.created_at, e.updated_at, e.origin, o.uuid,"
            " coalesce(e.source_pos, e.source_id)"
            " FROM main.\"%w\" e LEFT JOIN main.\"%w_origins\" o ON o.id = e.origin ORDER BY e.id",
            table, table);
    } else {
        sql = sqlite3_mprintf("SELECT id, stream, payload, order_key, dedup_key, schema_version,"
                              " metadata, tags, annotations, created_at, updated_at, 0, NULL,"
                              " source_id FROM main.\"%w\" ORDER BY id",
                              table);
    }
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
        tst_fail("%s: %s", sql, sqlite3_errmsg(db));
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        struct tst_entry *e = add(h);
        size_t size = (size_t)sqlite3_column_bytes(stmt, 2);
        e->id = sqlite3_column_int64(stmt, 0);
        e->stream = text_dup(column_text(stmt, 1));
        e->payload = malloc(size + 1);
        assert_non_null(e->payload);
        if (size > 0)
            memcpy(e->payload, sqlite3_column_blob(stmt, 2), size);
        e->payload[size] = '\0';
        e->payload_size = size;
        e->order_key = text_dup(column_text(stmt, 3));
        e->dedup_key = text_dup(column_text(stmt, 4));
        e->schema_version = sqlite3_column_int64(stmt, 5);
        e->metadata = column_json(column_text(stmt, 6), "{}", e->id);
        e->tags = column_json(column_text(stmt, 7), "[]", e->id);
        e->annotations = column_json(column_text(stmt, 8), "{}", e->id);
        e->created_ms = time_ms(column_text(stmt, 9));
        e->updated_ms = time_ms(column_text(stmt, 10));
        if (sqlite3_column_int(stmt, 11) == 0 &&
            (ours || column_text(stmt, 13) == NULL || column_text(stmt, 13)[0] == '\0')) {
            e->origin = text_dup(h->uuid);
            e->source_id = e->id;
        } else {
            if (ours && column_text(stmt, 12) == NULL)
                tst_fail("entry %" PRId64 " has an origin that is not in the list", e->id);
            e->origin = text_dup(ours ? column_text(stmt, 12) : "go");
            e->source_id = strtoll(column_text(stmt, 13), NULL, 10);
        }
    }
    if (rc != SQLITE_DONE)
        tst_fail("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_finalize(stmt);
    sqlite3_free(sql);
    sqlite3_close(db);
}

#if LDG_WITH_POSTGRES
/* NULL for null. */
static const char *cell(const PGresult *result, int row, int column)
{
    return PQgetisnull(result, row, column) ? NULL : PQgetvalue(result, row, column);
}

static int64_t cell_time(const PGresult *result, int row, int column)
{
    const char *text = cell(result, row, column);
    return text != NULL ? strtoll(text, NULL, 10) : INT64_MIN;
}

static void load_postgres_row(const PGresult *result, int row, bool ours, struct tst_history *h)
{
    struct tst_entry *e = add(h);
    size_t size = 0;
    unsigned char *payload =
        PQunescapeBytea((const unsigned char *)PQgetvalue(result, row, 2), &size);
    assert_non_null(payload);
    e->id = strtoll(PQgetvalue(result, row, 0), NULL, 10);
    e->stream = text_dup(PQgetvalue(result, row, 1));
    e->payload = malloc(size + 1);
    assert_non_null(e->payload);
    if (size > 0)
        memcpy(e->payload, payload, size);
    PQfreemem(payload);
    e->payload[size] = '\0';
    e->payload_size = size;
    e->order_key = text_dup(PQgetvalue(result, row, 3));
    e->dedup_key = text_dup(PQgetvalue(result, row, 4));
    e->schema_version = strtoll(PQgetvalue(result, row, 5), NULL, 10);
    e->metadata = column_json(cell(result, row, 6), "{}", e->id);
    e->tags = column_json(cell(result, row, 7), "[]", e->id);
    e->annotations = column_json(cell(result, row, 8), "{}", e->id);
    e->created_ms = cell_time(result, row, 9);
    e->updated_ms = cell_time(result, row, 10);
    if (strcmp(PQgetvalue(result, row, 11), "0") == 0 &&
        (ours || PQgetvalue(result, row, 13)[0] == '\0')) {
        e->origin = text_dup(h->uuid);
        e->source_id = e->id;
    } else {
        if (ours && cell(result, row, 12) == NULL)
            tst_fail("entry %" PRId64 " has an origin that is not in the list", e->id);
        e->origin = text_dup(ours ? cell(result, row, 12) : "go");
        e->source_id = strtoll(PQgetvalue(result, row, 13), NULL, 10);
    }
}

#define PG_MS(column) "floor(extract(epoch FROM " column ") * 1000)::bigint"

/* Through a cursor: a table may be larger than what one result should hold. */
static void load_postgres(ledger_store *store, struct tst_history *h)
{
    PGconn *conn = tst_pg_kept(ledger_store_url(store));
    const char *table = ledger_store_table(store);
    int count;
    bool ours = tst_pg_sql_int(conn,
                               "SELECT count(*) FROM pg_attribute WHERE NOT attisdropped"
                               " AND attrelid = '%s'::regclass AND attname = 'origin'",
                               table) == 1;
    tst_pg_sql(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    if (ours) {
        char *uuid = tst_pg_sql_text(conn, "SELECT uuid FROM %s_meta", table);
        snprintf(h->uuid, sizeof h->uuid, "%s", uuid);
        free(uuid);
        tst_pg_sql(
            conn,
            "DECLARE c CURSOR FOR SELECT e.id, e.stream, e.payload, e.order_key,"
            " e.dedup_key, e.schema_version, e.metadata, e.tags, e.annotations, " PG_MS(
                "e.created_at") ", " PG_MS("e.updated_at") ", e.origin, o.uuid,"
                                                           " coalesce(e.source_pos::text, "
                                                           "e.source_id)"
                                                           " FROM %s e LEFT JOIN %s_origins o ON "
                                                           "o.id = e.origin ORDER BY e.id",
            table, table);
    } else {
        tst_pg_sql(conn,
                   "DECLARE c CURSOR FOR SELECT id, stream, payload, order_key, dedup_key,"
                   " schema_version, metadata, tags, annotations, " PG_MS("created_at") ", " PG_MS(
                       "updated_at") ", 0, NULL, source_id"
                                     " FROM %s ORDER BY id",
                   table);
    }
    do {
        PGresult *result = PQexec(conn, "FETCH 10000 FROM c");
        if (PQresultStatus(result) != PGRES_TUPLES_OK)
            tst_fail("%s", PQerrorMessage(conn));
        count = PQntuples(result);
        for (int row = 0; row < count; row++)
            load_postgres_row(result, row, ours, h);
        PQclear(result);
    } while (count > 0);
    tst_pg_sql(conn, "COMMIT");
}
#endif

static const char *field(json_t *row, const char *name)
{
    const char *text = json_string_value(json_object_get(row, name));
    if (text == NULL)
        tst_fail("column %s is no text", name);
    return text;
}

static void load_clickhouse_row(json_t *row, int64_t rank, struct tst_history *h)
{
    struct tst_entry *e = add(h);
    const char *origin = field(row, "origin");
    e->id = rank;
    e->source_id = strtoll(field(row, "source_id"), NULL, 10);
    e->stream = text_dup(field(row, "stream"));
    e->payload = text_dup(field(row, "payload"));
    e->payload_size = strlen(e->payload);
    e->order_key = text_dup(field(row, "order_key"));
    e->dedup_key = text_dup(field(row, "dedup_key"));
    e->schema_version = strtoll(field(row, "schema_version"), NULL, 10);
    e->metadata = column_json(field(row, "metadata"), "{}", e->id);
    e->tags = column_json(field(row, "tags"), "[]", e->id);
    e->annotations = column_json(field(row, "annotations"), "{}", e->id);
    e->created_ms = strtoll(field(row, "created"), NULL, 10);
    e->updated_ms =
        field(row, "updated")[0] != '\0' ? strtoll(field(row, "updated"), NULL, 10) : INT64_MIN;
    e->origin = text_dup(origin);
    if (strrchr(e->origin, ':') != NULL)
        *strrchr(e->origin, ':') = '\0';
}

/* Of the engine that the tests share. What counts is the version that is the highest: so it is
 * sought here, and not by the engine's own FINAL. An entry's place is its rank by id. */
static void load_clickhouse(ledger_store *store, struct tst_history *h)
{
    const char *table = ledger_store_table(store);
    const char *database = strrchr(ledger_store_url(store), '/') + 1;
    struct tst_ch *ch = tst_ch_shared();
    int64_t rank = 0;
    char *uuid = tst_ch_text(ch, database,
                             "SELECT argMax(uuid, registered_at) FROM `%s_origins`"
                             " WHERE number = 0",
                             table);
    char *rows = tst_ch_text(
        ch, database,
        "SELECT origin, source_id, stream, payload, order_key, dedup_key,"
        " toString(schema_version) AS schema_version, metadata, tags, annotations,"
        " toString(intDiv(toUnixTimestamp64Micro(created_at), 1000)) AS created,"
        " ifNull(toString(intDiv(toUnixTimestamp64Micro(updated_at), 1000)), '') AS updated"
        " FROM (SELECT * FROM `%s` ORDER BY version DESC LIMIT 1 BY stream, origin, entry_key)"
        " WHERE is_deleted = 0 ORDER BY id FORMAT JSONEachRow",
        table);
    snprintf(h->uuid, sizeof h->uuid, "%s", uuid);
    for (char *line = rows; *line != '\0';) {
        const size_t size = strcspn(line, "\n");
        json_t *row = json_loadb(line, size, JSON_ALLOW_NUL, NULL);
        if (row == NULL)
            tst_fail("no JSON: %.*s", (int)size, line);
        load_clickhouse_row(row, ++rank, h);
        json_decref(row);
        line += size + (line[size] == '\n');
    }
    free(rows);
    free(uuid);
}

static void load_stream(ledger_store *store, const char *stream, struct tst_history *h)
{
    ledger_read_options options = { .size = sizeof(options), .limit = 1000 };
    for (;;) {
        ledger_batch *batch = NULL;
        ledger_error err = { 0 };
        tst_ok(ledger_store_read(store, stream, &options, &batch, &err), &err);
        size_t count = ledger_batch_count(batch);
        for (size_t i = 0; i < count; i++) {
            const ledger_entry *in = ledger_batch_entry(batch, i);
            struct tst_entry *e = add(h);
            bool local = in->origin[0] == '\0' && in->source_id[0] == '\0';
            e->id = in->id.number;
            e->origin = text_dup(local ? h->uuid : in->origin);
            e->source_id = local ? e->id : strtoll(in->source_id, NULL, 10);
            e->stream = text_dup(in->stream);
            e->payload = malloc(in->payload.size + 1);
            assert_non_null(e->payload);
            if (in->payload.size > 0)
                memcpy(e->payload, in->payload.data, in->payload.size);
            e->payload[in->payload.size] = '\0';
            e->payload_size = in->payload.size;
            e->order_key = text_dup(in->order_key);
            e->dedup_key = text_dup(in->dedup_key);
            e->schema_version = in->schema_version;
            e->metadata = map_json(in->metadata);
            e->tags = list_json(in->tags);
            e->annotations = map_json(in->annotations);
            e->created_ms = us_to_ms(in->created_at_us);
            e->updated_ms = us_to_ms(in->updated_at_us);
            options.has_after = true;
            options.after.number = e->id;
        }
        ledger_batch_destroy(&batch);
        if (count == 0)
            return;
    }
}

static void load_memory(ledger_store *store, struct tst_history *h)
{
    struct ldg_identity identity;
    ledger_error err = { 0 };
    char *after = NULL;
    size_t count;
    tst_ok(ldg_store_identity(store, &identity, &err), &err);
    snprintf(h->uuid, sizeof h->uuid, "%s", identity.uuid);
    do {
        ledger_names names = { 0 };
        tst_ok(ledger_store_list_streams(store, after, 100, &names, &err), &err);
        count = names.count;
        for (size_t i = 0; i < count; i++)
            load_stream(store, names.items[i], h);
        if (count > 0) {
            free(after);
            after = text_dup(names.items[count - 1]);
        }
        ledger_names_destroy(&names);
    } while (count > 0);
    free(after);
}

void tst_history_load(ledger_store *store, struct tst_history *ret_history)
{
    memset(ret_history, 0, sizeof *ret_history);
    if (strcmp(ledger_store_backend(store), "sqlite") == 0)
        load_sqlite(store, ret_history);
#if LDG_WITH_POSTGRES
    else if (strcmp(ledger_store_backend(store), "postgres") == 0)
        load_postgres(store, ret_history);
#endif
    else if (strcmp(ledger_store_backend(store), "clickhouse") == 0)
        load_clickhouse(store, ret_history);
    else
        load_memory(store, ret_history);
    if (ret_history->count > 0)
        qsort(ret_history->entries, ret_history->count, sizeof ret_history->entries[0],
              compare_entries);
}

void tst_history_free(struct tst_history *history)
{
    for (size_t i = 0; i < history->count; i++) {
        struct tst_entry *e = &history->entries[i];
        free(e->origin);
        free(e->stream);
        free(e->payload);
        free(e->order_key);
        free(e->dedup_key);
        free(e->metadata);
        free(e->tags);
        free(e->annotations);
    }
    free(history->entries);
    memset(history, 0, sizeof *history);
}

const struct tst_entry *tst_history_find(const struct tst_history *history, int64_t id)
{
    for (size_t i = 0; i < history->count; i++)
        if (history->entries[i].id == id)
            return &history->entries[i];
    return NULL;
}

/* --- comparing ----------------------------------------------------------------------------- */

static bool differs(char *ret_text, size_t size, const struct tst_entry *e, const char *field,
                    const char *source_value, const char *sink_value)
{
    if (strcmp(source_value, sink_value) == 0)
        return false;
    snprintf(ret_text, size,
             "stream '%.40s' entry %" PRId64 " of %s: %s is '%.300s' at the source,"
             " '%.300s' in the sink",
             e->stream, e->source_id, e->origin, field, source_value, sink_value);
    return true;
}

static bool differs_int(char *ret_text, size_t size, const struct tst_entry *e, const char *field,
                        int64_t source_value, int64_t sink_value)
{
    char a[32], b[32];
    snprintf(a, sizeof a, "%" PRId64, source_value);
    snprintf(b, sizeof b, "%" PRId64, sink_value);
    return differs(ret_text, size, e, field, a, b);
}

static bool entry_equal(const struct tst_entry *a, const struct tst_entry *b, uint32_t flags,
                        char *ret_text, size_t size)
{
    if (a->payload_size != b->payload_size ||
        memcmp(a->payload, b->payload, a->payload_size) != 0) {
        snprintf(ret_text, size,
                 "stream '%.40s' entry %" PRId64 " of %s: payload is '%.200s' (%zu"
                 " bytes) at the source, '%.200s' (%zu bytes) in the sink",
                 a->stream, a->source_id, a->origin, a->payload, a->payload_size, b->payload,
                 b->payload_size);
        return false;
    }
    if (differs(ret_text, size, a, "order_key", a->order_key, b->order_key) ||
        differs(ret_text, size, a, "dedup_key", a->dedup_key, b->dedup_key) ||
        differs_int(ret_text, size, a, "schema_version", a->schema_version, b->schema_version) ||
        differs(ret_text, size, a, "metadata", a->metadata, b->metadata) ||
        differs(ret_text, size, a, "tags", a->tags, b->tags) ||
        differs(ret_text, size, a, "annotations", a->annotations, b->annotations) ||
        ((flags & TST_CMP_IDS) && differs_int(ret_text, size, a, "id", a->id, b->id)))
        return false;
    if (flags & TST_CMP_ANY_TIME)
        return true;
    return !differs_int(ret_text, size, a, "created_at", a->created_ms, b->created_ms) &&
           !differs_int(ret_text, size, a, "updated_at", a->updated_ms, b->updated_ms);
}

bool tst_history_equal(const struct tst_history *source, const struct tst_history *sink,
                       uint32_t flags, char *ret_text, size_t size)
{
    size_t i = 0, j = 0;
    const struct tst_entry *before = NULL; /* the one before in the sink, same origin and stream */
    for (;;) {
        const struct tst_entry *a, *b;
        int c;
        while ((flags & TST_CMP_OWN) && i < source->count &&
               strcmp(source->entries[i].origin, source->uuid) != 0)
            i++;
        while ((flags & TST_CMP_OWN) && j < sink->count &&
               strcmp(sink->entries[j].origin, source->uuid) != 0)
            j++;
        if (i == source->count && j == sink->count)
            return true;
        a = i < source->count ? &source->entries[i] : NULL;
        b = j < sink->count ? &sink->entries[j] : NULL;
        c = a == NULL ? 1 : b == NULL ? -1 : compare_keys(a, b);
        if (c != 0) {
            const struct tst_entry *e = c < 0 ? a : b;
            snprintf(ret_text, size,
                     "stream '%.40s' entry %" PRId64 " of %s is only in the %s"
                     " (payload '%.100s', dedup key '%.60s'; source %zu entries, sink %zu)",
                     e->stream, e->source_id, e->origin, c < 0 ? "source" : "sink", e->payload,
                     e->dedup_key, source->count, sink->count);
            return false;
        }
        if (!entry_equal(a, b, flags, ret_text, size))
            return false;
        if (!(flags & TST_CMP_ANY_ORDER) && before != NULL &&
            strcmp(before->origin, b->origin) == 0 && strcmp(before->stream, b->stream) == 0 &&
            before->id >= b->id) {
            snprintf(ret_text, size,
                     "stream '%.40s': entry %" PRId64 " of %s has id %" PRId64
                     " in the sink, the one before it has %" PRId64,
                     b->stream, b->source_id, b->origin, b->id, before->id);
            return false;
        }
        before = b;
        i++;
        j++;
    }
}

void tst_assert_equal_at(ledger_store *source, ledger_store *sink, uint32_t flags, const char *file,
                         int line)
{
    struct tst_history a, b;
    char text[2048];
    tst_history_load(source, &a);
    tst_history_load(sink, &b);
    if (!tst_history_equal(&a, &b, flags, text, sizeof text))
        tst_fail_at(file, line, "%s", text);
    tst_history_free(&a);
    tst_history_free(&b);
}

void tst_assert_unchanged_at(const struct tst_history *before, ledger_store *store,
                             const char *file, int line)
{
    struct tst_history now;
    char text[2048];
    tst_history_load(store, &now);
    if (!tst_history_equal(before, &now, TST_CMP_IDS, text, sizeof text))
        tst_fail_at(file, line, "the store has changed: %s", text);
    tst_history_free(&now);
}

/* --- the log against the entries ----------------------------------------------------------- */

struct played {
    int64_t id;
    char *stream;
    char *tags;
    json_t *annotations;
    bool gone;
};

static struct played *played_find(struct played *items, size_t count, int64_t id)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (items[mid].id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low < count && items[low].id == id ? &items[low] : NULL;
}

static const char *get_text(json_t *event, const char *key)
{
    const char *text = json_string_value(json_object_get(event, key));
    return text != NULL ? text : "";
}

static void play_event(json_t *event, struct played **items, size_t *count)
{
    const char *type = get_text(event, "type");
    const char *stream = get_text(event, "stream");
    if (strcmp(type, "append") == 0) {
        size_t i;
        json_t *entry;
        json_array_foreach(json_object_get(event, "entries"), i, entry)
        {
            json_t *tags = json_object_get(entry, "tags");
            struct played *p;
            if ((*count & (*count - 1)) == 0) {
                *items = realloc(*items, (*count == 0 ? 1 : *count * 2) * sizeof **items);
                assert_non_null(*items);
            }
            p = &(*items)[(*count)++];
            p->id = strtoll(get_text(entry, "id"), NULL, 10);
            p->stream = text_dup(stream);
            p->tags = json_is_array(tags) ? json_canonical(json_incref(tags)) : text_dup("[]");
            p->annotations = json_object();
            p->gone = false;
            if (*count > 1 && p[-1].id >= p->id)
                tst_fail("log: entry %" PRId64 " after entry %" PRId64, p->id, p[-1].id);
        }
    } else if (strcmp(type, "trim") == 0) {
        int64_t last = strtoll(get_text(event, "before_id"), NULL, 10);
        for (size_t i = 0; i < *count; i++)
            if ((*items)[i].id <= last && strcmp((*items)[i].stream, stream) == 0)
                (*items)[i].gone = true;
    } else {
        struct played *p =
            played_find(*items, *count, strtoll(get_text(event, "entry_id"), NULL, 10));
        if (p == NULL)
            tst_fail("log: %s of an entry that no event made", type);
        if (strcmp(type, "set_tags") == 0) {
            json_t *tags = json_object_get(event, "tags");
            free(p->tags);
            p->tags = json_is_array(tags) ? json_canonical(json_incref(tags)) : text_dup("[]");
        } else {
            const char *key;
            json_t *value;
            json_object_foreach(json_object_get(event, "annotations"), key, value)
            {
                if (json_is_null(value))
                    json_object_del(p->annotations, key);
                else
                    json_object_set(p->annotations, key, value);
            }
        }
    }
}

static void play_text(const char *text, struct played **items, size_t *count)
{
    json_error_t error;
    json_t *event = json_loads(text, JSON_ALLOW_NUL, &error);
    if (event == NULL)
        tst_fail("log: not JSON: %s: %.200s", error.text, text);
    play_event(event, items, count);
    json_decref(event);
}

static void play_sqlite(ledger_store *source, struct played **items, size_t *count)
{
    sqlite3 *db = tst_sqlite(source);
    sqlite3_stmt *stmt = NULL;
    /* Without the payloads: their numbers may be too long for the library that reads this. */
    char *sql = sqlite3_mprintf(
        "SELECT json_object('type', json_extract(event, '$.type'),"
        " 'stream', json_extract(event, '$.stream'), 'entry_id', json_extract(event, '$.entry_id'),"
        " 'before_id', json_extract(event, '$.before_id'), 'tags', json_extract(event, '$.tags'),"
        " 'annotations', json_extract(event, '$.annotations'), 'entries',"
        " (SELECT json_group_array(json_object('id', json_extract(value, '$.id'),"
        "   'tags', json_extract(value, '$.tags'))) FROM json_each(event, '$.entries')))"
        " FROM (SELECT id, CAST(payload AS TEXT) AS event FROM main.\"%w_mutations\""
        "   WHERE +stream = '_') ORDER BY id",
        ledger_store_table(source));
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
    while (sqlite3_step(stmt) == SQLITE_ROW) {
        play_text(column_text(stmt, 0), items, count);
    }
    sqlite3_finalize(stmt);
    sqlite3_free(sql);
    sqlite3_close(db);
}

#if LDG_WITH_POSTGRES
static void play_postgres(ledger_store *source, struct played **items, size_t *count)
{
    PGconn *conn = tst_pg_kept(ledger_store_url(source));
    char sql[1024];
    PGresult *result;
    snprintf(sql, sizeof sql,
             "SELECT json_build_object('type', e->'type', 'stream', e->'stream',"
             " 'entry_id', e->'entry_id', 'before_id', e->'before_id', 'tags', e->'tags',"
             " 'annotations', e->'annotations', 'entries', (SELECT coalesce(json_agg("
             "json_build_object('id', x->'id', 'tags', x->'tags')), '[]') FROM"
             " json_array_elements(CASE WHEN json_typeof(e->'entries') = 'array'"
             " THEN e->'entries' ELSE '[]' END) x))"
             /* Escapes that PostgreSQL has no character for; payloads have them. */
             " FROM (SELECT id, regexp_replace(convert_from(payload, 'UTF8'),"
             " '\\\\u(0000|[dD][89a-fA-F]..)', '\\\\u0001', 'g')::json AS e FROM %s_mutations"
             " WHERE stream = '_') AS events ORDER BY id",
             ledger_store_table(source));
    result = PQexec(conn, sql);
    if (PQresultStatus(result) != PGRES_TUPLES_OK)
        tst_fail("%s: %s", sql, PQerrorMessage(conn));
    for (int row = 0; row < PQntuples(result); row++)
        play_text(PQgetvalue(result, row, 0), items, count);
    PQclear(result);
}
#endif

void tst_assert_log_agrees(ledger_store *source)
{
    struct tst_history h;
    struct played *items = NULL;
    size_t count = 0, live = 0;
#if LDG_WITH_POSTGRES
    if (strcmp(ledger_store_backend(source), "postgres") == 0)
        play_postgres(source, &items, &count);
    else
#endif
        play_sqlite(source, &items, &count);
    tst_history_load(source, &h);
    for (size_t i = 0; i < count; i++) {
        const struct tst_entry *e = NULL;
        struct tst_entry key = { .origin = h.uuid,
                                 .stream = items[i].stream,
                                 .source_id = items[i].id };
        if (h.count > 0)
            e = bsearch(&key, h.entries, h.count, sizeof key, compare_entries);
        if (items[i].gone != (e == NULL))
            tst_fail("log: entry %" PRId64 " should %sbe there", items[i].id,
                     items[i].gone ? "not " : "");
        if (e != NULL) {
            char *annotations = json_canonical(json_incref(items[i].annotations));
            live++;
            if (strcmp(e->tags, items[i].tags) != 0)
                tst_fail("log: tags of entry %" PRId64 " are %s, the log leads to %s", e->id,
                         e->tags, items[i].tags);
            if (strcmp(e->annotations, annotations) != 0)
                tst_fail("log: annotations of entry %" PRId64 " are %s, the log leads to %s", e->id,
                         e->annotations, annotations);
            free(annotations);
        }
        free(items[i].stream);
        free(items[i].tags);
        json_decref(items[i].annotations);
    }
    if (live != h.count)
        tst_fail("log: %zu entries, the log leads to %zu", h.count, live);
    free(items);
    tst_history_free(&h);
}
