/* What the files of the batch share.
 *
 * apply.c  the transaction: fence, which way, cursor, commit
 * bulk.c   all ops at once, by what they amount to     copy.c   COPY's binary form
 * rows.c   one op after the other                      ops.c    one op on one row
 * order.c  do ids rise here as at their origin?        chain.c  the sink's own log */
#ifndef LDG_BACKEND_POSTGRES_APPLY_H
#define LDG_BACKEND_POSTGRES_APPLY_H

#include "backend/postgres/parked.h"

#include <stdio.h>

#define LDG_PG_ARRAYS 11
#define LDG_PG_COPY_BYTES ((size_t)64 * 1024)

/* Lasts as long as the handle. */
struct ldg_pg_sink {
    struct ldg_arena arena; /* of the batch in hand */
    struct ldg_buf text, more_text;
    struct ldg_buf arrays[LDG_PG_ARRAYS];
    char *copy;          /* LDG_PG_COPY_BYTES */
    uint64_t no_copy_on; /* connection (connect_count) on which the server refused COPY */
    bool row_wise;       /* for tests: never in bulk */
    uint64_t bulk_count; /* batches that were done in bulk */
    uint64_t planned_on, planned_count; /* a connection, and its batches */
    int64_t columns; /* over the versions of the entries' columns, when they were looked at */
    /* which commits are on disk */
    uint64_t applied_count, durable_count;
    uint64_t mark_count; /* commits that are on disk once mark_lsn is; 0: none is waited for */
    int64_t mark_lsn;
    uint64_t mark_connection, applied_connection;
    int64_t asked_us; /* ldg_clock_mono_us() */
};

/* What is known of an origin, so that a trim need not look at the whole stream. */
struct ldg_pg_order {
    int origin;
    bool ordered;                    /* in each stream ids here rise with the ids there */
    bool disorder;                   /* to be noted */
    int64_t highest;                 /* id there of any entry here, but for those of this batch */
    int64_t lowest_new, highest_new; /* of this batch's appends */
    size_t new_count;
};

struct ldg_pg_batch {
    struct ldg_pg *pg;
    struct ldg_pg_sink *sink;
    const struct ldg_op *ops;
    size_t count;
    uint8_t *outcomes;
    int64_t *ids;   /* per op: id here of the entry added or changed; of a trim the highest that it
                       deleted; 0: none */
    int64_t *drawn; /* per op: id for the entry of an append; 0: the database gives one */
    size_t append_count; /* ops that may add an entry */
    bool has_drawn;
    bool can_park, park_rejected;
    bool row_wise;   /* this try is */
    bool savepoints; /* what the database refuses is undone alone */
    bool savepoint_open;
    bool beside;       /* others may add entries of these origins meanwhile: no order is sure */
    bool parked_any;   /* some event is parked that may concern this batch */
    bool foreign_any;  /* <table>_foreign has rows */
    int go_origin;     /* whose rows carry their source_id; 0: none's do */
    int64_t parked_id; /* the row that is retried; else INT64_MAX */
    /* Ops that are parked without being tried; NULL: none at all. */
    struct ldg_pg_forced {
        bool is_set;
        ledger_error why;
        uint64_t reason;
    } * forced;
    struct ldg_refusals *brake; /* NULL: none; a copy, of this try */
    bool looked_again;          /* the tables still are what they should be */
    int64_t now_us;
    int64_t lowest_id; /* of the ids drawn; INT64_MAX: none */
    struct ldg_pg_order *orders;
    size_t order_count;
    struct ldg_pg_bulk *bulk; /* what the ops amount to; of bulk.c; NULL: not asked in this try */
};

static inline int64_t ldg_pg_op_time(const struct ldg_pg_batch *b, const struct ldg_op *op)
{
    return op->time_us != LEDGER_NO_TIME ? op->time_us : b->now_us;
}

/* The text of an entry's source_id: of the origin whose rows carry it, else "". */
#define LDG_PG_SOURCE_ID_MAX 24
static inline const char *ldg_pg_op_source_id(const struct ldg_pg_batch *b, const struct ldg_op *op,
                                              char text[LDG_PG_SOURCE_ID_MAX])
{
    text[0] = '\0';
    if (b->go_origin != 0 && op->origin == b->go_origin)
        (void)snprintf(text, LDG_PG_SOURCE_ID_MAX, "%lld", (long long)op->key.number);
    return text;
}

/* --- order.c --------------------------------------------------------------------------------- */

/* One element for each origin that the batch adds to or trims; nothing known of it yet. */
ledger_rc ldg_pg_orders_collect(struct ldg_pg_batch *b, ledger_error *err);
/* NULL: the batch has none of it. */
struct ldg_pg_order *ldg_pg_order_of(struct ldg_pg_batch *b, int origin);
/* The statement that asks, for one who sends it along with others. */
extern const char ldg_pg_order_get[];
void ldg_pg_order_args(const struct ldg_pg_batch *b, const struct ldg_pg_order *order,
                       struct ldg_pg_args *args);
/* SCHEMA when the origin is not known any more. */
ledger_rc ldg_pg_order_take(const struct ldg_pg_batch *b, struct ldg_pg_order *order,
                            const PGresult *result, ledger_error *err);
ledger_rc ldg_pg_orders_load(struct ldg_pg_batch *b, ledger_error *err);
/* Before a batch goes in at once: which origins are no longer in order with it? */
ledger_rc ldg_pg_orders_check(struct ldg_pg_batch *b, ledger_error *err);
/* At the end of the transaction: into <table>_origins. */
ledger_rc ldg_pg_orders_note(struct ldg_pg_batch *b, ledger_error *err);

