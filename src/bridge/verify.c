/* The proof that both sides are equal: every entry, every field, up to the cursor.
 *
 * 1. Both sides are read in pages, in order of the entries' ids at their origin, and merged. What
 *    differs becomes a candidate: (pair of origins, id).
 * 2. Candidates are settled together: the sink's rows and its cursor are read in one snapshot, then
 *    the source's rows and the events behind that cursor in another. A candidate that such an event
 *    touches is pending, one that still differs is a difference. So writers and bridges may go on.
 *    Their rows are read in pages, too, and no row that lies between them.
 * Memory: two pages, and at most CANDIDATES_MAX candidates before they are settled. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/options.h"
#include "bridge/stages.h"

#define PAGE_ROWS 1000
#define PAGE_BYTES ((size_t)4 * 1024 * 1024)
#define CANDIDATES_MAX 1000000
#define CANDIDATES_FIRST 1024
#define TRIMS_MAX 4096
#define PROGRESS_US 100000

enum field {
    FIELD_STREAM = 1 << 0,
    FIELD_PAYLOAD = 1 << 1,
    FIELD_ORDER_KEY = 1 << 2,
    FIELD_DEDUP_KEY = 1 << 3,
    FIELD_SCHEMA_VERSION = 1 << 4,
    FIELD_METADATA = 1 << 5,
    FIELD_TAGS = 1 << 6,
    FIELD_ANNOTATIONS = 1 << 7,
    FIELD_CREATED_AT = 1 << 8,
    FIELD_UPDATED_AT = 1 << 9,
};
#define FIELDS_TIME ((uint32_t)(FIELD_CREATED_AT | FIELD_UPDATED_AT))

static const char *const field_names[] = { "stream",    "payload",        "order_key",
                                           "dedup_key", "schema_version", "metadata",
                                           "tags",      "annotations",    "created_at",
                                           "updated_at" };

/* One origin, as each side numbers it. */
struct pair {
    struct ldg_identity identity;
    int source, sink; /* sink -1: it knows nothing from there */
};

/* There may be a million. */
struct candidate {
    uint32_t pair;
    bool pending; /* an event behind the cursor touches it */
    bool parked;
    bool no_created_at; /* the log did not carry this time */
    bool no_updated_at;
    ledger_id key; /* at the origin; its text in v->texts */
    uint64_t stream_hash;
};

/* A trim behind the cursor. */
struct trim {
    uint32_t pair;
    uint64_t stream_hash;
    ledger_id before; /* id at the origin */
};

struct verify {
    ledger_store *source, *sink;
    const ledger_verify_options *options;
    ledger_verify_result result;
    struct ldg_cursor_keeper cursor;
    struct ldg_identity source_identity;
    struct pair *pairs;
    size_t pair_count;
    struct candidate *candidates;
    size_t candidate_count, candidate_cap;
    struct trim *trims;
    size_t trim_count;
    struct ldg_arena texts;      /* of the keys of candidates */
    struct ldg_arena trim_texts; /* of those of trims */
    bool times_differ;           /* some candidate differs in a time */
    int64_t time_precision_us;
    uint64_t compared;
    int64_t progress_at_us;
    uint64_t reported;
    struct ldg_arena pairs_arena;
};

/* --- comparing two entries ------------------------------------------------------------------- */

/* precision: the coarser one of the two stores; rounded down, also before 1970. */
static bool time_equal(int64_t a, int64_t b, int64_t precision)
{
    if (a == LEDGER_NO_TIME || b == LEDGER_NO_TIME)
        return a == b;
    return a / precision - (a % precision < 0) == b / precision - (b % precision < 0);
}

static uint32_t compare(const struct verify *v, const ledger_entry *a, const ledger_entry *b)
{
    const int64_t precision = v->time_precision_us;
    uint32_t fields = 0;
    fields |= strcmp(a->stream, b->stream) != 0 ? FIELD_STREAM : 0;
    fields |= a->payload.size != b->payload.size ||
                      memcmp(a->payload.data, b->payload.data, a->payload.size) != 0
                  ? FIELD_PAYLOAD
                  : 0;
    fields |= strcmp(a->order_key, b->order_key) != 0 ? FIELD_ORDER_KEY : 0;
    fields |= strcmp(a->dedup_key, b->dedup_key) != 0 ? FIELD_DEDUP_KEY : 0;
    fields |= a->schema_version != b->schema_version ? FIELD_SCHEMA_VERSION : 0;
    fields |= !ldg_map_equal(a->metadata, b->metadata) ? FIELD_METADATA : 0;
    fields |= !ldg_list_equal(a->tags, b->tags) ? FIELD_TAGS : 0;
    fields |= !ldg_map_equal(a->annotations, b->annotations) ? FIELD_ANNOTATIONS : 0;
    fields |= !time_equal(a->created_at_us, b->created_at_us, precision) ? FIELD_CREATED_AT : 0;
    fields |= !time_equal(a->updated_at_us, b->updated_at_us, precision) ? FIELD_UPDATED_AT : 0;
    return fields;
}

