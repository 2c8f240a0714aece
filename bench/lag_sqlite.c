/* lag-sqlite: from the return of a commit at the source until the entry can be read in the sink,
 * with writer, bridge and observer in three processes.
 *
 * The writer is paced by absolute time (a late mutation does not delay the next) and notes when
 * each commit returned. The observer asks the sink by plain SQL for the newest entry about every 60
 * us, and notes when it first saw each; its own period is part of the result and printed besides.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "common.h"

#define ROUNDS 3
#define PER_SECOND 1000
#define SECONDS 10
#define WARM_UP 500   /* mutations before those that count */
#define LOOK_NS 40000 /* pause between two looks */

struct shared {
    _Atomic bool bridge_ready, writer_ready, go, stop;
    int64_t start_ns;
    _Atomic int64_t commit_ns[]; /* by id of the entry, from 1 */
};

static int writer(const char *path, struct shared *shared, size_t count)
{
    char payload[BENCH_PAYLOAD_BYTES + 1];
    struct bench_names names;
    ledger_append_input input = { .payload = { payload, BENCH_PAYLOAD_BYTES },
                                  .order_key = names.order_key,
                                  .dedup_key = names.dedup_key };
    ledger_store *store = bench_store_open(path, LEDGER_MUTATION_LOG_ON);
    ledger_error err = { 0 };

    prctl(PR_SET_TIMERSLACK, 1000);
    atomic_store(&shared->writer_ready, true);
    while (!atomic_load(&shared->go))
        bench_pause_ns(1000000);
    for (size_t i = 0; i < count; i++) {
        bench_names(&names, (unsigned)(i % 100), i);
        bench_payload(payload, i);
        bench_pause_until(shared->start_ns + (int64_t)i * (1000000000 / PER_SECOND));
        bench_check(ledger_store_append(store, names.stream, &input, 1, NULL, &err), &err,
                    "append");
        atomic_store(&shared->commit_ns[i + 1], bench_now_ns());
    }
    ledger_store_close(&store);
    return 0;
}

static int bridge(const char *source_path, const char *sink_path, struct shared *shared)
{
    bench_bridge_follow(source_path, sink_path, &shared->bridge_ready, &shared->stop);
    return 0;
}

static int64_t look(sqlite3_stmt *newest)
{
    int rc = sqlite3_step(newest);
    int64_t id = rc == SQLITE_ROW ? sqlite3_column_int64(newest, 0) : 0;

    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        bench_die("the observer cannot read the sink: %s",
                  sqlite3_errmsg(sqlite3_db_handle(newest)));
    sqlite3_reset(newest);
    return id;
}

