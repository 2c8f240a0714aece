/* Faults of the reference implementation, each as a test named after its row: w1 w2 w3 w5 w8 w9 w13
 * w14 w15 w18. Bad events (w7, w19) are in test_bad_events.c; the traps (t2 t4 t6 t7 t8) in
 * test_traps.c. Every test runs on each pair of backends that it can apply to. */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "oracle.h"
#include "roles.h"
#include "workload.h"

/* --- w1: transactions that overlap -------------------------------------------------------------
 */

struct overlapping_writer {
    pthread_t thread;
    ledger_store *store;
    uint64_t random;
    size_t count;
    ledger_rc rc;
    ledger_error err;
};

static void *write_overlapping(void *arg)
{
    struct overlapping_writer *w = arg;
    for (size_t i = 0; i < w->count && w->rc == LEDGER_OK; i++) {
        ledger_append_input input = { .payload = { "{}", 2 } };
        w->rc = ledger_store_begin(w->store, &w->err);
        for (uint64_t k = tst_random_below(&w->random, 4); k > 0 && w->rc == LEDGER_OK; k--) {
            w->rc = ledger_store_append(w->store, k % 2 ? "a" : "b", &input, 1, NULL, &w->err);
            tst_sleep_us((int64_t)tst_random_below(&w->random, 300));
        }
        if (w->rc == LEDGER_OK)
            w->rc = tst_random_below(&w->random, 5) == 0 ? ledger_store_rollback(w->store, &w->err)
                                                         : ledger_store_commit(w->store, &w->err);
    }
    return NULL;
}

/* Memory and PostgreSQL let transactions of several handles overlap. One is held open
 * all the time: nothing waits for it, and at its end it arrives too, with the lower ids it drew
 * first. */
static void w1_overlapping_transactions(void **state)
{
    struct tst_env *env = *state;
    enum { WRITERS = 4 };
    TST_EACH_PAIR(env, from, to)
    {
        if (from == TST_SQLITE) /* one writer at a time */
            continue;
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *held = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, (enum tst_kind)to, "sink");
        struct overlapping_writer writers[WRITERS] = { { 0 } };
        ledger_bridge_options o;
        ledger_error err = { 0 };
        uint64_t seed = tst_seed();
        tst_ok(ledger_store_begin(held, &err), &err);
        int64_t low = tst_append(held, "a", "{\"held\":1}", NULL, NULL);
        tst_bridge_options(&o);
        o.batch_size = 10;
        o.parallel_streams = 2;
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        for (int i = 0; i < WRITERS; i++) {
            writers[i].store = tst_open(env, from, "source");
            writers[i].random = seed + (uint64_t)i;
            writers[i].count = tst_scale(100);
            assert_int_equal(
                pthread_create(&writers[i].thread, NULL, write_overlapping, &writers[i]), 0);
        }
        for (int i = 0; i < WRITERS; i++) {
            assert_int_equal(pthread_join(writers[i].thread, NULL), 0);
            tst_ok(writers[i].rc, &writers[i].err);
        }
        tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
        uint64_t before = tst_count(source, NULL);
        assert_true(before >= tst_scale(50));
        assert_int_equal(tst_count(sink, NULL), before); /* not stalled behind the open one */
        tst_ok(ledger_store_commit(held, &err), &err);
        tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
        assert_int_equal(tst_count(sink, NULL), before + 1);
        ledger_bridge_destroy(&bridge);
        assert_int_equal(low, 1);
        tst_assert_equal(source, sink, TST_CMP_ANY_ORDER);
    }
}

/* --- w2: several sources into one sink ------------------------------------------------------- */

