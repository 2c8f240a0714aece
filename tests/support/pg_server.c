/* PostgreSQL servers for tests: see pg_server.h.
 *
 * A server is a child of this process, told by the kernel to stop when we die (PDEATHSIG); an exit
 * handler stops it in the usual case and removes its folder. */
#include "pg_server.h"

#include "fixtures.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SERVERS_MAX 16
#define START_US (60 * 1000000LL)

static struct tst_pg *servers[SERVERS_MAX];
static struct tst_pg *shared;
static pid_t owner; /* who has to clean up: not a child that we forked */

/* --- what is here ------------------------------------------------------------------------------
 */

static char bin_dir[400]; /* "" = not looked yet, or none */
static char why_not[500];
static uid_t server_uid;
static gid_t server_gid;

static bool find_bin(void)
{
    const char *named = getenv("LEDGER_TEST_PG_BIN");
    const char *path = getenv("PATH");
    char probe[500];
    glob_t found = { 0 };
    bin_dir[0] = '\0';
    if (named != NULL && named[0] != '\0') {
        snprintf(bin_dir, sizeof bin_dir, "%s", named);
    } else if (glob("/usr/lib/postgresql/*/bin/postgres", 0, NULL, &found) == 0) {
        int best = -1;
        for (size_t i = 0; i < found.gl_pathc; i++) {
            int version = (int)strtol(found.gl_pathv[i] + strlen("/usr/lib/postgresql/"), NULL, 10);
            if (version > best) {
                best = version;
                snprintf(bin_dir, sizeof bin_dir, "%.*s",
                         (int)(strlen(found.gl_pathv[i]) - strlen("/postgres")), found.gl_pathv[i]);
            }
        }
    }
    globfree(&found);
    while (bin_dir[0] == '\0' && path != NULL && path[0] != '\0') {
        size_t n = strcspn(path, ":");
        snprintf(probe, sizeof probe, "%.*s/postgres", (int)n, path);
        if (n > 0 && n < sizeof bin_dir && access(probe, X_OK) == 0)
            snprintf(bin_dir, sizeof bin_dir, "%.*s", (int)n, path);
        path += n + (path[n] == ':');
    }
    snprintf(probe, sizeof probe, "%s/initdb", bin_dir);
    return bin_dir[0] != '\0' && access(probe, X_OK) == 0;
}

bool tst_pg_here(const char **ret_why)
{
    static bool looked;
    if (!looked) {
        static const char *const settings[] = {
            "PGHOST",        "PGHOSTADDR", "PGPORT",           "PGDATABASE", "PGUSER",
            "PGPASSWORD",    "PGPASSFILE", "PGSERVICE",        "PGSSLMODE",  "PGOPTIONS",
            "PGSERVICEFILE", "PGAPPNAME",  "PGCLIENTENCODING", "PGDATA",     "PGCONNECT_TIMEOUT",
        };
        struct passwd *user;
        looked = true;
        for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++)
            (void)unsetenv(settings[i]); /* the user's own are none of our business */
        server_uid = geteuid();
        server_gid = getegid();
        if (!find_bin()) {
            snprintf(why_not, sizeof why_not,
                     "no PostgreSQL server (initdb and postgres) is"
                     " installed; ./dev deps test installs one");
        } else if (server_uid == 0) {
            user = getpwnam("postgres");
            if (user == NULL)
                user = getpwnam("nobody");
            if (user == NULL)
                snprintf(why_not, sizeof why_not,
                         "PostgreSQL refuses to run as root, and there is no user postgres");
            else
                server_uid = user->pw_uid, server_gid = user->pw_gid;
        }
    }
    if (ret_why != NULL)
        *ret_why = why_not;
    return why_not[0] == '\0';
}

void tst_pg_require(void)
{
    const char *ci = getenv("CI");
    const char *why;
    if (tst_pg_here(&why))
        return;
    if (ci != NULL && strcmp(ci, "true") == 0)
        tst_fail("%s", why);
    print_message("%s\n", why);
    skip();
}

/* --- programs ----------------------------------------------------------------------------------
 */

