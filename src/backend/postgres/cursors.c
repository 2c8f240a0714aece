/* The sink's names: origins and cursors, and the transactions around small changes of them.
 *
 * Hides how a number is given to an origin by two at once, and how a cursor's row is compared.
 * Invariant: a row that is to be locked or compared was made and committed before. */
#include "backend/postgres/parked.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ADOPT_TRIES 5
#define ORIGIN_TRIES 100

/* --- transactions ---------------------------------------------------------------------------- */

ledger_rc ldg_pg_write_begin(struct ldg_pg *pg, const char *settings, bool *ret_own,
                             ledger_error *err)
{
    ledger_rc rc = ldg_pg_begin_write(pg, settings, ret_own, err);

    if (rc == LEDGER_OK && !*ret_own)
        rc = ldg_pg_run(pg, LDG_PG_FRESH, "beginning a batch", "SAVEPOINT ldg", NULL, NULL, err);
    return rc;
}

ledger_rc ldg_pg_write_end(struct ldg_pg *pg, bool own, ledger_rc rc, ledger_error *err)
{
    static const char release[] = "RELEASE SAVEPOINT ldg";
    ledger_error ignored = { 0 };

    if (own) {
        rc = ldg_pg_end(pg, own, rc, err);
    } else if (rc == LEDGER_OK) {
        rc = ldg_pg_run(pg, LDG_PG_FRESH, "ending a batch", release, NULL, NULL, err);
    } else if (pg->conn &&
               ldg_pg_run(pg, LDG_PG_FRESH, "undoing a batch", "ROLLBACK TO SAVEPOINT ldg", NULL,
                          NULL, &ignored) == LEDGER_OK) {
        (void)!ldg_pg_run(pg, LDG_PG_FRESH, "undoing a batch", release, NULL, NULL, &ignored);
    }
    return rc;
}

/* Where the session has no lock_timeout of ours, a transaction brings one. */
static ledger_rc guard(struct ldg_pg *pg, bool *ret_own, ledger_error *err)
{
    *ret_own = false;
    return pg->own_conn && !pg->pooled ? LEDGER_OK : ldg_pg_begin_write(pg, NULL, ret_own, err);
}

ledger_rc ldg_pg_write_alone(struct ldg_pg *pg, const char *doing, const char *template,
                             const struct ldg_pg_args *args, PGresult **ret_result,
                             ledger_error *err)
{
    PGresult *result = NULL;
    bool own;
    ledger_rc rc = guard(pg, &own, err);

    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_pg_run_write(pg, doing, template, args, &result, err);
    rc = ldg_pg_end(pg, own, rc, err);
    if (rc == LEDGER_OK && ret_result)
        *ret_result = result;
    else
        PQclear(result);
    return rc;
}

uint64_t ldg_pg_changed(PGresult *result)
{
    int64_t count = 0;

    return ldg_int64_parse(PQcmdTuples(result), true, &count) ? (uint64_t)count : 0;
}

/* --- origins --------------------------------------------------------------------------------- */

/* The number is the next one: two at once draw the same, one of them waits for the other and
 * inserts nothing, and then finds the other's row or draws again. */
static const char origin_insert[] =
    "INSERT INTO \"{t}_origins\"(id, uuid, epoch, name) "
    "SELECT coalesce(max(id), 0) + 1, $1, $2, $3 FROM \"{t}_origins\" ON CONFLICT DO NOTHING";

static ledger_rc origin_find(struct ldg_pg *pg, const struct ldg_identity *identity,
                             int *ret_origin, ledger_error *err)
{
    static const char by_identity[] =
        "SELECT id::bigint FROM \"{t}_origins\" WHERE uuid = $1 AND epoch = $2";
    struct ldg_pg_args args = { 0 };
    int64_t origin = 0;
    bool found = false;

    ldg_pg_arg_text(&args, identity->uuid);
    ldg_pg_arg_int64(&args, identity->epoch);
    ledger_rc rc =
        ldg_pg_run_int64(pg, "looking for an origin", by_identity, &args, &found, &origin, err);
    if (rc == LEDGER_OK)
        *ret_origin = found ? (int)origin : 0;
    return rc;
}

