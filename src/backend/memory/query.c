/* The calls of a program: append, change, trim, read. Each write and its event in one transaction.
 *
 * Invariant: whatever ends in the log comes from the same values, and the same time, as the row. */
#include "backend/memory/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* --- writing --------------------------------------------------------------------------------- */

static ledger_rc fail_not_found(const char *stream, ledger_id id, ledger_error *err)
{
    char text[LEDGER_ID_TEXT_MAX];
    return ldg_fail_native(err, LEDGER_ERR_NOT_FOUND, "memory", 0,
                           "stream \"%.128s\" has no entry %s", stream, ldg_id_text(id, text));
}

ledger_rc ldg_mem_dedup_find(struct ldg_memory *m, const char *stream_name, const char *dedup_key,
                             struct ldg_mem_row **ret_row, ledger_error *err)
{
    struct ldg_mem_stream *stream = ldg_mem_stream_find(m->table, stream_name);
    struct ldg_mem_row *row = NULL;
    *ret_row = NULL;
    if (!stream || !*dedup_key)
        return LEDGER_OK;
    const uint64_t hash = ldg_mem_hash_dedup(stream, dedup_key);
    while ((row = ldg_mem_index_next(m->table, LDG_MEM_BY_DEDUP, hash, row))) {
        if (row->stream != stream || strcmp(row->dedup_key, dedup_key) != 0)
            continue;
        enum ldg_mem_state state = ldg_mem_state(&row->stamp, &m->tx);
        if (state == LDG_MEM_FOREIGN)
            return ldg_mem_fail_locked("the dedup key", err);
        if (state == LDG_MEM_LIVE)
            *ret_row = row;
    }
    return LEDGER_OK;
}

static ledger_rc insert_input(struct ldg_memory *m, const char *stream,
                              const ledger_append_input *in, int64_t now_us,
                              struct ldg_mem_row **ret_row, ledger_error *err)
{
    const struct ldg_mem_new_row fresh = {
        .stream = stream,
        .payload = in->payload,
        .order_key = in->order_key,
        .dedup_key = in->dedup_key,
        .source_id = "",
        .schema_version = in->schema_version,
        .metadata = in->metadata,
        .tags = in->tags,
        .created_at_us = now_us,
    };
    return ldg_mem_insert(m, &fresh, ret_row, err);
}

static ledger_rc append(struct ldg_memory *m, const char *stream, const ledger_append_input *inputs,
                        size_t count, ledger_id *ids, size_t *ret_count, ledger_error *err)
{
    const int64_t now_us = ldg_mem_now_us();
    ledger_append_entry *entries = NULL;
    size_t added = 0;
    ledger_rc rc = LEDGER_OK;

    ldg_arena_reset(&m->scratch);
    entries = ldg_arena_calloc(&m->scratch, count, sizeof(*entries));
    if (!entries)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < count; i++) {
        const ledger_append_input *in = &inputs[i];
        struct ldg_mem_row *row = NULL, *known = NULL;
        char *id_text = ldg_arena_alloc(&m->scratch, LEDGER_ID_TEXT_MAX);
        rc = id_text ? ldg_mem_look_up(m, i, err) : ldg_fail_nomem(err);
        if (rc == LEDGER_OK)
            rc = ldg_mem_dedup_find(m, stream, in->dedup_key, &known, err);
        if (rc != LEDGER_OK)
            return rc;
        if (known)
            continue;
        rc = insert_input(m, stream, in, now_us, &row, err);
        if (rc != LEDGER_OK)
            return rc;
        const ledger_id id = ldg_mem_id(m, row->id, id_text);
        entries[added] = (ledger_append_entry){
            .id = ldg_id_text(id, id_text),
            .payload = in->payload,
            .order_key = in->order_key,
            .dedup_key = in->dedup_key,
            .schema_version = in->schema_version,
            .metadata = in->metadata,
            .tags = in->tags,
            .created_at_us = now_us,
            .source_id = "",
        };
        ids[added] = id;
        if (id.text && !(ids[added].text = ldg_strdup(id.text)))
            return ldg_fail_nomem(err);
        added++;
    }
    if (added) {
        ledger_mutation_event event = ldg_event_blank(LEDGER_MUTATION_APPEND, stream, now_us);
        event.entries = entries;
        event.entry_count = added;
        rc = ldg_mem_log_event(m, &event, now_us, err);
    }
    if (rc == LEDGER_OK)
        *ret_count = added;
    return rc;
}

