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

int ldg_sqlite_bind_text(sqlite3_stmt *stmt, int index, const char *text)
{
    return sqlite3_bind_text(stmt, index, text, -1, SQLITE_STATIC);
}

ledger_rc ldg_sqlite_fail_row(const struct ldg_sqlite *s, int64_t id, const char *column,
                              const char *why, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_DATA,
                    "table \"%s\", row %lld: column %s is damaged (%s); correct it with an UPDATE, "
                    "or delete the row",
                    s->table, (long long)id, column, why);
}

/* Columns of %C, sql.c. */
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
        return ldg_sqlite_fail_row(s, sqlite3_column_int64(stmt, COL_ID), name,
                                   "no time of the form 2006-01-02T15:04:05.000", err);
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

static ledger_rc prepare_read(struct ldg_sqlite *s, const char *stream,
                              const ledger_read_options *o, bool filtered, size_t limit,
                              sqlite3_stmt **ret_stmt, ledger_error *err)
{
    sqlite3_stmt *stmt = NULL;
    char *sql = NULL;
    ledger_rc result = LEDGER_OK;
    sqlite3_str *text = sqlite3_str_new(s->db);
    sqlite3_str_appendall(text, "SELECT %C FROM main.\"%T\" AS e WHERE 1");
    if (stream)
        sqlite3_str_appendall(text, " AND stream = ?1");
    if (o->has_after)
        sqlite3_str_appendall(text, o->descending ? " AND id < ?2" : " AND id > ?2");
    if (o->order_key && *o->order_key)
        sqlite3_str_appendall(text, " AND order_key = ?3");
    sqlite3_str_appendall(text, o->descending ? " ORDER BY id DESC" : " ORDER BY id");
    if (!filtered)
        sqlite3_str_appendall(text, " LIMIT ?4");
    char *pattern = sqlite3_str_finish(text);
    if (pattern)
        sql = ldg_sqlite_expand(s, pattern);
    if (!sql) {
        result = ldg_fail_nomem(err);
        goto out;
    }
    int rc = sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK && stream)
        rc = ldg_sqlite_bind_text(stmt, 1, stream);
    if (rc == SQLITE_OK && o->has_after)
        rc = sqlite3_bind_int64(stmt, 2, o->after.number);
    if (rc == SQLITE_OK && o->order_key && *o->order_key)
        rc = ldg_sqlite_bind_text(stmt, 3, o->order_key);
    if (rc == SQLITE_OK && !filtered)
        rc = sqlite3_bind_int64(stmt, 4, (sqlite3_int64)limit);
    if (rc != SQLITE_OK)
        result = ldg_sqlite_fail(s, rc, "reading entries", err);
out:
    if (result == LEDGER_OK)
        *ret_stmt = stmt;
    else
        sqlite3_finalize(stmt);
    sqlite3_free(pattern);
    sqlite3_free(sql);
    return result;
}

/* Makes room for one item more in an array of the arena. */
static bool grow(struct ldg_arena *arena, void **items, size_t item_size, size_t count,
                 size_t *capacity)
{
    if (count < *capacity)
        return true;
    size_t next = *capacity ? *capacity * 2 : 16;
    void *more = ldg_arena_alloc(arena, next * item_size);
    if (!more)
        return false;
    if (count)
        memcpy(more, *items, count * item_size);
    *items = more;
    *capacity = next;
    return true;
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
    void *entries = NULL;
    struct needle needle = { 0 };
    sqlite3_stmt *stmt = NULL;
    int step = SQLITE_ROW;
    ledger_rc rc = ldg_sqlite_file_look(s, false, err);
    if (rc == LEDGER_OK && search)
        rc = needle_init(&needle, search, err);
    if (rc == LEDGER_OK)
        rc = prepare_read(s, stream, o, filtered, limit, &stmt, err);
    const struct target target = { .s = s, .stmt = stmt, .arena = arena };
    while (rc == LEDGER_OK && count < limit && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
        bool match = true;
        if (filtered)
            rc = matches(s, stmt, o, &needle, &match, err);
        if (rc != LEDGER_OK || !match)
            continue;
        bytes += row_bytes(stmt);
        if (count && bytes > max_bytes)
            break;
        if (!grow(arena, &entries, sizeof(ledger_entry), count, &capacity))
            rc = ldg_fail_nomem(err);
        else
            rc = fill_entry(&target, (ledger_entry *)entries + count, err);
        count += rc == LEDGER_OK;
    }
    if (rc == LEDGER_OK && step != SQLITE_ROW && step != SQLITE_DONE)
        rc = ldg_sqlite_fail(s, step, "reading entries", err);
    sqlite3_finalize(stmt);
    needle_fini(&needle);
    if (rc == LEDGER_OK) {
        *ret_entries = entries;
        *ret_count = count;
    }
    return rc;
}

