#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "event/event.h"
#include "store/backend.h"

#define MAX_BYTES 4096

static const char two_entries[] =
    "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"1\",\"payload\":{\"a\":1},"
    "\"schema_version\":1},{\"id\":\"2\",\"payload\":{\"b\":2},\"order_key\":\"k\","
    "\"schema_version\":3}],\"origin\":\"u:1\",\"origin_pos\":7}";

static ledger_bytes bytes(const char *text)
{
    return (ledger_bytes){ text, strlen(text) };
}

static void an_op_as_an_event(void **state)
{
    static const char *const names[] = { "append", "set_tags", "set_annotations", "trim",
                                         "unknown" };
    const char *const tags[] = { "x" };
    const ledger_pair pairs[] = { { "k", "v" } };
    struct ldg_op op = {
        .stream = "s", .position = 5, .time_us = 6, .tags = { tags, 1 }, .annotations = { pairs, 1 }
    };

    for (int kind = LDG_OP_APPEND; kind <= LDG_OP_PARK; kind++) {
        op.kind = (enum ldg_op_kind)kind;
        ledger_mutation_event event = ldg_op_event(&op, 9);
        assert_string_equal(event.type_name, names[kind]);
        assert_int_equal(event.type, ledger_mutation_type_parse(names[kind]));
        assert_ptr_equal(event.stream, op.stream);
        assert_int_equal(event.created_at_us, 6);
        assert_int_equal(event.origin_pos, 5);
        assert_ptr_equal(event.tags.items, tags);
        assert_ptr_equal(event.annotations.items, pairs);
        assert_int_equal(event.entry_count, 0);
        assert_string_equal(event.entry_id, "");
        assert_string_equal(event.before_id, "");
        assert_string_equal(event.origin, "");
        assert_string_equal(event.entry_origin, "");
        assert_string_equal(event.source_id, "");
    }
    op.time_us = LEDGER_NO_TIME;
    assert_int_equal(ldg_op_event(&op, 9).created_at_us, 9);
}

static void an_op_that_was_made_here(void **state)
{
    struct ldg_op op = { .mutation_origin = 1 };

    for (int kind = LDG_OP_APPEND; kind <= LDG_OP_PARK; kind++) {
        op.kind = (enum ldg_op_kind)kind;
        op.mutation_origin = 1;
        assert_false(ldg_op_was_made_here(&op));
        op.mutation_origin = 0;
        assert_int_equal(ldg_op_was_made_here(&op), kind != LDG_OP_APPEND && kind != LDG_OP_PARK);
    }
}

static void entries_that_were_here(void **state)
{
    static const struct ldg_op ops[] = { { .kind = LDG_OP_APPEND }, { .kind = LDG_OP_SET_TAGS } };
    uint8_t outcomes[] = { LDG_OUTCOME_APPLIED, LDG_OUTCOME_REPLAYED };

    assert_false(ldg_op_any_known(ops, outcomes, 2)); /* of a change alone nothing is known */
    outcomes[0] = LDG_OUTCOME_REPLAYED;
    assert_true(ldg_op_any_known(ops, outcomes, 2));
    assert_false(ldg_op_any_known(ops, outcomes, 0));
    outcomes[0] = LDG_OUTCOME_DEDUPLICATED;
    assert_true(ldg_op_any_known(ops, outcomes, 2));
    outcomes[0] = LDG_OUTCOME_PARKED;
    assert_false(ldg_op_any_known(ops, outcomes, 2));
}

/* A Go bridge behind this store goes by the ids here, ours by those at the origin. */
static void ids_of_an_event(void **state)
{
    struct ldg_op op = { .kind = LDG_OP_TRIM, .stream = "s" };
    ledger_mutation_event event = ldg_op_event(&op, 9);

    ldg_op_event_ids(&op, "3", "41", &event);
    assert_string_equal(event.before_id, "3");
    assert_string_equal(event.source_id, "41");
    assert_string_equal(event.entry_id, "");
    op.kind = LDG_OP_SET_TAGS;
    event = ldg_op_event(&op, 9);
    ldg_op_event_ids(&op, "3", "41", &event);
    assert_string_equal(event.entry_id, "3");
    assert_string_equal(event.source_id, "41");
    assert_string_equal(event.before_id, "");
}

