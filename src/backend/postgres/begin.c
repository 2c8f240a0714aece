/* The beginning of a batch: one round trip for BEGIN, settings, reserved ids and the fence.
 *
 * Hides what is asked before anything is written. Invariants: ids that are reserved and not used
 * yet are never taken for ones that never will be; the fence is compared only when the earlier
 * batch is committed. */
#include "backend/postgres/apply.h"
#include "backend/postgres/schema.h"

#include <stdio.h>
#include <string.h>

/* Two batches of ours may meet in a lock: then the wait must end soon. */
#define OVERLAP_LOCK_MS 200
#define LOOK_LOCK_MS 1000
/* How long a session may be silent inside its transaction. One that waits for the earlier batch is,
 * for as long as that takes; one that holds the cursor is not, unless its program is stopped.
 */
#define SILENT "'idle_in_transaction_session_timeout', '1800s'"
#define SILENT_WITH_CURSOR "'idle_in_transaction_session_timeout', '60s'"
#define PLAN_BATCHES 4096

/* Whose rows carry their source_id; 0: none's do. */
#define GO_ORIGIN "coalesce((SELECT max(id) FROM \"{t}_origins\" WHERE go_ids > 0), 0)::bigint"
static const char go_origin[] = "SELECT " GO_ORIGIN;
/* Everything here finds rows by an index, one after the other; what the planner takes for better
 * comes of guesses about a table that was empty when the plan was made. What is off and needed all
 * the same is given a price at which jit would compile for seconds; a session that is not ours may
 * have it on. */
#define NO_LIMITS LDG_PG_NO_LIMITS("statement_timeout,transaction_timeout")
static const char settings[] =
    "SELECT " GO_ORIGIN ", set_config(" SILENT
    ", true), set_config('row_security', 'off', true), " NO_LIMITS ", "
    "set_config('lock_timeout', $1, true), set_config('plan_cache_mode', 'force_generic_plan', "
    "true), "
    "set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), "
    "set_config('enable_sort', 'off', true), set_config('enable_hashjoin', 'off', true), "
    "set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true), "
    "set_config('synchronous_commit', coalesce($2, current_setting('synchronous_commit')), true)";
/* The name is looked up once, and not for each id, which would take as long as the COPY. */
static const char reserve_ids[] =
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

static bool must_reserve(const struct ldg_pg_batch *b)
{
    return b->append_count > 0 && !b->has_reserved && b->own;
}

static void settings_args(const struct ldg_pg_batch *b, char text[16], struct ldg_pg_args *args)
{
    const bool overlaps = b->apply->await_commit_order != NULL;
    int ms = b->pg->busy_timeout_ms;

    /* 0 would wait for ever; so would what is not set at all. */
    if (overlaps && ms > OVERLAP_LOCK_MS)
        ms = OVERLAP_LOCK_MS;
    /* Long enough to look who is in the way. */
    if (!overlaps && b->pg->lock_failures > 1 && ms < LOOK_LOCK_MS)
        ms = LOOK_LOCK_MS;
    snprintf(text, 16, "%d", ms > 0 ? ms : 1);
    ldg_pg_arg_text(args, text);
    ldg_pg_arg_text(args, ldg_pg_is_async(b->pg) ? "off" : NULL);
}

/* --- the fence ------------------------------------------------------------------------------- */

