/* Writing entries: append, tags, annotations, trim.
 *
 * Hides how a change and its event come into one statement, which is one round trip: the server
 * puts the ids into the event's bytes. Invariants: an entry and its event are in one transaction; a
 * log row's id is drawn after the rows that it tells of are locked, so that the changes of one
 * entry have log ids in their order. */
#include "backend/postgres/postgres.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#define KEEP_BYTES ((size_t)1024 * 1024) /* buffers beyond this are given back after the call */
/* A row of the log has to fit into one message, together with its other columns. */
#define MAX_EVENT_BYTES ((size_t)1000 * 1000 * 1000)
/* An append beyond these is written in pieces, in one transaction. */
#define STATEMENT_ENTRIES 1000
#define STATEMENT_BYTES ((size_t)4 * 1024 * 1024)
#define PIECE_ENTRIES 5000
#define PIECE_BYTES ((size_t)16 * 1024 * 1024)
#define ID_DIGITS 19

/* --- statements ------------------------------------------------------------------------------ */

#define ENTRY_COLUMNS                                                                              \
    "stream, payload, order_key, dedup_key, schema_version, metadata, tags, created_at"
#define SKIP_KNOWN " ON CONFLICT (stream, dedup_key) WHERE dedup_key != '' DO NOTHING"
#define INSERT_LOG "INSERT INTO \"{l}\"(stream, payload, schema_version, created_at) "

/* One entry: $1 to $7 its columns, $8 time, $9 event before and $10 behind its id. */
#define INSERT_ONE "INSERT INTO \"{t}\"(" ENTRY_COLUMNS ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
#define WITH_EVENT(insert)                                                                         \
    "WITH e AS (" insert " RETURNING id), l AS (" INSERT_LOG                                       \
    "SELECT '_', $9 || convert_to(id::text, 'UTF8') || $10, 1, $8 FROM e) SELECT id FROM e"
static const char append_one[] = INSERT_ONE " RETURNING id";
static const char append_one_keyed[] = INSERT_ONE SKIP_KNOWN " RETURNING id";
static const char append_one_log[] = WITH_EVENT(INSERT_ONE);
static const char append_one_keyed_log[] = WITH_EVENT(INSERT_ONE SKIP_KNOWN);

/* Many: $1 stream, $2 to $7 arrays of the columns, $8 time. Ids are drawn in the order of the
 * input, and tell which of the entries were new. */
#define WITH_NEW(more_arrays, more_columns)                                                        \
    "WITH i AS MATERIALIZED (SELECT "                                                              \
    "nextval((SELECT pg_get_serial_sequence('\"{t}\"', 'id')::regclass)) AS id, u.* "              \
    "FROM unnest($2, $3, $4, $5, $6, $7" more_arrays ") WITH ORDINALITY AS "                       \
    "u(payload, order_key, dedup_key, schema_version, metadata, tags" more_columns ", n)), "       \
    "e AS (INSERT INTO \"{t}\"(id, " ENTRY_COLUMNS ") OVERRIDING SYSTEM VALUE SELECT id, $1, "     \
    "payload, order_key, dedup_key, schema_version, metadata, tags, $8 FROM i" SKIP_KNOWN          \
    " RETURNING id)"
static const char append_many[] =
    WITH_NEW("", "") " SELECT i.id, i.n FROM i JOIN e ON e.id = i.id ORDER BY i.n";
/* $9 array: what follows each id, up to the end of its entry; $10 event before the first entry,
 * $11 event behind the last */
static const char append_many_log[] =
    WITH_NEW(", $9", ", rest") ", l AS (" INSERT_LOG
                               "SELECT '_', $10 || string_agg('{\"id\":\"'::bytea || "
                               "convert_to(i.id::text, 'UTF8') || i.rest, ','::bytea "
                               "ORDER BY i.n) || $11, 1, $8 FROM i JOIN e ON e.id = i.id "
                               "HAVING count(*) > 0) SELECT id FROM e ORDER BY id";
