/* What the benchmarks share: time, a folder of their own, plain SQLite, rows to carry, one bridge
 * run and the proof that source and sink hold the same rows.
 *
 * Programs, not a library: whatever goes wrong ends the process with a message and status 1, so a
 * number is only ever printed for work that was really done. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "ledger/ledger.h"

#define BENCH_PATH_MAX 512
#define BENCH_PAIR_MAX 15
#define BENCH_PAYLOAD_BYTES 200
#define BENCH_BACKLOG_CHECKPOINT                                                                   \
    4000 /* pages: what the library sets while it works off a backlog */

_Noreturn void bench_die(const char *fmt, ...) LEDGER_PRINTF(1, 2);
void bench_check(ledger_rc rc, const ledger_error *err, const char *doing);
/* The process is being ended: failures that follow from that are no news. */
void bench_quiet_end(void);
void *bench_alloc(size_t count, size_t size); /* zeroed, never NULL */
void bench_release(void *p);

/* --- counts and time ------------------------------------------------------------------------ */

/* count times LEDGER_BENCH_SCALE (default 1), a multiple of `unit`, at least one unit. */
size_t bench_scaled(size_t count, size_t unit);
/* Prints what runs, and that it is scaled where it is. */
void bench_title(const char *name, const char *what);
int64_t bench_now_ns(void);
double bench_seconds_since(int64_t start_ns);
void bench_pause_ns(int64_t ns);
void bench_pause_until(int64_t ns); /* of bench_now_ns() */
double bench_median(const double *values, size_t count);
double bench_percentile(const double *sorted, size_t count, double p); /* p: 0..1 */
double bench_cpu_seconds(const struct rusage *usage);                  /* user and system */
double bench_own_cpu_seconds(void);                                    /* of this process */
int bench_compare_double(const void *a, const void *b);                /* for qsort */
/* The same numbers in each run. */
uint64_t bench_random(uint64_t *state);

/* --- files and processes -------------------------------------------------------------------- */

/* Path of a file in this run's folder, which is made on first use (TMPDIR, else /tmp) and removed
 * when the process ends. */
void bench_path(char path[BENCH_PATH_MAX], const char *name);
void bench_remove(const char *path); /* a database and what belongs to it */
void bench_settle(void);             /* waits until what was written before is on disk */

/* Starts this program again with these arguments (NULL-terminated, without argv[0]), so that its
 * memory and CPU are counted from zero. */
pid_t bench_spawn(const char *const *args);
/* The same with another program. */
pid_t bench_spawn_program(const char *path, const char *const *args);
/* The most this process has had in memory since it was started. Not ru_maxrss, which also knows of
 * the process that started it. */
double bench_peak_rss_mib(void);
/* Children of a process, at most max. */
size_t bench_children(pid_t parent, pid_t *pids, size_t max);
/* User and system, with its children that have ended; 0 when it is gone. */
double bench_process_cpu_seconds(pid_t pid);
/* Waits; ends the process when the child failed. ret_usage may be NULL. */
void bench_join(pid_t pid, struct rusage *ret_usage);
/* Memory shared with spawned programs: an inherited descriptor, mapped at both ends. */
void *bench_shared_make(size_t size, int *ret_fd);
void *bench_shared_map(int fd, size_t size);

/* --- plain SQLite ---------------------------------------------------------------------------- */

/* Opens an existing or new file with the settings the library uses for its own handles, and this
 * autocheckpoint (pages). */
sqlite3 *bench_db_open(const char *path, int autocheckpoint);
void bench_db_close(sqlite3 *db);
void bench_exec(sqlite3 *db, const char *sql);
sqlite3_stmt *bench_prepare(sqlite3 *db, const char *sql);
void bench_step(sqlite3_stmt *stmt); /* to its end, and resets it */
int64_t bench_int(sqlite3 *db, const char *sql);

/* --- stores ---------------------------------------------------------------------------------- */

/* place, in all that follows: path of a SQLite file, or the URL of another store. */
#define BENCH_URL_MAX (BENCH_PATH_MAX + 16)
void bench_url(char url[BENCH_URL_MAX], const char *place);
/* What stores that are reached over HTTP are opened with from now on; borrowed; NULL: defaults. */
void bench_http(const ledger_http_options *options);
/* Opens with CREATE, unless it is a webhook. */
ledger_store *bench_store_open(const char *place, ledger_log_mode log);
/* Made by the library with a log, empty, and closed again. */
void bench_source_make(const char *path);
/* The same without a log. Bare inserts use such a file too: so its tables, indexes and page size
 * are the same. */
void bench_sink_make(const char *path);

/* For building sources quickly: a handle on a connection that never waits for the disk and has a
 * large cache. *ret_db is closed by bench_builder_close(). */
ledger_store *bench_builder_open(const char *path, sqlite3 **ret_db);
void bench_builder_close(ledger_store **store, sqlite3 **db);

