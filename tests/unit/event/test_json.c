/* The scanner against the grammar's edges and against jansson, and the canonical text of strings,
 * maps and lists. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dirent.h>

#include <cmocka.h>
#include <jansson.h>

#include "alloc_fail.h"
#include "base/mem.h"
#include "event/event.h"
#include "event_util.h"

#define BYTES(literal) ((ledger_bytes){ literal, sizeof(literal) - 1 })
#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static ledger_bytes bytes_of(const char *text)
{
    return (ledger_bytes){ text, strlen(text) };
}

/* Checks a copy of exactly the right size, so that a read behind the end is seen. */
static ledger_rc check(ledger_bytes text, ledger_error *err)
{
    char *copy = malloc(text.size > 0 ? text.size : 1);
    assert_non_null(copy);
    if (text.size > 0)
        memcpy(copy, text.data, text.size);
    ledger_rc rc = ldg_json_check((ledger_bytes){ copy, text.size }, err);
    free(copy);
    return rc;
}

/* --- grammar ------------------------------------------------------------------------------- */

static const char *const good[] = {
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1",
    "-1",
    "10",
    "1.5",
    "-0.0",
    "1e5",
    "1E+5",
    "1e-05",
    "0e0",
    "0.0E-0",
    "123456789012345678901234567890.123456789",
    "1e999999",
    "\"\"",
    "\"a\"",
    "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
    "\"\\u0000\"",
    "\"\\uD800\"",
    "\"\\udc00\\ud800\"",
    "\"\\ud83d\\ude00\"",
    "\"\\uABcd\"",
    "\"\x7f\"",
    "\"\xc2\x80\xe2\x80\xa8\xf4\x8f\xbf\xbf\"",
    "[]",
    "{}",
    "[ ]",
    "{ }",
    "[1]",
    "[1,2]",
    "[[]]",
    "[{}]",
    "{\"\":0}",
    "{\"a\":1,\"a\":2}",
    " \t\r\n1 \t\r\n",
    "[1 , 2 ]",
    "{ \"a\" : [ ] , \"b\" : { } }",
    "[null,true,false,\"x\",-1.5e3]",
    "{\"\\u0061\":{\"b\":[{\"c\":[]}]}}",
    "\"0123456\"",
    "\"01234567\"",
    "\"012345678\"",
    "\"0123456789abcde\\n\"",
    "[0,0.1,\"]\",\"}\"]",
};

static const char *const bad[] = {
    "",
    " ",
    "nul",
    "nulll",
    "NULL",
    "True",
    "tru",
    "fals",
    "undefined",
    "NaN",
    "Infinity",
    "-",
    "+1",
    "01",
    "-01",
    "00",
    "1.",
    ".5",
    "-.5",
    "1.e5",
    "1e",
    "1e+",
    "1e5.5",
    "1 2",
    "0x10",
    "1_0",
    "--1",
    "\"",
    "\"a",
    "\"\\",
    "\"\\\"",
    "\"\\x41\"",
    "\"\\u\"",
    "\"\\u12\"",
    "\"\\u123\"",
    "\"\\u123g\"",
    "\"\\u 123\"",
    "\"\\U0041\"",
    "'a'",
    "\"a\nb\"",
    "\"\t\"",
    "\"\x01\"",
    "\"\x1f\"",
    "[",
    "]",
    "[1",
    "[1,",
    "[1,]",
    "[,1]",
    "[,]",
    "[1 2]",
    "[1,,2]",
    "[1}",
    "{",
    "}",
    "{\"a\"",
    "{\"a\":",
    "{\"a\":1",
    "{\"a\":1,",
    "{\"a\":1,}",
    "{,}",
    "{\"a\"}",
    "{\"a\",1}",
    "{a:1}",
    "{1:1}",
    "{\"a\" 1}",
    "{\"a\":1 \"b\":2}",
    "{\"a\":1]",
    "{\"a\":1,,\"b\":2}",
    "[1]]",
    "[]{}",
    "{\"a\"::1}",
    "// x\n1",
    "/**/1",
    "1//",
    "\xef\xbb\xbf"
    "1",
    "\f1",
    "\v1",
    "\xc2\xa0"
    "1",
    "\"\\ud800\\u12\"",
    "\"\\\n\"",
    "[\"a\":1]",
    "{\"a\":1,\"b\"}",
    "{null:1}",
    "{[]:1}",
};

