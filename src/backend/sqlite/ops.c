/* One op on one row: what it finds here decides what becomes of it.
 *
 * Hides the statements of appends, changes and trims, and which failures are the row's own.
 * Invariants: a replay changes nothing and is compared with what is stored; a change older than the
 * last one of its log loses; a duplicate key is told from a refusal. */
#include "backend/sqlite/apply.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* --- values ---------------------------------------------------------------------------------- */

/* A result of running an op: what this very row runs into is REJECTED, with SQLite's (or a
 * trigger's) own words; anything else would hit every row. A statement that can be prepared meets
 * an SQLITE_ERROR only in a trigger or a generated column; one that cannot be, because a table is
 * no longer what it was when it was prepared first, would meet it with any row. */
ledger_rc ldg_sqlite_op_fail(struct ldg_sqlite *s, int code, const char *doing, ledger_error *err)
{
    int primary = code & 0xff;
    bool known = (sqlite3_errcode(s->db) & 0xff) == primary;
    ledger_error rejected;
    ledger_rc rc;

    if (primary != SQLITE_CONSTRAINT && primary != SQLITE_TOOBIG && primary != SQLITE_MISMATCH &&
        primary != SQLITE_ERROR)
        return ldg_sqlite_fail(s, code, doing, err);
    rc = ldg_fail_native(&rejected, LEDGER_ERR_REJECTED, "sqlite",
                         known ? sqlite3_extended_errcode(s->db) : code, "%s",
                         known ? sqlite3_errmsg(s->db) : sqlite3_errstr(code));
    if (primary == SQLITE_ERROR && ldg_sql_check(s, err) != LEDGER_OK)
        rc = err->code;
    else
        *err = rejected;
    return rc;
}

static int bind_bytes(sqlite3_stmt *stmt, int at, ledger_bytes bytes)
{
    /* A NULL pointer would bind NULL. */
    return sqlite3_bind_blob64(stmt, at, bytes.size > 0 ? bytes.data : "", bytes.size,
                               SQLITE_STATIC);
}

static int bind_origin_stream(sqlite3_stmt *stmt, const struct ldg_op *op)
{
    int code = SQLITE_OK;

    LDG_BIND(code, sqlite3_bind_int(stmt, 1, op->origin));
    LDG_BIND(code, sqlite3_bind_int64(stmt, 2, op->key.number));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 3, op->stream));
    return code;
}

/* Text of a time in the arena. */
static const char *time_text(struct ldg_sqlite_batch *b, int64_t time_us)
{
    if (time_us == LEDGER_NO_TIME)
        time_us = b->now_us;
    int64_t ms = time_us / 1000 - (time_us % 1000 < 0);
    if (b->time_text == NULL || b->time_ms != ms) {
        char text[LDG_TIME_TEXT_MAX];

        ldg_time_format_ms(time_us, text);
        b->time_text = ldg_arena_strdup(&b->s->scratch, text);
        b->time_ms = ms;
    }
    return b->time_text;
}

static ledger_rc put_fail(const struct ldg_buf *buf, ledger_error *err)
{
    return buf->rc == LEDGER_ERR_NOMEM
               ? ldg_fail_nomem(err)
               : ldg_fail(err, LEDGER_ERR_REJECTED, "tags, metadata or annotations are too large");
}

/* Canonical text of a map in the arena; NULL for an empty one. */
static ledger_rc map_text(struct ldg_sqlite_batch *b, ledger_map map, const char **ret_text,
                          ledger_error *err)
{
    ledger_map sorted;
    ledger_rc rc = LEDGER_OK;

    *ret_text = NULL;
    if (map.count == 0)
        goto out;
    rc = ldg_map_sort(map, &b->s->scratch, &sorted, err);
    if (rc != LEDGER_OK)
        goto out;
    ldg_buf_reset(&b->text);
    if (ldg_json_put_map(&b->text, sorted) != LEDGER_OK) {
        rc = put_fail(&b->text, err);
        goto out;
    }
    *ret_text = ldg_arena_strndup(&b->s->scratch, b->text.data, b->text.size);
    if (*ret_text == NULL)
        rc = ldg_fail_nomem(err);
out:
    return rc;
}

static ledger_rc list_text(struct ldg_sqlite_batch *b, ledger_list list, const char **ret_text,
                           ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    *ret_text = "[]";
    if (list.count == 0)
        goto out;
    ldg_buf_reset(&b->text);
    if (ldg_json_put_list(&b->text, list) != LEDGER_OK) {
        rc = put_fail(&b->text, err);
        goto out;
    }
    *ret_text = ldg_arena_strndup(&b->s->scratch, b->text.data, b->text.size);
    if (*ret_text == NULL)
        rc = ldg_fail_nomem(err);
out:
    return rc;
}

