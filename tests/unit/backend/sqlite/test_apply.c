/* The sink's side of the SQLite backend: the fenced batch, in bulk and op by op. */
#include "sink.h"

#include <stdlib.h>

#include "../apply_cases.h"
#include "alloc_fail.h"
#include "workload.h"

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

/* --- cursor and fence --------------------------------------------------------------------------
 */

static void test_cursor_moves_with_data(void **state)
{
    sink_append(&k, "s", 1, "{}", "");
    sink_apply(&k);
    sink_is(&k, "SELECT state || ' ' || cursor FROM t_cursors WHERE name = 'default'",
            "state:1 0000000000000000001");
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t_cursors WHERE moved_at > '2020'"),
                     1);
    assert_int_equal(k.s.applied_count, 1);
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
            "SELECT group_concat(log_position || ' ' || entry || ' ' || type || ': ' || reason, "
            "'; ') FROM t_parked",
            "2 2 append: no bad ones; 3 2 set_tags: behind parked event 2");
    /* And in the next batch. */
    sink_begin(&k);
    sink_annotate(&k, "s", 2, "a", "b");
    sink_annotate(&k, "s", 3, "a", "b");
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_PARKED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_APPLIED);
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
    sink_is(&k, "SELECT group_concat(reason, '; ') FROM t_parked",
            "unknown mutation type \"later\"; its entry may be in parked event 1");
    sink_is(&k, "SELECT event FROM t_parked WHERE entry = 0", "{\"type\":\"later\"");
}

/* What failed before and works when it comes again leaves the list. */
static void test_replay_clears_parked(void **state)
{
    ledger_error err;

    refuse_bad();
    sink_append(&k, "s", 1, "\"bad\"", "");
    sink_apply(&k);
    sink_apply(&k); /* the same again: one row, two attempts */
    sink_is(&k, "SELECT group_concat(attempts) FROM t_parked", "2");
    tst_exec(k.db, "DROP TRIGGER refuse");
    tst_ok(SINK->state->cursor_get(&k.s, "default", false, &k.cursor, &err), &err);
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_APPLIED);
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t_parked"), 0);
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
    sink_is(&k, "SELECT tags || tags_pos FROM t WHERE source_pos = 1", "[\"new\"]50");
    sink_is(&k, "SELECT annotations || annotations_pos FROM t WHERE source_pos = 2",
            "{\"a\":\"new\",\"b\":\"more\"}61");
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
    tst_exec(k.db, "UPDATE t SET mutation_pos = 50");
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
    sink_is(&k, "SELECT tags || tags_pos || annotations || annotations_pos || mutation_pos FROM t",
            "[\"new\"]52{\"a\":\"new\"}5150");
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
    sink_is(&k, "SELECT created_at || ' ' || updated_at || tags FROM t",
            "2025-11-24T16:00:00.123 2025-11-24T16:00:01.456[\"x\"]");
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
    sink_is(&k, "SELECT tags || annotations || tags_pos FROM t",
            "[\"theirs\"]{\"a\":\"theirs\"}50");
}

/* A mesh: the entry was written here, the change comes from elsewhere. */
static void test_own_entry(void **state)
{
    const ledger_append_input input = { .payload = { "{}", 2 }, .order_key = "o" };
    ledger_error err = { 0 };
    ledger_ids ids = { 0 };
    struct ldg_op *op;
    char time[LDG_TIME_TEXT_MAX];

    for (int i = 0; i < 3; i++) {
        tst_ok(SINK->store->append(&k.s, "s", &input, 1, &ids, &err), &err);
        ledger_ids_destroy(&ids);
    }
    sink_append(&k, "s", 1, "{}", ""); /* of the source: the same number, another entry */
    sink_tags(&k, "s", 1, "bridged");
    sink_tags(&k, "s", 2, "own")->origin = 0;
    sink_annotate(&k, "s", 2, "a", "own")->origin = 0;
    sink_tags(&k, "s", 77, "gone")->origin = 0;
    op = sink_append(&k, "s", 3, "{}", ""); /* as it was written */
    op->origin = 0;
    ldg_time_format_ms(op->time_us, time);
    tst_exec(k.db, "UPDATE t SET created_at = '%s' WHERE id = 3", time);
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
    sink_is(&k, "SELECT group_concat(id || tags || coalesce(annotations, ''), ' ') FROM t",
            "2[\"own\"]{\"a\":\"own\"} 3[] 4[\"bridged\"]");
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
    sink_is(&k, "SELECT group_concat(source_pos) FROM t", "60,80,100,110,120");
}

