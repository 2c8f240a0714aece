/* The sink's side: origins, cursors, and the fenced batch.
 *
 * A batch is one transaction: fence, ops, cursor. Because data and cursor commit together a replay is
 * the exception, so appends go in by plain multi-row inserts; a batch that hits a constraint is rolled
 * back whole and done again op by op. Invariants: the cursor row moves only in the transaction that
 * applied what lies before it; a stream's ids here follow the order of the log; whatever fails leaves
 * nothing behind. */
#include "backend/sqlite/sqlite.h"

#include "base/hash.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INSERT_COLUMNS 11
/* With fewer rows than this per stream the indexes gain more from the order of streams than the
 * index of the origin loses by it (measured: 1.2 of log order at one row, 0.97 at twenty). */
#define SORT_ROWS_PER_STREAM 4
#define SORT_MIN_ROWS 64
#define NOT_PENDING UINT32_MAX

/* Keeps the first failure of a row of binds. */
#define BIND(code, call)                                                                           \
    do {                                                                                           \
        int bind_code_ = (call);                                                                   \
        if (bind_code_ != SQLITE_OK)                                                               \
            (code) = bind_code_;                                                                   \
    } while (0)

/* An append that waits for its group. Texts are in the scratch arena. */
struct pending {
    const struct ldg_op *op;
    size_t index;         /* of op */
    int64_t id;
    const char *time;
    const char *metadata; /* NULL: none */
    const char *tags;
    uint32_t slot;        /* in `slots`, if it made its stream's entry; else NOT_PENDING */
};

struct batch {
    struct ldg_sqlite *s;
    const struct ldg_op *ops;
    size_t count;
    uint8_t *outcomes;
    bool park_rejected;
    bool parked_any;       /* some event is parked, perhaps one of an entry in this batch */
    bool can_park;
    int64_t parked_id;     /* the row that is retried; else INT64_MAX */
    const char **forced;   /* reason to park this op without trying it; NULL: none at all */
    struct ldg_buf text;   /* of the op in hand */
    char now[LDG_TIME_TEXT_MAX];
    int64_t now_us;
    /* The time text made last: neighbours mostly share it. */
    int64_t time_ms;
    const char *time_text;
    /* bulk */
    struct pending *pending;
    const struct pending **sorted;
    uint32_t *slots;       /* open hash of the pending streams: index in pending + 1 */
    size_t slot_mask, pending_count, stream_count;
    bool ascending;        /* pending source positions rise and have one origin */
    int64_t lowest, highest;
    int64_t next_id;       /* 0: not asked yet */
    /* events for the sink's own log */
    ledger_append_entry *chain;
    size_t chain_count;
    const struct ldg_op *chain_op;
    struct origin_text {
        int number;
        char text[LDG_UUID_TEXT_MAX + 24];
    } origin_texts[2];
    size_t origin_text_count;
};

/* --- small helpers --------------------------------------------------------------------------- */

/* A result of running an op: what this very row runs into is REJECTED, with SQLite's (or a
 * trigger's) own words; anything else would hit every row. The statements were prepared before, so
 * an SQLITE_ERROR while one runs comes from a trigger or a generated column. */
static ledger_rc op_fail(struct ldg_sqlite *s, int code, const char *doing, ledger_error *err)
{
    int primary = code & 0xff;
    bool known = (sqlite3_errcode(s->db) & 0xff) == primary;

    if (primary == SQLITE_CONSTRAINT || primary == SQLITE_TOOBIG || primary == SQLITE_MISMATCH ||
        (primary == SQLITE_ERROR && strncmp(sqlite3_errmsg(s->db), "no such ", 8) != 0))
        return ldg_fail_native(err, LEDGER_ERR_REJECTED, "sqlite",
                               known ? sqlite3_extended_errcode(s->db) : code, "%s",
                               known ? sqlite3_errmsg(s->db) : sqlite3_errstr(code));
    return ldg_sqlite_fail(s, code, doing, err);
}

static int bind_text(sqlite3_stmt *stmt, int at, const char *text)
{
    return sqlite3_bind_text(stmt, at, text, -1, SQLITE_STATIC);
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

    BIND(code, sqlite3_bind_int(stmt, 1, op->origin));
    BIND(code, sqlite3_bind_int64(stmt, 2, op->source_pos));
    BIND(code, bind_text(stmt, 3, op->stream));
    return code;
}

/* Text of a time in the arena. */
static const char *time_text(struct batch *b, int64_t time_us)
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
static ledger_rc map_text(struct batch *b, ledger_map map, const char **ret_text, ledger_error *err)
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

static ledger_rc list_text(struct batch *b, ledger_list list, const char **ret_text,
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

ledger_rc ldg_sqlite_write_begin(struct ldg_sqlite *s, bool *ret_own, ledger_error *err)
{
    ledger_rc rc = ldg_sqlite_begin_write(s, ret_own, err);

    if (rc == LEDGER_OK && !*ret_own)
        rc = ldg_sqlite_run(s, LDG_STMT_SAVEPOINT, "beginning a batch", err);
    return rc;
}

ledger_rc ldg_sqlite_write_end(struct ldg_sqlite *s, bool own, ledger_rc rc, ledger_error *err)
{
    ledger_error ignored = { 0 };

    if (own) {
        if (rc == LEDGER_OK)
            rc = ldg_sqlite_commit(s, err);
        if (rc != LEDGER_OK)
            ldg_sqlite_rollback(s);
    } else if (rc == LEDGER_OK) {
        rc = ldg_sqlite_run(s, LDG_STMT_SAVEPOINT_RELEASE, "ending a batch", err);
    } else if (!sqlite3_get_autocommit(s->db) &&
               ldg_sqlite_run(s, LDG_STMT_SAVEPOINT_ROLLBACK, "undoing a batch", &ignored) ==
                   LEDGER_OK) {
        (void)!ldg_sqlite_run(s, LDG_STMT_SAVEPOINT_RELEASE, "undoing a batch", &ignored);
    }
    return rc;
}

/* --- origins --------------------------------------------------------------------------------- */

static ledger_rc origin_find(struct ldg_sqlite *s, const struct ldg_identity *identity,
                             int *ret_origin, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_ORIGIN_GET, err);
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    BIND(code, bind_text(stmt, 1, identity->uuid));
    BIND(code, sqlite3_bind_int64(stmt, 2, identity->epoch));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW)
        *ret_origin = sqlite3_column_int(stmt, 0);
    else if (code == SQLITE_DONE)
        *ret_origin = 0;
    else
        rc = ldg_sqlite_fail(s, code, "looking for an origin", err);
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc origin_insert(struct ldg_sqlite *s, const struct ldg_identity *identity,
                               const char *name, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_ORIGIN_INSERT, err);
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    BIND(code, bind_text(stmt, 1, identity->uuid));
    BIND(code, sqlite3_bind_int64(stmt, 2, identity->epoch));
    BIND(code, bind_text(stmt, 3, name != NULL ? name : ""));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE)
        rc = ldg_sqlite_fail(s, code, "adding an origin", err);
    sqlite3_reset(stmt);
    return rc;
}

