/* Parked events: kept aside with their reason until somebody retries or drops them.
 *
 * A row stands for one op: an append of several entries is cut, so that each can be retried and
 * waited for alone. Invariant: while a row of an entry is here no later event of that entry is
 * applied; it is parked behind, as is an append whose dedup key a parked trim would have set free.
 */
#include "backend/postgres/parked.h"

#include <inttypes.h>
#include <string.h>

#define LIST_MAX_BYTES ((int64_t)64 * 1024 * 1024)
#define ARRAY_MAX_BYTES ((size_t)999 * 1000 * 1000)

/* --- parking --------------------------------------------------------------------------------- */

/* A reason may be a message that was cut inside of a character, and PostgreSQL takes no such text.
 */
static ledger_rc clean_text(struct ldg_arena *arena, const char *text, const char **ret_text,
                            ledger_error *err)
{
    size_t size = strlen(text);
    char *copy = NULL;

    *ret_text = text;
    if (ldg_utf8_valid(text, size))
        return LEDGER_OK;
    copy = ldg_arena_strndup(arena, text, size);
    if (!copy)
        return ldg_fail_nomem(err);
    for (size_t at = 0; at < size;) {
        size_t length = 1;

        while (length <= 4 && at + length <= size && !ldg_utf8_valid(copy + at, length))
            length++;
        if (length > 4 || at + length > size) {
            copy[at] = '?';
            length = 1;
        }
        at += length;
    }
    *ret_text = copy;
    return LEDGER_OK;
}

/* clang-format off */
/* $1 source_uuid, $2 origin, $3 log_position, $4 key, $5 stream, $6 type, $7 reason, $8 now,
 * $9 event_time, $10 event. The unique key is on numbers: the column `entry` is the key; of one
 * that is a text, which is in entry_id, it is a number below zero, another for each of an event:
 * made of the text, so that two bridges that park at once do not choose the same for two texts. */
#define NUMBER_OF_TEXT "-1 - (hashtextextended($4, 0) >> 1 & 4611686018427387903)"
#define PARK(more, values, update)                                                                 \
    "INSERT INTO \"{t}_parked\" AS p (source_uuid, origin, log_position, stream, type, "           \
        "reason, parked_at, event_time, event, entry" more ") " values " "                         \
    "ON CONFLICT (source_uuid, log_position, entry) DO UPDATE SET origin = excluded.origin, "      \
        "stream = excluded.stream, type = excluded.type, reason = excluded.reason, "               \
        "event_time = excluded.event_time, event = excluded.event, " update                        \
        "attempts = p.attempts + 1, attempted_at = excluded.parked_at RETURNING p.attempts"
static const char *const park[LDG_PG_KINDS] = {
    [LDG_PG_NUMBERS] = PARK("", "VALUES ($1, $2, $3, $5, $6, $7, $8, $9, $10, $4)", ""),
    [LDG_PG_TEXTS] = PARK(", entry_id",
        "SELECT $1, $2, $3, $5, $6, $7, $8, $9, $10, "
                "coalesce(min(w.entry) FILTER (WHERE w.entry_id COLLATE \"C\" = $4), "
                    "CASE WHEN bool_or(w.entry = " NUMBER_OF_TEXT ") "
                        "THEN least(min(w.entry), 0) - 1 ELSE " NUMBER_OF_TEXT " END), $4 "
            "FROM \"{t}_parked\" AS w WHERE w.source_uuid = $1 AND w.log_position = $3",
        "entry_id = excluded.entry_id, "),
};
/* clang-format on */

