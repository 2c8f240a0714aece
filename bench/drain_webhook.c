/* drain-webhook: a backlog of appends from SQLite to a receiver of webhooks in another process,
 * against libcurl posting the same bodies, signed beforehand, the same way: as many in a request,
 * as many connections, one thread.
 *
 * The bodies are those of the bridge, recorded in a run that is not timed. */
#include <stdio.h>

#include "http.h"

#define PER_REQUEST 100
#define STREAMS 100
#define CONNECTIONS 4
#define PER_BATCH (3 * STREAMS * PER_REQUEST)
#define SECRET "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"

struct drain {
    size_t count;
    char source[BENCH_PATH_MAX], state[BENCH_PATH_MAX], state_url[BENCH_URL_MAX];
    ledger_bridge_options options;
    struct bench_receiver receiver;
    struct bench_posts posts;
};

static double run_bridge(struct drain *drain, const char *url)
{
    struct bench_progress progress;

    bench_remove(drain->state);
    bench_bridge_drain(drain->source, url, &drain->options, drain->count, &progress);
    return progress.end.seconds;
}

static double run(void *ctx, bool is_peer)
{
    struct drain *drain = ctx;
    double seconds;

    bench_receiver_reset(&drain->receiver);
    bench_settle();
    seconds = is_peer ? bench_posts_send(&drain->posts, drain->receiver.url, CONNECTIONS)
                      : run_bridge(drain, drain->receiver.url);
    bench_receiver_check(&drain->receiver);
    return seconds;
}

static void record(struct drain *drain)
{
    struct bench_receiver recorder;

    bench_receiver_start(&recorder, drain->count, BENCH_RECORDS, NULL);
    run_bridge(drain, recorder.url);
    bench_posts_of_receiver(&recorder, &drain->posts);
    bench_receiver_stop(&recorder);
    printf("%zu requests of %.1f entries\n", drain->posts.count,
           (double)drain->count / (double)drain->posts.count);
}

static double compare(struct drain *drain, enum bench_receiver_kind kind)
{
    double ratio;

    bench_receiver_start(&drain->receiver, drain->count, kind, SECRET);
    ratio = bench_pairs_run(&(struct bench_pairs){ .name = "bridge",
                                                   .peer_name = "libcurl",
                                                   .run = run,
                                                   .ctx = drain,
                                                   .mutations = drain->count });
    bench_receiver_stop(&drain->receiver);
    return ratio;
}

int main(void)
{
    struct drain drain = { .count = bench_scaled(300000, PER_BATCH) };
    ledger_http_options http;
    char secrets[BENCH_PATH_MAX];
    double ratio;
    FILE *file;

    bench_title("drain-webhook", "a backlog of appends from SQLite to a receiver of webhooks, "
                                 "against libcurl posting the same bodies");
    bench_http_begin();
    bench_path(drain.source, "source.db");
    bench_path(drain.state, "state.db");
    bench_url(drain.state_url, drain.state);
    bench_path(secrets, "secrets");
    file = fopen(secrets, "we");
    if (!file || fputs(SECRET, file) < 0 || fclose(file))
        bench_die("cannot write %s", secrets);
    ledger_http_options_defaults(&http);
    http.secret_file = secrets;
    http.connections = CONNECTIONS;
    http.max_request_entries = PER_REQUEST;
    bench_http(&http);
    ledger_bridge_options_defaults(&drain.options);
    drain.options.state_url = drain.state_url;
    drain.options.batch_size = PER_BATCH;
    drain.options.backlog_batch_size = PER_BATCH;
    drain.options.max_batch_bytes = (size_t)32 << 20;
    bench_source_build(drain.source, &(struct bench_fill){ .count = drain.count, .per_tx = 10000 });
    record(&drain);
    printf("to a receiver that only looks for ids:\n");
    compare(&drain, BENCH_COUNTS);
    printf("to one that reads the JSON and checks the signatures:\n");
    ratio = compare(&drain, BENCH_CHECKS);
    bench_posts_free(&drain.posts);
    printf("drain-webhook %.2f 0.85\n", ratio);
    return 0;
}