/* Did the Go bridge carry the payload, in its encoder's form? An entry of a third store may have
 * come to the source that way, and to the sink as it was written. */
static bool is_reencoded(size_t pair, const ledger_entry *source, const ledger_entry *sink)
{
    return ldg_json_is_reencoded(source->payload, sink->payload) ||
           (pair > 0 && ldg_json_is_reencoded(sink->payload, source->payload));
}

#define VALUE_MAX 120

static void shorten(const void *data, size_t size, char text[VALUE_MAX])
{
    size_t n = size < VALUE_MAX - 1 ? size : VALUE_MAX - 4;
    while (n < size && n > 0 && (((const unsigned char *)data)[n] & 0xC0) == 0x80)
        n--; /* no half character */
    memcpy(text, data, n);
    text[n] = '\0';
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7F)
            text[i] = ' '; /* stored text is not trusted with a terminal */
    if (n < size)
        memcpy(text + n, "...", 4);
}

static void value_text(const ledger_entry *e, enum field field, char text[VALUE_MAX])
{
    struct ldg_buf buf;
    ldg_buf_init(&buf, LEDGER_MAX_PAYLOAD_BYTES);
    switch (field) {
    case FIELD_STREAM:
        (void)ldg_buf_puts(&buf, e->stream);
        break;
    case FIELD_PAYLOAD:
        (void)ldg_buf_append(&buf, e->payload.data,
                             e->payload.size < VALUE_MAX ? e->payload.size : VALUE_MAX);
        break;
    case FIELD_ORDER_KEY:
        (void)ldg_buf_puts(&buf, e->order_key);
        break;
    case FIELD_DEDUP_KEY:
        (void)ldg_buf_puts(&buf, e->dedup_key);
        break;
    case FIELD_SCHEMA_VERSION:
        (void)ldg_buf_printf(&buf, "%d", e->schema_version);
        break;
    case FIELD_METADATA:
        (void)ldg_json_put_map(&buf, e->metadata);
        break;
    case FIELD_TAGS:
        (void)ldg_json_put_list(&buf, e->tags);
        break;
    case FIELD_ANNOTATIONS:
        (void)ldg_json_put_map(&buf, e->annotations);
        break;
    case FIELD_CREATED_AT:
    case FIELD_UPDATED_AT: {
        int64_t t = field == FIELD_CREATED_AT ? e->created_at_us : e->updated_at_us;
        char time_text[LDG_TIME_TEXT_MAX] = "none";
        if (t != LEDGER_NO_TIME)
            ldg_time_format_rfc3339(t, time_text);
        (void)ldg_buf_puts(&buf, time_text);
        break;
    }
    }
    shorten(buf.size > 0 ? buf.data : "", buf.size, text);
    ldg_buf_fini(&buf);
}

/* --- reading one side page by page ----------------------------------------------------------- */

struct side {
    ledger_store *store;
    int origin;
    struct ldg_arena arena;
    struct ldg_history_row *rows;
    size_t count, next;
    struct ldg_id_own after;
    bool end;
};

static void side_init(struct side *side, ledger_store *store, int origin)
{
    memset(side, 0, sizeof(*side));
    side->store = store;
    side->origin = origin;
    side->end = origin < 0;
    ldg_arena_init(&side->arena, PAGE_BYTES * 2);
}

