/* What the conformance suite cannot see of the memory backend: threads, garbage, snapshots of many
 * kinds, open transactions side by side, failing allocations. */
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

static int64_t append(ledger_store *store, const char *stream, const char *payload)
{
    const ledger_append_input input = { .payload = bytes(payload) };
    ledger_ids ids;
    ledger_error err;
    if (ledger_store_append(store, stream, &input, 1, &ids, &err) != LEDGER_OK)
        fail_msg("%s", err.message);
    int64_t id = ids.items[0].number;
    ledger_ids_destroy(&ids);
    return id;
}

static uint64_t count(ledger_store *store, const char *stream)
{
    uint64_t n = 0;
    assert_int_equal(ledger_store_count(store, stream, &n, NULL), LEDGER_OK);
    return n;
}

static void a_database_lives_with_its_handles(void **state)
{
    ledger_store *a = open_memory("memory:life"), *b = open_memory("memory:life");
    append(a, "s", "1");
    ledger_store_close(&a);
    assert_int_equal(count(b, NULL), 1);
    ledger_store_close(&b);
    b = open_memory("memory:life");
    assert_int_equal(count(b, NULL), 0);
    ledger_store *other = open_memory("memory:life2");
    append(other, "s", "1");
    assert_int_equal(count(b, NULL), 0);
    ledger_store_close(&other);
    ledger_store_close(&b);
}

/* Deletes most rows again and again: the sweep must keep what lives, and every index. */
static void garbage_is_swept(void **state)
{
    ledger_store *store = open_memory("memory:garbage");
    ledger_error err;
    char key[32], stream[32];
    uint64_t expected = 0;
    for (int round = 0; round < 30; round++) {
        for (int i = 0; i < 200; i++) {
            snprintf(key, sizeof(key), "%d", i);
            snprintf(stream, sizeof(stream), "s%d", i % 7);
            const ledger_append_input input = { .payload = bytes("1"), .dedup_key = key };
            assert_int_equal(ledger_store_append(store, stream, &input, 1, NULL, &err), 0);
        }
        for (int s = 0; s < 7; s++) {
            ledger_stream_stat stat;
            snprintf(stream, sizeof(stream), "s%d", s);
            assert_int_equal(ledger_store_stat(store, stream, &stat, &err), LEDGER_OK);
            assert_in_range(stat.count, 28, 29);
            if (round % 5 == s % 5)
                continue; /* its keys are known in the next round */
            assert_int_equal(ledger_store_trim(store, stream, stat.last_id, NULL, &err), LEDGER_OK);
        }
        expected = count(store, NULL);
        assert_true(expected < 200);
    }
    assert_true(expected > 0);
    ledger_store_close(&store);
}

static void rolled_back_rows_are_garbage_too(void **state)
{
    ledger_store *store = open_memory("memory:rolled"), *other = open_memory("memory:rolled");
    ledger_error err;
    for (int round = 0; round < 50; round++) {
        assert_int_equal(ledger_store_begin(store, &err), LEDGER_OK);
        for (int i = 0; i < 50; i++)
            append(store, "s", "1");
        append(other, "t", "2");
        assert_int_equal(ledger_store_rollback(store, &err), LEDGER_OK);
    }
    assert_int_equal(count(store, "s"), 0);
    assert_int_equal(count(store, "t"), 50);
    ledger_store_close(&store);
    ledger_store_close(&other);
}

