/* What the files of the batch share.
 *
 * apply.c  the transaction: fence, which way, cursor, commit    begin.c   its beginning
 * known.c  what the sink has of what the batch names            order.c   … and of its order
 * change.c changes, trims, marks                                add.c     rows, the own log
 * copy.c   COPY's binary form */
#ifndef LDG_BACKEND_POSTGRES_APPLY_H
#define LDG_BACKEND_POSTGRES_APPLY_H

#include "backend/postgres/parked.h"
#include "sink/sink.h"

#define LDG_PG_ARRAYS 16
#define LDG_PG_COPY_BYTES ((size_t)64 * 1024)

/* Annotations that can be merged with others: a JSON object of strings, or none. */
/* clang-format off */
#define LDG_PG_MERGEABLE(e)                                                                        \
    "(" e ".annotations IS NULL OR CASE jsonb_typeof(" e ".annotations) WHEN 'null' THEN true "    \
        "WHEN 'object' THEN NOT jsonb_path_exists(" e ".annotations, "                             \
            "'$.* ? (@.type() != \"string\")') ELSE false END)"
/* clang-format on */

/* Lasts as long as the handle. */
struct ldg_pg_sink {
    struct ldg_arena arena; /* of the batch in hand */
    struct ldg_buf text, more_text;
    struct ldg_buf arrays[LDG_PG_ARRAYS];
    char *copy;          /* LDG_PG_COPY_BYTES */
    uint64_t no_copy_on; /* connection (connect_count) on which the server refused COPY */
    bool was_known;      /* the last batch brought what was here: the next is asked about at once */
    bool one_by_one;     /* for tests: always informed, each op a range */
    uint64_t optimistic_count;          /* batches that went without being asked about */
    uint64_t planned_on, planned_count; /* a connection, and its batches */
    int64_t columns; /* over the versions of the entries' columns, when they were looked at */
    /* which commits are on disk */
    uint64_t applied_count, durable_count;
    uint64_t mark_count; /* commits that are on disk once mark_lsn is; 0: none is waited for */
    int64_t mark_lsn;
    uint64_t mark_connection, applied_connection;
    int64_t asked_us; /* ldg_clock_mono_us() */
};

/* COPY … binary, in pieces. */
struct ldg_pg_copy {
    struct ldg_pg *pg;
    char *data;
    size_t used;
    uint64_t rows;
    ledger_rc rc;
    ledger_error *err;
};

struct ldg_pg_batch {
    struct ldg_sink_batch s;
    struct ldg_pg *pg;
    struct ldg_pg_sink *sink;
    int64_t *reserved;   /* s.reserved, once there are any */
    size_t append_count; /* ops that may add an entry */
    bool has_reserved;
    int go_origin;        /* whose rows carry their source_id; 0: none's do */
    bool has_texts;       /* some op names its entry by a text: that row carries it, too */
    char go_index[64];    /* Go's, which that may meet; "": none, or nobody has looked */
    uint32_t named_count; /* items that the ops name; those behind were found by dedup keys */
    bool may_keep;        /* a trigger may keep rows that are trimmed */
    bool log_by_copy;
    struct ldg_pg_copy log_copy;
    const struct ldg_apply *apply; /* NULL: a parked event is tried again */
    /* over all tries of one call */
    bool own;           /* the transaction is ours, else a part of another */
    bool order_awaited; /* await_commit_order() was called, or need not be */
    bool told_reserved; /* ids_reserved() was */
    bool immediate;     /* constraints are checked at once: one was not met at the commit */
    int64_t columns;    /* as in ldg_pg_sink, now */
};

/* --- begin.c --------------------------------------------------------------------------------- */

/* BEGIN, with whatever can be asked at once: ids are reserved, and once the earlier batch is
 * committed the fence is compared. */
ledger_rc ldg_pg_batch_begin(struct ldg_pg_batch *b, ledger_error *err);
/* The fence, and what is asked behind it, where the transaction is open, or part of another. */
ledger_rc ldg_pg_batch_fence(struct ldg_pg_batch *b, ledger_error *err);
/* Waits until the earlier batch is committed. */
ledger_rc ldg_pg_batch_await_order(struct ldg_pg_batch *b, ledger_error *err);
/* Whose rows carry their source_id? */
ledger_rc ldg_pg_batch_go_origin(struct ldg_pg_batch *b, ledger_error *err);
/* Commits need not wait for the disk: the cursor falls back with the data. But who reads the sink's
 * own log may have carried what falls back. */
static inline bool ldg_pg_is_async(const struct ldg_pg *pg)
{
    return pg->role == LDG_ROLE_SINK && !pg->has_log;
}

/* --- callbacks of the sink library ----------------------------------------------------------- */

ledger_rc ldg_pg_look_up(void *ctx, struct ldg_sink_batch *s, ledger_error *err);
ledger_rc ldg_pg_change(void *ctx, struct ldg_sink_batch *s, ledger_error *err);
ledger_rc ldg_pg_add(void *ctx, struct ldg_sink_batch *s, ledger_error *err);
ledger_rc ldg_pg_unpark(void *ctx, struct ldg_sink_batch *s, ledger_error *err);
ledger_rc ldg_pg_note(void *ctx, struct ldg_sink_batch *s, ledger_error *err);
ledger_rc ldg_pg_log_begin(void *ctx, ledger_error *err);
ledger_rc ldg_pg_log_event(void *ctx, ledger_bytes event, ledger_error *err);
ledger_rc ldg_pg_log_end(void *ctx, ledger_error *err);
ledger_rc ldg_pg_order_load(void *ctx, struct ldg_sink_batch *s, struct ldg_sink_order *order,
                            ledger_error *err);
ledger_rc ldg_pg_order_late(void *ctx, struct ldg_sink_batch *s, const struct ldg_sink_order *order,
                            const uint32_t *ops, size_t count, bool *ret_late, ledger_error *err);
ledger_rc ldg_pg_order_note(void *ctx, int origin, ledger_error *err);

/* <table>_foreign names an entry by its key; one that has a text by its id here, below zero. */
static inline int64_t ldg_pg_mark_entry(const struct ldg_sink_item *item)
{
    return item->key.text == NULL ? item->key.number : -item->id;
}
/* May the server take COPY on this connection? */
bool ldg_pg_may_copy(const struct ldg_pg_batch *b);
/* The orders of all origins, for one who asks along with others: a statement for each. */
ledger_rc ldg_pg_orders_send(struct ldg_pg_batch *b, const char *doing, ledger_error *err);
ledger_rc ldg_pg_orders_receive(struct ldg_pg_batch *b, const char *doing, ledger_error *err);

/* --- copy.c ---------------------------------------------------------------------------------- */

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

#endif
