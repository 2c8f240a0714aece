/* What the Go module's bridge left in a sink: rows with a source_id that no origin has.
 *
 * A source_id is a number alone, and two sources give the same numbers out. So a row is taken for
 * an entry of this source only where the source's entry of that number has its stream and payload;
 * or, if the source has none any more, the event in its log that added it; or, if that was pruned,
 * where no row speaks against it. Invariant: no entry gets
 * into the sink a second time because Go has carried it before; and where both work at once, ours
 * ends. */
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
    struct ldg_arena sink, source;
    struct ldg_history_row *rows;
    size_t count;
    ledger_id *ids;       /* of the rows that can be the source's */
    const size_t *row_of; /* … and which rows those are */
    size_t id_count;
    ledger_entry *entries;
};

static void page_init(struct page *page)
{
    memset(page, 0, sizeof(*page));
    ldg_arena_init(&page->sink, PAGE_BYTES * 2);
    ldg_arena_init(&page->source, PAGE_BYTES * 2);
}

static void page_fini(struct page *page)
{
    ldg_arena_fini(&page->sink);
    ldg_arena_fini(&page->source);
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
    return rc;
}

static bool is_same(const ledger_entry *row, const ledger_entry *entry)
{
    return !ldg_id_is_none(entry->id) && strcmp(row->stream, entry->stream) == 0 &&
           ldg_json_equal_in_go(row->payload, entry->payload);
}

/* --- rows whose entry is gone ---------------------------------------------------------------- */

/* So many are looked for in one reading of the log. */
#define GONE_MAX 100000
#define LOG_ROWS 1000

struct gone_row {
    ledger_id key, id;
    uint64_t hash; /* of stream and payload */
    enum { UNKNOWN, SAME, OTHER } verdict;
};
struct gone {
    struct gone_row *rows; /* GONE_MAX; NULL: none yet */
    size_t count, open;    /* open: without a verdict */
    struct ldg_arena texts;
    struct ldg_id_own lowest; /* of the ids in the log; none: it has none */
};

static uint64_t hash_of(const char *stream, ledger_bytes payload)
{
    return ldg_json_hash_in_go(payload, ldg_hash64(stream, strlen(stream), 0));
}

static ledger_rc gone_add(struct gone *gone, const struct ldg_history_row *row, ledger_id key,
                          ledger_error *err)
{
    ledger_id id;
    if (gone->rows == NULL)
        gone->rows = ldg_calloc(GONE_MAX, sizeof(*gone->rows));
    if (gone->rows == NULL || !ldg_id_copy(key, &gone->texts, &key) ||
        !ldg_id_copy(row->key, &gone->texts, &id))
        return ldg_fail_nomem(err);
    gone->rows[gone->count++] = (struct gone_row){
        .key = key, .id = id, .hash = hash_of(row->entry->stream, row->entry->payload)
    };
    return LEDGER_OK;
}

static int compare_gone(const void *a, const void *b)
{
    const struct gone_row *x = a, *y = b;
    return ldg_id_compare(x->key, y->key);
}

