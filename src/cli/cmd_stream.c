/* ledgerctl stream: writing and reading entries. Reads go page by page, so memory is bounded by a
 * page whatever --limit says. */
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

#define PAGE 1000
#define DEFAULT_LIMIT 100

static const char *stream_name(const struct cli *cli)
{
    const char *name = cli_text(cli, OPT_STREAM);
    return name != NULL ? name : "default";
}

/* --- append --------------------------------------------------------------------------------- */

/* All of stdin, without a byte order mark and one line end at its end. Caller: cli_free(). NULL:
 * printed. */
static char *read_stdin(size_t *ret_size, int *ret_exit)
{
    size_t size = 0, cap = 1 << 16;
    char *data = cli_alloc(NULL, cap);
    for (;;) {
        ssize_t got = read(STDIN_FILENO, data + size, cap - size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            cli_error("cannot read stdin: %s", strerror(errno));
            *ret_exit = CLI_EXIT_FAILED;
            goto fail;
        }
        if (got == 0)
            break;
        size += (size_t)got;
        if (size > LEDGER_MAX_PAYLOAD_BYTES + 2) {
            cli_error("the payload on stdin is over the limit of %zu MiB",
                      LEDGER_MAX_PAYLOAD_BYTES >> 20);
            *ret_exit = CLI_EXIT_DATA;
            goto fail;
        }
        if (size == cap)
            data = cli_alloc(data, cap *= 2);
    }
    if (size > 0 && data[size - 1] == '\n')
        size -= size > 1 && data[size - 2] == '\r' ? 2 : 1;
    size_t mark = cli_mark_size(data, size);
    memmove(data, data + mark, size - mark);
    *ret_size = size - mark;
    return data;
fail:
    cli_free(data);
    return NULL;
}

static void print_id(bool json, ledger_id id)
{
    char text[CLI_NUMBER_MAX];
    if (json) {
        json_begin(stdout);
        json_id(stdout, "id", id);
        json_end(stdout);
    } else {
        puts(cli_id_text(id, text));
    }
}

static int append_one(const struct cli *cli, ledger_store *store, ledger_bytes payload)
{
    ledger_map metadata = cli_pairs(cli, OPT_META, false);
    ledger_append_input input = {
        .payload = payload,
        .order_key = cli_text(cli, OPT_ORDER_KEY),
        .dedup_key = cli_text(cli, OPT_DEDUP_KEY),
        .schema_version = (int)cli_number(cli, OPT_SCHEMA_VERSION, 1),
        .metadata = metadata,
        .tags = cli_list(cli, OPT_TAG),
    };
    ledger_ids ids = { 0 };
    ledger_error err = { 0 }, ignored = { 0 };
    char id[CLI_NUMBER_MAX];
    int exit_code = CLI_EXIT_OK;
    ledger_rc rc = LEDGER_ERR_DATA;
    if (payload.size == 0)
        snprintf(err.message, sizeof err.message, "the payload is empty");
    else
        rc = ledger_store_append(store, stream_name(cli), &input, 1, &ids, &err);
    if (rc != LEDGER_OK) {
        exit_code = cli_fail(rc, &err, NULL);
        bool is_text = payload.size > 0 && isprint(*(const unsigned char *)payload.data) != 0 &&
                       memchr(payload.data, '\0', payload.size) == NULL;
        if (rc == LEDGER_ERR_DATA && is_text && !cli_json_valid(payload, &ignored))
            cli_error("a payload is JSON; a text is put in double quotes inside the shell's: "
                      "'\"some text\"'");
    } else if (ids.count == 0) {
        cli_note("left out: stream %s has an entry with this dedup key",
                 cli_shown(stream_name(cli)));
    }
    for (size_t i = 0; i < ids.count; i++)
        print_id(cli_flag(cli, OPT_JSON), ids.items[i]);
    /* Whoever tries again would have it twice. */
    if (!cli_flush() && ids.count > 0)
        cli_error("the entry is appended already, with id %s: do not append it again",
                  cli_id_text(ids.items[0], id));
    ledger_ids_destroy(&ids);
    cli_free((void *)metadata.items);
    return exit_code;
}

