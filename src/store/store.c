/* The public calls on a store.
 *
 * Invariant: a callback of a backend is called from this file and intern.c only, with arguments
 * that its contract in backend.h promises, a non-NULL err, and only while the handle's state allows
 * it. What a backend lacks becomes UNSUPPORTED. After a successful write the waiters of the
 * database are woken: at once outside of transactions, at the commit inside one. */
#include "store/handle.h"

#include <stdio.h>
#include <string.h>

#include "base/options.h"
#include "event/event.h"
#include "store/batch.h"

#define READ_BYTES_DEFAULT ((size_t)64 * 1024 * 1024)

/* --- open and close -------------------------------------------------------------------------- */

static const struct ldg_options store_options = {
    .name = "ledger_store_options",
    .defaults =
        &(const ledger_store_options){
            .size = sizeof(ledger_store_options),
            .busy_timeout_ms = 5000,
        },
    .size = sizeof(ledger_store_options),
    .least = LDG_OPTIONS_UP_TO(ledger_store_options, http),
};

void ledger_store_options_init(ledger_store_options *options, size_t size)
{
    ldg_options_init(&store_options, options, size);
}

ledger_rc ledger_store_open(const ledger_store_options *options, ledger_store **ret_store,
                            ledger_error *err)
{
    ledger_error local_err;
    ledger_store_options o;
    if (!err)
        err = &local_err;
    if (!options)
        return ldg_fail_null("options", err);
    if (!ret_store)
        return ldg_fail_null("ret_store", err);
    ledger_rc rc = ldg_options_take(&store_options, options, &o, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_open_as(NULL, &o, LDG_ROLE_USER, ret_store, err);
    /* Entries that were carried before a Go program opened the table. A bridge does it, too, when
     * it starts: who may not is none the worse for it. */
    if (rc == LEDGER_OK && (o.flags & LEDGER_STORE_CREATE) != 0 && o.connection == NULL) {
        int origin;
        (void)!ldg_store_origin_carry_ids(*ret_store, &origin, NULL);
    }
    return rc;
}

void ledger_store_close(ledger_store **store)
{
    if (!store || !*store)
        return;
    ledger_store *s = *store;
    ledger_error err;
    if (s->in_snapshot)
        s->backend->verify->snapshot_end(s->ctx);
    if (s->in_tx)
        (void)!s->backend->store->tx_rollback(s->ctx, &err);
    s->backend->close(s->ctx);
    ldg_store_free(s);
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
    return LDG_HAS(store, source, log_read) && store->backend->has_log(store->ctx);
}

/* --- interrupting ---------------------------------------------------------------------------- */

_Static_assert(ATOMIC_BOOL_LOCK_FREE == 2, "a signal handler may interrupt");

void ledger_store_interrupt(ledger_store *store)
{
    if (store)
        atomic_store(&store->interrupted, true);
}

/* --- transactions ---------------------------------------------------------------------------- */

ledger_rc ledger_store_begin(ledger_store *store, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_WRITE, LDG_HAS(store, store, tx_begin), "transactions", err);
    if (rc == LEDGER_OK && store->in_tx)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "a transaction is open already; they do not nest");
    if (rc == LEDGER_OK)
        rc = store->backend->store->tx_begin(store->ctx, err);
    if (rc == LEDGER_OK) {
        store->in_tx = true;
        store->tx_wrote = false;
    }
    return rc;
}

