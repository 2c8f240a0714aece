/* The script does what it says, call by call; and content can be put back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>

#include "alloc_fail.h"
#include "base/arena.h"
#include "memory_faults.h"
#include "store/intern.h"

#define NAME "faults"
#define URL "memory:" NAME

static ledger_bytes bytes(const char *text)
{
    return (ledger_bytes){ .data = text, .size = strlen(text) };
}

static ledger_store *open_memory(const char *url)
{
    const ledger_store_options options = { .size = sizeof(options),
                                           .url = url,
                                           .flags = LEDGER_STORE_CREATE };
    ledger_store *store = NULL;
    ledger_error err;
    if (ledger_store_open(&options, &store, &err) != LEDGER_OK)
        fail_msg("%s", err.message);
    return store;
}

static ledger_rc append(ledger_store *store, const char *stream, const char *payload)
{
    const ledger_append_input input = { .payload = bytes(payload) };
    return ledger_store_append(store, stream, &input, 1, NULL, NULL);
}

static uint64_t count(ledger_store *store)
{
    uint64_t n = 0;
    assert_int_equal(ledger_store_count(store, NULL, &n, NULL), LEDGER_OK);
    return n;
}

static void add(const char *callback, enum ldg_memory_fault_kind kind, uint64_t nth, uint64_t times,
                ledger_rc code)
{
    const struct ldg_memory_fault fault = { callback, kind, nth, times, code, 0 };
    assert_int_equal(ldg_memory_fault_add(NAME, &fault), LEDGER_OK);
}

static void the_nth_call_fails(void **state)
{
    ledger_store *store = open_memory(URL);
    add("append", LDG_MEMORY_FAIL, 3, 2, LEDGER_ERR_FULL);
    assert_int_equal(append(store, "s", "1"), LEDGER_OK);
    assert_int_equal(count(store), 1); /* other callbacks do not count */
    assert_int_equal(append(store, "s", "1"), LEDGER_OK);
    assert_int_equal(append(store, "s", "1"), LEDGER_ERR_FULL);
    assert_int_equal(append(store, "s", "1"), LEDGER_ERR_FULL);
    assert_int_equal(append(store, "s", "1"), LEDGER_OK);
    assert_int_equal(count(store), 3);
    assert_int_equal(ldg_memory_call_count(NAME, "append"), 5);
    assert_int_equal(ldg_memory_call_count(NAME, NULL), 7);
    assert_int_equal(ldg_memory_call_count(NAME, "trim"), 0);
    assert_int_equal(ldg_memory_call_count("none", NULL), 0);
    add(NULL, LDG_MEMORY_FAIL, 0, 0, LEDGER_OK); /* any callback, once, as a lost connection */
    uint64_t n;
    ledger_error err;
    assert_int_equal(ledger_store_count(store, NULL, &n, &err), LEDGER_ERR_CONNECT);
    assert_true(err.flags & LEDGER_ERROR_RETRY);
    assert_string_equal(err.backend, "memory");
    assert_int_equal(count(store), 3);
    const struct ldg_memory_fault fatal = { "append",   LDG_MEMORY_FAIL, 1,
                                            UINT64_MAX, LEDGER_ERR_IO,   LEDGER_ERROR_FATAL };
    assert_int_equal(ldg_memory_fault_add(NAME, &fatal), LEDGER_OK);
    const ledger_append_input input = { .payload = bytes("1") };
    for (int i = 0; i < 3; i++)
        assert_int_equal(ledger_store_append(store, "s", &input, 1, NULL, &err), LEDGER_ERR_IO);
    assert_true(err.flags & LEDGER_ERROR_FATAL);
    ldg_memory_faults_clear(NAME);
    ldg_memory_faults_clear(NAME);
    assert_int_equal(append(store, "s", "1"), LEDGER_OK);
    ledger_store_close(&store);
}

static void open_may_fail(void **state)
{
    const ledger_store_options options = { .size = sizeof(options),
                                           .url = URL,
                                           .flags = LEDGER_STORE_CREATE };
    ledger_store *store = NULL;
    add("open", LDG_MEMORY_FAIL, 1, 1, LEDGER_ERR_CONNECT);
    assert_int_equal(ledger_store_open(&options, &store, NULL), LEDGER_ERR_CONNECT);
    assert_int_equal(ledger_store_open(&options, &store, NULL), LEDGER_OK);
    ldg_memory_faults_clear(NAME);
    ledger_store_close(&store);
}

