/* What an answer says: when to come again, and its body's start in a message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "http/http.h"
#include "http/slot.h"

/* 2026-12-01T00:00:00Z */
#define NOW_US INT64_C(1796083200000000)

static void retry_after(void **state)
{
    const int64_t most = LDG_HTTP_RETRY_AFTER_MAX_MS;
    const struct {
        const char *value;
        int64_t want;
    } rows[] = {
        { NULL, -1 },
        { "", -1 },
        { "0", 0 },
        { "7", 7000 },
        { "  7\t", 7000 },
        { "120", 120000 },
        { "299", 299000 },
        { "300", most },
        { "301", most },
        { "99999999999999999999999999", most },
        { "-1", -1 },
        { "1.5", -1 },
        { "7 s", -1 },
        { "soon", -1 },
        { "Tue, 01 Dec 2026 00:00:00 GMT", most },
        { "Tue, 01 Dec 2026 00:00:20 GMT", 20000 },
        { "Tuesday, 01-Dec-26 00:00:20 GMT", 20000 },
        { "Tue Dec  1 00:00:20 2026", 20000 },
        { "Mon, 30 Nov 2026 23:00:00 GMT", 0 },
        { "Mon, 01 Jan 1850 00:00:00 GMT", 0 },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const bool is_far = i == 14;
        const int64_t now_us = is_far ? 0 : NOW_US;
        const int64_t got = ldg_http_parse_retry_after(rows[i].value, now_us);
        if (got != rows[i].want)
            fail_msg("\"%s\": %lld, not %lld", rows[i].value, (long long)got,
                     (long long)rows[i].want);
    }
    /* Never too early: a part of a second is as much as a whole one. */
    assert_int_equal(ldg_http_parse_retry_after("Tue, 01 Dec 2026 00:00:20 GMT", NOW_US + 999999),
                     20000);
}

static void excerpt_is(const char *body, size_t size, const char *want)
{
    struct ldg_buf answer;
    char text[LDG_HTTP_EXCERPT_MAX];
    ldg_buf_init(&answer, 65536);
    assert_int_equal(ldg_buf_append(&answer, body, size), LEDGER_OK);
    ldg_http_excerpt(&answer, text);
    assert_string_equal(text, want);
    ldg_buf_fini(&answer);
}
#define EXCERPT_IS(body, want) excerpt_is(body, sizeof(body) - 1, want)

static void excerpts(void **state)
{
    EXCERPT_IS("", "");
    EXCERPT_IS("no such order", "no such order");
    EXCERPT_IS("  {\n\t\"error\":  1\r\n}\n", "{ \"error\": 1 }");
    EXCERPT_IS("a\0b\x1b[31mred\x7f", "a b [31mred");
    EXCERPT_IS("K\xc3\xa4se \xe2\x82\xac \xf0\x9f\xa6\x86",
               "K\xc3\xa4se \xe2\x82\xac \xf0\x9f\xa6\x86");
    EXCERPT_IS("\xff\xc3/\xed\xa0\x80\xc0\x80\xf5\x80", "?"
                                                        "?/"
                                                        "?"
                                                        "?"
                                                        "?"
                                                        "?"
                                                        "?"
                                                        "?"
                                                        "?");
    EXCERPT_IS("a\xc2\x9b"
               "31m",
               "a 31m"); /* a C1 control */
    EXCERPT_IS("cut \xe2\x82", "cut ??");

    char body[1000];
    char text[LDG_HTTP_EXCERPT_MAX];
    memset(body, 'x', sizeof(body));
    struct ldg_buf answer;
    ldg_buf_init(&answer, 65536);
    assert_int_equal(ldg_buf_append(&answer, body, sizeof(body)), LEDGER_OK);
    memset(text, 'y', sizeof(text));
    ldg_http_excerpt(&answer, text);
    assert_int_equal(strlen(text), LDG_HTTP_EXCERPT_MAX - 1);
    assert_string_equal(text + strlen(text) - 3, "…");
    ldg_buf_reset(&answer);
    for (int i = 0; i < 100; i++)
        assert_int_equal(ldg_buf_puts(&answer, "€€€"), LEDGER_OK);
    ldg_http_excerpt(&answer, text);
    assert_true(strlen(text) < LDG_HTTP_EXCERPT_MAX);
    assert_string_equal(text + strlen(text) - 6, "€…");
    ldg_buf_fini(&answer);
}

/* Only over TLS may a client certificate be what is missing. */
static void closed_without_an_answer(void **state)
{
    char server[] = "h.example:443";
    struct ldg_http http = { .backend = "webhook", .server = server };
    struct ldg_http_exchange exchange = { .trouble = LDG_HTTP_RESET, .detail = "reset" };
    ledger_error err;
    assert_int_equal(ldg_http_fail(&http, &exchange, &err), LEDGER_ERR_CONNECT);
    assert_string_equal(err.message,
                        "h.example:443 closed the connection without an answer: reset");
    http.is_tls = true;
    assert_int_equal(ldg_http_fail(&http, &exchange, &err), LEDGER_ERR_CONNECT);
    assert_non_null(strstr(err.message, "--client-cert"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(retry_after),
        cmocka_unit_test(excerpts),
        cmocka_unit_test(closed_without_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
