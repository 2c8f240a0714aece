/* The table of backends, the runner, and what the cases share. */
#include "conformance.h"

#include <ftw.h>
#include <stdlib.h>
#include <unistd.h>

#include "ldg_config.h"
#include "memory_faults.h"
#include "store/handle.h"
#include "store/registry.h"

#if LDG_WITH_SQLITE
#include <sqlite3.h>
#endif
#if LDG_WITH_POSTGRES
#include "pg_server.h"
#endif
#if LDG_WITH_CLICKHOUSE
#include "clickhouse.h"
#endif

/* --- memory ---------------------------------------------------------------------------------- */

static void memory_url(const char *dir, const char *database, char *url, size_t url_size)
{
    snprintf(url, url_size, "memory:%s/%s", dir, database);
}

static const char *memory_name(const char *url)
{
    return url + strlen("memory:");
}

static void memory_put_legacy(const char *url, const char *table, const char *stream,
                              const char *payload, const char *source_id)
{
    assert_int_equal(
        ldg_memory_put_legacy(memory_name(url), table, stream, payload, source_id, NULL), 0);
}

static void memory_damage_log(const char *url, const char *log_table, int64_t position)
{
    assert_int_equal(ldg_memory_log_damage(memory_name(url), log_table, position), 0);
}

/* As the doors of the others: entries and their changes, not trims. */
static bool is_refused(void *ctx, const struct ldg_op *op)
{
    return op->kind != LDG_OP_TRIM && strcmp(op->stream, ctx) == 0;
}

static void memory_refuse(const char *url, const char *table, const char *stream)
{
    static char refused[64];
    snprintf(refused, sizeof(refused), "%s", stream ? stream : "");
    assert_int_equal(ldg_memory_set_refuse(memory_name(url), stream ? is_refused : NULL, refused),
                     0);
}

/* --- sqlite ---------------------------------------------------------------------------------- */

#if LDG_WITH_SQLITE
static void sqlite_url(const char *dir, const char *database, char *url, size_t url_size)
{
    snprintf(url, url_size, "sqlite:%s/%s.db", dir, database);
}

