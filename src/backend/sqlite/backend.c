/* The SQLite backend: opening, closing, errors, transactions, and the vtable.
 *
 * Hides what each role asks of its connection, and how SQLite's result
 * codes become ours. Invariants: a connection that the caller brought keeps its settings and its
 * transaction; a connection of ours never outlives its handle; no call leaves a statement open, so
 * a read transaction ends with the call that needed it (but for snapshots and tx_begin). */
#include "backend/sqlite/sqlite.h"

#include <errno.h>
#include <string.h>

/* SQLite's own limit of one value is 1,000,000,000 bytes; an event has to stay below it. */
#define EVENT_MAX_BYTES ((size_t)999 * 1000 * 1000)
#define SCRATCH_KEEP_BYTES ((size_t)64 * 1024)
#define CHECKPOINT_PAGES 1000
#define CHECKPOINT_PAGES_BACKLOG 4000
#define WAL_TRIES_PAUSE_MS 5

extern const struct ldg_backend ldg_backend_sqlite;

/* --- errors ---------------------------------------------------------------------------------- */

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
        /* The statements are ours and were right when the store was opened: when SQLite misses a
         * name, somebody changed the tables since. Our code has no other use for the text. */
        if (strncmp(text, "no such ", 8) == 0 || strstr(text, " has no column named ") ||
            strncmp(text, "ON CONFLICT clause ", 19) == 0) {
            *ret_hint = "; somebody dropped or changed it: run `ledgerctl store init`";
            return LEDGER_ERR_SCHEMA;
        }
        return LEDGER_ERR_INTERNAL;
    default:
        return LEDGER_ERR_INTERNAL;
    }
}

static ledger_rc fail_busy(const struct ldg_sqlite *s, int sqlite_rc, const char *doing,
                           const char *text, ledger_error *err)
{
    char holder[LDG_SQLITE_HOLDER_MAX];
    ldg_sqlite_holder(s, holder);
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

/* --- statements ------------------------------------------------------------------------------ */

/* Our own text: only a missing or misshapen table, column or index can be wrong. */
static ledger_rc fail_text(struct ldg_sqlite *s, ledger_error *err)
{
    return ldg_fail_native(
        err, LEDGER_ERR_SCHEMA, "sqlite", SQLITE_ERROR,
        "%s%stable \"%s\": %s; run `ledgerctl store init` to make what is missing",
        s->path ? s->path : "", s->path ? ": " : "", s->table, sqlite3_errmsg(s->db));
}

ledger_rc ldg_sqlite_stmts_check(struct ldg_sqlite *s, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    for (int i = 0; rc == LEDGER_OK && i < LDG_STMT_COUNT; i++) {
        sqlite3_stmt *again = NULL;
        if (s->stmts[i] &&
            sqlite3_prepare_v2(s->db, sqlite3_sql(s->stmts[i]), -1, &again, NULL) == SQLITE_ERROR)
            rc = fail_text(s, err);
        sqlite3_finalize(again);
    }
    return rc;
}

sqlite3_stmt *ldg_sqlite_stmt(struct ldg_sqlite *s, enum ldg_sqlite_stmt_id id, ledger_error *err)
{
    sqlite3_stmt *stmt = s->stmts[id];
    char *sql = NULL;
    if (stmt) {
        sqlite3_reset(stmt);
        goto out;
    }
    sql = ldg_sqlite_sql(s, id);
    if (!sql) {
        ldg_fail_nomem(err);
        goto out;
    }
    int rc = sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL);
    if (rc == SQLITE_ERROR) {
        (void)fail_text(s, err);
        stmt = NULL;
    } else if (rc != SQLITE_OK) {
        ldg_sqlite_fail(s, rc, "preparing a statement", err);
        stmt = NULL;
    }
    s->stmts[id] = stmt;
out:
    sqlite3_free(sql);
    return stmt;
}

ledger_rc ldg_sqlite_run(struct ldg_sqlite *s, enum ldg_sqlite_stmt_id id, const char *doing,
                         ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, id, err);
    if (!stmt)
        return err->code;
    int rc = sqlite3_step(stmt);
    ledger_rc result = LEDGER_OK;
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        result = ldg_sqlite_fail(s, rc, doing, err);
    sqlite3_reset(stmt);
    return result;
}

ledger_rc ldg_sqlite_exec(struct ldg_sqlite *s, const char *doing, ledger_error *err,
                          const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *sql = sqlite3_vmprintf(fmt, args);
    va_end(args);
    if (!sql)
        return ldg_fail_nomem(err);
    int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    ledger_rc result = rc == SQLITE_OK ? LEDGER_OK : ldg_sqlite_fail(s, rc, doing, err);
    sqlite3_free(sql);
    return result;
}

