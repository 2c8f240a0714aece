/* What a batch changes and deletes: the changes of all entries by one statement, the trims of each
 * kind by one behind it, in one round trip.
 *
 * Hides the statements, and which answer is a refusal. Invariant: a change older than the last one
 * of its log loses; a row that a trigger keeps as it is counts as refused. */
#include "backend/postgres/apply.h"

#include <inttypes.h>
#include <string.h>

static const char changing[] = "changing entries";
static const char trimming[] = "trimming a stream";

/* A BEFORE trigger that returns NULL leaves a row as it is, and no statement tells. */
static ledger_rc fail_kept(const struct ldg_pg_batch *b, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_REJECTED, "a trigger of table \"%s\" keeps a row as it is",
                    b->pg->table);
}

/* --- changes --------------------------------------------------------------------------------- */

/* clang-format off */
/* $1 origin, $2 id there ($12: id here), $3 stream, $4 tags, $5 annotations that are set, $6 keys
 * that go, $7 first and $8 last position of tags, $9 and $10 of annotations (null: no change by the
 * entry's own log), $11 time (null: as it is). Rows: n, id here (null: none), last positions of
 * tags and annotations there, whether it was changed. */
#define CHANGE(type, is_row, updated_at)                                                           \
    "WITH x AS MATERIALIZED (SELECT * FROM unnest($1::int4[], $2::" type "[], $3::text[], "        \
        "$4::jsonb[], $5::jsonb[], $6::jsonb[], $7::int8[], $8::int8[], $9::int8[], $10::int8[], " \
        "$11::timestamptz[], $12::int8[]) WITH ORDINALITY AS x(origin, key, stream, tags, sets, "  \
        "unsets, tags_first, tags_last, sets_first, sets_last, at, id, n)), "                      \
    "u AS (UPDATE \"{t}\" AS e SET tags = coalesce(x.tags, e.tags), "                              \
        "annotations = CASE WHEN x.sets IS NULL THEN e.annotations ELSE "                          \
            "(CASE WHEN jsonb_typeof(e.annotations) = 'object' THEN CASE WHEN x.unsets IS NULL "   \
                "THEN e.annotations "                                                              \
                "ELSE e.annotations - ARRAY(SELECT jsonb_array_elements_text(x.unsets)) END "      \
            "ELSE '{}'::jsonb END) || x.sets END, "                                                \
        "tags_pos = coalesce(x.tags_last, e.tags_pos), "                                           \
        "annotations_pos = coalesce(x.sets_last, e.annotations_pos), "                             \
        "updated_at = " updated_at " "                                                             \
        "FROM x WHERE " is_row " AND e.stream = x.stream "                                         \
        "AND (x.tags_first IS NULL OR coalesce(e.tags_pos, e.mutation_pos, 0) < x.tags_first) "    \
        "AND (x.sets_first IS NULL "                                                               \
            "OR coalesce(e.annotations_pos, e.mutation_pos, 0) < x.sets_first) "                   \
        "AND (x.sets IS NULL OR " LDG_PG_MERGEABLE("e") ") RETURNING x.n, e.id) "                  \
    "SELECT n, id, NULL::int8, NULL::int8, true FROM u "                                           \
    "UNION ALL "                                                                                   \
    "SELECT x.n, e.id, coalesce(e.tags_pos, e.mutation_pos, 0), "                                  \
        "coalesce(e.annotations_pos, e.mutation_pos, 0), false "                                   \
        "FROM x LEFT JOIN \"{t}\" AS e ON " is_row " AND e.stream = x.stream "                     \
        "WHERE x.n NOT IN (SELECT u.n FROM u)"

/* A kind of change that was left out for a while comes late: what was changed after it keeps its
 * time. */
#define LATER_TIME                                                                                 \
    "CASE WHEN greatest(e.tags_pos, e.annotations_pos) > greatest(x.tags_last, x.sets_last) "      \
        "THEN e.updated_at ELSE x.at END"
static const char *const change_guarded[LDG_PG_KINDS] = {
    [LDG_PG_NUMBERS] = CHANGE("int8", LDG_PG_IS_NUMBER, LATER_TIME),
    [LDG_PG_TEXTS] = CHANGE("text", LDG_PG_IS_TEXT, LATER_TIME),
};
static const char change_by_id[] = CHANGE(
    "int8",
    "e.id = x.id AND e.origin = x.origin",
    "coalesce(x.at, e.updated_at)");
/* clang-format on */

