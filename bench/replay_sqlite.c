/* replay-sqlite: a backlog that the sink has already, carried once more after the cursor was set to
 * the beginning, against the first time. */
#include <stdio.h>

#include "common.h"

#define PER_TX 2000

struct replay {
    size_t count;
    char source[BENCH_PATH_MAX], sink[BENCH_PATH_MAX];
    ledger_bridge_options options;
};

static double run(void *ctx, bool is_first)
{
    const struct replay *replay = ctx;
    struct bench_outcome outcome = { 0 };
    struct bench_progress progress;

    if (is_first) {
        outcome.applied = replay->count;
        bench_sink_make(replay->sink);
    } else {
        outcome.replayed = replay->count;
        bench_cursor_reset(replay->source, replay->sink);
    }
    bench_settle();
    bench_bridge_run(replay->source, replay->sink, &replay->options, &outcome, &progress);
    bench_same_rows(replay->source, replay->sink, true);
    return progress.end.seconds;
}

int main(void)
{
    struct replay replay = { .count = bench_scaled(300000, PER_TX) };
    double ratio;

    bench_title("replay-sqlite", "the same backlog once more, SQLite to SQLite, against the first "
                                 "time");
    bench_path(replay.source, "source.db");
    bench_path(replay.sink, "sink.db");
    bench_source_build(replay.source,
                       &(struct bench_fill){ .count = replay.count, .per_tx = 10000 });
    ledger_bridge_options_defaults(&replay.options);
    replay.options.batch_size = PER_TX;
    replay.options.backlog_batch_size = PER_TX;
    ratio = bench_pairs_run(&(struct bench_pairs){ .name = "replay",
                                                   .peer_name = "first",
                                                   .run = run,
                                                   .ctx = &replay,
                                                   .mutations = replay.count,
                                                   .peer_first = true });
    printf("replay-sqlite %.2f 0.6\n", ratio);
    return 0;
}
