/* ledgerctl bridge run and poll: carrying changes, with a line of progress for people and one
 * object of counters for programs. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

#define REDRAW_MS 200
#define REPORT_MS 10000
#define START_MS 30000 /* without --retry-for: both ends are reached by then, or the run ends */

/* --- options -------------------------------------------------------------------------------- */

static void bridge_options(const struct cli *cli, int64_t retry_for_ms,
                           ledger_bridge_options *ret_options)
{
    ledger_bridge_options_defaults(ret_options);
    ledger_bridge_options *o = ret_options;
    if (cli_is_set(cli, OPT_NAME))
        o->name = cli_text(cli, OPT_NAME);
    o->batch_size = (size_t)cli_number(cli, OPT_BATCH_SIZE, (int64_t)o->batch_size);
    if (o->backlog_batch_size < o->batch_size)
        o->backlog_batch_size = o->batch_size;
    o->backlog_batch_size =
        (size_t)cli_number(cli, OPT_BACKLOG_BATCH_SIZE, (int64_t)o->backlog_batch_size);
    o->max_batch_bytes = (size_t)cli_number(cli, OPT_MAX_BATCH_BYTES, (int64_t)o->max_batch_bytes);
    o->interval_ms = cli_number(cli, OPT_INTERVAL, o->interval_ms);
    o->parallel_streams =
        (size_t)cli_number(cli, OPT_PARALLEL_STREAMS, (int64_t)o->parallel_streams);
    o->skip_types = (uint32_t)cli_number(cli, OPT_SKIP, 0);
    o->on_bad_event =
        (ledger_bad_event_policy)cli_number(cli, OPT_ON_BAD_EVENT, LEDGER_BAD_EVENT_PARK);
    o->refusal_limit = (uint32_t)cli_number(cli, OPT_REFUSAL_LIMIT, o->refusal_limit);
    o->state_url = cli_text(cli, OPT_STATE);
    o->state_table = cli_text(cli, OPT_STATE_TABLE);
    o->cursor_file = cli_text(cli, OPT_CURSOR_FILE);
    o->retry_for_ms = cli_number(cli, OPT_RETRY_FOR, retry_for_ms);
    o->logger.log = cli_log;
    if (cli_quiet() && cli_verbosity() == 0)
        o->logger.log = NULL;
}

/* --- opening, with patience ----------------------------------------------------------------- */

/* Unless a stop is asked for. */
static void pause_until(int64_t until_us)
{
    while (!cli_stop_asked()) {
        int64_t left_us = until_us - cli_mono_us();
        if (left_us <= 0)
            break;
        usleep(left_us < 100000 ? (useconds_t)left_us : 100000);
    }
}

/* A store that cannot be reached yet is waited for, but not for ever: where nothing was reached at
 * all, a wrong name is as likely as an outage. */
static int open_patiently(const struct cli *cli, enum cli_end end, int64_t give_up_us,
                          ledger_store **ret_store)
{
    ledger_store_options options;
    ledger_error err = { 0 };
    int64_t pause_us = 50000;
    if (!cli_store_options(cli, end, &options))
        return CLI_EXIT_USAGE;
    for (bool told = false;; told = true) {
        ledger_rc rc = ledger_store_open(&options, ret_store, &err);
        if (rc == LEDGER_OK) {
            if (told)
                cli_note("warn %s is there now", end == CLI_SOURCE ? "the source" : "the sink");
            return CLI_EXIT_OK;
        }
        bool transient = (err.flags & LEDGER_ERROR_RETRY) != 0 && rc != LEDGER_ERR_NOMEM;
        const char *what = end == CLI_SOURCE ? "source" : "sink";
        if (cli_stop_asked()) {
            cli_note("stopped before the %s could be opened", what);
            return CLI_EXIT_OK;
        }
        if (!transient || cli_mono_us() >= give_up_us) {
            if (told && transient)
                cli_note("the %s was tried for as long as --retry-for says, 30s if not given",
                         what);
            return cli_fail(rc, &err, what);
        }
        if (!told)
            cli_note("warn %s: %s; trying again", what, err.message);
        pause_until(cli_mono_us() + pause_us < give_up_us ? cli_mono_us() + pause_us : give_up_us);
        pause_us = pause_us < 5000000 ? pause_us * 2 : 10000000;
    }
}

