/* Options, life cycle and telemetry of a bridge: what the reference documents, sentence by sentence
 * (docs/REFERENCE.md names these tests). */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "oracle.h"
#include "roles.h"

/* --- a logger, meter and tracer that remember --------------------------------------------------
 */

#define SEEN_MAX 4000
struct seen {
    pthread_mutex_t mutex;
    struct {
        char meter[64], name[64], unit[32];
        ledger_instrument_kind kind;
        const char *description;
        uint64_t count;
        double sum;
    } instruments[32];
    size_t instrument_count;
    struct {
        size_t instrument;
        double value;
        char attrs[256];
    } records[SEEN_MAX];
    size_t record_count;
    size_t log_count, spans_open, spans_ended, span_errors;
    char span_name[64], tracer_name[64], span_attrs[256];
    int fail_instrument; /* 1 = the first */
};

static void attrs_text(char *text, size_t size, const ledger_attr *attrs, size_t count)
{
    text[0] = '\0';
    for (size_t i = 0; i < count; i++)
        snprintf(text + strlen(text), size - strlen(text), "%s=%s;", attrs[i].key, attrs[i].value);
}

static void *see_instrument(void *ctx, const char *meter, ledger_instrument_kind kind,
                            const char *name, const char *unit, const char *description)
{
    struct seen *s = ctx;
    void *result = NULL;
    pthread_mutex_lock(&s->mutex);
    if (s->fail_instrument == 0 || --s->fail_instrument > 0) {
        size_t i = s->instrument_count++;
        snprintf(s->instruments[i].meter, sizeof s->instruments[i].meter, "%s", meter);
        snprintf(s->instruments[i].name, sizeof s->instruments[i].name, "%s", name);
        snprintf(s->instruments[i].unit, sizeof s->instruments[i].unit, "%s", unit);
        s->instruments[i].kind = kind;
        s->instruments[i].description = description;
        result = &s->instruments[i];
    } else {
        s->fail_instrument = 0;
    }
    pthread_mutex_unlock(&s->mutex);
    return result;
}

static void see_record(void *ctx, void *instrument, double value, const ledger_attr *attrs,
                       size_t attr_count)
{
    struct seen *s = ctx;
    pthread_mutex_lock(&s->mutex);
    size_t i = (size_t)((char *)instrument - (char *)s->instruments) / sizeof s->instruments[0];
    s->instruments[i].count++;
    s->instruments[i].sum += value;
    if (s->record_count < SEEN_MAX) {
        s->records[s->record_count].instrument = i;
        s->records[s->record_count].value = value;
        attrs_text(s->records[s->record_count].attrs, sizeof s->records[0].attrs, attrs,
                   attr_count);
        s->record_count++;
    }
    pthread_mutex_unlock(&s->mutex);
}

static void *see_span(void *ctx, const char *tracer, const char *name, const ledger_attr *attrs,
                      size_t attr_count)
{
    struct seen *s = ctx;
    pthread_mutex_lock(&s->mutex);
    s->spans_open++;
    snprintf(s->span_name, sizeof s->span_name, "%s", name);
    snprintf(s->tracer_name, sizeof s->tracer_name, "%s", tracer);
    attrs_text(s->span_attrs, sizeof s->span_attrs, attrs, attr_count);
    pthread_mutex_unlock(&s->mutex);
    return s;
}

static void see_span_end(void *ctx, void *span, const ledger_attr *attrs, size_t attr_count,
                         const char *error)
{
    struct seen *s = ctx;
    assert_ptr_equal(span, s);
    pthread_mutex_lock(&s->mutex);
    s->spans_ended++;
    s->span_errors += error != NULL;
    attrs_text(s->span_attrs + strlen(s->span_attrs), sizeof s->span_attrs - strlen(s->span_attrs),
               attrs, attr_count);
    pthread_mutex_unlock(&s->mutex);
}

