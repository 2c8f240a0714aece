/* Statements: texts, preparing, sending, waiting, pipelines, COPY, transactions.
 *
 * Hides libpq's calls. Invariants: whoever waits is woken by a connection that stalls as well as by
 * one that breaks; a result counts only when the server is ready for the next statement, because
 * the commit of a single statement comes after its result; no statement is ever sent again on
 * another connection. */
#include "backend/postgres/postgres.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The server refuses a message of 1 GB and hangs up. */
#define MESSAGE_MAX_BYTES ((size_t)1024 * 1024 * 1024 - 64 * 1024)
#define TEXT_MAX_BYTES ((size_t)1024 * 1024)
#define NAME_MAX_BYTES 32
#define TAKEN_MAX 2

struct ldg_pg_sql {
    const char *template;
    char *text;
    char name[NAME_MAX_BYTES]; /* of the prepared statement */
    enum { UNPREPARED, PREPARING, PREPARED } state;
    bool worked; /* since it was prepared */
};

/* --- texts ----------------------------------------------------------------------------------- */

static void put_entry_columns(const struct ldg_pg *pg, struct ldg_buf *out)
{
    ldg_buf_puts(out, "e.id, e.stream, e.payload, e.order_key, e.dedup_key, e.schema_version, "
                      "e.metadata, e.tags, e.annotations, e.created_at, e.updated_at, ");
    ldg_buf_puts(out, pg->has_source_id ? "e.source_id, " : "''::text, ");
    if (!pg->has_ours) {
        ldg_buf_puts(out, "0::int4, NULL::int8, NULL::text");
        return;
    }
    ldg_buf_puts(out, "e.origin, e.source_pos, CASE WHEN e.origin = 0 THEN NULL ELSE "
                      "(SELECT o.uuid FROM \"");
    ldg_buf_puts(out, pg->table);
    ldg_buf_puts(out, "_origins\" AS o WHERE o.id = e.origin) END");
}

static ledger_rc expand(const struct ldg_pg *pg, const char *template, struct ldg_buf *out)
{
    for (const char *p = template; *p;) {
        if (strncmp(p, "{t}", 3) == 0)
            ldg_buf_puts(out, pg->table);
        else if (strncmp(p, "{l}", 3) == 0)
            ldg_buf_puts(out, pg->log_table);
        else if (strncmp(p, "{e}", 3) == 0)
            put_entry_columns(pg, out);
        else {
            size_t size = 1 + strcspn(p + 1, "{");
            ldg_buf_append(out, p, size);
            p += size;
            continue;
        }
        p += 3;
    }
    return out->rc;
}

/* Index of the first kept text whose template is not before this one. */
static size_t lower_bound(const struct ldg_pg *pg, const char *template)
{
    size_t low = 0, high = pg->sql_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uintptr_t)pg->sqls[middle]->template <(uintptr_t) template)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool reserve_sql(struct ldg_pg *pg)
{
    if (pg->sql_count < pg->sql_cap)
        return true;
    size_t cap = pg->sql_cap ? pg->sql_cap * 2 : 32;
    struct ldg_pg_sql **sqls = ldg_realloc(pg->sqls, cap * sizeof(struct ldg_pg_sql *));
    if (!sqls)
        return false;
    pg->sqls = sqls;
    pg->sql_cap = cap;
    return true;
}

static struct ldg_pg_sql *get_sql(struct ldg_pg *pg, const char *template, ledger_error *err)
{
    struct ldg_buf text;
    struct ldg_pg_sql *sql = NULL;
    size_t at = lower_bound(pg, template);
    ldg_buf_init(&text, TEXT_MAX_BYTES);
    if (at < pg->sql_count && pg->sqls[at]->template == template) {
        sql = pg->sqls[at];
        goto out;
    }
    if (expand(pg, template, &text) == LEDGER_OK && reserve_sql(pg))
        sql = ldg_calloc(1, sizeof(*sql));
    if (!sql) {
        ldg_fail_nomem(err);
        goto out;
    }
    sql->template = template;
    sql->text = ldg_buf_take(&text);
    memmove(pg->sqls + at + 1, pg->sqls + at, (pg->sql_count - at) * sizeof(pg->sqls[0]));
    pg->sqls[at] = sql;
    pg->sql_count++;
out:
    ldg_buf_fini(&text);
    return sql;
}