static void sqlite_run(const char *url, char *sql)
{
    sqlite3 *db = NULL;
    char *message = NULL;
    assert_non_null(sql);
    assert_int_equal(sqlite3_open(url + strlen("sqlite:"), &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
    sqlite3_free(sql);
    sqlite3_close(db);
}

static void sqlite_put_legacy(const char *url, const char *table, const char *stream,
                              const char *payload, const char *source_id)
{
    sqlite_run(url, sqlite3_mprintf("INSERT INTO \"%w\"(stream, payload, source_id) "
                                    "VALUES (%Q, CAST(%Q AS BLOB), %Q)",
                                    table, stream, payload, source_id));
}

static void sqlite_damage_log(const char *url, const char *log_table, int64_t position)
{
    sqlite_run(url,
               sqlite3_mprintf("UPDATE \"%w\" SET payload = CAST('{}' AS BLOB) WHERE id = %lld",
                               log_table, (long long)position));
}

static void sqlite_refuse(const char *url, const char *table, const char *stream)
{
    sqlite_run(url, sqlite3_mprintf("DROP TRIGGER IF EXISTS refuse_i; "
                                    "DROP TRIGGER IF EXISTS refuse_u"));
    if (!stream)
        return;
    sqlite_run(url, sqlite3_mprintf("CREATE TRIGGER refuse_i BEFORE INSERT ON \"%w\" WHEN "
                                    "new.stream = %Q BEGIN SELECT RAISE(ABORT, 'refused'); END",
                                    table, stream));
    sqlite_run(url, sqlite3_mprintf("CREATE TRIGGER refuse_u BEFORE UPDATE ON \"%w\" WHEN "
                                    "new.stream = %Q BEGIN SELECT RAISE(ABORT, 'refused'); END",
                                    table, stream));
}
#endif

/* --- postgres -------------------------------------------------------------------------------- */

#if LDG_WITH_POSTGRES
/* As a careful operator runs it, since the suite asks whether it is. */
static struct tst_pg *postgres_server(void)
{
    static struct tst_pg *pg;
    const struct tst_pg_options options = { .settings = "fsync = on\nfull_page_writes = on" };
    if (!pg)
        pg = tst_pg_start(&options);
    return pg;
}

/* A schema stands for a database; its name for the last letters of dir, which are random. */
static void postgres_url(const char *dir, const char *database, char *url, size_t url_size)
{
    char schema[64];
    const char *end = dir + strlen(dir) - 6;
    snprintf(schema, sizeof(schema), "c%02x%02x%02x%02x%02x%02x_%s", end[0], end[1], end[2], end[3],
             end[4], end[5], database);
    snprintf(url, url_size, "%s", tst_pg_schema_url(postgres_server(), schema));
}

static void postgres_put_legacy(const char *url, const char *table, const char *stream,
                                const char *payload, const char *source_id)
{
    PGconn *conn = tst_pg_connect_url(url);
    tst_pg_sql(conn,
               "INSERT INTO \"%s\" (stream, payload, source_id)"
               " VALUES ('%s', convert_to('%s', 'UTF8'), '%s')",
               table, stream, payload, source_id);
    PQfinish(conn);
}

static void postgres_damage_log(const char *url, const char *log_table, int64_t position)
{
    PGconn *conn = tst_pg_connect_url(url);
    tst_pg_sql(conn, "UPDATE \"%s\" SET payload = '{}' WHERE id = %lld", log_table,
               (long long)position);
    PQfinish(conn);
}

static void postgres_refuse(const char *url, const char *table, const char *stream)
{
    PGconn *conn = tst_pg_connect_url(url);
    tst_pg_sql(conn, "ALTER TABLE \"%s\" DROP CONSTRAINT IF EXISTS refuse", table);
    if (stream)
        tst_pg_sql(conn,
                   "ALTER TABLE \"%s\" ADD CONSTRAINT refuse CHECK (stream <> '%s') NOT VALID",
                   table, stream);
    PQfinish(conn);
}
#endif

/* --- clickhouse ------------------------------------------------------------------------------ */

#if LDG_WITH_CLICKHOUSE
static void clickhouse_url(const char *dir, const char *database, char *url, size_t url_size)
{
    char name[64];
    const char *end = dir + strlen(dir) - 6;
    snprintf(name, sizeof(name), "c%02x%02x%02x%02x%02x%02x_%s", end[0], end[1], end[2], end[3],
             end[4], end[5], database);
    snprintf(url, url_size, "%s", tst_ch_database(tst_ch_shared(), name));
}

static void clickhouse_refuse(const char *url, const char *table, const char *stream)
{
    const char *database = strrchr(url, '/') + 1;
    tst_ch_sql(tst_ch_shared(), database, "ALTER TABLE `%s` DROP CONSTRAINT IF EXISTS refuse",
               table);
    if (stream)
        tst_ch_sql(tst_ch_shared(), database,
                   "ALTER TABLE `%s` ADD CONSTRAINT refuse CHECK stream != '%s' OR is_deleted = 1",
                   table, stream);
}

static void clickhouse_fault(const char *lines)
{
    tst_ch_fault(tst_ch_shared(), lines);
}
#endif

/* --- the table ------------------------------------------------------------------------------- */

static const struct conf_backend backends[] = {
    { "memory", memory_url, memory_put_legacy, memory_damage_log, memory_refuse, true },
#if LDG_WITH_SQLITE
    { "sqlite", sqlite_url, sqlite_put_legacy, sqlite_damage_log, sqlite_refuse, false },
#endif
#if LDG_WITH_POSTGRES
    { "postgres", postgres_url, postgres_put_legacy, postgres_damage_log, postgres_refuse, true },
#endif
#if LDG_WITH_CLICKHOUSE
    { "clickhouse", clickhouse_url, NULL, NULL, clickhouse_refuse, .alone = true,
      .fault = clickhouse_fault },
#endif
};

const struct conf_backend *conf_oracle(void)
{
    return &backends[0];
}

/* --- what the cases share -------------------------------------------------------------------- */

void ok_at(ledger_rc rc, const ledger_error *err, const char *text, const char *file, int line)
{
    if (rc != LEDGER_OK) {
        print_error("%s: %s: %s\n", text, ledger_rc_name(rc), err->message);
        _fail(file, line);
    }
}

void fails_at(ledger_rc rc, ledger_rc want, const ledger_error *err, const char *text,
              const char *file, int line)
{
    if (rc != want || (rc != LEDGER_OK && (err->code != rc || !*err->message))) {
        print_error("%s: %s, not %s: %s\n", text, ledger_rc_name(rc), ledger_rc_name(want),
                    rc == LEDGER_OK ? "" : err->message);
        _fail(file, line);
    }
}

const char *conf_url(struct conf_env *env, const char *database)
{
    static char url[CONF_URL_MAX];
    env->backend->make_url(env->dir, database, url, sizeof(url));
    return url;
}

void conf_keep(struct conf_env *env, ledger_store *store)
{
    assert_true(env->store_count < CONF_STORES_MAX);
    env->stores[env->store_count++] = store;
}

ledger_store *conf_open_with(struct conf_env *env, const char *database, const char *table,
                             ledger_log_mode log, uint32_t flags)
{
    ledger_store_options options;
    ledger_store *store = NULL;
    ledger_error err;
    ledger_store_options_defaults(&options);
    options.url = conf_url(env, database);
    options.table = table;
    options.log = log;
    options.flags = flags ? flags : LEDGER_STORE_CREATE;
    options.busy_timeout_ms = 100;
    ok(ledger_store_open(&options, &store, &err));
    conf_keep(env, store);
    return store;
}

ledger_store *conf_open(struct conf_env *env, const char *database)
{
    return conf_open_with(env, database, NULL, LEDGER_MUTATION_LOG_AUTO, 0);
}

void conf_close(struct conf_env *env, ledger_store *store)
{
    for (size_t i = 0; i < env->store_count; i++) {
        if (env->stores[i] == store) {
            ledger_store_close(&env->stores[i]);
            env->stores[i] = env->stores[--env->store_count];
            return;
        }
    }
    fail_msg("not a store of this test");
}

int64_t conf_append_dedup(ledger_store *store, const char *stream, const char *payload,
                          const char *dedup_key)
{
    ledger_error err;
    ledger_ids ids;
    const ledger_append_input input = { .payload = conf_bytes(payload), .dedup_key = dedup_key };
    ok(ledger_store_append(store, stream, &input, 1, &ids, &err));
    int64_t id = ids.count ? ids.items[0].number : 0;
    ledger_ids_destroy(&ids);
    return id;
}

int64_t conf_append(ledger_store *store, const char *stream, const char *payload)
{
    return conf_append_dedup(store, stream, payload, NULL);
}

uint64_t conf_count(ledger_store *store, const char *stream)
{
    ledger_error err;
    uint64_t count = 0;
    ok(ledger_store_count(store, stream, &count, &err));
    return count;
}

ledger_batch *conf_read(ledger_store *store, const char *stream, const ledger_read_options *o)
{
    ledger_error err;
    ledger_batch *batch = NULL;
    ok(ledger_store_read(store, stream, o, &batch, &err));
    return batch;
}

ledger_id conf_id(int64_t number)
{
    return (ledger_id){ .number = number };
}

ledger_bytes conf_bytes(const char *text)
{
    return (ledger_bytes){ .data = text, .size = strlen(text) };
}

bool conf_list_is(ledger_list list, const char *joined)
{
    char text[1024] = "";
    for (size_t i = 0; i < list.count; i++) {
        strncat(text, i ? "," : "", sizeof(text) - strlen(text) - 1);
        strncat(text, list.items[i], sizeof(text) - strlen(text) - 1);
    }
    if (strcmp(text, joined) != 0)
        print_error("list is \"%s\", not \"%s\"\n", text, joined);
    return strcmp(text, joined) == 0;
}

bool conf_map_is(ledger_map map, const char *joined)
{
    char text[1024] = "";
    for (size_t i = 0; i < map.count; i++) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof(text) - used, "%s%s=%s", i ? "," : "", map.items[i].key,
                 map.items[i].value ? map.items[i].value : "(null)");
    }
    if (strcmp(text, joined) != 0)
        print_error("map is \"%s\", not \"%s\"\n", text, joined);
    return strcmp(text, joined) == 0;
}