/* Options of one entry mean nothing for lines, which bring their own. */
static bool lines_options_ok(const struct cli *cli)
{
    static const enum cli_option_id own[] = { OPT_ORDER_KEY, OPT_DEDUP_KEY, OPT_META, OPT_TAG,
                                              OPT_SCHEMA_VERSION };
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) {
        if (cli->values[own[i]].from_argument) {
            cli_error("--%s does not go with --lines: each line brings its own",
                      cli_options[own[i]].name);
            return false;
        }
    }
    return true;
}

int cli_stream_append(const struct cli *cli)
{
    bool lines = cli_flag(cli, OPT_LINES);
    bool from_stdin = cli->arg_count == 1 && strcmp(cli->args[0], "-") == 0;
    ledger_store *store = NULL;
    char *data = NULL;
    ledger_bytes payload = { 0 };
    if (lines ? cli->arg_count > 0 && !from_stdin : cli->arg_count == 0) {
        cli_error(lines ? "--lines reads stdin and takes no payload argument"
                        : "give a payload, or - for stdin, or --lines");
        return CLI_EXIT_USAGE;
    }
    if (lines && !lines_options_ok(cli))
        return CLI_EXIT_USAGE;
    int exit_code = cli_store_open(cli, CLI_STORE, 0, &store);
    if (exit_code != 0)
        return exit_code;
    if (lines) {
        exit_code = cli_stream_append_lines(cli, store, stream_name(cli));
        goto out;
    }
    if (from_stdin) {
        data = read_stdin(&payload.size, &exit_code);
        if (data == NULL)
            goto out;
        payload.data = data;
    } else {
        payload = (ledger_bytes){ cli->args[0], strlen(cli->args[0]) };
    }
    exit_code = append_one(cli, store, payload);
out:
    cli_free(data);
    ledger_store_close(&store);
    return exit_code;
}

/* --- read, search, tail --------------------------------------------------------------------- */

struct query {
    const struct cli *cli;
    ledger_store *store;
    const char *stream; /* NULL: every stream */
    const char *text;   /* NULL: no search */
    ledger_read_options options;
    char after[LEDGER_ID_TEXT_MAX]; /* options.after's text, of a store with such ids */
};

static void go_behind(struct query *query, ledger_id id)
{
    query->options.has_after = true;
    query->options.after = id;
    if (id.text != NULL) {
        (void)snprintf(query->after, sizeof(query->after), "%s", id.text);
        query->options.after.text = query->after;
    }
}

static ledger_rc query_page(const struct query *query, ledger_batch **ret_batch, ledger_error *err)
{
    if (query->text != NULL)
        return ledger_store_search(query->store, query->stream, query->text, &query->options,
                                   ret_batch, err);
    return ledger_store_read(query->store, query->stream, &query->options, ret_batch, err);
}

static bool query_after(struct query *query, const char *text)
{
    ledger_id id = { 0 };
    if (text == NULL)
        return true;
    if (!cli_parse_number(text, INT64_MIN, INT64_MAX, &id.number))
        id.text = text;
    if (text[0] == '\0' || strlen(text) >= sizeof(query->after)) {
        cli_error("--after: \"%s\" is not an id", cli_shown(text));
        return false;
    }
    go_behind(query, id);
    return true;
}

static void query_init(struct query *query, const struct cli *cli, ledger_store *store)
{
    *query = (struct query){ .cli = cli, .store = store };
    ledger_read_options_defaults(&query->options);
    query->options.descending = cli_flag(cli, OPT_DESC);
    query->options.order_key = cli_text(cli, OPT_ORDER_KEY);
    query->options.all_tags = cli_list(cli, OPT_TAG);
    query->options.metadata = cli_pairs(cli, OPT_META, false);
    query->options.annotations = cli_pairs(cli, OPT_ANNOTATION, false);
    query->options.full_text = cli_flag(cli, OPT_FULL_TEXT);
}

static void query_fini(struct query *query)
{
    cli_free((void *)query->options.metadata.items);
    cli_free((void *)query->options.annotations.items);
}

/* Prints one page and goes behind it. */
static size_t print_page(struct query *query, ledger_batch *batch)
{
    size_t count = ledger_batch_count(batch);
    bool json = cli_flag(query->cli, OPT_JSON);
    for (size_t i = 0; i < count; i++) {
        const ledger_entry *entry = ledger_batch_entry(batch, i);
        print_entry(stdout, entry, json, query->stream == NULL);
        go_behind(query, entry->id);
    }
    return count;
}

