/* The same random logs into every kind of sink come to the same: each op has one outcome, and
 * tables, parked events and the sinks' own logs are equal; memory is the specification.
 *
 * Two sources, A and B. A is a link of a chain, too: it holds entries of a third store C, and tags
 * and trims them. Their logs are read in pieces, forth and back again, while the sink refuses a
 * stream for a time, some events cannot be read at first, and parked ones are tried again or
 * dropped. In some rounds the tables have Go's index on source_id. Where no key of one source meets
 * another's, the sink holds at the end what A and B do. LEDGER_TEST_SEED and the number of the
 * round reproduce a failure. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "workload.h"

#define STREAMS 3
#define REFUSED "s2"
#define SOURCES 2 /* whose logs are read */
#define STORES 3  /* … and C, whose entries A has */
#define ENTRIES_MAX 400
#define EVENTS_MAX 1200
#define BATCH_MAX 60
#define TIME_US INT64_C(1764000000000000)

static const char *const streams[STREAMS] = { "s0", "s1", REFUSED };
static const char *const values[] = { "a", "b", "<&\xe2\x80\xa8>", "\"\xc3\xa9\\" };
#define VALUES (sizeof values / sizeof values[0])
#define KEYS 3

/* An entry as its source has it. */
struct own {
    bool written, alive;
    int stream;
    char key[24];
    char payload[48];
    int tag;               /* number of a value; -1: none */
    int annotations[KEYS]; /* the same */
};

struct logged {
    enum ldg_op_kind kind;
    int store;    /* of the entry */
    int mutation; /* the store that made the change */
    int64_t position, source_pos;
    int stream, value, key;
    /* Cannot be read before `readable`: nothing of it is known; its entry is; it is a trim of
     * another kind. */
    enum { PLAIN, NOTHING_KNOWN, ENTRY_KNOWN } odd;
};

struct source {
    struct own entries[STORES][ENTRIES_MAX];
    int64_t next[STORES];
    struct logged events[EVENTS_MAX];
    size_t count, read;
};

struct round {
    uint64_t random;
    unsigned number;
    bool shared_keys, odd, refuses, chain, go, dropped, readable, refusing;
    struct source sources[SOURCES];
    struct ldg_identity identities[STORES];
    ledger_store *sinks[TST_SINK_COUNT];
    int origins[STORES];
    struct ldg_cursor cursors[TST_SINK_COUNT];
    int64_t moves;
    struct ldg_arena arena;
};

static unsigned below(struct round *r, size_t n)
{
    return (unsigned)tst_random_below(&r->random, n);
}

/* --- sources --------------------------------------------------------------------------------- */

static struct logged *log_event(struct round *r, int n, enum ldg_op_kind kind, int store,
                                int64_t source_pos, int stream)
{
    struct source *s = &r->sources[n];
    struct logged *e = &s->events[s->count++];
    assert_true(s->count <= EVENTS_MAX);
    *e = (struct logged){ .kind = kind,
                          .store = store,
                          .mutation = n,
                          .position = (int64_t)s->count,
                          .source_pos = source_pos,
                          .stream = stream };
    if (r->odd && below(r, 25) == 0)
        e->odd = kind == LDG_OP_TRIM || below(r, 2) == 0 ? NOTHING_KNOWN : ENTRY_KNOWN;
    return e;
}

static bool has_key(const struct source *s, int stream, const char *key)
{
    for (int store = 0; store < STORES; store++)
        for (int64_t i = 1; i < s->next[store]; i++) {
            const struct own *entry = &s->entries[store][i];
            if (entry->alive && entry->stream == stream && strcmp(entry->key, key) == 0)
                return true;
        }
    return false;
}

