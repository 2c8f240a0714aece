/* Events that cannot be applied: w7 (unknown, undecodable) and w19 (refused by the database).
 * With PARK they are kept with their reason and nothing else waits for them; with STOP the bridge
 * says why and stays in front of them. Never a crash, never a silent loss. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "oracle.h"
#include "workload.h"

struct parked_seen {
    size_t count;
    int64_t last_id, first_id;
    uint64_t attempts; /* of the last one */
    char reasons[4096];
    char types[1024];
    char entries[1024];
};

static bool see_parked(void *ctx, const ledger_parked *p)
{
    struct parked_seen *seen = ctx;
    size_t used = strlen(seen->reasons);
    assert_true(p->id > seen->last_id);
    assert_true(p->position > 0);
    assert_true(p->attempts >= 1);
    assert_string_not_equal(p->source_uuid, "");
    assert_non_null(p->type);
    assert_non_null(p->stream);
    assert_non_null(p->entry_id);
    assert_string_not_equal(p->reason, "");
    assert_true(p->parked_at_us != LEDGER_NO_TIME && p->parked_at_us > 0);
    if (seen->count == 0)
        seen->first_id = p->id;
    seen->count++;
    seen->last_id = p->id;
    seen->attempts = p->attempts;
    snprintf(seen->reasons + used, sizeof seen->reasons - used, "%s|", p->reason);
    used = strlen(seen->types);
    snprintf(seen->types + used, sizeof seen->types - used, "%s|", p->type);
    used = strlen(seen->entries);
    snprintf(seen->entries + used, sizeof seen->entries - used, "%s|", p->entry_id);
    return true;
}

static struct parked_seen look_at_parked(ledger_store *sink)
{
    struct parked_seen seen = { 0 };
    ledger_error err = { 0 };
    tst_ok(ledger_bridge_parked_list(sink, see_parked, &seen, &err), &err);
    return seen;
}

/* What a broken, older or later program may leave in the log. */
static const struct {
    const char *what;
    const char *event;
    const char *type;   /* as the list shows it */
    const char *reason; /* part of it */
} bad_events[] = {
    { "unknown type", "{\"type\":\"compact\",\"stream\":\"a\"}", "compact", "compact" },
    { "empty type", "{\"type\":\"\",\"stream\":\"a\"}", "", "" },
    { "no type", "{\"stream\":\"a\"}", "", "type" },
    { "type is a number", "{\"type\":7,\"stream\":\"a\"}", "", "type" },
    { "not JSON", "this is not JSON", "", "" },
    { "empty", "", "", "" },
    { "null", "null", "", "" },
    { "an array", "[]", "", "" },
    { "cut off", "{\"type\":\"append\",\"stream\":\"a\",\"entr", "", "" },
    { "no stream", "{\"type\":\"trim\",\"before_id\":\"1\"}", "trim", "stream" },
    { "no entries", "{\"type\":\"append\",\"stream\":\"a\"}", "append", "entries" },
    { "empty entries", "{\"type\":\"append\",\"stream\":\"a\",\"entries\":[]}", "append",
      "entries" },
    { "entry without id", "{\"type\":\"append\",\"stream\":\"a\",\"entries\":[{\"payload\":1}]}",
      "append", "id" },
    { "entry without payload",
      "{\"type\":\"append\",\"stream\":\"a\",\"entries\":[{\"id\":\"1\"}]}", "append", "payload" },
    { "entry id is no number",
      "{\"type\":\"append\",\"stream\":\"a\",\"entries\":[{\"id\":\"x\",\"payload\":1}]}", "append",
      "id" },
    { "entry id is negative",
      "{\"type\":\"append\",\"stream\":\"a\",\"entries\":[{\"id\":\"-5\",\"payload\":1}]}",
      "append", "id" },
    { "no entry_id", "{\"type\":\"set_tags\",\"stream\":\"a\",\"tags\":[\"x\"]}", "set_tags",
      "entry_id" },
    { "tags are an object",
      "{\"type\":\"set_tags\",\"stream\":\"a\",\"entry_id\":\"1\",\"tags\":{}}", "set_tags",
      "tags" },
    { "a tag is a number",
      "{\"type\":\"set_tags\",\"stream\":\"a\",\"entry_id\":\"1\",\"tags\":[1]}", "set_tags",
      "tags" },
    { "annotation is a list",
      "{\"type\":\"set_annotations\",\"stream\":\"a\",\"entry_id\":\"1\",\"annotations\":{\"k\":[]}"
      "}",
      "set_annotations", "annotations" },
    { "no before_id", "{\"type\":\"trim\",\"stream\":\"a\"}", "trim", "before_id" },
    { "bad UTF-8 in a string", "{\"type\":\"set_tags\",\"stream\":\"a\xFF\",\"entry_id\":\"1\"}",
      "", "UTF-8" },
    { "bad UTF-8 in a payload",
      "{\"type\":\"append\",\"stream\":\"a\",\"entries\":[{\"id\":\"900001\",\"payload\":\"\xC3(\"}"
      "]}",
      "append", "UTF-8" },
    { "NUL in a stream", "{\"type\":\"trim\",\"stream\":\"a\\u0000b\",\"before_id\":\"1\"}", "",
      "NUL" },
    { "two values", "{\"type\":\"trim\",\"stream\":\"a\",\"before_id\":\"1\"}{}", "", "" },
};
#define BAD_COUNT (sizeof bad_events / sizeof bad_events[0])

