/* Which file a name leads to: links in the path, second names, files that were put in the place of
 * others, names that are no good. */
#include "handle.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static int64_t mono_offset_us;

static int64_t later(void)
{
    return tst_mono_us() + mono_offset_us;
}

static int setup(void **state)
{
    mono_offset_us = 0;
    ldg_clock_set_mono(later);
    return tst_setup(state);
}

static int teardown(void **state)
{
    ldg_clock_set_mono(NULL);
    return tst_teardown(state);
}

static const char *joined(const char *folder, const char *name)
{
    static char out[4][700];
    static unsigned next;
    char *path = out[next++ % 4];
    snprintf(path, sizeof(out[0]), "%s/%s", folder, name);
    return path;
}

static void make(const char *path)
{
    struct ldg_sqlite s;
    handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_CREATE);
    handle_close(&s);
}

static ledger_rc append_try(struct ldg_sqlite *s, ledger_error *err)
{
    const ledger_append_input input = {
        .payload = { "1", 1 }, .order_key = "", .dedup_key = "", .schema_version = 1
    };
    ledger_ids ids = { 0 };
    ledger_rc rc = ldg_backend_sqlite.store->append(s, "s", &input, 1, &ids, err);
    ledger_ids_destroy(&ids);
    return rc;
}

static const enum ldg_role roles[] = { LDG_ROLE_USER, LDG_ROLE_SOURCE, LDG_ROLE_SINK,
                                       LDG_ROLE_STATE };

/* --- second names ---------------------------------------------------------------------------- */

static void test_hard_link(void **state)
{
    struct tst_env *env = *state;
    const char *path = tst_path(env, "a.db"), *second = tst_path(env, "second.db");
    struct ldg_sqlite s;
    ledger_error err;

    make(path);
    assert_int_equal(link(path, second), 0);
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        for (int flags = 0; flags <= LEDGER_STORE_READ_ONLY; flags += LEDGER_STORE_READ_ONLY) {
            tst_fails(handle_try(&s, i % 2 ? second : path, roles[i], (uint32_t)flags, &err),
                      LEDGER_ERR_UNSUPPORTED, &err);
            assert_non_null(strstr(err.message, "hard link"));
            assert_non_null(strstr(err.message, "-samefile"));
            /* A bridge had it open when it was made: the second name may go again. */
            assert_int_equal(err.flags,
                             roles[i] == LDG_ROLE_USER ? LEDGER_ERROR_FATAL : LEDGER_ERROR_RETRY);
        }
    }
    tst_fails(handle_try(&s, path, LDG_ROLE_USER, LEDGER_STORE_CREATE, &err),
              LEDGER_ERR_UNSUPPORTED, &err);
    /* A rollback journal lies beside the name too. */
    sqlite3 *db = raw_open(path);
    tst_exec(db, "PRAGMA journal_mode=DELETE");
    tst_fails(handle_try(&s, path, LDG_ROLE_USER, 0, &err), LEDGER_ERR_UNSUPPORTED, &err);

    /* So it is with a connection of the caller's. */
    ledger_store_options o;
    ledger_store *store = NULL;
    ledger_store_options_defaults(&o);
    o.connection = db;
    tst_fails(ledger_store_open(&o, &store, &err), LEDGER_ERR_UNSUPPORTED, &err);
    sqlite3_close(db);

    assert_int_equal(unlink(second), 0);
    handle_open(&s, path, LDG_ROLE_USER, 0);
    handle_close(&s);
    /* A symbolic link is no second name: SQLite goes to the file that it leads to. */
    assert_int_equal(symlink(path, second), 0);
    handle_open(&s, second, LDG_ROLE_USER, 0);
    assert_string_equal(s.path, path);
    handle_close(&s);
}

