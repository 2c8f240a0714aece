/* Random interleavings of writers, bridges and faults, step by step in one thread, from a seed.
 * After healing the sink equals the source exactly. LEDGER_TEST_SEED=n repeats one. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fault_vfs.h"
#include "fixtures.h"
#include "memory_faults.h"
#include "oracle.h"
#include "workload.h"

#define BRIDGES 3
#define WRITERS 2

struct simulation {
    struct tst_env *env;
    enum tst_kind from, to;
    uint64_t seed, random;
    ledger_store *source, *sink;
    ledger_store *writers[WRITERS];
    struct tst_workload workloads[WRITERS];
    size_t writer_count;
    ledger_bridge *bridges[BRIDGES];
    bool overlapping; /* transactions of several writers were open at once */
    bool with_bad;    /* bad events in the log, and a sink that refuses a stream now and then */
    uint64_t bad_count;
    uint64_t step, errors, polls;
    char trail[4096]; /* the last steps, for the message */
};

static uint64_t below(struct simulation *s, uint64_t n)
{
    return tst_random_below(&s->random, n);
}

static void note(struct simulation *s, const char *what, const char *result)
{
    size_t used = strlen(s->trail), more = strlen(what) + strlen(result) + 32;
    if (used + more >= sizeof s->trail) {
        memmove(s->trail, s->trail + used / 2, used - used / 2 + 1);
        used = strlen(s->trail);
    }
    snprintf(s->trail + used, sizeof s->trail - used, " %" PRIu64 ":%s=%s", s->step, what, result);
}

static void give_up(struct simulation *s, const char *what, const ledger_error *err)
{
    tst_fail("seed %" PRIu64 " (%s -> %s), step %" PRIu64 ": %s: %s: %s\n  the last steps:%s",
             s->seed, tst_kind_name(s->from), tst_kind_name(s->to), s->step, what,
             err != NULL ? ledger_rc_name(err->code) : "", err != NULL ? err->message : "",
             s->trail);
}

/* Errors that a fault may lead to; any other is a finding. */
static bool may_happen(ledger_rc rc)
{
    switch (rc) {
    case LEDGER_ERR_CONNECT:
    case LEDGER_ERR_IO:
    case LEDGER_ERR_BUSY:
    case LEDGER_ERR_FULL:
    case LEDGER_ERR_NOMEM:
    case LEDGER_ERR_FENCED:
    case LEDGER_ERR_PARTIAL:
    case LEDGER_ERR_UNKNOWN_OUTCOME:
        return true;
    default:
        return false;
    }
}

static void step_write(struct simulation *s)
{
    size_t i = (size_t)below(s, s->writer_count);
    size_t count = 1 + (size_t)below(s, 4);
    for (size_t k = 0; k < count; k++) {
        ledger_error err = { 0 };
        struct tst_workload *w = &s->workloads[i];
        if (tst_workload_step(w, s->writers[i], &err) != LEDGER_OK) {
            note(s, "write", ledger_rc_name(err.code));
            if (!may_happen(err.code))
                give_up(s, "a writer failed", &err);
        }
    }
    size_t open = 0;
    for (i = 0; i < s->writer_count; i++)
        open += s->workloads[i].in_transaction;
    s->overlapping = s->overlapping || open > 1 || (open == 1 && s->writer_count > 1);
}

static ledger_bridge *bridge_of(struct simulation *s, size_t i)
{
    if (s->bridges[i] == NULL) {
        static const size_t widths[] = { 1, 1, 2, 4 };
        ledger_bridge_options o;
        ledger_error err = { 0 };
        tst_bridge_options(&o);
        o.batch_size = 1 + (size_t)below(s, 12);
        o.refusal_limit = 0; /* a stream may be all that there is to refuse */
        o.parallel_streams = widths[below(s, 4)];
        if (ledger_bridge_create(s->source, s->sink, &o, &s->bridges[i], &err) != LEDGER_OK) {
            note(s, "create", ledger_rc_name(err.code));
            if (!may_happen(err.code))
                give_up(s, "a bridge could not be made", &err);
        }
    }
    return s->bridges[i];
}

static void step_poll(struct simulation *s)
{
    size_t i = (size_t)below(s, BRIDGES);
    ledger_bridge *bridge = bridge_of(s, i);
    ledger_error err = { 0 };
    uint64_t read = 0;
    if (bridge == NULL)
        return;
    ledger_rc rc = ledger_bridge_poll(bridge, &read, &err);
    s->polls++;
    note(s, "poll", ledger_rc_name(rc));
    if (rc != LEDGER_OK) {
        s->errors++;
        if (!may_happen(rc))
            give_up(s, "a poll failed", &err);
    }
    tst_check_counters(bridge);
}

