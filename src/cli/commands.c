/* The table of commands: what each is called, takes, does and looks like in use. Parser, help,
 * completion and documentation read it. */
#include "cli/cli.h"

#define LIST(...) ((const unsigned char[]){ __VA_ARGS__, OPT_END })
#define HTTP_OPTIONS                                                                               \
    OPT_CA_FILE, OPT_CLIENT_CERT, OPT_CLIENT_KEY, OPT_HEADER_FILE, OPT_SECRET_FILE, OPT_INSECURE,  \
        OPT_TIMEOUT, OPT_CONNECT_TIMEOUT
#define REQUEST_OPTIONS OPT_MAX_REQUEST_ENTRIES, OPT_MAX_REQUEST_BYTES, OPT_BODY, OPT_SIGNATURE
#define STORE_OPTIONS                                                                              \
    OPT_STORE, OPT_TABLE, OPT_LOG_TABLE, OPT_BUSY_TIMEOUT, OPT_PASSWORD_FILE, HTTP_OPTIONS
#define SINK_OPTIONS                                                                               \
    OPT_SINK, OPT_TABLE, OPT_SINK_TABLE, OPT_LOG_TABLE, OPT_SINK_LOG_TABLE, OPT_BUSY_TIMEOUT,      \
        OPT_PASSWORD_FILE, HTTP_OPTIONS
#define PAIR_OPTIONS                                                                               \
    OPT_SOURCE, OPT_SINK, OPT_TABLE, OPT_SOURCE_TABLE, OPT_SINK_TABLE, OPT_LOG_TABLE,              \
        OPT_SOURCE_LOG_TABLE, OPT_SINK_LOG_TABLE, OPT_BUSY_TIMEOUT, OPT_PASSWORD_FILE,             \
        HTTP_OPTIONS, OPT_NAME
#define STATE_OPTIONS OPT_STATE, OPT_STATE_TABLE, OPT_CURSOR_FILE
#define CARRY_OPTIONS                                                                              \
    OPT_BATCH_SIZE, OPT_BACKLOG_BATCH_SIZE, OPT_MAX_BATCH_BYTES, OPT_PARALLEL_STREAMS, OPT_SKIP,   \
        OPT_ON_BAD_EVENT, OPT_REFUSAL_LIMIT, STATE_OPTIONS, REQUEST_OPTIONS

