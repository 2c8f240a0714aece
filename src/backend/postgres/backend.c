/* The PostgreSQL backend: opening, closing, the transactions of a caller, snapshots, the roles.
 *
 * Invariants: a connection that the caller brought keeps its session settings and its transaction;
 * what was open on a connection that broke is never taken up on another, but ends in an error. */
#include "backend/postgres/postgres.h"

#include <ctype.h>
#include <string.h>

/* An event is a value of the log; PostgreSQL takes none of 1 GB. */
#define EVENT_MAX_BYTES ((size_t)999 * 1000 * 1000)
#define SCRATCH_KEEP_BYTES ((size_t)64 * 1024)
#define REPLY_TIMEOUT_MS 20000
#define SILENT_MS 60000
/* The server cuts longer ones, and says so on stderr. */
#define LABEL_MAX_BYTES 63

extern const struct ldg_backend ldg_backend_postgres;

/* --- transactions ---------------------------------------------------------------------------- */

static ledger_rc pg_tx_begin(void *ctx, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    bool own = false;
    if (pg->in_user_tx)
        return ldg_fail(err, LEDGER_ERR_INVALID, "a transaction is already open");
    ledger_rc rc = ldg_pg_enter(pg, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_begin_write(pg, NULL, &own, err);
    if (rc == LEDGER_OK && !own)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "the connection is already inside a transaction of its owner");
    if (rc == LEDGER_OK)
        pg->in_user_tx = true;
    return rc;
}

/* The transaction is over for its owner, whatever has become of it. */
static bool end_user_tx(struct ldg_pg *pg)
{
    bool lost = pg->lost_in_tx || !pg->conn;
    pg->in_user_tx = false;
    pg->lost_in_tx = false;
    return lost;
}

static ledger_rc pg_tx_commit(void *ctx, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    if (!pg->in_user_tx)
        return ldg_fail(err, LEDGER_ERR_INVALID, "no transaction is open");
    if (end_user_tx(pg))
        return ldg_fail(err, LEDGER_ERR_CONNECT,
                        "%s: the connection was lost in the middle of this transaction; nothing of "
                        "it was written",
                        pg->where);
    ledger_rc rc = ldg_pg_commit(pg, err);
    if (rc != LEDGER_OK)
        ldg_pg_rollback(pg);
    /* A deferred constraint or trigger met a deadlock. It is over; BUSY would promise that it is
     * still open. */
    if (rc == LEDGER_ERR_BUSY) {
        ledger_error why = *err;
        rc = ldg_fail_native(err, LEDGER_ERR_TIMEOUT, why.backend, why.native_code, "%s",
                             why.message);
    }
    return rc;
}

static ledger_rc pg_tx_rollback(void *ctx, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    if (!pg->in_user_tx)
        return ldg_fail(err, LEDGER_ERR_INVALID, "no transaction is open");
    if (!end_user_tx(pg))
        ldg_pg_rollback(pg);
    return LEDGER_OK;
}

