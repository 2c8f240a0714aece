/* w1 on PostgreSQL, at full width: many writers whose transactions overlap in every way there is,
 * one transaction that stays open throughout, and bridges in processes of their own that are killed
 * meanwhile. Then plain SQL, which uses nothing of ours, compares both tables.
 *
 * LEDGER_TEST_EVENTS=n: events in the log, in all (200,000). */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixtures.h"
#include "pg_server.h"
#include "workload.h"

enum style { WITH_STORE, WITH_SAVEPOINTS, SERIALIZABLE, PREPARED, STYLES };

struct writer {
    pthread_t thread;
    enum style style;
    int number;
    uint64_t random, quota; /* events to be committed */
    PGconn *conn, *other;
    ledger_store *store; /* WITH_STORE: with a connection of its own; else on conn */
    int next;            /* number in its stream; rolled back ones are left out */
    uint64_t committed, commits, rollbacks, serialization_failures;
    char failure[700]; /* "": none */
};

static uint64_t below(struct writer *w, uint64_t n)
{
    return tst_random_below(&w->random, n);
}

/* Sleeps now and then, up to some milliseconds. */
static void dawdle(struct writer *w)
{
    if (below(w, 4) == 0)
        tst_sleep_us((int64_t)below(w, 3000));
}

enum outcome { DONE, AGAIN, BROKEN };

static enum outcome sql(struct writer *w, PGconn *conn, const char *fmt, ...) LEDGER_PRINTF(3, 4);
static enum outcome sql(struct writer *w, PGconn *conn, const char *fmt, ...)
{
    char text[400];
    enum outcome outcome = DONE;
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    PGresult *result = PQexec(conn, text);
    if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK) {
        const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
        outcome = state != NULL && strcmp(state, "40001") == 0 ? AGAIN : BROKEN;
        if (outcome == BROKEN)
            snprintf(w->failure, sizeof w->failure, "%.100s: %.250s", text, PQerrorMessage(conn));
    }
    PQclear(result);
    return outcome;
}

/* Some entries with one call of the library: one event. */
static enum outcome append_some(struct writer *w, uint64_t *events)
{
    enum { MOST = 5 };
    char payloads[MOST][48], stream[16];
    ledger_append_input inputs[MOST] = { { { 0 } } };
    size_t count = 1 + (size_t)below(w, MOST);
    ledger_error err = { 0 };
    snprintf(stream, sizeof stream, "w%d", w->number);
    for (size_t i = 0; i < count; i++) {
        snprintf(payloads[i], sizeof payloads[i], "{\"w\":\"w%d\",\"n\":%d}", w->number, w->next++);
        inputs[i].payload = (ledger_bytes){ payloads[i], strlen(payloads[i]) };
    }
    ledger_rc rc = ledger_store_append(w->store, stream, inputs, count, NULL, &err);
    (*events)++;
    if (rc == LEDGER_OK)
        return DONE;
    if (rc == LEDGER_ERR_BUSY)
        return AGAIN;
    snprintf(w->failure, sizeof w->failure, "append: %s: %s", ledger_rc_name(rc), err.message);
    return BROKEN;
}

/* One to sixty events by plain SQL, as another program would write them. */
static enum outcome put_some(struct writer *w, PGconn *conn, uint64_t *events)
{
    int count = 1 + (int)below(w, 60);
    enum outcome outcome = sql(w, conn, "SELECT put('w%d', %d, %d)", w->number, w->next, count);
    w->next += count;
    *events += (uint64_t)count;
    return outcome;
}

/* What stands between BEGIN and the end; *events: how many of it count when it is committed. */
static enum outcome write_some(struct writer *w, uint64_t *events)
{
    enum outcome outcome = DONE;
    for (uint64_t k = 1 + below(w, 4); k > 0 && outcome == DONE; k--) {
        dawdle(w);
        if (w->style == SERIALIZABLE) /* what a neighbour writes too: some cannot be serialized */
            outcome = sql(w, w->conn, "SELECT max(id) FROM ledger_entries WHERE stream = 'w%d'",
                          w->number ^ 4);
        if (outcome == DONE)
            outcome = below(w, 2) == 0 ? append_some(w, events) : put_some(w, w->conn, events);
        if (w->style == WITH_SAVEPOINTS && outcome == DONE) {
            uint64_t lost = 0;
            outcome = sql(w, w->conn, "SAVEPOINT s");
            if (outcome == DONE)
                outcome = below(w, 2) == 0 ? append_some(w, &lost) : put_some(w, w->conn, &lost);
            if (outcome == DONE && below(w, 2) == 0)
                outcome = sql(w, w->conn, "ROLLBACK TO SAVEPOINT s");
            else
                *events += lost;
            if (outcome == DONE)
                outcome = sql(w, w->conn, "RELEASE SAVEPOINT s");
        }
    }
    dawdle(w);
    return outcome;
}