/* It opens handles of its own: what could be reached a moment ago may be gone again. */
static ledger_rc create_patiently(const ledger_store *source, const ledger_store *sink,
                                  const ledger_bridge_options *options, int64_t give_up_us,
                                  ledger_bridge **ret_bridge, ledger_error *err)
{
    ledger_rc rc = ledger_bridge_create(source, sink, options, ret_bridge, err);
    while (rc != LEDGER_OK && rc != LEDGER_ERR_NOMEM && (err->flags & LEDGER_ERROR_RETRY) != 0 &&
           !cli_stop_asked() && cli_mono_us() < give_up_us) {
        pause_until(cli_mono_us() + 100000);
        rc = ledger_bridge_create(source, sink, options, ret_bridge, err);
    }
    return rc;
}

/* Opens both ends within start_ms and makes the bridge, which gives up after retry_for_ms; the
 * user's --retry-for wins over both. 0, or the exit code after a message. */
static int make_bridge(const struct cli *cli, int64_t start_ms, int64_t retry_for_ms,
                       ledger_bridge **ret_bridge)
{
    ledger_bridge_options options;
    ledger_store *source = NULL, *sink = NULL;
    ledger_error err = { 0 };
    int exit_code = cli_state_check(cli);
    if (exit_code != 0)
        return exit_code;
    bridge_options(cli, retry_for_ms, &options);
    int64_t give_up_us = cli_mono_us() + cli_number(cli, OPT_RETRY_FOR, start_ms) * 1000;
    if (start_ms > 0 || cli_is_set(cli, OPT_RETRY_FOR))
        cli_wait_until(give_up_us);
    exit_code = open_patiently(cli, CLI_SOURCE, give_up_us, &source);
    if (exit_code == 0 && !cli_stop_asked())
        exit_code = open_patiently(cli, CLI_SINK, give_up_us, &sink);
    if (exit_code == 0 && !cli_stop_asked()) {
        ledger_rc rc = create_patiently(source, sink, &options, give_up_us, ret_bridge, &err);
        if (rc != LEDGER_OK)
            exit_code = cli_stop_asked() ? CLI_EXIT_OK : cli_fail(rc, &err, NULL);
    }
    cli_wait_until(0);
    ledger_store_close(&sink);
    ledger_store_close(&source);
    return exit_code;
}

/* --- counters ------------------------------------------------------------------------------- */

static void print_stats_json(const ledger_bridge_stats *s)
{
    json_begin(stdout);
    json_count(stdout, "polls", s->poll_count);
    json_count(stdout, "read", s->read_count);
    json_count(stdout, "applied", s->apply_count);
    json_count(stdout, "skipped", s->skip_count);
    json_count(stdout, "parked", s->park_count);
    json_count(stdout, "deduplicated", s->dedup_count);
    json_count(stdout, "errors", s->error_count);
    json_object_begin(stdout, "skipped_by");
    json_count(stdout, "option", s->skip_option_count);
    json_count(stdout, "replay", s->skip_replay_count);
    json_count(stdout, "missing", s->skip_missing_count);
    json_count(stdout, "origin", s->skip_origin_count);
    json_object_end(stdout);
    json_count(stdout, "backlog", s->backlog_count);
    json_seconds(stdout, "lag_seconds", s->lag_seconds);
    json_text(stdout, "position", cli_position_text(s->position));
    /* Not known before a batch was moved. */
    json_text(stdout, "durable_position",
              s->durable_position[0] != '\0' ? cli_position_text(s->durable_position) : NULL);
    json_time(stdout, "last_success", s->last_success_us);
    json_time(stdout, "last_progress", s->last_progress_us);
    json_end(stdout);
}

