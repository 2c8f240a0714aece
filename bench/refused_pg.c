/* refused-pg: a backlog of appends of which the sink's database refuses every 1,000th, so that the
 * bridge parks it, against the same with a trigger that refuses none. */
#include <stdio.h>

#include "pg.h"

#define REFUSED_EVERY 1000

/* The condition costs each row the same on both sides. */
#define TRIGGER(remainder)                                                                         \
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "                                \
    "$$BEGIN RAISE check_violation USING MESSAGE = 'not this one'; END$$; "                        \
    "CREATE TRIGGER refuse BEFORE INSERT ON ledger_entries FOR EACH ROW "                          \
    "WHEN (NEW.source_pos % 1000 = " #remainder ") EXECUTE FUNCTION refuse()"

struct refused {
    size_t count;
    char source[BENCH_PATH_MAX];
    ledger_bridge_options options;
};

static double run(void *ctx, bool is_peer)
{
    const struct refused *refused = ctx;
    const size_t parked = is_peer ? 0 : refused->count / REFUSED_EVERY;
    const struct bench_outcome outcome = { .applied = refused->count - parked, .parked = parked };
    struct bench_progress progress;
    char sink[BENCH_PATH_MAX];
    PGconn *conn;

    bench_pg_database(sink, BENCH_PG_SINK, "sink", LEDGER_MUTATION_LOG_OFF);
    conn = bench_pg_connect(sink);
    bench_pg_exec(conn, is_peer ? TRIGGER(-1) : TRIGGER(0));
    PQfinish(conn);
    bench_pg_settle();
    bench_bridge_run(refused->source, sink, &refused->options, &outcome, &progress);
    bench_pg_same_rows_where(refused->source, is_peer ? "true" : "id % 1000 <> 0", sink, "true",
                             true);
    return progress.end.seconds;
}

int main(void)
{
    struct refused refused = { .count = bench_scaled(300000, BENCH_PG_PER_TX) };
    double ratio;

    bench_title("refused-pg", "a backlog of which a trigger of the sink refuses every 1,000th "
                              "entry, against one of which it refuses none");
    bench_pg_start(NULL);
    bench_pg_source_build(
        refused.source, "source",
        &(struct bench_fill){ .count = refused.count, .per_tx = BENCH_PG_PER_TX });
    ledger_bridge_options_defaults(&refused.options);
    refused.options.backlog_batch_size = BENCH_PG_PER_TX;
    ratio = bench_pairs_run(&(struct bench_pairs){ .name = "refused",
                                                   .peer_name = "none",
                                                   .run = run,
                                                   .ctx = &refused,
                                                   .mutations = refused.count });
    printf("refused-pg %.2f 0.3\n", ratio);
    return 0;
}