static void see_log(void *ctx, ledger_log_level level, const char *message,
                    const ledger_attr *attrs, size_t attr_count)
{
    struct seen *s = ctx;
    pthread_mutex_lock(&s->mutex);
    s->log_count++;
    assert_true(level <= LEDGER_LOG_ERROR && message != NULL && (attr_count == 0 || attrs != NULL));
    pthread_mutex_unlock(&s->mutex);
}

static struct seen *seen_new(ledger_bridge_options *o)
{
    struct seen *s = calloc(1, sizeof *s);
    assert_non_null(s);
    pthread_mutex_init(&s->mutex, NULL);
    o->meter = (ledger_meter){ s, see_instrument, see_record };
    o->tracer = (ledger_tracer){ s, see_span, see_span_end };
    o->logger = (ledger_logger){ s, see_log };
    return s;
}

static void seen_free(struct seen *s)
{
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

/* Sum of what was recorded under these attributes. */
static double sum_of(const struct seen *s, const char *name, const char *attr)
{
    double sum = 0;
    for (size_t i = 0; i < s->record_count; i++)
        if (strcmp(s->instruments[s->records[i].instrument].name, name) == 0 &&
            strstr(s->records[i].attrs, attr) != NULL)
            sum += s->records[i].value;
    return sum;
}

static void defaults_are_the_reference_s(void **state)
{
    ledger_bridge_options o;
    ledger_bridge_options_defaults(&o);
    assert_string_equal(o.name, "default");
    assert_int_equal(o.batch_size, 500);
    assert_int_equal(o.interval_ms, 5000);
    assert_true(o.parallel_streams <= 1);
    assert_int_equal(o.skip_types, 0);
    assert_false(o.metrics_enabled);
    assert_false(o.traces_enabled);
    assert_string_equal(o.meter_name, "github.com/rbaliyan/ledger/bridge");
    assert_string_equal(o.tracer_name, "github.com/rbaliyan/ledger/bridge");
    assert_ptr_equal(o.id_codec, &ledger_int64_codec);
    assert_int_equal(o.on_bad_event, LEDGER_BAD_EVENT_PARK);
    assert_int_equal(o.refusal_limit, 10);
    assert_null(o.logger.log);
}

/* Every call that takes options, with a struct whose size is wrong: 0 is one whose defaults were
 * forgotten. */
static void sizes_are_checked(void **state)
{
    struct tst_env *env = *state;
    ledger_store *store = tst_open(env, TST_MEMORY, "a"), *sink = tst_open(env, TST_MEMORY, "b");
    struct {
        ledger_store_options known;
        char later[8];
    } so = { .later = "x" };
    struct {
        ledger_read_options known;
        char later[8];
    } ro = { .later = "x" };
    struct {
        ledger_stream_options known;
        char later[8];
    } sto = { .later = "x" };
    struct {
        ledger_bridge_options known;
        char later[8];
    } bo = { .later = "x" };
    struct {
        ledger_verify_options known;
        char later[8];
    } vo = { .later = "x" };
    ledger_store_options_defaults(&so.known);
    ledger_read_options_defaults(&ro.known);
    ledger_stream_options_defaults(&sto.known);
    ledger_bridge_options_defaults(&bo.known);
    ledger_verify_options_defaults(&vo.known);
    assert_int_equal(so.known.size, sizeof(so.known));
    assert_int_equal(bo.known.size, sizeof(bo.known));
    const struct {
        size_t *size;
        const char *remedy;
    } structs[] = {
        { &so.known.size, "ledger_store_options_defaults()" },
        { &ro.known.size, "ledger_read_options_defaults()" },
        { &sto.known.size, "ledger_stream_options_defaults()" },
        { &bo.known.size, "ledger_bridge_options_defaults()" },
        { &vo.known.size, "ledger_verify_options_defaults()" },
    };
    for (size_t i = 0; i < sizeof structs / sizeof structs[0]; i++) {
        const size_t own = *structs[i].size;
        const size_t wrong[] = { 0, own - 8, own + 8, SIZE_MAX };
        for (size_t k = 0; k < sizeof wrong / sizeof wrong[0]; k++) {
            ledger_store *opened = NULL;
            ledger_batch *batch = NULL;
            ledger_tail *tail = NULL;
            ledger_stream *stream = NULL;
            ledger_bridge *bridge = NULL;
            ledger_verify_result result;
            ledger_error errs[3] = { 0 };
            *structs[i].size = wrong[k];
            const ledger_rc rcs[3] = {
                i == 0   ? ledger_store_open(&so.known, &opened, &errs[0])
                : i == 1 ? ledger_store_read(store, NULL, &ro.known, &batch, &errs[0])
                : i == 2 ? ledger_stream_create(store, &sto.known, &stream, &errs[0])
                : i == 3 ? ledger_bridge_create(store, sink, &bo.known, &bridge, &errs[0])
                         : ledger_bridge_verify(store, sink, &vo.known, &result, &errs[0]),
                i == 1 ? ledger_store_search(store, NULL, "x", &ro.known, &batch, &errs[1])
                       : LEDGER_ERR_INVALID,
                i == 1 ? ledger_tail_open(store, NULL, &ro.known, false, &tail, &errs[2])
                       : LEDGER_ERR_INVALID,
            };
            for (int call = 0; call < (i == 1 ? 3 : 1); call++) {
                tst_fails(rcs[call], LEDGER_ERR_INVALID, &errs[call]);
                assert_non_null(strstr(errs[call].message, structs[i].remedy));
            }
        }
        *structs[i].size = own;
    }
}

static void instruments_keep_names_units_and_attributes(void **state)
{
    struct tst_env *env = *state;
    static const struct {
        const char *name, *unit;
        ledger_instrument_kind kind;
    } expected[] = {
        { "ledger.bridge.polls", NULL, LEDGER_COUNTER },
        { "ledger.bridge.poll.duration", "s", LEDGER_HISTOGRAM },
        { "ledger.bridge.mutations.applied", NULL, LEDGER_COUNTER },
        { "ledger.bridge.mutations.skipped", NULL, LEDGER_COUNTER },
        { "ledger.bridge.mutations.errors", NULL, LEDGER_COUNTER },
        { "ledger.bridge.lag", "s", LEDGER_HISTOGRAM },
    };
    ledger_store *source = tst_open(env, TST_MEMORY, "source");
    ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
    ledger_bridge_options o;
    ledger_bridge_stats stats;
    tst_bridge_options(&o);
    struct seen *s = seen_new(&o);
    o.name = "measured";
    uint64_t polls = 0, lags = 0;
    o.metrics_enabled = o.traces_enabled = true;
    o.skip_types = 1U << LEDGER_MUTATION_SET_ANNOTATIONS;
    tst_refuse(sink, "bad");
    int64_t id = tst_append(source, "s", "{}", NULL, NULL);
    tst_append(source, "s", "{}", NULL, NULL);
    tst_append(source, "bad", "{}", NULL, NULL);
    tst_tag(source, "s", id, "x");
    tst_annotate(source, "s", id, "k", "v");
    assert_int_equal(tst_trim(source, "s", id), 1);
    tst_sleep_us(20000);
    ledger_bridge *bridge = tst_bridge(source, sink, &o);
    assert_int_equal(tst_drain(bridge), 6);
    ledger_bridge_get_stats(bridge, &stats);
    ledger_bridge_destroy(&bridge);

    assert_int_equal(s->instrument_count, 6);
    for (size_t i = 0; i < 6; i++) {
        bool found = false;
        for (size_t k = 0; k < s->instrument_count; k++) {
            if (strcmp(s->instruments[k].name, expected[i].name) != 0)
                continue;
            found = true;
            assert_string_equal(s->instruments[k].meter, LEDGER_BRIDGE_DEFAULT_METER);
            assert_int_equal(s->instruments[k].kind, expected[i].kind);
            assert_non_null(s->instruments[k].description);
            if (expected[i].unit != NULL)
                assert_string_equal(s->instruments[k].unit, expected[i].unit);
        }
        if (!found)
            tst_fail("no instrument %s", expected[i].name);
    }
    assert_true(sum_of(s, "ledger.bridge.polls", "bridge.name=measured;") >= 2);
    assert_true(sum_of(s, "ledger.bridge.polls", "status=success;") >= 2);
    assert_true(sum_of(s, "ledger.bridge.poll.duration", "status=success;") > 0);
    assert_true(sum_of(s, "ledger.bridge.lag", "bridge.name=measured;") >= 0.015);
    /* A poll that found nothing has no oldest mutation. */
    for (size_t i = 0; i < s->instrument_count; i++) {
        if (strcmp(s->instruments[i].name, "ledger.bridge.polls") == 0)
            polls = s->instruments[i].count;
        else if (strcmp(s->instruments[i].name, "ledger.bridge.lag") == 0)
            lags = s->instruments[i].count;
    }
    assert_true(lags > 0 && lags < polls);
    /* By type, and a failure is no success (w18). */
    assert_true(sum_of(s, "ledger.bridge.mutations.applied", "mutation.type=append;") == 2);
    assert_true(sum_of(s, "ledger.bridge.mutations.applied", "mutation.type=set_tags;") == 1);
    assert_true(sum_of(s, "ledger.bridge.mutations.applied", "mutation.type=trim;") == 1);
    assert_true(sum_of(s, "ledger.bridge.mutations.skipped", "mutation.type=set_annotations;") ==
                1);
    assert_true(sum_of(s, "ledger.bridge.mutations.errors", "mutation.type=append;") == 1);
    assert_true(sum_of(s, "ledger.bridge.mutations.applied", "bridge.name=measured;") ==
                (double)stats.apply_count);
    /* Streams are never attributes. */
    for (size_t i = 0; i < s->record_count; i++)
        assert_null(strstr(s->records[i].attrs, "stream"));
    assert_string_equal(s->span_name, "ledger.bridge.Poll");
    assert_string_equal(s->tracer_name, LEDGER_BRIDGE_DEFAULT_METER);
    assert_non_null(strstr(s->span_attrs, "bridge.name=measured;"));
    assert_non_null(strstr(s->span_attrs, "status=success;"));
    assert_int_equal(s->spans_open, s->spans_ended);
    assert_int_equal(s->span_errors, 0);
    seen_free(s);
}

static void w18_a_failed_poll_is_an_error(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
    ledger_bridge_options o;
    ledger_bridge_stats stats;
    ledger_error err = { 0 };
    uint64_t read = 77;
    tst_bridge_options(&o);
    struct seen *s = seen_new(&o);
    o.metrics_enabled = o.traces_enabled = true;
    o.on_bad_event = LEDGER_BAD_EVENT_STOP;
    tst_refuse(sink, "bad");
    tst_append(source, "bad", "{}", NULL, NULL);
    tst_sleep_us(5000);
    ledger_bridge *bridge = tst_bridge(source, sink, &o);
    for (int i = 0; i < 3; i++)
        tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_REJECTED, &err);
    assert_int_equal(read, 77); /* untouched */
    ledger_bridge_get_stats(bridge, &stats);
    tst_check_counters(bridge);
    assert_int_equal(stats.read_count, 0);
    assert_int_equal(stats.apply_count, 0);
    assert_int_equal(stats.error_count, 3);
    assert_true(stats.last_success_us == LEDGER_NO_TIME);
    assert_int_equal(stats.backlog_count, 1); /* a bridge that cannot go on does not look idle */
    assert_true(stats.lag_seconds > 0);
    ledger_bridge_destroy(&bridge);
    assert_true(sum_of(s, "ledger.bridge.polls", "status=error;") == 3);
    assert_true(sum_of(s, "ledger.bridge.mutations.applied", "") == 0);
    assert_true(sum_of(s, "ledger.bridge.mutations.errors", "mutation.type=append;") >= 1);
    assert_int_equal(s->span_errors, 3);
    assert_true(s->log_count > 0);
    seen_free(s);
}