static void snapshots_of_different_moments(void **state)
{
    ledger_store *writer = open_memory("memory:moments"), *snaps[3];
    ledger_error err;
    const char *const tags[] = { "t0", "t1", "t2" };
    int64_t id = append(writer, "s", "1");
    for (size_t i = 0; i < 3; i++) {
        snaps[i] = open_memory("memory:moments");
        assert_int_equal(ledger_store_set_tags(writer, "s", (ledger_id){ .number = id },
                                               (ledger_list){ &tags[i], 1 }, &err),
                         LEDGER_OK);
        append(writer, "more", "1");
        assert_int_equal(ledger_store_cursor_set(writer, "c", tags[i], &err), LEDGER_OK);
        assert_int_equal(ldg_store_snapshot_begin(snaps[i], &err), LEDGER_OK);
    }
    assert_int_equal(ledger_store_trim(writer, "s", (ledger_id){ .number = id }, NULL, &err), 0);
    for (int i = 0; i < 300; i++)
        append(writer, "noise", "1");
    assert_int_equal(
        ledger_store_trim(writer, "noise", (ledger_id){ .number = INT64_MAX }, NULL, &err), 0);
    for (size_t i = 0; i < 3; i++) {
        ledger_batch *batch = NULL;
        char text[LEDGER_ID_TEXT_MAX];
        struct ldg_log_stat stat;
        assert_int_equal(ledger_store_read(snaps[i], "s", NULL, &batch, &err), LEDGER_OK);
        assert_int_equal(ledger_batch_count(batch), 1);
        assert_string_equal(ledger_batch_entry(batch, 0)->tags.items[0], tags[i]);
        ledger_batch_destroy(&batch);
        assert_int_equal(count(snaps[i], "more"), i + 1);
        assert_int_equal(count(snaps[i], "noise"), 0);
        assert_int_equal(ledger_store_cursor_get(snaps[i], "c", text, &err), LEDGER_OK);
        assert_string_equal(text, tags[i]);
        assert_int_equal(ldg_store_log_stat(snaps[i], "", &stat, &err), LEDGER_OK);
        assert_int_equal(stat.head, 1 + 2 * (i + 1));
    }
    ldg_store_snapshot_end(snaps[1]);
    assert_int_equal(count(snaps[1], "s"), 0);
    assert_int_equal(count(snaps[0], "s"), 1);
    for (size_t i = 0; i < 3; i++)
        ledger_store_close(&snaps[i]); /* ends the other two */
    append(writer, "s", "1");
    assert_int_equal(count(writer, "s"), 1);
    ledger_store_close(&writer);
}

/* The log is in the order of commits, whatever order ids were drawn in. */
/* A position is drawn when the row is written; a row comes when its transaction commits. */
static void the_log_follows_the_commits(void **state)
{
    ledger_store *handles[5];
    struct ldg_log_batch batch = { 0 };
    const struct ldg_log_limits limits = { 100, SIZE_MAX };
    const size_t order[] = { 3, 0, 4, 2 };
    char payload[32], state_text[LDG_CURSOR_STATE_MAX] = "";
    ledger_error err;
    int64_t last_id = 0;
    ldg_arena_init(&batch.arena, 0);
    for (size_t i = 0; i < 5; i++) {
        handles[i] = open_memory("memory:order");
        assert_int_equal(ledger_store_begin(handles[i], &err), LEDGER_OK);
        snprintf(payload, sizeof(payload), "\"tx %zu\"", i);
        int64_t id = append(handles[i], "s", payload);
        assert_true(id > last_id);
        last_id = id;
    }
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(ledger_store_commit(handles[order[i]], &err), LEDGER_OK);
        assert_int_equal(ldg_store_log_read(handles[1], state_text, &limits, &batch, &err), 0);
        assert_int_equal(batch.count, 1); /* nothing lost, nothing waits for the open one */
        assert_int_equal(batch.rows[0].position, order[i] + 1);
        assert_int_equal(batch.next_position, i < 2 ? 4 : 5);
        snprintf(payload, sizeof(payload), "\"tx %zu\"", order[i]);
        assert_non_null(memmem(batch.rows[0].payload.data, batch.rows[0].payload.size, payload,
                               strlen(payload)));
        memcpy(state_text, batch.next_state, sizeof(state_text));
    }
    assert_int_equal(ledger_store_rollback(handles[1], &err), LEDGER_OK);
    assert_int_equal(ldg_store_log_read(handles[1], state_text, &limits, &batch, &err), 0);
    assert_int_equal(batch.count, 0);
    ldg_arena_fini(&batch.arena);
    for (size_t i = 0; i < 5; i++)
        ledger_store_close(&handles[i]);
}

/* --- threads --------------------------------------------------------------------------------- */

#define THREAD_COUNT 4
#define ROUND_COUNT 200

struct worker {
    int number;
    uint64_t appended, busy;
    const char *problem;
};

