/* Following a store: each entry once, whatever order transactions commit in.
 *
 * Where ids rise in the order of commits that is a read behind the last id. Elsewhere an id that is
 * not there may be one that comes later, so the ids that were given are kept, down to the one below
 * which the backend says that none can come any more. Invariant: an entry is given if and only if
 * its id is above `bound` and not in `given`. */
#include <string.h>

#include "store/batch.h"
#include "store/handle.h"

/* At the end of a table with transactions open, entries so far back are told from those that come
 * late. */
#define LOOK_BACK_COUNT 10000
#define LOOK_BACK_BYTES ((size_t)8 * 1024 * 1024)
/* They go to the backend with each read. With so many above `bound` new ones have to wait until the
 * transaction ends that holds the bound back. */
#define GIVEN_MAX 100000

struct ledger_tail {
    ledger_store *store;
    char *stream; /* NULL: all */
    ledger_read_options options;
    char *after_text; /* options.after's, of a backend with texts */
    /* where an entry may come late */
    bool unordered;
    int64_t bound;
    int64_t *given; /* ascending */
    size_t given_count, given_cap;
    struct ldg_watermark watermark;
};

/* --- what was given -------------------------------------------------------------------------- */

static ledger_rc reserve(struct ledger_tail *tail, size_t more, ledger_error *err)
{
    size_t cap = tail->given_cap ? tail->given_cap : 1024;

    while (cap < tail->given_count + more)
        cap *= 2;
    if (cap > tail->given_cap) {
        int64_t *given = ldg_realloc(tail->given, cap * sizeof(*given));
        if (!given)
            return ldg_fail_nomem(err);
        tail->given = given;
        tail->given_cap = cap;
    }
    return LEDGER_OK;
}

/* Merges ids that are not in the list; there is room. ascending: of the batch. */
static void add_given(struct ledger_tail *tail, const ledger_batch *batch, bool ascending)
{
    size_t old = tail->given_count, left = batch->count, at = old + left;

    tail->given_count = at;
    while (left > 0) {
        const int64_t id = batch->entries[ascending ? left - 1 : batch->count - left].id.number;
        if (old > 0 && tail->given[old - 1] > id) {
            tail->given[--at] = tail->given[--old];
        } else {
            tail->given[--at] = id;
            left--;
        }
    }
}

static void raise_bound(struct ledger_tail *tail, int64_t bound)
{
    size_t low = 0, high = tail->given_count;

    if (bound <= tail->bound)
        return;
    tail->bound = bound;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (tail->given[middle] <= bound)
            low = middle + 1;
        else
            high = middle;
    }
    tail->given_count -= low;
    if (low && tail->given_count)
        memmove(tail->given, tail->given + low, tail->given_count * sizeof(*tail->given));
}

/* --- opening --------------------------------------------------------------------------------- */

/* Where a transaction may yet commit an entry below those that can be seen, what is there counts as
 * given: down to where ids have settled, or so far back. */
static ledger_rc look_back(struct ledger_tail *tail, ledger_error *err)
{
    ledger_read_options o = {
        .size = sizeof(o), .descending = true, .limit = 8, .max_bytes = LOOK_BACK_BYTES
    };
    int64_t lowest = INT64_MAX;
    ledger_rc rc = LEDGER_OK;

    while (rc == LEDGER_OK && lowest > tail->watermark.settled + 1 &&
           tail->given_count < LOOK_BACK_COUNT) {
        ledger_batch *batch = NULL;
        rc = ldg_store_read_more(tail->store, tail->stream, &o, &batch, err);
        if (rc == LEDGER_OK)
            rc = reserve(tail, batch->count, err);
        if (rc == LEDGER_OK) {
            add_given(tail, batch, false);
            lowest = batch->count ? batch->entries[batch->count - 1].id.number : 1;
            o.has_after = true;
            o.after.number = lowest;
            o.limit = o.limit < 1000 ? o.limit * 4 : o.limit;
        }
        ledger_batch_destroy(&batch);
    }
    if (rc == LEDGER_OK)
        raise_bound(tail,
                    tail->watermark.settled > lowest - 1 ? tail->watermark.settled : lowest - 1);
    return rc;
}

/* In a table whose ids rise in the order of commits. */
static ledger_rc move_behind(struct ledger_tail *tail, ledger_id last, ledger_error *err)
{
    char *text = NULL;

    if (last.text && !(text = ldg_strdup(last.text)))
        return ldg_fail_nomem(err);
    ldg_free(tail->after_text);
    tail->after_text = text;
    last.text = text;
    tail->options.has_after = true;
    tail->options.after = last;
    return LEDGER_OK;
}

static ledger_rc start_at_end(struct ledger_tail *tail, ledger_error *err)
{
    ledger_stream_stat stat;
    ledger_rc rc;

    if (!tail->unordered) {
        rc = tail->store->backend->store->stat(tail->store->ctx, tail->stream, &stat, err);
        if (rc == LEDGER_OK)
            rc = move_behind(tail, stat.last_id, err);
        return rc;
    }
    rc = tail->store->backend->store->watermark(tail->store->ctx, &tail->watermark, err);
    if (rc == LEDGER_OK)
        rc = look_back(tail, err);
    return rc;
}

