/* Reading entries.
 *
 * Hides the text forms of the columns. Invariants: every value is bound; a row that other programs
 * have left unreadable is named by its id; a large payload is in memory once. */
#include "backend/sqlite/sqlite.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SEARCH_CHUNK_BYTES ((size_t)256 * 1024)
#define READ_MAX_BYTES ((size_t)64 * 1024 * 1024)
#define NO_TIME_TEXT "no time of the form 2006-01-02T15:04:05.000"

/* --- one row --------------------------------------------------------------------------------- */

const char *ldg_sqlite_int64_text(int64_t value, char text[LDG_SQLITE_INT64_MAX])
{
    uint64_t rest = value < 0 ? -(uint64_t)value : (uint64_t)value;
    char *p = text + LDG_SQLITE_INT64_MAX - 1;
    *p = '\0';
    do {
        *--p = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (value < 0)
        *--p = '-';
    return p;
}

ledger_rc ldg_sqlite_fail_row(const struct ldg_sqlite *s, int64_t id, const char *column,
                              const char *why, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_DATA,
                    "table \"%s\", row %lld: column %s is damaged (%s); correct it with an UPDATE, "
                    "or delete the row",
                    s->table, (long long)id, column, why);
}

/* Columns of %C, db.c. */
enum {
    COL_ID,
    COL_STREAM,
    COL_PAYLOAD,
    COL_LARGE_SIZE,
    COL_ORDER_KEY,
    COL_DEDUP_KEY,
    COL_SCHEMA_VERSION,
    COL_METADATA,
    COL_TAGS,
    COL_ANNOTATIONS,
    COL_CREATED_AT,
    COL_UPDATED_AT,
    COL_SOURCE_ID,
    COL_ORIGIN,
    COL_SOURCE_POS,
    COL_ORIGIN_UUID,
};

static ledger_bytes column_bytes(sqlite3_stmt *stmt, int column)
{
    const void *data = sqlite3_column_blob(stmt, column);
    return (ledger_bytes){ .data = data, .size = (size_t)sqlite3_column_bytes(stmt, column) };
}

static ledger_rc get_text(struct ldg_sqlite *s, sqlite3_stmt *stmt, int column, const char *name,
                          struct ldg_arena *arena, const char **ret_text, ledger_error *err)
{
    int64_t id = sqlite3_column_int64(stmt, COL_ID);
    ledger_bytes bytes = column_bytes(stmt, column);
    if (!bytes.size) {
        *ret_text = "";
        return LEDGER_OK;
    }
    if (!bytes.data)
        return ldg_fail_nomem(err);
    if (memchr(bytes.data, 0, bytes.size))
        return ldg_sqlite_fail_row(s, id, name, "it holds a NUL character", err);
    if (!ldg_utf8_valid(bytes.data, bytes.size))
        return ldg_sqlite_fail_row(s, id, name, "not valid UTF-8", err);
    char *text = ldg_arena_strndup(arena, bytes.data, bytes.size);
    if (!text)
        return ldg_fail_nomem(err);
    *ret_text = text;
    return LEDGER_OK;
}

/* An object or a list of strings; SQL NULL is an empty one. Either map or list is given. */
static ledger_rc get_json(struct ldg_sqlite *s, sqlite3_stmt *stmt, int column, const char *name,
                          struct ldg_arena *arena, ledger_map *map, ledger_list *list,
                          ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    if (sqlite3_column_type(stmt, column) == SQLITE_NULL) {
        if (map)
            *map = (ledger_map){ 0 };
        else
            *list = (ledger_list){ 0 };
        return rc;
    }
    ledger_bytes json = column_bytes(stmt, column);
    if (json.size && !json.data)
        return ldg_fail_nomem(err);
    if (list && json.size == 2 && memcmp(json.data, "[]", 2) == 0) {
        *list = (ledger_list){ 0 };
        return rc;
    }
    if (!json.data)
        json.data = "";
    rc = map ? ldg_json_get_map(json, false, arena, map, err)
             : ldg_json_get_list(json, arena, list, err);
    if (rc == LEDGER_ERR_DATA || rc == LEDGER_ERR_TOO_LARGE) {
        ledger_error why = *err;
        rc = ldg_sqlite_fail_row(s, sqlite3_column_int64(stmt, COL_ID), name, why.message, err);
    }
    return rc;
}

/* What stands in a column that cannot be read, in printable form. */
static ledger_rc get_raw(sqlite3_stmt *stmt, int column, struct ldg_arena *arena,
                         const char **ret_text, ledger_error *err)
{
    ledger_bytes bytes = column_bytes(stmt, column);
    if (bytes.size && !bytes.data)
        return ldg_fail_nomem(err);
    char *text = ldg_arena_strndup(arena, bytes.size ? bytes.data : "", bytes.size);
    if (!text)
        return ldg_fail_nomem(err);
    const bool valid = ldg_utf8_valid(text, bytes.size);
    for (size_t i = 0; i < bytes.size; i++) {
        if (!text[i] || (!valid && (unsigned char)text[i] >= 0x80))
            text[i] = '?';
    }
    *ret_text = text;
    return LEDGER_OK;
}

