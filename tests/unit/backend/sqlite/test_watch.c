/* Waiting for a commit of another process: nothing missed, nothing polled. */
#include "handle.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOURCE (&ldg_backend_sqlite)
#define LOG "ledger_entries_mutations"
#define LONG_MS 60000
/* A wait that misses what it is to see ends with its time. */
#define MISSED_US (LONG_MS / 2 * INT64_C(1000))
/* Most waits are over by then; single ones are not, where the machine is busy with other things. */
#define SOON_US 60000

static struct ldg_sqlite s;
static struct ldg_log_batch batch;
static char path[600];
static const struct ldg_log_limits wide = { 1000, (size_t)1 << 30 };

/* A process that commits when told to. It is forked before this process opens anything. */
static struct {
    pid_t pid;
    int to, from;
} writer;

static void write_once(sqlite3 *db)
{
    if (sqlite3_exec(db, "INSERT INTO " LOG "(stream, payload) VALUES ('_', '{}')", NULL, NULL,
                     NULL) != SQLITE_OK)
        _exit(2);
}

/* One command a byte: w writes, h writes and keeps the transaction open a while, q ends. The answer
 * comes when the commit has returned. */
static void writer_run(const char *file, const char *pragmas, int in, int out)
{
    sqlite3 *db = NULL;
    char command;

    if (sqlite3_open(file, &db) != SQLITE_OK || sqlite3_busy_timeout(db, 5000) != SQLITE_OK ||
        sqlite3_exec(db, pragmas, NULL, NULL, NULL) != SQLITE_OK || write(out, "r", 1) != 1)
        _exit(3);
    while (read(in, &command, 1) == 1 && command != 'q') {
        if (command == 'h') {
            /* A small cache: pages go to the file long before the commit. */
            sqlite3_exec(db, "PRAGMA cache_size = 10; BEGIN IMMEDIATE", NULL, NULL, NULL);
            sqlite3_exec(db,
                         "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT "
                         "3000) INSERT INTO " LOG "(stream, payload) SELECT '_', randomblob(200) "
                         "FROM n",
                         NULL, NULL, NULL);
            usleep(150000);
            sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
        } else {
            write_once(db);
        }
        if (write(out, "d", 1) != 1)
            _exit(4);
    }
    sqlite3_close(db);
    _exit(0);
}

