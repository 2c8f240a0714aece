/* The same random batches on every way come to the same: outcomes, rows with their positions and
 * marks, parked events, and the own log. The memory backend, which goes op by op, is the oracle.
 *
 * Two sources, A and B; both carry entries of a third store C, and change the sink's own and each
 * other's entries. Logs are read in pieces, forth and back again. LEDGER_TEST_SEED and the number
 * of the round reproduce a failure. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "event/event.h"
#include "fake_sink.h"
#include "fixtures.h"
#include "memory_faults.h"
#include "store/intern.h"
#include "workload.h"

#define STREAMS 3
#define REFUSED "s2"
#define SOURCES 2 /* A, B: whose logs are read */
#define OWN 6     /* entries of the sink's own */
#define ORIGINS 4 /* own, A, B, C */
#define ENTRIES_MAX 120
#define EVENTS_MAX 200
#define BATCH_MAX 80
#define STEPS 14
#define NAME "unit_sink_random"
#define TIME_US INT64_C(1764000000000000)

static const char *const streams[STREAMS] = { "s0", "s1", REFUSED };

struct entry {
    bool written;
    ledger_append_entry entry;
    int64_t time_us;
};

struct logged {
    struct ldg_op ops[3]; /* an append's entries */
    size_t count;
    enum { PLAIN, NOTHING_KNOWN, ENTRY_KNOWN, TRIM_KNOWN } odd; /* cannot be read yet */
};

struct source {
    struct logged events[EVENTS_MAX];
    size_t count, read;
};

enum { OPTIMISTIC, INFORMED, ONE_BY_ONE, FAKES };

struct round {
    uint64_t random;
    unsigned number;
    bool odd, refuses, readable, refusing, texts, keys;
    struct source sources[SOURCES];
    struct entry entries[ORIGINS][ENTRIES_MAX];
    int stream_of[ORIGINS][ENTRIES_MAX];
    int64_t next[ORIGINS];
    int64_t c_position;
    struct ldg_identity identities[ORIGINS];
    struct fake *fakes[FAKES];
    ledger_store *memory;
    struct ldg_cursor cursor;
    int64_t moves;
    struct ldg_arena arena, scratch;
    size_t batches, optimistic;
};

static size_t optimistic_count, restart_count, ended_early, ahead_count, parked_seen;

static unsigned below(struct round *r, size_t n)
{
    return (unsigned)tst_random_below(&r->random, n);
}

static bool one_in(struct round *r, size_t n)
{
    return below(r, n) == 0;
}

/* --- logs ------------------------------------------------------------------------------------ */

static ledger_id key_of(struct round *r, int origin, int64_t number)
{
    char text[16];

    if (origin != 3 || !r->texts)
        return ldg_id_of(number);
    snprintf(text, sizeof(text), "k%03" PRId64, number);
    return (ledger_id){ .text = ldg_arena_strdup(&r->arena, text) };
}

static const char *text_of(struct round *r, const char *fmt, ...) LEDGER_PRINTF(2, 3);
static const char *text_of(struct round *r, const char *fmt, ...)
{
    char text[64];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return ldg_arena_strdup(&r->arena, text);
}

static void make_entry(struct round *r, int origin, int64_t number)
{
    static const ledger_pair pairs[] = { { "m", "1" }, { "n", "2" } };
    static const char *const tags[] = { "first", "<b>" };
    struct entry *e = &r->entries[origin][number];
    const char *payload = text_of(r, "{ \"n\":%d.%03" PRId64 "}", origin, number);

    r->stream_of[origin][number] = (int)below(r, STREAMS);
    e->time_us = TIME_US + number * 1000;
    e->entry = (ledger_append_entry){
        .id = text_of(r, "%" PRId64, number),
        .payload = { payload, strlen(payload) },
        .order_key = "o",
        .dedup_key = "",
        .schema_version = 1 + (int)(number % 3),
        .created_at_us = e->time_us,
        .source_id = "",
    };
    if (one_in(r, 3))
        e->entry.dedup_key = text_of(r, "k%u", below(r, r->keys ? 4 : 40));
    if (number % 4 == 0)
        e->entry.metadata = (ledger_map){ pairs, 2 };
    if (number % 5 == 0)
        e->entry.tags = (ledger_list){ tags, 2 };
}

