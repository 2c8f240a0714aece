/* A program's own sink: what it is given, what it may answer, and what becomes of answers that make
 * no sense. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixtures.h"
#include "recorder.h"
#include "workload.h"

#define LINES_MAX 64

/* What a sink was given, a line each, and how it answers. */
struct own {
    char lines[LINES_MAX][192];
    size_t count, calls, closed;
    size_t most;        /* results per call; 0: all */
    const char *refuse; /* lines that have this are refused … */
    const char *reason;
    size_t later; /* so many calls answer LATER first */
    /* what makes no sense: */
    int code; /* given instead of DONE; 0: it is not */
    size_t too_many, too_far;
    ledger_bridge *call_back;
    void (*call)(struct own *own);
};

static const char *text_of(const ledger_mutation *m, char *text, size_t size)
{
    switch (m->type) {
    case LEDGER_MUTATION_APPEND:
        snprintf(text, size, "append %.*s", (int)m->entry->payload.size,
                 (const char *)m->entry->payload.data);
        break;
    case LEDGER_MUTATION_SET_TAGS:
        snprintf(text, size, "tags %s", m->tags.count > 0 ? m->tags.items[0] : "");
        break;
    case LEDGER_MUTATION_SET_ANNOTATIONS:
        snprintf(text, size, "annotate %s=%s", m->annotations.items[0].key,
                 m->annotations.items[0].value);
        break;
    case LEDGER_MUTATION_TRIM:
        snprintf(text, size, "trim but %zu", m->survivor_count);
        break;
    case LEDGER_MUTATION_UNKNOWN:
        tst_fail("a type that the sink does not take");
    }
    return text;
}

static size_t deliver(void *ctx, const ledger_mutation *const *mutations, size_t count,
                      ledger_delivery *results)
{
    struct own *own = ctx;
    char text[96];
    own->calls++;
    assert_true(count > 0);
    if (own->call != NULL)
        own->call(own);
    if (own->later > 0) {
        own->later--;
        snprintf(results[0].reason, sizeof(results[0].reason), "busy with others");
        return own->later % 2;
    }
    if (own->too_many > 0)
        return own->too_many == SIZE_MAX ? SIZE_MAX : count + own->too_many;
    for (size_t i = 0; i < count; i++) {
        const ledger_mutation *m = mutations[i];
        char *line = own->lines[own->count];
        assert_true(own->count < LINES_MAX);
        assert_int_equal(results[i].code, LEDGER_DELIVERY_LATER);
        /* The uuid is another one each time. */
        assert_int_equal(strncmp(m->key, m->origin, strlen(m->origin)), 0);
        snprintf(line, sizeof(own->lines[0]), "%s %lld %s %s", m->key + 36, (long long)m->id.number,
                 m->stream, text_of(m, text, sizeof text));
        if (own->refuse != NULL && strstr(line, own->refuse) != NULL) {
            results[i].code = LEDGER_DELIVERY_REFUSED;
            snprintf(results[i].reason, sizeof(results[i].reason), "%s", own->reason);
            return i + 1;
        }
        results[i].code = own->code != 0 ? (ledger_delivery_code)own->code : LEDGER_DELIVERY_DONE;
        if (own->too_far > 0) /* an answer for one that it was not given */
            results[count].code = LEDGER_DELIVERY_DONE;
        own->count++;
        if (own->most > 0 && i + 1 == own->most)
            return own->most;
    }
    return count;
}

static void close_own(void *ctx)
{
    ((struct own *)ctx)->closed++;
}

static ledger_sink sink_of(struct own *own)
{
    ledger_sink sink;
    memset(own, 0, sizeof(*own));
    ledger_sink_defaults(&sink);
    sink.ctx = own;
    sink.deliver = deliver;
    sink.close = close_own;
    return sink;
}

static ledger_bridge *open_bridge(ledger_store *source, struct own *own,
                                  const ledger_bridge_options *options)
{
    ledger_sink sink = sink_of(own);
    ledger_bridge *bridge = NULL;
    ledger_error err;
    tst_ok(ledger_bridge_create_to(source, &sink, options, &bridge, &err), &err);
    return bridge;
}