static void w2_two_sources_keep_apart(void **state)
{
    struct tst_env *env = *state;
    uint64_t seed = tst_seed();
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *a = tst_open(env, from, "a");
        ledger_store *b = tst_open(env, from, "b");
        ledger_store *sink = tst_open(env, to, "sink");
        struct tst_workload w[2];
        ledger_bridge_options o[2];
        tst_bridge_options(&o[0]);
        tst_bridge_options(&o[1]);
        o[0].name = "from-a";
        o[1].name = "from-b";
        for (int i = 0; i < 2; i++) {
            tst_workload_init(&w[i], seed); /* same ids, same streams */
            w[i].no_dedup = true;
            w[i].small = true;
        }
        for (int round = 0; round < 4; round++) {
            tst_workload_run(&w[0], a, 60);
            tst_workload_run(&w[1], b, 60);
            if (round == 1) /* their own ways from here */
                w[1].state += 77;
            (void)tst_bridge_once(a, sink, &o[0]);
            (void)tst_bridge_once(b, sink, &o[1]);
            tst_assert_equal(a, sink, TST_CMP_OWN);
            tst_assert_equal(b, sink, TST_CMP_OWN);
            assert_int_equal(tst_count(sink, NULL), tst_count(a, NULL) + tst_count(b, NULL));
        }
    }
}

static void w2_tags_go_to_the_own_entry(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *a = tst_open(env, from, "a");
        ledger_store *b = tst_open(env, from, "b");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_options o;
        tst_bridge_options(&o);
        int64_t id_a = tst_append(a, "s", "{\"of\":\"a\"}", NULL, NULL);
        int64_t id_b = tst_append(b, "s", "{\"of\":\"b\"}", NULL, NULL);
        assert_int_equal(id_a, id_b);
        tst_tag(a, "s", id_a, "tag-a");
        tst_tag(b, "s", id_b, "tag-b");
        tst_annotate(b, "s", id_b, "k", "b");
        o.name = "from-b";
        (void)tst_bridge_once(b, sink, &o);
        o.name = "from-a";
        (void)tst_bridge_once(a, sink, &o);
        tst_assert_equal(a, sink, TST_CMP_OWN);
        tst_assert_equal(b, sink, TST_CMP_OWN);
        /* A trim of one source leaves the other's entries alone. */
        assert_int_equal(tst_trim(a, "s", id_a), 1);
        (void)tst_bridge_once(a, sink, &o);
        tst_assert_equal(a, sink, TST_CMP_OWN);
        tst_assert_equal(b, sink, TST_CMP_OWN);
    }
}

static void w2_crossed_dedup_keys_are_counted(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *a = tst_open(env, from, "a");
        ledger_store *b = tst_open(env, from, "b");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_options o;
        ledger_bridge_stats stats;
        struct tst_history before;
        tst_bridge_options(&o);
        tst_append(a, "s", "{\"of\":\"a\"}", "K", "first");
        int64_t id = tst_append(b, "s", "{\"of\":\"b\"}", "K", "second");
        tst_tag(b, "s", id, "of-b");
        int64_t last = tst_append(b, "s", "{\"of\":\"b\"}", NULL, NULL);
        o.name = "from-a";
        (void)tst_bridge_once(a, sink, &o);
        tst_assert_equal(a, sink, TST_CMP_OWN);
        tst_history_load(sink, &before);

        o.name = "from-b";
        ledger_bridge *bridge = tst_bridge(b, sink, &o);
        assert_int_equal(tst_drain(bridge), 3);
        ledger_bridge_get_stats(bridge, &stats);
        tst_check_counters(bridge);
        assert_int_equal(stats.dedup_count, 1);
        assert_int_equal(stats.skip_missing_count, 1); /* tags of an entry that is not there */
        assert_int_equal(stats.apply_count, 1);
        ledger_bridge_destroy(&bridge);
        assert_int_equal(tst_trim(b, "s", last), 2);
        (void)tst_bridge_once(b, sink, &o);
        tst_assert_unchanged(&before, sink);
        tst_history_free(&before);
    }
}

/* --- w3: a sink that keeps no cursors -------------------------------------------------------- */

