/* memory-webhook: the most memory a bridge ever takes while it posts a large backlog, with one
 * payload of 64 MiB in the middle of it.
 *
 * The bridge runs in a process of its own, started anew: its peak is counted from zero. */
#include <stdio.h>

#include "http.h"

static int child(char **argv)
{
    ledger_bridge_options options;
    char state[BENCH_URL_MAX];

    snprintf(state, sizeof(state), "sqlite:%s-state", argv[1]);
    ledger_bridge_options_defaults(&options);
    options.state_url = state;
    return bench_apart_child(argv, &options);
}

int main(int argc, char **argv)
{
    size_t count = bench_scaled(2000000, 10000);
    char source[BENCH_PATH_MAX];
    const struct bench_apart *apart;
    struct bench_receiver receiver;
    struct rusage usage;

    if (argc == 5)
        return child(argv);
    bench_title("memory-webhook",
                "peak memory of a bridge that posts a large backlog and one large payload");
    bench_http_begin();
    bench_path(source, "source.db");
    bench_source_build(source, &(struct bench_fill){ count, 10000, NULL, true });
    bench_receiver_start(&receiver, count, BENCH_COUNTS, NULL);
    apart = bench_bridge_apart(source, receiver.url, count, &usage);
    bench_receiver_check(&receiver);
    bench_apart_print("memory-webhook", apart, count, &usage);
    return 0;
}