/* *ret_row NULL: the end. */
static ledger_rc side_peek(struct side *side, const struct ldg_history_row **ret_row,
                           ledger_error *err)
{
    if (side->next == side->count && !side->end) {
        ldg_arena_reset(&side->arena);
        side->next = side->count = 0;
        ledger_rc rc = ldg_store_history(side->store, side->origin, side->after.id, PAGE_ROWS,
                                         PAGE_BYTES, &side->arena, &side->rows, &side->count, err);
        if (rc != LEDGER_OK)
            return rc;
        side->end = side->count == 0;
        if (!side->end)
            ldg_id_own_set(&side->after, side->rows[side->count - 1].key);
    }
    *ret_row = side->next < side->count ? &side->rows[side->next] : NULL;
    return LEDGER_OK;
}

/* --- settling candidates --------------------------------------------------------------------- */

static int candidate_order(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->pair != y->pair)
        return x->pair < y->pair ? -1 : 1;
    return ldg_id_compare(x->key, y->key);
}

static struct candidate *find_candidate(struct verify *v, int pair, ledger_id id)
{
    struct candidate key = { .pair = (uint32_t)pair, .key = id };
    return pair < 0
               ? NULL
               : bsearch(&key, v->candidates, v->candidate_count, sizeof(key), candidate_order);
}

static int pair_of_text(const struct verify *v, const char *text)
{
    struct ldg_identity identity;
    if (!ldg_identity_parse(text, &identity))
        return -1;
    for (size_t i = 0; i < v->pair_count; i++)
        if (v->pairs[i].identity.epoch == identity.epoch &&
            strcmp(v->pairs[i].identity.uuid, identity.uuid) == 0)
            return (int)i;
    return -1;
}

/* By pair and stream, what reaches furthest last. */
static int trim_order(const void *a, const void *b)
{
    const struct trim *x = a, *y = b;
    if (x->pair != y->pair)
        return x->pair < y->pair ? -1 : 1;
    if (x->stream_hash != y->stream_hash)
        return x->stream_hash < y->stream_hash ? -1 : 1;
    return ldg_id_compare(x->before, y->before);
}