/* $1 event, $2 time */
static const char insert_log[] = INSERT_LOG "VALUES ('_', $1, 1, $2)";

/* A change of one entry: $1 id, $2 stream, $3 time, $4 (and $5) what is set, then the event,
 * without its last byte: what a bridge brought is known by the id at its origin to the stores
 * further down the chain, and that is put behind. */
#define UPDATE(set) "UPDATE \"{t}\" SET " set ", updated_at = $3 WHERE id = $1 AND stream = $2"
#define CHANGE(update) update " RETURNING id"
#define CHANGE_OF_GO(update, event)                                                                \
    "WITH u AS (" update " RETURNING id), l AS (" INSERT_LOG "SELECT '_', " event                  \
    " || '}'::bytea, 1, $3 FROM u) SELECT id FROM u"
/* clang-format off */
#define AT_ORIGIN(uuid, epoch, key)                                                                \
    "convert_to(',\"entry_origin\":' || to_json(" uuid " || ':' || " epoch ")::text || "           \
    "',\"source_id\":' || to_json(" key ")::text || '}', 'UTF8')"
#define CHANGE_WITH_ORIGIN(update, event)                                                          \
    "WITH u AS (" update " RETURNING id, origin, coalesce(source_pos::text, source_id) AS key), "  \
    "l AS (" INSERT_LOG "SELECT '_', " event " || CASE WHEN o.id IS NULL THEN '}'::bytea "         \
            "ELSE " AT_ORIGIN("o.uuid", "o.epoch", "u.key") " END, 1, $3 "                         \
        "FROM u LEFT JOIN \"{t}_origins\" AS o ON o.id = u.origin) "                               \
    "SELECT id FROM u"
/* clang-format on */
#define SET_TAGS UPDATE("tags = $4")
/* $4 is merged, the keys of $5 go; what is no object of strings is left alone. */
#define SET_ANNOTATIONS                                                                            \
    UPDATE("annotations = (CASE WHEN jsonb_typeof(annotations) = 'object' THEN annotations "       \
           "ELSE '{}'::jsonb END || $4) - $5")                                                     \
    " AND (annotations IS NULL OR CASE jsonb_typeof(annotations) WHEN 'null' THEN true "           \
    "WHEN 'object' THEN NOT jsonb_path_exists(annotations, '$.* ? (@.type() != \"string\")') "     \
    "ELSE false END)"
static const char *const set_tags[] = {
    CHANGE(SET_TAGS),
    CHANGE_OF_GO(SET_TAGS, "$5"),
    CHANGE_WITH_ORIGIN(SET_TAGS, "$5"),
};
static const char *const set_annotations[] = {
    CHANGE(SET_ANNOTATIONS),
    CHANGE_OF_GO(SET_ANNOTATIONS, "$6"),
    CHANGE_WITH_ORIGIN(SET_ANNOTATIONS, "$6"),
};
static const char entry_exists[] = "SELECT id FROM \"{t}\" WHERE id = $1 AND stream = $2";

/* $1 stream, $2 id, $3 time, $4 event, $5 event of one origin, without its last byte. The log gets
 * one event more per origin of the entries that went. */
#define DELETE "DELETE FROM \"{t}\" WHERE stream = $1 AND id <= $2"
/* clang-format off */
static const char *const trims[] = {
    "WITH d AS (" DELETE " RETURNING 1) SELECT count(*) FROM d",
    "WITH d AS (" DELETE " RETURNING 1), n AS (SELECT count(*) AS n FROM d), l AS (" INSERT_LOG
    "SELECT '_', $4, 1, $3 FROM n WHERE n.n >= 0) SELECT n FROM n",
    "WITH d AS (" DELETE " RETURNING id, origin, source_pos, source_id), "
    "n AS (SELECT count(*) AS n FROM d), "
    "b AS (SELECT origin, max(id) AS id, "
            "coalesce(max(source_pos)::text, max(" LDG_PG_TEXT_OF("") ")) AS last "
        "FROM d WHERE origin != 0 GROUP BY origin, source_pos IS NULL), "
    "l AS (" INSERT_LOG "SELECT '_', v.event, 1, $3 FROM ("
        "SELECT 0 AS origin, $4 AS event FROM n WHERE n.n >= 0 "
        "UNION ALL "
        "SELECT o.id, $5 || convert_to(',\"before_id\":\"' || b.id || '\"', 'UTF8') "
                "|| " AT_ORIGIN("o.uuid", "o.epoch", "b.last") " "
            "FROM b JOIN \"{t}_origins\" AS o ON o.id = b.origin "
        "ORDER BY origin) AS v) "
    "SELECT n FROM n",
};
/* clang-format on */

