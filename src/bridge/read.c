/* Reading: rows behind a cursor, decoded and completed, from the source alone.
 *
 * While one batch is applied a reader thread may already read the next. Two batches take turns: the
 * pipe works on one, the thread fills the other. Where batches overlap there is a third, which may
 * still be under way into the sink. A batch read ahead counts only if it begins where the one
 * before it ends; else it is thrown away, so that nothing is ever applied from a guess. */
#include <stdio.h>
#include <string.h>

#include "bridge/stages.h"

#define KEEP_BYTES ((size_t)8 * 1024 * 1024)
#define KEEP_PLAN_BYTES ((size_t)2 * 1024 * 1024)
/* Nothing is read ahead of a batch that takes more memory, at EVENT_BYTES for each event beside its
 * text: then only one batch of that size is held. */
#define AHEAD_BYTES ((size_t)9 * 1024 * 1024)
#define EVENT_BYTES ((size_t)560)

/* Whoever lets batches grow has the memory. */
static size_t at_least(const struct ldg_log_limits *limits, size_t bytes)
{
    return limits->max_bytes > bytes ? limits->max_bytes : bytes;
}

void ldg_batch_init(struct ldg_batch *batch)
{
    memset(batch, 0, sizeof(*batch));
    ldg_arena_init(&batch->log.arena, KEEP_BYTES);
    ldg_arena_init(&batch->plan, KEEP_PLAN_BYTES);
}

void ldg_batch_fini(struct ldg_batch *batch)
{
    ldg_arena_fini(&batch->log.arena);
    ldg_arena_fini(&batch->plan);
    memset(batch, 0, sizeof(*batch));
}

void ldg_reader_init(struct ldg_reader *reader, ledger_store *source)
{
    memset(reader, 0, sizeof(*reader));
    reader->source = source;
    reader->batch_count = 2;
    for (int i = 0; i < LDG_READER_BATCHES; i++)
        ldg_batch_init(&reader->batches[i]);
    pthread_mutex_init(&reader->mutex, NULL);
    pthread_cond_init(&reader->cond, NULL);
}

/* Go compacts and escapes payloads in its events and sends no times, so such events are completed
 * from the entries' rows while those are still there. */
static bool lacks_bytes(const ledger_store *source, const struct ldg_batch_event *item,
                        size_t index, ledger_id *ret_id)
{
    const ledger_append_entry *entry = &item->event.entries[index];
    return entry->created_at_us == LEDGER_NO_TIME && ldg_id_parse(entry->id, ret_id) &&
           ldg_store_may_have(source, *ret_id);
}

static bool may_lack_bytes(const struct ldg_batch_event *item)
{
    return item->bad == NULL && item->event.type == LEDGER_MUTATION_APPEND &&
           item->event.origin[0] == '\0';
}

/* Takes the rows of one event from the list that all events of the batch asked for. */
static ledger_rc complete_append(const ledger_store *source, struct ldg_batch_event *item,
                                 const ledger_entry **rows, struct ldg_arena *arena,
                                 ledger_error *err)
{
    ledger_mutation_event *event = &item->event;
    ledger_append_entry *copy = NULL;
    ledger_id id;
    for (size_t i = 0; i < event->entry_count; i++) {
        if (!lacks_bytes(source, item, i, &id))
            continue;
        const ledger_entry *row = (*rows)++;
        if (ldg_id_is_none(row->id) || strcmp(row->stream, event->stream) != 0)
            continue;
        if (copy == NULL) {
            copy = ldg_arena_memdup(arena, event->entries, event->entry_count * sizeof(*copy));
            if (copy == NULL)
                return ldg_fail_nomem(err);
        }
        /* A row that holds no JSON came from other hands; the event is what was logged. */
        if (ldg_json_check(row->payload, NULL) == LEDGER_OK)
            copy[i].payload = row->payload;
        copy[i].created_at_us = row->created_at_us;
    }
    item->is_completed = copy != NULL;
    if (copy != NULL)
        event->entries = copy;
    return LEDGER_OK;
}

