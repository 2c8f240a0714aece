/* What the parts of ledgerctl share: one table of options, one table of commands, output.
 *
 * Parser, environment, help, completion and docs/CONFIG.md are all made from the two tables. Only
 * public headers of the library are used. Data goes to stdout, words go to stderr. */
#ifndef LDG_CLI_CLI_H
#define LDG_CLI_CLI_H

#include <stdarg.h>
#include <stdio.h>

#include "ledger/ledger.h"

enum {
    CLI_EXIT_OK = 0,
    CLI_EXIT_FAILED = 1,
    CLI_EXIT_USAGE = 2,
    CLI_EXIT_DIFFERENT = 10,
    CLI_EXIT_LAG = 11,
    CLI_EXIT_PARKED = 12,
    CLI_EXIT_DATA = 65,
    CLI_EXIT_TEMPORARY = 75,
    CLI_EXIT_CONFIG = 78,
};

/* --- options -------------------------------------------------------------------------------- */

enum cli_option_id {
    OPT_STORE,
    OPT_SOURCE,
    OPT_SINK,
    OPT_TABLE,
    OPT_LOG_TABLE,
    OPT_SOURCE_TABLE,
    OPT_SINK_TABLE,
    OPT_SOURCE_LOG_TABLE,
    OPT_SINK_LOG_TABLE,
    OPT_BUSY_TIMEOUT,
    OPT_PASSWORD_FILE,
    OPT_CA_FILE,
    OPT_CLIENT_CERT,
    OPT_CLIENT_KEY,
    OPT_HEADER_FILE,
    OPT_SECRET_FILE,
    OPT_INSECURE,
    OPT_TIMEOUT,
    OPT_CONNECT_TIMEOUT,
    OPT_NO_LOG,
    OPT_NEW_IDENTITY,
    OPT_NOTIFY,
    OPT_FULL_TEXT,
    OPT_STREAM,
    OPT_LINES,
    OPT_ORDER_KEY,
    OPT_DEDUP_KEY,
    OPT_SCHEMA_VERSION,
    OPT_META,
    OPT_TAG,
    OPT_ANNOTATION,
    OPT_AFTER,
    OPT_LIMIT,
    OPT_DESC,
    OPT_ID,
    OPT_SET,
    OPT_BEFORE,
    OPT_NAME,
    OPT_BATCH_SIZE,
    OPT_BACKLOG_BATCH_SIZE,
    OPT_MAX_BATCH_BYTES,
    OPT_INTERVAL,
    OPT_PARALLEL_STREAMS,
    OPT_MAX_REQUEST_ENTRIES,
    OPT_MAX_REQUEST_BYTES,
    OPT_BODY,
    OPT_SIGNATURE,
    OPT_SKIP,
    OPT_ON_BAD_EVENT,
    OPT_REFUSAL_LIMIT,
    OPT_UNTIL_EMPTY,
    OPT_RETRY_FOR,
    OPT_STATE,
    OPT_STATE_TABLE,
    OPT_CURSOR_FILE,
    OPT_MAX_LAG,
    OPT_MAX_REPORTED,
    OPT_ALL,
    OPT_ALLOW_SKIP,
    OPT_JSON,
    OPT_QUIET,
    OPT_VERBOSE,
    OPT_HELP,
    OPT_VERSION,
    OPT_COUNT,
    OPT_END = OPT_COUNT, /* ends a command's list */
};

enum cli_option_type {
    CLI_FLAG,     /* no value; may be repeated (-vv) */
    CLI_TEXT,     /* data: any bytes */
    CLI_NAME,     /* of a store, table, file or bridge: no control characters */
    CLI_LIST,     /* text; may be repeated */
    CLI_PAIRS,    /* k=v; may be repeated */
    CLI_COUNT,    /* whole number from min to max */
    CLI_BYTES,    /* as COUNT, with K, M, G */
    CLI_DURATION, /* 250ms, 5s, 1m30s; number is in ms */
    CLI_CHOICE,   /* one of `choices` */
    CLI_TYPES,    /* comma-separated ones of `choices`; number has 1 << index */
};

struct cli_option {
    const char *name; /* without -- */
    char letter;      /* short form, 0: none */
    enum cli_option_type type;
    const char *arg;      /* name of the value in help */
    const char *fallback; /* default as shown, NULL: none */
    int64_t min, max;
    const char *choices; /* comma-separated */
    const char *help;
};
extern const struct cli_option cli_options[OPT_COUNT];

struct cli_value {
    bool set; /* by argument or environment */
    bool from_argument;
    const char *text;   /* last one given */
    int64_t number;     /* FLAG: how often; COUNT, BYTES, DURATION, CHOICE (index), TYPES */
    const char **items; /* LIST, PAIRS */
    size_t count;
};

struct cli_command;
struct cli {
    const struct cli_command *commands; /* the table */
    size_t command_count;
    const struct cli_command *command;
    struct cli_value values[OPT_COUNT];
    const char **args; /* positional */
    size_t arg_count;
};

