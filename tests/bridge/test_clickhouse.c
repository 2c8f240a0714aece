/* Bridges into ClickHouse, the engine of today behind a front of the tests' own: the sink equals
 * the source whatever happens in between, a replay changes no row, and of two bridges that know
 * nothing of each other neither undoes what the other did. */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "clickhouse.h"
#include "fixtures.h"
#include "oracle.h"
#include "workload.h"

#define ENTRIES "INSERT INTO `ledger_entries` "
#define LOOK_UP "unhex(p[3])" /* entries are looked for by their keys */

static unsigned serial; /* of databases */

static const char *new_database(void)
{
    static char name[32];
    snprintf(name, sizeof name, "d%u", ++serial);
    (void)tst_ch_database(tst_ch_shared(), name);
    return name;
}

static ledger_rc try_open(struct tst_env *env, const char *url, const char *table, uint32_t flags,
                          ledger_store **ret_store, ledger_error *err)
{
    ledger_store_options o;
    ledger_store_options_defaults(&o);
    o.url = url;
    o.table = table;
    o.flags = flags;
    ledger_rc rc = ledger_store_open(&o, ret_store, err);
    if (rc == LEDGER_OK)
        env->stores[env->store_count++] = *ret_store;
    return rc;
}

static ledger_store *open_table(struct tst_env *env, const char *database, const char *table)
{
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    tst_ok(try_open(env, tst_ch_url(tst_ch_shared(), database, 0), table, LEDGER_STORE_CREATE,
                    &store, &err),
           &err);
    return store;
}

static ledger_store *open_sink(struct tst_env *env, const char *database)
{
    return open_table(env, database, NULL);
}

/* Polls until nothing is left, whatever may be tried again. Returns how often it had to be. */
static unsigned drain_through(ledger_bridge *bridge)
{
    unsigned failures = 0;
    for (int quiet = 0; quiet < 2;) {
        uint64_t read = 0;
        ledger_error err = { 0 };
        ledger_rc rc = ledger_bridge_poll(bridge, &read, &err);
        quiet = rc == LEDGER_OK && read == 0 ? quiet + 1 : 0;
        if (rc == LEDGER_OK)
            continue;
        if ((err.flags & LEDGER_ERROR_RETRY) == 0 || ++failures > 200)
            tst_ok(rc, &err);
    }
    return failures;
}

/* Every row as it counts, with its version. free() */
static char *rows_of(const char *database, const char *table)
{
    return tst_ch_text(tst_ch_shared(), database,
                       "SELECT count(), groupBitXor(cityHash64(*)) FROM (SELECT * FROM `%s`"
                       " ORDER BY version DESC LIMIT 1 BY stream, origin, entry_key)",
                       table);
}

/* The entries that are there, with the positions that made them. */
static char *live_rows_of(const char *database, const char *table)
{
    return tst_ch_text(
        tst_ch_shared(), database,
        "SELECT count(), groupBitXor(cityHash64(stream, origin, entry_key, version, payload, tags,"
        " annotations, updated_at)) FROM (SELECT * FROM `%s`"
        " ORDER BY version DESC LIMIT 1 BY stream, origin, entry_key) WHERE is_deleted = 0",
        table);
}

/* However a log is cut, and by whom, each entry has the same version in the end: in the table that
 * was filled so, and in one that was filled at once. */
static void assert_same_live_rows(const char *database, const char *at_once)
{
    char *a = live_rows_of(database, "ledger_entries"), *b = live_rows_of(database, at_once);
    assert_string_equal(a, b);
    free(a);
    free(b);
}

/* --- equal ------------------------------------------------------------------------------------
 */

static void drain_and_second_run(void **state)
{
    static const enum tst_kind kinds[] = { TST_MEMORY, TST_SQLITE, TST_POSTGRES };
    struct tst_env *env = *state;
    for (size_t k = 0; k < 3; k++, tst_env_reset(env)) {
        if (!tst_kind_here(kinds[k]))
            continue;
        const char *database = new_database();
        ledger_store *source = tst_open(env, kinds[k], "source");
        ledger_store *sink = open_sink(env, database);
        struct tst_workload w;
        ledger_error err = { 0 };
        tst_workload_init(&w, tst_seed());
        assert_int_equal(tst_bridge_once(source, sink, NULL), 0);
        for (int round = 0; round < 3; round++) {
            tst_workload_run(&w, source, tst_scale(250));
            assert_true(tst_bridge_once(source, sink, NULL) > 0);
            tst_assert_equal(source, sink, 0);
            assert_int_equal(tst_bridge_once(source, sink, NULL), 0);
        }
        /* All of it again: no row changes, nor its version. */
        char *before = rows_of(database, "ledger_entries"), *after;
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
        (void)tst_bridge_once(source, sink, NULL);
        after = rows_of(database, "ledger_entries");
        assert_string_equal(after, before);
        tst_assert_equal(source, sink, 0);
        free(before);
        free(after);
    }
}

static void restart_after_each_batch(void **state)
{
    struct tst_env *env = *state;
    const char *database = new_database();
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = open_sink(env, database), *whole = open_table(env, database, "whole");
    struct tst_workload w;
    ledger_error err = { 0 };
    uint64_t read = 1;
    tst_workload_init(&w, tst_seed());
    w.small = true;
    tst_workload_run(&w, source, tst_scale(150));
    for (size_t size = 1; read > 0; size = size % 17 + 1) {
        ledger_bridge_options o;
        tst_bridge_options(&o);
        o.batch_size = size;
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        tst_ok(ledger_bridge_poll(bridge, &read, &err), &err);
        tst_check_counters(bridge);
        ledger_bridge_destroy(&bridge);
    }
    tst_assert_equal(source, sink, 0);
    (void)tst_bridge_once(source, whole, NULL);
    assert_same_live_rows(database, "whole");
}

/* The cursor goes back to any place, again and again; then all is as if it never had. */
static void any_part_comes_again(void **state)
{
    struct tst_env *env = *state;
    const char *database = new_database();
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = open_sink(env, database);
    struct tst_workload w;
    ledger_error err = { 0 };
    tst_workload_init(&w, tst_seed());
    w.small = true;
    tst_workload_run(&w, source, tst_scale(200));
    (void)tst_bridge_once(source, sink, NULL);
    const int64_t head =
        tst_ch_int(tst_ch_shared(), database,
                   "SELECT max(toUInt64OrZero(cursor)) FROM ledger_entries_cursors");
    char *before = rows_of(database, "ledger_entries"), *after;
    for (int round = 0; round < 6; round++) {
        ledger_bridge_options o;
        uint64_t read = 1, polls = 1 + tst_random_below(&w.state, 6);
        char text[24];
        tst_bridge_options(&o);
        o.batch_size = 1 + tst_random_below(&w.state, 40);
        snprintf(text, sizeof text, "%" PRIu64, tst_random_below(&w.state, (uint64_t)head));
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", text, true, &err), &err);
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        while (read > 0 && polls-- > 0)
            tst_ok(ledger_bridge_poll(bridge, &read, &err), &err);
        ledger_bridge_destroy(&bridge);
    }
    (void)tst_bridge_once(source, sink, NULL);
    after = rows_of(database, "ledger_entries");
    assert_string_equal(after, before);
    tst_assert_equal(source, sink, 0);
    free(before);
    free(after);
}

