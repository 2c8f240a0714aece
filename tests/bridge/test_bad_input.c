/* Bad input at the library: a clear error, nothing lost, nothing half written. What programs see of
 * it (exit codes, files, disks) is in test_bad_input.py; events that are bad, in test_bad_events.c.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fixtures.h"
#include "oracle.h"
#include "workload.h"

/* Nothing was written by the call that failed. */
static void assert_nothing(ledger_store *store, uint64_t entries)
{
    assert_int_equal(tst_count(store, NULL), entries);
    if (strcmp(ledger_store_backend(store), "memory") != 0)
        tst_assert_log_agrees(store);
}

static ledger_rc append_bytes(ledger_store *store, const char *stream, const void *data,
                              size_t size, ledger_error *err)
{
    ledger_append_input input = { .payload = { data, size } };
    return ledger_store_append(store, stream, &input, 1, NULL, err);
}

static void payload_of_a_gibibyte(void **state)
{
    struct tst_env *env = *state;
    const size_t size = (size_t)1 << 30;
    struct rusage before, after;
    /* Pages that nobody has touched take no memory: looking at all of them would be seen. */
    char *data = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(data != MAP_FAILED);
    data[0] = data[size - 1] = '"';
    TST_EACH_SOURCE(env, kind)
    {
        ledger_store *store = tst_open(env, (enum tst_kind)kind, "store");
        ledger_error err = { 0 };
        assert_int_equal(getrusage(RUSAGE_SELF, &before), 0);
        tst_fails(append_bytes(store, "s", data, size, &err), LEDGER_ERR_TOO_LARGE, &err);
        assert_int_equal(getrusage(RUSAGE_SELF, &after), 0);
        assert_true(after.ru_maxrss - before.ru_maxrss < 64 * 1024);
        assert_nothing(store, 0);
    }
    (void)munmap(data, size);
}

static void payload_nested_too_deep(void **state)
{
    struct tst_env *env = *state;
    char *deep = malloc(20001);
    assert_non_null(deep);
    memset(deep, '[', 10000);
    memset(deep + 10000, ']', 10000);
    deep[20000] = '\0';
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_error err = { 0 };
        tst_fails(append_bytes(source, "s", deep, 20000, &err), LEDGER_ERR_DATA, &err);
        assert_nothing(source, 0);
        /* As deep as is allowed. */
        tst_ok(append_bytes(source, "s", deep + 10000 - LEDGER_MAX_JSON_DEPTH,
                            2 * LEDGER_MAX_JSON_DEPTH, &err),
               &err);
        /* In an event that somebody else wrote: in the payload, and around. */
        char *event = malloc(20200);
        assert_non_null(event);
        snprintf(event, 20200,
                 "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"900\","
                 "\"payload\":%s}]}",
                 deep);
        tst_log_text(source, event);
        tst_log_text(source, deep);
        snprintf(event, 20200,
                 "{\"type\":\"trim\",\"stream\":\"s\",\"before_id\":\"0\",\"new\":%s}", deep);
        tst_log_text(source, event);
        free(event);
        tst_append(source, "s", "{}", NULL, NULL);
        ledger_bridge *bridge = tst_bridge(source, sink, NULL);
        ledger_bridge_stats stats;
        (void)tst_drain(bridge);
        ledger_bridge_get_stats(bridge, &stats);
        assert_int_equal(stats.park_count, 3);
        tst_check_counters(bridge);
        ledger_bridge_destroy(&bridge);
        tst_assert_equal(source, sink, 0);
    }
    free(deep);
}

