/* The calls of intern.h: what a bridge and the tests ask of a store.
 *
 * Like the public calls they check, translate and wake; a missing callback is UNSUPPORTED. */
#include "store/handle.h"

#include <stdio.h>
#include <string.h>

#include "store/wake.h"

uint64_t ldg_store_caps(const ledger_store *store)
{
    const bool changes = (store->open.flags & LEDGER_STORE_APPEND_ONLY) == 0;
    const bool has_cursors = LDG_HAS(store, state, cursor_get);
    const struct {
        uint64_t cap;
        bool has;
    } told[] = {
        { LDG_CAP_MUTATION_LOG, store->backend->source != NULL },
        { LDG_CAP_TX_CURSOR, LDG_HAS(store, sink, apply) && has_cursors },
        { LDG_CAP_ORIGINS, LDG_HAS(store, state, origin_get) },
        { LDG_CAP_TAGS, LDG_HAS(store, store, set_tags) && changes },
        { LDG_CAP_ANNOTATIONS, LDG_HAS(store, store, set_annotations) && changes },
        { LDG_CAP_TRIM, LDG_HAS(store, store, trim) },
        { LDG_CAP_TRANSACTIONS, LDG_HAS(store, store, tx_begin) },
        { LDG_CAP_VERIFY, LDG_HAS(store, verify, history) },
        { LDG_CAP_PARK, (ldg_store_takes(store) >> LDG_OP_PARK & 1) != 0 },
    };
    uint64_t caps = store->backend->caps;
    for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++)
        caps |= told[i].has ? told[i].cap : 0;
    return caps;
}

uint32_t ldg_store_takes(const ledger_store *store)
{
    uint32_t takes = store->backend->sink ? store->backend->sink->takes : 0;
    if (store->open.flags & LEDGER_STORE_APPEND_ONLY)
        takes &= ~(1U << LDG_OP_SET_TAGS | 1U << LDG_OP_SET_ANNOTATIONS);
    return takes;
}

int64_t ldg_store_time_precision_us(const ledger_store *store)
{
    return store->backend->time_precision_us > 0 ? store->backend->time_precision_us : 1;
}

static bool describe(const ledger_store *store, char *url, size_t url_size)
{
    if (store->backend->describe)
        return store->backend->describe(store->ctx, url, url_size);
    const int size = store->url ? snprintf(url, url_size, "%s", store->url) : -1;
    return size >= 0 && (size_t)size < url_size;
}

ledger_rc ldg_store_reopen(const ledger_store *store, enum ldg_role role, const char *use,
                           ledger_store **ret_store, ledger_error *err)
{
    return ldg_store_reopen_for(store, role, use, NULL, ret_store, err);
}

ledger_rc ldg_store_reopen_for(const ledger_store *store, enum ldg_role role, const char *use,
                               const ledger_wait *wait, ledger_store **ret_store, ledger_error *err)
{
    ledger_error local_err;
    char url[LDG_CURSOR_STATE_MAX]; /* long enough for a path */
    char label[LDG_LABEL_MAX];
    if (!err)
        err = &local_err;

    if (!store)
        return ldg_fail_closed(err);
    if (!describe(store, url, sizeof(url)))
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "this %s database has no name under which a second handle could open it; "
                        "keep it in a file",
                        store->backend->name);
    snprintf(label, sizeof(label), "%s%s%s", store->label, use ? "/" : "", use ? use : "");
    const ledger_store_options options = {
        .size = sizeof(options),
        .url = url,
        .label = label,
        .table = store->table,
        .log_table = store->log_table,
        .log = store->open.log,
        .flags = store->open.flags & ~LDG_FLAGS_ONCE,
        .busy_timeout_ms = store->open.busy_timeout_ms,
        .wait = wait ? wait : store->wait,
        .http = store->http,
    };
    return ldg_store_open_as(store->backend, &options, role, ret_store, err);
}

/* --- the source's side of a bridge ----------------------------------------------------------- */

