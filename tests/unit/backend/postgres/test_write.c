/* Append, tags, annotations: rows as they are stored, and taking part in somebody else's
 * transaction.
 */
#include "handle.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "alloc_fail.h"
#include "base/clock.h"
#include "event/event.h"

#define T LEDGER_DEFAULT_TABLE
#define ENTRIES "SELECT count(*) FROM " T
#define EVENTS "SELECT count(*) FROM " T "_mutations"

struct fixture {
    struct tst_env *env;
    ledger_store *store;
    char url[300];
    PGconn *conn; /* a superuser's, in the store's schema */
    struct ldg_arena arena;
    ledger_error err;
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
    ldg_arena_init(&f->arena, 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    void *env = f->env;
    PQfinish(f->conn);
    ldg_arena_fini(&f->arena);
    test_free(f);
    return tst_teardown(&env);
}

static int nibble(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* The n-th event from the end; 0 is the last. */
static ledger_mutation_event event_at(struct fixture *f, int n)
{
    ledger_mutation_event event;
    char *hex = tst_pg_sql_text(f->conn,
                                "SELECT encode(payload, 'hex') FROM " T "_mutations "
                                "WHERE stream = '_' AND schema_version = 1 AND txid IS NOT NULL "
                                "ORDER BY id DESC OFFSET %d LIMIT 1",
                                n);
    const size_t size = strlen(hex) / 2;
    char *json = ldg_arena_alloc(&f->arena, size + 1);
    for (size_t i = 0; i < size; i++)
        json[i] = (char)(nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1]));
    free(hex);
    tst_ok(ldg_event_decode((ledger_bytes){ json, size }, &f->arena, &event, &f->err), &f->err);
    return event;
}

static int64_t count(struct fixture *f, const char *sql)
{
    return tst_pg_sql_int(f->conn, "%s", sql);
}

static int64_t fixed_now_us(void)
{
    return 1795405334123456; /* 2026-11-23T03:42:14.123456Z */
}

/* --- append ---------------------------------------------------------------------------------- */

static void check_row(struct fixture *f, int64_t id)
{
    assert_int_equal(
        tst_pg_sql_int(f->conn,
                       "SELECT count(*) FROM " T " WHERE id = %lld AND stream = 's' "
                       "AND payload = '\\x207b226e223a20312e35307d20' AND order_key = 'o' "
                       "AND dedup_key = 'k' AND schema_version = 3 "
                       "AND metadata = '{\"a\":\"<&>\",\"z\":\"2\"}' AND tags = '[\"b\",\"a\"]' "
                       "AND annotations IS NULL AND source_id = '' AND updated_at IS NULL "
                       "AND origin = 0 AND source_pos IS NULL AND mutation_pos IS NULL "
                       "AND created_at = '2026-11-23T03:42:14.123456Z'",
                       (long long)id),
        1);
}

