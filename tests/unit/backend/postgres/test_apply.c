/* The sink's side of the PostgreSQL backend: the fenced batch. */
#include "sink.h"

#include <pthread.h>
#include <unistd.h>

#include "../apply_cases.h"
#include "alloc_fail.h"
#include "backend/postgres/apply.h"
#include "workload.h"

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

/* --- cursor and fence --------------------------------------------------------------------------
 */

static void test_cursor_moves_with_data(void **state)
{
    sink_append(&k, "s", 1, "{}", "");
    sink_apply(&k);
    sink_is(&k, "SELECT state || ' ' || cursor FROM t_cursors WHERE name = 'default'",
            "state:1 0000000000000000001");
    assert_int_equal(
        tst_pg_sql_int(k.db, "SELECT count(*) FROM t_cursors WHERE moved_at > '2020-01-01'"), 1);
    assert_int_equal(k.s.sink->applied_count, 1);
}

/* --- replay, duplicates, refusals --------------------------------------------------------------
 */

/* Go's escapes in a stored row are the same metadata. */
static void test_replay_compares_values_not_text(void **state)
{
    const ledger_pair pairs[] = { { "b", "<" }, { "a", "\xc3\xa9" } };
    struct ldg_op *op;
    ledger_append_entry entry;

    for (int i = 0; i < 2; i++) {
        sink_begin(&k);
        op = sink_append(&k, "s", 1, "{}", "");
        entry = *op->entry;
        entry.metadata = (ledger_map){ pairs, 2 };
        op->entry = &entry;
        op->time_us = SINK_TIME_US;
        sink_apply(&k);
        assert_int_equal(k.outcomes[0], i == 0 ? LDG_OUTCOME_APPLIED : LDG_OUTCOME_REPLAYED);
    }
}

static void refuse_bad(void)
{
    tst_pg_sql(k.db, "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                     "'BEGIN RAISE ''no bad ones''; END'; "
                     "CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW "
                     "WHEN (NEW.payload = '\"bad\"') EXECUTE FUNCTION refuse()");
}

static void test_w19_refused_is_parked(void **state)
{
    refuse_bad();
    sink_append(&k, "s", 1, "{}", "");
    sink_append(&k, "s", 2, "\"bad\"", "");
    sink_tags(&k, "s", 2, "x"); /* waits behind it */
    sink_tags(&k, "s", 1, "y");
    sink_append(&k, "s", 3, "{}", "");
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_PARKED);
    assert_int_equal(k.outcomes[2], LDG_OUTCOME_PARKED);
    assert_int_equal(k.outcomes[3], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[4], LDG_OUTCOME_APPLIED);
    sink_is(&k,
            "SELECT string_agg(log_position || ' ' || entry || ' ' || type || ': ' || "
            "substr(reason, strpos(reason, 'no bad ones'), 11), '; ' ORDER BY id) FROM t_parked "
            "WHERE id = 1 ",
            "2 2 append: no bad ones");
    sink_is(&k, "SELECT reason FROM t_parked WHERE log_position = 3", "behind parked event 2");
    /* And in the next batch. */
    sink_begin(&k);
    sink_annotate(&k, "s", 2, "a", "b");
    sink_annotate(&k, "s", 3, "a", "b");
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_PARKED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_APPLIED);
}

static void test_unplanned_is_parked(void **state)
{
    struct ldg_op *op = sink_op(&k, LDG_OP_PARK, "s", 0);
    op->reason = "unknown mutation type \"later\"";
    op->event = (ledger_bytes){ "{\"type\":\"later\"", 15 };
    sink_tags(&k, "s", 7, "x"); /* its entry may be in there */
    sink_tags(&k, "t", 8, "x"); /* another stream: just not here */
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_PARKED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_PARKED);
    assert_int_equal(k.outcomes[2], LDG_OUTCOME_MISSING);
    sink_is(&k, "SELECT string_agg(reason, '; ' ORDER BY id) FROM t_parked",
            "unknown mutation type \"later\"; its entry may be in parked event 1");
    sink_is(&k, "SELECT convert_from(event, 'UTF8') FROM t_parked WHERE entry = 0",
            "{\"type\":\"later\"");
}