static ledger_rc origin_make(struct ldg_pg *pg, const struct ldg_identity *identity,
                             const char *name, ledger_error *err)
{
    struct ldg_pg_args args = { 0 };

    ldg_pg_arg_text(&args, identity->uuid);
    ldg_pg_arg_int64(&args, identity->epoch);
    ldg_pg_arg_text(&args, name ? name : "");
    return ldg_pg_fail_own(
        ldg_pg_write_alone(pg, "adding an origin", origin_insert, &args, NULL, err), err);
}

/* A number that entries have already must not be given to another store. */
static ledger_rc origins_known(struct ldg_pg *pg, ledger_error *err)
{
    /* clang-format off */
#define UNKNOWN(highest)                                                                           \
        "SELECT (" highest " > (SELECT coalesce(max(id), 0) FROM \"{t}_origins\"))::int::bigint"
#define OF_NUMBERS "(SELECT max(origin) FROM \"{t}\" WHERE source_pos IS NOT NULL)"
#define OF_BOTH                                                                                    \
        "greatest(" OF_NUMBERS ", "                                                                \
            "(SELECT max(origin) FROM \"{t}\" WHERE " LDG_PG_OF_TEXTS("") "))"
    /* clang-format on */
    static const char of_numbers[] = UNKNOWN(OF_NUMBERS), of_both[] = UNKNOWN(OF_BOTH);
    int64_t any = 0; /* no rows: null */
    ledger_rc rc = ldg_pg_run_int64(
        pg, "looking for origins", pg->has_text_keys ? of_both : of_numbers, NULL, NULL, &any, err);

    return rc == LEDGER_OK && any
               ? ldg_schema_fail_origins(pg->where ? pg->where : "the database", pg->table, err)
               : rc;
}

ledger_rc ldg_pg_origin_get(void *ctx, const struct ldg_identity *identity, const char *name,
                            int *ret_origin, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    int origin = 0;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc != LEDGER_OK)
        goto out;
    if (strcmp(identity->uuid, pg->identity.uuid) == 0 && identity->epoch == pg->identity.epoch)
        goto out;
    rc = origin_find(pg, identity, &origin, err);
    if (rc == LEDGER_OK && origin == 0)
        rc = origins_known(pg, err);
    for (int i = 0; rc == LEDGER_OK && origin == 0 && i < ORIGIN_TRIES; i++) {
        rc = origin_make(pg, identity, name, err);
        if (rc == LEDGER_OK)
            rc = origin_find(pg, identity, &origin, err);
    }
    if (rc == LEDGER_OK && origin == 0)
        rc = ldg_fail(err, LEDGER_ERR_BUSY,
                      "no number for a new origin: others took all of them, or a trigger of table "
                      "\"%s_origins\" keeps rows out",
                      pg->table);
out:
    if (rc == LEDGER_OK) {
        pg->has_origins = pg->has_origins || origin != 0;
        *ret_origin = origin;
    }
    return rc;
}

ledger_rc ldg_pg_take_identity(const struct ldg_pg *pg, const PGresult *result, int row, int column,
                               struct ldg_identity *identity, ledger_error *err)
{
    const char *uuid = ldg_pg_get_text(result, row, column);
    const size_t size = strlen(uuid);

    if (size == 0 || size >= sizeof(identity->uuid))
        return ldg_fail(err, LEDGER_ERR_SCHEMA, "table \"%s_origins\" holds a row without a uuid",
                        pg->table);
    memset(identity, 0, sizeof(*identity));
    memcpy(identity->uuid, uuid, size);
    identity->epoch = ldg_pg_get_int64(result, row, column + 1);
    return LEDGER_OK;
}

