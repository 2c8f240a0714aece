/* ClickHouse servers of the test's own: the current engine behind an HTTP front
 * (clickhouse_front.py), and Debian's server of 2018, which is too old for the library but is a
 * real one. Each has a folder and a port of its own; gone when the program ends.
 *
 * Where one cannot be had the running test is skipped with the reason, also with CI=true.
 * LEDGER_TEST_CHDB names the folder of the engine (build-partners/chdb-core),
 * LEDGER_TEST_CLICKHOUSE the old server (/usr/sbin/clickhouse-server). */
#ifndef TESTS_SUPPORT_CLICKHOUSE_H
#define TESTS_SUPPORT_CLICKHOUSE_H

#include "ledger/types.h"

#include "partner.h"

enum tst_ch_kind { TST_CH_ENGINE, TST_CH_OLD };

struct tst_ch {
    struct tst_partner *partner;
    enum tst_ch_kind kind;
    const char *user, *password;   /* password NULL: none */
    const char *certificate, *key; /* of TLS; NULL: plain */
    bool record;
};

struct tst_ch_options {
    const char *user, *password;   /* NULL: "default", none */
    const char *certificate, *key; /* files for TLS, the engine's front only; NULL: plain */
    bool record;                   /* requests that bring rows are kept: clickhouse_front.py */
};

/* Can one be started here? *ret_why (may be NULL) says why not. */
bool tst_ch_here(enum tst_ch_kind kind, const char **ret_why);

/* options NULL: none. Of the strings nothing is copied. */
struct tst_ch *tst_ch_start(enum tst_ch_kind kind, const struct tst_ch_options *options);
/* The engine that the tests of a program share; started when it is first asked for. */
struct tst_ch *tst_ch_shared(void);
void tst_ch_stop(struct tst_ch *ch); /* waits for the end */
void tst_ch_kill(struct tst_ch *ch); /* -9 */
void tst_ch_run(struct tst_ch *ch);  /* again, same port, same data */
void tst_ch_destroy(struct tst_ch **ch);

/* "clickhouse://user[:password]@127.0.0.1:port/database", eight in turn. port 0: its own (else a
 * proxy's). */
const char *tst_ch_url(const struct tst_ch *ch, const char *database, int port);
/* Makes the database if need be, and gives its URL. */
const char *tst_ch_database(struct tst_ch *ch, const char *database);

/* A statement that must work, in this database (NULL: default). */
void tst_ch_sql(const struct tst_ch *ch, const char *database, const char *fmt, ...)
    LEDGER_PRINTF(3, 4);
int64_t tst_ch_int(const struct tst_ch *ch, const char *database, const char *fmt, ...)
    LEDGER_PRINTF(3, 4);
/* The answer as it comes, TabSeparated without the last line break. free(). */
char *tst_ch_text(const struct tst_ch *ch, const char *database, const char *fmt, ...)
    LEDGER_PRINTF(3, 4);

/* What goes wrong next, in the place of what was to go wrong before: lines of JSON, see
 * clickhouse_front.py. "": nothing. Of the engine only. */
void tst_ch_fault(const struct tst_ch *ch, const char *lines);
/* Until a query stands at the fault "hold"; and then it goes on. */
void tst_ch_await_held(const struct tst_ch *ch);
void tst_ch_release(const struct tst_ch *ch);
/* Answered queries with this text so far, the front's own count. */
size_t tst_ch_requests(const struct tst_ch *ch, const char *text);

#endif