static void a_lost_answer_has_done_it(void **state)
{
    ledger_store *store = open_memory(URL);
    const ledger_append_input input = { .payload = bytes("1") };
    ledger_ids ids = { .count = 42 };
    ledger_error err;
    add("append", LDG_MEMORY_LOSE_ACK, 1, 1, LEDGER_OK);
    assert_int_equal(ledger_store_append(store, "s", &input, 1, &ids, &err),
                     LEDGER_ERR_UNKNOWN_OUTCOME);
    assert_int_equal(ids.count, 42);
    assert_int_equal(count(store), 1);
    add("append", LDG_MEMORY_LOSE_ACK, 1, 1, LEDGER_ERR_CONNECT);
    assert_int_equal(append(store, "s", "oops"), LEDGER_ERR_DATA); /* never got there */
    assert_int_equal(append(store, "s", "1"), LEDGER_ERR_CONNECT);
    assert_int_equal(count(store), 2);
    ldg_memory_faults_clear(NAME);
    ledger_store_close(&store);
}

struct sink {
    ledger_store *store;
    struct ldg_identity identity;
    struct ldg_cursor cursor, next;
    ledger_append_entry entries[4];
    struct ldg_op ops[4];
    uint8_t outcomes[4];
    struct ldg_apply apply;
};

static void sink_init(struct sink *sink)
{
    static const char *const ids[] = { "1", "2", "3", "4" };
    ledger_error err;
    int origin;
    memset(sink, 0, sizeof(*sink));
    sink->store = open_memory(URL);
    memcpy(sink->identity.uuid, "6d1a7c1e-0000-4000-8000-000000000001", 37);
    sink->identity.epoch = 1;
    assert_int_equal(ldg_store_origin_get(sink->store, &sink->identity, "", &origin, &err), 0);
    assert_int_equal(ldg_store_cursor_get(sink->store, "c", true, &sink->cursor, &err), 0);
    memcpy(sink->next.state, "next", 5);
    for (int i = 0; i < 4; i++) {
        sink->entries[i] = (ledger_append_entry){ .id = ids[i],
                                                  .payload = bytes("1"),
                                                  .order_key = "",
                                                  .dedup_key = "",
                                                  .schema_version = 1,
                                                  .source_id = "" };
        sink->ops[i] = (struct ldg_op){ .kind = LDG_OP_APPEND,
                                        .origin = origin,
                                        .mutation_origin = origin,
                                        .position = i + 1,
                                        .log_position = i + 1,
                                        .stream = i % 2 ? "t" : "s",
                                        .key.number = i + 1,
                                        .entry = &sink->entries[i],
                                        .source_uuid = sink->identity.uuid,
                                        .event = bytes("{}"),
                                        .type_name = "append",
                                        .event_index = (uint32_t)i };
    }
    sink->apply = (struct ldg_apply){
        .name = "c", .expected = &sink->cursor, .next = &sink->next, .ops = sink->ops, .count = 4
    };
}

static bool cursor_moved(const struct sink *sink, ledger_store *store)
{
    struct ldg_cursor now;
    assert_int_equal(ldg_store_cursor_get(store, "c", false, &now, NULL), LEDGER_OK);
    return strcmp(now.state, sink->next.state) == 0;
}

static void apply_loses_its_answer(void **state)
{
    struct sink sink;
    ledger_error err;
    sink_init(&sink);
    sink.outcomes[0] = 99;
    add("apply", LDG_MEMORY_LOSE_ACK, 1, 1, LEDGER_OK);
    assert_int_equal(ldg_store_apply(sink.store, &sink.apply, sink.outcomes, &err),
                     LEDGER_ERR_UNKNOWN_OUTCOME);
    assert_int_equal(sink.outcomes[0], 99);
    assert_int_equal(count(sink.store), 4);
    assert_true(cursor_moved(&sink, sink.store));
    ldg_memory_faults_clear(NAME);
    ledger_store_close(&sink.store);
}

