/* Writing entries: append, tags, annotations, trim.
 *
 * Hides how an event is put beside a change. Invariants: an entry and its event are in one
 * transaction; a call inside somebody else's transaction undoes what it did when it fails and
 * leaves the rest alone. */
#include "backend/sqlite/sql.h"
#include "backend/sqlite/sqlite.h"

#include <string.h>

#include "base/clock.h"

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

static ledger_rc log_insert(struct ldg_sqlite *s, const ledger_mutation_event *event,
                            const char *time_text, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_INSERT_LOG, err);
    if (!stmt)
        return err->code;
    ldg_buf_reset(&s->event_buf);
    ledger_rc result = ldg_event_encode(event, &s->event_buf, err);
    if (result == LEDGER_OK) {
        int rc = sqlite3_bind_blob64(stmt, 1, s->event_buf.data, s->event_buf.size, SQLITE_STATIC);
        if (rc == SQLITE_OK)
            rc = ldg_sqlite_bind_text(stmt, 2, time_text);
        if (rc == SQLITE_OK)
            rc = sqlite3_step(stmt);
        if (rc != SQLITE_DONE)
            result = ldg_sqlite_fail(s, rc, "writing the mutation log", err);
        sqlite3_reset(stmt);
    }
    give_back(&s->event_buf);
    return result;
}

ledger_rc ldg_sqlite_log_event(struct ldg_sqlite *s, const ledger_mutation_event *event,
                               int64_t time_us, ledger_error *err)
{
    char text[LDG_TIME_TEXT_MAX];
    ldg_time_format_ms(time_us, text);
    return log_insert(s, event, text, err);
}

/* --- append ---------------------------------------------------------------------------------- */

static ledger_rc insert_entry(struct ldg_sqlite *s, const char *stream,
                              const ledger_append_input *input, const ledger_map *metadata,
                              const char *time_text, int64_t *ret_id, ledger_error *err)
{
    const bool keyed = input->dedup_key && *input->dedup_key;
    size_t metadata_size = 0;
    ledger_rc result = LEDGER_OK;
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, keyed ? LDG_STMT_INSERT : LDG_STMT_INSERT_PLAIN, err);
    if (!stmt)
        return err->code;

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
    int rc = ldg_sqlite_bind_text(stmt, 1, stream);
    if (rc == SQLITE_OK)
        rc = input->payload.size ? sqlite3_bind_blob64(stmt, 2, input->payload.data,
                                                       input->payload.size, SQLITE_STATIC)
                                 : sqlite3_bind_zeroblob(stmt, 2, 0);
    if (rc == SQLITE_OK)
        rc = ldg_sqlite_bind_text(stmt, 3, input->order_key ? input->order_key : "");
    if (rc == SQLITE_OK)
        rc = ldg_sqlite_bind_text(stmt, 4, keyed ? input->dedup_key : "");
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int(stmt, 5, input->schema_version ? input->schema_version : 1);
    if (rc == SQLITE_OK)
        rc = metadata_size ? sqlite3_bind_text64(stmt, 6, s->merge_buf.data, metadata_size,
                                                 SQLITE_STATIC, SQLITE_UTF8)
                           : sqlite3_bind_null(stmt, 6);
    if (rc == SQLITE_OK)
        rc = input->tags.count ? sqlite3_bind_text64(stmt, 7, s->merge_buf.data + metadata_size,
                                                     s->merge_buf.size - metadata_size,
                                                     SQLITE_STATIC, SQLITE_UTF8)
                               : sqlite3_bind_text(stmt, 7, "[]", 2, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = ldg_sqlite_bind_text(stmt, 8, time_text);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc != SQLITE_DONE)
        result = ldg_sqlite_fail(s, rc, "appending an entry", err);
    else
        *ret_id = keyed && sqlite3_changes(s->db) == 0 ? 0 : sqlite3_last_insert_rowid(s->db);
    sqlite3_reset(stmt);
    return result;
}

/* Takes entries back inside a transaction that is not ours. Cheaper than a savepoint on every call,
 * and the log's event is always the last thing written. */
static void take_back(struct ldg_sqlite *s, const ledger_append_entry *entries, size_t count,
                      ledger_error *err)
{
    ledger_error second = { 0 };
    bool failed = false;
    if (sqlite3_get_autocommit(s->db)) {
        ldg_sqlite_add_note(err, "; the database has rolled the whole transaction back");
        return;
    }
    for (size_t i = 0; i < count && !failed; i++) {
        sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_DELETE, &second);
        int64_t id = 0;
        failed = !stmt || !ldg_int64_parse(entries[i].id, false, &id) ||
                 sqlite3_bind_int64(stmt, 1, id) != SQLITE_OK || sqlite3_step(stmt) != SQLITE_DONE;
        if (stmt)
            sqlite3_reset(stmt);
    }
    if (failed)
        ldg_sqlite_add_note(err, "; it could not be undone: roll the transaction back");
}