/* Where transactions overlap, the lower one of two ids may come second. */
static void write_entry(struct round *r, int n, int store, int64_t pos)
{
    struct source *s = &r->sources[n];
    struct own *entry = &s->entries[store][pos];
    const int stream = (int)below(r, STREAMS);
    *entry = (struct own){ .stream = stream, .tag = -1, .annotations = { -1, -1, -1 } };
    snprintf(entry->payload, sizeof entry->payload, "{ \"n\":1%d%03" PRId64 ".50e2, \"<\":1}",
             store, pos);
    if (below(r, 3) == 0)
        snprintf(entry->key, sizeof entry->key, "%sk%u",
                 r->shared_keys ? "" : (const char *const[]){ "a", "b", "c" }[store], below(r, 6));
    if (entry->key[0] != '\0' && has_key(s, stream, entry->key))
        return;
    entry->written = entry->alive = true;
    struct logged *e = log_event(r, n, LDG_OP_APPEND, store, pos, stream);
    if (store != n) { /* it came to this source, by its own bridge */
        e->mutation = store;
        e->position = pos * 3;
    }
}

static void write_entries(struct round *r, int n, int store)
{
    struct source *s = &r->sources[n];
    const int64_t first = s->next[store];
    const bool turned = below(r, 4) == 0;
    if (first + 2 >= ENTRIES_MAX)
        return;
    s->next[store] += 2;
    write_entry(r, n, store, turned ? first + 1 : first);
    write_entry(r, n, store, turned ? first : first + 1);
}

/* An entry that is there, one of the last as a rule. NULL: none. */
static struct own *pick(struct round *r, struct source *s, int store, int64_t *ret_pos)
{
    for (int tries = 0; tries < 8 && s->next[store] > 1; tries++) {
        const size_t back = s->next[store] > 20 && below(r, 3) != 0 ? 20 : s->next[store] - 1;
        const int64_t pos = s->next[store] - 1 - below(r, back);
        *ret_pos = pos;
        if (s->entries[store][pos].alive)
            return &s->entries[store][pos];
    }
    return NULL;
}

static void change(struct round *r, int n, int store)
{
    int64_t pos = 0;
    struct own *entry = pick(r, &r->sources[n], store, &pos);
    const bool tags = below(r, 2) == 0;
    if (entry == NULL)
        return;
    struct logged *e =
        log_event(r, n, tags ? LDG_OP_SET_TAGS : LDG_OP_SET_ANNOTATIONS, store, pos, entry->stream);
    e->value = (int)below(r, VALUES + 1) - 1;
    e->key = (int)below(r, KEYS);
    if (tags)
        entry->tag = e->value;
    else
        entry->annotations[e->key] = e->value;
}

/* Some of what lies below may survive: it overlapped. */
static void trim(struct round *r, int n, int store)
{
    struct source *s = &r->sources[n];
    int64_t pos = 0;
    const bool survivors = below(r, 3) == 0;
    const struct own *last = pick(r, s, store, &pos);
    if (last == NULL)
        return;
    const int stream = last->stream;
    for (int64_t i = 1; i <= pos; i++) {
        struct own *entry = &s->entries[store][i];
        if (entry->stream == stream && entry->alive && !(survivors && below(r, 4) == 0))
            entry->alive = false;
    }
    (void)log_event(r, n, LDG_OP_TRIM, store, pos, stream);
}

static void write_some(struct round *r, int n, size_t count)
{
    while (count-- > 0 && r->sources[n].count + 4 < EVENTS_MAX) {
        const int store = r->chain && n == 0 && below(r, 3) == 0 ? 2 : n;
        const unsigned dice = below(r, 20);
        if (dice < 9)
            write_entries(r, n, store);
        else if (dice < 18)
            change(r, n, store);
        else
            trim(r, n, store);
    }
}

/* --- ops ------------------------------------------------------------------------------------- */

static const char *number_text(struct round *r, const char *before, int64_t number)
{
    char text[64];
    snprintf(text, sizeof text, "%s%" PRId64, before, number);
    return ldg_arena_strdup(&r->arena, text);
}