static ledger_rc pg_snapshot_begin(void *ctx, ledger_error *err)
{
    /* A comparison may pause between two looks for as long as the other store takes. */
    static const char settings[] = "SELECT " LDG_PG_NO_LIMITS(
        "statement_timeout,transaction_timeout,idle_in_transaction_session_timeout");
    struct ldg_pg *pg = ctx;
    ledger_rc rc = ldg_pg_enter(pg, err);
    if (rc != LEDGER_OK)
        return rc;
    if (pg->in_snapshot || pg->in_user_tx || PQtransactionStatus(pg->conn) != PQTRANS_IDLE)
        return ldg_fail(err, LEDGER_ERR_INVALID, "a snapshot or a transaction is already open");
    /* BEGIN alone takes no snapshot: the first query, here the settings, does. */
    rc = ldg_pg_begin(pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", settings, err);
    if (rc == LEDGER_OK)
        pg->in_snapshot = true;
    return rc;
}

static void pg_snapshot_end(void *ctx)
{
    struct ldg_pg *pg = ctx;
    if (!pg->in_snapshot)
        return;
    pg->in_snapshot = false;
    if (!pg->lost_in_tx)
        ldg_pg_rollback(pg);
    pg->lost_in_tx = false;
}

/* --- opening --------------------------------------------------------------------------------- */

/* As PostgreSQL reads a name without quotes, which is how the Go module writes them. */
static char *fold(const char *name)
{
    char *folded = ldg_strdup(name);
    for (char *p = folded; p && *p; p++)
        *p = (char)tolower((unsigned char)*p);
    return folded;
}

static ledger_rc check_name(const char *name, size_t max, const char *what, ledger_error *err)
{
    if (strlen(name) <= max)
        return LEDGER_OK;
    return ldg_fail(err, LEDGER_ERR_INVALID,
                    "the %s's name has %zu bytes; in PostgreSQL it may have %zu, because the names "
                    "of indexes are made from it: \"%s\"",
                    what, strlen(name), max, name);
}

static ledger_rc copy_options(struct ldg_pg *pg, const struct ldg_open *open, ledger_error *err)
{
    ledger_rc rc = check_name(open->table, LDG_PG_TABLE_MAX_BYTES, "table", err);
    if (rc == LEDGER_OK)
        rc = check_name(open->log_table, LDG_PG_LOG_TABLE_MAX_BYTES, "log table", err);
    if (rc != LEDGER_OK)
        return rc;
    pg->role = open->role;
    pg->flags = open->flags;
    /* 0 would mean for ever to PostgreSQL. */
    pg->busy_timeout_ms = open->busy_timeout_ms > 0 ? open->busy_timeout_ms : 1;
    pg->reply_timeout_ms = REPLY_TIMEOUT_MS;
    pg->silent_ms = SILENT_MS;
    pg->wait = open->wait;
    pg->lock_failures = ldg_pg_locked_of_late();
    pg->table = fold(open->table);
    pg->log_table = fold(open->log_table);
    pg->label = ldg_strdup(open->label ? open->label : "ledger");
    pg->url = open->url ? ldg_strdup(open->url) : NULL;
    if (!pg->table || !pg->log_table || !pg->label || (open->url && !pg->url))
        return ldg_fail_nomem(err);
    size_t size = strlen(pg->label);
    while (size > LABEL_MAX_BYTES || (pg->label[size] & 0xc0) == 0x80)
        size--; /* between two characters */
    pg->label[size] = '\0';
    return LEDGER_OK;
}

static void release(struct ldg_pg *pg)
{
    if (pg->conn && (pg->in_user_tx || pg->in_snapshot))
        ldg_pg_rollback(pg);
    ldg_pg_close_conn(pg);
    ldg_pg_source_free(pg);
    ldg_pg_sink_free(pg);
    ldg_arena_fini(&pg->scratch);
    ldg_buf_fini(&pg->event_buf);
    ldg_free(pg->url);
    ldg_free(pg->label);
    ldg_free(pg->table);
    ldg_free(pg->log_table);
    ldg_free(pg->wake_name);
    ldg_free(pg->where);
}

static ledger_rc pg_open(void *ctx, const struct ldg_open *open, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    ldg_arena_init(&pg->scratch, SCRATCH_KEEP_BYTES);
    ldg_buf_init(&pg->event_buf, EVENT_MAX_BYTES);
    ledger_rc rc = copy_options(pg, open, err);
    if (rc == LEDGER_OK)
        rc = open->connection ? ldg_pg_take(pg, open->connection, err) : ldg_pg_connect(pg, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_schema_open(pg, open, err);
    if (rc == LEDGER_OK) {
        /* Texts made before the tables were looked at do not know their columns. */
        ldg_pg_forget(pg);
        pg->opened = true;
        pg->close_given = open->connection && (open->flags & LEDGER_OWN_CONN);
    } else {
        release(pg);
    }
    return rc;
}

static void pg_close(void *ctx)
{
    release(ctx);
}

/* --- describing ------------------------------------------------------------------------------ */

static void put_encoded(struct ldg_buf *out, const char *text)
{
    for (const char *p = text; *p; p++) {
        if (isalnum((unsigned char)*p) || strchr("-._~", *p))
            ldg_buf_putc(out, *p);
        else
            ldg_buf_printf(out, "%%%02X", (unsigned char)*p);
    }
}

/* A URL for what the caller's own connection is connected to, password included. */
static ledger_rc describe_given(const struct ldg_pg *pg, struct ldg_buf *out)
{
    PQconninfoOption *options = PQconninfo(pg->conn);
    char separator = '?';
    ldg_buf_puts(out, "postgresql://");
    for (const PQconninfoOption *o = options; o && o->keyword; o++) {
        if (!o->val || !*o->val || strcmp(o->keyword, "replication") == 0)
            continue;
        ldg_buf_putc(out, separator);
        ldg_buf_puts(out, o->keyword);
        ldg_buf_putc(out, '=');
        put_encoded(out, o->val);
        separator = '&';
    }
    if (!options)
        out->rc = LEDGER_ERR_NOMEM;
    PQconninfoFree(options);
    return out->rc;
}

static bool pg_describe(void *ctx, char *url, size_t url_size)
{
    struct ldg_pg *pg = ctx;
    struct ldg_buf text;
    if (pg->url) { /* without memory, for which there would be no error */
        size_t size = strlen(pg->url) + 1;
        if (size <= url_size)
            memcpy(url, pg->url, size);
        return size <= url_size;
    }
    ldg_buf_init(&text, url_size - 1);
    ledger_rc rc = describe_given(pg, &text);
    if (rc == LEDGER_OK)
        memcpy(url, text.data, text.size + 1);
    ldg_buf_fini(&text);
    return rc == LEDGER_OK;
}

static bool pg_has_log(void *ctx)
{
    const struct ldg_pg *pg = ctx;
    return pg->has_log;
}

static const char *pg_wake_key(void *ctx)
{
    const struct ldg_pg *pg = ctx;
    return pg->wake_name ? pg->wake_name : "";
}

static ledger_rc pg_health(void *ctx, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    bool found = false;
    int64_t value = 0;
    ledger_rc rc = ldg_pg_enter(pg, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_run_int64(pg, "looking at the table", "SELECT 1 FROM \"{t}\" LIMIT 1", NULL,
                              &found, &value, err);
    return rc;
}

static ledger_rc pg_identity(void *ctx, struct ldg_identity *ret_identity, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    if (!pg->has_ours)
        return ldg_fail(err, LEDGER_ERR_PERMISSION,
                        "%s: table \"%s\" has no identity yet and cannot be written here; somebody "
                        "with the privilege to must run `ledgerctl store init --table %s` once",
                        pg->where, pg->table, pg->table);
    *ret_identity = pg->identity;
    return LEDGER_OK;
}

static const struct ldg_store_role store_role = {
    .append = ldg_pg_append,
    .read = ldg_pg_read,
    .count = ldg_pg_count,
    .stat = ldg_pg_stat,
    .list_streams = ldg_pg_list_streams,
    .set_tags = ldg_pg_set_tags,
    .set_annotations = ldg_pg_set_annotations,
    .trim = ldg_pg_trim,
    .tx_begin = pg_tx_begin,
    .tx_commit = pg_tx_commit,
    .tx_rollback = pg_tx_rollback,
    .find_by_source_id = ldg_pg_find_by_source_id,
    .watermark = ldg_pg_watermark,
    .read_gaps = ldg_pg_read_gaps,
};

static const struct ldg_source_role source_role = {
    .log_read = ldg_pg_log_read,
    .log_cursor_at = ldg_pg_log_cursor_at,
    .log_check = ldg_pg_log_check,
    .log_stat = ldg_pg_log_stat,
    .log_wait = ldg_pg_log_wait,
    .entries_by_id = ldg_pg_entries_by_id,
    .log_acknowledge = ldg_pg_log_acknowledge,
    .trim_survivors = ldg_pg_trim_survivors,
};

static const struct ldg_sink_role sink_role = {
    .takes = 1 << LDG_OP_APPEND | 1 << LDG_OP_SET_TAGS | 1 << LDG_OP_SET_ANNOTATIONS |
             1 << LDG_OP_TRIM | 1 << LDG_OP_PARK,
    .apply = ldg_pg_apply,
    .durable_count = ldg_pg_durable_count,
};

static const struct ldg_state_role state_role = {
    .identity = pg_identity,
    .cursor_get = ldg_pg_cursor_get,
    .cursor_set = ldg_pg_cursor_set,
    .cursor_list = ldg_pg_cursor_list,
    .origin_get = ldg_pg_origin_get,
    .origin_list = ldg_pg_origin_list,
    .origin_adopt = ldg_pg_origin_adopt,
    .origin_last = ldg_pg_origin_last,
    .origin_rewind = ldg_pg_origin_rewind,
    .origin_carry_ids = ldg_pg_origin_carry_ids,
    .origin_skips = ldg_pg_origin_skips,
    .origin_unguard = ldg_pg_origin_unguard,
    .origin_unclaimed = ldg_pg_origin_unclaimed,
    .parked_list = ldg_pg_parked_list,
    .parked_near = ldg_pg_parked_near,
    .parked_count = ldg_pg_parked_count,
    .parked_retry = ldg_pg_parked_retry,
    .parked_note = ldg_pg_parked_note,
    .parked_drop = ldg_pg_parked_drop,
};

static const struct ldg_verify_role verify_role = {
    .history = ldg_pg_history,
    .history_of = ldg_pg_history_of,
    .snapshot_begin = pg_snapshot_begin,
    .snapshot_end = pg_snapshot_end,
};

const struct ldg_backend ldg_backend_postgres = {
    .name = "postgres",
    .scheme = "postgresql",
    .caps = LDG_CAP_ATOMIC_BATCH | LDG_CAP_PARALLEL_APPLY | LDG_CAP_OVERLAP_APPLY | LDG_CAP_SEARCH |
            LDG_CAP_NOTIFY | LDG_CAP_FULL_TEXT | LDG_CAP_TEXT_KEYS,
    .ctx_size = sizeof(struct ldg_pg),
    .open = pg_open,
    .close = pg_close,
    .health = pg_health,
    .describe = pg_describe,
    .has_log = pg_has_log,
    .wake_key = pg_wake_key,
    .check = ldg_pg_check,
    .store = &store_role,
    .source = &source_role,
    .sink = &sink_role,
    .state = &state_role,
    .verify = &verify_role,
};
