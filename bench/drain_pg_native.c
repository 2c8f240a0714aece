/* drain-pg-native: a backlog of appends, PostgreSQL to PostgreSQL, against native logical
 * replication of the same rows into the same table: publication, subscription, same indexes. */
#include <stdio.h>

#include "pg.h"

static double native_run(void *ctx, const char *sink_url)
{
    return bench_pg_native_run(sink_url, (int64_t) * (const size_t *)ctx);
}

int main(void)
{
    size_t count = bench_scaled(300000, BENCH_PG_PER_TX);
    const struct bench_pg_peer peer = { .name = "native s", .run = native_run, .ctx = &count };
    char source[BENCH_PATH_MAX], publisher[BENCH_PATH_MAX];
    struct bench_pg_copies copies;
    double ratio;

    bench_title("drain-pg-native", "a backlog of appends, PostgreSQL to PostgreSQL, against native "
                                   "logical replication");
    bench_pg_start("wal_level = logical\n");
    bench_pg_source_build(source, "source",
                          &(struct bench_fill){ .count = count, .per_tx = BENCH_PG_PER_TX });
    bench_pg_native_prepare(publisher);
    bench_pg_copies_load(source, &copies);
    bench_pg_copies_write(&copies, publisher);
    bench_pg_copies_free(&copies);
    ratio = bench_pg_drain_pairs(source, count, &peer);
    printf("drain-pg-native %.2f 2.5\n", ratio);
    return 0;
}
