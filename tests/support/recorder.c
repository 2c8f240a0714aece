#include "recorder.h"

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/hash.h"
#include "event/event.h"

void tst_recorder_init(struct tst_recorder *recorder, size_t cap)
{
    *recorder = (struct tst_recorder){ .items = calloc(cap, sizeof(*recorder->items)),
                                       .cap = cap,
                                       .fd = -1 };
    assert_non_null(recorder->items);
    assert_int_equal(pthread_mutex_init(&recorder->mutex, NULL), 0);
}

void tst_recorder_fini(struct tst_recorder *recorder)
{
    pthread_mutex_destroy(&recorder->mutex);
    free(recorder->items);
    recorder->items = NULL;
}

size_t tst_recorder_count(struct tst_recorder *recorder)
{
    pthread_mutex_lock(&recorder->mutex);
    const size_t count = recorder->count;
    pthread_mutex_unlock(&recorder->mutex);
    return count;
}

/* --- the sink -------------------------------------------------------------------------------- */

static uint64_t add_bytes(uint64_t hash, const void *data, size_t size)
{
    return ldg_hash64(data, size, ldg_hash64(&size, sizeof(size), hash));
}

static uint64_t add_text(uint64_t hash, const char *text)
{
    return add_bytes(hash, text != NULL ? text : "\xff", text != NULL ? strlen(text) : 1);
}

static uint64_t hash_of(const ledger_mutation *m)
{
    uint64_t hash = add_bytes(0, &m->type, sizeof(m->type));
    hash = add_text(add_text(hash, m->stream), m->origin);
    hash = add_bytes(hash, &m->id.number, sizeof(m->id.number));
    hash = add_bytes(hash, &m->position, sizeof(m->position));
    hash = add_bytes(hash, &m->time_us, sizeof(m->time_us));
    if (m->entry != NULL) {
        hash = add_bytes(hash, m->entry->payload.data, m->entry->payload.size);
        hash = add_text(add_text(hash, m->entry->order_key), m->entry->dedup_key);
    }
    for (size_t i = 0; i < m->tags.count; i++)
        hash = add_text(hash, m->tags.items[i]);
    for (size_t i = 0; i < m->annotations.count; i++)
        hash = add_text(add_text(hash, m->annotations.items[i].key), m->annotations.items[i].value);
    return hash;
}

static bool is_refused(const struct tst_recorder *recorder, const ledger_mutation *m)
{
    return recorder->refuse != NULL && m->type == LEDGER_MUTATION_APPEND &&
           memmem(m->entry->payload.data, m->entry->payload.size, recorder->refuse,
                  strlen(recorder->refuse)) != NULL;
}

static bool write_line(const struct tst_recorder *recorder, const struct tst_delivery *d)
{
    char line[256];
    const int size = snprintf(line, sizeof line, "%s %" PRIx64 " %s\n", d->key, d->hash, d->stream);
    return write(recorder->fd, line, (size_t)size) == size;
}

static size_t deliver(void *ctx, const ledger_mutation *const *mutations, size_t count,
                      ledger_delivery *results)
{
    struct tst_recorder *recorder = ctx;
    size_t done = 0;
    bool goes_on = true;
    pthread_mutex_lock(&recorder->mutex);
    while (goes_on && done < count && (recorder->most == 0 || done < recorder->most)) {
        const ledger_mutation *m = mutations[done];
        struct tst_delivery *d = &recorder->items[recorder->count];
        if (recorder->count == recorder->cap)
            break; /* too many: the bridge does not get on, and the test fails */
        if (is_refused(recorder, m)) {
            results[done].code = LEDGER_DELIVERY_REFUSED;
            snprintf(results[done].reason, sizeof results[done].reason, "not here");
            goes_on = false;
        } else {
            snprintf(d->key, sizeof d->key, "%s", m->key);
            snprintf(d->stream, sizeof d->stream, "%s", m->stream);
            d->hash = hash_of(m);
            if (recorder->fd >= 0 && !write_line(recorder, d))
                break;
            results[done].code = LEDGER_DELIVERY_DONE;
            recorder->count++;
        }
        done++;
    }
    pthread_mutex_unlock(&recorder->mutex);
    if (recorder->pause_us > 0)
        tst_sleep_us(recorder->pause_us);
    return done;
}

ledger_sink tst_recorder_sink(struct tst_recorder *recorder)
{
    ledger_sink sink;
    ledger_sink_defaults(&sink);
    sink.ctx = recorder;
    sink.deliver = deliver;
    return sink;
}

void tst_recorder_load(struct tst_recorder *recorder, const char *path)
{
    FILE *file = fopen(path, "r");
    char line[256];
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL) {
        struct tst_delivery *d = &recorder->items[recorder->count++];
        assert_true(recorder->count <= recorder->cap);
        if (sscanf(line, "%100s %" SCNx64 " %63[^\n]", d->key, &d->hash, d->stream) != 3)
            tst_fail("not a line of a recorder: %s", line);
    }
    fclose(file);
}

/* --- the check ------------------------------------------------------------------------------- */

struct place {
    int64_t position;
    uint64_t part;
};