ledger_rc ldg_sqlite_count(void *ctx, const char *stream, uint64_t *ret_count, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    ledger_rc result = LEDGER_OK;
    sqlite3_stmt *stmt =
        ldg_sqlite_stmt(s, stream ? LDG_STMT_COUNT_STREAM : LDG_STMT_COUNT_ALL, err);
    if (!stmt)
        return err->code;
    int rc = stream ? ldg_sqlite_bind_text(stmt, 1, stream) : SQLITE_OK;
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        *ret_count = (uint64_t)sqlite3_column_int64(stmt, 0);
    else
        result = ldg_sqlite_fail(s, rc, "counting entries", err);
    sqlite3_reset(stmt);
    return result;
}

ledger_rc ldg_sqlite_stat(void *ctx, const char *stream, ledger_stream_stat *ret_stat,
                          ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    ledger_stream_stat stat = { .first_at_us = LEDGER_NO_TIME, .last_at_us = LEDGER_NO_TIME };
    ledger_rc result = LEDGER_OK;
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, stream ? LDG_STMT_STAT_STREAM : LDG_STMT_STAT_ALL, err);
    if (!stmt)
        return err->code;
    int rc = stream ? ldg_sqlite_bind_text(stmt, 1, stream) : SQLITE_OK;
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc != SQLITE_ROW) {
        result = ldg_sqlite_fail(s, rc, "reading statistics", err);
    } else {
        stat.count = (uint64_t)sqlite3_column_int64(stmt, 0);
        stat.first_id.number = sqlite3_column_int64(stmt, 1);
        stat.last_id.number = sqlite3_column_int64(stmt, 2);
        int64_t *times[] = { &stat.first_at_us, &stat.last_at_us };
        for (int i = 0; result == LEDGER_OK && i < 2; i++) {
            ledger_bytes text = column_bytes(stmt, 3 + i);
            if (text.size && (!text.data || !ldg_time_parse(text.data, text.size, times[i])))
                result = ldg_sqlite_fail_row(s, sqlite3_column_int64(stmt, 1 + i), "created_at",
                                             "no time of the form 2006-01-02T15:04:05.000", err);
        }
    }
    sqlite3_reset(stmt);
    if (result == LEDGER_OK)
        *ret_stat = stat;
    return result;
}

/* A copy of the name in column 0. One that cannot be a name is of a row that others wrote, which is
 * looked for. */
static ledger_rc copy_name(struct ldg_sqlite *s, sqlite3_stmt *stmt, char **ret_name,
                           ledger_error *err)
{
    const char *name = (const char *)sqlite3_column_text(stmt, 0);
    const size_t size = (size_t)sqlite3_column_bytes(stmt, 0);
    const char *why = NULL;
    int64_t id = 0;

    if (!name)
        return ldg_fail_nomem(err);
    if (memchr(name, 0, size))
        why = "it holds a NUL character";
    else if (!ldg_utf8_valid(name, size))
        why = "not valid UTF-8";
    if (why) {
        sqlite3_stmt *find = ldg_sqlite_stmt(s, LDG_STMT_STREAM_ROW, err);
        if (!find)
            return err->code;
        if (sqlite3_bind_text(find, 1, name, (int)size, SQLITE_STATIC) == SQLITE_OK &&
            sqlite3_step(find) == SQLITE_ROW)
            id = sqlite3_column_int64(find, 0);
        sqlite3_reset(find);
        return ldg_sqlite_fail_row(s, id, "stream", why, err);
    }
    *ret_name = ldg_strdup(name);
    return *ret_name ? LEDGER_OK : ldg_fail_nomem(err);
}

ledger_rc ldg_sqlite_list_streams(void *ctx, const char *after, size_t limit,
                                  ledger_names *ret_names, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    ledger_names names = { 0 };
    size_t capacity = 0;
    ledger_rc result = LEDGER_OK;
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_LIST_STREAMS, err);
    if (!stmt)
        return err->code;
    int rc = after ? ldg_sqlite_bind_text(stmt, 1, after) : sqlite3_bind_null(stmt, 1);
    if (rc == SQLITE_OK)
        rc =
            sqlite3_bind_int64(stmt, 2, (sqlite3_int64)(limit ? limit : LEDGER_READ_LIMIT_DEFAULT));
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(stmt);
        if (rc != SQLITE_ROW)
            break;
        if (names.count == capacity) {
            size_t next = capacity ? capacity * 2 : 16;
            char **more = ldg_realloc(names.items, next * sizeof(*more));
            if (!more) {
                result = ldg_fail_nomem(err);
                break;
            }
            names.items = more;
            capacity = next;
        }
        result = copy_name(s, stmt, &names.items[names.count], err);
        if (result != LEDGER_OK)
            break;
        names.count++;
    }
    if (result == LEDGER_OK && rc != SQLITE_DONE)
        result = ldg_sqlite_fail(s, rc, "listing streams", err);
    sqlite3_reset(stmt);
    if (result == LEDGER_OK)
        *ret_names = names;
    else
        ledger_names_destroy(&names);
    return result;
}

