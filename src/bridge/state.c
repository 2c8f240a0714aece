/* Where a bridge keeps cursor, origins and parked events when its sink keeps none: a store that the
 * user names, else memory.
 *
 * Hides what must not be the same. Invariant: source, sink and state store are tables of their own,
 * and so are those beside them. */
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "bridge/stages.h"

#define SQLITE_SCHEME "sqlite:"

/* What the user has to change. */
static const char *option_of(const ledger_bridge_options *o)
{
    return o->cursor_file != NULL ? "--cursor-file" : "--state";
}

static const char *end_name(const struct ledger_bridge *bridge, const ledger_store *end)
{
    return end == bridge->source ? "source" : "sink";
}

/* A file of its own is what a cursor file is; the table that it would get in this one takes locks
 * that writers of the source wait for. */
static ledger_rc check_file(const struct ledger_bridge *bridge, const ledger_store *end,
                            ledger_error *err)
{
    const char *path = bridge->options.cursor_file, *url = ledger_store_url(end);
    struct stat own, other;
    if (path == NULL || strncmp(url, SQLITE_SCHEME, strlen(SQLITE_SCHEME)) != 0 ||
        stat(path, &own) != 0 || stat(url + strlen(SQLITE_SCHEME), &other) != 0 ||
        own.st_dev != other.st_dev || own.st_ino != other.st_ino)
        return LEDGER_OK;
    return ldg_fail(err, LEDGER_ERR_INVALID,
                    "--cursor-file %s is the file of the %s itself; give the cursors a file of "
                    "their own",
                    path, end_name(bridge, end));
}

static ledger_rc check_tables(const struct ledger_bridge *bridge, const ledger_store *end,
                              ledger_error *err)
{
    const char *table = bridge->options.state_table;
    if (ldg_store_has_table(end, table))
        return ldg_fail(
            err, LEDGER_ERR_INVALID,
            "the state table \"%s\" is the name of a table of the %s, beside its \"%s\"; "
            "give another one with --state-table",
            table, end_name(bridge, end), ledger_store_table(end));
    return LEDGER_OK;
}

static ledger_rc check_identity(const struct ledger_bridge *bridge, ledger_store *end,
                                ledger_error *err)
{
    struct ldg_identity state, other;
    ledger_rc rc = LEDGER_OK;
    if (bridge->state_store == NULL || (ldg_store_caps(end) & LDG_CAP_ORIGINS) == 0)
        return LEDGER_OK;
    rc = ldg_store_identity(bridge->state_store, &state, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_identity(end, &other, err);
    if (rc == LEDGER_OK && strcmp(other.uuid, state.uuid) == 0)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "the state store (%s) is the table of the %s itself, or a copy of it; give "
                      "it one of its own with --state-table",
                      option_of(&bridge->options), end_name(bridge, end));
    return rc;
}

/* What is wrong with it shall not be looked for at the source, or the sink. */
static ledger_rc fail_open(ledger_rc rc, ledger_error *err)
{
    if (err != NULL) {
        const ledger_error why = *err;
        (void)ldg_fail_native(err, rc, why.backend, why.native_code, "state store: %s",
                              why.message);
        err->flags = why.flags;
    }
    return rc;
}

/* In memory, as long as the bridge, unless the caller says where. */
static ledger_rc open_store(struct ledger_bridge *bridge, ledger_error *err)
{
    const uint64_t needed = LDG_CAP_TX_CURSOR | LDG_CAP_ATOMIC_BATCH | LDG_CAP_PARK;
    const ledger_bridge_options *o = &bridge->options;
    char url[4096 + 16], uuid[LDG_UUID_TEXT_MAX];
    ledger_store_options options;
    int n = 0;
    ldg_uuid_new(uuid);
    if (o->cursor_file != NULL)
        n = snprintf(url, sizeof(url), SQLITE_SCHEME "%s", o->cursor_file);
    else if (o->state_url == NULL)
        n = snprintf(url, sizeof(url), "memory:state-%s", uuid);
    if (n < 0 || (size_t)n >= sizeof(url))
        return ldg_fail(err, LEDGER_ERR_INVALID, "the path of --cursor-file is too long");
    ledger_store_options_defaults(&options);
    options.url = o->state_url != NULL ? o->state_url : url;
    options.table = o->state_table;
    options.log = LEDGER_MUTATION_LOG_OFF;
    options.flags = LEDGER_STORE_CREATE;
    options.label = o->name;
    ledger_rc rc = ledger_store_open(&options, &bridge->state_store, err);
    if (rc != LEDGER_OK)
        return fail_open(rc, err);
    if ((ldg_store_caps(bridge->state_store) & needed) != needed)
        rc = ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                      "a %s store cannot keep the state of a bridge: it has no transactions",
                      ledger_store_backend(bridge->state_store));
    return rc;
}

/* Two bridges that carry one source to one sink of the program's, each with a state of its own,
 * would deliver everything twice; of two sinks with one state each would lack what the other
 * refuses. Only those of this process can be seen. */
static ledger_rc check_others(const struct ledger_bridge *bridge, ledger_error *err)
{
    struct ldg_identity source, state;
    ledger_rc rc = ldg_store_identity(bridge->source, &source, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_identity(bridge->state_store, &state, err);
    return rc == LEDGER_OK ? ldg_own_enter(bridge->own, source.uuid, state.uuid, err) : rc;
}

/* A sink that has a cursor but no transactions keeps it behind what it was given; a state store has
 * what such a sink lacks, a fence. */
static bool needs_state(const struct ledger_bridge *bridge)
{
    const uint64_t caps = ldg_store_caps(bridge->sink);
    const bool named = bridge->options.state_url != NULL || bridge->options.cursor_file != NULL;
    return (caps & LDG_CAP_TX_CURSOR) == 0 || (named && (caps & LDG_CAP_ATOMIC_BATCH) == 0);
}

ledger_rc ldg_state_open(struct ledger_bridge *bridge, ledger_error *err)
{
    ledger_store *const ends[] = { bridge->source, bridge->sink };
    const ledger_bridge_options *o = &bridge->options;
    struct ldg_identity source, sink;
    const bool needed = needs_state(bridge);
    ledger_rc rc = LEDGER_OK;
    if (!needed && (o->state_url != NULL || o->cursor_file != NULL))
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "a %s sink keeps its cursor and its parked events itself; leave %s out",
                        ledger_store_backend(bridge->sink), option_of(o));
    for (int i = 0; rc == LEDGER_OK && needed && i < 2; i++) {
        rc = check_file(bridge, ends[i], err);
        if (rc == LEDGER_OK)
            rc = check_tables(bridge, ends[i], err);
    }
    if (rc == LEDGER_OK && needed)
        rc = open_store(bridge, err);
    for (int i = 0; rc == LEDGER_OK && i < 2; i++)
        rc = check_identity(bridge, ends[i], err);
    if (rc == LEDGER_OK && (ldg_store_caps(bridge->sink) & LDG_CAP_ORIGINS) != 0)
        rc = ldg_pair_identities(bridge->source, bridge->sink, &source, &sink, err);
    return rc == LEDGER_OK && bridge->own != NULL ? check_others(bridge, err) : rc;
}