static ledger_rc get_raw_json(sqlite3_stmt *stmt, int column, struct ldg_arena *arena,
                              ledger_map *map, ledger_list *list, ledger_error *err)
{
    const char *text = NULL;
    ledger_rc rc = get_raw(stmt, column, arena, &text, err);
    if (rc != LEDGER_OK)
        return rc;
    const ledger_pair pair = { .key = "", .value = text };
    void *item = map ? ldg_arena_memdup(arena, &pair, sizeof(pair))
                     : ldg_arena_memdup(arena, &text, sizeof(text));
    if (!item)
        return ldg_fail_nomem(err);
    if (map)
        *map = (ledger_map){ .items = item, .count = 1 };
    else
        *list = (ledger_list){ .items = item, .count = 1 };
    return LEDGER_OK;
}

static ledger_rc get_time(struct ldg_sqlite *s, sqlite3_stmt *stmt, int column, const char *name,
                          int64_t *ret_time_us, ledger_error *err)
{
    ledger_bytes text;
    if (sqlite3_column_type(stmt, column) == SQLITE_NULL) {
        *ret_time_us = LEDGER_NO_TIME;
        return LEDGER_OK;
    }
    text = column_bytes(stmt, column);
    if (text.size && !text.data)
        return ldg_fail_nomem(err);
    if (!text.size || !ldg_time_parse(text.data, text.size, ret_time_us))
        return ldg_sqlite_fail_row(s, sqlite3_column_int64(stmt, COL_ID), name, NO_TIME_TEXT, err);
    return LEDGER_OK;
}

/* The payload goes straight from the pages of the database to its place: a large one is never held
 * twice. */
static ledger_rc read_large(struct ldg_sqlite *s, int64_t id, struct ldg_arena *arena, size_t size,
                            ledger_bytes *ret_payload, ledger_error *err)
{
    sqlite3_blob *blob = NULL;
    ledger_rc result = LEDGER_OK;
    void *data = ldg_arena_alloc(arena, size);
    if (!data)
        return ldg_fail_nomem(err);
    int rc = sqlite3_blob_open(s->db, "main", s->table, "payload", id, 0, &blob);
    if (rc == SQLITE_OK)
        rc = sqlite3_blob_read(blob, data, (int)size, 0);
    if (rc != SQLITE_OK)
        result = ldg_sqlite_fail(s, rc, "reading a payload", err);
    sqlite3_blob_close(blob);
    if (result == LEDGER_OK)
        *ret_payload = (ledger_bytes){ .data = data, .size = size };
    return result;
}

/* Where a row of the columns %C goes. raw: a damaged column is given as it is, and is no error. */
struct target {
    struct ldg_sqlite *s;
    sqlite3_stmt *stmt;
    struct ldg_arena *arena;
    bool raw;
};

static ledger_rc fill_text(const struct target *t, int column, const char *name,
                           const char **ret_text, ledger_error *err)
{
    ledger_rc rc = get_text(t->s, t->stmt, column, name, t->arena, ret_text, err);
    if (rc == LEDGER_ERR_DATA && t->raw)
        rc = get_raw(t->stmt, column, t->arena, ret_text, err);
    return rc;
}

static ledger_rc fill_json(const struct target *t, int column, const char *name, ledger_map *map,
                           ledger_list *list, ledger_error *err)
{
    ledger_rc rc = get_json(t->s, t->stmt, column, name, t->arena, map, list, err);
    if (rc == LEDGER_ERR_DATA && t->raw)
        rc = get_raw_json(t->stmt, column, t->arena, map, list, err);
    return rc;
}

static ledger_rc fill_time(const struct target *t, int column, const char *name,
                           int64_t *ret_time_us, ledger_error *err)
{
    ledger_rc rc = get_time(t->s, t->stmt, column, name, ret_time_us, err);
    if (rc == LEDGER_ERR_DATA && t->raw) {
        *ret_time_us = LEDGER_NO_TIME;
        rc = LEDGER_OK;
    }
    return rc;
}

static ledger_rc fill_payload(const struct target *t, ledger_bytes *ret_payload, ledger_error *err)
{
    if (sqlite3_column_type(t->stmt, COL_LARGE_SIZE) != SQLITE_NULL)
        return read_large(t->s, sqlite3_column_int64(t->stmt, COL_ID), t->arena,
                          (size_t)sqlite3_column_int64(t->stmt, COL_LARGE_SIZE), ret_payload, err);
    ledger_bytes payload = column_bytes(t->stmt, COL_PAYLOAD);
    void *copy = NULL;
    if (payload.data || !payload.size)
        copy = ldg_arena_memdup(t->arena, payload.size ? payload.data : "", payload.size);
    if (!copy)
        return ldg_fail_nomem(err);
    *ret_payload = (ledger_bytes){ .data = copy, .size = payload.size };
    return LEDGER_OK;
}

/* SQLite keeps any number, and any text, in any column. raw: the nearest that there is. */
static ledger_rc fill_schema_version(const struct target *t, int *ret_version, ledger_error *err)
{
    const int64_t version = sqlite3_column_int64(t->stmt, COL_SCHEMA_VERSION);
    const bool whole = sqlite3_column_type(t->stmt, COL_SCHEMA_VERSION) == SQLITE_INTEGER;
    char why[80] = "not a whole number";
    if (whole && version >= INT32_MIN && version <= INT32_MAX) {
        *ret_version = (int)version;
        return LEDGER_OK;
    }
    if (t->raw) {
        *ret_version = whole && version > 0 ? INT32_MAX : INT32_MIN;
        return LEDGER_OK;
    }
    if (whole)
        snprintf(why, sizeof(why), "%" PRId64 " has more than 32 bits", version);
    return ldg_sqlite_fail_row(t->s, sqlite3_column_int64(t->stmt, COL_ID), "schema_version", why,
                               err);
}

