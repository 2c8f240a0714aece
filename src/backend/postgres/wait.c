/* Waiting until the log may have grown: looks with growing pauses, or the server's notice.
 *
 * What a look finds (log_diff.c) is kept for the read that follows, so waking costs no second one;
 * where nothing has happened in the whole cluster none is made. Invariants: at most 20 statements a
 * second while nothing happens; a commit is seen within a pause and a look of its own; a notice
 * that is lost (a server that was restarted, a trigger that is gone) costs one second. */
#include <poll.h>
#include <string.h>
#include <time.h>

#include "backend/postgres/source.h"

#define PAUSE_MIN_US 1000
/* A little over a twentieth of a second: a bridge asks for its backlog now and then, too. */
#define PAUSE_MAX_US (51 * 1000)
#define NOTICE_PAUSE_US (1000 * 1000)
/* From this pause on it is asked first whether anything at all has happened in the cluster. */
#define QUIET_PAUSE_US (8 * 1000)

static const char listen_sql[] = "LISTEN \"ledger_{l}\"";

/* A session of ours alone, outside of any transaction: a notice comes only between those. */
static bool can_listen(const struct ldg_pg *pg)
{
    return pg->has_notify && pg->own_conn && !pg->pooled && !pg->in_user_tx && !pg->in_snapshot;
}

static ledger_rc listen_once(struct ldg_pg *pg, ledger_error *err)
{
    struct ldg_pg_source *s = pg->source;
    ledger_rc rc = LEDGER_OK;

    if (can_listen(pg) && s->listen_count != pg->connect_count) {
        rc = ldg_pg_run_text(pg, "listening", listen_sql, NULL, NULL, err);
        if (rc == LEDGER_OK)
            s->listen_count = pg->connect_count;
    }
    return rc;
}

/* Takes the notices that have come. */
static bool take_notices(struct ldg_pg *pg)
{
    PGnotify *notice;
    bool any = false;

    while ((notice = PQnotifies(pg->conn)) != NULL) {
        any = true;
        PQfreemem(notice);
    }
    return any;
}

enum wake { WAKE_TIMEOUT, WAKE_CALLER, WAKE_SERVER };

/* Sleeps on the descriptors. The server speaks up without being asked to notify, and to hang up. */
static enum wake sleep_on(struct ldg_pg *pg, int wake_fd, int64_t us)
{
    struct pollfd fds[2] = { { .fd = wake_fd, .events = POLLIN },
                             { .fd = PQsocket(pg->conn), .events = POLLIN } };
    const struct timespec time = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
    int n = ppoll(fds, 2, &time, NULL);

    if (n < 0 || fds[0].revents != 0)
        return WAKE_CALLER; /* a signal too: waits may end early */
    return fds[1].revents != 0 ? WAKE_SERVER : WAKE_TIMEOUT;
}

static bool is_same(const struct ldg_pg_snapshot *a, const struct ldg_pg_snapshot *b)
{
    return a->xmax == b->xmax && a->count == b->count &&
           (a->count == 0 || memcmp(a->xip, b->xip, a->count * sizeof(*a->xip)) == 0);
}

static const char now_sql[] = "SELECT pg_current_snapshot()::text, pg_is_in_recovery()";

/* Is the set of transactions that have ended still the one that was searched last? Then so is the
 * log, and the look, which costs several times as much, is spared. Not asked in a cluster where
 * others commit all the time. */
static ledger_rc ask_quiet(struct ldg_pg *pg, bool *ret_quiet, ledger_error *err)
{
    struct ldg_pg_source *s = pg->source;
    struct ldg_pg_snapshot now;
    PGresult *result = NULL;

    *ret_quiet = false;
    if (pg->pooled || !s->spent || s->restless || s->unasked || s->pause_us < QUIET_PAUSE_US ||
        (s->unwatched && ldg_pg_schema_check_due(pg)))
        return LEDGER_OK;
    ldg_arena_reset(&s->work);
    ledger_rc rc =
        ldg_pg_run(pg, LDG_PG_KEEP, "asking for new transactions", now_sql, NULL, &result, err);
    if (rc == LEDGER_OK && ldg_pg_get_bool(result, 0, 1))
        rc = ldg_pg_fail_standby(pg, err);
    else if (rc == LEDGER_OK &&
             ldg_pg_snapshot_parse(ldg_pg_get_text(result, 0, 0), &s->work, &now))
        *ret_quiet = is_same(&now, &s->seen);
    s->restless = !*ret_quiet;
    PQclear(result);
    return rc;
}

