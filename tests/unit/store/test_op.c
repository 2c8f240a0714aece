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
        ledger_mutation_event event = ldg_op_event(&op);
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
}

static void why_an_op_waits(void **state)
{
    char text[LDG_OP_WAIT_MAX];

    ldg_op_wait_reason(INT64_MAX, false, text);
    assert_string_equal(text, "behind parked event 9223372036854775807");
    ldg_op_wait_reason(7, true, text);
    assert_string_equal(text, "its entry may be in parked event 7");
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
    const int64_t kept[] = { 2, 5, 9 };
    struct ldg_op op = { .kind = LDG_OP_TRIM, .source_pos = 10 };

    assert_false(ldg_op_keeps(&op, 2));
    op.kept = kept;
    op.kept_count = 3;
    for (int64_t id = 1; id <= 10; id++)
        assert_int_equal(ldg_op_keeps(&op, id), id == 2 || id == 5 || id == 9);
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
        cmocka_unit_test(why_an_op_waits),
        cmocka_unit_test(a_cursor_that_was_moved),
        cmocka_unit_test(what_a_trim_keeps),
        cmocka_unit_test(an_event_that_is_parked_whole),
        cmocka_unit_test(its_own_part_of_an_event),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
