/* One op on one row: what it finds here decides what becomes of it.
 *
 * Hides the statements of appends, changes and trims, and which failures are the row's own.
 * Invariants: a replay changes nothing and is compared with what is stored; a change older than the
 * last one of its log loses; a duplicate key is told from a refusal. */
#include "backend/postgres/apply.h"

#include <inttypes.h>
#include <string.h>

/* As much as is looked at in one round trip. */
#define SEEN_MAX_OPS 1000
#define SEEN_MAX_BYTES ((size_t)4 * 1024 * 1024)
/* An entry that comes so late is taken for one out of order without a look. */
#define LATE_MAX 50000

ledger_rc ldg_pg_look_again(struct ldg_pg_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (!b->looked_again)
        rc = ldg_pg_schema_recheck(b->pg, err);
    b->looked_again = rc == LEDGER_OK;
    return rc;
}

ledger_rc ldg_pg_op_fail(ledger_rc rc, ledger_error *err)
{
    char message[LEDGER_ERROR_MESSAGE_MAX];

    if (rc == LEDGER_OK || rc == LEDGER_ERR_REJECTED) /* without a failure *err is anything */
        return rc;
    if (ldg_pg_is_row_fault(err) || rc == LEDGER_ERR_TOO_LARGE || rc == LEDGER_ERR_DATA) {
        memcpy(message, err->message, sizeof(message));
        rc = ldg_fail_native(err, LEDGER_ERR_REJECTED, "postgres", err->native_code, "%s", message);
    }
    return rc;
}

/* --- values ---------------------------------------------------------------------------------- */

static ledger_rc put_fail(const struct ldg_buf *buf, ledger_error *err)
{
    return buf->rc == LEDGER_ERR_NOMEM
               ? ldg_fail_nomem(err)
               : ldg_fail(err, LEDGER_ERR_REJECTED, "tags, metadata or annotations are too large");
}

ledger_rc ldg_pg_put_list(struct ldg_buf *buf, ledger_list list, ledger_error *err)
{
    ldg_buf_reset(buf);
    return ldg_json_put_list(buf, list) == LEDGER_OK ? LEDGER_OK : put_fail(buf, err);
}

ledger_rc ldg_pg_put_map(struct ldg_buf *buf, ledger_map map, struct ldg_arena *arena,
                         ledger_error *err)
{
    ledger_map sorted;
    ledger_rc rc = ldg_map_sort(map, arena, &sorted, err);

    ldg_buf_reset(buf);
    if (rc == LEDGER_OK && ldg_json_put_map(buf, sorted) != LEDGER_OK)
        rc = put_fail(buf, err);
    return rc;
}

ledger_rc ldg_pg_split_map(ledger_map map, struct ldg_arena *arena, ledger_map *ret_set,
                           ledger_list *ret_unset, ledger_error *err)
{
    ledger_map sorted;
    ledger_pair *set;
    const char **unset;
    ledger_rc rc = ldg_map_sort(map, arena, &sorted, err);

    if (rc != LEDGER_OK)
        return rc;
    set = ldg_arena_calloc(arena, sorted.count, sizeof(*set));
    unset = ldg_arena_calloc(arena, sorted.count, sizeof(*unset));
    if (set == NULL || unset == NULL)
        return ldg_fail_nomem(err);
    *ret_set = (ledger_map){ set, 0 };
    *ret_unset = (ledger_list){ unset, 0 };
    for (size_t i = 0; i < sorted.count; i++) {
        if (sorted.items[i].value != NULL)
            set[ret_set->count++] = sorted.items[i];
        else
            unset[ret_unset->count++] = sorted.items[i].key;
    }
    return LEDGER_OK;
}

/* --- appends --------------------------------------------------------------------------------- */

#define INSERT_COLUMNS                                                                             \
    "stream, payload, order_key, dedup_key, schema_version, metadata, tags, created_at, origin, "  \
    "source_pos"
/* Which key was there is asked afterwards: there may be two at once. */
#define INSERT(columns, overriding, values)                                                        \
    "INSERT INTO \"{t}\" (" INSERT_COLUMNS columns ")" overriding                                  \
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10" values                                      \
    ") ON CONFLICT DO NOTHING RETURNING id"
#define OVERRIDING " OVERRIDING SYSTEM VALUE"
/* With a source_id or without; the last parameter is the id, where it was drawn. */
static const char *const insert_entry[2][2] = {
    { INSERT("", "", ""), INSERT(", id", OVERRIDING, ", $11") },
    { INSERT(", source_id", "", ", $11"), INSERT(", source_id, id", OVERRIDING, ", $11, $12") },
};