ledger_rc ldg_sqlite_find_by_source_id(void *ctx, const char *stream, const char *source_id,
                                       ledger_id *ret_id, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    int64_t number = 0;
    ledger_rc result = LEDGER_OK;
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_FIND_BY_SOURCE, err);
    if (!stmt)
        return err->code;
    int rc = SQLITE_OK;
    if (sqlite3_bind_parameter_count(stmt) >= 1)
        rc = ldg_sqlite_bind_text(stmt, 1, stream);
    if (rc == SQLITE_OK && sqlite3_bind_parameter_count(stmt) >= 2)
        rc = ldg_sqlite_bind_text(stmt, 2, source_id);
    if (rc == SQLITE_OK && sqlite3_bind_parameter_count(stmt) >= 3)
        rc = ldg_int64_parse(source_id, false, &number) ? sqlite3_bind_int64(stmt, 3, number)
                                                        : sqlite3_bind_null(stmt, 3);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        *ret_id = (ledger_id){ .number = sqlite3_column_int64(stmt, 0) };
    else if (rc == SQLITE_DONE)
        result = ldg_fail(err, LEDGER_ERR_NOT_FOUND,
                          "stream \"%s\" has no entry with the id %s of another store", stream,
                          source_id);
    else
        result = ldg_sqlite_fail(s, rc, "looking for a bridged entry", err);
    sqlite3_reset(stmt);
    return result;
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

ledger_rc ldg_sqlite_entries_by_id(void *ctx, const int64_t *ids, size_t count,
                                   struct ldg_arena *arena, ledger_entry **ret_entries,
                                   ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    ledger_rc result = LEDGER_OK;
    ledger_entry *entries = ldg_arena_calloc(arena, count, sizeof(*entries));
    if (!entries)
        return ldg_fail_nomem(err);
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_GET_PAYLOAD, err);
    if (!stmt)
        return err->code;
    const struct target target = { .s = s, .stmt = stmt, .arena = arena, .raw = true };
    for (size_t i = 0; i < count && result == LEDGER_OK; i++) {
        int rc = sqlite3_bind_int64(stmt, 1, ids[i]);
        if (rc == SQLITE_OK)
            rc = sqlite3_step(stmt);
        if (rc == SQLITE_ROW)
            result = fill_payload_only(&target, &entries[i], err);
        else if (rc != SQLITE_DONE)
            result = ldg_sqlite_fail(s, rc, "reading an entry", err);
        sqlite3_reset(stmt);
    }
    if (result == LEDGER_OK)
        *ret_entries = entries;
    return result;
}

/* One writer at a time leaves none behind a trim, but an entry that was appended after it may have
 * an id at or before `before`, and the trim may be read again. Bridged entries come in any order,
 * those that were parked here latest of all. */
ledger_rc ldg_sqlite_trim_kept(void *ctx, int origin, const char *stream, int64_t before,
                               struct ldg_arena *arena, int64_t **ret_ids, size_t *ret_count,
                               ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    int64_t *ids = NULL;
    size_t count = 0, capacity = 0;
    ledger_rc result = LEDGER_OK;
    sqlite3_stmt *stmt =
        ldg_sqlite_stmt(s, origin ? LDG_STMT_TRIM_KEPT_ORIGIN : LDG_STMT_TRIM_KEPT, err);
    if (!stmt)
        return err->code;
    int rc = ldg_sqlite_bind_text(stmt, 1, stream);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 2, before);
    if (rc == SQLITE_OK && origin)
        rc = sqlite3_bind_int(stmt, 3, origin);
    while (rc == SQLITE_OK && result == LEDGER_OK && sqlite3_step(stmt) == SQLITE_ROW) {
        if (count == capacity) {
            size_t next = capacity ? capacity * 2 : 16;
            int64_t *more = ldg_arena_calloc(arena, next, sizeof(*more));
            if (!more) {
                result = ldg_fail_nomem(err);
                break;
            }
            if (count)
                memcpy(more, ids, count * sizeof(*more));
            ids = more;
            capacity = next;
        }
        ids[count++] = sqlite3_column_int64(stmt, 0);
    }
    rc = rc == SQLITE_OK ? sqlite3_reset(stmt) : rc;
    if (result == LEDGER_OK && rc != SQLITE_OK)
        result = ldg_sqlite_fail(s, rc, "reading what a trim left", err);
    sqlite3_reset(stmt);
    if (result == LEDGER_OK) {
        *ret_ids = ids;
        *ret_count = count;
    }
    return result;
}