static size_t take_some(void *ctx, const ledger_mutation *const *mutations, size_t count,
                        ledger_delivery *results)
{
    (void)mutations;
    size_t *room = ctx, given = count < *room ? count : *room;
    for (size_t i = 0; i < given; i++)
        results[i].code = LEDGER_DELIVERY_DONE;
    *room -= given;
    return given;
}

/* A sink that keeps no state has taken a part of a batch: that part is no error. */
static void what_was_delivered_is_no_error(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source");
    ledger_bridge *bridge = NULL;
    ledger_bridge_options o;
    ledger_error err;
    ledger_sink sink;
    size_t room = 2;
    ledger_sink_defaults(&sink);
    sink.ctx = &room;
    sink.deliver = take_some;
    tst_bridge_options(&o);
    struct seen *s = seen_new(&o);
    o.metrics_enabled = true;
    for (int i = 0; i < 5; i++)
        tst_append(source, "s", "{}", NULL, NULL);
    tst_ok(ledger_bridge_create_to(source, &sink, &o, &bridge, &err), &err);
    tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_BUSY, &err);
    assert_true(sum_of(s, "ledger.bridge.mutations.errors", "") == 3);
    room = 3;
    tst_ok(ledger_bridge_poll(bridge, NULL, &err), &err);
    assert_true(sum_of(s, "ledger.bridge.mutations.errors", "") == 3);
    assert_true(sum_of(s, "ledger.bridge.mutations.applied", "") == 5);
    ledger_bridge_destroy(&bridge);
    seen_free(s);
}