static void w7_bad_events_are_parked(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_stats stats;
        ledger_bridge_options o;
        ledger_error err = { 0 };
        int64_t id = 0;
        for (size_t i = 0; i < BAD_COUNT; i++) {
            id = tst_append(source, "a", "{\"before\":1}", NULL, NULL);
            tst_append(source, "b", "{\"before\":1}", NULL, NULL);
            tst_log_text(source, bad_events[i].event);
            tst_tag(source, "a", id, "after");
        }
        tst_bridge_options(&o);
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        uint64_t read = tst_drain(bridge);
        assert_int_equal(read, BAD_COUNT * 4);
        ledger_bridge_get_stats(bridge, &stats);
        tst_check_counters(bridge);
        assert_int_equal(stats.park_count, BAD_COUNT);
        assert_int_equal(stats.apply_count, BAD_COUNT * 3);
        ledger_bridge_destroy(&bridge);
        tst_assert_equal(source, sink, 0);

        struct parked_seen seen = look_at_parked(sink);
        assert_int_equal(seen.count, BAD_COUNT);
        const char *reason = seen.reasons, *type = seen.types;
        for (size_t i = 0; i < BAD_COUNT; i++) {
            char one[512];
            const char *end = strchr(reason, '|');
            snprintf(one, sizeof one, "%.*s", (int)(end - reason), reason);
            if (strstr(one, bad_events[i].reason) == NULL)
                tst_fail("%s: the reason does not name '%s': %s", bad_events[i].what,
                         bad_events[i].reason, one);
            reason = end + 1;
            end = strchr(type, '|');
            if (bad_events[i].type[0] != '\0' &&
                ((size_t)(end - type) != strlen(bad_events[i].type) ||
                 strncmp(type, bad_events[i].type, (size_t)(end - type)) != 0))
                tst_fail("%s: parked as type '%.*s'", bad_events[i].what, (int)(end - type), type);
            type = end + 1;
        }

        /* The source's own status shows them, a retry does not lose them, a drop removes one. */
        ledger_bridge_status status;
        tst_ok(ledger_bridge_status_get(source, sink, "default", &status, &err), &err);
        assert_int_equal(status.parked_count, BAD_COUNT);
        uint64_t applied = 99, left = 99;
        tst_ok(ledger_bridge_parked_retry(source, sink, 0, &applied, &left, &err), &err);
        assert_int_equal(applied, 0);
        assert_int_equal(left, BAD_COUNT);
        seen = look_at_parked(sink);
        assert_int_equal(seen.count, BAD_COUNT);
        assert_int_equal(seen.attempts, 2);
        uint64_t dropped = 99;
        tst_ok(ledger_bridge_parked_drop(sink, seen.first_id, &dropped, &err), &err);
        assert_int_equal(dropped, 1);
        tst_fails(ledger_bridge_parked_drop(sink, seen.first_id, &dropped, &err),
                  LEDGER_ERR_NOT_FOUND, &err);
        assert_int_equal(look_at_parked(sink).count, BAD_COUNT - 1);

        /* Read again from the start, nothing is parked twice (but what was dropped comes back). */
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(look_at_parked(sink).count, BAD_COUNT);
        tst_ok(ledger_bridge_parked_drop(sink, 0, &dropped, &err), &err);
        assert_int_equal(dropped, BAD_COUNT);
        assert_int_equal(look_at_parked(sink).count, 0);
        tst_assert_equal(source, sink, 0);
    }
}