/* What was left out on purpose comes later, beside what went on. */
static void skipped_kinds_come_after_a_reset(void **state)
{
    static const ledger_mutation_type kinds[] = { LEDGER_MUTATION_SET_TAGS, LEDGER_MUTATION_TRIM };
    struct tst_env *env = *state;
    for (size_t kind = 0; kind < 2; kind++, tst_env_reset(env)) {
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        ledger_store *sink = open_sink(env, new_database());
        ledger_bridge_options o;
        ledger_error err = { 0 };
        struct tst_workload w;
        tst_workload_init(&w, tst_seed());
        w.small = true;
        tst_workload_run(&w, source, tst_scale(150));
        tst_bridge_options(&o);
        o.skip_types = 1U << kinds[kind];
        (void)tst_bridge_once(source, sink, &o);
        o.skip_types = 0;
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
        (void)tst_bridge_once(source, sink, &o);
        tst_assert_equal(source, sink, 0);
    }
}

/* Entries of three stores, and what those in the middle change of others', through a chain. */
static void changes_by_other_stores(void **state)
{
    struct tst_env *env = *state;
    const char *database = new_database();
    ledger_store *first = tst_open(env, TST_SQLITE, "first");
    ledger_store *middle = tst_open(env, TST_SQLITE, "middle");
    ledger_store *sink = open_sink(env, database);
    for (int round = 0; round < 4; round++) {
        char text[16];
        ledger_batch *batch = NULL;
        ledger_error err = { 0 };
        snprintf(text, sizeof text, "%d", round);
        int64_t id = tst_append(first, "s", "{}", NULL, text);
        tst_append(middle, "s", "1", NULL, NULL);
        if (round % 2 == 0)
            tst_tag(first, "s", id, "first");
        (void)tst_bridge_once(first, middle, NULL);
        tst_ok(ledger_store_read(middle, "s", NULL, &batch, &err), &err);
        for (size_t i = 0; i < ledger_batch_count(batch); i++) {
            tst_tag(middle, "s", ledger_batch_entry(batch, i)->id.number, text);
            tst_annotate(middle, "s", ledger_batch_entry(batch, i)->id.number, "by", text);
        }
        ledger_batch_destroy(&batch);
        (void)tst_bridge_once(middle, sink, NULL);
        tst_assert_equal(middle, sink, 0);
    }
    char *before = rows_of(database, "ledger_entries"), *after;
    ledger_error err = { 0 };
    tst_ok(ledger_bridge_cursor_set(middle, sink, "default", "0", false, &err), &err);
    (void)tst_bridge_once(middle, sink, NULL);
    after = rows_of(database, "ledger_entries");
    assert_string_equal(after, before);
    free(before);
    free(after);
}

/* Entries that came by way of another store, with what that one changed, come from their own, too,
 * by a bridge that never ran before. */
static void the_same_entries_by_two_ways(void **state)
{
    struct tst_env *env = *state;
    ledger_store *first = tst_open(env, TST_SQLITE, "first");
    ledger_store *middle = tst_open(env, TST_SQLITE, "middle");
    ledger_store *sink = open_sink(env, new_database());
    ledger_bridge_options o;
    int64_t id = tst_append(first, "s", "{}", NULL, NULL);
    tst_bridge_options(&o);
    o.name = "of the middle";
    (void)tst_bridge_once(first, middle, NULL);
    tst_annotate(middle, "s", 1, "by", "middle");
    (void)tst_bridge_once(middle, sink, &o);
    for (int i = 0; i < 5; i++)
        tst_tag(first, "s", id, i % 2 ? "odd" : "even");
    (void)tst_bridge_once(first, sink, NULL);
    (void)tst_bridge_once(first, middle, NULL);
    (void)tst_bridge_once(middle, sink, &o);
    tst_assert_equal(middle, sink, 0);
}

/* The same by a bridge that was there before anybody knew of the other store. */
static void a_second_way_is_opened_later(void **state)
{
    struct tst_env *env = *state;
    char url[300];
    for (int kept = 0; kept < 2; kept++, tst_env_reset(env)) {
        ledger_store *first = tst_open(env, TST_SQLITE, "first");
        ledger_store *middle = tst_open(env, TST_SQLITE, "middle");
        ledger_store *sink = open_sink(env, new_database());
        ledger_bridge_options o;
        tst_bridge_options(&o);
        snprintf(url, sizeof url, "sqlite:%s", tst_path(env, "state.db"));
        o.state_url = kept == 1 ? url : NULL;
        ledger_bridge *direct = tst_bridge(first, sink, &o);
        tst_append(first, "s", "1", NULL, NULL);
        assert_int_equal(drain_through(direct), 0);
        const int64_t id = tst_append(first, "s", "2", NULL, NULL);
        (void)tst_bridge_once(first, middle, NULL);
        tst_annotate(middle, "s", 2, "by", "middle");
        o.name = "of the middle";
        o.state_url = NULL;
        (void)tst_bridge_once(middle, sink, &o);
        for (int i = 0; i < 5; i++)
            tst_tag(first, "s", id, i % 2 ? "odd" : "even");
        assert_int_equal(drain_through(direct), 0);
        ledger_bridge_destroy(&direct);
        (void)tst_bridge_once(first, middle, NULL);
        (void)tst_bridge_once(middle, sink, &o);
        tst_assert_equal(middle, sink, 0);
    }
}

static void many_sources_one_sink(void **state)
{
    struct tst_env *env = *state;
    ledger_store *sink = open_sink(env, new_database());
    uint64_t total = 0;
    for (int i = 0; i < 4; i++) {
        char name[32];
        ledger_bridge_options o;
        struct tst_workload w;
        snprintf(name, sizeof name, "source%d", i);
        ledger_store *source = tst_open(env, i % 2 ? TST_MEMORY : TST_SQLITE, name);
        tst_bridge_options(&o);
        o.name = name;
        tst_workload_init(&w, tst_seed() + (uint64_t)i);
        w.small = true; /* with dedup keys: the same in several sources, and all are kept */
        tst_workload_run(&w, source, 60);
        (void)tst_bridge_once(source, sink, &o);
        tst_assert_equal(source, sink, TST_CMP_OWN);
        total += tst_count(source, NULL);
    }
    assert_int_equal(tst_count(sink, NULL), total);
}

