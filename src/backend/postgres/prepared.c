/* Statements that are prepared once and run often, and several of them in one round trip.
 *
 * Hides which are prepared. Invariant: a statement that somebody has thrown away, or whose tables
 * were altered, is prepared again; alone it is run again, too. */
#include "backend/postgres/exec.h"

#include <string.h>

#define TAKEN_MAX 2

/* In a snapshot what was prepared before it may be of another moment; and where statements are
 * thrown away time and again it makes no sense. */
static bool may_name(const struct ldg_pg *pg)
{
    return ldg_pg_is_ours(pg) && !pg->in_snapshot && pg->taken_count < TAKEN_MAX;
}

static bool send_prepare(struct ldg_pg *pg, struct ldg_pg_sql *sql, const struct ldg_pg_args *args)
{
    struct ldg_buf name;
    ldg_buf_init(&name, sizeof(sql->name) - 1);
    ldg_buf_printf(&name, "ledger_%llu", (unsigned long long)++pg->name_count);
    bool sent = name.rc == LEDGER_OK;
    if (sent) {
        memcpy(sql->name, name.data, name.size + 1);
        sent = PQsendPrepare(pg->conn, sql->name, sql->text, args ? args->count : 0,
                             args ? args->types : NULL);
    }
    ldg_buf_fini(&name);
    return sent;
}

static bool send_prepared(struct ldg_pg *pg, const struct ldg_pg_sql *sql,
                          const struct ldg_pg_args *args)
{
    static const struct ldg_pg_args none;
    if (!args)
        args = &none;
    return PQsendQueryPrepared(pg->conn, sql->name, args->count, args->values, args->lengths,
                               args->formats, 1);
}

/* A prepared statement failed. Did somebody throw it away (DEALLOCATE, DISCARD: of others and of
 * settings no more is known then), or were its tables altered since? All are prepared again then,
 * and *err becomes one that ldg_pg_is_outdated(). */
static ledger_rc note_failure(struct ldg_pg *pg, const struct ldg_pg_sql *sql, ledger_error *err)
{
    const char *sqlstate = ldg_pg_sqlstate(err);
    const bool gone = strcmp(sqlstate, "26000") == 0 || strcmp(sqlstate, "42P05") == 0;
    const bool altered = strcmp(sqlstate, "0A000") == 0 && sql->worked;
    ledger_error why = *err;
    if (!gone && !altered)
        return err->code;
    for (size_t i = 0; i < pg->sql_count; i++) {
        pg->sqls[i]->state = LDG_PG_UNPREPARED;
        pg->sqls[i]->worked = false;
    }
    pg->checked_us = 0; /* altered into what? */
    if (gone) {
        pg->must_set_up = true;
        pg->taken_count++;
    }
    return ldg_fail_native(err, LEDGER_ERR_BUSY, why.backend, why.native_code,
                           "%s; the tables were altered, or prepared statements thrown away: begin "
                           "again from the start of the transaction",
                           why.message);
}

bool ldg_pg_is_outdated(ledger_rc rc, const ledger_error *err)
{
    static const char *const states[] = { "26000", "42P05", "0A000" };
    for (size_t i = 0; rc == LEDGER_ERR_BUSY && i < sizeof(states) / sizeof(states[0]); i++) {
        if (strcmp(ldg_pg_sqlstate(err), states[i]) == 0)
            return true;
    }
    return false;
}

static ledger_rc run_text(struct ldg_pg *pg, const char *doing, const struct ldg_pg_sql *sql,
                          const struct ldg_pg_args *args, PGresult **ret_result, ledger_error *err)
{
    return ldg_pg_collect(pg, ldg_pg_send_text(pg, sql->text, args), doing, ret_result, err);
}

static ledger_rc run_prepared(struct ldg_pg *pg, const char *doing, struct ldg_pg_sql *sql,
                              const struct ldg_pg_args *args, PGresult **ret_result,
                              ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    if (sql->state != LDG_PG_PREPARED) {
        rc = ldg_pg_collect(pg, send_prepare(pg, sql, args), doing, NULL, err);
        pg->reply_lost = false; /* nothing was run */
        if (rc != LEDGER_OK)
            return pg->conn ? note_failure(pg, sql, err) : rc;
        sql->state = LDG_PG_PREPARED;
    }
    rc = ldg_pg_collect(pg, send_prepared(pg, sql, args), doing, ret_result, err);
    /* A connection that was lost has taken its statements along, and sql with them. */
    if (rc == LEDGER_OK)
        sql->worked = true;
    else if (pg->conn)
        rc = note_failure(pg, sql, err);
    return rc;
}