static void takes_what_the_grammar_allows(void **state)
{
    for (size_t i = 0; i < LENGTH(good); i++) {
        ledger_error err = { 0 };
        if (check(bytes_of(good[i]), &err) != LEDGER_OK)
            fail_msg("refused: %s: %s", good[i], err.message);
    }
}

static void refuses_what_it_does_not(void **state)
{
    for (size_t i = 0; i < LENGTH(bad); i++) {
        ledger_error err = { 0 };
        if (check(bytes_of(bad[i]), &err) != LEDGER_ERR_DATA)
            fail_msg("accepted: %s", bad[i]);
        assert_non_null(strstr(err.message, " at byte "));
    }
}

static void refuses_raw_nul(void **state)
{
    assert_int_equal(check(BYTES("\0"), NULL), LEDGER_ERR_DATA);
    assert_int_equal(check(BYTES("1\0"), NULL), LEDGER_ERR_DATA);
    assert_int_equal(check(BYTES("\"a\0b\""), NULL), LEDGER_ERR_DATA);
    assert_int_equal(check(BYTES("\"a\\\0\""), NULL), LEDGER_ERR_DATA);
    assert_int_equal(check(BYTES("[1\0]"), NULL), LEDGER_ERR_DATA);
    assert_int_equal(check((ledger_bytes){ NULL, 0 }, NULL), LEDGER_ERR_DATA);
}

static void says_where(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "[1,x]", "invalid JSON: a value is expected at byte 3" },
        { "  {\"a\" 1}", "invalid JSON: a colon is expected at byte 7" },
        { "[1 2]", "invalid JSON: a comma or ] is expected at byte 3" },
        { "{\"a\":1 2}", "invalid JSON: a comma or } is expected at byte 7" },
        { "[1", "invalid JSON: text ends too early at byte 2" },
        { "", "invalid JSON: text ends too early at byte 0" },
        { "\"ab", "invalid JSON: text ends inside a string at byte 3" },
        { "\"a\\q\"", "invalid JSON: bad escape in a string at byte 2" },
        { "\"a\\u00g0\"", "invalid JSON: bad \\u escape in a string at byte 2" },
        { "\"12345678\n\"", "invalid JSON: control character in a string at byte 9" },
        { "\"\xff\"", "invalid JSON: invalid UTF-8 at byte 1" },
        { "1 1", "invalid JSON: more text after the value at byte 2" },
        { "{1", "invalid JSON: a string is expected at byte 1" },
        { "-x", "invalid JSON: a digit is expected at byte 1" },
    };
    for (size_t i = 0; i < LENGTH(cases); i++) {
        ledger_error err = { 0 };
        assert_int_equal(check(bytes_of(cases[i].text), &err), LEDGER_ERR_DATA);
        assert_string_equal(err.message, cases[i].message);
        assert_int_equal(err.flags, LEDGER_ERROR_FATAL);
    }
}

/* Each special byte at each place of the eight that are looked at together. */
static void special_bytes_are_seen_anywhere(void **state)
{
    for (size_t size = 1; size <= 40; size++) {
        for (size_t at = 0; at < size; at++) {
            for (unsigned byte = 0; byte < 256; byte++) {
                char text[42];
                memset(text, 'a', sizeof text);
                text[0] = '"';
                text[1 + at] = (char)byte;
                text[size + 1] = '"';
                bool plain = byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
                /* A backslash before an 'a' or the end, a quote before more text: no JSON. */
                if (byte == '"' && at == size - 1)
                    continue;
                assert_int_equal(ldg_json_check((ledger_bytes){ text, size + 2 }, NULL),
                                 plain ? LEDGER_OK : LEDGER_ERR_DATA);
            }
        }
    }
}

static char *nested(size_t depth, bool objects, size_t *ret_size)
{
    struct ldg_buf buf;
    ldg_buf_init(&buf, (size_t)1 << 20);
    for (size_t i = 0; i < depth; i++)
        ldg_buf_puts(&buf, objects ? "{\"a\":" : "[");
    ldg_buf_puts(&buf, objects ? "1" : "");
    for (size_t i = 0; i < depth; i++)
        ldg_buf_putc(&buf, objects ? '}' : ']');
    *ret_size = buf.size;
    return ldg_buf_take(&buf);
}

