/* drain-clickhouse-mixed: 60 % append, 20 % set_tags, 15 % set_annotations, 5 % trim through the
 * bridge into ClickHouse, against as many appends through the same bridge: what it costs that
 * rows are read before they are changed. */
#include <stdio.h>

#include "ch.h"
#include "mixed.h"

#define PER_BATCH 20000

struct drain {
    size_t count;
    char mixed[BENCH_PATH_MAX], appends[BENCH_PATH_MAX], sink[BENCH_URL_MAX];
    ledger_bridge_options options;
    struct tst_ch *ch;
};

static double run(void *ctx, bool is_peer)
{
    struct drain *drain = ctx;
    const char *source = is_peer ? drain->appends : drain->mixed;
    struct bench_progress progress;

    bench_ch_make(drain->ch, drain->sink);
    bench_settle();
    /* A trim of what came in the same batch has nothing to do. */
    bench_bridge_run(source, drain->sink, &drain->options,
                     &(struct bench_outcome){ .applied = drain->count, .either = true }, &progress);
    bench_ch_same_rows(drain->ch, source);
    return progress.end.seconds;
}

int main(void)
{
    struct drain drain = { .count = bench_scaled(300000, PER_BATCH) };
    struct bench_mutation *list = bench_mutations_make(drain.count);
    ledger_store *store;
    sqlite3 *db;
    double ratio;

    bench_title("drain-clickhouse-mixed",
                "60 % append, 20 % set_tags, 15 % set_annotations, 5 % trim into ClickHouse, "
                "against appends alone");
    bench_http_begin();
    bench_path(drain.mixed, "mixed.db");
    bench_path(drain.appends, "appends.db");
    store = bench_builder_open(drain.mixed, &db);
    bench_mutations_write(store, list, drain.count, 10000);
    bench_builder_close(&store, &db);
    bench_release(list);
    bench_source_build(drain.appends,
                       &(struct bench_fill){ .count = drain.count, .per_tx = 10000 });
    ledger_bridge_options_defaults(&drain.options);
    drain.options.batch_size = PER_BATCH;
    drain.options.backlog_batch_size = PER_BATCH;
    drain.options.max_batch_bytes = (size_t)32 << 20;
    drain.ch = bench_ch_start(false);
    ratio = bench_pairs_run(&(struct bench_pairs){ .name = "mixed",
                                                   .peer_name = "appends",
                                                   .run = run,
                                                   .ctx = &drain,
                                                   .mutations = drain.count });
    printf("drain-clickhouse-mixed %.2f 0.3\n", ratio);
    return 0;
}
