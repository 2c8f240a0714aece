/* Connecting, and letting a connection go.
 *
 * Hides which parameters a connection gets. What the URL, the environment or a service file says
 * wins; ours fill what is unset. Invariant: a remote host's certificate is verified unless somebody
 * said otherwise. */
#include "backend/postgres/postgres.h"

#include <arpa/inet.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_S 10
#define PARAMETERS_MAX 96

/* --- parameters ------------------------------------------------------------------------------ */

struct parameters {
    const char *keys[PARAMETERS_MAX + 1];
    const char *values[PARAMETERS_MAX + 1];
    size_t count;
    PQconninfoOption *given;     /* what the URL says */
    PQconninfoOption *effective; /* with environment, service file and libpq's defaults */
    bool several_hosts;
    bool remote;          /* one of the hosts is */
    bool verifies_remote; /* by our default */
    char root_cert[PATH_MAX];
    char label[64];
};

static void free_parameters(struct parameters *p)
{
    PQconninfoFree(p->given);
    PQconninfoFree(p->effective);
}

/* "" when it is not set. */
static const char *option(const PQconninfoOption *options, const char *key)
{
    for (; options && options->keyword; options++) {
        if (strcmp(options->keyword, key) == 0)
            return options->val ? options->val : "";
    }
    return "";
}

static void set(struct parameters *p, const char *key, const char *value)
{
    size_t i = 0;
    while (i < p->count && strcmp(p->keys[i], key) != 0)
        i++;
    if (i == PARAMETERS_MAX)
        return;
    p->keys[i] = key;
    p->values[i] = value;
    if (i == p->count)
        p->count++;
}

static void set_default(struct parameters *p, const char *key, const char *value)
{
    if (!*option(p->effective, key))
        set(p, key, value);
}

/* libpq has a default of its own for these, so that only the URL and the environment show what
 * somebody wanted. */
static bool is_chosen(const struct parameters *p, const char *key, const char *variable,
                      const char *libpq_default)
{
    const char *effective = option(p->effective, key);
    const char *env = getenv(variable);
    return *option(p->given, key) || (env && *env) ||
           (*effective && strcmp(effective, libpq_default) != 0);
}

/* One of a list with commas. Returns what is behind it; NULL: it was the last. */
static const char *next_item(const char *list, char *out, size_t out_size)
{
    size_t size = strcspn(list, ",");
    size_t kept = size < out_size ? size : out_size - 1;
    memcpy(out, list, kept);
    out[kept] = '\0';
    return list[size] ? list + size + 1 : NULL;
}

static bool is_local(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (!*host || *host == '/' || *host == '@') /* a socket */
        return true;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, host, &v6) == 1)
        return IN6_IS_ADDR_LOOPBACK(&v6);
    return strcasecmp(host, "localhost") == 0;
}

static void look_at_hosts(struct parameters *p)
{
    char item[256];
    const char *hosts = option(p->effective, "hostaddr");
    if (!*hosts)
        hosts = option(p->effective, "host");
    p->several_hosts = strchr(hosts, ',') != NULL;
    for (const char *rest = hosts; rest;) {
        rest = next_item(rest, item, sizeof(item));
        p->remote = p->remote || !is_local(item);
    }
}

static void choose_root_cert(struct parameters *p)
{
    static const char *const bundles[] = {
        "/etc/ssl/certs/ca-certificates.crt", /* Debian */
        "/etc/pki/tls/certs/ca-bundle.crt",   /* Fedora */
        "/etc/ssl/ca-bundle.pem",             /* SUSE */
        "/etc/ssl/cert.pem",                  /* Alpine */
    };
    const char *home = getenv("HOME");
    struct ldg_buf own;
    ldg_buf_init(&own, sizeof(p->root_cert) - 1);
    if (home && *home && ldg_buf_printf(&own, "%s/.postgresql/root.crt", home) == LEDGER_OK &&
        access(own.data, R_OK) == 0) {
        memcpy(p->root_cert, own.data, own.size + 1);
        set_default(p, "sslrootcert", p->root_cert);
        goto out;
    }
    for (size_t i = 0; i < sizeof(bundles) / sizeof(bundles[0]); i++) {
        if (access(bundles[i], R_OK) == 0) {
            set_default(p, "sslrootcert", bundles[i]);
            break;
        }
    }
out:
    ldg_buf_fini(&own);
}

/* What libpq would do with the URL, and nothing of it done: a setting that is refused when all
 * others were looked up and checked ends it before a packet is sent or a name resolved. */
