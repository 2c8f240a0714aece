/* What the sink has of the entries that a batch names.
 *
 * Hides the look-up: one query by the table's own key for all of them, in pages of some MiB.
 * Invariant: of each entry the version counts that is the highest now, and one that was trimmed is
 * not here. */
#include "backend/clickhouse/apply.h"

#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES ((size_t)8 * 1024 * 1024)
#define PAGE_KEYS 20000

/* --- keys ------------------------------------------------------------------------------------ */

static int compare_wanted(const void *a, const void *b)
{
    const struct ldg_ch_wanted *x = a, *y = b;
    int order = x->stream == y->stream ? 0 : strcmp(x->stream, y->stream);

    if (order == 0)
        order = strcmp(x->origin, y->origin);
    return order != 0 ? order : strcmp(x->key, y->key);
}

static ledger_rc want_item(struct ldg_ch_batch *b, struct ldg_sink_item *item,
                           struct ldg_ch_wanted *wanted, ledger_error *err)
{
    const struct ldg_ch_origin *origin;
    char key[LDG_CH_KEY_MAX];
    ledger_rc rc = ldg_ch_origin_find(b->ch, item->origin, &origin, err);

    if (rc != LEDGER_OK)
        return rc;
    ldg_ch_key(item->key, key);
    *wanted = (struct ldg_ch_wanted){
        .stream = item->stream,
        .origin = origin->text,
        .key = ldg_arena_strdup(b->s.arena, key),
        .item = item,
    };
    return wanted->key != NULL ? LEDGER_OK : ldg_fail_nomem(err);
}

ledger_rc ldg_ch_want(struct ldg_ch_batch *b, bool changed_only, struct ldg_ch_wanted **ret_wanted,
                      size_t *ret_count, ledger_error *err)
{
    struct ldg_sink_plan *p = b->s.plan;
    struct ldg_ch_wanted *wanted = ldg_arena_calloc(b->s.arena, p->item_count, sizeof(*wanted));
    size_t count = 0;
    ledger_rc rc = wanted != NULL ? LEDGER_OK : ldg_fail_nomem(err);

    for (uint32_t i = 0; rc == LEDGER_OK && i < p->item_count; i++) {
        struct ldg_sink_item *item = &p->items[i];

        if (item->origin <= 0 || (changed_only && !ldg_sink_changes(item)))
            continue;
        rc = want_item(b, item, &wanted[count++], err);
    }
    if (rc != LEDGER_OK)
        return rc;
    qsort(wanted, count, sizeof(*wanted), compare_wanted);
    *ret_wanted = wanted;
    *ret_count = count;
    return LEDGER_OK;
}

/* --- rows ------------------------------------------------------------------------------------ */

static int compare_text(const char *text, ledger_bytes bytes)
{
    const size_t size = strlen(text), least = size < bytes.size ? size : bytes.size;
    const int order = memcmp(text, bytes.data, least);

    return order != 0 ? order : (size > bytes.size) - (size < bytes.size);
}

static int compare_row(const struct ldg_ch_wanted *wanted, const struct ldg_ch_row *row)
{
    int order = compare_text(wanted->stream, row->stream);

    if (order == 0)
        order = compare_text(wanted->origin, row->origin);
    return order != 0 ? order : compare_text(wanted->key, row->entry_key);
}

static void begin_page(struct ldg_ch_query *q, struct ldg_ch_batch *b,
                       const struct ldg_ch_wanted *wanted, size_t count)
{
    static const char order[] = "stream, origin, entry_key";

    ldg_ch_begin(q, b->ch, "looking for entries");
    ldg_ch_page_begin(q, order, PAGE_BYTES);
    ldg_ch_list_begin(q, "unhex(p[1]), unhex(p[2]), unhex(p[3])");
    for (size_t i = 0; i < count; i++) {
        ldg_ch_list_item(q, i);
        ldg_ch_list_field(q, wanted[i].stream);
        ldg_ch_list_field(q, wanted[i].origin);
        ldg_ch_list_field(q, wanted[i].key);
    }
    ldg_ch_list_end(q);
    ldg_ch_page_end(q, order);
}

/* *ret_done: so many of them are answered for. */
static ledger_rc find_page(struct ldg_ch_batch *b, struct ldg_ch_wanted *wanted, size_t count,
                           ldg_ch_row_fn fn, size_t *ret_done, ledger_error *err)
{
    struct ldg_ch_query q;
    struct ldg_ch_row row;
    size_t at = 0;
    bool any = false;
    ledger_rc rc;

    begin_page(&q, b, wanted, count);
    (void)!ldg_ch_run(&q, err);
    while (ldg_ch_row(&q)) {
        ldg_ch_take_row(&q, &row);
        if (q.reader.bad)
            break;
        any = true;
        while (at < count && compare_row(&wanted[at], &row) < 0)
            at++;
        if (at == count || compare_row(&wanted[at], &row) != 0)
            continue;
        wanted[at].found = true;
        q.rc = fn(b, wanted[at].item, &row, err);
        at++;
    }
    rc = ldg_ch_end(&q, err);
    *ret_done = any ? at : count;
    return rc;
}