static void fill_append(struct round *r, const struct logged *e, const struct own *own,
                        struct ldg_op *op)
{
    static const ledger_pair pairs[] = { { "m", "1" }, { "n", "\"\xc3\xa9\\" } };
    static const char *const tags[] = { "first", "<b>" };
    ledger_append_entry *entry = ldg_arena_calloc(&r->arena, 1, sizeof *entry);
    op->time_us = TIME_US + e->source_pos * 1000;
    *entry = (ledger_append_entry){ .id = number_text(r, "", e->source_pos),
                                    .payload = { own->payload, strlen(own->payload) },
                                    .order_key = "o",
                                    .dedup_key = own->key,
                                    .schema_version = (int)(e->source_pos % 3),
                                    .created_at_us = op->time_us,
                                    .source_id = "" };
    if (e->source_pos % 4 == 0)
        entry->metadata = (ledger_map){ pairs, 2 };
    if (e->source_pos % 5 == 0)
        entry->tags = (ledger_list){ tags, 2 };
    op->entry = entry;
}

/* What the source still has of what the trim would delete, as it is asked now. */
static void fill_trim(struct round *r, const struct source *s, const struct logged *e,
                      struct ldg_op *op)
{
    ledger_id *kept = ldg_arena_calloc(&r->arena, ENTRIES_MAX, sizeof *kept);
    for (int64_t i = 1; i <= e->source_pos; i++) {
        const struct own *entry = &s->entries[e->store][i];
        if (entry->alive && entry->stream == e->stream)
            kept[op->survivor_count++] = ldg_id_of(i);
    }
    op->survivors = kept;
}

static void fill_change(struct round *r, const struct logged *e, struct ldg_op *op)
{
    const char *value = e->value >= 0 ? values[e->value] : NULL;
    if (e->kind == LDG_OP_SET_TAGS) {
        const char **items = ldg_arena_calloc(&r->arena, 1, sizeof *items);
        items[0] = value;
        op->tags = (ledger_list){ items, value != NULL };
    } else {
        ledger_pair *items = ldg_arena_calloc(&r->arena, 1, sizeof *items);
        items[0] = (ledger_pair){ number_text(r, "k", e->key), value };
        op->annotations = (ledger_map){ items, 1 };
    }
}

static void make_op(struct round *r, int n, size_t index, struct ldg_op *op)
{
    static const char *const types[] = { "append", "set_tags", "set_annotations", "trim", "odd" };
    const struct source *s = &r->sources[n];
    const struct logged *e = &s->events[index];
    *op = (struct ldg_op){ .kind = e->kind,
                           .origin = r->origins[e->store],
                           .mutation_origin = r->origins[e->mutation],
                           .position = e->position,
                           .log_position = (int64_t)index + 1,
                           .stream = streams[e->stream],
                           .key.number = e->source_pos,
                           .time_us = TIME_US + ((int64_t)index + 1000) * 1000,
                           .type_name = types[e->kind],
                           .source_uuid = r->identities[n].uuid,
                           .log_time_us = TIME_US,
                           .event = { "{}", 2 } };
    if (e->odd != PLAIN && !r->readable) {
        op->kind = LDG_OP_PARK;
        op->reason = "cannot be read yet";
        op->type_name = e->odd == ENTRY_KNOWN ? "odd" : "";
        op->key.number = e->odd == ENTRY_KNOWN ? e->source_pos : 0;
        op->stream = e->odd == ENTRY_KNOWN ? op->stream : "";
        op->origin = e->odd == ENTRY_KNOWN ? op->origin : r->origins[n];
    } else if (e->kind == LDG_OP_APPEND) {
        fill_append(r, e, &s->entries[e->store][e->source_pos], op);
    } else if (e->kind == LDG_OP_TRIM) {
        fill_trim(r, s, e, op);
    } else {
        fill_change(r, e, op);
    }
}

/* --- what a sink holds ----------------------------------------------------------------------- */

static void put(struct ldg_buf *buf, const char *fmt, ...) LEDGER_PRINTF(2, 3);
static void put(struct ldg_buf *buf, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    const int size = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    assert_true(size >= 0 && (size_t)size < sizeof text);
    assert_int_equal(ldg_buf_append(buf, text, (size_t)size), LEDGER_OK);
}