ledger_rc ldg_sqlite_origin_get(void *ctx, const struct ldg_identity *identity, const char *name,
                                int *ret_origin, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    bool own;
    int origin = 0;
    ledger_rc rc = LEDGER_OK;

    if (strcmp(identity->uuid, s->identity.uuid) == 0 && identity->epoch == s->identity.epoch)
        goto out;
    rc = origin_find(s, identity, &origin, err);
    if (rc != LEDGER_OK || origin != 0)
        goto out;
    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = origin_insert(s, identity, name, err); /* leaves a row that another program just made */
    if (rc == LEDGER_OK)
        rc = origin_find(s, identity, &origin, err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
out:
    if (rc == LEDGER_OK) {
        s->has_origins = s->has_origins || origin != 0;
        *ret_origin = origin;
    }
    return rc;
}

/* Copies one row's identity; SCHEMA when it is none. */
static ledger_rc take_identity(struct ldg_sqlite *s, sqlite3_stmt *stmt, int column,
                               struct ldg_identity *identity, ledger_error *err)
{
    const char *uuid = (const char *)sqlite3_column_text(stmt, column);
    ledger_rc rc = LEDGER_OK;

    if (uuid == NULL || strlen(uuid) >= sizeof(identity->uuid)) {
        rc = ldg_fail(err, LEDGER_ERR_SCHEMA, "table \"%s_origins\" holds a row without a uuid",
                      s->table);
        goto out;
    }
    memset(identity, 0, sizeof(*identity));
    memcpy(identity->uuid, uuid, strlen(uuid));
    identity->epoch = sqlite3_column_int64(stmt, column + 1);
out:
    return rc;
}

ledger_rc ldg_sqlite_origin_list(void *ctx, struct ldg_arena *arena,
                                 struct ldg_identity **ret_items, int **ret_numbers,
                                 size_t *ret_count, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct ldg_identity *items = NULL;
    int *numbers = NULL;
    size_t count = 0, cap = 0;
    sqlite3_stmt *stmt = NULL;
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_DONE;

    if (s->has_ours) {
        stmt = ldg_sqlite_stmt(s, LDG_STMT_ORIGIN_LIST, err);
        if (stmt == NULL)
            return err->code;
    }
    while (stmt != NULL && (code = sqlite3_step(stmt)) == SQLITE_ROW) {
        if (count == cap) {
            size_t next = cap == 0 ? 16 : cap * 2;
            struct ldg_identity *more = ldg_arena_calloc(arena, next, sizeof(*more));
            int *more_numbers = ldg_arena_calloc(arena, next, sizeof(*more_numbers));

            if (more == NULL || more_numbers == NULL) {
                rc = ldg_fail_nomem(err);
                goto out;
            }
            if (count > 0) {
                memcpy(more, items, count * sizeof(*more));
                memcpy(more_numbers, numbers, count * sizeof(*more_numbers));
            }
            items = more;
            numbers = more_numbers;
            cap = next;
        }
        rc = take_identity(s, stmt, 1, &items[count], err);
        if (rc != LEDGER_OK)
            goto out;
        numbers[count++] = sqlite3_column_int(stmt, 0);
    }
    if (code != SQLITE_DONE) {
        rc = ldg_sqlite_fail(s, code, "listing origins", err);
        goto out;
    }
    *ret_items = items;
    *ret_numbers = numbers;
    *ret_count = count;
out:
    if (stmt != NULL)
        sqlite3_reset(stmt);
    return rc;
}

/* Runs a statement with up to three integers; *ret_value (may be NULL): its first column. */
static ledger_rc run_ints(struct ldg_sqlite *s, enum ldg_sqlite_stmt_id id, const char *doing,
                          const int64_t *values, int count, int64_t *ret_value, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, id, err);
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    for (int i = 0; i < count; i++)
        BIND(code, sqlite3_bind_int64(stmt, i + 1, values[i]));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW && ret_value != NULL)
        *ret_value = sqlite3_column_int64(stmt, 0);
    else if (code != SQLITE_ROW && code != SQLITE_DONE)
        rc = ldg_sqlite_fail(s, code, doing, err);
    sqlite3_reset(stmt);
    return rc;
}

/* One short transaction of adoption, so that writers get their turn. *after moves; 0: at the end. */
static ledger_rc adopt_some(struct ldg_sqlite *s, int origin, int64_t *after, uint64_t *adopted,
                            ledger_error *err)
{
    static const char doing[] = "adopting the entries of another bridge";
    int64_t last = 0;
    bool own;
    ledger_rc rc;

    rc = run_ints(s, LDG_STMT_ADOPT_NEXT, doing, after, 1, &last, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    if (last != 0) {
        rc = run_ints(s, LDG_STMT_ADOPT, doing, (const int64_t[]){ origin, *after, last }, 3, NULL,
                      err);
        if (rc == LEDGER_OK)
            *adopted += (uint64_t)sqlite3_changes(s->db);
    } else {
        rc = run_ints(s, LDG_STMT_ADOPT_MARK, doing, (const int64_t[]){ origin }, 1, NULL, err);
    }
    rc = ldg_sqlite_write_end(s, own, rc, err);
    *after = last;
out:
    return rc;
}

ledger_rc ldg_sqlite_origin_adopt(void *ctx, int origin, uint64_t *ret_adopted, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    uint64_t adopted = 0;
    int64_t after = 0;
    ledger_rc rc;

    do
        rc = adopt_some(s, origin, &after, &adopted, err);
    while (rc == LEDGER_OK && after != 0);
    if (rc == LEDGER_OK)
        *ret_adopted = adopted;
    return rc;
}

/* --- cursors --------------------------------------------------------------------------------- */

static bool take_text(sqlite3_stmt *stmt, int column, char *text, size_t text_size)
{
    const char *value = (const char *)sqlite3_column_text(stmt, column);
    size_t size = value != NULL ? (size_t)sqlite3_column_bytes(stmt, column) : 0;
    bool ok = size < text_size && (size == 0 || memchr(value, '\0', size) == NULL);

    if (ok) {
        if (size > 0)
            memcpy(text, value, size);
        text[size] = '\0';
    }
    return ok;
}

/* *ret_found false: there is no such row. */
static ledger_rc cursor_read(struct ldg_sqlite *s, const char *name, bool *ret_found,
                             struct ldg_cursor *cursor, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_CURSOR_GET, err);
    ledger_rc rc = LEDGER_OK;

    if (stmt == NULL)
        return err->code;
    int code = bind_text(stmt, 1, name);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    *ret_found = code == SQLITE_ROW;
    if (code == SQLITE_ROW) {
        const char *time = (const char *)sqlite3_column_text(stmt, 2);

        cursor->moved_at_us = LEDGER_NO_TIME;
        if (time != NULL && !ldg_time_parse(time, (size_t)sqlite3_column_bytes(stmt, 2),
                                            &cursor->moved_at_us))
            cursor->moved_at_us = LEDGER_NO_TIME;
        if (!take_text(stmt, 0, cursor->state, sizeof(cursor->state)) ||
            !take_text(stmt, 1, cursor->readable, sizeof(cursor->readable)))
            rc = ldg_fail(err, LEDGER_ERR_DATA,
                          "cursor \"%s\" in table \"%s_cursors\" is no cursor of ours; delete its "
                          "row, then set it with `ledgerctl bridge cursor set`",
                          name, s->table);
    } else if (code != SQLITE_DONE) {
        rc = ldg_sqlite_fail(s, code, "reading the cursor", err);
    }
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc cursor_write(struct ldg_sqlite *s, enum ldg_sqlite_stmt_id id, const char *name,
                              const struct ldg_cursor *cursor, int64_t moved_at_us,
                              ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, id, err);
    char time[LDG_TIME_TEXT_MAX];
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    BIND(code, bind_text(stmt, 1, name));
    BIND(code, bind_text(stmt, 2, cursor->readable));
    BIND(code, bind_text(stmt, 3, cursor->state));
    if (moved_at_us != LEDGER_NO_TIME) {
        ldg_time_format_ms(moved_at_us, time);
        BIND(code, bind_text(stmt, 4, time));
    } else {
        BIND(code, sqlite3_bind_null(stmt, 4));
    }
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE)
        rc = ldg_sqlite_fail(s, code, "writing the cursor", err);
    sqlite3_reset(stmt);
    return rc;
}