static void strings_that_are_not_text(void **state)
{
    struct tst_env *env = *state;
    static const char *const bad[] = {
        "\xFF", "a\xC3", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82"
    };
    TST_EACH_SOURCE(env, kind)
    {
        ledger_store *store = tst_open(env, (enum tst_kind)kind, "store");
        int64_t id = tst_append(store, "s", "{}", NULL, NULL);
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            const char *text = bad[i];
            ledger_pair key = { text, "v" }, value = { "k", text };
            ledger_append_input inputs[] = {
                { .payload = { "{}", 2 }, .order_key = text },
                { .payload = { "{}", 2 }, .dedup_key = text },
                { .payload = { "{}", 2 }, .tags = { &text, 1 } },
                { .payload = { "{}", 2 }, .metadata = { &key, 1 } },
                { .payload = { "{}", 2 }, .metadata = { &value, 1 } },
            };
            ledger_error err = { 0 };
            ledger_id entry = { .number = id };
            for (size_t k = 0; k < sizeof inputs / sizeof inputs[0]; k++)
                tst_fails(ledger_store_append(store, "s", &inputs[k], 1, NULL, &err),
                          LEDGER_ERR_DATA, &err);
            tst_fails(append_bytes(store, text, "{}", 2, &err), LEDGER_ERR_DATA, &err);
            tst_fails(ledger_store_set_tags(store, "s", entry, (ledger_list){ &text, 1 }, &err),
                      LEDGER_ERR_DATA, &err);
            tst_fails(
                ledger_store_set_annotations(store, "s", entry, (ledger_map){ &key, 1 }, &err),
                LEDGER_ERR_DATA, &err);
            tst_fails(
                ledger_store_set_annotations(store, "s", entry, (ledger_map){ &value, 1 }, &err),
                LEDGER_ERR_DATA, &err);
        }
        assert_nothing(store, 1);
    }
}

/* Go has no limit for one append, and logs trims of any id. */
static void events_that_only_go_writes(void **state)
{
    struct tst_env *env = *state;
    const size_t count = LEDGER_MAX_APPEND_ENTRIES + 1;
    char *text = malloc(count * 40 + 100);
    assert_non_null(text);
    size_t size =
        (size_t)snprintf(text, 100, "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[");
    for (size_t i = 1; i <= count; i++)
        size += (size_t)snprintf(text + size, 40, "%s{\"id\":\"%zu\",\"payload\":%zu}",
                                 i > 1 ? "," : "", i + 100, i);
    size += (size_t)snprintf(text + size, 10, "]}");
    TST_EACH_PAIR(env, from, to)
    {
        if (from != TST_SQLITE && from != to) /* each source and each sink once */
            continue;
        for (size_t workers = 1; workers <= (to == TST_PLAIN_POSTGRES ? 4 : 1); workers += 3) {
            ledger_store *source = tst_open(env, from, workers == 1 ? "source-1" : "source-4");
            ledger_store *sink = tst_open(env, to, workers == 1 ? "sink-1" : "sink-4");
            ledger_bridge_options o;
            uint64_t parked = 0;
            ledger_error err = { 0 };
            tst_log_raw(source, text, size);
            tst_log_text(source, "{\"type\":\"trim\",\"stream\":\"s\",\"before_id\":\"-5\"}");
            tst_log_text(source, "{\"type\":\"trim\",\"stream\":\"s\",\"before_id\":\"0\"}");
            tst_bridge_options(&o);
            o.parallel_streams = workers;
            assert_int_equal(tst_bridge_once(source, sink, &o), 3);
            assert_int_equal(tst_count(sink, "s"), count);
            tst_ok(ldg_store_parked_count(sink, NULL, &parked, &err), &err);
            assert_int_equal(parked, 0);
            if (workers > 1 || from != TST_SQLITE || !tst_kind_has_log(to))
                continue;
            /* Again: one op after the other. */
            tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
            (void)tst_bridge_once(source, sink, &o);
            assert_int_equal(tst_count(sink, "s"), count);
        }
    }
    free(text);
}