ledger_rc ldg_pg_origin_list(void *ctx, struct ldg_arena *arena, struct ldg_identity **ret_items,
                             int **ret_numbers, size_t *ret_count, ledger_error *err)
{
    static const char list[] = "SELECT id, uuid, epoch FROM \"{t}_origins\" ORDER BY id";
    struct ldg_pg *pg = ctx;
    PGresult *result = NULL;
    size_t count = 0;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc == LEDGER_OK && pg->has_ours)
        rc = ldg_pg_run(pg, LDG_PG_KEEP, "listing origins", list, NULL, &result, err);
    if (rc != LEDGER_OK)
        goto out;
    count = result ? (size_t)PQntuples(result) : 0;
    struct ldg_identity *items = ldg_arena_calloc(arena, count, sizeof(*items));
    int *numbers = ldg_arena_calloc(arena, count, sizeof(*numbers));
    if (!items || !numbers) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        rc = ldg_pg_take_identity(pg, result, (int)i, 1, &items[i], err);
        numbers[i] = (int)ldg_pg_get_int64(result, (int)i, 0);
    }
    if (rc == LEDGER_OK) {
        *ret_items = items;
        *ret_numbers = numbers;
        *ret_count = count;
    }
out:
    PQclear(result);
    return rc;
}

/* --- what other bridges left ----------------------------------------------------------------- */

static const char adopting[] = "adopting the entries of another bridge";

/* $1 origin, $2 ids, $3 keys; of two rows with one key the first is taken. A text is in source_id,
 * where it stays. Entries come late, so the origin is in order no more. */
/* clang-format off */
#define ADOPT(type, set, is_free)                                                                  \
    "WITH chosen AS (SELECT DISTINCT ON (key) id, key, $1 AS origin "                              \
        "FROM unnest($2::int8[], $3::" type "[]) AS c(id, key) ORDER BY key, id), "                \
    "changed AS (UPDATE \"{t}\" AS t SET origin = $1" set " FROM chosen AS x "                     \
        "WHERE t.id = x.id AND t.origin = 0 AND t.source_pos IS NULL AND " is_free " "             \
        "AND NOT EXISTS (SELECT FROM \"{t}\" AS e WHERE "
#define ADOPTED                                                                                    \
        ") RETURNING 1), "                                                                         \
    "mark AS (UPDATE \"{t}_origins\" SET adopted = true, "                                         \
        "ordered = ordered AND NOT EXISTS (SELECT FROM changed) WHERE id = $1) "                   \
    "SELECT count(*) FROM changed"
static const char *const adopt[LDG_PG_KINDS] = {
    [LDG_PG_NUMBERS] = ADOPT("int8", ", source_pos = x.key", "t.source_id <> ''") LDG_PG_IS_NUMBER
                       ADOPTED,
    [LDG_PG_TEXTS] = ADOPT("text", "", "t.source_id = x.key") LDG_PG_IS_TEXT ADOPTED,
};
/* clang-format on */

ledger_rc ldg_pg_origin_adopt(void *ctx, int origin, const struct ldg_claim *claims, size_t count,
                              uint64_t *ret_adopted, ledger_error *err)
{
    /* of one source, and so of one kind */
    const enum ldg_pg_kind kind = count > 0 ? ldg_pg_kind_of(claims[0].key) : LDG_PG_NUMBERS;
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    struct ldg_buf ids, keys;
    ledger_rc rc = ldg_pg_enter(pg, err);

    ldg_buf_init(&ids, 64 + count * 12);
    ldg_buf_init(&keys, 64 + count * (4 + LEDGER_ID_TEXT_MAX));
    ldg_pg_array_begin(&ids, LDG_PG_INT8);
    ldg_pg_array_keys_begin(&keys, kind);
    for (size_t i = 0; i < count; i++) {
        ldg_pg_array_int64(&ids, claims[i].id.number);
        ldg_pg_array_key(&keys, claims[i].key);
    }
    ldg_pg_array_end(&ids, count);
    ldg_pg_array_end(&keys, count);
    ldg_pg_arg_int32(&args, origin);
    ldg_pg_arg_array(&args, LDG_PG_INT8_ARRAY, &ids);
    ldg_pg_arg_keys(&args, kind, &keys);
    if (rc == LEDGER_OK && (ids.rc != LEDGER_OK || keys.rc != LEDGER_OK))
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK && kind == LDG_PG_TEXTS)
        rc = ldg_pg_schema_check_texts(pg, err);
    /* A bridge that carries the same entry at this moment is seen at the next try. */
    for (int i = 0; rc == LEDGER_OK && i < ADOPT_TRIES; i++) {
        rc = ldg_pg_write_alone(pg, adopting, adopt[kind], &args, &result, err);
        if (rc == LEDGER_OK || strcmp(ldg_pg_sqlstate(err), "23505") != 0)
            break;
        rc = i + 1 < ADOPT_TRIES ? LEDGER_OK : rc;
    }
    if (rc == LEDGER_OK)
        *ret_adopted = (uint64_t)ldg_pg_get_int64(result, 0, 0);
    PQclear(result);
    ldg_buf_fini(&ids);
    ldg_buf_fini(&keys);
    return rc;
}

