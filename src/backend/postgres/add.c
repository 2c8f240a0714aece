/* The rows that a batch adds, and the events of the own log: by COPY, or by one insert where the
 * server refuses COPY.
 *
 * Hides the columns of a row. Invariant: a row has the id that is reserved for it, where there is
 * one. */
#include "backend/postgres/apply.h"

#include <stdlib.h>
#include <string.h>

/* Columns that most rows leave to their defaults cost the server time: JSON is parsed. So rows come
 * in one COPY per set of columns; their ids are reserved, so their order does not matter. */
enum columns { COLUMNS_BARE, COLUMNS_METADATA, COLUMNS_ALL, COLUMNS_COUNT };
#define ROW_COLUMNS                                                                                \
    "id, stream, payload, order_key, dedup_key, schema_version, created_at, origin, source_pos"
#define MORE_COLUMNS ", metadata, tags, annotations, updated_at, tags_pos, annotations_pos"
#define COPY_ENTRIES(columns) "COPY \"{t}\" (" ROW_COLUMNS columns ") FROM STDIN (FORMAT binary)"
/* [1]: where rows carry a source_id */
static const char *const copy_entries[2][COLUMNS_COUNT] = {
    { COPY_ENTRIES(""), COPY_ENTRIES(", metadata"), COPY_ENTRIES(MORE_COLUMNS) },
    { COPY_ENTRIES(", source_id"), COPY_ENTRIES(", source_id, metadata"),
      COPY_ENTRIES(", source_id" MORE_COLUMNS) },
};
static const int column_counts[COLUMNS_COUNT] = { 9, 10, 15 };

/* A row of the plan. item NULL: the append as it is. */
struct row {
    const struct ldg_op *op;
    struct ldg_sink_item *item;
    size_t index;
    bool changed;
};

static bool next_row(const struct ldg_pg_batch *b, size_t *at, struct row *row)
{
    if (!ldg_sink_next_add(&b->s, at, &row->item, &row->index))
        return false;
    row->op = &b->s.ops[row->index];
    row->changed = row->item != NULL && row->item->changed;
    return true;
}

static enum columns columns_of(const struct row *row)
{
    if (row->op->entry->tags.count > 0 || row->changed)
        return COLUMNS_ALL;
    return row->op->entry->metadata.count > 0 ? COLUMNS_METADATA : COLUMNS_BARE;
}

static ledger_list tags_of(const struct row *row)
{
    return row->changed && row->item->tags != NULL ? row->item->tags->tags : row->op->entry->tags;
}

static bool carries_source_ids(const struct ldg_pg_batch *b)
{
    return b->go_origin != 0 || b->has_texts;
}

/* The key, if it is a text, or of the origin whose rows carry it for Go; else "". */
static const char *source_id_of(const struct ldg_pg_batch *b, const struct row *row,
                                char text[LEDGER_ID_TEXT_MAX])
{
    if (row->op->key.text != NULL)
        return row->op->key.text;
    if (b->go_origin == 0 || row->op->origin != b->go_origin ||
        (row->item != NULL && row->item->without_source_id))
        return "";
    return ldg_id_text(row->op->key, text);
}

/* --- COPY ------------------------------------------------------------------------------------ */

static ledger_rc copy_map(struct ldg_pg_copy *c, struct ldg_pg_batch *b, ledger_map map, bool null,
                          ledger_error *err)
{
    ledger_rc rc;

    if (null) {
        ldg_pg_copy_null(c);
        return LEDGER_OK;
    }
    rc = ldg_pg_put_map(&b->sink->text, map, b->s.arena, err);
    if (rc == LEDGER_OK)
        ldg_pg_copy_json(c, b->sink->text.data, b->sink->text.size);
    return rc;
}

static void copy_position(struct ldg_pg_copy *c, int64_t position)
{
    if (position != 0)
        ldg_pg_copy_int64(c, position);
    else
        ldg_pg_copy_null(c);
}

static ledger_rc copy_more(struct ldg_pg_copy *c, struct ldg_pg_batch *b, const struct row *row,
                           ledger_error *err)
{
    const struct ldg_sink_item *item = row->item;
    const bool annotated = row->changed && item->annotated;
    ledger_rc rc = ldg_pg_put_list(&b->sink->text, tags_of(row), err);

    if (rc != LEDGER_OK)
        return rc;
    ldg_pg_copy_json(c, b->sink->text.data, b->sink->text.size);
    rc = copy_map(c, b, annotated ? item->annotations : (ledger_map){ NULL, 0 }, !annotated, err);
    if (row->changed)
        ldg_pg_copy_time(c, item->time_us);
    else
        ldg_pg_copy_null(c);
    copy_position(c, row->changed ? item->tags_at.last : 0);
    copy_position(c, row->changed ? item->annotations_at.last : 0);
    return rc;
}