/* --- one op ---------------------------------------------------------------------------------- */

ledger_rc ldg_sqlite_pending_fill(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                                  struct ldg_sqlite_pending *p, ledger_error *err)
{
    ledger_rc rc;

    p->op = op;
    p->slot = LDG_NOT_PENDING;
    p->time = time_text(b, op->time_us);
    if (p->time == NULL)
        return ldg_fail_nomem(err);
    rc = map_text(b, op->entry->metadata, &p->metadata, err);
    if (rc == LEDGER_OK)
        rc = list_text(b, op->entry->tags, &p->tags, err);
    p->source_id = "";
    if (rc == LEDGER_OK && b->go_origin != 0 && op->origin == b->go_origin) {
        char text[LDG_SQLITE_INT64_MAX];

        p->source_id =
            ldg_arena_strdup(&b->s->scratch, ldg_sqlite_int64_text(op->key.number, text));
        if (p->source_id == NULL)
            rc = ldg_fail_nomem(err);
    }
    return rc;
}

/* Binds one row of an insert from parameter `at`; id 0: SQLite gives one. */
int ldg_sqlite_bind_row(sqlite3_stmt *stmt, int at, const struct ldg_sqlite_pending *p)
{
    const ledger_append_entry *entry = p->op->entry;
    int code = SQLITE_OK;

    LDG_BIND(code, p->id != 0 ? sqlite3_bind_int64(stmt, at, p->id) : sqlite3_bind_null(stmt, at));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, at + 1, p->op->stream));
    LDG_BIND(code, bind_bytes(stmt, at + 2, entry->payload));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, at + 3, entry->order_key));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, at + 4, entry->dedup_key));
    LDG_BIND(code, sqlite3_bind_int(stmt, at + 5, entry->schema_version));
    LDG_BIND(code, p->metadata != NULL ? ldg_sqlite_bind_text(stmt, at + 6, p->metadata)
                                       : sqlite3_bind_null(stmt, at + 6));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, at + 7, p->tags));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, at + 8, p->time));
    LDG_BIND(code, sqlite3_bind_int(stmt, at + 9, p->op->origin));
    LDG_BIND(code, sqlite3_bind_int64(stmt, at + 10, p->op->key.number));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, at + 11, p->source_id));
    return code;
}

static ledger_bytes column_bytes(sqlite3_stmt *stmt, int column)
{
    const void *data = sqlite3_column_blob(stmt, column);

    return (ledger_bytes){ data, (size_t)sqlite3_column_bytes(stmt, column) };
}

/* *ret_field: what of the stored row is not what this append would write; NULL: nothing. */
static ledger_rc compare_stored(struct ldg_sqlite_batch *b, sqlite3_stmt *stmt,
                                const struct ldg_op *op, const char **ret_field, ledger_error *err)
{
    struct ldg_stored stored = {
        .stream = column_bytes(stmt, 0),
        .payload = column_bytes(stmt, 1),
        .order_key = column_bytes(stmt, 2),
        .dedup_key = column_bytes(stmt, 3),
        .schema_version = sqlite3_column_int64(stmt, 4),
        .created_at_us = ldg_sql_column_time(stmt, 7),
        .by_go = column_bytes(stmt, 6).size > 0,
    };
    const ledger_bytes metadata = column_bytes(stmt, 5);
    ledger_rc rc = LEDGER_OK;

    if (metadata.size > 0)
        rc = ldg_json_get_map(metadata, false, &b->s->scratch, &stored.metadata, err);
    if (rc == LEDGER_ERR_DATA) {
        *ret_field = "metadata";
        return LEDGER_OK;
    }
    return rc == LEDGER_OK ? ldg_op_compare(op, &stored, &b->s->scratch, ret_field, err) : rc;
}

ledger_rc ldg_sqlite_op_replayed(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                                 bool *ret_replayed, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(
        b->s, op->origin == 0 ? LDG_STMT_APPLY_FIND_LOCAL : LDG_STMT_APPLY_FIND, err);
    const char *field = NULL;
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    LDG_BIND(code, sqlite3_bind_int(stmt, 1, op->origin));
    LDG_BIND(code, sqlite3_bind_int64(stmt, 2, op->key.number));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW) {
        rc = compare_stored(b, stmt, op, &field, err);
        if (rc == LEDGER_OK && field != NULL)
            rc = ldg_op_fail_reused(op, field, err);
    } else if (code != SQLITE_DONE) {
        rc = ldg_sqlite_op_fail(b->s, code, "looking for an entry", err);
    }
    *ret_replayed = code == SQLITE_ROW;
    sqlite3_reset(stmt);
    return rc;
}

