/* verify-missing: how long verify takes where half of what it compares is missing in the sink,
 * against the same where nothing is. */
#include <stdio.h>

#include "common.h"

#define RUNS 3

static double verify_seconds(const char *source, const char *sink, uint64_t differences)
{
    ledger_store *from = bench_store_open(source, LEDGER_MUTATION_LOG_AUTO);
    ledger_store *to = bench_store_open(sink, LEDGER_MUTATION_LOG_OFF);
    ledger_verify_options options;
    ledger_verify_result result;
    ledger_error err = { 0 };
    int64_t start = bench_now_ns();
    double seconds;

    ledger_verify_options_defaults(&options);
    bench_check(ledger_bridge_verify(from, to, &options, &result, &err), &err, "verifying");
    seconds = bench_seconds_since(start);
    if (result.difference_count != differences)
        bench_die("%llu differences, not %llu", (unsigned long long)result.difference_count,
                  (unsigned long long)differences);
    ledger_store_close(&from);
    ledger_store_close(&to);
    return seconds;
}

int main(void)
{
    size_t count = bench_scaled(1000000, 10000);
    char source[BENCH_PATH_MAX], sink[BENCH_PATH_MAX];
    ledger_bridge_options options;
    struct bench_progress progress;
    double equal[RUNS], missing[RUNS], ratios[RUNS];
    sqlite3 *db;
    uint64_t gone;

    bench_title("verify-missing", "verify with half of all entries missing against none");
    bench_path(source, "source.db");
    bench_path(sink, "sink.db");
    bench_source_build(source, &(struct bench_fill){ .count = count, .per_tx = 10000 });
    ledger_bridge_options_defaults(&options);
    bench_sink_make(sink);
    bench_bridge_drain(source, sink, &options, count, &progress);
    for (int i = 0; i < RUNS; i++)
        equal[i] = verify_seconds(source, sink, 0);
    db = bench_db_open(sink, BENCH_BACKLOG_CHECKPOINT);
    bench_exec(db, "DELETE FROM ledger_entries WHERE source_pos % 2 = 0");
    gone = (uint64_t)count - (uint64_t)bench_int(db, "SELECT count(*) FROM ledger_entries");
    bench_db_close(db);

    printf("%-6s %12s %12s %12s %8s\n", "run", "equal s", "missing s", "missing/s", "ratio");
    for (int i = 0; i < RUNS; i++) {
        missing[i] = verify_seconds(source, sink, gone);
        ratios[i] = missing[i] / equal[i];
        printf("%-6d %12.2f %12.2f %12.0f %8.3f\n", i + 1, equal[i], missing[i],
               (double)gone / missing[i], ratios[i]);
        fflush(stdout);
    }
    printf("verify-missing %.2f 3.0\n", bench_median(ratios, RUNS));
    return 0;
}