static void test_hard_link_while_open(void **state)
{
    struct tst_env *env = *state;
    const char *path = tst_path(env, "a.db"), *second = tst_path(env, "second.db");
    struct ldg_sqlite s;
    ledger_error err = { 0 };

    make(path);
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        handle_open(&s, path, roles[i], 0);
        assert_int_equal(link(path, second), 0);
        tst_fails(ldg_sqlite_file_verify(&s, true, &err), LEDGER_ERR_UNSUPPORTED, &err);
        assert_int_equal(err.flags,
                         roles[i] == LDG_ROLE_USER ? LEDGER_ERROR_FATAL : LEDGER_ERROR_RETRY);
        tst_fails(ldg_backend_sqlite.health(&s, &err), LEDGER_ERR_UNSUPPORTED, &err);
        if (roles[i] != LDG_ROLE_SOURCE) {
            mono_offset_us += 2000000;
            tst_fails(append_try(&s, &err), LEDGER_ERR_UNSUPPORTED, &err);
        }
        assert_int_equal(unlink(second), 0);
        tst_ok(ldg_sqlite_file_verify(&s, true, &err), &err);
        handle_close(&s);
    }
}

static void test_mounted_alone(void **state)
{
    struct tst_env *env = *state;
    const char *path = tst_path(env, "a.db"), *box = tst_path(env, "box\tits own.db");
    struct ldg_sqlite s;
    ledger_error err;

    make(path);
    FILE *f = fopen(box, "w");
    assert_non_null(f);
    fclose(f);
    if (mount(path, box, NULL, MS_BIND, NULL) != 0) {
        print_message("SKIP: this user may not mount: %s\n", strerror(errno));
        skip();
    }
    ledger_rc rc = handle_try(&s, box, LDG_ROLE_SOURCE, 0, &err);
    bool listed = ldg_sqlite_file_in_mountinfo(box), other = ldg_sqlite_file_in_mountinfo(path);
    assert_int_equal(umount(box), 0);
    tst_fails(rc, LEDGER_ERR_UNSUPPORTED, &err);
    assert_non_null(strstr(err.message, "mounted alone"));
    assert_non_null(strstr(err.message, "folder"));
    assert_true(listed); /* what kernels without the attribute are asked */
    assert_false(other);

    /* A folder that is mounted has the WAL in it. */
    const char *folder = tst_path(env, "folder");
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_int_equal(mount(env->dir, folder, NULL, MS_BIND, NULL), 0);
    rc = handle_try(&s, joined(folder, "a.db"), LDG_ROLE_USER, 0, &err);
    if (rc == LEDGER_OK)
        handle_close(&s);
    assert_int_equal(umount(folder), 0);
    tst_ok(rc, &err);
}

