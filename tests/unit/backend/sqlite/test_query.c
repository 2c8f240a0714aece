/* Reading, searching, statistics, history: filters, text forms of other writers, damaged rows. */
#include "handle.h"

#include <stdlib.h>

#include "alloc_fail.h"
#include "go_tables.h"

struct fixture {
    struct tst_env *env;
    ledger_store *store;
    sqlite3 *db;
};

static int setup(void **state)
{
    struct fixture *f = test_malloc(sizeof(*f));
    void *env = NULL;
    if (tst_setup(&env) != 0)
        return -1;
    f->env = env;
    f->store = tst_open(f->env, TST_SQLITE, "a");
    f->db = tst_sqlite(f->store);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    void *env = f->env;
    sqlite3_close(f->db);
    test_free(f);
    return tst_teardown(&env);
}

/* Ids of what a read gives, as "1 2 3". */
#define OPTIONS(...) (&(ledger_read_options){ .size = sizeof(ledger_read_options), __VA_ARGS__ })

static const char *ids_of(struct fixture *f, const char *stream, const char *search,
                          const ledger_read_options *o)
{
    static char text[256];
    ledger_error err = { 0 };
    ledger_batch *batch = NULL;
    if (search)
        tst_ok(ledger_store_search(f->store, stream, search, o, &batch, &err), &err);
    else
        tst_ok(ledger_store_read(f->store, stream, o, &batch, &err), &err);
    text[0] = '\0';
    for (size_t i = 0; i < ledger_batch_count(batch); i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%lld", i ? " " : "",
                 (long long)ledger_batch_entry(batch, i)->id.number);
    ledger_batch_destroy(&batch);
    return text;
}

static ledger_rc read_rc(struct fixture *f, const char *stream, ledger_error *err)
{
    ledger_batch *batch = NULL;
    ledger_rc rc = ledger_store_read(f->store, stream, NULL, &batch, err);
    ledger_batch_destroy(&batch);
    return rc;
}

/* Go writes the same strings with other escapes. */
static void test_filters_and_escapes(void **state)
{
    struct fixture *f = *state;
    const ledger_pair x1[] = { { "x", "1" } };
    const char *a[] = { "a" };
    const ledger_append_input inputs[] = {
        { .payload = { "1", 1 }, .tags = { a, 1 }, .metadata = { x1, 1 } },
        { .payload = { "2", 1 } },
        { .payload = { "3", 1 } },
    };
    ledger_error err = { 0 };
    tst_ok(ledger_store_append(f->store, "s", inputs, 3, NULL, &err), &err);
    tst_exec(f->db, "UPDATE ledger_entries SET tags = '[\"\\u0061\"]', "
                    "metadata = '{ \"\\u0078\" : \"\\u0031\" }' WHERE id = 2");
    assert_string_equal(ids_of(f, "s", NULL, OPTIONS(.tag = "a")), "1 2");
    assert_string_equal(ids_of(f, "s", NULL, OPTIONS(.metadata = { x1, 1 })), "1 2");
}

static void test_max_bytes(void **state)
{
    struct fixture *f = *state;
    char payload[3000];
    memset(payload, '1', sizeof(payload));
    const ledger_append_input inputs[] = { { .payload = { payload, sizeof(payload) } },
                                           { .payload = { payload, sizeof(payload) } },
                                           { .payload = { payload, sizeof(payload) } } };
    ledger_error err = { 0 };
    tst_ok(ledger_store_append(f->store, "s", inputs, 3, NULL, &err), &err);
    assert_string_equal(ids_of(f, "s", NULL, OPTIONS(.max_bytes = 1)), "1");
    assert_string_equal(ids_of(f, "s", NULL, OPTIONS(.max_bytes = 7500)), "1 2");
    assert_string_equal(ids_of(f, "s", NULL, OPTIONS(.max_bytes = 100000)), "1 2 3");
}

/* A payload is looked through in pieces. */
static void test_search_in_pieces(void **state)
{
    struct fixture *f = *state;
    const size_t size = 3 * 1024 * 1024;
    ledger_error err = { 0 };
    char *big = test_malloc(size);
    /* Across the border of two pieces, and only there. */
    memset(big, '.', size);
    big[0] = big[size - 1] = '"';
    memcpy(big + 256 * 1024 - 3, "nEEdle", 6);
    const ledger_append_input input = { .payload = { big, size } };
    tst_ok(ledger_store_append(f->store, "s", &input, 1, NULL, &err), &err);
    test_free(big);

    assert_string_equal(ids_of(f, "s", "needle", NULL), "1");
    assert_string_equal(ids_of(f, "s", "needles", NULL), "");
    assert_string_equal(ids_of(f, "s", ".\"", NULL), "1");
    /* Longer than a piece. */
    char *needle = test_malloc(size);
    memset(needle, '.', size);
    needle[300 * 1024] = '\0';
    assert_string_equal(ids_of(f, "s", needle, NULL), "1");
    needle[300 * 1024 - 1] = 'x';
    assert_string_equal(ids_of(f, "s", needle, NULL), "");
    test_free(needle);
}