static void telemetry_is_off_unless_enabled(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_MEMORY, "source");
    ledger_store *sink = tst_open(env, TST_MEMORY, "sink");
    ledger_bridge_options o;
    ledger_error err = { 0 };
    ledger_bridge *bridge = NULL;
    tst_bridge_options(&o);
    struct seen *s = seen_new(&o);
    tst_append(source, "s", "{}", NULL, NULL);
    (void)tst_bridge_once(source, sink, &o);
    assert_int_equal(s->instrument_count, 0);
    assert_int_equal(s->record_count, 0);
    assert_int_equal(s->spans_open, 0);

    /* The one error that metrics can make. */
    o.metrics_enabled = true;
    for (int i = 1; i <= 6; i++) {
        s->fail_instrument = i;
        tst_fails(ledger_bridge_create(source, sink, &o, &bridge, &err), LEDGER_ERR_INTERNAL, &err);
        assert_null(bridge);
    }
    o.meter.instrument = NULL;
    tst_fails(ledger_bridge_create(source, sink, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
    assert_null(bridge);

    /* Names of one's own. */
    seen_free(s);
    s = seen_new(&o);
    o.traces_enabled = true;
    o.meter_name = "my meter";
    o.tracer_name = "my tracer";
    (void)tst_bridge_once(source, sink, &o);
    assert_string_equal(s->instruments[0].meter, "my meter");
    assert_string_equal(s->tracer_name, "my tracer");
    seen_free(s);
}

static void wrong_options_are_refused(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_SQLITE, "source");
    ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
    ledger_bridge *bridge = NULL;
    ledger_error err = { 0 };
    ledger_bridge_options good, o;
    tst_bridge_options(&good);
#define REFUSED(change)                                                                            \
    do {                                                                                           \
        o = good;                                                                                  \
        change;                                                                                    \
        tst_fails(ledger_bridge_create(source, sink, &o, &bridge, &err), LEDGER_ERR_INVALID,       \
                  &err);                                                                           \
        assert_null(bridge);                                                                       \
    } while (0)
    REFUSED(o.name = "");
    REFUSED(o.name = "bad \xFF utf-8");
    REFUSED(o.batch_size = 0);
    REFUSED(o.interval_ms = 0);
    REFUSED(o.interval_ms = -1);
    REFUSED(o.max_batch_bytes = 0);
    REFUSED(o.skip_types = 1U << 31);
    REFUSED(o.retry_min_ms = -5);
    REFUSED(o.retry_max_ms = o.retry_min_ms - 1);
    REFUSED(o.on_bad_event = (ledger_bad_event_policy)7);
    REFUSED(o.metrics_enabled = true);
    REFUSED(o.traces_enabled = true);
    assert_non_null(strstr(err.message, "without a tracer"));
    REFUSED(o.id_codec = &ledger_string_codec);
    assert_non_null(strstr(err.message, "use ledger_int64_codec"));
    assert_int_equal(ledger_bridge_create(NULL, sink, &good, &bridge, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_bridge_create(source, NULL, &good, &bridge, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_bridge_create(source, sink, &good, NULL, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_bridge_create(source, source, &good, &bridge, NULL),
                     LEDGER_ERR_INVALID);
    assert_null(bridge);
}

/* "All other configuration errors are surfaced at Start/Poll time" there; here at create already.
 */
static void misconfiguration_is_told_at_create(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *same = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_store_options so;
        ledger_bridge_options o;
        ledger_bridge *bridge = NULL;
        ledger_error err = { 0 };
        tst_bridge_options(&o);
        tst_fails(ledger_bridge_create(source, same, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
        ledger_store_options_defaults(&so);
        so.flags = LEDGER_STORE_CREATE;
        so.log = LEDGER_MUTATION_LOG_OFF;
        ledger_store *silent = tst_open_with(env, from, "silent", &so);
        assert_false(ledger_store_has_log(silent));
        tst_fails(ledger_bridge_create(silent, sink, &o, &bridge, &err), LEDGER_ERR_SCHEMA, &err);
        assert_null(bridge);
        /* A sink that cannot trim: an error, unless the type is skipped on purpose. */
        tst_cut(sink, TST_CUT_TRIM);
        tst_fails(ledger_bridge_create(source, sink, &o, &bridge, &err), LEDGER_ERR_UNSUPPORTED,
                  &err);
        assert_non_null(strstr(err.message, "trim"));
        o.skip_types = 1U << LEDGER_MUTATION_TRIM;
        bridge = tst_bridge(source, sink, &o);
        ledger_bridge_destroy(&bridge);
        /* Two tables of one database are two stores. */
        ledger_store_options_defaults(&so);
        so.flags = LEDGER_STORE_CREATE;
        so.table = "other_table";
        ledger_store *other = tst_open_with(env, from, "source", &so);
        tst_append(source, "s", "{\"n\":1}", NULL, NULL);
        (void)tst_bridge_once(source, other, NULL);
        tst_assert_equal(source, other, 0);
    }
}

static void life_cycle(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_error err = { 0 };
        ledger_bridge *bridge = NULL;
        ledger_bridge_destroy(&bridge);
        ledger_bridge_destroy(NULL);
        bridge = tst_bridge(source, sink, NULL);
        ledger_bridge_stop(bridge); /* without start */
        ledger_bridge_destroy(&bridge);
        assert_null(bridge);

        bridge = tst_bridge(source, sink, NULL);
        tst_fails(ledger_bridge_wait(bridge, true, 50, &err), LEDGER_ERR_INVALID, &err);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        tst_fails(ledger_bridge_wait(bridge, false, 20, &err), LEDGER_ERR_TIMEOUT, &err);
        tst_append(source, "s", "{}", NULL, NULL);
        tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
        assert_int_equal(tst_count(sink, NULL), 1);
        ledger_bridge_request_stop(bridge);
        tst_ok(ledger_bridge_wait(bridge, false, TST_PATIENCE_MS, &err), &err);
        ledger_bridge_stop(bridge);
        ledger_bridge_destroy(&bridge);

        /* The bridge has handles of its own: the stores may be closed. */
        bridge = tst_bridge(source, sink, NULL);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        ledger_store *writer = tst_open(env, from, "source");
        ledger_store *reader = tst_open(env, to, "sink");
        tst_close(env, source);
        tst_close(env, sink);
        tst_append(writer, "s", "{}", NULL, NULL);
        tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
        ledger_bridge_destroy(&bridge); /* stops */
        tst_assert_equal(writer, reader, 0);
    }
}

/* The readable position beside the cursor: 19 digits by default, any codec of the caller's. */
static ledger_rc hex_encode(ledger_id id, char text[LEDGER_ID_TEXT_MAX], ledger_error *err)
{
    snprintf(text, LEDGER_ID_TEXT_MAX, "x%016" PRIx64, (uint64_t)id.number);
    return LEDGER_OK;
}

static ledger_rc hex_decode(const char *text, ledger_id *ret_id, ledger_error *err)
{
    *ret_id = (ledger_id){ .number = (int64_t)strtoull(text + 1, NULL, 16) };
    return LEDGER_OK;
}

/* 3 is "15": digits, and another number. */
static ledger_rc half_encode(ledger_id id, char text[LEDGER_ID_TEXT_MAX], ledger_error *err)
{
    snprintf(text, LEDGER_ID_TEXT_MAX, "%" PRId64 "5", id.number / 2);
    return LEDGER_OK;
}

static ledger_rc half_decode(const char *text, ledger_id *ret_id, ledger_error *err)
{
    *ret_id = (ledger_id){ .number = strtoll(text, NULL, 10) / 10 * 2 + 1 };
    return LEDGER_OK;
}

/* Status and verify go by the state. */
static void is_at(ledger_store *source, ledger_store *sink, const char *name, int64_t position)
{
    ledger_bridge_status status;
    ledger_verify_options v;
    ledger_verify_result result;
    ledger_error err = { 0 };
    tst_ok(ledger_bridge_status_get(source, sink, name, &status, &err), &err);
    assert_int_equal(strtoll(status.position, NULL, 10), position);
    assert_int_equal(status.backlog_count, 0);
    ledger_verify_options_defaults(&v);
    v.name = name;
    tst_ok(ledger_bridge_verify(source, sink, &v, &result, &err), &err);
    assert_int_equal(strtoll(result.position, NULL, 10), position);
    assert_int_equal(result.difference_count, 0);
    assert_int_equal(result.pending_count, 0);
}

static void position_is_written_by_the_codec(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_PAIR(env, from, to)
    {
        ledger_store *source = tst_open(env, from, "source");
        ledger_store *sink = tst_open(env, to, "sink");
        ledger_id_codec hex = { hex_encode, hex_decode, ledger_int64_codec.zero,
                                ledger_int64_codec.less };
        char text[LEDGER_ID_TEXT_MAX];
        ledger_bridge_options o;
        ledger_error err = { 0 };
        for (int i = 0; i < 3; i++)
            tst_append(source, "s", "{}", NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        tst_ok(ledger_store_cursor_get(sink, "default", text, &err), &err);
        assert_string_equal(text, "0000000000000000003");
        tst_bridge_options(&o);
        o.name = "hex";
        o.id_codec = &hex;
        (void)tst_bridge_once(source, sink, &o);
        tst_ok(ledger_store_cursor_get(sink, "hex", text, &err), &err);
        assert_string_equal(text, "x0000000000000003");
        is_at(source, sink, "hex", 3);
        /* One that looks decimal is not taken for a position. */
        ledger_id_codec halves = { half_encode, half_decode, ledger_int64_codec.zero,
                                   ledger_int64_codec.less };
        o.name = "halves";
        o.id_codec = &halves;
        (void)tst_bridge_once(source, sink, &o);
        tst_ok(ledger_store_cursor_get(sink, "halves", text, &err), &err);
        assert_string_equal(text, "15");
        is_at(source, sink, "halves", 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(defaults_are_the_reference_s),
        T(sizes_are_checked),
        T(instruments_keep_names_units_and_attributes),
        T(w18_a_failed_poll_is_an_error),
        T(what_was_delivered_is_no_error),
        T(telemetry_is_off_unless_enabled),
        T(wrong_options_are_refused),
        T(misconfiguration_is_told_at_create),
        T(life_cycle),
        T(position_is_written_by_the_codec),
    };
    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
