/* The sink's side of the PostgreSQL backend: what is its own in the fenced batch. */
#include "sink.h"

#include <pthread.h>
#include <unistd.h>

#include "../apply_cases.h"
#include "alloc_fail.h"
#include "backend/postgres/apply.h"

static char *url;

static int setup(void **state)
{
    tst_pg_require();
    int rc = tst_setup(state);

    if (rc == 0) {
        url = ldg_strdup(tst_url(*state, TST_PLAIN_POSTGRES, "sink"));
        sink_open(&k, url, LEDGER_MUTATION_LOG_OFF);
    }
    return rc;
}

static int teardown(void **state)
{
    sink_close(&k);
    ldg_free(url);
    return tst_teardown(state);
}

static void refuse_bad(void)
{
    tst_pg_sql(k.db, "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                     "'BEGIN RAISE ''no bad ones''; END'; "
                     "CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW "
                     "WHEN (NEW.payload = '\"bad\"') EXECUTE FUNCTION refuse()");
}

/* --- trim --------------------------------------------------------------------------------------
 */

/* Where others add at the same time, nobody can tell: a worker's trims and those that come later
 * look at whole streams. */
static void test_order_beside_others(void **state)
{
    struct ldg_apply share = { .name = "default", .expected = &k.cursor, .ops = k.ops };
    ledger_error err;

    sink_trim(&k, "s", 4);
    share.count = k.count;
    tst_ok(SINK->sink->apply(&k.s, &share, k.outcomes, &err), &err);
    check_ordered(true); /* it adds nothing */
    tst_pg_sql(k.db,
               "INSERT INTO t(id, stream, payload, origin, source_pos) "
               "VALUES (1001, 's', '{}', %d, 9), (1002, 's', '{}', %d, 3); "
               "SELECT setval('t_id_seq', 1002)",
               k.origin, k.origin);
    sink_append(&k, "s", 10, "{}", "");
    share.count = k.count;
    tst_ok(SINK->sink->apply(&k.s, &share, k.outcomes, &err), &err);
    check_ordered(false);
    sink_is(&k, "SELECT string_agg(source_pos::text, ',' ORDER BY source_pos) FROM t", "9,10");
}

/* --- out of memory --------------------------------------------------------------------------- */

static void test_out_of_memory(void **state)
{
    refuse_bad();
    /* The arena that is kept would hide the failures. */
    sink_apply(&k); /* makes the arena */
    k.s.scratch.keep = k.s.sink->arena.keep = 0;
    sink_append(&k, "s", 1, "{}", "k");
    sink_tags(&k, "s", 1, "x");
    sink_annotate(&k, "s", 1, "a", "b");
    sink_append(&k, "s", 2, "\"bad\"", "");
    sink_append(&k, "s", 3, "{}", "k");
    alloc_fail_each(oom_run, NULL);
    sink_is(&k, "SELECT string_agg(source_pos || tags::text || annotations::text, ',') FROM t",
            "1[\"x\"]{\"a\": \"b\"}");
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t_parked"), 1);
}

/* --- several at once ------------------------------------------------------------------------- */

/* A second handle on the sink, as another bridge or a parallel worker has it. */
struct rival {
    struct ldg_pg s;
    struct ldg_apply apply;
    uint8_t outcomes[64];
    ledger_error err;
    ledger_rc rc;
    pthread_t thread;
};

static void rival_open(struct rival *r)
{
    memset(r, 0, sizeof(*r));
    handle_open_patient(&r->s, url, "t", LDG_ROLE_SINK, LEDGER_MUTATION_LOG_OFF, 0);
}

static void *rival_main(void *arg)
{
    struct rival *r = arg;

    r->rc = SINK->sink->apply(&r->s, &r->apply, r->outcomes, &r->err);
    return NULL;
}

static void rival_start(struct rival *r)
{
    assert_int_equal(pthread_create(&r->thread, NULL, rival_main, r), 0);
}