/* Which of the three: no log, a log, a log and entries that bridges may have brought. */
static size_t form_of(const struct ldg_pg *pg)
{
    return !pg->has_log ? 0 : !pg->has_ours ? 1 : 2;
}

/* --- small pieces ---------------------------------------------------------------------------- */

static void give_back(struct ldg_buf *buf)
{
    if (buf->cap > KEEP_BYTES)
        ldg_buf_fini(buf);
}

static ledger_rc fail_buf(const struct ldg_buf *buf, ledger_error *err)
{
    if (buf->rc == LEDGER_ERR_TOO_LARGE)
        return ldg_fail(err, buf->rc, "over %zu bytes together; split the call", buf->max);
    return ldg_fail_nomem(err);
}

/* --- append ---------------------------------------------------------------------------------- */

struct append {
    struct ldg_pg *pg;
    const char *stream;
    int64_t time_us;
    ledger_append_entry *entries; /* in the arena */
    struct ldg_event_place *places;
    size_t count;
    size_t *fresh; /* indexes of the entries that were new; only of an append in pieces */
    ledger_id *ids;
    size_t new_count, bytes;
    struct ldg_buf metadata, tags; /* texts of one entry */
    struct ldg_buf arrays[7];
    struct ldg_buf event; /* the final one of an append in pieces */
};

static size_t entry_bytes(const ledger_append_entry *entry)
{
    size_t bytes = entry->payload.size + strlen(entry->order_key) + strlen(entry->dedup_key);
    for (size_t i = 0; i < entry->metadata.count; i++)
        bytes += strlen(entry->metadata.items[i].key) + strlen(entry->metadata.items[i].value);
    for (size_t i = 0; i < entry->tags.count; i++)
        bytes += strlen(entry->tags.items[i]);
    return bytes;
}

/* Adds the ids of a result: column 0; column 1, if there is one: number of the entry in the piece
 * that begins behind `first`. */
static void take_ids(struct append *a, const PGresult *result, size_t first)
{
    const bool numbered = PQnfields(result) > 1;
    for (int row = 0; row < PQntuples(result); row++) {
        if (numbered)
            a->fresh[a->new_count] = first + (size_t)ldg_pg_get_int64(result, row, 1) - 1;
        a->ids[a->new_count++] = (ledger_id){ .number = ldg_pg_get_int64(result, row, 0) };
    }
}

static ledger_rc append_one_entry(struct append *a, ledger_error *err)
{
    struct ldg_pg *pg = a->pg;
    const ledger_append_entry *entry = &a->entries[0];
    const bool keyed = *entry->dedup_key;
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;

    if (entry->metadata.count && ldg_json_put_map(&a->metadata, entry->metadata) != LEDGER_OK)
        return fail_buf(&a->metadata, err);
    if (entry->tags.count && ldg_json_put_list(&a->tags, entry->tags) != LEDGER_OK)
        return fail_buf(&a->tags, err);
    ldg_pg_arg_text(&args, a->stream);
    ldg_pg_arg_bytes(&args, entry->payload.data, entry->payload.size);
    ldg_pg_arg_text(&args, entry->order_key);
    ldg_pg_arg_text(&args, entry->dedup_key);
    ldg_pg_arg_int32(&args, entry->schema_version);
    ldg_pg_arg_json(&args, entry->metadata.count ? a->metadata.data : NULL, a->metadata.size);
    ldg_pg_arg_json(&args, entry->tags.count ? a->tags.data : "[]",
                    entry->tags.count ? a->tags.size : 2);
    ldg_pg_arg_time(&args, a->time_us);
    if (pg->has_log) {
        const size_t id = a->places[0].id;
        ldg_pg_arg_bytes(&args, pg->event_buf.data, id);
        ldg_pg_arg_bytes(&args, pg->event_buf.data + id, pg->event_buf.size - id);
    }
    const char *sql = pg->has_log ? keyed ? append_one_keyed_log : append_one_log
                      : keyed     ? append_one_keyed
                                  : append_one;
    ledger_rc rc = ldg_pg_run_write(pg, "appending an entry", sql, &args, &result, err);
    if (rc == LEDGER_OK)
        take_ids(a, result, 0);
    PQclear(result);
    return rc;
}