static void an_entry_that_go_has_carried(void **state)
{
    const struct ldg_op op = { .kind = LDG_OP_APPEND, .stream = "s", .key.number = 7 };
    ledger_error err = { 0 };

    assert_int_equal(ldg_op_fail_foreign(&op, "orders", &err), LEDGER_ERR_FOREIGN_BRIDGE);
    assert_non_null(strstr(err.message, "entry 7 of stream \"s\" is in table \"orders\""));
    assert_int_equal(err.flags, LEDGER_ERROR_FATAL);
    assert_int_equal(ledger_rc_exit_code(err.code), 78);
}

/* It may have left metadata out, and wrote no other. */
static void metadata_of_a_row_of_go(void **state)
{
    static const ledger_pair mine = { "a", "1" }, others = { "a", "2" };
    const ledger_append_entry entry = {
        .payload = bytes("1"), .order_key = "", .dedup_key = "", .metadata = { &mine, 1 }
    };
    const struct ldg_op op = { .stream = "s", .entry = &entry, .time_us = LEDGER_NO_TIME };
    const struct {
        ledger_map metadata;
        const char *field;
    } rows[] = { { { NULL, 0 }, NULL }, { { &mine, 1 }, NULL }, { { &others, 1 }, "metadata" } };
    struct ldg_arena arena;
    ledger_error err = { 0 };
    ldg_arena_init(&arena, 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct ldg_stored stored = { .stream = bytes("s"),
                                           .payload = bytes("1"),
                                           .metadata = rows[i].metadata,
                                           .created_at_us = LEDGER_NO_TIME,
                                           .by_go = true };
        const char *field = "unset";
        assert_int_equal(ldg_op_compare(&op, &stored, &arena, &field, &err), LEDGER_OK);
        if (rows[i].field == NULL)
            assert_null(field);
        else
            assert_string_equal(field, rows[i].field);
    }
    ldg_arena_fini(&arena);
}

static ledger_rc compare_maps(void *ctx)
{
    static const ledger_pair pairs[] = { { "b", "2" }, { "a", "1" } },
                             others[] = { { "a", "1" }, { "b", "2" } };
    const ledger_append_entry entry = {
        .payload = bytes("1"), .order_key = "", .dedup_key = "", .metadata = { pairs, 2 }
    };
    const struct ldg_op op = { .stream = "s", .entry = &entry, .time_us = LEDGER_NO_TIME };
    const struct ldg_stored stored = { .stream = bytes("s"),
                                       .payload = bytes("1"),
                                       .metadata = { others, 2 },
                                       .created_at_us = LEDGER_NO_TIME };
    struct ldg_arena arena;
    ledger_error err;
    ldg_arena_init(&arena, 0);
    const char *field = ctx;
    ledger_rc rc = ldg_op_compare(&op, &stored, &arena, &field, &err);
    if (rc == LEDGER_OK)
        assert_null(field);
    ldg_arena_fini(&arena);
    return rc;
}

