/* A bridge's run, measured: in this process, in one of its own, following its source; and pairs of
 * runs. See common.h. */
#include "common.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

double bench_rate_first(const struct bench_progress *p)
{
    return (double)p->first.count / p->first.seconds;
}

double bench_rate_last(const struct bench_progress *p)
{
    return (double)(p->end.count - p->last.count) / (p->end.seconds - p->last.seconds);
}

static void progress_mark(struct bench_progress *p, uint64_t count, uint64_t total, int64_t start)
{
    struct bench_mark mark = { bench_seconds_since(start), count };

    if (!p->first.count && count >= total / 10)
        p->first = mark;
    if (!p->last.count && count >= total - total / 10)
        p->last = mark;
    p->end = mark;
}

void bench_bare_insert(const char *path, const struct bench_rows *rows, size_t per_tx,
                       struct bench_progress *ret_progress)
{
    struct bench_progress progress = { 0 };
    sqlite3 *db = bench_db_open(path, BENCH_BACKLOG_CHECKPOINT);
    sqlite3_stmt *begin = bench_prepare(db, "BEGIN IMMEDIATE");
    sqlite3_stmt *commit = bench_prepare(db, "COMMIT");
    sqlite3_stmt *insert =
        bench_prepare(db, "INSERT INTO ledger_entries (stream, payload, order_key, dedup_key, "
                          "schema_version, created_at, origin, source_pos) "
                          "VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
    int64_t start = bench_now_ns();

    for (size_t i = 0; i < rows->count; i++) {
        const struct bench_row *row = &rows->items[i];

        if (i % per_tx == 0)
            bench_step(begin);
        sqlite3_bind_text(insert, 1, row->stream, row->stream_size, SQLITE_STATIC);
        sqlite3_bind_blob(insert, 2, row->payload, row->payload_size, SQLITE_STATIC);
        sqlite3_bind_text(insert, 3, row->order_key, row->order_key_size, SQLITE_STATIC);
        sqlite3_bind_text(insert, 4, row->dedup_key, row->dedup_key_size, SQLITE_STATIC);
        sqlite3_bind_int(insert, 5, 1);
        sqlite3_bind_text(insert, 6, row->created_at, row->created_at_size, SQLITE_STATIC);
        sqlite3_bind_int(insert, 7, 1);
        sqlite3_bind_int64(insert, 8, row->source_pos);
        bench_step(insert);
        if (i % per_tx == per_tx - 1 || i + 1 == rows->count) {
            bench_step(commit);
            progress_mark(&progress, i + 1, rows->count, start);
        }
    }
    if (ret_progress)
        *ret_progress = progress;
    bench_db_close(db);
}

static void check_outcome(const ledger_bridge_stats *stats, const struct bench_outcome *expected)
{
    struct bench_outcome outcome = { .applied = stats->apply_count + stats->skip_missing_count,
                                     .replayed = stats->skip_replay_count,
                                     .deduplicated = stats->dedup_count,
                                     .parked = stats->park_count };

    if (expected->either) {
        outcome.applied += outcome.replayed;
        outcome.replayed = 0;
    }
    if (outcome.applied != expected->applied || outcome.replayed != expected->replayed ||
        outcome.deduplicated != expected->deduplicated || outcome.parked != expected->parked)
        bench_die("the bridge read %llu mutations and applied %llu of %llu, found %llu of %llu "
                  "applied before, %llu of %llu doubled by their keys, and parked %llu of %llu",
                  (unsigned long long)stats->read_count, (unsigned long long)outcome.applied,
                  (unsigned long long)expected->applied, (unsigned long long)outcome.replayed,
                  (unsigned long long)expected->replayed, (unsigned long long)outcome.deduplicated,
                  (unsigned long long)expected->deduplicated, (unsigned long long)outcome.parked,
                  (unsigned long long)expected->parked);
}

void bench_bridge_run(const char *source_place, const char *sink_place,
                      const ledger_bridge_options *options, const struct bench_outcome *expected,
                      struct bench_progress *ret_progress)
{
    const uint64_t total =
        expected->applied + expected->replayed + expected->deduplicated + expected->parked;
    struct bench_progress progress = { 0 };
    ledger_bridge_stats stats;
    ledger_store *source = bench_store_open(source_place, LEDGER_MUTATION_LOG_ON);
    ledger_store *sink = bench_store_open(sink_place, LEDGER_MUTATION_LOG_OFF);
    ledger_bridge *bridge = NULL;
    ledger_error err = { 0 };
    int64_t start = bench_now_ns();
    ledger_rc rc;