ledger_rc ldg_pg_run(struct ldg_pg *pg, enum ldg_pg_plan plan, const char *doing,
                     const char *template, const struct ldg_pg_args *args, PGresult **ret_result,
                     ledger_error *err)
{
    ledger_rc rc = ldg_pg_check_ready(pg, doing, args, err);
    if (rc != LEDGER_OK)
        return rc;
    struct ldg_pg_sql *sql = ldg_pg_sql_get(pg, template, err);
    if (!sql)
        return err->code;
    if (plan != LDG_PG_KEEP || !may_name(pg))
        return run_text(pg, doing, sql, args, ret_result, err);
    const bool alone = PQtransactionStatus(pg->conn) == PQTRANS_IDLE;
    rc = run_prepared(pg, doing, sql, args, ret_result, err);
    if (alone && ldg_pg_is_outdated(rc, err)) {
        rc = ldg_pg_settings_renew(pg, err);
        if (rc == LEDGER_OK)
            rc = may_name(pg) ? run_prepared(pg, doing, sql, args, ret_result, err)
                              : run_text(pg, doing, sql, args, ret_result, err);
    }
    return rc;
}

ledger_rc ldg_pg_run_write(struct ldg_pg *pg, const char *doing, const char *template,
                           const struct ldg_pg_args *args, PGresult **ret_result, ledger_error *err)
{
    bool alone = pg->conn && PQtransactionStatus(pg->conn) == PQTRANS_IDLE;
    pg->writes_alone = alone;
    ledger_rc rc = ldg_pg_run(pg, LDG_PG_KEEP, doing, template, args, ret_result, err);
    pg->writes_alone = false;
    if ((rc == LEDGER_ERR_CONNECT || rc == LEDGER_ERR_CANCELLED) && alone && pg->reply_lost) {
        ledger_error why = *err;
        rc = ldg_fail_native(err, LEDGER_ERR_UNKNOWN_OUTCOME, why.backend, why.native_code,
                             "%s; whether it was written is not known", why.message);
    }
    return rc;
}

ledger_rc ldg_pg_run_int64(struct ldg_pg *pg, const char *doing, const char *template,
                           const struct ldg_pg_args *args, bool *ret_found, int64_t *ret_value,
                           ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_run(pg, LDG_PG_KEEP, doing, template, args, &result, err);
    if (rc != LEDGER_OK)
        return rc;
    const bool found = PQntuples(result) > 0;
    if (found)
        *ret_value = ldg_pg_get_int64(result, 0, 0);
    else if (!ret_found)
        rc = ldg_fail(err, LEDGER_ERR_INTERNAL, "while %s: no row", doing);
    if (ret_found)
        *ret_found = found;
    PQclear(result);
    return rc;
}

/* --- pipelines ------------------------------------------------------------------------------- */

static ledger_rc fail_pipe(struct ldg_pg *pg, const ledger_error *why)
{
    if (!pg->pipe_failed)
        pg->pipe_error = *why;
    pg->pipe_failed = true;
    return why->code;
}

ledger_rc ldg_pg_pipe_begin(struct ldg_pg *pg, ledger_error *err)
{
    ledger_rc rc = ldg_pg_check_ready(pg, "beginning a pipeline", NULL, err);
    if (rc != LEDGER_OK)
        return rc;
    pg->sent_first = pg->sent_count = 0;
    pg->sync_sent = false;
    pg->pipe_failed = false;
    pg->was_nonblocking = PQisnonblocking(pg->conn);
    /* Else both sides could wait for each other, with full buffers. */
    if (PQsetnonblocking(pg->conn, 1) != 0 || !PQenterPipelineMode(pg->conn))
        rc = ldg_pg_failed(pg, NULL, "beginning a pipeline", err);
    return rc;
}

/* Room for a statement and its preparation. */
static bool reserve_sent(struct ldg_pg *pg)
{
    if (pg->sent_count + 2 <= pg->sent_cap)
        return true;
    size_t cap = pg->sent_cap ? pg->sent_cap * 2 : 64;
    struct ldg_pg_sent *sent = ldg_realloc(pg->sent, cap * sizeof(*sent));
    if (!sent)
        return false;
    pg->sent = sent;
    pg->sent_cap = cap;
    return true;
}

static bool pipe_send(struct ldg_pg *pg, struct ldg_pg_sql *sql, const struct ldg_pg_args *args)
{
    const bool named = may_name(pg);
    bool sent = true;
    if (!named) {
        sent = ldg_pg_send_text(pg, sql->text, args);
    } else {
        if (sql->state == LDG_PG_UNPREPARED) {
            sent = send_prepare(pg, sql, args);
            if (sent) {
                sql->state = LDG_PG_PREPARING;
                pg->sent[pg->sent_count++] = (struct ldg_pg_sent){ .prepares = sql };
            }
        }
        sent = sent && send_prepared(pg, sql, args);
    }
    if (sent)
        pg->sent[pg->sent_count++] = (struct ldg_pg_sent){ .runs = named ? sql : NULL };
    return sent;
}

