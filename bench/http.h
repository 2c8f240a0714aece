/* What the benchmarks of the HTTP sinks share: partners in processes of their own, and a peer that
 * posts what was recorded of a bridge once more, from memory, with libcurl.
 *
 * The partners are those of the tests' support; they and their folders are gone when the program
 * ends, also after a signal. */
#ifndef BENCH_HTTP_H
#define BENCH_HTTP_H

#include "common.h"

#include "clickhouse.h"
#include "partner.h"
#include "receiver.h"

/* Call first, in the program that the user started. */
void bench_http_begin(void);

/* --- a receiver of webhooks ------------------------------------------------------------------- */

/* One thread that counts, and notes when it read each entry (1 to `entries`, by its id at the
 * source): COUNTS looks for ids and for nothing else; CHECKS reads the JSON and checks the
 * signature (secret: its line of the secrets). RECORDS keeps requests whole. */
enum bench_receiver_kind { BENCH_COUNTS, BENCH_CHECKS, BENCH_RECORDS };
struct bench_receiver {
    struct tst_partner *partner;
    char url[64];
    size_t entries;
    struct tst_receiver_counters *counters; /* NULL: it records */
    _Atomic int64_t *read_ns;               /* by id, CLOCK_MONOTONIC; 0: not read */
};
void bench_receiver_start(struct bench_receiver *receiver, size_t entries,
                          enum bench_receiver_kind kind, const char *secret);
void bench_receiver_stop(struct bench_receiver *receiver);
void bench_receiver_reset(struct bench_receiver *receiver);
/* Each entry was read, none twice, and nothing was wrong with what came. */
void bench_receiver_check(const struct bench_receiver *receiver);

/* --- the peer --------------------------------------------------------------------------------- */

struct curl_slist;
struct bench_post {
    char *path; /* NULL: the target is all */
    char *url;  /* of path, once it is aimed */
    struct curl_slist *headers;
    char *body;
    size_t size;
};
struct bench_posts {
    struct bench_post *items;
    size_t count;
};
/* What a recording receiver was sent, and a recording ClickHouse: its requests that bring rows and
 * have this text in their path. */
void bench_posts_of_receiver(const struct bench_receiver *receiver, struct bench_posts *ret_posts);
void bench_posts_of_clickhouse(const struct tst_ch *ch, const char *text,
                               struct bench_posts *ret_posts);
/* Those of ClickHouse go to this port of 127.0.0.1 from now on. */
void bench_posts_aim(struct bench_posts *posts, int port);
void bench_posts_free(struct bench_posts *posts);
/* Posts all of them in their order, so many at a time on as many connections, and returns how long
 * it took. target: "http://127.0.0.1:PORT/hook". Each has to be answered with 200. */
double bench_posts_send(const struct bench_posts *posts, const char *target, size_t connections);

#endif
