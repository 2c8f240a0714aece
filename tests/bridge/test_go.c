/* Ledgers that the Go module wrote, as source and as sink: w13 (bytes and times come from the
 * source's row, since Go's events hold compacted, escaped payloads and no time), and taking over
 * from the Go bridge. Go's side is played by plain SQL (go_tables.h). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "go_tables.h"
#include "oracle.h"
#include "workload.h"

static sqlite3 *go_open(struct tst_env *env, const char *name)
{
    char file[64];
    sqlite3 *db = NULL;
    snprintf(file, sizeof file, "%s.db", name);
    assert_int_equal(sqlite3_open(tst_path(env, file), &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 10000);
    tst_go_create(db, LEDGER_DEFAULT_TABLE, true);
    return db;
}

static const char *const payloads[] = {
    "{\"a\":1}",
    " { \"b\" : [ 1 , 2 ] }\n",
    "{\"html\":\"<a href='x'>&amp;</a>\"}",
    "{\"n\":1.0,\"m\":1e400,\"big\":123456789012345678901234567890}",
    "\"\xE2\x80\xA8\"",
    "{\"esc\":\"\\u003c\\/\"}",
    "{\"a\":1,\"a\":2}",
    "null",
};
#define PAYLOAD_COUNT (sizeof payloads / sizeof payloads[0])
#define T LEDGER_DEFAULT_TABLE

/* What Go would write into a source: every kind of event. */
static void go_writes(sqlite3 *db, int round)
{
    ledger_pair pair = { "k<&>", "v" };
    const char *tags[] = { "one", "<two>" };
    int64_t id = 0;
    for (size_t i = 0; i < PAYLOAD_COUNT; i++) {
        struct tst_go_entry entry = { .payload = payloads[i],
                                      .order_key = i % 2 ? "o" : NULL,
                                      .schema_version = (int)i % 3,
                                      .metadata = { &pair, i % 2 },
                                      .tags = { tags, i % 3 } };
        id = tst_go_append(db, T, true, i % 2 ? "a" : "b", &entry);
    }
    tst_go_set_tags(db, T, true, "a", id, (ledger_list){ tags, 2 });
    tst_go_annotate(db, T, true, "a", id, "x", "1");
    tst_go_annotate(db, T, true, "a", id, "y", "2");
    tst_go_annotate(db, T, true, "a", id, "x", NULL);
    if (round > 0)
        (void)tst_go_trim(db, T, true, "b", id - 12);
}

/* Go's events carry no times: the entry's row gives created_at, the log's row updated_at. */
static void assert_equal_go(ledger_store *source, ledger_store *sink)
{
    struct tst_history a, b;
    tst_assert_equal(source, sink, TST_CMP_ANY_TIME);
    tst_history_load(source, &a);
    tst_history_load(sink, &b);
    for (size_t i = 0; i < a.count; i++)
        assert_true(a.entries[i].created_ms == b.entries[i].created_ms);
    tst_history_free(&a);
    tst_history_free(&b);
    ledger_verify_options v;
    ledger_verify_result result;
    ledger_error err = { 0 };
    ledger_verify_options_defaults(&v);
    tst_ok(ledger_bridge_verify(source, sink, &v, &result, &err), &err);
    assert_int_equal(result.difference_count, 0);
}

static void w13_go_source(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_SINK(env, to)
    {
        sqlite3 *go = go_open(env, "source");
        go_writes(go, 0);
        tst_sleep_us(30000);
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        ledger_store *sink = tst_open(env, (enum tst_kind)to, "sink");
        (void)tst_bridge_once(source, sink, NULL);
        assert_equal_go(source, sink);
        for (int round = 1; round < 4; round++) { /* Go opens it again and goes on; so do we */
            tst_go_create(go, T, true);
            go_writes(go, round);
            int64_t id = tst_append(source, "a", " { \"ours\" : 1 } ", NULL, "x");
            tst_tag(source, "a", id, "y");
            (void)tst_bridge_once(source, sink, NULL);
            assert_equal_go(source, sink);
        }
        assert_int_equal(tst_bridge_once(source, sink, NULL), 0);
        sqlite3_close(go);
    }
}

/* The row is gone when its event is read: the event's own payload has to do. */
static void w13_go_entry_trimmed_before_it_is_read(void **state)
{
    struct tst_env *env = *state;
    sqlite3 *go = go_open(env, "source");
    int64_t id = tst_go_put(go, T, true, "a", "{\"n\": 1}");
    tst_go_annotate(go, T, true, "a", id, "x", "1");
    (void)tst_go_put(go, T, true, "a", "{\"n\": 2}");
    (void)tst_go_trim(go, T, true, "a", id);
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
    assert_int_equal(tst_bridge_once(source, sink, NULL), 4);
    assert_equal_go(source, sink);
    sqlite3_close(go);
}