static void sizes_over_their_limits(void **state)
{
    struct tst_env *env = *state;
    char *text = malloc(LEDGER_MAX_VALUE_BYTES + 2);
    const char **many = malloc((LEDGER_MAX_ITEMS + 1) * sizeof *many);
    ledger_append_input *inputs = calloc(LEDGER_MAX_APPEND_ENTRIES + 1, sizeof *inputs);
    assert_true(text != NULL && many != NULL && inputs != NULL);
    memset(text, 'x', LEDGER_MAX_VALUE_BYTES + 1);
    text[LEDGER_MAX_VALUE_BYTES + 1] = '\0';
    for (size_t i = 0; i <= LEDGER_MAX_ITEMS; i++)
        many[i] = "tag";
    for (size_t i = 0; i <= LEDGER_MAX_APPEND_ENTRIES; i++)
        inputs[i].payload = (ledger_bytes){ "{}", 2 };
    const char *key = text + LEDGER_MAX_VALUE_BYTES + 1 - (LEDGER_MAX_KEY_BYTES + 1);
    const char *stream = text + LEDGER_MAX_VALUE_BYTES + 1 - (LEDGER_MAX_STREAM_BYTES + 1);
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_error err = { 0 };
        ledger_append_input one = { .payload = { "{}", 2 } };
        tst_fails(append_bytes(source, stream, "{}", 2, &err), LEDGER_ERR_TOO_LARGE, &err);
        one.order_key = key;
        tst_fails(ledger_store_append(source, "s", &one, 1, NULL, &err), LEDGER_ERR_TOO_LARGE,
                  &err);
        one.order_key = NULL;
        one.metadata = (ledger_map){ &(ledger_pair){ "k", text }, 1 };
        tst_fails(ledger_store_append(source, "s", &one, 1, NULL, &err), LEDGER_ERR_TOO_LARGE,
                  &err);
        one.metadata = (ledger_map){ 0 };
        one.tags = (ledger_list){ many, LEDGER_MAX_ITEMS + 1 };
        tst_fails(ledger_store_append(source, "s", &one, 1, NULL, &err), LEDGER_ERR_TOO_LARGE,
                  &err);
        tst_fails(
            ledger_store_append(source, "s", inputs, LEDGER_MAX_APPEND_ENTRIES + 1, NULL, &err),
            LEDGER_ERR_TOO_LARGE, &err);
        assert_nothing(source, 0);
        /* At the limits it works, and arrives: one event of 100,000 entries, 10,000 tags, 1 MiB. */
        one.tags.count = LEDGER_MAX_ITEMS;
        one.order_key = key + 1;
        one.dedup_key = key + 1;
        one.metadata = (ledger_map){ &(ledger_pair){ key + 1, text + 1 }, 1 };
        tst_ok(ledger_store_append(source, stream + 1, &one, 1, NULL, &err), &err);
        tst_ok(ledger_store_append(source, "s", inputs, tst_scale(LEDGER_MAX_APPEND_ENTRIES), NULL,
                                   &err),
               &err);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
    }
    free(text);
    free(many);
    free(inputs);
}

static void table_names_and_urls(void **state)
{
    struct tst_env *env = *state;
    static const char *const names[] = { "",
                                         "1a",
                                         "a-b",
                                         "a b",
                                         "a;DROP TABLE x",
                                         "a\"b",
                                         "t\xC3\xA9",
                                         "a.b",
                                         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" };
    static const char *const urls[] = { "",        "sqlite",    "sqlite:",       "nosuch:x",
                                        "memory:", "/tmp/x.db", "mongodb://h/db" };
    TST_EACH_SOURCE(env, kind)
    {
        ledger_store_options o;
        ledger_store *store = NULL;
        ledger_error err = { 0 };
        char url[700];
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            snprintf(url, sizeof url, "%s", tst_url(env, (enum tst_kind)kind, "store"));
            ledger_store_options_defaults(&o);
            o.flags = LEDGER_STORE_CREATE;
            o.url = url;
            o.table = names[i];
            tst_fails(ledger_store_open(&o, &store, &err), LEDGER_ERR_INVALID, &err);
            o.table = NULL;
            o.log_table = names[i];
            if (strlen(names[i]) > LEDGER_MAX_TABLE_BYTES)
                continue; /* a log's name may be longer, by its suffix */
            tst_fails(ledger_store_open(&o, &store, &err), LEDGER_ERR_INVALID, &err);
            assert_null(store);
        }
        assert_false(tst_file_exists(tst_path(env, "store.db"))); /* not even an empty file */
    }
    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        ledger_store_options o;
        ledger_store *store = NULL;
        ledger_error err = { 0 };
        ledger_store_options_defaults(&o);
        o.flags = LEDGER_STORE_CREATE;
        o.url = urls[i];
        ledger_rc rc = ledger_store_open(&o, &store, &err);
        if (rc != LEDGER_ERR_INVALID && rc != LEDGER_ERR_UNSUPPORTED)
            tst_fail("url '%s': %s", urls[i], ledger_rc_name(rc));
        assert_null(store);
        assert_string_not_equal(err.message, "");
    }
}