static void ids_that_are_texts(void **state)
{
    struct tst_env *env = *state;
    ledger_store_options o;
    ledger_error err = { 0 };
    ledger_verify_options vo;
    ledger_verify_result result;
    ledger_store *source = NULL, *sink = open_sink(env, new_database());
    ledger_store_options_defaults(&o);
    o.url = "memory:clickhouse-texts?ids=text";
    o.flags = LEDGER_STORE_CREATE;
    tst_ok(ledger_store_open(&o, &source, &err), &err);
    env->stores[env->store_count++] = source;
    for (int i = 0; i < 30; i++) {
        const ledger_append_input input = { .payload = { "{}", 2 } };
        ledger_ids ids = { 0 };
        tst_ok(ledger_store_append(source, i % 2 ? "s" : "t", &input, 1, &ids, &err), &err);
        if (i % 5 == 0)
            tst_ok(ledger_store_set_tags(source, i % 2 ? "s" : "t", ids.items[0],
                                         (ledger_list){ (const char *const[]){ "x" }, 1 }, &err),
                   &err);
        if (i == 21)
            tst_ok(ledger_store_trim(source, "s", ids.items[0], NULL, &err), &err);
        ledger_ids_destroy(&ids);
    }
    (void)tst_bridge_once(source, sink, NULL);
    assert_int_equal(tst_count(sink, NULL), tst_count(source, NULL));
    assert_int_equal(tst_count(sink, "s"), 4);
    ledger_verify_options_defaults(&vo);
    tst_ok(ledger_bridge_verify(source, sink, &vo, &result, &err), &err);
    assert_int_equal(result.difference_count, 0);
    assert_int_equal(result.source_count, tst_count(source, NULL));
}

/* Ids are numbers, also where they stand as texts: up to 9 does not take 10, 11 and 12. */
static void w8_ids_are_numbers(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = open_sink(env, new_database());
    for (int i = 0; i < 12; i++)
        tst_append(source, "s", "{}", NULL, NULL);
    assert_int_equal(tst_bridge_once(source, sink, NULL), 12);
    assert_int_equal(tst_trim(source, "s", 9), 9);
    assert_int_equal(tst_bridge_once(source, sink, NULL), 1);
    assert_int_equal(tst_count(sink, "s"), 3);
    assert_int_equal(tst_count(source, "s"), 3);
}

/* One INSERT for a batch, and a replay adds nothing. */
static void w12_a_replay_adds_nothing(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = open_sink(env, new_database());
    ledger_error err;
    const size_t before = tst_ch_requests(tst_ch_shared(), ENTRIES);
    for (int i = 0; i < 100; i++)
        tst_append(source, "s", "{}", NULL, NULL);
    assert_int_equal(tst_bridge_once(source, sink, NULL), 100);
    assert_int_equal(tst_ch_requests(tst_ch_shared(), ENTRIES) - before, 1);
    tst_ok(ledger_bridge_cursor_set(source, sink, NULL, "0", false, &err), &err);
    assert_int_equal(tst_bridge_once(source, sink, NULL), 100);
    assert_int_equal(tst_count(sink, "s"), 100);
}

/* A stream whose name is empty is one like any other. */
static void a_stream_without_a_name(void **state)
{
    static const char *const events[] = {
        ("{\"type\":\"append\",\"stream\":\"\",\"entries\":[{\"id\":\"1\",\"payload\":1},"
         "{\"id\":\"2\",\"payload\":2},{\"id\":\"3\",\"payload\":3}]}"),
        "{\"type\":\"set_tags\",\"stream\":\"\",\"entry_id\":\"3\",\"tags\":[\"t\"]}",
        "{\"type\":\"trim\",\"stream\":\"\",\"before_id\":\"2\"}",
    };
    struct tst_env *env = *state;
    const char *database = new_database();
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = open_sink(env, database), *other = tst_open(env, TST_SQLITE, "other");
    for (size_t i = 0; i < 3; i++) {
        tst_log_text(source, events[i]);
        (void)tst_bridge_once(source, sink, NULL);
        (void)tst_bridge_once(source, other, NULL);
        tst_assert_equal(other, sink, 0);
    }
    char *left = tst_ch_text(tst_ch_shared(), database,
                             "SELECT payload, tags FROM ledger_entries FINAL WHERE is_deleted = 0");
    assert_string_equal(left, "3\t[\"t\"]");
    free(left);
}

/* Whoever empties the tables by hand gets all of it again, although the server has seen these very
 * inserts before. */
static void emptied_tables_are_filled_again(void **state)
{
    static const char *const begin[] = { "TRUNCATE TABLE", "DELETE FROM" };
    static const char *const end[] = { "", "WHERE 1" };
    struct tst_env *env = *state;
    for (size_t i = 0; i < 2; i++, tst_env_reset(env)) {
        const char *database = new_database();
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        ledger_store *sink = open_sink(env, database);
        ledger_bridge_options o;
        tst_bridge_options(&o);
        o.batch_size = o.backlog_batch_size = 5;
        for (int n = 0; n < 20; n++)
            tst_append(source, "s", "{}", NULL, NULL);
        (void)tst_bridge_once(source, sink, &o);
        tst_ch_sql(tst_ch_shared(), database, "%s ledger_entries %s", begin[i], end[i]);
        tst_ch_sql(tst_ch_shared(), database, "%s ledger_entries_cursors %s", begin[i], end[i]);
        (void)tst_bridge_once(source, sink, &o);
        tst_assert_equal(source, sink, 0);
    }
}

/* --- two bridges that know nothing of each other -----------------------------------------------
 */

struct poller {
    pthread_t thread;
    ledger_bridge *bridge;
    unsigned polls;
    ledger_rc rc;
    ledger_error err;
};

static void *poll_some(void *arg)
{
    struct poller *p = arg;
    for (unsigned i = 0; i < p->polls; i++) {
        uint64_t read = 0;
        ledger_error err = { 0 };
        ledger_rc rc = ledger_bridge_poll(p->bridge, &read, &err);
        if (rc != LEDGER_OK && (err.flags & LEDGER_ERROR_RETRY) == 0) {
            p->rc = rc;
            p->err = err;
        }
    }
    return NULL;
}