/* SQLite only says that it cannot open the file, or that there was an I/O error. */
static void test_disk_tells(void **state)
{
    struct tst_env *env = *state;
    const char *path = tst_path(env, "a.db"), *folder = tst_path(env, "disk");
    const int flags = MS_BIND | MS_REMOUNT | MS_RDONLY;
    char block[4096] = { 0 };
    struct ldg_sqlite s;
    ledger_error err;

    make(path);
    assert_int_equal(mkdir(folder, 0700), 0);
    if (mount(env->dir, folder, NULL, MS_BIND, NULL) != 0) {
        print_message("SKIP: this user may not mount: %s\n", strerror(errno));
        skip();
    }
    ledger_rc rc = mount(NULL, folder, NULL, flags, NULL) != 0
                       ? LEDGER_OK
                       : handle_try(&s, joined(folder, "a.db"), LDG_ROLE_SINK, 0, &err);
    assert_int_equal(umount(folder), 0);
    tst_fails(rc, LEDGER_ERR_PERMISSION, &err);
    assert_non_null(strstr(err.message, "read-only"));

    assert_int_equal(mount("tmpfs", folder, "tmpfs", 0, "size=256k"), 0);
    const char *full = joined(folder, "a.db");
    make(full);
    int fd = open(joined(folder, "fill"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (write(fd, block, sizeof(block)) == (ssize_t)sizeof(block))
        ;
    close(fd);
    rc = handle_try(&s, full, LDG_ROLE_SINK, 0, &err);
    assert_int_equal(umount(folder), 0);
    tst_fails(rc, LEDGER_ERR_FULL, &err);
    assert_non_null(strstr(err.message, "no space left"));
}

/* --- the name and what is open --------------------------------------------------------------- */

/* current -> one, later -> two; each with its own copy of the file. */
static void test_link_is_repointed(void **state)
{
    struct tst_env *env = *state;
    const char *one = tst_path(env, "one"), *two = tst_path(env, "two");
    const char *current = tst_path(env, "current");
    struct ldg_sqlite s;
    ledger_error err = { 0 };

    assert_int_equal(mkdir(one, 0700) | mkdir(two, 0700), 0);
    make(joined(one, "a.db"));
    make(joined(two, "a.db"));
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        (void)unlink(current);
        assert_int_equal(symlink("one", current), 0);
        handle_open(&s, joined(current, "a.db"), roles[i], 0);
        assert_string_equal(s.path, joined(one, "a.db"));
        assert_string_equal(s.given, joined(current, "a.db"));
        tst_ok(ldg_sqlite_file_verify(&s, true, &err), &err);
        assert_int_equal(unlink(current), 0);
        tst_fails(ldg_sqlite_file_verify(&s, true, &err), LEDGER_ERR_CONNECT, &err);
        assert_int_equal(symlink("two", current), 0);
        tst_fails(ldg_sqlite_file_verify(&s, true, &err), LEDGER_ERR_CONNECT, &err);
        assert_non_null(strstr(err.message, joined(current, "a.db")));
        assert_non_null(strstr(err.message, "another file"));
        assert_int_equal(err.flags,
                         roles[i] == LDG_ROLE_USER ? LEDGER_ERROR_FATAL : LEDGER_ERROR_RETRY);
        handle_close(&s);
    }
    /* By the name as given another handle finds the new file. */
    handle_open(&s, joined(current, "a.db"), LDG_ROLE_SINK, 0);
    assert_string_equal(s.path, joined(two, "a.db"));
    handle_close(&s);
}

/* A handle of a program: what it would write into a file without a name is lost. */
static void test_writes_and_reads_end(void **state)
{
    struct tst_env *env = *state;
    const char *path = tst_path(env, "a.db"), *aside = tst_path(env, "aside.db");
    struct ldg_sqlite s;
    ledger_error err = { 0 };

    make(path);
    handle_open(&s, path, LDG_ROLE_USER, 0);
    tst_ok(append_try(&s, &err), &err);
    assert_int_equal(rename(path, aside), 0);
    tst_ok(append_try(&s, &err), &err); /* once a second is often enough */
    mono_offset_us += 2000000;
    tst_fails(append_try(&s, &err), LEDGER_ERR_CONNECT, &err);
    assert_non_null(strstr(err.message, "opened again"));
    mono_offset_us += 2000000;
    struct ldg_arena arena;
    ledger_entry *entries = NULL;
    size_t count = 0;
    ldg_arena_init(&arena, 4096);
    tst_fails(ldg_backend_sqlite.store->read(&s, "s", NULL, NULL, &arena, &entries, &count, &err),
              LEDGER_ERR_CONNECT, &err);
    assert_int_equal(rename(aside, path), 0);
    tst_ok(ldg_backend_sqlite.store->read(&s, "s", NULL, NULL, &arena, &entries, &count, &err),
           &err);
    assert_int_equal(count, 2);
    ldg_arena_fini(&arena);
    handle_close(&s);
}

/* A backup put back into the same file, its WAL taken away: SQLite goes on with what it has mapped.
 */
static void test_wal_taken_away(void **state)
{
    struct tst_env *env = *state;
    const char *path = tst_path(env, "a.db");
    char wal[700];
    struct ldg_sqlite s, other;
    ledger_error err = { 0 };

    make(path);
    snprintf(wal, sizeof(wal), "%s-wal", path);
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        handle_open(&s, path, roles[i], 0);
        tst_ok(ldg_sqlite_file_verify(&s, true, &err), &err);
        /* Another one that comes and goes leaves the WAL where it is. */
        make(path);
        tst_ok(ldg_sqlite_file_verify(&s, true, &err), &err);
        assert_int_equal(unlink(wal), 0);
        tst_fails(ldg_sqlite_file_verify(&s, true, &err), LEDGER_ERR_CONNECT, &err);
        assert_non_null(strstr(err.message, "-wal was deleted or replaced"));
        /* Another handle of this process would look into a new WAL by the map of the old one. */
        tst_fails(handle_try(&other, path, roles[i], 0, &err), LEDGER_ERR_CONNECT, &err);
        assert_int_equal(err.flags, LEDGER_ERROR_FATAL);
        assert_non_null(strstr(err.message, "start this process anew"));
        handle_close(&s);
    }
    /* In a database without a WAL there is none to look for. */
    handle_open(&s, path, LDG_ROLE_USER, 0);
    tst_exec(s.db, "PRAGMA journal_mode=DELETE");
    handle_close(&s);
    handle_open(&s, path, LDG_ROLE_SINK, 0);
    handle_open(&other, path, LDG_ROLE_USER, 0);
    tst_ok(append_try(&other, &err), &err);
    tst_ok(ldg_sqlite_file_verify(&s, true, &err), &err);
    handle_close(&other);
    handle_close(&s);
}

