/* The files of a bridge that runs change under it: a link in the path is repointed, the file is
 * replaced, deleted or put back, it gets a second name. It follows the names it was given, and what
 * was committed by a name arrives once. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fixtures.h"
#include "oracle.h"
#include "roles.h"

static const char *in(struct tst_env *env, const char *folder, const char *file)
{
    static char out[8][700];
    static unsigned next;
    char *path = out[next++ % 8];
    snprintf(path, sizeof out[0], "%s/%s/%s", env->dir, folder, file);
    return path;
}

static ledger_store *open_at(const char *path, ledger_log_mode log)
{
    char url[800];
    ledger_store_options o;
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    ledger_store_options_defaults(&o);
    snprintf(url, sizeof url, "sqlite:%s", path);
    o.url = url;
    o.log = log;
    o.flags = LEDGER_STORE_CREATE;
    ledger_rc rc = ledger_store_open(&o, &store, &err);
    tst_ok(rc, &err);
    return store;
}

/* As a deploy does it: a whole copy, by a process of its own. */
static void copy_store(const char *from, const char *to)
{
    char command[2400];
    snprintf(command, sizeof command,
             "/usr/bin/python3 -c \"import sqlite3; d=sqlite3.connect('%s'); d.execute(\\\"VACUUM "
             "INTO '%s'\\\"); d.close(); d=sqlite3.connect('%s'); d.execute('PRAGMA "
             "journal_mode=WAL')\"",
             from, to, to);
    assert_int_equal(system(command), 0);
}

static void link_to(struct tst_env *env, const char *folder)
{
    char next[700];
    snprintf(next, sizeof next, "%s/next", env->dir);
    (void)unlink(next);
    assert_int_equal(symlink(folder, next), 0);
    assert_int_equal(rename(next, tst_path(env, "current")), 0);
}

static void append_at(const char *path, const char *payload)
{
    ledger_store *store = open_at(path, LEDGER_MUTATION_LOG_AUTO);
    tst_append(store, "s", payload, NULL, NULL);
    ledger_store_close(&store);
}

static uint64_t count_at(const char *path)
{
    ledger_store *store = open_at(path, LEDGER_MUTATION_LOG_OFF);
    uint64_t count = tst_count(store, NULL);
    ledger_store_close(&store);
    return count;
}

static bool wait_count(const char *path, uint64_t count)
{
    int64_t until = tst_mono_us() + 1000 * TST_PATIENCE_MS;
    while (count_at(path) != count && tst_mono_us() < until)
        tst_sleep_us(20000);
    return count_at(path) == count;
}

enum end { SOURCE, SINK };
enum how { REPOINTED, FOLDER_GONE, RENAMED_OVER, DELETED_AND_BACK };

/* One end goes by current/x.db; current is a link to one/, later to two/. */
static void follow(struct tst_env *env, enum end end, enum how how)
{
    ledger_bridge_options o;
    ledger_error err = { 0 };
    char source_path[700], sink_path[700], moved[700], other[700];
    assert_int_equal(mkdir(tst_path(env, "one"), 0700) | mkdir(tst_path(env, "two"), 0700), 0);
    link_to(env, "one");
    snprintf(source_path, sizeof source_path, "%s",
             end == SOURCE ? in(env, "current", "x.db") : tst_path(env, "other.db"));
    snprintf(sink_path, sizeof sink_path, "%s",
             end == SINK ? in(env, "current", "x.db") : tst_path(env, "other.db"));
    snprintf(moved, sizeof moved, "%s", in(env, "one", "x.db"));
    snprintf(other, sizeof other, "%s", in(env, "two", "x.db"));
    ledger_store *source = open_at(source_path, LEDGER_MUTATION_LOG_ON);
    ledger_store *sink = open_at(sink_path, LEDGER_MUTATION_LOG_OFF);
    tst_append(source, "s", "1", NULL, NULL);
    tst_bridge_options(&o);
    o.interval_ms = 50;
    ledger_bridge *bridge = tst_bridge(source, sink, &o);
    ledger_store_close(&source);
    ledger_store_close(&sink);
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);

    copy_store(moved, other);
    if (how == REPOINTED || how == FOLDER_GONE) {
        link_to(env, "two");
        if (how == FOLDER_GONE)
            assert_int_equal(rename(tst_path(env, "one"), tst_path(env, "gone")), 0);
    } else {
        if (how == DELETED_AND_BACK) {
            assert_int_equal(unlink(moved), 0);
            tst_sleep_us(150000);
        }
        char wal[720], shm[720];
        snprintf(wal, sizeof wal, "%s-wal", moved);
        snprintf(shm, sizeof shm, "%s-shm", moved);
        (void)unlink(wal);
        (void)unlink(shm);
        assert_int_equal(rename(other, moved), 0);
    }
    append_at(source_path, "2");
    assert_true(wait_count(sink_path, 2));
    append_at(source_path, "3");
    assert_true(wait_count(sink_path, 3));
    ledger_bridge_stop(bridge);
    ledger_bridge_destroy(&bridge);
    source = open_at(source_path, LEDGER_MUTATION_LOG_ON);
    sink = open_at(sink_path, LEDGER_MUTATION_LOG_OFF);
    tst_assert_equal(source, sink, 0);
    ledger_store_close(&source);
    ledger_store_close(&sink);
}

static void the_name_as_given_is_followed(void **state)
{
    struct tst_env *env = *state;
    for (int end = SOURCE; end <= SINK; end++)
        for (int how = REPOINTED; how <= DELETED_AND_BACK; how++, tst_env_reset(env))
            follow(env, (enum end)end, (enum how)how);
}

