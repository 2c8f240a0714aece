/* The bridge's life: made, started, looped, stopped; and the one place that decides on retries.
 *
 * The loop: look at the source; carry what is there; when nothing is, wait for a change. An error
 * that may pass by itself is retried after a growing pause, from what the sink says its cursor is.
 * Any other ends the loop, and ledger_bridge_wait() tells why. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/options.h"
#include "bridge/stages.h"

static const struct ldg_options bridge_options = {
    .name = "ledger_bridge_options",
    .defaults =
        &(const ledger_bridge_options){
            .size = sizeof(ledger_bridge_options),
            .name = LEDGER_BRIDGE_DEFAULT_NAME,
            .interval_ms = 5000,
            .batch_size = 500,
            .backlog_batch_size = 5000,
            .max_batch_bytes = (size_t)4 * 1024 * 1024,
            .refusal_limit = 10,
            .retry_min_ms = 50,
            .retry_max_ms = 10000,
            .retry_for_ms = -1,
            .id_codec = &ledger_int64_codec,
            .meter_name = LEDGER_BRIDGE_DEFAULT_METER,
            .tracer_name = LEDGER_BRIDGE_DEFAULT_METER,
        },
    .size = sizeof(ledger_bridge_options),
    .least = LDG_OPTIONS_UP_TO(ledger_bridge_options, tracer_name),
};

void ledger_bridge_options_init(ledger_bridge_options *options, size_t size)
{
    ldg_options_init(&bridge_options, options, size);
}

/* --- waiting --------------------------------------------------------------------------------- */

/* After a stop the batch in hand may wait for its databases for so long; then it is given up. */
#define STOP_GRACE_US (4 * INT64_C(1000000))
/* A stop that waits for so long says what for. */
#define STOP_TELL_MS 5000
/* With a shorter retry_for_ms no single wait is cut off earlier. */
#define WAIT_MIN_MS 1000

/* Of the thread's calls: may they go on waiting? */
static ledger_wait_answer may_wait(void *ctx, int64_t waited_ms)
{
    struct ledger_bridge *bridge = ctx;
    const int64_t retry_for_ms = bridge->options.retry_for_ms;
    const int64_t stop_us = atomic_load(&bridge->stop_us);
    if (stop_us != 0)
        return ldg_clock_mono_us() - stop_us >= STOP_GRACE_US ? LEDGER_WAIT_STOP : LEDGER_WAIT_ON;
    if (retry_for_ms < 0 || waited_ms < WAIT_MIN_MS)
        return LEDGER_WAIT_ON;
    const int64_t failing_us = atomic_load(&bridge->failing_us);
    const int64_t ms = failing_us != 0 ? (ldg_clock_mono_us() - failing_us) / 1000 : waited_ms;
    return ms >= retry_for_ms ? LEDGER_WAIT_ENOUGH : LEDGER_WAIT_ON;
}

/* The same wait is told once, although each of its tries is a wait of its own. */
static void tell_wait(void *ctx, const char *what)
{
    struct ledger_bridge *bridge = ctx;
    const unsigned long long hash = ldg_hash64(what, strlen(what), 0) | 1;
    const bool told = atomic_exchange(&bridge->wait_told, hash) == hash;
    ldg_log(&bridge->telemetry, told ? LEDGER_LOG_DEBUG : LEDGER_LOG_WARN, what, NULL);
}

/* --- making ---------------------------------------------------------------------------------- */