static void w3_sink_without_cursors(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_options o;
        ledger_bridge_stats stats;
        ledger_error err = { 0 };
        const int total = 1800;
        char payload[64];
        tst_cut(sink, TST_CUT_CURSORS);
        tst_ok(ledger_store_begin(source, &err), &err);
        for (int i = 0; i < total; i++) {
            snprintf(payload, sizeof payload, "{\"n\":%d}", i);
            tst_append(source, i % 7 == 0 ? "a" : "b", payload, NULL, NULL);
        }
        tst_ok(ledger_store_commit(source, &err), &err);
        tst_bridge_options(&o);
        o.cursor_file = tst_path(env, "cursors.db");
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        assert_int_equal(tst_drain(bridge), total);
        for (int i = 0; i < 5; i++)
            assert_int_equal(tst_drain(bridge), 0);
        ledger_bridge_get_stats(bridge, &stats);
        tst_check_counters(bridge);
        assert_int_equal(stats.apply_count, total); /* each once: none was a replay */
        assert_int_equal(stats.read_count, total);
        ledger_bridge_destroy(&bridge);
        assert_true(tst_file_exists(o.cursor_file));
        tst_assert_equal(source, sink, 0);

        /* Kept across a restart of the bridge. */
        assert_int_equal(tst_bridge_once(source, sink, &o), 0);
        tst_append(source, "a", "{\"late\":true}", NULL, NULL);
        assert_int_equal(tst_bridge_once(source, sink, &o), 1);
        tst_assert_equal(source, sink, 0);
    }
}

static void w3_cursor_file_lost(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_options o;
        struct tst_workload w;
        tst_cut(sink, TST_CUT_CURSORS);
        tst_workload_init(&w, tst_seed());
        tst_workload_run(&w, source, 120);
        tst_bridge_options(&o);
        o.cursor_file = tst_path(env, "cursors-1.db");
        uint64_t read = tst_bridge_once(source, sink, &o);
        tst_assert_equal(source, sink, 0);
        /* Another file knows nothing: everything comes again and changes nothing. */
        o.cursor_file = tst_path(env, "cursors-2.db");
        assert_int_equal(tst_bridge_once(source, sink, &o), read);
        tst_assert_equal(source, sink, 0);
    }
}

/* --- w5: throughput and delay ---------------------------------------------------------------- */

static void w5_drains_without_waiting(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_options o;
        ledger_error err = { 0 };
        const size_t total = tst_pair_scale(6000);
        tst_ok(ledger_store_begin(source, &err), &err);
        for (size_t i = 0; i < total; i++)
            tst_append(source, "s", "{\"a\":1}", NULL, NULL);
        tst_ok(ledger_store_commit(source, &err), &err);
        tst_bridge_options(&o);
        o.interval_ms = 3600 * 1000; /* must play no part */
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        tst_ok(ledger_bridge_start(bridge, &err), &err); /* the second does nothing */
        tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
        assert_int_equal(tst_count(sink, NULL), total);
        ledger_bridge_stop(bridge);
        ledger_bridge_stop(bridge);
        tst_check_counters(bridge);
        tst_ok(ledger_bridge_wait(bridge, false, 0, &err), &err);
        ledger_bridge_destroy(&bridge);
        tst_assert_equal(source, sink, 0);
    }
}

static void w5_a_lone_event_arrives_at_once(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_options o;
        ledger_error err = { 0 };
        int64_t best_us = INT64_MAX;
        tst_bridge_options(&o);
        o.interval_ms = 3600 * 1000;
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        for (uint64_t i = 1; i <= 5; i++) {
            tst_sleep_us(20000); /* the bridge is asleep */
            tst_append(source, "s", "{}", NULL, NULL);
            int64_t begun = tst_mono_us(), took;
            TST_AWAIT(tst_count(sink, NULL) >= i);
            took = tst_mono_us() - begun;
            if (took < best_us)
                best_us = took;
        }
        if (best_us > tst_slow(60000))
            tst_fail("the fastest of 5 lone events took %" PRId64 " us", best_us);
        ledger_bridge_destroy(&bridge);
        tst_assert_equal(source, sink, 0);
    }
}