static ledger_rc send_fence(struct ldg_pg_batch *b, ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    ledger_rc rc = LEDGER_OK;

    if (b->apply->name != NULL) {
        ldg_pg_arg_text(&args, b->apply->name);
        rc = ldg_pg_pipe_send(b->pg, beginning, b->apply->next != NULL ? fence_update : fence_share,
                              &args, err);
    }
    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_send(b->pg, beginning, b->own ? look_aside_own : look_aside, NULL, err);
    return rc == LEDGER_OK ? ldg_pg_orders_send(b, beginning, err) : rc;
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

static ledger_rc receive_cursor(struct ldg_pg_batch *b, ledger_error *err)
{
    const char *name = b->apply->name;
    PGresult *result = NULL;
    struct ldg_cursor found;
    ledger_rc rc = ldg_pg_pipe_receive(b->pg, beginning, &result, err);
    const bool any = rc == LEDGER_OK && PQntuples(result) > 0;

    if (any)
        rc = ldg_pg_take_cursor(b->pg, result, 0, name, &found, err);
    if (rc == LEDGER_OK)
        rc = ldg_cursor_compare(name, any ? &found : NULL, b->apply->expected, err);
    PQclear(result);
    return rc;
}

static ledger_rc receive_fence(struct ldg_pg_batch *b, ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc = b->apply->name != NULL ? receive_cursor(b, err) : LEDGER_OK;

    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_receive(b->pg, beginning, &result, err);
    if (rc == LEDGER_OK) {
        b->s.parked_any = ldg_pg_get_bool(result, 0, 0);
        b->s.marks_any = ldg_pg_get_bool(result, 0, 1);
        if (!PQgetisnull(result, 0, 2))
            rc = fail_sequence(b->pg, ldg_pg_get_text(result, 0, 2), err);
        b->columns = ldg_pg_get_int64(result, 0, 3);
    }
    PQclear(result);
    return rc == LEDGER_OK ? ldg_pg_orders_receive(b, beginning, err) : rc;
}

/* Behind the fence nobody alters the tables any more: are they those that were looked at? */
static ledger_rc look_if_altered(struct ldg_pg_batch *b, ledger_error *err)
{
    ledger_rc rc;

    if (b->columns == b->sink->columns)
        return LEDGER_OK;
    b->pg->checked_us = 0;
    rc = ldg_pg_schema_watch(b->pg, err);
    if (rc == LEDGER_OK)
        b->sink->columns = b->columns;
    return rc;
}

ledger_rc ldg_pg_batch_fence(struct ldg_pg_batch *b, ledger_error *err)
{
    ledger_error ignored;
    ledger_rc rc = ldg_pg_pipe_begin(b->pg, err);

    if (rc != LEDGER_OK)
        return rc;
    rc = send_fence(b, err);
    if (rc == LEDGER_OK)
        rc = receive_fence(b, err);
    if (ldg_pg_pipe_end(b->pg, rc == LEDGER_OK ? err : &ignored) != LEDGER_OK && rc == LEDGER_OK)
        rc = err->code;
    return rc == LEDGER_OK ? look_if_altered(b, err) : rc;
}

ledger_rc ldg_pg_batch_await_order(struct ldg_pg_batch *b, ledger_error *err)
{
    b->order_awaited = true;
    return b->apply->await_commit_order(b->apply->overlap_ctx, err);
}

/* --- ids ------------------------------------------------------------------------------------- */

/* No ids: the table's column has no sequence of its own. The database gives them, then. Where the
 * table has ids already that the sequence has not reached, new ones would be taken, or would lie
 * before those of earlier events. */
static ledger_rc receive_ids(struct ldg_pg_batch *b, ledger_error *err)
{
    PGresult *result = NULL;
    int64_t *ids = NULL;
    size_t count = 0, at = 0;
    ledger_rc rc = ldg_pg_pipe_receive(b->pg, beginning, &result, err);

    if (rc == LEDGER_OK)
        rc = ldg_pg_get_int64s(result, 0, 0, &b->sink->arena, &ids, &count, err);
    if (rc == LEDGER_OK && ldg_pg_get_bool(result, 0, 1))
        rc = ldg_pg_fail_behind(b->pg, LDG_PG_ENTRIES, err);
    PQclear(result);
    if (rc != LEDGER_OK || count != b->append_count)
        return rc;
    b->has_reserved = true;
    b->s.lowest_reserved = ids[0];
    for (size_t i = 0; i < b->s.count; i++) {
        if (b->s.ops[i].kind == LDG_OP_APPEND && b->s.ops[i].origin > 0)
            b->reserved[i] = ids[at++];
    }
    return LEDGER_OK;
}

/* Ids that are reserved and not used yet must not be taken for ones that never will be: the
 * transaction that holds the sequence's lock for them stays open over all tries. */
static const char keep_ids[] = "SAVEPOINT ldg_reserved";

/* Whose rows carry source_id is asked before the first of them is added. */
static ledger_rc receive_settings(struct ldg_pg_batch *b, ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_pipe_receive(b->pg, beginning, &result, err);

    if (rc == LEDGER_OK)
        b->go_origin = (int)ldg_pg_get_int64(result, 0, 0);
    PQclear(result);
    return rc;
}

ledger_rc ldg_pg_batch_go_origin(struct ldg_pg_batch *b, ledger_error *err)
{
    int64_t origin = 0;
    ledger_rc rc =
        ldg_pg_run_int64(b->pg, "looking for an origin", go_origin, NULL, NULL, &origin, err);

    b->go_origin = (int)origin;
    return rc;
}

/* --- BEGIN ----------------------------------------------------------------------------------- */

/* What goes along with BEGIN. */
struct head {
    bool reserve, keep, plan_anew;
};

static ledger_rc send_head(struct ldg_pg_batch *b, const struct head *head, ledger_error *err)
{
    struct ldg_pg *pg = b->pg;
    struct ldg_pg_args args = { 0 }, count = { 0 };
    char lock_timeout[16];
    ledger_rc rc = ldg_pg_pipe_send(pg, beginning,
                                    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", NULL, err);

    settings_args(b, lock_timeout, &args);
    ldg_pg_arg_int64(&count, (int64_t)b->append_count);
    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_send(pg, beginning, settings, &args, err);
    if (rc == LEDGER_OK && head->plan_anew)
        rc = ldg_pg_pipe_send(pg, beginning, "DISCARD PLANS", NULL, err);
    if (rc == LEDGER_OK && b->immediate)
        rc = ldg_pg_pipe_send(pg, beginning, "SET CONSTRAINTS ALL IMMEDIATE", NULL, err);
    if (rc == LEDGER_OK && head->reserve)
        rc = ldg_pg_pipe_send(pg, beginning, reserve_ids, &count, err);
    if (rc == LEDGER_OK && head->keep)
        rc = ldg_pg_pipe_send(pg, beginning, keep_ids, NULL, err);
    if (rc == LEDGER_OK && b->order_awaited)
        rc = send_fence(b, err);
    return rc;
}

static ledger_rc receive_head(struct ldg_pg_batch *b, const struct head *head, ledger_error *err)
{
    struct ldg_pg *pg = b->pg;
    ledger_rc rc = ldg_pg_pipe_receive(pg, beginning, NULL, err);

    if (rc == LEDGER_OK)
        rc = receive_settings(b, err);
    for (int i = 0; rc == LEDGER_OK && i < head->plan_anew + b->immediate; i++)
        rc = ldg_pg_pipe_receive(pg, beginning, NULL, err);
    if (rc == LEDGER_OK && head->reserve)
        rc = receive_ids(b, err);
    if (rc == LEDGER_OK && head->keep)
        rc = ldg_pg_pipe_receive(pg, beginning, NULL, err);
    if (rc == LEDGER_OK && b->order_awaited)
        rc = receive_fence(b, err);
    return rc;
}

ledger_rc ldg_pg_batch_begin(struct ldg_pg_batch *b, ledger_error *err)
{
    const struct head head = {
        .reserve = must_reserve(b),
        .keep = must_reserve(b) || b->has_reserved,
        .plan_anew = must_plan_anew(b),
    };
    ledger_error ignored;
    ledger_rc rc = ldg_pg_pipe_begin(b->pg, err);

    if (rc != LEDGER_OK)
        return rc;
    rc = send_head(b, &head, err);
    if (rc == LEDGER_OK)
        rc = receive_head(b, &head, err);
    if (ldg_pg_pipe_end(b->pg, rc == LEDGER_OK ? err : &ignored) != LEDGER_OK && rc == LEDGER_OK)
        rc = err->code;
    return rc == LEDGER_OK && b->order_awaited ? look_if_altered(b, err) : rc;
}