static ledger_rc check_options(const ledger_bridge_options *o, ledger_error *err)
{
    const char *wrong = NULL;
    char text[LEDGER_ID_TEXT_MAX];
    if (o->name == NULL || o->name[0] == '\0' || strlen(o->name) > 200 ||
        !ldg_utf8_valid(o->name, strlen(o->name)))
        wrong = "name must be 1 to 200 bytes of UTF-8";
    else if (ldg_sending_is_name(o->name))
        wrong = "name must not end with /sending: the row of that name is another bridge's";
    else if (o->interval_ms < 1)
        wrong = "interval must be at least 1 ms";
    else if (o->batch_size < 1 || o->batch_size > 1000000)
        wrong = "batch_size must be 1 to 1000000";
    else if (o->backlog_batch_size > 1000000)
        wrong = "backlog_batch_size must be at most 1000000";
    else if (o->max_batch_bytes < 1)
        wrong = "max_batch_bytes must be at least 1";
    else if (o->parallel_streams > 256)
        wrong = "parallel_streams must be at most 256";
    else if (o->skip_types >> LEDGER_MUTATION_UNKNOWN != 0)
        wrong = "skip_types names a type that does not exist";
    else if (o->on_bad_event != LEDGER_BAD_EVENT_PARK && o->on_bad_event != LEDGER_BAD_EVENT_STOP)
        wrong = "on_bad_event must be park or stop";
    else if (o->retry_min_ms < 1 || o->retry_max_ms < o->retry_min_ms)
        wrong = "retry_min must be at least 1 ms and not over retry_max";
    else if (o->state_url != NULL && o->cursor_file != NULL)
        wrong = "cursor_file is short for a state_url: give one of the two";
    else if (o->id_codec == NULL)
        wrong = "id_codec is missing";
    else if (o->metrics_enabled && (o->meter.instrument == NULL || o->meter.record == NULL))
        wrong = "metrics are enabled without a meter";
    else if (o->traces_enabled && (o->tracer.start == NULL || o->tracer.end == NULL))
        wrong = "traces are enabled without a tracer";
    else if (o->id_codec->encode((ledger_id){ .number = 1 }, text, NULL) != LEDGER_OK)
        wrong = "id_codec cannot encode a number, and positions of this library are numbers: use "
                "ledger_int64_codec, the default";
    return wrong == NULL ? LEDGER_OK : ldg_fail(err, LEDGER_ERR_INVALID, "bridge: %s", wrong);
}

#define STRINGS ((int)(sizeof(((struct ledger_bridge *)NULL)->strings) / sizeof(char *)))

static ledger_rc copy_options(struct ledger_bridge *bridge, const ledger_bridge_options *options,
                              ledger_error *err)
{
    const char *from[STRINGS] = {
        options->name,
        options->cursor_file,
        options->meter_name ? options->meter_name : LEDGER_BRIDGE_DEFAULT_METER,
        options->tracer_name ? options->tracer_name : LEDGER_BRIDGE_DEFAULT_METER,
        options->state_url,
        options->state_table ? options->state_table : LEDGER_BRIDGE_DEFAULT_STATE_TABLE,
    };
    bridge->options = *options;
    for (int i = 0; i < STRINGS; i++) {
        bridge->strings[i] = from[i] == NULL ? NULL : ldg_strdup(from[i]);
        if (from[i] != NULL && bridge->strings[i] == NULL)
            return ldg_fail_nomem(err);
    }
    bridge->options.name = bridge->strings[0];
    bridge->options.cursor_file = bridge->strings[1];
    bridge->options.meter_name = bridge->strings[2];
    bridge->options.tracer_name = bridge->strings[3];
    bridge->options.state_url = bridge->strings[4];
    bridge->options.state_table = bridge->strings[5];
    if (bridge->options.backlog_batch_size < bridge->options.batch_size)
        bridge->options.backlog_batch_size = bridge->options.batch_size;
    return LEDGER_OK;
}

