/* The sink's names: origins, cursors, and the transactions around small changes of them.
 *
 * Hides how the cursor row is compared and moved. Invariant: a row that is to be locked or compared
 * was made and committed before. */
#include "backend/sqlite/apply.h"

#include <inttypes.h>
#include <string.h>

/* One statement in a transaction of its own. */
static ledger_rc change(struct ldg_sqlite *s, const char *doing, const char *text,
                        const int64_t *values, size_t count, ledger_error *err)
{
    bool own;
    ledger_rc rc = ldg_sqlite_write_begin(s, &own, err);

    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_sql_exec_ints(s, doing, text, values, count, NULL, err);
    return ldg_sqlite_write_end(s, own, rc, err);
}

/* --- origins --------------------------------------------------------------------------------- */

/* 0: there is none. */
static ledger_rc origin_find(struct ldg_sqlite *s, const struct ldg_identity *identity,
                             int *ret_origin, ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin(&q, s, "looking for an origin",
                  "SELECT id FROM main.\"%T_origins\" WHERE uuid = ?1 AND epoch = ?2", err);
    ldg_sql_text(&q, identity->uuid);
    ldg_sql_int(&q, identity->epoch);
    *ret_origin = ldg_sql_row(&q) ? sqlite3_column_int(q.stmt, 0) : 0;
    return ldg_sql_end(&q);
}

/* Leaves a row that another program just made. */
static ledger_rc origin_insert(struct ldg_sqlite *s, const struct ldg_identity *identity,
                               const char *name, ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin(&q, s, "adding an origin",
                  "INSERT INTO main.\"%T_origins\"(uuid, epoch, name) VALUES (?1, ?2, ?3) "
                  "ON CONFLICT (uuid, epoch) DO NOTHING",
                  err);
    q.fail = ldg_sqlite_own_fail;
    ldg_sql_text(&q, identity->uuid);
    ldg_sql_int(&q, identity->epoch);
    ldg_sql_text(&q, name != NULL ? name : "");
    return ldg_sql_run(&q);
}

/* A number that entries have already must not be given to another store. */
static ledger_rc origins_known(struct ldg_sqlite *s, ledger_error *err)
{
    /* clang-format off */
    static const char text[] =
        "SELECT max("
            "coalesce((SELECT max(origin) FROM main.\"%T\" WHERE source_pos IS NOT NULL), 0), "
            "coalesce((SELECT max(origin) FROM main.\"%T\" "
                      "WHERE origin != 0 AND source_pos IS NULL), 0)) > "
            "(SELECT coalesce(max(id), 0) FROM main.\"%T_origins\")";
    /* clang-format on */
    int64_t any = 0;
    ledger_rc rc = ldg_sql_exec_ints(s, "looking for origins", text, LDG_NO_INTS, &any, err);

    return rc == LEDGER_OK && any != 0
               ? ldg_schema_fail_origins(ldg_sqlite_file_name(s), s->table, err)
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
        rc = origin_insert(s, identity, name, err);
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
    size_t count = 0, cap = 0, numbers_cap = 0;
    struct ldg_sql q;

    ldg_sql_begin(&q, s, "listing origins",
                  s->has_ours ? "SELECT id, uuid, epoch FROM main.\"%T_origins\" ORDER BY id"
                              : "SELECT 0 WHERE 0",
                  err);
    while (ldg_sql_row(&q)) {
        items = ldg_arena_grow(arena, items, sizeof(*items), count, &cap);
        numbers = ldg_arena_grow(arena, numbers, sizeof(*numbers), count, &numbers_cap);
        if (items == NULL || numbers == NULL) {
            q.rc = ldg_fail_nomem(err);
            break;
        }
        q.rc = ldg_sqlite_take_identity(s, q.stmt, 1, &items[count], err);
        numbers[count++] = sqlite3_column_int(q.stmt, 0);
    }
    if (ldg_sql_end(&q) == LEDGER_OK) {
        *ret_items = items;
        *ret_numbers = numbers;
        *ret_count = count;
    }
    return q.rc;
}

/* --- what the Go bridge left, and what it finds ---------------------------------------------- */

static const char adopting[] = "adopting the entries of another bridge";

