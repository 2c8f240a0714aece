/* lag-webhook: from the return of a commit in SQLite until the entry was read by a receiver of
 * webhooks, with writer, bridge and receiver in three processes.
 *
 * The receiver notes when it had read the request that brought an entry. */
#include <stdio.h>

#include "http.h"
#include "lag.h"

static void wait_for_all(const struct bench_receiver *receiver, int64_t end_ns)
{
    while (__atomic_load_n(&receiver->counters->entries, __ATOMIC_ACQUIRE) < receiver->entries) {
        if (bench_now_ns() > end_ns)
            bench_die("only %llu of %zu entries arrived",
                      (unsigned long long)receiver->counters->entries, receiver->entries);
        bench_pause_ns(5000000);
    }
}

static void round_run(struct bench_lag *lag, const char *source, int round)
{
    struct bench_receiver receiver;
    char requests[32];

    bench_receiver_start(&receiver, lag->count, BENCH_COUNTS, NULL);
    bench_source_make(source);
    bench_settle();
    bench_lag_begin(lag, source, receiver.url);
    wait_for_all(&receiver, bench_lag_go(lag));
    bench_lag_end(lag);
    bench_receiver_check(&receiver);
    for (size_t i = 1; i <= lag->count; i++)
        bench_lag_see(lag, i, receiver.read_ns[i]);
    snprintf(requests, sizeof(requests), "%9llu", (unsigned long long)receiver.counters->requests);
    bench_lag_print(lag, round, requests);
    bench_receiver_stop(&receiver);
}

int main(int argc, char **argv)
{
    char source[BENCH_PATH_MAX];
    struct bench_lag lag;

    if (bench_lag_is_child(argc, argv))
        return 0;
    bench_title("lag-webhook",
                "from commit in SQLite to read by a receiver of webhooks, 1,000 mutations/s");
    bench_http_begin();
    bench_path(source, "source.db");
    bench_lag_init(&lag, 1);
    printf("times in ms; CPU in %% of a core\n");
    bench_lag_print_head(" requests");
    for (int i = 0; i < BENCH_LAG_ROUNDS; i++)
        round_run(&lag, source, i);
    printf("lag-webhook %.2fms %.2fms 1.5ms 5ms\n", bench_median(lag.p50, BENCH_LAG_ROUNDS),
           bench_median(lag.p99, BENCH_LAG_ROUNDS));
    bench_lag_fini(&lag);
    return 0;
}
