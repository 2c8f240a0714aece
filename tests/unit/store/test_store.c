/* What the conformance suite cannot see: failing backends, waking, failing allocations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <sys/eventfd.h>
#include <unistd.h>

#include "alloc_fail.h"
#include "ldg_config.h"
#include "memory_faults.h"
#include "store/handle.h"

#if LDG_WITH_SQLITE
#include <sqlite3.h>
#endif

static ledger_bytes bytes(const char *text)
{
    return (ledger_bytes){ .data = text, .size = strlen(text) };
}

static ledger_store *open_memory(const char *url)
{
    ledger_store_options options;
    ledger_store *store = NULL;
    ledger_error err;
    ledger_store_options_defaults(&options);
    options.url = url;
    options.flags = LEDGER_STORE_CREATE;
    if (ledger_store_open(&options, &store, &err) != LEDGER_OK)
        fail_msg("%s", err.message);
    return store;
}

static ledger_rc append(ledger_store *store, const char *payload, ledger_error *err)
{
    const ledger_append_input input = { .payload = bytes(payload) };
    return ledger_store_append(store, "s", &input, 1, NULL, err);
}

static uint64_t count(ledger_store *store)
{
    uint64_t n = 0;
    assert_int_equal(ledger_store_count(store, NULL, &n, NULL), LEDGER_OK);
    return n;
}

static void failing_commits(void **state)
{
    static const struct {
        enum ldg_memory_fault_kind kind;
        ledger_rc code;
        bool open_still;
        uint64_t entries;
    } rows[] = {
        { LDG_MEMORY_FAIL, LEDGER_ERR_BUSY, true, 0 },
        { LDG_MEMORY_FAIL, LEDGER_ERR_IO, false, 0 },
        { LDG_MEMORY_LOSE_ACK, LEDGER_ERR_UNKNOWN_OUTCOME, false, 1 },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        ledger_store *store = open_memory("memory:commits");
        const struct ldg_memory_fault fault = { .callback = "tx_commit",
                                                .kind = rows[i].kind,
                                                .code = rows[i].code };
        ledger_error err;
        assert_int_equal(ledger_store_begin(store, &err), LEDGER_OK);
        assert_int_equal(append(store, "1", &err), LEDGER_OK);
        assert_int_equal(ldg_memory_fault_add("commits", &fault), LEDGER_OK);
        assert_int_equal(ledger_store_commit(store, &err), rows[i].code);
        if (rows[i].open_still)
            assert_int_equal(ledger_store_rollback(store, &err), LEDGER_OK);
        else
            assert_int_equal(ledger_store_rollback(store, &err), LEDGER_ERR_INVALID);
        assert_int_equal(count(store), rows[i].entries);
        assert_int_equal(append(store, "2", &err), LEDGER_OK);
        ldg_memory_faults_clear("commits");
        ledger_store_close(&store);
    }
}

static uint64_t drain(int fd)
{
    uint64_t n = 0;
    return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void writes_wake(void **state)
{
    ledger_store *store = open_memory("memory:wakes"), *other = open_memory("memory:wakes2");
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const ledger_append_input known = { .payload = bytes("1"), .dedup_key = "k" };
    const ledger_id id = { .number = 1 };
    ledger_error err;
    assert_int_equal(ldg_store_wake_add(store, fd, &err), LEDGER_OK);
    assert_int_equal(append(store, "1", &err), LEDGER_OK);
    assert_int_equal(drain(fd), 1);
    assert_int_equal(append(store, "oops", &err), LEDGER_ERR_DATA);
    assert_int_equal(append(other, "1", &err), LEDGER_OK);
    assert_int_equal(drain(fd), 0);
    assert_int_equal(ledger_store_set_tags(store, "s", id, (ledger_list){ 0 }, &err), LEDGER_OK);
    assert_int_equal(ledger_store_set_annotations(store, "s", id, (ledger_map){ 0 }, &err), 0);
    assert_int_equal(ledger_store_trim(store, "s", id, NULL, &err), LEDGER_OK);
    assert_int_equal(drain(fd), 3);
    assert_int_equal(ledger_store_append(store, "s", &known, 1, NULL, &err), LEDGER_OK);
    assert_int_equal(drain(fd), 1);
    assert_int_equal(ledger_store_append(store, "s", &known, 1, NULL, &err), LEDGER_OK);
    assert_int_equal(drain(fd), 0); /* nothing new */
    assert_int_equal(ledger_store_begin(store, &err), LEDGER_OK);
    assert_int_equal(append(store, "1", &err), LEDGER_OK);
    assert_int_equal(append(store, "1", &err), LEDGER_OK);
    assert_int_equal(drain(fd), 0);
    assert_int_equal(ledger_store_commit(store, &err), LEDGER_OK);
    assert_int_equal(drain(fd), 1);
    assert_int_equal(ledger_store_begin(store, &err), LEDGER_OK);
    assert_int_equal(append(store, "1", &err), LEDGER_OK);
    assert_int_equal(ledger_store_rollback(store, &err), LEDGER_OK);
    assert_int_equal(ledger_store_begin(store, &err), LEDGER_OK);
    assert_int_equal(ledger_store_commit(store, &err), LEDGER_OK);
    assert_int_equal(drain(fd), 0);
    ldg_store_wake_remove(store, fd);
    ldg_store_wake_remove(NULL, fd);
    assert_int_equal(ldg_store_wake_add(NULL, fd, &err), LEDGER_ERR_CLOSED);
    close(fd);
    ledger_store_close(&store);
    ledger_store_close(&other);
}