static void check_lines(const struct own *own, const char *const *lines, size_t count)
{
    for (size_t i = 0; i < count && i < own->count; i++)
        assert_string_equal(own->lines[i], lines[i]);
    assert_int_equal(own->count, count);
}

/* Each kind of mutation, in order, under its key: of an append of several entries one each. */
static void is_given_each_mutation(void **state)
{
    static const char *const lines[] = {
        ":1:1:0 1 s append {\"n\":1}", ":1:1:1 2 s append {\"n\":2}", ":1:2 3 t append 3",
        ":1:3 2 s tags blue",          ":1:4 3 t annotate k=v",       ":1:5 1 s trim but 0",
    };
    TST_EACH_SOURCE(*state, kind)
    {
        ledger_store *source = tst_open(*state, (enum tst_kind)kind, "source");
        const ledger_append_input inputs[] = { { .payload = { "{\"n\":1}", 7 } },
                                               { .payload = { "{\"n\":2}", 7 } } };
        struct own own;
        ledger_bridge_options o;
        ledger_bridge_stats stats;
        ledger_ids ids = { 0 };
        ledger_error err;
        tst_bridge_options(&o);
        tst_ok(ledger_store_append(source, "s", inputs, 2, &ids, &err), &err);
        ledger_ids_destroy(&ids);
        tst_append(source, "t", "3", NULL, NULL);
        tst_tag(source, "s", 2, "blue");
        tst_annotate(source, "t", 3, "k", "v");
        assert_int_equal(tst_trim(source, "s", 1), 1);
        ledger_bridge *bridge = open_bridge(source, &own, &o);
        own.most = 2; /* the rest comes at once */
        assert_int_equal(tst_drain(bridge), 5);
        check_lines(&own, lines, 6);
        assert_int_equal(own.calls, 3);
        ledger_bridge_get_stats(bridge, &stats);
        assert_int_equal(stats.apply_count, 5);
        tst_check_counters(bridge);
        ledger_bridge_destroy(&bridge);
        assert_int_equal(own.closed, 1);
        assert_null(bridge);
    }
}

/* LATER waits; REFUSED is parked with its reason, whatever bytes that has. */
static bool keep_reason(void *ctx, const ledger_parked *parked)
{
    snprintf(ctx, 64, "%s", parked->reason);
    return true;
}

static void answers_are_heeded(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source"), *kept = NULL;
    ledger_store_options options;
    ledger_bridge_options o;
    ledger_error err;
    struct own own;
    char url[1024], reason[64];
    uint64_t applied = 0, left = 0;
    snprintf(url, sizeof url, "sqlite:%s", tst_path(*state, "state.db"));
    tst_bridge_options(&o);
    o.state_url = url;
    tst_append(source, "s", "1", NULL, NULL);
    tst_append(source, "s", "2", NULL, NULL);
    tst_tag(source, "s", 1, "x");
    ledger_bridge *bridge = open_bridge(source, &own, &o);
    own.later = 2;
    tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_BUSY, &err);
    assert_non_null(strstr(err.message, "busy with others"));
    tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_BUSY, &err);
    assert_null(strstr(err.message, "busy with others")); /* it returned 0 results */
    own.refuse = "append 1";
    own.reason = "not \xff here";
    assert_int_equal(tst_drain(bridge), 3);
    check_lines(&own, (const char *const[]){ ":1:2 2 s append 2" }, 1);
    ledger_store_options_defaults(&options);
    options.url = url;
    options.table = LEDGER_BRIDGE_DEFAULT_STATE_TABLE;
    tst_ok(ledger_store_open(&options, &kept, &err), &err);
    o.state_url = NULL;
    tst_ok(ledger_bridge_parked_list(kept, keep_reason, reason, &err), &err);
    assert_string_equal(reason, "behind parked event 1");
    own.refuse = NULL;
    tst_ok(ledger_bridge_retry(bridge, 1, &applied, &left, &err), &err);
    assert_int_equal(applied, 1);
    tst_ok(ledger_bridge_retry(bridge, 0, &applied, &left, &err), &err);
    assert_int_equal(applied, 1);
    check_lines(
        &own, (const char *const[]){ ":1:2 2 s append 2", ":1:1 1 s append 1", ":1:3 1 s tags x" },
        3);
    ledger_bridge_destroy(&bridge);
    ledger_store_close(&kept);
}