#define CHANGE_ARRAYS 12

/* Informed: all by their ids here. Else by their keys, those of one kind in a statement. */
static bool is_changed_by(const struct ldg_pg_batch *b, const struct ldg_sink_item *item,
                          enum ldg_pg_kind kind)
{
    return ldg_sink_changes(item) &&
           kind == (b->s.plan->informed ? LDG_PG_NUMBERS : ldg_pg_kind_of(item->key));
}

static ledger_rc put_item(struct ldg_pg_batch *b, const struct ldg_sink_item *item,
                          enum ldg_pg_kind kind, struct ldg_buf *a, ledger_error *err)
{
    struct ldg_buf *text = &b->sink->text, *more_text = &b->sink->more_text;
    ledger_map set = { NULL, 0 };
    ledger_list unset = { NULL, 0 };
    ledger_rc rc = LEDGER_OK;

    ldg_pg_array_int32(&a[0], item->origin);
    ldg_pg_array_key(&a[1], kind == LDG_PG_TEXTS ? item->key : ldg_id_of(item->key.number));
    ldg_pg_array_text(&a[2], item->stream);
    if (item->tags != NULL)
        rc = ldg_pg_put_list(text, item->tags->tags, err);
    if (rc == LEDGER_OK && item->annotated)
        rc = ldg_pg_split_map(item->annotations, b->s.arena, &set, &unset, err);
    if (rc != LEDGER_OK)
        return rc;
    ldg_pg_array_jsonb(&a[3], item->tags != NULL ? text->data : NULL, text->size);
    if (item->annotated)
        rc = ldg_pg_put_map(text, set, b->s.arena, err);
    if (rc == LEDGER_OK && unset.count > 0)
        rc = ldg_pg_put_list(more_text, unset, err);
    if (rc != LEDGER_OK)
        return rc;
    ldg_pg_array_jsonb(&a[4], item->annotated ? text->data : NULL, text->size);
    ldg_pg_array_jsonb(&a[5], unset.count > 0 ? more_text->data : NULL, more_text->size);
    ldg_pg_array_position(&a[6], item->tags_at.first);
    ldg_pg_array_position(&a[7], item->tags_at.last);
    ldg_pg_array_position(&a[8], item->annotations_at.first);
    ldg_pg_array_position(&a[9], item->annotations_at.last);
    ldg_pg_array_time(&a[10], item->time_us);
    ldg_pg_array_position(&a[11], item->id);
    return LEDGER_OK;
}

/* The array of the keys, $2, is of their kind. */
#define CHANGE_KEYS 1

static ledger_rc send_changes(struct ldg_pg_batch *b, enum ldg_pg_kind kind, ledger_error *err)
{
    static const Oid elements[CHANGE_ARRAYS] = {
        LDG_PG_INT4, 0,           LDG_PG_TEXT, LDG_PG_JSONB, LDG_PG_JSONB,       LDG_PG_JSONB,
        LDG_PG_INT8, LDG_PG_INT8, LDG_PG_INT8, LDG_PG_INT8,  LDG_PG_TIMESTAMPTZ, LDG_PG_INT8
    };
    static const Oid types[CHANGE_ARRAYS] = { LDG_PG_INT4_ARRAY,        0,
                                              LDG_PG_TEXT_ARRAY,        LDG_PG_JSONB_ARRAY,
                                              LDG_PG_JSONB_ARRAY,       LDG_PG_JSONB_ARRAY,
                                              LDG_PG_INT8_ARRAY,        LDG_PG_INT8_ARRAY,
                                              LDG_PG_INT8_ARRAY,        LDG_PG_INT8_ARRAY,
                                              LDG_PG_TIMESTAMPTZ_ARRAY, LDG_PG_INT8_ARRAY };
    const struct ldg_sink_plan *p = b->s.plan;
    struct ldg_buf *arrays = b->sink->arrays;
    struct ldg_pg_args args = { 0 };
    size_t count = 0;
    ledger_rc rc = LEDGER_OK;

    for (int i = 0; i < CHANGE_ARRAYS; i++) {
        if (i == CHANGE_KEYS)
            ldg_pg_array_keys_begin(&arrays[i], kind);
        else
            ldg_pg_array_begin(&arrays[i], elements[i]);
    }
    for (uint32_t i = 0; rc == LEDGER_OK && i < p->item_count; i++) {
        if (!is_changed_by(b, &p->items[i], kind))
            continue;
        rc = put_item(b, &p->items[i], kind, arrays, err);
        count++;
    }
    for (int i = 0; i < CHANGE_ARRAYS; i++) {
        ldg_pg_array_end(&arrays[i], count);
        if (i == CHANGE_KEYS)
            ldg_pg_arg_keys(&args, kind, &arrays[i]);
        else
            ldg_pg_arg_array(&args, types[i], &arrays[i]);
    }
    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_send(b->pg, changing, p->informed ? change_by_id : change_guarded[kind],
                              &args, err);
    return rc;
}