/* In a table that only Go has opened: its position, without what we add. */
static ledger_rc cursor_read_go(struct ldg_sqlite *s, const char *name, bool *ret_found,
                                struct ldg_cursor *cursor, ledger_error *err)
{
    sqlite3_stmt *stmt = NULL;
    ledger_rc rc = LEDGER_OK;
    char *sql = ldg_sqlite_expand(s, "SELECT '', cursor, NULL FROM main.\"%T_cursors\" "
                                     "WHERE name = ?1");
    int code;

    *ret_found = false;
    if (sql == NULL) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    code = sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL);
    if (code == SQLITE_ERROR) /* it has no cursors at all */
        goto out;
    if (code == SQLITE_OK)
        code = bind_text(stmt, 1, name);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    *ret_found = code == SQLITE_ROW;
    cursor->state[0] = '\0';
    cursor->moved_at_us = LEDGER_NO_TIME;
    if (code == SQLITE_ROW && !take_text(stmt, 1, cursor->readable, sizeof(cursor->readable)))
        rc = ldg_fail(err, LEDGER_ERR_DATA, "cursor \"%s\" is longer than any of ours", name);
    else if (code != SQLITE_ROW && code != SQLITE_DONE)
        rc = ldg_sqlite_fail(s, code, "reading the cursor", err);
out:
    sqlite3_finalize(stmt);
    sqlite3_free(sql);
    return rc;
}

ledger_rc ldg_sqlite_cursor_get(void *ctx, const char *name, bool create,
                                struct ldg_cursor *ret_cursor, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct ldg_cursor cursor = { .moved_at_us = LEDGER_NO_TIME };
    bool found = false, own;
    ledger_rc rc;

    rc = s->has_ours ? cursor_read(s, name, &found, &cursor, err)
                     : cursor_read_go(s, name, &found, &cursor, err);
    if (rc != LEDGER_OK || found)
        goto out;
    if (!create) {
        rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no cursor \"%s\" in table \"%s_cursors\"", name,
                      s->table);
        goto out;
    }
    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = cursor_write(s, LDG_STMT_CURSOR_INSERT, name, &cursor, LEDGER_NO_TIME, err);
    if (rc == LEDGER_OK)
        rc = cursor_read(s, name, &found, &cursor, err); /* another program may have been first */
    rc = ldg_sqlite_write_end(s, own, rc, err);
out:
    if (rc == LEDGER_OK)
        *ret_cursor = cursor;
    return rc;
}

/* The row must still be what the batch was read from. */
static ledger_rc cursor_fence(struct ldg_sqlite *s, const char *name,
                              const struct ldg_cursor *expected, ledger_error *err)
{
    struct ldg_cursor cursor;
    bool found;
    ledger_rc rc;

    rc = cursor_read(s, name, &found, &cursor, err);
    if (rc != LEDGER_OK)
        goto out;
    if (!found)
        rc = ldg_fail(err, LEDGER_ERR_FENCED, "cursor \"%s\" was deleted", name);
    else if (strcmp(cursor.state, expected->state) != 0 ||
             strcmp(cursor.readable, expected->readable) != 0)
        rc = ldg_fail(err, LEDGER_ERR_FENCED,
                      "another bridge has moved cursor \"%s\" from \"%s\" to \"%s\"", name,
                      expected->readable, cursor.readable);
out:
    return rc;
}

ledger_rc ldg_sqlite_cursor_set(void *ctx, const char *name, const struct ldg_cursor *expected,
                                const struct ldg_cursor *next, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    bool own;
    ledger_rc rc;

    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    if (expected != NULL)
        rc = cursor_fence(s, name, expected, err);
    if (rc == LEDGER_OK)
        rc = cursor_write(s, LDG_STMT_CURSOR_UPDATE, name, next, next->moved_at_us, err);
    if (rc == LEDGER_OK && sqlite3_changes(s->db) == 0)
        rc = cursor_write(s, LDG_STMT_CURSOR_INSERT, name, next, next->moved_at_us, err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
out:
    return rc;
}

ledger_rc ldg_sqlite_cursor_list(void *ctx, ledger_names *ret_names, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_CURSOR_LIST, err);
    ledger_names names = { NULL, 0 };
    size_t cap = 0;
    ledger_rc rc = LEDGER_OK;
    int code;

    if (stmt == NULL)
        return err->code;
    while ((code = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(stmt, 0);

        if (names.count == cap) {
            size_t next = cap == 0 ? 8 : cap * 2;
            char **items = ldg_realloc(names.items, next * sizeof(*items));

            if (items == NULL) {
                rc = ldg_fail_nomem(err);
                goto out;
            }
            names.items = items;
            cap = next;
        }
        names.items[names.count] = ldg_strdup(name != NULL ? name : "");
        if (names.items[names.count] == NULL) {
            rc = ldg_fail_nomem(err);
            goto out;
        }
        names.count++;
    }
    if (code != SQLITE_DONE) {
        rc = ldg_sqlite_fail(s, code, "listing cursors", err);
        goto out;
    }
    *ret_names = names;
    names = (ledger_names){ NULL, 0 };
out:
    for (size_t i = 0; i < names.count; i++)
        ldg_free(names.items[i]);
    ldg_free(names.items);
    sqlite3_reset(stmt);
    return rc;
}

/* --- events for the sink's own log ----------------------------------------------------------- */

/* "uuid:epoch" of an origin; lives as long as the batch, unless two others are asked for. */
static ledger_rc origin_text(struct batch *b, int number, const char **ret_text, ledger_error *err)
{
    struct ldg_identity identity = b->s->identity;
    struct origin_text *item = NULL;
    sqlite3_stmt *stmt = NULL;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; i < 2 && i < b->origin_text_count; i++) {
        if (b->origin_texts[i].number == number)
            item = &b->origin_texts[i];
    }
    if (item != NULL)
        goto out;
    if (number != 0) {
        stmt = ldg_sqlite_stmt(b->s, LDG_STMT_ORIGIN_IDENTITY, err);
        if (stmt == NULL)
            return err->code;
        int code = sqlite3_bind_int(stmt, 1, number);
        if (code == SQLITE_OK)
            code = sqlite3_step(stmt);
        if (code == SQLITE_ROW)
            rc = take_identity(b->s, stmt, 0, &identity, err);
        else if (code == SQLITE_DONE)
            rc = ldg_fail(err, LEDGER_ERR_SCHEMA, "table \"%s_origins\" has no row %d",
                          b->s->table, number);
        else
            rc = ldg_sqlite_fail(b->s, code, "looking for an origin", err);
        sqlite3_reset(stmt);
        if (rc != LEDGER_OK)
            goto out;
    }
    item = &b->origin_texts[b->origin_text_count++ % 2];
    item->number = number;
    snprintf(item->text, sizeof(item->text), "%s:%" PRId64, identity.uuid, identity.epoch);
out:
    if (rc == LEDGER_OK)
        *ret_text = item->text;
    return rc;
}