/* One entry, and many, go different ways to the same rows. */
static void test_append(void **state)
{
    struct fixture *f = *state;
    const ledger_pair metadata[] = { { "z", "1" }, { "a", "<&>" }, { "z", "2" } };
    const char *tags[] = { "b", "a" };
    const ledger_append_input inputs[] = {
        { .payload = { " {\"n\": 1.50} ", 13 },
          .order_key = "o",
          .dedup_key = "k",
          .schema_version = 3,
          .metadata = { metadata, 3 },
          .tags = { tags, 2 } },
        { .payload = { "null", 4 }, .dedup_key = "k" },
        { .payload = { "\"<\"", 3 } },
    };
    for (int round = 0; round < 2; round++) {
        const size_t given = round ? 3 : 1, fresh = round ? 2 : 1;
        ledger_ids ids = { 0 };
        ldg_clock_set_now(fixed_now_us);
        tst_ok(ledger_store_append(f->store, "s", inputs, given, &ids, &f->err), &f->err);
        ldg_clock_set_now(NULL);
        assert_int_equal(ids.count, fresh);
        assert_null(ids.items[0].text);
        check_row(f, ids.items[0].number);
        if (round) {
            assert_true(ids.items[1].number > ids.items[0].number);
            assert_int_equal(tst_pg_sql_int(f->conn,
                                            ENTRIES " WHERE id = %lld AND metadata IS NULL "
                                                    "AND tags = '[]' AND schema_version = 1",
                                            (long long)ids.items[1].number),
                             1);
        }
        /* One event for the call, with the new entries only. */
        assert_int_equal(count(f, EVENTS), 1);
        assert_int_equal(count(f, EVENTS " WHERE created_at = '2026-11-23T03:42:14.123456Z' "
                                         "AND tags = '[]' AND schema_version = 1"),
                         1);
        ledger_mutation_event event = event_at(f, 0);
        assert_int_equal(event.type, LEDGER_MUTATION_APPEND);
        assert_string_equal(event.stream, "s");
        assert_int_equal(event.entry_count, fresh);
        for (size_t i = 0; i < fresh; i++)
            assert_int_equal(strtoll(event.entries[i].id, NULL, 10), ids.items[i].number);
        assert_int_equal(event.entries[0].created_at_us, fixed_now_us());
        assert_int_equal(event.entries[0].payload.size, 13);
        assert_int_equal(event.entries[0].metadata.count, 2);
        assert_int_equal(event.entries[0].tags.count, 2);
        assert_int_equal(event.entries[0].schema_version, 3);
        assert_string_equal(event.entries[0].order_key, "o");
        assert_string_equal(event.origin, "");
        ledger_ids_destroy(&ids);
        /* All of them known: nothing is written, no event. */
        for (size_t n = 1; n <= 2; n++) {
            tst_ok(ledger_store_append(f->store, "s", inputs, n, &ids, &f->err), &f->err);
            assert_int_equal(ids.count, 0);
            assert_null(ids.items);
        }
        assert_int_equal(count(f, EVENTS), 1);
        /* The key belongs to its stream. */
        tst_ok(ledger_store_append(f->store, "t", inputs, 1, NULL, &f->err), &f->err);
        assert_int_equal(count(f, EVENTS), 2);
        tst_pg_sql(f->conn, "TRUNCATE " T ", " T "_mutations");
    }
}

/* Only the duplicate is passed over; whatever else the database refuses is an error. */
static void w19_only_duplicates_are_ignored(void **state)
{
    struct fixture *f = *state;
    tst_pg_sql(f->conn, "CREATE UNIQUE INDEX mine ON " T "(order_key) WHERE order_key != ''; "
                        "ALTER TABLE " T " ADD CHECK (stream != 'no')");
    const ledger_append_input inputs[] = {
        { .payload = { "1", 1 }, .dedup_key = "a" },
        { .payload = { "1", 1 }, .dedup_key = "b", .order_key = "o" },
    };
    ledger_ids ids = { 0 };
    tst_ok(ledger_store_append(f->store, "s", &inputs[1], 1, NULL, &f->err), &f->err);
    const ledger_append_input again = { .payload = { "1", 1 }, .order_key = "o" };
    tst_fails(ledger_store_append(f->store, "s", &again, 1, NULL, &f->err), LEDGER_ERR_REJECTED,
              &f->err);
    tst_pg_sql(f->conn, "UPDATE " T " SET dedup_key = 'x'");
    tst_fails(ledger_store_append(f->store, "s", inputs, 2, &ids, &f->err), LEDGER_ERR_REJECTED,
              &f->err);
    assert_null(ids.items);
    tst_fails(ledger_store_append(f->store, "no", inputs, 1, NULL, &f->err), LEDGER_ERR_REJECTED,
              &f->err);
    assert_int_equal(count(f, ENTRIES), 1);
    assert_int_equal(count(f, EVENTS), 1);
    tst_ok(ledger_store_append(f->store, "s", inputs, 1, NULL, &f->err), &f->err);
}

