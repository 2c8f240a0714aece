/* What cursors.c and parked.c offer to the batch: transactions that may stand inside another one,
 * and parked events. */
#ifndef LDG_BACKEND_POSTGRES_PARKED_H
#define LDG_BACKEND_POSTGRES_PARKED_H

#include "backend/postgres/postgres.h"

/* --- cursors.c ------------------------------------------------------------------------------- */

/* A transaction, or a savepoint in the one that is open: a failure undoes only what came between.
 * end() gives the result of both, as ldg_pg_end(). */
ledger_rc ldg_pg_write_begin(struct ldg_pg *pg, const char *settings, bool *ret_own,
                             ledger_error *err);
ledger_rc ldg_pg_write_end(struct ldg_pg *pg, bool own, ledger_rc rc, ledger_error *err);
/* One statement that writes, as ldg_pg_run_write(); where the session is not ours to set it gets a
 * transaction around it, so that it does not wait for locks longer than the busy timeout. */
ledger_rc ldg_pg_write_alone(struct ldg_pg *pg, const char *doing, const char *template,
                             const struct ldg_pg_args *args, PGresult **ret_result,
                             ledger_error *err);
/* Rows that a statement changed. */
uint64_t ldg_pg_changed(PGresult *result);
/* uuid and epoch, two columns of a row of <table>_origins. Errors: SCHEMA (no uuid). */
ledger_rc ldg_pg_take_identity(const struct ldg_pg *pg, const PGresult *result, int row, int column,
                               struct ldg_identity *identity, ledger_error *err);
/* One row: state, cursor, moved_at. Errors: DATA (longer than any of ours). */
ledger_rc ldg_pg_take_cursor(const struct ldg_pg *pg, const PGresult *result, int row,
                             const char *name, struct ldg_cursor *cursor, ledger_error *err);

/* The unique index on source_id that Go makes; "": there is none. */
ledger_rc ldg_pg_go_index(struct ldg_pg *pg, char name[64], ledger_error *err);

/* --- parked.c; in the caller's transaction --------------------------------------------------- */

/* The op's event; one that is parked already is replaced and counts an attempt more. *ret_new: it
 * was not. */
ledger_rc ldg_pg_park(struct ldg_pg *pg, const struct ldg_op *op, const char *reason, bool *ret_new,
                      ledger_error *err);
/* Deletes what is parked below a trim, but for what the source keeps. */
ledger_rc ldg_pg_parked_trim(struct ldg_pg *pg, const struct ldg_op *op, bool *ret_any,
                             ledger_error *err);
/* parked_near() */
ledger_rc ldg_pg_parked_find(struct ldg_pg *pg, const struct ldg_op *ops, size_t count,
                             struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                             size_t *ret_count, ledger_error *err);
/* The row goes, because its event is tried again. Errors: NOT_FOUND. */
ledger_rc ldg_pg_parked_take(struct ldg_pg *pg, int64_t id, ledger_error *err);

#endif
