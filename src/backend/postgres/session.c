/* The session that every call works in: connecting and connecting anew, whether the server and its
 * tables are still what they were, sessions that were left behind.
 *
 * Invariants: a connection is used only after all checks; a new connection never goes on with a
 * transaction of the old one. */
#include "backend/postgres/postgres.h"

#include <string.h>

/* --- the server ------------------------------------------------------------------------------ */

static ledger_rc name_it(struct ldg_pg *pg, ledger_error *err)
{
    struct ldg_buf name;
    const char *host = PQhost(pg->conn);
    ldg_buf_init(&name, LEDGER_ERROR_MESSAGE_MAX);
    ldg_buf_printf(&name, "database \"%.64s\"", PQdb(pg->conn) ? PQdb(pg->conn) : "");
    if (host && *host)
        ldg_buf_printf(&name, " at %.128s:%s", host, PQport(pg->conn) ? PQport(pg->conn) : "");
    ldg_free(pg->where);
    pg->where = ldg_buf_take(&name);
    ldg_buf_fini(&name);
    return pg->where ? LEDGER_OK : ldg_fail_nomem(err);
}

static ledger_rc fail_too_old(const struct ldg_pg *pg, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                    "%s: the server is PostgreSQL %d.%d, too old; it must be %d or later",
                    pg->where, pg->server_version / 10000, pg->server_version % 10000,
                    LDG_PG_VERSION_MIN / 10000);
}

static ledger_rc judge_server(struct ldg_pg *pg, const char *encoding, bool standby,
                              ledger_error *err)
{
    if (pg->server_version < LDG_PG_VERSION_MIN)
        return fail_too_old(pg, err);
    if (strcmp(encoding, "UTF8") != 0)
        return ldg_fail(err, LEDGER_ERR_SCHEMA,
                        "%s: the database's encoding is %s; a ledger needs UTF8: dump it and load "
                        "it into a new one (CREATE DATABASE ... ENCODING 'UTF8')",
                        pg->where, encoding);
    if (strcmp(pg_encoding_to_char(PQclientEncoding(pg->conn)), "UTF8") != 0)
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "%s: the connection's client_encoding is %s; call "
                        "PQsetClientEncoding(conn, \"UTF8\") first",
                        pg->where, pg_encoding_to_char(PQclientEncoding(pg->conn)));
    if (!standby || (pg->role == LDG_ROLE_USER && (pg->flags & LEDGER_STORE_READ_ONLY)))
        return LEDGER_OK;
    /* It may be promoted any moment, or the primary's name may soon lead to another. */
    if (pg->opened)
        return ldg_fail(err, LEDGER_ERR_CONNECT,
                        "%s: the server is a standby now; it may be promoted soon", pg->where);
    return ldg_fail(err, LEDGER_ERR_READ_ONLY,
                    "%s: the server is a standby, which %s; name the primary, or several hosts",
                    pg->where,
                    pg->role == LDG_ROLE_SOURCE ? "does not see running transactions of the primary"
                                                : "cannot be written");
}

static ledger_rc check_server(struct ldg_pg *pg, ledger_error *err)
{
    static const char text[] =
        "SELECT pg_backend_pid(), current_setting('server_version_num')::int4, "
        "current_setting('server_encoding'), pg_is_in_recovery(), "
        "(SELECT backend_start FROM pg_stat_get_activity(pg_backend_pid())), "
        "has_function_privilege('pg_control_system()', 'EXECUTE'), "
        "current_setting('synchronous_standby_names') <> ''";
    PGresult *result = NULL;
    ledger_rc rc;
    pg->pooled = false; /* until it is known: a new session that says nothing is given up */
    pg->backend_pid = 0;
    pg->server_version = PQserverVersion(pg->conn);
    if (pg->server_version && pg->server_version < LDG_PG_VERSION_MIN)
        return fail_too_old(pg, err); /* it may not even know the question */
    /* First, so that a role's limits do not count for what is asked next. */
    rc = pg->own_conn ? ldg_pg_settings_apply(pg, err) : LEDGER_OK;
    if (rc == LEDGER_OK)
        rc = ldg_pg_run_text(pg, "looking at the server", text, NULL, &result, err);
    if (rc != LEDGER_OK)
        goto out;
    const int pid = (int)ldg_pg_get_int64(result, 0, 0);
    const bool knows_system = ldg_pg_get_bool(result, 0, 5);
    pg->pooled = pid != PQbackendPID(pg->conn);
    pg->backend_pid = pg->pooled ? 0 : pid;
    pg->backend_start_us = ldg_pg_get_time(result, 0, 4);
    pg->has_standbys = ldg_pg_get_bool(result, 0, 6);
    pg->server_version = (int)ldg_pg_get_int64(result, 0, 1);
    rc = judge_server(pg, ldg_pg_get_text(result, 0, 2), ldg_pg_get_bool(result, 0, 3), err);
    PQclear(result);
    result = NULL;
    pg->system_id[0] = '\0';
    if (rc == LEDGER_OK && knows_system) {
        rc = ldg_pg_run_text(pg, "looking at the server",
                             "SELECT system_identifier::text FROM pg_control_system()", NULL,
                             &result, err);
        if (rc == LEDGER_OK && strlen(ldg_pg_get_text(result, 0, 0)) < sizeof(pg->system_id))
            memcpy(pg->system_id, ldg_pg_get_text(result, 0, 0),
                   strlen(ldg_pg_get_text(result, 0, 0)) + 1);
    }
out:
    PQclear(result);
    return rc;
}

