/* A program's reads: pages, filters, search, counts.
 *
 * Hides how an entry is read from rows of several versions. Invariant: what is read is the version
 * with the highest number, and nothing that was trimmed. A page is found by its small columns
 * first; payloads are read only of the entries that it has. */
#include "backend/clickhouse/clickhouse.h"

#include <stdio.h>
#include <string.h>

#define ANSWER_MARGIN ((size_t)512 * 1024 * 1024)

static const char reading[] = "reading entries";

/* --- one entry ------------------------------------------------------------------------------- */

/* clang-format off */
#define COLUMNS                                                                                    \
    "id, stream, payload, order_key, dedup_key, schema_version, metadata, tags, annotations, "     \
    "source_id, origin, created_us, no_update, updated_us, entry_key, appended_position, "         \
    "tags_position, annotations_position, trimmed_position, foreign_positions"
/* clang-format on */

void ldg_ch_take_row(struct ldg_ch_query *q, struct ldg_ch_row *row)
{
    struct ldg_ch_reader *reader = &q->reader;

    row->id = ldg_ch_read_bytes(reader);
    row->stream = ldg_ch_read_bytes(reader);
    row->payload = ldg_ch_read_bytes(reader);
    row->order_key = ldg_ch_read_bytes(reader);
    row->dedup_key = ldg_ch_read_bytes(reader);
    row->schema_version = (int32_t)ldg_ch_read_u32(reader);
    row->metadata = ldg_ch_read_bytes(reader);
    row->tags = ldg_ch_read_bytes(reader);
    row->annotations = ldg_ch_read_bytes(reader);
    row->source_id = ldg_ch_read_bytes(reader);
    row->origin = ldg_ch_read_bytes(reader);
    row->created_at_us = ldg_ch_read_i64(reader);
    row->updated_at_us = LEDGER_NO_TIME;
    if (ldg_ch_read_byte(reader) == 0)
        row->updated_at_us = ldg_ch_read_i64(reader);
    else
        (void)ldg_ch_read_u64(reader);
    row->entry_key = ldg_ch_read_bytes(reader);
    row->positions.appended = ldg_ch_read_i64(reader);
    row->positions.tags = ldg_ch_read_i64(reader);
    row->positions.annotations = ldg_ch_read_i64(reader);
    row->positions.trimmed = ldg_ch_read_i64(reader);
    row->foreign = ldg_ch_read_bytes(reader);
    row->is_deleted = false;
}

/* Other programs may write the table, too. */
static ledger_rc fail_column(const struct ldg_ch_query *q, const ledger_entry *entry,
                             const char *column, ledger_error *err)
{
    return ldg_fail_native(err, LEDGER_ERR_DATA, "clickhouse", 0,
                           "entry %.64s of table \"%s\": column %s cannot be read", entry->id.text,
                           q->ch->table, column);
}

static ledger_rc take_map(ledger_bytes text, struct ldg_arena *arena, bool lenient,
                          ledger_map *ret_map, ledger_error *err)
{
    ledger_pair *pair;
    const char *value;
    ledger_rc rc = LEDGER_OK;

    *ret_map = (ledger_map){ 0 };
    if (text.size > 0)
        rc = ldg_json_get_map(text, false, arena, ret_map, err);
    if (rc != LEDGER_ERR_DATA || !lenient)
        return rc;
    pair = ldg_arena_calloc(arena, 1, sizeof(*pair));
    value = ldg_arena_strndup(arena, text.data, text.size);
    if (pair == NULL || value == NULL)
        return LEDGER_ERR_NOMEM;
    *pair = (ledger_pair){ "", value }; /* the text that is there, as the value of "" */
    *ret_map = (ledger_map){ pair, 1 };
    return LEDGER_OK;
}

static ledger_rc take_list(ledger_bytes text, struct ldg_arena *arena, bool lenient,
                           ledger_list *ret_list, ledger_error *err)
{
    const char **item;
    ledger_rc rc = LEDGER_OK;

    *ret_list = (ledger_list){ 0 };
    if (text.size > 0)
        rc = ldg_json_get_list(text, arena, ret_list, err);
    if (rc != LEDGER_ERR_DATA || !lenient)
        return rc;
    item = ldg_arena_calloc(arena, 1, sizeof(*item));
    if (item == NULL || (*item = ldg_arena_strndup(arena, text.data, text.size)) == NULL)
        return LEDGER_ERR_NOMEM;
    *ret_list = (ledger_list){ item, 1 }; /* … as the only tag */
    return LEDGER_OK;
}

