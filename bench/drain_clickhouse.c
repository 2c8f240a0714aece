/* drain-clickhouse: a backlog of appends from SQLite into ClickHouse, against libcurl posting the
 * same blocks of RowBinary to the same server from memory, packed beforehand.
 *
 * The blocks are those of the bridge, recorded in a run that is not timed. */
#include <stdio.h>

#include "ch.h"

#define PER_BATCH 20000

struct drain {
    size_t count;
    char source[BENCH_PATH_MAX], sink[BENCH_URL_MAX];
    ledger_bridge_options options;
    struct tst_ch *ch;
    struct bench_posts posts;
};

static double run_bridge(struct drain *drain)
{
    struct bench_progress progress;

    bench_bridge_drain(drain->source, drain->sink, &drain->options, drain->count, &progress);
    return progress.end.seconds;
}

static double run(void *ctx, bool is_peer)
{
    struct drain *drain = ctx;
    double seconds;

    bench_ch_make(drain->ch, drain->sink);
    bench_settle();
    seconds = is_peer ? bench_posts_send(&drain->posts, NULL, 1) : run_bridge(drain);
    bench_ch_same_rows(drain->ch, drain->source);
    return seconds;
}

/* Of the entries alone: the bridge's own cursor is no part of the peer's work. */
static void record(struct drain *drain)
{
    drain->ch = bench_ch_start(true);
    bench_ch_make(drain->ch, drain->sink);
    run_bridge(drain);
    bench_posts_of_clickhouse(drain->ch, "%60ledger_entries%60", &drain->posts);
    tst_ch_destroy(&drain->ch);
    printf("%zu blocks\n", drain->posts.count);
}

int main(void)
{
    struct drain drain = { .count = bench_scaled(300000, PER_BATCH) };
    double ratio;

    bench_title("drain-clickhouse", "a backlog of appends from SQLite into ClickHouse, against "
                                    "the same blocks from memory");
    bench_http_begin();
    bench_path(drain.source, "source.db");
    bench_source_build(drain.source, &(struct bench_fill){ .count = drain.count, .per_tx = 10000 });
    ledger_bridge_options_defaults(&drain.options);
    drain.options.batch_size = PER_BATCH;
    drain.options.backlog_batch_size = PER_BATCH;
    drain.options.max_batch_bytes = (size_t)32 << 20;
    record(&drain);
    drain.ch = bench_ch_start(false);
    bench_posts_aim(&drain.posts, drain.ch->partner->port);
    ratio = bench_pairs_run(&(struct bench_pairs){ .name = "bridge",
                                                   .peer_name = "libcurl",
                                                   .run = run,
                                                   .ctx = &drain,
                                                   .mutations = drain.count });
    bench_posts_free(&drain.posts);
    printf("drain-clickhouse %.2f 0.7\n", ratio);
    return 0;
}