static ledger_rc take_change(struct ldg_pg_batch *b, const struct ldg_sink_item *item,
                             const PGresult *result, int row, ledger_error *err)
{
    const bool changed = ldg_pg_get_bool(result, row, 4);
    const int64_t id = ldg_pg_get_int64(result, row, 1);
    const int64_t tags_pos = ldg_pg_get_int64(result, row, 2);
    const int64_t annotations_pos = ldg_pg_get_int64(result, row, 3);

    if (!changed && id != 0 && b->s.plan->informed && tags_pos == item->tags_pos &&
        annotations_pos == item->annotations_pos) {
        b->s.culprit = item->last_change;
        return fail_kept(b, err);
    }
    return ldg_sink_changed(&b->s, item, changed, id, tags_pos, annotations_pos, err);
}

static ledger_rc take_changes(struct ldg_pg_batch *b, enum ldg_pg_kind kind, const PGresult *result,
                              ledger_error *err)
{
    const struct ldg_sink_plan *p = b->s.plan;
    const struct ldg_sink_item **items =
        ldg_arena_alloc(b->s.arena, p->change_count * sizeof(*items));
    uint32_t count = 0;
    ledger_rc rc = LEDGER_OK;

    if (items == NULL)
        return ldg_fail_nomem(err);
    for (uint32_t i = 0; i < p->item_count; i++) {
        if (is_changed_by(b, &p->items[i], kind))
            items[count++] = &p->items[i];
    }
    if ((uint32_t)PQntuples(result) != count)
        rc = ldg_fail(err, LEDGER_ERR_BUSY, "another transaction changes the same entries");
    for (uint32_t row = 0; rc == LEDGER_OK && row < count; row++)
        rc =
            take_change(b, items[ldg_pg_get_int64(result, (int)row, 0) - 1], result, (int)row, err);
    return rc;
}

static ledger_rc receive_changes(struct ldg_pg_batch *b, enum ldg_pg_kind kind, ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_pipe_receive(b->pg, changing, &result, err);

    if (rc == LEDGER_OK)
        rc = take_changes(b, kind, result, err);
    PQclear(result);
    return rc;
}

/* --- entries that are added and trimmed at once ---------------------------------------------- */

/* They are left out; but had one of them a key that is here, its outcome is another. */
static ledger_rc send_unseen(struct ldg_pg_batch *b, enum ldg_pg_kind kind, ledger_error *err)
{
    /* clang-format off */
#define UNSEEN(type, is_row)                                                                       \
        "SELECT count(*) FROM unnest($1::int4[], $2::" type "[], $3::text[], $4::text[]) "         \
            "AS x(origin, key, stream, dedup_key) "                                                \
        "WHERE EXISTS (SELECT FROM \"{t}\" AS e WHERE " is_row ") "                                \
        "OR (x.dedup_key <> '' AND EXISTS (SELECT FROM \"{t}\" AS e "                              \
            "WHERE e.stream = x.stream AND e.dedup_key = x.dedup_key AND e.dedup_key <> ''))"
    static const char *const find[LDG_PG_KINDS] = {
        [LDG_PG_NUMBERS] = UNSEEN("int8", LDG_PG_IS_NUMBER),
        [LDG_PG_TEXTS] = UNSEEN("text", LDG_PG_IS_TEXT),
    };
    /* clang-format on */
    const struct ldg_sink_plan *p = b->s.plan;
    struct ldg_buf *a = b->sink->arrays;
    struct ldg_pg_args args = { 0 };
    size_t count = 0;

    ldg_pg_array_begin(&a[0], LDG_PG_INT4);
    ldg_pg_array_keys_begin(&a[1], kind);
    ldg_pg_array_begin(&a[2], LDG_PG_TEXT);
    ldg_pg_array_begin(&a[3], LDG_PG_TEXT);
    for (uint32_t i = 0; i < p->item_count; i++) {
        const struct ldg_sink_item *item = &p->items[i];

        if (!item->unseen || ldg_pg_kind_of(item->key) != kind)
            continue;
        ldg_pg_array_int32(&a[0], item->origin);
        ldg_pg_array_key(&a[1], item->key);
        ldg_pg_array_text(&a[2], item->append->stream);
        ldg_pg_array_text(&a[3], item->append->entry->dedup_key);
        count++;
    }
    for (int i = 0; i < 4; i++)
        ldg_pg_array_end(&a[i], count);
    ldg_pg_arg_array(&args, LDG_PG_INT4_ARRAY, &a[0]);
    ldg_pg_arg_keys(&args, kind, &a[1]);
    ldg_pg_arg_array(&args, LDG_PG_TEXT_ARRAY, &a[2]);
    ldg_pg_arg_array(&args, LDG_PG_TEXT_ARRAY, &a[3]);
    return ldg_pg_pipe_send(b->pg, "looking for entries", find[kind], &args, err);
}