/* An insert changed nothing: which of the two keys was there? */
static ledger_rc append_conflict(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                                 uint8_t *ret_outcome, ledger_error *err)
{
    sqlite3_stmt *stmt;
    bool replayed = false;
    ledger_rc rc;
    int code = SQLITE_OK;

    rc = ldg_sqlite_op_replayed(b, op, &replayed, err);
    *ret_outcome = LDG_OUTCOME_REPLAYED;
    if (rc != LEDGER_OK || replayed)
        goto out;
    stmt = ldg_sqlite_stmt(b->s, LDG_STMT_APPLY_FIND_DEDUP, err);
    if (stmt == NULL)
        return err->code;
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 1, op->stream));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 2, op->entry->dedup_key));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW)
        *ret_outcome = LDG_OUTCOME_DEDUPLICATED;
    else if (code == SQLITE_DONE)
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "a trigger of table \"%s\" drops the row",
                      b->s->table);
    else
        rc = ldg_sqlite_op_fail(b->s, code, "looking for an entry", err);
    sqlite3_reset(stmt);
out:
    return rc;
}

/* What is here of the entry that op changes. *ret_id 0: nothing. *ret_position: of its last change
 * of annotations. merged: op's annotations go in. */
static ledger_rc look(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t *ret_id,
                      int64_t *ret_position, struct ldg_buf *merged, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(
        b->s, op->origin == 0 ? LDG_STMT_APPLY_LOOK_LOCAL : LDG_STMT_APPLY_LOOK, err);
    ledger_rc rc = LEDGER_OK;

    if (stmt == NULL)
        return err->code;
    int code = bind_origin_stream(stmt, op);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    *ret_id = 0;
    if (code == SQLITE_ROW) {
        *ret_id = sqlite3_column_int64(stmt, 0);
        *ret_position =
            sqlite3_column_type(stmt, 2) == SQLITE_NULL ? INT64_MIN : sqlite3_column_int64(stmt, 2);
        if (merged != NULL) {
            const void *old = sqlite3_column_blob(stmt, 1);

            ldg_buf_reset(merged);
            rc =
                ldg_sqlite_merge(b->s, (ledger_bytes){ old, (size_t)sqlite3_column_bytes(stmt, 1) },
                                 op->annotations, merged, err);
            if (rc == LEDGER_ERR_DATA || rc == LEDGER_ERR_TOO_LARGE)
                err->code = rc = LEDGER_ERR_REJECTED;
        }
    } else if (code != SQLITE_DONE) {
        rc = ldg_sqlite_op_fail(b->s, code, "looking for an entry", err);
    }
    sqlite3_reset(stmt);
    return rc;
}

/* --- order ---------------------------------------------------------------------------------- */

void ldg_sqlite_order_forget(struct ldg_sqlite_batch *b)
{
    b->order_count = 0;
}

static ledger_rc order_load(struct ldg_sqlite_batch *b, int origin, struct ldg_sqlite_order *order,
                            ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(b->s, LDG_STMT_ORIGIN_ORDER, err);
    ledger_rc rc = LEDGER_OK;

    if (stmt == NULL)
        return err->code;
    *order = (struct ldg_sqlite_order){ .origin = origin };
    int code = sqlite3_bind_int(stmt, 1, origin);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW) {
        order->ordered = sqlite3_column_int(stmt, 0) != 0;
        order->highest = sqlite3_column_int64(stmt, 1);
    } else if (code != SQLITE_DONE) {
        rc = ldg_sqlite_fail(b->s, code, "looking for an origin", err);
    }
    sqlite3_reset(stmt);
    return rc;
}

/* Loaded once a batch: the table does not show what is pending. */
ledger_rc ldg_sqlite_order_get(struct ldg_sqlite_batch *b, int origin,
                               struct ldg_sqlite_order **ret_order, ledger_error *err)
{
    struct ldg_sqlite_order *order = NULL;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; i < b->order_count && order == NULL; i++) {
        if (b->orders[i].origin == origin)
            order = &b->orders[i];
    }
    if (order == NULL && b->order_count == b->order_cap) {
        size_t cap = b->order_cap == 0 ? 4 : b->order_cap * 2;
        struct ldg_sqlite_order *more = ldg_arena_calloc(&b->s->scratch, cap, sizeof(*more));

        if (more == NULL) {
            rc = ldg_fail_nomem(err);
            goto out;
        }
        if (b->order_count > 0)
            memcpy(more, b->orders, b->order_count * sizeof(*more));
        b->orders = more;
        b->order_cap = cap;
    }
    if (order == NULL) {
        order = &b->orders[b->order_count];
        rc = order_load(b, origin, order, err);
        if (rc == LEDGER_OK)
            b->order_count++;
    }
    if (rc == LEDGER_OK)
        *ret_order = order;
