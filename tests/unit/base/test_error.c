/* The list of codes, messages of any content and length, and the masking of secrets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <wchar.h>

#include <cmocka.h>

#include "base/error.h"

static void every_code_has_its_words(void **state)
{
#define X(name, number, flags, exit, text)                                                         \
    assert_int_equal(LEDGER_ERR_##name, number);                                                   \
    assert_string_equal(ledger_rc_name(LEDGER_ERR_##name), "LEDGER_ERR_" #name);                   \
    assert_string_equal(ledger_rc_text(LEDGER_ERR_##name), text);                                  \
    assert_int_equal(ledger_rc_flags(LEDGER_ERR_##name), flags);                                   \
    assert_int_equal(ledger_rc_exit_code(LEDGER_ERR_##name), exit);
    LEDGER_ERROR_LIST(X)
#undef X
}

static void other_numbers_are_internal(void **state)
{
    static const int numbers[] = { -1, 999, 1000, INT32_MIN, INT32_MAX };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        ledger_rc code = (ledger_rc)numbers[i];
        assert_string_equal(ledger_rc_name(code), "LEDGER_ERR_INTERNAL");
        assert_string_equal(ledger_rc_text(code), "internal error");
        assert_int_equal(ledger_rc_flags(code), LEDGER_ERROR_FATAL);
        assert_int_equal(ledger_rc_exit_code(code), 1);
    }
}

static void fills(void **state)
{
    ledger_error err;
    memset(&err, 0xff, sizeof err);
    assert_int_equal(ldg_fail(&err, LEDGER_ERR_BUSY, "try %d", 2), LEDGER_ERR_BUSY);
    assert_int_equal(err.code, LEDGER_ERR_BUSY);
    assert_int_equal(err.flags, LEDGER_ERROR_RETRY);
    assert_int_equal(err.done_count, 0);
    assert_int_equal(err.native_code, 0);
    assert_string_equal(err.backend, "");
    assert_string_equal(err.message, "try 2");
    assert_int_equal(ldg_fail_native(&err, LEDGER_ERR_IO, "sqlite", 10, "disk: %s", "bad"),
                     LEDGER_ERR_IO);
    assert_int_equal(err.native_code, 10);
    assert_string_equal(err.backend, "sqlite");
    assert_string_equal(err.message, "disk: bad");
    assert_int_equal(ldg_fail_native(&err, LEDGER_ERR_IO, "a-name-of-over-15-bytes", 1, "x"),
                     LEDGER_ERR_IO);
    assert_string_equal(err.backend, "a-name-of-over-");
    assert_int_equal(ldg_fail_native(&err, LEDGER_ERR_IO, NULL, 1, "x"), LEDGER_ERR_IO);
    assert_string_equal(err.backend, "");
    assert_int_equal(ldg_fail_nomem(&err), LEDGER_ERR_NOMEM);
    assert_string_equal(err.message, "out of memory");
    assert_int_equal(ldg_fail(NULL, LEDGER_ERR_DATA, "x"), LEDGER_ERR_DATA);
    assert_int_equal(ldg_fail_native(NULL, LEDGER_ERR_DATA, "b", 1, "x"), LEDGER_ERR_DATA);
    assert_int_equal(ldg_fail_nomem(NULL), LEDGER_ERR_NOMEM);
}

/* Wrapping the message that is in the struct already is the usual way to add context. */
static void arguments_may_be_the_struct_itself(void **state)
{
    ledger_error err;
    assert_int_equal(ldg_fail_native(&err, LEDGER_ERR_IO, "sqlite", 10, "inner"), LEDGER_ERR_IO);
    assert_int_equal(
        ldg_fail_native(&err, err.code, err.backend, err.native_code, "outer: %s", err.message),
        LEDGER_ERR_IO);
    assert_string_equal(err.message, "outer: inner");
    assert_string_equal(err.backend, "sqlite");
    assert_int_equal(err.native_code, 10);
}

static void a_message_is_one_line(void **state)
{
    ledger_error err;
    assert_int_equal(ldg_fail(&err, LEDGER_ERR_DATA, "a\nb\r\tc\x1b[31m\x7f"), LEDGER_ERR_DATA);
    assert_string_equal(err.message, "a b  c [31m ");
}

/* A wide character that cannot be written: printf itself fails. */
static void a_message_that_cannot_be_made(void **state)
{
    static const wchar_t wide[] = { 0x10ffff, 0 };
    ledger_error err;
    assert_int_equal(ldg_fail(&err, LEDGER_ERR_DATA, "%ls", wide), LEDGER_ERR_DATA);
    assert_string_equal(err.message, "malformed data");
}

