/* Without memory nothing is half done: each allocation of a store's life fails in turn, and what is
 * done again afterwards comes out as if none had. Needs the engine. */
#include <stdlib.h>

#include "alloc_fail.h"
#include "clickhouse.h"
#include "fixtures.h"
#include "store/handle.h"

#define UUID "12345678-1234-4234-8234-123456789012"

struct life {
    const char *url;
    bool creates;
    uint64_t position; /* of the last op: each run has a part of the log of its own */
};

static ledger_rc open_sink(const struct life *life, ledger_store **ret_store, ledger_error *err)
{
    ledger_store_options o;
    ledger_store_options_defaults(&o);
    o.url = life->url;
    o.flags = life->creates ? LEDGER_STORE_CREATE : 0;
    return ledger_store_open(&o, ret_store, err);
}

static void make_op(struct life *life, struct ldg_op *op, enum ldg_op_kind kind, int origin,
                    int64_t id)
{
    static const ledger_pair metadata[] = { { "a", "b" } }, annotations[] = { { "k", "v" } };
    static const char *const tags[] = { "x", "y" };
    static const ledger_append_entry entry = {
        .id = "1",
        .payload = { "{}", 2 },
        .order_key = "",
        .dedup_key = "k",
        .schema_version = 1,
        .metadata = { metadata, 1 },
        .tags = { tags, 1 },
        .source_id = "",
    };
    life->position++;
    *op = (struct ldg_op){
        .kind = kind,
        .origin = origin,
        .mutation_origin = origin,
        .position = (int64_t)life->position,
        .log_position = (int64_t)life->position,
        .stream = "s",
        .key.number = id,
        .time_us = 1700000000000000,
        .entry = &entry,
        .tags = { tags, 2 },
        .annotations = { annotations, 1 },
        .type_name = "odd",
        .reason = "a reason",
        .source_uuid = UUID,
        .log_time_us = 1700000000000000,
        .event = { "{}", 2 },
        .origin_text = "",
        .mutation_origin_text = "",
        .source_epoch = 1,
    };
}

static ledger_rc use(struct life *life, ledger_store *store, ledger_error *err)
{
    struct ldg_identity identity = { .uuid = UUID, .epoch = 1 };
    struct ldg_cursor cursor, next = { .state = "state" };
    struct ldg_op ops[6];
    uint8_t outcomes[6];
    struct ldg_parked_row *parked;
    struct ldg_history_row *rows;
    ledger_batch *batch = NULL;
    ledger_names names = { 0 };
    struct ldg_arena arena;
    int origin = 0;
    size_t count;
    ledger_rc rc = ldg_store_origin_get(store, &identity, "", &origin, err);
    ldg_arena_init(&arena, 0);
    if (rc == LEDGER_OK)
        rc = ldg_store_cursor_get(store, "c", true, &cursor, err);
    make_op(life, &ops[0], LDG_OP_APPEND, origin, 1);
    make_op(life, &ops[1], LDG_OP_APPEND, origin, 2);
    make_op(life, &ops[2], LDG_OP_SET_TAGS, origin, 1);
    make_op(life, &ops[3], LDG_OP_SET_ANNOTATIONS, origin, 7); /* here already, but at first */
    make_op(life, &ops[4], LDG_OP_TRIM, origin, 2);
    make_op(life, &ops[5], LDG_OP_PARK, origin, 9);
    struct ldg_apply apply = { .name = "c",
                               .expected = &cursor,
                               .next = &next,
                               .ops = ops,
                               .count = 5,
                               .park_rejected = true };
    if (rc == LEDGER_OK)
        rc = ldg_store_apply(store, &apply, outcomes, err);
    apply = (struct ldg_apply){ .ops = ops, .count = 3 };
    if (rc == LEDGER_OK)
        rc = ldg_store_apply(store, &apply, outcomes, err);
    apply = (struct ldg_apply){
        .name = "c", .expected = &next, .next = &next, .ops = ops + 5, .count = 1
    };
    if (rc == LEDGER_OK)
        rc = ldg_store_apply(store, &apply, outcomes, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_parked_list(store, 0, 10, &arena, &parked, &count, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_history(store, origin, ldg_id_of(0), 10, 1000, &arena, &rows, &count, err);
    if (rc == LEDGER_OK)
        rc = ledger_store_read(store, NULL, NULL, &batch, err);
    if (rc == LEDGER_OK)
        rc = ledger_store_list_streams(store, NULL, 0, &names, err);
    ledger_batch_destroy(&batch);
    ledger_names_destroy(&names);
    ldg_arena_fini(&arena);
    return rc;
}

static ledger_rc live(void *ctx)
{
    struct life *life = ctx;
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    ledger_rc rc = open_sink(life, &store, &err);
    if (rc == LEDGER_OK)
        rc = use(life, store, &err);
    ledger_store_close(&store);
    return rc;
}

static void each_allocation_fails(void **state)
{
    struct life life = { .creates = true };
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    uint64_t count = 0;
    life.url = tst_ch_database(tst_ch_shared(), "nomem");
    assert_int_equal(live(&life), LEDGER_OK);
    assert_true(alloc_fail_each(live, &life) > 50);
    assert_int_equal(live(&life), LEDGER_OK);
    tst_ok(open_sink(&life, &store, &err), &err);
    tst_ok(ledger_store_count(store, NULL, &count, &err), &err);
    assert_int_equal(count, 0); /* each run ends with its trim */
    ledger_store_close(&store);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(each_allocation_fails) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
