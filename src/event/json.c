/* Strict RFC 8259 scanning and the canonical writing of strings, maps and lists.
 *
 * Iterative: open brackets are one bit each in a fixed array, so hostile nesting costs neither
 * stack nor heap. Strings are looked at eight bytes at a time; only a quote, a backslash, a control
 * byte or a byte of a multi-byte character makes it slow down. UTF-8 is checked on the way, so
 * whatever the scanner has passed is valid text. */
#include "event/json.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

/* Some more than a payload may have: an event wraps it in an object, an array and an object. */
#define MAX_BRACKETS (LEDGER_MAX_JSON_DEPTH + 24)

/* --- bytes --------------------------------------------------------------------------------- */

#define ONES UINT64_C(0x0101010101010101)
#define HIGHS UINT64_C(0x8080808080808080)

/* Moves over bytes that stand for themselves in a JSON string: ASCII but '"', '\\' and controls. */
static const char *skip_plain(const char *p, const char *end)
{
    while (end - p >= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        uint64_t quote = word ^ (ONES * '"'), slash = word ^ (ONES * '\\');
        /* A byte's high bit is set where it is special. A borrow can only set bits above a byte
         * that is special itself, so the lowest bit found is a true one. */
        uint64_t special = ((word - ONES * 0x20) | (quote - ONES) | (slash - ONES) | word) & HIGHS;
        if (special != 0) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            return p + __builtin_ctzll(special) / 8;
#else
            break;
#endif
        }
        p += 8;
    }
    while (p < end && (unsigned char)*p >= 0x20 && (unsigned char)*p < 0x80 && *p != '"' &&
           *p != '\\')
        p++;
    return p;
}

/* Length of the multi-byte character at p (its first byte is 0x80 or more); 0: not valid UTF-8. */
static size_t utf8_size(const char *text, const char *text_end)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t left = (size_t)(text_end - text);
    unsigned char lead = p[0];
    if (lead < 0xc2 || lead > 0xf4)
        return 0; /* a continuation, an overlong form of ASCII, or above U+10FFFF */
    size_t size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (left < size)
        return 0;
    /* The second byte's range excludes overlong forms, surrogates and what is above U+10FFFF. */
    unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < size; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    return size;
}