ledger_rc ldg_pg_origin_last(void *ctx, int origin, struct ldg_arena *arena, ledger_id *ret_id,
                             ledger_error *err)
{
    /* clang-format off */
#define LAST(of, key)                                                                              \
        "(SELECT id FROM \"{t}\" WHERE origin = $1 AND " of " ORDER BY " key " DESC LIMIT 1)"
    static const char last[] = LAST("source_pos IS NOT NULL", "source_pos");
    static const char last_of_both[] = /* texts come behind numbers */
        LAST(LDG_PG_OF_TEXTS(""), LDG_PG_TEXT_OF(""))
        " UNION ALL "
        LAST("source_pos IS NOT NULL", "source_pos")
        " LIMIT 1";
    /* clang-format on */
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    int64_t id = 0;
    bool found = false;
    ledger_rc rc = ldg_pg_enter(pg, err);

    (void)arena; /* ids here are numbers */
    ldg_pg_arg_int32(&args, origin);
    if (rc == LEDGER_OK)
        rc = ldg_pg_run_int64(pg, "looking for an entry", pg->has_text_keys ? last_of_both : last,
                              &args, &found, &id, err);
    if (rc == LEDGER_OK)
        *ret_id = ldg_id_of(found ? id : 0);
    return rc;
}

/* --- what the Go bridge finds ---------------------------------------------------------------- */

/* go_ids: 1 its rows carry their source_id from now on, 2 those before do, too. *ret_state 0: of no
 * origin. */
static ledger_rc go_origin(struct ldg_pg *pg, int *ret_origin, int64_t *ret_state,
                           ledger_error *err)
{
    static const char get[] = "SELECT id, go_ids::bigint FROM \"{t}_origins\" WHERE go_ids > 0 "
                              "ORDER BY id LIMIT 1";
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_run(pg, LDG_PG_KEEP, "looking for an origin", get, NULL, &result, err);

    if (rc == LEDGER_OK) {
        const bool found = PQntuples(result) > 0;

        *ret_origin = found ? (int)ldg_pg_get_int64(result, 0, 0) : 0;
        *ret_state = found ? ldg_pg_get_int64(result, 0, 1) : 0;
    }
    PQclear(result);
    return rc;
}

ledger_rc ldg_pg_go_index(struct ldg_pg *pg, char name[64], ledger_error *err)
{
    static const char find[] =
        "SELECT c.relname::text FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_attribute AS a "
        "ON a.attrelid = i.indrelid AND a.attname = 'source_id' "
        "JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid "
        "WHERE i.indrelid = '\"{t}\"'::regclass AND i.indisunique AND i.indnkeyatts = 1 "
        "AND i.indkey[0] = a.attnum ORDER BY 1 LIMIT 1";
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_run(pg, LDG_PG_KEEP, "looking at the indexes", find, NULL, &result, err);

    if (rc == LEDGER_OK)
        snprintf(name, 64, "%s", PQntuples(result) > 0 ? ldg_pg_get_text(result, 0, 0) : "");
    PQclear(result);
    return rc;
}

/* Rows that nobody has claimed may be those of a source that is to be taken over yet; so may a
 * cursor that Go has left, unless an origin has taken over from Go. */