ledger_rc ldg_mem_append(void *ctx, const char *stream, const ledger_append_input *inputs,
                         size_t count, ledger_ids *ret_ids, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_id *ids = NULL;
    size_t added = 0;
    ledger_rc rc = ldg_mem_enter(m, "append", err);
    if (rc != LEDGER_OK)
        return rc;
    const size_t mark = m->tx.count;
    ids = ldg_calloc(count, sizeof(*ids));
    rc = ids ? append(m, stream, inputs, count, ids, &added, err) : ldg_fail_nomem(err);
    rc = ldg_mem_leave(m, ldg_mem_finish(m, mark, rc), err);
    if (rc == LEDGER_OK)
        *ret_ids = (ledger_ids){ .items = ids, .count = added };
    else
        ledger_ids_destroy(&(ledger_ids){ .items = ids, .count = ids ? count : 0 });
    return rc;
}

/* The entry that a set_* of a program means. */
static ledger_rc find_entry(struct ldg_memory *m, const char *stream, ledger_id id,
                            struct ldg_mem_row **ret_row, ledger_error *err)
{
    struct ldg_mem_row *row = ldg_mem_row_of(m, id);
    if (!row || strcmp(row->stream->name, stream) != 0 ||
        !ldg_mem_visible(&row->stamp, &m->tx, LDG_MEM_NOW))
        return fail_not_found(stream, id, err);
    *ret_row = row;
    return LEDGER_OK;
}

/* A set_* event of a program; an entry that a bridge brought says where it is from. */
static ledger_rc log_set(struct ldg_memory *m, ledger_mutation_type type,
                         const struct ldg_mem_row *row, ledger_list tags, ledger_map annotations,
                         int64_t now_us, ledger_error *err)
{
    char id_text[LEDGER_ID_TEXT_MAX], source_text[LEDGER_ID_TEXT_MAX];
    char origin_text[LDG_MEM_ORIGIN_TEXT_MAX] = "";
    const char *source_id = "";
    if (row->origin) {
        ldg_mem_origin_text(m->table, row->origin, origin_text);
        source_id = ldg_mem_row_source_id(row, source_text);
    }
    ledger_mutation_event event = ldg_event_blank(type, row->stream->name, now_us);
    event.entry_id = ldg_id_text(ldg_mem_id(m, row->id, id_text), id_text);
    event.tags = tags;
    event.annotations = annotations;
    event.entry_origin = origin_text;
    event.source_id = source_id;
    return ldg_mem_log_event(m, &event, now_us, err);
}

ledger_rc ldg_mem_set_tags(void *ctx, const char *stream, ledger_id id, ledger_list tags,
                           ledger_error *err)
{
    struct ldg_memory *m = ctx;
    struct ldg_mem_row *row = NULL;
    ledger_rc rc = ldg_mem_enter(m, "set_tags", err);
    if (rc != LEDGER_OK)
        return rc;
    const size_t mark = m->tx.count;
    const int64_t now_us = ldg_mem_now_us();
    rc = find_entry(m, stream, id, &row, err);
    if (rc == LEDGER_OK) {
        const struct ldg_mem_version *old = ldg_mem_version_seen(row, &m->tx, LDG_MEM_NOW);
        rc = ldg_mem_update(m, row, tags, old->annotations, now_us, NULL, err);
    }
    if (rc == LEDGER_OK)
        rc = log_set(m, LEDGER_MUTATION_SET_TAGS, row, tags, (ledger_map){ 0 }, now_us, err);
    return ldg_mem_leave(m, ldg_mem_finish(m, mark, rc), err);
}

ledger_rc ldg_mem_set_annotations(void *ctx, const char *stream, ledger_id id, ledger_map map,
                                  ledger_error *err)
{
    struct ldg_memory *m = ctx;
    struct ldg_mem_row *row = NULL;
    ledger_rc rc = ldg_mem_enter(m, "set_annotations", err);
    if (rc != LEDGER_OK)
        return rc;
    const size_t mark = m->tx.count;
    const int64_t now_us = ldg_mem_now_us();
    rc = find_entry(m, stream, id, &row, err);
    if (rc == LEDGER_OK) {
        const struct ldg_mem_version *old = ldg_mem_version_seen(row, &m->tx, LDG_MEM_NOW);
        ledger_map merged;
        ldg_arena_reset(&m->scratch);
        rc = ldg_map_merge(old->annotations, map, &m->scratch, &merged, err);
        if (rc == LEDGER_OK)
            rc = ldg_mem_update(m, row, old->tags, merged, now_us, NULL, err);
    }
    if (rc == LEDGER_OK)
        rc = log_set(m, LEDGER_MUTATION_SET_ANNOTATIONS, row, (ledger_list){ 0 }, map, now_us, err);
    return ldg_mem_leave(m, ldg_mem_finish(m, mark, rc), err);
}

/* One trim event of a program. origin 0: of entries written here, up to `before`; else of that
 * origin's: `before` and `last` are the highest ids, here and there, that were deleted. */
