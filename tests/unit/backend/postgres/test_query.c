/* Reading, searching, history: filters, pages bounded by bytes, rows that others have written. */
#include "handle.h"

#include <stdlib.h>

#include "alloc_fail.h"

struct fixture {
    struct tst_env *env;
    ledger_store *store;
    char url[300];
    PGconn *conn;
};

static int setup(void **state)
{
    struct fixture *f = test_calloc(1, sizeof(*f));
    void *env = NULL;

    tst_pg_require();
    if (tst_setup(&env) != 0)
        return -1;
    f->env = env;
    snprintf(f->url, sizeof(f->url), "%s", tst_url(f->env, TST_POSTGRES, "a"));
    f->store = tst_open(f->env, TST_POSTGRES, "a");
    f->conn = tst_pg_connect_url(f->url);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    void *env = f->env;

    PQfinish(f->conn);
    test_free(f);
    return tst_teardown(&env);
}

static void open_handle(struct fixture *f, struct ldg_pg *pg)
{
    handle_open(pg, f->url, LEDGER_DEFAULT_TABLE, LDG_ROLE_USER, LEDGER_MUTATION_LOG_AUTO, 0);
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

/* A value that is no string is none that can be asked for. */
static void test_filters_and_numbers(void **state)
{
    struct fixture *f = *state;
    const ledger_pair x1[] = { { "x", "1" } };
    const ledger_append_input input = { .payload = { "1", 1 }, .metadata = { x1, 1 } };
    ledger_error err = { 0 };

    tst_ok(ledger_store_append(f->store, "s", &input, 1, NULL, &err), &err);
    tst_append(f->store, "s", "2", NULL, NULL);
    tst_pg_sql(f->conn, "UPDATE ledger_entries SET metadata = '{\"x\": 1}' WHERE id = 2");
    assert_string_equal(ids_of(f, "s", NULL, OPTIONS(.metadata = { x1, 1 })), "1");
}

/* The server sends what fits; large rows that do not are not even loaded there. */
static void test_max_bytes(void **state)
{
    struct fixture *f = *state;
    char payload[3000];
    const char *long_tag[1];
    char tag[2000];
    ledger_error err = { 0 };

    memset(payload, '1', sizeof(payload));
    memset(tag, 'x', sizeof(tag));
    tag[sizeof(tag) - 1] = '\0';
    long_tag[0] = tag;
    const ledger_append_input inputs[] = {
        { .payload = { payload, sizeof(payload) } },
        { .payload = { payload, sizeof(payload) } },
        { .payload = { "1", 1 }, .tags = { long_tag, 1 } },
        { .payload = { "1", 1 } },
    };
    tst_ok(ledger_store_append(f->store, "s", inputs, 4, NULL, &err), &err);
#define IDS(max, desc) ids_of(f, "s", NULL, OPTIONS(.max_bytes = (max), .descending = (desc)))
    assert_string_equal(IDS(1, false), "1");
    assert_string_equal(IDS(7500, false), "1 2");
    assert_string_equal(IDS(9500, false), "1 2 3 4");
    assert_string_equal(IDS(1, true), "4");
    assert_string_equal(IDS(2000, true), "4");
    assert_string_equal(IDS(3000, true), "4 3");
    assert_string_equal(IDS(0, false), "1 2 3 4");
#undef IDS

    /* 400 rows of 2 MB in a page of 10,000: two of them come. */
    tst_pg_sql(f->conn, "INSERT INTO ledger_entries(stream, payload) SELECT 'large', "
                        "convert_to('\"' || repeat('x', 2000000) || '\"', 'UTF8') "
                        "FROM generate_series(1, 400)");
    ledger_batch *batch = NULL;
    const ledger_read_options o = { .size = sizeof(o), .limit = 10000, .max_bytes = 5000000 };
    tst_ok(ledger_store_read(f->store, "large", &o, &batch, &err), &err);
    assert_int_equal(ledger_batch_count(batch), 2);
    assert_int_equal(ledger_batch_entry(batch, 1)->payload.size, 2000002);
    ledger_batch_destroy(&batch);
}

/* What is no UTF-8 does not end a search, and is found. */
static void test_search_without_text(void **state)
{
    struct fixture *f = *state;

    tst_pg_sql(f->conn, "INSERT INTO ledger_entries(stream, payload) VALUES "
                        "('u', '\\xff48656c6c6fc3'), ('u', '\\x0048656c6c6fc384')");
    assert_string_equal(ids_of(f, "u", "hELLO", NULL), "1 2");
    assert_string_equal(ids_of(f, "u", "o\xc3\x84", NULL), "2");
}

static void test_full_text(void **state)
{
    struct fixture *f = *state;
    ledger_store_options o;
    ledger_error err = { 0 };
    ledger_batch *batch = NULL;

    tst_append(f->store, "s", "\"the quick fox\"", NULL, NULL);
    tst_append(f->store, "s", "\"the quicker fox\"", NULL, NULL);
    tst_append(f->store, "t", "{\"a\":\"Fox and Qu\xc3\xa4ke\"}", NULL, NULL);
    const ledger_read_options words = { .size = sizeof(words), .full_text = true };
    tst_fails(ledger_store_search(f->store, NULL, "fox", &words, &batch, &err),
              LEDGER_ERR_UNSUPPORTED, &err);
    assert_non_null(strstr(err.message, "--full-text"));

    ledger_store_options_defaults(&o);
    o.flags = LEDGER_STORE_CREATE | LEDGER_STORE_FULL_TEXT;
    f->store = tst_open_with(f->env, TST_POSTGRES, "a", &o);
    assert_string_equal(ids_of(f, NULL, "fox", &words), "1 2 3");
    assert_string_equal(ids_of(f, "s", "fox QUICK", &words), "1");
    assert_string_equal(ids_of(f, NULL, "qu\xc3\xa4ke", &words), "3");
    assert_string_equal(ids_of(f, NULL, "qui", &words), "");
    assert_string_equal(ids_of(f, NULL, "' | & !", &words), "");
    tst_pg_sql(f->conn,
               "INSERT INTO ledger_entries(stream, payload) VALUES ('u', '\\xff00666f78')");
    assert_string_equal(ids_of(f, "t", "fox", &words), "3");
}

static void test_damaged_rows(void **state)
{
    static const struct {
        const char *set, *column;
    } rows[] = {
        { "tags = '{}'", "tags" },
        { "tags = '\"x\"'", "tags" },
        { "tags = '[1]'", "tags" },
        { "metadata = '[]'", "metadata" },
        { "metadata = '{\"a\": {}}'", "metadata" },
        { "annotations = '5'", "annotations" },
    };
    struct fixture *f = *state;
    ledger_error err = { 0 };
    ledger_batch *batch = NULL;
    char name[64];

    tst_append(f->store, "s", "1", NULL, NULL);
    tst_append(f->store, "s", "2", NULL, NULL);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        tst_pg_sql(f->conn, "UPDATE ledger_entries SET %s WHERE id = 2", rows[i].set);
        tst_fails(ledger_store_read(f->store, "s", NULL, &batch, &err), LEDGER_ERR_DATA, &err);
        snprintf(name, sizeof(name), "row 2: column %s", rows[i].column);
        if (!strstr(err.message, name))
            tst_fail("%s: %s", rows[i].set, err.message);
        assert_string_equal(ids_of(f, "s", NULL, OPTIONS(.limit = 1)), "1");
        tst_pg_sql(f->conn, "UPDATE ledger_entries SET tags = '[]', metadata = NULL, "
                            "annotations = NULL WHERE id = 2");
    }
    /* What the table cannot hold may not be JSON, and JSON null is nothing. */
    tst_pg_sql(f->conn, "UPDATE ledger_entries SET payload = '', tags = 'null', metadata = 'null', "
                        "created_at = '-infinity', updated_at = 'infinity' WHERE id = 2");
    tst_ok(ledger_store_read(f->store, "s", NULL, &batch, &err), &err);
    const ledger_entry *e = ledger_batch_entry(batch, 1);
    assert_int_equal(e->payload.size, 0);
    assert_int_equal(e->tags.count, 0);
    assert_int_equal(e->metadata.count, 0);
    assert_true(e->created_at_us == LEDGER_NO_TIME && e->updated_at_us == LEDGER_NO_TIME);
    ledger_batch_destroy(&batch);
}

