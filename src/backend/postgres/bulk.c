/* A whole batch at once: what its ops amount to is found out here first; then the rows that it
 * changes are changed by one statement, the trims run, and the rows that it adds come in by COPY:
 * behind the changes, or before them where that is the same.
 *
 * Hides what ops on one entry come to. Invariant: rows and outcomes are those of one op after the
 * other. Whatever cannot be told here (a key that is there already, an entry that comes twice, a
 * position of another log) is left to the way op by op. */
#include "backend/postgres/apply.h"

#include "base/hash.h"

#include <string.h>

#define NONE UINT32_MAX

/* --- the plan -------------------------------------------------------------------------------- */

/* Positions of the changes of one kind; 0: there are none. */
struct span {
    int64_t first, last;
};

/* An entry of the batch: added by it, or there before and changed by it. */
struct item {
    const struct ldg_op *op;   /* the append, or the first change */
    const struct ldg_op *tags; /* the last SET_TAGS that counts */
    ledger_map annotations;    /* all SET_ANNOTATIONS that count; of a stored entry NULL deletes */
    bool added;
    bool trimmed; /* added and trimmed away again: it never gets into the table */
    bool changed, annotated;
    struct span tags_at, annotations_at; /* positions of the changes */
    int64_t time_us;                     /* of the last change */
    uint32_t index;                      /* of op */
    uint32_t last_change;                /* of the ops that change it; before[] has the others */
    uint32_t next;                       /* added, of the same group */
};

/* Entries of one origin in one stream. */
struct group {
    int origin;
    const char *stream;
    uint32_t first, last; /* items that were added, in order; NONE */
    uint32_t last_trim;   /* op; before[] has the others */
    int64_t trimmed;      /* highest position that one of them reaches */
};

struct ldg_pg_bulk {
    struct ldg_pg_batch *b;
    struct item *items;
    uint32_t item_count, added_count, stored_count, trimmed_count;
    struct group *groups;
    uint32_t group_count;
    uint32_t *item_slots, *group_slots, *key_slots; /* open hashes: index + 1 */
    size_t mask;
    uint32_t *before; /* per op: the op before it on the same entry, or the trim before it */
    bool has_trims;
    bool several_origins;
    bool key_again; /* one is used that an entry had which the batch adds and trims */
    bool only_adds; /* every op is an append of its own entry; then nothing above is filled in */
    bool fits;      /* false: op by op */
};

static uint64_t hash_entry(int origin, int64_t source_pos)
{
    uint64_t hash = ((uint64_t)source_pos + (uint64_t)origin * 0x9e3779b97f4a7c15u);

    hash ^= hash >> 32;
    hash *= 0xd6e8feb86659fd93u;
    return hash ^ (hash >> 32);
}

/* The slot of an entry; *slot is 0 when it is not known. */
static uint32_t *item_slot(const struct ldg_pg_bulk *p, const struct ldg_op *op)
{
    size_t at = hash_entry(op->origin, op->key.number) & p->mask;

    while (p->item_slots[at] != 0) {
        const struct ldg_op *other = p->items[p->item_slots[at] - 1].op;

        if (other->key.number == op->key.number && other->origin == op->origin)
            break;
        at = (at + 1) & p->mask;
    }
    return &p->item_slots[at];
}

static struct group *group_of(struct ldg_pg_bulk *p, const struct ldg_op *op)
{
    size_t at = ldg_hash64(op->stream, strlen(op->stream), (uint64_t)op->origin) & p->mask;

    while (p->group_slots[at] != 0) {
        struct group *group = &p->groups[p->group_slots[at] - 1];

        if (group->origin == op->origin &&
            (group->stream == op->stream || strcmp(group->stream, op->stream) == 0))
            return group;
        at = (at + 1) & p->mask;
    }
    p->group_slots[at] = ++p->group_count;
    p->groups[p->group_count - 1] = (struct group){ .origin = op->origin,
                                                    .stream = op->stream,
                                                    .first = NONE,
                                                    .last = NONE,
                                                    .last_trim = NONE,
                                                    .trimmed = INT64_MIN };
    p->several_origins = p->several_origins || p->groups[0].origin != op->origin;
    return &p->groups[p->group_count - 1];
}

/* Has an entry that is to be added this dedup key already? Notes the key. */
static bool key_known(struct ldg_pg_bulk *p, uint32_t index)
{
    const struct ldg_op *op = p->items[index].op;
    const char *key = op->entry->dedup_key;
    size_t at =
        ldg_hash64(key, strlen(key), ldg_hash64(op->stream, strlen(op->stream), 0)) & p->mask;

    while (p->key_slots[at] != 0) {
        const struct item *other = &p->items[p->key_slots[at] - 1];

        const bool same = strcmp(other->op->entry->dedup_key, key) == 0 &&
                          strcmp(other->op->stream, op->stream) == 0;

        if (same && !other->trimmed)
            return true;
        p->key_again = p->key_again || same;
        at = (at + 1) & p->mask;
    }
    p->key_slots[at] = index + 1;
    return false;
}

