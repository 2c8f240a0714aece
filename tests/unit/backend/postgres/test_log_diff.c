/* The source under load: writers of every kind at once, a reader that starts anew from its text
 * whenever it likes, servers that are killed. Each committed row comes exactly once, and changes of
 * one entry in their order. */
#include "handle.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "event_util.h"

#define SOURCE (&ldg_backend_postgres)
#define LOG "ledger_entries_mutations"
#define ENTRIES 20
#define WRITERS 8
#define IDS_MAX (1 << 22)

struct load {
    char url[300];
    atomic_bool stop;
    bool crashes; /* of the server: writers connect again, and prepare nothing */
    bool asynchronous;
    atomic_size_t committed;
    int64_t pause_us; /* longest, inside a transaction */
};

struct writer {
    struct load *load;
    pthread_t thread;
    int number;
    uint64_t seed;
};

/* --- writers --------------------------------------------------------------------------------- */

static bool run(PGconn *conn, const char *fmt, ...) LEDGER_PRINTF(2, 3);
static bool run(PGconn *conn, const char *fmt, ...)
{
    char sql[600];
    va_list args;

    va_start(args, fmt);
    vsnprintf(sql, sizeof(sql), fmt, args);
    va_end(args);
    PGresult *result = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(result);
    PQclear(result);
    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

/* A change of one entry: its version and its event, whose id is drawn behind the entry's lock. */
static bool change(PGconn *conn, size_t entry)
{
    return run(conn,
               "WITH u AS (UPDATE versions SET v = v + 1 WHERE id = %zu RETURNING id, v) "
               "INSERT INTO " LOG " (stream, payload) "
               "SELECT '_', convert_to(id || ':' || v, 'UTF8') FROM u",
               entry);
}

static void nap(struct writer *w)
{
    if (w->load->pause_us > 0 && random_below(&w->seed, 3) == 0)
        tst_sleep_us((int64_t)random_below(&w->seed, (size_t)w->load->pause_us));
}

static bool transaction(struct writer *w, PGconn *conn, int number)
{
    static const char *const levels[] = { "READ COMMITTED", "READ COMMITTED", "REPEATABLE READ",
                                          "SERIALIZABLE" };
    bool ok = run(conn, "BEGIN ISOLATION LEVEL %s", levels[random_below(&w->seed, 4)]);
    size_t changes = random_below(&w->seed, 6);

    if (random_below(&w->seed, 3) == 0) /* a number of one's own, long before the first row */
        ok = ok && run(conn, "SELECT pg_current_xact_id()");
    for (size_t i = 0; ok && i <= changes; i++) {
        nap(w);
        if (random_below(&w->seed, 4) == 0) {
            ok = run(conn, "SAVEPOINT a") && change(conn, random_below(&w->seed, ENTRIES));
            if (ok && random_below(&w->seed, 2) == 0)
                ok = run(conn, "ROLLBACK TO a");
        } else {
            ok = change(conn, random_below(&w->seed, ENTRIES));
        }
    }
    nap(w);
    switch (ok ? random_below(&w->seed, 8) : 0) {
    case 0:
    case 1:
        return run(conn, "ROLLBACK");
    case 2:
        if (w->load->crashes)
            return run(conn, "COMMIT");
        ok = run(conn, "PREPARE TRANSACTION 'w%d-%d'", w->number, number);
        nap(w);
        return ok && run(conn, "%s PREPARED 'w%d-%d'",
                         random_below(&w->seed, 3) ? "COMMIT" : "ROLLBACK", w->number, number);
    default:
        return run(conn, "COMMIT");
    }
}

static void *write_on(void *ctx)
{
    struct writer *w = ctx;
    PGconn *conn = NULL;

    for (int i = 0; !atomic_load(&w->load->stop); i++) {
        if (!conn || PQstatus(conn) != CONNECTION_OK) {
            PQfinish(conn);
            conn = PQconnectdb(w->load->url);
            run(conn, "SET deadlock_timeout = '20ms'");
            if (w->load->asynchronous)
                run(conn, "SET synchronous_commit = off");
            if (PQstatus(conn) != CONNECTION_OK) {
                tst_sleep_us(10000);
                continue;
            }
        }
        if (transaction(w, conn, i))
            atomic_fetch_add(&w->load->committed, 1);
        else
            run(conn, "ROLLBACK");
    }
    PQfinish(conn);
    return NULL;
}

static void start(struct load *load, struct writer *writers)
{
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){ .load = load, .number = i, .seed = tst_seed() + (uint64_t)i };
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_on, &writers[i]), 0);
    }
}

static void stop(struct load *load, struct writer *writers)
{
    atomic_store(&load->stop, true);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i].thread, NULL);
}

/* --- the reader ------------------------------------------------------------------------------ */