static ledger_rc choose(struct ldg_pg *pg, ledger_error *err)
{
    static const char set[] =
        "UPDATE \"{t}_origins\" SET go_ids = 1 WHERE id = (SELECT id FROM \"{t}_origins\" "
        "WHERE adopted OR NOT EXISTS (SELECT FROM \"{t}_cursors\" WHERE state = '' "
        "AND cursor <> '') ORDER BY adopted DESC, id LIMIT 1) "
        "AND NOT EXISTS (SELECT FROM \"{t}_origins\" WHERE go_ids > 0)";
    char index[64] = "";
    bool unclaimed = false;
    ledger_rc rc = ldg_pg_go_index(pg, index, err);

    if (rc == LEDGER_OK && index[0] != '\0')
        rc = ldg_pg_origin_unclaimed(pg, &unclaimed, err);
    if (rc == LEDGER_OK && index[0] != '\0' && !unclaimed)
        rc = ldg_pg_write_alone(pg, "choosing an origin", set, NULL, NULL, err);
    return rc;
}

/* One short transaction, so that writers get their turn. *after moves; 0: at the end. */
static ledger_rc fill_some(struct ldg_pg *pg, int origin, int64_t *after, int64_t *filled,
                           ledger_error *err)
{
    static const char fill[] =
        "WITH span AS MATERIALIZED (SELECT max(source_pos) AS last FROM (SELECT source_pos "
        "FROM \"{t}\" WHERE origin = $1 AND source_pos > $2 ORDER BY source_pos LIMIT 5000) AS s), "
        "changed AS (UPDATE \"{t}\" AS e SET source_id = e.source_pos::text WHERE e.origin = $1 "
        "AND e.source_pos > $2 AND e.source_pos <= (SELECT last FROM span) AND e.source_id = '' "
        "AND NOT EXISTS (SELECT FROM \"{t}\" AS o WHERE o.source_id = e.source_pos::text "
        "AND o.source_id <> '') RETURNING 1) "
        "SELECT coalesce((SELECT last FROM span), 0), (SELECT count(*) FROM changed)";
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    ledger_rc rc = LEDGER_OK;

    ldg_pg_arg_int32(&args, origin);
    ldg_pg_arg_int64(&args, *after);
    for (int i = 0; i < ADOPT_TRIES; i++) {
        rc = ldg_pg_write_alone(pg, "giving entries their source_id", fill, &args, &result, err);
        if (rc == LEDGER_OK || strcmp(ldg_pg_sqlstate(err), "23505") != 0)
            break;
    }
    if (rc == LEDGER_OK) {
        *after = ldg_pg_get_int64(result, 0, 0);
        *filled += ldg_pg_get_int64(result, 0, 1);
    }
    PQclear(result);
    return rc;
}

/* A batch that began before the origin was chosen may commit behind this, so it counts as filled
 * only when a later look finds nothing to fill. */
ledger_rc ldg_pg_origin_carry_ids(void *ctx, int *ret_origin, ledger_error *err)
{
    static const char done[] = "UPDATE \"{t}_origins\" SET go_ids = 2 WHERE id = $1";
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    int origin = 0;
    int64_t state = 0, after = 0, filled = 0;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc != LEDGER_OK || !pg->has_ours || !pg->has_source_id)
        goto out;
    rc = go_origin(pg, &origin, &state, err);
    if (rc == LEDGER_OK && origin == 0) {
        rc = choose(pg, err);
        if (rc == LEDGER_OK)
            rc = go_origin(pg, &origin, &state, err);
    }
    if (rc != LEDGER_OK || origin == 0 || state == 2)
        goto out;
    do
        rc = fill_some(pg, origin, &after, &filled, err);
    while (rc == LEDGER_OK && after != 0);
    ldg_pg_arg_int32(&args, origin);
    if (rc == LEDGER_OK && filled == 0)
        rc = ldg_pg_write_alone(pg, "giving entries their source_id", done, &args, NULL, err);
out:
    if (rc == LEDGER_OK)
        *ret_origin = origin;
    return rc;
}

