/* Events as the Go module writes them, ours, and broken ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "base/mem.h"
#include "event/event.h"
#include "event_util.h"

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static struct ldg_arena arena;

static int set_up(void **state)
{
    ldg_arena_init(&arena, 0);
    return 0;
}

static int tear_down(void **state)
{
    ldg_arena_fini(&arena);
    return 0;
}

/* A copy of exactly the right size in the arena, so that a read behind the end is seen. */
static ledger_bytes exact(const char *text, size_t size)
{
    const void *copy = ldg_arena_memdup(&arena, text, size);
    assert_non_null(copy);
    return (ledger_bytes){ copy, size };
}

static ledger_rc decode(const char *text, ledger_mutation_event *ret_event, ledger_error *err)
{
    return ldg_event_decode(exact(text, strlen(text)), &arena, ret_event, err);
}

static ledger_mutation_event decoded(const char *text)
{
    ledger_mutation_event event;
    ledger_error err = { 0 };
    if (decode(text, &event, &err) != LEDGER_OK)
        fail_msg("%s: %s", err.message, text);
    return event;
}

#define assert_bytes_equal(bytes, text)                                                            \
    do {                                                                                           \
        assert_int_equal((bytes).size, strlen(text));                                              \
        assert_memory_equal((bytes).data, text, strlen(text));                                     \
    } while (0)

/* Written by encoding/json from MutationEvent: compact, <, > and & escaped, map keys sorted. */
static const char *const go_samples[] = {
    "{\"type\":\"append\",\"stream\":\"user-123\",\"entries\":[{\"id\":\"1\",\"payload\":"
    "{\"a\":\"\\u003cb\\u003e \\u0026 \\u2028\"},\"order_key\":\"o-1\",\"dedup_key\":\"d-1\","
    "\"schema_version\":1,\"metadata\":{\"k\":\"v\\u003c\",\"l\":\"\"},\"tags\":[\"t1\",\"t2\"]}]}",
    "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"1\",\"payload\":1,"
    "\"schema_version\":1},{\"id\":\"2\",\"payload\":null,\"schema_version\":2}]}",
    "{\"type\":\"append\",\"stream\":\"\",\"entries\":[{\"id\":\"652f1c0d8a4b2c0001a2b3c4\","
    "\"payload\":\"x\",\"schema_version\":0}]}",
    "{\"type\":\"set_tags\",\"stream\":\"user-123\",\"entry_id\":\"42\",\"tags\":[\"a\",\"b\"]}",
    "{\"type\":\"set_tags\",\"stream\":\"user-123\",\"entry_id\":\"42\"}",
    "{\"type\":\"set_annotations\",\"stream\":\"user-123\",\"entry_id\":\"42\",\"annotations\":"
    "{\"note\":\"\\u2029\",\"old\":null}}",
    "{\"type\":\"trim\",\"stream\":\"user-123\",\"before_id\":\"41\"}",
};

/* What we write ourselves. */
static const char *const our_samples[] = {
    "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"1\",\"payload\":{ \"a\" : 1 },"
    "\"schema_version\":1,\"created_at\":\"2026-11-23T03:42:14.123Z\",\"source_id\":\"9\","
    "\"payload_head\":\"\\n \",\"payload_tail\":\"\\t\"}],"
    "\"created_at\":\"2026-11-23T03:42:14.123456Z\",\"origin\":\"u:1\",\"origin_pos\":77}",
    ("{\"type\":\"set_annotations\",\"stream\":\"s\",\"entry_id\":\"5\",\"annotations\":"
     "{\"a\":\"<\"},\"entry_origin\":\"u:2\",\"source_id\":\"3\"}"),
    "{\"type\":\"trim\",\"stream\":\"s\",\"origin\":\"u:1\",\"source_id\":\"3\"}",
    "{\"type\":\"trim\",\"stream\":\"s\",\"entry_origin\":\"u:1\",\"source_id\":\"3\"}",
    "{\"type\":\"rename\",\"stream\":\"s\"}",
};

static void types_have_names(void **state)
{
    static const char *const names[] = { "append", "set_tags", "set_annotations", "trim",
                                         "unknown" };
    for (int i = 0; i < LEDGER_MUTATION_TYPE_COUNT; i++) {
        assert_string_equal(ledger_mutation_type_name((ledger_mutation_type)i), names[i]);
        assert_int_equal(ledger_mutation_type_parse(names[i]), i);
    }
    assert_string_equal(ledger_mutation_type_name((ledger_mutation_type)99), "unknown");
    assert_string_equal(ledger_mutation_type_name((ledger_mutation_type)-1), "unknown");
    assert_int_equal(ledger_mutation_type_parse("Append"), LEDGER_MUTATION_UNKNOWN);
    assert_int_equal(ledger_mutation_type_parse(""), LEDGER_MUTATION_UNKNOWN);
    assert_int_equal(ledger_mutation_type_parse(NULL), LEDGER_MUTATION_UNKNOWN);
}

