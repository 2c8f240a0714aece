/* What goes into one request: entries, bytes, deliveries, cuts; that the same ops give the same
 * request; its headers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "ops.h"

struct rig {
    struct test_ops all;
    ledger_http_options options;
    struct ldg_webhook_secrets secrets;
    struct ldg_webhook_cuts cuts;
    struct ldg_webhook_settings settings;
    struct ldg_webhook_request request;
    struct ldg_arena arena;
};

static int64_t some_time(void)
{
    return INT64_C(1614265330999999);
}

static int make_rig(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    ledger_error err;
    ldg_clock_set_now(some_time);
    ldg_arena_init(&rig->arena, 0);
    ledger_http_options_defaults(&rig->options);
    rig->secrets.min_size = LDG_WEBHOOK_KEY_MIN;
    rig->settings = (struct ldg_webhook_settings){ .url = "https://h.example:443/hook",
                                                   .options = &rig->options,
                                                   .secrets = &rig->secrets,
                                                   .cuts = &rig->cuts };
    *state = rig;
    return ldg_webhook_request_init(&rig->request, OPS_MAX, &err) == LEDGER_OK ? 0 : -1;
}

static int drop_rig(void **state)
{
    struct rig *rig = *state;
    ldg_webhook_request_fini(&rig->request);
    ldg_webhook_cuts_fini(&rig->cuts);
    ldg_arena_fini(&rig->arena);
    ldg_clock_set_now(NULL);
    free(rig);
    return 0;
}

/* Cuts the whole of the ops from `from` on, all of one stream; "3 2 1": so many in each. */
static void cut_is(struct rig *rig, size_t from, const char *want)
{
    struct ldg_webhook_queue queue;
    char got[256] = "";
    ledger_error err;
    ldg_arena_reset(&rig->arena);
    assert_int_equal(ldg_webhook_queue_init(&queue, rig->all.ops + from, rig->all.count - from,
                                            &rig->arena, &err),
                     LEDGER_OK);
    struct ldg_webhook_lane *lane;
    while ((lane = ldg_webhook_queue_take(&queue)) != NULL) {
        const size_t used = strlen(got);
        assert_int_equal(
            ldg_webhook_request_fill(&rig->request, &rig->settings, &queue, lane, &err), LEDGER_OK);
        (void)snprintf(got + used, sizeof(got) - used, "%s%zu", used > 0 ? " " : "",
                       rig->request.count);
        ldg_webhook_queue_put(&queue, lane, rig->request.behind);
    }
    assert_string_equal(got, want);
}

static void by_entries(void **state)
{
    struct rig *rig = *state;
    for (int i = 0; i < 7; i++)
        test_op(&rig->all, LDG_OP_APPEND, "s");
    cut_is(rig, 0, "7");
    rig->options.max_request_entries = 3;
    cut_is(rig, 0, "3 3 1");
    rig->options.max_request_entries = 1;
    cut_is(rig, 0, "1 1 1 1 1 1 1");
}

static void by_bytes(void **state)
{
    struct rig *rig = *state;
    for (int i = 0; i < 4; i++)
        test_op(&rig->all, LDG_OP_APPEND, "s");
    cut_is(rig, 0, "4");
    rig->options.max_request_bytes = rig->request.body.size;
    cut_is(rig, 0, "4");
    rig->options.max_request_bytes--;
    cut_is(rig, 0, "3 1");
    assert_non_null(strstr(rig->request.body.data, "\"source_id\":\"104\"}]}"));
    rig->options.max_request_bytes = 1; /* one entry always goes */
    cut_is(rig, 0, "1 1 1 1");
}

static void by_deliveries_and_kinds(void **state)
{
    struct rig *rig = *state;
    for (int i = 0; i < 3; i++)
        test_op(&rig->all, LDG_OP_APPEND, "s");
    test_op(&rig->all, LDG_OP_SET_TAGS, "s");
    test_op(&rig->all, LDG_OP_SET_TAGS, "s");
    test_op(&rig->all, LDG_OP_APPEND, "s");
    test_op(&rig->all, LDG_OP_APPEND, "s")->delivery = 2;
    cut_is(rig, 0, "3 1 1 1 1");
    rig->options.body = LEDGER_HTTP_BODY_EVENT;
    cut_is(rig, 0, "6 1");
    rig->options.body = LEDGER_HTTP_BODY_CLOUDEVENTS;
    cut_is(rig, 0, "6 1");
}