/* In the child: becomes the server's user and runs bin_dir/args[0], output into the log. */
static void become(const struct tst_pg *pg, const char **args, int death_signal, pid_t parent)
{
    char path[500];
    int log;
    snprintf(path, sizeof path, "%s/log", pg->dir);
    log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
        _exit(126);
    if (geteuid() == 0 &&
        (setgroups(0, NULL) != 0 || setgid(server_gid) != 0 || setuid(server_uid) != 0))
        _exit(125);
    if (chdir(pg->dir) != 0)
        _exit(124);
    /* After the change of user, which would forget it. */
    if (death_signal != 0 && (prctl(PR_SET_PDEATHSIG, death_signal) != 0 || getppid() != parent))
        _exit(123);
    /* By its whole path: the server's programs look for each other beside what they were called. */
    snprintf(path, sizeof path, "%s/%s", args[0][0] == '/' ? "" : bin_dir, args[0]);
    args[0] = path;
    execv(path, (char *const *)(uintptr_t)args);
    _exit(127);
}

static pid_t spawn(const struct tst_pg *pg, const char **args, int death_signal)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        become(pg, args, death_signal, parent);
    return pid;
}

static void run_program(const struct tst_pg *pg, const char **args)
{
    int status = -1;
    pid_t pid = spawn(pg, args, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (status != 0)
        tst_fail("%s/%s ended with status %d", bin_dir, args[0], status);
}

void tst_pg_show_logs(void)
{
    for (size_t i = 0; i < SERVERS_MAX && owner == getpid(); i++)
        if (servers[i] != NULL)
            tst_show_log(servers[i]->dir);
}

/* --- from birth to death -----------------------------------------------------------------------
 */

static void clean_up(void)
{
    if (owner != getpid())
        return;
    for (size_t i = 0; i < SERVERS_MAX; i++)
        if (servers[i] != NULL && servers[i]->pid != 0)
            (void)kill(servers[i]->pid, SIGQUIT);
    for (size_t i = 0; i < SERVERS_MAX; i++) {
        if (servers[i] == NULL)
            continue;
        if (!tst_reap(&servers[i]->pid, 10000000)) {
            (void)kill(servers[i]->pid, SIGKILL);
            (void)tst_reap(&servers[i]->pid, 10000000);
        }
        tst_folder_remove(servers[i]->dir);
        free(servers[i]);
        servers[i] = NULL;
    }
}

static struct tst_pg *make(void)
{
    struct tst_pg *pg = calloc(1, sizeof *pg);
    size_t slot = 0;
    assert_non_null(pg);
    if (owner != getpid()) {
        owner = getpid();
        assert_int_equal(atexit(clean_up), 0);
    }
    tst_folder_make("pg", pg->dir);
    while (slot < SERVERS_MAX && servers[slot] != NULL)
        slot++;
    assert_true(slot < SERVERS_MAX);
    servers[slot] = pg;
    snprintf(pg->data, sizeof pg->data, "%s/data", pg->dir);
    pg->port = tst_free_port();
    if (geteuid() == 0)
        assert_int_equal(chown(pg->dir, server_uid, server_gid), 0);
    assert_int_equal(chmod(pg->dir, 0755), 0);
    return pg;
}

static void write_file(const struct tst_pg *pg, const char *name, const char *mode,
                       const char *first, const char *second)
{
    char path[400];
    FILE *file;
    snprintf(path, sizeof path, "%s/%s", pg->data, name);
    file = fopen(path, mode);
    if (file == NULL)
        tst_fail("%s: %s", path, strerror(errno));
    fprintf(file, "%s\n%s\n", first != NULL ? first : "", second != NULL ? second : "");
    assert_int_equal(fclose(file), 0);
}

void tst_pg_configure(struct tst_pg *pg, const char *settings)
{
    write_file(pg, "postgresql.conf", "ae", settings, NULL);
}

static void configure_place(struct tst_pg *pg, bool tcp)
{
    char text[700];
    snprintf(text, sizeof text,
             "listen_addresses = '%s'\nport = %d\nunix_socket_directories = '%s'\n",
             tcp ? "127.0.0.1" : "", pg->port, pg->dir);
    tst_pg_configure(pg, text);
}

/* LEDGER_TEST_PG_CLUSTER/data, if LEDGER_TEST_PG_CLUSTER/bin says that our server made it. */
static bool find_made_cluster(char *ret_data, size_t size)
{
    const char *made = getenv("LEDGER_TEST_PG_CLUSTER");
    char link[500], made_with[sizeof bin_dir];
    ssize_t length;
    if (made == NULL || made[0] == '\0')
        return false;
    snprintf(link, sizeof link, "%s/bin", made);
    length = readlink(link, made_with, sizeof made_with);
    snprintf(ret_data, size, "%s/data", made);
    return length == (ssize_t)strlen(bin_dir) && memcmp(made_with, bin_dir, (size_t)length) == 0;
}

static void make_data(const struct tst_pg *pg, bool own_cluster)
{
    char made[500];
    if (!own_cluster && find_made_cluster(made, sizeof made))
        run_program(pg, (const char *[]){ "/bin/cp", "-a", made, pg->data, NULL });
    else
        run_program(pg, (const char *[]){ "initdb", "-D", pg->data, "-A", "trust", "-N", "-U",
                                          "postgres", "-E", "UTF8", "--locale=C.UTF-8",
                                          "--no-instructions", NULL });
}

struct tst_pg *tst_pg_start(const struct tst_pg_options *options)
{
    static const struct tst_pg_options none = { 0 };
    struct tst_pg *pg;
    tst_pg_require();
    if (options == NULL)
        options = &none;
    pg = make();
    make_data(pg, options->own_cluster);
    tst_pg_configure(pg, "fsync = off\nfull_page_writes = off\nshared_buffers = 64MB\n"
                         "max_connections = 120\nmax_prepared_transactions = 64\n"
                         "log_checkpoints = off\nautovacuum_naptime = 5s\n");
    configure_place(pg, options->tcp);
    tst_pg_configure(pg, options->settings);
    if (options->hba != NULL)
        write_file(pg, "pg_hba.conf", "we", options->hba,
                   "local all all trust\nlocal replication all trust\n"
                   "host all all 127.0.0.1/32 trust");
    tst_pg_run(pg);
    return pg;
}

struct tst_pg *tst_pg_shared(void)
{
    if (shared == NULL)
        shared = tst_pg_start(NULL);
    else if (shared->pid == 0)
        tst_pg_run(shared);
    return shared;
}

void tst_pg_run(struct tst_pg *pg)
{
    int64_t end = tst_mono_us() + tst_slow(START_US);
    char url[700];
    assert_int_equal(pg->pid, 0);
    pg->pid = spawn(pg, (const char *[]){ "postgres", "-D", pg->data, NULL }, SIGQUIT);
    snprintf(url, sizeof url, "%s", tst_pg_url(pg, NULL, NULL, NULL));
    for (;;) {
        int status;
        if (PQping(url) == PQPING_OK)
            return;
        if (waitpid(pg->pid, &status, WNOHANG) == pg->pid) {
            pg->pid = 0;
            tst_fail("the server has ended while it was starting, status %d", status);
        }
        if (tst_mono_us() > end)
            tst_fail("the server does not take connections");
        tst_sleep_us(5000);
    }
}

void tst_pg_stop(struct tst_pg *pg, enum tst_pg_stop how)
{
    assert_true(pg->pid > 0);
    tst_pg_forget(); /* a smart one waits for every session */
    (void)kill(pg->pid, how == TST_PG_SMART ? SIGTERM : how == TST_PG_FAST ? SIGINT : SIGQUIT);
    if (!tst_reap(&pg->pid, tst_slow(START_US)))
        tst_fail("the server does not stop");
}

/* Children of the postmaster, by /proc. */
static size_t children(pid_t parent, pid_t *pids, size_t max)
{
    DIR *d = opendir("/proc");
    struct dirent *item;
    size_t count = 0;
    while (d != NULL && (item = readdir(d)) != NULL && count < max) {
        char path[300], text[512], *end;
        size_t size;
        FILE *file;
        long pid = strtol(item->d_name, &end, 10);
        if (*end != '\0' || pid <= 0)
            continue;
        snprintf(path, sizeof path, "/proc/%ld/stat", pid);
        file = fopen(path, "re");
        if (file == NULL)
            continue;
        size = fread(text, 1, sizeof text - 1, file);
        fclose(file);
        text[size] = '\0';
        end = strrchr(text, ')'); /* ") S ppid" */
        if (end != NULL && strlen(end) > 4 && strtol(end + 4, NULL, 10) == parent)
            pids[count++] = (pid_t)pid;
    }
    if (d != NULL)
        closedir(d);
    return count;
}

static bool is_gone(pid_t pid)
{
    char path[64], text[512], *end;
    size_t size;
    FILE *file;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    file = fopen(path, "re");
    if (file == NULL)
        return true;
    size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = '\0';
    end = strrchr(text, ')');
    return end == NULL || end[1] == '\0' || end[2] == 'Z' || end[2] == 'X';
}

static void await_gone(pid_t pid)
{
    int64_t end = tst_mono_us() + tst_slow(START_US);
    while (!is_gone(pid)) {
        if (tst_mono_us() > end)
            tst_fail("process %d of the server does not end", (int)pid);
        tst_sleep_us(1000);
    }
}

void tst_pg_kill(struct tst_pg *pg)
{
    pid_t pids[512];
    size_t count;
    assert_true(pg->pid > 0);
    (void)kill(pg->pid, SIGSTOP); /* it starts no one any more */
    count = children(pg->pid, pids, sizeof pids / sizeof pids[0]);
    for (size_t i = 0; i < count; i++)
        (void)kill(pids[i], SIGKILL);
    (void)kill(pg->pid, SIGKILL);
    if (!tst_reap(&pg->pid, tst_slow(START_US)))
        tst_fail("kill -9 did not end the server");
    for (size_t i = 0; i < count; i++)
        await_gone(pids[i]);
}

void tst_pg_reload(struct tst_pg *pg)
{
    tst_pg_exec(pg, NULL, "SELECT pg_reload_conf()");
}

void tst_pg_destroy(struct tst_pg **pg)
{
    struct tst_pg *gone = *pg;
    if (gone == NULL)
        return;
    if (gone->pid != 0)
        tst_pg_stop(gone, TST_PG_IMMEDIATE);
    tst_folder_remove(gone->dir);
    for (size_t i = 0; i < SERVERS_MAX; i++)
        if (servers[i] == gone)
            servers[i] = NULL;
    if (shared == gone)
        shared = NULL;
    free(gone);
    *pg = NULL;
}

struct tst_pg *tst_pg_standby(struct tst_pg *primary)
{
    struct tst_pg *pg = make();
    char port[16];
    bool tcp;
    PGconn *conn = tst_pg_connect(primary, NULL);
    tcp = tst_pg_sql_int(conn, "SELECT (current_setting('listen_addresses') <> '')::int") == 1;
    PQfinish(conn);
    snprintf(port, sizeof port, "%d", primary->port);
    run_program(pg, (const char *[]){ "pg_basebackup", "-D", pg->data, "-h", primary->dir, "-p",
                                      port, "-U", "postgres", "-R", "-X", "stream", "-c", "fast",
                                      "--no-sync", NULL });
    configure_place(pg, tcp);
    tst_pg_run(pg);
    return pg;
}

void tst_pg_promote(struct tst_pg *standby)
{
    PGconn *conn = tst_pg_connect(standby, NULL);
    if (tst_pg_sql_int(conn, "SELECT pg_promote(true, 60)::int") != 1)
        tst_fail("the standby was not promoted");
    PQfinish(conn);
}

/* --- talking to it -----------------------------------------------------------------------------
 */

static const char *url_text(const struct tst_pg *pg, const char *host, const char *database,
                            const char *role, const char *more)
{
    static char urls[8][900];
    static unsigned turn;
    char *url = urls[turn++ % 8];
    snprintf(url, sizeof urls[0], "postgresql:///%s?host=%s&port=%d&user=%s%s%s",
             database != NULL ? database : "postgres", host, pg->port,
             role != NULL ? role : "postgres", more != NULL ? "&" : "", more != NULL ? more : "");
    return url;
}

const char *tst_pg_url(const struct tst_pg *pg, const char *database, const char *role,
                       const char *more)
{
    return url_text(pg, pg->dir, database, role, more);
}

const char *tst_pg_url_tcp(const struct tst_pg *pg, const char *database, const char *role,
                           const char *more)
{
    return url_text(pg, "127.0.0.1", database, role, more);
}

static void no_notice(void *ctx, const PGresult *result)
{
}

PGconn *tst_pg_connect_url(const char *url)
{
    PGconn *conn = PQconnectdb(url);
    if (PQstatus(conn) != CONNECTION_OK)
        tst_fail("%s", PQerrorMessage(conn));
    PQsetNoticeReceiver(conn, no_notice, NULL);
    return conn;
}

/* Most questions of a test go to one of two stores, and a session costs more than they do. */
#define KEPT_MAX 4
static struct kept {
    PGconn *conn;
    char url[900];
} kept[KEPT_MAX]; /* the one used last comes first */

/* Nobody has left a transaction open, and the server has not ended the session. */
static bool is_usable(PGconn *conn)
{
    return PQtransactionStatus(conn) == PQTRANS_IDLE && PQconsumeInput(conn) == 1 &&
           PQconsumeInput(conn) == 1 && PQstatus(conn) == CONNECTION_OK;
}

PGconn *tst_pg_kept(const char *url)
{
    struct kept found = { .conn = NULL };
    size_t at = 0;
    while (at < KEPT_MAX - 1 && kept[at].conn != NULL && strcmp(kept[at].url, url) != 0)
        at++;
    if (kept[at].conn != NULL && strcmp(kept[at].url, url) == 0 && is_usable(kept[at].conn)) {
        found = kept[at];
    } else {
        PQfinish(kept[at].conn);
        kept[at].conn = NULL;
        snprintf(found.url, sizeof found.url, "%s", url);
        found.conn = tst_pg_connect_url(url);
    }
    memmove(&kept[1], &kept[0], at * sizeof kept[0]);
    kept[0] = found;
    return found.conn;
}

void tst_pg_forget(void)
{
    for (size_t i = 0; i < KEPT_MAX; i++) {
        PQfinish(kept[i].conn);
        kept[i].conn = NULL;
    }
}

PGconn *tst_pg_connect(const struct tst_pg *pg, const char *database)
{
    /* Whatever the database is set to. */
    return tst_pg_connect_url(
        tst_pg_url(pg, database, NULL,
                   "options=-cstatement_timeout%3D0%20-cdefault_transaction_read_only%3Doff"
                   "%20-cidle_in_transaction_session_timeout%3D0"));
}

static PGresult *LEDGER_PRINTF(2, 0) sql_v(PGconn *conn, const char *fmt, va_list args)
{
    PGresult *result;
    char *text = NULL;
    if (vasprintf(&text, fmt, args) < 0)
        tst_fail("out of memory");
    result = PQexec(conn, text);
    if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK)
        tst_fail("%.300s: %s", text, PQerrorMessage(conn));
    free(text);
    return result;
}

