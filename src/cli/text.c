/* How others' texts, numbers and times are shown: without secrets and control characters. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "cli/cli.h"

/* --- secrets --------------------------------------------------------------------------------- */

static bool is_control(char c)
{
    return (unsigned char)c < ' ' || c == 127;
}

/* The first 80 bytes, with control characters that can be seen: \r, \x1b. */
static void show_start(const char *text, char *out, size_t out_size)
{
    static const char letters[] = "abtnvfr"; /* of the characters from 7 on */
    size_t used = 0;
    for (; *text != '\0' && used < 80; text++) {
        if (!is_control(*text))
            out[used++] = *text;
        else if (*text >= 7 && *text <= 13)
            used += (size_t)snprintf(out + used, out_size - used, "\\%c", letters[*text - 7]);
        else
            used += (size_t)snprintf(out + used, out_size - used, "\\x%02x", *text);
    }
    snprintf(out + used, out_size - used, "%s", *text != '\0' ? "..." : "");
}

const char *cli_shown(const char *text)
{
    static char slots[4][96];
    static unsigned next;
    char *out = slots[next++ % 4];
    const char *scheme = strstr(text, "://");
    if (scheme != NULL || strcasestr(text, "passw") != NULL || strcasestr(text, "secret") != NULL ||
        strcasestr(text, "token") != NULL) {
        /* It may hold a password: only the scheme is repeated. */
        size_t keep = scheme != NULL && scheme - text < 20 ? (size_t)(scheme + 3 - text) : 0;
        snprintf(out, sizeof slots[0], "%.*s***", (int)keep, text);
    } else {
        show_start(text, out, sizeof slots[0]);
    }
    return out;
}

size_t cli_mark_size(const char *data, size_t size)
{
    return size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
}

/* --- numbers, times -------------------------------------------------------------------------- */

static int64_t clock_us(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t cli_mono_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}

int64_t cli_now_us(void)
{
    return clock_us(CLOCK_REALTIME);
}

const char *cli_time_text(int64_t time_us, char out[CLI_TIME_MAX])
{
    if (time_us == LEDGER_NO_TIME)
        return snprintf(out, CLI_TIME_MAX, "-"), out;
    int64_t rest = time_us % 1000000, seconds = time_us / 1000000;
    if (rest < 0) {
        rest += 1000000;
        seconds--;
    }
    struct tm tm;
    time_t when = (time_t)seconds;
    if (gmtime_r(&when, &tm) == NULL)
        return snprintf(out, CLI_TIME_MAX, "-"), out;
    size_t size = strftime(out, CLI_TIME_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + size, CLI_TIME_MAX - size, ".%03dZ", (int)(rest / 1000));
    return out;
}

const char *cli_grouped(uint64_t number, char out[CLI_NUMBER_MAX])
{
    char digits[24];
    int size = snprintf(digits, sizeof digits, "%llu", (unsigned long long)number), to = 0;
    for (int i = 0; i < size; i++) {
        if (i > 0 && (size - i) % 3 == 0)
            out[to++] = ',';
        out[to++] = digits[i];
    }
    out[to] = '\0';
    return out;
}

const char *cli_span_text(double seconds, char out[CLI_NUMBER_MAX])
{
    if (!isfinite(seconds) || seconds > 1e9)
        snprintf(out, CLI_NUMBER_MAX, "-");
    else if (seconds < 10)
        snprintf(out, CLI_NUMBER_MAX, "%.1fs", seconds);
    else if (seconds < 120)
        snprintf(out, CLI_NUMBER_MAX, "%.0fs", seconds);
    else if (seconds < 7200)
        snprintf(out, CLI_NUMBER_MAX, "%dm%02ds", (int)(seconds / 60), (int)seconds % 60);
    else if (seconds < 172800)
        snprintf(out, CLI_NUMBER_MAX, "%dh%02dm", (int)(seconds / 3600), (int)seconds / 60 % 60);
    else
        snprintf(out, CLI_NUMBER_MAX, "%dd", (int)(seconds / 86400));
    return out;
}

const char *cli_position_text(const char *position)
{
    if (position[0] == '\0')
        return "0";
    if (position[strspn(position, "0123456789")] != '\0')
        return position; /* not a number: some other database's */
    while (position[0] == '0' && position[1] != '\0')
        position++;
    return position;
}

const char *cli_id_text(ledger_id id, char out[CLI_NUMBER_MAX])
{
    if (id.text != NULL)
        return id.text;
    snprintf(out, CLI_NUMBER_MAX, "%lld", (long long)id.number);
    return out;
}