static void bridges_side_by_side(void **state)
{
    struct tst_env *env = *state;
    const char *database = new_database();
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = open_sink(env, database), *alone = open_table(env, database, "alone");
    struct poller pollers[3] = { { 0 } };
    struct tst_workload w;
    tst_workload_init(&w, tst_seed());
    w.small = true;
    tst_workload_run(&w, source, tst_scale(300));
    for (int i = 0; i < 3; i++) {
        ledger_bridge_options o;
        tst_bridge_options(&o);
        o.batch_size = (size_t)(5 + 20 * i);
        pollers[i].bridge = tst_bridge(source, sink, &o);
        pollers[i].polls = 15;
        assert_int_equal(pthread_create(&pollers[i].thread, NULL, poll_some, &pollers[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(pollers[i].thread, NULL), 0);
        tst_ok(pollers[i].rc, &pollers[i].err);
    }
    (void)drain_through(pollers[1].bridge);
    for (int i = 0; i < 3; i++)
        ledger_bridge_destroy(&pollers[i].bridge);
    tst_assert_equal(source, sink, 0);
    (void)tst_bridge_once(source, alone, NULL);
    assert_same_live_rows(database, "alone");
}

/* One call on handles of its own, while something else goes on. */
struct beside {
    pthread_t thread;
    ledger_store *source, *sink;
    ledger_rc rc;
    ledger_error err;
};

static struct beside open_beside(struct tst_env *env, const char *database)
{
    return (struct beside){ .source = tst_open(env, TST_SQLITE, "source"),
                            .sink = open_sink(env, database) };
}

static void begin_beside(struct beside *b, void *(*call)(void *arg))
{
    assert_int_equal(pthread_create(&b->thread, NULL, call, b), 0);
}

static void end_beside(struct beside *b)
{
    assert_int_equal(pthread_join(b->thread, NULL), 0);
    tst_ok(b->rc, &b->err);
}

static void *set_back(void *arg)
{
    struct beside *b = arg;
    b->rc = ledger_bridge_cursor_set(b->source, b->sink, "default", "0", false, &b->err);
    return NULL;
}

/* Somebody sets the cursor back while a bridge moves it on, several times between his look and his
 * word: his word counts. */
static void a_cursor_is_set_beside_a_bridge(void **state)
{
    struct tst_env *env = *state;
    const char *database = new_database();
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    struct beside setting = open_beside(env, database);
    ledger_bridge_options o;
    ledger_error err = { 0 };
    tst_bridge_options(&o);
    o.batch_size = o.backlog_batch_size = 1;
    for (int i = 0; i < 5; i++)
        tst_append(source, "s", "{}", NULL, NULL);
    ledger_bridge *bridge = tst_bridge(source, open_sink(env, database), &o);
    tst_ok(ledger_bridge_poll(bridge, NULL, &err), &err);
    tst_ch_fault(tst_ch_shared(), "{\"act\":\"hold\",\"when\":\"before\",\"match\":"
                                  "\"INSERT INTO `ledger_entries_cursors`\"}\n");
    begin_beside(&setting, set_back);
    tst_ch_await_held(tst_ch_shared());
    for (int i = 0; i < 3; i++)
        tst_ok(ledger_bridge_poll(bridge, NULL, &err), &err);
    tst_ch_release(tst_ch_shared());
    end_beside(&setting);
    assert_int_equal(tst_ch_int(tst_ch_shared(), database,
                                "SELECT argMax(toUInt64OrZero(cursor), version) FROM "
                                "ledger_entries_cursors"),
                     0);
    (void)drain_through(bridge);
    ledger_bridge_destroy(&bridge);
    tst_assert_equal(source, setting.sink, 0);
}

/* One stands still between the fence and its rows, while the other goes through the whole log, to
 * changes and trims of those very entries. What it writes then is too late, and changes nothing. */
static void one_that_was_overtaken(void **state)
{
    struct tst_env *env = *state;
    for (int round = 0; round < 3; round++, tst_env_reset(env)) {
        const char *database = new_database();
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        ledger_store *sink = open_sink(env, database);
        struct poller slow = { .polls = 1 };
        ledger_bridge_options o;
        int64_t ids[20];
        ledger_error err = { 0 };
        tst_bridge_options(&o);
        o.batch_size = o.backlog_batch_size = 40;
        for (int i = 0; i < 20; i++)
            ids[i] = tst_append(source, "s", "{}", NULL, "old");
        if (round == 1) /* it holds changes, and not what they are on */
            (void)tst_bridge_once(source, sink, &o);
        for (int i = 0; i < 20; i++)
            tst_tag(source, "s", ids[i], "first");
        slow.bridge = tst_bridge(source, sink, &o);
        tst_ch_fault(tst_ch_shared(),
                     "{\"act\":\"hold\",\"when\":\"before\",\"match\":\"" ENTRIES "\"}\n");
        assert_int_equal(pthread_create(&slow.thread, NULL, poll_some, &slow), 0);
        tst_ch_await_held(tst_ch_shared());
        for (int i = 0; i < 20; i++) {
            tst_tag(source, "s", ids[i], "second");
            tst_annotate(source, "s", ids[i], "k", "v");
        }
        if (round == 2)
            o.batch_size = o.backlog_batch_size = 1000; /* all of it in one batch */
        tst_trim(source, "s", ids[9]);
        ledger_bridge *fast = tst_bridge(source, sink, &o);
        (void)drain_through(fast);
        ledger_bridge_destroy(&fast);
        char *before = live_rows_of(database, "ledger_entries"), *after;
        tst_ch_release(tst_ch_shared());
        assert_int_equal(pthread_join(slow.thread, NULL), 0);
        tst_ok(slow.rc, &slow.err);
        after = live_rows_of(database, "ledger_entries");
        assert_string_equal(after, before);
        free(before);
        free(after);
        (void)drain_through(slow.bridge);
        ledger_bridge_destroy(&slow.bridge);
        tst_assert_equal(source, sink, 0);
        assert_int_equal(tst_count(sink, "s"), 10);
        assert_true(tst_ch_requests(tst_ch_shared(), "hold") > 0);
        (void)err;
    }
}

/* --- what goes wrong --------------------------------------------------------------------------
 */

static void answers_that_fail(void **state)
{
    static const char *const faults[] = {
        "{\"act\":\"cut\",\"when\":\"before\",\"times\":2",
        "{\"act\":\"cut\",\"bytes\":-1,\"times\":2",
        "{\"act\":\"cut\",\"bytes\":0",
        "{\"act\":\"late\",\"bytes\":0,\"times\":2",
        "{\"act\":\"tagged\",\"bytes\":0,\"times\":2",
        "{\"act\":\"error\",\"code\":241,\"when\":\"before\",\"times\":2",
        "{\"act\":\"error\",\"code\":252,\"when\":\"before\"",
        "{\"act\":\"error\",\"code\":243,\"when\":\"before\"",
        "{\"act\":\"error\",\"code\":202",
        "{\"act\":\"answer\",\"status\":503,\"text\":\"no backend\",\"when\":\"before\"",
        "{\"act\":\"answer\",\"status\":200,\"text\":\"Code: 159. DB::Exception: slow\"",
    };
    static const char *const where[] = { ENTRIES, "_cursors`", "SELECT toUInt8(1), id, stream",
                                         "trimming" };
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    const char *database = new_database();
    ledger_store *sink = open_sink(env, database);
    struct tst_workload w;
    unsigned failures = 0;
    tst_workload_init(&w, tst_seed());
    w.small = true;
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        for (size_t k = 0; k < 3; k++) {
            char line[400];
            tst_workload_run(&w, source, 12);
            snprintf(line, sizeof line, "%s,\"match\":\"%s\"}\n", faults[i], where[k]);
            tst_ch_fault(tst_ch_shared(), line);
            ledger_bridge *bridge = tst_bridge(source, sink, NULL);
            failures += drain_through(bridge);
            ledger_bridge_destroy(&bridge);
            tst_ch_fault(tst_ch_shared(), "");
        }
        tst_assert_equal(source, sink, 0);
    }
    assert_true(failures > sizeof faults / sizeof faults[0]);
}

/* While one batch of appends is on its way the next one is sent, too; whatever becomes of the
 * first, the cursor passes neither before both are there. */
static void two_batches_under_way(void **state)
{
    static const char *const faults[] = {
        "{\"act\":\"hold\",\"when\":\"before\"",
        "{\"act\":\"cut\",\"when\":\"before\"",
        "{\"act\":\"cut\",\"bytes\":-1",
        "{\"act\":\"error\",\"code\":241,\"when\":\"before\",\"times\":2",
    };
    struct tst_env *env = *state;
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++, tst_env_reset(env)) {
        const char *database = new_database();
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        ledger_store *sink = open_sink(env, database);
        ledger_bridge_options o;
        ledger_error err = { 0 };
        char line[300];
        tst_bridge_options(&o);
        o.batch_size = o.backlog_batch_size = 10;
        for (int k = 0; k < 200; k++)
            tst_append(source, k % 2 ? "s" : "t", "{}", NULL, "tag");
        snprintf(line, sizeof line, "%s,\"skip\":6,\"match\":\"" ENTRIES "\"}\n", faults[i]);
        tst_ch_fault(tst_ch_shared(), line);
        const size_t looked = tst_ch_requests(tst_ch_shared(), LOOK_UP);
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        if (i == 0) { /* the seventh stands, the eighth is there */
            tst_ch_await_held(tst_ch_shared());
            TST_AWAIT(tst_ch_int(tst_ch_shared(), database,
                                 "SELECT max(appended_position) >= 80 FROM ledger_entries") == 1);
            char *text = tst_ch_text(tst_ch_shared(), database,
                                     "SELECT count(), (SELECT max(toUInt64OrZero(cursor)) FROM "
                                     "ledger_entries_cursors) FROM ledger_entries");
            assert_string_equal(text, "70\t60");
            free(text);
            tst_ch_release(tst_ch_shared());
        }
        tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
        ledger_bridge_destroy(&bridge);
        tst_ch_fault(tst_ch_shared(), "");
        if (i == 0) /* all is new, and neither handle looks for it */
            assert_int_equal(tst_ch_requests(tst_ch_shared(), LOOK_UP), looked);
        tst_assert_equal(source, sink, 0);
        assert_int_equal(tst_count(sink, "s"), 100);
    }
}

