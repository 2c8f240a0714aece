/* Transactions: beginning one with its settings, committing, rolling back.
 *
 * Invariant: a commit without an answer is UNKNOWN_OUTCOME, and one that was known to be lost
 * before it was sent is not. */
#include "backend/postgres/exec.h"

#include <string.h>

/* Of a role behind a pooler. A caller's own connection keeps what its owner wants. */
#define NO_LIMITS LDG_PG_NO_LIMITS("statement_timeout,transaction_timeout")

ledger_rc ldg_pg_begin(struct ldg_pg *pg, const char *begin, const char *settings,
                       ledger_error *err)
{
    struct ldg_buf text;
    ldg_buf_init(&text, LDG_PG_SQL_MAX_BYTES);
    ldg_buf_puts(&text, begin);
    /* Where the session is not ours to set. */
    if (!ldg_pg_is_ours(pg))
        ldg_buf_printf(&text, "; SELECT set_config('lock_timeout', '%d', true)%s; %s",
                       pg->busy_timeout_ms, pg->own_conn ? ", " NO_LIMITS : "",
                       ldg_pg_transaction_settings);
    if (settings) {
        ldg_buf_puts(&text, "; ");
        ldg_pg_expand(pg, settings, &text);
    }
    ledger_rc rc = text.rc == LEDGER_OK
                       ? ldg_pg_run_simple(pg, "beginning a transaction", text.data, NULL, err)
                       : ldg_fail_nomem(err);
    if (rc != LEDGER_OK)
        ldg_pg_rollback(pg);
    ldg_buf_fini(&text);
    return rc;
}

ledger_rc ldg_pg_begin_write(struct ldg_pg *pg, const char *settings, bool *ret_own,
                             ledger_error *err)
{
    ledger_rc rc = ldg_pg_check_ready(pg, "beginning a transaction", NULL, err);
    if (rc != LEDGER_OK)
        return rc;
    if (pg->in_snapshot)
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "a write inside a snapshot; end the snapshot first");
    switch (PQtransactionStatus(pg->conn)) {
    case PQTRANS_IDLE:
        rc = ldg_pg_begin(pg, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", settings, err);
        if (rc == LEDGER_OK)
            *ret_own = true;
        return rc;
    case PQTRANS_INTRANS:
        *ret_own = false;
        return LEDGER_OK;
    default:
        return ldg_pg_fail_in_tx(pg, err);
    }
}

ledger_rc ldg_pg_fail_in_tx(struct ldg_pg *pg, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_INVALID,
                    "a statement of this transaction failed, and the database takes no other until "
                    "it is rolled back; nothing of it was written");
}

void ldg_pg_commit_begin(struct ldg_pg *pg)
{
    pg->commits = true;
}

void ldg_pg_commit_end(struct ldg_pg *pg, ledger_rc rc)
{
    pg->commits = false;
    if (rc != LEDGER_OK)
        return;
    pg->lock_failures = 0;
    pg->holder[0] = '\0';
}

ledger_rc ldg_pg_commit(struct ldg_pg *pg, ledger_error *err)
{
    static const char doing[] = "committing";
    PGresult *result = NULL;
    /* What is known to be lost before the commit is sent has an outcome. */
    if (pg->conn && pg->own_conn && !ldg_pg_is_alive(pg))
        ldg_pg_drop(pg);
    ldg_pg_commit_begin(pg);
    ledger_rc rc = ldg_pg_run_simple(pg, doing, "COMMIT", &result, err);
    ldg_pg_commit_end(pg, rc);
    if (rc == LEDGER_OK && strcmp(PQcmdStatus(result), "COMMIT") != 0)
        rc = ldg_pg_fail_in_tx(pg, err);
    else if (rc == LEDGER_ERR_CONNECT && pg->reply_lost) {
        ledger_error why = *err;
        rc = ldg_fail_native(err, LEDGER_ERR_UNKNOWN_OUTCOME, why.backend, why.native_code,
                             "%s; whether it was committed is not known", why.message);
    }
    PQclear(result);
    return rc;
}

void ldg_pg_rollback(struct ldg_pg *pg)
{
    ledger_error err;
    if (!pg->conn)
        return;
    pg->commits = true;
    if (PQpipelineStatus(pg->conn) != PQ_PIPELINE_OFF)
        (void)!ldg_pg_pipe_end(pg, &err);
    ldg_pg_copy_cancel(pg);
    if (pg->conn && PQtransactionStatus(pg->conn) != PQTRANS_IDLE &&
        ldg_pg_run_simple(pg, "rolling back", "ROLLBACK", NULL, &err) != LEDGER_OK)
        ldg_pg_drop(pg);
    pg->commits = false;
}

ledger_rc ldg_pg_end(struct ldg_pg *pg, bool own, ledger_rc rc, ledger_error *err)
{
    if (!own)
        return rc;
    if (rc != LEDGER_OK)
        ldg_pg_rollback(pg);
    else
        rc = ldg_pg_commit(pg, err);
    return rc;
}