static int store_of(const struct round *r, const char *origin)
{
    for (int i = 0; i < STORES; i++)
        if (strncmp(origin, r->identities[i].uuid, strlen(r->identities[i].uuid)) == 0)
            return i;
    tst_fail("an entry of \"%s\"", origin);
}

static void put_entry(const struct round *r, const ledger_entry *e, struct ldg_buf *buf)
{
    put(buf, "\n%s %d:%s %.*s o=%s k=%s v=%d t=%" PRId64 " u=%" PRId64, e->stream,
        store_of(r, e->origin), e->source_id, (int)e->payload.size, (const char *)e->payload.data,
        e->order_key, e->dedup_key, e->schema_version, (e->created_at_us - TIME_US) / 1000,
        e->updated_at_us == LEDGER_NO_TIME ? -1 : (e->updated_at_us - TIME_US) / 1000);
    for (size_t i = 0; i < e->metadata.count; i++)
        put(buf, " m:%s=%s", e->metadata.items[i].key, e->metadata.items[i].value);
    for (size_t i = 0; i < e->tags.count; i++)
        put(buf, " [%s]", e->tags.items[i]);
    for (size_t i = 0; i < e->annotations.count; i++)
        put(buf, " {%s=%s}", e->annotations.items[i].key, e->annotations.items[i].value);
}

static void put_table(const struct round *r, ledger_store *sink, struct ldg_buf *buf)
{
    const ledger_read_options options = { .size = sizeof(options), .limit = 5000 };
    ledger_error err = { 0 };
    for (int i = 0; i < STREAMS; i++) {
        ledger_batch *batch = NULL;
        tst_ok(ledger_store_read(sink, streams[i], &options, &batch, &err), &err);
        for (size_t k = 0; k < ledger_batch_count(batch); k++)
            put_entry(r, ledger_batch_entry(batch, k), buf);
        ledger_batch_destroy(&batch);
    }
}

static size_t parked(struct round *r, ledger_store *sink, struct ldg_parked_row **ret_rows)
{
    size_t count = 0;
    ledger_error err = { 0 };
    tst_ok(ldg_store_parked_list(sink, 0, 5000, &r->arena, ret_rows, &count, &err), &err);
    return count;
}

/* Of what the database said itself only that it did. */
static void put_parked(struct round *r, ledger_store *sink, struct ldg_buf *buf)
{
    struct ldg_parked_row *rows = NULL;
    const size_t count = parked(r, sink, &rows);
    for (size_t i = 0; i < count; i++) {
        const bool waits = strncmp(rows[i].reason, "behind", 6) == 0 ||
                           strncmp(rows[i].reason, "its ", 4) == 0 ||
                           strncmp(rows[i].reason, "cannot be read", 14) == 0;
        put(buf, "\nparked %d/%" PRId64 " entry %" PRId64 " %s of %s, %" PRIu64 ": %s",
            store_of(r, rows[i].source_uuid), rows[i].log_position, rows[i].key.number,
            rows[i].type_name, rows[i].stream, rows[i].attempts,
            waits ? rows[i].reason : "refused");
    }
}

/* Ids of the sink differ; whether a trim names one does not. */
static void put_log(ledger_store *sink, struct ldg_buf *buf)
{
    const struct ldg_log_limits limits = { .max_count = 100000, .max_bytes = SIZE_MAX };
    struct ldg_log_batch batch = { 0 };
    ledger_error err = { 0 };
    ldg_arena_init(&batch.arena, 0);
    tst_ok(ldg_store_log_read(sink, "", &limits, &batch, &err), &err);
    for (size_t i = 0; i < batch.count; i++) {
        ledger_event *event = NULL;
        tst_ok(ledger_event_decode(batch.rows[i].payload, &event, &err), &err);
        const ledger_mutation_event *e = ledger_event_get(event);
        put(buf, "\nlog %s %s by %.8s of %.8s %s %s/%" PRId64, e->type_name, e->stream, e->origin,
            e->entry_origin, e->source_id, e->before_id[0] != '\0' ? "before" : "", e->origin_pos);
        for (size_t k = 0; k < e->entry_count; k++)
            put(buf, " %s", e->entries[k].source_id);
        ledger_event_destroy(&event);
    }
    ldg_arena_fini(&batch.arena);
}

