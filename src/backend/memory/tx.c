/* Changes of rows, and the transactions they belong to.
 *
 * Invariant: every change is written down as an action before or while it is made, with all the
 * memory that its commit needs; so commit cannot fail, and undo leaves what was there before. Locks
 * are never waited for: a row that another transaction holds is BUSY at once. */
#include "backend/memory/memory.h"

#include <string.h>

#include "base/hash.h"

#define SWEEP_LEAST 64

/* --- memory ---------------------------------------------------------------------------------- */

static ledger_rc rows_reserve(struct ldg_mem_rows *rows, ledger_error *err)
{
    if (rows->count < rows->cap)
        return LEDGER_OK;
    size_t cap = rows->cap ? rows->cap * 2 : 8;
    struct ldg_mem_row **items = ldg_realloc(rows->items, cap * sizeof(*items));
    if (!items)
        return ldg_fail_nomem(err);
    rows->items = items;
    rows->cap = cap;
    return LEDGER_OK;
}

/* The place for one action more; the caller counts it once the change is made. */
static struct ldg_mem_action *action_next(struct ldg_mem_tx *tx, ledger_error *err)
{
    if (tx->count == tx->cap) {
        size_t cap = tx->cap ? tx->cap * 2 : 16;
        struct ldg_mem_action *actions = ldg_realloc(tx->actions, cap * sizeof(*actions));
        if (!actions) {
            (void)!ldg_fail_nomem(err);
            return NULL;
        }
        tx->actions = actions;
        tx->cap = cap;
    }
    tx->actions[tx->count] = (struct ldg_mem_action){ 0 };
    return &tx->actions[tx->count];
}

static size_t list_size(ledger_list list)
{
    size_t size = 0;
    for (size_t i = 0; i < list.count; i++)
        size += strlen(list.items[i]) + 1;
    return size;
}

static size_t map_size(ledger_map map)
{
    size_t size = 0;
    for (size_t i = 0; i < map.count; i++)
        size += strlen(map.items[i].key) + 1 + strlen(map.items[i].value) + 1;
    return size;
}

static char *put_string(char **at, const char *s)
{
    char *copy = *at;
    size_t size = strlen(s) + 1;
    memcpy(copy, s, size);
    *at += size;
    return copy;
}

static ledger_list put_list(const char **items, char **at, ledger_list list)
{
    for (size_t i = 0; i < list.count; i++)
        items[i] = put_string(at, list.items[i]);
    return (ledger_list){ .items = items, .count = list.count };
}

static ledger_map put_map(ledger_pair *items, char **at, ledger_map map)
{
    for (size_t i = 0; i < map.count; i++) {
        items[i].key = put_string(at, map.items[i].key);
        items[i].value = put_string(at, map.items[i].value);
    }
    return (ledger_map){ .items = items, .count = map.count };
}

/* One block: struct, arrays of pointers, strings. */
static struct ldg_mem_version *version_new(ledger_list tags, ledger_map annotations,
                                           int64_t updated_at_us, size_t mark_max)
{
    size_t arrays = mark_max * sizeof(struct ldg_mem_mark) +
                    annotations.count * sizeof(ledger_pair) + tags.count * sizeof(char *);
    struct ldg_mem_version *version =
        ldg_malloc(sizeof(*version) + arrays + list_size(tags) + map_size(annotations));
    if (!version)
        return NULL;
    struct ldg_mem_mark *marks = (struct ldg_mem_mark *)(version + 1);
    ledger_pair *pairs = (ledger_pair *)(marks + mark_max);
    const char **strings = (const char **)(pairs + annotations.count);
    char *at = (char *)(strings + tags.count);
    *version = (struct ldg_mem_version){
        .tags = put_list(strings, &at, tags),
        .updated_at_us = updated_at_us,
        .marks = marks,
    };
    version->annotations = put_map(pairs, &at, annotations);
    return version;
}