static void plan_append(struct ldg_pg_bulk *p, uint32_t i)
{
    const struct ldg_op *op = &p->b->ops[i];
    uint32_t *slot = item_slot(p, op);
    struct group *group;
    struct item *item;

    if (*slot != 0) {
        p->fits = false;
        return;
    }
    *slot = ++p->item_count;
    item = &p->items[p->item_count - 1];
    *item = (struct item){ .op = op, .added = true, .index = i, .last_change = NONE, .next = NONE };
    p->added_count++;
    p->b->outcomes[i] = LDG_OUTCOME_APPLIED;
    p->b->ids[i] = p->b->drawn[i];
    if (!p->has_trims)
        return;
    group = group_of(p, op);
    if (group->first == NONE)
        group->first = p->item_count - 1;
    else
        p->items[group->last].next = p->item_count - 1;
    group->last = p->item_count - 1;
    if (op->entry->dedup_key[0] != '\0' && key_known(p, p->item_count - 1))
        p->fits = false;
}

/* Did a trim of this batch take the entry away, if it was there? */
static bool is_trimmed(struct ldg_pg_bulk *p, const struct ldg_op *op)
{
    const struct group *group;
    bool trimmed = false;

    if (!p->has_trims)
        return false;
    group = group_of(p, op);
    if (group->trimmed < op->key.number)
        return false;
    for (uint32_t i = group->last_trim; i != NONE && !trimmed; i = p->before[i])
        trimmed = ldg_op_trims(&p->b->ops[i], op->key);
    return trimmed;
}

/* A kind that was left out for a while comes after younger changes of the other. */
static struct span *span_of(struct item *item, const struct ldg_op *op)
{
    return op->kind == LDG_OP_SET_TAGS ? &item->tags_at : &item->annotations_at;
}

/* The change becomes part of the item. */
static ledger_rc fold(struct ldg_pg_bulk *p, struct item *item, uint32_t i, ledger_error *err)
{
    const struct ldg_op *op = &p->b->ops[i];
    struct ldg_arena *arena = &p->b->sink->arena;
    struct span *span = span_of(item, op);
    ledger_pair *both;
    ledger_rc rc = LEDGER_OK;

    if (op->kind == LDG_OP_SET_TAGS) {
        item->tags = op;
    } else if (item->added) {
        rc = ldg_map_merge(item->annotations, op->annotations, arena, &item->annotations, err);
        item->annotated = true;
    } else if (!item->annotated) {
        item->annotations = op->annotations;
        item->annotated = true;
    } else { /* the later value of a key counts */
        size_t old = item->annotations.count, new = op->annotations.count;

        both = ldg_arena_calloc(arena, old + new, sizeof(*both));
        if (both == NULL)
            return ldg_fail_nomem(err);
        if (old > 0)
            memcpy(both, item->annotations.items, old * sizeof(*both));
        if (new > 0)
            memcpy(both + old, op->annotations.items, new * sizeof(*both));
        rc = ldg_map_sort((ledger_map){ both, old + new }, arena, &item->annotations, err);
    }
    if (span->last == 0)
        span->first = op->position;
    span->last = op->position;
    item->changed = true;
    if (op->position >= item->tags_at.last && op->position >= item->annotations_at.last)
        item->time_us = ldg_pg_op_time(p->b, op);
    p->before[i] = item->last_change;
    item->last_change = i;
    return rc;
}

static ledger_rc plan_change(struct ldg_pg_bulk *p, uint32_t i, ledger_error *err)
{
    const struct ldg_op *op = &p->b->ops[i];
    uint32_t *slot = item_slot(p, op);
    struct item *item = *slot != 0 ? &p->items[*slot - 1] : NULL;
    ledger_rc rc = LEDGER_OK;

    if (item != NULL && item->added) {
        if (item->trimmed || strcmp(item->op->stream, op->stream) != 0) {
            p->b->outcomes[i] = LDG_OUTCOME_MISSING;
        } else if (op->position <= span_of(item, op)->last) {
            p->b->outcomes[i] = LDG_OUTCOME_REPLAYED;
        } else {
            rc = fold(p, item, i, err);
            p->b->outcomes[i] = LDG_OUTCOME_APPLIED;
            p->b->ids[i] = p->b->ids[item->index];
        }
    } else if (is_trimmed(p, op)) {
        p->b->outcomes[i] = LDG_OUTCOME_MISSING;
    } else if (item == NULL) {
        *slot = ++p->item_count;
        item = &p->items[p->item_count - 1];
        *item = (struct item){ .op = op, .index = i, .last_change = NONE, .next = NONE };
        p->stored_count++;
        rc = fold(p, item, i, err);
    } else if (op->position <= span_of(item, op)->last ||
               strcmp(item->op->stream, op->stream) != 0) {
        p->fits = false;
    } else {
        rc = fold(p, item, i, err);
    }
    return rc;
}