void ldg_pg_forget(struct ldg_pg *pg)
{
    for (size_t i = 0; i < pg->sql_count; i++) {
        ldg_free(pg->sqls[i]->text);
        ldg_free(pg->sqls[i]);
    }
    ldg_free(pg->sqls);
    ldg_free(pg->sent);
    pg->sqls = NULL;
    pg->sent = NULL;
    pg->sql_count = pg->sql_cap = 0;
    pg->sent_first = pg->sent_count = pg->sent_cap = 0;
}

/* --- waiting --------------------------------------------------------------------------------- */

/* When locks were in the way before, it is soon looked who has them. */
#define LOCKED_LOOK_MS 2000
/* A server that is at work is left alone for so long, and then looked at again. */
#define WORK_MS 5000

/* How long nothing has come. */
struct silence {
    struct ldg_waiting waiting;
    int slice_ms; /* of one look */
    int ms;
    int enough_look_ms; /* looked at then, where enough was waited */
    int next_look_ms;   /* a second connection looks then … */
    int locked_look_ms; /* … and then, where locks were in the way before: once */
};

static struct silence silence_of(const struct ldg_pg *pg)
{
    struct silence s = { .waiting = { .wait = pg->own_conn ? pg->wait : NULL },
                         .slice_ms = LDG_WAIT_LOOK_MS,
                         .next_look_ms = pg->reply_timeout_ms,
                         .locked_look_ms = INT_MAX };
    if (pg->lock_failures > 0 && pg->own_conn && !pg->pooled) {
        /* The wait for a lock ends at its timeout. */
        s.locked_look_ms =
            pg->busy_timeout_ms / 2 < LOCKED_LOOK_MS ? pg->busy_timeout_ms / 2 : LOCKED_LOOK_MS;
        if (s.locked_look_ms < s.slice_ms)
            s.slice_ms = s.locked_look_ms > 10 ? s.locked_look_ms : 10;
    }
    if (s.slice_ms > pg->reply_timeout_ms)
        s.slice_ms = pg->reply_timeout_ms;
    return s;
}

static void silence_broken(const struct ldg_pg *pg, struct silence *s)
{
    ldg_waiting_again(&s->waiting);
    s->ms = 0;
    s->next_look_ms = pg->reply_timeout_ms;
}

static const char *where(const struct ldg_pg *pg)
{
    return pg->where ? pg->where : "the server";
}

/* The connection is given up in the middle of what it does. */
static ledger_rc give_up(struct ldg_pg *pg, const char *doing, const char *why, ledger_error *err)
{
    ledger_rc rc = ldg_fail(err, LEDGER_ERR_CONNECT, "%s: while %s: %s: the connection is given up",
                            where(pg), doing, why);
    ldg_pg_drop(pg);
    return rc;
}

static ledger_rc give_up_to_stop(struct ldg_pg *pg, const char *doing, ledger_error *err)
{
    ldg_pg_end_session(pg);
    return give_up(pg, doing, "no answer, and the caller is to stop", err);
}

static bool has_come(const struct ldg_pg *pg)
{
    struct pollfd fd = { .fd = PQsocket(pg->conn), .events = POLLIN };
    return poll(&fd, 1, 0) > 0;
}