static ledger_rc check_in_tx(ledger_store *store, ledger_error *err)
{
    ledger_rc rc = ldg_check_use(store, LDG_USE_READ, true, "", err);
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
    rc = store->backend->store->tx_commit(store->ctx, err);
    if (rc == LEDGER_ERR_BUSY)
        return rc;
    store->in_tx = false;
    if (rc != LEDGER_OK) {
        ledger_error rollback_err;
        (void)!store->backend->store->tx_rollback(store->ctx, &rollback_err);
    }
    if (store->tx_wrote) /* after an unknown outcome too: a wake-up too many does no harm */
        ldg_store_wrote(store);
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
    rc = store->backend->store->tx_rollback(store->ctx, err);
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
        rc = ldg_check_input(&inputs[i], err);
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

    ledger_rc rc = ldg_check_use(store, LDG_USE_WRITE, LDG_HAS(store, store, append),
                                 "being written to by a program", err);
    if (rc == LEDGER_OK)
        rc = ldg_check_stream(stream, err);
    if (rc == LEDGER_OK && !inputs && count)
        rc = ldg_fail_null("inputs", err);
    if (rc == LEDGER_OK && count > LEDGER_MAX_APPEND_ENTRIES)
        rc = ldg_fail(err, LEDGER_ERR_TOO_LARGE, "%zu entries in one append; the limit is %d",
                      count, LEDGER_MAX_APPEND_ENTRIES);
    if (rc == LEDGER_OK && count) {
        ldg_arena_reset(&store->scratch);
        rc = prepare_inputs(store, inputs, count, &prepared, err);
        if (rc == LEDGER_OK)
            rc = store->backend->store->append(store->ctx, stream, prepared, count, &ids, err);
        if (rc == LEDGER_OK && ids.count)
            ldg_store_wrote(store);
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
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_WRITE, LDG_HAS(store, store, set_tags), "tags", err);
    if (rc == LEDGER_OK)
        rc = ldg_check_not_append_only(store, err);
    if (rc == LEDGER_OK)
        rc = ldg_check_stream(stream, err);
    if (rc == LEDGER_OK)
        rc = ldg_check_id(store, id, 1, "entry id", err);
    if (rc == LEDGER_OK)
        rc = ldg_check_list(tags, "tag", err);
    if (rc == LEDGER_OK)
        rc = store->backend->store->set_tags(store->ctx, stream, id, tags, err);
    if (rc == LEDGER_OK)
        ldg_store_wrote(store);
    return rc;
}

ledger_rc ledger_store_set_annotations(ledger_store *store, const char *stream, ledger_id id,
                                       ledger_map annotations, ledger_error *err)
{
    ledger_error local_err;
    ledger_map sorted = { 0 };
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use(store, LDG_USE_WRITE, LDG_HAS(store, store, set_annotations),
                                 "annotations", err);
    if (rc == LEDGER_OK)
        rc = ldg_check_not_append_only(store, err);
    if (rc == LEDGER_OK)
        rc = ldg_check_stream(stream, err);
    if (rc == LEDGER_OK)
        rc = ldg_check_id(store, id, 1, "entry id", err);
    if (rc == LEDGER_OK)
        rc = ldg_check_map(annotations, true, "annotation key", "annotation value", err);
    if (rc == LEDGER_OK) {
        ldg_arena_reset(&store->scratch);
        rc = ldg_map_sort(annotations, &store->scratch, &sorted, err);
    }
    if (rc == LEDGER_OK)
        rc = store->backend->store->set_annotations(store->ctx, stream, id, sorted, err);
    if (rc == LEDGER_OK)
        ldg_store_wrote(store);
    return rc;
}

ledger_rc ledger_store_trim(ledger_store *store, const char *stream, ledger_id before,
                            uint64_t *ret_deleted, ledger_error *err)
{
    ledger_error local_err;
    uint64_t deleted = 0;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use(store, LDG_USE_WRITE, LDG_HAS(store, store, trim), "trim", err);
    if (rc == LEDGER_OK)
        rc = ldg_check_stream(stream, err);
    if (rc == LEDGER_OK)
        rc = ldg_check_id(store, before, INT64_MIN, "before", err);
    const bool any = rc == LEDGER_OK && !ldg_id_is_zero(store, before);
    if (any)
        rc = store->backend->store->trim(store->ctx, stream, before, &deleted, err);
    if (rc == LEDGER_OK && any)
        ldg_store_wrote(store);
    if (rc == LEDGER_OK && ret_deleted)
        *ret_deleted = deleted;
    return rc;
}

/* --- reading --------------------------------------------------------------------------------- */

