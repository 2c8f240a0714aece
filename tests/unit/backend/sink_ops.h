/* Batches for a sink: ops made by hand, applied through the roles of the backend. Included by the
 * sink.h of each backend, behind its struct sink and SINK. */
#ifndef TESTS_UNIT_BACKEND_SINK_OPS_H
#define TESTS_UNIT_BACKEND_SINK_OPS_H

#define SINK_TIME_US INT64_C(1764000000000000)

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
                           .key.number = source_pos,
                           .time_us = SINK_TIME_US + k->position * 1000,
                           .type_name = types[kind],
                           .source_uuid = SOURCE_UUID,
                           .log_time_us = SINK_TIME_US + k->position * 1000,
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
    ledger_rc rc = SINK->sink->apply(&k->s, &apply, k->outcomes, err);
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

#define sink_is(k, sql, text) assert_string_equal(sink_text((k), (sql)), (text))

#endif
