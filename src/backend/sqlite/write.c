/* Writing entries: append, tags, annotations, trim.
 *
 * Hides how an event is put beside a change. Invariants: an entry and its event are in one
 * transaction; a call inside somebody else's transaction undoes what it did when it fails and
 * leaves the rest alone. */
#include "backend/sqlite/sqlite.h"

#include <string.h>

#include "base/clock.h"

#define ORIGIN_TEXT_MAX (LDG_UUID_TEXT_MAX + LDG_SQLITE_INT64_MAX + 2)
#define KEEP_BYTES ((size_t)1024 * 1024) /* buffers beyond this are given back after the call */

/* --- small pieces ---------------------------------------------------------------------------- */

/* One reading of the clock, in the precision of the tables, for every column and event of a call.
 */
static int64_t now_ms_us(void)
{
    int64_t now_us = ldg_clock_now_us();
    return now_us - now_us % 1000;
}

static void give_back(struct ldg_buf *buf)
{
    if (buf->cap > KEEP_BYTES) {
        size_t max = buf->max;
        ldg_buf_fini(buf);
        ldg_buf_init(buf, max);
    }
}

static ledger_rc fail_buf(const struct ldg_buf *buf, ledger_error *err)
{
    if (buf->rc == LEDGER_ERR_TOO_LARGE)
        return ldg_fail(err, buf->rc,
                        "over %zu bytes together, which is more than SQLite keeps in "
                        "one row; split the call",
                        buf->max);
    return ldg_fail_nomem(err);
}

/* --- the log --------------------------------------------------------------------------------- */

ledger_rc ldg_sqlite_log_event(struct ldg_sqlite *s, ledger_bytes event, const char *time_text,
                               ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin(&q, s, "writing the mutation log",
                  "INSERT INTO main.\"%L\"(stream, payload, schema_version, created_at) "
                  "VALUES ('_', ?1, 1, ?2)",
                  err);
    ldg_sql_blob(&q, event.data, event.size);
    ldg_sql_text(&q, time_text);
    return ldg_sql_run(&q);
}

