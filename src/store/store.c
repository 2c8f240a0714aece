/* Store handles: every check of arguments, capabilities and state, once, for all backends.
 *
 * Invariant: a callback of a backend is called from here only, with arguments that its contract in
 * backend.h promises, a non-NULL err, and only while the handle's state allows it. What a backend
 * lacks becomes UNSUPPORTED here. After a successful write the waiters of the database are woken:
 * at once outside of transactions, at the commit inside one. */
#include "store/store.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/mem.h"
#include "event/event.h"
#include "store/batch.h"
#include "store/registry.h"
#include "store/wake.h"

#define READ_BYTES_DEFAULT ((size_t)64 * 1024 * 1024)
#define SCRATCH_KEEP_BYTES ((size_t)64 * 1024)
#define LOG_SUFFIX "_mutations"
#define LOG_TABLE_MAX_BYTES (LEDGER_MAX_TABLE_BYTES + sizeof(LOG_SUFFIX) - 1)
#define ALL_FLAGS                                                                                  \
    (LEDGER_STORE_CREATE | LEDGER_STORE_READ_ONLY | LEDGER_STORE_APPEND_ONLY | LEDGER_OWN_CONN |   \
     LEDGER_STORE_NEW_IDENTITY)

struct ledger_store {
    const struct ldg_backend *backend;
    void *ctx;
    uint64_t hidden_caps;   /* masked off */
    struct ldg_open open;   /* strings are ours */
    char *url;              /* with its secrets; NULL with a connection */
    char *shown_url;        /* secrets masked */
    char *table;
    char *log_table;
    struct ldg_arena scratch;
    bool in_tx;
    bool in_snapshot;
    bool tx_wrote;
};

/* --- what a handle may do now ---------------------------------------------------------------- */

enum use {
    USE_READ,
    USE_WRITE,
};

uint64_t ldg_store_caps(const ledger_store *store)
{
    uint64_t caps = store->backend->caps & ~store->hidden_caps;
    if (store->open.flags & LEDGER_STORE_APPEND_ONLY)
        caps &= ~(uint64_t)(LDG_CAP_TAGS | LDG_CAP_ANNOTATIONS);
    return caps;
}

void ldg_store_mask_caps(ledger_store *store, uint64_t caps)
{
    store->hidden_caps |= caps;
}

static ledger_rc fail_unsupported(const ledger_store *store, const char *what, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "a %s store does not support %s",
                    store->backend->name, what);
}

/* cap 0: none is needed. has_callback false: an optional callback that this backend lacks. */
static ledger_rc check_use(const ledger_store *store, enum use use, uint64_t cap, bool has_callback,
                           const char *what, ledger_error *err)
{
    if (!store)
        return ldg_fail(err, LEDGER_ERR_CLOSED, "the store is closed (its handle is NULL)");
    if (use == USE_WRITE && (store->open.flags & LEDGER_STORE_READ_ONLY))
        return ldg_fail(err, LEDGER_ERR_READ_ONLY, "the store was opened read-only");
    if ((cap & (LDG_CAP_TAGS | LDG_CAP_ANNOTATIONS)) &&
        (store->open.flags & LEDGER_STORE_APPEND_ONLY))
        return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                        "the store was opened append-only: tags and annotations cannot be set");
    if (!has_callback || (ldg_store_caps(store) & cap) != cap)
        return fail_unsupported(store, what, err);
    if (use == USE_WRITE && store->in_snapshot)
        return ldg_fail(err, LEDGER_ERR_INVALID, "a snapshot is open on this handle: only reads");
    return LEDGER_OK;
}

/* As check_use, for calls that are a transaction of their own. */
static ledger_rc check_use_alone(const ledger_store *store, enum use use, uint64_t cap,
                                 bool has_callback, const char *what, ledger_error *err)
{
    ledger_rc rc = check_use(store, use, cap, has_callback, what, err);
    if (rc == LEDGER_OK && store->in_tx)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "%s cannot be part of an open transaction", what);
    return rc;
}

static void wrote(ledger_store *store)
{
    if (store->in_tx)
        store->tx_wrote = true;
    else
        ldg_wake_signal(store->backend->wake_key(store->ctx));
}

/* --- arguments ------------------------------------------------------------------------------- */

static ledger_rc fail_null(const char *what, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_INVALID, "%s is NULL", what);
}

static ledger_rc check_text(const char *text, size_t max_bytes, const char *what, ledger_error *err)
{
    if (!text)
        return fail_null(what, err);
    size_t size = strlen(text);
    if (size > max_bytes)
        return ldg_fail(err, LEDGER_ERR_TOO_LARGE, "%s has %zu bytes; the limit is %zu", what, size,
                        max_bytes);
    if (!ldg_utf8_valid(text, size))
        return ldg_fail(err, LEDGER_ERR_DATA, "%s is not valid UTF-8", what);
    return LEDGER_OK;
}

static ledger_rc check_stream(const char *stream, ledger_error *err)
{
    return check_text(stream, LEDGER_MAX_STREAM_BYTES, "stream name", err);
}

static ledger_rc check_list(ledger_list list, const char *what, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    if (list.count && !list.items)
        rc = fail_null(what, err);
    else if (list.count > LEDGER_MAX_ITEMS)
        rc = ldg_fail(err, LEDGER_ERR_TOO_LARGE, "%zu times %s; the limit is %d", list.count, what,
                      LEDGER_MAX_ITEMS);
    for (size_t i = 0; rc == LEDGER_OK && i < list.count; i++)
        rc = check_text(list.items[i], LEDGER_MAX_KEY_BYTES, what, err);
    return rc;
}