static void decodes_an_append_of_go(void **state)
{
    ledger_mutation_event event = decoded(go_samples[0]);
    assert_int_equal(event.type, LEDGER_MUTATION_APPEND);
    assert_string_equal(event.type_name, "append");
    assert_string_equal(event.stream, "user-123");
    assert_int_equal(event.entry_count, 1);
    const ledger_append_entry *entry = &event.entries[0];
    assert_string_equal(entry->id, "1");
    assert_bytes_equal(entry->payload, "{\"a\":\"\\u003cb\\u003e \\u0026 \\u2028\"}");
    assert_string_equal(entry->order_key, "o-1");
    assert_string_equal(entry->dedup_key, "d-1");
    assert_int_equal(entry->schema_version, 1);
    assert_int_equal(entry->metadata.count, 2);
    assert_string_equal(entry->metadata.items[0].value, "v<");
    assert_int_equal(entry->tags.count, 2);
    assert_string_equal(entry->tags.items[1], "t2");
    assert_true(entry->created_at_us == LEDGER_NO_TIME);
    assert_string_equal(entry->source_id, "");
    assert_string_equal(event.entry_id, "");
    assert_string_equal(event.before_id, "");
    assert_string_equal(event.origin, "");
    assert_string_equal(event.entry_origin, "");
    assert_string_equal(event.source_id, "");
    assert_true(event.created_at_us == LEDGER_NO_TIME);
    assert_int_equal(event.origin_pos, 0);

    event = decoded(go_samples[1]);
    assert_int_equal(event.entry_count, 2);
    assert_bytes_equal(event.entries[1].payload, "null");
    assert_string_equal(event.entries[1].order_key, "");
    assert_string_equal(event.entries[1].dedup_key, "");
    assert_int_equal(event.entries[1].schema_version, 2);
    event = decoded(go_samples[2]);
    assert_int_equal(event.entries[0].schema_version, 0); /* as written */
    assert_string_equal(event.stream, "");
}

static void decodes_changes_of_go(void **state)
{
    ledger_mutation_event event = decoded(go_samples[3]);
    assert_int_equal(event.type, LEDGER_MUTATION_SET_TAGS);
    assert_string_equal(event.entry_id, "42");
    assert_int_equal(event.tags.count, 2);
    assert_int_equal(event.entry_count, 0);
    assert_int_equal(decoded(go_samples[4]).tags.count, 0);
    event = decoded(go_samples[5]);
    assert_int_equal(event.type, LEDGER_MUTATION_SET_ANNOTATIONS);
    assert_int_equal(event.annotations.count, 2);
    assert_string_equal(event.annotations.items[0].value, "\xe2\x80\xa9");
    assert_null(event.annotations.items[1].value);
    event = decoded(go_samples[6]);
    assert_int_equal(event.type, LEDGER_MUTATION_TRIM);
    assert_string_equal(event.before_id, "41");
}

static void decodes_ours(void **state)
{
    ledger_mutation_event event = decoded(our_samples[0]);
    assert_bytes_equal(event.entries[0].payload, "\n { \"a\" : 1 }\t");
    assert_int_equal(event.entries[0].created_at_us, 1795405334123000);
    assert_string_equal(event.entries[0].source_id, "9");
    assert_int_equal(event.created_at_us, 1795405334123456);
    assert_string_equal(event.origin, "u:1");
    assert_int_equal(event.origin_pos, 77);
    event = decoded(our_samples[1]);
    assert_string_equal(event.entry_origin, "u:2");
    assert_string_equal(event.source_id, "3");
    event = decoded(our_samples[4]);
    assert_int_equal(event.type, LEDGER_MUTATION_UNKNOWN);
    assert_string_equal(event.type_name, "rename");
    assert_string_equal(event.stream, "s");
}

/* The text comes out again byte for byte, but for Go's extra escapes. */
static void encodes_in_the_order_of_go(void **state)
{
    struct ldg_buf buf;
    ldg_buf_init(&buf, 10000);
    for (size_t i = 0; i < LENGTH(go_samples) + LENGTH(our_samples); i++) {
        const char *text =
            i < LENGTH(go_samples) ? go_samples[i] : our_samples[i - LENGTH(go_samples)];
        ledger_mutation_event event = decoded(text);
        ldg_buf_reset(&buf);
        assert_int_equal(ldg_event_encode(&event, &buf, NULL), LEDGER_OK);
        if (i != 0 && i != 5) /* these have <, > and U+2029 in strings of ours */
            assert_string_equal(buf.data, text);
        ledger_mutation_event again = decoded(buf.data);
        assert_null(event_difference(&event, &again));
    }
    ldg_buf_fini(&buf);
}

static void encodes_what_go_would(void **state)
{
    struct ldg_buf buf;
    ldg_buf_init(&buf, 10000);
    const char *const tags[] = { "z", "<" };
    const ledger_append_entry entries[] = {
        { .payload = { " {\"a\":1}\n", 9 }, .schema_version = -3, .created_at_us = LEDGER_NO_TIME },
        { .id = "2",
          .payload = { "[]", 2 },
          .order_key = "o",
          .dedup_key = "d",
          .schema_version = 1,
          .metadata = { (ledger_pair[]){ { "b", "1" }, { "a", "2" } }, 2 },
          .tags = { tags, 2 },
          .created_at_us = 0 },
    };
    ledger_mutation_event event = { .type = LEDGER_MUTATION_APPEND,
                                    .entries = entries,
                                    .entry_count = 2,
                                    .created_at_us = LEDGER_NO_TIME };
    assert_int_equal(ldg_event_encode(&event, &buf, NULL), LEDGER_OK);
    assert_string_equal(
        buf.data, "{\"type\":\"append\",\"stream\":\"\",\"entries\":[{\"id\":\"\",\"payload\":"
                  "{\"a\":1},\"schema_version\":-3,\"payload_head\":\" \","
                  "\"payload_tail\":\"\\n\"},"
                  "{\"id\":\"2\",\"payload\":[],\"order_key\":\"o\",\"dedup_key\":\"d\","
                  "\"schema_version\":1,\"metadata\":{\"a\":\"2\",\"b\":\"1\"},"
                  "\"tags\":[\"z\",\"<\"],\"created_at\":\"1970-01-01T00:00:00.000Z\"}]}");
    ldg_buf_reset(&buf);
    event = (ledger_mutation_event){ .type = LEDGER_MUTATION_SET_TAGS,
                                     .stream = "s",
                                     .entry_id = "1",
                                     .created_at_us = LEDGER_NO_TIME };
    assert_int_equal(ldg_event_encode(&event, &buf, NULL), LEDGER_OK);
    assert_string_equal(buf.data, "{\"type\":\"set_tags\",\"stream\":\"s\",\"entry_id\":\"1\"}");
    ldg_buf_fini(&buf);
}

