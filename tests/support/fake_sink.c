#include "fake_sink.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "event/event.h"

/* --- tables ---------------------------------------------------------------------------------- */

static void state_copy(struct fake_state *to, const struct fake_state *from)
{
    memcpy(to->rows, from->rows, from->row_count * sizeof(from->rows[0]));
    memcpy(to->marks, from->marks, from->mark_count * sizeof(from->marks[0]));
    memcpy(to->parked, from->parked, from->parked_count * sizeof(from->parked[0]));
    memcpy(to->events, from->events, from->event_count * sizeof(from->events[0]));
    memcpy(to->disordered, from->disordered, sizeof(from->disordered));
    to->row_count = from->row_count;
    to->mark_count = from->mark_count;
    to->parked_count = from->parked_count;
    to->event_count = from->event_count;
}

struct fake *fake_new(void)
{
    struct fake *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->now = calloc(1, sizeof(*f->now));
    f->begun = calloc(1, sizeof(*f->begun));
    assert_true(f->now != NULL && f->begun != NULL);
    ldg_arena_init(&f->arena, 0);
    ldg_arena_init(&f->batch_arena, 0);
    return f;
}

void fake_free(struct fake *f)
{
    for (size_t i = 0; i < FAKE_SAVES_MAX; i++)
        free(f->saves[i]);
    free(f->now);
    free(f->begun);
    ldg_arena_fini(&f->arena);
    ldg_arena_fini(&f->batch_arena);
    free(f);
}

struct fake_row *fake_find(struct fake *f, int origin, ledger_id key)
{
    for (size_t i = 0; i < f->now->row_count; i++) {
        struct fake_row *row = &f->now->rows[i];

        if (row->origin == origin &&
            (origin == 0 ? key.text == NULL && row->id == key.number : ldg_id_equal(row->key, key)))
            return row;
    }
    return NULL;
}

static struct fake_row *find_dedup(struct fake *f, const char *stream, const char *key)
{
    for (size_t i = 0; *key != '\0' && i < f->now->row_count; i++) {
        struct fake_row *row = &f->now->rows[i];

        if (strcmp(row->entry->dedup_key, key) == 0 && strcmp(row->stream, stream) == 0)
            return row;
    }
    return NULL;
}

/* Rows are in order of id, as an index has them. */
static struct fake_row *insert(struct fake *f, const struct fake_row *row)
{
    struct fake_state *s = f->now;
    size_t at = s->row_count;

    assert_true(s->row_count < FAKE_ROWS_MAX);
    while (at > 0 && s->rows[at - 1].id > row->id)
        at--;
    assert_true(at == 0 || s->rows[at - 1].id != row->id);
    memmove(&s->rows[at + 1], &s->rows[at], (s->row_count - at) * sizeof(*row));
    s->rows[at] = *row;
    s->row_count++;
    return &s->rows[at];
}

struct fake_row *fake_put(struct fake *f, int origin, ledger_id key, const char *stream,
                          const ledger_append_entry *entry, int64_t created_at_us)
{
    const struct fake_row row = {
        .id = ++f->last_id,
        .origin = origin,
        .key = key,
        .stream = stream,
        .entry = entry,
        .created_at_us = created_at_us,
        .updated_at_us = LEDGER_NO_TIME,
        .tags = entry->tags,
    };

    return insert(f, &row);
}

static void delete_row(struct fake *f, struct fake_row *row)
{
    struct fake_state *s = f->now;
    const size_t at = (size_t)(row - s->rows);

    memmove(&s->rows[at], &s->rows[at + 1], (s->row_count - at - 1) * sizeof(*row));
    s->row_count--;
}

static void delete_parked(struct fake *f, size_t at)
{
    struct fake_state *s = f->now;

    memmove(&s->parked[at], &s->parked[at + 1], (s->parked_count - at - 1) * sizeof(s->parked[0]));
    s->parked_count--;
}

static ledger_rc rejected(struct fake *f, struct ldg_sink_batch *b, size_t index, const char *why,
                          ledger_error *err)
{
    if (f->tells && index != SIZE_MAX)
        b->culprit = index;
    return ldg_fail_native(err, LEDGER_ERR_REJECTED, "fake", 1, "%s", why);
}

static bool fails(const struct fake *f, const char *callback)
{
    return f->fail_callback != NULL && strcmp(f->fail_callback, callback) == 0;
}

/* --- answers --------------------------------------------------------------------------------- */