static void nesting_has_a_limit(void **state)
{
    static const size_t depths[] = { 1, 63, 64, 65, 999, 1000, 1001, 10000, 100000 };
    for (size_t i = 0; i < LENGTH(depths); i++) {
        for (int objects = 0; objects < 2; objects++) {
            size_t size;
            LDG_AUTO_FREE char *text = nested(depths[i], objects == 1, &size);
            ledger_error err = { 0 };
            const char *fault = objects == 1
                                    ? "invalid JSON: nested deeper than 1,000 levels at byte 5000"
                                    : "invalid JSON: nested deeper than 1,000 levels at byte 1000";
            ledger_rc rc = check((ledger_bytes){ text, size }, &err);
            assert_int_equal(rc, depths[i] <= LEDGER_MAX_JSON_DEPTH ? LEDGER_OK : LEDGER_ERR_DATA);
            if (rc != LEDGER_OK)
                assert_string_equal(err.message, fault);
            /* Brackets that never close. */
            assert_int_equal(check((ledger_bytes){ text, size / 2 }, NULL), LEDGER_ERR_DATA);
        }
    }
}

/* Wide is not deep, and objects and arrays are told apart at every level. */
static void brackets_must_match(void **state)
{
    uint64_t seed = 3;
    for (int round = 0; round < 300; round++) {
        char open[400], text[2000];
        size_t depth = 1 + random_below(&seed, 300), size = 0;
        for (size_t i = 0; i < depth; i++) {
            open[i] = "[{"[random_below(&seed, 2)];
            text[size++] = open[i];
            if (open[i] == '{') {
                memcpy(text + size, "\"\":", 3);
                size += 3;
            }
        }
        text[size++] = '1';
        size_t closing = size;
        for (size_t i = depth; i-- > 0;)
            text[size++] = open[i] == '{' ? '}' : ']';
        assert_int_equal(ldg_json_check((ledger_bytes){ text, size }, NULL), LEDGER_OK);
        size_t wrong = closing + random_below(&seed, depth);
        text[wrong] = text[wrong] == '}' ? ']' : '}';
        assert_int_equal(ldg_json_check((ledger_bytes){ text, size }, NULL), LEDGER_ERR_DATA);
    }
}

/* --- UTF-8 --------------------------------------------------------------------------------- */

/* The definition, written down plainly: decode, and look at the value. */
static bool plain_utf8(const unsigned char *p, size_t size)
{
    for (size_t i = 0; i < size;) {
        size_t count = p[i] < 0x80       ? 0
                       : p[i] >> 5 == 6  ? 1
                       : p[i] >> 4 == 14 ? 2
                       : p[i] >> 3 == 30 ? 3
                                         : 9;
        static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };
        if (count == 9 || size - i <= count)
            return false;
        uint32_t code = count == 0 ? p[i] : p[i] & (0x3fu >> count);
        for (size_t k = 1; k <= count; k++) {
            if (p[i + k] >> 6 != 2)
                return false;
            code = code << 6 | (p[i + k] & 0x3f);
        }
        if (code < least[count] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
            return false;
        i += count + 1;
    }
    return true;
}

static void utf8_is_as_defined(void **state)
{
    /* All of one, two and three bytes; four bytes at the edges. */
    for (uint32_t n = 0; n < 0x1000000; n += n < 0x10000 ? 1 : 7) {
        unsigned char b[3] = { (unsigned char)n, (unsigned char)(n >> 8),
                               (unsigned char)(n >> 16) };
        if (plain_utf8(b, 3) != ldg_utf8_valid((const char *)b, 3))
            fail_msg("%02x %02x %02x", b[0], b[1], b[2]);
        if (n < 0x10000)
            assert_int_equal(plain_utf8(b, 2), ldg_utf8_valid((const char *)b, 2));
        if (n < 0x100)
            assert_int_equal(plain_utf8(b, 1), ldg_utf8_valid((const char *)b, 1));
    }
    static const unsigned char edges[] = { 0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0,
                                           0xbf, 0xc0, 0xc2, 0xe0, 0xed, 0xf0, 0xff };
    for (unsigned lead = 0xe0; lead <= 0xff; lead++) {
        for (size_t i = 0; i < LENGTH(edges) * LENGTH(edges) * LENGTH(edges); i++) {
            unsigned char b[4] = { (unsigned char)lead, edges[i % LENGTH(edges)],
                                   edges[i / LENGTH(edges) % LENGTH(edges)],
                                   edges[i / LENGTH(edges) / LENGTH(edges)] };
            assert_int_equal(plain_utf8(b, 4), ldg_utf8_valid((const char *)b, 4));
        }
    }
    assert_true(ldg_utf8_valid(NULL, 0));
}