/* The columns of some entries as arrays; with_event: what follows each id in the event, too. */
static ledger_rc put_arrays(struct append *a, size_t first, size_t count, bool with_event,
                            struct ldg_pg_args *args, ledger_error *err)
{
    static const Oid elements[] = { LDG_PG_BYTEA, LDG_PG_TEXT,  LDG_PG_TEXT, LDG_PG_INT4,
                                    LDG_PG_JSONB, LDG_PG_JSONB, LDG_PG_BYTEA };
    static const Oid types[] = { LDG_PG_BYTEA_ARRAY, LDG_PG_TEXT_ARRAY,  LDG_PG_TEXT_ARRAY,
                                 LDG_PG_INT4_ARRAY,  LDG_PG_JSONB_ARRAY, LDG_PG_JSONB_ARRAY,
                                 LDG_PG_BYTEA_ARRAY };
    const size_t columns = with_event ? 7 : 6;

    for (size_t c = 0; c < columns; c++)
        ldg_pg_array_begin(&a->arrays[c], elements[c]);
    for (size_t i = first; i < first + count; i++) {
        const ledger_append_entry *entry = &a->entries[i];
        ldg_pg_array_bytes(&a->arrays[0], entry->payload.data, entry->payload.size);
        ldg_pg_array_text(&a->arrays[1], entry->order_key);
        ldg_pg_array_text(&a->arrays[2], entry->dedup_key);
        ldg_pg_array_int32(&a->arrays[3], entry->schema_version);
        ldg_buf_reset(&a->metadata);
        ldg_buf_reset(&a->tags);
        if (entry->metadata.count && ldg_json_put_map(&a->metadata, entry->metadata) != LEDGER_OK)
            return fail_buf(&a->metadata, err);
        if (ldg_json_put_list(&a->tags, entry->tags) != LEDGER_OK)
            return fail_buf(&a->tags, err);
        ldg_pg_array_jsonb(&a->arrays[4], entry->metadata.count ? a->metadata.data : NULL,
                           a->metadata.size);
        ldg_pg_array_jsonb(&a->arrays[5], a->tags.data, a->tags.size);
        if (with_event)
            ldg_pg_array_bytes(&a->arrays[6], a->pg->event_buf.data + a->places[i].id,
                               a->places[i].behind - a->places[i].id);
    }
    for (size_t c = 0; c < columns; c++) {
        ldg_pg_array_end(&a->arrays[c], count);
        if (a->arrays[c].rc != LEDGER_OK)
            return fail_buf(&a->arrays[c], err);
    }
    ldg_pg_arg_text(args, a->stream);
    for (size_t c = 0; c < 6; c++)
        ldg_pg_arg_array(args, types[c], &a->arrays[c]);
    ldg_pg_arg_time(args, a->time_us);
    if (with_event)
        ldg_pg_arg_array(args, types[6], &a->arrays[6]);
    return LEDGER_OK;
}