static enum outcome end_prepared(struct writer *w, bool commit)
{
    char name[32];
    snprintf(name, sizeof name, "w%d_%" PRIu64, w->number, w->commits + w->rollbacks);
    enum outcome outcome = sql(w, w->conn, "PREPARE TRANSACTION '%s'", name);
    if (outcome != DONE)
        return outcome;
    tst_sleep_us((int64_t)below(w, 5000));
    return sql(w, below(w, 2) == 0 ? w->conn : w->other, "%s PREPARED '%s'",
               commit ? "COMMIT" : "ROLLBACK", name);
}

static enum outcome one_transaction(struct writer *w)
{
    uint64_t events = 0;
    bool commit = below(w, 5) != 0;
    enum outcome outcome = sql(w, w->conn, "BEGIN ISOLATION LEVEL %s",
                               w->style == SERIALIZABLE ? "SERIALIZABLE" : "READ COMMITTED");
    if (outcome == DONE)
        outcome = write_some(w, &events);
    if (outcome == DONE && w->style == PREPARED)
        outcome = end_prepared(w, commit);
    else if (outcome == DONE)
        outcome = sql(w, w->conn, commit ? "COMMIT" : "ROLLBACK");
    if (outcome == DONE && commit) {
        w->committed += events;
        w->commits++;
    } else if (outcome == DONE) {
        w->rollbacks++;
    } else if (outcome == AGAIN) {
        w->serialization_failures++;
        w->rollbacks++;
        outcome = sql(w, w->conn, "ROLLBACK");
    }
    return outcome;
}

/* As a program does it that leaves the transactions to the library. */
static enum outcome one_store_transaction(struct writer *w)
{
    uint64_t events = 0;
    ledger_error err = { 0 };
    ledger_rc rc;
    if (below(w, 3) == 0) { /* a transaction of its own */
        enum outcome outcome = append_some(w, &events);
        w->committed += outcome == DONE ? events : 0;
        w->commits += outcome == DONE;
        return outcome;
    }
    rc = ledger_store_begin(w->store, &err);
    for (uint64_t k = 1 + below(w, 12); k > 0 && rc == LEDGER_OK; k--) {
        dawdle(w);
        if (append_some(w, &events) != DONE)
            return BROKEN;
    }
    if (rc == LEDGER_OK && below(w, 5) == 0) {
        events = 0;
        w->rollbacks++;
        rc = ledger_store_rollback(w->store, &err);
    } else if (rc == LEDGER_OK) {
        w->commits++;
        rc = ledger_store_commit(w->store, &err);
    }
    if (rc == LEDGER_OK) {
        w->committed += events;
        return DONE;
    }
    snprintf(w->failure, sizeof w->failure, "%s: %s", ledger_rc_name(rc), err.message);
    return BROKEN;
}

static void *write_all(void *arg)
{
    struct writer *w = arg;
    enum outcome outcome = DONE;
    while (w->committed < w->quota && outcome != BROKEN)
        outcome = w->style == WITH_STORE ? one_store_transaction(w) : one_transaction(w);
    return NULL;
}

/* --- the bridges -------------------------------------------------------------------------------
 */

static pid_t spawn_bridge(const char *source, const char *sink, const char *batch, bool until_empty)
{
    const char *program = getenv("LEDGERCTL");
    const char *args[] = { "ledgerctl",
                           "bridge",
                           "run",
                           "--source",
                           source,
                           "--sink",
                           sink,
                           "--interval",
                           "200ms",
                           "--quiet",
                           "--batch-size",
                           batch,
                           until_empty ? "--until-empty" : NULL,
                           NULL };
    pid_t parent = getpid(), pid;
    if (program == NULL)
        tst_fail("LEDGERCTL is not set; run the tests through meson");
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent)
            execv(program, (char *const *)(uintptr_t)args);
        _exit(127);
    }
    return pid;
}

