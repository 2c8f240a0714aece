/* Scripted faults: the list of scripts by database, and the hooks that follow them.
 *
 * Invariant: the scripts' mutex is never held while a database's mutex is waited for, nor while a
 * hook runs. A handle takes its faults at the entry of a call and is done with them at its end. */
#include "memory_faults.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "backend/memory/memory.h"

struct fault {
    struct fault *next;
    struct ldg_memory_fault spec;
    char *callback; /* NULL: any */
    uint64_t calls; /* that matched */
};

struct call_count {
    struct call_count *next;
    uint64_t count;
    char callback[];
};

struct script {
    struct script *next;
    struct fault *faults;
    struct call_count *counts;
    uint64_t call_count;
    ldg_memory_hook_fn hook;
    void *hook_ctx;
    ldg_memory_refuse_fn refuse;
    void *refuse_ctx;
    size_t held;
    uint64_t releases;
    char name[];
};

static pthread_mutex_t scripts_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t scripts_cond = PTHREAD_COND_INITIALIZER;
static struct script *scripts;
static atomic_size_t script_count; /* 0: nothing to look for */

static struct script *find_script(const char *name)
{
    struct script *script = scripts;
    while (script && strcmp(script->name, name) != 0)
        script = script->next;
    return script;
}

static const struct ldg_mem_hooks hooks;

static struct script *get_script(const char *name)
{
    ldg_mem_hooks = &hooks;
    struct script *script = find_script(name);
    if (!script) {
        size_t size = strlen(name) + 1;
        script = ldg_calloc(1, sizeof(*script) + size);
        if (!script)
            return NULL;
        memcpy(script->name, name, size);
        script->next = scripts;
        scripts = script;
        atomic_fetch_add(&script_count, 1);
    }
    return script;
}

ledger_rc ldg_memory_fault_add(const char *name, const struct ldg_memory_fault *spec)
{
    ledger_rc rc = LEDGER_ERR_NOMEM;
    struct fault *fault = ldg_calloc(1, sizeof(*fault));
    if (!fault)
        return rc;
    fault->spec = *spec;
    if (fault->spec.nth == 0)
        fault->spec.nth = 1;
    if (fault->spec.times == 0)
        fault->spec.times = 1;
    pthread_mutex_lock(&scripts_mutex);
    struct script *script = get_script(name);
    if (script && (!spec->callback || (fault->callback = ldg_strdup(spec->callback)))) {
        struct fault **at = &script->faults;
        while (*at)
            at = &(*at)->next;
        *at = fault;
        rc = LEDGER_OK;
    }
    pthread_mutex_unlock(&scripts_mutex);
    if (rc != LEDGER_OK)
        ldg_free(fault);
    return rc;
}

ledger_rc ldg_memory_set_hook(const char *name, ldg_memory_hook_fn fn, void *hook_ctx)
{
    pthread_mutex_lock(&scripts_mutex);
    struct script *script = get_script(name);
    if (script) {
        script->hook = fn;
        script->hook_ctx = hook_ctx;
    }
    pthread_mutex_unlock(&scripts_mutex);
    return script ? LEDGER_OK : LEDGER_ERR_NOMEM;
}

ledger_rc ldg_memory_set_refuse(const char *name, ldg_memory_refuse_fn fn, void *refuse_ctx)
{
    pthread_mutex_lock(&scripts_mutex);
    struct script *script = get_script(name);
    if (script) {
        script->refuse = fn;
        script->refuse_ctx = refuse_ctx;
    }
    pthread_mutex_unlock(&scripts_mutex);
    return script ? LEDGER_OK : LEDGER_ERR_NOMEM;
}

bool ldg_memory_wait_held(const char *name, int timeout_ms)
{
    struct timespec until;
    bool held = false;
    int waited = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    pthread_mutex_lock(&scripts_mutex);
    while (!held && waited == 0) {
        const struct script *script = find_script(name);
        held = script && script->held > 0;
        if (!held)
            waited = pthread_cond_timedwait(&scripts_cond, &scripts_mutex, &until);
    }
    pthread_mutex_unlock(&scripts_mutex);
    return held;
}

void ldg_memory_release(const char *name)
{
    pthread_mutex_lock(&scripts_mutex);
    struct script *script = find_script(name);
    if (script)
        script->releases++;
    pthread_cond_broadcast(&scripts_cond);
    pthread_mutex_unlock(&scripts_mutex);
}

uint64_t ldg_memory_call_count(const char *name, const char *callback)
{
    uint64_t count = 0;
    pthread_mutex_lock(&scripts_mutex);
    const struct script *script = find_script(name);
    if (script && !callback)
        count = script->call_count;
    for (const struct call_count *c = script && callback ? script->counts : NULL; c; c = c->next) {
        if (strcmp(c->callback, callback) == 0)
            count = c->count;
    }
    pthread_mutex_unlock(&scripts_mutex);
    return count;
}

