/* Batches made by hand, for a fake sink. */
#ifndef TEST_UNIT_SINK_OPS_H
#define TEST_UNIT_SINK_OPS_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "event/event.h"
#include "fake_sink.h"

#define OPS_MAX 64
#define A 1 /* origins; the log that is read is A's, unless log_of() says otherwise */
#define B 2
#define C 3
#define TIME_US INT64_C(1764000000000000)

static struct fake *f;
static struct ldg_op ops[OPS_MAX];
static uint8_t outcomes[OPS_MAX];
static size_t op_count;
static int64_t positions[FAKE_ORIGINS_MAX];
static int log_number;
static ledger_error err;

static inline int setup(void **state)
{
    f = fake_new();
    for (int i = 0; i < FAKE_ORIGINS_MAX; i++) {
        snprintf(f->identities[i].uuid, sizeof(f->identities[i].uuid), "store-%d", i);
        f->identities[i].epoch = i + 1;
        positions[i] = 0;
    }
    op_count = 0;
    log_number = A;
    memset(&err, 0, sizeof(err));
    return 0;
}

static inline int teardown(void **state)
{
    fake_free(f);
    return 0;
}

static inline void log_of(int origin)
{
    log_number = origin;
}

static inline ledger_id num(int64_t number)
{
    return (ledger_id){ .number = number };
}

static inline ledger_id txt(const char *text)
{
    return (ledger_id){ .text = text };
}

/* Each is an event of its own. */
static inline struct ldg_op *op_add(enum ldg_op_kind kind, int origin, ledger_id key,
                                    const char *stream)
{
    static const char *const types[] = { "append", "set_tags", "set_annotations", "trim", "odd" };
    struct ldg_op *op = &ops[op_count];
    const int64_t position = ++positions[log_number];

    assert_true(op_count < OPS_MAX);
    *op = (struct ldg_op){
        .kind = kind,
        .origin = origin,
        .mutation_origin = origin,
        .position = position,
        .log_position = position,
        .stream = stream,
        .key = key,
        .time_us = TIME_US + position,
        .type_name = types[kind],
        .source_uuid = f->identities[log_number].uuid,
        .log_time_us = TIME_US,
        .event = { "{}", 2 },
        .event_index = (uint32_t)op_count,
    };
    op_count++;
    return op;
}

static inline struct ldg_op *append_key(int origin, ledger_id key, const char *stream,
                                        const char *payload, const char *dedup_key)
{
    struct ldg_op *op = op_add(LDG_OP_APPEND, origin, key, stream);
    ledger_append_entry *entry = ldg_arena_calloc(&f->arena, 1, sizeof(*entry));

    assert_non_null(entry);
    *entry = (ledger_append_entry){
        .id = "",
        .payload = { payload, strlen(payload) },
        .order_key = "",
        .dedup_key = dedup_key,
        .schema_version = 1,
        .source_id = "",
    };
    op->entry = entry;
    op->time_us = TIME_US;
    return op;
}

static inline struct ldg_op *append(int origin, int64_t key, const char *stream,
                                    const char *payload, const char *dedup_key)
{
    return append_key(origin, num(key), stream, payload, dedup_key);
}

static inline struct ldg_op *tag(int origin, int64_t key, const char *stream, const char *text)
{
    struct ldg_op *op = op_add(LDG_OP_SET_TAGS, origin, num(key), stream);
    const char **items = ldg_arena_alloc(&f->arena, sizeof(*items));

    assert_non_null(items);
    items[0] = text;
    op->tags = (ledger_list){ items, 1 };
    return op;
}

static inline struct ldg_op *annotate(int origin, int64_t key, const char *stream, const char *name,
                                      const char *value)
{
    struct ldg_op *op = op_add(LDG_OP_SET_ANNOTATIONS, origin, num(key), stream);
    ledger_pair *items = ldg_arena_alloc(&f->arena, sizeof(*items));

    assert_non_null(items);
    items[0] = (ledger_pair){ name, value };
    op->annotations = (ledger_map){ items, 1 };
    return op;
}

