/* Folders, stores and bridges for tests: see fixtures.h.
 *
 * Memory stores live in the process under a name, so their names carry the process id and a serial
 * number: no two tests ever meet in one. */
#include "fixtures.h"

#include "backend/memory/memory.h"
#include "ldg_config.h"
#include "memory_faults.h"
#if LDG_WITH_POSTGRES
#include "pg_server.h"
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <stdlib.h>

static char current_pair[64];
static uint64_t last_seed; /* 0: the test has not asked for one */
static unsigned env_serial;

const char *tst_kind_name(enum tst_kind kind)
{
    static const char *const names[] = { "memory", "sqlite", "postgres", "sqlite without log",
                                         "postgres without log" };
    return names[kind];
}

bool tst_kind_here(int kind)
{
    static bool told;
    const char *why = "this build has no PostgreSQL";
    bool here = !tst_is_postgres(kind);
#if LDG_WITH_POSTGRES
    here = here || tst_pg_here(&why);
#endif
    if (!here) {
        const char *ci = getenv("CI");
        if (ci != NULL && strcmp(ci, "true") == 0)
            tst_fail("%s", why);
        if (!told)
            print_message("left out: all with PostgreSQL: %s\n", why);
        told = true;
    }
    return here;
}

/* LEDGER_TEST_PAIR="postgres -> sqlite": only that one, for whoever looks for a fault. */
static bool is_wanted(void)
{
    const char *wanted = getenv("LEDGER_TEST_PAIR");
    return wanted == NULL || wanted[0] == '\0' ||
           (strncmp(current_pair + 2, wanted, strlen(wanted)) == 0 &&
            current_pair[2 + strlen(wanted)] == ']');
}

bool tst_note_pair(int source_kind, int sink_kind)
{
    snprintf(current_pair, sizeof current_pair, " [%s -> %s]",
             tst_kind_name((enum tst_kind)source_kind), tst_kind_name((enum tst_kind)sink_kind));
    return is_wanted() && tst_kind_here(source_kind) && tst_kind_here(sink_kind);
}

static bool sanitized(const char *how)
{
    const char *text = getenv("LEDGER_TEST_SANITIZED");
    return text != NULL && text[0] != '\0' && (how == NULL || strcmp(text, how) == 0);
}

bool tst_pair_is_telling(int source_kind, int sink_kind)
{
    const bool few = sanitized(NULL);
    if (source_kind == TST_POSTGRES)
        return sink_kind == TST_POSTGRES || (sink_kind == TST_SQLITE && !few);
    if (!tst_is_postgres(sink_kind))
        return true;
    return source_kind == TST_SQLITE && (sink_kind == TST_PLAIN_POSTGRES || !few);
}

bool tst_pairs_done(void)
{
    current_pair[0] = '\0';
    return false;
}

void tst_fail_at(const char *file, int line, const char *fmt, ...)
{
    char text[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    print_error("%s:%d:%s %s\n", file, line, current_pair, text);
    if (last_seed != 0)
        print_error("again with LEDGER_TEST_SEED=%" PRIu64 "\n", last_seed);
#if LDG_WITH_POSTGRES
    tst_pg_show_logs();
#endif
    _fail(file, line);
    abort(); /* _fail() does not come back */
}

void tst_ok_at(ledger_rc rc, const ledger_error *err, const char *text, const char *file, int line)
{
    if (rc != LEDGER_OK)
        tst_fail_at(file, line, "%s gave %s: %s", text, ledger_rc_name(rc),
                    err != NULL ? err->message : "");
}

void tst_fails_at(ledger_rc rc, ledger_rc code, const ledger_error *err, const char *text,
                  const char *file, int line)
{
    if (rc != code)
        tst_fail_at(file, line, "%s gave %s instead of %s: %s", text, ledger_rc_name(rc),
                    ledger_rc_name(code), err != NULL && rc != LEDGER_OK ? err->message : "");
    if (err != NULL && err->code != code)
        tst_fail_at(file, line, "%s: err->code is %s instead of %s", text,
                    ledger_rc_name(err->code), ledger_rc_name(code));
    if (err != NULL && err->message[0] == '\0')
        tst_fail_at(file, line, "%s: no message with %s", text, ledger_rc_name(code));
}

/* --- the folder ---------------------------------------------------------------------------- */

static void remove_content(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *item;
    while (d != NULL && (item = readdir(d)) != NULL) {
        char path[1024];
        struct stat st;
        if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, item->d_name);
        if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
            (void)chmod(path, 0700);
            remove_content(path);
            (void)rmdir(path);
        } else {
            (void)unlink(path);
        }
    }
    if (d != NULL)
        closedir(d);
}

