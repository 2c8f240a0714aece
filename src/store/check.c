/* The checks of arguments and of a handle's state, once, for all backends.
 *
 * Invariant: what passes here keeps the promise that backend.h makes to a backend. Every message
 * says what would be right. */
#include "store/handle.h"

#include <string.h>
#include <strings.h>

#include "event/event.h"

/* --- what a handle may do now ---------------------------------------------------------------- */

ledger_rc ldg_fail_unsupported(const ledger_store *store, const char *what, ledger_error *err)
{
    if (store->backend->store == NULL && store->backend->sink != NULL)
        return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                        "a %s is a sink and no store: it does not support %s", store->backend->name,
                        what);
    if (store->backend->store != NULL && store->backend->store->append == NULL)
        return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                        "a %s store is written by bridges, and read by programs: it does not "
                        "support %s; do that at the source",
                        store->backend->name, what);
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "a %s store does not support %s",
                    store->backend->name, what);
}

ledger_rc ldg_fail_closed(ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_CLOSED, "the store is closed (its handle is NULL)");
}

ledger_rc ldg_check_use(ledger_store *store, enum ldg_use use, bool has_callback, const char *what,
                        ledger_error *err)
{
    if (!store)
        return ldg_fail_closed(err);
    atomic_store(&store->interrupted, false);
    if (use == LDG_USE_WRITE && (store->open.flags & LEDGER_STORE_READ_ONLY))
        return ldg_fail(err, LEDGER_ERR_READ_ONLY, "the store was opened read-only");
    if (!has_callback)
        return ldg_fail_unsupported(store, what, err);
    if (use == LDG_USE_WRITE && store->in_snapshot)
        return ldg_fail(err, LEDGER_ERR_INVALID, "a snapshot is open on this handle: only reads");
    return LEDGER_OK;
}

ledger_rc ldg_check_not_append_only(const ledger_store *store, ledger_error *err)
{
    return (store->open.flags & LEDGER_STORE_APPEND_ONLY) == 0
               ? LEDGER_OK
               : ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                          "the store was opened append-only: tags and annotations cannot be set");
}

ledger_rc ldg_check_use_alone(ledger_store *store, enum ldg_use use, bool has_callback,
                              const char *what, ledger_error *err)
{
    ledger_rc rc = ldg_check_use(store, use, has_callback, what, err);
    if (rc == LEDGER_OK && store->in_tx)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "%s cannot be part of an open transaction", what);
    return rc;
}

/* --- arguments ------------------------------------------------------------------------------- */

ledger_rc ldg_fail_null(const char *what, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_INVALID, "%s is NULL", what);
}

ledger_rc ldg_check_text(const char *text, size_t max_bytes, const char *what, ledger_error *err)
{
    if (!text)
        return ldg_fail_null(what, err);
    size_t size = strlen(text);
    if (size > max_bytes)
        return ldg_fail(err, LEDGER_ERR_TOO_LARGE, "%s has %zu bytes; the limit is %zu", what, size,
                        max_bytes);
    if (!ldg_utf8_valid(text, size))
        return ldg_fail(err, LEDGER_ERR_DATA, "%s is not valid UTF-8", what);
    return LEDGER_OK;
}

ledger_rc ldg_check_stream(const char *stream, ledger_error *err)
{
    return ldg_check_text(stream, LEDGER_MAX_STREAM_BYTES, "stream name", err);
}

ledger_rc ldg_check_list(ledger_list list, const char *what, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    if (list.count && !list.items)
        rc = ldg_fail_null(what, err);
    else if (list.count > LEDGER_MAX_ITEMS)
        rc = ldg_fail(err, LEDGER_ERR_TOO_LARGE, "%zu times %s; the limit is %d", list.count, what,
                      LEDGER_MAX_ITEMS);
    for (size_t i = 0; rc == LEDGER_OK && i < list.count; i++)
        rc = ldg_check_text(list.items[i], LEDGER_MAX_KEY_BYTES, what, err);
    return rc;
}