ledger_rc ldg_store_identity(ledger_store *store, struct ldg_identity *ret_identity,
                             ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, state, identity), "an identity", err);
    if (rc == LEDGER_OK)
        rc = store->backend->state->identity(store->ctx, ret_identity, err);
    return rc;
}

static ledger_rc check_log(ledger_store *store, ledger_error *err)
{
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, source, log_read), "a mutation log", err);
    if (rc == LEDGER_OK && !store->backend->has_log(store->ctx))
        rc =
            ldg_fail(err, LEDGER_ERR_SCHEMA,
                     "store \"%s\" has no mutation log: table \"%s\" is missing, or the log is off",
                     store->table, store->log_table);
    return rc;
}

static ledger_rc check_state(const char *state, ledger_error *err)
{
    if (!state)
        return ldg_fail_null("cursor", err);
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
        rc =
            ldg_fail(err, LEDGER_ERR_INVALID, "a log read needs a batch and a limit of 1 at least");
    if (rc == LEDGER_OK)
        rc = store->backend->source->log_read(store->ctx, state, limits, batch, err);
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
        rc = store->backend->source->log_cursor_at(store->ctx, position, state, err);
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
        rc = store->backend->source->log_check(store->ctx, state, ret_position, err);
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
        rc = store->backend->source->log_stat(store->ctx, state, ret_stat, err);
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
        rc = store->backend->source->log_wait(store->ctx, wake_fd, timeout_ms, err);
    return rc;
}

ledger_rc ldg_store_log_acknowledge(ledger_store *store, const char *state, bool *ret_needed,
                                    char ret_state[LDG_CURSOR_STATE_MAX], ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = check_log(store, err);
    if (rc == LEDGER_OK)
        rc = check_state(state, err);
    if (rc == LEDGER_OK && !LDG_HAS(store, source, log_acknowledge)) {
        *ret_needed = false;
        return LEDGER_OK;
    }
    if (rc == LEDGER_OK)
        rc = ldg_check_use_alone(store, LDG_USE_WRITE, true, "moving a cursor along", err);
    if (rc == LEDGER_OK)
        rc = store->backend->source->log_acknowledge(store->ctx, state, ret_state, err);
    if (rc == LEDGER_OK)
        *ret_needed = true;
    return rc;
}

ledger_rc ldg_store_entries_by_id(ledger_store *store, const ledger_id *ids, size_t count,
                                  struct ldg_arena *arena, ledger_entry **ret_entries,
                                  ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, source, entries_by_id),
                                 "look-up by id", err);
    if (rc == LEDGER_OK && count == 0)
        *ret_entries = NULL;
    else if (rc == LEDGER_OK)
        rc = store->backend->source->entries_by_id(store->ctx, ids, count, arena, ret_entries, err);
    return rc;
}

ledger_rc ldg_store_trim_survivors(ledger_store *store, int origin, const char *stream,
                                   ledger_id before, struct ldg_arena *arena, ledger_id **ret_ids,
                                   size_t *ret_count, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use(store, LDG_USE_READ, true, "", err);
    if (rc != LEDGER_OK)
        return rc;
    if (LDG_HAS(store, source, trim_survivors))
        return store->backend->source->trim_survivors(store->ctx, origin, stream, before, arena,
                                                      ret_ids, ret_count, err);
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
    ledger_rc rc = store->backend->state->identity(store->ctx, &own, err);
    if (rc == LEDGER_OK)
        rc = store->backend->state->origin_list(store->ctx, &store->scratch, &items, &numbers,
                                                &count, err);
    if (rc != LEDGER_OK)
        return rc;
    if (strcmp(own.uuid, identity->uuid) == 0 && own.epoch == identity->epoch)
        found = 0;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(items[i].uuid, identity->uuid) == 0 && items[i].epoch == identity->epoch)
            found = numbers[i];
    }
    if (found < 0)
        return ldg_fail(err, LEDGER_ERR_READ_ONLY,
                        "the store was opened read-only, and nothing of "
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
    ledger_rc rc =
        ldg_check_use_alone(store, LDG_USE_READ, LDG_HAS(store, state, origin_get), "origins", err);
    if (rc == LEDGER_OK && (store->open.flags & LEDGER_STORE_READ_ONLY))
        rc = origin_lookup(store, identity, ret_origin, err);
    else if (rc == LEDGER_OK)
        rc = store->backend->state->origin_get(store->ctx, identity, name ? name : "", ret_origin,
                                               err);
    return rc;
}