/* Does one of the trims, which are in order, reach the candidate? */
static bool is_trimmed(const struct verify *v, const struct candidate *c)
{
    const struct trim key = { .pair = c->pair, .stream_hash = c->stream_hash, .before = c->key };
    size_t low = 0, high = v->trim_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (trim_order(&v->trims[middle], &key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < v->trim_count && v->trims[low].pair == c->pair &&
           v->trims[low].stream_hash == c->stream_hash &&
           ldg_id_is_up_to(c->key, v->trims[low].before);
}

/* Passes the trims by all candidates, many at once: there may be as many of these as of those. */
static void pass_trims(struct verify *v)
{
    qsort(v->trims, v->trim_count, sizeof(*v->trims), trim_order);
    for (size_t i = 0; i < v->candidate_count && v->trim_count > 0; i++)
        v->candidates[i].pending |= is_trimmed(v, &v->candidates[i]);
    v->trim_count = 0;
    ldg_arena_reset(&v->trim_texts);
}

/* What an event says about candidates; `pending`: it lies behind the cursor. */
static ledger_rc see_event(struct verify *v, const ledger_mutation_event *event, bool pending,
                           ledger_error *err)
{
    bool by_source = event->origin[0] != '\0' || event->entry_origin[0] != '\0';
    int pair = !by_source ? 0
                          : pair_of_text(v, event->entry_origin[0] != '\0' ? event->entry_origin
                                                                           : event->origin);
    struct candidate *c;
    ledger_id id;
    switch (event->type) {
    case LEDGER_MUTATION_APPEND:
        for (size_t i = 0; i < event->entry_count; i++) {
            const ledger_append_entry *entry = &event->entries[i];
            if (!ldg_id_parse(by_source ? entry->source_id : entry->id, &id) ||
                (c = find_candidate(v, pair, id)) == NULL)
                continue;
            c->pending |= pending;
            c->no_created_at = entry->created_at_us == LEDGER_NO_TIME;
        }
        break;
    case LEDGER_MUTATION_SET_TAGS:
    case LEDGER_MUTATION_SET_ANNOTATIONS:
        if (!ldg_id_parse(by_source ? event->source_id : event->entry_id, &id) ||
            (c = find_candidate(v, pair, id)) == NULL)
            break;
        c->pending |= pending;
        c->no_updated_at = event->created_at_us == LEDGER_NO_TIME;
        break;
    case LEDGER_MUTATION_TRIM:
        if (!pending || pair < 0 ||
            !ldg_id_parse(by_source ? event->source_id : event->before_id, &id))
            break;
        if (v->trim_count == TRIMS_MAX)
            pass_trims(v);
        if (!ldg_id_copy(id, &v->trim_texts, &id))
            return ldg_fail_nomem(err);
        v->trims[v->trim_count++] =
            (struct trim){ .pair = (uint32_t)pair,
                           .stream_hash = ldg_hash64(event->stream, strlen(event->stream), 0),
                           .before = id };
        break;
    case LEDGER_MUTATION_UNKNOWN:
        break;
    }
    return LEDGER_OK;
}

/* Passes the events behind `from` by the candidates, but for those behind position `until`. It
 * reads to the end of the log: where transactions overlap, positions may fall. */
static ledger_rc scan_log(struct verify *v, const char *from, int64_t until, bool pending,
                          ledger_error *err)
{
    const struct ldg_log_limits limits = { .max_count = 2000, .max_bytes = PAGE_BYTES };
    struct ldg_batch *batch = ldg_calloc(1, sizeof(*batch));
    char *state = ldg_strdup(from);
    ledger_rc rc = LEDGER_OK;
    bool more = true;
    if (batch == NULL || state == NULL)
        rc = ldg_fail_nomem(err);
    else
        ldg_batch_init(batch);
    while (rc == LEDGER_OK && more) {
        rc = ldg_store_log_read(v->source, state, &limits, &batch->log, err);
        if (rc == LEDGER_OK)
            rc = ldg_decode(batch, err);
        if (rc != LEDGER_OK)
            break;
        more = batch->log.more;
        for (size_t i = 0; i < batch->log.count && rc == LEDGER_OK; i++) {
            if (batch->events[i].bad == NULL && batch->log.rows[i].position <= until)
                rc = see_event(v, &batch->events[i].event, pending, err);
        }
        ldg_free(state);
        state = ldg_strdup(batch->log.next_state);
        if (state == NULL)
            rc = ldg_fail_nomem(err);
    }
    pass_trims(v);
    if (batch != NULL)
        ldg_batch_fini(batch);
    ldg_free(batch);
    ldg_free(state);
    return rc;
}

static ledger_rc mark_parked(struct verify *v, struct ldg_arena *arena, ledger_error *err)
{
    int64_t after = 0;
    if ((ldg_store_caps(v->cursor.store) & LDG_CAP_PARK) == 0)
        return LEDGER_OK;
    for (;;) {
        struct ldg_parked_row *rows = NULL;
        size_t count = 0;
        ldg_arena_reset(arena);
        ledger_rc rc =
            ldg_store_parked_list(v->cursor.store, after, 100, arena, &rows, &count, err);
        if (rc != LEDGER_OK || count == 0)
            return rc;
        for (size_t i = 0; i < count; i++) {
            after = rows[i].id;
            struct candidate *c = strcmp(rows[i].source_uuid, v->source_identity.uuid) == 0
                                      ? find_candidate(v, 0, rows[i].key)
                                      : NULL;
            if (c != NULL)
                c->parked = true;
        }
    }
}

static void report(struct verify *v, ledger_difference_kind kind, const ledger_entry *entry,
                   ledger_id key, const char *field, const char *source_value,
                   const char *sink_value)
{
    size_t max = v->options->max_reported;
    char id[LEDGER_ID_TEXT_MAX];
    if (v->reported >= max || v->options->fn == NULL)
        return;
    v->reported++;
    ledger_difference difference = { .kind = kind,
                                     .stream = entry->stream,
                                     .source_id = ldg_id_text(key, id),
                                     .field = field,
                                     .source_value = source_value,
                                     .sink_value = sink_value };
    v->options->fn(v->options->ctx, &difference);
}

/* The entry with this id at the origin, NULL: there is none. Asked for in the order of `wanted`, so
 * that one page answers for many. */
static ledger_rc side_find(struct side *side, ledger_id key, const ledger_id *wanted,
                           size_t wanted_count, const struct ldg_history_row **ret_row,
                           ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    *ret_row = NULL;
    while (side->next < side->count && ldg_id_compare(side->rows[side->next].key, key) < 0)
        side->next++;
    if (side->next == side->count && ldg_id_compare(side->after.id, key) < 0 && !side->end) {
        ldg_arena_reset(&side->arena);
        side->next = side->count = 0;
        rc = ldg_store_history_of(side->store, side->origin, wanted, wanted_count, PAGE_BYTES,
                                  &side->arena, &side->rows, &side->count, err);
        ldg_id_own_set(&side->after, rc == LEDGER_OK && side->count > 0
                                         ? side->rows[side->count - 1].key
                                         : wanted[wanted_count - 1]);
    }
    if (rc == LEDGER_OK && side->next < side->count &&
        ldg_id_equal(side->rows[side->next].key, key))
        *ret_row = &side->rows[side->next];
    return rc;
}

/* Differences of fields, while there is room for them in the report. */
static void report_fields(struct verify *v, const struct candidate *c, uint32_t fields,
                          const ledger_entry *a, const ledger_entry *b)
{
    for (uint32_t i = 0; i < sizeof(field_names) / sizeof(field_names[0]); i++) {
        char va[VALUE_MAX], vb[VALUE_MAX];
        if ((fields >> i & 1) == 0 || v->reported >= v->options->max_reported)
            continue;
        value_text(a, (enum field)(1U << i), va);
        value_text(b, (enum field)(1U << i), vb);
        report(v, LEDGER_DIFF_FIELD, a, c->key, field_names[i], va, vb);
    }
}

/* Go stamps what it carries with times of its own. */
static uint32_t uncarried_times(const struct candidate *c, bool by_go)
{
    return (c->no_created_at || by_go ? (uint32_t)FIELD_CREATED_AT : 0) |
           (c->no_updated_at || by_go ? (uint32_t)FIELD_UPDATED_AT : 0);
}

/* by_go: the Go bridge may have written the sink's row. */
static void judge(struct verify *v, const struct candidate *c, const ledger_entry *a,
                  const ledger_entry *b, bool by_go)
{
    if (a == NULL && b == NULL)
        return; /* trimmed meanwhile, on both sides */
    if (c->pending) {
        v->result.pending_count++;
        if (b == NULL)
            v->result.source_count--; /* the cursor has not passed it */
        return;
    }
    if (a == NULL || b == NULL) {
        report(v, a == NULL ? LEDGER_DIFF_EXTRA : LEDGER_DIFF_MISSING, a == NULL ? b : a, c->key,
               "", "", "");
    } else {
        const uint32_t fields = compare(v, a, b);
        const uint32_t times = fields & uncarried_times(c, by_go);
        const uint32_t payload =
            fields & FIELD_PAYLOAD && is_reencoded(c->pair, a, b) ? (uint32_t)FIELD_PAYLOAD : 0;
        if (fields == (times | payload)) {
            v->result.time_difference_count += times != 0;
            v->result.payload_reencoded_count += payload != 0;
            return;
        }
        report_fields(v, c, fields & ~(times | payload), a, b);
    }
    v->result.difference_count++;
    if (c->parked)
        v->result.parked_count++;
}

/* Looks again at candidates of one pair, in order. */
#define LOOK_MAX 1000
static ledger_rc settle_some(struct verify *v, const struct candidate *first, size_t count,
                             struct side *source, struct side *sink, ledger_error *err)
{
    ledger_id wanted[LOOK_MAX];
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; i < count; i++)
        wanted[i] = first[i].key;
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        const struct ldg_history_row *a = NULL, *b = NULL;
        rc = side_find(source, wanted[i], wanted + i, count - i, &a, err);
        if (rc == LEDGER_OK)
            rc = side_find(sink, wanted[i], wanted + i, count - i, &b, err);
        if (rc == LEDGER_OK)
            judge(v, &first[i], a != NULL ? a->entry : NULL, b != NULL ? b->entry : NULL,
                  b != NULL && b->has_source_id);
    }
    return rc;
}