void tst_pg_sql(PGconn *conn, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    PQclear(sql_v(conn, fmt, args));
    va_end(args);
}

static int64_t result_int(PGresult *result)
{
    int64_t value = -1;
    if (PQntuples(result) > 0 && !PQgetisnull(result, 0, 0))
        value = strtoll(PQgetvalue(result, 0, 0), NULL, 10);
    PQclear(result);
    return value;
}

int64_t tst_pg_sql_int(PGconn *conn, const char *fmt, ...)
{
    PGresult *result;
    va_list args;
    va_start(args, fmt);
    result = sql_v(conn, fmt, args);
    va_end(args);
    return result_int(result);
}

char *tst_pg_sql_text(PGconn *conn, const char *fmt, ...)
{
    PGresult *result;
    char *text;
    va_list args;
    va_start(args, fmt);
    result = sql_v(conn, fmt, args);
    va_end(args);
    text = strdup(PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "");
    assert_non_null(text);
    PQclear(result);
    return text;
}

void tst_pg_await(PGconn *conn, const char *fmt, ...)
{
    int64_t end = tst_mono_us() + tst_slow(START_US), value = 0;
    while (value == 0) {
        va_list args;
        va_start(args, fmt);
        value = result_int(sql_v(conn, fmt, args));
        va_end(args);
        if (tst_mono_us() > end)
            tst_fail("it does not become true: %s", fmt);
        if (value == 0)
            tst_sleep_us(2000);
    }
}