/* While the state store does not let it off the list, an event that was tried again is not
 * delivered once more. */
static void a_retry_delivers_once(void **state)
{
    static const char *const lines[] = { ":1:1 1 s append 1" };
    ledger_store *source = tst_open(*state, TST_SQLITE, "source");
    ledger_bridge_options o;
    ledger_error err;
    struct own own;
    sqlite3 *db = NULL;
    char url[1024];
    uint64_t applied = 0, left = 0;
    snprintf(url, sizeof url, "sqlite:%s", tst_path(*state, "state.db"));
    tst_bridge_options(&o);
    o.state_url = url;
    tst_append(source, "s", "1", NULL, NULL);
    ledger_bridge *bridge = open_bridge(source, &own, &o);
    own.refuse = "append 1";
    own.reason = "not this one";
    assert_int_equal(tst_drain(bridge), 1);
    own.refuse = NULL;
    assert_int_equal(sqlite3_open(url + strlen("sqlite:"), &db), SQLITE_OK);
    tst_exec(db, "CREATE TRIGGER keep BEFORE DELETE ON ledger_state_parked "
                 "BEGIN SELECT raise(ABORT, 'no'); END");
    for (int i = 0; i < 2; i++) {
        (void)!ledger_bridge_retry(bridge, 0, &applied, &left, &err);
        check_lines(&own, lines, 1);
        assert_int_equal(tst_query_int(db, "SELECT count(*) FROM ledger_state_parked"), 1);
    }
    tst_exec(db, "DROP TRIGGER keep");
    sqlite3_close(db);
    tst_ok(ledger_bridge_retry(bridge, 0, &applied, &left, &err), &err);
    assert_int_equal(applied, 1);
    assert_int_equal(left, 0);
    check_lines(&own, lines, 1);
    ledger_bridge_destroy(&bridge);
}

/* An answer that makes no sense ends the bridge, and the cursor stays. */
static void nonsense_ends_the_bridge(void **state)
{
    static const struct {
        size_t too_many, too_far;
        int code;
        const char *refuse, *told;
    } cases[] = {
        { 1, 0, 0, NULL, "returned 2 results for 1" },
        { SIZE_MAX, 0, 0, NULL, "results for 1" },
        { 0, 1, 0, NULL, "more than the 1 mutations that it was given" },
        { 0, 0, 77, NULL, "code 77" },
        { 0, 0, -1, NULL, "code -1" },
        { 0, 0, 0, "append", "without a reason" },
    };
    ledger_store *source = tst_open(*state, TST_SQLITE, "source");
    ledger_bridge_options o;
    ledger_error err;
    tst_bridge_options(&o);
    tst_append(source, "s", "1", NULL, NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct own own;
        ledger_bridge *bridge = open_bridge(source, &own, &o);
        own.too_many = cases[i].too_many;
        own.too_far = cases[i].too_far;
        own.code = cases[i].code;
        own.refuse = cases[i].refuse;
        own.reason = "";
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        tst_fails(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), LEDGER_ERR_INVALID,
                  &err);
        assert_non_null(strstr(err.message, cases[i].told));
        own.too_many = own.too_far = 0;
        own.code = 0;
        own.refuse = NULL;
        own.count = 0;
        assert_int_equal(tst_drain(bridge), 1); /* nothing was lost */
        assert_int_equal(own.count, 1);
        ledger_bridge_destroy(&bridge);
    }
}