/* A key that is a text stands in the row already. */
static ledger_rc adopt_one(struct ldg_sqlite *s, int origin, const struct ldg_claim *claim,
                           ledger_error *err)
{
    /* clang-format off */
    static const char *const text[2] = {
        "UPDATE OR IGNORE main.\"%T\" SET origin = ?1, source_pos = ?2 "
        "WHERE id = ?3 AND +origin = 0 AND +source_pos IS NULL AND +source_id != ''",
        "UPDATE OR IGNORE main.\"%T\" SET origin = ?1 "
        "WHERE id = ?3 AND +origin = 0 AND +source_pos IS NULL AND +source_id = ?2",
    };
    /* clang-format on */
    struct ldg_sql q;

    ldg_sql_begin_key(&q, s, adopting, text[claim->key.text != NULL], origin, claim->key, err);
    ldg_sql_int(&q, claim->id.number);
    return ldg_sql_run(&q);
}

static ledger_rc adopt(struct ldg_sqlite *s, int origin, const struct ldg_claim *claims,
                       size_t count, uint64_t *ret_adopted, ledger_error *err)
{
    uint64_t adopted = 0;
    ledger_rc rc =
        ldg_sql_exec_ints(s, adopting, "UPDATE main.\"%T_origins\" SET adopted = 1 WHERE id = ?1",
                          LDG_INTS(origin), NULL, err);

    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        rc = adopt_one(s, origin, &claims[i], err);
        if (rc == LEDGER_OK)
            adopted += (uint64_t)sqlite3_changes(s->db);
    }
    if (rc == LEDGER_OK && adopted > 0)
        rc = ldg_sqlite_origin_disorder(s, origin, adopting, err);
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

ledger_rc ldg_sqlite_origin_disorder(struct ldg_sqlite *s, int origin, const char *doing,
                                     ledger_error *err)
{
    return ldg_sql_exec_ints(s, doing, "UPDATE main.\"%T_origins\" SET ordered = 0 WHERE id = ?1",
                             LDG_INTS(origin), NULL, err);
}

ledger_rc ldg_sqlite_origin_last(void *ctx, int origin, struct ldg_arena *arena, ledger_id *ret_id,
                                 ledger_error *err)
{
    /* clang-format off */
    static const char find[] =
        "SELECT coalesce("
            "(SELECT id FROM main.\"%T\" WHERE origin = ?1 AND origin != 0 AND source_pos IS NULL "
                "ORDER BY source_id DESC LIMIT 1), "
            "(SELECT id FROM main.\"%T\" WHERE origin = ?1 AND source_pos IS NOT NULL "
                "ORDER BY source_pos DESC LIMIT 1), 0)";
    /* clang-format on */
    int64_t id = 0;
    ledger_rc rc = ldg_sql_exec_ints(ctx, "looking for an entry", find, LDG_INTS(origin), &id, err);

    (void)arena; /* ids here are numbers */
    if (rc == LEDGER_OK)
        *ret_id = ldg_id_of(id);
    return rc;
}

/* The origin whose rows carry their source_id, and whether all do (2); 0: there is none. */
static ledger_rc go_origin(struct ldg_sqlite *s, int *ret_origin, int *ret_state, ledger_error *err)
{
    struct ldg_sql q;
    bool found;

    ldg_sql_begin(&q, s, "looking for an origin",
                  "SELECT id, go_ids FROM main.\"%T_origins\" WHERE go_ids > 0", err);
    found = ldg_sql_row(&q);
    *ret_origin = found ? sqlite3_column_int(q.stmt, 0) : 0;
    *ret_state = found ? sqlite3_column_int(q.stmt, 1) : 0;
    return ldg_sql_end(&q);
}

