/* Times against libc's own calendar, durations as Go writes them, replaced clocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"

static void formats(void **state)
{
    static const struct {
        int64_t time_us;
        const char *ms, *rfc3339;
    } cases[] = {
        { 0, "1970-01-01T00:00:00.000", "1970-01-01T00:00:00.000Z" },
        { -1, "1969-12-31T23:59:59.999", "1969-12-31T23:59:59.999999Z" },
        { -1000, "1969-12-31T23:59:59.999", "1969-12-31T23:59:59.999Z" },
        { 999, "1970-01-01T00:00:00.000", "1970-01-01T00:00:00.000999Z" },
        { 1795405334123456, "2026-11-23T03:42:14.123", "2026-11-23T03:42:14.123456Z" },
        { 1795405334120000, "2026-11-23T03:42:14.120", "2026-11-23T03:42:14.120Z" },
        { 951782400000000, "2000-02-29T00:00:00.000", "2000-02-29T00:00:00.000Z" },
        { 253402300799999999, "9999-12-31T23:59:59.999", "9999-12-31T23:59:59.999999Z" },
        { -62167219200000000, "0000-01-01T00:00:00.000", "0000-01-01T00:00:00.000Z" },
        { 253402300800000000, "10000-01-01T00:00:00.000", "10000-01-01T00:00:00.000Z" },
        { INT64_MAX, "294247-01-10T04:00:54.775", "294247-01-10T04:00:54.775807Z" },
        { INT64_MIN, "-290308-12-21T19:59:05.224", "-290308-12-21T19:59:05.224192Z" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[LDG_TIME_TEXT_MAX];
        ldg_time_format_ms(cases[i].time_us, text);
        assert_string_equal(text, cases[i].ms);
        ldg_time_format_rfc3339(cases[i].time_us, text);
        assert_string_equal(text, cases[i].rfc3339);
    }
}

/* Every day of the years 0 to 9999, against gmtime, and back. */
static void every_day_is_libcs(void **state)
{
    for (int64_t day = -719528; day <= 2932896; day += 7) {
        char text[LDG_TIME_TEXT_MAX], expected[128];
        int64_t time_us = (day * 86400 + (day & 0xffff)) * 1000000, again;
        time_t seconds = (time_t)(time_us / 1000000);
        struct tm tm;
        assert_non_null(gmtime_r(&seconds, &tm));
        snprintf(expected, sizeof expected, "%04d-%02d-%02dT%02d:%02d:%02d.000Z", tm.tm_year + 1900,
                 tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
        ldg_time_format_rfc3339(time_us, text);
        assert_string_equal(text, expected);
        assert_true(ldg_time_parse(text, strlen(text), &again));
        assert_int_equal(again, time_us);
    }
}

static void parses_times(void **state)
{
    static const struct {
        const char *text;
        int64_t time_us;
    } cases[] = {
        { "1970-01-01T00:00:00Z", 0 },
        { "1970-01-01t00:00:00z", 0 },
        { "1970-01-01 00:00:00", 0 },
        { "1970-01-01T00:00:00.5", 500000 },
        { "1970-01-01T00:00:00.000001Z", 1 },
        { "1970-01-01T00:00:00.000001999Z", 1 },
        { "1969-12-31T23:59:59.999999999Z", -1 },
        { "2026-11-23T03:42:14.123", 1795405334123000 },
        { "2026-11-23T05:42:14.123456+02:00", 1795405334123456 },
        { "2026-11-22T22:12:14.123456-05:30", 1795405334123456 },
        { "2026-11-23T03:42:14.123456789+00:00", 1795405334123456 },
        { "2024-02-29T00:00:00Z", 1709164800000000 },
        { "2000-02-29T00:00:00Z", 951782400000000 },
        { "0000-01-01T00:00:00Z", -62167219200000000 },
        { "9999-12-31T23:59:59.999999999-23:59", 253402387139999999 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t time_us = 7;
        assert_true(ldg_time_parse(cases[i].text, strlen(cases[i].text), &time_us));
        assert_int_equal(time_us, cases[i].time_us);
        /* No shorter text that needs its last character reads the same; none reads beyond. */
        for (size_t size = 0; size < 19; size++)
            assert_false(ldg_time_parse(cases[i].text, size, &time_us));
    }
}

static void refuses_times(void **state)
{
    static const char *const texts[] = {
        "",
        "x",
        "1970",
        "1970-01-01",
        "1970-01-01T",
        "1970-01-01T00:00",
        "1970-01-01T00:00:0",
        "1970-1-01T00:00:00Z",
        "70-01-01T00:00:00Z",
        "1970-00-01T00:00:00Z",
        "1970-13-01T00:00:00Z",
        "1970-01-00T00:00:00Z",
        "1970-01-32T00:00:00Z",
        "1970-04-31T00:00:00Z",
        "1970-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2100-02-29T00:00:00Z",
        "1970-01-01T24:00:00Z",
        "1970-01-01T00:60:00Z",
        "1970-01-01T00:00:60Z",
        "1970-01-01X00:00:00Z",
        "1970/01/01T00:00:00Z",
        "1970-01-01T00.00.00Z",
        "1970-01-01T00:00:00.Z",
        "1970-01-01T00:00:00.",
        "1970-01-01T00:00:00.1234567890Z",
        "1970-01-01T00:00:00ZZ",
        "1970-01-01T00:00:00Z ",
        " 1970-01-01T00:00:00Z",
        "1970-01-01T00:00:00+1:00",
        "1970-01-01T00:00:00+0100",
        "1970-01-01T00:00:00+24:00",
        "1970-01-01T00:00:00+00:60",
        "1970-01-01T00:00:00+",
        "1970-01-01T00:00:00 +00:00",
        "+970-01-01T00:00:00Z",
        "-001-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "1970-01-01T00:00:00,5Z",
        "1970-01-01T-1:00:00Z",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        int64_t time_us = 7;
        if (ldg_time_parse(texts[i], strlen(texts[i]), &time_us))
            fail_msg("accepted: %s", texts[i]);
        assert_int_equal(time_us, 7);
    }
    int64_t time_us = 7;
    assert_false(ldg_time_parse("1970-01-01\0"
                                "00:00:00",
                                19, &time_us)); /* NUL is no blank */
}

static void parses_durations(void **state)
{
    static const struct {
        const char *text;
        int64_t us;
    } cases[] = {
        { "0", 0 },
        { "0s", 0 },
        { "5s", 5000000 },
        { "250ms", 250000 },
        { "1m30s", 90000000 },
        { "2h", INT64_C(7200000000) },
        { "1.5h", INT64_C(5400000000) },
        { ".5s", 500000 },
        { "5.s", 5000000 },
        { "10us", 10 },
        { "10\xc2\xb5s", 10 },
        { "10\xce\xbcs", 10 },
        { "1999ns", 1 },
        { "1h2m3s4ms5us6ns", INT64_C(3723004005) },
        { "1s1s", 2000000 },
        { "0.000001s", 1 },
        { "0.1234567890123s", 123456 },
        { "9223372036s", INT64_C(9223372036000000) },
        { "2562047h47m16.854775807s", INT64_C(9223372036854775) },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t us = 7;
        assert_true(ldg_duration_parse(cases[i].text, &us));
        assert_int_equal(us, cases[i].us);
    }
}

static void refuses_durations(void **state)
{
    static const char *const texts[] = {
        "",
        " ",
        "5",
        "s",
        ".",
        ".s",
        "1x",
        "1S",
        "1 s",
        " 1s",
        "1s ",
        "-1s",
        "+1s",
        "1d",
        "1.2.3s",
        "00",
        "1e3s",
        "1sm",
        "9223372037s",
        "99999999999999999999s",
        "2562048h",
        "\xc2s",
        "1\xc2",
        "2562047h47m16.854775808s",
        "9223372036854775808ns",
        "1m30",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        int64_t us = 7;
        if (ldg_duration_parse(texts[i], &us))
            fail_msg("accepted: %s", texts[i]);
        assert_int_equal(us, 7);
    }
}

static int64_t fixed(void)
{
    return 42;
}

static void clocks_can_be_replaced(void **state)
{
    int64_t before = ldg_clock_mono_us();
    assert_true(ldg_clock_now_us() > INT64_C(1700000000000000));
    ldg_clock_set_now(fixed);
    ldg_clock_set_mono(fixed);
    assert_int_equal(ldg_clock_now_us(), 42);
    assert_int_equal(ldg_clock_mono_us(), 42);
    ldg_clock_set_now(NULL);
    ldg_clock_set_mono(NULL);
    assert_true(ldg_clock_now_us() > INT64_C(1700000000000000));
    assert_true(ldg_clock_mono_us() >= before);
}

static void uuids_are_version_4_and_differ(void **state)
{
    static char uuids[200][LDG_UUID_TEXT_MAX];
    for (size_t i = 0; i < 200; i++) {
        ldg_uuid_new(uuids[i]);
        assert_int_equal(strlen(uuids[i]), 36);
        for (size_t k = 0; k < 36; k++) {
            if (k == 8 || k == 13 || k == 18 || k == 23)
                assert_int_equal(uuids[i][k], '-');
            else
                assert_non_null(strchr("0123456789abcdef", uuids[i][k]));
        }
        assert_int_equal(uuids[i][14], '4');
        assert_non_null(strchr("89ab", uuids[i][19]));
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(uuids[i], uuids[k]);
    }
    assert_int_not_equal(ldg_random_u64(), ldg_random_u64());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats),
        cmocka_unit_test(every_day_is_libcs),
        cmocka_unit_test(parses_times),
        cmocka_unit_test(refuses_times),
        cmocka_unit_test(parses_durations),
        cmocka_unit_test(refuses_durations),
        cmocka_unit_test(clocks_can_be_replaced),
        cmocka_unit_test(uuids_are_version_4_and_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