/* --- all sinks ------------------------------------------------------------------------------- */

#define EACH(k)                                                                                    \
    for (int k = 0; k < TST_SINK_COUNT; k++)                                                       \
        if (r->sinks[k] != NULL)

/* The first line in which two texts differ. */
static void compare_texts(const struct round *r, int kind, const char *want, const char *got)
{
    size_t at = 0, line = 0;
    for (; want[at] == got[at] && want[at] != '\0'; at++)
        line = want[at] == '\n' ? at + 1 : line;
    if (want[at] != got[at])
        tst_fail("round %u: memory has\n%.400s\nand %s\n%.400s", r->number, want + line,
                 tst_kind_name((enum tst_kind)kind), got + line);
}

static void compare(struct round *r)
{
    struct ldg_buf want, got, want_log, got_log;
    ldg_buf_init(&want, 1 << 24);
    ldg_buf_init(&got, 1 << 24);
    ldg_buf_init(&want_log, 1 << 24);
    ldg_buf_init(&got_log, 1 << 24);
    EACH(k)
    {
        struct ldg_buf *text = k == 0 ? &want : &got, *log = k == 0 ? &want_log : &got_log;
        ldg_buf_reset(text);
        ldg_buf_reset(log);
        put_table(r, r->sinks[k], text);
        put_parked(r, r->sinks[k], text);
        put(text, "\n");
        compare_texts(r, k, want.data, text->data);
        if (!tst_kind_has_log(k))
            continue;
        put_log(r->sinks[k], log);
        put(log, "\n");
        compare_texts(r, k, want_log.data, log->data);
    }
    ldg_buf_fini(&want);
    ldg_buf_fini(&got);
    ldg_buf_fini(&want_log);
    ldg_buf_fini(&got_log);
}

static void apply(struct round *r, int n, const struct ldg_op *ops, size_t count)
{
    uint8_t outcomes[TST_SINK_COUNT][BATCH_MAX];
    struct ldg_cursor next;
    ledger_error err = { 0 };
    r->moves++;
    EACH(k)
    {
        next = r->cursors[k];
        snprintf(next.state, sizeof next.state, "state %" PRId64, r->moves);
        snprintf(next.readable, sizeof next.readable, "%019" PRId64, r->moves);
        next.moved_at_us = TIME_US;
        const struct ldg_apply batch = { .name = "c",
                                         .expected = &r->cursors[k],
                                         .next = &next,
                                         .ops = ops,
                                         .count = count,
                                         .park_rejected = true };
        tst_ok(ldg_store_apply(r->sinks[k], &batch, outcomes[k], &err), &err);
        r->cursors[k] = next;
        for (size_t i = 0; i < count; i++)
            if (outcomes[k][i] != outcomes[0][i])
                tst_fail(
                    "round %u: event %d/%" PRId64 " (%s of %" PRId64 " in %s): memory %d, %s %d",
                    r->number, n, ops[i].log_position, ops[i].type_name, ops[i].key.number,
                    ops[i].stream, outcomes[0][i], tst_kind_name((enum tst_kind)k), outcomes[k][i]);
    }
}

/* From where the log was read to, or, as after `bridge cursor set`, from before. */
static void carry(struct round *r, int n, bool back)
{
    static struct ldg_op ops[BATCH_MAX];
    struct source *s = &r->sources[n];
    size_t from = back && s->read > 0 ? below(r, s->read) : s->read, count = 0;
    const size_t size = 1 + below(r, BATCH_MAX);
    ldg_arena_reset(&r->arena);
    while (count < size && from < s->count) {
        make_op(r, n, from, &ops[count]);
        /* What is added and trimmed in one batch need not be written, and then is not refused. */
        if (count > 0 && r->refusing && ops[count].kind == LDG_OP_TRIM &&
            strcmp(ops[count].stream, REFUSED) == 0)
            break;
        from++;
        ops[count].event_index = (uint32_t)count;
        count++;
    }
    s->read = from;
    if (count > 0)
        apply(r, n, ops, count);
}