static inline struct ldg_op *trim(int origin, int64_t key, const char *stream)
{
    return op_add(LDG_OP_TRIM, origin, num(key), stream);
}

/* An event that cannot be read. key 0: its entry is not known. */
static inline struct ldg_op *odd(int64_t key, const char *stream, const char *type_name)
{
    struct ldg_op *op = op_add(LDG_OP_PARK, log_number, num(key), stream);

    op->type_name = type_name;
    op->reason = "cannot be read";
    return op;
}

static inline ledger_rc try_batch(enum fake_way way)
{
    const size_t count = op_count;

    memset(outcomes, 0xff, sizeof(outcomes));
    memset(&err, 0, sizeof(err));
    op_count = 0;
    f->ranges = f->looked_up = f->rechecks = f->restarts = f->tries = f->order_looks = 0;
    return fake_apply(f, way, ops, count, outcomes, &err);
}

/* The letters of the outcomes: missing replayed dedup applied parked. */
static inline void outcomes_are(const char *letters)
{
    char got[OPS_MAX + 1] = "";

    for (size_t i = 0; i < strlen(letters); i++)
        got[i] = outcomes[i] <= LDG_OUTCOME_PARKED ? "mrdap"[outcomes[i]] : '?';
    assert_string_equal(got, letters);
}

static inline void run(enum fake_way way, const char *letters)
{
    const ledger_rc rc = try_batch(way);

    if (rc != LEDGER_OK)
        print_error("%s\n", err.message);
    assert_int_equal(rc, LEDGER_OK);
    outcomes_are(letters);
}

/* The rows of a stream as "payload[tags]{annotations} …". */
static inline void holds(const char *stream, const char *want)
{
    char got[2048] = "";
    size_t used = 0;

    for (size_t n = 0; n < f->now->row_count; n++) {
        const struct fake_row *row = &f->now->rows[n];

        if (strcmp(row->stream, stream) != 0)
            continue;
        used +=
            (size_t)snprintf(got + used, sizeof(got) - used, "%s%.*s", used != 0 ? " " : "",
                             (int)row->entry->payload.size, (const char *)row->entry->payload.data);
        for (size_t i = 0; i < row->tags.count; i++)
            used += (size_t)snprintf(got + used, sizeof(got) - used, "[%s]", row->tags.items[i]);
        for (size_t i = 0; i < row->annotations.count; i++)
            used +=
                (size_t)snprintf(got + used, sizeof(got) - used, "{%s=%s}",
                                 row->annotations.items[i].key, row->annotations.items[i].value);
    }
    assert_string_equal(got, want);
}

/* The parked rows as "log_position:reason, …". */
static inline void parked_are(const char *want)
{
    char got[2048] = "";
    size_t used = 0;

    for (size_t n = 0; n < f->now->parked_count; n++)
        used += (size_t)snprintf(got + used, sizeof(got) - used, "%s%" PRId64 ":%s",
                                 used != 0 ? ", " : "", f->now->parked[n].row.log_position,
                                 f->now->parked[n].reason);
    assert_string_equal(got, want);
}

/* The row at `index` again, as ops[0] says now; the batch is empty again. */
static inline bool retry_row(size_t index)
{
    const size_t count = op_count;
    bool applied = false;

    op_count = 0;
    memset(&err, 0, sizeof(err));
    assert_int_equal(fake_retry(f, index, ops, count, &applied, &err), LEDGER_OK);
    return applied;
}

/* The next op is the event at this position of the log. */
static inline void at_position(int64_t position)
{
    positions[log_number] = position - 1;
}

static inline bool refuses_no(void *ctx, const struct ldg_op *op)
{
    return (op->kind == LDG_OP_APPEND && op->entry->payload.size == 4 &&
            memcmp(op->entry->payload.data, "\"no\"", 4) == 0) ||
           (op->kind == LDG_OP_SET_TAGS && strcmp(op->tags.items[0], "no") == 0);
}

#endif
