/* The life of a store's handle: its options are checked and copied, its backend is found and
 * opened.
 *
 * Invariant: a handle that was given out has all of its strings, and a backend that is open. */
#include "store/handle.h"

#include <string.h>

#include "store/registry.h"
#include "store/wake.h"

#define SCRATCH_KEEP_BYTES ((size_t)64 * 1024)
#define ALL_FLAGS                                                                                  \
    (LEDGER_STORE_CREATE | LEDGER_STORE_READ_ONLY | LEDGER_STORE_APPEND_ONLY | LEDGER_OWN_CONN |   \
     LEDGER_STORE_NEW_IDENTITY | LEDGER_STORE_NOTIFY | LEDGER_STORE_FULL_TEXT)
#define DEFAULT_LABEL "ledger"

static ledger_rc check_options(const ledger_store_options *options, ledger_error *err)
{
    const uint32_t flags = options->flags;
    if (options->url && options->connection)
        return ldg_fail(err, LEDGER_ERR_INVALID, "give a URL or a connection, not both");
    if (!options->url && !options->connection)
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "the store's URL is missing, for example sqlite:orders.db");
    if (flags & ~(uint32_t)ALL_FLAGS)
        return ldg_fail(err, LEDGER_ERR_INVALID, "unknown flags 0x%x",
                        (unsigned)(flags & ~(uint32_t)ALL_FLAGS));
    if ((flags & LEDGER_STORE_CREATE) && (flags & LEDGER_STORE_READ_ONLY))
        return ldg_fail(err, LEDGER_ERR_INVALID, "a read-only store cannot create what is missing");
    if ((flags & LEDGER_STORE_NEW_IDENTITY) && !(flags & LEDGER_STORE_CREATE))
        return ldg_fail(err, LEDGER_ERR_INVALID, "a new identity goes together with CREATE");
    if ((flags & (LEDGER_STORE_NOTIFY | LEDGER_STORE_FULL_TEXT)) && !(flags & LEDGER_STORE_CREATE))
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "what notifies, and an index of full text, go together with CREATE");
    if (options->busy_timeout_ms < 0)
        return ldg_fail(err, LEDGER_ERR_INVALID, "busy_timeout_ms is negative: %d",
                        options->busy_timeout_ms);
    if ((unsigned)options->log > LEDGER_MUTATION_LOG_OFF)
        return ldg_fail(err, LEDGER_ERR_INVALID, "unknown log mode %d", (int)options->log);
    return LEDGER_OK;
}

void ldg_store_free(ledger_store *store)
{
    if (!store)
        return;
    ldg_arena_fini(&store->scratch);
    ldg_free(store->ctx);
    ldg_free(store->url);
    ldg_free(store->shown_url);
    ldg_free(store->table);
    ldg_free(store->log_table);
    ldg_free(store->label);
    ldg_free(store->http);
    ldg_free(store);
}

static ledger_rc copy_options(ledger_store *store, const ledger_store_options *options,
                              ledger_error *err)
{
    const char *table = options->table ? options->table : LEDGER_DEFAULT_TABLE;
    const char *shown = options->url ? options->url : "";
    size_t shown_size = strlen(shown) + 64; /* a mask may be longer than what it hides */

    ledger_rc rc = ldg_check_table_name(table, LEDGER_MAX_TABLE_BYTES, "table", err);
    if (rc == LEDGER_OK && options->log_table)
        rc = ldg_check_table_name(options->log_table, LDG_LOG_TABLE_MAX_BYTES, "log table", err);
    if (rc == LEDGER_OK && options->log_table)
        rc = ldg_check_log_table(table, options->log_table, err);
    if (rc == LEDGER_OK && options->label)
        rc = ldg_check_text(options->label, LDG_LABEL_MAX - 1, "label", err);
    if (rc != LEDGER_OK)
        return rc;

    store->table = ldg_strdup(table);
    store->label = ldg_strdup(options->label && *options->label ? options->label : DEFAULT_LABEL);
    store->url = options->url ? ldg_strdup(options->url) : NULL;
    store->shown_url = ldg_calloc(1, shown_size);
    if (options->log_table) {
        store->log_table = ldg_strdup(options->log_table);
    } else if ((store->log_table = ldg_malloc(strlen(table) + sizeof(LDG_LOG_SUFFIX)))) {
        memcpy(store->log_table, table, strlen(table));
        memcpy(store->log_table + strlen(table), LDG_LOG_SUFFIX, sizeof(LDG_LOG_SUFFIX));
    }
    if (!store->table || !store->log_table || !store->label || !store->shown_url ||
        (options->url && !store->url))
        return ldg_fail_nomem(err);
    ldg_mask_url(shown, store->shown_url, shown_size);
    return ldg_http_options_copy(options->http, &store->http, err);
}