/* Reads the arguments; then, with the command known, the environment for those of its options that
 * they leave open. On an error they print it and return false (exit code 2). */
bool cli_options_arguments(struct cli *cli, int argc, char **argv);
bool cli_options_environment(struct cli *cli);
/* Is every option that an argument has set one that the command knows? Prints and returns false. */
bool cli_options_allowed(const struct cli *cli);
void cli_options_free(struct cli *cli);
/* "LEDGER_BATCH_SIZE" */
void cli_option_env(const struct cli_option *option, char *out, size_t out_size);

bool cli_flag(const struct cli *cli, enum cli_option_id id);
bool cli_is_set(const struct cli *cli, enum cli_option_id id);
const char *cli_text(const struct cli *cli, enum cli_option_id id); /* NULL: not given */
int64_t cli_number(const struct cli *cli, enum cli_option_id id, int64_t fallback);
ledger_list cli_list(const struct cli *cli, enum cli_option_id id);
/* Caller: cli_free((void *)map.items). Key and value are cut from the option's text; an empty value
 * becomes NULL with null_if_empty. */
ledger_map cli_pairs(const struct cli *cli, enum cli_option_id id, bool null_if_empty);
/* Nearest of `count` names to `text`, NULL: none is near. */
const char *cli_nearest(const char *text, const char *(*name)(const void *ctx, size_t index),
                        const void *ctx, size_t count);
bool cli_parse_number(const char *text, int64_t min, int64_t max, int64_t *ret_number);

/* --- commands ------------------------------------------------------------------------------- */

struct cli_command {
    const char *words; /* "stream append" */
    const char *args;  /* positional arguments as shown in help, "" for none */
    size_t min_args, max_args;
    const char *summary;          /* one line */
    const char *text;             /* more, for --help; NULL: none */
    const char *examples;         /* one command per line */
    const unsigned char *options; /* enum cli_option_id, ends with OPT_END */
    int (*run)(const struct cli *cli);
    bool hidden;
};
extern const struct cli_command cli_commands[];
extern const size_t cli_command_count;

bool cli_command_has_option(const struct cli_command *command, enum cli_option_id id);

int cli_store_init(const struct cli *cli);
int cli_store_check(const struct cli *cli);
int cli_stream_append(const struct cli *cli);
int cli_stream_append_lines(const struct cli *cli, ledger_store *store, const char *stream);
int cli_stream_read(const struct cli *cli);
int cli_stream_tail(const struct cli *cli);
int cli_stream_search(const struct cli *cli);
int cli_stream_count(const struct cli *cli);
int cli_stream_stat(const struct cli *cli);
int cli_stream_tag(const struct cli *cli);
int cli_stream_annotate(const struct cli *cli);
int cli_stream_trim(const struct cli *cli);
int cli_stream_list(const struct cli *cli);
int cli_bridge_run(const struct cli *cli);
int cli_bridge_poll(const struct cli *cli);
int cli_bridge_status(const struct cli *cli);
int cli_bridge_verify(const struct cli *cli);
int cli_parked_list(const struct cli *cli);
int cli_parked_show(const struct cli *cli);
int cli_parked_retry(const struct cli *cli);
int cli_parked_drop(const struct cli *cli);
int cli_cursor_show(const struct cli *cli);
int cli_cursor_set(const struct cli *cli);
int cli_cursor_reset(const struct cli *cli);
int cli_cursor_acknowledge(const struct cli *cli);
int cli_version(const struct cli *cli);
int cli_help(const struct cli *cli);
int cli_completion(const struct cli *cli);
int cli_config_doc(const struct cli *cli);

/* Help of a command, of a noun ("stream") or, with "", of the program. False: no such thing. */
bool cli_help_print(const struct cli *cli, const char *words, FILE *to);
/* Says what is wrong with words that are none; gives the exit code. */
int cli_unknown_command(const struct cli *cli);

/* --- stores --------------------------------------------------------------------------------- */

enum cli_end { CLI_STORE, CLI_SOURCE, CLI_SINK, CLI_STATE };

/* Options for one end, from the arguments; false: its URL is missing, or the password file cannot
 * be read (printed). */
bool cli_store_options(const struct cli *cli, enum cli_end end, ledger_store_options *ret_options);
/* Who keeps cursor and parked events: CLI_SINK, or CLI_STATE where one is named. */
enum cli_end cli_keeper(const struct cli *cli);
/* Looks at what names the keeper of the bridge's state, before anything is opened: 0, or the exit
 * code of what is wrong, printed (a webhook with none: CLI_EXIT_CONFIG). */
int cli_state_check(const struct cli *cli);
/* Opens one end. Prints what went wrong and returns its exit code; 0 = *ret_store is set. */
int cli_store_open(const struct cli *cli, enum cli_end end, uint32_t flags,
                   ledger_store **ret_store);