static struct logged *log_event(struct round *r, int n, enum ldg_op_kind kind, int origin,
                                int stream, int64_t number)
{
    static const char *const types[] = { "append", "set_tags", "set_annotations", "trim", "odd" };
    struct source *s = &r->sources[n];
    struct logged *e = &s->events[s->count++];

    *e = (struct logged){ .count = 1 };
    e->ops[0] = (struct ldg_op){
        .kind = kind,
        .origin = origin,
        .mutation_origin = n + 1,
        .position = (int64_t)s->count,
        .log_position = (int64_t)s->count,
        .stream = streams[stream],
        .key = key_of(r, origin, number),
        .time_us = TIME_US + ((int64_t)s->count + 1000 * n) * 1000,
        .type_name = types[kind],
        .source_uuid = r->identities[n + 1].uuid,
        .log_time_us = TIME_US,
        .event = { "{}", 2 },
    };
    if (r->odd && one_in(r, 20))
        e->odd = kind == LDG_OP_TRIM && one_in(r, 2)                            ? TRIM_KNOWN
                 : kind == LDG_OP_TRIM || one_in(r, 2) || kind == LDG_OP_APPEND ? NOTHING_KNOWN
                                                                                : ENTRY_KNOWN;
    return e;
}

static void fill_append(struct round *r, struct ldg_op *op, int origin, int64_t number)
{
    struct entry *e = &r->entries[origin][number];

    e->written = true;
    op->key = key_of(r, origin, number);
    op->entry = &e->entry;
    op->time_us = e->time_us;
    op->mutation_origin = origin;
    if (origin == 3)
        op->position = 1000 + op->log_position;
}

/* Of one stream; where transactions overlap a later id may come first. */
static void log_append(struct round *r, int n)
{
    const int origin = one_in(r, 3) ? 3 : n + 1;
    const int64_t first = r->next[origin];
    const bool turned = one_in(r, 4);
    int64_t count = one_in(r, 3) ? 3 : 1;
    struct logged *e;

    if (first + count > ENTRIES_MAX)
        return;
    if (first > 1 && one_in(r, origin == 3 ? 2 : 12)) { /* one that came before, by any way */
        const int64_t old = 1 + below(r, (size_t)first - 1);

        e = log_event(r, n, LDG_OP_APPEND, origin, r->stream_of[origin][old], old);
        fill_append(r, &e->ops[0], origin, old);
        return;
    }
    r->next[origin] += count;
    for (int64_t i = first; i < first + count; i++) {
        make_entry(r, origin, i);
        r->stream_of[origin][i] = r->stream_of[origin][first];
    }
    e = log_event(r, n, LDG_OP_APPEND, origin, r->stream_of[origin][first], first);
    e->count = (size_t)count;
    for (size_t i = 0; i < e->count; i++) {
        e->ops[i] = e->ops[0];
        fill_append(r, &e->ops[i], origin,
                    turned ? first + count - 1 - (int64_t)i : first + (int64_t)i);
    }
}

static int pick_origin(struct round *r, int n)
{
    const unsigned dice = below(r, 10);

    return dice < 5 ? n + 1 : dice < 7 ? 3 : dice < 8 ? 2 - n : dice < 9 ? 0 : n + 1;
}

/* Who changed it, and where in that one's log. */
static void fill_mutation(struct round *r, struct ldg_op *op)
{
    const unsigned dice = below(r, 12);

    if (dice == 0) {
        op->mutation_origin = 0;
    } else if (op->origin == 3 && dice < 8) {
        op->mutation_origin = 3;
        op->position = ++r->c_position - below(r, 4);
        if (op->position < 1)
            op->position = 1;
    }
}

static int64_t pick_entry(struct round *r, int origin)
{
    const int64_t count = r->next[origin] - 1;

    if (count > 12 && !one_in(r, 4))
        return count - below(r, 12);
    return 1 + below(r, (size_t)count);
}

