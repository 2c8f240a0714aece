/* The bridge matrix: every source with every sink. Whatever happens in between, at the end the sink
 * equals the source, a second run has nothing to do, and the counters add up. */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "oracle.h"
#include "workload.h"

static void drain_and_second_run(void **state)
{
    struct tst_env *env = *state;
    uint64_t seed = tst_seed();
    print_message("seed %" PRIu64 "\n", seed);
    TST_ALL_PAIRS(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        struct tst_workload w;
        tst_workload_init(&w, seed);
        assert_int_equal(tst_bridge_once(source, sink, NULL), 0); /* nothing yet */
        for (int round = 0; round < 4; round++) {
            tst_workload_run(&w, source, tst_scale(250));
            assert_true(tst_bridge_once(source, sink, NULL) > 0);
            tst_assert_equal(source, sink, 0);
            assert_int_equal(tst_bridge_once(source, sink, NULL), 0);
            tst_assert_equal(source, sink, 0);
        }
        if (from != TST_MEMORY)
            tst_assert_log_agrees(source);
    }
}

/* A new bridge for each poll, with batches of every small size. */
static void restart_after_each_batch(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        struct tst_workload w;
        ledger_error err = { 0 };
        uint64_t read = 1;
        tst_workload_init(&w, tst_seed());
        tst_workload_run(&w, source, tst_pair_scale(240));
        for (size_t size = 1; read > 0; size = size % 7 + 1) {
            ledger_bridge_options o;
            tst_bridge_options(&o);
            o.batch_size = size;
            ledger_bridge *bridge = tst_bridge(source, sink, &o);
            tst_ok(ledger_bridge_poll(bridge, &read, &err), &err);
            assert_true(read <= size);
            tst_check_counters(bridge);
            ledger_bridge_destroy(&bridge);
        }
        tst_assert_equal(source, sink, 0);
    }
}

static void batches_end_by_bytes(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        const size_t size = 300 * 1000;
        char *payload = malloc(size + 1);
        ledger_bridge_options o;
        ledger_error err = { 0 };
        uint64_t read = 0, polls = 0;
        assert_non_null(payload);
        memset(payload, 'x', size);
        payload[0] = payload[size - 1] = '"';
        payload[size] = '\0';
        for (int i = 0; i < 10; i++)
            tst_append(source, "s", payload, NULL, NULL);
        tst_bridge_options(&o);
        o.max_batch_bytes = 1000 * 1000;
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        do {
            tst_ok(ledger_bridge_poll(bridge, &read, &err), &err);
            assert_true(read <= 4);
            polls++;
        } while (read > 0);
        assert_true(polls >= 4);
        ledger_bridge_destroy(&bridge);
        o.max_batch_bytes = 1000; /* less than one event: one at a time */
        tst_append(source, "s", payload, NULL, NULL);
        tst_append(source, "s", payload, NULL, NULL);
        bridge = tst_bridge(source, sink, &o);
        tst_ok(ledger_bridge_poll(bridge, &read, &err), &err);
        assert_int_equal(read, 1);
        assert_int_equal(tst_drain(bridge), 1);
        ledger_bridge_destroy(&bridge);
        tst_assert_equal(source, sink, 0);
        free(payload);
    }
}