static void carry_the_rest(const char *source, const char *sink)
{
    int status = -1;
    pid_t pid = spawn_bridge(source, sink, "500", true);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status != 0)
        tst_fail("ledgerctl bridge run --until-empty ended with status %d", status);
}

static void compare(PGconn *conn, const char *when)
{
    static const char *const questions[][2] = {
        { "missing", "SELECT count(*) FROM source.ledger_entries s WHERE NOT EXISTS (SELECT FROM"
                     " sink.ledger_entries d WHERE d.source_pos = s.id AND d.stream = s.stream"
                     " AND d.payload = s.payload)" },
        { "extra", "SELECT count(*) FROM sink.ledger_entries d WHERE NOT EXISTS (SELECT FROM"
                   " source.ledger_entries s WHERE d.source_pos = s.id AND d.stream = s.stream)" },
        { "doubled", "SELECT count(*) - count(DISTINCT source_pos) FROM sink.ledger_entries" },
        { "out of order",
          "SELECT count(*) FROM (SELECT n, lag(n) OVER (PARTITION BY stream ORDER BY id) AS before"
          " FROM (SELECT id, stream, (convert_from(payload, 'UTF8')::json->>'n')::int AS n"
          " FROM sink.ledger_entries) AS a) AS b WHERE before >= n" },
        { "parked", "SELECT count(*) FROM sink.ledger_entries_parked" },
    };
    for (size_t i = 0; i < sizeof questions / sizeof questions[0]; i++) {
        int64_t count = tst_pg_sql_int(conn, "%s", questions[i][1]);
        if (count != 0)
            tst_fail("%s: %" PRId64 " %s", when, count, questions[i][0]);
    }
}

static const char put_function[] =
    "CREATE FUNCTION source.put(w text, first int, n int) RETURNS void LANGUAGE plpgsql AS $$"
    " DECLARE i int; e bigint; p text;"
    " BEGIN FOR i IN first .. first + n - 1 LOOP"
    "  p := format('{\"w\":\"%s\",\"n\":%s}', w, i);"
    "  INSERT INTO ledger_entries (stream, payload) VALUES (w, convert_to(p, 'UTF8'))"
    "   RETURNING id INTO e;"
    "  INSERT INTO ledger_entries_mutations (stream, payload) VALUES ('_', convert_to(format("
    "   '{\"type\":\"append\",\"stream\":\"%s\",\"entries\":[{\"id\":\"%s\",\"payload\":%s,"
    "\"schema_version\":1}]}', w, e, p), 'UTF8'));"
    " END LOOP; END $$";

static void open_writer(struct tst_env *env, struct writer *w, const char *url)
{
    ledger_store_options o;
    ledger_store_options_defaults(&o);
    w->conn = tst_pg_connect_url(url);
    w->other = tst_pg_connect_url(url);
    if (w->style == WITH_STORE) {
        o.url = url;
    } else {
        o.connection = w->conn;
        o.connection_kind = LEDGER_CONNECTION_POSTGRES;
    }
    w->store = tst_open_with(env, TST_POSTGRES, NULL, &o);
}

