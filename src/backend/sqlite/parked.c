/* Parked events: kept aside with their reason until somebody retries or drops them.
 *
 * A row stands for one op: an append of several entries is cut, so that each can be retried and
 * waited for alone. Who waits behind whom is the sink library's. */
#include "backend/sqlite/apply.h"

#include <inttypes.h>
#include <string.h>

/* --- parking --------------------------------------------------------------------------------- */

static ledger_rc park(struct ldg_sqlite *s, const struct ldg_op *op, ledger_bytes event,
                      const char *reason, bool *ret_new, ledger_error *err)
{
    /* clang-format off */
    /* An event of several entries has a row for each. With texts the next number below 0 tells it
     * from the others, so that the table's key is what it was when all keys were numbers. */
    static const char put[] =
        "INSERT INTO main.\"%T_parked\"(source_uuid, origin, log_position, entry, stream, type, "
            "reason, parked_at, event_time, event, entry_id) "
        "VALUES (?1, ?2, ?3, "
            "CASE WHEN ?11 = '' THEN ?4 ELSE coalesce("
                "(SELECT entry FROM main.\"%T_parked\" "
                 "WHERE source_uuid = ?1 AND log_position = ?3 AND entry_id = ?11), "
                "(SELECT min(coalesce(min(entry), 0), 0) - 1 FROM main.\"%T_parked\" "
                 "WHERE source_uuid = ?1 AND log_position = ?3)) END, "
            "?5, ?6, ?7, ?8, ?9, ?10, ?11) "
        "ON CONFLICT (source_uuid, log_position, entry) DO UPDATE SET origin = excluded.origin, "
            "stream = excluded.stream, type = excluded.type, reason = excluded.reason, "
            "event_time = excluded.event_time, event = excluded.event, "
            "attempts = attempts + 1, attempted_at = excluded.parked_at RETURNING attempts";
    /* clang-format on */
    struct ldg_sql q;

    ldg_sql_begin(&q, s, "parking an event", put, err);
    q.fail = ldg_sqlite_own_fail;
    ldg_sql_text(&q, ldg_or_empty(op->source_uuid));
    ldg_sql_int(&q, op->origin);
    ldg_sql_int(&q, op->log_position);
    ldg_sql_int(&q, op->key.number);
    ldg_sql_text(&q, ldg_or_empty(op->stream));
    ldg_sql_text(&q, ldg_or_empty(op->type_name));
    ldg_sql_text(&q, reason);
    ldg_sql_time(&q, ldg_clock_now_us());
    ldg_sql_time(&q, op->log_time_us);
    ldg_sql_blob(&q, event.data, event.size);
    ldg_sql_text(&q, ldg_or_empty(op->key.text));
    if (ldg_sql_row(&q)) {
        *ret_new = sqlite3_column_int64(q.stmt, 0) == 1;
        (void)ldg_sql_row(&q);
    } else if (q.rc == LEDGER_OK) {
        q.rc = ldg_schema_fail_kept_out(s->table, "parked", err);
    }
    return ldg_sql_end(&q);
}

ledger_rc ldg_sqlite_park(struct ldg_sqlite *s, const struct ldg_op *op, const char *reason,
                          bool *ret_new, ledger_error *err)
{
    ledger_bytes event;
    struct ldg_buf buf;
    ledger_rc rc;

    ldg_buf_init(&buf, s->event_buf.max);
    rc = ldg_op_parked_event(op, &buf, &event, err);
    if (rc == LEDGER_OK)
        rc = park(s, op, event, reason, ret_new, err);
    ldg_buf_fini(&buf);
    return rc;
}

ledger_rc ldg_sqlite_parked_delete(struct ldg_sqlite *s, int64_t id, ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin(&q, s, "dropping a parked event",
                  "DELETE FROM main.\"%T_parked\" WHERE ?1 = 0 OR id = ?1", err);
    q.fail = ldg_sqlite_own_fail;
    ldg_sql_int(&q, id);
    return ldg_sql_run(&q);
}

/* --- trim ------------------------------------------------------------------------------------ */

/* clang-format off */
#define OF_NUMBERS                                                                                 \
    "FROM main.\"%T_parked\" WHERE origin = ?1 AND entry > 0 AND entry <= ?2 AND stream = ?3"
#define OF_TEXTS                                                                                   \
    "FROM main.\"%T_parked\" "                                                                     \
    "WHERE origin = ?1 AND entry_id != '' AND entry_id <= ?2 AND stream = ?3"