static bool same_text(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

/* What sink.h asks for, and no more. */
static bool concerns(const struct ldg_sink_parked *row, const struct ldg_op *op)
{
    const bool changes = op->kind == LDG_OP_SET_TAGS || op->kind == LDG_OP_SET_ANNOTATIONS;
    const bool keyed = op->kind == LDG_OP_APPEND && *op->entry->dedup_key != '\0';

    return (row->origin == op->origin && !ldg_id_is_none(op->key) &&
            ldg_id_equal(row->key, op->key)) ||
           row->log_position == op->log_position || (changes && ldg_id_is_none(row->key)) ||
           (keyed && ldg_op_may_trim(row->type_name) &&
            (*row->stream == '\0' || same_text(row->stream, op->stream)));
}

static ledger_rc find_parked(void *ctx, const struct ldg_op *ops, size_t count,
                             struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                             size_t *ret_count, ledger_error *err)
{
    struct fake *f = ctx;
    struct ldg_parked_row *rows = ldg_arena_calloc(arena, f->now->parked_count, sizeof(*rows));
    size_t found = 0;

    if (rows == NULL || fails(f, "find_parked"))
        return ldg_fail_nomem(err);
    for (size_t n = 0; n < f->now->parked_count; n++) {
        const struct ldg_sink_parked *row = &f->now->parked[n].row;
        bool any = f->shows_all;

        for (size_t i = 0; i < count && !any; i++)
            any = concerns(row, &ops[i]);
        if (!any)
            continue;
        rows[found] = (struct ldg_parked_row){
            .id = row->id,
            .log_position = row->log_position,
            .origin = row->origin,
            .key = row->key,
            .stream = row->stream,
            .type_name = row->type_name,
        };
        snprintf(rows[found++].source_uuid, sizeof(rows->source_uuid), "%s", row->source_uuid);
    }
    *ret_rows = rows;
    *ret_count = found;
    return LEDGER_OK;
}

static ledger_bytes bytes_of(const char *text)
{
    return (ledger_bytes){ text, strlen(text) };
}

static ledger_rc found(struct ldg_sink_batch *b, const struct fake_row *row, bool stored,
                       ledger_error *err)
{
    const ledger_append_entry *entry = row->entry;
    const struct ldg_stored content = {
        .stream = bytes_of(row->stream),
        .payload = entry->payload,
        .order_key = bytes_of(entry->order_key),
        .dedup_key = bytes_of(entry->dedup_key),
        .schema_version = entry->schema_version,
        .metadata = entry->metadata,
        .created_at_us = row->created_at_us,
    };
    const struct ldg_sink_found answer = {
        .origin = row->origin,
        .key = row->origin != 0 ? row->key : ldg_id_of(row->id),
        .id = row->id,
        .stream = row->stream,
        .dedup_key = entry->dedup_key,
        .tags_pos = row->tags_pos,
        .annotations_pos = row->annotations_pos,
        .unmergeable = row->unmergeable,
        .stored = stored ? &content : NULL,
    };

    return ldg_sink_found_entry(b, &answer, err);
}

static ledger_rc found_marks(struct fake *f, struct ldg_sink_batch *b, const struct fake_row *row,
                             ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; b->marks_any && rc == LEDGER_OK && i < f->now->mark_count; i++) {
        const struct fake_mark *mark = &f->now->marks[i];
        const struct ldg_sink_mark answer = {
            .origin = mark->origin,
            .kind = mark->kind,
            .position = mark->position,
        };

        if (mark->id == row->id)
            rc = ldg_sink_found_mark(b, row->origin,
                                     row->origin != 0 ? row->key : ldg_id_of(row->id), row->id,
                                     &answer, err);
    }
    return rc;
}

static ledger_rc found_strays(struct fake *f, struct ldg_sink_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (uint32_t n = 0; rc == LEDGER_OK && n < b->plan->item_count; n++) {
        const struct ldg_sink_item *item = &b->plan->items[n];

        rc = ldg_sink_found_mark(b, item->origin, item->key, item->id + 1000, f->stray_mark, err);
    }
    return rc == LEDGER_OK ? ldg_sink_found_mark(b, 7, ldg_id_of(INT64_MAX), 1, f->stray_mark, err)
                           : rc;
}

