/* Traps that a simpler design falls into, each as a test named after its row: t2 t4 t6 t7 t8. */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "fixtures.h"
#include "oracle.h"
#include "workload.h"

/* --- t2: a source that went back in time -------------------------------------------------------
 */

struct saved_files {
    char db[600], db_copy[600], wal[600], wal_copy[600], shm[600];
    bool has_wal;
};

static void save_files(struct tst_env *env, const char *name, struct saved_files *f)
{
    snprintf(f->db, sizeof f->db, "%s/%s.db", env->dir, name);
    snprintf(f->wal, sizeof f->wal, "%s/%s.db-wal", env->dir, name);
    snprintf(f->shm, sizeof f->shm, "%s/%s.db-shm", env->dir, name);
    snprintf(f->db_copy, sizeof f->db_copy, "%s/saved-%s.db", env->dir, name);
    snprintf(f->wal_copy, sizeof f->wal_copy, "%s/saved-%s.db-wal", env->dir, name);
    tst_copy_file(f->db, f->db_copy);
    f->has_wal = tst_file_exists(f->wal);
    if (f->has_wal)
        tst_copy_file(f->wal, f->wal_copy);
}

/* With every handle on the file closed. */
static void restore_files(const struct saved_files *f)
{
    (void)unlink(f->wal);
    (void)unlink(f->shm);
    tst_copy_file(f->db_copy, f->db);
    if (f->has_wal)
        tst_copy_file(f->wal_copy, f->wal);
}

static void append_many(ledger_store *store, const char *payload, int count)
{
    for (int i = 0; i < count; i++)
        tst_append(store, "s", payload, NULL, NULL);
}

static void t2_restored_source_stops_the_bridge(void **state)
{
    struct tst_env *env = *state;
    /* How many other rows the restored source has when the bridge comes: fewer, as many, more. */
    static const int rewritten[] = { 0, 3, 10, 25 };
    for (int to = 0; to < TST_SINK_COUNT; to++) {
        if (!tst_kind_here(to))
            continue;
        for (size_t k = 0; k < sizeof rewritten / sizeof rewritten[0]; k++, tst_env_reset(env)) {
            ledger_store *source = tst_open(env, TST_SQLITE, "source");
            ledger_store *sink = tst_open(env, (enum tst_kind)to, "sink");
            struct saved_files files;
            struct tst_history before;
            ledger_error err = { 0 };
            ledger_bridge_status status;
            uint64_t read = 0;
            append_many(source, "{\"kept\":1}", 10);
            save_files(env, "source", &files);
            append_many(source, "{\"lost\":1}", 10);
            assert_int_equal(tst_bridge_once(source, sink, NULL), 20);
            tst_history_load(sink, &before);
            tst_close(env, source);
            restore_files(&files);
            source = tst_open(env, TST_SQLITE, "source");
            assert_int_equal(tst_count(source, NULL), 10);
            append_many(source, "{\"other\":1}", rewritten[k]);

            ledger_bridge *bridge = tst_bridge(source, sink, NULL);
            tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_SOURCE_REWOUND, &err);
            tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_SOURCE_REWOUND, &err);
            tst_check_counters(bridge);
            ledger_bridge_destroy(&bridge);
            tst_fails(ledger_bridge_status_get(source, sink, "default", &status, &err),
                      LEDGER_ERR_SOURCE_REWOUND, &err);
            tst_assert_unchanged(&before, sink);

            /* Told to read all again, it finds the positions that were used twice. */
            tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
            bridge = tst_bridge(source, sink, NULL);
            ledger_rc rc = LEDGER_OK;
            read = 1;
            while (rc == LEDGER_OK && read > 0)
                rc = ledger_bridge_poll(bridge, &read, &err);
            if (rewritten[k] == 0)
                tst_ok(rc, &err); /* nothing was used twice */
            else
                tst_fails(rc, LEDGER_ERR_POSITION_REUSED, &err);
            ledger_bridge_destroy(&bridge);
            tst_assert_unchanged(&before, sink);
            tst_history_free(&before);
        }
    }
}