static void skipped_types_are_counted(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_options o;
        ledger_bridge_stats stats;
        struct tst_history h;
        for (int i = 0; i < 10; i++) {
            int64_t id = tst_append(source, "s", "{}", NULL, "first");
            tst_tag(source, "s", id, "second");
            tst_annotate(source, "s", id, "k", "v");
        }
        assert_int_equal(tst_trim(source, "s", 3), 3);
        tst_bridge_options(&o);
        o.skip_types = 1U << LEDGER_MUTATION_SET_TAGS | 1U << LEDGER_MUTATION_SET_ANNOTATIONS |
                       1U << LEDGER_MUTATION_TRIM;
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        assert_int_equal(tst_drain(bridge), 31);
        ledger_bridge_get_stats(bridge, &stats);
        tst_check_counters(bridge);
        assert_int_equal(stats.apply_count, 10);
        assert_int_equal(stats.skip_option_count, 21);
        ledger_bridge_destroy(&bridge);
        tst_history_load(sink, &h);
        assert_int_equal(h.count, 10);
        for (size_t i = 0; i < h.count; i++) {
            assert_string_equal(h.entries[i].tags, "[\"first\"]");
            assert_string_equal(h.entries[i].annotations, "{}");
            assert_true(h.entries[i].updated_ms == INT64_MIN);
        }
        tst_history_free(&h);
        /* Not skipped, from the beginning: the rest follows. */
        ledger_error err = { 0 };
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
    }
}

/* One kind of change was left out for a while, and the other went on. Going back brings what was
 * left out, and nothing twice. */
static void skipped_kind_comes_after_a_reset(void **state)
{
    static const ledger_mutation_type kinds[] = { LEDGER_MUTATION_SET_TAGS,
                                                  LEDGER_MUTATION_SET_ANNOTATIONS };
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        for (size_t kind = 0; kind < 2; kind++) {
            ledger_store *source = tst_open(env, from, kind ? "source-1" : "source-0");
            ledger_store *sink = tst_open(env, to, kind ? "sink-1" : "sink-0");
            ledger_bridge_options o;
            ledger_error err = { 0 };
            struct tst_history before;
            for (int i = 0; i < 10; i++) {
                int64_t id = tst_append(source, "s", "{}", NULL, "first");
                for (int turn = i % 2; turn < 3 + i % 2; turn++) {
                    if (turn % 2 == 0)
                        tst_tag(source, "s", id, turn < 2 ? "second" : "third");
                    else
                        tst_annotate(source, "s", id, "k", turn < 2 ? "v" : "w");
                }
            }
            tst_bridge_options(&o);
            o.skip_types = 1U << kinds[kind];
            o.batch_size = 7;
            (void)tst_bridge_once(source, sink, &o);
            o.skip_types = 0;
            tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
            (void)tst_bridge_once(source, sink, &o);
            tst_assert_equal(source, sink, 0);
            tst_history_load(sink, &before);
            tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
            (void)tst_bridge_once(source, sink, &o);
            tst_assert_unchanged(&before, sink);
            tst_history_free(&before);
        }
    }
}

/* Annotations merge: a later one, carried in between, does not stand for those that were left out.
 */
static void skipped_annotations_come_although_later_ones_did(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, (enum tst_kind)to, "sink");
        ledger_bridge_options o;
        ledger_error err = { 0 };
        int64_t ids[4];
        tst_bridge_options(&o);
        o.skip_types = 1U << LEDGER_MUTATION_SET_ANNOTATIONS;
        for (int i = 0; i < 4; i++) {
            ids[i] = tst_append(source, "s", "{}", NULL, "t");
            tst_annotate(source, "s", ids[i], "a", "1");
            tst_annotate(source, "s", ids[i], "b", "1");
        }
        (void)tst_bridge_once(source, sink, &o);
        for (int i = 0; i < 4; i++) {
            tst_annotate(source, "s", ids[i], i < 2 ? "a" : "c", i % 2 ? NULL : "2");
            tst_tag(source, "s", ids[i], "later");
        }
        (void)tst_bridge_once(source, sink, NULL);
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
    }
}

/* The same where a version before this one has carried: one position stood for both kinds. */
static void skipped_kind_of_an_older_version_comes_after_a_reset(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        if (to == TST_MEMORY)
            continue;
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, (enum tst_kind)to, "sink");
        ledger_bridge_options o;
        ledger_error err = { 0 };
        int64_t id = tst_append(source, "s", "{}", NULL, "first");
        tst_tag(source, "s", id, "second");
        tst_annotate(source, "s", id, "k", "v");
        tst_bridge_options(&o);
        o.skip_types = 1U << LEDGER_MUTATION_SET_TAGS;
        (void)tst_bridge_once(source, sink, &o);
        tst_exec_on(sink, "UPDATE ledger_entries SET mutation_pos = annotations_pos, "
                          "annotations_pos = NULL");
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
    }
}

