/* The data: databases by name, their tables, rows and indexes, and who sees what.
 *
 * Invariant: the list of databases has its own mutex, which is never held while a database's is
 * waited for. Rows stand in their arrays by ascending id from the moment they are written; dead
 * ones are swept when they are many and no snapshot can see them. */
#include "backend/memory/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

static pthread_mutex_t dbs_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct ldg_mem_db *dbs;

/* --- databases ------------------------------------------------------------------------------- */

static struct ldg_mem_db *db_new(const char *name)
{
    static const char text_ids[] = "?ids=text";
    size_t size = strlen(name) + 1;
    struct ldg_mem_db *db = ldg_calloc(1, sizeof(*db) + size);
    if (!db)
        return NULL;
    memcpy(db->name, name, size);
    db->cluster = 1;
    db->text_ids = size > sizeof(text_ids) && strcmp(name + size - sizeof(text_ids), text_ids) == 0;
    if (pthread_mutex_init(&db->mutex, NULL) != 0) {
        ldg_free(db);
        return NULL;
    }
    return db;
}

struct ldg_mem_db *ldg_mem_db_ref(const char *name, bool create)
{
    pthread_mutex_lock(&dbs_mutex);
    struct ldg_mem_db *db = dbs;
    while (db && strcmp(db->name, name) != 0)
        db = db->next;
    if (!db && create && (db = db_new(name))) {
        db->next = dbs;
        dbs = db;
    }
    if (db)
        db->refs++;
    pthread_mutex_unlock(&dbs_mutex);
    return db;
}

static void db_free(struct ldg_mem_db *db)
{
    while (db->tables) {
        struct ldg_mem_table *table = db->tables;
        db->tables = table->next;
        ldg_mem_table_clear(table);
        ldg_free(table);
    }
    while (db->logs) {
        struct ldg_mem_log *log = db->logs;
        db->logs = log->next;
        ldg_mem_log_clear(log);
        ldg_free(log);
    }
    pthread_mutex_destroy(&db->mutex);
    ldg_free(db);
}

void ldg_mem_db_unref(struct ldg_mem_db *db)
{
    bool last = false;
    pthread_mutex_lock(&dbs_mutex);
    if (--db->refs == 0) {
        struct ldg_mem_db **at = &dbs;
        while (*at != db)
            at = &(*at)->next;
        *at = db->next;
        last = true;
    }
    pthread_mutex_unlock(&dbs_mutex);
    if (last)
        db_free(db);
}

struct ldg_mem_table *ldg_mem_table_find(struct ldg_mem_db *db, const char *name)
{
    struct ldg_mem_table *table = db->tables;
    while (table && strcmp(table->name, name) != 0)
        table = table->next;
    return table;
}

struct ldg_mem_table *ldg_mem_table_create(struct ldg_mem_db *db, const char *name)
{
    size_t size = strlen(name) + 1;
    struct ldg_mem_table *table = ldg_calloc(1, sizeof(*table) + size);
    if (!table)
        return NULL;
    memcpy(table->name, name, size);
    ldg_uuid_new(table->identity.uuid);
    table->identity.epoch = 1;
    table->next = db->tables;
    db->tables = table;
    return table;
}

struct ldg_mem_log *ldg_mem_log_find(struct ldg_mem_db *db, const char *name)
{
    struct ldg_mem_log *log = db->logs;
    while (log && strcmp(log->name, name) != 0)
        log = log->next;
    return log;
}

struct ldg_mem_log *ldg_mem_log_create(struct ldg_mem_db *db, const char *name)
{
    size_t size = strlen(name) + 1;
    struct ldg_mem_log *log = ldg_calloc(1, sizeof(*log) + size);
    if (!log)
        return NULL;
    memcpy(log->name, name, size);
    log->next = db->logs;
    db->logs = log;
    return log;
}

void ldg_mem_row_free(struct ldg_mem_row *row)
{
    while (row->version) {
        struct ldg_mem_version *version = row->version;
        row->version = version->next;
        ldg_free(version);
    }
    ldg_free(row->pending);
    ldg_free(row);
}