static void test_trim_keeps(void **state)
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
    sink_is(&k, "SELECT group_concat(source_pos) FROM t", "2,4,5");
    sink_is(&k, "SELECT group_concat(entry) FROM t_parked", "8");
    sink_begin(&k);
    sink_trim(&k, "s", 9);
    sink_apply(&k);
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t_parked"), 0);
}

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
    tst_exec(k.db, "INSERT INTO t(stream, payload, source_id) VALUES ('s', '6', 'abc')");
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

/* While a stream's ids rise with those of its origin a trim ends at its last entry; what comes late
 * ends that, in any way it can come. */
static void check_ordered(bool ordered)
{
    assert_int_equal(tst_query_int(k.db, "SELECT ordered FROM t_origins WHERE id = %d", k.origin),
                     ordered);
}

static void test_trim_after_late_entries(void **state)
{
    static const char *const keys[] = { "", "same" }; /* optimistic; informed */
    int64_t base = 0;

    for (size_t i = 0; i < 2; i++, base += 100) {
        tst_exec(k.db, "UPDATE t_origins SET ordered = 1; DELETE FROM t");
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
        sink_apply(&k);
        check_ordered(false);
        sink_begin(&k);
        sink_trim(&k, "s", base + 3);
        sink_apply(&k);
        sink_is(&k, "SELECT group_concat(source_pos % 100) FROM t WHERE stream = 's'", "5");
    }
    /* Late within one batch. */
    tst_exec(k.db, "UPDATE t_origins SET ordered = 1; DELETE FROM t");
    sink_begin(&k);
    sink_append(&k, "s", 5, "{}", "");
    sink_append(&k, "s", 4, "{}", "");
    sink_append(&k, "s", 6, "{}", "");
    sink_apply(&k);
    check_ordered(false);
    sink_begin(&k);
    sink_trim(&k, "s", 4);
    sink_apply(&k);
    sink_is(&k, "SELECT group_concat(source_pos) FROM t", "5,6");
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
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t"), 3000);
    assert_int_equal(tst_query_int(k.db,
                                   "SELECT count(*) FROM t AS a JOIN t AS b ON a.stream = b.stream "
                                   "AND a.id < b.id AND a.source_pos > b.source_pos"),
                     0);
    /* What the store writes itself goes on behind. */
    const ledger_append_input input = { .payload = { "{}", 2 } };
    ledger_ids ids = { 0 };
    ledger_error err = { 0 };
    tst_ok(SINK->store->append(&k.s, "own", &input, 1, &ids, &err), &err);
    assert_int_equal(ids.items[0].number, 3001);
    ledger_ids_destroy(&ids);
}

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

/* --- random against a model --------------------------------------------------------------------
 */

#define MODEL_STREAMS 5
#define MODEL_MAX 2048

struct model_entry {
    int64_t pos;
    unsigned stream, key; /* key 0: none */
    char tag[24], note[24];
    int64_t mutation;
    bool here;
};
static struct model_entry model[MODEL_MAX];
static size_t model_count;
static bool model_overlaps;

static void stream_name(unsigned stream, char text[24])
{
    snprintf(text, 24, "stream-%u", stream);
}

static bool model_has_key(unsigned stream, unsigned key)
{
    bool has = false;

    for (size_t i = 0; i < model_count; i++)
        has = has || (model[i].here && model[i].stream == stream && model[i].key == key);
    return has && key != 0;
}

