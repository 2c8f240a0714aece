/* What the Go module's bridge left in a sink: rows with a source_id that no origin has.
 *
 * A source_id is a number alone, and two sources give the same numbers out. So a row is taken for
 * an entry of this source only where the source's entry of that number is the same in all that no
 * change touches; or, if the source has none any more, the event in its log that added it. Where
 * that was pruned nothing but the sink itself can tell: the row is taken if Go has carried this
 * source, and nothing there says that it, or ours, has carried another one. Invariants: no entry
 * gets into the sink a second time because Go has carried it before; none is passed over because of
 * a cursor or a row of Go's that is another source's; and where both work at once, ours ends. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "bridge/stages.h"

enum { TAKE_SAME = 1 << 0, TAKE_GONE = 1 << 1 }; /* which rows are adopted */

#define PAGE_ROWS 1000
#define PAGE_BYTES ((size_t)4 * 1024 * 1024)

/* A page of such rows, and the source's entries of the same numbers. */
struct page {
    struct ldg_arena sink, source, scratch;
    struct ldg_history_row *rows;
    size_t count;
    ledger_id *ids;       /* of the rows that can be the source's */
    const size_t *row_of; /* … and which rows those are */
    size_t id_count;
    ledger_entry *entries;
    bool *same; /* is the row the source's entry? */
};

static void page_init(struct page *page)
{
    memset(page, 0, sizeof(*page));
    ldg_arena_init(&page->sink, PAGE_BYTES * 2);
    ldg_arena_init(&page->source, PAGE_BYTES * 2);
    ldg_arena_init(&page->scratch, 0);
}

static void page_fini(struct page *page)
{
    ldg_arena_fini(&page->sink);
    ldg_arena_fini(&page->source);
    ldg_arena_fini(&page->scratch);
}

/* Go writes numbers padded with zeroes. */
static bool read_id(const ledger_store *source, const char *text, ledger_id *ret_id)
{
    ledger_id id;
    if (!ldg_store_has_text_ids(source) && ldg_int64_parse(text, true, &id.number))
        id.text = NULL;
    else if (!ldg_id_parse(text, &id))
        return false;
    *ret_id = id;
    return ldg_store_may_have(source, id);
}

static ledger_append_entry as_appended(const ledger_entry *entry)
{
    return (ledger_append_entry){
        .payload = entry->payload,
        .order_key = entry->order_key,
        .dedup_key = entry->dedup_key,
        .schema_version = entry->schema_version,
        .metadata = entry->metadata,
    };
}

static int compare_ids(const void *a, const void *b)
{
    const ledger_id *x = a, *y = b;
    return ldg_id_compare(*x, *y);
}

/* As far as entries_by_id() tells. */
static bool may_be_same(const struct page *page, size_t i)
{
    const ledger_entry *row = page->rows[page->row_of[i]].entry, *entry = &page->entries[i];
    return !ldg_id_is_none(entry->id) && strcmp(row->stream, entry->stream) == 0 &&
           ldg_json_equal_in_go(row->payload, entry->payload);
}

/* Is it the same in all that no change touches? */
static ledger_rc compare(struct page *page, size_t i, const ledger_entry *entry, ledger_error *err)
{
    const ledger_entry *row = page->rows[page->row_of[i]].entry;
    const ledger_append_entry appended = as_appended(entry);
    const struct ldg_op op = { .stream = entry->stream,
                               .entry = &appended,
                               .time_us = LEDGER_NO_TIME };
    const struct ldg_stored stored = {
        .stream = { row->stream, strlen(row->stream) },
        .payload = row->payload,
        .order_key = { row->order_key, strlen(row->order_key) },
        .dedup_key = { row->dedup_key, strlen(row->dedup_key) },
        .schema_version = row->schema_version,
        .metadata = row->metadata,
        .created_at_us = LEDGER_NO_TIME,
        .by_go = true,
    };
    const char *field = NULL;
    ldg_arena_reset(&page->scratch);
    ledger_rc rc = ldg_op_compare(&op, &stored, &page->scratch, &field, err);
    page->same[i] = rc == LEDGER_OK && field == NULL;
    return rc;
}