static void w7_bad_event_stops_the_bridge(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        for (size_t i = 0; i < BAD_COUNT; i++) {
            const int64_t good = (int64_t)i * 4 + 2; /* the last position before the event */
            char where[32];
            ledger_bridge_options o;
            ledger_bridge_status status;
            ledger_bridge_stats stats;
            ledger_error err = { 0 };
            uint64_t read = 0;
            ledger_rc rc;
            tst_append(source, "a", "{}", NULL, NULL);
            tst_append(source, "b", "{}", NULL, NULL);
            tst_log_text(source, bad_events[i].event);
            tst_append(source, "b", "{}", NULL, NULL);
            tst_bridge_options(&o);
            o.on_bad_event = LEDGER_BAD_EVENT_STOP;
            ledger_bridge *bridge = tst_bridge(source, sink, &o);
            for (int k = 0; k < 4; k++) { /* it may first carry what stands before the event */
                rc = ledger_bridge_poll(bridge, &read, &err);
                if (rc != LEDGER_OK)
                    break;
            }
            if (rc != LEDGER_ERR_DATA && rc != LEDGER_ERR_REJECTED)
                tst_fail("%s: %s", bad_events[i].what, ledger_rc_name(rc));
            snprintf(where, sizeof where, "%" PRId64, good + 1);
            if (strstr(err.message, where) == NULL)
                tst_fail("%s: the message does not name position %s: %s", bad_events[i].what, where,
                         err.message);
            assert_true((err.flags & LEDGER_ERROR_RETRY) == 0);
            assert_int_not_equal(ledger_bridge_poll(bridge, &read, &err), LEDGER_OK);
            ledger_bridge_get_stats(bridge, &stats);
            tst_check_counters(bridge);
            assert_true(stats.error_count >= 2);
            assert_int_equal(stats.park_count, 0);
            assert_true(stats.backlog_count >= 2);
            ledger_bridge_destroy(&bridge);
            tst_ok(ledger_bridge_status_get(source, sink, "default", &status, &err), &err);
            assert_int_equal(strtoll(status.position, NULL, 10), good);
            assert_int_equal(tst_count(sink, NULL), 3 * i + 2);
            assert_int_equal(look_at_parked(sink).count, i);
            /* The user changes his mind: it goes on. */
            assert_int_equal(tst_bridge_once(source, sink, NULL), 2);
            tst_assert_equal(source, sink, 0);
            assert_int_equal(look_at_parked(sink).count, i + 1);
        }
    }
}

/* A later version knows the type: here the parked event itself is made readable (SQLite). */
static void w7_parked_event_is_applied_later(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_SOURCE(env, from)
    {
        ledger_store *source = tst_open(env, (enum tst_kind)from, "source");
        ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
        ledger_error err = { 0 };
        uint64_t applied = 0, left = 0;
        tst_append(source, "a", "{}", NULL, NULL);
        tst_log_text(source,
                     "{\"type\":\"label\",\"stream\":\"a\",\"entry_id\":\"1\",\"tags\":[\"x\"]}");
        tst_log_text(source, "{\"type\":\"other\",\"stream\":\"a\"}");
        assert_int_equal(tst_bridge_once(source, sink, NULL), 3);
        assert_int_equal(look_at_parked(sink).count, 2);
        tst_exec_on(sink, "UPDATE ledger_entries_parked SET event ="
                          " CAST(replace(CAST(event AS TEXT), 'label', 'set_tags') AS BLOB)");
        tst_ok(ledger_bridge_parked_retry(source, sink, 0, &applied, &left, &err), &err);
        assert_int_equal(applied, 1);
        assert_int_equal(left, 1);
        struct tst_history h;
        tst_history_load(sink, &h);
        assert_int_equal(h.count, 1);
        assert_string_equal(h.entries[0].tags, "[\"x\"]");
        tst_history_free(&h);
    }
}

/* --- w19: what the database refuses ------------------------------------------------------------
 */