static ledger_rc log_insert(struct ldg_sqlite *s, const ledger_mutation_event *event,
                            const char *time_text, ledger_error *err)
{
    ldg_buf_reset(&s->event_buf);
    ledger_rc rc = ldg_event_encode(event, &s->event_buf, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_log_event(s, (ledger_bytes){ s->event_buf.data, s->event_buf.size },
                                  time_text, err);
    give_back(&s->event_buf);
    return rc;
}

/* --- append ---------------------------------------------------------------------------------- */

#define INSERT_ENTRY                                                                               \
    "INSERT INTO main.\"%T\"(stream, payload, order_key, dedup_key, schema_version, metadata, "    \
    "tags, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"

/* *ret_id 0: its key is there already. */
static ledger_rc insert_entry(struct ldg_sqlite *s, const char *stream,
                              const ledger_append_input *input, const ledger_map *metadata,
                              const char *time_text, int64_t *ret_id, ledger_error *err)
{
    const bool keyed = input->dedup_key && *input->dedup_key;
    size_t metadata_size = 0;
    struct ldg_sql q;

    if (metadata->count || input->tags.count) {
        ldg_buf_reset(&s->merge_buf);
        if (metadata->count)
            ldg_json_put_map(&s->merge_buf, *metadata);
        metadata_size = s->merge_buf.size;
        if (input->tags.count)
            ldg_json_put_list(&s->merge_buf, input->tags);
        if (s->merge_buf.rc != LEDGER_OK)
            return fail_buf(&s->merge_buf, err);
    }
    ldg_sql_begin(&q, s, "appending an entry",
                  keyed ? INSERT_ENTRY
                      " ON CONFLICT (stream, dedup_key) WHERE dedup_key != '' DO NOTHING"
                        : INSERT_ENTRY,
                  err);
    ldg_sql_text(&q, stream);
    ldg_sql_blob(&q, input->payload.data, input->payload.size);
    ldg_sql_text(&q, input->order_key ? input->order_key : "");
    ldg_sql_text(&q, keyed ? input->dedup_key : "");
    ldg_sql_int(&q, input->schema_version ? input->schema_version : 1);
    ldg_sql_text_n(&q, metadata_size ? s->merge_buf.data : NULL, metadata_size);
    if (input->tags.count)
        ldg_sql_text_n(&q, s->merge_buf.data + metadata_size, s->merge_buf.size - metadata_size);
    else
        ldg_sql_text_n(&q, "[]", 2);
    ldg_sql_text(&q, time_text);
    if (ldg_sql_run(&q) == LEDGER_OK)
        *ret_id = keyed && sqlite3_changes(s->db) == 0 ? 0 : sqlite3_last_insert_rowid(s->db);
    return q.rc;
}

static const char delete_entry[] = "DELETE FROM main.\"%T\" WHERE id = ?1";

/* Takes entries back inside a transaction that is not ours. Cheaper than a savepoint on every call,
 * and the log's event is always the last thing written. A row that was interrupted may be in all
 * the same (busy.c), so then all goes, as where SQLite ends the transaction itself. */
static void take_back(struct ldg_sqlite *s, const ledger_append_entry *entries, size_t count,
                      ledger_error *err)
{
    ledger_error second = { 0 };
    bool failed = false;
    if (err->code == LEDGER_ERR_CANCELLED && s->has_handlers)
        ldg_sqlite_rollback(s);
    if (sqlite3_get_autocommit(s->db)) {
        ldg_sqlite_add_note(err, "; the database has rolled the whole transaction back");
        return;
    }
    s->undisturbed = true;
    for (size_t i = 0; i < count && !failed; i++) {
        int64_t id = 0;
        failed =
            !ldg_int64_parse(entries[i].id, false, &id) ||
            ldg_sql_exec_ints(s, "undoing", delete_entry, LDG_INTS(id), NULL, &second) != LEDGER_OK;
    }
    s->undisturbed = false;
    if (failed)
        ldg_sqlite_add_note(err, "; it could not be undone: roll the transaction back");
}

/* One append under way: what became entries, for its event. */
struct append {
    struct ldg_sqlite *s;
    const char *stream;
    int64_t time_us;
    char time_text[LDG_TIME_TEXT_MAX];
    ledger_append_entry *entries;
    ledger_id *ids; /* NULL: not wanted */
    size_t count;
    char id_text[LDG_SQLITE_INT64_MAX]; /* of the last entry */
};

/* Adds one entry, unless its key is there already. */
static ledger_rc append_one(struct append *a, const ledger_append_input *input, ledger_error *err)
{
    ledger_append_entry *entry = &a->entries[a->count];
    ledger_map metadata = input->metadata;
    int64_t id = 0;
    ledger_rc rc = LEDGER_OK;

    if (metadata.count > 1)
        rc = ldg_map_sort(input->metadata, &a->s->scratch, &metadata, err);
    if (rc == LEDGER_OK)
        rc = insert_entry(a->s, a->stream, input, &metadata, a->time_text, &id, err);
    if (rc != LEDGER_OK || id == 0)
        return rc;
    const char *text = ldg_sqlite_int64_text(id, a->id_text);
    *entry = (ledger_append_entry){
        .id = ldg_arena_strdup(&a->s->scratch, text),
        .payload = input->payload,
        .order_key = input->order_key ? input->order_key : "",
        .dedup_key = input->dedup_key ? input->dedup_key : "",
        .schema_version = input->schema_version ? input->schema_version : 1,
        .metadata = metadata,
        .tags = input->tags,
        .created_at_us = a->time_us,
        .source_id = "",
    };
    if (!entry->id) {
        rc = ldg_fail_nomem(err);
        entry->id = text; /* the last one: enough to take it back */
    }
    if (a->ids)
        a->ids[a->count] = (ledger_id){ .number = id };
    a->count++;
    return rc;
}

static ledger_rc append_all(struct append *a, const ledger_append_input *inputs, size_t count,
                            ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++)
        rc = append_one(a, &inputs[i], err);
    if (rc == LEDGER_OK && a->s->has_log && a->count) {
        ledger_mutation_event event =
            ldg_event_blank(LEDGER_MUTATION_APPEND, a->stream, a->time_us);
        event.entries = a->entries;
        event.entry_count = a->count;
        rc = log_insert(a->s, &event, a->time_text, err);
    }
    return rc;
}

