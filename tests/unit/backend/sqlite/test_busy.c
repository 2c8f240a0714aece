/* Waiting for the lock of a file that another process has: who may end it, and what is said. */
#include "handle.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

static ledger_error err;
static char path[256];
static pid_t holder;
static ledger_wait_answer answer;
static int told_count;
static char told[512];
static int64_t stop_us; /* by the true clock: from then on the answer is STOP; 0: never */
static int asks_left;   /* that many, and then the answer is that it was interrupted; 0: never */

static ledger_wait_answer ask(void *ctx, int64_t waited_ms)
{
    if (asks_left > 0 && --asks_left == 0)
        answer = LDG_WAIT_INTERRUPTED;
    return stop_us != 0 && ldg_clock_mono_us() >= stop_us ? LEDGER_WAIT_STOP : answer;
}

static void tell(void *ctx, const char *what)
{
    told_count++;
    (void)snprintf(told, sizeof(told), "%s", what);
}

static const ledger_wait wait_of = { .ask = ask, .waiting = tell };

static ledger_rc open_for(struct ldg_sqlite *s, int busy_timeout_ms)
{
    const struct ldg_open open = {
        .path = path,
        .table = LEDGER_DEFAULT_TABLE,
        .log_table = LEDGER_DEFAULT_TABLE "_mutations",
        .busy_timeout_ms = busy_timeout_ms,
        .wait = &wait_of,
    };
    memset(s, 0, sizeof(*s));
    return ldg_backend_sqlite.open(s, &open, &err);
}