static void log_change(struct round *r, int n)
{
    static const char *const values[] = { "a", "b", "<&>", "\"\xc3\xa9\\" };
    const int origin = pick_origin(r, n);
    const bool tags = one_in(r, 2);
    const char *value = one_in(r, 4) ? NULL : values[below(r, 4)];
    struct ldg_op *op;
    int64_t number;

    if (r->next[origin] < 2)
        return;
    number = pick_entry(r, origin);
    op = &log_event(r, n, tags ? LDG_OP_SET_TAGS : LDG_OP_SET_ANNOTATIONS, origin,
                    one_in(r, 20) ? (int)below(r, STREAMS) : r->stream_of[origin][number], number)
              ->ops[0];
    fill_mutation(r, op);
    if (tags) {
        const char **items = ldg_arena_calloc(&r->arena, 1, sizeof(*items));

        items[0] = value;
        op->tags = (ledger_list){ items, value != NULL };
    } else {
        ledger_pair *items = ldg_arena_calloc(&r->arena, 2, sizeof(*items));

        items[0] = (ledger_pair){ text_of(r, "k%u", below(r, 3)), value };
        items[1] = (ledger_pair){ text_of(r, "k%u", below(r, 3)), "last" };
        op->annotations = (ledger_map){ items, 1 + below(r, 2) };
    }
}

static void log_trim(struct round *r, int n)
{
    const int origin = pick_origin(r, n);
    int64_t number, stream;
    struct ldg_op *op;
    ledger_id *kept;

    if (r->next[origin] < 2)
        return;
    number = pick_entry(r, origin);
    stream = r->stream_of[origin][number];
    if (r->refuses && strcmp(streams[stream], REFUSED) == 0)
        return; /* what is added and trimmed in one batch nobody sees, nor refuses */
    op = &log_event(r, n, LDG_OP_TRIM, origin, (int)stream, number)->ops[0];
    fill_mutation(r, op);
    kept = ldg_arena_calloc(&r->arena, ENTRIES_MAX, sizeof(*kept));
    for (int64_t i = 1; one_in(r, 2) && i <= number; i++) {
        if (one_in(r, 4))
            kept[op->survivor_count++] = key_of(r, origin, i);
    }
    op->survivors = kept;
}

static void write_some(struct round *r, int n, size_t count)
{
    for (; count > 0 && r->sources[n].count < EVENTS_MAX; count--) {
        const unsigned dice = below(r, 20);

        if (dice < 9)
            log_append(r, n);
        else if (dice < 18)
            log_change(r, n);
        else
            log_trim(r, n);
    }
}

/* An event as it can be read now. */
static size_t ops_of(const struct round *r, int n, size_t index, struct ldg_op *ops)
{
    const struct logged *e = &r->sources[n].events[index];
    struct ldg_op *op = &ops[0];

    memcpy(ops, e->ops, e->count * sizeof(*ops));
    if (e->odd == PLAIN || r->readable)
        return e->count;
    op->kind = LDG_OP_PARK;
    op->reason = "cannot be read yet";
    op->entry = NULL;
    op->type_name = e->odd == ENTRY_KNOWN ? "odd" : e->odd == TRIM_KNOWN ? "trim" : "";
    if (e->odd == NOTHING_KNOWN) {
        op->key = ldg_id_of(0);
        op->stream = "";
        op->origin = n + 1;
    }
    return 1;
}

/* --- what a sink holds ----------------------------------------------------------------------- */

static void put(struct ldg_buf *buf, const char *fmt, ...) LEDGER_PRINTF(2, 3);
static void put(struct ldg_buf *buf, const char *fmt, ...)
{
    char text[512];
    va_list args;
    int size;

    va_start(args, fmt);
    size = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    assert_true(size >= 0 && (size_t)size < sizeof(text));
    assert_int_equal(ldg_buf_append(buf, text, (size_t)size), LEDGER_OK);
}

static void put_content(struct ldg_buf *buf, const char *stream, const char *origin,
                        const char *key, const ledger_append_entry *e, int64_t created_us,
                        int64_t updated_us, ledger_list tags, ledger_map annotations)
{
    put(buf, "\n%s %.8s:%s %.*s o=%s k=%s v=%d t=%" PRId64 " u=%" PRId64, stream, origin, key,
        (int)e->payload.size, (const char *)e->payload.data, e->order_key, e->dedup_key,
        e->schema_version, created_us - TIME_US,
        updated_us == LEDGER_NO_TIME ? -1 : updated_us - TIME_US);
    for (size_t i = 0; i < e->metadata.count; i++)
        put(buf, " m:%s=%s", e->metadata.items[i].key, e->metadata.items[i].value);
    for (size_t i = 0; i < tags.count; i++)
        put(buf, " [%s]", tags.items[i]);
    for (size_t i = 0; i < annotations.count; i++)
        put(buf, " {%s=%s}", annotations.items[i].key, annotations.items[i].value);
}