static ledger_rc check_map(ledger_map map, bool allow_null, const char *key_what,
                           const char *value_what, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    if (map.count && !map.items)
        rc = fail_null(key_what, err);
    else if (map.count > LEDGER_MAX_ITEMS)
        rc = ldg_fail(err, LEDGER_ERR_TOO_LARGE, "%zu times %s; the limit is %d", map.count,
                      key_what, LEDGER_MAX_ITEMS);
    for (size_t i = 0; rc == LEDGER_OK && i < map.count; i++) {
        rc = check_text(map.items[i].key, LEDGER_MAX_KEY_BYTES, key_what, err);
        if (rc == LEDGER_OK && (map.items[i].value || !allow_null))
            rc = check_text(map.items[i].value, LEDGER_MAX_VALUE_BYTES, value_what, err);
    }
    return rc;
}

/* least: 1 for an entry's id, 0 for a position to read after. */
static ledger_rc check_id(const ledger_store *store, ledger_id id, int64_t least, const char *what,
                          ledger_error *err)
{
    if (store->backend->text_ids) {
        if (!id.text)
            return ldg_fail(err, LEDGER_ERR_INVALID, "%s: ids of a %s store are text", what,
                            store->backend->name);
        return check_text(id.text, LEDGER_ID_TEXT_MAX - 1, what, err);
    }
    if (id.text)
        return ldg_fail(err, LEDGER_ERR_INVALID, "%s: ids of a %s store are numbers", what,
                        store->backend->name);
    if (id.number < least)
        return ldg_fail(err, LEDGER_ERR_INVALID, "%s: ids are positive, not %lld", what,
                        (long long)id.number);
    return LEDGER_OK;
}

static ledger_rc check_payload(ledger_bytes payload, ledger_error *err)
{
    if (!payload.data || payload.size == 0)
        return ldg_fail(err, LEDGER_ERR_INVALID, "payload is missing; it is one JSON value");
    if (payload.size > LEDGER_MAX_PAYLOAD_BYTES)
        return ldg_fail(err, LEDGER_ERR_TOO_LARGE, "payload has %zu bytes; the limit is %zu",
                        payload.size, LEDGER_MAX_PAYLOAD_BYTES);
    ledger_error json_err;
    ledger_rc rc = ldg_json_check(payload, &json_err);
    if (rc == LEDGER_ERR_DATA)
        return ldg_fail(err, rc, "payload is not JSON: %.*s; wrap plain text in quotes",
                        LEDGER_ERROR_MESSAGE_MAX - 128, json_err.message);
    if (rc != LEDGER_OK)
        *err = json_err;
    return rc;
}

static ledger_rc check_input(const ledger_append_input *input, ledger_error *err)
{
    ledger_rc rc = check_payload(input->payload, err);
    if (rc == LEDGER_OK && input->order_key)
        rc = check_text(input->order_key, LEDGER_MAX_KEY_BYTES, "order_key", err);
    if (rc == LEDGER_OK && input->dedup_key)
        rc = check_text(input->dedup_key, LEDGER_MAX_KEY_BYTES, "dedup_key", err);
    if (rc == LEDGER_OK && input->schema_version < 0)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "schema_version is negative: %d",
                      input->schema_version);
    if (rc == LEDGER_OK)
        rc = check_map(input->metadata, false, "metadata key", "metadata value", err);
    if (rc == LEDGER_OK)
        rc = check_list(input->tags, "tag", err);
    return rc;
}

static bool name_valid(const char *name)
{
    const char *letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    const char *all = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
    return *name && strchr(letters, *name) && name[strspn(name, all)] == '\0';
}

static bool printable(const char *text)
{
    for (; *text; text++) {
        if (*text < ' ' || *text > '~')
            return false;
    }
    return true;
}

static ledger_rc check_table_name(const char *name, size_t max_bytes, const char *what,
                                  ledger_error *err)
{
    const char *shown = printable(name) ? name : "?";
    if (!name_valid(name) || strlen(name) > max_bytes)
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "%s \"%.64s\" is not a valid name: it may hold the letters A-Z and a-z, "
                        "digits and _, does not begin with a digit, and has 1 to %zu bytes",
                        what, shown, max_bytes);
    if (strncasecmp(name, "sqlite_", 7) == 0)
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "%s \"%.64s\" is not a valid name: sqlite_ at its beginning is reserved",
                        what, shown);
    return LEDGER_OK;
}

/* The log must be none of the tables that stand beside `table`. Case never tells tables apart. */
static ledger_rc check_log_table(const char *table, const char *log_table, ledger_error *err)
{
    static const char *const suffixes[] = { "", "_cursors", "_meta", "_origins", "_parked" };
    size_t size = strlen(table);
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
        if (strncasecmp(table, log_table, size) == 0 &&
            strcasecmp(log_table + size, suffixes[i]) == 0)
            return ldg_fail(err, LEDGER_ERR_INVALID,
                            "log table \"%s\" is another table of store \"%s\"; give it a name of "
                            "its own, for example %s" LOG_SUFFIX, log_table, table, table);
    }
    return LEDGER_OK;
}

/* --- open and close -------------------------------------------------------------------------- */

void ledger_store_options_defaults(ledger_store_options *options)
{
    if (options)
        *options = (ledger_store_options){ .busy_timeout_ms = 5000 };
}

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
    if (options->busy_timeout_ms < 0)
        return ldg_fail(err, LEDGER_ERR_INVALID, "busy_timeout_ms is negative: %d",
                        options->busy_timeout_ms);
    if ((unsigned)options->log > LEDGER_LOG_OFF)
        return ldg_fail(err, LEDGER_ERR_INVALID, "unknown log mode %d", (int)options->log);
    return LEDGER_OK;
}

static void free_store(ledger_store *store)
{
    if (!store)
        return;
    ldg_arena_fini(&store->scratch);
    ldg_free(store->ctx);
    ldg_free(store->url);
    ldg_free(store->shown_url);
    ldg_free(store->table);
    ldg_free(store->log_table);
    ldg_free(store);
}