static struct ldg_mem_row *row_new(const struct ldg_mem_new_row *in)
{
    const size_t key_size = in->key.text ? strlen(in->key.text) + 1 : 0;
    size_t size = sizeof(struct ldg_mem_row) + in->metadata.count * sizeof(ledger_pair) +
                  map_size(in->metadata) + strlen(in->order_key) + strlen(in->dedup_key) +
                  strlen(in->source_id) + key_size + 3;
    if (in->payload.size >= SIZE_MAX - size)
        return NULL;
    struct ldg_mem_row *row = ldg_malloc(size + in->payload.size + 1);
    if (!row)
        return NULL;
    *row = (struct ldg_mem_row){
        .schema_version = in->schema_version,
        .created_at_us = in->created_at_us,
        .origin = in->origin,
        .key = in->key,
    };
    ledger_pair *pairs = (ledger_pair *)(row + 1);
    char *at = (char *)(pairs + in->metadata.count);
    row->metadata = put_map(pairs, &at, in->metadata);
    row->order_key = put_string(&at, in->order_key);
    row->dedup_key = put_string(&at, in->dedup_key);
    row->source_id = put_string(&at, in->source_id);
    if (in->key.text)
        row->key.text = put_string(&at, in->key.text);
    if (in->payload.size)
        memcpy(at, in->payload.data, in->payload.size);
    at[in->payload.size] = '\0';
    row->payload = (ledger_bytes){ .data = at, .size = in->payload.size };
    return row;
}

/* --- streams --------------------------------------------------------------------------------- */

static ledger_rc streams_grow(struct ldg_mem_table *table, ledger_error *err)
{
    size_t bucket_count = table->stream_bucket_count ? table->stream_bucket_count * 2 : 16;
    struct ldg_mem_stream **buckets = ldg_calloc(bucket_count, sizeof(struct ldg_mem_stream *));
    if (!buckets)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < table->stream_bucket_count; i++) {
        while (table->streams[i]) {
            struct ldg_mem_stream *stream = table->streams[i];
            size_t at = stream->hash & (bucket_count - 1);
            table->streams[i] = stream->next;
            stream->next = buckets[at];
            buckets[at] = stream;
        }
    }
    ldg_free(table->streams);
    table->streams = buckets;
    table->stream_bucket_count = bucket_count;
    return LEDGER_OK;
}

static ledger_rc stream_get(struct ldg_mem_table *table, const char *name,
                            struct ldg_mem_stream **ret_stream, ledger_error *err)
{
    struct ldg_mem_stream *stream = ldg_mem_stream_find(table, name);
    if (!stream) {
        size_t size = strlen(name) + 1;
        if (table->stream_count >= table->stream_bucket_count) {
            ledger_rc rc = streams_grow(table, err);
            if (rc != LEDGER_OK)
                return rc;
        }
        stream = ldg_calloc(1, sizeof(*stream) + size);
        if (!stream)
            return ldg_fail_nomem(err);
        memcpy(stream->name, name, size);
        stream->hash = ldg_hash64(name, size - 1, 0);
        struct ldg_mem_stream **bucket =
            &table->streams[stream->hash & (table->stream_bucket_count - 1)];
        stream->next = *bucket;
        *bucket = stream;
        table->stream_count++;
    }
    *ret_stream = stream;
    return LEDGER_OK;
}

/* --- changes --------------------------------------------------------------------------------- */

ledger_rc ldg_mem_origin_rows_add(struct ldg_mem_table *table, struct ldg_mem_row *row,
                                  ledger_error *err)
{
    struct ldg_mem_origin *origin = &table->origins[row->origin - 1];
    ledger_rc rc = rows_reserve(&origin->rows, err);
    if (rc != LEDGER_OK)
        return rc;
    if (origin->rows.count == 0)
        origin->sorted = true;
    else if (ldg_id_compare(origin->rows.items[origin->rows.count - 1]->key, row->key) > 0)
        origin->sorted = false;
    origin->rows.items[origin->rows.count++] = row;
    return LEDGER_OK;
}

