/* Options of HTTP: their defaults, their limits, and that a handle keeps its own copy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "store/handle.h"

static void defaults_pass(void **state)
{
    ledger_http_options *copy = NULL;
    ledger_error err;
    assert_int_equal(ldg_http_options_copy(NULL, &copy, &err), LEDGER_OK);
    assert_int_equal(copy->size, sizeof(*copy));
    assert_int_equal(copy->connections, LEDGER_HTTP_CONNECTIONS_DEFAULT);
    assert_int_equal(copy->max_request_entries, LEDGER_HTTP_REQUEST_ENTRIES_DEFAULT);
    assert_int_equal(copy->max_request_bytes, LEDGER_HTTP_REQUEST_BYTES_DEFAULT);
    assert_int_equal(copy->timeout_ms, 0);
    assert_int_equal(copy->body, LEDGER_HTTP_BODY_REFERENCE);
    assert_int_equal(copy->signature, LEDGER_HTTP_SIGNATURE_STANDARD);
    assert_null(copy->ca_file);
    assert_null(copy->secret_file);
    assert_false(copy->insecure);
    ldg_free(copy);
}

static void values_are_checked(void **state)
{
    const struct {
        ledger_http_options options;
        const char *message;
    } rows[] = {
        { { .connections = 0 }, "connections" },
        { { .connections = LEDGER_HTTP_CONNECTIONS_MAX + 1 }, "connections" },
        { { .connections = 1, .max_request_entries = 0 }, "max_request_entries" },
        { { .connections = 1, .max_request_entries = LEDGER_HTTP_REQUEST_ENTRIES_MAX + 1 },
          "max_request_entries" },
        { { .connections = 1, .max_request_entries = 1, .max_request_bytes = 0 },
          "max_request_bytes" },
        { { .connections = 1,
            .max_request_entries = 1,
            .max_request_bytes = LEDGER_HTTP_REQUEST_BYTES_MAX + 1 },
          "max_request_bytes" },
        { { .timeout_ms = -1 }, "timeout_ms" },
        { { .timeout_ms = LEDGER_HTTP_TIMEOUT_MAX_MS + 1 }, "timeout_ms" },
        { { .connect_timeout_ms = -1 }, "timeout_ms" },
        { { .body = (ledger_http_body)3 }, "form of a body 3" },
        { { .signature = (ledger_http_signature)2 }, "kind of signature 2" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        ledger_http_options options = rows[i].options;
        ledger_http_options *copy = NULL;
        ledger_error err;
        options.size = sizeof(options);
        assert_int_equal(ldg_http_options_copy(&options, &copy, &err), LEDGER_ERR_INVALID);
        if (strstr(err.message, rows[i].message) == NULL)
            fail_msg("row %zu: %s", i, err.message);
        assert_null(copy);
    }
    const ledger_http_options forgotten = { .connections = 1 };
    ledger_http_options *copy = NULL;
    ledger_error err;
    assert_int_equal(ldg_http_options_copy(&forgotten, &copy, &err), LEDGER_ERR_INVALID);
    assert_non_null(strstr(err.message, "ledger_http_options_defaults()"));
    ledger_http_options_defaults(NULL);
}

static ledger_rc copy_once(void *ctx)
{
    ledger_http_options *copy = NULL;
    ledger_rc rc = ldg_http_options_copy(ctx, &copy, NULL);
    ldg_free(copy);
    return rc;
}

static void strings_are_copied(void **state)
{
    char ca[] = "ca.pem", secrets[] = "secrets";
    ledger_http_options options;
    ledger_http_options *copy = NULL;
    ledger_error err;
    ledger_http_options_defaults(&options);
    options.ca_file = ca;
    options.secret_file = secrets;
    options.insecure = true;
    options.timeout_ms = 17;
    assert_int_equal(ldg_http_options_copy(&options, &copy, &err), LEDGER_OK);
    memset(ca, 'x', sizeof(ca) - 1);
    memset(secrets, 'x', sizeof(secrets) - 1);
    assert_string_equal(copy->ca_file, "ca.pem");
    assert_string_equal(copy->secret_file, "secrets");
    assert_null(copy->header_file);
    assert_true(copy->insecure);
    assert_int_equal(copy->timeout_ms, 17);
    ldg_free(copy);
    assert_int_equal(alloc_fail_each(copy_once, &options), 1);
}

/* A store checks them even if it is not reached over HTTP, and gives them to further handles. */
static void a_store_has_them(void **state)
{
    ledger_http_options http;
    ledger_store *store = NULL, *again = NULL;
    ledger_error err;
    ledger_http_options_defaults(&http);
    http.connections = 7;
    http.header_file = "headers";
    ledger_store_options options;
    ledger_store_options_defaults(&options);
    options.url = "memory:has-http";
    options.flags = LEDGER_STORE_CREATE;
    options.http = &http;
    assert_int_equal(ledger_store_open(&options, &store, &err), LEDGER_OK);
    assert_ptr_not_equal(store->open.http, &http);
    assert_int_equal(store->open.http->connections, 7);
    assert_int_equal(ldg_store_reopen(store, LDG_ROLE_SINK, NULL, &again, &err), LEDGER_OK);
    assert_int_equal(again->open.http->connections, 7);
    assert_string_equal(again->open.http->header_file, "headers");
    ledger_store_close(&again);
    ledger_store_close(&store);
    http.connections = 0;
    assert_int_equal(ledger_store_open(&options, &store, &err), LEDGER_ERR_INVALID);
    assert_null(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_pass),
        cmocka_unit_test(values_are_checked),
        cmocka_unit_test(strings_are_copied),
        cmocka_unit_test(a_store_has_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