static void rival_end(struct rival *r)
{
    assert_int_equal(pthread_join(r->thread, NULL), 0);
}

static void wait_for_lock(void)
{
    tst_pg_await(k.db, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                       "AND wait_event_type = 'Lock'");
}

/* Two sources count alike: each has its own entries and its own tags. */
static void test_w2_two_sources(void **state)
{
    const struct ldg_identity other = { .uuid = OTHER_UUID, .epoch = 1 };
    ledger_error err = { 0 };
    int number = 0;

    tst_ok(SINK->state->origin_get(&k.s, &other, "", &number, &err), &err);
    for (int64_t pos = 1; pos <= 3; pos++) {
        sink_append(&k, "s", pos, "{}", "");
        struct ldg_op *op = sink_append(&k, "s", pos, "2", "");
        op->origin = op->mutation_origin = number;
    }
    sink_tags(&k, "s", 2, "one");
    struct ldg_op *op = sink_tags(&k, "s", 2, "two");
    op->origin = op->mutation_origin = number;
    sink_trim(&k, "s", 1);
    sink_apply(&k);
    assert_int_equal(k.s.sink->optimistic_count, 1);
    sink_is(&k,
            "SELECT string_agg(origin || ':' || source_pos || tags::text, ' ' ORDER BY origin, "
            "source_pos) FROM t",
            "1:2[\"one\"] 1:3[] 2:1[] 2:2[\"two\"] 2:3[]");
}

static void test_takeover_waits_for_a_worker(void **state)
{
    static struct rival r;
    struct ldg_cursor next = k.cursor;
    PGconn *worker = tst_pg_connect_url(url);

    rival_open(&r);
    tst_pg_sql(worker, "BEGIN; SELECT FROM t_cursors WHERE name = 'default' FOR SHARE");
    snprintf(next.state, sizeof(next.state), "taken");
    r.apply = (struct ldg_apply){ .name = "default", .expected = &k.cursor, .next = &next };
    rival_start(&r);
    wait_for_lock();
    sink_is(&k, "SELECT state FROM t_cursors", "");
    tst_pg_sql(worker, "COMMIT");
    rival_end(&r);
    tst_ok(r.rc, &r.err);
    sink_is(&k, "SELECT state FROM t_cursors", "taken");
    PQfinish(worker);
    SINK->close(&r.s);
}

/* The first entry comes by another way meanwhile, with an id behind those that the batch has drawn:
 * it draws others for those that follow. A share does so, too. */
static void test_order_of_two_ways(void **state)
{
    static struct rival r;
    PGconn *other = tst_pg_connect_url(url);

    for (int64_t pos = 1; pos <= 3; pos += 2) {
        const bool share = pos > 1;
        struct ldg_cursor next = k.cursor;

        rival_open(&r);
        sink_begin(&k);
        sink_append(&k, "s", pos, "{}", "");
        sink_append(&k, "s", pos + 1, "{}", "");
        snprintf(next.state, sizeof(next.state), "next");
        r.apply = (struct ldg_apply){ .name = "default",
                                      .expected = &k.cursor,
                                      .next = share ? NULL : &next,
                                      .ops = k.ops,
                                      .count = k.count };
        tst_pg_sql(
            other,
            "BEGIN; INSERT INTO t(id, stream, payload, order_key, created_at, origin, source_pos) "
            "VALUES (%lld, 's', '{}', 'o', to_timestamp(%lld / 1000000.0), %d, %lld)",
            1000 * (long long)pos, (long long)k.ops[0].time_us, k.origin, (long long)pos);
        rival_start(&r);
        wait_for_lock();
        tst_pg_sql(other, "SELECT setval('t_id_seq', %lld); COMMIT", 1000 * (long long)pos);
        rival_end(&r);
        tst_ok(r.rc, &r.err);
        sink_is(&k, "SELECT string_agg(source_pos::text, ',' ORDER BY id) FROM t",
                share ? "1,2,3,4" : "1,2");
        check_ordered(!share); /* beside others nobody can tell */
        if (!share)
            k.cursor = next;
        SINK->close(&r.s);
    }
    sink_begin(&k);
    sink_trim(&k, "s", 1);
    sink_apply(&k);
    sink_is(&k, "SELECT string_agg(source_pos::text, ',' ORDER BY id) FROM t", "2,3,4");
    PQfinish(other);
}