/* One random op, also done to the model; its expected outcome. */
static uint8_t model_step(uint64_t *random, bool duplicates)
{
    unsigned dice = (unsigned)tst_random_below(random, 20);
    unsigned stream = (unsigned)tst_random_below(random, MODEL_STREAMS);
    char name[24], text[24], key[24] = "";
    uint8_t outcome;

    stream_name(stream, name);
    snprintf(text, sizeof(text), "v%u", (unsigned)tst_random_below(random, 1000));
    if (dice < 10 || model_count == 0) {
        unsigned key_number = duplicates ? (unsigned)tst_random_below(random, 12) : 0;
        struct model_entry *e = &model[model_count];

        if (!duplicates)
            key_number = (unsigned)model_count + 1;
        /* Pairs may come the wrong way round, as from a source whose writers overlap. */
        int64_t pos = (int64_t)model_count + 1;
        if (model_overlaps)
            pos = (pos - 1) / 2 * 4 + (pos % 2 ? (pos % 8 == 1 ? 3 : 1) : 2);
        *e = (struct model_entry){ .pos = pos, .stream = stream, .key = key_number };
        e->here = !model_has_key(stream, key_number);
        if (key_number != 0)
            snprintf(key, sizeof(key), "k%u", key_number);
        model_count++;
        outcome = e->here ? LDG_OUTCOME_APPLIED : LDG_OUTCOME_DEDUPLICATED;
        sink_append(&k, name, e->pos, "{\"n\":1}", key);
    } else if (dice < 18) {
        /* Mostly what was just written: it may be pending. */
        size_t back = 1 + tst_random_below(random, model_count < 8 ? model_count : 8);
        struct model_entry *e =
            dice == 10 ? &model[tst_random_below(random, model_count)] : &model[model_count - back];
        struct ldg_op *op;

        stream_name(e->stream, name);
        if (dice < 14) {
            op = sink_tags(&k, name, e->pos, text);
            if (e->here)
                memcpy(e->tag, text, sizeof(text));
        } else {
            bool removes = dice == 17;
            op = sink_annotate(&k, name, e->pos, "note", removes ? NULL : text);
            if (e->here)
                snprintf(e->note, sizeof(e->note), "%s", removes ? "-" : text);
        }
        if (e->here)
            e->mutation = op->position;
        outcome = e->here ? LDG_OUTCOME_APPLIED : LDG_OUTCOME_MISSING;
    } else {
        int64_t before = (int64_t)tst_random_below(random, model_count * 2 + 4);
        outcome = LDG_OUTCOME_REPLAYED;
        for (size_t i = 0; i < model_count; i++) {
            if (model[i].here && model[i].stream == stream && model[i].pos <= before) {
                model[i].here = false;
                outcome = LDG_OUTCOME_APPLIED;
            }
        }
        sink_trim(&k, name, before);
    }
    return outcome;
}

static void model_compare(uint64_t seed)
{
    sqlite3_stmt *stmt = NULL;
    size_t here = 0;

    for (size_t i = 0; i < model_count; i++) {
        const struct model_entry *e = &model[i];
        char name[24], tags[40], note[60];

        if (!e->here)
            continue;
        here++;
        stream_name(e->stream, name);
        snprintf(tags, sizeof(tags), e->tag[0] ? "[\"%s\"]" : "[]", e->tag);
        snprintf(note, sizeof(note),
                 e->note[0] == '\0'  ? "none"
                 : e->note[0] == '-' ? "{}"
                                     : "{\"note\":\"%s\"}",
                 e->note);
        if (tst_query_int(k.db,
                          "SELECT count(*) FROM t WHERE source_pos = %lld AND stream = '%s' AND "
                          "tags = '%s' AND coalesce(annotations, 'none') = '%s' AND "
                          "max(coalesce(tags_pos, 0), coalesce(annotations_pos, 0)) = %lld",
                          (long long)e->pos, name, tags, note, (long long)e->mutation) != 1)
            tst_fail("seed %llu: entry %lld differs", (unsigned long long)seed, (long long)e->pos);
    }
    sqlite3_finalize(stmt);
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t"), here);
    if (!model_overlaps)
        assert_int_equal(
            tst_query_int(k.db, "SELECT count(*) FROM t AS a JOIN t AS b ON a.stream = b.stream "
                                "AND a.id < b.id AND a.source_pos > b.source_pos"),
            0);
}

/* Without duplicates every batch goes in bulk; with them most go op by op: both as the model. */
static void test_random_against_model(void **state)
{
    struct tst_env *env = *state;

    for (uint64_t seed = 1; seed <= tst_scale(20); seed++) {
        uint64_t random = seed;
        uint8_t expected[SINK_OPS_MAX];
        char file[40];

        snprintf(file, sizeof(file), "random-%llu.db", (unsigned long long)seed);
        sink_close(&k);
        sink_open(&k, tst_path(env, file),
                  seed % 3 == 0 ? LEDGER_MUTATION_LOG_ON : LEDGER_MUTATION_LOG_OFF);
        tst_exec(k.db, "PRAGMA synchronous = OFF");
        model_count = 0;
        model_overlaps = seed % 5 == 4;
        for (int batch = 0; batch < 12; batch++) {
            size_t size = 1 + tst_random_below(&random, 120);

            sink_begin(&k);
            for (size_t i = 0; i < size; i++)
                expected[i] = model_step(&random, seed % 2 == 0);
            sink_apply(&k);
            for (size_t i = 0; i < size; i++) {
                if (k.outcomes[i] != expected[i])
                    tst_fail("seed %llu batch %d op %zu: outcome %d, not %d",
                             (unsigned long long)seed, batch, i, k.outcomes[i], expected[i]);
            }
        }
        model_compare(seed);
    }
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
    sink_is(&k, "SELECT group_concat(source_pos) FROM t", "1");
}