/* A table that has the name but not the columns: said at open, and left as it is. */
static void table_of_another_shape(void **state)
{
    struct tst_env *env = *state;
    static const char *const shapes[] = {
        "CREATE TABLE ledger_entries (id INTEGER PRIMARY KEY, foo TEXT)",
        "CREATE TABLE ledger_entries (id TEXT PRIMARY KEY, stream TEXT, payload BLOB, order_key "
        "TEXT,"
        " dedup_key TEXT, schema_version INTEGER, metadata TEXT, tags TEXT, annotations TEXT,"
        " created_at TEXT, updated_at TEXT)",
        "CREATE VIEW ledger_entries AS SELECT 1 AS id, 'x' AS stream",
        "CREATE TABLE ledger_entries_cursors (foo TEXT)",
        "CREATE TABLE ledger_entries_mutations (foo TEXT)",
        "CREATE TABLE ledger_entries_meta (foo TEXT)",
        "CREATE TABLE ledger_entries_parked (foo TEXT)",
        "CREATE TABLE ledger_entries_origins (foo TEXT)",
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++, tst_env_reset(env)) {
        sqlite3 *db = NULL;
        ledger_store_options o;
        ledger_store *store = NULL;
        ledger_error err = { 0 };
        assert_int_equal(sqlite3_open(tst_path(env, "store.db"), &db), SQLITE_OK);
        tst_exec(db, "%s", shapes[i]);
        int64_t before = tst_query_int(db, "SELECT count(*) FROM sqlite_master");
        ledger_store_options_defaults(&o);
        o.flags = LEDGER_STORE_CREATE;
        o.log = LEDGER_MUTATION_LOG_ON;
        o.url = tst_url(env, TST_SQLITE, "store");
        ledger_rc rc = ledger_store_open(&o, &store, &err);
        if (rc != LEDGER_ERR_SCHEMA)
            tst_fail("%s: %s %s", shapes[i], ledger_rc_name(rc), err.message);
        assert_non_null(strstr(err.message, "ledger_entries"));
        assert_int_equal(tst_query_int(db, "SELECT count(*) FROM sqlite_master"), before);
        sqlite3_close(db);
    }
}

/* Tables that vanish under a running bridge. */
static void tables_dropped_while_it_runs(void **state)
{
    struct tst_env *env = *state;
    static const char *const drops[] = {
        "DROP TABLE ledger_entries_mutations",
        "DROP TABLE ledger_entries_cursors",
        "DROP TABLE ledger_entries",
        "DROP TABLE ledger_entries_origins",
        "DROP TABLE ledger_entries_meta",
        "DROP TABLE ledger_entries_parked",
        "ALTER TABLE ledger_entries RENAME COLUMN payload TO content",
    };
    for (size_t i = 0; i < sizeof drops / sizeof drops[0]; i++) {
        for (int end = 0; end < 2; end++, tst_env_reset(env)) {
            ledger_store *source = tst_open(env, TST_SQLITE, "source");
            ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
            ledger_error err = { 0 };
            uint64_t read = 0;
            tst_append(source, "s", "{}", NULL, NULL);
            ledger_bridge *bridge = tst_bridge(source, sink, NULL);
            (void)tst_drain(bridge);
            tst_append(source, "s", "{}", NULL, NULL);
            tst_log_text(source, "{\"type\":\"new\",\"stream\":\"s\"}");
            tst_exec_on(end == 0 ? source : sink, "%s", drops[i]);
            for (int k = 0; k < 3; k++) { /* an error or none, never a crash, a lie or a hang */
                ledger_rc rc = ledger_bridge_poll(bridge, &read, &err);
                if (rc != LEDGER_OK && err.message[0] == '\0')
                    tst_fail("%s: %s without a message", drops[i], ledger_rc_name(rc));
                if (rc != LEDGER_OK && (err.flags & LEDGER_ERROR_RETRY) != 0)
                    tst_fail("%s: %s would be retried for ever: %s", drops[i], ledger_rc_name(rc),
                             err.message);
            }
            tst_check_counters(bridge);
            ledger_bridge_destroy(&bridge);
        }
    }
}