/* Another transaction has the first key and wants the second, as a second source may. */
static void test_t12_deadlock_is_retried(void **state)
{
    static struct rival r;
    PGconn *other = tst_pg_connect_url(url);
    struct ldg_cursor next = k.cursor;

    tst_pg_sql(other, "SET deadlock_timeout = '20ms'; BEGIN; "
                      "INSERT INTO t (stream, payload, dedup_key) VALUES ('s', '1', 'b')");
    sink_append(&k, "s", 1, "{}", "a");
    sink_append(&k, "s", 2, "{}", "b");
    rival_open(&r);
    r.apply = (struct ldg_apply){
        .name = "default", .expected = &k.cursor, .next = &next, .ops = k.ops, .count = k.count
    };
    rival_start(&r);
    wait_for_lock();
    PGresult *result =
        PQexec(other, "INSERT INTO t (stream, payload, dedup_key) VALUES ('s', '1', 'a')");
    bool lost = PQresultStatus(result) != PGRES_COMMAND_OK;
    PQclear(result);
    rival_end(&r);
    tst_pg_sql(other, "ROLLBACK");
    if (!lost) { /* the batch was the victim: transient */
        tst_fails(r.rc, LEDGER_ERR_BUSY, &r.err);
        rival_main(&r);
    }
    tst_ok(r.rc, &r.err);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t"), 2);
    PQfinish(other);
    SINK->close(&r.s);
}

/* --- two batches under way ------------------------------------------------------------------- */

struct overlap {
    int reserved, awaited;
    size_t seen;    /* rows that others saw at the wait */
    ledger_rc give; /* what await_order() returns */
    const char *meanwhile;
};

static ledger_rc await_order(void *ctx, ledger_error *err)
{
    struct overlap *overlap = ctx;

    overlap->awaited++;
    assert_int_equal(overlap->reserved <= 1, 1);
    overlap->seen = (size_t)tst_pg_sql_int(k.db, "SELECT count(*) FROM t");
    /* Else who follows the table would take the ids for ones that are never used. */
    if (overlap->reserved)
        assert_int_equal(tst_pg_sql_int(k.db,
                                        "SELECT count(*) FROM pg_locks WHERE relation = "
                                        "pg_get_serial_sequence('t', 'id')::regclass AND "
                                        "mode = 'RowExclusiveLock' AND pid = %d",
                                        PQbackendPID(k.s.conn)),
                         1);
    if (overlap->meanwhile != NULL)
        tst_pg_sql(k.db, "%s", overlap->meanwhile);
    if (overlap->give != LEDGER_OK) {
        memset(err, 0, sizeof(*err));
        err->code = overlap->give;
        snprintf(err->message, sizeof(err->message), "given up");
    }
    return overlap->give;
}

static void note_reserved(void *ctx)
{
    struct overlap *overlap = ctx;

    assert_int_equal(overlap->awaited, 0);
    overlap->reserved++;
}

static ledger_rc overlapped(struct overlap *overlap, ledger_error *err)
{
    struct ldg_cursor next = k.cursor;
    const struct ldg_apply apply = { .name = "default",
                                     .expected = &k.cursor,
                                     .next = &next,
                                     .ops = k.ops,
                                     .count = k.count,
                                     .park_rejected = true,
                                     .await_commit_order = await_order,
                                     .ids_reserved = note_reserved,
                                     .overlap_ctx = overlap };
    memset(err, 0, sizeof(*err));
    snprintf(next.state, sizeof(next.state), "overlapped %d", (int)k.position);
    ledger_rc rc = SINK->sink->apply(&k.s, &apply, k.outcomes, err);
    if (rc == LEDGER_OK)
        k.cursor = next;
    return rc;
}