int tst_setup(void **state)
{
    struct tst_env *env = calloc(1, sizeof *env);
    const char *tmp = getenv("TMPDIR");
    if (env == NULL)
        return -1;
    snprintf(env->dir, sizeof env->dir, "%s/ledger-test-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(env->dir) == NULL) {
        free(env);
        return -1;
    }
    env_serial++;
    current_pair[0] = '\0';
    last_seed = 0;
    *state = env;
    return 0;
}

static void close_all(struct tst_env *env)
{
    for (size_t i = env->store_count; i > 0; i--) {
        const char *url = ledger_store_url(env->stores[i - 1]);
        if (strncmp(url, "memory:", 7) == 0)
            ldg_memory_faults_clear(url + 7);
        ledger_store_close(&env->stores[i - 1]);
    }
    env->store_count = 0;
#if LDG_WITH_POSTGRES
    tst_pg_forget();
#endif
}

int tst_teardown(void **state)
{
    struct tst_env *env = *state;
    if (current_pair[0] != '\0') /* it ended in the middle */
        print_error("with the pair%s and LEDGER_TEST_SEED=%" PRIu64 "\n", current_pair, last_seed);
    close_all(env);
    remove_content(env->dir);
    (void)rmdir(env->dir);
    free(env);
    *state = NULL;
    current_pair[0] = '\0';
    return 0;
}

void tst_env_reset(struct tst_env *env)
{
    close_all(env);
    remove_content(env->dir);
    env_serial++;
}

const char *tst_path(struct tst_env *env, const char *file)
{
    static char paths[4][600];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", env->dir, file);
    return path;
}

const char *tst_url(struct tst_env *env, enum tst_kind kind, const char *name)
{
    static char url[900];
    if (tst_is_sqlite(kind))
        snprintf(url, sizeof url, "sqlite:%s/%s.db", env->dir, name);
#if LDG_WITH_POSTGRES
    else if (tst_is_postgres(kind)) {
        char schema[64];
        snprintf(schema, sizeof schema, "e%u_%s", env_serial, name);
        snprintf(url, sizeof url, "%s", tst_pg_schema_url(tst_pg_shared(), schema));
    }
#endif
    else
        snprintf(url, sizeof url, "memory:%d-%u-%s", (int)getpid(), env_serial, name);
    return url;
}

/* --- stores -------------------------------------------------------------------------------- */

ledger_store *tst_open_with(struct tst_env *env, enum tst_kind kind, const char *name,
                            const ledger_store_options *options)
{
    ledger_store_options o = *options;
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    if (o.url == NULL && o.connection == NULL)
        o.url = tst_url(env, kind, name);
    tst_ok(ledger_store_open(&o, &store, &err), &err);
    assert_non_null(store);
    assert_true(env->store_count < TST_STORES_MAX);
    env->stores[env->store_count++] = store;
    return store;
}

ledger_store *tst_open(struct tst_env *env, enum tst_kind kind, const char *name)
{
    ledger_store_options o;
    ledger_store_options_defaults(&o);
    o.flags = LEDGER_STORE_CREATE;
    o.log = tst_kind_has_log(kind) ? LEDGER_MUTATION_LOG_ON : LEDGER_MUTATION_LOG_OFF;
    return tst_open_with(env, kind, name, &o);
}

