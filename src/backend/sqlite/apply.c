/* The fenced batch: one transaction of fence, ops and cursor.
 *
 * What the ops amount to is the sink library's; here are the tries. Because data and cursor commit
 * together a replay is the exception, so a batch goes optimistic first; one that hits a constraint
 * is rolled back whole and done again informed. Invariants: the cursor moves only in the
 * transaction that applied what lies before it; a stream's ids here follow the order of the log;
 * whatever fails leaves nothing behind. */
#include "backend/sqlite/apply.h"

#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

/* With fewer rows than this per stream the indexes gain more from the order of streams than the
 * index of the origin loses by it (measured: 1.2 of log order at one row, 0.97 at twenty). */
#define SORT_ROWS_PER_STREAM 4
#define SORT_MIN_ROWS 64

/* --- callbacks ------------------------------------------------------------------------------- */

static ledger_rc park(void *ctx, const struct ldg_op *op, const char *reason, bool *ret_new,
                      ledger_error *err)
{
    struct ldg_sqlite_batch *b = ctx;

    return ldg_sqlite_park(b->store, op, reason, ret_new, err);
}

static const char release_range[] = "RELEASE ldg_range";
static const char undo_range[] = "ROLLBACK TO ldg_range";

static ledger_rc save(void *ctx, ledger_error *err)
{
    struct ldg_sqlite *s = ((struct ldg_sqlite_batch *)ctx)->store;
    /* Made before they are needed: undoing must not depend on memory for a statement. */
    ledger_rc rc = ldg_sql_prepare(s, undo_range, err);

    if (rc == LEDGER_OK)
        rc = ldg_sql_prepare(s, release_range, err);
    return rc == LEDGER_OK ? ldg_sql_exec(s, "setting a savepoint", "SAVEPOINT ldg_range", err)
                           : rc;
}

static ledger_rc release(void *ctx, ledger_error *err)
{
    struct ldg_sqlite_batch *b = ctx;

    return ldg_sql_exec(b->store, "releasing a savepoint", release_range, err);
}

/* A trigger's RAISE(ROLLBACK) has ended the whole transaction. */
static bool is_lost(const struct ldg_sqlite_batch *b)
{
    return sqlite3_get_autocommit(b->store->db) != 0;
}

static ledger_rc undo(void *ctx, bool *ret_lost, ledger_error *err)
{
    struct ldg_sqlite_batch *b = ctx;
    ledger_rc rc;

    *ret_lost = is_lost(b);
    if (*ret_lost)
        return LEDGER_OK;
    rc = ldg_sql_exec(b->store, "undoing", undo_range, err);
    return rc == LEDGER_OK ? release(ctx, err) : rc;
}

static ledger_rc recheck(void *ctx, ledger_error *err)
{
    struct ldg_sqlite_batch *b = ctx;

    return ldg_sqlite_schema_verify(b->store, err);
}

static uint64_t reason(void *ctx, const ledger_error *err)
{
    (void)ctx;
    return ldg_refusal_reason(err, "");
}

static ledger_rc origin(void *ctx, int number, struct ldg_identity *ret_identity, ledger_error *err)
{
    struct ldg_sqlite *s = ((struct ldg_sqlite_batch *)ctx)->store;
    struct ldg_sql q;

    *ret_identity = s->identity;
    if (number == 0)
        return LEDGER_OK;
    ldg_sql_begin(&q, s, "looking for an origin",
                  "SELECT uuid, epoch FROM main.\"%T_origins\" WHERE id = ?1", err);
    ldg_sql_int(&q, number);
    if (ldg_sql_row(&q))
        q.rc = ldg_sqlite_take_identity(s, q.stmt, 0, ret_identity, err);
    else if (q.rc == LEDGER_OK)
        q.rc = ldg_fail(err, LEDGER_ERR_SCHEMA, "table \"%s_origins\" has no row %d", s->table,
                        number);
    return ldg_sql_end(&q);
}

static ledger_rc find_parked(void *ctx, const struct ldg_op *ops, size_t count,
                             struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                             size_t *ret_count, ledger_error *err)
{
    struct ldg_sqlite_batch *b = ctx;

    return ldg_sqlite_parked_near(b->store, ops, count, arena, ret_rows, ret_count, err);
}

