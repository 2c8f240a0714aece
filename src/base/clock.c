/* Clocks that tests can replace, randomness from the kernel, and times as text. Dates are counted
 * in the proleptic Gregorian calendar by hand: libc's functions look at locale and time zone. */
#include "base/clock.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"

#define US_PER_S INT64_C(1000000)
#define US_PER_DAY (INT64_C(86400) * US_PER_S)

typedef int64_t (*clock_fn)(void);
static _Atomic(clock_fn) now_fn;
static _Atomic(clock_fn) mono_fn;

static int64_t read_clock(clockid_t id)
{
    struct timespec ts = { 0, 0 };
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * US_PER_S + ts.tv_nsec / 1000;
}

int64_t ldg_clock_now_us(void)
{
    clock_fn fn = atomic_load_explicit(&now_fn, memory_order_acquire);
    return fn != NULL ? fn() : read_clock(CLOCK_REALTIME);
}

int64_t ldg_clock_mono_us(void)
{
    clock_fn fn = atomic_load_explicit(&mono_fn, memory_order_acquire);
    return fn != NULL ? fn() : read_clock(CLOCK_MONOTONIC);
}

void ldg_clock_set_now(int64_t (*now_us)(void))
{
    atomic_store_explicit(&now_fn, now_us, memory_order_release);
}

void ldg_clock_set_mono(int64_t (*mono_us)(void))
{
    atomic_store_explicit(&mono_fn, mono_us, memory_order_release);
}

uint64_t ldg_random_u64(void)
{
    uint64_t value = 0;
    /* Up to 256 bytes come whole once the pool is ready, and wait for it before. */
    if (getrandom(&value, sizeof value, 0) == (ssize_t)sizeof value)
        return value;
    /* A kernel without getrandom: distinct, though not secret. */
    static _Atomic uint64_t counter;
    uint64_t salt = atomic_fetch_add(&counter, 1) << 32; /* uncovered: needs such a kernel */
    salt ^= (uint64_t)getpid();                          /* uncovered: as above */
    return ldg_hash64(&salt, sizeof salt, (uint64_t)ldg_clock_now_us()); /* uncovered: as above */
}

/* Days since 1970-01-01 to a date and back. Years are counted from March, so that the leap day is
 * the last of its year; 400 years are one era of 146097 days. */
struct civil {
    int64_t year;
    int month, day;
};

static struct civil civil_from_days(int64_t days)
{
    days += 719468; /* from 0000-03-01 */
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    int64_t doe = days - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153; /* 0 = March */
    struct civil date;
    date.day = (int)(doy - (153 * mp + 2) / 5 + 1);
    date.month = (int)(mp < 10 ? mp + 3 : mp - 9);
    date.year = yoe + era * 400 + (date.month <= 2 ? 1 : 0);
    return date;
}

static int64_t days_from_civil(int64_t year, int month, int day)
{
    if (month <= 2)
        year--;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t yoe = year - era * 400;
    int64_t doy = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    int64_t doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return era * 146097 + doe - 719468;
}

/* value as count digits at p, zero padded. By hand: every row and event has a time or two. */
static char *put_digits(char *p, int value, int count)
{
    for (int i = count - 1; i >= 0; i--, value /= 10)
        p[i] = (char)('0' + value % 10);
    return p + count;
}

/* Date and time to the second; returns the end of the text. */
static char *put_seconds(int64_t time_us, char text[LDG_TIME_TEXT_MAX], int *ret_us)
{
    int64_t days = time_us / US_PER_DAY;
    int64_t rest = time_us % US_PER_DAY;
    if (rest < 0) {
        rest += US_PER_DAY;
        days--;
    }
    struct civil date = civil_from_days(days);
    int seconds = (int)(rest / US_PER_S);
    char *p = text;
    if (date.year < 0 || date.year > 9999)
        p += snprintf(p, LDG_TIME_TEXT_MAX / 2, "%05lld", (long long)date.year);
    else
        p = put_digits(p, (int)date.year, 4);
    *p++ = '-';
    p = put_digits(p, date.month, 2);
    *p++ = '-';
    p = put_digits(p, date.day, 2);
    *p++ = 'T';
    p = put_digits(p, seconds / 3600, 2);
    *p++ = ':';
    p = put_digits(p, seconds / 60 % 60, 2);
    *p++ = ':';
    p = put_digits(p, seconds % 60, 2);
    *p++ = '.';
    *ret_us = (int)(rest % US_PER_S);
    return p;
}

void ldg_time_format_ms(int64_t time_us, char text[LDG_TIME_TEXT_MAX])
{
    int us;
    char *p = put_seconds(time_us, text, &us);
    p = put_digits(p, us / 1000, 3);
    *p = '\0';
}

void ldg_time_format_rfc3339(int64_t time_us, char text[LDG_TIME_TEXT_MAX])
{
    int us;
    char *p = put_seconds(time_us, text, &us);
    p = us % 1000 == 0 ? put_digits(p, us / 1000, 3) : put_digits(p, us, 6);
    *p++ = 'Z';
    *p = '\0';
}

/* Reads exactly count digits into *ret_value and moves on. */
static bool read_digits(const char **p, const char *end, int count, int *ret_value)
{
    int value = 0;
    if (end - *p < count)
        return false;
    for (int i = 0; i < count; i++) {
        char c = (*p)[i];
        if (c < '0' || c > '9')
            return false;
        value = value * 10 + (c - '0');
    }
    *p += count;
    *ret_value = value;
    return true;
}

static bool read_char(const char **p, const char *end, const char *set)
{
    if (*p == end || **p == '\0' || strchr(set, **p) == NULL)
        return false;
    (*p)++;
    return true;
}