ledger_rc ldg_check_map(ledger_map map, bool allow_null, const char *key_what,
                        const char *value_what, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    if (map.count && !map.items)
        rc = ldg_fail_null(key_what, err);
    else if (map.count > LEDGER_MAX_ITEMS)
        rc = ldg_fail(err, LEDGER_ERR_TOO_LARGE, "%zu times %s; the limit is %d", map.count,
                      key_what, LEDGER_MAX_ITEMS);
    for (size_t i = 0; rc == LEDGER_OK && i < map.count; i++) {
        rc = ldg_check_text(map.items[i].key, LEDGER_MAX_KEY_BYTES, key_what, err);
        if (rc == LEDGER_OK && (map.items[i].value || !allow_null))
            rc = ldg_check_text(map.items[i].value, LEDGER_MAX_VALUE_BYTES, value_what, err);
    }
    return rc;
}

bool ldg_store_has_text_ids(const ledger_store *store)
{
    return store->backend->has_text_ids && store->backend->has_text_ids(store->ctx);
}

bool ldg_store_may_have(const ledger_store *store, ledger_id id)
{
    return ldg_store_has_text_ids(store) ? id.text != NULL : id.text == NULL && id.number > 0;
}

bool ldg_id_is_zero(const ledger_store *store, ledger_id id)
{
    return ldg_store_has_text_ids(store) ? id.text && !*id.text : !id.text && id.number <= 0;
}

ledger_rc ldg_check_id(const ledger_store *store, ledger_id id, int64_t least, const char *what,
                       ledger_error *err)
{
    if (ldg_store_has_text_ids(store)) {
        if (!id.text)
            return ldg_fail(err, LEDGER_ERR_INVALID, "%s: ids of a %s store are text", what,
                            store->backend->name);
        return ldg_check_text(id.text, LEDGER_ID_TEXT_MAX - 1, what, err);
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
    if (rc != LEDGER_OK)
        rc = ldg_fail(err, rc, "payload is not JSON: %.*s; wrap plain text in quotes",
                      LEDGER_ERROR_MESSAGE_MAX - 128, json_err.message);
    return rc;
}

ledger_rc ldg_check_input(const ledger_append_input *input, ledger_error *err)
{
    ledger_rc rc = check_payload(input->payload, err);
    if (rc == LEDGER_OK && input->order_key)
        rc = ldg_check_text(input->order_key, LEDGER_MAX_KEY_BYTES, "order_key", err);
    if (rc == LEDGER_OK && input->dedup_key)
        rc = ldg_check_text(input->dedup_key, LEDGER_MAX_KEY_BYTES, "dedup_key", err);
    if (rc == LEDGER_OK && input->schema_version < 0)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "schema_version is negative: %d",
                      input->schema_version);
    if (rc == LEDGER_OK)
        rc = ldg_check_map(input->metadata, false, "metadata key", "metadata value", err);
    if (rc == LEDGER_OK)
        rc = ldg_check_list(input->tags, "tag", err);
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

ledger_rc ldg_check_table_name(const char *name, size_t max_bytes, const char *what,
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

/* Is `name` the table, or one of those that stand beside it? */
static bool is_beside(const char *table, const char *name)
{
    static const char *const suffixes[] = { "",         "_cursors", "_meta",
                                            "_origins", "_parked",  "_foreign" };
    const size_t size = strlen(table);
    bool found = false;
    for (size_t i = 0; !found && i < sizeof(suffixes) / sizeof(suffixes[0]); i++)
        found = strncasecmp(table, name, size) == 0 && strcasecmp(name + size, suffixes[i]) == 0;
    return found;
}

ledger_rc ldg_check_log_table(const char *table, const char *log_table, ledger_error *err)
{
    if (is_beside(table, log_table))
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "log table \"%s\" is another table of store \"%s\"; give it a name of "
                        "its own, for example %s" LDG_LOG_SUFFIX,
                        log_table, table, table);
    return LEDGER_OK;
}

bool ldg_store_has_table(const ledger_store *store, const char *table)
{
    return strcasecmp(table, store->table) != 0 &&
           (is_beside(store->table, table) || is_beside(store->log_table, table));
}

ledger_rc ldg_check_cursor_name(const char *name, ledger_error *err)
{
    ledger_rc rc = ldg_check_text(name, LEDGER_MAX_KEY_BYTES, "cursor name", err);
    if (rc == LEDGER_OK && !*name)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "the cursor name is empty");
    return rc;
}

ledger_rc ldg_fail_no_cursor(const char *name, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_NOT_FOUND, "there is no cursor \"%.64s\"", name);
}
