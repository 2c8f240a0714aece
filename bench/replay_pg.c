/* replay-pg: a backlog that the sink has already, carried once more after the cursor was set to the
 * beginning, PostgreSQL to PostgreSQL, against the first time. */
#include <stdio.h>

#include "pg.h"

struct replay {
    size_t count;
    char source[BENCH_PATH_MAX], sink[BENCH_PATH_MAX];
    ledger_bridge_options options;
};

static double run(void *ctx, bool is_first)
{
    struct replay *replay = ctx;
    struct bench_outcome outcome = { 0 };
    struct bench_progress progress;

    if (is_first) {
        outcome.applied = replay->count;
        bench_pg_database(replay->sink, BENCH_PG_SINK, "sink", LEDGER_MUTATION_LOG_OFF);
    } else {
        outcome.replayed = replay->count;
        bench_cursor_reset(replay->source, replay->sink);
        bench_pg_vacuum(replay->sink);
    }
    bench_pg_settle();
    bench_bridge_run(replay->source, replay->sink, &replay->options, &outcome, &progress);
    bench_pg_same_rows(replay->source, replay->sink, true);
    return progress.end.seconds;
}

int main(void)
{
    struct replay replay = { .count = bench_scaled(300000, BENCH_PG_PER_TX) };
    double ratio;

    bench_title("replay-pg", "the same backlog once more, PostgreSQL to PostgreSQL, against the "
                             "first time");
    bench_pg_start(NULL);
    bench_pg_source_build(replay.source, "source",
                          &(struct bench_fill){ .count = replay.count, .per_tx = BENCH_PG_PER_TX });
    ledger_bridge_options_defaults(&replay.options);
    replay.options.backlog_batch_size = BENCH_PG_PER_TX;
    ratio = bench_pairs_run(&(struct bench_pairs){ .name = "replay",
                                                   .peer_name = "first",
                                                   .run = run,
                                                   .ctx = &replay,
                                                   .mutations = replay.count,
                                                   .peer_first = true });
    printf("replay-pg %.2f 0.6\n", ratio);
    return 0;
}
