/* The rows that a batch adds, and the events of the own log.
 *
 * Hides the columns of a row and how many go into one statement. Invariant: a row has the id that
 * is reserved for it, where there is one. */
#include "backend/sqlite/apply.h"

#include <stdlib.h>
#include <string.h>

#define INSERT(or_fail, columns)                                                                   \
    "INSERT " or_fail "INTO main.\"%T\"(id, stream, payload, order_key, dedup_key, "               \
    "schema_version, metadata, tags, created_at, origin, source_pos, source_id" columns            \
    ") VALUES %V"
#define MORE_COLUMNS ", annotations, updated_at, tags_pos, annotations_pos"
/* OR FAIL needs no statement journal: whoever adds undoes everything when it fails. But it would go
 * before the conflict clauses of a trigger's own statements: [1] is for a table with triggers. */
static const char *const insert_bare[2] = { INSERT("OR FAIL ", ""), INSERT("", "") };
static const char *const insert_changed[2] = { INSERT("OR FAIL ", MORE_COLUMNS),
                                               INSERT("", MORE_COLUMNS) };
#define BARE_COLUMNS 12
#define CHANGED_COLUMNS 16

/* A row of the plan. item NULL: the append as it is. */
struct row {
    const struct ldg_op *op;
    struct ldg_sink_item *item;
    size_t index;
    int64_t id; /* 0: SQLite gives one */
};

static bool is_changed(const struct row *row)
{
    return row->item != NULL && row->item->changed;
}

/* --- texts ----------------------------------------------------------------------------------- */

static ledger_rc take_text(struct ldg_sqlite_batch *b, ledger_rc put, const char **ret_text,
                           ledger_error *err)
{
    if (put == LEDGER_OK)
        *ret_text = ldg_arena_strndup(b->s.arena, b->text.data, b->text.size);
    if (put == LEDGER_ERR_NOMEM || (put == LEDGER_OK && *ret_text == NULL))
        return ldg_fail_nomem(err);
    return put == LEDGER_OK
               ? LEDGER_OK
               : ldg_fail(err, LEDGER_ERR_REJECTED, "tags, metadata or annotations are too large");
}

ledger_rc ldg_sqlite_map_text(struct ldg_sqlite_batch *b, ledger_map map, const char **ret_text,
                              ledger_error *err)
{
    ledger_map sorted;
    ledger_rc rc = ldg_map_sort(map, b->s.arena, &sorted, err);

    if (rc != LEDGER_OK)
        return rc;
    ldg_buf_reset(&b->text);
    return take_text(b, ldg_json_put_map(&b->text, sorted), ret_text, err);
}

ledger_rc ldg_sqlite_list_text(struct ldg_sqlite_batch *b, ledger_list list, const char **ret_text,
                               ledger_error *err)
{
    *ret_text = "[]";
    if (list.count == 0)
        return LEDGER_OK;
    ldg_buf_reset(&b->text);
    return take_text(b, ldg_json_put_list(&b->text, list), ret_text, err);
}

const char *ldg_sqlite_time_text(struct ldg_sqlite_batch *b, int64_t time_us)
{
    const int64_t ms = time_us / 1000 - (time_us % 1000 < 0);

    if (b->time_text == NULL || b->time_ms != ms) {
        char text[LDG_TIME_TEXT_MAX];

        ldg_time_format_ms(time_us, text);
        b->time_text = ldg_arena_strdup(b->s.arena, text);
        b->time_ms = ms;
    }
    return b->time_text;
}

/* --- a row ----------------------------------------------------------------------------------- */

static ledger_list tags_of(const struct row *row)
{
    return is_changed(row) && row->item->tags != NULL ? row->item->tags->tags
                                                      : row->op->entry->tags;
}

/* A key that is a text; a number of the origin whose rows carry it; else "". NULL: out of memory.
 */
static const char *source_id_of(const struct ldg_sqlite_batch *b, const struct row *row)
{
    char text[LEDGER_ID_TEXT_MAX];

    if (row->op->key.text != NULL)
        return row->op->key.text;
    if (b->go_origin == 0 || row->op->origin != b->go_origin ||
        (row->item != NULL && row->item->without_source_id))
        return "";
    return ldg_arena_strdup(b->s.arena, ldg_id_text(row->op->key, text));
}

static ledger_rc bind_changes(struct ldg_sql *q, struct ldg_sqlite_batch *b, const struct row *row,
                              ledger_error *err)
{
    const struct ldg_sink_item *item = row->item;
    const char *annotations = NULL;
    ledger_rc rc = LEDGER_OK;

    if (!is_changed(row)) {
        for (int i = BARE_COLUMNS; i < CHANGED_COLUMNS; i++)
            ldg_sql_text(q, NULL);
        return LEDGER_OK;
    }
    if (item->annotated)
        rc = ldg_sqlite_map_text(b, item->annotations, &annotations, err);
    ldg_sql_text(q, annotations);
    ldg_sql_time(q, item->time_us);
    ldg_sql_position(q, item->tags_at.last);
    ldg_sql_position(q, item->annotations_at.last);
    return rc;
}