static void what_makes_an_entry_another_one(void **state)
{
    static const struct {
        const char *field; /* the first that differs; NULL: none */
        const char *stream, *payload, *order_key, *dedup_key;
        int64_t version, time_us;
        bool inexact, by_go;
    } rows[] = {
        { NULL, "s", "{\"a\": 1}", "o", "k", 2, 5000, false, false },
        { "stream", "S", "{\"a\": 1}", "o", "k", 2, 5000, false, false },
        { "stream", "s ", "{\"a\": 1}", "o", "k", 2, 5000, false, false },
        { "payload", "s", "{\"a\":1}", "o", "k", 2, 5000, false, false },
        { NULL, "s", "{\"a\":1}", "o", "k", 2, 5000, true, false },
        { NULL, "s", "{\"a\":1}", "o", "k", 2, 5000, false, true },
        { "payload", "s", "{\"a\":2}", "o", "k", 2, 5000, true, false },
        { "payload", "s", "{\"a\":2}", "o", "k", 2, 5000, false, true },
        { "order_key", "s", "{\"a\": 1}", "O", "k", 2, 5000, false, false },
        { "dedup_key", "s", "{\"a\": 1}", "o", "", 2, 5000, false, false },
        { "schema_version", "s", "{\"a\": 1}", "o", "k", 2 + (INT64_C(1) << 32), 5000, false,
          false },
        { NULL, "s", "{\"a\": 1}", "o", "k", 2, 5999, false, false },
        { "created_at", "s", "{\"a\": 1}", "o", "k", 2, 6000, false, false },
        { "created_at", "s", "{\"a\": 1}", "o", "k", 2, 4999, false, false },
        { "created_at", "s", "{\"a\": 1}", "o", "k", 2, -1, false, false },
        { NULL, "s", "{\"a\": 1}", "o", "k", 2, LEDGER_NO_TIME, false, false },
        { NULL, "s", "{\"a\": 1}", "o", "k", 2, 6000, true, false },
        { NULL, "s", "{\"a\": 1}", "o", "k", 2, 6000, false, true },
    };
    const ledger_append_entry entry = {
        .payload = bytes("{\"a\": 1}"), .order_key = "o", .dedup_key = "k", .schema_version = 2
    };
    struct ldg_arena arena;
    ledger_error err = { 0 };
    ldg_arena_init(&arena, 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct ldg_op op = {
            .stream = "s", .entry = &entry, .time_us = 5500, .inexact = rows[i].inexact
        };
        const struct ldg_stored stored = {
            .stream = bytes(rows[i].stream),
            .payload = bytes(rows[i].payload),
            .order_key = bytes(rows[i].order_key),
            .dedup_key = bytes(rows[i].dedup_key),
            .schema_version = rows[i].version,
            .created_at_us = rows[i].time_us,
            .by_go = rows[i].by_go,
        };
        const char *field = "unset";
        assert_int_equal(ldg_op_compare(&op, &stored, &arena, &field, &err), LEDGER_OK);
        if (rows[i].field == NULL)
            assert_null(field);
        else
            assert_string_equal(field, rows[i].field);
    }
    ldg_arena_fini(&arena);
    alloc_fail_each(compare_maps, NULL);
    struct ldg_op op = { .origin = 1, .stream = "s", .key.number = 7 };
    assert_int_equal(ldg_op_fail_reused(&op, "payload", &err), LEDGER_ERR_POSITION_REUSED);
    assert_non_null(strstr(err.message, "entry 7 of stream \"s\""));
    assert_non_null(strstr(err.message, "another payload"));
    assert_non_null(strstr(err.message, "--new-identity` on the source"));
    op.origin = 0;
    assert_int_equal(ldg_op_fail_reused(&op, "payload", &err), LEDGER_ERR_POSITION_REUSED);
    assert_non_null(strstr(err.message, "entry 7 of stream \"s\" was written here"));
    assert_non_null(strstr(err.message, "--new-identity`)"));
}

static void a_cursor_that_cannot_be_read(void **state)
{
    ledger_error err = { 0 };

    assert_int_equal(ldg_cursor_fail("sqlite:1:x", "postgres", "PostgreSQL", &err),
                     LEDGER_ERR_CURSOR_MISMATCH);
    assert_non_null(strstr(err.message, "a sqlite source"));
    assert_int_equal(ldg_cursor_fail("sqlite:1:x", "sqlite", "SQLite", &err), LEDGER_ERR_DATA);
    assert_int_equal(ldg_cursor_fail("sqlite:2:x", "postgres", "PostgreSQL", &err),
                     LEDGER_ERR_DATA);
    assert_int_equal(ldg_cursor_fail(":1:", "sqlite", "SQLite", &err), LEDGER_ERR_DATA);
    assert_int_equal(
        ldg_cursor_fail("abcdefghijklmnopqrstuvwxyzabcdefgh:1:", "sqlite", "SQLite", &err),
        LEDGER_ERR_DATA);
    assert_non_null(strstr(err.message, "not a cursor of a SQLite source"));
}

static void a_cursor_that_was_moved(void **state)
{
    struct ldg_cursor expected = { .state = "s", .readable = "5" }, found = expected;
    ledger_error err = { 0 };

    assert_int_equal(ldg_cursor_compare("c", &found, &expected, &err), LEDGER_OK);
    found.moved_at_us = 9; /* no part of the fence */
    assert_int_equal(ldg_cursor_compare("c", &found, &expected, &err), LEDGER_OK);
    assert_int_equal(ldg_cursor_compare("c", NULL, &expected, &err), LEDGER_ERR_FENCED);
    assert_string_equal(err.message, "cursor \"c\" was deleted");
    found.state[0] = 't';
    assert_int_equal(ldg_cursor_compare("c", &found, &expected, &err), LEDGER_ERR_FENCED);
    found.state[0] = 's';
    found.readable[0] = '6';
    assert_int_equal(ldg_cursor_compare("c", &found, &expected, &err), LEDGER_ERR_FENCED);
    assert_string_equal(err.message, "another bridge has moved cursor \"c\" from \"5\" to \"6\"");
}

