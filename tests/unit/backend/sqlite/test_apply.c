/* The sink's side of the SQLite backend: what is its own in the fenced batch. */
#include "sink.h"

#include "../apply_cases.h"
#include "alloc_fail.h"

static int setup(void **state)
{
    int rc = tst_setup(state);

    if (rc == 0)
        sink_open(&k, tst_path(*state, "sink.db"), LEDGER_MUTATION_LOG_OFF);
    return rc;
}

static int teardown(void **state)
{
    sink_close(&k);
    return tst_teardown(state);
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
        sink_is(&k, "SELECT metadata FROM t",
                i == 0 ? "{\"a\":\"\xc3\xa9\",\"b\":\"<\"}"
                       : "{\"b\": \"\\u003c\", \"a\": \"\\u00e9\"}");
        tst_exec(k.db, "UPDATE t SET metadata = '{\"b\": \"\\u003c\", \"a\": \"\\u00e9\"}'");
    }
}

static void refuse_bad(void)
{
    tst_exec(k.db,
             "CREATE TRIGGER refuse BEFORE INSERT ON t WHEN CAST(NEW.payload AS TEXT) = '\"bad\"' "
             "BEGIN SELECT RAISE(ABORT, 'no bad ones'); END");
}

/* A trigger may end the whole transaction, or say nothing at all. */
static void test_hostile_triggers(void **state)
{
    tst_exec(k.db, "CREATE TRIGGER a BEFORE INSERT ON t WHEN CAST(NEW.payload AS TEXT) = '1' "
                   "BEGIN SELECT RAISE(ROLLBACK, 'all of it'); END;"
                   "CREATE TRIGGER b BEFORE INSERT ON t WHEN CAST(NEW.payload AS TEXT) = '2' "
                   "BEGIN SELECT RAISE(IGNORE); END;"
                   "CREATE TRIGGER c AFTER INSERT ON t WHEN CAST(NEW.payload AS TEXT) = '3' "
                   "BEGIN SELECT RAISE(FAIL, 'half of it'); END;"
                   "CREATE TRIGGER d AFTER UPDATE ON t WHEN NEW.tags LIKE '%%bad%%' "
                   "BEGIN SELECT json_extract('{', '$'); END");
    for (int i = 0; i < 8; i++) {
        char payload[2] = { (char)('0' + i % 4), '\0' };
        sink_append(&k, "s", i + 1, payload, i == 5 ? "dup" : "");
    }
    sink_tags(&k, "s", 1, "bad");
    sink_tags(&k, "s", 5, "good");
    sink_apply(&k);
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(k.outcomes[i], i % 4 == 0 ? LDG_OUTCOME_APPLIED : LDG_OUTCOME_PARKED);
    assert_int_equal(k.outcomes[8], LDG_OUTCOME_PARKED);
    assert_int_equal(k.outcomes[9], LDG_OUTCOME_APPLIED);
    sink_is(&k, "SELECT group_concat(source_pos) FROM (SELECT * FROM t ORDER BY id)", "1,5");
    sink_is(&k, "SELECT group_concat(reason, '; ') FROM (SELECT DISTINCT reason FROM t_parked)",
            "all of it; a trigger of table \"t\" drops the row; half of it; malformed JSON");
}

/* A trigger's own statements keep their conflict clauses: in bulk, and each row alone. */
static void test_triggers_that_replace(void **state)
{
    tst_exec(k.db, "CREATE TABLE last_value(stream PRIMARY KEY, payload); "
                   "CREATE TABLE seen(stream PRIMARY KEY); "
                   "CREATE TRIGGER a AFTER INSERT ON t BEGIN "
                   "INSERT OR REPLACE INTO last_value VALUES (NEW.stream, NEW.payload); "
                   "INSERT OR IGNORE INTO seen VALUES (NEW.stream); END");
    for (int informed = 0; informed < 2; informed++) {
        sink_begin(&k);
        for (int i = 1; i <= 40; i++) {
            char payload[16];

            snprintf(payload, sizeof(payload), "%d", i);
            sink_append(&k, i % 2 ? "s" : "x", 100 * informed + i, payload, "");
        }
        if (informed) /* it is here: the batch is asked about */
            sink_append(&k, "s", 1, "1", "")->time_us = LEDGER_NO_TIME;
        sink_apply(&k);
        for (size_t i = 0; i < 40; i++)
            assert_int_equal(k.outcomes[i], LDG_OUTCOME_APPLIED);
    }
    sink_is(&k,
            "SELECT group_concat(stream || CAST(payload AS TEXT)) FROM "
            "(SELECT * FROM last_value ORDER BY stream)",
            "s39,x40");
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM seen"), 2);
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t_parked"), 0);
}

