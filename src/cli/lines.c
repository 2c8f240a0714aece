/* stream append --lines: one JSON object per line of stdin becomes one entry.
 *
 * A line is checked and taken apart through the public event decoder: first the whole line as a
 * payload (so it is one JSON value), then its members, written once more as an append event. The
 * payload itself is cut out of the line, so it stays byte for byte. Lines are collected without
 * holding a transaction and appended up to 500 at a time, or when stdin pauses.
 *
 * Invariant: what a message calls appended is committed; nothing behind a bad line is appended. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

#define LINES_PER_TRANSACTION 500
#define BYTES_PER_TRANSACTION ((size_t)16 << 20)
#define LINE_MAX_BYTES (LEDGER_MAX_PAYLOAD_BYTES + ((size_t)32 << 20))
#define PAUSE_MS 20 /* without input for so long: what there is gets appended */

enum field { STREAM, PAYLOAD, ORDER_KEY, DEDUP_KEY, SCHEMA_VERSION, METADATA, TAGS, FIELD_COUNT };
static const char *const field_names[FIELD_COUNT] = { "stream",    "payload",        "order_key",
                                                      "dedup_key", "schema_version", "metadata",
                                                      "tags" };

struct line {
    uint64_t number;
    size_t payload_at, payload_size; /* in the buffer: it may move while lines are collected */
    bool has_stream;
    ledger_event *event; /* holds everything else */
};

struct input {
    const struct cli *cli;
    ledger_store *store;
    const char *stream; /* of lines that name none */
    char *data;
    size_t size, cap;
    size_t start;   /* of the first line that is not collected yet */
    size_t scanned; /* no line end before here */
    bool ended;
    uint64_t number;   /* of the last line that was taken */
    uint64_t appended; /* entries, committed */
    uint64_t done;     /* lines, committed */
    struct line lines[LINES_PER_TRANSACTION];
    size_t count;
    ledger_ids ids[LINES_PER_TRANSACTION]; /* one per append call */
    size_t id_count;
};

/* --- one line ------------------------------------------------------------------------------- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static const char *skip_blanks(const char *at)
{
    while (is_blank(*at))
        at++;
    return at;
}

static const char *skip_string(const char *at)
{
    for (at++; *at != '"'; at++)
        at += *at == '\\';
    return at + 1;
}

/* Behind one value; only for JSON that is known to be valid. */
static const char *skip_value(const char *at)
{
    if (*at == '"')
        return skip_string(at);
    if (*at != '{' && *at != '[')
        return at + strcspn(at, ",}] \t\r\n");
    size_t depth = 0;
    do {
        if (*at == '"') {
            at = skip_string(at);
            continue;
        }
        depth += *at == '{' || *at == '[';
        depth -= *at == '}' || *at == ']';
        at++;
    } while (depth > 0);
    return at;
}

/* A key as written, quotes included, to a field. Keys with escapes are none of ours. */
static enum field find_field(const char *key, size_t size)
{
    for (size_t field = 0; field < FIELD_COUNT; field++) {
        if (size == strlen(field_names[field]) + 2 &&
            memcmp(key + 1, field_names[field], size - 2) == 0)
            return (enum field)field;
    }
    return FIELD_COUNT;
}

/* Finds the members of a valid object; of a repeated one the last counts. */
static bool find_members(uint64_t number, const char *at, ledger_bytes members[FIELD_COUNT])
{
    for (at = skip_blanks(at + 1); *at != '}';) {
        const char *key = at;
        at = skip_string(at);
        size_t key_size = (size_t)(at - key);
        enum field field = find_field(key, key_size);
        if (field == FIELD_COUNT) {
            char name[64];
            snprintf(name, sizeof name, "%.*s", (int)(key_size < 60 ? key_size : 60), key);
            cli_error("line %llu: unknown field %s; known are stream, payload, order_key, "
                      "dedup_key, "
                      "schema_version, metadata, tags",
                      (unsigned long long)number, cli_shown(name));
            return false;
        }
        at = skip_blanks(skip_blanks(at) + 1); /* the colon */
        members[field].data = at;
        at = skip_value(at);
        members[field].size = (size_t)(at - (const char *)members[field].data);
        if (field != PAYLOAD && memcmp(members[field].data, "null", 4) == 0)
            members[field] = (ledger_bytes){ 0 }; /* as if it were not there */
        at = skip_blanks(at);
        if (*at == ',')
            at = skip_blanks(at + 1);
    }
    if (members[PAYLOAD].data == NULL) {
        cli_error("line %llu: there is no field payload", (unsigned long long)number);
        return false;
    }
    return true;
}