static ledger_rc look_at_it(struct ldg_pg *pg, struct silence *s, bool enough, bool tell,
                            const char *doing, ledger_error *err)
{
    char words[LDG_PG_SIGHT_MAX], why[LDG_PG_SIGHT_MAX + 80];
    const bool overdue = s->ms >= s->next_look_ms;
    const bool locked = s->ms >= s->locked_look_ms;
    enum ldg_pg_sight sight = ldg_pg_look_at(pg, enough, words);
    s->next_look_ms = s->ms + pg->reply_timeout_ms;
    if (locked)
        s->locked_look_ms = INT_MAX;
    /* What has come while it was looked was not there to be seen any more. */
    if (has_come(pg))
        return LEDGER_OK;
    if (tell || (locked && sight == LDG_PG_WAITS_FOR_LOCK && *pg->holder))
        ldg_wait_tell(s->waiting.wait, "%s: %s: %s", where(pg), doing, words);
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

/* Nothing has come for one look more. */
static ledger_rc note_silence(struct ldg_pg *pg, struct silence *s, const char *doing,
                              ledger_error *err)
{
    s->ms += s->slice_ms;
    const ledger_wait_answer answer = ldg_waiting_ask(&s->waiting);
    const bool tell = ldg_waiting_is_long(&s->waiting);
    const bool enough = answer == LEDGER_WAIT_ENOUGH && s->ms >= s->enough_look_ms;
    if (enough)
        s->enough_look_ms = s->ms + WORK_MS;
    if (tell || enough || s->ms >= s->next_look_ms || s->ms >= s->locked_look_ms)
        return look_at_it(pg, s, enough, tell, doing, err);
    return LEDGER_OK;
}

/* Until the whole request is sent (`sending`), or until a result can be fetched without waiting. A
 * connection that breaks ends the wait, too: the result will tell. */
static ledger_rc await(struct ldg_pg *pg, bool sending, const char *doing, ledger_error *err)
{
    struct silence silence = silence_of(pg);
    ledger_rc rc = LEDGER_OK;
    while (rc == LEDGER_OK) {
        int unsent = PQflush(pg->conn);
        if (unsent < 0 || (sending ? unsent == 0 : !PQisBusy(pg->conn)))
            break;
        struct pollfd fd = { .fd = PQsocket(pg->conn),
                             .events = (short)(POLLIN | (unsent ? POLLOUT : 0)) };
        if (ldg_waiting_ask(&silence.waiting) == LEDGER_WAIT_STOP) {
            rc = give_up_to_stop(pg, doing, err);
            break;
        }
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

/* All results of what was sent, until the server is ready again: the first, or the failure. COPY
 * ends the wait. */
static ledger_rc collect(struct ldg_pg *pg, const char *doing, PGresult **ret_result,
                         ledger_error *err)
{
    PGresult *kept = NULL;
    PGresult *result = NULL;
    ledger_rc rc = await(pg, false, doing, err);
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
            rc = await(pg, false, doing, err);
    }
    if (rc == LEDGER_OK && kept && PQresultStatus(kept) == PGRES_PIPELINE_ABORTED) {
        *err = pg->pipe_error; /* of the one before it that failed */
        rc = err->code;
    } else if (rc == LEDGER_OK && (!kept || is_failure(kept))) {
        rc = ldg_pg_fail(pg, kept, doing, err);
    }
    if (rc == LEDGER_OK && ret_result)
        *ret_result = kept;
    else
        PQclear(kept);
    pg->reply_lost = rc == LEDGER_ERR_CONNECT;
    return rc;
}

/* --- one statement --------------------------------------------------------------------------- */

static ledger_rc check_ready(struct ldg_pg *pg, const char *doing, ledger_error *err)
{
    pg->reply_lost = false;
    pg->cancelled = false;
    if (!pg->conn)
        return ldg_fail(err, LEDGER_ERR_CONNECT, "%s: while %s: the connection was lost",
                        pg->where ? pg->where : "", doing);
    return LEDGER_OK;
}

static ledger_rc check_args(const struct ldg_pg_args *args, const char *doing, ledger_error *err)
{
    size_t size = 0;
    if (!args)
        return LEDGER_OK;
    if (args->rc == LEDGER_ERR_NOMEM)
        return ldg_fail_nomem(err);
    for (int i = 0; i < args->count; i++)
        size += (size_t)args->lengths[i] + 16;
    if (args->rc != LEDGER_OK || size > MESSAGE_MAX_BYTES)
        return ldg_fail(err, LEDGER_ERR_TOO_LARGE,
                        "while %s: PostgreSQL takes no statement with 1 GB of values or more; "
                        "split the call",
                        doing);
    return LEDGER_OK;
}

static bool is_ours(const struct ldg_pg *pg)
{
    return pg->own_conn && !pg->pooled;
}

/* In a snapshot what was prepared before it may be of another moment; and where statements are
 * thrown away time and again it makes no sense. */
static bool may_name(const struct ldg_pg *pg)
{
    return is_ours(pg) && !pg->in_snapshot && pg->taken_count < TAKEN_MAX;
}

static bool send_text(struct ldg_pg *pg, const char *text, const struct ldg_pg_args *args)
{
    static const struct ldg_pg_args none;
    if (!args)
        args = &none;
    return PQsendQueryParams(pg->conn, text, args->count, args->types, args->values, args->lengths,
                             args->formats, 1);
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
        pg->sqls[i]->state = UNPREPARED;
        pg->sqls[i]->worked = false;
    }
    pg->looked_us = 0; /* altered into what? */
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

/* What could not be sent may still have gone out in part. */
static ledger_rc fail_send(struct ldg_pg *pg, const char *doing, ledger_error *err)
{
    ledger_rc rc = ldg_pg_fail(pg, NULL, doing, err);
    pg->reply_lost = true;
    return rc;
}

static ledger_rc run_text(struct ldg_pg *pg, const char *doing, const char *text,
                          const struct ldg_pg_args *args, PGresult **ret_result, ledger_error *err)
{
    if (!send_text(pg, text, args))
        return fail_send(pg, doing, err);
    return collect(pg, doing, ret_result, err);
}

static ledger_rc run_prepared(struct ldg_pg *pg, const char *doing, struct ldg_pg_sql *sql,
                              const struct ldg_pg_args *args, PGresult **ret_result,
                              ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    if (sql->state != PREPARED) {
        rc =
            send_prepare(pg, sql, args) ? collect(pg, doing, NULL, err) : fail_send(pg, doing, err);
        pg->reply_lost = false; /* nothing was run */
        if (rc != LEDGER_OK)
            return pg->conn ? note_failure(pg, sql, err) : rc;
        sql->state = PREPARED;
    }
    rc = send_prepared(pg, sql, args) ? collect(pg, doing, ret_result, err)
                                      : fail_send(pg, doing, err);
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
    ledger_rc rc = check_ready(pg, doing, err);
    if (rc == LEDGER_OK)
        rc = check_args(args, doing, err);
    if (rc != LEDGER_OK)
        return rc;
    struct ldg_pg_sql *sql = get_sql(pg, template, err);
    if (!sql)
        return err->code;
    if (plan != LDG_PG_KEEP || !may_name(pg))
        return run_text(pg, doing, sql->text, args, ret_result, err);
    const bool alone = PQtransactionStatus(pg->conn) == PQTRANS_IDLE;
    rc = run_prepared(pg, doing, sql, args, ret_result, err);
    if (alone && ldg_pg_is_outdated(rc, err)) {
        rc = ldg_pg_session_renew(pg, err);
        if (rc == LEDGER_OK)
            rc = may_name(pg) ? run_prepared(pg, doing, sql, args, ret_result, err)
                              : run_text(pg, doing, sql->text, args, ret_result, err);
    }
    return rc;
}

ledger_rc ldg_pg_run_write(struct ldg_pg *pg, const char *doing, const char *template,
                           const struct ldg_pg_args *args, PGresult **ret_result, ledger_error *err)
{
    bool alone = pg->conn && PQtransactionStatus(pg->conn) == PQTRANS_IDLE;
    ledger_rc rc = ldg_pg_run(pg, LDG_PG_KEEP, doing, template, args, ret_result, err);
    if (rc == LEDGER_ERR_CONNECT && alone && pg->reply_lost) {
        ledger_error why = *err;
        rc = ldg_fail_native(err, LEDGER_ERR_UNKNOWN_OUTCOME, why.backend, why.native_code,
                             "%s; whether it was written is not known", why.message);
    }
    return rc;
}

ledger_rc ldg_pg_run_text(struct ldg_pg *pg, const char *doing, const char *text,
                          const struct ldg_pg_args *args, PGresult **ret_result, ledger_error *err)
{
    struct ldg_buf expanded;
    ldg_buf_init(&expanded, TEXT_MAX_BYTES);
    ledger_rc rc = check_ready(pg, doing, err);
    if (rc == LEDGER_OK)
        rc = check_args(args, doing, err);
    if (rc == LEDGER_OK && expand(pg, text, &expanded) != LEDGER_OK)
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK)
        rc = run_text(pg, doing, expanded.data, args, ret_result, err);
    ldg_buf_fini(&expanded);
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
    ledger_rc rc = check_ready(pg, "beginning a pipeline", err);
    if (rc != LEDGER_OK)
        return rc;
    pg->sent_first = pg->sent_count = 0;
    pg->sync_sent = false;
    pg->pipe_failed = false;
    pg->was_nonblocking = PQisnonblocking(pg->conn);
    /* Else both sides could wait for each other, with full buffers. */
    if (PQsetnonblocking(pg->conn, 1) != 0 || !PQenterPipelineMode(pg->conn))
        rc = ldg_pg_fail(pg, NULL, "beginning a pipeline", err);
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
        sent = send_text(pg, sql->text, args);
    } else {
        if (sql->state == UNPREPARED) {
            sent = send_prepare(pg, sql, args);
            if (sent) {
                sql->state = PREPARING;
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
    ledger_rc rc = check_ready(pg, doing, err);
    if (rc == LEDGER_OK)
        rc = check_args(args, doing, err);
    if (rc == LEDGER_OK) {
        struct ldg_pg_sql *sql = get_sql(pg, template, err);
        if (!sql)
            rc = err->code;
        else if (!reserve_sent(pg))
            rc = ldg_fail_nomem(err);
        else if (!pipe_send(pg, sql, args))
            rc = fail_send(pg, doing, err);
    }
    return rc == LEDGER_OK ? LEDGER_OK : fail_pipe(pg, err);
}

ledger_rc ldg_pg_pipe_flush(struct ldg_pg *pg, ledger_error *err)
{
    ledger_rc rc = check_ready(pg, "sending a pipeline", err);
    if (rc == LEDGER_OK && !pg->sync_sent) {
        if (!PQpipelineSync(pg->conn))
            rc = fail_send(pg, "sending a pipeline", err);
        pg->sync_sent = rc == LEDGER_OK;
    }
    if (rc == LEDGER_OK)
        rc = await(pg, true, "sending a pipeline", err);
    return rc == LEDGER_OK ? LEDGER_OK : fail_pipe(pg, err);
}

/* The result of the next thing sent. */
static ledger_rc receive_one(struct ldg_pg *pg, const char *doing, PGresult **ret_result,
                             ledger_error *err)
{
    const struct ldg_pg_sent sent = pg->sent[pg->sent_first++];
    struct ldg_pg_sql *sql = sent.prepares ? sent.prepares : sent.runs;
    const bool first = !pg->pipe_failed; /* else the failure is another statement's */
    ledger_rc rc = collect(pg, doing, ret_result, err);
    /* A lost connection has taken its texts along. */
    if (sql && pg->conn) {
        if (sent.prepares)
            sql->state = rc == LEDGER_OK ? PREPARED : UNPREPARED;
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
    while (pg->conn && await(pg, false, "ending a pipeline", &why) == LEDGER_OK) {
        PGresult *result = PQgetResult(pg->conn);
        ExecStatusType status = result ? PQresultStatus(result) : PGRES_FATAL_ERROR;
        if (status == PGRES_FATAL_ERROR) {
            ldg_pg_fail(pg, result, "ending a pipeline", &why);
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
            fail_pipe(pg, (ldg_pg_fail(pg, NULL, "ending a pipeline", &why), &why));
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

/* --- COPY ------------------------------------------------------------------------------------ */

static const char copying[] = "copying rows";

ledger_rc ldg_pg_copy_begin(struct ldg_pg *pg, const char *template, ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc = check_ready(pg, copying, err);
    if (rc != LEDGER_OK)
        return rc;
    struct ldg_pg_sql *sql = get_sql(pg, template, err);
    if (!sql)
        return err->code;
    rc = PQsendQuery(pg->conn, sql->text) ? collect(pg, copying, &result, err)
                                          : fail_send(pg, copying, err);
    if (rc == LEDGER_OK && PQresultStatus(result) != PGRES_COPY_IN)
        rc = ldg_fail(err, LEDGER_ERR_INTERNAL, "while %s: the server does not copy", copying);
    PQclear(result);
    return rc;
}

/* What became of a COPY that takes no more. Still in progress: libpq had no memory for the rest. */
static ledger_rc copy_result(struct ldg_pg *pg, PGresult **ret_result, ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc = collect(pg, copying, &result, err);
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
    ledger_rc rc = check_ready(pg, copying, err);
    while (rc == LEDGER_OK && size) {
        size_t piece = size < piece_max ? size : piece_max;
        int put = PQputCopyData(pg->conn, p, (int)piece);
        if (put < 0)
            return copy_ended(pg, err);
        /* Also after 0, no room: what waits in the buffer has to go out first. */
        rc = await(pg, true, copying, err);
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
    ledger_rc rc = check_ready(pg, copying, err);
    while (rc == LEDGER_OK) {
        int put = PQputCopyEnd(pg->conn, why);
        if (put != 0) /* also when it ended by itself: the result tells why */
            return copy_result(pg, ret_result, err);
        rc = await(pg, true, copying, err);
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

/* --- transactions ---------------------------------------------------------------------------- */

/* Of a role behind a pooler. A caller's own connection keeps what its owner wants. */
#define NO_LIMITS LDG_PG_NO_LIMITS("statement_timeout,transaction_timeout")

static ledger_rc run_simple(struct ldg_pg *pg, const char *doing, const char *text,
                            PGresult **ret_result, ledger_error *err)
{
    ledger_rc rc = check_ready(pg, doing, err);
    if (rc == LEDGER_OK)
        rc = PQsendQuery(pg->conn, text) ? collect(pg, doing, ret_result, err)
                                         : fail_send(pg, doing, err);
    return rc;
}

ledger_rc ldg_pg_begin(struct ldg_pg *pg, const char *begin, const char *settings,
                       ledger_error *err)
{
    struct ldg_buf text;
    ldg_buf_init(&text, TEXT_MAX_BYTES);
    ldg_buf_puts(&text, begin);
    /* Where the session is not ours to set. */
    if (!is_ours(pg))
        ldg_buf_printf(&text, "; SELECT set_config('lock_timeout', '%d', true)%s; %s",
                       pg->busy_timeout_ms, pg->own_conn ? ", " NO_LIMITS : "",
                       ldg_pg_transaction_settings);
    if (settings) {
        ldg_buf_puts(&text, "; ");
        expand(pg, settings, &text);
    }
    ledger_rc rc = text.rc == LEDGER_OK
                       ? run_simple(pg, "beginning a transaction", text.data, NULL, err)
                       : ldg_fail_nomem(err);
    if (rc != LEDGER_OK)
        ldg_pg_rollback(pg);
    ldg_buf_fini(&text);
    return rc;
}

ledger_rc ldg_pg_begin_write(struct ldg_pg *pg, const char *settings, bool *ret_own,
                             ledger_error *err)
{
    ledger_rc rc = check_ready(pg, "beginning a transaction", err);
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
    ledger_rc rc = run_simple(pg, doing, "COMMIT", &result, err);
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
    if (PQpipelineStatus(pg->conn) != PQ_PIPELINE_OFF)
        (void)!ldg_pg_pipe_end(pg, &err);
    ldg_pg_copy_cancel(pg);
    if (pg->conn && PQtransactionStatus(pg->conn) != PQTRANS_IDLE &&
        run_simple(pg, "rolling back", "ROLLBACK", NULL, &err) != LEDGER_OK)
        ldg_pg_drop(pg);
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