/* What lies between the places, with ids put in, is the event that is encoded with them. */
static void encodes_with_places_for_ids(void **state)
{
    ledger_append_entry entries[] = {
        { .id = "17", .payload = { " {\"id\":\"\"} ", 11 }, .schema_version = 1 },
        { .id = "9", .payload = { "[]", 2 }, .schema_version = 2, .dedup_key = "k" },
        { .id = "", .payload = { "1", 1 }, .schema_version = 1, .created_at_us = 5 },
    };
    const ledger_mutation_event event = { .type = LEDGER_MUTATION_APPEND,
                                          .stream = "\"id\":\"\"",
                                          .entries = entries,
                                          .entry_count = 3 };
    struct ldg_event_place places[3];
    struct ldg_buf whole, open, built;
    size_t from = 0;
    ldg_buf_init(&whole, 10000);
    ldg_buf_init(&open, 10000);
    ldg_buf_init(&built, 10000);
    ldg_buf_puts(&open, "before");
    assert_int_equal(ldg_event_encode(&event, &whole, NULL), LEDGER_OK);
    assert_int_equal(ldg_event_encode_places(&event, &open, places, NULL), LEDGER_OK);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(open.data[places[i].start], '{');
        assert_int_equal(open.data[places[i].behind], i < 2 ? ',' : ']');
        ldg_buf_append(&built, open.data + from, places[i].id - from);
        ldg_buf_puts(&built, entries[i].id);
        from = places[i].id;
    }
    ldg_buf_append(&built, open.data + from, open.size - from);
    assert_string_equal(built.data + strlen("before"), whole.data);
    ldg_buf_fini(&whole);
    ldg_buf_fini(&open);
    ldg_buf_fini(&built);
}

static void refuses_to_encode(void **state)
{
    struct ldg_buf buf;
    ledger_error err;
    ledger_append_entry entry = { .id = "1", .created_at_us = LEDGER_NO_TIME };
    ledger_mutation_event event = { .type = LEDGER_MUTATION_APPEND,
                                    .stream = "s",
                                    .entries = &entry,
                                    .entry_count = 1,
                                    .created_at_us = LEDGER_NO_TIME };
    ldg_buf_init(&buf, 60);
    assert_int_equal(ldg_event_encode(&event, &buf, &err), LEDGER_ERR_DATA);
    assert_string_equal(err.message, "event: entries[0].payload: is empty");
    ledger_append_entry two[2] = { entry, entry };
    event.entries = two;
    event.entry_count = 2;
    assert_int_equal(ldg_event_encode(&event, &buf, &err), LEDGER_ERR_DATA);
    assert_string_equal(err.message, "event: entries[0].payload: is empty");
    event.entries = &entry;
    event.entry_count = 1;
    entry.payload = (ledger_bytes){ " \n", 2 };
    assert_int_equal(ldg_event_encode(&event, &buf, &err), LEDGER_ERR_DATA);
    entry.payload = (ledger_bytes){ "1", LEDGER_MAX_PAYLOAD_BYTES + 1 };
    assert_int_equal(ldg_event_encode(&event, &buf, &err), LEDGER_ERR_TOO_LARGE);
    entry.payload = (ledger_bytes){ "1", 1 };
    entry.created_at_us = INT64_C(253402300800000000); /* year 10000 */
    assert_int_equal(ldg_event_encode(&event, &buf, &err), LEDGER_ERR_DATA);
    entry.created_at_us = LEDGER_NO_TIME;
    event.created_at_us = INT64_C(-62167219200000001);
    assert_int_equal(ldg_event_encode(&event, &buf, &err), LEDGER_ERR_DATA);
    event.created_at_us = LEDGER_NO_TIME;
    ldg_buf_reset(&buf);
    assert_int_equal(ldg_event_encode(&event, &buf, &err), LEDGER_ERR_TOO_LARGE);
    assert_string_equal(err.message, "event: over 60 bytes");
    event.type = LEDGER_MUTATION_UNKNOWN;
    ldg_buf_reset(&buf);
    assert_int_equal(ldg_event_encode(&event, &buf, &err), LEDGER_ERR_DATA);
    assert_string_equal(err.message, "event: type: required field is missing");
    ldg_buf_fini(&buf);
}

#define APPEND(entry) "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[" entry "]}"

