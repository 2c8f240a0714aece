/* Bodies byte by byte, in each form, and ids. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>

#include "ops.h"

static void body_of(struct ldg_buf *body, ledger_http_body form, const struct ldg_op *ops,
                    size_t count)
{
    ldg_buf_reset(body);
    ldg_webhook_body_begin(body, form, ops);
    for (size_t i = 0; i < count; i++)
        ldg_webhook_body_add(body, form, &ops[i], i == 0);
    ldg_webhook_body_end(body, form, ops);
    assert_int_equal(body->rc, LEDGER_OK);
    json_error_t error;
    json_t *json = json_loadb(body->data, body->size, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL)
        fail_msg("%s: %s", error.text, body->data);
    json_decref(json);
}

static void is(const struct ldg_buf *body, const char *want)
{
    assert_string_equal(body->data, want);
}

static void the_reference(void **state)
{
    static const char *const tags[] = { "a", "b\"" };
    static const ledger_pair pairs[] = { { "k2", "v\n" }, { "k1", "v1" } };
    struct test_ops all = { 0 };
    struct ldg_buf body;
    ldg_buf_init(&body, LDG_WEBHOOK_BODY_MAX);
    test_op(&all, LDG_OP_APPEND, "s\r\n\"1");
    struct ldg_op *op = test_op(&all, LDG_OP_APPEND, "s\r\n\"1");
    body_of(&body, LEDGER_HTTP_BODY_REFERENCE, all.ops, 1);
    is(&body,
       "{\"stream\":\"s\\r\\n\\\"1\",\"entries\":[{\"payload\":{\"n\": 1},\"order_key\":\"\","
       "\"dedup_key\":\"\",\"schema_version\":1,\"metadata\":{},\"tags\":[],"
       "\"source_id\":\"101\"}]}");
    all.entries[1].order_key = "o";
    all.entries[1].dedup_key = "d";
    all.entries[1].schema_version = 3;
    all.entries[1].metadata = (ledger_map){ pairs, 2 };
    all.entries[1].tags = (ledger_list){ tags, 2 };
    all.entries[1].payload = (ledger_bytes){ " \t[1, 2]\r\n", 10 };
    op->time_us = INT64_C(1795996800123000);
    op->origin_text = UUID ":3";
    op->key = (ledger_id){ .text = "text-id" };
    body_of(&body, LEDGER_HTTP_BODY_REFERENCE, all.ops + 1, 1);
    is(&body,
       "{\"stream\":\"s\\r\\n\\\"1\",\"entries\":[{\"payload\":[1, 2],\"order_key\":\"o\","
       "\"dedup_key\":\"d\",\"schema_version\":3,\"metadata\":{\"k1\":\"v1\",\"k2\":\"v\\n\"},"
       "\"tags\":[\"a\",\"b\\\"\"],\"source_id\":\"text-id\","
       "\"created_at\":\"2026-11-30T00:00:00.123Z\",\"origin\":\"" UUID ":3\"}]}");
    op->time_us = INT64_MAX; /* no year that RFC 3339 has */
    body_of(&body, LEDGER_HTTP_BODY_REFERENCE, all.ops, 2);
    assert_null(strstr(body.data, "created_at"));
    ldg_buf_fini(&body);
}

/* Everything else is an event, and alone. */
static void changes_in_the_reference_s_form(void **state)
{
    struct test_ops all = { 0 };
    struct ldg_buf body;
    ldg_buf_init(&body, LDG_WEBHOOK_BODY_MAX);
    test_op(&all, LDG_OP_SET_TAGS, "s");
    test_op(&all, LDG_OP_TRIM, "s");
    test_op(&all, LDG_OP_APPEND, "s");
    test_op(&all, LDG_OP_APPEND, "s");
    body_of(&body, LEDGER_HTTP_BODY_REFERENCE, all.ops, 1);
    is(&body, "{\"type\":\"set_tags\",\"stream\":\"s\",\"n\":1}");
    const ledger_http_body form = LEDGER_HTTP_BODY_REFERENCE;
    assert_false(ldg_webhook_body_joins(form, &all.ops[0], &all.ops[1]));
    assert_false(ldg_webhook_body_joins(form, &all.ops[1], &all.ops[2]));
    assert_false(ldg_webhook_body_joins(form, &all.ops[2], &all.ops[1]));
    assert_true(ldg_webhook_body_joins(form, &all.ops[2], &all.ops[3]));
    all.ops[3].delivery = 2;
    assert_false(ldg_webhook_body_joins(form, &all.ops[2], &all.ops[3]));
    assert_true(ldg_webhook_body_joins(LEDGER_HTTP_BODY_EVENT, &all.ops[0], &all.ops[2]));
    assert_true(ldg_webhook_body_joins(LEDGER_HTTP_BODY_CLOUDEVENTS, &all.ops[2], &all.ops[1]));
    assert_false(ldg_webhook_body_joins(LEDGER_HTTP_BODY_EVENT, &all.ops[2], &all.ops[3]));
    ldg_buf_fini(&body);
}