ledger_rc ldg_pg_park(struct ldg_pg *pg, const struct ldg_op *op, const char *reason, bool *ret_new,
                      ledger_error *err)
{
    PGresult *result = NULL;
    struct ldg_pg_args args = { 0 };
    struct ldg_arena texts;
    const char *stream = NULL, *type = NULL;
    ledger_bytes event;
    struct ldg_buf buf;

    ldg_arena_init(&texts, 0);
    ldg_buf_init(&buf, pg->event_buf.max);
    ledger_rc rc = ldg_op_parked_event(op, &buf, &event, err);
    if (rc == LEDGER_OK)
        rc = clean_text(&texts, ldg_or_empty(op->stream), &stream, err);
    if (rc == LEDGER_OK)
        rc = clean_text(&texts, ldg_or_empty(op->type_name), &type, err);
    if (rc == LEDGER_OK)
        rc = clean_text(&texts, reason, &reason, err);
    if (rc != LEDGER_OK)
        goto out;
    ldg_pg_arg_text(&args, ldg_or_empty(op->source_uuid));
    ldg_pg_arg_int32(&args, op->origin);
    ldg_pg_arg_int64(&args, op->log_position);
    ldg_pg_arg_key(&args, op->key);
    ldg_pg_arg_text(&args, stream);
    ldg_pg_arg_text(&args, type);
    ldg_pg_arg_text(&args, reason);
    ldg_pg_arg_time(&args, ldg_clock_now_us());
    ldg_pg_arg_time(&args, op->log_time_us);
    ldg_pg_arg_bytes(&args, event.size ? event.data : "", event.size);
    rc = ldg_pg_run(pg, LDG_PG_KEEP, "parking an event", park[ldg_pg_kind_of(op->key)], &args,
                    &result, err);
    rc = ldg_pg_fail_own(rc, err);
    if (rc == LEDGER_OK && PQntuples(result) == 0)
        rc = ldg_schema_fail_kept_out(pg->table, "parked", err);
    if (rc == LEDGER_OK)
        *ret_new = ldg_pg_get_int64(result, 0, 0) == 1;
    PQclear(result);
out:
    ldg_buf_fini(&buf);
    ldg_arena_fini(&texts);
    return rc;
}

ledger_rc ldg_pg_parked_trim(struct ldg_pg *pg, const struct ldg_op *op, bool *ret_any,
                             ledger_error *err)
{
    static const char *const trim[LDG_PG_KINDS] = {
        "DELETE FROM \"{t}_parked\" WHERE origin = $1 AND entry > 0 "
        "AND entry <= $2 AND stream = $3 AND entry <> ALL ($4)",
        "DELETE FROM \"{t}_parked\" WHERE origin = $1 AND entry < 0 "
        "AND entry_id COLLATE \"C\" <= $2 AND stream = $3 AND entry_id <> ALL ($4)",
    };
    const enum ldg_pg_kind kind = ldg_pg_kind_of(op->key);
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    struct ldg_buf survivors;
    ledger_rc rc = LEDGER_OK;

    ldg_buf_init(&survivors, 64 + op->survivor_count * (4 + LEDGER_ID_TEXT_MAX));
    ldg_pg_array_keys_begin(&survivors, kind);
    for (size_t i = 0; i < op->survivor_count; i++)
        ldg_pg_array_key(&survivors, op->survivors[i]);
    ldg_pg_array_end(&survivors, op->survivor_count);
    if (survivors.rc != LEDGER_OK)
        rc = ldg_fail_nomem(err);
    ldg_pg_arg_int32(&args, op->origin);
    ldg_pg_arg_key(&args, op->key);
    ldg_pg_arg_text(&args, ldg_or_empty(op->stream));
    ldg_pg_arg_keys(&args, kind, &survivors);
    if (rc == LEDGER_OK)
        rc = ldg_pg_fail_own(
            ldg_pg_run(pg, LDG_PG_KEEP, "trimming parked events", trim[kind], &args, &result, err),
            err);
    if (rc == LEDGER_OK)
        *ret_any = ldg_pg_changed(result) > 0;
    PQclear(result);
    ldg_buf_fini(&survivors);
    return rc;
}

/* --- looking at them ------------------------------------------------------------------------- */

/* $1 after, $2 limit, $3 bytes: as in a page of entries, events are large or many but not both */
#define PAGE(entry_id)                                                                             \
    "SELECT id, source_uuid, log_position, entry, type, stream, reason, attempts, parked_at, "     \
    "event_time, event, origin, " entry_id " "                                                     \
    "FROM (SELECT *, sum(octet_length(event)::bigint) OVER (ORDER BY id "                          \
    "ROWS UNBOUNDED PRECEDING) AS ldg_total FROM (SELECT * FROM \"{t}_parked\" WHERE id > $1 "     \
    "ORDER BY id LIMIT $2) AS w) AS p WHERE ldg_total IS NULL OR ldg_total <= $3 "                 \
    "OR ldg_total = octet_length(event) ORDER BY id"
static const char parked_page[] = PAGE("entry_id");
static const char parked_page_old[] = PAGE("''::text"); /* of a table that lacks the column */
enum {
    ROW_ID,
    ROW_SOURCE_UUID,
    ROW_LOG_POSITION,
    ROW_ENTRY,
    ROW_TYPE,
    ROW_STREAM,
    ROW_REASON,
    ROW_ATTEMPTS,
    ROW_PARKED_AT,
    ROW_EVENT_TIME,
    ROW_EVENT,
    ROW_ORIGIN,
    ROW_ENTRY_ID,
};