struct reader {
    struct ldg_pg pg;
    bool open;
    char url[300];
    char state[LDG_CURSOR_STATE_MAX];
    struct ldg_log_batch batch;
    uint8_t *seen; /* times, by id */
    int64_t version[ENTRIES];
    uint64_t seed;
    bool again_allowed; /* a crash may bring rows again */
    size_t rows, again, rewinds, position_falls;
    int64_t position;
};

static struct reader *reader_new(const char *url)
{
    struct reader *r = calloc(1, sizeof(*r));

    assert_non_null(r);
    r->seen = calloc(IDS_MAX, 1);
    assert_non_null(r->seen);
    snprintf(r->url, sizeof(r->url), "%s", url);
    r->seed = tst_seed();
    ldg_arena_init(&r->batch.arena, 1 << 16);
    return r;
}

static void reader_close(struct reader *r)
{
    if (r->open)
        handle_close(&r->pg);
    r->open = false;
}

static void reader_free(struct reader *r)
{
    reader_close(r);
    ldg_arena_fini(&r->batch.arena);
    free(r->seen);
    free(r);
}

static void take(struct reader *r, const struct ldg_log_row *row)
{
    int entry, n = 0;
    long long v;
    char text[64];

    assert_true(row->position > 0 && row->position < IDS_MAX && row->payload.size < sizeof(text));
    memcpy(text, row->payload.data, row->payload.size);
    text[row->payload.size] = '\0';
    r->rows++;
    if (r->seen[row->position]++ > 0) {
        r->again++;
        if (!r->again_allowed)
            tst_fail("row %lld came twice", (long long)row->position);
    }
    if (sscanf(text, "%d:%lld%n", &entry, &v, &n) != 2 || text[n] != '\0')
        return; /* the one that stays open */
    /* After a crash an entry's history may come again from an earlier point, in order. */
    if (v <= r->version[entry] && !r->again_allowed)
        tst_fail("entry %d: change %lld after %lld, at row %lld", entry, v,
                 (long long)r->version[entry], (long long)row->position);
    r->version[entry] = v;
}

/* One read with random limits; false: nothing there. */
static bool reader_step(struct reader *r, ledger_rc *ret_rc, ledger_error *err)
{
    const struct ldg_log_limits limits = {
        random_below(&r->seed, 4) ? 1 + random_below(&r->seed, 20) : 1000,
        random_below(&r->seed, 4) ? (size_t)1 << 20 : 1 + random_below(&r->seed, 60),
    };

    *ret_rc = LEDGER_OK;
    if (r->open && random_below(&r->seed, 10) == 0)
        reader_close(r);
    if (!r->open) {
        *ret_rc = handle_try(&r->pg, r->url, LEDGER_DEFAULT_TABLE, LDG_ROLE_SOURCE,
                             LEDGER_MUTATION_LOG_AUTO, 0, err);
        r->open = *ret_rc == LEDGER_OK;
        /* Behind a pooler nothing is kept that a server's end could make wrong. */
        r->pg.pooled = r->open && random_below(&r->seed, 3) == 0;
    }
    if (r->open && random_below(&r->seed, 20) == 0)
        *ret_rc = SOURCE->source->log_check(&r->pg, r->state, &r->position, err);
    if (r->open && *ret_rc == LEDGER_OK && random_below(&r->seed, 10) == 0)
        *ret_rc = SOURCE->source->log_wait(&r->pg, -1, 1, err);
    if (r->open && *ret_rc == LEDGER_OK)
        *ret_rc = SOURCE->source->log_read(&r->pg, r->state, &limits, &r->batch, err);
    if (*ret_rc != LEDGER_OK)
        return false;
    if (r->batch.count > 0 && random_below(&r->seed, 8) == 0)
        return true; /* thrown away, as a batch read ahead of a failure is */
    for (size_t i = 0; i < r->batch.count; i++)
        take(r, &r->batch.rows[i]);
    assert_true(r->batch.next_position >= r->position);
    r->position = r->batch.next_position;
    memcpy(r->state, r->batch.next_state, sizeof(r->state));
    return r->batch.count > 0;
}

/* Every row that is there has come; none that is not. */
static size_t compare(struct reader *r, bool lost_allowed)
{
    PGconn *conn = tst_pg_connect_url(r->url);
    PGresult *result = PQexec(conn, "SELECT id FROM " LOG);
    int64_t rows = PQntuples(result);
    size_t there = 0, extra = 0;

    for (int i = 0; i < rows; i++) {
        int64_t id = strtoll(PQgetvalue(result, i, 0), NULL, 10);

        if (r->seen[id] == 0)
            tst_fail("row %lld of %lld never came", (long long)id, (long long)rows);
        there++;
        r->seen[id] = 0;
    }
    for (size_t id = 0; id < IDS_MAX; id++)
        extra += r->seen[id] > 0;
    if (!lost_allowed)
        assert_int_equal(extra, 0);
    PQclear(result);
    PQfinish(conn);
    return extra;
}