/* What all events of a mutation share. */
static ledger_rc chain_event(struct batch *b, const struct ldg_op *op, ledger_mutation_type type,
                             ledger_mutation_event *event, ledger_error *err)
{
    memset(event, 0, sizeof(*event));
    event->type = type;
    event->type_name = ledger_mutation_type_name(type);
    event->stream = op->stream;
    event->entry_id = "";
    event->before_id = "";
    event->created_at_us = op->time_us;
    event->origin_pos = op->position;
    event->entry_origin = "";
    event->source_id = "";
    return origin_text(b, op->mutation_origin, &event->origin, err);
}

/* Writes the event of the appends that were gathered: one event came, one goes out. */
static ledger_rc chain_flush(struct batch *b, ledger_error *err)
{
    ledger_mutation_event event;
    ledger_rc rc = LEDGER_OK;

    if (b->chain_count == 0)
        goto out;
    rc = chain_event(b, b->chain_op, LEDGER_MUTATION_APPEND, &event, err);
    if (rc != LEDGER_OK)
        goto out;
    event.entries = b->chain;
    event.entry_count = b->chain_count;
    rc = ldg_sqlite_log_event(b->s, &event, b->now_us, err);
    b->chain_count = 0;
out:
    return rc;
}

static ledger_rc id_text(struct batch *b, int64_t id, const char **ret_text, ledger_error *err)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRId64, id);
    *ret_text = ldg_arena_strdup(&b->s->scratch, text);
    return *ret_text != NULL ? LEDGER_OK : ldg_fail_nomem(err);
}

static ledger_rc chain_append(struct batch *b, const struct ldg_op *op, int64_t id,
                              ledger_error *err)
{
    ledger_append_entry entry = *op->entry;
    ledger_rc rc = LEDGER_OK;

    if (!b->s->has_log)
        goto out;
    if (b->chain_count > 0 && (b->chain_op->event_index != op->event_index ||
                               strcmp(b->chain_op->stream, op->stream) != 0)) {
        rc = chain_flush(b, err);
        if (rc != LEDGER_OK)
            goto out;
    }
    if (b->chain == NULL) {
        b->chain = ldg_arena_calloc(&b->s->scratch, b->count, sizeof(*b->chain));
        if (b->chain == NULL) {
            rc = ldg_fail_nomem(err);
            goto out;
        }
    }
    rc = id_text(b, id, &entry.id, err);
    if (rc == LEDGER_OK)
        rc = id_text(b, op->source_pos, &entry.source_id, err);
    if (rc != LEDGER_OK)
        goto out;
    entry.created_at_us = op->time_us;
    b->chain[b->chain_count++] = entry;
    b->chain_op = op;
out:
    return rc;
}

/* A change (id: of the entry here) or a trim. */
static ledger_rc chain_change(struct batch *b, const struct ldg_op *op, ledger_mutation_type type,
                              int64_t id, ledger_error *err)
{
    ledger_mutation_event event;
    ledger_rc rc = LEDGER_OK;

    if (!b->s->has_log)
        goto out;
    rc = chain_flush(b, err);
    if (rc == LEDGER_OK)
        rc = chain_event(b, op, type, &event, err);
    if (rc == LEDGER_OK && type != LEDGER_MUTATION_TRIM)
        rc = id_text(b, id, &event.entry_id, err);
    if (rc == LEDGER_OK)
        rc = id_text(b, op->source_pos, &event.source_id, err);
    if (rc == LEDGER_OK && op->origin != op->mutation_origin)
        rc = origin_text(b, op->origin, &event.entry_origin, err);
    if (rc != LEDGER_OK)
        goto out;
    event.tags = op->tags;
    event.annotations = op->annotations;
    rc = ldg_sqlite_log_event(b->s, &event, b->now_us, err);
out:
    return rc;
}

/* --- one op ---------------------------------------------------------------------------------- */

static ledger_rc pending_fill(struct batch *b, const struct ldg_op *op, struct pending *p,
                              ledger_error *err)
{
    ledger_rc rc;

    p->op = op;
    p->slot = NOT_PENDING;
    p->time = time_text(b, op->time_us);
    if (p->time == NULL)
        return ldg_fail_nomem(err);
    rc = map_text(b, op->entry->metadata, &p->metadata, err);
    if (rc == LEDGER_OK)
        rc = list_text(b, op->entry->tags, &p->tags, err);
    return rc;
}

/* Binds one row of an insert from parameter `at`; id 0: SQLite gives one. */
static int bind_row(sqlite3_stmt *stmt, int at, const struct pending *p)
{
    const ledger_append_entry *entry = p->op->entry;
    int code = SQLITE_OK;

    BIND(code, p->id != 0 ? sqlite3_bind_int64(stmt, at, p->id) : sqlite3_bind_null(stmt, at));
    BIND(code, bind_text(stmt, at + 1, p->op->stream));
    BIND(code, bind_bytes(stmt, at + 2, entry->payload));
    BIND(code, bind_text(stmt, at + 3, entry->order_key != NULL ? entry->order_key : ""));
    BIND(code, bind_text(stmt, at + 4, entry->dedup_key != NULL ? entry->dedup_key : ""));
    BIND(code, sqlite3_bind_int(stmt, at + 5, entry->schema_version));
    BIND(code, p->metadata != NULL ? bind_text(stmt, at + 6, p->metadata)
                                   : sqlite3_bind_null(stmt, at + 6));
    BIND(code, bind_text(stmt, at + 7, p->tags));
    BIND(code, bind_text(stmt, at + 8, p->time));
    BIND(code, sqlite3_bind_int(stmt, at + 9, p->op->origin));
    BIND(code, sqlite3_bind_int64(stmt, at + 10, p->op->source_pos));
    return code;
}

static bool column_is(sqlite3_stmt *stmt, int column, const char *text)
{
    const void *value = sqlite3_column_blob(stmt, column);
    size_t size = (size_t)sqlite3_column_bytes(stmt, column);

    return size == strlen(text) && (size == 0 || (value != NULL && memcmp(value, text, size) == 0));
}

/* Is the stored row what this append would write? One that the Go bridge carried was written with
 * its payload compacted: there the names must do. */
static ledger_rc same_entry(struct batch *b, sqlite3_stmt *stmt, const struct ldg_op *op,
                            bool *ret_same, ledger_error *err)
{
    const ledger_append_entry *entry = op->entry;
    ledger_map stored = { NULL, 0 }, sorted;
    ledger_rc rc = LEDGER_OK;
    bool same;

    same = column_is(stmt, 0, op->stream) && column_is(stmt, 2, entry->order_key) &&
           column_is(stmt, 3, entry->dedup_key) &&
           sqlite3_column_int(stmt, 4) == entry->schema_version;
    if (!same || !column_is(stmt, 6, ""))
        goto out;
    const void *payload = sqlite3_column_blob(stmt, 1);
    size_t size = (size_t)sqlite3_column_bytes(stmt, 1);
    same = size == entry->payload.size &&
           (size == 0 || (payload != NULL && memcmp(payload, entry->payload.data, size) == 0));
    if (!same)
        goto out;
    const char *metadata = (const char *)sqlite3_column_text(stmt, 5);
    size = metadata != NULL ? (size_t)sqlite3_column_bytes(stmt, 5) : 0;
    if (size > 0) {
        rc = ldg_json_get_map((ledger_bytes){ metadata, size }, false, &b->s->scratch, &stored, err);
        if (rc == LEDGER_ERR_DATA) {
            same = false;
            rc = LEDGER_OK;
            goto out;
        }
    }
    if (rc == LEDGER_OK)
        rc = ldg_map_sort(entry->metadata, &b->s->scratch, &sorted, err);
    same = rc == LEDGER_OK && ldg_map_equal(stored, sorted);
out:
    *ret_same = same;
    return rc;
}

