/* idle: CPU that a bridge takes while nothing happens at its source. */
#include <stdio.h>

#include "common.h"

int main(void)
{
    double wait_s = (double)bench_scaled(30, 1), used;
    char source_path[BENCH_PATH_MAX], sink_path[BENCH_PATH_MAX];
    ledger_store *source, *sink;
    ledger_bridge *bridge = NULL;
    ledger_bridge_options options;
    ledger_bridge_stats before, after;
    ledger_error err = { 0 };
    int64_t start;

    bench_title("idle", "CPU of a waiting bridge");
    bench_path(source_path, "source.db");
    bench_path(sink_path, "sink.db");
    bench_source_build(source_path, &(struct bench_fill){ .count = 10000, .per_tx = 10000 });
    bench_sink_make(sink_path);
    ledger_bridge_options_defaults(&options);
    source = bench_store_open(source_path, LEDGER_MUTATION_LOG_ON);
    sink = bench_store_open(sink_path, LEDGER_MUTATION_LOG_OFF);
    bench_check(ledger_bridge_create(source, sink, &options, &bridge, &err), &err, "create bridge");
    bench_check(ledger_bridge_start(bridge, &err), &err, "start bridge");
    bench_check(ledger_bridge_wait(bridge, true, -1, &err), &err, "drain");
    bench_pause_ns(1000000000); /* what follows the drain is not idling */

    ledger_bridge_get_stats(bridge, &before);
    used = bench_own_cpu_seconds();
    start = bench_now_ns();
    bench_pause_ns((int64_t)(wait_s * 1e9));
    used = bench_own_cpu_seconds() - used;
    wait_s = bench_seconds_since(start);
    ledger_bridge_get_stats(bridge, &after);

    ledger_bridge_destroy(&bridge);
    ledger_store_close(&source);
    ledger_store_close(&sink);
    if (after.read_count != 10000)
        bench_die("the bridge carried %llu of 10000", (unsigned long long)after.read_count);
    bench_same_rows(source_path, sink_path, true);
    printf("%.1f s, %llu looks at the source, %.2f ms of CPU\n", wait_s,
           (unsigned long long)(after.poll_count - before.poll_count), used * 1000);
    printf("idle %.3f%% 0.1%%\n", used / wait_s * 100);
    return 0;
}