static void put_parked(struct ldg_buf *buf, const char *uuid, int64_t log_position, ledger_id key,
                       const char *type_name, const char *stream, uint64_t attempts,
                       const char *reason)
{
    const bool told = strncmp(reason, "behind", 6) == 0 || strncmp(reason, "its ", 4) == 0 ||
                      strncmp(reason, "cannot be read", 14) == 0;
    char text[LEDGER_ID_TEXT_MAX];

    put(buf, "\nparked %.8s/%" PRId64 " entry %s %s of %s, %" PRIu64 ": %s", uuid, log_position,
        ldg_id_text(key, text), type_name, stream, attempts, told ? reason : "refused");
}

static void put_memory(struct round *r, struct ldg_buf *buf)
{
    const ledger_read_options options = { .size = sizeof(options), .limit = 5000 };
    struct ldg_parked_row *rows = NULL;
    size_t count = 0;
    ledger_error err = { 0 };

    for (int i = 0; i < STREAMS; i++) {
        ledger_batch *batch = NULL;

        tst_ok(ledger_store_read(r->memory, streams[i], &options, &batch, &err), &err);
        for (size_t k = 0; k < ledger_batch_count(batch); k++) {
            const ledger_entry *e = ledger_batch_entry(batch, k);
            const ledger_append_entry content = {
                .payload = e->payload,
                .order_key = e->order_key,
                .dedup_key = e->dedup_key,
                .schema_version = e->schema_version,
                .metadata = e->metadata,
            };

            put_content(buf, e->stream, e->origin, e->source_id, &content, e->created_at_us,
                        e->updated_at_us, e->tags, e->annotations);
        }
        ledger_batch_destroy(&batch);
    }
    tst_ok(ldg_store_parked_list(r->memory, 0, 5000, &r->scratch, &rows, &count, &err), &err);
    for (size_t i = 0; i < count; i++)
        put_parked(buf, rows[i].source_uuid, rows[i].log_position, rows[i].key, rows[i].type_name,
                   rows[i].stream, rows[i].attempts, rows[i].reason);
    put(buf, "\n");
}

static void put_fake(const struct round *r, const struct fake *f, struct ldg_buf *buf)
{
    char text[LEDGER_ID_TEXT_MAX];

    for (int i = 0; i < STREAMS; i++) {
        for (size_t n = 0; n < f->now->row_count; n++) {
            const struct fake_row *row = &f->now->rows[n];

            if (strcmp(row->stream, streams[i]) != 0)
                continue;
            put_content(buf, row->stream, row->origin != 0 ? r->identities[row->origin].uuid : "",
                        row->origin != 0 ? ldg_id_text(row->key, text) : "", row->entry,
                        row->created_at_us, row->updated_at_us, row->tags, row->annotations);
        }
    }
    for (size_t n = 0; n < f->now->parked_count; n++) {
        const struct fake_parked *p = &f->now->parked[n];

        put_parked(buf, p->row.source_uuid, p->row.log_position, p->row.key, p->row.type_name,
                   p->row.stream, p->attempts, p->reason);
    }
    put(buf, "\n");
}

/* What only the fakes show: positions and marks, for the next batches. */
static void put_positions(const struct fake *f, struct ldg_buf *buf)
{
    char text[LEDGER_ID_TEXT_MAX];

    for (size_t n = 0; n < f->now->row_count; n++) {
        const struct fake_row *row = &f->now->rows[n];

        put(buf, "\n%d:%s %" PRId64 " %" PRId64, row->origin,
            ldg_id_text(row->origin != 0 ? row->key : ldg_id_of(row->id), text), row->tags_pos,
            row->annotations_pos);
        for (int origin = 1; origin < ORIGINS; origin++) {
            for (int kind = LDG_OP_SET_TAGS; kind <= LDG_OP_SET_ANNOTATIONS; kind++) {
                for (size_t i = 0; i < f->now->mark_count; i++) {
                    const struct fake_mark *m = &f->now->marks[i];

                    if (m->id == row->id && m->origin == origin && (int)m->kind == kind)
                        put(buf, " %d.%d=%" PRId64, origin, kind, m->position);
                }
            }
        }
    }
    put(buf, "\n");
}