static void events(void **state)
{
    struct test_ops all = { 0 };
    struct ldg_buf body;
    ldg_buf_init(&body, LDG_WEBHOOK_BODY_MAX);
    test_op(&all, LDG_OP_APPEND, "s");
    test_op(&all, LDG_OP_SET_ANNOTATIONS, "s");
    body_of(&body, LEDGER_HTTP_BODY_EVENT, all.ops, 2);
    is(&body, "[{\"type\":\"append\",\"stream\":\"s\",\"n\":1},"
              "{\"type\":\"set_annotations\",\"stream\":\"s\",\"n\":2}]");
    /* A part of an append of several has no event of its own in the log. */
    all.ops[0].parts = 3;
    all.ops[0].part = 1;
    body_of(&body, LEDGER_HTTP_BODY_EVENT, all.ops, 1);
    is(&body, "[{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"101\",\"payload\":"
              "{\"n\": 1},\"schema_version\":1}]}]");
    all.ops[0].log_time_us = INT64_C(1795996800000000);
    all.ops[0].origin_text = UUID ":3";
    all.entries[0].source_id = "9";
    body_of(&body, LEDGER_HTTP_BODY_EVENT, all.ops, 1);
    is(&body, "[{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"101\",\"payload\":"
              "{\"n\": 1},\"schema_version\":1,\"source_id\":\"9\"}],\"created_at\":"
              "\"2026-11-30T00:00:00.000Z\",\"origin\":\"" UUID ":3\",\"origin_pos\":1}]");
    ldg_buf_fini(&body);
}

static void what_a_trim_leaves(void **state)
{
    static const ledger_id survivors[] = { { .number = -7 }, { .number = 12 }, { .text = "t" } };
    struct test_ops all = { 0 };
    struct ldg_buf body;
    ldg_buf_init(&body, LDG_WEBHOOK_BODY_MAX);
    struct ldg_op *op = test_op(&all, LDG_OP_TRIM, "s");
    op->survivors = survivors;
    op->survivor_count = 3;
    body_of(&body, LEDGER_HTTP_BODY_REFERENCE, all.ops, 1);
    is(&body, "{\"type\":\"trim\",\"stream\":\"s\",\"n\":1,\"survivors\":[\"-7\",\"12\",\"t\"]}");
    body_of(&body, LEDGER_HTTP_BODY_EVENT, all.ops, 1);
    is(&body, "[{\"type\":\"trim\",\"stream\":\"s\",\"n\":1,\"survivors\":[\"-7\",\"12\",\"t\"]}]");
    ldg_buf_fini(&body);
}

static void cloud_events(void **state)
{
    struct test_ops all = { 0 };
    struct ldg_buf body;
    ldg_buf_init(&body, LDG_WEBHOOK_BODY_MAX);
    test_op(&all, LDG_OP_APPEND, "s");
    test_op(&all, LDG_OP_TRIM, "")->time_us = INT64_C(1795996800000000);
    all.ops[0].parts = 2;
    body_of(&body, LEDGER_HTTP_BODY_CLOUDEVENTS, all.ops, 2);
    is(&body,
       "[{\"specversion\":\"1.0\",\"id\":\"" UUID ":7:1:0\",\"source\":\"urn:uuid:" UUID "\","
       "\"type\":\"ledger.append\",\"subject\":\"s\",\"datacontenttype\":\"application/json\","
       "\"data\":{\"payload\":{\"n\": "
       "1},\"order_key\":\"\",\"dedup_key\":\"\",\"schema_version\":1,"
       "\"metadata\":{},\"tags\":[],\"source_id\":\"101\"}},"
       "{\"specversion\":\"1.0\",\"id\":\"" UUID ":7:2\",\"source\":\"urn:uuid:" UUID "\","
       "\"type\":\"ledger.trim\",\"time\":\"2026-11-30T00:00:00.000Z\","
       "\"datacontenttype\":\"application/json\","
       "\"data\":{\"type\":\"trim\",\"stream\":\"s\",\"n\":2}}]");
    assert_string_equal(ldg_webhook_content_type(LEDGER_HTTP_BODY_CLOUDEVENTS),
                        "Content-Type: application/cloudevents-batch+json");
    ldg_buf_fini(&body);
}

static void ids(void **state)
{
    struct test_ops all = { 0 };
    char id[LDG_WEBHOOK_ID_MAX];
    for (int i = 0; i < 3; i++)
        test_op(&all, LDG_OP_APPEND, "s");
    ldg_webhook_id(&all.ops[0], &all.ops[0], 1, id);
    assert_string_equal(id, UUID ":7:1");
    ldg_webhook_id(&all.ops[0], &all.ops[2], 3, id);
    assert_string_equal(id, UUID ":7:1-3-3");
    all.ops[0].parts = all.ops[2].parts = 4;
    all.ops[2].part = 3;
    ldg_webhook_id(&all.ops[0], &all.ops[0], 1, id);
    assert_string_equal(id, UUID ":7:1:0");
    ldg_webhook_id(&all.ops[0], &all.ops[2], 3, id);
    assert_string_equal(id, UUID ":7:1:0-3:3-3");
    all.ops[0].source_epoch = all.ops[0].log_position = all.ops[2].log_position = INT64_MAX;
    all.ops[0].part = all.ops[2].part = UINT32_MAX;
    ldg_webhook_id(&all.ops[0], &all.ops[2], SIZE_MAX, id);
    assert_non_null(strstr(id, "-9223372036854775807:4294967295-18446744073709551615"));
    assert_null(strchr(id, '.'));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference), cmocka_unit_test(changes_in_the_reference_s_form),
        cmocka_unit_test(events),        cmocka_unit_test(cloud_events),
        cmocka_unit_test(ids),           cmocka_unit_test(what_a_trim_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