static ledger_rc fill_row(const PGresult *result, int i, struct ldg_arena *arena,
                          struct ldg_parked_row *row, ledger_error *err)
{
    const ledger_bytes uuid = ldg_pg_get_bytes(result, i, ROW_SOURCE_UUID);
    const ledger_bytes event = ldg_pg_get_bytes(result, i, ROW_EVENT);

    ledger_id key = ldg_pg_get_key(result, i, ROW_ENTRY, ROW_ENTRY_ID);

    if (!ldg_id_copy(key, arena, &key))
        return ldg_fail_nomem(err);
    *row = (struct ldg_parked_row){
        .id = ldg_pg_get_int64(result, i, ROW_ID),
        .log_position = ldg_pg_get_int64(result, i, ROW_LOG_POSITION),
        .origin = (int)ldg_pg_get_int64(result, i, ROW_ORIGIN),
        .key = key,
        .type_name = ldg_arena_strdup(arena, ldg_pg_get_text(result, i, ROW_TYPE)),
        .stream = ldg_arena_strdup(arena, ldg_pg_get_text(result, i, ROW_STREAM)),
        .reason = ldg_arena_strdup(arena, ldg_pg_get_text(result, i, ROW_REASON)),
        .attempts = (uint64_t)ldg_pg_get_int64(result, i, ROW_ATTEMPTS),
        .parked_at_us = ldg_pg_get_time(result, i, ROW_PARKED_AT),
        .time_us = ldg_pg_get_time(result, i, ROW_EVENT_TIME),
        .event = { .data = ldg_arena_memdup(arena, event.size ? event.data : "", event.size),
                   .size = event.size },
    };
    if (uuid.size && uuid.size < sizeof(row->source_uuid))
        memcpy(row->source_uuid, uuid.data, uuid.size);
    return row->type_name && row->stream && row->reason && row->event.data ? LEDGER_OK
                                                                           : ldg_fail_nomem(err);
}

static ledger_rc take_rows(const PGresult *result, struct ldg_arena *arena,
                           struct ldg_parked_row **ret_rows, size_t *ret_count, ledger_error *err)
{
    const size_t count = result ? (size_t)PQntuples(result) : 0;
    struct ldg_parked_row *rows = ldg_arena_calloc(arena, count, sizeof(*rows));
    ledger_rc rc = rows ? LEDGER_OK : ldg_fail_nomem(err);

    for (size_t i = 0; rc == LEDGER_OK && i < count; i++)
        rc = fill_row(result, (int)i, arena, &rows[i], err);
    if (rc == LEDGER_OK) {
        *ret_rows = rows;
        *ret_count = count;
    }
    return rc;
}

ledger_rc ldg_pg_parked_list(void *ctx, int64_t after, size_t limit, struct ldg_arena *arena,
                             struct ldg_parked_row **ret_rows, size_t *ret_count, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_enter(pg, err);

    ldg_pg_arg_int64(&args, after);
    ldg_pg_arg_int64(&args, limit < INT64_MAX ? (int64_t)limit : INT64_MAX);
    ldg_pg_arg_int64(&args, LIST_MAX_BYTES);
    if (rc == LEDGER_OK && pg->has_ours)
        rc = ldg_pg_run(pg, LDG_PG_KEEP, "listing parked events",
                        pg->has_entry_id ? parked_page : parked_page_old, &args, &result, err);
    if (rc == LEDGER_OK)
        rc = take_rows(result, arena, ret_rows, ret_count, err);
    PQclear(result);
    return rc;
}

/* clang-format off */
/* $1 ids at their origins, $2 log positions, $3 there are changes, $4 streams of trims, $5 streams
 * of appends with a dedup key, $6 there are any: it may be one that a parked trim would set free,
 * $7 and $8 lowest and highest id, $9 and $10 lowest and highest log position, $11 ids that are
 * texts. What costs least is looked at first: there may be thousands of each. */
#define NEAR(entry_id, or_text)                                                                    \
    "SELECT id, source_uuid, log_position, entry, type, stream, reason, attempts, parked_at, "     \
        "event_time, ''::bytea, origin, " entry_id " FROM \"{t}_parked\" "                         \
    "WHERE (entry BETWEEN $7 AND $8 AND entry = ANY ($1::int8[])) "                                \
    "OR (log_position BETWEEN $9 AND $10 AND log_position = ANY ($2::int8[])) "                    \
    "OR (entry = 0 AND $3) "                                                                       \
    "OR stream = ANY ($4::text[]) "                                                                \
    "OR ($6 AND type NOT IN ('append', 'set_tags', 'set_annotations') "                            \
        "AND (stream = '' OR stream = ANY ($5::text[])))" or_text
