/* The memory backend: the executable specification of what every backend does.
 *
 * "memory:NAME" names a database that all handles of the process share; it lives until the last one
 * is closed. Ids of its entries are numbers, and texts in "memory:NAME?ids=text". Hides everything
 * else in this folder behind ldg_backend_memory. */
#include "backend/memory/memory.h"

#include <stdio.h>
#include <string.h>

#define SCRATCH_KEEP_BYTES ((size_t)64 * 1024)

/* --- open and close -------------------------------------------------------------------------- */

static ledger_rc open_tables(struct ldg_memory *m, const struct ldg_open *open, ledger_error *err)
{
    const bool create = open->flags & LEDGER_STORE_CREATE;
    m->table = ldg_mem_table_find(m->db, open->table);
    if (!m->table && !create)
        return ldg_fail_native(err, LEDGER_ERR_SCHEMA, "memory", 0,
                               "database \"%.64s\" has no table \"%s\"; open it with create once",
                               m->db->name, open->table);
    if (!m->table)
        m->table = ldg_mem_table_create(m->db, open->table);
    else if (open->flags & LEDGER_STORE_NEW_IDENTITY)
        ldg_uuid_new(m->table->identity.uuid);
    if (!m->table)
        return ldg_fail_nomem(err);
    if (open->log == LEDGER_MUTATION_LOG_OFF)
        return LEDGER_OK;
    m->log = ldg_mem_log_find(m->db, open->log_table);
    if (!m->log && create) {
        m->log = ldg_mem_log_create(m->db, open->log_table);
        if (!m->log)
            return ldg_fail_nomem(err);
    }
    if (!m->log && open->log == LEDGER_MUTATION_LOG_ON)
        return ldg_fail_native(err, LEDGER_ERR_SCHEMA, "memory", 0,
                               "database \"%.64s\" has no mutation log \"%s\"; open it with create "
                               "once",
                               m->db->name, open->log_table);
    return LEDGER_OK;
}

static void memory_close(void *ctx)
{
    struct ldg_memory *m = ctx;
    if (m->db) {
        pthread_mutex_lock(&m->db->mutex);
        if (m->table)
            ldg_mem_undo(m, 0);
        if (m->in_snapshot)
            m->db->snapshot_count--;
        pthread_mutex_unlock(&m->db->mutex);
        ldg_mem_db_unref(m->db);
    }
    ldg_free(m->tx.actions);
    ldg_free(m->wake_key);
    ldg_arena_fini(&m->scratch);
    ldg_buf_fini(&m->event_buf);
}

static ledger_rc memory_open(void *ctx, const struct ldg_open *open, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    const bool create = open->flags & LEDGER_STORE_CREATE;
    const size_t key_size = strlen("memory:") + strlen(open->path) + 1;
    ldg_arena_init(&m->scratch, SCRATCH_KEEP_BYTES);
    ldg_buf_init(&m->event_buf, LDG_MEM_EVENT_MAX_BYTES);
    m->wait = open->wait;

    ledger_rc rc = ldg_mem_before_open(open->path, err);
    if (rc == LEDGER_OK && !(m->wake_key = ldg_malloc(key_size)))
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK) {
        snprintf(m->wake_key, key_size, "memory:%s", open->path);
        m->db = ldg_mem_db_ref(open->path, create);
        if (!m->db && create)
            rc = ldg_fail_nomem(err);
        else if (!m->db)
            rc = ldg_fail_native(err, LEDGER_ERR_SCHEMA, "memory", 0,
                                 "there is no memory database \"%.64s\"; open it with create once",
                                 open->path);
    }
    if (rc == LEDGER_OK) {
        pthread_mutex_lock(&m->db->mutex);
        rc = open_tables(m, open, err);
        pthread_mutex_unlock(&m->db->mutex);
    }
    if (rc != LEDGER_OK)
        memory_close(m);
    return rc;
}

static bool memory_describe(void *ctx, char *url, size_t url_size)
{
    const struct ldg_memory *m = ctx;
    return snprintf(url, url_size, "%s", m->wake_key) < (int)url_size;
}

static bool memory_has_log(void *ctx)
{
    const struct ldg_memory *m = ctx;
    return m->log != NULL;
}

static bool memory_has_text_ids(void *ctx)
{
    const struct ldg_memory *m = ctx;
    return m->db->text_ids;
}

static const char *memory_wake_key(void *ctx)
{
    const struct ldg_memory *m = ctx;
    return m->wake_key;
}

static ledger_rc memory_health(void *ctx, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "health", err);
    return rc == LEDGER_OK ? ldg_mem_leave(m, rc, err) : rc;
}

static ledger_rc memory_check(void *ctx, ledger_finding_fn fn, void *fn_ctx, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = memory_health(m, err);
    if (rc != LEDGER_OK)
        return rc;
    fn(fn_ctx, LEDGER_FINDING_OK, m->table->name, "table is there");
    if (m->log)
        fn(fn_ctx, LEDGER_FINDING_OK, m->log->name, "mutation log is there");
    else
        fn(fn_ctx, LEDGER_FINDING_WARNING, m->table->name,
           "no mutation log: this store cannot be a bridge's source");
    fn(fn_ctx, LEDGER_FINDING_WARNING, m->db->name,
       "a memory database is gone when its last handle closes");
    return LEDGER_OK;
}

