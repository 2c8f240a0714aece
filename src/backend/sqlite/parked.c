/* Parked events: kept aside with their reason until somebody retries or drops them.
 *
 * A row stands for one op: an append of several entries is cut, so that each can be retried and
 * waited for alone. Invariant: while a row of an entry is here no later event of that entry is
 * applied; it is parked behind, as is an append whose dedup key a parked trim would have set free.
 */
#include "backend/sqlite/apply.h"

#include <inttypes.h>
#include <string.h>

/* Steps a statement that changes rows, and gives it back. */
static ledger_rc run_change(struct ldg_sqlite *s, sqlite3_stmt *stmt, int bound, const char *doing,
                            ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    int code = bound == SQLITE_OK ? sqlite3_step(stmt) : bound;

    if (code != SQLITE_DONE)
        rc = ldg_sqlite_own_fail(s, code, doing, err);
    sqlite3_reset(stmt);
    return rc;
}

/* First column of the only row; 0 when it is NULL. */
static ledger_rc run_number(struct ldg_sqlite *s, sqlite3_stmt *stmt, int bound, int64_t *ret_value,
                            ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    int code = bound == SQLITE_OK ? sqlite3_step(stmt) : bound;

    if (code == SQLITE_ROW)
        *ret_value = sqlite3_column_int64(stmt, 0);
    else
        rc = ldg_sqlite_fail(s, code, "looking for parked events", err);
    sqlite3_reset(stmt);
    return rc;
}

static const char *or_empty(const char *text)
{
    return text != NULL ? text : "";
}

/* --- parking --------------------------------------------------------------------------------- */

ledger_rc ldg_sqlite_park(struct ldg_sqlite *s, const struct ldg_op *op, const char *reason,
                          bool *ret_new, ledger_error *err)
{
    sqlite3_stmt *stmt = NULL;
    char now[LDG_TIME_TEXT_MAX], time[LDG_TIME_TEXT_MAX];
    ledger_bytes event;
    struct ldg_buf buf;
    ledger_rc rc;
    int code = SQLITE_OK;

    ldg_buf_init(&buf, s->event_buf.max);
    rc = ldg_op_parked_event(op, &buf, &event, err);
    if (rc != LEDGER_OK)
        goto out;
    stmt = ldg_sqlite_stmt(s, LDG_STMT_PARK, err);
    if (stmt == NULL) {
        rc = err->code;
        goto out;
    }
    ldg_time_format_ms(ldg_clock_now_us(), now);
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 1, or_empty(op->source_uuid)));
    LDG_BIND(code, sqlite3_bind_int(stmt, 2, op->origin));
    LDG_BIND(code, sqlite3_bind_int64(stmt, 3, op->log_position));
    LDG_BIND(code, sqlite3_bind_int64(stmt, 4, op->key.number));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 5, or_empty(op->stream)));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 6, or_empty(op->type_name)));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 7, reason));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 8, now));
    LDG_BIND(code, op->log_time_us == LEDGER_NO_TIME ? sqlite3_bind_null(stmt, 9)
                                                     : (ldg_time_format_ms(op->log_time_us, time),
                                                        ldg_sqlite_bind_text(stmt, 9, time)));
    LDG_BIND(code, sqlite3_bind_blob64(stmt, 10, event.size > 0 ? event.data : "", event.size,
                                       SQLITE_STATIC));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW) {
        *ret_new = sqlite3_column_int64(stmt, 0) == 1;
        code = sqlite3_step(stmt);
    } else if (code == SQLITE_DONE) {
        rc = ldg_schema_fail_kept_out(s->table, "parked", err);
    }
    if (code != SQLITE_DONE)
        rc = ldg_sqlite_own_fail(s, code, "parking an event", err);
    sqlite3_reset(stmt);
out:
    ldg_buf_fini(&buf);
    return rc;
}

ledger_rc ldg_sqlite_parked_any(struct ldg_sqlite *s, bool *ret_any, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_PARKED_ANY, err);
    int64_t any = 0;
    ledger_rc rc;

    if (stmt == NULL)
        return err->code;
    rc = run_number(s, stmt, SQLITE_OK, &any, err);
    if (rc == LEDGER_OK)
        *ret_any = any != 0;
    return rc;
}

