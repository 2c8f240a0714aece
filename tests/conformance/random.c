/* Random batches, handed straight to apply(): each backend comes to the same as memory, which is
 * the specification. After each batch the outcomes are equal, and at the end entries, parked events
 * and the sink's own log.
 *
 * The logs of two stores A and B are read, in pieces, forth and back again. In them are entries of
 * A, of B, of C (which A has from elsewhere), and of the sink itself, which come back. A stream is
 * refused for a time, some events cannot be read at first, and parked ones are tried again, noted
 * or dropped. Between the batches a program writes into the sink.
 *
 * A third of the rounds is calm, so that batches go in at once. Where the backend takes them, the
 * keys of A, B and C are now numbers, now texts. All rounds use the same tables,
 * with new origins and streams: what others have there must change nothing. LEDGER_TEST_SEED, as a
 * failure prints it, repeats its round alone, compared after each step; LEDGER_TEST_SCALE=1000 runs
 * ten times as many rounds. */
#include "sink.h"

#include <inttypes.h>
#include <stdlib.h>

#include "fixtures.h"
#include "workload.h"

enum { OWN, A, B, C, STORES };  /* OWN: the sink itself */
enum { MEMORY, TESTED, SIDES }; /* what is compared */
#define EACH(side) for (int side = 0; side < SIDES; side++)

#define ROUNDS 100 /* with a log, and without */
#define STEPS 16
#define STREAMS 3
#define REFUSED 2
#define ENTRIES_MAX 40 /* of a store; trims name survivors by the bits of a number */
#define EVENTS_MAX 400
#define EVENT_ENTRIES 3
#define BATCH_EVENTS 12
#define BATCH_OPS (BATCH_EVENTS * EVENT_ENTRIES)
#define NEVER_THERE 1000000000
#define RECENT_US (SINK_TIME_US + INT64_C(86400000000) * 30) /* later: the time of the call */

static const char *const values[] = { "a", "b", "<&\xe2\x80\xa8>", "\"\xc3\xa9\\" };
#define VALUES (sizeof values / sizeof values[0])
#define KEYS 3

/* An event of a log, as it is once it can be read. */
struct event {
    enum ldg_op_kind kind;
    enum { PLAIN, NOTHING_KNOWN, ENTRY_KNOWN } odd; /* cannot be read before w->readable */
    int store, mutation;                            /* of the entries; which made the change */
    int64_t position;                               /* of the mutation in its log */
    int64_t entries[EVENT_ENTRIES];
    size_t count;
    uint64_t kept;
    int stream, value, key;
};

struct log {
    struct event events[EVENTS_MAX];
    size_t count, read;
};

struct side {
    const struct conf_backend *backend;
    ledger_store *store;
    char url[CONF_URL_MAX];
    int origins[STORES];
    struct ldg_cursor cursor;
    char log_state[LDG_CURSOR_STATE_MAX]; /* where the round's part of the sink's log begins */
    int64_t own_ids[ENTRIES_MAX], own_times[ENTRIES_MAX];
    int64_t moves;     /* of the cursor */
    size_t done_count; /* of the last batch, when it was refused */
    struct ldg_op ops[BATCH_OPS];
    uint8_t outcomes[BATCH_OPS];
    size_t op_count;
};

struct world {
    struct conf_env *env;
    uint64_t seed, random;
    unsigned round;
    struct side sides[SIDES];
    struct ldg_identity identities[STORES];
    struct log logs[C]; /* of A and B */
    char streams[STREAMS][24];
    size_t own_count;
    int64_t last[STORES]; /* the entry that was appended last */
    bool has_log, readable, refusing;
    bool texts[STORES]; /* ids of its entries are texts */
    bool calm; /* a plain log, of which a batch goes in at once: nothing is parked or comes back */
    struct ldg_arena arena; /* of the step */
};