bool ldg_utf8_valid(const char *s, size_t size)
{
    const char *p = s, *end = s + size;
    while (p < end) {
        uint64_t word;
        if (end - p >= 8 && (memcpy(&word, p, 8), (word & HIGHS) == 0)) {
            p += 8;
        } else if ((unsigned char)*p < 0x80) {
            p++;
        } else {
            size_t step = utf8_size(p, end);
            if (step == 0)
                return false;
            p += step;
        }
    }
    return true;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* --- scanner ------------------------------------------------------------------------------- */

void ldg_json_init(struct ldg_json *json, ledger_bytes bytes)
{
    const char *text = bytes.size > 0 ? bytes.data : "";
    *json = (struct ldg_json){ .start = text, .p = text, .end = text + bytes.size };
}

bool ldg_json_fault(struct ldg_json *json, const char *fault, const char *at)
{
    if (json->fault == NULL) {
        json->fault = fault;
        json->at = at;
    }
    return false;
}

static bool out_of_memory(struct ldg_json *json)
{
    json->nomem = true;
    return ldg_json_fault(json, "out of memory", json->p);
}

/* Texts from elsewhere fail where their encoding shows: at a byte order mark, or at the zero bytes
 * of UTF-16 and UTF-32. NULL: it is another fault. */
static const char *encoding_fault(const struct ldg_json *json)
{
    const char *at = json->at;
    size_t left = at != NULL ? (size_t)(json->end - at) : 0;
    if (left >= 3 && memcmp(at, "\xef\xbb\xbf", 3) == 0)
        return "a byte order mark (U+FEFF), which JSON does not have: leave it out;";
    if ((left >= 2 && (memcmp(at, "\xff\xfe", 2) == 0 || memcmp(at, "\xfe\xff", 2) == 0)) ||
        (left > 0 && at[0] == '\0' && (left < 3 || at[2] == '\0')))
        return "this is UTF-16 or UTF-32: convert it to UTF-8, for example with iconv;";
    return NULL;
}

ledger_rc ldg_json_fail(const struct ldg_json *json, const char *what, ledger_error *err)
{
    if (json->nomem)
        return ldg_fail_nomem(err);
    const char *fault = encoding_fault(json);
    return ldg_fail(err, LEDGER_ERR_DATA, "%s: %s at byte %zu", what,
                    fault != NULL ? fault : json->fault, (size_t)(json->at - json->start));
}

void ldg_json_skip_space(struct ldg_json *json)
{
    while (json->p < json->end && is_space(*json->p))
        json->p++;
}

char ldg_json_peek(struct ldg_json *json)
{
    ldg_json_skip_space(json);
    return json->p < json->end ? *json->p : '\0';
}

bool ldg_json_expect(struct ldg_json *json, char c, const char *fault)
{
    if (ldg_json_peek(json) != c)
        return ldg_json_fault(json, json->p < json->end ? fault : "text ends too early", json->p);
    json->p++;
    return true;
}

bool ldg_json_finish(struct ldg_json *json)
{
    ldg_json_skip_space(json);
    if (json->p < json->end)
        return ldg_json_fault(json, "more text after the value", json->p);
    return true;
}

/* Four hex digits; -1: not that. */
static int read_hex4(const char *p, const char *end)
{
    int value = 0;
    if (end - p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = p[i], lower = (char)(c | 0x20);
        int digit = is_digit(c) ? c - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Consumes the escape at p (a backslash). Half a pair and NUL are good JSON; they are noted. */
static bool scan_escape(struct ldg_json *json, struct ldg_json_str *str)
{
    const char *start = json->p, *end = json->end;
    char c = end - start >= 2 ? start[1] : '\0';
    if (c != 'u') {
        if (c == '\0' || strchr("\"\\/bfnrt", c) == NULL)
            return ldg_json_fault(json, "bad escape in a string", start);
        json->p += 2;
        return true;
    }
    int unit = read_hex4(start + 2, end);
    if (unit < 0)
        return ldg_json_fault(json, "bad \\u escape in a string", start);
    json->p += 6;
    bool illegal = unit == 0 || (unit >= 0xd800 && unit <= 0xdfff);
    if (unit >= 0xd800 && unit <= 0xdbff && end - json->p >= 2 && json->p[0] == '\\' &&
        json->p[1] == 'u') {
        int low = read_hex4(json->p + 2, end);
        if (low >= 0xdc00 && low <= 0xdfff) {
            json->p += 6;
            illegal = false;
        }
    }
    if (illegal && str->illegal == NULL)
        str->illegal = start;
    return true;
}

bool ldg_json_scan_string(struct ldg_json *json, struct ldg_json_str *ret_str)
{
    struct ldg_json_str str = { 0 };
    if (!ldg_json_expect(json, '"', "a string is expected"))
        return false;
    str.raw = json->p;
    for (;;) {
        json->p = skip_plain(json->p, json->end);
        if (json->p == json->end)
            return ldg_json_fault(json, "text ends inside a string", json->p);
        unsigned char c = (unsigned char)*json->p;
        if (c == '"')
            break;
        if (c == '\\') {
            str.escaped = true;
            if (!scan_escape(json, &str))
                return false;
        } else if (c < 0x20) {
            return ldg_json_fault(json, "control character in a string", json->p);
        } else {
            size_t size = utf8_size(json->p, json->end);
            if (size == 0)
                return ldg_json_fault(json, "invalid UTF-8", json->p);
            json->p += size;
        }
    }
    str.size = (size_t)(json->p - str.raw);
    json->p++;
    *ret_str = str;
    return true;
}

static bool skip_digits(struct ldg_json *json)
{
    const char *start = json->p;
    while (json->p < json->end && is_digit(*json->p))
        json->p++;
    if (json->p == start)
        return ldg_json_fault(json, "a digit is expected", json->p);
    return true;
}

static bool skip_number(struct ldg_json *json)
{
    if (*json->p == '-')
        json->p++;
    if (json->p < json->end && *json->p == '0')
        json->p++; /* a digit behind it is then no token */
    else if (!skip_digits(json))
        return false;
    if (json->p < json->end && *json->p == '.') {
        json->p++;
        if (!skip_digits(json))
            return false;
    }
    if (json->p < json->end && (*json->p | 0x20) == 'e') {
        json->p++;
        if (json->p < json->end && (*json->p == '+' || *json->p == '-'))
            json->p++;
        if (!skip_digits(json))
            return false;
    }
    return true;
}

static bool skip_word(struct ldg_json *json, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(json->end - json->p) < size || memcmp(json->p, word, size) != 0)
        return ldg_json_fault(json, "a value is expected", json->p);
    json->p += size;
    return true;
}

/* Consumes a string, number or word. */
static bool skip_scalar(struct ldg_json *json)
{
    struct ldg_json_str str;
    switch (ldg_json_peek(json)) {
    case '"':
        return ldg_json_scan_string(json, &str);
    case 't':
        return skip_word(json, "true");
    case 'f':
        return skip_word(json, "false");
    case 'n':
        return skip_word(json, "null");
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9':
        return skip_number(json);
    default:
        return ldg_json_fault(
            json, json->p < json->end ? "a value is expected" : "text ends too early", json->p);
    }
}

static bool skip_key(struct ldg_json *json)
{
    struct ldg_json_str key;
    return ldg_json_scan_string(json, &key) && ldg_json_expect(json, ':', "a colon is expected");
}

/* The open brackets, one bit each: set for an object. */
struct brackets {
    uint64_t bits[MAX_BRACKETS / 64 + 1];
    size_t count, max;
};

static bool open_bracket(struct ldg_json *json, struct brackets *open, bool object)
{
    if (open->count == open->max)
        return ldg_json_fault(json, "nested deeper than 1,000 levels", json->p);
    uint64_t bit = UINT64_C(1) << (open->count % 64);
    if (object)
        open->bits[open->count / 64] |= bit;
    else
        open->bits[open->count / 64] &= ~bit;
    open->count++;
    json->p++;
    return true;
}

static bool in_object(const struct brackets *open)
{
    size_t top = open->count - 1;
    return (open->bits[top / 64] >> (top % 64) & 1) != 0;
}

/* Behind a value: closes brackets up to the next comma, if any, and the key behind it. */
static bool skip_to_next(struct ldg_json *json, struct brackets *open)
{
    while (open->count > 0) {
        bool object = in_object(open);
        if (ldg_json_peek(json) == ',') {
            json->p++;
            return !object || skip_key(json);
        }
        if (!ldg_json_expect(json, object ? '}' : ']',
                             object ? "a comma or } is expected" : "a comma or ] is expected"))
            return false;
        open->count--;
    }
    return true;
}

bool ldg_json_skip_value(struct ldg_json *json, size_t max_depth, ledger_bytes *ret_raw)
{
    struct brackets open;
    open.count = 0;
    open.max = max_depth < MAX_BRACKETS ? max_depth : MAX_BRACKETS;
    ldg_json_skip_space(json);
    const char *start = json->p;
    /* Each round takes one scalar, one opening bracket or one empty pair of them. */
    do {
        char c = ldg_json_peek(json);
        if (c == '{' || c == '[') {
            if (!open_bracket(json, &open, c == '{'))
                return false;
            if (ldg_json_peek(json) == (c == '{' ? '}' : ']')) {
                json->p++;
                open.count--;
            } else if (c == '[' || skip_key(json)) {
                continue;
            } else {
                return false;
            }
        } else if (!skip_scalar(json)) {
            return false;
        }
        if (!skip_to_next(json, &open))
            return false;
    } while (open.count > 0);
    if (ret_raw != NULL)
        *ret_raw = (ledger_bytes){ start, (size_t)(json->p - start) };
    return true;
}

/* --- reading into an arena ----------------------------------------------------------------- */

static size_t put_utf8(char *out, unsigned code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

size_t ldg_json_unescape(const struct ldg_json_str *str, char *out)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const char *p = str->raw, *end = str->raw + str->size;
    char *start = out;
    while (p < end) {
        const char *slash = memchr(p, '\\', (size_t)(end - p));
        size_t run = (size_t)((slash != NULL ? slash : end) - p);
        memcpy(out, p, run);
        out += run;
        p += run;
        if (p == end)
            break;
        if (p[1] != 'u') {
            const char *known = strchr(from, p[1]);
            *out++ = known != NULL ? to[known - from] : p[1];
            p += 2;
            continue;
        }
        unsigned code = (unsigned)read_hex4(p + 2, end);
        p += 6;
        if (code >= 0xd800 && code <= 0xdbff) {
            unsigned low = (unsigned)read_hex4(p + 2, end);
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            p += 6;
        }
        out += put_utf8(out, code);
    }
    return (size_t)(out - start);
}

/* A scanned string into the arena. */
static bool keep_string(struct ldg_json *json, const struct ldg_json_str *str,
                        struct ldg_arena *arena, const char **ret_text)
{
    if (str->illegal != NULL)
        return ldg_json_fault(
            json, str->illegal[2] == '0' ? "NUL in a string" : "half a surrogate pair in a string",
            str->illegal);
    if (str->size == 0) {
        *ret_text = "";
        return true;
    }
    char *text = ldg_arena_strndup(arena, str->raw, str->size);
    if (text == NULL)
        return out_of_memory(json);
    if (str->escaped)
        text[ldg_json_unescape(str, text)] = '\0'; /* never longer than its escaped form */
    *ret_text = text;
    return true;
}

bool ldg_json_read_string(struct ldg_json *json, struct ldg_arena *arena, const char **ret_text)
{
    struct ldg_json_str str;
    return ldg_json_scan_string(json, &str) && keep_string(json, &str, arena, ret_text);
}

bool ldg_json_read_null(struct ldg_json *json)
{
    return ldg_json_peek(json) == 'n' && skip_word(json, "null");
}

bool ldg_json_next_item(struct ldg_json *json, bool *first)
{
    if (ldg_json_peek(json) == ']') {
        json->p++;
        return false;
    }
    if (!*first)
        return ldg_json_expect(json, ',', "a comma or ] is expected");
    *first = false;
    return true;
}

bool ldg_json_next_key(struct ldg_json *json, bool *first, struct ldg_json_str *ret_key)
{
    if (ldg_json_peek(json) == '}') {
        json->p++;
        return false;
    }
    if (!*first && !ldg_json_expect(json, ',', "a comma or } is expected"))
        return false;
    *first = false;
    return ldg_json_scan_string(json, ret_key) && ldg_json_expect(json, ':', "a colon is expected");
}

bool ldg_json_grow(struct ldg_arena *arena, void **items, size_t count, size_t *cap,
                   size_t item_size)
{
    if (count < *cap)
        return true;
    size_t next = *cap > 0 ? *cap * 4 : 1; /* one item is by far the most frequent count */
    if (next > SIZE_MAX / item_size)       /* uncovered: needs more memory than there is */
        return false;                      /* uncovered: as above */
    void *grown = ldg_arena_alloc(arena, next * item_size);
    if (grown == NULL)
        return false;
    if (count > 0)
        memcpy(grown, *items, count * item_size);
    *items = grown;
    *cap = next;
    return true;
}

bool ldg_json_read_map(struct ldg_json *json, bool allow_null, struct ldg_arena *arena,
                       ledger_map *ret_map)
{
    ledger_map map = { 0 };
    void *items = NULL;
    size_t cap = 0;
    bool first = true;
    struct ldg_json_str key;
    if (ldg_json_read_null(json)) {
        *ret_map = map;
        return true;
    }
    if (!ldg_json_expect(json, '{', "an object of strings is expected"))
        return false;
    while (ldg_json_next_key(json, &first, &key)) {
        ledger_pair pair = { 0 };
        if (!keep_string(json, &key, arena, &pair.key))
            return false;
        if (ldg_json_peek(json) != '"') {
            if (!allow_null || !ldg_json_read_null(json))
                return ldg_json_fault(json, "a string is expected", json->p);
        } else if (!ldg_json_read_string(json, arena, &pair.value)) {
            return false;
        }
        if (!ldg_json_grow(arena, &items, map.count, &cap, sizeof pair))
            return out_of_memory(json);
        ((ledger_pair *)items)[map.count++] = pair;
    }
    if (json->fault != NULL)
        return false;
    map.items = items;
    if (ldg_map_sort(map, arena, ret_map, NULL) != LEDGER_OK)
        return out_of_memory(json);
    return true;
}

bool ldg_json_read_list(struct ldg_json *json, struct ldg_arena *arena, ledger_list *ret_list)
{
    ledger_list list = { 0 };
    void *items = NULL;
    size_t cap = 0;
    bool first = true;
    if (ldg_json_read_null(json)) {
        *ret_list = list;
        return true;
    }
    if (!ldg_json_expect(json, '[', "an array of strings is expected"))
        return false;
    while (ldg_json_next_item(json, &first)) {
        const char *text;
        if (!ldg_json_read_string(json, arena, &text))
            return false;
        if (!ldg_json_grow(arena, &items, list.count, &cap, sizeof text))
            return out_of_memory(json);
        ((const char **)items)[list.count++] = text;
    }
    if (json->fault != NULL)
        return false;
    list.items = items;
    *ret_list = list;
    return true;
}

ledger_rc ldg_json_check(ledger_bytes bytes, ledger_error *err)
{
    struct ldg_json json;
    ldg_json_init(&json, bytes);
    if (!ldg_json_skip_value(&json, LEDGER_MAX_JSON_DEPTH, NULL) || !ldg_json_finish(&json))
        return ldg_json_fail(&json, "invalid JSON", err);
    return LEDGER_OK;
}

ledger_rc ldg_json_get_map(ledger_bytes bytes, bool allow_null, struct ldg_arena *arena,
                           ledger_map *ret_map, ledger_error *err)
{
    struct ldg_json json;
    ledger_map map;
    ldg_json_init(&json, bytes);
    if (!ldg_json_read_map(&json, allow_null, arena, &map) || !ldg_json_finish(&json))
        return ldg_json_fail(&json, "invalid JSON map", err);
    *ret_map = map;
    return LEDGER_OK;
}

ledger_rc ldg_json_get_list(ledger_bytes bytes, struct ldg_arena *arena, ledger_list *ret_list,
                            ledger_error *err)
{
    struct ldg_json json;
    ledger_list list;
    ldg_json_init(&json, bytes);
    if (!ldg_json_read_list(&json, arena, &list) || !ldg_json_finish(&json))
        return ldg_json_fail(&json, "invalid JSON list", err);
    *ret_list = list;
    return LEDGER_OK;
}

/* --- writing ------------------------------------------------------------------------------- */

/* Moves over bytes that are written as they are: all but '"', '\\' and controls. */
static const char *skip_unescaped(const char *p, const char *end)
{
    for (;;) {
        p = skip_plain(p, end);
        if (p == end || (unsigned char)*p < 0x80)
            return p;
        p++;
    }
}

ledger_rc ldg_json_put_string(struct ldg_buf *out, const char *s)
{
    return ldg_json_put_text(out, s, s != NULL ? strlen(s) : 0);
}

ledger_rc ldg_json_put_text(struct ldg_buf *out, const char *s, size_t size)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    static const char hex[] = "0123456789abcdef";
    const char *p = size > 0 ? s : "", *end = p + size;
    ldg_buf_putc(out, '"');
    for (;;) {
        const char *run = p;
        p = skip_unescaped(p, end);
        ldg_buf_append(out, run, (size_t)(p - run));
        if (p == end)
            break;
        const char *known = *p != '\0' ? strchr(from, *p) : NULL;
        if (known != NULL) {
            char escape[2] = { '\\', to[known - from] };
            ldg_buf_append(out, escape, sizeof escape);
        } else {
            char escape[6] = { '\\', 'u', '0', '0', hex[*p >> 4 & 0xf], hex[*p & 0xf] };
            ldg_buf_append(out, escape, sizeof escape);
        }
        p++;
    }
    return ldg_buf_putc(out, '"');
}

ledger_rc ldg_json_put_map(struct ldg_buf *out, ledger_map map)
{
    struct ldg_arena arena;
    ledger_map sorted;
    ldg_arena_init(&arena, 0);
    if (ldg_map_sort(map, &arena, &sorted, NULL) != LEDGER_OK) {
        if (out->rc == LEDGER_OK)
            out->rc = LEDGER_ERR_NOMEM;
        goto out;
    }
    ldg_buf_putc(out, '{');
    for (size_t i = 0; i < sorted.count; i++) {
        if (i > 0)
            ldg_buf_putc(out, ',');
        ldg_json_put_string(out, sorted.items[i].key);
        ldg_buf_putc(out, ':');
        if (sorted.items[i].value != NULL)
            ldg_json_put_string(out, sorted.items[i].value);
        else
            ldg_buf_append(out, "null", 4);
    }
    ldg_buf_putc(out, '}');
out:
    ldg_arena_fini(&arena);
    return out->rc;
}

ledger_rc ldg_json_put_list(struct ldg_buf *out, ledger_list list)
{
    ldg_buf_putc(out, '[');
    for (size_t i = 0; i < list.count; i++) {
        if (i > 0)
            ldg_buf_putc(out, ',');
        ldg_json_put_string(out, list.items[i]);
    }
    return ldg_buf_putc(out, ']');
}
