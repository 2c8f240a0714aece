/* What a second connection is asked about the first: what does it wait for, who is in its way, what
 * may its role not do?
 *
 * Invariants: asking changes nothing about the first connection or its transaction; a second
 * connection that cannot be had is an answer, too; all of it is over in a few seconds. A session is
 * ended only if it is one of ours, and never while it waits for a standby: its transaction has
 * committed, and would be seen before it is safe. */
#include "backend/postgres/exec.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"

#define PROBE_TIMEOUT_MS 10000
#define HURRY_TIMEOUT_MS 3000
/* Of the way out. */
#define END_TIMEOUT_MS 1500
/* A refusal that comes with each batch is not looked into each time. */
#define EXPLAIN_PAUSE_US (10 * INT64_C(1000000))

/* --- the second connection ------------------------------------------------------------------- */

/* All that it does has to be done by then; and it hears of a stop, and of an interrupt, as its
 * first connection does. */
struct deadline {
    const ledger_wait *wait; /* NULL: nobody else is asked */
    bool commits;            /* the first connection: then an interrupt is nothing to it */
    int64_t until_us;
    ledger_wait as_wait;
};

static ledger_wait_answer ask_deadline(void *ctx, int64_t waited_ms)
{
    const struct deadline *d = ctx;
    unsigned answer = LEDGER_WAIT_ON;
    if (ldg_clock_mono_us() >= d->until_us)
        return LEDGER_WAIT_STOP;
    if (d->wait && d->wait->ask)
        answer = d->wait->ask(d->wait->ctx, waited_ms);
    if (d->commits)
        answer &= ~(unsigned)LDG_WAIT_INTERRUPTED;
    return answer > LEDGER_WAIT_ENOUGH ? LEDGER_WAIT_STOP : LEDGER_WAIT_ON;
}

static void set_deadline(struct deadline *d, const ledger_wait *wait, int64_t ms)
{
    *d = (struct deadline){ .wait = wait, .until_us = ldg_clock_mono_us() + ms * 1000 };
    d->as_wait = (ledger_wait){ .ask = ask_deadline, .ctx = d };
}

/* Its answer to one question; NULL: none in time, or it does not know. */
static PGresult *ask(PGconn *conn, const struct deadline *d, const char *text,
                     const struct ldg_pg_args *args)
{
    struct ldg_waiting waiting = { .wait = &d->as_wait };
    PGresult *result = NULL;
    bool goes_on = PQsendQueryParams(conn, text, args->count, args->types, args->values,
                                     args->lengths, args->formats, 1);
    while (goes_on && ldg_waiting_ask(&waiting) == LEDGER_WAIT_ON) {
        const int unsent = PQflush(conn);
        struct pollfd fd = { .fd = PQsocket(conn),
                             .events = (short)(POLLIN | (unsent ? POLLOUT : 0)) };
        if (unsent == 0 && !PQisBusy(conn)) {
            PGresult *next = PQgetResult(conn);
            if (!next) /* ready for the next question */
                break;
            PQclear(result);
            result = next;
        } else if (unsent < 0 || fd.fd < 0 ||
                   (poll(&fd, 1, LDG_WAIT_LOOK_MS) > 0 && !PQconsumeInput(conn))) {
            goes_on = false;
        }
    }
    if (PQresultStatus(result) == PGRES_TUPLES_OK)
        return result;
    PQclear(result);
    return NULL;
}

/* --- what the first one waits for ------------------------------------------------------------ */

/* $1 and $2 name the session. One row, or one for each session that has the lock; of that: number,
 * start, program, role, what it does, and whether it is a bridge that may be ended: of the same
 * role, its client silent for $4 ms in the middle of a transaction. $3: our own label. */