ledger_rc ldg_sqlite_parked_before(struct ldg_sqlite *s, const struct ldg_op *op,
                                   enum ldg_wait wait, int64_t own_id, int64_t *ret_position,
                                   ledger_error *err)
{
    static const enum ldg_sqlite_stmt_id statements[] = {
        [LDG_WAIT_ENTRY] = LDG_STMT_PARKED_OF_ENTRY,
        [LDG_WAIT_MISSING] = LDG_STMT_PARKED_UNKNOWN,
        [LDG_WAIT_KEY] = LDG_STMT_PARKED_OF_KEY,
    };
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, statements[wait], err);
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    if (wait == LDG_WAIT_ENTRY) {
        LDG_BIND(code, sqlite3_bind_int(stmt, 1, op->origin));
        LDG_BIND(code, sqlite3_bind_int64(stmt, 2, op->key.number));
        LDG_BIND(code, ldg_sqlite_bind_text(stmt, 3, or_empty(op->source_uuid)));
        LDG_BIND(code, sqlite3_bind_int64(stmt, 4, op->log_position));
        LDG_BIND(code, sqlite3_bind_int64(stmt, 5, own_id));
    } else {
        LDG_BIND(code, ldg_sqlite_bind_text(stmt, 1, or_empty(op->source_uuid)));
        LDG_BIND(code, ldg_sqlite_bind_text(stmt, 2, or_empty(op->stream)));
        LDG_BIND(code, sqlite3_bind_int64(stmt, 3, op->log_position));
        LDG_BIND(code, sqlite3_bind_int64(stmt, 4, own_id));
        if (wait == LDG_WAIT_KEY)
            LDG_BIND(code, ldg_sqlite_bind_text(stmt, 5, op->entry->dedup_key));
    }
    return run_number(s, stmt, code, ret_position, err);
}

ledger_rc ldg_sqlite_parked_done(struct ldg_sqlite *s, const struct ldg_op *op, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_PARKED_DONE, err);
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 1, or_empty(op->source_uuid)));
    LDG_BIND(code, sqlite3_bind_int64(stmt, 2, op->log_position));
    LDG_BIND(code, sqlite3_bind_int64(stmt, 3, op->key.number));
    return run_change(s, stmt, code, "taking an event off the parked ones", err);
}

/* --- trim ------------------------------------------------------------------------------------ */

static ledger_rc drop_id(struct ldg_sqlite *s, int64_t id, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_PARKED_DROP, err);

    if (stmt == NULL)
        return err->code;
    return run_change(s, stmt, sqlite3_bind_int64(stmt, 1, id), "dropping a parked event", err);
}

static int bind_trim(sqlite3_stmt *stmt, const struct ldg_op *op)
{
    int code = SQLITE_OK;
    LDG_BIND(code, sqlite3_bind_int(stmt, 1, op->origin));
    LDG_BIND(code, sqlite3_bind_int64(stmt, 2, op->key.number));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 3, or_empty(op->stream)));
    return code;
}

/* Deletes one by one what the source does not keep. The list is walked again after each: it is
 * short, and rows must not go while they are being read. */
static ledger_rc trim_but_kept(struct ldg_sqlite *s, const struct ldg_op *op, bool *ret_any,
                               ledger_error *err)
{
    int64_t id;
    ledger_rc rc;

    do {
        sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_PARKED_TRIM_LIST, err);
        if (stmt == NULL)
            return err->code;
        int code = bind_trim(stmt, op);

        id = 0;
        rc = LEDGER_OK;
        if (code == SQLITE_OK)
            code = sqlite3_step(stmt);
        while (code == SQLITE_ROW && ldg_op_survives(op, ldg_id_of(sqlite3_column_int64(stmt, 1))))
            code = sqlite3_step(stmt);
        if (code == SQLITE_ROW)
            id = sqlite3_column_int64(stmt, 0);
        else if (code != SQLITE_DONE)
            rc = ldg_sqlite_fail(s, code, "trimming parked events", err);
        sqlite3_reset(stmt);
        if (rc == LEDGER_OK && id != 0) {
            rc = drop_id(s, id, err);
            *ret_any = true;
        }
    } while (rc == LEDGER_OK && id != 0);
    return rc;
}

