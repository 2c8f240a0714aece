/* The SQLite backend: opening, closing, and the roles.
 *
 * Hides what each role asks of its connection. Invariants: a connection that the caller brought
 * keeps its settings; a connection of ours never outlives its handle. */
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
    struct ldg_sql q;
    ldg_sql_begin_once(&q, s, "opening the database", sql, err);
    const char *text = ldg_sql_row(&q) ? (const char *)sqlite3_column_text(q.stmt, 0) : NULL;
    sqlite3_snprintf((int)out_size, out, "%s", text ? text : "");
    return ldg_sql_end(&q);
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
    case LDG_ROLE_STATE:
        /* A batch that falls back is delivered again as it was: what that takes is written before
         * it (ldg_sqlite_cursor_set), and waits for the disk together with all before that. */
        if (!s->no_wal)
            pragmas = "PRAGMA main.cache_size=-4096; PRAGMA main.synchronous=NORMAL";
        break;
    case LDG_ROLE_USER:
        break;
    }
    return ldg_sqlite_exec(s, "opening the database", err, "%s", pragmas);
}

static void release(struct ldg_sqlite *s)
{
    ldg_sqlite_file_forget(s);
    if (s->db && (s->in_user_tx || s->in_snapshot))
        ldg_sqlite_rollback(s);
    ldg_sql_fini(s);
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
    ledger_rc rc = ldg_sqlite_file_verify(s, true, err);
    if (rc != LEDGER_OK)
        return rc;
    return ldg_sql_exec(s, "looking at the table", "SELECT 1 FROM main.\"%T\" LIMIT 1", err);
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

static const struct ldg_store_role store_role = {
    .append = ldg_sqlite_append,
    .read = ldg_sqlite_read,
    .count = ldg_sqlite_count,
    .stat = ldg_sqlite_stat,
    .list_streams = ldg_sqlite_list_streams,
    .set_tags = ldg_sqlite_set_tags,
    .set_annotations = ldg_sqlite_set_annotations,
    .trim = ldg_sqlite_trim,
    .tx_begin = ldg_sqlite_tx_begin,
    .tx_commit = ldg_sqlite_tx_commit,
    .tx_rollback = ldg_sqlite_tx_rollback,
    .find_by_source_id = ldg_sqlite_find_by_source_id,
};

static const struct ldg_source_role source_role = {
    .log_read = ldg_sqlite_log_read,
    .log_cursor_at = ldg_sqlite_log_cursor_at,
    .log_check = ldg_sqlite_log_check,
    .log_stat = ldg_sqlite_log_stat,
    .log_wait = ldg_sqlite_log_wait,
    .entries_by_id = ldg_sqlite_entries_by_id,
    .trim_survivors = ldg_sqlite_trim_survivors,
};

static const struct ldg_sink_role sink_role = {
    .takes = 1 << LDG_OP_APPEND | 1 << LDG_OP_SET_TAGS | 1 << LDG_OP_SET_ANNOTATIONS |
             1 << LDG_OP_TRIM | 1 << LDG_OP_PARK,
    .apply = ldg_sqlite_apply,
    .durable_count = ldg_sqlite_durable_count,
    .hint_backlog = sqlite_hint_backlog,
};

static const struct ldg_state_role state_role = {
    .identity = sqlite_identity,
    .cursor_get = ldg_sqlite_cursor_get,
    .cursor_set = ldg_sqlite_cursor_set,
    .cursor_list = ldg_sqlite_cursor_list,
    .origin_get = ldg_sqlite_origin_get,
    .origin_list = ldg_sqlite_origin_list,
    .origin_adopt = ldg_sqlite_origin_adopt,
    .origin_last = ldg_sqlite_origin_last,
    .origin_rewind = ldg_sqlite_origin_rewind,
    .origin_carry_ids = ldg_sqlite_origin_carry_ids,
    .origin_skips = ldg_sqlite_origin_skips,
    .origin_unguard = ldg_sqlite_origin_unguard,
    .origin_unclaimed = ldg_sqlite_origin_unclaimed,
    .parked_list = ldg_sqlite_parked_list,
    .parked_near = ldg_sqlite_parked_near,
    .parked_count = ldg_sqlite_parked_count,
    .parked_retry = ldg_sqlite_parked_retry,
    .parked_note = ldg_sqlite_parked_note,
    .parked_drop = ldg_sqlite_parked_drop,
};

static const struct ldg_verify_role verify_role = {
    .history = ldg_sqlite_history,
    .history_of = ldg_sqlite_history_of,
    .snapshot_begin = ldg_sqlite_snapshot_begin,
    .snapshot_end = ldg_sqlite_snapshot_end,
};

const struct ldg_backend ldg_backend_sqlite = {
    .name = "sqlite",
    .scheme = "sqlite",
    .caps = LDG_CAP_ATOMIC_BATCH | LDG_CAP_SEARCH | LDG_CAP_TEXT_KEYS,
    .ctx_size = sizeof(struct ldg_sqlite),
    .time_precision_us = 1000,
    .open = sqlite_open,
    .close = sqlite_close,
    .health = sqlite_health,
    .describe = sqlite_describe,
    .has_log = sqlite_has_log,
    .wake_key = sqlite_wake_key,
    .check = ldg_sqlite_check,
    .store = &store_role,
    .source = &source_role,
    .sink = &sink_role,
    .state = &state_role,
    .verify = &verify_role,
};