static void apply_does_half(void **state)
{
    struct sink sink;
    ledger_error err;
    sink_init(&sink);
    add("apply", LDG_MEMORY_APPLY_HALF, 1, 1, LEDGER_OK);
    assert_int_equal(ldg_store_apply(sink.store, &sink.apply, sink.outcomes, &err),
                     LEDGER_ERR_PARTIAL);
    assert_int_equal(err.done_count, 2);
    assert_true(err.flags & LEDGER_ERROR_PARTIAL);
    assert_int_equal(count(sink.store), 2);
    assert_false(cursor_moved(&sink, sink.store));
    assert_int_equal(ldg_store_apply(sink.store, &sink.apply, sink.outcomes, &err), LEDGER_OK);
    assert_int_equal(sink.outcomes[1], LDG_OUTCOME_REPLAYED);
    assert_int_equal(sink.outcomes[2], LDG_OUTCOME_APPLIED);
    assert_int_equal(count(sink.store), 4);
    ldg_memory_faults_clear(NAME);
    ledger_store_close(&sink.store);
}

struct held {
    struct sink *sink;
    ledger_rc rc;
};

static void *apply_in_thread(void *ctx)
{
    struct held *held = ctx;
    held->rc = ldg_store_apply(held->sink->store, &held->sink->apply, held->sink->outcomes, NULL);
    return NULL;
}

/* A serial batch that stalls before its commit keeps every other bridge out; a stalled worker does
 * not keep other workers out, but who would move the cursor. */
static void apply_is_held(void **state)
{
    for (int worker = 0; worker < 2; worker++) {
        struct sink sink, other;
        struct held held = { .sink = &sink };
        pthread_t thread;
        ledger_error err;
        sink_init(&sink);
        sink_init(&other);
        if (worker)
            sink.apply.next = NULL;
        add("apply", LDG_MEMORY_HOLD, 1, 1, LEDGER_OK);
        assert_false(ldg_memory_wait_held(NAME, 0));
        assert_int_equal(pthread_create(&thread, NULL, apply_in_thread, &held), 0);
        assert_true(ldg_memory_wait_held(NAME, 10000));
        assert_int_equal(count(other.store), 0);
        assert_int_equal(append(other.store, "s", "1"), LEDGER_OK); /* writers go on */
        assert_int_equal(ldg_store_apply(other.store, &other.apply, other.outcomes, &err),
                         LEDGER_ERR_BUSY);
        assert_int_equal(ldg_store_cursor_set(other.store, "c", NULL, &other.next, &err),
                         LEDGER_ERR_BUSY);
        other.apply.next = NULL;
        other.ops[0].key.number = 77;
        other.apply.count = 1;
        assert_int_equal(ldg_store_apply(other.store, &other.apply, other.outcomes, &err),
                         worker ? LEDGER_OK : LEDGER_ERR_BUSY);
        ldg_memory_release(NAME);
        pthread_join(thread, NULL);
        assert_int_equal(held.rc, LEDGER_OK);
        assert_int_equal(cursor_moved(&sink, other.store), !worker);
        assert_int_equal(count(other.store), worker ? 6 : 5);
        ldg_memory_faults_clear(NAME);
        ledger_store_close(&sink.store);
        ledger_store_close(&other.store);
    }
}

static void clearing_lets_go(void **state)
{
    struct sink sink;
    struct held held = { .sink = &sink };
    pthread_t thread;
    sink_init(&sink);
    add("apply", LDG_MEMORY_HOLD, 1, 1, LEDGER_OK);
    assert_int_equal(pthread_create(&thread, NULL, apply_in_thread, &held), 0);
    assert_true(ldg_memory_wait_held(NAME, 10000));
    ldg_memory_faults_clear(NAME);
    pthread_join(thread, NULL);
    assert_int_equal(held.rc, LEDGER_OK);
    ldg_memory_release("none");
    ledger_store_close(&sink.store);
}

struct seen {
    char names[256];
    ledger_store *other;
};

static void on_call(void *ctx, const char *callback, const void *handle)
{
    struct seen *seen = ctx;
    size_t used = strlen(seen->names);
    snprintf(seen->names + used, sizeof(seen->names) - used, "%s ", callback);
    if (strcmp(callback, "trim") == 0)
        assert_int_equal(append(seen->other, "s", "2"), LEDGER_OK);
}