static void plan_trim(struct ldg_pg_bulk *p, uint32_t i)
{
    struct ldg_pg_batch *b = p->b;
    struct group *group = group_of(p, &b->ops[i]);
    uint32_t *link = &group->first, last = NONE;

    while (*link != NONE) {
        struct item *item = &p->items[*link];

        if (!ldg_op_trims(&b->ops[i], item->op->key)) {
            last = *link;
            link = &item->next;
        } else {
            item->trimmed = true;
            p->trimmed_count++;
            if (b->ids[item->index] > b->ids[i])
                b->ids[i] = b->ids[item->index];
            *link = item->next;
        }
    }
    group->last = last;
    if (b->ops[i].key.number > group->trimmed)
        group->trimmed = b->ops[i].key.number;
    p->before[i] = group->last_trim;
    group->last_trim = i;
}

bool ldg_pg_bulk_suits(const struct ldg_op *ops, size_t count)
{
    bool suits = count > 0 && count < UINT32_MAX / 8;

    for (size_t i = 0; suits && i < count; i++) {
        switch (ops[i].kind) {
        case LDG_OP_APPEND:
            suits = ops[i].origin > 0;
            break;
        case LDG_OP_SET_TAGS:
        case LDG_OP_SET_ANNOTATIONS:
            suits = ops[i].mutation_origin == 0 || ldg_pg_op_is_guarded(&ops[i]);
            break;
        case LDG_OP_TRIM:
            break;
        case LDG_OP_PARK:
        default:
            suits = false;
            break;
        }
    }
    return suits;
}

static ledger_rc plan_init(struct ldg_pg_bulk *p, ledger_error *err)
{
    struct ldg_pg_batch *b = p->b;
    struct ldg_arena *arena = &b->sink->arena;
    size_t slots = 64;

    for (size_t i = 0; i < b->count && !p->has_trims; i++)
        p->has_trims = b->ops[i].kind == LDG_OP_TRIM;
    while (slots < 2 * b->count)
        slots *= 2;
    p->mask = slots - 1;
    p->items = ldg_arena_alloc(arena, b->count * sizeof(*p->items));
    p->before = ldg_arena_alloc(arena, b->count * sizeof(*p->before));
    p->item_slots = ldg_arena_calloc(arena, slots, sizeof(*p->item_slots));
    if (p->has_trims) {
        p->groups = ldg_arena_alloc(arena, b->count * sizeof(*p->groups));
        p->group_slots = ldg_arena_calloc(arena, slots, sizeof(*p->group_slots));
        p->key_slots = ldg_arena_calloc(arena, slots, sizeof(*p->key_slots));
    }
    if (p->items == NULL || p->before == NULL || p->item_slots == NULL ||
        (p->has_trims && (p->groups == NULL || p->group_slots == NULL || p->key_slots == NULL)))
        return ldg_fail_nomem(err);
    return LEDGER_OK;
}

static ledger_rc plan_make(struct ldg_pg_bulk *p, ledger_error *err)
{
    struct ldg_pg_batch *b = p->b;
    ledger_rc rc = plan_init(p, err);

    for (uint32_t i = 0; rc == LEDGER_OK && p->fits && i < b->count; i++) {
        const struct ldg_op *op = &b->ops[i];

        b->ids[i] = 0;
        if (op->kind == LDG_OP_APPEND)
            plan_append(p, i);
        else if (ldg_op_came_round(op))
            b->outcomes[i] = LDG_OUTCOME_REPLAYED;
        else if (op->kind == LDG_OP_TRIM)
            plan_trim(p, i);
        else
            rc = plan_change(p, i, err);
    }
    if (rc == LEDGER_OK && !p->fits)
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "the batch names an entry twice");
    return rc;
}

ledger_rc ldg_pg_bulk_plan(struct ldg_pg_batch *b, ledger_error *err)
{
    struct ldg_pg_bulk *p = ldg_arena_alloc(&b->sink->arena, sizeof(*p));

    if (p == NULL)
        return ldg_fail_nomem(err);
    *p = (struct ldg_pg_bulk){ .b = b, .fits = true, .only_adds = b->append_count == b->count };
    b->bulk = p;
    if (!p->only_adds)
        return plan_make(p, err);
    for (size_t i = 0; i < b->count; i++) {
        b->ids[i] = b->drawn[i];
        b->outcomes[i] = LDG_OUTCOME_APPLIED;
    }
    return LEDGER_OK;
}