ledger_rc ldg_store_origin_list(ledger_store *store, struct ldg_arena *arena,
                                struct ldg_identity **ret_items, int **ret_numbers,
                                size_t *ret_count, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, state, origin_list), "origins", err);
    if (rc == LEDGER_OK)
        rc = store->backend->state->origin_list(store->ctx, arena, ret_items, ret_numbers,
                                                ret_count, err);
    return rc;
}

ledger_rc ldg_store_origin_adopt(ledger_store *store, int origin, const struct ldg_claim *claims,
                                 size_t count, uint64_t *ret_adopted, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use_alone(store, LDG_USE_WRITE, LDG_HAS(store, state, origin_adopt),
                                       "adoption of entries", err);
    if (rc == LEDGER_OK)
        rc = store->backend->state->origin_adopt(store->ctx, origin, claims, count, ret_adopted,
                                                 err);
    return rc;
}

ledger_rc ldg_store_origin_last(ledger_store *store, int origin, struct ldg_arena *arena,
                                ledger_id *ret_id, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, state, origin_last), "origins", err);
    if (rc == LEDGER_OK)
        rc = store->backend->state->origin_last(store->ctx, origin, arena, ret_id, err);
    return rc;
}

ledger_rc ldg_store_origin_carry_ids(ledger_store *store, int *ret_origin, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use_alone(store, LDG_USE_WRITE, true, "origins", err);
    if (rc == LEDGER_OK && !LDG_HAS(store, state, origin_carry_ids))
        *ret_origin = 0;
    else if (rc == LEDGER_OK)
        rc = store->backend->state->origin_carry_ids(store->ctx, ret_origin, err);
    return rc;
}

ledger_rc ldg_store_origin_rewind(ledger_store *store, int origin, int64_t position,
                                  ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use_alone(store, LDG_USE_WRITE, LDG_HAS(store, state, origin_rewind),
                                       "rewinding an origin", err);
    if (rc == LEDGER_OK)
        rc = store->backend->state->origin_rewind(store->ctx, origin, position, err);
    return rc;
}

ledger_rc ldg_store_origin_skips(ledger_store *store, int origin, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use_alone(store, LDG_USE_WRITE, true, "noting what is skipped", err);
    if (rc == LEDGER_OK && LDG_HAS(store, state, origin_skips))
        rc = store->backend->state->origin_skips(store->ctx, origin, err);
    return rc;
}

ledger_rc ldg_store_origin_unguard(ledger_store *store, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use_alone(store, LDG_USE_WRITE, true, "setting a cursor back", err);
    if (rc == LEDGER_OK && LDG_HAS(store, state, origin_unguard))
        rc = store->backend->state->origin_unguard(store->ctx, err);
    return rc;
}

ledger_rc ldg_store_origin_unclaimed(ledger_store *store, bool *ret_any, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use(store, LDG_USE_READ, true, "entries of another bridge", err);
    if (rc == LEDGER_OK && !LDG_HAS(store, state, origin_unclaimed))
        *ret_any = false;
    else if (rc == LEDGER_OK)
        rc = store->backend->state->origin_unclaimed(store->ctx, ret_any, err);
    return rc;
}

static ledger_rc check_ops(const ledger_store *store, const struct ldg_op *ops, size_t count,
                           ledger_error *err)
{
    static const char *const names[] = {
        [LDG_OP_APPEND] = "append",
        [LDG_OP_SET_TAGS] = "tags",
        [LDG_OP_SET_ANNOTATIONS] = "annotations",
        [LDG_OP_TRIM] = "trim",
        [LDG_OP_PARK] = "parked events",
    };
    const uint32_t takes = ldg_store_takes(store);
    for (size_t i = 0; i < count; i++) {
        if ((unsigned)ops[i].kind >= sizeof(names) / sizeof(names[0]))
            return ldg_fail(err, LEDGER_ERR_INTERNAL, "unknown operation %d", (int)ops[i].kind);
        if ((takes >> ops[i].kind & 1) == 0)
            return ldg_fail_unsupported(store, names[ops[i].kind], err);
    }
    return LEDGER_OK;
}

