/* lag-sqlite: from the return of a commit at the source until the entry can be read in the sink,
 * with writer, bridge and observer in three processes.
 *
 * The observer asks the sink by plain SQL for the newest entry about every 60 us, and notes when it
 * first saw each; its own period is part of the result and printed besides. */
#include <stdio.h>

#include "lag.h"

static void look(void *ctx, struct bench_lag *lag)
{
    sqlite3_stmt *newest = ctx;
    int rc = sqlite3_step(newest);
    size_t id = rc == SQLITE_ROW ? (size_t)sqlite3_column_int64(newest, 0) : 0;
    int64_t now = bench_now_ns();

    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        bench_die("the observer cannot read the sink: %s",
                  sqlite3_errmsg(sqlite3_db_handle(newest)));
    sqlite3_reset(newest);
    while (lag->seen < id)
        bench_lag_see(lag, lag->seen + 1, now);
}

static void round_run(struct bench_lag *lag, const char *source, const char *sink, int round)
{
    struct bench_lag_observer observer = { .look = look, .pause_ns = 40000 };
    char looks[BENCH_LAG_LOOKS_MAX];
    sqlite3 *db;

    bench_source_make(source);
    bench_sink_make(sink);
    bench_settle();
    bench_lag_begin(lag, source, sink);
    db = bench_db_open(sink, 0);
    observer.ctx = bench_prepare(db, "SELECT source_pos FROM ledger_entries WHERE origin = 1 AND "
                                     "source_pos IS NOT NULL ORDER BY source_pos DESC LIMIT 1");
    bench_lag_measure_looks(lag, &observer, looks);
    bench_lag_look_for_all(lag, &observer);
    bench_db_close(db);
    bench_lag_end(lag);
    bench_same_rows(source, sink, true);
    bench_lag_print(lag, round, looks);
}

int main(int argc, char **argv)
{
    char source[BENCH_PATH_MAX], sink[BENCH_PATH_MAX];
    struct bench_lag lag;

    if (bench_lag_is_child(argc, argv))
        return 0;
    bench_title("lag-sqlite",
                "from commit at the source to visible in the sink, 1,000 mutations/s");
    bench_path(source, "source.db");
    bench_path(sink, "sink.db");
    bench_lag_init(&lag, 1);
    printf("times in ms; observer: time between two looks at a quiet sink, in us; CPU in %% of a "
           "core\n");
    bench_lag_print_head(BENCH_LAG_LOOKS_HEAD);
    for (int i = 0; i < BENCH_LAG_ROUNDS; i++)
        round_run(&lag, source, sink, i);
    printf("lag-sqlite %.2fms %.2fms 0.4ms 2ms\n", bench_median(lag.p50, BENCH_LAG_ROUNDS),
           bench_median(lag.p99, BENCH_LAG_ROUNDS));
    bench_lag_fini(&lag);
    return 0;
}