static ledger_rc look_up(struct parameters *p, ledger_error *err)
{
    static const char refused[] = "none, only looking";
    const char *keys[PARAMETERS_MAX + 2];
    const char *values[PARAMETERS_MAX + 2];
    char text[320];
    ledger_rc rc = LEDGER_OK;
    memcpy(keys, p->keys, p->count * sizeof(keys[0]));
    memcpy(values, p->values, p->count * sizeof(values[0]));
    keys[p->count] = "gssencmode";
    values[p->count] = refused;
    keys[p->count + 1] = NULL;
    values[p->count + 1] = NULL;
    PGconn *conn = PQconnectStartParams(keys, values, 0);
    p->effective = conn ? PQconninfo(conn) : NULL;
    if (!p->effective) {
        rc = ldg_fail_nomem(err);
    } else if (!strstr(PQerrorMessage(conn), refused)) { /* another was refused before it */
        ldg_pg_message(conn, text, sizeof(text));
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "%s; correct it in the URL, the environment (PG...) or the service file",
                      text);
    }
    PQfinish(conn);
    return rc;
}

/* A password with an @ or a / ends too early, and its rest is taken for the host or the database:
 * such a rest must not come into any message. No name of a host holds an @ (a socket may begin with
 * one); of a database, with no user before it or another / behind it, is not worth the risk. */
static ledger_rc check_splits(const struct parameters *p, ledger_error *err)
{
    char item[256];
    bool split = false;
    const char *host = option(p->given, "host");
    for (const char *rest = host; rest && !split;) {
        rest = next_item(rest, item, sizeof(item));
        split = *item && strchr(item + 1, '@') != NULL;
    }
    const char *at = strchr(option(p->given, "dbname"), '@');
    if (*host && at && (!*option(p->given, "user") || strchr(at, '/')))
        split = true;
    if (split)
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "the store's URL has an @ or / too many; write those of the user and the "
                        "password as %%40 and %%2F");
    return LEDGER_OK;
}

static ledger_rc check_ports(const struct parameters *p, ledger_error *err)
{
    char item[256];
    int64_t port = 0;
    for (const char *rest = option(p->effective, "port"); rest;) {
        rest = next_item(rest, item, sizeof(item));
        if (*item && (!ldg_int64_parse(item, true, &port) || port < 1 || port > 65535))
            return ldg_fail(err, LEDGER_ERR_INVALID, "\"%.32s\" is no port number (1 to 65535)",
                            item);
    }
    return LEDGER_OK;
}

/* postgresql://… is libpq's; postgresql:host=… is its other form behind our scheme. */
static const char *conninfo_of(const char *url)
{
    const char *colon = strchr(url, ':');
    return colon && strncmp(colon, "://", 3) != 0 ? colon + 1 : url;
}

static ledger_rc fill_parameters(const struct ldg_pg *pg, struct parameters *p, ledger_error *err)
{
    char *why = NULL;
    p->given = PQconninfoParse(conninfo_of(pg->url), &why);
    if (!p->given) {
        /* What it quotes may be a password. */
        int size = why ? (int)strcspn(why, "\":\n") : 0;
        ledger_rc rc = why ? ldg_fail(err, LEDGER_ERR_INVALID,
                                      "the store's URL is not one of PostgreSQL (%.*s); write "
                                      "postgresql://USER@HOST:PORT/DATABASE?PARAMETER=VALUE with "
                                      "libpq's parameters, special characters as %%HH",
                                      size, why)
                           : ldg_fail_nomem(err);
        PQfreemem(why);
        return rc;
    }
    for (const PQconninfoOption *o = p->given; o->keyword; o++) {
        if (o->val && *o->val)
            set(p, o->keyword, o->val);
    }
    ledger_rc rc = check_splits(p, err);
    if (rc == LEDGER_OK)
        rc = look_up(p, err);
    if (rc == LEDGER_OK)
        rc = check_ports(p, err);
    if (rc != LEDGER_OK)
        return rc;
    look_at_hosts(p);
    set_default(p, "connect_timeout", "10");
    set_default(p, "tcp_user_timeout", "30000");
    set_default(p, "keepalives_idle", "30");
    set_default(p, "keepalives_interval", "10");
    set_default(p, "keepalives_count", "3");
    (void)snprintf(p->label, sizeof(p->label), "%s", pg->label);
    set_default(p, "application_name", p->label);
    set(p, "client_encoding", "UTF8"); /* texts of ours are nothing else */
    /* The one that is written, whatever its default for transactions is; also for reading, because
     * a standby may be behind by any time. */
    if (p->several_hosts && !is_chosen(p, "target_session_attrs", "PGTARGETSESSIONATTRS", "any"))
        set(p, "target_session_attrs", "primary");
    if (p->remote && !is_chosen(p, "sslmode", "PGSSLMODE", "prefer")) {
        p->verifies_remote = true;
        set(p, "sslmode", "verify-full");
        choose_root_cert(p);
    }
    return LEDGER_OK;
}