static const struct ldg_options read_options = {
    .name = "ledger_read_options",
    .defaults =
        &(const ledger_read_options){
            .size = sizeof(ledger_read_options),
        },
    .size = sizeof(ledger_read_options),
    .least = LDG_OPTIONS_UP_TO(ledger_read_options, max_bytes),
};

void ledger_read_options_init(ledger_read_options *options, size_t size)
{
    ldg_options_init(&read_options, options, size);
}

ledger_rc ldg_read_options_take(const ledger_read_options *options,
                                ledger_read_options *ret_options, ledger_error *err)
{
    return ldg_options_take(&read_options, options, ret_options, err);
}

/* Checks options (NULL: all defaults) and fills in what 0 stands for. */
static ledger_rc prepare_read(const ledger_store *store, const ledger_read_options *options,
                              ledger_read_options *ret_options, ledger_error *err)
{
    ledger_read_options o;
    ledger_rc rc = ldg_read_options_take(options, &o, err);
    if (rc != LEDGER_OK)
        return rc;
    if (o.limit > LEDGER_READ_LIMIT_MAX)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "limit %zu is too large; at most %d, then read on "
                      "after the last id",
                      o.limit, LEDGER_READ_LIMIT_MAX);
    if (rc == LEDGER_OK && o.has_after)
        rc = ldg_check_id(store, o.after, INT64_MIN, "after", err);
    if (rc == LEDGER_OK && o.has_after && ldg_id_is_zero(store, o.after))
        o.has_after = false;
    if (rc == LEDGER_OK && o.order_key)
        rc = ldg_check_text(o.order_key, LEDGER_MAX_KEY_BYTES, "order_key", err);
    if (rc == LEDGER_OK && o.tag)
        rc = ldg_check_text(o.tag, LEDGER_MAX_KEY_BYTES, "tag", err);
    if (rc == LEDGER_OK)
        rc = ldg_check_list(o.all_tags, "tag", err);
    if (rc == LEDGER_OK)
        rc = ldg_check_map(o.metadata, false, "metadata key", "metadata value", err);
    if (rc == LEDGER_OK)
        rc = ldg_check_map(o.annotations, false, "annotation key", "annotation value", err);
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
    ledger_rc rc = ret_batch ? LEDGER_OK : ldg_fail_null("ret_batch", err);
    if (rc == LEDGER_OK)
        rc = prepare_read(store, options, &prepared, err);
    if (rc == LEDGER_OK && search && prepared.full_text &&
        !(ldg_store_caps(store) & LDG_CAP_FULL_TEXT))
        rc = ldg_fail_unsupported(store, "search of full text", err);
    if (rc == LEDGER_OK && !(batch = ldg_batch_create()))
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK)
        rc = store->backend->store->read(store->ctx, stream, search, &prepared, &batch->arena,
                                         &batch->entries, &batch->count, err);
    if (rc == LEDGER_OK)
        *ret_batch = batch;
    else
        ledger_batch_destroy(&batch);
    return rc;
}

ledger_rc ldg_store_read_more(ledger_store *store, const char *stream,
                              const ledger_read_options *options, ledger_batch **ret_batch,
                              ledger_error *err)
{
    return read_entries(store, stream, NULL, options, ret_batch, err);
}

ledger_rc ldg_store_read_gaps(ledger_store *store, const char *stream,
                              const ledger_read_options *options, const int64_t *known,
                              size_t known_count, ledger_batch **ret_batch, ledger_error *err)
{
    ledger_read_options prepared;
    ledger_batch *batch = NULL;
    ledger_rc rc = prepare_read(store, options, &prepared, err);
    if (rc == LEDGER_OK && !(batch = ldg_batch_create()))
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK)
        rc = store->backend->store->read_gaps(store->ctx, stream, &prepared, known, known_count,
                                              &batch->arena, &batch->entries, &batch->count, err);
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
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, store, read), "being read", err);
    if (rc == LEDGER_OK && stream)
        rc = ldg_check_stream(stream, err);
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
    ledger_rc rc = ldg_check_use(
        store, LDG_USE_READ,
        LDG_HAS(store, store, read) && (store->backend->caps & LDG_CAP_SEARCH) != 0, "search", err);
    if (rc == LEDGER_OK && stream)
        rc = ldg_check_stream(stream, err);
    if (rc == LEDGER_OK)
        rc = ldg_check_text(text, LEDGER_MAX_VALUE_BYTES, "search text", err);
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
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, store, count), "being read", err);
    if (rc == LEDGER_OK && stream)
        rc = ldg_check_stream(stream, err);
    if (rc == LEDGER_OK && !ret_count)
        rc = ldg_fail_null("ret_count", err);
    if (rc == LEDGER_OK)
        rc = store->backend->store->count(store->ctx, stream, ret_count, err);
    return rc;
}