static ledger_rc append_many_entries(struct append *a, ledger_error *err)
{
    struct ldg_pg *pg = a->pg;
    const struct ldg_buf *event = &pg->event_buf;
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    ledger_rc rc = put_arrays(a, 0, a->count, pg->has_log, &args, err);
    if (rc == LEDGER_OK && pg->has_log) {
        const size_t behind = a->places[a->count - 1].behind;
        ldg_pg_arg_bytes(&args, event->data, a->places[0].start);
        ldg_pg_arg_bytes(&args, event->data + behind, event->size - behind);
    }
    if (rc == LEDGER_OK)
        rc = ldg_pg_run_write(pg, "appending entries", pg->has_log ? append_many_log : append_many,
                              &args, &result, err);
    if (rc == LEDGER_OK)
        take_ids(a, result, 0);
    PQclear(result);
    return rc;
}

/* The event of an append in pieces: what was encoded before, less the entries that were known, and
 * with the ids. */
static ledger_rc log_pieces(struct append *a, ledger_error *err)
{
    struct ldg_pg *pg = a->pg;
    const char *data = pg->event_buf.data;
    const size_t behind = a->places[a->count - 1].behind;
    struct ldg_pg_args args = { 0 };
    char id[24];

    ldg_buf_append(&a->event, data, a->places[0].start);
    for (size_t i = 0; i < a->new_count; i++) {
        const struct ldg_event_place *place = &a->places[a->fresh[i]];
        int size = snprintf(id, sizeof(id), "%" PRId64, a->ids[i].number);
        if (i > 0)
            ldg_buf_putc(&a->event, ',');
        ldg_buf_append(&a->event, data + place->start, place->id - place->start);
        ldg_buf_append(&a->event, id, (size_t)size);
        ldg_buf_append(&a->event, data + place->id, place->behind - place->id);
    }
    if (ldg_buf_append(&a->event, data + behind, pg->event_buf.size - behind) != LEDGER_OK)
        return fail_buf(&a->event, err);
    ldg_pg_arg_bytes(&args, a->event.data, a->event.size);
    ldg_pg_arg_time(&args, a->time_us);
    return ldg_pg_run_write(pg, "writing the mutation log", insert_log, &args, NULL, err);
}

static ledger_rc append_pieces(struct append *a, ledger_error *err)
{
    struct ldg_pg *pg = a->pg;
    bool own = false;
    ledger_rc rc = ldg_pg_begin_write(pg, NULL, &own, err);
    if (rc != LEDGER_OK)
        return rc;
    for (size_t first = 0; rc == LEDGER_OK && first < a->count;) {
        struct ldg_pg_args args = { 0 };
        PGresult *result = NULL;
        size_t count = 0, bytes = 0;
        do {
            bytes += entry_bytes(&a->entries[first + count]);
            count++;
        } while (first + count < a->count && count < PIECE_ENTRIES && bytes < PIECE_BYTES);
        rc = put_arrays(a, first, count, false, &args, err);
        if (rc == LEDGER_OK)
            rc = ldg_pg_run_write(pg, "appending entries", append_many, &args, &result, err);
        if (rc == LEDGER_OK)
            take_ids(a, result, first);
        PQclear(result);
        first += count;
    }
    if (rc == LEDGER_OK && pg->has_log && a->new_count)
        rc = log_pieces(a, err);
    return ldg_pg_end(pg, own, rc, err);
}

static ledger_rc append_all_pieces(struct append *a, ledger_error *err)
{
    const bool alone = PQtransactionStatus(a->pg->conn) == PQTRANS_IDLE;
    ledger_rc rc = append_pieces(a, err);
    if (alone && ldg_pg_is_outdated(rc, err)) {
        a->new_count = 0;
        ldg_buf_reset(&a->event);
        rc = append_pieces(a, err);
    }
    return rc;
}