static ledger_rc settle_pair(struct verify *v, const struct candidate *first, size_t count,
                             ledger_error *err)
{
    const struct pair *pair = &v->pairs[first->pair];
    struct side source, sink;
    ledger_rc rc = LEDGER_OK;
    side_init(&source, v->source, pair->source);
    side_init(&sink, v->sink, pair->sink);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i += LOOK_MAX)
        rc = settle_some(v, first + i, count - i < LOOK_MAX ? count - i : LOOK_MAX, &source, &sink,
                         err);
    ldg_arena_fini(&source.arena);
    ldg_arena_fini(&sink.arena);
    return rc;
}

static ledger_rc settle(struct verify *v, ledger_error *err)
{
    struct ldg_arena arena;
    bool sink_snapshot = false, source_snapshot = false;
    int64_t position = 0;
    ledger_rc rc = LEDGER_OK;
    if (v->candidate_count == 0)
        return LEDGER_OK;
    ldg_arena_init(&arena, PAGE_BYTES);
    qsort(v->candidates, v->candidate_count, sizeof(*v->candidates), candidate_order);

    /* The sink first: whatever it lacks of the source's later snapshot is behind its cursor. */
    sink_snapshot = ldg_store_snapshot_begin(v->sink, NULL) == LEDGER_OK;
    rc = ldg_cursor_look(&v->cursor, v->source, &position, err);
    if (rc == LEDGER_OK)
        rc = mark_parked(v, &arena, err);
    /* Rows before the cursor do not change: this long look needs no snapshot. */
    if (rc == LEDGER_OK && v->times_differ)
        rc = scan_log(v, "", position, false, err);
    source_snapshot = rc == LEDGER_OK && ldg_store_snapshot_begin(v->source, NULL) == LEDGER_OK;
    if (rc == LEDGER_OK)
        rc = scan_log(v, v->cursor.from, INT64_MAX, true, err);
    for (size_t i = 0, end; i < v->candidate_count && rc == LEDGER_OK; i = end) {
        end = i + 1;
        while (end < v->candidate_count && v->candidates[end].pair == v->candidates[i].pair)
            end++;
        rc = settle_pair(v, &v->candidates[i], end - i, err);
    }
    if (source_snapshot)
        ldg_store_snapshot_end(v->source);
    if (sink_snapshot)
        ldg_store_snapshot_end(v->sink);
    v->candidate_count = 0;
    v->times_differ = false;
    ldg_arena_reset(&v->texts);
    ldg_arena_fini(&arena);
    return rc;
}