static ledger_rc log_trim(struct ldg_memory *m, const char *stream, int origin, ledger_id before,
                          ledger_id last, int64_t now_us, ledger_error *err)
{
    char id_text[LEDGER_ID_TEXT_MAX], last_text[LEDGER_ID_TEXT_MAX];
    char origin_text[LDG_MEM_ORIGIN_TEXT_MAX] = "";
    if (origin)
        ldg_mem_origin_text(m->table, origin, origin_text);
    ledger_mutation_event event = ldg_event_blank(LEDGER_MUTATION_TRIM, stream, now_us);
    event.before_id = ldg_id_text(before, id_text);
    event.entry_origin = origin_text;
    event.source_id = origin ? ldg_id_text(last, last_text) : "";
    return ldg_mem_log_event(m, &event, now_us, err);
}

static ledger_rc trim(struct ldg_memory *m, const char *stream_name, ledger_id before,
                      uint64_t *ret_deleted, ledger_error *err)
{
    const int64_t now_us = ldg_mem_now_us(), last = ldg_mem_id_floor(m, before);
    struct ldg_mem_stream *stream = ldg_mem_stream_find(m->table, stream_name);
    char text[LEDGER_ID_TEXT_MAX];
    ledger_id *last_key = NULL; /* per origin: the highest key that is deleted … */
    int64_t *last_id;           /* … and the highest id here */
    uint64_t deleted = 0;
    ledger_rc rc = LEDGER_OK;

    ldg_arena_reset(&m->scratch);
    last_key = ldg_arena_calloc(&m->scratch, m->table->origin_count + 1, sizeof(*last_key));
    last_id = ldg_arena_calloc(&m->scratch, m->table->origin_count + 1, sizeof(*last_id));
    if (!last_key || !last_id)
        return ldg_fail_nomem(err);
    for (size_t i = 0; stream && i < stream->rows.count && rc == LEDGER_OK; i++) {
        struct ldg_mem_row *row = stream->rows.items[i];
        if (row->id > last)
            break;
        if (!ldg_mem_visible(&row->stamp, &m->tx, LDG_MEM_NOW))
            continue; /* also one that is still being appended: its transaction keeps it */
        rc = ldg_mem_look_up(m, i, err);
        if (rc == LEDGER_OK)
            rc = ldg_mem_delete(m, row, err);
        deleted++;
        if (ldg_id_compare(row->key, last_key[row->origin]) > 0)
            last_key[row->origin] = row->key;
        last_id[row->origin] = row->id;
    }
    if (rc == LEDGER_OK)
        rc = log_trim(m, stream_name, 0, before, ldg_id_of(0), now_us, err);
    for (size_t i = 1; rc == LEDGER_OK && i <= m->table->origin_count; i++) {
        if (!ldg_id_is_none(last_key[i]))
            rc = log_trim(m, stream_name, (int)i, ldg_mem_id(m, last_id[i], text), last_key[i],
                          now_us, err);
    }
    if (rc == LEDGER_OK)
        *ret_deleted = deleted;
    return rc;
}

ledger_rc ldg_mem_trim(void *ctx, const char *stream, ledger_id before, uint64_t *ret_deleted,
                       ledger_error *err)
{
    struct ldg_memory *m = ctx;
    uint64_t deleted = 0;
    ledger_rc rc = ldg_mem_enter(m, "trim", err);
    if (rc != LEDGER_OK)
        return rc;
    const size_t mark = m->tx.count;
    rc = trim(m, stream, before, &deleted, err);
    rc = ldg_mem_leave(m, ldg_mem_finish(m, mark, rc), err);
    if (rc == LEDGER_OK)
        *ret_deleted = deleted;
    return rc;
}

/* --- reading --------------------------------------------------------------------------------- */

static bool list_has(ledger_list list, const char *item)
{
    for (size_t i = 0; i < list.count; i++) {
        if (strcmp(list.items[i], item) == 0)
            return true;
    }
    return false;
}

static bool map_has(ledger_map map, const ledger_pair *pair)
{
    for (size_t i = 0; i < map.count; i++) {
        if (strcmp(map.items[i].key, pair->key) == 0)
            return strcmp(map.items[i].value, pair->value) == 0;
    }
    return false;
}

static bool contains_ignoring_case(ledger_bytes bytes, const char *text)
{
    const size_t size = strlen(text);
    const char *data = bytes.data;
    for (size_t i = 0; size <= bytes.size && i <= bytes.size - size; i++) {
        if (strncasecmp(data + i, text, size) == 0) /* the C locale of the comparison is ASCII's */
            return true;
    }
    return false;
}

static bool matches(const struct ldg_mem_row *row, const struct ldg_mem_version *version,
                    const char *search, const ledger_read_options *o)
{
    if (o->order_key && strcmp(row->order_key, o->order_key) != 0)
        return false;
    if (o->tag && !list_has(version->tags, o->tag))
        return false;
    for (size_t i = 0; i < o->all_tags.count; i++) {
        if (!list_has(version->tags, o->all_tags.items[i]))
            return false;
    }
    for (size_t i = 0; i < o->metadata.count; i++) {
        if (!map_has(row->metadata, &o->metadata.items[i]))
            return false;
    }
    for (size_t i = 0; i < o->annotations.count; i++) {
        if (!map_has(version->annotations, &o->annotations.items[i]))
            return false;
    }
    return !search || contains_ignoring_case(row->payload, search);
}