static const char session_sql[] =
    /* Where track_activities is off, it is 'disabled', and nothing more is known. */
    "SELECT a.state IN ('active', 'disabled') AND coalesce(a.wait_event, '') NOT IN ('ClientRead', "
    "'ClientWrite'),"
    " coalesce(a.wait_event_type, ''), coalesce(a.wait_event, ''), coalesce(blocker.pid, -1), "
    "b.backend_start, coalesce(b.application_name, ''), coalesce(b.usename, ''), "
    "CASE WHEN b.wait_event IN ('ClientRead', 'ClientWrite') AND b.state = 'active' "
    "THEN 'silent in its statement' ELSE coalesce(b.state, '') END, "
    "coalesce(b.usesysid = a.usesysid AND b.state_change < clock_timestamp() - $4 * interval '1 "
    "ms' AND "
    "b.wait_event IN ('ClientRead', 'ClientWrite') AND "
    "(b.state = 'active' OR starts_with(b.state, 'idle in transaction')) AND "
    "(b.application_name ~ '^(ledger|ledgerctl)/' OR "
    "b.application_name = $3 AND strpos($3, '/') > 0), false) "
    "FROM pg_stat_activity AS a LEFT JOIN LATERAL unnest(CASE a.wait_event_type WHEN 'Lock' THEN "
    "pg_blocking_pids(a.pid) END) AS blocker(pid) ON true "
    "LEFT JOIN pg_stat_activity AS b ON b.pid = blocker.pid "
    "WHERE a.pid = $1 AND a.backend_start = $2";
enum { ALIVE, EVENT_TYPE, EVENT, PID, START, PROGRAM, ROLE, STATE, MAY_END };

static const char end_sql[] = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                              "WHERE pid = $1 AND backend_start = $2 "
                              "AND wait_event IS DISTINCT FROM 'SyncRep'";
static const char cancel_sql[] = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
                                 "WHERE pid = $1 AND backend_start = $2 "
                                 "AND wait_event_type = 'Lock'";
#define INTERRUPT                                                                                  \
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2 "   \
    "AND wait_event IS DISTINCT FROM 'SyncRep'"
static const char interrupt_sql[] = INTERRUPT;
/* Of one that commits by itself, in a cluster where a commit waits for a standby: only while that
 * is far. A signal that comes in that wait ends it as if the standby had answered. */
static const char interrupt_write_sql[] =
    INTERRUPT " AND (wait_event_type = 'Lock' OR backend_xid IS NULL "
              "OR current_setting('synchronous_standby_names') = '')";

static enum ldg_pg_signal signal_session(PGconn *conn, const struct deadline *d, const char *sql,
                                         int pid, int64_t start_us)
{
    struct ldg_pg_args args = { 0 };
    ldg_pg_arg_int32(&args, pid);
    ldg_pg_arg_time(&args, start_us);
    PGresult *result = ask(conn, d, sql, &args);
    const bool done = PQntuples(result) > 0 && ldg_pg_get_bool(result, 0, 0);
    const enum ldg_pg_signal signal = done     ? LDG_PG_SIGNALLED
                                      : result ? LDG_PG_NOT_NOW
                                               : LDG_PG_NO_ANSWER;
    PQclear(result);
    return signal;
}

static void name_holder(struct ldg_pg *pg, const PGresult *result, int row)
{
    const int pid = (int)ldg_pg_get_int64(result, row, PID);
    if (pid == 0)
        (void)snprintf(pg->holder, sizeof(pg->holder),
                       "a prepared transaction holds the lock: see pg_prepared_xacts");
    else
        (void)snprintf(pg->holder, sizeof(pg->holder),
                       "process %d (%.40s, role %.40s, %.30s) holds the lock; SELECT "
                       "pg_terminate_backend(%d) ends it",
                       pid, ldg_pg_get_text(result, row, PROGRAM),
                       ldg_pg_get_text(result, row, ROLE), ldg_pg_get_text(result, row, STATE),
                       pid);
}