/* --- the merge ------------------------------------------------------------------------------- */

static ledger_rc grow_candidates(struct verify *v, ledger_error *err)
{
    size_t cap = v->candidate_cap == 0 ? CANDIDATES_FIRST : v->candidate_cap * 2;
    cap = cap < CANDIDATES_MAX ? cap : CANDIDATES_MAX;
    struct candidate *more = ldg_realloc(v->candidates, cap * sizeof(*more));
    if (more == NULL)
        return ldg_fail_nomem(err);
    v->candidates = more;
    v->candidate_cap = cap;
    return LEDGER_OK;
}

static ledger_rc add_candidate(struct verify *v, size_t pair, ledger_id key,
                               const ledger_entry *entry, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    if (v->candidate_count == v->candidate_cap)
        rc = v->candidate_cap < CANDIDATES_MAX ? grow_candidates(v, err) : settle(v, err);
    if (rc == LEDGER_OK && !ldg_id_copy(key, &v->texts, &key))
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK)
        v->candidates[v->candidate_count++] = (struct candidate){
            .pair = (uint32_t)pair,
            .key = key,
            .no_created_at = false,
            .stream_hash = ldg_hash64(entry->stream, strlen(entry->stream), 0),
        };
    return rc;
}

static void note_progress(struct verify *v)
{
    if (++v->compared % 256 != 0 || v->options->progress == NULL)
        return;
    int64_t now = ldg_clock_mono_us();
    if (now - v->progress_at_us < PROGRESS_US)
        return;
    v->progress_at_us = now;
    v->options->progress(v->options->ctx, v->compared);
}

static ledger_rc merge_pair(struct verify *v, size_t index, ledger_error *err)
{
    const struct pair *pair = &v->pairs[index];
    struct side source, sink;
    ledger_rc rc = LEDGER_OK;
    side_init(&source, v->source, pair->source);
    side_init(&sink, v->sink, pair->sink);
    while (rc == LEDGER_OK) {
        const struct ldg_history_row *a = NULL, *b = NULL;
        rc = side_peek(&source, &a, err);
        if (rc == LEDGER_OK)
            rc = side_peek(&sink, &b, err);
        if (rc != LEDGER_OK || (a == NULL && b == NULL))
            break;
        bool use_a = a != NULL && (b == NULL || ldg_id_compare(a->key, b->key) <= 0);
        bool use_b = b != NULL && (a == NULL || ldg_id_compare(b->key, a->key) <= 0);
        uint32_t fields = use_a && use_b ? compare(v, a->entry, b->entry) : 0;
        v->result.source_count += use_a;
        v->result.sink_count += use_b;
        if (fields == FIELD_PAYLOAD && is_reencoded(index, a->entry, b->entry)) {
            v->result.payload_reencoded_count++; /* a payload never changes: no second look */
        } else if (fields != 0 || use_a != use_b) {
            v->times_differ |= (fields & FIELDS_TIME) != 0;
            rc = add_candidate(v, index, use_a ? a->key : b->key, use_a ? a->entry : b->entry, err);
        }
        source.next += use_a;
        sink.next += use_b;
        note_progress(v);
    }
    ldg_arena_fini(&source.arena);
    ldg_arena_fini(&sink.arena);
    return rc;
}