static ledger_rc memory_identity(void *ctx, struct ldg_identity *ret_identity, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "identity", err);
    if (rc != LEDGER_OK)
        return rc;
    const struct ldg_identity identity = m->table->identity;
    rc = ldg_mem_leave(m, rc, err);
    if (rc == LEDGER_OK)
        *ret_identity = identity;
    return rc;
}

/* --- transactions and snapshots -------------------------------------------------------------- */

static ledger_rc memory_tx_begin(void *ctx, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "tx_begin", err);
    if (rc != LEDGER_OK)
        return rc;
    m->in_tx = true;
    return ldg_mem_leave(m, rc, err);
}

static ledger_rc memory_tx_commit(void *ctx, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "tx_commit", err);
    if (rc != LEDGER_OK)
        return rc;
    ldg_mem_commit(m);
    m->in_tx = false;
    return ldg_mem_leave(m, rc, err);
}

/* Also after a commit whose answer was lost: then there is nothing to take back. */
static ledger_rc memory_tx_rollback(void *ctx, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "tx_rollback", err);
    if (rc != LEDGER_OK)
        return rc;
    ldg_mem_undo(m, 0);
    m->in_tx = false;
    return ldg_mem_leave(m, rc, err);
}

static ledger_rc memory_snapshot_begin(void *ctx, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "snapshot_begin", err);
    if (rc != LEDGER_OK)
        return rc;
    m->in_snapshot = true;
    m->snapshot_seq = m->db->seq;
    m->snapshot_log_seq = m->log ? m->log->seq : 0;
    m->db->snapshot_count++;
    return ldg_mem_leave(m, rc, err);
}

static void memory_snapshot_end(void *ctx)
{
    struct ldg_memory *m = ctx;
    pthread_mutex_lock(&m->db->mutex);
    m->in_snapshot = false;
    m->db->snapshot_count--;
    pthread_mutex_unlock(&m->db->mutex);
}

static const struct ldg_store_role store_role = {
    .append = ldg_mem_append,
    .read = ldg_mem_read,
    .count = ldg_mem_count,
    .stat = ldg_mem_stat,
    .list_streams = ldg_mem_list_streams,
    .set_tags = ldg_mem_set_tags,
    .set_annotations = ldg_mem_set_annotations,
    .trim = ldg_mem_trim,
    .tx_begin = memory_tx_begin,
    .tx_commit = memory_tx_commit,
    .tx_rollback = memory_tx_rollback,
    .find_by_source_id = ldg_mem_find_by_source_id,
    .watermark = ldg_mem_watermark,
    .read_gaps = ldg_mem_read_gaps,
};

static const struct ldg_source_role source_role = {
    .log_read = ldg_mem_log_read,
    .log_cursor_at = ldg_mem_log_cursor_at,
    .log_check = ldg_mem_log_check,
    .log_stat = ldg_mem_log_stat,
    .log_wait = ldg_mem_log_wait,
    .entries_by_id = ldg_mem_entries_by_id,
    .log_acknowledge = ldg_mem_log_acknowledge,
    .trim_survivors = ldg_mem_trim_survivors,
};

static const struct ldg_sink_role sink_role = {
    .takes = 1 << LDG_OP_APPEND | 1 << LDG_OP_SET_TAGS | 1 << LDG_OP_SET_ANNOTATIONS |
             1 << LDG_OP_TRIM | 1 << LDG_OP_PARK,
    .apply = ldg_mem_apply,
};

static const struct ldg_state_role state_role = {
    .identity = memory_identity,
    .cursor_get = ldg_mem_cursor_get,
    .cursor_set = ldg_mem_cursor_set,
    .cursor_list = ldg_mem_cursor_list,
    .origin_get = ldg_mem_origin_get,
    .origin_list = ldg_mem_origin_list,
    .origin_adopt = ldg_mem_origin_adopt,
    .origin_last = ldg_mem_origin_last,
    .origin_rewind = ldg_mem_origin_rewind,
    .origin_skips = ldg_mem_origin_skips,
    .origin_unguard = ldg_mem_origin_unguard,
    .origin_unclaimed = ldg_mem_origin_unclaimed,
    .parked_list = ldg_mem_parked_list,
    .parked_near = ldg_mem_parked_near,
    .parked_count = ldg_mem_parked_count,
    .parked_retry = ldg_mem_parked_retry,
    .parked_note = ldg_mem_parked_note,
    .parked_drop = ldg_mem_parked_drop,
};

static const struct ldg_verify_role verify_role = {
    .history = ldg_mem_history,
    .history_of = ldg_mem_history_of,
    .snapshot_begin = memory_snapshot_begin,
    .snapshot_end = memory_snapshot_end,
};

extern const struct ldg_backend ldg_backend_memory;
const struct ldg_backend ldg_backend_memory = {
    .name = "memory",
    .scheme = "memory",
    .caps = LDG_CAP_ATOMIC_BATCH | LDG_CAP_PARALLEL_APPLY | LDG_CAP_OVERLAP_APPLY | LDG_CAP_SEARCH |
            LDG_CAP_TEXT_KEYS,
    .ctx_size = sizeof(struct ldg_memory),
    .time_precision_us = 1000,
    .open = memory_open,
    .close = memory_close,
    .health = memory_health,
    .describe = memory_describe,
    .has_log = memory_has_log,
    .has_text_ids = memory_has_text_ids,
    .wake_key = memory_wake_key,
    .check = memory_check,
    .store = &store_role,
    .source = &source_role,
    .sink = &sink_role,
    .state = &state_role,
    .verify = &verify_role,
};
