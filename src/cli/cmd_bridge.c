/* ledgerctl bridge, looking at a pair from outside: status, verify, parked events, cursor. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

/* sink: who keeps cursor and parked events, be it a state store. */
struct pair {
    ledger_store *source, *sink;
};

static void pair_close(struct pair *pair)
{
    ledger_store_close(&pair->sink);
    ledger_store_close(&pair->source);
}

static int pair_open_as(const struct cli *cli, uint32_t source_flags, uint32_t sink_flags,
                        struct pair *ret_pair)
{
    *ret_pair = (struct pair){ 0 };
    int exit_code = cli_state_check(cli);
    if (exit_code == 0)
        exit_code = cli_store_open(cli, CLI_SOURCE, source_flags, &ret_pair->source);
    if (exit_code == 0)
        exit_code = cli_store_open(cli, cli_keeper(cli), sink_flags, &ret_pair->sink);
    if (exit_code != 0)
        pair_close(ret_pair);
    return exit_code;
}

static int pair_open(const struct cli *cli, uint32_t sink_flags, struct pair *ret_pair)
{
    return pair_open_as(cli, LEDGER_STORE_READ_ONLY, sink_flags, ret_pair);
}

static const char *bridge_name(const struct cli *cli)
{
    const char *name = cli_text(cli, OPT_NAME);
    return name != NULL ? name : LEDGER_BRIDGE_DEFAULT_NAME;
}

static int read_status(const struct cli *cli, ledger_bridge_status *ret_status, struct pair *pair)
{
    ledger_error err = { 0 };
    ledger_rc rc =
        ledger_bridge_status_get(pair->source, pair->sink, bridge_name(cli), ret_status, &err);
    return rc == LEDGER_OK ? CLI_EXIT_OK : cli_fail(rc, &err, NULL);
}

/* --- status --------------------------------------------------------------------------------- */

static void print_status_json(const struct cli *cli, const struct pair *pair,
                              const ledger_bridge_status *s)
{
    json_begin(stdout);
    json_text(stdout, "name", bridge_name(cli));
    json_text(stdout, "source_uuid", s->source_uuid);
    if (cli_keeper(cli) == CLI_STATE) {
        json_text(stdout, "state", ledger_store_url(pair->sink));
        json_text(stdout, "state_table", ledger_store_table(pair->sink));
    }
    json_text(stdout, "position", s->has_cursor ? cli_position_text(s->position) : NULL);
    json_text(stdout, "head", cli_position_text(s->head));
    json_count(stdout, "backlog", s->backlog_count);
    if (s->lag_unknown)
        json_text(stdout, "lag_seconds", NULL);
    else
        json_seconds(stdout, "lag_seconds", s->lag_seconds);
    json_time(stdout, "oldest_at", s->oldest_us);
    json_count(stdout, "parked", s->parked_count);
    json_time(stdout, "moved_at", s->moved_at_us);
    json_end(stdout);
}

static void print_moved_at(int64_t moved_at_us)
{
    char when[CLI_TIME_MAX], ago[CLI_NUMBER_MAX];
    if (moved_at_us == LEDGER_NO_TIME) {
        puts("moved     -");
        return;
    }
    double age = (double)(cli_now_us() - moved_at_us) / 1e6;
    printf("moved     %s (%s ago)\n", cli_time_text(moved_at_us, when),
           cli_span_text(age > 0 ? age : 0, ago));
}

static void print_ends(const struct cli *cli, const struct pair *pair)
{
    printf("bridge    %s\n", bridge_name(cli));
    printf("source    %s  table %s\n", ledger_store_url(pair->source),
           ledger_store_table(pair->source));
    printf("%s %s  table %s\n", cli_keeper(cli) == CLI_STATE ? "state    " : "sink     ",
           ledger_store_url(pair->sink), ledger_store_table(pair->sink));
}

static void print_position(const ledger_bridge_status *s)
{
    printf("position  %s of %s\n", s->has_cursor ? cli_position_text(s->position) : "none yet,",
           cli_position_text(s->head));
}

