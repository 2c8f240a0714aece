/* Help, also for commands that do not exist, completion and docs/CONFIG.md, all printed from the
 * tables of options and commands. */
#include <string.h>

#include "cli/cli.h"

#define COLUMNS 80

/* Characters, not bytes. */
static size_t columns_of(const char *text, size_t size)
{
    size_t count = 0;
    for (size_t i = 0; i < size; i++)
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

/* Words in lines that no terminal has to break: from column `at` on, further lines from `indent`.
 * An empty line stays one, any other line end is a blank. */
static void print_wrapped(const char *text, size_t at, size_t indent, FILE *to)
{
    for (const char *gap = ""; *text != '\0';) {
        const size_t size = strcspn(text, " \n"), width = columns_of(text, size);
        if (*gap != '\0' && at + 1 + width > COLUMNS) {
            fprintf(to, "\n%*s", (int)indent, "");
            at = indent;
            gap = "";
        }
        fprintf(to, "%s%.*s", gap, (int)size, text);
        at += strlen(gap) + width;
        text += size;
        gap = *text != '\0' ? " " : "";
        if (strncmp(text, "\n\n", 2) == 0) {
            fputs("\n\n", to);
            at = 0;
            gap = "";
        }
        text += strspn(text, " \n");
    }
    putc('\n', to);
}

static bool takes_value(const struct cli_option *option)
{
    return option->type != CLI_FLAG;
}

/* "  -q, --quiet            no progress, …" */
static void print_option(const struct cli_option *option, FILE *to)
{
    char left[48], text[512];
    char letter[8] = "";
    if (option->letter != 0)
        snprintf(letter, sizeof letter, "-%c, ", option->letter);
    snprintf(left, sizeof left, "%s--%s%s%s", letter, option->name, takes_value(option) ? " " : "",
             takes_value(option) ? option->arg : "");
    const bool chooses = option->type == CLI_TYPES || option->type == CLI_CHOICE;
    snprintf(text, sizeof text, "%s%s%s%s%s%s", option->help, chooses ? ": " : "",
             chooses ? option->choices : "", option->fallback != NULL ? " (default " : "",
             option->fallback != NULL ? option->fallback : "", option->fallback != NULL ? ")" : "");
    const int size = fprintf(to, "  %-26s ", left);
    print_wrapped(text, size > 0 ? (size_t)size : 0, 29, to);
}

static void print_examples(const char *examples, FILE *to)
{
    for (const char *at = examples; *at != '\0';) {
        size_t length = strcspn(at, "\n");
        fprintf(to, "  %.*s\n", (int)length, at);
        at += length + (at[length] == '\n');
    }
}

static void print_command_help(const struct cli_command *command, FILE *to)
{
    fprintf(to, "usage: ledgerctl %s%s%s [options]\n\n%s.\n", command->words,
            command->args[0] != '\0' ? " " : "", command->args, command->summary);
    if (command->text != NULL) {
        putc('\n', to);
        print_wrapped(command->text, 0, 0, to);
    }
    fputs("\noptions:\n", to);
    for (size_t id = 0; id < OPT_COUNT; id++) {
        if (cli_command_has_option(command, (enum cli_option_id)id))
            print_option(&cli_options[id], to);
    }
    fputs("\nexamples:\n", to);
    print_examples(command->examples, to);
    if (command->options[0] != OPT_END) {
        char name[64], text[256];
        cli_option_env(&cli_options[command->options[0]], name, sizeof name);
        snprintf(text, sizeof text,
                 "Each option can come from the environment, --%s from %s; an argument wins.",
                 cli_options[command->options[0]].name, name);
        putc('\n', to);
        print_wrapped(text, 0, 0, to);
    }
}

static void print_command_lines(const struct cli *cli, const char *prefix, FILE *to)
{
    size_t length = strlen(prefix);
    for (size_t i = 0; i < cli->command_count; i++) {
        const struct cli_command *command = &cli->commands[i];
        bool inside = strncmp(command->words, prefix, length) == 0 &&
                      (length == 0 || command->words[length] == ' ');
        if (inside && !command->hidden) {
            fprintf(to, "  %-25s ", command->words);
            print_wrapped(command->summary, 28, 28, to);
        }
    }
}

static void print_program_help(const struct cli *cli, FILE *to)
{
    fputs("usage: ledgerctl COMMAND [options]\n\n", to);
    print_wrapped("Append-only ledgers in a database you already have, and bridges that carry "
                  "every change of one into another.",
                  0, 0, to);
    fputs("\ncommands:\n", to);
    print_command_lines(cli, "", to);
    putc('\n', to);
    print_wrapped("A store is named by a URL: sqlite:PATH, postgresql://HOST/DATABASE, "
                  "clickhouse://HOST/DATABASE; a sink may be a webhook as well: https://HOST/PATH. "
                  "Data goes to stdout, words go to stderr. `ledgerctl COMMAND --help` shows the "
                  "options of a command. Each option can come from the environment as well: "
                  "--batch-size from LEDGER_BATCH_SIZE.",
                  0, 0, to);
    fputs("\nfirst steps:\n", to);
    print_examples("ledgerctl store init --store sqlite:orders.db\n"
                   "ledgerctl store init --store sqlite:copy.db --no-log\n"
                   "ledgerctl stream append --store sqlite:orders.db '{\"total\": 12}'\n"
                   "ledgerctl bridge run --source sqlite:orders.db --sink sqlite:copy.db "
                   "--until-empty\n"
                   "ledgerctl bridge verify --source sqlite:orders.db --sink sqlite:copy.db",
                   to);
    putc('\n', to);
    print_wrapped("exit codes: 0 ok, 1 failed, 2 usage, 10 verify found differences, 11 lag above "
                  "--max-lag, 12 something is parked, 65 bad data, 69 backend unavailable, 75 "
                  "temporary, 77 permission, 78 configuration",
                  0, 0, to);
}

bool cli_help_print(const struct cli *cli, const char *words, FILE *to)
{
    size_t length = strlen(words);
    if (length == 0) {
        print_program_help(cli, to);
        return true;
    }
    for (size_t i = 0; i < cli->command_count; i++) {
        if (strcmp(cli->commands[i].words, words) == 0) {
            print_command_help(&cli->commands[i], to);
            return true;
        }
    }
    for (size_t i = 0; i < cli->command_count; i++) {
        if (strncmp(cli->commands[i].words, words, length) == 0 &&
            cli->commands[i].words[length] == ' ') {
            fprintf(to, "usage: ledgerctl %s COMMAND [options]\n\ncommands:\n", words);
            print_command_lines(cli, words, to);
            return true;
        }
    }
    return false;
}

/* --- the commands ---------------------------------------------------------------------------- */

/* The first words of the arguments that begin some command: "", "bridge", "bridge parked". */
static size_t common_words(const struct cli *cli, char *out, size_t out_size)
{
    size_t used = 0;
    out[0] = '\0';
    for (; used < cli->arg_count; used++) {
        char next[64];
        int size = snprintf(next, sizeof next, "%s%s%s", out, used > 0 ? " " : "", cli->args[used]);
        bool known = false;
        for (size_t i = 0; i < cli->command_count && size > 0 && (size_t)size < sizeof next; i++) {
            const char *words = cli->commands[i].words;
            known = known || (strncmp(words, next, (size_t)size) == 0 &&
                              (words[size] == ' ' || words[size] == '\0'));
        }
        if (!known)
            break;
        snprintf(out, out_size, "%s", next);
    }
    return used;
}

/* Whose next words are looked through, and behind which words. */
struct suggestions {
    const struct cli *cli;
    char prefix[64];
};

/* The word that a command has behind the prefix, NULL: it has another beginning. */
static const char *next_word(const void *ctx, size_t index)
{
    const struct suggestions *s = ctx;
    const struct cli *cli = s->cli;
    static char slots[64][32];
    char *word = slots[index % 64];
    const char *words = cli->commands[index].words;
    size_t length = strlen(s->prefix);
    if (cli->commands[index].hidden || strncmp(words, s->prefix, length) != 0 ||
        (length > 0 && words[length] != ' '))
        return NULL;
    words += length + (length > 0);
    snprintf(word, sizeof slots[0], "%.*s", (int)strcspn(words, " "), words);
    return word;
}

int cli_unknown_command(const struct cli *cli)
{
    struct suggestions s = { .cli = cli };
    size_t used = common_words(cli, s.prefix, sizeof s.prefix);
    if (used == cli->arg_count) {
        if (used > 0)
            cli_error("`%s` needs one word more", s.prefix);
        cli_help_print(cli, s.prefix, stderr);
        return CLI_EXIT_USAGE;
    }
    const char *wrong = cli->args[used];
    const char *near = cli_nearest(wrong, next_word, &s, cli->command_count);
    const char *gap = used > 0 ? " " : "";
    if (near != NULL)
        cli_error("unknown command `%s%s%s`; did you mean `%s%s%s`?", s.prefix, gap,
                  cli_shown(wrong), s.prefix, gap, near);
    else
        cli_error("unknown command `%s%s%s`; see `ledgerctl help%s%s`", s.prefix, gap,
                  cli_shown(wrong), gap, s.prefix);
    return CLI_EXIT_USAGE;
}

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
    static const char *const schemes[] = { "sqlite", "memory", "postgresql", "clickhouse",
                                           "https" };
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
    if (cli_help_print(cli, words, stdout))
        return CLI_EXIT_OK;
    return cli_unknown_command(cli);
}