/* From *at on, as many of the source's entries with these ids as one answer holds. */
static ledger_rc compare_some(struct page *page, ledger_store *source, const ledger_id *ids,
                              size_t count, size_t *at, ledger_error *err)
{
    struct ldg_history_row *own = NULL;
    size_t own_count = 0;
    ledger_rc rc = ldg_store_history_of(source, 0, ids + *at, count - *at, PAGE_BYTES,
                                        &page->source, &own, &own_count, err);
    for (size_t i = 0; rc == LEDGER_OK && own_count > 0 && i < page->id_count; i++) {
        size_t low = 0, high = own_count;
        while (low < high) {
            const size_t middle = low + (high - low) / 2;
            if (ldg_id_compare(own[middle].key, page->ids[i]) < 0)
                low = middle + 1;
            else
                high = middle;
        }
        if (page->same[i] && low < own_count && ldg_id_equal(own[low].key, page->ids[i]))
            rc = compare(page, i, own[low].entry, err);
    }
    while (rc == LEDGER_OK && *at < count &&
           (own_count == 0 || ldg_id_compare(ids[*at], own[own_count - 1].key) <= 0))
        (*at)++;
    return rc;
}

/* An entry that the source has from another store is known by stream and payload. */
static ledger_rc compare_all(struct page *page, ledger_store *source, ledger_error *err)
{
    ledger_id *ids = ldg_arena_calloc(&page->sink, page->id_count, sizeof(*ids));
    size_t count = 0, distinct = 0, at = 0;
    ledger_rc rc = LEDGER_OK;
    page->same = ldg_arena_calloc(&page->sink, page->id_count, sizeof(*page->same));
    if (ids == NULL || page->same == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < page->id_count; i++) {
        page->same[i] = may_be_same(page, i);
        if (page->same[i])
            ids[count++] = page->ids[i];
    }
    qsort(ids, count, sizeof(*ids), compare_ids);
    for (size_t i = 0; i < count; i++)
        if (i == 0 || !ldg_id_equal(ids[i], ids[distinct - 1]))
            ids[distinct++] = ids[i];
    while (rc == LEDGER_OK && at < distinct)
        rc = compare_some(page, source, ids, distinct, &at, err);
    return rc;
}

static ledger_rc page_read(struct page *page, ledger_store *source, ledger_store *sink,
                           ledger_id after, ledger_error *err)
{
    size_t *row_of;
    ldg_arena_reset(&page->sink);
    ldg_arena_reset(&page->source);
    page->count = page->id_count = 0;
    ledger_rc rc = ldg_store_history(sink, LDG_ORIGIN_UNCLAIMED, after, PAGE_ROWS, PAGE_BYTES,
                                     &page->sink, &page->rows, &page->count, err);
    if (rc != LEDGER_OK || page->count == 0)
        return rc;
    page->ids = ldg_arena_calloc(&page->sink, page->count, sizeof(*page->ids));
    page->row_of = row_of = ldg_arena_calloc(&page->sink, page->count, sizeof(*row_of));
    if (page->ids == NULL || row_of == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < page->count; i++) {
        if (!read_id(source, page->rows[i].entry->source_id, &page->ids[page->id_count]))
            continue;
        row_of[page->id_count++] = i;
    }
    if (page->id_count > 0)
        rc = ldg_store_entries_by_id(source, page->ids, page->id_count, &page->source,
                                     &page->entries, err);
    return rc == LEDGER_OK && page->id_count > 0 ? compare_all(page, source, err) : rc;
}

/* --- rows whose entry is gone ---------------------------------------------------------------- */

/* So many are looked for in one reading of the log. */
#define GONE_MAX 100000
#define LOG_ROWS 1000

struct gone_row {
    ledger_id key, id;
    uint64_t hash;     /* of all that no change touches, but the metadata */
    uint64_t metadata; /* hash; 0: none, which Go's bridge may have left out */
    enum { UNKNOWN, SAME, OTHER } verdict;
};
struct gone {
    struct gone_row *rows; /* GONE_MAX; NULL: none yet */
    size_t count, open;    /* open: without a verdict */
    struct ldg_arena texts, scratch;
    struct ldg_id_own lowest; /* of the ids in the log; none: it has none */
};