/* --- rows.c ---------------------------------------------------------------------------------- */

/* Does all ops, one by one. REJECTED with err->done_count; where ops may be parked and savepoints
 * are not set yet: to be done again with them. */
ledger_rc ldg_pg_rows_run(struct ldg_pg_batch *b, ledger_error *err);
/* A statement of the op in hand; where savepoints are set, it opens the op's. */
ledger_rc ldg_pg_op_statement(struct ldg_pg_batch *b, const char *doing, const char *template,
                              const struct ldg_pg_args *args, PGresult **ret_result,
                              ledger_error *err);

/* --- copy.c ---------------------------------------------------------------------------------- */

/* COPY … binary, in pieces. */
struct ldg_pg_copy {
    struct ldg_pg *pg;
    char *data;
    size_t used;
    uint64_t rows;
    ledger_rc rc;
    ledger_error *err;
};
ledger_rc ldg_pg_copy_open(struct ldg_pg_copy *c, struct ldg_pg_batch *b, const char *template,
                           ledger_error *err);
void ldg_pg_copy_row(struct ldg_pg_copy *c, int columns);
void ldg_pg_copy_bytes(struct ldg_pg_copy *c, const void *data, size_t size);
void ldg_pg_copy_text(struct ldg_pg_copy *c, const char *text);
void ldg_pg_copy_json(struct ldg_pg_copy *c, const char *text, size_t size);
void ldg_pg_copy_int32(struct ldg_pg_copy *c, int32_t value);
void ldg_pg_copy_int64(struct ldg_pg_copy *c, int64_t value);
void ldg_pg_copy_time(struct ldg_pg_copy *c, int64_t time_us);
void ldg_pg_copy_null(struct ldg_pg_copy *c);
/* REJECTED: a trigger has dropped rows. */
ledger_rc ldg_pg_copy_close(struct ldg_pg_copy *c, ledger_error *err);

/* --- bulk.c ---------------------------------------------------------------------------------- */

/* Can these ops be done in bulk? Looks at the ops alone. */
bool ldg_pg_bulk_suits(const struct ldg_op *ops, size_t count);
/* What they amount to; then ldg_pg_bulk_add and _change do it, each once. REJECTED, here and there,
 * is no verdict: the batch is to be done op by op. */
ledger_rc ldg_pg_bulk_plan(struct ldg_pg_batch *b, ledger_error *err);
/* Is it the same if what the batch adds comes in before it changes and trims? */
bool ldg_pg_bulk_may_add_first(const struct ldg_pg_batch *b);
ledger_rc ldg_pg_bulk_add(struct ldg_pg_batch *b, ledger_error *err);
ledger_rc ldg_pg_bulk_change(struct ldg_pg_batch *b, ledger_error *err);

/* --- ops.c ----------------------------------------------------------------------------------- */

/* Before anything is parked: is it the event, or are the tables no longer what they were? Errors:
 * SCHEMA, PERMISSION. */
ledger_rc ldg_pg_look_again(struct ldg_pg_batch *b, ledger_error *err);
/* A failure of an op: what this very row runs into is REJECTED. OK and REJECTED stay. */
ledger_rc ldg_pg_op_fail(ledger_rc rc, ledger_error *err);
bool ldg_pg_op_is_guarded(const struct ldg_op *op);
/* Which appends from `first` on, up to the next trim, name an entry that is here already: seen[i] =
 * LDG_PG_SEEN_SAME, or the name of a field in which it is another one; NULL: it is not here.
 * *ret_next: where to look again. */
extern const char LDG_PG_SEEN_SAME[];
ledger_rc ldg_pg_ops_seen(struct ldg_pg_batch *b, size_t first, const char **seen, size_t *ret_next,
                          ledger_error *err);
/* A run of appends of others' entries in one round trip; none of them waits or is parked. On
 * failure err->done_count is the op's index. */
ledger_rc ldg_pg_ops_appends(struct ldg_pg_batch *b, size_t first, size_t end, ledger_error *err);
/* A trim's statement; keys: what must not be among the dedup keys that it deletes. Its row: the
 * highest id that it deleted, or 0; how many had such a key. */
const char *ldg_pg_trim_template(struct ldg_pg_batch *b, const struct ldg_op *op);
void ldg_pg_trim_args(struct ldg_pg_batch *b, const struct ldg_op *op, const struct ldg_buf *keys,
                      struct ldg_pg_args *args);
/* Does op i. REJECTED may leave a part behind, for the caller's savepoint. */
ledger_rc ldg_pg_op_run(struct ldg_pg_batch *b, size_t i, ledger_error *err);
/* Tags, annotations as jsonb text; the set and unset part of a change of annotations. */
ledger_rc ldg_pg_put_list(struct ldg_buf *buf, ledger_list list, ledger_error *err);
ledger_rc ldg_pg_put_map(struct ldg_buf *buf, ledger_map map, struct ldg_arena *arena,
                         ledger_error *err);
/* keys of values that are NULL, as a list */
ledger_rc ldg_pg_split_map(ledger_map map, struct ldg_arena *arena, ledger_map *ret_set,
                           ledger_list *ret_unset, ledger_error *err);

/* --- chain.c --------------------------------------------------------------------------------- */

/* Writes the events of what was applied into the sink's own log; nothing without one. On failure
 * err->done_count is the index of the op whose event it was, or SIZE_MAX. */
ledger_rc ldg_pg_chain_write(struct ldg_pg_batch *b, bool copy, ledger_error *err);

#endif