/* --- dialling -------------------------------------------------------------------------------- */

static void ignore_notice(void *ctx, const PGresult *result)
{
    /* libpq would print it. */
}

/* The SQLSTATE in libpq's verbose text "FATAL:  28P01: …"; there is no other way to learn it before
 * a connection is made. Of several hosts it is the last one's that gave any. *ret_line: the line.
 */
static void find_sqlstate(const char *text, char sqlstate[6], const char **ret_line)
{
    static const char in_state[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    *ret_line = text;
    for (const char *p = strstr(text, ":  "); p; p = strstr(p + 1, ":  ")) {
        if (strspn(p + 3, in_state) == 5 && p[8] == ':') {
            memcpy(sqlstate, p + 3, 5);
            sqlstate[5] = '\0';
            const char *end = memrchr(text, '\n', (size_t)(p - text));
            *ret_line = end ? end + 1 : text;
        }
    }
}

/* One attempt to connect. Looking up names, and waiting for one host of several, blocks inside of
 * libpq. Where somebody may want to stop that, the attempt has a thread of its own; who gave up
 * leaves it behind, and it frees itself when it ends. */
struct attempt {
    struct parameters p;
    const ledger_wait *wait; /* NULL: nobody is asked or told */
    PGconn *conn;            /* NULL: no memory */
    bool timed_out;
    atomic_bool resolved; /* nothing has to be looked up any more */
    atomic_bool left;     /* nobody waits for it any more */
    bool done;            /* under the mutex */
    pthread_mutex_t mutex;
    pthread_cond_t cond;
};

/* Drives one connection until it stands or failed. False: its time is over. */
static bool drive(const struct attempt *a, PGconn *conn, int timeout_s)
{
    int64_t until_us = ldg_clock_mono_us() + (int64_t)timeout_s * 1000000;
    PostgresPollingStatusType state = PGRES_POLLING_WRITING;
    while (state != PGRES_POLLING_OK && state != PGRES_POLLING_FAILED) {
        int64_t left_us = until_us - ldg_clock_mono_us();
        struct pollfd fd = { .fd = PQsocket(conn),
                             .events = state == PGRES_POLLING_READING ? POLLIN : POLLOUT };
        if ((timeout_s > 0 && left_us <= 0) || atomic_load(&a->left))
            return false;
        if (fd.fd < 0)
            break;
        if (poll(&fd, 1, LDG_WAIT_LOOK_MS) > 0)
            state = PQconnectPoll(conn);
    }
    return true;
}

static int connect_timeout_of(const struct parameters *p)
{
    int64_t value = 0;
    const char *text = option(p->effective, "connect_timeout");
    if (!*text)
        return CONNECT_TIMEOUT_S;
    if (!ldg_int64_parse(text, false, &value) || value <= 0 || value > INT_MAX)
        return 0; /* libpq: for ever */
    return value < 2 ? 2 : (int)value;
}

/* Which of the limits on connections was met: they share one SQLSTATE, and the words come in the
 * server's language; but libpq's verbose text ends in the place in the server's source. */
static const char *hint_of_limit(const char *text)
{
    if (strstr(text, "InitializeSessionUserId"))
        return "; this role has all connections that it may have: ALTER ROLE ... CONNECTION LIMIT "
               "-1 (or more than now), or end some of them (pg_stat_activity)";
    if (strstr(text, "CheckMyDatabase"))
        return "; this database has all connections that it may have: ALTER DATABASE ... "
               "CONNECTION LIMIT -1 (or more than now), or end some of them (pg_stat_activity)";
    return "; the server has all connections that it may have, less those reserved for superusers: "
           "end some (pg_stat_activity), raise max_connections, or use a pooler";
}

/* Words for what a refused connection needs. */
static const char *hint_of(const struct parameters *p, const char *sqlstate, const char *text)
{
    if (strcmp(sqlstate, "53300") == 0)
        return hint_of_limit(text);
    if (!*sqlstate && p->verifies_remote)
        return "; check host, port and that the server runs; a remote server has to show a "
               "certificate that can be verified: name its CA with sslrootcert=FILE, or choose "
               "another sslmode";
    if (!*sqlstate)
        return "; check host, port and that the server runs and listens there";
    return NULL;
}

static ledger_rc fail_dial(const struct parameters *p, PGconn *conn, bool timed_out,
                           ledger_error *err)
{
    char text[320], sqlstate[6] = "";
    const char *line = NULL;
    if (timed_out)
        return ldg_fail(err, LEDGER_ERR_CONNECT,
                        "no answer from the server at %s, port %s, within %d seconds; check host "
                        "and port, and firewalls between",
                        PQhost(conn) ? PQhost(conn) : "", PQport(conn) ? PQport(conn) : "",
                        connect_timeout_of(p));
    find_sqlstate(PQerrorMessage(conn), sqlstate, &line);
    ldg_pg_show(line, text, sizeof(text));
    if (PQconnectionNeedsPassword(conn)) /* it gave up by itself, without a SQLSTATE */
        return ldg_fail(err, LEDGER_ERR_PERMISSION,
                        "%s; give a password in PGPASSWORD, ~/.pgpass, a service file or "
                        "ledgerctl's --password-file",
                        text);
    return ldg_pg_fail_state(err, sqlstate, text, hint_of(p, sqlstate, line));
}

static void try_once(struct attempt *a)
{
    /* libpq goes on to the next host when one is silent, but only if it waits itself; what it then
     * says lacks the SQLSTATE, so a failure is looked at once more. */
    if (a->p.several_hosts)
        a->conn = PQconnectdbParams(a->p.keys, a->p.values, 0);
    if (a->conn && PQstatus(a->conn) == CONNECTION_OK)
        return;
    PQfinish(a->conn);
    a->conn = PQconnectStartParams(a->p.keys, a->p.values, 0);
    atomic_store(&a->resolved, true);
    if (!a->conn)
        return;
    PQsetErrorVerbosity(a->conn, PQERRORS_VERBOSE);
    PQsetNoticeReceiver(a->conn, ignore_notice, NULL);
    if (PQstatus(a->conn) != CONNECTION_BAD)
        a->timed_out = !drive(a, a->conn, connect_timeout_of(&a->p));
}

static struct attempt *new_attempt(const ledger_wait *wait)
{
    pthread_condattr_t attr;
    struct attempt *a = ldg_calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    a->wait = wait;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&a->mutex, NULL);
    pthread_cond_init(&a->cond, &attr);
    pthread_condattr_destroy(&attr);
    return a;
}

