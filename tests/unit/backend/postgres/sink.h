/* Batches for the sink's side of the PostgreSQL backend: ops made by hand, applied through the
 * roles.
 */
#ifndef TESTS_UNIT_BACKEND_POSTGRES_SINK_H
#define TESTS_UNIT_BACKEND_POSTGRES_SINK_H

#include <stdlib.h>

#include "handle.h"

#define SINK (&ldg_backend_postgres)
#define SOURCE_UUID "11111111-1111-4111-8111-111111111111"
#define OTHER_UUID "22222222-2222-4222-8222-222222222222"
#define SINK_OPS_MAX 4096

/* A sink with the ops of its next batch. Texts are kept until sink_close(). */
struct sink {
    struct ldg_pg s;
    PGconn *db; /* a second look at the tables */
    struct ldg_arena arena;
    struct ldg_cursor cursor; /* as the bridge knows it */
    struct ldg_op ops[SINK_OPS_MAX];
    uint8_t outcomes[SINK_OPS_MAX];
    size_t count;
    int64_t position;
    int origin;
    bool stop; /* policy: refused events stop */
};

static inline void sink_open(struct sink *k, const char *url, ledger_log_mode log)
{
    const struct ldg_identity identity = { .uuid = SOURCE_UUID, .epoch = 1 };
    ledger_error err = { 0 };

    memset(k, 0, sizeof(*k));
    ldg_arena_init(&k->arena, 0);
    handle_open(&k->s, url, "t", LDG_ROLE_USER, log, LEDGER_STORE_CREATE);
    SINK->close(&k->s);
    handle_open(&k->s, url, "t", LDG_ROLE_SINK, log, 0);
    tst_ok(SINK->state->origin_get(&k->s, &identity, "source", &k->origin, &err), &err);
    tst_ok(SINK->state->cursor_get(&k->s, "default", true, &k->cursor, &err), &err);
    k->db = tst_pg_connect_url(url);
}

static inline void sink_close(struct sink *k)
{
    PQfinish(k->db);
    SINK->close(&k->s);
    ldg_arena_fini(&k->arena);
}

#define sink_exec(k, ...) tst_pg_sql((k)->db, __VA_ARGS__)
#define sink_int(k, ...) tst_pg_sql_int((k)->db, __VA_ARGS__)

/* The first text of a query; "" for no row or NULL. Lives until the next call. */
static inline const char *sink_text(struct sink *k, const char *sql)
{
    static char text[65536];
    char *value = tst_pg_sql_text(k->db, "%s", sql);

    snprintf(text, sizeof(text), "%s", value ? value : "");
    free(value);
    return text;
}

/* What is in the sink, one line, without ids of the sink. */
#define SINK_KEY "coalesce(source_pos::text, source_id)"
#define SINK_ALL                                                                                   \
    "SELECT string_agg(stream || '|' || " SINK_KEY " || '|' || convert_from(payload, 'UTF8') || "  \
    "'|' || dedup_key || '|' || tags::text || '|' || coalesce(annotations::text, '-') || '|' || "  \
    "coalesce(to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS'), '-') || "    \
    "'|' || coalesce(tags_pos::text, '-') || '|' || coalesce(annotations_pos::text, '-'), "        \
    "' ' ORDER BY source_pos, source_id) FROM t"

#include "../sink_ops.h"

#endif