static void note_wrong_time(const ledger_bridge_status *s)
{
    char when[CLI_TIME_MAX];
    if (s->wrong_time)
        cli_note("the oldest event is dated %s: the clock of its writer is wrong; the lag is %s",
                 s->oldest_us == LEDGER_NO_TIME ? "with no time"
                                                : cli_time_text(s->oldest_us, when),
                 s->lag_unknown ? "not known, and counts as above --max-lag"
                                : "counted from when the cursor last moved");
}

int cli_bridge_status(const struct cli *cli)
{
    struct pair pair;
    ledger_bridge_status status;
    char number[CLI_NUMBER_MAX];
    int exit_code = pair_open(cli, LEDGER_STORE_READ_ONLY, &pair);
    if (exit_code != 0)
        return exit_code;
    exit_code = read_status(cli, &status, &pair);
    if (exit_code != 0)
        goto out;
    if (cli_flag(cli, OPT_JSON)) {
        print_status_json(cli, &pair, &status);
    } else {
        print_ends(cli, &pair);
        print_position(&status);
        printf("backlog   %s\n", cli_grouped(status.backlog_count, number));
        printf("lag       %s\n",
               status.lag_unknown ? "unknown" : cli_span_text(status.lag_seconds, number));
        printf("parked    %s\n", cli_grouped(status.parked_count, number));
        print_moved_at(status.moved_at_us);
    }
    note_wrong_time(&status);
    if (cli_is_set(cli, OPT_MAX_LAG) &&
        (status.lag_unknown || status.lag_seconds * 1000 > (double)cli_number(cli, OPT_MAX_LAG, 0)))
        exit_code = CLI_EXIT_LAG;
    else if (status.parked_count > 0)
        exit_code = CLI_EXIT_PARKED;
out:
    pair_close(&pair);
    return exit_code;
}

/* --- verify --------------------------------------------------------------------------------- */

/* Differences come before the verdict; they are kept as text. Bounded by --max-reported. */
struct verify {
    bool json, draw;
    FILE *to;
    char *text;
    size_t size;
};

static const char *kind_name(ledger_difference_kind kind)
{
    switch (kind) {
    case LEDGER_DIFF_MISSING:
        return "missing";
    case LEDGER_DIFF_EXTRA:
        return "extra";
    case LEDGER_DIFF_DOUBLE:
        return "double";
    case LEDGER_DIFF_FIELD:
        break;
    }
    return "field";
}

static void keep_difference(void *ctx, const ledger_difference *d)
{
    struct verify *verify = ctx;
    FILE *to = verify->to;
    if (verify->json) {
        json_item_begin(to);
        json_text(to, "kind", kind_name(d->kind));
        json_text(to, "stream", d->stream);
        json_text(to, "source_id", d->source_id);
        if (d->kind == LEDGER_DIFF_FIELD) {
            json_text(to, "field", d->field);
            json_text(to, "source", d->source_value);
            json_text(to, "sink", d->sink_value);
        }
        json_object_end(to);
        return;
    }
    fputs("  stream ", to);
    print_plain(to, d->stream, strlen(d->stream));
    fputs(", entry ", to);
    print_plain(to, d->source_id, strlen(d->source_id));
    fputs(": ", to);
    if (d->kind == LEDGER_DIFF_MISSING) {
        fputs("not in the sink\n", to);
    } else if (d->kind == LEDGER_DIFF_EXTRA) {
        fputs("in the sink, but no longer in the source\n", to);
    } else if (d->kind == LEDGER_DIFF_DOUBLE) {
        fputs("in the sink twice, since the Go module's bridge has carried it, too\n", to);
    } else {
        fprintf(to, "%s is ", d->field);
        print_plain(to, d->source_value, strlen(d->source_value));
        fputs(" in the source, ", to);
        print_plain(to, d->sink_value, strlen(d->sink_value));
        fputs(" in the sink\n", to);
    }
}

static void show_compared(void *ctx, uint64_t compared)
{
    struct verify *verify = ctx;
    char number[CLI_NUMBER_MAX], line[80];
    if (!verify->draw)
        return;
    snprintf(line, sizeof line, "compared %s entries", cli_grouped(compared, number));
    cli_progress_show(line);
}

static const char *plural(uint64_t n, const char *one, const char *many)
{
    return n == 1 ? one : many;
}