void ldg_memory_faults_clear(const char *name)
{
    pthread_mutex_lock(&scripts_mutex);
    struct script *script = find_script(name);
    while (script && script->held) {
        script->releases++;
        pthread_cond_broadcast(&scripts_cond);
        pthread_cond_wait(&scripts_cond, &scripts_mutex);
    }
    if (script) {
        struct script **at = &scripts;
        while (*at != script)
            at = &(*at)->next;
        *at = script->next;
        atomic_fetch_sub(&script_count, 1);
        while (script->faults) {
            struct fault *fault = script->faults;
            script->faults = fault->next;
            ldg_free(fault->callback);
            ldg_free(fault);
        }
        while (script->counts) {
            struct call_count *count = script->counts;
            script->counts = count->next;
            ldg_free(count);
        }
        ldg_free(script);
    }
    pthread_mutex_unlock(&scripts_mutex);
}

/* --- the gate -------------------------------------------------------------------------------- */

static void count_call(struct script *script, const char *callback)
{
    struct call_count *count = script->counts;
    script->call_count++;
    while (count && strcmp(count->callback, callback) != 0)
        count = count->next;
    if (!count && (count = ldg_calloc(1, sizeof(*count) + strlen(callback) + 1))) {
        memcpy(count->callback, callback, strlen(callback) + 1);
        count->next = script->counts;
        script->counts = count;
    }
    if (count)
        count->count++;
}

/* The first fault that this call meets. */
static bool next_fault(const char *name, const char *callback, struct ldg_memory_fault *ret_fault,
                       ldg_memory_hook_fn *ret_hook, void **ret_hook_ctx)
{
    bool found = false;
    *ret_hook = NULL;
    pthread_mutex_lock(&scripts_mutex);
    struct script *script = find_script(name);
    if (script) {
        *ret_hook = script->hook;
        *ret_hook_ctx = script->hook_ctx;
        count_call(script, callback);
        for (struct fault *fault = script->faults; fault; fault = fault->next) {
            if (fault->callback && strcmp(fault->callback, callback) != 0)
                continue;
            fault->calls++;
            if (!found && fault->calls >= fault->spec.nth &&
                fault->calls - fault->spec.nth < fault->spec.times) {
                *ret_fault = fault->spec;
                found = true;
            }
        }
    }
    pthread_mutex_unlock(&scripts_mutex);
    return found;
}

static ledger_rc fail_by_script(ledger_rc code, uint32_t flags, const char *what, ledger_error *err)
{
    ledger_rc rc = ldg_fail_native(err, code, "memory", 0, "%s, as the test's script says", what);
    err->flags |= flags;
    return rc;
}

static ledger_rc enter(const char *name, const char *callback, struct ldg_memory *m,
                       ledger_error *err)
{
    struct ldg_memory_fault fault = { 0 };
    ldg_memory_hook_fn hook = NULL;
    void *hook_ctx = NULL;
    if (m)
        m->lose_ack = m->apply_half = m->hold = false;
    if (atomic_load(&script_count) == 0)
        return LEDGER_OK;
    const bool found = next_fault(name, callback, &fault, &hook, &hook_ctx);
    if (hook)
        hook(hook_ctx, callback, m);
    if (!found)
        return LEDGER_OK;
    if (fault.kind == LDG_MEMORY_FAIL)
        return fail_by_script(fault.code ? fault.code : LEDGER_ERR_CONNECT, fault.flags,
                              "the call failed", err);
    if (m) {
        m->lose_ack = fault.kind == LDG_MEMORY_LOSE_ACK;
        m->apply_half = fault.kind == LDG_MEMORY_APPLY_HALF;
        m->hold = fault.kind == LDG_MEMORY_HOLD;
        m->fault_code = fault.code ? fault.code : LEDGER_ERR_UNKNOWN_OUTCOME;
        m->fault_flags = fault.flags;
    }
    return LEDGER_OK;
}

static ledger_rc leave(const struct ldg_memory *m, ledger_error *err)
{
    return m->lose_ack ? fail_by_script(m->fault_code, m->fault_flags, "the answer was lost", err)
                       : LEDGER_OK;
}

static void hold(struct ldg_memory *m)
{
    if (!m->hold)
        return;
    pthread_mutex_unlock(&m->db->mutex);
    pthread_mutex_lock(&scripts_mutex);
    struct script *script = find_script(m->db->name);
    if (script) {
        const uint64_t releases = script->releases;
        script->held++;
        pthread_cond_broadcast(&scripts_cond);
        while (script->releases == releases)
            pthread_cond_wait(&scripts_cond, &scripts_mutex);
        script->held--;
        pthread_cond_broadcast(&scripts_cond);
    }
    pthread_mutex_unlock(&scripts_mutex);
    pthread_mutex_lock(&m->db->mutex);
}