    bench_check(ledger_bridge_create(source, sink, options, &bridge, &err), &err, "create bridge");
    bench_check(ledger_bridge_start(bridge, &err), &err, "start bridge");
    do {
        rc = ledger_bridge_wait(bridge, true, 5, &err);
        if (rc != LEDGER_ERR_TIMEOUT)
            bench_check(rc, &err, "bridge");
        ledger_bridge_get_stats(bridge, &stats);
        progress_mark(&progress, stats.read_count, total, start);
    } while (rc == LEDGER_ERR_TIMEOUT);
    ledger_bridge_destroy(&bridge);
    ledger_store_close(&source);
    ledger_store_close(&sink);
    check_outcome(&stats, expected);
    if (ret_progress)
        *ret_progress = progress;
}

void bench_bridge_drain(const char *source_place, const char *sink_place,
                        const ledger_bridge_options *options, uint64_t expected,
                        struct bench_progress *ret_progress)
{
    bench_bridge_run(source_place, sink_place, options,
                     &(struct bench_outcome){ .applied = expected }, ret_progress);
}

void bench_cursor_reset(const char *source_place, const char *sink_place)
{
    ledger_store *source = bench_store_open(source_place, LEDGER_MUTATION_LOG_ON);
    ledger_store *sink = bench_store_open(sink_place, LEDGER_MUTATION_LOG_OFF);
    ledger_error err = { 0 };

    bench_check(ledger_bridge_cursor_set(source, sink, NULL, "0", false, &err), &err,
                "reset the cursor");
    ledger_store_close(&source);
    ledger_store_close(&sink);
}

const struct bench_apart *bench_bridge_apart(const char *source_place, const char *sink_place,
                                             size_t expected, struct rusage *ret_usage)
{
    char count_text[32], fd_text[32];
    int fd;
    const struct bench_apart *apart = bench_shared_make(sizeof(*apart), &fd);

    snprintf(count_text, sizeof(count_text), "%zu", expected);
    snprintf(fd_text, sizeof(fd_text), "%d", fd);
    bench_join(
        bench_spawn((const char *const[]){ source_place, sink_place, count_text, fd_text, NULL }),
        ret_usage);
    return apart;
}

int bench_apart_child(char **argv, const ledger_bridge_options *options)
{
    size_t expected = (size_t)strtoull(argv[3], NULL, 10);
    struct bench_apart *apart = bench_shared_map((int)strtol(argv[4], NULL, 10), sizeof(*apart));
    ledger_bridge_options defaults;

    ledger_bridge_options_defaults(&defaults);
    bench_bridge_drain(argv[1], argv[2], options ? options : &defaults, expected, &apart->progress);
    apart->peak_mib = bench_peak_rss_mib();
    return 0;
}

void bench_apart_print(const char *name, const struct bench_apart *apart, size_t count,
                       const struct rusage *usage)
{
    const size_t payloads_mib = 2 * BENCH_LARGE_BYTES >> 20;

    printf("bridge: %.1f s, %.0f/s, CPU %.1f s\n", apart->progress.end.seconds,
           (double)count / apart->progress.end.seconds, bench_cpu_seconds(usage));
    printf("peak RSS %.1f MiB, of it %zu MiB allowed for two payloads\n", apart->peak_mib,
           payloads_mib);
    printf("%s %.1fMiB %zuMiB\n", name, apart->peak_mib, 32 + payloads_mib);
}

void bench_bridge_follow(const char *source_place, const char *sink_place, _Atomic bool *ready,
                         const _Atomic bool *stop)
{
    ledger_store *source = bench_store_open(source_place, LEDGER_MUTATION_LOG_ON);
    ledger_store *sink = bench_store_open(sink_place, LEDGER_MUTATION_LOG_OFF);
    ledger_bridge_options options;
    ledger_bridge *bridge = NULL;
    ledger_error err = { 0 };

    prctl(PR_SET_TIMERSLACK, 50000); /* the usual value; the observer's own is inherited else */
    ledger_bridge_options_defaults(&options);
    bench_check(ledger_bridge_create(source, sink, &options, &bridge, &err), &err, "create bridge");
    bench_check(ledger_bridge_start(bridge, &err), &err, "start bridge");
    bench_check(ledger_bridge_wait(bridge, true, -1, &err), &err, "bridge");
    atomic_store(ready, true);
    while (!atomic_load(stop))
        bench_pause_ns(20000000);
    bench_check(ledger_bridge_wait(bridge, true, -1, &err), &err, "bridge");
    ledger_bridge_destroy(&bridge);
    ledger_store_close(&source);
    ledger_store_close(&sink);
}

#define PAIRS 5

static void print_pair(const char *label, size_t mutations, double time, double peer_time,
                       double ratio)
{
    printf("%-6s %12.3f %12.0f", label, time, (double)mutations / time);
    if (peer_time > 0)
        printf(" %12.3f %12.0f %8.3f", peer_time, (double)mutations / peer_time, ratio);
    printf("\n");
    fflush(stdout);
}

double bench_pairs_run(const struct bench_pairs *pairs)
{
    const bool has_peer = pairs->peer_name;
    double times[2][PAIRS] = { 0 }, ratios[PAIRS], medians[2]; /* [1]: of the peer */
    char label[16];

    printf("%-6s %10s s %10s/s", "pair", pairs->name, pairs->name);
    if (has_peer)
        printf(" %10s s %10s/s %8s", pairs->peer_name, pairs->peer_name, "ratio");
    printf("\n");
    for (int i = 0; i < PAIRS; i++) {
        for (int turn = 0; turn < 1 + has_peer; turn++) {
            const bool is_peer = has_peer && (pairs->peer_first ? !turn : (turn ^ i) & 1);

            times[is_peer][i] = pairs->run(pairs->ctx, is_peer);
        }
        if (pairs->prove)
            pairs->prove(pairs->ctx);
        ratios[i] = times[1][i] / times[0][i];
        snprintf(label, sizeof(label), "%d", i + 1);
        print_pair(label, pairs->mutations, times[0][i], times[1][i], ratios[i]);
    }
    for (int side = 0; side < 2; side++)
        medians[side] = bench_median(times[side], PAIRS);
    print_pair("median", pairs->mutations, medians[0], medians[1], bench_median(ratios, PAIRS));
    return has_peer ? bench_median(ratios, PAIRS) : (double)pairs->mutations / medians[0];
}