/* Stream and keys of entry i of a source, the same in every benchmark. */
struct bench_names {
    char stream[32], order_key[32], dedup_key[32];
};
void bench_names(struct bench_names *ret_names, unsigned stream, uint64_t entry);

/* A JSON object of exactly BENCH_PAYLOAD_BYTES, different for each number. */
void bench_payload(char text[BENCH_PAYLOAD_BYTES + 1], uint64_t number);

#define BENCH_LARGE_BYTES ((size_t)64 << 20)

/* What a source is filled with: entries appended one by one, with order and dedup keys. */
struct bench_fill {
    size_t count, per_tx;
    const uint32_t *stream_of; /* of entry i; NULL: i % 100 */
    bool large;                /* the one in the middle has BENCH_LARGE_BYTES */
    uint64_t first, step;      /* entry i has the key and payload of number first + i * step; step
                                  0: 1 */
};
void bench_store_fill(ledger_store *store, const struct bench_fill *fill);
/* A SQLite source. */
void bench_source_build(const char *path, const struct bench_fill *fill);

/* The rows of a source, in order of id, as the sink will hold them. */
struct bench_row {
    const char *stream;
    const char *payload;
    const char *order_key;
    const char *dedup_key;
    const char *created_at;
    int64_t source_pos;
    int stream_size, payload_size, order_key_size, dedup_key_size, created_at_size;
};
struct bench_rows {
    struct bench_row *items;
    size_t count;
    struct bench_chunk *chunks;
};
void bench_rows_load(const char *source_path, struct bench_rows *ret_rows);
void bench_rows_free(struct bench_rows *rows);

/* One moment of a run. */
struct bench_mark {
    double seconds;
    uint64_t count;
};
/* A whole run: its end, and the first moments at which a tenth and nine tenths were passed. */
struct bench_progress {
    struct bench_mark first, last, end;
};
double bench_rate_first(const struct bench_progress *p);
double bench_rate_last(const struct bench_progress *p);

/* One prepared insert per row into the table of bench_sink_make(path), per_tx rows a transaction.
 */
void bench_bare_insert(const char *path, const struct bench_rows *rows, size_t per_tx,
                       struct bench_progress *ret_progress);
/* What becomes of the mutations of a source. */
struct bench_outcome {
    uint64_t applied; /* or their entry is trimmed */
    uint64_t replayed, deduplicated, parked;
    bool either; /* `applied` of them are applied or found applied before */
};
/* Bridges until the source has no more, and ends the process when the outcome is another one;
 * ret_progress may be NULL. Creating and starting the bridge count, its end does not. */
void bench_bridge_run(const char *source_place, const char *sink_place,
                      const ledger_bridge_options *options, const struct bench_outcome *expected,
                      struct bench_progress *ret_progress);
/* The same where all of `expected` mutations are applied. */
void bench_bridge_drain(const char *source_place, const char *sink_place,
                        const ledger_bridge_options *options, uint64_t expected,
                        struct bench_progress *ret_progress);
/* Back to the beginning of the log, so that the next run carries everything once more. */
void bench_cursor_reset(const char *source_place, const char *sink_place);
/* The same in a process of its own, started anew, so that its memory is counted from zero. Settle
 * before. The result lives as long as the process; ret_usage may be NULL. That process is called
 * with four arguments, and returns bench_apart_child(argv, options) from main(). */
struct bench_apart {
    struct bench_progress progress;
    double peak_mib;
};
const struct bench_apart *bench_bridge_apart(const char *source_place, const char *sink_place,
                                             size_t expected, struct rusage *ret_usage);
int bench_apart_child(char **argv, const ledger_bridge_options *options); /* NULL: the defaults */
/* Its time and its peak, and `name` with the peak and its limit, for a source with a payload of
 * BENCH_LARGE_BYTES. */
void bench_apart_print(const char *name, const struct bench_apart *apart, size_t count,
                       const struct rusage *usage);
/* A bridge that follows its source from `ready` until `stop`, then drains and ends. */
void bench_bridge_follow(const char *source_place, const char *sink_place, _Atomic bool *ready,
                         const _Atomic bool *stop);

/* What is measured, and the peer that it is compared with. */
struct bench_pairs {
    const char *name, *peer_name;           /* of the columns; peer_name NULL: there is no peer */
    double (*run)(void *ctx, bool is_peer); /* one of both; how many seconds it took */
    void (*prove)(void *ctx);               /* after each pair; NULL: `run` does */
    void *ctx;
    size_t mutations;
    bool peer_first; /* in every pair; else their order alternates */
};
/* Five pairs, each printed; the median of peer time / time, without a peer that of mutations per
 * second. */
double bench_pairs_run(const struct bench_pairs *pairs);

/* By plain SQL: every entry of the source is in the sink with the same values, nothing else is, and
 * each stream is in the same order. exact: times and the order of the keys of annotations, too. */
void bench_same_rows(const char *source_path, const char *sink_path, bool exact);

#endif