static bool copy_map(ledger_map map, struct ldg_arena *arena, ledger_map *ret_map)
{
    ledger_pair *items = ldg_arena_alloc(arena, map.count * sizeof(*items));
    if (!items)
        return false;
    for (size_t i = 0; i < map.count; i++) {
        items[i].key = ldg_arena_strdup(arena, map.items[i].key);
        items[i].value = ldg_arena_strdup(arena, map.items[i].value);
        if (!items[i].key || !items[i].value)
            return false;
    }
    *ret_map = (ledger_map){ .items = items, .count = map.count };
    return true;
}

static bool copy_list(ledger_list list, struct ldg_arena *arena, ledger_list *ret_list)
{
    const char **items = ldg_arena_alloc(arena, list.count * sizeof(*items));
    if (!items)
        return false;
    for (size_t i = 0; i < list.count; i++) {
        items[i] = ldg_arena_strdup(arena, list.items[i]);
        if (!items[i])
            return false;
    }
    *ret_list = (ledger_list){ .items = items, .count = list.count };
    return true;
}

static ledger_rc copy_entry(const struct ldg_memory *m, const struct ldg_mem_row *row,
                            const struct ldg_mem_version *version, struct ldg_arena *arena,
                            ledger_entry *out, ledger_error *err)
{
    char text[LEDGER_ID_TEXT_MAX];
    const char *uuid = row->origin ? m->table->origins[row->origin - 1].identity.uuid : "";
    *out = (ledger_entry){
        .id = ldg_mem_id_in(m, row->id, arena),
        .stream = ldg_arena_strdup(arena, row->stream->name),
        .payload = { .data = ldg_arena_strndup(arena, row->payload.data, row->payload.size),
                     .size = row->payload.size },
        .order_key = ldg_arena_strdup(arena, row->order_key),
        .dedup_key = ldg_arena_strdup(arena, row->dedup_key),
        .schema_version = row->schema_version,
        .source_id = ldg_arena_strdup(arena, ldg_mem_row_source_id(row, text)),
        .origin = ldg_arena_strdup(arena, uuid),
        .created_at_us = row->created_at_us,
        .updated_at_us = version->updated_at_us,
    };
    if (ldg_id_is_none(out->id) || !out->stream || !out->payload.data || !out->order_key ||
        !out->dedup_key || !out->source_id || !out->origin ||
        !copy_map(row->metadata, arena, &out->metadata) ||
        !copy_list(version->tags, arena, &out->tags) ||
        !copy_map(version->annotations, arena, &out->annotations))
        return ldg_fail_nomem(err);
    return LEDGER_OK;
}

/* Room for one item more in an array that grows inside an arena. */
static void *arena_grow(struct ldg_arena *arena, void *items, size_t count, size_t *cap,
                        size_t item_size)
{
    if (count < *cap)
        return items;
    size_t new_cap = *cap ? *cap * 2 : 16;
    void *grown = ldg_arena_alloc(arena, new_cap * item_size);
    if (!grown)
        return NULL;
    if (count)
        memcpy(grown, items, count * item_size);
    *cap = new_cap;
    return grown;
}

/* Only what lies between these ids, ascending; none: everything. */
struct gaps {
    const int64_t *known;
    size_t count;
};

