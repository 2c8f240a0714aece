/* Batches for the sink's side of the SQLite backend: ops made by hand, applied through the vtable.
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
    tst_ok(SINK->origin_get(&k->s, &identity, "source", &k->origin, &err), &err);
    tst_ok(SINK->cursor_get(&k->s, "default", true, &k->cursor, &err), &err);
    k->db = raw_open(path);
}

static inline void sink_close(struct sink *k)
{
    sqlite3_close(k->db);
    SINK->close(&k->s);
    ldg_arena_fini(&k->arena);
}

static inline struct ldg_op *sink_op(struct sink *k, enum ldg_op_kind kind, const char *stream,
                                     int64_t source_pos)
{
    static const char *const types[] = { "append", "set_tags", "set_annotations", "trim", "later" };
    struct ldg_op *op = &k->ops[k->count++];

    assert_true(k->count <= SINK_OPS_MAX);
    k->position++;
    *op = (struct ldg_op){ .kind = kind,
                           .origin = k->origin,
                           .mutation_origin = k->origin,
                           .position = k->position,
                           .log_position = k->position,
                           .stream = ldg_arena_strdup(&k->arena, stream),
                           .source_pos = source_pos,
                           .time_us = 1764000000000000 + k->position * 1000,
                           .type_name = types[kind],
                           .source_uuid = SOURCE_UUID,
                           .log_time_us = 1764000000000000 + k->position * 1000,
                           .event = { "{}", 2 },
                           .event_index = (uint32_t)k->count };
    return op;
}

static inline struct ldg_op *sink_append(struct sink *k, const char *stream, int64_t source_pos,
                                         const char *payload, const char *dedup_key)
{
    struct ldg_op *op = sink_op(k, LDG_OP_APPEND, stream, source_pos);
    ledger_append_entry *entry = ldg_arena_calloc(&k->arena, 1, sizeof(*entry));
    char id[24];

    snprintf(id, sizeof(id), "%lld", (long long)source_pos);
    *entry =
        (ledger_append_entry){ .id = ldg_arena_strdup(&k->arena, id),
                               .payload = { ldg_arena_strdup(&k->arena, payload), strlen(payload) },
                               .order_key = "o",
                               .dedup_key = ldg_arena_strdup(&k->arena, dedup_key),
                               .schema_version = 1,
                               .created_at_us = op->time_us,
                               .source_id = "" };
    op->entry = entry;
    return op;
}

static inline struct ldg_op *sink_tags(struct sink *k, const char *stream, int64_t source_pos,
                                       const char *tag)
{
    struct ldg_op *op = sink_op(k, LDG_OP_SET_TAGS, stream, source_pos);
    const char **items = ldg_arena_calloc(&k->arena, 1, sizeof(*items));

    items[0] = ldg_arena_strdup(&k->arena, tag);
    op->tags = (ledger_list){ items, 1 };
    return op;
}

static inline struct ldg_op *sink_annotate(struct sink *k, const char *stream, int64_t source_pos,
                                           const char *key, const char *value)
{
    struct ldg_op *op = sink_op(k, LDG_OP_SET_ANNOTATIONS, stream, source_pos);
    ledger_pair *items = ldg_arena_calloc(&k->arena, 1, sizeof(*items));

    items[0].key = ldg_arena_strdup(&k->arena, key);
    items[0].value = value != NULL ? ldg_arena_strdup(&k->arena, value) : NULL;
    op->annotations = (ledger_map){ items, 1 };
    return op;
}

static inline struct ldg_op *sink_trim(struct sink *k, const char *stream, int64_t before)
{
    return sink_op(k, LDG_OP_TRIM, stream, before);
}

/* Applies the gathered ops and moves the cursor to "<position>". The ops stay for looking at, until
 * sink_begin(). */
static inline ledger_rc sink_try(struct sink *k, ledger_error *err)
{
    struct ldg_cursor next = k->cursor;
    struct ldg_apply apply = { .name = "default",
                               .expected = &k->cursor,
                               .next = &next,
                               .ops = k->ops,
                               .count = k->count,
                               .park_rejected = !k->stop };

    memset(err, 0, sizeof(*err));
    next.moved_at_us = LEDGER_NO_TIME;
    snprintf(next.state, sizeof(next.state), "state:%lld", (long long)k->position);
    snprintf(next.readable, sizeof(next.readable), "%019lld", (long long)k->position);
    memset(k->outcomes, 0xee, sizeof(k->outcomes));
    ledger_rc rc = SINK->apply(&k->s, &apply, k->outcomes, err);
    if (rc == LEDGER_OK)
        k->cursor = next;
    return rc;
}

static inline void sink_begin(struct sink *k)
{
    k->count = 0;
}

static inline void sink_apply(struct sink *k)
{
    ledger_error err;
    ledger_rc rc = sink_try(k, &err);
    tst_ok(rc, &err);
}

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

#define sink_is(k, sql, text) assert_string_equal(sink_text((k), (sql)), (text))

/* What is in the sink, one line, without ids of the sink. */
#define SINK_ALL                                                                                   \
    "SELECT group_concat(stream || '|' || source_pos || '|' || payload || '|' || dedup_key || "    \
    "'|' "                                                                                         \
    "|| tags || '|' || coalesce(annotations, '-') || '|' || coalesce(updated_at, '-') || '|' || "  \
    "coalesce(mutation_pos, '-'), ' ') FROM (SELECT * FROM t ORDER BY source_pos)"

#endif