/* What failed before and works when it comes again leaves the list. */
static void test_replay_clears_parked(void **state)
{
    ledger_error err;

    refuse_bad();
    sink_append(&k, "s", 1, "\"bad\"", "");
    sink_apply(&k);
    sink_apply(&k); /* the same again: one row, two attempts */
    sink_is(&k, "SELECT string_agg(attempts::text, ',') FROM t_parked", "2");
    tst_pg_sql(k.db, "DROP TRIGGER refuse ON t");
    tst_ok(SINK->state->cursor_get(&k.s, "default", false, &k.cursor, &err), &err);
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_APPLIED);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t_parked"), 0);
}

/* --- changes -----------------------------------------------------------------------------------
 */

static void test_w9_older_change_loses(void **state)
{
    sink_append(&k, "s", 1, "{}", "");
    sink_append(&k, "s", 2, "{}", "");
    sink_tags(&k, "s", 1, "new")->position = 50;
    sink_tags(&k, "s", 1, "old")->position = 49;
    sink_annotate(&k, "s", 2, "a", "new")->position = 60;
    sink_annotate(&k, "s", 2, "a", "old")->position = 60;
    sink_annotate(&k, "s", 2, "b", "more")->position = 61;
    sink_apply(&k);
    assert_int_equal(k.outcomes[3], LDG_OUTCOME_REPLAYED);
    assert_int_equal(k.outcomes[5], LDG_OUTCOME_REPLAYED);
    sink_is(&k, "SELECT tags::text || tags_pos FROM t WHERE source_pos = 1", "[\"new\"]50");
    sink_is(&k, "SELECT annotations::text || annotations_pos FROM t WHERE source_pos = 2",
            "{\"a\": \"new\", \"b\": \"more\"}61");
    sink_begin(&k);
    sink_annotate(&k, "s", 2, "a", NULL)->position = 62;
    sink_annotate(&k, "s", 2, "b", NULL)->position = 63;
    sink_apply(&k);
    sink_is(&k, "SELECT annotations FROM t WHERE source_pos = 2", "{}");
}

/* A version before this one kept one position for both kinds: neither takes an older change. */
static void test_one_position_of_an_older_version(void **state)
{
    sink_append(&k, "s", 1, "{}", "");
    sink_apply(&k);
    tst_pg_sql(k.db, "UPDATE t SET mutation_pos = 50");
    for (int round = 0; round < 2; round++) {
        sink_begin(&k);
        sink_tags(&k, "s", 1, "old")->position = 50;
        sink_annotate(&k, "s", 1, "a", "old")->position = 49;
        sink_apply(&k);
        assert_int_equal(k.outcomes[0], LDG_OUTCOME_REPLAYED);
        assert_int_equal(k.outcomes[1], LDG_OUTCOME_REPLAYED);
        sink_begin(&k);
        sink_tags(&k, "s", 1, "new")->position = 51 + round;
        sink_apply(&k);
        assert_int_equal(k.outcomes[0], LDG_OUTCOME_APPLIED);
    }
    sink_begin(&k);
    sink_annotate(&k, "s", 1, "a", "new")->position = 51;
    sink_apply(&k);
    sink_is(&k,
            "SELECT tags::text || tags_pos || annotations::text || annotations_pos || mutation_pos "
            "FROM t",
            "[\"new\"]52{\"a\": \"new\"}5150");
}

static void test_change_times_and_streams(void **state)
{
    sink_append(&k, "s", 1, "{}", "")->time_us = 1764000000123999;
    sink_tags(&k, "s", 1, "x")->time_us = 1764000001456000;
    sink_tags(&k, "wrong", 1, "y");
    sink_annotate(&k, "s", 9, "a", "b");
    sink_apply(&k);
    assert_int_equal(k.outcomes[2], LDG_OUTCOME_MISSING);
    assert_int_equal(k.outcomes[3], LDG_OUTCOME_MISSING);
    sink_is(&k,
            "SELECT to_char(created_at AT TIME ZONE 'UTC', 'HH24:MI:SS.US ') || to_char(updated_at "
            "AT TIME ZONE 'UTC', 'HH24:MI:SS.US') || tags FROM t",
            "16:00:00.123999 16:00:01.456000[\"x\"]");
}