static const char parked_near[] = NEAR("entry_id", "");
static const char parked_near_texts[] =
    NEAR("entry_id", " OR entry_id COLLATE \"C\" = ANY ($11::text[])");
static const char parked_near_old[] = NEAR("''::text", ""); /* of a table that lacks the column */
/* clang-format on */
enum { NEAR_ENTRIES, NEAR_POSITIONS, NEAR_TRIMS, NEAR_KEYED, NEAR_TEXTS, NEAR_ARRAYS };

/* Of numbers that are looked for: a row outside is not compared with each. */
struct span {
    int64_t lowest, highest;
};

static void span_add(struct span *span, int64_t number)
{
    if (number < span->lowest)
        span->lowest = number;
    if (number > span->highest)
        span->highest = number;
}

/* $1 to $10; how many texts there are. */
static size_t near_args(const struct ldg_op *ops, size_t count, struct ldg_buf arrays[NEAR_ARRAYS],
                        struct ldg_pg_args *args)
{
    struct span entries = { INT64_MAX, INT64_MIN }, positions = entries;
    size_t trims = 0, keyed = 0, texts = 0;
    bool changes = false;

    ldg_pg_array_begin(&arrays[NEAR_ENTRIES], LDG_PG_INT8);
    ldg_pg_array_begin(&arrays[NEAR_POSITIONS], LDG_PG_INT8);
    ldg_pg_array_begin(&arrays[NEAR_TRIMS], LDG_PG_TEXT);
    ldg_pg_array_begin(&arrays[NEAR_KEYED], LDG_PG_TEXT);
    for (size_t i = 0; i < count; i++) {
        const struct ldg_op *op = &ops[i];

        if (op->key.text != NULL && texts++ == 0)
            ldg_pg_array_begin(&arrays[NEAR_TEXTS], LDG_PG_TEXT);
        ldg_pg_array_key(&arrays[op->key.text != NULL ? NEAR_TEXTS : NEAR_ENTRIES], op->key);
        ldg_pg_array_int64(&arrays[NEAR_POSITIONS], op->log_position);
        span_add(&positions, op->log_position);
        if (op->key.text == NULL)
            span_add(&entries, op->key.number);
        changes = changes || ldg_op_is_change(op);
        if (op->kind == LDG_OP_TRIM) {
            ldg_pg_array_text(&arrays[NEAR_TRIMS], op->stream);
            trims++;
        }
        if (ldg_op_has_dedup_key(op)) {
            ldg_pg_array_text(&arrays[NEAR_KEYED], op->stream);
            keyed++;
        }
    }
    ldg_pg_array_end(&arrays[NEAR_ENTRIES], count - texts);
    ldg_pg_array_end(&arrays[NEAR_POSITIONS], count);
    ldg_pg_array_end(&arrays[NEAR_TRIMS], trims);
    ldg_pg_array_end(&arrays[NEAR_KEYED], keyed);
    if (texts > 0)
        ldg_pg_array_end(&arrays[NEAR_TEXTS], texts);
    ldg_pg_arg_array(args, LDG_PG_INT8_ARRAY, &arrays[NEAR_ENTRIES]);
    ldg_pg_arg_array(args, LDG_PG_INT8_ARRAY, &arrays[NEAR_POSITIONS]);
    ldg_pg_arg_bool(args, changes);
    ldg_pg_arg_array(args, LDG_PG_TEXT_ARRAY, &arrays[NEAR_TRIMS]);
    ldg_pg_arg_array(args, LDG_PG_TEXT_ARRAY, &arrays[NEAR_KEYED]);
    ldg_pg_arg_bool(args, keyed > 0);
    ldg_pg_arg_int64(args, entries.lowest);
    ldg_pg_arg_int64(args, entries.highest);
    ldg_pg_arg_int64(args, positions.lowest);
    ldg_pg_arg_int64(args, positions.highest);
    return texts;
}