/* In a transaction of its own, or in the one that is open: then it takes itself back. */
static ledger_rc append_in_tx(struct append *a, const ledger_append_input *inputs, size_t count,
                              ledger_error *err)
{
    bool own;
    ledger_rc rc = ldg_sqlite_begin_write(a->s, &own, err);
    if (rc != LEDGER_OK)
        return rc;
    /* Made before it is needed: taking back must not depend on memory for a statement. */
    if (!own)
        rc = ldg_sql_prepare(a->s, delete_entry, err);
    if (rc == LEDGER_OK)
        rc = append_all(a, inputs, count, err);
    if (rc == LEDGER_OK && own)
        return ldg_sqlite_commit(a->s, err);
    if (own)
        ldg_sqlite_rollback(a->s);
    else if (rc != LEDGER_OK)
        take_back(a->s, a->entries, a->count, err);
    return rc;
}

ledger_rc ldg_sqlite_append(void *ctx, const char *stream, const ledger_append_input *inputs,
                            size_t count, ledger_ids *ret_ids, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct append a = { .s = s, .stream = stream, .time_us = now_ms_us() };
    ledger_rc rc;

    ldg_time_format_ms(a.time_us, a.time_text);
    ldg_arena_reset(&s->scratch);
    a.entries = ldg_arena_alloc(&s->scratch, count * sizeof(*a.entries));
    if (ret_ids && count)
        a.ids = ldg_malloc(count * sizeof(*a.ids));
    if (!a.entries || (ret_ids && count && !a.ids))
        rc = ldg_fail_nomem(err);
    else
        rc = append_in_tx(&a, inputs, count, err);
    give_back(&s->merge_buf);
    if (rc != LEDGER_OK || !a.count) {
        ldg_free(a.ids);
        a.ids = NULL;
    }
    if (rc == LEDGER_OK && ret_ids)
        *ret_ids = (ledger_ids){ .items = a.ids, .count = a.count };
    return rc;
}

/* --- tags, annotations, trim ----------------------------------------------------------------- */

static ledger_rc merge_into(struct ldg_arena *arena, ledger_bytes old, ledger_map changes,
                            struct ldg_buf *out, ledger_error *err)
{
    ledger_map base = { 0 }, merged = { 0 };
    ledger_rc rc = LEDGER_OK;
    if (old.data)
        rc = ldg_json_get_map(old, false, arena, &base, err);
    if (rc == LEDGER_OK)
        rc = ldg_map_merge(base, changes, arena, &merged, err);
    if (rc == LEDGER_OK && ldg_json_put_map(out, merged) != LEDGER_OK)
        rc = fail_buf(out, err);
    return rc;
}

ledger_rc ldg_sqlite_merge(struct ldg_sqlite *s, ledger_bytes old, ledger_map changes,
                           struct ldg_buf *out, ledger_error *err)
{
    ldg_arena_reset(&s->merge_arena);
    return merge_into(&s->merge_arena, old, changes, out, err);
}

static ledger_bytes value_bytes(sqlite3_value *value)
{
    const void *data = sqlite3_value_blob(value);
    return (ledger_bytes){ .data = data, .size = (size_t)sqlite3_value_bytes(value) };
}