ledger_rc ldg_sqlite_append(void *ctx, const char *stream, const ledger_append_input *inputs,
                            size_t count, ledger_ids *ret_ids, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct ldg_arena *arena = &s->scratch;
    const int64_t time_us = now_ms_us();
    char time_text[LDG_TIME_TEXT_MAX];
    char id_text[LDG_SQLITE_INT64_MAX];
    bool own = false, begun = false;
    size_t new_count = 0;
    ledger_id *ids = NULL;
    ledger_append_entry *entries = NULL;
    ledger_rc rc = LEDGER_OK;

    ldg_time_format_ms(time_us, time_text);
    ldg_arena_reset(arena);
    entries = ldg_arena_alloc(arena, count * sizeof(*entries));
    if (ret_ids && count)
        ids = ldg_malloc(count * sizeof(*ids));
    if (!entries || (ret_ids && count && !ids)) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    rc = ldg_sqlite_begin_write(s, &own, err);
    begun = rc == LEDGER_OK;
    /* Made before it is needed: taking back must not depend on memory for a statement. */
    if (rc == LEDGER_OK && !own && !ldg_sqlite_stmt(s, LDG_STMT_DELETE, err))
        rc = err->code;
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        const ledger_append_input *input = &inputs[i];
        ledger_map metadata = input->metadata;
        ledger_append_entry *entry = &entries[new_count];
        int64_t id = 0;
        if (metadata.count > 1)
            rc = ldg_map_sort(input->metadata, arena, &metadata, err);
        if (rc == LEDGER_OK)
            rc = insert_entry(s, stream, input, &metadata, time_text, &id, err);
        if (rc != LEDGER_OK || id == 0)
            continue; /* failed, or its key is there already */
        const char *text = ldg_sqlite_int64_text(id, id_text);
        *entry = (ledger_append_entry){
            .id = ldg_arena_strdup(arena, text),
            .payload = input->payload,
            .order_key = input->order_key ? input->order_key : "",
            .dedup_key = input->dedup_key ? input->dedup_key : "",
            .schema_version = input->schema_version ? input->schema_version : 1,
            .metadata = metadata,
            .tags = input->tags,
            .created_at_us = time_us,
            .source_id = "",
        };
        if (!entry->id) {
            rc = ldg_fail_nomem(err);
            entry->id = text; /* the last one: enough to take it back */
        }
        if (ids)
            ids[new_count] = (ledger_id){ .number = id };
        new_count++;
    }
    if (rc == LEDGER_OK && s->has_log && new_count) {
        ledger_mutation_event event = ldg_event_blank(LEDGER_MUTATION_APPEND, stream, time_us);
        event.entries = entries;
        event.entry_count = new_count;
        rc = log_insert(s, &event, time_text, err);
    }
    if (rc == LEDGER_OK && own)
        rc = ldg_sqlite_commit(s, err);
    else if (begun && own)
        ldg_sqlite_rollback(s);
    else if (begun && rc != LEDGER_OK)
        take_back(s, entries, new_count, err);
out:
    give_back(&s->merge_buf);
    if (rc != LEDGER_OK || (ids && !new_count)) {
        ldg_free(ids);
        ids = NULL;
    }
    if (rc == LEDGER_OK && ret_ids)
        *ret_ids = (ledger_ids){ .items = ids, .count = new_count };
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