/* The same in a string, at any offset, cut anywhere. */
static void utf8_in_strings(void **state)
{
    static const char *const pieces[] = {
        "\xc3\xa9",
        "\xe2\x82\xac",
        "\xf0\x9f\x98\x80",
        "\xc0\x80",
        "\xed\xa0\x80",
        "\xf4\x90\x80\x80",
        "\xe0\x9f\xbf",
        "\xf0\x8f\xbf\xbf",
        "\x80",
        "\xc3",
        "\xe2\x82",
        "\xf0\x9f\x98",
        "\xfe",
        "\xff",
    };
    for (size_t i = 0; i < LENGTH(pieces); i++) {
        for (size_t shift = 0; shift < 10; shift++) {
            char text[64] = "\"0123456789";
            size_t size = 1 + shift, piece = strlen(pieces[i]);
            memcpy(text + size, pieces[i], piece);
            memcpy(text + size + piece, "tail of it\"", 11);
            bool valid = plain_utf8((const unsigned char *)pieces[i], piece);
            assert_int_equal(check((ledger_bytes){ text, size + piece + 11 }, NULL),
                             valid ? LEDGER_OK : LEDGER_ERR_DATA);
        }
    }
}

/* --- jansson as the judge ------------------------------------------------------------------ */

/* jansson also refuses numbers that do not fit, escaped NUL, and half pairs. It goes deeper than we
 * do, and takes a raw NUL between values for the end of the text. */
static void compare(const char *text, size_t size)
{
    json_error_t why;
    ledger_error err = { 0 };
    json_t *json = json_loadb(text, size, JSON_DECODE_ANY, &why);
    ledger_rc rc = ldg_json_check((ledger_bytes){ text, size }, &err);
    bool narrower = json == NULL && (json_error_code(&why) == json_error_numeric_overflow ||
                                     json_error_code(&why) == json_error_null_character ||
                                     json_error_code(&why) == json_error_null_byte_in_key ||
                                     strstr(why.text, "invalid Unicode") != NULL);
    bool nul = memchr(text, '\0', size) != NULL;
    bool deeper = rc != LEDGER_OK && strstr(err.message, "nested deeper") != NULL;
    if ((json != NULL) != (rc == LEDGER_OK) && !narrower && !deeper && (!nul || rc == LEDGER_OK))
        fail_msg("jansson: %s; we: %s; text: %.*s", json != NULL ? "good" : why.text,
                 rc == LEDGER_OK ? "good" : err.message, (int)size, text);
    json_decref(json);
}

static void compare_mutated(const char *text, size_t size, int rounds, uint64_t *seed)
{
    static const char alphabet[] =
        "{}[]:,\"\\ud8x0123456789-+.eEtfn \n\x01\x7f\x80\xc3\xa9\xed\xff";
    compare(text, size);
    char *copy = malloc(size + 8);
    assert_non_null(copy);
    for (int round = 0; round < rounds; round++) {
        size_t count = size;
        memcpy(copy, text, size);
        for (size_t i = 0; i < 1 + random_below(seed, 3); i++) {
            size_t at = random_below(seed, count + 1);
            char c = alphabet[random_below(seed, sizeof alphabet - 1)];
            size_t what = random_below(seed, 3);
            if (what == 0 && at < count) {
                copy[at] = c;
            } else if (what == 1 && at < count) {
                memmove(copy + at, copy + at + 1, count - at - 1);
                count--;
            } else if (count < size + 8) {
                memmove(copy + at + 1, copy + at, count - at);
                copy[at] = c;
                count++;
            }
        }
        compare(copy, count);
    }
    free(copy);
}

static void jansson_agrees(void **state)
{
    uint64_t seed = 7;
    for (size_t i = 0; i < LENGTH(good); i++)
        compare_mutated(good[i], strlen(good[i]), 300, &seed);
    for (size_t i = 0; i < LENGTH(bad); i++)
        compare_mutated(bad[i], strlen(bad[i]), 100, &seed);
    for (int round = 0; round < 2000; round++) {
        struct ldg_arena arena;
        ldg_arena_init(&arena, 0);
        ledger_bytes text = random_json(&seed, &arena);
        assert_int_equal(ldg_json_check(text, NULL), LEDGER_OK);
        compare_mutated(text.data, text.size, 10, &seed);
        ldg_arena_fini(&arena);
    }
}