static void writer_start(const char *pragmas)
{
    int to[2], from[2];
    char ready;

    assert_int_equal(pipe(to), 0);
    assert_int_equal(pipe(from), 0);
    writer.pid = fork();
    assert_true(writer.pid >= 0);
    if (writer.pid == 0) {
        close(to[1]);
        close(from[0]);
        writer_run(path, pragmas, to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);
    writer.to = to[1];
    writer.from = from[0];
    assert_int_equal(read(writer.from, &ready, 1), 1);
}

static void writer_tell(char command)
{
    assert_int_equal(write(writer.to, &command, 1), 1);
}

static void writer_done(void)
{
    char done;

    assert_int_equal(read(writer.from, &done, 1), 1);
}

static void writer_stop(void)
{
    int status;

    if (writer.pid > 0) {
        writer_tell('q');
        waitpid(writer.pid, &status, 0);
        close(writer.to);
        close(writer.from);
        writer.pid = 0;
        assert_int_equal(status, 0);
    }
}

static int setup(void **state)
{
    int rc = tst_setup(state);

    if (rc == 0) {
        ledger_error err;
        struct ldg_sqlite maker;

        snprintf(path, sizeof(path), "%s", tst_path(*state, "source.db"));
        rc = handle_try(&maker, path, LDG_ROLE_USER, LEDGER_STORE_CREATE, &err);
        if (rc == 0)
            handle_close(&maker);
        memset(&batch, 0, sizeof(batch));
        ldg_arena_init(&batch.arena, 1 << 16);
        memset(&s, 0, sizeof(s));
    }
    return rc;
}

static int teardown(void **state)
{
    writer_stop();
    if (s.db != NULL)
        handle_close(&s);
    ldg_arena_fini(&batch.arena);
    return tst_teardown(state);
}

/* Reads on; how many rows came. */
static size_t look(void)
{
    ledger_error err = { 0 };
    char at[LDG_CURSOR_STATE_MAX];

    memcpy(at, batch.next_state, sizeof(at));
    ledger_rc rc = SOURCE->source->log_read(&s, at, &wide, &batch, &err);
    tst_ok(rc, &err);
    return batch.count;
}

static void wait_ms(int wake_fd, int64_t ms)
{
    ledger_error err = { 0 };
    ledger_rc rc = SOURCE->source->log_wait(&s, wake_fd, ms, &err);

    tst_ok(rc, &err);
}

/* As the bridge does it: reads until rows come, waiting between. The time it took. */
static int64_t until_rows(size_t count)
{
    int64_t start = tst_mono_us();
    size_t rows = look();

    while (rows < count && tst_mono_us() - start < 1000 * LONG_MS) {
        wait_ms(-1, LONG_MS);
        rows += look();
    }
    assert_int_equal(rows, count);
    return tst_mono_us() - start;
}

/* One commit, then nothing: with FULL its file event comes before it is visible. */
static void lone_commits(const char *pragmas)
{
    size_t late[2] = { 0, 0 };
    char done;

    writer_start(pragmas);
    handle_open(&s, path, LDG_ROLE_SOURCE, 0);
    while (look() > 0)
        ;
    for (int i = 0; i < 20; i++) {
        int64_t committed, seen;

        /* The bridge is surely waiting when the write begins, but for every third time. */
        pid_t pid = i % 3 == 2 ? -1 : fork();
        if (pid == 0) {
            usleep(5000 + 1000 * (useconds_t)i);
            _exit(write(writer.to, "w", 1) == 1 ? 0 : 1);
        }
        if (pid < 0)
            writer_tell('w');
        until_rows(1);
        seen = tst_mono_us();
        assert_int_equal(read(writer.from, &done, 1), 1);
        committed = tst_mono_us(); /* at the latest */
        assert_true(seen - committed < MISSED_US);
        late[pid > 0] += seen - committed >= tst_slow(SOON_US);
        if (pid > 0)
            waitpid(pid, NULL, 0);
    }
    assert_true(late[true] < 7 && late[false] < 3);
}

static void test_t7_full(void **state)
{
    lone_commits("PRAGMA synchronous = FULL");
}

static void test_t7_normal(void **state)
{
    lone_commits("PRAGMA synchronous = NORMAL");
}

static void test_t7_off(void **state)
{
    lone_commits("PRAGMA synchronous = OFF");
}

/* The commit is over before anybody waits: found by the look before the wait. */
static void test_commit_between_read_and_wait(void **state)
{
    size_t late = 0;

    writer_start("");
    handle_open(&s, path, LDG_ROLE_SOURCE, 0);
    for (int i = 0; i < 10; i++) {
        while (look() > 0)
            ;
        writer_tell('w');
        writer_done();
        int64_t start = tst_mono_us();
        wait_ms(-1, LONG_MS);
        assert_true(tst_mono_us() - start < MISSED_US);
        late += tst_mono_us() - start >= tst_slow(SOON_US);
        assert_int_equal(look(), 1);
    }
    assert_true(late < 5);
}

static void test_rollback_journal(void **state)
{
    static const char *const modes[] = { "PRAGMA journal_mode = DELETE",
                                         "PRAGMA journal_mode = TRUNCATE",
                                         "PRAGMA journal_mode = PERSIST" };
    for (size_t i = 0; i < 3; i++) {
        writer_start(modes[i]);
        handle_open(&s, path, LDG_ROLE_SOURCE, 0);
        while (look() > 0)
            ;
        for (int n = 0; n < 3; n++) {
            wait_ms(-1, 1);
            writer_tell('w');
            assert_true(until_rows(1) < MISSED_US);
            writer_done();
        }
        handle_close(&s);
        writer_stop();
    }
    memset(&s, 0, sizeof(s));
}

/* The WAL goes with its last user and comes again; so does the watch. */
static void test_wal_comes_and_goes(void **state)
{
    handle_open(&s, path, LDG_ROLE_SOURCE, 0);
    look();
    wait_ms(-1, 1);
    for (int i = 0; i < 3; i++) {
        writer_start("");
        writer_tell('w');
        assert_true(until_rows(1) < MISSED_US);
        writer_done();
        writer_stop();
        while (look() > 0)
            ;
        wait_ms(-1, 1);
        if (i == 1) { /* nobody holds it: the last one deletes it */
            handle_close(&s);
            sqlite3 *db = raw_open(path);
            tst_exec(db, "PRAGMA wal_checkpoint(TRUNCATE)");
            sqlite3_close(db);
            handle_open(&s, path, LDG_ROLE_SOURCE, 0);
            while (look() > 0)
                ;
        }
    }
}

/* Pages that go to the WAL long before their commit. */
static void test_long_transaction(void **state)
{
    writer_start("PRAGMA synchronous = NORMAL");
    handle_open(&s, path, LDG_ROLE_SOURCE, 0);
    while (look() > 0)
        ;
    wait_ms(-1, 1);
    writer_tell('h');
    int64_t start = tst_mono_us();
    size_t rows = 0;
    while (rows < 3000 && tst_mono_us() - start < 1000 * LONG_MS) {
        wait_ms(-1, LONG_MS);
        do
            rows += look();
        while (batch.more);
    }
    assert_int_equal(rows, 3000);
    assert_true(tst_mono_us() - start < MISSED_US);
    writer_done();
}

static void test_wake_and_timeout(void **state)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t one = 1;
    int64_t start;

    handle_open(&s, path, LDG_ROLE_SOURCE, 0);
    wait_ms(fd, LONG_MS); /* never read: returns at once */
    look();
    start = tst_mono_us();
    wait_ms(fd, 30);
    assert_true(tst_mono_us() - start >= 29000);
    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
    start = tst_mono_us();
    wait_ms(fd, LONG_MS);
    wait_ms(fd, -1);
    assert_true(tst_mono_us() - start < MISSED_US);
    close(fd);
}