static ledger_rc get_mutable(struct ldg_sqlite *s, const char *stream, int64_t id,
                             struct mutable_row *ret_row, ledger_error *err)
{
    struct mutable_row row = { .entry_origin = "", .source_id = "" };
    ledger_rc result = LEDGER_OK;
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_GET_MUTABLE, err);
    if (!stmt)
        return err->code;
    int rc = sqlite3_bind_int64(stmt, 1, id);
    if (rc == SQLITE_OK)
        rc = ldg_sqlite_bind_text(stmt, 2, stream);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc == SQLITE_DONE) {
        result = ldg_fail(err, LEDGER_ERR_NOT_FOUND, "stream \"%s\" has no entry %lld", stream,
                          (long long)id);
    } else if (rc != SQLITE_ROW) {
        result = ldg_sqlite_fail(s, rc, "looking for an entry", err);
    } else {
        bool failed = false;
        if (sqlite3_column_type(stmt, 0) != SQLITE_NULL) {
            const void *data = sqlite3_column_blob(stmt, 0);
            row.annotations.size = (size_t)sqlite3_column_bytes(stmt, 0);
            row.annotations.data =
                ldg_arena_memdup(&s->scratch, data ? data : "", row.annotations.size);
            failed = !row.annotations.data;
        }
        if (sqlite3_column_type(stmt, 1) != SQLITE_NULL &&
            sqlite3_column_type(stmt, 2) != SQLITE_NULL) {
            char number[LDG_SQLITE_INT64_MAX], origin[LDG_UUID_TEXT_MAX + LDG_SQLITE_INT64_MAX + 2];
            const char *uuid = (const char *)sqlite3_column_text(stmt, 2);
            sqlite3_snprintf((int)sizeof(origin), origin, "%s:%lld", uuid,
                             sqlite3_column_int64(stmt, 3));
            row.source_id = ldg_arena_strdup(
                &s->scratch, ldg_sqlite_int64_text(sqlite3_column_int64(stmt, 1), number));
            row.entry_origin = ldg_arena_strdup(&s->scratch, origin);
            failed = failed || !uuid || !row.source_id || !row.entry_origin;
        }
        if (failed)
            result = ldg_fail_nomem(err);
    }
    sqlite3_reset(stmt);
    if (result == LEDGER_OK)
        *ret_row = row;
    return result;
}

/* tags or annotations, whichever is not NULL. */
static ledger_rc set_column(struct ldg_sqlite *s, const char *stream, int64_t id,
                            const ledger_list *tags, const ledger_map *annotations,
                            ledger_error *err)
{
    const int64_t time_us = now_ms_us();
    char time_text[LDG_TIME_TEXT_MAX], id_text[LDG_SQLITE_INT64_MAX];
    bool own;
    struct mutable_row row = { .entry_origin = "", .source_id = "" };
    ledger_rc rc;

    ldg_time_format_ms(time_us, time_text);
    ldg_arena_reset(&s->scratch);
    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        return rc;
    rc = get_mutable(s, stream, id, &row, err);
    if (rc != LEDGER_OK)
        goto out;
    ldg_buf_reset(&s->merge_buf);
    if (tags) {
        if (ldg_json_put_list(&s->merge_buf, *tags) != LEDGER_OK)
            rc = fail_buf(&s->merge_buf, err);
    } else {
        rc = ldg_sqlite_merge(s, row.annotations, *annotations, &s->merge_buf, err);
        if (rc == LEDGER_ERR_DATA) {
            ledger_error why = *err;
            rc = ldg_sqlite_fail_row(s, id, "annotations", why.message, err);
        }
    }
    if (rc != LEDGER_OK)
        goto out;
    sqlite3_stmt *stmt =
        ldg_sqlite_stmt(s, tags ? LDG_STMT_SET_TAGS : LDG_STMT_SET_ANNOTATIONS, err);
    if (!stmt) {
        rc = err->code;
        goto out;
    }
    int step = sqlite3_bind_int64(stmt, 1, id);
    if (step == SQLITE_OK)
        step = sqlite3_bind_text64(stmt, 2, s->merge_buf.data, s->merge_buf.size, SQLITE_STATIC,
                                   SQLITE_UTF8);
    if (step == SQLITE_OK)
        step = ldg_sqlite_bind_text(stmt, 3, time_text);
    if (step == SQLITE_OK)
        step = sqlite3_step(stmt);
    if (step != SQLITE_DONE)
        rc = ldg_sqlite_fail(s, step, tags ? "setting tags" : "setting annotations", err);
    sqlite3_reset(stmt);
    if (rc == LEDGER_OK && s->has_log) {
        ledger_mutation_event event = ldg_event_blank(
            tags ? LEDGER_MUTATION_SET_TAGS : LEDGER_MUTATION_SET_ANNOTATIONS, stream, time_us);
        event.entry_id = ldg_sqlite_int64_text(id, id_text);
        event.entry_origin = row.entry_origin;
        event.source_id = row.source_id;
        if (tags)
            event.tags = *tags;
        else
            rc = ldg_map_sort(*annotations, &s->scratch, &event.annotations, err);
        if (rc == LEDGER_OK)
            rc = log_insert(s, &event, time_text, err);
    }
out:
    rc = ldg_sqlite_write_end(s, own, rc, err);
    give_back(&s->merge_buf);
    return rc;
}