static uint64_t hash_of(const char *stream, const ledger_append_entry *entry)
{
    const int64_t version = entry->schema_version;
    uint64_t hash = ldg_hash64(stream, strlen(stream), 0);
    hash = ldg_hash64(entry->order_key, strlen(entry->order_key), hash);
    hash = ldg_hash64(entry->dedup_key, strlen(entry->dedup_key), hash);
    hash = ldg_hash64(&version, sizeof(version), hash);
    return ldg_json_hash_in_go(entry->payload, hash);
}

static ledger_rc hash_metadata(struct gone *gone, ledger_map metadata, uint64_t *ret_hash,
                               ledger_error *err)
{
    uint64_t hash = 0;
    ledger_map sorted;
    ldg_arena_reset(&gone->scratch);
    ledger_rc rc = ldg_map_sort(metadata, &gone->scratch, &sorted, err);
    for (size_t i = 0; rc == LEDGER_OK && i < sorted.count; i++) {
        hash = ldg_hash64(sorted.items[i].key, strlen(sorted.items[i].key), hash);
        hash = ldg_hash64(sorted.items[i].value, strlen(sorted.items[i].value), hash) | 1;
    }
    if (rc == LEDGER_OK)
        *ret_hash = hash;
    return rc;
}

static ledger_rc gone_add(struct gone *gone, const struct ldg_history_row *row, ledger_id key,
                          ledger_error *err)
{
    const ledger_append_entry entry = as_appended(row->entry);
    uint64_t metadata = 0;
    ledger_id id;
    if (gone->rows == NULL)
        gone->rows = ldg_calloc(GONE_MAX, sizeof(*gone->rows));
    if (gone->rows == NULL || !ldg_id_copy(key, &gone->texts, &key) ||
        !ldg_id_copy(row->key, &gone->texts, &id))
        return ldg_fail_nomem(err);
    ledger_rc rc = hash_metadata(gone, entry.metadata, &metadata, err);
    if (rc == LEDGER_OK)
        gone->rows[gone->count++] = (struct gone_row){
            .key = key,
            .id = id,
            .hash = hash_of(row->entry->stream, &entry),
            .metadata = metadata,
        };
    return rc;
}

static int compare_gone(const void *a, const void *b)
{
    const struct gone_row *x = a, *y = b;
    return ldg_id_compare(x->key, y->key);
}

/* An id that was given out twice, by a source that was put back, may have two entries. */
static ledger_rc gone_compare(struct gone *gone, const char *stream,
                              const ledger_append_entry *entry, ledger_error *err)
{
    uint64_t hash = 0, metadata = 0;
    ledger_rc rc = LEDGER_OK;
    ledger_id id;
    size_t low = 0, high = gone->count;
    if (!ldg_id_parse(entry->id, &id))
        return LEDGER_OK;
    if (ldg_id_is_none(gone->lowest.id) || ldg_id_compare(id, gone->lowest.id) < 0)
        ldg_id_own_set(&gone->lowest, id);
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (ldg_id_compare(gone->rows[middle].key, id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < gone->count && ldg_id_equal(gone->rows[low].key, id)) {
        hash = hash_of(stream, entry);
        rc = hash_metadata(gone, entry->metadata, &metadata, err);
    }
    for (; rc == LEDGER_OK && low < gone->count && ldg_id_equal(gone->rows[low].key, id); low++) {
        struct gone_row *row = &gone->rows[low];
        gone->open -= row->verdict == UNKNOWN;
        if (row->verdict != SAME)
            row->verdict = row->hash == hash && (row->metadata == 0 || row->metadata == metadata)
                               ? SAME
                               : OTHER;
    }
    return rc;
}

static ledger_rc gone_compare_batch(struct gone *gone, const struct ldg_batch *batch,
                                    ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; i < batch->log.count; i++) {
        const ledger_mutation_event *event = &batch->events[i].event;
        if (batch->events[i].bad != NULL || event->type != LEDGER_MUTATION_APPEND ||
            event->origin[0] != '\0')
            continue;
        for (size_t k = 0; rc == LEDGER_OK && k < event->entry_count; k++)
            rc = gone_compare(gone, event->stream, &event->entries[k], err);
    }
    return rc;
}

/* Reads the source's log until each has a verdict. One whose number it never gave out is another's;
 * one from before the log begins stays unknown. */