static void says_what_is_missing(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "{}", "event: type: required field is missing at byte 0" },
        { " {\"stream\":\"s\"}", "event: type: required field is missing at byte 1" },
        { "{\"type\":null,\"stream\":\"s\"}", "event: type: required field is missing at byte 0" },
        { "{\"type\":\"append\"}", "event: stream: required field is missing at byte 0" },
        { "{\"type\":\"append\",\"stream\":\"s\"}",
          "event: entries: required field is missing at byte 0" },
        { "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[]}",
          "event: entries: required field is missing at byte 0" },
        { "{\"type\":\"append\",\"stream\":\"s\",\"entries\":null}",
          "event: entries: required field is missing at byte 0" },
        { APPEND("{\"payload\":1}"), "event: entries[0].id: required field is missing at byte 41" },
        { APPEND("{\"id\":\"1\",\"payload\":1}, {\"id\":\"2\"}"),
          "event: entries[1].payload: required field is missing at byte 65" },
        { APPEND("{\"id\":null,\"payload\":1}"),
          "event: entries[0].id: required field is missing at byte 41" },
        { "{\"type\":\"set_tags\",\"stream\":\"s\",\"tags\":[]}",
          "event: entry_id: required field is missing at byte 0" },
        { "{\"type\":\"set_tags\",\"stream\":\"s\",\"entry_id\":\"\"}",
          "event: entry_id: required field is missing at byte 0" },
        { "{\"type\":\"set_annotations\",\"stream\":\"s\"}",
          "event: entry_id: required field is missing at byte 0" },
        { "{\"type\":\"trim\",\"stream\":\"s\"}",
          "event: before_id: required field is missing at byte 0" },
        { "{\"type\":\"trim\",\"stream\":\"s\",\"origin\":\"u:1\"}",
          "event: source_id: required field is missing at byte 0" },
        { "{\"type\":\"trim\",\"stream\":\"s\",\"entry_origin\":\"u:1\"}",
          "event: source_id: required field is missing at byte 0" },
        { "{\"type\":\"trim\",\"stream\":\"s\",\"source_id\":\"1\"}",
          "event: before_id: required field is missing at byte 0" },
    };
    for (size_t i = 0; i < LENGTH(cases); i++) {
        ledger_mutation_event event;
        ledger_error err = { 0 };
        assert_int_equal(decode(cases[i].text, &event, &err), LEDGER_ERR_DATA);
        assert_string_equal(err.message, cases[i].message);
    }
}

static void says_what_is_wrong(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "", "event: text ends too early at byte 0" },
        { "[]", "event: an object is expected at byte 0" },
        { "null", "event: an object is expected at byte 0" },
        { "{\"type\":5}", "event: type: a string is expected at byte 8" },
        { "{\"type\":\"trim\",\"stream\":[]}", "event: stream: a string is expected at byte 24" },
        { "{\"type\":\"append\",\"stream\":\"s\",\"entries\":{}}",
          "event: entries: an array is expected at byte 40" },
        { APPEND("1"), "event: entries[0]: an object is expected at byte 41" },
        { APPEND("{\"id\":1,\"payload\":1}"),
          "event: entries[0].id: a string is expected at byte 47" },
        { APPEND("{\"id\":\"1\",\"payload\":}"),
          "event: entries[0].payload: a value is expected at byte 61" },
        { APPEND("{\"id\":\"1\",\"payload\":1} {"),
          "event: entries: a comma or ] is expected at byte 64" },
        { APPEND("{\"schema_version\":1.0}"),
          "event: entries[0].schema_version: an integer in range is expected at byte 59" },
        { APPEND("{\"schema_version\":2147483648}"),
          "event: entries[0].schema_version: an integer in range is expected at byte 59" },
        { APPEND("{\"schema_version\":-2147483649}"),
          "event: entries[0].schema_version: an integer in range is expected at byte 59" },
        { APPEND("{\"schema_version\":\"1\"}"),
          "event: entries[0].schema_version: an integer in range is expected at byte 59" },
        { APPEND("{\"schema_version\":1e2}"),
          "event: entries[0].schema_version: an integer in range is expected at byte 59" },
        { APPEND("{\"schema_version\":99999999999999999999}"),
          "event: entries[0].schema_version: an integer in range is expected at byte 59" },
        { APPEND("{\"metadata\":{\"a\":null}}"),
          "event: entries[0].metadata: a string is expected at byte 58" },
        { APPEND("{\"metadata\":[]}"),
          "event: entries[0].metadata: an object of strings is expected at byte 53" },
        { APPEND("{\"tags\":[1]}"), "event: entries[0].tags: a string is expected at byte 50" },
        { APPEND("{\"tags\":{}}"),
          "event: entries[0].tags: an array of strings is expected at byte 49" },
        { APPEND("{\"created_at\":\"yesterday\"}"),
          "event: entries[0].created_at: an RFC 3339 time is expected at byte 55" },
        { APPEND("{\"created_at\":1}"),
          "event: entries[0].created_at: a string is expected at byte 55" },
        { APPEND("{\"payload_head\":\"x\"}"),
          "event: entries[0].payload_head: only white space is expected at byte 57" },
        { APPEND("{\"payload_tail\":\"\\f\"}"),
          "event: entries[0].payload_tail: only white space is expected at byte 57" },
        { "{\"type\":\"trim\",\"stream\":\"s\",\"origin_pos\":-1}",
          "event: origin_pos: an integer in range is expected at byte 41" },
        { "{\"type\":\"trim\",\"stream\":\"s\",\"origin_pos\":9223372036854775808}",
          "event: origin_pos: an integer in range is expected at byte 41" },
        { "{\"type\":\"set_annotations\",\"stream\":\"s\",\"annotations\":{\"a\":1}}",
          "event: annotations: a string is expected at byte 58" },
        { "{\"type\":\"trim\",\"stream\":\"a\\u0000b\"}",
          "event: stream: NUL in a string at byte 26" },
        { "{\"type\":\"trim\",\"stream\":\"\\ud83d\"}",
          "event: stream: half a surrogate pair in a string at byte 25" },
        { "{\"type\":\"trim\",\"stream\":\"\xff\"}", "event: stream: invalid UTF-8 at byte 25" },
        { "{\"type\":\"trim\",\"stream\":\"s\",\"x\":[1,}",
          "event: a value is expected at byte 35" },
        { "{\"type\":\"trim\",\"stream\":\"s\",\"before_id\":\"1\"}}",
          "event: more text after the value at byte 44" },
    };
    for (size_t i = 0; i < LENGTH(cases); i++) {
        ledger_mutation_event event;
        ledger_error err = { 0 };
        assert_int_equal(decode(cases[i].text, &event, &err), LEDGER_ERR_DATA);
        assert_string_equal(err.message, cases[i].message);
    }
}