/* --- transactions ---------------------------------------------------------------------------- */

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
    ledger_rc rc = ldg_sqlite_file_look(s, false, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_run(s, LDG_STMT_BEGIN_IMMEDIATE, "waiting for the write lock", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_sqlite_schema_watch(s, err);
    if (rc == LEDGER_OK)
        *ret_own = true;
    else
        ldg_sqlite_rollback(s);
    return rc;
}

ledger_rc ldg_sqlite_commit(struct ldg_sqlite *s, ledger_error *err)
{
    ledger_rc rc = ldg_sqlite_run(s, LDG_STMT_COMMIT, "committing", err);
    if (rc != LEDGER_OK)
        ldg_sqlite_rollback(s);
    return rc;
}

void ldg_sqlite_rollback(struct ldg_sqlite *s)
{
    /* Without a transaction SQLite has ended it itself. The text is run directly: this must work
     * when memory for a statement is short. */
    if (!sqlite3_get_autocommit(s->db) && sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL)) {
        sqlite3_stmt *stmt = s->stmts[LDG_STMT_ROLLBACK];
        if (stmt) {
            sqlite3_step(stmt);
            sqlite3_reset(stmt);
        }
    }
}

static ledger_rc sqlite_tx_begin(void *ctx, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    bool own = false;
    if (s->in_user_tx)
        return ldg_fail(err, LEDGER_ERR_INVALID, "a transaction is already open");
    /* Prepared now, so that a rollback needs no memory. */
    if (!ldg_sqlite_stmt(s, LDG_STMT_ROLLBACK, err))
        return err->code;
    ledger_rc rc = ldg_sqlite_begin_write(s, &own, err);
    if (rc == LEDGER_OK && !own)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "the connection is already inside a transaction of its owner");
    if (rc == LEDGER_OK)
        s->in_user_tx = true;
    return rc;
}

static ledger_rc sqlite_tx_commit(void *ctx, ledger_error *err)
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
    ledger_rc rc = ldg_sqlite_run(s, LDG_STMT_COMMIT, "committing", err);
    if (rc == LEDGER_ERR_BUSY && !sqlite3_get_autocommit(s->db))
        return rc; /* readers of a database without WAL: still open, to be committed again */
    s->in_user_tx = false;
    if (rc != LEDGER_OK)
        ldg_sqlite_rollback(s);
    return rc;
}

static ledger_rc sqlite_tx_rollback(void *ctx, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    if (!s->in_user_tx)
        return ldg_fail(err, LEDGER_ERR_INVALID, "no transaction is open");
    s->in_user_tx = false;
    ldg_sqlite_rollback(s);
    return LEDGER_OK;
}

static ledger_rc sqlite_snapshot_begin(void *ctx, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    if (s->in_snapshot || !sqlite3_get_autocommit(s->db))
        return ldg_fail(err, LEDGER_ERR_INVALID, "a snapshot or a transaction is already open");
    if (!ldg_sqlite_stmt(s, LDG_STMT_ROLLBACK, err))
        return err->code;
    ledger_rc rc = ldg_sqlite_run(s, LDG_STMT_BEGIN, "beginning a snapshot", err);
    if (rc == LEDGER_OK) {
        /* BEGIN alone takes no snapshot: the first read does. */
        rc = ldg_sqlite_run(s, LDG_STMT_TOUCH, "beginning a snapshot", err);
        if (rc == LEDGER_OK)
            s->in_snapshot = true;
        else
            ldg_sqlite_rollback(s);
    }
    return rc;
}

static void sqlite_snapshot_end(void *ctx)
{
    struct ldg_sqlite *s = ctx;
    if (s->in_snapshot) {
        s->in_snapshot = false;
        ldg_sqlite_rollback(s);
    }
}

/* --- opening --------------------------------------------------------------------------------- */