/* A batch that is read again ends earlier: what was delivered behind that end is not again. */
static void a_shorter_batch_forgets_nothing(void **state)
{
    static const char *const lines[] = { ":1:1 1 s append 1", ":1:2:0 2 s append 2",
                                         ":1:2:1 3 s append 3", ":1:3 4 s append 4" };
    const ledger_append_input two[] = { { .payload = { "2", 1 } }, { .payload = { "3", 1 } } };
    ledger_store *source = tst_open(*state, TST_SQLITE, "source");
    ledger_bridge_options o;
    ledger_error err;
    struct own own;
    tst_bridge_options(&o);
    o.on_bad_event = LEDGER_BAD_EVENT_STOP;
    tst_append(source, "s", "1", NULL, NULL);
    tst_ok(ledger_store_append(source, "s", two, 2, NULL, &err), &err);
    tst_append(source, "s", "4", NULL, NULL);
    ledger_bridge *bridge = open_bridge(source, &own, &o);
    own.refuse = "append 3";
    own.reason = "not this one";
    for (int i = 0; i < 3; i++)
        (void)!ledger_bridge_poll(bridge, NULL, &err);
    check_lines(&own, lines, 2);
    own.refuse = NULL;
    (void)tst_drain(bridge);
    check_lines(&own, lines, 4);
    ledger_bridge_destroy(&bridge);
}

static void call_all(struct own *own)
{
    ledger_bridge *same = own->call_back;
    ledger_bridge_stats stats;
    ledger_error err;
    tst_fails(ledger_bridge_poll(own->call_back, NULL, &err), LEDGER_ERR_INVALID, &err);
    assert_non_null(strstr(err.message, "from within deliver()"));
    tst_fails(ledger_bridge_wait(own->call_back, true, -1, &err), LEDGER_ERR_INVALID, &err);
    tst_fails(ledger_bridge_retry(own->call_back, 0, NULL, NULL, &err), LEDGER_ERR_INVALID, &err);
    ledger_bridge_get_stats(own->call_back, &stats);
    ledger_bridge_destroy(&same);
    assert_ptr_equal(same, own->call_back);
}

static void look_at_counters(struct own *own)
{
    ledger_bridge_stats stats;
    ledger_bridge_get_stats(own->call_back, &stats);
    assert_int_equal(stats.read_count, own->count);
    assert_int_equal(stats.apply_count, own->count);
}

/* What it has said of one call is counted when the next one begins. */
static void counts_from_call_to_call(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source");
    ledger_bridge_options o;
    struct own own;
    tst_bridge_options(&o);
    for (int i = 0; i < 5; i++)
        tst_append(source, "s", "1", NULL, NULL);
    ledger_bridge *bridge = open_bridge(source, &own, &o);
    own.call_back = bridge;
    own.call = look_at_counters;
    own.most = 2;
    assert_int_equal(tst_drain(bridge), 5);
    assert_int_equal(own.calls, 3);
    look_at_counters(&own);
    ledger_bridge_destroy(&bridge);
}

static void stop_inside(struct own *own)
{
    ledger_bridge_stop(own->call_back);
}

/* A call back into the bridge is refused, and nobody waits for himself. */
static void calls_back_are_refused(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source");
    ledger_bridge_options o;
    ledger_error err;
    struct own own;
    tst_bridge_options(&o);
    tst_append(source, "s", "1", NULL, NULL);
    ledger_bridge *bridge = open_bridge(source, &own, &o);
    own.call_back = bridge;
    own.call = call_all;
    assert_int_equal(tst_drain(bridge), 1);
    ledger_bridge_destroy(&bridge);
    bridge = open_bridge(source, &own, &o);
    own.call_back = bridge;
    own.call = stop_inside;
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    tst_ok(ledger_bridge_wait(bridge, false, TST_PATIENCE_MS, &err), &err);
    assert_int_equal(own.count, 1);
    ledger_bridge_destroy(&bridge);
}

/* --- a deliver() that does not return -------------------------------------------------------- */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool inside, told;
} gate = { .mutex = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };

static void stay_until_told(struct own *own)
{
    (void)own;
    pthread_mutex_lock(&gate.mutex);
    gate.inside = true;
    pthread_cond_broadcast(&gate.cond);
    while (!gate.told)
        pthread_cond_wait(&gate.cond, &gate.mutex);
    pthread_mutex_unlock(&gate.mutex);
}

static void hear(void *ctx, ledger_log_level level, const char *message, const ledger_attr *attrs,
                 size_t attr_count)
{
    (void)ctx;
    (void)level;
    (void)attrs;
    (void)attr_count;
    pthread_mutex_lock(&gate.mutex);
    gate.told |= strstr(message, "the stop waits for deliver()") != NULL;
    pthread_cond_broadcast(&gate.cond);
    pthread_mutex_unlock(&gate.mutex);
}

