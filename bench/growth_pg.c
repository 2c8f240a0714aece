/* growth-pg: whether the bridge slows down as the sink grows: its rate over the last tenth of a
 * backlog against its rate over the first, in 100 streams, PostgreSQL to PostgreSQL. */
#include <stdio.h>

#include "pg.h"

#define RUNS 3

int main(void)
{
    size_t count = bench_scaled(2000000, 10000);
    char source[BENCH_PATH_MAX], sink[BENCH_PATH_MAX];
    ledger_bridge_options options;
    struct bench_progress progress;
    double ratios[RUNS];

    bench_title("growth-pg", "rate over the last tenth of a backlog against the first, PostgreSQL "
                             "to PostgreSQL");
    bench_pg_start(NULL);
    bench_pg_source_build(source, "source",
                          &(struct bench_fill){ .count = count, .per_tx = BENCH_PG_PER_TX });
    ledger_bridge_options_defaults(&options);

    printf("%-6s %12s %12s %12s %12s %8s\n", "run", "seconds", "all/s", "first/s", "last/s",
           "ratio");
    for (int i = 0; i < RUNS; i++) {
        bench_pg_database(sink, BENCH_PG_SINK, "sink", LEDGER_MUTATION_LOG_OFF);
        bench_pg_settle();
        bench_bridge_drain(source, sink, &options, count, &progress);
        ratios[i] = bench_rate_last(&progress) / bench_rate_first(&progress);
        printf("%-6d %12.2f %12.0f %12.0f %12.0f %8.3f\n", i + 1, progress.end.seconds,
               (double)count / progress.end.seconds, bench_rate_first(&progress),
               bench_rate_last(&progress), ratios[i]);
        fflush(stdout);
    }
    bench_pg_same_rows(source, sink, true);
    printf("growth-pg %.2f 0.8\n", bench_median(ratios, RUNS));
    return 0;
}
