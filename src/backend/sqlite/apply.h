/* What the files of the sink's side share: one batch under way.
 *
 * cursors.c  origins, cursors, small transactions    ops.c    one op on one row
 * chain.c    events for the sink's own log           apply.c  the batch: in bulk, or op by op */
#ifndef LDG_BACKEND_SQLITE_APPLY_H
#define LDG_BACKEND_SQLITE_APPLY_H

#include "backend/sqlite/sql.h"
#include "backend/sqlite/sqlite.h"

#define LDG_INSERT_COLUMNS 12
#define LDG_NOT_PENDING UINT32_MAX

/* Keeps the first failure of a row of binds. */
#define LDG_BIND(code, call)                                                                       \
    do {                                                                                           \
        int bind_code_ = (call);                                                                   \
        if (bind_code_ != SQLITE_OK)                                                               \
            (code) = bind_code_;                                                                   \
    } while (0)

/* An append that waits for its group. Texts are in the scratch arena. */
struct ldg_sqlite_pending {
    const struct ldg_op *op;
    size_t index; /* of op */
    int64_t id;
    const char *time;
    const char *metadata; /* NULL: none */
    const char *tags;
    const char *source_id; /* of the origin that carries it; else "" */
    uint32_t slot;         /* in `slots`, if it made its stream's entry; else LDG_NOT_PENDING */
};

struct ldg_sqlite_batch {
    struct ldg_sqlite *s;
    const struct ldg_op *ops;
    size_t count;
    uint8_t *outcomes;
    bool park_rejected;
    bool parked_any;  /* some event is parked, perhaps one of an entry in this batch */
    bool foreign_any; /* <table>_foreign has rows */
    bool triggers_known, triggers_any; /* of the table of entries */
    int go_origin;                     /* whose rows carry their source_id; 0: none's do */
    bool can_park;
    int64_t parked_id; /* the row that is retried; else INT64_MAX */
    /* Ops that are parked without being tried; NULL: none at all. */
    struct ldg_sqlite_forced {
        bool is_set;
        ledger_error why;
    } * forced;
    struct ldg_refusals *brake; /* NULL: none; a copy, of this try */
    bool looked_again;          /* the tables still are what they should be */
    struct ldg_buf text;        /* of the op in hand */
    char now[LDG_TIME_TEXT_MAX];
    int64_t now_us;
    /* The time text made last: neighbours mostly share it. */
    int64_t time_ms;
    const char *time_text;
    /* bulk */
    struct ldg_sqlite_pending *pending;
    const struct ldg_sqlite_pending **sorted;
    uint32_t *slots; /* open hash of the pending streams: index in pending + 1 */
    size_t slot_mask, pending_count, stream_count;
    bool ascending; /* pending source positions rise and have one origin */
    int64_t lowest, highest;
    int64_t next_id; /* 0: not asked yet */
    /* What is known of origins, so that a trim need not look at the whole stream. */
    struct ldg_sqlite_order {
        int origin;
        bool ordered;    /* in each stream ids here rise with the ids there */
        int64_t highest; /* id there of any entry here */
    } * orders;
    size_t order_count, order_cap;
    /* events for the sink's own log */
    ledger_append_entry *chain;
    size_t chain_count;
    const struct ldg_op *chain_op;
    struct origin_text {
        int number;
        char text[LDG_UUID_TEXT_MAX + 24];
    } origin_texts[2];
    size_t origin_text_count, origin_text_last;
};

/* cursors.c */
/* Copies uuid and epoch, two columns of a row of <table>_origins. Errors: SCHEMA (no uuid). */
ledger_rc ldg_sqlite_take_identity(struct ldg_sqlite *s, sqlite3_stmt *stmt, int column,
                                   struct ldg_identity *identity, ledger_error *err);
/* The origin whose rows carry their source_id, and whether all do (2); 0: there is none. */
ledger_rc ldg_sqlite_go_origin(struct ldg_sqlite *s, int *ret_origin, int *ret_state,
                               ledger_error *err);
/* From now on its entries here are in another order than there. */
ledger_rc ldg_sqlite_origin_disorder(struct ldg_sqlite *s, int origin, const char *doing,
                                     ledger_error *err);
/* CONNECT: another file has the name of this connection's, or none. */
ledger_rc ldg_sqlite_not_moved(struct ldg_sqlite *s, ledger_error *err);
/* *ret_found false: there is no such row. */
ledger_rc ldg_sqlite_cursor_read(struct ldg_sqlite *s, const char *name, bool *ret_found,
                                 struct ldg_cursor *cursor, ledger_error *err);
/* The row gets this cursor and time; sqlite3_changes() tells if there is one. */
ledger_rc ldg_sqlite_cursor_move(struct ldg_sqlite *s, const char *name,
                                 const struct ldg_cursor *cursor, int64_t moved_at_us,
                                 ledger_error *err);
/* FENCED unless the row still is what the batch was read from. */
ledger_rc ldg_sqlite_cursor_fence(struct ldg_sqlite *s, const char *name,
                                  const struct ldg_cursor *expected, ledger_error *err);

/* chain.c; all do nothing without a log. append gathers the entries of one event until flush. */
ledger_rc ldg_sqlite_chain_append(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t id,
                                  ledger_error *err);
ledger_rc ldg_sqlite_chain_flush(struct ldg_sqlite_batch *b, ledger_error *err);
/* A change (id: of the entry here) or a trim (id: the highest that it deletes). */
ledger_rc ldg_sqlite_chain_change(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t id,
                                  ledger_error *err);

/* ops.c */
/* A result of running an op: what this very row runs into is REJECTED. */
ledger_rc ldg_sqlite_op_fail(struct ldg_sqlite *s, int code, const char *doing, ledger_error *err);
/* Call before (in bulk: nothing of it pending) or after an entry is added: keeps `ordered` true. */
ledger_rc ldg_sqlite_order_added(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                                 ledger_error *err);
ledger_rc ldg_sqlite_order_get(struct ldg_sqlite_batch *b, int origin,
                               struct ldg_sqlite_order **ret_order, ledger_error *err);
/* After anything was rolled back. */
void ldg_sqlite_order_forget(struct ldg_sqlite_batch *b);
/* Makes the texts of an append. */
ledger_rc ldg_sqlite_pending_fill(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                                  struct ldg_sqlite_pending *p, ledger_error *err);
/* Binds one row of an insert from parameter `at`; id 0: SQLite gives one. */
int ldg_sqlite_bind_row(sqlite3_stmt *stmt, int at, const struct ldg_sqlite_pending *p);
/* An entry that is here already, at its origin's position. *ret_outcome is set when there is one.
 * Errors: POSITION_REUSED. */
ledger_rc ldg_sqlite_op_replayed(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                                 bool *ret_replayed, ledger_error *err);
/* Does it. REJECTED may leave a part behind, for the caller's savepoint. */
ledger_rc ldg_sqlite_op_run(struct ldg_sqlite_batch *b, const struct ldg_op *op,
                            uint8_t *ret_outcome, ledger_error *err);

#endif
