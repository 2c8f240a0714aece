/* Counts, names of streams, and rows by their number.
 *
 * Hides which index answers. Invariant: names come in the order of their bytes, whatever order the
 * database's locale gives its index. */
#include "backend/postgres/parked.h"

#include <string.h>

/* --- count, stat ----------------------------------------------------------------------------- */

ledger_rc ldg_pg_count(void *ctx, const char *stream, uint64_t *ret_count, ledger_error *err)
{
    static const char of_stream[] = "SELECT count(*) FROM \"{t}\" WHERE stream = $1";
    static const char of_all[] = "SELECT count(*) FROM \"{t}\"";
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    int64_t count = 0;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (stream)
        ldg_pg_arg_text(&args, stream);
    if (rc == LEDGER_OK)
        rc = ldg_pg_run_int64(pg, "counting entries", stream ? of_stream : of_all, &args, NULL,
                              &count, err);
    if (rc == LEDGER_OK)
        *ret_count = (uint64_t)count;
    return rc;
}

#define STAT_OF(where)                                                                             \
    "SELECT n, first, last, (SELECT created_at FROM \"{t}\" WHERE id = first), "                   \
    "(SELECT created_at FROM \"{t}\" WHERE id = last) FROM (SELECT count(*) AS n, "                \
    "min(id) AS first, max(id) AS last FROM \"{t}\" " where ") AS s"

ledger_rc ldg_pg_stat(void *ctx, const char *stream, ledger_stream_stat *ret_stat,
                      ledger_error *err)
{
    static const char of_stream[] = STAT_OF("WHERE stream = $1");
    static const char of_all[] = STAT_OF("");
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (stream)
        ldg_pg_arg_text(&args, stream);
    if (rc == LEDGER_OK)
        rc = ldg_pg_run(pg, LDG_PG_KEEP, "reading statistics", stream ? of_stream : of_all, &args,
                        &result, err);
    if (rc == LEDGER_OK)
        *ret_stat = (ledger_stream_stat){
            .count = (uint64_t)ldg_pg_get_int64(result, 0, 0),
            .first_id = { .number = ldg_pg_get_int64(result, 0, 1) },
            .last_id = { .number = ldg_pg_get_int64(result, 0, 2) },
            .first_at_us = ldg_pg_get_time(result, 0, 3),
            .last_at_us = ldg_pg_get_time(result, 0, 4),
        };
    PQclear(result);
    return rc;
}

/* --- streams --------------------------------------------------------------------------------- */

/* Does the index on (stream, id) hold the names in the order of their bytes? The provider of a
 * database's locale is a column since PostgreSQL 15; the built-in one ('b') compares bytes. */
static const char bytewise[] =
    "SELECT CASE WHEN a.attcollation IN ('pg_catalog.\"C\"'::regcollation, "
    "'pg_catalog.\"POSIX\"'::regcollation) THEN true "
    "WHEN a.attcollation <> 'pg_catalog.\"default\"'::regcollation THEN false ELSE "
    "(SELECT CASE coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') WHEN 'b' THEN true "
    "WHEN 'c' THEN d.datcollate IN ('C', 'POSIX') ELSE false END "
    "FROM pg_catalog.pg_database AS d WHERE d.datname = current_database()) END "
    "FROM pg_catalog.pg_attribute AS a "
    "WHERE a.attrelid = '\"{t}\"'::regclass AND a.attname = 'stream'";

/* Each step jumps to the next name in the index: a stream of a million rows costs one step. */
#define NAMES_FROM(first)                                                                          \
    "WITH RECURSIVE names(name) AS ((SELECT stream FROM \"{t}\" " first                            \
    "ORDER BY stream LIMIT 1) UNION ALL "                                                          \
    "SELECT (SELECT stream FROM \"{t}\" WHERE stream > n.name ORDER BY stream LIMIT 1) "           \
    "FROM names AS n WHERE n.name IS NOT NULL) SELECT name FROM names WHERE name IS NOT NULL "