static void hooks_see_every_call(void **state)
{
    ledger_store *store = open_memory(URL);
    struct seen seen = { .other = open_memory(URL) };
    assert_int_equal(ldg_memory_set_hook(NAME, on_call, &seen), LEDGER_OK);
    assert_int_equal(append(store, "s", "1"), LEDGER_OK);
    assert_int_equal(ledger_store_trim(store, "s", (ledger_id){ .number = 100 }, NULL, NULL), 0);
    assert_int_equal(count(store), 0); /* the trim came after what the hook did */
    assert_string_equal(seen.names, "append trim append count ");
    assert_int_equal(ldg_memory_set_hook(NAME, NULL, NULL), LEDGER_OK);
    assert_int_equal(append(store, "s", "1"), LEDGER_OK);
    ldg_memory_faults_clear(NAME);
    ledger_store_close(&seen.other);
    ledger_store_close(&store);
}

static bool refuse_t(void *ctx, const struct ldg_op *op)
{
    return strcmp(op->stream, "t") == 0;
}

static void ops_are_refused(void **state)
{
    struct sink sink;
    ledger_error err;
    sink_init(&sink);
    assert_int_equal(ldg_memory_set_refuse(NAME, refuse_t, NULL), LEDGER_OK);
    assert_int_equal(ldg_store_apply(sink.store, &sink.apply, sink.outcomes, &err),
                     LEDGER_ERR_REJECTED);
    assert_int_equal(err.done_count, 1);
    assert_int_equal(count(sink.store), 0);
    ldg_memory_faults_clear(NAME);
    ledger_store_close(&sink.store);
}

/* A backup is put back: same identity, older log, and the cursor of a later time is noticed. */
static void content_is_copied(void **state)
{
    struct sink sink;
    ledger_store *backup = open_memory("memory:backup");
    struct ldg_log_batch batch = { 0 };
    const struct ldg_log_limits limits = { 100, SIZE_MAX };
    struct ldg_identity before, after;
    struct ldg_parked_row *parked;
    struct ldg_arena arena;
    size_t parked_count;
    char early[LDG_CURSOR_STATE_MAX];
    int64_t position;
    const char *const tag = "t";
    const ledger_pair pair = { "k", "v" };
    ledger_error err;
    sink_init(&sink);
    ldg_arena_init(&batch.arena, 0);
    ldg_arena_init(&arena, 0);
    sink.ops[3].kind = LDG_OP_PARK;
    sink.ops[3].reason = "odd";
    assert_int_equal(ldg_store_apply(sink.store, &sink.apply, sink.outcomes, &err), LEDGER_OK);
    assert_int_equal(append(sink.store, "local", "1"), LEDGER_OK);
    const ledger_id id = { .number = 4 };
    assert_int_equal(ledger_store_set_tags(sink.store, "local", id, (ledger_list){ &tag, 1 }, &err),
                     LEDGER_OK);
    assert_int_equal(
        ledger_store_set_annotations(sink.store, "local", id, (ledger_map){ &pair, 1 }, &err), 0);
    assert_int_equal(ldg_store_identity(sink.store, &before, &err), LEDGER_OK);
    assert_int_equal(ldg_store_log_read(sink.store, "", &limits, &batch, &err), LEDGER_OK);
    memcpy(early, batch.next_state, sizeof(early));
    append(backup, "old content", "1");
    assert_int_equal(ldg_memory_copy(NAME, "backup"), LEDGER_OK);

    assert_int_equal(append(sink.store, "local", "2"), LEDGER_OK);
    assert_int_equal(ldg_store_log_read(sink.store, early, &limits, &batch, &err), LEDGER_OK);
    assert_int_equal(ldg_memory_copy("backup", NAME), LEDGER_OK);
    assert_int_equal(ldg_store_identity(sink.store, &after, &err), LEDGER_OK);
    assert_string_equal(before.uuid, after.uuid);
    assert_int_equal(count(sink.store), 4);
    assert_int_equal(count(backup), 4);
    assert_true(cursor_moved(&sink, sink.store));
    assert_int_equal(ldg_store_log_check(sink.store, early, &position, &err), LEDGER_OK);
    assert_int_equal(ldg_store_log_check(sink.store, batch.next_state, &position, &err),
                     LEDGER_ERR_SOURCE_REWOUND);
    assert_int_equal(append(sink.store, "local", "3"), LEDGER_OK); /* the position is used again */
    assert_int_equal(ldg_store_log_check(sink.store, batch.next_state, &position, &err),
                     LEDGER_ERR_SOURCE_REWOUND);
    ledger_batch *entries = NULL;
    assert_int_equal(ledger_store_read(sink.store, "local", NULL, &entries, &err), LEDGER_OK);
    assert_string_equal(ledger_batch_entry(entries, 0)->tags.items[0], "t");
    assert_string_equal(ledger_batch_entry(entries, 0)->annotations.items[0].value, "v");
    ledger_batch_destroy(&entries);
    assert_int_equal(ldg_store_parked_list(sink.store, 0, 10, &arena, &parked, &parked_count, &err),
                     LEDGER_OK);
    assert_int_equal(parked_count, 1);
    assert_string_equal(parked[0].reason, "odd");
    sink.apply.expected = &sink.next; /* what is there already is known again */
    sink.apply.count = 3;
    assert_int_equal(ldg_store_apply(sink.store, &sink.apply, sink.outcomes, &err), LEDGER_OK);
    assert_int_equal(sink.outcomes[0], LDG_OUTCOME_REPLAYED);
    assert_int_equal(ldg_memory_copy("none", NAME), LEDGER_ERR_NOT_FOUND);
    assert_int_equal(ldg_memory_copy(NAME, NAME), LEDGER_ERR_NOT_FOUND);
    ldg_arena_fini(&arena);
    ldg_arena_fini(&batch.arena);
    ledger_store_close(&backup);
    ledger_store_close(&sink.store);
}

