/* SQLSTATE -> our codes, with words that say what to change.
 *
 * Invariant: the code of an error follows from its SQLSTATE and from what the connection is, never
 * from the server's words, which come in many languages. */
#include "backend/postgres/postgres.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define SQLSTATE_SIZE 5
/* Servers' texts are cut, so that our hint behind them is not. */
#define SHOWN_MAX 300
#define GRANT_MAX 256

struct state_info {
    const char *prefix; /* of the SQLSTATE; the first that fits counts */
    ledger_rc code;
    const char *hint;
};

static const struct state_info state_infos[] = {
    { "08", LEDGER_ERR_CONNECT, "" },
    { "0A000", LEDGER_ERR_UNSUPPORTED, "" },
    { "22", LEDGER_ERR_DATA, "" },
    { "23", LEDGER_ERR_REJECTED, "" },
    { "25006", LEDGER_ERR_READ_ONLY,
      "; name the primary, or take default_transaction_read_only off this role or database" },
    { "25001", LEDGER_ERR_INTERNAL, "" },
    { "25P01", LEDGER_ERR_INTERNAL, "" },
    { "25P02", LEDGER_ERR_INVALID, "; roll this transaction back and begin again" },
    { "25P03", LEDGER_ERR_CONNECT,
      "; see idle_in_transaction_session_timeout of this role and database" },
    { "25P04", LEDGER_ERR_CONNECT, "; see transaction_timeout of this role and database" },
    /* what later versions add: limits of some kind */
    { "25", LEDGER_ERR_BUSY, "; see the settings of this role and database" },
    { "28", LEDGER_ERR_PERMISSION,
      "; give the user in the URL and its password in PGPASSWORD, ~/.pgpass, a service file or "
      "ledgerctl's --password-file, and see pg_hba.conf" },
    { "3D000", LEDGER_ERR_SCHEMA, "; name a database that exists, or create it" },
    { "3F000", LEDGER_ERR_SCHEMA,
      "; the schema of search_path must exist: CREATE SCHEMA, or set "
      "options=-csearch_path%3D... in the URL" },
    { "40", LEDGER_ERR_BUSY, "" },
    { "42501", LEDGER_ERR_PERMISSION,
      "; GRANT it to this role, or where row-level security is in the way: BYPASSRLS" },
    { "42601", LEDGER_ERR_INTERNAL, "" },
    { "42622", LEDGER_ERR_INVALID, "; use a shorter table name" },
    { "42P01", LEDGER_ERR_SCHEMA,
      "; run `ledgerctl store init` to make what is missing, or set "
      "search_path to the schema it is in" },
    { "42703", LEDGER_ERR_SCHEMA, "; run `ledgerctl store init` to add what is missing" },
    { "42P10", LEDGER_ERR_SCHEMA, "; run `ledgerctl store init` to make the missing index" },
    { "42P07", LEDGER_ERR_SCHEMA, "" },
    { "42701", LEDGER_ERR_SCHEMA, "" },
    { "42710", LEDGER_ERR_SCHEMA, "" },
    { "42804", LEDGER_ERR_SCHEMA, "; a column of this table has another type" },
    { "42809", LEDGER_ERR_SCHEMA, "; it must be a table" },
    { "42883", LEDGER_ERR_SCHEMA, "; a column of this table has another type" },
    { "44", LEDGER_ERR_REJECTED, "" },
    { "53100", LEDGER_ERR_FULL, "; make room on the server's disk" },
    { "53300", LEDGER_ERR_CONNECT,
      "; raise max_connections or the CONNECTION LIMIT of the role or database, or use a pooler" },
    { "53", LEDGER_ERR_IO, "" },
    { "54", LEDGER_ERR_TOO_LARGE, "" },
    { "55P03", LEDGER_ERR_BUSY,
      "; another session holds the lock: try again, or wait longer (busy "
      "timeout)" },
    { "55006", LEDGER_ERR_BUSY, "" },
    { "57014", LEDGER_ERR_BUSY, "; see statement_timeout of this role and database" },
    { "57P04", LEDGER_ERR_SCHEMA, "" },
    { "57P05", LEDGER_ERR_CONNECT, "; see idle_session_timeout of this role and database" },
    { "57P", LEDGER_ERR_CONNECT, "" },
    { "57", LEDGER_ERR_BUSY, "; see the settings of this role and database" },
    { "58", LEDGER_ERR_IO, "; see the server's log" },
    { "P0001", LEDGER_ERR_REJECTED, "; a trigger on the table refused it" },
    { "XX001", LEDGER_ERR_CORRUPT, "; the server's data is damaged: restore it from a backup" },
    { "XX002", LEDGER_ERR_CORRUPT, "; an index is damaged: REINDEX it" },
};