/* A bridge with a thread of its own, which overlaps batches where the sink can; the one step whose
 * inside a seed does not settle. */
static void step_run(struct simulation *s)
{
    ledger_bridge_options o;
    ledger_bridge *bridge = NULL;
    ledger_error err = { 0 };
    tst_bridge_options(&o);
    o.batch_size = o.backlog_batch_size = 1 + (size_t)below(s, 6);
    o.refusal_limit = 0;
    o.retry_for_ms = 10;
    ledger_rc rc = ledger_bridge_create(s->source, s->sink, &o, &bridge, &err);
    if (rc == LEDGER_OK)
        rc = ledger_bridge_start(bridge, &err);
    if (rc == LEDGER_OK)
        rc = ledger_bridge_wait(bridge, true, below(s, 3) == 0 ? 1 : tst_slow(10000), &err);
    note(s, "run", ledger_rc_name(rc));
    if (rc != LEDGER_OK && rc != LEDGER_ERR_TIMEOUT && !may_happen(rc))
        give_up(s, "a running bridge failed", &err);
    ledger_bridge_stop(bridge);
    if (bridge != NULL)
        tst_check_counters(bridge);
    ledger_bridge_destroy(&bridge);
}

static void step_restart(struct simulation *s)
{
    size_t i = (size_t)below(s, BRIDGES);
    note(s, "restart", "");
    ledger_bridge_destroy(&s->bridges[i]);
}

static void fault_memory(struct simulation *s, const ledger_store *store, bool is_sink)
{
    static const char *const of_sink[] = { "apply",       "apply",      "apply",
                                           "cursor_get",  "cursor_set", "origin_get",
                                           "origin_list", "identity",   "open" };
    static const char *const of_source[] = { "log_read", "log_read",      "log_check",
                                             "log_stat", "entries_by_id", "trim_survivors",
                                             "identity", "open" };
    static const ledger_rc codes[] = { LEDGER_ERR_CONNECT, LEDGER_ERR_IO, LEDGER_ERR_BUSY,
                                       LEDGER_ERR_NOMEM, LEDGER_ERR_UNKNOWN_OUTCOME };
    struct ldg_memory_fault fault = { .nth = 1 + below(s, 6), .times = 1 + below(s, 3) };
    const char *url = ledger_store_url(store);
    uint64_t kind = below(s, 10);
    if (is_sink)
        fault.callback = of_sink[below(s, sizeof of_sink / sizeof of_sink[0])];
    else
        fault.callback = of_source[below(s, sizeof of_source / sizeof of_source[0])];
    fault.kind = kind < 4 ? LDG_MEMORY_FAIL : LDG_MEMORY_LOSE_ACK;
    if (is_sink && kind > 7) {
        fault.callback = "apply";
        fault.kind = LDG_MEMORY_APPLY_HALF;
    }
    if (fault.kind == LDG_MEMORY_FAIL)
        fault.code = codes[below(s, sizeof codes / sizeof codes[0])];
    note(s, "fault", fault.callback);
    assert_int_equal(ldg_memory_fault_add(url + 7, &fault), LEDGER_OK);
}

static void step_fault(struct simulation *s)
{
    static const uint32_t ops[] = { TST_FAULT_WRITE, TST_FAULT_WRITE, TST_FAULT_SYNC,
                                    TST_FAULT_READ,  TST_FAULT_OPEN,  TST_FAULT_LOCK,
                                    TST_FAULT_ALL };
    static const int codes[] = { SQLITE_IOERR, SQLITE_FULL, SQLITE_IOERR, SQLITE_IOERR };
    bool is_sink = below(s, 3) != 0;
    enum tst_kind kind = is_sink ? s->to : s->from;
    if (kind == TST_MEMORY) {
        fault_memory(s, is_sink ? s->sink : s->source, is_sink);
    } else if (is_sink) {
        note(s, "file fault", "");
        tst_fault_arm("/sink.db", ops[below(s, sizeof ops / sizeof ops[0])], 1 + (long)below(s, 40),
                      codes[below(s, 4)], below(s, 8) == 0);
    }
}

static void heal_some(struct simulation *s)
{
    if (s->to == TST_MEMORY)
        ldg_memory_faults_clear(ledger_store_url(s->sink) + 7);
    else
        tst_fault_disarm();
}

