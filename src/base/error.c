/* Result codes to words, and the filling of a ledger_error. Nothing allocates, and a message is
 * always one line of text without a secret that this file could know. */
#include "base/error.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct code_info {
    const char *name, *text;
    uint32_t flags;
    int exit_code;
};

static const struct code_info code_infos[] = {
#define X(code, number, default_flags, exit_number, words)                                         \
    [number] = { "LEDGER_ERR_" #code, words, default_flags, exit_number },
    LEDGER_ERROR_LIST(X)
#undef X
};

/* An unlisted number counts as INTERNAL. */
static const struct code_info *code_info(ledger_rc code)
{
    size_t number = (size_t)code;
    if (number >= sizeof code_infos / sizeof code_infos[0] ||
        code_infos[number].name == NULL) /* uncovered: no code was ever taken back */
        number = LEDGER_ERR_INTERNAL;
    return &code_infos[number];
}

const char *ledger_rc_name(ledger_rc code)
{
    return code_info(code)->name;
}

const char *ledger_rc_text(ledger_rc code)
{
    return code_info(code)->text;
}

uint32_t ledger_rc_flags(ledger_rc code)
{
    return code_info(code)->flags;
}

int ledger_rc_exit_code(ledger_rc code)
{
    return code_info(code)->exit_code;
}

/* Drops a character that the end of the message cut in two. size > 3. */
static void trim_cut_character(char *message, size_t size)
{
    size_t back = 0;
    while (back < 3 && ((unsigned char)message[size - 1 - back] & 0xc0) == 0x80)
        back++;
    unsigned char lead = (unsigned char)message[size - 1 - back];
    size_t need = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
    if (back < need)
        message[size - 1 - back] = '\0';
}

static ledger_rc fill(ledger_error *err, ledger_rc code, const char *backend, int native_code,
                      const char *fmt, va_list args) LEDGER_PRINTF(5, 0);
static ledger_rc fill(ledger_error *err, ledger_rc code, const char *backend, int native_code,
                      const char *fmt, va_list args)
{
    if (err == NULL)
        return code;
    char message[LEDGER_ERROR_MESSAGE_MAX]; /* the arguments may point into err itself */
    char name[sizeof err->backend];
    int size = vsnprintf(message, sizeof message, fmt, args);
    if (size < 0)
        snprintf(message, sizeof message, "%s", ledger_rc_text(code));
    else if ((size_t)size >= sizeof message)
        trim_cut_character(message, sizeof message - 1);
    for (char *p = message; *p != '\0'; p++) {
        if (iscntrl((unsigned char)*p))
            *p = ' '; /* names and server texts may hold line ends and terminal codes */
    }
    snprintf(name, sizeof name, "%s", backend);
    memset(err, 0, sizeof *err);
    err->code = code;
    err->flags = ledger_rc_flags(code);
    err->native_code = native_code;
    memcpy(err->backend, name, sizeof name);
    memcpy(err->message, message, sizeof message);
    return code;
}

ledger_rc ldg_fail(ledger_error *err, ledger_rc code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(err, code, "", 0, fmt, args);
    va_end(args);
    return code;
}

ledger_rc ldg_fail_native(ledger_error *err, ledger_rc code, const char *backend, int native_code,
                          const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(err, code, backend != NULL ? backend : "", native_code, fmt, args);
    va_end(args);
    return code;
}

ledger_rc ldg_fail_nomem(ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_NOMEM, "out of memory");
}

/* --- masking ------------------------------------------------------------------------------- */

/* Output that stops, cleanly, where its room ends. */
struct sink {
    char *out;
    size_t size, max;
};

static void emit(struct sink *sink, const char *p, const char *end)
{
    for (; p < end && sink->size < sink->max; p++)
        sink->out[sink->size++] = *p;
}

static void emit_mask(struct sink *sink)
{
    static const char mask[] = "***";
    emit(sink, mask, mask + 3);
}

/* White space ends a URL inside of a text. A text that is a URL may hold some: libpq takes it as
 * part of a password. */
#define SPACE " \t\r\n"

static bool is_url(const char *text)
{
    size_t size = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");
    return size > 0 && strncmp(text + size, "://", 3) == 0;
}

/* Where scheme://user:password@host has its password. p is behind "://". A password with a raw '/'
 * or '?' in it is no valid URL and is still covered: then everything up to the last '@' is. */
