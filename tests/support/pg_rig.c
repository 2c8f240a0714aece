/* See pg_rig.h. */
#include "pg_rig.h"

#include "oracle.h"
#include "workload.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define AWAIT_US (60 * 1000000LL)

struct tst_rig_writer {
    pthread_t thread;
    struct tst_workload workload;
    char prefix[8];
    ledger_store *store;
    atomic_bool stop;
    uint64_t errors[64];
    ledger_error fatal; /* what cannot be got over */
};

const char *tst_side_name(enum tst_side side)
{
    return side == TST_SOURCE_SIDE ? "source" : "sink";
}

/* --- writers -----------------------------------------------------------------------------------
 */

static void *write_on(void *arg)
{
    struct tst_rig_writer *w = arg;
    while (!atomic_load(&w->stop) || w->workload.in_transaction) {
        ledger_error err = { 0 };
        ledger_rc rc = tst_workload_step(&w->workload, w->store, &err);
        if (rc == LEDGER_OK) {
            tst_sleep_us((int64_t)tst_random_below(&w->workload.state, 8000));
            continue;
        }
        w->errors[rc < 64 ? rc : 63]++;
        /* Whatever it was: back, and again. A transaction that was lost says so (INVALID). */
        if (!(err.flags & LEDGER_ERROR_RETRY) && !w->workload.in_transaction) {
            w->fatal = err;
            return NULL;
        }
        if (w->workload.in_transaction) {
            ledger_error ignored = { 0 };
            (void)!ledger_store_rollback(w->store, &ignored);
            w->workload.in_transaction = false;
        }
        tst_sleep_us(3000);
    }
    return NULL;
}

static void start_writer(struct tst_rig *rig, size_t i, uint64_t seed)
{
    struct tst_rig_writer *w = calloc(1, sizeof *w);
    ledger_store_options o;
    char url[960];
    assert_non_null(w);
    snprintf(w->prefix, sizeof w->prefix, "w%zu-", i);
    tst_workload_init(&w->workload, seed + i);
    w->workload.prefix = w->prefix;
    w->workload.stream_count = 3;
    w->workload.small = true;
    ledger_store_options_defaults(&o);
    snprintf(url, sizeof url, "%s%s", rig->url[TST_SOURCE_SIDE],
             rig->options.asynchronous ? "%20-csynchronous_commit%3Doff" : "");
    o.url = url;
    o.label = "writer";
    w->store = tst_open_with(rig->env, TST_POSTGRES, NULL, &o);
    assert_int_equal(pthread_create(&w->thread, NULL, write_on, w), 0);
    rig->writers[i] = w;
}

void tst_rig_stop_writers(struct tst_rig *rig)
{
    ledger_error fatal = { 0 };
    for (size_t i = 0; i < rig->writer_count; i++)
        atomic_store(&rig->writers[i]->stop, true);
    for (size_t i = 0; i < rig->writer_count; i++) {
        struct tst_rig_writer *w = rig->writers[i];
        assert_int_equal(pthread_join(w->thread, NULL), 0);
        for (size_t k = 0; k < 64; k++)
            rig->writer_errors[k] += w->errors[k];
        if (w->fatal.code != LEDGER_OK)
            fatal = w->fatal;
        tst_close(rig->env, w->store);
        free(w);
    }
    rig->writer_count = 0;
    if (fatal.code != LEDGER_OK)
        tst_fail("a writer gave up: %s: %s", ledger_rc_name(fatal.code), fatal.message);
}

/* --- making it ---------------------------------------------------------------------------------
 */

/* "options" has to stay the last parameter: start_writer() adds to it. */
static void make_urls(struct tst_rig *rig, enum tst_side side)
{
    const struct tst_pg *pg = rig->pg[side];
    bool both = rig->standby != NULL && rig->options.side == side;
    static const char schema[] = "options=-csearch_path%3Dledger";
    if (both) { /* without the proxy: it knows one server */
        snprintf(rig->url[side], sizeof rig->url[side],
                 "postgresql:///postgres?host=%s,%s&port=%d,%d&user=postgres"
                 "&target_session_attrs=read-write&%s",
                 pg->dir, rig->standby->dir, pg->port, rig->standby->port, schema);
        /* The bridge finds out by itself that it has to write. */
        snprintf(rig->through[side], sizeof rig->through[side],
                 "postgresql:///postgres?host=%s,%s&port=%d,%d&user=postgres&%s", pg->dir,
                 rig->standby->dir, pg->port, rig->standby->port, schema);
    } else {
        snprintf(rig->url[side], sizeof rig->url[side], "%s", tst_pg_url(pg, NULL, NULL, schema));
        snprintf(rig->through[side], sizeof rig->through[side],
                 "postgresql:///postgres?host=127.0.0.1&port=%d&user=postgres&sslmode=disable&%s",
                 tst_proxy_port(rig->proxy[side]), schema);
    }
}