static ledger_rc fill_entry(const struct target *t, ledger_entry *entry, ledger_error *err)
{
    sqlite3_stmt *stmt = t->stmt;
    ledger_entry e = { .id = { .number = sqlite3_column_int64(stmt, COL_ID) } };
    char number[LDG_SQLITE_INT64_MAX];
    ledger_rc rc = fill_text(t, COL_STREAM, "stream", &e.stream, err);
    if (rc == LEDGER_OK)
        rc = fill_payload(t, &e.payload, err);
    if (rc == LEDGER_OK)
        rc = fill_text(t, COL_ORDER_KEY, "order_key", &e.order_key, err);
    if (rc == LEDGER_OK)
        rc = fill_text(t, COL_DEDUP_KEY, "dedup_key", &e.dedup_key, err);
    if (rc == LEDGER_OK)
        rc = fill_schema_version(t, &e.schema_version, err);
    if (rc == LEDGER_OK)
        rc = fill_json(t, COL_METADATA, "metadata", &e.metadata, NULL, err);
    if (rc == LEDGER_OK)
        rc = fill_json(t, COL_TAGS, "tags", NULL, &e.tags, err);
    if (rc == LEDGER_OK)
        rc = fill_json(t, COL_ANNOTATIONS, "annotations", &e.annotations, NULL, err);
    if (rc == LEDGER_OK)
        rc = fill_time(t, COL_CREATED_AT, "created_at", &e.created_at_us, err);
    if (rc == LEDGER_OK)
        rc = fill_time(t, COL_UPDATED_AT, "updated_at", &e.updated_at_us, err);
    if (rc == LEDGER_OK)
        rc = fill_text(t, COL_SOURCE_ID, "source_id", &e.source_id, err);
    if (rc == LEDGER_OK)
        rc = fill_text(t, COL_ORIGIN_UUID, "origin", &e.origin, err);
    if (rc == LEDGER_OK && !*e.source_id && sqlite3_column_int(stmt, COL_ORIGIN) != 0 &&
        sqlite3_column_type(stmt, COL_SOURCE_POS) != SQLITE_NULL) {
        e.source_id = ldg_arena_strdup(
            t->arena, ldg_sqlite_int64_text(sqlite3_column_int64(stmt, COL_SOURCE_POS), number));
        if (!e.source_id)
            rc = ldg_fail_nomem(err);
    }
    if (rc == LEDGER_OK)
        *entry = e;
    return rc;
}

/* --- many rows ------------------------------------------------------------------------------- */

static size_t row_bytes(sqlite3_stmt *stmt)
{
    size_t size = sqlite3_column_type(stmt, COL_LARGE_SIZE) != SQLITE_NULL
                      ? (size_t)sqlite3_column_int64(stmt, COL_LARGE_SIZE)
                      : (size_t)sqlite3_column_bytes(stmt, COL_PAYLOAD);
    return size + (size_t)sqlite3_column_bytes(stmt, COL_STREAM) +
           (size_t)sqlite3_column_bytes(stmt, COL_ORDER_KEY) +
           (size_t)sqlite3_column_bytes(stmt, COL_DEDUP_KEY) +
           (size_t)sqlite3_column_bytes(stmt, COL_METADATA) +
           (size_t)sqlite3_column_bytes(stmt, COL_TAGS) +
           (size_t)sqlite3_column_bytes(stmt, COL_ANNOTATIONS) + sizeof(ledger_entry);
}

/* What a search looks for, in lower case, and the piece of payload it is looking at. */
struct needle {
    char *text; /* NULL: no search */
    size_t size;
    char *piece;
    size_t capacity;
};

static void to_lower(char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (text[i] >= 'A' && text[i] <= 'Z')
            text[i] = (char)(text[i] + 'a' - 'A');
    }
}

static ledger_rc needle_init(struct needle *needle, const char *search, ledger_error *err)
{
    needle->size = strlen(search);
    needle->capacity =
        SEARCH_CHUNK_BYTES > 2 * needle->size ? SEARCH_CHUNK_BYTES : 2 * needle->size;
    needle->text = ldg_strdup(search);
    needle->piece = ldg_malloc(needle->capacity);
    if (!needle->text || !needle->piece)
        return ldg_fail_nomem(err);
    to_lower(needle->text, needle->size);
    return LEDGER_OK;
}

static void needle_fini(struct needle *needle)
{
    ldg_free(needle->text);
    ldg_free(needle->piece);
}

/* Looks through a payload piece by piece; pieces overlap by the length of the text. It is in
 * memory, or (data NULL) read from the row. */
static ledger_rc find_needle(struct ldg_sqlite *s, struct needle *needle, int64_t id,
                             const char *data, size_t size, bool *ret_found, ledger_error *err)
{
    size_t kept = 0, done = 0;
    bool found = needle->size == 0;
    sqlite3_blob *blob = NULL;
    ledger_rc result = LEDGER_OK;
    int rc = data || !size ? SQLITE_OK
                           : sqlite3_blob_open(s->db, "main", s->table, "payload", id, 0, &blob);
    while (rc == SQLITE_OK && !found && done < size) {
        size_t room = needle->capacity - kept;
        size_t take = size - done < room ? size - done : room;
        if (data)
            memcpy(needle->piece + kept, data + done, take);
        else
            rc = sqlite3_blob_read(blob, needle->piece + kept, (int)take, (int)done);
        if (rc != SQLITE_OK)
            break;
        to_lower(needle->piece + kept, take);
        done += take;
        take += kept;
        found = memmem(needle->piece, take, needle->text, needle->size) != NULL;
        kept = needle->size - 1 < take ? needle->size - 1 : take;
        memmove(needle->piece, needle->piece + take - kept, kept);
    }
    if (rc != SQLITE_OK)
        result = ldg_sqlite_fail(s, rc, "searching a payload", err);
    sqlite3_blob_close(blob);
    if (result == LEDGER_OK)
        *ret_found = found;
    return result;
}