/* Who parks a broken event needs to know whose it was. */
static void a_broken_event_keeps_its_names(void **state)
{
    static const struct {
        const char *text, *type_name, *stream;
        ledger_mutation_type type;
    } cases[] = {
        { APPEND("{}"), "append", "s", LEDGER_MUTATION_APPEND },
        { APPEND("{"), "append", "s", LEDGER_MUTATION_APPEND },
        { "{\"type\":\"trim\",\"stream\":\"a\\tb\"", "trim", "a\tb", LEDGER_MUTATION_TRIM },
        { "{\"type\":\"trim\",\"stream\":\"a", "trim", "", LEDGER_MUTATION_TRIM },
        { "{\"type\":\"trim\",\"stream\":7}", "trim", "", LEDGER_MUTATION_TRIM },
        { "{\"type\":\"trim\",\"stream\":\"\\u0000\"}", "trim", "", LEDGER_MUTATION_TRIM },
        { "{\"type\":7,\"stream\":\"s\"}", "", "s", LEDGER_MUTATION_UNKNOWN },
        { "{\"entries\":5,\"stream\":\"later\",\"type\":\"append\"}", "append", "later",
          LEDGER_MUTATION_APPEND },
        { "{\"entries\":5x,\"stream\":\"later\",\"type\":\"append\"}", "", "",
          LEDGER_MUTATION_UNKNOWN },
        { "{\"stream\":\"first\",\"stream\":\"last\"}", "", "last", LEDGER_MUTATION_UNKNOWN },
        { "{\"type\":\"rename\",\"stream\":\"s\",", "rename", "s", LEDGER_MUTATION_UNKNOWN },
        { "", "", "", LEDGER_MUTATION_UNKNOWN },
        { "not JSON", "", "", LEDGER_MUTATION_UNKNOWN },
    };
    for (size_t i = 0; i < LENGTH(cases); i++) {
        ledger_mutation_event event;
        memset(&event, 0xff, sizeof event);
        assert_int_equal(decode(cases[i].text, &event, NULL), LEDGER_ERR_DATA);
        assert_string_equal(event.type_name, cases[i].type_name);
        assert_string_equal(event.stream, cases[i].stream);
        assert_int_equal(event.type, cases[i].type);
        assert_int_equal(event.entry_count, 0);
        assert_string_equal(event.entry_id, "");
        assert_string_equal(event.source_id, "");
    }
}

/* A later version's events are theirs to define. */
static void unknown_types_need_only_a_type(void **state)
{
    static const struct {
        const char *text, *type_name, *stream;
    } cases[] = {
        { "{\"type\":\"rename\",\"stream\":\"s\",\"to\":\"t\"}", "rename", "s" },
        { "{\"type\":\"rename\"}", "rename", "" },
        { "{\"type\":\"\",\"stream\":\"s\"}", "", "s" },
        { "{\"type\":\"Append\",\"stream\":\"s\"}", "Append", "s" },
        { "{\"type\":\"rename\",\"stream\":5,\"entries\":{\"x\":1},\"tags\":7}", "rename", "" },
        { "{\"entries\":[{}],\"stream\":\"s\",\"type\":\"rename\"}", "rename", "s" },
    };
    for (size_t i = 0; i < LENGTH(cases); i++) {
        ledger_mutation_event event = decoded(cases[i].text);
        assert_int_equal(event.type, LEDGER_MUTATION_UNKNOWN);
        assert_string_equal(event.type_name, cases[i].type_name);
        assert_string_equal(event.stream, cases[i].stream);
    }
}

static void null_is_absent_and_the_last_key_wins(void **state)
{
    ledger_mutation_event event = decoded(
        "{\"type\":\"x\",\"type\":\"append\",\"stream\":\"a\",\"stream\":\"b\",\"tags\":null,"
        "\"annotations\":null,\"created_at\":null,\"origin\":null,\"origin_pos\":null,"
        "\"entries\":[{\"id\":\"0\",\"payload\":0},{\"id\":\"9\",\"payload\":9}],"
        "\"entries\":[{\"id\":\"1\",\"payload\":1,\"payload\":[2],\"id\":\"2\",\"tags\":[\"x\"],"
        "\"tags\":null,\"metadata\":{\"a\":\"1\"},\"metadata\":{\"b\":\"1\",\"b\":\"2\"},"
        "\"schema_version\":7,\"schema_version\":null,\"order_key\":null,\"payload_head\":null}]}");
    assert_int_equal(event.type, LEDGER_MUTATION_APPEND);
    assert_string_equal(event.stream, "b");
    assert_int_equal(event.entry_count, 1);
    assert_string_equal(event.entries[0].id, "2");
    assert_bytes_equal(event.entries[0].payload, "[2]");
    assert_int_equal(event.entries[0].tags.count, 0);
    assert_int_equal(event.entries[0].metadata.count, 1);
    assert_string_equal(event.entries[0].metadata.items[0].value, "2");
    assert_int_equal(event.entries[0].schema_version, 1);
    assert_string_equal(event.entries[0].order_key, "");
    assert_true(event.created_at_us == LEDGER_NO_TIME);
}

static void names_match_exactly(void **state)
{
    ledger_mutation_event event;
    event = decoded("{\"\\u0074ype\":\"tr\\u0069m\",\"str\\u0065am\":\"s\",\"before_id\":\"1\"}");
    assert_int_equal(event.type, LEDGER_MUTATION_TRIM);
    assert_string_equal(event.stream, "s");
    assert_int_equal(
        decode("{\"Type\":\"trim\",\"stream\":\"s\",\"before_id\":\"1\"}", &event, NULL),
        LEDGER_ERR_DATA);
    assert_int_equal(decode("{\"type\\u0000\":\"trim\",\"stream\":\"s\"}", &event, NULL),
                     LEDGER_ERR_DATA);
    /* An unknown name may hold what a name of ours may not. */
    event = decoded("{\"\\ud800\":1,\"\\u0000\":2,\"a very long name, escaped \\u0041 and so on, "
                    "of more than all the bytes that any name of ours could have in any form\":3,"
                    "\"type\":\"trim\",\"stream\":\"s\",\"before_id\":\"1\"}");
    assert_int_equal(event.type, LEDGER_MUTATION_TRIM);
}