static bool read_date(const char **p, const char *end, int64_t *ret_days)
{
    static const int month_days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    int year, month, day;
    if (!read_digits(p, end, 4, &year) || !read_char(p, end, "-") ||
        !read_digits(p, end, 2, &month) || !read_char(p, end, "-") ||
        !read_digits(p, end, 2, &day) || month < 1 || month > 12 || day < 1)
        return false;
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (day > month_days[month - 1] + (month == 2 && leap ? 1 : 0))
        return false;
    *ret_days = days_from_civil(year, month, day);
    return true;
}

/* ".123456789" to microseconds, cut off; absent is 0. */
static bool read_fraction(const char **p, const char *end, int *ret_us)
{
    int us = 0, count = 0;
    if (read_char(p, end, ".")) {
        for (; *p < end && **p >= '0' && **p <= '9'; (*p)++, count++) {
            if (count < 6)
                us = us * 10 + (**p - '0');
        }
        if (count == 0 || count > 9)
            return false;
        for (; count < 6; count++)
            us *= 10;
    }
    *ret_us = us;
    return true;
}

/* Z, +hh:mm, -hh:mm or nothing. */
static bool read_zone(const char **p, const char *end, int *ret_minutes)
{
    int hours = 0, minutes = 0, sign = 1;
    if (*p < end && !read_char(p, end, "Zz")) {
        sign = **p == '-' ? -1 : 1;
        if (!read_char(p, end, "+-") || !read_digits(p, end, 2, &hours) ||
            !read_char(p, end, ":") || !read_digits(p, end, 2, &minutes) || hours > 23 ||
            minutes > 59)
            return false;
    }
    *ret_minutes = sign * (hours * 60 + minutes);
    return true;
}

bool ldg_time_parse(const char *text, size_t size, int64_t *ret_time_us)
{
    const char *p = text, *end = text + size;
    int64_t days;
    int hour, minute, second, us, zone;
    if (!read_date(&p, end, &days) || !read_char(&p, end, "Tt ") ||
        !read_digits(&p, end, 2, &hour) || !read_char(&p, end, ":") ||
        !read_digits(&p, end, 2, &minute) || !read_char(&p, end, ":") ||
        !read_digits(&p, end, 2, &second) || hour > 23 || minute > 59 || second > 59 ||
        !read_fraction(&p, end, &us) || !read_zone(&p, end, &zone) || p != end)
        return false;
    *ret_time_us =
        days * US_PER_DAY + (int64_t)(hour * 3600 + (minute - zone) * 60 + second) * US_PER_S + us;
    return true;
}

/* Nanoseconds per unit at the start of p, and the unit's length; 0: none. */
static int64_t duration_unit(const char *p, size_t *ret_size)
{
    static const struct {
        const char *name;
        int64_t ns;
    } units[] = {
        { "ns", 1 },
        { "us", 1000 },
        { "\xc2\xb5s", 1000 }, /* micro sign */
        { "\xce\xbcs", 1000 }, /* Greek mu */
        { "ms", 1000000 },     /* before "m" */
        { "s", INT64_C(1000000000) },
        { "m", INT64_C(60000000000) },
        { "h", INT64_C(3600000000000) },
    };
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        size_t size = strlen(units[i].name);
        if (strncmp(p, units[i].name, size) == 0) {
            *ret_size = size;
            return units[i].ns;
        }
    }
    return 0;
}

/* One "1.5h" of a duration, added to *sum_ns. */
static bool read_duration_part(const char **p, int64_t *sum_ns)
{
    int64_t whole = 0, fraction = 0, scale = 1, part;
    size_t digits = 0, unit_size = 0;
    for (; **p >= '0' && **p <= '9'; (*p)++, digits++) {
        if (__builtin_mul_overflow(whole, 10, &whole) ||
            __builtin_add_overflow(whole, **p - '0', &whole))
            return false;
    }
    if (**p == '.') {
        for ((*p)++; **p >= '0' && **p <= '9'; (*p)++, digits++) {
            if (scale < INT64_C(1000000000)) { /* further digits are below a nanosecond or two */
                fraction = fraction * 10 + (**p - '0');
                scale *= 10;
            }
        }
    }
    int64_t unit = duration_unit(*p, &unit_size);
    if (digits == 0 || unit == 0)
        return false;
    *p += unit_size;
    part = (int64_t)((double)fraction * ((double)unit / (double)scale));
    return !__builtin_mul_overflow(whole, unit, &whole) &&
           !__builtin_add_overflow(*sum_ns, whole, sum_ns) &&
           !__builtin_add_overflow(*sum_ns, part, sum_ns);
}

bool ldg_duration_parse(const char *text, int64_t *ret_us)
{
    const char *p = text;
    int64_t ns = 0;
    if (strcmp(text, "0") != 0) {
        if (*p == '\0')
            return false;
        while (*p != '\0') {
            if (!read_duration_part(&p, &ns))
                return false;
        }
    }
    *ret_us = ns / 1000;
    return true;
}

void ldg_uuid_new(char text[LDG_UUID_TEXT_MAX])
{
    uint64_t a = ldg_random_u64(), b = ldg_random_u64();
    a = (a & ~UINT64_C(0xf000)) | UINT64_C(0x4000);       /* version 4 */
    b = (b & ~(UINT64_C(3) << 62)) | (UINT64_C(2) << 62); /* RFC 4122 variant */
    snprintf(text, LDG_UUID_TEXT_MAX, "%08x-%04x-%04x-%04x-%012llx", (unsigned)(a >> 32),
             (unsigned)(a >> 16 & 0xffff), (unsigned)(a & 0xffff), (unsigned)(b >> 48),
             (unsigned long long)(b & UINT64_C(0xffffffffffff)));
}
