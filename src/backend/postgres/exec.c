/* One request and its answer: sending, waiting, what a failure leads to; COPY.
 *
 * Hides libpq's calls. Invariants: whoever waits is woken by a connection that stalls as well as by
 * one that breaks; a result counts only when the server is ready for the next statement, because
 * the commit of a single statement comes after its result; a connection that is broken is dropped
 * here; no statement is ever sent again on another connection. */
#include "backend/postgres/exec.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The server refuses a message of 1 GB and hangs up. */
#define MESSAGE_MAX_BYTES ((size_t)1024 * 1024 * 1024 - 64 * 1024)

/* --- waiting --------------------------------------------------------------------------------- */

/* When locks were in the way before, it is soon asked who has them. */
#define LOCKED_PROBE_MS 2000
/* A server that is at work is left alone for so long, and then asked about again. */
#define WORK_MS 5000
/* An interrupt that must not be now is tried again then; one that the server has heard of and has
 * not heeded by then ends the connection. */
#define INTERRUPT_PAUSE_US (500 * INT64_C(1000))
#define INTERRUPT_HEEDED_US (3 * INT64_C(1000000))

/* How long nothing has come. */
struct silence {
    struct ldg_waiting waiting;
    int slice_ms; /* of one poll() */
    int ms;
    int enough_probe_ms; /* a second connection asks then, where enough was waited … */
    int next_probe_ms;   /* … then in any case … */
    int locked_probe_ms; /* … and then, where locks were in the way before: once */
    int64_t next_interrupt_us;
};

static struct silence silence_of(const struct ldg_pg *pg)
{
    struct silence s = { .waiting = { .wait = pg->wait, .commits = pg->commits },
                         .slice_ms = LDG_WAIT_LOOK_MS,
                         .next_probe_ms = pg->reply_timeout_ms,
                         .locked_probe_ms = INT_MAX };
    if (pg->lock_failures > 0 && pg->own_conn && !pg->pooled) {
        /* The wait for a lock ends at its timeout. */
        s.locked_probe_ms =
            pg->busy_timeout_ms / 2 < LOCKED_PROBE_MS ? pg->busy_timeout_ms / 2 : LOCKED_PROBE_MS;
        if (s.locked_probe_ms < s.slice_ms)
            s.slice_ms = s.locked_probe_ms > 10 ? s.locked_probe_ms : 10;
    }
    if (s.slice_ms > pg->reply_timeout_ms)
        s.slice_ms = pg->reply_timeout_ms;
    return s;
}

static void silence_broken(const struct ldg_pg *pg, struct silence *s)
{
    ldg_waiting_again(&s->waiting);
    s->ms = 0;
    s->next_probe_ms = pg->reply_timeout_ms;
}

/* The connection is given up in the middle of what it does. */
static ledger_rc give_up(struct ldg_pg *pg, const char *doing, const char *why, ledger_error *err)
{
    ledger_rc rc = ldg_fail(err, LEDGER_ERR_CONNECT, "%s: while %s: %s: the connection is given up",
                            pg->where, doing, why);
    ldg_pg_drop(pg);
    return rc;
}

static ledger_rc give_up_to_stop(struct ldg_pg *pg, const char *doing, ledger_error *err)
{
    ldg_pg_end_session(pg);
    return give_up(pg, doing, "no answer, and the caller is to stop", err);
}

/* The program has interrupted the call: the statement is to fail, so that the session goes on. A
 * session that has not read the statement yet lets the request pass, so it is told again until it
 * answers. A connection of ours whose session does not heed it for a while is given up. */
