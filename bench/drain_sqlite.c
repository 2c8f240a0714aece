/* drain-sqlite: a backlog of appends through the bridge, against the same rows put into an
 * identical table by one prepared insert per row.
 *
 * Both sides do the same number of rows per transaction with the same settings; pairs are
 * interleaved and their order alternates, so that a slow minute of the machine hits both. */
#include <stdio.h>

#include "common.h"

#define PER_TX 2000

struct drain {
    size_t count;
    char source[BENCH_PATH_MAX], bridged[BENCH_PATH_MAX], bare[BENCH_PATH_MAX];
    ledger_bridge_options options;
    struct bench_rows rows;
};

static double run(void *ctx, bool is_peer)
{
    const struct drain *drain = ctx;
    struct bench_progress progress;

    bench_sink_make(is_peer ? drain->bare : drain->bridged);
    bench_settle();
    if (is_peer)
        bench_bare_insert(drain->bare, &drain->rows, PER_TX, &progress);
    else
        bench_bridge_drain(drain->source, drain->bridged, &drain->options, drain->count, &progress);
    return progress.end.seconds;
}

static void prove(void *ctx)
{
    const struct drain *drain = ctx;

    bench_same_rows(drain->source, drain->bridged, true);
    bench_same_rows(drain->source, drain->bare, true);
}

int main(void)
{
    struct drain drain = { .count = bench_scaled(300000, PER_TX) };
    double ratio;

    bench_title("drain-sqlite", "a backlog of appends, SQLite to SQLite, against bare inserts");
    bench_path(drain.source, "source.db");
    bench_path(drain.bridged, "bridged.db");
    bench_path(drain.bare, "bare.db");
    bench_source_build(drain.source, &(struct bench_fill){ .count = drain.count, .per_tx = 10000 });
    bench_rows_load(drain.source, &drain.rows);
    ledger_bridge_options_defaults(&drain.options);
    drain.options.batch_size = PER_TX;
    drain.options.backlog_batch_size = PER_TX;
    ratio = bench_pairs_run(&(struct bench_pairs){ .name = "bridge",
                                                   .peer_name = "bare",
                                                   .run = run,
                                                   .prove = prove,
                                                   .ctx = &drain,
                                                   .mutations = drain.count });
    bench_rows_free(&drain.rows);
    printf("drain-sqlite %.2f 1.15\n", ratio);
    return 0;
}