static int print_query(struct query *query, uint64_t limit)
{
    ledger_error err = { 0 };
    uint64_t left = limit > 0 ? limit : UINT64_MAX;
    bool more = true;
    while (left > 0 && more) {
        ledger_batch *batch = NULL;
        query->options.limit = left < PAGE ? (size_t)left : PAGE;
        ledger_rc rc = query_page(query, &batch, &err);
        if (rc != LEDGER_OK)
            return cli_fail(rc, &err, NULL);
        size_t count = print_page(query, batch);
        left -= count;
        more = count > 0; /* a page may be short because of its bytes */
        ledger_batch_destroy(&batch);
        if (!cli_flush())
            return CLI_EXIT_FAILED;
    }
    return CLI_EXIT_OK;
}

/* With the default limit nobody should take a part for the whole. */
static void note_more(struct query *query, bool shown_all)
{
    ledger_batch *batch = NULL;
    char id[CLI_NUMBER_MAX];
    query->options.limit = 1;
    if (shown_all || cli_quiet() || !query->options.has_after ||
        query_page(query, &batch, NULL) != LEDGER_OK)
        return;
    if (ledger_batch_count(batch) > 0)
        cli_note("(more follow: --after %s, or --limit 0 for all)",
                 cli_id_text(query->options.after, id));
    ledger_batch_destroy(&batch);
}

static int read_or_search(const struct cli *cli, const char *stream, const char *text)
{
    ledger_store *store = NULL;
    struct query query;
    int exit_code = cli_store_open(cli, CLI_STORE, LEDGER_STORE_READ_ONLY, &store);
    if (exit_code != 0)
        return exit_code;
    cli_output_may_be_cut();
    query_init(&query, cli, store);
    query.stream = stream;
    query.text = text;
    if (!query_after(&query, cli_text(cli, OPT_AFTER))) {
        exit_code = CLI_EXIT_USAGE;
    } else {
        exit_code = print_query(&query, (uint64_t)cli_number(cli, OPT_LIMIT, DEFAULT_LIMIT));
        if (exit_code == 0)
            note_more(&query, cli_is_set(cli, OPT_LIMIT));
    }
    query_fini(&query);
    ledger_store_close(&store);
    return exit_code;
}

int cli_stream_read(const struct cli *cli)
{
    return read_or_search(cli, stream_name(cli), NULL);
}

int cli_stream_search(const struct cli *cli)
{
    return read_or_search(cli, cli_text(cli, OPT_STREAM), cli->args[0]);
}

/* Waits; a reader that went away ends it at once, not at the next entry. */
static bool wait_for_more(int timeout_ms)
{
    struct pollfd fd = { .fd = STDOUT_FILENO, .events = 0 };
    return poll(&fd, 1, timeout_ms) <= 0;
}

static int follow(struct query *query, ledger_tail *tail)
{
    ledger_error err = { 0 };
    int pause_ms = 50;
    while (!cli_stop_asked()) {
        ledger_batch *batch = NULL;
        ledger_rc rc = ledger_tail_read(tail, &batch, &err);
        if (rc == LEDGER_ERR_CANCELLED && cli_stop_asked())
            break;
        if (rc == LEDGER_ERR_INVALID && query->stream == NULL) {
            cli_error("this store cannot follow every stream at once: give --stream NAME");
            return CLI_EXIT_USAGE;
        }
        if (rc != LEDGER_OK && (err.flags & LEDGER_ERROR_RETRY) == 0)
            return cli_fail(rc, &err, NULL);
        size_t count = rc == LEDGER_OK ? print_page(query, batch) : 0;
        ledger_batch_destroy(&batch);
        if (!cli_flush())
            return CLI_EXIT_FAILED;
        pause_ms = count > 0 ? 50 : pause_ms < 200 ? pause_ms + 10 : 200;
        if (count == 0 && !wait_for_more(pause_ms))
            return CLI_EXIT_FAILED; /* like any other output that is cut */
    }
    return CLI_EXIT_OK;
}

