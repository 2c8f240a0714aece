/* See lag.h. */
#include "lag.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#define PER_SECOND 1000
#define SECONDS 10
#define WARM_UP 500 /* mutations before those that count */
#define WRITERS_MAX 8

struct bench_lag_shared {
    _Atomic bool bridge_ready, go, stop;
    _Atomic size_t writers_ready;
    int64_t start_ns;
    _Atomic int64_t commit_ns[]; /* by id */
};

static size_t shared_size(size_t count)
{
    return sizeof(struct bench_lag_shared) + (count + 1) * sizeof(_Atomic int64_t);
}

/* --- the processes ---------------------------------------------------------------------------- */

struct writer {
    const char *url;
    struct bench_lag_shared *shared;
    size_t first, step, count; /* its mutations: first, first + step, … below count */
};

static void *writer_thread(void *ctx)
{
    const struct writer *w = ctx;
    char payload[BENCH_PAYLOAD_BYTES + 1];
    struct bench_names names;
    ledger_append_input input = { .payload = { payload, BENCH_PAYLOAD_BYTES },
                                  .order_key = names.order_key,
                                  .dedup_key = names.dedup_key };
    ledger_store *store = bench_store_open(w->url, LEDGER_MUTATION_LOG_ON);
    ledger_error err = { 0 };
    ledger_ids ids;

    prctl(PR_SET_TIMERSLACK, 1000);
    atomic_fetch_add(&w->shared->writers_ready, 1);
    while (!atomic_load(&w->shared->go))
        bench_pause_ns(1000000);
    for (size_t i = w->first; i < w->count; i += w->step) {
        bench_names(&names, (unsigned)(i % 100), i);
        bench_payload(payload, i);
        bench_pause_until(w->shared->start_ns + (int64_t)i * (1000000000 / PER_SECOND));
        bench_check(ledger_store_append(store, names.stream, &input, 1, &ids, &err), &err,
                    "append");
        if (ids.count != 1 || ids.items[0].number > (int64_t)w->count)
            bench_die("the source gave another id than expected");
        atomic_store(&w->shared->commit_ns[ids.items[0].number], bench_now_ns());
        ledger_ids_destroy(&ids);
    }
    ledger_store_close(&store);
    return NULL;
}

static void write_all(const char *url, struct bench_lag_shared *shared, size_t writers,
                      size_t count)
{
    struct writer list[WRITERS_MAX];
    pthread_t threads[WRITERS_MAX];

    for (size_t i = 0; i < writers; i++) {
        list[i] = (struct writer){ url, shared, i, writers, count };
        if (pthread_create(&threads[i], NULL, writer_thread, &list[i]))
            bench_die("cannot start a thread");
    }
    for (size_t i = 0; i < writers; i++)
        pthread_join(threads[i], NULL);
}

bool bench_lag_is_child(int argc, char **argv)
{
    struct bench_lag_shared *shared;
    size_t count;

    if (argc != 7)
        return false;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* it ends with the one that started it */
    count = (size_t)strtoull(argv[4], NULL, 10);
    shared = bench_shared_map((int)strtol(argv[5], NULL, 10), shared_size(count));
    if (argv[1][0] == 'w')
        write_all(argv[2], shared, (size_t)strtoull(argv[6], NULL, 10), count);
    else
        bench_bridge_follow(argv[2], argv[3], &shared->bridge_ready, &shared->stop);
    return true;
}

static pid_t spawn(const struct bench_lag *lag, const char *what, const char *source,
                   const char *sink)
{
    char count[32], fd[32], writers[32];

    snprintf(count, sizeof(count), "%zu", lag->count);
    snprintf(fd, sizeof(fd), "%d", lag->fd);
    snprintf(writers, sizeof(writers), "%zu", lag->writers);
    return bench_spawn((const char *const[]){ what, source, sink, count, fd, writers, NULL });
}

/* --- a round ---------------------------------------------------------------------------------- */

void bench_lag_init(struct bench_lag *lag, size_t writers)
{
    if (writers > WRITERS_MAX)
        bench_die("there are %d writers at most", WRITERS_MAX);
    *lag = (struct bench_lag){ .writers = writers,
                               .count = WARM_UP + bench_scaled(PER_SECOND * SECONDS, PER_SECOND) };
    lag->shared = bench_shared_make(shared_size(lag->count), &lag->fd);
    lag->seen_ns = bench_alloc(lag->count + 1, sizeof(*lag->seen_ns));
    prctl(PR_SET_TIMERSLACK, 1000);
}

void bench_lag_fini(struct bench_lag *lag)
{
    bench_release(lag->seen_ns);
}

