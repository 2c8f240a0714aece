/* lag-webhook: from the return of a commit in SQLite until the entry was read by a receiver of
 * webhooks, with writer, bridge and receiver in three processes.
 *
 * The writer is paced by absolute time (a late mutation does not delay the next) and notes when
 * each commit returned; the receiver notes when it had read the request that brought an entry. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "http.h"

#define ROUNDS 3
#define PER_SECOND 1000
#define SECONDS 10
#define WARM_UP 500 /* mutations before those that count */

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

static void wait_for_all(const struct bench_receiver *receiver, int64_t end_ns)
{
    while (__atomic_load_n(&receiver->counters->entries, __ATOMIC_ACQUIRE) < receiver->entries) {
        if (bench_now_ns() > end_ns)
            bench_die("only %llu of %zu entries arrived",
                      (unsigned long long)receiver->counters->entries, receiver->entries);
        bench_pause_ns(5000000);
    }
}

/* p50 and p99 in ms. */
static void print_round(const struct shared *shared, const struct bench_receiver *receiver,
                        const struct rusage usage[2], double *ret_p50, double *ret_p99)
{
    double *lags = bench_alloc(receiver->entries, sizeof(*lags));
    size_t count = 0;
    int64_t took;

    for (size_t i = WARM_UP + 1; i <= receiver->entries; i++)
        lags[count++] = (double)(receiver->read_ns[i] - atomic_load(&shared->commit_ns[i])) / 1e6;
    qsort(lags, count, sizeof(*lags), bench_compare_double);
    *ret_p50 = bench_percentile(lags, count, 0.5);
    *ret_p99 = bench_percentile(lags, count, 0.99);
    took = atomic_load(&shared->commit_ns[receiver->entries]) -
           atomic_load(&shared->commit_ns[WARM_UP]);
    printf("%9.0f %8.3f %8.3f %8.3f %8.3f %8.3f %9llu %9.1f %9.1f\n",
           (double)count / ((double)took / 1e9), *ret_p50, bench_percentile(lags, count, 0.9),
           *ret_p99, bench_percentile(lags, count, 0.999), lags[count - 1],
           (unsigned long long)receiver->counters->requests,
           100 * bench_cpu_seconds(&usage[0]) / ((double)receiver->entries / PER_SECOND),
           100 * bench_cpu_seconds(&usage[1]) / ((double)receiver->entries / PER_SECOND));
    fflush(stdout);
    bench_release(lags);
}

static void round_run(const char *source, struct shared *shared, int fd, size_t count,
                      double *ret_p50, double *ret_p99)
{
    char count_text[32], fd_text[32];
    struct bench_receiver receiver;
    struct rusage usage[2];
    ledger_store *store;
    pid_t pids[2];

    bench_remove(source);
    store = bench_store_open(source, LEDGER_MUTATION_LOG_ON);
    ledger_store_close(&store);
    bench_receiver_start(&receiver, count, BENCH_COUNTS, NULL);
    bench_settle();
    atomic_store(&shared->go, false);
    atomic_store(&shared->stop, false);
    atomic_store(&shared->bridge_ready, false);
    atomic_store(&shared->writer_ready, false);
    snprintf(count_text, sizeof(count_text), "%zu", count);
    snprintf(fd_text, sizeof(fd_text), "%d", fd);
    pids[0] = bench_spawn(
        (const char *const[]){ "bridge", source, receiver.url, count_text, fd_text, NULL });
    pids[1] = bench_spawn(
        (const char *const[]){ "writer", source, receiver.url, count_text, fd_text, NULL });
    while (!atomic_load(&shared->bridge_ready) || !atomic_load(&shared->writer_ready))
        bench_pause_ns(1000000);
    shared->start_ns = bench_now_ns() + 100000000;
    atomic_store(&shared->go, true);
    wait_for_all(&receiver, shared->start_ns + (int64_t)count * (1000000000 / PER_SECOND) +
                                15 * INT64_C(1000000000));
    atomic_store(&shared->stop, true);
    bench_join(pids[0], &usage[0]);
    bench_join(pids[1], &usage[1]);
    bench_receiver_check(&receiver);
    print_round(shared, &receiver, usage, ret_p50, ret_p99);
    bench_receiver_stop(&receiver);
}

int main(int argc, char **argv)
{
    size_t count = WARM_UP + bench_scaled(PER_SECOND * SECONDS, PER_SECOND);
    size_t size;
    char source[BENCH_PATH_MAX];
    double p50[ROUNDS], p99[ROUNDS];
    struct shared *shared;
    int fd;

    if (argc == 6) {
        count = (size_t)strtoull(argv[4], NULL, 10);
        size = sizeof(*shared) + (count + 1) * sizeof(shared->commit_ns[0]);
        shared = bench_shared_map((int)strtol(argv[5], NULL, 10), size);
        if (argv[1][0] == 'w')
            return writer(argv[2], shared, count);
        bench_bridge_follow(argv[2], argv[3], &shared->bridge_ready, &shared->stop);
        return 0;
    }
    bench_title("lag-webhook",
                "from commit in SQLite to read by a receiver of webhooks, 1,000 mutations/s");
    bench_http_begin();
    bench_path(source, "source.db");
    size = sizeof(*shared) + (count + 1) * sizeof(shared->commit_ns[0]);
    shared = bench_shared_make(size, &fd);
    printf("times in ms; CPU in %% of a core\n");
    printf("%9s %8s %8s %8s %8s %8s %9s %9s %9s\n", "commits/s", "p50", "p90", "p99", "p99.9",
           "max", "requests", "bridge", "writer");
    for (int i = 0; i < ROUNDS; i++)
        round_run(source, shared, fd, count, &p50[i], &p99[i]);
    printf("lag-webhook %.2fms %.2fms 1.5ms 5ms\n", bench_median(p50, ROUNDS),
           bench_median(p99, ROUNDS));
    return 0;
}
