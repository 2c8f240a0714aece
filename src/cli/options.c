/* The table of options and its parser. Precedence: argument, then environment, then default.
 *
 * An option means the same in every command; which command takes which is in commands.c. A value is
 * checked here, once, wherever it came from, and the message names the option or the variable. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/cli.h"

const struct cli_option cli_options[OPT_COUNT] = {
    [OPT_STORE] = { "store", 0, CLI_NAME, "URL", NULL, 0, 0, NULL,
                    "the store: sqlite:PATH, postgresql://HOST/DATABASE or "
                    "clickhouse://HOST/DATABASE" },
    [OPT_SOURCE] = { "source", 0, CLI_NAME, "URL", NULL, 0, 0, NULL,
                     "the store whose changes are carried" },
    [OPT_SINK] = { "sink", 0, CLI_NAME, "URL", NULL, 0, 0, NULL,
                   "the store, or the webhook (https://HOST/PATH), that they are carried to" },
    [OPT_TABLE] = { "table", 0, CLI_NAME, "NAME", LEDGER_DEFAULT_TABLE, 0, 0, NULL,
                    "table of the entries" },
    [OPT_LOG_TABLE] = { "log-table", 0, CLI_NAME, "NAME", "<table>_mutations", 0, 0, NULL,
                        "table of the mutation log" },
    [OPT_SOURCE_TABLE] = { "source-table", 0, CLI_NAME, "NAME", "--table", 0, 0, NULL,
                           "table of the source" },
    [OPT_SINK_TABLE] = { "sink-table", 0, CLI_NAME, "NAME", "--table", 0, 0, NULL,
                         "table of the sink" },
    [OPT_SOURCE_LOG_TABLE] = { "source-log-table", 0, CLI_NAME, "NAME", "--log-table", 0, 0, NULL,
                               "mutation log of the source" },
    [OPT_SINK_LOG_TABLE] = { "sink-log-table", 0, CLI_NAME, "NAME", "--log-table", 0, 0, NULL,
                             "mutation log of the sink, if it has one" },
    [OPT_BUSY_TIMEOUT] = { "busy-timeout", 0, CLI_DURATION, "TIME", "5s", 0, 3600000, NULL,
                           "how long to wait for a lock" },
    [OPT_PASSWORD_FILE] = { "password-file", 0, CLI_NAME, "FILE", NULL, 0, 0, NULL,
                            "file whose first line is the password of the database" },
    [OPT_CA_FILE] = { "ca-file", 0, CLI_NAME, "FILE", NULL, 0, 0, NULL,
                      "certificates (PEM) to trust over HTTP instead of the system's" },
    [OPT_CLIENT_CERT] = { "client-cert", 0, CLI_NAME, "FILE", NULL, 0, 0, NULL,
                          "certificate (PEM) to show a server over HTTP that asks for one" },
    [OPT_CLIENT_KEY] = { "client-key", 0, CLI_NAME, "FILE", "in the file of --client-cert", 0, 0,
                         NULL, "its key (PEM), without a passphrase" },
    [OPT_HEADER_FILE] = { "header-file", 0, CLI_NAME, "FILE", NULL, 0, 0, NULL,
                          "headers for each HTTP request, one \"Name: value\" a line" },
    [OPT_SECRET_FILE] = { "secret-file", 0, CLI_NAME, "FILE", NULL, 0, 0, NULL,
                          "webhook: signing secrets, one \"whsec_…\" a line; ClickHouse: the "
                          "password" },
    [OPT_INSECURE] = { "insecure", 0, CLI_FLAG, NULL, NULL, 0, 0, NULL,
                       "speak plain HTTP to another machine, too: what is sent can be read" },
    [OPT_TIMEOUT] = { "timeout", 0, CLI_DURATION, "TIME", "30s; ClickHouse 5m", 1,
                      LEDGER_HTTP_TIMEOUT_MAX_MS, NULL, "for an HTTP request as a whole" },
    [OPT_CONNECT_TIMEOUT] = { "connect-timeout", 0, CLI_DURATION, "TIME", "10s", 1,
                              LEDGER_HTTP_TIMEOUT_MAX_MS, NULL, "of them, until it is connected" },
    [OPT_NO_LOG] = { "no-log", 0, CLI_FLAG, NULL, NULL, 0, 0, NULL,
                     "make no mutation log: the store can only be a sink" },
    [OPT_NEW_IDENTITY] = { "new-identity", 0, CLI_FLAG, NULL, NULL, 0, 0, NULL,
                           "give a copied database a new identity" },
    [OPT_NOTIFY] = { "notify", 0, CLI_FLAG, NULL, NULL, 0, 0, NULL,
                     "let each commit wake the bridges at once (PostgreSQL; slows many "
                     "writers, rules out two-phase transactions)" },
    [OPT_FULL_TEXT] = { "full-text", 0, CLI_FLAG, NULL, NULL, 0, 0, NULL,
                        "search whole words; store init: make the index for it (PostgreSQL)" },
    [OPT_STREAM] = { "stream", 0, CLI_TEXT, "NAME", "default", 0, 0, NULL,
                     "the stream; without it search, count, stat and tail take every one" },
    [OPT_LINES] = { "lines", 0, CLI_FLAG, NULL, NULL, 0, 0, NULL,
                    "read one JSON object per line from stdin" },
    [OPT_ORDER_KEY] = { "order-key", 0, CLI_TEXT, "KEY", NULL, 0, 0, NULL,
                        "order key; when reading: only entries with it" },
    [OPT_DEDUP_KEY] = { "dedup-key", 0, CLI_TEXT, "KEY", NULL, 0, 0, NULL,
                        "an entry whose key its stream has already is left out" },
    [OPT_SCHEMA_VERSION] = { "schema-version", 0, CLI_COUNT, "N", "1", 1, INT32_MAX, NULL,
                             "schema version of the payload" },
    [OPT_META] = { "meta", 0, CLI_PAIRS, "K=V", NULL, 0, 0, NULL,
                   "metadata; when reading: only entries with it; repeatable" },
    [OPT_TAG] = { "tag", 0, CLI_LIST, "TAG", NULL, 0, 0, NULL,
                  "tag; when reading: only entries with all of them; repeatable" },
    [OPT_ANNOTATION] = { "annotation", 0, CLI_PAIRS, "K=V", NULL, 0, 0, NULL,
                         "only entries with this annotation; repeatable" },
    [OPT_AFTER] = { "after", 0, CLI_TEXT, "ID", NULL, 0, 0, NULL,
                    "start behind this id (stream list: this name; tail: also `end`)" },
    [OPT_LIMIT] = { "limit", 0, CLI_COUNT, "N", "100", 0, INT64_MAX, NULL,
                    "at most so many; 0: all" },
    [OPT_DESC] = { "desc", 0, CLI_FLAG, NULL, NULL, 0, 0, NULL, "newest first" },
    [OPT_ID] = { "id", 0, CLI_COUNT, "ID", NULL, 1, INT64_MAX, NULL, "the entry" },
    [OPT_SET] = { "set", 0, CLI_PAIRS, "K=V", NULL, 0, 0, NULL,
                  "annotation to set; K= deletes it; repeatable" },
    [OPT_BEFORE] = { "before", 0, CLI_COUNT, "ID", NULL, INT64_MIN, INT64_MAX, NULL,
                     "the last id to delete" },
    [OPT_NAME] = { "name", 0, CLI_NAME, "NAME", LEDGER_BRIDGE_DEFAULT_NAME, 0, 0, NULL,
                   "name of the bridge and its cursor" },
    [OPT_BATCH_SIZE] = { "batch-size", 0, CLI_COUNT, "N", "500", 1, 1000000, NULL,
                         "mutations per batch" },
    [OPT_BACKLOG_BATCH_SIZE] = { "backlog-batch-size", 0, CLI_COUNT, "N", "5000", 1, 1000000, NULL,
                                 "mutations per sink transaction while there is a backlog" },
    [OPT_MAX_BATCH_BYTES] = { "max-batch-bytes", 0, CLI_BYTES, "SIZE", "4M", 1, INT64_C(1) << 30,
                              NULL, "a batch ends at this size" },
    [OPT_INTERVAL] = { "interval", 0, CLI_DURATION, "TIME", "5s", 1, 86400000, NULL,
                       "longest wait between two looks at the source" },
    [OPT_PARALLEL_STREAMS] = { "parallel-streams", 0, CLI_COUNT, "N", "1", 0, 256, NULL,
                               "sink connections that apply streams side by side; for a webhook 4 "
                               "unless given" },
    [OPT_MAX_REQUEST_ENTRIES] = { "max-request-entries", 0, CLI_COUNT, "N", "100", 1,
                                  LEDGER_HTTP_REQUEST_ENTRIES_MAX, NULL,
                                  "webhook: entries of a stream in one request" },
    [OPT_MAX_REQUEST_BYTES] = { "max-request-bytes", 0, CLI_BYTES, "SIZE", "1M", 1,
                                (int64_t)LEDGER_HTTP_REQUEST_BYTES_MAX, NULL,
                                "webhook: size of a request's body; one entry always goes" },
    [OPT_BODY] = { "body", 0, CLI_CHOICE, "FORM", "reference", 0, 0, "reference,event,cloudevents",
                   "webhook: what the body of a request is" },
    [OPT_SIGNATURE] = { "signature", 0, CLI_CHOICE, "KIND", "standard", 0, 0, "standard,ledger",
                        "webhook: with `ledger` there is X-Ledger-Signature, too" },
    [OPT_SKIP] = { "skip", 0, CLI_TYPES, "TYPES", NULL, 0, 0,
                   "append,set_tags,set_annotations,trim",
                   "mutation types to drop, separated by commas" },
    [OPT_ON_BAD_EVENT] = { "on-bad-event", 0, CLI_CHOICE, "WHAT", "park", 0, 0, "park,stop",
                           "park it and go on, or stop" },
    [OPT_REFUSAL_LIMIT] = { "refusal-limit", 0, CLI_COUNT, "N", "10", 0, 1000000, NULL,
                            "exit 78 once the sink has refused so many in a row for one reason; "
                            "0: park them all" },
    [OPT_UNTIL_EMPTY] = { "until-empty", 0, CLI_FLAG, NULL, NULL, 0, 0, NULL,
                          "end when nothing is left to carry" },
    [OPT_RETRY_FOR] = { "retry-for", 0, CLI_DURATION, "TIME",
                        "30s at the start and with --until-empty, else for ever", 0,
                        INT64_C(31536000000), NULL,
                        "give up after failing for so long without progress" },
    [OPT_STATE] = { "state", 0, CLI_NAME, "URL", NULL, 0, 0, NULL,
                    "store of the cursor and the parked events of a sink that keeps none" },
    [OPT_STATE_TABLE] = { "state-table", 0, CLI_NAME, "NAME", LEDGER_BRIDGE_DEFAULT_STATE_TABLE, 0,
                          0, NULL, "table of that store" },
    [OPT_CURSOR_FILE] = { "cursor-file", 0, CLI_NAME, "PATH", NULL, 0, 0, NULL,
                          "short for --state sqlite:PATH" },
    [OPT_MAX_LAG] = { "max-lag", 0, CLI_DURATION, "TIME", NULL, 0, INT64_C(31536000000), NULL,
                      "exit 11 when the sink is further behind" },
    [OPT_MAX_REPORTED] = { "max-reported", 0, CLI_COUNT, "N", "10", 0, 1000000, NULL,
                           "differences to print" },
    [OPT_ALL] = { "all", 0, CLI_FLAG, NULL, NULL, 0, 0, NULL, "every parked event" },
    [OPT_ALLOW_SKIP] = { "allow-skip", 0, CLI_FLAG, NULL, NULL, 0, 0, NULL,
                         "allow the cursor to go forward: what lies between is never carried" },
    [OPT_JSON] = { "json", 0, CLI_FLAG, NULL, NULL, 0, 0, NULL,
                   "one JSON object per line; ids and times as strings" },
    [OPT_QUIET] = { "quiet", 'q', CLI_FLAG, NULL, NULL, 0, 0, NULL,
                    "no progress, notes and summary" },
    [OPT_VERBOSE] = { "verbose", 'v', CLI_FLAG, NULL, NULL, 0, 0, NULL,
                      "say more on stderr; -vv: everything" },
    [OPT_HELP] = { "help", 'h', CLI_FLAG, NULL, NULL, 0, 0, NULL, "show this" },
    [OPT_VERSION] = { "version", 0, CLI_FLAG, NULL, NULL, 0, 0, NULL, "show the version" },
};

/* --- values --------------------------------------------------------------------------------- */

