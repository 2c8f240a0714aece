/* What a bridge needs of a sink: origins, the fenced batch, replays, chains. */
#include "sink.h"

/* --- making batches -------------------------------------------------------------------------- */

struct sink *sink_new(struct conf_env *env, ledger_log_mode log)
{
    struct sink *sink = ldg_arena_calloc(&env->arena, 1, sizeof(*sink));
    ledger_error err;
    sink->env = env;
    ledger_store *store = conf_open_with(env, "sink", NULL, log, 0);
    ok(ldg_store_reopen(store, LDG_ROLE_SINK, NULL, &sink->store, &err)); /* as a bridge does */
    conf_close(env, store);
    conf_keep(env, sink->store);
    ldg_uuid_new(sink->a_identity.uuid);
    ldg_uuid_new(sink->b_identity.uuid);
    sink->a_identity.epoch = sink->b_identity.epoch = 1;
    ok(ldg_store_origin_get(sink->store, &sink->a_identity, "source a", &sink->a, &err));
    ok(ldg_store_origin_get(sink->store, &sink->b_identity, "source b", &sink->b, &err));
    ok(ldg_store_cursor_get(sink->store, "c", true, &sink->cursor, &err));
    return sink;
}

static struct ldg_op *add(struct sink *sink, enum ldg_op_kind kind, int origin, int64_t source_pos,
                          const char *stream)
{
    static const char *const types[] = { "append", "set_tags", "set_annotations", "trim", "odd" };
    assert_true(sink->count < SINK_OPS_MAX);
    struct ldg_op *op = &sink->ops[sink->count];
    char *event = ldg_arena_alloc(&sink->env->arena, 64);
    sink->position++;
    snprintf(event, 64, "{\"event\":%lld}", (long long)sink->position);
    *op = (struct ldg_op){
        .kind = kind,
        .origin = origin,
        .mutation_origin = origin,
        .position = sink->position,
        .log_position = sink->position,
        .stream = stream,
        .key.number = source_pos,
        .time_us = SINK_TIME_US + sink->position * 1000000,
        .type_name = types[kind],
        .source_uuid = sink->a_identity.uuid,
        .log_time_us = SINK_TIME_US,
        .event = conf_bytes(event),
        .event_index = (uint32_t)sink->count,
    };
    sink->count++;
    return op;
}

struct ldg_op *sink_append(struct sink *sink, int origin, int64_t source_pos, const char *stream,
                           const char *payload, const char *dedup_key)
{
    struct ldg_op *op = add(sink, LDG_OP_APPEND, origin, source_pos, stream);
    ledger_append_entry *entry = ldg_arena_calloc(&sink->env->arena, 1, sizeof(*entry));
    char *id = ldg_arena_alloc(&sink->env->arena, 32);
    snprintf(id, 32, "%lld", (long long)source_pos);
    *entry = (ledger_append_entry){
        .id = id,
        .payload = conf_bytes(payload),
        .order_key = "o",
        .dedup_key = dedup_key ? dedup_key : "",
        .schema_version = 2,
        .metadata = conf_map({ "k", "v" }, { "l", "w" }),
        .tags = (ledger_list){ 0 },
        .created_at_us = op->time_us,
        .source_id = "",
    };
    /* the literals above die with this function */
    ledger_pair *pairs =
        ldg_arena_memdup(&sink->env->arena, entry->metadata.items, 2 * sizeof(ledger_pair));
    entry->metadata.items = pairs;
    op->entry = entry;
    return op;
}

struct ldg_op *sink_tags(struct sink *sink, int origin, int64_t source_pos, const char *stream,
                         const char *tag)
{
    struct ldg_op *op = add(sink, LDG_OP_SET_TAGS, origin, source_pos, stream);
    const char **items = ldg_arena_alloc(&sink->env->arena, sizeof(*items));
    items[0] = tag;
    op->tags = (ledger_list){ .items = items, .count = 1 };
    return op;
}

struct ldg_op *sink_annotate(struct sink *sink, int origin, int64_t source_pos, const char *stream,
                             const char *key, const char *value)
{
    struct ldg_op *op = add(sink, LDG_OP_SET_ANNOTATIONS, origin, source_pos, stream);
    ledger_pair *items = ldg_arena_alloc(&sink->env->arena, sizeof(*items));
    items[0] = (ledger_pair){ key, value };
    op->annotations = (ledger_map){ .items = items, .count = 1 };
    return op;
}

struct ldg_op *sink_trim(struct sink *sink, int origin, int64_t source_pos, const char *stream)
{
    return add(sink, LDG_OP_TRIM, origin, source_pos, stream);
}

struct ldg_op *sink_park(struct sink *sink, int64_t source_pos, const char *stream,
                         const char *reason)
{
    struct ldg_op *op = add(sink, LDG_OP_PARK, sink->a, source_pos, stream);
    op->reason = reason;
    return op;
}

ledger_rc sink_try(struct sink *sink, ledger_error *err)
{
    struct ldg_cursor next_cursor = { .moved_at_us = SINK_TIME_US };
    snprintf(next_cursor.state, sizeof(next_cursor.state), "state %lld", (long long)sink->position);
    snprintf(next_cursor.readable, sizeof(next_cursor.readable), "%019lld",
             (long long)sink->position);
    const struct ldg_apply apply = {
        .name = "c",
        .expected = &sink->cursor,
        .next = &next_cursor,
        .ops = sink->ops,
        .count = sink->count,
        .park_rejected = sink->park_rejected,
    };
    memset(sink->outcomes, 0xff, sizeof(sink->outcomes));
    ledger_rc rc = ldg_store_apply(sink->store, &apply, sink->outcomes, err);
    if (rc == LEDGER_OK)
        sink->cursor = next_cursor;
    sink->count = 0;
    return rc;
}

void sink_run(struct sink *sink)
{
    ledger_error err;
    ok(sink_try(sink, &err));
}

void sink_is_at(const struct sink *sink, const char *letters, const char *file, int line)
{
    char got[SINK_OPS_MAX + 1] = "";
    for (size_t i = 0; i < strlen(letters); i++)
        got[i] = sink->outcomes[i] <= LDG_OUTCOME_PARKED ? "mrdap"[sink->outcomes[i]] : '?';
    if (strcmp(got, letters) != 0) {
        print_error("outcomes are %s, not %s\n", got, letters);
        _fail(file, line);
    }
}

void sink_holds_at(const struct sink *sink, const char *stream, const char *want, const char *file,
                   int line)
{
    char got[2048] = "";
    ledger_batch *batch = conf_read(sink->store, stream, NULL);
    for (size_t i = 0; i < ledger_batch_count(batch); i++) {
        const ledger_entry *e = ledger_batch_entry(batch, i);
        size_t used = strlen(got);
        used += (size_t)snprintf(got + used, sizeof(got) - used, "%s%.*s", i ? " " : "",
                                 (int)e->payload.size, (const char *)e->payload.data);
        for (size_t k = 0; k < e->tags.count; k++)
            used += (size_t)snprintf(got + used, sizeof(got) - used, "[%s]", e->tags.items[k]);
        for (size_t k = 0; k < e->annotations.count; k++)
            used += (size_t)snprintf(got + used, sizeof(got) - used, "{%s=%s}",
                                     e->annotations.items[k].key, e->annotations.items[k].value);
    }
    ledger_batch_destroy(&batch);
    if (strcmp(got, want) != 0) {
        print_error("stream %s holds \"%s\", not \"%s\"\n", stream, got, want);
        _fail(file, line);
    }
}

/* --- origins and cursors --------------------------------------------------------------------- */

