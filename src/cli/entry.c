/* One entry as a line, and whether a payload is JSON, which the public decoder is asked. */
#include <string.h>

#include "cli/cli.h"

void cli_event_words(ledger_error *err, size_t head_size)
{
    static const char *const prefixes[] = { "event: ", "entries[0].", "entries: ", "payload: " };
    char *at = NULL;
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        size_t size = strlen(prefixes[i]);
        if (strncmp(err->message, prefixes[i], size) == 0)
            memmove(err->message, err->message + size, strlen(err->message + size) + 1);
    }
    for (char *next = strstr(err->message, " at byte "); next != NULL;
         next = strstr(next + 1, " at byte "))
        at = next;
    int64_t byte = 0;
    if (at == NULL || !cli_parse_number(at + 9, 0, INT32_MAX, &byte))
        return;
    size_t left = sizeof err->message - (size_t)(at - err->message);
    if (head_size == 0 || (size_t)byte < head_size)
        *at = '\0';
    else
        snprintf(at, left, " at byte %lld", (long long)byte - (long long)head_size);
}

/* The public decoder checks JSON; a value is one if it comes out of an event as it went in. */
bool cli_json_valid(ledger_bytes json, ledger_error *err)
{
    static const char head[] =
        "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"1\",\"payload\":";
    static const char tail[] = "}]}";
    const char *data = json.data;
    size_t size = json.size, head_size = sizeof head - 1, tail_size = sizeof tail - 1;
    while (size > 0 && memchr(" \t\r\n", data[0], 4) != NULL)
        data++, size--;
    while (size > 0 && memchr(" \t\r\n", data[size - 1], 4) != NULL)
        size--;
    char *text = cli_alloc(NULL, head_size + size + tail_size);
    memcpy(text, head, head_size);
    memcpy(text + head_size, data, size);
    memcpy(text + head_size + size, tail, tail_size);
    ledger_event *event = NULL;
    ledger_bytes whole = { text, head_size + size + tail_size };
    bool valid = ledger_event_decode(whole, &event, err) == LEDGER_OK;
    if (!valid) {
        cli_event_words(err, head_size);
    } else {
        const ledger_mutation_event *got = ledger_event_get(event);
        valid = got->entry_count == 1 && got->entries[0].payload.size == size;
        if (!valid)
            snprintf(err->message, sizeof err->message, "not one JSON value");
    }
    ledger_event_destroy(&event);
    cli_free(text);
    return valid;
}

static void put_base64(FILE *to, ledger_bytes bytes)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *s = bytes.data;
    for (size_t i = 0; i < bytes.size; i += 3) {
        size_t left = bytes.size - i;
        unsigned group = (unsigned)s[i] << 16 | (left > 1 ? (unsigned)s[i + 1] << 8 : 0) |
                         (left > 2 ? s[i + 2] : 0);
        putc(digits[group >> 18], to);
        putc(digits[group >> 12 & 63], to);
        putc(left > 1 ? digits[group >> 6 & 63] : '=', to);
        putc(left > 2 ? digits[group & 63] : '=', to);
    }
}

/* White space between tokens may hold line ends; strings cannot. */
static void put_on_one_line(FILE *to, ledger_bytes json)
{
    const char *at = json.data, *end = at + json.size;
    while (at < end) {
        const char *stop = at;
        while (stop < end && *stop != '\n' && *stop != '\r')
            stop++;
        fwrite(at, 1, (size_t)(stop - at), to);
        if (stop < end)
            putc(' ', to);
        at = stop + 1;
    }
}

void json_payload(FILE *to, ledger_bytes payload)
{
    ledger_error err = { 0 };
    json_key(to, "payload");
    if (cli_json_valid(payload, &err)) {
        put_on_one_line(to, payload);
        return;
    }
    fputs("null", to); /* somebody else wrote it; the bytes are not lost */
    json_key(to, "payload_base64");
    putc('"', to);
    put_base64(to, payload);
    putc('"', to);
}

static void json_map(FILE *to, const char *key, ledger_map map)
{
    json_object_begin(to, key);
    for (size_t i = 0; i < map.count; i++)
        json_text(to, map.items[i].key, map.items[i].value);
    json_object_end(to);
}

static void print_entry_json(FILE *to, const ledger_entry *entry)
{
    json_begin(to);
    json_id(to, "id", entry->id);
    json_text(to, "stream", entry->stream);
    json_payload(to, entry->payload);
    json_text(to, "order_key", entry->order_key);
    json_text(to, "dedup_key", entry->dedup_key);
    json_signed(to, "schema_version", entry->schema_version);
    json_map(to, "metadata", entry->metadata);
    json_array_begin(to, "tags");
    for (size_t i = 0; i < entry->tags.count; i++)
        json_item(to, entry->tags.items[i]);
    json_array_end(to);
    json_map(to, "annotations", entry->annotations);
    json_text(to, "source_id", entry->source_id);
    json_time(to, "created_at", entry->created_at_us);
    json_time(to, "updated_at", entry->updated_at_us);
    json_end(to);
}

static void print_word(FILE *to, const char *name, const char *value)
{
    if (value == NULL || value[0] == '\0')
        return;
    fprintf(to, "  %s=", name);
    print_plain(to, value, strlen(value));
}

static void print_words(FILE *to, const char *name, ledger_map map)
{
    for (size_t i = 0; i < map.count; i++) {
        fprintf(to, "  %s.", name);
        print_plain(to, map.items[i].key, strlen(map.items[i].key));
        putc('=', to);
        print_plain(to, map.items[i].value, strlen(map.items[i].value));
    }
}

static void print_payload(FILE *to, ledger_bytes payload)
{
    /* Line ends become blanks first, the rest is escaped where it must be. */
    const char *at = payload.data, *end = at + payload.size;
    while (at < end) {
        const char *stop = at;
        while (stop < end && *stop != '\n' && *stop != '\r' && *stop != '\t')
            stop++;
        print_plain(to, at, (size_t)(stop - at));
        if (stop < end)
            putc(' ', to);
        at = stop + 1;
    }
}

void print_entry(FILE *to, const ledger_entry *entry, bool json, bool with_stream)
{
    if (json) {
        print_entry_json(to, entry);
        return;
    }
    char id[CLI_NUMBER_MAX], when[CLI_TIME_MAX];
    fprintf(to, "%s  %s  ", cli_id_text(entry->id, id), cli_time_text(entry->created_at_us, when));
    if (with_stream) {
        print_plain(to, entry->stream, strlen(entry->stream));
        fputs("  ", to);
    }
    print_payload(to, entry->payload);
    print_word(to, "order_key", entry->order_key);
    print_word(to, "dedup_key", entry->dedup_key);
    if (entry->schema_version != 1)
        fprintf(to, "  schema_version=%d", entry->schema_version);
    for (size_t i = 0; i < entry->tags.count; i++)
        print_word(to, "tag", entry->tags.items[i]);
    print_words(to, "meta", entry->metadata);
    print_words(to, "note", entry->annotations);
    putc('\n', to);
}