ledger_rc ldg_sqlite_parked_trim(struct ldg_sqlite *s, const struct ldg_op *op, bool *ret_any,
                                 ledger_error *err)
{
    sqlite3_stmt *stmt;
    ledger_rc rc;

    *ret_any = false;
    if (op->survivor_count > 0) {
        rc = trim_but_kept(s, op, ret_any, err);
        goto out;
    }
    stmt = ldg_sqlite_stmt(s, LDG_STMT_PARKED_TRIM, err);
    if (stmt == NULL)
        return err->code;
    rc = run_change(s, stmt, bind_trim(stmt, op), "trimming parked events", err);
    if (rc == LEDGER_OK)
        *ret_any = sqlite3_changes(s->db) > 0;
out:
    return rc;
}

/* --- looking at them ------------------------------------------------------------------------- */

static ledger_rc copy_text(sqlite3_stmt *stmt, int column, struct ldg_arena *arena,
                           const char **ret_text, ledger_error *err)
{
    const char *text = (const char *)sqlite3_column_text(stmt, column);

    *ret_text = ldg_arena_strdup(arena, text != NULL ? text : "");
    return *ret_text != NULL ? LEDGER_OK : ldg_fail_nomem(err);
}

static ledger_rc fill_row(sqlite3_stmt *stmt, struct ldg_arena *arena, struct ldg_parked_row *row,
                          ledger_error *err)
{
    const char *uuid = (const char *)sqlite3_column_text(stmt, 1);
    ledger_rc rc;

    memset(row, 0, sizeof(*row));
    row->id = sqlite3_column_int64(stmt, 0);
    if (uuid != NULL)
        sqlite3_snprintf(sizeof(row->source_uuid), row->source_uuid, "%s", uuid);
    row->log_position = sqlite3_column_int64(stmt, 2);
    row->key.number = sqlite3_column_int64(stmt, 3);
    rc = copy_text(stmt, 4, arena, &row->type_name, err);
    if (rc == LEDGER_OK)
        rc = copy_text(stmt, 5, arena, &row->stream, err);
    if (rc == LEDGER_OK)
        rc = copy_text(stmt, 6, arena, &row->reason, err);
    if (rc != LEDGER_OK)
        goto out;
    row->attempts = (uint64_t)sqlite3_column_int64(stmt, 7);
    row->parked_at_us = ldg_sql_column_time(stmt, 8);
    row->time_us = ldg_sql_column_time(stmt, 9);
    const void *event = sqlite3_column_blob(stmt, 10);
    size_t size = (size_t)sqlite3_column_bytes(stmt, 10);
    void *copy = ldg_arena_memdup(arena, event != NULL ? event : "", size);
    if (copy == NULL) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    row->event = (ledger_bytes){ copy, size };
out:
    return rc;
}

ledger_rc ldg_sqlite_parked_list(void *ctx, int64_t after, size_t limit, struct ldg_arena *arena,
                                 struct ldg_parked_row **ret_rows, size_t *ret_count,
                                 ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct ldg_parked_row *rows = NULL;
    size_t count = 0, cap = 0;
    sqlite3_stmt *stmt = NULL;
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_DONE;

    if (s->has_ours) {
        stmt = ldg_sqlite_stmt(s, LDG_STMT_PARKED_LIST, err);
        if (stmt == NULL)
            return err->code;
        code = sqlite3_bind_int64(stmt, 1, after);
        if (code == SQLITE_OK)
            code = sqlite3_bind_int64(stmt, 2, limit < INT64_MAX ? (int64_t)limit : INT64_MAX);
        if (code == SQLITE_OK)
            code = sqlite3_step(stmt);
    }
    for (; code == SQLITE_ROW; code = sqlite3_step(stmt)) {
        if (count == cap) {
            size_t next = cap == 0 ? 16 : cap * 2;
            struct ldg_parked_row *more = ldg_arena_calloc(arena, next, sizeof(*more));

            if (more == NULL) {
                rc = ldg_fail_nomem(err);
                goto out;
            }
            if (count > 0)
                memcpy(more, rows, count * sizeof(*more));
            rows = more;
            cap = next;
        }
        rc = fill_row(stmt, arena, &rows[count], err);
        if (rc != LEDGER_OK)
            goto out;
        count++;
    }
    if (code != SQLITE_DONE) {
        rc = ldg_sqlite_fail(s, code, "listing parked events", err);
        goto out;
    }
    *ret_rows = rows;
    *ret_count = count;
out:
    if (stmt != NULL)
        sqlite3_reset(stmt);
    return rc;
}