static void origins_have_numbers(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_identity own, *items, unknown = { .epoch = 1 };
    int number = -1, *numbers;
    size_t count;
    ledger_error err;
    ok(ldg_store_origin_list(conf_open(env, "new"), &env->arena, &items, &numbers, &count, &err));
    assert_int_equal(count, 0);
    assert_true(sink->a > 0 && sink->b > 0 && sink->a != sink->b);
    ok(ldg_store_origin_get(sink->store, &sink->a_identity, "", &number, &err));
    assert_int_equal(number, sink->a);
    ok(ldg_store_identity(sink->store, &own, &err));
    ok(ldg_store_origin_get(sink->store, &own, "", &number, &err));
    assert_int_equal(number, 0);
    sink->a_identity.epoch = 2; /* another life of the same store */
    ok(ldg_store_origin_get(conf_open(env, "sink"), &sink->a_identity, "", &number, &err));
    assert_true(number > 0 && number != sink->a && number != sink->b);
    ok(ldg_store_origin_list(sink->store, &env->arena, &items, &numbers, &count, &err));
    assert_int_equal(count, 3);
    for (size_t i = 0; i < count; i++) {
        assert_true(numbers[i] > (i ? numbers[i - 1] : 0));
        if (numbers[i] == sink->b)
            assert_string_equal(items[i].uuid, sink->b_identity.uuid);
        assert_int_equal(items[i].epoch, numbers[i] == number ? 2 : 1);
    }
    for (sink->a_identity.epoch = 3; sink->a_identity.epoch <= 40; sink->a_identity.epoch++)
        ok(ldg_store_origin_get(sink->store, &sink->a_identity, NULL, &number, &err));
    ok(ldg_store_origin_list(sink->store, &env->arena, &items, &numbers, &count, &err));
    assert_int_equal(count, 41);
    assert_int_equal(items[40].epoch, 40);
    assert_int_equal(numbers[40], number);
    ledger_store *reader =
        conf_open_with(env, "sink", NULL, LEDGER_MUTATION_LOG_AUTO, LEDGER_STORE_READ_ONLY);
    ok(ldg_store_origin_get(reader, &sink->b_identity, "", &number, &err));
    assert_int_equal(number, sink->b);
    ldg_uuid_new(unknown.uuid);
    fails(ldg_store_origin_get(reader, &unknown, "", &number, &err), READ_ONLY);
}

static void cursor_rows(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_cursor row,
        next_row = { .state = "s1", .readable = "1", .moved_at_us = SINK_TIME_US };
    char text[LEDGER_ID_TEXT_MAX];
    ledger_error err;
    assert_string_equal(sink->cursor.state, "");
    assert_string_equal(sink->cursor.readable, "");
    assert_true(sink->cursor.moved_at_us == LEDGER_NO_TIME);
    fails(ledger_store_cursor_get(sink->store, "c", text, &err), NOT_FOUND);
    row.moved_at_us = 1;
    fails(ldg_store_cursor_get(sink->store, "none", false, &row, &err), NOT_FOUND);
    assert_int_equal(row.moved_at_us, 1);
    ok(ldg_store_cursor_get(conf_open(env, "sink"), "c", false, &row, &err)); /* committed */
    ok(ldg_store_cursor_set(sink->store, "c", &sink->cursor, &next_row, &err));
    fails(ldg_store_cursor_set(sink->store, "c", &sink->cursor, &next_row, &err), FENCED);
    fails(ldg_store_cursor_set(sink->store, "none", &sink->cursor, &next_row, &err), FENCED);
    ok(ldg_store_cursor_get(sink->store, "c", false, &row, &err));
    assert_string_equal(row.state, "s1");
    assert_string_equal(row.readable, "1");
    const int64_t precision_us = ldg_store_time_precision_us(sink->store);
    assert_in_range(SINK_TIME_US - row.moved_at_us, 0, precision_us - 1);
    memset(next_row.state, 's', sizeof(next_row.state) - 1);
    next_row.moved_at_us = LEDGER_NO_TIME;
    ok(ldg_store_cursor_set(sink->store, "new", NULL, &next_row, &err));
    ok(ldg_store_cursor_get(sink->store, "new", false, &row, &err));
    assert_string_equal(row.state, next_row.state);
    assert_true(row.moved_at_us == LEDGER_NO_TIME);
    ok(ledger_store_cursor_set(sink->store, "c", "7", &err)); /* a program's own: no state */
    ok(ldg_store_cursor_get(sink->store, "c", true, &row, &err));
    assert_string_equal(row.state, "");
    assert_string_equal(row.readable, "7");
    ok(ledger_store_begin(sink->store, &err));
    fails(ldg_store_cursor_set(sink->store, "c", NULL, &next_row, &err), INVALID);
    fails(ldg_store_cursor_get(sink->store, "c2", true, &row, &err), INVALID);
    ok(ledger_store_rollback(sink->store, &err));
}

/* --- the batch ------------------------------------------------------------------------------- */

static void apply_brings_every_field(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    char text[LEDGER_ID_TEXT_MAX];
    ledger_id id;
    struct ldg_cursor row;
    ledger_error err;
    sink_append(sink, sink->a, 41, "s", " {\"a\": 1.0} ", "key");
    const int64_t second_us = SINK_TIME_US + 543; /* is cut, not rounded */
    sink_append(sink, sink->a, 42, "s", "2", NULL)->time_us = second_us;
    sink_tags(sink, sink->a, 42, "s", "t");
    const int64_t changed_us = SINK_TIME_US + 9000543;
    sink_annotate(sink, sink->a, 42, "s", "k", "v")->time_us = changed_us;
    sink_run(sink);
    sink_is(sink, "aaaa");
    ledger_batch *batch = conf_read(sink->store, "s", NULL);
    assert_int_equal(ledger_batch_count(batch), 2);
    const ledger_entry *e = ledger_batch_entry(batch, 0);
    assert_int_equal(e->payload.size, 12);
    assert_memory_equal(e->payload.data, " {\"a\": 1.0} ", 12);
    assert_string_equal(e->order_key, "o");
    assert_string_equal(e->dedup_key, "key");
    assert_int_equal(e->schema_version, 2);
    assert_true(conf_map_is(e->metadata, "k=v,l=w"));
    assert_string_equal(e->source_id, "41");
    assert_string_equal(e->origin, sink->a_identity.uuid);
    assert_true(e->updated_at_us == LEDGER_NO_TIME);
    e = ledger_batch_entry(batch, 1);
    const int64_t precision_us = ldg_store_time_precision_us(sink->store);
    assert_true(e->created_at_us == second_us / precision_us * precision_us);
    assert_true(e->updated_at_us == changed_us / precision_us * precision_us);
    assert_true(conf_list_is(e->tags, "t"));
    assert_true(conf_map_is(e->annotations, "k=v"));
    ok(ledger_store_find_by_source_id(sink->store, "s", "42", &id, &err));
    assert_int_equal(id.number, e->id.number);
    fails(ledger_store_find_by_source_id(sink->store, "t", "42", &id, &err), NOT_FOUND);
    fails(ledger_store_find_by_source_id(sink->store, "s", "4", &id, &err), NOT_FOUND);
    fails(ledger_store_find_by_source_id(sink->store, "s", "", &id, &err), INVALID);
    ledger_batch_destroy(&batch);
    ok(ledger_store_cursor_get(sink->store, "c", text, &err));
    assert_string_equal(text, "0000000000000000004");
    ok(ldg_store_cursor_get(sink->store, "c", false, &row, &err));
    assert_string_equal(row.state, "state 4");
    assert_true(row.moved_at_us / 1000 == SINK_TIME_US / 1000);
}