ledger_rc ldg_store_apply(ledger_store *store, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                          ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use_alone(store, LDG_USE_WRITE,
                                       LDG_HAS(store, sink, apply) &&
                                           (!apply->name || LDG_HAS(store, state, cursor_get)),
                                       "being a bridge's sink", err);
    if (rc == LEDGER_OK)
        rc = check_ops(store, apply->ops, apply->count, err);
    if (rc == LEDGER_OK)
        rc = store->backend->sink->apply(store->ctx, apply, ret_outcomes, err);
    if (rc == LEDGER_OK)
        ldg_store_wrote(store);
    return rc;
}

ledger_rc ldg_store_cursor_get(ledger_store *store, const char *name, bool create,
                               struct ldg_cursor *ret_cursor, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, state, cursor_get), "cursors", err);
    if (rc == LEDGER_OK && create && store->in_tx)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "a cursor cannot be made in an open transaction");
    if (rc == LEDGER_OK)
        rc = ldg_check_cursor_name(name, err);
    if (rc != LEDGER_OK)
        return rc;
    const bool read_only = store->open.flags & LEDGER_STORE_READ_ONLY;
    rc = store->backend->state->cursor_get(store->ctx, name, create && !read_only, ret_cursor, err);
    if (rc == LEDGER_ERR_NOT_FOUND)
        rc = create ? ldg_fail(err, LEDGER_ERR_READ_ONLY,
                               "the store was opened read-only and has no cursor \"%.64s\"", name)
                    : ldg_fail_no_cursor(name, err);
    return rc;
}

ledger_rc ldg_store_cursor_set(ledger_store *store, const char *name,
                               const struct ldg_cursor *expected, const struct ldg_cursor *next,
                               ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use_alone(store, LDG_USE_WRITE, LDG_HAS(store, state, cursor_set),
                                       "cursors", err);
    if (rc == LEDGER_OK)
        rc = ldg_check_cursor_name(name, err);
    if (rc == LEDGER_OK)
        rc = store->backend->state->cursor_set(store->ctx, name, expected, next, err);
    return rc;
}

ledger_rc ldg_store_cursor_list(ledger_store *store, ledger_names *ret_names, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, state, cursor_list), "cursors", err);
    if (rc == LEDGER_OK)
        rc = store->backend->state->cursor_list(store->ctx, ret_names, err);
    return rc;
}

ledger_rc ldg_store_parked_list(ledger_store *store, int64_t after, size_t limit,
                                struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                                size_t *ret_count, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, state, parked_list),
                                 "parked events", err);
    if (rc == LEDGER_OK)
        rc = store->backend->state->parked_list(store->ctx, after, limit, arena, ret_rows,
                                                ret_count, err);
    return rc;
}

ledger_rc ldg_store_parked_near(ledger_store *store, const struct ldg_op *ops, size_t count,
                                struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                                size_t *ret_count, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, state, parked_near),
                                 "parked events", err);
    if (rc != LEDGER_OK)
        return rc;
    *ret_rows = NULL;
    *ret_count = 0;
    return count == 0 ? LEDGER_OK
                      : store->backend->state->parked_near(store->ctx, ops, count, arena, ret_rows,
                                                           ret_count, err);
}

ledger_rc ldg_store_parked_count(ledger_store *store, const char *source_uuid, uint64_t *ret_count,
                                 ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, state, parked_count),
                                 "parked events", err);
    if (rc == LEDGER_OK)
        rc = store->backend->state->parked_count(store->ctx, source_uuid, ret_count, err);
    return rc;
}