static void unindex(struct ldg_mem_table *table, struct ldg_mem_row *row)
{
    for (int i = 0; i < LDG_MEM_INDEX_COUNT; i++)
        ldg_mem_index_remove(table, i, row);
}

/* Makes the row findable; on failure it is in none of the indexes. */
static ledger_rc index_row(struct ldg_mem_table *table, struct ldg_mem_row *row, ledger_error *err)
{
    char text[LEDGER_ID_TEXT_MAX];
    const char *source_id = ldg_mem_row_source_id(row, text);
    ledger_rc rc = LEDGER_OK;
    if (*row->dedup_key)
        rc = ldg_mem_index_add(table, LDG_MEM_BY_DEDUP, row,
                               ldg_mem_hash_dedup(row->stream, row->dedup_key), err);
    if (rc == LEDGER_OK && row->origin && !ldg_id_is_none(row->key))
        rc = ldg_mem_index_add(table, LDG_MEM_BY_ORIGIN, row,
                               ldg_mem_hash_origin(row->origin, row->key), err);
    if (rc == LEDGER_OK && *source_id)
        rc = ldg_mem_index_add(table, LDG_MEM_BY_SOURCE, row, ldg_mem_hash_source(source_id), err);
    if (rc == LEDGER_OK && row->origin)
        rc = ldg_mem_origin_rows_add(table, row, err);
    if (rc != LEDGER_OK)
        unindex(table, row);
    return rc;
}

/* Ids that were reserved beforehand may come late. Behind a dead row with the same id. */
static void rows_put(struct ldg_mem_rows *rows, struct ldg_mem_row *row)
{
    size_t at = rows->count++;
    for (; at > 0 && rows->items[at - 1]->id > row->id; at--)
        rows->items[at] = rows->items[at - 1];
    rows->items[at] = row;
}

ledger_rc ldg_mem_insert(struct ldg_memory *m, const struct ldg_mem_new_row *in,
                         struct ldg_mem_row **ret_row, ledger_error *err)
{
    struct ldg_mem_table *table = m->table;
    struct ldg_mem_stream *stream = NULL;
    struct ldg_mem_row *row = NULL;
    struct ldg_mem_action *action = action_next(&m->tx, err);
    ledger_rc rc = action ? LEDGER_OK : LEDGER_ERR_NOMEM;
    if (rc == LEDGER_OK)
        rc = stream_get(table, in->stream, &stream, err);
    if (rc == LEDGER_OK)
        rc = rows_reserve(&table->rows, err);
    if (rc == LEDGER_OK)
        rc = rows_reserve(&stream->rows, err);
    if (rc == LEDGER_OK && !(row = row_new(in)))
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK) {
        row->version = version_new(in->tags, (ledger_map){ 0 }, LEDGER_NO_TIME, 0);
        if (!row->version)
            rc = ldg_fail_nomem(err);
    }
    if (rc == LEDGER_OK) {
        row->stream = stream;
        row->stamp.created_by = &m->tx;
        rc = index_row(table, row, err);
    }
    if (rc != LEDGER_OK) {
        if (row)
            ldg_free(row->version);
        ldg_free(row);
        return rc;
    }
    row->id = in->id ? in->id : table->last_id + 1;
    if (row->id > table->last_id)
        table->last_id = row->id;
    rows_put(&table->rows, row);
    rows_put(&stream->rows, row);
    action->kind = LDG_MEM_INSERT;
    action->row = row;
    m->tx.count++;
    *ret_row = row;
    return LEDGER_OK;
}

static ledger_rc lock_row(struct ldg_memory *m, struct ldg_mem_stamp *stamp, const char *what,
                          bool *ret_was_locked, ledger_error *err)
{
    if (stamp->locked_by && stamp->locked_by != &m->tx)
        return ldg_mem_fail_locked(what, err);
    *ret_was_locked = stamp->locked_by != NULL;
    stamp->locked_by = &m->tx;
    return LEDGER_OK;
}