static ledger_rc take_columns(const struct ldg_ch_query *q, const struct ldg_ch_row *row,
                              struct ldg_arena *arena, bool lenient, ledger_entry *entry,
                              ledger_error *err)
{
    const char *column = "metadata";
    ledger_error why;
    ledger_rc rc = take_map(row->metadata, arena, lenient, &entry->metadata, &why);

    if (rc == LEDGER_OK) {
        column = "tags";
        rc = take_list(row->tags, arena, lenient, &entry->tags, &why);
    }
    if (rc == LEDGER_OK) {
        column = "annotations";
        rc = take_map(row->annotations, arena, lenient, &entry->annotations, &why);
    }
    if (rc != LEDGER_OK && rc != LEDGER_ERR_NOMEM)
        rc = fail_column(q, entry, column, err);
    return rc;
}

void ldg_ch_take_entry(struct ldg_ch_query *q, struct ldg_arena *arena, bool lenient,
                       ledger_entry *entry, ledger_error *err)
{
    struct ldg_ch_row row;
    char *colon;

    ldg_ch_take_row(q, &row);
    *entry = (ledger_entry){
        .id.text = ldg_arena_strndup(arena, row.id.data, row.id.size),
        .stream = ldg_arena_strndup(arena, row.stream.data, row.stream.size),
        .payload = { ldg_arena_memdup(arena, row.payload.data, row.payload.size),
                     row.payload.size },
        .order_key = ldg_arena_strndup(arena, row.order_key.data, row.order_key.size),
        .dedup_key = ldg_arena_strndup(arena, row.dedup_key.data, row.dedup_key.size),
        .schema_version = row.schema_version,
        .source_id = ldg_arena_strndup(arena, row.source_id.data, row.source_id.size),
        .origin = ldg_arena_strndup(arena, row.origin.data, row.origin.size),
        .created_at_us = row.created_at_us,
        .updated_at_us = row.updated_at_us,
    };
    if (q->rc == LEDGER_OK &&
        (entry->id.text == NULL || entry->stream == NULL || entry->payload.data == NULL ||
         entry->order_key == NULL || entry->dedup_key == NULL || entry->source_id == NULL ||
         entry->origin == NULL))
        q->rc = LEDGER_ERR_NOMEM;
    if (q->rc != LEDGER_OK)
        return;
    colon = strrchr(entry->origin, ':'); /* "uuid:epoch" */
    if (colon != NULL)
        *colon = '\0';
    q->rc = take_columns(q, &row, arena, lenient, entry, err);
}

void ldg_ch_page_begin(struct ldg_ch_query *q, const char *order, size_t max_bytes)
{
    /* All versions of an entry have its key, so rows may be sorted out by that before FINAL. */
    /* clang-format off */
    static const char sql[] =
        "SELECT toUInt8(1), " COLUMNS " FROM (SELECT *, sum(bytes) OVER (ORDER BY %s "
            "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM (SELECT *, "
                "toUnixTimestamp64Micro(created_at) AS created_us, "
                "isNull(updated_at) AS no_update, "
                "ifNull(toUnixTimestamp64Micro(updated_at), 0) AS updated_us, "
                "length(payload) + length(metadata) + length(tags) + length(annotations) + "
                "length(stream) + 300 AS bytes "
            "FROM `%s` FINAL PREWHERE (stream, origin, entry_key) GLOBAL IN ";
    /* clang-format on */

    q->answer_max = max_bytes < LDG_CH_ANSWER_ANY ? max_bytes + ANSWER_MARGIN : LDG_CH_ANSWER_ANY;
    ldg_ch_bind_u64(q, "max", max_bytes);
    ldg_ch_sql(q, sql, order, q->ch->table);
}

void ldg_ch_page_end(struct ldg_ch_query *q, const char *order)
{
    ldg_ch_sql(q,
               " WHERE is_deleted = 0)) WHERE before < {max:UInt64} ORDER BY %s FORMAT RowBinary",
               order);
}