/* An answer that is cut, or ends in an error, is never taken for the end of the rows. */
static void reads_that_are_cut(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = open_sink(env, new_database());
    ledger_error err = { 0 };
    for (int i = 0; i < 20; i++)
        tst_append(source, "s", "\"Code: 60. DB::Exception: no\"", NULL, NULL);
    (void)tst_bridge_once(source, sink, NULL);
    for (int bytes = 0; bytes < 1000; bytes += 23) {
        static const char *const acts[] = { "cut", "late", "tagged" };
        for (size_t i = 0; i < 3; i++) {
            ledger_batch *batch = NULL;
            char line[200];
            snprintf(line, sizeof line,
                     "{\"act\":\"%s\",\"bytes\":%d,\"code\":241,\"match\":\"FINAL\"}\n", acts[i],
                     bytes);
            tst_ch_fault(tst_ch_shared(), line);
            ledger_rc rc = ledger_store_read(sink, "s", NULL, &batch, &err);
            if (rc == LEDGER_OK || (err.flags & LEDGER_ERROR_RETRY) == 0)
                tst_fail("%s after %d bytes: %s %s", acts[i], bytes, ledger_rc_name(rc),
                         rc == LEDGER_OK ? "" : err.message);
            if (i == 2 || (i == 1 && bytes == 0))
                assert_int_equal(err.native_code, 241);
        }
    }
    tst_ch_fault(tst_ch_shared(), "");
    ledger_batch *batch = NULL;
    tst_ok(ledger_store_read(sink, "s", NULL, &batch, &err), &err);
    assert_int_equal(ledger_batch_count(batch), 20);
    ledger_batch_destroy(&batch);
}

static void engine_is_killed(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = open_sink(env, new_database());
    struct tst_workload w;
    ledger_bridge_options o;
    tst_bridge_options(&o);
    o.batch_size = 20;
    tst_workload_init(&w, tst_seed());
    w.small = true;
    for (int round = 0; round < 3; round++) {
        struct poller poller = { .polls = 8 };
        tst_workload_run(&w, source, tst_scale(120));
        poller.bridge = tst_bridge(source, sink, &o);
        assert_int_equal(pthread_create(&poller.thread, NULL, poll_some, &poller), 0);
        tst_sleep_us(60000 + (int64_t)tst_random_below(&w.state, 60000));
        tst_ch_kill(tst_ch_shared());
        assert_int_equal(pthread_join(poller.thread, NULL), 0);
        tst_ok(poller.rc, &poller.err);
        (void)tst_ch_shared(); /* runs again */
        (void)drain_through(poller.bridge);
        ledger_bridge_destroy(&poller.bridge);
        tst_assert_equal(source, sink, 0);
    }
}

/* --- parked ------------------------------------------------------------------------------------
 */

static bool take_parked(void *ctx, const ledger_parked *parked)
{
    ledger_parked *last = ctx;
    *last = *parked;
    return true;
}

static void events_are_parked_and_come_again(void **state)
{
    struct tst_env *env = *state;
    const char *database = new_database();
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = open_sink(env, database);
    ledger_bridge_options o;
    ledger_error err = { 0 };
    ledger_parked last = { 0 };
    uint64_t applied = 0, left = 0, dropped = 0;
    tst_bridge_options(&o);
    o.on_bad_event = LEDGER_BAD_EVENT_PARK;
    tst_append(source, "good", "1", NULL, NULL);
    (void)tst_bridge_once(source, sink, &o);
    /* A rule of the user's own refuses a stream, and what follows on its entries waits. */
    tst_ch_sql(tst_ch_shared(), database,
               "ALTER TABLE ledger_entries ADD CONSTRAINT refuse CHECK stream != 'bad' "
               "OR is_deleted = 1");
    int64_t id = tst_append(source, "bad", "1", NULL, NULL);
    tst_tag(source, "bad", id, "t");
    for (int i = 0; i < 20; i++)
        tst_append(source, "good", "1", NULL, NULL);
    tst_log_text(source, "{\"type\":\"of tomorrow\",\"stream\":\"good\"}");
    (void)tst_bridge_once(source, sink, &o);
    assert_int_equal(tst_count(sink, "good"), 21);
    assert_int_equal(tst_count(sink, "bad"), 0);
    tst_ok(ledger_bridge_parked_list(sink, take_parked, &last, &err), &err);
    assert_int_equal(tst_ch_int(tst_ch_shared(), database,
                                "SELECT count() FROM ledger_entries_parked FINAL"
                                " WHERE is_deleted = 0"),
                     3);
    tst_ok(ledger_bridge_parked_retry(source, sink, 0, &applied, &left, &err), &err);
    assert_int_equal(applied, 0);
    assert_int_equal(left, 3);
    tst_ch_sql(tst_ch_shared(), database, "ALTER TABLE ledger_entries DROP CONSTRAINT refuse");
    tst_ok(ledger_bridge_parked_retry(source, sink, 0, &applied, &left, &err), &err);
    assert_int_equal(applied, 2);
    assert_int_equal(left, 1);
    tst_ok(ledger_bridge_parked_drop(sink, 0, &dropped, &err), &err);
    assert_int_equal(dropped, 1);
    tst_assert_equal(source, sink, TST_CMP_ANY_ORDER);
    /* From the beginning: it is here already, but for the event that nobody can read. */
    tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
    (void)tst_bridge_once(source, sink, &o);
    assert_int_equal(tst_ch_int(tst_ch_shared(), database,
                                "SELECT count() FROM ledger_entries_parked FINAL"
                                " WHERE is_deleted = 0"),
                     1);
    tst_assert_equal(source, sink, TST_CMP_ANY_ORDER);
}

static void *retry_all(void *arg)
{
    struct beside *b = arg;
    uint64_t applied = 0, left = 0;
    b->rc = ledger_bridge_parked_retry(b->source, b->sink, 0, &applied, &left, &b->err);
    return NULL;
}