size_t conf_events(struct conf_env *env, ledger_store *store, ledger_mutation_event **ret_events,
                   struct ldg_log_row **ret_rows)
{
    const struct ldg_log_limits limits = { .max_count = 10000, .max_bytes = SIZE_MAX };
    struct ldg_log_batch batch = { 0 };
    ledger_error err;
    ldg_arena_init(&batch.arena, 0);
    ok(ldg_store_log_read(store, "", &limits, &batch, &err));
    const size_t count = batch.count;
    *ret_events = ldg_arena_calloc(&env->arena, count + 1, sizeof(**ret_events));
    struct ldg_log_row *rows = ldg_arena_calloc(&env->arena, count + 1, sizeof(*rows));
    for (size_t i = 0; i < count; i++) {
        rows[i] = batch.rows[i];
        rows[i].payload.data =
            ldg_arena_memdup(&env->arena, batch.rows[i].payload.data, rows[i].payload.size);
        ok(ldg_event_decode(rows[i].payload, &env->arena, &(*ret_events)[i], &err));
    }
    ldg_arena_fini(&batch.arena);
    if (ret_rows)
        *ret_rows = rows;
    return count;
}

/* --- the runner ------------------------------------------------------------------------------ */

struct plan {
    const struct conf_backend *backend;
    const struct conf_case *c;
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)!remove(path);
    return 0;
}

