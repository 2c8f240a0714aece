/* What the files of the sink's side share: one batch under way.
 *
 * cursors.c  origins, cursors, small transactions   apply.c   the transaction: fence, way, commit
 * known.c    what the sink has of what is named     change.c  changes, trims, marks
 * add.c      rows, the own log                      parked.c  parked events */
#ifndef LDG_BACKEND_SQLITE_APPLY_H
#define LDG_BACKEND_SQLITE_APPLY_H

#include "backend/sqlite/sqlite.h"
#include "sink/sink.h"

struct ldg_sqlite_batch {
    struct ldg_sink_batch s;
    struct ldg_sqlite *store;
    const struct ldg_apply *apply; /* NULL: a parked event is tried again */
    int64_t *reserved;             /* s.reserved, once there are any */
    size_t append_count;           /* ops that may add an entry */
    bool arranged;                 /* ids were given out in another order than the log's */
    int go_origin;                 /* whose rows carry numbers as their source_id; 0: none's do */
    bool go_index_known, go_index; /* Go's unique index on source_id is there */
    bool triggers_known, triggers_any; /* of the table of entries */
    struct ldg_buf text;               /* of the op in hand */
    /* The time text made last: neighbours mostly share it. */
    int64_t time_ms;
    const char *time_text;
};

/* cursors.c */
/* Copies uuid and epoch, two columns of a row of <table>_origins. Errors: SCHEMA (no uuid). */
ledger_rc ldg_sqlite_take_identity(struct ldg_sqlite *s, sqlite3_stmt *stmt, int column,
                                   struct ldg_identity *identity, ledger_error *err);
/* From now on its entries here are in another order than there. */
ledger_rc ldg_sqlite_origin_disorder(struct ldg_sqlite *s, int origin, const char *doing,
                                     ledger_error *err);
/* Has the table Go's unique index on source_id? */
ledger_rc ldg_sqlite_has_go_index(struct ldg_sqlite *s, bool *ret_has, ledger_error *err);
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

/* --- keys ------------------------------------------------------------------------------------- */

/* Of a parked event; ldg_sql_key() reads it. A text has a number below 0 beside it, which tells the
 * events of one log row apart. */
#define LDG_SQLITE_PARKED_KEY "CASE WHEN entry_id = '' THEN entry ELSE entry_id END"
/* The number by which <table>_foreign knows the entry of a row of <table>. */
#define LDG_SQLITE_MARKED "coalesce(source_pos, CASE WHEN origin = 0 THEN id ELSE -id END)"

/* --- known.c, add.c -------------------------------------------------------------------------- */

/* Has the table of entries any? */
ledger_rc ldg_sqlite_has_triggers(struct ldg_sqlite_batch *b, bool *ret_any, ledger_error *err);
/* Texts in the arena. Errors: REJECTED (too large), NOMEM. */
ledger_rc ldg_sqlite_map_text(struct ldg_sqlite_batch *b, ledger_map map, const char **ret_text,
                              ledger_error *err);
ledger_rc ldg_sqlite_list_text(struct ldg_sqlite_batch *b, ledger_list list, const char **ret_text,
                               ledger_error *err);
/* NULL: out of memory. */
const char *ldg_sqlite_time_text(struct ldg_sqlite_batch *b, int64_t time_us);

/* --- callbacks of the sink library ----------------------------------------------------------- */

ledger_rc ldg_sqlite_look_up(void *ctx, struct ldg_sink_batch *s, ledger_error *err);
ledger_rc ldg_sqlite_unpark(void *ctx, struct ldg_sink_batch *s, ledger_error *err);
ledger_rc ldg_sqlite_change(void *ctx, struct ldg_sink_batch *s, ledger_error *err);
ledger_rc ldg_sqlite_add(void *ctx, struct ldg_sink_batch *s, ledger_error *err);
ledger_rc ldg_sqlite_note(void *ctx, struct ldg_sink_batch *s, ledger_error *err);
ledger_rc ldg_sqlite_log_begin(void *ctx, ledger_error *err);
ledger_rc ldg_sqlite_log_put(void *ctx, ledger_bytes event, ledger_error *err);
ledger_rc ldg_sqlite_log_end(void *ctx, ledger_error *err);
ledger_rc ldg_sqlite_order_load(void *ctx, struct ldg_sink_batch *s, struct ldg_sink_order *order,
                                ledger_error *err);
ledger_rc ldg_sqlite_order_late(void *ctx, struct ldg_sink_batch *s,
                                const struct ldg_sink_order *order, const uint32_t *ops,
                                size_t count, bool *ret_late, ledger_error *err);
ledger_rc ldg_sqlite_order_note(void *ctx, int origin, ledger_error *err);

/* --- parked.c -------------------------------------------------------------------------------- */

/* The op's event; one that is parked already is replaced and counts an attempt more. *ret_new: it
 * was not. */
ledger_rc ldg_sqlite_park(struct ldg_sqlite *s, const struct ldg_op *op, const char *reason,
                          bool *ret_new, ledger_error *err);
/* One, or with 0 all. take: *ret_taken says how many; NOT_FOUND: it is not there. */
ledger_rc ldg_sqlite_parked_delete(struct ldg_sqlite *s, int64_t id, ledger_error *err);
ledger_rc ldg_sqlite_parked_take(struct ldg_sqlite *s, int64_t id, uint64_t *ret_taken,
                                 ledger_error *err);
/* What is parked below a trim, but for what the source keeps. */
ledger_rc ldg_sqlite_parked_trim(struct ldg_sqlite *s, const struct ldg_op *op, bool *ret_any,
                                 ledger_error *err);

#endif