/* A process that has the lock, until it is ended. */
static void hold(const char *begin)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    holder = fork();
    assert_true(holder >= 0);
    if (holder == 0) {
        sqlite3 *db = NULL;
        if (sqlite3_open(path, &db) == SQLITE_OK &&
            sqlite3_exec(db, begin, NULL, NULL, NULL) == SQLITE_OK && write(ready[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
}

static int setup(void **state)
{
    struct ldg_sqlite s;
    const char *folder = getenv("TMPDIR");
    (void)snprintf(path, sizeof(path), "%s/busy-%d.db", folder ? folder : "/tmp", (int)getpid());
    handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_CREATE);
    handle_close(&s);
    answer = LEDGER_WAIT_ON;
    told_count = 0;
    stop_us = 0;
    asks_left = 0;
    return 0;
}

static int teardown(void **state)
{
    static const char *const suffixes[] = { "", "-wal", "-shm", "-journal" };
    char name[300];
    if (holder > 0) {
        kill(holder, SIGKILL);
        waitpid(holder, NULL, 0);
        holder = 0;
    }
    ldg_clock_set_mono(NULL);
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
        (void)snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
        (void)unlink(name);
    }
    return 0;
}

static bool names_holder(const char *text)
{
    char name[32];
    (void)snprintf(name, sizeof(name), "process %d (", (int)holder);
    if (strstr(text, name))
        return true;
    print_message("not in \"%s\": %s\n", text, name);
    return false;
}

static ledger_rc write_one(struct ldg_sqlite *s)
{
    const ledger_append_input input = {
        .payload = { "{}", 2 }, .order_key = "", .dedup_key = "", .schema_version = 1
    };
    ledger_ids ids = { 0 };
    ledger_rc rc = ldg_sqlite_append(s, "s", &input, 1, &ids, &err);
    ledger_ids_destroy(&ids);
    return rc;
}

static void a_timeout_names_the_holder(void **state)
{
    struct ldg_sqlite s;
    tst_ok(open_for(&s, 50), &err);
    hold("BEGIN IMMEDIATE");
    assert_int_equal(write_one(&s), LEDGER_ERR_BUSY);
    assert_true(names_holder(err.message));
    assert_int_equal(told_count, 0);
    handle_close(&s);
}

static void a_reader_without_wal_is_named(void **state)
{
    struct ldg_sqlite s;
    sqlite3 *db = raw_open(path);
    assert_int_equal(sqlite3_exec(db, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    tst_ok(open_for(&s, 50), &err);
    hold("BEGIN; SELECT count(*) FROM ledger_entries");
    assert_int_equal(write_one(&s), LEDGER_ERR_BUSY);
    assert_true(names_holder(err.message));
    handle_close(&s);
}

static void ourselves_are_named(void **state)
{
    struct ldg_sqlite s;
    sqlite3 *db = raw_open(path);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    tst_ok(open_for(&s, 20), &err);
    assert_int_equal(write_one(&s), LEDGER_ERR_BUSY);
    assert_non_null(strstr(err.message, "another connection of this process"));
    sqlite3_close(db);
    handle_close(&s);
}

static void who_asks_may_end_it(void **state)
{
    static const ledger_wait_answer ends[] = { LEDGER_WAIT_ENOUGH, LEDGER_WAIT_STOP };
    struct ldg_sqlite s;
    tst_ok(open_for(&s, 600000), &err);
    hold("BEGIN IMMEDIATE");
    for (int i = 0; i < 2; i++) {
        int64_t from_us = ldg_clock_mono_us();
        answer = ends[i];
        assert_int_equal(write_one(&s), LEDGER_ERR_BUSY);
        assert_in_range(ldg_clock_mono_us() - from_us, 0, 300000000);
    }
    answer = LEDGER_WAIT_ON;
    stop_us = ldg_clock_mono_us() + 300000;
    assert_int_equal(write_one(&s), LEDGER_ERR_BUSY);
    handle_close(&s);
}

static int64_t fast_us;

/* Half a second at each look. */
static int64_t fast_clock(void)
{
    return fast_us += 500000;
}

static void a_long_wait_is_told_once(void **state)
{
    struct ldg_sqlite s;
    tst_ok(open_for(&s, 15000), &err);
    hold("BEGIN IMMEDIATE");
    ldg_clock_set_mono(fast_clock);
    assert_int_equal(write_one(&s), LEDGER_ERR_BUSY);
    assert_int_equal(told_count, 1);
    assert_true(names_holder(told));
    assert_non_null(strstr(told, path));
    ldg_clock_set_mono(NULL);
    handle_close(&s);
}

/* A statement that has no end of its own. */
static void work_hears_of_a_stop_alone(void **state)
{
    struct ldg_sqlite s;
    tst_ok(open_for(&s, 1000), &err);
    answer = LEDGER_WAIT_ENOUGH;
    stop_us = ldg_clock_mono_us() + 200000;
    assert_int_equal(ldg_sqlite_exec(&s, "counting", &err,
                                     "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM "
                                     "n) SELECT count(*) FROM n"),
                     LEDGER_ERR_CANCELLED);
    assert_true(ldg_clock_mono_us() >= stop_us);
    stop_us = 0;
    tst_ok(write_one(&s), &err);
    handle_close(&s);
}

/* --- interrupts ------------------------------------------------------------------------------ */

static void an_interrupt_ends_a_wait_and_work(void **state)
{
    struct ldg_sqlite s;
    tst_ok(open_for(&s, 600000), &err);
    hold("BEGIN IMMEDIATE");
    asks_left = 5;
    assert_int_equal(write_one(&s), LEDGER_ERR_CANCELLED);
    assert_true(names_holder(err.message));
    kill(holder, SIGKILL);
    waitpid(holder, NULL, 0);
    holder = 0;
    answer = LEDGER_WAIT_ON;
    tst_ok(write_one(&s), &err);
    asks_left = 5;
    assert_int_equal(ldg_sqlite_exec(&s, "counting", &err,
                                     "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM "
                                     "n) SELECT count(*) FROM n"),
                     LEDGER_ERR_CANCELLED);
    answer = LEDGER_WAIT_ON;
    tst_ok(write_one(&s), &err);
    handle_close(&s);
}

/* SQLite may ask when a statement has done what it does: then its failure would be a lie. */
static void what_is_done_has_not_failed(void **state)
{
    static const char begin[] = "BEGIN IMMEDIATE", save[] = "SAVEPOINT x", commit[] = "COMMIT";
    struct ldg_sqlite s;
    tst_ok(open_for(&s, 1000), &err);
    answer = LDG_WAIT_INTERRUPTED;
    for (int i = 0; i < 25000; i++) {
        tst_ok(ldg_sql_control(&s, "beginning", begin, &err), &err);
        tst_ok(ldg_sql_control(&s, "saving", save, &err), &err);
        tst_ok(ldg_sql_control(&s, "committing", commit, &err), &err);
    }
    answer = LEDGER_WAIT_ON;
    handle_close(&s);
}

/* Most often it is heard between two rows of an append: the last of them is in then. Whoever
 * commits all the same must not find it there, without its event. */
static void nothing_is_left_in_a_transaction(void **state)
{
    const struct ldg_store_role *store = ldg_backend_sqlite.store;
    static ledger_append_input inputs[1000];
    struct ldg_sqlite s;
    int heard = 0;
    for (size_t i = 0; i < 1000; i++)
        inputs[i] = (ledger_append_input){ .payload = { "{}", 2 } };
    tst_ok(open_for(&s, 1000), &err);
    for (int i = 0; i < 20; i++) {
        ledger_ids ids = { 0 };
        tst_ok(store->tx_begin(&s, &err), &err);
        asks_left = 1;
        const ledger_rc rc = store->append(&s, "s", inputs, 1000 - (size_t)i, &ids, &err);
        heard += rc == LEDGER_ERR_CANCELLED;
        answer = LEDGER_WAIT_ON;
        if (rc != LEDGER_OK)
            (void)!store->tx_commit(&s, &err);
        else
            tst_ok(store->tx_rollback(&s, &err), &err);
        ledger_ids_destroy(&ids);
        assert_int_equal(tst_query_int(s.db, "SELECT count(*) FROM ledger_entries"), 0);
    }
    assert_true(heard > 10);
    handle_close(&s);
}

static ledger_rc append_ten(ledger_store *store)
{
    ledger_append_input inputs[10];
    for (size_t i = 0; i < 10; i++)
        inputs[i] = (ledger_append_input){ .payload = { "{}", 2 } };
    return ledger_store_append(store, "s", inputs, 10, NULL, &err);
}

/* Its owner's handlers stay; of an interrupt the calls hear between rows. */
static void own_connection(void **state)
{
    ledger_store_options options;
    ledger_store *store = NULL;
    sqlite3 *db = raw_open(path);
    uint64_t count = 0;
    ledger_store_options_defaults(&options);
    options.connection = db;
    options.wait = &wait_of;
    tst_ok(ledger_store_open(&options, &store, &err), &err);
    answer = LEDGER_WAIT_STOP; /* how long it waits is its owner's to decide */
    tst_ok(append_ten(store), &err);
    answer = LEDGER_WAIT_ON;
    ledger_store_close(&store);

    struct ldg_sqlite s;
    const struct ldg_open open = { .connection = db,
                                   .table = LEDGER_DEFAULT_TABLE,
                                   .log_table = LEDGER_DEFAULT_TABLE "_mutations",
                                   .wait = &wait_of };
    const ledger_append_input input = {
        .payload = { "{}", 2 }, .order_key = "", .dedup_key = "", .schema_version = 1
    };
    const ledger_append_input inputs[] = { input, input, input };
    const ledger_read_options all = { .limit = 100, .max_bytes = SIZE_MAX };
    ledger_ids ids = { 0 };
    ledger_entry *entries;
    struct ldg_arena arena;
    size_t read = 0;
    ldg_arena_init(&arena, 0);
    memset(&s, 0, sizeof(s));
    tst_ok(ldg_backend_sqlite.open(&s, &open, &err), &err);
    asks_left = 5;
    assert_int_equal(ldg_sqlite_read(&s, "s", NULL, &all, &arena, &entries, &read, &err),
                     LEDGER_ERR_CANCELLED);
    answer = LEDGER_WAIT_ON;
    tst_ok(ldg_sqlite_read(&s, "s", NULL, &all, &arena, &entries, &read, &err), &err);
    assert_int_equal(read, 10);

    /* In its owner's transaction the call takes back what is its own. */
    assert_int_equal(sqlite3_exec(db, "BEGIN", NULL, NULL, NULL), SQLITE_OK);
    tst_ok(ldg_sqlite_append(&s, "s", inputs, 1, &ids, &err), &err);
    ledger_ids_destroy(&ids);
    asks_left = 2;
    assert_int_equal(ldg_sqlite_append(&s, "s", inputs, 3, &ids, &err), LEDGER_ERR_CANCELLED);
    assert_int_equal(asks_left, 0);
    assert_false(sqlite3_get_autocommit(db));
    assert_int_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    answer = LEDGER_WAIT_ON;
    tst_ok(ldg_sqlite_count(&s, "s", &count, &err), &err);
    assert_int_equal(count, 11);
    ldg_backend_sqlite.close(&s);
    ldg_arena_fini(&arena);
    sqlite3_close(db);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_timeout_names_the_holder),
        TEST(a_reader_without_wal_is_named),
        TEST(ourselves_are_named),
        TEST(who_asks_may_end_it),
        TEST(a_long_wait_is_told_once),
        TEST(work_hears_of_a_stop_alone),
        TEST(an_interrupt_ends_a_wait_and_work),
        TEST(what_is_done_has_not_failed),
        TEST(nothing_is_left_in_a_transaction),
        TEST(own_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