bool cli_parse_number(const char *text, int64_t min, int64_t max, int64_t *ret_number)
{
    /* strtoll takes blanks and signs */
    if (!isdigit((unsigned char)text[min < 0 && text[0] == '-' ? 1 : 0]))
        return false;
    char *end = NULL;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0' || number < min || number > max)
        return false;
    *ret_number = number;
    return true;
}

static bool parse_bytes(const char *text, int64_t min, int64_t max, int64_t *ret_number)
{
    static const struct {
        const char *suffix;
        int shift;
    } units[] = { { "", 0 },   { "B", 0 },    { "K", 10 }, { "KiB", 10 },
                  { "M", 20 }, { "MiB", 20 }, { "G", 30 }, { "GiB", 30 } };
    char *end = NULL;
    errno = 0;
    if (!isdigit((unsigned char)text[0]))
        return false;
    long long number = strtoll(text, &end, 10);
    if (errno != 0)
        return false;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcasecmp(end, units[i].suffix) != 0)
            continue;
        if (number > (INT64_MAX >> units[i].shift))
            return false;
        number <<= units[i].shift;
        if (number < min || number > max)
            return false;
        *ret_number = number;
        return true;
    }
    return false;
}

/* Length of the unit at `text` and its milliseconds; microseconds and less are refused. */
static size_t duration_unit(const char *text, int64_t *ret_ms)
{
    if (strncmp(text, "ms", 2) == 0)
        return *ret_ms = 1, 2;
    switch (text[0]) {
    case 's':
        return *ret_ms = 1000, 1;
    case 'm':
        return *ret_ms = 60000, 1;
    case 'h':
        return *ret_ms = 3600000, 1;
    case 'd':
        return *ret_ms = 86400000, 1;
    default:
        return 0;
    }
}