/* The bridge's own handle stays open while the file behind it goes back. */
static void t2_restored_under_a_running_bridge(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
    struct tst_history before;
    ledger_error err = { 0 };
    uint64_t read = 0;
    append_many(source, "{\"kept\":1}", 10);
    ledger_bridge *bridge = tst_bridge(source, sink, NULL);
    assert_int_equal(tst_drain(bridge), 10);
    append_many(source, "{\"lost\":1}", 10);
    assert_int_equal(tst_drain(bridge), 10);
    tst_history_load(sink, &before);
    /* What a restore in place does, as one transaction: SQLite's backup calls write this way. */
    tst_exec_on(source, "DELETE FROM ledger_entries WHERE id > 10;"
                        "DELETE FROM ledger_entries_mutations WHERE id > 10;"
                        "UPDATE sqlite_sequence SET seq = 10");
    append_many(source, "{\"other\":1}", 15);
    tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_SOURCE_REWOUND, &err);
    ledger_bridge_destroy(&bridge);
    tst_assert_unchanged(&before, sink);
    tst_history_free(&before);
}

/* A copy of the source used as a source of its own has the same uuid: the witness tells. */
static void t2_copied_source_is_noticed(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
    struct saved_files files;
    ledger_error err = { 0 };
    ledger_store_options o;
    uint64_t read = 0;
    append_many(source, "{\"common\":1}", 5);
    save_files(env, "source", &files);
    append_many(source, "{\"only here\":1}", 5);
    assert_int_equal(tst_bridge_once(source, sink, NULL), 10);

    snprintf(files.db, sizeof files.db, "%s/copy.db", env->dir);
    snprintf(files.wal, sizeof files.wal, "%s/copy.db-wal", env->dir);
    snprintf(files.shm, sizeof files.shm, "%s/copy.db-shm", env->dir);
    restore_files(&files);
    ledger_store *copy = tst_open(env, TST_SQLITE, "copy");
    append_many(copy, "{\"only in the copy\":1}", 8);
    ledger_bridge *bridge = tst_bridge(copy, sink, NULL);
    tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_SOURCE_REWOUND, &err);
    ledger_bridge_destroy(&bridge);
    tst_close(env, copy);

    /* With a new identity it is another source. */
    ledger_store_options_defaults(&o);
    o.flags = LEDGER_STORE_CREATE | LEDGER_STORE_NEW_IDENTITY;
    copy = tst_open_with(env, TST_SQLITE, "copy", &o);
    bridge = tst_bridge(copy, sink, NULL);
    tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_CURSOR_MISMATCH, &err);
    ledger_bridge_destroy(&bridge);
    ledger_bridge_options b;
    tst_bridge_options(&b);
    b.name = "copy";
    (void)tst_bridge_once(copy, sink, &b);
    tst_assert_equal(copy, sink, TST_CMP_OWN);
    tst_assert_equal(source, sink, TST_CMP_OWN);
}

/* --- t4: four first runs at once ---------------------------------------------------------------
 */

struct racer {
    pthread_t thread;
    pthread_barrier_t *barrier;
    ledger_store *source, *sink;
    uint64_t read;
    ledger_rc rc;
    ledger_error err;
};

static void *race(void *arg)
{
    struct racer *r = arg;
    ledger_bridge *bridge = NULL;
    ledger_bridge_options o;
    ledger_bridge_stats stats;
    tst_bridge_options(&o);
    o.batch_size = 5;
    o.backlog_batch_size = 10;
    (void)pthread_barrier_wait(r->barrier);
    r->rc = ledger_bridge_create(r->source, r->sink, &o, &bridge, &r->err);
    if (r->rc == LEDGER_OK)
        r->rc = ledger_bridge_start(bridge, &r->err);
    if (r->rc == LEDGER_OK)
        r->rc = ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &r->err);
    if (bridge != NULL) {
        ledger_bridge_stop(bridge);
        ledger_bridge_get_stats(bridge, &stats);
        r->read = stats.read_count;
        if (stats.read_count !=
            stats.apply_count + stats.skip_count + stats.park_count + stats.dedup_count)
            r->rc = LEDGER_ERR_INTERNAL;
        ledger_bridge_destroy(&bridge);
    }
    return NULL;
}