/* The history is for comparing: damaged columns come as they are. */
static void test_damaged_history(void **state)
{
    struct fixture *f = *state;
    struct ldg_pg pg;
    struct ldg_arena arena;
    struct ldg_history_row *rows = NULL;
    ledger_error err = { 0 };
    size_t count = 0;

    ldg_arena_init(&arena, 0);
    tst_append(f->store, "s", "1", NULL, NULL);
    open_handle(f, &pg);
    tst_pg_sql(f->conn, "UPDATE ledger_entries SET metadata = '[1]', tags = '{\"a\": 1}', "
                        "annotations = '\"x\"'");
    tst_ok(ldg_pg_history(&pg, 0, ldg_id_of(0), 10, 0, &arena, &rows, &count, &err), &err);
    assert_int_equal(count, 1);
    const ledger_entry *odd = rows[0].entry;
    assert_int_equal(odd->metadata.count, 1);
    assert_string_equal(odd->metadata.items[0].key, "");
    assert_string_equal(odd->metadata.items[0].value, "[1]");
    assert_int_equal(odd->tags.count, 1);
    assert_string_equal(odd->tags.items[0], "{\"a\": 1}");
    assert_string_equal(odd->annotations.items[0].value, "\"x\"");
    handle_close(&pg);
    ldg_arena_fini(&arena);
}

