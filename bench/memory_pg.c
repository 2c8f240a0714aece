/* memory-pg: the most memory a bridge ever takes while it works off a large backlog between two
 * PostgreSQL servers, with one payload of 64 MiB in the middle of it.
 *
 * The bridge runs in a process of its own, started anew: its peak is counted from zero. */
#include "pg.h"

int main(int argc, char **argv)
{
    size_t count = bench_scaled(2000000, 10000);
    char source[BENCH_PATH_MAX], sink[BENCH_PATH_MAX];
    const struct bench_apart *apart;
    struct rusage usage;

    if (argc == 5) {
        bench_pg_child();
        return bench_apart_child(argv, NULL);
    }
    bench_title("memory-pg", "peak memory of a bridge with a large backlog and one large payload, "
                             "PostgreSQL to PostgreSQL");
    bench_pg_start(NULL);
    bench_pg_source_build(source, "source",
                          &(struct bench_fill){ count, BENCH_PG_PER_TX, NULL, true });
    bench_pg_database(sink, BENCH_PG_SINK, "sink", LEDGER_MUTATION_LOG_OFF);
    apart = bench_bridge_apart(source, sink, count, &usage);
    bench_pg_same_rows(source, sink, true);
    bench_apart_print("memory-pg", apart, count, &usage);
    return 0;
}