/* A trim would delete an entry that the batch adds behind it, though it lies below; and whether the
 * key of one that is added and trimmed was free can be seen only before it is used again. */
bool ldg_pg_bulk_may_add_first(const struct ldg_pg_batch *b)
{
    const struct ldg_pg_bulk *p = b->bulk;
    bool may = !p->key_again;

    for (uint32_t g = 0; g < p->group_count && may; g++) {
        const struct group *group = &p->groups[g];

        for (uint32_t at = group->first; at != NONE && may; at = p->items[at].next)
            may = p->items[at].op->key.number > group->trimmed;
    }
    return may;
}

/* --- rows ------------------------------------------------------------------------------------ */

static ledger_rc copy_tags(struct ldg_pg_copy *c, struct ldg_pg_batch *b, ledger_list tags,
                           ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (tags.count == 0) {
        ldg_pg_copy_json(c, "[]", 2);
    } else {
        rc = ldg_pg_put_list(&b->sink->text, tags, err);
        if (rc == LEDGER_OK)
            ldg_pg_copy_json(c, b->sink->text.data, b->sink->text.size);
    }
    return rc;
}

static ledger_rc copy_map(struct ldg_pg_copy *c, struct ldg_pg_batch *b, ledger_map map, bool null,
                          ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (null) {
        ldg_pg_copy_null(c);
    } else {
        rc = ldg_pg_put_map(&b->sink->text, map, &b->sink->arena, err);
        if (rc == LEDGER_OK)
            ldg_pg_copy_json(c, b->sink->text.data, b->sink->text.size);
    }
    return rc;
}

/* Columns that most rows leave to their defaults cost the server time: JSON is parsed. So rows come
 * in one COPY per set of columns; their ids are drawn, so their order does not matter. */
enum columns { COLUMNS_BARE, COLUMNS_METADATA, COLUMNS_ALL, COLUMNS_COUNT };
#define ROW_COLUMNS                                                                                \
    "id, stream, payload, order_key, dedup_key, schema_version, created_at, origin, source_pos"
#define MORE_COLUMNS ", metadata, tags, annotations, updated_at, tags_pos, annotations_pos"
#define COPY_ENTRIES(columns) "COPY \"{t}\" (" ROW_COLUMNS columns ") FROM STDIN (FORMAT binary)"
/* [1]: where the rows of some origin carry their source_id */
static const char *const copy_entries[2][COLUMNS_COUNT] = {
    { COPY_ENTRIES(""), COPY_ENTRIES(", metadata"), COPY_ENTRIES(MORE_COLUMNS) },
    { COPY_ENTRIES(", source_id"), COPY_ENTRIES(", source_id, metadata"),
      COPY_ENTRIES(", source_id" MORE_COLUMNS) },
};
static const int column_counts[COLUMNS_COUNT] = { 9, 10, 15 };

/* item NULL: the append as it is. */
static enum columns columns_of(const struct ldg_op *op, const struct item *item)
{
    if (op->entry->tags.count > 0 || (item != NULL && item->changed))
        return COLUMNS_ALL;
    return op->entry->metadata.count > 0 ? COLUMNS_METADATA : COLUMNS_BARE;
}

static void copy_position(struct ldg_pg_copy *c, int64_t position)
{
    if (position != 0)
        ldg_pg_copy_int64(c, position);
    else
        ldg_pg_copy_null(c);
}