static void test_relative_name_and_chdir(void **state)
{
    struct tst_env *env = *state;
    ledger_error err = { 0 };
    ledger_store *store = NULL, *again = NULL;
    char here[700];

    assert_non_null(getcwd(here, sizeof(here)));
    assert_int_equal(chdir(env->dir), 0);
    tst_ok(store_try("sqlite:./a.db", NULL, LEDGER_STORE_CREATE, &store, &err), &err);
    assert_int_equal(chdir("/"), 0);
    tst_append(store, "s", "1", NULL, NULL);
    tst_ok(ledger_store_health(store, &err), &err);
    tst_ok(ldg_store_reopen(store, LDG_ROLE_SOURCE, NULL, &again, &err), &err);
    assert_int_equal(tst_count(again, "s"), 1);
    ledger_store_close(&again);
    ledger_store_close(&store);
    assert_int_equal(chdir(here), 0);
}

/* A file that is being copied into its place: a bridge tries again. */
static void test_file_in_the_making(void **state)
{
    struct tst_env *env = *state;
    const char *path = tst_path(env, "a.db");
    const struct timespec long_ago[2] = { { .tv_sec = 1000000000 }, { .tv_sec = 1000000000 } };
    struct ldg_sqlite s;
    ledger_error err;

    for (int empty = 0; empty < 2; empty++) {
        const ledger_rc rc = empty ? LEDGER_ERR_SCHEMA : LEDGER_ERR_CORRUPT;
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        for (int i = 0; i < 100 && !empty; i++)
            fputs("no database ", f);
        fclose(f);
        tst_fails(handle_try(&s, path, LDG_ROLE_SINK, 0, &err), rc, &err);
        assert_int_equal(err.flags, LEDGER_ERROR_RETRY);
        tst_fails(handle_try(&s, path, LDG_ROLE_USER, 0, &err), rc, &err);
        assert_int_equal(err.flags, LEDGER_ERROR_FATAL);
        assert_int_equal(utimensat(AT_FDCWD, path, long_ago, 0), 0);
        tst_fails(handle_try(&s, path, LDG_ROLE_SOURCE, 0, &err), rc, &err);
        assert_int_equal(err.flags, LEDGER_ERROR_FATAL);
    }
}

/* A link to a file that is not there yet: its WAL lies beside the file, and wakes who waits. */
static void test_dangling_link(void **state)
{
    struct tst_env *env = *state;
    struct ldg_sqlite s;

    assert_int_equal(mkdir(tst_path(env, "far"), 0700), 0);
    assert_int_equal(symlink("far/a.db", tst_path(env, "a.db")), 0);
    handle_open(&s, tst_path(env, "a.db"), LDG_ROLE_USER, LEDGER_STORE_CREATE);
    assert_string_equal(s.path, joined(tst_path(env, "far"), "a.db"));
    assert_string_equal(s.given, tst_path(env, "a.db"));
    handle_close(&s);
    assert_true(tst_file_exists(joined(tst_path(env, "far"), "a.db")));
}

/* --- names ----------------------------------------------------------------------------------- */

