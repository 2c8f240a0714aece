/* See lag.h. */
#include "lag.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#define PER_SECOND 1000
#define SECONDS 10
#define WARM_UP 500 /* mutations before those that count */

struct bench_lag_shared {
    _Atomic bool bridge_ready, writer_ready, go, stop;
    int64_t start_ns;
    _Atomic int64_t commit_ns[]; /* by id */
};

static size_t shared_size(size_t count)
{
    return sizeof(struct bench_lag_shared) + (count + 1) * sizeof(_Atomic int64_t);
}

/* --- the processes ---------------------------------------------------------------------------- */

static void write_all(const char *path, struct bench_lag_shared *shared, size_t count)
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
}

bool bench_lag_is_child(int argc, char **argv)
{
    struct bench_lag_shared *shared;
    size_t count;

    if (argc != 6)
        return false;
    count = (size_t)strtoull(argv[4], NULL, 10);
    shared = bench_shared_map((int)strtol(argv[5], NULL, 10), shared_size(count));
    if (argv[1][0] == 'w')
        write_all(argv[2], shared, count);
    else
        bench_bridge_follow(argv[2], argv[3], &shared->bridge_ready, &shared->stop);
    return true;
}

static pid_t spawn(const struct bench_lag *lag, const char *what, const char *source,
                   const char *sink)
{
    char count[32], fd[32];

    snprintf(count, sizeof(count), "%zu", lag->count);
    snprintf(fd, sizeof(fd), "%d", lag->fd);
    return bench_spawn((const char *const[]){ what, source, sink, count, fd, NULL });
}

/* --- a round ---------------------------------------------------------------------------------- */

void bench_lag_init(struct bench_lag *lag)
{
    *lag = (struct bench_lag){ .count = WARM_UP + bench_scaled(PER_SECOND * SECONDS, PER_SECOND) };
    lag->shared = bench_shared_make(shared_size(lag->count), &lag->fd);
    lag->seen_ns = bench_alloc(lag->count + 1, sizeof(*lag->seen_ns));
}

void bench_lag_fini(struct bench_lag *lag)
{
    bench_release(lag->seen_ns);
}

void bench_lag_begin(struct bench_lag *lag, const char *source, const char *sink)
{
    struct bench_lag_shared *shared = lag->shared;
    ledger_store *store;

    bench_remove(source);
    store = bench_store_open(source, LEDGER_MUTATION_LOG_ON);
    ledger_store_close(&store);
    bench_settle();
    atomic_store(&shared->go, false);
    atomic_store(&shared->stop, false);
    atomic_store(&shared->bridge_ready, false);
    atomic_store(&shared->writer_ready, false);
    lag->bridge = spawn(lag, "bridge", source, sink);
    lag->writer = spawn(lag, "writer", source, sink);
    while (!atomic_load(&shared->bridge_ready) || !atomic_load(&shared->writer_ready))
        bench_pause_ns(1000000);
}

int64_t bench_lag_go(struct bench_lag *lag)
{
    struct bench_lag_shared *shared = lag->shared;

    shared->start_ns = bench_now_ns() + 100000000;
    atomic_store(&shared->go, true);
    return shared->start_ns + (int64_t)lag->count * (1000000000 / PER_SECOND) +
           15 * INT64_C(1000000000);
}

void bench_lag_end(struct bench_lag *lag)
{
    atomic_store(&lag->shared->stop, true);
    bench_join(lag->bridge, &lag->bridge_usage);
    bench_join(lag->writer, &lag->writer_usage);
}

/* --- what is printed -------------------------------------------------------------------------- */

void bench_lag_print_head(const char *more)
{
    printf("%9s %8s %8s %8s %8s %8s %s %9s %9s\n", "commits/s", "p50", "p90", "p99", "p99.9", "max",
           more, "bridge", "writer");
}

static double percent_of_core(const struct bench_lag *lag, const struct rusage *usage)
{
    return 100 * bench_cpu_seconds(usage) / ((double)lag->count / PER_SECOND);
}

void bench_lag_print(struct bench_lag *lag, int round, const char *more)
{
    const _Atomic int64_t *commit_ns = lag->shared->commit_ns;
    double *lags = bench_alloc(lag->count, sizeof(*lags));
    const int64_t took = atomic_load(&commit_ns[lag->count]) - atomic_load(&commit_ns[WARM_UP]);
    size_t count = 0;

    for (size_t i = WARM_UP + 1; i <= lag->count; i++)
        lags[count++] = (double)(lag->seen_ns[i] - atomic_load(&commit_ns[i])) / 1e6;
    qsort(lags, count, sizeof(*lags), bench_compare_double);
    lag->p50[round] = bench_percentile(lags, count, 0.5);
    lag->p99[round] = bench_percentile(lags, count, 0.99);
    printf("%9.0f %8.3f %8.3f %8.3f %8.3f %8.3f %s %9.1f %9.1f\n",
           (double)count / ((double)took / 1e9), lag->p50[round],
           bench_percentile(lags, count, 0.9), lag->p99[round],
           bench_percentile(lags, count, 0.999), lags[count - 1], more,
           percent_of_core(lag, &lag->bridge_usage), percent_of_core(lag, &lag->writer_usage));
    fflush(stdout);
    bench_release(lags);
}