/* Positions compare only within one log; between two logs the change that comes last wins. */
bool ldg_mem_is_guarded(const struct ldg_op *op)
{
    return op->origin != 0 && op->mutation_origin == op->origin;
}

static struct ldg_mem_mark *mark_find(const struct ldg_mem_version *version,
                                      const struct ldg_op *op)
{
    for (size_t i = 0; i < version->mark_count; i++) {
        if (version->marks[i].origin == op->mutation_origin && version->marks[i].kind == op->kind)
            return &version->marks[i];
    }
    return NULL;
}

bool ldg_mem_change_known(const struct ldg_mem_version *version, const struct ldg_op *op)
{
    const bool tags = op->kind == LDG_OP_SET_TAGS;
    const struct ldg_mem_mark *mark = ldg_mem_is_guarded(op) ? NULL : mark_find(version, op);
    bool known;
    if (ldg_mem_is_guarded(op))
        known = (tags ? version->tags_pos : version->annotations_pos) >= op->position;
    else
        known = mark && mark->position >= op->position;
    return known;
}

/* A kind that was left out for a while comes late: what was changed after it keeps its time. */
int64_t ldg_mem_change_time(const struct ldg_mem_version *version, const struct ldg_op *op,
                            int64_t time_us)
{
    const int64_t other =
        op->kind == LDG_OP_SET_TAGS ? version->annotations_pos : version->tags_pos;
    return ldg_mem_is_guarded(op) && other > op->position ? version->updated_at_us : time_us;
}

/* The new version has the marks of the old one, and that of op. */
static void mark_put(struct ldg_mem_version *version, const struct ldg_mem_version *old,
                     const struct ldg_op *op)
{
    if (old->mark_count)
        memcpy(version->marks, old->marks, old->mark_count * sizeof(*old->marks));
    version->mark_count = old->mark_count;
    version->tags_pos = old->tags_pos;
    version->annotations_pos = old->annotations_pos;
    if (op && ldg_mem_is_guarded(op) && op->kind == LDG_OP_SET_TAGS) {
        version->tags_pos = op->position;
    } else if (op && ldg_mem_is_guarded(op)) {
        version->annotations_pos = op->position;
    } else if (op) {
        struct ldg_mem_mark *mark = mark_find(version, op);
        if (!mark)
            mark = &version->marks[version->mark_count++];
        *mark = (struct ldg_mem_mark){ op->mutation_origin, op->kind, op->position };
    }
}

/* old: what the new version takes its marks from. */
static ledger_rc update(struct ldg_memory *m, struct ldg_mem_row *row, ledger_list tags,
                        ledger_map annotations, int64_t updated_at_us,
                        const struct ldg_mem_version *old, const struct ldg_op *op,
                        ledger_error *err)
{
    struct ldg_mem_version *version = NULL;
    struct ldg_mem_action *action = action_next(&m->tx, err);
    bool was_locked = false;
    if (!action)
        return LEDGER_ERR_NOMEM;
    version = version_new(tags, annotations, updated_at_us, old->mark_count + 1);
    if (!version)
        return ldg_fail_nomem(err);
    mark_put(version, old, op);
    ledger_rc rc = lock_row(m, &row->stamp, "the entry", &was_locked, err);
    if (rc != LEDGER_OK) {
        ldg_free(version);
        return rc;
    }
    action->kind = LDG_MEM_UPDATE;
    action->row = row;
    action->was_locked = was_locked;
    action->old_pending = row->pending;
    row->pending = version;
    m->tx.count++;
    return LEDGER_OK;
}

ledger_rc ldg_mem_update(struct ldg_memory *m, struct ldg_mem_row *row, ledger_list tags,
                         ledger_map annotations, int64_t updated_at_us, const struct ldg_op *op,
                         ledger_error *err)
{
    return update(m, row, tags, annotations, updated_at_us,
                  ldg_mem_version_seen(row, &m->tx, LDG_MEM_NOW), op, err);
}