static void parallel_streams(void **state)
{
    struct tst_env *env = *state;
    static const size_t widths[] = { 1, 2, 8 };
    TST_EACH_PAIR(env, from, to)
    {
        for (size_t i = 0; i < 3; i++) {
            char name[2][32];
            struct tst_workload w;
            ledger_bridge_options o;
            snprintf(name[0], sizeof name[0], "source%zu", i);
            snprintf(name[1], sizeof name[1], "sink%zu", i);
            ledger_store *source = tst_open(env, from, name[0]);
            ledger_store *sink = tst_open(env, to, name[1]);
            tst_workload_init(&w, tst_seed() + i);
            w.stream_count = 20;
            tst_bridge_options(&o);
            o.parallel_streams = widths[i];
            o.batch_size = 50;
            ledger_bridge *bridge = tst_bridge(source, sink, &o);
            for (int round = 0; round < 4; round++) {
                tst_workload_run(&w, source, tst_pair_scale(240));
                (void)tst_drain(bridge);
                tst_check_counters(bridge);
                tst_assert_equal(source, sink, 0);
            }
            ledger_bridge_destroy(&bridge);
            assert_int_equal(tst_bridge_once(source, sink, &o), 0);
        }
    }
}

struct poller {
    pthread_t thread;
    ledger_bridge *bridge;
    ledger_rc rc;
    ledger_error err;
};

static void *poll_some(void *arg)
{
    struct poller *p = arg;
    for (int i = 0; i < 50; i++) {
        uint64_t read = 0;
        ledger_rc rc = ledger_bridge_poll(p->bridge, &read, &p->err);
        if (rc != LEDGER_OK && rc != LEDGER_ERR_FENCED)
            p->rc = rc;
    }
    return NULL;
}

static void polls_beside_start_and_stop(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        struct poller pollers[3] = { { 0 } };
        struct tst_workload w;
        ledger_bridge_options o;
        ledger_error err = { 0 };
        tst_bridge_options(&o);
        o.batch_size = 9;
        o.interval_ms = 5;
        tst_workload_init(&w, tst_seed());
        w.small = true;
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        tst_workload_run(&w, source, 100);
        for (int i = 0; i < 3; i++) {
            pollers[i].bridge = bridge;
            assert_int_equal(pthread_create(&pollers[i].thread, NULL, poll_some, &pollers[i]), 0);
        }
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        tst_workload_run(&w, source, 200);
        ledger_bridge_stop(bridge);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(pthread_join(pollers[i].thread, NULL), 0);
            tst_ok(pollers[i].rc, &pollers[i].err);
        }
        (void)tst_drain(bridge);
        tst_check_counters(bridge);
        ledger_bridge_destroy(&bridge);
        tst_assert_equal(source, sink, 0);
    }
}

static void cursor_never_goes_back(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge *bridges[3];
        struct tst_workload w;
        ledger_bridge_options o;
        ledger_error err = { 0 };
        int64_t last = 0;
        tst_bridge_options(&o);
        o.batch_size = 3;
        o.backlog_batch_size = 3;
        o.interval_ms = 2;
        for (int i = 0; i < 3; i++) {
            o.parallel_streams = (size_t)i;
            bridges[i] = tst_bridge(source, sink, &o);
            tst_ok(ledger_bridge_start(bridges[i], &err), &err);
        }
        tst_workload_init(&w, tst_seed());
        w.small = true;
        for (size_t i = 0; i < tst_pair_scale(60); i++) {
            ledger_bridge_status status;
            tst_workload_run(&w, source, 5);
            tst_ok(ledger_bridge_status_get(source, sink, "default", &status, &err), &err);
            int64_t position = strtoll(status.position, NULL, 10);
            if (position < last)
                tst_fail("cursor went from %" PRId64 " to %" PRId64, last, position);
            last = position;
        }
        for (int i = 0; i < 3; i++) {
            tst_ok(ledger_bridge_wait(bridges[i], true, TST_PATIENCE_MS, &err), &err);
            ledger_bridge_destroy(&bridges[i]);
        }
        tst_assert_equal(source, sink, 0);
    }
}