/* source_id: "" for none; has to outlive the arguments. */
static ledger_rc append_args(struct ldg_pg_batch *b, size_t i, const char *source_id,
                             struct ldg_pg_args *args, const char **ret_template, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    const ledger_append_entry *entry = op->entry;
    struct ldg_buf *metadata = &b->sink->text, *tags = &b->sink->more_text;
    ledger_rc rc = ldg_pg_put_list(tags, entry->tags, err);

    if (rc == LEDGER_OK && entry->metadata.count > 0)
        rc = ldg_pg_put_map(metadata, entry->metadata, &b->sink->arena, err);
    if (rc != LEDGER_OK)
        return rc;
    ldg_pg_arg_text(args, op->stream);
    ldg_pg_arg_bytes(args, entry->payload.size > 0 ? entry->payload.data : "", entry->payload.size);
    ldg_pg_arg_text(args, entry->order_key);
    ldg_pg_arg_text(args, entry->dedup_key);
    ldg_pg_arg_int32(args, entry->schema_version);
    if (entry->metadata.count > 0)
        ldg_pg_arg_json(args, metadata->data, metadata->size);
    else
        ldg_pg_arg_json(args, NULL, 0);
    ldg_pg_arg_json(args, tags->data, tags->size);
    ldg_pg_arg_time(args, ldg_pg_op_time(b, op));
    ldg_pg_arg_int32(args, op->origin);
    ldg_pg_arg_int64(args, op->key.number);
    if (source_id[0] != '\0')
        ldg_pg_arg_text(args, source_id);
    if (b->drawn[i] != 0)
        ldg_pg_arg_int64(args, b->drawn[i]);
    *ret_template = insert_entry[source_id[0] != '\0'][b->drawn[i] != 0];
    return LEDGER_OK;
}

enum {
    SEEN_N,
    SEEN_STREAM,
    SEEN_PAYLOAD,
    SEEN_ORDER_KEY,
    SEEN_DEDUP_KEY,
    SEEN_SCHEMA_VERSION,
    SEEN_METADATA,
    SEEN_ID,
    SEEN_SOURCE_ID,
    SEEN_CREATED_AT,
};
/* $1 origins, $2 positions; of the table's own entries their ids */
#define SEEN(source_id, where)                                                                     \
    "SELECT x.n, e.stream, e.payload, e.order_key, e.dedup_key, e.schema_version, "                \
    "e.metadata, e.id, " source_id ", e.created_at"                                                \
    " FROM unnest($1::int4[], $2::int8[]) WITH ORDINALITY AS x(origin, pos, n) "                   \
    "JOIN \"{t}\" AS e ON " where
#define SEEN_BRIDGED "e.origin = x.origin AND e.source_pos = x.pos"
#define SEEN_LOCAL "x.origin = 0 AND e.id = x.pos AND e.origin = 0"
static const char seen_entries[] =
    SEEN("e.source_id", SEEN_BRIDGED) " UNION ALL " SEEN("e.source_id", SEEN_LOCAL);
static const char seen_entries_old[] =
    SEEN("''::text", SEEN_BRIDGED) " UNION ALL " SEEN("''::text", SEEN_LOCAL);

/* *ret_field: what of the stored row is not what this append would write; NULL: nothing. */
static ledger_rc compare_stored(struct ldg_pg_batch *b, const PGresult *result, int row,
                                const struct ldg_op *op, const char **ret_field, ledger_error *err)
{
    struct ldg_stored stored = {
        .stream = ldg_pg_get_bytes(result, row, SEEN_STREAM),
        .payload = ldg_pg_get_bytes(result, row, SEEN_PAYLOAD),
        .order_key = ldg_pg_get_bytes(result, row, SEEN_ORDER_KEY),
        .dedup_key = ldg_pg_get_bytes(result, row, SEEN_DEDUP_KEY),
        .schema_version = ldg_pg_get_int64(result, row, SEEN_SCHEMA_VERSION),
        .created_at_us = ldg_pg_get_time(result, row, SEEN_CREATED_AT),
        .by_go = ldg_pg_get_bytes(result, row, SEEN_SOURCE_ID).size > 0,
    };
    ledger_rc rc =
        ldg_pg_get_map(result, row, SEEN_METADATA, &b->sink->arena, &stored.metadata, err);

    if (rc == LEDGER_ERR_DATA) {
        *ret_field = "metadata";
        return LEDGER_OK;
    }
    return rc == LEDGER_OK ? ldg_op_compare(op, &stored, &b->sink->arena, ret_field, err) : rc;
}

/* An entry that came by another way, with an id behind those that this batch has drawn: what the
 * batch adds after it may get a lower one. */
static void order_seen(struct ldg_pg_batch *b, int origin, int64_t id)
{
    struct ldg_pg_order *order = ldg_pg_order_of(b, origin);
    bool own = false;

    if (order == NULL || !order->ordered || id <= b->lowest_id)
        return;
    for (size_t i = 0; i < b->count && !own; i++)
        own = b->drawn[i] == id;
    if (!own) {
        order->ordered = false;
        order->disorder = true;
    }
}

