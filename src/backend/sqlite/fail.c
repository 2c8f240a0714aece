/* What SQLite's results mean: their codes become ours, and their texts say what to do.
 *
 * Hides which table has run out of ids, and who holds a lock. */
#include "backend/sqlite/sqlite.h"

#include <errno.h>
#include <string.h>

/* The statements are ours and were right when the store was opened: when SQLite misses a name,
 * somebody changed the tables since. Our code has no other use for the text. */
static ledger_rc code_of_error(const char *text, const char **ret_hint)
{
    if (strncmp(text, "no such ", 8) != 0 && !strstr(text, " has no column named ") &&
        strncmp(text, "ON CONFLICT clause ", 19) != 0)
        return LEDGER_ERR_INTERNAL;
    *ret_hint = "; somebody dropped or changed it: run `ledgerctl store init`";
    return LEDGER_ERR_SCHEMA;
}

static ledger_rc code_of(struct ldg_sqlite *s, int rc, const char *text, const char **ret_hint)
{
    *ret_hint = "";
    if (rc == SQLITE_READONLY_DBMOVED) {
        *ret_hint = "; its file was deleted or replaced";
        return LEDGER_ERR_CONNECT;
    }
    switch (rc & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return LEDGER_ERR_BUSY;
    case SQLITE_FULL:
        *ret_hint = "; make room on its disk, or raise the database's page limit";
        return LEDGER_ERR_FULL;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        *ret_hint = "; give this user write permission on the file and its folder";
        return LEDGER_ERR_PERMISSION;
    case SQLITE_CANTOPEN:
        *ret_hint = "; the file and its folder must be readable, and writable for a WAL database";
        if (s->db && ldg_sqlite_no_descriptors(sqlite3_system_errno(s->db)))
            *ret_hint = LDG_SQLITE_NO_DESCRIPTORS;
        return ldg_sqlite_code_of_disk(s->path, s->db ? sqlite3_system_errno(s->db) : errno,
                                       LEDGER_ERR_CONNECT, ret_hint);
    case SQLITE_NOTADB:
        *ret_hint = "; name a SQLite database, or a file that does not exist yet";
        return LEDGER_ERR_CORRUPT;
    case SQLITE_CORRUPT:
        *ret_hint = "; restore it from a backup (sqlite3's .recover may save some of it)";
        return LEDGER_ERR_CORRUPT;
    case SQLITE_TOOBIG:
        *ret_hint = "; split the call, or make the payload smaller";
        return LEDGER_ERR_TOO_LARGE;
    case SQLITE_NOMEM:
        return LEDGER_ERR_NOMEM;
    case SQLITE_CONSTRAINT:
        return LEDGER_ERR_REJECTED;
    case SQLITE_IOERR:
        if (rc == SQLITE_IOERR_NOMEM)
            return LEDGER_ERR_NOMEM;
        if (s->db && ldg_sqlite_no_descriptors(sqlite3_system_errno(s->db)))
            *ret_hint = LDG_SQLITE_NO_DESCRIPTORS;
        return ldg_sqlite_code_of_disk(s->path, s->db ? sqlite3_system_errno(s->db) : 0,
                                       LEDGER_ERR_IO, ret_hint);
    case SQLITE_INTERRUPT:
        return LEDGER_ERR_CANCELLED;
    case SQLITE_MISMATCH: /* ldg_merge_annotations(), or a text id */
        return LEDGER_ERR_DATA;
    case SQLITE_SCHEMA:
        *ret_hint = "; the tables were changed meanwhile";
        return LEDGER_ERR_SCHEMA;
    case SQLITE_ERROR:
        return code_of_error(text, ret_hint);
    default:
        return LEDGER_ERR_INTERNAL;
    }
}

static ledger_rc fail_busy(const struct ldg_sqlite *s, int sqlite_rc, const char *doing,
                           const char *text, ledger_error *err)
{
    char holder[LDG_SQLITE_HOLDER_MAX];
    ldg_sqlite_holder(s, holder);
    if (s->has_handlers && ldg_wait_interrupted(s->wait))
        return ldg_fail_native(err, LEDGER_ERR_CANCELLED, "sqlite", sqlite_rc,
                               "%s%swhile %s: interrupted; %s holds the lock",
                               s->path ? s->path : "", s->path ? ": " : "", doing, holder);
    return ldg_fail_native(err, LEDGER_ERR_BUSY, "sqlite", sqlite_rc,
                           "%s%swhile %s: %s; %s holds the lock: try again, or wait longer (busy "
                           "timeout)",
                           s->path ? s->path : "", s->path ? ": " : "", doing, text, holder);
}