/* Replaying anything is a no-op: also a trim up to an id that nobody had yet, with entries after it
 * that got lower ones. */
static void replayed_trim_leaves_later_entries(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        struct tst_history before;
        ledger_error err = { 0 };
        int64_t id = 0;
        for (int i = 0; i < 3; i++)
            tst_append(source, "s", "{}", NULL, NULL);
        assert_int_equal(tst_trim(source, "s", 6), 3);
        for (int i = 0; i < 6; i++)
            id = tst_append(source, "s", "{}", i == 1 ? "K" : NULL, "a");
        tst_tag(source, "s", id, "b");
        tst_annotate(source, "s", 4, "k", "v");
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
        tst_history_load(sink, &before);
        for (int i = 0; i < 6; i++) { /* from every position up to the trim, one event at a time */
            ledger_bridge_options o;
            uint64_t read = 1;
            char text[8];
            tst_bridge_options(&o);
            o.batch_size = 1;
            snprintf(text, sizeof text, "%d", i);
            tst_ok(ledger_bridge_cursor_set(source, sink, "default", text, false, &err), &err);
            ledger_bridge *bridge = tst_bridge(source, sink, &o);
            while (read > 0) {
                struct tst_history now;
                tst_ok(ledger_bridge_poll(bridge, &read, &err), &err);
                tst_history_load(sink, &now);
                for (size_t k = 0; k < before.count; k++) {
                    const struct tst_entry *e = tst_history_find(&now, before.entries[k].id);
                    if (e == NULL || e->source_id != before.entries[k].source_id)
                        tst_fail("from position %d: entry %" PRId64 " has lost its place", i,
                                 before.entries[k].source_id);
                    assert_string_equal(e->tags, before.entries[k].tags);
                    assert_string_equal(e->annotations, before.entries[k].annotations);
                }
                tst_history_free(&now);
            }
            ledger_bridge_destroy(&bridge);
            tst_assert_unchanged(&before, sink);
        }
        tst_history_free(&before);
    }
}

/* A change that is read again loses to the later one that is there: at no moment do tags or
 * annotations go back. */
static void replayed_changes_never_go_back(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_error err = { 0 };
        ledger_bridge_options o;
        struct tst_history before;
        int64_t id = tst_append(source, "s", "{}", NULL, "0");
        for (int i = 1; i < 6; i++) {
            char text[8];
            snprintf(text, sizeof text, "%d", i);
            tst_tag(source, "s", id, text);
            tst_annotate(source, "s", id, i % 2 ? "odd" : "even", text);
        }
        tst_annotate(source, "s", id, "odd", NULL);
        tst_bridge_options(&o);
        o.batch_size = 1;
        (void)tst_bridge_once(source, sink, &o);
        tst_assert_equal(source, sink, 0);
        tst_history_load(sink, &before);
        for (int i = 0; i < 11; i++) {
            uint64_t read = 1;
            char text[8];
            snprintf(text, sizeof text, "%d", i);
            tst_ok(ledger_bridge_cursor_set(source, sink, "default", text, false, &err), &err);
            ledger_bridge *bridge = tst_bridge(source, sink, &o);
            while (read > 0) {
                tst_ok(ledger_bridge_poll(bridge, &read, &err), &err);
                tst_assert_unchanged(&before, sink);
            }
            tst_check_counters(bridge);
            ledger_bridge_stats stats;
            ledger_bridge_get_stats(bridge, &stats);
            assert_int_equal(stats.apply_count, 0); /* a replay is no work done */
            assert_int_equal(stats.skip_replay_count, stats.read_count);
            ledger_bridge_destroy(&bridge);
        }
        tst_history_free(&before);
    }
}

