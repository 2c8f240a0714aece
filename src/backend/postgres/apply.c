/* The fenced batch: one transaction of fence, ops and cursor.
 *
 * What the ops amount to is the sink library's; here are the tries. Because data and cursor commit
 * together a replay is the exception, so a batch goes optimistic first; one that hits a constraint
 * is undone whole and done again informed. Invariants: the cursor moves only in the transaction
 * that applied what lies before it; a stream's ids here follow the order of the log, whatever way a
 * batch takes; whatever fails leaves nothing behind. */
#include "backend/postgres/apply.h"
#include "backend/postgres/schema.h"

#include <string.h>

#define DURABLE_ASK_US 100000
#define BUFFER_MAX_BYTES ((size_t)999 * 1000 * 1000)

/* --- the sink's memory ----------------------------------------------------------------------- */

static ledger_rc sink_get(struct ldg_pg *pg, struct ldg_pg_sink **ret_sink, ledger_error *err)
{
    struct ldg_pg_sink *sink = pg->sink;

    if (sink == NULL) {
        sink = ldg_calloc(1, sizeof(*sink));
        if (sink == NULL)
            return ldg_fail_nomem(err);
        sink->copy = ldg_malloc(LDG_PG_COPY_BYTES);
        if (sink->copy == NULL) {
            ldg_free(sink);
            return ldg_fail_nomem(err);
        }
        ldg_arena_init(&sink->arena, (size_t)4 * 1024 * 1024);
        ldg_buf_init(&sink->text, BUFFER_MAX_BYTES);
        ldg_buf_init(&sink->more_text, BUFFER_MAX_BYTES);
        for (int i = 0; i < LDG_PG_ARRAYS; i++)
            ldg_buf_init(&sink->arrays[i], BUFFER_MAX_BYTES);
        pg->sink = sink;
    }
    *ret_sink = sink;
    return LEDGER_OK;
}

void ldg_pg_sink_free(struct ldg_pg *pg)
{
    struct ldg_pg_sink *sink = pg->sink;

    if (sink == NULL)
        return;
    ldg_arena_fini(&sink->arena);
    ldg_buf_fini(&sink->text);
    ldg_buf_fini(&sink->more_text);
    for (int i = 0; i < LDG_PG_ARRAYS; i++)
        ldg_buf_fini(&sink->arrays[i]);
    ldg_free(sink->copy);
    ldg_free(sink);
    pg->sink = NULL;
}

static void give_back(struct ldg_buf *buf)
{
    if (buf->cap > 16 * LDG_PG_COPY_BYTES) {
        ldg_buf_fini(buf);
        ldg_buf_init(buf, BUFFER_MAX_BYTES);
    }
}

/* A large batch does not leave its memory behind. */
static void sink_trim(struct ldg_pg_sink *sink)
{
    give_back(&sink->text);
    give_back(&sink->more_text);
    for (int i = 0; i < LDG_PG_ARRAYS; i++)
        give_back(&sink->arrays[i]);
    ldg_arena_reset(&sink->arena);
}

/* --- callbacks ------------------------------------------------------------------------------- */

static ledger_rc park(void *ctx, const struct ldg_op *op, const char *reason, bool *ret_new,
                      ledger_error *err)
{
    struct ldg_pg_batch *b = ctx;

    return ldg_pg_park(b->pg, op, reason, ret_new, err);
}

static ledger_rc save(void *ctx, ledger_error *err)
{
    struct ldg_pg_batch *b = ctx;

    return ldg_pg_run(b->pg, LDG_PG_KEEP, "beginning a range", "SAVEPOINT ldg_range", NULL, NULL,
                      err);
}

static ledger_rc release(void *ctx, ledger_error *err)
{
    struct ldg_pg_batch *b = ctx;

    return ldg_pg_run(b->pg, LDG_PG_KEEP, "ending a range", "RELEASE SAVEPOINT ldg_range", NULL,
                      NULL, err);
}

