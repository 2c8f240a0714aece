/* ledgerctl: finds the command in the table, reads its options, runs it. */
#include <string.h>

#include "cli/cli.h"

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

/* `bridge parked` alone lists, `bridge cursor` alone shows. */
static const struct cli_command *find_command(struct cli *cli)
{
    const struct cli_command *command = NULL;
    size_t used = 0;
    for (size_t i = 0; i < cli->command_count; i++) {
        size_t words = match_words(&cli->commands[i], cli);
        if (words > used) {
            command = &cli->commands[i];
            used = words;
        }
    }
    if (command == NULL && cli->arg_count == 2 && strcmp(cli->args[0], "bridge") == 0) {
        const char *full = strcmp(cli->args[1], "parked") == 0   ? "bridge parked list"
                           : strcmp(cli->args[1], "cursor") == 0 ? "bridge cursor show"
                                                                 : "";
        for (size_t i = 0; i < cli->command_count; i++) {
            if (strcmp(cli->commands[i].words, full) == 0)
                command = &cli->commands[i];
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

/* --- main ----------------------------------------------------------------------------------- */

/* `--help` without a whole command shows what there is below it. */
static int help_asked(struct cli *cli)
{
    if (cli->command != NULL) {
        cli_help_print(cli, cli->command->words, stdout);
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
        return cli_unknown_command(cli);
    if (!cli_options_allowed(cli) || check_args(cli) != 0 || !cli_options_environment(cli))
        return CLI_EXIT_USAGE;
    cli_output_setup(cli_flag(cli, OPT_QUIET), cli_flag(cli, OPT_JSON),
                     (int)cli_number(cli, OPT_VERBOSE, 0));
    return cli->command->run(cli);
}

int main(int argc, char **argv)
{
    struct cli cli = { .commands = cli_commands, .command_count = cli_command_count };
    cli_output_init();
    int rc = cli_finish(run(&cli, argc, argv));
    cli_options_free(&cli);
    return rc;
}