static void a_long_message_ends_between_characters(void **state)
{
    static const char *const pieces[] = { "x", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80" };
    for (size_t i = 0; i < 4; i++) {
        for (size_t shift = 0; shift < 4; shift++) {
            char text[800] = "";
            ledger_error err;
            size_t size = shift, piece = strlen(pieces[i]);
            memset(text, 'y', shift);
            for (; size + piece < sizeof text; size += piece)
                memcpy(text + size, pieces[i], piece);
            assert_int_equal(ldg_fail(&err, LEDGER_ERR_DATA, "%s", text), LEDGER_ERR_DATA);
            size_t got = strlen(err.message);
            assert_in_range(got, LEDGER_ERROR_MESSAGE_MAX - 4, LEDGER_ERROR_MESSAGE_MAX - 1);
            assert_int_equal((got - shift) % piece, 0);
            assert_memory_equal(err.message, text, got);
        }
    }
}

static void masks(void **state)
{
    static const struct {
        const char *url, *masked;
    } cases[] = {
        /* user and password before a host */
        { "postgresql://u:secret@host/db", "postgresql://u:***@host/db" },
        { "postgres://u:secret@host:5432/db?sslmode=require",
          "postgres://u:***@host:5432/db?sslmode=require" },
        { "mongodb://u:secret@h1:27017,h2:27018/db?replicaSet=rs",
          "mongodb://u:***@h1:27017,h2:27018/db?replicaSet=rs" },
        { "mongodb+srv://u:secret@host", "mongodb+srv://u:***@host" },
        { "https://u:secret@[::1]:8123/?query=1", "https://u:***@[::1]:8123/?query=1" },
        { "http://:secret@host", "http://:***@host" },
        { "http://u:@host", "http://u:***@host" },
        { "http://u@host", "http://u@host" },
        { "http://u@host:80/x", "http://u@host:80/x" },
        { "http://a:b/c", "http://a:b/c" },
        { "http://u:a@b@host/x", "http://u:***@host/x" }, /* '@' in the password */
        { "http://u:a:b@host/x", "http://u:***@host/x" }, /* ':' in it */
        { "http://u:a/b@host/x", "http://u:***@host/x" }, /* '/' in it: still a secret */
        { "http://u:a?b#c@host/x", "http://u:***@host/x" },
        { "http://u:p%40ss@host/x", "http://u:***@host/x" },
        { "http://u:12/34@host/x", "http://u:12/34@host/x" }, /* reads as host, port and path */
        /* no secret */
        { "", "" },
        { "sqlite:orders.db", "sqlite:orders.db" },
        { "sqlite:/data/a:b@c.db", "sqlite:/data/a:b@c.db" },
        { "https://host:8443/path/x@y", "https://host:8443/path/x@y" },
        { "https://host/path:x@y", "https://host/path:x@y" },
        { "http://[::1]:80/a@b", "http://[::1]:80/a@b" },
        { "://", "://" },
        { "http://", "http://" },
        { "http://@", "http://@" },
        { "user=password host=pass", "user=password host=pass" },
        { "passwords are bad", "passwords are bad" },
        { "passwordx=1", "passwordx=1" },
        /* a parameter of a URL */
        { "postgresql://h/db?user=u&password=secret", "postgresql://h/db?user=u&password=***" },
        { "postgresql://h/db?password=secret&user=u", "postgresql://h/db?password=***&user=u" },
        { "postgresql://h/db?PASSWORD=secret#x", "postgresql://h/db?PASSWORD=***" },
        { "postgresql://h/db?pass%77ord=secret", "postgresql://h/db?pass%77ord=***" },
        { "postgresql://h/db?passw%6frd=secret", "postgresql://h/db?passw%6frd=***" },
        { "postgresql://h/db?passw%6Frd=secret", "postgresql://h/db?passw%6Frd=***" },
        { "postgresql://h/db?passw%6xrd=1&%x6=2&password%=3",
          "postgresql://h/db?passw%6xrd=1&%x6=2&password%=3" },
        { "postgresql://h/db?%70assword=secret", "postgresql://h/db?%70assword=***" },
        { "postgresql://h/db?sslpassword=s;e=c&x=1", "postgresql://h/db?sslpassword=***&x=1" },
        { "https://h/?access_token=abc&secret=def&api_key=ghi&q=1",
          "https://h/?access_token=***&secret=***&api_key=***&q=1" },
        { "postgresql://u:one@h/db?password=two", "postgresql://u:***@h/db?password=***" },
        { "postgresql://h/db?password=", "postgresql://h/db?password=" },
        { "postgresql://h/db?password=one#two&user=u", "postgresql://h/db?password=***&user=u" },
        /* raw white space, which libpq takes as part of a value */
        { "postgresql://u:one two@h/db", "postgresql://u:***@h/db" },
        { "postgresql://u:one\ttwo@h/db?user=a", "postgresql://u:***@h/db?user=a" },
        { "postgresql://h/db?password=one two&user=u", "postgresql://h/db?password=***&user=u" },
        /* libpq's other form behind the scheme, hosts without name, several hosts */
        { "postgresql:host=h password=one dbname=x", "postgresql:host=h password=*** dbname=x" },
        { "postgresql:password='one two' sslpassword=x",
          "postgresql:password=*** sslpassword=***" },
        { "postgresql:host='a'password=one", "postgresql:host='a'password=***" },
        { "postgresql:dbname='postgresql://u:one@h/x'",
          "postgresql:dbname='postgresql://u:***@h/x'" },
        { "postgres://u:one@/db?host=/tmp", "postgres://u:***@/db?host=/tmp" },
        { "postgresql://u:one@h1:1,[::1]:2/db", "postgresql://u:***@h1:1,[::1]:2/db" },
        { "postgresql://h1:5432,h2:5433/x", "postgresql://h1:5432,h2:5433/x" },
        { "postgresql://h/db?oauth_client_secret=one",
          "postgresql://h/db?oauth_client_secret=***" },
        /* key=value */
        { "host=h password=secret user=u", "host=h password=*** user=u" },
        { "password=secret", "password=***" },
        { "password = secret user=u", "password = *** user=u" },
        { "host=h\tpassword\t=\tsecret", "host=h\tpassword\t=\t***" },
        { "password='two words' user=u", "password=*** user=u" },
        { "password='it\\'s' user=u", "password=*** user=u" },
        { "password='it''s one' user=u", "password=*** user=u" },
        { "password='ends in \\\\' user=u", "password=*** user=u" },
        { "password=\"two words\" user=u", "password=*** user=u" },
        { "password='never closed user=u", "password=***" },
        { "password='ends\\", "password=***" },
        { "password=a\\ b user=u", "password=*** user=u" },
        { "password=a&b;c user=u", "password=*** user=u" },
        { "password=", "password=" },
        { "Server=h;Password=secret;Database=d", "Server=h;Password=***;Database=d" },
        { "Server=h;Pwd=secret", "Server=h;Pwd=***" },
        { "db_password=secret", "db_password=***" },
        { "passphrase=x passwd=y pass=z token=t apikey=k",
          "passphrase=*** passwd=*** pass=*** token=*** apikey=***" },
        /* inside other words */
        { "cannot reach postgresql://u:secret@host/db: refused",
          "cannot reach postgresql://u:***@host/db: refused" },
        { "from http://a:b@c to http://d:e@f", "from http://a:***@c to http://d:***@f" },
        { "\"password=secret\"", "\"password=***" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[256];
        ldg_mask_url(cases[i].url, out, sizeof out);
        assert_string_equal(out, cases[i].masked);
        /* Masking twice changes nothing. */
        char again[256];
        ldg_mask_url(out, again, sizeof again);
        assert_string_equal(again, cases[i].masked);
    }
}

/* Also when the word is behind a lot of others. */
static void masks_long_keys(void **state)
{
    char url[400], out[400];
    memset(url, 'x', sizeof url);
    memcpy(url + 300, "_password=secret", 17);
    ldg_mask_url(url, out, sizeof out);
    assert_int_equal(strlen(out), 313);
    assert_string_equal(out + 300, "_password=***");
}

static void masks_into_little_room(void **state)
{
    const char *url = "postgresql://user:secret@host/db?password=secret&x=y";
    for (size_t size = 0; size < 60; size++) {
        char out[61];
        memset(out, '#', sizeof out);
        ldg_mask_url(url, out, size);
        assert_int_equal(out[size], '#');
        if (size == 0)
            continue;
        assert_non_null(memchr(out, '\0', size));
        assert_null(strstr(out, "sec"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_its_words),
        cmocka_unit_test(other_numbers_are_internal),
        cmocka_unit_test(fills),
        cmocka_unit_test(arguments_may_be_the_struct_itself),
        cmocka_unit_test(a_message_is_one_line),
        cmocka_unit_test(a_message_that_cannot_be_made),
        cmocka_unit_test(a_long_message_ends_between_characters),
        cmocka_unit_test(masks),
        cmocka_unit_test(masks_long_keys),
        cmocka_unit_test(masks_into_little_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
