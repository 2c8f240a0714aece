/* What lag-sqlite and lag-webhook share: a writer and a bridge in processes of their own, and the
 * lags from each commit in SQLite until the program itself has seen the entry.
 *
 * The writer is paced by absolute time (a late mutation does not delay the next) and notes when
 * each commit returned. */
#ifndef BENCH_LAG_H
#define BENCH_LAG_H

#include "common.h"

#define BENCH_LAG_ROUNDS 3

struct bench_lag {
    struct bench_lag_shared *shared; /* by the three processes */
    int fd;                          /* of that memory */
    size_t count;                    /* of entries, whose ids are 1 to count */
    int64_t *seen_ns;                /* by id; filled by the program */
    pid_t bridge, writer;
    struct rusage bridge_usage, writer_usage;
    double p50[BENCH_LAG_ROUNDS], p99[BENCH_LAG_ROUNDS]; /* in ms */
};

/* First in main(): in a process that bench_lag_begin() has started, does its work, and is true. */
bool bench_lag_is_child(int argc, char **argv);
void bench_lag_init(struct bench_lag *lag);
/* Makes the source anew, and starts both; returns when they are ready. */
void bench_lag_begin(struct bench_lag *lag, const char *source, const char *sink);
/* The writer begins; returns when it is too late for an entry to come (bench_now_ns()). */
int64_t bench_lag_go(struct bench_lag *lag);
/* All were seen: stops both. */
void bench_lag_end(struct bench_lag *lag);
/* A row of the round; more: columns before those of the CPU. */
void bench_lag_print(struct bench_lag *lag, int round, const char *more);
void bench_lag_print_head(const char *more);
void bench_lag_fini(struct bench_lag *lag);

#endif