static ledger_rc copy_row(struct ldg_pg_copy *c, struct ldg_pg_batch *b, const struct row *row,
                          enum columns columns, ledger_error *err)
{
    const ledger_append_entry *entry = row->op->entry;
    char source_id[LEDGER_ID_TEXT_MAX];
    ledger_rc rc = LEDGER_OK;

    ldg_pg_copy_row(c, column_counts[columns] + carries_source_ids(b));
    ldg_pg_copy_int64(c, b->s.reserved[row->index]);
    ldg_pg_copy_text(c, row->op->stream);
    ldg_pg_copy_bytes(c, entry->payload.data, entry->payload.size);
    ldg_pg_copy_text(c, entry->order_key);
    ldg_pg_copy_text(c, entry->dedup_key);
    ldg_pg_copy_int32(c, entry->schema_version);
    ldg_pg_copy_time(c, ldg_sink_time(&b->s, row->op));
    ldg_pg_copy_int32(c, row->op->origin);
    if (row->op->key.text == NULL)
        ldg_pg_copy_int64(c, row->op->key.number);
    else
        ldg_pg_copy_null(c);
    if (carries_source_ids(b))
        ldg_pg_copy_text(c, source_id_of(b, row, source_id));
    if (columns != COLUMNS_BARE)
        rc = copy_map(c, b, entry->metadata, entry->metadata.count == 0, err);
    if (rc == LEDGER_OK && columns == COLUMNS_ALL)
        rc = copy_more(c, b, row, err);
    return rc != LEDGER_OK ? rc : c->rc;
}

/* The op whose row the server has refused, as the context of its error says. */
static void blame_line(struct ldg_pg_batch *b, enum columns columns)
{
    size_t at = 0, line = 0;
    struct row row;

    while (b->pg->copy_line > 0 && next_row(b, &at, &row)) {
        if (columns_of(&row) == columns && ++line == b->pg->copy_line) {
            b->s.culprit = row.index;
            break;
        }
    }
}

/* The rows of one set of columns. */
static ledger_rc copy_some(struct ldg_pg_batch *b, enum columns columns, ledger_error *err)
{
    struct ldg_pg_copy c;
    struct row row;
    size_t at = 0;
    bool open = false;
    ledger_rc rc = LEDGER_OK;

    while (rc == LEDGER_OK && next_row(b, &at, &row)) {
        if (columns_of(&row) != columns)
            continue;
        if (!open)
            rc = ldg_pg_copy_open(&c, b, copy_entries[carries_source_ids(b)][columns], err);
        open = true;
        if (rc == LEDGER_OK)
            rc = copy_row(&c, b, &row, columns, err);
    }
    if (open && rc == LEDGER_OK)
        rc = ldg_pg_copy_close(&c, err);
    if (rc != LEDGER_OK && open)
        blame_line(b, columns);
    return rc;
}

/* --- INSERT ---------------------------------------------------------------------------------- */

/* clang-format off */
#define INSERT(columns, overriding, values)                                                        \
    "INSERT INTO \"{t}\" (stream, payload, order_key, dedup_key, schema_version, created_at, "     \
        "origin, source_pos, metadata, tags, annotations, updated_at, tags_pos, annotations_pos"   \
        columns ")" overriding " "                                                                 \
    "SELECT x.stream, x.payload, x.order_key, x.dedup_key, x.schema_version, x.created_at, "       \
        "x.origin, x.source_pos, x.metadata, x.tags, x.annotations, x.updated_at, x.tags_pos, "    \
        "x.annotations_pos" values " "                                                             \
    "FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::int4[], "                    \
        "$6::timestamptz[], $7::int4[], $8::int8[], $9::jsonb[], $10::jsonb[], $11::jsonb[], "     \
        "$12::timestamptz[], $13::int8[], $14::int8[], $15::text[], $16::int8[]) WITH ORDINALITY " \
        "AS x(stream, payload, order_key, dedup_key, schema_version, created_at, origin, "         \
        "source_pos, metadata, tags, annotations, updated_at, tags_pos, annotations_pos, "         \
        "source_id, id, n) ORDER BY x.n RETURNING id"
#define OVERRIDING " OVERRIDING SYSTEM VALUE"
/* With a source_id or without; with ids that are reserved or without. */
static const char *const insert_entries[2][2] = {
    { INSERT("", "", ""), INSERT(", id", OVERRIDING, ", x.id") },
    { INSERT(", source_id", "", ", x.source_id"),
      INSERT(", source_id, id", OVERRIDING, ", x.source_id, x.id") },
};
/* clang-format on */