/* What is not among the ids that are known, up to the last of them. */
static void test_read_gaps(void **state)
{
    struct fixture *f = *state;
    const int64_t known[] = { 2, 3, 5, 99 };
    const ledger_read_options o = {
        .size = sizeof(o), .has_after = true, .after = { .number = 1 }, .limit = 2
    };
    struct ldg_pg pg;
    struct ldg_arena arena;
    ledger_entry *entries = NULL;
    ledger_error err = { 0 };
    size_t count = 0;

    for (int i = 0; i < 8; i++)
        tst_append(f->store, i == 5 ? "t" : "s", "1", NULL, NULL);
    ldg_arena_init(&arena, 0);
    open_handle(f, &pg);
    tst_ok(ldg_pg_read_gaps(&pg, "s", &o, known, 4, &arena, &entries, &count, &err), &err);
    assert_int_equal(count, 2);
    assert_int_equal(entries[0].id.number, 4);
    assert_int_equal(entries[1].id.number, 7);
    tst_ok(ldg_pg_read_gaps(&pg, NULL, &o, known, 3, &arena, &entries, &count, &err), &err);
    assert_int_equal(count, 1);
    assert_int_equal(entries[0].id.number, 4);
    tst_ok(ldg_pg_read_gaps(&pg, NULL, &o, known, 1, &arena, &entries, &count, &err), &err);
    assert_int_equal(count, 0);
    handle_close(&pg);
    ldg_arena_fini(&arena);
}

/* Of a large table that nobody has analyzed a page costs a page, from wherever it begins. */
static void test_history_without_statistics(void **state)
{
    static const int origins[] = { 0, 1, LDG_ORIGIN_UNCLAIMED };
    struct fixture *f = *state;
    struct ldg_history_row *rows = NULL;
    struct ldg_arena arena;
    struct ldg_pg pg;
    size_t count = 0;
    ledger_error err = { 0 };

    tst_pg_sql(f->conn, "ALTER TABLE ledger_entries SET (autovacuum_enabled = false)");
    tst_pg_sql(f->conn,
               "INSERT INTO ledger_entries (stream, payload, origin, source_pos, source_id) "
               "SELECT 's', '1', i %% 3 / 2, CASE WHEN i %% 3 = 2 THEN i END, "
               "CASE WHEN i %% 3 = 1 THEN i::text ELSE '' END "
               "FROM generate_series(1, 30000) AS i");
    open_handle(f, &pg);
    ldg_arena_init(&arena, 0);
    tst_ok(ldg_backend_postgres.verify->snapshot_begin(&pg, &err),
           &err); /* scans are counted in it */
    for (int i = 0; i < 3; i++) {
        tst_ok(
            ldg_pg_history(&pg, origins[i], ldg_id_of(25000), 100, 0, &arena, &rows, &count, &err),
            &err);
        assert_int_equal(count, 100);
    }
    PGresult *result = PQexec(pg.conn, "SELECT pg_stat_get_xact_numscans(c), "
                                       "pg_stat_get_xact_tuples_fetched(c) < 1000 "
                                       "FROM (SELECT 'ledger_entries'::regclass AS c) AS x");
    assert_string_equal(PQgetvalue(result, 0, 0), "0");
    assert_string_equal(PQgetvalue(result, 0, 1), "t");
    PQclear(result);
    ldg_backend_postgres.verify->snapshot_end(&pg);
    ldg_arena_fini(&arena);
    handle_close(&pg);
}

struct oom {
    struct ldg_pg *pg;
};

static ledger_rc oom_run(void *ctx)
{
    struct oom *oom = ctx;
    const char *tags[] = { "a", "b" };
    const ledger_pair pairs[] = { { "x", "1" } };
    const ledger_read_options o = { .size = sizeof(o),
                                    .tag = "a",
                                    .all_tags = { tags, 2 },
                                    .metadata = { pairs, 1 },
                                    .annotations = { pairs, 1 },
                                    .order_key = "o" };
    struct ldg_history_row *rows;
    ledger_entry *entries;
    ledger_error err = { 0 };
    struct ldg_arena arena;
    size_t count;

    ldg_arena_init(&arena, 0);
    ledger_rc rc = ldg_pg_read(oom->pg, "s", "1", &o, &arena, &entries, &count, &err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_history(oom->pg, 0, ldg_id_of(0), 10, 0, &arena, &rows, &count, &err);
    ldg_arena_fini(&arena);
    return rc;
}

static void test_out_of_memory(void **state)
{
    struct fixture *f = *state;
    const char *tags[] = { "a", "b" };
    const ledger_pair pairs[] = { { "x", "1" } };
    const ledger_append_input input = {
        .payload = { "1", 1 }, .order_key = "o", .tags = { tags, 2 }, .metadata = { pairs, 1 }
    };
    struct ldg_pg pg;
    struct oom oom = { .pg = &pg };
    ledger_error err = { 0 };

    tst_ok(ledger_store_append(f->store, "s", &input, 1, NULL, &err), &err);
    tst_annotate(f->store, "s", 1, "x", "1");
    open_handle(f, &pg);
    alloc_fail_each(oom_run, &oom);
    handle_close(&pg);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_filters_and_numbers), TEST(test_max_bytes),
        TEST(test_search_without_text), TEST(test_full_text),
        TEST(test_damaged_rows),        TEST(test_damaged_history),
        TEST(test_read_gaps),           TEST(test_history_without_statistics),
        TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