/* --- reading the sink ---------------------------------------------------------------------------
 */

struct tail {
    pthread_t thread;
    ledger_store *store;
    const char *stream;
    uint64_t want, seen;
    ledger_rc rc;
    ledger_error err;
};

/* As a program follows a stream: what is behind the last id, again and again. */
static void *follow(void *arg)
{
    struct tail *t = arg;
    ledger_read_options o = { .size = sizeof(o), .has_after = true, .limit = 50 };
    int64_t begun = tst_mono_us();
    while (t->rc == LEDGER_OK && t->seen < t->want &&
           tst_mono_us() - begun < 1000 * TST_PATIENCE_MS) {
        ledger_batch *batch = NULL;
        t->rc = ledger_store_read(t->store, t->stream, &o, &batch, &t->err);
        for (size_t i = 0; t->rc == LEDGER_OK && i < ledger_batch_count(batch); i++) {
            o.after = ledger_batch_entry(batch, i)->id;
            t->seen++;
        }
        ledger_batch_destroy(&batch);
        tst_sleep_us(300);
    }
    return NULL;
}

static void reader_of_the_sink_misses_nothing(void **state)
{
    struct tst_env *env = *state;
    enum { TAILS = 3, BRIDGES = 2 };
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        static const char *const streams[TAILS] = { "a", "b", "c" };
        struct tail tails[TAILS] = { { 0 } };
        ledger_bridge *bridges[BRIDGES];
        ledger_bridge_options o;
        ledger_error err = { 0 };
        const size_t total = tst_scale(600);
        tst_bridge_options(&o);
        o.batch_size = 7;
        o.backlog_batch_size = 21;
        o.parallel_streams = 3;
        for (int i = 0; i < TAILS; i++) {
            tails[i].store = tst_open(env, to, "sink");
            tails[i].stream = streams[i];
            tails[i].want = (total + TAILS - 1 - (size_t)i) / TAILS;
            assert_int_equal(pthread_create(&tails[i].thread, NULL, follow, &tails[i]), 0);
        }
        for (int i = 0; i < BRIDGES; i++) {
            bridges[i] = tst_bridge(source, sink, &o);
            tst_ok(ledger_bridge_start(bridges[i], &err), &err);
        }
        for (size_t i = 0; i < total; i++)
            tst_append(source, streams[i % TAILS], "{}", NULL, NULL);
        for (int i = 0; i < TAILS; i++) {
            assert_int_equal(pthread_join(tails[i].thread, NULL), 0);
            tst_ok(tails[i].rc, &tails[i].err);
            assert_int_equal(tails[i].seen, tails[i].want);
        }
        for (int i = 0; i < BRIDGES; i++)
            ledger_bridge_destroy(&bridges[i]);
        tst_assert_equal(source, sink, 0);
    }
}

/* --- several sources ---------------------------------------------------------------------------
 */

static void many_sources_one_sink_and_its_own(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_store *sources[5];
        uint64_t own = 0;
        for (int i = 0; i < 5; i++) {
            char name[32];
            ledger_bridge_options o;
            struct tst_workload w;
            snprintf(name, sizeof name, "source%d", i);
            sources[i] = tst_open(env, from, name);
            tst_bridge_options(&o);
            o.name = name;
            tst_workload_init(&w, tst_seed() + (uint64_t)i);
            w.no_dedup = true;
            w.small = true;
            tst_workload_run(&w, sources[i], 60);
            tst_append(sink, "s", "{\"own\":1}", NULL, NULL);
            own++;
            (void)tst_bridge_once(sources[i], sink, &o);
        }
        uint64_t total = own;
        for (int i = 0; i < 5; i++) {
            tst_assert_equal(sources[i], sink, TST_CMP_OWN);
            total += tst_count(sources[i], NULL);
        }
        assert_int_equal(tst_count(sink, NULL), total);
    }
}