static void what_a_trim_keeps(void **state)
{
    const ledger_id kept[] = { { .number = 2 }, { .number = 5 }, { .number = 9 } };
    struct ldg_op op = { .kind = LDG_OP_TRIM, .key.number = 10 };

    assert_false(ldg_op_survives(&op, ldg_id_of(2)));
    op.survivors = kept;
    op.survivor_count = 3;
    for (int64_t id = 1; id <= 10; id++)
        assert_int_equal(ldg_op_survives(&op, ldg_id_of(id)), id == 2 || id == 5 || id == 9);
    for (int64_t id = 1; id <= 12; id++)
        assert_int_equal(ldg_op_trims(&op, ldg_id_of(id)),
                         id <= 10 && id != 2 && id != 5 && id != 9);
    assert_false(ldg_op_trims(&op, (ledger_id){ .text = "1" })); /* no id of that store */
}

static void an_event_that_is_parked_whole(void **state)
{
    static const struct {
        enum ldg_op_kind kind;
        const char *event;
    } rows[] = {
        { LDG_OP_SET_TAGS, two_entries },
        { LDG_OP_PARK, "nonsense" },
        { LDG_OP_APPEND, "nonsense" },
        { LDG_OP_APPEND, "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"1\","
                         "\"payload\":1}]}" },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct ldg_op op = { .kind = rows[i].kind, .event = bytes(rows[i].event) };
        ledger_bytes event = { 0 };
        ledger_error err = { 0 };
        struct ldg_buf buf;
        ldg_buf_init(&buf, MAX_BYTES);
        assert_int_equal(ldg_op_parked_event(&op, &buf, &event, &err), LEDGER_OK);
        assert_ptr_equal(event.data, rows[i].event);
        assert_int_equal(event.size, strlen(rows[i].event));
        assert_int_equal(buf.size, 0);
        ldg_buf_fini(&buf);
    }
}

struct part {
    int64_t entry_time_us;
    size_t max_bytes;
    char text[MAX_BYTES];
};

static ledger_rc park_part(void *ctx)
{
    struct part *part = ctx;
    const ledger_append_entry entry = { .id = "2",
                                        .payload = bytes("{\"b\":2}"),
                                        .order_key = "k",
                                        .dedup_key = "",
                                        .schema_version = 3,
                                        .created_at_us = part->entry_time_us,
                                        .source_id = "" };
    const struct ldg_op op = {
        .kind = LDG_OP_APPEND, .time_us = 2000000, .entry = &entry, .event = bytes(two_entries)
    };
    ledger_bytes event = { .data = part };
    ledger_error err = { 0 };
    struct ldg_buf buf;

    ldg_buf_init(&buf, part->max_bytes);
    ledger_rc rc = ldg_op_parked_event(&op, &buf, &event, &err);
    if (rc == LEDGER_OK) {
        memcpy(part->text, event.data, event.size);
        part->text[event.size] = '\0';
    } else {
        part->text[0] = '\0';
        if (event.data != part || err.code != rc)
            rc = LEDGER_ERR_INTERNAL;
    }
    ldg_buf_fini(&buf);
    return rc;
}

static void its_own_part_of_an_event(void **state)
{
    struct part part = { .entry_time_us = LEDGER_NO_TIME, .max_bytes = MAX_BYTES };

    alloc_fail_each(park_part, &part);
    assert_non_null(strstr(part.text, "\"entries\":[{\"id\":\"2\",\"payload\":{\"b\":2}"));
    assert_null(strstr(part.text, "\"a\""));
    assert_non_null(strstr(part.text, "\"origin\":\"u:1\",\"origin_pos\":7"));
    assert_non_null(strstr(part.text, "1970-01-01T00:00:02"));
    part.entry_time_us = 3000000;
    assert_int_equal(park_part(&part), LEDGER_OK);
    assert_non_null(strstr(part.text, "1970-01-01T00:00:03"));
    part.max_bytes = 20;
    assert_int_equal(park_part(&part), LEDGER_ERR_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_op_as_an_event),
        cmocka_unit_test(an_op_that_was_made_here),
        cmocka_unit_test(entries_that_were_here),
        cmocka_unit_test(ids_of_an_event),
        cmocka_unit_test(an_entry_that_go_has_carried),
        cmocka_unit_test(metadata_of_a_row_of_go),
        cmocka_unit_test(what_makes_an_entry_another_one),
        cmocka_unit_test(a_cursor_that_cannot_be_read),
        cmocka_unit_test(a_cursor_that_was_moved),
        cmocka_unit_test(what_a_trim_keeps),
        cmocka_unit_test(an_event_that_is_parked_whole),
        cmocka_unit_test(its_own_part_of_an_event),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