static const struct state_info unknown_state = { "", LEDGER_ERR_INTERNAL, "" };

static const struct state_info *info_of(const char *sqlstate)
{
    for (size_t i = 0; i < sizeof(state_infos) / sizeof(state_infos[0]); i++) {
        if (strncmp(sqlstate, state_infos[i].prefix, strlen(state_infos[i].prefix)) == 0)
            return &state_infos[i];
    }
    return &unknown_state;
}

/* --- SQLSTATE in native_code ----------------------------------------------------------------- */

static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/* Five digits of base 36; 0 for what is none. */
static int pack(const char *sqlstate)
{
    int packed = 0;
    for (int i = 0; i < SQLSTATE_SIZE; i++) {
        const char *digit = sqlstate[i] ? strchr(digits, sqlstate[i]) : NULL;
        if (!digit)
            return 0;
        packed = packed * 36 + (int)(digit - digits);
    }
    return packed;
}

const char *ldg_pg_sqlstate(const ledger_error *err)
{
    static _Thread_local char text[SQLSTATE_SIZE + 1];
    int packed = err->native_code;
    if (strcmp(err->backend, "postgres") != 0 || packed <= 0)
        return "";
    for (int i = SQLSTATE_SIZE - 1; i >= 0; i--) {
        text[i] = digits[packed % 36];
        packed /= 36;
    }
    return text;
}

bool ldg_pg_is_row_fault(const ledger_error *err)
{
    static const char *const classes[] = { "22", "23", "44", "54", "P0001" };
    const char *sqlstate = ldg_pg_sqlstate(err);
    for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
        if (strncmp(sqlstate, classes[i], strlen(classes[i])) == 0)
            return true;
    }
    return false;
}

/* --- texts ----------------------------------------------------------------------------------- */

void ldg_pg_show(const char *text, char *out, size_t out_size)
{
    char line[SHOWN_MAX];
    size_t size = strcspn(text, "\n");
    while (size && isspace((unsigned char)text[size - 1]))
        size--;
    if (size >= sizeof(line))
        size = sizeof(line) - 1;
    memcpy(line, text, size);
    line[size] = '\0';
    ldg_mask_url(line, out, out_size);
}

void ldg_pg_message(const PGconn *conn, char *out, size_t out_size)
{
    const char *text = conn ? PQerrorMessage(conn) : "";
    ldg_pg_show(*text ? text : "no connection to the server", out, out_size);
}

/* --- errors ---------------------------------------------------------------------------------- */

/* A connection that could write and cannot any more: its server was demoted. The next one may lead
 * to the new primary. */
static ledger_rc demoted(struct ldg_pg *pg, const char *sqlstate, const char *doing,
                         const char *text, ledger_error *err)
{
    return ldg_fail_native(err, LEDGER_ERR_CONNECT, "postgres", pack(sqlstate),
                           "%s: while %s: %s; it could be written before: connecting anew",
                           pg->where ? pg->where : "", doing, text);
}

