/* See common.h. The invariant: no function returns after a failure. */
#include "common.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static char g_folder[BENCH_PATH_MAX - 64];
static pid_t g_folder_owner;

/* --- ends ------------------------------------------------------------------------------------ */

static _Atomic bool g_ending;

void bench_quiet_end(void)
{
    g_ending = true;
}

void bench_die(const char *fmt, ...)
{
    va_list args;

    while (g_ending)
        pause();
    fflush(stdout);
    fputs("bench: ", stderr);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

void bench_check(ledger_rc rc, const ledger_error *err, const char *doing)
{
    if (rc != LEDGER_OK)
        bench_die("%s: %s: %s", doing, ledger_rc_name(rc), err ? err->message : "");
}

void *bench_alloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);

    if (!p)
        bench_die("out of memory (%zu x %zu bytes)", count, size);
    return p;
}

void bench_release(void *p)
{
    free(p);
}

/* --- counts and time ------------------------------------------------------------------------- */

static double scale(void)
{
    const char *text = getenv("LEDGER_BENCH_SCALE");
    char *end = NULL;
    double value = text && *text ? strtod(text, &end) : 1.0;

    if (end && (*end || !(value > 0)))
        bench_die("LEDGER_BENCH_SCALE=%s: not a positive number", text);
    return value;
}

size_t bench_scaled(size_t count, size_t unit)
{
    size_t units = (size_t)((double)count * scale() / (double)unit + 0.5);

    return (units ? units : 1) * unit;
}

void bench_title(const char *name, const char *what)
{
    printf("%s: %s\n", name, what);
    if (scale() != 1.0)
        printf("*** scaled by LEDGER_BENCH_SCALE=%g: not the numbers of the goals ***\n", scale());
    fflush(stdout);
}

int64_t bench_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

double bench_seconds_since(int64_t start_ns)
{
    return (double)(bench_now_ns() - start_ns) / 1e9;
}

void bench_pause_ns(int64_t ns)
{
    struct timespec ts = { ns / 1000000000, ns % 1000000000 };

    nanosleep(&ts, NULL);
}