ledger_rc ldg_mem_update_as(struct ldg_memory *m, struct ldg_mem_row *row,
                            const struct ldg_mem_version *from, ledger_error *err)
{
    return update(m, row, from->tags, from->annotations, from->updated_at_us, from, NULL, err);
}

ledger_rc ldg_mem_delete(struct ldg_memory *m, struct ldg_mem_row *row, ledger_error *err)
{
    struct ldg_mem_action *action = action_next(&m->tx, err);
    bool was_locked = false;
    if (!action)
        return LEDGER_ERR_NOMEM;
    ledger_rc rc = lock_row(m, &row->stamp, "an entry to trim", &was_locked, err);
    if (rc != LEDGER_OK)
        return rc;
    row->stamp.deleting = true;
    action->kind = LDG_MEM_DELETE;
    action->row = row;
    action->was_locked = was_locked;
    m->tx.count++;
    return LEDGER_OK;
}

ledger_rc ldg_mem_log_event(struct ldg_memory *m, const ledger_mutation_event *event,
                            int64_t time_us, ledger_error *err)
{
    struct ldg_mem_log *log = m->log;
    struct ldg_mem_log_row *row = NULL;
    if (!log)
        return LEDGER_OK;
    struct ldg_mem_action *action = action_next(&m->tx, err);
    if (!action)
        return LEDGER_ERR_NOMEM;
    ldg_buf_reset(&m->event_buf);
    ledger_rc rc = ldg_event_encode(event, &m->event_buf, err);
    if (rc == LEDGER_OK && log->count + log->reserved == log->cap) {
        size_t cap = log->cap ? log->cap * 2 : 64;
        struct ldg_mem_log_row **rows = ldg_realloc(log->rows, cap * sizeof(*rows));
        if (rows) {
            log->rows = rows;
            log->cap = cap;
        } else {
            rc = ldg_fail_nomem(err);
        }
    }
    if (rc == LEDGER_OK && !(row = ldg_malloc(sizeof(*row) + m->event_buf.size + 1)))
        rc = ldg_fail_nomem(err);
    if (rc != LEDGER_OK)
        return rc;
    *row = (struct ldg_mem_log_row){
        .position = ++log->last_position,
        .created_at_us = time_us,
        .size = m->event_buf.size,
    };
    memcpy(row->payload, m->event_buf.data, m->event_buf.size);
    row->payload[row->size] = '\0';
    log->reserved++;
    action->kind = LDG_MEM_LOG;
    action->log_row = row;
    m->tx.count++;
    return LEDGER_OK;
}

ledger_rc ldg_mem_parked_again(struct ldg_mem_parked *parked, const char *reason, ledger_error *err)
{
    char *copy = ldg_strdup(reason);
    if (!copy)
        return ldg_fail_nomem(err);
    ldg_free(parked->reason);
    parked->reason = copy;
    parked->row.attempts++;
    return LEDGER_OK;
}

static struct ldg_mem_parked *parked_new(const struct ldg_op *op, ledger_bytes event,
                                         const char *reason)
{
    const char *stream = op->stream ? op->stream : "";
    const char *type = op->type_name ? op->type_name : "";
    struct ldg_mem_parked *parked =
        ldg_calloc(1, sizeof(*parked) + strlen(stream) + strlen(type) + event.size +
                          (op->key.text ? strlen(op->key.text) + 1 : 0) + 3);
    if (!parked || !(parked->reason = ldg_strdup(reason))) {
        ldg_free(parked);
        return NULL;
    }
    char *at = (char *)(parked + 1);
    parked->row = (struct ldg_parked_row){
        .log_position = op->log_position,
        .key = op->key,
        .type_name = put_string(&at, type),
        .attempts = 1,
        .parked_at_us = ldg_mem_now_us(),
        .time_us =
            op->log_time_us == LEDGER_NO_TIME ? LEDGER_NO_TIME : ldg_mem_trunc_ms(op->log_time_us),
    };
    parked->row.stream = put_string(&at, stream);
    if (op->key.text)
        parked->row.key.text = put_string(&at, op->key.text);
    if (op->source_uuid)
        strncat(parked->row.source_uuid, op->source_uuid, sizeof(parked->row.source_uuid) - 1);
    if (event.size)
        memcpy(at, event.data, event.size);
    parked->row.event = (ledger_bytes){ .data = at, .size = event.size };
    parked->origin = op->origin;
    return parked;
}