static bool parse_duration(const char *text, int64_t min, int64_t max, int64_t *ret_ms)
{
    double total = 0;
    const char *at = text;
    if (strcmp(text, "0") == 0)
        at = "0s";
    if (*at == '\0')
        return false;
    while (*at != '\0') {
        if (!isdigit((unsigned char)*at))
            return false;
        double number = 0, scale = 1;
        for (; isdigit((unsigned char)*at); at++)
            number = number * 10 + (*at - '0');
        if (*at == '.') {
            for (at++; isdigit((unsigned char)*at); at++)
                number += (*at - '0') * (scale /= 10);
        }
        int64_t unit = 0;
        size_t length = duration_unit(at, &unit);
        if (length == 0)
            return false;
        total += number * (double)unit;
        at += length;
    }
    if (total < (double)min || total > (double)max)
        return false;
    *ret_ms = (int64_t)(total + 0.5);
    return true;
}

/* Index of the word in a comma-separated list, -1: not there. */
static int choice_index(const char *choices, const char *word, size_t size)
{
    int index = 0;
    for (const char *at = choices;; index++) {
        size_t length = strcspn(at, ",");
        if (length == size && memcmp(at, word, size) == 0)
            return index;
        if (at[length] == '\0')
            return -1;
        at += length + 1;
    }
}