static bool is_wanted(const struct gaps *gaps, int64_t id)
{
    size_t low = 0, high = gaps->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (gaps->known[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return gaps->count == 0 || (low < gaps->count && gaps->known[low] != id);
}

/* How many of them have ids below this one. */
static size_t rows_before(const struct ldg_memory *m, const struct ldg_mem_rows *rows, ledger_id id)
{
    char text[LEDGER_ID_TEXT_MAX];
    const int64_t number = ldg_mem_id_floor(m, id);
    const bool exact = ldg_id_equal(ldg_mem_id(m, number, text), id);
    return ldg_mem_rows_after(rows, exact ? number - 1 : number);
}

static ledger_rc read_rows(const struct ldg_memory *m, const struct ldg_mem_rows *rows,
                           const char *search, const ledger_read_options *o,
                           const struct gaps *gaps, struct ldg_arena *arena,
                           ledger_entry **ret_entries, size_t *ret_count, ledger_error *err)
{
    const int64_t seq = ldg_mem_seq(m);
    ledger_entry *entries = NULL;
    size_t count = 0, cap = 0, bytes = 0;
    /* Ascending: [begin, rows->count); descending: [0, begin), from its end. */
    size_t begin = o->descending ? rows->count : 0;
    if (o->has_after && o->descending)
        begin = rows_before(m, rows, o->after);
    else if (o->has_after)
        begin = ldg_mem_rows_after(rows, ldg_mem_id_floor(m, o->after));
    const size_t left = o->descending ? begin : rows->count - begin;

    for (size_t i = 0; i < left && count < o->limit && (count == 0 || bytes < o->max_bytes); i++) {
        const struct ldg_mem_row *row = rows->items[o->descending ? begin - 1 - i : begin + i];
        ledger_rc rc = ldg_mem_look_up(m, i, err);
        if (rc != LEDGER_OK)
            return rc;
        if (!ldg_mem_visible(&row->stamp, &m->tx, seq) || !is_wanted(gaps, row->id))
            continue;
        const struct ldg_mem_version *version = ldg_mem_version_seen(row, &m->tx, seq);
        if (!matches(row, version, search, o))
            continue;
        entries = arena_grow(arena, entries, count, &cap, sizeof(*entries));
        if (!entries)
            return ldg_fail_nomem(err);
        rc = copy_entry(m, row, version, arena, &entries[count], err);
        if (rc != LEDGER_OK)
            return rc;
        bytes += row->payload.size;
        count++;
    }
    *ret_entries = entries;
    *ret_count = count;
    return LEDGER_OK;
}

static ledger_rc read_entries(struct ldg_memory *m, const char *stream_name, const char *search,
                              const ledger_read_options *options, const struct gaps *gaps,
                              struct ldg_arena *arena, ledger_entry **ret_entries,
                              size_t *ret_count, ledger_error *err)
{
    static const struct ldg_mem_rows none = { 0 };
    ledger_rc rc = ldg_mem_enter(m, "read", err);
    if (rc != LEDGER_OK)
        return rc;
    const struct ldg_mem_rows *rows = &m->table->rows;
    if (stream_name) {
        const struct ldg_mem_stream *stream = ldg_mem_stream_find(m->table, stream_name);
        rows = stream ? &stream->rows : &none;
    }
    rc = read_rows(m, rows, search, options, gaps, arena, ret_entries, ret_count, err);
    return ldg_mem_leave(m, rc, err);
}

ledger_rc ldg_mem_read(void *ctx, const char *stream, const char *search,
                       const ledger_read_options *options, struct ldg_arena *arena,
                       ledger_entry **ret_entries, size_t *ret_count, ledger_error *err)
{
    return read_entries(ctx, stream, search, options, &(struct gaps){ 0 }, arena, ret_entries,
                        ret_count, err);
}

ledger_rc ldg_mem_read_gaps(void *ctx, const char *stream, const ledger_read_options *options,
                            const int64_t *known, size_t known_count, struct ldg_arena *arena,
                            ledger_entry **ret_entries, size_t *ret_count, ledger_error *err)
{
    return read_entries(ctx, stream, NULL, options, &(struct gaps){ known, known_count }, arena,
                        ret_entries, ret_count, err);
}

/* All that is below the first entry of an open transaction, and below ids that are reserved. */
ledger_rc ldg_mem_watermark(void *ctx, struct ldg_watermark *watermark, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "watermark", err);
    if (rc != LEDGER_OK)
        return rc;
    int64_t settled = m->table->last_id;
    const struct ldg_mem_rows *rows = &m->table->rows;
    for (size_t i = ldg_mem_rows_after(rows, watermark->settled); i < rows->count; i++) {
        const struct ldg_mem_row *row = rows->items[i];
        if (row->stamp.created_by && row->stamp.created_by != &m->tx) {
            settled = row->id - 1;
            break;
        }
    }
    for (const struct ldg_memory *at = m->table->reserving; at; at = at->next_reserving)
        settled = at->first_id <= settled ? at->first_id - 1 : settled;
    rc = ldg_mem_leave(m, LEDGER_OK, err);
    if (rc == LEDGER_OK && settled > watermark->settled)
        watermark->settled = settled;
    return rc;
}

ledger_rc ldg_mem_stat(void *ctx, const char *stream_name, ledger_stream_stat *ret_stat,
                       ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_stream_stat stat = { .first_at_us = LEDGER_NO_TIME, .last_at_us = LEDGER_NO_TIME };
    ledger_rc rc = ldg_mem_enter(m, "stat", err);
    if (rc != LEDGER_OK)
        return rc;
    const struct ldg_mem_stream *stream =
        stream_name ? ldg_mem_stream_find(m->table, stream_name) : NULL;
    const struct ldg_mem_rows *rows = stream ? &stream->rows : &m->table->rows;
    const int64_t seq = ldg_mem_seq(m);
    for (size_t i = 0; (stream || !stream_name) && rc == LEDGER_OK && i < rows->count; i++) {
        const struct ldg_mem_row *row = rows->items[i];
        rc = ldg_mem_look_up(m, i, err);
        if (!ldg_mem_visible(&row->stamp, &m->tx, seq))
            continue;
        if (stat.count++ == 0) {
            stat.first_id = ldg_mem_id(m, row->id, m->id_texts[0]);
            stat.first_at_us = row->created_at_us;
        }
        stat.last_id = ldg_mem_id(m, row->id, m->id_texts[1]);
        stat.last_at_us = row->created_at_us;
    }
    rc = ldg_mem_leave(m, rc, err);
    if (rc == LEDGER_OK)
        *ret_stat = stat;
    return rc;
}

ledger_rc ldg_mem_count(void *ctx, const char *stream, uint64_t *ret_count, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    uint64_t count = 0;
    ledger_rc rc = ldg_mem_enter(m, "count", err);
    if (rc != LEDGER_OK)
        return rc;
    const struct ldg_mem_stream *s = stream ? ldg_mem_stream_find(m->table, stream) : NULL;
    const struct ldg_mem_rows *rows = s ? &s->rows : &m->table->rows;
    for (size_t i = 0; (s || !stream) && rc == LEDGER_OK && i < rows->count; i++) {
        rc = ldg_mem_look_up(m, i, err);
        count += ldg_mem_visible(&rows->items[i]->stamp, &m->tx, ldg_mem_seq(m));
    }
    rc = ldg_mem_leave(m, rc, err);
    if (rc == LEDGER_OK)
        *ret_count = count;
    return rc;
}

static bool stream_has_rows(const struct ldg_memory *m, const struct ldg_mem_stream *stream)
{
    for (size_t i = 0; i < stream->rows.count; i++) {
        if (ldg_mem_visible(&stream->rows.items[i]->stamp, &m->tx, ldg_mem_seq(m)))
            return true;
    }
    return false;
}

static ledger_rc list_streams(struct ldg_memory *m, const char *after, size_t limit,
                              ledger_names *names, ledger_error *err)
{
    struct ldg_mem_stream **streams = ldg_mem_streams_sorted(m->table);
    const size_t stream_count = m->table->stream_count;
    size_t low = 0, high = stream_count;
    if (stream_count && !streams)
        return ldg_fail_nomem(err);
    while (after && low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(streams[middle]->name, after) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    size_t most = stream_count - low < limit ? stream_count - low : limit;
    names->items = ldg_calloc(most + 1, sizeof(*names->items));
    if (!names->items)
        return ldg_fail_nomem(err);
    for (size_t i = low; i < stream_count && names->count < limit; i++) {
        ledger_rc rc = ldg_mem_look_up(m, i - low, err);
        if (rc != LEDGER_OK)
            return rc;
        if (!stream_has_rows(m, streams[i]))
            continue;
        if (!(names->items[names->count] = ldg_strdup(streams[i]->name)))
            return ldg_fail_nomem(err);
        names->count++;
    }
    return LEDGER_OK;
}

ledger_rc ldg_mem_list_streams(void *ctx, const char *after, size_t limit, ledger_names *ret_names,
                               ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_names names = { 0 };
    ledger_rc rc = ldg_mem_enter(m, "list_streams", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_mem_leave(m, list_streams(m, after, limit, &names, err), err);
    if (rc == LEDGER_OK)
        *ret_names = names;
    else
        ledger_names_destroy(&names);
    return rc;
}

ledger_rc ldg_mem_find_by_source_id(void *ctx, const char *stream, const char *source_id,
                                    ledger_id *ret_id, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    const struct ldg_mem_row *found = NULL;
    struct ldg_mem_row *row = NULL;
    char text[LEDGER_ID_TEXT_MAX];
    ledger_rc rc = ldg_mem_enter(m, "find_by_source_id", err);
    if (rc != LEDGER_OK)
        return rc;
    const uint64_t hash = ldg_mem_hash_source(source_id);
    while ((row = ldg_mem_index_next(m->table, LDG_MEM_BY_SOURCE, hash, row))) {
        if (strcmp(row->stream->name, stream) == 0 &&
            strcmp(ldg_mem_row_source_id(row, text), source_id) == 0 &&
            ldg_mem_visible(&row->stamp, &m->tx, ldg_mem_seq(m)) && (!found || row->id < found->id))
            found = row;
    }
    if (!found)
        rc = ldg_fail_native(err, LEDGER_ERR_NOT_FOUND, "memory", 0,
                             "stream \"%.128s\" has no entry with source id \"%.64s\"", stream,
                             source_id);
    const ledger_id id = ldg_mem_id(m, found ? found->id : 0, m->id_texts[0]);
    rc = ldg_mem_leave(m, rc, err);
    if (rc == LEDGER_OK)
        *ret_id = id;
    return rc;
}

ledger_rc ldg_mem_entries_by_id(void *ctx, const ledger_id *ids, size_t count,
                                struct ldg_arena *arena, ledger_entry **ret_entries,
                                ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "entries_by_id", err);
    if (rc != LEDGER_OK)
        return rc;
    const int64_t seq = ldg_mem_seq(m);
    ledger_entry *entries = ldg_arena_calloc(arena, count, sizeof(*entries));
    if (!entries)
        rc = ldg_fail_nomem(err);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        const struct ldg_mem_row *row = ldg_mem_row_of(m, ids[i]);
        if (!row || !ldg_mem_visible(&row->stamp, &m->tx, seq))
            continue;
        entries[i] = (ledger_entry){
            .id = ldg_mem_id_in(m, row->id, arena),
            .stream = ldg_arena_strdup(arena, row->stream->name),
            .payload = { .data = ldg_arena_strndup(arena, row->payload.data, row->payload.size),
                         .size = row->payload.size },
            .order_key = "",
            .dedup_key = "",
            .source_id = "",
            .origin = "",
            .created_at_us = row->created_at_us,
            .updated_at_us = LEDGER_NO_TIME,
        };
        if (ldg_id_is_none(entries[i].id) || !entries[i].stream || !entries[i].payload.data)
            rc = ldg_fail_nomem(err);
    }
    rc = ldg_mem_leave(m, rc, err);
    if (rc == LEDGER_OK)
        *ret_entries = entries;
    return rc;
}

/* An array of ids that grows inside an arena. */
struct ids {
    ledger_id *items;
    size_t count, cap;
};

static ledger_rc ids_add(struct ids *ids, struct ldg_arena *arena, ledger_id id, ledger_error *err)
{
    ledger_id *items = arena_grow(arena, ids->items, ids->count, &ids->cap, sizeof(*items));
    if (!items || !ldg_id_copy(id, arena, &id))
        return ldg_fail_nomem(err);
    ids->items = items;
    ids->items[ids->count++] = id;
    return LEDGER_OK;
}

static int compare_ids(const void *a, const void *b)
{
    const ledger_id *x = a, *y = b;
    return ldg_id_compare(*x, *y);
}

/* Each once, ascending. */
static void ids_sort(struct ids *ids)
{
    size_t count = 0;
    if (ids->count)
        qsort(ids->items, ids->count, sizeof(*ids->items), compare_ids);
    for (size_t i = 0; i < ids->count; i++) {
        if (count == 0 || !ldg_id_equal(ids->items[count - 1], ids->items[i]))
            ids->items[count++] = ids->items[i];
    }
    ids->count = count;
}

static ledger_rc trim_survivors(struct ldg_memory *m, int origin, const char *stream_name,
                                ledger_id before, struct ldg_arena *arena, struct ids *ids,
                                ledger_error *err)
{
    const struct ldg_mem_stream *stream = ldg_mem_stream_find(m->table, stream_name);
    const int64_t seq = ldg_mem_seq(m);
    char text[LEDGER_ID_TEXT_MAX];
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; stream && i < stream->rows.count && rc == LEDGER_OK; i++) {
        const struct ldg_mem_row *row = stream->rows.items[i];
        const ledger_id id = origin ? row->key : ldg_mem_id(m, row->id, text);
        const bool reached = ldg_id_is_up_to(id, before);
        if (!origin && !reached)
            break;
        if (row->origin == origin && reached && ldg_mem_visible(&row->stamp, NULL, seq))
            rc = ids_add(ids, arena, id, err);
    }
    for (size_t i = 0; origin && i < m->table->parked_count && rc == LEDGER_OK; i++) {
        const struct ldg_mem_parked *parked = m->table->parked[i];
        if (parked->origin == origin && !ldg_id_is_none(parked->row.key) &&
            ldg_id_is_up_to(parked->row.key, before) &&
            strcmp(parked->row.stream, stream_name) == 0 &&
            ldg_mem_visible(&parked->stamp, NULL, seq))
            rc = ids_add(ids, arena, parked->row.key, err);
    }
    return rc;
}

