/* What a batch adds and changes: rows that are written whole, one for each entry.
 *
 * Hides how a row is made of an op, or of the one that is there and a change. Invariants: a row is
 * what its positions say, whoever makes it, so that of two bridges at one log neither can undo what
 * the other did; an entry that comes and goes in one batch leaves a row that says so, for one that
 * is behind may yet bring it. */
#include "backend/clickhouse/apply.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Rows are sent when so much of them is packed. */
#define BLOCK_BYTES ((size_t)16 * 1024 * 1024)

/* --- one row --------------------------------------------------------------------------------- */

static ledger_rc flush_much(struct ldg_ch_batch *b, ledger_error *err)
{
    return b->ch->rows.packed.size > BLOCK_BYTES ? ldg_ch_flush(b, err) : LEDGER_OK;
}

static ledger_bytes bytes_at(const struct ldg_buf *buf, size_t from)
{
    return (ledger_bytes){ buf->data + from, buf->size - from };
}

static ledger_rc fail_text(const struct ldg_buf *buf, ledger_error *err)
{
    return buf->rc == LEDGER_ERR_NOMEM
               ? ldg_fail_nomem(err)
               : ldg_fail_native(err, LEDGER_ERR_REJECTED, "clickhouse", 0,
                                 "the tags, metadata or annotations of an entry are too large");
}

/* The positions of other logs, with those that are new. */
static ledger_rc put_foreign(struct ldg_ch_batch *b, const struct ldg_sink_item *item,
                             ledger_bytes before, struct ldg_ch_row *row, ledger_error *err)
{
    char(*texts)[LDG_CH_ORIGIN_TEXT_MAX + 26];
    const struct ldg_ch_origin *origin;
    ledger_map map, changes = { 0 };
    ledger_pair *pairs;
    size_t count = 0;
    ledger_rc rc = ldg_ch_get_map(b, before, &map, err);

    for (const struct ldg_sink_mark *m = item != NULL ? item->marks : NULL; m != NULL; m = m->next)
        count += m->is_new;
    texts = ldg_arena_calloc(&b->merging, count + 1, sizeof(*texts));
    pairs = ldg_arena_calloc(&b->merging, count + 1, sizeof(*pairs));
    if (rc == LEDGER_OK && (texts == NULL || pairs == NULL))
        rc = ldg_fail_nomem(err);
    for (const struct ldg_sink_mark *m = item != NULL ? item->marks : NULL;
         rc == LEDGER_OK && m != NULL; m = m->next) {
        char *name = texts[changes.count], *value = name + LDG_CH_ORIGIN_TEXT_MAX + 2;

        if (!m->is_new)
            continue;
        rc = ldg_ch_origin_find(b->ch, m->origin, &origin, err);
        if (rc != LEDGER_OK)
            break;
        ldg_ch_foreign_name(m->kind, origin->text, name);
        (void)snprintf(value, 24, "%" PRId64, m->position);
        pairs[changes.count++] = (ledger_pair){ name, value };
    }
    changes.items = pairs;
    if (rc == LEDGER_OK)
        rc = ldg_map_sort(changes, &b->merging, &changes, err);
    if (rc == LEDGER_OK)
        rc = ldg_map_merge(map, changes, &b->merging, &map, err);
    if (rc != LEDGER_OK)
        return rc;
    row->positions.foreign = ldg_ch_foreign_sum(map);
    ldg_buf_reset(&b->other);
    if (map.count > 0 && ldg_json_put_map(&b->other, map) != LEDGER_OK)
        return fail_text(&b->other, err);
    row->foreign = map.count > 0 ? bytes_at(&b->other, 0) : ldg_ch_bytes_of("");
    return LEDGER_OK;
}

/* --- changes --------------------------------------------------------------------------------- */

static bool is_older(const struct ldg_ch_positions *row, const struct ldg_sink_item *item)
{
    return (item->tags_at.first == 0 || row->tags < item->tags_at.first) &&
           (item->annotations_at.first == 0 || row->annotations < item->annotations_at.first);
}

/* Optimistic: a change of the other kind may be younger than this one; its time stays. */
static bool is_late(const struct ldg_ch_positions *row, const struct ldg_sink_item *item)
{
    const int64_t last = row->tags > row->annotations ? row->tags : row->annotations;

    return last > item->tags_at.last && last > item->annotations_at.last;
}

static ledger_rc merge_texts(struct ldg_ch_batch *b, const struct ldg_sink_item *item,
                             struct ldg_ch_row *row, ledger_error *err)
{
    ledger_map annotations;
    size_t at;
    ledger_rc rc = LEDGER_OK;