static void jansson_agrees_on_folder(const char *corpus, const char *name)
{
    char path[4096];
    uint64_t seed = 11;
    snprintf(path, sizeof path, "%s/%s", corpus, name);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *item = readdir(dir); item != NULL; item = readdir(dir)) {
        char text[65536];
        snprintf(path, sizeof path, "%s/%s/%s", corpus, name, item->d_name);
        FILE *file = item->d_name[0] != '.' ? fopen(path, "rb") : NULL;
        if (file == NULL)
            continue;
        size_t size = fread(text, 1, sizeof text, file);
        fclose(file);
        compare_mutated(text, size, 20, &seed);
    }
    closedir(dir);
}

static void jansson_agrees_on_the_corpus(void **state)
{
    const char *corpus = getenv("LEDGER_TEST_CORPUS");
    if (corpus == NULL) {
        print_message("LEDGER_TEST_CORPUS names no folder; run the tests through meson\n");
        skip();
    }
    jansson_agrees_on_folder(corpus, "event");
    jansson_agrees_on_folder(corpus, "json");
}

/* --- strings, maps, lists ------------------------------------------------------------------ */

static void strings_are_escaped_minimally(void **state)
{
    static const struct {
        const char *plain, *json;
    } cases[] = {
        { "", "\"\"" },
        { "plain", "\"plain\"" },
        { "\"\\\b\f\n\r\t", "\"\\\"\\\\\\b\\f\\n\\r\\t\"" },
        { "\x01\x0b\x1f\x7f/", "\"\\u0001\\u000b\\u001f\x7f/\"" },
        { "<a href='x'>&", "\"<a href='x'>&\"" },
        { "\xe2\x80\xa8\xc3\xa9\xf0\x9f\x98\x80", "\"\xe2\x80\xa8\xc3\xa9\xf0\x9f\x98\x80\"" },
        { "0123456\n89abcde\"", "\"0123456\\n89abcde\\\"\"" },
    };
    struct ldg_buf buf;
    ldg_buf_init(&buf, 10000);
    for (size_t i = 0; i < LENGTH(cases); i++) {
        ldg_buf_reset(&buf);
        assert_int_equal(ldg_json_put_string(&buf, cases[i].plain), LEDGER_OK);
        assert_string_equal(buf.data, cases[i].json);
    }
    ldg_buf_reset(&buf);
    assert_int_equal(ldg_json_put_string(&buf, NULL), LEDGER_OK);
    assert_string_equal(buf.data, "\"\"");
    ldg_buf_fini(&buf);
}

#define MAP(...)                                                                                   \
    ((ledger_map){ (const ledger_pair[]){ __VA_ARGS__ },                                           \
                   sizeof((const ledger_pair[]){ __VA_ARGS__ }) / sizeof(ledger_pair) })

static void maps_and_lists_have_one_text(void **state)
{
    struct ldg_buf buf;
    const char *const tags[] = { "b", "a", "b", NULL };
    ldg_buf_init(&buf, 10000);
    assert_int_equal(
        ldg_json_put_map(&buf, MAP({ "b", "1" }, { "a\n", NULL }, { "b", "2" }, { "", "" })),
        LEDGER_OK);
    assert_string_equal(buf.data, "{\"\":\"\",\"a\\n\":null,\"b\":\"2\"}");
    ldg_buf_reset(&buf);
    assert_int_equal(ldg_json_put_map(&buf, (ledger_map){ 0 }), LEDGER_OK);
    assert_string_equal(buf.data, "{}");
    ldg_buf_reset(&buf);
    assert_int_equal(ldg_json_put_list(&buf, (ledger_list){ tags, 4 }), LEDGER_OK);
    assert_string_equal(buf.data, "[\"b\",\"a\",\"b\",\"\"]");
    ldg_buf_reset(&buf);
    assert_int_equal(ldg_json_put_list(&buf, (ledger_list){ 0 }), LEDGER_OK);
    assert_string_equal(buf.data, "[]");
    ldg_buf_fini(&buf);
    ldg_buf_init(&buf, 3);
    assert_int_equal(ldg_json_put_map(&buf, MAP({ "a", "1" })), LEDGER_ERR_TOO_LARGE);
    assert_int_equal(ldg_json_put_map(&buf, MAP({ "b", "1" }, { "a", "1" })), LEDGER_ERR_TOO_LARGE);
    ldg_buf_fini(&buf);
}