/* Entries in the form of an event, and the event, with the ids still to come. */
static ledger_rc prepare_append(struct append *a, const ledger_append_input *inputs,
                                ledger_error *err)
{
    struct ldg_pg *pg = a->pg;
    struct ldg_arena *arena = &pg->scratch;
    ledger_rc rc = LEDGER_OK;
    bool too_large = false;

    ldg_arena_reset(arena);
    a->entries = ldg_arena_calloc(arena, a->count, sizeof(*a->entries));
    a->places = ldg_arena_calloc(arena, a->count, sizeof(*a->places));
    a->fresh = ldg_arena_calloc(arena, a->count, sizeof(*a->fresh));
    a->ids = ldg_malloc(a->count * sizeof(*a->ids));
    if (!a->entries || !a->places || !a->fresh || !a->ids)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < a->count; i++) {
        const ledger_append_input *input = &inputs[i];
        a->entries[i] = (ledger_append_entry){
            .id = "",
            .payload = input->payload,
            .order_key = input->order_key ? input->order_key : "",
            .dedup_key = input->dedup_key ? input->dedup_key : "",
            .schema_version = input->schema_version ? input->schema_version : 1,
            .metadata = input->metadata,
            .tags = input->tags,
            .created_at_us = a->time_us,
            .source_id = "",
        };
        const size_t bytes = entry_bytes(&a->entries[i]);
        too_large = too_large || bytes > MAX_EVENT_BYTES;
        a->bytes += bytes;
    }
    if (pg->has_log && !too_large) {
        ledger_mutation_event event =
            ldg_event_blank(LEDGER_MUTATION_APPEND, a->stream, a->time_us);
        event.entries = a->entries;
        event.entry_count = a->count;
        ldg_buf_reset(&pg->event_buf);
        rc = ldg_event_encode_places(&event, &pg->event_buf, a->places, err);
        too_large = rc == LEDGER_ERR_TOO_LARGE ||
                    pg->event_buf.size + a->count * ID_DIGITS > MAX_EVENT_BYTES;
    }
    /* Known before anything is written: nothing has to be taken back. */
    if (too_large)
        rc = ldg_fail(err, LEDGER_ERR_TOO_LARGE,
                      "over %zu bytes together, which is more than PostgreSQL keeps in one row; "
                      "split the call",
                      MAX_EVENT_BYTES);
    return rc;
}

/* Which entry has the key that no index takes, where there are several. */
static ledger_rc name_entry(const struct append *a, ledger_rc rc, ledger_error *err)
{
    const ledger_error why = *err;
    const size_t stream_size = strlen(a->stream);
    if (strcmp(ldg_pg_sqlstate(err), "54000") != 0 || a->count == 1)
        return rc;
    for (size_t i = 0; i < a->count; i++) {
        size_t dedup = strlen(a->entries[i].dedup_key), order = strlen(a->entries[i].order_key);
        size_t size = dedup > order ? dedup : order;
        if (stream_size + size > LDG_PG_KEYS_MAX_BYTES)
            return ldg_fail_native(err, rc, why.backend, why.native_code,
                                   "entry %zu of %zu has a key of %zu bytes: %s", i + 1, a->count,
                                   size, why.message);
    }
    return rc;
}

ledger_rc ldg_pg_append(void *ctx, const char *stream, const ledger_append_input *inputs,
                        size_t count, ledger_ids *ret_ids, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    struct append a = { .pg = pg, .stream = stream, .count = count };

    ldg_buf_init(&a.metadata, MAX_EVENT_BYTES);
    ldg_buf_init(&a.tags, MAX_EVENT_BYTES);
    ldg_buf_init(&a.event, MAX_EVENT_BYTES);
    for (size_t i = 0; i < sizeof(a.arrays) / sizeof(a.arrays[0]); i++)
        ldg_buf_init(&a.arrays[i], MAX_EVENT_BYTES);

    ledger_rc rc = ldg_pg_enter(pg, err);
    a.time_us = ldg_clock_now_us();
    if (rc == LEDGER_OK && count)
        rc = prepare_append(&a, inputs, err);
    if (rc != LEDGER_OK || !count)
        goto out;
    if (count == 1 && a.bytes <= PIECE_BYTES)
        rc = append_one_entry(&a, err);
    else if (count <= STATEMENT_ENTRIES && a.bytes <= STATEMENT_BYTES)
        rc = append_many_entries(&a, err);
    else
        rc = append_all_pieces(&a, err);
    if (rc == LEDGER_ERR_TOO_LARGE)
        rc = name_entry(&a, rc, err);
out:
    ldg_buf_fini(&a.metadata);
    ldg_buf_fini(&a.tags);
    ldg_buf_fini(&a.event);
    for (size_t i = 0; i < sizeof(a.arrays) / sizeof(a.arrays[0]); i++)
        ldg_buf_fini(&a.arrays[i]);
    give_back(&pg->event_buf);
    if (rc != LEDGER_OK || !ret_ids || !a.new_count) {
        ldg_free(a.ids);
        a.ids = NULL;
    }
    if (rc == LEDGER_OK && ret_ids)
        *ret_ids = (ledger_ids){ .items = a.ids, .count = a.new_count };
    return rc;
}