static void print_verdict(const struct verify *verify, const ledger_verify_result *r)
{
    char a[CLI_NUMBER_MAX], b[CLI_NUMBER_MAX], c[CLI_NUMBER_MAX], d[CLI_NUMBER_MAX];
    const char *position = cli_position_text(r->position);
    if (r->difference_count == 0)
        printf("equal: %s %s in %s %s, position %s\n", cli_grouped(r->source_count, a),
               plural(r->source_count, "entry", "entries"), cli_grouped(r->stream_count, b),
               plural(r->stream_count, "stream", "streams"), position);
    else
        printf("different: %s %s; %s %s in the source, %s in the sink, %s %s, position %s\n",
               cli_grouped(r->difference_count, a),
               plural(r->difference_count, "difference", "differences"),
               cli_grouped(r->source_count, b), plural(r->source_count, "entry", "entries"),
               cli_grouped(r->sink_count, c), cli_grouped(r->stream_count, d),
               plural(r->stream_count, "stream", "streams"), position);
    fwrite(verify->text, 1, verify->size, stdout);
    if (r->pending_count > 0)
        cli_note("%s %s still to be changed by events behind the cursor",
                 cli_grouped(r->pending_count, a),
                 plural(r->pending_count, "entry is", "entries are"));
    if (r->time_difference_count > 0)
        cli_note("%s %s only in times that their events did not carry",
                 cli_grouped(r->time_difference_count, a),
                 plural(r->time_difference_count, "entry differs", "entries differ"));
    if (r->payload_reencoded_count > 0)
        cli_note("%s %s the same but for white space and escapes: the Go bridge carried %s",
                 cli_grouped(r->payload_reencoded_count, a),
                 plural(r->payload_reencoded_count, "payload is", "payloads are"),
                 plural(r->payload_reencoded_count, "it", "them"));
    if (r->parked_count > 0)
        cli_note("%s of them wait for parked events: see `ledgerctl bridge parked list`",
                 cli_grouped(r->parked_count, a));
}

static void print_verdict_json(const struct verify *verify, const ledger_verify_result *r)
{
    json_begin(stdout);
    json_bool(stdout, "equal", r->difference_count == 0);
    json_count(stdout, "source_count", r->source_count);
    json_count(stdout, "sink_count", r->sink_count);
    json_count(stdout, "streams", r->stream_count);
    json_count(stdout, "differences", r->difference_count);
    json_count(stdout, "pending", r->pending_count);
    json_count(stdout, "parked", r->parked_count);
    json_count(stdout, "time_differences", r->time_difference_count);
    json_count(stdout, "payload_reencoded_count", r->payload_reencoded_count);
    json_text(stdout, "position", cli_position_text(r->position));
    json_array_begin(stdout, "first_differences");
    fwrite(verify->text, 1, verify->size, stdout);
    json_array_end(stdout);
    json_end(stdout);
}

/* Here the sink is wanted itself, whoever keeps its cursor. */
static int verify_open(const struct cli *cli, struct pair *ret_pair, ledger_store **ret_state)
{
    *ret_pair = (struct pair){ 0 };
    int exit_code = cli_store_open(cli, CLI_SOURCE, LEDGER_STORE_READ_ONLY, &ret_pair->source);
    if (exit_code == 0)
        exit_code = cli_store_open(cli, CLI_SINK, LEDGER_STORE_READ_ONLY, &ret_pair->sink);
    if (exit_code == 0 && cli_keeper(cli) == CLI_STATE)
        exit_code = cli_store_open(cli, CLI_STATE, LEDGER_STORE_READ_ONLY, ret_state);
    if (exit_code != 0)
        pair_close(ret_pair);
    return exit_code;
}