/* A change that a third store made: taken as it comes, its position means nothing here. */
static void test_change_of_another_store(void **state)
{
    const struct ldg_identity other = { .uuid = OTHER_UUID, .epoch = 3 };
    ledger_error err = { 0 };
    int number;

    tst_ok(SINK->state->origin_get(&k.s, &other, "", &number, &err), &err);
    assert_int_not_equal(number, k.origin);
    sink_append(&k, "s", 1, "{}", "");
    sink_tags(&k, "s", 1, "mine")->position = 50;
    struct ldg_op *op = sink_tags(&k, "s", 1, "theirs");
    op->mutation_origin = number;
    op->position = 2;
    op = sink_annotate(&k, "s", 1, "a", "theirs");
    op->mutation_origin = number;
    sink_apply(&k);
    sink_is(&k, "SELECT tags::text || annotations::text || tags_pos FROM t",
            "[\"theirs\"]{\"a\": \"theirs\"}50");
}

/* A mesh: the entry was written here, the change comes from elsewhere. */
static void test_own_entry(void **state)
{
    const ledger_append_input input = { .payload = { "{}", 2 }, .order_key = "o" };
    ledger_error err = { 0 };
    ledger_ids ids = { 0 };
    struct ldg_op *op;

    for (int i = 0; i < 3; i++) {
        tst_ok(SINK->store->append(&k.s, "s", &input, 1, &ids, &err), &err);
        ledger_ids_destroy(&ids);
    }
    sink_append(&k, "s", 1, "{}", ""); /* of the source: the same number, another entry */
    sink_tags(&k, "s", 1, "bridged");
    sink_tags(&k, "s", 2, "own")->origin = 0;
    sink_annotate(&k, "s", 2, "a", "own")->origin = 0;
    sink_tags(&k, "s", 77, "gone")->origin = 0;
    op = sink_append(&k, "s", 3, "{}", "");
    op->origin = 0;
    sink_exec(&k, "UPDATE t SET created_at = to_timestamp(%lld / 1e6) WHERE id = 3",
              (long long)op->time_us);
    sink_append(&k, "s", 78, "{}", "")->origin = 0;
    op = sink_tags(&k, "s", 2, "came back");
    op->origin = op->mutation_origin = 0;
    sink_trim(&k, "s", 1)->origin = 0;
    sink_apply(&k);
    assert_int_equal(k.outcomes[2], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[3], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[4], LDG_OUTCOME_MISSING);
    assert_int_equal(k.outcomes[5], LDG_OUTCOME_REPLAYED);
    assert_int_equal(k.outcomes[6], LDG_OUTCOME_MISSING);
    assert_int_equal(k.outcomes[7], LDG_OUTCOME_REPLAYED);
    assert_int_equal(k.outcomes[8], LDG_OUTCOME_APPLIED);
    sink_is(&k,
            "SELECT string_agg(id || tags::text || coalesce(annotations::text, ''), ' ' ORDER BY "
            "id) FROM t",
            "2[\"own\"]{\"a\": \"own\"} 3[] 4[\"bridged\"]");
}

/* --- trim --------------------------------------------------------------------------------------
 */

static void test_w8_trim_by_source_position(void **state)
{
    for (int64_t pos = 5; pos <= 12; pos++)
        sink_append(&k, pos % 2 ? "odd" : "even", pos * 10, "{}", "");
    sink_trim(&k, "odd", 91); /* an id that is not here; nothing of "even" goes */
    sink_trim(&k, "none", 91);
    sink_apply(&k);
    assert_int_equal(k.outcomes[8], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[9], LDG_OUTCOME_REPLAYED);
    sink_is(&k, "SELECT string_agg(source_pos::text, ',' ORDER BY source_pos) FROM t",
            "60,80,100,110,120");
}