static const char *const list_trimmed[2] = {
    "SELECT id, " LDG_SQLITE_PARKED_KEY " " OF_NUMBERS,
    "SELECT id, " LDG_SQLITE_PARKED_KEY " " OF_TEXTS,
};
static const char *const delete_trimmed[2] = { "DELETE " OF_NUMBERS, "DELETE " OF_TEXTS };
/* clang-format on */

static const char trimming[] = "trimming parked events";

static void begin_trim(struct ldg_sql *q, struct ldg_sqlite *s, const char *const text[2],
                       const struct ldg_op *op, ledger_error *err)
{
    ldg_sql_begin_key(q, s, trimming, text[op->key.text != NULL], op->origin, op->key, err);
    ldg_sql_text(q, ldg_or_empty(op->stream));
}

/* Deletes one by one what the source does not keep. The list is walked again after each: it is
 * short, and rows must not go while they are being read. */
static ledger_rc trim_but_survivors(struct ldg_sqlite *s, const struct ldg_op *op, bool *ret_any,
                                    ledger_error *err)
{
    int64_t id;
    ledger_rc rc;

    do {
        struct ldg_sql q;

        id = 0;
        begin_trim(&q, s, list_trimmed, op, err);
        while (id == 0 && ldg_sql_row(&q)) {
            if (!ldg_op_survives(op, ldg_sql_key(&q, 1)))
                id = sqlite3_column_int64(q.stmt, 0);
        }
        rc = ldg_sql_end(&q);
        if (rc == LEDGER_OK && id != 0) {
            rc = ldg_sqlite_parked_delete(s, id, err);
            *ret_any = true;
        }
    } while (rc == LEDGER_OK && id != 0);
    return rc;
}

ledger_rc ldg_sqlite_parked_trim(struct ldg_sqlite *s, const struct ldg_op *op, bool *ret_any,
                                 ledger_error *err)
{
    struct ldg_sql q;

    *ret_any = false;
    if (op->survivor_count > 0)
        return trim_but_survivors(s, op, ret_any, err);
    begin_trim(&q, s, delete_trimmed, op, err);
    q.fail = ldg_sqlite_own_fail;
    if (ldg_sql_run(&q) == LEDGER_OK)
        *ret_any = sqlite3_changes(s->db) > 0;
    return q.rc;
}

/* --- looking at them ------------------------------------------------------------------------- */

static ledger_rc take_row(struct ldg_sql *q, struct ldg_arena *arena, struct ldg_parked_row *row,
                          ledger_error *err)
{
    const char *uuid = (const char *)sqlite3_column_text(q->stmt, 1);
    const ledger_bytes event = ldg_sql_bytes(q, 10);
    void *copy = ldg_arena_memdup(arena, event.data != NULL ? event.data : "", event.size);

    *row = (struct ldg_parked_row){
        .id = sqlite3_column_int64(q->stmt, 0),
        .log_position = sqlite3_column_int64(q->stmt, 2),
        .origin = sqlite3_column_int(q->stmt, 11),
        .type_name = ldg_sql_copy(q, 4, arena),
        .stream = ldg_sql_copy(q, 5, arena),
        .reason = ldg_sql_copy(q, 6, arena),
        .attempts = (uint64_t)sqlite3_column_int64(q->stmt, 7),
        .parked_at_us = ldg_sql_column_time(q->stmt, 8),
        .time_us = ldg_sql_column_time(q->stmt, 9),
        .event = { copy, event.size },
    };
    if (!ldg_id_copy(ldg_sql_key(q, 3), arena, &row->key))
        return ldg_fail_nomem(err);
    if (uuid != NULL)
        sqlite3_snprintf(sizeof(row->source_uuid), row->source_uuid, "%s", uuid);
    return copy != NULL ? q->rc : ldg_fail_nomem(err);
}

ledger_rc ldg_sqlite_parked_list(void *ctx, int64_t after, size_t limit, struct ldg_arena *arena,
                                 struct ldg_parked_row **ret_rows, size_t *ret_count,
                                 ledger_error *err)
{
    /* clang-format off */
#define LIST(key)                                                                                  \
    "SELECT id, source_uuid, log_position, " key ", type, stream, reason, attempts, parked_at, "   \
        "event_time, event, origin FROM main.\"%T_parked\" WHERE id > ?1 ORDER BY id LIMIT ?2"
    static const char list[] = LIST(LDG_SQLITE_PARKED_KEY);
    static const char list_numbers[] = LIST("entry");
#undef LIST
    /* clang-format on */
    struct ldg_sqlite *s = ctx;
    struct ldg_parked_row *rows = NULL;
    size_t count = 0, cap = 0;
    struct ldg_sql q;

    *ret_rows = NULL;
    *ret_count = 0;
    if (!s->has_ours)
        return LEDGER_OK;
    ldg_sql_begin(&q, s, "listing parked events", s->parks_texts ? list : list_numbers, err);
    ldg_sql_int(&q, after);
    ldg_sql_int(&q, limit < INT64_MAX ? (int64_t)limit : INT64_MAX);
    while (ldg_sql_row(&q)) {
        rows = ldg_arena_grow(arena, rows, sizeof(*rows), count, &cap);
        q.rc = rows != NULL ? take_row(&q, arena, &rows[count], err) : ldg_fail_nomem(err);
        count++;
    }
    if (ldg_sql_end(&q) == LEDGER_OK) {
        *ret_rows = rows;
        *ret_count = count;
    }
    return q.rc;
}

