/* One set of handles with the stages on them, and one poll: once through the stages.
 *
 * Hides which stage begins before the last one has ended. Invariant: after any failure the next
 * poll begins where the stored cursor stands. */
#include <stdio.h>
#include <string.h>

#include "bridge/stages.h"

#define STAT_INTERVAL_US 250000

ledger_store *ldg_origins_store(ledger_store *sink, ledger_store *state_store)
{
    return state_store != NULL ? state_store : sink;
}

ledger_rc ldg_pair_identities(ledger_store *source, ledger_store *sink,
                              struct ldg_identity *ret_source, struct ldg_identity *ret_sink,
                              ledger_error *err)
{
    struct ldg_identity a, b;
    ledger_rc rc = ldg_store_identity(source, &a, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_identity(sink, &b, err);
    if (rc == LEDGER_OK && strcmp(a.uuid, b.uuid) == 0)
        rc =
            ldg_fail(err, LEDGER_ERR_INVALID,
                     "source and sink are the same table, or one is a copy of the other (both have "
                     "identity %s); give a copy an identity of its own with `ledgerctl store init "
                     "--new-identity`",
                     a.uuid);
    if (rc == LEDGER_OK) {
        *ret_source = a;
        *ret_sink = b;
    }
    return rc;
}

ledger_rc ldg_origins_init(struct ldg_origin_cache *origins, ledger_store *source,
                           ledger_store *sink, ledger_store *state_store, const char *name,
                           ledger_error *err)
{
    ledger_store *store = ldg_origins_store(sink, state_store);
    ledger_rc rc =
        ldg_pair_identities(source, store, &origins->source_identity, &origins->sink_identity, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_origin_get(store, &origins->source_identity, name, &origins->source, err);
    if (rc == LEDGER_OK) {
        origins->source_has_texts = ldg_store_has_text_ids(source);
        origins->sink_takes_texts =
            (ldg_store_caps(sink) & LDG_CAP_TEXT_KEYS) != 0 &&
            (state_store == NULL || (ldg_store_caps(state_store) & LDG_CAP_TEXT_KEYS) != 0);
    }
    return rc;
}

ledger_rc ldg_pipe_open(struct ledger_bridge *bridge, const ledger_wait *waits,
                        struct ldg_pipe **ret_pipe, ledger_error *err)
{
    struct ldg_pipe *pipe = ldg_calloc(1, sizeof(*pipe));
    if (pipe == NULL)
        return ldg_fail_nomem(err);
    pipe->bridge = bridge;
    ldg_reader_init(&pipe->reader, NULL);
    ledger_rc rc =
        ldg_store_reopen_for(bridge->source, LDG_ROLE_SOURCE, NULL, waits, &pipe->source, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_reopen_for(bridge->sink, LDG_ROLE_SINK, NULL, waits, &pipe->sink, err);
    if (rc == LEDGER_OK && bridge->state_store != NULL)
        rc = ldg_store_reopen_for(bridge->state_store, LDG_ROLE_STATE, NULL, waits,
                                  &pipe->state_store, err);
    if (rc == LEDGER_OK)
        rc = ldg_origins_init(&pipe->origins, pipe->source, pipe->sink, pipe->state_store,
                              bridge->options.name, err);
    if (rc == LEDGER_OK)
        rc = ldg_applier_init(&pipe->applier, pipe->sink, bridge->options.parallel_streams,
                              bridge->options.refusal_limit, err);
    if (rc == LEDGER_OK) {
        pipe->reader.source = pipe->source;
        if (pipe->state_store == NULL && (ldg_store_caps(pipe->sink) & LDG_CAP_OVERLAP_APPLY) != 0)
            pipe->reader.batch_count = LDG_READER_BATCHES;
        pipe->cursor = (struct ldg_cursor_keeper){
            .store = pipe->state_store != NULL ? pipe->state_store : pipe->sink,
            .name = bridge->options.name,
            .codec = bridge->options.id_codec,
        };
        pipe->deliverer = (struct ldg_deliverer){
            .sink = pipe->sink,
            .state = pipe->state_store,
            .delivered = &bridge->delivered,
            .sending = &bridge->sending,
            .refusals.limit = bridge->options.refusal_limit,
        };
        *ret_pipe = pipe;
        pipe = NULL;
    }
    ldg_pipe_close(&pipe);
    return rc;
}

void ldg_pipe_close(struct ldg_pipe **pipe)
{
    if (*pipe == NULL)
        return;
    ldg_pipe_drain(*pipe);
    ldg_reader_fini(&(*pipe)->reader);
    ldg_applier_fini(&(*pipe)->applier);
    ldg_deliverer_fini(&(*pipe)->deliverer);
    ldg_origins_fini(&(*pipe)->origins);
    ledger_store_close(&(*pipe)->state_store);
    ledger_store_close(&(*pipe)->sink);
    ledger_store_close(&(*pipe)->source);
    ldg_free(*pipe);
    *pipe = NULL;
}

/* Once: what does not fit then stops the bridge, or is told. */
static ledger_rc check_fit(struct ldg_pipe *pipe, ledger_error *err)
{
    const uint32_t skipped = pipe->bridge->options.skip_types;
    bool emptied = false;
    ledger_rc rc = LEDGER_OK;
    if (pipe->fitted || pipe->state_store != NULL)
        return LEDGER_OK;
    rc = ldg_fit_check_others(&pipe->cursor, pipe->source, err);
    if (rc == LEDGER_OK && (skipped >> LEDGER_MUTATION_SET_ANNOTATIONS & 1) != 0)
        rc = ldg_store_origin_skips(pipe->sink, pipe->origins.source, err);
    if (rc == LEDGER_OK && (skipped >> LEDGER_MUTATION_APPEND & 1) == 0)
        rc = ldg_fit_is_emptied(&pipe->cursor, pipe->source, pipe->sink, &pipe->origins, &emptied,
                                err);
    if (rc == LEDGER_OK && emptied) {
        char text[LEDGER_ERROR_MESSAGE_MAX];
        (void)snprintf(
            text, sizeof(text),
            "the sink holds no entry of this source, although its cursor has passed some "
            "that the source still has: if the table was emptied, carry all of it again "
            "with `ledgerctl bridge cursor reset --name %s`",
            pipe->cursor.name);
        ldg_log(&pipe->bridge->telemetry, LEDGER_LOG_WARN, text, NULL);
    }
    pipe->fitted = rc == LEDGER_OK;
    return rc;
}

static ledger_rc load_cursor(struct ldg_pipe *pipe, ledger_error *err)
{
    bool moved = false;
    struct ldg_cursor *before = pipe->looked ? ldg_malloc(sizeof(*before)) : NULL;
    ledger_rc rc = LEDGER_OK;
    if (pipe->looked && before == NULL)
        return ldg_fail_nomem(err);
    if (before != NULL)
        *before = pipe->cursor.row;
    rc = ldg_cursor_load(&pipe->cursor, pipe->source, true, &moved, err);
    if (rc == LEDGER_OK && pipe->state_store == NULL)
        rc = ldg_takeover_run(pipe, before, moved, err);
    if (rc == LEDGER_OK)
        rc = check_fit(pipe, err);
    if (rc != LEDGER_OK)
        pipe->cursor.loaded = false;
    ldg_free(before);
    return rc;
}

/* --- accounting ------------------------------------------------------------------------------ */

/* The last position that is known to be on the sink's disk, if it is a new one. */
static bool find_durable(struct ldg_pipe *pipe, char position[LEDGER_ID_TEXT_MAX])
{
    const size_t slots = sizeof(pipe->pending_durable) / sizeof(pipe->pending_durable[0]);
    bool found = false;
    while (pipe->durable_tail != pipe->durable_head &&
           ldg_apply_is_durable(&pipe->applier,
                                pipe->pending_durable[pipe->durable_tail % slots].ticket)) {
        memcpy(position, pipe->pending_durable[pipe->durable_tail % slots].position,
               LEDGER_ID_TEXT_MAX);
        pipe->durable_tail++;
        found = true;
    }
    return found;
}

/* Remembers which position the last commit stands for; a full ring forgets the one before. */
static void push_durable(struct ldg_pipe *pipe)
{
    const size_t slots = sizeof(pipe->pending_durable) / sizeof(pipe->pending_durable[0]);
    if (pipe->durable_head - pipe->durable_tail == slots)
        pipe->durable_head--;
    size_t slot = pipe->durable_head++ % slots;
    pipe->pending_durable[slot].ticket = pipe->applier.last;
    (void)snprintf(pipe->pending_durable[slot].position,
                   sizeof(pipe->pending_durable[slot].position), "%s", pipe->cursor.row.readable);
}

struct tally {
    uint64_t applied[LEDGER_MUTATION_TYPE_COUNT];
    uint64_t skipped[LEDGER_MUTATION_TYPE_COUNT];
    uint64_t parked[LEDGER_MUTATION_TYPE_COUNT];
    uint64_t apply, skip_option, skip_origin, skip_missing, skip_replay, dedup, park;
    uint64_t delivered; /* of apply: stats have shown them already (deliver.c) */
};

static void tally_event(struct tally *tally, const struct ldg_batch_event *item,
                        enum ldg_outcome outcome)
{
    ledger_mutation_type type =
        item->event.type <= LEDGER_MUTATION_UNKNOWN ? item->event.type : LEDGER_MUTATION_UNKNOWN;
    uint64_t *skip = NULL;
    if (item->bad != NULL)
        type = LEDGER_MUTATION_UNKNOWN;
    if (item->fate == LDG_FATE_SKIP_OPTION) {
        skip = &tally->skip_option;
    } else if (item->fate == LDG_FATE_SKIP_ORIGIN) {
        skip = &tally->skip_origin;
    } else {
        switch (outcome) {
        case LDG_OUTCOME_NONE: /* of a batch that failed; none is accounted */
        case LDG_OUTCOME_MISSING:
            skip = &tally->skip_missing;
            break;
        case LDG_OUTCOME_REPLAYED:
            skip = &tally->skip_replay;
            break;
        case LDG_OUTCOME_DEDUPLICATED:
            tally->dedup++;
            break;
        case LDG_OUTCOME_APPLIED:
            tally->apply++;
            tally->applied[type]++;
            break;
        case LDG_OUTCOME_PARKED:
            tally->park++;
            tally->parked[type]++;
            break;
        }
    }
    if (skip != NULL) {
        (*skip)++;
        tally->skipped[type]++;
    }
}

/* What became of an event: of its ops the highest value counts. *op: the first of them, then that
 * of the next event. *ret_delivered: a sink that keeps no state has it, and it counted then. */
static uint8_t outcome_of(const struct ldg_pipe *pipe, const struct ldg_batch *batch, size_t event,
                          size_t *op, bool *ret_delivered)
{
    uint8_t outcome = LDG_OUTCOME_MISSING, last = LDG_OUTCOME_MISSING;
    for (; *op < batch->op_count && batch->ops[*op].event_index == event; (*op)++) {
        last = batch->outcomes[*op];
        if (last > outcome)
            outcome = last;
    }
    *ret_delivered =
        pipe->state_store != NULL && outcome == LDG_OUTCOME_APPLIED && last == LDG_OUTCOME_APPLIED;
    return outcome;
}

static void account(struct ldg_pipe *pipe, const struct ldg_batch *batch)
{
    struct ledger_bridge *bridge = pipe->bridge;
    struct tally tally = { 0 };
    size_t op = 0;
    for (size_t i = 0; i < batch->log.count; i++) {
        bool delivered;
        tally_event(&tally, &batch->events[i], outcome_of(pipe, batch, i, &op, &delivered));
        tally.delivered += delivered;
    }
    for (int type = 0; type < LEDGER_MUTATION_TYPE_COUNT; type++) {
        const struct ldg_telemetry *t = &bridge->telemetry;
        ldg_telemetry_count(t, t->applied, (ledger_mutation_type)type, tally.applied[type]);
        ldg_telemetry_count(t, t->skipped, (ledger_mutation_type)type, tally.skipped[type]);
        ldg_telemetry_count(t, t->errors, (ledger_mutation_type)type, tally.parked[type]);
    }
    if (tally.park > 0)
        ldg_log(&bridge->telemetry, LEDGER_LOG_WARN,
                "events were parked, see `ledgerctl bridge parked list`", NULL);

    char durable[LEDGER_ID_TEXT_MAX];
    push_durable(pipe);
    bool is_durable = find_durable(pipe, durable);
    pthread_mutex_lock(&bridge->mutex);
    ledger_bridge_stats *stats = &bridge->stats;
    stats->read_count += batch->log.count;
    stats->apply_count += tally.apply;
    stats->skip_option_count += tally.skip_option;
    stats->skip_origin_count += tally.skip_origin;
    stats->skip_missing_count += tally.skip_missing;
    stats->skip_replay_count += tally.skip_replay;
    stats->skip_count +=
        tally.skip_option + tally.skip_origin + tally.skip_missing + tally.skip_replay;
    stats->dedup_count += tally.dedup;
    stats->park_count += tally.park;
    bridge->delivered_count += tally.delivered;
    stats->last_progress_us = ldg_clock_now_us();
    ldg_backlog_progress(&bridge->seen, batch->log.more, ldg_clock_mono_us());
    stats->backlog_count = batch->log.more && stats->backlog_count > batch->log.count
                               ? stats->backlog_count - batch->log.count
                               : batch->log.more;
    (void)snprintf(stats->position, sizeof(stats->position), "%s", pipe->cursor.row.readable);
    if (is_durable)
        memcpy(stats->durable_position, durable, sizeof(durable));
    pthread_mutex_unlock(&bridge->mutex);
}

/* A batch that failed: none of its mutations is in the sink, but for those that were delivered. */
static void account_failure(struct ldg_pipe *pipe, const struct ldg_batch *batch)
{
    const struct ldg_telemetry *t = &pipe->bridge->telemetry;
    uint64_t failed[LEDGER_MUTATION_TYPE_COUNT] = { 0 };
    size_t op = 0;
    for (size_t i = 0; i < batch->log.count; i++) {
        bool delivered;
        (void)outcome_of(pipe, batch, i, &op, &delivered);
        if (batch->events[i].fate == LDG_FATE_OPS && !delivered)
            failed[batch->events[i].bad == NULL ? batch->events[i].event.type
                                                : LEDGER_MUTATION_UNKNOWN]++;
    }
    for (int type = 0; type < LEDGER_MUTATION_TYPE_COUNT; type++)
        ldg_telemetry_count(t, t->errors, (ledger_mutation_type)type, failed[type]);
}

/* How far behind, at the last look: asks the source now and then, never while it is read ahead. */
static void note_backlog(struct ldg_pipe *pipe, const struct ldg_batch *batch)
{
    struct ledger_bridge *bridge = pipe->bridge;
    struct ldg_log_stat stat;
    bool asked = false;
    int64_t now = ldg_clock_mono_us(), age = 0;
    if (batch->log.count > 0 && batch->log.rows[0].created_at_us != LEDGER_NO_TIME)
        age = ldg_clock_now_us() - batch->log.rows[0].created_at_us;
    if (batch->log.more && now - pipe->stat_at_us >= STAT_INTERVAL_US) {
        pipe->stat_at_us = now;
        asked = ldg_store_log_stat(pipe->source, pipe->cursor.from, &stat, NULL) == LEDGER_OK;
    }
    char durable[LEDGER_ID_TEXT_MAX];
    bool is_durable = find_durable(pipe, durable);
    pthread_mutex_lock(&bridge->mutex);
    ldg_backlog_look(&bridge->seen, batch->log.count > 0, now);
    double lag = batch->log.count > 0 ? ldg_backlog_lag(&bridge->seen, age, now) : 0;
    bridge->stats.lag_seconds = lag;
    if (asked)
        bridge->stats.backlog_count = stat.backlog_count;
    else if (!batch->log.more)
        bridge->stats.backlog_count = batch->log.count;
    if (is_durable)
        memcpy(bridge->stats.durable_position, durable, sizeof(durable));
    if (bridge->stats.position[0] == '\0')
        (void)snprintf(bridge->stats.position, sizeof(bridge->stats.position), "%s",
                       pipe->cursor.row.readable);
    pthread_mutex_unlock(&bridge->mutex);
    if (batch->log.count > 0)
        ldg_telemetry_lag(&bridge->telemetry, lag);
}

/* --- one poll -------------------------------------------------------------------------------- */

static ledger_rc plan(struct ldg_pipe *pipe, struct ldg_batch *batch, ledger_error *err)
{
    struct ldg_plan_rules rules = { .skip_types = pipe->bridge->options.skip_types,
                                    .origins = &pipe->origins };
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; batch->has_origins && i < batch->log.count && rc == LEDGER_OK; i++)
        if (batch->events[i].bad == NULL)
            rc = ldg_origins_resolve(&pipe->origins,
                                     ldg_origins_store(pipe->sink, pipe->state_store),
                                     &batch->events[i].event, err);
    return rc == LEDGER_OK ? ldg_plan(batch, &rules, err) : rc;
}

/* Index of the event that the batch must end before: batch->log.count when there is none. */
static size_t first_bad(const struct ldg_batch *batch)
{
    size_t i = 0;
    while (i < batch->log.count && batch->events[i].bad == NULL)
        i++;
    return i;
}

static ledger_rc fail_bad(const struct ldg_batch *batch, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_DATA,
                    "event at log position %lld cannot be applied: %s; mend the log, or run the "
                    "bridge with on_bad_event=park",
                    (long long)batch->log.rows[0].position, batch->events[0].bad);
}

/* What became of a batch. A bad event in its middle, or another batch in its way, means that it is
 * to be read again, shorter or alone: pipe->redo. */
static ledger_rc ended(struct ldg_pipe *pipe, const struct ldg_batch *batch, ledger_rc rc,
                       ledger_error *err)
{
    if (rc == LEDGER_OK) {
        pipe->limit_once = 0;
        account(pipe, batch);
        return LEDGER_OK;
    }
    if (rc == LEDGER_ERR_REJECTED && err->done_count < batch->op_count) {
        size_t index = batch->ops[err->done_count].event_index;
        if (index > 0) {
            pipe->limit_once = index;
            pipe->redo = true;
            return LEDGER_OK;
        }
    }
    if (pipe->applier.collided) {
        pipe->redo = true;
        return LEDGER_OK;
    }
    if (rc != LEDGER_ERR_FENCED)
        account_failure(pipe, batch);
    return rc;
}

/* Ends the oldest batch under way. */
static ledger_rc finish(struct ldg_pipe *pipe, ledger_error *err)
{
    struct ldg_batch *batch = NULL;
    ledger_rc rc = ldg_apply_finish(&pipe->applier, &pipe->cursor, &batch, err);
    return ended(pipe, batch, rc, err);
}

static ledger_rc finish_all(struct ldg_pipe *pipe, size_t but, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    while (rc == LEDGER_OK && pipe->applier.count > but)
        rc = finish(pipe, err);
    return rc;
}

void ldg_pipe_drain(struct ldg_pipe *pipe)
{
    ledger_error err;
    while (pipe->applier.count > 0)
        (void)finish(pipe, &err);
}

/* A backlog begins or ends: the sink is told when nothing is under way. */
static ledger_rc note_pace(struct ldg_pipe *pipe, bool backlog, ledger_error *err)
{
    if (pipe->backlog == backlog)
        return LEDGER_OK;
    ledger_rc rc = finish_all(pipe, 0, err);
    if (rc == LEDGER_OK) {
        pipe->backlog = backlog;
        ldg_apply_hint_backlog(&pipe->applier, backlog);
    }
    return rc;
}

static struct ldg_log_limits limits_of(const struct ldg_pipe *pipe, bool backlog)
{
    const ledger_bridge_options *options = &pipe->bridge->options;
    struct ldg_log_limits limits = { .max_count = backlog ? options->backlog_batch_size
                                                          : options->batch_size,
                                     .max_bytes = options->max_batch_bytes };
    if (pipe->limit_once > 0 && pipe->limit_once < limits.max_count)
        limits.max_count = pipe->limit_once;
    return limits;
}

/* With the policy STOP: the next poll ends before the first bad event, or it is the end. */
static ledger_rc stop_before_bad(struct ldg_pipe *pipe, const struct ldg_batch *batch,
                                 ledger_error *err)
{
    ledger_rc rc = finish_all(pipe, 0, err);
    size_t index = first_bad(batch);
    if (rc == LEDGER_OK && !pipe->redo && index == 0)
        rc = fail_bad(batch, err);
    else if (rc == LEDGER_OK && !pipe->redo)
        pipe->limit_once = index;
    return rc;
}

/* In the words of a sink with transactions; who delivers says only why. */
static ledger_rc name_refused(const struct ldg_op *op, ledger_error *err)
{
    const ledger_error why = *err;
    (void)ldg_fail_native(err, LEDGER_ERR_REJECTED, why.backend, why.native_code,
                          "the sink refuses event %lld (%s of stream \"%.60s\"): %s",
                          (long long)op->log_position, op->type_name != NULL ? op->type_name : "",
                          op->stream, why.message);
    err->done_count = why.done_count;
    return LEDGER_ERR_REJECTED;
}

static ledger_rc deliver(struct ldg_pipe *pipe, struct ldg_batch *batch, bool park,
                         ledger_error *err)
{
    ledger_rc rc = ldg_deliver(&pipe->deliverer, &pipe->cursor, batch, park, err);
    rc = ended(pipe, batch, rc, err);
    if (rc == LEDGER_ERR_REJECTED && err->done_count < batch->op_count)
        rc = name_refused(&batch->ops[err->done_count], err);
    return rc;
}

/* ahead: the next batch is being read meanwhile. */
static ledger_rc apply(struct ldg_pipe *pipe, struct ldg_batch *batch, bool park, bool ahead,
                       ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    ahead = ahead && ldg_apply_may_overlap(&pipe->applier, batch);
    if (!ahead)
        rc = finish_all(pipe, 0, err);
    if (rc == LEDGER_OK && !pipe->redo)
        rc = ldg_apply_start(&pipe->applier, &pipe->cursor, batch, park, ahead, err);
    if (rc == LEDGER_OK && !pipe->redo)
        rc = finish_all(pipe, ahead ? 1 : 0, err);
    return rc;
}

/* May leave the batch under way; the next poll, or its failure, ends it. *ret_read stays as it is
 * when it is to be done once more at once. */
static ledger_rc poll_once(struct ldg_pipe *pipe, bool joined, size_t *ret_read, ledger_error *err)
{
    const bool park = pipe->bridge->options.on_bad_event == LEDGER_BAD_EVENT_PARK;
    struct ldg_batch *batch = NULL;
    ledger_rc rc = LEDGER_OK;
    pipe->redo = false;

    /* 1. Where to begin: the sink's word, not ours, after anything went wrong. The source is asked,
     * too. */
    if (!pipe->cursor.loaded) {
        ldg_read_settle(&pipe->reader);
        rc = load_cursor(pipe, err);
    }

    /* 2. Read and decode; while there is a backlog, join batches and read the next one ahead. A
     * delivery that comes again has to hold what it held, so with a state store a batch is never
     * smaller than it was before a restart. */
    struct ldg_log_limits limits =
        limits_of(pipe, joined && (pipe->backlog || pipe->state_store != NULL));
    if (rc == LEDGER_OK)
        rc = ldg_read_next(&pipe->reader, ldg_apply_end(&pipe->applier, &pipe->cursor), &limits,
                           &batch, err);
    /* The last batch of a backlog goes as those before it did. */
    const bool backlog =
        rc == LEDGER_OK && (batch->log.more || (batch->log.count > 0 && pipe->applier.count > 0));
    if (rc == LEDGER_OK)
        rc = note_pace(pipe, backlog, err);
    if (rc != LEDGER_OK || pipe->redo)
        return rc;
    note_backlog(pipe, batch);
    if (batch->log.count == 0) {
        rc = finish_all(pipe, 0, err);
        if (rc == LEDGER_OK && !pipe->redo)
            *ret_read = 0;
        return rc;
    }
    const bool ahead = joined && backlog && pipe->limit_once == 0;
    if (ahead && batch->log.more) {
        limits = limits_of(pipe, true);
        ldg_read_ahead(&pipe->reader, batch->log.next_state, &limits);
    }

    /* 3. Plan. With the policy STOP a batch ends before its first bad event. */
    if (batch->has_origins) /* the sink may have to be asked */
        rc = finish_all(pipe, 0, err);
    if (rc == LEDGER_OK && !pipe->redo)
        rc = plan(pipe, batch, err);
    if (rc != LEDGER_OK || pipe->redo)
        return rc;
    if (batch->has_bad && !park)
        return stop_before_bad(pipe, batch, err);

    /* 4. and 5. Apply and move the cursor: in one transaction, or by way of a state store. */
    rc = pipe->state_store != NULL ? deliver(pipe, batch, park, err)
                                   : apply(pipe, batch, park, ahead, err);
    if (rc == LEDGER_OK && !pipe->redo)
        *ret_read = batch->log.count;
    return rc;
}

ledger_rc ldg_pipe_poll(struct ldg_pipe *pipe, bool joined, size_t *ret_read, ledger_error *err)
{
    struct ledger_bridge *bridge = pipe->bridge;
    int64_t start = ldg_clock_mono_us();
    void *span = ldg_telemetry_poll_start(&bridge->telemetry);
    const size_t again = SIZE_MAX;
    size_t read = again;
    ledger_rc rc = LEDGER_OK;

    if (bridge->state_store != NULL) {
        pthread_mutex_lock(&bridge->lone_mutex);
        pipe->cursor.loaded = false;
    }
    while (rc == LEDGER_OK && read == again)
        rc = poll_once(pipe, joined, &read, err);
    if (rc != LEDGER_OK) {
        ldg_pipe_drain(pipe);
        ldg_read_discard(&pipe->reader);
        pipe->cursor.loaded = false;
    }
    if (rc == LEDGER_ERR_FOREIGN_BRIDGE && pipe->looked)
        ldg_takeover_after(pipe);
    if (bridge->state_store != NULL)
        pthread_mutex_unlock(&bridge->lone_mutex);

    bool failed = rc != LEDGER_OK && rc != LEDGER_ERR_FENCED;
    ldg_telemetry_poll_end(&bridge->telemetry, span, (double)(ldg_clock_mono_us() - start) / 1e6,
                           failed ? err : NULL);
    pthread_mutex_lock(&bridge->mutex);
    bridge->stats.poll_count++;
    if (failed)
        bridge->stats.error_count++;
    if (rc == LEDGER_OK)
        bridge->stats.last_success_us = ldg_clock_now_us();
    pthread_mutex_unlock(&bridge->mutex);
    if (rc == LEDGER_OK)
        *ret_read = read;
    return rc;
}