static ledger_rc gone_look(struct gone *gone, ledger_store *source, ledger_error *err)
{
    const struct ldg_log_limits limits = { .max_count = LOG_ROWS, .max_bytes = PAGE_BYTES };
    struct ldg_batch *batch = ldg_calloc(1, sizeof(*batch));
    char *state = ldg_calloc(1, LDG_CURSOR_STATE_MAX);
    bool more = true;
    ledger_rc rc = batch != NULL && state != NULL ? LEDGER_OK : ldg_fail_nomem(err);
    qsort(gone->rows, gone->count, sizeof(*gone->rows), compare_gone);
    gone->open = gone->count;
    ldg_id_own_set(&gone->lowest, ldg_id_of(0));
    if (batch != NULL)
        ldg_batch_init(batch);
    while (rc == LEDGER_OK && more && gone->open > 0) {
        rc = ldg_store_log_read(source, state, &limits, &batch->log, err);
        if (rc == LEDGER_OK)
            rc = ldg_decode(batch, err);
        if (rc == LEDGER_OK)
            rc = gone_compare_batch(gone, batch, err);
        more = rc == LEDGER_OK && batch->log.count > 0;
        if (more)
            memcpy(state, batch->log.next_state, LDG_CURSOR_STATE_MAX);
    }
    if (batch != NULL)
        ldg_batch_fini(batch);
    for (size_t i = 0; rc == LEDGER_OK && i < gone->count; i++)
        if (gone->rows[i].verdict == UNKNOWN && !ldg_id_is_none(gone->lowest.id) &&
            ldg_id_compare(gone->rows[i].key, gone->lowest.id) >= 0)
            gone->rows[i].verdict = OTHER;
    ldg_free(batch);
    ldg_free(state);
    return rc;
}

/* --- taking ---------------------------------------------------------------------------------- */

static ledger_rc claim(ledger_store *sink, int origin, const struct ldg_claim *claims, size_t count,
                       struct ldg_takeover *t, ledger_error *err)
{
    uint64_t adopted = 0;
    if (count == 0)
        return LEDGER_OK;
    ledger_rc rc = ldg_store_origin_adopt(sink, origin, claims, count, &adopted, err);
    if (rc == LEDGER_OK)
        t->adopted += adopted;
    return rc;
}

static ledger_rc take_gone(struct gone *gone, ledger_store *source, ledger_store *sink, int origin,
                           unsigned take, struct ldg_takeover *t, ledger_error *err)
{
    struct ldg_claim claims[256];
    size_t count = 0;
    ledger_rc rc = gone->count > 0 ? gone_look(gone, source, err) : LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < gone->count; i++) {
        const struct gone_row *row = &gone->rows[i];
        t->same += row->verdict == SAME;
        t->other += row->verdict == OTHER;
        t->gone += row->verdict == UNKNOWN;
        if ((row->verdict == SAME && (take & TAKE_SAME) != 0) ||
            (row->verdict == UNKNOWN && (take & TAKE_GONE) != 0))
            claims[count++] = (struct ldg_claim){ .id = row->id, .key = row->key };
        if (count == sizeof(claims) / sizeof(*claims)) {
            rc = claim(sink, origin, claims, count, t, err);
            count = 0;
        }
    }
    if (rc == LEDGER_OK)
        rc = claim(sink, origin, claims, count, t, err);
    gone->count = 0;
    ldg_arena_reset(&gone->texts);
    return rc;
}

static ledger_rc take_page(struct page *page, ledger_store *sink, int origin, unsigned take,
                           struct gone *gone, struct ldg_takeover *t, ledger_error *err)
{
    struct ldg_claim *claims = ldg_arena_calloc(&page->sink, page->count, sizeof(*claims));
    size_t count = 0;
    ledger_rc rc = claims != NULL ? LEDGER_OK : ldg_fail_nomem(err);
    t->other += page->count - page->id_count;
    for (size_t i = 0; rc == LEDGER_OK && i < page->id_count; i++) {
        const struct ldg_history_row *row = &page->rows[page->row_of[i]];
        const bool same = page->same[i];
        if (ldg_id_is_none(page->entries[i].id)) {
            rc = gone_add(gone, row, page->ids[i], err);
            continue;
        }
        t->same += same;
        t->other += !same;
        if (same && (take & TAKE_SAME) != 0)
            claims[count++] = (struct ldg_claim){ .id = row->key, .key = page->ids[i] };
    }
    return rc == LEDGER_OK ? claim(sink, origin, claims, count, t, err) : rc;
}