static void test_t3_trim_keeps(void **state)
{
    const ledger_id kept[] = { { .number = 2 }, { .number = 4 }, { .number = 5 } };
    struct ldg_op *op;

    refuse_bad();
    for (int64_t pos = 1; pos <= 6; pos++)
        sink_append(&k, "s", pos, "{}", "");
    sink_append(&k, "s", 7, "\"bad\"", "");
    sink_append(&k, "s", 8, "\"bad\"", "");
    sink_apply(&k);
    const ledger_id kept_parked[] = {
        { .number = 2 }, { .number = 4 }, { .number = 5 }, { .number = 8 }
    };
    sink_begin(&k);
    op = sink_trim(&k, "s", 5);
    op->survivors = kept;
    op->survivor_count = 3;
    op = sink_trim(&k, "s", 9);
    op->survivors = kept_parked;
    op->survivor_count = 4;
    sink_apply(&k);
    sink_is(&k, "SELECT string_agg(source_pos::text, ',' ORDER BY source_pos) FROM t", "2,4,5");
    sink_is(&k, "SELECT string_agg(entry::text, ',') FROM t_parked", "8");
    sink_begin(&k);
    sink_trim(&k, "s", 9);
    sink_apply(&k);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t_parked"), 0);
}

/* While a stream's ids rise with those of its origin a trim ends at its last entry; what comes late
 * ends that, in any way it can come. */
static void check_ordered(bool ordered)
{
    assert_int_equal(
        tst_pg_sql_int(k.db, "SELECT ordered::int FROM t_origins WHERE id = %d", k.origin),
        ordered);
}

static void test_trim_after_late_entries(void **state)
{
    static const char *const keys[] = { "", "same" }; /* in bulk; op by op */
    int64_t base = 0;

    for (size_t i = 0; i < 2; i++, base += 100) {
        tst_pg_sql(k.db, "UPDATE t_origins SET ordered = true; DELETE FROM t");
        sink_begin(&k);
        sink_append(&k, "s", base + 1, "{}", "");
        sink_append(&k, "s", base + 5, "{}", "");
        sink_append(&k, "x", base + 8, "{}", keys[i]);
        sink_append(&k, "x", base + 9, "{}", keys[i]);
        sink_append(&k, "other", base + 4, "{}", ""); /* late, but the first of its stream */
        sink_apply(&k);
        check_ordered(true);
        sink_begin(&k);
        sink_append(&k, "x", base + 11, "{}", keys[i]);
        sink_append(&k, "s", base + 3, "{}", "");
        sink_append(&k, "s", base + 2, "{}", "");
        sink_trim(&k, "s", base + 2);
        sink_apply(&k);
        check_ordered(false);
        sink_is(&k,
                "SELECT string_agg((source_pos % 100)::text, ',' ORDER BY source_pos) FROM t WHERE "
                "stream = 's'",
                "3,5");
    }
    /* Late within what is still pending. */
    tst_pg_sql(k.db, "UPDATE t_origins SET ordered = true; DELETE FROM t");
    sink_begin(&k);
    sink_append(&k, "s", 5, "{}", "");
    sink_append(&k, "s", 4, "{}", "");
    sink_append(&k, "s", 6, "{}", "");
    sink_apply(&k);
    check_ordered(false);
    sink_begin(&k);
    sink_trim(&k, "s", 4);
    sink_apply(&k);
    sink_is(&k, "SELECT string_agg(source_pos::text, ',' ORDER BY source_pos) FROM t", "5,6");
}

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

/* --- order -------------------------------------------------------------------------------------
 */