static ledger_rc look_up(void *ctx, struct ldg_sink_batch *b, ledger_error *err)
{
    struct fake *f = ctx;
    const uint32_t count = b->plan->item_count;
    ledger_rc rc = fails(f, "look_up") ? ldg_fail_nomem(err) : LEDGER_OK;

    f->looked_up++;
    for (uint32_t n = 0; rc == LEDGER_OK && n < count; n++) {
        const struct ldg_sink_item *item = &b->plan->items[n];
        const struct fake_row *row = fake_find(f, item->origin, item->key);

        if (row != NULL)
            rc = found(b, row, item->append != NULL, err);
    }
    for (size_t i = b->first; rc == LEDGER_OK && i < b->end; i++) {
        const struct ldg_op *op = &b->ops[i];
        const struct fake_row *row =
            op->kind == LDG_OP_APPEND ? find_dedup(f, op->stream, op->entry->dedup_key) : NULL;

        if (row != NULL)
            rc = found(b, row, false, err);
    }
    for (uint32_t n = 0; rc == LEDGER_OK && n < count; n++) {
        const struct ldg_sink_item *item = &b->plan->items[n];
        const struct fake_row *row = fake_find(f, item->origin, item->key);

        if (row != NULL)
            rc = found_marks(f, b, row, err);
    }
    return rc == LEDGER_OK && f->stray_mark != NULL ? found_strays(f, b, err) : rc;
}

/* --- changes --------------------------------------------------------------------------------- */

/* Is one of the ops that make up the item refused? SIZE_MAX: none. */
static size_t refused_of(const struct fake *f, const struct ldg_sink_batch *b,
                         const struct ldg_sink_item *item)
{
    size_t refused = SIZE_MAX;

    if (f->refuses == NULL)
        return SIZE_MAX;
    for (uint32_t i = item->last_change; i != LDG_SINK_NONE; i = b->plan->before[i - b->first]) {
        if (f->refuses(f->refuses_ctx, &b->ops[i]))
            refused = i;
    }
    return refused;
}

static ledger_map copy_map(struct fake *f, ledger_map map)
{
    ledger_pair *items = ldg_arena_memdup(&f->arena, map.items, map.count * sizeof(*items));

    assert_non_null(items);
    return (ledger_map){ items, map.count };
}

/* What the batch gives, the row keeps: names and values are the ops' own. */
static void change_row(struct fake *f, struct fake_row *row, const struct ldg_sink_item *item,
                       bool informed)
{
    const int64_t had = row->tags_pos > row->annotations_pos ? row->tags_pos : row->annotations_pos;
    const int64_t has = item->tags_at.last > item->annotations_at.last ? item->tags_at.last
                                                                       : item->annotations_at.last;
    ledger_error err;
    ledger_map merged;

    if (item->tags != NULL)
        row->tags = item->tags->tags;
    if (item->annotated) {
        assert_int_equal(
            ldg_map_merge(row->annotations, item->annotations, &f->arena, &merged, &err),
            LEDGER_OK);
        row->annotations = copy_map(f, merged);
    }
    if (item->tags_at.last != 0)
        row->tags_pos = item->tags_at.last;
    if (item->annotations_at.last != 0)
        row->annotations_pos = item->annotations_at.last;
    if (item->time_us != LEDGER_NO_TIME && (informed || had <= has))
        row->updated_at_us = item->time_us;
}

static bool is_newer(const struct ldg_sink_span *span, int64_t position)
{
    return span->last == 0 || position < span->first;
}

static ledger_rc change_item(struct fake *f, struct ldg_sink_batch *b,
                             const struct ldg_sink_item *item, ledger_error *err)
{
    struct fake_row *row = fake_find(f, item->origin, item->key);
    const size_t refused = refused_of(f, b, item);
    bool changes;

    if (row != NULL && strcmp(row->stream, item->stream) != 0)
        row = NULL;
    if (b->plan->informed) { /* what was looked up is so */
        assert_non_null(row);
        assert_int_equal(row->id, item->id);
        assert_int_equal(row->tags_pos, item->tags_pos);
        assert_int_equal(row->annotations_pos, item->annotations_pos);
    }
    if (row == NULL)
        return ldg_sink_changed(b, item, false, 0, 0, 0, err);
    if (f->is_beaten)
        return ldg_sink_changed(b, item, false, row->id, row->tags_pos, row->annotations_pos, err);
    changes = is_newer(&item->tags_at, row->tags_pos) &&
              is_newer(&item->annotations_at, row->annotations_pos) &&
              !(item->annotated && row->unmergeable);
    if (changes && refused != SIZE_MAX)
        return rejected(f, b, refused, "the change is refused", err);
    if (changes)
        change_row(f, row, item, b->plan->informed);
    return ldg_sink_changed(b, item, changes, row->id, row->tags_pos, row->annotations_pos, err);
}