/* Sets seen[0] … for those of ops [first, end) that are appends: "" for an entry that is here and
 * the same. */
static ledger_rc seen_some(struct ldg_pg_batch *b, size_t first, size_t end, const char **seen,
                           ledger_error *err)
{
    struct ldg_buf *origins = &b->sink->arrays[0], *positions = &b->sink->arrays[1];
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    const char *field = NULL;
    ledger_rc rc;

    ldg_pg_array_begin(origins, LDG_PG_INT4);
    ldg_pg_array_begin(positions, LDG_PG_INT8);
    for (size_t i = first; i < end; i++) {
        ldg_pg_array_int32(origins, b->ops[i].origin);
        ldg_pg_array_int64(positions, b->ops[i].key.number);
    }
    ldg_pg_array_end(origins, end - first);
    ldg_pg_array_end(positions, end - first);
    ldg_pg_arg_array(&args, LDG_PG_INT4_ARRAY, origins);
    ldg_pg_arg_array(&args, LDG_PG_INT8_ARRAY, positions);
    rc = ldg_pg_run(b->pg, LDG_PG_KEEP, "looking for entries",
                    b->pg->has_source_id ? seen_entries : seen_entries_old, &args, &result, err);
    for (int row = 0; rc == LEDGER_OK && row < PQntuples(result); row++) {
        size_t i = first + (size_t)ldg_pg_get_int64(result, row, SEEN_N) - 1;

        if (i >= end || b->ops[i].kind != LDG_OP_APPEND)
            continue;
        rc = compare_stored(b, result, row, &b->ops[i], &field, err);
        seen[i - first] = field != NULL ? field : LDG_PG_SEEN_SAME;
        order_seen(b, b->ops[i].origin, ldg_pg_get_int64(result, row, SEEN_ID));
    }
    PQclear(result);
    return rc;
}

const char LDG_PG_SEEN_SAME[] = "nothing";

ledger_rc ldg_pg_ops_seen(struct ldg_pg_batch *b, size_t first, const char **seen, size_t *ret_next,
                          ledger_error *err)
{
    size_t end = first, bytes = 0, appends = 0;

    while (end < b->count && b->ops[end].kind != LDG_OP_TRIM && end - first < SEEN_MAX_OPS &&
           bytes < SEEN_MAX_BYTES) {
        if (b->ops[end].kind == LDG_OP_APPEND) {
            bytes += b->ops[end].entry->payload.size;
            appends++;
        }
        end++;
    }
    *ret_next = end > first ? end : first + 1;
    return appends > 0 ? seen_some(b, first, end, seen + first, err) : LEDGER_OK;
}

/* Something keeps the row out that is neither of the two keys. Is it the id that it was given? */
static ledger_rc fail_kept_out(struct ldg_pg_batch *b, size_t i, ledger_error *err)
{
    /* $1 the id; 0: it came of the sequence just now */
    static const char taken[] =
        "SELECT count(*) FROM \"{t}\" WHERE id = CASE $1 WHEN 0 THEN "
        "pg_sequence_last_value(pg_get_serial_sequence('\"{t}\"', 'id')::regclass) ELSE $1 END";
    struct ldg_pg_args args = { 0 };
    int64_t count = 0;
    ledger_rc rc;

    ldg_pg_arg_int64(&args, b->drawn[i]);
    rc = ldg_pg_run_int64(b->pg, "looking for an id", taken, &args, NULL, &count, err);
    if (rc != LEDGER_OK)
        return rc;
    if (count > 0)
        return ldg_pg_fail_behind(b->pg, 0, err);
    return ldg_fail(err, LEDGER_ERR_REJECTED,
                    "a trigger or another unique index of table \"%s\" keeps the row out",
                    b->pg->table);
}

/* Is it Go's index that keeps the entry out? Then the row that is there with its source_id was
 * carried by the Go bridge; or it is another entry, whose number is this one's by chance: then this
 * one is added without. *ret_id 0: another index does. */