/* Ids of a stream follow its log, however many streams there are. */
static void test_ids_follow_the_log(void **state)
{
    static const unsigned stream_counts[] = { 1, 10, 1000 };
    uint64_t random = 3;
    int64_t pos = 0;

    for (size_t i = 0; i < 3; i++) {
        sink_begin(&k);
        for (int n = 0; n < 1000; n++) {
            char stream[24];
            snprintf(stream, sizeof(stream), "s%u",
                     (unsigned)tst_random_below(&random, stream_counts[i]));
            sink_append(&k, stream, ++pos, "{}", "");
        }
        sink_apply(&k);
    }
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t"), 3000);
    assert_int_equal(
        tst_pg_sql_int(k.db, "SELECT count(*) FROM t AS a JOIN t AS b ON a.stream = b.stream "
                             "AND a.id < b.id AND a.source_pos > b.source_pos"),
        0);
    /* What the store writes itself goes on behind. */
    const ledger_append_input input = { .payload = { "{}", 2 } };
    ledger_ids ids = { 0 };
    ledger_error err = { 0 };
    tst_ok(SINK->store->append(&k.s, "own", &input, 1, &ids, &err), &err);
    assert_true(ids.items[0].number >
                tst_pg_sql_int(k.db, "SELECT max(id) FROM t WHERE origin > 0"));
    ledger_ids_destroy(&ids);
}

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

/* --- inside somebody else's transaction --------------------------------------------------------
 */

static void test_inside_a_transaction(void **state)
{
    ledger_error err = { 0 };
    uint8_t outcomes[4];

    refuse_bad();
    tst_ok(SINK->store->tx_begin(&k.s, &err), &err);
    sink_append(&k, "s", 1, "{}", "");
    const struct ldg_apply good = { .ops = k.ops, .count = 1 };
    tst_ok(SINK->sink->apply(&k.s, &good, outcomes, &err), &err);
    sink_append(&k, "s", 2, "{}", "");
    sink_append(&k, "s", 3, "\"bad\"", "");
    const struct ldg_apply bad = { .ops = k.ops + 1, .count = 2 };
    tst_fails(SINK->sink->apply(&k.s, &bad, outcomes, &err), LEDGER_ERR_REJECTED, &err);
    tst_ok(SINK->store->tx_commit(&k.s, &err), &err);
    sink_is(&k, "SELECT string_agg(source_pos::text, ',' ORDER BY source_pos) FROM t", "1");
}

/* --- the sink's own log ------------------------------------------------------------------------
 */

static void reopen_with_log(struct tst_env *env)
{
    sink_close(&k);
    sink_open(&k, tst_url(env, TST_POSTGRES, "chain"), LEDGER_MUTATION_LOG_ON);
}

