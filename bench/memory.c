/* memory: the most memory a bridge ever takes while it works off a large backlog, with one payload
 * of 64 MiB in the middle of it.
 *
 * The bridge runs in a process of its own, started anew: its peak is counted from zero. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

#define LARGE_BYTES ((size_t)64 << 20)

struct shared {
    struct bench_progress progress;
    double peak_mib;
};

static int child(const char *source, const char *sink, const char *count, const char *fd)
{
    size_t expected = (size_t)strtoull(count, NULL, 10);
    struct shared *shared = bench_shared_map((int)strtol(fd, NULL, 10), sizeof(*shared));
    ledger_bridge_options options;

    ledger_bridge_options_defaults(&options);
    bench_bridge_drain(source, sink, &options, expected, &shared->progress, NULL);
    shared->peak_mib = bench_peak_rss_mib();
    return 0;
}

static void source_make(const char *path, size_t count)
{
    char stream[32], order_key[32], dedup_key[32], payload[BENCH_PAYLOAD_BYTES + 1];
    char *large = bench_alloc(1, LARGE_BYTES);
    int64_t start = bench_now_ns();
    ledger_error err = { 0 };
    ledger_store *store;
    sqlite3 *db;

    memset(large, 'x', LARGE_BYTES);
    large[0] = large[LARGE_BYTES - 1] = '"';
    store = bench_builder_open(path, &db);
    for (size_t i = 0; i < count; i++) {
        ledger_append_input input = { .order_key = order_key, .dedup_key = dedup_key };

        if (i % 10000 == 0)
            bench_check(ledger_store_begin(store, &err), &err, "begin");
        snprintf(stream, sizeof(stream), "customer-%07zu", i % 100);
        snprintf(order_key, sizeof(order_key), "order-%zu", i % 100);
        snprintf(dedup_key, sizeof(dedup_key), "order-%010zu", i);
        bench_payload(payload, i);
        input.payload = i == count / 2 ? (ledger_bytes){ large, LARGE_BYTES }
                                       : (ledger_bytes){ payload, BENCH_PAYLOAD_BYTES };
        bench_check(ledger_store_append(store, stream, &input, 1, NULL, &err), &err, "append");
        if (i % 10000 == 9999 || i + 1 == count)
            bench_check(ledger_store_commit(store, &err), &err, "commit");
    }
    bench_builder_close(&store, &db);
    bench_release(large);
    printf("source: %zu entries, one of %zu MiB, appended in %.1f s\n", count, LARGE_BYTES >> 20,
           bench_seconds_since(start));
    fflush(stdout);
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
    bench_title("memory", "peak memory of a bridge with a large backlog and one large payload");
    bench_path(source, "source.db");
    bench_path(sink, "sink.db");
    source_make(source, count);
    bench_sink_make(sink);
    shared = bench_shared_make(sizeof(*shared), &fd);
    snprintf(count_text, sizeof(count_text), "%zu", count);
    snprintf(fd_text, sizeof(fd_text), "%d", fd);
    bench_join(bench_spawn((const char *const[]){ source, sink, count_text, fd_text, NULL }),
               &usage);
    bench_same_rows(source, sink, true);
    printf("bridge: %.1f s, %.0f/s, CPU %.1f s\n", shared->progress.end.seconds,
           (double)count / shared->progress.end.seconds, bench_cpu_seconds(&usage));
    printf("peak RSS %.1f MiB, of it %zu MiB allowed for two payloads\n", shared->peak_mib,
           2 * LARGE_BYTES >> 20);
    printf("memory %.1fMiB %zuMiB\n", shared->peak_mib, 32 + (2 * LARGE_BYTES >> 20));
    return 0;
}