static void apply_again_changes_nothing(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    const ledger_map unsorted = conf_map({ "b", "<" }, { "a", "\xc3\xa9" });
    ledger_mutation_event *events;
    int64_t updated_us = 0;
    for (int round = 0; round < 3; round++) {
        sink->position = 0;
        sink_append(sink, sink->a, 1, "s", "1", "k");
        struct ldg_op *op = sink_append(sink, sink->a, 2, "s", "2", NULL);
        ((ledger_append_entry *)op->entry)->metadata = unsorted;
        sink_tags(sink, sink->a, 1, "s", "t");
        sink_annotate(sink, sink->a, 1, "s", "k", "v");
        sink_trim(sink, sink->a, 1, "t");
        sink_run(sink);
        if (round == 0)
            sink_is(sink, "aaaar");
        else
            sink_is(sink, "rrrrr");
        sink_holds(sink, "s", "1[t]{k=v} 2");
        ledger_batch *batch = conf_read(sink->store, "s", NULL);
        if (round > 0)
            assert_true(ledger_batch_entry(batch, 0)->updated_at_us == updated_us);
        updated_us = ledger_batch_entry(batch, 0)->updated_at_us;
        ledger_batch_destroy(&batch);
        assert_int_equal(conf_events(env, sink->store, &events, NULL), 4);
    }
}

static void apply_notices_a_used_position(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    struct ldg_cursor row;
    ledger_error err;
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    const int64_t first_us = sink->ops[0].time_us;
    sink_run(sink);
    const struct {
        const char *field, *stream, *payload, *dedup_key, *order_key;
        int schema_version;
    } rows[] = {
        { "stream", "S", "1", NULL, "o", 2 },    { "payload", "s", "2", NULL, "o", 2 },
        { "payload", "s", "1 ", NULL, "o", 2 },  { "dedup_key", "s", "1", "k", "o", 2 },
        { "order_key", "s", "1", NULL, "p", 2 }, { "schema_version", "s", "1", NULL, "o", 3 },
        { "metadata", "s", "1", NULL, "o", 2 },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        sink_append(sink, sink->a, 100 + (int64_t)i, "s", "5", NULL);
        struct ldg_op *op =
            sink_append(sink, sink->a, 1, rows[i].stream, rows[i].payload, rows[i].dedup_key);
        ledger_append_entry *entry = (ledger_append_entry *)op->entry;
        op->time_us = first_us;
        entry->order_key = rows[i].order_key;
        entry->schema_version = rows[i].schema_version;
        if (strcmp(rows[i].field, "metadata") == 0)
            entry->metadata.count--;
        char where[64], what[64];
        snprintf(where, sizeof(where), "stream \"%s\"", rows[i].stream);
        snprintf(what, sizeof(what), "another %s", rows[i].field);
        fails(sink_try(sink, &err), POSITION_REUSED);
        assert_non_null(strstr(err.message, where));
        assert_non_null(strstr(err.message, what));
    }
    sink_holds(sink, "s", "1"); /* nothing of those batches */
    /* of an event that Go wrote the payload is known in Go's form only, and no time */
    sink_append(sink, sink->a, 1, "s", "1", "k")->inexact = true;
    fails(sink_try(sink, &err), POSITION_REUSED);
    sink_append(sink, sink->a, 1, "s", "1.0", NULL)->inexact = true;
    fails(sink_try(sink, &err), POSITION_REUSED);
    sink_append(sink, sink->a, 1, "s", " 1 ", NULL)->inexact = true;
    sink_run(sink);
    sink_is(sink, "r");
    sink_holds(sink, "s", "1");
    ok(ldg_store_cursor_get(sink->store, "c", false, &row, &err));
    assert_string_equal(row.state, sink->cursor.state);
}

static void replays_have_the_same_time(struct conf_env *env)
{
    /* Two stores that are copies of one give the same ids to entries of other moments. */
    static const int64_t shifts[] = { 0, 300, 543, 544, -456, -457, 86400000000 };
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    ledger_error err;
    for (int park = 0; park < 2; park++) {
        if (park) /* the way op by op */
            sink_park(sink, 1, "s", "parked")->type_name = "append";
        sink_append(sink, sink->a, 1 + park, "s", "1", NULL);
        struct ldg_op first = sink->ops[park];
        sink_run(sink);
        for (size_t i = 0; i < sizeof(shifts) / sizeof(shifts[0]); i++) {
            sink->ops[0] = first;
            sink->ops[0].time_us += shifts[i];
            sink->count = 1;
            if (shifts[i] >= -456 && shifts[i] < 544) { /* the same millisecond */
                sink_run(sink);
                sink_is(sink, "r");
            } else {
                fails(sink_try(sink, &err), POSITION_REUSED);
                assert_non_null(strstr(err.message, "created_at"));
                assert_non_null(strstr(err.message, "--new-identity"));
            }
        }
        sink->ops[0] = first; /* a time that is not known is none that differs */
        sink->ops[0].time_us = LEDGER_NO_TIME;
        sink->count = 1;
        sink_run(sink);
        sink_is(sink, "r");
    }
    sink_holds(sink, "s", "1 1");
}

/* What was written here is compared as what was carried: ids given out twice are noticed. */
static void own_entries_come_back(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    ledger_error err;
    const int64_t id = conf_append(sink->store, "s", "1");
    ledger_batch *batch = conf_read(sink->store, "s", NULL);
    const int64_t written_us = ledger_batch_entry(batch, 0)->created_at_us;
    ledger_batch_destroy(&batch);
    for (int same = 0; same < 2; same++) {
        struct ldg_op *op = sink_append(sink, 0, id, "s", same ? "1" : "2", NULL);
        ledger_append_entry *entry = (ledger_append_entry *)op->entry;
        op->time_us = entry->created_at_us = written_us;
        entry->order_key = "";
        entry->schema_version = 1;
        entry->metadata = (ledger_map){ 0 };
        if (!same) {
            fails(sink_try(sink, &err), POSITION_REUSED);
            assert_non_null(strstr(err.message, "was written here"));
        }
    }
    sink_append(sink, 0, id + 1000, "s", "9", NULL); /* trimmed since */
    sink_run(sink);
    sink_is(sink, "rm");
    sink_holds(sink, "s", "1");
}

static void apply_respects_dedup_keys(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    ledger_mutation_event *events;
    conf_append_dedup(sink->store, "s", "\"local\"", "k1");
    sink_append(sink, sink->a, 1, "s", "1", "k1");
    sink_append(sink, sink->a, 2, "s", "2", "k2");
    sink_append(sink, sink->b, 2, "s", "3", "k2");
    sink_append(sink, sink->b, 3, "t", "4", "k1");
    sink_tags(sink, sink->a, 1, "s", "lost"); /* of an entry that is not here */
    sink_append(sink, sink->a, 4, "s", "5", "k2");
    sink_append(sink, sink->a, 5, "t", "6", ""); /* no key is no duplicate of no key */
    sink_append(sink, sink->a, 6, "t", "7", "");
    sink_run(sink);
    sink_is(sink, "dadamdaa");
    sink_holds(sink, "s", "\"local\" 2");
    sink_holds(sink, "t", "4 6 7");
    assert_int_equal(conf_events(env, sink->store, &events, NULL), 5);
}

static void apply_frees_a_key_by_trim(struct conf_env *env)
{
    /* Append K, trim, append K: one K is left, in one batch and over several; beside a duplicate,
     * with which a batch may go another way, too. */
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    sink_append(sink, sink->a, 1, "s", "1", "k");
    sink_trim(sink, sink->a, 1, "s");
    sink_append(sink, sink->a, 2, "s", "2", "k");
    sink_tags(sink, sink->a, 2, "s", "t");
    sink_run(sink);
    sink_is(sink, "aaaa");
    sink_holds(sink, "s", "2[t]");
    sink_trim(sink, sink->a, 2, "s");
    sink_append(sink, sink->a, 3, "s", "3", "k");
    sink_append(sink, sink->a, 1, "t", "x", NULL)->key.number = 4;
    sink_run(sink);
    sink_is(sink, "aaa");
    sink_holds(sink, "s", "3");
    sink_append(sink, sink->a, 5, "t", "x", "same");
    sink_append(sink, sink->a, 6, "t", "y", "same");
    sink_append(sink, sink->a, 101, "s", "4", "K");
    sink_trim(sink, sink->a, 101, "s");
    sink_append(sink, sink->a, 102, "s", "5", "K");
    sink_run(sink);
    sink_is(sink, "adaaa");
    sink_holds(sink, "s", "5");
}