/* What is too much for one statement goes in pieces, with one event. Every third key is known. */
static void append_large(struct fixture *f, size_t n, size_t payload_size, bool log)
{
    ledger_append_input *inputs = test_calloc(n, sizeof(*inputs));
    char(*keys)[24] = test_calloc(n, sizeof(*keys));
    char *payload = test_malloc(payload_size);
    ledger_ids ids = { 0 };
    struct ldg_pg pg;
    size_t fresh = 0;
    memset(payload, 'x', payload_size);
    payload[0] = payload[payload_size - 1] = '"';
    for (size_t i = 0; i < n; i++) {
        snprintf(keys[i], sizeof(keys[i]), "%zu", i % 3 == 2 ? i - 1 : i);
        inputs[i].payload = (ledger_bytes){ payload, payload_size };
        inputs[i].dedup_key = keys[i];
        fresh += i % 3 != 2;
    }
    handle_open(&pg, f->url, T, LDG_ROLE_USER,
                log ? LEDGER_MUTATION_LOG_ON : LEDGER_MUTATION_LOG_OFF, 0);
    tst_ok(ldg_pg_append(&pg, "s", inputs, n, &ids, &f->err), &f->err);
    handle_close(&pg);
    assert_int_equal(ids.count, fresh);
    assert_int_equal(count(f, ENTRIES), fresh);
    assert_int_equal(count(f, EVENTS), log);
    /* Ids rise in the order of the input. */
    for (size_t i = 1; i < fresh; i++)
        assert_true(ids.items[i].number > ids.items[i - 1].number);
    assert_int_equal(count(f, "SELECT count(*) FROM (SELECT dedup_key::int8 AS k, "
                              "lag(dedup_key::int8) OVER (ORDER BY id) AS b FROM " T ") AS s "
                              "WHERE k < b"),
                     0);
    if (log) {
        ledger_mutation_event event = event_at(f, 0);
        assert_int_equal(event.entry_count, fresh);
        for (size_t i = 0; i < fresh; i++) {
            assert_int_equal(strtoll(event.entries[i].id, NULL, 10), ids.items[i].number);
            assert_string_equal(event.entries[i].dedup_key, keys[i / 2 * 3 + i % 2]);
            assert_int_equal(event.entries[i].payload.size, payload_size);
        }
    }
    ledger_ids_destroy(&ids);
    tst_pg_sql(f->conn, "TRUNCATE " T ", " T "_mutations");
    test_free(inputs);
    test_free(keys);
    test_free(payload);
}

static void test_append_many(void **state)
{
    struct fixture *f = *state;
    for (int log = 0; log < 2; log++) {
        append_large(f, 4, 10, log);
        append_large(f, 1000, 20, log);
        append_large(f, 1001, 20, log);
        append_large(f, 12000, 20, log);
        append_large(f, 7, 3000000, log);
        append_large(f, 1, 20000000, log);
    }
}

/* Nothing is written of what would not fit into one row of the log, in a transaction of somebody
 * else, too, which goes on. */
static void test_too_large(void **state)
{
    struct fixture *f = *state;
    const size_t size = LEDGER_MAX_PAYLOAD_BYTES;
    ledger_append_input inputs[4] = { 0 };
    struct ldg_pg pg;
    char *payload = test_malloc(size);
    memset(payload, 'x', size);
    payload[0] = payload[size - 1] = '"';
    for (size_t i = 0; i < 4; i++)
        inputs[i].payload = (ledger_bytes){ payload, size };
    handle_open(&pg, f->url, T, LDG_ROLE_USER, LEDGER_MUTATION_LOG_ON, 0);
    tst_ok(ldg_backend_postgres.store->tx_begin(&pg, &f->err), &f->err);
    tst_fails(ldg_pg_append(&pg, "s", inputs, 4, NULL, &f->err), LEDGER_ERR_TOO_LARGE, &f->err);
    inputs[0].payload = (ledger_bytes){ "1", 1 };
    tst_ok(ldg_pg_append(&pg, "s", inputs, 1, NULL, &f->err), &f->err);
    tst_ok(ldg_backend_postgres.store->tx_commit(&pg, &f->err), &f->err);
    handle_close(&pg);
    assert_int_equal(count(f, ENTRIES), 1);
    assert_int_equal(count(f, EVENTS), 1);
    test_free(payload);
}

struct waiting {
    struct ldg_pg pg;
    size_t entries;
    ledger_rc rc;
    size_t new_count;
    ledger_error err;
};

static void *append_waiting(void *arg)
{
    struct waiting *w = arg;
    const ledger_append_input inputs[] = {
        { .payload = { "1", 1 }, .dedup_key = "k" },
        { .payload = { "2", 1 }, .dedup_key = "other" },
    };
    ledger_ids ids = { 0 };
    w->rc = ldg_pg_append(&w->pg, "s", inputs, w->entries, &ids, &w->err);
    w->new_count = ids.count;
    ledger_ids_destroy(&ids);
    return NULL;
}

static void wait_for_lock(struct fixture *f)
{
    tst_pg_await(f->conn, "SELECT count(*) FROM pg_locks WHERE NOT granted");
}