int cli_stream_tail(const struct cli *cli)
{
    ledger_store *store = NULL;
    ledger_tail *tail = NULL;
    struct query query;
    ledger_error err = { 0 };
    const char *after = cli_text(cli, OPT_AFTER);
    bool at_end = after != NULL && strcmp(after, "end") == 0;
    int exit_code = cli_store_open(cli, CLI_STORE, LEDGER_STORE_READ_ONLY, &store);
    if (exit_code != 0)
        return exit_code;
    cli_output_may_be_cut();
    cli_stop_catch();
    query_init(&query, cli, store);
    query.stream = cli_text(cli, OPT_STREAM);
    query.options.limit = PAGE;
    if (!at_end && !query_after(&query, after)) {
        exit_code = CLI_EXIT_USAGE;
    } else {
        ledger_rc rc = ledger_tail_open(store, query.stream, &query.options, at_end, &tail, &err);
        exit_code = rc == LEDGER_OK ? follow(&query, tail) : cli_fail(rc, &err, NULL);
    }
    ledger_tail_close(&tail);
    query_fini(&query);
    ledger_store_close(&store);
    return exit_code;
}

/* --- count, stat, list ---------------------------------------------------------------------- */

int cli_stream_count(const struct cli *cli)
{
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    uint64_t count = 0;
    int exit_code = cli_store_open(cli, CLI_STORE, LEDGER_STORE_READ_ONLY, &store);
    if (exit_code != 0)
        return exit_code;
    ledger_rc rc = ledger_store_count(store, cli_text(cli, OPT_STREAM), &count, &err);
    if (rc != LEDGER_OK) {
        exit_code = cli_fail(rc, &err, NULL);
    } else if (cli_flag(cli, OPT_JSON)) {
        json_begin(stdout);
        json_text(stdout, "stream", cli_text(cli, OPT_STREAM));
        json_count(stdout, "count", count);
        json_end(stdout);
    } else {
        printf("%llu\n", (unsigned long long)count);
    }
    ledger_store_close(&store);
    return exit_code;
}

static void print_stat(const struct cli *cli, const ledger_stream_stat *stat)
{
    const char *stream = cli_text(cli, OPT_STREAM);
    char id[CLI_NUMBER_MAX], when[CLI_TIME_MAX];
    if (cli_flag(cli, OPT_JSON)) {
        json_begin(stdout);
        json_text(stdout, "stream", stream);
        json_count(stdout, "count", stat->count);
        json_text(stdout, "first_id", stat->count > 0 ? cli_id_text(stat->first_id, id) : NULL);
        json_time(stdout, "first_at", stat->first_at_us);
        json_text(stdout, "last_id", stat->count > 0 ? cli_id_text(stat->last_id, id) : NULL);
        json_time(stdout, "last_at", stat->last_at_us);
        json_end(stdout);
        return;
    }
    fputs("stream  ", stdout);
    if (stream != NULL)
        print_plain(stdout, stream, strlen(stream));
    else
        fputs("(all)", stdout);
    printf("\ncount   %llu\n", (unsigned long long)stat->count);
    if (stat->count == 0)
        return;
    printf("first   %s  %s\n", cli_id_text(stat->first_id, id),
           cli_time_text(stat->first_at_us, when));
    printf("last    %s  %s\n", cli_id_text(stat->last_id, id),
           cli_time_text(stat->last_at_us, when));
}

int cli_stream_stat(const struct cli *cli)
{
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    ledger_stream_stat stat = { 0 };
    int exit_code = cli_store_open(cli, CLI_STORE, LEDGER_STORE_READ_ONLY, &store);
    if (exit_code != 0)
        return exit_code;
    ledger_rc rc = ledger_store_stat(store, cli_text(cli, OPT_STREAM), &stat, &err);
    if (rc != LEDGER_OK)
        exit_code = cli_fail(rc, &err, NULL);
    else
        print_stat(cli, &stat);
    ledger_store_close(&store);
    return exit_code;
}

static void print_name(bool json, const char *name)
{
    if (json) {
        json_begin(stdout);
        json_text(stdout, "stream", name);
        json_end(stdout);
    } else {
        print_plain(stdout, name, strlen(name));
        putchar('\n');
    }
}

