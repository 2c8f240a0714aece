/* What the lag benchmarks share: writers and a bridge in processes of their own, and the lags from
 * each commit at the source until the program itself has seen the entry.
 *
 * Each writer is a thread with a handle of its own, paced by absolute time (a late mutation does
 * not delay the next), and notes when each commit returned. */
#ifndef BENCH_LAG_H
#define BENCH_LAG_H

#include "common.h"

#define BENCH_LAG_ROUNDS 3

struct bench_lag {
    struct bench_lag_shared *shared; /* by the three processes */
    int fd;                          /* of that memory */
    size_t writers;
    size_t count;     /* of entries, whose ids are 1 to count */
    int64_t *seen_ns; /* by id; 0: not yet */
    size_t seen;      /* so many */
    pid_t bridge, writer;
    struct rusage bridge_usage, writer_usage;
    double p50[BENCH_LAG_ROUNDS], p99[BENCH_LAG_ROUNDS]; /* in ms */
};

/* First in main(): in a process that bench_lag_begin() has started, does its work, and is true. */
bool bench_lag_is_child(int argc, char **argv);
void bench_lag_init(struct bench_lag *lag, size_t writers);
/* Starts both; the source is new. Returns when they are ready. */
void bench_lag_begin(struct bench_lag *lag, const char *source, const char *sink);
/* The writers begin; returns when it is too late for an entry to come (bench_now_ns()). */
int64_t bench_lag_go(struct bench_lag *lag);
/* The program has seen it first at this time. */
void bench_lag_see(struct bench_lag *lag, size_t id, int64_t now_ns);
/* All were seen: stops both. */
void bench_lag_end(struct bench_lag *lag);
/* In % of a core, over a round. */
double bench_lag_percent(const struct bench_lag *lag, double cpu_seconds);
/* A row of the round; more: columns before those of the CPU. */
void bench_lag_print(struct bench_lag *lag, int round, const char *more);
void bench_lag_print_head(const char *more);
void bench_lag_fini(struct bench_lag *lag);

/* --- an observer, which looks again and again ------------------------------------------------- */

struct bench_lag_observer {
    /* bench_lag_see() for each entry that was not there at the last look. */
    void (*look)(void *ctx, struct bench_lag *lag);
    void *ctx;
    int64_t pause_ns; /* between two looks */
};
#define BENCH_LAG_LOOKS_MAX 32
#define BENCH_LAG_LOOKS_HEAD "  look p50   look p99"
/* How often it looks when nothing comes: p50 and p99 in us, as columns. */
void bench_lag_measure_looks(struct bench_lag *lag, const struct bench_lag_observer *observer,
                             char text[BENCH_LAG_LOOKS_MAX]);
/* The writers begin; returns when all was seen. */
void bench_lag_look_for_all(struct bench_lag *lag, const struct bench_lag_observer *observer);

#endif