static void *write_a_lot(void *ctx)
{
    struct worker *w = ctx;
    const ledger_store_options options = { .size = sizeof(options),
                                           .url = "memory:threads",
                                           .flags = LEDGER_STORE_CREATE };
    ledger_store *store = NULL;
    ledger_batch *batch = NULL;
    ledger_error err;
    char stream[16];
    const char *const tag = "t";
    snprintf(stream, sizeof(stream), "s%d", w->number % 2);
    if (ledger_store_open(&options, &store, &err) != LEDGER_OK) {
        w->problem = "open";
        return NULL;
    }
    for (int i = 0; i < ROUND_COUNT && !w->problem; i++) {
        const ledger_append_input input = { .payload = bytes("{\"a\":1}") };
        const bool tx = i % 5 == 0;
        ledger_ids ids = { 0 };
        if (tx && ledger_store_begin(store, &err) != LEDGER_OK)
            w->problem = "begin";
        if (ledger_store_append(store, stream, &input, 1, &ids, &err) != LEDGER_OK)
            w->problem = "append";
        if (ids.count &&
            ledger_store_set_tags(store, stream, ids.items[0], (ledger_list){ &tag, 1 }, &err))
            w->problem = "set_tags";
        ledger_ids_destroy(&ids);
        if (i % 50 == 49) { /* of the other stream's writers, who may be at it */
            ledger_rc rc = ledger_store_trim(store, "gone", (ledger_id){ .number = 1 }, NULL, &err);
            if (rc == LEDGER_ERR_BUSY)
                w->busy++;
            else if (rc != LEDGER_OK)
                w->problem = "trim";
        }
        if (tx && i % 10 == 0) {
            if (ledger_store_rollback(store, &err) != LEDGER_OK)
                w->problem = "rollback";
        } else {
            w->appended++;
            if (tx && ledger_store_commit(store, &err) != LEDGER_OK)
                w->problem = "commit";
        }
        if (ledger_store_read(store, stream, NULL, &batch, &err) != LEDGER_OK)
            w->problem = "read";
        ledger_batch_destroy(&batch);
    }
    ledger_store_close(&store);
    return NULL;
}

static void *read_the_log(void *ctx)
{
    struct worker *w = ctx;
    ledger_store *store = open_memory("memory:threads");
    struct ldg_log_batch batch = { 0 };
    const struct ldg_log_limits limits = { 10, SIZE_MAX };
    char at[LDG_CURSOR_STATE_MAX] = "";
    ledger_error err;
    ldg_arena_init(&batch.arena, 0);
    for (int i = 0; i < ROUND_COUNT && !w->problem; i++) {
        if (ldg_store_log_read(store, at, &limits, &batch, &err) != LEDGER_OK)
            w->problem = "log_read";
        memcpy(at, batch.next_state, sizeof(at));
        w->appended += batch.count;
        if (ldg_store_snapshot_begin(store, &err) != LEDGER_OK)
            w->problem = "snapshot";
        uint64_t first = count(store, NULL), second = count(store, NULL);
        if (first != second)
            w->problem = "a snapshot that moves";
        ldg_store_snapshot_end(store);
    }
    ldg_arena_fini(&batch.arena);
    ledger_store_close(&store);
    return NULL;
}

static void threads_share_a_database(void **state)
{
    ledger_store *keeper = open_memory("memory:threads");
    pthread_t threads[THREAD_COUNT + 1];
    struct worker workers[THREAD_COUNT + 1] = { { 0 } };
    uint64_t appended = 0;
    for (int i = 0; i <= THREAD_COUNT; i++) {
        workers[i].number = i;
        assert_int_equal(pthread_create(&threads[i], NULL,
                                        i < THREAD_COUNT ? write_a_lot : read_the_log, &workers[i]),
                         0);
    }
    for (int i = 0; i <= THREAD_COUNT; i++) {
        pthread_join(threads[i], NULL);
        if (workers[i].problem)
            fail_msg("thread %d: %s", i, workers[i].problem);
        appended += i < THREAD_COUNT ? workers[i].appended : 0;
    }
    assert_int_equal(count(keeper, NULL), appended);
    ledger_store_close(&keeper);
}

/* --- the n-th allocation fails --------------------------------------------------------------- */

