/* A receiver of webhooks in a process of its own (receiver_main.c), which checks what it gets,
 * writes it down, and answers by a script. LEDGER_TEST_RECEIVER is the program. Gone when the
 * program ends.
 *
 * A script is lines of JSON, objects with "act", and
 *   "times": for so many requests (1; 0: for ever)
 *   "match": only where the body has this text
 *   "act": "answer"         with "status" (200), "headers" {…}, "text"
 *          "slow"           the same after "seconds"
 *          "hang-up-before" once the head is read (without "match")
 *          "hang-up-after"  once all of it is read, and written down
 *          "cut"            after "bytes" of an answer that was to be longer
 *          "long"           an answer of "bytes"; without: one that never ends */
#ifndef TESTS_SUPPORT_RECEIVER_H
#define TESTS_SUPPORT_RECEIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* FOLDER/counters of a receiver that only counts. */
struct tst_receiver_counters {
    uint64_t requests, entries, bytes;
};

struct tst_receiver {
    struct tst_partner *partner;
    bool tls;
    const char *args[12];
};

struct tst_receiver_options {
    const char *secrets;           /* one a line; NULL: signatures are not checked */
    const char *certificate, *key; /* files; NULL: plain */
    const char *client_ca; /* who has no certificate of it gets 403; NULL: nobody needs one */
    bool bodies;           /* requests have "body" */
};

/* options NULL: none. Of the strings only the secrets are copied. */
struct tst_receiver *tst_receiver_start(const struct tst_receiver_options *options);
void tst_receiver_stop(struct tst_receiver *receiver);
void tst_receiver_run(struct tst_receiver *receiver); /* again, same port */
void tst_receiver_destroy(struct tst_receiver **receiver);

/* "https://127.0.0.1:PORT/hook" (or http), four in turn. port 0: its own (else a proxy's). */
const char *tst_receiver_url(const struct tst_receiver *receiver, int port);
/* In the place of what is left of the last one. "": all is answered with 200. */
void tst_receiver_script(const struct tst_receiver *receiver, const char *lines);

/* All that came, in the order in which it came: an array (of jansson's, json_decref) of objects
 * with "n", "method", "path", "status", "act", "sha256", "size", "stream" (if the body has one),
 * "entries" (their ids at the source), "headers" (names in small letters), "body". */
struct json_t;
struct json_t *tst_receiver_requests(const struct tst_receiver *receiver);
size_t tst_receiver_count(const struct tst_receiver *receiver);
/* Fails the test if anything was wrong with what came. */
void tst_receiver_check(const struct tst_receiver *receiver);
/* What was; "": nothing. free(). */
char *tst_receiver_complaints(const struct tst_receiver *receiver);

#endif
