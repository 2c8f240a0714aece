/* The array of backends: the only file that names one.
 *
 * Invariant: every backend in the array has what its roles require, and groups of callbacks whole
 * or not at all (ldg_registry_problem; asserted in debug
 * builds on each look-up, and by the unit test). */
#include "store/registry.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "ldg_config.h"

extern const struct ldg_backend ldg_backend_memory;
#if LDG_WITH_SQLITE
extern const struct ldg_backend ldg_backend_sqlite;
#endif
#if LDG_WITH_POSTGRES
extern const struct ldg_backend ldg_backend_postgres;
#endif
#if LDG_WITH_WEBHOOK
extern const struct ldg_backend ldg_backend_webhook;
#endif
#if LDG_WITH_CLICKHOUSE
extern const struct ldg_backend ldg_backend_clickhouse;
#endif

static const struct ldg_backend *const backends[] = {
#if LDG_WITH_SQLITE
    &ldg_backend_sqlite,
#endif
#if LDG_WITH_POSTGRES
    &ldg_backend_postgres,
#endif
#if LDG_WITH_WEBHOOK
    &ldg_backend_webhook,
#endif
#if LDG_WITH_CLICKHOUSE
    &ldg_backend_clickhouse,
#endif
    &ldg_backend_memory,
};
#define BACKEND_COUNT (sizeof(backends) / sizeof(backends[0]))

/* Schemes that exist but may be missing from a build. */
static const char *const optional_schemes[] = { "sqlite", "postgresql", "https", "clickhouse" };

/* libpq takes both; those over HTTP say by the scheme whether they speak TLS. */
static const struct {
    const char *alias, *scheme;
} aliases[] = { { "postgres", "postgresql" },
                { "http", "https" },
                { "clickhouses", "clickhouse" } };

static bool is_scheme(const char *scheme, const char *text, size_t size)
{
    return strlen(scheme) == size && memcmp(scheme, text, size) == 0;
}

const struct ldg_backend *ldg_registry_get(size_t index)
{
    return index < BACKEND_COUNT ? backends[index] : NULL;
}

static void list_schemes(char *out, size_t out_size)
{
    size_t used = 0;
    for (size_t i = 0; i < BACKEND_COUNT && used < out_size; i++)
        used += (size_t)snprintf(out + used, out_size - used, "%s%s:", i ? ", " : "",
                                 backends[i]->scheme);
}

ledger_rc ldg_registry_find(const char *url, const struct ldg_backend **ret_backend,
                            const char **ret_path, ledger_error *err)
{
    char known[LDG_REGISTRY_LIST_MAX];
    list_schemes(known, sizeof(known));

    /* A scheme is letters, digits, + - . up to the first colon; the rest of the URL may hold a
     * secret and never goes into a message. */
    size_t size = strspn(url, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");
    if (size == 0 || url[size] != ':')
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "the store's URL has no scheme; write one of %s in front, for example "
                        "sqlite:orders.db",
                        known);
    const char *scheme = url;
    size_t scheme_size = size;
    for (size_t i = 0; i < sizeof(aliases) / sizeof(aliases[0]); i++) {
        if (is_scheme(aliases[i].alias, url, size)) {
            scheme = aliases[i].scheme;
            scheme_size = strlen(scheme);
        }
    }
    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        if (is_scheme(backends[i]->scheme, scheme, scheme_size)) {
            assert(!ldg_registry_problem(backends[i]));
            *ret_backend = backends[i];
            *ret_path = url + size + 1;
            return LEDGER_OK;
        }
    }
    for (size_t i = 0; i < sizeof(optional_schemes) / sizeof(optional_schemes[0]); i++) {
        if (is_scheme(optional_schemes[i], scheme, scheme_size))
            /* uncovered: only in a build that leaves the backend out */
            return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                            "this library was built without %s; it has %s", optional_schemes[i],
                            known);
    }
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "unknown URL scheme \"%.*s\"; this library has %s",
                    size > 32 ? 32 : (int)size, url, known);
}

ledger_rc ldg_registry_find_connection(ledger_connection_kind kind,
                                       const struct ldg_backend **ret_backend, ledger_error *err)
{
    static const char *const schemes[] = {
        [LEDGER_CONNECTION_SQLITE] = "sqlite",
        [LEDGER_CONNECTION_POSTGRES] = "postgresql",
    };
    if ((unsigned)kind >= sizeof(schemes) / sizeof(schemes[0]))
        return ldg_fail(err, LEDGER_ERR_INVALID, "unknown kind of connection %d", (int)kind);
    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        if (strcmp(backends[i]->scheme, schemes[kind]) == 0) {
            assert(!ldg_registry_problem(backends[i]));
            *ret_backend = backends[i];
            return LEDGER_OK;
        }
    }
    /* uncovered: only in a build that leaves the backend out */
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                    "this library was built without the backend for a %s connection",
                    schemes[kind]);
}