/* What a trigger keeps as it is, and says nothing, was not applied. */
static void test_silent_triggers(void **state)
{
    for (int i = 1; i <= 5; i++)
        sink_append(&k, i <= 3 ? "s" : "u", i, "{}", "");
    sink_apply(&k);
    tst_exec(k.db, "CREATE TRIGGER a BEFORE UPDATE ON t WHEN OLD.source_pos = 2 "
                   "BEGIN SELECT RAISE(IGNORE); END;"
                   "CREATE TRIGGER b BEFORE DELETE ON t WHEN OLD.source_pos = 2 "
                   "BEGIN SELECT RAISE(IGNORE); END");
    sink_begin(&k);
    sink_tags(&k, "s", 1, "x");
    sink_tags(&k, "s", 2, "x");
    sink_annotate(&k, "s", 3, "a", "b");
    sink_trim(&k, "u", 4);
    sink_trim(&k, "s", 3);
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_PARKED);
    assert_int_equal(k.outcomes[2], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[3], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[4], LDG_OUTCOME_PARKED);
    sink_is(&k, "SELECT group_concat(source_pos) FROM (SELECT * FROM t ORDER BY id)", "1,2,3,5");
    sink_is(&k, "SELECT group_concat(DISTINCT reason) FROM t_parked",
            "a trigger of table \"t\" keeps a row as it is");
    tst_exec(k.db, "DROP TRIGGER a; DELETE FROM t_parked; CREATE TRIGGER c BEFORE UPDATE ON t "
                   "WHEN NEW.annotations IS NOT OLD.annotations BEGIN SELECT RAISE(IGNORE); END");
    sink_begin(&k);
    sink_tags(&k, "s", 1, "x"); /* there is one already, and a trigger: still a replay */
    k.ops[0].position = k.ops[0].log_position = 1;
    sink_annotate(&k, "s", 1, "a", "b");
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_REPLAYED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_PARKED);
}

static void test_too_big(void **state)
{
    sqlite3_limit(k.s.db, SQLITE_LIMIT_LENGTH, 2000);
    char payload[2400];
    memset(payload, '1', sizeof(payload) - 1);
    payload[sizeof(payload) - 1] = '\0';
    struct ldg_op *op = sink_append(&k, "s", 1, payload, "");
    op->event = (ledger_bytes){ "\"cut\"", 5 };
    sink_append(&k, "s", 2, "{}", "");
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_PARKED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_APPLIED);
}

/* --- trim --------------------------------------------------------------------------------------
 */

static struct ldg_op *with_text(struct ldg_op *op, const char *key)
{
    op->key = (ledger_id){ .text = key };
    return op;
}

/* With Go's unique index on source_id there: what is Go's own, what another origin has, and numbers
 * that nearly are the same. */
static void test_text_keys_beside_go(void **state)
{
    const struct ldg_identity other = { .uuid = OTHER_UUID, .epoch = 1 };
    ledger_error err;
    int origin;

    tst_exec(k.db, "CREATE UNIQUE INDEX idx_t_source ON t(source_id) WHERE source_id != ''; "
                   "UPDATE t_origins SET go_ids = 2");
    tst_ok(SINK->state->origin_get(&k.s, &other, "", &origin, &err), &err);
    sink_append(&k, "s", 12, "1", ""); /* its row has the source_id 12 */
    with_text(sink_append(&k, "s", 0, "2", ""), "012")->origin = origin;
    with_text(sink_append(&k, "s", 0, "3", ""), "12 ")->origin = origin;
    sink_apply(&k);
    sink_is(&k, "SELECT group_concat(source_id || '/' || coalesce(source_pos, '-')) FROM t",
            "12/12,012/-,12 /-");
    /* the index allows a text once, whosever it is: ours is kept aside, and the rest goes on */
    sink_begin(&k);
    with_text(sink_append(&k, "s", 0, "4", ""), "012");
    sink_append(&k, "s", 13, "5", "");
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_PARKED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_APPLIED);
    sink_is(&k, "SELECT entry_id FROM t_parked WHERE reason LIKE '%UNIQUE%source_id%'", "012");
    /* a row that Go's bridge has carried */
    tst_exec(k.db, "INSERT INTO t(stream, payload, order_key, source_id) "
                   "VALUES ('s', '6', 'o', 'abc')");
    sink_begin(&k);
    with_text(sink_append(&k, "s", 0, "6", ""), "abc");
    tst_fails(sink_try(&k, &err), LEDGER_ERR_FOREIGN_BRIDGE, &err);
    assert_non_null(strstr(err.message, "entry abc of"));
    /* without the index nothing is in the way */
    tst_exec(k.db, "DROP INDEX idx_t_source; DELETE FROM t WHERE source_id = 'abc'");
    sink_begin(&k);
    with_text(sink_append(&k, "s", 0, "6", ""), "abc");
    with_text(sink_append(&k, "s", 0, "4", ""), "012")->log_position = 4;
    sink_apply(&k);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_APPLIED);
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t WHERE source_id = '012'"), 2);
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t_parked"), 0);
    (void)state;
}