static void reads_maps(void **state)
{
    struct ldg_arena arena;
    ledger_map map;
    ldg_arena_init(&arena, 0);
    assert_int_equal(
        ldg_json_get_map(BYTES(" { \"b\" : \"1\" , \"a\":\"\\u003c\\u2028\\ud83d\\ude00\\/\\n\","
                               "\"b\":\"2\",\"\":\"\" } "),
                         false, &arena, &map, NULL),
        LEDGER_OK);
    assert_true(ldg_map_equal(
        map, MAP({ "", "" }, { "a", "<\xe2\x80\xa8\xf0\x9f\x98\x80/\n" }, { "b", "2" })));
    assert_int_equal(ldg_json_get_map(BYTES("{\"a\":null,\"b\":\"\"}"), true, &arena, &map, NULL),
                     LEDGER_OK);
    assert_true(ldg_map_equal(map, MAP({ "a", NULL }, { "b", "" })));
    assert_int_equal(ldg_json_get_map(BYTES("null"), false, &arena, &map, NULL), LEDGER_OK);
    assert_int_equal(map.count, 0);
    assert_int_equal(ldg_json_get_map(BYTES("{}"), false, &arena, &map, NULL), LEDGER_OK);
    assert_int_equal(map.count, 0);
    static const char *const wrong[] = {
        "",
        "[]",
        "\"x\"",
        "1",
        "nul",
        "{\"a\":null}",
        "{\"a\":1}",
        "{\"a\":{}}",
        "{\"a\":[]}",
        "{\"a\":\"b\"",
        "{\"a\":\"b\"}x",
        "{\"a\":\"b\",}",
        "{\"a\":\"\\u0000\"}",
        "{\"\\u0000\":\"\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"\\udc00\":\"\"}",
        "{\"a\":\"\xff\"}",
        "{\"a\":true}",
        "{a:\"b\"}",
        "{\"a\" \"b\"}",
    };
    map.count = 77;
    for (size_t i = 0; i < LENGTH(wrong); i++) {
        ledger_error err = { 0 };
        assert_int_equal(ldg_json_get_map(bytes_of(wrong[i]), false, &arena, &map, &err),
                         LEDGER_ERR_DATA);
        assert_non_null(strstr(err.message, "invalid JSON map: "));
        assert_int_equal(map.count, 77);
    }
    assert_int_equal(ldg_json_get_map(BYTES("{\"a\":nul}"), true, &arena, &map, NULL),
                     LEDGER_ERR_DATA);
    ldg_arena_fini(&arena);
}

static void reads_lists(void **state)
{
    struct ldg_arena arena;
    ledger_list list;
    ldg_arena_init(&arena, 0);
    assert_int_equal(
        ldg_json_get_list(BYTES(" [ \"b\" , \"\" , \"a\\\"\" , \"b\" ] "), &arena, &list, NULL),
        LEDGER_OK);
    const char *const expected[] = { "b", "", "a\"", "b" };
    assert_true(ldg_list_equal(list, (ledger_list){ expected, 4 }));
    assert_int_equal(ldg_json_get_list(BYTES("[]"), &arena, &list, NULL), LEDGER_OK);
    assert_int_equal(list.count, 0);
    assert_int_equal(ldg_json_get_list(BYTES("null"), &arena, &list, NULL), LEDGER_OK);
    assert_int_equal(list.count, 0);
    static const char *const wrong[] = {
        "",
        "{}",
        "[",
        "[1]",
        "[null]",
        "[\"a\",]",
        "[,]",
        "[\"a\" \"b\"]",
        "[\"a\"",
        "[\"a\"]]",
        "[\"\\u0000\"]",
        "[\"\\ud800x\"]",
        "[[\"a\"]]",
        "nulll",
        "nil",
    };
    list.count = 77;
    for (size_t i = 0; i < LENGTH(wrong); i++) {
        ledger_error err = { 0 };
        assert_int_equal(ldg_json_get_list(bytes_of(wrong[i]), &arena, &list, &err),
                         LEDGER_ERR_DATA);
        assert_non_null(strstr(err.message, "invalid JSON list: "));
        assert_int_equal(list.count, 77);
    }
    ldg_arena_fini(&arena);
}

static void says_which_string_is_illegal(void **state)
{
    struct ldg_arena arena;
    ledger_list list;
    ledger_error err;
    ldg_arena_init(&arena, 0);
    assert_int_equal(ldg_json_get_list(BYTES("[\"a\\u0000b\"]"), &arena, &list, &err),
                     LEDGER_ERR_DATA);
    assert_string_equal(err.message, "invalid JSON list: NUL in a string at byte 3");
    assert_int_equal(ldg_json_get_list(BYTES("[\"\\ud83d\\ude00\\uDE00\"]"), &arena, &list, &err),
                     LEDGER_ERR_DATA);
    assert_string_equal(err.message,
                        "invalid JSON list: half a surrogate pair in a string at byte 14");
    ldg_arena_fini(&arena);
}