static ledger_rc complete_appends(ledger_store *source, struct ldg_batch_event *items, size_t count,
                                  struct ldg_arena *arena, ledger_error *err)
{
    size_t id_count = 0;
    ledger_id id, *ids = NULL;
    ledger_entry *found = NULL;
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; may_lack_bytes(&items[i]) && k < items[i].event.entry_count; k++)
            id_count += lacks_bytes(source, &items[i], k, &id);
    if (id_count == 0)
        return LEDGER_OK;
    ids = ldg_arena_alloc(arena, id_count * sizeof(*ids));
    if (ids == NULL)
        return ldg_fail_nomem(err);
    id_count = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; may_lack_bytes(&items[i]) && k < items[i].event.entry_count; k++)
            if (lacks_bytes(source, &items[i], k, &id))
                ids[id_count++] = id;
    ledger_rc rc = ldg_store_entries_by_id(source, ids, id_count, arena, &found, err);
    const ledger_entry *rows = found;
    for (size_t i = 0; i < count && rc == LEDGER_OK; i++)
        if (may_lack_bytes(&items[i]))
            rc = complete_append(source, &items[i], &rows, arena, err);
    return rc;
}

/* The number that the source itself has for an origin; -1: it knows none such. */
static ledger_rc number_at_source(ledger_store *source, const char *origin, struct ldg_arena *arena,
                                  int *ret_number, ledger_error *err)
{
    struct ldg_identity wanted, *items = NULL;
    int *numbers = NULL;
    size_t count = 0;
    *ret_number = -1;
    if (!ldg_identity_parse(origin, &wanted))
        return LEDGER_OK; /* the plan says what is wrong with it */
    ledger_rc rc = ldg_store_origin_list(source, arena, &items, &numbers, &count, err);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++)
        if (items[i].epoch == wanted.epoch && strcmp(items[i].uuid, wanted.uuid) == 0)
            *ret_number = numbers[i];
    return rc;
}

/* What the source still has below a trim, the sink keeps: it was appended after it, or around it.
 */
static ledger_rc complete_trim(ledger_store *source, struct ldg_batch_event *item,
                               struct ldg_arena *arena, ledger_error *err)
{
    const ledger_mutation_event *event = &item->event;
    const char *origin = event->entry_origin[0] != '\0' ? event->entry_origin : event->origin;
    ledger_id before, *survivors = NULL;
    size_t count = 0;
    int number = 0;
    ledger_rc rc = LEDGER_OK;
    if (!ldg_id_parse(origin[0] == '\0' ? event->before_id : event->source_id, &before))
        return LEDGER_OK;
    if (origin[0] != '\0')
        rc = number_at_source(source, origin, arena, &number, err);
    if (rc == LEDGER_OK && number >= 0)
        rc = ldg_store_trim_survivors(source, number, event->stream, before, arena, &survivors,
                                      &count, err);
    if (rc == LEDGER_OK) {
        item->survivors = survivors;
        item->survivor_count = count;
    }
    return rc;
}

ledger_rc ldg_read_complete(ledger_store *source, struct ldg_batch_event *items, size_t count,
                            struct ldg_arena *arena, ledger_error *err)
{
    ledger_rc rc = complete_appends(source, items, count, arena, err);
    for (size_t i = 0; i < count && rc == LEDGER_OK; i++)
        if (items[i].bad == NULL && items[i].event.type == LEDGER_MUTATION_TRIM)
            rc = complete_trim(source, &items[i], arena, err);
    return rc;
}

static ledger_rc read_batch(struct ldg_reader *reader, struct ldg_batch *batch, const char *from,
                            const struct ldg_log_limits *limits, ledger_error *err)
{
    ldg_arena_reset(&batch->plan);
    batch->events = NULL;
    batch->ops = NULL;
    batch->op_count = 0;
    batch->outcomes = NULL;
    batch->has_origins = batch->has_bad = false;
    ldg_arena_keep(&batch->log.arena, at_least(limits, KEEP_BYTES));
    ledger_rc rc = ldg_store_log_read(reader->source, from, limits, &batch->log, err);
    if (rc == LEDGER_OK)
        rc = ldg_decode(batch, err);
    if (rc == LEDGER_OK)
        rc = ldg_read_complete(reader->source, batch->events, batch->log.count, &batch->log.arena,
                               err);
    return rc;
}

static int next_batch(const struct ldg_reader *reader)
{
    return (reader->current + 1) % reader->batch_count;
}

