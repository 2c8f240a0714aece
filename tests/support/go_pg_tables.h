/* Tables as the Go module makes them in PostgreSQL, and entries as it writes them: by plain SQL,
 * with nothing of ours. See go_tables.h. All functions fail the running test. */
#ifndef TESTS_SUPPORT_GO_PG_TABLES_H
#define TESTS_SUPPORT_GO_PG_TABLES_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

/* <table> and <table>_cursors with all indexes; with_log: <table>_mutations the same way. May be
 * called again, as the Go module does each time it opens a store. */
void tst_go_pg_create(PGconn *conn, const char *table, bool with_log);
/* As the module was before it had source_id and cursors. */
void tst_go_pg_create_old(PGconn *conn, const char *table);
/* One transaction, with an event when with_log, unless one is open. payload: compact JSON; the rest
 * may be NULL. Returns the id, 0 when it was ignored. */
int64_t tst_go_pg_append(PGconn *conn, const char *table, bool with_log, const char *stream,
                         const char *payload, const char *dedup_key, const char *source_id);
void tst_go_pg_set_cursor(PGconn *conn, const char *table, const char *name, const char *cursor);

#endif
