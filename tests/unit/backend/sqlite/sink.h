/* Batches for the sink's side of the SQLite backend: ops made by hand, applied through the roles.
 */
#ifndef TESTS_UNIT_BACKEND_SQLITE_SINK_H
#define TESTS_UNIT_BACKEND_SQLITE_SINK_H

#include "handle.h"

#define SINK (&ldg_backend_sqlite)
#define SOURCE_UUID "11111111-1111-4111-8111-111111111111"
#define OTHER_UUID "22222222-2222-4222-8222-222222222222"
#define SINK_OPS_MAX 4096

/* A sink with the ops of its next batch. Texts are kept until sink_close(). */
struct sink {
    struct ldg_sqlite s;
    sqlite3 *db; /* a second look at the file */
    struct ldg_arena arena;
    struct ldg_cursor cursor; /* as the bridge knows it */
    struct ldg_op ops[SINK_OPS_MAX];
    uint8_t outcomes[SINK_OPS_MAX];
    size_t count;
    int64_t position;
    int origin;
    bool stop; /* policy: refused events stop */
};

static inline void sink_open(struct sink *k, const char *path, ledger_log_mode log)
{
    const struct ldg_open create = { .path = path,
                                     .table = "t",
                                     .log_table = "t_mutations",
                                     .log = log,
                                     .flags = LEDGER_STORE_CREATE,
                                     .busy_timeout_ms = 2000 };
    const struct ldg_open open = { .path = path,
                                   .table = "t",
                                   .log_table = "t_mutations",
                                   .log = log,
                                   .busy_timeout_ms = 2000,
                                   .role = LDG_ROLE_SINK };
    const struct ldg_identity identity = { .uuid = SOURCE_UUID, .epoch = 1 };
    ledger_error err = { 0 };

    memset(k, 0, sizeof(*k));
    ldg_arena_init(&k->arena, 0);
    tst_ok(SINK->open(&k->s, &create, &err), &err);
    SINK->close(&k->s);
    memset(&k->s, 0, sizeof(k->s));
    tst_ok(SINK->open(&k->s, &open, &err), &err);
    tst_ok(SINK->state->origin_get(&k->s, &identity, "source", &k->origin, &err), &err);
    tst_ok(SINK->state->cursor_get(&k->s, "default", true, &k->cursor, &err), &err);
    k->db = raw_open(path);
}

static inline void sink_close(struct sink *k)
{
    sqlite3_close(k->db);
    SINK->close(&k->s);
    ldg_arena_fini(&k->arena);
}

#define sink_exec(k, ...) tst_exec((k)->db, __VA_ARGS__)
#define sink_int(k, ...) tst_query_int((k)->db, __VA_ARGS__)

/* The first text of a query; "" for no row or NULL. Lives until the next call. */
static inline const char *sink_text(struct sink *k, const char *sql)
{
    static char text[65536];
    sqlite3_stmt *stmt = NULL;

    text[0] = '\0';
    if (sqlite3_prepare_v2(k->db, sql, -1, &stmt, NULL) != SQLITE_OK)
        tst_fail("%s: %s", sql, sqlite3_errmsg(k->db));
    if (sqlite3_step(stmt) == SQLITE_ROW && sqlite3_column_text(stmt, 0) != NULL)
        snprintf(text, sizeof(text), "%s", (const char *)sqlite3_column_text(stmt, 0));
    sqlite3_finalize(stmt);
    return text;
}

#include "../sink_ops.h"

#endif