void tst_close(struct tst_env *env, ledger_store *store)
{
    for (size_t i = 0; i < env->store_count; i++) {
        if (env->stores[i] == store) {
            ledger_store_close(&env->stores[i]);
            assert_null(env->stores[i]);
            env->stores[i] = env->stores[--env->store_count];
            return;
        }
    }
    tst_fail("tst_close: not a store of this env");
}

int64_t tst_append(ledger_store *store, const char *stream, const char *payload,
                   const char *dedup_key, const char *tag)
{
    ledger_append_input input = { .payload = { payload, strlen(payload) },
                                  .dedup_key = dedup_key,
                                  .tags = { &tag, tag != NULL } };
    ledger_ids ids = { 0 };
    ledger_error err = { 0 };
    int64_t id = 0;
    tst_ok(ledger_store_append(store, stream, &input, 1, &ids, &err), &err);
    if (ids.count > 0)
        id = ids.items[0].number;
    ledger_ids_destroy(&ids);
    return id;
}

void tst_tag(ledger_store *store, const char *stream, int64_t id, const char *tag)
{
    ledger_error err = { 0 };
    tst_ok(ledger_store_set_tags(store, stream, (ledger_id){ .number = id },
                                 (ledger_list){ &tag, tag != NULL }, &err),
           &err);
}

void tst_annotate(ledger_store *store, const char *stream, int64_t id, const char *key,
                  const char *value)
{
    ledger_error err = { 0 };
    ledger_pair pair = { key, value };
    tst_ok(ledger_store_set_annotations(store, stream, (ledger_id){ .number = id },
                                        (ledger_map){ &pair, 1 }, &err),
           &err);
}

uint64_t tst_trim(ledger_store *store, const char *stream, int64_t before)
{
    ledger_error err = { 0 };
    uint64_t deleted = 0;
    tst_ok(ledger_store_trim(store, stream, (ledger_id){ .number = before }, &deleted, &err), &err);
    return deleted;
}

uint64_t tst_count(ledger_store *store, const char *stream)
{
    ledger_error err = { 0 };
    uint64_t count = 0;
    tst_ok(ledger_store_count(store, stream, &count, &err), &err);
    return count;
}

/* --- bridges ------------------------------------------------------------------------------- */

void tst_bridge_options(ledger_bridge_options *options)
{
    ledger_bridge_options_defaults(options);
    options->retry_min_ms = 1;
    options->retry_max_ms = 20;
}

ledger_bridge *tst_bridge(const ledger_store *source, const ledger_store *sink,
                          const ledger_bridge_options *options)
{
    ledger_bridge_options o;
    ledger_bridge *bridge = NULL;
    ledger_error err = { 0 };
    if (options == NULL)
        tst_bridge_options(&o);
    else
        o = *options;
    tst_ok(ledger_bridge_create(source, sink, &o, &bridge, &err), &err);
    assert_non_null(bridge);
    return bridge;
}

uint64_t tst_drain(ledger_bridge *bridge)
{
    uint64_t total = 0, read = 0;
    do {
        ledger_error err = { 0 };
        ledger_rc rc = ledger_bridge_poll(bridge, &read, &err);
        if (rc == LEDGER_ERR_FENCED) {
            read = 1;
            continue;
        }
        tst_ok_at(rc, &err, "ledger_bridge_poll", __FILE__, __LINE__);
        total += read;
    } while (read > 0);
    return total;
}

void tst_check_counters(ledger_bridge *bridge)
{
    ledger_bridge_stats s;
    ledger_bridge_get_stats(bridge, &s);
    if (s.read_count != s.apply_count + s.skip_count + s.park_count + s.dedup_count)
        tst_fail("counters: read %" PRIu64 " is not applied %" PRIu64 " + skipped %" PRIu64
                 " + parked %" PRIu64 " + deduplicated %" PRIu64,
                 s.read_count, s.apply_count, s.skip_count, s.park_count, s.dedup_count);
    if (s.skip_count !=
        s.skip_option_count + s.skip_replay_count + s.skip_missing_count + s.skip_origin_count)
        tst_fail("counters: skipped %" PRIu64 " is not the sum of its reasons", s.skip_count);
}