/* Pair 0 is the source itself; the others are origins that it has entries of. */
static ledger_rc find_pairs(struct verify *v, ledger_error *err)
{
    struct ldg_identity sink_identity, *source_items = NULL, *sink_items = NULL;
    int *source_numbers = NULL, *sink_numbers = NULL;
    size_t source_count = 0, sink_count = 0;
    struct ldg_arena *arena = &v->pairs_arena;
    ledger_rc rc = ldg_store_identity(v->source, &v->source_identity, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_identity(v->sink, &sink_identity, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_origin_list(v->source, arena, &source_items, &source_numbers, &source_count,
                                   err);
    if (rc == LEDGER_OK)
        rc = ldg_store_origin_list(v->sink, arena, &sink_items, &sink_numbers, &sink_count, err);
    if (rc == LEDGER_OK) {
        v->pairs = ldg_arena_calloc(arena, source_count + 1, sizeof(*v->pairs));
        if (v->pairs == NULL)
            rc = ldg_fail_nomem(err);
    }
    for (size_t i = 0; i <= source_count && rc == LEDGER_OK; i++) {
        struct pair pair = { .sink = -1 };
        if (i == 0) {
            pair.identity = v->source_identity;
        } else {
            pair.identity = source_items[i - 1];
            pair.source = source_numbers[i - 1];
        }
        if (strcmp(pair.identity.uuid, sink_identity.uuid) == 0)
            continue; /* came from the sink: never carried back */
        for (size_t k = 0; k < sink_count; k++)
            if (sink_items[k].epoch == pair.identity.epoch &&
                strcmp(sink_items[k].uuid, pair.identity.uuid) == 0)
                pair.sink = sink_numbers[k];
        v->pairs[v->pair_count++] = pair;
    }
    return rc;
}

/* Entries that the bridge has carried, and that the Go bridge has left in the sink besides. */
static ledger_rc note_doubles(void *ctx, const struct ldg_left *left, size_t count,
                              ledger_error *err)
{
    struct verify *v = ctx;
    struct side sink;
    ledger_id *wanted = ldg_malloc(count * sizeof(*wanted));
    size_t wanted_count = 0, at = 0;
    ledger_rc rc = LEDGER_OK;
    if (wanted == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < count; i++)
        if (i == 0 || !ldg_id_equal(left[i].key, left[i - 1].key))
            wanted[wanted_count++] = left[i].key;
    side_init(&sink, v->sink, v->pairs[0].sink);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        const struct ldg_history_row *carried = NULL;
        at += !ldg_id_equal(wanted[at], left[i].key);
        rc = side_find(&sink, left[i].key, wanted + at, wanted_count - at, &carried, err);
        if (rc == LEDGER_OK && carried != NULL) {
            report(v, LEDGER_DIFF_DOUBLE, left[i].row, left[i].key, "", "", "");
            v->result.difference_count++;
        }
    }
    ldg_arena_fini(&sink.arena);
    ldg_free(wanted);
    return rc;
}

static ledger_rc find_doubles(struct verify *v, ledger_error *err)
{
    bool any = false;
    ledger_rc rc = ldg_store_origin_unclaimed(v->sink, &any, err);
    if (rc == LEDGER_OK && any)
        rc = ldg_takeover_each(v->source, v->sink, note_doubles, v, err);
    return rc;
}

static ledger_rc count_streams(struct verify *v, ledger_error *err)
{
    ledger_names names = { 0 };
    char *after = NULL;
    ledger_rc rc = LEDGER_OK;
    for (;;) {
        rc = ledger_store_list_streams(v->source, after, LEDGER_READ_LIMIT_MAX, &names, err);
        if (rc != LEDGER_OK || names.count == 0)
            break;
        v->result.stream_count += names.count;
        ldg_free(after);
        after = ldg_strdup(names.items[names.count - 1]);
        ledger_names_destroy(&names);
        if (after == NULL) {
            rc = ldg_fail_nomem(err);
            break;
        }
    }
    ledger_names_destroy(&names);
    ldg_free(after);
    return rc;
}

static const struct ldg_options verify_options = {
    .name = "ledger_verify_options",
    .defaults =
        &(const ledger_verify_options){
            .size = sizeof(ledger_verify_options),
            .name = LEDGER_BRIDGE_DEFAULT_NAME,
            .max_reported = 10,
        },
    .size = sizeof(ledger_verify_options),
    .least = LDG_OPTIONS_UP_TO(ledger_verify_options, state),
};

void ledger_verify_options_init(ledger_verify_options *options, size_t size)
{
    ldg_options_init(&verify_options, options, size);
}

static ledger_rc verify_new(ledger_store *source, ledger_store *sink,
                            const ledger_verify_options *options, struct verify **ret_verify,
                            ledger_error *err)
{
    struct verify *v = ldg_calloc(1, sizeof(*v));
    if (v == NULL)
        return ldg_fail_nomem(err);
    v->trims = ldg_malloc(TRIMS_MAX * sizeof(*v->trims));
    if (v->trims == NULL) {
        ldg_free(v);
        return ldg_fail_nomem(err);
    }
    v->source = source;
    v->sink = sink;
    v->time_precision_us = ldg_store_time_precision_us(source);
    if (ldg_store_time_precision_us(sink) > v->time_precision_us)
        v->time_precision_us = ldg_store_time_precision_us(sink);
    v->options = options;
    ldg_arena_init(&v->pairs_arena, 0);
    ldg_arena_init(&v->texts, 0);
    ldg_arena_init(&v->trim_texts, 0);
    v->cursor = (struct ldg_cursor_keeper){
        .store = options->state != NULL ? options->state : sink,
        .name = options->name != NULL ? options->name : LEDGER_BRIDGE_DEFAULT_NAME,
        .codec = &ledger_int64_codec,
    };
    *ret_verify = v;
    return LEDGER_OK;
}

static void verify_free(struct verify *v)
{
    ldg_arena_fini(&v->pairs_arena);
    ldg_arena_fini(&v->texts);
    ldg_arena_fini(&v->trim_texts);
    ldg_free(v->candidates);
    ldg_free(v->trims);
    ldg_free(v);
}

ledger_rc ledger_bridge_verify(ledger_store *source, ledger_store *sink,
                               const ledger_verify_options *options,
                               ledger_verify_result *ret_result, ledger_error *err)
{
    ledger_error local;
    ledger_verify_options o;
    int64_t position = 0;
    err = err != NULL ? err : &local;
    if (source == NULL || sink == NULL || ret_result == NULL)
        return ldg_fail(err, LEDGER_ERR_INVALID, "verify: source, sink or result is NULL");
    if ((ldg_store_caps(sink) & LDG_CAP_VERIFY) == 0)
        return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                        "a %s cannot be compared: what it was given cannot be read back",
                        ledger_store_backend(sink));
    struct verify *v = NULL;
    ledger_rc rc = ldg_options_take(&verify_options, options, &o, err);
    if (rc == LEDGER_OK)
        rc = verify_new(source, sink, &o, &v, err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_cursor_look(&v->cursor, source, &position, err);
    if (rc == LEDGER_ERR_NOT_FOUND)
        rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND,
                      "the %s has no cursor \"%s\": no bridge of that name has run (see --name)",
                      o.state != NULL ? "state store" : "sink", v->cursor.name);
    if (rc == LEDGER_OK)
        rc = find_pairs(v, err);
    for (size_t i = 0; i < v->pair_count && rc == LEDGER_OK; i++)
        rc = merge_pair(v, i, err);
    if (rc == LEDGER_OK)
        rc = settle(v, err);
    if (rc == LEDGER_OK)
        rc = find_doubles(v, err);
    if (rc == LEDGER_OK)
        rc = count_streams(v, err);
    if (rc == LEDGER_OK)
        rc = ldg_cursor_look(&v->cursor, source, &position, err);
    if (rc == LEDGER_OK) {
        if (ledger_int64_codec.encode((ledger_id){ .number = position }, v->result.position,
                                      NULL) != LEDGER_OK)
            v->result.position[0] = '\0';
        *ret_result = v->result;
    }
    verify_free(v);
    return rc;
}
