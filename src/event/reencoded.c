/* What Go's encoder makes of a payload: outer and inner white space goes, and <, >, &, U+2028 and
 * U+2029 become escapes. Nothing else changes: numbers, escapes and the order of keys stay as they
 * are written. Pure, one pass, no copy. */
#include <string.h>

#include "event/event.h"

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Consumes `size` bytes of text if they come next. */
static bool takes(ledger_bytes *text, const char *bytes, size_t size)
{
    if (text->size < size || memcmp(text->data, bytes, size) != 0)
        return false;
    *text = (ledger_bytes){ (const char *)text->data + size, text->size - size };
    return true;
}

/* How Go escapes the character at p, and how many bytes it takes there; NULL: as it is. */
static const char *escape_of(const char *p, size_t left, size_t *ret_size)
{
    *ret_size = 1;
    switch (*p) {
    case '<':
        return "\\u003c";
    case '>':
        return "\\u003e";
    case '&':
        return "\\u0026";
    case '\xE2':
        if (left < 3 || p[1] != '\x80' || (p[2] != '\xA8' && p[2] != '\xA9'))
            return NULL;
        *ret_size = 3;
        return p[2] == '\xA8' ? "\\u2028" : "\\u2029";
    default:
        return NULL;
    }
}

static bool is_encoded(ledger_bytes payload, ledger_bytes text)
{
    const char *p = payload.data, *end = p + payload.size;
    bool in_string = false, same = true;
    while (same && p < end) {
        size_t size = 1;
        const char *escape = escape_of(p, (size_t)(end - p), &size);
        if (escape != NULL) {
            same = takes(&text, escape, strlen(escape));
        } else if (in_string && *p == '\\' && end - p > 1) {
            size = 2; /* what follows does not end the string */
            same = takes(&text, p, size);
        } else if (in_string || !is_space(*p)) {
            in_string = in_string != (*p == '"');
            same = takes(&text, p, size);
        }
        p += size;
    }
    return same && text.size == 0;
}

bool ldg_json_is_reencoded(ledger_bytes payload, ledger_bytes text)
{
    const char *start = payload.data, *end = start + payload.size;
    if (ldg_json_check(payload, NULL) != LEDGER_OK)
        return false;
    while (start < end && is_space(*start))
        start++;
    while (end > start && is_space(end[-1]))
        end--;
    /* What ours wrote into a log comes out of Go's hands without its outer white space alone. */
    return (text.size == (size_t)(end - start) && memcmp(text.data, start, text.size) == 0) ||
           is_encoded(payload, text);
}