static bool parse_types(const char *choices, const char *text, int64_t *ret_bits)
{
    int64_t bits = 0;
    for (const char *at = text;;) {
        size_t length = strcspn(at, ",");
        int index = choice_index(choices, at, length);
        if (index < 0)
            return false;
        bits |= INT64_C(1) << index;
        if (at[length] == '\0')
            break;
        at += length + 1;
    }
    *ret_bits = bits;
    return true;
}

static bool parse_flag_text(const char *text, int64_t *ret_number)
{
    static const char *const yes[] = { "1", "true", "yes", "on" };
    static const char *const no[] = { "0", "false", "no", "off" };
    for (size_t i = 0; i < 4; i++) {
        if (strcasecmp(text, yes[i]) == 0)
            return *ret_number = 1, true;
        if (strcasecmp(text, no[i]) == 0)
            return *ret_number = 0, true;
    }
    return cli_parse_number(text, 0, 9, ret_number);
}

/* What the option takes, for a message. */
static void print_accepted(const struct cli_option *option, char *out, size_t out_size)
{
    switch (option->type) {
    case CLI_COUNT:
        if (option->min < 0)
            snprintf(out, out_size, "a whole number");
        else if (option->max >= INT32_MAX)
            snprintf(out, out_size, "a whole number from %lld", (long long)option->min);
        else
            snprintf(out, out_size, "a whole number from %lld to %lld", (long long)option->min,
                     (long long)option->max);
        break;
    case CLI_BYTES:
        snprintf(out, out_size, "a size from %lld byte to %lld MiB, such as 512K or 4M",
                 (long long)option->min, (long long)(option->max >> 20));
        break;
    case CLI_DURATION:
        snprintf(out, out_size, "a time %s, such as 250ms, 5s or 1m30s",
                 option->min > 0 ? "above 0" : "of 0 or more");
        break;
    case CLI_CHOICE:
        snprintf(out, out_size, "one of %s", option->choices);
        break;
    case CLI_TYPES:
        snprintf(out, out_size, "a list of %s, separated by commas", option->choices);
        break;
    case CLI_PAIRS:
        snprintf(out, out_size, "KEY=VALUE");
        break;
    default:
        snprintf(out, out_size, "0 or 1");
        break;
    }
}