/* --- w8: trims ------------------------------------------------------------------------------- */

static void w8_before_id_that_the_sink_never_had(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        int64_t last_t = 0;
        for (int i = 0; i < 20; i++) {
            tst_append(source, "s", "{}", NULL, NULL);
            last_t = tst_append(source, "t", "{}", NULL, NULL);
        }
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(tst_trim(source, "s", last_t - 10), 15); /* an id of the other stream */
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
        assert_int_equal(tst_trim(source, "t", 1000000), 20); /* an id that nobody has yet */
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
        for (int i = 0; i < 5; i++) /* lower than that, and later */
            tst_append(source, "t", "{}", NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
        assert_int_equal(tst_trim(source, "no such stream", 5), 0);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
    }
}

static void w8_sink_ids_do_not_matter(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        for (int i = 0; i < 30; i++) /* entries of the sink's own shift all ids */
            tst_append(sink, "s", "{\"own\":true}", NULL, NULL);
        for (int i = 0; i < 12; i++)
            tst_append(source, "s", "{}", NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(tst_trim(source, "s", 9), 9);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, TST_CMP_OWN);
        assert_int_equal(tst_count(sink, "s"), 33);
    }
}

static void w8_ids_are_numbers(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        for (int i = 0; i < 120; i++)
            tst_append(source, "s", "{}", NULL, NULL);
        assert_int_equal(tst_trim(source, "s", 9), 9); /* as text 10, 11, 100 are below "9" */
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
        assert_int_equal(tst_trim(source, "s", 99), 90);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
        assert_int_equal(tst_count(sink, "s"), 21);
    }
}

/* --- w9: several bridges at once ------------------------------------------------------------- */

static void several_bridges(struct tst_env *env, size_t bridge_count, uint64_t seed)
{
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge *bridges[4];
        ledger_bridge_options o;
        ledger_error err = { 0 };
        struct tst_workload w;
        uint64_t read = 0;
        tst_bridge_options(&o);
        o.interval_ms = 10;
        o.batch_size = 7;
        o.backlog_batch_size = 20;
        for (size_t i = 0; i < bridge_count; i++) {
            bridges[i] = tst_bridge(source, sink, &o);
            tst_ok(ledger_bridge_start(bridges[i], &err), &err);
        }
        tst_workload_init(&w, seed);
        w.stream_count = 2; /* many changes of the same entries */
        tst_workload_run(&w, source, tst_pair_scale(500));
        for (size_t i = 0; i < bridge_count; i++)
            tst_ok(ledger_bridge_wait(bridges[i], true, TST_PATIENCE_MS, &err), &err);
        for (size_t i = 0; i < bridge_count; i++) {
            ledger_bridge_stats stats;
            ledger_bridge_stop(bridges[i]);
            tst_check_counters(bridges[i]);
            ledger_bridge_get_stats(bridges[i], &stats);
            read += stats.read_count;
            ledger_bridge_destroy(&bridges[i]);
        }
        tst_assert_equal(source, sink, 0);
        assert_int_equal(tst_bridge_once(source, sink, NULL), 0);
        if (from != TST_MEMORY) /* each event was decided by one of them, once */
            assert_int_equal(
                read, tst_query_int_on(source, "SELECT count(*) FROM ledger_entries_mutations"));
    }
}

static void w9_two_bridges(void **state)
{
    several_bridges(*state, 2, tst_seed());
}

static void w9_four_bridges(void **state)
{
    several_bridges(*state, 4, tst_seed() + 1);
}

/* --- w13: bytes and times -------------------------------------------------------------------- */