/* --- completion ------------------------------------------------------------------------------ */

/* The words that may follow a beginning of a command: "" or "bridge" or "bridge parked". */
static void print_completion_case(const struct cli *cli, const char *prefix, FILE *to)
{
    size_t length = strlen(prefix), last_size = 0;
    const char *last = "";
    fprintf(to, "    \"%s\") words=\"", prefix);
    for (size_t i = 0; i < cli->command_count; i++) {
        const char *words = cli->commands[i].words;
        if (cli->commands[i].hidden || strncmp(words, prefix, length) != 0 ||
            (length > 0 && words[length] != ' '))
            continue;
        const char *next = words + length + (length > 0);
        size_t size = strcspn(next, " ");
        if (size == last_size && strncmp(next, last, size) == 0)
            continue; /* same group as the line before */
        fprintf(to, "%s%.*s", last_size > 0 ? " " : "", (int)size, next);
        last = next;
        last_size = size;
    }
    fputs("\" ;;\n", to);
}

/* Each beginning of a command's words, once: "store", "bridge", "bridge parked". */
static void print_completion_groups(const struct cli *cli, FILE *to)
{
    for (size_t i = 0; i < cli->command_count; i++) {
        const char *words = cli->commands[i].words;
        const char *blank = strchr(words, ' ');
        for (; blank != NULL; blank = strchr(blank + 1, ' ')) {
            char prefix[64];
            size_t size = (size_t)(blank - words);
            snprintf(prefix, sizeof prefix, "%.*s", (int)size, words);
            if (i == 0 || strncmp(cli->commands[i - 1].words, words, size + 1) != 0)
                print_completion_case(cli, prefix, to);
        }
    }
}

