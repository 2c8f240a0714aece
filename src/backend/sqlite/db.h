/* Statements: SQL text in, rows out.
 *
 * A text stands beside the function that runs it. It is prepared on first use, found again by its
 * address, and kept until the handle is closed: so it has to be a literal, or static. In it stand
 * %T for the table, %L for the log table, %C for the columns of an entry, %V for rows of values,
 * %K and %I for where the keys of entries are (ldg_sql_begin_key).
 *
 *     struct ldg_sql q;
 *     ldg_sql_begin(&q, s, "looking for an origin",
 *                   "SELECT id FROM main.\"%T_origins\" WHERE uuid = ?1 AND epoch = ?2", err);
 *     ldg_sql_text(&q, identity->uuid);
 *     ldg_sql_int(&q, identity->epoch);
 *     if (ldg_sql_row(&q))
 *         origin = sqlite3_column_int(q.stmt, 0);
 *     return ldg_sql_end(&q);
 *
 * The first failure is kept in q.rc, and told in err: after it nothing is bound and no row comes. A
 * caller that fails with a row puts its own code there. What is bound is borrowed until end. */
#ifndef LDG_BACKEND_SQLITE_DB_H
#define LDG_BACKEND_SQLITE_DB_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "ledger/types.h"

struct ldg_sqlite;
struct ldg_sqlite_prepared;

typedef ledger_rc (*ldg_sqlite_fail_fn)(struct ldg_sqlite *s, int sqlite_rc, const char *doing,
                                        ledger_error *err);

struct ldg_sql {
    sqlite3_stmt *stmt; /* to read columns from */
    ledger_rc rc;
    ldg_sqlite_fail_fn fail; /* ldg_sqlite_fail, unless the caller sets another after begin */
    /* db.c's own */
    struct ldg_sqlite *s;
    const char *doing;
    ledger_error *err;
    int bound;
    bool once;
};

/* Every begin needs its end. Two of one text cannot be under way at once. */
void ldg_sql_begin(struct ldg_sql *q, struct ldg_sqlite *s, const char *doing, const char *text,
                   ledger_error *err);
/* %V stands for that many rows of so many parameters each: (?, ?), (?, ?). Kept for each number of
 * rows: use few. */
void ldg_sql_begin_rows(struct ldg_sql *q, struct ldg_sqlite *s, const char *doing,
                        const char *text, int columns, int rows, ledger_error *err);
/* A text about entries by their keys, their ids at the origin; binds ?1 to the origin and ?2 to the
 * key. Numbers are in one column, texts in another: %K stands for the one in which keys of this
 * kind are, %I for the condition that a row has one, without which no index is used: "origin = ?1
 * AND %K = ?2 AND %I". */
void ldg_sql_begin_key(struct ldg_sql *q, struct ldg_sqlite *s, const char *doing, const char *text,
                       int origin, ledger_id key, ledger_error *err);
/* The key of an entry that a bridge has brought, the id of one that was written here; for a column
 * that ldg_sql_key() reads. */
#define LDG_SQLITE_KEY "coalesce(source_pos, CASE WHEN origin = 0 THEN id ELSE source_id END)"
/* A text that is not kept. */
void ldg_sql_begin_once(struct ldg_sql *q, struct ldg_sqlite *s, const char *doing,
                        const char *text, ledger_error *err);
/* Binds the next parameter. */
void ldg_sql_int(struct ldg_sql *q, int64_t value);
void ldg_sql_text(struct ldg_sql *q, const char *text);                /* NULL: null */
void ldg_sql_text_n(struct ldg_sql *q, const char *text, size_t size); /* the same */
void ldg_sql_blob(struct ldg_sql *q, const void *data, size_t size);
void ldg_sql_time(struct ldg_sql *q, int64_t time_us);      /* a copy; LEDGER_NO_TIME: null */
void ldg_sql_key_number(struct ldg_sql *q, ledger_id key);  /* null where it is a text */
void ldg_sql_position(struct ldg_sql *q, int64_t position); /* 0: null */
/* The next row; false: there is none, or q.rc tells why. */
bool ldg_sql_row(struct ldg_sql *q);
/* Back to the first parameter, for the same statement with other values. */
void ldg_sql_again(struct ldg_sql *q);
ledger_rc ldg_sql_end(struct ldg_sql *q);
/* One step and the end: for a change. */
ledger_rc ldg_sql_run(struct ldg_sql *q);

/* A statement without parameters, of which no row is wanted. */
ledger_rc ldg_sql_exec(struct ldg_sqlite *s, const char *doing, const char *text,
                       ledger_error *err);
/* The same for BEGIN, COMMIT, SAVEPOINT and what ends one: neither a stop nor an interrupt comes
 * between what it does and its result. Waiting for a lock it hears of both. */
ledger_rc ldg_sql_control(struct ldg_sqlite *s, const char *doing, const char *text,
                          ledger_error *err);
/* A statement with integers; *ret_value (may be NULL): the first column, if a row came. */
ledger_rc ldg_sql_exec_ints(struct ldg_sqlite *s, const char *doing, const char *text,
                            const int64_t *values, size_t count, int64_t *ret_value,
                            ledger_error *err);
#define LDG_INTS(...)                                                                              \
    (const int64_t[]){ __VA_ARGS__ }, sizeof((const int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)
#define LDG_NO_INTS NULL, 0
/* Prepares a text now, so that running it needs no memory. */
ledger_rc ldg_sql_prepare(struct ldg_sqlite *s, const char *text, ledger_error *err);

/* Columns of the row at hand. A view; without memory for it q.rc is NOMEM. data NULL: no bytes. */
ledger_bytes ldg_sql_bytes(struct ldg_sql *q, int column);
/* A key: a number, or a text, which is a view. */
ledger_id ldg_sql_key(struct ldg_sql *q, int column);
/* A copy in the arena; "" for NULL. */
const char *ldg_sql_copy(struct ldg_sql *q, int column, struct ldg_arena *arena);
/* Puts a copy of the row's only column, "" for NULL, behind the names. */
void ldg_sql_add_name(struct ldg_sql *q, ledger_names *names, size_t *cap);
/* LEDGER_NO_TIME: none that can be read. */
int64_t ldg_sql_column_time(sqlite3_stmt *stmt, int column);

/* text with %T, %L and %C put in; sqlite3_free. */
char *ldg_sql_expand(const struct ldg_sqlite *s, const char *text);
/* Runs SQL text made from fmt with the checked table names (%s only). */
ledger_rc ldg_sqlite_exec(struct ldg_sqlite *s, const char *doing, ledger_error *err,
                          const char *fmt, ...) LEDGER_PRINTF(4, 5);
/* Could the statements in use be prepared now? Errors: SCHEMA. */
ledger_rc ldg_sql_check(struct ldg_sqlite *s, ledger_error *err);
/* Ends the transaction, if there still is one; once that was made ready, without any memory. */
void ldg_sqlite_rollback(struct ldg_sqlite *s);
ledger_rc ldg_sqlite_rollback_ready(struct ldg_sqlite *s, ledger_error *err);
/* At the close: the statements go. */
void ldg_sql_fini(struct ldg_sqlite *s);

#endif