/* --- tags, annotations, trim ----------------------------------------------------------------- */

/* The event of a change; its last byte is left to the statement. */
static ledger_rc put_event(struct ldg_pg *pg, const ledger_mutation_event *event,
                           struct ldg_buf *out, struct ldg_pg_args *args, ledger_error *err)
{
    if (!pg->has_log)
        return LEDGER_OK;
    ldg_buf_reset(out);
    ledger_rc rc = ldg_event_encode(event, out, err);
    if (rc == LEDGER_OK)
        ldg_pg_arg_bytes(args, out->data, out->size - 1);
    return rc;
}

/* What is set and what goes, of annotations: $4 and $5. The texts are the caller's two buffers. */
static ledger_rc put_annotations(struct ldg_pg *pg, ledger_map map, struct ldg_buf *set,
                                 struct ldg_buf *unset, struct ldg_pg_args *args, ledger_error *err)
{
    ledger_pair *kept = ldg_arena_calloc(&pg->scratch, map.count, sizeof(*kept));
    size_t kept_count = 0;
    if (!kept)
        return ldg_fail_nomem(err);
    ldg_pg_array_begin(unset, LDG_PG_TEXT);
    for (size_t i = 0; i < map.count; i++) {
        if (map.items[i].value)
            kept[kept_count++] = map.items[i];
        else
            ldg_pg_array_text(unset, map.items[i].key);
    }
    ldg_pg_array_end(unset, map.count - kept_count);
    ldg_json_put_map(set, (ledger_map){ .items = kept, .count = kept_count });
    if (set->rc != LEDGER_OK || unset->rc != LEDGER_OK)
        return fail_buf(set->rc != LEDGER_OK ? set : unset, err);
    ldg_pg_arg_json(args, set->data, set->size);
    ldg_pg_arg_array(args, LDG_PG_TEXT_ARRAY, unset);
    return LEDGER_OK;
}

/* Nothing was changed: there is no such entry, or it holds no annotations that can be merged. */
static ledger_rc fail_unchanged(struct ldg_pg *pg, const char *stream, int64_t id,
                                ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    int64_t value = 0;
    bool found = false;
    ldg_pg_arg_int64(&args, id);
    ldg_pg_arg_text(&args, stream);
    ledger_rc rc =
        ldg_pg_run_int64(pg, "looking for an entry", entry_exists, &args, &found, &value, err);
    if (rc != LEDGER_OK)
        return rc;
    if (found)
        return ldg_pg_fail_row(pg, id, "annotations", "is no JSON object of strings", err);
    return ldg_fail(err, LEDGER_ERR_NOT_FOUND, "stream \"%s\" has no entry %lld", stream,
                    (long long)id);
}

