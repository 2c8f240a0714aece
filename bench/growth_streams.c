/* growth-streams: a backlog in very many streams in random order, where every index of the sink is
 * hit at random places: the bridge's rate over the last tenth against that of bare inserts, both
 * with 10,000 rows per transaction, and the bridge's peak memory.
 *
 * The bridge runs in a process of its own, so that its memory is counted from zero; the times come
 * back through shared memory. */
#include <stdio.h>
#include <stdlib.h>

#include "common.h"

#define PER_TX 10000

static int child(char **argv)
{
    ledger_bridge_options options;

    ledger_bridge_options_defaults(&options);
    options.batch_size = PER_TX;
    options.backlog_batch_size = PER_TX;
    options.max_batch_bytes = (size_t)8 << 20; /* count ends a batch, not size */
    return bench_apart_child(argv, &options);
}

static void print_run(const char *name, const struct bench_progress *p)
{
    printf("%-8s %12.2f %12.0f %12.0f %12.0f %12.3f\n", name, p->end.seconds,
           (double)p->end.count / p->end.seconds, bench_rate_first(p), bench_rate_last(p),
           bench_rate_last(p) / bench_rate_first(p));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    size_t count = bench_scaled(2000000, PER_TX);
    char source[BENCH_PATH_MAX], sink[BENCH_PATH_MAX], bare[BENCH_PATH_MAX];
    struct bench_progress bare_progress;
    const struct bench_apart *apart;
    uint32_t *stream_of;
    struct bench_rows rows;
    uint64_t random = 1;
    double ratio;

    if (argc == 5)
        return child(argv);
    bench_title("growth-streams",
                "a backlog in very many streams in random order, against bare inserts");
    bench_path(source, "source.db");
    bench_path(sink, "sink.db");
    bench_path(bare, "bare.db");

    /* Each stream twice, shuffled. */
    stream_of = bench_alloc(count, sizeof(*stream_of));
    for (size_t i = 0; i < count; i++)
        stream_of[i] = (uint32_t)(i / 2);
    for (size_t i = count - 1; i > 0; i--) {
        size_t k = bench_random(&random) % (i + 1);
        uint32_t swap = stream_of[i];

        stream_of[i] = stream_of[k];
        stream_of[k] = swap;
    }
    bench_source_build(source, &(struct bench_fill){ count, PER_TX, stream_of, false });
    bench_release(stream_of);

    printf("%-8s %12s %12s %12s %12s %12s\n", "", "seconds", "all/s", "first/s", "last/s",
           "last/first");
    bench_sink_make(sink);
    bench_settle();
    apart = bench_bridge_apart(source, sink, count, NULL);
    print_run("bridge", &apart->progress);
    bench_same_rows(source, sink, true);

    bench_rows_load(source, &rows);
    bench_sink_make(bare);
    bench_settle();
    bench_bare_insert(bare, &rows, PER_TX, &bare_progress);
    bench_rows_free(&rows);
    print_run("bare", &bare_progress);
    bench_same_rows(source, bare, true);

    ratio = bench_rate_last(&apart->progress) / bench_rate_last(&bare_progress);
    printf("last tenth, bridge against bare: %.2f; whole: %.2f; peak RSS of the bridge %.1f MiB\n",
           ratio, bare_progress.end.seconds / apart->progress.end.seconds, apart->peak_mib);
    printf("growth-streams %.2f %.1fMiB 1.2 32MiB\n", ratio, apart->peak_mib);
    return 0;
}