static ledger_rc bind_row(struct ldg_sql *q, struct ldg_sqlite_batch *b, const struct row *row,
                          bool changed, ledger_error *err)
{
    const struct ldg_op *op = row->op;
    const char *metadata = NULL, *tags, *source_id = source_id_of(b, row);
    const char *time = ldg_sqlite_time_text(b, ldg_sink_time(&b->s, op));
    ledger_rc rc = LEDGER_OK;

    if (source_id == NULL || time == NULL)
        return ldg_fail_nomem(err);
    if (op->entry->metadata.count > 0)
        rc = ldg_sqlite_map_text(b, op->entry->metadata, &metadata, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_list_text(b, tags_of(row), &tags, err);
    if (rc != LEDGER_OK)
        return rc;
    if (row->id != 0)
        ldg_sql_int(q, row->id);
    else
        ldg_sql_text(q, NULL);
    ldg_sql_text(q, op->stream);
    ldg_sql_blob(q, op->entry->payload.data, op->entry->payload.size);
    ldg_sql_text(q, op->entry->order_key);
    ldg_sql_text(q, op->entry->dedup_key);
    ldg_sql_int(q, op->entry->schema_version);
    ldg_sql_text(q, metadata);
    ldg_sql_text(q, tags);
    ldg_sql_text(q, time);
    ldg_sql_int(q, op->origin);
    ldg_sql_key_number(q, op->key);
    ldg_sql_text(q, source_id);
    if (changed)
        rc = bind_changes(q, b, row, err);
    return rc == LEDGER_OK ? q->rc : rc;
}

/* --- many rows ------------------------------------------------------------------------------- */

/* Which of them did the database refuse? Those before it are in, unless the table has triggers. */
static void blame(struct ldg_sqlite_batch *b, const struct row *rows, size_t count,
                  const ledger_error *err)
{
    const size_t done = (size_t)sqlite3_changes(b->store->db);

    if (count == 1)
        b->s.culprit = rows[0].index;
    else if (!b->triggers_any && (err->native_code & 0xff) == SQLITE_CONSTRAINT && done < count)
        b->s.culprit = rows[done].index;
}

static ledger_rc insert_rows(struct ldg_sqlite_batch *b, const struct row *rows, size_t count,
                             ledger_error *err)
{
    struct ldg_sqlite *s = b->store;
    bool changed = false;
    struct ldg_sql q;

    for (size_t i = 0; i < count; i++)
        changed = changed || is_changed(&rows[i]);
    ldg_sql_begin_rows(&q, s, "adding entries",
                       changed ? insert_changed[b->triggers_any] : insert_bare[b->triggers_any],
                       changed ? CHANGED_COLUMNS : BARE_COLUMNS, (int)count, err);
    q.fail = ldg_sqlite_op_fail;
    for (size_t i = 0; q.rc == LEDGER_OK && i < count; i++) {
        q.rc = bind_row(&q, b, &rows[i], changed, err);
        if (q.rc != LEDGER_OK)
            b->s.culprit = rows[i].index;
    }
    if (q.rc == LEDGER_OK) {
        (void)ldg_sql_row(&q);
        if (q.rc != LEDGER_OK)
            blame(b, rows, count, err);
        else if (sqlite3_changes(s->db) != (int)count)
            q.rc = ldg_fail(err, LEDGER_ERR_REJECTED, "a trigger of table \"%s\" drops %s",
                            s->table, count > 1 ? "rows" : "the row");
    }
    if (q.rc == LEDGER_ERR_REJECTED && count == 1)
        b->s.culprit = rows[0].index;
    return ldg_sql_end(&q);
}

/* The table grows at its end. */
static int compare_ids(const void *a, const void *b)
{
    const struct row *x = a, *y = b;

    return x->id < y->id ? -1 : x->id > y->id;
}

ledger_rc ldg_sqlite_add(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    struct ldg_sqlite_batch *b = ctx;
    const size_t count = s->plan->add_count;
    struct row *rows = ldg_arena_alloc(s->arena, count * sizeof(*rows));
    size_t at = 0, n = 0;
    bool triggers;
    ledger_rc rc = ldg_sqlite_has_triggers(b, &triggers, err);

    if (rc == LEDGER_OK && rows == NULL)
        rc = ldg_fail_nomem(err);
    if (rc != LEDGER_OK)
        return rc;
    for (; n < count && ldg_sink_next_add(s, &at, &rows[n].item, &rows[n].index); n++) {
        rows[n].op = &s->ops[rows[n].index];
        rows[n].id = s->reserved != NULL ? s->reserved[rows[n].index] : 0;
    }
    if (b->arranged)
        qsort(rows, n, sizeof(*rows), compare_ids);
    /* what a trigger refuses, and which id it leaves, shows only with each row alone */
    const bool alone = s->plan->informed && triggers;
    for (size_t done = 0, group; rc == LEDGER_OK && done < n; done += group) {
        group = alone ? 1 : n - done >= 32 ? 32 : n - done >= 8 ? 8 : 1;
        rc = insert_rows(b, rows + done, group, err);
        if (rc == LEDGER_OK && rows[done].id == 0)
            ldg_sink_added(s, rows[done].item, rows[done].index,
                           sqlite3_last_insert_rowid(b->store->db));
    }
    return rc;
}

/* --- the own log ----------------------------------------------------------------------------- */

ledger_rc ldg_sqlite_log_begin(void *ctx, ledger_error *err)
{
    (void)ctx;
    (void)err;
    return LEDGER_OK;
}

ledger_rc ldg_sqlite_log_put(void *ctx, ledger_bytes event, ledger_error *err)
{
    struct ldg_sqlite_batch *b = ctx;
    const char *time = ldg_sqlite_time_text(b, b->s.now_us);

    return time != NULL ? ldg_sqlite_log_event(b->store, event, time, err) : ldg_fail_nomem(err);
}

ledger_rc ldg_sqlite_log_end(void *ctx, ledger_error *err)
{
    (void)ctx;
    (void)err;
    return LEDGER_OK;
}