void bench_pause_until(int64_t ns)
{
    struct timespec ts = { ns / 1000000000, ns % 1000000000 };

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

double bench_cpu_seconds(const struct rusage *usage)
{
    return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
           (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
}

double bench_own_cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return bench_cpu_seconds(&usage);
}

int bench_compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_median(const double *values, size_t count)
{
    double sorted[BENCH_PAIR_MAX];

    if (count == 0 || count > BENCH_PAIR_MAX)
        bench_die("median of %zu values", count);
    memcpy(sorted, values, count * sizeof(*values));
    qsort(sorted, count, sizeof(*sorted), bench_compare_double);
    return count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

double bench_percentile(const double *sorted, size_t count, double p)
{
    size_t i = (size_t)(p * (double)count);

    return sorted[i < count ? i : count - 1];
}

uint64_t bench_random(uint64_t *state)
{
    /* splitmix64 */
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* --- files and processes --------------------------------------------------------------------- */

static void folder_remove(void)
{
    struct dirent *entry;
    char path[BENCH_PATH_MAX];
    DIR *dir;

    if (getpid() != g_folder_owner)
        return;
    dir = opendir(g_folder);
    while (dir && (entry = readdir(dir))) {
        if (snprintf(path, sizeof(path), "%s/%.60s", g_folder, entry->d_name) > 0)
            unlink(path);
    }
    if (dir)
        closedir(dir);
    rmdir(g_folder);
}

static void on_signal(int number)
{
    _exit((folder_remove(), 128 + number));
}

static const char *folder(void)
{
    const char *base = getenv("TMPDIR");

    if (!*g_folder) {
        snprintf(g_folder, sizeof(g_folder), "%s/ledger-bench-XXXXXX",
                 base && *base ? base : "/tmp");
        if (!mkdtemp(g_folder))
            bench_die("cannot make a folder under %s: %s", g_folder, strerror(errno));
        g_folder_owner = getpid();
        atexit(folder_remove);
        signal(SIGINT, on_signal);
        signal(SIGTERM, on_signal);
    }
    return g_folder;
}

void bench_path(char path[BENCH_PATH_MAX], const char *name)
{
    snprintf(path, BENCH_PATH_MAX, "%s/%.60s", folder(), name);
}

void bench_remove(const char *path)
{
    static const char *const suffixes[] = { "", "-wal", "-shm", "-journal" };
    char name[BENCH_PATH_MAX + 16];

    for (size_t i = 0; i < sizeof(suffixes) / sizeof(*suffixes); i++) {
        snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
        unlink(name);
    }
}

void bench_settle(void)
{
    int fd = open(folder(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || syncfs(fd))
        bench_die("syncfs: %s", strerror(errno));
    close(fd);
}

pid_t bench_spawn_program(const char *path, const char *const *args)
{
    char *argv[16] = { (char *)(uintptr_t)path };
    posix_spawnattr_t attributes;
    sigset_t none;
    size_t count = 1;
    pid_t pid;
    int rc;

    while (*args && count < 15)
        argv[count++] = (char *)(uintptr_t)*args++;
    fflush(stdout);
    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    rc = posix_spawn(&pid, path, NULL, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    if (rc)
        bench_die("cannot start %s: %s", path, strerror(rc));
    return pid;
}

pid_t bench_spawn(const char *const *args)
{
    return bench_spawn_program("/proc/self/exe", args);
}

/* What /proc says of a process behind its name; false: it is gone. */
static bool process_stat(long pid, long *ret_parent, double *ret_cpu_seconds)
{
    char path[64], text[1024], *rest;
    unsigned long user, system;
    long user_ended, system_ended; /* of children that have ended */
    size_t size = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    file = fopen(path, "r");
    if (!file)
        return false;
    size = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[size] = 0;
    rest = strrchr(text, ')'); /* the name may hold anything */
    if (!rest || sscanf(rest, ") %*c %ld %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld",
                        ret_parent, &user, &system, &user_ended, &system_ended) != 5)
        return false;
    *ret_cpu_seconds = ((double)(user + system) + (double)(user_ended + system_ended)) /
                       (double)sysconf(_SC_CLK_TCK);
    return true;
}

size_t bench_children(pid_t parent, pid_t *pids, size_t max)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    size_t count = 0;
    double seconds;
    long of;

    while (dir && count < max && (entry = readdir(dir))) {
        long pid = strtol(entry->d_name, NULL, 10);

        if (pid > 0 && process_stat(pid, &of, &seconds) && of == (long)parent)
            pids[count++] = (pid_t)pid;
    }
    if (dir)
        closedir(dir);
    return count;
}

double bench_process_cpu_seconds(pid_t pid)
{
    double seconds;
    long parent;

    return process_stat(pid, &parent, &seconds) ? seconds : 0;
}

void bench_join(pid_t pid, struct rusage *ret_usage)
{
    struct rusage usage;
    int status;

    while (wait4(pid, &status, 0, &usage) < 0) {
        if (errno != EINTR)
            bench_die("wait4: %s", strerror(errno));
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        bench_die("a process of this benchmark failed (wait status %d)", status);
    if (ret_usage)
        *ret_usage = usage;
}

double bench_peak_rss_mib(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    unsigned long kib = 0;
    char line[256];

    while (file && fgets(line, sizeof(line), file) && sscanf(line, "VmHWM: %lu kB", &kib) != 1)
        ;
    if (!kib)
        bench_die("cannot read the peak memory from /proc/self/status");
    fclose(file);
    return (double)kib / 1024;
}

void *bench_shared_map(int fd, size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED)
        bench_die("mmap: %s", strerror(errno));
    return p;
}

void *bench_shared_make(size_t size, int *ret_fd)
{
    int fd = memfd_create("bench", 0);

    if (fd < 0 || ftruncate(fd, (off_t)size))
        bench_die("shared memory: %s", strerror(errno));
    *ret_fd = fd;
    return bench_shared_map(fd, size);
}

/* --- plain SQLite ---------------------------------------------------------------------------- */

void bench_exec(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        bench_die("%s: %s", sql, sqlite3_errmsg(db));
}

sqlite3_stmt *bench_prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *stmt;

    if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL) != SQLITE_OK)
        bench_die("%s: %s", sql, sqlite3_errmsg(db));
    return stmt;
}

void bench_step(sqlite3_stmt *stmt)
{
    int rc = sqlite3_step(stmt);

    while (rc == SQLITE_ROW)
        rc = sqlite3_step(stmt);
    if (rc != SQLITE_DONE)
        bench_die("%s: %s", sqlite3_sql(stmt), sqlite3_errmsg(sqlite3_db_handle(stmt)));
    sqlite3_reset(stmt);
}

int64_t bench_int(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *stmt = bench_prepare(db, sql);
    int64_t value;

    if (sqlite3_step(stmt) != SQLITE_ROW)
        bench_die("%s: %s", sql, sqlite3_errmsg(db));
    value = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return value;
}

sqlite3 *bench_db_open(const char *path, int autocheckpoint)
{
    char sql[64];
    sqlite3 *db;

    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK)
        bench_die("%s: %s", path, sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, 10000);
    bench_exec(db, "PRAGMA journal_mode = WAL");
    bench_exec(db, "PRAGMA synchronous = NORMAL");
    bench_exec(db, "PRAGMA cache_size = -6144");
    snprintf(sql, sizeof(sql), "PRAGMA wal_autocheckpoint = %d", autocheckpoint);
    bench_exec(db, sql);
    return db;
}