/* The same key at once: neither fails, nor is it there twice. */
static void test_same_key_at_once(void **state)
{
    struct fixture *f = *state;
    for (int round = 0; round < 4; round++) {
        const bool commits = round % 2;
        struct waiting w = { .entries = round < 2 ? 1 : 2 };
        pthread_t thread;
        ledger_rc rc;
        handle_open_patient(&w.pg, f->url, T, LDG_ROLE_USER, LEDGER_MUTATION_LOG_ON, 0);
        tst_pg_sql(f->conn, "TRUNCATE " T ", " T "_mutations");
        tst_pg_sql(f->conn, "SELECT 1");
        tst_ok(ledger_store_begin(f->store, &f->err), &f->err);
        assert_true(tst_append(f->store, "s", "0", "k", NULL) > 0);
        assert_int_equal(pthread_create(&thread, NULL, append_waiting, &w), 0);
        wait_for_lock(f);
        rc = commits ? ledger_store_commit(f->store, &f->err)
                     : ledger_store_rollback(f->store, &f->err);
        tst_ok(rc, &f->err);
        pthread_join(thread, NULL);
        tst_ok(w.rc, &w.err);
        assert_int_equal(w.new_count, w.entries - commits);
        assert_int_equal(count(f, ENTRIES " WHERE dedup_key = 'k'"), 1);
        assert_int_equal(count(f, EVENTS), w.new_count ? 1 + commits : 1);
        handle_close(&w.pg);
    }
}

/* In the caller's own transaction, on its own connection. */
static void test_callers_transaction(void **state)
{
    struct fixture *f = *state;
    ledger_store_options o;
    ledger_store *store = NULL;
    ledger_store_options_defaults(&o);
    o.connection = f->conn;
    o.connection_kind = LEDGER_CONNECTION_POSTGRES;
    tst_ok(ledger_store_open(&o, &store, &f->err), &f->err);
    tst_pg_sql(f->conn, "CREATE TABLE orders(id int)");
    tst_pg_sql(f->conn, "BEGIN; INSERT INTO orders VALUES (1)");
    int64_t id = tst_append(store, "s", "1", "k", "t");
    tst_tag(store, "s", id, "u");
    tst_pg_sql(f->conn, "ROLLBACK");
    assert_int_equal(count(f, ENTRIES), 0);
    assert_int_equal(count(f, EVENTS), 0);
    tst_pg_sql(f->conn, "BEGIN; INSERT INTO orders VALUES (1)");
    tst_append(store, "s", "1", "k", "t");
    tst_pg_sql(f->conn, "COMMIT");
    assert_int_equal(count(f, ENTRIES), 1);
    assert_int_equal(count(f, EVENTS), 1);
    assert_int_equal(count(f, "SELECT count(*) FROM orders"), 1);
    /* An entry that is not there fails the call, not the transaction. */
    tst_pg_sql(f->conn, "BEGIN");
    tst_fails(
        ledger_store_set_tags(store, "s", (ledger_id){ .number = 99 }, (ledger_list){ 0 }, &f->err),
        LEDGER_ERR_NOT_FOUND, &f->err);
    tst_append(store, "s", "1", "l", NULL);
    tst_pg_sql(f->conn, "COMMIT");
    assert_int_equal(count(f, ENTRIES), 2);
    ledger_store_close(&store);
    assert_int_equal(PQstatus(f->conn), CONNECTION_OK);
}

/* --- tags, annotations ----------------------------------------------------------------------- */

static void annotate(struct fixture *f, int64_t id, const ledger_pair *pairs, size_t n,
                     const char *expected)
{
    tst_ok(ledger_store_set_annotations(f->store, "s", (ledger_id){ .number = id },
                                        (ledger_map){ pairs, n }, &f->err),
           &f->err);
    assert_int_equal(tst_pg_sql_int(f->conn, ENTRIES " WHERE id = %lld AND annotations = '%s'",
                                    (long long)id, expected),
                     1);
}