/* Go's own bridge filled the sink up to some position; ours goes on from there. */
static void go_bridge_is_taken_over(void **state)
{
    struct tst_env *env = *state;
    for (int rewind = 0; rewind < 2; rewind++, tst_env_reset(env)) {
        sqlite3 *from = go_open(env, "source"), *to = go_open(env, "sink");
        char id_text[32], cursor[32];
        ledger_error err = { 0 };
        int64_t ids[10];
        (void)tst_go_put(to, T, true, "s", "{\"of the sink's own\":1}");
        for (int i = 0; i < 10; i++) {
            char payload[32];
            snprintf(payload, sizeof payload, "{\"n\":%d}", i);
            ids[i] = tst_go_put(from, T, true, "s", payload);
            if (i < 6) {
                struct tst_go_entry entry = { .payload = payload, .source_id = id_text };
                snprintf(id_text, sizeof id_text, "%" PRId64, ids[i]);
                (void)tst_go_append(to, T, true, "s", &entry);
            }
        }
        snprintf(cursor, sizeof cursor, "%019d", 6);
        tst_go_set_cursor(to, T, "default", cursor);
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
        if (rewind) /* also when all of it comes again: what Go carried is known by its source_id */
            tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
        assert_int_equal(tst_bridge_once(source, sink, NULL), rewind ? 10 : 4);
        tst_assert_equal(source, sink, TST_CMP_OWN | TST_CMP_ANY_TIME);
        assert_int_equal(tst_count(sink, "s"), 11);
        /* Changes reach what Go carried as well. */
        tst_tag(source, "s", ids[2], "changed");
        tst_annotate(source, "s", ids[8], "k", "v");
        (void)tst_trim(source, "s", ids[1]);
        assert_int_equal(tst_bridge_once(source, sink, NULL), 3);
        tst_assert_equal(source, sink, TST_CMP_OWN | TST_CMP_ANY_TIME);
        assert_int_equal(tst_count(sink, "s"), 9);
        ledger_id found = { 0 };
        snprintf(id_text, sizeof id_text, "%" PRId64, ids[3]);
        tst_ok(ledger_store_find_by_source_id(sink, "s", id_text, &found, &err), &err);
        /* Go can still open and write both. */
        tst_go_create(from, T, true);
        tst_go_create(to, T, true);
        (void)tst_go_put(from, T, true, "s", "{\"late\":1}");
        (void)tst_go_put(to, T, true, "s", "{\"late\":2}");
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, TST_CMP_OWN | TST_CMP_ANY_TIME);
        sqlite3_close(from);
        sqlite3_close(to);
    }
}

/* What Go's bridge carried has its encoder's form: counted apart, and no difference. */
static void verify_tells_what_go_has_reencoded(void **state)
{
    static const struct {
        const char *source, *sink;
    } carried[] = {
        { " { \"a\" : [ 1.0 , \"x y\" ] }\n", "{\"a\":[1.0,\"x y\"]}" },
        { "{\"html\":\"<b>&</b>\"}", "{\"html\":\"\\u003cb\\u003e\\u0026\\u003c/b\\u003e\"}" },
        { "\"\xE2\x80\xA8\"", "\"\\u2028\"" },
        { "{\"same\":1}", "{\"same\":1}" },
    };
    struct tst_env *env = *state;
    sqlite3 *from = go_open(env, "source"), *to = go_open(env, "sink");
    ledger_error err = { 0 };
    ledger_verify_options v;
    ledger_verify_result result;
    for (size_t i = 0; i < 4; i++) {
        char id_text[32];
        struct tst_go_entry entry = { .payload = carried[i].sink, .source_id = id_text };
        snprintf(id_text, sizeof id_text, "%" PRId64,
                 tst_go_put(from, LEDGER_DEFAULT_TABLE, true, "s", carried[i].source));
        (void)tst_go_append(to, LEDGER_DEFAULT_TABLE, true, "s", &entry);
    }
    tst_go_set_cursor(to, LEDGER_DEFAULT_TABLE, "default", "0000000000000000004");
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
    (void)tst_bridge_once(source, sink, NULL);
    ledger_verify_options_defaults(&v);
    tst_ok(ledger_bridge_verify(source, sink, &v, &result, &err), &err);
    assert_int_equal(result.difference_count, 0);
    assert_int_equal(result.payload_reencoded_count, 3);
    /* Another difference of such an entry is one, and so is a payload that says something else. */
    tst_exec(to, "UPDATE ledger_entries SET order_key = 'x' WHERE source_id = '1'; "
                 "UPDATE ledger_entries SET payload = CAST('{\"same\": 1}' AS BLOB) "
                 "WHERE source_id = '4'");
    tst_ok(ledger_bridge_verify(source, sink, &v, &result, &err), &err);
    assert_int_equal(result.difference_count, 2);
    assert_int_equal(result.payload_reencoded_count, 2);
    sqlite3_close(from);
    sqlite3_close(to);
}

/* Go's bridge applies first and writes its cursor afterwards: killed in its first batch, it leaves
 * entries and no cursor. They are known by their source_id and not carried again. */
static void go_bridge_without_a_cursor_is_taken_over(void **state)
{
    struct tst_env *env = *state;
    sqlite3 *from = go_open(env, "source"), *to = go_open(env, "sink");
    for (int i = 0; i < 10; i++) {
        char payload[32], id_text[32];
        struct tst_go_entry entry = { .payload = payload, .source_id = id_text };
        snprintf(payload, sizeof payload, "{\"n\":%d}", i);
        snprintf(id_text, sizeof id_text, "%" PRId64,
                 tst_go_put(from, LEDGER_DEFAULT_TABLE, true, "s", payload));
        if (i < 6)
            (void)tst_go_append(to, LEDGER_DEFAULT_TABLE, true, "s", &entry);
    }
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
    (void)tst_bridge_once(source, sink, NULL);
    assert_int_equal(tst_count(sink, "s"), 10);
    tst_assert_equal(source, sink, TST_CMP_OWN | TST_CMP_ANY_TIME);
    sqlite3_close(from);
    sqlite3_close(to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#undef T
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(w13_go_source),
        T(w13_go_entry_trimmed_before_it_is_read),
        T(go_bridge_is_taken_over),
        T(verify_tells_what_go_has_reencoded),
        T(go_bridge_without_a_cursor_is_taken_over),
    };
    return cmocka_run_group_tests_name("go", tests, NULL, NULL);
}