static void w13_bytes_and_times_arrive(void **state)
{
    struct tst_env *env = *state;
    uint64_t seed = tst_seed();
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        uint64_t random = seed;
        int64_t id = 0;
        for (int i = 0; i < 200; i++) {
            ledger_append_input input = { .metadata = { &(ledger_pair){ "k", "<&>" }, 1 } };
            char *payload = tst_random_payload(&random, false, &input.payload.size);
            ledger_ids ids = { 0 };
            ledger_error err = { 0 };
            input.payload.data = payload;
            tst_ok(ledger_store_append(source, "s", &input, 1, &ids, &err), &err);
            id = ids.items[0].number;
            ledger_ids_destroy(&ids);
            free(payload);
        }
        tst_sleep_us(5000);
        tst_tag(source, "s", id, "later"); /* updated_at is not created_at */
        tst_sleep_us(30000);               /* the sink's clock is another by now */
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
    }
}

static void w13_payload_that_is_not_json_is_refused(void **state)
{
    struct tst_env *env = *state;
    static const char *const bad[] = {
        "",      " ",    "{",           "nul",          "{\"a\":1,}",       "'a'",
        "{a:1}", "01",   "1 2",         "\"\\x\"",      "\"a\nb\"",         "\xEF\xBB\xBF{}",
        "NaN",   "[1,]", "\"\xFF\"",    "\"\xC0\x80\"", "\"\xED\xA0\x80\"", "+1",
        ".5",    "1.",   "\"\\ud800\"x"
    };
    TST_EACH_SOURCE(env, kind)
    {
        ledger_store *source = tst_open(env, (enum tst_kind)kind, "source");
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            ledger_append_input inputs[2] = { { .payload = { "{}", 2 } },
                                              { .payload = { bad[i], strlen(bad[i]) } } };
            ledger_error err = { 0 };
            ledger_ids ids = { 0 };
            ledger_rc rc = ledger_store_append(source, "s", inputs, 2, &ids, &err);
            if (rc != (bad[i][0] == '\0' ? LEDGER_ERR_INVALID : LEDGER_ERR_DATA))
                tst_fail("payload '%s': %s", bad[i], ledger_rc_name(rc));
            assert_null(ids.items);
            assert_string_not_equal(err.message, "");
        }
        assert_int_equal(tst_count(source, NULL), 0);
    }
}

/* --- w14: stop in the middle ----------------------------------------------------------------- */

/* Every entry of the source up to this position is there. */
static void assert_covers(const struct tst_history *h, int64_t position)
{
    bool *seen = calloc((size_t)position + 1, sizeof *seen);
    assert_non_null(seen);
    for (size_t i = 0; i < h->count; i++)
        if (h->entries[i].source_id >= 1 && h->entries[i].source_id <= position)
            seen[h->entries[i].source_id] = true;
    for (int64_t id = 1; id <= position; id++)
        if (!seen[id])
            tst_fail("cursor is at %" PRId64 ", entry %" PRId64 " is not there", position, id);
    free(seen);
}