static bool refuses(const struct ldg_memory *m, const struct ldg_op *op)
{
    ldg_memory_refuse_fn refuse = NULL;
    void *refuse_ctx = NULL;
    if (atomic_load(&script_count) == 0)
        return false;
    pthread_mutex_lock(&scripts_mutex);
    const struct script *script = find_script(m->db->name);
    if (script) {
        refuse = script->refuse;
        refuse_ctx = script->refuse_ctx;
    }
    pthread_mutex_unlock(&scripts_mutex);
    return refuse && refuse(refuse_ctx, op);
}

static const struct ldg_mem_hooks hooks = { enter, leave, hold, refuses };

/* --- content --------------------------------------------------------------------------------- */

ledger_rc ldg_memory_put_legacy(const char *name, const char *table, const char *stream,
                                const char *payload, const char *source_id, int64_t *ret_id)
{
    struct ldg_memory m = { 0 };
    struct ldg_mem_row *row = NULL;
    ledger_error err;
    ledger_rc rc = LEDGER_ERR_NOT_FOUND;
    m.db = ldg_mem_db_ref(name, false);
    if (!m.db)
        return rc;
    pthread_mutex_lock(&m.db->mutex);
    m.table = ldg_mem_table_find(m.db, table);
    if (m.table) {
        const struct ldg_mem_new_row fresh = {
            .stream = stream,
            .payload = { .data = payload, .size = strlen(payload) },
            .order_key = "",
            .dedup_key = "",
            .source_id = source_id,
            .schema_version = 1,
            .created_at_us = ldg_mem_now_us(),
        };
        rc = ldg_mem_insert(&m, &fresh, &row, &err);
        if (rc == LEDGER_OK) {
            if (ret_id)
                *ret_id = row->id;
            ldg_mem_commit(&m);
        }
    }
    pthread_mutex_unlock(&m.db->mutex);
    ldg_free(m.tx.actions);
    ldg_mem_db_unref(m.db);
    return rc;
}

ledger_rc ldg_memory_log_damage(const char *name, const char *log_table, int64_t position)
{
    ledger_rc rc = LEDGER_ERR_NOT_FOUND;
    struct ldg_mem_db *db = ldg_mem_db_ref(name, false);
    if (!db)
        return rc;
    pthread_mutex_lock(&db->mutex);
    const struct ldg_mem_log *log = ldg_mem_log_find(db, log_table);
    for (size_t i = 0; log && i < log->count; i++) {
        struct ldg_mem_log_row *row = log->rows[i];
        if (row->position != position)
            continue;
        memset(row->payload, ' ', row->size); /* still JSON, of another entry's life */
        if (row->size >= 2)
            memcpy(row->payload, "{}", 2);
        rc = LEDGER_OK;
    }
    pthread_mutex_unlock(&db->mutex);
    ldg_mem_db_unref(db);
    return rc;
}

ledger_rc ldg_memory_move(const char *name)
{
    struct ldg_mem_db *db = ldg_mem_db_ref(name, false);
    if (!db)
        return LEDGER_ERR_NOT_FOUND;
    pthread_mutex_lock(&db->mutex);
    db->cluster++;
    pthread_mutex_unlock(&db->mutex);
    ldg_mem_db_unref(db);
    return LEDGER_OK;
}

/* `m` writes into the copy; its log is off, since the log is copied as it is. */
static ledger_rc copy_rows(struct ldg_memory *m, const struct ldg_mem_table *from,
                           ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < from->rows.count; i++) {
        const struct ldg_mem_row *row = from->rows.items[i];
        struct ldg_mem_row *copy = NULL;
        if (!ldg_mem_visible(&row->stamp, NULL, LDG_MEM_NOW))
            continue;
        const struct ldg_mem_version *version = ldg_mem_version_seen(row, &m->tx, LDG_MEM_NOW);
        const struct ldg_mem_new_row fresh = {
            .id = row->id,
            .stream = row->stream->name,
            .payload = row->payload,
            .order_key = row->order_key,
            .dedup_key = row->dedup_key,
            .source_id = row->source_id,
            .schema_version = row->schema_version,
            .metadata = row->metadata,
            .tags = version->tags,
            .created_at_us = row->created_at_us,
            .origin = row->origin,
            .key = row->key,
        };
        rc = ldg_mem_insert(m, &fresh, &copy, err);
        if (rc == LEDGER_OK)
            rc = ldg_mem_update_as(m, copy, version, err);
    }
    m->table->last_id = from->last_id;
    return rc;
}