/* Is there something behind the cursor that was read last? */
static ledger_rc look_again(struct ldg_pg *pg, bool *ret_grown, ledger_error *err)
{
    struct ldg_pg_source *s;
    struct ldg_pg_cursor cursor;
    struct ldg_pg_log_diff diff = { .any = true };
    ledger_rc rc = ldg_pg_source_get(pg, &s, err);

    if (rc == LEDGER_OK)
        rc = ldg_pg_cursor_parse(s->state, &s->work, &cursor, err);
    if (rc == LEDGER_OK && s->spent) {
        rc = ldg_pg_log_diff_read(pg, &cursor, ldg_pg_source_seen(pg, s->state, &cursor), &diff,
                                  err);
        s->restless = rc == LEDGER_OK && !is_same(&diff.s1, &s->seen);
        if (rc == LEDGER_OK)
            rc = ldg_pg_source_keep(pg, s->state, diff.any ? &s->seen : &diff.s1,
                                    diff.any && !cursor.open ? &diff : NULL, err);
        s->spent = !diff.any;
    }
    if (rc == LEDGER_OK)
        *ret_grown = diff.any;
    return rc;
}

static int64_t next_pause(int64_t us)
{
    if (us < PAUSE_MIN_US)
        return PAUSE_MIN_US;
    us += us / 2;
    return us < PAUSE_MAX_US ? us : PAUSE_MAX_US;
}

static ledger_rc wait_until(struct ldg_pg *pg, int wake_fd, int64_t deadline_us, ledger_error *err)
{
    struct ldg_pg_source *s = pg->source;
    bool listening = s->listen_count == pg->connect_count && can_listen(pg);
    bool grown = false;
    ledger_rc rc = LEDGER_OK;

    while (rc == LEDGER_OK && !grown) {
        int64_t now = ldg_clock_mono_us();
        enum wake wake = WAKE_TIMEOUT;

        if (now >= deadline_us)
            break;
        s->pause_us = listening ? NOTICE_PAUSE_US : next_pause(s->pause_us);
        bool noticed = take_notices(pg);
        if (!noticed)
            wake = sleep_on(pg, wake_fd,
                            s->pause_us < deadline_us - now ? s->pause_us : deadline_us - now);
        if (wake == WAKE_CALLER)
            break;
        if (wake == WAKE_SERVER) {
            if (!PQconsumeInput(pg->conn) || PQstatus(pg->conn) != CONNECTION_OK) {
                rc = ldg_pg_failed(pg, NULL, "waiting for the mutation log to grow", err);
                break;
            }
            /* A parameter that was reloaded or a server's warning is no news. */
            if (!take_notices(pg))
                continue;
        }
        bool quiet = false;
        if (!noticed && wake == WAKE_TIMEOUT)
            rc = ask_quiet(pg, &quiet, err);
        if (rc == LEDGER_OK && !quiet)
            rc = look_again(pg, &grown, err);
    }
    return rc;
}

/* Is it still so that nothing is known to be behind the last cursor? */
static bool is_at_end(const struct ldg_pg *pg)
{
    const struct ldg_pg_source *s = pg->source;

    return ldg_pg_source_knows(pg, s->state) && !s->has_diff;
}

ledger_rc ldg_pg_log_wait(void *ctx, int wake_fd, int64_t timeout_ms, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    struct ldg_pg_source *s;
    int64_t now = ldg_clock_mono_us(), deadline_us;
    uint64_t listened;
    bool grown = false;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc == LEDGER_OK)
        rc = ldg_pg_source_get(pg, &s, err);
    if (rc != LEDGER_OK || !is_at_end(pg))
        goto out; /* nothing was read yet, or more is there, or the connection is a new one */
    deadline_us = timeout_ms < 0 || timeout_ms > (INT64_MAX - now) / 1000 ? INT64_MAX
                                                                          : now + timeout_ms * 1000;
    listened = s->listen_count;
    rc = listen_once(pg, err);
    /* What was committed before the first notice could come shows here. */
    if (rc == LEDGER_OK && s->listen_count != listened)
        rc = look_again(pg, &grown, err);
    if (rc == LEDGER_OK && !grown)
        rc = wait_until(pg, wake_fd, deadline_us, err);
out:
    return rc;
}