ledger_rc ldg_mem_trim_survivors(void *ctx, int origin, const char *stream, ledger_id before,
                                 struct ldg_arena *arena, ledger_id **ret_ids, size_t *ret_count,
                                 ledger_error *err)
{
    struct ldg_memory *m = ctx;
    struct ids ids = { 0 };
    ledger_rc rc = ldg_mem_enter(m, "trim_survivors", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = trim_survivors(m, origin, stream, before, arena, &ids, err);
    rc = ldg_mem_leave(m, rc, err);
    if (rc == LEDGER_OK) {
        ids_sort(&ids);
        *ret_ids = ids.items;
        *ret_count = ids.count;
    }
    return rc;
}

/* --- verification ---------------------------------------------------------------------------- */

static int compare_keys(const void *a, const void *b)
{
    const struct ldg_mem_row *const *x = a, *const *y = b;
    return ldg_id_compare((*x)->key, (*y)->key);
}

/* The origin's rows by key, and the first of them that has `key` (at), or stands behind it. */
static const struct ldg_mem_rows *origin_rows(struct ldg_memory *m, int number, ledger_id key,
                                              bool at, size_t *ret_begin)
{
    struct ldg_mem_origin *origin = &m->table->origins[number - 1];
    if (!origin->sorted && origin->rows.count)
        qsort(origin->rows.items, origin->rows.count, sizeof(*origin->rows.items), compare_keys);
    origin->sorted = true;
    size_t low = 0, high = origin->rows.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ldg_id_compare(origin->rows.items[middle]->key, key) < (at ? 0 : 1))
            low = middle + 1;
        else
            high = middle;
    }
    *ret_begin = low;
    return &origin->rows;
}

