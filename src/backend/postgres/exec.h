/* The steps that a statement is made of, for the files that run them: sql.c (its text), exec.c
 * (sent, waited for), prepared.c (prepared once; pipelines), tx.c (transactions). */
#ifndef LDG_BACKEND_POSTGRES_EXEC_H
#define LDG_BACKEND_POSTGRES_EXEC_H

#include "backend/postgres/postgres.h"

#define LDG_PG_SQL_MAX_BYTES ((size_t)1024 * 1024)

struct ldg_pg_sql {
    const char *template;
    char *text;
    char name[32]; /* of the prepared statement */
    enum { LDG_PG_UNPREPARED, LDG_PG_PREPARING, LDG_PG_PREPARED } state;
    bool worked; /* since it was prepared */
};

/* sql.c. Puts the names into a template; out keeps the first failure. */
ledger_rc ldg_pg_expand(const struct ldg_pg *pg, const char *template, struct ldg_buf *out);
/* The kept text of a template; NULL: NOMEM. */
struct ldg_pg_sql *ldg_pg_sql_get(struct ldg_pg *pg, const char *template, ledger_error *err);

/* exec.c. Is there a connection, and do the values (may be NULL) fit into a message? */
ledger_rc ldg_pg_check_ready(struct ldg_pg *pg, const char *doing, const struct ldg_pg_args *args,
                             ledger_error *err);
/* Is the session ours: not a pooler's, not a caller's? */
bool ldg_pg_is_ours(const struct ldg_pg *pg);
bool ldg_pg_send_text(struct ldg_pg *pg, const char *text, const struct ldg_pg_args *args);
/* Until the whole request is sent (`sending`), or until a result can be fetched without waiting. A
 * connection that breaks ends the wait, too: the result will tell. */
ledger_rc ldg_pg_await(struct ldg_pg *pg, bool sending, const char *doing, ledger_error *err);
/* What was sent: with sent false, why it could not be. All results until the server is ready again:
 * the first, or the failure. COPY ends the wait. */
ledger_rc ldg_pg_collect(struct ldg_pg *pg, bool sent, const char *doing, PGresult **ret_result,
                         ledger_error *err);
/* One or more statements as one text, without values. */
ledger_rc ldg_pg_run_simple(struct ldg_pg *pg, const char *doing, const char *text,
                            PGresult **ret_result, ledger_error *err);

#endif