int cli_bridge_verify(const struct cli *cli)
{
    struct pair pair;
    struct verify verify = { .json = cli_flag(cli, OPT_JSON), .draw = cli_progress_possible() };
    ledger_store *state = NULL;
    ledger_verify_options options;
    ledger_verify_result result;
    ledger_error err = { 0 };
    int exit_code = verify_open(cli, &pair, &state);
    if (exit_code != 0)
        return exit_code;
    verify.to = open_memstream(&verify.text, &verify.size);
    if (verify.to == NULL) {
        cli_error("out of memory");
        ledger_store_close(&state);
        pair_close(&pair);
        return CLI_EXIT_TEMPORARY;
    }
    ledger_verify_options_defaults(&options);
    options.state = state;
    options.name = bridge_name(cli);
    options.max_reported = (size_t)cli_number(cli, OPT_MAX_REPORTED, 10);
    options.fn = keep_difference;
    options.progress = show_compared;
    options.ctx = &verify;
    ledger_rc rc = ledger_bridge_verify(pair.source, pair.sink, &options, &result, &err);
    cli_progress_clear();
    fclose(verify.to);
    if (rc != LEDGER_OK) {
        exit_code = cli_fail(rc, &err, NULL);
    } else {
        exit_code = result.difference_count > 0 ? CLI_EXIT_DIFFERENT : CLI_EXIT_OK;
        if (verify.json)
            print_verdict_json(&verify, &result);
        else
            print_verdict(&verify, &result);
    }
    cli_free(verify.text);
    ledger_store_close(&state);
    pair_close(&pair);
    return exit_code;
}

/* --- parked --------------------------------------------------------------------------------- */

struct parked {
    bool json;
    int64_t wanted; /* show: this one; 0: every one */
    bool found;
};

static void print_parked_json(const ledger_parked *p)
{
    json_begin(stdout);
    json_id(stdout, "id", (ledger_id){ .number = p->id });
    json_text(stdout, "source_uuid", p->source_uuid);
    json_id(stdout, "position", (ledger_id){ .number = p->position });
    json_text(stdout, "type", p->type);
    json_text(stdout, "stream", p->stream);
    json_text(stdout, "entry_id", p->entry_id);
    json_text(stdout, "reason", p->reason);
    json_count(stdout, "attempts", p->attempts);
    json_time(stdout, "parked_at", p->parked_at_us);
    json_end(stdout);
}

static void print_parked(const ledger_parked *p)
{
    char when[CLI_TIME_MAX];
    printf("%lld  %s  position %lld  %s  stream ", (long long)p->id,
           cli_time_text(p->parked_at_us, when), (long long)p->position,
           p->type[0] != '\0' ? p->type : "(no type)");
    print_plain(stdout, p->stream, strlen(p->stream));
    if (p->entry_id[0] != '\0') {
        fputs("  entry ", stdout);
        print_plain(stdout, p->entry_id, strlen(p->entry_id));
    }
    printf("  attempts %llu: ", (unsigned long long)p->attempts);
    print_plain(stdout, p->reason, strlen(p->reason));
    putchar('\n');
}

static bool on_parked(void *ctx, const ledger_parked *p)
{
    struct parked *parked = ctx;
    if (parked->wanted != 0) {
        if (p->id != parked->wanted)
            return true;
        fwrite(p->event.data, 1, p->event.size, stdout); /* as it was read */
        putchar('\n');
        parked->found = true;
        return false;
    }
    if (parked->json)
        print_parked_json(p);
    else
        print_parked(p);
    parked->found = true;
    return cli_flush();
}

static int walk_parked(const struct cli *cli, struct parked *parked)
{
    ledger_store *sink = NULL;
    ledger_error err = { 0 };
    int exit_code = cli_state_check(cli);
    if (exit_code == 0)
        exit_code = cli_store_open(cli, cli_keeper(cli), LEDGER_STORE_READ_ONLY, &sink);
    if (exit_code != 0)
        return exit_code;
    cli_output_may_be_cut();
    ledger_rc rc = ledger_bridge_parked_list(sink, on_parked, parked, &err);
    if (rc != LEDGER_OK)
        exit_code = cli_fail(rc, &err, NULL);
    ledger_store_close(&sink);
    return exit_code;
}

int cli_parked_list(const struct cli *cli)
{
    struct parked parked = { .json = cli_flag(cli, OPT_JSON) };
    int exit_code = walk_parked(cli, &parked);
    if (exit_code == 0 && !parked.found)
        cli_note("nothing is parked");
    return exit_code;
}

static bool parked_id(const char *text, int64_t *ret_id)
{
    if (cli_parse_number(text, 1, INT64_MAX, ret_id))
        return true;
    cli_error("\"%s\" is not the id of a parked event; `ledgerctl bridge parked list` prints them",
              cli_shown(text));
    return false;
}