static ledger_rc open_file(struct ldg_sqlite *s, const struct ldg_open *open, ledger_error *err)
{
    const char *name = open->path;
    ledger_rc rc = LEDGER_OK;
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;

    if (strncmp(name, "//", 2) == 0)
        name += 2;
    if (!*name)
        return ldg_fail(err, LEDGER_ERR_INVALID, "the URL names no file; write sqlite:PATH");
    bool memory = strcmp(name, ":memory:") == 0;
    if (!memory)
        rc = ldg_sqlite_file_find(s, open, name, err);
    if (rc != LEDGER_OK)
        return rc;
    if (open->flags & LEDGER_STORE_READ_ONLY && !memory)
        flags |= SQLITE_OPEN_READONLY;
    else
        flags |= SQLITE_OPEN_READWRITE;
    if (open->flags & LEDGER_STORE_CREATE && !(flags & SQLITE_OPEN_READONLY))
        flags |= SQLITE_OPEN_CREATE;

    int sqlite_rc = sqlite3_open_v2(memory ? name : s->path, &s->db, flags, NULL);
    s->own_db = true;
    if (sqlite_rc != SQLITE_OK)
        return s->db ? ldg_sqlite_fail(s, sqlite_rc, "opening the database", err)
                     : ldg_fail_nomem(err);
    sqlite3_extended_result_codes(s->db, 1);
    sqlite_rc = ldg_sqlite_wait_setup(s);
    if (sqlite_rc == SQLITE_OK)
        sqlite_rc = ldg_sqlite_register_functions(s);
    return sqlite_rc == SQLITE_OK ? ldg_sqlite_file_opened(s, err)
                                  : ldg_sqlite_fail(s, sqlite_rc, "opening the database", err);
}

static ledger_rc take_connection(struct ldg_sqlite *s, const struct ldg_open *open,
                                 ledger_error *err)
{
    s->db = open->connection;
    s->own_db = false; /* until the open has succeeded */
    const char *name = sqlite3_db_filename(s->db, "main");
    ledger_rc rc = LEDGER_OK;
    if (name && *name)
        rc = ldg_sqlite_file_of_connection(s, name, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_file_opened(s, err);
    return rc;
}

/* One value of a one-row query as text, copied to out ("" without a row). */
static ledger_rc query_text(struct ldg_sqlite *s, const char *sql, char *out, size_t out_size,
                            ledger_error *err)
{
    sqlite3_stmt *stmt = NULL;
    ledger_rc result = LEDGER_OK;
    int rc = sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    out[0] = '\0';
    if (rc == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(stmt, 0);
        size_t size = text ? strlen(text) : 0;
        if (size >= out_size)
            size = out_size - 1;
        if (size)
            memcpy(out, text, size);
        out[size] = '\0';
    } else if (rc != SQLITE_DONE) {
        result = ldg_sqlite_fail(s, rc, "opening the database", err);
    }
    sqlite3_finalize(stmt);
    return result;
}

/* A new database becomes a WAL database, so that readers and the writer never wait for each other.
 * Two programs may do this at once: the change needs the file alone for a moment and does not wait
 * for it by itself. */
static ledger_rc make_wal(struct ldg_sqlite *s, ledger_error *err)
{
    char text[16];
    struct ldg_waiting waiting = { .wait = s->wait };
    ledger_rc rc =
        query_text(s, "SELECT count(*) FROM main.sqlite_master", text, sizeof(text), err);
    if (rc != LEDGER_OK || strcmp(text, "0") != 0)
        return rc;
    do {
        rc = query_text(s, "PRAGMA main.journal_mode=WAL", text, sizeof(text), err);
        if (rc != LEDGER_ERR_BUSY || ldg_waiting_ms(&waiting) >= s->busy_timeout_ms ||
            ldg_waiting_ask(&waiting) != LEDGER_WAIT_ON)
            break;
        sqlite3_sleep(WAL_TRIES_PAUSE_MS);
    } while (true);
    return rc;
}

static ledger_rc set_up_connection(struct ldg_sqlite *s, const struct ldg_open *open,
                                   ledger_error *err)
{
    char text[32];
    ledger_rc rc =
        query_text(s, "SELECT count(*) FROM main.sqlite_master", text, sizeof(text), err);
    if (rc == LEDGER_OK)
        rc = query_text(s, "PRAGMA main.encoding", text, sizeof(text), err);
    if (rc != LEDGER_OK)
        return rc;
    if (strcmp(text, "UTF-8") != 0)
        return ldg_fail(err, LEDGER_ERR_SCHEMA,
                        "%s%sthe database's text encoding is %s; a ledger needs UTF-8: dump it and "
                        "load it into a new one",
                        s->path ? s->path : "", s->path ? ": " : "", text);
    if (!s->own_db)
        return LEDGER_OK;
    if (open->flags & LEDGER_STORE_CREATE && !(open->flags & LEDGER_STORE_READ_ONLY))
        rc = make_wal(s, err);
    if (rc == LEDGER_OK)
        rc = query_text(s, "PRAGMA main.journal_mode", text, sizeof(text), err);
    if (rc != LEDGER_OK)
        return rc;
    s->no_wal = strcmp(text, "wal") != 0;
    const char *pragmas = "PRAGMA main.cache_size=-4096";
    switch (open->role) {
    case LDG_ROLE_SINK:
        /* Only WAL keeps a database whole without waiting for the disk at each commit. */
        pragmas = !s->no_wal ? "PRAGMA main.cache_size=-6144; PRAGMA main.synchronous=NORMAL"
                             : "PRAGMA main.cache_size=-6144";
        sqlite3_wal_autocheckpoint(s->db, CHECKPOINT_PAGES);
        break;
    case LDG_ROLE_SOURCE:
        pragmas = "PRAGMA main.cache_size=-1024";
        sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, (int *)NULL);
        sqlite3_wal_autocheckpoint(s->db, 0);
        break;
    case LDG_ROLE_USER:
    case LDG_ROLE_SIDE:
        break;
    }
    return ldg_sqlite_exec(s, "opening the database", err, "%s", pragmas);
}

