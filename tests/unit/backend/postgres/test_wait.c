/* Waiting for the log to grow: pauses, notices, what it costs. */
#include "reader.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "backend/postgres/source.h"

static int setup(void **state)
{
    return open_shared(state, "wait");
}

static void got(const char *text)
{
    assert_int_equal(batch.count, 1);
    assert_int_equal(batch.rows[0].payload.size, strlen(text));
    assert_memory_equal(batch.rows[0].payload.data, text, strlen(text));
}

static void wait_for(int64_t timeout_ms, int fd)
{
    ledger_error err = { 0 };

    tst_ok(SOURCE->source->log_wait(&pg, fd, timeout_ms, &err), &err);
}

struct late {
    int64_t pause_us, put_us;
    PGconn *conn;
};

static void *put_late(void *ctx)
{
    struct late *late = ctx;

    tst_sleep_us(late->pause_us);
    put(late->conn, "late");
    late->put_us = tst_mono_us();
    return NULL;
}

/* How long after its commit a lone row was read. */
static int64_t lone_row_us(int64_t pause_us)
{
    struct late late = { .pause_us = pause_us, .conn = db };
    pthread_t thread;
    int64_t seen_us;

    read_next(10);
    assert_int_equal(batch.count, 0);
    assert_int_equal(pthread_create(&thread, NULL, put_late, &late), 0);
    do {
        wait_for(5000, -1);
        read_next(10);
    } while (batch.count == 0);
    seen_us = tst_mono_us();
    pthread_join(thread, NULL);
    got("late");
    return seen_us > late.put_us ? seen_us - late.put_us : 0;
}

static void test_wait(void **state)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    uint64_t one = 1;
    int64_t start, us, best = INT64_MAX;

    (void)state;
    wait_for(60000, -1); /* nothing was read yet: at once */
    read_ok("", &wide);
    start = tst_mono_us();
    wait_for(100, -1);
    assert_true(tst_mono_us() - start >= 100000);
    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
    wait_for(60000, fd);
    put(db, "now");
    wait_for(60000, -1);
    read_next(10);
    got("now");
    for (int i = 0; i < 3; i++) {
        us = lone_row_us(300000);
        best = us < best ? us : best;
    }
    assert_true(best < tst_slow(60000));
    close(fd);
}

static void *cut_late(void *ctx)
{
    const int *pid = ctx;

    tst_sleep_us(200000); /* the session is waited on by then */
    tst_pg_sql(db, "SELECT pg_terminate_backend(%d)", *pid);
    return NULL;
}

static void test_wait_for_a_notice(void **state)
{
    int64_t us, best = INT64_MAX;

    (void)state;
    handle_close(&pg);
    handle_open(&pg, url, LEDGER_DEFAULT_TABLE, LDG_ROLE_USER, LEDGER_MUTATION_LOG_ON,
                LEDGER_STORE_CREATE | LEDGER_STORE_NOTIFY);
    reopen();
    assert_true(pg.has_notify);
    read_ok("", &wide);
    for (int i = 0; i < 5; i++) {
        us = lone_row_us(100000);
        best = us < best ? us : best;
    }
    if (best > tst_slow(10000))
        fail_msg("seen after %lld us", (long long)best);
    /* the session is cut: an error at once, and it listens again on the next connection */
    ledger_error err = { 0 };
    ledger_rc rc = LEDGER_OK;
    while (rc == LEDGER_OK) { /* one that was cut before the wait is made anew by it */
        int pid = PQbackendPID(pg.conn);
        pthread_t thread;
        read_next(10);
        assert_int_equal(pthread_create(&thread, NULL, cut_late, &pid), 0);
        rc = SOURCE->source->log_wait(&pg, -1, 60000, &err);
        pthread_join(thread, NULL);
    }
    tst_fails(rc, LEDGER_ERR_CONNECT, &err);
    read_next(10);
    best = INT64_MAX;
    for (int i = 0; i < 5; i++) {
        us = lone_row_us(100000);
        best = us < best ? us : best;
    }
    if (best > tst_slow(10000))
        fail_msg("seen after %lld us", (long long)best);
}

/* They are sent once a second at most, and only by what reads a table. */
static void send_statistics(void)
{
    tst_sleep_us(1200000);
    read_next(10);
}

/* Each look is a transaction of the database's own count; nothing else is one there. */
static void test_idle_statements(void **state)
{
    int64_t before, after;

    (void)state;
    handle_close(&pg);
    tst_pg_sql(db, "ALTER SYSTEM SET autovacuum = off");
    tst_pg_sql(db, "SELECT pg_reload_conf()");
    tst_pg_create_database(tst_pg_shared(), "idle");
    snprintf(url, sizeof(url), "%s", tst_pg_url(tst_pg_shared(), "idle", NULL, NULL));
    handle_open(&pg, url, LEDGER_DEFAULT_TABLE, LDG_ROLE_USER, LEDGER_MUTATION_LOG_ON,
                LEDGER_STORE_CREATE);
    read_ok("", &wide);
    wait_for(1000, -1); /* its pauses grow */
    send_statistics();
    before = tst_pg_sql_int(db, "SELECT xact_commit FROM pg_stat_database WHERE datname = 'idle'");
    wait_for(3000, -1);
    send_statistics();
    after = tst_pg_sql_int(db, "SELECT xact_commit FROM pg_stat_database WHERE datname = 'idle'");
    if (after - before > 65) /* 3 s, and what sends the statistics */
        fail_msg("%lld statements in three seconds", (long long)(after - before));
    assert_true(after - before > 2);
    tst_pg_sql(db, "ALTER SYSTEM RESET autovacuum");
    tst_pg_sql(db, "SELECT pg_reload_conf()");
}

/* A difference whose rest was deleted is waited for like any other. */
static void test_wait_behind_deleted_rows(void **state)
{
    int64_t start;

    (void)state;
    for (int i = 0; i < 4; i++)
        put(db, "x");
    read_ok("", &(struct ldg_log_limits){ 2, 1000 });
    tst_pg_sql(db, "DELETE FROM " LOG " WHERE id > 2");
    read_next(2);
    assert_int_equal(batch.count, 2); /* once more: the end of its snapshot is gone */
    read_next(2);
    assert_int_equal(batch.count, 0);
    start = tst_mono_us();
    wait_for(200, -1);
    assert_true(tst_mono_us() - start >= 200000);
    /* the row that it ends with is there, those between are not */
    for (int i = 0; i < 4; i++)
        put(db, "y");
    read_next(1);
    tst_pg_sql(db, "UPDATE " LOG " SET id = id + 100 WHERE id > 5");
    read_next(10);
    assert_int_equal(batch.count, 4);
    read_next(10);
    assert_int_equal(batch.count, 0);
    start = tst_mono_us();
    wait_for(200, -1);
    assert_true(tst_mono_us() - start >= 200000);
    put(db, "z");
    wait_for(60000, -1);
    read_next(10);
    got("z");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_wait),
        TEST(test_wait_for_a_notice),
        TEST(test_idle_statements),
        TEST(test_wait_behind_deleted_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
