/* Opening the stores that the options name, and saying what to do when that fails. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static const struct {
    enum cli_option_id url, table, log_table;
    const char *what;
} ends[] = {
    [CLI_STORE] = { OPT_STORE, OPT_TABLE, OPT_LOG_TABLE, "store" },
    [CLI_SOURCE] = { OPT_SOURCE, OPT_SOURCE_TABLE, OPT_SOURCE_LOG_TABLE, "source" },
    [CLI_SINK] = { OPT_SINK, OPT_SINK_TABLE, OPT_SINK_LOG_TABLE, "sink" },
    [CLI_STATE] = { OPT_STATE, OPT_STATE_TABLE, OPT_COUNT, "state store" },
};

enum cli_end cli_keeper(const struct cli *cli)
{
    return cli_text(cli, OPT_STATE) != NULL || cli_text(cli, OPT_CURSOR_FILE) != NULL ? CLI_STATE
                                                                                      : CLI_SINK;
}

/* A file alone is a SQLite store. false, printed: both were given, or what is given is no path. */
static bool state_url(const struct cli *cli, const char **ret_url)
{
    static char url[4096 + 16];
    const char *file = cli_text(cli, OPT_CURSOR_FILE);
    *ret_url = cli_text(cli, OPT_STATE);
    if (file == NULL)
        return true;
    if (*ret_url != NULL) {
        cli_error("--cursor-file is short for --state sqlite:PATH: give one of the two");
        return false;
    }
    if (strncmp(file, "sqlite:", 7) == 0 || strstr(file, "://") != NULL) {
        cli_error("--cursor-file takes the path of a file; give a URL to --state");
        return false; /* a file of that name would begin from the start of the log */
    }
    if ((size_t)snprintf(url, sizeof url, "sqlite:%s", file) >= sizeof url) {
        cli_error("the path of --cursor-file is too long");
        return false;
    }
    *ret_url = url;
    return true;
}

/* What is not given has the library's default. Lives until the next call. */
static const ledger_http_options *http_options(const struct cli *cli)
{
    static ledger_http_options o;
    ledger_http_options_defaults(&o);
    o.ca_file = cli_text(cli, OPT_CA_FILE);
    o.client_cert_file = cli_text(cli, OPT_CLIENT_CERT);
    o.client_key_file = cli_text(cli, OPT_CLIENT_KEY);
    o.header_file = cli_text(cli, OPT_HEADER_FILE);
    o.secret_file = cli_text(cli, OPT_SECRET_FILE);
    o.insecure = cli_flag(cli, OPT_INSECURE);
    o.timeout_ms = (int)cli_number(cli, OPT_TIMEOUT, 0);
    o.connect_timeout_ms = (int)cli_number(cli, OPT_CONNECT_TIMEOUT, 0);
    o.max_request_entries =
        (size_t)cli_number(cli, OPT_MAX_REQUEST_ENTRIES, (int64_t)o.max_request_entries);
    o.max_request_bytes =
        (size_t)cli_number(cli, OPT_MAX_REQUEST_BYTES, (int64_t)o.max_request_bytes);
    if (cli_number(cli, OPT_PARALLEL_STREAMS, 0) > 0)
        o.connections = (size_t)cli_number(cli, OPT_PARALLEL_STREAMS, 0);
    o.body = (ledger_http_body)cli_number(cli, OPT_BODY, LEDGER_HTTP_BODY_REFERENCE);
    o.signature =
        (ledger_http_signature)cli_number(cli, OPT_SIGNATURE, LEDGER_HTTP_SIGNATURE_STANDARD);
    return &o;
}

static bool state_options(const struct cli *cli, ledger_store_options *ret_options)
{
    const char *table = cli_text(cli, OPT_STATE_TABLE);
    ledger_store_options_defaults(ret_options);
    ret_options->label = "ledgerctl";
    ret_options->wait = &cli_wait;
    ret_options->table = table != NULL ? table : LEDGER_BRIDGE_DEFAULT_STATE_TABLE;
    ret_options->log = LEDGER_MUTATION_LOG_OFF;
    ret_options->busy_timeout_ms = (int)cli_number(cli, OPT_BUSY_TIMEOUT, 5000);
    return state_url(cli, &ret_options->url);
}

static const char *first_text(const struct cli *cli, enum cli_option_id id,
                              enum cli_option_id other)
{
    const char *text = cli_text(cli, id);
    return text != NULL ? text : cli_text(cli, other);
}

/* One log for both ends of a bridge inside one database would feed the bridge its own writes. */
static bool log_tables_clash(const struct cli *cli)
{
    const char *source = cli_text(cli, OPT_SOURCE), *sink = cli_text(cli, OPT_SINK);
    const char *source_log = first_text(cli, OPT_SOURCE_LOG_TABLE, OPT_LOG_TABLE);
    const char *sink_log = first_text(cli, OPT_SINK_LOG_TABLE, OPT_LOG_TABLE);
    return source != NULL && sink != NULL && strcmp(source, sink) == 0 && source_log != NULL &&
           sink_log != NULL && strcmp(source_log, sink_log) == 0;
}