/* An id that was given out twice, by a source that was put back, may have two entries. */
static void gone_compare(struct gone *gone, const char *stream, const ledger_append_entry *entry)
{
    ledger_id id;
    size_t low = 0, high = gone->count;
    if (!ldg_id_parse(entry->id, &id))
        return;
    if (ldg_id_is_none(gone->lowest.id) || ldg_id_compare(id, gone->lowest.id) < 0)
        ldg_id_own_set(&gone->lowest, id);
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (ldg_id_compare(gone->rows[middle].key, id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < gone->count && ldg_id_equal(gone->rows[low].key, id); low++) {
        struct gone_row *row = &gone->rows[low];
        gone->open -= row->verdict == UNKNOWN;
        if (row->verdict != SAME)
            row->verdict = hash_of(stream, entry->payload) == row->hash ? SAME : OTHER;
    }
}

static void gone_compare_batch(struct gone *gone, const struct ldg_batch *batch)
{
    for (size_t i = 0; i < batch->log.count; i++) {
        const ledger_mutation_event *event = &batch->events[i].event;
        if (batch->events[i].bad != NULL || event->type != LEDGER_MUTATION_APPEND ||
            event->origin[0] != '\0')
            continue;
        for (size_t k = 0; k < event->entry_count; k++)
            gone_compare(gone, event->stream, &event->entries[k]);
    }
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
            gone_compare_batch(gone, batch);
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
        const bool same = is_same(row->entry, &page->entries[i]);
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
    page_fini(&page);
    if (rc == LEDGER_OK)
        *ret = t;
    return rc;
}

ledger_rc ldg_takeover_adopt(ledger_store *source, ledger_store *sink, int origin, ledger_id after,
                             struct ldg_takeover *ret, ledger_error *err)
{
    struct ldg_takeover gone = { 0 };
    ledger_rc rc = look_through(source, sink, origin, after, TAKE_SAME, ret, err);
    if (rc == LEDGER_OK && ret->gone > 0 && ret->other == 0)
        rc = look_through(source, sink, origin, after, TAKE_GONE, &gone, err);
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
        if (is_same(row, &page->entries[i]))
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
}

ledger_rc ldg_takeover_first(const struct ldg_cursor_keeper *cursor, ledger_store *source,
                             ledger_store *sink, int origin, struct ldg_takeover *ret,
                             ledger_error *err)
{
    char name[LDG_CURSOR_NAME_MAX];
    struct ldg_takeover t = { 0 };
    bool any = false;
    ledger_rc rc = ldg_store_origin_unclaimed(sink, &any, err);
    if (rc == LEDGER_OK && any)
        rc = look_through(source, sink, origin, ldg_id_of(0), 0, &t, err);
    if (rc == LEDGER_OK && any)
        rc = ldg_cursor_of_go(cursor, name, err);
    if (rc == LEDGER_OK && any && t.same > 0 && name[0] != '\0')
        rc = ldg_fail(err, LEDGER_ERR_FOREIGN_BRIDGE,
                      "the Go module's bridge has carried this source into table \"%s\" under the "
                      "cursor \"%.100s\"; stop it for good, and run this bridge with --name "
                      "%.100s, so that it goes on from there and carries nothing twice",
                      ledger_store_table(sink), name, name);
    else if (rc == LEDGER_OK && any && (t.same > 0 || (t.other == 0 && name[0] == '\0')))
        rc = ldg_takeover_adopt(source, sink, origin, ldg_id_of(0), &t, err);
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

ledger_rc ldg_takeover_run(struct ldg_pipe *pipe, const struct ldg_cursor *before, bool moved,
                           ledger_error *err)
{
    const struct ldg_cursor *row = &pipe->cursor.row;
    struct ldg_takeover t = { 0 };
    const int origin = pipe->origins.source;
    struct ldg_arena arena;
    ledger_id last;
    ledger_rc rc = before != NULL ? check_hand(&pipe->cursor, before, err) : LEDGER_OK;
    if (rc != LEDGER_OK || pipe->looked)
        return rc;
    rc = ldg_store_origin_carry_ids(pipe->sink, &pipe->go_origin, err);
    if (rc == LEDGER_OK && row->state[0] == '\0' && row->readable[0] == '\0') {
        rc = ldg_takeover_first(&pipe->cursor, pipe->source, pipe->sink, origin, &t, err);
    } else if (rc == LEDGER_OK && (moved || pipe->go_origin == origin)) {
        /* What it has carried since lies behind the last entry that ours has. */
        ldg_arena_init(&arena, 0);
        rc = ldg_store_origin_last(pipe->sink, origin, &arena, &last, err);
        if (rc == LEDGER_OK)
            rc = ldg_takeover_adopt(pipe->source, pipe->sink, origin, last, &t, err);
        ldg_arena_fini(&arena);
    }
    if (rc == LEDGER_OK)
        tell(pipe, &t);
    if (rc == LEDGER_OK && pipe->go_origin == 0)
        rc = ldg_store_origin_carry_ids(pipe->sink, &pipe->go_origin, err);
    pipe->looked = rc == LEDGER_OK;
    return rc;
}

void ldg_takeover_after(struct ldg_pipe *pipe)
{
    struct ldg_takeover t;
    (void)!ldg_takeover_adopt(pipe->source, pipe->sink, pipe->origins.source, ldg_id_of(0), &t,
                              NULL);
}