void tst_pg_terminate(PGconn *by, int pid)
{
    tst_pg_sql(by, "SELECT pg_terminate_backend(%d)", pid);
    await_gone(pid);
}

void tst_pg_exec(const struct tst_pg *pg, const char *database, const char *fmt, ...)
{
    PGconn *conn = tst_pg_connect(pg, database);
    va_list args;
    va_start(args, fmt);
    PQclear(sql_v(conn, fmt, args));
    va_end(args);
    PQfinish(conn);
}

int64_t tst_pg_int(const struct tst_pg *pg, const char *database, const char *fmt, ...)
{
    PGconn *conn = tst_pg_connect(pg, database);
    PGresult *result;
    va_list args;
    va_start(args, fmt);
    result = sql_v(conn, fmt, args);
    va_end(args);
    PQfinish(conn);
    return result_int(result);
}

void tst_pg_create_database(const struct tst_pg *pg, const char *name)
{
    tst_pg_exec(pg, NULL, "CREATE DATABASE \"%s\"", name);
}

const char *tst_pg_schema_url(struct tst_pg *pg, const char *schema)
{
    char more[120];
    tst_pg_exec(pg, NULL, "CREATE SCHEMA IF NOT EXISTS \"%s\"", schema);
    snprintf(more, sizeof more, "options=-csearch_path%%3D%s", schema);
    return tst_pg_url(pg, NULL, NULL, more);
}