void ldg_mem_log_clear(struct ldg_mem_log *log)
{
    for (size_t i = 0; i < log->count; i++)
        ldg_free(log->rows[i]);
    ldg_free(log->rows);
    log->rows = NULL;
    log->count = log->cap = 0;
    log->last_position = log->seq = 0;
}

static void cursors_free(struct ldg_mem_table *table)
{
    while (table->cursors) {
        struct ldg_mem_cursor *cursor = table->cursors;
        table->cursors = cursor->next;
        while (cursor->value) {
            struct ldg_mem_cursor_value *value = cursor->value;
            cursor->value = value->next;
            ldg_free(value);
        }
        ldg_free(cursor->pending);
        ldg_free(cursor);
    }
}

void ldg_mem_table_clear(struct ldg_mem_table *table)
{
    for (size_t i = 0; i < table->rows.count; i++)
        ldg_mem_row_free(table->rows.items[i]);
    ldg_free(table->rows.items);
    for (size_t i = 0; i < table->stream_bucket_count; i++) {
        while (table->streams[i]) {
            struct ldg_mem_stream *stream = table->streams[i];
            table->streams[i] = stream->next;
            ldg_free(stream->rows.items);
            ldg_free(stream);
        }
    }
    ldg_free(table->streams);
    ldg_free(table->sorted_streams);
    for (size_t i = 0; i < LDG_MEM_INDEX_COUNT; i++)
        ldg_free(table->indexes[i].buckets);
    for (size_t i = 0; i < table->origin_count; i++) {
        ldg_free(table->origins[i].name);
        ldg_free(table->origins[i].rows.items);
    }
    ldg_free(table->origins);
    cursors_free(table);
    for (size_t i = 0; i < table->parked_count; i++) {
        ldg_free(table->parked[i]->reason);
        ldg_free(table->parked[i]);
    }
    ldg_free(table->parked);

    table->rows = (struct ldg_mem_rows){ 0 };
    table->dead_count = 0;
    table->streams = NULL;
    table->stream_bucket_count = table->stream_count = 0;
    table->sorted_streams = NULL;
    table->sorted_count = 0;
    memset(table->indexes, 0, sizeof(table->indexes));
    table->origins = NULL;
    table->origin_count = 0;
    table->parked = NULL;
    table->parked_count = table->parked_cap = 0;
    table->last_id = table->last_parked_id = 0;
}

/* --- what a transaction sees ----------------------------------------------------------------- */

enum ldg_mem_state ldg_mem_state(const struct ldg_mem_stamp *stamp, const struct ldg_mem_tx *tx)
{
    if (stamp->created_by && stamp->created_by != tx)
        return LDG_MEM_FOREIGN;
    if ((!stamp->created_by && stamp->created_seq == 0) || stamp->deleted_seq != 0)
        return LDG_MEM_GONE;
    if (stamp->deleting)
        return stamp->locked_by == tx ? LDG_MEM_GONE : LDG_MEM_FOREIGN;
    return LDG_MEM_LIVE;
}

bool ldg_mem_visible(const struct ldg_mem_stamp *stamp, const struct ldg_mem_tx *tx, int64_t seq)
{
    if (stamp->created_by)
        return stamp->created_by == tx && !stamp->deleting;
    if (stamp->created_seq == 0 || stamp->created_seq > seq)
        return false;
    if (stamp->deleted_seq != 0 && stamp->deleted_seq <= seq)
        return false;
    return !(stamp->deleting && stamp->locked_by == tx);
}

const struct ldg_mem_version *ldg_mem_version_seen(const struct ldg_mem_row *row,
                                                   const struct ldg_mem_tx *tx, int64_t seq)
{
    if (row->pending && row->stamp.locked_by == tx)
        return row->pending;
    const struct ldg_mem_version *version = row->version;
    while (version->seq > seq && version->next)
        version = version->next;
    return version;
}

int64_t ldg_mem_seq(const struct ldg_memory *m)
{
    return m->in_snapshot ? m->snapshot_seq : LDG_MEM_NOW;
}

ledger_rc ldg_mem_fail_locked(const char *what, ledger_error *err)
{
    return ldg_fail_native(err, LEDGER_ERR_BUSY, "memory", 0, "%s is held by another transaction",
                           what);
}