/* Whoever has the lock: named, and ended where it is a bridge that does not move. */
static void see_holders(struct ldg_pg *pg, PGconn *conn, const struct deadline *d,
                        const PGresult *result)
{
    for (int i = 0; i < PQntuples(result); i++) {
        const int pid = (int)ldg_pg_get_int64(result, i, PID);
        if (pid < 0)
            continue;
        name_holder(pg, result, i);
        if (!ldg_pg_get_bool(result, i, MAY_END) ||
            signal_session(conn, d, end_sql, pid, ldg_pg_get_time(result, i, START)) !=
                LDG_PG_SIGNALLED)
            continue;
        ldg_wait_tell(pg->wait,
                      "%s: ended the session of process %d (%.60s): it held a lock that was waited "
                      "for, and its program has not moved for %d s",
                      pg->where, pid, ldg_pg_get_text(result, i, PROGRAM), pg->silent_ms / 1000);
    }
}

static enum ldg_pg_sight describe(struct ldg_pg *pg, PGconn *conn, const struct deadline *d,
                                  const PGresult *result, char words[LDG_PG_SIGHT_MAX])
{
    if (PQntuples(result) == 0 || !ldg_pg_get_bool(result, 0, ALIVE)) {
        (void)snprintf(words, LDG_PG_SIGHT_MAX,
                       "waits for an answer, but its session at the server is not at it");
        return LDG_PG_LOST;
    }
    const char *type = ldg_pg_get_text(result, 0, EVENT_TYPE);
    const char *event = ldg_pg_get_text(result, 0, EVENT);
    if (strcmp(event, "SyncRep") == 0) {
        (void)snprintf(words, LDG_PG_SIGHT_MAX,
                       "waits for a synchronous standby (SyncRep); start the standby, or take it "
                       "out of synchronous_standby_names");
        return LDG_PG_WAITS;
    }
    if (strcmp(type, "Lock") == 0) {
        pg->holder[0] = '\0';
        see_holders(pg, conn, d, result);
        (void)snprintf(words, LDG_PG_SIGHT_MAX, "waits for a lock (%s)%s%s", event,
                       *pg->holder ? "; " : "", pg->holder);
        return LDG_PG_WAITS_FOR_LOCK;
    }
    (void)snprintf(words, LDG_PG_SIGHT_MAX,
                   "waits for an answer; the server is at work on it%s%s%s", *event ? " (" : "",
                   event, *event ? ")" : "");
    return LDG_PG_AT_WORK;
}

enum ldg_pg_sight ldg_pg_server_probe(struct ldg_pg *pg, bool hurry, char words[LDG_PG_SIGHT_MAX])
{
    PGconn *conn = NULL;
    struct deadline d;
    struct ldg_pg_args args = { 0 };
    ledger_error err;
    enum ldg_pg_sight sight = LDG_PG_LOST;
    (void)snprintf(words, LDG_PG_SIGHT_MAX, "waits for an answer of the server");
    if (!pg->own_conn)
        return LDG_PG_AT_WORK; /* its owner's to decide */
    if (!pg->url)
        return LDG_PG_LOST;
    set_deadline(&d, pg->wait, hurry ? HURRY_TIMEOUT_MS : PROBE_TIMEOUT_MS);
    d.commits = pg->commits;
    if (ldg_pg_dial(pg, &d.as_wait, &conn, &err) != LEDGER_OK) {
        /* With a SQLSTATE the server spoke: too many connections. */
        const bool spoke = *ldg_pg_sqlstate(&err) != '\0';
        (void)snprintf(words, LDG_PG_SIGHT_MAX,
                       spoke ? "waits for an answer of the server; a second connection is refused: "
                               "%.200s"
                             : "waits for an answer of the server, and so does a second connection",
                       err.message);
        return spoke ? LDG_PG_AT_WORK : LDG_PG_LOST;
    }
    ldg_pg_arg_int32(&args, pg->backend_pid);
    ldg_pg_arg_time(&args, pg->backend_start_us);
    ldg_pg_arg_text(&args, pg->label);
    ldg_pg_arg_int32(&args, pg->silent_ms);
    PGresult *result = ask(conn, &d, session_sql, &args);
    if (result)
        sight = pg->pooled ? LDG_PG_AT_WORK /* a pooler's sessions are not known */
                           : describe(pg, conn, &d, result, words);
    PQclear(result);
    PQfinish(conn);
    return sight;
}