/* --- output --------------------------------------------------------------------------------- */

/* Makes descriptors 0 to 2 safe and remembers how much is to be said. */
void cli_output_init(void);
void cli_output_setup(bool be_quiet, bool json, int verbose);
bool cli_quiet(void);
int cli_verbosity(void);

/* Flushes stdout; after the first failure prints why, once, and returns false. */
bool cli_flush(void);
/* From here on a reader who has gone (`| head`) ends the command without a word. */
void cli_output_may_be_cut(void);
/* The exit code of the program: rc, or 1 when stdout could not be written. */
int cli_finish(int rc);

/* "ledgerctl: …" on stderr. */
void cli_error(const char *fmt, ...) LEDGER_PRINTF(1, 2);
/* Same, not with --quiet. */
void cli_note(const char *fmt, ...) LEDGER_PRINTF(1, 2);
/* Prints "what: message" (what may be NULL) and gives the exit code. */
int cli_fail(ledger_rc rc, const ledger_error *err, const char *what);
/* A log line for stderr, above the progress line. */
void cli_log(void *ctx, ledger_log_level level, const char *message, const ledger_attr *attrs,
             size_t attr_count);
/* Text of the user for a message: shortened, without control characters and without what may be a
 * secret. Valid until four calls later. */
const char *cli_shown(const char *text);

/* Size of the byte order mark that the text begins with, 0: it has none. */
size_t cli_mark_size(const char *data, size_t size);

/* Memory: ends the program (exit 75) when there is none. */
void *cli_alloc(void *old, size_t size);
void cli_free(void *p);

/* The progress line: drawn on a terminal only, rubbed out for every other line. */
bool cli_progress_possible(void);
void cli_progress_show(const char *text);
void cli_progress_clear(void);

int64_t cli_mono_us(void);
int64_t cli_now_us(void);
#define CLI_TIME_MAX 40
const char *cli_time_text(int64_t time_us, char out[CLI_TIME_MAX]); /* RFC 3339, UTC, ms */
#define CLI_NUMBER_MAX 40
const char *cli_grouped(uint64_t number, char out[CLI_NUMBER_MAX]);  /* 63,441 */
const char *cli_span_text(double seconds, char out[CLI_NUMBER_MAX]); /* 0.4s, 12s, 3m10s */
const char *cli_id_text(ledger_id id, char out[CLI_NUMBER_MAX]);
const char *cli_position_text(const char *position); /* without leading zeros; "0" for "" */

/* JSON on `to`: one object per line. */
void json_begin(FILE *to);
void json_key(FILE *to, const char *key); /* what follows is its value */
void json_end(FILE *to);
void json_object_begin(FILE *to, const char *key);
void json_object_end(FILE *to);
void json_array_begin(FILE *to, const char *key);
void json_array_end(FILE *to);
void json_item_begin(FILE *to);                               /* object inside an array */
void json_text(FILE *to, const char *key, const char *value); /* NULL: null */
void json_item(FILE *to, const char *value);
void json_count(FILE *to, const char *key, uint64_t value);
void json_signed(FILE *to, const char *key, int64_t value);
void json_bool(FILE *to, const char *key, bool value);
void json_seconds(FILE *to, const char *key, double value);
void json_time(FILE *to, const char *key, int64_t time_us); /* LEDGER_NO_TIME: null */
void json_id(FILE *to, const char *key, ledger_id id);
void json_string(FILE *to, const char *value, size_t size); /* only the quoted text */
void json_payload(FILE *to, ledger_bytes payload);          /* "payload":… on one line */
/* Text for people: control characters and broken UTF-8 are written as \u00xx. */
void print_plain(FILE *to, const char *text, size_t size);
/* Is it one JSON value? On false err says why. */
bool cli_json_valid(ledger_bytes json, ledger_error *err);
/* Makes the decoder's message one about the text that was wrapped into an event: without the path,
 * and with bytes counted from head_size (0: without the place). */
void cli_event_words(ledger_error *err, size_t head_size);
/* One entry as a line, JSON or for people. */
void print_entry(FILE *to, const ledger_entry *entry, bool json, bool with_stream);

/* --- stopping ------------------------------------------------------------------------------- */

/* From here on SIGINT, SIGTERM and SIGHUP (unless it was ignored: nohup) ask for an end instead of
 * killing; a second SIGINT or SIGTERM kills. */
void cli_stop_catch(void);
bool cli_stop_asked(void);
/* Of all stores that the command opens: a stop that was asked for ends their waits, and a long one
 * is told. From give_up_us on (cli_mono_us(); 0: never) a wait ends when it has lasted a second. */
extern const ledger_wait cli_wait;
void cli_wait_until(int64_t give_up_us);
/* The bridge that a signal stops; NULL: none. */
void cli_stop_bridge(ledger_bridge *bridge);

#endif