static void cursor_rows_that_make_no_sense(void **state)
{
    struct tst_env *env = *state;
    static const char *const states[] = {
        "garbage",
        "sqlite:1",
        "sqlite:9:x:1:1:1:0",
        "sqlite:1:::::",
        "memory:1:a:1:1:1:0",
        "sqlite:1:aaaaaaaa-aaaa-4aaa-aaaa-aaaaaaaaaaaa:1:999999999999999999999:1:0",
        "sqlite:1:aaaaaaaa-aaaa-4aaa-aaaa-aaaaaaaaaaaa:1:1:1:zzzz",
        "\xFF\xFE",
    };
    for (size_t i = 0; i < sizeof states / sizeof states[0]; i++, tst_env_reset(env)) {
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
        struct tst_history before;
        ledger_error err = { 0 };
        uint64_t read = 0;
        for (int k = 0; k < 5; k++)
            tst_append(source, "s", "{}", NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        tst_history_load(sink, &before);
        tst_exec_on(sink, "UPDATE ledger_entries_cursors SET state = '%s'", states[i]);
        ledger_bridge *bridge = tst_bridge(source, sink, NULL);
        ledger_rc rc = ledger_bridge_poll(bridge, &read, &err);
        if (rc != LEDGER_ERR_DATA && rc != LEDGER_ERR_CURSOR_MISMATCH &&
            rc != LEDGER_ERR_SOURCE_REWOUND)
            tst_fail("state '%s': %s", states[i], ledger_rc_name(rc));
        ledger_bridge_destroy(&bridge);
        tst_assert_unchanged(&before, sink);
        /* And the way out. */
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_unchanged(&before, sink);
        /* The readable half alone. */
        tst_exec_on(sink, "UPDATE ledger_entries_cursors SET cursor = 'not a number'");
        bridge = tst_bridge(source, sink, NULL);
        tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_DATA, &err);
        ledger_bridge_destroy(&bridge);
        tst_assert_unchanged(&before, sink);
        tst_history_free(&before);
    }
}

static void stores_that_are_closed_or_null(void **state)
{
    struct tst_env *env = *state;
    ledger_store *store = tst_open(env, TST_SQLITE, "store");
    ledger_error err = { 0 };
    ledger_bridge_status status;
    ledger_verify_result result;
    uint64_t n;
    assert_int_equal(ledger_bridge_status_get(NULL, store, NULL, &status, &err),
                     LEDGER_ERR_INVALID);
    assert_int_equal(ledger_bridge_status_get(store, NULL, NULL, &status, NULL),
                     LEDGER_ERR_INVALID);
    assert_int_equal(ledger_bridge_verify(NULL, store, NULL, &result, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_bridge_cursor_set(store, NULL, NULL, "0", false, &err),
                     LEDGER_ERR_INVALID);
    assert_int_equal(ledger_bridge_cursor_set(store, store, NULL, NULL, false, &err),
                     LEDGER_ERR_INVALID);
    assert_int_equal(ledger_bridge_parked_drop(NULL, 0, &n, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_bridge_parked_list(store, NULL, NULL, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_bridge_parked_retry(NULL, store, 0, &n, &n, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_bridge_poll(NULL, &n, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_bridge_start(NULL, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_bridge_wait(NULL, true, 0, &err), LEDGER_ERR_INVALID);
    ledger_bridge_stop(NULL);
    ledger_bridge_request_stop(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(payload_of_a_gibibyte),          T(payload_nested_too_deep),
        T(strings_that_are_not_text),      T(events_that_only_go_writes),
        T(sizes_over_their_limits),        T(table_names_and_urls),
        T(table_of_another_shape),         T(tables_dropped_while_it_runs),
        T(cursor_rows_that_make_no_sense), T(stores_that_are_closed_or_null),
    };
    /* TSan is slow, and has nothing to look for where all is done by one thread. */
    const char *sanitized = getenv("LEDGER_TEST_SANITIZED");
    if (sanitized != NULL && strcmp(sanitized, "thread") == 0)
        cmocka_set_test_filter("events_that_only_go_writes"); /* has parallel workers */
    return cmocka_run_group_tests_name("bad input", tests, NULL, NULL);
}
