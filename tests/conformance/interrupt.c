/* ledger_store_interrupt() from another thread: what ends, what is there afterwards, and that the
 * store goes on. */
#include "conformance.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

/* Rows that take every backend longer than the pause of who interrupts. */
#define MANY 20000
#define MANY_PER_APPEND 5000

/* --- who interrupts -------------------------------------------------------------------------- */

/* Again and again, after a pause that grows from call to call, until told to end. */
struct interrupter {
    ledger_store *store;
    unsigned pause_us;
    pthread_t thread;
    atomic_bool end;
};

static void *interrupt_main(void *arg)
{
    struct interrupter *i = arg;
    for (unsigned n = 0; !atomic_load(&i->end); n++) {
        usleep(i->pause_us + n % 7 * (i->pause_us / 4));
        ledger_store_interrupt(i->store);
    }
    return NULL;
}

static void interrupter_start(struct interrupter *i, ledger_store *store, unsigned pause_us)
{
    i->store = store;
    i->pause_us = pause_us;
    atomic_store(&i->end, false);
    assert_int_equal(pthread_create(&i->thread, NULL, interrupt_main, i), 0);
}

static void interrupter_end(struct interrupter *i)
{
    atomic_store(&i->end, true);
    pthread_join(i->thread, NULL);
}

/* --- what is interrupted --------------------------------------------------------------------- */

static void fill(ledger_store *store, const char *stream, size_t count)
{
    static ledger_append_input inputs[MANY_PER_APPEND];
    ledger_error err;
    for (size_t i = 0; i < MANY_PER_APPEND; i++)
        inputs[i] = (ledger_append_input){ .payload = conf_bytes("{\"a\":\"some text\"}") };
    for (size_t n = 0; n < count; n += MANY_PER_APPEND)
        ok(ledger_store_append(store, stream, inputs, MANY_PER_APPEND, NULL, &err));
}

/* Goes through all rows and finds none. */
static ledger_rc read_none(ledger_store *store, ledger_error *err)
{
    const ledger_read_options o = { .size = sizeof(o), .tag = "none" };
    ledger_batch *batch = NULL;
    ledger_rc rc = ledger_store_read(store, "s", &o, &batch, err);
    if (rc == LEDGER_OK)
        assert_int_equal(ledger_batch_count(batch), 0);
    else
        assert_null(batch);
    ledger_batch_destroy(&batch);
    return rc;
}

static ledger_rc count_all(ledger_store *store, ledger_error *err)
{
    uint64_t count = 7;
    ledger_rc rc = ledger_store_count(store, "s", &count, err);
    assert_int_equal(count, rc == LEDGER_OK ? MANY : 7);
    return rc;
}

static ledger_rc stat_all(ledger_store *store, ledger_error *err)
{
    ledger_stream_stat stat = { .count = 7 };
    ledger_rc rc = ledger_store_stat(store, NULL, &stat, err);
    assert_int_equal(stat.count, rc == LEDGER_OK ? MANY : 7);
    return rc;
}