static bool find_userinfo(const char *p, bool whole, const char **ret_start, const char **ret_end)
{
    const char *stop = p + strcspn(p, whole ? "/?#" : "/?#" SPACE);
    const char *text_end = p + strcspn(p, whole ? "" : SPACE);
    const char *colon = memchr(p, ':', (size_t)(text_end - p));
    const char *at = memrchr(p, '@', (size_t)(stop - p));
    if (*p == '[' || colon == NULL)
        return false; /* an IPv6 address, or nothing that could be a password */
    if (at == NULL) {
        const char *port_end = colon + 1 + strspn(colon + 1, "0123456789");
        if (colon > stop || port_end == stop)
            return false; /* host:port/path */
        at = memrchr(colon, '@', (size_t)(text_end - colon));
    }
    if (at == NULL || at < colon)
        return false;
    *ret_start = colon + 1;
    *ret_end = at;
    return true;
}

static bool is_key_char(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '-' || c == '%';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Does the key's name end in a word for secrets? Keys of a URL may be percent-encoded. */
static bool is_secret_key(const char *key, size_t size)
{
    static const char *const words[] = { "password", "passwd", "passphrase", "pwd",    "pass",
                                         "secret",   "token",  "apikey",     "api_key" };
    char plain[128];
    size_t count = 0, i = size < sizeof plain ? 0 : size - (sizeof plain - 1); /* the end counts */
    for (; i < size; i++) {
        char c = key[i];
        if (c == '%' && i + 2 < size && hex_value(key[i + 1]) >= 0 && hex_value(key[i + 2]) >= 0) {
            c = (char)(hex_value(key[i + 1]) * 16 + hex_value(key[i + 2]));
            i += 2;
        }
        plain[count++] = c;
    }
    plain[count] = '\0';
    for (size_t w = 0; w < sizeof words / sizeof words[0]; w++) {
        size_t word_size = strlen(words[w]);
        if (count >= word_size && strcasecmp(plain + count - word_size, words[w]) == 0)
            return true;
    }
    return false;
}

/* The end of a quoted value, behind its closing quote; \' and '' stay inside. */
static const char *quoted_end(const char *p)
{
    char quote = *p++;
    for (; *p != '\0'; p++) {
        if (*p == '\\' && p[1] != '\0')
            p++;
        else if (*p == quote && p[1] == quote)
            p++;
        else if (*p == quote)
            return p + 1;
    }
    return p;
}

/* The end of an unquoted value; what ends it depends on what stood before its key. No '#' does: to
 * libpq it is a character like any other. */
static const char *plain_end(const char *p, char before, bool whole)
{
    const char *stops = before == '?' || before == '&' ? (whole ? "&" : "&" SPACE)
                        : before == ';'                ? ";" SPACE
                                                       : SPACE;
    for (; *p != '\0' && strchr(stops, *p) == NULL; p++) {
        if (*p == '\\' && p[1] != '\0')
            p++; /* "a\ b" is one value in a connection string */
    }
    return p;
}

/* If a key=value with a secret starts at p: copies the key and the mask. Returns what follows. */
static const char *mask_pair(const char *p, char before, bool whole, struct sink *sink)
{
    const char *key_end = p;
    while (is_key_char(*key_end))
        key_end++;
    const char *value = key_end + strspn(key_end, " \t");
    if (*value != '=' || !is_secret_key(p, (size_t)(key_end - p))) {
        emit(sink, p, key_end);
        return key_end;
    }
    value++;
    const char *start = value + strspn(value, " \t");
    bool quoted = *start == '\'' || *start == '"';
    const char *end = quoted ? quoted_end(start) : plain_end(start, before, whole);
    emit(sink, p, start);
    if (end > start)
        emit_mask(sink);
    return end;
}

void ldg_mask_url(const char *url, char *out, size_t out_size)
{
    if (out_size == 0)
        return;
    struct sink sink = { out, 0, out_size - 1 };
    const bool whole = is_url(url);
    const char *p = url;
    char before = '\0';
    while (*p != '\0') {
        const char *start, *end;
        if (is_key_char(*p)) {
            const char *next = mask_pair(p, before, whole, &sink);
            before = next[-1];
            p = next;
        } else if (strncmp(p, "://", 3) == 0 && find_userinfo(p + 3, whole, &start, &end)) {
            emit(&sink, p, start);
            emit_mask(&sink);
            before = '*';
            p = end;
        } else {
            before = *p;
            emit(&sink, p, p + 1);
            p++;
        }
    }
    out[sink.size] = '\0';
}