static void apply_is_fenced(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    struct ldg_cursor first = sink->cursor, row;
    ledger_error err;
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_run(sink);
    const struct ldg_cursor second = sink->cursor;
    sink->cursor = first;
    sink_append(sink, sink->a, 2, "s", "2", NULL);
    fails(sink_try(sink, &err), FENCED);
    assert_true(err.flags & LEDGER_ERROR_RETRY);
    sink->cursor = second;
    sink->cursor.readable[0] = 'x'; /* somebody set it by hand */
    sink_append(sink, sink->a, 2, "s", "2", NULL);
    fails(sink_try(sink, &err), FENCED);
    assert_non_null(strstr(err.message, "\"0000000000000000001\"")); /* where it is */
    assert_int_equal(sink->outcomes[0], 0xff);                       /* untouched */
    sink_holds(sink, "s", "1");
    /* a worker checks the fence and leaves the cursor */
    sink_append(sink, sink->a, 2, "s", "2", NULL);
    struct ldg_apply apply = { .name = "c", .expected = &first, .ops = sink->ops, .count = 1 };
    fails(ldg_store_apply(sink->store, &apply, sink->outcomes, &err), FENCED);
    apply.expected = &second;
    ok(ldg_store_apply(sink->store, &apply, sink->outcomes, &err));
    sink_is(sink, "a");
    ok(ldg_store_cursor_get(sink->store, "c", false, &row, &err));
    assert_string_equal(row.state, second.state);
    /* the fence alone */
    apply.count = 0;
    ok(ldg_store_apply(sink->store, &apply, sink->outcomes, &err));
    apply.expected = &first;
    fails(ldg_store_apply(sink->store, &apply, sink->outcomes, &err), FENCED);
    ok(ldg_store_cursor_get(sink->store, "c", false, &row, &err));
    assert_string_equal(row.state, second.state);
    /* no fence at all */
    sink->count = 0;
    sink_append(sink, sink->a, 3, "s", "3", NULL);
    apply = (struct ldg_apply){ .ops = sink->ops, .count = 1 };
    ok(ldg_store_apply(sink->store, &apply, sink->outcomes, &err));
    sink_holds(sink, "s", "1 2 3");
    apply = (struct ldg_apply){
        .name = "none", .expected = &first, .next = &second, .ops = sink->ops, .count = 1
    };
    fails(ldg_store_apply(sink->store, &apply, sink->outcomes, &err), FENCED);
    ok(ldg_store_cursor_get(sink->store, "c", false, &row, &err));
    assert_string_equal(row.state, second.state);
    /* an empty batch moves the cursor */
    sink->count = 0;
    sink->cursor = second;
    sink->position = 99;
    sink_run(sink);
    ok(ldg_store_cursor_get(sink->store, "c", false, &row, &err));
    assert_string_equal(row.readable, "0000000000000000099");
    ok(ledger_store_begin(sink->store, &err));
    fails(sink_try(sink, &err), INVALID);
    ok(ledger_store_rollback(sink->store, &err));
}

static void apply_keeps_the_later_change(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_tags(sink, sink->a, 1, "s", "five")->position = 5;
    sink_tags(sink, sink->a, 1, "s", "four")->position = 4;
    sink_annotate(sink, sink->a, 1, "s", "k", "three")->position = 3;
    sink_annotate(sink, sink->a, 1, "s", "k", "six")->position = 6;
    sink_annotate(sink, sink->a, 1, "s", "k", "six")->position = 6;
    sink_run(sink);
    sink_is(sink, "aaraar");
    sink_holds(sink, "s", "1[five]{k=six}");
    /* a change made in another store is of another log: its position says nothing */
    sink_tags(sink, sink->a, 1, "s", "of b")->mutation_origin = sink->b;
    sink->ops[0].position = 1;
    sink_annotate(sink, sink->a, 1, "s", "k", NULL)->mutation_origin = sink->b;
    sink->ops[1].position = 1;
    sink_tags(sink, sink->a, 1, "s", "five")->position = 5;
    sink_tags(sink, sink->a, 1, "s", "seven")->position = 7;
    sink_tags(sink, sink->a, 1, "t", "x")->position = 8; /* not of this stream */
    sink_tags(sink, sink->a, 2, "s", "x")->position = 9;
    sink_run(sink);
    sink_is(sink, "aaramm");
    sink_holds(sink, "s", "1[seven]");
    sink_annotate(sink, sink->a, 1, "s", "k", "new")->position = 60;
    sink_annotate(sink, sink->a, 1, "s", "k", "old")->position = 60;
    sink_annotate(sink, sink->a, 1, "s", "l", "more")->position = 61;
    sink_run(sink);
    sink_is(sink, "ara");
    sink_holds(sink, "s", "1[seven]{k=new}{l=more}");
    sink_annotate(sink, sink->a, 1, "s", "k", NULL)->position = 62;
    sink_run(sink);
    sink_holds(sink, "s", "1[seven]{l=more}");
}

static void apply_foreign_changes_once(struct conf_env *env)
{
    /* Changes that b made to entries which are not its own come by two ways, or a second time. */
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_ON);
    ledger_mutation_event *events;
    ledger_error err;
    const int64_t own = conf_append(sink->store, "s", "0");
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    for (int way = 0; way < 2; way++) {
        sink_tags(sink, sink->a, 1, "s", "of b")->position = 5;
        sink_annotate(sink, sink->a, 1, "s", "k", "of b")->position = 6;
        sink_tags(sink, 0, own, "s", "of b")->position = 7;
        sink_annotate(sink, 0, own, "s", "k", "of b")->position = 8;
        for (size_t i = sink->count - 4; i < sink->count; i++)
            sink->ops[i].mutation_origin = sink->b;
        sink_tags(sink, sink->a, 1, "s", "of a")->position = 1;
        sink_run(sink);
        if (way == 0)
            sink_is(sink, "aaaaaa");
        else
            sink_is(sink, "rrrrr");
        sink_holds(sink, "s", "0[of b]{k=of b} 1[of a]{k=of b}");
        assert_int_equal(conf_events(env, sink->store, &events, NULL), 7);
    }
    sink_tags(sink, sink->a, 1, "s", "older")->position = 4;
    sink_tags(sink, sink->a, 1, "s", "newer")->position = 6;
    for (size_t i = 0; i < 2; i++)
        sink->ops[i].mutation_origin = sink->b;
    sink_run(sink);
    sink_is(sink, "ra");
    sink_holds(sink, "s", "0[of b]{k=of b} 1[newer]{k=of b}");
    /* what was deleted and is carried again begins anew, whoever has deleted it */
    static const ledger_id kept[] = { { .number = 7 } };
    for (int round = 0; round < 3; round++) {
        if (round == 2) {
            ok(ledger_store_trim(sink->store, "s", conf_id(INT64_MAX), NULL, &err));
        } else {
            sink_trim(sink, sink->a, 1, "s")->survivors = round ? kept : NULL;
            sink->ops[0].survivor_count = round ? 1 : 0;
        }
        sink_append(sink, sink->a, 1, "s", "1", NULL);
        sink_tags(sink, sink->a, 1, "s", "again")->mutation_origin = sink->b;
        sink->ops[sink->count - 1].position = 5;
        sink_run(sink);
        sink_is(sink, "aa");
        sink_holds(sink, "s", round < 2 ? "0[of b]{k=of b} 1[again]" : "1[again]");
    }
}