static void test_overlap(void **state)
{
    struct overlap overlap = { 0 };
    ledger_error err;

    sink_append(&k, "s", 1, "{}", "a");
    sink_append(&k, "s", 2, "{}", "b");
    tst_ok(overlapped(&overlap, &err), &err);
    assert_int_equal(overlap.reserved, 1);
    assert_int_equal(overlap.awaited, 1);
    assert_int_equal(k.s.sink->optimistic_count, 1);
    /* A key that is there: the earlier batch is committed, and the reserved ids are used. */
    overlap = (struct overlap){ .meanwhile = "INSERT INTO t (stream, payload) VALUES ('x', '1')" };
    sink_begin(&k);
    sink_append(&k, "s", 3, "{}", "b");
    sink_append(&k, "s", 4, "{}", "c");
    tst_ok(overlapped(&overlap, &err), &err);
    assert_int_equal(overlap.reserved, 1);
    assert_int_equal(overlap.awaited, 1);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_DEDUPLICATED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_APPLIED);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT ((SELECT id FROM t WHERE source_pos = 4) < "
                                          "(SELECT id FROM t WHERE stream = 'x'))::int"),
                     1);
    /* The earlier batch gave up: so does this one. */
    overlap = (struct overlap){ .give = LEDGER_ERR_CONNECT };
    sink_begin(&k);
    sink_append(&k, "s", 5, "{}", "");
    tst_fails(overlapped(&overlap, &err), LEDGER_ERR_CONNECT, &err);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t WHERE source_pos = 5"), 0);
    /* The cursor was moved by another bridge meanwhile. */
    overlap = (struct overlap){ .meanwhile = "UPDATE t_cursors SET state = 'other'" };
    tst_fails(overlapped(&overlap, &err), LEDGER_ERR_FENCED, &err);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t WHERE source_pos = 5"), 0);
}

/* A row of the earlier batch that is not committed: the wait for it ends soon. */
static void test_overlap_meets_a_lock(void **state)
{
    struct overlap overlap = { 0 };
    PGconn *other = tst_pg_connect_url(url);
    ledger_error err;

    tst_pg_sql(other, "BEGIN; INSERT INTO t (stream, payload, dedup_key) VALUES ('s', '1', 'a')");
    sink_append(&k, "s", 1, "{}", "a");
    tst_fails(overlapped(&overlap, &err), LEDGER_ERR_BUSY, &err);
    assert_int_equal(overlap.awaited, 1);
    tst_pg_sql(other, "COMMIT");
    overlap = (struct overlap){ 0 };
    tst_ok(overlapped(&overlap, &err), &err);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_DEDUPLICATED);
    PQfinish(other);
}

/* --- the server says no ---------------------------------------------------------------------- */

/* Rows that the server hides are no reason to go on without them: it says no, and so does the
 * batch.
 */