static ledger_rc copy_options(ledger_store *store, const ledger_store_options *options,
                              ledger_error *err)
{
    const char *table = options->table ? options->table : LEDGER_DEFAULT_TABLE;
    const char *shown = options->url ? options->url : "";
    size_t shown_size = strlen(shown) + 64; /* a mask may be longer than what it hides */

    ledger_rc rc = check_table_name(table, LEDGER_MAX_TABLE_BYTES, "table", err);
    if (rc == LEDGER_OK && options->log_table)
        rc = check_table_name(options->log_table, LOG_TABLE_MAX_BYTES, "log table", err);
    if (rc == LEDGER_OK && options->log_table)
        rc = check_log_table(table, options->log_table, err);
    if (rc != LEDGER_OK)
        return rc;

    store->table = ldg_strdup(table);
    store->url = options->url ? ldg_strdup(options->url) : NULL;
    store->shown_url = ldg_calloc(1, shown_size);
    if (options->log_table) {
        store->log_table = ldg_strdup(options->log_table);
    } else if ((store->log_table = ldg_malloc(strlen(table) + sizeof(LOG_SUFFIX)))) {
        memcpy(store->log_table, table, strlen(table));
        memcpy(store->log_table + strlen(table), LOG_SUFFIX, sizeof(LOG_SUFFIX));
    }
    if (!store->table || !store->log_table || !store->shown_url || (options->url && !store->url))
        return ldg_fail_nomem(err);
    ldg_mask_url(shown, store->shown_url, shown_size);
    return LEDGER_OK;
}

static ledger_rc open_store(const ledger_store_options *options, enum ldg_role role,
                            ledger_store **ret_store, ledger_error *err)
{
    ledger_store *store = NULL;
    const char *path = NULL;

    ledger_rc rc = check_options(options, err);
    if (rc != LEDGER_OK)
        goto out;
    store = ldg_calloc(1, sizeof(*store));
    if (!store) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    ldg_arena_init(&store->scratch, SCRATCH_KEEP_BYTES);
    rc = copy_options(store, options, err);
    if (rc != LEDGER_OK)
        goto out;
    if (store->url)
        rc = ldg_registry_find(store->url, &store->backend, &path, err);
    else
        rc = ldg_registry_find_connection(&store->backend, err);
    if (rc != LEDGER_OK)
        goto out;
    if (path && !*path) {
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "the URL \"%s:\" names no database; write it behind "
                      "the colon", store->backend->scheme);
        goto out;
    }
    store->ctx = ldg_calloc(1, store->backend->ctx_size);
    if (!store->ctx) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    store->open = (struct ldg_open){
        .url = store->url,
        .path = path,
        .table = store->table,
        .log_table = store->log_table,
        .log = options->log,
        .flags = options->flags,
        .busy_timeout_ms = options->busy_timeout_ms,
        .connection = options->connection,
        .role = role,
    };
    rc = store->backend->open(store->ctx, &store->open, err);
out:
    if (rc == LEDGER_OK)
        *ret_store = store;
    else
        free_store(store);
    return rc;
}

ledger_rc ledger_store_open(const ledger_store_options *options, ledger_store **ret_store,
                            ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    if (!options)
        return fail_null("options", err);
    if (!ret_store)
        return fail_null("ret_store", err);
    return open_store(options, LDG_ROLE_USER, ret_store, err);
}

ledger_rc ldg_store_reopen(const ledger_store *store, enum ldg_role role, ledger_store **ret_store,
                           ledger_error *err)
{
    ledger_error local_err;
    char url[LDG_CURSOR_STATE_MAX]; /* long enough for a path */
    ledger_store *opened = NULL;
    if (!err)
        err = &local_err;

    ledger_rc rc = check_use(store, USE_READ, 0, true, "", err);
    if (rc != LEDGER_OK)
        return rc;
    if (!store->backend->describe(store->ctx, url, sizeof(url)))
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "this %s database has no name under which a second handle could open it; "
                        "keep it in a file", store->backend->name);
    const ledger_store_options options = {
        .url = url,
        .table = store->table,
        .log_table = store->log_table,
        .log = store->open.log,
        .flags = store->open.flags & ~(uint32_t)(LEDGER_STORE_CREATE | LEDGER_STORE_NEW_IDENTITY |
                                                 LEDGER_OWN_CONN),
        .busy_timeout_ms = store->open.busy_timeout_ms,
    };
    rc = open_store(&options, role, &opened, err);
    if (rc != LEDGER_OK)
        return rc;
    opened->hidden_caps = store->hidden_caps;
    *ret_store = opened;
    return LEDGER_OK;
}

void ledger_store_close(ledger_store **store)
{
    if (!store || !*store)
        return;
    ledger_store *s = *store;
    ledger_error err;
    if (s->in_snapshot)
        s->backend->snapshot_end(s->ctx);
    if (s->in_tx)
        (void)!s->backend->tx_rollback(s->ctx, &err);
    s->backend->close(s->ctx);
    free_store(s);
    *store = NULL;
}

const char *ledger_store_table(const ledger_store *store)
{
    return store ? store->table : "";
}

const char *ledger_store_backend(const ledger_store *store)
{
    return store ? store->backend->name : "";
}

const char *ledger_store_url(const ledger_store *store)
{
    return store ? store->shown_url : "";
}

bool ledger_store_has_log(const ledger_store *store)
{
    return store && store->backend->has_log(store->ctx);
}

/* --- transactions ---------------------------------------------------------------------------- */

ledger_rc ledger_store_begin(ledger_store *store, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_WRITE, LDG_CAP_TRANSACTIONS,
                             store && store->backend->tx_begin, "transactions", err);
    if (rc == LEDGER_OK && store->in_tx)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "a transaction is open already; they do not nest");
    if (rc == LEDGER_OK)
        rc = store->backend->tx_begin(store->ctx, err);
    if (rc == LEDGER_OK) {
        store->in_tx = true;
        store->tx_wrote = false;
    }
    return rc;
}