static ledger_rc copy_table(struct ldg_memory *m, const struct ldg_mem_table *from,
                            ledger_error *err)
{
    struct ldg_mem_table *to = m->table;
    ledger_rc rc = LEDGER_OK;
    to->identity = from->identity;
    to->origins = ldg_calloc(from->origin_count + 1, sizeof(*to->origins));
    if (!to->origins)
        return ldg_fail_nomem(err);
    for (; to->origin_count < from->origin_count; to->origin_count++) {
        const struct ldg_mem_origin *origin = &from->origins[to->origin_count];
        to->origins[to->origin_count] = (struct ldg_mem_origin){
            .identity = origin->identity,
            .name = ldg_strdup(origin->name),
            .adopted = origin->adopted,
        };
        if (!to->origins[to->origin_count].name)
            return ldg_fail_nomem(err);
    }
    rc = copy_rows(m, from, err);
    for (const struct ldg_mem_cursor *c = from->cursors; rc == LEDGER_OK && c; c = c->next) {
        struct ldg_mem_cursor *copy = c->value ? ldg_mem_cursor_make(to, c->name) : NULL;
        if (copy)
            rc = ldg_mem_cursor_write(m, copy, &c->value->cursor, err);
        else if (c->value)
            rc = ldg_fail_nomem(err);
    }
    for (size_t i = 0; rc == LEDGER_OK && i < from->parked_count; i++) {
        const struct ldg_mem_parked *parked = from->parked[i];
        if (!ldg_mem_visible(&parked->stamp, NULL, LDG_MEM_NOW))
            continue;
        const struct ldg_op op = {
            .origin = parked->origin,
            .log_position = parked->row.log_position,
            .stream = parked->row.stream,
            .key = parked->row.key,
            .type_name = parked->row.type_name,
            .source_uuid = parked->row.source_uuid,
            .log_time_us = parked->row.time_us,
            .event = parked->row.event,
        };
        rc = ldg_mem_park(m, &op, parked->reason, NULL, err);
    }
    return rc;
}

static ledger_rc copy_log(const struct ldg_mem_log *from, struct ldg_mem_log *to, ledger_error *err)
{
    to->rows = ldg_calloc(from->count + 1, sizeof(struct ldg_mem_log_row *));
    if (!to->rows)
        return ldg_fail_nomem(err);
    to->cap = from->count + 1;
    to->last_position = from->last_position;
    to->seq = from->seq;
    for (; to->count < from->count; to->count++) {
        const size_t size = sizeof(**to->rows) + from->rows[to->count]->size + 1;
        to->rows[to->count] = ldg_malloc(size);
        if (!to->rows[to->count])
            return ldg_fail_nomem(err);
        memcpy(to->rows[to->count], from->rows[to->count], size);
    }
    return LEDGER_OK;
}

static ledger_rc copy_db(const struct ldg_mem_db *from, struct ldg_mem_db *to, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    to->cluster = from->cluster;
    for (struct ldg_mem_table *table = to->tables; table; table = table->next)
        ldg_mem_table_clear(table);
    for (struct ldg_mem_log *log = to->logs; log; log = log->next)
        ldg_mem_log_clear(log);
    for (const struct ldg_mem_table *table = from->tables; rc == LEDGER_OK && table;
         table = table->next) {
        struct ldg_memory m = { .db = to, .table = ldg_mem_table_find(to, table->name) };
        if (!m.table)
            m.table = ldg_mem_table_create(to, table->name);
        rc = m.table ? copy_table(&m, table, err) : ldg_fail_nomem(err);
        if (rc == LEDGER_OK)
            ldg_mem_commit(&m);
        else if (m.table)
            ldg_mem_undo(&m, 0);
        ldg_free(m.tx.actions);
    }
    for (const struct ldg_mem_log *log = from->logs; rc == LEDGER_OK && log; log = log->next) {
        struct ldg_mem_log *copy = ldg_mem_log_find(to, log->name);
        if (!copy)
            copy = ldg_mem_log_create(to, log->name);
        rc = copy ? copy_log(log, copy, err) : ldg_fail_nomem(err);
    }
    return rc;
}

ledger_rc ldg_memory_copy(const char *from_name, const char *to_name)
{
    ledger_error err;
    ledger_rc rc = LEDGER_ERR_NOT_FOUND;
    struct ldg_mem_db *from = ldg_mem_db_ref(from_name, false);
    struct ldg_mem_db *to = ldg_mem_db_ref(to_name, false);
    if (from && to && from != to) {
        /* The one place with two mutexes: by address, so that two copies cannot wait for each
         * other. */
        pthread_mutex_lock(from < to ? &from->mutex : &to->mutex);
        pthread_mutex_lock(from < to ? &to->mutex : &from->mutex);
        rc = copy_db(from, to, &err);
        pthread_mutex_unlock(&to->mutex);
        pthread_mutex_unlock(&from->mutex);
    }
    if (to)
        ldg_mem_db_unref(to);
    if (from)
        ldg_mem_db_unref(from);
    return rc;
}
