/* The world of random.c: what is drawn, what a sink is given of it, and what it holds.
 *
 *   random_log.c    entries, the logs of stores, ops
 *   random_state.c  what a sink holds; comparisons
 *   random.c        batches, parked events, rounds */
#ifndef TEST_CONFORMANCE_RANDOM_H
#define TEST_CONFORMANCE_RANDOM_H

#include "sink.h"

#include <inttypes.h>
#include <stdlib.h>

#include "fixtures.h"
#include "workload.h"

enum { OWN, A, B, C, STORES };  /* OWN: the sink itself */
enum { MEMORY, TESTED, SIDES }; /* what is compared */
#define EACH(side) for (int side = 0; side < SIDES; side++)

#define STREAMS 3
#define REFUSED 2
#define ENTRIES_MAX 40 /* of a store; trims name survivors by the bits of a number */
#define EVENTS_MAX 400
#define EVENT_ENTRIES 3
#define BATCH_EVENTS 12
#define BATCH_OPS (BATCH_EVENTS * EVENT_ENTRIES)
#define NEVER_THERE 1000000000
#define RECENT_US (SINK_TIME_US + INT64_C(86400000000) * 30) /* later: the time of the call */

#define VALUES 4
#define KEYS 3

/* An event of a log, as it is once it can be read. */
struct event {
    enum ldg_op_kind kind;
    enum { PLAIN, NOTHING_KNOWN, ENTRY_KNOWN } odd; /* cannot be read before w->readable */
    int store, mutation;                            /* of the entries; which made the change */
    int64_t position;                               /* of the mutation in its log */
    int64_t entries[EVENT_ENTRIES];
    size_t count;
    uint64_t kept;
    int stream, value, key;
};

struct log {
    struct event events[EVENTS_MAX];
    size_t count, read;
    /* of a faithful one */
    size_t relayed[STORES];              /* so many events of the logs of others it has looked at */
    uint64_t added[STORES], has[STORES]; /* entries, by bits: ever, and now */
};

struct side {
    const struct conf_backend *backend;
    ledger_store *store;
    char url[CONF_URL_MAX];
    int origins[STORES];
    struct ldg_cursor cursor;
    char log_state[LDG_CURSOR_STATE_MAX]; /* where the round's part of the sink's log begins */
    int64_t own_ids[ENTRIES_MAX], own_times[ENTRIES_MAX];
    int64_t moves;     /* of the cursor */
    size_t done_count; /* of the last batch, when it was refused */
    struct ldg_op ops[BATCH_OPS];
    uint8_t outcomes[BATCH_OPS];
    size_t op_count;
    const char *table; /* NULL: the usual one */
    /* of a comparison of histories */
    struct ldg_history_row *rows[STORES];
    size_t row_counts[STORES];
    uint64_t there[STORES]; /* entries, by bits */
};

struct world {
    struct conf_env *env;
    uint64_t seed, random;
    unsigned round;
    struct side sides[SIDES];
    struct ldg_identity identities[STORES];
    struct log logs[STORES]; /* of A and B; of C, where they are faithful */
    char streams[STREAMS][24];
    size_t own_count;
    int64_t last[STORES]; /* the entry that was appended last */
    bool has_log, readable, refusing;
    bool texts[STORES]; /* ids of its entries are texts */
    bool calm; /* a plain log, of which a batch goes in at once: nothing is parked or comes back */
    struct ldg_arena arena; /* of the step */
    /* Of a sink without transactions: */
    bool alone;             /* it is one */
    bool single;            /* it has one source; else three, and a table that others have used */
    char table[24];         /* that is not the usual one */
    int last_store;         /* of those that it knows */
    bool informed;          /* it surely looks up what the next batch brings */
    bool whole;             /* the last batch went in at the first try */
    bool broken;            /* something of the round did not */
    bool touched[STORES];   /* by the step: their histories are compared behind it */
    uint64_t gone[STORES];  /* entries that were trimmed at some time, by bits */
    uint64_t aside[STORES]; /* entries of which the append is parked */
};

/* Fails with the seed. */
void world_differ(const struct world *w, const char *fmt, ...) LEDGER_PRINTF(2, 3);
unsigned world_below(struct world *w, size_t n); /* 0 … n - 1 */

/* --- random_log.c ---------------------------------------------------------------------------- */

extern const char *const world_values[VALUES];
static inline uint64_t entry_bit(int64_t pos)
{
    return (uint64_t)1 << pos;
}
int entry_stream(const struct world *w, int store, int64_t pos);
/* The id of an entry at its origin; of the sink's own it is not the same on both sides. */
ledger_id entry_key(struct world *w, const struct side *side, int store, int64_t pos);
void entry_fill(struct world *w, const struct side *side, int store, int64_t pos, bool altered,
                ledger_append_entry *entry);
/* One more event of a log: of any kind, or as a source would write it. */
void world_write(struct world *w, int log);
void world_write_faithfully(struct world *w, int log);
/* The ops of an event; altered: its entries are others than before. */
size_t world_ops(struct world *w, const struct side *side, int log, size_t index, bool readable,
                 bool altered, struct ldg_op *ops);

/* --- random_state.c -------------------------------------------------------------------------- */

char world_letter(const struct world *w, const char *origin);
/* Which of the store's entries has this key; 0: none. */
int64_t entry_pos(struct world *w, int store, ledger_id key);
bool entry_is_gone(const struct world *w, int store, int64_t pos);
size_t world_parked(struct world *w, const struct side *side, struct ldg_parked_row **ret_rows);
/* ret_state NULL: it is not asked for. */
void world_put_log(struct world *w, const struct side *side, char *ret_state, struct ldg_buf *buf);
/* Fails with the first line in which the sides differ. */
void world_compare(struct world *w);

#endif