ledger_rc ldg_pg_fail_state(ledger_error *err, const char *sqlstate, const char *text,
                            const char *hint)
{
    const struct state_info *info = info_of(sqlstate);
    return ldg_fail_native(err, *sqlstate ? info->code : LEDGER_ERR_CONNECT, "postgres",
                           pack(sqlstate), "%s%s", text, hint ? hint : info->hint);
}

static ledger_rc fail_conn(struct ldg_pg *pg, const char *doing, ledger_error *err)
{
    char text[SHOWN_MAX + 8];
    ldg_pg_message(pg->conn, text, sizeof(text));
    return ldg_fail_native(err, LEDGER_ERR_CONNECT, "postgres", 0, "%s%swhile %s: %s",
                           pg->where ? pg->where : "", pg->where ? ": " : "", doing, text);
}

/* An error that also ends the session, and says nothing of the statement itself: a limit, an
 * administrator. The next session may do better. */
static ledger_rc code_of(const struct state_info *info, const PGresult *result)
{
    const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
    const bool ends = severity && strcmp(severity, "ERROR") != 0;
    return ends && (info->code == LEDGER_ERR_BUSY || info->code == LEDGER_ERR_INTERNAL)
               ? LEDGER_ERR_CONNECT
               : info->code;
}

/* A lock was not to be had; who has it is known from the waits before. */
static void note_locked(struct ldg_pg *pg, char *out, size_t out_size)
{
    pg->lock_failures++;
    if (*pg->holder)
        (void)snprintf(out, out_size, "%s", pg->holder);
    else if (pg->cancelled)
        (void)snprintf(out, out_size, "enough was waited for a lock");
    pg->cancelled = false;
}

/* A row that is too large for an index: the server names the index, and leaves out the remedy.
 */
static const char *key_hint(const PGresult *result)
{
    const char *index = PQresultErrorField(result, PG_DIAG_CONSTRAINT_NAME);
    return index && *index ? "; stream name and key of an entry may have " LDG_PG_KEYS_MAX_TEXT
                             " bytes together in PostgreSQL, more only where they can be "
                             "compressed: use a shorter key, such as a digest of it"
                           : "";
}

ledger_rc ldg_pg_fail(struct ldg_pg *pg, const PGresult *result, const char *doing,
                      ledger_error *err)
{
    const char *sqlstate = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
    const char *primary = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    char text[SHOWN_MAX + 8];
    ledger_rc rc;

    if (!sqlstate) { /* libpq's own: the connection broke, or memory is short */
        rc = fail_conn(pg, doing, err);
        ldg_pg_drop(pg);
        return rc;
    }
    const struct state_info *info = info_of(sqlstate);
    primary = primary ? primary : "";
    ldg_pg_show(primary, text, sizeof(text));
    if (info->code == LEDGER_ERR_READ_ONLY && pg->opened && pg->own_conn &&
        !(pg->flags & LEDGER_STORE_READ_ONLY)) {
        rc = demoted(pg, sqlstate, doing, text, err);
        ldg_pg_drop(pg);
        return rc;
    }
    char more[GRANT_MAX] = "";
    if (strcmp(sqlstate, "42501") == 0)
        ldg_pg_explain_denied(pg, primary, more, sizeof(more));
    else if (strcmp(sqlstate, "55P03") == 0 || pg->cancelled)
        note_locked(pg, more, sizeof(more));
    rc = ldg_fail_native(err, code_of(info, result), "postgres", pack(sqlstate),
                         "%s%swhile %s: %s (SQLSTATE %s)%s%s", pg->where ? pg->where : "",
                         pg->where ? ": " : "", doing, text, sqlstate,
                         *more                            ? "; "
                         : strcmp(sqlstate, "54000") == 0 ? key_hint(result)
                                                          : info->hint,
                         more);
    if (rc == LEDGER_ERR_CONNECT || PQstatus(pg->conn) == CONNECTION_BAD)
        ldg_pg_drop(pg);
    return rc;
}