/* As `bridge parked retry` does it; 0: nothing was tried, else whether it was applied. */
static bool retry(struct round *r, size_t index)
{
    bool first = false;
    ledger_error err = { 0 };
    EACH(k)
    {
        struct ldg_parked_row *rows = NULL;
        bool applied = false;
        const size_t count = parked(r, r->sinks[k], &rows);
        if (index >= count)
            tst_fail("round %u: %s has %zu parked", r->number, tst_kind_name((enum tst_kind)k),
                     count);
        const int n = store_of(r, rows[index].source_uuid);
        const struct logged *e = &r->sources[n].events[rows[index].log_position - 1];
        struct ldg_op op;
        make_op(r, n, (size_t)rows[index].log_position - 1, &op);
        const bool gone =
            e->kind == LDG_OP_APPEND && !r->sources[n].entries[e->store][e->source_pos].alive;
        if (op.kind == LDG_OP_PARK)
            tst_ok(ldg_store_parked_note(r->sinks[k], rows[index].id, op.reason, &err), &err);
        else
            tst_ok(ldg_store_parked_retry(r->sinks[k], rows[index].id, &op,
                                          gone && e->store == n ? 0 : 1, &applied, &err),
                   &err);
        if (k == 0)
            first = applied;
        if (applied != first)
            tst_fail("round %u: event %d/%" PRId64 " tried again: memory %d, %s %d", r->number, n,
                     rows[index].log_position, first, tst_kind_name((enum tst_kind)k), applied);
    }
    return first;
}

static void drop(struct round *r, size_t index)
{
    ledger_error err = { 0 };
    r->dropped = true;
    EACH(k)
    {
        struct ldg_parked_row *rows = NULL;
        uint64_t count = 0;
        assert_true(parked(r, r->sinks[k], &rows) > index);
        tst_ok(ldg_store_parked_drop(r->sinks[k], rows[index].id, &count, &err), &err);
        assert_int_equal(count, 1);
    }
}

static void refuse(struct round *r, bool on)
{
    r->refusing = on;
    EACH(k)
    tst_refuse(r->sinks[k], on ? REFUSED : NULL);
}

static size_t parked_count(struct round *r)
{
    struct ldg_parked_row *rows = NULL;
    ldg_arena_reset(&r->arena);
    return parked(r, r->sinks[0], &rows);
}

/* --- rounds ---------------------------------------------------------------------------------- */

static void open_all(struct tst_env *env, struct round *r)
{
    ledger_error err = { 0 };
    for (int i = 0; i < STORES; i++) {
        ldg_uuid_new(r->identities[i].uuid);
        r->identities[i].epoch = 1;
    }
    for (int k = 0; k < TST_SINK_COUNT; k++) {
        if (!tst_kind_here(k))
            continue;
        char name[32];
        snprintf(name, sizeof name, "sink%d", k);
        r->sinks[k] = tst_open(env, (enum tst_kind)k, name);
        for (int i = 0; i < STORES; i++) {
            int origin = 0;
            tst_ok(ldg_store_origin_get(r->sinks[k], &r->identities[i], "", &origin, &err), &err);
            if (k == 0)
                r->origins[i] = origin;
            assert_int_equal(origin, r->origins[i]);
        }
        if (r->go && k != TST_MEMORY) {
            int chosen = 0;
            tst_exec_on(
                r->sinks[k],
                "CREATE UNIQUE INDEX idx_ledger_entries_source ON ledger_entries(source_id) "
                "WHERE source_id != ''");
            tst_ok(ldg_store_origin_carry_ids(r->sinks[k], &chosen, &err), &err);
            assert_int_equal(chosen, r->origins[0]);
        }
        tst_ok(ldg_store_cursor_get(r->sinks[k], "c", true, &r->cursors[k], &err), &err);
    }
}