/* tags or annotations, whichever is not NULL. */
static ledger_rc set_column(struct ldg_pg *pg, const char *stream, int64_t id,
                            const ledger_list *tags, const ledger_map *annotations,
                            ledger_error *err)
{
    const int64_t time_us = ldg_clock_now_us();
    const char *const *templates = tags ? set_tags : set_annotations;
    ledger_mutation_event event = ldg_event_blank(
        tags ? LEDGER_MUTATION_SET_TAGS : LEDGER_MUTATION_SET_ANNOTATIONS, stream, time_us);
    struct ldg_pg_args args = { 0 };
    struct ldg_buf set, unset;
    PGresult *result = NULL;
    char id_text[24];
    ledger_rc rc;

    ldg_buf_init(&set, MAX_EVENT_BYTES);
    ldg_buf_init(&unset, MAX_EVENT_BYTES);
    snprintf(id_text, sizeof(id_text), "%" PRId64, id);
    event.entry_id = id_text;
    rc = ldg_pg_enter(pg, err);
    if (rc != LEDGER_OK)
        goto out;
    ldg_arena_reset(&pg->scratch);
    ldg_pg_arg_int64(&args, id);
    ldg_pg_arg_text(&args, stream);
    ldg_pg_arg_time(&args, time_us);
    if (tags) {
        event.tags = *tags;
        if (ldg_json_put_list(&set, *tags) == LEDGER_OK)
            ldg_pg_arg_json(&args, set.data, set.size);
        else
            rc = fail_buf(&set, err);
    } else {
        rc = ldg_map_sort(*annotations, &pg->scratch, &event.annotations, err);
        if (rc == LEDGER_OK)
            rc = put_annotations(pg, event.annotations, &set, &unset, &args, err);
    }
    if (rc == LEDGER_OK)
        rc = put_event(pg, &event, &pg->event_buf, &args, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_run_write(pg, tags ? "setting tags" : "setting annotations",
                              templates[form_of(pg)], &args, &result, err);
    if (rc == LEDGER_OK && PQntuples(result) == 0)
        rc = fail_unchanged(pg, stream, id, err);
out:
    PQclear(result);
    ldg_buf_fini(&set);
    ldg_buf_fini(&unset);
    give_back(&pg->event_buf);
    return rc;
}

ledger_rc ldg_pg_set_tags(void *ctx, const char *stream, ledger_id id, ledger_list tags,
                          ledger_error *err)
{
    return set_column(ctx, stream, id.number, &tags, NULL, err);
}

ledger_rc ldg_pg_set_annotations(void *ctx, const char *stream, ledger_id id, ledger_map map,
                                 ledger_error *err)
{
    return set_column(ctx, stream, id.number, NULL, &map, err);
}

ledger_rc ldg_pg_trim(void *ctx, const char *stream, ledger_id before, uint64_t *ret_deleted,
                      ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    const int64_t time_us = ldg_clock_now_us();
    ledger_mutation_event event = ldg_event_blank(LEDGER_MUTATION_TRIM, stream, time_us);
    struct ldg_pg_args args = { 0 };
    struct ldg_buf of_origin;
    PGresult *result = NULL;
    char id_text[24];
    ledger_rc rc;

    ldg_buf_init(&of_origin, MAX_EVENT_BYTES);
    snprintf(id_text, sizeof(id_text), "%" PRId64, before.number);
    rc = ldg_pg_enter(pg, err);
    if (rc != LEDGER_OK)
        goto out;
    const size_t form = form_of(pg);
    ldg_pg_arg_text(&args, stream);
    ldg_pg_arg_int64(&args, before.number);
    if (form > 0) {
        ldg_pg_arg_time(&args, time_us);
        event.before_id = id_text;
        ldg_buf_reset(&pg->event_buf);
        rc = ldg_event_encode(&event, &pg->event_buf, err);
        ldg_pg_arg_bytes(&args, pg->event_buf.data, pg->event_buf.size);
        event.before_id = "";
    }
    if (rc == LEDGER_OK && form > 1)
        rc = put_event(pg, &event, &of_origin, &args, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_run_write(pg, "trimming", trims[form], &args, &result, err);
    if (rc == LEDGER_OK && ret_deleted)
        *ret_deleted = (uint64_t)ldg_pg_get_int64(result, 0, 0);
out:
    PQclear(result);
    ldg_buf_fini(&of_origin);
    return rc;
}