static bool add_item(struct cli_value *value, const char *text)
{
    value->items = cli_alloc(value->items, (value->count + 1) * sizeof *value->items);
    value->items[value->count++] = text;
    return true;
}

/* A name that came out of a file of Windows, or whose bytes nobody would see in a message. */
static bool name_is_clean(const char *text, const char *from)
{
    size_t size = strlen(text), at = 0;
    while (at < size && (unsigned char)text[at] >= ' ' && text[at] != 127)
        at++;
    if (cli_mark_size(text, size) > 0)
        cli_error("%s: the value begins with a byte order mark (U+FEFF): take it out", from);
    else if (at < size && text[at] == '\r' && at + 1 == size)
        cli_error("%s: \"%s\" ends with a carriage return (\\r), the line end of Windows: take it "
                  "out",
                  from, cli_shown(text));
    else if (at < size)
        cli_error("%s: \"%s\" has a control character at byte %zu: take it out", from,
                  cli_shown(text), at);
    return at == size && cli_mark_size(text, size) == 0;
}

/* Takes one value. `from` names where it stands: "--batch-size" or "LEDGER_BATCH_SIZE". */
static bool take_value(struct cli *cli, enum cli_option_id id, const char *text, const char *from)
{
    const struct cli_option *option = &cli_options[id];
    struct cli_value *value = &cli->values[id];
    bool ok = true;
    switch (option->type) {
    case CLI_FLAG:
        ok = parse_flag_text(text, &value->number);
        break;
    case CLI_TEXT:
        break;
    case CLI_NAME:
        if (!name_is_clean(text, from))
            return false;
        break;
    case CLI_LIST:
        ok = add_item(value, text);
        break;
    case CLI_PAIRS:
        ok = text[0] != '=' && strchr(text, '=') != NULL && add_item(value, text);
        break;
    case CLI_COUNT:
        ok = cli_parse_number(text, option->min, option->max, &value->number);
        break;
    case CLI_BYTES:
        ok = parse_bytes(text, option->min, option->max, &value->number);
        break;
    case CLI_DURATION:
        ok = parse_duration(text, option->min, option->max, &value->number);
        break;
    case CLI_CHOICE:
        value->number = choice_index(option->choices, text, strlen(text));
        ok = value->number >= 0;
        break;
    case CLI_TYPES:
        ok = parse_types(option->choices, text, &value->number);
        break;
    }
    if (!ok) {
        char accepted[200];
        print_accepted(option, accepted, sizeof accepted);
        cli_error("%s: \"%s\" is not %s", from, cli_shown(text), accepted);
        return false;
    }
    value->set = true;
    value->text = text;
    return true;
}

/* --- arguments ------------------------------------------------------------------------------ */

static const char *option_name(const void *ctx, size_t index)
{
    return cli_options[index].name;
}

static enum cli_option_id find_option(const char *name, size_t size)
{
    for (size_t id = 0; id < OPT_COUNT; id++) {
        if (strlen(cli_options[id].name) == size && memcmp(cli_options[id].name, name, size) == 0)
            return (enum cli_option_id)id;
    }
    return OPT_END;
}