/* $1 after or NULL, $2 limit */
static const char list_in_order[] =
    NAMES_FROM("WHERE stream >= coalesce($1, '') AND ($1 IS NULL OR stream <> $1) ") "LIMIT $2";
/* Of another order every name has to be looked at, also for the first page. */
static const char list_sorted[] =
    NAMES_FROM("") "AND ($1 IS NULL OR name COLLATE \"C\" > $1) ORDER BY name COLLATE \"C\" "
                   "LIMIT $2";

ledger_rc ldg_pg_take_names(const PGresult *result, ledger_names *ret_names, ledger_error *err)
{
    const size_t count = (size_t)PQntuples(result);
    ledger_names names = { 0 };
    ledger_rc rc = LEDGER_OK;

    if (count) {
        names.items = ldg_calloc(count, sizeof(*names.items));
        if (!names.items)
            return ldg_fail_nomem(err);
    }
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        names.items[i] = ldg_strdup(ldg_pg_get_text(result, (int)i, 0));
        if (names.items[i])
            names.count++;
        else
            rc = ldg_fail_nomem(err);
    }
    if (rc == LEDGER_OK)
        *ret_names = names;
    else
        ledger_names_destroy(&names);
    return rc;
}

ledger_rc ldg_pg_list_streams(void *ctx, const char *after, size_t limit, ledger_names *ret_names,
                              ledger_error *err)
{
    static const char doing[] = "listing streams";
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    PGresult *order = NULL, *result = NULL;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc == LEDGER_OK)
        rc = ldg_pg_run(pg, LDG_PG_KEEP, doing, bytewise, NULL, &order, err);
    if (rc != LEDGER_OK)
        goto out;
    const bool in_order = PQntuples(order) == 1 && ldg_pg_get_bool(order, 0, 0);
    ldg_pg_arg_text(&args, after);
    ldg_pg_arg_int64(&args, limit == 0          ? LEDGER_READ_LIMIT_DEFAULT
                            : limit < INT64_MAX ? (int64_t)limit
                                                : INT64_MAX);
    rc = ldg_pg_run(pg, LDG_PG_FRESH, doing, in_order ? list_in_order : list_sorted, &args, &result,
                    err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_take_names(result, ret_names, err);
out:
    PQclear(order);
    PQclear(result);
    return rc;
}

/* --- by another number ----------------------------------------------------------------------- */

/* $1 stream, $2 text, $3 number */
#define FIND_OURS                                                                                  \
    "SELECT e.id FROM \"{t}_origins\" AS o JOIN \"{t}\" AS e ON e.origin = o.id "                  \
    "AND e.source_pos = $3 WHERE e.stream = $1 "
#define FIND_TEXT                                                                                  \
    "SELECT e.id FROM \"{t}_origins\" AS o JOIN \"{t}\" AS e ON e.origin = o.id "                  \
    "AND " LDG_PG_TEXT_OF("e.") " = $2 AND " LDG_PG_OF_TEXTS("e.") " WHERE e.stream = $1 "
#define FIND_GO "SELECT id FROM \"{t}\" WHERE source_id = $2 AND source_id <> '' AND stream = $1 "