static void backend_errors_come_through(void **state)
{
    static const char *const names[] = { "append",          "read",
                                         "count",           "stat",
                                         "list_streams",    "health",
                                         "set_tags",        "trim",
                                         "set_annotations", "find_by_source_id",
                                         "cursor_get",      "cursor_set",
                                         "tx_begin",        "check" };
    ledger_store *store = open_memory("memory:errors");
    const ledger_id id = { .number = 1 };
    ledger_error err;
    assert_int_equal(append(store, "1", &err), LEDGER_OK);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const struct ldg_memory_fault fault = {
            /* check asks for health first */
            .callback = strcmp(names[i], "check") == 0 ? "health" : names[i],
            .code = LEDGER_ERR_IO,
            .times = UINT64_MAX,
        };
        ledger_batch *batch = NULL;
        ledger_names streams;
        ledger_stream_stat stat;
        ledger_id found;
        uint64_t n;
        char text[LEDGER_ID_TEXT_MAX];
        assert_int_equal(ldg_memory_fault_add("errors", &fault), LEDGER_OK);
        const ledger_rc rcs[] = {
            append(store, "1", &err),
            ledger_store_read(store, "s", NULL, &batch, &err),
            ledger_store_count(store, NULL, &n, &err),
            ledger_store_stat(store, NULL, &stat, &err),
            ledger_store_list_streams(store, NULL, 0, &streams, &err),
            ledger_store_health(store, &err),
            ledger_store_set_tags(store, "s", id, (ledger_list){ 0 }, &err),
            ledger_store_trim(store, "none", id, NULL, &err),
            ledger_store_set_annotations(store, "s", id, (ledger_map){ 0 }, &err),
            ledger_store_find_by_source_id(store, "s", "1", &found, &err),
            ledger_store_cursor_get(store, "c", text, &err),
            ledger_store_cursor_set(store, "c", "1", &err),
        };
        if (i < sizeof(rcs) / sizeof(rcs[0]))
            assert_int_equal(rcs[i], LEDGER_ERR_IO);
        if (rcs[1] == LEDGER_OK)
            ledger_batch_destroy(&batch);
        if (rcs[4] == LEDGER_OK)
            ledger_names_destroy(&streams);
        ledger_rc begin = ledger_store_begin(store, &err);
        assert_int_equal(begin, strcmp(names[i], "tx_begin") == 0 ? LEDGER_ERR_IO : LEDGER_OK);
        if (begin == LEDGER_OK)
            assert_int_equal(ledger_store_rollback(store, &err), LEDGER_OK);
        ldg_memory_faults_clear("errors");
    }
    ledger_store_close(&store);
}

static void no_finding(void *ctx, ledger_severity severity, const char *subject, const char *text)
{
}

/* A backend without any role, whatever it claims. */
static void missing_callbacks_are_unsupported(void **state)
{
    ledger_store *store = open_memory("memory:holes");
    const struct ldg_backend *whole = store->backend;
    struct ldg_backend holes = { .name = "holes", .caps = UINT64_MAX };
    const ledger_id id = { .number = 1 };
    const ledger_append_input input = { .payload = bytes("1") };
    ledger_stream_stat stat;
    ledger_names names = { 0 };
    ledger_batch *batch = NULL;
    ledger_tail *tail = NULL;
    uint64_t n;
    ledger_id found;
    char text[LEDGER_ID_TEXT_MAX];
    ledger_error err;
    store->backend = &holes;
    assert_false(ledger_store_has_log(store));
    assert_int_equal(ledger_store_append(store, "s", &input, 1, NULL, &err),
                     LEDGER_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "a holes store does not support being written to"));
    assert_int_equal(ledger_store_read(store, "s", NULL, &batch, &err), LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ledger_store_search(store, "s", "x", NULL, &batch, &err),
                     LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ledger_store_count(store, "s", &n, &err), LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ledger_store_stat(store, "s", &stat, &err), LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ledger_store_list_streams(store, NULL, 0, &names, &err),
                     LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ledger_tail_open(store, "s", NULL, true, &tail, &err), LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ledger_store_check(store, no_finding, NULL, &err), LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ledger_store_begin(store, &err), LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ledger_store_set_tags(store, "s", id, (ledger_list){ 0 }, &err),
                     LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ledger_store_set_annotations(store, "s", id, (ledger_map){ 0 }, &err),
                     LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ledger_store_trim(store, "s", id, NULL, &err), LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ledger_store_find_by_source_id(store, "s", "1", &found, &err),
                     LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ledger_store_cursor_get(store, "c", text, &err), LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ledger_store_cursor_set(store, "c", "1", &err), LEDGER_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "holes"));
    store->backend = whole;
    ledger_store_close(&store);
}