/* Added and trimmed in one batch: had it come in? */
static ledger_rc check_unseen(struct fake *f, struct ldg_sink_batch *b, ledger_error *err)
{
    for (uint32_t n = 0; n < b->plan->item_count; n++) {
        const struct ldg_sink_item *item = &b->plan->items[n];

        if (item->unseen && (fake_find(f, item->origin, item->key) != NULL ||
                             find_dedup(f, item->stream, item->dedup_key) != NULL))
            return rejected(f, b, SIZE_MAX, "an entry that is trimmed was here before", err);
    }
    return LEDGER_OK;
}

static int64_t trim_rows(struct fake *f, struct ldg_sink_batch *b, size_t i, bool *ret_key)
{
    const struct ldg_op *op = &b->ops[i];
    const bool ordered = ldg_sink_is_ordered(b, op->origin);
    int64_t highest = 0;
    bool ended = false;

    *ret_key = false;
    for (size_t n = 0; n < f->now->row_count;) {
        struct fake_row *row = &f->now->rows[n];
        const ledger_id key = op->origin != 0 ? row->key : ldg_id_of(row->id);

        n++;
        if (row->origin != op->origin || strcmp(row->stream, op->stream) != 0)
            continue;
        ended = ended || (ordered && !ldg_id_is_up_to(key, op->key));
        if (!ldg_op_trims(op, key))
            continue;
        assert_false(ended); /* else a trim that ends there leaves this one */
        *ret_key = *ret_key || ldg_sink_adds_key_before(b, i, row->entry->dedup_key);
        highest = row->id;
        delete_row(f, row);
        n--;
    }
    f->ended_early += ended;
    return highest;
}

static bool trim_parked(struct fake *f, const struct ldg_op *op)
{
    bool any = false;

    for (size_t n = 0; n < f->now->parked_count;) {
        const struct ldg_sink_parked *row = &f->now->parked[n].row;

        if (row->origin == op->origin && !ldg_id_is_none(row->key) &&
            same_text(row->stream, op->stream) && ldg_op_trims(op, row->key)) {
            delete_parked(f, n);
            any = true;
        } else {
            n++;
        }
    }
    return any;
}

static ledger_rc trim(struct fake *f, struct ldg_sink_batch *b, size_t i, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    int64_t highest;
    bool key;

    if (f->refuses != NULL && f->refuses(f->refuses_ctx, op))
        return rejected(f, b, i, "the trim is refused", err);
    highest = trim_rows(f, b, i, &key);
    if (key)
        return rejected(f, b, SIZE_MAX, "an entry has the key of one that is trimmed", err);
    ldg_sink_trimmed(b, i, highest, trim_parked(f, op));
    return LEDGER_OK;
}

static ledger_rc unpark(void *ctx, struct ldg_sink_batch *b, ledger_error *err)
{
    struct fake *f = ctx;

    if (fails(f, "unpark"))
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < b->plan->unparked_count; i++) {
        for (size_t n = 0; n < f->now->parked_count; n++) {
            if (f->now->parked[n].row.id == b->plan->unparked[i])
                delete_parked(f, n--);
        }
    }
    return LEDGER_OK;
}

static ledger_rc change(void *ctx, struct ldg_sink_batch *b, ledger_error *err)
{
    struct fake *f = ctx;
    const struct ldg_sink_plan *p = b->plan;
    uint32_t changes = 0, trims = 0, unseen = 0;
    ledger_rc rc = fails(f, "change") ? ldg_fail_nomem(err) : check_unseen(f, b, err);

    for (uint32_t n = 0; rc == LEDGER_OK && n < p->item_count; n++) {
        unseen += p->items[n].unseen;
        if (!ldg_sink_changes(&p->items[n]))
            continue;
        changes++;
        rc = change_item(f, b, &p->items[n], err);
    }
    for (size_t i = b->first; rc == LEDGER_OK && i < b->end; i++) {
        if (!ldg_sink_trims(b, i))
            continue;
        trims++;
        rc = trim(f, b, i, err);
    }
    if (rc == LEDGER_OK) { /* arrays are sized by these */
        assert_int_equal(changes, p->change_count);
        assert_int_equal(trims, p->trim_count);
        assert_int_equal(unseen, p->unseen_count);
    }
    return rc;
}