struct history {
    struct target target;
    int origin;
    void *rows;
    size_t count, capacity, bytes, max_bytes; /* max_bytes 0: any */
    bool full;                                /* the row at hand belongs to the next page */
};

static ledger_rc history_begin(struct ldg_sqlite *s, enum ldg_sqlite_stmt_id id, int origin,
                               size_t max_bytes, struct ldg_arena *arena, struct history *h,
                               ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, id, err);

    *h = (struct history){ .target = { .s = s, .stmt = stmt, .arena = arena, .raw = true },
                           .origin = origin,
                           .max_bytes = max_bytes };
    return stmt != NULL ? LEDGER_OK : err->code;
}

/* Takes the rows that the statement gives now; the one that no longer fits is left. */
static ledger_rc history_take(struct history *h, ledger_error *err)
{
    sqlite3_stmt *stmt = h->target.stmt;
    ledger_rc result = LEDGER_OK;
    int rc = SQLITE_ROW;

    while (result == LEDGER_OK && !h->full && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        h->bytes += row_bytes(stmt);
        h->full = h->count > 0 && h->max_bytes > 0 && h->bytes > h->max_bytes;
        if (h->full)
            break;
        ledger_entry *entry = ldg_arena_alloc(h->target.arena, sizeof(*entry));
        if (!entry || !grow(h->target.arena, &h->rows, sizeof(struct ldg_history_row), h->count,
                            &h->capacity)) {
            result = ldg_fail_nomem(err);
            break;
        }
        result = fill_entry(&h->target, entry, err);
        if (result == LEDGER_OK)
            ((struct ldg_history_row *)h->rows)[h->count++] = (struct ldg_history_row){
                .source_pos =
                    h->origin > 0 ? sqlite3_column_int64(stmt, COL_SOURCE_POS) : entry->id.number,
                .has_source_id = sqlite3_column_bytes(stmt, COL_SOURCE_ID) > 0,
                .entry = entry,
            };
    }
    if (result == LEDGER_OK && rc != SQLITE_ROW && rc != SQLITE_DONE)
        result = ldg_sqlite_fail(h->target.s, rc, "reading the history", err);
    sqlite3_reset(stmt);
    return result;
}

ledger_rc ldg_sqlite_history(void *ctx, int origin, int64_t after, size_t limit, size_t max_bytes,
                             struct ldg_arena *arena, struct ldg_history_row **ret_rows,
                             size_t *ret_count, ledger_error *err)
{
    struct history h;
    ledger_rc result = history_begin(ctx,
                                     origin > 0   ? LDG_STMT_HISTORY_ORIGIN
                                     : origin < 0 ? LDG_STMT_HISTORY_UNCLAIMED
                                                  : LDG_STMT_HISTORY_LOCAL,
                                     origin, max_bytes, arena, &h, err);
    if (result != LEDGER_OK)
        return result;
    int rc = sqlite3_bind_int64(h.target.stmt, 1, after);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(h.target.stmt, 2, (sqlite3_int64)limit);
    if (rc == SQLITE_OK && origin > 0)
        rc = sqlite3_bind_int(h.target.stmt, 3, origin);
    result = rc == SQLITE_OK ? history_take(&h, err)
                             : ldg_sqlite_fail(ctx, rc, "reading the history", err);
    if (result == LEDGER_OK) {
        *ret_rows = h.rows;
        *ret_count = h.count;
    }
    return result;
}

ledger_rc ldg_sqlite_history_of(void *ctx, int origin, const int64_t *positions, size_t count,
                                size_t max_bytes, struct ldg_arena *arena,
                                struct ldg_history_row **ret_rows, size_t *ret_count,
                                ledger_error *err)
{
    struct history h;
    ledger_rc result =
        history_begin(ctx, origin ? LDG_STMT_HISTORY_ORIGIN_OF : LDG_STMT_HISTORY_LOCAL_OF, origin,
                      max_bytes, arena, &h, err);
    for (size_t i = 0; result == LEDGER_OK && i < count && !h.full; i++) {
        int rc = sqlite3_bind_int64(h.target.stmt, 1, positions[i]);
        if (rc == SQLITE_OK && origin)
            rc = sqlite3_bind_int(h.target.stmt, 2, origin);
        result = rc == SQLITE_OK ? history_take(&h, err)
                                 : ldg_sqlite_fail(ctx, rc, "reading the history", err);
    }
    if (result == LEDGER_OK) {
        *ret_rows = h.rows;
        *ret_count = h.count;
    }
    return result;
}