static ledger_rc interrupt(struct ldg_pg *pg, struct silence *s, const char *doing,
                           ledger_error *err)
{
    const int64_t now_us = ldg_clock_mono_us();
    const bool told = pg->interrupted_us != 0;
    bool in_vain = told && now_us - pg->interrupted_us >= INTERRUPT_HEEDED_US;
    if (now_us < s->next_interrupt_us)
        return LEDGER_OK;
    if (!in_vain || !pg->own_conn) {
        const enum ldg_pg_signal signal = ldg_pg_interrupt(pg);
        s->next_interrupt_us = ldg_clock_mono_us() + INTERRUPT_PAUSE_US;
        if (signal == LDG_PG_SIGNALLED && !told)
            pg->interrupted_us = now_us;
        in_vain = signal == LDG_PG_NO_ANSWER && !told;
    }
    if (!in_vain || !pg->own_conn)
        return LEDGER_OK;
    ledger_rc rc = ldg_fail(err, LEDGER_ERR_CANCELLED,
                            "%s: while %s: interrupted; the server did not hear of it, so the "
                            "connection is given up",
                            pg->where, doing);
    ldg_pg_drop(pg);
    return rc;
}

static bool has_come(const struct ldg_pg *pg)
{
    struct pollfd fd = { .fd = PQsocket(pg->conn), .events = POLLIN };
    return poll(&fd, 1, 0) > 0;
}

static ledger_rc probe_silence(struct ldg_pg *pg, struct silence *s, bool enough, bool tell,
                               const char *doing, ledger_error *err)
{
    char words[LDG_PG_SIGHT_MAX], why[LDG_PG_SIGHT_MAX + 80];
    const bool overdue = s->ms >= s->next_probe_ms;
    const bool locked = s->ms >= s->locked_probe_ms;
    enum ldg_pg_sight sight = ldg_pg_server_probe(pg, enough, words);
    s->next_probe_ms = s->ms + pg->reply_timeout_ms;
    if (locked)
        s->locked_probe_ms = INT_MAX;
    /* What has come while it was asked was not there to be seen any more. */
    if (has_come(pg) || ldg_waiting_ask(&s->waiting) == LDG_WAIT_INTERRUPTED)
        return LEDGER_OK;
    if (tell || (locked && sight == LDG_PG_WAITS_FOR_LOCK && *pg->holder))
        ldg_wait_tell(s->waiting.wait, "%s: %s: %s", pg->where, doing, words);
    if (overdue && sight == LDG_PG_LOST) {
        (void)snprintf(why, sizeof(why),
                       "no answer for %d seconds, and a second connection does not find it at work",
                       s->ms / 1000);
        return give_up(pg, doing, why, err);
    }
    if (!enough || sight == LDG_PG_AT_WORK)
        return LEDGER_OK;
    /* A commit is beyond recall; of all else the server can say that it was ended. */
    if (sight == LDG_PG_WAITS_FOR_LOCK && !pg->cancelled && !pg->commits && ldg_pg_cancel(pg)) {
        pg->cancelled = true;
        return LEDGER_OK;
    }
    (void)snprintf(why, sizeof(why), "%s, for %d seconds", words, s->ms / 1000);
    ldg_pg_end_session(pg);
    return give_up(pg, doing, why, err);
}

/* Nothing has come for one slice more. */
static ledger_rc note_silence(struct ldg_pg *pg, struct silence *s, const char *doing,
                              ledger_error *err)
{
    s->ms += s->slice_ms;
    const ledger_wait_answer answer = ldg_waiting_ask(&s->waiting);
    const bool tell = ldg_waiting_is_long(&s->waiting);
    const bool enough = answer == LEDGER_WAIT_ENOUGH && s->ms >= s->enough_probe_ms;
    if (enough)
        s->enough_probe_ms = s->ms + WORK_MS;
    if (tell || enough || s->ms >= s->next_probe_ms || s->ms >= s->locked_probe_ms)
        return probe_silence(pg, s, enough, tell, doing, err);
    return LEDGER_OK;
}