/* It does not return: whoever gave himself a time limit goes on, and hears what for. */
static void never_returns(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source");
    ledger_bridge_options o;
    ledger_bridge_stats stats;
    ledger_error err;
    struct own own;
    tst_bridge_options(&o);
    tst_append(source, "s", "1", NULL, NULL);
    gate.inside = gate.told = false;
    ledger_bridge *bridge = open_bridge(source, &own, &o);
    own.call = stay_until_told;
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    pthread_mutex_lock(&gate.mutex);
    while (!gate.inside)
        pthread_cond_wait(&gate.cond, &gate.mutex);
    pthread_mutex_unlock(&gate.mutex);
    tst_sleep_us(20000);
    ledger_bridge_request_stop(bridge);
    tst_fails(ledger_bridge_wait(bridge, false, 10, &err), LEDGER_ERR_TIMEOUT, &err);
    assert_non_null(strstr(err.message, "deliver() of the program's sink was called"));
    ledger_bridge_get_stats(bridge, &stats);
    assert_int_equal(stats.apply_count, 0);
    pthread_mutex_lock(&gate.mutex);
    gate.told = true;
    pthread_cond_broadcast(&gate.cond);
    pthread_mutex_unlock(&gate.mutex);
    tst_ok(ledger_bridge_wait(bridge, false, TST_PATIENCE_MS, &err), &err);
    ledger_bridge_destroy(&bridge);
    gate.inside = gate.told = false;
}

/* Of two that have their states apart the second is told, while the first is there. */
static void two_states_of_one_sink(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source");
    ledger_store *other = tst_open(*state, TST_SQLITE, "other");
    struct own own, another;
    const ledger_sink sink = sink_of(&own);
    ledger_bridge *first = NULL, *second = NULL, *third = NULL;
    ledger_bridge_options o;
    ledger_error err;
    char url[1024];
    snprintf(url, sizeof url, "sqlite:%s", tst_path(*state, "state.db"));
    tst_bridge_options(&o);
    o.state_url = url;
    tst_ok(ledger_bridge_create_to(source, &sink, &o, &first, &err), &err);
    o.name = "second";
    tst_ok(ledger_bridge_create_to(source, &sink, &o, &second, &err), &err); /* the same one */
    o.state_url = NULL;
    tst_fails(ledger_bridge_create_to(source, &sink, &o, &third, &err), LEDGER_ERR_INVALID, &err);
    assert_non_null(strstr(err.message, "keeps its state elsewhere"));
    assert_non_null(strstr(err.message, "--state"));
    tst_ok(ledger_bridge_create_to(other, &sink, &o, &third, &err), &err); /* another source */
    ledger_bridge_destroy(&third);
    third = open_bridge(source, &another, &o); /* another sink */
    ledger_bridge_destroy(&third);
    ledger_bridge_destroy(&first);
    tst_fails(ledger_bridge_create_to(source, &sink, &o, &third, &err), LEDGER_ERR_INVALID, &err);
    ledger_bridge_destroy(&second);
    tst_ok(ledger_bridge_create_to(source, &sink, &o, &third, &err), &err);
    ledger_bridge_destroy(&third);
    assert_int_equal(own.closed, 4);
}

/* What one sink refuses is kept from the other as well, and a retry for one takes it off the list
 * of both: so a second sink is told to have a state of its own. */