/* An insert changed nothing: which of the two keys was there? */
static ledger_rc append_conflict(struct batch *b, const struct ldg_op *op, uint8_t *ret_outcome,
                                 ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(b->s, LDG_STMT_APPLY_FIND, err);
    bool same = false;
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    BIND(code, sqlite3_bind_int(stmt, 1, op->origin));
    BIND(code, sqlite3_bind_int64(stmt, 2, op->source_pos));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW) {
        rc = same_entry(b, stmt, op, &same, err);
        if (rc == LEDGER_OK && !same)
            rc = ldg_fail(err, LEDGER_ERR_POSITION_REUSED,
                          "entry %" PRId64 " of stream \"%.100s\" was carried before with another "
                          "content: the source has given the id out twice, as it does when it was "
                          "restored from a backup or lost commits. Put the newer source back, or "
                          "give the restored one a new identity and a bridge name of its own",
                          op->source_pos, op->stream);
        *ret_outcome = LDG_OUTCOME_REPLAYED;
        goto out;
    }
    sqlite3_reset(stmt);
    if (code == SQLITE_DONE) {
        stmt = ldg_sqlite_stmt(b->s, LDG_STMT_APPLY_FIND_DEDUP, err);
        if (stmt == NULL)
            return err->code;
        code = SQLITE_OK;
        BIND(code, bind_text(stmt, 1, op->stream));
        BIND(code, bind_text(stmt, 2, op->entry->dedup_key));
        if (code == SQLITE_OK)
            code = sqlite3_step(stmt);
        if (code == SQLITE_ROW)
            *ret_outcome = LDG_OUTCOME_DEDUPLICATED;
        else if (code == SQLITE_DONE)
            rc = ldg_fail(err, LEDGER_ERR_REJECTED, "a trigger of table \"%s\" drops the row",
                          b->s->table);
    }
    if (rc == LEDGER_OK && code != SQLITE_ROW)
        rc = op_fail(b->s, code, "looking for an entry", err);
out:
    sqlite3_reset(stmt);
    return rc;
}

/* What is here of the entry that op changes. *ret_id 0: nothing. merged: op's annotations go in. */
static ledger_rc look(struct batch *b, const struct ldg_op *op, int64_t *ret_id,
                      int64_t *ret_mutation_pos, struct ldg_buf *merged, ledger_error *err)
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
        *ret_mutation_pos =
            sqlite3_column_type(stmt, 2) == SQLITE_NULL ? INT64_MIN : sqlite3_column_int64(stmt, 2);
        if (merged != NULL) {
            const void *old = sqlite3_column_blob(stmt, 1);

            ldg_buf_reset(merged);
            rc = ldg_sqlite_merge(
                b->s, (ledger_bytes){ old, (size_t)sqlite3_column_bytes(stmt, 1) }, op->annotations,
                merged, err);
            if (rc == LEDGER_ERR_DATA || rc == LEDGER_ERR_TOO_LARGE)
                err->code = rc = LEDGER_ERR_REJECTED;
        }
    } else if (code != SQLITE_DONE) {
        rc = op_fail(b->s, code, "looking for an entry", err);
    }
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc append_one(struct batch *b, const struct ldg_op *op, uint8_t *ret_outcome,
                            ledger_error *err)
{
    struct pending p = { 0 };
    sqlite3_stmt *stmt = NULL;
    int64_t id = 0, ignored;
    ledger_rc rc;

    if (op->origin == 0) { /* our own entry came round: it is here, or was trimmed since */
        rc = look(b, op, &id, &ignored, NULL, err);
        *ret_outcome = id != 0 ? LDG_OUTCOME_REPLAYED : LDG_OUTCOME_MISSING;
        goto out;
    }
    rc = pending_fill(b, op, &p, err);
    if (rc != LEDGER_OK)
        goto out;
    stmt = ldg_sqlite_stmt(b->s, LDG_STMT_APPLY_INSERT_SAFE, err);
    if (stmt == NULL) {
        rc = err->code;
        goto out;
    }
    int code = bind_row(stmt, 1, &p);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE) {
        rc = op_fail(b->s, code, "adding an entry", err);
        goto out;
    }
    sqlite3_reset(stmt);
    if (sqlite3_changes(b->s->db) == 0) {
        rc = append_conflict(b, op, ret_outcome, err);
    } else {
        *ret_outcome = LDG_OUTCOME_APPLIED;
        rc = chain_append(b, op, sqlite3_last_insert_rowid(b->s->db), err);
    }
out:
    if (stmt != NULL)
        sqlite3_reset(stmt);
    return rc;
}

/* Positions compare only within one log, and the guard is for the entry's own: a change made
 * elsewhere (a chain's local tag) is taken as it comes. */
static bool is_guarded(const struct ldg_op *op)
{
    return op->origin != 0 && op->mutation_origin == op->origin;
}

static ledger_rc set_tags_remote(struct batch *b, const struct ldg_op *op, const char *tags,
                                 const char *time, bool *ret_changed, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(
        b->s, is_guarded(op) ? LDG_STMT_APPLY_TAGS : LDG_STMT_APPLY_TAGS_UNGUARDED, err);
    ledger_rc rc = LEDGER_OK;
    int code;

    if (stmt == NULL)
        return err->code;
    code = bind_origin_stream(stmt, op);
    BIND(code, bind_text(stmt, 4, tags));
    BIND(code, bind_text(stmt, 5, time));
    if (is_guarded(op))
        BIND(code, sqlite3_bind_int64(stmt, 6, op->position));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_DONE)
        *ret_changed = sqlite3_changes(b->s->db) > 0;
    else
        rc = op_fail(b->s, code, "setting tags", err);
    sqlite3_reset(stmt);
    return rc;
}

/* By id: tags or annotations, with the mutation's position where it counts. */
static ledger_rc set_by_id(struct batch *b, enum ldg_sqlite_stmt_id statement, int64_t id,
                           const char *text, const char *time, const struct ldg_op *op,
                           ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(b->s, statement, err);
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    BIND(code, sqlite3_bind_int64(stmt, 1, id));
    BIND(code, bind_text(stmt, 2, text));
    BIND(code, bind_text(stmt, 3, time));
    if (statement == LDG_STMT_APPLY_ANNOTATIONS)
        BIND(code, is_guarded(op) ? sqlite3_bind_int64(stmt, 4, op->position)
                                  : sqlite3_bind_null(stmt, 4));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE)
        rc = op_fail(b->s, code, "changing an entry", err);
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc set_tags_one(struct batch *b, const struct ldg_op *op, uint8_t *ret_outcome,
                              ledger_error *err)
{
    const char *tags, *time = time_text(b, op->time_us);
    int64_t id = 0, mutation_pos;
    bool changed = false;
    ledger_rc rc;

    if (time == NULL)
        return ldg_fail_nomem(err);
    rc = list_text(b, op->tags, &tags, err);
    if (rc != LEDGER_OK)
        goto out;
    if (op->origin == 0) {
        rc = look(b, op, &id, &mutation_pos, NULL, err);
        if (rc == LEDGER_OK && id != 0) {
            rc = set_by_id(b, LDG_STMT_SET_TAGS, id, tags, time, op, err);
            changed = true;
        }
    } else {
        rc = set_tags_remote(b, op, tags, time, &changed, err);
        if (rc == LEDGER_OK && (!changed || b->s->has_log))
            rc = look(b, op, &id, &mutation_pos, NULL, err);
    }
    if (rc != LEDGER_OK)
        goto out;
    *ret_outcome = changed   ? LDG_OUTCOME_APPLIED
                   : id != 0 ? LDG_OUTCOME_REPLAYED
                             : LDG_OUTCOME_MISSING;
    if (changed)
        rc = chain_change(b, op, LEDGER_MUTATION_SET_TAGS, id, err);
out:
    return rc;
}