static void test_odd_names(void **state)
{
    static const char *const good[] = { "with space.db", "per%20cent.db", "what?mode=ro.db",
                                        "file:a.db",     "h#sh.db",       "\xc3\xa4.db" };
    static const char *const control[] = { "a.db\r", "a\nb.db", "\x1b[1m.db", "a\x7f.db" };
    static const char *const visible[] = { "a.db\\r", "a\\nb.db", "\\x1b[1m.db", "a\\x7f.db" };
    struct tst_env *env = *state;
    struct ldg_sqlite s;
    ledger_error err;

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        make(tst_path(env, good[i]));
        assert_true(tst_file_exists(tst_path(env, good[i])));
    }
    for (size_t i = 0; i < sizeof(control) / sizeof(control[0]); i++) {
        tst_fails(
            handle_try(&s, tst_path(env, control[i]), LDG_ROLE_USER, LEDGER_STORE_CREATE, &err),
            LEDGER_ERR_INVALID, &err);
        assert_non_null(strstr(err.message, visible[i]));
        assert_non_null(strstr(err.message, "control character"));
        assert_false(tst_file_exists(tst_path(env, control[i])));
        tst_fails(handle_try(&s, tst_path(env, control[i]), LDG_ROLE_USER, 0, &err),
                  LEDGER_ERR_SCHEMA, &err);
        assert_non_null(strstr(err.message, visible[i]));
    }
    /* One that is there already is somebody's own choice. */
    make(tst_path(env, "a.db"));
    assert_int_equal(rename(tst_path(env, "a.db"), tst_path(env, "a.db\r")), 0);
    handle_open(&s, tst_path(env, "a.db\r"), LDG_ROLE_USER, 0);
    handle_close(&s);

    tst_fails(handle_try(&s, "/dev/null", LDG_ROLE_USER, LEDGER_STORE_CREATE, &err),
              LEDGER_ERR_PERMISSION, &err);
    tst_fails(handle_try(&s, "", LDG_ROLE_USER, LEDGER_STORE_CREATE, &err), LEDGER_ERR_INVALID,
              &err);
}

/* Of a long name a message keeps the end, and what to do. */
static void test_long_name(void **state)
{
    struct tst_env *env = *state;
    char path[2500];
    struct ldg_sqlite s;
    ledger_error err;
    size_t size = (size_t)snprintf(path, sizeof(path), "%s", env->dir);

    while (size < 2000)
        size += (size_t)snprintf(path + size, sizeof(path) - size, "/./././.");
    snprintf(path + size, sizeof(path) - size, "/end.db");
    tst_fails(handle_try(&s, path, LDG_ROLE_SINK, 0, &err), LEDGER_ERR_CONNECT, &err);
    assert_non_null(strstr(err.message, "end.db; it was there"));
    assert_non_null(strstr(err.message, "put it back"));
}

/* --- check ----------------------------------------------------------------------------------- */

static char findings[4096];

static void keep(void *ctx, ledger_severity severity, const char *subject, const char *text)
{
    size_t used = strlen(findings);
    (void)ctx;
    snprintf(findings + used, sizeof(findings) - used, "%d %s: %s\n", (int)severity, subject, text);
}

static void test_check(void **state)
{
    struct tst_env *env = *state;
    const char *path = tst_path(env, "a.db");
    struct ldg_sqlite s;
    char wanted[700];

    make(path);
    handle_open(&s, path, LDG_ROLE_USER, LEDGER_STORE_READ_ONLY);
    findings[0] = '\0';
    ldg_sqlite_file_check(&s, keep, NULL);
    snprintf(wanted, sizeof(wanted), "%d file: %s\n", (int)LEDGER_FINDING_OK, path);
    assert_memory_equal(findings, wanted, strlen(wanted));
    assert_int_equal(link(path, tst_path(env, "b.db")), 0);
    findings[0] = '\0';
    ldg_sqlite_file_check(&s, keep, NULL);
    snprintf(wanted, sizeof(wanted), "%d file: %s has a second name", (int)LEDGER_FINDING_ERROR,
             path);
    assert_memory_equal(findings, wanted, strlen(wanted));
    handle_close(&s);

    assert_string_equal(ldg_sqlite_file_remote(0x6969), "NFS");
    assert_string_equal(ldg_sqlite_file_remote(0x01021997), "9p");
    assert_non_null(strstr(ldg_sqlite_file_remote(0x65735546), "virtiofs"));
    assert_null(ldg_sqlite_file_remote(0xef53));     /* ext4 */
    assert_null(ldg_sqlite_file_remote(0x01021994)); /* tmpfs */
    assert_null(ldg_sqlite_file_remote(0x794c7630)); /* an overlay */
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_hard_link),
        TEST(test_hard_link_while_open),
        TEST(test_mounted_alone),
        TEST(test_disk_tells),
        TEST(test_link_is_repointed),
        TEST(test_writes_and_reads_end),
        TEST(test_wal_taken_away),
        TEST(test_relative_name_and_chdir),
        TEST(test_file_in_the_making),
        TEST(test_dangling_link),
        TEST(test_odd_names),
        TEST(test_long_name),
        TEST(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