/* An old copy in the place of the source: the witness stops the bridge. */
static void an_old_source_stops_it(void **state)
{
    struct tst_env *env = *state;
    for (int in_place = 0; in_place < 2; in_place++, tst_env_reset(env)) {
        ledger_bridge_options o;
        ledger_error err = { 0 };
        char path[700], copy[700], wal[720];
        snprintf(path, sizeof path, "%s", tst_path(env, "source.db"));
        snprintf(copy, sizeof copy, "%s", tst_path(env, "copy.db"));
        snprintf(wal, sizeof wal, "%s-wal", path);
        ledger_store *source = open_at(path, LEDGER_MUTATION_LOG_ON);
        ledger_store *sink = tst_open(env, TST_SQLITE, "sink");
        tst_append(source, "s", "1", NULL, NULL);
        copy_store(path, copy);
        tst_append(source, "s", "2", NULL, NULL);
        tst_bridge_options(&o);
        o.interval_ms = 50;
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
        /* By another process, as it happens: this one would drop its locks. In the same file, the
         * process has to be started anew; then the witness decides. */
        char command[3600];
        snprintf(command, sizeof command, "%s %s %s && rm %s %s-shm", in_place ? "cp" : "mv", copy,
                 path, wal, path);
        assert_int_equal(system(command), 0);
        tst_fails(ledger_bridge_wait(bridge, false, TST_PATIENCE_MS, &err),
                  in_place ? LEDGER_ERR_CONNECT : LEDGER_ERR_SOURCE_REWOUND, &err);
        if (in_place)
            assert_non_null(strstr(err.message, "start this process anew"));
        ledger_bridge_destroy(&bridge);
        assert_int_equal(tst_count(sink, NULL), 2);
        ledger_store_close(&source);
    }
}

struct told {
    pthread_mutex_t mutex;
    size_t second, again;
};

static void tell(void *ctx, ledger_log_level level, const char *message, const ledger_attr *attrs,
                 size_t attr_count)
{
    struct told *told = ctx;
    pthread_mutex_lock(&told->mutex);
    for (size_t i = 0; i < attr_count; i++)
        told->second += level == LEDGER_LOG_WARN && strstr(attrs[i].value, "second name") != NULL;
    told->again += strstr(message, "works again") != NULL;
    pthread_mutex_unlock(&told->mutex);
}

static size_t told_of(struct told *told, const size_t *what)
{
    pthread_mutex_lock(&told->mutex);
    size_t n = *what;
    pthread_mutex_unlock(&told->mutex);
    return n;
}

static bool wait_told(struct told *told, const size_t *what)
{
    int64_t until = tst_mono_us() + 1000 * TST_PATIENCE_MS;
    while (told_of(told, what) == 0 && tst_mono_us() < until)
        tst_sleep_us(10000);
    return told_of(told, what) > 0;
}

/* Told once; nothing is carried while there are two, and all of it afterwards. The third end is the
 * file of a sink's cursors. */
static void a_second_name_is_told_and_waited_for(void **state)
{
    static const char *const names[] = { "source.db", "sink.db", "cursors.db" };
    struct tst_env *env = *state;
    for (int end = 0; end < 3; end++, tst_env_reset(env)) {
        struct told told = { .mutex = PTHREAD_MUTEX_INITIALIZER };
        ledger_bridge_options o;
        ledger_error err = { 0 };
        ledger_store *source = open_at(tst_path(env, "source.db"), LEDGER_MUTATION_LOG_ON);
        ledger_store *sink = open_at(tst_path(env, "sink.db"), LEDGER_MUTATION_LOG_OFF);
        char path[700], second[700];
        snprintf(path, sizeof path, "%s", tst_path(env, names[end]));
        snprintf(second, sizeof second, "%s", tst_path(env, "second.db"));
        tst_append(source, "s", "1", NULL, NULL);
        tst_bridge_options(&o);
        o.interval_ms = 20;
        o.retry_max_ms = 50;
        o.logger = (ledger_logger){ &told, tell };
        if (end == 2) {
            tst_cut(sink, TST_CUT_CURSORS);
            o.cursor_file = tst_path(env, names[end]);
        }
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
        assert_int_equal(link(path, second), 0);
        assert_true(wait_told(&told, &told.second));
        if (end != 0)
            tst_append(source, "s", "2", NULL, NULL);
        tst_fails(ledger_bridge_wait(bridge, true, 200, &err), LEDGER_ERR_TIMEOUT, &err);
        assert_int_equal(unlink(second), 0);
        assert_true(wait_told(&told, &told.again));
        if (end == 0)
            tst_append(source, "s", "2", NULL, NULL);
        tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
        assert_int_equal(told_of(&told, &told.second), 1);
        ledger_bridge_destroy(&bridge);
        assert_int_equal(tst_count(sink, NULL), 2);
        tst_assert_equal(source, sink, 0);

        /* A bridge that is made while there are two does not begin. */
        assert_int_equal(link(path, second), 0);
        ledger_bridge *late = NULL;
        tst_fails(ledger_bridge_create(source, sink, &o, &late, &err), LEDGER_ERR_UNSUPPORTED,
                  &err);
        ledger_store_close(&source);
        ledger_store_close(&sink);
    }
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(the_name_as_given_is_followed),
        T(an_old_source_stops_it),
        T(a_second_name_is_told_and_waited_for),
    };
    return cmocka_run_group_tests_name("files", tests, NULL, NULL);
}