static void w14_cursor_only_covers_what_is_applied(void **state)
{
    struct tst_env *env = *state;
    uint64_t random = tst_seed();
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        /* A bridge has to come to its first batches: connecting alone takes a while. */
        const bool slow = tst_is_postgres(from) || tst_is_postgres(to);
        const size_t stops_max = slow ? tst_scale(15) : 200;
        const uint64_t run_us = slow ? 60000 : 3000;
        const int64_t total = (int64_t)tst_scale(3000);
        ledger_error err = { 0 };
        int64_t before = 0;
        size_t stops = 0;
        tst_ok(ledger_store_begin(source, &err), &err);
        for (int64_t i = 0; i < total; i++) {
            static const char *const streams[] = { "a", "b", "c", "d", "e" };
            /* Event i makes entry i: so a position tells which entries must be there. */
            assert_int_equal(tst_append(source, streams[i % 5], "{}", NULL, NULL), i + 1);
        }
        tst_ok(ledger_store_commit(source, &err), &err);
        while (before < total && stops < stops_max) {
            ledger_bridge_options o;
            ledger_bridge_status status;
            struct tst_history h;
            tst_bridge_options(&o);
            o.batch_size = 20;
            o.backlog_batch_size = 100;
            o.parallel_streams = stops % 2 == 0 ? 1 : 4;
            ledger_bridge *bridge = tst_bridge(source, sink, &o);
            tst_ok(ledger_bridge_start(bridge, &err), &err);
            tst_sleep_us((int64_t)tst_random_below(&random, run_us));
            if (stops % 3 == 0)
                ledger_bridge_request_stop(bridge);
            ledger_bridge_stop(bridge);
            tst_check_counters(bridge);
            ledger_bridge_destroy(&bridge);
            stops++;

            tst_ok(
                ledger_bridge_status_get(source, sink, LEDGER_BRIDGE_DEFAULT_NAME, &status, &err),
                &err);
            int64_t position = status.has_cursor ? strtoll(status.position, NULL, 10) : 0;
            assert_true(position >= before);
            assert_int_equal(status.backlog_count, total - position);
            tst_history_load(sink, &h);
            assert_true(h.count >= (size_t)position);
            if (to != TST_MEMORY) /* one transaction: not one more either */
                assert_int_equal(h.count, position);
            assert_covers(&h, position);
            tst_history_free(&h);
            before = position;
        }
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
    }
}

/* --- w15: whose cursor it is ----------------------------------------------------------------- */

static void w15_cursor_of_another_source(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *a = tst_open(env, from, "a");
        ledger_store *b = tst_open(env, from, "b");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_status status;
        struct tst_history before;
        ledger_error err = { 0 };
        uint64_t read = 0;
        for (int i = 0; i < 10; i++) {
            tst_append(a, "s", "{\"of\":\"a\"}", NULL, NULL);
            tst_append(b, "s", "{\"of\":\"b\"}", NULL, NULL);
        }
        (void)tst_bridge_once(a, sink, NULL);
        tst_history_load(sink, &before);
        ledger_bridge *bridge = tst_bridge(b, sink, NULL); /* the same name: "default" */
        tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_CURSOR_MISMATCH, &err);
        tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_CURSOR_MISMATCH, &err);
        /* The thread gives up with the same reason, at once. */
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        tst_fails(ledger_bridge_wait(bridge, false, TST_PATIENCE_MS, &err),
                  LEDGER_ERR_CURSOR_MISMATCH, &err);
        tst_check_counters(bridge);
        ledger_bridge_destroy(&bridge);
        tst_fails(ledger_bridge_status_get(b, sink, "default", &status, &err),
                  LEDGER_ERR_CURSOR_MISMATCH, &err);
        tst_assert_unchanged(&before, sink);
        tst_history_free(&before);
        (void)tst_bridge_once(a, sink, NULL); /* the owner goes on */

        /* On purpose: the cursor is bound to b now, and a is told so. */
        tst_ok(ledger_bridge_cursor_set(b, sink, "default", "0", false, &err), &err);
        (void)tst_bridge_once(b, sink, NULL);
        tst_assert_equal(a, sink, TST_CMP_OWN);
        tst_assert_equal(b, sink, TST_CMP_OWN);
        bridge = tst_bridge(a, sink, NULL);
        tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_CURSOR_MISMATCH, &err);
        ledger_bridge_destroy(&bridge);
    }
}