static void release(struct ldg_sqlite *s)
{
    ldg_sqlite_file_forget(s);
    if (s->db && (s->in_user_tx || s->in_snapshot))
        ldg_sqlite_rollback(s);
    for (size_t i = 0; i < LDG_STMT_COUNT; i++) {
        sqlite3_finalize(s->stmts[i]);
        s->stmts[i] = NULL;
    }
    if (s->own_db)
        sqlite3_close_v2(s->db);
    s->db = NULL;
    ldg_arena_fini(&s->scratch);
    ldg_arena_fini(&s->merge_arena);
    ldg_buf_fini(&s->event_buf);
    ldg_buf_fini(&s->merge_buf);
    ldg_free(s->path);
    ldg_free(s->given);
    ldg_free(s->table);
    ldg_free(s->log_table);
}

static ledger_rc sqlite_open(void *ctx, const struct ldg_open *open, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    ledger_rc rc = LEDGER_OK;
    s->role = open->role;
    s->flags = open->flags;
    s->wait = open->wait;
    s->busy_timeout_ms = open->busy_timeout_ms;
    ldg_arena_init(&s->scratch, SCRATCH_KEEP_BYTES);
    ldg_arena_init(&s->merge_arena, SCRATCH_KEEP_BYTES);
    ldg_buf_init(&s->event_buf, EVENT_MAX_BYTES);
    ldg_buf_init(&s->merge_buf, EVENT_MAX_BYTES);
    s->table = ldg_strdup(open->table);
    s->log_table = ldg_strdup(open->log_table);
    if (!s->table || !s->log_table) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    rc = open->connection ? take_connection(s, open, err) : open_file(s, open, err);
    if (rc != LEDGER_OK)
        goto out;
    if (!s->path)
        sqlite3_snprintf((int)sizeof(s->wake_name), s->wake_name, "sqlite:%p", (void *)s->db);
    rc = set_up_connection(s, open, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = ldg_sqlite_schema_open(s, open, err);
    if (rc == LEDGER_OK && s->own_db)
        ldg_sqlite_file_keep_wal(s);
    if (rc == LEDGER_OK && s->own_db && open->role == LDG_ROLE_SOURCE)
        rc = ldg_sqlite_exec(s, "opening the database", err, "PRAGMA query_only=ON");
    if (rc == LEDGER_OK && s->own_db && open->role == LDG_ROLE_SINK)
        rc = ldg_sqlite_durable_start(s, err);
    if (rc == LEDGER_OK && open->connection && open->flags & LEDGER_OWN_CONN)
        s->own_db = true;
out:
    /* A bridge had this store open: somebody may be copying another file into its place. */
    if (rc != LEDGER_OK && open->role != LDG_ROLE_USER && ldg_sqlite_file_may_grow(s, rc))
        err->flags = LEDGER_ERROR_RETRY;
    if (rc != LEDGER_OK)
        release(s);
    return rc;
}

static void sqlite_close(void *ctx)
{
    struct ldg_sqlite *s = ctx;
    ldg_sqlite_durable_stop(s);
    ldg_sqlite_watch_close(s);
    release(s);
}

static bool sqlite_describe(void *ctx, char *url, size_t url_size)
{
    struct ldg_sqlite *s = ctx;
    if (!s->given || strlen("sqlite:") + strlen(s->given) + 1 > url_size)
        return false;
    sqlite3_snprintf((int)url_size, url, "sqlite:%s", s->given);
    return true;
}

static bool sqlite_has_log(void *ctx)
{
    struct ldg_sqlite *s = ctx;
    return s->has_log;
}

static const char *sqlite_wake_key(void *ctx)
{
    struct ldg_sqlite *s = ctx;
    return s->path ? s->path : s->wake_name;
}

static ledger_rc sqlite_health(void *ctx, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    /* A deleted file still answers through the open descriptor, and nobody else sees what is
     * written to it. */
    ledger_rc rc = ldg_sqlite_file_look(s, true, err);
    if (rc != LEDGER_OK)
        return rc;
    return ldg_sqlite_run(s, LDG_STMT_TOUCH, "looking at the table", err);
}

static ledger_rc sqlite_identity(void *ctx, struct ldg_identity *ret_identity, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    if (!s->has_ours)
        return ldg_fail(err, LEDGER_ERR_PERMISSION,
                        "%s%stable \"%s\" has no identity yet and cannot be written here; somebody "
                        "with write permission must run `ledgerctl store init --store sqlite:%s "
                        "--table %s` once",
                        s->path ? s->path : "", s->path ? ": " : "", s->table,
                        s->path ? s->path : "PATH", s->table);
    *ret_identity = s->identity;
    return LEDGER_OK;
}

static void sqlite_hint_backlog(void *ctx, bool backlog)
{
    struct ldg_sqlite *s = ctx;
    if (s->own_db && s->role == LDG_ROLE_SINK)
        sqlite3_wal_autocheckpoint(s->db, backlog ? CHECKPOINT_PAGES_BACKLOG : CHECKPOINT_PAGES);
}

const struct ldg_backend ldg_backend_sqlite = {
    .name = "sqlite",
    .scheme = "sqlite",
    .caps = LDG_CAP_MUTATION_LOG | LDG_CAP_ATOMIC_BATCH | LDG_CAP_TX_CURSOR |
            LDG_CAP_FIND_BY_SOURCE | LDG_CAP_TAGS | LDG_CAP_ANNOTATIONS | LDG_CAP_TRIM |
            LDG_CAP_SEARCH | LDG_CAP_TRANSACTIONS | LDG_CAP_PARK,
    .ctx_size = sizeof(struct ldg_sqlite),
    .time_precision_us = 1000,
    .open = sqlite_open,
    .close = sqlite_close,
    .describe = sqlite_describe,
    .has_log = sqlite_has_log,
    .wake_key = sqlite_wake_key,
    .append = ldg_sqlite_append,
    .read = ldg_sqlite_read,
    .count = ldg_sqlite_count,
    .stat = ldg_sqlite_stat,
    .list_streams = ldg_sqlite_list_streams,
    .health = sqlite_health,
    .check = ldg_sqlite_check,
    .identity = sqlite_identity,
    .set_tags = ldg_sqlite_set_tags,
    .set_annotations = ldg_sqlite_set_annotations,
    .trim = ldg_sqlite_trim,
    .tx_begin = sqlite_tx_begin,
    .tx_commit = sqlite_tx_commit,
    .tx_rollback = sqlite_tx_rollback,
    .find_by_source_id = ldg_sqlite_find_by_source_id,
    .log_read = ldg_sqlite_log_read,
    .log_cursor_at = ldg_sqlite_log_cursor_at,
    .log_check = ldg_sqlite_log_check,
    .log_stat = ldg_sqlite_log_stat,
    .log_wait = ldg_sqlite_log_wait,
    .trim_kept = ldg_sqlite_trim_kept,
    .entries_by_id = ldg_sqlite_entries_by_id,
    .origin_get = ldg_sqlite_origin_get,
    .origin_list = ldg_sqlite_origin_list,
    .origin_adopt = ldg_sqlite_origin_adopt,
    .origin_last = ldg_sqlite_origin_last,
    .origin_carry_ids = ldg_sqlite_origin_carry_ids,
    .origin_rewind = ldg_sqlite_origin_rewind,
    .origin_skips = ldg_sqlite_origin_skips,
    .origin_unguard = ldg_sqlite_origin_unguard,
    .origin_unclaimed = ldg_sqlite_origin_unclaimed,
    .apply = ldg_sqlite_apply,
    .cursor_get = ldg_sqlite_cursor_get,
    .cursor_set = ldg_sqlite_cursor_set,
    .cursor_list = ldg_sqlite_cursor_list,
    .parked_list = ldg_sqlite_parked_list,
    .parked_count = ldg_sqlite_parked_count,
    .parked_retry = ldg_sqlite_parked_retry,
    .parked_note = ldg_sqlite_parked_note,
    .parked_drop = ldg_sqlite_parked_drop,
    .history = ldg_sqlite_history,
    .history_of = ldg_sqlite_history_of,
    .snapshot_begin = sqlite_snapshot_begin,
    .snapshot_end = sqlite_snapshot_end,
    .durable_count = ldg_sqlite_durable_count,
    .hint_backlog = sqlite_hint_backlog,
};