/* Tags were left out for a while and come after younger annotations, or the other way round. */
static void apply_keeps_kinds_apart(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    ledger_error err;
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_append(sink, sink->a, 2, "s", "2", NULL);
    sink_annotate(sink, sink->a, 1, "s", "k", "nine")->position = 9;
    sink_tags(sink, sink->a, 2, "s", "nine")->position = 9;
    sink_run(sink);
    for (int round = 0; round < 2; round++) {
        sink_tags(sink, sink->a, 1, "s", "five")->position = 5;
        sink_annotate(sink, sink->a, 2, "s", "k", "five")->position = 5;
        sink_tags(sink, sink->a, 1, "s", "four")->position = 4;
        sink_annotate(sink, sink->a, 1, "s", "k", "eight")->position = 8;
        sink_annotate(sink, sink->a, 2, "s", "k", "four")->position = 4;
        sink_tags(sink, sink->a, 2, "s", "eight")->position = 8;
        sink_run(sink);
        sink_is(sink, round == 0 ? "aarrrr" : "rrrrrr");
        sink_holds(sink, "s", "1[five]{k=nine} 2[nine]{k=five}");
    }
    /* The last change made the time, not the one that came last. */
    ledger_batch *batch = conf_read(sink->store, "s", NULL);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(ledger_batch_entry(batch, i)->updated_at_us / 1000000,
                         SINK_TIME_US / 1000000 + 3 + (int64_t)i);
    ledger_batch_destroy(&batch);
    /* All in one batch, the change that is younger in front. */
    sink_append(sink, sink->a, 3, "s", "3", NULL);
    sink_annotate(sink, sink->a, 3, "s", "k", "nine")->position = 99;
    sink_tags(sink, sink->a, 3, "s", "five")->position = 55;
    sink_annotate(sink, sink->a, 1, "s", "k", "later")->position = 99;
    sink_tags(sink, sink->a, 1, "s", "later")->position = 55;
    sink_run(sink);
    sink_is(sink, "aaaaa");
    sink_holds(sink, "s", "1[later]{k=later} 2[nine]{k=five} 3[five]{k=nine}");
    /* Both are forgotten apart. */
    ok(ldg_store_origin_rewind(sink->store, sink->a, 70, &err));
    sink_annotate(sink, sink->a, 3, "s", "k", "new")->position = 80;
    sink_tags(sink, sink->a, 3, "s", "old")->position = 55;
    sink_run(sink);
    sink_is(sink, "ar");
    sink_holds(sink, "s", "1[later]{k=later} 2[nine]{k=five} 3[five]{k=new}");
}

static void origin_rewinds(struct conf_env *env)
{
    /* The source's log was put back to position 5: what comes behind it now is new. */
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    ledger_error err;
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_append(sink, sink->a, 2, "s", "2", NULL);
    sink_tags(sink, sink->a, 1, "s", "nine")->position = 9;
    sink_tags(sink, sink->a, 2, "s", "four")->position = 4;
    sink_annotate(sink, sink->a, 1, "s", "k", "nine")->mutation_origin = sink->b;
    sink->ops[4].position = 9;
    sink_run(sink);
    ok(ldg_store_origin_rewind(sink->store, sink->a, 5, &err));
    sink_tags(sink, sink->a, 1, "s", "six")->position = 6;
    sink_tags(sink, sink->a, 2, "s", "old")->position = 4;
    sink_annotate(sink, sink->a, 1, "s", "k", "old")->mutation_origin = sink->b;
    sink->ops[2].position = 9;
    sink_run(sink);
    sink_is(sink, "arr");
    ok(ldg_store_origin_rewind(sink->store, sink->a, 6, &err));
    ok(ldg_store_origin_rewind(sink->store, sink->b, 5, &err));
    sink_tags(sink, sink->a, 1, "s", "old")->position = 6;
    sink_annotate(sink, sink->a, 1, "s", "k", "six")->mutation_origin = sink->b;
    sink->ops[1].position = 6;
    sink_run(sink);
    sink_is(sink, "ra");
    sink_holds(sink, "s", "1[six]{k=six} 2[four]");
}

/* All that the Go bridge has left with a number; gives how many were changed. */
static uint64_t adopt_all(struct conf_env *env, struct sink *sink, int origin)
{
    struct ldg_claim claims[16];
    struct ldg_history_row *rows;
    size_t count, claim_count = 0;
    uint64_t adopted = 99;
    ledger_error err;
    ok(ldg_store_history(sink->store, LDG_ORIGIN_UNCLAIMED, ldg_id_of(0), 16, SIZE_MAX, &env->arena,
                         &rows, &count, &err));
    for (size_t i = 0; i < count; i++) {
        claims[claim_count].id = rows[i].key;
        claims[claim_count].key.text = NULL;
        assert_int_equal(rows[i].key.number, rows[i].entry->id.number);
        claim_count +=
            ldg_int64_parse(rows[i].entry->source_id, true, &claims[claim_count].key.number);
    }
    ok(ldg_store_origin_adopt(sink->store, origin, claims, claim_count, &adopted, &err));
    return adopted;
}

static void unclaimed_entries(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    ledger_id last = { 0 }, first;
    bool any = true;
    ledger_error err;
    conf_append(sink->store, "s", "1");
    sink_append(sink, sink->a, 1, "s", "2", NULL);
    sink_run(sink);
    ok(ldg_store_origin_unclaimed(sink->store, &any, &err));
    assert_false(any);
    env->backend->put_legacy(conf_url(env, "sink"), LEDGER_DEFAULT_TABLE, "s", "3", "5");
    ok(ldg_store_origin_unclaimed(sink->store, &any, &err));
    assert_true(any);
    ok(ldg_store_origin_last(sink->store, sink->a, &env->arena, &last, &err));
    assert_true(last.number > 0);
    assert_int_equal(adopt_all(env, sink, sink->a), 1);
    first = last;
    ok(ldg_store_origin_last(sink->store, sink->a, &env->arena, &last, &err));
    assert_true(last.number > first.number);
    ok(ldg_store_origin_last(sink->store, sink->b, &env->arena, &last, &err));
    assert_true(ldg_id_is_none(last));
    ok(ldg_store_origin_unclaimed(sink->store, &any, &err));
    assert_false(any);
}

static void apply_changes_local_entries(struct conf_env *env)
{
    /* Entry of the sink itself, tagged further down and brought back. */
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    int64_t id = conf_append(sink->store, "s", "1");
    int64_t other = conf_append(sink->store, "s", "2");
    sink_tags(sink, 0, id, "s", "of a")->mutation_origin = sink->a;
    sink_annotate(sink, 0, other, "s", "k", "v")->mutation_origin = sink->a;
    sink_tags(sink, 0, other + 9, "s", "x")->mutation_origin = sink->a;
    sink_append(sink, sink->a, id, "s", "3", NULL); /* same number, another entry */
    sink_run(sink);
    sink_is(sink, "aama");
    sink_holds(sink, "s", "1[of a] 2{k=v} 3");
    sink_trim(sink, 0, other, "s")->mutation_origin = sink->a;
    sink_run(sink);
    sink_is(sink, "a");
    sink_holds(sink, "s", "3");
    /* the sink's own mutations that come back */
    sink_append(sink, 0, id, "s", "1", NULL);
    sink_append(sink, 0, id, "s", "1", NULL);
    sink_tags(sink, sink->a, id, "s", "own")->mutation_origin = 0;
    sink_run(sink);
    sink_is(sink, "mmr");
    sink_holds(sink, "s", "3");
}