ledger_rc ldg_pg_find_by_source_id(void *ctx, const char *stream, const char *source_id,
                                   ledger_id *ret_id, ledger_error *err)
{
    static const char all[] = FIND_OURS "UNION ALL " FIND_TEXT "UNION ALL " FIND_GO "LIMIT 1";
    static const char both[] = FIND_OURS "UNION ALL " FIND_GO "LIMIT 1";
    static const char ours[] = FIND_OURS "LIMIT 1";
    static const char go[] = FIND_GO "LIMIT 1";
    static const char none[] = "SELECT id FROM \"{t}\" WHERE false";
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    int64_t number = 0, id = 0; /* no entry has the number 0 */
    bool found = false;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc != LEDGER_OK)
        return rc;
    if (!ldg_int64_parse(source_id, false, &number))
        number = 0;
    const char *template = pg->has_text_keys    ? all
                           : !pg->has_source_id ? pg->has_ours ? ours : none
                           : pg->has_ours       ? both
                                                : go;
    ldg_pg_arg_text(&args, stream);
    ldg_pg_arg_text(&args, source_id);
    ldg_pg_arg_int64(&args, number);
    rc = ldg_pg_run_int64(pg, "looking for a bridged entry", template, &args, &found, &id, err);
    if (rc == LEDGER_OK && !found)
        rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND,
                      "stream \"%s\" has no entry with the id %s of another store", stream,
                      source_id);
    if (rc == LEDGER_OK)
        *ret_id = (ledger_id){ .number = id };
    return rc;
}

/* Nothing but what is asked for: another column of the row may be odd, and is not read. */
static ledger_rc fill_known(const PGresult *result, int row, struct ldg_arena *arena,
                            ledger_entry *entry, ledger_error *err)
{
    const ledger_bytes payload = ldg_pg_get_bytes(result, row, 3);
    const char *stream = ldg_arena_strdup(arena, ldg_pg_get_text(result, row, 2));
    const void *copy = ldg_arena_memdup(arena, payload.size ? payload.data : "", payload.size);

    if (!stream || !copy)
        return ldg_fail_nomem(err);
    entry->id.number = ldg_pg_get_int64(result, row, 1);
    entry->stream = stream;
    entry->payload = (ledger_bytes){ .data = copy, .size = payload.size };
    entry->created_at_us = ldg_pg_get_time(result, row, 4);
    return LEDGER_OK;
}

ledger_rc ldg_pg_entries_by_id(void *ctx, const ledger_id *ids, size_t count,
                               struct ldg_arena *arena, ledger_entry **ret_entries,
                               ledger_error *err)
{
    static const char by_id[] =
        "SELECT k.n, e.id, e.stream, e.payload, e.created_at FROM unnest($1) "
        "WITH ORDINALITY AS k(id, n) JOIN \"{t}\" AS e ON e.id = k.id";
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    ledger_entry *entries = ldg_arena_calloc(arena, count, sizeof(*entries));
    PGresult *result = NULL;
    struct ldg_buf array;
    ledger_rc rc;

    ldg_buf_init(&array, 64 + count * 12);
    rc = ldg_pg_enter(pg, err);
    if (rc != LEDGER_OK)
        goto out;
    ldg_pg_array_begin(&array, LDG_PG_INT8);
    for (size_t i = 0; i < count; i++)
        ldg_pg_array_int64(&array, ids[i].number);
    ldg_pg_array_end(&array, count);
    if (!entries || array.rc != LEDGER_OK) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    for (size_t i = 0; i < count; i++)
        entries[i] = (ledger_entry){
            .stream = "",
            .order_key = "",
            .dedup_key = "",
            .source_id = "",
            .origin = "",
            .created_at_us = LEDGER_NO_TIME,
            .updated_at_us = LEDGER_NO_TIME,
        };
    ldg_pg_arg_array(&args, LDG_PG_INT8_ARRAY, &array);
    rc = ldg_pg_run(pg, LDG_PG_KEEP, "reading entries", by_id, &args, &result, err);
    for (int row = 0; rc == LEDGER_OK && row < PQntuples(result); row++) {
        const size_t at = (size_t)ldg_pg_get_int64(result, row, 0) - 1;
        if (at < count)
            rc = fill_known(result, row, arena, &entries[at], err);
    }
out:
    PQclear(result);
    ldg_buf_fini(&array);
    if (rc == LEDGER_OK)
        *ret_entries = entries;
    return rc;
}

/* --- what a trim leaves ---------------------------------------------------------------------- */

