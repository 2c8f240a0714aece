/* ledgerctl: finds the command in the table, reads its options, runs it. */
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

/* --- stopping ------------------------------------------------------------------------------- */

/* One signal may come twice: to the group of processes, and from a program that passes it on. */
#define TWICE_US 300000

static atomic_llong stop_us; /* when a signal asked for it first; 0: not yet */
static _Atomic(ledger_bridge *) stop_bridge;

/* Only async-signal-safe calls. A second signal does not wait any longer: nothing is lost by it. */
static void on_signal(int number)
{
    const long long now_us = cli_mono_us();
    long long first_us = 0;
    if (!atomic_compare_exchange_strong(&stop_us, &first_us, now_us) && number != SIGHUP &&
        now_us - first_us > TWICE_US)
        _exit(128 + number);
    ledger_bridge *bridge = atomic_load(&stop_bridge);
    if (bridge != NULL)
        ledger_bridge_request_stop(bridge);
}

void cli_stop_catch(void)
{
    struct sigaction action = { .sa_handler = on_signal }; /* no SA_RESTART: poll() returns */
    struct sigaction before;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
        sigaction(SIGHUP, &action, NULL);
}

bool cli_stop_asked(void)
{
    return atomic_load(&stop_us) != 0;
}

void cli_stop_bridge(ledger_bridge *bridge)
{
    atomic_store(&stop_bridge, bridge);
    if (bridge != NULL && cli_stop_asked())
        ledger_bridge_request_stop(bridge); /* the signal came before */
}

/* --- waiting -------------------------------------------------------------------------------- */

#define WAIT_MIN_MS 1000

static _Atomic int64_t wait_until_us;

void cli_wait_until(int64_t give_up_us)
{
    atomic_store(&wait_until_us, give_up_us);
}

static ledger_wait_answer may_wait(void *ctx, int64_t waited_ms)
{
    const int64_t until_us = atomic_load(&wait_until_us);
    if (cli_stop_asked())
        return LEDGER_WAIT_STOP;
    return until_us != 0 && waited_ms >= WAIT_MIN_MS && cli_mono_us() >= until_us
               ? LEDGER_WAIT_ENOUGH
               : LEDGER_WAIT_ON;
}

static void tell_wait(void *ctx, const char *what)
{
    cli_note("warn %s", what);
}

const ledger_wait cli_wait = { .ask = may_wait, .waiting = tell_wait };

/* --- finding the command -------------------------------------------------------------------- */

/* How many of the arguments the command's words take, 0: it is another command. */
static size_t match_words(const struct cli_command *command, const struct cli *cli)
{
    size_t used = 0;
    for (const char *at = command->words; *at != '\0'; used++) {
        size_t size = strcspn(at, " ");
        if (used >= cli->arg_count || strlen(cli->args[used]) != size ||
            memcmp(cli->args[used], at, size) != 0)
            return 0;
        at += size + (at[size] == ' ');
    }
    return used;
}

/* The first words of the arguments that begin some command: "", "bridge", "bridge parked". */
static size_t common_words(const struct cli *cli, char *out, size_t out_size)
{
    size_t used = 0;
    out[0] = '\0';
    for (; used < cli->arg_count; used++) {
        char next[64];
        int size = snprintf(next, sizeof next, "%s%s%s", out, used > 0 ? " " : "", cli->args[used]);
        bool known = false;
        for (size_t i = 0; i < cli_command_count && size > 0 && (size_t)size < sizeof next; i++) {
            const char *words = cli_commands[i].words;
            known = known || (strncmp(words, next, (size_t)size) == 0 &&
                              (words[size] == ' ' || words[size] == '\0'));
        }
        if (!known)
            break;
        snprintf(out, out_size, "%s", next);
    }
    return used;
}

static char suggestion_prefix[64];

/* The word that a command has behind the prefix, NULL: it has another beginning. */
static const char *next_word(size_t index)
{
    static char slots[64][32];
    char *word = slots[index % 64];
    const char *words = cli_commands[index].words;
    size_t length = strlen(suggestion_prefix);
    if (cli_commands[index].hidden || strncmp(words, suggestion_prefix, length) != 0 ||
        (length > 0 && words[length] != ' '))
        return NULL;
    words += length + (length > 0);
    snprintf(word, sizeof slots[0], "%.*s", (int)strcspn(words, " "), words);
    return word;
}

static int unknown_command(const struct cli *cli)
{
    size_t used = common_words(cli, suggestion_prefix, sizeof suggestion_prefix);
    if (used == cli->arg_count) {
        if (used > 0)
            cli_error("`%s` needs one word more", suggestion_prefix);
        cli_help_print(suggestion_prefix, stderr);
        return CLI_EXIT_USAGE;
    }
    const char *wrong = cli->args[used];
    const char *near = cli_nearest(wrong, next_word, cli_command_count);
    const char *gap = used > 0 ? " " : "";
    if (near != NULL)
        cli_error("unknown command `%s%s%s`; did you mean `%s%s%s`?", suggestion_prefix, gap,
                  cli_shown(wrong), suggestion_prefix, gap, near);
    else
        cli_error("unknown command `%s%s%s`; see `ledgerctl help%s%s`", suggestion_prefix, gap,
                  cli_shown(wrong), gap, suggestion_prefix);
    return CLI_EXIT_USAGE;
}