static void print_completion_options(const struct cli_command *command, FILE *to)
{
    fprintf(to, "    \"%s\") words=\"", command->words);
    const char *blank = "";
    for (size_t id = 0; id < OPT_COUNT; id++) {
        if (!cli_command_has_option(command, (enum cli_option_id)id))
            continue;
        fprintf(to, "%s--%s", blank, cli_options[id].name);
        blank = " ";
    }
    fputs("\" ;;\n", to);
}

static void print_completion_values(FILE *to)
{
    fputs("  case $option in\n", to);
    for (size_t id = 0; id < OPT_COUNT; id++) {
        const struct cli_option *option = &cli_options[id];
        if (option->choices == NULL)
            continue;
        fprintf(to, "    --%s) words=\"", option->name);
        for (const char *c = option->choices; *c != '\0'; c++)
            putc(*c == ',' ? ' ' : *c, to);
        fputs("\" ;;\n", to);
    }
    fputs("    --store|--source|--sink|--state)\n"
          "      if [[ $value == sqlite:* ]]; then files=1; cur=${value#sqlite:}\n"
          "      else words=\"sqlite: postgresql://\"; nospace=1; fi\n"
          "      [[ $option == --store ]] && words+=\" clickhouse:// clickhouses://\"\n"
          "      [[ $option == --sink ]] && words+=\" clickhouse:// clickhouses:// https://\" ;;\n"
          "    --*-file|--client-cert|--client-key) files=1 ;;\n"
          "    *) return ;;\n  esac\n",
          to);
}

static void print_with_value_pattern(FILE *to)
{
    const char *bar = "";
    for (size_t id = 0; id < OPT_COUNT; id++) {
        if (takes_value(&cli_options[id])) {
            fprintf(to, "%s--%s", bar, cli_options[id].name);
            bar = "|";
        }
    }
}