struct history {
    int origin;
    bool unclaimed; /* of origin 0 only what the Go bridge left */
    struct ldg_arena *arena;
    struct ldg_history_row *rows;
    size_t count, cap, bytes;
};

static ledger_rc history_begin(const struct ldg_memory *m, int origin, struct ldg_arena *arena,
                               struct history *h, ledger_error *err)
{
    const bool unclaimed = origin == LDG_ORIGIN_UNCLAIMED;
    if (unclaimed)
        origin = 0;
    *h = (struct history){ .origin = origin, .unclaimed = unclaimed, .arena = arena };
    if (origin < 0 || (size_t)origin > m->table->origin_count)
        return ldg_fail_native(err, LEDGER_ERR_INVALID, "memory", 0, "there is no origin %d",
                               origin);
    return LEDGER_OK;
}

/* Adds the entries behind `key`, or the one that has it (at), as long as there is room. */
static ledger_rc history_add(struct ldg_memory *m, struct history *h, ledger_id key, bool at,
                             size_t limit, size_t max_bytes, ledger_error *err)
{
    const int64_t seq = ldg_mem_seq(m);
    const struct ldg_mem_rows *rows = &m->table->rows;
    char text[LEDGER_ID_TEXT_MAX];
    size_t begin = 0;

    if (h->origin)
        rows = origin_rows(m, h->origin, key, at, &begin);
    else
        begin = at ? rows_before(m, rows, key) : ldg_mem_rows_after(rows, ldg_mem_id_floor(m, key));
    for (size_t i = begin;
         i < rows->count && h->count < limit && (h->count == 0 || h->bytes < max_bytes); i++) {
        const struct ldg_mem_row *row = rows->items[i];
        const ledger_id row_key = h->origin ? row->key : ldg_mem_id(m, row->id, text);
        struct ldg_history_row out_row = { .has_source_id = *row->source_id != '\0' };
        if (at && !ldg_id_equal(row_key, key))
            break;
        if (row->origin != h->origin || (h->unclaimed && !*row->source_id) ||
            !ldg_mem_visible(&row->stamp, &m->tx, seq))
            continue;
        ledger_entry *entry = ldg_arena_alloc(h->arena, sizeof(*entry));
        struct ldg_history_row *out =
            entry ? arena_grow(h->arena, h->rows, h->count, &h->cap, sizeof(*out)) : NULL;
        if (!out || !ldg_id_copy(row_key, h->arena, &out_row.key))
            return ldg_fail_nomem(err);
        ledger_rc rc =
            copy_entry(m, row, ldg_mem_version_seen(row, &m->tx, seq), h->arena, entry, err);
        if (rc != LEDGER_OK)
            return rc;
        out_row.entry = entry;
        out[h->count++] = out_row;
        h->rows = out;
        h->bytes += row->payload.size;
    }
    return LEDGER_OK;
}