/* What the sink cannot do must be skipped on purpose: said at once, not at the first event. */
static ledger_rc check_abilities(const struct ledger_bridge *bridge, ledger_error *err)
{
    static const struct {
        ledger_mutation_type type;
        enum ldg_op_kind op;
    } needs[] = {
        { LEDGER_MUTATION_SET_TAGS, LDG_OP_SET_TAGS },
        { LEDGER_MUTATION_SET_ANNOTATIONS, LDG_OP_SET_ANNOTATIONS },
        { LEDGER_MUTATION_TRIM, LDG_OP_TRIM },
    };
    const uint32_t takes = ldg_store_takes(bridge->sink);
    const uint64_t caps = ldg_store_caps(bridge->sink);
    if ((ldg_store_caps(bridge->source) & LDG_CAP_MUTATION_LOG) == 0)
        return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                        "%s stores cannot be a source: no mutation log",
                        ledger_store_backend(bridge->source));
    if (!ledger_store_has_log(bridge->source))
        return ldg_fail(err, LEDGER_ERR_SCHEMA,
                        "source %s, table %s, has no mutation log; make one with `ledgerctl store "
                        "init --store %s --table %s`",
                        ledger_store_url(bridge->source), ledger_store_table(bridge->source),
                        ledger_store_url(bridge->source), ledger_store_table(bridge->source));
    if (takes == 0)
        return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "%s stores cannot be a sink",
                        ledger_store_backend(bridge->sink));
    for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++)
        if ((takes >> needs[i].op & 1) == 0 &&
            (bridge->options.skip_types >> needs[i].type & 1) == 0)
            return ldg_fail(
                err, LEDGER_ERR_UNSUPPORTED,
                "the sink (%s) cannot take %s events; skip them on purpose with --skip %s",
                ledger_store_backend(bridge->sink), ledger_mutation_type_name(needs[i].type),
                ledger_mutation_type_name(needs[i].type));
    if ((caps & LDG_CAP_TX_CURSOR) != 0 && (caps & LDG_CAP_PARK) == 0 &&
        bridge->options.on_bad_event == LEDGER_BAD_EVENT_PARK)
        return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                        "the sink (%s) cannot park events; use --on-bad-event stop",
                        ledger_store_backend(bridge->sink));
    return LEDGER_OK;
}

/* A bridge that has nothing open. */
static struct ledger_bridge *bridge_new(void)
{
    pthread_condattr_t attr;
    struct ledger_bridge *bridge = ldg_calloc(1, sizeof(*bridge));
    if (bridge == NULL)
        return NULL;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&bridge->mutex, NULL);
    pthread_mutex_init(&bridge->poll_mutex, NULL);
    pthread_mutex_init(&bridge->lone_mutex, NULL);
    pthread_cond_init(&bridge->cond, &attr);
    pthread_condattr_destroy(&attr);
    bridge->stats.last_success_us = bridge->stats.last_progress_us = LEDGER_NO_TIME;
    bridge->waits = (ledger_wait){ .ask = may_wait, .waiting = tell_wait, .ctx = bridge };
    bridge->poll_waits = (ledger_wait){ .waiting = tell_wait, .ctx = bridge };
    bridge->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bridge->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return bridge;
}