/* Each by its index, also with Go's. */
static void test_text_key_plans(void **state)
{
    static const struct {
        const char *part, *index;
    } rows[] = {
        { "origin = ?1 AND source_id = ?2 AND origin != 0",
          "idx_t_key (origin=? AND source_id=?)" },
        { "UPDATE main.\"t\" SET tags = ?4", "idx_t_key (origin=? AND source_id=?)" },
        { "SELECT -e.id FROM", "idx_t_key (origin=? AND source_id=?)" },
        { "DELETE FROM main.\"t\" WHERE stream = ?3", "idx_t_stream (stream=? AND rowid<?)" },
        { "origin = ?1 AND entry_id = ?2", "idx_t_parked_key (origin=? AND entry_id=?)" },
        { "entry_id <= ?2", "idx_t_parked_key (origin=? AND entry_id<?)" },
    };
    char plan[1024];

    tst_exec(k.db, "CREATE UNIQUE INDEX idx_t_source ON t(source_id) WHERE source_id != ''");
    with_text(sink_append(&k, "s", 0, "1", ""), "a");
    with_text(sink_tags(&k, "s", 0, "x"), "a");
    with_text(sink_op(&k, LDG_OP_PARK, "s", 0), "b")->reason = "r";
    sink_apply(&k);
    for (int round = 0; round < 2; round++) {
        sink_begin(&k);
        with_text(sink_tags(&k, "s", 0, "y"), "a");
        with_text(sink_trim(&k, "s", 0), "0");
        sink_apply(&k);
        sink_begin(&k);
        with_text(sink_tags(&k, "s", 0, "z"), "a")->mutation_origin = k.origin + 1;
        sink_apply(&k);
    }
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        plan_of(k.s.db, stmt_with(&k.s, rows[i].part), plan, sizeof(plan));
        if (strstr(plan, rows[i].index) == NULL)
            tst_fail("%s: %s", rows[i].part, plan);
    }
    (void)state;
}

/* The index of the stream, not that of the origin. */
static void test_trim_plan(void **state)
{
    char plan[1024];

    tst_exec(k.db, "UPDATE t_origins SET ordered = 0");
    sink_begin(&k);
    sink_append(&k, "s", 1, "{}", "");
    sink_trim(&k, "s", 1);
    sink_apply(&k);
    plan_of(k.s.db, stmt_with(&k.s, "DELETE FROM main.\"t\" WHERE stream = ?3"), plan,
            sizeof(plan));
    assert_non_null(strstr(plan, "idx_t_stream"));
}

/* --- order -------------------------------------------------------------------------------------
 */

static void test_ids_are_never_used_again(void **state)
{
    sink_append(&k, "s", 1, "{}", "");
    sink_append(&k, "s", 2, "{}", "");
    sink_apply(&k);
    sink_begin(&k);
    sink_trim(&k, "s", 2);
    sink_apply(&k);
    sink_begin(&k);
    sink_append(&k, "s", 3, "{}", "");
    sink_apply(&k);
    sink_is(&k, "SELECT group_concat(id) FROM t", "3");
    /* At the end of the numbers SQLite says so, and nothing is half done. */
    ledger_error err;
    tst_exec(k.db, "UPDATE sqlite_sequence SET seq = 9223372036854775807 WHERE name = 't'");
    sink_begin(&k);
    sink_append(&k, "s", 4, "{}", "");
    tst_fails(sink_try(&k, &err), LEDGER_ERR_SCHEMA, &err);
    sink_is(&k, "SELECT state FROM t_cursors", "state:4");
}

/* --- full disk, out of memory ------------------------------------------------------------------
 */