ledger_rc ldg_sqlite_parked_count(void *ctx, const char *source_uuid, uint64_t *ret_count,
                                  ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    sqlite3_stmt *stmt;
    int64_t count = 0;
    ledger_rc rc = LEDGER_OK;

    if (s->has_ours) {
        stmt = ldg_sqlite_stmt(s, LDG_STMT_PARKED_COUNT, err);
        if (stmt == NULL)
            return err->code;
        rc = run_number(s, stmt,
                        source_uuid != NULL ? ldg_sqlite_bind_text(stmt, 1, source_uuid)
                                            : sqlite3_bind_null(stmt, 1),
                        &count, err);
    }
    if (rc == LEDGER_OK)
        *ret_count = (uint64_t)count;
    return rc;
}

/* --- trying again ---------------------------------------------------------------------------- */

static ledger_rc note(struct ldg_sqlite *s, int64_t id, const char *reason, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_PARKED_NOTE, err);
    char now[LDG_TIME_TEXT_MAX];
    ledger_rc rc;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    ldg_time_format_ms(ldg_clock_now_us(), now);
    LDG_BIND(code, sqlite3_bind_int64(stmt, 1, id));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 2, reason));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 3, now));
    rc = run_change(s, stmt, code, "noting an attempt", err);
    if (rc == LEDGER_OK && sqlite3_changes(s->db) == 0)
        rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no parked event %" PRId64, id);
    return rc;
}

ledger_rc ldg_sqlite_parked_note(void *ctx, int64_t id, const char *reason, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    bool own;
    ledger_rc rc;

    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_write_end(s, own, note(s, id, reason, err), err);
    return rc;
}

ledger_rc ldg_sqlite_parked_retry(void *ctx, int64_t id, const struct ldg_op *ops, size_t count,
                                  bool *ret_applied, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    ledger_error refused;
    bool own;
    ledger_rc rc;

    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    /* The row goes first: if a trim or another program has taken it away, its entry must not come
     * back. */
    rc = drop_id(s, id, err);
    if (rc == LEDGER_OK && sqlite3_changes(s->db) == 0)
        rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no parked event %" PRId64, id);
    if (rc == LEDGER_OK && count > 0)
        rc = ldg_sqlite_apply_ops(s, ops, count, id, err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
    if (rc == LEDGER_OK) {
        *ret_applied = true;
    } else if (rc == LEDGER_ERR_REJECTED || rc == LEDGER_ERR_POSITION_REUSED) {
        refused = *err;
        rc = ldg_sqlite_parked_note(s, id, refused.message, err);
        if (rc == LEDGER_OK)
            *ret_applied = false;
    }
out:
    return rc;
}

ledger_rc ldg_sqlite_parked_drop(void *ctx, int64_t id, uint64_t *ret_dropped, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    uint64_t dropped = 0;
    bool own;
    ledger_rc rc;

    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = drop_id(s, id, err);
    if (rc == LEDGER_OK) {
        dropped = (uint64_t)sqlite3_changes(s->db);
        if (dropped == 0 && id != 0)
            rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no parked event %" PRId64, id);
    }
    rc = ldg_sqlite_write_end(s, own, rc, err);
    if (rc == LEDGER_OK)
        *ret_dropped = dropped;
out:
    return rc;
}
