/* A source of the PostgreSQL backend, read without a bridge; its writers are plain SQL. */
#ifndef TESTS_UNIT_BACKEND_POSTGRES_READER_H
#define TESTS_UNIT_BACKEND_POSTGRES_READER_H

#include "handle.h"

#define SOURCE (&ldg_backend_postgres)
#define LOG "ledger_entries_mutations"

static struct ldg_pg pg;
static struct ldg_log_batch batch;
static char url[300];
static PGconn *db;
static const struct ldg_log_limits wide = { 100000, (size_t)1 << 30 };

static inline int open_on(void **state, const char *where)
{
    int rc = tst_setup(state);

    snprintf(url, sizeof(url), "%s", where);
    if (rc == 0) {
        handle_open(&pg, url, LEDGER_DEFAULT_TABLE, LDG_ROLE_USER, LEDGER_MUTATION_LOG_ON,
                    LEDGER_STORE_CREATE);
        handle_close(&pg);
        handle_open(&pg, url, LEDGER_DEFAULT_TABLE, LDG_ROLE_SOURCE, LEDGER_MUTATION_LOG_AUTO, 0);
        db = tst_pg_connect_url(url);
        memset(&batch, 0, sizeof(batch));
        ldg_arena_init(&batch.arena, 1 << 16);
    }
    return rc;
}

/* In a schema of the shared server's own; its name begins with prefix. */
static inline int open_shared(void **state, const char *prefix)
{
    static int number;
    char schema[32];

    tst_pg_require();
    snprintf(schema, sizeof(schema), "%s%d", prefix, number++);
    return open_on(state, tst_pg_schema_url(tst_pg_shared(), schema));
}

static inline int teardown(void **state)
{
    handle_close(&pg);
    PQfinish(db);
    ldg_arena_fini(&batch.arena);
    return tst_teardown(state);
}

static inline void reopen(void)
{
    handle_close(&pg);
    handle_open(&pg, url, LEDGER_DEFAULT_TABLE, LDG_ROLE_SOURCE, LEDGER_MUTATION_LOG_AUTO, 0);
}

static inline ledger_rc read_try(const char *state, const struct ldg_log_limits *limits,
                                 ledger_error *err)
{
    memset(err, 0, sizeof(*err));
    return SOURCE->source->log_read(&pg, state, limits, &batch, err);
}

static inline void read_ok(const char *state, const struct ldg_log_limits *limits)
{
    ledger_error err;
    ledger_rc rc = read_try(state, limits, &err);

    tst_ok(rc, &err);
}

/* Reads on from where the last read ended. */
static inline void read_next(size_t max_count)
{
    const struct ldg_log_limits limits = { max_count, (size_t)1 << 30 };
    char state[LDG_CURSOR_STATE_MAX];

    memcpy(state, batch.next_state, sizeof(state));
    read_ok(state, &limits);
}

static inline void put(PGconn *conn, const char *text)
{
    tst_pg_sql(conn, "INSERT INTO " LOG " (stream, payload) VALUES ('_', '%s')", text);
}

#endif