/* --- rows ------------------------------------------------------------------------------------ */

static ledger_rc add_one(struct fake *f, struct ldg_sink_batch *b, struct ldg_sink_item *item,
                         size_t i, ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    const size_t refused = item != NULL ? refused_of(f, b, item) : SIZE_MAX;
    struct fake_row row = {
        .origin = op->origin,
        .key = op->key,
        .stream = op->stream,
        .entry = op->entry,
        .created_at_us = ldg_sink_time(b, op),
        .updated_at_us = LEDGER_NO_TIME,
        .tags = op->entry->tags,
    };

    assert_int_equal(op->kind, LDG_OP_APPEND);
    if (fake_find(f, op->origin, op->key) != NULL)
        return rejected(f, b, i, "the entry is here", err);
    if (find_dedup(f, op->stream, op->entry->dedup_key) != NULL)
        return rejected(f, b, i, "the dedup key is here", err);
    if (f->refuses != NULL && f->refuses(f->refuses_ctx, op))
        return rejected(f, b, i, "the entry is refused", err);
    if (refused != SIZE_MAX)
        return rejected(f, b, refused, "the change is refused", err);
    row.id = b->reserved != NULL ? b->reserved[i] : ++f->last_id;
    if (item != NULL && item->changed) {
        if (item->tags != NULL)
            row.tags = item->tags->tags;
        if (item->annotated)
            row.annotations = copy_map(f, item->annotations);
        row.tags_pos = item->tags_at.last;
        row.annotations_pos = item->annotations_at.last;
        row.updated_at_us = item->time_us;
    }
    insert(f, &row);
    if (b->reserved == NULL)
        ldg_sink_added(b, item, i, row.id);
    return LEDGER_OK;
}

static ledger_rc add(void *ctx, struct ldg_sink_batch *b, ledger_error *err)
{
    struct fake *f = ctx;
    struct ldg_sink_item *item;
    size_t at = 0, i, last = 0;
    uint32_t count = 0;
    ledger_rc rc = fails(f, "add") ? ldg_fail_nomem(err) : LEDGER_OK;

    while (rc == LEDGER_OK && ldg_sink_next_add(b, &at, &item, &i)) {
        assert_true(count == 0 || i > last); /* in order of the log */
        last = i;
        count++;
        rc = add_one(f, b, item, i, err);
    }
    if (rc == LEDGER_OK)
        assert_int_equal(count, b->plan->add_count);
    return rc;
}

static void put_mark(struct fake *f, int64_t id, const struct ldg_sink_mark *mark)
{
    struct fake_state *s = f->now;
    size_t at = 0;

    while (at < s->mark_count && (s->marks[at].id != id || s->marks[at].origin != mark->origin ||
                                  s->marks[at].kind != mark->kind))
        at++;
    assert_true(at < FAKE_MARKS_MAX);
    s->mark_count += at == s->mark_count;
    s->marks[at] = (struct fake_mark){
        .id = id,
        .position = mark->position,
        .origin = mark->origin,
        .kind = mark->kind,
    };
}

static ledger_rc note(void *ctx, struct ldg_sink_batch *b, ledger_error *err)
{
    struct fake *f = ctx;
    uint32_t marks = 0;

    if (fails(f, "note"))
        return ldg_fail_nomem(err);
    for (uint32_t n = 0; n < b->plan->item_count; n++) {
        const struct ldg_sink_item *item = &b->plan->items[n];

        for (const struct ldg_sink_mark *mark = item->marks; mark != NULL; mark = mark->next) {
            if (!mark->is_new)
                continue;
            assert_true(item->id > 0);
            put_mark(f, item->id, mark);
            marks++;
        }
    }
    assert_int_equal(marks, b->plan->mark_count);
    return LEDGER_OK;
}