static const struct ldg_sink callbacks = {
    .find_parked = find_parked,
    .look_up = ldg_sqlite_look_up,
    .unpark = ldg_sqlite_unpark,
    .change = ldg_sqlite_change,
    .add = ldg_sqlite_add,
    .note = ldg_sqlite_note,
    .park = park,
    .save = save,
    .release = release,
    .undo = undo,
    .recheck = recheck,
    .reason = reason,
    .origin = origin,
    .log_begin = ldg_sqlite_log_begin,
    .log_event = ldg_sqlite_log_put,
    .log_end = ldg_sqlite_log_end,
    .order_load = ldg_sqlite_order_load,
    .order_late = ldg_sqlite_order_late,
    .order_note = ldg_sqlite_order_note,
};

static ledger_rc batch_init(struct ldg_sqlite_batch *b, struct ldg_sqlite *s,
                            const struct ldg_op *ops, size_t count, ledger_error *err)
{
    *b = (struct ldg_sqlite_batch){
        .store = s,
        .s = { .sink = &callbacks,
               .ctx = b,
               .arena = &s->scratch,
               .ops = ops,
               .count = count,
               .lowest_reserved = INT64_MAX, /* nobody else adds in this transaction */
               .parked_id = INT64_MAX,
               .has_log = s->has_log,
               .event_max = s->event_buf.max,
               .now_us = ldg_clock_now_us() },
    };
    ldg_buf_init(&b->text, s->event_buf.max);
    ldg_arena_reset(&s->scratch);
    b->s.outcomes = ldg_arena_calloc(&s->scratch, count, sizeof(*b->s.outcomes));
    b->s.ids = ldg_arena_calloc(&s->scratch, count, sizeof(*b->s.ids));
    b->reserved = ldg_arena_calloc(&s->scratch, count, sizeof(*b->reserved));
    if (b->s.outcomes == NULL || b->s.ids == NULL || b->reserved == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < count; i++)
        b->append_count += ops[i].kind == LDG_OP_APPEND && ops[i].origin > 0;
    return ldg_sink_begin(&b->s, err);
}

/* --- ids ------------------------------------------------------------------------------------- */

static ledger_rc next_id(struct ldg_sqlite_batch *b, int64_t *ret_id, ledger_error *err)
{
    /* clang-format off */
    static const char get[] =
        "SELECT max(coalesce((SELECT seq FROM main.sqlite_sequence "
                "WHERE name = '%T' COLLATE NOCASE), 0), "
            "coalesce((SELECT max(id) FROM main.\"%T\"), 0)) + 1";
    /* clang-format on */
    ledger_rc rc =
        ldg_sql_exec_ints(b->store, "asking for the next id", get, LDG_NO_INTS, ret_id, err);

    /* Over the end SQLite picks free ids itself: no order can be kept. */
    if (rc == LEDGER_OK && (*ret_id <= 0 || *ret_id > INT64_MAX - (int64_t)b->s.count))
        rc = ldg_sqlite_fail_ids(b->store, b->store->table, err);
    return rc;
}

static int compare_streams(const void *a, const void *b, void *ctx)
{
    const struct ldg_op *ops = ctx;
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    const int order = ops[x].stream == ops[y].stream ? 0 : strcmp(ops[x].stream, ops[y].stream);

    if (order != 0)
        return order;
    return x < y ? -1 : 1;
}

/* Do the appends name more streams than one in SORT_ROWS_PER_STREAM? */
static ledger_rc has_many_streams(const struct ldg_sqlite_batch *b, const uint32_t *appends,
                                  bool *ret_many, ledger_error *err)
{
    const size_t count = b->append_count;
    size_t slots = SORT_MIN_ROWS, streams = 0;
    uint32_t *seen; /* open hash: op + 1 */

    *ret_many = false;
    if (count < SORT_MIN_ROWS)
        return LEDGER_OK;
    while (slots < 2 * count)
        slots *= 2;
    seen = ldg_arena_calloc(b->s.arena, slots, sizeof(*seen));
    if (seen == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < count; i++) {
        const char *stream = b->s.ops[appends[i]].stream;
        size_t at = ldg_hash64(stream, strlen(stream), 0) & (slots - 1);

        while (seen[at] != 0 && strcmp(b->s.ops[seen[at] - 1].stream, stream) != 0)
            at = (at + 1) & (slots - 1);
        streams += seen[at] == 0;
        seen[at] = appends[i] + 1;
    }
    *ret_many = streams > count / SORT_ROWS_PER_STREAM;
    return LEDGER_OK;
}