static ledger_rc check_in_tx(const ledger_store *store, ledger_error *err)
{
    ledger_rc rc = check_use(store, USE_READ, 0, true, "", err);
    if (rc == LEDGER_OK && !store->in_tx)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "no transaction is open; call begin first");
    return rc;
}

/* A commit that fails is over and has written nothing, unless it is BUSY: then the transaction is
 * still open, to be committed again or rolled back. */
ledger_rc ledger_store_commit(ledger_store *store, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_in_tx(store, err);
    if (rc != LEDGER_OK)
        return rc;
    rc = store->backend->tx_commit(store->ctx, err);
    if (rc == LEDGER_ERR_BUSY)
        return rc;
    store->in_tx = false;
    if (rc != LEDGER_OK) {
        ledger_error rollback_err;
        (void)!store->backend->tx_rollback(store->ctx, &rollback_err);
    }
    if (store->tx_wrote) /* after an unknown outcome too: a wake-up too many does no harm */
        wrote(store);
    return rc;
}

ledger_rc ledger_store_rollback(ledger_store *store, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_in_tx(store, err);
    if (rc != LEDGER_OK)
        return rc;
    rc = store->backend->tx_rollback(store->ctx, err);
    store->in_tx = false;
    return rc;
}

/* --- writing --------------------------------------------------------------------------------- */

/* Checks inputs and gives them in the form that backends take: no NULL keys, no version 0, metadata
 * sorted. */
static ledger_rc prepare_inputs(ledger_store *store, const ledger_append_input *inputs,
                                size_t count, ledger_append_input **ret_inputs, ledger_error *err)
{
    ledger_append_input *copy = ldg_arena_alloc(&store->scratch, count * sizeof(*copy));
    ledger_rc rc = copy ? LEDGER_OK : ldg_fail_nomem(err);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        rc = check_input(&inputs[i], err);
        if (rc != LEDGER_OK && count > 1) {
            ledger_error inner = *err;
            snprintf(err->message, sizeof(err->message), "entry %zu of %zu: %.*s", i + 1, count,
                     LEDGER_ERROR_MESSAGE_MAX - 64, inner.message);
        }
        if (rc != LEDGER_OK)
            break;
        copy[i] = inputs[i];
        if (!copy[i].order_key)
            copy[i].order_key = "";
        if (!copy[i].dedup_key)
            copy[i].dedup_key = "";
        if (copy[i].schema_version == 0)
            copy[i].schema_version = 1;
        if (copy[i].metadata.count > 1)
            rc = ldg_map_sort(inputs[i].metadata, &store->scratch, &copy[i].metadata, err);
    }
    if (rc == LEDGER_OK)
        *ret_inputs = copy;
    return rc;
}

ledger_rc ledger_store_append(ledger_store *store, const char *stream,
                              const ledger_append_input *inputs, size_t count, ledger_ids *ret_ids,
                              ledger_error *err)
{
    ledger_error local_err;
    ledger_append_input *prepared = NULL;
    ledger_ids ids = { 0 };
    if (!err)
        err = &local_err;

    ledger_rc rc = check_use(store, USE_WRITE, 0, true, "", err);
    if (rc == LEDGER_OK)
        rc = check_stream(stream, err);
    if (rc == LEDGER_OK && !inputs && count)
        rc = fail_null("inputs", err);
    if (rc == LEDGER_OK && count > LEDGER_MAX_APPEND_ENTRIES)
        rc = ldg_fail(err, LEDGER_ERR_TOO_LARGE, "%zu entries in one append; the limit is %d",
                      count, LEDGER_MAX_APPEND_ENTRIES);
    if (rc == LEDGER_OK && count) {
        ldg_arena_reset(&store->scratch);
        rc = prepare_inputs(store, inputs, count, &prepared, err);
        if (rc == LEDGER_OK)
            rc = store->backend->append(store->ctx, stream, prepared, count, &ids, err);
        if (rc == LEDGER_OK && ids.count)
            wrote(store);
    }
    if (rc == LEDGER_OK && ret_ids)
        *ret_ids = ids;
    else
        ledger_ids_destroy(&ids);
    return rc;
}

ledger_rc ledger_store_set_tags(ledger_store *store, const char *stream, ledger_id id,
                                ledger_list tags, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_WRITE, LDG_CAP_TAGS, store && store->backend->set_tags,
                             "tags", err);
    if (rc == LEDGER_OK)
        rc = check_stream(stream, err);
    if (rc == LEDGER_OK)
        rc = check_id(store, id, 1, "entry id", err);
    if (rc == LEDGER_OK)
        rc = check_list(tags, "tag", err);
    if (rc == LEDGER_OK)
        rc = store->backend->set_tags(store->ctx, stream, id, tags, err);
    if (rc == LEDGER_OK)
        wrote(store);
    return rc;
}

ledger_rc ledger_store_set_annotations(ledger_store *store, const char *stream, ledger_id id,
                                       ledger_map annotations, ledger_error *err)
{
    ledger_error local_err;
    ledger_map sorted = { 0 };
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_WRITE, LDG_CAP_ANNOTATIONS,
                             store && store->backend->set_annotations, "annotations", err);
    if (rc == LEDGER_OK)
        rc = check_stream(stream, err);
    if (rc == LEDGER_OK)
        rc = check_id(store, id, 1, "entry id", err);
    if (rc == LEDGER_OK)
        rc = check_map(annotations, true, "annotation key", "annotation value", err);
    if (rc == LEDGER_OK) {
        ldg_arena_reset(&store->scratch);
        rc = ldg_map_sort(annotations, &store->scratch, &sorted, err);
    }
    if (rc == LEDGER_OK)
        rc = store->backend->set_annotations(store->ctx, stream, id, sorted, err);
    if (rc == LEDGER_OK)
        wrote(store);
    return rc;
}