out:
    return rc;
}

/* An entry comes late when its stream holds a later one of its origin: a retried event, a replay of
 * what was trimmed. From then on trims of this origin look at whole streams. */
ledger_rc ldg_sqlite_order_added(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                                 ledger_error *err)
{
    struct ldg_sqlite_order *order = NULL;
    sqlite3_stmt *stmt;
    bool late = false;
    ledger_rc rc;

    rc = ldg_sqlite_order_get(b, op->origin, &order, err);
    if (rc != LEDGER_OK || !order->ordered)
        goto out;
    if (op->key.number > order->highest) {
        order->highest = op->key.number;
        goto out;
    }
    stmt = ldg_sqlite_stmt(b->s, LDG_STMT_APPLY_LATER, err);
    if (stmt == NULL)
        return err->code;
    int code = bind_origin_stream(stmt, op);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    late = code == SQLITE_ROW;
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        rc = ldg_sqlite_op_fail(b->s, code, "looking for later entries", err);
    sqlite3_reset(stmt);
    if (rc == LEDGER_OK && late) {
        rc = ldg_sqlite_origin_disorder(b->s, op->origin, "noting a late entry", err);
        order->ordered = false;
    }
out:
    return rc;
}

/* --- the ops -------------------------------------------------------------------------------- */

/* An insert hit a unique index that is not one of ours. If it is Go's, the row that is there with
 * this source_id was carried by the Go bridge; or it is another entry, whose number is this one's
 * by chance: then *ret_free, and this one goes without. Else `code` stands. */
static ledger_rc go_conflict(struct ldg_sqlite_batch *b, const struct ldg_sqlite_pending *p,
                             int code, bool *ret_free, ledger_error *err)
{
    ledger_rc rc = ldg_sqlite_op_fail(b->s, code, "adding an entry", err);
    ledger_error why = *err;
    sqlite3_stmt *stmt;

    if (rc != LEDGER_ERR_REJECTED || err->native_code != SQLITE_CONSTRAINT_UNIQUE ||
        p->source_id[0] == '\0')
        return rc;
    stmt = ldg_sqlite_stmt(b->s, LDG_STMT_GO_FIND, err);
    if (stmt == NULL)
        return err->code;
    code = ldg_sqlite_bind_text(stmt, 1, p->source_id);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW) {
        const void *stream = sqlite3_column_blob(stmt, 0);
        const size_t stream_size = (size_t)sqlite3_column_bytes(stmt, 0);
        const void *payload = sqlite3_column_blob(stmt, 1);
        const size_t payload_size = (size_t)sqlite3_column_bytes(stmt, 1);

        *ret_free =
            !sqlite3_column_int(stmt, 2) ||
            !ldg_op_is_of_go(p->op, (ledger_bytes){ stream != NULL ? stream : "", stream_size },
                             (ledger_bytes){ payload != NULL ? payload : "", payload_size });
        rc = *ret_free ? LEDGER_OK : ldg_op_fail_foreign(p->op, b->s->table, err);
    } else if (code == SQLITE_DONE) {
        *err = why;
    } else {
        rc = ldg_sqlite_op_fail(b->s, code, "looking for an entry", err);
    }
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc append_one(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                            uint8_t *ret_outcome, ledger_error *err)
{
    struct ldg_sqlite_pending p = { 0 };
    sqlite3_stmt *stmt = NULL;
    ledger_rc rc;

    if (op->origin == 0) { /* written here and gone since */
        *ret_outcome = LDG_OUTCOME_MISSING;
        return LEDGER_OK;
    }
    rc = ldg_sqlite_pending_fill(b, op, &p, err);
    if (rc != LEDGER_OK)
        goto out;
    stmt = ldg_sqlite_stmt(b->s, LDG_STMT_APPLY_INSERT_SAFE, err);
    if (stmt == NULL) {
        rc = err->code;
        goto out;
    }
    int code = ldg_sqlite_bind_row(stmt, 1, &p);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE) {
        bool goes_without = false;

        rc = go_conflict(b, &p, code, &goes_without, err);
        sqlite3_reset(stmt);
        if (rc != LEDGER_OK || !goes_without)
            goto out;
        p.source_id = "";
        code = ldg_sqlite_bind_row(stmt, 1, &p);
        if (code == SQLITE_OK)
            code = sqlite3_step(stmt);
    }
    if (code != SQLITE_DONE) {
        rc = ldg_sqlite_op_fail(b->s, code, "adding an entry", err);
        goto out;
    }
    sqlite3_reset(stmt);
    if (sqlite3_changes(b->s->db) == 0) {
        rc = append_conflict(b, op, ret_outcome, err);
    } else {
        *ret_outcome = LDG_OUTCOME_APPLIED;
        int64_t new_id = sqlite3_last_insert_rowid(b->s->db);
        rc = ldg_sqlite_order_added(b, op, err);
        if (rc == LEDGER_OK)
            rc = ldg_sqlite_chain_append(b, op, new_id, err);
    }