static ledger_rc bridge_side(void *ctx)
{
    const ledger_store_options options = { .size = sizeof(options),
                                           .url = "memory:alloc-sink",
                                           .flags = LEDGER_STORE_CREATE };
    const struct ldg_identity origin = { .uuid = "6d1a7c1e-0000-4000-8000-000000000001",
                                         .epoch = 1 };
    const ledger_pair pair = { "k", "v" };
    const char *const tag = "t";
    const ledger_append_entry entry = { .id = "7",
                                        .payload = bytes("1"),
                                        .order_key = "o",
                                        .dedup_key = "d",
                                        .schema_version = 1,
                                        .metadata = { &pair, 1 },
                                        .tags = { &tag, 1 },
                                        .created_at_us = 0,
                                        .source_id = "" };
    const struct ldg_log_limits limits = { 10, SIZE_MAX };
    struct ldg_cursor cursor, next = { .state = "s", .readable = "1" };
    struct ldg_log_batch batch = { 0 };
    struct ldg_parked_row *parked;
    struct ldg_history_row *history;
    struct ldg_identity *identities;
    struct ldg_arena arena;
    ledger_entry *found;
    ledger_names names = { 0 };
    ledger_store *store = NULL;
    uint8_t outcomes[8];
    int number = 0, *numbers;
    size_t count_of;
    uint64_t n;
    ledger_id *ids;
    bool applied;
    ledger_error err;

    ldg_arena_init(&arena, 0);
    ldg_arena_init(&batch.arena, 0);
    ledger_rc rc = ledger_store_open(&options, &store, &err);
    if (rc == LEDGER_OK)
        rc = ldg_store_origin_get(store, &origin, "a", &number, &err);
    if (rc == LEDGER_OK)
        rc = ldg_store_origin_list(store, &arena, &identities, &numbers, &count_of, &err);
    if (rc == LEDGER_OK)
        rc = ldg_store_cursor_get(store, "c", true, &cursor, &err);
    if (rc == LEDGER_OK) {
        const struct ldg_op common = { .origin = number,
                                       .mutation_origin = number,
                                       .stream = "s",
                                       .key.number = 7,
                                       .source_uuid = origin.uuid,
                                       .type_name = "x",
                                       .reason = "r",
                                       .event = bytes("{}"),
                                       .entry = &entry,
                                       .tags = { &tag, 1 },
                                       .annotations = { &pair, 1 } };
        struct ldg_op ops[6];
        for (int i = 0; i < 6; i++) {
            ops[i] = common;
            ops[i].position = ops[i].log_position = i + 1;
            ops[i].event_index = (uint32_t)i;
        }
        ops[0].kind = LDG_OP_APPEND;
        ops[1].kind = LDG_OP_SET_TAGS;
        ops[2].kind = LDG_OP_SET_ANNOTATIONS;
        ops[3].kind = LDG_OP_PARK;
        ops[4].kind = LDG_OP_SET_TAGS; /* waits behind it */
        ops[5].kind = LDG_OP_TRIM;
        ops[5].key.number = 3;
        const struct ldg_apply apply = {
            .name = "c", .expected = &cursor, .next = &next, .ops = ops, .count = 6
        };
        rc = ldg_store_apply(store, &apply, outcomes, &err);
        if (rc == LEDGER_OK)
            rc = ldg_store_parked_list(store, 0, 10, &arena, &parked, &count_of, &err);
        if (rc == LEDGER_OK)
            rc = ldg_store_parked_note(store, parked[0].id, "again", &err);
        if (rc == LEDGER_OK)
            rc = ldg_store_parked_retry(store, parked[0].id, &ops[1], 1, &applied, &err);
        if (rc == LEDGER_OK)
            rc = ldg_store_parked_drop(store, 0, &n, &err);
    }
    if (rc == LEDGER_OK)
        rc = ldg_store_history(store, number, ldg_id_of(0), 10, SIZE_MAX, &arena, &history,
                               &count_of, &err);
    if (rc == LEDGER_OK)
        rc = ldg_store_entries_by_id(store, &(ledger_id){ .number = 1 }, 1, &arena, &found, &err);
    if (rc == LEDGER_OK)
        rc = ldg_store_log_read(store, "", &limits, &batch, &err);
    if (rc == LEDGER_OK)
        rc = ldg_store_cursor_list(store, &names, &err);
    if (rc == LEDGER_OK)
        rc = ldg_store_cursor_set(store, "d", NULL, &next, &err);
    if (rc == LEDGER_OK)
        rc = ldg_store_trim_survivors(store, 0, "s", ldg_id_of(100), &arena, &ids, &count_of, &err);
    ledger_names_destroy(&names);
    ledger_store_close(&store);
    ldg_arena_fini(&batch.arena);
    ldg_arena_fini(&arena);
    return rc;
}

static void out_of_memory_on_the_bridge_side(void **state)
{
    assert_true(alloc_fail_each(bridge_side, NULL) > 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_database_lives_with_its_handles),
        cmocka_unit_test(garbage_is_swept),
        cmocka_unit_test(rolled_back_rows_are_garbage_too),
        cmocka_unit_test(snapshots_of_different_moments),
        cmocka_unit_test(the_log_follows_the_commits),
        cmocka_unit_test(threads_share_a_database),
        cmocka_unit_test(out_of_memory_on_the_bridge_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
