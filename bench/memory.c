/* memory: the most memory a bridge ever takes while it works off a large backlog, with one payload
 * of 64 MiB in the middle of it.
 *
 * The bridge runs in a process of its own, started anew: its peak is counted from zero. */
#include "common.h"

int main(int argc, char **argv)
{
    size_t count = bench_scaled(2000000, 10000);
    char source[BENCH_PATH_MAX], sink[BENCH_PATH_MAX];
    const struct bench_apart *apart;
    struct rusage usage;

    if (argc == 5)
        return bench_apart_child(argv, NULL);
    bench_title("memory", "peak memory of a bridge with a large backlog and one large payload");
    bench_path(source, "source.db");
    bench_path(sink, "sink.db");
    bench_source_build(source, &(struct bench_fill){ count, 10000, NULL, true });
    bench_sink_make(sink);
    apart = bench_bridge_apart(source, sink, count, &usage);
    bench_same_rows(source, sink, true);
    bench_apart_print("memory", apart, count, &usage);
    return 0;
}