/* Rows of other programs: text payloads, other precisions of time. */
static void test_plain_rows(void **state)
{
    struct fixture *f = *state;
    ledger_error err = { 0 };
    ledger_batch *batch = NULL;
    tst_exec(f->db,
             "INSERT INTO ledger_entries(stream, payload, created_at, updated_at, "
             "annotations) VALUES "
             "('s', '{\"a\":\"ä\"}', '2026-11-23T03:42:14', '2026-11-23 03:42:14.5', 'null'), "
             "('s', 17, '2026-11-23T03:42:14.123456Z', NULL, NULL), "
             "('s', '', '2026-11-23T05:42:14+02:00', NULL, '{}')");
    tst_ok(ledger_store_read(f->store, "s", NULL, &batch, &err), &err);
    assert_int_equal(ledger_batch_count(batch), 3);
    const ledger_entry *e = ledger_batch_entry(batch, 0);
    assert_int_equal(e->payload.size, 10);
    assert_memory_equal(e->payload.data, "{\"a\":\"\xc3\xa4\"}", 10);
    assert_int_equal(e->created_at_us, 1795405334000000);
    assert_int_equal(e->updated_at_us, 1795405334500000);
    assert_int_equal(e->annotations.count, 0);
    e = ledger_batch_entry(batch, 1);
    assert_memory_equal(e->payload.data, "17", 2);
    assert_int_equal(e->created_at_us, 1795405334123456);
    assert_true(e->updated_at_us == LEDGER_NO_TIME);
    e = ledger_batch_entry(batch, 2);
    assert_int_equal(e->payload.size, 0);
    assert_int_equal(e->created_at_us, 1795405334000000);
    ledger_batch_destroy(&batch);
}

static void test_damaged_rows(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *set, *said;
    } cases[] = {
        { "metadata = '{'", "metadata" },
        { "metadata = '[]'", "metadata" },
        { "metadata = '{\"a\":1}'", "metadata" },
        { "tags = '{}'", "tags" },
        { "tags = ''", "tags" },
        { "annotations = '{\"a\":null}'", "annotations" },
        { "created_at = 'yesterday'", "created_at" },
        { "created_at = 1700000000", "created_at" },
        { "updated_at = ''", "updated_at" },
        { "order_key = CAST(x'610062' AS TEXT)", "order_key" },
        { "dedup_key = CAST(x'ff' AS TEXT)", "dedup_key" },
        { "schema_version = 4294967297", "4294967297" },
        { "schema_version = -2147483649", "schema_version" },
        { "schema_version = 1.5", "schema_version" },
        { "schema_version = 'two'", "schema_version" },
        { "tags = '[\"a\\u0000b\"]'", "tags" },
        { "metadata = '{\"a\\u0000b\":\"\"}'", "metadata" },
    };
    tst_append(f->store, "s", "1", NULL, NULL);
    tst_append(f->store, "s", "2", NULL, NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ledger_error err = { 0 };
        tst_exec(f->db, "SAVEPOINT x; UPDATE ledger_entries SET %s WHERE id = 2; RELEASE x",
                 cases[i].set);
        tst_fails(read_rc(f, "s", &err), LEDGER_ERR_DATA, &err);
        if (!strstr(err.message, cases[i].said) || !strstr(err.message, "row 2"))
            tst_fail("%s: %s", cases[i].set, err.message);
        tst_exec(f->db, "UPDATE ledger_entries SET metadata = NULL, tags = '[]', "
                        "annotations = NULL, created_at = '2026-01-01T00:00:00.000', "
                        "updated_at = NULL, order_key = '', dedup_key = '', schema_version = 1");
    }
    ledger_error err = { 0 };
    ledger_stream_stat stat;
    tst_exec(f->db, "UPDATE ledger_entries SET created_at = 'never' WHERE id = 2");
    tst_fails(ledger_store_stat(f->store, "s", &stat, &err), LEDGER_ERR_DATA, &err);
    /* A name that is none is not cut, and not passed over. */
    static const char *const names[] = { "x'61006200'", "x'61ff'" };
    for (size_t i = 0; i < 2; i++) {
        ledger_names list = { 0 };
        tst_exec(f->db, "UPDATE ledger_entries SET stream = CAST(%s AS TEXT) WHERE id = 2",
                 names[i]);
        tst_fails(ledger_store_list_streams(f->store, NULL, 0, &list, &err), LEDGER_ERR_DATA, &err);
        if (!strstr(err.message, "stream") || !strstr(err.message, "row 2"))
            tst_fail("%s", err.message);
        tst_fails(read_rc(f, NULL, &err), LEDGER_ERR_DATA, &err);
    }
    tst_exec(f->db, "UPDATE ledger_entries SET stream = 's' WHERE id = 2");
    /* A row that a filter passes over is not looked at further. */
    assert_string_equal(
        ids_of(f, "s", NULL, OPTIONS(.metadata = { (ledger_pair[]){ { "a", "b" } }, 1 })), "");
}