ledger_rc ldg_pg_origin_rewind(void *ctx, int origin, int64_t position, ledger_error *err)
{
    /* clang-format off */
#define REWIND(of)                                                                                 \
        "UPDATE \"{t}\" SET "                                                                      \
            "mutation_pos = CASE WHEN mutation_pos > $2 THEN NULL ELSE mutation_pos END, "         \
            "tags_pos = CASE WHEN tags_pos > $2 THEN NULL ELSE tags_pos END, "                     \
            "annotations_pos = CASE WHEN annotations_pos > $2 THEN NULL ELSE annotations_pos END " \
        "WHERE origin = $1 AND " of " "                                                            \
        "AND (mutation_pos > $2 OR tags_pos > $2 OR annotations_pos > $2)"
    static const char rewind[] =
        "WITH foreigners AS (DELETE FROM \"{t}_foreign\" WHERE mutation_origin = $1 "
            "AND position > $2), "
        "texts AS (" REWIND(LDG_PG_OF_TEXTS("")) ") "
        REWIND("source_pos IS NOT NULL");
    /* clang-format on */
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    ledger_rc rc = ldg_pg_enter(pg, err);

    ldg_pg_arg_int32(&args, origin);
    ldg_pg_arg_int64(&args, position);
    if (rc == LEDGER_OK)
        rc = ldg_pg_write_alone(pg, "rewinding an origin", rewind, &args, NULL, err);
    return rc;
}

/* In <table>_foreign, as kind 3: no change, but that changes of annotations were left out. */
ledger_rc ldg_pg_origin_skips(void *ctx, int origin, ledger_error *err)
{
    static const char note[] =
        "INSERT INTO \"{t}_foreign\" (origin, entry, mutation_origin, kind, id, position) "
        "VALUES ($1, 0, $1, 3, 0, 0) ON CONFLICT (origin, entry, mutation_origin, kind) DO NOTHING";
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    ledger_rc rc = ldg_pg_enter(pg, err);

    ldg_pg_arg_int32(&args, origin);
    if (rc == LEDGER_OK)
        rc = ldg_pg_write_alone(pg, "noting what is skipped", note, &args, NULL, err);
    return rc;
}

ledger_rc ldg_pg_origin_unguard(void *ctx, ledger_error *err)
{
    static const char unguard[] =
        "WITH skipped AS (SELECT EXISTS (SELECT FROM \"{t}_foreign\" WHERE kind = 3) AS any_), "
        "foreigners AS (DELETE FROM \"{t}_foreign\" WHERE kind = 2 "
        "AND (SELECT any_ FROM skipped)) "
        "UPDATE \"{t}\" SET mutation_pos = NULL, annotations_pos = CASE WHEN "
        "(SELECT any_ FROM skipped) THEN NULL ELSE annotations_pos END "
        "WHERE mutation_pos IS NOT NULL "
        "OR (annotations_pos IS NOT NULL AND (SELECT any_ FROM skipped))";
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc == LEDGER_OK)
        rc = ldg_pg_write_alone(pg, "setting a cursor back", unguard, &args, NULL, err);
    return rc;
}

ledger_rc ldg_pg_origin_unclaimed(void *ctx, bool *ret_any, ledger_error *err)
{
    static const char ours[] = "SELECT count(*) FROM (SELECT FROM \"{t}\" WHERE source_id <> '' "
                               "AND origin = 0 AND source_pos IS NULL LIMIT 1) AS s";
    static const char go[] =
        "SELECT count(*) FROM (SELECT FROM \"{t}\" WHERE source_id <> '' LIMIT 1) AS s";
    struct ldg_pg *pg = ctx;
    int64_t any = 0;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc == LEDGER_OK && pg->has_source_id)
        rc = ldg_pg_run_int64(pg, "looking for entries of another bridge", pg->has_ours ? ours : go,
                              NULL, NULL, &any, err);
    if (rc == LEDGER_OK)
        *ret_any = any != 0;
    return rc;
}

/* --- cursors --------------------------------------------------------------------------------- */