/* --- verify ------------------------------------------------------------------------------------
 */

static void count_difference(void *ctx, const ledger_difference *d)
{
    size_t *count = ctx;
    (*count)++;
    assert_non_null(d->stream);
    assert_string_not_equal(d->source_id, "");
    assert_non_null(d->source_value);
    assert_non_null(d->sink_value);
    if (d->kind == LEDGER_DIFF_FIELD)
        assert_string_not_equal(d->field, "");
}

static uint64_t differences(ledger_store *source, ledger_store *sink)
{
    ledger_verify_options o;
    ledger_verify_result result;
    ledger_error err = { 0 };
    size_t reported = 0;
    ledger_verify_options_defaults(&o);
    o.fn = count_difference;
    o.ctx = &reported;
    tst_ok(ledger_bridge_verify(source, sink, &o, &result, &err), &err);
    assert_int_equal(reported, result.difference_count < o.max_reported ? result.difference_count
                                                                        : o.max_reported);
    return result.difference_count;
}

static void verify_finds_every_difference(void **state)
{
    struct tst_env *env = *state;
    static const char *const tampers[] = {
        "UPDATE ledger_entries SET payload = CAST('{\"n\":7}' AS BLOB) WHERE source_pos = 5",
        "UPDATE ledger_entries SET payload = CAST('{\"n\": 5}' AS BLOB) WHERE source_pos = 5",
        "UPDATE ledger_entries SET order_key = 'x' WHERE source_pos = 5",
        "UPDATE ledger_entries SET dedup_key = 'x' WHERE source_pos = 5",
        "UPDATE ledger_entries SET schema_version = 9 WHERE source_pos = 5",
        "UPDATE ledger_entries SET metadata = '{\"a\":\"b\"}' WHERE source_pos = 5",
        "UPDATE ledger_entries SET tags = '[\"tampered\"]' WHERE source_pos = 5",
        "UPDATE ledger_entries SET annotations = '{\"a\":\"b\"}' WHERE source_pos = 5",
        "UPDATE ledger_entries SET created_at = '2001-01-01T00:00:00.000' WHERE source_pos = 5",
        "UPDATE ledger_entries SET updated_at = '2001-01-01T00:00:00.000' WHERE source_pos = 5",
        "UPDATE ledger_entries SET stream = 'elsewhere' WHERE source_pos = 5",
        "DELETE FROM ledger_entries WHERE source_pos = 1",
        "DELETE FROM ledger_entries WHERE source_pos = 5",
        "DELETE FROM ledger_entries WHERE source_pos = 20",
        "UPDATE ledger_entries SET source_pos = 5000 WHERE source_pos = 5",
        ("INSERT INTO ledger_entries (stream, payload, origin, source_pos)"
         " VALUES ('s', CAST('{}' AS BLOB), 1, 1000)"),
    };
    for (int from = 0; from < TST_KIND_COUNT; from++) {
        for (size_t i = 0; i < sizeof tampers / sizeof tampers[0]; i++, tst_env_reset(env)) {
            ledger_store *source = tst_open(env, (enum tst_kind)from, "source");
            ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
            char payload[32];
            for (int n = 1; n <= 20; n++) {
                snprintf(payload, sizeof payload, "{\"n\":%d}", n);
                tst_append(source, "s", payload, NULL, NULL);
            }
            (void)tst_bridge_once(source, sink, NULL);
            assert_int_equal(differences(source, sink), 0);
            tst_exec_on(sink, "%s", tampers[i]);
            if (differences(source, sink) == 0)
                tst_fail("verify does not see: %s", tampers[i]);
        }
    }
}

/* Many entries are missing, others differ, and a large one stands behind them: it is not read again
 * for each of them. */