static ledger_rc set_annotations_one(struct batch *b, const struct ldg_op *op, uint8_t *ret_outcome,
                                     ledger_error *err)
{
    const char *time = time_text(b, op->time_us);
    int64_t id, mutation_pos = INT64_MIN;
    ledger_rc rc;

    if (time == NULL)
        return ldg_fail_nomem(err);
    rc = look(b, op, &id, &mutation_pos, &b->text, err);
    if (rc != LEDGER_OK)
        goto out;
    if (id == 0) {
        *ret_outcome = LDG_OUTCOME_MISSING;
    } else if (is_guarded(op) && mutation_pos >= op->position) {
        *ret_outcome = LDG_OUTCOME_REPLAYED;
    } else {
        rc = set_by_id(b, LDG_STMT_APPLY_ANNOTATIONS, id, b->text.data, time, op, err);
        if (rc == LEDGER_OK)
            rc = chain_change(b, op, LEDGER_MUTATION_SET_ANNOTATIONS, id, err);
        *ret_outcome = LDG_OUTCOME_APPLIED;
    }
out:
    return rc;
}

static bool is_kept(const struct ldg_op *op, int64_t source_pos)
{
    size_t low = 0, high = op->kept_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (op->kept[middle] < source_pos)
            low = middle + 1;
        else
            high = middle;
    }
    return low < op->kept_count && op->kept[low] == source_pos;
}