static void unknown_fields_are_skipped_but_checked(void **state)
{
    ledger_mutation_event event =
        decoded(" {\"v\":[{\"x\":[null,true,-1.5e3,\"\\ud800\"]}],\"type\" : \"append\" , "
                "\"stream\":\"s\", \"entries\" : [ { \"new\" : {} , \"id\" : \"1\" , "
                "\"payload\" : [ 1 , \"\\ud800\" ] } ] } ");
    assert_bytes_equal(event.entries[0].payload, "[ 1 , \"\\ud800\" ]");
    assert_int_equal(
        decode("{\"v\":[1,],\"type\":\"trim\",\"stream\":\"s\",\"before_id\":\"1\"}", &event, NULL),
        LEDGER_ERR_DATA);
}

static void nested_payloads(void **state)
{
    static const size_t depths[] = { 1, 500, 1000, 1001, 10000 };
    for (size_t i = 0; i < LENGTH(depths); i++) {
        struct ldg_buf buf;
        ledger_mutation_event event;
        ldg_buf_init(&buf, (size_t)1 << 20);
        ldg_buf_puts(&buf, "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"1\","
                           "\"payload\":");
        for (size_t k = 0; k < depths[i]; k++)
            ldg_buf_putc(&buf, '[');
        for (size_t k = 0; k < depths[i]; k++)
            ldg_buf_putc(&buf, ']');
        ldg_buf_puts(&buf, "}]}");
        ledger_rc rc = ldg_event_decode((ledger_bytes){ buf.data, buf.size }, &arena, &event, NULL);
        assert_int_equal(rc, depths[i] <= LEDGER_MAX_JSON_DEPTH ? LEDGER_OK : LEDGER_ERR_DATA);
        assert_string_equal(event.stream, "s");
        ldg_buf_fini(&buf);
    }
}

/* Cut after any byte, each sample is an error, and leaves names that can be used. */
static void every_truncation_fails(void **state)
{
    for (size_t i = 0; i < LENGTH(go_samples) + LENGTH(our_samples); i++) {
        const char *text =
            i < LENGTH(go_samples) ? go_samples[i] : our_samples[i - LENGTH(go_samples)];
        for (size_t size = 0; size < strlen(text); size++) {
            ledger_mutation_event event;
            ledger_error err = { 0 };
            assert_int_equal(ldg_event_decode(exact(text, size), &arena, &event, &err),
                             LEDGER_ERR_DATA);
            assert_non_null(strstr(err.message, " at byte "));
            assert_non_null(event.stream);
            assert_non_null(event.type_name);
        }
    }
}

/* Any byte changed: decodes or fails, but never half; what decodes survives a round trip. */
static void changed_bytes_never_crash(void **state)
{
    for (size_t i = 0; i < LENGTH(go_samples); i++) {
        size_t size = strlen(go_samples[i]);
        for (size_t at = 0; at < size; at++) {
            static const char changes[] = { '"', '\\', '{', ']', '0', 'n', ' ', '\0', '\xff', ',' };
            for (size_t k = 0; k < LENGTH(changes); k++) {
                struct ldg_arena own;
                struct ldg_buf buf;
                ledger_mutation_event event, again;
                char text[512];
                ldg_arena_init(&own, 0);
                ldg_buf_init(&buf, 100000);
                memcpy(text, go_samples[i], size);
                text[at] = changes[k];
                if (ldg_event_decode((ledger_bytes){ text, size }, &own, &event, NULL) ==
                    LEDGER_OK) {
                    assert_int_equal(ldg_event_encode(&event, &buf, NULL), LEDGER_OK);
                    assert_int_equal(
                        ldg_event_decode((ledger_bytes){ buf.data, buf.size }, &own, &again, NULL),
                        LEDGER_OK);
                    assert_null(event_difference(&event, &again));
                }
                ldg_buf_fini(&buf);
                ldg_arena_fini(&own);
            }
        }
    }
}

static void random_events_survive(void **state)
{
    uint64_t seed = 2026;
    struct ldg_buf buf;
    ldg_buf_init(&buf, (size_t)1 << 24);
    for (int round = 0; round < 5000; round++) {
        ledger_mutation_event event = random_event(&seed, &arena), again;
        ledger_error err = { 0 };
        ldg_buf_reset(&buf);
        assert_int_equal(ldg_event_encode(&event, &buf, &err), LEDGER_OK);
        if (ldg_event_decode(exact(buf.data, buf.size), &arena, &again, &err) != LEDGER_OK)
            fail_msg("%s: %s", err.message, buf.data);
        const char *field = event_difference(&event, &again);
        if (field != NULL)
            fail_msg("%s differs: %s", field, buf.data);
        ldg_arena_reset(&arena);
    }
    ldg_buf_fini(&buf);
}