#define INSERT_ARRAYS 16

static ledger_rc put_row(struct ldg_pg_batch *b, const struct row *row, struct ldg_buf *a,
                         ledger_error *err)
{
    struct ldg_buf *text = &b->sink->text;
    const ledger_append_entry *entry = row->op->entry;
    const struct ldg_sink_item *item = row->item;
    const bool annotated = row->changed && item->annotated;
    char source_id[LEDGER_ID_TEXT_MAX];
    ledger_rc rc;

    ldg_pg_array_text(&a[0], row->op->stream);
    ldg_pg_array_bytes(&a[1], entry->payload.size > 0 ? entry->payload.data : "",
                       entry->payload.size);
    ldg_pg_array_text(&a[2], entry->order_key);
    ldg_pg_array_text(&a[3], entry->dedup_key);
    ldg_pg_array_int32(&a[4], entry->schema_version);
    ldg_pg_array_time(&a[5], ldg_sink_time(&b->s, row->op));
    ldg_pg_array_int32(&a[6], row->op->origin);
    if (row->op->key.text == NULL)
        ldg_pg_array_int64(&a[7], row->op->key.number);
    else
        ldg_pg_array_null(&a[7]);
    rc = ldg_pg_put_map(text, entry->metadata, b->s.arena, err);
    ldg_pg_array_jsonb(&a[8], entry->metadata.count > 0 ? text->data : NULL, text->size);
    if (rc == LEDGER_OK)
        rc = ldg_pg_put_list(text, tags_of(row), err);
    ldg_pg_array_jsonb(&a[9], text->data, text->size);
    if (rc == LEDGER_OK && annotated)
        rc = ldg_pg_put_map(text, item->annotations, b->s.arena, err);
    ldg_pg_array_jsonb(&a[10], annotated ? text->data : NULL, text->size);
    ldg_pg_array_time(&a[11], row->changed ? item->time_us : LEDGER_NO_TIME);
    ldg_pg_array_position(&a[12], row->changed ? item->tags_at.last : 0);
    ldg_pg_array_position(&a[13], row->changed ? item->annotations_at.last : 0);
    ldg_pg_array_text(&a[14], source_id_of(b, row, source_id));
    ldg_pg_array_position(&a[15], b->has_reserved ? b->s.reserved[row->index] : 0);
    return rc;
}

static ledger_rc take_ids(struct ldg_pg_batch *b, const PGresult *result, ledger_error *err)
{
    struct row row;
    size_t at = 0;

    if (PQntuples(result) != (int)b->s.plan->add_count)
        return ldg_fail(err, LEDGER_ERR_REJECTED, "a trigger of table \"%s\" drops rows",
                        b->pg->table);
    for (int n = 0; next_row(b, &at, &row); n++)
        ldg_sink_added(&b->s, row.item, row.index, ldg_pg_get_int64(result, n, 0));
    return LEDGER_OK;
}

static ledger_rc insert_rows(struct ldg_pg_batch *b, ledger_error *err)
{
    static const Oid elements[INSERT_ARRAYS] = {
        LDG_PG_TEXT, LDG_PG_BYTEA, LDG_PG_TEXT,  LDG_PG_TEXT,  LDG_PG_INT4,  LDG_PG_TIMESTAMPTZ,
        LDG_PG_INT4, LDG_PG_INT8,  LDG_PG_JSONB, LDG_PG_JSONB, LDG_PG_JSONB, LDG_PG_TIMESTAMPTZ,
        LDG_PG_INT8, LDG_PG_INT8,  LDG_PG_TEXT,  LDG_PG_INT8
    };
    static const Oid types[INSERT_ARRAYS] = {
        LDG_PG_TEXT_ARRAY,  LDG_PG_BYTEA_ARRAY,       LDG_PG_TEXT_ARRAY,  LDG_PG_TEXT_ARRAY,
        LDG_PG_INT4_ARRAY,  LDG_PG_TIMESTAMPTZ_ARRAY, LDG_PG_INT4_ARRAY,  LDG_PG_INT8_ARRAY,
        LDG_PG_JSONB_ARRAY, LDG_PG_JSONB_ARRAY,       LDG_PG_JSONB_ARRAY, LDG_PG_TIMESTAMPTZ_ARRAY,
        LDG_PG_INT8_ARRAY,  LDG_PG_INT8_ARRAY,        LDG_PG_TEXT_ARRAY,  LDG_PG_INT8_ARRAY
    };
    struct ldg_buf *a = b->sink->arrays;
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    struct row row;
    size_t at = 0;
    ledger_rc rc = LEDGER_OK;

    for (int i = 0; i < INSERT_ARRAYS; i++)
        ldg_pg_array_begin(&a[i], elements[i]);
    while (rc == LEDGER_OK && next_row(b, &at, &row))
        rc = put_row(b, &row, a, err);
    for (int i = 0; i < INSERT_ARRAYS; i++) {
        ldg_pg_array_end(&a[i], b->s.plan->add_count);
        ldg_pg_arg_array(&args, types[i], &a[i]);
    }
    if (rc == LEDGER_OK)
        rc =
            ldg_pg_run(b->pg, LDG_PG_KEEP, "adding entries",
                       insert_entries[carries_source_ids(b)][b->has_reserved], &args, &result, err);
    if (rc == LEDGER_OK)
        rc = take_ids(b, result, err);
    PQclear(result);
    return rc;
}

