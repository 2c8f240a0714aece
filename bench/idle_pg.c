/* idle-pg: CPU that a bridge takes while nothing happens at its source, and how many statements it
 * sends to either server then (counted by pg_stat_statements). */
#include <stdio.h>

#include "pg.h"

int main(void)
{
    static const char *const names[] = { "source", "sink" };
    double wait_s = (double)bench_scaled(30, 1), used, server_cpu[2];
    char urls[2][BENCH_PATH_MAX];
    ledger_store *source, *sink;
    ledger_bridge *bridge = NULL;
    ledger_bridge_options options;
    ledger_bridge_stats before, after;
    ledger_error err = { 0 };
    int64_t start, calls[2];
    PGconn *conns[2];

    bench_title("idle-pg", "CPU and statements of a waiting bridge");
    bench_pg_start("shared_preload_libraries = 'pg_stat_statements'\n"
                   "pg_stat_statements.track_utility = on\n");
    bench_pg_source_build(urls[0], "source",
                          &(struct bench_fill){ .count = 10000, .per_tx = BENCH_PG_PER_TX });
    bench_pg_database(urls[1], BENCH_PG_SINK, "sink", LEDGER_MUTATION_LOG_OFF);
    ledger_bridge_options_defaults(&options);
    source = bench_store_open(urls[0], LEDGER_MUTATION_LOG_ON);
    sink = bench_store_open(urls[1], LEDGER_MUTATION_LOG_OFF);
    bench_check(ledger_bridge_create(source, sink, &options, &bridge, &err), &err, "create bridge");
    bench_check(ledger_bridge_start(bridge, &err), &err, "start bridge");
    bench_check(ledger_bridge_wait(bridge, true, -1, &err), &err, "drain");
    for (int i = 0; i < 2; i++) {
        conns[i] = bench_pg_connect(urls[i]);
        bench_pg_exec(conns[i], "CREATE EXTENSION pg_stat_statements");
    }
    bench_pg_settle();
    bench_pause_ns(2000000000); /* what follows the drain is not idling */

    for (int i = 0; i < 2; i++) {
        bench_pg_exec(conns[i], "SELECT pg_stat_statements_reset()");
        server_cpu[i] = bench_pg_cpu_seconds((enum bench_pg_side)i);
    }
    ledger_bridge_get_stats(bridge, &before);
    used = bench_own_cpu_seconds();
    start = bench_now_ns();
    bench_pause_ns((int64_t)(wait_s * 1e9));
    used = bench_own_cpu_seconds() - used;
    wait_s = bench_seconds_since(start);
    ledger_bridge_get_stats(bridge, &after);
    for (int i = 0; i < 2; i++) {
        server_cpu[i] = bench_pg_cpu_seconds((enum bench_pg_side)i) - server_cpu[i];
        /* In this database; without the reset above, and this very question is not counted yet. */
        calls[i] = bench_pg_int(conns[i], "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements "
                                          "WHERE query NOT LIKE '%pg_stat_statements%' AND dbid = "
                                          "(SELECT oid FROM pg_database "
                                          "WHERE datname = current_database())");
    }

    ledger_bridge_destroy(&bridge);
    ledger_store_close(&source);
    ledger_store_close(&sink);
    if (after.read_count != 10000)
        bench_die("the bridge carried %llu of 10000", (unsigned long long)after.read_count);
    bench_pg_same_rows(urls[0], urls[1], true);
    printf("%.1f s, %llu looks at the source, %.2f ms of CPU\n", wait_s,
           (unsigned long long)(after.poll_count - before.poll_count), used * 1000);
    for (int i = 0; i < 2; i++) {
        printf("%s: %.2f statements/s, %.2f %% of a core\n", names[i], (double)calls[i] / wait_s,
               100 * server_cpu[i] / wait_s);
        PQfinish(conns[i]);
    }
    printf("idle-pg %.3f%% %.1f/s 0.1%% 20/s\n", used / wait_s * 100,
           (double)(calls[0] > calls[1] ? calls[0] : calls[1]) / wait_s);
    return 0;
}