static void w15_cursor_set_back_changes_nothing(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_status status;
        ledger_bridge_stats stats;
        ledger_error err = { 0 };
        struct tst_workload w;
        char middle[32];
        tst_workload_init(&w, tst_seed());
        tst_workload_run(&w, source, 200);
        uint64_t all = tst_bridge_once(source, sink, NULL);
        tst_ok(ledger_bridge_status_get(source, sink, "default", &status, &err), &err);
        const long long head = strtoll(status.head, NULL, 10); /* what rolls back leaves gaps */
        snprintf(middle, sizeof middle, "%lld", head / 2);
        static const char *const positions[] = { "0", NULL, "1" };
        for (int i = 0; i < 3; i++) {
            const char *position = positions[i] != NULL ? positions[i] : middle;
            tst_ok(ledger_bridge_cursor_set(source, sink, "default", position, false, &err), &err);
            tst_ok(ledger_bridge_status_get(source, sink, "default", &status, &err), &err);
            assert_int_equal(strtoll(status.position, NULL, 10), strtoll(position, NULL, 10));
            assert_int_equal(strtoll(status.head, NULL, 10), head);
            if (i == 0)
                assert_int_equal(status.backlog_count, all);
            assert_true(status.backlog_count <= (uint64_t)(head - strtoll(position, NULL, 10)));
            ledger_bridge *bridge = tst_bridge(source, sink, NULL);
            assert_int_equal(tst_drain(bridge), status.backlog_count);
            tst_check_counters(bridge);
            ledger_bridge_get_stats(bridge, &stats);
            assert_int_equal(stats.park_count, 0);
            ledger_bridge_destroy(&bridge);
            tst_assert_equal(source, sink, 0);
        }
        /* Going forward loses events: only when that is said. */
        tst_append(source, "s", "{\"skipped\":true}", NULL, NULL);
        tst_ok(ledger_bridge_status_get(source, sink, "default", &status, &err), &err);
        snprintf(middle, sizeof middle, "%lld", strtoll(status.head, NULL, 10));
        tst_fails(ledger_bridge_cursor_set(source, sink, "default", middle, false, &err),
                  LEDGER_ERR_INVALID, &err);
        tst_fails(ledger_bridge_cursor_set(source, sink, "default", "12x", true, &err),
                  LEDGER_ERR_INVALID, &err);
        tst_fails(ledger_bridge_cursor_set(source, sink, "default", "-1", true, &err),
                  LEDGER_ERR_INVALID, &err);
        tst_fails(
            ledger_bridge_cursor_set(source, sink, "default", "9223372036854775808", true, &err),
            LEDGER_ERR_INVALID, &err);
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", middle, true, &err), &err);
        assert_int_equal(tst_bridge_once(source, sink, NULL), 0);
    }
}

static void w15_names_are_separate_cursors(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_status status;
        ledger_bridge_options o;
        ledger_error err = { 0 };
        tst_append(source, "s", "{}", NULL, NULL);
        tst_bridge_options(&o);
        o.name = "one";
        assert_int_equal(tst_bridge_once(source, sink, &o), 1);
        tst_ok(ledger_bridge_status_get(source, sink, "two", &status, &err), &err);
        assert_false(status.has_cursor);
        assert_string_equal(status.position, "");
        assert_int_equal(status.backlog_count, 1);
        o.name = "two";
        assert_int_equal(tst_bridge_once(source, sink, &o), 1); /* again, to no effect */
        tst_assert_equal(source, sink, 0);
    }
}

/* --- w18: numbers that are true -------------------------------------------------------------- */