/* --- is a table of functions whole? ----------------------------------------------------------- */

/* A group of callbacks comes whole or not at all. */
static bool is_half(int there, int of)
{
    return there != 0 && there != of;
}

static const char *store_problem(const struct ldg_store_role *r)
{
    if (!r->read || !r->count || !r->stat || !r->list_streams)
        return "store: read, count, stat and list_streams are required";
    if (!r->append && (r->set_tags || r->set_annotations || r->trim || r->tx_begin))
        return "store: who writes has append";
    if (is_half(!!r->tx_begin + !!r->tx_commit + !!r->tx_rollback, 3))
        return "store: the tx_ callbacks come together or not at all";
    if (is_half(!!r->watermark + !!r->read_gaps, 2))
        return "store: watermark and read_gaps come together or not at all";
    return NULL;
}

static const char *source_problem(const struct ldg_source_role *r)
{
    if (!r->log_read || !r->log_cursor_at || !r->log_check || !r->log_stat || !r->log_wait ||
        !r->entries_by_id)
        return "source: the log_ callbacks and entries_by_id are required";
    return NULL;
}

static const char *sink_problem(const struct ldg_sink_role *r, const struct ldg_state_role *state)
{
    if (!r->apply || (r->takes >> LDG_OP_APPEND & 1) == 0)
        return "sink: apply is required, and takes APPEND at least";
    if (r->takes >> (LDG_OP_PARK + 1) != 0)
        return "sink: takes names a kind of op that does not exist";
    if ((r->takes >> LDG_OP_PARK & 1) != 0 && !(state && state->parked_list))
        return "sink: who takes PARK has the parked_ callbacks";
    return NULL;
}

static const char *state_problem(const struct ldg_state_role *r)
{
    if (!r->identity)
        return "state: identity is required";
    if (is_half(!!r->cursor_get + !!r->cursor_set + !!r->cursor_list, 3) ||
        (r->cursor_get && !r->origin_get))
        return "state: the cursor_ callbacks come together, with origin_get, or not at all";
    if (is_half(!!r->origin_get + !!r->origin_list, 2))
        return "state: origin_get and origin_list come together or not at all";
    if (is_half(!!r->origin_adopt + !!r->origin_last + !!r->origin_rewind, 3) ||
        (r->origin_adopt && !r->origin_get))
        return "state: origin_adopt, origin_last and origin_rewind come together, with origin_get, "
               "or not at all";
    if (is_half(!!r->parked_list + !!r->parked_near + !!r->parked_count + !!r->parked_retry +
                    !!r->parked_note + !!r->parked_drop,
                6))
        return "state: the parked_ callbacks come together or not at all";
    return NULL;
}

static const char *verify_problem(const struct ldg_verify_role *r)
{
    if (!r->history || !r->history_of || !r->snapshot_begin || !r->snapshot_end)
        return "verify: history, history_of and the snapshot_ callbacks are required";
    return NULL;
}

static const char *caps_problem(const struct ldg_backend *b)
{
    const uint64_t of_sink =
        LDG_CAP_ATOMIC_BATCH | LDG_CAP_PARALLEL_APPLY | LDG_CAP_OVERLAP_APPLY | LDG_CAP_TEXT_KEYS;
    if ((b->caps & of_sink) && !b->sink)
        return "ATOMIC_BATCH, PARALLEL_APPLY, OVERLAP_APPLY and TEXT_KEYS need the role of a sink";
    if ((b->caps & LDG_CAP_OVERLAP_APPLY) && (!b->state || !b->state->cursor_get))
        return "OVERLAP_APPLY needs the cursor_ callbacks";
    if ((b->caps & LDG_CAP_FULL_TEXT) && !(b->caps & LDG_CAP_SEARCH))
        return "FULL_TEXT needs SEARCH";
    if ((b->caps & LDG_CAP_SEARCH) && !b->store)
        return "SEARCH needs the role of a store";
    return NULL;
}

const char *ldg_registry_problem(const struct ldg_backend *b)
{
    if (!b->name || !b->scheme || !b->ctx_size || !b->open || !b->close || !b->health)
        return "name, scheme, ctx_size, open, close and health are required";
    if (strlen(b->name) >= sizeof(((ledger_error *)0)->backend))
        return "name is too long";
    if ((b->store || b->source) && !b->wake_key)
        return "a store, and a source, has a wake_key";
    if (b->source && (!b->has_log || !b->state))
        return "a source has has_log, and the role of a state";
    const char *problem = caps_problem(b);
    if (!problem && b->store)
        problem = store_problem(b->store);
    if (!problem && b->source)
        problem = source_problem(b->source);
    if (!problem && b->sink)
        problem = sink_problem(b->sink, b->state);
    if (!problem && b->state)
        problem = state_problem(b->state);
    if (!problem && b->verify)
        problem = verify_problem(b->verify);
    return problem;
}