ledger_rc ledger_store_trim(ledger_store *store, const char *stream, ledger_id before,
                            uint64_t *ret_deleted, ledger_error *err)
{
    ledger_error local_err;
    uint64_t deleted = 0;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_WRITE, LDG_CAP_TRIM, store && store->backend->trim, "trim",
                             err);
    if (rc == LEDGER_OK)
        rc = check_stream(stream, err);
    if (rc == LEDGER_OK)
        rc = check_id(store, before, 1, "before", err);
    if (rc == LEDGER_OK)
        rc = store->backend->trim(store->ctx, stream, before, &deleted, err);
    if (rc == LEDGER_OK) {
        wrote(store);
        if (ret_deleted)
            *ret_deleted = deleted;
    }
    return rc;
}

/* --- reading --------------------------------------------------------------------------------- */

/* Checks options (NULL: all defaults) and fills in the defaults. */
static ledger_rc prepare_read(const ledger_store *store, const ledger_read_options *options,
                              ledger_read_options *ret_options, ledger_error *err)
{
    ledger_read_options o = options ? *options : (ledger_read_options){ 0 };
    ledger_rc rc = LEDGER_OK;
    if (o.limit > LEDGER_READ_LIMIT_MAX)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "limit %zu is too large; at most %d, then read on "
                      "after the last id", o.limit, LEDGER_READ_LIMIT_MAX);
    if (rc == LEDGER_OK && o.has_after)
        rc = check_id(store, o.after, 0, "after", err);
    if (rc == LEDGER_OK && o.order_key)
        rc = check_text(o.order_key, LEDGER_MAX_KEY_BYTES, "order_key", err);
    if (rc == LEDGER_OK && o.tag)
        rc = check_text(o.tag, LEDGER_MAX_KEY_BYTES, "tag", err);
    if (rc == LEDGER_OK)
        rc = check_list(o.all_tags, "tag", err);
    if (rc == LEDGER_OK)
        rc = check_map(o.metadata, false, "metadata key", "metadata value", err);
    if (rc == LEDGER_OK)
        rc = check_map(o.annotations, false, "annotation key", "annotation value", err);
    if (rc != LEDGER_OK)
        return rc;
    if (o.limit == 0)
        o.limit = LEDGER_READ_LIMIT_DEFAULT;
    if (o.max_bytes == 0)
        o.max_bytes = READ_BYTES_DEFAULT;
    if (o.order_key && !*o.order_key)
        o.order_key = NULL;
    if (o.tag && !*o.tag)
        o.tag = NULL;
    *ret_options = o;
    return LEDGER_OK;
}

static ledger_rc read_entries(ledger_store *store, const char *stream, const char *search,
                              const ledger_read_options *options, ledger_batch **ret_batch,
                              ledger_error *err)
{
    ledger_read_options prepared;
    ledger_batch *batch = NULL;
    ledger_rc rc = ret_batch ? LEDGER_OK : fail_null("ret_batch", err);
    if (rc == LEDGER_OK)
        rc = prepare_read(store, options, &prepared, err);
    if (rc == LEDGER_OK && !(batch = ldg_batch_create()))
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK)
        rc = store->backend->read(store->ctx, stream, search, &prepared, &batch->arena,
                                  &batch->entries, &batch->count, err);
    if (rc == LEDGER_OK)
        *ret_batch = batch;
    else
        ledger_batch_destroy(&batch);
    return rc;
}

ledger_rc ledger_store_read(ledger_store *store, const char *stream,
                            const ledger_read_options *options, ledger_batch **ret_batch,
                            ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, 0, true, "", err);
    if (rc == LEDGER_OK)
        rc = check_stream(stream, err);
    if (rc == LEDGER_OK)
        rc = read_entries(store, stream, NULL, options, ret_batch, err);
    return rc;
}

ledger_rc ledger_store_search(ledger_store *store, const char *stream, const char *text,
                              const ledger_read_options *options, ledger_batch **ret_batch,
                              ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, LDG_CAP_SEARCH, true, "search", err);
    if (rc == LEDGER_OK && stream)
        rc = check_stream(stream, err);
    if (rc == LEDGER_OK)
        rc = check_text(text, LEDGER_MAX_VALUE_BYTES, "search text", err);
    if (rc == LEDGER_OK && !*text)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "the search text is empty");
    if (rc == LEDGER_OK)
        rc = read_entries(store, stream, text, options, ret_batch, err);
    return rc;
}

ledger_rc ledger_store_count(ledger_store *store, const char *stream, uint64_t *ret_count,
                             ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, 0, true, "", err);
    if (rc == LEDGER_OK && stream)
        rc = check_stream(stream, err);
    if (rc == LEDGER_OK && !ret_count)
        rc = fail_null("ret_count", err);
    if (rc == LEDGER_OK)
        rc = store->backend->count(store->ctx, stream, ret_count, err);
    return rc;
}

ledger_rc ledger_store_stat(ledger_store *store, const char *stream, ledger_stream_stat *ret_stat,
                            ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, 0, true, "", err);
    if (rc == LEDGER_OK && stream)
        rc = check_stream(stream, err);
    if (rc == LEDGER_OK && !ret_stat)
        rc = fail_null("ret_stat", err);
    if (rc == LEDGER_OK)
        rc = store->backend->stat(store->ctx, stream, ret_stat, err);
    return rc;
}

ledger_rc ledger_store_list_streams(ledger_store *store, const char *after, size_t limit,
                                    ledger_names *ret_names, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, 0, true, "", err);
    if (rc == LEDGER_OK && after)
        rc = check_stream(after, err);
    if (rc == LEDGER_OK && limit > LEDGER_READ_LIMIT_MAX)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "limit %zu is too large; at most %d, then list on "
                      "after the last name", limit, LEDGER_READ_LIMIT_MAX);
    if (rc == LEDGER_OK && !ret_names)
        rc = fail_null("ret_names", err);
    if (rc == LEDGER_OK)
        rc = store->backend->list_streams(store->ctx, after,
                                          limit ? limit : LEDGER_READ_LIMIT_DEFAULT, ret_names,
                                          err);
    return rc;
}

