/* lag-pg: from the return of a commit at the source until the entry can be read in the sink, with
 * eight writers, bridge and observer in three processes, between two servers.
 *
 * The observer asks the sink for entries behind the last it has seen, about every 250 us; its own
 * period is part of the result and printed besides. */
#include <stdio.h>
#include <stdlib.h>

#include "lag.h"
#include "pg.h"

#define WRITERS 8

struct observer {
    PGconn *conn;
    int64_t last_id; /* of the sink */
};

/* Whatever has come since the last look. The sink's ids are in the order of its commits: one bridge
 * writes there. */
static void look(void *ctx, struct bench_lag *lag)
{
    struct observer *o = ctx;
    char last[32];
    const char *const values[] = { last };
    PGresult *result;
    int64_t now;

    snprintf(last, sizeof(last), "%lld", (long long)o->last_id);
    result = PQexecPrepared(o->conn, "look", 1, values, NULL, NULL, 0);
    now = bench_now_ns();
    if (PQresultStatus(result) != PGRES_TUPLES_OK)
        bench_die("the observer cannot read the sink: %s", PQerrorMessage(o->conn));
    for (int row = 0; row < PQntuples(result); row++) {
        o->last_id = strtoll(PQgetvalue(result, row, 0), NULL, 10);
        bench_lag_see(lag, (size_t)strtoull(PQgetvalue(result, row, 1), NULL, 10), now);
    }
    PQclear(result);
}

static void observer_open(struct observer *o, const char *url)
{
    *o = (struct observer){ .conn = bench_pg_connect(url) };
    bench_pg_exec(o->conn, "SET plan_cache_mode = force_generic_plan");
    bench_pg_exec(o->conn, "SET enable_seqscan = off");
    bench_pg_exec(o->conn, "PREPARE look AS SELECT id, source_pos FROM ledger_entries "
                           "WHERE id > $1 ORDER BY id");
}

static void round_run(struct bench_lag *lag, int round)
{
    char source[BENCH_PATH_MAX], sink[BENCH_PATH_MAX];
    char looks[BENCH_LAG_LOOKS_MAX], columns[BENCH_LAG_LOOKS_MAX + 32];
    struct observer o;
    const struct bench_lag_observer observer = { .look = look, .ctx = &o, .pause_ns = 150000 };
    double cpu[2];

    bench_pg_database(source, BENCH_PG_SOURCE, "source", LEDGER_MUTATION_LOG_ON);
    bench_pg_database(sink, BENCH_PG_SINK, "sink", LEDGER_MUTATION_LOG_OFF);
    bench_pg_settle();
    bench_lag_begin(lag, source, sink);
    observer_open(&o, sink);
    bench_lag_measure_looks(lag, &observer, looks);
    for (int side = BENCH_PG_SOURCE; side <= BENCH_PG_SINK; side++)
        cpu[side] = bench_pg_cpu_seconds((enum bench_pg_side)side);
    bench_lag_look_for_all(lag, &observer);
    for (int side = BENCH_PG_SOURCE; side <= BENCH_PG_SINK; side++)
        cpu[side] = bench_pg_cpu_seconds((enum bench_pg_side)side) - cpu[side];
    bench_lag_end(lag);
    bench_pg_same_rows(source, sink, true);
    PQfinish(o.conn);
    snprintf(columns, sizeof(columns), "%s %9.1f %9.1f", looks,
             bench_lag_percent(lag, cpu[BENCH_PG_SOURCE]),
             bench_lag_percent(lag, cpu[BENCH_PG_SINK]));
    bench_lag_print(lag, round, columns);
}

int main(int argc, char **argv)
{
    struct bench_lag lag;

    if (bench_lag_is_child(argc, argv))
        return 0;
    bench_title("lag-pg",
                "from commit at the source to visible in the sink, 1,000 mutations/s on 8 "
                "connections");
    bench_pg_start(NULL);
    bench_lag_init(&lag, WRITERS);
    printf("times in ms; observer: time between two looks at a quiet sink, in us; CPU in %% of a "
           "core\n");
    bench_lag_print_head(BENCH_LAG_LOOKS_HEAD "    source      sink");
    for (int i = 0; i < BENCH_LAG_ROUNDS; i++)
        round_run(&lag, i);
    printf("lag-pg %.2fms %.2fms 3ms 15ms\n", bench_median(lag.p50, BENCH_LAG_ROUNDS),
           bench_median(lag.p99, BENCH_LAG_ROUNDS));
    bench_lag_fini(&lag);
    return 0;
}
