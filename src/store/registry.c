/* The array of backends: the only file that names one.
 *
 * Invariant: every backend in the array has all required callbacks, the callbacks of each
 * capability it declares, and pairs whole or not at all (ldg_registry_problem; asserted in debug
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

static const struct ldg_backend *const backends[] = {
#if LDG_WITH_SQLITE
    &ldg_backend_sqlite,
#endif
#if LDG_WITH_POSTGRES
    &ldg_backend_postgres,
#endif
    &ldg_backend_memory,
};
#define BACKEND_COUNT (sizeof(backends) / sizeof(backends[0]))

/* Schemes that exist but may be missing from a build. */
static const char *const optional_schemes[] = { "sqlite", "postgresql" };

/* libpq takes both. */
static const struct {
    const char *alias, *scheme;
} aliases[] = { { "postgres", "postgresql" } };

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

const char *ldg_registry_problem(const struct ldg_backend *b)
{
    const bool cursor = b->cursor_get && b->cursor_set && b->cursor_list;
    const bool park =
        b->parked_list && b->parked_count && b->parked_retry && b->parked_note && b->parked_drop;
    const bool any_park =
        b->parked_list || b->parked_count || b->parked_retry || b->parked_note || b->parked_drop;
    const bool tx = b->tx_begin && b->tx_commit && b->tx_rollback;
    const struct {
        bool wrong;
        const char *text;
    } rules[] = {
        { !b->name || !b->scheme || !b->ctx_size, "name, scheme and ctx_size are required" },
        { b->name && strlen(b->name) >= sizeof(((ledger_error *)0)->backend), "name is too long" },
        { !b->open || !b->close || !b->describe || !b->has_log || !b->wake_key || !b->append ||
              !b->read || !b->count || !b->stat || !b->list_streams || !b->health || !b->check ||
              !b->identity,
          "a required callback is missing" },
        { (b->caps & LDG_CAP_MUTATION_LOG) && !(b->log_read && b->log_cursor_at && b->log_check &&
                                                b->log_stat && b->log_wait && b->entries_by_id),
          "MUTATION_LOG needs the log_ callbacks and entries_by_id" },
        { (b->caps & LDG_CAP_ATOMIC_BATCH) && !b->apply, "ATOMIC_BATCH needs apply" },
        { (b->caps & LDG_CAP_TX_CURSOR) && !(cursor && b->apply),
          "TX_CURSOR needs apply and the cursor_ callbacks" },
        { (b->caps & LDG_CAP_FIND_BY_SOURCE) &&
              !(b->find_by_source_id && b->origin_get && b->origin_list),
          "FIND_BY_SOURCE needs find_by_source_id, origin_get and origin_list" },
        { (b->caps & LDG_CAP_TAGS) && !b->set_tags, "TAGS needs set_tags" },
        { (b->caps & LDG_CAP_ANNOTATIONS) && !b->set_annotations,
          "ANNOTATIONS needs set_annotations" },
        { (b->caps & LDG_CAP_TRIM) && !b->trim, "TRIM needs trim" },
        { (b->caps & LDG_CAP_TRANSACTIONS) && !tx, "TRANSACTIONS needs the tx_ callbacks" },
        { (b->caps & LDG_CAP_PARK) && !park, "PARK needs the parked_ callbacks" },
        { (b->caps & LDG_CAP_PARALLEL_APPLY) && !b->apply, "PARALLEL_APPLY needs apply" },
        { (b->caps & LDG_CAP_OVERLAP_APPLY) &&
              (~b->caps & (LDG_CAP_ATOMIC_BATCH | LDG_CAP_TX_CURSOR)) != 0,
          "OVERLAP_APPLY needs ATOMIC_BATCH and TX_CURSOR" },
        { (b->caps & LDG_CAP_FULL_TEXT) && !(b->caps & LDG_CAP_SEARCH), "FULL_TEXT needs SEARCH" },
        { !b->cursor_get != !b->cursor_set || !b->cursor_get != !b->cursor_list,
          "the cursor_ callbacks come together or not at all" },
        { !b->tx_begin != !b->tx_commit || !b->tx_begin != !b->tx_rollback,
          "the tx_ callbacks come together or not at all" },
        { !b->history != !b->history_of, "history and history_of come together or not at all" },
        { !b->snapshot_begin != !b->snapshot_end,
          "snapshot_begin and snapshot_end come together or not at all" },
        { !b->settle != !b->read_gaps, "settle and read_gaps come together or not at all" },
        { !b->origin_get != !b->origin_list || (b->origin_adopt && !b->origin_get) ||
              !b->origin_adopt != !b->origin_rewind || !b->origin_adopt != !b->origin_last,
          "the origin_ callbacks come together or not at all" },
        { any_park != park, "the parked_ callbacks come together or not at all" },
    };
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        if (rules[i].wrong)
            return rules[i].text;
    }
    return NULL;
}