int cli_parked_show(const struct cli *cli)
{
    struct parked parked = { 0 };
    if (!parked_id(cli->args[0], &parked.wanted))
        return CLI_EXIT_USAGE;
    int exit_code = walk_parked(cli, &parked);
    if (exit_code == 0 && !parked.found) {
        cli_error("no event is parked under id %lld", (long long)parked.wanted);
        exit_code = CLI_EXIT_FAILED;
    }
    return exit_code;
}

/* ID or --all, exactly one of them; 0 means all, as in the library. */
static bool id_or_all(const struct cli *cli, int64_t *ret_id)
{
    bool all = cli_flag(cli, OPT_ALL);
    *ret_id = 0;
    if (all == (cli->arg_count == 1)) {
        cli_error("`ledgerctl %s` takes either an id or --all", cli->command->words);
        return false;
    }
    return all || parked_id(cli->args[0], ret_id);
}

/* With a state store it takes a bridge: what is parked there is delivered. */
static ledger_rc retry_by_bridge(const struct cli *cli, const struct pair *pair, int64_t id,
                                 uint64_t *ret_applied, uint64_t *ret_left, ledger_error *err)
{
    ledger_bridge *bridge = NULL;
    ledger_bridge_options options;
    ledger_bridge_options_defaults(&options);
    options.name = bridge_name(cli);
    options.state_url = cli_text(cli, OPT_STATE);
    options.state_table = cli_text(cli, OPT_STATE_TABLE);
    options.cursor_file = cli_text(cli, OPT_CURSOR_FILE);
    ledger_rc rc = ledger_bridge_create(pair->source, pair->sink, &options, &bridge, err);
    if (rc == LEDGER_OK)
        rc = ledger_bridge_retry(bridge, id, ret_applied, ret_left, err);
    ledger_bridge_destroy(&bridge);
    return rc;
}

static void print_retried(const struct cli *cli, uint64_t applied, uint64_t left)
{
    if (cli_flag(cli, OPT_JSON)) {
        json_begin(stdout);
        json_count(stdout, "applied", applied);
        json_count(stdout, "left", left);
        json_end(stdout);
    } else {
        printf("%llu applied, %llu still parked\n", (unsigned long long)applied,
               (unsigned long long)left);
    }
    if (!cli_flush())
        cli_error("%llu events are applied already, %llu are still parked",
                  (unsigned long long)applied, (unsigned long long)left);
}

int cli_parked_retry(const struct cli *cli)
{
    struct pair pair = { 0 };
    ledger_error err = { 0 };
    int64_t id = 0;
    uint64_t applied = 0, left = 0;
    if (!id_or_all(cli, &id))
        return CLI_EXIT_USAGE;
    int exit_code = cli_state_check(cli);
    if (exit_code == 0)
        exit_code = cli_store_open(cli, CLI_SOURCE, LEDGER_STORE_READ_ONLY, &pair.source);
    if (exit_code == 0)
        exit_code = cli_store_open(cli, CLI_SINK, 0, &pair.sink);
    if (exit_code != 0)
        goto out;
    ledger_rc rc =
        cli_keeper(cli) == CLI_STATE
            ? retry_by_bridge(cli, &pair, id, &applied, &left, &err)
            : ledger_bridge_parked_retry(pair.source, pair.sink, id, &applied, &left, &err);
    if (rc != LEDGER_OK) {
        exit_code = cli_fail(rc, &err, NULL);
    } else {
        exit_code = left > 0 ? CLI_EXIT_PARKED : CLI_EXIT_OK;
        print_retried(cli, applied, left);
    }
out:
    pair_close(&pair);
    return exit_code;
}

int cli_parked_drop(const struct cli *cli)
{
    ledger_store *sink = NULL;
    ledger_error err = { 0 };
    int64_t id = 0;
    uint64_t dropped = 0;
    if (!id_or_all(cli, &id))
        return CLI_EXIT_USAGE;
    int exit_code = cli_state_check(cli);
    if (exit_code == 0)
        exit_code = cli_store_open(cli, cli_keeper(cli), 0, &sink);
    if (exit_code != 0)
        return exit_code;
    ledger_rc rc = ledger_bridge_parked_drop(sink, id, &dropped, &err);
    if (rc != LEDGER_OK) {
        exit_code = cli_fail(rc, &err, NULL);
    } else if (cli_flag(cli, OPT_JSON)) {
        json_begin(stdout);
        json_count(stdout, "dropped", dropped);
        json_end(stdout);
    } else {
        printf("%llu dropped\n", (unsigned long long)dropped);
    }
    if (rc == LEDGER_OK && !cli_flush())
        cli_error("%llu events are dropped already", (unsigned long long)dropped);
    ledger_store_close(&sink);
    return exit_code;
}