static ledger_rc receive_unseen(struct ldg_pg_batch *b, ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_pipe_receive(b->pg, "looking for entries", &result, err);

    if (rc == LEDGER_OK && ldg_pg_get_int64(result, 0, 0) > 0)
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "an entry that is trimmed was here before");
    PQclear(result);
    return rc;
}

/* --- trims ----------------------------------------------------------------------------------- */

/* Trims of one kind go in one statement. What two of them would delete counts for the first. */
enum trim_kind {
    TRIM_LOCAL,   /* of entries that were written here */
    TRIM_ORDERED, /* of an origin whose ids rise with the ids here, in each stream */
    TRIM_ANY,
    TRIM_TEXT, /* of an origin whose ids are texts */
    TRIM_KINDS
};

/* clang-format off */
/* $1 origin, $2 up to and with, $3 stream, $4 ids that stay, as the text of an array. `stop`: id
 * here behind which nothing goes. */
#define TRIMS(type, stop)                                                                          \
    "WITH x AS MATERIALIZED (SELECT n, origin, last, stream, stays::" type "[] AS stays, "         \
            stop " AS stop "                                                                       \
        "FROM unnest($1::int4[], $2::" type "[], $3::text[], $4::text[]) "                         \
            "WITH ORDINALITY AS x(origin, last, stream, stays, n))"
#define NOWHERE "9223372036854775807"
/* Where the ids of a stream rise with those of its origin, the first entry that stays ends it. */
#define FIRST_STAYING                                                                              \
    "coalesce((SELECT e.id FROM \"{t}\" AS e WHERE e.stream = x.stream "                           \
        "AND e.origin + 0 = x.origin AND e.source_pos + 0 > x.last "                               \
        "ORDER BY e.stream, e.id LIMIT 1), " NOWHERE ")"

/* The index of the origin would visit other streams, too: the zeros keep it away, and the pair of
 * columns leaves only the index of stream and id. */
#define GOES                                                                                       \
    "e.stream = x.stream AND (e.stream, e.id) <= (x.stream, x.stop) AND e.origin + 0 = x.origin "
#define BRIDGED GOES "AND e.source_pos + 0 <= x.last AND e.source_pos <> ALL (x.stays)"
#define LOCAL                                                                                      \
    GOES "AND e.source_pos IS NULL AND e.id <> ALL (x.stays) AND e.source_id = ''"
#define TEXTS                                                                                      \
    GOES "AND e.source_pos IS NULL AND " LDG_PG_TEXT_OF("e.") " <= x.last "                        \
        "AND " LDG_PG_TEXT_OF("e.") " <> ALL (x.stays)"

/* $5 keys that are looked for among what goes. Rows: n, the highest id that goes, whether the table
 * has a trigger that can keep rows in silence, and null; then each row that goes and has such a
 * key. IS TRUE lets the keys be hashed, where IN alone would become a join. */
#define TRIM(type, stop, goes, entry, forget)                                                      \
    TRIMS(type, stop) ", "                                                                         \
    "d AS (DELETE FROM \"{t}\" AS e USING x WHERE " goes " "                                       \
        "RETURNING x.n, e.origin, " entry " AS entry, e.id, e.dedup_key)" forget " "               \
    "SELECT n, max(id), EXISTS (SELECT FROM pg_trigger AS g "                                      \
            "WHERE g.tgrelid = '\"{t}\"'::regclass AND NOT g.tgisinternal "                        \
                "AND g.tgenabled <> 'D' AND g.tgtype::int & 11 = 11), NULL::text "                 \
        "FROM (SELECT n, id FROM d UNION ALL SELECT n, 0 FROM x) AS s GROUP BY n "                 \
    "UNION ALL "                                                                                   \
    "SELECT n, id, false, dedup_key FROM d "                                                       \
        "WHERE (dedup_key IN (SELECT k FROM unnest($5::text[]) AS k)) IS TRUE"
