/* growth: whether the bridge slows down as the sink grows: its rate over the last tenth of a
 * backlog against its rate over the first, in 100 streams. */
#include <stdio.h>

#include "common.h"

#define RUNS 3

int main(void)
{
    size_t count = bench_scaled(2000000, 10000);
    char source[BENCH_PATH_MAX], sink[BENCH_PATH_MAX];
    ledger_bridge_options options;
    struct bench_progress progress;
    double ratios[RUNS];

    bench_title("growth", "rate over the last tenth of a backlog against the first");
    bench_path(source, "source.db");
    bench_path(sink, "sink.db");
    bench_source_build(source, &(struct bench_fill){ .count = count, .per_tx = 10000 });
    ledger_bridge_options_defaults(&options);

    printf("%-6s %12s %12s %12s %12s %8s\n", "run", "seconds", "all/s", "first/s", "last/s",
           "ratio");
    for (int i = 0; i < RUNS; i++) {
        bench_sink_make(sink);
        bench_settle();
        bench_bridge_drain(source, sink, &options, count, &progress);
        ratios[i] = bench_rate_last(&progress) / bench_rate_first(&progress);
        printf("%-6d %12.2f %12.0f %12.0f %12.0f %8.3f\n", i + 1, progress.end.seconds,
               (double)count / progress.end.seconds, bench_rate_first(&progress),
               bench_rate_last(&progress), ratios[i]);
        fflush(stdout);
    }
    bench_same_rows(source, sink, true);
    printf("growth %.2f 0.8\n", bench_median(ratios, RUNS));
    return 0;
}