void bench_db_close(sqlite3 *db)
{
    sqlite3_stmt *stmt;

    while ((stmt = sqlite3_next_stmt(db, NULL)))
        sqlite3_finalize(stmt);
    if (sqlite3_close(db) != SQLITE_OK)
        bench_die("close: %s", sqlite3_errmsg(db));
}

/* --- stores ---------------------------------------------------------------------------------- */

void bench_url(char url[BENCH_URL_MAX], const char *place)
{
    snprintf(url, BENCH_URL_MAX, "%s%s", *place == '/' ? "sqlite:" : "", place);
}

static const ledger_http_options *http_options;

void bench_http(const ledger_http_options *options)
{
    http_options = options;
}

ledger_store *bench_store_open(const char *place, ledger_log_mode log)
{
    char url[BENCH_URL_MAX];
    ledger_store_options options;
    ledger_store *store = NULL;
    ledger_error err = { 0 };

    ledger_store_options_defaults(&options);
    bench_url(url, place);
    options.url = url;
    options.log = log;
    options.flags = strncmp(url, "http", 4) != 0 ? LEDGER_STORE_CREATE : 0;
    options.http = http_options;
    bench_check(ledger_store_open(&options, &store, &err), &err, "open store");
    return store;
}

static void make_anew(const char *path, ledger_log_mode log)
{
    ledger_store *store;

    bench_remove(path);
    store = bench_store_open(path, log);
    ledger_store_close(&store);
}

void bench_source_make(const char *path)
{
    make_anew(path, LEDGER_MUTATION_LOG_ON);
}

void bench_sink_make(const char *path)
{
    make_anew(path, LEDGER_MUTATION_LOG_OFF);
}

ledger_store *bench_builder_open(const char *path, sqlite3 **ret_db)
{
    ledger_store_options options;
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    sqlite3 *db;

    bench_remove(path);
    /* The tables are made by a handle of the library's own: with its settings for the file. */
    store = bench_store_open(path, LEDGER_MUTATION_LOG_ON);
    ledger_store_close(&store);
    db = bench_db_open(path, 10000);
    bench_exec(db, "PRAGMA synchronous = OFF");
    bench_exec(db, "PRAGMA cache_size = -1000000");
    ledger_store_options_defaults(&options);
    options.connection = db;
    options.log = LEDGER_MUTATION_LOG_ON;
    bench_check(ledger_store_open(&options, &store, &err), &err, "open source");
    *ret_db = db;
    return store;
}

void bench_builder_close(ledger_store **store, sqlite3 **db)
{
    ledger_store_close(store);
    bench_exec(*db, "PRAGMA wal_checkpoint(TRUNCATE)");
    bench_db_close(*db);
    *db = NULL;
}

void bench_names(struct bench_names *ret_names, unsigned stream, uint64_t entry)
{
    snprintf(ret_names->stream, sizeof(ret_names->stream), "customer-%07u", stream);
    snprintf(ret_names->order_key, sizeof(ret_names->order_key), "order-%u", stream);
    snprintf(ret_names->dedup_key, sizeof(ret_names->dedup_key), "order-%010llu",
             (unsigned long long)entry);
}