/* $1 stream, $2 before */
static const char survivors_here[] = "SELECT id FROM \"{t}\" WHERE stream = $1 AND id <= $2 "
                                     "AND origin = 0 AND source_pos IS NULL ORDER BY id";
static const char survivors_go[] =
    "SELECT id FROM \"{t}\" WHERE stream = $1 AND id <= $2 ORDER BY id";
/* $1 stream, $2 before, $3 origin: of its numbers, of its texts. Where the origin's entries are in
 * its order, the first one that a trim leaves ends the look. */
static const char survivors_origin[] =
    "SELECT source_pos FROM \"{t}\" WHERE stream = $1 AND id < coalesce(CASE WHEN "
    "(SELECT ordered FROM \"{t}_origins\" WHERE id = $3) THEN (SELECT id FROM \"{t}\" "
    "WHERE stream = $1 AND origin = $3 AND source_pos > $2 ORDER BY id LIMIT 1) END, "
    "9223372036854775807) AND origin = $3 AND source_pos <= $2 "
    "UNION SELECT entry FROM \"{t}_parked\" WHERE origin = $3 AND entry > 0 AND entry <= $2 "
    "AND stream = $1 ORDER BY 1";
/* clang-format off */
static const char survivors_text[] =
    "SELECT " LDG_PG_TEXT_OF("") " FROM \"{t}\" "
        "WHERE stream = $1 AND origin = $3 AND " LDG_PG_OF_TEXTS("") " "
            "AND " LDG_PG_TEXT_OF("") " <= $2 "
    "UNION "
    "SELECT entry_id COLLATE \"C\" FROM \"{t}_parked\" "
        "WHERE origin = $3 AND entry < 0 AND entry_id COLLATE \"C\" <= $2 AND stream = $1 "
    "ORDER BY 1";
/* clang-format on */

static const char *survivors_template(const struct ldg_pg *pg, int origin, ledger_id before)
{
    if (origin != 0)
        return before.text != NULL ? survivors_text : survivors_origin;
    return pg->has_ours ? survivors_here : survivors_go;
}

static ledger_rc take_ids(const PGresult *result, bool texts, struct ldg_arena *arena,
                          ledger_id **ret_ids, size_t *ret_count, ledger_error *err)
{
    const size_t count = (size_t)PQntuples(result);
    ledger_id *ids = ldg_arena_calloc(arena, count, sizeof(*ids));

    if (ids == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < count; i++) {
        const int row = (int)i;
        const ledger_id id = texts ? (ledger_id){ .text = ldg_pg_get_text(result, row, 0) }
                                   : ldg_id_of(ldg_pg_get_int64(result, row, 0));

        if (!ldg_id_copy(id, arena, &ids[i]))
            return ldg_fail_nomem(err);
    }
    *ret_ids = ids;
    *ret_count = count;
    return LEDGER_OK;
}

/* Transactions overlap: an append with a lower id may become visible around the trim. Bridged
 * entries come in any order, those that were parked here latest of all. */
ledger_rc ldg_pg_trim_survivors(void *ctx, int origin, const char *stream, ledger_id before,
                                struct ldg_arena *arena, ledger_id **ret_ids, size_t *ret_count,
                                ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc != LEDGER_OK)
        return rc;
    if (before.text != NULL && (origin == 0 || !pg->has_entry_id)) { /* nobody has such an id */
        *ret_ids = NULL;
        *ret_count = 0;
        return LEDGER_OK;
    }
    ldg_pg_arg_text(&args, stream);
    ldg_pg_arg_key(&args, before);
    if (origin)
        ldg_pg_arg_int32(&args, origin);
    rc = ldg_pg_run(pg, LDG_PG_KEEP, "reading what a trim left",
                    survivors_template(pg, origin, before), &args, &result, err);
    if (rc == LEDGER_OK)
        rc = take_ids(result, before.text != NULL, arena, ret_ids, ret_count, err);
    PQclear(result);
    return rc;
}
