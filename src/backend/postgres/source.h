/* What the files of the source's side share: log.c, log_diff.c, wait.c.
 *
 * A cursor says what was carried. A difference is what a new snapshot sees beyond that; a page
 * reads of it. What a handle keeps between calls only spares work: a reader that starts anew from
 * the cursor's text alone finds the same rows. */
#ifndef LDG_BACKEND_POSTGRES_SOURCE_H
#define LDG_BACKEND_POSTGRES_SOURCE_H

#include "backend/postgres/postgres.h"
#include "backend/postgres/snapshot.h"

/* The rows that one snapshot sees and the cursor has not. */
struct ldg_pg_log_diff {
    struct ldg_pg_snapshot s1; /* without the reader's own transaction */
    bool any;
    int64_t low;       /* lowest id of those not below the cursor's xmax; 0: from the beginning */
    int64_t end;       /* highest id of all */
    int64_t floor;     /* with a cursor at the beginning: up to here, numbers of another cluster */
    uint64_t top_txid; /* the highest one, not below the cursor's xmax; 0: none */
    int64_t top_id;
    uint64_t *ended; /* below the cursor's xmax, seen now, and with rows; ascending */
    size_t ended_count;
};

struct ldg_pg_source {
    struct ldg_arena work; /* of one call */
    struct ldg_arena kept; /* of `seen` and `diff` */
    /* Behind `state` there is nothing in `seen` that the cursor does not carry (or, while a
     * difference is open: would carry in the end). Unlike a cursor this counts numbers that were
     * never on disk, so it dies with the connection. */
    char state[LDG_CURSOR_STATE_MAX];
    bool known;
    uint64_t connect_count;
    struct ldg_pg_snapshot seen;
    bool spent;    /* the last read of `state` found nothing */
    bool has_diff; /* for `state`; found by a wait, for the next read */
    struct ldg_pg_log_diff diff;
    bool unwatched;       /* something has happened since the tables were looked at */
    int64_t next_from_us; /* log_diff.c: the row behind the last one is not asked for before … */
    bool unasked;         /* … and was not by the last difference */
    uint64_t checked_count; /* the connection whose cluster was compared with the cursor */
    /* wait.c */
    int64_t pause_us;
    bool restless;         /* other transactions ended between the last two differences */
    uint64_t listen_count; /* the connection that listens */
};

ledger_rc ldg_pg_source_get(struct ldg_pg *pg, struct ldg_pg_source **ret_source,
                            ledger_error *err);

/* Keeps for `state`: seen NULL: nothing. diff (in the work arena) may be NULL. */
ledger_rc ldg_pg_source_keep(struct ldg_pg *pg, const char *state,
                             const struct ldg_pg_snapshot *seen, const struct ldg_pg_log_diff *diff,
                             ledger_error *err);
/* Is what is kept of this state, and of this connection? */
bool ldg_pg_source_knows(const struct ldg_pg *pg, const char *state);
/* Where to search from: what is kept, or the cursor's s0. Behind a pooler the server may change
 * under us, so nothing that was kept counts. */
const struct ldg_pg_snapshot *ldg_pg_source_seen(const struct ldg_pg *pg, const char *state,
                                                 const struct ldg_pg_cursor *cursor);

/* Identity and cluster of the cursor, and whether the log has its column. Asks nobody. */
ledger_rc ldg_pg_check_cursor(const struct ldg_pg *pg, const struct ldg_pg_cursor *cursor,
                              bool any_cluster, ledger_error *err);
/* Asks once per connection (always: at any rate) whether the witness is there and whether the log's
 * numbers are this cluster's. */
ledger_rc ldg_pg_check_log(struct ldg_pg *pg, const struct ldg_pg_cursor *cursor, bool always,
                           ledger_error *err);

/* One statement: what is behind the cursor (not open), searched for behind `seen`, which is the
 * cursor's s0 or what is kept instead. Compares the witness. In the work arena. */
ledger_rc ldg_pg_log_diff_read(struct ldg_pg *pg, const struct ldg_pg_cursor *cursor,
                               const struct ldg_pg_snapshot *seen, struct ldg_pg_log_diff *ret_diff,
                               ledger_error *err);

/* Of a row's columns: first bytes and size of its payload, created_at. */
#define LDG_PG_WITNESS_BYTES 4096
uint64_t ldg_pg_witness_hash(int64_t id, ledger_bytes head, int64_t size, int64_t time_us);
/* The row at this id, or the nearest before it; *ret_witness id 0: there is none. */
ledger_rc ldg_pg_witness_read(struct ldg_pg *pg, int64_t id, bool nearest,
                              struct ldg_pg_witness *ret_witness, ledger_error *err);
/* The five columns of a witness: id, txid, created_at, size, head; id null: gone. */
bool ldg_pg_witness_is(const struct ldg_pg_witness *witness, const PGresult *result, int row,
                       int column);
ledger_rc ldg_pg_fail_witness(const struct ldg_pg *pg, const struct ldg_pg_witness *witness,
                              bool found, ledger_error *err);
/* A row whose transaction number cannot be the server's; none: it has none. */
ledger_rc ldg_pg_fail_number(const struct ldg_pg *pg, int64_t id, bool none, ledger_error *err);
ledger_rc ldg_pg_fail_standby(struct ldg_pg *pg, ledger_error *err);

void ldg_pg_arg_txid(struct ldg_pg_args *args, uint64_t txid);
/* One that no server can have given comes as LDG_PG_TXID_TOP, which a cursor can note. */
uint64_t ldg_pg_get_txid(const PGresult *result, int row, int column);

#endif