/* A parked entry is tried again while its stream is trimmed: it does not come back. */
static void a_trim_beside_a_retry(void **state)
{
    struct tst_env *env = *state;
    const char *database = new_database();
    struct beside retry = open_beside(env, database);
    ledger_store *sink = open_sink(env, database);
    tst_ch_sql(tst_ch_shared(), database,
               "ALTER TABLE ledger_entries ADD CONSTRAINT refuse CHECK payload != '1'");
    int64_t id = tst_append(retry.source, "s", "1", NULL, NULL);
    tst_append(retry.source, "s", "2", NULL, NULL);
    (void)tst_bridge_once(retry.source, sink, NULL);
    assert_int_equal(tst_count(sink, "s"), 1);
    tst_ch_sql(tst_ch_shared(), database, "ALTER TABLE ledger_entries DROP CONSTRAINT refuse");
    tst_ch_fault(tst_ch_shared(),
                 "{\"act\":\"hold\",\"when\":\"before\",\"match\":\"" ENTRIES "\"}\n");
    begin_beside(&retry, retry_all);
    tst_ch_await_held(tst_ch_shared());
    ledger_store *again = tst_open(env, TST_SQLITE, "source");
    tst_trim(again, "s", id);
    (void)tst_bridge_once(again, sink, NULL);
    tst_ch_release(tst_ch_shared());
    end_beside(&retry);
    tst_assert_equal(again, sink, 0);
    assert_int_equal(tst_count(sink, "s"), 1);
}

/* --- a state store ----------------------------------------------------------------------------
 */

/* Cursor and parked events stand in another store: numbers of origins are that one's, too. */
static void another_store_keeps_the_state(void **state)
{
    struct tst_env *env = *state;
    const char *database = new_database();
    ledger_store *first = tst_open(env, TST_SQLITE, "first");
    ledger_store *middle = tst_open(env, TST_SQLITE, "middle");
    ledger_store *sink = open_sink(env, database);
    ledger_bridge_options o;
    ledger_bridge_stats stats;
    char url[300];
    snprintf(url, sizeof url, "sqlite:%s", tst_path(env, "state.db"));
    tst_bridge_options(&o);
    o.state_url = url;
    o.on_bad_event = LEDGER_BAD_EVENT_PARK;
    struct tst_workload w;
    tst_workload_init(&w, tst_seed());
    w.small = true;
    for (int round = 0; round < 3; round++) {
        ledger_batch *batch = NULL;
        ledger_error err = { 0 };
        tst_append(middle, "of middle", "{}", NULL, NULL);
        tst_workload_run(&w, first, tst_scale(60));
        tst_append(first, "s0", "{}", NULL, NULL); /* the others may be trimmed */
        (void)tst_bridge_once(first, middle, NULL);
        tst_ok(ledger_store_read(middle, "s0", NULL, &batch, &err), &err);
        assert_true(ledger_batch_count(batch) > 0);
        for (size_t i = 0; i < ledger_batch_count(batch); i += 3) /* of entries of the first */
            tst_annotate(middle, "s0", ledger_batch_entry(batch, i)->id.number, "by", "middle");
        ledger_batch_destroy(&batch);
        tst_ch_fault(tst_ch_shared(), "{\"act\":\"cut\",\"bytes\":-1,\"match\":\"" ENTRIES "\"}\n");
        ledger_bridge *bridge = tst_bridge(middle, sink, &o);
        (void)drain_through(bridge);
        ledger_bridge_destroy(&bridge);
        tst_assert_equal(middle, sink, 0);
    }
    assert_int_equal(
        tst_ch_int(tst_ch_shared(), database, "SELECT count() FROM ledger_entries_cursors"), 0);
    /* One is refused; the others go on, before it and behind. */
    tst_ch_sql(tst_ch_shared(), database,
               "ALTER TABLE ledger_entries ADD CONSTRAINT refuse CHECK stream != 'bad'");
    for (int i = 0; i < 9; i++)
        tst_append(middle, i == 4 ? "bad" : "good", "1", NULL, NULL);
    ledger_bridge *bridge = tst_bridge(middle, sink, &o);
    (void)drain_through(bridge);
    ledger_bridge_get_stats(bridge, &stats);
    assert_int_equal(stats.park_count, 1);
    ledger_bridge_destroy(&bridge);
    assert_int_equal(tst_count(sink, "good"), 8);
    assert_int_equal(tst_count(sink, "bad"), 0);
    assert_int_equal(
        tst_ch_int(tst_ch_shared(), database, "SELECT count() FROM ledger_entries_parked"), 0);
}

/* An entry that was committed late, below a trim, comes by another bridge of the same name; the
 * next trim, by the first one again, reaches it all the same. */
static void an_entry_comes_late_by_another_bridge(void **state)
{
    static const char *const log[] = {
        "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"10\",\"payload\":1}]}",
        "{\"type\":\"trim\",\"stream\":\"s\",\"before_id\":\"10\"}",
        "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"5\",\"payload\":1}]}",
        "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"13\",\"payload\":1}]}",
        "{\"type\":\"trim\",\"stream\":\"s\",\"before_id\":\"12\"}",
    };
    struct tst_env *env = *state;
    for (int kept = 0; kept < 2; kept++, tst_env_reset(env)) {
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        ledger_store *sink = open_sink(env, new_database());
        ledger_bridge_options o;
        ledger_bridge *bridges[2];
        char url[300];
        tst_bridge_options(&o);
        snprintf(url, sizeof url, "sqlite:%s", tst_path(env, "state.db"));
        if (kept == 1)
            o.state_url = url;
        for (int i = 0; i < 2; i++)
            bridges[i] = tst_bridge(source, sink, &o);
        for (size_t i = 0; i < sizeof log / sizeof log[0]; i++) {
            tst_log_text(source, log[i]);
            (void)drain_through(bridges[i == 2 || i == 3]);
        }
        for (int i = 0; i < 2; i++)
            ledger_bridge_destroy(&bridges[i]);
        assert_int_equal(tst_count(sink, "s"), 1);
    }
}

/* --- reading and checking ----------------------------------------------------------------------
 */

static size_t page(ledger_store *store, const char *stream, const ledger_read_options *o)
{
    ledger_batch *batch = NULL;
    ledger_error err = { 0 };
    tst_ok(ledger_store_read(store, stream, o, &batch, &err), &err);
    size_t count = ledger_batch_count(batch);
    ledger_batch_destroy(&batch);
    return count;
}

static const ledger_append_input special = {
    .payload = { "{\"a\": 1}", 8 },
    .order_key = "o'\\\t\n",
    .metadata = { (const ledger_pair[]){ { "k", "v\\'\"" } }, 1 },
    .tags = { (const char *const[]){ "x", "y'\\z" }, 2 },
};
#define SPECIAL_STREAM "a'b\\c\td"