/* Compares the rows with ids behind `after` with the source's entries, and adopts them as `take`
 * says. take 0: ends at the first that is the same. */
static ledger_rc look_through(ledger_store *source, ledger_store *sink, int origin, ledger_id after,
                              unsigned take, struct ldg_takeover *ret, ledger_error *err)
{
    struct ldg_takeover t = { 0 };
    struct gone gone = { 0 };
    struct ldg_id_own last;
    struct page page;
    bool more = true;
    ledger_rc rc = LEDGER_OK;
    page_init(&page);
    ldg_arena_init(&gone.texts, PAGE_BYTES);
    ldg_arena_init(&gone.scratch, 0);
    ldg_id_own_set(&last, after);
    while (rc == LEDGER_OK && more) {
        rc = page_read(&page, source, sink, last.id, err);
        if (rc == LEDGER_OK && page.count > 0) {
            ldg_id_own_set(&last, page.rows[page.count - 1].key);
            rc = take_page(&page, sink, origin, take, &gone, &t, err);
        }
        more = page.count > 0 && (take != 0 || t.same == 0);
        if (rc == LEDGER_OK && (!more || gone.count > GONE_MAX - PAGE_ROWS))
            rc = take_gone(&gone, source, sink, origin, take, &t, err);
    }
    ldg_free(gone.rows);
    ldg_arena_fini(&gone.texts);
    ldg_arena_fini(&gone.scratch);
    page_fini(&page);
    if (rc == LEDGER_OK)
        *ret = t;
    return rc;
}

/* Has the sink nothing of any other source, as far as it can tell: no origin, and no cursor that Go
 * has left? */
static ledger_rc is_alone(const struct ldg_taker *taker, bool *ret_alone, ledger_error *err)
{
    char name[LDG_CURSOR_NAME_MAX];
    struct ldg_identity *identities = NULL;
    struct ldg_arena arena;
    int *numbers = NULL;
    size_t count = 0;
    ldg_arena_init(&arena, 0);
    ledger_rc rc = ldg_store_origin_list(taker->sink, &arena, &identities, &numbers, &count, err);
    *ret_alone = rc == LEDGER_OK;
    for (size_t i = 0; i < count; i++)
        *ret_alone = *ret_alone && numbers[i] == taker->origin;
    if (rc == LEDGER_OK && *ret_alone) {
        rc = ldg_cursor_of_go(taker->cursor, name, err);
        *ret_alone = rc == LEDGER_OK && name[0] == '\0';
    }
    ldg_arena_fini(&arena);
    return rc;
}

/* Of rows that the source knows nothing of any more: has Go carried this source, and no other? In a
 * table whose rows carry source_id for Go, it carries the origin of those. */
static ledger_rc may_take_gone(const struct ldg_taker *taker, const struct ldg_takeover *t,
                               bool *ret_may, ledger_error *err)
{
    const bool carried = t->same > 0 || taker->cursor->row.readable[0] != '\0';
    *ret_may = t->gone > 0 && t->other == 0 && taker->go_origin == taker->origin;
    if (t->gone == 0 || t->other > 0 || *ret_may || !carried)
        return LEDGER_OK;
    return is_alone(taker, ret_may, err);
}

ledger_rc ldg_takeover_adopt(const struct ldg_taker *taker, ledger_id after,
                             struct ldg_takeover *ret, ledger_error *err)
{
    struct ldg_takeover gone = { 0 };
    bool may = false;
    ledger_rc rc =
        look_through(taker->source, taker->sink, taker->origin, after, TAKE_SAME, ret, err);
    if (rc == LEDGER_OK)
        rc = may_take_gone(taker, ret, &may, err);
    if (rc == LEDGER_OK && may)
        rc = look_through(taker->source, taker->sink, taker->origin, after, TAKE_GONE, &gone, err);
    if (rc == LEDGER_OK)
        ret->adopted += gone.adopted;
    return rc;
}

static int compare_left(const void *a, const void *b)
{
    const struct ldg_left *x = a, *y = b;
    return ldg_id_compare(x->key, y->key);
}