/* --- who is asked and told during a call ----------------------------------------------------- */

static ledger_wait_answer may_wait(void *ctx, int64_t waited_ms)
{
    const ledger_store *store = ctx;
    const ledger_wait *wait = store->wait;
    unsigned answer = LEDGER_WAIT_ON;
    /* How long its own connection waits is its owner's to decide. */
    if (store->open.connection == NULL && wait != NULL && wait->ask != NULL)
        answer = wait->ask(wait->ctx, waited_ms);
    return answer | (atomic_load(&store->interrupted) ? LDG_WAIT_INTERRUPTED : 0U);
}

static void tell_wait(void *ctx, const char *what)
{
    const ledger_wait *wait = ((const ledger_store *)ctx)->wait;
    wait->waiting(wait->ctx, what);
}

static void set_waits(ledger_store *store, const ledger_store_options *options)
{
    const ledger_wait *wait = options->wait;
    const bool tells = wait != NULL && wait->waiting != NULL && options->connection == NULL;
    store->wait = wait;
    store->waits =
        (ledger_wait){ .ask = may_wait, .waiting = tells ? tell_wait : NULL, .ctx = store };
}

/* --- opening --------------------------------------------------------------------------------- */

static ledger_rc check_flags(const struct ldg_backend *backend, uint32_t flags, ledger_error *err)
{
    const char *what = NULL;
    if ((flags & LEDGER_STORE_NOTIFY) && !(backend->caps & LDG_CAP_NOTIFY))
        what = "notify who waits for a commit";
    else if ((flags & LEDGER_STORE_FULL_TEXT) && !(backend->caps & LDG_CAP_FULL_TEXT))
        what = "have an index of full text";
    return what ? ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "a %s store cannot %s", backend->name, what)
                : LEDGER_OK;
}

/* given: NULL: the URL or the kind of the connection names it. *ret_path: what follows its scheme;
 * NULL with a connection. */
static ledger_rc find_backend(ledger_store *store, const struct ldg_backend *given,
                              const ledger_store_options *options, const char **ret_path,
                              ledger_error *err)
{
    const char *path = NULL;
    ledger_rc rc = LEDGER_OK;
    store->backend = given;
    if (given)
        path = store->url ? strchr(store->url, ':') + 1 : NULL;
    else if (store->url)
        rc = ldg_registry_find(store->url, &store->backend, &path, err);
    else
        rc = ldg_registry_find_connection(options->connection_kind, &store->backend, err);
    if (rc == LEDGER_OK)
        rc = check_flags(store->backend, options->flags, err);
    if (rc == LEDGER_OK && path && !*path)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "the URL \"%s:\" names no database; write it behind the colon",
                      store->backend->scheme);
    if (rc == LEDGER_OK)
        *ret_path = path;
    return rc;
}

static ledger_rc open_backend(ledger_store *store, const char *path,
                              const ledger_store_options *options, enum ldg_role role,
                              ledger_error *err)
{
    store->ctx = ldg_calloc(1, store->backend->ctx_size);
    if (!store->ctx)
        return ldg_fail_nomem(err);
    set_waits(store, options);
    store->open = (struct ldg_open){
        .backend = store->backend,
        .url = store->url,
        .path = path,
        .table = store->table,
        .log_table = store->log_table,
        .log = options->log,
        .flags = options->flags,
        .busy_timeout_ms = options->busy_timeout_ms,
        .connection = options->connection,
        .label = store->label,
        .wait = &store->waits,
        .http = store->http,
        .role = role,
    };
    return store->backend->open(store->ctx, &store->open, err);
}

ledger_rc ldg_store_open_as(const struct ldg_backend *backend, const ledger_store_options *options,
                            enum ldg_role role, ledger_store **ret_store, ledger_error *err)
{
    const char *path = NULL;
    ledger_rc rc = check_options(options, err);
    if (rc != LEDGER_OK)
        return rc;
    ledger_store *store = ldg_calloc(1, sizeof(*store));
    if (!store)
        return ldg_fail_nomem(err);
    ldg_arena_init(&store->scratch, SCRATCH_KEEP_BYTES);
    rc = copy_options(store, options, err);
    if (rc == LEDGER_OK)
        rc = find_backend(store, backend, options, &path, err);
    if (rc == LEDGER_OK)
        rc = open_backend(store, path, options, role, err);
    if (rc == LEDGER_OK)
        *ret_store = store;
    else
        ldg_store_free(store);
    return rc;
}

void ldg_store_wrote(ledger_store *store)
{
    if (store->in_tx)
        store->tx_wrote = true;
    else if (store->backend->wake_key)
        ldg_wake_signal(store->backend->wake_key(store->ctx));
}