/* An entry full of what SQL and TabSeparated take for signs, and six in "s" and in "t". */
static void carry_readable(struct tst_env *env, ledger_store **ret_source, ledger_store **ret_sink)
{
    ledger_error err = { 0 };
    *ret_source = tst_open(env, TST_SQLITE, "source");
    *ret_sink = open_sink(env, new_database());
    tst_ok(ledger_store_append(*ret_source, SPECIAL_STREAM, &special, 1, NULL, &err), &err);
    for (int i = 0; i < 12; i++)
        tst_append(*ret_source, i % 2 ? "s" : "t", "\"Hello\"", NULL, i < 3 ? "few" : NULL);
    (void)tst_bridge_once(*ret_source, *ret_sink, NULL);
}

static void a_store_is_read(void **state)
{
    ledger_store *source, *sink;
    ledger_names names = { 0 };
    ledger_batch *batch = NULL;
    ledger_tail *tail = NULL;
    ledger_stream_stat stat;
    ledger_error err = { 0 };
    ledger_id id;
    carry_readable(*state, &source, &sink);
    assert_int_equal(tst_count(sink, NULL), 13);
    assert_int_equal(tst_count(sink, SPECIAL_STREAM), 1);
    tst_ok(ledger_store_list_streams(sink, NULL, 0, &names, &err), &err);
    assert_int_equal(names.count, 3);
    assert_string_equal(names.items[0], SPECIAL_STREAM);
    ledger_names_destroy(&names);
    tst_ok(ledger_store_list_streams(sink, SPECIAL_STREAM, 1, &names, &err), &err);
    assert_string_equal(names.items[0], "s");
    ledger_names_destroy(&names);
    tst_ok(ledger_store_search(sink, "s", "hELLO", NULL, &batch, &err), &err);
    assert_int_equal(ledger_batch_count(batch), 6);
    ledger_batch_destroy(&batch);
    tst_ok(ledger_store_stat(sink, "s", &stat, &err), &err);
    assert_int_equal(stat.count, 6);
    assert_true(strcmp(stat.first_id.text, stat.last_id.text) < 0);
    tst_ok(ledger_store_stat(sink, "none", &stat, &err), &err);
    assert_int_equal(stat.count, 0);
    tst_ok(ledger_store_find_by_source_id(sink, "s", "3", &id, &err), &err);
    assert_string_equal(id.text, "0000000000000000003-1");
    tst_fails(ledger_store_find_by_source_id(sink, "t", "3", &id, &err), LEDGER_ERR_NOT_FOUND,
              &err);
    tst_ok(ledger_tail_open(sink, "s", NULL, true, &tail, &err), &err);
    tst_append(source, "s", "2", NULL, NULL);
    (void)tst_bridge_once(source, sink, NULL);
    tst_ok(ledger_tail_read(tail, &batch, &err), &err);
    assert_int_equal(ledger_batch_count(batch), 1);
    ledger_batch_destroy(&batch);
    ledger_tail_close(&tail);
    tst_fails(ledger_store_append(sink, "s", &special, 1, NULL, &err), LEDGER_ERR_UNSUPPORTED,
              &err);
    assert_non_null(strstr(err.message, "is written by bridges"));
}

static void it_is_read_by_filters_and_in_pages(void **state)
{
    ledger_store *source, *sink;
    ledger_batch *batch = NULL;
    ledger_read_options o;
    ledger_error err = { 0 };
    size_t seen = 0;
    char last[LEDGER_ID_TEXT_MAX] = "";
    carry_readable(*state, &source, &sink);
    ledger_read_options_defaults(&o);
    o.order_key = special.order_key;
    assert_int_equal(page(sink, NULL, &o), 1);
    o.order_key = NULL;
    o.metadata = special.metadata;
    o.tag = "y'\\z";
    assert_int_equal(page(sink, NULL, &o), 1);
    o.tag = "y";
    assert_int_equal(page(sink, NULL, &o), 0);
    ledger_read_options_defaults(&o);
    o.limit = 4;
    o.max_bytes = 1;
    assert_int_equal(page(sink, "s", &o), 1);
    o.max_bytes = 0;
    for (size_t count = 1; count > 0; seen += count) { /* in order */
        tst_ok(ledger_store_read(sink, NULL, &o, &batch, &err), &err);
        count = ledger_batch_count(batch);
        for (size_t i = 0; i < count; i++) {
            const ledger_entry *e = ledger_batch_entry(batch, i);
            assert_true(strcmp(e->id.text, last) > 0);
            snprintf(last, sizeof last, "%s", e->id.text);
        }
        o.has_after = true;
        o.after.text = last;
        ledger_batch_destroy(&batch);
    }
    assert_int_equal(seen, 13);
}

static uint64_t differences(ledger_store *source, ledger_store *sink)
{
    ledger_verify_options o;
    ledger_verify_result result;
    ledger_error err = { 0 };
    ledger_verify_options_defaults(&o);
    tst_ok(ledger_bridge_verify(source, sink, &o, &result, &err), &err);
    return result.difference_count;
}

static void verify_finds_every_difference(void **state)
{
    static const char *const changes[] = {
        "'{\"n\":7}' AS payload",
        "'x' AS order_key",
        "'x' AS dedup_key",
        "9 AS schema_version",
        "'[\"x\"]' AS tags",
        "'{\"a\":\"b\"}' AS metadata",
        "'{\"a\":\"b\"}' AS annotations",
        "toDateTime64('2001-01-01 00:00:00', 6, 'UTC') AS created_at",
        "toDateTime64('2001-01-01 00:00:00', 6, 'UTC') AS updated_at",
        "1 AS is_deleted",
    };
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    const char *database = new_database();
    ledger_store *sink = open_sink(env, database);
    for (int n = 1; n <= 20; n++)
        tst_append(source, n % 3 ? "s" : "t", "{\"n\":1}", NULL, NULL);
    (void)tst_bridge_once(source, sink, NULL);
    assert_int_equal(differences(source, sink), 0);
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        tst_ch_sql(tst_ch_shared(), database,
                   "INSERT INTO ledger_entries SELECT * REPLACE(%s, version + 1000 * %zu AS"
                   " version) FROM ledger_entries FINAL WHERE entry_key LIKE '%%%02zu'",
                   changes[i], i + 1, i + 1);
        assert_int_equal(differences(source, sink), i + 1);
    }
}

struct found {
    char text[8][LEDGER_ERROR_MESSAGE_MAX];
    size_t errors;
};

static void take_finding(void *ctx, ledger_severity severity, const char *subject, const char *text)
{
    struct found *found = ctx;
    if (severity == LEDGER_FINDING_ERROR && found->errors < 8)
        snprintf(found->text[found->errors++], LEDGER_ERROR_MESSAGE_MAX, "%s: %s", subject, text);
}