/* Gives out ids in the order in which rows will come in: the table grows at its end, by streams
 * where that helps the indexes, and each stream keeps its order. */
static ledger_rc reserve(struct ldg_sqlite_batch *b, bool arrange, ledger_error *err)
{
    uint32_t *appends;
    size_t n = 0;
    int64_t id = 0;
    ledger_rc rc;

    b->s.reserved = NULL;
    b->arranged = false;
    if (b->append_count == 0)
        return LEDGER_OK;
    rc = next_id(b, &id, err);
    if (rc != LEDGER_OK)
        return rc;
    appends = ldg_arena_alloc(b->s.arena, b->append_count * sizeof(*appends));
    if (appends == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < b->s.count; i++) {
        if (b->s.ops[i].kind == LDG_OP_APPEND && b->s.ops[i].origin > 0)
            appends[n++] = (uint32_t)i;
    }
    if (arrange)
        rc = has_many_streams(b, appends, &b->arranged, err);
    if (rc != LEDGER_OK)
        return rc;
    if (b->arranged)
        qsort_r(appends, n, sizeof(*appends), compare_streams, (void *)b->s.ops);
    for (size_t i = 0; i < n; i++)
        b->reserved[appends[i]] = id + (int64_t)i;
    b->s.reserved = b->reserved;
    return LEDGER_OK;
}

/* Of an informed batch. A trigger may add rows of its own between; then SQLite gives the ids. */
static ledger_rc reserve_informed(struct ldg_sqlite_batch *b, ledger_error *err)
{
    bool triggers = false;
    ledger_rc rc = reserve(b, false, err);

    if (rc == LEDGER_OK && !b->s.has_log)
        rc = ldg_sqlite_has_triggers(b, &triggers, err);
    if (triggers)
        b->s.reserved = NULL;
    return rc;
}

/* The log names entries that were trimmed in the same batch, and never were in the table: their ids
 * must not be given out again. */
static ledger_rc keep_ids(struct ldg_sqlite_batch *b, ledger_error *err)
{
    /* clang-format off */
    static const char raise[] =
        "UPDATE main.sqlite_sequence SET seq = ?1 WHERE name = '%T' COLLATE NOCASE AND seq < ?1";
    static const char begin[] =
        "INSERT INTO main.sqlite_sequence(name, seq) SELECT name, ?1 FROM main.sqlite_master "
        "WHERE type = 'table' AND name = '%T' COLLATE NOCASE AND sql LIKE '%AUTOINCREMENT%' "
        "AND NOT EXISTS (SELECT 1 FROM main.sqlite_sequence WHERE name = '%T' COLLATE NOCASE)";
    /* clang-format on */
    static const char doing[] = "keeping ids";
    int64_t highest = 0;
    bool trims = false;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; b->s.has_log && i < b->s.count; i++) {
        trims = trims || b->s.ops[i].kind == LDG_OP_TRIM;
        if (b->s.ops[i].kind == LDG_OP_APPEND && b->s.ids[i] > highest)
            highest = b->s.ids[i];
    }
    if (!trims || highest == 0)
        return LEDGER_OK;
    rc = ldg_sql_exec_ints(b->store, doing, raise, LDG_INTS(highest), NULL, err);
    if (rc == LEDGER_OK && sqlite3_changes(b->store->db) == 0)
        rc = ldg_sql_exec_ints(b->store, doing, begin, LDG_INTS(highest), NULL, err);
    return rc;
}

/* --- one try --------------------------------------------------------------------------------- */

/* What the side tables hold decides how the batch is done. */
static ledger_rc look_aside(struct ldg_sqlite_batch *b, ledger_error *err)
{
    /* clang-format off */
    static const char look[] =
        "SELECT EXISTS (SELECT 1 FROM main.\"%T_parked\"), "
            "EXISTS (SELECT 1 FROM main.\"%T_foreign\" WHERE kind < 3), "
            "coalesce((SELECT max(id) FROM main.\"%T_origins\" WHERE go_ids > 0), 0)";
    /* clang-format on */
    struct ldg_sql q;

    ldg_sql_begin(&q, b->store, "beginning a batch", look, err);
    if (ldg_sql_row(&q)) {
        b->s.parked_any = sqlite3_column_int(q.stmt, 0) != 0;
        b->s.marks_any = sqlite3_column_int(q.stmt, 1) != 0;
        b->go_origin = sqlite3_column_int(q.stmt, 2);
    }
    return ldg_sql_end(&q);
}

