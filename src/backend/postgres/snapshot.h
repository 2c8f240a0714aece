/* Which transactions a reader has seen: sets of transaction numbers, and the cursor made of them.
 * Pure arithmetic and text; talks to nobody.
 *
 * A set holds every number below `xmax` except those listed in `xip` (in progress when it was
 * taken). The number 0 stands for rows from before the log had numbers. */
#ifndef LDG_BACKEND_POSTGRES_SNAPSHOT_H
#define LDG_BACKEND_POSTGRES_SNAPSHOT_H

#include "base/arena.h"
#include "base/buf.h"
#include "store/backend.h"

#define LDG_PG_TALLY 1000003
/* What a cursor holds are numbers up to INT64_MAX, an xmax (the number behind one) among them. */
#define LDG_PG_TXID_TOP ((uint64_t)INT64_MAX - 1)

struct ldg_pg_snapshot {
    uint64_t xmax; /* 0: the empty set */
    size_t count;
    uint64_t *xip; /* ascending, each > 0 and < xmax; in an arena */
};

/* A log row that is known to have been there. */
struct ldg_pg_witness {
    int64_t id; /* 0: none */
    uint64_t txid;
    uint64_t hash;
};

/* Carried are the rows of s0; and, while a difference is read out (open), of its rows, which are
 * those of s1 and not of s0, the ones up to id `last`. */
struct ldg_pg_cursor {
    bool set; /* false: the beginning, of any source */
    struct ldg_identity identity;
    char system_id[24];            /* of the cluster; "" where it could not be asked */
    int64_t position;              /* highest id ever carried */
    int64_t floor;                 /* rows up to here: numbers of another cluster, all carried */
    struct ldg_pg_witness carried; /* the row carried with the highest txid */
    /* The rows carried of the last difference (of the open one, so far), those with ids up to
     * `since` left out: what a source that went back has lost of all that was carried, it has lost
     * of these. */
    uint64_t tally_count, tally_sum; /* sum of ids modulo LDG_PG_TALLY */
    int64_t since;
    struct ldg_pg_snapshot s0;
    struct ldg_pg_snapshot before; /* not open: the s0 of before the last difference */
    bool open;
    struct ldg_pg_snapshot s1;
    int64_t last, end;         /* ids: carried up to, ends with */
    struct ldg_pg_witness top; /* the row of s1 with the highest txid; none: as `carried` */
};

/* What pg_current_snapshot() says: "xmin:xmax:xip,xip…". false: it is not that, or no memory. */
bool ldg_pg_snapshot_parse(const char *text, struct ldg_arena *arena,
                           struct ldg_pg_snapshot *ret_snapshot);
/* The same text, for a parameter. The empty set has none: "1:1:" (it sees 0). */
void ldg_pg_snapshot_print(const struct ldg_pg_snapshot *snapshot, struct ldg_buf *out);
bool ldg_pg_snapshot_sees(const struct ldg_pg_snapshot *snapshot, uint64_t txid);

/* All of these make a new set. false: no memory. */
bool ldg_pg_snapshot_copy(const struct ldg_pg_snapshot *from, struct ldg_arena *arena,
                          struct ldg_pg_snapshot *ret_snapshot);
/* Only what is below xmax. */
bool ldg_pg_snapshot_cut(const struct ldg_pg_snapshot *from, uint64_t xmax, struct ldg_arena *arena,
                         struct ldg_pg_snapshot *ret_snapshot);
/* Without this one. */
bool ldg_pg_snapshot_hide(const struct ldg_pg_snapshot *from, uint64_t txid,
                          struct ldg_arena *arena, struct ldg_pg_snapshot *ret_snapshot);
/* What `from` does not see, of that only what `later` does not see either, or what is in `keep`
 * (ascending). */
bool ldg_pg_snapshot_settle(const struct ldg_pg_snapshot *from, const struct ldg_pg_snapshot *later,
                            const uint64_t *keep, size_t keep_count, struct ldg_arena *arena,
                            struct ldg_pg_snapshot *ret_snapshot);
/* Numbers in progress in `from` that `later` sees: ascending, in the arena. */
bool ldg_pg_snapshot_ended(const struct ldg_pg_snapshot *from, const struct ldg_pg_snapshot *later,
                           struct ldg_arena *arena, uint64_t **ret_items, size_t *ret_count);

/* The row of the two that a cursor keeps: the higher txid, then the higher id. */
struct ldg_pg_witness ldg_pg_witness_higher(struct ldg_pg_witness a, struct ldg_pg_witness b);

/* Text of a cursor. Errors of parse: DATA (not one of these), NOMEM; of format: BUSY (more
 * transactions are open than a cursor can hold). */
ledger_rc ldg_pg_cursor_parse(const char *text, struct ldg_arena *arena,
                              struct ldg_pg_cursor *ret_cursor, ledger_error *err);
ledger_rc ldg_pg_cursor_format(const struct ldg_pg_cursor *cursor, char text[LDG_CURSOR_STATE_MAX],
                               ledger_error *err);

#endif