/* Tables of another shape are refused in words, before anything is written. */
static void tables_of_another_shape(void **state)
{
    static const char columns[] =
        "id String, stream String, payload String, order_key String, dedup_key String,"
        " schema_version Int32, metadata String, tags String, source_id String,"
        " created_at DateTime64(6, 'UTC'), annotations String,"
        " updated_at Nullable(DateTime64(6)), origin String, entry_key String, version UInt64,"
        " is_deleted UInt8, appended_position Int64, tags_position Int64,"
        " annotations_position Int64, trimmed_position Int64, foreign_positions String";
    static const struct {
        const char *engine, *word;
    } tables[] = {
        { "MergeTree ORDER BY (stream, origin, entry_key)", "Go module" },
        { "ReplacingMergeTree ORDER BY (stream, origin, entry_key)", "by no version" },
        { "ReplacingMergeTree(version, is_deleted) ORDER BY (stream, entry_key)", "ORDER BY" },
        { "Memory", "Memory" },
        { "ReplacingMergeTree(version) ORDER BY (stream, origin, entry_key)", NULL },
    };
    struct tst_env *env = *state;
    struct tst_ch *ch = tst_ch_shared();
    ledger_error err = { 0 };
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        const char *database = new_database();
        ledger_store *sink = NULL;
        tst_ch_sql(ch, database, "CREATE TABLE ledger_entries (%s) ENGINE = %s", columns,
                   tables[i].engine);
        ledger_rc rc =
            try_open(env, tst_ch_url(ch, database, 0), NULL, LEDGER_STORE_CREATE, &sink, &err);
        if (tables[i].word != NULL) {
            tst_fails(rc, LEDGER_ERR_SCHEMA, &err);
            assert_non_null(strstr(err.message, tables[i].word));
            continue;
        }
        struct found found = { .errors = 0 };
        tst_ok(rc, &err);
        tst_ok(ledger_store_check(sink, take_finding, &found, &err), &err);
        assert_int_equal(found.errors, 0);
        ledger_store *source = tst_open(env, TST_SQLITE, "source");
        struct tst_workload w;
        tst_workload_init(&w, tst_seed());
        w.small = true;
        tst_workload_run(&w, source, 100);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
        assert_int_equal(tst_count(sink, NULL), tst_count(source, NULL));
    }
    const char *database = new_database();
    ledger_store *sink = NULL;
    tst_fails(try_open(env, tst_ch_url(ch, database, 0), NULL, 0, &sink, &err), LEDGER_ERR_SCHEMA,
              &err);
    assert_non_null(strstr(err.message, "store init"));
    tst_ch_sql(ch, database,
               "CREATE TABLE ledger_entries (id String, stream Int32) ENGINE = Memory");
    tst_fails(try_open(env, tst_ch_url(ch, database, 0), NULL, LEDGER_STORE_CREATE, &sink, &err),
              LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "stream"));
    assert_non_null(strstr(err.message, "Int32"));
}

static void what_cannot_be_opened(void **state)
{
    struct tst_env *env = *state;
    const struct tst_ch_options guarded = { .user = "bob", .password = "s3cret%40/x" };
    static const struct {
        const char *url;
        ledger_rc rc;
        const char *word;
    } urls[] = {
        { "clickhouse://db.example.com/d", LEDGER_ERR_INVALID, "clickhouses" },
        { "clickhouse://127.0.0.1:1/d", LEDGER_ERR_CONNECT, "127.0.0.1:1" },
        { "clickhouse://nowhere.invalid:1/d", LEDGER_ERR_INVALID, "--insecure" },
        { "clickhouse://127.0.0.1:1/d;x", LEDGER_ERR_INVALID, "database" },
        { "clickhouse://127.0.0.1:1/d?x=1", LEDGER_ERR_INVALID, "quorum" },
        { "clickhouse://127.0.0.1:1/d?quorum=1", LEDGER_ERR_INVALID, "quorum" },
        { "clickhouse://u%0a:p@127.0.0.1:1/d", LEDGER_ERR_INVALID, "control" },
        { "clickhouse://", LEDGER_ERR_INVALID, "" },
    };
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        tst_fails(try_open(env, urls[i].url, NULL, 0, &store, &err), urls[i].rc, &err);
        if (strstr(err.message, urls[i].word) == NULL)
            tst_fail("%s: %s", urls[i].url, err.message);
    }
    struct tst_ch *ch = tst_ch_start(TST_CH_ENGINE, &guarded);
    char url[400];
    snprintf(url, sizeof url, "clickhouse://bob:wrong-one@127.0.0.1:%d/default", ch->partner->port);
    tst_fails(try_open(env, url, NULL, LEDGER_STORE_CREATE, &store, &err), LEDGER_ERR_PERMISSION,
              &err);
    assert_null(strstr(err.message, "wrong-one"));
    assert_int_equal(err.native_code, 516);
    snprintf(url, sizeof url, "clickhouse://bob:s3cret%%2540%%2Fx@127.0.0.1:%d/default",
             ch->partner->port);
    tst_ok(try_open(env, url, NULL, LEDGER_STORE_CREATE, &store, &err), &err);
    assert_null(strstr(ledger_store_url(store), "s3cret"));
    snprintf(url, sizeof url, "clickhouse://bob:s3cret%%2540%%2Fx@127.0.0.1:%d/none",
             ch->partner->port);
    tst_fails(try_open(env, url, NULL, 0, &store, &err), LEDGER_ERR_SCHEMA, &err);
    assert_null(strstr(err.message, "s3cret"));
    tst_env_reset(env);
    tst_ch_destroy(&ch);
}

static void a_server_that_is_too_old(void **state)
{
    struct tst_env *env = *state;
    const struct tst_ch_options guarded = { .user = "default", .password = "secret" };
    struct tst_ch *ch = tst_ch_start(TST_CH_OLD, &guarded);
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    char url[200];
    tst_fails(try_open(env, tst_ch_url(ch, "default", 0), NULL, LEDGER_STORE_CREATE, &store, &err),
              LEDGER_ERR_UNSUPPORTED, &err);
    assert_non_null(strstr(err.message, "18.16"));
    assert_non_null(strstr(err.message, "23.2"));
    snprintf(url, sizeof url, "clickhouse://default:other@127.0.0.1:%d/default", ch->partner->port);
    tst_fails(try_open(env, url, NULL, 0, &store, &err), LEDGER_ERR_PERMISSION, &err);
    assert_null(strstr(err.message, "other"));
    tst_ch_destroy(&ch);
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, tst_setup, tst_teardown)
    const struct CMUnitTest tests[] = {
        TEST(drain_and_second_run),
        TEST(restart_after_each_batch),
        TEST(any_part_comes_again),
        TEST(skipped_kinds_come_after_a_reset),
        TEST(changes_by_other_stores),
        TEST(the_same_entries_by_two_ways),
        TEST(a_second_way_is_opened_later),
        TEST(many_sources_one_sink),
        TEST(ids_that_are_texts),
        TEST(w8_ids_are_numbers),
        TEST(w12_a_replay_adds_nothing),
        TEST(a_stream_without_a_name),
        TEST(emptied_tables_are_filled_again),
        TEST(bridges_side_by_side),
        TEST(a_cursor_is_set_beside_a_bridge),
        TEST(one_that_was_overtaken),
        TEST(answers_that_fail),
        TEST(two_batches_under_way),
        TEST(reads_that_are_cut),
        TEST(engine_is_killed),
        TEST(events_are_parked_and_come_again),
        TEST(a_trim_beside_a_retry),
        TEST(another_store_keeps_the_state),
        TEST(an_entry_comes_late_by_another_bridge),
        TEST(a_store_is_read),
        TEST(it_is_read_by_filters_and_in_pages),
        TEST(verify_finds_every_difference),
        TEST(tables_of_another_shape),
        TEST(what_cannot_be_opened),
        TEST(a_server_that_is_too_old),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("clickhouse", tests, NULL, NULL);
}