/* REJECTED is no verdict: the sink has to be asked. */
static ledger_rc go_optimistic(struct ldg_sqlite_batch *b, ledger_error *err)
{
    bool may_wait;
    ledger_rc rc = ldg_sink_may_wait(&b->s, &may_wait, err);

    if (rc == LEDGER_OK && may_wait)
        return ldg_fail(err, LEDGER_ERR_REJECTED, "an operation may have to wait");
    if (rc == LEDGER_OK)
        rc = reserve(b, true, err);
    if (rc == LEDGER_OK)
        rc = ldg_sink_orders_load(&b->s, err);
    if (rc == LEDGER_OK)
        rc = ldg_sink_plan(&b->s, err);
    return rc == LEDGER_OK ? ldg_sink_write(&b->s, false, err) : rc;
}

static ledger_rc go_informed(struct ldg_sqlite_batch *b, bool *ret_again, ledger_error *err)
{
    ledger_rc rc = reserve_informed(b, err);

    return rc == LEDGER_OK ? ldg_sink_apply(&b->s, ret_again, err) : rc;
}

static bool moves_cursor(const struct ldg_apply *apply)
{
    return apply->name != NULL && apply->next != NULL;
}

static ledger_rc move_cursor(const struct ldg_sqlite_batch *b, ledger_error *err)
{
    const struct ldg_cursor *next = b->apply->next;
    ledger_rc rc = ldg_sqlite_cursor_move(
        b->store, b->apply->name, next,
        next->moved_at_us != LEDGER_NO_TIME ? next->moved_at_us : b->s.now_us, err);

    return rc == LEDGER_OK && sqlite3_changes(b->store->db) == 0
               ? ldg_schema_fail_kept_out(b->store->table, "cursors", err)
               : rc;
}

/* The commit met an I/O error: only the file knows. The cursor moved with the data, so it tells. */
static ledger_rc find_outcome(const struct ldg_sqlite_batch *b, ledger_error *err)
{
    const struct ldg_apply *apply = b->apply;
    struct ldg_cursor now;
    ledger_error ignored;
    bool found = false;

    if (!moves_cursor(apply) || strcmp(apply->next->state, apply->expected->state) == 0)
        return err->code;
    if (ldg_sqlite_cursor_read(b->store, apply->name, &found, &now, &ignored) != LEDGER_OK)
        return ldg_fail_native(err, LEDGER_ERR_UNKNOWN_OUTCOME, "sqlite", err->native_code,
                               "the commit met an input or output error, and the cursor cannot be "
                               "read");
    return found && strcmp(now.state, apply->next->state) == 0 ? LEDGER_OK : err->code;
}

/* Fence, ops, cursor; the transaction is open. *ret_again: not this way, all is to be undone. */
static ledger_rc try_ops(struct ldg_sqlite_batch *b, bool *optimistic, bool *ret_again,
                         ledger_error *err)
{
    const struct ldg_apply *apply = b->apply;
    ledger_rc rc = ldg_sqlite_not_moved(b->store, err);

    b->s.plan = NULL;
    b->triggers_known = false;
    if (rc == LEDGER_OK && apply->name != NULL)
        rc = ldg_sqlite_cursor_fence(b->store, apply->name, apply->expected, err);
    if (rc == LEDGER_OK)
        rc = look_aside(b, err);
    if (rc != LEDGER_OK)
        return rc;
    rc = *optimistic ? go_optimistic(b, err) : go_informed(b, ret_again, err);
    if (rc == LEDGER_ERR_REJECTED && *optimistic) {
        *optimistic = false;
        *ret_again = true;
        return LEDGER_OK;
    }
    if (rc == LEDGER_OK && !*ret_again)
        rc = keep_ids(b, err);
    return rc == LEDGER_OK && !*ret_again && moves_cursor(apply) ? move_cursor(b, err) : rc;
}

