/* Events at random and field by field. Depends on nothing of cmocka, so that the fuzz targets can
 * use it; out of memory ends the program, as nothing else makes sense here. */
#include "event_util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "event/event.h"

static void must(bool good)
{
    if (!good)
        abort();
}

static bool text_equal(const char *a, const char *b)
{
    return strcmp(a != NULL ? a : "", b != NULL ? b : "") == 0;
}

static bool map_equal(ledger_map a, ledger_map b)
{
    struct ldg_arena arena;
    ldg_arena_init(&arena, 0);
    must(ldg_map_sort(a, &arena, &a, NULL) == LEDGER_OK);
    must(ldg_map_sort(b, &arena, &b, NULL) == LEDGER_OK);
    bool equal = ldg_map_equal(a, b);
    ldg_arena_fini(&arena);
    return equal;
}

static const char *entry_difference(const ledger_append_entry *a, const ledger_append_entry *b)
{
    return !text_equal(a->id, b->id)                                        ? "entry.id"
           : a->payload.size != b->payload.size                             ? "entry.payload.size"
           : memcmp(a->payload.data, b->payload.data, a->payload.size) != 0 ? "entry.payload"
           : !text_equal(a->order_key, b->order_key)                        ? "entry.order_key"
           : !text_equal(a->dedup_key, b->dedup_key)                        ? "entry.dedup_key"
           : a->schema_version != b->schema_version                         ? "entry.schema_version"
           : !map_equal(a->metadata, b->metadata)                           ? "entry.metadata"
           : !ldg_list_equal(a->tags, b->tags)                              ? "entry.tags"
           : a->created_at_us != b->created_at_us                           ? "entry.created_at"
           : !text_equal(a->source_id, b->source_id)                        ? "entry.source_id"
                                                                            : NULL;
}

const char *event_difference(const ledger_mutation_event *a, const ledger_mutation_event *b)
{
    if (a->entry_count != b->entry_count)
        return "entry_count";
    for (size_t i = 0; i < a->entry_count; i++) {
        const char *field = entry_difference(&a->entries[i], &b->entries[i]);
        if (field != NULL)
            return field;
    }
    return a->type != b->type                              ? "type"
           : !text_equal(a->type_name, b->type_name)       ? "type_name"
           : !text_equal(a->stream, b->stream)             ? "stream"
           : !text_equal(a->entry_id, b->entry_id)         ? "entry_id"
           : !ldg_list_equal(a->tags, b->tags)             ? "tags"
           : !map_equal(a->annotations, b->annotations)    ? "annotations"
           : !text_equal(a->before_id, b->before_id)       ? "before_id"
           : a->created_at_us != b->created_at_us          ? "created_at"
           : !text_equal(a->origin, b->origin)             ? "origin"
           : a->origin_pos != b->origin_pos                ? "origin_pos"
           : !text_equal(a->entry_origin, b->entry_origin) ? "entry_origin"
           : !text_equal(a->source_id, b->source_id)       ? "source_id"
                                                           : NULL;
}