/* One short transaction, so that writers get their turn. *after moves; 0: at the end. */
static ledger_rc fill_some(struct ldg_sqlite *s, int origin, int64_t *after, ledger_error *err)
{
    static const char doing[] = "giving entries their source_id";
    int64_t last = 0;
    bool own;
    ledger_rc rc = ldg_sqlite_write_begin(s, &own, err);

    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_sql_exec_ints(s, doing,
                           "SELECT max(source_pos) FROM (SELECT source_pos FROM main.\"%T\" "
                           "WHERE origin = ?1 AND source_pos > ?2 ORDER BY source_pos LIMIT 5000)",
                           LDG_INTS(origin, *after), &last, err);
    if (rc == LEDGER_OK && last != 0)
        rc = ldg_sql_exec_ints(s, doing,
                               "UPDATE OR IGNORE main.\"%T\" "
                               "SET source_id = CAST(source_pos AS TEXT) WHERE origin = ?1 "
                               "AND source_pos > ?2 AND source_pos <= ?3 AND +source_id = ''",
                               LDG_INTS(origin, *after, last), NULL, err);
    else if (rc == LEDGER_OK)
        rc = ldg_sql_exec_ints(s, doing, "UPDATE main.\"%T_origins\" SET go_ids = 2 WHERE id = ?1",
                               LDG_INTS(origin), NULL, err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
    *after = last;
    return rc;
}

ledger_rc ldg_sqlite_has_go_index(struct ldg_sqlite *s, bool *ret_has, ledger_error *err)
{
    /* clang-format off */
    static const char find[] =
        "SELECT count(*) FROM pragma_index_list('%T', 'main') AS l WHERE l.\"unique\" "
        "AND (SELECT group_concat(name) FROM pragma_index_info(l.name, 'main')) = 'source_id'";
    /* clang-format on */
    int64_t count = 0;
    ledger_rc rc = ldg_sql_exec_ints(s, "looking at the indexes", find, LDG_NO_INTS, &count, err);

    if (rc == LEDGER_OK)
        *ret_has = count > 0;
    return rc;
}

/* Picks the origin whose rows carry their source_id from now on (go_ids 1; 2: all of them do). Rows
 * that nobody has claimed may be those of a source that is to be taken over yet; so may a cursor
 * that Go has left, unless an origin has taken over from Go. */
static ledger_rc choose(struct ldg_sqlite *s, ledger_error *err)
{
    /* clang-format off */
    static const char pick[] =
        "UPDATE main.\"%T_origins\" SET go_ids = 1 "
        "WHERE id = (SELECT id FROM main.\"%T_origins\" WHERE adopted OR NOT EXISTS ("
                "SELECT 1 FROM main.\"%T_cursors\" WHERE state = '' AND cursor != '') "
            "ORDER BY adopted DESC, id LIMIT 1) "
        "AND NOT EXISTS (SELECT 1 FROM main.\"%T_origins\" WHERE go_ids > 0)";
    /* clang-format on */
    bool index = false, unclaimed = false;
    ledger_rc rc = ldg_sqlite_has_go_index(s, &index, err);

    if (rc == LEDGER_OK && index)
        rc = ldg_sqlite_origin_unclaimed(s, &unclaimed, err);
    if (rc != LEDGER_OK || !index || unclaimed)
        return rc;
    return change(s, "choosing an origin", pick, LDG_NO_INTS, err);
}

ledger_rc ldg_sqlite_origin_carry_ids(void *ctx, int *ret_origin, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    int origin = 0, state = 0;
    int64_t after = 0;
    ledger_rc rc = LEDGER_OK;

    if (!s->has_ours || !s->has_source_id)
        goto out;
    rc = go_origin(s, &origin, &state, err);
    if (rc == LEDGER_OK && origin == 0) {
        rc = choose(s, err);
        if (rc == LEDGER_OK)
            rc = go_origin(s, &origin, &state, err);
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

/* What is remembered of changes behind the position: of entries, and of those made elsewhere. */
ledger_rc ldg_sqlite_origin_rewind(void *ctx, int origin, int64_t position, ledger_error *err)
{
    /* clang-format off */
#define FORGET(keyed)                                                                              \
    "UPDATE main.\"%T\" SET "                                                                      \
        "mutation_pos = CASE WHEN mutation_pos > ?2 THEN NULL ELSE mutation_pos END, "             \
        "tags_pos = CASE WHEN tags_pos > ?2 THEN NULL ELSE tags_pos END, "                         \
        "annotations_pos = CASE WHEN annotations_pos > ?2 THEN NULL ELSE annotations_pos END "     \
    "WHERE origin = ?1 AND " keyed                                                                 \
    " AND (mutation_pos > ?2 OR tags_pos > ?2 OR annotations_pos > ?2)"
    static const char *const texts[] = {
        FORGET("source_pos IS NOT NULL"),
        FORGET("origin != 0 AND source_pos IS NULL"),
        "DELETE FROM main.\"%T_foreign\" WHERE mutation_origin = ?1 AND position > ?2",
    };
#undef FORGET
    /* clang-format on */
    static const char doing[] = "rewinding an origin";
    struct ldg_sqlite *s = ctx;
    bool own;
    ledger_rc rc = ldg_sqlite_write_begin(s, &own, err);

    if (rc != LEDGER_OK)
        return rc;
    for (size_t i = 0; rc == LEDGER_OK && i < sizeof(texts) / sizeof(texts[0]); i++)
        rc = ldg_sql_exec_ints(s, doing, texts[i], LDG_INTS(origin, position), NULL, err);
    return ldg_sqlite_write_end(s, own, rc, err);
}

/* kind 3: no change, but that changes of annotations were left out. */
ledger_rc ldg_sqlite_origin_skips(void *ctx, int origin, ledger_error *err)
{
    return change(ctx, "noting what is skipped",
                  "INSERT OR IGNORE INTO main.\"%T_foreign\""
                  "(origin, entry, mutation_origin, kind, id, position) "
                  "VALUES (?1, 0, ?1, 3, 0, 0)",
                  LDG_INTS(origin), err);
}

ledger_rc ldg_sqlite_origin_unguard(void *ctx, ledger_error *err)
{
    /* clang-format off */
    static const char *const texts[] = {
        "UPDATE main.\"%T\" SET mutation_pos = NULL WHERE mutation_pos IS NOT NULL",
        "UPDATE main.\"%T\" SET annotations_pos = NULL WHERE annotations_pos IS NOT NULL "
        "AND EXISTS (SELECT 1 FROM main.\"%T_foreign\" WHERE kind = 3)",
        "DELETE FROM main.\"%T_foreign\" WHERE kind = 2 "
        "AND EXISTS (SELECT 1 FROM main.\"%T_foreign\" WHERE kind = 3)",
    };
    /* clang-format on */
    struct ldg_sqlite *s = ctx;
    bool own;
    ledger_rc rc = ldg_sqlite_write_begin(s, &own, err);

    if (rc != LEDGER_OK)
        return rc;
    for (size_t i = 0; rc == LEDGER_OK && i < sizeof(texts) / sizeof(texts[0]); i++)
        rc = ldg_sql_exec(s, "setting a cursor back", texts[i], err);
    return ldg_sqlite_write_end(s, own, rc, err);
}

ledger_rc ldg_sqlite_origin_unclaimed(void *ctx, bool *ret_any, ledger_error *err)
{
    const struct ldg_sqlite *s = ctx;
    int64_t any = 0;
    /* The range is what brings Go's index on source_id in. */
    /* clang-format off */
    const char *text =
        !s->has_source_id ? "SELECT 0"
        : !s->has_ours    ? "SELECT EXISTS (SELECT 1 FROM main.\"%T\" "
                            "WHERE source_id != '' AND source_id > '')"
                          : "SELECT EXISTS (SELECT 1 FROM main.\"%T\" "
                            "WHERE source_id != '' AND source_id > '' "
                            "AND +origin = 0 AND +source_pos IS NULL)";
    /* clang-format on */
    ledger_rc rc = ldg_sql_exec_ints(ctx, "looking for entries of another bridge", text,
                                     LDG_NO_INTS, &any, err);

    if (rc == LEDGER_OK)
        *ret_any = any != 0;
    return rc;
}

/* --- cursors --------------------------------------------------------------------------------- */

/* A file that was deleted or replaced under its connection goes on taking commits that nobody will
 * see again. */
ledger_rc ldg_sqlite_not_moved(struct ldg_sqlite *s, ledger_error *err)
{
    return s->own_db ? ldg_sqlite_file_verify(s, true, err) : LEDGER_OK;
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
    struct ldg_sql q;

    ldg_sql_begin(&q, s, "reading the cursor",
                  "SELECT state, cursor, moved_at FROM main.\"%T_cursors\" WHERE name = ?1", err);
    ldg_sql_text(&q, name);
    *ret_found = ldg_sql_row(&q);
    if (*ret_found) {
        cursor->moved_at_us = ldg_sql_column_time(q.stmt, 2);
        if (!take_text(q.stmt, 0, cursor->state, sizeof(cursor->state)) ||
            !take_text(q.stmt, 1, cursor->readable, sizeof(cursor->readable)))
            q.rc = ldg_fail(err, LEDGER_ERR_DATA,
                            "cursor \"%s\" in table \"%s_cursors\" is no cursor of ours; delete "
                            "its row, then set it with `ledgerctl bridge cursor set`",
                            name, s->table);
    }
    return ldg_sql_end(&q);
}

static ledger_rc cursor_write(struct ldg_sqlite *s, const char *text, const char *name,
                              const struct ldg_cursor *cursor, int64_t moved_at_us,
                              ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin(&q, s, "writing the cursor", text, err);
    q.fail = ldg_sqlite_own_fail;
    ldg_sql_text(&q, name);
    ldg_sql_text(&q, cursor->readable);
    ldg_sql_text(&q, cursor->state);
    ldg_sql_time(&q, moved_at_us);
    return ldg_sql_run(&q);
}

/* Leaves a row that another program just made. */
static ledger_rc cursor_insert(struct ldg_sqlite *s, const char *name,
                               const struct ldg_cursor *cursor, int64_t moved_at_us,
                               ledger_error *err)
{
    return cursor_write(s,
                        "INSERT INTO main.\"%T_cursors\"(name, cursor, state, moved_at) "
                        "VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO NOTHING",
                        name, cursor, moved_at_us, err);
}

ledger_rc ldg_sqlite_cursor_move(struct ldg_sqlite *s, const char *name,
                                 const struct ldg_cursor *cursor, int64_t moved_at_us,
                                 ledger_error *err)
{
    return cursor_write(s,
                        "UPDATE main.\"%T_cursors\" SET cursor = ?2, state = ?3, moved_at = ?4 "
                        "WHERE name = ?1",
                        name, cursor, moved_at_us, err);
}

/* In a table that only Go has opened: its position, without what we add. */
static ledger_rc cursor_read_go(struct ldg_sqlite *s, const char *name, bool *ret_found,
                                struct ldg_cursor *cursor, ledger_error *err)
{
    struct ldg_sql q;
    int64_t any = 0;
    ledger_rc rc = ldg_sql_exec_ints(s, "reading the cursor",
                                     "SELECT count(*) FROM main.sqlite_master "
                                     "WHERE name = '%T_cursors' COLLATE NOCASE",
                                     LDG_NO_INTS, &any, err);

    *ret_found = false;
    if (rc != LEDGER_OK || any == 0)
        return rc;
    ldg_sql_begin(&q, s, "reading the cursor",
                  "SELECT cursor FROM main.\"%T_cursors\" WHERE name = ?1", err);
    ldg_sql_text(&q, name);
    *ret_found = ldg_sql_row(&q);
    cursor->state[0] = '\0';
    cursor->moved_at_us = LEDGER_NO_TIME;
    if (*ret_found && !take_text(q.stmt, 0, cursor->readable, sizeof(cursor->readable)))
        q.rc = ldg_fail(err, LEDGER_ERR_DATA, "cursor \"%s\" is longer than any of ours", name);
    return ldg_sql_end(&q);
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
    rc = cursor_insert(s, name, &cursor, LEDGER_NO_TIME, err);
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

/* Is on the disk when it returns, whatever else this handle leaves to later commits. */
ledger_rc ldg_sqlite_cursor_set(void *ctx, const char *name, const struct ldg_cursor *expected,
                                const struct ldg_cursor *next, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    const bool waits = s->role == LDG_ROLE_STATE && !s->no_wal;
    bool own;
    ledger_rc rc = LEDGER_OK;

    if (waits)
        rc = ldg_sqlite_exec(s, "writing the cursor", err, "PRAGMA main.synchronous=FULL");
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_sqlite_write_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    if (expected != NULL)
        rc = ldg_sqlite_cursor_fence(s, name, expected, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_cursor_move(s, name, next, next->moved_at_us, err);
    if (rc == LEDGER_OK && sqlite3_changes(s->db) == 0)
        rc = cursor_insert(s, name, next, next->moved_at_us, err);
    if (rc == LEDGER_OK && sqlite3_changes(s->db) == 0)
        rc = ldg_schema_fail_kept_out(s->table, "cursors", err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
out:
    if (waits) {
        ledger_error second;
        (void)!ldg_sqlite_exec(s, "writing the cursor", &second, "PRAGMA main.synchronous=NORMAL");
    }
    return rc;
}

ledger_rc ldg_sqlite_cursor_list(void *ctx, ledger_names *ret_names, ledger_error *err)
{
    ledger_names names = { NULL, 0 };
    size_t cap = 0;
    struct ldg_sql q;

    ldg_sql_begin(&q, ctx, "listing cursors", "SELECT name FROM main.\"%T_cursors\" ORDER BY name",
                  err);
    while (ldg_sql_row(&q))
        ldg_sql_add_name(&q, &names, &cap);
    if (ldg_sql_end(&q) == LEDGER_OK)
        *ret_names = names;
    else
        ledger_names_destroy(&names);
    return q.rc;
}
