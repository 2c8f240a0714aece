/* Entries, the logs of stores, and the ops that a sink is given of them.
 *
 * Everything is drawn from the round's seed; what an entry is follows from its store and position,
 * so that it comes the same each time. There are two kinds of logs: of anything, which most sinks
 * must stand, and faithful ones, as sources write them. */
#include "random.h"

const char *const world_values[VALUES] = { "a", "b", "<&\xe2\x80\xa8>", "\"\xc3\xa9\\" };

void world_differ(const struct world *w, const char *fmt, ...)
{
    char text[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    fail_msg("%s, LEDGER_TEST_SEED=%" PRIu64 ": %s", w->env->backend->name, w->seed, text);
}

/* 0 … n - 1 */
unsigned world_below(struct world *w, size_t n)
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

int entry_stream(const struct world *w, int store, int64_t pos)
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
ledger_id entry_key(struct world *w, const struct side *side, int store, int64_t pos)
{
    if (store != OWN)
        return w->texts[store] ? text_key(w, pos) : ldg_id_of(pos);
    return ldg_id_of(pos < ENTRIES_MAX && side->own_ids[pos] != 0 ? side->own_ids[pos]
                                                                  : NEVER_THERE + pos);
}

void entry_fill(struct world *w, const struct side *side, int store, int64_t pos, bool altered,
                ledger_append_entry *entry)
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
        .dedup_key = random >> 10 & 3 ? ""
                     : w->alone       ? text(w, "k%d.%" PRId64, store, pos)
                                      : text(w, "k%u", (unsigned)(random >> 16 & 3)),
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
        return kind == LDG_OP_APPEND ? last + 1 : last > 4 ? last - world_below(w, 4) : 1;
    return store == OWN ? (int64_t)world_below(w, w->own_count + 1)
                        : 1 + world_below(w, ENTRIES_MAX - 1);
}

static int pick_store(struct world *w, int log)
{
    const unsigned dice = world_below(w, 20);
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
    const size_t want = 1 + world_below(w, EVENT_ENTRIES);
    const int64_t end = e->store == OWN ? (int64_t)w->own_count : ENTRIES_MAX - 1;
    for (int64_t pos = e->entries[0] + 1; pos <= end && e->count < want; pos++)
        if (entry_stream(w, e->store, pos) == e->stream)
            e->entries[e->count++] = pos;
}

void world_write(struct world *w, int log)
{
    static const enum ldg_op_kind kinds[] = {
        LDG_OP_APPEND,   LDG_OP_APPEND,          LDG_OP_APPEND,   LDG_OP_APPEND,
        LDG_OP_APPEND,   LDG_OP_SET_TAGS,        LDG_OP_SET_TAGS, LDG_OP_SET_ANNOTATIONS,
        LDG_OP_SET_TAGS, LDG_OP_SET_ANNOTATIONS, LDG_OP_TRIM
    };
    struct log *l = &w->logs[log];
    struct event *e = &l->events[l->count++];
    assert_true(l->count <= EVENTS_MAX);
    *e = (struct event){ .kind = kinds[world_below(w, sizeof kinds / sizeof kinds[0])],
                         .store = pick_store(w, log),
                         .count = 1,
                         .value = (int)world_below(w, VALUES + 1) - 1,
                         .key = (int)world_below(w, KEYS) };
    e->entries[0] = pick_entry(w, e->store, e->kind);
    e->stream = entry_stream(w, e->store, e->entries[0]);
    if (world_below(w, 16) == 0 && e->kind != LDG_OP_APPEND)
        e->stream = (int)world_below(w, STREAMS);
    if (e->kind == LDG_OP_APPEND) {
        add_entries(w, e);
        w->last[e->store] = e->entries[e->count - 1];
        e->mutation = world_below(w, 8) == 0 && e->store != OWN ? log : e->store;
    } else if (w->calm) {
        e->mutation = log;
    } else {
        e->mutation = (const int[]){ log, log, log, e->store, OWN }[world_below(w, 5)];
    }
    if (e->kind == LDG_OP_TRIM && world_below(w, 2) == 0)
        e->kept = tst_random(&w->random) & tst_random(&w->random);
    e->position = e->mutation == log ? (int64_t)l->count : 1 + world_below(w, 60);
    if (!w->calm && world_below(w, 16) == 0)
        e->odd = world_below(w, 2) == 0 ? NOTHING_KNOWN : ENTRY_KNOWN;
}

/* --- faithful logs --------------------------------------------------------------------------- */

/* Entries of a store that a trim by this event reaches. */
static uint64_t reached(struct world *w, const struct event *e)
{
    const struct side *side = &w->sides[MEMORY];
    const ledger_id to = entry_key(w, side, e->store, e->entries[0]);
    uint64_t reached = 0;
    for (int64_t pos = 1; e->store != OWN && pos < ENTRIES_MAX; pos++)
        if (entry_stream(w, e->store, pos) == e->stream && (e->kept & entry_bit(pos)) == 0 &&
            ldg_id_is_up_to(entry_key(w, side, e->store, pos), to))
            reached |= entry_bit(pos);
    return reached;
}

/* One of these bits; 0: there are none. */
static int64_t pick_bit(struct world *w, uint64_t bits)
{
    unsigned n = bits != 0 ? world_below(w, (size_t)__builtin_popcountll(bits)) : 0;
    while (n-- > 0)
        bits &= bits - 1;
    return bits != 0 ? __builtin_ctzll(bits) : 0;
}