/* The user sets the cursor back, as he may at any time. */
static void step_rewind(struct simulation *s)
{
    ledger_bridge_status status;
    ledger_error err = { 0 };
    char text[32];
    ledger_rc rc = ledger_bridge_status_get(s->source, s->sink, "default", &status, &err);
    if (rc == LEDGER_OK && status.has_cursor) {
        uint64_t position = strtoull(status.position, NULL, 10);
        snprintf(text, sizeof text, "%" PRIu64, below(s, position + 1));
        rc = ledger_bridge_cursor_set(s->source, s->sink, "default", text, false, &err);
        note(s, "rewind", ledger_rc_name(rc));
    }
    if (rc != LEDGER_OK && !may_happen(rc))
        give_up(s, "the cursor could not be set back", &err);
}

#define BAD_MARK "of nobody"

static void step_bad(struct simulation *s)
{
    static const char *const streams[] = { "s0", "s1-\xC3\xA9", "s2 with blanks", NULL, NULL };
    ledger_error err = { 0 };
    uint64_t applied, left;
    const char *text;
    ledger_rc rc;
    switch (below(s, 4)) {
    case 0:
        for (size_t i = 0; i < s->writer_count; i++)
            if (s->from != TST_MEMORY && s->workloads[i].in_transaction)
                return; /* it holds the lock */
        note(s, "bad event", "");
        text = below(s, 2) == 0 ? "not an event " BAD_MARK
                                : "{\"type\":\"" BAD_MARK "\",\"stream\":\"s0\"}";
        tst_log_text(s->source, text); /* a macro that uses it twice */
        s->bad_count++;
        break;
    case 1:
        note(s, "refuse", "");
        tst_fault_disarm(); /* it would hit the test's own connection */
        tst_refuse(s->sink, streams[below(s, sizeof streams / sizeof streams[0])]);
        break;
    default:
        rc = ledger_bridge_parked_retry(s->source, s->sink, 0, &applied, &left, &err);
        note(s, "retry", ledger_rc_name(rc));
        if (rc != LEDGER_OK && !may_happen(rc))
            give_up(s, "parked events could not be tried again", &err);
        break;
    }
}

static bool must_be_bad(void *ctx, const ledger_parked *p)
{
    struct simulation *s = ctx;
    char text[64] = "";
    memcpy(text, p->event.data, p->event.size < 63 ? p->event.size : 63);
    if (strstr(text, BAD_MARK) == NULL) {
        note(s, p->type, p->reason);
        give_up(s, "a good event stays parked", NULL);
    }
    s->bad_count--;
    return true;
}

/* What was refused is applied now; what is bad stays. */
static void retry_all(struct simulation *s)
{
    uint64_t applied = 0, left = 0;
    ledger_error err = { 0 };
    tst_refuse(s->sink, NULL);
    if (ledger_bridge_parked_retry(s->source, s->sink, 0, &applied, &left, &err) != LEDGER_OK)
        give_up(s, "no retry after healing", &err);
    note(s, "last retry", "");
    uint64_t bad_count = s->bad_count;
    if (ledger_bridge_parked_list(s->sink, must_be_bad, s, &err) != LEDGER_OK)
        give_up(s, "no list of parked events", &err);
    if (s->bad_count != 0 || left != bad_count)
        give_up(s, "a bad event has disappeared", NULL);
}