out:
    if (stmt != NULL)
        sqlite3_reset(stmt);
    return rc;
}

/* Positions compare only within one log. Those of the entry's own log are kept with the entry,
 * those of changes made elsewhere (a chain's local tag) in <table>_foreign. Between two logs the
 * one that comes last wins. */
static bool is_guarded(const struct ldg_op *op)
{
    return op->origin != 0 && op->mutation_origin == op->origin;
}

static int bind_foreign(sqlite3_stmt *stmt, const struct ldg_op *op, int64_t id)
{
    int code = SQLITE_OK;

    LDG_BIND(code, sqlite3_bind_int(stmt, 1, op->origin));
    LDG_BIND(code, sqlite3_bind_int64(stmt, 2, op->key.number));
    LDG_BIND(code, sqlite3_bind_int(stmt, 3, op->mutation_origin));
    LDG_BIND(code, sqlite3_bind_int(stmt, 4, op->kind == LDG_OP_SET_TAGS ? 1 : 2));
    LDG_BIND(code, sqlite3_bind_int64(stmt, 5, id));
    return code;
}

/* Was this change of another log, or a later one, applied to the entry before? */
static ledger_rc foreign_known(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t id,
                               bool *ret_known, ledger_error *err)
{
    sqlite3_stmt *stmt = NULL;
    ledger_rc rc = LEDGER_OK;
    int code;

    *ret_known = false;
    if (is_guarded(op) || !b->foreign_any)
        goto out;
    stmt = ldg_sqlite_stmt(b->s, LDG_STMT_FOREIGN_GET, err);
    if (stmt == NULL)
        return err->code;
    code = bind_foreign(stmt, op, id);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW)
        *ret_known = sqlite3_column_int64(stmt, 0) >= op->position;
    else if (code != SQLITE_DONE)
        rc = ldg_sqlite_fail(b->s, code, "looking for an earlier change", err);
    sqlite3_reset(stmt);
out:
    return rc;
}

static ledger_rc foreign_note(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t id,
                              ledger_error *err)
{
    sqlite3_stmt *stmt = NULL;
    ledger_rc rc = LEDGER_OK;
    int code;

    if (is_guarded(op))
        goto out;
    stmt = ldg_sqlite_stmt(b->s, LDG_STMT_FOREIGN_PUT, err);
    if (stmt == NULL)
        return err->code;
    code = bind_foreign(stmt, op, id);
    LDG_BIND(code, sqlite3_bind_int64(stmt, 6, op->position));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE)
        rc = ldg_sqlite_own_fail(b->s, code, "noting a change", err);
    sqlite3_reset(stmt);
    b->foreign_any = true;
out:
    return rc;
}

/* A trigger's RAISE(IGNORE) leaves a row as it is, and no statement tells. */
static ledger_rc fail_kept(const struct ldg_sqlite_batch *b, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_REJECTED, "a trigger of table \"%s\" keeps a row as it is",
                    b->s->table);
}

static ledger_rc has_triggers(struct ldg_sqlite_batch *b, bool *ret_any, ledger_error *err)
{
    int64_t any = 0;
    ledger_rc rc = LEDGER_OK;

    if (!b->triggers_known) {
        rc = ldg_sqlite_run_ints(b->s, LDG_STMT_TRIGGERS, "looking for triggers", NULL, 0, &any,
                                 err);
        b->triggers_known = rc == LEDGER_OK;
        b->triggers_any = any != 0;
    }
    *ret_any = b->triggers_any;
    return rc;
}