/* COPY refused (row-level security): not on this connection again. */
static ledger_rc copy_refused(struct ldg_pg_batch *b, ledger_rc rc, ledger_error *err)
{
    if (rc == LEDGER_ERR_UNSUPPORTED || rc == LEDGER_ERR_PERMISSION) {
        b->sink->no_copy_on = b->pg->connect_count;
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "the server refuses COPY");
    }
    return rc;
}

/* The words say what to do: the server's alone name an index that is none of ours. */
static ledger_rc explain_go(const struct ldg_pg_batch *b, ledger_rc rc, ledger_error *err)
{
    const ledger_error why = *err;

    if (rc != LEDGER_ERR_REJECTED || b->go_index[0] == '\0' ||
        strcmp(b->pg->refused_by, b->go_index) != 0)
        return rc;
    return ldg_fail_native(err, rc, why.backend, why.native_code,
                           "table \"%s\" has an entry of another store with this id, and Go's "
                           "unique index takes an id once: if no Go program uses the table any "
                           "more, DROP INDEX \"%s\", and try the event again",
                           b->pg->table, b->go_index);
}

bool ldg_pg_may_copy(const struct ldg_pg_batch *b)
{
    return b->sink->no_copy_on != b->pg->connect_count;
}

ledger_rc ldg_pg_add(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    struct ldg_pg_batch *b = ctx;
    ledger_rc rc = LEDGER_OK;

    if (!b->has_reserved || !ldg_pg_may_copy(b))
        return explain_go(b, ldg_pg_op_fail(insert_rows(b, err), err), err);
    for (enum columns columns = 0; rc == LEDGER_OK && columns < COLUMNS_COUNT; columns++)
        rc = copy_some(b, columns, err);
    return explain_go(b, ldg_pg_op_fail(copy_refused(b, rc, err), err), err);
}

/* --- the own log ----------------------------------------------------------------------------- */

ledger_rc ldg_pg_log_begin(void *ctx, ledger_error *err)
{
    static const char copy_log[] = "COPY \"{l}\" (stream, payload, schema_version, created_at) "
                                   "FROM STDIN (FORMAT binary)";
    struct ldg_pg_batch *b = ctx;
    ledger_rc rc;

    b->log_by_copy = ldg_pg_may_copy(b) && !b->s.log_alone;
    if (!b->log_by_copy)
        return LEDGER_OK;
    rc = ldg_pg_copy_open(&b->log_copy, b, copy_log, err);
    return ldg_pg_op_fail(copy_refused(b, rc, err), err);
}

ledger_rc ldg_pg_log_event(void *ctx, ledger_bytes event, ledger_error *err)
{
    static const char insert[] = "INSERT INTO \"{l}\" (stream, payload, schema_version, "
                                 "created_at) VALUES ('_', $1, 1, $2)";
    struct ldg_pg_batch *b = ctx;
    struct ldg_pg_args args = { 0 };

    if (b->log_by_copy) {
        b->log_copy.err = err;
        ldg_pg_copy_row(&b->log_copy, 4);
        ldg_pg_copy_text(&b->log_copy, "_");
        ldg_pg_copy_bytes(&b->log_copy, event.data, event.size);
        ldg_pg_copy_int32(&b->log_copy, 1);
        ldg_pg_copy_time(&b->log_copy, b->s.now_us);
        return ldg_pg_op_fail(b->log_copy.rc, err);
    }
    ldg_pg_arg_bytes(&args, event.data, event.size);
    ldg_pg_arg_time(&args, b->s.now_us);
    return ldg_pg_op_fail(
        ldg_pg_run(b->pg, LDG_PG_KEEP, "writing the log", insert, &args, NULL, err), err);
}

ledger_rc ldg_pg_log_end(void *ctx, ledger_error *err)
{
    struct ldg_pg_batch *b = ctx;

    return b->log_by_copy ? ldg_pg_op_fail(ldg_pg_copy_close(&b->log_copy, err), err) : LEDGER_OK;
}