#define FORGET                                                                                     \
    ", f AS (DELETE FROM \"{t}_foreign\" AS f USING d "                                            \
        "WHERE f.origin = d.origin AND f.entry = d.entry)"
/* [1]: there are marks, which go along with their entries */
static const char *const trims[TRIM_KINDS][2] = {
    [TRIM_LOCAL] = { TRIM("int8", "last", LOCAL, "e.id", FORGET),
                     TRIM("int8", "last", LOCAL, "e.id", FORGET) },
    [TRIM_ORDERED] = { TRIM("int8", FIRST_STAYING, BRIDGED, "e.source_pos", ""),
                       TRIM("int8", FIRST_STAYING, BRIDGED, "e.source_pos", FORGET) },
    [TRIM_ANY] = { TRIM("int8", NOWHERE, BRIDGED, "e.source_pos", ""),
                   TRIM("int8", NOWHERE, BRIDGED, "e.source_pos", FORGET) },
    [TRIM_TEXT] = { TRIM("text", NOWHERE, TEXTS, "-e.id", ""),
                    TRIM("text", NOWHERE, TEXTS, "-e.id", FORGET) },
};

/* The first trim of which something is still here; null: all is gone. */
#define LEFT(type, stop, goes)                                                                     \
    TRIMS(type, stop) " SELECT min(x.n) FROM x JOIN \"{t}\" AS e ON " goes
static const char *const left[TRIM_KINDS] = {
    [TRIM_LOCAL] = LEFT("int8", "last", LOCAL),
    [TRIM_ORDERED] = LEFT("int8", NOWHERE, BRIDGED),
    [TRIM_ANY] = LEFT("int8", NOWHERE, BRIDGED),
    [TRIM_TEXT] = LEFT("text", NOWHERE, TEXTS),
};
/* clang-format on */

static enum trim_kind kind_of_trim(const struct ldg_pg_batch *b, const struct ldg_op *op)
{
    if (op->origin == 0)
        return TRIM_LOCAL;
    if (op->key.text != NULL)
        return TRIM_TEXT;
    return ldg_sink_is_ordered(&b->s, op->origin) ? TRIM_ORDERED : TRIM_ANY;
}

/* The next trim of the kind. *at: b->s.first at the beginning. */
static bool next_trim(const struct ldg_pg_batch *b, enum trim_kind kind, size_t *at,
                      size_t *ret_index)
{
    for (; *at < b->s.end; (*at)++) {
        if (ldg_sink_trims(&b->s, *at) && kind_of_trim(b, &b->s.ops[*at]) == kind) {
            *ret_index = (*at)++;
            return true;
        }
    }
    return false;
}

/* As an item of an array's text. */
static void put_quoted(struct ldg_buf *text, const char *item)
{
    (void)ldg_buf_putc(text, '"');
    for (; *item != '\0'; item++) {
        if (*item == '"' || *item == '\\')
            (void)ldg_buf_putc(text, '\\');
        (void)ldg_buf_putc(text, *item);
    }
    (void)ldg_buf_putc(text, '"');
}

/* The array of the ids that stay, as a text. */
static void put_survivors(struct ldg_buf *array, struct ldg_buf *text, const struct ldg_op *op)
{
    ldg_buf_reset(text);
    (void)ldg_buf_putc(text, '{');
    for (size_t i = 0; i < op->survivor_count; i++) {
        if (i > 0)
            (void)ldg_buf_putc(text, ',');
        if (op->survivors[i].text != NULL)
            put_quoted(text, op->survivors[i].text);
        else
            (void)ldg_buf_printf(text, "%" PRId64, op->survivors[i].number);
    }
    (void)ldg_buf_putc(text, '}');
    if (text->rc == LEDGER_OK)
        ldg_pg_array_text(array, text->data);
    else
        array->rc = text->rc;
}

#define TRIM_ARRAYS 4