/* No row was changed though the entry is there: had it a later change, or did a trigger keep it? */
static ledger_rc tags_check(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t id,
                            ledger_error *err)
{
    int64_t older = 0;
    bool any;
    ledger_rc rc = has_triggers(b, &any, err);

    if (rc == LEDGER_OK && any)
        rc = ldg_sqlite_run_ints(b->s, LDG_STMT_APPLY_TAGS_OLDER, "looking for an entry",
                                 (const int64_t[]){ id, op->position }, 2, &older, err);
    return rc == LEDGER_OK && older != 0 ? fail_kept(b, err) : rc;
}

/* By the entry's own log: guard and change in one statement. */
static ledger_rc set_tags_guarded(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                                  const char *tags, const char *time, bool *ret_changed,
                                  ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(b->s, LDG_STMT_APPLY_TAGS, err);
    ledger_rc rc = LEDGER_OK;
    int code;

    if (stmt == NULL)
        return err->code;
    code = bind_origin_stream(stmt, op);
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 4, tags));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 5, time));
    LDG_BIND(code, sqlite3_bind_int64(stmt, 6, op->position));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_DONE)
        *ret_changed = sqlite3_changes(b->s->db) > 0;
    else
        rc = ldg_sqlite_op_fail(b->s, code, "setting tags", err);
    sqlite3_reset(stmt);
    return rc;
}

/* By id: tags or annotations, with the mutation's position where it counts. */
static ledger_rc set_by_id(struct ldg_sqlite_batch *b, enum ldg_sqlite_stmt_id statement,
                           int64_t id, const char *text, const char *time, const struct ldg_op *op,
                           ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(b->s, statement, err);
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    LDG_BIND(code, sqlite3_bind_int64(stmt, 1, id));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 2, text));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 3, time));
    if (statement == LDG_STMT_APPLY_ANNOTATIONS)
        LDG_BIND(code, is_guarded(op) ? sqlite3_bind_int64(stmt, 4, op->position)
                                      : sqlite3_bind_null(stmt, 4));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE)
        rc = ldg_sqlite_op_fail(b->s, code, "changing an entry", err);
    else if (sqlite3_changes(b->s->db) == 0)
        rc = fail_kept(b, err);
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc set_tags_one(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                              uint8_t *ret_outcome, ledger_error *err)
{
    const char *tags, *time = time_text(b, op->time_us);
    int64_t id = 0, ignored;
    bool changed = false, known = false;
    ledger_rc rc;

    if (time == NULL)
        return ldg_fail_nomem(err);
    rc = list_text(b, op->tags, &tags, err);
    if (rc != LEDGER_OK)
        goto out;
    if (!is_guarded(op)) {
        rc = look(b, op, &id, &ignored, NULL, err);
        if (rc == LEDGER_OK && id != 0)
            rc = foreign_known(b, op, id, &known, err);
        if (rc == LEDGER_OK && id != 0 && !known) {
            rc = set_by_id(b, LDG_STMT_SET_TAGS, id, tags, time, op, err);
            changed = true;
        }
        if (rc == LEDGER_OK && changed)
            rc = foreign_note(b, op, id, err);
    } else {
        rc = set_tags_guarded(b, op, tags, time, &changed, err);
        if (rc == LEDGER_OK && (!changed || b->s->has_log))
            rc = look(b, op, &id, &ignored, NULL, err);
        if (rc == LEDGER_OK && !changed && id != 0)
            rc = tags_check(b, op, id, err);
    }
    if (rc != LEDGER_OK)
        goto out;
    *ret_outcome = changed   ? LDG_OUTCOME_APPLIED
                   : id != 0 ? LDG_OUTCOME_REPLAYED
                             : LDG_OUTCOME_MISSING;
    if (changed)
        rc = ldg_sqlite_chain_change(b, op, id, err);
out:
    return rc;
}

static ledger_rc set_annotations_one(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                                     uint8_t *ret_outcome, ledger_error *err)
{
    const char *time = time_text(b, op->time_us);
    int64_t id, position = INT64_MIN;
    bool known = false;
    ledger_rc rc;

    if (time == NULL)
        return ldg_fail_nomem(err);
    rc = look(b, op, &id, &position, &b->text, err);
    if (rc != LEDGER_OK)
        goto out;
    if (id != 0)
        rc = foreign_known(b, op, id, &known, err);
    if (rc != LEDGER_OK)
        goto out;
    if (id == 0) {
        *ret_outcome = LDG_OUTCOME_MISSING;
    } else if (known || (is_guarded(op) && position >= op->position)) {
        *ret_outcome = LDG_OUTCOME_REPLAYED;
    } else {
        rc = set_by_id(b, LDG_STMT_APPLY_ANNOTATIONS, id, b->text.data, time, op, err);
        if (rc == LEDGER_OK)
            rc = foreign_note(b, op, id, err);
        if (rc == LEDGER_OK)
            rc = ldg_sqlite_chain_change(b, op, id, err);
        *ret_outcome = LDG_OUTCOME_APPLIED;
    }
out:
    return rc;
}