void bench_lag_begin(struct bench_lag *lag, const char *source, const char *sink)
{
    struct bench_lag_shared *shared = lag->shared;

    memset(lag->seen_ns, 0, (lag->count + 1) * sizeof(*lag->seen_ns));
    lag->seen = 0;
    atomic_store(&shared->go, false);
    atomic_store(&shared->stop, false);
    atomic_store(&shared->bridge_ready, false);
    atomic_store(&shared->writers_ready, 0);
    for (size_t i = 0; i <= lag->count; i++)
        atomic_store(&shared->commit_ns[i], 0);
    lag->bridge = spawn(lag, "bridge", source, sink);
    lag->writer = spawn(lag, "writer", source, sink);
    while (!atomic_load(&shared->bridge_ready) ||
           atomic_load(&shared->writers_ready) < lag->writers)
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

void bench_lag_see(struct bench_lag *lag, size_t id, int64_t now_ns)
{
    if (id < 1 || id > lag->count || lag->seen_ns[id] != 0)
        bench_die("the sink shows entry %zu, which is not expected", id);
    lag->seen_ns[id] = now_ns;
    lag->seen++;
}

void bench_lag_end(struct bench_lag *lag)
{
    atomic_store(&lag->shared->stop, true);
    bench_join(lag->bridge, &lag->bridge_usage);
    bench_join(lag->writer, &lag->writer_usage);
}

/* --- an observer ------------------------------------------------------------------------------ */

#define GAPS_MAX 100000

void bench_lag_measure_looks(struct bench_lag *lag, const struct bench_lag_observer *observer,
                             char text[BENCH_LAG_LOOKS_MAX])
{
    double *gaps = bench_alloc(GAPS_MAX, sizeof(*gaps));
    int64_t before = bench_now_ns(), end = before + 500000000;
    size_t count = 0;

    while (before < end && count < GAPS_MAX) {
        int64_t now;

        bench_pause_ns(observer->pause_ns);
        observer->look(observer->ctx, lag);
        now = bench_now_ns();
        gaps[count++] = (double)(now - before) / 1e3;
        before = now;
    }
    qsort(gaps, count, sizeof(*gaps), bench_compare_double);
    snprintf(text, BENCH_LAG_LOOKS_MAX, "%10.0f %10.0f", bench_percentile(gaps, count, 0.5),
             bench_percentile(gaps, count, 0.99));
    bench_release(gaps);
}

void bench_lag_look_for_all(struct bench_lag *lag, const struct bench_lag_observer *observer)
{
    const int64_t end = bench_lag_go(lag);

    while (lag->seen < lag->count) {
        bench_pause_ns(observer->pause_ns);
        observer->look(observer->ctx, lag);
        if (bench_now_ns() > end)
            bench_die("only %zu of %zu entries arrived", lag->seen, lag->count);
    }
}

/* --- what is printed -------------------------------------------------------------------------- */

void bench_lag_print_head(const char *more)
{
    printf("%9s %8s %8s %8s %8s %8s %s %9s %9s\n", "commits/s", "p50", "p90", "p99", "p99.9", "max",
           more, "bridge", "writer");
}

double bench_lag_percent(const struct bench_lag *lag, double cpu_seconds)
{
    return 100 * cpu_seconds / ((double)lag->count / PER_SECOND);
}

void bench_lag_print(struct bench_lag *lag, int round, const char *more)
{
    const _Atomic int64_t *commit_ns = lag->shared->commit_ns;
    double *lags = bench_alloc(lag->count, sizeof(*lags));
    int64_t first = INT64_MAX, last = 0;
    size_t count = 0;

    for (size_t i = WARM_UP + 1; i <= lag->count; i++) {
        const int64_t committed = atomic_load(&commit_ns[i]);

        lags[count++] = (double)(lag->seen_ns[i] - committed) / 1e6;
        first = committed < first ? committed : first;
        last = committed > last ? committed : last;
    }
    qsort(lags, count, sizeof(*lags), bench_compare_double);
    lag->p50[round] = bench_percentile(lags, count, 0.5);
    lag->p99[round] = bench_percentile(lags, count, 0.99);
    printf("%9.0f %8.3f %8.3f %8.3f %8.3f %8.3f %s %9.1f %9.1f\n",
           (double)count / ((double)(last - first) / 1e9), lag->p50[round],
           bench_percentile(lags, count, 0.9), lag->p99[round],
           bench_percentile(lags, count, 0.999), lags[count - 1], more,
           bench_lag_percent(lag, bench_cpu_seconds(&lag->bridge_usage)),
           bench_lag_percent(lag, bench_cpu_seconds(&lag->writer_usage)));
    fflush(stdout);
    bench_release(lags);
}