ledger_rc ldg_mem_park(struct ldg_memory *m, const struct ldg_op *op, const char *reason,
                       bool *ret_new, ledger_error *err)
{
    struct ldg_mem_table *table = m->table;
    const char *uuid = op->source_uuid ? op->source_uuid : "";
    struct ldg_mem_parked *parked = NULL, *again = NULL;
    size_t at = table->parked_count;
    ledger_bytes event;

    for (size_t i = 0; i < table->parked_count; i++) {
        struct ldg_mem_parked *old = table->parked[i];
        enum ldg_mem_state state = ldg_mem_state(&old->stamp, &m->tx);
        if (state == LDG_MEM_GONE || old->row.log_position != op->log_position ||
            !ldg_id_equal(old->row.key, op->key) || strcmp(old->row.source_uuid, uuid) != 0)
            continue;
        if (state != LDG_MEM_LIVE)
            return ldg_mem_fail_locked("a parked event", err);
        again = old;
        at = i + 1; /* ascending by id: next to the one whose id it takes over */
    }
    ldg_buf_reset(&m->event_buf);
    ledger_rc rc = ldg_op_parked_event(op, &m->event_buf, &event, err);
    if (rc == LEDGER_OK && again)
        rc = ldg_mem_unpark(m, again, err);
    if (rc != LEDGER_OK)
        return rc;
    struct ldg_mem_action *action = action_next(&m->tx, err);
    if (!action)
        return LEDGER_ERR_NOMEM;
    if (table->parked_count == table->parked_cap) {
        size_t cap = table->parked_cap ? table->parked_cap * 2 : 16;
        struct ldg_mem_parked **rows = ldg_realloc(table->parked, cap * sizeof(*rows));
        if (!rows)
            return ldg_fail_nomem(err);
        table->parked = rows;
        table->parked_cap = cap;
    }
    parked = parked_new(op, event, reason);
    if (!parked)
        return ldg_fail_nomem(err);
    if (ret_new)
        *ret_new = !again;
    parked->row.id = again ? again->row.id : ++table->last_parked_id;
    if (again) {
        parked->row.attempts = again->row.attempts + 1;
        parked->row.parked_at_us = again->row.parked_at_us;
        memmove(&table->parked[at + 1], &table->parked[at],
                (table->parked_count - at) * sizeof(struct ldg_mem_parked *));
    }
    parked->stamp.created_by = &m->tx;
    table->parked[at] = parked;
    table->parked_count++;
    action->kind = LDG_MEM_PARK;
    action->parked = parked;
    m->tx.count++;
    return LEDGER_OK;
}

ledger_rc ldg_mem_unpark(struct ldg_memory *m, struct ldg_mem_parked *parked, ledger_error *err)
{
    struct ldg_mem_action *action = action_next(&m->tx, err);
    bool was_locked = false;
    if (!action)
        return LEDGER_ERR_NOMEM;
    ledger_rc rc = lock_row(m, &parked->stamp, "a parked event", &was_locked, err);
    if (rc != LEDGER_OK)
        return rc;
    parked->stamp.deleting = true;
    action->kind = LDG_MEM_UNPARK;
    action->parked = parked;
    action->was_locked = was_locked;
    m->tx.count++;
    return LEDGER_OK;
}