static ledger_rc park(void *ctx, const struct ldg_op *op, const char *reason, bool *ret_new,
                      ledger_error *err)
{
    struct fake *f = ctx;
    struct fake_state *s = f->now;
    size_t at = 0;

    if (fails(f, "park"))
        return ldg_fail_nomem(err);
    while (at < s->parked_count && (s->parked[at].row.log_position != op->log_position ||
                                    !ldg_id_equal(s->parked[at].row.key, op->key) ||
                                    strcmp(s->parked[at].row.source_uuid, op->source_uuid) != 0))
        at++;
    assert_true(at < FAKE_PARKED_MAX);
    *ret_new = at == s->parked_count;
    if (*ret_new) {
        s->parked_count++;
        s->parked[at] = (struct fake_parked){ .row.id = ++f->last_parked_id };
    }
    s->parked[at].row = (struct ldg_sink_parked){
        .id = s->parked[at].row.id,
        .source_uuid = op->source_uuid,
        .log_position = op->log_position,
        .origin = op->origin,
        .key = op->key,
        .stream = op->stream,
        .type_name = op->type_name,
    };
    s->parked[at].attempts++;
    s->parked[at].reason = ldg_arena_strdup(&f->arena, reason);
    return LEDGER_OK;
}

/* --- savepoints ------------------------------------------------------------------------------ */

static ledger_rc save(void *ctx, ledger_error *err)
{
    struct fake *f = ctx;

    if (fails(f, "save"))
        return ldg_fail_nomem(err);
    assert_true(f->save_count < FAKE_SAVES_MAX);
    if (f->saves[f->save_count] == NULL)
        f->saves[f->save_count] = calloc(1, sizeof(*f->now));
    assert_non_null(f->saves[f->save_count]);
    state_copy(f->saves[f->save_count++], f->now);
    f->ranges++;
    return LEDGER_OK;
}

static ledger_rc release(void *ctx, ledger_error *err)
{
    struct fake *f = ctx;

    assert_true(f->save_count > 0);
    f->save_count--;
    return fails(f, "release") ? ldg_fail_nomem(err) : LEDGER_OK;
}

static ledger_rc undo(void *ctx, bool *ret_lost, ledger_error *err)
{
    struct fake *f = ctx;

    assert_true(f->save_count > 0);
    state_copy(f->now, f->saves[--f->save_count]);
    *ret_lost = f->loses;
    return fails(f, "undo") ? ldg_fail_nomem(err) : LEDGER_OK;
}

static ledger_rc recheck(void *ctx, ledger_error *err)
{
    struct fake *f = ctx;

    f->rechecks++;
    return f->fail_recheck != LEDGER_OK ? ldg_fail(err, f->fail_recheck, "another table")
                                        : LEDGER_OK;
}

static uint64_t reason(void *ctx, const ledger_error *err)
{
    return ldg_refusal_reason(err, "");
}

/* --- the own log ----------------------------------------------------------------------------- */

static ledger_rc origin(void *ctx, int number, struct ldg_identity *ret_identity, ledger_error *err)
{
    const struct fake *f = ctx;

    assert_true(number >= 0 && number < FAKE_ORIGINS_MAX);
    *ret_identity = f->identities[number];
    return fails(f, "origin") ? ldg_fail_nomem(err) : LEDGER_OK;
}

static ledger_rc log_begin(void *ctx, ledger_error *err)
{
    struct fake *f = ctx;

    f->events_refused = 0;
    return fails(f, "log_begin") ? ldg_fail_nomem(err) : LEDGER_OK;
}

static ledger_rc log_event(void *ctx, ledger_bytes event, ledger_error *err)
{
    struct fake *f = ctx;
    void *copy = ldg_arena_memdup(&f->arena, event.data, event.size);
    const bool refused = f->refuses_event != NULL && f->refuses_event(event);

    assert_non_null(copy);
    assert_true(f->now->event_count < FAKE_EVENTS_MAX);
    if (refused && (!f->log_at_once || f->batch->log_alone))
        return ldg_fail(err, LEDGER_ERR_REJECTED, "the event is refused");
    f->events_refused += refused;
    f->now->events[f->now->event_count++] = (ledger_bytes){ copy, event.size };
    return LEDGER_OK;
}

static ledger_rc log_end(void *ctx, ledger_error *err)
{
    struct fake *f = ctx;

    if (f->events_refused > 0 || f->refuses_end)
        return ldg_fail(err, LEDGER_ERR_REJECTED, "some event is refused");
    return fails(f, "log_end") ? ldg_fail_nomem(err) : LEDGER_OK;
}

/* --- order ----------------------------------------------------------------------------------- */

static bool is_of_batch(const struct ldg_sink_batch *b, const struct fake_row *row)
{
    bool own = false;

    for (size_t i = 0; b->reserved != NULL && i < b->count && !own; i++)
        own = b->reserved[i] == row->id;
    return own;
}