static void w19_refused_events_are_parked_with_what_follows(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_stats stats;
        ledger_error err = { 0 };
        uint64_t applied = 0, left = 0;
        tst_refuse(sink, "bad");
        tst_append(source, "good", "{\"n\":1}", NULL, NULL);
        int64_t id = tst_append(source, "bad", "{\"n\":2}", NULL, "old");
        int64_t other = tst_append(source, "bad", "{\"n\":3}", NULL, NULL);
        tst_tag(source, "bad", id, "one");
        tst_annotate(source, "bad", id, "k", "1");
        tst_tag(source, "bad", id, "two");
        tst_annotate(source, "bad", id, "k", "2");
        tst_append(source, "good", "{\"n\":4}", NULL, NULL);
        ledger_bridge *bridge = tst_bridge(source, sink, NULL);
        assert_int_equal(tst_drain(bridge), 8);
        ledger_bridge_get_stats(bridge, &stats);
        tst_check_counters(bridge);
        assert_int_equal(stats.apply_count, 2);
        assert_int_equal(stats.park_count, 6);
        ledger_bridge_destroy(&bridge);
        assert_int_equal(tst_count(sink, "good"), 2);
        assert_int_equal(tst_count(sink, "bad"), 0);
        struct parked_seen seen = look_at_parked(sink);
        assert_int_equal(seen.count, 6);
        assert_non_null(strstr(seen.reasons, "behind"));

        /* Still refused: each attempt counts, nothing is lost. */
        tst_ok(ledger_bridge_parked_retry(source, sink, 0, &applied, &left, &err), &err);
        assert_int_equal(applied, 0);
        assert_int_equal(left, 6);
        /* verify says what stands out. */
        ledger_verify_result result;
        ledger_verify_options v;
        ledger_verify_options_defaults(&v);
        tst_ok(ledger_bridge_verify(source, sink, &v, &result, &err), &err);
        assert_int_equal(result.parked_count, 2);
        assert_int_equal(result.difference_count, 2);

        /* The cause is gone: everything comes, in order. */
        tst_refuse(sink, NULL);
        tst_append(source, "bad", "{\"n\":5}", NULL, NULL); /* not behind them: another entry */
        assert_int_equal(tst_bridge_once(source, sink, NULL), 1);
        assert_int_equal(tst_count(sink, "bad"), 1);
        tst_tag(source, "bad", other, "late"); /* behind its own append */
        assert_int_equal(tst_bridge_once(source, sink, NULL), 1);
        assert_int_equal(look_at_parked(sink).count, 7);
        tst_ok(ledger_bridge_parked_retry(source, sink, 0, &applied, &left, &err), &err);
        assert_int_equal(applied, 7);
        assert_int_equal(left, 0);
        tst_assert_equal(source, sink, TST_CMP_ANY_ORDER);
        tst_ok(ledger_bridge_verify(source, sink, &v, &result, &err), &err);
        assert_int_equal(result.difference_count, 0);
        assert_int_equal(result.parked_count, 0);
    }
}

static void w19_refused_event_stops_the_bridge(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_options o;
        ledger_bridge_status status;
        ledger_error err = { 0 };
        uint64_t read = 0;
        ledger_rc rc = LEDGER_OK;
        tst_refuse(sink, "bad");
        for (int i = 0; i < 10; i++)
            tst_append(source, i == 6 ? "bad" : "good", "{}", NULL, NULL);
        tst_bridge_options(&o);
        o.on_bad_event = LEDGER_BAD_EVENT_STOP;
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        for (int k = 0; k < 4 && rc == LEDGER_OK; k++)
            rc = ledger_bridge_poll(bridge, &read, &err);
        tst_fails(rc, LEDGER_ERR_REJECTED, &err);
        tst_check_counters(bridge);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        tst_fails(ledger_bridge_wait(bridge, false, TST_PATIENCE_MS, &err), LEDGER_ERR_REJECTED,
                  &err);
        ledger_bridge_destroy(&bridge);
        tst_ok(ledger_bridge_status_get(source, sink, "default", &status, &err), &err);
        int64_t position = strtoll(status.position, NULL, 10);
        assert_true(position <= 6); /* never past it */
        assert_int_equal(tst_count(sink, NULL), position);
        assert_int_equal(look_at_parked(sink).count, 0);
        tst_refuse(sink, NULL);
        (void)tst_bridge_once(source, sink, &o);
        tst_assert_equal(source, sink, 0);
    }
}