/* ldg_merge_annotations(old, changes) */
static void merge_function(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    struct ldg_sqlite *s = sqlite3_user_data(context);
    ledger_map changes = { 0 };
    ledger_error err = { 0 };
    ldg_arena_reset(&s->merge_arena);
    ldg_buf_reset(&s->merge_buf);
    ledger_rc rc = ldg_json_get_map(value_bytes(argv[1]), true, &s->merge_arena, &changes, &err);
    if (rc == LEDGER_OK)
        rc = merge_into(&s->merge_arena, value_bytes(argv[0]), changes, &s->merge_buf, &err);
    if (rc == LEDGER_OK) {
        sqlite3_result_text64(context, s->merge_buf.data, s->merge_buf.size, SQLITE_TRANSIENT,
                              SQLITE_UTF8);
    } else if (rc == LEDGER_ERR_NOMEM) {
        sqlite3_result_error_nomem(context);
    } else if (rc == LEDGER_ERR_TOO_LARGE) {
        sqlite3_result_error_toobig(context);
    } else {
        sqlite3_result_error(context, err.message, -1);
        sqlite3_result_error_code(context, SQLITE_MISMATCH);
    }
    give_back(&s->merge_buf);
}

int ldg_sqlite_register_functions(struct ldg_sqlite *s)
{
    return sqlite3_create_function_v2(s->db, "ldg_merge_annotations", 2,
                                      SQLITE_UTF8 | SQLITE_DETERMINISTIC, s, merge_function, NULL,
                                      NULL, NULL);
}

/* Where an entry came from, for the event of a change made here. */
struct mutable_row {
    ledger_bytes annotations; /* data NULL: none */
    const char *entry_origin; /* "uuid:epoch"; "": written here */
    const char *source_id;
};

/* "uuid:epoch", of two columns. */
static void origin_text(sqlite3_stmt *stmt, int column, char text[ORIGIN_TEXT_MAX])
{
    sqlite3_snprintf(ORIGIN_TEXT_MAX, text, "%s:%lld",
                     (const char *)sqlite3_column_text(stmt, column),
                     sqlite3_column_int64(stmt, column + 1));
}

static ledger_rc take_mutable(struct ldg_sqlite *s, struct ldg_sql *q, struct mutable_row *row,
                              ledger_error *err)
{
    char key[LEDGER_ID_TEXT_MAX], origin[ORIGIN_TEXT_MAX];
    if (sqlite3_column_type(q->stmt, 0) != SQLITE_NULL) {
        ledger_bytes bytes = ldg_sql_bytes(q, 0);
        row->annotations.size = bytes.size;
        row->annotations.data =
            ldg_arena_memdup(&s->scratch, bytes.data ? bytes.data : "", bytes.size);
        if (!row->annotations.data)
            return ldg_fail_nomem(err);
    }
    if (sqlite3_column_type(q->stmt, 1) == SQLITE_NULL ||
        sqlite3_column_type(q->stmt, 2) == SQLITE_NULL)
        return q->rc;
    origin_text(q->stmt, 2, origin);
    row->source_id = ldg_arena_strdup(&s->scratch, ldg_id_text(ldg_sql_key(q, 1), key));
    row->entry_origin = ldg_arena_strdup(&s->scratch, origin);
    return row->source_id && row->entry_origin && sqlite3_column_text(q->stmt, 2)
               ? q->rc
               : ldg_fail_nomem(err);
}

static ledger_rc get_mutable(struct ldg_sqlite *s, const char *stream, int64_t id,
                             struct mutable_row *ret_row, ledger_error *err)
{
    /* clang-format off */
    const char *text = s->has_ours
        ? "SELECT e.annotations, coalesce(e.source_pos, e.source_id), o.uuid, o.epoch "
          "FROM main.\"%T\" AS e LEFT JOIN main.\"%T_origins\" AS o ON o.id = e.origin "
          "WHERE e.id = ?1 AND +e.stream = ?2"
        : "SELECT annotations, NULL, NULL, NULL FROM main.\"%T\" WHERE id = ?1 AND +stream = ?2";
    /* clang-format on */
    struct mutable_row row = { .entry_origin = "", .source_id = "" };
    struct ldg_sql q;
    ldg_sql_begin(&q, s, "looking for an entry", text, err);
    ldg_sql_int(&q, id);
    ldg_sql_text(&q, stream);
    if (ldg_sql_row(&q))
        q.rc = take_mutable(s, &q, &row, err);
    else if (q.rc == LEDGER_OK)
        q.rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND, "stream \"%s\" has no entry %lld", stream,
                        (long long)id);
    if (ldg_sql_end(&q) == LEDGER_OK)
        *ret_row = row;
    return q.rc;
}