static void one_state_of_two_sinks(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source");
    ledger_store *other = tst_open(*state, TST_SQLITE, "other");
    struct own own, another;
    const ledger_sink second_sink = sink_of(&another);
    ledger_bridge *second = NULL;
    ledger_bridge_options o;
    ledger_error err;
    uint64_t applied = 0, left = 0;
    char url[1024];
    snprintf(url, sizeof url, "sqlite:%s", tst_path(*state, "state.db"));
    tst_bridge_options(&o);
    o.state_url = url;
    tst_append(source, "s", "1", NULL, NULL);
    ledger_bridge *first = open_bridge(source, &own, &o);
    own.refuse = "append 1";
    own.reason = "not this one";
    assert_int_equal(tst_drain(first), 1);
    o.name = "second";
    tst_fails(ledger_bridge_create_to(source, &second_sink, &o, &second, &err), LEDGER_ERR_INVALID,
              &err);
    assert_non_null(strstr(err.message, "--state-table"));
    tst_ok(ledger_bridge_create_to(other, &second_sink, &o, &second, &err), &err);
    ledger_bridge_destroy(&second);
    o.state_table = "second_state";
    tst_ok(ledger_bridge_create_to(source, &second_sink, &o, &second, &err), &err);
    assert_int_equal(tst_drain(second), 1);
    own.refuse = NULL;
    tst_ok(ledger_bridge_retry(first, 0, &applied, &left, &err), &err);
    check_lines(&own, (const char *const[]){ ":1:1 1 s append 1" }, 1);
    check_lines(&another, (const char *const[]){ ":1:1 1 s append 1" }, 1);
    ledger_bridge_destroy(&first);
    ledger_bridge_destroy(&second);
}

static void a_stop_says_what_it_waits_for(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source");
    ledger_bridge_options o;
    ledger_error err;
    struct own own;
    tst_bridge_options(&o);
    o.logger = (ledger_logger){ NULL, hear };
    tst_append(source, "s", "1", NULL, NULL);
    ledger_bridge *bridge = open_bridge(source, &own, &o);
    own.call = stay_until_told;
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    pthread_mutex_lock(&gate.mutex);
    while (!gate.inside)
        pthread_cond_wait(&gate.cond, &gate.mutex);
    pthread_mutex_unlock(&gate.mutex);
    ledger_bridge_stop(bridge);
    assert_true(gate.told);
    assert_int_equal(own.count, 1);
    ledger_bridge_destroy(&bridge);
}

/* --- a process that dies --------------------------------------------------------------------- */

static void die(struct own *own)
{
    if (own->calls == 2)
        (void)raise(SIGKILL);
}

static void write_lines(const struct own *own, const char *path)
{
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    for (size_t i = 0; i < own->count; i++)
        fprintf(file, "%s\n", own->lines[i]);
    fclose(file);
}

/* As deliver(), on paper; then the process is gone before anything of it is committed. */
static size_t deliver_and_die(void *ctx, const ledger_mutation *const *mutations, size_t count,
                              ledger_delivery *results)
{
    struct own *own = ctx;
    const size_t given = deliver(own, mutations, count, results);
    write_lines(own, own->reason);
    die(own);
    own->count = 0;
    return given;
}

static void child(const char *url, const char *path, const ledger_bridge_options *o)
{
    ledger_store_options options;
    ledger_store *source = NULL;
    ledger_bridge *bridge = NULL;
    struct own own;
    ledger_sink sink = sink_of(&own);
    ledger_error err;
    ledger_store_options_defaults(&options);
    options.url = url;
    own.most = 2;
    own.reason = path;
    sink.deliver = deliver_and_die;
    if (ledger_store_open(&options, &source, &err) == LEDGER_OK &&
        ledger_bridge_create_to(source, &sink, o, &bridge, &err) == LEDGER_OK)
        (void)!ledger_bridge_poll(bridge, NULL, &err);
    _exit(1);
}

/* Killed between delivery and commit: all of the batch comes again, under the same keys. */
static void dies_before_the_commit(void **state)
{
    static const char *const lines[] = { ":1:1 1 s append 1", ":1:2 2 s append 2",
                                         ":1:3 3 s append 3", ":1:4 3 s tags x" };
    ledger_store *source = tst_open(*state, TST_SQLITE, "source");
    ledger_bridge_options o;
    struct own own;
    char state_url[1024], path[1024], line[192];
    size_t count = 0;
    int status = 0;
    snprintf(state_url, sizeof state_url, "sqlite:%s", tst_path(*state, "state.db"));
    snprintf(path, sizeof path, "%s", tst_path(*state, "delivered"));
    tst_bridge_options(&o);
    o.state_url = state_url;
    tst_append(source, "s", "1", NULL, NULL);
    tst_append(source, "s", "2", NULL, NULL);
    tst_append(source, "s", "3", NULL, NULL);
    tst_tag(source, "s", 3, "x");
    const pid_t pid = fork();
    if (pid == 0)
        child(ledger_store_url(source), path, &o);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ledger_bridge *bridge = open_bridge(source, &own, &o);
    assert_int_equal(tst_drain(bridge), 4);
    check_lines(&own, lines, 4);
    ledger_bridge_destroy(&bridge);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        assert_string_equal(line, lines[count++]);
    }
    fclose(file);
    assert_int_equal(count, 4);
}