/* grouped: with what stands in one event; else each entry has one of its own. */
static void put_event(ledger_bytes text, bool grouped, struct ldg_buf *buf)
{
    ledger_event *event = NULL;
    const ledger_mutation_event *e;
    ledger_error err = { 0 };

    tst_ok(ledger_event_decode(text, &event, &err), &err);
    e = ledger_event_get(event);
    for (size_t i = 0; *e->origin != '\0' && i < (e->entry_count != 0 ? e->entry_count : 1); i++) {
        const ledger_append_entry *a = e->entry_count != 0 ? &e->entries[i] : NULL;

        if (i == 0 || !grouped)
            put(buf, "\n%s %s by %.8s of %.8s %s %s%s/%" PRId64 " t=%" PRId64, e->type_name,
                e->stream, e->origin, e->entry_origin, e->source_id,
                *e->before_id != '\0' ? "before" : "", *e->entry_id != '\0' ? "id" : "",
                e->origin_pos,
                (grouped || a == NULL ? e->created_at_us : a->created_at_us) - TIME_US);
        if (a != NULL)
            put(buf, " %s %.*s t=%" PRId64, a->source_id, (int)a->payload.size,
                (const char *)a->payload.data, a->created_at_us - TIME_US);
    }
    for (size_t i = 0; i < e->tags.count; i++)
        put(buf, " [%s]", e->tags.items[i]);
    for (size_t i = 0; i < e->annotations.count; i++)
        put(buf, " {%s=%s}", e->annotations.items[i].key,
            e->annotations.items[i].value != NULL ? e->annotations.items[i].value : "-");
    ledger_event_destroy(&event);
}

static void put_memory_log(struct round *r, bool grouped, struct ldg_buf *buf)
{
    const struct ldg_log_limits limits = { .max_count = 100000, .max_bytes = SIZE_MAX };
    struct ldg_log_batch batch = { 0 };
    ledger_error err = { 0 };

    ldg_arena_init(&batch.arena, 0);
    tst_ok(ldg_store_log_read(r->memory, "", &limits, &batch, &err), &err);
    for (size_t i = 0; i < batch.count; i++)
        put_event(batch.rows[i].payload, grouped, buf);
    put(buf, "\n");
    ldg_arena_fini(&batch.arena);
}

/* The first line in which two texts differ. */
static void compare_texts(const struct round *r, int way, const char *want, const char *got)
{
    static const char *const names[] = { "optimistic", "informed", "one by one" };
    size_t at = 0, line = 0;

    for (; want[at] == got[at] && want[at] != '\0'; at++)
        line = want[at] == '\n' ? at + 1 : line;
    if (want[at] != got[at])
        tst_fail("round %u, step %" PRId64 ": want\n%.500s\n%s has\n%.500s", r->number, r->moves,
                 want + line, names[way], got + line);
}

static void compare(struct round *r)
{
    const char *step = getenv("LEDGER_TEST_STEP");
    struct ldg_buf want, got, positions[FAKES];

    ldg_arena_reset(&r->scratch);
    ldg_buf_init(&want, 1 << 24);
    ldg_buf_init(&got, 1 << 24);
    put_memory(r, &want);
    if (step != NULL && strtol(step, NULL, 10) == r->moves + 1)
        print_message("%s", want.data);
    for (int k = 0; k < FAKES; k++) {
        ldg_buf_reset(&got);
        put_fake(r, r->fakes[k], &got);
        compare_texts(r, k, want.data, got.data);
        ldg_buf_init(&positions[k], 1 << 24);
        put_positions(r->fakes[k], &positions[k]);
    }
    for (int k = 0; k < FAKES; k++)
        compare_texts(r, k, positions[ONE_BY_ONE].data, positions[k].data);
    for (int k = 0; k < FAKES; k++)
        ldg_buf_fini(&positions[k]);
    ldg_buf_fini(&want);
    ldg_buf_fini(&got);
}

static void compare_logs(struct round *r)
{
    struct ldg_buf want, got;

    ldg_buf_init(&want, 1 << 24);
    ldg_buf_init(&got, 1 << 24);
    for (int k = 0; k < FAKES; k++) {
        ldg_buf_reset(&want);
        ldg_buf_reset(&got);
        put_memory_log(r, k != ONE_BY_ONE, &want);
        for (size_t i = 0; i < r->fakes[k]->now->event_count; i++)
            put_event(r->fakes[k]->now->events[i], k != ONE_BY_ONE, &got);
        put(&got, "\n");
        compare_texts(r, k, want.data, got.data);
    }
    ldg_buf_fini(&want);
    ldg_buf_fini(&got);
}