static void apply_keeps_origins_apart(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    sink_append(sink, sink->a, 1, "s", "\"a1\"", NULL);
    sink_append(sink, sink->b, 1, "s", "\"b1\"", NULL);
    sink_append(sink, sink->a, 2, "s", "\"a2\"", NULL);
    sink_append(sink, sink->b, 2, "s", "\"b2\"", NULL);
    sink_tags(sink, sink->a, 1, "s", "ta");
    sink_tags(sink, sink->b, 1, "s", "tb");
    sink_run(sink);
    sink_is(sink, "aaaaaa");
    sink_holds(sink, "s", "\"a1\"[ta] \"b1\"[tb] \"a2\" \"b2\"");
    sink_trim(sink, sink->b, 1, "s");
    sink_run(sink);
    sink_holds(sink, "s", "\"a1\"[ta] \"a2\" \"b2\"");
}

static void apply_trims_by_source_position(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    static const ledger_id kept[] = { { .number = 2 }, { .number = 9 } };
    conf_append(sink->store, "s", "\"local\"");
    static const int64_t positions[] = { 9, 1, 10, 2, 11, 100 };
    for (size_t i = 0; i < 6; i++) {
        char *payload = ldg_arena_alloc(&env->arena, 16);
        snprintf(payload, 16, "%lld", (long long)positions[i]);
        sink_append(sink, sink->a, positions[i], "s", payload, NULL);
    }
    sink_append(sink, sink->a, 3, "t", "3", NULL);
    sink_run(sink);
    struct ldg_op *op =
        sink_trim(sink, sink->a, 10, "s"); /* by number, though "9" > "10" as text */
    op->survivors = kept;
    op->survivor_count = 2;
    sink_run(sink);
    sink_is(sink, "a");
    sink_holds(sink, "s", "\"local\" 9 2 11 100");
    sink_holds(sink, "t", "3");
    sink_trim(sink, sink->a, 50, "s"); /* an id that was never here */
    sink_run(sink);
    sink_holds(sink, "s", "\"local\" 100");
    sink_trim(sink, sink->a, 50, "s");
    sink_run(sink);
    sink_is(sink, "r");
}

static void apply_in_order_of_the_log(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    char want[512] = "";
    for (int i = 0; i < 60; i++) {
        char *payload = ldg_arena_alloc(&env->arena, 16);
        snprintf(payload, 16, "%d", i);
        sink_append(sink, sink->a, 1000 - i, i % 2 ? "s" : "t", payload, NULL);
        if (i % 2)
            snprintf(want + strlen(want), sizeof(want) - strlen(want), "%s%d", i > 1 ? " " : "", i);
    }
    sink_run(sink);
    sink_holds(sink, "s", want);
}

/* What was found once is not what is there the next time. */
static void history_begins_anew(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_history_row *rows;
    size_t count = 99;
    ledger_error err;
    ok(ldg_store_history(sink->store, sink->a, ldg_id_of(0), 3, SIZE_MAX, &env->arena, &rows,
                         &count, &err));
    assert_int_equal(count, 0);
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_run(sink);
    ok(ldg_store_history(sink->store, sink->a, ldg_id_of(0), 3, SIZE_MAX, &env->arena, &rows,
                         &count, &err));
    assert_int_equal(count, 1);
}

static void history_of_an_origin(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_history_row *rows;
    size_t count;
    ledger_error err;
    conf_append(sink->store, "s", "\"local\"");
    for (int i = 0; i < 10; i++)
        sink_append(sink, i % 2 ? sink->a : sink->b, 100 - i, "s", "\"0123456789\"", NULL);
    sink_run(sink);
    ok(ldg_store_history(sink->store, sink->a, ldg_id_of(0), 3, SIZE_MAX, &env->arena, &rows,
                         &count, &err));
    assert_int_equal(count, 3);
    assert_int_equal(rows[0].key.number, 91);
    assert_int_equal(rows[1].key.number, 93);
    assert_int_equal(rows[2].key.number, 95);
    assert_string_equal(rows[2].entry->source_id, "95");
    assert_string_equal(rows[2].entry->origin, sink->a_identity.uuid);
    ok(ldg_store_history(sink->store, sink->a, ldg_id_of(95), 3, SIZE_MAX, &env->arena, &rows,
                         &count, &err));
    assert_int_equal(count, 2);
    assert_int_equal(rows[1].key.number, 99);
    ok(ldg_store_history(sink->store, sink->b, ldg_id_of(0), 100, SIZE_MAX, &env->arena, &rows,
                         &count, &err));
    assert_int_equal(count, 5);
    ok(ldg_store_history(sink->store, 0, ldg_id_of(0), 100, SIZE_MAX, &env->arena, &rows, &count,
                         &err));
    assert_int_equal(count, 1);
    assert_string_equal(rows[0].entry->source_id, "");
    ok(ldg_store_history(sink->store, sink->a, ldg_id_of(0), 100, 1, &env->arena, &rows, &count,
                         &err));
    assert_int_equal(count, 1);
    /* Single ones of them. */
    static const ledger_id some[] = { { .number = 1 },
                                      { .number = 91 },
                                      { .number = 92 },
                                      { .number = 95 },
                                      { .number = 100 } },
                           none[] = { { .number = 92 }, { .number = 94 } };
    ok(ldg_store_history_of(sink->store, sink->a, some, 5, SIZE_MAX, &env->arena, &rows, &count,
                            &err));
    assert_int_equal(count, 2);
    assert_int_equal(rows[0].key.number, 91);
    assert_int_equal(rows[1].key.number, 95);
    assert_string_equal(rows[1].entry->source_id, "95");
    ok(ldg_store_history_of(sink->store, sink->a, some, 5, 1, &env->arena, &rows, &count, &err));
    assert_int_equal(count, 1);
    assert_int_equal(rows[0].key.number, 91);
    ok(ldg_store_history_of(sink->store, sink->a, none, 2, 1, &env->arena, &rows, &count, &err));
    assert_int_equal(count, 0);
    ok(ldg_store_history_of(sink->store, 0, some, 1, SIZE_MAX, &env->arena, &rows, &count, &err));
    assert_int_equal(count, 1);
    assert_int_equal(rows[0].key.number, 1);
    assert_int_equal(rows[0].entry->payload.size, 7);
}

static void adopt_what_go_left(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_history_row *rows;
    size_t count;
    uint64_t adopted = 0;
    ledger_id id;
    ledger_error err;
    const char *url = conf_url(env, "sink");
    int64_t local = conf_append(sink->store, "s", "\"local\"");
    env->backend->put_legacy(url, LEDGER_DEFAULT_TABLE, "s", "\"g5\"", "5");
    env->backend->put_legacy(url, LEDGER_DEFAULT_TABLE, "s", "\"g7\"", "7");
    env->backend->put_legacy(url, LEDGER_DEFAULT_TABLE, "t", "\"text\"", "abc");
    ledger_batch *batch = conf_read(sink->store, "s", NULL);
    assert_string_equal(ledger_batch_entry(batch, 1)->source_id, "5");
    assert_string_equal(ledger_batch_entry(batch, 1)->origin, "");
    ledger_batch_destroy(&batch);
    ok(ledger_store_find_by_source_id(sink->store, "s", "7", &id, &err));
    ok(ldg_store_history(sink->store, 0, ldg_id_of(0), 10, SIZE_MAX, &env->arena, &rows, &count,
                         &err));
    assert_int_equal(count, 4); /* until somebody's, they are of this table */
    assert_int_equal(rows[0].key.number, local);

    const struct ldg_claim wrong = { .id.number = local, .key.number = 9 },
                           twice = { .id.number = local + 1, .key.number = 7 };
    ok(ldg_store_origin_adopt(sink->store, sink->a, &wrong, 1, &adopted, &err));
    assert_int_equal(adopted, 0); /* Go has not left that one */
    assert_int_equal(adopt_all(env, sink, sink->a), 2);
    assert_int_equal(adopt_all(env, sink, sink->a), 0);
    ok(ldg_store_origin_adopt(sink->store, sink->b, &twice, 1, &adopted, &err));
    assert_int_equal(adopted, 0); /* somebody's already */
    batch = conf_read(sink->store, "s", NULL);
    assert_string_equal(ledger_batch_entry(batch, 1)->source_id, "5");
    assert_string_equal(ledger_batch_entry(batch, 1)->origin, sink->a_identity.uuid);
    ledger_batch_destroy(&batch);
    ok(ldg_store_history(sink->store, sink->a, ldg_id_of(0), 10, SIZE_MAX, &env->arena, &rows,
                         &count, &err));
    assert_int_equal(count, 2);
    assert_int_equal(rows[1].key.number, 7);
    struct ldg_op *op = sink_append(sink, sink->a, 5, "s", "\"g5\"", NULL);
    ((ledger_append_entry *)op->entry)->order_key = "";
    ((ledger_append_entry *)op->entry)->schema_version = 1;
    sink_tags(sink, sink->a, 7, "s", "t");
    sink_append(sink, sink->a, 8, "s", "8", NULL);
    sink_trim(sink, sink->a, 5, "s");
    sink_run(sink);
    sink_is(sink, "raaa");
    sink_holds(sink, "s", "\"local\" \"g7\"[t] 8");
}