static bool take_text(const PGresult *result, int row, int column, char *text, size_t text_size)
{
    const ledger_bytes value = ldg_pg_get_bytes(result, row, column);

    if (value.size >= text_size)
        return false;
    if (value.size)
        memcpy(text, value.data, value.size);
    text[value.size] = '\0';
    return true;
}

ledger_rc ldg_pg_take_cursor(const struct ldg_pg *pg, const PGresult *result, int row,
                             const char *name, struct ldg_cursor *cursor, ledger_error *err)
{
    if (!take_text(result, row, 0, cursor->state, sizeof(cursor->state)) ||
        !take_text(result, row, 1, cursor->readable, sizeof(cursor->readable)))
        return ldg_fail(err, LEDGER_ERR_DATA,
                        "cursor \"%s\" in table \"%s_cursors\" is no cursor of ours; delete its "
                        "row, then set it with `ledgerctl bridge cursor set`",
                        name, pg->table);
    cursor->moved_at_us = ldg_pg_get_time(result, row, 2);
    return LEDGER_OK;
}

#define CURSOR_GET "SELECT state, cursor, moved_at FROM \"{t}_cursors\" WHERE name = $1"

/* locked: waits for whoever is moving it now, perhaps a backend that this bridge has lost. */
static ledger_rc cursor_read(struct ldg_pg *pg, const char *name, bool locked, bool *ret_found,
                             struct ldg_cursor *cursor, ledger_error *err)
{
    static const char plain[] = CURSOR_GET;
    static const char for_update[] = CURSOR_GET " FOR UPDATE";
    /* In a table that only Go has opened: its position, without what we add. */
    static const char go[] = "SELECT '', cursor, NULL::timestamptz FROM \"{t}_cursors\" "
                             "WHERE name = $1";
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    bool own = false;
    ledger_rc rc = locked ? guard(pg, &own, err) : LEDGER_OK;

    if (rc != LEDGER_OK)
        return rc;
    ldg_pg_arg_text(&args, name);
    rc = ldg_pg_run(pg, LDG_PG_KEEP, "reading the cursor",
                    !pg->has_ours ? go
                    : locked      ? for_update
                                  : plain,
                    &args, &result, err);
    if (own) { /* nothing was written: an end without answer is a lost connection and no more */
        ledger_error ignored;
        (void)!ldg_pg_end(pg, own, rc, &ignored);
    }
    *ret_found = rc == LEDGER_OK && PQntuples(result) > 0;
    if (*ret_found)
        rc = ldg_pg_take_cursor(pg, result, 0, name, cursor, err);
    PQclear(result);
    return rc;
}

/* A table that Go has opened need not have cursors. */
static ledger_rc cursors_exist(struct ldg_pg *pg, bool *ret_exist, ledger_error *err)
{
    static const char look[] = "SELECT count(to_regclass('\"{t}_cursors\"'))";
    int64_t count = 1;
    ledger_rc rc = LEDGER_OK;

    if (!pg->has_ours)
        rc = ldg_pg_run_int64(pg, "reading the cursor", look, NULL, NULL, &count, err);
    if (rc == LEDGER_OK)
        *ret_exist = count > 0;
    return rc;
}

/* $1 name, $2 cursor, $3 state, $4 moved_at */
static void bind_cursor(struct ldg_pg_args *args, const char *name, const struct ldg_cursor *cursor)
{
    ldg_pg_arg_text(args, name);
    ldg_pg_arg_text(args, cursor->readable);
    ldg_pg_arg_text(args, cursor->state);
    ldg_pg_arg_time(args, cursor->moved_at_us);
}

#define CURSOR_INSERT                                                                              \
    "INSERT INTO \"{t}_cursors\"(name, cursor, state, moved_at) VALUES ($1, $2, $3, $4) "          \
    "ON CONFLICT (name) DO "