static ledger_rc give_page(struct page *page, ldg_takeover_fn fn, void *ctx, ledger_error *err)
{
    struct ldg_left *left = ldg_arena_calloc(&page->sink, page->id_count, sizeof(*left));
    size_t count = 0;
    if (left == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < page->id_count; i++) {
        const ledger_entry *row = page->rows[page->row_of[i]].entry;
        if (page->same[i])
            left[count++] = (struct ldg_left){ .key = page->ids[i], .row = row };
    }
    if (count == 0)
        return LEDGER_OK;
    qsort(left, count, sizeof(*left), compare_left);
    return fn(ctx, left, count, err);
}

ledger_rc ldg_takeover_each(ledger_store *source, ledger_store *sink, ldg_takeover_fn fn, void *ctx,
                            ledger_error *err)
{
    struct page page;
    struct ldg_id_own after = { 0 };
    ledger_rc rc = LEDGER_OK;
    page_init(&page);
    do {
        rc = page_read(&page, source, sink, after.id, err);
        if (rc == LEDGER_OK && page.count > 0) {
            ldg_id_own_set(&after, page.rows[page.count - 1].key);
            rc = give_page(&page, fn, ctx, err);
        }
    } while (rc == LEDGER_OK && page.count > 0);
    page_fini(&page);
    return rc;
}

/* --- when a cursor is loaded ----------------------------------------------------------------- */

static void tell(struct ldg_pipe *pipe, const struct ldg_takeover *t)
{
    if (t->adopted > 0)
        ldg_log(&pipe->bridge->telemetry, LEDGER_LOG_INFO,
                "took over entries that the Go bridge left", NULL);
    else if (t->other > 0)
        ldg_log(&pipe->bridge->telemetry, LEDGER_LOG_WARN,
                "the sink holds entries that a Go bridge has carried from another source; they are "
                "left alone",
                NULL);
    else if (t->gone > 0)
        ldg_log(&pipe->bridge->telemetry, LEDGER_LOG_WARN,
                "the sink holds entries that a Go bridge has carried, and neither the source nor "
                "its log has them any more; they are left alone, as they may be another source's",
                NULL);
}

ledger_rc ldg_takeover_first(const struct ldg_taker *taker, struct ldg_takeover *ret,
                             ledger_error *err)
{
    char name[LDG_CURSOR_NAME_MAX];
    struct ldg_takeover t = { 0 };
    bool any = false;
    ledger_rc rc = ldg_store_origin_unclaimed(taker->sink, &any, err);
    if (rc == LEDGER_OK && any)
        rc = look_through(taker->source, taker->sink, taker->origin, ldg_id_of(0), 0, &t, err);
    if (rc == LEDGER_OK && any)
        rc = ldg_cursor_of_go(taker->cursor, name, err);
    if (rc == LEDGER_OK && t.same > 0 && name[0] != '\0')
        rc = ldg_fail(err, LEDGER_ERR_FOREIGN_BRIDGE,
                      "the Go module's bridge has carried this source into table \"%s\" under the "
                      "cursor \"%.100s\"; stop it for good, and run this bridge with --name "
                      "%.100s, so that it goes on from there and carries nothing twice",
                      ledger_store_table(taker->sink), name, name);
    else if (rc == LEDGER_OK && t.same > 0 &&
             (taker->go_origin == 0 || taker->go_origin == taker->origin))
        rc = ldg_takeover_adopt(taker, ldg_id_of(0), &t, err);
    if (rc == LEDGER_OK)
        *ret = t;
    return rc;
}

/* Go writes the readable position alone; ours never moves it without the state. Back is a person's
 * hand, and allowed. */
static ledger_rc check_hand(const struct ldg_cursor_keeper *cursor, const struct ldg_cursor *before,
                            ledger_error *err)
{
    const struct ldg_cursor *row = &cursor->row;
    ledger_id old = { 0 }, now = { 0 };
    if (strcmp(row->state, before->state) != 0 || strcmp(row->readable, before->readable) == 0)
        return LEDGER_OK;
    if (before->readable[0] != '\0' &&
        cursor->codec->decode(before->readable, &old, NULL) != LEDGER_OK)
        return LEDGER_OK;
    if (cursor->codec->decode(row->readable, &now, NULL) != LEDGER_OK || now.number <= old.number)
        return LEDGER_OK;
    return ldg_fail(err, LEDGER_ERR_FOREIGN_BRIDGE,
                    "the Go module's bridge has moved cursor \"%.100s\" to %s while this bridge "
                    "runs, and both at once are not supported. Stop the Go bridge for good, then "
                    "start this one again: it takes over what the other has carried",
                    cursor->name, row->readable);
}