/* Ids, in the arena, of what a trim deletes when the source keeps some of it. */
static ledger_rc trim_list(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t **ret_ids,
                           size_t *ret_count, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(
        b->s, op->origin == 0 ? LDG_STMT_APPLY_TRIM_LIST_LOCAL : LDG_STMT_APPLY_TRIM_LIST, err);
    int64_t *ids = NULL;
    size_t count = 0, cap = 0;
    ledger_rc rc = LEDGER_OK;

    if (stmt == NULL)
        return err->code;
    int code = bind_origin_stream(stmt, op);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    for (; code == SQLITE_ROW; code = sqlite3_step(stmt)) {
        if (ldg_op_survives(op, ldg_id_of(sqlite3_column_int64(stmt, 1))))
            continue;
        if (count == cap) {
            size_t next = cap == 0 ? 64 : cap * 2;
            int64_t *more = ldg_arena_calloc(&b->s->scratch, next, sizeof(*more));

            if (more == NULL) {
                rc = ldg_fail_nomem(err);
                goto out;
            }
            if (count > 0)
                memcpy(more, ids, count * sizeof(*more));
            ids = more;
            cap = next;
        }
        ids[count++] = sqlite3_column_int64(stmt, 0);
    }
    if (code != SQLITE_DONE)
        rc = ldg_sqlite_op_fail(b->s, code, "trimming a stream", err);
    *ret_ids = ids;
    *ret_count = count;
out:
    sqlite3_reset(stmt);
    return rc;
}

/* Where a stream's ids rise with those of its origin, the trim ends at its last entry. */
static ledger_rc trim_end(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t *ret_id,
                          ledger_error *err)
{
    struct ldg_sqlite_order *order = NULL;
    int64_t ignored;
    ledger_rc rc = LEDGER_OK;

    *ret_id = 0;
    if (op->origin != 0) {
        rc = ldg_sqlite_order_get(b, op->origin, &order, err);
        if (rc == LEDGER_OK && order->ordered)
            rc = look(b, op, ret_id, &ignored, NULL, err);
    }
    return rc;
}

/* Before the entries go: they tell which rows of <table>_foreign are theirs. */
static ledger_rc foreign_trim(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t last_id,
                              ledger_error *err)
{
    sqlite3_stmt *stmt = NULL;
    ledger_rc rc = LEDGER_OK;
    int code;

    if (!b->foreign_any)
        goto out;
    stmt = ldg_sqlite_stmt(b->s, LDG_STMT_FOREIGN_TRIM, err);
    if (stmt == NULL)
        return err->code;
    code = bind_origin_stream(stmt, op);
    LDG_BIND(code, sqlite3_bind_int64(stmt, 4, last_id));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE)
        rc = ldg_sqlite_own_fail(b->s, code, "forgetting changes of others", err);
    sqlite3_reset(stmt);
out:
    return rc;
}

/* The highest id of what a trim deletes. 0: there is nothing. */
static ledger_rc trim_highest(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t end,
                              int64_t *ret_highest, ledger_error *err)
{
    sqlite3_stmt *stmt;
    ledger_rc rc = LEDGER_OK;
    int code;

    stmt = ldg_sqlite_stmt(b->s,
                           op->origin == 0 ? LDG_STMT_APPLY_TRIM_HIGHEST_LOCAL
                           : end != 0      ? LDG_STMT_APPLY_TRIM_HIGHEST_ORDERED
                                           : LDG_STMT_APPLY_TRIM_HIGHEST,
                           err);
    if (stmt == NULL)
        return err->code;
    code = bind_origin_stream(stmt, op);
    if (end != 0)
        LDG_BIND(code, sqlite3_bind_int64(stmt, 4, end));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW)
        *ret_highest = sqlite3_column_int64(stmt, 0);
    else
        rc = ldg_sqlite_op_fail(b->s, code, "trimming a stream", err);
    sqlite3_reset(stmt);
    return rc;
}

/* Are all entries gone that the trim has just deleted? */
static ledger_rc trim_check(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t end,
                            ledger_error *err)
{
    int64_t left = 0;
    bool any;
    ledger_rc rc = has_triggers(b, &any, err);

    if (rc == LEDGER_OK && any)
        rc = trim_highest(b, op, end, &left, err);
    return rc == LEDGER_OK && left != 0 ? fail_kept(b, err) : rc;
}