/* Returns p50 and p99 in ms. */
static void round_run(const char *source, const char *sink, struct shared *shared, int fd,
                      size_t count, double *ret_p50, double *ret_p99)
{
    char count_text[32], fd_text[32];
    double *gaps = bench_alloc(100000, sizeof(*gaps));
    double *lags = bench_alloc(count + 1, sizeof(*lags));
    int64_t *seen_ns = bench_alloc(count + 1, sizeof(*seen_ns));
    size_t gap_count = 0, lag_count = 0;
    int64_t seen = 0, before, end;
    struct rusage bridge_usage, writer_usage;
    sqlite3_stmt *newest;
    ledger_store *store;
    pid_t pids[2];
    sqlite3 *db;

    bench_remove(source);
    store = bench_store_open(source, LEDGER_MUTATION_LOG_ON);
    ledger_store_close(&store);
    bench_sink_make(sink);
    bench_settle();
    atomic_store(&shared->go, false);
    atomic_store(&shared->stop, false);
    atomic_store(&shared->bridge_ready, false);
    atomic_store(&shared->writer_ready, false);
    snprintf(count_text, sizeof(count_text), "%zu", count);
    snprintf(fd_text, sizeof(fd_text), "%d", fd);
    pids[0] =
        bench_spawn((const char *const[]){ "bridge", source, sink, count_text, fd_text, NULL });
    pids[1] =
        bench_spawn((const char *const[]){ "writer", source, sink, count_text, fd_text, NULL });
    while (!atomic_load(&shared->bridge_ready) || !atomic_load(&shared->writer_ready))
        bench_pause_ns(1000000);

    db = bench_db_open(sink, 0);
    newest = bench_prepare(db, "SELECT source_pos FROM ledger_entries WHERE origin = 1 AND "
                               "source_pos IS NOT NULL ORDER BY source_pos DESC LIMIT 1");
    /* The observer alone: how often it looks when nothing comes. */
    end = bench_now_ns() + 500000000;
    for (before = bench_now_ns(); before < end && gap_count < 100000;) {
        int64_t now;

        bench_pause_ns(LOOK_NS);
        look(newest);
        now = bench_now_ns();
        gaps[gap_count++] = (double)(now - before) / 1e3;
        before = now;
    }
    shared->start_ns = bench_now_ns() + 100000000;
    atomic_store(&shared->go, true);
    end = shared->start_ns + (int64_t)count * (1000000000 / PER_SECOND) + 15 * INT64_C(1000000000);
    while (seen < (int64_t)count) {
        int64_t id, now;

        bench_pause_ns(LOOK_NS);
        id = look(newest);
        now = bench_now_ns();
        for (; seen < id; seen++)
            seen_ns[seen + 1] = now;
        if (now > end)
            bench_die("only %lld of %zu entries arrived", (long long)seen, count);
    }
    bench_db_close(db);
    atomic_store(&shared->stop, true);
    bench_join(pids[0], &bridge_usage);
    bench_join(pids[1], &writer_usage);
    bench_same_rows(source, sink, true);

    for (size_t i = WARM_UP + 1; i <= count; i++)
        lags[lag_count++] = (double)(seen_ns[i] - atomic_load(&shared->commit_ns[i])) / 1e6;
    qsort(lags, lag_count, sizeof(*lags), bench_compare_double);
    qsort(gaps, gap_count, sizeof(*gaps), bench_compare_double);
    *ret_p50 = bench_percentile(lags, lag_count, 0.5);
    *ret_p99 = bench_percentile(lags, lag_count, 0.99);
    end = atomic_load(&shared->commit_ns[count]) - atomic_load(&shared->commit_ns[WARM_UP]);
    printf("%9.0f %8.3f %8.3f %8.3f %8.3f %8.3f %10.0f %10.0f %9.1f %9.1f\n",
           (double)(count - WARM_UP) / ((double)end / 1e9), *ret_p50,
           bench_percentile(lags, lag_count, 0.9), *ret_p99,
           bench_percentile(lags, lag_count, 0.999), lags[lag_count - 1],
           bench_percentile(gaps, gap_count, 0.5), bench_percentile(gaps, gap_count, 0.99),
           100 * bench_cpu_seconds(&bridge_usage) / ((double)count / PER_SECOND),
           100 * bench_cpu_seconds(&writer_usage) / ((double)count / PER_SECOND));
    fflush(stdout);
    bench_release(gaps);
    bench_release(lags);
    bench_release(seen_ns);
}

int main(int argc, char **argv)
{
    size_t count = WARM_UP + bench_scaled(PER_SECOND * SECONDS, PER_SECOND);
    size_t size;
    char source[BENCH_PATH_MAX], sink[BENCH_PATH_MAX];
    double p50[ROUNDS], p99[ROUNDS];
    struct shared *shared;
    int fd;

    if (argc == 6) {
        count = (size_t)strtoull(argv[4], NULL, 10);
        size = sizeof(*shared) + (count + 1) * sizeof(shared->commit_ns[0]);
        shared = bench_shared_map((int)strtol(argv[5], NULL, 10), size);
        return argv[1][0] == 'w' ? writer(argv[2], shared, count)
                                 : bridge(argv[2], argv[3], shared);
    }
    bench_title("lag-sqlite",
                "from commit at the source to visible in the sink, 1,000 mutations/s");
    bench_path(source, "source.db");
    bench_path(sink, "sink.db");
    size = sizeof(*shared) + (count + 1) * sizeof(shared->commit_ns[0]);
    shared = bench_shared_make(size, &fd);
    prctl(PR_SET_TIMERSLACK, 1000);
    printf("times in ms; observer: time between two looks at a quiet sink, in us; CPU in %% of a "
           "core\n");
    printf("%9s %8s %8s %8s %8s %8s %10s %10s %9s %9s\n", "commits/s", "p50", "p90", "p99", "p99.9",
           "max", "look p50", "look p99", "bridge", "writer");
    for (int i = 0; i < ROUNDS; i++)
        round_run(source, sink, shared, fd, count, &p50[i], &p99[i]);
    printf("lag-sqlite %.2fms %.2fms 0.4ms 2ms\n", bench_median(p50, ROUNDS),
           bench_median(p99, ROUNDS));
    return 0;
}