static ledger_rc copy_entry(struct ldg_pg_copy *c, struct ldg_pg_batch *b, size_t i,
                            const struct item *item, enum columns columns, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    const ledger_append_entry *entry = op->entry;
    const bool changed = item != NULL && item->changed;
    char source_id[LDG_PG_SOURCE_ID_MAX];
    ledger_rc rc = LEDGER_OK;

    ldg_pg_copy_row(c, column_counts[columns] + (b->go_origin != 0));
    ldg_pg_copy_int64(c, b->drawn[i]);
    ldg_pg_copy_text(c, op->stream);
    ldg_pg_copy_bytes(c, entry->payload.data, entry->payload.size);
    ldg_pg_copy_text(c, entry->order_key);
    ldg_pg_copy_text(c, entry->dedup_key);
    ldg_pg_copy_int32(c, entry->schema_version);
    ldg_pg_copy_time(c, ldg_pg_op_time(b, op));
    ldg_pg_copy_int32(c, op->origin);
    ldg_pg_copy_int64(c, op->key.number);
    if (b->go_origin != 0)
        ldg_pg_copy_text(c, ldg_pg_op_source_id(b, op, source_id));
    if (columns != COLUMNS_BARE)
        rc = copy_map(c, b, entry->metadata, entry->metadata.count == 0, err);
    if (columns == COLUMNS_ALL) {
        if (rc == LEDGER_OK)
            rc = copy_tags(c, b, changed && item->tags != NULL ? item->tags->tags : entry->tags,
                           err);
        if (rc == LEDGER_OK)
            rc = copy_map(c, b, changed ? item->annotations : (ledger_map){ NULL, 0 },
                          !changed || !item->annotated, err);
        if (changed)
            ldg_pg_copy_time(c, item->time_us);
        else
            ldg_pg_copy_null(c);
        copy_position(c, changed ? item->tags_at.last : 0);
        copy_position(c, changed ? item->annotations_at.last : 0);
    }
    return rc != LEDGER_OK ? rc : c->rc;
}

/* The rows of one set of columns. items NULL: every op is an append. */
static ledger_rc copy_some(struct ldg_pg_batch *b, const struct item *items, size_t count,
                           enum columns columns, ledger_error *err)
{
    struct ldg_pg_copy c;
    bool open = false;
    ledger_rc rc = LEDGER_OK;

    for (size_t n = 0; rc == LEDGER_OK && n < count; n++) {
        const struct item *item = items != NULL ? &items[n] : NULL;
        const size_t i = item != NULL ? item->index : n;

        if ((item != NULL && (!item->added || item->trimmed)) ||
            columns_of(&b->ops[i], item) != columns)
            continue;
        if (!open)
            rc = ldg_pg_copy_open(&c, b, copy_entries[b->go_origin != 0][columns], err);
        open = true;
        if (rc == LEDGER_OK)
            rc = copy_entry(&c, b, i, item, columns, err);
    }
    if (open && rc == LEDGER_OK)
        rc = ldg_pg_copy_close(&c, err);
    return rc;
}

ledger_rc ldg_pg_bulk_add(struct ldg_pg_batch *b, ledger_error *err)
{
    const struct ldg_pg_bulk *p = b->bulk;
    ledger_rc rc = LEDGER_OK;

    for (enum columns columns = 0; rc == LEDGER_OK && columns < COLUMNS_COUNT; columns++)
        rc = copy_some(b, p->only_adds ? NULL : p->items, p->only_adds ? b->count : p->item_count,
                       columns, err);
    return rc;
}

/* --- changes of what is in the table --------------------------------------------------------- */

/* $1 origin, $2 source_pos, $3 stream, $4 tags, $5 annotations that are set, $6 keys that go,
 * $7 first and $8 last position of tags, $9 and $10 of annotations (null: no change), $11 time.
 * Rows: n, id here (null: none), last positions of tags and annotations there, whether it was
 * changed. */
static const char change_entries[] =
    "WITH x AS MATERIALIZED (SELECT * FROM unnest($1::int4[], $2::int8[], $3::text[], $4::jsonb[], "
    "$5::jsonb[], $6::jsonb[], $7::int8[], $8::int8[], $9::int8[], $10::int8[], "
    "$11::timestamptz[]) WITH ORDINALITY AS x(origin, pos, stream, tags, sets, unsets, "
    "tags_first, tags_last, sets_first, sets_last, at, n)), "
    "u AS (UPDATE \"{t}\" AS e SET tags = coalesce(x.tags, e.tags), "
    "annotations = CASE WHEN x.sets IS NULL THEN e.annotations ELSE "
    "(CASE WHEN jsonb_typeof(e.annotations) = 'object' THEN CASE WHEN x.unsets IS NULL "
    "THEN e.annotations ELSE e.annotations - ARRAY(SELECT jsonb_array_elements_text(x.unsets)) END "
    "ELSE '{}'::jsonb END) || x.sets END, tags_pos = coalesce(x.tags_last, e.tags_pos), "
    "annotations_pos = coalesce(x.sets_last, e.annotations_pos), updated_at = "
    "CASE WHEN greatest(e.tags_pos, e.annotations_pos) > greatest(x.tags_last, x.sets_last) "
    "THEN e.updated_at ELSE x.at END FROM x "
    "WHERE e.origin = x.origin AND e.source_pos = x.pos AND e.stream = x.stream "
    "AND (x.tags IS NULL OR coalesce(e.tags_pos, e.mutation_pos, 0) < x.tags_first) "
    "AND (x.sets IS NULL OR coalesce(e.annotations_pos, e.mutation_pos, 0) < x.sets_first) "
    "AND (x.sets IS NULL OR e.annotations IS NULL OR CASE jsonb_typeof(e.annotations) "
    "WHEN 'null' THEN true WHEN 'object' THEN NOT jsonb_path_exists(e.annotations, '$.* ? "
    "(@.type() != \"string\")') "
    "ELSE false END) RETURNING x.n, e.id) "
    "SELECT n, id, NULL::int8, NULL::int8, true FROM u UNION ALL "
    "SELECT x.n, e.id, coalesce(e.tags_pos, e.mutation_pos, 0), "
    "coalesce(e.annotations_pos, e.mutation_pos, 0), false FROM x LEFT JOIN \"{t}\" AS e "
    "ON e.origin = x.origin AND e.source_pos = x.pos AND e.stream = x.stream "
    "WHERE x.n NOT IN (SELECT u.n FROM u)";