ledger_rc ldg_ch_find_rows(struct ldg_ch_batch *b, struct ldg_ch_wanted *wanted, size_t count,
                           ldg_ch_row_fn fn,
                           ledger_rc (*between)(struct ldg_ch_batch *b, ledger_error *err),
                           ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t at = 0, done = 0; rc == LEDGER_OK && at < count; at += done) {
        const size_t n = count - at < PAGE_KEYS ? count - at : PAGE_KEYS;

        rc = find_page(b, wanted + at, n, fn, &done, err);
        if (rc == LEDGER_OK && between != NULL)
            rc = between(b, err);
    }
    return rc;
}

/* --- for the plan ---------------------------------------------------------------------------- */

ledger_rc ldg_ch_get_map(struct ldg_ch_batch *b, ledger_bytes text, ledger_map *ret_map,
                         ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    *ret_map = (ledger_map){ 0 };
    if (text.size > 0)
        rc = ldg_json_get_map(text, false, &b->merging, ret_map, err);
    if (rc == LEDGER_ERR_DATA || rc == LEDGER_ERR_TOO_LARGE)
        rc = ldg_fail_native(err, LEDGER_ERR_REJECTED, "clickhouse", 0,
                             "the annotations of an entry are no JSON object of strings");
    return rc;
}

static ledger_rc found_marks(struct ldg_ch_batch *b, const struct ldg_sink_item *item,
                             ledger_map foreign, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < foreign.count; i++) {
        struct ldg_sink_mark mark = { 0 };
        const struct ldg_ch_origin *origin;
        const char *text;

        if (!ldg_ch_foreign_parse(foreign.items[i].key, &mark.kind, &text) ||
            !ldg_int64_parse(foreign.items[i].value, false, &mark.position))
            continue;
        origin = ldg_ch_origin_named(b->ch, text);
        if (origin == NULL) /* of none that the batch names */
            continue;
        mark.origin = origin->number;
        rc = ldg_sink_found_mark(&b->s, item->origin, item->key, item->id, &mark, err);
    }
    return rc;
}

/* Dedup keys are left out on both sides: see apply.c. */
static ledger_rc found_row(struct ldg_ch_batch *b, struct ldg_sink_item *item,
                           const struct ldg_ch_row *row, ledger_error *err)
{
    ledger_map annotations, foreign = { 0 };
    struct ldg_stored stored = {
        .stream = row->stream,
        .payload = row->payload,
        .order_key = row->order_key,
        .dedup_key = { "", 0 },
        .schema_version = row->schema_version,
        .created_at_us = row->created_at_us,
    };
    struct ldg_sink_found found = {
        .origin = item->origin,
        .key = item->key,
        .id = 1,
        .stream = item->stream,
        .dedup_key = "",
        .tags_pos = row->positions.tags,
        .annotations_pos = row->positions.annotations,
        .stored = &stored,
    };
    ledger_error why;
    ledger_rc rc;

    ldg_arena_reset(&b->merging);
    rc = ldg_ch_get_map(b, row->metadata, &stored.metadata, &why);
    if (rc == LEDGER_ERR_REJECTED)
        found.differs = "metadata";
    if (rc != LEDGER_ERR_NOMEM)
        rc = ldg_ch_get_map(b, row->annotations, &annotations, &why);
    found.unmergeable = rc == LEDGER_ERR_REJECTED;
    if (rc != LEDGER_ERR_NOMEM && row->foreign.size > 0)
        rc = ldg_ch_get_map(b, row->foreign, &foreign, &why);
    if (rc == LEDGER_ERR_NOMEM)
        return ldg_fail_nomem(err);
    rc = ldg_sink_found_entry(&b->s, &found, err);
    return rc == LEDGER_OK ? found_marks(b, item, foreign, err) : rc;
}

ledger_rc ldg_ch_look_up(void *ctx, struct ldg_sink_batch *s, ledger_error *err)
{
    struct ldg_ch_batch *b = ctx;
    struct ldg_ch_wanted *wanted = NULL;
    size_t count = 0;
    ledger_rc rc = ldg_ch_want(b, false, &wanted, &count, err);

    (void)s;
    return rc == LEDGER_OK ? ldg_ch_find_rows(b, wanted, count, found_row, NULL, err) : rc;
}