/* One "--name", "--name=value" or "--name value". */
static bool take_long(struct cli *cli, int argc, char **argv, int *index)
{
    const char *name = argv[*index] + 2;
    const char *equals = strchr(name, '=');
    size_t size = equals != NULL ? (size_t)(equals - name) : strlen(name);
    char plain[40];
    snprintf(plain, sizeof plain, "%.*s", (int)(size < 39 ? size : 39), name);
    enum cli_option_id id = find_option(name, size);
    if (id == OPT_END) {
        const char *near = cli_nearest(plain, option_name, NULL, OPT_COUNT);
        cli_error("unknown option --%s%s%s%s", cli_shown(plain),
                  near != NULL ? "; did you mean --" : "; see `ledgerctl help`",
                  near != NULL ? near : "", near != NULL ? "?" : "");
        return false;
    }
    char from[44];
    snprintf(from, sizeof from, "--%s", plain);
    struct cli_value *value = &cli->values[id];
    value->from_argument = true;
    if (cli_options[id].type == CLI_FLAG) {
        if (equals != NULL)
            return take_value(cli, id, equals + 1, from);
        value->set = true;
        value->number++;
        return true;
    }
    if (equals == NULL && *index + 1 >= argc) {
        cli_error("--%s needs a value: --%s %s", plain, plain, cli_options[id].arg);
        return false;
    }
    return take_value(cli, id, equals != NULL ? equals + 1 : argv[++*index], from);
}

/* "-q", "-vv", "-qv": only flags have letters. */
static bool take_short(struct cli *cli, const char *text)
{
    for (const char *letter = text + 1; *letter != '\0'; letter++) {
        size_t id = 0;
        while (id < OPT_COUNT && cli_options[id].letter != *letter)
            id++;
        if (id == OPT_COUNT) {
            cli_error("unknown option -%s; see `ledgerctl help`",
                      cli_shown((const char[]){ *letter, '\0' }));
            return false;
        }
        cli->values[id].set = cli->values[id].from_argument = true;
        cli->values[id].number++;
    }
    return true;
}

bool cli_options_arguments(struct cli *cli, int argc, char **argv)
{
    bool only_args = false;
    for (int i = 1; i < argc; i++) {
        const char *text = argv[i];
        if (!only_args && strcmp(text, "--") == 0) {
            only_args = true;
        } else if (!only_args && strncmp(text, "--", 2) == 0) {
            if (!take_long(cli, argc, argv, &i))
                return false;
        } else if (!only_args && text[0] == '-' && text[1] != '\0') {
            if (!take_short(cli, text))
                return false;
        } else {
            cli->args = cli_alloc(cli->args, (cli->arg_count + 1) * sizeof *cli->args);
            cli->args[cli->arg_count++] = text;
        }
    }
    return true;
}

void cli_option_env(const struct cli_option *option, char *out, size_t out_size)
{
    int size = snprintf(out, out_size, "LEDGER_%s", option->name);
    for (int i = 0; i < size && (size_t)i < out_size; i++)
        out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
}

/* A variable of a repeatable option holds one value per line. The copy lives as long as cli. */
static bool read_env_items(struct cli *cli, enum cli_option_id id, const char *text,
                           const char *from)
{
    char *copy = cli_alloc(NULL, strlen(text) + 1);
    memcpy(copy, text, strlen(text) + 1);
    cli->values[id].text = copy;
    char *at = copy;
    while (at != NULL) {
        char *next = strchr(at, '\n');
        if (next != NULL)
            *next++ = '\0';
        if (*at != '\0' && !take_value(cli, id, at, from))
            return false;
        at = next;
    }
    cli->values[id].text = copy; /* freed with the items */
    return true;
}

/* An empty variable counts as unset. Help and version are only for arguments. */
bool cli_options_environment(struct cli *cli)
{
    for (size_t i = 0; i < OPT_HELP; i++) {
        enum cli_option_id id = (enum cli_option_id)i;
        const struct cli_option *option = &cli_options[id];
        char name[64];
        cli_option_env(option, name, sizeof name);
        const char *text = getenv(name);
        if (cli->values[id].from_argument || text == NULL || text[0] == '\0' ||
            !cli_command_has_option(cli->command, id))
            continue;
        /* An argument may name a stream with any bytes; a variable with this end comes from a file.
         */
        if ((id == OPT_STREAM || id == OPT_AFTER) && text[strlen(text) - 1] == '\r' &&
            !name_is_clean(text, name))
            return false;
        bool many = option->type == CLI_LIST || option->type == CLI_PAIRS;
        if (many ? !read_env_items(cli, id, text, name) : !take_value(cli, id, text, name))
            return false;
    }
    return true;
}

