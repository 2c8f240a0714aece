/* What the PostgreSQL benchmarks share: two real servers on this machine, the proof that their
 * tables are equal, and the two peers of a drain.
 *
 * The servers are those of the tests' support (fsync on here) with the settings of a fresh
 * installation, the same on both sides. They and their folders are gone when the program ends, also
 * after a signal. */
#ifndef BENCH_PG_H
#define BENCH_PG_H

#include <libpq-fe.h>

#include "common.h"

#define BENCH_PG_PER_TX 5000 /* rows per transaction of a drain, on every side */

enum bench_pg_side { BENCH_PG_SOURCE, BENCH_PG_SINK };

/* settings: lines for both servers' postgresql.conf, or NULL. */
void bench_pg_start(const char *settings);
/* In a program started with bench_spawn(): ends with the one that started it. */
void bench_pg_child(void);

void bench_pg_url(char url[BENCH_PATH_MAX], enum bench_pg_side side, const char *database);
PGconn *bench_pg_connect(const char *url);
void bench_pg_exec(PGconn *conn, const char *sql);
int64_t bench_pg_int(PGconn *conn, const char *sql);
/* Waits for the result of what was sent; it must be of this kind. */
void bench_pg_result(PGconn *conn, ExecStatusType expected, const char *doing);
/* CPU that this side's server and all its processes have used so far. */
double bench_pg_cpu_seconds(enum bench_pg_side side);

/* An empty database of that name, made anew; *url names it. */
void bench_pg_database_empty(char url[BENCH_PATH_MAX], enum bench_pg_side side, const char *name);
/* The same with the tables of the library. */
void bench_pg_database(char url[BENCH_PATH_MAX], enum bench_pg_side side, const char *name,
                       ledger_log_mode log);
/* Of the whole database, so that the server does not begin it by itself in the middle of a run. */
void bench_pg_vacuum(const char *url);
/* What was written before is on disk, on both sides. */
void bench_pg_settle(void);
/* A source: a database with what bench_store_fill() writes; no commit waits for the disk. */
void bench_pg_source_build(char url[BENCH_PATH_MAX], const char *name,
                           const struct bench_fill *fill);
/* A handle that fills such a source. */
ledger_store *bench_pg_builder_open(char url[BENCH_PATH_MAX], const char *name);

/* Every entry of the source is in the sink with the same values (times: created_at and updated_at,
 * too), nothing else is, and each stream is in the same order. */
void bench_pg_same_rows(const char *source_url, const char *sink_url, bool times);
/* The same of those entries alone that meet a condition in SQL, one for each side. */
void bench_pg_same_rows_where(const char *source_url, const char *source_where,
                              const char *sink_url, const char *sink_where, bool times);

/* --- a drain, and what it is compared with ---------------------------------------------------- */

/* Pairs of a bridge from source_url and a peer into databases of the sink made for each, and the
 * proof after each; the median of peer time / bridge time. `run` fills the table and says how long
 * it took, `prove` looks at it (NULL: it has to be equal to the source). */
struct bench_pg_peer {
    const char *name;
    double (*run)(void *ctx, const char *sink_url);
    void (*prove)(void *ctx, const char *sink_url);
    void *ctx;
};
double bench_pg_drain_pairs(const char *source_url, size_t mutations,
                            const struct bench_pg_peer *peer);

/* Rows of a source in the form that COPY takes, BENCH_PG_PER_TX in a piece, as the sink holds them.
 */
struct bench_pg_copies {
    struct bench_pg_piece {
        char *data;
        size_t size;
    } * items;
    size_t count;
};
void bench_pg_copies_load(const char *source_url, struct bench_pg_copies *ret_copies);
void bench_pg_copies_free(struct bench_pg_copies *copies);
/* One transaction per piece, on one connection that does not wait for the disk. */
double bench_pg_copies_write(const struct bench_pg_copies *copies, const char *url);

/* Native logical replication. prepare: a database at the source with the library's table,
 * published, and the slot from which every round starts. Then the changes are written there, once,
 * and each run makes a subscription (no initial copy, not enabled), enables it and waits until the
 * row with this source_pos is at the sink. */
void bench_pg_native_prepare(char publisher_url[BENCH_PATH_MAX]);
double bench_pg_native_run(const char *sink_url, int64_t last_source_pos);

#endif