static void *reader_main(void *arg)
{
    struct ldg_reader *reader = arg;
    pthread_mutex_lock(&reader->mutex);
    for (;;) {
        while (reader->state != LDG_READER_ASKED && reader->state != LDG_READER_QUIT)
            pthread_cond_wait(&reader->cond, &reader->mutex);
        if (reader->state == LDG_READER_QUIT)
            break;
        pthread_mutex_unlock(&reader->mutex);
        ledger_error err = { 0 };
        ledger_rc rc = read_batch(reader, &reader->batches[next_batch(reader)], reader->from,
                                  &reader->limits, &err);
        pthread_mutex_lock(&reader->mutex);
        reader->rc = rc;
        reader->err = err;
        if (reader->state == LDG_READER_ASKED)
            reader->state = LDG_READER_DONE;
        pthread_cond_broadcast(&reader->cond);
    }
    pthread_mutex_unlock(&reader->mutex);
    return NULL;
}

void ldg_read_settle(struct ldg_reader *reader)
{
    if (!reader->has_thread)
        return;
    pthread_mutex_lock(&reader->mutex);
    while (reader->state == LDG_READER_ASKED)
        pthread_cond_wait(&reader->cond, &reader->mutex);
    pthread_mutex_unlock(&reader->mutex);
}

/* The same, and takes what it has read; true: a batch. */
static bool reader_wait_idle(struct ldg_reader *reader)
{
    ldg_read_settle(reader);
    if (!reader->has_thread)
        return false;
    pthread_mutex_lock(&reader->mutex);
    bool done = reader->state == LDG_READER_DONE;
    reader->state = LDG_READER_IDLE;
    pthread_mutex_unlock(&reader->mutex);
    return done;
}

void ldg_read_discard(struct ldg_reader *reader)
{
    (void)reader_wait_idle(reader);
}

void ldg_reader_fini(struct ldg_reader *reader)
{
    if (reader->has_thread) {
        (void)reader_wait_idle(reader);
        pthread_mutex_lock(&reader->mutex);
        reader->state = LDG_READER_QUIT;
        pthread_cond_broadcast(&reader->cond);
        pthread_mutex_unlock(&reader->mutex);
        pthread_join(reader->thread, NULL);
        reader->has_thread = false;
    }
    for (int i = 0; i < LDG_READER_BATCHES; i++)
        ldg_batch_fini(&reader->batches[i]);
    pthread_mutex_destroy(&reader->mutex);
    pthread_cond_destroy(&reader->cond);
}

/* Batches that overlap need the next one in any case. */
static bool may_read_ahead(const struct ldg_reader *reader, const struct ldg_log_limits *limits)
{
    const struct ldg_log_batch *log = &reader->batches[reader->current].log;
    return reader->batch_count > 2 ||
           log->bytes + log->count * EVENT_BYTES <= at_least(limits, AHEAD_BYTES);
}

void ldg_read_ahead(struct ldg_reader *reader, const char *from,
                    const struct ldg_log_limits *limits)
{
    (void)reader_wait_idle(reader);
    if (!may_read_ahead(reader, limits))
        return;
    if (!reader->has_thread) {
        /* Without the thread everything still works, one stage after the other. */
        if (pthread_create(&reader->thread, NULL, reader_main, reader) != 0)
            return;
        reader->has_thread = true;
    }
    pthread_mutex_lock(&reader->mutex);
    (void)snprintf(reader->from, sizeof(reader->from), "%s", from);
    reader->limits = *limits;
    reader->state = LDG_READER_ASKED;
    pthread_cond_broadcast(&reader->cond);
    pthread_mutex_unlock(&reader->mutex);
}

ledger_rc ldg_read_next(struct ldg_reader *reader, const char *from,
                        const struct ldg_log_limits *limits, struct ldg_batch **ret_batch,
                        ledger_error *err)
{
    const struct ldg_batch *ahead = &reader->batches[next_batch(reader)];
    ledger_rc rc;
    /* A batch read ahead that is larger than asked for now is no use either. */
    if (reader_wait_idle(reader) && strcmp(reader->from, from) == 0 &&
        (reader->rc != LEDGER_OK || ahead->log.count <= limits->max_count)) {
        reader->current = next_batch(reader);
        rc = reader->rc;
        if (rc != LEDGER_OK && err != NULL)
            *err = reader->err;
    } else {
        if (reader->batch_count > 2) /* the present one may be under way */
            reader->current = next_batch(reader);
        rc = read_batch(reader, &reader->batches[reader->current], from, limits, err);
    }
    if (rc == LEDGER_OK)
        *ret_batch = &reader->batches[reader->current];
    return rc;
}