/* $1 to $4 */
static void trim_args(struct ldg_pg_batch *b, enum trim_kind kind, struct ldg_pg_args *args)
{
    const enum ldg_pg_kind keys = kind == TRIM_TEXT ? LDG_PG_TEXTS : LDG_PG_NUMBERS;
    struct ldg_buf *a = b->sink->arrays;
    size_t count = 0, index;

    ldg_pg_array_begin(&a[0], LDG_PG_INT4);
    ldg_pg_array_keys_begin(&a[1], keys);
    ldg_pg_array_begin(&a[2], LDG_PG_TEXT);
    ldg_pg_array_begin(&a[3], LDG_PG_TEXT);
    for (size_t at = b->s.first; next_trim(b, kind, &at, &index); count++) {
        const struct ldg_op *op = &b->s.ops[index];

        ldg_pg_array_int32(&a[0], op->origin);
        ldg_pg_array_key(&a[1], kind == TRIM_TEXT ? op->key : ldg_id_of(op->key.number));
        ldg_pg_array_text(&a[2], op->stream);
        put_survivors(&a[3], &b->sink->text, op);
    }
    for (int i = 0; i < TRIM_ARRAYS; i++)
        ldg_pg_array_end(&a[i], count);
    ldg_pg_arg_array(args, LDG_PG_INT4_ARRAY, &a[0]);
    ldg_pg_arg_keys(args, keys, &a[1]);
    ldg_pg_arg_array(args, LDG_PG_TEXT_ARRAY, &a[2]);
    ldg_pg_arg_array(args, LDG_PG_TEXT_ARRAY, &a[3]);
}

/* $5: keys of the entries that the batch adds, whether before a trim of their stream or not. */
static void key_arg(struct ldg_pg_batch *b, struct ldg_pg_args *args)
{
    const struct ldg_sink_plan *p = b->s.plan;
    struct ldg_buf *keys = &b->sink->arrays[TRIM_ARRAYS];
    size_t count = 0;

    ldg_pg_array_begin(keys, LDG_PG_TEXT);
    for (uint32_t i = 0; !p->informed && i < p->item_count; i++) {
        const struct ldg_sink_item *item = &p->items[i];

        if (item->state != LDG_SINK_ADDED || item->dedup_key == NULL || !*item->dedup_key)
            continue;
        ldg_pg_array_text(keys, item->dedup_key);
        count++;
    }
    ldg_pg_array_end(keys, count);
    ldg_pg_arg_array(args, LDG_PG_TEXT_ARRAY, keys);
}

static bool has_trims(const struct ldg_pg_batch *b, enum trim_kind kind)
{
    size_t at = b->s.first, index;

    return next_trim(b, kind, &at, &index);
}

static ledger_rc send_trims(struct ldg_pg_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (enum trim_kind kind = 0; rc == LEDGER_OK && kind < TRIM_KINDS; kind++) {
        struct ldg_pg_args args = { 0 };

        if (!has_trims(b, kind))
            continue;
        trim_args(b, kind, &args);
        key_arg(b, &args);
        rc = ldg_pg_pipe_send(b->pg, trimming, trims[kind][b->s.marks_any], &args, err);
    }
    return rc;
}

/* The op of each n of a statement, from 1; in the arena. */
static ledger_rc list_trims(struct ldg_pg_batch *b, enum trim_kind kind, size_t **ret_ops,
                            ledger_error *err)
{
    size_t *ops = ldg_arena_alloc(b->s.arena, (b->s.plan->trim_count + 1) * sizeof(*ops));
    size_t count = 0;

    if (ops == NULL)
        return ldg_fail_nomem(err);
    for (size_t at = b->s.first; next_trim(b, kind, &at, &ops[count + 1]);)
        count++;
    *ret_ops = ops;
    return LEDGER_OK;
}

static ledger_rc take_trims(struct ldg_pg_batch *b, enum trim_kind kind, const PGresult *result,
                            ledger_error *err)
{
    size_t *ops = NULL;
    ledger_rc rc = list_trims(b, kind, &ops, err);

    for (int row = 0; rc == LEDGER_OK && row < PQntuples(result); row++) {
        const size_t index = ops[ldg_pg_get_int64(result, row, 0)];

        if (!PQgetisnull(result, row, 3)) {
            if (ldg_sink_adds_key_before(&b->s, index, ldg_pg_get_text(result, row, 3)))
                rc = ldg_fail(err, LEDGER_ERR_REJECTED,
                              "an entry has the key of one that is trimmed");
            continue;
        }
        ldg_sink_trimmed(&b->s, index, ldg_pg_get_int64(result, row, 1), false);
        b->may_keep = b->may_keep || ldg_pg_get_bool(result, row, 2);
    }
    if (rc == LEDGER_OK && b->may_keep && !b->s.plan->informed)
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "a trigger may keep what is trimmed");
    return rc;
}