ledger_rc ldg_pg_parked_find(struct ldg_pg *pg, const struct ldg_op *ops, size_t count,
                             struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                             size_t *ret_count, ledger_error *err)
{
    struct ldg_buf arrays[NEAR_ARRAYS];
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    ledger_rc rc;

    for (int i = 0; i < NEAR_ARRAYS; i++)
        ldg_buf_init(&arrays[i], ARRAY_MAX_BYTES);
    const bool texts = near_args(ops, count, arrays, &args) > 0 && pg->has_entry_id;
    if (texts)
        ldg_pg_arg_array(&args, LDG_PG_TEXT_ARRAY, &arrays[NEAR_TEXTS]);
    rc = ldg_pg_run(pg, LDG_PG_KEEP, "looking for parked events",
                    texts              ? parked_near_texts
                    : pg->has_entry_id ? parked_near
                                       : parked_near_old,
                    &args, &result, err);
    if (rc == LEDGER_OK)
        rc = take_rows(result, arena, ret_rows, ret_count, err);
    PQclear(result);
    for (int i = 0; i < NEAR_ARRAYS; i++)
        ldg_buf_fini(&arrays[i]);
    return rc;
}

ledger_rc ldg_pg_parked_near(void *ctx, const struct ldg_op *ops, size_t count,
                             struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                             size_t *ret_count, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc == LEDGER_OK && pg->has_ours)
        return ldg_pg_parked_find(pg, ops, count, arena, ret_rows, ret_count, err);
    if (rc == LEDGER_OK)
        *ret_count = 0;
    return rc;
}

ledger_rc ldg_pg_parked_count(void *ctx, const char *source_uuid, uint64_t *ret_count,
                              ledger_error *err)
{
    static const char of_all[] = "SELECT count(*) FROM \"{t}_parked\"";
    static const char of_source[] = "SELECT count(*) FROM \"{t}_parked\" WHERE source_uuid = $1";
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    int64_t count = 0;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (source_uuid)
        ldg_pg_arg_text(&args, source_uuid);
    if (rc == LEDGER_OK && pg->has_ours)
        rc = ldg_pg_run_int64(pg, "counting parked events", source_uuid ? of_source : of_all, &args,
                              NULL, &count, err);
    if (rc == LEDGER_OK)
        *ret_count = (uint64_t)count;
    return rc;
}

/* --- trying again ---------------------------------------------------------------------------- */

static ledger_rc fail_missing(int64_t id, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no parked event %" PRId64, id);
}

ledger_rc ldg_pg_parked_note(void *ctx, int64_t id, const char *reason, ledger_error *err)
{
    static const char note[] = "UPDATE \"{t}_parked\" SET attempts = attempts + 1, reason = $2, "
                               "attempted_at = $3 WHERE id = $1";
    struct ldg_pg *pg = ctx;
    struct ldg_pg_args args = { 0 };
    struct ldg_arena texts;
    PGresult *result = NULL;

    ldg_arena_init(&texts, 0);
    ledger_rc rc = ldg_pg_enter(pg, err);
    if (rc == LEDGER_OK)
        rc = clean_text(&texts, reason, &reason, err);
    if (rc != LEDGER_OK)
        goto out;
    ldg_pg_arg_int64(&args, id);
    ldg_pg_arg_text(&args, reason);
    ldg_pg_arg_time(&args, ldg_clock_now_us());
    rc = ldg_pg_write_alone(pg, "noting an attempt", note, &args, &result, err);
    rc = ldg_pg_fail_own(rc, err);
    if (rc == LEDGER_OK && ldg_pg_changed(result) == 0)
        rc = fail_missing(id, err);
out:
    PQclear(result);
    ldg_arena_fini(&texts);
    return rc;
}

/* id 0: all of them. */
static ledger_rc drop_rows(struct ldg_pg *pg, int64_t id, uint64_t *ret_dropped, ledger_error *err)
{
    static const char drop_one[] = "DELETE FROM \"{t}_parked\" WHERE id = $1";
    static const char drop_all[] = "DELETE FROM \"{t}_parked\"";
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;

    if (id)
        ldg_pg_arg_int64(&args, id);
    ledger_rc rc = ldg_pg_write_alone(pg, "dropping a parked event", id ? drop_one : drop_all,
                                      &args, &result, err);
    rc = ldg_pg_fail_own(rc, err);
    if (rc == LEDGER_OK && id && ldg_pg_changed(result) == 0)
        rc = fail_missing(id, err);
    if (rc == LEDGER_OK)
        *ret_dropped = ldg_pg_changed(result);
    PQclear(result);
    return rc;
}

ledger_rc ldg_pg_parked_take(struct ldg_pg *pg, int64_t id, ledger_error *err)
{
    uint64_t dropped;

    return drop_rows(pg, id, &dropped, err);
}

ledger_rc ldg_pg_parked_drop(void *ctx, int64_t id, uint64_t *ret_dropped, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    ledger_rc rc = ldg_pg_enter(pg, err);

    return rc == LEDGER_OK ? drop_rows(pg, id, ret_dropped, err) : rc;
}
