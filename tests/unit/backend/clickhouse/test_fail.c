/* Errors of ClickHouse: where they stand in an answer, what they mean, and the words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "backend/clickhouse/fail.h"

static ledger_bytes bytes(const char *text)
{
    return (ledger_bytes){ text, strlen(text) };
}

static void errors_in_answers(void **state)
{
    static const struct {
        const char *body, *tag;
        int code; /* -1: there is none */
        const char *text;
    } rows[] = {
        { "Code: 60. DB::Exception: Table d.t does not exist. (UNKNOWN_TABLE)", NULL, 60,
          "DB::Exception: Table" },
        { "Code: 47, e.displayText() = DB::Exception: Unknown identifier", NULL, 47,
          "e.displayText()" },
        { "Code: 0", NULL, 0, "" },
        { "", NULL, -1, NULL },
        { "Code: ", NULL, -1, NULL },
        { "Code: x", NULL, -1, NULL },
        { "Code: -1", NULL, -1, NULL },
        { " Code: 1", NULL, -1, NULL },
        { "code: 1", NULL, -1, NULL },
        { "Code: 99999999999999999999", NULL, -1, NULL },
        { "rows Code: 60", NULL, -1, NULL },
        { "rows\r\n__exception__\r\nabc\r\nCode: 241. DB::Exception: no\n30 "
          "abc\r\n__exception__\r\n",
          "abc", 241, "DB::Exception: no" },
        { "\r\n__exception__\r\nabc\r\nmemory", "abc", 0, "memory" },
        /* of data, which does not know the tag */
        { "rows\r\n__exception__\r\nabc\r\nCode: 241. x", NULL, -1, NULL },
        { "rows\r\n__exception__\r\nabc\r\nCode: 241. x", "", -1, NULL },
        { "rows\r\n__exception__\r\nabc\r\nCode: 241. x", "abd", -1, NULL },
        { "rows\r\n__exception__\r\nabc", "abc", -1, NULL },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct ldg_ch_error error = { .code = -2 };
        const bool found = ldg_ch_find_error(bytes(rows[i].body), rows[i].tag, &error);
        assert_int_equal(found, rows[i].code >= 0);
        if (!found)
            continue;
        assert_int_equal(error.code, rows[i].code);
        assert_true(error.text.size >= strlen(rows[i].text));
        assert_memory_equal(error.text.data, rows[i].text, strlen(rows[i].text));
    }
    char tag[200];
    memset(tag, 'a', sizeof tag);
    tag[sizeof tag - 1] = '\0';
    struct ldg_ch_error error;
    assert_false(ldg_ch_find_error(bytes("\r\n__exception__\r\n"), tag, &error));
}

static void codes(void **state)
{
    static const struct {
        int code;
        ledger_rc rc;
    } rows[] = {
        { 60, LEDGER_ERR_SCHEMA },      { 81, LEDGER_ERR_SCHEMA },
        { 16, LEDGER_ERR_SCHEMA },      { 47, LEDGER_ERR_SCHEMA },
        { 62, LEDGER_ERR_SCHEMA },      { 192, LEDGER_ERR_PERMISSION },
        { 193, LEDGER_ERR_PERMISSION }, { 194, LEDGER_ERR_PERMISSION },
        { 516, LEDGER_ERR_PERMISSION }, { 497, LEDGER_ERR_PERMISSION },
        { 164, LEDGER_ERR_READ_ONLY },  { 241, LEDGER_ERR_BUSY },
        { 202, LEDGER_ERR_BUSY },       { 252, LEDGER_ERR_BUSY },
        { 242, LEDGER_ERR_BUSY },       { 201, LEDGER_ERR_FULL },
        { 243, LEDGER_ERR_FULL },       { 159, LEDGER_ERR_TIMEOUT },
        { 210, LEDGER_ERR_CONNECT },    { 469, LEDGER_ERR_REJECTED },
        { 1, LEDGER_ERR_IO },           { 0, LEDGER_ERR_IO },
        { 123456, LEDGER_ERR_IO },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(ldg_ch_code(rows[i].code), rows[i].rc);
    /* what is not known is tried again */
    assert_true(ledger_rc_flags(ldg_ch_code(1)) & LEDGER_ERROR_RETRY);
}

static void words(void **state)
{
    char text[1200] = "DB::Exception: ";
    struct ldg_ch_error error = { 60, bytes("DB::Exception: Table t\nStack trace: secret") };
    ledger_error err;
    assert_int_equal(ldg_ch_fail("reading entries", &error, &err), LEDGER_ERR_SCHEMA);
    assert_int_equal(err.native_code, 60);
    assert_string_equal(err.backend, "clickhouse");
    assert_non_null(strstr(err.message, "reading entries: ClickHouse says Table t (60)"));
    assert_non_null(strstr(err.message, "store check"));
    assert_null(strstr(err.message, "Stack"));
    error.code = 81; /* no command of ours makes a database */
    assert_int_equal(ldg_ch_fail("opening", &error, &err), LEDGER_ERR_SCHEMA);
    assert_non_null(strstr(err.message, "(81); correct the name in the URL"));
    /* a long text is cut between two characters */
    for (size_t i = strlen(text); i + 3 < sizeof text; i += 2)
        memcpy(text + i, "\xc3\xa4", 3);
    error = (struct ldg_ch_error){ 516, bytes(text) };
    assert_int_equal(ldg_ch_fail("writing", &error, &err), LEDGER_ERR_PERMISSION);
    assert_non_null(strstr(err.message, "\xc3\xa4… (516); docs/CLICKHOUSE.md"));
    /* nor does it hold what is no text, or speaks to a terminal */
    error = (struct ldg_ch_error){ 241, bytes("a\xc5\xff\x1b[2Jb") };
    assert_int_equal(ldg_ch_fail("writing", &error, &err), LEDGER_ERR_BUSY);
    assert_non_null(strstr(err.message, "a?? [2Jb (241)"));
    static const int advised[] = { 164, 243, 1 };
    for (size_t i = 0; i < 3; i++) {
        error = (struct ldg_ch_error){ advised[i], bytes("") };
        assert_int_not_equal(ldg_ch_fail("x", &error, &err), LEDGER_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_in_answers),
        cmocka_unit_test(codes),
        cmocka_unit_test(words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