static ledger_rc undo_range(void *ctx, bool *ret_lost, ledger_error *err)
{
    struct ldg_pg_batch *b = ctx;
    ledger_rc rc;

    *ret_lost = false;
    ldg_pg_copy_cancel(b->pg);
    rc = ldg_pg_run(b->pg, LDG_PG_FRESH, "undoing a range", "ROLLBACK TO SAVEPOINT ldg_range", NULL,
                    NULL, err);
    return rc == LEDGER_OK ? release(ctx, err) : rc;
}

static ledger_rc recheck(void *ctx, ledger_error *err)
{
    struct ldg_pg_batch *b = ctx;

    return ldg_pg_schema_recheck(b->pg, err);
}

static uint64_t reason(void *ctx, const ledger_error *err)
{
    const struct ldg_pg_batch *b = ctx;

    return ldg_pg_refusal_reason(b->pg, err);
}

static ledger_rc origin(void *ctx, int number, struct ldg_identity *ret_identity, ledger_error *err)
{
    static const char get[] = "SELECT uuid, epoch FROM \"{t}_origins\" WHERE id = $1";
    struct ldg_pg *pg = ((struct ldg_pg_batch *)ctx)->pg;
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    ledger_rc rc;

    *ret_identity = pg->identity;
    if (number == 0)
        return LEDGER_OK;
    ldg_pg_arg_int32(&args, number);
    rc = ldg_pg_run(pg, LDG_PG_KEEP, "looking for an origin", get, &args, &result, err);
    if (rc == LEDGER_OK && PQntuples(result) == 0)
        rc = ldg_fail(err, LEDGER_ERR_SCHEMA, "table \"%s_origins\" has no row %d", pg->table,
                      number);
    if (rc == LEDGER_OK)
        rc = ldg_pg_take_identity(pg, result, 0, 0, ret_identity, err);
    PQclear(result);
    return rc;
}

static ledger_rc find_parked(void *ctx, const struct ldg_op *ops, size_t count,
                             struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                             size_t *ret_count, ledger_error *err)
{
    struct ldg_pg_batch *b = ctx;

    return ldg_pg_parked_find(b->pg, ops, count, arena, ret_rows, ret_count, err);
}

static const struct ldg_sink callbacks = {
    .find_parked = find_parked,
    .look_up = ldg_pg_look_up,
    .unpark = ldg_pg_unpark,
    .change = ldg_pg_change,
    .add = ldg_pg_add,
    .note = ldg_pg_note,
    .park = park,
    .save = save,
    .release = release,
    .undo = undo_range,
    .recheck = recheck,
    .reason = reason,
    .origin = origin,
    .log_begin = ldg_pg_log_begin,
    .log_event = ldg_pg_log_event,
    .log_end = ldg_pg_log_end,
    .order_load = ldg_pg_order_load,
    .order_late = ldg_pg_order_late,
    .order_note = ldg_pg_order_note,
};

static ledger_rc batch_init(struct ldg_pg_batch *b, struct ldg_pg *pg, const struct ldg_op *ops,
                            size_t count, ledger_error *err)
{
    struct ldg_arena *arena;
    ledger_rc rc;

    *b = (struct ldg_pg_batch){
        .pg = pg,
        .s = { .sink = &callbacks,
               .ctx = b,
               .ops = ops,
               .count = count,
               .lowest_reserved = INT64_MAX,
               .parked_id = INT64_MAX,
               .has_log = pg->has_log,
               .event_max = pg->event_buf.max,
               .now_us = ldg_clock_now_us() },
    };
    rc = sink_get(pg, &b->sink, err);
    if (rc != LEDGER_OK)
        return rc;
    arena = &b->sink->arena;
    ldg_arena_reset(arena);
    b->s.arena = arena;
    b->s.outcomes = ldg_arena_calloc(arena, count, sizeof(*b->s.outcomes));
    b->s.ids = ldg_arena_calloc(arena, count, sizeof(*b->s.ids));
    b->reserved = ldg_arena_calloc(arena, count, sizeof(*b->reserved));
    if (b->s.outcomes == NULL || b->s.ids == NULL || b->reserved == NULL)
        return ldg_fail_nomem(err);
    b->s.reserved = b->reserved;
    b->s.width = b->sink->one_by_one ? 1 : 0;
    for (size_t i = 0; i < count; i++) {
        b->append_count += ops[i].kind == LDG_OP_APPEND && ops[i].origin > 0;
        b->has_texts = b->has_texts || ops[i].key.text != NULL;
    }
    rc = b->has_texts ? ldg_pg_schema_check_texts(pg, err) : LEDGER_OK;
    return rc == LEDGER_OK ? ldg_sink_begin(&b->s, err) : rc;
}