static ledger_rc try_once(struct ldg_sqlite_batch *b, bool *optimistic, bool *ret_again,
                          ledger_error *err)
{
    struct ldg_sqlite *s = b->store;
    const bool was_optimistic = *optimistic;
    ledger_error ignored = { 0 };
    bool own, committing;
    ledger_rc rc = ldg_sqlite_write_begin(s, &own, err);

    if (rc != LEDGER_OK)
        return rc;
    rc = try_ops(b, optimistic, ret_again, err);
    if (rc == LEDGER_OK && *ret_again) {
        if (!own && is_lost(b)) /* what the caller had done before is gone too */
            return ldg_fail(err, LEDGER_ERR_REJECTED,
                            "a trigger of the sink has rolled the caller's transaction back");
        (void)ldg_sqlite_write_end(s, own, LEDGER_ERR_REJECTED, &ignored);
        return LEDGER_OK;
    }
    committing = rc == LEDGER_OK;
    rc = ldg_sqlite_write_end(s, own, rc, err);
    if (rc == LEDGER_ERR_IO && committing && own)
        rc = find_outcome(b, err);
    if (rc == LEDGER_ERR_REJECTED && committing && was_optimistic) {
        *optimistic = false; /* a constraint that is checked at the commit */
        *ret_again = true;
        rc = LEDGER_OK;
    }
    return rc;
}

/* --- tries ----------------------------------------------------------------------------------- */

/* An event that ends the bridge is not to blame for tables that are no longer what they were. */
static ledger_rc blame(struct ldg_sqlite *s, ledger_error *err)
{
    ledger_error why = { 0 };

    if (ldg_sqlite_schema_verify(s, &why) == LEDGER_ERR_SCHEMA)
        *err = why;
    return err->code;
}

static ledger_rc run_all(struct ldg_sqlite_batch *b, ledger_error *err)
{
    struct ldg_sqlite *s = b->store;
    bool optimistic = !s->was_known && ldg_sink_is_plain(b->s.ops, b->s.count), again;
    ledger_rc rc;

    do {
        again = false;
        rc = try_once(b, &optimistic, &again, err);
    } while (rc == LEDGER_OK && again);
    if (rc == LEDGER_OK)
        s->was_known = !optimistic && ldg_op_any_known(b->s.ops, b->s.outcomes, b->s.count);
    return rc == LEDGER_ERR_REJECTED ? blame(s, err) : rc;
}

ledger_rc ldg_sqlite_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                           ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct ldg_sqlite_batch b;
    struct ldg_refusals brake;
    ledger_rc rc = batch_init(&b, s, apply->ops, apply->count, err);

    b.apply = apply;
    b.s.can_park = true;
    b.s.park_rejected = apply->park_rejected;
    b.s.refusals = apply->refusals;
    b.s.brake = apply->park_rejected && apply->refusals != NULL ? &brake : NULL;
    if (rc == LEDGER_OK)
        rc = run_all(&b, err);
    if (rc == LEDGER_OK) {
        if (b.s.brake != NULL)
            *apply->refusals = brake;
        if (apply->count > 0)
            memcpy(ret_outcomes, b.s.outcomes, apply->count);
        s->applied_count++;
        ldg_sqlite_durable_committed(s);
    }
    ldg_buf_fini(&b.text);
    return rc;
}

/* --- parked events that are tried again ------------------------------------------------------ */

static ledger_rc retry_ops(struct ldg_sqlite *s, const struct ldg_op *ops, size_t count, int64_t id,
                           ledger_error *err)
{
    struct ldg_sqlite_batch b;
    bool again = false;
    ledger_rc rc = batch_init(&b, s, ops, count, err);

    b.s.parked_id = id;
    if (rc == LEDGER_OK)
        rc = look_aside(&b, err);
    if (rc == LEDGER_OK)
        rc = go_informed(&b, &again, err);
    if (rc == LEDGER_OK && again)
        rc = ldg_fail(err, LEDGER_ERR_REJECTED,
                      "a trigger of the sink has rolled the transaction back");
    if (rc == LEDGER_OK)
        rc = keep_ids(&b, err);
    ldg_buf_fini(&b.text);
    return rc;
}

ledger_rc ldg_sqlite_parked_retry(void *ctx, int64_t id, const struct ldg_op *ops, size_t count,
                                  bool *ret_applied, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    uint64_t taken;
    bool own;
    ledger_rc rc = ldg_sqlite_write_begin(s, &own, err);

    if (rc != LEDGER_OK)
        return rc;
    /* The row goes first: if a trim or another program has taken it away, its entry must not come
     * back. */
    rc = ldg_sqlite_parked_take(s, id, &taken, err);
    if (rc == LEDGER_OK && count > 0)
        rc = retry_ops(s, ops, count, id, err);
    rc = ldg_sqlite_write_end(s, own, rc, err);
    return ldg_sink_retried(rc, s, id, ldg_sqlite_parked_note, ret_applied, err);
}