static void t4_four_first_runs_at_once(void **state)
{
    struct tst_env *env = *state;
    enum { RACERS = 4 };
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *again[RACERS];
        struct tst_workload w;
        uint64_t events = 0;
        tst_workload_init(&w, tst_seed());
        w.small = true;
        tst_workload_run(&w, source, 120);
        for (int i = 0; i < RACERS; i++)
            again[i] = tst_open(env, from, "source");
        for (size_t round = 0; round < tst_pair_scale(16); round++) {
            pthread_barrier_t barrier;
            struct racer racers[RACERS] = { { 0 } };
            char name[32];
            snprintf(name, sizeof name, "sink%zu", round);
            ledger_store *sink = tst_open(env, to, name);
            assert_int_equal(pthread_barrier_init(&barrier, NULL, RACERS), 0);
            for (int i = 0; i < RACERS; i++) {
                racers[i].barrier = &barrier;
                racers[i].source = again[i];
                racers[i].sink = tst_open(env, to, name);
                assert_int_equal(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
            }
            uint64_t read = 0;
            for (int i = 0; i < RACERS; i++) {
                assert_int_equal(pthread_join(racers[i].thread, NULL), 0);
                read += racers[i].read;
            }
            (void)pthread_barrier_destroy(&barrier);
            for (int i = 0; i < RACERS; i++) {
                tst_ok(racers[i].rc, &racers[i].err);
                tst_close(env, racers[i].sink);
            }
            tst_assert_equal(source, sink, 0);
            if (events == 0)
                events = read;
            assert_int_equal(read, events); /* each event was decided once, among the four */
            assert_int_equal(tst_bridge_once(source, sink, NULL), 0);
            tst_close(env, sink);
        }
    }
}

/* --- t6: the same key before and after a trim --------------------------------------------------
 */

static void t6_key_trim_key_in_one_batch(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        for (int fallback = 0; fallback < 2; fallback++) {
            char name[2][32];
            snprintf(name[0], sizeof name[0], "source%d", fallback);
            snprintf(name[1], sizeof name[1], "sink%d", fallback);
            ledger_store *source = tst_open(env, from, name[0]);
            ledger_store *sink = tst_open(env, to, name[1]);
            ledger_error err = { 0 };
            tst_append(source, "s", "{\"n\":0}", "first", NULL);
            if (fallback) /* a row that is there already: the batch goes row by row */
                (void)tst_bridge_once(source, sink, NULL);
            for (int i = 0; i < 40; i++)
                tst_append(source, "other", "{}", NULL, NULL);
            int64_t k1 = tst_append(source, "s", "{\"k\":1}", "K", "one");
            tst_append(source, "other", "{}", "K", NULL);
            assert_int_equal(tst_append(source, "s", "{\"k\":1.5}", "K", NULL), 0);
            assert_int_equal(tst_trim(source, "s", k1), 2);
            int64_t k2 = tst_append(source, "s", "{\"k\":2}", "K", "two");
            assert_true(k2 > k1);
            for (int i = 0; i < 40; i++)
                tst_append(source, "other", "{}", NULL, NULL);
            if (fallback)
                tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
            (void)tst_bridge_once(source, sink, NULL);
            tst_assert_equal(source, sink, 0);
            assert_int_equal(tst_count(sink, "s"), 1);
            /* And all of it once more. */
            tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
            (void)tst_bridge_once(source, sink, NULL);
            tst_assert_equal(source, sink, 0);
        }
    }
}

/* --- t7: a lone commit of another process ------------------------------------------------------
 */