uint64_t tst_bridge_once(const ledger_store *source, const ledger_store *sink,
                         const ledger_bridge_options *options)
{
    ledger_bridge *bridge = tst_bridge(source, sink, options);
    uint64_t read = tst_drain(bridge);
    ledger_bridge_stats s;
    ledger_bridge_get_stats(bridge, &s);
    tst_check_counters(bridge);
    if (s.read_count != read)
        tst_fail("polls gave %" PRIu64 ", read_count says %" PRIu64, read, s.read_count);
    ledger_bridge_destroy(&bridge);
    return read;
}

/* --- behind the library's back ------------------------------------------------------------- */

sqlite3 *tst_sqlite(const ledger_store *store)
{
    const char *url = ledger_store_url(store);
    sqlite3 *db = NULL;
    if (strncmp(url, "sqlite:", 7) != 0)
        tst_fail("not a SQLite store: %s", url);
    if (sqlite3_open_v2(url + 7, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
        tst_fail("cannot open %s: %s", url, sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, 10000);
    return db;
}

static void exec_v(sqlite3 *db, const char *fmt, va_list args)
{
    char *message = NULL;
    char *sql = sqlite3_vmprintf(fmt, args);
    assert_non_null(sql);
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        tst_fail("%s: %s", sql, message);
    sqlite3_free(sql);
}

/* The first value of the first row. */
static int64_t postgres_v(const ledger_store *store, const char *fmt, va_list args)
{
    int64_t value = -1;
#if LDG_WITH_POSTGRES
    char *sql = sqlite3_vmprintf(fmt, args);
    assert_non_null(sql);
    value = tst_pg_sql_int(tst_pg_kept(ledger_store_url(store)), "%s", sql);
    sqlite3_free(sql);
#else
    tst_fail("no PostgreSQL in this build: %s", fmt);
#endif
    return value;
}

void tst_exec(sqlite3 *db, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    exec_v(db, fmt, args);
    va_end(args);
}

static bool on_postgres(const ledger_store *store)
{
    return strcmp(ledger_store_backend(store), "postgres") == 0;
}

void tst_exec_on(const ledger_store *store, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (on_postgres(store)) {
        (void)postgres_v(store, fmt, args);
    } else {
        sqlite3 *db = tst_sqlite(store);
        exec_v(db, fmt, args);
        sqlite3_close(db);
    }
    va_end(args);
}

static int64_t query_v(sqlite3 *db, const char *fmt, va_list args)
{
    sqlite3_stmt *stmt = NULL;
    int64_t value = -1;
    char *sql = sqlite3_vmprintf(fmt, args);
    assert_non_null(sql);
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
        tst_fail("%s: %s", sql, sqlite3_errmsg(db));
    if (sqlite3_step(stmt) == SQLITE_ROW)
        value = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    sqlite3_free(sql);
    return value;
}

int64_t tst_query_int(sqlite3 *db, const char *fmt, ...)
{
    int64_t value;
    va_list args;
    va_start(args, fmt);
    value = query_v(db, fmt, args);
    va_end(args);
    return value;
}

int64_t tst_query_int_on(const ledger_store *store, const char *fmt, ...)
{
    int64_t value;
    va_list args;
    va_start(args, fmt);
    if (on_postgres(store)) {
        value = postgres_v(store, fmt, args);
    } else {
        sqlite3 *db = tst_sqlite(store);
        value = query_v(db, fmt, args);
        sqlite3_close(db);
    }
    va_end(args);
    return value;
}

/* In a child: closing a descriptor of a database file would drop the POSIX locks that SQLite holds
 * on it in this process. */
void tst_copy_file(const char *from, const char *to)
{
    int status = 0;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char chunk[65536];
        ssize_t n;
        int in = open(from, O_RDONLY | O_CLOEXEC);
        int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (in < 0 || out < 0)
            _exit(1);
        while ((n = read(in, chunk, sizeof chunk)) > 0)
            if (write(out, chunk, (size_t)n) != n)
                _exit(2);
        _exit(n == 0 ? 0 : 3);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status != 0)
        tst_fail("copy %s to %s: status %d", from, to, status);
}

bool tst_file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

/* --- bad logs and refusing databases --------------------------------------------------------- */

static void log_raw_memory(const char *name, const char *log_name, const void *event, size_t size)
{
    struct ldg_mem_db *db = ldg_mem_db_ref(name, false);
    assert_non_null(db);
    pthread_mutex_lock(&db->mutex);
    struct ldg_mem_log *log = ldg_mem_log_find(db, log_name);
    struct ldg_mem_log_row *row = ldg_malloc(sizeof *row + size);
    assert_non_null(log);
    assert_non_null(row);
    row->position = ++log->last_position;
    row->seq = ++log->seq;
    row->created_at_us = ldg_clock_now_us();
    row->size = size;
    if (size > 0)
        memcpy(row->payload, event, size);
    if (log->cap < log->count + log->reserved + 1) {
        log->cap = log->count + log->reserved + 64;
        log->rows = ldg_realloc(log->rows, log->cap * sizeof(struct ldg_mem_log_row *));
        assert_non_null(log->rows);
    }
    log->rows[log->count++] = row;
    pthread_mutex_unlock(&db->mutex);
    ldg_mem_db_unref(db);
}

#if LDG_WITH_POSTGRES
static void log_raw_postgres(const ledger_store *store, const void *event, size_t size)
{
    const char *values[] = { size > 0 ? event : "" };
    const int lengths[] = { (int)size }, formats[] = { 1 };
    PGconn *conn = tst_pg_kept(ledger_store_url(store));
    char sql[256];
    PGresult *result;
    snprintf(sql, sizeof sql, "INSERT INTO %s_mutations (stream, payload) VALUES ('_', $1::bytea)",
             ledger_store_table(store));
    result = PQexecParams(conn, sql, 1, NULL, values, lengths, formats, 0);
    if (PQresultStatus(result) != PGRES_COMMAND_OK)
        tst_fail("%s: %s", sql, PQerrorMessage(conn));
    PQclear(result);
}

/* By a trigger, which ends with a SQLSTATE of the user's own (P0001). */
static void refuse_postgres(ledger_store *store, const char *stream)
{
    const char *table = ledger_store_table(store);
    tst_exec_on(store,
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN RAISE ''stream is refused''; END';"
                "DROP TRIGGER IF EXISTS refuse ON %s",
                table);
    if (stream != NULL)
        tst_exec_on(store,
                    "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON %s FOR EACH ROW"
                    " WHEN (new.stream = '%s') EXECUTE FUNCTION refuse()",
                    table, stream);
}
#endif

void tst_log_raw(ledger_store *store, const void *event, size_t size)
{
    const char *url = ledger_store_url(store);
    char log_name[128];
    snprintf(log_name, sizeof log_name, "%s_mutations", ledger_store_table(store));
    if (strncmp(url, "memory:", 7) == 0) {
        log_raw_memory(url + 7, log_name, event, size);
    }
#if LDG_WITH_POSTGRES
    else if (on_postgres(store)) {
        log_raw_postgres(store, event, size);
    }
#endif
    else {
        sqlite3 *db = tst_sqlite(store);
        sqlite3_stmt *stmt = NULL;
        char *sql =
            sqlite3_mprintf("INSERT INTO \"%w\" (stream, payload) VALUES ('_', ?1)", log_name);
        assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
        assert_int_equal(
            sqlite3_bind_blob(stmt, 1, size > 0 ? event : "", (int)size, SQLITE_STATIC), SQLITE_OK);
        if (sqlite3_step(stmt) != SQLITE_DONE)
            tst_fail("%s: %s", sql, sqlite3_errmsg(db));
        sqlite3_finalize(stmt);
        sqlite3_free(sql);
        sqlite3_close(db);
    }
}

static bool is_stream(void *refuse_ctx, const struct ldg_op *op)
{
    const char *stream = refuse_ctx;
    return op->kind != LDG_OP_TRIM && op->kind != LDG_OP_PARK && strcmp(op->stream, stream) == 0;
}

void tst_refuse(ledger_store *store, const char *stream)
{
    static char refused[64]; /* one at a time */
    const char *url = ledger_store_url(store);
    snprintf(refused, sizeof refused, "%s", stream != NULL ? stream : "");
    if (strncmp(url, "memory:", 7) == 0) {
        assert_int_equal(ldg_memory_set_refuse(url + 7, stream != NULL ? is_stream : NULL, refused),
                         LEDGER_OK);
        return;
    }
#if LDG_WITH_POSTGRES
    if (on_postgres(store)) {
        refuse_postgres(store, stream);
        return;
    }
#endif
    tst_exec_on(store,
                "DROP TRIGGER IF EXISTS refuse_insert; DROP TRIGGER IF EXISTS refuse_update");
    if (stream != NULL)
        tst_exec_on(store,
                    "CREATE TRIGGER refuse_insert BEFORE INSERT ON %s WHEN new.stream = '%s'"
                    " BEGIN SELECT raise(ABORT, 'stream is refused'); END;"
                    "CREATE TRIGGER refuse_update BEFORE UPDATE ON %s WHEN new.stream = '%s'"
                    " BEGIN SELECT raise(ABORT, 'stream is refused'); END",
                    ledger_store_table(store), stream, ledger_store_table(store), stream);
}

/* --- another process ------------------------------------------------------------------------- */

void tst_writer(struct tst_child *child, const char *verb, ...)
{
    const char *program = getenv("LEDGER_TEST_WRITER");
    const char *args[8] = { "writer", verb };
    size_t count = 2;
    int to[2], from[2];
    va_list list;
    if (program == NULL)
        tst_fail("LEDGER_TEST_WRITER is not set; run the tests through meson");
    va_start(list, verb);
    while ((args[count] = va_arg(list, const char *)) != NULL)
        count++;
    va_end(list);
    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    child->pid = fork();
    assert_true(child->pid >= 0);
    if (child->pid == 0) {
        if (dup2(to[0], 0) >= 0 && dup2(from[1], 1) >= 0)
            execv(program, (char *const *)(uintptr_t)args);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    child->in = fdopen(to[1], "w");
    child->out = fdopen(from[0], "r");
    assert_non_null(child->in);
    assert_non_null(child->out);
}

void tst_child_expect(struct tst_child *child, const char *line)
{
    char text[256];
    if (fgets(text, sizeof text, child->out) == NULL)
        tst_fail("the writer has ended instead of saying '%s'", line);
    text[strcspn(text, "\n")] = '\0';
    assert_string_equal(text, line);
}

int tst_child_end(struct tst_child *child, int signal)
{
    int status = -1;
    if (signal != 0)
        (void)kill(child->pid, signal);
    fclose(child->in);
    assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
    fclose(child->out);
    return status;
}

size_t tst_scale(size_t n)
{
    const char *text = getenv("LEDGER_TEST_SCALE");
    size_t percent = sanitized("valgrind") ? 5 : sanitized(NULL) ? 15 : 100;
    if (text != NULL && text[0] != '\0')
        percent = (size_t)strtoul(text, NULL, 10);
    n = n * percent / 100;
    return n > 0 ? n : 1;
}

size_t tst_pair_scale(size_t n)
{
    return tst_scale(strstr(current_pair, "postgres") != NULL ? (n + 3) / 4 : n);
}

int64_t tst_slow(int64_t us)
{
    return us * (sanitized("valgrind") ? 30 : sanitized(NULL) ? 6 : 1);
}

uint64_t tst_seed(void)
{
    const char *text = getenv("LEDGER_TEST_SEED");
    if (text != NULL && text[0] != '\0')
        last_seed = strtoull(text, NULL, 10);
    else
        last_seed = (uint64_t)time(NULL) * 1000 + (uint64_t)getpid() % 1000;
    return last_seed;
}

int64_t tst_mono_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void tst_sleep_us(int64_t us)
{
    struct timespec t = { us / 1000000, us % 1000000 * 1000 };
    while (nanosleep(&t, &t) != 0 && errno == EINTR)
        ;
}