    ldg_buf_reset(&b->text);
    if (item->tags != NULL)
        (void)ldg_json_put_list(&b->text, item->tags->tags);
    at = b->text.size;
    if (item->annotated)
        rc = ldg_ch_get_map(b, row->annotations, &annotations, err);
    if (rc == LEDGER_OK && item->annotated)
        rc = ldg_map_merge(annotations, item->annotations, &b->merging, &annotations, err);
    if (rc == LEDGER_OK && item->annotated)
        (void)ldg_json_put_map(&b->text, annotations);
    if (rc == LEDGER_OK && b->text.rc != LEDGER_OK)
        rc = fail_text(&b->text, err);
    if (rc != LEDGER_OK)
        return rc;
    if (item->tags != NULL)
        row->tags = (ledger_bytes){ b->text.data, at };
    if (item->annotated)
        row->annotations = bytes_at(&b->text, at);
    return LEDGER_OK;
}

static ledger_rc change_row(struct ldg_ch_batch *b, struct ldg_sink_item *item,
                            const struct ldg_ch_row *found, ledger_error *err)
{
    struct ldg_ch_row row = *found;
    const struct ldg_ch_positions before = found->positions;
    const bool changes = is_older(&before, item);
    ledger_rc rc = LEDGER_OK;

    ldg_arena_reset(&b->merging);
    if (changes)
        rc = merge_texts(b, item, &row, err);
    if (rc == LEDGER_OK && changes) {
        if (item->time_us != LEDGER_NO_TIME && (b->s.plan->informed || !is_late(&before, item)))
            row.updated_at_us = item->time_us;
        if (item->tags_at.last != 0)
            row.positions.tags = item->tags_at.last;
        if (item->annotations_at.last != 0)
            row.positions.annotations = item->annotations_at.last;
        rc = put_foreign(b, item, found->foreign, &row, err);
    }
    if (rc == LEDGER_OK && changes)
        ldg_ch_put_row(&b->ch->rows, &row);
    if (rc == LEDGER_OK)
        rc = ldg_sink_changed(&b->s, item, changes, 1, before.tags, before.annotations, err);
    if (rc == LEDGER_ERR_REJECTED)
        b->s.culprit = item->last_change;
    return rc;
}

static ledger_rc change_items(struct ldg_ch_batch *b, ledger_error *err)
{
    struct ldg_ch_wanted *wanted = NULL;
    size_t count = 0;
    ledger_rc rc = ldg_ch_want(b, true, &wanted, &count, err);

    if (rc == LEDGER_OK)
        rc = ldg_ch_find_rows(b, wanted, count, change_row, flush_much, err);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        if (!wanted[i].found)
            rc = ldg_sink_changed(&b->s, wanted[i].item, false, 0, 0, 0, err);
    }
    return rc;
}

/* --- entries that are added ------------------------------------------------------------------ */

/* The op's entry, with nothing done to it. */
static ledger_rc begin_row(struct ldg_ch_batch *b, const struct ldg_op *op, struct ldg_ch_row *row,
                           struct ldg_ch_row_texts *texts, ledger_error *err)
{
    const struct ldg_ch_origin *origin;
    const ledger_append_entry *entry = op->entry;
    ledger_rc rc = ldg_ch_origin_find(b->ch, op->origin, &origin, err);

    if (rc != LEDGER_OK)
        return rc;
    ldg_ch_row_begin(row, texts, origin, op->key, op->stream);
    row->payload = entry->payload;
    row->order_key = ldg_ch_bytes_of(entry->order_key);
    row->dedup_key = ldg_ch_bytes_of(entry->dedup_key);
    row->schema_version = entry->schema_version;
    row->created_at_us = ldg_sink_time(&b->s, op);
    row->positions.appended = op->position;
    return LEDGER_OK;
}

static bool reaches(const struct ldg_op *trim, const struct ldg_op *op)
{
    return trim->origin == op->origin && ldg_op_trims(trim, op->key) &&
           strcmp(trim->stream, op->stream) == 0;
}

/* Position of the last trim of the range, before op i, that reaches its entry; 0: none does. */
static int64_t trimmed_before(const struct ldg_ch_batch *b, size_t i)
{
    const struct ldg_op *op = &b->ops[i];
    int64_t position = 0;

    for (size_t k = 0; k < b->trim_count && b->trims[k] < i; k++) {
        if (reaches(&b->ops[b->trims[k]], op))
            position = b->ops[b->trims[k]].position;
    }
    return position;
}