/* Ids, in the arena, of what a trim deletes when the source keeps some of it. */
static ledger_rc trim_list(struct batch *b, const struct ldg_op *op, int64_t **ret_ids,
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
        if (is_kept(op, sqlite3_column_int64(stmt, 1)))
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
        rc = op_fail(b->s, code, "trimming a stream", err);
    *ret_ids = ids;
    *ret_count = count;
out:
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc trim_statement(struct batch *b, const struct ldg_op *op, int64_t *ret_deleted,
                                ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(
        b->s, op->origin == 0 ? LDG_STMT_APPLY_TRIM_LOCAL : LDG_STMT_APPLY_TRIM, err);
    ledger_rc rc = LEDGER_OK;

    if (stmt == NULL)
        return err->code;
    int code = bind_origin_stream(stmt, op);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_DONE)
        *ret_deleted = sqlite3_changes(b->s->db);
    else
        rc = op_fail(b->s, code, "trimming a stream", err);
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc delete_id(struct batch *b, int64_t id, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(b->s, LDG_STMT_DELETE, err);
    ledger_rc rc = LEDGER_OK;

    if (stmt == NULL)
        return err->code;
    int code = sqlite3_bind_int64(stmt, 1, id);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE)
        rc = op_fail(b->s, code, "trimming a stream", err);
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc trim_one(struct batch *b, const struct ldg_op *op, uint8_t *ret_outcome,
                          ledger_error *err)
{
    int64_t deleted = 0, *ids;
    size_t count;
    bool unparked = false;
    ledger_rc rc;

    if (op->kept_count == 0) {
        rc = trim_statement(b, op, &deleted, err);
    } else {
        rc = trim_list(b, op, &ids, &count, err);
        for (size_t i = 0; rc == LEDGER_OK && i < count; i++)
            rc = delete_id(b, ids[i], err);
        deleted = rc == LEDGER_OK ? (int64_t)count : 0;
    }
    if (rc == LEDGER_OK && b->parked_any)
        rc = ldg_sqlite_parked_trim(b->s, op, &unparked, err);
    if (rc == LEDGER_OK && deleted > 0)
        rc = chain_change(b, op, LEDGER_MUTATION_TRIM, 0, err);
    *ret_outcome = deleted > 0 || unparked ? LDG_OUTCOME_APPLIED : LDG_OUTCOME_REPLAYED;
    return rc;
}

static ledger_rc run_one(struct batch *b, const struct ldg_op *op, uint8_t *ret_outcome,
                         ledger_error *err)
{
    ledger_rc rc;

    /* Our own mutation came round. */
    if (op->mutation_origin == 0 && op->kind != LDG_OP_APPEND && op->kind != LDG_OP_PARK) {
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

/* --- the bulk path --------------------------------------------------------------------------- */

static ledger_rc next_id(struct batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (b->next_id == 0)
        rc = run_ints(b->s, LDG_STMT_APPLY_NEXT_ID, "asking for the next id", NULL, 0, &b->next_id,
                      err);
    /* Over the end SQLite picks free ids itself: no order can be kept. */
    if (rc == LEDGER_OK && (b->next_id <= 0 || b->next_id > INT64_MAX - (int64_t)b->count))
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "table \"%s\" has run out of ids", b->s->table);
    return rc;
}

/* Finds the slot of a stream among the pending ones; *ret_known: it is there. */
static size_t slot_of(const struct batch *b, const char *stream, bool *ret_known)
{
    size_t slot = ldg_hash64(stream, strlen(stream), 0) & b->slot_mask;

    while (b->slots[slot] != 0) {
        const char *other = b->pending[b->slots[slot] - 1].op->stream;

        if (other == stream || strcmp(other, stream) == 0)
            break;
        slot = (slot + 1) & b->slot_mask;
    }
    *ret_known = b->slots[slot] != 0;
    return slot;
}

static int compare_streams(const void *a, const void *b)
{
    const struct pending *const *x = a, *const *y = b;
    int order = strcmp((*x)->op->stream, (*y)->op->stream);

    if (order == 0)
        order = (*x)->index < (*y)->index ? -1 : 1;
    return order;
}

/* Puts the pending rows in the order of their streams where that helps the indexes, and gives out
 * ids in the order of insertion: the table grows at its end, and each stream keeps its order. */
static void arrange(struct batch *b)
{
    size_t n = b->pending_count;

    for (size_t i = 0; i < n; i++)
        b->sorted[i] = &b->pending[i];
    if (n >= SORT_MIN_ROWS && b->stream_count > n / SORT_ROWS_PER_STREAM)
        qsort(b->sorted, n, sizeof(const struct pending *), compare_streams);
    for (size_t i = 0; i < n; i++)
        b->pending[b->sorted[i] - b->pending].id = b->next_id + (int64_t)i;
    b->next_id += (int64_t)n;
}

static ledger_rc insert_group(struct batch *b, const struct pending *const *rows, size_t count,
                              ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(b->s,
                                         count == 32  ? LDG_STMT_APPLY_INSERT_32
                                         : count == 8 ? LDG_STMT_APPLY_INSERT_8
                                                      : LDG_STMT_APPLY_INSERT_1,
                                         err);
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    for (size_t i = 0; i < count; i++)
        BIND(code, bind_row(stmt, (int)i * INSERT_COLUMNS + 1, rows[i]));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE)
        rc = op_fail(b->s, code, "adding entries", err);
    else if (sqlite3_changes(b->s->db) != (int)count) /* a trigger left one out: find out which */
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "a trigger of table \"%s\" drops rows", b->s->table);
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc flush(struct batch *b, ledger_error *err)
{
    size_t n = b->pending_count;
    ledger_rc rc = LEDGER_OK;

    if (n == 0)
        goto out;
    rc = next_id(b, err);
    if (rc != LEDGER_OK)
        goto out;
    arrange(b);
    for (size_t done = 0, group; rc == LEDGER_OK && done < n; done += group) {
        group = n - done >= 32 ? 32 : n - done >= 8 ? 8 : 1;
        rc = insert_group(b, b->sorted + done, group, err);
    }
    for (size_t i = 0; rc == LEDGER_OK && i < n; i++) {
        b->outcomes[b->pending[i].index] = LDG_OUTCOME_APPLIED;
        rc = chain_append(b, b->pending[i].op, b->pending[i].id, err);
    }
    if (rc == LEDGER_OK)
        rc = chain_flush(b, err);
    for (size_t i = 0; i < n; i++) {
        if (b->pending[i].slot != NOT_PENDING)
            b->slots[b->pending[i].slot] = 0;
    }
    b->pending_count = 0;
    b->stream_count = 0;
out:
    return rc;
}

static ledger_rc pend(struct batch *b, size_t index, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[index];
    struct pending *p = &b->pending[b->pending_count];
    bool known;
    ledger_rc rc;

    rc = pending_fill(b, op, p, err);
    if (rc != LEDGER_OK)
        goto out;
    p->index = index;
    if (b->pending_count == 0) {
        b->ascending = true;
        b->lowest = b->highest = op->source_pos;
    } else {
        b->ascending =
            b->ascending && op->source_pos > p[-1].op->source_pos && op->origin == p[-1].op->origin;
        if (op->source_pos < b->lowest)
            b->lowest = op->source_pos;
        if (op->source_pos > b->highest)
            b->highest = op->source_pos;
    }
    b->pending_count++;
    size_t slot = slot_of(b, op->stream, &known);
    if (!known) {
        b->slots[slot] = (uint32_t)b->pending_count;
        p->slot = (uint32_t)slot;
        b->stream_count++;
    }
out:
    return rc;
}

/* May the op find or delete a row that is still pending? Says yes when in doubt. */
static bool touches_pending(const struct batch *b, const struct ldg_op *op)
{
    size_t low = 0, high = b->pending_count;
    bool touches;

    if (high == 0) {
        touches = false;
    } else if (b->s->has_log) { /* the sink's log keeps the order of the source's */
        touches = true;
    } else if (op->kind == LDG_OP_TRIM) {
        (void)slot_of(b, op->stream, &touches);
    } else if (op->origin == 0 || op->source_pos < b->lowest || op->source_pos > b->highest) {
        touches = false;
    } else if (!b->ascending || op->origin != b->pending[0].op->origin) {
        touches = true;
    } else {
        while (low < high) {
            size_t middle = low + (high - low) / 2;

            if (b->pending[middle].op->source_pos < op->source_pos)
                low = middle + 1;
            else
                high = middle;
        }
        touches = low < b->pending_count && b->pending[low].op->source_pos == op->source_pos;
    }
    return touches;
}

static ledger_rc bulk_run(struct batch *b, ledger_error *err)
{
    size_t slots = 64;
    ledger_rc rc = LEDGER_OK;

    while (slots < 2 * b->count)
        slots *= 2;
    b->slot_mask = slots - 1;
    b->slots = ldg_arena_calloc(&b->s->scratch, slots, sizeof(*b->slots));
    b->pending = ldg_arena_calloc(&b->s->scratch, b->count, sizeof(*b->pending));
    b->sorted = ldg_arena_calloc(&b->s->scratch, b->count, sizeof(*b->sorted));
    if (b->slots == NULL || b->pending == NULL || b->sorted == NULL) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    for (size_t i = 0; rc == LEDGER_OK && i < b->count; i++) {
        const struct ldg_op *op = &b->ops[i];

        if (op->kind == LDG_OP_APPEND) {
            rc = pend(b, i, err);
        } else {
            if (touches_pending(b, op))
                rc = flush(b, err);
            if (rc == LEDGER_OK)
                rc = run_one(b, op, &b->outcomes[i], err);
        }
    }
    if (rc == LEDGER_OK)
        rc = flush(b, err);
out:
    return rc;
}

/* Appends that name no position of another store, and events to park, are none of its business. */
static bool bulk_suits(const struct ldg_apply *apply)
{
    bool suits = apply->count > 0 && apply->count <= UINT32_MAX / 4;

    for (size_t i = 0; suits && i < apply->count; i++) {
        const struct ldg_op *op = &apply->ops[i];

        suits = op->kind != LDG_OP_PARK && (op->kind != LDG_OP_APPEND || op->origin > 0);
    }
    return suits;
}

/* --- op by op -------------------------------------------------------------------------------- */

static ledger_rc park(struct batch *b, size_t index, const char *reason, ledger_error *err)
{
    ledger_rc rc = chain_flush(b, err);

    if (rc == LEDGER_OK)
        rc = ldg_sqlite_park(b->s, &b->ops[index], reason, err);
    if (rc == LEDGER_OK) {
        b->outcomes[index] = LDG_OUTCOME_PARKED;
        b->parked_any = true;
    }
    return rc;
}

/* Must the op wait behind a parked event? *ret_parked: it was parked too. */
static ledger_rc wait_behind(struct batch *b, size_t index, bool entry_missing, bool *ret_parked,
                             ledger_error *err)
{
    const struct ldg_op *op = &b->ops[index];
    char reason[80];
    int64_t position = 0;
    ledger_rc rc = LEDGER_OK;

    *ret_parked = false;
    if (!b->parked_any || op->kind == LDG_OP_TRIM || op->kind == LDG_OP_PARK)
        goto out;
    rc = ldg_sqlite_parked_before(b->s, op, entry_missing, b->parked_id, &position, err);
    if (rc != LEDGER_OK || position == 0)
        goto out;
    snprintf(reason, sizeof(reason),
             entry_missing ? "its entry may be in parked event %" PRId64
                           : "behind parked event %" PRId64,
             position);
    if (b->can_park) {
        *ret_parked = true;
        rc = park(b, index, reason, err);
    } else {
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "%s", reason);
        err->done_count = index;
    }
out:
    return rc;
}

/* SQLite has ended the transaction by itself (a trigger's RAISE(ROLLBACK)): the batch starts again
 * with this op parked from the beginning. */
static ledger_rc force_park(struct batch *b, size_t index, const char *reason, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (b->forced == NULL)
        b->forced = ldg_arena_calloc(&b->s->scratch, b->count, sizeof(*b->forced));
    if (b->forced != NULL)
        b->forced[index] = ldg_arena_strdup(&b->s->scratch, reason);
    if (b->forced == NULL || b->forced[index] == NULL)
        rc = ldg_fail_nomem(err);
    return rc;
}

/* Tries one op inside a savepoint where a refusal shall not take the others with it. */
static ledger_rc try_one(struct batch *b, size_t index, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[index];
    bool parked = false;
    uint8_t outcome = LDG_OUTCOME_MISSING;
    ledger_rc rc = LEDGER_OK;

    if (b->can_park && b->park_rejected) {
        rc = chain_flush(b, err); /* what came before stays, whatever becomes of this op */
        if (rc == LEDGER_OK)
            rc = ldg_sqlite_run(b->s, LDG_STMT_SAVEPOINT, "setting a savepoint", err);
    }
    if (rc != LEDGER_OK)
        goto out;
    rc = run_one(b, op, &outcome, err);
    if (rc == LEDGER_OK && b->can_park && b->park_rejected) {
        rc = chain_flush(b, err);
        if (rc == LEDGER_OK)
            rc = ldg_sqlite_run(b->s, LDG_STMT_SAVEPOINT_RELEASE, "ending a savepoint", err);
    }
    if (rc == LEDGER_OK && outcome == LDG_OUTCOME_MISSING &&
        (op->kind == LDG_OP_SET_TAGS || op->kind == LDG_OP_SET_ANNOTATIONS)) {
        rc = wait_behind(b, index, true, &parked, err);
    }
    if (rc != LEDGER_OK || parked)
        goto out;
    b->outcomes[index] = outcome;
    if (b->parked_any && b->can_park && op->kind != LDG_OP_TRIM)
        rc = ldg_sqlite_parked_done(b->s, op, err);
out:
    return rc;
}