/* --- the sink's own log ------------------------------------------------------------------------
 */

static void reopen_with_log(struct tst_env *env)
{
    sink_close(&k);
    sink_open(&k, tst_path(env, "chain.db"), LEDGER_MUTATION_LOG_ON);
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
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t_mutations"), 4);
    sink_is(&k, "SELECT payload FROM t_mutations WHERE id = 1",
            "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"1\",\"payload\":{\"a\": "
            "1},\"order_key\":\"o\",\"dedup_key\":\"k1\",\"schema_version\":1,"
            "\"source_id\":\"41\"},{\"id\":\"2\",\"payload\":2,"
            "\"order_key\":\"o\",\"dedup_key\":\"k2\",\"schema_version\":1,\"created_at\":"
            "\"2025-11-24T16:00:00.002Z\",\"source_id\":\"42\"}],\"created_at\":"
            "\"2025-11-24T16:00:00.001Z\",\"origin\":\"" SOURCE_UUID ":1\",\"origin_pos\":1}");
    sink_is(&k, "SELECT payload FROM t_mutations WHERE id = 2",
            "{\"type\":\"set_tags\",\"stream\":\"s\",\"entry_id\":\"1\",\"tags\":[\"x\"],"
            "\"created_at\":\"2025-11-24T16:00:00.003Z\",\"origin\":\"" SOURCE_UUID
            ":1\",\"origin_pos\":3,\"source_id\":\"41\"}");
    sink_is(&k, "SELECT payload FROM t_mutations WHERE id = 3",
            "{\"type\":\"set_annotations\",\"stream\":\"s\",\"entry_id\":\"2\",\"annotations\":"
            "{\"a\":null},\"created_at\":\"2025-11-24T16:00:00.004Z\",\"origin\":\"" OTHER_UUID
            ":3\",\"origin_pos\":7,\"entry_origin\":\"" SOURCE_UUID ":1\",\"source_id\":\"42\"}");
    sink_is(&k, "SELECT payload FROM t_mutations WHERE id = 4",
            "{\"type\":\"trim\",\"stream\":\"s\",\"before_id\":\"1\","
            "\"created_at\":\"2025-11-24T16:00:00.005Z\",\"origin\":\"" SOURCE_UUID
            ":1\",\"origin_pos\":5,\"source_id\":\"41\"}");
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
    sink_is(&k,
            "SELECT group_concat(json_extract(CAST(payload AS TEXT), '$.origin_pos')) "
            "FROM t_mutations",
            "1,4,5");
    assert_int_equal(tst_query_int(k.db, "SELECT count(*) FROM t_mutations"), 3);
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
        TEST(test_hostile_triggers),
        TEST(test_triggers_that_replace),
        TEST(test_silent_triggers),
        TEST(test_too_big),
        TEST(test_unplanned_is_parked),
        TEST(test_replay_clears_parked),
        TEST(test_w9_older_change_loses),
        TEST(test_change_times_and_streams),
        TEST(test_one_position_of_an_older_version),
        TEST(test_change_of_another_store),
        TEST(test_own_entry),
        TEST(test_w8_trim_by_source_position),
        TEST(test_trim_keeps),
        TEST(test_text_keys_beside_go),
        TEST(test_text_key_plans),
        TEST(test_trim_plan),
        TEST(test_trim_after_late_entries),
        TEST(test_order_is_rolled_back),
        TEST(test_ids_follow_the_log),
        TEST(test_ids_are_never_used_again),
        TEST(test_random_against_model),
        TEST(test_full_leaves_nothing),
        TEST(test_out_of_memory),
        TEST(test_out_of_memory_with_texts),
        TEST(test_inside_a_transaction),
        TEST(test_chain_events),
        TEST(test_chain_ids_are_never_used_again),
        TEST(test_chain_writes_what_happened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