static void put_position(struct ldg_buf *array, int64_t position)
{
    if (position != 0)
        ldg_pg_array_int64(array, position);
    else
        ldg_pg_array_text(array, NULL);
}

static ledger_rc put_item(struct ldg_pg_bulk *p, const struct item *item, struct ldg_buf *a,
                          ledger_error *err)
{
    struct ldg_pg_sink *sink = p->b->sink;
    ledger_map set = { NULL, 0 };
    ledger_list unset = { NULL, 0 };
    ledger_rc rc = LEDGER_OK;

    ldg_pg_array_int32(&a[0], item->op->origin);
    ldg_pg_array_int64(&a[1], item->op->key.number);
    ldg_pg_array_text(&a[2], item->op->stream);
    if (item->tags != NULL)
        rc = ldg_pg_put_list(&sink->text, item->tags->tags, err);
    if (rc == LEDGER_OK && item->annotated)
        rc = ldg_pg_split_map(item->annotations, &sink->arena, &set, &unset, err);
    if (rc != LEDGER_OK)
        return rc;
    ldg_pg_array_jsonb(&a[3], item->tags != NULL ? sink->text.data : NULL, sink->text.size);
    if (item->annotated)
        rc = ldg_pg_put_map(&sink->text, set, &sink->arena, err);
    if (rc == LEDGER_OK && unset.count > 0)
        rc = ldg_pg_put_list(&sink->more_text, unset, err);
    if (rc != LEDGER_OK)
        return rc;
    ldg_pg_array_jsonb(&a[4], item->annotated ? sink->text.data : NULL, sink->text.size);
    ldg_pg_array_jsonb(&a[5], unset.count > 0 ? sink->more_text.data : NULL, sink->more_text.size);
    put_position(&a[6], item->tags_at.first);
    put_position(&a[7], item->tags_at.last);
    put_position(&a[8], item->annotations_at.first);
    put_position(&a[9], item->annotations_at.last);
    ldg_pg_array_time(&a[10], item->time_us);
    return LEDGER_OK;
}

static ledger_rc send_changes(struct ldg_pg_bulk *p, ledger_error *err)
{
    static const Oid elements[LDG_PG_ARRAYS] = { LDG_PG_INT4,  LDG_PG_INT8,       LDG_PG_TEXT,
                                                 LDG_PG_JSONB, LDG_PG_JSONB,      LDG_PG_JSONB,
                                                 LDG_PG_INT8,  LDG_PG_INT8,       LDG_PG_INT8,
                                                 LDG_PG_INT8,  LDG_PG_TIMESTAMPTZ };
    static const Oid types[LDG_PG_ARRAYS] = {
        LDG_PG_INT4_ARRAY,  LDG_PG_INT8_ARRAY,  LDG_PG_TEXT_ARRAY,       LDG_PG_JSONB_ARRAY,
        LDG_PG_JSONB_ARRAY, LDG_PG_JSONB_ARRAY, LDG_PG_INT8_ARRAY,       LDG_PG_INT8_ARRAY,
        LDG_PG_INT8_ARRAY,  LDG_PG_INT8_ARRAY,  LDG_PG_TIMESTAMPTZ_ARRAY
    };
    struct ldg_buf *arrays = p->b->sink->arrays;
    struct ldg_pg_args args = { 0 };
    ledger_rc rc = LEDGER_OK;

    for (int i = 0; i < LDG_PG_ARRAYS; i++)
        ldg_pg_array_begin(&arrays[i], elements[i]);
    for (uint32_t i = 0; rc == LEDGER_OK && i < p->item_count; i++) {
        if (!p->items[i].added)
            rc = put_item(p, &p->items[i], arrays, err);
    }
    for (int i = 0; i < LDG_PG_ARRAYS; i++) {
        ldg_pg_array_end(&arrays[i], p->stored_count);
        ldg_pg_arg_array(&args, types[i], &arrays[i]);
    }
    if (rc == LEDGER_OK)
        rc = ldg_pg_pipe_send(p->b->pg, "changing entries", change_entries, &args, err);
    return rc;
}