static ledger_rc trim_statement(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                                int64_t *ret_deleted, int64_t *ret_highest, ledger_error *err)
{
    enum ldg_sqlite_stmt_id id = LDG_STMT_APPLY_TRIM;
    sqlite3_stmt *stmt;
    int64_t end;
    ledger_rc rc;

    rc = trim_end(b, op, &end, err);
    if (rc != LEDGER_OK)
        goto out;
    if (op->origin == 0)
        id = LDG_STMT_APPLY_TRIM_LOCAL;
    else if (end != 0)
        id = LDG_STMT_APPLY_TRIM_ORDERED;
    rc = foreign_trim(b, op, op->origin == 0 ? op->key.number : end != 0 ? end : INT64_MAX, err);
    if (rc == LEDGER_OK && b->s->has_log) /* its own event names it */
        rc = trim_highest(b, op, end, ret_highest, err);
    if (rc != LEDGER_OK)
        goto out;
    stmt = ldg_sqlite_stmt(b->s, id, err);
    if (stmt == NULL)
        return err->code;
    int code = bind_origin_stream(stmt, op);
    if (end != 0)
        LDG_BIND(code, sqlite3_bind_int64(stmt, 4, end));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_DONE)
        *ret_deleted = sqlite3_changes(b->s->db);
    else
        rc = ldg_sqlite_op_fail(b->s, code, "trimming a stream", err);
    sqlite3_reset(stmt);
    if (rc == LEDGER_OK)
        rc = trim_check(b, op, end, err);
out:
    return rc;
}

static ledger_rc delete_id(struct ldg_sqlite_batch *b, int64_t id, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(b->s, LDG_STMT_DELETE, err);
    ledger_rc rc = LEDGER_OK;

    if (stmt == NULL)
        return err->code;
    int code = sqlite3_bind_int64(stmt, 1, id);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE)
        rc = ldg_sqlite_op_fail(b->s, code, "trimming a stream", err);
    else if (sqlite3_changes(b->s->db) == 0)
        rc = fail_kept(b, err);
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc trim_one(struct ldg_sqlite_batch *b, const struct ldg_op *op, uint8_t *ret_outcome,
                          ledger_error *err)
{
    int64_t deleted = 0, highest = 0, *ids = NULL;
    size_t count = 0;
    bool unparked = false;
    ledger_rc rc;

    if (op->survivor_count == 0) {
        rc = trim_statement(b, op, &deleted, &highest, err);
    } else {
        rc = trim_list(b, op, &ids, &count, err);
        for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
            if (b->foreign_any)
                rc = ldg_sqlite_run_ints(b->s, LDG_STMT_FOREIGN_DELETE, "trimming a stream",
                                         (const int64_t[]){ op->origin, ids[i] }, 2, NULL, err);
            if (rc == LEDGER_OK)
                rc = delete_id(b, ids[i], err);
            if (ids[i] > highest)
                highest = ids[i];
        }
        deleted = rc == LEDGER_OK ? (int64_t)count : 0;
    }
    if (rc == LEDGER_OK && b->parked_any)
        rc = ldg_sqlite_parked_trim(b->s, op, &unparked, err);
    if (rc == LEDGER_OK && deleted > 0)
        rc = ldg_sqlite_chain_change(b, op, highest, err);
    *ret_outcome = deleted > 0 || unparked ? LDG_OUTCOME_APPLIED : LDG_OUTCOME_REPLAYED;
    return rc;
}

ledger_rc ldg_sqlite_op_run(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                            uint8_t *ret_outcome, ledger_error *err)
{
    ledger_rc rc;

    if (ldg_op_came_round(op)) {
        *ret_outcome = LDG_OUTCOME_REPLAYED;
        return LEDGER_OK;
    }
    switch (op->kind) {
    case LDG_OP_APPEND:
        rc = append_one(b, op, ret_outcome, err);
        break;
    case LDG_OP_SET_TAGS:
        rc = set_tags_one(b, op, ret_outcome, err);
        break;
    case LDG_OP_SET_ANNOTATIONS:
        rc = set_annotations_one(b, op, ret_outcome, err);
        break;
    case LDG_OP_TRIM:
        rc = trim_one(b, op, ret_outcome, err);
        break;
    case LDG_OP_PARK:
    default:
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "%s",
                      op->reason != NULL ? op->reason : "this operation is not known here");
        break;
    }
    return rc;
}
