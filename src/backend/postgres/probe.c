/* What a second connection is asked about the first: is it at work, and what may its role not do?
 *
 * Invariant: nothing here changes the first connection or its transaction, and a second connection
 * that cannot be had is an answer, too. */
#include "backend/postgres/postgres.h"

#include <string.h>

#include "base/clock.h"

#define PROBE_TIMEOUT_MS 10000
/* A refusal that comes with each batch is not looked into each time. */
#define EXPLAIN_PAUSE_US (10 * INT64_C(1000000))

/* A handle for one question. Without url it asks no third connection when it fails itself. */
static ledger_rc open_probe(struct ldg_pg *pg, struct ldg_pg *probe, ledger_error *err)
{
    *probe = (struct ldg_pg){ .url = pg->url,
                              .label = pg->label,
                              .table = pg->table,
                              .log_table = pg->log_table,
                              .flags = pg->flags,
                              .own_conn = true,
                              .pooled = true, /* nothing is left in the session */
                              .reply_timeout_ms = PROBE_TIMEOUT_MS };
    ledger_rc rc = ldg_pg_dial(probe, &probe->conn, err);
    probe->url = NULL;
    return rc;
}

bool ldg_pg_still_works(struct ldg_pg *pg)
{
    static const char text[] = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 "
                               "AND backend_start = $2 "
                               /* where track_activities is off, nothing more is known */
                               "AND state IN ('active', 'disabled') "
                               /* in the middle of a message it is active, too */
                               "AND coalesce(wait_event, '') NOT IN ('ClientRead', 'ClientWrite')";
    struct ldg_pg probe;
    struct ldg_pg_args args = { 0 };
    ledger_error err;
    PGresult *result = NULL;
    bool works = false;
    if (!pg->own_conn)
        return true; /* its owner's to decide */
    if (!pg->url)
        return false;
    if (open_probe(pg, &probe, &err) != LEDGER_OK)
        return *ldg_pg_sqlstate(&err) != '\0'; /* the server spoke: too many connections */
    ldg_pg_arg_int32(&args, pg->backend_pid);
    ldg_pg_arg_time(&args, pg->backend_start_us);
    if (ldg_pg_run_text(&probe, "asking for a session", text, &args, &result, &err) == LEDGER_OK)
        works = pg->pooled || PQntuples(result) > 0; /* a pooler's sessions are not known */
    PQclear(result);
    ldg_pg_close_conn(&probe);
    return works;
}

void ldg_pg_explain_denied(struct ldg_pg *pg, const char *message, char *out, size_t out_size)
{
    /* The server names the table or sequence at the end of its text, but not what is missing. $1
     * the text, $2 is reading enough? */
    static const char text[] =
        "WITH r AS (SELECT oid, relname, relkind FROM pg_class WHERE pg_table_is_visible(oid) "
        "AND relkind IN ('r', 'p', 'S') AND (starts_with(relname, '{t}') OR relname = '{l}' OR "
        "starts_with(relname, '{l}_')) AND right($1, length(relname) + 1) = ' ' || relname LIMIT "
        "1) "
        "SELECT format('GRANT %s ON %s %I TO %I', string_agg(p, ', '), "
        "CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, relname, current_user) "
        "FROM r, unnest(CASE WHEN relkind = 'S' THEN '{USAGE}' WHEN $2 OR relname = '{t}_meta' "
        "THEN '{SELECT}' WHEN relname = '{l}' THEN '{SELECT,INSERT}' "
        "WHEN relname IN ('{t}_cursors', '{t}_origins') THEN '{SELECT,INSERT,UPDATE}' "
        "ELSE '{SELECT,INSERT,UPDATE,DELETE}' END::text[]) AS p WHERE NOT CASE relkind WHEN 'S' "
        "THEN has_sequence_privilege(oid, p) "
        "ELSE has_table_privilege(oid, p) END GROUP BY relkind, relname UNION ALL "
        /* no privilege is missing, but the session is one of those that refuse to see a part */
        "SELECT format(CASE WHEN pg_has_role(c.relowner, 'USAGE') "
        "THEN 'ALTER TABLE %1$I NO FORCE ROW LEVEL SECURITY' "
        "ELSE 'row-level security hides rows of table %1$I from this role: ALTER ROLE %2$I "
        "BYPASSRLS, or let the owner of the table do this' END, c.relname, current_user) "
        "FROM pg_class AS c WHERE pg_table_is_visible(c.oid) AND c.relkind = 'r' "
        "AND (starts_with(c.relname, '{t}') OR c.relname = '{l}') AND row_security_active(c.oid) "
        "LIMIT 1";
    struct ldg_pg probe;
    struct ldg_pg_args args = { 0 };
    ledger_error err;
    PGresult *result = NULL;
    int64_t now_us = ldg_clock_mono_us();
    out[0] = '\0';
    if (!pg->own_conn || !pg->url ||
        (pg->explained_us && now_us - pg->explained_us < EXPLAIN_PAUSE_US))
        return;
    pg->explained_us = now_us;
    if (open_probe(pg, &probe, &err) != LEDGER_OK)
        return;
    ldg_pg_arg_text(&args, message);
    ldg_pg_arg_bool(&args,
                    pg->role == LDG_ROLE_SOURCE || (pg->flags & LEDGER_STORE_READ_ONLY) != 0);
    if (ldg_pg_run_text(&probe, "asking for privileges", text, &args, &result, &err) == LEDGER_OK &&
        PQntuples(result) > 0) {
        const char *grant = ldg_pg_get_text(result, 0, 0);
        size_t size = strlen(grant) < out_size ? strlen(grant) : out_size - 1;
        memcpy(out, grant, size);
        out[size] = '\0';
    }
    PQclear(result);
    ldg_pg_close_conn(&probe);
}