/* --- progress ------------------------------------------------------------------------------- */

struct progress {
    int64_t start_us, last_us;
    uint64_t last_read;
    uint64_t backlog, backlog_read; /* at the last look at the source; so much was moved then */
    double rate;                    /* per second, smoothed over about two seconds */
    int64_t success_us, failing_us; /* last poll that went well; since when none does, or 0 */
    uint64_t errors;                /* up to that poll */
};

/* For how long polls have failed: backlog and lag are then what they were before. 0: they do not.
 */
static double failing_seconds(struct progress *p, const ledger_bridge_stats *s)
{
    if (s->last_success_us != p->success_us || s->error_count == p->errors) {
        p->success_us = s->last_success_us;
        p->errors = s->error_count;
        p->failing_us = 0;
        return 0;
    }
    if (p->failing_us == 0)
        p->failing_us = cli_mono_us();
    return (double)(cli_mono_us() - p->failing_us) / 1e6;
}

/* Of the backlog: a sink may have taken much of a batch before there is another look. */
static uint64_t left_of(struct progress *p, const ledger_bridge_stats *s)
{
    if (s->backlog_count != p->backlog) {
        p->backlog = s->backlog_count;
        p->backlog_read = s->read_count;
    }
    uint64_t moved = s->read_count - p->backlog_read;
    return moved < p->backlog ? p->backlog - moved : 0;
}

static void progress_text(struct progress *p, const ledger_bridge_stats *s, char *out,
                          size_t out_size)
{
    double failing = failing_seconds(p, s);
    char moved[CLI_NUMBER_MAX], rate[CLI_NUMBER_MAX], backlog[CLI_NUMBER_MAX];
    char lag[CLI_NUMBER_MAX], eta[CLI_NUMBER_MAX] = "-";
    int64_t now = cli_mono_us();
    double seconds = (double)(now - p->last_us) / 1e6;
    if (seconds > 0) {
        double current = (double)(s->read_count - p->last_read) / seconds;
        double weight = p->last_us == p->start_us ? 1 : seconds / (seconds + 2);
        p->rate += (current - p->rate) * weight;
    }
    p->last_us = now;
    p->last_read = s->read_count;
    if (s->backlog_count == 0)
        snprintf(eta, sizeof eta, "0s");
    else if (p->rate >= 1)
        cli_span_text((double)left_of(p, s) / p->rate, eta);
    if (cli_stop_asked())
        snprintf(out, out_size, "moved %s  stopping, what is under way has some seconds",
                 cli_grouped(s->read_count, moved));
    else if (failing > 0)
        snprintf(out, out_size, "moved %s  failing for %s", cli_grouped(s->read_count, moved),
                 cli_span_text(failing, lag));
    else
        snprintf(out, out_size, "moved %s  %s/s  backlog %s  lag %s  ETA %s",
                 cli_grouped(s->read_count, moved), cli_grouped((uint64_t)(p->rate + 0.5), rate),
                 cli_grouped(s->backlog_count, backlog), cli_span_text(s->lag_seconds, lag), eta);
    if (s->park_count > 0)
        snprintf(out + strlen(out), out_size - strlen(out), "  parked %llu",
                 (unsigned long long)s->park_count);
    if (s->error_count > 0)
        snprintf(out + strlen(out), out_size - strlen(out), "  errors %llu",
                 (unsigned long long)s->error_count);
}

/* Waits for the end, showing how it goes. */
static ledger_rc wait_for_end(const struct cli *cli, ledger_bridge *bridge, struct progress *p,
                              ledger_error *err)
{
    bool draw = cli_progress_possible();
    bool report = !draw && cli_verbosity() > 0 && !cli_quiet();
    int64_t timeout_ms = draw ? REDRAW_MS : report ? REPORT_MS : -1;
    char line[256];
    for (;;) {
        ledger_rc rc = ledger_bridge_wait(bridge, cli_flag(cli, OPT_UNTIL_EMPTY), timeout_ms, err);
        if (rc != LEDGER_ERR_TIMEOUT) {
            cli_progress_clear();
            return rc;
        }
        ledger_bridge_stats stats;
        ledger_bridge_get_stats(bridge, &stats);
        progress_text(p, &stats, line, sizeof line);
        if (draw)
            cli_progress_show(line);
        else
            cli_note("%s", line);
    }
}