/* Go has no limit for one append, so an event has none. */
static void more_entries_than_one_append_takes(void **state)
{
    struct ldg_buf buf;
    ledger_mutation_event event;
    ledger_error err = { 0 };
    ldg_buf_init(&buf, (size_t)1 << 24);
    ldg_buf_puts(&buf, "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[");
    for (int i = 0; i < LEDGER_MAX_APPEND_ENTRIES; i++)
        ldg_buf_puts(&buf, i > 0 ? ",{\"id\":\"\",\"payload\":0}" : "{\"id\":\"\",\"payload\":0}");
    size_t size = buf.size;
    ldg_buf_puts(&buf, "]}");
    assert_int_equal(ldg_event_decode((ledger_bytes){ buf.data, buf.size }, &arena, &event, &err),
                     LEDGER_OK);
    assert_int_equal(event.entry_count, LEDGER_MAX_APPEND_ENTRIES);
    buf.size = size;
    ldg_buf_puts(&buf, ",{\"id\":\"\",\"payload\":0}]}");
    assert_int_equal(ldg_event_decode((ledger_bytes){ buf.data, buf.size }, &arena, &event, &err),
                     LEDGER_OK);
    assert_int_equal(event.entry_count, LEDGER_MAX_APPEND_ENTRIES + 1);
    ldg_buf_fini(&buf);
}

/* What a column or a C string cannot hold is told, not cut. */
static void values_that_are_too_wide(void **state)
{
    static const char *const entries[] = {
        "\"schema_version\":2147483648",    "\"schema_version\":-4294967297",
        "\"order_key\":\"\\u0000\"",        "\"dedup_key\":\"k\\u0000\"",
        "\"metadata\":{\"a\":\"\\u0000\"}", "\"tags\":[\"\\u0000\"]",
    };
    ledger_mutation_event event;
    ledger_error err = { 0 };
    char text[200];
    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
        snprintf(text, sizeof(text),
                 "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"1\",\"payload\":1,"
                 "%s}]}",
                 entries[i]);
        assert_int_equal(
            ldg_event_decode((ledger_bytes){ text, strlen(text) }, &arena, &event, &err),
            LEDGER_ERR_DATA);
    }
    snprintf(text, sizeof(text), "{\"type\":\"append\",\"stream\":\"s\\u0000\",\"entries\":[]}");
    assert_int_equal(ldg_event_decode((ledger_bytes){ text, strlen(text) }, &arena, &event, &err),
                     LEDGER_ERR_DATA);
}

static void payload_over_its_limit(void **state)
{
    static const char head[] = "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"1\","
                               "\"payload\":\"";
    size_t size = sizeof head - 1 + LEDGER_MAX_PAYLOAD_BYTES - 2 + 5;
    char *text = malloc(size);
    ledger_mutation_event event;
    ledger_error err = { 0 };
    assert_non_null(text);
    memset(text, 'x', size);
    memcpy(text, head, sizeof head - 1);
    memcpy(text + size - 4, "\"}]}", 4);
    assert_int_equal(ldg_event_decode((ledger_bytes){ text, size }, &arena, &event, &err),
                     LEDGER_ERR_TOO_LARGE);
    assert_string_equal(err.message, "event: entries[0].payload: value over its limit at byte 41");
    assert_string_equal(event.stream, "s");
    memcpy(text + size - 5, "\"}]}", 4);
    assert_int_equal(ldg_event_decode((ledger_bytes){ text, size - 1 }, &arena, &event, &err),
                     LEDGER_OK);
    assert_int_equal(event.entries[0].payload.size, LEDGER_MAX_PAYLOAD_BYTES);
    free(text);
}

/* --- the public calls ---------------------------------------------------------------------- */

static void public_round_trip(void **state)
{
    uint64_t seed = 4;
    for (int round = 0; round < 200; round++) {
        ledger_mutation_event event = random_event(&seed, &arena);
        ledger_event *copy = NULL;
        char *json = NULL;
        size_t size = 0;
        assert_int_equal(ledger_event_encode(&event, &json, &size, NULL), LEDGER_OK);
        assert_int_equal(strlen(json), size);
        assert_int_equal(ledger_event_decode((ledger_bytes){ json, size }, &copy, NULL), LEDGER_OK);
        memset(json, 'x', size); /* the event owns what it shows */
        free(json);
        assert_null(event_difference(&event, ledger_event_get(copy)));
        ledger_event_destroy(&copy);
        assert_null(copy);
    }
    ledger_event_destroy(NULL);
    ledger_event *none = NULL;
    ledger_event_destroy(&none);
}

static void public_calls_leave_results_alone_on_failure(void **state)
{
    ledger_event *event = (ledger_event *)&arena;
    ledger_error err;
    char *json = (char *)&arena;
    size_t size = 77;
    assert_int_equal(ledger_event_decode((ledger_bytes){ "{", 1 }, &event, &err), LEDGER_ERR_DATA);
    assert_int_equal(ledger_event_decode((ledger_bytes){ NULL, 0 }, &event, NULL), LEDGER_ERR_DATA);
    assert_ptr_equal(event, &arena);
    ledger_mutation_event trim = { .type = LEDGER_MUTATION_TRIM,
                                   .stream = "s",
                                   .created_at_us = LEDGER_NO_TIME };
    assert_int_equal(ledger_event_encode(&trim, &json, &size, &err), LEDGER_ERR_DATA);
    assert_non_null(strstr(err.message, "before_id"));
    trim.before_id = "1";
    trim.stream = "\xff";
    assert_int_equal(ledger_event_encode(&trim, &json, &size, &err), LEDGER_ERR_DATA);
    assert_non_null(strstr(err.message, "UTF-8"));
    assert_ptr_equal(json, &arena);
    assert_int_equal(size, 77);
}