ledger_rc ldg_pg_pipe_send(struct ldg_pg *pg, const char *doing, const char *template,
                           const struct ldg_pg_args *args, ledger_error *err)
{
    if (pg->pipe_failed) {
        *err = pg->pipe_error;
        return err->code;
    }
    ledger_rc rc = ldg_pg_check_ready(pg, doing, args, err);
    if (rc == LEDGER_OK) {
        struct ldg_pg_sql *sql = ldg_pg_sql_get(pg, template, err);
        if (!sql)
            rc = err->code;
        else if (!reserve_sent(pg))
            rc = ldg_fail_nomem(err);
        else if (!pipe_send(pg, sql, args))
            rc = ldg_pg_collect(pg, false, doing, NULL, err);
    }
    return rc == LEDGER_OK ? LEDGER_OK : fail_pipe(pg, err);
}

ledger_rc ldg_pg_pipe_flush(struct ldg_pg *pg, ledger_error *err)
{
    ledger_rc rc = ldg_pg_check_ready(pg, "sending a pipeline", NULL, err);
    if (rc == LEDGER_OK && !pg->sync_sent) {
        if (!PQpipelineSync(pg->conn))
            rc = ldg_pg_collect(pg, false, "sending a pipeline", NULL, err);
        pg->sync_sent = rc == LEDGER_OK;
    }
    if (rc == LEDGER_OK)
        rc = ldg_pg_await(pg, true, "sending a pipeline", err);
    return rc == LEDGER_OK ? LEDGER_OK : fail_pipe(pg, err);
}

/* The result of the next thing sent. */
static ledger_rc receive_one(struct ldg_pg *pg, const char *doing, PGresult **ret_result,
                             ledger_error *err)
{
    const struct ldg_pg_sent sent = pg->sent[pg->sent_first++];
    struct ldg_pg_sql *sql = sent.prepares ? sent.prepares : sent.runs;
    const bool first = !pg->pipe_failed; /* else the failure is another statement's */
    ledger_rc rc = ldg_pg_collect(pg, true, doing, ret_result, err);
    /* A lost connection has taken its texts along. */
    if (sql && pg->conn) {
        if (sent.prepares)
            sql->state = rc == LEDGER_OK ? LDG_PG_PREPARED : LDG_PG_UNPREPARED;
        else
            sql->worked = sql->worked || rc == LEDGER_OK;
        if (rc != LEDGER_OK && first)
            rc = note_failure(pg, sql, err);
    }
    return rc == LEDGER_OK ? LEDGER_OK : fail_pipe(pg, err);
}

ledger_rc ldg_pg_pipe_receive(struct ldg_pg *pg, const char *doing, PGresult **ret_result,
                              ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    if (!pg->pipe_failed && !pg->sync_sent)
        rc = ldg_pg_pipe_flush(pg, err);
    if (rc == LEDGER_OK && !pg->pipe_failed && pg->sent_first == pg->sent_count) {
        ldg_fail(err, LEDGER_ERR_INTERNAL, "while %s: nothing was sent", doing);
        rc = fail_pipe(pg, err);
    }
    while (rc == LEDGER_OK && !pg->pipe_failed && pg->sent[pg->sent_first].prepares)
        rc = receive_one(pg, doing, NULL, err);
    if (pg->pipe_failed) {
        *err = pg->pipe_error;
        return err->code;
    }
    return receive_one(pg, doing, ret_result, err);
}

ledger_rc ldg_pg_pipe_end(struct ldg_pg *pg, ledger_error *err)
{
    ledger_error why;
    if (pg->conn && !pg->sync_sent)
        (void)!ldg_pg_pipe_flush(pg, &why);
    while (pg->conn && pg->sent_first < pg->sent_count)
        (void)!receive_one(pg, "reading the rest of a pipeline", NULL, &why);
    /* The end of the pipeline, or why its transaction could not be committed. */
    while (pg->conn && ldg_pg_await(pg, false, "ending a pipeline", &why) == LEDGER_OK) {
        PGresult *result = PQgetResult(pg->conn);
        ExecStatusType status = result ? PQresultStatus(result) : PGRES_FATAL_ERROR;
        if (status == PGRES_FATAL_ERROR) {
            ldg_pg_failed(pg, result, "ending a pipeline", &why);
            fail_pipe(pg, &why);
            if (!result) /* out of step: not to be used again */
                ldg_pg_drop(pg);
        }
        PQclear(result);
        if (!result || status == PGRES_PIPELINE_SYNC)
            break;
    }
    if (!pg->conn && !pg->pipe_failed) {
        ldg_fail(&why, LEDGER_ERR_CONNECT, "the connection was lost in the middle of a pipeline");
        fail_pipe(pg, &why);
    }
    if (pg->conn) {
        if (!PQexitPipelineMode(pg->conn))
            fail_pipe(pg, (ldg_pg_failed(pg, NULL, "ending a pipeline", &why), &why));
        else if (!pg->was_nonblocking)
            PQsetnonblocking(pg->conn, 0);
    }
    pg->sent_first = pg->sent_count = 0;
    if (pg->pipe_failed) {
        *err = pg->pipe_error;
        pg->reply_lost = err->code == LEDGER_ERR_CONNECT;
        return err->code;
    }
    return LEDGER_OK;
}
