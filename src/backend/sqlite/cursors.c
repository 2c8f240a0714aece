/* The sink's names: origins, cursors, and the transactions around small changes of them.
 *
 * Hides how the cursor row is compared and moved. Invariant: a row that is to be locked or compared
 * was made and committed before. */
#include "backend/sqlite/apply.h"

#include <inttypes.h>
#include <string.h>

/* --- origins --------------------------------------------------------------------------------- */

static ledger_rc origin_find(struct ldg_sqlite *s, const struct ldg_identity *identity,
                             int *ret_origin, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_ORIGIN_GET, err);
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 1, identity->uuid));
    LDG_BIND(code, sqlite3_bind_int64(stmt, 2, identity->epoch));
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
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 1, identity->uuid));
    LDG_BIND(code, sqlite3_bind_int64(stmt, 2, identity->epoch));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 3, name != NULL ? name : ""));
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE)
        rc = ldg_sqlite_own_fail(s, code, "adding an origin", err);
    sqlite3_reset(stmt);
    return rc;
}

/* A number that entries have already must not be given to another store. */
static ledger_rc origins_known(struct ldg_sqlite *s, ledger_error *err)
{
    int64_t any = 0;
    ledger_rc rc =
        ldg_sqlite_run_ints(s, LDG_STMT_ORIGIN_UNKNOWN, "looking for origins", NULL, 0, &any, err);

    return rc == LEDGER_OK && any != 0
               ? ldg_schema_fail_origins(s->path != NULL ? s->path : "the database", s->table, err)
               : rc;
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
    rc = origins_known(s, err);
    if (rc == LEDGER_OK)
        rc =
            origin_insert(s, identity, name, err); /* leaves a row that another program just made */
    if (rc == LEDGER_OK)
        rc = origin_find(s, identity, &origin, err);
    if (rc == LEDGER_OK && origin == 0) /* 0 is this store itself */
        rc = ldg_schema_fail_kept_out(s->table, "origins", err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
out:
    if (rc == LEDGER_OK) {
        s->has_origins = s->has_origins || origin != 0;
        *ret_origin = origin;
    }
    return rc;
}

ledger_rc ldg_sqlite_take_identity(struct ldg_sqlite *s, sqlite3_stmt *stmt, int column,
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
        rc = ldg_sqlite_take_identity(s, stmt, 1, &items[count], err);
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

/* --- what the Go bridge left, and what it finds ---------------------------------------------- */

static const char adopting[] = "adopting the entries of another bridge";

static ledger_rc adopt(struct ldg_sqlite *s, int origin, const struct ldg_claim *claims,
                       size_t count, uint64_t *ret_adopted, ledger_error *err)
{
    uint64_t adopted = 0;
    ledger_rc rc = ldg_sqlite_run_ints(s, LDG_STMT_ADOPT_MARK, adopting,
                                       (const int64_t[]){ origin }, 1, NULL, err);

    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        rc = ldg_sqlite_run_ints(s, LDG_STMT_ADOPT, adopting,
                                 (const int64_t[]){ origin, claims[i].source_pos, claims[i].id }, 3,
                                 NULL, err);
        if (rc == LEDGER_OK)
            adopted += (uint64_t)sqlite3_changes(s->db);
    }
    if (rc == LEDGER_OK && adopted > 0)
        rc = ldg_sqlite_run_ints(s, LDG_STMT_ORIGIN_DISORDER, adopting, (const int64_t[]){ origin },
                                 1, NULL, err);
    *ret_adopted = adopted;
    return rc;
}

ledger_rc ldg_sqlite_origin_adopt(void *ctx, int origin, const struct ldg_claim *claims,
                                  size_t count, uint64_t *ret_adopted, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    uint64_t adopted = 0;
    bool own;
    ledger_rc rc = ldg_sqlite_write_begin(s, &own, err);

    if (rc != LEDGER_OK)
        goto out;
    rc = adopt(s, origin, claims, count, &adopted, err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
    if (rc == LEDGER_OK)
        *ret_adopted = adopted;
out:
    return rc;
}

ledger_rc ldg_sqlite_origin_last(void *ctx, int origin, int64_t *ret_id, ledger_error *err)
{
    int64_t id = 0;
    ledger_rc rc = ldg_sqlite_run_ints(ctx, LDG_STMT_ORIGIN_LAST, "looking for an entry",
                                       (const int64_t[]){ origin }, 1, &id, err);

    if (rc == LEDGER_OK)
        *ret_id = id;
    return rc;
}

ledger_rc ldg_sqlite_go_origin(struct ldg_sqlite *s, int *ret_origin, int *ret_state,
                               ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_GO_ORIGIN, err);
    ledger_rc rc = LEDGER_OK;
    int code;

    if (stmt == NULL)
        return err->code;
    code = sqlite3_step(stmt);
    *ret_origin = code == SQLITE_ROW ? sqlite3_column_int(stmt, 0) : 0;
    *ret_state = code == SQLITE_ROW ? sqlite3_column_int(stmt, 1) : 0;
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        rc = ldg_sqlite_fail(s, code, "looking for an origin", err);
    sqlite3_reset(stmt);
    return rc;
}

/* One short transaction, so that writers get their turn. *after moves; 0: at the end. */
static ledger_rc fill_some(struct ldg_sqlite *s, int origin, int64_t *after, ledger_error *err)
{
    static const char doing[] = "giving entries their source_id";
    int64_t last = 0;
    bool own;
    ledger_rc rc = ldg_sqlite_write_begin(s, &own, err);

    if (rc != LEDGER_OK)
        goto out;
    rc = ldg_sqlite_run_ints(s, LDG_STMT_GO_FILL_NEXT, doing, (const int64_t[]){ origin, *after },
                             2, &last, err);
    if (rc == LEDGER_OK && last != 0)
        rc = ldg_sqlite_run_ints(s, LDG_STMT_GO_FILL, doing,
                                 (const int64_t[]){ origin, *after, last }, 3, NULL, err);
    else if (rc == LEDGER_OK)
        rc = ldg_sqlite_run_ints(s, LDG_STMT_GO_FILLED, doing, (const int64_t[]){ origin }, 1, NULL,
                                 err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
    *after = last;
out:
    return rc;
}

/* Rows that nobody has claimed may be those of a source that is to be taken over yet. */
static ledger_rc choose(struct ldg_sqlite *s, ledger_error *err)
{
    int64_t index = 0;
    bool unclaimed = false, own;
    ledger_rc rc =
        ldg_sqlite_run_ints(s, LDG_STMT_GO_INDEX, "looking at the indexes", NULL, 0, &index, err);

    if (rc == LEDGER_OK && index > 0)
        rc = ldg_sqlite_origin_unclaimed(s, &unclaimed, err);
    if (rc != LEDGER_OK || index == 0 || unclaimed)
        goto out;
    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = ldg_sqlite_run_ints(s, LDG_STMT_GO_CHOOSE, "choosing an origin", NULL, 0, NULL, err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
out:
    return rc;
}

ledger_rc ldg_sqlite_origin_carry_ids(void *ctx, int *ret_origin, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    int origin = 0, state = 0;
    int64_t after = 0;
    ledger_rc rc = LEDGER_OK;

    if (!s->has_ours || !s->has_source_id)
        goto out;
    rc = ldg_sqlite_go_origin(s, &origin, &state, err);
    if (rc == LEDGER_OK && origin == 0) {
        rc = choose(s, err);
        if (rc == LEDGER_OK)
            rc = ldg_sqlite_go_origin(s, &origin, &state, err);
    }
    if (rc == LEDGER_OK && origin != 0 && state < 2) {
        do
            rc = fill_some(s, origin, &after, err);
        while (rc == LEDGER_OK && after != 0);
    }
out:
    if (rc == LEDGER_OK)
        *ret_origin = origin;
    return rc;
}

ledger_rc ldg_sqlite_origin_rewind(void *ctx, int origin, int64_t position, ledger_error *err)
{
    static const char doing[] = "rewinding an origin";
    struct ldg_sqlite *s = ctx;
    const int64_t values[] = { origin, position };
    bool own;
    ledger_rc rc;

    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = ldg_sqlite_run_ints(s, LDG_STMT_REWIND, doing, values, 2, NULL, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_run_ints(s, LDG_STMT_REWIND_FOREIGN, doing, values, 2, NULL, err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
out:
    return rc;
}

ledger_rc ldg_sqlite_origin_skips(void *ctx, int origin, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    const int64_t value = origin;
    bool own;
    ledger_rc rc = ldg_sqlite_write_begin(s, &own, err);

    if (rc != LEDGER_OK)
        goto out;
    rc = ldg_sqlite_run_ints(s, LDG_STMT_SKIPS, "noting what is skipped", &value, 1, NULL, err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
out:
    return rc;
}

ledger_rc ldg_sqlite_origin_unguard(void *ctx, ledger_error *err)
{
    static const enum ldg_sqlite_stmt_id statements[] = {
        LDG_STMT_UNGUARD,
        LDG_STMT_UNGUARD_SKIPPED,
        LDG_STMT_UNGUARD_FOREIGN,
    };
    struct ldg_sqlite *s = ctx;
    bool own;
    ledger_rc rc = ldg_sqlite_write_begin(s, &own, err);

    if (rc != LEDGER_OK)
        goto out;
    for (size_t i = 0; rc == LEDGER_OK && i < sizeof(statements) / sizeof(statements[0]); i++)
        rc = ldg_sqlite_run_ints(s, statements[i], "setting a cursor back", NULL, 0, NULL, err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
out:
    return rc;
}

ledger_rc ldg_sqlite_origin_unclaimed(void *ctx, bool *ret_any, ledger_error *err)
{
    int64_t any = 0;
    ledger_rc rc = ldg_sqlite_run_ints(ctx, LDG_STMT_UNCLAIMED,
                                       "looking for entries of another bridge", NULL, 0, &any, err);

    if (rc == LEDGER_OK)
        *ret_any = any != 0;
    return rc;
}

/* --- cursors --------------------------------------------------------------------------------- */

/* A file that was deleted or replaced under its connection goes on taking commits that nobody will
 * see again. */
ledger_rc ldg_sqlite_not_moved(struct ldg_sqlite *s, ledger_error *err)
{
    return s->own_db ? ldg_sqlite_file_look(s, true, err) : LEDGER_OK;
}

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

ledger_rc ldg_sqlite_cursor_read(struct ldg_sqlite *s, const char *name, bool *ret_found,
                                 struct ldg_cursor *cursor, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_CURSOR_GET, err);
    ledger_rc rc = LEDGER_OK;

    if (stmt == NULL)
        return err->code;
    int code = ldg_sqlite_bind_text(stmt, 1, name);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    *ret_found = code == SQLITE_ROW;
    if (code == SQLITE_ROW) {
        cursor->moved_at_us = ldg_sql_column_time(stmt, 2);
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

ledger_rc ldg_sqlite_cursor_write(struct ldg_sqlite *s, enum ldg_sqlite_stmt_id id,
                                  const char *name, const struct ldg_cursor *cursor,
                                  int64_t moved_at_us, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, id, err);
    char time[LDG_TIME_TEXT_MAX];
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 1, name));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 2, cursor->readable));
    LDG_BIND(code, ldg_sqlite_bind_text(stmt, 3, cursor->state));
    if (moved_at_us != LEDGER_NO_TIME) {
        ldg_time_format_ms(moved_at_us, time);
        LDG_BIND(code, ldg_sqlite_bind_text(stmt, 4, time));
    } else {
        LDG_BIND(code, sqlite3_bind_null(stmt, 4));
    }
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code != SQLITE_DONE)
        rc = ldg_sqlite_own_fail(s, code, "writing the cursor", err);
    sqlite3_reset(stmt);
    return rc;
}

/* In a table that only Go has opened: its position, without what we add. */
static ledger_rc cursor_read_go(struct ldg_sqlite *s, const char *name, bool *ret_found,
                                struct ldg_cursor *cursor, ledger_error *err)
{
    sqlite3_stmt *stmt = NULL;
    ledger_rc rc = LEDGER_OK;
    char *sql = ldg_sql_expand(s, "SELECT '', cursor, NULL FROM main.\"%T_cursors\" "
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
        code = ldg_sqlite_bind_text(stmt, 1, name);
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

    rc = ldg_sqlite_not_moved(s, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = s->has_ours ? ldg_sqlite_cursor_read(s, name, &found, &cursor, err)
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
    rc = ldg_sqlite_cursor_write(s, LDG_STMT_CURSOR_INSERT, name, &cursor, LEDGER_NO_TIME, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_cursor_read(s, name, &found, &cursor,
                                    err); /* another program may have been first */
    if (rc == LEDGER_OK && !found)
        rc = ldg_schema_fail_kept_out(s->table, "cursors", err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
out:
    if (rc == LEDGER_OK)
        *ret_cursor = cursor;
    return rc;
}

ledger_rc ldg_sqlite_cursor_fence(struct ldg_sqlite *s, const char *name,
                                  const struct ldg_cursor *expected, ledger_error *err)
{
    struct ldg_cursor cursor;
    bool found;
    ledger_rc rc;

    rc = ldg_sqlite_cursor_read(s, name, &found, &cursor, err);
    if (rc == LEDGER_OK)
        rc = ldg_cursor_compare(name, found ? &cursor : NULL, expected, err);
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
        rc = ldg_sqlite_cursor_fence(s, name, expected, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_cursor_write(s, LDG_STMT_CURSOR_UPDATE, name, next, next->moved_at_us, err);
    if (rc == LEDGER_OK && sqlite3_changes(s->db) == 0)
        rc = ldg_sqlite_cursor_write(s, LDG_STMT_CURSOR_INSERT, name, next, next->moved_at_us, err);
    if (rc == LEDGER_OK && sqlite3_changes(s->db) == 0)
        rc = ldg_schema_fail_kept_out(s->table, "cursors", err);
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