/* One signal to our own session. */
static enum ldg_pg_signal signal_own(struct ldg_pg *pg, const char *sql, const ledger_wait *wait,
                                     int64_t ms)
{
    PGconn *conn = NULL;
    struct deadline d;
    ledger_error err;
    if (!pg->own_conn || !pg->url || !pg->backend_pid)
        return LDG_PG_NO_ANSWER;
    set_deadline(&d, wait, ms);
    if (ldg_pg_dial(pg, &d.as_wait, &conn, &err) != LEDGER_OK)
        return LDG_PG_NO_ANSWER;
    const enum ldg_pg_signal signal =
        signal_session(conn, &d, sql, pg->backend_pid, pg->backend_start_us);
    PQfinish(conn);
    return signal;
}

bool ldg_pg_cancel(struct ldg_pg *pg)
{
    return signal_own(pg, cancel_sql, pg->wait, HURRY_TIMEOUT_MS) == LDG_PG_SIGNALLED;
}

/* Where the connection is the caller's there is no second one to ask first: libpq's own way. It
 * waits until the server has heard of it, so it hits no later statement. */
static enum ldg_pg_signal interrupt_given(struct ldg_pg *pg)
{
    char text[256];
    if (pg->writes_alone && pg->has_standbys)
        return LDG_PG_NOT_NOW;
    PGcancel *cancel = PQgetCancel(pg->conn);
    const bool done = cancel != NULL && PQcancel(cancel, text, sizeof(text)) != 0;
    PQfreeCancel(cancel);
    return done ? LDG_PG_SIGNALLED : LDG_PG_NOT_NOW;
}

enum ldg_pg_signal ldg_pg_interrupt(struct ldg_pg *pg)
{
    if (!pg->own_conn)
        return interrupt_given(pg);
    /* Who has interrupted the call is not asked about it again. */
    return signal_own(pg, pg->writes_alone ? interrupt_write_sql : interrupt_sql, NULL,
                      HURRY_TIMEOUT_MS);
}

void ldg_pg_end_session(struct ldg_pg *pg)
{
    (void)signal_own(pg, end_sql, NULL, END_TIMEOUT_MS); /* who stops is not asked again */
}

/* --- what its role may not do ---------------------------------------------------------------- */

void ldg_pg_explain_denied(struct ldg_pg *pg, const char *message, char *out, size_t out_size)
{
    /* The server names the table or sequence at the end of its text, but not what is missing. $1
     * the text, $2 is reading enough? */
    static const char template[] =
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
    PGconn *conn = NULL;
    PGresult *result = NULL;
    struct ldg_pg_args args = { 0 };
    struct ldg_buf text;
    ledger_error err;
    struct deadline d;
    int64_t now_us = ldg_clock_mono_us();
    const uint64_t of = ldg_hash64(message, strlen(message), 0);
    const bool again = pg->explained_us && now_us - pg->explained_us < EXPLAIN_PAUSE_US;
    snprintf(out, out_size, "%s", again && of == pg->explained_of ? pg->explained : "");
    if (!pg->own_conn || !pg->url || again)
        return;
    pg->explained_us = now_us;
    pg->explained_of = of;
    pg->explained[0] = '\0';
    set_deadline(&d, pg->wait, PROBE_TIMEOUT_MS);
    if (ldg_pg_dial(pg, &d.as_wait, &conn, &err) != LEDGER_OK)
        return;
    ldg_pg_arg_text(&args, message);
    ldg_pg_arg_bool(&args,
                    pg->role == LDG_ROLE_SOURCE || (pg->flags & LEDGER_STORE_READ_ONLY) != 0);
    ldg_buf_init(&text, LDG_PG_SQL_MAX_BYTES);
    if (ldg_pg_expand(pg, template, &text) == LEDGER_OK)
        result = ask(conn, &d, text.data, &args);
    if (PQntuples(result) > 0) {
        snprintf(pg->explained, sizeof(pg->explained), "%s", ldg_pg_get_text(result, 0, 0));
        snprintf(out, out_size, "%s", pg->explained);
    }
    PQclear(result);
    PQfinish(conn);
    ldg_buf_fini(&text);
}