/* Page by page; the last name of a page is kept for the next. */
static int list_streams(const struct cli *cli, ledger_store *store)
{
    uint64_t limit = (uint64_t)cli_number(cli, OPT_LIMIT, DEFAULT_LIMIT);
    uint64_t left = limit > 0 ? limit : UINT64_MAX;
    const char *given = cli_text(cli, OPT_AFTER);
    char *after = NULL;
    ledger_error err = { 0 };
    int exit_code = CLI_EXIT_OK;
    for (size_t count = 1; count > 0 && exit_code == 0;) {
        ledger_names names = { 0 };
        /* One more than is printed: it tells whether more follow. */
        size_t ask = left < PAGE ? (size_t)left + 1 : PAGE;
        ledger_rc rc =
            ledger_store_list_streams(store, after != NULL ? after : given, ask, &names, &err);
        if (rc != LEDGER_OK) {
            exit_code = cli_fail(rc, &err, NULL);
            break;
        }
        count = names.count < left ? names.count : (size_t)left;
        for (size_t i = 0; i < count; i++)
            print_name(cli_flag(cli, OPT_JSON), names.items[i]);
        left -= count;
        if (names.count > count && !cli_is_set(cli, OPT_LIMIT))
            cli_note("(more follow: --limit 0 for all)");
        if (count > 0) {
            size_t size = strlen(names.items[count - 1]) + 1;
            after = cli_alloc(after, size);
            memcpy(after, names.items[count - 1], size);
        }
        if (names.count > count || left == 0)
            count = 0; /* done */
        ledger_names_destroy(&names);
        if (!cli_flush())
            exit_code = CLI_EXIT_FAILED;
    }
    cli_free(after);
    return exit_code;
}

int cli_stream_list(const struct cli *cli)
{
    ledger_store *store = NULL;
    int exit_code = cli_store_open(cli, CLI_STORE, LEDGER_STORE_READ_ONLY, &store);
    if (exit_code != 0)
        return exit_code;
    cli_output_may_be_cut();
    exit_code = list_streams(cli, store);
    ledger_store_close(&store);
    return exit_code;
}

/* --- tag, annotate, trim -------------------------------------------------------------------- */

static bool need(const struct cli *cli, enum cli_option_id id)
{
    if (!cli_is_set(cli, id))
        cli_error("`ledgerctl %s` needs --%s %s", cli->command->words, cli_options[id].name,
                  cli_options[id].arg);
    return cli_is_set(cli, id);
}

/* Opens the store for a write on entry --id; 0 = go on. */
static int open_for_entry(const struct cli *cli, ledger_store **ret_store)
{
    if (!need(cli, OPT_ID))
        return CLI_EXIT_USAGE;
    return cli_store_open(cli, CLI_STORE, 0, ret_store);
}

int cli_stream_tag(const struct cli *cli)
{
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    int exit_code = open_for_entry(cli, &store);
    if (exit_code != 0)
        return exit_code;
    ledger_id id = { .number = cli_number(cli, OPT_ID, 0) };
    ledger_rc rc = ledger_store_set_tags(store, stream_name(cli), id, cli_list(cli, OPT_TAG), &err);
    if (rc != LEDGER_OK)
        exit_code = cli_fail(rc, &err, NULL);
    ledger_store_close(&store);
    return exit_code;
}

int cli_stream_annotate(const struct cli *cli)
{
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    if (!need(cli, OPT_SET))
        return CLI_EXIT_USAGE;
    int exit_code = open_for_entry(cli, &store);
    if (exit_code != 0)
        return exit_code;
    ledger_id id = { .number = cli_number(cli, OPT_ID, 0) };
    ledger_map map = cli_pairs(cli, OPT_SET, true);
    ledger_rc rc = ledger_store_set_annotations(store, stream_name(cli), id, map, &err);
    if (rc != LEDGER_OK)
        exit_code = cli_fail(rc, &err, NULL);
    cli_free((void *)map.items);
    ledger_store_close(&store);
    return exit_code;
}

int cli_stream_trim(const struct cli *cli)
{
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    uint64_t deleted = 0;
    if (!need(cli, OPT_BEFORE))
        return CLI_EXIT_USAGE;
    int exit_code = cli_store_open(cli, CLI_STORE, 0, &store);
    if (exit_code != 0)
        return exit_code;
    ledger_id before = { .number = cli_number(cli, OPT_BEFORE, 0) };
    ledger_rc rc = ledger_store_trim(store, stream_name(cli), before, &deleted, &err);
    if (rc != LEDGER_OK) {
        exit_code = cli_fail(rc, &err, NULL);
    } else if (cli_flag(cli, OPT_JSON)) {
        json_begin(stdout);
        json_count(stdout, "deleted", deleted);
        json_end(stdout);
    } else {
        printf("%llu\n", (unsigned long long)deleted);
    }
    if (rc == LEDGER_OK && !cli_flush())
        cli_error("%llu entries are deleted already", (unsigned long long)deleted);
    ledger_store_close(&store);
    return exit_code;
}