ledger_rc ldg_sqlite_set_tags(void *ctx, const char *stream, ledger_id id, ledger_list tags,
                              ledger_error *err)
{
    return set_column(ctx, stream, id.number, &tags, NULL, err);
}

ledger_rc ldg_sqlite_set_annotations(void *ctx, const char *stream, ledger_id id, ledger_map map,
                                     ledger_error *err)
{
    return set_column(ctx, stream, id.number, NULL, &map, err);
}

/* Has the store entries that bridges brought? A bridge may have begun after this handle was opened.
 */
static ledger_rc look_for_origins(struct ldg_sqlite *s, ledger_error *err)
{
    if (s->has_origins || !s->has_ours)
        return LEDGER_OK;
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_HAS_ORIGINS, err);
    if (!stmt)
        return err->code;
    ledger_rc result = LEDGER_OK;
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        s->has_origins = sqlite3_column_int(stmt, 0);
    else
        result = ldg_sqlite_fail(s, rc, "looking at the origins", err);
    sqlite3_reset(stmt);
    return result;
}

/* One event per origin for the bridged entries that a trim is about to delete: the stores further
 * down the chain know them by their id at the origin, a Go bridge behind this one by the id here.
 */
static ledger_rc log_trim_of_origins(struct ldg_sqlite *s, const char *stream, int64_t before,
                                     int64_t time_us, const char *time_text, ledger_error *err)
{
    char origin[LDG_UUID_TEXT_MAX + LDG_SQLITE_INT64_MAX + 2], number[LDG_SQLITE_INT64_MAX];
    char id[LDG_SQLITE_INT64_MAX];
    ledger_rc result = LEDGER_OK;
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_TRIM_ORIGINS, err);
    if (!stmt)
        return err->code;
    int rc = ldg_sqlite_bind_text(stmt, 1, stream);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 2, before);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(stmt);
        if (rc != SQLITE_ROW)
            break;
        sqlite3_snprintf((int)sizeof(origin), origin, "%s:%lld",
                         (const char *)sqlite3_column_text(stmt, 0), sqlite3_column_int64(stmt, 1));
        ledger_mutation_event event = ldg_event_blank(LEDGER_MUTATION_TRIM, stream, time_us);
        event.entry_origin = origin;
        event.source_id = ldg_sqlite_int64_text(sqlite3_column_int64(stmt, 2), number);
        event.before_id = ldg_sqlite_int64_text(sqlite3_column_int64(stmt, 3), id);
        result = log_insert(s, &event, time_text, err);
        if (result != LEDGER_OK)
            break;
    }
    if (result == LEDGER_OK && rc != SQLITE_DONE)
        result = ldg_sqlite_fail(s, rc, "looking for bridged entries", err);
    sqlite3_reset(stmt);
    return result;
}

ledger_rc ldg_sqlite_trim(void *ctx, const char *stream, ledger_id before, uint64_t *ret_deleted,
                          ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    const int64_t time_us = now_ms_us();
    char time_text[LDG_TIME_TEXT_MAX], id_text[LDG_SQLITE_INT64_MAX];
    bool own;
    uint64_t deleted = 0;
    ledger_rc rc;

    ldg_time_format_ms(time_us, time_text);
    ldg_arena_reset(&s->scratch);
    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        return rc;
    if (s->has_log) {
        ledger_mutation_event event = ldg_event_blank(LEDGER_MUTATION_TRIM, stream, time_us);
        event.before_id = ldg_sqlite_int64_text(before.number, id_text);
        rc = log_insert(s, &event, time_text, err);
        if (rc == LEDGER_OK)
            rc = look_for_origins(s, err);
        if (rc == LEDGER_OK && s->has_origins)
            rc = log_trim_of_origins(s, stream, before.number, time_us, time_text, err);
    }
    if (rc == LEDGER_OK) {
        sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_TRIM, err);
        if (stmt) {
            int step = ldg_sqlite_bind_text(stmt, 1, stream);
            if (step == SQLITE_OK)
                step = sqlite3_bind_int64(stmt, 2, before.number);
            if (step == SQLITE_OK)
                step = sqlite3_step(stmt);
            if (step == SQLITE_DONE)
                deleted = (uint64_t)sqlite3_changes(s->db);
            else
                rc = ldg_sqlite_fail(s, step, "trimming", err);
            sqlite3_reset(stmt);
        } else {
            rc = err->code;
        }
    }
    rc = ldg_sqlite_write_end(s, own, rc, err);
    if (rc == LEDGER_OK && ret_deleted)
        *ret_deleted = deleted;
    return rc;
}
