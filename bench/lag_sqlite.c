/* lag-sqlite: from the return of a commit at the source until the entry can be read in the sink,
 * with writer, bridge and observer in three processes.
 *
 * The observer asks the sink by plain SQL for the newest entry about every 60 us, and notes when it
 * first saw each; its own period is part of the result and printed besides. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "lag.h"

#define LOOK_NS 40000 /* pause between two looks */
#define GAPS_MAX 100000

static int64_t look(sqlite3_stmt *newest)
{
    int rc = sqlite3_step(newest);
    int64_t id = rc == SQLITE_ROW ? sqlite3_column_int64(newest, 0) : 0;

    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        bench_die("the observer cannot read the sink: %s",
                  sqlite3_errmsg(sqlite3_db_handle(newest)));
    sqlite3_reset(newest);
    return id;
}

/* The observer alone: how often it looks when nothing comes. p50 and p99 in us, as columns. */
static void measure_looks(sqlite3_stmt *newest, char text[64])
{
    double *gaps = bench_alloc(GAPS_MAX, sizeof(*gaps));
    int64_t before = bench_now_ns(), end = before + 500000000;
    size_t count = 0;

    while (before < end && count < GAPS_MAX) {
        int64_t now;

        bench_pause_ns(LOOK_NS);
        look(newest);
        now = bench_now_ns();
        gaps[count++] = (double)(now - before) / 1e3;
        before = now;
    }
    qsort(gaps, count, sizeof(*gaps), bench_compare_double);
    snprintf(text, 64, "%10.0f %10.0f", bench_percentile(gaps, count, 0.5),
             bench_percentile(gaps, count, 0.99));
    bench_release(gaps);
}

static void look_for_all(sqlite3_stmt *newest, struct bench_lag *lag)
{
    const int64_t end = bench_lag_go(lag);
    int64_t seen = 0;

    while (seen < (int64_t)lag->count) {
        int64_t id, now;

        bench_pause_ns(LOOK_NS);
        id = look(newest);
        now = bench_now_ns();
        for (; seen < id; seen++)
            lag->seen_ns[seen + 1] = now;
        if (now > end)
            bench_die("only %lld of %zu entries arrived", (long long)seen, lag->count);
    }
}

static void round_run(struct bench_lag *lag, const char *source, const char *sink, int round)
{
    sqlite3_stmt *newest;
    char looks[64];
    sqlite3 *db;

    bench_sink_make(sink);
    bench_lag_begin(lag, source, sink);
    db = bench_db_open(sink, 0);
    newest = bench_prepare(db, "SELECT source_pos FROM ledger_entries WHERE origin = 1 AND "
                               "source_pos IS NOT NULL ORDER BY source_pos DESC LIMIT 1");
    measure_looks(newest, looks);
    look_for_all(newest, lag);
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
    bench_lag_init(&lag);
    prctl(PR_SET_TIMERSLACK, 1000);
    printf("times in ms; observer: time between two looks at a quiet sink, in us; CPU in %% of a "
           "core\n");
    bench_lag_print_head("  look p50   look p99");
    for (int i = 0; i < BENCH_LAG_ROUNDS; i++)
        round_run(&lag, source, sink, i);
    printf("lag-sqlite %.2fms %.2fms 0.4ms 2ms\n", bench_median(lag.p50, BENCH_LAG_ROUNDS),
           bench_median(lag.p99, BENCH_LAG_ROUNDS));
    bench_lag_fini(&lag);
    return 0;
}