/* --- batches --------------------------------------------------------------------------------- */

/* As a database refuses: what it would have to write. */
static bool refuses(void *ctx, const struct ldg_op *op)
{
    const struct round *r = ctx;

    return r->refusing && op->kind != LDG_OP_TRIM && strcmp(op->stream, REFUSED) == 0 &&
           !(op->kind == LDG_OP_APPEND && (op->origin == 0 || *op->entry->dedup_key != '\0'));
}

static void apply_fake(struct round *r, int k, const struct ldg_op *ops, size_t count,
                       uint8_t *outcomes)
{
    struct fake *f = r->fakes[k];
    ledger_error err = { 0 };

    if (k == ONE_BY_ONE) {
        for (size_t i = 0; i < count; i++)
            tst_ok(fake_apply(f, FAKE_INFORMED, &ops[i], 1, &outcomes[i], &err), &err);
    } else if (k == INFORMED) {
        tst_ok(fake_apply(f, FAKE_INFORMED, ops, count, outcomes, &err), &err);
    } else {
        tst_ok(fake_apply(f, one_in(r, 2) ? FAKE_OVERLAP : FAKE_OPTIMISTIC, ops, count, outcomes,
                          &err),
               &err);
        optimistic_count += f->was_optimistic;
    }
}

/* LEDGER_TEST_ROUND=n LEDGER_TEST_STEP=n: what was asked for, and what memory made of it. */
static void show(const struct round *r, const struct ldg_op *ops, size_t count,
                 const uint8_t *outcomes)
{
    const char *step = getenv("LEDGER_TEST_STEP");
    char id[LEDGER_ID_TEXT_MAX];

    if (step == NULL || strtol(step, NULL, 10) != r->moves)
        return;
    for (size_t i = 0; i < count; i++) {
        print_message("%zu: log %" PRId64 " kind %d %s, %d:%s in %s by %d/%" PRId64 " key %s: %d\n",
                      i, ops[i].log_position, (int)ops[i].kind, ops[i].type_name, ops[i].origin,
                      ldg_id_text(ops[i].key, id), ops[i].stream, ops[i].mutation_origin,
                      ops[i].position, ops[i].entry != NULL ? ops[i].entry->dedup_key : "",
                      outcomes[i]);
        for (size_t k = 0; k < ops[i].survivor_count; k++)
            print_message("   keeps %s\n", ldg_id_text(ops[i].survivors[k], id));
    }
}

static void apply(struct round *r, int n, const struct ldg_op *ops, size_t count)
{
    uint8_t want[BATCH_MAX], got[BATCH_MAX];
    struct ldg_cursor next = r->cursor;
    char id[LEDGER_ID_TEXT_MAX];
    ledger_error err = { 0 };
    const struct ldg_apply batch = {
        .name = "c",
        .expected = &r->cursor,
        .next = &next,
        .ops = ops,
        .count = count,
        .park_rejected = true,
    };

    r->moves++;
    snprintf(next.state, sizeof(next.state), "state %" PRId64, r->moves);
    snprintf(next.readable, sizeof(next.readable), "%019" PRId64, r->moves);
    tst_ok(ldg_store_apply(r->memory, &batch, want, &err), &err);
    r->cursor = next;
    show(r, ops, count, want);
    for (int k = 0; k < FAKES; k++) {
        memset(got, 0xff, sizeof(got));
        apply_fake(r, k, ops, count, got);
        for (size_t i = 0; i < count; i++) {
            if (got[i] != want[i])
                tst_fail("round %u, step %" PRId64 ": op %zu of %zu, event %d/%" PRId64
                         " (%s of %s in %s, origin %d by %d): memory %d, way %d%s: %d",
                         r->number, r->moves, i, count, n, ops[i].log_position, ops[i].type_name,
                         ldg_id_text(ops[i].key, id), ops[i].stream, ops[i].origin,
                         ops[i].mutation_origin, want[i], k,
                         r->fakes[k]->was_optimistic ? " (optimistic)" : "", got[i]);
        }
    }
}