static ledger_rc go_conflict(struct ldg_pg_batch *b, size_t i, int64_t *ret_id, ledger_error *err)
{
    static const char find[] = "SELECT stream, payload, origin = 0 AND source_pos IS NULL "
                               "FROM \"{t}\" WHERE source_id = $1 AND source_id <> ''";
    const struct ldg_op *op = &b->ops[i];
    char source_id[LDG_PG_SOURCE_ID_MAX];
    const char *template = NULL;
    struct ldg_pg_args args = { 0 }, insert = { 0 };
    PGresult *result = NULL;
    bool found;
    ledger_rc rc;

    if (*ldg_pg_op_source_id(b, op, source_id) == '\0')
        return LEDGER_OK;
    ldg_pg_arg_text(&args, source_id);
    rc = ldg_pg_run(b->pg, LDG_PG_KEEP, "looking for an entry", find, &args, &result, err);
    found = rc == LEDGER_OK && PQntuples(result) > 0;
    if (found && ldg_pg_get_bool(result, 0, 2) &&
        ldg_op_is_of_go(op, ldg_pg_get_bytes(result, 0, 0), ldg_pg_get_bytes(result, 0, 1)))
        rc = ldg_op_fail_foreign(op, b->pg->table, err);
    PQclear(result);
    result = NULL;
    if (rc != LEDGER_OK || !found)
        return rc;
    rc = append_args(b, i, "", &insert, &template, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_run(b->pg, LDG_PG_KEEP, "adding an entry", template, &insert, &result, err);
    if (rc == LEDGER_OK && PQntuples(result) > 0)
        *ret_id = ldg_pg_get_int64(result, 0, 0);
    PQclear(result);
    return rc;
}

/* An insert changed nothing: which of the keys was there? */
static ledger_rc append_conflict(struct ldg_pg_batch *b, size_t i, ledger_error *err)
{
    static const char find_dedup[] =
        "SELECT id FROM \"{t}\" WHERE stream = $1 AND dedup_key = $2 AND dedup_key <> ''";
    const struct ldg_op *op = &b->ops[i];
    struct ldg_pg_args args = { 0 };
    const char *seen = NULL;
    int64_t id = 0;
    bool found = false;
    ledger_rc rc = seen_some(b, i, i + 1, &seen, err);

    if (rc == LEDGER_OK && seen != NULL && seen != LDG_PG_SEEN_SAME)
        rc = ldg_op_fail_reused(op, seen, err);
    if (rc != LEDGER_OK || seen != NULL) {
        b->outcomes[i] = LDG_OUTCOME_REPLAYED;
        goto out;
    }
    ldg_pg_arg_text(&args, op->stream);
    ldg_pg_arg_text(&args, op->entry->dedup_key);
    rc = ldg_pg_run_int64(b->pg, "looking for an entry", find_dedup, &args, &found, &id, err);
    if (rc == LEDGER_OK && !found)
        rc = go_conflict(b, i, &b->ids[i], err);
    if (rc == LEDGER_OK && b->ids[i] != 0)
        return LEDGER_OK;
    if (rc == LEDGER_OK && !found)
        rc = fail_kept_out(b, i, err);
    b->outcomes[i] = LDG_OUTCOME_DEDUPLICATED;
out:
    return rc;
}

/* An entry comes late when its stream holds a later one of its origin: a retried event, a replay of
 * what was trimmed. From then on trims of this origin look at whole streams. */
static ledger_rc order_added(struct ldg_pg_batch *b, size_t i, ledger_error *err)
{
    static const char later[] = "SELECT count(*) FROM (SELECT FROM \"{t}\" WHERE origin = $1 "
                                "AND source_pos > $2 AND stream = $3 AND id < $4 LIMIT 1) AS s";
    const struct ldg_op *op = &b->ops[i];
    struct ldg_pg_order *order = ldg_pg_order_of(b, op->origin);
    struct ldg_pg_args args = { 0 };
    int64_t late = 1;
    ledger_rc rc = LEDGER_OK;

    if (order == NULL || !order->ordered)
        goto out;
    if (op->key.number > order->highest) {
        order->highest = op->key.number;
        goto out;
    }
    if (order->highest - op->key.number <= LATE_MAX) {
        ldg_pg_arg_int32(&args, op->origin);
        ldg_pg_arg_int64(&args, op->key.number);
        ldg_pg_arg_text(&args, op->stream);
        ldg_pg_arg_int64(&args, b->ids[i]);
        rc = ldg_pg_run_int64(b->pg, "looking for later entries", later, &args, NULL, &late, err);
    }
    if (rc == LEDGER_OK && late != 0) {
        order->ordered = false;
        order->disorder = true;
    }
out:
    return rc;
}

/* *result: of the insert. */
static ledger_rc append_done(struct ldg_pg_batch *b, size_t i, const PGresult *result,
                             ledger_error *err)
{
    ledger_rc rc;

    if (PQntuples(result) == 0) {
        b->ids[i] = 0;
        rc = append_conflict(b, i, err);
        if (rc != LEDGER_OK || b->ids[i] == 0)
            return rc;
    } else {
        b->ids[i] = ldg_pg_get_int64(result, 0, 0);
    }
    rc = order_added(b, i, err);
    b->outcomes[i] = LDG_OUTCOME_APPLIED;
    return rc;
}

ledger_rc ldg_pg_ops_appends(struct ldg_pg_batch *b, size_t first, size_t end, ledger_error *err)
{
    static const char adding[] = "adding an entry";
    PGresult **results = ldg_arena_calloc(&b->sink->arena, end - first, sizeof(PGresult *));
    size_t failed = first;
    ledger_error ignored;
    ledger_rc rc;

    if (results == NULL)
        return ldg_fail_nomem(err);
    rc = ldg_pg_pipe_begin(b->pg, err);
    if (rc != LEDGER_OK)
        return rc;
    for (size_t i = first; rc == LEDGER_OK && i < end; i++) {
        struct ldg_pg_args args = { 0 };
        const char *template = NULL;
        char source_id[LDG_PG_SOURCE_ID_MAX];

        failed = i;
        rc =
            append_args(b, i, ldg_pg_op_source_id(b, &b->ops[i], source_id), &args, &template, err);
        if (rc == LEDGER_OK)
            rc = ldg_pg_pipe_send(b->pg, adding, template, &args, err);
    }
    for (size_t i = first; rc == LEDGER_OK && i < end; i++) {
        failed = i;
        rc = ldg_pg_pipe_receive(b->pg, adding, &results[i - first], err);
    }
    if (ldg_pg_pipe_end(b->pg, rc == LEDGER_OK ? err : &ignored) != LEDGER_OK && rc == LEDGER_OK)
        rc = err->code;
    for (size_t i = first; rc == LEDGER_OK && i < end; i++) {
        failed = i;
        rc = append_done(b, i, results[i - first], err);
    }
    for (size_t i = 0; i < end - first; i++)
        PQclear(results[i]);
    if (rc != LEDGER_OK) {
        rc = ldg_pg_op_fail(rc, err);
        err->done_count = failed;
    }
    return rc;
}

/* --- changes --------------------------------------------------------------------------------- */

/* Positions compare only within one log. Those of the entry's own log are kept with the entry,
 * those of changes made elsewhere (a chain's local tag) in <table>_foreign. Between two logs the
 * one that comes last wins. */
bool ldg_pg_op_is_guarded(const struct ldg_op *op)
{
    return op->origin != 0 && op->mutation_origin == op->origin;
}

#define MERGEABLE                                                                                  \
    "(annotations IS NULL OR CASE jsonb_typeof(annotations) WHEN 'null' THEN true "                \
    "WHEN 'object' THEN NOT jsonb_path_exists(annotations, '$.* ? (@.type() != \"string\")') "     \
    "ELSE false END)"
#define MERGED                                                                                     \
    "((CASE WHEN jsonb_typeof(annotations) = 'object' THEN annotations ELSE '{}'::jsonb END "      \
    "- $5::text[]) || $4)"
#define LOOK(where)                                                                                \
    "SELECT id, " MERGEABLE ", coalesce(tags_pos, mutation_pos, 0), "                              \
    "coalesce(annotations_pos, mutation_pos, 0) FROM \"{t}\" WHERE " where
/* $1 origin, $2 source_pos, $3 stream */
static const char look_bridged[] = LOOK("origin = $1 AND source_pos = $2 AND stream = $3");
static const char look_local[] = LOOK("id = $2 AND origin = $1 AND stream = $3");
/* $1 origin, $2 source_pos, $3 stream, $4 tags or annotations, $5 keys that go, $6 time,
 * $7 position. A kind of change that was left out for a while comes late: what was changed after
 * it keeps its time. */
#define GUARDED(own, other)                                                                        \
    own " = $7, updated_at = CASE WHEN " other " > $7 THEN updated_at ELSE $6 END "                \
        "WHERE origin = $1 AND source_pos = $2 AND stream = $3 "                                   \
        "AND coalesce(" own ", mutation_pos, 0) < $7"
static const char set_tags_guarded[] =
    "UPDATE \"{t}\" SET tags = $4, " GUARDED("tags_pos", "annotations_pos") " RETURNING id";
static const char set_annotations_guarded[] =
    "UPDATE \"{t}\" SET annotations = " MERGED
    ", " GUARDED("annotations_pos", "tags_pos") " AND " MERGEABLE " RETURNING id";
/* The same parameters; $2 is the entry's id here. */
#define BY_ID "updated_at = $6 WHERE id = $2 AND origin = $1 AND stream = $3"
static const char set_tags_by_id[] = "UPDATE \"{t}\" SET tags = $4, " BY_ID " RETURNING id";
static const char set_annotations_by_id[] =
    "UPDATE \"{t}\" SET annotations = " MERGED ", " BY_ID " RETURNING id";

/* A BEFORE trigger that returns NULL leaves a row as it is, and no statement tells. */
static ledger_rc fail_kept(const struct ldg_pg_batch *b, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_REJECTED, "a trigger of table \"%s\" keeps a row as it is",
                    b->pg->table);
}