/* The cursor was left by Go, which notes no more than a position: is it this source's? `any`: the
 * sink holds entries of it. Where the sink has rows of another one, the position may be of that. */
static ledger_rc check_cursor(struct ldg_pipe *pipe, const struct ldg_takeover *t, bool any,
                              ledger_error *err)
{
    const struct ldg_cursor_keeper *cursor = &pipe->cursor;
    if (t->other == 0)
        return LEDGER_OK;
    if (!any && t->same == 0)
        return ldg_fail(err, LEDGER_ERR_CURSOR_MISMATCH,
                        "a Go bridge has left cursor \"%.100s\" at %s, and all that it left in "
                        "table \"%s\" is of another source: going on from there would pass "
                        "entries of this one over. Run this bridge under another --name; if the "
                        "cursor is this source's after all, `ledgerctl bridge cursor reset --name "
                        "%.100s` makes it begin at the beginning",
                        cursor->name, cursor->row.readable, ledger_store_table(pipe->sink),
                        cursor->name);
    ldg_log(&pipe->bridge->telemetry, LEDGER_LOG_WARN,
            "a Go bridge has carried another source into the sink, too: all of the log is carried "
            "once more, so that nothing is left out; what is there stays",
            NULL);
    return ldg_cursor_restart(&pipe->cursor, pipe->source, err);
}

/* Go has worked here since, or before ours: what it has carried lies behind the last entry that
 * ours has, unless a takeover was interrupted. */
static ledger_rc take_rest(struct ldg_pipe *pipe, const struct ldg_taker *taker,
                           struct ldg_takeover *t, ledger_error *err)
{
    const bool by_go = pipe->cursor.row.state[0] == '\0';
    struct ldg_arena arena;
    ledger_id last;
    ldg_arena_init(&arena, 0);
    ledger_rc rc = ldg_store_origin_last(pipe->sink, taker->origin, &arena, &last, err);
    if (rc == LEDGER_OK)
        rc = ldg_takeover_adopt(taker, by_go ? ldg_id_of(0) : last, t, err);
    if (rc == LEDGER_OK && by_go)
        rc = check_cursor(pipe, t, !ldg_id_is_none(last), err);
    ldg_arena_fini(&arena);
    return rc;
}

static struct ldg_taker taker_of(struct ldg_pipe *pipe)
{
    return (struct ldg_taker){
        .cursor = &pipe->cursor,
        .source = pipe->source,
        .sink = pipe->sink,
        .origin = pipe->origins.source,
        .go_origin = pipe->go_origin,
    };
}

ledger_rc ldg_takeover_run(struct ldg_pipe *pipe, const struct ldg_cursor *before, bool moved,
                           ledger_error *err)
{
    const struct ldg_cursor *row = &pipe->cursor.row;
    struct ldg_takeover t = { 0 };
    struct ldg_taker taker;
    ledger_rc rc = before != NULL ? check_hand(&pipe->cursor, before, err) : LEDGER_OK;
    if (rc != LEDGER_OK || pipe->looked)
        return rc;
    rc = ldg_store_origin_carry_ids(pipe->sink, &pipe->go_origin, err);
    taker = taker_of(pipe);
    if (rc == LEDGER_OK && row->state[0] == '\0' && row->readable[0] == '\0')
        rc = ldg_takeover_first(&taker, &t, err);
    else if (rc == LEDGER_OK && (moved || taker.go_origin == taker.origin))
        rc = take_rest(pipe, &taker, &t, err);
    if (rc == LEDGER_OK)
        tell(pipe, &t);
    if (rc == LEDGER_OK && pipe->go_origin == 0)
        rc = ldg_store_origin_carry_ids(pipe->sink, &pipe->go_origin, err);
    pipe->looked = rc == LEDGER_OK;
    return rc;
}

void ldg_takeover_after(struct ldg_pipe *pipe)
{
    const struct ldg_taker taker = taker_of(pipe);
    struct ldg_takeover t;
    (void)!ldg_takeover_adopt(&taker, ldg_id_of(0), &t, NULL);
}