int cli_completion(const struct cli *cli)
{
    FILE *to = stdout;
    fputs("# bash completion for ledgerctl\n"
          "_ledgerctl() {\n"
          "  local path=\"\" option=\"\" value=\"\" words=\"\" files=\"\" nospace=\"\" cur=\"\" "
          "word i\n"
          "  COMPREPLY=()\n"
          "  # bash cuts words at = and :, so values are put together again here\n"
          "  for ((i = 1; i <= COMP_CWORD; i++)); do\n"
          "    word=${COMP_WORDS[i]}\n"
          "    if [[ -n $option && ( $word == \"=\" || $word == \":\" || ${COMP_WORDS[i-1]} == "
          "[=:] || -z $value ) ]]; then\n"
          "      [[ $word == \"=\" ]] && cur=\"\" && continue\n"
          "      value+=$word; cur=$word; [[ $word == \":\" ]] && cur=\"\"\n"
          "      continue\n"
          "    fi\n"
          "    option=\"\" value=\"\" cur=$word\n"
          "    [[ $i == \"$COMP_CWORD\" ]] && break\n"
          "    case $word in\n      ",
          to);
    print_with_value_pattern(to);
    fputs(") option=$word ;;\n"
          "      -*) ;;\n"
          "      *) path=${path:+$path }$word ;;\n"
          "    esac\n"
          "  done\n"
          "  if [[ -n $option ]]; then\n",
          to);
    print_completion_values(to);
    fputs("  elif [[ $cur == -* ]]; then\n  case $path in\n", to);
    for (size_t i = 0; i < cli->command_count; i++) {
        if (!cli->commands[i].hidden)
            print_completion_options(&cli->commands[i], to);
    }
    fputs("    *) words=\"--help --json --quiet --verbose\" ;;\n  esac\n"
          "  else\n  path=${path#help} path=${path# }\n  case $path in\n",
          to);
    print_completion_case(cli, "", to);
    print_completion_groups(cli, to);
    fputs("  esac\n  fi\n"
          "  if [[ -n $files ]]; then COMPREPLY=($(compgen -f -- \"$cur\")); compopt -o filenames "
          "2>/dev/null\n"
          "  else COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")); fi\n"
          "  [[ -n $nospace ]] && compopt -o nospace 2>/dev/null\n"
          "  return 0\n"
          "}\n"
          "complete -F _ledgerctl ledgerctl\n",
          to);
    return CLI_EXIT_OK;
}

/* --- docs/CONFIG.md -------------------------------------------------------------------------- */

static void print_escaped(const char *text, FILE *to)
{
    for (; *text != '\0'; text++) {
        if (*text == '|' || *text == '<')
            putc('\\', to);
        putc(*text, to);
    }
}

static void print_option_row(enum cli_option_id id, FILE *to)
{
    const struct cli_option *option = &cli_options[id];
    char env[64];
    cli_option_env(option, env, sizeof env);
    fputs("| `", to);
    if (option->letter != 0)
        fprintf(to, "-%c, ", option->letter);
    fprintf(to, "--%s%s%s` | ", option->name, takes_value(option) ? " " : "",
            takes_value(option) ? option->arg : "");
    if (id != OPT_HELP && id != OPT_VERSION)
        fprintf(to, "`%s`", env);
    fputs(" | ", to);
    print_escaped(option->fallback != NULL ? option->fallback : "", to);
    fputs(" | ", to);
    print_escaped(option->help, to);
    if (option->choices != NULL)
        fprintf(to, ": %s", option->choices);
    fputs(" |\n", to);
}

int cli_config_doc(const struct cli *cli)
{
    FILE *to = stdout;
    fputs("# Options of ledgerctl\n\n"
          "Printed by `ledgerctl config-doc`; a test compares. An argument wins over the "
          "environment,\n"
          "the environment over the default. An empty variable counts as unset. A variable of a\n"
          "repeatable option holds one value per line; one of a flag holds 0 or 1.\n\n"
          "Times: `250ms`, `5s`, `1m30s`, `2h`. Sizes: bytes, or with `K`, `M`, `G` (1024 "
          "each).\n\n"
          "| Option | Environment | Default | Meaning |\n|---|---|---|---|\n",
          to);
    for (size_t id = 0; id < OPT_COUNT; id++)
        print_option_row((enum cli_option_id)id, to);
    fputs("\n## Commands\n\n| Command | What it does | Options |\n|---|---|---|\n", to);
    for (size_t i = 0; i < cli->command_count; i++) {
        const struct cli_command *command = &cli->commands[i];
        if (command->hidden)
            continue;
        fprintf(to, "| `%s%s", command->words, command->args[0] != '\0' ? " " : "");
        print_escaped(command->args, to);
        fprintf(to, "` | %s |", command->summary);
        for (const unsigned char *id = command->options; *id != OPT_END; id++)
            fprintf(to, " `--%s`", cli_options[*id].name);
        fputs(" |\n", to);
    }
    fputs("\nEvery command also takes `--json`, `--quiet`, `--verbose` and `--help`.\n", to);
    return CLI_EXIT_OK;
}