static void test_changes(void **state)
{
    struct fixture *f = *state;
    const char *tags[] = { "b", "\"", "b" };
    int64_t id = tst_append(f->store, "s", "1", NULL, "t");
    const ledger_id as_id = { .number = id };
    ldg_clock_set_now(fixed_now_us);
    tst_ok(ledger_store_set_tags(f->store, "s", as_id, (ledger_list){ tags, 3 }, &f->err), &f->err);
    ldg_clock_set_now(NULL);
    assert_int_equal(count(f, ENTRIES " WHERE tags = '[\"b\",\"\\\"\",\"b\"]' "
                                      "AND updated_at = '2026-11-23T03:42:14.123456Z'"),
                     1);
    tst_ok(ledger_store_set_tags(f->store, "s", as_id, (ledger_list){ 0 }, &f->err), &f->err);
    assert_int_equal(count(f, ENTRIES " WHERE tags = '[]'"), 1);

    const ledger_pair two[] = { { "b", "2" }, { "a", "1" } };
    const ledger_pair mixed[] = { { "a", NULL }, { "c", "{}" }, { "none", NULL } };
    annotate(f, id, two, 2, "{\"a\":\"1\",\"b\":\"2\"}");
    annotate(f, id, mixed, 3, "{\"b\":\"2\",\"c\":\"{}\"}");
    tst_pg_sql(f->conn, "UPDATE " T " SET annotations = 'null'");
    annotate(f, id, mixed, 1, "{}");

    /* What another program wrote there is neither lost nor guessed at. */
    static const char *const damaged[] = { "[1]",          "1",
                                           "\"x\"",        "{\"a\":1}",
                                           "{\"a\":null}", "{\"a\":\"1\",\"b\":{}}" };
    const int64_t events = count(f, EVENTS);
    for (size_t i = 0; i < sizeof(damaged) / sizeof(damaged[0]); i++) {
        tst_pg_sql(f->conn, "UPDATE " T " SET annotations = '%s'", damaged[i]);
        tst_fails(
            ledger_store_set_annotations(f->store, "s", as_id, (ledger_map){ two, 2 }, &f->err),
            LEDGER_ERR_DATA, &f->err);
        assert_int_equal(tst_pg_sql_int(f->conn, ENTRIES " WHERE annotations = '%s'", damaged[i]),
                         1);
    }
    assert_int_equal(count(f, EVENTS), events);
}

/* --- other tables ---------------------------------------------------------------------------- */

/* Without a log, and on tables that have no columns of ours. */
static void test_other_forms(void **state)
{
    struct fixture *f = *state;
    struct ldg_pg pg;
    const ledger_append_input inputs[] = { { .payload = { "1", 1 }, .dedup_key = "a" },
                                           { .payload = { "2", 1 } } };
    const char *tag = "t";
    const ledger_pair pair = { "a", "b" };
    for (int form = 0; form < 2; form++) {
        ledger_ids ids = { 0 };
        uint64_t deleted = 0;
        handle_open(&pg, f->url, T, LDG_ROLE_USER,
                    form ? LEDGER_MUTATION_LOG_ON : LEDGER_MUTATION_LOG_OFF, 0);
        pg.has_ours = false;
        tst_ok(ldg_pg_append(&pg, "s", inputs, 1, NULL, &f->err), &f->err);
        tst_ok(ldg_pg_append(&pg, "s", &inputs[1], 1, NULL, &f->err), &f->err);
        tst_ok(ldg_pg_append(&pg, "s", inputs, 2, &ids, &f->err), &f->err);
        assert_int_equal(ids.count, 1);
        tst_ok(ldg_pg_set_tags(&pg, "s", ids.items[0], (ledger_list){ &tag, 1 }, &f->err), &f->err);
        tst_ok(ldg_pg_set_annotations(&pg, "s", ids.items[0], (ledger_map){ &pair, 1 }, &f->err),
               &f->err);
        assert_int_equal(count(f, ENTRIES " WHERE tags = '[\"t\"]' "
                                          "AND annotations = '{\"a\":\"b\"}'"),
                         1);
        tst_ok(ldg_pg_trim(&pg, "s", ids.items[0], &deleted, &f->err), &f->err);
        assert_int_equal(deleted, 3);
        handle_close(&pg);
        ledger_ids_destroy(&ids);
        assert_int_equal(count(f, EVENTS), form ? 6 : 0);
    }
    ledger_mutation_event event = event_at(f, 1);
    assert_int_equal(event.type, LEDGER_MUTATION_SET_ANNOTATIONS);
}

/* The log's ids follow the order in which the changes of one entry were made. */
static void *tag_waiting(void *arg)
{
    struct waiting *w = arg;
    const char *tag = "second";
    w->rc = ldg_pg_set_tags(&w->pg, "s", (ledger_id){ .number = (int64_t)w->entries },
                            (ledger_list){ &tag, 1 }, &w->err);
    return NULL;
}

