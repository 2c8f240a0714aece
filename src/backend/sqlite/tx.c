/* Transactions: of one write, of a caller, of a read, of a snapshot.
 *
 * Hides whether a write begins a transaction or joins one. Invariants: a transaction that somebody
 * else began is neither ended nor, when a write in it fails, changed; no write begins on a file or
 * on tables that are no longer those which were opened. */
#include "backend/sqlite/sqlite.h"

#include <string.h>

/* --- of one write ---------------------------------------------------------------------------- */

ledger_rc ldg_sqlite_begin_write(struct ldg_sqlite *s, bool *ret_own, ledger_error *err)
{
    if (s->in_snapshot)
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "a write inside a snapshot; end the snapshot first");
    if (!sqlite3_get_autocommit(s->db)) {
        *ret_own = false;
        return LEDGER_OK;
    }
    /* After a full disk or the like SQLite ends the whole transaction. Going on would commit the
     * rest without its beginning. */
    if (s->in_user_tx)
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "the database has rolled this transaction back after an error; call "
                        "ledger_store_rollback() and begin again");
    ledger_rc rc = ldg_sqlite_file_verify(s, false, err);
    if (rc == LEDGER_OK)
        rc = ldg_sql_control(s, "waiting for the write lock", "BEGIN IMMEDIATE", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_sqlite_schema_refresh(s, err);
    if (rc == LEDGER_OK)
        *ret_own = true;
    else
        ldg_sqlite_rollback(s);
    return rc;
}

static ledger_rc commit(struct ldg_sqlite *s, ledger_error *err)
{
    return ldg_sql_control(s, "committing", "COMMIT", err);
}

ledger_rc ldg_sqlite_commit(struct ldg_sqlite *s, ledger_error *err)
{
    ledger_rc rc = commit(s, err);
    if (rc != LEDGER_OK)
        ldg_sqlite_rollback(s);
    return rc;
}

/* --- savepoints ------------------------------------------------------------------------------ */

static const char release_text[] = "RELEASE ldg";
static const char undo_text[] = "ROLLBACK TO ldg";

ledger_rc ldg_sqlite_save(struct ldg_sqlite *s, ledger_error *err)
{
    /* Made before they are needed: undoing must not depend on memory for a statement. */
    ledger_rc rc = ldg_sql_prepare(s, undo_text, err);
    if (rc == LEDGER_OK)
        rc = ldg_sql_prepare(s, release_text, err);
    return rc == LEDGER_OK ? ldg_sql_control(s, "setting a savepoint", "SAVEPOINT ldg", err) : rc;
}

ledger_rc ldg_sqlite_release(struct ldg_sqlite *s, ledger_error *err)
{
    return ldg_sql_control(s, "releasing a savepoint", release_text, err);
}

ledger_rc ldg_sqlite_undo(struct ldg_sqlite *s, ledger_error *err)
{
    ledger_rc rc = ldg_sql_control(s, "undoing", undo_text, err);
    return rc == LEDGER_OK ? ldg_sql_control(s, "undoing", release_text, err) : rc;
}

void ldg_sqlite_add_note(ledger_error *err, const char *text)
{
    size_t used = strlen(err->message);
    sqlite3_snprintf((int)(sizeof(err->message) - used), err->message + used, "%s", text);
}

ledger_rc ldg_sqlite_write_begin(struct ldg_sqlite *s, bool *ret_own, ledger_error *err)
{
    ledger_rc rc = ldg_sqlite_begin_write(s, ret_own, err);
    return rc == LEDGER_OK && !*ret_own ? ldg_sqlite_save(s, err) : rc;
}

ledger_rc ldg_sqlite_write_end(struct ldg_sqlite *s, bool own, ledger_rc rc, ledger_error *err)
{
    ledger_error second = { 0 };
    if (own && rc == LEDGER_OK)
        return ldg_sqlite_commit(s, err);
    if (rc == LEDGER_OK) {
        rc = ldg_sqlite_release(s, err);
        if (rc == LEDGER_OK)
            return rc;
    }
    if (own)
        ldg_sqlite_rollback(s);
    else if (sqlite3_get_autocommit(s->db))
        ldg_sqlite_add_note(err, "; the database has rolled the whole transaction back");
    else if (ldg_sqlite_undo(s, &second) != LEDGER_OK)
        ldg_sqlite_add_note(err, "; it could not be undone: roll the transaction back");
    return rc;
}