ledger_rc ldg_mem_history(void *ctx, int origin, ledger_id after, size_t limit, size_t max_bytes,
                          struct ldg_arena *arena, struct ldg_history_row **ret_rows,
                          size_t *ret_count, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    struct history h;
    ledger_rc rc = ldg_mem_enter(m, "history", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = history_begin(m, origin, arena, &h, err);
    if (rc == LEDGER_OK)
        rc = history_add(m, &h, after, false, limit, max_bytes, err);
    rc = ldg_mem_leave(m, rc, err);
    if (rc == LEDGER_OK) {
        *ret_rows = h.rows;
        *ret_count = h.count;
    }
    return rc;
}

ledger_rc ldg_mem_history_of(void *ctx, int origin, const ledger_id *keys, size_t count,
                             size_t max_bytes, struct ldg_arena *arena,
                             struct ldg_history_row **ret_rows, size_t *ret_count,
                             ledger_error *err)
{
    struct ldg_memory *m = ctx;
    struct history h;
    ledger_rc rc = ldg_mem_enter(m, "history_of", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = history_begin(m, origin, arena, &h, err);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++)
        rc = history_add(m, &h, keys[i], true, SIZE_MAX, max_bytes, err);
    rc = ldg_mem_leave(m, rc, err);
    if (rc == LEDGER_OK) {
        *ret_rows = h.rows;
        *ret_count = h.count;
    }
    return rc;
}