/* Every call works, and fails, without an error struct. */
static void errors_may_be_null(void **state)
{
    ledger_store *store = open_memory("memory:null");
    const ledger_append_input input = { .payload = bytes("1") };
    const ledger_id id = { .number = 1 };
    ledger_id found;
    ledger_batch *batch = NULL;
    ledger_names names = { 0 };
    ledger_stream_stat stat;
    uint64_t n;
    char text[LEDGER_ID_TEXT_MAX];
    for (int i = 0; i < 2; i++) {
        ledger_store *s = i ? NULL : store;
        const ledger_rc want = i ? LEDGER_ERR_CLOSED : LEDGER_OK;
        assert_int_equal(ledger_store_begin(s, NULL), want);
        assert_int_equal(ledger_store_append(s, "s", &input, 1, NULL, NULL), want);
        assert_int_equal(ledger_store_commit(s, NULL), want);
        assert_int_equal(ledger_store_begin(s, NULL), want);
        assert_int_equal(ledger_store_rollback(s, NULL), want);
        assert_int_equal(ledger_store_set_tags(s, "s", id, (ledger_list){ 0 }, NULL), want);
        assert_int_equal(ledger_store_set_annotations(s, "s", id, (ledger_map){ 0 }, NULL), want);
        assert_int_equal(ledger_store_read(s, "s", NULL, &batch, NULL), want);
        ledger_batch_destroy(&batch);
        assert_int_equal(ledger_store_search(s, "s", "1", NULL, &batch, NULL), want);
        ledger_batch_destroy(&batch);
        assert_int_equal(ledger_store_count(s, "s", &n, NULL), want);
        assert_int_equal(ledger_store_stat(s, "s", &stat, NULL), want);
        assert_int_equal(ledger_store_list_streams(s, NULL, 0, &names, NULL), want);
        ledger_names_destroy(&names);
        assert_int_equal(ledger_store_find_by_source_id(s, "s", "1", &found, NULL),
                         i ? want : LEDGER_ERR_NOT_FOUND);
        assert_int_equal(ledger_store_find_by_source_id(s, "s", "1", NULL, NULL),
                         i ? want : LEDGER_ERR_INVALID);
        assert_int_equal(ledger_store_cursor_set(s, "c", "1", NULL), want);
        assert_int_equal(ledger_store_cursor_get(s, "c", text, NULL), want);
        assert_int_equal(ledger_store_health(s, NULL), want);
        assert_int_equal(ledger_store_check(s, no_finding, NULL, NULL), want);
        assert_int_equal(ledger_store_check(s, NULL, NULL, NULL), i ? want : LEDGER_ERR_INVALID);
        assert_int_equal(ledger_store_trim(s, "s", id, NULL, NULL), want);
    }
    ledger_store_close(&store);
}