/* Ten thousand items, in the worst order, against what jansson makes of the text. */
static void large_maps_read(void **state)
{
    struct ldg_arena arena;
    struct ldg_buf buf;
    ledger_map map;
    uint64_t seed = 5;
    ldg_arena_init(&arena, 0);
    ldg_buf_init(&buf, (size_t)1 << 24);
    ldg_buf_putc(&buf, '{');
    for (int i = 0; i < LEDGER_MAX_ITEMS; i++)
        ldg_buf_printf(&buf, "%s\"k%zu\":\"%d\"", i > 0 ? "," : "", random_below(&seed, 8000), i);
    ldg_buf_putc(&buf, '}');
    ledger_bytes text = { buf.data, buf.size };
    assert_int_equal(ldg_json_get_map(text, false, &arena, &map, NULL), LEDGER_OK);
    json_t *json = json_loadb(buf.data, buf.size, 0, NULL);
    assert_int_equal(json_object_size(json), map.count);
    for (size_t i = 0; i < map.count; i++)
        assert_string_equal(json_string_value(json_object_get(json, map.items[i].key)),
                            map.items[i].value);
    json_decref(json);
    ldg_buf_fini(&buf);
    ldg_arena_fini(&arena);
}

/* Any text that goes out comes back, through us and through jansson. */
static void random_strings_survive(void **state)
{
    uint64_t seed = 9;
    for (int round = 0; round < 5000; round++) {
        struct ldg_arena arena;
        struct ldg_buf buf;
        ledger_list list;
        ldg_arena_init(&arena, 0);
        ldg_buf_init(&buf, 10000);
        const char *text = random_text(&seed, 60, &arena);
        assert_int_equal(ldg_json_put_list(&buf, (ledger_list){ &text, 1 }), LEDGER_OK);
        assert_int_equal(
            ldg_json_get_list((ledger_bytes){ buf.data, buf.size }, &arena, &list, NULL),
            LEDGER_OK);
        assert_string_equal(list.items[0], text);
        json_t *json = json_loadb(buf.data, buf.size, 0, NULL);
        assert_string_equal(json_string_value(json_array_get(json, 0)), text);
        /* And escaped the other way: all that jansson can escape. */
        char *dumped = json_dumps(json, JSON_ENSURE_ASCII | JSON_ESCAPE_SLASH);
        assert_int_equal(ldg_json_get_list(bytes_of(dumped), &arena, &list, NULL), LEDGER_OK);
        assert_string_equal(list.items[0], text);
        free(dumped);
        json_decref(json);
        ldg_buf_fini(&buf);
        ldg_arena_fini(&arena);
    }
}

/* --- failing allocations ------------------------------------------------------------------- */

static ledger_rc read_and_write(void *ctx)
{
    static const char text[] =
        "{\"z\":\"\\n\",\"y\":\"a long enough value\",\"x\":null,\"z\":\"1\"}";
    static const char list_text[] = "[\"a\",\"b\",\"c\\u0041\",\"d\",\"e\",\"f\"]";
    struct ldg_arena arena;
    struct ldg_buf buf;
    ledger_map map;
    ledger_list list;
    ledger_error err = { 0 };
    ldg_arena_init(&arena, 0);
    ldg_buf_init(&buf, 10000);
    ledger_rc rc = ldg_json_get_map(BYTES(text), true, &arena, &map, &err);
    if (rc == LEDGER_OK)
        rc = ldg_json_get_list(BYTES(list_text), &arena, &list, &err);
    if (rc == LEDGER_OK)
        rc = ldg_json_put_map(&buf, map);
    if (rc == LEDGER_OK)
        rc = ldg_json_put_list(&buf, list);
    if (rc == LEDGER_OK)
        rc = ldg_json_put_map(&buf, MAP({ "b", "1" }, { "a", "1" })); /* sorts */
    assert_true(rc == LEDGER_OK || rc == LEDGER_ERR_NOMEM);
    assert_true(err.code == LEDGER_OK || err.code == LEDGER_ERR_NOMEM);
    ldg_buf_fini(&buf);
    ldg_arena_fini(&arena);
    return rc;
}