/* The history is for comparing: a damaged row is a difference, not the end of it. */
static void test_damaged_history(void **state)
{
    struct fixture *f = *state;
    struct ldg_sqlite s;
    struct ldg_arena arena;
    struct ldg_history_row *rows = NULL;
    ledger_entry *entry = NULL;
    size_t count = 0;
    ledger_error err = { 0 };
    ldg_arena_init(&arena, 0);
    tst_append(f->store, "s", "1", NULL, NULL);
    tst_append(f->store, "s", " 2 ", NULL, NULL);
    tst_append(f->store, "s", "3", NULL, NULL);
    tst_exec(f->db, "UPDATE ledger_entries SET metadata = '{', tags = 'a,b', annotations = '', "
                    "created_at = '2025-11-24', updated_at = 'never', order_key = "
                    "CAST(x'61ff00' AS TEXT), schema_version = 4294967297 WHERE id = 2");
    handle_open(&s, tst_path(f->env, "a.db"), LDG_ROLE_SOURCE, 0);
    tst_ok(ldg_sqlite_history(&s, 0, ldg_id_of(0), 10, 0, &arena, &rows, &count, &err), &err);
    assert_int_equal(count, 3);
    assert_int_equal(rows[2].entry->tags.count, 0);
    const ledger_entry *odd = rows[1].entry;
    assert_int_equal(odd->metadata.count, 1);
    assert_string_equal(odd->metadata.items[0].key, "");
    assert_string_equal(odd->metadata.items[0].value, "{");
    assert_int_equal(odd->tags.count, 1);
    assert_string_equal(odd->tags.items[0], "a,b");
    assert_int_equal(odd->annotations.count, 1);
    assert_string_equal(odd->annotations.items[0].value, "");
    assert_true(odd->created_at_us == LEDGER_NO_TIME);
    assert_true(odd->updated_at_us == LEDGER_NO_TIME);
    assert_string_equal(odd->order_key, "a??");
    assert_int_equal(odd->schema_version, INT32_MAX);
    /* What an event of Go is completed from does not depend on the rest of the row. */
    tst_ok(ldg_sqlite_entries_by_id(&s, &(ledger_id){ .number = 2 }, 1, &arena, &entry, &err),
           &err);
    assert_int_equal(entry->payload.size, 3);
    assert_memory_equal(entry->payload.data, " 2 ", 3);
    assert_string_equal(entry->stream, "s");
    assert_string_equal(entry->order_key, "");
    assert_int_equal(entry->tags.count, 0);
    assert_true(entry->created_at_us == LEDGER_NO_TIME);
    tst_exec(f->db, "UPDATE ledger_entries SET created_at = '2025-11-24T16:00:00.500'");
    tst_ok(ldg_sqlite_entries_by_id(&s, &(ledger_id){ .number = 2 }, 1, &arena, &entry, &err),
           &err);
    assert_true(entry->created_at_us == 1764000000500000);
    tst_exec(f->db, "UPDATE ledger_entries SET stream = CAST(x'ff' AS TEXT) WHERE id = 2");
    tst_ok(ldg_sqlite_entries_by_id(&s, &(ledger_id){ .number = 2 }, 1, &arena, &entry, &err),
           &err);
    assert_int_equal(entry->id.number, 0);
    handle_close(&s);
    ldg_arena_fini(&arena);
}

