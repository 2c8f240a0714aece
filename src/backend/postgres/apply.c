/* The fenced batch: one transaction of fence, ops and cursor.
 *
 * Because data and cursor commit together a replay is the exception, so a batch goes in at once
 * (bulk.c); one that hits a constraint is rolled back whole and done again op by op. Invariants:
 * the cursor moves only in the transaction that applied what lies before it; a stream's ids here
 * follow the order of the log, whatever way a batch takes; whatever fails leaves nothing behind. */
#include "backend/postgres/apply.h"
#include "backend/postgres/schema.h"

#include <stdio.h>
#include <string.h>

/* Two batches of ours may meet in a lock: then the wait must end soon. */
#define OVERLAP_LOCK_MS 200
#define LOOK_LOCK_MS 1000
/* How long a session may be silent inside its transaction. One that waits for its turn is, for as
 * long as the earlier batch takes; one that holds the cursor is not, unless its program is stopped.
 */
#define SILENT "'idle_in_transaction_session_timeout', '1800s'"
#define SILENT_WITH_CURSOR "'idle_in_transaction_session_timeout', '60s'"
#define DURABLE_ASK_US 100000
#define PLAN_BATCHES 4096
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

/* Commits need not wait for the disk: the cursor falls back with the data. But who reads the
 * sink's own log may have carried what falls back. */
static bool is_async(const struct ldg_pg *pg)
{
    return pg->role == LDG_ROLE_SINK && !pg->has_log;
}

static ledger_rc batch_init(struct ldg_pg_batch *b, struct ldg_pg *pg, const struct ldg_op *ops,
                            size_t count, ledger_error *err)
{
    struct ldg_arena *arena;
    ledger_rc rc;

    memset(b, 0, sizeof(*b));
    b->pg = pg;
    b->ops = ops;
    b->count = count;
    b->parked_id = INT64_MAX;
    b->lowest_id = INT64_MAX;
    b->now_us = ldg_clock_now_us();
    rc = sink_get(pg, &b->sink, err);
    if (rc != LEDGER_OK)
        return rc;
    arena = &b->sink->arena;
    ldg_arena_reset(arena);
    b->outcomes = ldg_arena_calloc(arena, count, sizeof(*b->outcomes));
    b->ids = ldg_arena_calloc(arena, count, sizeof(*b->ids));
    b->drawn = ldg_arena_calloc(arena, count, sizeof(*b->drawn));
    if (b->outcomes == NULL || b->ids == NULL || b->drawn == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < count; i++)
        b->append_count += ops[i].kind == LDG_OP_APPEND && ops[i].origin > 0;
    return LEDGER_OK;
}

/* --- parked events that are tried again ------------------------------------------------------- */

static ledger_rc ask_go_origin(struct ldg_pg_batch *b, ledger_error *err);