static ledger_rc put_texts(struct ldg_ch_batch *b, const ledger_append_entry *entry,
                           const struct ldg_sink_item *item, struct ldg_ch_row *row,
                           ledger_error *err)
{
    const ledger_list tags = item != NULL && item->tags != NULL ? item->tags->tags : entry->tags;
    const bool annotated = item != NULL && item->annotated;
    size_t tags_end, metadata_end;

    ldg_buf_reset(&b->text);
    if (tags.count > 0)
        (void)ldg_json_put_list(&b->text, tags);
    tags_end = b->text.size;
    if (entry->metadata.count > 0)
        (void)ldg_json_put_map(&b->text, entry->metadata);
    metadata_end = b->text.size;
    if (annotated)
        (void)ldg_json_put_map(&b->text, item->annotations);
    if (b->text.rc != LEDGER_OK)
        return fail_text(&b->text, err);
    if (tags.count > 0)
        row->tags = (ledger_bytes){ b->text.data, tags_end };
    if (entry->metadata.count > 0)
        row->metadata = (ledger_bytes){ b->text.data + tags_end, metadata_end - tags_end };
    if (annotated)
        row->annotations = bytes_at(&b->text, metadata_end);
    return LEDGER_OK;
}

static ledger_rc add_row(struct ldg_ch_batch *b, const struct ldg_sink_item *item, size_t i,
                         ledger_error *err)
{
    const struct ldg_op *op = &b->ops[i];
    struct ldg_ch_row_texts texts;
    struct ldg_ch_row row;
    ledger_rc rc = begin_row(b, op, &row, &texts, err);

    if (rc == LEDGER_OK)
        rc = put_texts(b, op->entry, item, &row, err);
    if (rc == LEDGER_OK && item != NULL && item->changed) {
        row.updated_at_us = item->time_us;
        row.positions.tags = item->tags_at.last;
        row.positions.annotations = item->annotations_at.last;
        ldg_arena_reset(&b->merging);
        rc = put_foreign(b, item, ldg_ch_bytes_of(""), &row, err);
    }
    if (rc == LEDGER_OK) {
        row.positions.trimmed = trimmed_before(b, i);
        ldg_ch_put_row(&b->ch->rows, &row);
        rc = flush_much(b, err);
    }
    if (rc == LEDGER_ERR_REJECTED && b->s.end - b->s.first == 1)
        b->s.culprit = i;
    return rc;
}

/* Which ops of the range are trims. */
static ledger_rc collect_trims(struct ldg_ch_batch *b, ledger_error *err)
{
    b->trim_count = 0;
    if (b->s.plan->trim_count == 0)
        return LEDGER_OK;
    b->trims = ldg_arena_alloc(b->s.arena, b->s.plan->trim_count * sizeof(*b->trims));
    if (b->trims == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = b->s.first; i < b->s.end && b->trim_count < b->s.plan->trim_count; i++) {
        if (ldg_sink_trims(&b->s, i))
            b->trims[b->trim_count++] = (uint32_t)i;
    }
    return LEDGER_OK;
}

ledger_rc ldg_ch_add(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    struct ldg_ch_batch *b = ctx;
    struct ldg_sink_item *item;
    size_t at = 0, i;
    ledger_rc rc = collect_trims(b, err);

    while (rc == LEDGER_OK && ldg_sink_next_add(s, &at, &item, &i)) {
        rc = add_row(b, item, i, err);
        ldg_sink_added(s, item, i, 1);
    }
    return rc == LEDGER_OK ? ldg_ch_flush(b, err) : rc;
}

/* --- what comes and goes --------------------------------------------------------------------- */

/* The first trim of the range behind op i that reaches its entry. */
static const struct ldg_op *trim_behind(const struct ldg_ch_batch *b, size_t i)
{
    for (size_t k = 0; k < b->trim_count; k++) {
        const struct ldg_op *trim = &b->ops[b->trims[k]];

        if (b->trims[k] > i && reaches(trim, &b->ops[i]))
            return trim;
    }
    return NULL;
}

static ledger_rc put_gone(struct ldg_ch_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = b->s.first; rc == LEDGER_OK && i < b->s.end; i++) {
        const struct ldg_op *op = &b->ops[i], *trim;
        struct ldg_ch_row_texts texts;
        struct ldg_ch_row row;

        if (op->kind != LDG_OP_APPEND || op->origin <= 0 ||
            b->s.outcomes[i] != LDG_OUTCOME_APPLIED || (trim = trim_behind(b, i)) == NULL)
            continue;
        rc = begin_row(b, op, &row, &texts, err);
        if (rc != LEDGER_OK)
            break;
        ldg_ch_row_bury(&row, trim->position);
        ldg_ch_put_row(&b->ch->rows, &row);
    }
    return rc;
}

/* --- the callback ---------------------------------------------------------------------------- */

ledger_rc ldg_ch_change(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    struct ldg_ch_batch *b = ctx;
    ledger_rc rc = collect_trims(b, err);

    if (rc == LEDGER_OK && s->plan->trim_count > 0)
        rc = ldg_ch_trim(b, err);
    if (rc == LEDGER_OK && s->plan->trim_count > 0)
        rc = put_gone(b, err);
    if (rc == LEDGER_OK && s->plan->change_count > 0)
        rc = change_items(b, err);
    /* else they go together with those that are added */
    return rc == LEDGER_OK && s->plan->add_count == 0 ? ldg_ch_flush(b, err) : rc;
}