static void run_case(void **state)
{
    static unsigned serial;
    static struct conf_env of_case; /* a case that is skipped jumps over all that frees */
    const struct plan *plan = *state;
    struct conf_env *env = &of_case;
    const char *tmp = getenv("TMPDIR");
    memset(env, 0, sizeof(*env));
    env->backend = plan->backend;
    env->serial = ++serial;
    snprintf(env->dir, sizeof(env->dir), "%s/ledger-conf-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(env->dir));
    ldg_arena_init(&env->arena, 0);
    plan->c->run(env);
    /* A failing case jumps over this: its folder stays, to be looked at. */
    while (env->store_count)
        ledger_store_close(&env->stores[--env->store_count]);
    ldg_arena_fini(&env->arena);
    nftw(env->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static uint64_t backend_caps(const char *name)
{
    for (size_t i = 0; ldg_registry_get(i); i++) {
        const ledger_store handle = { .backend = ldg_registry_get(i) };
        if (strcmp(handle.backend->name, name) == 0)
            return ldg_store_caps(&handle);
    }
    fprintf(stderr, "%s is not in the registry\n", name);
    abort();
}

static bool fits(const struct conf_backend *backend, const struct conf_case *c)
{
    const void *door = NULL;
    if (c->door)
        memcpy(&door, (const char *)backend + c->door, sizeof(door));
    if ((c->door && !door) || (c->compares && backend == conf_oracle()))
        return false;
    return backend->alone ? c->alone : (backend_caps(backend->name) & c->caps) == c->caps;
}

/* conformance [PATTERN]: only cases like that, "postgres: *". */
int main(int argc, char **argv)
{
    const struct {
        const struct conf_case *cases;
        size_t count;
    } parts[] = {
        { conf_user_cases, conf_user_case_count },
        { conf_change_cases, conf_change_case_count },
        { conf_interrupt_cases, conf_interrupt_case_count },
        { conf_source_cases, conf_source_case_count },
        { conf_sink_cases, conf_sink_case_count },
        { conf_handle_cases, conf_handle_case_count },
        { conf_overlap_cases, conf_overlap_case_count },
        { conf_parked_cases, conf_parked_case_count },
        { conf_text_cases, conf_text_case_count },
        { conf_random_cases, conf_random_case_count },
    };
    const size_t backend_count = sizeof(backends) / sizeof(backends[0]);
    const size_t part_count = sizeof(parts) / sizeof(parts[0]);
    size_t most = 0, count = 0;
    for (size_t p = 0; p < part_count; p++)
        most += parts[p].count * backend_count;
    struct CMUnitTest *tests = calloc(most, sizeof(*tests));
    struct plan *plans = calloc(most, sizeof(*plans));
    char(*names)[128] = calloc(most, sizeof(*names));
    if (!tests || !plans || !names)
        return 1;
    for (size_t i = 0; i < backend_count * part_count; i++) {
        const struct conf_backend *backend = &backends[i / part_count];
        for (size_t k = 0; k < parts[i % part_count].count; k++) {
            const struct conf_case *c = &parts[i % part_count].cases[k];
            if (!fits(backend, c))
                continue;
            plans[count] = (struct plan){ backend, c };
            snprintf(names[count], sizeof(names[count]), "%s: %s", backend->name, c->name);
            tests[count] = (struct CMUnitTest){
                .name = names[count],
                .test_func = run_case,
                .initial_state = &plans[count],
            };
            count++;
        }
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int failed = _cmocka_run_group_tests("conformance", tests, count, NULL, NULL);
    free(tests);
    free(plans);
    free(names);
    return failed;
}