static void open_side(struct tst_rig *rig, enum tst_side side)
{
    ledger_store_options o;
    ledger_store_options_defaults(&o);
    o.flags = LEDGER_STORE_CREATE;
    o.log = side == TST_SOURCE_SIDE || rig->options.chained ? LEDGER_MUTATION_LOG_ON
                                                            : LEDGER_MUTATION_LOG_OFF;
    o.label = "test";
    o.url = rig->url[side];
    rig->store[side] = tst_open_with(rig->env, TST_POSTGRES, NULL, &o);
    o.flags = 0;
    o.label = NULL;
    o.url = rig->through[side];
    rig->bridge_store[side] = tst_open_with(rig->env, TST_POSTGRES, NULL, &o);
}

static void start_side(struct tst_rig *rig, enum tst_side side)
{
    const struct tst_pg_options options = { .settings = rig->options.settings };
    char socket_path[300];
    bool chosen = rig->options.side == side;
    rig->pg[side] = tst_pg_start(&options);
    snprintf(socket_path, sizeof socket_path, "%s/.s.PGSQL.%d", rig->pg[side]->dir,
             rig->pg[side]->port);
    rig->proxy[side] = tst_proxy_start(socket_path, 0);
    if (rig->options.tablespace != NULL && chosen) {
        PGconn *conn = tst_pg_connect(rig->pg[side], NULL);
        tst_pg_sql(conn, "CREATE TABLESPACE small LOCATION '%s'", rig->options.tablespace);
        tst_pg_sql(conn, "ALTER DATABASE postgres SET default_tablespace = 'small'");
        PQfinish(conn);
    }
    if (rig->options.with_standby && chosen) {
        rig->standby = tst_pg_standby(rig->pg[side]);
        tst_pg_configure(rig->pg[side], "synchronous_standby_names = '*'");
        tst_pg_reload(rig->pg[side]);
    }
    tst_pg_exec(rig->pg[side], NULL, "CREATE SCHEMA ledger");
    make_urls(rig, side);
    open_side(rig, side);
}

struct tst_rig *tst_rig_start(struct tst_env *env, const struct tst_rig_options *options)
{
    struct tst_rig *rig;
    uint64_t seed = tst_seed();
    tst_pg_require();
    rig = calloc(1, sizeof *rig);
    assert_non_null(rig);
    rig->env = env;
    rig->options = *options;
    if (rig->options.await_us == 0)
        rig->options.await_us = AWAIT_US;
    for (int side = 0; side < TST_SIDES; side++)
        start_side(rig, (enum tst_side)side);
    if (!options->no_bridge)
        tst_rig_bridge(rig);
    rig->writer_count = options->writer_count != 0 ? options->writer_count : 2;
    assert_true(rig->writer_count <= TST_RIG_WRITERS_MAX);
    for (size_t i = 0; i < rig->writer_count; i++)
        start_writer(rig, i, seed);
    if (!options->no_bridge)
        tst_rig_await(rig, "at the start");
    return rig;
}

void tst_rig_bridge(struct tst_rig *rig)
{
    ledger_bridge_options o;
    ledger_error err = { 0 };
    assert_null(rig->bridge);
    tst_bridge_options(&o);
    o.batch_size = rig->options.batch_size != 0 ? rig->options.batch_size : 50;
    o.backlog_batch_size = o.batch_size * 4;
    o.interval_ms = 200;
    rig->bridge =
        tst_bridge(rig->bridge_store[TST_SOURCE_SIDE], rig->bridge_store[TST_SINK_SIDE], &o);
    tst_ok(ledger_bridge_start(rig->bridge, &err), &err);
}

uint64_t tst_rig_error_count(const struct tst_rig *rig)
{
    ledger_bridge_stats stats;
    if (rig->bridge == NULL)
        return rig->errors;
    ledger_bridge_get_stats(rig->bridge, &stats);
    return rig->errors + stats.error_count;
}

void tst_rig_unbridge(struct tst_rig *rig)
{
    ledger_bridge_stop(rig->bridge);
    tst_check_counters(rig->bridge);
    rig->errors = tst_rig_error_count(rig);
    ledger_bridge_destroy(&rig->bridge);
}