ledger_rc ldg_mem_cursor_write(struct ldg_memory *m, struct ldg_mem_cursor *cursor,
                               const struct ldg_cursor *next, ledger_error *err)
{
    if ((cursor->locked_by && cursor->locked_by != &m->tx) || cursor->share_count)
        return ldg_mem_fail_locked("the cursor", err);
    struct ldg_mem_action *action = action_next(&m->tx, err);
    if (!action)
        return LEDGER_ERR_NOMEM;
    struct ldg_mem_cursor_value *value = ldg_calloc(1, sizeof(*value));
    if (!value)
        return ldg_fail_nomem(err);
    value->cursor = *next;
    ldg_free(cursor->pending);
    cursor->pending = value;
    cursor->locked_by = &m->tx;
    action->kind = LDG_MEM_CURSOR;
    action->cursor = cursor;
    m->tx.count++;
    return LEDGER_OK;
}

/* --- the end of transactions ----------------------------------------------------------------- */

static void undo_action(struct ldg_memory *m, struct ldg_mem_action *action)
{
    struct ldg_mem_row *row = action->row;
    switch (action->kind) {
    case LDG_MEM_INSERT:
        unindex(m->table, row);
        row->stamp.created_by = NULL;
        row->stream->dead_count++;
        m->table->dead_count++;
        break;
    case LDG_MEM_UPDATE:
        ldg_free(row->pending);
        row->pending = action->old_pending;
        if (!action->was_locked)
            row->stamp.locked_by = NULL;
        break;
    case LDG_MEM_DELETE:
        row->stamp.deleting = false;
        if (!action->was_locked)
            row->stamp.locked_by = NULL;
        break;
    case LDG_MEM_LOG:
        m->log->reserved--;
        ldg_free(action->log_row);
        break;
    case LDG_MEM_PARK:
        action->parked->stamp.created_by = NULL; /* dead; swept below */
        break;
    case LDG_MEM_UNPARK:
        action->parked->stamp.deleting = false;
        if (!action->was_locked)
            action->parked->stamp.locked_by = NULL;
        break;
    case LDG_MEM_CURSOR:
        ldg_free(action->cursor->pending);
        action->cursor->pending = NULL;
        action->cursor->locked_by = NULL;
        break;
    }
}

static bool stamp_dead(const struct ldg_mem_stamp *stamp)
{
    return !stamp->created_by && (stamp->created_seq == 0 || stamp->deleted_seq != 0);
}

static void rows_sweep(struct ldg_mem_rows *rows)
{
    size_t kept = 0;
    for (size_t i = 0; i < rows->count; i++) {
        if (!stamp_dead(&rows->items[i]->stamp))
            rows->items[kept++] = rows->items[i];
    }
    rows->count = kept;
}

static void stream_sweep(struct ldg_mem_stream *stream)
{
    if (stream->dead_count) {
        rows_sweep(&stream->rows);
        stream->dead_count = 0;
    }
}

static void parked_sweep(struct ldg_mem_table *table)
{
    size_t kept = 0;
    for (size_t i = 0; i < table->parked_count; i++) {
        struct ldg_mem_parked *parked = table->parked[i];
        if (stamp_dead(&parked->stamp)) {
            ldg_free(parked->reason);
            ldg_free(parked);
        } else {
            table->parked[kept++] = parked;
        }
    }
    table->parked_count = kept;
}

/* Dead rows go when they are half of all, so that each is passed over a bounded number of times. */
static void table_sweep(struct ldg_mem_db *db, struct ldg_mem_table *table)
{
    if (db->snapshot_count)
        return;
    parked_sweep(table);
    if (table->dead_count < SWEEP_LEAST || table->dead_count * 2 < table->rows.count)
        return;
    for (size_t i = 0; i < table->stream_bucket_count; i++) {
        for (struct ldg_mem_stream *stream = table->streams[i]; stream; stream = stream->next)
            stream_sweep(stream);
    }
    for (size_t i = 0; i < table->origin_count; i++)
        rows_sweep(&table->origins[i].rows);
    size_t kept = 0;
    for (size_t i = 0; i < table->rows.count; i++) {
        if (stamp_dead(&table->rows.items[i]->stamp))
            ldg_mem_row_free(table->rows.items[i]);
        else
            table->rows.items[kept++] = table->rows.items[i];
    }
    table->rows.count = kept;
    table->dead_count = 0;
}