static void test_chain_events(void **state)
{
    const struct ldg_identity other = { .uuid = OTHER_UUID, .epoch = 3 };
    ledger_error err = { 0 };
    struct ldg_op *op;
    int number;

    reopen_with_log(*state);
    tst_ok(SINK->state->origin_get(&k.s, &other, "", &number, &err), &err);
    sink_append(&k, "s", 41, "{\"a\": 1}", "k1");
    sink_append(&k, "s", 42, "2", "k2")->event_index = k.ops[0].event_index; /* one event */
    k.ops[1].position = k.ops[1].log_position = 1;
    sink_tags(&k, "s", 41, "x");
    op = sink_annotate(&k, "s", 42, "a", NULL);
    op->mutation_origin = number;
    op->position = 7;
    sink_trim(&k, "s", 41);
    sink_trim(&k, "s", 41);      /* nothing left */
    sink_tags(&k, "s", 41, "y"); /* not here */
    sink_apply(&k);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t_mutations"), 4);
    sink_is(&k, "SELECT convert_from(payload, 'UTF8') FROM t_mutations WHERE id = 1",
            "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"1\",\"payload\":{\"a\": "
            "1},\"order_key\":\"o\",\"dedup_key\":\"k1\",\"schema_version\":1,"
            "\"source_id\":\"41\"},{\"id\":\"2\",\"payload\":2,"
            "\"order_key\":\"o\",\"dedup_key\":\"k2\",\"schema_version\":1,\"created_at\":"
            "\"2025-11-24T16:00:00.002Z\",\"source_id\":\"42\"}],\"created_at\":"
            "\"2025-11-24T16:00:00.001Z\",\"origin\":\"" SOURCE_UUID ":1\",\"origin_pos\":1}");
    sink_is(&k, "SELECT convert_from(payload, 'UTF8') FROM t_mutations WHERE id = 2",
            "{\"type\":\"set_tags\",\"stream\":\"s\",\"entry_id\":\"1\",\"tags\":[\"x\"],"
            "\"created_at\":\"2025-11-24T16:00:00.003Z\",\"origin\":\"" SOURCE_UUID
            ":1\",\"origin_pos\":3,\"source_id\":\"41\"}");
    sink_is(&k, "SELECT convert_from(payload, 'UTF8') FROM t_mutations WHERE id = 3",
            "{\"type\":\"set_annotations\",\"stream\":\"s\",\"entry_id\":\"2\",\"annotations\":"
            "{\"a\":null},\"created_at\":\"2025-11-24T16:00:00.004Z\",\"origin\":\"" OTHER_UUID
            ":3\",\"origin_pos\":7,\"entry_origin\":\"" SOURCE_UUID ":1\",\"source_id\":\"42\"}");
    sink_is(&k, "SELECT convert_from(payload, 'UTF8') FROM t_mutations WHERE id = 4",
            "{\"type\":\"trim\",\"stream\":\"s\",\"before_id\":\"1\","
            "\"created_at\":\"2025-11-24T16:00:00.005Z\",\"origin\":\"" SOURCE_UUID
            ":1\",\"origin_pos\":5,\"source_id\":\"41\"}");
}