/* --- chains ---------------------------------------------------------------------------------- */

static void chain_events_name_their_origin(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_ON);
    ledger_mutation_event *events;
    char a[64], b[64], local_id[32];
    snprintf(a, sizeof(a), "%s:1", sink->a_identity.uuid);
    snprintf(b, sizeof(b), "%s:1", sink->b_identity.uuid);
    sink_append(sink, sink->a, 41, "s", " 1 ", "k")->position = 7;
    sink_append(sink, sink->a, 42, "s", "2", NULL)->position = 7;
    sink->ops[1].event_index = sink->ops[0].event_index;
    sink->ops[1].log_position = sink->ops[0].log_position;
    sink_tags(sink, sink->a, 42, "s", "t")->position = 8;
    sink_annotate(sink, sink->a, 42, "s", "k", NULL)->mutation_origin = sink->b;
    sink->ops[3].position = 70;
    const int64_t annotate_us = sink->ops[3].time_us;
    const int64_t tag_us = sink->ops[2].time_us, append_us = sink->ops[0].time_us;
    sink_tags(sink, sink->a, 99, "s", "missing");
    sink_trim(sink, sink->a, 41, "s")->position = 9;
    const int64_t trim_us = sink->ops[5].time_us;
    sink_trim(sink, sink->a, 41, "s"); /* nothing is left of them */
    sink_run(sink);
    sink_is(sink, "aaaamar");
    assert_int_equal(conf_events(env, sink->store, &events, NULL), 4);

    assert_int_equal(events[0].type, LEDGER_MUTATION_APPEND);
    assert_string_equal(events[0].origin, a);
    assert_int_equal(events[0].origin_pos, 7);
    assert_int_equal(events[0].entry_count, 2);
    assert_string_equal(events[0].entries[0].source_id, "41");
    assert_string_equal(events[0].entries[1].source_id, "42");
    assert_string_equal(events[0].entries[0].dedup_key, "k");
    assert_int_equal(events[0].entries[0].payload.size, 3);
    assert_true(events[0].entries[0].created_at_us / 1000 == append_us / 1000);
    assert_true(events[0].entries[1].created_at_us / 1000 == append_us / 1000 + 1000);
    assert_memory_equal(events[0].entries[0].payload.data, " 1 ", 3);
    ledger_batch *batch = conf_read(sink->store, "s", NULL);
    snprintf(local_id, sizeof(local_id), "%lld",
             (long long)ledger_batch_entry(batch, 0)->id.number);
    ledger_batch_destroy(&batch);
    assert_string_equal(events[0].entries[1].id, local_id);

    assert_int_equal(events[1].type, LEDGER_MUTATION_SET_TAGS);
    assert_string_equal(events[1].origin, a);
    assert_int_equal(events[1].origin_pos, 8);
    assert_string_equal(events[1].entry_id, local_id);
    assert_string_equal(events[1].source_id, "42");
    assert_string_equal(events[1].entry_origin, "");
    assert_true(conf_list_is(events[1].tags, "t"));
    assert_true(events[1].created_at_us / 1000 == tag_us / 1000);

    assert_string_equal(events[2].origin, b);
    assert_string_equal(events[2].entry_origin, a);
    assert_string_equal(events[2].source_id, "42");
    assert_int_equal(events[2].origin_pos, 70);
    assert_string_equal(events[2].entry_id, local_id);
    assert_true(conf_map_is(events[2].annotations, "k=(null)"));
    assert_true(events[2].created_at_us / 1000 == annotate_us / 1000);

    assert_int_equal(events[3].type, LEDGER_MUTATION_TRIM);
    assert_string_equal(events[3].origin, a);
    assert_int_equal(events[3].origin_pos, 9);
    assert_true(events[3].created_at_us / 1000 == trim_us / 1000);
    assert_string_equal(events[3].source_id, "41");
    assert_string_equal(events[3].before_id, events[0].entries[0].id); /* for a Go bridge */
}

static int64_t late_us;

/* Each look at the clock is later than the one before. */
static int64_t late_clock(void)
{
    return late_us += 1500;
}

static void chain_events_say_when_and_whose(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_ON);
    ledger_mutation_event *events;
    char a[64], b[64];
    snprintf(a, sizeof(a), "%s:1", sink->a_identity.uuid);
    snprintf(b, sizeof(b), "%s:1", sink->b_identity.uuid);
    struct ldg_op *op = sink_append(sink, sink->a, 41, "s", "1", NULL);
    op->time_us = ((ledger_append_entry *)op->entry)->created_at_us = LEDGER_NO_TIME;
    op = sink_append(sink, sink->a, 42, "s", "2", NULL); /* of an entry that is another store's */
    op->mutation_origin = sink->b;
    const int64_t time_us = op->time_us;
    /* the first entry of this event is here already */
    op = sink_append(sink, sink->a, 42, "s", "2", NULL);
    op->time_us = time_us;
    sink_append(sink, sink->a, 43, "s", "3", NULL)->event_index = op->event_index;
    const int64_t last_us = sink->ops[3].time_us;
    late_us = ldg_clock_now_us();
    ldg_clock_set_now(late_clock);
    sink_run(sink);
    ldg_clock_set_now(NULL);
    sink_is(sink, "aara");
    assert_int_equal(conf_events(env, sink->store, &events, NULL), 3);
    ledger_batch *batch = conf_read(sink->store, "s", NULL);
    const int64_t stored_us = ledger_batch_entry(batch, 0)->created_at_us;
    ledger_batch_destroy(&batch);
    assert_true(events[0].created_at_us / 1000 == stored_us / 1000);
    assert_true(events[0].entries[0].created_at_us / 1000 == stored_us / 1000);
    assert_string_equal(events[0].entry_origin, "");
    assert_true(events[1].created_at_us == time_us); /* more than the table may keep of it */
    assert_string_equal(events[1].origin, b);
    assert_string_equal(events[1].entry_origin, a);
    assert_int_equal(events[2].entry_count, 1);
    assert_true(events[2].created_at_us == last_us);
    assert_true(events[2].entries[0].created_at_us == last_us);
}

