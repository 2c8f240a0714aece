/* A writer in a process of its own, for tests that need one: to be killed, to be waited for, or to
 * hold a lock. It uses the public API, as a program would.
 *
 *   writer random PATH SEED [COUNT]   random writes until killed, or COUNT of them; PATH may be a
 *                                     URL of PostgreSQL
 *   writer go PATH SEED               random writes as the Go module's, in plain SQL: the log has
 * no times; trims reach what has just come writer lone PATH SYNC JOURNAL     one commit per line of
 * stdin, "done" after each writer hold PATH MS               holds an exclusive lock for MS, "held"
 * once it has it
 *
 * Random commits do not wait for the disk: a process that is killed loses nothing by that. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "go_tables.h"
#include "workload.h"

static int complain(const char *what, const ledger_error *err)
{
    fprintf(stderr, "writer: %s: %s: %s\n", what, ledger_rc_name(err->code), err->message);
    return 1;
}

static bool is_url(const char *path)
{
    return strncmp(path, "postgresql:", strlen("postgresql:")) == 0;
}

static int open_store(const char *path, void *connection, ledger_store **ret_store)
{
    ledger_store_options o;
    ledger_error err = { 0 };
    char url[1024];
    snprintf(url, sizeof url, "%s%s", is_url(path) ? "" : "sqlite:", path);
    ledger_store_options_defaults(&o);
    o.url = connection == NULL ? url : NULL;
    o.connection = connection;
    o.log = LEDGER_MUTATION_LOG_ON;
    o.flags = LEDGER_STORE_CREATE;
    o.busy_timeout_ms = 30000;
    if (ledger_store_open(&o, ret_store, &err) != LEDGER_OK)
        return complain("open", &err);
    return 0;
}

static int run_random(const char *path, uint64_t seed, uint64_t count)
{
    static struct tst_workload w;
    ledger_store *store = NULL;
    sqlite3 *db = NULL;
    uint64_t failures = 0;
    if (!is_url(path) &&
        (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) !=
             SQLITE_OK ||
         sqlite3_busy_timeout(db, 30000) != SQLITE_OK ||
         sqlite3_exec(db, "PRAGMA synchronous=OFF", NULL, NULL, NULL) != SQLITE_OK)) {
        fprintf(stderr, "writer: %s\n", sqlite3_errmsg(db));
        return 1;
    }
    if (open_store(path, db, &store) != 0)
        return 1;
    tst_workload_init(&w, seed);
    tst_workload_learn(&w, store);
    puts("ready");
    fflush(stdout);
    for (uint64_t i = 0; count == 0 || i < count || w.in_transaction; i++) {
        ledger_error err = { 0 };
        if (tst_workload_step(&w, store, &err) == LEDGER_OK) {
            failures = 0;
        } else if ((err.flags & LEDGER_ERROR_RETRY) == 0 || ++failures > 20) {
            return complain("step", &err);
        } else if (w.in_transaction) { /* it may have been lost with its connection */
            (void)!ledger_store_rollback(store, NULL);
            w.in_transaction = false;
        }
        if (i % 4 == 3 && !w.in_transaction)
            tst_sleep_us((int64_t)tst_random_below(&w.state, 2000));
    }
    ledger_store_close(&store);
    sqlite3_close(db);
    return 0;
}

static void go_step(sqlite3 *db, uint64_t *random, const char *stream, int64_t *last)
{
    const uint64_t kind = tst_random_below(random, 20);
    const char *tag = "go";
    char payload[300];
    if (kind < 14 || *last == 0) {
        snprintf(payload, sizeof(payload), "{\"n\":%" PRIu64 ",\"fill\":\"%0*d\"}",
                 tst_random_below(random, 1000), (int)tst_random_below(random, 200) + 1, 0);
        *last = tst_go_put(db, LEDGER_DEFAULT_TABLE, true, stream, payload);
    } else if (kind < 17) {
        tst_go_set_tags(db, LEDGER_DEFAULT_TABLE, true, stream, *last, (ledger_list){ &tag, 1 });
    } else {
        const int64_t before = *last - (int64_t)tst_random_below(random, 3) * 5;
        (void)tst_go_trim(db, LEDGER_DEFAULT_TABLE, true, stream, before);
        *last = before == *last ? 0 : *last;
    }
}

static int run_go(const char *path, uint64_t random)
{
    static const char *const streams[] = { "a", "b", "c", "d", "e" };
    enum { COUNT = sizeof(streams) / sizeof(streams[0]) };
    int64_t last[COUNT] = { 0 };
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK ||
        sqlite3_busy_timeout(db, 30000) != SQLITE_OK ||
        sqlite3_exec(db, "PRAGMA synchronous=OFF", NULL, NULL, NULL) != SQLITE_OK) {
        fprintf(stderr, "writer: %s\n", sqlite3_errmsg(db));
        return 1;
    }
    for (uint64_t i = 0;; i++) {
        const size_t k = (size_t)tst_random_below(&random, COUNT);
        go_step(db, &random, streams[k], &last[k]);
        if (i % 4 == 3)
            tst_sleep_us((int64_t)tst_random_below(&random, 2000));
    }
}

static int run_lone(const char *path, const char *sync, const char *journal)
{
    sqlite3 *db = NULL;
    ledger_store *store = NULL;
    char line[64], sql[128];
    int rc = 1;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
        goto out;
    sqlite3_busy_timeout(db, 10000);
    snprintf(sql, sizeof sql, "PRAGMA journal_mode=%s; PRAGMA synchronous=%s;", journal, sync);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK || open_store(path, db, &store) != 0)
        goto out;
    /* Again: opening must not have changed what the caller's connection had. */
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        goto out;
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        ledger_append_input input = { .payload = { "{}", 2 } };
        ledger_error err = { 0 };
        if (ledger_store_append(store, "s", &input, 1, NULL, &err) != LEDGER_OK) {
            complain("append", &err);
            goto out;
        }
        puts("done");
        fflush(stdout);
    }
    rc = 0;
out:
    if (rc != 0)
        fprintf(stderr, "writer: %s\n", sqlite3_errmsg(db));
    ledger_store_close(&store);
    sqlite3_close(db);
    return rc;
}

static int run_hold(const char *path, long ms)
{
    sqlite3 *db = NULL;
    int rc = 1;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
        goto out;
    sqlite3_busy_timeout(db, 10000);
    if (sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL) != SQLITE_OK)
        goto out;
    puts("held");
    fflush(stdout);
    tst_sleep_us((int64_t)ms * 1000);
    if (sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        goto out;
    rc = 0;
out:
    if (rc != 0)
        fprintf(stderr, "writer: %s\n", sqlite3_errmsg(db));
    sqlite3_close(db);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc >= 4 && strcmp(argv[1], "random") == 0)
        return run_random(argv[2], strtoull(argv[3], NULL, 10),
                          argc > 4 ? strtoull(argv[4], NULL, 10) : 0);
    if (argc == 4 && strcmp(argv[1], "go") == 0)
        return run_go(argv[2], strtoull(argv[3], NULL, 10));
    if (argc == 5 && strcmp(argv[1], "lone") == 0)
        return run_lone(argv[2], argv[3], argv[4]);
    if (argc == 4 && strcmp(argv[1], "hold") == 0)
        return run_hold(argv[2], strtol(argv[3], NULL, 10));
    fprintf(stderr, "usage: writer random|go|lone|hold PATH …\n");
    return 2;
}