static void differ(const struct world *w, const char *fmt, ...) LEDGER_PRINTF(2, 3);
static void differ(const struct world *w, const char *fmt, ...)
{
    char text[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    fail_msg("%s, LEDGER_TEST_SEED=%" PRIu64 ": %s", w->env->backend->name, w->seed, text);
}

/* 0 … n - 1 */
static unsigned below(struct world *w, size_t n)
{
    return (unsigned)tst_random_below(&w->random, n);
}

/* --- entries --------------------------------------------------------------------------------- */

/* A number that belongs to the entry, so that it comes the same each time. */
static uint64_t entry_random(const struct world *w, int store, int64_t pos)
{
    uint64_t state = w->seed ^ ((uint64_t)store << 56) ^ ((uint64_t)pos << 32);
    return tst_random(&state);
}

static int entry_stream(const struct world *w, int store, int64_t pos)
{
    return (int)(entry_random(w, store, pos) % STREAMS);
}

static const char *text(struct world *w, const char *fmt, ...) LEDGER_PRINTF(2, 3);
static const char *text(struct world *w, const char *fmt, ...)
{
    char buf[128];
    va_list args;
    va_start(args, fmt);
    vsnprintf(buf, sizeof buf, fmt, args);
    va_end(args);
    return ldg_arena_strdup(&w->arena, buf);
}

/* Texts in no order, which are told from each other by their bytes alone. */
static ledger_id text_key(struct world *w, int64_t pos)
{
    static const char *const odd[] = {
        "a",
        "A",
        "a ",
        " a",
        "a  ",
        "012",
        "00",
        "9223372036854775808",
        "1e5",
        "+1",
        "12.0",
        "0x",
        "'",
        "\"\\",
        "%_",
        "\xc3\xa9",
        "z",
        "NULL",
        "--",
        "?1",
        "e",
        "\x01",
        "\xf0\x9f\x98\x80",
        "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
    };
    const size_t count = sizeof odd / sizeof odd[0];
    if ((size_t)pos <= count)
        return (ledger_id){ .text = odd[pos - 1] };
    return (ledger_id){ .text = text(w, "%c%02" PRId64, pos & 1 ? 'k' : 'K', pos * 17 % 40) };
}

/* The id of an entry at its origin; of the sink's own it is not the same on both sides. */
static ledger_id entry_key(struct world *w, const struct side *side, int store, int64_t pos)
{
    if (store != OWN)
        return w->texts[store] ? text_key(w, pos) : ldg_id_of(pos);
    return ldg_id_of(pos < ENTRIES_MAX && side->own_ids[pos] != 0 ? side->own_ids[pos]
                                                                  : NEVER_THERE + pos);
}

static void entry_fill(struct world *w, const struct side *side, int store, int64_t pos,
                       bool altered, ledger_append_entry *entry)
{
    static const ledger_pair pairs[] = { { "m", "1" }, { "n", "\"\xc3\xa9\\" } };
    static const char *const tags[] = { "first", "<b>" };
    const uint64_t random = entry_random(w, store, pos);
    const char *payload = text(w, "{ \"n\":1%d%03" PRId64 ".50e%d, \"<\":1}", store, pos, altered);
    char id[LEDGER_ID_TEXT_MAX];
    *entry = (ledger_append_entry){
        .id = text(w, "%s", ldg_id_text(entry_key(w, side, store, pos), id)),
        .payload = conf_bytes(payload),
        .order_key = random >> 8 & 1 ? "o" : "",
        .dedup_key = random >> 10 & 3 ? "" : text(w, "k%u", (unsigned)(random >> 16 & 3)),
        .schema_version = 1 + (int)(random >> 20 & 1),
        .created_at_us = SINK_TIME_US + pos * 1000003 + store,
        .source_id = "",
    };
    if (random >> 24 & 1)
        entry->metadata = (ledger_map){ pairs, 2 };
    if (random >> 25 & 1)
        entry->tags = (ledger_list){ tags, 2 };
    if (store == OWN)
        entry->created_at_us =
            pos < ENTRIES_MAX && side->own_times[pos] != 0 ? side->own_times[pos] : SINK_TIME_US;
    else if ((random >> 28 & 15) == 0)
        entry->created_at_us = LEDGER_NO_TIME;
}

/* --- logs ------------------------------------------------------------------------------------ */

/* In a calm round a new one to append, to change one of the last. */
static int64_t pick_entry(struct world *w, int store, enum ldg_op_kind kind)
{
    const int64_t last = w->last[store];
    if (w->calm && last + 1 < ENTRIES_MAX)
        return kind == LDG_OP_APPEND ? last + 1 : last > 4 ? last - below(w, 4) : 1;
    return store == OWN ? (int64_t)below(w, w->own_count + 1) : 1 + below(w, ENTRIES_MAX - 1);
}

static int pick_store(struct world *w, int log)
{
    const unsigned dice = below(w, 20);
    return w->calm                 ? log
           : dice < 12             ? log
           : dice < 15             ? OWN
           : dice < 17 && log == A ? C
           : dice < 19             ? log
                                   : A + B - log;
}

/* More entries of the same stream. */
static void add_entries(struct world *w, struct event *e)
{
    const size_t want = 1 + below(w, EVENT_ENTRIES);
    const int64_t end = e->store == OWN ? (int64_t)w->own_count : ENTRIES_MAX - 1;
    for (int64_t pos = e->entries[0] + 1; pos <= end && e->count < want; pos++)
        if (entry_stream(w, e->store, pos) == e->stream)
            e->entries[e->count++] = pos;
}

static void write_event(struct world *w, int log)
{
    static const enum ldg_op_kind kinds[] = {
        LDG_OP_APPEND,   LDG_OP_APPEND,          LDG_OP_APPEND,   LDG_OP_APPEND,
        LDG_OP_APPEND,   LDG_OP_SET_TAGS,        LDG_OP_SET_TAGS, LDG_OP_SET_ANNOTATIONS,
        LDG_OP_SET_TAGS, LDG_OP_SET_ANNOTATIONS, LDG_OP_TRIM
    };
    struct log *l = &w->logs[log];
    struct event *e = &l->events[l->count++];
    assert_true(l->count <= EVENTS_MAX);
    *e = (struct event){ .kind = kinds[below(w, sizeof kinds / sizeof kinds[0])],
                         .store = pick_store(w, log),
                         .count = 1,
                         .value = (int)below(w, VALUES + 1) - 1,
                         .key = (int)below(w, KEYS) };
    e->entries[0] = pick_entry(w, e->store, e->kind);
    e->stream = entry_stream(w, e->store, e->entries[0]);
    if (below(w, 16) == 0 && e->kind != LDG_OP_APPEND)
        e->stream = (int)below(w, STREAMS);
    if (e->kind == LDG_OP_APPEND) {
        add_entries(w, e);
        w->last[e->store] = e->entries[e->count - 1];
        e->mutation = below(w, 8) == 0 && e->store != OWN ? log : e->store;
    } else if (w->calm) {
        e->mutation = log;
    } else {
        e->mutation = (const int[]){ log, log, log, e->store, OWN }[below(w, 5)];
    }
    if (e->kind == LDG_OP_TRIM && below(w, 2) == 0)
        e->kept = tst_random(&w->random) & tst_random(&w->random);
    e->position = e->mutation == log ? (int64_t)l->count : 1 + below(w, 60);
    if (!w->calm && below(w, 16) == 0)
        e->odd = below(w, 2) == 0 ? NOTHING_KNOWN : ENTRY_KNOWN;
}

/* --- ops ------------------------------------------------------------------------------------- */

/* As it was read: a parked one can be decoded again. */
static ledger_bytes event_bytes(struct world *w, const struct side *side, const struct event *e,
                                int64_t log_position)
{
    ledger_append_entry entries[EVENT_ENTRIES];
    ledger_mutation_event event =
        ldg_event_blank(LEDGER_MUTATION_APPEND, w->streams[e->stream], SINK_TIME_US);
    struct ldg_buf buf;
    ledger_error err;
    if (e->kind != LDG_OP_APPEND)
        return conf_bytes(text(w, "{\"event\":%" PRId64 "}", log_position));
    for (size_t i = 0; i < e->count; i++)
        entry_fill(w, side, e->store, e->entries[i], false, &entries[i]);
    event.entries = entries;
    event.entry_count = e->count;
    ldg_buf_init(&buf, 65536);
    ok(ldg_event_encode(&event, &buf, &err));
    const ledger_bytes bytes = { ldg_arena_memdup(&w->arena, buf.data, buf.size), buf.size };
    ldg_buf_fini(&buf);
    return bytes;
}

static int compare_ids(const void *a, const void *b)
{
    return ldg_id_compare(*(const ledger_id *)a, *(const ledger_id *)b);
}

static void fill_kept(struct world *w, const struct side *side, const struct event *e,
                      struct ldg_op *op)
{
    ledger_id *kept = ldg_arena_calloc(&w->arena, ENTRIES_MAX, sizeof *kept);
    for (int64_t pos = e->store == OWN ? 0 : 1; pos < ENTRIES_MAX; pos++) {
        const ledger_id key = entry_key(w, side, e->store, pos);
        if ((e->kept >> pos & 1) != 0 && ldg_id_is_up_to(key, op->key))
            kept[op->survivor_count++] = key;
    }
    qsort(kept, op->survivor_count, sizeof *kept, compare_ids);
    op->survivors = kept;
}

static void fill_change(struct world *w, const struct event *e, struct ldg_op *op)
{
    const char *value = e->value >= 0 ? values[e->value] : NULL;
    if (e->kind == LDG_OP_SET_TAGS) {
        const char **items = ldg_arena_calloc(&w->arena, 1, sizeof *items);
        items[0] = value;
        op->tags = (ledger_list){ items, value != NULL };
    } else {
        ledger_pair *items = ldg_arena_calloc(&w->arena, 2, sizeof *items);
        items[0] = (ledger_pair){ text(w, "k%d", e->key), value };
        items[1] = (ledger_pair){ text(w, "k%d", (e->key + 1) % KEYS), "both" };
        op->annotations = (ledger_map){ items, 1 + (e->position % 3 == 0) };
    }
}

static void fill_append(struct world *w, const struct side *side, const struct event *e, size_t i,
                        bool altered, struct ldg_op *op)
{
    ledger_append_entry *entry = ldg_arena_calloc(&w->arena, 1, sizeof *entry);
    entry_fill(w, side, e->store, e->entries[i], altered, entry);
    op->entry = entry;
    op->time_us = entry->created_at_us;
    op->inexact = entry->created_at_us == LEDGER_NO_TIME;
}

static void make_park(const struct world *w, const struct side *side, int log,
                      const struct event *e, struct ldg_op *op)
{
    const bool known = e->odd == ENTRY_KNOWN && e->kind != LDG_OP_TRIM;
    op->kind = LDG_OP_PARK;
    op->reason = "cannot be read yet";
    op->type_name = known ? op->type_name : e->position % 2 ? "odd" : "";
    op->key = known ? op->key : ldg_id_of(0);
    op->stream = known || e->position % 4 == 0 ? w->streams[e->stream] : "";
    op->origin = known ? op->origin : side->origins[log];
}

/* The ops of an event; altered: its entries are others than before. */
static size_t make_ops(struct world *w, const struct side *side, int log, size_t index,
                       bool readable, bool altered, struct ldg_op *ops)
{
    static const char *const types[] = { "append", "set_tags", "set_annotations", "trim" };
    const struct event *e = &w->logs[log].events[index];
    const int64_t log_position = (int64_t)index + 1;
    const ledger_bytes bytes = event_bytes(w, side, e, log_position);
    for (size_t i = 0; i < e->count; i++) {
        struct ldg_op *op = &ops[i];
        *op = (struct ldg_op){ .kind = e->kind,
                               .origin = side->origins[e->store],
                               .mutation_origin = side->origins[e->mutation],
                               .position = e->position,
                               .log_position = log_position,
                               .stream = w->streams[e->stream],
                               .key = entry_key(w, side, e->store, e->entries[i]),
                               .time_us = SINK_TIME_US + (log_position + 100) * 1000001,
                               .type_name = types[e->kind],
                               .source_uuid = w->identities[log].uuid,
                               .log_time_us = SINK_TIME_US + log_position,
                               .event = bytes,
                               .event_index = (uint32_t)index };
        if (e->odd != PLAIN && !readable) {
            make_park(w, side, log, e, op);
            return 1;
        }
        if (e->kind == LDG_OP_APPEND)
            fill_append(w, side, e, i, altered, op);
        else if (e->kind == LDG_OP_TRIM)
            fill_kept(w, side, e, op);
        else
            fill_change(w, e, op);
    }
    return e->count;
}

/* --- what a sink holds ----------------------------------------------------------------------- */

static void put(struct ldg_buf *buf, const char *fmt, ...) LEDGER_PRINTF(2, 3);
static void put(struct ldg_buf *buf, const char *fmt, ...)
{
    char line[4096];
    va_list args;
    va_start(args, fmt);
    const int size = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    assert_true(size >= 0 && (size_t)size < sizeof line);
    assert_int_equal(ldg_buf_append(buf, line, (size_t)size), LEDGER_OK);
}

/* As far as all stores keep it. */
static void put_time(struct ldg_buf *buf, const char *name, int64_t time_us)
{
    if (time_us == LEDGER_NO_TIME)
        put(buf, " %s=none", name);
    else if (time_us >= RECENT_US)
        put(buf, " %s=now", name);
    else
        put(buf, " %s=%" PRId64, name, (time_us - SINK_TIME_US / 1000 * 1000) / 1000);
}

static char store_letter(const struct world *w, const char *origin)
{
    for (int i = A; i < STORES; i++)
        if (strncmp(origin, w->identities[i].uuid, strlen(w->identities[i].uuid)) == 0)
            return "oabc"[i];
    return *origin ? 'o' : '-';
}

/* Which of the sink's own entries has this id; -1: none. */
static int64_t own_pos(const struct side *side, int64_t id)
{
    int64_t pos = ENTRIES_MAX - 1;
    while (pos >= 0 && side->own_ids[pos] != id && id != NEVER_THERE + pos)
        pos--;
    return pos;
}

/* The sink's own entries by their order, others by their id at the origin. */
static void put_key(const struct world *w, const struct side *side, const char *origin,
                    const char *key, struct ldg_buf *buf)
{
    int64_t id = 0;
    const char letter = store_letter(w, origin);
    if ((letter == 'o' || letter == '-') && ldg_int64_parse(key, false, &id))
        put(buf, "o%" PRId64, own_pos(side, id));
    else
        put(buf, "%c%s", letter, key);
}

static void put_map(struct ldg_buf *buf, const char *name, ledger_map map)
{
    for (size_t i = 0; i < map.count; i++)
        put(buf, " %s{%s=%s}", name, map.items[i].key,
            map.items[i].value ? map.items[i].value : "(null)");
}

static void put_list(struct ldg_buf *buf, ledger_list list)
{
    for (size_t i = 0; i < list.count; i++)
        put(buf, " [%s]", list.items[i]);
}

static void put_stream(const struct world *w, const struct side *side, const char *stream,
                       struct ldg_buf *buf)
{
    ledger_batch *batch = conf_read(side->store, stream, NULL);
    for (size_t i = 0; i < ledger_batch_count(batch); i++) {
        const ledger_entry *e = ledger_batch_entry(batch, i);
        char id[24];
        snprintf(id, sizeof id, "%" PRId64, e->id.number);
        put(buf, "\nentry %s ", e->stream);
        put_key(w, side, e->origin, *e->origin ? e->source_id : id, buf);
        put(buf, " %.*s o=%s k=%s v=%d", (int)e->payload.size, (const char *)e->payload.data,
            e->order_key, e->dedup_key, e->schema_version);
        put_time(buf, "created", e->created_at_us);
        put_time(buf, "updated", e->updated_at_us);
        put_map(buf, "metadata", e->metadata);
        put_list(buf, e->tags);
        put_map(buf, "", e->annotations);
    }
    ledger_batch_destroy(&batch);
}

static size_t parked(struct world *w, const struct side *side, struct ldg_parked_row **ret_rows)
{
    size_t count = 0;
    ledger_error err;
    ok(ldg_store_parked_list(side->store, 0, 5000, &w->arena, ret_rows, &count, &err));
    return count;
}

static const struct event *row_event(const struct world *w, const struct ldg_parked_row *row)
{
    const int log = store_letter(w, row->source_uuid) == 'a' ? A : B;
    return &w->logs[log].events[row->log_position - 1];
}

/* Of what the database said itself only that it did. */
static void put_parked(struct world *w, const struct side *side, struct ldg_buf *buf)
{
    struct ldg_parked_row *rows = NULL;
    const size_t count = parked(w, side, &rows);
    for (size_t i = 0; i < count; i++) {
        const struct ldg_parked_row *row = &rows[i];
        const bool ours = strncmp(row->reason, "behind", 6) == 0 ||
                          strncmp(row->reason, "its ", 4) == 0 ||
                          strncmp(row->reason, "noted", 5) == 0 ||
                          strncmp(row->reason, "cannot be read", 14) == 0;
        const struct event *e = row_event(w, row);
        const bool own = e->store == OWN && row->key.number != 0;
        char key[LEDGER_ID_TEXT_MAX];
        if (own)
            snprintf(key, sizeof key, "o%" PRId64, own_pos(side, row->key.number));
        put(buf, "\nparked %c/%" PRId64 " entry %s %s of %s, %" PRIu64 ": %s",
            store_letter(w, row->source_uuid), row->log_position,
            own ? key : ldg_id_text(row->key, key), row->type_name, row->stream, row->attempts,
            ours ? row->reason : "refused");
        put_time(buf, "event", row->time_us);
        if (e->store != OWN) /* else it names ids of the sink */
            put(buf, " %.*s", (int)row->event.size, (const char *)row->event.data);
    }
}

/* Which entry had an id of the sink's: the log has told. */
struct names {
    const struct world *w;
    const struct side *side;
    struct ldg_arena *arena;
    struct {
        const char *id;
        const char *name;
    } items[EVENTS_MAX * EVENT_ENTRIES];
    size_t count;
};

static void name_put(struct names *names, const char *id, struct ldg_buf *buf)
{
    for (size_t i = names->count; i-- > 0;)
        if (strcmp(names->items[i].id, id) == 0) {
            put(buf, " id=%s", names->items[i].name);
            return;
        }
    put(buf, " id=%s", *id ? "?" : "");
}

static void put_logged_entry(struct names *names, const ledger_mutation_event *event,
                             const ledger_append_entry *e, struct ldg_buf *buf)
{
    const char *origin = *event->entry_origin ? event->entry_origin : event->origin;
    put(buf, " ");
    const size_t name = buf->size;
    put_key(names->w, names->side, origin, *origin ? e->source_id : e->id, buf);
    assert_true(names->count < sizeof names->items / sizeof names->items[0]);
    names->items[names->count].id = ldg_arena_strdup(names->arena, e->id);
    names->items[names->count++].name =
        ldg_arena_strndup(names->arena, buf->data + name, buf->size - name);
    put(buf, " %.*s o=%s k=%s v=%d", (int)e->payload.size, (const char *)e->payload.data,
        e->order_key, e->dedup_key, e->schema_version);
    put_time(buf, "created", e->created_at_us);
    put_map(buf, "metadata", e->metadata);
    put_list(buf, e->tags);
}

/* An append of several entries may go out in parts. */
static bool is_next_part(const ledger_mutation_event *before, const ledger_mutation_event *e)
{
    return before->type == LEDGER_MUTATION_APPEND && e->type == LEDGER_MUTATION_APPEND &&
           *e->origin != '\0' && strcmp(before->origin, e->origin) == 0 &&
           before->origin_pos == e->origin_pos && strcmp(before->stream, e->stream) == 0;
}

static void put_event(struct names *names, const ledger_mutation_event *before,
                      const ledger_mutation_event *e, struct ldg_buf *buf)
{
    if (before && is_next_part(before, e)) {
        for (size_t i = 0; i < e->entry_count; i++)
            put_logged_entry(names, e, &e->entries[i], buf);
        return;
    }
    put(buf, "\nlog %s %s by %c/%" PRId64 " of %c ", e->type_name, e->stream,
        store_letter(names->w, e->origin), e->origin_pos, store_letter(names->w, e->entry_origin));
    if (*e->source_id)
        put_key(names->w, names->side, *e->entry_origin ? e->entry_origin : e->origin, e->source_id,
                buf);
    put_time(buf, "at", e->created_at_us);
    name_put(names, e->type == LEDGER_MUTATION_TRIM ? e->before_id : e->entry_id, buf);
    put_list(buf, e->tags);
    put_map(buf, "", e->annotations);
    for (size_t i = 0; i < e->entry_count; i++)
        put_logged_entry(names, e, &e->entries[i], buf);
}

static void put_log(struct world *w, const struct side *side, char *ret_state, struct ldg_buf *buf)
{
    const struct ldg_log_limits limits = { .max_count = 10000, .max_bytes = SIZE_MAX };
    struct names *names = ldg_arena_calloc(&w->arena, 1, sizeof *names);
    struct ldg_log_batch batch = { 0 };
    ledger_mutation_event events[2];
    ledger_error err;
    *names = (struct names){ .w = w, .side = side, .arena = &w->arena };
    ldg_arena_init(&batch.arena, 0);
    ok(ldg_store_log_read(side->store, side->log_state, &limits, &batch, &err));
    for (size_t i = 0; i < batch.count; i++) {
        ok(ldg_event_decode(batch.rows[i].payload, &w->arena, &events[i & 1], &err));
        put_event(names, i > 0 ? &events[~i & 1] : NULL, &events[i & 1], buf);
    }
    if (ret_state)
        memcpy(ret_state, batch.next_state, sizeof batch.next_state);
    ldg_arena_fini(&batch.arena);
}

static void put_all(struct world *w, struct side *side, struct ldg_buf *buf)
{
    struct ldg_cursor cursor;
    ledger_error err;
    for (int i = 0; i < STREAMS; i++)
        put_stream(w, side, w->streams[i], buf);
    put_parked(w, side, buf);
    if (w->has_log)
        put_log(w, side, NULL, buf);
    ok(ldg_store_cursor_get(side->store, "c", false, &cursor, &err));
    put(buf, "\ncursor %s %s\n", cursor.readable, cursor.state);
}

/* The first line in which the sides differ. */
static void compare(struct world *w)
{
    struct ldg_buf bufs[SIDES];
    EACH(side)
    {
        ldg_buf_init(&bufs[side], 1 << 24);
        put_all(w, &w->sides[side], &bufs[side]);
    }
    const char *want = bufs[MEMORY].data, *got = bufs[TESTED].data;
    size_t at = 0, line = 0;
    for (; want[at] == got[at] && want[at] != '\0'; at++)
        line = want[at] == '\n' ? at + 1 : line;
    if (want[at] != got[at])
        differ(w, "memory has\n%.*s\nnot\n%.*s", (int)strcspn(want + line, "\n"), want + line,
               (int)strcspn(got + line, "\n"), got + line);
    EACH(side)
    ldg_buf_fini(&bufs[side]);
}

/* --- batches --------------------------------------------------------------------------------- */

/* How a batch is applied, besides its ops. */
struct manner {
    bool park_rejected, stale, keeps_cursor;
};

static ledger_rc apply_side(struct side *side, const struct manner *how, ledger_error *err)
{
    struct ldg_cursor stale = side->cursor, next = side->cursor;
    snprintf(stale.state, sizeof stale.state, "another");
    snprintf(next.state, sizeof next.state, "state %" PRId64, ++side->moves);
    snprintf(next.readable, sizeof next.readable, "%019" PRId64, side->moves);
    next.moved_at_us = SINK_TIME_US;
    const struct ldg_apply apply = { .name = "c",
                                     .expected = how->stale ? &stale : &side->cursor,
                                     .next = how->keeps_cursor ? NULL : &next,
                                     .ops = side->ops,
                                     .count = side->op_count,
                                     .park_rejected = how->park_rejected };
    memset(side->outcomes, 0xff, sizeof side->outcomes);
    const ledger_rc rc = ldg_store_apply(side->store, &apply, side->outcomes, err);
    if (rc == LEDGER_OK && !how->keeps_cursor)
        side->cursor = next;
    side->done_count = rc == LEDGER_ERR_REJECTED ? err->done_count : 0;
    return rc;
}

static void apply(struct world *w, const struct manner *how)
{
    const struct side *want = &w->sides[MEMORY], *got = &w->sides[TESTED];
    char key[LEDGER_ID_TEXT_MAX];
    ledger_error errs[SIDES] = { { 0 } };
    ledger_rc rcs[SIDES];
    EACH(side)
    rcs[side] = apply_side(&w->sides[side], how, &errs[side]);
    if (rcs[MEMORY] != rcs[TESTED] || want->done_count != got->done_count)
        differ(w, "a batch gave %s at %zu (%s), not %s at %zu (%s)", ledger_rc_name(rcs[TESTED]),
               got->done_count, rcs[TESTED] ? errs[TESTED].message : "",
               ledger_rc_name(rcs[MEMORY]), want->done_count,
               rcs[MEMORY] ? errs[MEMORY].message : "");
    for (size_t i = 0; rcs[MEMORY] == LEDGER_OK && i < want->op_count; i++)
        if (want->outcomes[i] != got->outcomes[i])
            differ(w, "event %c/%" PRId64 " (%s of %d/%s in %s): outcome %d, not %d",
                   store_letter(w, want->ops[i].source_uuid), want->ops[i].log_position,
                   want->ops[i].type_name, want->ops[i].origin, ldg_id_text(want->ops[i].key, key),
                   want->ops[i].stream, got->outcomes[i], want->outcomes[i]);
}

/* What is added and trimmed in one batch need not be written, and then is not refused. */
static bool trims_refused(const struct world *w, const struct ldg_op *op)
{
    return w->refusing && op->kind == LDG_OP_TRIM && strcmp(op->stream, w->streams[REFUSED]) == 0;
}

/* New events, or, as after `bridge cursor set`, some from before first. */
static void carry(struct world *w)
{
    const int log = below(w, 2) ? A : B;
    struct log *l = &w->logs[log];
    const bool back = l->read > 0 && below(w, 4) == 0;
    const size_t from = back ? below(w, l->read) : l->read, size = 1 + below(w, BATCH_EVENTS);
    const bool altered = below(w, 12) == 0;
    const struct manner how = { .park_rejected = altered || below(w, 5) != 0,
                                .stale = below(w, 30) == 0,
                                .keeps_cursor = below(w, 15) == 0 };
    const size_t changed = below(w, size);
    while (l->count < from + size)
        write_event(w, log);
    size_t end = from;
    EACH(side)
    {
        struct side *s = &w->sides[side];
        s->op_count = 0;
        for (end = from; end < from + size; end++) {
            struct ldg_op *ops = s->ops + s->op_count;
            const size_t count =
                make_ops(w, s, log, end, w->readable, altered && end == from + changed, ops);
            if (end > from && count > 0 && trims_refused(w, ops))
                break;
            s->op_count += count;
        }
    }
    l->read = end > l->read ? end : l->read;
    apply(w, &how);
}

/* --- parked events --------------------------------------------------------------------------- */

/* The ops of a parked event, of which the row may hold one entry. */
static size_t row_ops(struct world *w, const struct side *side, const struct ldg_parked_row *row,
                      bool readable, struct ldg_op *ops)
{
    struct ldg_op all[EVENT_ENTRIES];
    const int log = store_letter(w, row->source_uuid) == 'a' ? A : B;
    const size_t most = make_ops(w, side, log, (size_t)row->log_position - 1, readable, false, all);
    size_t count = 0;
    for (size_t i = 0; i < most; i++)
        if (ldg_id_is_none(row->key) || ldg_id_equal(all[i].key, row->key))
            ops[count++] = all[i];
    return count;
}

/* As `bridge parked retry` and `drop` do it. */
static void try_parked(struct world *w)
{
    const unsigned dice = below(w, 12), index = below(w, 1000);
    char key[LEDGER_ID_TEXT_MAX];
    bool applied[SIDES] = { false, false };
    ledger_error err;
    EACH(side)
    {
        struct side *s = &w->sides[side];
        struct ldg_parked_row *rows = NULL;
        struct ldg_op ops[EVENT_ENTRIES];
        uint64_t dropped;
        const size_t count = parked(w, s, &rows);
        if (count == 0)
            return;
        const struct ldg_parked_row *row = &rows[index % count];
        const size_t op_count = dice < 10 ? row_ops(w, s, row, dice > 0, ops) : 0;
        if (dice == 10)
            ok(ldg_store_parked_note(s->store, row->id, "noted", &err));
        else if (dice == 11)
            ok(ldg_store_parked_drop(s->store, row->id, &dropped, &err));
        else
            ok(ldg_store_parked_retry(s->store, row->id, ops, dice == 1 ? 0 : op_count,
                                      &applied[side], &err));
        if (side == TESTED && applied[MEMORY] != applied[TESTED])
            differ(w,
                   "parked event %" PRId64 " (%s of %s, entry %s) tried again: applied is %d, not "
                   "%d",
                   row->log_position, row->type_name, row->stream, ldg_id_text(row->key, key),
                   applied[TESTED], applied[MEMORY]);
    }
}

/* --- a program's writes ---------------------------------------------------------------------- */

static void append_own(struct world *w)
{
    const int64_t pos = (int64_t)w->own_count;
    ledger_error err;
    if (w->own_count + 1 >= ENTRIES_MAX || (w->refusing && entry_stream(w, OWN, pos) == REFUSED))
        return;
    EACH(side)
    {
        struct side *s = &w->sides[side];
        ledger_append_entry entry;
        ledger_ids ids;
        entry_fill(w, s, OWN, pos, false, &entry);
        const ledger_append_input input = { .payload = entry.payload,
                                            .order_key = entry.order_key,
                                            .dedup_key = entry.dedup_key,
                                            .schema_version = entry.schema_version,
                                            .metadata = entry.metadata,
                                            .tags = entry.tags };
        const char *stream = w->streams[entry_stream(w, OWN, pos)];
        ok(ledger_store_append(s->store, stream, &input, 1, &ids, &err));
        s->own_ids[pos] = ids.count > 0 ? ids.items[0].number : 0;
        ledger_ids_destroy(&ids);
        ledger_batch *batch = conf_read(s->store, stream, NULL);
        const size_t count = ledger_batch_count(batch);
        s->own_times[pos] =
            s->own_ids[pos] ? ledger_batch_entry(batch, count - 1)->created_at_us : 0;
        ledger_batch_destroy(&batch);
    }
    w->own_count++;
}

/* Of any entry of a stream, or up to it. */
static void change_local(struct world *w)
{
    const char *stream = w->streams[below(w, STREAMS - 1)];
    const unsigned dice = below(w, 9), index = below(w, 1000);
    const char *value = values[below(w, VALUES)];
    ledger_error err;
    EACH(side)
    {
        ledger_store *store = w->sides[side].store;
        ledger_batch *batch = conf_read(store, stream, NULL);
        const size_t count = ledger_batch_count(batch);
        const ledger_id id = count > 0 ? ledger_batch_entry(batch, index % count)->id : conf_id(0);
        ledger_batch_destroy(&batch);
        if (count == 0)
            return;
        if (dice < 4)
            ok(ledger_store_set_tags(store, stream, id, conf_list(value), &err));
        else if (dice < 8)
            ok(ledger_store_set_annotations(store, stream, id,
                                            conf_map({ "k0", dice < 6 ? value : NULL }), &err));
        else
            ok(ledger_store_trim(store, stream, id, NULL, &err));
    }
}

/* --- rounds ---------------------------------------------------------------------------------- */

static void refuse(struct world *w, bool on)
{
    w->refusing = on;
    EACH(side)
    w->sides[side].backend->refuse(w->sides[side].url, LEDGER_DEFAULT_TABLE,
                                   on ? w->streams[REFUSED] : NULL);
}

static void round_begin(struct world *w)
{
    const bool takes_texts = (ldg_store_caps(w->sides[TESTED].store) & LDG_CAP_TEXT_KEYS) != 0;
    ledger_error err;
    w->random = w->seed;
    w->calm = w->seed % 3 == 0;
    memset(w->last, 0, sizeof w->last);
    w->own_count = 0;
    w->readable = false;
    memset(w->logs, 0, sizeof w->logs);
    for (int i = 0; i < STREAMS; i++)
        snprintf(w->streams[i], sizeof w->streams[i], "r%u.%d", w->round, i);
    for (int i = A; i < STORES; i++) {
        ldg_uuid_new(w->identities[i].uuid);
        w->identities[i].epoch = 1;
        w->texts[i] = takes_texts && (w->seed / 3 >> i & 1) != 0;
    }
    EACH(side)
    {
        struct side *s = &w->sides[side];
        memset(s->own_ids, 0, sizeof s->own_ids);
        memset(s->own_times, 0, sizeof s->own_times);
        for (int i = A; i < STORES; i++)
            ok(ldg_store_origin_get(s->store, &w->identities[i], "", &s->origins[i], &err));
    }
}

/* The next round's part of the log begins behind this one's, and nothing stays parked. */
static void round_end(struct world *w)
{
    struct ldg_buf ignored;
    uint64_t dropped;
    ledger_error err;
    if (w->refusing)
        refuse(w, false);
    compare(w);
    ldg_buf_init(&ignored, 1 << 24);
    EACH(side)
    {
        struct side *s = &w->sides[side];
        if (w->has_log)
            put_log(w, s, s->log_state, &ignored);
        ok(ldg_store_parked_drop(s->store, 0, &dropped, &err));
    }
    ldg_buf_fini(&ignored);
}

static void step(struct world *w)
{
    const unsigned dice = below(w, 24);
    if (dice < 3)
        append_own(w);
    else if (dice < 5)
        change_local(w);
    else if (dice < 9)
        try_parked(w);
    else if (dice == 9 && !w->calm)
        refuse(w, !w->refusing);
    else if (dice == 10)
        w->readable = !w->readable;
    else
        carry(w);
}

static void run_rounds(struct conf_env *env, ledger_log_mode log)
{
    const bool alone = getenv("LEDGER_TEST_SEED") && !getenv("LEDGER_TEST_SCALE");
    const unsigned rounds = alone ? 1 : (unsigned)tst_scale(ROUNDS);
    struct world *w = test_calloc(1, sizeof *w);
    const uint64_t seed = tst_seed();
    ledger_error err;
    w->env = env;
    w->has_log = log == LEDGER_MUTATION_LOG_ON;
    ldg_arena_init(&w->arena, 0);
    EACH(side)
    {
        struct conf_env as = *env;
        struct side *s = &w->sides[side];
        s->backend = side == MEMORY ? conf_oracle() : env->backend;
        as.backend = s->backend;
        snprintf(s->url, sizeof s->url, "%s", conf_url(&as, "sink"));
        s->store = conf_open_with(&as, "sink", NULL, log, 0);
        env->stores[env->store_count++] = s->store;
        ok(ldg_store_cursor_get(s->store, "c", true, &s->cursor, &err));
    }
    for (w->round = 0; w->round < rounds; w->round++) {
        w->seed = seed + w->round;
        round_begin(w);
        for (int i = 0; i < STEPS; i++) {
            ldg_arena_reset(&w->arena);
            step(w);
            if (alone)
                compare(w);
        }
        round_end(w);
    }
    ldg_arena_fini(&w->arena);
    test_free(w);
}

static void random_batches(struct conf_env *env)
{
    run_rounds(env, LEDGER_MUTATION_LOG_ON);
}

static void random_batches_without_a_log(struct conf_env *env)
{
    run_rounds(env, LEDGER_MUTATION_LOG_OFF);
}

#define RANDOM                                                                                     \
    (LDG_CAP_ATOMIC_BATCH | LDG_CAP_TX_CURSOR | LDG_CAP_ORIGINS | LDG_CAP_PARK | LDG_CAP_TAGS |    \
     LDG_CAP_ANNOTATIONS | LDG_CAP_TRIM | LDG_CAP_MUTATION_LOG)
const struct conf_case conf_random_cases[] = {
    { "random batches", random_batches, RANDOM, offsetof(struct conf_backend, refuse), true },
    { "random batches without a log", random_batches_without_a_log, RANDOM,
      offsetof(struct conf_backend, refuse), true },
};
const size_t conf_random_case_count = sizeof(conf_random_cases) / sizeof(conf_random_cases[0]);