uint64_t random_next(uint64_t *seed)
{
    uint64_t z = (*seed += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

size_t random_below(uint64_t *seed, size_t limit)
{
    return (size_t)(random_next(seed) % limit);
}

const char *random_text(uint64_t *seed, size_t max_size, struct ldg_arena *arena)
{
    static const char *const pieces[] = {
        "a",
        "Z",
        "0",
        "-",
        " ",
        "\"",
        "\\",
        "/",
        "\n",
        "\r",
        "\t",
        "\b",
        "\f",
        "\x01",
        "\x1f",
        "\x7f",
        "<",
        "&",
        "\xc2\x80",
        "\xc3\xa9",
        "\xdf\xbf",
        "\xe0\xa0\x80",
        "\xe2\x80\xa8",
        "\xe2\x82\xac",
        "\xed\x9f\xbf",
        "\xee\x80\x80",
        "\xef\xbf\xbf",
        "\xf0\x90\x80\x80",
        "\xf0\x9f\x98\x80",
        "\xf4\x8f\xbf\xbf",
        "\\u0041",
        "longer plain text without anything",
    };
    size_t goal = random_below(seed, max_size + 1);
    struct ldg_buf buf;
    ldg_buf_init(&buf, max_size + 64);
    while (buf.size < goal)
        ldg_buf_puts(&buf, pieces[random_below(seed, sizeof pieces / sizeof pieces[0])]);
    while (buf.size > 0 && (buf.size > max_size || !ldg_utf8_valid(buf.data, buf.size)))
        buf.size--;
    const char *text = ldg_arena_strndup(arena, buf.size > 0 ? buf.data : "", buf.size);
    must(buf.rc == LEDGER_OK && text != NULL);
    ldg_buf_fini(&buf);
    return text;
}

static void put_random_space(uint64_t *seed, struct ldg_buf *buf)
{
    while (random_below(seed, 4) == 0)
        ldg_buf_putc(buf, " \t\r\n"[random_below(seed, 4)]);
}

static void put_random_value(uint64_t *seed, struct ldg_buf *buf, size_t depth)
{
    static const char *const scalars[] = {
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1",
        "12345678901234567890123456789",
        "-1.50e+300",
        "1E9999",
        "0.1000",
        "\"\"",
        "\"\\ud800\"",
        "\"\\u0000\"",
        "\"\\u003cb\\u003e\"",
        "\"\xe2\x80\xa8\"",
        "\"a longer string that has nothing to escape in it\"",
    };
    size_t kind = depth > 5 ? 0 : random_below(seed, 4);
    size_t count = random_below(seed, 4);
    put_random_space(seed, buf);
    if (kind <= 1) {
        ldg_buf_puts(buf, scalars[random_below(seed, sizeof scalars / sizeof scalars[0])]);
    } else {
        ldg_buf_putc(buf, kind == 2 ? '[' : '{');
        for (size_t i = 0; i < count; i++) {
            if (i > 0)
                ldg_buf_putc(buf, ',');
            put_random_space(seed, buf);
            if (kind == 3)
                ldg_buf_printf(buf, "\"k%zu\":", random_below(seed, 5));
            put_random_value(seed, buf, depth + 1);
        }
        ldg_buf_putc(buf, kind == 2 ? ']' : '}');
    }
    put_random_space(seed, buf);
}

ledger_bytes random_json(uint64_t *seed, struct ldg_arena *arena)
{
    struct ldg_buf buf;
    ldg_buf_init(&buf, (size_t)1 << 20);
    put_random_value(seed, &buf, 0);
    must(buf.rc == LEDGER_OK);
    ledger_bytes bytes = { ldg_arena_memdup(arena, buf.data, buf.size), buf.size };
    must(bytes.data != NULL);
    ldg_buf_fini(&buf);
    return bytes;
}

static ledger_list random_list(uint64_t *seed, struct ldg_arena *arena)
{
    size_t count = random_below(seed, 6);
    const char **items = ldg_arena_calloc(arena, count, sizeof *items);
    must(items != NULL);
    for (size_t i = 0; i < count; i++)
        items[i] = random_text(seed, 20, arena);
    return (ledger_list){ items, count };
}

static ledger_map random_map(uint64_t *seed, bool with_null, struct ldg_arena *arena)
{
    size_t count = random_below(seed, 8);
    ledger_pair *items = ldg_arena_calloc(arena, count, sizeof *items);
    must(items != NULL);
    for (size_t i = 0; i < count; i++) {
        items[i].key = random_text(seed, 6, arena);
        if (!with_null || random_below(seed, 4) > 0)
            items[i].value = random_text(seed, 30, arena);
    }
    ledger_map map = { items, count };
    must(ldg_map_sort(map, arena, &map, NULL) == LEDGER_OK);
    return map;
}

static int64_t random_time(uint64_t *seed)
{
    if (random_below(seed, 3) == 0)
        return LEDGER_NO_TIME;
    int64_t time_us =
        (int64_t)(random_next(seed) % UINT64_C(315569519999999999)) - INT64_C(62167219200000000);
    return random_below(seed, 2) == 0 ? time_us - time_us % 1000 : time_us;
}

static const char *random_optional(uint64_t *seed, struct ldg_arena *arena)
{
    return random_below(seed, 2) == 0 ? "" : random_text(seed, 40, arena);
}

/* A text that is not empty. */
static const char *random_id(uint64_t *seed, struct ldg_arena *arena)
{
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)(random_next(seed) >> 1));
    const char *id = ldg_arena_strdup(arena, text);
    must(id != NULL);
    return id;
}

static ledger_append_entry random_entry(uint64_t *seed, struct ldg_arena *arena)
{
    return (ledger_append_entry){
        .id = random_id(seed, arena),
        .payload = random_json(seed, arena),
        .order_key = random_optional(seed, arena),
        .dedup_key = random_optional(seed, arena),
        .schema_version = random_below(seed, 2) == 0 ? 1 : (int)(int32_t)random_next(seed),
        .metadata = random_map(seed, false, arena),
        .tags = random_list(seed, arena),
        .created_at_us = random_time(seed),
        .source_id = random_optional(seed, arena),
    };
}

ledger_mutation_event random_event(uint64_t *seed, struct ldg_arena *arena)
{
    ledger_mutation_event event = {
        .type = (ledger_mutation_type)random_below(seed, LEDGER_MUTATION_TYPE_COUNT),
        .stream = random_text(seed, 30, arena),
        .entry_id = "",
        .before_id = "",
        .created_at_us = random_time(seed),
        .origin = random_optional(seed, arena),
        .entry_origin = random_optional(seed, arena),
        .source_id = random_id(seed, arena),
    };
    event.type_name =
        event.type == LEDGER_MUTATION_UNKNOWN ? "rename\n" : ledger_mutation_type_name(event.type);
    if (random_below(seed, 2) == 0)
        event.origin_pos = (int64_t)(random_next(seed) >> 1);
    if (event.type == LEDGER_MUTATION_APPEND) {
        event.entry_count = 1 + random_below(seed, 6);
        ledger_append_entry *entries = ldg_arena_calloc(arena, event.entry_count, sizeof *entries);
        must(entries != NULL);
        for (size_t i = 0; i < event.entry_count; i++)
            entries[i] = random_entry(seed, arena);
        for (size_t i = 0; i < event.entry_count; i++)
            if (entries[i].created_at_us == LEDGER_NO_TIME)
                entries[i].created_at_us = event.created_at_us; /* as it is read back */
        event.entries = entries;
    } else if (event.type == LEDGER_MUTATION_TRIM) {
        if (event.origin[0] == '\0' && event.entry_origin[0] == '\0')
            event.before_id = random_id(seed, arena);
    } else {
        event.entry_id = random_id(seed, arena);
        event.tags = random_list(seed, arena);
        event.annotations = random_map(seed, true, arena);
    }
    return event;
}