int64_t ldg_mem_trunc_ms(int64_t time_us)
{
    int64_t rest = time_us % 1000;
    return time_us - (rest < 0 ? rest + 1000 : rest);
}

int64_t ldg_mem_now_us(void)
{
    return ldg_mem_trunc_ms(ldg_clock_now_us());
}

/* --- look-ups -------------------------------------------------------------------------------- */

struct ldg_mem_stream *ldg_mem_stream_find(const struct ldg_mem_table *table, const char *name)
{
    if (table->stream_bucket_count == 0)
        return NULL;
    uint64_t hash = ldg_hash64(name, strlen(name), 0);
    struct ldg_mem_stream *stream = table->streams[hash & (table->stream_bucket_count - 1)];
    while (stream && (stream->hash != hash || strcmp(stream->name, name) != 0))
        stream = stream->next;
    return stream;
}

static int compare_streams(const void *a, const void *b)
{
    const struct ldg_mem_stream *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

struct ldg_mem_stream **ldg_mem_streams_sorted(struct ldg_mem_table *table)
{
    if (table->sorted_count == table->stream_count)
        return table->sorted_streams;
    struct ldg_mem_stream **sorted =
        ldg_realloc(table->sorted_streams, table->stream_count * sizeof(struct ldg_mem_stream *));
    if (!sorted)
        return NULL;
    size_t count = 0;
    for (size_t i = 0; i < table->stream_bucket_count; i++) {
        for (struct ldg_mem_stream *stream = table->streams[i]; stream; stream = stream->next)
            sorted[count++] = stream;
    }
    qsort(sorted, count, sizeof(*sorted), compare_streams);
    table->sorted_streams = sorted;
    table->sorted_count = count;
    return sorted;
}

size_t ldg_mem_rows_after(const struct ldg_mem_rows *rows, int64_t id)
{
    size_t low = 0, high = rows->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (rows->items[middle]->id <= id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct ldg_mem_row *ldg_mem_row_by_id(const struct ldg_mem_table *table, int64_t id)
{
    size_t after = ldg_mem_rows_after(&table->rows, id);
    return after && table->rows.items[after - 1]->id == id ? table->rows.items[after - 1] : NULL;
}

uint64_t ldg_mem_hash_dedup(const struct ldg_mem_stream *stream, const char *dedup_key)
{
    return ldg_hash64(dedup_key, strlen(dedup_key), stream->hash);
}

uint64_t ldg_mem_hash_origin(int origin, ledger_id key)
{
    return ldg_id_hash(key, (uint64_t)origin);
}

uint64_t ldg_mem_hash_source(const char *source_id)
{
    return ldg_hash64(source_id, strlen(source_id), 1);
}

struct ldg_mem_row *ldg_mem_index_next(const struct ldg_mem_table *table, int index, uint64_t hash,
                                       const struct ldg_mem_row *row)
{
    const struct ldg_mem_index *ix = &table->indexes[index];
    struct ldg_mem_row *next;
    if (row)
        next = row->link[index];
    else
        next = ix->bucket_count ? ix->buckets[hash & (ix->bucket_count - 1)] : NULL;
    while (next && next->hash[index] != hash)
        next = next->link[index];
    return next;
}

static ledger_rc index_grow(struct ldg_mem_index *ix, int index, ledger_error *err)
{
    size_t bucket_count = ix->bucket_count ? ix->bucket_count * 2 : 64;
    struct ldg_mem_row **buckets = ldg_calloc(bucket_count, sizeof(*buckets));
    if (!buckets)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < ix->bucket_count; i++) {
        while (ix->buckets[i]) {
            struct ldg_mem_row *row = ix->buckets[i];
            size_t at = row->hash[index] & (bucket_count - 1);
            ix->buckets[i] = row->link[index];
            row->link[index] = buckets[at];
            buckets[at] = row;
        }
    }
    ldg_free(ix->buckets);
    ix->buckets = buckets;
    ix->bucket_count = bucket_count;
    return LEDGER_OK;
}

ledger_rc ldg_mem_index_add(struct ldg_mem_table *table, int index, struct ldg_mem_row *row,
                            uint64_t hash, ledger_error *err)
{
    struct ldg_mem_index *ix = &table->indexes[index];
    if (ix->count >= ix->bucket_count) {
        ledger_rc rc = index_grow(ix, index, err);
        if (rc != LEDGER_OK)
            return rc;
    }
    struct ldg_mem_row **bucket = &ix->buckets[hash & (ix->bucket_count - 1)];
    row->hash[index] = hash;
    row->link[index] = *bucket;
    row->indexed[index] = true;
    *bucket = row;
    ix->count++;
    return LEDGER_OK;
}

void ldg_mem_index_remove(struct ldg_mem_table *table, int index, struct ldg_mem_row *row)
{
    struct ldg_mem_index *ix = &table->indexes[index];
    if (!row->indexed[index])
        return;
    struct ldg_mem_row **at = &ix->buckets[row->hash[index] & (ix->bucket_count - 1)];
    while (*at != row)
        at = &(*at)->link[index];
    *at = row->link[index];
    row->indexed[index] = false;
    ix->count--;
}

/* The first digits are of no number that fits 64 bits. */
ledger_id ldg_mem_id(const struct ldg_memory *m, int64_t number, char text[LEDGER_ID_TEXT_MAX])
{
    if (!m->db->text_ids || number == 0)
        return ldg_id_of(number);
    snprintf(text, LEDGER_ID_TEXT_MAX, "65f0a1b2%016" PRIx64, (uint64_t)number);
    return (ledger_id){ .text = text };
}

ledger_id ldg_mem_id_in(const struct ldg_memory *m, int64_t number, struct ldg_arena *arena)
{
    char text[LEDGER_ID_TEXT_MAX];
    ledger_id id = ldg_mem_id(m, number, text);
    return ldg_id_copy(id, arena, &id) ? id : ldg_id_of(0);
}

int64_t ldg_mem_id_floor(const struct ldg_memory *m, ledger_id id)
{
    char text[LEDGER_ID_TEXT_MAX];
    int64_t low = 0, high = INT64_MAX;
    if (!m->db->text_ids)
        return id.text ? 0 : id.number;
    while (id.text && low < high) {
        const int64_t middle = high - (high - low) / 2;
        if (ldg_id_is_up_to(ldg_mem_id(m, middle, text), id))
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

struct ldg_mem_row *ldg_mem_row_of(const struct ldg_memory *m, ledger_id id)
{
    char text[LEDGER_ID_TEXT_MAX];
    const int64_t number = ldg_mem_id_floor(m, id);
    return number > 0 && ldg_id_equal(ldg_mem_id(m, number, text), id)
               ? ldg_mem_row_by_id(m->table, number)
               : NULL;
}

const char *ldg_mem_row_source_id(const struct ldg_mem_row *row, char text[LEDGER_ID_TEXT_MAX])
{
    if (*row->source_id)
        return row->source_id;
    return row->origin == 0 || ldg_id_is_none(row->key) ? "" : ldg_id_text(row->key, text);
}

void ldg_mem_origin_text(const struct ldg_mem_table *table, int origin,
                         char text[LDG_MEM_ORIGIN_TEXT_MAX])
{
    const struct ldg_identity *identity =
        origin == 0 ? &table->identity : &table->origins[origin - 1].identity;
    snprintf(text, LDG_MEM_ORIGIN_TEXT_MAX, "%s:%lld", identity->uuid, (long long)identity->epoch);
}

struct ldg_mem_cursor *ldg_mem_cursor_find(const struct ldg_mem_table *table, const char *name)
{
    struct ldg_mem_cursor *cursor = table->cursors;
    while (cursor && strcmp(cursor->name, name) != 0)
        cursor = cursor->next;
    return cursor;
}

struct ldg_mem_cursor *ldg_mem_cursor_make(struct ldg_mem_table *table, const char *name)
{
    size_t size = strlen(name) + 1;
    struct ldg_mem_cursor *cursor = ldg_calloc(1, sizeof(*cursor) + size);
    if (!cursor)
        return NULL;
    memcpy(cursor->name, name, size);
    cursor->next = table->cursors;
    table->cursors = cursor;
    return cursor;
}