const struct cli_command cli_commands[] = {
    { .words = "store init",
      .args = "",
      .summary = "make the tables of a store, or what is missing of them",
      .text =
          "Makes the file, the table of entries, its mutation log and what bridges need. What is\n"
          "there already is kept; running it again changes nothing.\n\n"
          "--notify has a price: PostgreSQL takes one lock of the whole cluster for each commit\n"
          "that notifies, and refuses PREPARE TRANSACTION in one that does. So a program that\n"
          "writes in two-phase transactions (XA) must not have it.",
      .examples =
          "ledgerctl store init --store sqlite:orders.db\n"
          "ledgerctl store init --store sqlite:copy.db --no-log\n"
          "ledgerctl store init --store postgresql://db.example/orders --notify --full-text",
      .options = LIST(STORE_OPTIONS, OPT_NO_LOG, OPT_NEW_IDENTITY, OPT_NOTIFY, OPT_FULL_TEXT),
      .run = cli_store_init },
    { .words = "store check",
      .args = "",
      .summary = "look at tables, indexes and settings; exit 78 on an error",
      .text = "Changes nothing. One line per finding: ok, warning or error.\n"
              "Warnings leave the exit code at 0.",
      .examples = "ledgerctl store check --store sqlite:orders.db",
      .options = LIST(STORE_OPTIONS),
      .run = cli_store_check },

    { .words = "stream append",
      .args = "PAYLOAD | - | --lines",
      .max_args = 1,
      .summary = "append entries; prints their ids",
      .text =
          "PAYLOAD is JSON and is kept byte for byte; `-` reads it from stdin, without the line "
          "end\n"
          "that closes it and a byte order mark before it. --lines reads one JSON object per line "
          "from stdin, with the fields\n"
          "stream, payload, order_key, dedup_key, schema_version, metadata and tags; only "
          "payload is\n"
          "required. Lines are appended in transactions of up to 500. The first bad line ends "
          "it:\n"
          "the lines before it are appended, that line and all behind it are not.",
      .examples =
          "ledgerctl stream append --store sqlite:orders.db --stream user-1 '{\"total\": 12}'\n"
          "ledgerctl stream append --store sqlite:orders.db --tag new --meta by=me - < "
          "order.json\n"
          "ledgerctl stream append --store sqlite:orders.db --lines < orders.ndjson",
      .options = LIST(STORE_OPTIONS, OPT_STREAM, OPT_ORDER_KEY, OPT_DEDUP_KEY, OPT_META, OPT_TAG,
                      OPT_SCHEMA_VERSION, OPT_LINES),
      .run = cli_stream_append },
    { .words = "stream read",
      .args = "",
      .summary = "print entries of a stream",
      .text = "Filters combine: an entry is printed when it meets all of them.",
      .examples = "ledgerctl stream read --store sqlite:orders.db --stream user-1 --json\n"
                  "ledgerctl stream read --store sqlite:orders.db --tag paid --desc --limit 10",
      .options = LIST(STORE_OPTIONS, OPT_STREAM, OPT_AFTER, OPT_LIMIT, OPT_DESC, OPT_ORDER_KEY,
                      OPT_TAG, OPT_META, OPT_ANNOTATION),
      .run = cli_stream_read },
    { .words = "stream tail",
      .args = "",
      .summary = "print entries as they come, until it is interrupted",
      .text =
          "Starts at the first entry; with --after ID behind that one, with --after end at the\n"
          "present end. In PostgreSQL a transaction may commit after others that have higher ids:\n"
          "its entries are printed when they are committed, so ids need not rise, and --after the\n"
          "last one may leave some out. SIGINT and SIGTERM end it with exit 0.",
      .examples = "ledgerctl stream tail --store sqlite:orders.db --stream user-1 --after end\n"
                  "ledgerctl stream tail --store sqlite:orders.db --stream user-1 --json",
      .options = LIST(STORE_OPTIONS, OPT_STREAM, OPT_AFTER, OPT_ORDER_KEY, OPT_TAG, OPT_META,
                      OPT_ANNOTATION),
      .run = cli_stream_tail },
    { .words = "stream search",
      .args = "TEXT",
      .min_args = 1,
      .max_args = 1,
      .summary = "print entries whose payload contains a text",
      .text = "The text is looked for as it stands, ASCII letters in either case. With "
              "--full-text: its\n"
              "words, in any order, each of them (PostgreSQL). Without --stream: every stream.",
      .examples = "ledgerctl stream search --store sqlite:orders.db 'blue shoes'\n"
                  "ledgerctl stream search --store postgresql:///orders --full-text 'shoes blue'",
      .options = LIST(STORE_OPTIONS, OPT_STREAM, OPT_AFTER, OPT_LIMIT, OPT_DESC, OPT_ORDER_KEY,
                      OPT_TAG, OPT_META, OPT_ANNOTATION, OPT_FULL_TEXT),
      .run = cli_stream_search },
    { .words = "stream count",
      .args = "",
      .summary = "print how many entries a stream has, or the store",
      .examples = "ledgerctl stream count --store sqlite:orders.db\n"
                  "ledgerctl stream count --store sqlite:orders.db --stream user-1",
      .options = LIST(STORE_OPTIONS, OPT_STREAM),
      .run = cli_stream_count },
    { .words = "stream stat",
      .args = "",
      .summary = "print count, first and last entry of a stream, or of the store",
      .examples = "ledgerctl stream stat --store sqlite:orders.db --stream user-1",
      .options = LIST(STORE_OPTIONS, OPT_STREAM),
      .run = cli_stream_stat },
    { .words = "stream tag",
      .args = "",
      .summary = "replace the tags of an entry; without --tag: clear them",
      .examples = "ledgerctl stream tag --store sqlite:orders.db --stream user-1 --id 7 --tag paid",
      .options = LIST(STORE_OPTIONS, OPT_STREAM, OPT_ID, OPT_TAG),
      .run = cli_stream_tag },
    { .words = "stream annotate",
      .args = "",
      .summary = "set or delete annotations of an entry",
      .examples = "ledgerctl stream annotate --store sqlite:orders.db --stream user-1 --id 7"
                  " --set by=ann --set old=",
      .options = LIST(STORE_OPTIONS, OPT_STREAM, OPT_ID, OPT_SET),
      .run = cli_stream_annotate },
    { .words = "stream trim",
      .args = "",
      .summary = "delete the entries of a stream up to and including an id",
      .examples = "ledgerctl stream trim --store sqlite:orders.db --stream user-1 --before 1000",
      .options = LIST(STORE_OPTIONS, OPT_STREAM, OPT_BEFORE),
      .run = cli_stream_trim },
    { .words = "stream list",
      .args = "",
      .summary = "print the names of the streams",
      .examples = "ledgerctl stream list --store sqlite:orders.db --limit 0",
      .options = LIST(STORE_OPTIONS, OPT_AFTER, OPT_LIMIT),
      .run = cli_stream_list },

    { .words = "bridge run",
      .args = "",
      .summary = "carry every change of the source to the sink, until it is stopped",
      .text =
          "Both stores must exist (`ledgerctl store init`). A webhook keeps no cursor: "
          "--cursor-file,\n"
          "or --state, says where the bridge does. SIGTERM, SIGINT and SIGHUP finish the\n"
          "batch in hand and end it with exit 0; a batch that waits for a database is given up\n"
          "after 4s and carried by the next start. A second SIGTERM or SIGINT ends it at once.\n"
          "Any number of bridges may run on one pair. Events that cannot be applied are parked\n"
          "(`ledgerctl bridge parked list`) and do not change the exit code.\n"
          "A database that goes away is told once and waited for; once more when it is back. A\n"
          "wait of more than 10s is told, too: for a lock and who holds it, a standby, an answer.\n"
          "At the start both have to be reached within 30s, or within --retry-for.",
      .examples = "ledgerctl bridge run --source sqlite:orders.db --sink sqlite:copy.db\n"
                  "ledgerctl bridge run --source postgresql://a.example/orders --sink "
                  "postgresql:///?service=copy\n"
                  "ledgerctl bridge run --source sqlite:orders.db --sink "
                  "postgresql://app@b.example/copy --password-file pw\n"
                  "ledgerctl bridge run --source sqlite:orders.db --sink "
                  "https://b.example/orders --secret-file secrets --cursor-file cursor.db\n"
                  "ledgerctl bridge run --source sqlite:orders.db --sink sqlite:copy.db "
                  "--until-empty --json\n"
                  "LEDGER_SOURCE=sqlite:orders.db LEDGER_SINK=sqlite:copy.db ledgerctl bridge run "
                  "-v",
      .options = LIST(PAIR_OPTIONS, CARRY_OPTIONS, OPT_INTERVAL, OPT_UNTIL_EMPTY, OPT_RETRY_FOR),
      .run = cli_bridge_run },
    { .words = "bridge poll",
      .args = "",
      .summary = "one poll: read a batch, apply it, print how many were read",
      .examples = "ledgerctl bridge poll --source sqlite:orders.db --sink sqlite:copy.db",
      .options = LIST(PAIR_OPTIONS, CARRY_OPTIONS),
      .run = cli_bridge_poll },
    { .words = "bridge status",
      .args = "",
      .summary = "print position, backlog and lag; exit 11 over --max-lag, 12 when parked",
      .text = "A sink that keeps no cursor, such as a webhook, has it in a state store: give "
              "--state or\n"
              "--cursor-file in place of --sink, here and for `parked` and `cursor`.",
      .examples = "ledgerctl bridge status --source sqlite:orders.db --sink sqlite:copy.db\n"
                  "ledgerctl bridge status --source sqlite:orders.db --sink sqlite:copy.db "
                  "--max-lag 5s",
      .options = LIST(PAIR_OPTIONS, STATE_OPTIONS, OPT_MAX_LAG),
      .run = cli_bridge_status },
    { .words = "bridge verify",
      .args = "",
      .summary = "compare both histories; exit 0 when equal, 10 when not",
      .text =
          "Compares every field of every entry up to the cursor, not the order of ids inside a\n"
          "stream. Writers and bridges may go on. Times that events of the Go module do not "
          "carry,\n"
          "and payloads that its bridge re-encoded, are counted apart and are no difference.",
      .examples = "ledgerctl bridge verify --source sqlite:orders.db --sink sqlite:copy.db",
      .options = LIST(PAIR_OPTIONS, STATE_OPTIONS, OPT_MAX_REPORTED),
      .run = cli_bridge_verify },
    { .words = "bridge parked list",
      .args = "",
      .summary = "print the events that could not be applied",
      .text =
          "`ledgerctl bridge parked` alone does the same. `show` prints such an event, `retry`\n"
          "applies it, `drop` deletes it.",
      .examples = "ledgerctl bridge parked list --sink sqlite:copy.db",
      .options = LIST(SINK_OPTIONS, STATE_OPTIONS),
      .run = cli_parked_list },
    { .words = "bridge parked show",
      .args = "ID",
      .min_args = 1,
      .max_args = 1,
      .summary = "print one parked event as it was read",
      .examples = "ledgerctl bridge parked show 3 --sink sqlite:copy.db",
      .options = LIST(SINK_OPTIONS, STATE_OPTIONS),
      .run = cli_parked_show },
    { .words = "bridge parked retry",
      .args = "ID | --all",
      .max_args = 1,
      .summary = "try parked events again, in order; exit 12 when some stay",
      .text =
          "An event that waits behind another one of its entry stays until that one is applied.",
      .examples =
          "ledgerctl bridge parked retry --all --source sqlite:orders.db --sink sqlite:copy.db",
      .options = LIST(PAIR_OPTIONS, STATE_OPTIONS, REQUEST_OPTIONS, OPT_ALL),
      .run = cli_parked_retry },
    { .words = "bridge parked drop",
      .args = "ID | --all",
      .max_args = 1,
      .summary = "delete parked events: they are never applied",
      .examples = "ledgerctl bridge parked drop 3 --sink sqlite:copy.db",
      .options = LIST(SINK_OPTIONS, STATE_OPTIONS, OPT_ALL),
      .run = cli_parked_drop },
    { .words = "bridge cursor show",
      .args = "",
      .summary = "print where the bridge stands",
      .text = "`ledgerctl bridge cursor` alone does the same. `set` and `reset` move it.",
      .examples = "ledgerctl bridge cursor show --source sqlite:orders.db --sink sqlite:copy.db",
      .options = LIST(PAIR_OPTIONS, STATE_OPTIONS),
      .run = cli_cursor_show },
    { .words = "bridge cursor set",
      .args = "POSITION",
      .min_args = 1,
      .max_args = 1,
      .summary = "set the cursor to a position of the source's log",
      .text =
          "Going back is safe: what the sink has already is left alone; but a webhook gets it\n"
          "again, under the same ids. Going forward leaves out what lies between for good, and\n"
          "needs --allow-skip.",
      .examples =
          "ledgerctl bridge cursor set 1200 --source sqlite:orders.db --sink sqlite:copy.db",
      .options = LIST(PAIR_OPTIONS, STATE_OPTIONS, OPT_ALLOW_SKIP),
      .run = cli_cursor_set },
    { .words = "bridge cursor reset",
      .args = "",
      .summary = "set the cursor to the beginning of the log",
      .text = "Safe: what the sink has already is left alone. But a webhook gets everything\n"
              "again, under the same ids.",
      .examples = "ledgerctl bridge cursor reset --source sqlite:orders.db --sink sqlite:copy.db",
      .options = LIST(PAIR_OPTIONS, STATE_OPTIONS),
      .run = cli_cursor_reset },
    { .words = "bridge cursor acknowledge",
      .args = "",
      .summary = "go on after the source moved to another cluster with all its rows",
      .text =
          "For a PostgreSQL source after pg_upgrade, or after a dump was restored elsewhere: "
          "binds\n"
          "the cursor to the source as it is now, at the same place or before it; what is carried\n"
          "twice is left alone. Fails when the last row that was carried is missing. Changes\n"
          "nothing where nothing is needed.",
      .examples = "ledgerctl bridge cursor acknowledge --source postgresql://new.example/orders "
                  "--sink sqlite:copy.db",
      .options = LIST(PAIR_OPTIONS, STATE_OPTIONS),
      .run = cli_cursor_acknowledge },

    { .words = "completion bash",
      .args = "",
      .summary = "print a completion script for bash",
      .examples = "source <(ledgerctl completion bash)",
      .options = (const unsigned char[]){ OPT_END },
      .run = cli_completion },
    { .words = "version",
      .args = "",
      .summary = "print the versions of program and library",
      .examples = "ledgerctl version --json",
      .options = (const unsigned char[]){ OPT_END },
      .run = cli_version },
    { .words = "help",
      .args = "[COMMAND]",
      .max_args = 3,
      .summary = "show help for a command",
      .examples = "ledgerctl help stream append",
      .options = (const unsigned char[]){ OPT_END },
      .run = cli_help },
    { .words = "config-doc",
      .args = "",
      .hidden = true,
      .summary = "print docs/CONFIG.md",
      .examples = "ledgerctl config-doc > docs/CONFIG.md",
      .options = (const unsigned char[]){ OPT_END },
      .run = cli_config_doc },
};
const size_t cli_command_count = sizeof cli_commands / sizeof cli_commands[0];