ledger_rc ldg_pg_cursor_get(void *ctx, const char *name, bool create, struct ldg_cursor *ret_cursor,
                            ledger_error *err)
{
    static const char insert[] = CURSOR_INSERT "NOTHING";
    struct ldg_pg *pg = ctx;
    struct ldg_cursor cursor = { .moved_at_us = LEDGER_NO_TIME };
    struct ldg_pg_args args = { 0 };
    bool found = false, exist = false;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc == LEDGER_OK)
        rc = cursors_exist(pg, &exist, err);
    const bool locked =
        pg->role == LDG_ROLE_SINK && !pg->in_snapshot && !(pg->flags & LEDGER_STORE_READ_ONLY);
    if (rc == LEDGER_OK && exist)
        rc = cursor_read(pg, name, locked, &found, &cursor, err);
    if (rc == LEDGER_OK && !found && create) {
        bind_cursor(&args, name, &cursor);
        rc = ldg_pg_fail_own(ldg_pg_write_alone(pg, "adding a cursor", insert, &args, NULL, err),
                             err);
        if (rc == LEDGER_OK) /* another program may have been first */
            rc = cursor_read(pg, name, locked, &found, &cursor, err);
        if (rc == LEDGER_OK && !found)
            rc = ldg_schema_fail_kept_out(pg->table, "cursors", err);
    }
    if (rc == LEDGER_OK && !found)
        rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no cursor \"%s\" in table \"%s_cursors\"", name,
                      pg->table);
    if (rc == LEDGER_OK)
        *ret_cursor = cursor;
    return rc;
}

static ledger_rc cursor_move(struct ldg_pg *pg, const char *name, const struct ldg_cursor *expected,
                             const struct ldg_cursor *next, ledger_error *err)
{
    static const char move[] = "UPDATE \"{t}_cursors\" SET cursor = $2, state = $3, moved_at = $4 "
                               "WHERE name = $1 AND cursor = $5 AND state = $6";
    struct ldg_pg_args args = { 0 };
    struct ldg_cursor now;
    PGresult *result = NULL;
    bool found = false;

    bind_cursor(&args, name, next);
    ldg_pg_arg_text(&args, expected->readable);
    ldg_pg_arg_text(&args, expected->state);
    ledger_rc rc = ldg_pg_fail_own(
        ldg_pg_write_alone(pg, "moving the cursor", move, &args, &result, err), err);
    if (rc == LEDGER_OK && ldg_pg_changed(result) == 0) {
        rc = cursor_read(pg, name, false, &found, &now, err);
        if (rc == LEDGER_OK)
            rc = ldg_cursor_compare(name, found ? &now : NULL, expected, err);
        if (rc == LEDGER_OK) /* and it was moved back meanwhile */
            rc = ldg_fail(err, LEDGER_ERR_FENCED, "another bridge is moving cursor \"%s\"", name);
    }
    PQclear(result);
    return rc;
}

ledger_rc ldg_pg_cursor_set(void *ctx, const char *name, const struct ldg_cursor *expected,
                            const struct ldg_cursor *next, ledger_error *err)
{
    static const char put[] = CURSOR_INSERT "UPDATE SET cursor = excluded.cursor, "
                                            "state = excluded.state, moved_at = excluded.moved_at";
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc != LEDGER_OK)
        return rc;
    if (expected)
        return cursor_move(pg, name, expected, next, err);
    bind_cursor(&args, name, next);
    return ldg_pg_fail_own(ldg_pg_write_alone(pg, "writing the cursor", put, &args, NULL, err),
                           err);
}

ledger_rc ldg_pg_cursor_list(void *ctx, ledger_names *ret_names, ledger_error *err)
{
    static const char list[] = "SELECT name FROM \"{t}_cursors\" ORDER BY name COLLATE \"C\"";
    struct ldg_pg *pg = ctx;
    PGresult *result = NULL;
    bool exist = false;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc == LEDGER_OK)
        rc = cursors_exist(pg, &exist, err);
    if (rc == LEDGER_OK && exist)
        rc = ldg_pg_run(pg, LDG_PG_KEEP, "listing cursors", list, NULL, &result, err);
    if (rc == LEDGER_OK && exist)
        rc = ldg_pg_take_names(result, ret_names, err);
    else if (rc == LEDGER_OK)
        *ret_names = (ledger_names){ 0 };
    PQclear(result);
    return rc;
}
