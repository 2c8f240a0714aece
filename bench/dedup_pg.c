/* dedup-pg: a backlog whose every second entry has a key that its stream in the sink has already,
 * because an entry of another source brought it, against the same backlog into a sink that has as
 * many entries of another source with keys that nobody else has. */
#include <stdio.h>

#include "pg.h"

struct dedup {
    size_t count;
    char source[BENCH_PATH_MAX], same_keys[BENCH_PATH_MAX], other_keys[BENCH_PATH_MAX];
    ledger_bridge_options options, other_options; /* a cursor each */
};

static double run(void *ctx, bool is_peer)
{
    const struct dedup *dedup = ctx;
    const size_t half = dedup->count / 2;
    const struct bench_outcome outcome = { .applied = is_peer ? dedup->count : half,
                                           .deduplicated = is_peer ? 0 : half };
    const char *other = is_peer ? dedup->other_keys : dedup->same_keys;
    struct bench_progress progress;
    char sink[BENCH_PATH_MAX];

    bench_pg_database(sink, BENCH_PG_SINK, "sink", LEDGER_MUTATION_LOG_OFF);
    bench_bridge_drain(other, sink, &dedup->other_options, half, NULL);
    bench_pg_vacuum(sink);
    bench_pg_settle();
    bench_bridge_run(dedup->source, sink, &dedup->options, &outcome, &progress);
    /* Origins are numbered in the order in which they came. */
    bench_pg_same_rows_where(other, "true", sink, "origin = 1", true);
    bench_pg_same_rows_where(dedup->source, is_peer ? "true" : "id % 2 = 0", sink, "origin = 2",
                             true);
    return progress.end.seconds;
}

/* The first, third… entry of the source has the key of the first, second… of `same_keys`. */
static void build(struct dedup *dedup)
{
    const size_t half = dedup->count / 2;
    uint32_t *stream_of = bench_alloc(dedup->count, sizeof(*stream_of));

    for (size_t i = 0; i < dedup->count; i++)
        stream_of[i] = (uint32_t)(i / 2 % 100);
    bench_pg_source_build(dedup->source, "source",
                          &(struct bench_fill){ .count = dedup->count,
                                                .per_tx = BENCH_PG_PER_TX,
                                                .stream_of = stream_of });
    bench_release(stream_of);
    bench_pg_source_build(
        dedup->same_keys, "same_keys",
        &(struct bench_fill){ .count = half, .per_tx = BENCH_PG_PER_TX, .step = 2 });
    bench_pg_source_build(
        dedup->other_keys, "other_keys",
        &(struct bench_fill){
            .count = half, .per_tx = BENCH_PG_PER_TX, .first = dedup->count, .step = 2 });
}

int main(void)
{
    struct dedup dedup = { .count = bench_scaled(300000, BENCH_PG_PER_TX) };
    double ratio;

    bench_title("dedup-pg", "a backlog of which the sink knows every second key from another "
                            "source, against one of which it knows none");
    bench_pg_start(NULL);
    build(&dedup);
    ledger_bridge_options_defaults(&dedup.options);
    dedup.options.backlog_batch_size = BENCH_PG_PER_TX;
    dedup.other_options = dedup.options;
    dedup.other_options.name = "other";
    ratio = bench_pairs_run(&(struct bench_pairs){ .name = "known",
                                                   .peer_name = "none",
                                                   .run = run,
                                                   .ctx = &dedup,
                                                   .mutations = dedup.count });
    printf("dedup-pg %.2f 0.5\n", ratio);
    return 0;
}