/* To a store, or to a sink of the program's. */
static ledger_rc create(const ledger_store *source, const ledger_store *store,
                        const ledger_sink *sink, const ledger_bridge_options *options,
                        ledger_bridge **ret_bridge, ledger_error *err)
{
    ledger_bridge_options o;
    ledger_rc rc = ldg_options_take(&bridge_options, options, &o, err);
    if (rc == LEDGER_OK)
        rc = check_options(&o, err);
    if (rc != LEDGER_OK)
        return rc;

    struct ledger_bridge *bridge = bridge_new();
    if (bridge == NULL)
        return ldg_fail_nomem(err);
    if (bridge->wake_fd < 0 || bridge->stop_fd < 0)
        rc = ldg_fail_native(err, LEDGER_ERR_IO, "", errno, "eventfd: %s%s", strerror(errno),
                             errno == EMFILE ? "; raise the limit (`ulimit -n`)" : "");
    if (rc == LEDGER_OK)
        rc = copy_options(bridge, &o, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_reopen(source, LDG_ROLE_USER, bridge->options.name, &bridge->source, err);
    if (rc == LEDGER_OK && sink != NULL)
        rc = ldg_own_create(sink, &bridge->own, err);
    if (rc == LEDGER_OK)
        rc = sink != NULL
                 ? ldg_own_open(bridge->own, &bridge->sink, err)
                 : ldg_store_reopen(store, LDG_ROLE_USER, bridge->options.name, &bridge->sink, err);
    if (rc == LEDGER_OK)
        rc = check_abilities(bridge, err);
    if (rc == LEDGER_OK)
        rc = ldg_state_open(bridge, err);
    if (rc == LEDGER_OK)
        rc = ldg_telemetry_init(&bridge->telemetry, &bridge->options, err);
    bridge->is_whole = rc == LEDGER_OK;
    if (rc == LEDGER_OK)
        *ret_bridge = bridge;
    else
        ledger_bridge_destroy(&bridge);
    return rc;
}

ledger_rc ledger_bridge_create(const ledger_store *source, const ledger_store *sink,
                               const ledger_bridge_options *options, ledger_bridge **ret_bridge,
                               ledger_error *err)
{
    ledger_error local;
    err = err != NULL ? err : &local;
    if (source == NULL || sink == NULL || ret_bridge == NULL)
        return ldg_fail(err, LEDGER_ERR_INVALID, "bridge: source, sink or result is NULL");
    return create(source, sink, NULL, options, ret_bridge, err);
}

ledger_rc ledger_bridge_create_to(const ledger_store *source, const ledger_sink *sink,
                                  const ledger_bridge_options *options, ledger_bridge **ret_bridge,
                                  ledger_error *err)
{
    ledger_error local;
    err = err != NULL ? err : &local;
    if (source == NULL || sink == NULL || ret_bridge == NULL)
        return ldg_fail(err, LEDGER_ERR_INVALID, "bridge: source, sink or result is NULL");
    return create(source, NULL, sink, options, ret_bridge, err);
}

void ledger_bridge_destroy(ledger_bridge **bridge)
{
    if (bridge == NULL || *bridge == NULL)
        return;
    struct ledger_bridge *b = *bridge;
    ledger_bridge_stop(b);
    if (ldg_own_is_inside(b->own)) {
        ldg_log(&b->telemetry, LEDGER_LOG_ERROR,
                "the bridge is not destroyed from within deliver() of its own sink", NULL);
        return;
    }
    ldg_pipe_close(&b->poll_pipe);
    ledger_store_close(&b->state_store);
    ledger_store_close(&b->sink);
    ledger_store_close(&b->source);
    ldg_own_destroy(&b->own, b->is_whole);
    ldg_delivered_fini(&b->delivered);
    ldg_sending_fini(&b->sending);
    for (int i = 0; i < STRINGS; i++)
        ldg_free(b->strings[i]);
    if (b->wake_fd >= 0)
        close(b->wake_fd);
    if (b->stop_fd >= 0)
        close(b->stop_fd);
    pthread_mutex_destroy(&b->mutex);
    pthread_mutex_destroy(&b->poll_mutex);
    pthread_mutex_destroy(&b->lone_mutex);
    pthread_cond_destroy(&b->cond);
    ldg_free(b);
    *bridge = NULL;
}

/* --- retries --------------------------------------------------------------------------------- */

struct retry {
    int64_t pause_ms; /* the next one; 0: no failure since the last success */
    int64_t asked_ms; /* for the next one: the sink asks for so much */
    int64_t failing_since_us;
    ledger_rc told; /* what the log was told last, since then */
};

static bool may_retry(ledger_rc rc, const ledger_error *err)
{
    return (err->flags & LEDGER_ERROR_RETRY) != 0 || rc == LEDGER_ERR_PARTIAL;
}

/* Needs new handles: what is known of the old ones can no longer be trusted. */
static bool wants_reopen(ledger_rc rc)
{
    return rc != LEDGER_ERR_FENCED && rc != LEDGER_ERR_BUSY && rc != LEDGER_ERR_FULL;
}

/* Waits, unless it is told to stop. */
static void pause_ms(struct ledger_bridge *bridge, int64_t ms)
{
    struct pollfd fd = { .fd = bridge->stop_fd, .events = POLLIN };
    (void)poll(&fd, 1, ms < INT_MAX ? (int)ms : INT_MAX);
}

/* A failure that began at begun_us, be it with a wait. False: it has been failing for too long. */
static bool back_off(struct ledger_bridge *bridge, struct retry *retry, int64_t begun_us,
                     ledger_rc rc, const ledger_error *err)
{
    const ledger_bridge_options *o = &bridge->options;
    if (rc == LEDGER_ERR_FENCED) { /* somebody else makes progress */
        pause_ms(bridge, 1 + (int64_t)(ldg_random_u64() % 4));
        return true;
    }
    int64_t now = ldg_clock_mono_us();
    if (retry->pause_ms == 0) {
        retry->pause_ms = o->retry_min_ms;
        retry->failing_since_us = begun_us;
        atomic_store(&bridge->failing_us, begun_us);
    }
    if (o->retry_for_ms >= 0 && (now - retry->failing_since_us) / 1000 >= o->retry_for_ms) {
        if (o->retry_for_ms > 0)
            ldg_log(&bridge->telemetry, LEDGER_LOG_WARN,
                    "gives up: nothing went well for as long as it was to try again", NULL);
        return false;
    }
    /* Once for each kind of failure: a database may be away for hours. */
    ldg_log(&bridge->telemetry, rc != retry->told ? LEDGER_LOG_WARN : LEDGER_LOG_DEBUG,
            "poll failed, will try again", err);
    retry->told = rc;
    /* Half fixed, half random: several bridges do not come back in step. */
    int64_t half = retry->pause_ms / 2;
    int64_t ms = half + (int64_t)(ldg_random_u64() % (uint64_t)(half + 1)) + 1;
    if (retry->asked_ms > ms) {
        const int64_t left_ms = o->retry_for_ms - (now - retry->failing_since_us) / 1000;
        ms = o->retry_for_ms >= 0 && left_ms < retry->asked_ms ? left_ms : retry->asked_ms;
    }
    pause_ms(bridge, ms);
    retry->pause_ms =
        retry->pause_ms <= o->retry_max_ms / 2 ? retry->pause_ms * 2 : o->retry_max_ms;
    return true;
}

/* Who was told of a failure hears of its end. */
static void succeeded(struct ledger_bridge *bridge, struct retry *retry)
{
    char text[80];
    if (retry->told != LEDGER_OK) {
        (void)snprintf(text, sizeof(text), "works again, after %.1f s",
                       (double)(ldg_clock_mono_us() - retry->failing_since_us) / 1e6);
        ldg_log(&bridge->telemetry, LEDGER_LOG_WARN, text, NULL);
    }
    atomic_store(&bridge->failing_us, 0);
    atomic_store(&bridge->wait_told, 0);
    retry->pause_ms = 0;
    retry->told = LEDGER_OK;
}

/* What was a primary before and is read-only now is in the middle of a fail-over: it may be
 * promoted again, or its name lead to another server. A poll that did not get as far as reading
 * has failed, too. */
static ledger_rc open_pipe(struct ledger_bridge *bridge, const ledger_wait *waits, bool *was_open,
                           struct ldg_pipe **ret_pipe, ledger_error *err)
{
    ledger_rc rc = ldg_pipe_open(bridge, waits, ret_pipe, err);
    if (rc == LEDGER_OK) {
        *was_open = true;
        return rc;
    }
    if (rc == LEDGER_ERR_READ_ONLY && *was_open)
        err->flags = LEDGER_ERROR_RETRY;
    pthread_mutex_lock(&bridge->mutex);
    bridge->stats.poll_count++;
    bridge->stats.error_count++;
    pthread_mutex_unlock(&bridge->mutex);
    return rc;
}

/* What the sink asks for is heard once, before its handle is closed. */
static int64_t take_pause(struct ldg_pipe *pipe)
{
    const int64_t ms = pipe != NULL ? pipe->deliverer.pause_ms : 0;
    if (pipe != NULL)
        pipe->deliverer.pause_ms = 0;
    return ms;
}

ledger_rc ldg_bridge_check(const ledger_bridge *bridge, const char *call, ledger_error *err)
{
    if (bridge == NULL)
        return ldg_fail(err, LEDGER_ERR_INVALID, "bridge is NULL");
    if (!ldg_own_is_inside(bridge->own))
        return LEDGER_OK;
    return ldg_fail(err, LEDGER_ERR_INVALID,
                    "%s was called from within deliver() of the bridge's own sink, which it would "
                    "wait for; call it from another thread, or after deliver() has returned",
                    call);
}

/* --- polling --------------------------------------------------------------------------------- */

#define POLL_FENCED_TRIES 20

ledger_rc ledger_bridge_poll(ledger_bridge *bridge, uint64_t *ret_read, ledger_error *err)
{
    ledger_error local;
    size_t read = 0;
    err = err != NULL ? err : &local;
    ledger_rc rc = ldg_bridge_check(bridge, "poll", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = LEDGER_ERR_FENCED;
    memset(err, 0, sizeof(*err));
    pthread_mutex_lock(&bridge->poll_mutex);
    for (int i = 0; i < POLL_FENCED_TRIES && rc == LEDGER_ERR_FENCED; i++) {
        rc = LEDGER_OK;
        if (bridge->poll_pipe == NULL)
            rc = open_pipe(bridge, &bridge->poll_waits, &bridge->poll_was_open, &bridge->poll_pipe,
                           err);
        if (rc == LEDGER_OK)
            rc = ldg_pipe_poll(bridge->poll_pipe, false, &read, err);
    }
    if (rc != LEDGER_OK && wants_reopen(rc))
        ldg_pipe_close(&bridge->poll_pipe);
    if (rc != LEDGER_OK && rc != LEDGER_ERR_FENCED)
        ldg_log(&bridge->telemetry, LEDGER_LOG_WARN, "poll failed", err);
    pthread_mutex_unlock(&bridge->poll_mutex);
    if (rc == LEDGER_OK && ret_read != NULL)
        *ret_read = read;
    return rc;
}

/* --- the loop -------------------------------------------------------------------------------- */

static void drain_wake(struct ledger_bridge *bridge)
{
    uint64_t value;
    ssize_t n = read(bridge->wake_fd, &value, sizeof(value));
    (void)n; /* nothing there is fine */
}

static void note_look(struct ledger_bridge *bridge, uint64_t *look)
{
    pthread_mutex_lock(&bridge->mutex);
    *look = ++bridge->looks;
    pthread_mutex_unlock(&bridge->mutex);
}

static void note_empty(struct ledger_bridge *bridge, uint64_t look)
{
    pthread_mutex_lock(&bridge->mutex);
    bridge->empty_looks = look;
    pthread_cond_broadcast(&bridge->cond);
    pthread_mutex_unlock(&bridge->mutex);
}

/* Nothing is left: until somebody commits, or the interval is over. *asked_us: when the sink was
 * asked last. */
static ledger_rc wait_for_more(struct ledger_bridge *bridge, struct ldg_pipe *pipe,
                               int64_t *asked_us, ledger_error *err)
{
    /* Now and then the sink is asked as well: somebody may have set it back. */
    if (ldg_clock_mono_us() - *asked_us >= bridge->options.interval_ms * 1000) {
        *asked_us = ldg_clock_mono_us();
        pipe->cursor.loaded = false;
    }
    return ldg_store_log_wait(pipe->source, bridge->wake_fd, bridge->options.interval_ms, err);
}

static ledger_rc run(struct ledger_bridge *bridge, ledger_error *err)
{
    struct ldg_pipe *pipe = NULL;
    struct retry retry = { 0 };
    int64_t asked_us = ldg_clock_mono_us();
    bool was_open = false;
    ledger_rc rc = LEDGER_OK;

    while (true) {
        size_t read = 0;
        uint64_t look;
        int64_t begun_us = ldg_clock_mono_us();
        /* Drained before the flag is read: a stop sets the flag and signals after that, so what is
         * drained here is seen, and what comes later ends the wait below. */
        drain_wake(bridge);
        if (atomic_load(&bridge->stopping))
            break;
        note_look(bridge, &look);
        rc = LEDGER_OK;
        memset(err, 0, sizeof(*err));
        if (pipe == NULL) {
            rc = open_pipe(bridge, &bridge->waits, &was_open, &pipe, err);
            if (rc == LEDGER_OK)
                rc = ldg_store_wake_add(pipe->source, bridge->wake_fd, err);
        }
        if (rc == LEDGER_OK)
            rc = ldg_pipe_poll(pipe, true, &read, err);
        if (rc == LEDGER_OK) {
            succeeded(bridge, &retry);
            if (read == 0) {
                note_empty(bridge, look);
                rc = wait_for_more(bridge, pipe, &asked_us, err);
                begun_us = ldg_clock_mono_us(); /* it was idle */
            }
        }
        if (rc == LEDGER_OK)
            continue;
        retry.asked_ms = take_pause(pipe);
        if (pipe != NULL && wants_reopen(rc)) {
            ldg_store_wake_remove(pipe->source, bridge->wake_fd);
            ldg_pipe_close(&pipe);
        }
        /* What was given up because of the stop is carried by the next start. */
        if (atomic_load(&bridge->stopping) && (may_retry(rc, err) || rc == LEDGER_ERR_CANCELLED)) {
            rc = LEDGER_OK;
            break;
        }
        if (!may_retry(rc, err) || !back_off(bridge, &retry, begun_us, rc, err))
            break;
        rc = LEDGER_OK;
    }
    if (pipe != NULL)
        ldg_store_wake_remove(pipe->source, bridge->wake_fd);
    ldg_pipe_close(&pipe);
    return rc;
}

static void *bridge_main(void *arg)
{
    struct ledger_bridge *bridge = arg;
    ledger_error err = { 0 };
    ldg_log(&bridge->telemetry, LEDGER_LOG_INFO, "bridge started", NULL);
    ledger_rc rc = run(bridge, &err);
    if (rc == LEDGER_OK)
        ldg_log(&bridge->telemetry, LEDGER_LOG_INFO, "bridge stopped", NULL);
    else
        ldg_log(&bridge->telemetry, LEDGER_LOG_ERROR, "bridge gave up", &err);
    /* From a wait for the bridge TIMEOUT means that it lives: who waits would wait for ever. */
    if (rc == LEDGER_ERR_TIMEOUT)
        rc = err.code = LEDGER_ERR_BUSY;
    pthread_mutex_lock(&bridge->mutex);
    bridge->running = false;
    bridge->end_rc = rc;
    bridge->end_err = err;
    pthread_cond_broadcast(&bridge->cond);
    pthread_mutex_unlock(&bridge->mutex);
    return NULL;
}

/* For the bridge's condition. */
static struct timespec clock_after_ms(int64_t ms)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += ms % 1000 * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

ledger_rc ledger_bridge_start(ledger_bridge *bridge, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    if (bridge == NULL)
        return ldg_fail(err, LEDGER_ERR_INVALID, "bridge is NULL");
    pthread_mutex_lock(&bridge->mutex);
    if (!bridge->started) {
        int error = pthread_create(&bridge->thread, NULL, bridge_main, bridge);
        if (error != 0)
            rc = ldg_fail_native(err, LEDGER_ERR_NOMEM, "", error, "cannot start a thread: %s",
                                 strerror(error));
        else
            bridge->started = bridge->running = true;
    }
    pthread_mutex_unlock(&bridge->mutex);
    return rc;
}

void ledger_bridge_request_stop(ledger_bridge *bridge)
{
    uint64_t one = 1;
    if (bridge == NULL)
        return;
    int saved = errno;
    long long none = 0;
    (void)atomic_compare_exchange_strong(&bridge->stop_us, &none, ldg_clock_mono_us());
    atomic_store(&bridge->stopping, true);
    ssize_t n = write(bridge->stop_fd, &one, sizeof(one));
    n += write(bridge->wake_fd, &one, sizeof(one));
    (void)n; /* a full eventfd is readable, which is all that is wanted */
    errno = saved;
}

/* Waits for the thread, and says what keeps it. */
static void wait_for_end(struct ledger_bridge *bridge)
{
    const struct timespec end = clock_after_ms(STOP_TELL_MS);
    char text[160];
    int waited = 0;
    pthread_mutex_lock(&bridge->mutex);
    while (bridge->running && waited == 0)
        waited = pthread_cond_timedwait(&bridge->cond, &bridge->mutex, &end);
    const int64_t inside_ms = ldg_own_inside_ms(bridge->own);
    if (bridge->running && inside_ms > 0) {
        pthread_mutex_unlock(&bridge->mutex);
        (void)snprintf(
            text, sizeof(text),
            "the stop waits for deliver() of the program's sink, which was called %.1f s "
            "ago and has not returned",
            (double)inside_ms / 1e3);
        ldg_log(&bridge->telemetry, LEDGER_LOG_WARN, text, NULL);
        pthread_mutex_lock(&bridge->mutex);
    }
    while (bridge->running)
        pthread_cond_wait(&bridge->cond, &bridge->mutex);
    bool join = bridge->started && !bridge->joined;
    bridge->joined |= join; /* a start may follow a stop: its thread is joined too */
    pthread_mutex_unlock(&bridge->mutex);
    if (join)
        pthread_join(bridge->thread, NULL);
}

void ledger_bridge_stop(ledger_bridge *bridge)
{
    if (bridge == NULL)
        return;
    ledger_bridge_request_stop(bridge);
    if (!ldg_own_is_inside(bridge->own))
        wait_for_end(bridge);
}

static ledger_rc fail_running(struct ledger_bridge *bridge, int64_t timeout_ms, ledger_error *err)
{
    const int64_t inside_ms = ldg_own_inside_ms(bridge->own);
    if (inside_ms < timeout_ms || inside_ms == 0)
        return ldg_fail(err, LEDGER_ERR_TIMEOUT, "still running after %lld ms",
                        (long long)timeout_ms);
    return ldg_fail(err, LEDGER_ERR_TIMEOUT,
                    "still running after %lld ms: deliver() of the program's sink was called %.1f "
                    "s ago and has not returned",
                    (long long)timeout_ms, (double)inside_ms / 1e3);
}

ledger_rc ledger_bridge_wait(ledger_bridge *bridge, bool until_empty, int64_t timeout_ms,
                             ledger_error *err)
{
    const struct timespec deadline = clock_after_ms(timeout_ms > 0 ? timeout_ms : 0);
    uint64_t one = 1;
    ledger_rc rc = LEDGER_OK;
    int waited = 0;
    rc = ldg_bridge_check(bridge, "wait", err);
    if (rc != LEDGER_OK)
        return rc;
    pthread_mutex_lock(&bridge->mutex);
    if (!bridge->started) {
        pthread_mutex_unlock(&bridge->mutex);
        return ldg_fail(err, LEDGER_ERR_INVALID, "the bridge was not started");
    }
    uint64_t wanted = bridge->looks + 1; /* a look that begins after this call */
    if (until_empty) {
        ssize_t n = write(bridge->wake_fd, &one, sizeof(one));
        (void)n;
    }
    while (bridge->running && !(until_empty && bridge->empty_looks >= wanted) && waited == 0)
        waited = timeout_ms < 0 ? pthread_cond_wait(&bridge->cond, &bridge->mutex)
                                : pthread_cond_timedwait(&bridge->cond, &bridge->mutex, &deadline);
    bool empty = until_empty && bridge->empty_looks >= wanted;
    if (!bridge->running && bridge->end_rc != LEDGER_OK) {
        rc = bridge->end_rc;
        if (err != NULL)
            *err = bridge->end_err;
    } else if (bridge->running && !empty) {
        rc = fail_running(bridge, timeout_ms, err);
    } else if (!bridge->running && until_empty && !empty) {
        rc = ldg_fail(err, LEDGER_ERR_CANCELLED, "stopped before the log was empty");
    }
    pthread_mutex_unlock(&bridge->mutex);
    return rc;
}

void ledger_bridge_get_stats(ledger_bridge *bridge, ledger_bridge_stats *ret_stats)
{
    if (bridge == NULL || ret_stats == NULL)
        return;
    pthread_mutex_lock(&bridge->mutex);
    *ret_stats = bridge->stats;
    /* What a sink that keeps no state has of a batch under way, or of one that was lost to another
     * bridge, it has for good. */
    const uint64_t delivered =
        atomic_load(&bridge->delivered.event_count) - bridge->delivered_count;
    ret_stats->read_count += delivered;
    ret_stats->apply_count += delivered;
    /* While looks fail it grows all the same. */
    if (ret_stats->backlog_count > 0) {
        double waited = ldg_backlog_lag(&bridge->seen, 0, ldg_clock_mono_us());
        ret_stats->lag_seconds = waited > ret_stats->lag_seconds ? waited : ret_stats->lag_seconds;
    }
    pthread_mutex_unlock(&bridge->mutex);
}