static void test_hidden_rows(void **state)
{
    tst_pg_sql(k.db, "DROP ROLE IF EXISTS ldg_apply_limited");
    tst_pg_sql(k.db, "CREATE ROLE ldg_apply_limited LOGIN");
    tst_pg_sql(k.db, "DO $$ BEGIN EXECUTE format('GRANT ALL ON SCHEMA %%I TO ldg_apply_limited', "
                     "current_schema()); EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA %%I TO "
                     "ldg_apply_limited', current_schema()); EXECUTE format('GRANT ALL ON ALL "
                     "SEQUENCES IN SCHEMA %%I TO ldg_apply_limited', current_schema()); END $$");
    tst_pg_sql(k.db, "ALTER TABLE t ENABLE ROW LEVEL SECURITY; "
                     "CREATE POLICY p ON t USING (true) WITH CHECK (true)");
    tst_pg_sql(k.db, "ALTER ROLE ldg_apply_limited SET search_path FROM CURRENT");
    ledger_error err;
    tst_ok(ldg_pg_run_text(&k.s, "testing", "SET ROLE ldg_apply_limited", NULL, NULL, &err), &err);
    for (int64_t pos = 1; pos <= 3; pos++)
        sink_append(&k, "s", pos, "{}", "");
    sink_tags(&k, "s", 2, "x");
    ledger_rc rc = sink_try(&k, &err);
    tst_fails(rc, LEDGER_ERR_PERMISSION, &err);
    assert_non_null(strstr(err.message, "row-level security"));
    sink_is(&k, "SELECT count(*) FROM t", "0");
    sink_is(&k, "SELECT count(*) FROM t_parked", "0");
    tst_pg_sql(k.db, "DROP POLICY p ON t; ALTER TABLE t DISABLE ROW LEVEL SECURITY");
    tst_ok(ldg_pg_run_text(&k.s, "testing", "RESET ROLE", NULL, NULL, &err), &err);
    tst_pg_sql(k.db, "DROP OWNED BY ldg_apply_limited; DROP ROLE ldg_apply_limited");
}

/* The sequence and the tables are their owner's, who may change them under a bridge at work. */
static void test_changed_under_way(void **state)
{
    static const char *const sequences[][2] = {
        { "CACHE 64", "CACHE 1" },
        { "INCREMENT -1 MINVALUE -1000", "INCREMENT 1 NO MINVALUE" },
        { "CYCLE", "NO CYCLE" },
    };
    ledger_error err;
    int64_t pos = 0;

    (void)state;
    for (size_t i = 0; i < 6; i++) {
        sink_begin(&k);
        sink_append(&k, "s", ++pos, "{}", "");
        sink_apply(&k);
        k.s.sink->one_by_one = i % 2;
        sink_begin(&k);
        sink_append(&k, "s", ++pos, "{}", "");
        tst_pg_sql(k.db, "ALTER SEQUENCE t_id_seq %s", sequences[i / 2][0]);
        tst_fails(sink_try(&k, &err), LEDGER_ERR_SCHEMA, &err);
        assert_non_null(strstr(err.message, "ALTER SEQUENCE"));
        tst_pg_sql(k.db, "ALTER SEQUENCE t_id_seq %s", sequences[i / 2][1]);
        tst_pg_sql(k.db, "SELECT setval('t_id_seq', (SELECT max(id) FROM t))");
        sink_apply(&k);
    }
    k.s.sink->one_by_one = false;
    sink_is(&k,
            "SELECT count(*) || ' ' || bool_and(id > before) FROM (SELECT id, "
            "coalesce(lag(id) OVER (ORDER BY source_pos), 0) AS before FROM t) AS x",
            "12 true");
    sink_is(&k, "SELECT count(*) FROM t_parked", "0");
    sink_begin(&k);
    sink_append(&k, "s", ++pos, "{}", "");
    tst_pg_sql(k.db, "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', "
                     "deterministic = false); ALTER TABLE t ALTER stream TYPE text COLLATE blind");
    k.s.checked_us -= 10000000; /* that much later */
    tst_fails(sink_try(&k, &err), LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "collation"));
}

/* COPY and parameters come in binary form, which a column of another type takes for something else:
 * not a single row goes there, however soon after the last look. */