ledger_rc ldg_pg_connect(struct ldg_pg *pg, ledger_error *err)
{
    PGconn *conn = NULL;
    ledger_rc rc = ldg_pg_dial(pg, pg->wait, &conn, err);
    if (rc != LEDGER_OK)
        return rc;
    ldg_pg_forget(pg);
    pg->conn = conn;
    pg->own_conn = true;
    pg->must_set_up = false;
    pg->taken_count = 0;
    pg->connect_count++;
    rc = name_it(pg, err);
    if (rc == LEDGER_OK)
        rc = check_server(pg, err);
    if (rc != LEDGER_OK)
        ldg_pg_close_conn(pg);
    return rc;
}

/* --- the caller's own ------------------------------------------------------------------------ */

static ledger_rc check_given(struct ldg_pg *pg, ledger_error *err)
{
    if (PQstatus(pg->conn) != CONNECTION_OK) {
        char text[320];
        ldg_pg_message(pg->conn, text, sizeof(text));
        return ldg_fail(err, LEDGER_ERR_CONNECT,
                        "%s: the connection given is broken (%s); reset it, or open the store "
                        "with a new one",
                        pg->where ? pg->where : "", text);
    }
    if (PQpipelineStatus(pg->conn) != PQ_PIPELINE_OFF)
        return ldg_fail(err, LEDGER_ERR_INVALID, "the connection given is in pipeline mode");
    switch (PQtransactionStatus(pg->conn)) {
    case PQTRANS_IDLE:
    case PQTRANS_INTRANS:
        return LEDGER_OK;
    case PQTRANS_INERROR:
        return ldg_pg_fail_in_tx(pg, err);
    default:
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "the connection given has a statement under way; finish it first");
    }
}

ledger_rc ldg_pg_take(struct ldg_pg *pg, PGconn *conn, ledger_error *err)
{
    pg->conn = conn;
    pg->own_conn = false;
    pg->connect_count++;
    ledger_rc rc = check_given(pg, err);
    if (rc == LEDGER_OK)
        rc = name_it(pg, err);
    if (rc == LEDGER_OK)
        rc = check_server(pg, err);
    if (rc != LEDGER_OK)
        pg->conn = NULL;
    return rc;
}

/* --- entering it ----------------------------------------------------------------------------- */

ledger_rc ldg_pg_orphans_end(struct ldg_pg *pg, ledger_error *err)
{
    static const char text[] = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                               "WHERE pid = $1 AND backend_start = $2 AND pid != pg_backend_pid() "
                               /* It has committed, and would be seen before it is safe. */
                               "AND wait_event IS DISTINCT FROM 'SyncRep'";
    struct ldg_pg_orphan orphan;
    ledger_rc rc = LEDGER_OK;
    while (rc == LEDGER_OK && pg->conn && !pg->pooled && ldg_pg_orphan_take(pg, &orphan)) {
        struct ldg_pg_args args = { 0 };
        ledger_error why;
        ldg_pg_arg_int32(&args, orphan.pid);
        ldg_pg_arg_time(&args, orphan.start_us);
        if (ldg_pg_run_text(pg, "ending an old session", text, &args, NULL, &why) == LEDGER_OK)
            continue;
        ldg_pg_orphan_again(orphan);
        if (why.code == LEDGER_ERR_NOMEM)
            rc = ldg_fail_nomem(err);
    }
    return rc;
}

ledger_rc ldg_pg_enter(struct ldg_pg *pg, ledger_error *err)
{
    /* Whoever was told once and goes on in this transaction makes a mistake. */
    const bool told = pg->lost_in_tx && !pg->in_snapshot;
    if (pg->conn && pg->own_conn && !ldg_pg_is_alive(pg))
        ldg_pg_drop(pg);
    if (pg->lost_in_tx)
        return ldg_fail(err, told ? LEDGER_ERR_INVALID : LEDGER_ERR_CONNECT,
                        "%s: the connection was lost in the middle of this transaction, and "
                        "nothing of it was written; roll back and begin again",
                        pg->where ? pg->where : "");
    if (!pg->own_conn)
        return check_given(pg, err);
    /* Whatever left a transaction open, going on inside of it would commit nothing. */
    if (pg->conn && PQtransactionStatus(pg->conn) != PQTRANS_IDLE && !pg->in_user_tx &&
        !pg->in_snapshot)
        ldg_pg_rollback(pg);
    ledger_rc rc = LEDGER_OK;
    if (pg->conn && !pg->in_user_tx && !pg->in_snapshot)
        rc = ldg_pg_settings_renew(pg, err);
    if (pg->conn && rc == LEDGER_OK && !pg->in_user_tx && !pg->in_snapshot)
        rc = ldg_pg_orphans_end(pg, err);
    if (pg->conn || rc != LEDGER_OK)
        return rc;
    rc = ldg_pg_connect(pg, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_schema_recheck(pg, err);
    if (rc != LEDGER_OK)
        ldg_pg_close_conn(pg);
    else
        rc = ldg_pg_orphans_end(pg, err);
    return rc;
}