/* What the store that the log is of has after this event. */
static void log_event(struct world *w, struct log *l, const struct event *e)
{
    for (size_t i = 0; e->kind == LDG_OP_APPEND && i < e->count; i++) {
        l->added[e->store] |= entry_bit(e->entries[i]);
        l->has[e->store] |= entry_bit(e->entries[i]);
    }
    if (e->kind == LDG_OP_TRIM)
        l->has[e->store] &= ~reached(w, e);
}

static void write_append(struct world *w, int log, struct event *e)
{
    const uint64_t added = w->logs[log].added[log];
    const size_t want = 1 + world_below(w, EVENT_ENTRIES);
    int64_t pos = 1;
    while ((added & entry_bit(pos)) != 0)
        pos++;
    e->kind = LDG_OP_APPEND;
    e->count = 0;
    e->stream = entry_stream(w, log, pos);
    for (; pos < ENTRIES_MAX && e->count < want; pos++)
        if ((added & entry_bit(pos)) == 0 && entry_stream(w, log, pos) == e->stream)
            e->entries[e->count++] = pos;
}

/* The store itself adds an entry, or changes one that it has. */
static void write_own_event(struct world *w, int log, struct event *e)
{
    static const enum ldg_op_kind kinds[] = { LDG_OP_SET_TAGS, LDG_OP_SET_TAGS,
                                              LDG_OP_SET_ANNOTATIONS, LDG_OP_SET_ANNOTATIONS,
                                              LDG_OP_TRIM };
    const struct log *l = &w->logs[log];
    const bool full = (l->added[log] | 1) == entry_bit(ENTRIES_MAX) - 1;
    int store = world_below(w, 3) > 0 ? log : A + (int)world_below(w, C);
    *e = (struct event){
        .store = store, .mutation = log, .count = 1, .position = (int64_t)l->count + 1
    };
    if (l->has[store] == 0)
        store = e->store = log;
    if (!full && (l->has[store] == 0 || world_below(w, 2) == 0)) {
        e->store = log;
        write_append(w, log, e);
        return;
    }
    e->kind = kinds[world_below(w, sizeof kinds / sizeof kinds[0])];
    e->value = (int)world_below(w, VALUES + 1) - 1;
    e->key = (int)world_below(w, KEYS);
    e->entries[0] = l->has[store] != 0 ? pick_bit(w, l->has[store]) : 1;
    e->stream = entry_stream(w, e->store, e->entries[0]);
    if (e->kind == LDG_OP_TRIM && world_below(w, 4) == 0) /* up to an entry of another stream */
        e->stream = (int)world_below(w, STREAMS);
    if (e->kind == LDG_OP_TRIM && world_below(w, 2) == 0)
        e->kept = tst_random(&w->random) & tst_random(&w->random);
    if (!w->single && world_below(w, 30) == 0)
        e->mutation = OWN;
}

/* The next event that another store has made itself, as it stands in that log; C's go to A alone.
 */
static bool relay_event(struct world *w, int log, int from, struct event *e)
{
    struct log *l = &w->logs[log], *other = &w->logs[from];
    if (l->relayed[from] == other->count && from == C)
        world_write_faithfully(w, C);
    while (l->relayed[from] < other->count) {
        *e = other->events[l->relayed[from]++];
        e->odd = PLAIN;
        if (e->mutation == from && (e->store != C || log == A))
            return true;
    }
    return false;
}

/* As a source writes it: an entry is added once, and before it is changed; what another store has
 * made has the position that it has there. */
void world_write_faithfully(struct world *w, int log)
{
    struct log *l = &w->logs[log];
    struct event *e = &l->events[l->count];
    const unsigned dice = w->single || log == C ? 9 : world_below(w, 10);
    assert_true(l->count < EVENTS_MAX);
    if (!(dice < 2 && relay_event(w, log, A + B - log, e)) &&
        !(dice == 2 && log == A && relay_event(w, log, C, e)))
        write_own_event(w, log, e);
    if (!w->calm && world_below(w, 16) == 0)
        e->odd = world_below(w, 2) == 0 ? NOTHING_KNOWN : ENTRY_KNOWN;
    log_event(w, l, e);
    l->count++;
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

/* A bridge asks the source what it still has at that moment. */
static void fill_kept(struct world *w, const struct side *side, const struct event *e, int log,
                      struct ldg_op *op)
{
    const uint64_t has = w->alone ? w->logs[log].has[e->store] : e->kept;
    ledger_id *kept = ldg_arena_calloc(&w->arena, ENTRIES_MAX, sizeof *kept);
    for (int64_t pos = e->store == OWN ? 0 : 1; pos < ENTRIES_MAX; pos++) {
        const ledger_id key = entry_key(w, side, e->store, pos);
        if ((has & entry_bit(pos)) != 0 && ldg_id_is_up_to(key, op->key))
            kept[op->survivor_count++] = key;
    }
    qsort(kept, op->survivor_count, sizeof *kept, compare_ids);
    op->survivors = kept;
}

static void fill_change(struct world *w, const struct event *e, struct ldg_op *op)
{
    const char *value = e->value >= 0 ? world_values[e->value] : NULL;
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
size_t world_ops(struct world *w, const struct side *side, int log, size_t index, bool readable,
                 bool altered, struct ldg_op *ops)
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
            fill_kept(w, side, e, log, op);
        else
            fill_change(w, e, op);
    }
    return e->count;
}
