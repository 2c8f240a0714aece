/* drain-pg-copy: a backlog of appends, PostgreSQL to PostgreSQL, against COPY of the same rows into
 * the same table, 5,000 rows per transaction. */
#include <stdio.h>

#include "pg.h"

static double copy_run(void *ctx, const char *sink_url)
{
    return bench_pg_copies_write(ctx, sink_url);
}

int main(void)
{
    size_t count = bench_scaled(300000, BENCH_PG_PER_TX);
    struct bench_pg_copies copies;
    const struct bench_pg_peer peer = { .name = "COPY s", .run = copy_run, .ctx = &copies };
    char source[BENCH_PATH_MAX];
    double ratio;

    bench_title("drain-pg-copy", "a backlog of appends, PostgreSQL to PostgreSQL, against COPY");
    bench_pg_start(NULL);
    bench_pg_source_build(source, "source",
                          &(struct bench_fill){ .count = count, .per_tx = BENCH_PG_PER_TX });
    bench_pg_copies_load(source, &copies);
    ratio = bench_pg_drain_pairs(source, count, &peer);
    bench_pg_copies_free(&copies);
    printf("drain-pg-copy %.2f 1.15\n", ratio);
    return 0;
}