/* What is here of the entry that op changes. *ret_id 0: nothing. */
struct stored {
    int64_t id, position; /* of the last change of op's kind by the entry's own log */
    bool mergeable;
};
static ledger_rc look(struct ldg_pg_batch *b, const struct ldg_op *op, struct stored *ret_stored,
                      ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    ledger_rc rc;

    ldg_pg_arg_int32(&args, op->origin);
    ldg_pg_arg_int64(&args, op->key.number);
    ldg_pg_arg_text(&args, op->stream);
    rc = ldg_pg_op_statement(b, "looking for an entry", op->origin == 0 ? look_local : look_bridged,
                             &args, &result, err);
    if (rc == LEDGER_OK) {
        *ret_stored = (struct stored){ .mergeable = true };
        if (PQntuples(result) > 0)
            *ret_stored = (struct stored){
                .id = ldg_pg_get_int64(result, 0, 0),
                .mergeable = ldg_pg_get_bool(result, 0, 1),
                .position = ldg_pg_get_int64(result, 0, op->kind == LDG_OP_SET_TAGS ? 2 : 3),
            };
    }
    PQclear(result);
    return rc;
}

/* $1 origin, $2 entry, $3 mutation origin, $4 kind, $5 id, $6 position */
static void foreign_args(struct ldg_pg_args *args, const struct ldg_op *op, int64_t id)
{
    ldg_pg_arg_int32(args, op->origin);
    ldg_pg_arg_int64(args, op->key.number);
    ldg_pg_arg_int32(args, op->mutation_origin);
    ldg_pg_arg_int32(args, op->kind == LDG_OP_SET_TAGS ? 1 : 2);
    ldg_pg_arg_int64(args, id);
}