/* The members but the payload, as an append event, decoded. */
static ledger_event *decode_members(uint64_t number, const ledger_bytes members[FIELD_COUNT])
{
    char *text = NULL;
    size_t size = 0;
    ledger_event *event = NULL;
    ledger_error err = { 0 };
    FILE *to = open_memstream(&text, &size);
    if (to == NULL) {
        cli_error("out of memory");
        return NULL;
    }
    fputs("{\"type\":\"append\",\"stream\":", to);
    if (members[STREAM].data != NULL)
        fwrite(members[STREAM].data, 1, members[STREAM].size, to);
    else
        fputs("\"\"", to);
    fputs(",\"entries\":[{\"id\":\"1\",\"payload\":0", to);
    for (size_t field = ORDER_KEY; field < FIELD_COUNT; field++) {
        if (members[field].data == NULL)
            continue;
        fprintf(to, ",\"%s\":", field_names[field]);
        fwrite(members[field].data, 1, members[field].size, to);
    }
    fputs("}]}", to);
    if (fclose(to) != 0) {
        cli_error("out of memory");
    } else if (ledger_event_decode((ledger_bytes){ text, size }, &event, &err) != LEDGER_OK) {
        cli_event_words(&err, 0);
        cli_error("line %llu: %s", (unsigned long long)number, err.message);
    }
    cli_free(text);
    return event;
}

/* Takes the line that begins at input->start and has `size` bytes, NUL behind it. */
static bool take_line(struct input *input, size_t size)
{
    const char *text = input->data + input->start;
    uint64_t number = ++input->number;
    size_t mark = cli_mark_size(text, size); /* files that were put together have several */
    text += mark;
    size -= mark;
    const char *at = skip_blanks(text);
    ledger_bytes members[FIELD_COUNT] = { { 0 } };
    ledger_error err = { 0 };
    if ((size_t)(at - text) >= size)
        return true; /* blank */
    if (strlen(text) != size) {
        cli_error(
            "line %llu: there is a NUL byte in it; if the text is UTF-16 convert it to UTF-8, "
            "for example with `iconv -f UTF-16 -t UTF-8`",
            (unsigned long long)number);
        return false;
    }
    if (!cli_json_valid((ledger_bytes){ text, size }, &err)) {
        cli_error("line %llu: not a JSON object: %s", (unsigned long long)number, err.message);
        return false;
    }
    if (*at != '{') {
        cli_error("line %llu: not a JSON object, but another value", (unsigned long long)number);
        return false;
    }
    if (!find_members(number, at, members))
        return false;
    ledger_event *event = decode_members(number, members);
    if (event == NULL)
        return false;
    input->lines[input->count++] = (struct line){
        .number = number,
        .payload_at = (size_t)((const char *)members[PAYLOAD].data - input->data),
        .payload_size = members[PAYLOAD].size,
        .has_stream = members[STREAM].data != NULL,
        .event = event,
    };
    return true;
}

/* --- appending ------------------------------------------------------------------------------ */

static const char *line_stream(const struct input *input, const struct line *line)
{
    return line->has_stream ? ledger_event_get(line->event)->stream : input->stream;
}

static void line_input(const struct input *input, const struct line *line,
                       ledger_append_input *ret_input)
{
    const ledger_append_entry *entry = &ledger_event_get(line->event)->entries[0];
    *ret_input = (ledger_append_input){
        .payload = { input->data + line->payload_at, line->payload_size },
        .order_key = entry->order_key,
        .dedup_key = entry->dedup_key,
        .schema_version = entry->schema_version,
        .metadata = entry->metadata,
        .tags = entry->tags,
    };
}