static void test_order_of_changes(void **state)
{
    struct fixture *f = *state;
    struct waiting w = { 0 };
    pthread_t thread;
    handle_open_patient(&w.pg, f->url, T, LDG_ROLE_USER, LEDGER_MUTATION_LOG_ON, 0);
    int64_t id = tst_append(f->store, "s", "1", NULL, NULL);
    w.entries = (size_t)id;
    tst_ok(ledger_store_begin(f->store, &f->err), &f->err);
    tst_append(f->store, "s", "2", NULL, NULL);
    tst_tag(f->store, "s", id, "first");
    assert_int_equal(pthread_create(&thread, NULL, tag_waiting, &w), 0);
    wait_for_lock(f);
    tst_annotate(f->store, "s", id, "a", "b");
    tst_ok(ledger_store_commit(f->store, &f->err), &f->err);
    pthread_join(thread, NULL);
    tst_ok(w.rc, &w.err);
    handle_close(&w.pg);
    ledger_mutation_event event = event_at(f, 0);
    assert_string_equal(event.tags.items[0], "second");
    assert_int_equal(event_at(f, 1).type, LEDGER_MUTATION_SET_ANNOTATIONS);
    assert_int_equal(count(f, ENTRIES " WHERE tags = '[\"second\"]'"), 1);
}

/* --- memory ---------------------------------------------------------------------------------- */

struct oom {
    struct ldg_pg pg;
    ledger_error err;
};

static ledger_rc write_all(void *ctx)
{
    struct oom *o = ctx;
    const char *tag = "t";
    const ledger_pair pairs[] = { { "a", "b" }, { "c", NULL } }, pair = { "m", "n" };
    ledger_append_input inputs[1100] = { 0 };
    ledger_ids ids = { 0 };
    uint64_t deleted = 0;
    for (size_t i = 0; i < 1100; i++)
        inputs[i].payload = (ledger_bytes){ "1", 1 };
    inputs[0].metadata = (ledger_map){ &pair, 1 };
    inputs[0].tags = (ledger_list){ &tag, 1 };
    ledger_rc rc = ldg_pg_append(&o->pg, "s", inputs, 1, &ids, &o->err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_set_tags(&o->pg, "s", ids.items[0], (ledger_list){ &tag, 1 }, &o->err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_set_annotations(&o->pg, "s", ids.items[0], (ledger_map){ pairs, 2 }, &o->err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_trim(&o->pg, "s", ids.items[0], &deleted, &o->err);
    ledger_ids_destroy(&ids);
    if (rc == LEDGER_OK)
        rc = ldg_pg_append(&o->pg, "s", inputs, 3, NULL, &o->err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_append(&o->pg, "s", inputs, 1100, NULL, &o->err);
    return rc;
}

static void test_no_memory(void **state)
{
    struct fixture *f = *state;
    struct oom *o = test_calloc(1, sizeof(*o));
    handle_open(&o->pg, f->url, T, LDG_ROLE_USER, LEDGER_MUTATION_LOG_ON, 0);
    alloc_fail_each(write_all, o);
    handle_close(&o->pg);
    test_free(o);
    /* Never one without the other. */
    tst_pg_sql(f->conn,
               "CREATE TEMP TABLE logged AS SELECT (e ->> 'id')::int8 AS id FROM " T "_mutations, "
               "jsonb_array_elements(convert_from(payload, 'UTF8')::jsonb -> 'entries') AS e; "
               "CREATE TEMP TABLE trimmed AS SELECT max((convert_from(payload, 'UTF8')::jsonb ->> "
               "'before_id')::int8) AS id FROM " T "_mutations");
    assert_true(count(f, ENTRIES) > 1100);
    assert_int_equal(count(f, ENTRIES " WHERE id NOT IN (SELECT id FROM logged)"), 0);
    assert_int_equal(count(f, "SELECT count(*) FROM logged WHERE id > (SELECT id FROM trimmed) "
                              "AND id NOT IN (SELECT id FROM " T ")"),
                     0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_append),           TEST(w19_only_duplicates_are_ignored),
        TEST(test_append_many),      TEST(test_too_large),
        TEST(test_same_key_at_once), TEST(test_callers_transaction),
        TEST(test_changes),          TEST(test_other_forms),
        TEST(test_order_of_changes), TEST(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