static bool list_has(ledger_list list, const char *text)
{
    for (size_t i = 0; i < list.count; i++) {
        if (strcmp(list.items[i], text) == 0)
            return true;
    }
    return false;
}

static bool map_has(ledger_map map, ledger_map wanted)
{
    for (size_t i = 0; i < wanted.count; i++) {
        size_t low = 0, high = map.count;
        while (low < high) {
            size_t middle = low + (high - low) / 2;
            if (strcmp(map.items[middle].key, wanted.items[i].key) < 0)
                low = middle + 1;
            else
                high = middle;
        }
        if (low == map.count || strcmp(map.items[low].key, wanted.items[i].key) != 0 ||
            strcmp(map.items[low].value, wanted.items[i].value) != 0)
            return false;
    }
    return true;
}

static bool by_tags(const ledger_read_options *o)
{
    return (o->tag && *o->tag) || o->all_tags.count;
}

/* Tags and maps are compared here and not in SQL: both sides may write the same string with other
 * escapes, and a damaged row can be named. */
static ledger_rc matches(struct ldg_sqlite *s, sqlite3_stmt *stmt, const ledger_read_options *o,
                         struct needle *needle, bool *ret_match, ledger_error *err)
{
    ledger_list tags = { 0 };
    ledger_map map = { 0 };
    bool match = true;
    ledger_rc rc = LEDGER_OK;
    ldg_arena_reset(&s->scratch);
    if (by_tags(o)) {
        rc = get_json(s, stmt, COL_TAGS, "tags", &s->scratch, NULL, &tags, err);
        match = rc == LEDGER_OK && (!o->tag || !*o->tag || list_has(tags, o->tag));
        for (size_t i = 0; match && i < o->all_tags.count; i++)
            match = list_has(tags, o->all_tags.items[i]);
    }
    if (match && o->metadata.count) {
        rc = get_json(s, stmt, COL_METADATA, "metadata", &s->scratch, &map, NULL, err);
        match = rc == LEDGER_OK && map_has(map, o->metadata);
    }
    if (match && o->annotations.count) {
        rc = get_json(s, stmt, COL_ANNOTATIONS, "annotations", &s->scratch, &map, NULL, err);
        match = rc == LEDGER_OK && map_has(map, o->annotations);
    }
    if (match && needle->text) {
        const int64_t id = sqlite3_column_int64(stmt, COL_ID);
        if (sqlite3_column_type(stmt, COL_LARGE_SIZE) != SQLITE_NULL) {
            rc = find_needle(s, needle, id, NULL,
                             (size_t)sqlite3_column_int64(stmt, COL_LARGE_SIZE), &match, err);
        } else {
            ledger_bytes payload = column_bytes(stmt, COL_PAYLOAD);
            rc = payload.size && !payload.data
                     ? ldg_fail_nomem(err)
                     : find_needle(s, needle, id, payload.data, payload.size, &match, err);
        }
    }
    if (rc == LEDGER_OK)
        *ret_match = match;
    return rc;
}

/* Begins the statement; its end frees the text in any case. */
static void read_begin(struct ldg_sql *q, struct ldg_sqlite *s, const char *stream,
                       const ledger_read_options *o, bool filtered, size_t limit, ledger_error *err)
{
    const bool by_order_key = o->order_key && *o->order_key;
    char text[256];
    sqlite3_snprintf((int)sizeof(text), text, "SELECT %%C FROM main.\"%%T\" AS e WHERE 1%s%s%s%s%s",
                     stream ? " AND stream = ?" : "",
                     !o->has_after   ? ""
                     : o->descending ? " AND id < ?"
                                     : " AND id > ?",
                     by_order_key ? " AND order_key = ?" : "",
                     o->descending ? " ORDER BY id DESC" : " ORDER BY id",
                     filtered ? "" : " LIMIT ?");
    ldg_sql_begin_once(q, s, "reading entries", text, err);
    if (stream)
        ldg_sql_text(q, stream);
    if (o->has_after)
        ldg_sql_int(q, o->after.number);
    if (by_order_key)
        ldg_sql_text(q, o->order_key);
    if (!filtered)
        ldg_sql_int(q, (int64_t)limit);
}