ledger_rc ledger_store_find_by_source_id(ledger_store *store, const char *stream,
                                         const char *source_id, ledger_id *ret_id,
                                         ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, LDG_CAP_FIND_BY_SOURCE,
                             store && store->backend->find_by_source_id, "look-up by source id",
                             err);
    if (rc == LEDGER_OK)
        rc = check_stream(stream, err);
    if (rc == LEDGER_OK)
        rc = check_text(source_id, LEDGER_MAX_KEY_BYTES, "source id", err);
    if (rc == LEDGER_OK && !*source_id)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "the source id is empty");
    if (rc == LEDGER_OK && !ret_id)
        rc = fail_null("ret_id", err);
    if (rc == LEDGER_OK)
        rc = store->backend->find_by_source_id(store->ctx, stream, source_id, ret_id, err);
    return rc;
}

/* --- cursors and health ---------------------------------------------------------------------- */

static ledger_rc check_cursor_name(const char *name, ledger_error *err)
{
    ledger_rc rc = check_text(name, LEDGER_MAX_KEY_BYTES, "cursor name", err);
    if (rc == LEDGER_OK && !*name)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "the cursor name is empty");
    return rc;
}

static ledger_rc fail_no_cursor(const char *name, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_NOT_FOUND, "there is no cursor \"%.64s\"", name);
}

ledger_rc ledger_store_cursor_get(ledger_store *store, const char *name,
                                  char text[LEDGER_ID_TEXT_MAX], ledger_error *err)
{
    ledger_error local_err;
    struct ldg_cursor cursor;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_store_cursor_get(store, name, false, &cursor, err);
    if (rc == LEDGER_OK && !text)
        rc = fail_null("text", err);
    if (rc == LEDGER_OK && !*cursor.readable) /* made by a bridge that has not moved it yet */
        rc = fail_no_cursor(name, err);
    if (rc == LEDGER_OK)
        memcpy(text, cursor.readable, LEDGER_ID_TEXT_MAX);
    return rc;
}

ledger_rc ledger_store_cursor_set(ledger_store *store, const char *name, const char *text,
                                  ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use_alone(store, USE_WRITE, LDG_CAP_TX_CURSOR,
                                   store && store->backend->cursor_set, "cursors", err);
    if (rc == LEDGER_OK)
        rc = check_text(text, LEDGER_ID_TEXT_MAX - 1, "cursor", err);
    if (rc == LEDGER_OK) {
        struct ldg_cursor next = { .moved_at_us = ldg_clock_now_us() };
        memcpy(next.readable, text, strlen(text) + 1);
        rc = ldg_store_cursor_set(store, name, NULL, &next, err);
    }
    return rc;
}

ledger_rc ledger_store_health(ledger_store *store, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, 0, true, "", err);
    if (rc == LEDGER_OK)
        rc = store->backend->health(store->ctx, err);
    return rc;
}

ledger_rc ledger_store_check(ledger_store *store, ledger_finding_fn fn, void *ctx,
                             ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, 0, true, "", err);
    if (rc == LEDGER_OK && !fn)
        rc = fail_null("fn", err);
    if (rc == LEDGER_OK)
        rc = store->backend->check(store->ctx, fn, ctx, err);
    return rc;
}

/* --- the source's side of a bridge ----------------------------------------------------------- */

ledger_rc ldg_store_identity(ledger_store *store, struct ldg_identity *ret_identity,
                             ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, 0, true, "", err);
    if (rc == LEDGER_OK)
        rc = store->backend->identity(store->ctx, ret_identity, err);
    return rc;
}

static ledger_rc check_log(const ledger_store *store, ledger_error *err)
{
    ledger_rc rc = check_use(store, USE_READ, LDG_CAP_MUTATION_LOG,
                             store && store->backend->log_read, "a mutation log", err);
    if (rc == LEDGER_OK && !store->backend->has_log(store->ctx))
        rc = ldg_fail(err, LEDGER_ERR_SCHEMA,
                      "store \"%s\" has no mutation log: table \"%s\" is missing, or the log is off",
                      store->table, store->log_table);
    return rc;
}

static ledger_rc check_state(const char *state, ledger_error *err)
{
    if (!state)
        return fail_null("cursor", err);
    if (strlen(state) >= LDG_CURSOR_STATE_MAX)
        return ldg_fail(err, LEDGER_ERR_DATA, "the cursor is over its %d bytes",
                        LDG_CURSOR_STATE_MAX - 1);
    return LEDGER_OK;
}

ledger_rc ldg_store_log_read(ledger_store *store, const char *state,
                             const struct ldg_log_limits *limits, struct ldg_log_batch *batch,
                             ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_log(store, err);
    if (rc == LEDGER_OK)
        rc = check_state(state, err);
    if (rc == LEDGER_OK && (!limits || limits->max_count == 0 || !batch))
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "a log read needs a batch and a limit of 1 at least");
    if (rc == LEDGER_OK)
        rc = store->backend->log_read(store->ctx, state, limits, batch, err);
    return rc;
}

ledger_rc ldg_store_log_cursor_at(ledger_store *store, int64_t position,
                                  char state[LDG_CURSOR_STATE_MAX], ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_log(store, err);
    if (rc == LEDGER_OK && position < 0)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "a log position is never negative: %lld",
                      (long long)position);
    if (rc == LEDGER_OK)
        rc = store->backend->log_cursor_at(store->ctx, position, state, err);
    return rc;
}

ledger_rc ldg_store_log_check(ledger_store *store, const char *state, int64_t *ret_position,
                              ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_log(store, err);
    if (rc == LEDGER_OK)
        rc = check_state(state, err);
    if (rc == LEDGER_OK)
        rc = store->backend->log_check(store->ctx, state, ret_position, err);
    return rc;
}

