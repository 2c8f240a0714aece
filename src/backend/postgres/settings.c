/* What a session or a transaction of ours is like, whatever its role, its database or its server
 * has set for others: what a statement means, how long it may take, by which way rows are found.
 *
 * Hides the list of these settings. Invariants: a setting that this server does not know is no
 * error; of a session that is not ours (a pooler's, a caller's own) nothing is changed for longer
 * than a transaction. */
#include "backend/postgres/postgres.h"

#include <string.h>

/* Settings that change what a statement of ours means or what it finds, and one (exit_on_error)
 * that makes of an error the end of the session. With row_security off, a statement from which the
 * server would hide rows is an error. Left alone is what only the triggers of a user
 * see, such as TimeZone and DateStyle: values come and go in binary form. */
#define MEANING                                                                                    \
    "('standard_conforming_strings', 'on'), ('quote_all_identifiers', 'off'), "                    \
    "('transform_null_equals', 'off'), ('array_nulls', 'on'), ('gin_fuzzy_search_limit', '0'), "   \
    "('exit_on_error', 'off'), ('row_security', 'off')"

/* Not longer than that, and 0 is the system's own, which is hours. At the server: a client that
 * vanishes in the middle of a COPY would keep its locks for as long. */
#define KEEPALIVE(what, most)                                                                      \
    "('tcp_keepalives_" what "', least(nullif(current_setting('tcp_keepalives_" what               \
    "')::int4, 0), " most ")::text)"

#define KEEPALIVES                                                                                 \
    KEEPALIVE("idle", "30") ", " KEEPALIVE("interval", "10") ", " KEEPALIVE("count", "3")

/* What a bridge asks its source a thousand times a second is all found by one index or another, and
 * planning it anew would take longer than running it. A table that was empty when the plan was made
 * must not mislead it. */
#define PLANS                                                                                      \
    "('jit', 'off'), ('enable_indexscan', 'on'), ('enable_indexonlyscan', 'on'), "                 \
    "('enable_nestloop', 'on'), ('plan_cache_mode', $3), ('enable_seqscan', $4), "                 \
    "('enable_bitmapscan', $4), ('enable_sort', $4)"

/* $1 lock_timeout; $2 on for a handle that only reads; $5 to $8 '0', or NULL for a limit that
 * stays; $9 the session that the connection was made to: behind a pooler this may be another. Set
 * even where it is so already, because a server's configuration may be loaded anew. */
static const char set_up[] =
    "SELECT count(set_config(s.name, s.value, false)) FROM (VALUES ('lock_timeout', $1), "
    "('default_transaction_read_only', $2), ('default_transaction_isolation', 'read committed'), "
    "('default_transaction_deferrable', 'off'), " MEANING ", " PLANS ", " KEEPALIVES ", "
    "('statement_timeout', $5), ('transaction_timeout', $6), ('idle_session_timeout', $7), "
    "('idle_in_transaction_session_timeout', $8)) AS s(name, value) "
    "WHERE pg_backend_pid() = $9 AND s.value IS NOT NULL "
    "AND current_setting(s.name, true) IS NOT NULL";

enum { STATEMENT_TIMEOUT = 4 }; /* the argument */
#define TRIES 20
static const char doing[] = "setting up the session";

const char ldg_pg_transaction_settings[] =
    "SELECT count(set_config(s.name, s.value, true)) FROM (VALUES " MEANING
    ") AS s(name, value) WHERE current_setting(s.name, true) != s.value";

/* Does the URL, the environment or a service file set it with options=-c…? */
static bool is_chosen(const PQconninfoOption *options, const char *setting)
{
    for (; options && options->keyword; options++) {
        if (strcmp(options->keyword, "options") == 0)
            return options->val && strstr(options->val, setting);
    }
    return false;
}

/* A limit that a role has for other programs does not count here; one that was written into the URL
 * of a program's own handle does. A bridge and whatever else waits by itself has none. */
static void put_limits(const struct ldg_pg *pg, const PQconninfoOption *options,
                       struct ldg_pg_args *args)
{
    static const char *const limits[] = { "statement_timeout", "transaction_timeout",
                                          "idle_session_timeout",
                                          "idle_in_transaction_session_timeout" };
    const bool program = pg->role == LDG_ROLE_USER;
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        /* What ends a transaction that a program has forgotten is of use to everybody. */
        const bool keeps = i == 3 && program && !(pg->flags & LEDGER_STORE_READ_ONLY);
        ldg_pg_arg_text(args, keeps || (program && is_chosen(options, limits[i])) ? NULL : "0");
    }
}

/* A limit of some milliseconds may end the very statement that takes it off; one that does nothing
 * else is over sooner. */
static ledger_rc send_settings(struct ldg_pg *pg, const struct ldg_pg_args *args, ledger_error *err)
{
    static const char no_limit[] = "SELECT set_config('statement_timeout', '0', false) "
                                   "WHERE pg_backend_pid() = $1";
    const bool stays = args->values[STATEMENT_TIMEOUT] == NULL;
    struct ldg_pg_args session = { 0 };
    ledger_error ignored;
    ledger_rc rc = ldg_pg_run_text(pg, doing, set_up, args, NULL, err);

    ldg_pg_arg_int32(&session, PQbackendPID(pg->conn));
    for (int i = 1; i < TRIES && rc == LEDGER_ERR_BUSY && !stays; i++) {
        (void)!ldg_pg_run_text(pg, doing, no_limit, &session, NULL, &ignored);
        rc = ldg_pg_run_text(pg, doing, set_up, args, NULL, err);
    }
    return rc;
}

ledger_rc ldg_pg_settings_apply(struct ldg_pg *pg, ledger_error *err)
{
    const bool source = pg->role == LDG_ROLE_SOURCE;
    PQconninfoOption *options = PQconninfo(pg->conn);
    struct ldg_pg_args args = { 0 };
    struct ldg_buf timeout;
    ledger_rc rc = options ? LEDGER_OK : ldg_fail_nomem(err);

    ldg_buf_init(&timeout, 15);
    if (rc == LEDGER_OK && ldg_buf_printf(&timeout, "%d", pg->busy_timeout_ms) != LEDGER_OK)
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK) {
        ldg_pg_arg_text(&args, timeout.data);
        ldg_pg_arg_text(&args, pg->flags & LEDGER_STORE_READ_ONLY ? "on" : "off");
        ldg_pg_arg_text(&args, source ? "force_generic_plan" : NULL);
        ldg_pg_arg_text(&args, source ? "off" : NULL);
        put_limits(pg, options, &args);
        ldg_pg_arg_int32(&args, PQbackendPID(pg->conn));
        rc = send_settings(pg, &args, err);
    }
    PQconninfoFree(options);
    ldg_buf_fini(&timeout);
    return rc;
}

ledger_rc ldg_pg_settings_renew(struct ldg_pg *pg, ledger_error *err)
{
    if (!pg->must_set_up)
        return LEDGER_OK;
    ledger_rc rc = ldg_pg_settings_apply(pg, err);
    if (rc == LEDGER_OK) {
        pg->must_set_up = false;
        pg->connect_count++; /* what hangs on it (LISTEN, plans) is gone, too */
    }
    return rc;
}