/* The first line of the file becomes what libpq, and the ClickHouse backend, take for a URL without
 * a password: it stands in no argument, and nothing we print has it. */
static bool take_password_file(const struct cli *cli)
{
    const char *path = cli_text(cli, OPT_PASSWORD_FILE), *wrong = NULL;
    char line[1024] = "";
    if (path == NULL)
        return true;
    FILE *file = fopen(path, "r");
    if (file == NULL || (fgets(line, sizeof line, file) == NULL && ferror(file)))
        wrong = strerror(errno);
    size_t mark = cli_mark_size(line, strlen(line));
    memmove(line, line + mark, strlen(line + mark) + 1);
    size_t size = strcspn(line, "\r\n");
    if (wrong == NULL && (memcmp(line, "\xff\xfe", 2) == 0 || memcmp(line, "\xfe\xff", 2) == 0))
        wrong = "it is UTF-16: convert it to UTF-8, for example with `iconv -f UTF-16 -t UTF-8`";
    else if (wrong == NULL && size == 0)
        wrong = "its first line is empty";
    else if (wrong == NULL && size == sizeof line - 1)
        wrong = "its first line is too long";
    line[size] = '\0';
    if (wrong == NULL &&
        (setenv("PGPASSWORD", line, 1) != 0 || setenv("CLICKHOUSE_PASSWORD", line, 1) != 0))
        wrong = strerror(errno);
    if (wrong != NULL)
        cli_error("password file %s: %s", cli_shown(path), wrong);
    if (file != NULL)
        fclose(file);
    explicit_bzero(line, sizeof line);
    return wrong == NULL;
}

bool cli_store_options(const struct cli *cli, enum cli_end end, ledger_store_options *ret_options)
{
    if (end == CLI_STATE)
        return take_password_file(cli) && state_options(cli, ret_options);
    const struct cli_option *option = &cli_options[ends[end].url];
    const char *url = cli_text(cli, ends[end].url);
    if (url == NULL) {
        char env[64];
        cli_option_env(option, env, sizeof env);
        cli_error("no %s: give --%s URL (or %s), for example --%s sqlite:orders.db", ends[end].what,
                  option->name, env, option->name);
        return false;
    }
    if (end != CLI_STORE && log_tables_clash(cli)) {
        cli_error("source and sink would share one mutation log: give --source-log-table and "
                  "--sink-log-table");
        return false;
    }
    if (!take_password_file(cli))
        return false;
    ledger_store_options_defaults(ret_options);
    ret_options->label = "ledgerctl";
    ret_options->wait = &cli_wait;
    ret_options->url = url;
    ret_options->table = first_text(cli, ends[end].table, OPT_TABLE);
    ret_options->log_table = first_text(cli, ends[end].log_table, OPT_LOG_TABLE);
    /* A log that is named must be there: a misspelt name must not leave writes out of the log. Of
     * --log-table alone the sink need not have one. */
    if (cli_text(cli, ends[end].log_table) != NULL || (end == CLI_SOURCE && ret_options->log_table))
        ret_options->log = LEDGER_MUTATION_LOG_ON;
    ret_options->busy_timeout_ms = (int)cli_number(cli, OPT_BUSY_TIMEOUT, 5000);
    ret_options->http = http_options(cli);
    return true;
}

int cli_state_check(const struct cli *cli)
{
    const char *url = cli_text(cli, OPT_SINK), *state;
    if (!state_url(cli, &state))
        return CLI_EXIT_USAGE;
    if (state != NULL || url == NULL ||
        (strncmp(url, "https:", 6) != 0 && strncmp(url, "http:", 5) != 0))
        return CLI_EXIT_OK;
    cli_error("a webhook keeps no cursor and no parked events: say where the bridge does, with "
              "--cursor-file PATH or --state URL");
    return CLI_EXIT_CONFIG;
}

int cli_store_open(const struct cli *cli, enum cli_end end, uint32_t flags,
                   ledger_store **ret_store)
{
    ledger_store_options options;
    ledger_error err = { 0 };
    if (!cli_store_options(cli, end, &options))
        return CLI_EXIT_USAGE;
    options.flags = flags;
    ledger_rc rc = ledger_store_open(&options, ret_store, &err);
    if (rc == LEDGER_OK)
        return CLI_EXIT_OK;
    const int exit_code = cli_fail(rc, &err, ends[end].what);
    if (end == CLI_STATE && rc == LEDGER_ERR_SCHEMA)
        cli_note(
            "the table of a bridge's state is made by the first `ledgerctl bridge run`, not by "
            "`store init`");
    return exit_code;
}