/* --- filters --------------------------------------------------------------------------------- */

static void filter(struct ldg_ch_query *q, const char *sql, const char *name, const char *value)
{
    ldg_ch_sql(q, " AND %s", sql);
    ldg_ch_bind(q, name, value);
}

static void filter_tag(struct ldg_ch_query *q, size_t index, const char *tag)
{
    char name[32];

    (void)snprintf(name, sizeof(name), "g%zu", index);
    ldg_ch_sql(q, " AND has(JSONExtract(tags, 'Array(String)'), {%s:String})", name);
    ldg_ch_bind(q, name, tag);
}

static void filter_map(struct ldg_ch_query *q, const char *column, char mark, ledger_map map)
{
    for (size_t i = 0; i < map.count; i++) {
        char name[32];

        (void)snprintf(name, sizeof(name), "%ck%zu", mark, i);
        ldg_ch_sql(q, " AND JSONHas(%s, {%s:String}) AND JSONExtractString(%s, {%s:String}) = ",
                   column, name, column, name);
        ldg_ch_bind(q, name, map.items[i].key);
        (void)snprintf(name, sizeof(name), "%cv%zu", mark, i);
        ldg_ch_sql(q, "{%s:String}", name);
        ldg_ch_bind(q, name, map.items[i].value);
    }
}

static void filters(struct ldg_ch_query *q, const char *stream, const char *search,
                    const ledger_read_options *o)
{
    char after[LEDGER_ID_TEXT_MAX];

    if (stream != NULL)
        filter(q, "stream = {s:String}", "s", stream);
    if (o->has_after)
        filter(q, o->descending ? "id < {after:String}" : "id > {after:String}", "after",
               ldg_id_text(o->after, after));
    if (o->order_key != NULL)
        filter(q, "order_key = {o:String}", "o", o->order_key);
    if (search != NULL)
        filter(q, "positionCaseInsensitive(payload, {q:String}) > 0", "q", search);
    if (o->tag != NULL)
        filter_tag(q, o->all_tags.count, o->tag);
    for (size_t i = 0; i < o->all_tags.count; i++)
        filter_tag(q, i, o->all_tags.items[i]);
    filter_map(q, "metadata", 'm', o->metadata);
    filter_map(q, "annotations", 'a', o->annotations);
}

/* Is it the entry that is damaged, or an answer that was broken off, in which the words of an error
 * were read as values? Then it has no end, either. */
static void doubt_data(struct ldg_ch_query *q)
{
    struct ldg_ch_row row;

    q->rc = LEDGER_OK;
    while (ldg_ch_row(q))
        ldg_ch_take_row(q, &row);
    q->rc = q->reader.bad ? LEDGER_OK : LEDGER_ERR_DATA;
}

ledger_rc ldg_ch_read(void *ctx, const char *stream, const char *search,
                      const ledger_read_options *options, struct ldg_arena *arena,
                      ledger_entry **ret_entries, size_t *ret_count, ledger_error *err)
{
    const char *order = options->descending ? "id DESC" : "id";
    ledger_entry *entries = NULL;
    size_t count = 0, cap = 0;
    struct ldg_ch_query q;
    ledger_rc rc;

    ldg_ch_begin(&q, ctx, reading);
    ldg_ch_page_begin(&q, order, options->max_bytes);
    ldg_ch_sql(&q, "(SELECT stream, origin, entry_key FROM `%s` FINAL WHERE is_deleted = 0",
               q.ch->table);
    filters(&q, stream, search, options);
    ldg_ch_sql(&q, " ORDER BY %s LIMIT %zu)", order, options->limit);
    ldg_ch_page_end(&q, order);
    (void)!ldg_ch_run(&q, err);
    while (ldg_ch_row(&q)) {
        entries = ldg_arena_grow(arena, entries, sizeof(*entries), count, &cap);
        if (entries == NULL) {
            q.rc = LEDGER_ERR_NOMEM;
            break;
        }
        ldg_ch_take_entry(&q, arena, false, &entries[count++], err);
    }
    if (q.rc == LEDGER_ERR_DATA)
        doubt_data(&q);
    rc = ldg_ch_end(&q, err);
    if (rc == LEDGER_OK) {
        *ret_entries = entries;
        *ret_count = count;
    }
    return rc;
}