static void free_attempt(struct attempt *a)
{
    if (!a)
        return;
    PQfinish(a->conn);
    free_parameters(&a->p);
    pthread_mutex_destroy(&a->mutex);
    pthread_cond_destroy(&a->cond);
    ldg_free(a);
}

static void *attempt_main(void *arg)
{
    struct attempt *a = arg;
    try_once(a);
    pthread_mutex_lock(&a->mutex);
    a->done = true;
    const bool left = atomic_load(&a->left);
    pthread_cond_signal(&a->cond);
    pthread_mutex_unlock(&a->mutex);
    if (left)
        free_attempt(a);
    return NULL;
}

/* "to db1, port 5432"; of several hosts all. */
static void name_target(const struct parameters *p, char *out, size_t out_size)
{
    const char *host = option(p->effective, "host");
    const char *port = option(p->effective, "port");
    if (!*host)
        host = option(p->effective, "hostaddr");
    (void)snprintf(out, out_size, "to %.160s, port %.40s", *host ? host : "the local socket",
                   *port ? port : "5432");
}

static void tell_attempt(struct attempt *a)
{
    char target[240];
    name_target(&a->p, target, sizeof(target));
    ldg_wait_tell(a->wait, "connecting %s: waits for %s", target,
                  a->p.several_hosts           ? "the name service, or an answer of the servers"
                  : !atomic_load(&a->resolved) ? "the name service to find the host"
                                               : "an answer of the server");
}

/* Waits for one look. */
static bool attempt_is_done(struct attempt *a)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += LDG_WAIT_LOOK_MS * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    pthread_mutex_lock(&a->mutex);
    int waited = 0;
    while (!a->done && waited == 0)
        waited = pthread_cond_timedwait(&a->cond, &a->mutex, &until);
    const bool done = a->done;
    pthread_mutex_unlock(&a->mutex);
    return done;
}