/* A Go bridge knows entries by their id here, and drops a trim whose before_id names none. */
static void chain_trims_name_the_highest_id(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_ON);
    ledger_mutation_event *events;
    const ledger_id kept[] = { { .number = 3 } };
    for (int i = 1; i <= 6; i++)
        sink_append(sink, sink->a, i, "s", "1", NULL);
    sink_append(sink, sink->b, 1, "s", "2", NULL);
    sink_run(sink);
    /* A position that the sink never had; one that the source has kept; nothing that is left. */
    sink_trim(sink, sink->a, 2, "s");
    struct ldg_op *trim = sink_trim(sink, sink->a, 4, "s");
    trim->survivors = kept;
    trim->survivor_count = 1;
    trim = sink_trim(sink, sink->a, 4, "s");
    trim->survivors = kept;
    trim->survivor_count = 1;
    sink_run(sink);
    sink_is(sink, "aar");
    /* Added and trimmed in one batch. */
    sink_append(sink, sink->a, 7, "s", "1", NULL);
    sink_append(sink, sink->a, 8, "s", "1", NULL);
    sink_trim(sink, sink->a, 7, "s");
    sink_run(sink);
    assert_int_equal(conf_events(env, sink->store, &events, NULL), 12);
    const char *ids[9];
    for (int i = 0; i < 6; i++)
        ids[i + 1] = events[i].entries[0].id;
    ids[7] = events[9].entries[0].id;
    assert_string_equal(events[7].before_id, ids[2]);
    assert_string_equal(events[7].source_id, "2");
    assert_string_equal(events[8].before_id, ids[4]);
    assert_string_equal(events[8].source_id, "4");
    assert_string_equal(events[11].before_id, ids[7]);
    assert_string_equal(events[11].source_id, "7");
}

static void local_changes_of_bridged_entries(struct conf_env *env)
{
    /* A program that is there before the first bridge comes. */
    ledger_store *program = conf_open_with(env, "sink", NULL, LEDGER_MUTATION_LOG_ON, 0);
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_ON);
    ledger_mutation_event *events;
    ledger_error err;
    char a[64], b[64];
    snprintf(a, sizeof(a), "%s:1", sink->a_identity.uuid);
    snprintf(b, sizeof(b), "%s:1", sink->b_identity.uuid);
    sink_append(sink, sink->a, 41, "s", "1", NULL);
    sink_append(sink, sink->a, 42, "s", "2", NULL);
    sink_append(sink, sink->b, 7, "s", "3", NULL);
    sink_append(sink, sink->b, 8, "t", "3", NULL);
    sink_run(sink);
    conf_append(program, "s", "4");
    sink_append(sink, sink->a, 44, "s", "5", NULL);
    sink_run(sink);
    ledger_batch *batch = conf_read(sink->store, "s", NULL);
    const ledger_id first = ledger_batch_entry(batch, 0)->id,
                    last = ledger_batch_entry(batch, 3)->id;
    char ids[3][32];
    for (int i = 0; i < 3; i++)
        snprintf(ids[i], sizeof(ids[i]), "%lld",
                 (long long)ledger_batch_entry(batch, (size_t)i)->id.number);
    ledger_batch_destroy(&batch);
    ok(ledger_store_set_tags(program, "s", first, conf_list("here"), &err));
    ok(ledger_store_set_annotations(program, "s", first, conf_map({ "k", "v" }), &err));
    ok(ledger_store_trim(program, "s", last, NULL, &err));
    assert_int_equal(conf_events(env, sink->store, &events, NULL), 11);
    for (int i = 6; i < 8; i++) {
        assert_string_equal(events[i].entry_id, ids[0]);
        assert_string_equal(events[i].origin, "");
        assert_string_equal(events[i].entry_origin, a);
        assert_string_equal(events[i].source_id, "41");
    }
    bool seen_a = false, seen_b = false, seen_own = false;
    assert_string_equal(events[8].entry_origin, ""); /* first what a Go bridge goes by */
    for (int i = 8; i < 11; i++) {
        assert_int_equal(events[i].type, LEDGER_MUTATION_TRIM);
        assert_string_equal(events[i].origin, "");
        if (strcmp(events[i].entry_origin, a) == 0)
            seen_a =
                strcmp(events[i].source_id, "42") == 0 && strcmp(events[i].before_id, ids[1]) == 0;
        else if (strcmp(events[i].entry_origin, b) == 0)
            seen_b =
                strcmp(events[i].source_id, "7") == 0 && strcmp(events[i].before_id, ids[2]) == 0;
        else
            seen_own = *events[i].before_id && !*events[i].source_id;
    }
    assert_true(seen_a && seen_b && seen_own);
    sink_holds(sink, "s", "5");
    sink_holds(sink, "t", "3");
}

#define SINK (LDG_CAP_ATOMIC_BATCH | LDG_CAP_TX_CURSOR | LDG_CAP_ORIGINS)
#define CHANGES (LDG_CAP_TAGS | LDG_CAP_ANNOTATIONS | LDG_CAP_TRIM)
const struct conf_case conf_sink_cases[] = {
    { "origins have numbers", origins_have_numbers, SINK, 0, .alone = true },
    { "cursor rows", cursor_rows, SINK | LDG_CAP_TRANSACTIONS, 0 },
    { "apply brings every field", apply_brings_every_field, SINK | CHANGES, 0, .alone = true },
    { "apply again changes nothing", apply_again_changes_nothing,
      SINK | CHANGES | LDG_CAP_MUTATION_LOG, 0 },
    { "apply notices a used position", apply_notices_a_used_position, SINK, 0 },
    { "replays have the same time", replays_have_the_same_time, SINK | LDG_CAP_PARK, 0 },
    { "own entries come back", own_entries_come_back, SINK, 0 },
    { "apply respects dedup keys", apply_respects_dedup_keys, SINK | CHANGES | LDG_CAP_MUTATION_LOG,
      0 },
    { "apply frees a key by trim", apply_frees_a_key_by_trim, SINK | CHANGES, 0 },
    { "apply is fenced", apply_is_fenced, SINK | LDG_CAP_TRANSACTIONS, 0 },
    { "apply keeps the later change", apply_keeps_the_later_change, SINK | CHANGES, 0,
      .alone = true },
    { "apply foreign changes once", apply_foreign_changes_once,
      SINK | CHANGES | LDG_CAP_MUTATION_LOG, 0 },
    { "apply keeps kinds apart", apply_keeps_kinds_apart, SINK | CHANGES, 0 },
    { "origin rewinds", origin_rewinds, SINK | CHANGES, 0 },
    { "unclaimed entries", unclaimed_entries, SINK, offsetof(struct conf_backend, put_legacy) },
    { "apply changes local entries", apply_changes_local_entries, SINK | CHANGES, 0 },
    { "apply keeps origins apart", apply_keeps_origins_apart, SINK | CHANGES, 0, .alone = true },
    { "apply trims by source position", apply_trims_by_source_position, SINK | CHANGES, 0 },
    { "apply in order of the log", apply_in_order_of_the_log, SINK, 0 },
    { "history of an origin", history_of_an_origin, SINK, 0 },
    { "history begins anew", history_begins_anew, SINK, 0, .alone = true },
    { "adopt what Go left", adopt_what_go_left, SINK | CHANGES,
      offsetof(struct conf_backend, put_legacy) },
    { "chain events name their origin", chain_events_name_their_origin,
      SINK | CHANGES | LDG_CAP_MUTATION_LOG, 0 },
    { "chain events say when and whose", chain_events_say_when_and_whose,
      SINK | CHANGES | LDG_CAP_MUTATION_LOG, 0 },
    { "chain trims name the highest id", chain_trims_name_the_highest_id,
      SINK | CHANGES | LDG_CAP_MUTATION_LOG, 0 },
    { "local changes of bridged entries", local_changes_of_bridged_entries,
      SINK | CHANGES | LDG_CAP_MUTATION_LOG, 0 },
};
const size_t conf_sink_case_count = sizeof(conf_sink_cases) / sizeof(conf_sink_cases[0]);