/* What is left of a delivery, behind requests that are done, is cut as it was with them. */
static void the_rest_is_cut_the_same(void **state)
{
    struct rig *rig = *state;
    for (int i = 0; i < 8; i++)
        test_op(&rig->all, LDG_OP_APPEND, "s");
    rig->options.max_request_entries = 3;
    cut_is(rig, 0, "3 3 2");
    cut_is(rig, 3, "3 2");
    cut_is(rig, 6, "2");
    /* One that was refused is sent in parts, and a part that comes again is the same. */
    ledger_error err;
    assert_int_equal(ldg_webhook_cuts_add(&rig->cuts, &rig->all.ops[0], &err), LEDGER_OK);
    assert_int_equal(ldg_webhook_cuts_add(&rig->cuts, &rig->all.ops[2], &err), LEDGER_OK);
    cut_is(rig, 0, "1 2 3 2");
    cut_is(rig, 1, "2 3 2");
    cut_is(rig, 2, "1 3 2");
}

static void headers(void **state)
{
    struct rig *rig = *state;
    struct ldg_webhook_queue queue;
    struct ldg_webhook_request *request = &rig->request;
    ledger_error err;
    test_op(&rig->all, LDG_OP_APPEND, "s\r\nX-Evil: 1");
    test_op(&rig->all, LDG_OP_APPEND, "s\r\nX-Evil: 1");
    assert_int_equal(ldg_webhook_queue_init(&queue, rig->all.ops, 2, &rig->arena, &err), LEDGER_OK);
    struct ldg_webhook_lane *lane = ldg_webhook_queue_take(&queue);
    assert_int_equal(ldg_webhook_request_fill(request, &rig->settings, &queue, lane, &err),
                     LEDGER_OK);
    assert_int_equal(request->http.header_count, 4); /* not signed without a secret */
    assert_string_equal(request->http.headers[0], "Content-Type: application/json");
    assert_string_equal(request->http.headers[1], "webhook-id: " UUID ":7:1-2-2");
    assert_string_equal(request->http.headers[2], "Idempotency-Key: " UUID ":7:1-2-2");
    assert_string_equal(request->http.headers[3], "webhook-timestamp: 1614265330");
    assert_string_equal(request->http.url, "https://h.example:443/hook");
    assert_int_equal(request->http.body[0].size, request->body.size);

    assert_int_equal(
        ldg_webhook_secrets_add(&rig->secrets, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 1, &err),
        LEDGER_OK);
    rig->options.signature = LEDGER_HTTP_SIGNATURE_LEDGER;
    assert_int_equal(ldg_webhook_request_fill(request, &rig->settings, &queue, lane, &err),
                     LEDGER_OK);
    assert_int_equal(request->http.header_count, 6);
    char signature[LDG_WEBHOOK_SIGNATURE_MAX], hex[LDG_WEBHOOK_HEX_MAX], line[1024];
    assert_int_equal(ldg_webhook_sign(&rig->secrets, UUID ":7:1-2-2", "1614265330", &request->body,
                                      signature, &err),
                     LEDGER_OK);
    (void)snprintf(line, sizeof(line), "webhook-signature: %s", signature);
    assert_string_equal(request->http.headers[4], line);
    assert_int_equal(ldg_webhook_sign_body(&rig->secrets, &request->body, hex, &err), LEDGER_OK);
    (void)snprintf(line, sizeof(line), "X-Ledger-Signature: %s", hex);
    assert_string_equal(request->http.headers[5], line);
    for (size_t i = 0; i < request->http.header_count; i++) {
        assert_null(strpbrk(request->http.headers[i], "\r\n"));
        assert_null(strstr(request->http.headers[i], "Evil"));
    }
}

struct filling {
    struct rig *rig;
    struct ldg_webhook_queue *queue;
    struct ldg_webhook_lane *lane;
};

static ledger_rc fill_once(void *ctx)
{
    struct filling *f = ctx;
    struct ldg_webhook_request request = { 0 };
    ledger_rc rc = ldg_webhook_request_init(&request, OPS_MAX, NULL);
    if (rc == LEDGER_OK)
        rc = ldg_webhook_request_fill(&request, &f->rig->settings, f->queue, f->lane, NULL);
    ldg_webhook_request_fini(&request);
    return rc;
}

static void out_of_memory(void **state)
{
    struct rig *rig = *state;
    struct ldg_webhook_queue queue;
    ledger_error err;
    for (int i = 0; i < 10; i++)
        test_op(&rig->all, LDG_OP_APPEND, "s");
    assert_int_equal(ldg_webhook_queue_init(&queue, rig->all.ops, 10, &rig->arena, &err),
                     LEDGER_OK);
    struct filling filling = { rig, &queue, ldg_webhook_queue_take(&queue) };
    assert_true(alloc_fail_each(fill_once, &filling) >= 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(by_entries, make_rig, drop_rig),
        cmocka_unit_test_setup_teardown(by_bytes, make_rig, drop_rig),
        cmocka_unit_test_setup_teardown(by_deliveries_and_kinds, make_rig, drop_rig),
        cmocka_unit_test_setup_teardown(the_rest_is_cut_the_same, make_rig, drop_rig),
        cmocka_unit_test_setup_teardown(headers, make_rig, drop_rig),
        cmocka_unit_test_setup_teardown(out_of_memory, make_rig, drop_rig),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