/* A program that feeds its sink until it is killed. */
static void feed(const char *url, const char *state_url, const char *path)
{
    struct tst_recorder recorder;
    ledger_store_options options;
    ledger_bridge_options o;
    ledger_store *source = NULL;
    ledger_bridge *bridge = NULL;
    ledger_error err;
    tst_recorder_init(&recorder, 20000);
    recorder.fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    recorder.most = 3;
    recorder.pause_us = 1000; /* so that it is mostly killed in the middle of a batch */
    const ledger_sink sink = tst_recorder_sink(&recorder);
    tst_bridge_options(&o);
    o.state_url = state_url;
    o.batch_size = 5;
    o.backlog_batch_size = 10;
    ledger_store_options_defaults(&options);
    options.url = url;
    if (recorder.fd >= 0 && ledger_store_open(&options, &source, &err) == LEDGER_OK &&
        ledger_bridge_create_to(source, &sink, &o, &bridge, &err) == LEDGER_OK &&
        ledger_bridge_start(bridge, &err) == LEDGER_OK)
        (void)!ledger_bridge_wait(bridge, false, 60000, &err);
    _exit(1);
}

/* Killed at any moment, again and again, while the source is written to: all of the log came, in
 * order, and what came twice is the same. */
static void killed_at_any_moment(void **state)
{
    const char *given = getenv("LEDGER_TEST_KILLS");
    const size_t kills = given != NULL ? strtoul(given, NULL, 10) : tst_scale(40);
    ledger_store *source = tst_open(*state, TST_SQLITE, "source"), *kept = NULL;
    struct tst_recorder recorder;
    struct tst_workload w;
    ledger_store_options options;
    ledger_bridge_options o;
    ledger_bridge *bridge = NULL;
    ledger_error err;
    uint64_t random = tst_seed();
    char state_url[1024], path[1024];
    snprintf(state_url, sizeof state_url, "sqlite:%s", tst_path(*state, "state.db"));
    snprintf(path, sizeof path, "%s", tst_path(*state, "delivered"));
    tst_workload_init(&w, random);
    w.small = true;
    w.stream_count = 3;
    for (size_t i = 0; i < kills; i++) {
        tst_workload_run(&w, source, 8);
        const pid_t pid = fork();
        if (pid == 0)
            feed(ledger_store_url(source), state_url, path);
        tst_workload_run(&w, source, 3);
        tst_sleep_us((int64_t)tst_random_below(&random, 30000));
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
    }
    /* the rest, by a process that lives */
    (void)tst_append(source, "s", "1", NULL, NULL);
    tst_recorder_init(&recorder, 20000);
    recorder.fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(recorder.fd >= 0);
    const ledger_sink sink = tst_recorder_sink(&recorder);
    tst_bridge_options(&o);
    o.state_url = state_url;
    tst_ok(ledger_bridge_create_to(source, &sink, &o, &bridge, &err), &err);
    (void)tst_drain(bridge);
    ledger_bridge_destroy(&bridge);
    assert_int_equal(close(recorder.fd), 0);
    recorder.count = 0;
    tst_recorder_load(&recorder, path);
    ledger_store_options_defaults(&options);
    options.url = state_url;
    options.table = LEDGER_BRIDGE_DEFAULT_STATE_TABLE;
    tst_ok(ledger_store_open(&options, &kept, &err), &err);
    const size_t again = tst_recorder_check(&recorder, source, kept);
    print_message("%zu kills: %zu deliveries, %zu of them again\n", kills, recorder.count, again);
    ledger_store_close(&kept);
    tst_recorder_fini(&recorder);
}

/* Another name has a cursor of its own in the same state store: it begins anew, under the same
 * keys, and leaves the first one's where it is. */