ledger_rc ldg_store_parked_retry(ledger_store *store, int64_t id, const struct ldg_op *ops,
                                 size_t count, bool *ret_applied, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use_alone(store, LDG_USE_WRITE, LDG_HAS(store, state, parked_retry),
                                       "parked events", err);
    if (rc == LEDGER_OK)
        rc = check_ops(store, ops, count, err);
    if (rc == LEDGER_OK)
        rc = store->backend->state->parked_retry(store->ctx, id, ops, count, ret_applied, err);
    if (rc == LEDGER_OK)
        ldg_store_wrote(store);
    return rc;
}

ledger_rc ldg_store_parked_note(ledger_store *store, int64_t id, const char *reason,
                                ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use_alone(store, LDG_USE_WRITE, LDG_HAS(store, state, parked_note),
                                       "parked events", err);
    if (rc == LEDGER_OK)
        rc = store->backend->state->parked_note(store->ctx, id, reason, err);
    return rc;
}

ledger_rc ldg_store_parked_drop(ledger_store *store, int64_t id, uint64_t *ret_dropped,
                                ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use_alone(store, LDG_USE_WRITE, LDG_HAS(store, state, parked_drop),
                                       "parked events", err);
    if (rc == LEDGER_OK)
        rc = store->backend->state->parked_drop(store->ctx, id, ret_dropped, err);
    return rc;
}

/* --- verification and the rest --------------------------------------------------------------- */

ledger_rc ldg_store_history(ledger_store *store, int origin, ledger_id after, size_t limit,
                            size_t max_bytes, struct ldg_arena *arena,
                            struct ldg_history_row **ret_rows, size_t *ret_count, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, verify, history), "verification", err);
    if (rc == LEDGER_OK)
        rc = store->backend->verify->history(store->ctx, origin, after, limit, max_bytes, arena,
                                             ret_rows, ret_count, err);
    return rc;
}

ledger_rc ldg_store_history_of(ledger_store *store, int origin, const ledger_id *keys, size_t count,
                               size_t max_bytes, struct ldg_arena *arena,
                               struct ldg_history_row **ret_rows, size_t *ret_count,
                               ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc =
        ldg_check_use(store, LDG_USE_READ, LDG_HAS(store, verify, history_of), "verification", err);
    if (rc == LEDGER_OK)
        rc = store->backend->verify->history_of(store->ctx, origin, keys, count, max_bytes, arena,
                                                ret_rows, ret_count, err);
    return rc;
}

ledger_rc ldg_store_snapshot_begin(ledger_store *store, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use_alone(store, LDG_USE_READ, LDG_HAS(store, verify, snapshot_begin),
                                       "a snapshot", err);
    if (rc == LEDGER_OK && store->in_snapshot)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "a snapshot is open already");
    if (rc == LEDGER_OK)
        rc = store->backend->verify->snapshot_begin(store->ctx, err);
    if (rc == LEDGER_OK)
        store->in_snapshot = true;
    return rc;
}

void ldg_store_snapshot_end(ledger_store *store)
{
    if (store && store->in_snapshot) {
        store->backend->verify->snapshot_end(store->ctx);
        store->in_snapshot = false;
    }
}

uint64_t ldg_store_durable_count(ledger_store *store, uint64_t applied_count)
{
    return LDG_HAS(store, sink, durable_count) ? store->backend->sink->durable_count(store->ctx)
                                               : applied_count;
}

void ldg_store_hint_backlog(ledger_store *store, bool backlog)
{
    if (LDG_HAS(store, sink, hint_backlog))
        store->backend->sink->hint_backlog(store->ctx, backlog);
}

ledger_rc ldg_store_wake_add(ledger_store *store, int event_fd, ledger_error *err)
{
    ledger_error local_err;
    if (!err)
        err = &local_err;
    ledger_rc rc = ldg_check_use(store, LDG_USE_READ, true, "", err);
    if (rc == LEDGER_OK && store->backend->wake_key)
        rc = ldg_wake_add(store->backend->wake_key(store->ctx), event_fd, err);
    return rc;
}

void ldg_store_wake_remove(ledger_store *store, int event_fd)
{
    if (store && store->backend->wake_key)
        ldg_wake_remove(store->backend->wake_key(store->ctx), event_fd);
}