/* Many small strings, so that each kind of arena allocation meets a full chunk. */
static ledger_rc read_large(void *ctx)
{
    struct ldg_arena arena;
    ledger_map map;
    ledger_list list;
    ldg_arena_init(&arena, 0);
    ledger_bytes *texts = ctx;
    ledger_rc rc = ldg_json_get_list(texts[1], &arena, &list, NULL);
    if (rc == LEDGER_OK)
        rc = ldg_json_get_map(texts[0], true, &arena, &map, NULL);
    ldg_arena_fini(&arena);
    return rc;
}

static void every_allocation_may_fail(void **state)
{
    assert_in_range(alloc_fail_each(read_and_write, NULL), 3, 30);
    struct ldg_buf map, list;
    ldg_buf_init(&map, (size_t)1 << 20);
    ldg_buf_init(&list, (size_t)1 << 20);
    for (int i = 0; i < 2000; i++) {
        ldg_buf_printf(&map, "%c\"k%04d\":\"v%d\\n\"", i > 0 ? ',' : '{', 3000 - i, i);
        ldg_buf_printf(&list, "%c\"v%d\\n\"", i > 0 ? ',' : '[', i);
    }
    ldg_buf_putc(&map, '}');
    ldg_buf_putc(&list, ']');
    ledger_bytes texts[2] = { { map.data, map.size }, { list.data, list.size } };
    assert_in_range(alloc_fail_each(read_large, texts), 5, 100);
    ldg_buf_fini(&map);
    ldg_buf_fini(&list);
}

static void texts_that_go_makes_equal(void **state)
{
    static const struct {
        const char *a, *b;
        bool equal;
    } cases[] = {
        { "", "", true },
        { "{ \"a\" :\n[1 , 2 ]\t}\r", "{\"a\":[1,2]}", true },
        { "\"a b\"", "\"ab\"", false },
        { "\" a\"", "\"a\"", false },
        { "\"<>&\"", "\"\\u003c\\u003e\\u0026\"", true },
        { "\"<\"", "\"\\u003C\"", false },
        { "\"\xe2\x80\xa8\xe2\x80\xa9\"", "\"\\u2028\\u2029\"", true },
        { "\"\xe2\x80\xaa\"", "\"\\u202a\"", false },
        { "\"\\\" \\\\\" ", "\"\\\" \\\\\"", true },
        { "[\"\\\\\", \" \"]", "[\"\\\\\",\" \"]", true },
        { "[\"\\\\\", \" \"]", "[\"\\\\\",\"\"]", false },
        { "\"\\<\" ", "\"\\\\u003c\"", true },
        { "1.0", "1", false },
        { "12", "1", false },
        { "\"\xe2\x80", "\"\xe2\x80", true }, /* cut short */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(ldg_json_equal_in_go(bytes_of(cases[i].a), bytes_of(cases[i].b)),
                         cases[i].equal);
        assert_int_equal(ldg_json_equal_in_go(bytes_of(cases[i].b), bytes_of(cases[i].a)),
                         cases[i].equal);
        assert_true(ldg_json_equal_in_go(bytes_of(cases[i].a), bytes_of(cases[i].a)));
        assert_int_equal(ldg_json_hash_in_go(bytes_of(cases[i].a), 7) ==
                             ldg_json_hash_in_go(bytes_of(cases[i].b), 7),
                         cases[i].equal);
    }
    assert_true(ldg_json_equal_in_go((ledger_bytes){ NULL, 0 }, bytes_of(" ")));
    assert_false(ldg_json_equal_in_go(BYTES("1\0"), BYTES("1")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_what_the_grammar_allows),
        cmocka_unit_test(refuses_what_it_does_not),
        cmocka_unit_test(refuses_raw_nul),
        cmocka_unit_test(says_where),
        cmocka_unit_test(special_bytes_are_seen_anywhere),
        cmocka_unit_test(nesting_has_a_limit),
        cmocka_unit_test(brackets_must_match),
        cmocka_unit_test(utf8_is_as_defined),
        cmocka_unit_test(utf8_in_strings),
        cmocka_unit_test(jansson_agrees),
        cmocka_unit_test(jansson_agrees_on_the_corpus),
        cmocka_unit_test(strings_are_escaped_minimally),
        cmocka_unit_test(maps_and_lists_have_one_text),
        cmocka_unit_test(reads_maps),
        cmocka_unit_test(reads_lists),
        cmocka_unit_test(says_which_string_is_illegal),
        cmocka_unit_test(large_maps_read),
        cmocka_unit_test(random_strings_survive),
        cmocka_unit_test(texts_that_go_makes_equal),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