ledger_rc ledger_store_stat(ledger_store *store, const char *stream, ledger_stream_stat *ret_stat,
                            ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, store, stat), "being read", err);
    if (rc == LEDGER_OK && stream)
        rc = ldg_check_stream(stream, err);
    if (rc == LEDGER_OK && !ret_stat)
        rc = ldg_fail_null("ret_stat", err);
    if (rc == LEDGER_OK)
        rc = store->backend->store->stat(store->ctx, stream, ret_stat, err);
    return rc;
}

ledger_rc ledger_store_list_streams(ledger_store *store, const char *after, size_t limit,
                                    ledger_names *ret_names, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, store, list_streams), "being read", err);
    if (rc == LEDGER_OK && after)
        rc = ldg_check_stream(after, err);
    if (rc == LEDGER_OK && limit > LEDGER_READ_LIMIT_MAX)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "limit %zu is too large; at most %d, then list on "
                      "after the last name",
                      limit, LEDGER_READ_LIMIT_MAX);
    if (rc == LEDGER_OK && !ret_names)
        rc = ldg_fail_null("ret_names", err);
    if (rc == LEDGER_OK)
        rc = store->backend->store->list_streams(
            store->ctx, after, limit ? limit : LEDGER_READ_LIMIT_DEFAULT, ret_names, err);
    return rc;
}

ledger_rc ledger_store_find_by_source_id(ledger_store *store, const char *stream,
                                         const char *source_id, ledger_id *ret_id,
                                         ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, store, find_by_source_id),
                                 "look-up by source id", err);
    if (rc == LEDGER_OK)
        rc = ldg_check_stream(stream, err);
    if (rc == LEDGER_OK)
        rc = ldg_check_text(source_id, LEDGER_MAX_KEY_BYTES, "source id", err);
    if (rc == LEDGER_OK && !*source_id)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "the source id is empty");
    if (rc == LEDGER_OK && !ret_id)
        rc = ldg_fail_null("ret_id", err);
    if (rc == LEDGER_OK)
        rc = store->backend->store->find_by_source_id(store->ctx, stream, source_id, ret_id, err);
    return rc;
}

/* --- cursors and health ---------------------------------------------------------------------- */

ledger_rc ledger_store_cursor_get(ledger_store *store, const char *name,
                                  char text[LEDGER_ID_TEXT_MAX], ledger_error *err)
{
    ledger_error local_err;
    struct ldg_cursor cursor;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_store_cursor_get(store, name, false, &cursor, err);
    if (rc == LEDGER_OK && !text)
        rc = ldg_fail_null("text", err);
    if (rc == LEDGER_OK && !*cursor.readable) /* made by a bridge that has not moved it yet */
        rc = ldg_fail_no_cursor(name, err);
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
    ledger_rc rc = ldg_check_use_alone(store, LDG_USE_WRITE, LDG_HAS(store, state, cursor_set),
                                       "cursors", err);
    if (rc == LEDGER_OK)
        rc = ldg_check_text(text, LEDGER_ID_TEXT_MAX - 1, "cursor", err);
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
    ledger_rc rc = ldg_check_use(store, LDG_USE_READ, true, "", err);
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
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, store && store->backend->check, "being checked", err);
    if (rc == LEDGER_OK && !fn)
        rc = ldg_fail_null("fn", err);
    if (rc == LEDGER_OK)
        rc = store->backend->check(store->ctx, fn, ctx, err);
    return rc;
}