/* --- those that may concern a batch ---------------------------------------------------------- */

/* clang-format off */
#define NEAR                                                                                       \
    "SELECT id, source_uuid, log_position, " LDG_SQLITE_PARKED_KEY ", type, stream, reason, "      \
        "attempts, parked_at, event_time, x'', origin FROM main.\"%T_parked\" WHERE "
static const char *const near_entry[2] = {
    NEAR "origin = ?1 AND entry = ?2",
    NEAR "origin = ?1 AND entry_id = ?2 AND entry_id != ''",
};
/* clang-format on */

static const char looking[] = "looking for parked events";

/* Rows as they are found. */
struct near {
    struct ldg_sqlite *s;
    const struct ldg_op *ops;
    size_t op_count;
    struct ldg_arena *arena;
    struct ldg_parked_row *rows;
    size_t count, cap;
};

static void take_near(struct near *near, struct ldg_sql *q, ledger_error *err)
{
    near->rows =
        ldg_arena_grow(near->arena, near->rows, sizeof(*near->rows), near->count, &near->cap);
    q->rc = near->rows != NULL ? take_row(q, near->arena, &near->rows[near->count], err)
                               : ldg_fail_nomem(err);
    near->count++;
}

static ledger_rc find_of_entry(struct near *near, const struct ldg_op *op, ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin_key(&q, near->s, looking, near_entry[op->key.text != NULL], op->origin, op->key,
                      err);
    while (ldg_sql_row(&q))
        take_near(near, &q, err);
    return ldg_sql_end(&q);
}

static ledger_rc find_of_entries(struct near *near, ledger_error *err)
{
    const struct ldg_op *last = NULL;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < near->op_count; i++) {
        const struct ldg_op *op = &near->ops[i];

        if (last == NULL || op->origin != last->origin || !ldg_id_equal(op->key, last->key))
            rc = find_of_entry(near, op, err);
        last = op;
    }
    return rc;
}

/* Events of the ops' log, at their positions. */
static ledger_rc find_of_log(struct near *near, ledger_error *err)
{
    int64_t lowest = INT64_MAX, highest = INT64_MIN;
    struct ldg_sql q;

    for (size_t i = 0; i < near->op_count; i++) {
        const int64_t position = near->ops[i].log_position;

        lowest = position < lowest ? position : lowest;
        highest = position > highest ? position : highest;
    }
    ldg_sql_begin(&q, near->s, looking, NEAR "source_uuid = ?1 AND log_position BETWEEN ?2 AND ?3",
                  err);
    ldg_sql_text(&q, ldg_or_empty(near->ops[0].source_uuid));
    ldg_sql_int(&q, lowest);
    ldg_sql_int(&q, highest);
    while (ldg_sql_row(&q))
        take_near(near, &q, err);
    return ldg_sql_end(&q);
}

/* Is it one behind which an op may have to wait, though it names another entry, or none? */
static bool may_concern(const struct near *near, struct ldg_sql *q)
{
    const bool is_unknown = ldg_id_is_none(ldg_sql_key(q, 3));
    const char *type_name = ldg_or_empty((const char *)sqlite3_column_text(q->stmt, 4));
    const char *stream = ldg_or_empty((const char *)sqlite3_column_text(q->stmt, 5));
    bool concerns = false;

    for (size_t i = 0; i < near->op_count && !concerns; i++) {
        const struct ldg_op *op = &near->ops[i];

        concerns = ((is_unknown && ldg_op_is_change(op)) ||
                    (ldg_op_has_dedup_key(op) && ldg_op_may_trim(type_name))) &&
                   (*stream == '\0' || strcmp(stream, op->stream) == 0);
    }
    return concerns;
}

