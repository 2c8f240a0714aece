/* What Go's encoder makes of a payload: outer and inner white space goes, and <, >, &, U+2028 and
 * U+2029 become escapes. Nothing else changes: numbers, escapes and the order of keys stay as they
 * are written. Pure, one pass, no copy. */
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "event/event.h"

/* Gives a JSON text's bytes as Go's encoder would write them. */
struct go_form {
    const unsigned char *p, *end;
    bool in_string, escaped; /* escaped: the byte at p follows a backslash */
    char pending[8];         /* the rest of an escape that stands for one character */
    size_t pending_at, pending_size;
};

/* Bytes of the text that become an escape; 0: none. */
static size_t go_escape(const unsigned char *p, const unsigned char *end, char escape[8])
{
    size_t size = 0;
    unsigned code = *p;

    if (*p == '<' || *p == '>' || *p == '&') {
        size = 1;
    } else if (end - p >= 3 && p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9)) {
        size = 3;
        code = 0x2000 + (p[2] & 0x3fu);
    }
    if (size > 0)
        snprintf(escape, 8, "\\u%04x", code & 0xffffu);
    return size;
}

static struct go_form go_begin(ledger_bytes json)
{
    const unsigned char *p = json.data;

    return (struct go_form){ .p = p, .end = json.size > 0 ? p + json.size : p };
}

/* The next byte; -1: the end. */
static int go_next(struct go_form *form)
{
    size_t size;
    int byte;

    if (form->pending_at < form->pending_size)
        return (unsigned char)form->pending[form->pending_at++];
    while (!form->in_string && form->p < form->end && strchr(" \t\r\n", *form->p) && *form->p)
        form->p++;
    if (form->p == form->end)
        return -1;
    size = go_escape(form->p, form->end, form->pending);
    if (size > 0) {
        form->p += size;
        form->pending_size = strlen(form->pending);
        form->pending_at = 1;
        form->escaped = false;
        return (unsigned char)form->pending[0];
    }
    byte = *form->p++;
    if (byte == '"' && !form->escaped)
        form->in_string = !form->in_string;
    form->escaped = form->in_string && byte == '\\' && !form->escaped;
    return byte;
}

bool ldg_json_equal_in_go(ledger_bytes a, ledger_bytes b)
{
    struct go_form x = go_begin(a), y = go_begin(b);
    int of_a, of_b;

    do {
        of_a = go_next(&x);
        of_b = go_next(&y);
    } while (of_a == of_b && of_a >= 0);
    return of_a == of_b;
}

uint64_t ldg_json_hash_in_go(ledger_bytes json, uint64_t seed)
{
    struct go_form form = go_begin(json);
    unsigned char bytes[256];
    size_t count = 0;
    int byte;

    while ((byte = go_next(&form)) >= 0) {
        if (count == sizeof(bytes)) {
            seed = ldg_hash64(bytes, count, seed);
            count = 0;
        }
        bytes[count++] = (unsigned char)byte;
    }
    return ldg_hash64(bytes, count, seed);
}

static bool is_encoded(ledger_bytes payload, ledger_bytes text)
{
    struct go_form form = go_begin(payload);
    const unsigned char *p = text.data, *end = text.size > 0 ? p + text.size : p;
    int byte;

    while ((byte = go_next(&form)) >= 0 && p < end && *p == byte)
        p++;
    return byte < 0 && p == end;
}

bool ldg_json_is_reencoded(ledger_bytes payload, ledger_bytes text)
{
    const char *start = payload.data, *end = start + payload.size;

    if (ldg_json_check(payload, NULL) != LEDGER_OK)
        return false;
    while (start < end && strchr(" \t\r\n", *start))
        start++;
    while (end > start && strchr(" \t\r\n", end[-1]))
        end--;
    /* What ours wrote into a log comes out of Go's hands without its outer white space alone. */
    return (text.size == (size_t)(end - start) && memcmp(text.data, start, text.size) == 0) ||
           is_encoded(payload, text);
}