ledger_rc ledger_tail_open(ledger_store *store, const char *stream,
                           const ledger_read_options *options, bool at_end, ledger_tail **ret_tail,
                           ledger_error *err)
{
    ledger_error local_err;
    struct ledger_tail *tail = NULL;
    if (!err)
        err = &local_err;
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, store, read), "being read", err);
    if (rc == LEDGER_OK && stream)
        rc = ldg_check_stream(stream, err);
    if (rc == LEDGER_OK && !ret_tail)
        rc = ldg_fail_null("ret_tail", err);
    if (rc != LEDGER_OK)
        goto out;
    tail = ldg_calloc(1, sizeof(*tail));
    if (!tail || (stream && !(tail->stream = ldg_strdup(stream)))) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    tail->store = store;
    /* Ids that are texts are followed in their own order. */
    tail->unordered = store->backend->store->watermark != NULL && !ldg_store_has_text_ids(store);
    rc = ldg_read_options_take(options, &tail->options, err);
    if (rc != LEDGER_OK)
        goto out;
    tail->options.descending = false;
    if (tail->unordered && tail->options.has_after)
        tail->bound = tail->options.after.number;
    if (at_end)
        rc = start_at_end(tail, err);
out:
    if (rc == LEDGER_OK)
        *ret_tail = tail;
    else
        ledger_tail_close(&tail);
    return rc;
}

void ledger_tail_close(ledger_tail **tail)
{
    if (!tail || !*tail)
        return;
    ldg_free((*tail)->stream);
    ldg_free((*tail)->after_text);
    ldg_free((*tail)->given);
    ldg_free((*tail)->watermark.writers);
    ldg_free(*tail);
    *tail = NULL;
}

/* --- reading --------------------------------------------------------------------------------- */

static ledger_rc read_ordered(struct ledger_tail *tail, ledger_batch **ret_batch, ledger_error *err)
{
    ledger_batch *batch = NULL;
    ledger_rc rc = ldg_store_read_more(tail->store, tail->stream, &tail->options, &batch, err);

    if (rc == LEDGER_OK && batch->count > 0) {
        rc = move_behind(tail, batch->entries[batch->count - 1].id, err);
        if (rc != LEDGER_OK)
            ledger_batch_destroy(&batch);
    }
    if (rc == LEDGER_OK)
        *ret_batch = batch;
    return rc;
}

/* Filters leave entries out that would hold the bound back for ever. */
static bool is_filtered(const ledger_read_options *o)
{
    return (o->order_key && *o->order_key) || (o->tag && *o->tag) || o->all_tags.count ||
           o->metadata.count || o->annotations.count;
}

/* What was committed late goes first, then what lies behind all that was given. */
static ledger_rc read_next(struct ledger_tail *tail, ledger_batch **ret_batch, ledger_error *err)
{
    ledger_read_options o = tail->options;
    ledger_rc rc = LEDGER_OK;

    o.has_after = true;
    o.after = (ledger_id){ .number = tail->bound };
    if (tail->given_count) {
        rc = ldg_store_read_gaps(tail->store, tail->stream, &o, tail->given, tail->given_count,
                                 ret_batch, err);
        if (rc != LEDGER_OK || (*ret_batch)->count || tail->given_count >= GIVEN_MAX)
            return rc;
        ledger_batch_destroy(ret_batch);
        o.after.number = tail->given[tail->given_count - 1];
    }
    return ldg_store_read_more(tail->store, tail->stream, &o, ret_batch, err);
}

static ledger_rc read_unordered(struct ledger_tail *tail, ledger_batch **ret_batch,
                                ledger_error *err)
{
    const bool full = tail->given_count >= GIVEN_MAX;
    ledger_batch *batch = NULL;
    int64_t seen = INT64_MAX;
    ledger_rc rc = LEDGER_OK;

    /* Before the read: what has settled by now the read sees. */
    if (tail->given_count || is_filtered(&tail->options))
        rc = tail->store->backend->store->watermark(tail->store->ctx, &tail->watermark, err);
    if (rc == LEDGER_OK)
        rc = read_next(tail, &batch, err);
    if (rc == LEDGER_OK)
        rc = reserve(tail, batch->count, err);
    if (rc != LEDGER_OK) {
        ledger_batch_destroy(&batch);
        return rc;
    }
    /* How far all that can be seen was given: the batch may have been cut behind its last entry. */
    if (batch->count)
        seen = batch->entries[batch->count - 1].id.number;
    else if (full)
        seen = tail->given[tail->given_count - 1];
    add_given(tail, batch, true);
    raise_bound(tail, tail->watermark.settled < seen ? tail->watermark.settled : seen);
    *ret_batch = batch;
    return rc;
}

ledger_rc ledger_tail_read(ledger_tail *tail, ledger_batch **ret_batch, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    if (!tail)
        return ldg_fail_null("tail", err);
    if (!ret_batch)
        return ldg_fail_null("ret_batch", err);
    ledger_rc rc = ldg_check_use(tail->store, LDG_USE_READ, true, "", err);
    if (rc == LEDGER_OK)
        rc = tail->unordered ? read_unordered(tail, ret_batch, err)
                             : read_ordered(tail, ret_batch, err);
    return rc;
}