ledger_rc ldg_sqlite_read(void *ctx, const char *stream, const char *search,
                          const ledger_read_options *options, struct ldg_arena *arena,
                          ledger_entry **ret_entries, size_t *ret_count, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    const ledger_read_options none = { 0 };
    const ledger_read_options *o = options ? options : &none;
    const size_t limit = o->limit ? o->limit : LEDGER_READ_LIMIT_DEFAULT;
    const size_t max_bytes = o->max_bytes ? o->max_bytes : READ_MAX_BYTES;
    const bool filtered = search || by_tags(o) || o->metadata.count || o->annotations.count;
    size_t count = 0, capacity = 0, bytes = 0;
    ledger_entry *entries = NULL;
    struct needle needle = { 0 };
    struct ldg_sql q;
    ledger_rc rc = ldg_sqlite_file_verify(s, false, err);
    if (rc == LEDGER_OK && search)
        rc = needle_init(&needle, search, err);
    if (rc != LEDGER_OK)
        goto out;
    read_begin(&q, s, stream, o, filtered, limit, err);
    const struct target target = { .s = s, .stmt = q.stmt, .arena = arena };
    while (count < limit && ldg_sql_row(&q)) {
        bool match = true;
        if (filtered)
            q.rc = matches(s, q.stmt, o, &needle, &match, err);
        if (q.rc != LEDGER_OK || !match)
            continue;
        bytes += row_bytes(q.stmt);
        if (count && bytes > max_bytes)
            break;
        entries = ldg_arena_grow(arena, entries, sizeof(*entries), count, &capacity);
        q.rc = entries ? fill_entry(&target, &entries[count], err) : ldg_fail_nomem(err);
        count += q.rc == LEDGER_OK;
    }
    rc = ldg_sql_end(&q);
out:
    needle_fini(&needle);
    if (rc == LEDGER_OK) {
        *ret_entries = entries;
        *ret_count = count;
    }
    return rc;
}

ledger_rc ldg_sqlite_count(void *ctx, const char *stream, uint64_t *ret_count, ledger_error *err)
{
    struct ldg_sql q;
    uint64_t count = 0;
    ldg_sql_begin(&q, ctx, "counting entries",
                  stream ? "SELECT count(*) FROM main.\"%T\" WHERE stream = ?1"
                         : "SELECT count(*) FROM main.\"%T\"",
                  err);
    if (stream)
        ldg_sql_text(&q, stream);
    if (ldg_sql_row(&q))
        count = (uint64_t)sqlite3_column_int64(q.stmt, 0);
    if (ldg_sql_end(&q) == LEDGER_OK)
        *ret_count = count;
    return q.rc;
}

/* clang-format off */
#define STAT_OF(where)                                                        \
    "SELECT n, first, last, "                                                 \
           "(SELECT created_at FROM main.\"%T\" WHERE id = first), "          \
           "(SELECT created_at FROM main.\"%T\" WHERE id = last) "            \
    "FROM (SELECT count(*) AS n, min(id) AS first, max(id) AS last "          \
          "FROM main.\"%T\" " where ")"
/* clang-format on */

ledger_rc ldg_sqlite_stat(void *ctx, const char *stream, ledger_stream_stat *ret_stat,
                          ledger_error *err)
{
    ledger_stream_stat stat = { .first_at_us = LEDGER_NO_TIME, .last_at_us = LEDGER_NO_TIME };
    int64_t *times[] = { &stat.first_at_us, &stat.last_at_us };
    struct ldg_sql q;
    ldg_sql_begin(&q, ctx, "reading statistics",
                  stream ? STAT_OF("WHERE stream = ?1") : STAT_OF(""), err);
    if (stream)
        ldg_sql_text(&q, stream);
    if (ldg_sql_row(&q)) {
        stat.count = (uint64_t)sqlite3_column_int64(q.stmt, 0);
        stat.first_id.number = sqlite3_column_int64(q.stmt, 1);
        stat.last_id.number = sqlite3_column_int64(q.stmt, 2);
    }
    for (int i = 0; q.rc == LEDGER_OK && i < 2; i++) {
        ledger_bytes text = ldg_sql_bytes(&q, 3 + i);
        if (text.data && !ldg_time_parse(text.data, text.size, times[i]))
            q.rc = ldg_sqlite_fail_row(ctx, sqlite3_column_int64(q.stmt, 1 + i), "created_at",
                                       NO_TIME_TEXT, err);
    }
    if (ldg_sql_end(&q) == LEDGER_OK)
        *ret_stat = stat;
    return q.rc;
}

/* Is column 0 a name? One that cannot be is of a row that others wrote, which is looked for. */
static ledger_rc check_name(struct ldg_sqlite *s, sqlite3_stmt *names, ledger_error *err)
{
    const char *name = (const char *)sqlite3_column_text(names, 0);
    const size_t size = (size_t)sqlite3_column_bytes(names, 0);
    const char *why;
    struct ldg_sql q;
    int64_t id = 0;

    if (!name)
        return ldg_fail_nomem(err);
    if (memchr(name, 0, size))
        why = "it holds a NUL character";
    else if (!ldg_utf8_valid(name, size))
        why = "not valid UTF-8";
    else
        return LEDGER_OK;
    ldg_sql_begin(&q, s, "looking for a row", "SELECT min(id) FROM main.\"%T\" WHERE stream = ?1",
                  err);
    ldg_sql_text_n(&q, name, size);
    if (ldg_sql_row(&q))
        id = sqlite3_column_int64(q.stmt, 0);
    return ldg_sql_end(&q) == LEDGER_OK ? ldg_sqlite_fail_row(s, id, "stream", why, err) : q.rc;
}