#if LDG_WITH_SQLITE
static void a_connection_of_the_callers_own(void **state)
{
    sqlite3 *db = NULL;
    ledger_store *store = NULL, *again = NULL;
    ledger_error err;
    assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
    const ledger_store_options options = { .size = sizeof(options),
                                           .connection = db,
                                           .flags = LEDGER_STORE_CREATE };
    assert_int_equal(ledger_store_open(&options, &store, &err), LEDGER_OK);
    assert_string_equal(ledger_store_url(store), "");
    assert_string_equal(ledger_store_backend(store), "sqlite");
    /* in the caller's own transaction */
    assert_int_equal(sqlite3_exec(db, "BEGIN", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(append(store, "1", &err), LEDGER_OK);
    assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(count(store), 0);
    assert_int_equal(append(store, "1", &err), LEDGER_OK);
    assert_int_equal(count(store), 1);
    /* a database without a name cannot be opened twice */
    assert_int_equal(ldg_store_reopen(store, LDG_ROLE_SINK, NULL, &again, &err),
                     LEDGER_ERR_INVALID);
    ledger_store_close(&store);
    assert_int_equal(sqlite3_exec(db, "SELECT 1", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}
#endif

/* --- the n-th allocation fails --------------------------------------------------------------- */

static ledger_rc run_everything(void *ctx)
{
    ledger_store_options options;
    ledger_store *store = NULL, *again = NULL;
    ledger_batch *batch = NULL;
    ledger_names names = { 0 };
    ledger_ids ids = { 0 };
    const ledger_pair pairs[] = { { "z", "1" }, { "a", "2" } };
    const char *const tags[] = { "x", "y" };
    const ledger_append_input inputs[] = {
        { .payload = bytes("{\"a\":\"b\"}"),
          .metadata = { pairs, 2 },
          .tags = { tags, 2 },
          .dedup_key = "k",
          .order_key = "o" },
        { .payload = bytes("2") },
    };
    const ledger_read_options read = { .size = sizeof(read), .metadata = { pairs, 1 }, .tag = "x" };
    char text[LEDGER_ID_TEXT_MAX];
    ledger_error err;

    ledger_store_options_defaults(&options);
    options.url = "memory:alloc";
    options.flags = LEDGER_STORE_CREATE;
    ledger_rc rc = ledger_store_open(&options, &store, &err);
    if (rc == LEDGER_OK)
        rc = ledger_store_append(store, "s", inputs, 2, &ids, &err);
    if (rc == LEDGER_OK)
        rc = ledger_store_set_tags(store, "s", ids.items[0], (ledger_list){ tags, 1 }, &err);
    if (rc == LEDGER_OK)
        rc = ledger_store_set_annotations(store, "s", ids.items[0], (ledger_map){ pairs, 2 }, &err);
    if (rc == LEDGER_OK)
        rc = ledger_store_read(store, "s", &read, &batch, &err);
    ledger_batch_destroy(&batch);
    if (rc == LEDGER_OK)
        rc = ledger_store_search(store, NULL, "b", NULL, &batch, &err);
    ledger_batch_destroy(&batch);
    if (rc == LEDGER_OK)
        rc = ledger_store_list_streams(store, NULL, 0, &names, &err);
    ledger_names_destroy(&names);
    if (rc == LEDGER_OK)
        rc = ledger_store_begin(store, &err);
    if (rc == LEDGER_OK)
        rc = ledger_store_append(store, "t", &inputs[1], 1, NULL, &err);
    if (rc == LEDGER_OK)
        rc = ledger_store_trim(store, "s", ids.items[1], NULL, &err);
    if (rc == LEDGER_OK)
        rc = ledger_store_commit(store, &err);
    if (rc == LEDGER_OK)
        rc = ledger_store_cursor_set(store, "c", "1", &err);
    if (rc == LEDGER_OK)
        rc = ledger_store_cursor_get(store, "c", text, &err);
    if (rc == LEDGER_OK)
        rc = ldg_store_reopen(store, LDG_ROLE_SOURCE, NULL, &again, &err);
    ledger_ids_destroy(&ids);
    ledger_store_close(&again);
    ledger_store_close(&store);
    return rc;
}

static void out_of_memory(void **state)
{
    assert_true(alloc_fail_each(run_everything, NULL) > 20);
}

/* A write that fails for memory leaves nothing, whatever allocation it was. */
static void out_of_memory_writes_nothing(void **state)
{
    ledger_store *store = open_memory("memory:nothing");
    const ledger_pair pairs[] = { { "z", "1" }, { "a", "2" } };
    const ledger_append_input inputs[] = {
        { .payload = bytes("1"), .dedup_key = "k1", .metadata = { pairs, 2 } },
        { .payload = bytes("2"), .dedup_key = "k2" },
    };
    struct ldg_log_stat stat;
    ledger_error err;
    assert_int_equal(append(store, "1", &err), LEDGER_OK);
    for (uint64_t n = 1;; n++) {
        alloc_fail_at(n);
        ledger_rc rc = ledger_store_append(store, "new stream", inputs, 2, NULL, &err);
        alloc_fail_off();
        if (rc == LEDGER_OK)
            break;
        assert_int_equal(rc, LEDGER_ERR_NOMEM);
        assert_int_equal(count(store), 1);
        assert_int_equal(ldg_store_log_stat(store, "", &stat, &err), LEDGER_OK);
        assert_int_equal(stat.head, 1);
    }
    assert_int_equal(count(store), 3);
    ledger_store_close(&store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failing_commits),
        cmocka_unit_test(writes_wake),
        cmocka_unit_test(backend_errors_come_through),
        cmocka_unit_test(missing_callbacks_are_unsupported),
        cmocka_unit_test(errors_may_be_null),
#if LDG_WITH_SQLITE
        cmocka_unit_test(a_connection_of_the_callers_own),
#endif
        cmocka_unit_test(out_of_memory),
        cmocka_unit_test(out_of_memory_writes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