/* What became of the changes of one entry. */
static ledger_rc take_change(struct ldg_pg_bulk *p, const struct item *item, const PGresult *result,
                             int row, ledger_error *err)
{
    struct ldg_pg_batch *b = p->b;
    const int64_t id = ldg_pg_get_int64(result, row, 1);
    uint8_t outcome = LDG_OUTCOME_APPLIED;

    if (!ldg_pg_get_bool(result, row, 4)) {
        outcome = id == 0 ? LDG_OUTCOME_MISSING : LDG_OUTCOME_REPLAYED;
        /* Some of them are old, some are not; or there is nothing to merge with. */
        if (id != 0 && (ldg_pg_get_int64(result, row, 2) < item->tags_at.last ||
                        ldg_pg_get_int64(result, row, 3) < item->annotations_at.last))
            return ldg_fail(err, LEDGER_ERR_REJECTED, "a change was applied before, another not");
    }
    for (uint32_t i = item->last_change; i != NONE; i = p->before[i]) {
        b->outcomes[i] = outcome;
        b->ids[i] = outcome == LDG_OUTCOME_APPLIED ? id : 0;
    }
    return LEDGER_OK;
}

static ledger_rc take_changes(struct ldg_pg_bulk *p, const PGresult *result, ledger_error *err)
{
    uint32_t *numbers = ldg_arena_alloc(&p->b->sink->arena, p->stored_count * sizeof(*numbers));
    uint32_t count = 0;
    ledger_rc rc = LEDGER_OK;

    if (numbers == NULL)
        return ldg_fail_nomem(err);
    for (uint32_t i = 0; i < p->item_count; i++) {
        if (!p->items[i].added)
            numbers[count++] = i;
    }
    if ((uint32_t)PQntuples(result) != count)
        rc = ldg_fail(err, LEDGER_ERR_REJECTED, "another transaction changes the same entries");
    for (uint32_t row = 0; rc == LEDGER_OK && row < count; row++) {
        int64_t n = ldg_pg_get_int64(result, (int)row, 0);

        rc = take_change(p, &p->items[numbers[n - 1]], result, (int)row, err);
    }
    return rc;
}

/* --- trims ----------------------------------------------------------------------------------- */

/* Entries that are added and trimmed in the batch are left out; but had one of them a key that is
 * there, its outcome is another. */
static ledger_rc send_left_out(struct ldg_pg_bulk *p, ledger_error *err)
{
    static const char find[] =
        "SELECT count(*) FROM unnest($1::int4[], $2::int8[], $3::text[], $4::text[]) "
        "AS x(origin, pos, stream, key) WHERE EXISTS (SELECT FROM \"{t}\" AS e "
        "WHERE e.origin = x.origin AND e.source_pos = x.pos) OR (x.key <> '' AND EXISTS ("
        "SELECT FROM \"{t}\" AS e WHERE e.stream = x.stream AND e.dedup_key = x.key "
        "AND e.dedup_key <> ''))";
    struct ldg_buf *a = p->b->sink->arrays;
    struct ldg_pg_args args = { 0 };

    ldg_pg_array_begin(&a[0], LDG_PG_INT4);
    ldg_pg_array_begin(&a[1], LDG_PG_INT8);
    ldg_pg_array_begin(&a[2], LDG_PG_TEXT);
    ldg_pg_array_begin(&a[3], LDG_PG_TEXT);
    for (uint32_t i = 0; i < p->item_count; i++) {
        const struct item *item = &p->items[i];

        if (!item->trimmed)
            continue;
        ldg_pg_array_int32(&a[0], item->op->origin);
        ldg_pg_array_int64(&a[1], item->op->key.number);
        ldg_pg_array_text(&a[2], item->op->stream);
        ldg_pg_array_text(&a[3], item->op->entry->dedup_key);
    }
    for (int i = 0; i < 4; i++)
        ldg_pg_array_end(&a[i], p->trimmed_count);
    ldg_pg_arg_array(&args, LDG_PG_INT4_ARRAY, &a[0]);
    ldg_pg_arg_array(&args, LDG_PG_INT8_ARRAY, &a[1]);
    ldg_pg_arg_array(&args, LDG_PG_TEXT_ARRAY, &a[2]);
    ldg_pg_arg_array(&args, LDG_PG_TEXT_ARRAY, &a[3]);
    return ldg_pg_pipe_send(p->b->pg, "looking for entries", find, &args, err);
}