/* From where the log was read to, or, as after `bridge cursor set`, from before. */
static void carry(struct round *r, int n, bool back)
{
    static struct ldg_op ops[BATCH_MAX + 3];
    struct source *s = &r->sources[n];
    size_t from = back && s->read > 0 ? below(r, s->read) : s->read, count = 0;
    const size_t size = 1 + below(r, one_in(r, 3) ? 6 : BATCH_MAX - 3);

    while (count < size && from < s->count) {
        const size_t more = ops_of(r, n, from, &ops[count]);

        for (size_t i = 0; i < more; i++)
            ops[count + i].event_index = (uint32_t)from;
        count += more;
        from++;
    }
    s->read = from;
    if (count > 0)
        apply(r, n, ops, count);
}

/* As `bridge parked retry` does it. False: it was not applied. */
static bool retry(struct round *r, size_t index)
{
    struct ldg_parked_row *rows = NULL;
    struct ldg_op ops[3];
    size_t count = 0, kept = 0;
    bool want = false, got = false;
    ledger_error err = { 0 };
    int n;

    tst_ok(ldg_store_parked_list(r->memory, 0, 5000, &r->scratch, &rows, &count, &err), &err);
    assert_true(index < count);
    n = strcmp(rows[index].source_uuid, r->identities[1].uuid) == 0 ? 0 : 1;
    count = ops_of(r, n, (size_t)rows[index].log_position - 1, ops);
    if (ops[0].kind == LDG_OP_PARK)
        return false;
    for (size_t i = 0; i < count; i++) { /* of a part of an event that part */
        if (ldg_id_is_none(rows[index].key) || ldg_id_equal(ops[i].key, rows[index].key))
            ops[kept++] = ops[i];
    }
    show(r, ops, kept, (const uint8_t[3]){ 9, 9, 9 });
    tst_ok(ldg_store_parked_retry(r->memory, rows[index].id, ops, kept, &want, &err), &err);
    for (int k = 0; k < FAKES; k++) {
        tst_ok(fake_retry(r->fakes[k], index, ops, kept, &got, &err), &err);
        if (got != want)
            tst_fail("round %u, step %" PRId64 ": event %d/%" PRId64
                     " tried again: memory %d, way %d: %d (%s)",
                     r->number, r->moves, n, ops[0].log_position, want, k, got, err.message);
    }
    return want;
}

static size_t parked_count(const struct round *r)
{
    return r->fakes[ONE_BY_ONE]->now->parked_count;
}

/* --- rounds ---------------------------------------------------------------------------------- */

static void open_all(struct round *r)
{
    ledger_store_options options;
    ledger_error err = { 0 };

    ledger_store_options_defaults(&options);
    options.url = "memory:" NAME;
    options.log = LEDGER_MUTATION_LOG_ON;
    options.flags = LEDGER_STORE_CREATE;
    tst_ok(ledger_store_open(&options, &r->memory, &err), &err);
    for (int k = 0; k < FAKES; k++)
        r->fakes[k] = fake_new();
    tst_ok(ldg_store_identity(r->memory, &r->identities[0], &err), &err);
    for (int i = 0; i < ORIGINS; i++) {
        int origin = 0;

        if (i > 0)
            ldg_uuid_new(r->identities[i].uuid);
        r->identities[i].epoch = 1;
        tst_ok(ldg_store_origin_get(r->memory, &r->identities[i], "", &origin, &err), &err);
        assert_int_equal(origin, i);
        for (int k = 0; k < FAKES; k++)
            r->fakes[k]->identities[i] = r->identities[i];
    }
    tst_ok(ldg_store_cursor_get(r->memory, "c", true, &r->cursor, &err), &err);
    for (int k = 0; k < FAKES; k++) {
        struct fake *f = r->fakes[k];

        f->reserves = one_in(r, 2);
        f->tells = one_in(r, 2);
        f->shows_all = one_in(r, 3);
        f->loses = one_in(r, 4);
        f->refuses = refuses;
        f->refuses_ctx = r;
    }
    assert_int_equal(ldg_memory_set_refuse(NAME, refuses, r), LEDGER_OK);
}