ledger_rc ldg_pg_await(struct ldg_pg *pg, bool sending, const char *doing, ledger_error *err)
{
    struct silence silence = silence_of(pg);
    ledger_rc rc = LEDGER_OK;
    while (rc == LEDGER_OK) {
        int unsent = PQflush(pg->conn);
        if (unsent < 0 || (sending ? unsent == 0 : !PQisBusy(pg->conn)))
            break;
        struct pollfd fd = { .fd = PQsocket(pg->conn),
                             .events = (short)(POLLIN | (unsent ? POLLOUT : 0)) };
        const ledger_wait_answer answer = ldg_waiting_ask(&silence.waiting);
        if (answer == LEDGER_WAIT_STOP)
            rc = give_up_to_stop(pg, doing, err);
        else if (answer == LDG_WAIT_INTERRUPTED)
            rc = interrupt(pg, &silence, doing, err);
        if (rc != LEDGER_OK)
            break;
        int ready = fd.fd < 0 ? 0 : poll(&fd, 1, silence.slice_ms);
        if (fd.fd < 0 || (ready < 0 && errno != EINTR))
            break;
        if (ready == 0)
            rc = note_silence(pg, &silence, doing, err);
        else if (ready > 0)
            silence_broken(pg, &silence);
        if (ready > 0 && (fd.revents & ~POLLOUT) && !PQconsumeInput(pg->conn))
            break;
    }
    return rc;
}

static bool is_failure(const PGresult *result)
{
    switch (PQresultStatus(result)) {
    case PGRES_COMMAND_OK:
    case PGRES_TUPLES_OK:
    case PGRES_COPY_IN:
    case PGRES_PIPELINE_SYNC:
        return false;
    default:
        return true;
    }
}

/* When a handle of this process last waited for a lock and did not get it; 0: never. A bridge that
 * fails at its start makes new handles for each try, and those know nothing of the tries before. */
static _Atomic int64_t locked_us;
#define LOCKED_OF_LATE_US (10 * INT64_C(1000000))

bool ldg_pg_locked_of_late(void)
{
    const int64_t last_us = atomic_load(&locked_us);
    return last_us != 0 && ldg_clock_mono_us() - last_us < LOCKED_OF_LATE_US;
}

/* A lock was not to be had; who has it is known from the waits before. */
static void note_locked(struct ldg_pg *pg, char *out, size_t out_size)
{
    pg->lock_failures++;
    atomic_store(&locked_us, ldg_clock_mono_us());
    if (*pg->holder)
        (void)snprintf(out, out_size, "%s", pg->holder);
    else if (pg->cancelled)
        (void)snprintf(out, out_size, "enough was waited for a lock");
    pg->cancelled = false;
}

/* The row that a COPY was at: "COPY ledger_entries, line 12", in the server's language, perhaps
 * behind the lines of a trigger. */
static size_t copy_line(const char *context)
{
    const char *at = strncmp(context, "COPY ", 5) == 0 ? context : strstr(context, "\nCOPY ");

    if (at == NULL)
        return 0;
    at = strstr(at, ", ");
    return at != NULL ? strtoull(at + strcspn(at, "0123456789\n"), NULL, 10) : 0;
}

/* What a failure leads to: words for what the server leaves out, and the connection's end when it
 * is broken. */
ledger_rc ldg_pg_failed(struct ldg_pg *pg, const PGresult *result, const char *doing,
                        ledger_error *err)
{
    const char *sqlstate = ldg_pg_error_field(result, PG_DIAG_SQLSTATE);
    const char *constraint = ldg_pg_error_field(result, PG_DIAG_CONSTRAINT_NAME);
    char help[LDG_PG_GRANT_MAX] = "";

    if (*sqlstate)
        snprintf(pg->refused_by, sizeof(pg->refused_by), "%s",
                 *constraint ? constraint : ldg_pg_error_field(result, PG_DIAG_COLUMN_NAME));
    pg->copy_line = copy_line(ldg_pg_error_field(result, PG_DIAG_CONTEXT));
    if (strcmp(sqlstate, "42501") == 0)
        ldg_pg_explain_denied(pg, ldg_pg_error_field(result, PG_DIAG_MESSAGE_PRIMARY), help,
                              sizeof(help));
    else if (strcmp(sqlstate, "55P03") == 0 || (*sqlstate && pg->cancelled))
        note_locked(pg, help, sizeof(help));
    ledger_rc rc = ldg_pg_fail(pg, result, doing, help, err);
    if (pg->interrupted_us != 0 && strcmp(sqlstate, "57014") == 0)
        rc = ldg_fail_native(err, LEDGER_ERR_CANCELLED, "postgres", err->native_code,
                             "%s: while %s: interrupted", pg->where, doing);
    if (rc == LEDGER_ERR_CONNECT || PQstatus(pg->conn) == CONNECTION_BAD)
        ldg_pg_drop(pg);
    return rc;
}