void bench_payload(char text[BENCH_PAYLOAD_BYTES + 1], uint64_t number)
{
    uint64_t state = number;
    int size =
        snprintf(text, BENCH_PAYLOAD_BYTES + 1,
                 "{\"order\":%llu,\"customer\":\"c-%05llu\",\"total\":%llu.%02llu,\"note\":\"",
                 (unsigned long long)number, (unsigned long long)(bench_random(&state) % 100000),
                 (unsigned long long)(bench_random(&state) % 1000),
                 (unsigned long long)(bench_random(&state) % 100));

    for (; size < BENCH_PAYLOAD_BYTES - 2; size++)
        text[size] = (char)('a' + bench_random(&state) % 26);
    text[size] = '"';
    text[size + 1] = '}';
    text[size + 2] = 0;
}

void bench_store_fill(ledger_store *store, const struct bench_fill *fill)
{
    char payload[BENCH_PAYLOAD_BYTES + 1], *large = NULL;
    int64_t start = bench_now_ns();
    ledger_error err = { 0 };
    struct bench_names names;

    if (fill->large) {
        large = bench_alloc(1, BENCH_LARGE_BYTES);
        memset(large, 'x', BENCH_LARGE_BYTES);
        large[0] = large[BENCH_LARGE_BYTES - 1] = '"';
    }
    for (size_t i = 0; i < fill->count; i++) {
        ledger_append_input input = { .payload = { payload, BENCH_PAYLOAD_BYTES },
                                      .order_key = names.order_key,
                                      .dedup_key = names.dedup_key };
        const uint64_t number = fill->first + i * (fill->step ? fill->step : 1);

        if (i % fill->per_tx == 0)
            bench_check(ledger_store_begin(store, &err), &err, "begin");
        bench_names(&names, fill->stream_of ? fill->stream_of[i] : (unsigned)(i % 100), number);
        bench_payload(payload, number);
        if (large && i == fill->count / 2)
            input.payload = (ledger_bytes){ large, BENCH_LARGE_BYTES };
        bench_check(ledger_store_append(store, names.stream, &input, 1, NULL, &err), &err,
                    "append");
        if (i % fill->per_tx == fill->per_tx - 1 || i + 1 == fill->count)
            bench_check(ledger_store_commit(store, &err), &err, "commit");
    }
    bench_release(large);
    printf("source: %zu entries%s, appended in %.1f s\n", fill->count,
           fill->large ? ", one of 64 MiB" : "", bench_seconds_since(start));
    fflush(stdout);
}

void bench_source_build(const char *path, const struct bench_fill *fill)
{
    ledger_store *store;
    sqlite3 *db;

    store = bench_builder_open(path, &db);
    bench_store_fill(store, fill);
    bench_builder_close(&store, &db);
}

/* --- rows in memory -------------------------------------------------------------------------- */

#define CHUNK_BYTES ((size_t)4 << 20)
struct bench_chunk {
    struct bench_chunk *next;
    size_t used;
    char data[];
};

static const char *keep(struct bench_rows *rows, const void *data, int size)
{
    struct bench_chunk *chunk = rows->chunks;
    size_t need = (size_t)size + 1;
    char *p;

    if (!chunk || chunk->used + need > CHUNK_BYTES) {
        chunk = bench_alloc(1, sizeof(*chunk) + (need > CHUNK_BYTES ? need : CHUNK_BYTES));
        chunk->next = rows->chunks;
        rows->chunks = chunk;
    }
    p = chunk->data + chunk->used;
    if (size)
        memcpy(p, data, (size_t)size);
    p[size] = 0;
    chunk->used += need;
    return p;
}