/* --- looking -----------------------------------------------------------------------------------
 */

/* Why its thread has ended, if it has. */
static void check_alive(struct tst_rig *rig, const char *what)
{
    ledger_error err = { 0 };
    ledger_rc rc = ledger_bridge_wait(rig->bridge, false, 0, &err);
    if (rc != LEDGER_ERR_TIMEOUT)
        tst_fail("%s: the bridge has ended: %s: %s", what, ledger_rc_name(rc), err.message);
}

void tst_rig_await(struct tst_rig *rig, const char *what)
{
    int64_t begun = tst_mono_us();
    ledger_append_input input = { .payload = { "{}", 2 } };
    ledger_error err = { 0 };
    ledger_rc rc;
    uint64_t count = 0;
    do { /* the server may just be back */
        rc = ledger_store_append(rig->store[TST_SOURCE_SIDE], "mark", &input, 1, NULL, &err);
        if (rc != LEDGER_OK && !(err.flags & LEDGER_ERROR_RETRY))
            tst_ok(rc, &err);
    } while (rc != LEDGER_OK && tst_mono_us() - begun < rig->options.await_us);
    tst_ok(rc, &err);
    do {
        rc = ledger_store_count(rig->store[TST_SOURCE_SIDE], "mark", &rig->marks, &err);
    } while (rc != LEDGER_OK && tst_mono_us() - begun < rig->options.await_us);
    tst_ok(rc, &err);
    for (;;) {
        check_alive(rig, what);
        rc = ledger_store_count(rig->store[TST_SINK_SIDE], "mark", &count, &err);
        if (rc == LEDGER_OK && count >= rig->marks)
            break;
        if (tst_mono_us() - begun > tst_slow(rig->options.await_us))
            tst_fail("%s: %" PRIu64 " of %" PRIu64 " marks have arrived (%" PRIu64
                     " errors so far)",
                     what, count, rig->marks, tst_rig_error_count(rig));
        tst_sleep_us(2000);
    }
    if (tst_mono_us() - begun > rig->longest_us)
        rig->longest_us = tst_mono_us() - begun;
}

void tst_rig_await_error(struct tst_rig *rig, uint64_t before, const char *what)
{
    int64_t end = tst_mono_us() + tst_slow(AWAIT_US);
    while (tst_rig_error_count(rig) <= before) {
        check_alive(rig, what);
        if (tst_mono_us() > end)
            tst_fail("%s: nobody has felt it", what);
        tst_sleep_us(1000);
    }
}

int64_t tst_rig_terminate(struct tst_rig *rig, enum tst_side side)
{
    return tst_pg_int(rig->pg[side], NULL,
                      "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                      " WHERE application_name LIKE 'ledger%%'");
}

void tst_rig_end(struct tst_rig **rig_, const char *fmt, ...)
{
    struct tst_rig *rig = *rig_;
    ledger_bridge_status status;
    ledger_error err = { 0 };
    char text[300];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    tst_rig_await(rig, text);
    tst_rig_stop_writers(rig);
    tst_ok(ledger_bridge_wait(rig->bridge, true, 120000, &err), &err);
    tst_rig_unbridge(rig);
    tst_assert_equal(rig->store[TST_SOURCE_SIDE], rig->store[TST_SINK_SIDE], 0);
    tst_ok(ledger_bridge_status_get(rig->store[TST_SOURCE_SIDE], rig->store[TST_SINK_SIDE],
                                    "default", &status, &err),
           &err);
    if (status.parked_count != 0 || status.backlog_count != 0)
        tst_fail("%s: %" PRIu64 " parked, backlog %" PRIu64, text, status.parked_count,
                 status.backlog_count);
    rig->events = (uint64_t)tst_query_int_on(rig->store[TST_SOURCE_SIDE],
                                             "SELECT count(*) FROM ledger_entries_mutations");
    print_message("%s: %" PRIu64 " events, %" PRIu64
                  " failed polls, back after %.0f ms at the longest; equal\n",
                  text, rig->events, rig->errors, (double)rig->longest_us / 1000);
    for (int side = 0; side < TST_SIDES; side++) {
        tst_close(rig->env, rig->store[side]);
        tst_close(rig->env, rig->bridge_store[side]);
        tst_proxy_destroy(&rig->proxy[side]);
        tst_pg_destroy(&rig->pg[side]);
    }
    tst_pg_destroy(&rig->standby);
    free(rig);
    *rig_ = NULL;
}