static ledger_rc find_others(struct near *near, ledger_error *err)
{
    bool changes = false, keyed = false;
    struct ldg_sql q;

    for (size_t i = 0; i < near->op_count; i++) {
        changes = changes || ldg_op_is_change(&near->ops[i]);
        keyed = keyed || ldg_op_has_dedup_key(&near->ops[i]);
    }
    if (!changes && !keyed)
        return LEDGER_OK;
    ldg_sql_begin(&q, near->s, looking,
                  NEAR "(?1 AND entry = 0) "
                       "OR (?2 AND type NOT IN ('append', 'set_tags', 'set_annotations'))",
                  err);
    ldg_sql_int(&q, changes);
    ldg_sql_int(&q, keyed);
    while (ldg_sql_row(&q)) {
        if (may_concern(near, &q))
            take_near(near, &q, err);
    }
    return ldg_sql_end(&q);
}

ledger_rc ldg_sqlite_parked_near(void *ctx, const struct ldg_op *ops, size_t count,
                                 struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                                 size_t *ret_count, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct near near = { .s = s, .ops = ops, .op_count = count, .arena = arena };
    static const char find_any[] = "SELECT EXISTS (SELECT 1 FROM main.\"%T_parked\")";
    int64_t any = 0;
    ledger_rc rc = LEDGER_OK;

    if (s->has_ours)
        rc = ldg_sql_exec_ints(s, looking, find_any, LDG_NO_INTS, &any, err);
    if (rc == LEDGER_OK && any != 0)
        rc = find_of_log(&near, err);
    if (rc == LEDGER_OK && any != 0)
        rc = find_others(&near, err);
    if (rc == LEDGER_OK && any != 0)
        rc = find_of_entries(&near, err);
    if (rc == LEDGER_OK) {
        *ret_rows = near.rows;
        *ret_count = near.count;
    }
    return rc;
}

/* --- how many -------------------------------------------------------------------------------- */

ledger_rc ldg_sqlite_parked_count(void *ctx, const char *source_uuid, uint64_t *ret_count,
                                  ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct ldg_sql q;

    *ret_count = 0;
    if (!s->has_ours)
        return LEDGER_OK;
    ldg_sql_begin(&q, s, looking,
                  "SELECT count(*) FROM main.\"%T_parked\" WHERE ?1 IS NULL OR source_uuid = ?1",
                  err);
    ldg_sql_text(&q, source_uuid);
    if (ldg_sql_row(&q))
        *ret_count = (uint64_t)sqlite3_column_int64(q.stmt, 0);
    return ldg_sql_end(&q);
}

/* --- after an attempt, and without one ------------------------------------------------------- */

static ledger_rc fail_gone(int64_t id, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no parked event %" PRId64, id);
}

static ledger_rc note(struct ldg_sqlite *s, int64_t id, const char *reason, ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin(&q, s, "noting an attempt",
                  "UPDATE main.\"%T_parked\" SET attempts = attempts + 1, reason = ?2, "
                  "attempted_at = ?3 WHERE id = ?1",
                  err);
    q.fail = ldg_sqlite_own_fail;
    ldg_sql_int(&q, id);
    ldg_sql_text(&q, reason);
    ldg_sql_time(&q, ldg_clock_now_us());
    if (ldg_sql_run(&q) == LEDGER_OK && sqlite3_changes(s->db) == 0)
        return fail_gone(id, err);
    return q.rc;
}

ledger_rc ldg_sqlite_parked_note(void *ctx, int64_t id, const char *reason, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    bool own;
    ledger_rc rc = ldg_sqlite_write_begin(s, &own, err);

    return rc == LEDGER_OK ? ldg_sqlite_write_end(s, own, note(s, id, reason, err), err) : rc;
}

ledger_rc ldg_sqlite_parked_take(struct ldg_sqlite *s, int64_t id, uint64_t *ret_taken,
                                 ledger_error *err)
{
    ledger_rc rc = ldg_sqlite_parked_delete(s, id, err);

    if (rc != LEDGER_OK)
        return rc;
    *ret_taken = (uint64_t)sqlite3_changes(s->db);
    return *ret_taken == 0 && id != 0 ? fail_gone(id, err) : LEDGER_OK;
}

ledger_rc ldg_sqlite_parked_drop(void *ctx, int64_t id, uint64_t *ret_dropped, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    uint64_t dropped = 0;
    bool own;
    ledger_rc rc = ldg_sqlite_write_begin(s, &own, err);

    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_sqlite_write_end(s, own, ldg_sqlite_parked_take(s, id, &dropped, err), err);
    if (rc == LEDGER_OK)
        *ret_dropped = dropped;
    return rc;
}
