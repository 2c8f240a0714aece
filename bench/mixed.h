/* The mixed workload: 60 % append, 20 % set_tags, 15 % set_annotations, 5 % trim.
 *
 * The list is made once, in memory; it knows which entries live, so each change finds its entry,
 * and trims take away about half of what is appended. The last mutation is an append, so that its
 * entry shows that all of them have arrived. */
#ifndef BENCH_MIXED_H
#define BENCH_MIXED_H

#include "common.h"

enum bench_kind { BENCH_APPEND, BENCH_SET_TAGS, BENCH_SET_ANNOTATIONS, BENCH_TRIM };

struct bench_mutation {
    enum bench_kind kind;
    unsigned stream;
    int64_t entry; /* id at the source: of the new, the changed, or the last trimmed entry */
    unsigned a, b; /* what the change says */
};
/* bench_release() */
struct bench_mutation *bench_mutations_make(size_t count);

/* Writes them through the library, per_tx in a transaction. */
void bench_mutations_write(ledger_store *store, const struct bench_mutation *list, size_t count,
                           size_t per_tx);

/* What a bare statement binds, as text beforehand, as the bridge's rows are beforehand in the log.
 */
struct bench_statement {
    struct bench_names names;
    char json[40]; /* tags or annotations */
    char payload[BENCH_PAYLOAD_BYTES + 1];
};
/* bench_release() */
struct bench_statement *bench_statements_make(const struct bench_mutation *list, size_t count);

#endif