static void test_replaced_file_ends_the_wait(void **state)
{
    struct tst_env *env = *state;
    ledger_error err = { 0 };
    pid_t pid;

    handle_open(&s, path, LDG_ROLE_SOURCE, 0);
    tst_copy_file(path, tst_path(env, "copy.db"));
    look();
    wait_ms(-1, 1);
    pid = fork();
    if (pid == 0) {
        usleep(20000);
        _exit(rename(tst_path(env, "copy.db"), path) == 0 ? 0 : 1);
    }
    int64_t start = tst_mono_us();
    wait_ms(-1, LONG_MS);
    assert_true(tst_mono_us() - start < MISSED_US);
    waitpid(pid, NULL, 0);
    char at[LDG_CURSOR_STATE_MAX];
    memcpy(at, batch.next_state, sizeof(at));
    tst_fails(SOURCE->source->log_read(&s, at, &wide, &batch, &err), LEDGER_ERR_CONNECT, &err);
}

static int64_t cpu_us(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec +
           usage.ru_stime.tv_usec;
}

/* An idle wait costs nothing, also with other files being written in the folder. */
static void test_idle(void **state)
{
    struct tst_env *env = *state;
    struct rusage before, after;

    handle_open(&s, path, LDG_ROLE_SOURCE, 0);
    look();
    wait_ms(-1, 20);
    getrusage(RUSAGE_SELF, &before);
    int64_t start = cpu_us();
    wait_ms(-1, 400);
    assert_true(cpu_us() - start < tst_slow(100000)); /* it sleeps, and does not spin */
    getrusage(RUSAGE_SELF, &after);
    assert_true(after.ru_nvcsw - before.ru_nvcsw < 60); /* the looks after opening end */

    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 100; i++) {
            FILE *f = fopen(tst_path(env, i % 2 ? "source.db2" : "other.db-wal"), "w");
            if (f != NULL) {
                fputs("x", f);
                fclose(f);
            }
        }
        _exit(0);
    }
    start = tst_mono_us();
    wait_ms(-1, 100);
    assert_true(tst_mono_us() - start >= 99000);
    waitpid(pid, NULL, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_t7_full),
        TEST(test_t7_normal),
        TEST(test_t7_off),
        TEST(test_commit_between_read_and_wait),
        TEST(test_rollback_journal),
        TEST(test_wal_comes_and_goes),
        TEST(test_long_transaction),
        TEST(test_wake_and_timeout),
        TEST(test_replaced_file_ends_the_wait),
        TEST(test_idle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