static void test_types_under_way(void **state)
{
    static const char *const alters[][3] = {
        { "stream", "varchar(100)", "text" },
        { "schema_version", "smallint", "integer" },
        { "created_at", "timestamp", "timestamptz" },
        { "metadata", "json", "jsonb" },
        { "id", "numeric", "bigint" },
        { "source_pos", "numeric", "bigint" },
    };
    ledger_error err;
    int64_t pos = 0;

    (void)state;
    for (size_t i = 0; i < 2 * sizeof(alters) / sizeof(alters[0]); i++) {
        const char *const *alter = alters[i / 2];

        sink_begin(&k);
        sink_append(&k, "s", ++pos, "{}", "");
        sink_apply(&k);
        k.s.sink->one_by_one = i % 2;
        sink_begin(&k);
        sink_append(&k, "s", ++pos, "{}", "");
        tst_pg_sql(k.db, "ALTER TABLE t ALTER %s TYPE %s", alter[0], alter[1]);
        tst_fails(sink_try(&k, &err), LEDGER_ERR_SCHEMA, &err);
        assert_non_null(strstr(err.message, "ALTER TABLE \"t\""));
        assert_non_null(strstr(err.message, alter[0]));
        assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t"), pos - 1);
        tst_pg_sql(k.db, "ALTER TABLE t ALTER %s TYPE %s", alter[0], alter[2]);
        sink_apply(&k);
    }
    k.s.sink->one_by_one = false;
    sink_is(&k, "SELECT count(*) FROM t_parked", "0");
}

/* Of an origin that nobody knows any more nothing is added: the next start could not tell whose it
 * is. */
static void test_origins_gone(void **state)
{
    ledger_error err;

    (void)state;
    sink_append(&k, "s", 1, "{}", "");
    sink_apply(&k);
    tst_pg_sql(k.db, "CREATE TABLE kept AS TABLE t_origins; DELETE FROM t_origins");
    for (int row_wise = 0; row_wise < 2; row_wise++) {
        k.s.sink->one_by_one = row_wise;
        sink_begin(&k);
        sink_append(&k, "s", 2, "{}", "");
        tst_fails(sink_try(&k, &err), LEDGER_ERR_SCHEMA, &err);
        assert_non_null(strstr(err.message, "t_origins"));
    }
    k.s.sink->one_by_one = false;
    tst_pg_sql(k.db, "INSERT INTO t_origins TABLE kept");
    sink_apply(&k);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t"), 2);
}

/* A trigger that drops rows without a word; a constraint that is checked at the commit only. */
static void test_hostile_triggers(void **state)
{
    tst_pg_sql(k.db, "CREATE FUNCTION drops() RETURNS trigger LANGUAGE plpgsql AS "
                     "'BEGIN RETURN NULL; END'; "
                     "CREATE TRIGGER drops BEFORE INSERT ON t FOR EACH ROW "
                     "WHEN (NEW.payload = '2') EXECUTE FUNCTION drops(); "
                     "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS "
                     "'BEGIN RAISE check_violation; END'; "
                     "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY "
                     "DEFERRED FOR EACH ROW WHEN (NEW.payload = '3') EXECUTE FUNCTION late()");
    for (int i = 0; i < 6; i++) {
        char payload[2] = { (char)('1' + i % 3), '\0' };
        sink_append(&k, "s", i + 1, payload, "");
    }
    sink_tags(&k, "s", 4, "x");
    sink_apply(&k);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(k.outcomes[i], i % 3 == 0 ? LDG_OUTCOME_APPLIED : LDG_OUTCOME_PARKED);
    assert_int_equal(k.outcomes[6], LDG_OUTCOME_APPLIED);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t"), 2);
}

/* What only other events of a parked list concern goes on in bulk. */
static void test_parked_elsewhere(void **state)
{
    refuse_bad();
    sink_append(&k, "s", 1, "\"bad\"", "");
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_PARKED);
    sink_begin(&k);
    sink_append(&k, "s", 2, "{}", "");
    sink_append(&k, "other", 3, "{}", "");
    sink_tags(&k, "s", 2, "x");
    sink_trim(&k, "other", 3);
    sink_apply(&k);
    assert_int_equal(k.s.sink->optimistic_count, 1);
    sink_begin(&k);
    sink_tags(&k, "s", 1, "x");
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_PARKED);
    sink_begin(&k);
    sink_trim(&k, "s", 1);
    sink_apply(&k);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t_parked"), 0);
}