static void test_chain_writes_what_happened(void **state)
{
    reopen_with_log(*state);
    refuse_bad();
    sink_append(&k, "s", 1, "{}", "k");
    sink_append(&k, "s", 2, "{}", "k");     /* duplicate */
    sink_append(&k, "s", 3, "\"bad\"", ""); /* parked */
    sink_append(&k, "s", 4, "{}", "");
    sink_tags(&k, "s", 4, "x");
    sink_apply(&k);
    sink_apply(&k); /* and again: replayed */
    sink_is(
        &k,
        "SELECT string_agg(convert_from(payload, 'UTF8')::jsonb ->> 'origin_pos', ',' ORDER BY id) "
        "FROM t_mutations",
        "1,4,5");
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t_mutations"), 3);
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
    handle_open(&r->s, url, "t", LDG_ROLE_SINK, LEDGER_MUTATION_LOG_OFF, 0);
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
    for (int i = 0; i < 2000; i++) {
        if (tst_pg_sql_int(k.db, "SELECT count(*) FROM pg_stat_activity WHERE datname = "
                                 "current_database() AND wait_event_type = 'Lock'") > 0)
            return;
        usleep(1000);
    }
    tst_fail("nobody waits for a lock");
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

/* Workers of one batch share the cursor row; a takeover waits for them, and one that comes late
 * finds the cursor moved. */
static void test_t8_late_worker(void **state)
{
    static struct rival r;
    struct ldg_cursor moved;

    sink_append(&k, "s", 1, "{}", "");
    sink_apply(&k);
    rival_open(&r);
    moved = k.cursor;
    r.apply = (struct ldg_apply){ .name = "default", .expected = &moved, .ops = k.ops, .count = 1 };
    sink_begin(&k);
    sink_trim(&k, "s", 1); /* the takeover trims the entry that the worker holds */
    sink_apply(&k);
    rival_main(&r);
    tst_fails(r.rc, LEDGER_ERR_FENCED, &r.err);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t"), 0);
    SINK->close(&r.s);
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

/* The first entry comes by another way meanwhile, with an id behind those that this batch has
 * drawn: the second one's is lower, and trims have to look at the whole stream. */
static void test_order_of_two_ways(void **state)
{
    static struct rival r;
    struct ldg_cursor next = k.cursor;
    PGconn *other = tst_pg_connect_url(url);

    rival_open(&r);
    sink_append(&k, "s", 1, "{}", "");
    sink_append(&k, "s", 2, "{}", "");
    snprintf(next.state, sizeof(next.state), "next");
    r.apply = (struct ldg_apply){
        .name = "default", .expected = &k.cursor, .next = &next, .ops = k.ops, .count = k.count
    };
    tst_pg_sql(
        other,
        "BEGIN; INSERT INTO t(id, stream, payload, order_key, created_at, origin, source_pos) "
        "VALUES (1000, 's', '{}', 'o', to_timestamp(%lld / 1000000.0), %d, 1)",
        (long long)k.ops[0].time_us, k.origin);
    rival_start(&r);
    wait_for_lock();
    tst_pg_sql(other, "COMMIT");
    rival_end(&r);
    tst_ok(r.rc, &r.err);
    sink_is(&k, "SELECT string_agg(source_pos::text, ',' ORDER BY id) FROM t", "2,1");
    check_ordered(false);
    k.cursor = next;
    sink_begin(&k);
    sink_trim(&k, "s", 1);
    sink_apply(&k);
    sink_is(&k, "SELECT string_agg(source_pos::text, ',') FROM t", "2");
    PQfinish(other);
    SINK->close(&r.s);
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

struct turn {
    int drawn, turned;
    size_t seen;    /* rows that others saw at the turn */
    ledger_rc give; /* what turn() returns */
    const char *meanwhile;
};

static ledger_rc take_turn(void *ctx, ledger_error *err)
{
    struct turn *turn = ctx;

    turn->turned++;
    assert_int_equal(turn->drawn <= 1, 1);
    turn->seen = (size_t)tst_pg_sql_int(k.db, "SELECT count(*) FROM t");
    /* Else who follows the table would take the ids for ones that are never used. */
    if (turn->drawn)
        assert_int_equal(tst_pg_sql_int(k.db,
                                        "SELECT count(*) FROM pg_locks WHERE relation = "
                                        "pg_get_serial_sequence('t', 'id')::regclass AND "
                                        "mode = 'RowExclusiveLock' AND pid = %d",
                                        PQbackendPID(k.s.conn)),
                         1);
    if (turn->meanwhile != NULL)
        tst_pg_sql(k.db, "%s", turn->meanwhile);
    if (turn->give != LEDGER_OK) {
        memset(err, 0, sizeof(*err));
        err->code = turn->give;
        snprintf(err->message, sizeof(err->message), "given up");
    }
    return turn->give;
}

static void note_drawn(void *ctx)
{
    struct turn *turn = ctx;

    assert_int_equal(turn->turned, 0);
    turn->drawn++;
}

static ledger_rc overlapped(struct turn *turn, ledger_error *err)
{
    struct ldg_cursor next = k.cursor;
    const struct ldg_apply apply = { .name = "default",
                                     .expected = &k.cursor,
                                     .next = &next,
                                     .ops = k.ops,
                                     .count = k.count,
                                     .park_rejected = true,
                                     .await_commit_order = take_turn,
                                     .ids_reserved = note_drawn,
                                     .overlap_ctx = turn };
    memset(err, 0, sizeof(*err));
    snprintf(next.state, sizeof(next.state), "overlapped %d", (int)k.position);
    ledger_rc rc = SINK->sink->apply(&k.s, &apply, k.outcomes, err);
    if (rc == LEDGER_OK)
        k.cursor = next;
    return rc;
}

static void test_overlap(void **state)
{
    struct turn turn = { 0 };
    ledger_error err;

    sink_append(&k, "s", 1, "{}", "a");
    sink_append(&k, "s", 2, "{}", "b");
    tst_ok(overlapped(&turn, &err), &err);
    assert_int_equal(turn.drawn, 1);
    assert_int_equal(turn.turned, 1);
    assert_int_equal(k.s.sink->optimistic_count, 1);
    /* A key that is there: the turn comes, and the drawn ids are used. */
    turn = (struct turn){ .meanwhile = "INSERT INTO t (stream, payload) VALUES ('x', '1')" };
    sink_begin(&k);
    sink_append(&k, "s", 3, "{}", "b");
    sink_append(&k, "s", 4, "{}", "c");
    tst_ok(overlapped(&turn, &err), &err);
    assert_int_equal(turn.drawn, 1);
    assert_int_equal(turn.turned, 1);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_DEDUPLICATED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_APPLIED);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT ((SELECT id FROM t WHERE source_pos = 4) < "
                                          "(SELECT id FROM t WHERE stream = 'x'))::int"),
                     1);
    /* The earlier batch gave up: so does this one. */
    turn = (struct turn){ .give = LEDGER_ERR_CONNECT };
    sink_begin(&k);
    sink_append(&k, "s", 5, "{}", "");
    tst_fails(overlapped(&turn, &err), LEDGER_ERR_CONNECT, &err);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t WHERE source_pos = 5"), 0);
    /* The cursor was moved by another bridge meanwhile. */
    turn = (struct turn){ .meanwhile = "UPDATE t_cursors SET state = 'other'" };
    tst_fails(overlapped(&turn, &err), LEDGER_ERR_FENCED, &err);
    assert_int_equal(tst_pg_sql_int(k.db, "SELECT count(*) FROM t WHERE source_pos = 5"), 0);
}

/* A row of the earlier batch that is not committed: the wait for it ends soon. */
static void test_overlap_meets_a_lock(void **state)
{
    struct turn turn = { 0 };
    PGconn *other = tst_pg_connect_url(url);
    ledger_error err;

    tst_pg_sql(other, "BEGIN; INSERT INTO t (stream, payload, dedup_key) VALUES ('s', '1', 'a')");
    sink_append(&k, "s", 1, "{}", "a");
    tst_fails(overlapped(&turn, &err), LEDGER_ERR_BUSY, &err);
    assert_int_equal(turn.turned, 1);
    tst_pg_sql(other, "COMMIT");
    turn = (struct turn){ 0 };
    tst_ok(overlapped(&turn, &err), &err);
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

static ledger_rc terminated_turn(void *ctx, ledger_error *err)
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
                                     .await_commit_order = terminated_turn };
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
    for (int i = 0; i < 2000 && tst_pg_sql_int(k.db, "SELECT count(*) FROM pg_stat_activity WHERE "
                                                     "wait_event = 'PgSleep'") == 0;
         i++)
        usleep(1000);
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
    uint64_t count = 0;
    for (int i = 0; i < 300 && (count = SINK->sink->durable_count(&k.s)) < 3; i++)
        usleep(10000);
    assert_int_equal(count, 3);
    SINK->sink->hint_backlog(&k.s, true);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_cursor_moves_with_data),
        TEST(test_fenced),
        TEST(test_no_cursor_name),
        TEST(test_w6_replay_changes_nothing),
        TEST(test_t2_position_reused),
        TEST(test_replay_compares_values_not_text),
        TEST(test_deduplicated),
        TEST(test_t6_append_trim_append),
        TEST(test_t6_append_trim_append_fallback),
        TEST(test_w19_refused_is_parked),
        TEST(test_w19_refused_stops),
        TEST(test_unplanned_is_parked),
        TEST(test_replay_clears_parked),
        TEST(test_w9_older_change_loses),
        TEST(test_change_times_and_streams),
        TEST(test_one_position_of_an_older_version),
        TEST(test_change_of_another_store),
        TEST(test_own_entry),
        TEST(test_w8_trim_by_source_position),
        TEST(test_t3_trim_keeps),
        TEST(test_trim_after_late_entries),
        TEST(test_order_is_rolled_back),
        TEST(test_order_beside_others),
        TEST(test_ids_follow_the_log),
        TEST(test_out_of_memory),
        TEST(test_inside_a_transaction),
        TEST(test_chain_events),
        TEST(test_chain_writes_what_happened),
        TEST(test_w2_two_sources),
        TEST(test_t8_late_worker),
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