static void writers_and_killed_bridges(struct tst_env *env, size_t writer_count, uint64_t events)
{
    enum { BRIDGES = 3 };
    static const char *const batches[BRIDGES] = { "500", "40", "7" };
    /* Many serializable transactions beside one that is open throughout keep many locks. */
    const struct tst_pg_options options = {
        .settings = "deadlock_timeout = 200ms\nmax_pred_locks_per_transaction = 2048\n"
    };
    struct tst_pg *pg = tst_pg_start(&options);
    struct writer *writers = calloc(writer_count, sizeof *writers);
    char source_url[700], sink_url[700];
    pid_t bridges[BRIDGES];
    uint64_t random = tst_seed(), kills = 0, total[4] = { 0 };
    ledger_store_options o;
    assert_non_null(writers);
    snprintf(source_url, sizeof source_url, "%s", tst_pg_schema_url(pg, "source"));
    snprintf(sink_url, sizeof sink_url, "%s", tst_pg_schema_url(pg, "sink"));
    ledger_store_options_defaults(&o);
    o.flags = LEDGER_STORE_CREATE;
    o.log = LEDGER_MUTATION_LOG_ON;
    o.url = source_url;
    tst_close(env, tst_open_with(env, TST_POSTGRES, NULL, &o));
    o.log = LEDGER_MUTATION_LOG_OFF;
    o.url = sink_url;
    tst_close(env, tst_open_with(env, TST_POSTGRES, NULL, &o));
    PGconn *held = tst_pg_connect_url(source_url);
    PGconn *look = tst_pg_connect(pg, NULL);
    tst_pg_sql(held, "%s", put_function);
    tst_pg_sql(held, "BEGIN; SELECT put('held', 1, 20)"); /* the lowest ids of all */

    int64_t begun = tst_mono_us();
    for (size_t i = 0; i < BRIDGES; i++)
        bridges[i] = spawn_bridge(source_url, sink_url, batches[i], false);
    for (size_t i = 0; i < writer_count; i++) {
        writers[i].style = (enum style)(i % STYLES);
        writers[i].number = (int)i;
        writers[i].random = random + i;
        writers[i].quota = events / writer_count + 1;
        open_writer(env, &writers[i], source_url);
    }
    for (size_t i = 0; i < writer_count; i++)
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_all, &writers[i]), 0);
    for (size_t i = 0; i < writer_count;) {
        struct timespec until;
        size_t victim = (size_t)tst_random_below(&random, BRIDGES);
        (void)clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += (long)tst_random_below(&random, 400) * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (pthread_timedjoin_np(writers[i].thread, NULL, &until) == 0) {
            i++;
            continue;
        }
        int status = 0;
        if (waitpid(bridges[victim], &status, WNOHANG) != 0)
            tst_fail("a bridge ended by itself with status %d", status);
        (void)kill(bridges[victim], SIGKILL);
        assert_int_equal(waitpid(bridges[victim], &status, 0), bridges[victim]);
        bridges[victim] = spawn_bridge(source_url, sink_url, batches[victim], false);
        kills++;
    }
    double written_s = (double)(tst_mono_us() - begun) / 1e6;
    for (size_t i = 0; i < BRIDGES; i++, kills++) {
        (void)kill(bridges[i], SIGKILL);
        (void)waitpid(bridges[i], NULL, 0);
    }
    for (size_t i = 0; i < writer_count; i++) {
        struct writer *w = &writers[i];
        if (w->failure[0] != '\0')
            tst_fail("writer %zu: %s", i, w->failure);
        total[0] += w->committed;
        total[1] += w->commits;
        total[2] += w->rollbacks;
        total[3] += w->serialization_failures;
        tst_close(env, w->store);
        PQfinish(w->conn);
        PQfinish(w->other);
    }
    /* Nothing waits for the open transaction, and at its end it arrives too. */
    carry_the_rest(source_url, sink_url);
    compare(look, "before the open transaction ended");
    tst_pg_sql(held, "COMMIT");
    carry_the_rest(source_url, sink_url);
    compare(look, "at the end");
    assert_int_equal(
        tst_pg_sql_int(look, "SELECT count(*) FROM sink.ledger_entries WHERE stream = 'held'"), 20);
    int64_t logged = tst_pg_sql_int(look, "SELECT count(*) FROM source.ledger_entries_mutations");
    assert_int_equal(logged, (int64_t)total[0] + 20);
    print_message("%zu writers: %" PRId64 " events, %" PRId64 " entries in %.1f s; %" PRIu64
                  " commits, %" PRIu64 " rollbacks, %" PRIu64 " serialization failures, %" PRIu64
                  " bridges killed; 0 missing, 0 extra, 0 doubled, 0 out of order; all carried"
                  " after %.1f s\n",
                  writer_count, logged,
                  tst_pg_sql_int(look, "SELECT count(*) FROM sink.ledger_entries"), written_s,
                  total[1], total[2], total[3], kills, (double)(tst_mono_us() - begun) / 1e6);
    PQfinish(held);
    PQfinish(look);
    free(writers);
    tst_pg_destroy(&pg);
}

static uint64_t event_count(void)
{
    const char *text = getenv("LEDGER_TEST_EVENTS");
    return text != NULL && text[0] != '\0' ? strtoull(text, NULL, 10) : tst_scale(200000);
}

static void w1_eight_writers(void **state)
{
    writers_and_killed_bridges(*state, 8, event_count() / 2);
}

static void w1_thirty_two_writers(void **state)
{
    writers_and_killed_bridges(*state, 32, event_count() / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(w1_eight_writers),
        T(w1_thirty_two_writers),
    };
    return cmocka_run_group_tests_name("writers of PostgreSQL", tests, NULL, NULL);
}