void bench_rows_load(const char *source_path, struct bench_rows *ret_rows)
{
    struct bench_rows rows = { 0 };
    sqlite3 *db = bench_db_open(source_path, 1000);
    sqlite3_stmt *stmt;

    rows.count = (size_t)bench_int(db, "SELECT count(*) FROM ledger_entries");
    rows.items = bench_alloc(rows.count, sizeof(*rows.items));
    stmt = bench_prepare(db, "SELECT id, stream, payload, order_key, dedup_key, created_at "
                             "FROM ledger_entries ORDER BY id");
    for (size_t i = 0; i < rows.count; i++) {
        struct bench_row *row = &rows.items[i];

        if (sqlite3_step(stmt) != SQLITE_ROW)
            bench_die("the source ended early");
        row->source_pos = sqlite3_column_int64(stmt, 0);
#define KEEP(field, column)                                                                        \
    row->field##_size = sqlite3_column_bytes(stmt, column),                                        \
    row->field = keep(&rows, sqlite3_column_blob(stmt, column), row->field##_size)
        KEEP(stream, 1);
        KEEP(payload, 2);
        KEEP(order_key, 3);
        KEEP(dedup_key, 4);
        KEEP(created_at, 5);
#undef KEEP
    }
    bench_db_close(db);
    *ret_rows = rows;
}

void bench_rows_free(struct bench_rows *rows)
{
    struct bench_chunk *next;

    for (struct bench_chunk *chunk = rows->chunks; chunk; chunk = next) {
        next = chunk->next;
        bench_release(chunk);
    }
    bench_release(rows->items);
    *rows = (struct bench_rows){ 0 };
}

/* --- proof ----------------------------------------------------------------------------------- */

/* How many entries differ in something; what: names it. All of them are of one origin: not always
 * the first, since at the end of a chain the store between has a number, too. */
static void count_different(sqlite3 *db, const char *path, const char *what, const char *condition)
{
    int64_t origin = bench_int(db, "SELECT max(origin) FROM main.ledger_entries"), different;
    char *sql = sqlite3_mprintf("SELECT count(*) FROM source.ledger_entries s "
                                "LEFT JOIN main.ledger_entries k "
                                "ON k.origin = %lld AND k.source_pos = s.id WHERE %s",
                                (long long)origin, condition);

    if (!sql)
        bench_die("out of memory");
    different = bench_int(db, sql);
    sqlite3_free(sql);
    if (different)
        bench_die("wrong data in %s: %lld entries %s", path, (long long)different, what);
}

#define SORTED(annotations)                                                                        \
    "(SELECT json_group_object(key, value) FROM (SELECT key, value FROM json_each(" annotations    \
    ") ORDER BY key))"

void bench_same_rows(const char *source_path, const char *sink_path, bool exact)
{
    sqlite3 *db = bench_db_open(sink_path, 1000);
    sqlite3_stmt *attach = bench_prepare(db, "ATTACH ? AS source");
    int64_t source_count, sink_count, disordered;

    bench_exec(db, "PRAGMA cache_size = -262144");
    sqlite3_bind_text(attach, 1, source_path, -1, SQLITE_STATIC);
    bench_step(attach);
    source_count = bench_int(db, "SELECT count(*) FROM source.ledger_entries");
    sink_count = bench_int(db, "SELECT count(*) FROM main.ledger_entries");
    if (source_count != sink_count)
        bench_die("wrong data in %s: the source has %lld entries, this %lld", sink_path,
                  (long long)source_count, (long long)sink_count);
    count_different(db, sink_path, "are missing or differ",
                    "k.id IS NULL OR k.stream <> s.stream OR k.payload <> s.payload "
                    "OR k.order_key <> s.order_key OR k.dedup_key <> s.dedup_key "
                    "OR k.schema_version <> s.schema_version OR k.metadata IS NOT s.metadata "
                    "OR k.tags <> s.tags");
    if (exact) {
        count_different(db, sink_path, "have other annotations",
                        "k.annotations IS NOT s.annotations");
        count_different(db, sink_path, "have another time",
                        "k.created_at <> s.created_at OR k.updated_at IS NOT s.updated_at");
    } else {
        count_different(db, sink_path, "have other annotations",
                        SORTED("k.annotations") " IS NOT " SORTED("s.annotations"));
    }
    disordered = bench_int(db, "SELECT count(*) FROM (SELECT source_pos, lag(source_pos) OVER "
                               "(PARTITION BY stream ORDER BY id) AS previous "
                               "FROM main.ledger_entries) WHERE previous >= source_pos");
    if (disordered)
        bench_die("wrong data in %s: %lld entries are out of order in their stream", sink_path,
                  (long long)disordered);
    bench_db_close(db);
}