/* --- connections ----------------------------------------------------------------------------- */

static void terminate(void)
{
    tst_pg_sql_int(k.db, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                         "WHERE pid <> pg_backend_pid() AND application_name = 'test'");
}

static ledger_rc terminated_meanwhile(void *ctx, ledger_error *err)
{
    terminate();
    return LEDGER_OK;
}

/* Lost before the commit was sent: nothing was done, and it may be tried again. */
static void test_t5_lost_before_the_commit(void **state)
{
    struct ldg_cursor next = k.cursor;
    ledger_error err = { 0 };

    sink_append(&k, "s", 1, "{}", "a");
    const struct ldg_apply apply = { .name = "default",
                                     .expected = &k.cursor,
                                     .next = &next,
                                     .ops = k.ops,
                                     .count = 1,
                                     .await_commit_order = terminated_meanwhile };
    tst_fails(SINK->sink->apply(&k.s, &apply, k.outcomes, &err), LEDGER_ERR_CONNECT, &err);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t"), 0);
    sink_apply(&k); /* on a new connection */
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t"), 1);
}

/* Lost in the middle of the commit: the cursor, read under its lock, tells. */
static void test_t5_lost_in_the_commit(void **state)
{
    static struct rival r;
    struct ldg_cursor next = k.cursor, now;
    ledger_error err = { 0 };

    tst_pg_sql(k.db, "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
                     "'BEGIN PERFORM pg_sleep(30); RETURN NULL; END'; "
                     "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY "
                     "DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()");
    sink_append(&k, "s", 1, "{}", "");
    rival_open(&r);
    snprintf(next.state, sizeof(next.state), "next");
    r.apply = (struct ldg_apply){
        .name = "default", .expected = &k.cursor, .next = &next, .ops = k.ops, .count = 1
    };
    rival_start(&r);
    tst_pg_await(k.db, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    tst_pg_sql_int(k.db, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                         "WHERE wait_event = 'PgSleep'");
    rival_end(&r);
    tst_fails(r.rc, LEDGER_ERR_UNKNOWN_OUTCOME, &r.err);
    tst_ok(SINK->state->cursor_get(&r.s, "default", false, &now, &err), &err);
    assert_string_equal(now.state, "");
    SINK->close(&r.s);
}

static void test_durable_count(void **state)
{
    assert_int_equal(SINK->sink->durable_count(&k.s), 0);
    for (int64_t pos = 1; pos <= 3; pos++) {
        sink_begin(&k);
        sink_append(&k, "s", pos, "{}", "");
        sink_apply(&k);
    }
    TST_AWAIT(SINK->sink->durable_count(&k.s) >= 3);
    assert_int_equal(SINK->sink->durable_count(&k.s), 3);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_cursor_has_a_time),
        TEST(test_one_position_of_an_older_version),
        TEST(test_trim_after_late_entries),
        TEST(test_order_is_rolled_back),
        TEST(test_order_beside_others),
        TEST(test_ids_follow_the_log),
        TEST(test_out_of_memory),
        TEST(test_inside_a_transaction),
        TEST(test_w2_two_sources),
        TEST(test_takeover_waits_for_a_worker),
        TEST(test_order_of_two_ways),
        TEST(test_t12_deadlock_is_retried),
        TEST(test_overlap),
        TEST(test_overlap_meets_a_lock),
        TEST(test_hidden_rows),
        TEST(test_changed_under_way),
        TEST(test_types_under_way),
        TEST(test_origins_gone),
        TEST(test_hostile_triggers),
        TEST(test_parked_elsewhere),
        TEST(test_t5_lost_before_the_commit),
        TEST(test_t5_lost_in_the_commit),
        TEST(test_durable_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
