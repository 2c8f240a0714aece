/* Seeded random writes through the public API: appends of one and many entries, with and without
 * dedup keys, metadata and tags, odd payloads, tags, annotations with deletes, trims, and
 * transactions that commit or roll back. The same seed on an equally filled store gives the same
 * writes. */
#ifndef TESTS_SUPPORT_WORKLOAD_H
#define TESTS_SUPPORT_WORKLOAD_H

#include "fixtures.h"

#define TST_WORKLOAD_KNOWN 256
#define TST_WORKLOAD_APPEND_MAX 30 /* entries of one event */

struct tst_workload {
    uint64_t seed; /* for the message of a failing test */
    uint64_t state;
    unsigned stream_count; /* default 6 */
    const char *prefix;    /* of stream names; default "s" */
    bool no_changes;       /* appends only */
    bool no_trim;
    bool no_transactions;
    bool no_dedup; /* no dedup keys: for two sources into one sink */
    bool small;    /* no payload over 1 KB */
    struct {
        unsigned stream;
        int64_t id;
    } known[TST_WORKLOAD_KNOWN]; /* some of the entries that were written */
    size_t known_count;
    bool in_transaction;
    uint64_t call_count;
};

void tst_workload_init(struct tst_workload *w, uint64_t seed);
/* One random call. Any error but NOT_FOUND (a trimmed entry) is returned. */
ledger_rc tst_workload_step(struct tst_workload *w, ledger_store *store, ledger_error *err);
/* Learns the ids that a store has: after a restart. */
void tst_workload_learn(struct tst_workload *w, ledger_store *store);
/* count steps, which must work; ends outside a transaction. */
void tst_workload_run(struct tst_workload *w, ledger_store *store, size_t count);

uint64_t tst_random(uint64_t *state); /* splitmix64 */
uint64_t tst_random_below(uint64_t *state, uint64_t n);
/* A random JSON payload, from malloc(); never NULL. */
char *tst_random_payload(uint64_t *state, bool small, size_t *ret_size);

#endif