static void simulate(struct tst_env *env, enum tst_kind from, enum tst_kind to, uint64_t seed,
                     size_t steps)
{
    struct simulation *s = calloc(1, sizeof *s);
    ledger_store_options so;
    assert_non_null(s);
    s->env = env;
    s->from = from;
    s->to = to;
    s->seed = s->random = seed;
    ledger_store_options_defaults(&so);
    so.flags = LEDGER_STORE_CREATE;
    so.log = LEDGER_MUTATION_LOG_ON;
    so.busy_timeout_ms = 0; /* one thread: waiting is useless */
    s->source = tst_open_with(env, from, "source", &so);
    so.log = tst_kind_has_log((int)to) ? LEDGER_MUTATION_LOG_ON : LEDGER_MUTATION_LOG_OFF;
    s->sink = tst_open_with(env, to, "sink", &so);
    so.log = LEDGER_MUTATION_LOG_ON;
    s->writer_count = 1 + (size_t)below(s, WRITERS);
    s->with_bad = below(s, 2) == 0;
    for (size_t i = 0; i < s->writer_count; i++) {
        s->writers[i] = tst_open_with(env, from, "source", &so);
        tst_workload_init(&s->workloads[i], tst_random(&s->random));
        s->workloads[i].small = true;
        s->workloads[i].stream_count = 1 + (unsigned)below(s, 5);
    }
    for (s->step = 0; s->step < steps; s->step++) {
        uint64_t kind = below(s, 100);
        if (s->with_bad && below(s, 15) == 0)
            step_bad(s);
        else if (kind < 40)
            step_write(s);
        else if (kind < 85)
            step_poll(s);
        else if (kind < 88)
            step_restart(s);
        else if (kind < 95)
            step_fault(s);
        else if (kind < 97)
            heal_some(s);
        else if (kind < 98 && to == TST_MEMORY)
            step_run(s);
        else
            step_rewind(s);
    }

    /* Everything is well again. */
    tst_fault_disarm();
    if (from == TST_MEMORY)
        ldg_memory_faults_clear(ledger_store_url(s->source) + 7);
    if (to == TST_MEMORY)
        ldg_memory_faults_clear(ledger_store_url(s->sink) + 7);
    for (size_t i = 0; i < s->writer_count; i++) {
        ledger_error err = { 0 };
        if (s->workloads[i].in_transaction && ledger_store_commit(s->writers[i], &err) != LEDGER_OK)
            give_up(s, "the last commit failed", &err);
    }
    for (size_t i = 0; i < BRIDGES; i++)
        ledger_bridge_destroy(&s->bridges[i]);
    ledger_bridge_options o;
    ledger_bridge *bridge = NULL;
    ledger_error err = { 0 };
    uint64_t read = 1;
    tst_bridge_options(&o);
    o.refusal_limit = 0;
    if (ledger_bridge_create(s->source, s->sink, &o, &bridge, &err) != LEDGER_OK)
        give_up(s, "no bridge after healing", &err);
    while (read > 0)
        if (ledger_bridge_poll(bridge, &read, &err) != LEDGER_OK)
            give_up(s, "no way to drain after healing", &err);
    ledger_bridge_stats stats;
    ledger_bridge_get_stats(bridge, &stats);
    ledger_bridge_destroy(&bridge);
    if (!s->with_bad && stats.park_count != 0)
        give_up(s, "something was parked", NULL);
    if (s->with_bad)
        retry_all(s);

    struct tst_history a, b;
    char text[2048];
    tst_history_load(s->source, &a);
    tst_history_load(s->sink, &b);
    if (!tst_history_equal(&a, &b, s->overlapping || s->with_bad ? TST_CMP_ANY_ORDER : 0, text,
                           sizeof text))
        give_up(s, text, NULL);
    tst_history_free(&a);
    tst_history_free(&b);
    ledger_verify_options v;
    ledger_verify_result result;
    ledger_verify_options_defaults(&v);
    if (ledger_bridge_verify(s->source, s->sink, &v, &result, &err) != LEDGER_OK)
        give_up(s, "verify failed", &err);
    if (result.difference_count != 0 || result.pending_count != 0)
        give_up(s, "verify sees differences that are not there", NULL);
    free(s);
    tst_env_reset(env);
}

static void many(struct tst_env *env, enum tst_kind from, enum tst_kind to, size_t count,
                 size_t steps)
{
    uint64_t seed = tst_seed();
    if (getenv("LEDGER_TEST_SEED") != NULL)
        count = 1;
    if (to != TST_MEMORY)
        tst_fault_vfs_install();
    for (size_t i = 0; i < count; i++)
        simulate(env, from, to, seed + i, steps);
    if (to != TST_MEMORY)
        tst_fault_vfs_remove();
}

static void memory_to_memory(void **state)
{
    many(*state, TST_MEMORY, TST_MEMORY, tst_scale(250), 300);
}

static void sqlite_to_memory(void **state)
{
    many(*state, TST_SQLITE, TST_MEMORY, tst_scale(40), 200);
}

static void memory_to_sqlite(void **state)
{
    many(*state, TST_MEMORY, TST_SQLITE, tst_scale(60), 200);
}

static void sqlite_to_sqlite(void **state)
{
    many(*state, TST_SQLITE, TST_SQLITE, tst_scale(30), 200);
}

static void memory_to_plain(void **state)
{
    many(*state, TST_MEMORY, TST_PLAIN, tst_scale(60), 200);
}

static void sqlite_to_plain(void **state)
{
    many(*state, TST_SQLITE, TST_PLAIN, tst_scale(30), 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(memory_to_memory), T(sqlite_to_memory), T(memory_to_sqlite),
        T(sqlite_to_sqlite), T(memory_to_plain),  T(sqlite_to_plain),
    };
    return cmocka_run_group_tests_name("simulator", tests, NULL, NULL);
}