bool cli_command_has_option(const struct cli_command *command, enum cli_option_id id)
{
    if (id == OPT_JSON || id == OPT_QUIET || id == OPT_VERBOSE || id == OPT_HELP)
        return true;
    for (const unsigned char *option = command->options; *option != OPT_END; option++) {
        if (*option == id)
            return true;
    }
    return false;
}

bool cli_options_allowed(const struct cli *cli)
{
    for (size_t id = 0; id < OPT_COUNT; id++) {
        if (!cli->values[id].from_argument ||
            cli_command_has_option(cli->command, (enum cli_option_id)id))
            continue;
        cli_error("`ledgerctl %s` takes no --%s; see `ledgerctl %s --help`", cli->command->words,
                  cli_options[id].name, cli->command->words);
        return false;
    }
    return true;
}

void cli_options_free(struct cli *cli)
{
    for (size_t id = 0; id < OPT_COUNT; id++) {
        struct cli_value *value = &cli->values[id];
        bool many = cli_options[id].type == CLI_LIST || cli_options[id].type == CLI_PAIRS;
        if (many && !value->from_argument)
            cli_free((void *)value->text); /* the copy that read_env_items() made */
        cli_free((void *)value->items);
    }
    cli_free((void *)cli->args);
}

/* --- getters -------------------------------------------------------------------------------- */

bool cli_flag(const struct cli *cli, enum cli_option_id id)
{
    return cli->values[id].number > 0;
}

bool cli_is_set(const struct cli *cli, enum cli_option_id id)
{
    return cli->values[id].set;
}

const char *cli_text(const struct cli *cli, enum cli_option_id id)
{
    return cli->values[id].set ? cli->values[id].text : NULL;
}

int64_t cli_number(const struct cli *cli, enum cli_option_id id, int64_t fallback)
{
    return cli->values[id].set ? cli->values[id].number : fallback;
}

ledger_list cli_list(const struct cli *cli, enum cli_option_id id)
{
    return (ledger_list){ cli->values[id].items, cli->values[id].count };
}

ledger_map cli_pairs(const struct cli *cli, enum cli_option_id id, bool null_if_empty)
{
    const struct cli_value *value = &cli->values[id];
    size_t bytes = value->count * sizeof(ledger_pair);
    for (size_t i = 0; i < value->count; i++)
        bytes += strlen(value->items[i]) + 1;
    if (value->count == 0)
        return (ledger_map){ NULL, 0 };
    ledger_pair *pairs = cli_alloc(NULL, bytes); /* pairs, and behind them their strings */
    char *text = (char *)(pairs + value->count);
    for (size_t i = 0; i < value->count; i++) {
        size_t size = strlen(value->items[i]) + 1;
        memcpy(text, value->items[i], size);
        char *equals = strchr(text, '=');
        *equals = '\0';
        pairs[i].key = text;
        pairs[i].value = null_if_empty && equals[1] == '\0' ? NULL : equals + 1;
        text += size;
    }
    return (ledger_map){ pairs, value->count };
}

/* --- suggestions ---------------------------------------------------------------------------- */

/* Edit distance with swapped neighbours, for words below 40 letters. */
static size_t distance(const char *a, const char *b)
{
    enum { MAX = 40 };
    size_t m = strlen(a), n = strlen(b), d[MAX][MAX];
    if (m >= MAX || n >= MAX)
        return MAX;
    for (size_t i = 0; i <= m; i++) {
        for (size_t j = 0; j <= n; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = i + j;
                continue;
            }
            size_t best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best)
                best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best)
                best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    }
    return d[m][n];
}

const char *cli_nearest(const char *text, const char *(*name)(const void *ctx, size_t index),
                        const void *ctx, size_t count)
{
    const char *best = NULL;
    size_t length = strlen(text), best_distance = 1 + (length > 4) + (length > 10) + 1;
    for (size_t i = 0; i < count; i++) {
        const char *candidate = name(ctx, i);
        if (candidate == NULL)
            continue;
        size_t d = distance(text, candidate);
        if (length >= 3 && strncmp(candidate, text, length) == 0)
            d = 1; /* the beginning of it */
        if (d < best_distance) {
            best = candidate;
            best_distance = d;
        }
    }
    return best;
}
