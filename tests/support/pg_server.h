/* PostgreSQL servers of the test's own: real ones, made with initdb in a folder under $TMPDIR, gone
 * when the program ends, however it ends. As root they run as the user postgres (or nobody).
 * With LEDGER_TEST_PG_CLUSTER (`tests/support/pg_server.py FOLDER` makes it) they are copies of it,
 * which takes a tenth of the time.
 *
 * Where no server can be had the running test is skipped with the reason, and with CI=true it
 * fails. Everything else that goes wrong here fails the test, with the end of the server's log.
 * Call from the main thread: a server is stopped with the thread that started it. */
#ifndef TESTS_SUPPORT_PG_SERVER_H
#define TESTS_SUPPORT_PG_SERVER_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "ledger/types.h"

#include "child.h"

struct tst_pg {
    char dir[TST_FOLDER_MAX]; /* the socket's; holds data/ and log */
    char data[240];           /* PGDATA */
    int port;                 /* on 127.0.0.1 when it listens there; names the socket in any case */
    pid_t pid;                /* of the postmaster; 0: it does not run */
};

struct tst_pg_options {
    const char *settings; /* more lines for postgresql.conf; NULL: none */
    const char *hba;      /* lines before those that trust everybody; NULL: none */
    bool tcp;             /* listen on 127.0.0.1, too, on a free port */
    bool own_cluster;     /* with a system identifier that no other server has */
};

/* Can servers be started here? *ret_why (may be NULL) says why not. */
bool tst_pg_here(const char **ret_why);
/* Skips the running test (CI=true: fails it) when they cannot. */
void tst_pg_require(void);

/* options NULL: none. Runs with fsync off, max_prepared_transactions 64. */
struct tst_pg *tst_pg_start(const struct tst_pg_options *options);
/* The one that the tests of a program share; started when it is first asked for. */
struct tst_pg *tst_pg_shared(void);
/* A running standby of a running server. Has a port of its own. */
struct tst_pg *tst_pg_standby(struct tst_pg *primary);
void tst_pg_promote(struct tst_pg *standby); /* waits until it takes writes */

enum tst_pg_stop { TST_PG_SMART, TST_PG_FAST, TST_PG_IMMEDIATE };
void tst_pg_stop(struct tst_pg *pg, enum tst_pg_stop how); /* waits for the end */
/* kill -9 of the postmaster and of each process of its, at one moment. */
void tst_pg_kill(struct tst_pg *pg);
/* Runs it again, same port; waits until it takes connections. */
void tst_pg_run(struct tst_pg *pg);
/* Lines for postgresql.conf that win over what is there; for the next run or reload. */
void tst_pg_configure(struct tst_pg *pg, const char *settings);
void tst_pg_reload(struct tst_pg *pg);
void tst_pg_destroy(struct tst_pg **pg);
/* The last lines of each server's log, to stderr. */
void tst_pg_show_logs(void);

/* role NULL: postgres, a superuser; database NULL: postgres; more: further parameters as in a URL,
 * "sslmode=disable&…", NULL: none. Through the socket, or through 127.0.0.1. Eight in turn. */
const char *tst_pg_url(const struct tst_pg *pg, const char *database, const char *role,
                       const char *more);
const char *tst_pg_url_tcp(const struct tst_pg *pg, const char *database, const char *role,
                           const char *more);

/* A connection of the test's own; PQfinish. */
PGconn *tst_pg_connect(const struct tst_pg *pg, const char *database);
PGconn *tst_pg_connect_url(const char *url);
/* One that is kept for whoever asks for this URL next: leave no transaction and no setting behind.
 * They end with the env, or with any server. */
PGconn *tst_pg_kept(const char *url);
void tst_pg_forget(void); /* ends them */
/* Any number of statements, which must work. */
void tst_pg_sql(PGconn *conn, const char *fmt, ...) LEDGER_PRINTF(2, 3);
int64_t tst_pg_sql_int(PGconn *conn, const char *fmt, ...) LEDGER_PRINTF(2, 3); /* null, none: -1 */
char *tst_pg_sql_text(PGconn *conn, const char *fmt, ...) LEDGER_PRINTF(2, 3);  /* free() */
/* The same on a connection made for it. */
void tst_pg_exec(const struct tst_pg *pg, const char *database, const char *fmt, ...)
    LEDGER_PRINTF(3, 4);
int64_t tst_pg_int(const struct tst_pg *pg, const char *database, const char *fmt, ...)
    LEDGER_PRINTF(3, 4);
/* Until the query, which gives one number, gives another than 0. */
void tst_pg_await(PGconn *conn, const char *fmt, ...) LEDGER_PRINTF(2, 3);
/* Ends a session and waits until its process is gone: then its client can see it, and its locks are
 * free. */
void tst_pg_terminate(PGconn *by, int pid);
void tst_pg_create_database(const struct tst_pg *pg, const char *name);
/* URL for a schema of the database postgres, which is made if need be: as good as a database of
 * one's own for tables, and there at once. Eight in turn. */
const char *tst_pg_schema_url(struct tst_pg *pg, const char *schema);

#endif