/* Appends lines of one stream in one call. When it is refused, one by one, to know which line it
 * is; *ret_done counts those that went in. */
static ledger_rc append_run(struct input *input, size_t first, size_t count, size_t *ret_done,
                            ledger_error *err)
{
    ledger_append_input entries[LINES_PER_TRANSACTION];
    const char *stream = line_stream(input, &input->lines[first]);
    for (size_t i = 0; i < count; i++)
        line_input(input, &input->lines[first + i], &entries[i]);
    ledger_ids *ids = &input->ids[input->id_count];
    ledger_rc rc = ledger_store_append(input->store, stream, entries, count, ids, err);
    if (rc == LEDGER_OK) {
        input->id_count++;
        *ret_done = count;
        return rc;
    }
    *ret_done = 0;
    for (size_t i = 0; i < count && count > 1; i++) {
        ids = &input->ids[input->id_count];
        rc = ledger_store_append(input->store, stream, &entries[i], 1, ids, err);
        if (rc != LEDGER_OK)
            break;
        input->id_count++;
        (*ret_done)++;
    }
    return rc;
}

static void print_ids(struct input *input)
{
    bool json = cli_flag(input->cli, OPT_JSON);
    char text[CLI_NUMBER_MAX];
    for (size_t i = 0; i < input->id_count; i++) {
        for (size_t k = 0; k < input->ids[i].count; k++) {
            if (json) {
                json_begin(stdout);
                json_id(stdout, "id", input->ids[i].items[k]);
                json_end(stdout);
            } else {
                puts(cli_id_text(input->ids[i].items[k], text));
            }
        }
        input->appended += input->ids[i].count;
    }
}

static void forget_lines(struct input *input)
{
    for (size_t i = 0; i < input->count; i++)
        ledger_event_destroy(&input->lines[i].event);
    for (size_t i = 0; i < input->id_count; i++)
        ledger_ids_destroy(&input->ids[i]);
    input->count = input->id_count = 0;
    memmove(input->data, input->data + input->start, input->size - input->start);
    input->size -= input->start;
    input->scanned -= input->start;
    input->start = 0;
}

/* May what went in before the refused line stay? Not when the database itself is in trouble. */
static bool is_line_fault(ledger_rc rc)
{
    return rc == LEDGER_ERR_DATA || rc == LEDGER_ERR_TOO_LARGE || rc == LEDGER_ERR_INVALID;
}

/* Appends what is collected, in one transaction. 0, or the exit code after a message. */
static int append_lines(struct input *input)
{
    ledger_error err = { 0 }, commit_err = { 0 };
    int exit_code = CLI_EXIT_OK;
    size_t done = 0;
    if (input->count == 0)
        return CLI_EXIT_OK;
    ledger_rc rc = ledger_store_begin(input->store, &err);
    if (rc != LEDGER_OK)
        return cli_fail(rc, &err, NULL);
    while (rc == LEDGER_OK && done < input->count) {
        size_t run = 1, went_in = 0;
        const char *stream = line_stream(input, &input->lines[done]);
        while (done + run < input->count &&
               strcmp(line_stream(input, &input->lines[done + run]), stream) == 0)
            run++;
        rc = append_run(input, done, run, &went_in, &err);
        done += went_in;
    }
    if (rc != LEDGER_OK) {
        char what[40];
        snprintf(what, sizeof what, "line %llu", (unsigned long long)input->lines[done].number);
        exit_code = cli_fail(rc, &err, is_line_fault(rc) ? what : NULL);
    }
    if (rc != LEDGER_OK && !is_line_fault(rc)) {
        rc = ledger_store_rollback(input->store, &commit_err);
    } else {
        rc = ledger_store_commit(input->store, &commit_err);
        if (rc == LEDGER_OK) {
            print_ids(input);
            input->done = done > 0 ? input->lines[done - 1].number : input->done;
        }
    }
    if (rc != LEDGER_OK)
        exit_code = cli_fail(rc, &commit_err, NULL);
    forget_lines(input);
    if (!cli_flush() && exit_code == 0)
        exit_code = CLI_EXIT_FAILED; /* what is appended already is told at the end */
    return exit_code;
}