/* --- cursor --------------------------------------------------------------------------------- */

int cli_cursor_show(const struct cli *cli)
{
    struct pair pair;
    ledger_bridge_status status;
    int exit_code = pair_open(cli, LEDGER_STORE_READ_ONLY, &pair);
    if (exit_code != 0)
        return exit_code;
    exit_code = read_status(cli, &status, &pair);
    if (exit_code == 0 && cli_flag(cli, OPT_JSON)) {
        json_begin(stdout);
        json_text(stdout, "name", bridge_name(cli));
        json_text(stdout, "source_uuid", status.source_uuid);
        json_text(stdout, "position",
                  status.has_cursor ? cli_position_text(status.position) : NULL);
        json_text(stdout, "head", cli_position_text(status.head));
        json_time(stdout, "moved_at", status.moved_at_us);
        json_end(stdout);
    } else if (exit_code == 0) {
        print_ends(cli, &pair);
        print_position(&status);
        printf("uuid      %s (of the source)\n", status.source_uuid);
        print_moved_at(status.moved_at_us);
    }
    pair_close(&pair);
    return exit_code;
}

/* Where it stands now: it may have gone further back than asked. */
static void note_cursor(const struct cli *cli, const struct pair *pair)
{
    char text[LEDGER_ID_TEXT_MAX];
    if (!cli_flag(cli, OPT_JSON) &&
        ledger_store_cursor_get(pair->sink, bridge_name(cli), text, NULL) == LEDGER_OK)
        cli_note("the cursor of bridge %s is at %s", cli_shown(bridge_name(cli)),
                 cli_position_text(text));
}

static int set_cursor(const struct cli *cli, const char *position, bool allow_skip)
{
    struct pair pair;
    ledger_error err = { 0 };
    int exit_code = pair_open(cli, 0, &pair);
    if (exit_code != 0)
        return exit_code;
    ledger_rc rc = ledger_bridge_cursor_set(pair.source, pair.sink, bridge_name(cli), position,
                                            allow_skip, &err);
    if (rc != LEDGER_OK)
        exit_code = cli_fail(rc, &err, NULL);
    else
        note_cursor(cli, &pair);
    pair_close(&pair);
    return exit_code;
}

int cli_cursor_set(const struct cli *cli)
{
    int64_t position = 0;
    if (!cli_parse_number(cli->args[0], 0, INT64_MAX, &position)) {
        cli_error("\"%s\" is not a position: a whole number, 0 for the beginning",
                  cli_shown(cli->args[0]));
        return CLI_EXIT_USAGE;
    }
    return set_cursor(cli, cli->args[0], cli_flag(cli, OPT_ALLOW_SKIP));
}

int cli_cursor_reset(const struct cli *cli)
{
    return set_cursor(cli, "0", false);
}

int cli_cursor_acknowledge(const struct cli *cli)
{
    struct pair pair;
    ledger_error err = { 0 };
    bool changed = false;
    int exit_code = pair_open_as(cli, 0, 0, &pair);
    if (exit_code != 0)
        return exit_code;
    ledger_rc rc =
        ledger_bridge_cursor_acknowledge(pair.source, pair.sink, bridge_name(cli), &changed, &err);
    if (rc != LEDGER_OK) {
        exit_code = cli_fail(rc, &err, NULL);
    } else if (cli_flag(cli, OPT_JSON)) {
        json_begin(stdout);
        json_text(stdout, "name", bridge_name(cli));
        json_bool(stdout, "changed", changed);
        json_end(stdout);
    } else if (changed) {
        note_cursor(cli, &pair);
    } else {
        cli_note("nothing to acknowledge: the cursor of bridge %s fits the source",
                 cli_shown(bridge_name(cli)));
    }
    pair_close(&pair);
    return exit_code;
}