ledger_rc ldg_store_log_stat(ledger_store *store, const char *state, struct ldg_log_stat *ret_stat,
                             ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_log(store, err);
    if (rc == LEDGER_OK)
        rc = check_state(state, err);
    if (rc == LEDGER_OK)
        rc = store->backend->log_stat(store->ctx, state, ret_stat, err);
    return rc;
}

ledger_rc ldg_store_log_wait(ledger_store *store, int wake_fd, int64_t timeout_ms,
                             ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_log(store, err);
    if (rc == LEDGER_OK)
        rc = store->backend->log_wait(store->ctx, wake_fd, timeout_ms, err);
    return rc;
}

ledger_rc ldg_store_entry_by_id(ledger_store *store, int64_t id, struct ldg_arena *arena,
                                ledger_entry **ret_entry, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, 0, store && store->backend->entry_by_id,
                             "look-up by id", err);
    if (rc == LEDGER_OK)
        rc = store->backend->entry_by_id(store->ctx, id, arena, ret_entry, err);
    return rc;
}

ledger_rc ldg_store_trim_kept(ledger_store *store, const char *stream, int64_t before,
                              struct ldg_arena *arena, int64_t **ret_ids, size_t *ret_count,
                              ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, 0, true, "", err);
    if (rc != LEDGER_OK)
        return rc;
    if (store->backend->trim_kept)
        return store->backend->trim_kept(store->ctx, stream, before, arena, ret_ids, ret_count,
                                         err);
    *ret_ids = NULL;
    *ret_count = 0;
    return LEDGER_OK;
}

/* --- the sink's side of a bridge ------------------------------------------------------------- */

/* A read-only handle answers for the origins that are known. */
static ledger_rc origin_lookup(ledger_store *store, const struct ldg_identity *identity,
                               int *ret_origin, ledger_error *err)
{
    struct ldg_identity own = { 0 };
    struct ldg_identity *items = NULL;
    int *numbers = NULL;
    size_t count = 0;
    int found = -1;

    ldg_arena_reset(&store->scratch);
    ledger_rc rc = store->backend->identity(store->ctx, &own, err);
    if (rc == LEDGER_OK)
        rc = store->backend->origin_list(store->ctx, &store->scratch, &items, &numbers, &count, err);
    if (rc != LEDGER_OK)
        return rc;
    if (strcmp(own.uuid, identity->uuid) == 0 && own.epoch == identity->epoch)
        found = 0;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(items[i].uuid, identity->uuid) == 0 && items[i].epoch == identity->epoch)
            found = numbers[i];
    }
    if (found < 0)
        return ldg_fail(err, LEDGER_ERR_READ_ONLY, "the store was opened read-only, and nothing of "
                        "this source has been carried into it yet");
    *ret_origin = found;
    return LEDGER_OK;
}

ledger_rc ldg_store_origin_get(ledger_store *store, const struct ldg_identity *identity,
                               const char *name, int *ret_origin, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use_alone(store, USE_READ, LDG_CAP_FIND_BY_SOURCE,
                                   store && store->backend->origin_get, "origins", err);
    if (rc == LEDGER_OK && (store->open.flags & LEDGER_STORE_READ_ONLY))
        rc = origin_lookup(store, identity, ret_origin, err);
    else if (rc == LEDGER_OK)
        rc = store->backend->origin_get(store->ctx, identity, name ? name : "", ret_origin, err);
    return rc;
}

ledger_rc ldg_store_origin_list(ledger_store *store, struct ldg_arena *arena,
                                struct ldg_identity **ret_items, int **ret_numbers,
                                size_t *ret_count, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, LDG_CAP_FIND_BY_SOURCE,
                             store && store->backend->origin_list, "origins", err);
    if (rc == LEDGER_OK)
        rc = store->backend->origin_list(store->ctx, arena, ret_items, ret_numbers, ret_count, err);
    return rc;
}

ledger_rc ldg_store_origin_adopt(ledger_store *store, int origin, uint64_t *ret_adopted,
                                 ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use_alone(store, USE_WRITE, LDG_CAP_FIND_BY_SOURCE,
                                   store && store->backend->origin_adopt, "adoption of entries",
                                   err);
    if (rc == LEDGER_OK)
        rc = store->backend->origin_adopt(store->ctx, origin, ret_adopted, err);
    return rc;
}

static ledger_rc check_ops(const ledger_store *store, const struct ldg_op *ops, size_t count,
                           ledger_error *err)
{
    static const struct {
        uint64_t cap;
        const char *what;
    } needs[] = {
        [LDG_OP_APPEND] = { 0, "" },
        [LDG_OP_SET_TAGS] = { LDG_CAP_TAGS, "tags" },
        [LDG_OP_SET_ANNOTATIONS] = { LDG_CAP_ANNOTATIONS, "annotations" },
        [LDG_OP_TRIM] = { LDG_CAP_TRIM, "trim" },
        [LDG_OP_PARK] = { LDG_CAP_PARK, "parked events" },
    };
    const uint64_t caps = ldg_store_caps(store);
    for (size_t i = 0; i < count; i++) {
        if ((unsigned)ops[i].kind >= sizeof(needs) / sizeof(needs[0]))
            return ldg_fail(err, LEDGER_ERR_INTERNAL, "unknown operation %d", (int)ops[i].kind);
        if ((caps & needs[ops[i].kind].cap) != needs[ops[i].kind].cap)
            return fail_unsupported(store, needs[ops[i].kind].what, err);
    }
    return LEDGER_OK;
}

ledger_rc ldg_store_apply(ledger_store *store, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                          ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use_alone(store, USE_WRITE, apply->name ? LDG_CAP_TX_CURSOR : 0,
                                   store && store->backend->apply, "being a bridge's sink", err);
    if (rc == LEDGER_OK)
        rc = check_ops(store, apply->ops, apply->count, err);
    if (rc == LEDGER_OK)
        rc = store->backend->apply(store->ctx, apply, ret_outcomes, err);
    if (rc == LEDGER_OK)
        wrote(store);
    return rc;
}