/* --- the tests ------------------------------------------------------------------------------- */

static void prepare(const char *url)
{
    struct ldg_pg pg;
    PGconn *conn;

    handle_open(&pg, url, LEDGER_DEFAULT_TABLE, LDG_ROLE_USER, LEDGER_MUTATION_LOG_ON,
                LEDGER_STORE_CREATE);
    handle_close(&pg);
    conn = tst_pg_connect_url(url);
    tst_pg_sql(conn, "CREATE TABLE versions (id int PRIMARY KEY, v bigint NOT NULL)");
    tst_pg_sql(conn, "INSERT INTO versions SELECT n, 0 FROM generate_series(0, %d) n", ENTRIES - 1);
    PQfinish(conn);
}

static void test_w1_writers_at_once(void **state)
{
    struct load load = { .pause_us = 3000 };
    struct writer writers[WRITERS];
    size_t goal = tst_scale(6000), open_seen = 0;
    struct reader *r;
    ledger_rc rc;
    ledger_error err;

    (void)state;
    tst_pg_require();
    snprintf(load.url, sizeof(load.url), "%s", tst_pg_schema_url(tst_pg_shared(), "look"));
    prepare(load.url);
    PGconn *open = tst_pg_connect_url(load.url);
    tst_pg_sql(open, "BEGIN");
    tst_pg_sql(open, "INSERT INTO " LOG " (stream, payload) VALUES ('_', 'open')");
    r = reader_new(load.url);
    start(&load, writers);
    while (r->rows < goal) {
        if (r->rows > open_seen + 200) { /* more of the one that stays open */
            open_seen = r->rows;
            tst_pg_sql(open, "INSERT INTO " LOG " (stream, payload) VALUES ('_', 'open')");
        }
        reader_step(r, &rc, &err);
        tst_ok(rc, &err);
    }
    stop(&load, writers);
    while (reader_step(r, &rc, &err))
        ;
    tst_pg_sql(open, "COMMIT");
    PQfinish(open);
    for (int quiet = 0; quiet < 3;)
        quiet = reader_step(r, &rc, &err) ? 0 : quiet + 1;
    tst_ok(rc, &err);
    compare(r, false);
    print_message("%zu rows, %zu transactions\n", r->rows, (size_t)load.committed);
    reader_free(r);
}

static void crash(bool asynchronous, size_t crashes)
{
    struct load load = { .crashes = true, .asynchronous = asynchronous, .pause_us = 1000 };
    struct tst_pg *server = tst_pg_start(NULL);
    struct writer writers[WRITERS];
    size_t lost = 0;
    uint64_t seed = tst_seed();
    struct reader *r;
    ledger_rc rc;
    ledger_error err;

    snprintf(load.url, sizeof(load.url), "%s", tst_pg_url(server, NULL, NULL, NULL));
    prepare(load.url);
    r = reader_new(load.url);
    r->again_allowed = true;
    start(&load, writers);
    for (size_t i = 0; i < crashes; i++) {
        int64_t until = tst_mono_us() + 50000 + (int64_t)random_below(&seed, 100000);

        while (tst_mono_us() < until) {
            reader_step(r, &rc, &err);
            if (rc == LEDGER_ERR_SOURCE_REWOUND && asynchronous) {
                r->rewinds++; /* told, not silent: on purpose from the beginning */
                r->state[0] = '\0';
                r->position = 0;
                memset(r->seen, 0, IDS_MAX);
            } else if (rc != LEDGER_OK && rc != LEDGER_ERR_CONNECT) {
                tst_ok(rc, &err);
            }
        }
        tst_pg_kill(server);
        if (random_below(&seed, 2))
            reader_close(r);
        tst_pg_run(server);
    }
    stop(&load, writers);
    for (int quiet = 0; quiet < 3;) {
        quiet = reader_step(r, &rc, &err) ? 0 : quiet + 1;
        if (rc == LEDGER_ERR_SOURCE_REWOUND && asynchronous) {
            r->rewinds++;
            r->state[0] = '\0';
            r->position = 0;
            memset(r->seen, 0, IDS_MAX);
            quiet = 0;
        }
    }
    lost = compare(r, false);
    print_message("%zu crashes, %zu rows, %zu again, %zu rewinds told, %zu that the source lost\n",
                  crashes, r->rows, r->again, r->rewinds, lost);
    reader_free(r);
    tst_pg_destroy(&server);
}

static void test_t1_crashes(void **state)
{
    (void)state;
    tst_pg_require();
    crash(false, tst_scale(8));
}

static void test_t1_crashes_with_asynchronous_commits(void **state)
{
    (void)state;
    tst_pg_require();
    crash(true, tst_scale(8));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, tst_setup, tst_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_w1_writers_at_once),
        TEST(test_t1_crashes),
        TEST(test_t1_crashes_with_asynchronous_commits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
