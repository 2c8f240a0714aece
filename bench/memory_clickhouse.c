/* memory-clickhouse: the most memory a bridge ever takes while it carries a large backlog into
 * ClickHouse, with one payload of 64 MiB in the middle of it.
 *
 * The bridge runs in a process of its own, started anew: its peak is counted from zero. */
#include "ch.h"

int main(int argc, char **argv)
{
    size_t count = bench_scaled(2000000, 10000);
    char source[BENCH_PATH_MAX], sink[BENCH_URL_MAX];
    const struct bench_apart *apart;
    struct rusage usage;
    struct tst_ch *ch;

    if (argc == 5)
        return bench_apart_child(argv, NULL);
    bench_title("memory-clickhouse", "peak memory of a bridge that carries a large backlog and "
                                     "one large payload into ClickHouse");
    bench_http_begin();
    bench_path(source, "source.db");
    bench_source_build(source, &(struct bench_fill){ count, 10000, NULL, true });
    ch = bench_ch_start(false);
    bench_ch_make(ch, sink);
    apart = bench_bridge_apart(source, sink, count, &usage);
    bench_ch_same_rows(ch, source);
    bench_apart_print("memory-clickhouse", apart, count, &usage);
    return 0;
}