/* --- the end of a batch ---------------------------------------------------------------------- */

static const char move[] =
    "UPDATE \"{t}_cursors\" SET cursor = $2, state = $3, moved_at = $4 WHERE name = $1";

static void move_args(const struct ldg_pg_batch *b, struct ldg_pg_args *args)
{
    const struct ldg_cursor *next = b->apply->next;

    ldg_pg_arg_text(args, b->apply->name);
    ldg_pg_arg_text(args, next->readable);
    ldg_pg_arg_text(args, next->state);
    ldg_pg_arg_time(args, next->moved_at_us != LEDGER_NO_TIME ? next->moved_at_us : b->s.now_us);
}

/* Cursor and COMMIT in one round trip. The commit's own answer tells, whatever comes behind it. */
static ledger_rc commit_own(struct ldg_pg_batch *b, ledger_error *err)
{
    static const char committing[] = "committing a batch";
    const struct ldg_apply *apply = b->apply;
    struct ldg_pg *pg = b->pg;
    struct ldg_pg_args args = { 0 };
    PGresult *moved = NULL, *result = NULL;
    ledger_error why, ignored;
    bool moves = apply->name != NULL && apply->next != NULL;
    ledger_rc rc = ldg_pg_pipe_begin(pg, err);

    if (rc != LEDGER_OK)
        return rc;
    if (moves) {
        move_args(b, &args);
        rc = ldg_pg_pipe_send(pg, committing, move, &args, err);
    }
    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_send(pg, committing, "COMMIT", NULL, err);
    ldg_pg_commit_begin(pg);
    if (rc == LEDGER_OK && moves)
        rc = ldg_pg_fail_own(ldg_pg_pipe_receive(pg, committing, &moved, err), err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_receive(pg, committing, &result, err);
    if (rc == LEDGER_OK && strcmp(PQcmdStatus(result), "COMMIT") != 0)
        rc = ldg_fail(err, LEDGER_ERR_INTERNAL, "while %s: the transaction had failed", committing);
    /* The data is in; without its cursor it would come again and again. */
    if (rc == LEDGER_OK && moves && ldg_pg_changed(moved) == 0)
        rc = ldg_schema_fail_kept_out(pg->table, "cursors", err);
    PQclear(moved);
    PQclear(result);
    (void)!ldg_pg_pipe_end(pg, &ignored);
    ldg_pg_commit_end(pg, rc);
    if (rc == LEDGER_ERR_CONNECT) {
        why = *err;
        rc = ldg_fail_native(err, LEDGER_ERR_UNKNOWN_OUTCOME, why.backend, why.native_code,
                             "%s; whether it was committed is not known", why.message);
    }
    return rc;
}

/* As part of another transaction. */
static ledger_rc move_cursor(const struct ldg_pg_batch *b, ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    ledger_rc rc;

    if (b->apply->name == NULL || b->apply->next == NULL)
        return LEDGER_OK;
    move_args(b, &args);
    rc = ldg_pg_fail_own(
        ldg_pg_run(b->pg, LDG_PG_KEEP, "moving the cursor", move, &args, &result, err), err);
    if (rc == LEDGER_OK && ldg_pg_changed(result) == 0)
        rc = ldg_schema_fail_kept_out(b->pg->table, "cursors", err);
    PQclear(result);
    return rc;
}

/* --- tries ----------------------------------------------------------------------------------- */

/* One call of apply(), over all its tries. */
struct run {
    struct ldg_pg_batch *b;
    bool optimistic;    /* this try is */
    bool open;          /* the transaction is, from the try before: it holds the reserved ids */
    bool added;         /* the rows are in already, in this try */
    bool prepared_anew; /* statements were outdated: one more try is for that */
};

/* The next try goes on in the same transaction where that holds reserved ids. */
static ledger_rc undo(struct run *r, ledger_error *err)
{
    struct ldg_pg *pg = r->b->pg;
    PGTransactionStatusType status;

    ldg_pg_copy_cancel(pg);
    status = PQtransactionStatus(pg->conn); /* of no connection, too */
    r->open = r->b->has_reserved && (status == PQTRANS_INTRANS || status == PQTRANS_INERROR);
    if (r->open)
        return ldg_pg_run(pg, LDG_PG_FRESH, "undoing a batch", "ROLLBACK TO SAVEPOINT ldg_reserved",
                          NULL, NULL, err);
    ldg_pg_rollback(pg);
    return LEDGER_OK;
}

/* What the database says of a row is said of an op; a key that is taken is no fault of it. */
static bool is_key_taken(const ledger_error *err)
{
    return strcmp(ldg_pg_sqlstate(err), "23505") == 0;
}

static void suspect(struct ldg_pg_batch *b, const ledger_error *err)
{
    if (ldg_pg_sqlstate(err)[0] != '\0' && !is_key_taken(err))
        b->s.suspect = b->s.culprit;
}

/* Before the earlier batch has ended: what the batch adds. *ret_again: it is refused, or waits for
 * a lock of that batch. A key that is taken may be about to be trimmed there. */
static ledger_rc add_ahead(struct run *r, bool *ret_again, ledger_error *err)
{
    struct ldg_pg_batch *b = r->b;
    ledger_rc rc = ldg_sink_plan(&b->s, err);

    if (rc == LEDGER_OK && ldg_sink_may_add_first(&b->s)) {
        rc = ldg_pg_add(b, &b->s, err);
        r->added = rc == LEDGER_OK;
    }
    if (rc != LEDGER_ERR_REJECTED && rc != LEDGER_ERR_BUSY)
        return rc;
    *ret_again = true;
    r->optimistic = rc == LEDGER_ERR_BUSY || is_key_taken(err);
    suspect(b, err);
    rc = undo(r, err);
    return rc == LEDGER_OK ? ldg_pg_batch_await_order(b, err) : rc;
}

static ledger_rc overlap(struct run *r, bool *ret_again, ledger_error *err)
{
    struct ldg_pg_batch *b = r->b;
    ledger_rc rc = LEDGER_OK;

    if (b->has_reserved && !b->told_reserved && b->apply->ids_reserved != NULL)
        b->apply->ids_reserved(b->apply->overlap_ctx);
    b->told_reserved = true;
    if (r->optimistic && b->has_reserved)
        rc = add_ahead(r, ret_again, err);
    if (rc != LEDGER_OK || *ret_again)
        return rc;
    rc = ldg_pg_batch_await_order(b, err);
    return rc == LEDGER_OK ? ldg_pg_batch_fence(b, err) : rc;
}

/* *ret_again: once more, informed. */
static ledger_rc go_optimistic(struct run *r, bool *ret_again, ledger_error *err)
{
    struct ldg_pg_batch *b = r->b;
    ledger_rc rc = b->s.plan == NULL ? ldg_sink_plan(&b->s, err) : LEDGER_OK;

    if (rc == LEDGER_OK)
        rc = ldg_sink_write(&b->s, r->added, err);
    if (rc == LEDGER_OK)
        b->sink->optimistic_count++;
    if (rc != LEDGER_ERR_REJECTED)
        return rc;
    suspect(b, err);
    *ret_again = true;
    r->optimistic = false;
    return LEDGER_OK;
}

static ledger_rc go(struct run *r, bool *ret_again, ledger_error *err)
{
    struct ldg_pg_batch *b = r->b;
    bool may_wait = false;
    ledger_rc rc = r->optimistic ? ldg_sink_may_wait(&b->s, &may_wait, err) : LEDGER_OK;

    r->optimistic = r->optimistic && !may_wait;
    if (rc != LEDGER_OK)
        return rc;
    if (r->optimistic)
        return go_optimistic(r, ret_again, err);
    if (r->added) { /* what is in already has to go first */
        *ret_again = true;
        return LEDGER_OK;
    }
    return ldg_sink_apply(&b->s, ret_again, err);
}

/* The tables were altered since the statements were prepared: the same once more. begun: the
 * transaction holds the ids that were reserved, and its savepoint; else they are drawn again. */
static void prepare_anew(struct run *r, bool begun)
{
    r->prepared_anew = true;
    if (begun)
        return;
    ldg_pg_rollback(r->b->pg);
    r->b->has_reserved = r->b->has_reserved && r->b->told_reserved;
}

/* An entry of the batch came by another way, behind the ids that were drawn. Alone it draws others,
 * behind that one; each time at least one more entry is here, so there is an end to it. With
 * another batch under way both have to be done again. */
static void draw_anew(struct run *r)
{
    struct ldg_pg_batch *b = r->b;

    ldg_pg_rollback(b->pg);
    memset(b->reserved, 0, b->s.count * sizeof(*b->reserved));
    b->s.lowest_reserved = INT64_MAX;
    b->has_reserved = b->s.overtaken = false;
}

static ledger_rc commit(struct run *r, bool *ret_again, ledger_error *err)
{
    struct ldg_pg_batch *b = r->b;
    ledger_rc rc = commit_own(b, err);

    if (rc != LEDGER_OK && rc != LEDGER_ERR_UNKNOWN_OUTCOME && !b->immediate &&
        ldg_pg_is_row_fault(err)) { /* a deferred constraint */
        b->immediate = *ret_again = true;
        r->optimistic = false;
        rc = LEDGER_OK;
    }
    return rc;
}

static ledger_rc try_own(struct run *r, bool *ret_again, ledger_error *err)
{
    struct ldg_pg_batch *b = r->b;
    bool begun = r->open;
    ledger_rc rc;

    b->s.plan = NULL;
    r->added = false;
    rc = r->open ? ldg_pg_batch_fence(b, err) : ldg_pg_batch_begin(b, err);
    begun = begun || rc == LEDGER_OK;
    r->open = false;
    if (rc == LEDGER_OK && !b->order_awaited)
        rc = overlap(r, ret_again, err);
    if (rc == LEDGER_OK && !*ret_again)
        rc = go(r, ret_again, err);
    if (rc == LEDGER_OK && !*ret_again)
        rc = commit(r, ret_again, err);
    if (!r->prepared_anew && ldg_pg_is_outdated(rc, err)) {
        prepare_anew(r, begun);
        *ret_again = true;
        rc = LEDGER_OK;
    }
    if (rc == LEDGER_ERR_BUSY && b->s.overtaken && b->apply->await_commit_order == NULL) {
        draw_anew(r);
        *ret_again = true;
        return LEDGER_OK;
    }
    if (rc == LEDGER_OK && *ret_again && !r->open)
        rc = undo(r, err);
    if (rc != LEDGER_OK)
        ldg_pg_rollback(b->pg);
    return rc;
}

/* As part of another transaction: informed, because a failure must leave that whole. */
static ledger_rc try_inside(struct ldg_pg_batch *b, ledger_error *err)
{
    bool own = false, again = false;
    ledger_rc rc = LEDGER_OK;

    if (!b->order_awaited)
        rc = ldg_pg_batch_await_order(b, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_write_begin(b->pg, NULL, &own, err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_pg_batch_fence(b, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_batch_go_origin(b, err);
    if (rc == LEDGER_OK)
        rc = ldg_sink_apply(&b->s, &again, err);
    if (rc == LEDGER_OK && again)
        rc = ldg_fail(err, LEDGER_ERR_REJECTED,
                      "the log of the sink refuses an event, and what "
                      "the caller's transaction has done before cannot be undone");
    if (rc == LEDGER_OK)
        rc = move_cursor(b, err);
    return ldg_pg_write_end(b->pg, own, rc, err);
}

/* A lost connection before the commit was sent has done nothing, whatever it was in the middle of.
 */
static ledger_rc run_all(struct ldg_pg_batch *b, ledger_error *err)
{
    struct run r = { .b = b };
    bool again;
    ledger_rc rc = LEDGER_OK;

    b->own = PQtransactionStatus(b->pg->conn) == PQTRANS_IDLE && !b->pg->in_snapshot;
    b->order_awaited = b->apply->await_commit_order == NULL;
    r.optimistic =
        !b->sink->was_known && !b->sink->one_by_one && ldg_sink_is_plain(b->s.ops, b->s.count);
    if (!b->own)
        return try_inside(b, err);
    do {
        again = false;
        rc = try_own(&r, &again, err);
    } while (rc == LEDGER_OK && again);
    if (rc == LEDGER_OK)
        b->sink->was_known = !r.optimistic && ldg_op_any_known(b->s.ops, b->s.outcomes, b->s.count);
    return rc;
}

/* An event that ends the bridge is not to blame for tables that are no longer what they were. */
static ledger_rc blame(struct ldg_pg_batch *b, ledger_error *err)
{
    ledger_error why = { 0 };
    ledger_rc rc = LEDGER_OK;

    if (PQtransactionStatus(b->pg->conn) == PQTRANS_IDLE && !b->s.rechecked)
        rc = recheck(b, &why);
    if (rc == LEDGER_ERR_SCHEMA || rc == LEDGER_ERR_PERMISSION)
        *err = why;
    return err->code;
}

ledger_rc ldg_pg_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                       ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    struct ldg_pg_batch b;
    struct ldg_refusals brake;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc == LEDGER_OK && PQtransactionStatus(pg->conn) == PQTRANS_IDLE)
        rc = ldg_pg_schema_watch(pg, err);
    if (rc == LEDGER_OK)
        rc = batch_init(&b, pg, apply->ops, apply->count, err);
    if (rc != LEDGER_OK)
        return rc;
    b.apply = apply;
    b.s.can_park = true;
    b.s.park_rejected = apply->park_rejected;
    b.s.beside = apply->name != NULL && apply->next == NULL; /* one of several workers */
    b.s.refusals = apply->refusals;
    b.s.brake = apply->park_rejected && apply->refusals != NULL ? &brake : NULL;
    rc = run_all(&b, err);
    if (rc == LEDGER_ERR_REJECTED)
        rc = blame(&b, err);
    if (rc == LEDGER_ERR_SCHEMA)
        rc = ldg_pg_schema_missing(pg, err);
    if (rc == LEDGER_OK && b.s.brake != NULL)
        *apply->refusals = brake;
    if (rc == LEDGER_OK) {
        if (apply->count > 0)
            memcpy(ret_outcomes, b.s.outcomes, apply->count);
        b.sink->applied_count++;
        b.sink->applied_connection = pg->connect_count;
    }
    sink_trim(b.sink);
    return rc;
}

/* --- parked events that are tried again ------------------------------------------------------- */

/* Inside an open transaction, nothing of them parked. */
static ledger_rc apply_ops(struct ldg_pg *pg, const struct ldg_op *ops, size_t count,
                           int64_t parked_id, ledger_error *err)
{
    struct ldg_pg_batch b;
    bool again;
    ledger_rc rc = batch_init(&b, pg, ops, count, err);

    if (rc != LEDGER_OK)
        return rc;
    /* A batch that waits for this to end may have reserved its ids already. */
    b.s.parked_any = b.s.marks_any = b.s.beside = true;
    b.s.parked_id = parked_id;
    rc = ldg_pg_batch_go_origin(&b, err);
    return rc == LEDGER_OK ? ldg_sink_apply(&b.s, &again, err) : rc;
}

/* Bridges that move a cursor now come before or after, but not between: a trim that ran beside this
 * would not see what a retry brings back. */
static ledger_rc hold_bridges(struct ldg_pg *pg, ledger_error *err)
{
    static const char hold[] = "SELECT FROM \"{t}_cursors\" ORDER BY name FOR UPDATE";

    return ldg_pg_run(pg, LDG_PG_KEEP, "waiting for a bridge's batch", hold, NULL, NULL, err);
}

static ledger_rc retry(struct ldg_pg *pg, int64_t id, const struct ldg_op *ops, size_t count,
                       ledger_error *err)
{
    bool own;
    ledger_rc rc = ldg_pg_write_begin(pg, NULL, &own, err);

    if (rc != LEDGER_OK)
        return rc;
    rc = hold_bridges(pg, err);
    /* The row goes first: if a trim or another program has taken it away, its entry must not come
     * back. */
    if (rc == LEDGER_OK)
        rc = ldg_pg_parked_take(pg, id, err);
    if (rc == LEDGER_OK && count > 0)
        rc = apply_ops(pg, ops, count, id, err);
    return ldg_pg_write_end(pg, own, rc, err);
}

ledger_rc ldg_pg_parked_retry(void *ctx, int64_t id, const struct ldg_op *ops, size_t count,
                              bool *ret_applied, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc != LEDGER_OK)
        return rc;
    const bool alone = PQtransactionStatus(pg->conn) == PQTRANS_IDLE;
    rc = retry(pg, id, ops, count, err);
    if (alone && ldg_pg_is_outdated(rc, err))
        rc = retry(pg, id, ops, count, err);
    return ldg_sink_retried(rc, pg, id, ldg_pg_parked_note, ret_applied, err);
}

/* --- on disk --------------------------------------------------------------------------------- */

/* Of commits that did not wait for the disk those are there that came before a place in the WAL
 * which has been flushed meanwhile. A new connection may lead to a server that has lost some: only
 * a commit on it, which found the cursor where the last one had left it, proves that it has not. */
uint64_t ldg_pg_durable_count(void *ctx)
{
    static const char ask[] = "SELECT (pg_current_wal_flush_lsn() - '0/0')::int8, "
                              "(pg_current_wal_insert_lsn() - '0/0')::int8";
    struct ldg_pg *pg = ctx;
    struct ldg_pg_sink *sink = pg->sink;
    PGresult *result = NULL;
    ledger_error ignored;
    int64_t now;

    if (sink == NULL)
        return 0;
    if (!ldg_pg_is_async(pg))
        sink->durable_count = sink->applied_count;
    now = ldg_clock_mono_us();
    if (sink->durable_count == sink->applied_count || pg->conn == NULL ||
        sink->applied_connection != pg->connect_count || now - sink->asked_us < DURABLE_ASK_US)
        goto out;
    sink->asked_us = now;
    if (ldg_pg_run(pg, LDG_PG_KEEP, "asking for what is on disk", ask, NULL, &result, &ignored) !=
        LEDGER_OK)
        goto out;
    if (sink->mark_count > 0 && sink->mark_connection == pg->connect_count) {
        if (ldg_pg_get_int64(result, 0, 0) >= sink->mark_lsn) {
            sink->durable_count = sink->mark_count;
            sink->mark_count = 0;
        }
    } else {
        sink->mark_count = 0;
    }
    if (sink->mark_count == 0 && sink->durable_count < sink->applied_count) {
        sink->mark_count = sink->applied_count;
        sink->mark_lsn = ldg_pg_get_int64(result, 0, 1);
        sink->mark_connection = pg->connect_count;
    }
out:
    PQclear(result);
    return sink->durable_count;
}