void ldg_mem_undo(struct ldg_memory *m, size_t mark)
{
    while (m->tx.count > mark)
        undo_action(m, &m->tx.actions[--m->tx.count]);
    if (mark == 0)
        table_sweep(m->db, m->table);
}

static void commit_version(struct ldg_mem_db *db, struct ldg_mem_row *row)
{
    if (!row->pending) /* an earlier action of this row has done it */
        return;
    row->pending->seq = db->seq;
    row->pending->next = row->version;
    row->version = row->pending;
    row->pending = NULL;
    while (db->snapshot_count == 0 && row->version->next) {
        struct ldg_mem_version *old = row->version->next;
        row->version->next = old->next;
        ldg_free(old);
    }
}

static void commit_cursor(struct ldg_mem_db *db, struct ldg_mem_cursor *cursor)
{
    cursor->locked_by = NULL;
    if (!cursor->pending)
        return;
    cursor->pending->seq = db->seq;
    cursor->pending->next = cursor->value;
    cursor->value = cursor->pending;
    cursor->pending = NULL;
    while (db->snapshot_count == 0 && cursor->value->next) {
        struct ldg_mem_cursor_value *old = cursor->value->next;
        cursor->value->next = old->next;
        ldg_free(old);
    }
}

static void commit_action(struct ldg_memory *m, struct ldg_mem_action *action)
{
    struct ldg_mem_db *db = m->db;
    struct ldg_mem_row *row = action->row;
    struct ldg_mem_log *log = m->log;
    switch (action->kind) {
    case LDG_MEM_INSERT:
        row->stamp.created_by = NULL;
        row->stamp.created_seq = db->seq;
        break;
    case LDG_MEM_UPDATE:
        ldg_free(action->old_pending);
        commit_version(db, row);
        row->stamp.locked_by = NULL;
        break;
    case LDG_MEM_DELETE:
        row->stamp.deleting = false;
        row->stamp.locked_by = NULL;
        row->stamp.deleted_seq = db->seq;
        unindex(m->table, row);
        row->stream->dead_count++;
        m->table->dead_count++;
        if (db->snapshot_count == 0 && row->stream->dead_count >= SWEEP_LEAST / 2 &&
            row->stream->dead_count * 2 >= row->stream->rows.count)
            stream_sweep(row->stream);
        break;
    case LDG_MEM_LOG:
        log->reserved--;
        action->log_row->seq = log->seq;
        log->rows[log->count++] = action->log_row;
        break;
    case LDG_MEM_PARK:
        action->parked->stamp.created_by = NULL;
        action->parked->stamp.created_seq = db->seq;
        break;
    case LDG_MEM_UNPARK:
        action->parked->stamp.deleting = false;
        action->parked->stamp.locked_by = NULL;
        action->parked->stamp.deleted_seq = db->seq;
        break;
    case LDG_MEM_CURSOR:
        commit_cursor(db, action->cursor);
        break;
    }
}

void ldg_mem_commit(struct ldg_memory *m)
{
    if (m->tx.count == 0)
        return;
    m->db->seq++;
    if (m->log)
        m->log->seq++;
    for (size_t i = 0; i < m->tx.count; i++)
        commit_action(m, &m->tx.actions[i]);
    m->tx.count = 0;
    table_sweep(m->db, m->table);
}

ledger_rc ldg_mem_finish(struct ldg_memory *m, size_t mark, ledger_rc rc)
{
    if (rc != LEDGER_OK)
        ldg_mem_undo(m, mark);
    else if (!m->in_tx)
        ldg_mem_commit(m);
    return rc;
}