static ledger_rc order_load(void *ctx, struct ldg_sink_batch *b, struct ldg_sink_order *order,
                            ledger_error *err)
{
    const struct fake *f = ctx;

    order->ordered = !f->now->disordered[order->origin];
    order->highest = 0;
    for (size_t n = 0; n < f->now->row_count; n++) {
        const struct fake_row *row = &f->now->rows[n];

        if (row->origin == order->origin && row->key.number > order->highest &&
            !is_of_batch(b, row))
            order->highest = row->key.number;
    }
    return fails(f, "order_load") ? ldg_fail_nomem(err) : LEDGER_OK;
}

static ledger_rc order_late(void *ctx, struct ldg_sink_batch *b, const struct ldg_sink_order *order,
                            const uint32_t *ops, size_t count, bool *ret_late, ledger_error *err)
{
    struct fake *f = ctx;

    f->order_looks++;
    *ret_late = false;
    for (size_t i = 0; i < count; i++) {
        const struct ldg_op *op = &b->ops[ops[i]];

        assert_true(op->key.number < order->highest);
        for (size_t n = 0; n < f->now->row_count; n++) {
            const struct fake_row *row = &f->now->rows[n];

            if (row->origin == order->origin && strcmp(row->stream, op->stream) == 0 &&
                row->key.number > op->key.number && (b->plan->informed || !is_of_batch(b, row)))
                *ret_late = true;
        }
    }
    return fails(f, "order_late") ? ldg_fail_nomem(err) : LEDGER_OK;
}

static ledger_rc order_note(void *ctx, int number, ledger_error *err)
{
    struct fake *f = ctx;

    f->now->disordered[number] = true;
    return fails(f, "order_note") ? ldg_fail_nomem(err) : LEDGER_OK;
}

/* What counts as in order is. */
static void check_orders(const struct fake *f)
{
    for (size_t n = 0; n < f->now->row_count; n++) {
        const struct fake_row *a = &f->now->rows[n];

        if (a->origin == 0 || f->now->disordered[a->origin] || f->beside)
            continue;
        for (size_t k = n + 1; k < f->now->row_count; k++) {
            const struct fake_row *z = &f->now->rows[k];

            if (z->origin == a->origin && strcmp(z->stream, a->stream) == 0)
                assert_true(ldg_id_compare(z->key, a->key) > 0);
        }
    }
}

/* --- the frame ------------------------------------------------------------------------------- */

static const struct ldg_sink callbacks = {
    .find_parked = find_parked,
    .look_up = look_up,
    .unpark = unpark,
    .change = change,
    .add = add,
    .note = note,
    .park = park,
    .save = save,
    .release = release,
    .undo = undo,
    .recheck = recheck,
    .reason = reason,
    .origin = origin,
    .log_begin = log_begin,
    .log_event = log_event,
    .log_end = log_end,
    .order_load = order_load,
    .order_late = order_late,
    .order_note = order_note,
};

static void begin(struct fake *f, struct ldg_sink_batch *b)
{
    state_copy(f->now, f->begun);
    f->save_count = 0;
    f->tries++;
    b->parked_any = f->now->parked_count > 0;
    b->marks_any = f->now->mark_count > 0;
}

static void reserve(struct fake *f, struct ldg_sink_batch *b)
{
    int64_t *ids;

    b->lowest_reserved = INT64_MAX;
    if (!f->reserves)
        return;
    ids = ldg_arena_calloc(&f->batch_arena, b->count, sizeof(*ids));
    assert_non_null(ids);
    for (size_t i = 0; i < b->count; i++) {
        if (b->ops[i].kind == LDG_OP_APPEND)
            ids[i] = ++f->last_id;
        if (ids[i] != 0 && b->lowest_reserved == INT64_MAX)
            b->lowest_reserved = ids[i];
    }
    b->reserved = ids;
}

static ledger_rc optimistic(struct fake *f, struct ldg_sink_batch *b, bool overlap,
                            ledger_error *err)
{
    bool added = false;
    ledger_rc rc = ldg_sink_plan(b, err);

    if (rc == LEDGER_OK && overlap && b->reserved != NULL && b->plan->add_count > 0 &&
        ldg_sink_may_add_first(b)) {
        rc = add(f, b, err);
        added = true;
        f->ahead++;
    }
    if (rc == LEDGER_OK)
        rc = ldg_sink_orders_load(b, err);
    return rc == LEDGER_OK ? ldg_sink_write(b, added, err) : rc;
}