static void put_own(struct round *r)
{
    ledger_error err = { 0 };

    for (int64_t i = 1; i <= OWN; i++) {
        struct entry *e;
        ledger_append_input input;
        ledger_ids ids = { 0 };
        ledger_batch *batch = NULL;
        const ledger_read_options options = { .size = sizeof(options), .limit = 100 };
        const char *stream;

        make_entry(r, 0, i);
        e = &r->entries[0][i];
        stream = streams[r->stream_of[0][i]];
        e->entry.dedup_key = text_of(r, "own%" PRId64, i);
        input = (ledger_append_input){
            .payload = e->entry.payload,
            .order_key = e->entry.order_key,
            .dedup_key = e->entry.dedup_key,
            .schema_version = e->entry.schema_version,
            .metadata = e->entry.metadata,
            .tags = e->entry.tags,
        };
        tst_ok(ledger_store_append(r->memory, stream, &input, 1, &ids, &err), &err);
        assert_int_equal(ids.items[0].number, i);
        ledger_ids_destroy(&ids);
        tst_ok(ledger_store_read(r->memory, stream, &options, &batch, &err), &err);
        e->time_us = ledger_batch_entry(batch, ledger_batch_count(batch) - 1)->created_at_us;
        ledger_batch_destroy(&batch);
        for (int k = 0; k < FAKES; k++)
            fake_put(r->fakes[k], 0, ldg_id_of(0), stream, &e->entry, e->time_us);
    }
    r->next[0] = OWN + 1;
}

static void random_step(struct round *r)
{
    const int n = (int)below(r, SOURCES);
    const unsigned dice = below(r, 20);

    write_some(r, n, below(r, 30));
    if (r->refuses && one_in(r, 8))
        r->refusing = !r->refusing;
    if (r->odd && one_in(r, 10))
        r->readable = !r->readable;
    for (int i = 0; dice < 4 && i < 3 && parked_count(r) > 0; i++)
        (void)retry(r, below(r, parked_count(r)));
    carry(r, n, dice > 14);
    parked_seen += parked_count(r);
    compare(r);
}

/* Everything read, nothing refused, whatever is parked tried again until nothing comes free: no two
 * wait for each other. */
static void settle(struct round *r)
{
    bool any = true;

    r->refusing = false;
    r->readable = true;
    for (int n = 0; n < SOURCES; n++) {
        while (r->sources[n].read < r->sources[n].count)
            carry(r, n, false);
    }
    while (any) {
        any = false;
        for (size_t i = 0; i < parked_count(r);) {
            const size_t count = parked_count(r);

            if (retry(r, i))
                any = true;
            i += parked_count(r) == count;
        }
    }
    compare(r);
    compare_logs(r);
    assert_int_equal(parked_count(r), 0);
}

static void one_round(uint64_t seed, unsigned number)
{
    struct round *r = calloc(1, sizeof(*r));

    assert_non_null(r);
    r->random = seed + number * UINT64_C(0x9e3779b97f4a7c15);
    r->number = number;
    r->odd = one_in(r, 2);
    r->refuses = one_in(r, 3);
    r->texts = one_in(r, 2);
    r->keys = one_in(r, 2);
    ldg_arena_init(&r->arena, 0);
    ldg_arena_init(&r->scratch, 0);
    for (int i = 0; i < ORIGINS; i++)
        r->next[i] = 1;
    open_all(r);
    put_own(r);
    for (int step = 0; step < STEPS; step++)
        random_step(r);
    settle(r);
    for (int k = 0; k < FAKES; k++) {
        restart_count += r->fakes[k]->restarts;
        ended_early += r->fakes[k]->ended_early;
        ahead_count += r->fakes[k]->ahead;
        fake_free(r->fakes[k]);
    }
    ldg_memory_faults_clear(NAME);
    ledger_store_close(&r->memory);
    ldg_arena_fini(&r->arena);
    ldg_arena_fini(&r->scratch);
    free(r);
}

static void every_way_comes_to_the_same(void **state)
{
    const uint64_t seed = tst_seed();
    const char *only = getenv("LEDGER_TEST_ROUND");

    for (unsigned i = 0; i < tst_scale(200); i++) {
        if (only == NULL || strtoul(only, NULL, 10) == i)
            one_round(seed, i);
    }
    if (only == NULL) { /* what the rounds are about did happen */
        assert_true(optimistic_count > 0 && restart_count > 0 && ended_early > 0);
        assert_true(ahead_count > 0 && parked_seen > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_comes_to_the_same),
    };

    return cmocka_run_group_tests_name("sink random", tests, NULL, NULL);
}