static void w19_parked_entry_is_trimmed(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        tst_refuse(sink, "bad");
        int64_t id = tst_append(source, "bad", "{\"n\":1}", NULL, NULL);
        int64_t keep = tst_append(source, "bad", "{\"n\":2}", NULL, NULL);
        tst_tag(source, "bad", id, "x");
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(look_at_parked(sink).count, 3);
        assert_int_equal(tst_trim(source, "bad", id), 1);
        (void)tst_bridge_once(source, sink, NULL);
        struct parked_seen seen = look_at_parked(sink);
        assert_int_equal(seen.count, 1); /* what was parked of the trimmed entry is gone */
        char text[32];
        snprintf(text, sizeof text, "%" PRId64 "|", keep);
        assert_string_equal(seen.entries, text);
        tst_refuse(sink, NULL);
        uint64_t applied = 0, left = 0;
        ledger_error err = { 0 };
        tst_ok(ledger_bridge_parked_retry(source, sink, seen.first_id, &applied, &left, &err),
               &err);
        assert_int_equal(applied, 1);
        tst_assert_equal(source, sink, 0);
    }
}

/* --- faults of the sink as a whole -------------------------------------------------------------
 */

/* Appends that are refused, beside a change that is not and an event that is bad indeed. */
static void a_sink_that_refuses_everything_parks_nothing(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_options o;
        ledger_error err = { 0 };
        uint64_t read = 0, applied = 0, left = 0;
        int64_t old = tst_append(source, "old", "{}", NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        tst_refuse(sink, "s");
        for (int i = 0; i < 7; i++)
            tst_append(source, "s", "{}", NULL, NULL);
        tst_tag(source, "old", old, "x");
        tst_log_text(source, "{\"type\":\"later\",\"stream\":\"t\"}");
        tst_bridge_options(&o);
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        for (int i = 0; i < 2; i++) {
            tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_REFUSED_ALL, &err);
            assert_int_equal(look_at_parked(sink).count, 0);
        }
        tst_check_counters(bridge);
        ledger_bridge_destroy(&bridge);
        /* On purpose they are parked; and once the sink is well, everything arrives. */
        o.refusal_limit = 0;
        (void)tst_bridge_once(source, sink, &o);
        assert_int_equal(look_at_parked(sink).count, 8);
        tst_refuse(sink, NULL);
        tst_ok(ledger_bridge_parked_retry(source, sink, 0, &applied, &left, &err), &err);
        assert_int_equal(applied, 7);
        tst_assert_equal(source, sink, TST_CMP_ANY_ORDER);
    }
}

static const struct {
    bool postgres;
    const char *what, *mend;
    const char *words; /* in the message */
} sink_faults[] = {
    { false, "UPDATE sqlite_sequence SET seq = 9223372036854775807 WHERE name = 'ledger_entries'",
      "UPDATE sqlite_sequence SET seq = (SELECT coalesce(max(id), 0) FROM \"ledger_entries\") "
      "WHERE name = 'ledger_entries' COLLATE NOCASE",
      "UPDATE sqlite_sequence SET seq = (SELECT coalesce(max(id), 0) FROM \"ledger_entries\") "
      "WHERE name = 'ledger_entries' COLLATE NOCASE" },
    { false, "ALTER TABLE ledger_entries RENAME COLUMN metadata TO meta",
      "ALTER TABLE ledger_entries RENAME COLUMN meta TO metadata", "metadata" },
    { false,
      "CREATE TRIGGER f BEFORE INSERT ON ledger_entries BEGIN INSERT INTO gone VALUES (1); END",
      "DROP TRIGGER f", "gone" },
    { false,
      "CREATE TRIGGER f BEFORE INSERT ON ledger_entries_parked "
      "BEGIN SELECT raise(ABORT, 'none'); END",
      "DROP TRIGGER f", "none" },
    { true, "SELECT setval('ledger_entries_id_seq', 1, false)",
      "SELECT setval('ledger_entries_id_seq', 100)", "setval('" },
    { true, "ALTER SEQUENCE ledger_entries_id_seq MAXVALUE 2",
      "ALTER SEQUENCE ledger_entries_id_seq NO MAXVALUE", "ALTER SEQUENCE" },
    { true,
      "ALTER TABLE ledger_entries ADD extra text NOT NULL DEFAULT 'x'; "
      "ALTER TABLE ledger_entries ALTER extra DROP DEFAULT",
      "ALTER TABLE ledger_entries DROP extra", "extra" },
    { true, "ALTER TABLE ledger_entries ALTER order_key TYPE varchar(2)",
      "ALTER TABLE \"ledger_entries\" ALTER COLUMN \"order_key\" TYPE text",
      "ALTER TABLE \"ledger_entries\" ALTER COLUMN \"order_key\" TYPE text" },
    { true, "ALTER TABLE ledger_entries_parked ADD CONSTRAINT f CHECK (false) NOT VALID",
      "ALTER TABLE ledger_entries_parked DROP CONSTRAINT f", "ledger's own" },
};

