/* memory-clickhouse: the most memory a bridge ever takes while it carries a large backlog into
 * ClickHouse, with one payload of 64 MiB in the middle of it.
 *
 * The bridge runs in a process of its own, started anew: its peak is counted from zero. */
#include <stdio.h>
#include <stdlib.h>

#include "ch.h"

static int child(char **argv)
{
    ledger_bridge_options options;

    ledger_bridge_options_defaults(&options);
    return bench_apart_child(argv, &options);
}

int main(int argc, char **argv)
{
    size_t count = bench_scaled(2000000, 10000);
    char source[BENCH_PATH_MAX], sink[BENCH_URL_MAX];
    const struct bench_apart *apart;
    struct rusage usage;
    struct tst_ch *ch;

    if (argc == 5)
        return child(argv);
    bench_title("memory-clickhouse", "peak memory of a bridge that carries a large backlog and "
                                     "one large payload into ClickHouse");
    bench_http_begin();
    bench_path(source, "source.db");
    bench_source_build(source, &(struct bench_fill){ count, 10000, NULL, true });
    ch = bench_ch_start(false);
    bench_ch_make(ch, sink);
    apart = bench_bridge_apart(source, sink, count, &usage);
    bench_ch_same_rows(ch, source);
    printf("bridge: %.1f s, %.0f/s, CPU %.1f s\n", apart->progress.end.seconds,
           (double)count / apart->progress.end.seconds, bench_cpu_seconds(&usage));
    printf("peak RSS %.1f MiB, of it %zu MiB allowed for two payloads\n", apart->peak_mib,
           2 * BENCH_LARGE_BYTES >> 20);
    printf("memory-clickhouse %.1fMiB %zuMiB\n", apart->peak_mib,
           32 + (2 * BENCH_LARGE_BYTES >> 20));
    return 0;
}