static void verify_reads_what_differs_by_pages(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        const int64_t count = (int64_t)tst_pair_scale(4000);
        const size_t size = (size_t)8 << 20;
        ledger_append_input *inputs = calloc((size_t)count, sizeof *inputs);
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        char *payload = malloc(size + 1);
        ledger_error err = { 0 };
        ledger_verify_options v;
        ledger_verify_result result;
        assert_non_null(payload);
        assert_non_null(inputs);
        memset(payload, 'x', size);
        payload[0] = payload[size - 1] = '"';
        payload[size] = '\0';
        tst_append(source, "kept", "{}", NULL, NULL);
        for (int64_t i = 0; i < count; i++)
            inputs[i].payload = (ledger_bytes){ "{}", 2 };
        tst_ok(ledger_store_append(source, "s", inputs, (size_t)count, NULL, &err), &err);
        tst_append(source, "kept", payload, NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(tst_trim(sink, "s", count), count - 1); /* all but the last */
        ledger_verify_options_defaults(&v);
        v.max_reported = 3;
        for (int turned = 0; turned < 2; turned++) {
            const int64_t begun = tst_mono_us();
            tst_ok(ledger_bridge_verify(source, sink, &v, &result, &err), &err);
            assert_int_equal(result.difference_count, turned ? 0 : count - 1);
            assert_int_equal(result.pending_count, turned);
            if (tst_mono_us() - begun > 1000 * TST_PATIENCE_MS)
                tst_fail("%" PRId64 " differences took too long", count);
            if (!turned) /* behind the cursor */
                tst_trim(source, "s", count + 1);
        }
        free(payload);
        free(inputs);
    }
}

static void verify_while_writers_go_on(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *looking = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_bridge_options o;
        struct tst_workload w;
        ledger_error err = { 0 };
        ledger_verify_options v;
        ledger_verify_result result;
        ledger_verify_options_defaults(&v);
        tst_fails(ledger_bridge_verify(looking, sink, &v, &result, &err), LEDGER_ERR_NOT_FOUND,
                  &err);
        tst_bridge_options(&o);
        o.interval_ms = 5;
        o.batch_size = 5;
        o.backlog_batch_size = 10;
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        tst_workload_init(&w, tst_seed());
        w.small = true;
        tst_workload_run(&w, source, 50);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        for (size_t i = 0; i < tst_pair_scale(30); i++) {
            tst_workload_run(&w, source, 15);
            if (i == 0) /* the cursor's row may be a moment away */
                tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
            assert_int_equal(differences(looking, sink), 0);
        }
        tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
        ledger_bridge_destroy(&bridge);
        assert_int_equal(differences(looking, sink), 0);
        tst_assert_equal(source, sink, 0);
        /* What the cursor has not reached is no difference. (A transaction may be rolled back, and
         * hold all of it.) */
        w.no_transactions = true;
        tst_workload_run(&w, source, 40);
        assert_int_equal(differences(looking, sink), 0);
        tst_ok(ledger_bridge_verify(looking, sink, &v, &result, &err), &err);
        assert_true(result.pending_count > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(drain_and_second_run),
        T(restart_after_each_batch),
        T(batches_end_by_bytes),
        T(skipped_types_are_counted),
        T(skipped_kind_comes_after_a_reset),
        T(skipped_annotations_come_although_later_ones_did),
        T(skipped_kind_of_an_older_version_comes_after_a_reset),
        T(parallel_streams),
        T(polls_beside_start_and_stop),
        T(cursor_never_goes_back),
        T(replayed_trim_leaves_later_entries),
        T(replayed_changes_never_go_back),
        T(reader_of_the_sink_misses_nothing),
        T(many_sources_one_sink_and_its_own),
        T(verify_finds_every_difference),
        T(verify_reads_what_differs_by_pages),
        T(verify_while_writers_go_on),
    };
    return cmocka_run_group_tests_name("matrix", tests, NULL, NULL);
}