static ledger_rc receive_trims(struct ldg_pg_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (enum trim_kind kind = 0; rc == LEDGER_OK && kind < TRIM_KINDS; kind++) {
        PGresult *result = NULL;

        if (!has_trims(b, kind))
            continue;
        rc = ldg_pg_pipe_receive(b->pg, trimming, &result, err);
        if (rc == LEDGER_OK)
            rc = take_trims(b, kind, result, err);
        PQclear(result);
    }
    return rc;
}

/* Are all entries gone that the trims have just deleted? */
static ledger_rc check_trims(struct ldg_pg_batch *b, enum trim_kind kind, ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    int64_t first = 0;
    size_t *ops = NULL;
    ledger_rc rc;

    trim_args(b, kind, &args);
    rc = ldg_pg_run_int64(b->pg, "looking for what is trimmed", left[kind], &args, NULL, &first,
                          err);
    if (rc == LEDGER_OK && first != 0)
        rc = list_trims(b, kind, &ops, err);
    if (rc == LEDGER_OK && first != 0) {
        b->s.culprit = ops[first];
        rc = fail_kept(b, err);
    }
    return rc;
}

/* What comes behind the trims: a look if they were done, and what is parked below them. */
static ledger_rc after_trims(struct ldg_pg_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (enum trim_kind kind = 0; rc == LEDGER_OK && b->may_keep && kind < TRIM_KINDS; kind++) {
        if (has_trims(b, kind))
            rc = check_trims(b, kind, err);
    }
    for (size_t i = b->s.first; rc == LEDGER_OK && b->s.parked_any && i < b->s.end; i++) {
        bool unparked = false;

        if (ldg_sink_trims(&b->s, i))
            rc = ldg_pg_parked_trim(b->pg, &b->s.ops[i], &unparked, err);
        if (unparked)
            ldg_sink_trimmed(&b->s, i, 0, true);
    }
    return rc;
}

/* --- all ------------------------------------------------------------------------------------- */

/* Are there any of the kind? A batch without texts need not look. */
static bool has_unseen(const struct ldg_pg_batch *b, enum ldg_pg_kind kind)
{
    const struct ldg_sink_plan *p = b->s.plan;
    bool any = !b->has_texts && kind == LDG_PG_NUMBERS && p->unseen_count > 0;

    for (uint32_t i = 0; b->has_texts && p->unseen_count > 0 && i < p->item_count && !any; i++)
        any = p->items[i].unseen && ldg_pg_kind_of(p->items[i].key) == kind;
    return any;
}

static bool has_changes(const struct ldg_pg_batch *b, enum ldg_pg_kind kind)
{
    const struct ldg_sink_plan *p = b->s.plan;
    bool any = !b->has_texts && kind == LDG_PG_NUMBERS && p->change_count > 0;

    for (uint32_t i = 0; b->has_texts && p->change_count > 0 && i < p->item_count && !any; i++)
        any = is_changed_by(b, &p->items[i], kind);
    return any;
}

static ledger_rc send_all(struct ldg_pg_batch *b, ledger_error *err)
{
    const struct ldg_sink_plan *p = b->s.plan;
    ledger_rc rc = LEDGER_OK;

    for (enum ldg_pg_kind kind = 0; rc == LEDGER_OK && kind < LDG_PG_KINDS; kind++) {
        if (has_unseen(b, kind))
            rc = send_unseen(b, kind, err);
    }
    for (enum ldg_pg_kind kind = 0; rc == LEDGER_OK && kind < LDG_PG_KINDS; kind++) {
        if (has_changes(b, kind))
            rc = send_changes(b, kind, err);
    }
    if (rc == LEDGER_OK && p->trim_count > 0)
        rc = send_trims(b, err);
    return rc;
}

static ledger_rc receive_all(struct ldg_pg_batch *b, ledger_error *err)
{
    const struct ldg_sink_plan *p = b->s.plan;
    ledger_rc rc = LEDGER_OK;

    for (enum ldg_pg_kind kind = 0; rc == LEDGER_OK && kind < LDG_PG_KINDS; kind++) {
        if (has_unseen(b, kind))
            rc = receive_unseen(b, err);
    }
    for (enum ldg_pg_kind kind = 0; rc == LEDGER_OK && kind < LDG_PG_KINDS; kind++) {
        if (has_changes(b, kind))
            rc = receive_changes(b, kind, err);
    }
    if (rc == LEDGER_OK && p->trim_count > 0)
        rc = receive_trims(b, err);
    return rc;
}