static void test_full_leaves_nothing(void **state)
{
    ledger_error err;
    char payload[3000];

    memset(payload, '1', sizeof(payload) - 1);
    payload[sizeof(payload) - 1] = '\0';
    int64_t pages = tst_query_int(k.db, "PRAGMA page_count");
    char sql[64];
    snprintf(sql, sizeof(sql), "PRAGMA max_page_count = %lld", (long long)pages + 20);
    assert_int_equal(sqlite3_exec(k.s.db, sql, NULL, NULL, NULL), SQLITE_OK);
    for (int64_t pos = 1; pos <= 200; pos++)
        sink_append(&k, "s", pos, payload, "");
    tst_fails(sink_try(&k, &err), LEDGER_ERR_FULL, &err);
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t"), 0);
    sink_is(&k, "SELECT state FROM t_cursors", "");
    assert_int_equal(sqlite3_exec(k.s.db, "PRAGMA max_page_count = 1000000", NULL, NULL, NULL),
                     SQLITE_OK);
    sink_apply(&k);
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t"), 200);
}

static void test_out_of_memory(void **state)
{
    refuse_bad();
    /* The arena that is kept would hide the failures. */
    k.s.scratch.keep = 0;
    sink_append(&k, "s", 1, "{}", "k");
    sink_tags(&k, "s", 1, "x");
    sink_annotate(&k, "s", 1, "a", "b");
    sink_append(&k, "s", 2, "\"bad\"", "");
    sink_append(&k, "s", 3, "{}", "k");
    alloc_fail_each(oom_run, NULL);
    sink_is(&k, "SELECT group_concat(source_pos || tags || annotations) FROM t",
            "1[\"x\"]{\"a\":\"b\"}");
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t_parked"), 1);
}

/* Keys that are copied, in each place where they are. */
static void test_out_of_memory_with_texts(void **state)
{
    refuse_bad();
    k.s.scratch.keep = 0;
    with_text(sink_append(&k, "s", 0, "{}", "k"), "a");
    with_text(sink_tags(&k, "s", 0, "x"), "a")->mutation_origin = k.origin + 1;
    with_text(sink_append(&k, "s", 0, "\"bad\"", ""), "b");
    with_text(sink_tags(&k, "s", 0, "waits"), "b");
    with_text(sink_append(&k, "s", 0, "{}", "k"), "c");
    with_text(sink_trim(&k, "s", 0), "0");
    alloc_fail_each(oom_run, NULL);
    sink_is(&k, "SELECT group_concat(source_id || tags) FROM t", "a[\"x\"]");
    sink_is(&k, "SELECT group_concat(entry_id) FROM t_parked", "b,b");
    (void)state;
}

/* --- the sink's own log ------------------------------------------------------------------------
 */

static void reopen_with_log(struct tst_env *env)
{
    sink_close(&k);
    sink_open(&k, tst_path(env, "chain.db"), LEDGER_MUTATION_LOG_ON);
}

/* The log names the ids of entries that never were in the table. */
static void test_chain_ids_are_never_used_again(void **state)
{
    reopen_with_log(*state);
    sink_append(&k, "s", 1, "{}", "");
    sink_append(&k, "s", 2, "{}", "");
    sink_trim(&k, "s", 2);
    sink_apply(&k);
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t"), 0);
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t_mutations"), 3);
    sink_begin(&k);
    sink_append(&k, "s", 3, "{}", "");
    sink_append(&k, "s", 4, "{}", "");
    sink_trim(&k, "s", 4)->survivors = (const ledger_id[]){ { .number = 3 } };
    k.ops[2].survivor_count = 1;
    sink_apply(&k);
    sink_is(&k, "SELECT group_concat(id) FROM t", "3");
    sink_begin(&k);
    sink_append(&k, "s", 5, "{}", "");
    sink_apply(&k);
    sink_is(&k, "SELECT group_concat(id) FROM t", "3,5");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_cursor_has_a_time),
        TEST(test_replay_compares_values_not_text),
        TEST(test_hostile_triggers),
        TEST(test_triggers_that_replace),
        TEST(test_silent_triggers),
        TEST(test_too_big),
        TEST(test_one_position_of_an_older_version),
        TEST(test_text_keys_beside_go),
        TEST(test_text_key_plans),
        TEST(test_trim_plan),
        TEST(test_trim_after_late_entries),
        TEST(test_order_is_rolled_back),
        TEST(test_ids_follow_the_log),
        TEST(test_ids_are_never_used_again),
        TEST(test_full_leaves_nothing),
        TEST(test_out_of_memory),
        TEST(test_out_of_memory_with_texts),
        TEST(test_inside_a_transaction),
        TEST(test_chain_ids_are_never_used_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