/* In a transaction that is rolled back, so that there is something to trim each time. */
static ledger_rc trim_all(ledger_store *store, ledger_error *err)
{
    uint64_t deleted = 0;
    ledger_rc rc = ledger_store_begin(store, err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ledger_store_trim(store, "s", conf_id(INT64_MAX), &deleted, err);
    if (rc == LEDGER_OK)
        assert_int_equal(deleted, MANY);
    assert_int_equal(ledger_store_rollback(store, NULL), LEDGER_OK);
    return rc;
}

static void work_is_interrupted(struct conf_env *env)
{
    static ledger_rc (*const calls[])(ledger_store *, ledger_error *) = { read_none, count_all,
                                                                          stat_all, trim_all };
    ledger_store *store = conf_open(env, "a");
    struct interrupter i;
    ledger_error err;
    fill(store, "s", MANY);
    for (size_t n = 0; n < sizeof(calls) / sizeof(calls[0]); n++) {
        ledger_rc rc = LEDGER_OK;
        interrupter_start(&i, store, 20);
        for (int tries = 0; rc == LEDGER_OK && tries < 2000; tries++)
            rc = calls[n](store, &err);
        interrupter_end(&i);
        fails(rc, CANCELLED);
        ok(calls[n](store, &err));
    }
    assert_int_equal(conf_count(store, "s"), MANY);
}

/* --- writing --------------------------------------------------------------------------------- */

#define APPENDS 60
#define ENTRIES 40

static ledger_rc append_some(ledger_store *store, int n, ledger_error *err)
{
    ledger_append_input inputs[ENTRIES];
    char stream[16];
    snprintf(stream, sizeof(stream), "s%d", n);
    for (int i = 0; i < ENTRIES; i++)
        inputs[i] = (ledger_append_input){ .payload = conf_bytes("{\"a\":1}") };
    return ledger_store_append(store, stream, inputs, ENTRIES, NULL, err);
}

/* Whole, and with its event, if the call said so; else not at all. */
static void check_appends(struct conf_env *env, ledger_store *store, const ledger_rc *rcs)
{
    ledger_mutation_event *events;
    size_t whole = 0;
    for (int n = 0; n < APPENDS; n++) {
        char stream[16];
        snprintf(stream, sizeof(stream), "s%d", n);
        assert_int_equal(conf_count(store, stream), rcs[n] == LEDGER_OK ? ENTRIES : 0);
        whole += rcs[n] == LEDGER_OK;
    }
    const size_t count = conf_events(env, store, &events, NULL);
    assert_int_equal(count, whole);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(events[i].entry_count, ENTRIES);
}

static void append_is_whole_or_not_there(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    ledger_rc rcs[APPENDS];
    struct interrupter i;
    ledger_error err;
    interrupter_start(&i, store, 100);
    for (int n = 0; n < APPENDS; n++) {
        rcs[n] = append_some(store, n, &err);
        if (rcs[n] != LEDGER_OK)
            fails(rcs[n], CANCELLED);
    }
    interrupter_end(&i);
    check_appends(env, store, rcs);
}

static void transaction_is_rolled_back(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    ledger_rc rcs[APPENDS];
    struct interrupter i;
    ledger_error err;
    interrupter_start(&i, store, 300);
    for (int n = 0; n < APPENDS; n++) {
        rcs[n] = ledger_store_begin(store, &err);
        if (rcs[n] != LEDGER_OK) {
            fails(rcs[n], CANCELLED);
            continue;
        }
        rcs[n] = append_some(store, n, &err);
        if (rcs[n] == LEDGER_OK) {
            ok(ledger_store_commit(store, &err));
        } else {
            fails(rcs[n], CANCELLED);
            ok(ledger_store_rollback(store, &err));
        }
    }
    interrupter_end(&i);
    check_appends(env, store, rcs);
}

static void wait_for_a_lock_is_interrupted(struct conf_env *env)
{
    ledger_store *holder = conf_open(env, "a"), *store = NULL;
    const ledger_append_input input = { .payload = conf_bytes("1"), .dedup_key = "k" };
    ledger_store_options options;
    struct interrupter i;
    ledger_error err;
    ledger_store_options_defaults(&options);
    options.url = conf_url(env, "a");
    options.busy_timeout_ms = 300000;
    ok(ledger_store_open(&options, &store, &err));
    ok(ledger_store_begin(holder, &err));
    conf_append_dedup(holder, "s", "1", "k");
    interrupter_start(&i, store, 50000);
    ledger_rc rc = ledger_store_append(store, "s", &input, 1, NULL, &err);
    interrupter_end(&i);
    if (env->backend == conf_oracle()) /* it does not wait */
        fails(rc, BUSY);
    else
        fails(rc, CANCELLED);
    ok(ledger_store_rollback(holder, &err));
    assert_int_equal(conf_count(store, NULL), 0);
    ok(ledger_store_append(store, "s", &input, 1, NULL, &err));
    assert_int_equal(conf_count(holder, NULL), 1);
    ledger_store_close(&store);
}

/* --- following ------------------------------------------------------------------------------- */

static void tail_gives_each_entry_once(struct conf_env *env)
{
    const ledger_read_options o = { .size = sizeof(o), .limit = 1000 };
    ledger_store *store = conf_open(env, "a"), *writer = conf_open(env, "a");
    ledger_tail *tail = NULL;
    struct interrupter i;
    ledger_error err;
    int64_t last = 0;
    size_t got = 0, cancelled = 0;
    fill(writer, "s", MANY);
    ok(ledger_tail_open(store, "s", &o, false, &tail, &err));
    interrupter_start(&i, store, 200);
    while (got < MANY) {
        ledger_batch *batch = NULL;
        ledger_rc rc = ledger_tail_read(tail, &batch, &err);
        if (rc != LEDGER_OK) {
            fails(rc, CANCELLED);
            if (++cancelled == 20) { /* or it would never come to an end */
                interrupter_end(&i);
                i.store = NULL;
            }
            continue;
        }
        for (size_t n = 0; n < ledger_batch_count(batch); n++) {
            const int64_t id = ledger_batch_entry(batch, n)->id.number;
            assert_true(id > last);
            last = id;
        }
        got += ledger_batch_count(batch);
        ledger_batch_destroy(&batch);
    }
    if (i.store)
        interrupter_end(&i);
    assert_int_equal(got, MANY);
    ledger_tail_close(&tail);
}

/* --- when nothing runs ----------------------------------------------------------------------- */

static void no_call_no_effect(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a"), *other = conf_open(env, "a");
    ledger_store *again = NULL;
    ledger_error err;
    ledger_store_interrupt(NULL);
    ledger_store_interrupt(store);
    conf_append(store, "s", "1");
    ledger_store_interrupt(store);
    assert_int_equal(conf_count(store, "s"), 1);
    ledger_store_interrupt(store);
    ok(ledger_store_begin(store, &err));
    conf_append(store, "s", "2");
    ledger_store_interrupt(store);
    ok(ledger_store_commit(store, &err));
    ledger_store_interrupt(store);
    assert_int_equal(conf_count(other, "s"), 2);
    /* Another handle that is made from it is another handle. */
    ledger_store_interrupt(store);
    ok(ldg_store_reopen(store, LDG_ROLE_USER, NULL, &again, &err));
    assert_int_equal(conf_count(again, "s"), 2);
    ledger_store_close(&again);
    ledger_store_interrupt(store);
    ok(ledger_store_health(store, &err));
    ledger_store_interrupt(store); /* and then it is closed */
}

const struct conf_case conf_interrupt_cases[] = {
    { "interrupt ends work", work_is_interrupted, LDG_CAP_TRIM | LDG_CAP_TRANSACTIONS, 0 },
    { "interrupted append is whole or not there", append_is_whole_or_not_there,
      LDG_CAP_MUTATION_LOG, 0 },
    { "interrupted transaction is rolled back", transaction_is_rolled_back,
      LDG_CAP_MUTATION_LOG | LDG_CAP_TRANSACTIONS, 0 },
    { "interrupt ends a wait for a lock", wait_for_a_lock_is_interrupted, LDG_CAP_TRANSACTIONS, 0 },
    { "interrupted tail gives each entry once", tail_gives_each_entry_once, 0, 0 },
    { "interrupt without a call", no_call_no_effect, LDG_CAP_TRANSACTIONS, 0 },
};
const size_t conf_interrupt_case_count =
    sizeof(conf_interrupt_cases) / sizeof(conf_interrupt_cases[0]);
