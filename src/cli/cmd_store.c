/* ledgerctl store: making and checking the tables. */
#include <string.h>

#include "cli/cli.h"

static void print_made(const struct cli *cli, const ledger_store *store,
                       const ledger_store_options *options)
{
    char log_table[LEDGER_MAX_TABLE_BYTES * 4];
    bool log = ledger_store_has_log(store);
    if (options->log_table != NULL)
        snprintf(log_table, sizeof log_table, "%s", options->log_table);
    else
        snprintf(log_table, sizeof log_table, "%s_mutations", ledger_store_table(store));
    if (cli_flag(cli, OPT_JSON)) {
        json_begin(stdout);
        json_text(stdout, "store", ledger_store_url(store));
        json_text(stdout, "table", ledger_store_table(store));
        json_text(stdout, "log_table", log ? log_table : NULL);
        json_end(stdout);
        return;
    }
    if (cli_quiet())
        return;
    printf("%s: table %s is ready, %s%s\n", ledger_store_url(store), ledger_store_table(store),
           log ? "with its mutation log " : "without a mutation log", log ? log_table : "");
}

/* A trigger that notifies is in the way of the program that writes, not in ours. */
static void tell_price_of_notify(const ledger_store *store, const ledger_store_options *options)
{
    if ((options->flags & LEDGER_STORE_NOTIFY) == 0 || !ledger_store_has_log(store))
        return;
    cli_note(
        "each write notifies now: PostgreSQL refuses PREPARE TRANSACTION (two-phase commit, XA) in "
        "a transaction that writes here; to take it back: DROP TRIGGER \"<log table>_notify\" ON "
        "\"<log table>\"");
}

int cli_store_init(const struct cli *cli)
{
    ledger_store_options options;
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    if (!cli_store_options(cli, CLI_STORE, &options))
        return CLI_EXIT_USAGE;
    options.flags = LEDGER_STORE_CREATE;
    if (cli_flag(cli, OPT_NEW_IDENTITY))
        options.flags |= LEDGER_STORE_NEW_IDENTITY;
    if (cli_flag(cli, OPT_NOTIFY))
        options.flags |= LEDGER_STORE_NOTIFY;
    if (cli_flag(cli, OPT_FULL_TEXT))
        options.flags |= LEDGER_STORE_FULL_TEXT;
    /* auto: where a store can have one */
    options.log = cli_flag(cli, OPT_NO_LOG) ? LEDGER_MUTATION_LOG_OFF : LEDGER_MUTATION_LOG_AUTO;
    ledger_rc rc = ledger_store_open(&options, &store, &err);
    if (rc != LEDGER_OK)
        return cli_fail(rc, &err, "store");
    print_made(cli, store, &options);
    tell_price_of_notify(store, &options);
    ledger_store_close(&store);
    return CLI_EXIT_OK;
}

struct check {
    bool json;
    bool failed;
};

static void print_finding(void *ctx, ledger_severity severity, const char *subject,
                          const char *text)
{
    static const char *const names[] = { "ok", "warning", "error" };
    struct check *check = ctx;
    const char *name = severity <= LEDGER_FINDING_ERROR ? names[severity] : "error";
    check->failed = check->failed || severity >= LEDGER_FINDING_ERROR;
    if (check->json) {
        json_begin(stdout);
        json_text(stdout, "severity", name);
        json_text(stdout, "subject", subject);
        json_text(stdout, "text", text);
        json_end(stdout);
    } else {
        printf("%-7s  %s: ", name, subject);
        print_plain(stdout, text, strlen(text));
        putchar('\n');
    }
}

int cli_store_check(const struct cli *cli)
{
    struct check check = { .json = cli_flag(cli, OPT_JSON) };
    ledger_store_options options;
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    int exit_code = CLI_EXIT_OK;
    if (!cli_store_options(cli, CLI_STORE, &options))
        return CLI_EXIT_USAGE;
    options.flags = LEDGER_STORE_READ_ONLY;
    ledger_rc rc = ledger_store_open(&options, &store, &err);
    if (rc != LEDGER_OK) {
        /* A store that is refused as it stands is a finding. */
        exit_code = cli_fail(rc, &err, "store");
        if (exit_code == CLI_EXIT_CONFIG)
            print_finding(&check, LEDGER_FINDING_ERROR, "store", err.message);
        return exit_code;
    }
    rc = ledger_store_check(store, print_finding, &check, &err);
    if (rc != LEDGER_OK)
        exit_code = cli_fail(rc, &err, "store");
    else if (check.failed)
        exit_code = CLI_EXIT_CONFIG;
    ledger_store_close(&store);
    return exit_code;
}