ledger_rc ldg_pg_collect(struct ldg_pg *pg, bool sent, const char *doing, PGresult **ret_result,
                         ledger_error *err)
{
    PGresult *kept = NULL;
    PGresult *result = NULL;
    ledger_rc rc = sent ? ldg_pg_await(pg, false, doing, err) : ldg_pg_failed(pg, NULL, doing, err);
    bool copying_in = false;
    while (rc == LEDGER_OK && !copying_in && (result = PQgetResult(pg->conn))) {
        /* libpq says so again and again until the COPY is ended. */
        copying_in = PQresultStatus(result) == PGRES_COPY_IN;
        if (!kept || (is_failure(result) && !is_failure(kept))) {
            PQclear(kept);
            kept = result;
        } else {
            PQclear(result);
        }
        if (!copying_in)
            rc = ldg_pg_await(pg, false, doing, err);
    }
    if (rc == LEDGER_OK && kept && PQresultStatus(kept) == PGRES_PIPELINE_ABORTED) {
        *err = pg->pipe_error; /* of the one before it that failed */
        rc = err->code;
    } else if (rc == LEDGER_OK && (!kept || is_failure(kept))) {
        rc = ldg_pg_failed(pg, kept, doing, err);
    }
    if (rc == LEDGER_OK && ret_result)
        *ret_result = kept;
    else
        PQclear(kept);
    /* What could not be sent may still have gone out in part. */
    pg->reply_lost = !sent || rc == LEDGER_ERR_CONNECT || (rc == LEDGER_ERR_CANCELLED && !pg->conn);
    return rc;
}

/* --- one statement --------------------------------------------------------------------------- */

ledger_rc ldg_pg_check_ready(struct ldg_pg *pg, const char *doing, const struct ldg_pg_args *args,
                             ledger_error *err)
{
    size_t size = 0;
    pg->reply_lost = false;
    pg->cancelled = false;
    pg->interrupted_us = 0;
    if (!pg->conn)
        return ldg_fail(err, LEDGER_ERR_CONNECT, "%s: while %s: the connection was lost", pg->where,
                        doing);
    if (args && args->rc == LEDGER_ERR_NOMEM)
        return ldg_fail_nomem(err);
    for (int i = 0; args && i < args->count; i++)
        size += (size_t)args->lengths[i] + 16;
    if (size > MESSAGE_MAX_BYTES || (args && args->rc != LEDGER_OK))
        return ldg_fail(err, LEDGER_ERR_TOO_LARGE,
                        "while %s: PostgreSQL takes no statement with 1 GB of values or more; "
                        "split the call",
                        doing);
    return LEDGER_OK;
}

bool ldg_pg_is_ours(const struct ldg_pg *pg)
{
    return pg->own_conn && !pg->pooled;
}

bool ldg_pg_send_text(struct ldg_pg *pg, const char *text, const struct ldg_pg_args *args)
{
    static const struct ldg_pg_args none;
    if (!args)
        args = &none;
    return PQsendQueryParams(pg->conn, text, args->count, args->types, args->values, args->lengths,
                             args->formats, 1);
}

ledger_rc ldg_pg_run_text(struct ldg_pg *pg, const char *doing, const char *text,
                          const struct ldg_pg_args *args, PGresult **ret_result, ledger_error *err)
{
    struct ldg_buf expanded;
    ldg_buf_init(&expanded, LDG_PG_SQL_MAX_BYTES);
    ledger_rc rc = ldg_pg_check_ready(pg, doing, args, err);
    if (rc == LEDGER_OK && ldg_pg_expand(pg, text, &expanded) != LEDGER_OK)
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_collect(pg, ldg_pg_send_text(pg, expanded.data, args), doing, ret_result, err);
    ldg_buf_fini(&expanded);
    return rc;
}