/* Was this change of another log, or a later one, applied to the entry before? A row counts while
 * the entry has the id that it had then. */
static ledger_rc foreign_known(struct ldg_pg_batch *b, const struct ldg_op *op, int64_t id,
                               bool *ret_known, ledger_error *err)
{
    static const char get[] = "SELECT position FROM \"{t}_foreign\" WHERE origin = $1 "
                              "AND entry = $2 AND mutation_origin = $3 AND kind = $4 AND id = $5";
    struct ldg_pg_args args = { 0 };
    int64_t position = 0;
    bool found = false;
    ledger_rc rc = LEDGER_OK;

    *ret_known = false;
    if (!b->foreign_any)
        return LEDGER_OK;
    foreign_args(&args, op, id);
    rc = ldg_pg_run_int64(b->pg, "looking for an earlier change", get, &args, &found, &position,
                          err);
    *ret_known = rc == LEDGER_OK && found && position >= op->position;
    return rc;
}

static ledger_rc foreign_note(struct ldg_pg_batch *b, const struct ldg_op *op, int64_t id,
                              ledger_error *err)
{
    static const char put[] =
        "INSERT INTO \"{t}_foreign\" (origin, entry, mutation_origin, kind, id, position) "
        "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (origin, entry, mutation_origin, kind) "
        "DO UPDATE SET id = excluded.id, position = excluded.position";
    struct ldg_pg_args args = { 0 };

    foreign_args(&args, op, id);
    ldg_pg_arg_int64(&args, op->position);
    b->foreign_any = true;
    return ldg_pg_fail_own(ldg_pg_run(b->pg, LDG_PG_KEEP, "noting a change", put, &args, NULL, err),
                           err);
}

/* The parameters of a change; entry: source_pos or id. */
static ledger_rc change_args(struct ldg_pg_batch *b, const struct ldg_op *op, int64_t entry,
                             struct ldg_pg_args *args, ledger_error *err)
{
    struct ldg_buf *text = &b->sink->text, *unset_keys = &b->sink->arrays[0];
    ledger_map set;
    ledger_list unset = { NULL, 0 };
    ledger_rc rc;

    if (op->kind == LDG_OP_SET_TAGS) {
        rc = ldg_pg_put_list(text, op->tags, err);
    } else {
        rc = ldg_pg_split_map(op->annotations, &b->sink->arena, &set, &unset, err);
        if (rc == LEDGER_OK)
            rc = ldg_pg_put_map(text, set, &b->sink->arena, err);
    }
    if (rc != LEDGER_OK)
        return rc;
    ldg_pg_array_begin(unset_keys, LDG_PG_TEXT);
    for (size_t i = 0; i < unset.count; i++)
        ldg_pg_array_text(unset_keys, unset.items[i]);
    ldg_pg_array_end(unset_keys, unset.count);
    ldg_pg_arg_int32(args, op->origin);
    ldg_pg_arg_int64(args, entry);
    ldg_pg_arg_text(args, op->stream);
    ldg_pg_arg_json(args, text->data, text->size);
    ldg_pg_arg_array(args, LDG_PG_TEXT_ARRAY, unset_keys);
    ldg_pg_arg_time(args, ldg_pg_op_time(b, op));
    ldg_pg_arg_int64(args, op->position);
    return LEDGER_OK;
}