/* They come up under a bridge at work, in bulk as well as beside an event that is bad indeed. */
static void a_fault_of_the_sink_is_no_event_s(void **state)
{
    struct tst_env *env = *state;
    for (size_t i = 0; i < 2 * (sizeof sink_faults / sizeof sink_faults[0]);
         i++, tst_env_reset(env)) {
        const char *what = sink_faults[i / 2].what;
        enum tst_kind kind = sink_faults[i / 2].postgres ? TST_PLAIN_POSTGRES : TST_PLAIN;
        if (!tst_kind_here(kind))
            continue;
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        ledger_store *sink = tst_open(env, kind, "sink");
        ledger_append_input input = { .payload = { "{}", 2 }, .order_key = "a long one" };
        ledger_ids ids = { 0 };
        ledger_error err = { 0 };
        uint64_t read = 0;
        tst_append(source, "s", "{}", NULL, NULL);
        ledger_bridge *bridge = tst_bridge(source, sink, NULL);
        (void)tst_drain(bridge);
        tst_exec_on(sink, "%s", what);
        for (int k = 0; k < 3; k++) {
            tst_ok(ledger_store_append(source, "s", &input, 1, &ids, &err), &err);
            ledger_ids_destroy(&ids);
        }
        if (i % 2 == 1 || strstr(what, "_parked") != NULL)
            tst_log_text(source, "{\"type\":\"later\",\"stream\":\"t\"}");
        tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_SCHEMA, &err);
        if (strstr(err.message, sink_faults[i / 2].words) == NULL)
            tst_fail("%s: the message lacks '%s': %s", what, sink_faults[i / 2].words, err.message);
        ledger_bridge_destroy(&bridge);
        tst_exec_on(sink, "%s", sink_faults[i / 2].mend);
        assert_int_equal(look_at_parked(sink).count, 0);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, TST_CMP_ANY_ORDER);
    }
}

/* A user's own constraint in the source: an error of the call, and no event without its entry. */
static void w19_constraint_at_the_source_is_an_error(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_SOURCE(env, kind)
    {
        ledger_store *source = tst_open(env, (enum tst_kind)kind, "source");
        ledger_store *sink = tst_open(env, TST_MEMORY, "sink");
        ledger_append_input inputs[2] = { { .payload = { "{}", 2 }, .dedup_key = "K" },
                                          { .payload = { "{}", 2 } } };
        ledger_error err = { 0 };
        ledger_ids ids = { 0 };
        if (kind != TST_MEMORY)
            tst_refuse(source, "bad");
        else
            continue; /* only a bridge's sink refuses in memory */
        tst_fails(ledger_store_append(source, "bad", inputs, 2, &ids, &err), LEDGER_ERR_REJECTED,
                  &err);
        assert_int_equal(tst_count(source, NULL), 0);
        /* Only the duplicate is left out, and silently. */
        tst_ok(ledger_store_append(source, "good", inputs, 2, &ids, &err), &err);
        assert_int_equal(ids.count, 2);
        ledger_ids_destroy(&ids);
        tst_ok(ledger_store_append(source, "good", inputs, 2, &ids, &err), &err);
        assert_int_equal(ids.count, 1);
        ledger_ids_destroy(&ids);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(w7_bad_events_are_parked),
        T(w7_bad_event_stops_the_bridge),
        T(w7_parked_event_is_applied_later),
        T(w19_refused_events_are_parked_with_what_follows),
        T(w19_refused_event_stops_the_bridge),
        T(w19_parked_entry_is_trimmed),
        T(a_sink_that_refuses_everything_parks_nothing),
        T(a_fault_of_the_sink_is_no_event_s),
        T(w19_constraint_at_the_source_is_an_error),
    };
    return cmocka_run_group_tests_name("bad events", tests, NULL, NULL);
}