/* `bridge parked` alone lists, `bridge cursor` alone shows. */
static const struct cli_command *find_command(struct cli *cli)
{
    const struct cli_command *command = NULL;
    size_t used = 0;
    for (size_t i = 0; i < cli_command_count; i++) {
        size_t words = match_words(&cli_commands[i], cli);
        if (words > used) {
            command = &cli_commands[i];
            used = words;
        }
    }
    if (command == NULL && cli->arg_count == 2 && strcmp(cli->args[0], "bridge") == 0) {
        const char *full = strcmp(cli->args[1], "parked") == 0   ? "bridge parked list"
                           : strcmp(cli->args[1], "cursor") == 0 ? "bridge cursor show"
                                                                 : "";
        for (size_t i = 0; i < cli_command_count; i++) {
            if (strcmp(cli_commands[i].words, full) == 0)
                command = &cli_commands[i];
        }
        used = 2;
    }
    if (command != NULL) {
        cli->arg_count -= used;
        memmove(cli->args, cli->args + used, cli->arg_count * sizeof *cli->args);
    }
    return command;
}

static int check_args(const struct cli *cli)
{
    const struct cli_command *command = cli->command;
    if (cli->arg_count < command->min_args) {
        cli_error("`ledgerctl %s` needs %s; see `ledgerctl %s --help`", command->words,
                  command->args, command->words);
        return CLI_EXIT_USAGE;
    }
    if (cli->arg_count > command->max_args) {
        cli_error("`ledgerctl %s`: unexpected argument \"%s\"", command->words,
                  cli_shown(cli->args[command->max_args]));
        return CLI_EXIT_USAGE;
    }
    return CLI_EXIT_OK;
}

/* --- version and help ----------------------------------------------------------------------- */

/* A backend that is built in knows its scheme, even if it cannot open this URL. */
static bool has_backend(const char *scheme)
{
    ledger_store_options options;
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    char url[32];
    snprintf(url, sizeof url, "%s:", scheme);
    ledger_store_options_defaults(&options);
    options.url = url;
    ledger_rc rc = ledger_store_open(&options, &store, &err);
    ledger_store_close(&store);
    return rc != LEDGER_ERR_UNSUPPORTED;
}

int cli_version(const struct cli *cli)
{
    static const char *const schemes[] = { "sqlite", "memory", "postgresql", "mongodb",
                                           "clickhouse" };
    size_t count = sizeof schemes / sizeof schemes[0];
    if (!cli_flag(cli, OPT_JSON)) {
        printf("ledgerctl %s (library %s; backends:", LEDGER_VERSION, ledger_version());
        for (size_t i = 0; i < count; i++) {
            if (has_backend(schemes[i]))
                printf(" %s", schemes[i]);
        }
        puts(")");
        return CLI_EXIT_OK;
    }
    json_begin(stdout);
    json_text(stdout, "program", LEDGER_VERSION);
    json_text(stdout, "library", ledger_version());
    json_array_begin(stdout, "backends");
    for (size_t i = 0; i < count; i++) {
        if (has_backend(schemes[i]))
            json_item(stdout, schemes[i]);
    }
    json_array_end(stdout);
    json_end(stdout);
    return CLI_EXIT_OK;
}

int cli_help(const struct cli *cli)
{
    char words[128] = "";
    for (size_t i = 0, used = 0; i < cli->arg_count && used < sizeof words; i++)
        used += (size_t)snprintf(words + used, sizeof words - used, "%s%s", i > 0 ? " " : "",
                                 cli->args[i]);
    if (cli_help_print(words, stdout))
        return CLI_EXIT_OK;
    return unknown_command(cli);
}

/* --- main ----------------------------------------------------------------------------------- */

/* `--help` without a whole command shows what there is below it. */
static int help_asked(struct cli *cli)
{
    if (cli->command != NULL) {
        cli_help_print(cli->command->words, stdout);
        return CLI_EXIT_OK;
    }
    return cli_help(cli);
}

static int run(struct cli *cli, int argc, char **argv)
{
    if (!cli_options_arguments(cli, argc, argv))
        return CLI_EXIT_USAGE;
    cli->command = find_command(cli);
    if (cli_flag(cli, OPT_HELP))
        return help_asked(cli);
    if (cli_flag(cli, OPT_VERSION) && cli->command == NULL && cli->arg_count == 0)
        return cli_version(cli);
    if (cli->command == NULL)
        return unknown_command(cli);
    if (!cli_options_allowed(cli) || check_args(cli) != 0 || !cli_options_environment(cli))
        return CLI_EXIT_USAGE;
    cli_output_setup(cli);
    return cli->command->run(cli);
}

int main(int argc, char **argv)
{
    struct cli cli = { 0 };
    cli_output_init();
    int rc = cli_finish(run(&cli, argc, argv));
    cli_options_free(&cli);
    return rc;
}