/* --- of a read ------------------------------------------------------------------------------- */

ledger_rc ldg_sqlite_read_begin(struct ldg_sqlite *s, bool *ret_own, ledger_error *err)
{
    *ret_own = sqlite3_get_autocommit(s->db) != 0;
    return *ret_own ? ldg_sql_control(s, "beginning a read", "BEGIN", err) : LEDGER_OK;
}

void ldg_sqlite_read_end(struct ldg_sqlite *s, bool own)
{
    ledger_error ignored = { 0 };

    if (own && commit(s, &ignored) != LEDGER_OK)
        ldg_sqlite_rollback(s);
}

ledger_rc ldg_sqlite_data_version(struct ldg_sqlite *s, int64_t *ret_version, ledger_error *err)
{
    return ldg_sql_exec_ints(s, "reading the mutation log", "PRAGMA main.data_version", LDG_NO_INTS,
                             ret_version, err);
}

/* --- of a caller ----------------------------------------------------------------------------- */

ledger_rc ldg_sqlite_tx_begin(void *ctx, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    bool own = false;
    if (s->in_user_tx)
        return ldg_fail(err, LEDGER_ERR_INVALID, "a transaction is already open");
    /* Prepared now, so that a rollback needs no memory. */
    ledger_rc rc = ldg_sqlite_rollback_ready(s, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_begin_write(s, &own, err);
    if (rc == LEDGER_OK && !own)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "the connection is already inside a transaction of its owner");
    if (rc == LEDGER_OK)
        s->in_user_tx = true;
    return rc;
}

ledger_rc ldg_sqlite_tx_commit(void *ctx, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    if (!s->in_user_tx)
        return ldg_fail(err, LEDGER_ERR_INVALID, "no transaction is open");
    if (sqlite3_get_autocommit(s->db)) {
        s->in_user_tx = false;
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "the database has rolled this transaction back after an error; nothing of "
                        "it was written");
    }
    ledger_rc rc = commit(s, err);
    if (rc == LEDGER_ERR_BUSY && !sqlite3_get_autocommit(s->db))
        return rc; /* readers of a database without WAL: still open, to be committed again */
    s->in_user_tx = false;
    if (rc != LEDGER_OK)
        ldg_sqlite_rollback(s);
    return rc;
}

ledger_rc ldg_sqlite_tx_rollback(void *ctx, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    if (!s->in_user_tx)
        return ldg_fail(err, LEDGER_ERR_INVALID, "no transaction is open");
    s->in_user_tx = false;
    ldg_sqlite_rollback(s);
    return LEDGER_OK;
}

ledger_rc ldg_sqlite_snapshot_begin(void *ctx, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    if (s->in_snapshot || !sqlite3_get_autocommit(s->db))
        return ldg_fail(err, LEDGER_ERR_INVALID, "a snapshot or a transaction is already open");
    ledger_rc rc = ldg_sqlite_rollback_ready(s, err);
    if (rc == LEDGER_OK)
        rc = ldg_sql_control(s, "beginning a snapshot", "BEGIN", err);
    if (rc == LEDGER_OK) {
        /* BEGIN alone takes no snapshot: the first read does. */
        rc = ldg_sql_exec(s, "beginning a snapshot", "SELECT 1 FROM main.\"%T\" LIMIT 1", err);
        if (rc == LEDGER_OK)
            s->in_snapshot = true;
        else
            ldg_sqlite_rollback(s);
    }
    return rc;
}

void ldg_sqlite_snapshot_end(void *ctx)
{
    struct ldg_sqlite *s = ctx;
    if (s->in_snapshot) {
        s->in_snapshot = false;
        ldg_sqlite_rollback(s);
    }
}