/* A change of tags or of annotations, whichever is not NULL. */
struct set {
    const char *stream;
    int64_t id;
    const ledger_list *tags;
    const ledger_map *annotations;
    int64_t time_us;
    char time_text[LDG_TIME_TEXT_MAX];
};

/* The new text of the column, in merge_buf. */
static ledger_rc set_text(struct ldg_sqlite *s, const struct set *set,
                          const struct mutable_row *row, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    ldg_buf_reset(&s->merge_buf);
    if (set->tags)
        return ldg_json_put_list(&s->merge_buf, *set->tags) == LEDGER_OK
                   ? LEDGER_OK
                   : fail_buf(&s->merge_buf, err);
    rc = ldg_sqlite_merge(s, row->annotations, *set->annotations, &s->merge_buf, err);
    if (rc == LEDGER_ERR_DATA) {
        ledger_error why = *err;
        rc = ldg_sqlite_fail_row(s, set->id, "annotations", why.message, err);
    }
    return rc;
}

static ledger_rc set_event(struct ldg_sqlite *s, const struct set *set,
                           const struct mutable_row *row, ledger_error *err)
{
    char id_text[LDG_SQLITE_INT64_MAX];
    ledger_mutation_event event =
        ldg_event_blank(set->tags ? LEDGER_MUTATION_SET_TAGS : LEDGER_MUTATION_SET_ANNOTATIONS,
                        set->stream, set->time_us);
    ledger_rc rc = LEDGER_OK;
    event.entry_id = ldg_sqlite_int64_text(set->id, id_text);
    event.entry_origin = row->entry_origin;
    event.source_id = row->source_id;
    if (set->tags)
        event.tags = *set->tags;
    else
        rc = ldg_map_sort(*set->annotations, &s->scratch, &event.annotations, err);
    return rc == LEDGER_OK ? log_insert(s, &event, set->time_text, err) : rc;
}

static ledger_rc set_in_tx(struct ldg_sqlite *s, const struct set *set, ledger_error *err)
{
    struct mutable_row row = { .entry_origin = "", .source_id = "" };
    struct ldg_sql q;
    ledger_rc rc = get_mutable(s, set->stream, set->id, &row, err);
    if (rc == LEDGER_OK)
        rc = set_text(s, set, &row, err);
    if (rc != LEDGER_OK)
        return rc;
    ldg_sql_begin(&q, s, set->tags ? "setting tags" : "setting annotations",
                  set->tags ? "UPDATE main.\"%T\" SET tags = ?2, updated_at = ?3 WHERE id = ?1"
                            : "UPDATE main.\"%T\" SET annotations = ?2, updated_at = ?3 "
                              "WHERE id = ?1",
                  err);
    ldg_sql_int(&q, set->id);
    ldg_sql_text_n(&q, s->merge_buf.data, s->merge_buf.size);
    ldg_sql_text(&q, set->time_text);
    rc = ldg_sql_run(&q);
    return rc == LEDGER_OK && s->has_log ? set_event(s, set, &row, err) : rc;
}

static ledger_rc set_column(struct ldg_sqlite *s, struct set set, ledger_error *err)
{
    bool own;
    ledger_rc rc;

    set.time_us = now_ms_us();
    ldg_time_format_ms(set.time_us, set.time_text);
    ldg_arena_reset(&s->scratch);
    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_sqlite_write_end(s, own, set_in_tx(s, &set, err), err);
    give_back(&s->merge_buf);
    return rc;
}

ledger_rc ldg_sqlite_set_tags(void *ctx, const char *stream, ledger_id id, ledger_list tags,
                              ledger_error *err)
{
    return set_column(ctx, (struct set){ .stream = stream, .id = id.number, .tags = &tags }, err);
}