static void print_summary(const struct cli *cli, const struct progress *p,
                          const ledger_bridge_stats *s)
{
    char read[CLI_NUMBER_MAX], applied[CLI_NUMBER_MAX], rate[CLI_NUMBER_MAX], took[CLI_NUMBER_MAX];
    char skipped[CLI_NUMBER_MAX], parked[CLI_NUMBER_MAX], dedup[CLI_NUMBER_MAX];
    double seconds = (double)(cli_mono_us() - p->start_us) / 1e6;
    uint64_t per_second = seconds > 0 ? (uint64_t)((double)s->read_count / seconds) : 0;
    cli_note(
        "moved %s mutation%s in %s (%s/s): %s applied, %s skipped, %s parked, %s deduplicated; "
        "position %s",
        cli_grouped(s->read_count, read), s->read_count == 1 ? "" : "s",
        cli_span_text(seconds, took), cli_grouped(per_second, rate),
        cli_grouped(s->apply_count, applied), cli_grouped(s->skip_count, skipped),
        cli_grouped(s->park_count, parked), cli_grouped(s->dedup_count, dedup),
        cli_position_text(s->position));
    if (s->park_count > 0)
        cli_error("warning: %s parked by this run: see `ledgerctl bridge parked list`",
                  s->park_count == 1 ? "one event was" : "events were");
}

int cli_bridge_run(const struct cli *cli)
{
    ledger_bridge *bridge = NULL;
    ledger_bridge_stats stats;
    ledger_error err = { 0 };
    struct progress progress = { 0 };
    cli_stop_catch();
    int exit_code =
        make_bridge(cli, START_MS, cli_flag(cli, OPT_UNTIL_EMPTY) ? 30000 : -1, &bridge);
    if (exit_code != 0 || bridge == NULL)
        return exit_code;
    progress.start_us = progress.last_us = cli_mono_us();
    cli_stop_bridge(bridge);
    ledger_rc rc = ledger_bridge_start(bridge, &err);
    cli_stop_bridge(bridge); /* a signal that came in between asks again */
    if (rc == LEDGER_OK)
        rc = wait_for_end(cli, bridge, &progress, &err);
    cli_stop_bridge(NULL);
    ledger_bridge_stop(bridge);
    ledger_bridge_get_stats(bridge, &stats);
    if (rc != LEDGER_OK)
        exit_code = cli_fail(rc, &err, NULL);
    if (rc == LEDGER_OK || stats.poll_count > stats.error_count)
        print_summary(cli, &progress, &stats); /* a bridge that never got to work moved nothing */
    if (cli_flag(cli, OPT_JSON))
        print_stats_json(&stats);
    ledger_bridge_destroy(&bridge);
    return exit_code;
}

int cli_bridge_poll(const struct cli *cli)
{
    ledger_bridge *bridge = NULL;
    ledger_bridge_stats stats;
    ledger_error err = { 0 };
    uint64_t read = 0;
    int exit_code = make_bridge(cli, 0, -1, &bridge);
    if (exit_code != 0)
        return exit_code;
    ledger_rc rc = ledger_bridge_poll(bridge, &read, &err);
    ledger_bridge_get_stats(bridge, &stats);
    if (rc != LEDGER_OK)
        exit_code = cli_fail(rc, &err, NULL);
    else if (cli_flag(cli, OPT_JSON))
        print_stats_json(&stats);
    else
        printf("%llu\n", (unsigned long long)read);
    if (rc == LEDGER_OK && stats.park_count > 0)
        cli_error("warning: %llu parked: see `ledgerctl bridge parked list`",
                  (unsigned long long)stats.park_count);
    ledger_bridge_destroy(&bridge);
    return exit_code;
}