static struct place place_of(const char *key)
{
    struct place place = { 0 };
    unsigned long long part = 0;
    long long position = 0;
    if (sscanf(key, "%*[^:]:%*d:%lld:%llu", &position, &part) < 1)
        tst_fail("not a key: %s", key);
    place.position = position;
    place.part = part;
    return place;
}

static bool is_behind(struct place a, struct place b)
{
    return a.position != b.position ? a.position > b.position : a.part > b.part;
}

/* Of one stream: what is new lies behind all that came before, and what came last is its end. */
static void check_order(const struct tst_recorder *recorder, size_t first)
{
    const char *stream = recorder->items[first].stream;
    struct place reached = { 0 }, last = { 0 };
    for (size_t i = first; i < recorder->count; i++) {
        const struct tst_delivery *d = &recorder->items[i];
        bool again = false;
        if (strcmp(d->stream, stream) != 0)
            continue;
        last = place_of(d->key);
        for (size_t k = first; k < i && !again; k++)
            again = strcmp(recorder->items[k].key, d->key) == 0;
        if (!again && !is_behind(last, reached))
            tst_fail("%s of stream %s came behind a later one", d->key, stream);
        if (!again)
            reached = last;
    }
    if (is_behind(reached, last))
        tst_fail("stream %s ends with an event that is not its last", stream);
}

static size_t count_again(const struct tst_recorder *recorder)
{
    size_t again = 0;
    for (size_t i = 0; i < recorder->count; i++) {
        const struct tst_delivery *d = &recorder->items[i];
        size_t k = 0;
        while (k < i && strcmp(recorder->items[k].key, d->key) != 0)
            k++;
        again += k < i;
        if (k < i && (recorder->items[k].hash != d->hash ||
                      strcmp(recorder->items[k].stream, d->stream) != 0))
            tst_fail("%s came twice, with other bytes", d->key);
    }
    return again;
}

static bool has_key(const struct tst_recorder *recorder, const char *key)
{
    for (size_t i = 0; i < recorder->count; i++)
        if (strcmp(recorder->items[i].key, key) == 0)
            return true;
    return false;
}

struct parked_find {
    int64_t position;
    bool found;
};

static bool find_position(void *ctx, const ledger_parked *parked)
{
    struct parked_find *find = ctx;
    find->found |= parked->position == find->position;
    return !find->found;
}

static bool is_parked(ledger_store *kept, int64_t position)
{
    struct parked_find find = { .position = position };
    ledger_error err;
    if (kept != NULL)
        tst_ok(ledger_bridge_parked_list(kept, find_position, &find, &err), &err);
    return find.found;
}

/* Each part of the row's event came, or is parked; gives how many there are. */
static size_t check_row(const struct tst_recorder *recorder, const struct ldg_identity *identity,
                        const struct ldg_log_row *row, ledger_store *kept)
{
    ledger_mutation_event event;
    struct ldg_arena arena;
    ledger_error err;
    size_t parts = 0;
    ldg_arena_init(&arena, 0);
    if (ldg_event_decode(row->payload, &arena, &event, &err) == LEDGER_OK)
        parts = event.type == LEDGER_MUTATION_APPEND ? event.entry_count : 1;
    for (size_t part = 0; part < parts; part++) {
        char key[LDG_DELIVERY_KEY_MAX];
        const int size = snprintf(key, sizeof key, "%s:%" PRId64 ":%" PRId64, identity->uuid,
                                  identity->epoch, row->position);
        if (parts > 1)
            snprintf(key + size, sizeof key - (size_t)size, ":%zu", part);
        if (!has_key(recorder, key) && !is_parked(kept, row->position))
            tst_fail("%s never came", key);
    }
    ldg_arena_fini(&arena);
    return parts;
}

static size_t check_log(const struct tst_recorder *recorder, ledger_store *source,
                        ledger_store *kept)
{
    const struct ldg_log_limits limits = { .max_count = 100000, .max_bytes = SIZE_MAX };
    struct ldg_log_batch batch = { 0 };
    struct ldg_identity identity;
    ledger_error err;
    size_t parts = 0;
    tst_ok(ldg_store_identity(source, &identity, &err), &err);
    ldg_arena_init(&batch.arena, 0);
    tst_ok(ldg_store_log_read(source, "", &limits, &batch, &err), &err);
    for (size_t i = 0; i < batch.count; i++)
        parts += check_row(recorder, &identity, &batch.rows[i], kept);
    ldg_arena_fini(&batch.arena);
    return parts;
}

size_t tst_recorder_check(struct tst_recorder *recorder, ledger_store *source, ledger_store *kept)
{
    const size_t again = count_again(recorder);
    const size_t parts = check_log(recorder, source, kept);
    if (recorder->count - again > parts)
        tst_fail("%zu keys came, and the log has %zu", recorder->count - again, parts);
    for (size_t i = 0; i < recorder->count; i++) {
        size_t k = 0;
        while (strcmp(recorder->items[k].stream, recorder->items[i].stream) != 0)
            k++;
        if (k == i) /* the stream's first */
            check_order(recorder, i);
    }
    return again;
}