ledger_rc ldg_pg_change(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    struct ldg_pg_batch *b = ctx;
    ledger_error ignored;
    ledger_rc rc = ldg_pg_pipe_begin(b->pg, err);

    if (rc != LEDGER_OK)
        return rc;
    b->may_keep = false;
    rc = send_all(b, err);
    if (rc == LEDGER_OK)
        rc = receive_all(b, err);
    if (ldg_pg_pipe_end(b->pg, rc == LEDGER_OK ? err : &ignored) != LEDGER_OK && rc == LEDGER_OK)
        rc = err->code;
    if (rc == LEDGER_OK && s->plan->trim_count > 0)
        rc = after_trims(b, err);
    return ldg_pg_op_fail(rc, err);
}

/* --- what is kept beside the entries --------------------------------------------------------- */

static ledger_rc note_marks(struct ldg_pg_batch *b, ledger_error *err)
{
    static const char put[] =
        "INSERT INTO \"{t}_foreign\" (origin, entry, mutation_origin, kind, id, position) "
        "SELECT * FROM unnest($1::int4[], $2::int8[], $3::int4[], $4::int4[], $5::int8[], "
        "$6::int8[]) ON CONFLICT (origin, entry, mutation_origin, kind) "
        "DO UPDATE SET id = excluded.id, position = excluded.position";
    static const Oid elements[] = { LDG_PG_INT4, LDG_PG_INT8, LDG_PG_INT4,
                                    LDG_PG_INT4, LDG_PG_INT8, LDG_PG_INT8 };
    static const Oid types[] = { LDG_PG_INT4_ARRAY, LDG_PG_INT8_ARRAY, LDG_PG_INT4_ARRAY,
                                 LDG_PG_INT4_ARRAY, LDG_PG_INT8_ARRAY, LDG_PG_INT8_ARRAY };
    const struct ldg_sink_plan *p = b->s.plan;
    struct ldg_buf *a = b->sink->arrays;
    struct ldg_pg_args args = { 0 };

    for (int i = 0; i < 6; i++)
        ldg_pg_array_begin(&a[i], elements[i]);
    for (uint32_t i = 0; i < p->item_count; i++) {
        const struct ldg_sink_item *item = &p->items[i];

        for (const struct ldg_sink_mark *mark = item->marks; mark != NULL; mark = mark->next) {
            if (!mark->is_new)
                continue;
            ldg_pg_array_int32(&a[0], item->origin);
            ldg_pg_array_int64(&a[1], ldg_pg_mark_entry(item));
            ldg_pg_array_int32(&a[2], mark->origin);
            ldg_pg_array_int32(&a[3], mark->kind == LDG_OP_SET_TAGS ? 1 : 2);
            ldg_pg_array_int64(&a[4], item->id);
            ldg_pg_array_int64(&a[5], mark->position);
        }
    }
    for (int i = 0; i < 6; i++) {
        ldg_pg_array_end(&a[i], p->mark_count);
        ldg_pg_arg_array(&args, types[i], &a[i]);
    }
    return ldg_pg_run(b->pg, LDG_PG_KEEP, "noting changes", put, &args, NULL, err);
}

static ledger_rc drop_unparked(struct ldg_pg_batch *b, ledger_error *err)
{
    static const char drop[] = "DELETE FROM \"{t}_parked\" WHERE id = ANY ($1::int8[])";
    const struct ldg_sink_plan *p = b->s.plan;
    struct ldg_buf *ids = &b->sink->arrays[0];
    struct ldg_pg_args args = { 0 };

    ldg_pg_array_begin(ids, LDG_PG_INT8);
    for (size_t i = 0; i < p->unparked_count; i++)
        ldg_pg_array_int64(ids, p->unparked[i]);
    ldg_pg_array_end(ids, p->unparked_count);
    ldg_pg_arg_array(&args, LDG_PG_INT8_ARRAY, ids);
    return ldg_pg_run(b->pg, LDG_PG_KEEP, "taking events off the parked ones", drop, &args, NULL,
                      err);
}

ledger_rc ldg_pg_note(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    (void)s;
    return ldg_pg_fail_own(note_marks(ctx, err), err);
}

ledger_rc ldg_pg_unpark(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    (void)s;
    return ldg_pg_fail_own(drop_unparked(ctx, err), err);
}