/* --- reading -------------------------------------------------------------------------------- */

/* Reads some more; false: error, printed. At the end `ended` is set. */
static bool read_more(struct input *input)
{
    enum { CHUNK = 1 << 16 };
    if (input->cap - input->size < CHUNK + 1) {
        input->cap = input->cap * 2 + CHUNK + 1;
        input->data = cli_alloc(input->data, input->cap);
    }
    ssize_t got;
    do
        got = read(STDIN_FILENO, input->data + input->size, CHUNK);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        cli_error("cannot read stdin: %s", strerror(errno));
    else
        input->size += (size_t)got;
    input->ended = got == 0;
    return got >= 0;
}

/* Nothing to read for a moment? */
static bool stdin_pauses(void)
{
    struct pollfd fd = { .fd = STDIN_FILENO, .events = POLLIN };
    return poll(&fd, 1, PAUSE_MS) == 0;
}

/* Finds the next line; false: there is no whole one in the buffer. */
static bool next_line(struct input *input, size_t *ret_size, size_t *ret_step)
{
    char *end = memchr(input->data + input->scanned, '\n', input->size - input->scanned);
    if (end != NULL) {
        *end = '\0';
        *ret_size = (size_t)(end - input->data) - input->start;
        *ret_step = *ret_size + 1;
        return true;
    }
    input->scanned = input->size;
    *ret_size = *ret_step = input->size - input->start;
    input->data[input->size] = '\0';
    return input->ended && *ret_size > 0;
}

static bool is_full(const struct input *input)
{
    return input->count == LINES_PER_TRANSACTION || input->start > BYTES_PER_TRANSACTION;
}

/* 0 at the end of stdin, else the exit code of what ended it, printed. */
static int append_all(struct input *input)
{
    for (;;) {
        size_t size = 0, step = 0;
        int exit_code = CLI_EXIT_OK;
        if (input->cap > 0 && next_line(input, &size, &step)) {
            bool good = take_line(input, size);
            input->start += step;
            input->scanned = input->start;
            if (!good || is_full(input))
                exit_code = append_lines(input);
            if (exit_code != 0 || !good)
                return exit_code != 0 ? exit_code : CLI_EXIT_DATA;
        } else if (input->ended) {
            return append_lines(input);
        } else if (input->size - input->start > LINE_MAX_BYTES) {
            exit_code = append_lines(input);
            cli_error("line %llu: over the limit of %zu MiB", (unsigned long long)input->number + 1,
                      LINE_MAX_BYTES >> 20);
            return exit_code != 0 ? exit_code : CLI_EXIT_DATA;
        } else {
            if (input->count > 0 && stdin_pauses())
                exit_code = append_lines(input);
            if (exit_code != 0)
                return exit_code;
            if (!read_more(input))
                return append_lines(input), CLI_EXIT_FAILED;
        }
    }
}

int cli_stream_append_lines(const struct cli *cli, ledger_store *store, const char *stream)
{
    char number[CLI_NUMBER_MAX];
    struct input *input = cli_alloc(NULL, sizeof *input);
    memset(input, 0, sizeof *input);
    input->cli = cli;
    input->store = store;
    input->stream = stream;
    int exit_code = append_all(input);
    if (exit_code != 0 && input->done == 0)
        cli_error("nothing was appended");
    else if (exit_code != 0)
        cli_error("%s %s appended: the lines up to line %llu are in, the rest is not",
                  cli_grouped(input->appended, number), input->appended == 1 ? "entry" : "entries",
                  (unsigned long long)input->done);
    else if (cli_verbosity() > 0)
        cli_note("%s entries appended from %llu lines", cli_grouped(input->appended, number),
                 (unsigned long long)input->number);
    for (size_t i = 0; i < input->count; i++)
        ledger_event_destroy(&input->lines[i].event);
    cli_free(input->data);
    cli_free(input);
    return exit_code;
}