ledger_rc ldg_pg_run_simple(struct ldg_pg *pg, const char *doing, const char *text,
                            PGresult **ret_result, ledger_error *err)
{
    ledger_rc rc = ldg_pg_check_ready(pg, doing, NULL, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_collect(pg, PQsendQuery(pg->conn, text), doing, ret_result, err);
    return rc;
}

/* --- COPY ------------------------------------------------------------------------------------ */

static const char copying[] = "copying rows";

ledger_rc ldg_pg_copy_begin(struct ldg_pg *pg, const char *template, ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_check_ready(pg, copying, NULL, err);
    if (rc != LEDGER_OK)
        return rc;
    struct ldg_pg_sql *sql = ldg_pg_sql_get(pg, template, err);
    if (!sql)
        return err->code;
    rc = ldg_pg_collect(pg, PQsendQuery(pg->conn, sql->text), copying, &result, err);
    if (rc == LEDGER_OK && PQresultStatus(result) != PGRES_COPY_IN)
        rc = ldg_fail(err, LEDGER_ERR_INTERNAL, "while %s: the server does not copy", copying);
    PQclear(result);
    return rc;
}

/* What became of a COPY that takes no more. Still in progress: libpq had no memory for the rest. */
static ledger_rc copy_result(struct ldg_pg *pg, PGresult **ret_result, ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_collect(pg, true, copying, &result, err);
    if (rc == LEDGER_OK && PQresultStatus(result) == PGRES_COPY_IN)
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK && ret_result)
        *ret_result = result;
    else
        PQclear(result);
    return rc;
}

/* Nothing more could be put. */
static ledger_rc copy_ended(struct ldg_pg *pg, ledger_error *err)
{
    ledger_rc rc = copy_result(pg, NULL, err);
    return rc != LEDGER_OK ? rc : ldg_fail(err, LEDGER_ERR_INTERNAL, "COPY ended early");
}

ledger_rc ldg_pg_copy_put(struct ldg_pg *pg, const void *data, size_t size, ledger_error *err)
{
    const size_t piece_max = (size_t)1024 * 1024;
    const char *p = data;
    ledger_rc rc = ldg_pg_check_ready(pg, copying, NULL, err);
    while (rc == LEDGER_OK && size) {
        size_t piece = size < piece_max ? size : piece_max;
        int put = PQputCopyData(pg->conn, p, (int)piece);
        if (put < 0)
            return copy_ended(pg, err);
        /* Also after 0, no room: what waits in the buffer has to go out first. */
        rc = ldg_pg_await(pg, true, copying, err);
        if (put > 0) {
            p += piece;
            size -= piece;
        }
    }
    return rc;
}

static ledger_rc finish_copy(struct ldg_pg *pg, const char *why, PGresult **ret_result,
                             ledger_error *err)
{
    ledger_rc rc = ldg_pg_check_ready(pg, copying, NULL, err);
    while (rc == LEDGER_OK) {
        int put = PQputCopyEnd(pg->conn, why);
        if (put != 0) /* also when it ended by itself: the result tells why */
            return copy_result(pg, ret_result, err);
        rc = ldg_pg_await(pg, true, copying, err);
    }
    return rc;
}

ledger_rc ldg_pg_copy_end(struct ldg_pg *pg, uint64_t *ret_rows, ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc = finish_copy(pg, NULL, &result, err);
    if (rc == LEDGER_OK && ret_rows)
        *ret_rows = strtoull(PQcmdTuples(result), NULL, 10);
    PQclear(result);
    return rc;
}

void ldg_pg_copy_cancel(struct ldg_pg *pg)
{
    ledger_error err;
    if (pg->conn && PQtransactionStatus(pg->conn) == PQTRANS_ACTIVE)
        (void)!finish_copy(pg, "not needed", NULL, &err);
}
