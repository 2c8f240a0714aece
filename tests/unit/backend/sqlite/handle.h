/* A handle of the SQLite backend without store.c around it, for tests that look inside. */
#ifndef TESTS_UNIT_BACKEND_SQLITE_HANDLE_H
#define TESTS_UNIT_BACKEND_SQLITE_HANDLE_H

#include <stdio.h>
#include <string.h>

#include "fixtures.h"

#include "backend/sqlite/sqlite.h"

extern const struct ldg_backend ldg_backend_sqlite;

static inline ledger_rc handle_try(struct ldg_sqlite *s, const char *path, enum ldg_role role,
                                   uint32_t flags, ledger_error *err)
{
    const struct ldg_open open = {
        .path = path,
        .table = LEDGER_DEFAULT_TABLE,
        .log_table = LEDGER_DEFAULT_TABLE "_mutations",
        .flags = flags,
        .busy_timeout_ms = 2000,
        .role = role,
    };
    memset(s, 0, sizeof(*s));
    memset(err, 0, sizeof(*err));
    return ldg_backend_sqlite.open(s, &open, err);
}

static inline void handle_open(struct ldg_sqlite *s, const char *path, enum ldg_role role,
                               uint32_t flags)
{
    ledger_error err;
    ledger_rc rc = handle_try(s, path, role, flags, &err);
    tst_ok(rc, &err);
}

static inline void handle_close(struct ldg_sqlite *s)
{
    ldg_backend_sqlite.close(s);
}

static inline ledger_rc store_try(const char *url, const char *table, uint32_t flags,
                                  ledger_store **ret_store, ledger_error *err)
{
    ledger_store_options o;
    ledger_store_options_defaults(&o);
    o.url = url;
    o.table = table;
    o.flags = flags;
    o.busy_timeout_ms = 2000;
    memset(err, 0, sizeof(*err));
    return ledger_store_open(&o, ret_store, err);
}

/* A store on a connection of the test's own. The env closes it. */
static inline ledger_store *store_on(struct tst_env *env, sqlite3 *db, uint32_t flags)
{
    ledger_store_options o;
    ledger_store_options_defaults(&o);
    o.connection = db;
    o.flags = flags;
    return tst_open_with(env, TST_SQLITE, NULL, &o);
}

static inline sqlite3 *raw_open(const char *path)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    return db;
}

/* The statement kept by the handle whose text has this in it. */
static inline sqlite3_stmt *stmt_with(struct ldg_sqlite *s, const char *part)
{
    sqlite3_stmt *stmt = sqlite3_next_stmt(s->db, NULL);
    while (stmt && !strstr(sqlite3_sql(stmt), part))
        stmt = sqlite3_next_stmt(s->db, stmt);
    if (!stmt)
        tst_fail("no statement with \"%s\" was used", part);
    return stmt;
}

/* How SQLite runs a statement: "SEARCH …; ". */
static inline void plan_of(sqlite3 *db, sqlite3_stmt *stmt, char *out, size_t size)
{
    sqlite3_stmt *explain = NULL;
    char *sql = sqlite3_mprintf("EXPLAIN QUERY PLAN %s", sqlite3_sql(stmt));
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &explain, NULL), SQLITE_OK);
    out[0] = '\0';
    while (sqlite3_step(explain) == SQLITE_ROW)
        snprintf(out + strlen(out), size - strlen(out), "%s; ",
                 (const char *)sqlite3_column_text(explain, 3));
    sqlite3_finalize(explain);
    sqlite3_free(sql);
}

#define ENTRIES "SELECT count(*) FROM ledger_entries"
#define EVENTS "SELECT count(*) FROM ledger_entries_mutations"

#endif