ledger_rc ldg_sqlite_set_annotations(void *ctx, const char *stream, ledger_id id, ledger_map map,
                                     ledger_error *err)
{
    return set_column(ctx, (struct set){ .stream = stream, .id = id.number, .annotations = &map },
                      err);
}

/* Has the store entries that bridges brought? A bridge may have begun after this handle was opened.
 */
static ledger_rc has_origins(struct ldg_sqlite *s, ledger_error *err)
{
    return s->has_origins || !s->has_ours ? LEDGER_OK : ldg_sqlite_schema_origins(s, err);
}

/* One event per origin for the bridged entries that a trim is about to delete: the stores further
 * down the chain know them by their id at the origin, a Go bridge behind this one by the id here.
 */
static ledger_rc log_trim_of_origins(struct ldg_sqlite *s, const char *stream, int64_t before,
                                     int64_t time_us, const char *time_text, ledger_error *err)
{
    /* clang-format off */
    static const char text[] =
        "SELECT o.uuid, o.epoch, coalesce(max(e.source_pos), max(e.source_id)), max(e.id) "
        "FROM main.\"%T\" AS e JOIN main.\"%T_origins\" AS o ON o.id = e.origin "
        "WHERE e.stream = ?1 AND e.id <= ?2 AND +e.origin != 0 "
        "GROUP BY e.origin, e.source_pos IS NULL ORDER BY e.origin, e.source_pos IS NULL";
    /* clang-format on */
    char origin[ORIGIN_TEXT_MAX], key[LEDGER_ID_TEXT_MAX], id[LDG_SQLITE_INT64_MAX];
    struct ldg_sql q;
    ldg_sql_begin(&q, s, "looking for bridged entries", text, err);
    ldg_sql_text(&q, stream);
    ldg_sql_int(&q, before);
    while (ldg_sql_row(&q)) {
        ledger_mutation_event event = ldg_event_blank(LEDGER_MUTATION_TRIM, stream, time_us);
        origin_text(q.stmt, 0, origin);
        event.entry_origin = origin;
        event.source_id = ldg_id_text(ldg_sql_key(&q, 2), key);
        event.before_id = ldg_sqlite_int64_text(sqlite3_column_int64(q.stmt, 3), id);
        q.rc = log_insert(s, &event, time_text, err);
    }
    return ldg_sql_end(&q);
}

static ledger_rc log_trim(struct ldg_sqlite *s, const char *stream, int64_t before, int64_t time_us,
                          ledger_error *err)
{
    char time_text[LDG_TIME_TEXT_MAX], id_text[LDG_SQLITE_INT64_MAX];
    ledger_mutation_event event = ldg_event_blank(LEDGER_MUTATION_TRIM, stream, time_us);
    ldg_time_format_ms(time_us, time_text);
    event.before_id = ldg_sqlite_int64_text(before, id_text);
    ledger_rc rc = log_insert(s, &event, time_text, err);
    if (rc == LEDGER_OK)
        rc = has_origins(s, err);
    if (rc == LEDGER_OK && s->has_origins)
        rc = log_trim_of_origins(s, stream, before, time_us, time_text, err);
    return rc;
}

ledger_rc ldg_sqlite_trim(void *ctx, const char *stream, ledger_id before, uint64_t *ret_deleted,
                          ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    const int64_t time_us = now_ms_us();
    uint64_t deleted = 0;
    struct ldg_sql q;
    bool own;

    ldg_arena_reset(&s->scratch);
    ledger_rc rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        return rc;
    if (s->has_log)
        rc = log_trim(s, stream, before.number, time_us, err);
    if (rc == LEDGER_OK) {
        ldg_sql_begin(&q, s, "trimming", "DELETE FROM main.\"%T\" WHERE stream = ?1 AND id <= ?2",
                      err);
        ldg_sql_text(&q, stream);
        ldg_sql_int(&q, before.number);
        rc = ldg_sql_run(&q);
        deleted = (uint64_t)sqlite3_changes(s->db);
    }
    rc = ldg_sqlite_write_end(s, own, rc, err);
    if (rc == LEDGER_OK && ret_deleted)
        *ret_deleted = deleted;
    return rc;
}