/* A payload must not be able to add fields to its entry. */
static void public_encode_checks_payloads(void **state)
{
    static const char *const payloads[] = { "",    " ",        "{", "1,\"dedup_key\":\"x\"",
                                            "1 2", "\"\xff\"", "]" };
    for (size_t i = 0; i < LENGTH(payloads); i++) {
        ledger_append_entry entry = { .id = "1",
                                      .payload = { payloads[i], strlen(payloads[i]) },
                                      .created_at_us = LEDGER_NO_TIME };
        ledger_mutation_event event = { .type = LEDGER_MUTATION_APPEND,
                                        .stream = "s",
                                        .entries = &entry,
                                        .entry_count = 1,
                                        .created_at_us = LEDGER_NO_TIME };
        ledger_error err;
        char *json;
        size_t size;
        assert_int_equal(ledger_event_encode(&event, &json, &size, &err), LEDGER_ERR_DATA);
        assert_non_null(strstr(err.message, "entries[0].payload"));
    }
}

/* --- failing allocations ------------------------------------------------------------------- */

static ledger_rc decode_sample(void *ctx)
{
    struct ldg_arena own;
    ledger_mutation_event event;
    const char *text = ctx;
    ldg_arena_init(&own, 0);
    ledger_rc rc = ldg_event_decode((ledger_bytes){ text, strlen(text) }, &own, &event, NULL);
    ldg_arena_fini(&own);
    return rc;
}

static ledger_rc encode_sample(void *ctx)
{
    struct ldg_buf buf;
    ldg_buf_init(&buf, (size_t)1 << 20);
    ledger_error err = { 0 };
    ledger_rc rc = ldg_event_encode(ctx, &buf, &err);
    assert_int_equal(err.code, rc);
    ldg_buf_fini(&buf);
    return rc;
}

static ledger_rc public_sample(void *ctx)
{
    ledger_event *event = NULL;
    char *json = NULL;
    size_t size = 0;
    ledger_rc rc = ledger_event_encode(ctx, &json, &size, NULL);
    if (rc == LEDGER_OK)
        rc = ledger_event_decode((ledger_bytes){ json, size }, &event, NULL);
    ledger_event_destroy(&event);
    free(json);
    return rc;
}

/* Fails on every allocation, and never takes running out of memory for bad data. */
static ledger_rc decode_broken(void *ctx)
{
    struct ldg_arena own;
    ledger_mutation_event event;
    ledger_error err;
    ldg_arena_init(&own, 0);
    ledger_rc rc = ldg_event_decode((ledger_bytes){ ctx, strlen(ctx) }, &own, &event, &err);
    assert_true(rc == LEDGER_ERR_DATA || rc == LEDGER_ERR_NOMEM);
    ldg_arena_fini(&own);
    return rc == LEDGER_ERR_DATA ? LEDGER_OK : rc;
}

static void every_allocation_may_fail(void **state)
{
    for (size_t i = 0; i < LENGTH(go_samples); i++)
        alloc_fail_each(decode_sample, (void *)(uintptr_t)go_samples[i]);
    for (size_t i = 0; i < LENGTH(our_samples); i++)
        alloc_fail_each(decode_sample, (void *)(uintptr_t)our_samples[i]);
    /* Strings that fill a chunk each, so that the second look allocates too. */
    char large[10000], text[20100];
    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    snprintf(text, sizeof text, "{\"type\":\"append\",\"stream\":\"%s\",\"entries\":5}", large);
    assert_int_equal(alloc_fail_each(decode_broken, text), 3);
    snprintf(text, sizeof text, "{\"type\":5,\"stream\":\"%s\",\"entries\":5}", large);
    assert_int_equal(alloc_fail_each(decode_broken, text), 1);
    snprintf(text, sizeof text, APPEND("{\"id\":\"1\",\"payload\":\"%s\",\"payload_tail\":\" \"}"),
             large);
    assert_in_range(alloc_fail_each(decode_sample, text), 2, 5);
    uint64_t seed = 12;
    for (int round = 0; round < 30; round++) {
        ledger_mutation_event event = random_event(&seed, &arena);
        alloc_fail_each(encode_sample, &event);
        alloc_fail_each(public_sample, &event);
    }
    /* One with enough in it for every call to meet a full chunk. */
    struct ldg_buf buf;
    ldg_buf_init(&buf, (size_t)1 << 20);
    ldg_buf_puts(&buf, "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[");
    for (int i = 0; i < 700; i++)
        ldg_buf_printf(&buf,
                       "%s{\"id\":\"%d\",\"payload\":{},\"order_key\":\"o%d\","
                       "\"payload_head\":\" \",\"metadata\":{\"b\":\"1\",\"a\":\"2\"},"
                       "\"tags\":[\"a\\n\",\"b\"]}",
                       i > 0 ? "," : "", i, i);
    ldg_buf_puts(&buf, "]}");
    assert_in_range(alloc_fail_each(decode_sample, buf.data), 5, 200);
    ldg_buf_fini(&buf);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(types_have_names),
        TEST(decodes_an_append_of_go),
        TEST(decodes_changes_of_go),
        TEST(decodes_ours),
        TEST(encodes_in_the_order_of_go),
        TEST(encodes_what_go_would),
        TEST(encodes_with_places_for_ids),
        TEST(refuses_to_encode),
        TEST(says_what_is_missing),
        TEST(says_what_is_wrong),
        TEST(a_broken_event_keeps_its_names),
        TEST(unknown_types_need_only_a_type),
        TEST(null_is_absent_and_the_last_key_wins),
        TEST(names_match_exactly),
        TEST(unknown_fields_are_skipped_but_checked),
        TEST(nested_payloads),
        TEST(every_truncation_fails),
        TEST(changed_bytes_never_crash),
        TEST(random_events_survive),
        TEST(values_that_are_too_wide),
        TEST(more_entries_than_one_append_takes),
        TEST(payload_over_its_limit),
        TEST(public_round_trip),
        TEST(public_calls_leave_results_alone_on_failure),
        TEST(public_encode_checks_payloads),
        TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
