/* What Go's encoder makes of a payload is told from every other change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "event/event.h"

static bool reencoded(const char *payload, const char *text)
{
    return ldg_json_is_reencoded((ledger_bytes){ payload, strlen(payload) },
                                 (ledger_bytes){ text, strlen(text) });
}

static void go_s_form_is_known(void **state)
{
    static const struct {
        const char *payload, *text;
    } rows[] = {
        { "{}", "{}" },
        { " { \"a\" : [ 1 , 2 ] }\n", "{\"a\":[1,2]}" },
        { "{\"a b\": \"c  d\\\" e\"}", "{\"a b\":\"c  d\\\" e\"}" },
        { "\"<>&\"", "\"\\u003c\\u003e\\u0026\"" },
        { "{\"<\": \"\xE2\x80\xA8 \xE2\x80\xA9 \xE2\x80\xAA\"}",
          "{\"\\u003c\":\"\\u2028 \\u2029 \xE2\x80\xAA\"}" },
        { "[1.0, 1e400, 123456789012345678901234567890]",
          "[1.0,1e400,123456789012345678901234567890]" },
        { "{\"b\": 1, \"a\": 2, \"a\": 3}", "{\"b\":1,\"a\":2,\"a\":3}" },
        { "\"\\\\\" ", "\"\\\\\"" },
        { "\t[ 1 ]\r\n", "[ 1 ]" }, /* only the outer white space */
        { "\"\\u003C\\/\"", "\"\\u003C\\/\"" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (!reencoded(rows[i].payload, rows[i].text))
            fail_msg("%s: %s", rows[i].payload, rows[i].text);
}

static void other_changes_are_none_of_go_s(void **state)
{
    static const struct {
        const char *payload, *text;
    } rows[] = {
        { "{}", "{ }" },
        { "{\"a\":1}", "{\"a\": 1}" },
        { "{\"a\": 1}", "{\"a\":1.0}" },
        { "{\"a\": 1, \"b\": 2}", "{\"b\":2,\"a\":1}" },
        { "{\"a\": \"x y\"}", "{\"a\":\"xy\"}" },
        { "\"\\u003c\"", "\"<\"" },
        { "\"<\"", "\"\\u003C\"" },
        { "[ \"<\" ]", "[\"<\"]" }, /* half of it */
        { "[1, 2]", "[1,2" },
        { "[1, 2]", "[1,2]]" },
        { "[1, 2]", "" },
        { "a b", "ab" }, /* no JSON */
        { "\"\xE2\x80", "\"\xE2\x80" },
        { "1 ", "2" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (reencoded(rows[i].payload, rows[i].text))
            fail_msg("%s: %s", rows[i].payload, rows[i].text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(go_s_form_is_known),
        cmocka_unit_test(other_changes_are_none_of_go_s),
    };
    return cmocka_run_group_tests_name("reencoded", tests, NULL, NULL);
}
