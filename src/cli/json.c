/* Writing JSON lines, and texts for people. Hides commas and escapes: whatever bytes a database
 * holds, one object stays one line of valid UTF-8. */
#include <math.h>
#include <string.h>

#include "cli/cli.h"

static bool first = true; /* no comma before the next member; one object at a time */

static void comma(FILE *to)
{
    if (!first)
        putc(',', to);
    first = false;
}

void json_key(FILE *to, const char *key)
{
    comma(to);
    fprintf(to, "\"%s\":", key);
}

/* Length of the valid UTF-8 sequence at s, 0: there is none. */
static size_t utf8_length(const unsigned char *s, size_t size)
{
    static const unsigned lowest[] = { 0, 0, 0x80, 0x800, 0x10000 };
    size_t length = s[0] < 0x80   ? 1
                    : s[0] < 0xc2 ? 0
                    : s[0] < 0xe0 ? 2
                    : s[0] < 0xf0 ? 3
                    : s[0] < 0xf5 ? 4
                                  : 0;
    if (length == 0 || length > size)
        return 0;
    if (length == 1)
        return 1;
    unsigned point = s[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        point = point << 6 | (s[i] & 0x3f);
    }
    bool surrogate = point >= 0xd800 && point <= 0xdfff;
    return point < lowest[length] || surrogate || point > 0x10ffff ? 0 : length;
}

void json_string(FILE *to, const char *value, size_t size)
{
    const unsigned char *s = (const unsigned char *)value;
    putc('"', to);
    for (size_t i = 0; i < size;) {
        size_t length = utf8_length(s + i, size - i);
        if (length == 0) {
            fputs("\\ufffd", to);
            i++;
        } else if (s[i] == '"' || s[i] == '\\') {
            putc('\\', to);
            putc(s[i++], to);
        } else if (s[i] == '\n') {
            fputs("\\n", to);
            i++;
        } else if (s[i] < ' ' || s[i] == 127) {
            fprintf(to, "\\u%04x", s[i++]);
        } else {
            fwrite(s + i, 1, length, to);
            i += length;
        }
    }
    putc('"', to);
}

void json_begin(FILE *to)
{
    putc('{', to);
    first = true;
}

void json_end(FILE *to)
{
    fputs("}\n", to);
    first = true;
}

void json_object_begin(FILE *to, const char *key)
{
    json_key(to, key);
    putc('{', to);
    first = true;
}

void json_object_end(FILE *to)
{
    putc('}', to);
    first = false;
}

void json_array_begin(FILE *to, const char *key)
{
    json_key(to, key);
    putc('[', to);
    first = true;
}

void json_array_end(FILE *to)
{
    putc(']', to);
    first = false;
}

void json_item_begin(FILE *to)
{
    comma(to);
    putc('{', to);
    first = true;
}

void json_text(FILE *to, const char *key, const char *value)
{
    comma(to);
    json_string(to, key, strlen(key)); /* keys of metadata come here too */
    putc(':', to);
    if (value == NULL)
        fputs("null", to);
    else
        json_string(to, value, strlen(value));
}

void json_item(FILE *to, const char *value)
{
    comma(to);
    json_string(to, value, strlen(value));
}

void json_count(FILE *to, const char *key, uint64_t value)
{
    json_key(to, key);
    fprintf(to, "%llu", (unsigned long long)value);
}

void json_signed(FILE *to, const char *key, int64_t value)
{
    json_key(to, key);
    fprintf(to, "%lld", (long long)value);
}

void json_bool(FILE *to, const char *key, bool value)
{
    json_key(to, key);
    fputs(value ? "true" : "false", to);
}

void json_seconds(FILE *to, const char *key, double value)
{
    json_key(to, key);
    fprintf(to, "%.3f", isfinite(value) ? value : 0.0);
}

void json_time(FILE *to, const char *key, int64_t time_us)
{
    char text[CLI_TIME_MAX];
    json_text(to, key, time_us == LEDGER_NO_TIME ? NULL : cli_time_text(time_us, text));
}

void json_id(FILE *to, const char *key, ledger_id id)
{
    char text[CLI_NUMBER_MAX];
    json_text(to, key, cli_id_text(id, text));
}

void print_plain(FILE *to, const char *text, size_t size)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0; i < size;) {
        size_t length = utf8_length(s + i, size - i);
        bool high = length == 2 && s[i] == 0xc2 && s[i + 1] < 0xa0;
        bool control = s[i] < ' ' || s[i] == 127 || high;
        if (length == 0 || control) {
            fprintf(to, "\\u%04x", control && length == 2 ? s[i + 1] : s[i]);
            i += length == 2 ? 2 : 1;
        } else {
            fwrite(s + i, 1, length, to);
            i += length;
        }
    }
}