/* First column of the only row of a text made for this; 0: none, or it cannot be asked. */
static int64_t ask_number(struct ldg_sqlite *s, const char *fmt, const char *table)
{
    char *sql = sqlite3_mprintf(fmt, table);
    sqlite3_stmt *stmt = NULL;
    int64_t value = 0;
    if (sql && sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL) == SQLITE_OK &&
        sqlite3_step(stmt) == SQLITE_ROW)
        value = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    sqlite3_free(sql);
    return value;
}

static int64_t last_row(struct ldg_sqlite *s, const char *table)
{
    return ask_number(s, "SELECT max(id) FROM main.\"%w\"", table);
}

void ldg_sqlite_help_ids(const char *table, char help[LDG_SQLITE_HELP_MAX])
{
    sqlite3_snprintf(LDG_SQLITE_HELP_MAX, help,
                     "UPDATE sqlite_sequence SET seq = (SELECT coalesce(max(id), 0) FROM \"%s\") "
                     "WHERE name = '%s' COLLATE NOCASE",
                     table, table);
}

ledger_rc ldg_sqlite_fail_ids(struct ldg_sqlite *s, const char *table, ledger_error *err)
{
    char help[LDG_SQLITE_HELP_MAX];
    const bool by_rows = last_row(s, table) > INT64_MAX / 2;
    ldg_sqlite_help_ids(table, help);
    return ldg_fail_native(err, LEDGER_ERR_SCHEMA, "sqlite", SQLITE_FULL,
                           "%s%stable \"%s\" has run out of ids, the last one is "
                           "9223372036854775807: %s",
                           s->path ? s->path : "", s->path ? ": " : "", table,
                           by_rows ? "its rows reach that far; carry them into a new table" : help);
}

/* SQLITE_FULL has two causes, and one code. The table whose ids are at their end; NULL: the disk's
 * fault. */
static const char *table_without_ids(struct ldg_sqlite *s, char parked[160])
{
    const char *tables[] = { s->table, s->log_table, parked };
    sqlite3_snprintf(160, parked, "%s_parked", s->table ? s->table : "");
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        if (tables[i] &&
            (last_row(s, tables[i]) == INT64_MAX ||
             ask_number(s, "SELECT seq FROM main.sqlite_sequence WHERE name = %Q COLLATE NOCASE",
                        tables[i]) == INT64_MAX))
            return tables[i];
    }
    return NULL;
}

ledger_rc ldg_sqlite_fail(struct ldg_sqlite *s, int sqlite_rc, const char *doing, ledger_error *err)
{
    const char *text = sqlite3_errstr(sqlite_rc);
    const char *hint = "";
    /* The connection may know more, unless another call has come between. */
    if (s->db && (sqlite3_errcode(s->db) & 0xff) == (sqlite_rc & 0xff)) {
        sqlite_rc = sqlite3_extended_errcode(s->db);
        text = sqlite3_errmsg(s->db);
    }
    ledger_rc code = code_of(s, sqlite_rc, text, &hint);
    if (code == LEDGER_ERR_BUSY)
        return fail_busy(s, sqlite_rc, doing, text, err);
    code = ldg_fail_native(err, code, "sqlite", sqlite_rc, "%s%swhile %s: %s%s",
                           s->path ? s->path : "", s->path ? ": " : "", doing, text, hint);
    if (sqlite_rc == SQLITE_FULL && s->db) {
        char parked[160];
        const char *table = table_without_ids(s, parked);
        if (table)
            code = ldg_sqlite_fail_ids(s, table, err);
    }
    return code;
}

ledger_rc ldg_sqlite_fail_interrupted(const struct ldg_sqlite *s, const char *doing,
                                      ledger_error *err)
{
    return ldg_fail_native(err, LEDGER_ERR_CANCELLED, "sqlite", SQLITE_INTERRUPT,
                           "%s%swhile %s: interrupted", s->path ? s->path : "", s->path ? ": " : "",
                           doing);
}

ledger_rc ldg_sqlite_own_fail(struct ldg_sqlite *s, int code, const char *doing, ledger_error *err)
{
    ledger_error why;
    ledger_rc rc = ldg_sqlite_fail(s, code, doing, err);

    if (rc != LEDGER_ERR_REJECTED && rc != LEDGER_ERR_DATA)
        return rc;
    why = *err;
    return ldg_fail_native(err, LEDGER_ERR_SCHEMA, "sqlite", why.native_code,
                           "%.380s; this table is the ledger's own: drop what keeps its rows out",
                           why.message);
}