ledger_rc ldg_sqlite_list_streams(void *ctx, const char *after, size_t limit,
                                  ledger_names *ret_names, ledger_error *err)
{
    /* Each step jumps to the next name in the index: a stream of a million rows costs one step. */
    /* clang-format off */
    static const char text[] =
        "WITH RECURSIVE names(name) AS ("
            "SELECT CASE WHEN ?1 IS NULL THEN (SELECT min(stream) FROM main.\"%T\") "
                   "ELSE (SELECT min(stream) FROM main.\"%T\" WHERE stream > ?1) END "
            "UNION ALL "
            "SELECT (SELECT min(stream) FROM main.\"%T\" WHERE stream > name) "
            "FROM names WHERE name IS NOT NULL) "
        "SELECT name FROM names WHERE name IS NOT NULL LIMIT ?2";
    /* clang-format on */
    ledger_names names = { 0 };
    size_t capacity = 0;
    struct ldg_sql q;
    ldg_sql_begin(&q, ctx, "listing streams", text, err);
    ldg_sql_text(&q, after);
    ldg_sql_int(&q, (int64_t)(limit ? limit : LEDGER_READ_LIMIT_DEFAULT));
    while (ldg_sql_row(&q)) {
        q.rc = check_name(ctx, q.stmt, err);
        if (q.rc == LEDGER_OK)
            ldg_sql_add_name(&q, &names, &capacity);
    }
    if (ldg_sql_end(&q) == LEDGER_OK)
        *ret_names = names;
    else
        ledger_names_destroy(&names);
    return q.rc;
}

/* ?1 stream, ?2 text, ?3 number or NULL, in each. A table that cannot be changed may lack our
 * columns, or Go's. */
static const char *by_source_text(const struct ldg_sqlite *s)
{
    /* clang-format off */
    if (!s->has_source_id)
        return "SELECT id FROM main.\"%T\" WHERE 0 AND ?1 = ?2 AND ?3";
    if (!s->has_ours)
        return "SELECT id FROM main.\"%T\" WHERE source_id = ?2 AND source_id != '' "
               "AND stream = ?1 AND (?3 OR 1) LIMIT 1";
    return "SELECT id FROM main.\"%T\" "
           "WHERE origin IN (SELECT id FROM main.\"%T_origins\") "
           "AND source_pos = ?3 AND +stream = ?1 "
           "UNION ALL "
           "SELECT id FROM main.\"%T\" "
           "WHERE origin IN (SELECT id FROM main.\"%T_origins\") "
           "AND origin != 0 AND source_pos IS NULL AND source_id = ?2 AND +stream = ?1 "
           "UNION ALL "
           "SELECT id FROM main.\"%T\" "
           "WHERE source_id = ?2 AND source_id != '' AND stream = ?1 LIMIT 1";
    /* clang-format on */
}

ledger_rc ldg_sqlite_find_by_source_id(void *ctx, const char *stream, const char *source_id,
                                       ledger_id *ret_id, ledger_error *err)
{
    struct ldg_sql q;
    int64_t number = 0;
    ldg_sql_begin(&q, ctx, "looking for a bridged entry", by_source_text(ctx), err);
    ldg_sql_text(&q, stream);
    ldg_sql_text(&q, source_id);
    if (ldg_int64_parse(source_id, false, &number))
        ldg_sql_int(&q, number);
    else
        ldg_sql_text(&q, NULL);
    if (ldg_sql_row(&q))
        *ret_id = (ledger_id){ .number = sqlite3_column_int64(q.stmt, 0) };
    else if (q.rc == LEDGER_OK)
        q.rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND,
                        "stream \"%s\" has no entry with the id %s of another store", stream,
                        source_id);
    return ldg_sql_end(&q);
}

/* Nothing but what is asked for: another column of the row may be odd, and is not read. */
static ledger_rc fill_payload_only(const struct target *t, ledger_entry *ret_entry,
                                   ledger_error *err)
{
    enum { CREATED_AT = COL_LARGE_SIZE + 1 };
    ledger_entry e = {
        .id = { .number = sqlite3_column_int64(t->stmt, COL_ID) },
        .order_key = "",
        .dedup_key = "",
        .source_id = "",
        .origin = "",
        .updated_at_us = LEDGER_NO_TIME,
    };
    ledger_rc rc = get_text(t->s, t->stmt, COL_STREAM, "stream", t->arena, &e.stream, err);
    if (rc == LEDGER_ERR_DATA) /* no event can mean this row */
        return LEDGER_OK;
    if (rc == LEDGER_OK)
        rc = fill_payload(t, &e.payload, err);
    if (rc == LEDGER_OK)
        rc = fill_time(t, CREATED_AT, "created_at", &e.created_at_us, err);
    if (rc == LEDGER_OK)
        *ret_entry = e;
    return rc;
}

ledger_rc ldg_sqlite_entries_by_id(void *ctx, const ledger_id *ids, size_t count,
                                   struct ldg_arena *arena, ledger_entry **ret_entries,
                                   ledger_error *err)
{
    struct ldg_sql q;
    ledger_entry *entries = ldg_arena_calloc(arena, count, sizeof(*entries));
    if (!entries)
        return ldg_fail_nomem(err);
    ldg_sql_begin(&q, ctx, "reading an entry",
                  "SELECT id, stream, " LDG_SQLITE_SMALL_PAYLOAD ", " LDG_SQLITE_LARGE_SIZE
                  ", created_at FROM main.\"%T\" WHERE id = ?1",
                  err);
    const struct target target = { .s = ctx, .stmt = q.stmt, .arena = arena, .raw = true };
    for (size_t i = 0; i < count && q.rc == LEDGER_OK; i++) {
        ldg_sql_int(&q, ids[i].number);
        if (ldg_sql_row(&q))
            q.rc = fill_payload_only(&target, &entries[i], err);
        ldg_sql_again(&q);
    }
    if (ldg_sql_end(&q) == LEDGER_OK)
        *ret_entries = entries;
    return q.rc;
}