static ledger_rc informed(struct fake *f, struct ldg_sink_batch *b, ledger_error *err)
{
    bool again = true;
    ledger_rc rc = LEDGER_OK;

    for (size_t n = 0; rc == LEDGER_OK && again; n++) {
        assert_true(n < 200);
        begin(f, b);
        rc = ldg_sink_apply(b, &again, err);
        f->restarts += again;
    }
    assert_true(rc != LEDGER_OK || f->save_count == 0);
    return rc;
}

static ledger_rc run(struct fake *f, struct ldg_sink_batch *b, enum fake_way way, ledger_error *err)
{
    bool waits = false;
    ledger_rc rc = ldg_sink_begin(b, err);

    f->was_optimistic = false;
    if (rc == LEDGER_OK && way != FAKE_INFORMED && ldg_sink_is_plain(b->ops, b->count)) {
        begin(f, b);
        rc = ldg_sink_may_wait(b, &waits, err);
        if (rc == LEDGER_OK && !waits) {
            rc = optimistic(f, b, way == FAKE_OVERLAP, err);
            f->was_optimistic = rc == LEDGER_OK;
            if (rc != LEDGER_ERR_REJECTED)
                return rc;
            rc = LEDGER_OK;
        }
    }
    return rc == LEDGER_OK ? informed(f, b, err) : rc;
}

static void make_batch(struct fake *f, struct ldg_sink_batch *b, const struct ldg_op *ops,
                       size_t count, uint8_t *outcomes)
{
    ldg_arena_reset(&f->batch_arena);
    f->batch = b;
    *b = (struct ldg_sink_batch){
        .sink = &callbacks,
        .ctx = f,
        .arena = &f->batch_arena,
        .ops = ops,
        .count = count,
        .outcomes = outcomes,
        .ids = ldg_arena_calloc(&f->batch_arena, count, sizeof(int64_t)),
        .can_park = !f->cannot_park,
        .park_rejected = !f->lets_reject,
        .parked_id = INT64_MAX,
        .beside = f->beside,
        .has_log = !f->no_log,
        .event_max = f->event_max != 0 ? f->event_max : 1 << 20,
        .now_us = 1,
    };
    assert_non_null(b->ids);
    reserve(f, b);
    state_copy(f->begun, f->now);
}

ledger_rc fake_apply(struct fake *f, enum fake_way way, const struct ldg_op *ops, size_t count,
                     uint8_t *outcomes, ledger_error *err)
{
    struct ldg_sink_batch b;
    struct ldg_refusals brake;
    ledger_rc rc;

    make_batch(f, &b, ops, count, outcomes);
    b.refusals = f->brake;
    if (f->brake != NULL)
        b.brake = &brake;
    rc = run(f, &b, way, err);
    if (rc != LEDGER_OK)
        state_copy(f->now, f->begun);
    else if (f->brake != NULL)
        *f->brake = brake;
    check_orders(f);
    return rc;
}

static struct fake_parked *parked_of(struct fake *f, int64_t id)
{
    for (size_t n = 0; n < f->now->parked_count; n++) {
        if (f->now->parked[n].row.id == id)
            return &f->now->parked[n];
    }
    return NULL;
}

static ledger_rc note_attempt(void *ctx, int64_t id, const char *reason, ledger_error *err)
{
    struct fake *f = ctx;
    struct fake_parked *row = parked_of(f, id);

    row->attempts++;
    row->reason = ldg_arena_strdup(&f->arena, reason);
    return LEDGER_OK;
}

ledger_rc fake_retry(struct fake *f, size_t index, const struct ldg_op *ops, size_t count,
                     bool *ret_applied, ledger_error *err)
{
    uint8_t *outcomes = calloc(count + 1, 1);
    struct ldg_sink_batch b;
    bool again = false;
    ledger_rc rc;

    assert_non_null(outcomes);
    make_batch(f, &b, ops, count, outcomes);
    b.can_park = b.park_rejected = false;
    b.parked_id = f->now->parked[index].row.id;
    rc = ldg_sink_begin(&b, err);
    begin(f, &b);
    delete_parked(f, index);
    if (rc == LEDGER_OK && count > 0)
        rc = ldg_sink_apply(&b, &again, err);
    assert_false(again);
    if (rc != LEDGER_OK)
        state_copy(f->now, f->begun);
    rc = ldg_sink_retried(rc, f, b.parked_id, note_attempt, ret_applied, err);
    free(outcomes);
    check_orders(f);
    return rc;
}