static void t7_lone_commit_of_another_process(void **state)
{
    struct tst_env *env = *state;
    static const char *const syncs[] = { "FULL", "NORMAL", "OFF" };
    static const char *const journals[] = { "WAL", "DELETE" };
    for (size_t j = 0; j < 2; j++) {
        for (size_t s = 0; s < 3; s++, tst_env_reset(env)) {
            struct tst_child writer;
            ledger_bridge_options o;
            ledger_error err = { 0 };
            int64_t best_us = INT64_MAX;
            char path[700];
            snprintf(path, sizeof path, "%s/source.db", env->dir);
            tst_writer(&writer, "lone", path, syncs[s], journals[j], NULL);
            tst_child_expect(&writer, "ready");
            ledger_store_options so;
            ledger_store_options_defaults(&so);
            so.flags = LEDGER_STORE_READ_ONLY;
            ledger_store *source = tst_open_with(env, TST_SQLITE, "source", &so);
            ledger_store *sink = tst_open(env, TST_MEMORY, "sink");
            tst_bridge_options(&o);
            o.interval_ms = 3600 * 1000;
            ledger_bridge *bridge = tst_bridge(source, sink, &o);
            tst_ok(ledger_bridge_start(bridge, &err), &err);
            for (uint64_t i = 1; i <= 6; i++) {
                int64_t begun, took;
                tst_sleep_us(150000); /* the bridge has nothing to do and is fast asleep */
                assert_true(fputs("go\n", writer.in) >= 0 && fflush(writer.in) == 0);
                tst_child_expect(&writer, "done");
                begun = tst_mono_us();
                TST_AWAIT(tst_count(sink, NULL) >= i);
                took = tst_mono_us() - begun;
                if (took < best_us)
                    best_us = took;
            }
            if (best_us > tst_slow(60000))
                tst_fail("journal %s, synchronous %s: the fastest commit took %" PRId64 " us",
                         journals[j], syncs[s], best_us);
            ledger_bridge_destroy(&bridge);
            assert_int_equal(tst_child_end(&writer, 0), 0);
        }
    }
}

/* --- t8: a stalled worker commits late ---------------------------------------------------------
 */

/* What a worker that was overtaken would still do: append the entry that was trimmed meanwhile. */
static void t8_late_batch_is_fenced_off(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        struct ldg_identity identity;
        struct ldg_cursor stale;
        struct tst_history before;
        ledger_error err = { 0 };
        int origin = 0;
        int64_t first = tst_append(source, "s", "{\"n\":1}", NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        tst_ok(ldg_store_cursor_get(sink, "default", false, &stale, &err), &err);
        tst_ok(ldg_store_identity(source, &identity, &err), &err);
        tst_ok(ldg_store_origin_get(sink, &identity, "default", &origin, &err), &err);

        /* The stalled worker holds the event of entry 2. */
        int64_t second = tst_append(source, "s", "{\"n\":2}", NULL, NULL);
        ledger_append_entry entry = { .id = "2",
                                      .payload = { "{\"n\":2}", 7 },
                                      .order_key = "",
                                      .dedup_key = "",
                                      .schema_version = 1,
                                      .source_id = "",
                                      .created_at_us = 1 };
        struct ldg_op op = { .kind = LDG_OP_APPEND,
                             .origin = origin,
                             .mutation_origin = origin,
                             .position = 2,
                             .log_position = 2,
                             .stream = "s",
                             .key.number = second,
                             .time_us = 1,
                             .entry = &entry,
                             .type_name = "append",
                             .source_uuid = identity.uuid,
                             .log_time_us = 1 };
        uint8_t outcomes[1] = { 0 };

        /* The second bridge takes over: entry 2 arrives and is trimmed. */
        assert_int_equal(tst_trim(source, "s", second), 2);
        tst_append(source, "s", "{\"n\":3}", NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        tst_assert_equal(source, sink, 0);
        tst_history_load(sink, &before);

        struct ldg_cursor next = stale;
        struct ldg_apply apply = {
            .name = "default", .expected = &stale, .next = &next, .ops = &op, .count = 1
        };
        tst_fails(ldg_store_apply(sink, &apply, outcomes, &err), LEDGER_ERR_FENCED, &err);
        apply.next = NULL; /* as one of several parallel workers */
        tst_fails(ldg_store_apply(sink, &apply, outcomes, &err), LEDGER_ERR_FENCED, &err);
        tst_fails(ldg_store_cursor_set(sink, "default", &stale, &next, &err), LEDGER_ERR_FENCED,
                  &err);
        tst_assert_unchanged(&before, sink);
        tst_history_free(&before);
        assert_int_equal(first, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(t2_restored_source_stops_the_bridge), T(t2_restored_under_a_running_bridge),
        T(t2_copied_source_is_noticed),         T(t4_four_first_runs_at_once),
        T(t6_key_trim_key_in_one_batch),        T(t7_lone_commit_of_another_process),
        T(t8_late_batch_is_fenced_off),
    };
    return cmocka_run_group_tests_name("traps", tests, NULL, NULL);
}