/* ?1 origin, ?2 key, ?3 stream, in each. */
static const char survivors_here[] = "SELECT id FROM main.\"%T\" WHERE stream = ?3 AND id <= ?2 "
                                     "AND +origin = ?1 AND +source_pos IS NULL ORDER BY id";
/* clang-format off */
/* [1]: keys that are texts. Where the origin's entries are in its order, the first one that a trim
 * leaves ends the search; texts never count as ordered. */
static const char *const survivors_of_origin[2] = {
    "SELECT source_pos FROM main.\"%T\" WHERE stream = ?3 AND id < "
        "coalesce(CASE WHEN (SELECT ordered FROM main.\"%T_origins\" WHERE id = ?1) THEN "
            "(SELECT id FROM main.\"%T\" WHERE stream = ?3 AND +origin = ?1 AND +source_pos > ?2 "
             "ORDER BY id LIMIT 1) END, 9223372036854775807) "
        "AND +origin = ?1 AND +source_pos <= ?2 "
    "UNION "
    "SELECT entry FROM main.\"%T_parked\" "
    "WHERE origin = ?1 AND entry > 0 AND entry <= ?2 AND +stream = ?3 ORDER BY 1",

    "SELECT source_id FROM main.\"%T\" WHERE stream = ?3 "
        "AND +origin = ?1 AND +source_id <= ?2 AND %I "
    "UNION "
    "SELECT entry_id FROM main.\"%T_parked\" "
    "WHERE origin = ?1 AND entry_id != '' AND entry_id <= ?2 AND +stream = ?3 ORDER BY 1",
};
/* clang-format on */

/* In the arena. */
static ledger_rc add_id(struct ldg_arena *arena, ledger_id id, ledger_id **ids, size_t *count,
                        size_t *capacity, ledger_error *err)
{
    *ids = ldg_arena_grow(arena, *ids, sizeof(**ids), *count, capacity);
    if (!*ids || !ldg_id_copy(id, arena, &(*ids)[*count]))
        return ldg_fail_nomem(err);
    (*count)++;
    return LEDGER_OK;
}

/* One writer at a time leaves none behind a trim, but an entry that was appended after it may have
 * an id at or before `before`, and the trim may be read again. Bridged entries come in any order,
 * those that were parked here latest of all. */
ledger_rc ldg_sqlite_trim_survivors(void *ctx, int origin, const char *stream, ledger_id before,
                                    struct ldg_arena *arena, ledger_id **ret_ids, size_t *ret_count,
                                    ledger_error *err)
{
    const struct ldg_sqlite *s = ctx;
    ledger_id *ids = NULL;
    size_t count = 0, capacity = 0;
    struct ldg_sql q;
    if (before.text && !s->parks_texts) { /* nor has it entries with such keys */
        *ret_ids = NULL;
        *ret_count = 0;
        return LEDGER_OK;
    }
    ldg_sql_begin_key(&q, ctx, "reading what a trim left",
                      origin ? survivors_of_origin[before.text != NULL] : survivors_here, origin,
                      before, err);
    ldg_sql_text(&q, stream);
    while (ldg_sql_row(&q)) {
        const ledger_id id = ldg_sql_key(&q, 0);
        if (q.rc == LEDGER_OK)
            q.rc = add_id(arena, id, &ids, &count, &capacity, err);
    }
    if (ldg_sql_end(&q) == LEDGER_OK) {
        *ret_ids = ids;
        *ret_count = count;
    }
    return q.rc;
}

/* --- history --------------------------------------------------------------------------------- */

struct history {
    struct ldg_sql q;
    struct target target;
    int origin;
    bool adopted; /* what the Go bridge left is among the origin's entries */
    struct ldg_history_row *rows;
    size_t count, limit, capacity, bytes, max_bytes; /* max_bytes 0: any */
    bool full;                                       /* the row at hand belongs to the next page */
};

static ledger_rc history_init(struct ldg_sqlite *s, int origin, size_t limit, size_t max_bytes,
                              struct ldg_arena *arena, struct history *h, ledger_error *err)
{
    int64_t adopted = 0;
    ledger_rc rc = LEDGER_OK;
    *h = (struct history){ .origin = origin, .limit = limit, .max_bytes = max_bytes };
    h->target = (struct target){ .s = s, .arena = arena, .raw = true };
    if (origin > 0)
        rc = ldg_sql_exec_ints(s, "looking for an origin",
                               "SELECT adopted FROM main.\"%T_origins\" WHERE id = ?1",
                               LDG_INTS(origin), &adopted, err);
    h->adopted = adopted != 0;
    return rc;
}

/* The statement's ?1 and ?2 are origin and key. */
static void history_begin(struct history *h, const char *text, ledger_id key, ledger_error *err)
{
    ldg_sql_begin_key(&h->q, h->target.s, "reading the history", text, h->origin, key, err);
    h->target.stmt = h->q.stmt;
}

