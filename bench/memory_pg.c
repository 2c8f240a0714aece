/* memory-pg: the most memory a bridge ever takes while it works off a large backlog between two
 * PostgreSQL servers, with one payload of 64 MiB in the middle of it.
 *
 * The bridge runs in a process of its own, started anew: its peak is counted from zero. */
#include <stdio.h>
#include <stdlib.h>

#include "pg.h"

struct shared {
    struct bench_progress progress;
    double peak_mib;
};

static int child(const char *source, const char *sink, const char *count, const char *fd)
{
    size_t expected = (size_t)strtoull(count, NULL, 10);
    struct shared *shared = bench_shared_map((int)strtol(fd, NULL, 10), sizeof(*shared));
    ledger_bridge_options options;

    bench_pg_child();
    ledger_bridge_options_defaults(&options);
    bench_bridge_drain(source, sink, &options, expected, &shared->progress, NULL);
    shared->peak_mib = bench_peak_rss_mib();
    return 0;
}

int main(int argc, char **argv)
{
    size_t count = bench_scaled(2000000, 10000);
    char source[BENCH_PATH_MAX], sink[BENCH_PATH_MAX], count_text[32], fd_text[32];
    struct shared *shared;
    struct rusage usage;
    int fd;

    if (argc == 5)
        return child(argv[1], argv[2], argv[3], argv[4]);
    bench_title("memory-pg", "peak memory of a bridge with a large backlog and one large payload, "
                             "PostgreSQL to PostgreSQL");
    bench_pg_start(NULL);
    bench_pg_source_build(source, "source",
                          &(struct bench_fill){ count, BENCH_PG_PER_TX, NULL, true });
    bench_pg_database(sink, BENCH_PG_SINK, "sink", LEDGER_LOG_OFF);
    shared = bench_shared_make(sizeof(*shared), &fd);
    snprintf(count_text, sizeof(count_text), "%zu", count);
    snprintf(fd_text, sizeof(fd_text), "%d", fd);
    bench_join(bench_spawn((const char *const[]){ source, sink, count_text, fd_text, NULL }),
               &usage);
    bench_pg_same_rows(source, sink, true);
    printf("bridge: %.1f s, %.0f/s, CPU %.1f s\n", shared->progress.end.seconds,
           (double)count / shared->progress.end.seconds, bench_cpu_seconds(&usage));
    printf("peak RSS %.1f MiB, of it %zu MiB allowed for two payloads\n", shared->peak_mib,
           2 * BENCH_LARGE_BYTES >> 20);
    printf("memory-pg %.1fMiB %zuMiB\n", shared->peak_mib, 32 + (2 * BENCH_LARGE_BYTES >> 20));
    return 0;
}