/* Keys of the group's entries that are added before op i. */
static size_t put_keys(const struct ldg_pg_bulk *p, const struct group *group, uint32_t i,
                       struct ldg_buf *keys)
{
    size_t count = 0;

    for (uint32_t at = group->first; at != NONE && p->items[at].index < i; at = p->items[at].next) {
        const char *key = p->items[at].op->entry->dedup_key;

        if (*key == '\0')
            continue;
        ldg_pg_array_text(keys, key);
        count++;
    }
    return count;
}

/* What the trim deletes must not have a key of an entry that is added before it, in its stream:
 * that one would not have come in. */
static ledger_rc send_trim(struct ldg_pg_bulk *p, uint32_t i, ledger_error *err)
{
    const struct ldg_op *op = &p->b->ops[i];
    struct ldg_buf *keys = &p->b->sink->arrays[1];
    struct ldg_pg_args args = { 0 };
    size_t count = 0;

    ldg_pg_array_begin(keys, LDG_PG_TEXT);
    if (!p->several_origins)
        count = put_keys(p, group_of(p, op), i, keys);
    for (uint32_t g = 0; p->several_origins && g < p->group_count; g++) {
        if (strcmp(p->groups[g].stream, op->stream) == 0)
            count += put_keys(p, &p->groups[g], i, keys);
    }
    ldg_pg_array_end(keys, count);
    ldg_pg_trim_args(p->b, op, keys, &args);
    return ldg_pg_pipe_send(p->b->pg, "trimming a stream", ldg_pg_trim_template(p->b, op), &args,
                            err);
}

static ledger_rc take_trim(struct ldg_pg_bulk *p, uint32_t i, ledger_error *err)
{
    struct ldg_pg_batch *b = p->b;
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_pipe_receive(b->pg, "trimming a stream", &result, err);

    if (rc == LEDGER_OK) {
        if (ldg_pg_get_int64(result, 0, 0) > b->ids[i])
            b->ids[i] = ldg_pg_get_int64(result, 0, 0);
        b->outcomes[i] = b->ids[i] > 0 ? LDG_OUTCOME_APPLIED : LDG_OUTCOME_REPLAYED;
        if (ldg_pg_get_int64(result, 0, 1) > 0)
            rc = ldg_fail(err, LEDGER_ERR_REJECTED, "an entry has the key of one that is trimmed");
        else if (ldg_pg_get_bool(result, 0, 2))
            rc = ldg_fail(err, LEDGER_ERR_REJECTED, "a trigger may keep what is trimmed");
    }
    PQclear(result);
    return rc;
}

static bool is_trim(const struct ldg_op *op)
{
    return op->kind == LDG_OP_TRIM && op->mutation_origin != 0;
}

/* Changes and trims, in one round trip. */
ledger_rc ldg_pg_bulk_change(struct ldg_pg_batch *b, ledger_error *err)
{
    struct ldg_pg_bulk *p = b->bulk;
    PGresult *result = NULL;
    ledger_error ignored;
    ledger_rc rc;

    if (p->stored_count == 0 && !p->has_trims)
        return LEDGER_OK;
    rc = ldg_pg_pipe_begin(b->pg, err);
    if (rc != LEDGER_OK)
        return rc;
    if (p->trimmed_count > 0)
        rc = send_left_out(p, err);
    if (rc == LEDGER_OK && p->stored_count > 0)
        rc = send_changes(p, err);
    for (uint32_t i = 0; rc == LEDGER_OK && p->has_trims && i < b->count; i++) {
        if (is_trim(&b->ops[i]))
            rc = send_trim(p, i, err);
    }
    if (rc == LEDGER_OK && p->trimmed_count > 0) {
        rc = ldg_pg_pipe_receive(b->pg, "looking for entries", &result, err);
        if (rc == LEDGER_OK && ldg_pg_get_int64(result, 0, 0) > 0)
            rc = ldg_fail(err, LEDGER_ERR_REJECTED, "an entry that is trimmed was here before");
        PQclear(result);
        result = NULL;
    }
    if (rc == LEDGER_OK && p->stored_count > 0) {
        rc = ldg_pg_pipe_receive(b->pg, "changing entries", &result, err);
        if (rc == LEDGER_OK)
            rc = take_changes(p, result, err);
        PQclear(result);
    }
    for (uint32_t i = 0; rc == LEDGER_OK && p->has_trims && i < b->count; i++) {
        if (is_trim(&b->ops[i]))
            rc = take_trim(p, i, err);
    }
    if (ldg_pg_pipe_end(b->pg, rc == LEDGER_OK ? err : &ignored) != LEDGER_OK && rc == LEDGER_OK)
        rc = err->code;
    return rc;
}