/* False: of an origin, but no event can name it. */
static bool history_key(const struct history *h, ledger_id *ret_key)
{
    sqlite3_stmt *stmt = h->q.stmt;
    const char *text;
    if (h->origin <= 0 || sqlite3_column_type(stmt, COL_SOURCE_POS) != SQLITE_NULL) {
        *ret_key = ldg_id_of(sqlite3_column_int64(stmt, h->origin > 0 ? COL_SOURCE_POS : COL_ID));
        return true;
    }
    text = (const char *)sqlite3_column_text(stmt, COL_SOURCE_ID);
    return text && strlen(text) == (size_t)sqlite3_column_bytes(stmt, COL_SOURCE_ID) &&
           ldg_id_parse(text, ret_key) && ret_key->text;
}

static ledger_rc history_add(struct history *h, ledger_id key, ledger_error *err)
{
    sqlite3_stmt *stmt = h->q.stmt;
    struct ldg_history_row row = { 0 };
    ledger_entry *entry = ldg_arena_alloc(h->target.arena, sizeof(*entry));
    h->rows = ldg_arena_grow(h->target.arena, h->rows, sizeof(*h->rows), h->count, &h->capacity);
    if (!entry || !h->rows || !ldg_id_copy(key, h->target.arena, &row.key))
        return ldg_fail_nomem(err);
    ledger_rc rc = fill_entry(&h->target, entry, err);
    row.has_source_id = sqlite3_column_bytes(stmt, COL_SOURCE_ID) > 0 && (!key.text || h->adopted);
    row.entry = entry;
    if (rc == LEDGER_OK)
        h->rows[h->count++] = row;
    return rc;
}

/* Takes the rows that the statement gives now; the one that no longer fits is left. */
static void history_take(struct history *h, ledger_error *err)
{
    ledger_id key;
    while (!h->full && h->count < h->limit && ldg_sql_row(&h->q)) {
        sqlite3_stmt *stmt = h->q.stmt;
        if (!history_key(h, &key))
            continue;
        h->bytes += row_bytes(stmt);
        h->full = h->count > 0 && h->max_bytes > 0 && h->bytes > h->max_bytes;
        if (h->full)
            break;
        h->q.rc = history_add(h, key, err);
    }
}

/* ?2 after; ?1 origin, or not asked for. A log may carry what the Go bridge brought, so that is of
 * this table. */
static const char *history_text(const struct ldg_sqlite *s, int origin)
{
    /* clang-format off */
    if (origin > 0)
        return "SELECT %C FROM main.\"%T\" AS e WHERE origin = ?1 AND %K > ?2 AND %I ORDER BY %K";
    if (origin == 0)
        return s->has_ours
            ? "SELECT %C FROM main.\"%T\" AS e WHERE id > ?2 "
              "AND +origin = 0 AND +source_pos IS NULL ORDER BY id"
            : "SELECT %C FROM main.\"%T\" AS e WHERE id > ?2 ORDER BY id";
    if (!s->has_source_id)
        return "SELECT %C FROM main.\"%T\" AS e WHERE 0 AND ?1 = ?2";
    return s->has_ours
        ? "SELECT %C FROM main.\"%T\" AS e WHERE id > ?2 AND +origin = 0 "
          "AND +source_pos IS NULL AND +source_id != '' ORDER BY id"
        : "SELECT %C FROM main.\"%T\" AS e WHERE id > ?2 AND source_id != '' ORDER BY id";
    /* clang-format on */
}

ledger_rc ldg_sqlite_history(void *ctx, int origin, ledger_id after, size_t limit, size_t max_bytes,
                             struct ldg_arena *arena, struct ldg_history_row **ret_rows,
                             size_t *ret_count, ledger_error *err)
{
    static const ledger_id before_texts = { .text = "" };
    struct history h;
    ledger_rc rc = history_init(ctx, origin, limit, max_bytes, arena, &h, err);
    /* numbers come before texts */
    while (rc == LEDGER_OK) {
        history_begin(&h, history_text(ctx, origin), after, err);
        history_take(&h, err);
        rc = ldg_sql_end(&h.q);
        if (origin <= 0 || after.text || h.full || h.count == limit)
            break;
        after = before_texts;
    }
    if (rc == LEDGER_OK) {
        *ret_rows = h.rows;
        *ret_count = h.count;
    }
    return rc;
}

/* ?1 origin, or not asked for; ?2 key */
static const char *history_of_text(const struct ldg_sqlite *s, int origin)
{
    if (origin)
        return "SELECT %C FROM main.\"%T\" AS e WHERE origin = ?1 AND %K = ?2 AND %I";
    return s->has_ours ? "SELECT %C FROM main.\"%T\" AS e "
                         "WHERE id = ?2 AND +origin = 0 AND +source_pos IS NULL"
                       : "SELECT %C FROM main.\"%T\" AS e WHERE id = ?2";
}

ledger_rc ldg_sqlite_history_of(void *ctx, int origin, const ledger_id *keys, size_t count,
                                size_t max_bytes, struct ldg_arena *arena,
                                struct ldg_history_row **ret_rows, size_t *ret_count,
                                ledger_error *err)
{
    struct history h;
    ledger_rc rc = history_init(ctx, origin, SIZE_MAX, max_bytes, arena, &h, err);
    for (size_t i = 0; rc == LEDGER_OK && i < count && !h.full; i++) {
        history_begin(&h, history_of_text(ctx, origin), keys[i], err);
        history_take(&h, err);
        rc = ldg_sql_end(&h.q);
    }
    if (rc == LEDGER_OK) {
        *ret_rows = h.rows;
        *ret_count = h.count;
    }
    return rc;
}
