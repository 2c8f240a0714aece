/* URLs of servers: their parts, what is refused, and what may be spoken in the clear. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "http/http.h"

static void parts(void **state)
{
    static const struct {
        const char *url;
        bool is_tls, is_loopback;
        int port;
        const char *origin, *server, *path, *query, *user, *password;
    } rows[] = {
        { "https://h.example/a/b?x=1&y=%20", true, false, 0, "https://h.example:443",
          "h.example:443", "/a/b", "x=1&y=%20", NULL, NULL },
        { "http://localhost", false, true, 0, "http://localhost:80", "localhost:80", "/", "", NULL,
          NULL },
        { "http://LOCALHOST:8080/", false, true, 0, "http://LOCALHOST:8080", "LOCALHOST:8080", "/",
          "", NULL, NULL },
        { "http://127.9.8.7:1/x", false, true, 0, "http://127.9.8.7:1", "127.9.8.7:1", "/x", "",
          NULL, NULL },
        { "http://[::1]:65535/", false, true, 0, "http://[::1]:65535", "[::1]:65535", "/", "", NULL,
          NULL },
        { "http://[2001:db8::1]/", false, false, 0, "http://[2001:db8::1]:80", "[2001:db8::1]:80",
          "/", "", NULL, NULL },
        { "clickhouse://ann@db.example/orders", false, false, 8123, "http://db.example:8123",
          "db.example:8123", "/orders", "", "ann", NULL },
        { "clickhouses://ann:p%40%3As@db.example:9/o?table=t", true, false, 8443,
          "https://db.example:9", "db.example:9", "/o", "table=t", "ann", "p@:s" },
        { "https://127.0.0.1.example/", true, false, 0, "https://127.0.0.1.example:443",
          "127.0.0.1.example:443", "/", "", NULL, NULL },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct ldg_http_url url;
        ledger_error err;
        if (ldg_http_url_parse(rows[i].url, rows[i].is_tls, rows[i].port, &url, &err) != LEDGER_OK)
            fail_msg("row %zu: %s", i, err.message);
        assert_string_equal(url.origin, rows[i].origin);
        assert_string_equal(url.server, rows[i].server);
        assert_string_equal(url.path, rows[i].path);
        assert_string_equal(url.query, rows[i].query);
        if (rows[i].user == NULL)
            assert_null(url.user);
        else
            assert_string_equal(url.user, rows[i].user);
        if (rows[i].password == NULL)
            assert_null(url.password);
        else
            assert_string_equal(url.password, rows[i].password);
        assert_int_equal(url.is_tls, rows[i].is_tls);
        assert_int_equal(url.is_loopback, rows[i].is_loopback);
        ldg_http_url_fini(&url);
    }
}

static void what_is_refused_shows_nothing(void **state)
{
    static const struct {
        const char *url, *words;
    } rows[] = {
        { "https://", "host" },
        { "https:///secret", "host" },
        { "https:secret", "://" },
        { "https:/secret", "://" },
        { "https://u:secret@/x", "host" },
        { "https://h/secret x", "%20" },
        { "https://h/secret\r\nX-Evil: 1", "control character" },
        { "https://h/\xc3\xa4secret", "ASCII" },
        { "https://h/x#secret", "%23" },
        { "https://u:sec#ret@h/x", "%23" },
        { "https://h:0/secret", "port" },
        { "https://h:99999/secret", "cannot be read" },
        { "https://h:secret/", "cannot be read" },
        { "https://u:secret%00@h/", "control character" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct ldg_http_url url;
        ledger_error err;
        const ledger_rc rc = ldg_http_url_parse(rows[i].url, true, 0, &url, &err);
        if (rc != LEDGER_ERR_INVALID)
            fail_msg("row %zu passes", i);
        if (strstr(err.message, rows[i].words) == NULL)
            fail_msg("row %zu: %s: %s", i, ledger_rc_name(rc), err.message);
        assert_null(strstr(err.message, "secret"));
    }
}

static void in_the_clear(void **state)
{
    static const struct {
        const char *url;
        bool is_tls, insecure;
        ledger_rc want;
    } rows[] = {
        { "https://h.example/", true, false, LEDGER_OK },
        { "http://localhost/", false, false, LEDGER_OK },
        { "http://127.0.0.1/", false, false, LEDGER_OK },
        { "http://h.example/", false, true, LEDGER_OK },
        { "http://h.example/", false, false, LEDGER_ERR_INVALID },
        { "http://localhost.example/", false, false, LEDGER_ERR_INVALID },
        { "http://128.0.0.1/", false, false, LEDGER_ERR_INVALID },
        { "http://[::2]/", false, false, LEDGER_ERR_INVALID },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct ldg_http_url url;
        ledger_error err;
        assert_int_equal(ldg_http_url_parse(rows[i].url, rows[i].is_tls, 0, &url, &err), LEDGER_OK);
        assert_int_equal(ldg_http_url_check(&url, rows[i].insecure, "https", &err), rows[i].want);
        if (rows[i].want != LEDGER_OK) {
            assert_non_null(strstr(err.message, "https://"));
            assert_non_null(strstr(err.message, "--insecure"));
        }
        ldg_http_url_fini(&url);
    }
}

static ledger_rc parse_once(void *ctx)
{
    struct ldg_http_url url = { 0 };
    const ledger_rc rc = ldg_http_url_parse(ctx, true, 0, &url, NULL);
    ldg_http_url_fini(&url);
    return rc;
}

static void out_of_memory(void **state)
{
    char url[] = "https://u:p@h.example/a?b";
    assert_true(alloc_fail_each(parse_once, url) >= 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts),
        cmocka_unit_test(what_is_refused_shows_nothing),
        cmocka_unit_test(in_the_clear),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