/* False: it was left behind, and is not ours any more. */
static bool leave(struct attempt *a)
{
    pthread_mutex_lock(&a->mutex);
    const bool done = a->done;
    atomic_store(&a->left, !done);
    pthread_mutex_unlock(&a->mutex);
    return done;
}

static ledger_rc await_attempt(struct attempt **attempt, ledger_error *err)
{
    struct attempt *a = *attempt;
    struct ldg_waiting waiting = { .wait = a->wait };
    char target[240];
    while (!attempt_is_done(a)) {
        if (ldg_waiting_is_long(&waiting))
            tell_attempt(a);
        if (ldg_waiting_ask(&waiting) == LEDGER_WAIT_ON)
            continue;
        const bool interrupted = ldg_wait_interrupted(a->wait);
        name_target(&a->p, target, sizeof(target));
        if (leave(a))
            break;
        *attempt = NULL;
        if (interrupted)
            return ldg_fail(err, LEDGER_ERR_CANCELLED, "connecting %s: interrupted", target);
        return ldg_fail(err, LEDGER_ERR_CONNECT,
                        "connecting %s: no answer within %lld seconds, and no more time for it; "
                        "check host and port, and firewalls between",
                        target, (long long)(ldg_waiting_ms(&waiting) / 1000));
    }
    return LEDGER_OK;
}

/* In a thread of its own where somebody is to be asked meanwhile. */
static ledger_rc run_attempt(struct attempt **attempt, ledger_error *err)
{
    struct ldg_waiting now = { .wait = (*attempt)->wait };
    pthread_attr_t attr;
    pthread_t thread;
    const ledger_wait_answer answer = ldg_waiting_ask(&now);
    if (answer == LDG_WAIT_INTERRUPTED)
        return ldg_fail(err, LEDGER_ERR_CANCELLED, "interrupted before it has connected");
    if (answer != LEDGER_WAIT_ON)
        return ldg_fail(err, LEDGER_ERR_CONNECT, "no more time to connect");
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    const bool started =
        (*attempt)->wait && pthread_create(&thread, &attr, attempt_main, *attempt) == 0;
    pthread_attr_destroy(&attr);
    if (started)
        return await_attempt(attempt, err);
    try_once(*attempt);
    return LEDGER_OK;
}

ledger_rc ldg_pg_dial(const struct ldg_pg *pg, const ledger_wait *wait, PGconn **ret_conn,
                      ledger_error *err)
{
    struct attempt *a = new_attempt(wait);
    ledger_rc rc = a ? fill_parameters(pg, &a->p, err) : ldg_fail_nomem(err);
    if (rc == LEDGER_OK)
        rc = run_attempt(&a, err);
    if (rc != LEDGER_OK)
        goto out;
    if (!a->conn) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    if (PQstatus(a->conn) != CONNECTION_OK) {
        rc = fail_dial(&a->p, a->conn, a->timed_out, err);
        goto out;
    }
    PQsetErrorVerbosity(a->conn, PQERRORS_DEFAULT);
    PQsetNoticeReceiver(a->conn, ignore_notice, NULL);
    if (PQsetnonblocking(a->conn, 1) != 0) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    *ret_conn = a->conn;
    a->conn = NULL;
out:
    free_attempt(a);
    return rc;
}

/* --- letting it go --------------------------------------------------------------------------- */

void ldg_pg_drop(struct ldg_pg *pg)
{
    if (!pg->conn)
        return;
    if (pg->in_user_tx || pg->in_snapshot)
        pg->lost_in_tx = true;
    if (!pg->own_conn)
        return; /* the caller's to mend */
    ldg_pg_orphan_note(pg);
    PQfinish(pg->conn);
    pg->conn = NULL;
    ldg_pg_forget(pg);
}

void ldg_pg_close_conn(struct ldg_pg *pg)
{
    if (pg->own_conn || pg->close_given)
        PQfinish(pg->conn);
    pg->conn = NULL;
    pg->backend_pid = 0;
    ldg_pg_forget(pg);
}

/* A server that went away has said so by now: something to read, or the end. */
bool ldg_pg_is_alive(struct ldg_pg *pg)
{
    for (int tries = 0; tries < 8 && PQstatus(pg->conn) == CONNECTION_OK; tries++) {
        struct pollfd fd = { .fd = PQsocket(pg->conn), .events = POLLIN };
        if (poll(&fd, 1, 0) <= 0)
            return true;
        if (!PQconsumeInput(pg->conn))
            return false;
        (void)!PQisBusy(pg->conn); /* takes in what came: notices, settings */
    }
    return PQstatus(pg->conn) == CONNECTION_OK;
}