/* Many rows in one stream cost one step. */
static void test_streams_are_skipped(void **state)
{
    struct fixture *f = *state;
    ledger_error err = { 0 };
    ledger_names names = { 0 };
    tst_append(f->store, "a", "1", NULL, NULL);
    tst_append(f->store, "b", "1", NULL, NULL);
    tst_append(f->store, "z", "1", NULL, NULL);
    tst_exec(f->db, "INSERT INTO ledger_entries(stream, payload) SELECT 'm', '1' FROM "
                    "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                    "WHERE i < 50000) SELECT i FROM n)");
    struct ldg_sqlite s;
    handle_open(&s, tst_path(f->env, "a.db"), LDG_ROLE_USER, 0);
    tst_ok(ldg_sqlite_list_streams(&s, "a", 10, &names, &err), &err);
    assert_int_equal(names.count, 3);
    assert_true(sqlite3_stmt_status(stmt_with(&s, "names(name)"), SQLITE_STMTSTATUS_VM_STEP, 0) <
                1000);
    ledger_names_destroy(&names);
    handle_close(&s);
}

static void test_large_values(void **state)
{
    struct fixture *f = *state;
    const size_t size = 2 * 1024 * 1024;
    ledger_error err = { 0 };
    char *big = test_malloc(size);
    memset(big, '7', size);
    big[0] = big[size - 1] = '"';
    const ledger_append_input input = { .payload = { big, size } };
    tst_ok(ledger_store_append(f->store, "s", &input, 1, NULL, &err), &err);
    /* The same as text, which plain SQL writes. */
    tst_exec(f->db, "INSERT INTO ledger_entries(stream, payload) SELECT 's', "
                    "CAST(payload AS TEXT) FROM ledger_entries");
    ledger_batch *batch = NULL;
    tst_ok(ledger_store_read(f->store, "s", NULL, &batch, &err), &err);
    assert_int_equal(ledger_batch_count(batch), 2);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(ledger_batch_entry(batch, i)->payload.size, size);
        assert_memory_equal(ledger_batch_entry(batch, i)->payload.data, big, size);
    }
    ledger_batch_destroy(&batch);
    test_free(big);
}

struct job {
    struct ldg_sqlite *s;
    int what;
};

static ledger_rc do_job(void *ctx)
{
    struct job *job = ctx;
    ledger_error err;
    struct ldg_arena arena;
    ledger_entry *entries;
    struct ldg_history_row *rows;
    ledger_names names = { 0 };
    size_t count;
    ledger_rc rc = LEDGER_OK;
    ldg_arena_init(&arena, 0);
    switch (job->what) {
    case 0:
        rc =
            ldg_sqlite_read(job->s, NULL, "x", OPTIONS(.tag = "t"), &arena, &entries, &count, &err);
        break;
    case 1:
        rc = ldg_sqlite_read(job->s, "s", NULL, NULL, &arena, &entries, &count, &err);
        break;
    case 2:
        rc = ldg_sqlite_history(job->s, 0, ldg_id_of(0), 100, 0, &arena, &rows, &count, &err);
        break;
    case 3:
        rc = ldg_sqlite_list_streams(job->s, NULL, 100, &names, &err);
        ledger_names_destroy(&names);
        break;
    case 4:
        rc = ldg_sqlite_entries_by_id(job->s, &(ledger_id){ .number = 1 }, 1, &arena, &entries,
                                      &err);
        break;
    }
    ldg_arena_fini(&arena);
    return rc;
}

static void test_allocations(void **state)
{
    struct fixture *f = *state;
    struct ldg_sqlite s;
    ledger_error err = { 0 };
    const size_t size = 1200 * 1024;
    char *big = test_malloc(size);
    memset(big, 'x', size);
    big[0] = big[size - 1] = '"';
    const char *tag = "t";
    const ledger_append_input input = { .payload = { big, size }, .tags = { &tag, 1 } };
    tst_ok(ledger_store_append(f->store, "s", &input, 1, NULL, &err), &err);
    test_free(big);
    tst_append(f->store, "s", "\"x\"", NULL, "t");
    tst_annotate(f->store, "s", 2, "a", "b");
    tst_append(f->store, "t", "\"x\"", NULL, "t");
    tst_append(f->store, "u", "1", NULL, NULL);
    tst_exec(f->db,
             "UPDATE ledger_entries SET annotations = '{', metadata = '[' WHERE stream = 'u'");
    handle_open(&s, tst_path(f->env, "a.db"), LDG_ROLE_USER, 0);
    for (int what = 0; what < 5; what++) {
        struct job job = { &s, what };
        alloc_fail_each(do_job, &job);
    }
    handle_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_filters_and_escapes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_max_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_search_in_pieces, setup, teardown),
        cmocka_unit_test_setup_teardown(test_plain_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_history, setup, teardown),
        cmocka_unit_test_setup_teardown(test_streams_are_skipped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_allocations, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