ledger_rc ldg_store_cursor_get(ledger_store *store, const char *name, bool create,
                               struct ldg_cursor *ret_cursor, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, LDG_CAP_TX_CURSOR,
                             store && store->backend->cursor_get, "cursors", err);
    if (rc == LEDGER_OK && create && store->in_tx)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "a cursor cannot be made in an open transaction");
    if (rc == LEDGER_OK)
        rc = check_cursor_name(name, err);
    if (rc != LEDGER_OK)
        return rc;
    const bool read_only = store->open.flags & LEDGER_STORE_READ_ONLY;
    rc = store->backend->cursor_get(store->ctx, name, create && !read_only, ret_cursor, err);
    if (rc == LEDGER_ERR_NOT_FOUND)
        rc = create ? ldg_fail(err, LEDGER_ERR_READ_ONLY,
                               "the store was opened read-only and has no cursor \"%.64s\"", name)
                    : fail_no_cursor(name, err);
    return rc;
}

ledger_rc ldg_store_cursor_set(ledger_store *store, const char *name,
                               const struct ldg_cursor *expected, const struct ldg_cursor *next,
                               ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use_alone(store, USE_WRITE, LDG_CAP_TX_CURSOR,
                                   store && store->backend->cursor_set, "cursors", err);
    if (rc == LEDGER_OK)
        rc = check_cursor_name(name, err);
    if (rc == LEDGER_OK)
        rc = store->backend->cursor_set(store->ctx, name, expected, next, err);
    return rc;
}

ledger_rc ldg_store_cursor_list(ledger_store *store, ledger_names *ret_names, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, LDG_CAP_TX_CURSOR,
                             store && store->backend->cursor_list, "cursors", err);
    if (rc == LEDGER_OK)
        rc = store->backend->cursor_list(store->ctx, ret_names, err);
    return rc;
}

ledger_rc ldg_store_parked_list(ledger_store *store, int64_t after, size_t limit,
                                struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                                size_t *ret_count, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, LDG_CAP_PARK, store && store->backend->parked_list,
                             "parked events", err);
    if (rc == LEDGER_OK)
        rc = store->backend->parked_list(store->ctx, after, limit, arena, ret_rows, ret_count, err);
    return rc;
}

ledger_rc ldg_store_parked_count(ledger_store *store, const char *source_uuid, uint64_t *ret_count,
                                 ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, LDG_CAP_PARK, store && store->backend->parked_count,
                             "parked events", err);
    if (rc == LEDGER_OK)
        rc = store->backend->parked_count(store->ctx, source_uuid, ret_count, err);
    return rc;
}

ledger_rc ldg_store_parked_retry(ledger_store *store, int64_t id, const struct ldg_op *ops,
                                 size_t count, bool *ret_applied, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use_alone(store, USE_WRITE, LDG_CAP_PARK,
                                   store && store->backend->parked_retry, "parked events", err);
    if (rc == LEDGER_OK)
        rc = check_ops(store, ops, count, err);
    if (rc == LEDGER_OK)
        rc = store->backend->parked_retry(store->ctx, id, ops, count, ret_applied, err);
    if (rc == LEDGER_OK)
        wrote(store);
    return rc;
}

ledger_rc ldg_store_parked_note(ledger_store *store, int64_t id, const char *reason,
                                ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use_alone(store, USE_WRITE, LDG_CAP_PARK,
                                   store && store->backend->parked_note, "parked events", err);
    if (rc == LEDGER_OK)
        rc = store->backend->parked_note(store->ctx, id, reason, err);
    return rc;
}

ledger_rc ldg_store_parked_drop(ledger_store *store, int64_t id, uint64_t *ret_dropped,
                                ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use_alone(store, USE_WRITE, LDG_CAP_PARK,
                                   store && store->backend->parked_drop, "parked events", err);
    if (rc == LEDGER_OK)
        rc = store->backend->parked_drop(store->ctx, id, ret_dropped, err);
    return rc;
}

/* --- verification and the rest --------------------------------------------------------------- */

ledger_rc ldg_store_history(ledger_store *store, int origin, int64_t after, size_t limit,
                            size_t max_bytes, struct ldg_arena *arena,
                            struct ldg_history_row **ret_rows, size_t *ret_count, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, 0, store && store->backend->history, "verification",
                             err);
    if (rc == LEDGER_OK)
        rc = store->backend->history(store->ctx, origin, after, limit, max_bytes, arena, ret_rows,
                                     ret_count, err);
    return rc;
}

ledger_rc ldg_store_snapshot_begin(ledger_store *store, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use_alone(store, USE_READ, 0, store && store->backend->snapshot_begin,
                                   "a snapshot", err);
    if (rc == LEDGER_OK && store->in_snapshot)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "a snapshot is open already");
    if (rc == LEDGER_OK)
        rc = store->backend->snapshot_begin(store->ctx, err);
    if (rc == LEDGER_OK)
        store->in_snapshot = true;
    return rc;
}

void ldg_store_snapshot_end(ledger_store *store)
{
    if (store && store->in_snapshot) {
        store->backend->snapshot_end(store->ctx);
        store->in_snapshot = false;
    }
}

uint64_t ldg_store_durable_count(ledger_store *store, uint64_t applied_count)
{
    return store->backend->durable_count ? store->backend->durable_count(store->ctx)
                                         : applied_count;
}

void ldg_store_hint_backlog(ledger_store *store, bool backlog)
{
    if (store->backend->hint_backlog)
        store->backend->hint_backlog(store->ctx, backlog);
}

ledger_rc ldg_store_wake_add(ledger_store *store, int event_fd, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_use(store, USE_READ, 0, true, "", err);
    if (rc == LEDGER_OK)
        rc = ldg_wake_add(store->backend->wake_key(store->ctx), event_fd, err);
    return rc;
}

void ldg_store_wake_remove(ledger_store *store, int event_fd)
{
    if (store)
        ldg_wake_remove(store->backend->wake_key(store->ctx), event_fd);
}
