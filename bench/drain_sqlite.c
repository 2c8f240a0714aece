/* drain-sqlite: a backlog of appends through the bridge, against the same rows put into an
 * identical table by one prepared insert per row.
 *
 * Both sides do the same number of rows per transaction with the same settings; pairs are
 * interleaved and their order alternates, so that a slow minute of the machine hits both. */
#include <stdio.h>

#include "common.h"

#define PAIRS 5
#define PER_TX 2000

int main(void)
{
    size_t count = bench_scaled(300000, PER_TX);
    char source[BENCH_PATH_MAX], bridged[BENCH_PATH_MAX], bare[BENCH_PATH_MAX];
    double ratios[PAIRS], bridge_times[PAIRS], bare_times[PAIRS];
    ledger_bridge_options options;
    struct bench_progress progress;
    struct bench_rows rows;

    bench_title("drain-sqlite", "a backlog of appends, SQLite to SQLite, against bare inserts");
    bench_path(source, "source.db");
    bench_path(bridged, "bridged.db");
    bench_path(bare, "bare.db");
    bench_source_build(source, &(struct bench_fill){ .count = count, .per_tx = 10000 });
    bench_rows_load(source, &rows);
    ledger_bridge_options_defaults(&options);
    options.batch_size = PER_TX;
    options.backlog_batch_size = PER_TX;

    printf("%-6s %12s %12s %12s %12s %8s\n", "pair", "bridge s", "bare s", "bridge/s", "bare/s",
           "ratio");
    for (int i = 0; i < PAIRS; i++) {
        bench_sink_make(bridged);
        bench_sink_make(bare);
        for (int side = 0; side < 2; side++) {
            bench_settle();
            if ((side ^ i) & 1) {
                bench_bare_insert(bare, &rows, PER_TX, &progress);
                bare_times[i] = progress.end.seconds;
            } else {
                bench_bridge_drain(source, bridged, &options, count, &progress, NULL);
                bridge_times[i] = progress.end.seconds;
            }
        }
        bench_same_rows(source, bridged, true);
        bench_same_rows(source, bare, true);
        ratios[i] = bare_times[i] / bridge_times[i];
        printf("%-6d %12.3f %12.3f %12.0f %12.0f %8.3f\n", i + 1, bridge_times[i], bare_times[i],
               (double)count / bridge_times[i], (double)count / bare_times[i], ratios[i]);
        fflush(stdout);
    }
    printf("%-6s %12.3f %12.3f %12.0f %12.0f %8.3f\n", "median", bench_median(bridge_times, PAIRS),
           bench_median(bare_times, PAIRS), (double)count / bench_median(bridge_times, PAIRS),
           (double)count / bench_median(bare_times, PAIRS), bench_median(ratios, PAIRS));
    bench_rows_free(&rows);
    printf("drain-sqlite %.2f 1.15\n", bench_median(ratios, PAIRS));
    return 0;
}