ledger_rc ldg_pg_apply_ops(struct ldg_pg *pg, const struct ldg_op *ops, size_t count,
                           int64_t parked_id, ledger_error *err)
{
    struct ldg_pg_batch b;
    ledger_rc rc = batch_init(&b, pg, ops, count, err);

    if (rc != LEDGER_OK)
        return rc;
    /* A batch that waits for this to end may have drawn its ids already. */
    b.parked_any = b.foreign_any = b.row_wise = b.beside = true;
    b.parked_id = parked_id;
    rc = ldg_pg_orders_collect(&b, err);
    if (rc == LEDGER_OK)
        rc = ask_go_origin(&b, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_orders_load(&b, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_rows_run(&b, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_chain_write(&b, false, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_orders_note(&b, err);
    return rc;
}

/* --- the beginning of a batch ---------------------------------------------------------------- */

/* What is known of one call of apply(), over all its tries. */
struct run {
    struct ldg_pg_batch *b;
    const struct ldg_apply *apply;
    bool own;           /* the transaction is ours, else a part of another */
    bool in_order;      /* await_commit_order() was called, or need not be */
    bool told_reserved; /* ids_reserved() was */
    bool added;         /* the appends are in, in this try */
    bool open;          /* the transaction is, from the try before */
    bool bulk;          /* this try is in bulk */
    bool prepared_anew; /* statements were outdated: one more try is for that */
    bool immediate;     /* constraints are checked at once: one was not met at the commit */
    int64_t columns;    /* as in ldg_pg_sink, now */
};

/* Whose rows carry their source_id; 0: none's do. */
#define GO_ORIGIN "coalesce((SELECT max(id) FROM \"{t}_origins\" WHERE go_ids > 0), 0)::bigint"
static const char go_origin[] = "SELECT " GO_ORIGIN;
/* Everything here finds rows by an index, one after the other; what the planner takes for better
 * comes of guesses about a table that was empty when the plan was made. */
#define NO_LIMITS LDG_PG_NO_LIMITS("statement_timeout,transaction_timeout")
static const char settings[] =
    "SELECT " GO_ORIGIN ", set_config(" SILENT
    ", true), set_config('row_security', 'off', true), " NO_LIMITS ", "
    "set_config('lock_timeout', $1, true), set_config('plan_cache_mode', 'force_generic_plan', "
    "true), "
    "set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), "
    "set_config('enable_sort', 'off', true), "
    "set_config('synchronous_commit', coalesce($2, current_setting('synchronous_commit')), true)";
/* The name is looked up once, and not for each id, which would take as long as the COPY. */
static const char draw_ids[] =
    "WITH s AS MATERIALIZED (SELECT pg_get_serial_sequence('\"{t}\"', 'id')::regclass AS "
    "sequence), "
    "d AS MATERIALIZED (SELECT array_agg(nextval(s.sequence)) AS ids FROM s, "
    "generate_series(1, $1) WHERE s.sequence IS NOT NULL) "
    "SELECT ids, q.seqrelid IS NOT NULL AND (SELECT max(id) FROM \"{t}\") >= ids[1] FROM d "
    "LEFT JOIN pg_sequence AS q ON q.seqrelid = (SELECT sequence FROM s) "
    "AND q.seqincrement > 0 AND q.seqcache = 1";
static const char fence_update[] =
    "SELECT state, cursor, moved_at FROM \"{t}_cursors\" WHERE name = $1 FOR UPDATE";
static const char fence_share[] =
    "SELECT state, cursor, moved_at FROM \"{t}_cursors\" WHERE name = $1 FOR SHARE";
/* And the name of the sequence, if ids that are drawn from it do not rise: its owner may have
 * changed it at any time. Not while ids that were drawn are not committed: it is locked until then.
 * And a sum that is another one after each ALTER of a column: COPY and parameters are in binary
 * form, which another type takes for something else. */
#define ASIDE                                                                                      \
    "EXISTS (SELECT FROM \"{t}_parked\"), "                                                        \
    "EXISTS (SELECT FROM \"{t}_foreign\" WHERE kind < 3), "                                        \
    "(SELECT seqrelid::regclass::text FROM pg_sequence "                                           \
    "WHERE seqrelid = pg_get_serial_sequence('\"{t}\"', 'id')::regclass "                          \
    "AND (seqcache > 1 OR seqincrement < 0 OR seqcycle)), "                                        \
    "(SELECT sum(xmin::text::int8)::int8 FROM pg_attribute "                                       \
    "WHERE attrelid = to_regclass('\"{t}\"'))"
static const char look_aside[] = "SELECT " ASIDE;
static const char look_aside_own[] = "SELECT " ASIDE ", set_config(" SILENT_WITH_CURSOR ", true)";
static const char beginning[] = "beginning a batch";

/* Plans are kept, and those that were made for an empty table are bad ones for what it becomes:
 * they are made again when the number of batches has doubled. */
static bool must_plan_anew(struct ldg_pg_batch *b)
{
    struct ldg_pg_sink *sink = b->sink;

    if (sink->planned_on != b->pg->connect_count) {
        sink->planned_on = b->pg->connect_count;
        sink->planned_count = 0;
    }
    sink->planned_count++;
    return b->pg->own_conn && !b->pg->pooled &&
           ((sink->planned_count & (sink->planned_count - 1)) == 0 ||
            sink->planned_count % PLAN_BATCHES == 0);
}

static bool must_draw(const struct run *r)
{
    return r->b->append_count > 0 && !r->b->has_drawn && r->own;
}

static void settings_args(const struct run *r, char text[16], struct ldg_pg_args *args)
{
    int ms = r->b->pg->busy_timeout_ms;

    /* 0 would wait for ever; so would what is not set at all. */
    if (r->apply->await_commit_order != NULL && ms > OVERLAP_LOCK_MS)
        ms = OVERLAP_LOCK_MS;
    /* Long enough to look who is in the way. */
    if (r->apply->await_commit_order == NULL && r->b->pg->lock_failures > 1 && ms < LOOK_LOCK_MS)
        ms = LOOK_LOCK_MS;
    snprintf(text, 16, "%d", ms > 0 ? ms : 1);
    ldg_pg_arg_text(args, text);
    ldg_pg_arg_text(args, is_async(r->b->pg) ? "off" : NULL);
}

static ledger_rc send_fence(const struct run *r, ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    ledger_rc rc = LEDGER_OK;

    if (r->apply->name != NULL) {
        ldg_pg_arg_text(&args, r->apply->name);
        rc = ldg_pg_pipe_send(r->b->pg, beginning,
                              r->apply->next != NULL ? fence_update : fence_share, &args, err);
    }
    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_send(r->b->pg, beginning, r->own ? look_aside_own : look_aside, NULL, err);
    for (size_t i = 0; rc == LEDGER_OK && i < r->b->order_count; i++) {
        struct ldg_pg_args order = { 0 };

        ldg_pg_order_args(r->b, &r->b->orders[i], &order);
        rc = ldg_pg_pipe_send(r->b->pg, beginning, ldg_pg_order_get, &order, err);
    }
    return rc;
}

/* What the start of the bridge would have said. */
static ledger_rc fail_sequence(const struct ldg_pg *pg, const char *sequence, ledger_error *err)
{
    return ldg_fail(
        err, LEDGER_ERR_SCHEMA,
        "%s: the sequence of table \"%s\" was changed: its ids do not rise any more in the "
        "order in which they are drawn (CACHE, INCREMENT or CYCLE); ALTER SEQUENCE %s "
        "CACHE 1 INCREMENT BY 1 NO CYCLE",
        pg->where ? pg->where : "", pg->table, sequence);
}

static ledger_rc receive_fence(struct run *r, ledger_error *err)
{
    struct ldg_pg_batch *b = r->b;
    PGresult *result = NULL;
    struct ldg_cursor found;
    ledger_rc rc = LEDGER_OK;

    if (r->apply->name != NULL) {
        rc = ldg_pg_pipe_receive(b->pg, beginning, &result, err);
        bool any = rc == LEDGER_OK && PQntuples(result) > 0;
        if (any)
            rc = ldg_pg_take_cursor(b->pg, result, 0, r->apply->name, &found, err);
        if (rc == LEDGER_OK)
            rc = ldg_cursor_compare(r->apply->name, any ? &found : NULL, r->apply->expected, err);
        PQclear(result);
        result = NULL;
    }
    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_receive(b->pg, beginning, &result, err);
    if (rc == LEDGER_OK) {
        b->parked_any = ldg_pg_get_bool(result, 0, 0);
        b->foreign_any = ldg_pg_get_bool(result, 0, 1);
        if (!PQgetisnull(result, 0, 2))
            rc = fail_sequence(b->pg, ldg_pg_get_text(result, 0, 2), err);
        r->columns = ldg_pg_get_int64(result, 0, 3);
    }
    PQclear(result);
    for (size_t i = 0; rc == LEDGER_OK && i < b->order_count; i++) {
        result = NULL;
        rc = ldg_pg_pipe_receive(b->pg, beginning, &result, err);
        if (rc == LEDGER_OK)
            rc = ldg_pg_order_take(b, &b->orders[i], result, err);
        PQclear(result);
    }
    return rc;
}

/* Behind the fence nobody alters the tables any more: are they those that were looked at? */
static ledger_rc look_if_altered(const struct run *r, ledger_error *err)
{
    struct ldg_pg *pg = r->b->pg;
    ledger_rc rc;

    if (r->columns == r->b->sink->columns)
        return LEDGER_OK;
    pg->checked_us = 0;
    rc = ldg_pg_schema_watch(pg, err);
    if (rc == LEDGER_OK)
        r->b->sink->columns = r->columns;
    return rc;
}

/* No ids: the table's column has no sequence of its own. The database gives them, then. Where the
 * table has ids already that the sequence has not reached, new ones would be taken, or would lie
 * before those of earlier events. */
static ledger_rc receive_ids(struct run *r, ledger_error *err)
{
    struct ldg_pg_batch *b = r->b;
    PGresult *result = NULL;
    int64_t *ids = NULL;
    size_t count = 0, at = 0;
    ledger_rc rc = ldg_pg_pipe_receive(b->pg, beginning, &result, err);

    if (rc == LEDGER_OK)
        rc = ldg_pg_get_int64s(result, 0, 0, &b->sink->arena, &ids, &count, err);
    if (rc == LEDGER_OK && ldg_pg_get_bool(result, 0, 1))
        rc = ldg_pg_fail_behind(b->pg, LDG_PG_ENTRIES, err);
    PQclear(result);
    if (rc == LEDGER_OK && count == b->append_count) {
        b->has_drawn = true;
        b->lowest_id = ids[0];
        for (size_t i = 0; i < b->count; i++) {
            if (b->ops[i].kind == LDG_OP_APPEND && b->ops[i].origin > 0)
                b->drawn[i] = ids[at++];
        }
    }
    return rc;
}

/* Ids that are drawn and not used yet must not be taken for ones that never will be: the
 * transaction that holds the sequence's lock for them stays open over all tries. */
static const char keep_ids[] = "SAVEPOINT ldg_drawn";
static const char undo_try[] = "ROLLBACK TO SAVEPOINT ldg_drawn";

/* Whose rows carry source_id is asked before the first of them is added. */
static ledger_rc receive_settings(const struct run *r, ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_pipe_receive(r->b->pg, beginning, &result, err);

    if (rc == LEDGER_OK)
        r->b->go_origin = (int)ldg_pg_get_int64(result, 0, 0);
    PQclear(result);
    return rc;
}

static ledger_rc ask_go_origin(struct ldg_pg_batch *b, ledger_error *err)
{
    int64_t origin = 0;
    ledger_rc rc =
        ldg_pg_run_int64(b->pg, "looking for an origin", go_origin, NULL, NULL, &origin, err);

    b->go_origin = (int)origin;
    return rc;
}

/* BEGIN, with whatever can be asked at once. */
static ledger_rc begin_own(struct run *r, ledger_error *err)
{
    struct ldg_pg *pg = r->b->pg;
    const bool draw = must_draw(r), keep = draw || r->b->has_drawn;
    const bool plan_anew = must_plan_anew(r->b);
    struct ldg_pg_args args = { 0 }, count = { 0 };
    ledger_error ignored;
    char lock_timeout[16];
    ledger_rc rc = ldg_pg_pipe_begin(pg, err);

    if (rc != LEDGER_OK)
        return rc;
    settings_args(r, lock_timeout, &args);
    rc = ldg_pg_pipe_send(pg, beginning, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", NULL,
                          err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_send(pg, beginning, settings, &args, err);
    if (rc == LEDGER_OK && plan_anew)
        rc = ldg_pg_pipe_send(pg, beginning, "DISCARD PLANS", NULL, err);
    if (rc == LEDGER_OK && r->immediate)
        rc = ldg_pg_pipe_send(pg, beginning, "SET CONSTRAINTS ALL IMMEDIATE", NULL, err);
    ldg_pg_arg_int64(&count, (int64_t)r->b->append_count);
    if (rc == LEDGER_OK && draw)
        rc = ldg_pg_pipe_send(pg, beginning, draw_ids, &count, err);
    if (rc == LEDGER_OK && keep)
        rc = ldg_pg_pipe_send(pg, beginning, keep_ids, NULL, err);
    if (rc == LEDGER_OK && r->in_order)
        rc = send_fence(r, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_receive(pg, beginning, NULL, err);
    if (rc == LEDGER_OK)
        rc = receive_settings(r, err);
    for (int i = 0; rc == LEDGER_OK && i < plan_anew + r->immediate; i++)
        rc = ldg_pg_pipe_receive(pg, beginning, NULL, err);
    if (rc == LEDGER_OK && draw)
        rc = receive_ids(r, err);
    if (rc == LEDGER_OK && keep)
        rc = ldg_pg_pipe_receive(pg, beginning, NULL, err);
    if (rc == LEDGER_OK && r->in_order)
        rc = receive_fence(r, err);
    if (ldg_pg_pipe_end(pg, rc == LEDGER_OK ? err : &ignored) != LEDGER_OK && rc == LEDGER_OK)
        rc = err->code;
    return rc == LEDGER_OK && r->in_order ? look_if_altered(r, err) : rc;
}

/* The same where the transaction is open, or part of another. */
static ledger_rc fence(struct run *r, ledger_error *err)
{
    struct ldg_pg *pg = r->b->pg;
    ledger_error ignored;
    ledger_rc rc = ldg_pg_pipe_begin(pg, err);

    if (rc != LEDGER_OK)
        return rc;
    rc = send_fence(r, err);
    if (rc == LEDGER_OK)
        rc = receive_fence(r, err);
    if (ldg_pg_pipe_end(pg, rc == LEDGER_OK ? err : &ignored) != LEDGER_OK && rc == LEDGER_OK)
        rc = err->code;
    return rc == LEDGER_OK ? look_if_altered(r, err) : rc;
}

static ledger_rc take_turn(struct run *r, ledger_error *err)
{
    r->in_order = true;
    return r->apply->await_commit_order(r->apply->overlap_ctx, err);
}

/* Something of the batch's own is parked? Then it goes op by op. Says yes when in doubt. */
static ledger_rc parked_look(struct ldg_pg_batch *b, ledger_error *err)
{
    static const char find[] =
        "SELECT EXISTS (SELECT FROM \"{t}_parked\" WHERE entry = ANY ($1::int8[]) "
        "OR log_position = ANY ($2::int8[]) OR (entry = 0 AND $3) OR stream = ANY ($4::text[]) "
        "OR ((stream = '' OR stream = ANY ($5::text[])) AND $6 "
        "AND type NOT IN ('append', 'set_tags', 'set_annotations')))";
    struct ldg_buf *a = b->sink->arrays;
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    size_t trims = 0, keyed = 0;
    bool changes = false;
    ledger_rc rc;

    ldg_pg_array_begin(&a[0], LDG_PG_INT8);
    ldg_pg_array_begin(&a[1], LDG_PG_INT8);
    ldg_pg_array_begin(&a[2], LDG_PG_TEXT);
    ldg_pg_array_begin(&a[3], LDG_PG_TEXT);
    for (size_t i = 0; i < b->count; i++) {
        ldg_pg_array_int64(&a[0], b->ops[i].key.number);
        ldg_pg_array_int64(&a[1], b->ops[i].log_position);
        changes = changes || b->ops[i].kind == LDG_OP_SET_TAGS ||
                  b->ops[i].kind == LDG_OP_SET_ANNOTATIONS;
        if (b->ops[i].kind == LDG_OP_TRIM) {
            ldg_pg_array_text(&a[2], b->ops[i].stream);
            trims++;
        }
        /* its key may be one that a parked trim would have set free */
        if (b->ops[i].kind == LDG_OP_APPEND && b->ops[i].entry->dedup_key[0] != '\0') {
            ldg_pg_array_text(&a[3], b->ops[i].stream);
            keyed++;
        }
    }
    ldg_pg_array_end(&a[0], b->count);
    ldg_pg_array_end(&a[1], b->count);
    ldg_pg_array_end(&a[2], trims);
    ldg_pg_array_end(&a[3], keyed);
    ldg_pg_arg_array(&args, LDG_PG_INT8_ARRAY, &a[0]);
    ldg_pg_arg_array(&args, LDG_PG_INT8_ARRAY, &a[1]);
    ldg_pg_arg_bool(&args, changes);
    ldg_pg_arg_array(&args, LDG_PG_TEXT_ARRAY, &a[2]);
    ldg_pg_arg_array(&args, LDG_PG_TEXT_ARRAY, &a[3]);
    ldg_pg_arg_bool(&args, keyed > 0);
    rc = ldg_pg_run(b->pg, LDG_PG_KEEP, "looking for parked events", find, &args, &result, err);
    if (rc == LEDGER_OK)
        b->parked_any = ldg_pg_get_bool(result, 0, 0);
    PQclear(result);
    return rc;
}

/* --- the end of a batch ---------------------------------------------------------------------- */

/* Cursor and COMMIT in one round trip. The commit's own answer tells, whatever comes behind it. */
static ledger_rc commit_own(struct run *r, ledger_error *err)
{
    static const char committing[] = "committing a batch";
    static const char move[] =
        "UPDATE \"{t}_cursors\" SET cursor = $2, state = $3, moved_at = $4 WHERE name = $1";
    const struct ldg_apply *apply = r->apply;
    struct ldg_pg *pg = r->b->pg;
    struct ldg_pg_args args = { 0 };
    PGresult *moved = NULL, *result = NULL;
    ledger_error why, ignored;
    bool moves = apply->name != NULL && apply->next != NULL;
    ledger_rc rc = ldg_pg_pipe_begin(pg, err);

    if (rc != LEDGER_OK)
        return rc;
    if (moves) {
        ldg_pg_arg_text(&args, apply->name);
        ldg_pg_arg_text(&args, apply->next->readable);
        ldg_pg_arg_text(&args, apply->next->state);
        ldg_pg_arg_time(&args, apply->next->moved_at_us != LEDGER_NO_TIME ? apply->next->moved_at_us
                                                                          : r->b->now_us);
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

static ledger_rc move_cursor(const struct run *r, ledger_error *err)
{
    static const char move[] =
        "UPDATE \"{t}_cursors\" SET cursor = $2, state = $3, moved_at = $4 WHERE name = $1";
    const struct ldg_cursor *next = r->apply->next;
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    ledger_rc rc;

    if (r->apply->name == NULL || next == NULL)
        return LEDGER_OK;
    ldg_pg_arg_text(&args, r->apply->name);
    ldg_pg_arg_text(&args, next->readable);
    ldg_pg_arg_text(&args, next->state);
    ldg_pg_arg_time(&args, next->moved_at_us != LEDGER_NO_TIME ? next->moved_at_us : r->b->now_us);
    rc = ldg_pg_fail_own(
        ldg_pg_run(r->b->pg, LDG_PG_KEEP, "moving the cursor", move, &args, &result, err), err);
    if (rc == LEDGER_OK && ldg_pg_changed(result) == 0)
        rc = ldg_schema_fail_kept_out(r->b->pg->table, "cursors", err);
    PQclear(result);
    return rc;
}

/* --- one try --------------------------------------------------------------------------------- */

static bool may_copy(const struct ldg_pg_batch *b)
{
    return b->sink->no_copy_on != b->pg->connect_count;
}

/* May the way op by op do better than the one that failed? */
static ledger_rc bulk_failed(struct ldg_pg_batch *b, ledger_rc rc, ledger_error *err)
{
    if (rc == LEDGER_ERR_UNSUPPORTED || rc == LEDGER_ERR_PERMISSION) { /* row-level security */
        b->sink->no_copy_on = b->pg->connect_count;
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "the server refuses COPY");
    }
    return ldg_pg_op_fail(rc, err);
}

/* The next try goes on in the same transaction where that holds drawn ids. */
static ledger_rc undo(struct run *r, ledger_error *err)
{
    struct ldg_pg *pg = r->b->pg;
    PGTransactionStatusType status;

    ldg_pg_copy_cancel(pg);
    status = PQtransactionStatus(pg->conn); /* of no connection, too */
    r->open = r->b->has_drawn && (status == PQTRANS_INTRANS || status == PQTRANS_INERROR);
    if (r->open)
        return ldg_pg_run(pg, LDG_PG_FRESH, "undoing a batch", undo_try, NULL, NULL, err);
    ldg_pg_rollback(pg);
    return LEDGER_OK;
}

/* Before the earlier batch has ended: what the batch adds. *ret_again: it is refused, or waits for
 * a lock of that batch. A key that is taken may be about to be trimmed there. */
static ledger_rc overlap(struct run *r, bool *ret_again, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (r->b->has_drawn && !r->told_reserved && r->apply->ids_reserved != NULL)
        r->apply->ids_reserved(r->apply->overlap_ctx);
    r->told_reserved = true;
    if (r->bulk && r->b->has_drawn) {
        rc = ldg_pg_bulk_plan(r->b, err);
        if (rc == LEDGER_OK && ldg_pg_bulk_may_add_first(r->b)) {
            rc = ldg_pg_bulk_add(r->b, err);
            r->added = rc == LEDGER_OK;
        }
        rc = bulk_failed(r->b, rc, err);
        *ret_again = rc == LEDGER_ERR_REJECTED || rc == LEDGER_ERR_BUSY;
        if (*ret_again) {
            r->bulk = rc == LEDGER_ERR_BUSY || strcmp(ldg_pg_sqlstate(err), "23505") == 0;
            rc = undo(r, err);
            return rc == LEDGER_OK ? take_turn(r, err) : rc;
        }
    }
    if (rc == LEDGER_OK)
        rc = take_turn(r, err);
    if (rc == LEDGER_OK)
        rc = fence(r, err);
    return rc;
}

/* The brake of this try, as it was before the batch. */
static void brake_set(struct run *r)
{
    if (r->b->brake == NULL)
        return;
    *r->b->brake = *r->apply->refusals;
    ldg_refusals_begin(r->b->brake);
}

/* The ops, in bulk. *ret_again: op by op. */
static ledger_rc do_bulk(struct run *r, bool *ret_again, ledger_error *err)
{
    struct ldg_pg_batch *b = r->b;
    ledger_rc rc = ldg_pg_orders_check(b, err);

    if (rc == LEDGER_OK && b->bulk == NULL)
        rc = ldg_pg_bulk_plan(b, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_bulk_change(b, err);
    if (rc == LEDGER_OK && !r->added)
        rc = ldg_pg_bulk_add(b, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_chain_write(b, true, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_orders_note(b, err);
    if (rc == LEDGER_OK) {
        b->sink->bulk_count++;
        brake_set(r);
        if (b->brake != NULL && b->brake->run_count > 0)
            ldg_refusals_outcomes(b->brake, b->ops, b->outcomes, b->count);
        return LEDGER_OK;
    }
    rc = bulk_failed(b, rc, err);
    *ret_again = rc == LEDGER_ERR_REJECTED;
    return *ret_again ? LEDGER_OK : rc;
}

/* An event that the sink's own log cannot take: parked from the beginning of the next try. */
static ledger_rc force_park(struct ldg_pg_batch *b, bool *ret_again, ledger_error *err)
{
    size_t i = err->done_count;

    if (!b->can_park || !b->park_rejected || i >= b->count)
        return LEDGER_ERR_REJECTED;
    if (b->forced == NULL)
        b->forced = ldg_arena_calloc(&b->sink->arena, b->count, sizeof(*b->forced));
    if (b->forced == NULL)
        return ldg_fail_nomem(err);
    if (b->forced[i].is_set)
        return LEDGER_ERR_REJECTED;
    b->forced[i] = (struct ldg_pg_forced){ .is_set = true,
                                           .why = *err,
                                           .reason = ldg_pg_refusal_reason(b->pg, err) };
    *ret_again = true;
    return LEDGER_OK;
}

/* The ops, one by one. *ret_again: the same once more, with savepoints or something parked. */
static ledger_rc do_rows(struct run *r, bool *ret_again, ledger_error *err)
{
    struct ldg_pg_batch *b = r->b;
    ledger_rc rc;

    brake_set(r);
    rc = ldg_pg_rows_run(b, err);
    if (rc == LEDGER_ERR_REJECTED && b->can_park && b->park_rejected && !b->savepoints && r->own) {
        b->savepoints = *ret_again = true;
        return LEDGER_OK;
    }
    if (rc == LEDGER_OK) {
        rc = ldg_pg_op_fail(ldg_pg_chain_write(b, false, err), err);
        if (rc == LEDGER_ERR_REJECTED && r->own)
            rc = force_park(b, ret_again, err);
    }
    if (rc == LEDGER_OK && !*ret_again && b->brake != NULL)
        rc = ldg_refusals_end(b->brake, err);
    if (rc == LEDGER_OK && !*ret_again)
        rc = ldg_pg_orders_note(b, err);
    return rc;
}

/* The same in a transaction that was begun for bulk. */
static ledger_rc do_rows_instead(struct run *r, bool *ret_again, ledger_error *err)
{
    ledger_rc rc;

    r->b->row_wise = true;
    rc = ldg_pg_orders_load(r->b, err);
    return rc == LEDGER_OK ? do_rows(r, ret_again, err) : rc;
}

/* The tables were altered since the statements were prepared: the same once more. begun: the
 * transaction holds the ids that were drawn, and its savepoint; else they are drawn again. */
static void prepare_anew(struct run *r, bool begun)
{
    r->prepared_anew = true;
    if (begun)
        return;
    ldg_pg_rollback(r->b->pg);
    r->b->has_drawn = r->b->has_drawn && r->told_reserved;
}

static ledger_rc try_own(struct run *r, bool *ret_again, ledger_error *err)
{
    struct ldg_pg_batch *b = r->b;
    bool was_bulk, begun;
    ledger_rc rc;

    b->bulk = NULL;
    r->added = false;
    r->bulk = r->bulk && may_copy(b);
    b->row_wise = !r->bulk;
    begun = r->open;
    rc = r->open ? fence(r, err) : begin_own(r, err);
    begun = begun || rc == LEDGER_OK;
    r->open = false;
    if (rc == LEDGER_OK && !r->in_order)
        rc = overlap(r, ret_again, err);
    if (rc == LEDGER_OK && !*ret_again && r->bulk && b->parked_any)
        rc = parked_look(b, err);
    if (rc == LEDGER_OK && !*ret_again) {
        /* Ids are needed for COPY; and what is added already has to go first. */
        was_bulk = r->bulk;
        r->bulk = r->bulk && !b->parked_any && (b->has_drawn || b->append_count == 0);
        if (r->bulk)
            rc = do_bulk(r, ret_again, err);
        else if (r->added)
            *ret_again = true;
        else
            rc = was_bulk ? do_rows_instead(r, ret_again, err) : do_rows(r, ret_again, err);
        r->bulk = r->bulk && !*ret_again && was_bulk;
    }
    if (rc == LEDGER_OK && !*ret_again) {
        rc = commit_own(r, err);
        if (rc != LEDGER_OK && rc != LEDGER_ERR_UNKNOWN_OUTCOME && !r->immediate &&
            ldg_pg_is_row_fault(err)) { /* a deferred constraint */
            r->immediate = *ret_again = true;
            r->bulk = false;
            rc = LEDGER_OK;
        }
    }
    if (!r->prepared_anew && ldg_pg_is_outdated(rc, err)) {
        prepare_anew(r, begun);
        *ret_again = true;
        rc = LEDGER_OK;
    }
    if (rc == LEDGER_OK && *ret_again && !r->open)
        rc = undo(r, err);
    if (rc != LEDGER_OK)
        ldg_pg_rollback(b->pg);
    return rc;
}

/* As part of another transaction: op by op, because a failure must leave it whole. */
static ledger_rc try_inside(struct run *r, ledger_error *err)
{
    bool own = false, again = false;
    ledger_rc rc = LEDGER_OK;

    r->bulk = false;
    r->b->row_wise = true;
    if (!r->in_order)
        rc = take_turn(r, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_write_begin(r->b->pg, NULL, &own, err);
    if (rc != LEDGER_OK)
        return rc;
    r->b->savepoints = r->b->park_rejected;
    rc = fence(r, err);
    if (rc == LEDGER_OK)
        rc = ask_go_origin(r->b, err);
    if (rc == LEDGER_OK)
        rc = do_rows(r, &again, err);
    if (rc == LEDGER_OK)
        rc = move_cursor(r, err);
    return ldg_pg_write_end(r->b->pg, own, rc, err);
}

/* A lost connection before the commit was sent has done nothing, whatever it was in the middle of.
 */
static ledger_rc run_all(struct run *r, ledger_error *err)
{
    const struct ldg_pg *pg = r->b->pg;
    bool again;
    ledger_rc rc;

    r->own = PQtransactionStatus(pg->conn) == PQTRANS_IDLE && !pg->in_snapshot;
    r->in_order = r->apply->await_commit_order == NULL;
    r->bulk = r->own && !r->b->sink->row_wise && ldg_pg_bulk_suits(r->apply->ops, r->apply->count);
    rc = ldg_pg_orders_collect(r->b, err);
    if (rc == LEDGER_OK && !r->own)
        return try_inside(r, err);
    do {
        again = false;
        if (rc == LEDGER_OK)
            rc = try_own(r, &again, err);
    } while (rc == LEDGER_OK && again);
    return rc;
}

/* An event that ends the bridge is not to blame for tables that are no longer what they were. */
static ledger_rc blame(struct ldg_pg_batch *b, ledger_error *err)
{
    ledger_error why = { 0 };
    ledger_rc rc = LEDGER_OK;

    if (PQtransactionStatus(b->pg->conn) == PQTRANS_IDLE)
        rc = ldg_pg_look_again(b, &why);
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
    struct run r = { .b = &b, .apply = apply };
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc == LEDGER_OK && PQtransactionStatus(pg->conn) == PQTRANS_IDLE)
        rc = ldg_pg_schema_watch(pg, err);
    if (rc == LEDGER_OK)
        rc = batch_init(&b, pg, apply->ops, apply->count, err);
    if (rc != LEDGER_OK)
        return rc;
    b.can_park = true;
    b.park_rejected = apply->park_rejected;
    b.beside = apply->name != NULL && apply->next == NULL; /* one of several workers */
    b.brake = apply->park_rejected && apply->refusals != NULL ? &brake : NULL;
    rc = run_all(&r, err);
    if (rc == LEDGER_ERR_REJECTED)
        rc = blame(&b, err);
    if (rc == LEDGER_ERR_SCHEMA)
        rc = ldg_pg_schema_missing(pg, err);
    if (rc == LEDGER_OK && b.brake != NULL)
        *apply->refusals = brake;
    if (rc == LEDGER_OK) {
        if (apply->count > 0)
            memcpy(ret_outcomes, b.outcomes, apply->count);
        b.sink->applied_count++;
        b.sink->applied_connection = pg->connect_count;
    }
    sink_trim(b.sink);
    return rc;
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
    if (!is_async(pg))
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

/* The server has no setting of a session that a backlog would want changed. */
void ldg_pg_hint_backlog(void *ctx, bool backlog)
{
    (void)ctx;
    (void)backlog;
}