/* An op that the database refused: parked, or the end of the batch. *ret_again: start again. */
static ledger_rc refused(struct batch *b, size_t index, bool *ret_again, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[index];
    char reason[LEDGER_ERROR_MESSAGE_MAX];
    ledger_rc rc;

    memcpy(reason, err->message, sizeof(reason));
    b->chain_count = 0; /* at most what this op had gathered */
    if (!b->can_park || !b->park_rejected) {
        rc = ldg_fail_native(err, LEDGER_ERR_REJECTED, "sqlite", err->native_code,
                             "the sink refuses event %" PRId64 " (%s of stream \"%.60s\"): %.300s",
                             op->log_position, op->type_name != NULL ? op->type_name : "", op->stream,
                             reason);
        err->done_count = index;
    } else if (sqlite3_get_autocommit(b->s->db)) {
        rc = force_park(b, index, reason, err);
        *ret_again = true;
    } else {
        rc = ldg_sqlite_run(b->s, LDG_STMT_SAVEPOINT_ROLLBACK, "undoing an operation", err);
        if (rc == LEDGER_OK)
            rc = ldg_sqlite_run(b->s, LDG_STMT_SAVEPOINT_RELEASE, "undoing an operation", err);
        if (rc == LEDGER_OK)
            rc = park(b, index, reason, err);
    }
    return rc;
}

static ledger_rc row_run(struct batch *b, bool *ret_again, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    *ret_again = false;
    b->chain_count = 0;
    for (size_t i = 0; rc == LEDGER_OK && !*ret_again && i < b->count; i++) {
        const struct ldg_op *op = &b->ops[i];
        bool parked = false;

        if (b->forced != NULL && b->forced[i] != NULL) {
            rc = park(b, i, b->forced[i], err);
        } else if (op->kind == LDG_OP_PARK && b->can_park) {
            rc = park(b, i, op->reason != NULL ? op->reason : "", err);
        } else {
            rc = wait_behind(b, i, false, &parked, err);
            if (rc == LEDGER_OK && !parked) {
                rc = try_one(b, i, err);
                if (rc == LEDGER_ERR_REJECTED)
                    rc = refused(b, i, ret_again, err);
            }
        }
    }
    if (rc == LEDGER_OK && !*ret_again)
        rc = chain_flush(b, err);
    return rc;
}

static void batch_init(struct batch *b, struct ldg_sqlite *s, const struct ldg_op *ops, size_t count)
{
    memset(b, 0, sizeof(*b));
    b->s = s;
    b->ops = ops;
    b->count = count;
    b->parked_id = INT64_MAX;
    b->now_us = ldg_clock_now_us();
    ldg_time_format_ms(b->now_us, b->now);
    ldg_buf_init(&b->text, s->event_buf.max);
    ldg_arena_reset(&s->scratch);
}

ledger_rc ldg_sqlite_apply_ops(struct ldg_sqlite *s, const struct ldg_op *ops, size_t count,
                               int64_t parked_id, ledger_error *err)
{
    struct batch b;
    bool again;
    ledger_rc rc;

    batch_init(&b, s, ops, count);
    b.parked_any = true;
    b.parked_id = parked_id;
    b.outcomes = ldg_arena_calloc(&s->scratch, count, sizeof(*b.outcomes));
    rc = b.outcomes != NULL ? row_run(&b, &again, err) : ldg_fail_nomem(err);
    ldg_buf_fini(&b.text);
    return rc;
}

/* --- the batch ------------------------------------------------------------------------------- */

/* One try: fence, ops, cursor, commit. REJECTED of a bulk try, and *ret_again, are no verdict. */
static ledger_rc apply_once(struct batch *b, const struct ldg_apply *apply, bool bulk,
                            bool *ret_bulk, bool *ret_again, ledger_error *err)
{
    struct ldg_sqlite *s = b->s;
    struct ldg_cursor now;
    bool own, found = false;
    ledger_rc rc;

    *ret_again = false;
    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    if (apply->name != NULL)
        rc = cursor_fence(s, apply->name, apply->expected, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_parked_any(s, &b->parked_any, err);
    *ret_bulk = bulk && !b->parked_any;
    if (rc == LEDGER_OK)
        rc = *ret_bulk ? bulk_run(b, err) : row_run(b, ret_again, err);
    if (rc == LEDGER_OK && *ret_again) {
        if (!own) { /* what the caller had done before is gone too */
            *ret_again = false;
            rc = ldg_fail(err, LEDGER_ERR_REJECTED,
                          "a trigger of the sink has rolled the caller's transaction back");
        }
        goto out;
    }
    if (rc == LEDGER_OK && apply->name != NULL && apply->next != NULL)
        rc = cursor_write(s, LDG_STMT_CURSOR_UPDATE, apply->name, apply->next,
                          apply->next->moved_at_us != LEDGER_NO_TIME ? apply->next->moved_at_us
                                                                     : b->now_us,
                          err);
    bool committing = rc == LEDGER_OK;
    rc = ldg_sqlite_write_end(s, own, rc, err);
    /* Where the commit itself met an I/O error only the file knows: the cursor moved with the data,
     * so it tells. */
    if (rc == LEDGER_ERR_IO && committing && own && apply->name != NULL && apply->next != NULL &&
        strcmp(apply->next->state, apply->expected->state) != 0) {
        ledger_error ignored = { 0 };

        if (cursor_read(s, apply->name, &found, &now, &ignored) != LEDGER_OK)
            rc = ldg_fail_native(err, LEDGER_ERR_UNKNOWN_OUTCOME, "sqlite", err->native_code,
                                 "the commit met an input or output error, and the cursor cannot "
                                 "be read");
        else if (found && strcmp(now.state, apply->next->state) == 0)
            rc = LEDGER_OK;
    }
out:
    return rc;
}

ledger_rc ldg_sqlite_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                           ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    bool bulk = bulk_suits(apply), again;
    struct batch b;
    ledger_rc rc;

    batch_init(&b, s, apply->ops, apply->count);
    b.can_park = true;
    b.park_rejected = apply->park_rejected;
    b.outcomes = ldg_arena_calloc(&s->scratch, apply->count, sizeof(*b.outcomes));
    if (b.outcomes == NULL) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    do {
        bool was_bulk = false;

        rc = apply_once(&b, apply, bulk, &was_bulk, &again, err);
        if (rc == LEDGER_ERR_REJECTED && was_bulk) {
            /* Op by op tells a replay from a duplicate from a refusal. */
            bulk = false;
            again = true;
            b.pending_count = b.chain_count = 0;
            rc = LEDGER_OK;
        }
    } while (rc == LEDGER_OK && again);
    if (rc != LEDGER_OK)
        goto out;
    if (apply->count > 0)
        memcpy(ret_outcomes, b.outcomes, apply->count);
    s->applied_count++;
    ldg_sqlite_durable_committed(s);
out:
    ldg_buf_fini(&b.text);
    return rc;
}
