/* What is known to be on the sink's disk. */
#include "sink.h"

#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

static struct sink k;

static int setup(void **state)
{
    int rc = tst_setup(state);

    if (rc == 0)
        sink_open(&k, tst_path(*state, "sink.db"), LEDGER_MUTATION_LOG_OFF);
    return rc;
}

static int teardown(void **state)
{
    sink_close(&k);
    return tst_teardown(state);
}

static void apply_one(void)
{
    sink_begin(&k);
    sink_append(&k, "s", k.position + 1, "{}", "");
    sink_apply(&k);
}

static bool wait_durable(uint64_t count)
{
    TST_AWAIT(SINK->sink->durable_count(&k.s) >= count);
    return SINK->sink->durable_count(&k.s) == count;
}

static void test_follows_commits(void **state)
{
    assert_int_equal(SINK->sink->durable_count(&k.s), 0);
    for (uint64_t i = 1; i <= 30; i++) {
        apply_one();
        assert_true(SINK->sink->durable_count(&k.s) <= i);
        if (i % 10 == 0)
            assert_true(wait_durable(i));
    }
    assert_int_equal(k.s.applied_count, 30);
}

static size_t open_files(const char *name)
{
    DIR *dir = opendir("/proc/self/fd");
    char link[600], target[600];
    struct dirent *item;
    size_t count = 0;

    assert_non_null(dir);
    while ((item = readdir(dir)) != NULL) {
        snprintf(link, sizeof(link), "/proc/self/fd/%s", item->d_name);
        ssize_t size = readlink(link, target, sizeof(target) - 1);
        if (size > 0) {
            target[size] = '\0';
            count += strcmp(target, name) == 0;
        }
    }
    closedir(dir);
    return count;
}

/* Only the WAL: a second descriptor of the database file would cost this process its locks. */
static void test_opens_only_the_wal(void **state)
{
    char wal[600];

    snprintf(wal, sizeof(wal), "%s-wal", k.s.path);
    apply_one();
    sink_is(&k, "SELECT count(*) FROM t", "1");
    assert_true(wait_durable(1));
    assert_int_equal(open_files(wal), 3); /* the sink's, the test's, the thread's */
    assert_int_equal(open_files(k.s.path), 2);
}

static void test_checkpoint_starts_the_wal_again(void **state)
{
    for (uint64_t i = 1; i <= 5; i++) {
        apply_one();
        assert_true(wait_durable(i));
        tst_exec(k.db, "PRAGMA wal_checkpoint(TRUNCATE)");
    }
}

/* Somebody took the WAL away: nothing can be promised any more, nor is anything added. */
static void test_wal_removed(void **state)
{
    char wal[600];
    ledger_error err = { 0 };

    apply_one();
    assert_true(wait_durable(1));
    snprintf(wal, sizeof(wal), "%s-wal", k.s.path);
    assert_int_equal(unlink(wal), 0);
    sink_begin(&k);
    sink_append(&k, "s", 2, "{}", "");
    tst_fails(sink_try(&k, &err), LEDGER_ERR_CONNECT, &err);
    k.s.applied_count++; /* as if it had been taken away in a commit */
    ldg_sqlite_durable_committed(&k.s);
    tst_sleep_us(60000);
    assert_int_equal(SINK->sink->durable_count(&k.s), 1);
}

/* Another database has the name now: syncing its WAL would prove nothing about our commits. */
static void test_database_replaced(void **state)
{
    char wal[600], other_wal[600];
    const char *other = tst_path(*state, "other.db");
    sqlite3 *db = raw_open(other);

    apply_one();
    assert_true(wait_durable(1));
    tst_exec(db, "PRAGMA journal_mode = wal; CREATE TABLE a(b)");
    snprintf(wal, sizeof(wal), "%s-wal", k.s.path);
    snprintf(other_wal, sizeof(other_wal), "%s-wal", other);
    assert_int_equal(rename(other_wal, wal), 0);
    assert_int_equal(rename(other, k.s.path), 0);
    k.s.applied_count++; /* as if a commit had been under way */
    ldg_sqlite_durable_committed(&k.s);
    tst_sleep_us(60000);
    assert_int_equal(SINK->sink->durable_count(&k.s), 1);
    sqlite3_close(db);
}

static void test_rollback_journal(void **state)
{
    struct tst_env *env = *state;
    sqlite3 *db;

    sink_close(&k);
    db = raw_open(tst_path(env, "journal.db"));
    tst_exec(db, "CREATE TABLE other(a)"); /* not empty: keeps its journal mode */
    sqlite3_close(db);
    sink_open(&k, tst_path(env, "journal.db"), LEDGER_MUTATION_LOG_OFF);
    sink_is(&k, "PRAGMA journal_mode", "delete");
    apply_one();
    assert_true(wait_durable(1));
}

static void test_without_a_file(void **state)
{
    sink_close(&k);
    memset(&k, 0, sizeof(k));
    ledger_error err = { 0 };
    const struct ldg_open open = { .path = ":memory:",
                                   .table = "t",
                                   .log_table = "t_mutations",
                                   .log = LEDGER_MUTATION_LOG_OFF,
                                   .flags = LEDGER_STORE_CREATE,
                                   .role = LDG_ROLE_SINK };
    ldg_arena_init(&k.arena, 0);
    tst_ok(SINK->open(&k.s, &open, &err), &err);
    tst_ok(SINK->state->cursor_get(&k.s, "default", true, &k.cursor, &err), &err);
    k.origin = 1;
    apply_one();
    assert_int_equal(SINK->sink->durable_count(&k.s), 1);
}

static void test_stops_at_once(void **state)
{
    struct tst_env *env = *state;

    int64_t start, us, best = INT64_MAX;

    for (int i = 0; i < 20; i++) {
        apply_one();
        start = tst_mono_us();
        sink_close(&k);
        us = tst_mono_us() - start;
        best = us < best ? us : best;
        sink_open(&k, tst_path(env, "sink.db"), LEDGER_MUTATION_LOG_OFF);
        k.position = i + 1;
    }
    assert_true(best < tst_slow(500000));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_follows_commits),
        TEST(test_opens_only_the_wal),
        TEST(test_checkpoint_starts_the_wal_again),
        TEST(test_wal_removed),
        TEST(test_database_replaced),
        TEST(test_rollback_journal),
        TEST(test_without_a_file),
        TEST(test_stops_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