static void random_step(struct round *r)
{
    const int n = (int)below(r, SOURCES);
    const unsigned dice = below(r, 20);
    write_some(r, n, below(r, 40));
    if (r->refuses && dice == 0)
        refuse(r, !r->refusing);
    if (dice == 1 || dice == 2) {
        const size_t count = parked_count(r);
        for (int i = 0; i < 4 && count > 4; i++)
            (void)retry(r, below(r, count - 4));
    }
    if (dice == 3 && r->number % 5 == 0 && parked_count(r) > 0)
        drop(r, below(r, parked_count(r)));
    carry(r, n, dice > 15);
    compare(r);
}

/* Everything read, nothing refused, whatever is parked tried again until nothing comes free. */
static void settle(struct round *r)
{
    bool any = true;
    refuse(r, false);
    r->readable = true;
    for (int n = 0; n < SOURCES; n++)
        while (r->sources[n].read < r->sources[n].count)
            carry(r, n, false);
    compare(r);
    while (any) {
        any = false;
        for (size_t i = 0; i < parked_count(r);) {
            const bool applied = retry(r, i);
            any = any || applied;
            i += !applied;
        }
    }
    compare(r);
    assert_int_equal(parked_count(r), 0);
}

/* Is each entry of A and B in the sink, once, as it is there, and no other of theirs? */
static void compare_with_sources(struct round *r)
{
    ledger_error err = { 0 };
    for (int n = 0; n < SOURCES; n++) {
        struct ldg_history_row *rows = NULL;
        size_t count = 0, at = 0;
        ldg_arena_reset(&r->arena);
        tst_ok(ldg_store_history(r->sinks[0], r->origins[n], ldg_id_of(0), 5000, SIZE_MAX,
                                 &r->arena, &rows, &count, &err),
               &err);
        for (int64_t i = 1; i < r->sources[n].next[n]; i++) {
            const struct own *own = &r->sources[n].entries[n][i];
            if (at < count && rows[at].key.number == i && !own->alive)
                tst_fail("round %u: the sink has entry %" PRId64 " of source %d, which is gone",
                         r->number, i, n);
            if (!own->alive)
                continue;
            if (at >= count || rows[at].key.number != i)
                tst_fail("round %u: the sink lacks entry %" PRId64 " of source %d", r->number, i,
                         n);
            const ledger_entry *e = rows[at++].entry;
            int set = 0;
            for (int k = 0; k < KEYS; k++)
                set += own->annotations[k] >= 0;
            if (e->annotations.count != (size_t)set)
                tst_fail("round %u: annotations of entry %" PRId64 " of source %d", r->number, i,
                         n);
            if (own->tag >= 0 &&
                (e->tags.count != 1 || strcmp(e->tags.items[0], values[own->tag]) != 0))
                tst_fail("round %u: tags of entry %" PRId64 " of source %d", r->number, i, n);
        }
        assert_int_equal(at, count);
    }
}

static void one_round(struct tst_env *env, uint64_t seed, unsigned number)
{
    struct round *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->random = seed + number * UINT64_C(0x9e3779b97f4a7c15);
    r->number = number;
    r->shared_keys = number % 3 == 0;
    r->odd = number % 2 == 0;
    r->refuses = number % 4 < 2;
    r->chain = number % 5 != 0;
    r->go = number % 3 == 1;
    ldg_arena_init(&r->arena, 0);
    for (int n = 0; n < SOURCES; n++)
        for (int i = 0; i < STORES; i++)
            r->sources[n].next[i] = 1;
    open_all(env, r);
    for (int step = 0; step < 40; step++)
        random_step(r);
    settle(r);
    if (!r->shared_keys && !r->dropped)
        compare_with_sources(r);
    ldg_arena_fini(&r->arena);
    free(r);
    tst_env_reset(env);
}

static void random_logs_into_every_sink(void **state)
{
    const uint64_t seed = tst_seed();
    for (unsigned i = 0; i < tst_scale(6); i++)
        one_round(*state, seed, i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(random_logs_into_every_sink, tst_setup, tst_teardown),
    };
    return cmocka_run_group_tests_name("random_sinks", tests, NULL, NULL);
}