static void w18_lag_and_backlog_are_always_known(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_status status;
        ledger_bridge_stats stats;
        ledger_error err = { 0 };
        uint64_t read = 0;
        for (int i = 0; i < 30; i++)
            tst_append(source, "s", "{}", NULL, NULL);
        tst_sleep_us(30000);
        /* No bridge has ever run. */
        tst_ok(ledger_bridge_status_get(source, sink, "default", &status, &err), &err);
        assert_false(status.has_cursor);
        assert_int_equal(status.backlog_count, 30);
        assert_true(status.lag_seconds >= 0.02 && status.lag_seconds < 60);
        assert_string_not_equal(status.source_uuid, "");

        ledger_bridge_options o;
        tst_bridge_options(&o);
        o.batch_size = 10;
        o.backlog_batch_size = 10;
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        ledger_bridge_get_stats(bridge, &stats);
        assert_true(stats.last_success_us == LEDGER_NO_TIME);
        assert_true(stats.last_progress_us == LEDGER_NO_TIME);
        tst_ok(ledger_bridge_poll(bridge, &read, &err), &err);
        assert_int_equal(read, 10);
        ledger_bridge_get_stats(bridge, &stats);
        assert_int_equal(stats.poll_count, 1);
        assert_int_equal(stats.read_count, 10);
        assert_int_equal(stats.apply_count, 10);
        assert_int_equal(stats.backlog_count, 20);
        assert_true(stats.lag_seconds >= 0.02 && stats.lag_seconds < 60);
        assert_true(stats.last_success_us != LEDGER_NO_TIME);
        assert_true(stats.last_progress_us != LEDGER_NO_TIME);
        assert_int_equal(strtoll(stats.position, NULL, 10), 10);
        tst_ok(ledger_bridge_status_get(source, sink, "default", &status, &err), &err);
        assert_true(status.has_cursor);
        assert_int_equal(status.backlog_count, 20);
        assert_true(status.lag_seconds >= 0.02 && status.lag_seconds < 60);
        assert_int_equal(strtoll(status.position, NULL, 10), 10);
        assert_int_equal(strtoll(status.head, NULL, 10), 30);
        assert_true(status.moved_at_us != LEDGER_NO_TIME);
        (void)tst_drain(bridge);
        ledger_bridge_get_stats(bridge, &stats);
        int64_t progress_us = stats.last_progress_us, success_us = stats.last_success_us;
        assert_int_equal(stats.backlog_count, 0);
        assert_true(stats.lag_seconds == 0);
        assert_int_equal(stats.apply_count, 30);
        tst_sleep_us(2000);
        tst_ok(ledger_bridge_poll(bridge, &read, &err), &err); /* success without progress */
        ledger_bridge_get_stats(bridge, &stats);
        assert_true(stats.last_progress_us == progress_us);
        assert_true(stats.last_success_us > success_us);
        ledger_bridge_destroy(&bridge);
        tst_ok(ledger_bridge_status_get(source, sink, "default", &status, &err), &err);
        assert_int_equal(status.backlog_count, 0);
        assert_true(status.lag_seconds == 0);
    }
}

/* What others rely on is the position known to be on the sink's disk; it follows the applied one.
 */
static void w18_durable_position_follows(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_options o;
        ledger_bridge_stats stats;
        ledger_error err = { 0 };
        tst_bridge_options(&o);
        o.interval_ms = 20;
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        for (int64_t i = 1; i <= 3; i++) {
            tst_append(source, "s", "{}", NULL, NULL);
            tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
            do {
                ledger_bridge_get_stats(bridge, &stats);
                assert_true(strtoll(stats.durable_position, NULL, 10) <=
                            strtoll(stats.position, NULL, 10));
                tst_sleep_us(1000);
            } while (strtoll(stats.durable_position, NULL, 10) < i);
            assert_int_equal(strtoll(stats.durable_position, NULL, 10), i);
        }
        ledger_bridge_destroy(&bridge);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(w1_overlapping_transactions),
        T(w2_two_sources_keep_apart),
        T(w2_tags_go_to_the_own_entry),
        T(w2_crossed_dedup_keys_are_counted),
        T(w3_sink_without_cursors),
        T(w3_cursor_file_lost),
        T(w5_drains_without_waiting),
        T(w5_a_lone_event_arrives_at_once),
        T(w8_before_id_that_the_sink_never_had),
        T(w8_sink_ids_do_not_matter),
        T(w8_ids_are_numbers),
        T(w9_two_bridges),
        T(w9_four_bridges),
        T(w13_bytes_and_times_arrive),
        T(w13_payload_that_is_not_json_is_refused),
        T(w14_cursor_only_covers_what_is_applied),
        T(w15_cursor_of_another_source),
        T(w15_cursor_set_back_changes_nothing),
        T(w15_names_are_separate_cursors),
        T(w18_lag_and_backlog_are_always_known),
        T(w18_durable_position_follows),
    };
    return cmocka_run_group_tests_name("regressions", tests, NULL, NULL);
}