/* --- counts and names ------------------------------------------------------------------------ */

static void of_stream(struct ldg_ch_query *q, const char *stream)
{
    ldg_ch_sql(q, " FROM `%s` FINAL WHERE is_deleted = 0", q->ch->table);
    if (stream != NULL)
        filter(q, "stream = {s:String}", "s", stream);
}

ledger_rc ldg_ch_count(void *ctx, const char *stream, uint64_t *ret_count, ledger_error *err)
{
    struct ldg_ch_query q;

    ldg_ch_begin(&q, ctx, "counting entries");
    ldg_ch_sql(&q, "SELECT toUInt8(1), count()");
    of_stream(&q, stream);
    ldg_ch_sql(&q, " FORMAT RowBinary");
    return ldg_ch_end_count(&q, ret_count, err);
}

ledger_rc ldg_ch_stat(void *ctx, const char *stream, ledger_stream_stat *ret_stat,
                      ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    ledger_stream_stat stat = { .first_at_us = LEDGER_NO_TIME, .last_at_us = LEDGER_NO_TIME };
    struct ldg_ch_query q;
    ledger_rc rc;

    ldg_ch_begin(&q, ch, "counting entries");
    ldg_ch_sql(&q, "SELECT toUInt8(1), count(), min(id), max(id), "
                   "argMin(toUnixTimestamp64Micro(created_at), id), "
                   "argMax(toUnixTimestamp64Micro(created_at), id)");
    of_stream(&q, stream);
    ldg_ch_sql(&q, " FORMAT RowBinary");
    (void)!ldg_ch_run(&q, err);
    if (ldg_ch_row(&q)) {
        stat.count = ldg_ch_read_u64(&q.reader);
        ldg_ch_take(&q, ch->first_id, sizeof(ch->first_id));
        ldg_ch_take(&q, ch->last_id, sizeof(ch->last_id));
        if (stat.count > 0) {
            stat.first_id.text = ch->first_id;
            stat.last_id.text = ch->last_id;
            stat.first_at_us = ldg_ch_read_i64(&q.reader);
            stat.last_at_us = ldg_ch_read_i64(&q.reader);
        }
    }
    rc = ldg_ch_end(&q, err);
    if (rc == LEDGER_OK)
        *ret_stat = stat;
    return rc;
}

ledger_rc ldg_ch_list_streams(void *ctx, const char *after, size_t limit, ledger_names *ret_names,
                              ledger_error *err)
{
    struct ldg_ch_query q;

    ldg_ch_begin(&q, ctx, "listing streams");
    ldg_ch_sql(&q, "SELECT toUInt8(1), stream");
    of_stream(&q, NULL);
    if (after != NULL)
        filter(&q, "stream > {after:String}", "after", after);
    ldg_ch_sql(&q, " GROUP BY stream ORDER BY stream LIMIT %zu FORMAT RowBinary", limit);
    return ldg_ch_end_names(&q, ret_names, err);
}

ledger_rc ldg_ch_find_by_source_id(void *ctx, const char *stream, const char *source_id,
                                   ledger_id *ret_id, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    struct ldg_ch_query q;
    bool found = false;
    ledger_rc rc;

    ldg_ch_begin(&q, ch, "looking for an entry");
    ldg_ch_sql(&q, "SELECT toUInt8(1), id");
    of_stream(&q, stream);
    filter(&q, "source_id = {id:String}", "id", source_id);
    ldg_ch_sql(&q, " ORDER BY id LIMIT 1 FORMAT RowBinary");
    (void)!ldg_ch_run(&q, err);
    if (ldg_ch_row(&q)) {
        found = true;
        ldg_ch_take(&q, ch->first_id, sizeof(ch->first_id));
    }
    rc = ldg_ch_end(&q, err);
    if (rc == LEDGER_OK && !found)
        rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND,
                      "stream \"%.60s\" has no entry with source id %.64s", stream, source_id);
    if (rc == LEDGER_OK)
        *ret_id = (ledger_id){ .text = ch->first_id };
    return rc;
}