static void state_of_another_name(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source"), *kept = NULL;
    struct tst_recorder recorder;
    ledger_store_options options;
    ledger_bridge_options o;
    ledger_bridge_status status;
    ledger_bridge *first = NULL, *second = NULL;
    ledger_error err;
    char url[1024];
    snprintf(url, sizeof url, "sqlite:%s", tst_path(*state, "state.db"));
    tst_recorder_init(&recorder, 100);
    const ledger_sink sink = tst_recorder_sink(&recorder);
    tst_bridge_options(&o);
    o.state_url = url;
    o.name = "first";
    tst_append(source, "s", "1", NULL, NULL);
    tst_append(source, "s", "2", NULL, NULL);
    tst_ok(ledger_bridge_create_to(source, &sink, &o, &first, &err), &err);
    assert_int_equal(tst_drain(first), 2);
    o.name = "second";
    tst_ok(ledger_bridge_create_to(source, &sink, &o, &second, &err), &err);
    assert_int_equal(tst_drain(second), 2);
    assert_int_equal(tst_recorder_check(&recorder, source, NULL), 2);
    tst_append(source, "s", "3", NULL, NULL);
    assert_int_equal(tst_drain(second), 1);
    ledger_store_options_defaults(&options);
    options.url = url;
    options.table = LEDGER_BRIDGE_DEFAULT_STATE_TABLE;
    tst_ok(ledger_store_open(&options, &kept, &err), &err);
    tst_ok(ledger_bridge_status_get(source, kept, "first", &status, &err), &err);
    assert_int_equal(status.backlog_count, 1);
    tst_ok(ledger_bridge_status_get(source, kept, "second", &status, &err), &err);
    assert_int_equal(status.backlog_count, 0);
    assert_int_equal(tst_drain(first), 1);
    ledger_bridge_destroy(&first);
    ledger_bridge_destroy(&second);
    ledger_store_close(&kept);
    tst_recorder_fini(&recorder);
}

static void sinks_that_cannot_be(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source");
    ledger_bridge *bridge = NULL;
    ledger_bridge_options o;
    ledger_error err;
    struct own own;
    ledger_sink sink = sink_of(&own);
    tst_bridge_options(&o);
    tst_fails(ledger_bridge_create_to(source, NULL, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
    tst_fails(ledger_bridge_create_to(NULL, &sink, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
    tst_fails(ledger_bridge_create_to(source, &sink, &o, NULL, &err), LEDGER_ERR_INVALID, &err);
    sink.size = 0;
    tst_fails(ledger_bridge_create_to(source, &sink, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
    assert_non_null(strstr(err.message, "ledger_sink_defaults()"));
    sink = sink_of(&own);
    sink.deliver = NULL;
    tst_fails(ledger_bridge_create_to(source, &sink, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
    sink = sink_of(&own);
    sink.takes = 1U << LEDGER_MUTATION_TRIM;
    tst_fails(ledger_bridge_create_to(source, &sink, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
    sink.takes = 1U << LEDGER_MUTATION_APPEND | 1U << LEDGER_MUTATION_UNKNOWN;
    tst_fails(ledger_bridge_create_to(source, &sink, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
    sink.takes = 1U << LEDGER_MUTATION_APPEND;
    tst_fails(ledger_bridge_create_to(source, &sink, &o, &bridge, &err), LEDGER_ERR_UNSUPPORTED,
              &err);
    assert_non_null(strstr(err.message, "--skip set_tags"));
    assert_int_equal(own.closed, 0);
    ledger_sink_init(NULL, sizeof(sink));
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(is_given_each_mutation),
        T(answers_are_heeded),
        T(a_shorter_batch_forgets_nothing),
        T(counts_from_call_to_call),
        T(nonsense_ends_the_bridge),
        T(calls_back_are_refused),
        T(a_stop_says_what_it_waits_for),
        T(dies_before_the_commit),
        T(never_returns),
        T(two_states_of_one_sink),
        T(one_state_of_two_sinks),
        T(a_retry_delivers_once),
        T(killed_at_any_moment),
        T(state_of_another_name),
        T(sinks_that_cannot_be),
    };
    return cmocka_run_group_tests_name("own sink", tests, NULL, NULL);
}