/* *ret_id: 0 when no row was changed. */
static ledger_rc change(struct ldg_pg_batch *b, const struct ldg_op *op, int64_t entry,
                        const char *template, int64_t *ret_id, ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    ledger_rc rc = change_args(b, op, entry, &args, err);

    if (rc == LEDGER_OK)
        rc = ldg_pg_op_statement(b, "changing an entry", template, &args, &result, err);
    if (rc == LEDGER_OK)
        *ret_id = PQntuples(result) > 0 ? ldg_pg_get_int64(result, 0, 0) : 0;
    PQclear(result);
    return rc;
}

/* No row was changed though the entry is there, and no later change of it is known: what kept it?
 */
static ledger_rc fail_unchanged(const struct ldg_pg_batch *b, const struct ldg_op *op,
                                const struct stored *stored, ledger_error *err)
{
    if (op->kind == LDG_OP_SET_ANNOTATIONS && !stored->mergeable)
        return ldg_fail(err, LEDGER_ERR_REJECTED,
                        "the annotations of entry %" PRId64 " are no JSON object of strings",
                        stored->id);
    return fail_kept(b, err);
}

static ledger_rc set_one(struct ldg_pg_batch *b, size_t i, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    const bool tags = op->kind == LDG_OP_SET_TAGS;
    struct stored stored = { .mergeable = true };
    int64_t changed = 0;
    bool known = false;
    ledger_rc rc;

    if (ldg_pg_op_is_guarded(op)) {
        rc = change(b, op, op->key.number, tags ? set_tags_guarded : set_annotations_guarded,
                    &changed, err);
        if (rc == LEDGER_OK && changed == 0)
            rc = look(b, op, &stored, err);
        known = stored.position >= op->position;
    } else {
        rc = look(b, op, &stored, err);
        if (rc == LEDGER_OK && stored.id != 0)
            rc = foreign_known(b, op, stored.id, &known, err);
        if (rc == LEDGER_OK && stored.id != 0 && !known && (tags || stored.mergeable))
            rc = change(b, op, stored.id, tags ? set_tags_by_id : set_annotations_by_id, &changed,
                        err);
        if (rc == LEDGER_OK && changed != 0)
            rc = foreign_note(b, op, stored.id, err);
    }
    if (rc == LEDGER_OK && changed == 0 && stored.id != 0 && !known)
        rc = fail_unchanged(b, op, &stored, err);
    b->outcomes[i] = changed != 0     ? LDG_OUTCOME_APPLIED
                     : stored.id != 0 ? LDG_OUTCOME_REPLAYED
                                      : LDG_OUTCOME_MISSING;
    b->ids[i] = changed;
    return rc;
}

/* --- trims ----------------------------------------------------------------------------------- */

/* $1 origin, $2 up to and with, $3 stream, $4 ids that stay, $5 keys that are looked for among
 * what goes. The highest id that goes (0: nothing does), how many have such a key, and whether the
 * table has a trigger that can keep rows in silence. Where the
 * ids of a stream rise with those of its origin, the first entry that stays ends the look. The
 * index of the origin would visit other streams, too: the zeros keep it away, and the pair of
 * columns leaves only the index of stream and id. */
#define TRIM(where, entry, forget)                                                                 \
    "WITH d AS (DELETE FROM \"{t}\" WHERE stream = $3 AND origin + 0 = $1 AND " where              \
    " RETURNING " entry " AS entry, id, dedup_key)" forget                                         \
    " SELECT coalesce(max(id), 0), count(*) FILTER (WHERE dedup_key = ANY ($5::text[])), "         \
    "EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = '\"{t}\"'::regclass "                   \
    "AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype::int & 11 = 11) FROM d"
#define BRIDGED "source_pos + 0 <= $2 AND source_pos <> ALL ($4::int8[])"
#define ORDERED                                                                                    \
    BRIDGED " AND (stream, id) < ($3, coalesce((SELECT e.id FROM \"{t}\" AS e "                    \
            "WHERE e.stream = $3 AND e.origin + 0 = $1 AND e.source_pos + 0 > $2 "                 \
            "ORDER BY e.stream, e.id LIMIT 1), 9223372036854775807))"
#define LOCAL "(stream, id) <= ($3, $2) AND id <> ALL ($4::int8[]) AND source_pos IS NULL"
#define FORGET                                                                                     \
    ", f AS (DELETE FROM \"{t}_foreign\" AS f USING d WHERE f.origin = $1 AND f.entry = d.entry)"
static const char trim_ordered[] = TRIM(ORDERED, "source_pos", "");
static const char trim_ordered_foreign[] = TRIM(ORDERED, "source_pos", FORGET);
static const char trim_any[] = TRIM(BRIDGED, "source_pos", "");
static const char trim_any_foreign[] = TRIM(BRIDGED, "source_pos", FORGET);
static const char trim_local[] = TRIM(LOCAL " AND source_id = ''", "id", FORGET);
static const char trim_local_old[] = TRIM(LOCAL, "id", FORGET);

