/* See mixed.h. */
#include "mixed.h"

#include <stdio.h>
#include <string.h>

#define STREAMS 100
#define TRIM_MAX 11 /* a trim takes 1..TRIM_MAX entries; 12 appends come per trim */

/* Ids of a stream that still live: items[head..count). */
struct stream {
    int64_t *items;
    size_t head, count, capacity;
};

static const char *const tag_names[] = { "new",  "paid",     "sent",    "vip",
                                         "late", "returned", "checked", "gift" };
static const char *const note_names[] = { "carrier", "clerk", "desk",  "invoice",
                                          "note",    "route", "shelf", "weight" };

static void stream_push(struct stream *s, int64_t id)
{
    if (s->count == s->capacity) {
        size_t capacity = s->capacity ? s->capacity * 2 : 1024;
        int64_t *items = bench_alloc(capacity, sizeof(*items));

        if (s->count)
            memcpy(items, s->items, s->count * sizeof(*items));
        bench_release(s->items);
        s->items = items;
        s->capacity = capacity;
    }
    s->items[s->count++] = id;
}

struct bench_mutation *bench_mutations_make(size_t count)
{
    struct bench_mutation *list = bench_alloc(count, sizeof(*list));
    struct stream streams[STREAMS] = { 0 };
    uint64_t random = 4;
    int64_t next_id = 1;

    for (size_t i = 0; i < count; i++) {
        struct bench_mutation *m = &list[i];
        unsigned dice = (unsigned)(bench_random(&random) % 100);
        struct stream *s;

        m->stream = (unsigned)(bench_random(&random) % STREAMS);
        m->a = (unsigned)(bench_random(&random) % 8);
        m->b = (unsigned)(bench_random(&random) % 1000);
        s = &streams[m->stream];
        m->kind = dice < 60   ? BENCH_APPEND
                  : dice < 80 ? BENCH_SET_TAGS
                  : dice < 95 ? BENCH_SET_ANNOTATIONS
                              : BENCH_TRIM;
        if (s->head == s->count || i + 1 == count)
            m->kind = BENCH_APPEND;
        if (m->kind == BENCH_APPEND) {
            m->entry = next_id++;
            stream_push(s, m->entry);
        } else if (m->kind == BENCH_TRIM) {
            size_t taken = 1 + bench_random(&random) % TRIM_MAX;

            if (taken > s->count - s->head)
                taken = s->count - s->head;
            s->head += taken;
            m->entry = s->items[s->head - 1];
        } else {
            m->entry = s->items[s->head + bench_random(&random) % (s->count - s->head)];
        }
    }
    for (int i = 0; i < STREAMS; i++)
        bench_release(streams[i].items);
    return list;
}

void bench_mutations_write(ledger_store *store, const struct bench_mutation *list, size_t count,
                           size_t per_tx)
{
    char value[16], payload[BENCH_PAYLOAD_BYTES + 1];
    int64_t start = bench_now_ns();
    ledger_error err = { 0 };
    struct bench_names names;
    ledger_ids ids;
    uint64_t left;

    for (size_t i = 0; i < count; i++) {
        const struct bench_mutation *m = &list[i];
        const ledger_append_input input = { .payload = { payload, BENCH_PAYLOAD_BYTES },
                                            .order_key = names.order_key,
                                            .dedup_key = names.dedup_key };
        const char *tags[] = { tag_names[m->a], tag_names[m->b % 8] };
        ledger_pair note = { note_names[m->a], value };
        ledger_id id = { .number = m->entry };

        if (i % per_tx == 0)
            bench_check(ledger_store_begin(store, &err), &err, "begin");
        bench_names(&names, m->stream, (uint64_t)m->entry);
        switch (m->kind) {
        case BENCH_APPEND:
            bench_payload(payload, (uint64_t)m->entry);
            bench_check(ledger_store_append(store, names.stream, &input, 1, &ids, &err), &err,
                        "append");
            if (ids.count != 1 || ids.items[0].number != m->entry)
                bench_die("the source gave another id than expected");
            ledger_ids_destroy(&ids);
            break;
        case BENCH_SET_TAGS:
            bench_check(
                ledger_store_set_tags(store, names.stream, id, (ledger_list){ tags, 2 }, &err),
                &err, "set tags");
            break;
        case BENCH_SET_ANNOTATIONS:
            snprintf(value, sizeof(value), "value %u", m->b);
            bench_check(ledger_store_set_annotations(store, names.stream, id,
                                                     (ledger_map){ &note, 1 }, &err),
                        &err, "set annotations");
            break;
        case BENCH_TRIM:
            bench_check(ledger_store_trim(store, names.stream, id, NULL, &err), &err, "trim");
            break;
        }
        if (i % per_tx == per_tx - 1 || i + 1 == count)
            bench_check(ledger_store_commit(store, &err), &err, "commit");
    }
    bench_check(ledger_store_count(store, NULL, &left, &err), &err, "count");
    printf("source: %zu mutations in %.1f s, %llu entries left\n", count,
           bench_seconds_since(start), (unsigned long long)left);
    fflush(stdout);
}

struct bench_statement *bench_statements_make(const struct bench_mutation *list, size_t count)
{
    struct bench_statement *texts = bench_alloc(count, sizeof(*texts));

    for (size_t i = 0; i < count; i++) {
        const struct bench_mutation *m = &list[i];
        struct bench_statement *t = &texts[i];

        bench_names(&t->names, m->stream, (uint64_t)m->entry);
        if (m->kind == BENCH_APPEND)
            bench_payload(t->payload, (uint64_t)m->entry);
        else if (m->kind == BENCH_SET_TAGS)
            snprintf(t->json, sizeof(t->json), "[\"%s\",\"%s\"]", tag_names[m->a],
                     tag_names[m->b % 8]);
        else if (m->kind == BENCH_SET_ANNOTATIONS)
            snprintf(t->json, sizeof(t->json), "{\"%s\":\"value %u\"}", note_names[m->a], m->b);
    }
    return texts;
}