static ledger_rc make_script(void *ctx)
{
    const struct ldg_memory_fault fault = { .callback = "append" };
    ledger_rc rc = ldg_memory_fault_add("script", &fault);
    if (rc == LEDGER_OK)
        rc = ldg_memory_set_hook("script", NULL, NULL);
    ldg_memory_faults_clear("script");
    if (rc == LEDGER_OK)
        rc = ldg_memory_set_refuse("script", NULL, NULL);
    ldg_memory_faults_clear("script");
    return rc;
}

static ledger_rc copy_and_legacy(void *ctx)
{
    const ledger_store_options options = { .size = sizeof(options),
                                           .url = "memory:copy-to",
                                           .flags = LEDGER_STORE_CREATE };
    ledger_store *to = NULL;
    ledger_rc rc = ledger_store_open(&options, &to, NULL);
    if (rc == LEDGER_OK)
        rc = ldg_memory_copy(NAME, "copy-to");
    if (rc == LEDGER_OK)
        rc = ldg_memory_put_legacy("copy-to", LEDGER_DEFAULT_TABLE, "s", "1", "9", NULL);
    ledger_store_close(&to);
    return rc;
}

static void out_of_memory(void **state)
{
    struct sink sink;
    ledger_error err;
    assert_true(alloc_fail_each(make_script, NULL) > 2);
    sink_init(&sink);
    sink.ops[3].kind = LDG_OP_PARK;
    sink.ops[3].reason = "odd";
    assert_int_equal(ldg_store_apply(sink.store, &sink.apply, sink.outcomes, &err), LEDGER_OK);
    assert_true(alloc_fail_each(copy_and_legacy, NULL) > 10);
    assert_int_equal(ldg_memory_put_legacy("none", "t", "s", "1", "9", NULL), LEDGER_ERR_NOT_FOUND);
    assert_int_equal(ldg_memory_put_legacy(NAME, "none", "s", "1", "9", NULL),
                     LEDGER_ERR_NOT_FOUND);
    assert_int_equal(ldg_memory_log_damage("none", "t", 1), LEDGER_ERR_NOT_FOUND);
    assert_int_equal(ldg_memory_log_damage(NAME, "none", 1), LEDGER_ERR_NOT_FOUND);
    ledger_store_close(&sink.store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_nth_call_fails),
        cmocka_unit_test(open_may_fail),
        cmocka_unit_test(a_lost_answer_has_done_it),
        cmocka_unit_test(apply_loses_its_answer),
        cmocka_unit_test(apply_does_half),
        cmocka_unit_test(apply_is_held),
        cmocka_unit_test(clearing_lets_go),
        cmocka_unit_test(hooks_see_every_call),
        cmocka_unit_test(ops_are_refused),
        cmocka_unit_test(content_is_copied),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