const char *ldg_pg_trim_template(struct ldg_pg_batch *b, const struct ldg_op *op)
{
    const struct ldg_pg_order *order = ldg_pg_order_of(b, op->origin);
    const char *template;

    if (op->origin == 0)
        template = b->pg->has_source_id ? trim_local : trim_local_old;
    else if (order != NULL && order->ordered)
        template = b->foreign_any ? trim_ordered_foreign : trim_ordered;
    else
        template = b->foreign_any ? trim_any_foreign : trim_any;
    return template;
}

void ldg_pg_trim_args(struct ldg_pg_batch *b, const struct ldg_op *op, const struct ldg_buf *keys,
                      struct ldg_pg_args *args)
{
    struct ldg_buf *survivors = &b->sink->arrays[0];

    ldg_pg_array_begin(survivors, LDG_PG_INT8);
    for (size_t i = 0; i < op->survivor_count; i++)
        ldg_pg_array_int64(survivors, op->survivors[i].number);
    ldg_pg_array_end(survivors, op->survivor_count);
    ldg_pg_arg_int32(args, op->origin);
    ldg_pg_arg_int64(args, op->key.number);
    ldg_pg_arg_text(args, op->stream);
    ldg_pg_arg_array(args, LDG_PG_INT8_ARRAY, survivors);
    ldg_pg_arg_array(args, LDG_PG_TEXT_ARRAY, keys);
}

#define LEFT(where)                                                                                \
    "SELECT count(*) FROM (SELECT FROM \"{t}\" WHERE stream = $3 AND origin + 0 = $1 AND " where   \
    " LIMIT 1) AS s"

/* Are all entries gone that the trim has just deleted? args: its own. */
static ledger_rc trim_check(struct ldg_pg_batch *b, const struct ldg_op *op,
                            const struct ldg_pg_args *args, ledger_error *err)
{
    static const char bridged[] = LEFT(BRIDGED), local[] = LEFT(LOCAL " AND source_id = ''"),
                      local_old[] = LEFT(LOCAL);
    const char *left = op->origin != 0 ? bridged : b->pg->has_source_id ? local : local_old;
    int64_t any = 0;
    ledger_rc rc =
        ldg_pg_run_int64(b->pg, "looking for what is trimmed", left, args, NULL, &any, err);

    return rc == LEDGER_OK && any != 0 ? fail_kept(b, err) : rc;
}

static ledger_rc trim_one(struct ldg_pg_batch *b, size_t i, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    struct ldg_buf *keys = &b->sink->arrays[1];
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    bool unparked = false;
    ledger_rc rc;

    ldg_pg_array_begin(keys, LDG_PG_TEXT);
    ldg_pg_array_end(keys, 0);
    ldg_pg_trim_args(b, op, keys, &args);
    rc = ldg_pg_op_statement(b, "trimming a stream", ldg_pg_trim_template(b, op), &args, &result,
                             err);
    if (rc == LEDGER_OK)
        b->ids[i] = ldg_pg_get_int64(result, 0, 0);
    if (rc == LEDGER_OK && ldg_pg_get_bool(result, 0, 2))
        rc = trim_check(b, op, &args, err);
    PQclear(result);
    if (rc == LEDGER_OK && b->parked_any)
        rc = ldg_pg_parked_trim(b->pg, op, &unparked, err);
    b->outcomes[i] = b->ids[i] > 0 || unparked ? LDG_OUTCOME_APPLIED : LDG_OUTCOME_REPLAYED;
    return rc;
}

/* --- any ------------------------------------------------------------------------------------- */

static ledger_rc append_one(struct ldg_pg_batch *b, size_t i, ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    const char *template = NULL;
    char source_id[LDG_PG_SOURCE_ID_MAX];
    PGresult *result = NULL;
    ledger_rc rc;

    if (b->ops[i].origin == 0) /* written here and gone since */
        return LEDGER_OK;
    rc = append_args(b, i, ldg_pg_op_source_id(b, &b->ops[i], source_id), &args, &template, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_op_statement(b, "adding an entry", template, &args, &result, err);
    if (rc == LEDGER_OK)
        rc = append_done(b, i, result, err);
    PQclear(result);
    return rc;
}

ledger_rc ldg_pg_op_run(struct ldg_pg_batch *b, size_t i, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    ledger_rc rc = LEDGER_OK;

    b->ids[i] = 0;
    b->outcomes[i] = LDG_OUTCOME_MISSING;
    switch (op->kind) {
    case LDG_OP_APPEND:
        rc = append_one(b, i, err);
        break;
    case LDG_OP_SET_TAGS:
    case LDG_OP_SET_ANNOTATIONS:
        rc = set_one(b, i, err);
        break;
    case LDG_OP_TRIM:
        rc = trim_one(b, i, err);
        break;
    case LDG_OP_PARK:
    default:
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "%s",
                      op->reason != NULL ? op->reason : "this operation is not known here");
        break;
    }
    return ldg_pg_op_fail(rc, err);
}
