/* Parked events: listed, tried again, dropped.
 *
 * A retry goes through the same decode and plan as the bridge, in order of id. The sink refuses an
 * event that is behind an earlier parked one of its entry, in the transaction that would apply it;
 * what the source has trimmed since is let go. */
#include <stdio.h>
#include <string.h>

#include "bridge/stages.h"

#define PAGE_ROWS 64

ledger_rc ledger_bridge_parked_list(ledger_store *sink, ledger_parked_fn fn, void *ctx,
                                    ledger_error *err)
{
    ledger_error local;
    err = err != NULL ? err : &local;
    if (sink == NULL || fn == NULL)
        return ldg_fail(err, LEDGER_ERR_INVALID, "parked list: sink or function is NULL");
    struct ldg_arena arena;
    int64_t after = 0;
    bool go_on = true;
    ledger_rc rc = LEDGER_OK;
    ldg_arena_init(&arena, 1 << 20);
    while (rc == LEDGER_OK && go_on) {
        struct ldg_parked_row *rows = NULL;
        size_t count = 0;
        ldg_arena_reset(&arena);
        rc = ldg_store_parked_list(sink, after, PAGE_ROWS, &arena, &rows, &count, err);
        if (rc != LEDGER_OK || count == 0)
            break;
        for (size_t i = 0; i < count && go_on; i++) {
            char id_text[LEDGER_ID_TEXT_MAX];
            ledger_parked parked = {
                .id = rows[i].id,
                .source_uuid = rows[i].source_uuid,
                .position = rows[i].log_position,
                .type = rows[i].type_name,
                .stream = rows[i].stream,
                .entry_id = ldg_id_is_none(rows[i].key) ? "" : ldg_id_text(rows[i].key, id_text),
                .reason = rows[i].reason,
                .attempts = rows[i].attempts,
                .parked_at_us = rows[i].parked_at_us,
                .event = rows[i].event,
            };
            after = rows[i].id;
            go_on = fn(ctx, &parked);
        }
    }
    ldg_arena_fini(&arena);
    return rc;
}

ledger_rc ledger_bridge_parked_drop(ledger_store *sink, int64_t id, uint64_t *ret_dropped,
                                    ledger_error *err)
{
    uint64_t dropped = 0;
    if (sink == NULL || id < 0)
        return ldg_fail(err, LEDGER_ERR_INVALID, "parked drop: sink is NULL or id negative");
    ledger_rc rc = ldg_store_parked_drop(sink, id, &dropped, err);
    if (rc == LEDGER_OK && id != 0 && dropped == 0)
        rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no parked event has id %lld", (long long)id);
    if (rc == LEDGER_OK && ret_dropped != NULL)
        *ret_dropped = dropped;
    return rc;
}

struct retry_run {
    ledger_store *source, *sink;
    ledger_store *keeper;            /* of what is parked: the sink, or its state store */
    struct ldg_deliverer *deliverer; /* with a state store; else NULL */
    struct ldg_origin_cache origins;
    struct ldg_arena arena;
    int64_t only; /* 0: all */
    uint64_t applied, stay;
};

static bool is_own_append(const struct retry_run *run, const struct ldg_op *op)
{
    return op->kind == LDG_OP_APPEND && op->origin == run->origins.source;
}

/* Appends whose entry the source has trimmed meanwhile have nothing left to do. */
static ledger_rc drop_trimmed(struct retry_run *run, struct ldg_op *ops, size_t *count,
                              ledger_error *err)
{
    size_t kept = 0, id_count = 0, at = 0;
    ledger_entry *rows = NULL;
    ledger_id *ids = ldg_arena_alloc(&run->arena, (*count + 1) * sizeof(*ids));
    if (ids == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < *count; i++)
        if (is_own_append(run, &ops[i]))
            ids[id_count++] = ops[i].key;
    ledger_rc rc = ldg_store_entries_by_id(run->source, ids, id_count, &run->arena, &rows, err);
    if (rc != LEDGER_OK)
        return rc;
    for (size_t i = 0; i < *count; i++) {
        if (is_own_append(run, &ops[i]) && ldg_id_is_none(rows[at++].id))
            continue;
        ops[kept++] = ops[i];
    }
    *count = kept;
    return LEDGER_OK;
}

/* As the bridge does: completed, then planned. item->bad: why there is nothing to apply. */
static ledger_rc plan_row(struct retry_run *run, const struct ldg_parked_row *row,
                          struct ldg_batch_event *item, struct ldg_op **ret_ops, size_t *ret_count,
                          ledger_error *err)
{
    const struct ldg_plan_rules rules = { .origins = &run->origins };
    const struct ldg_log_row log_row = { .position = row->log_position,
                                         .payload = row->event,
                                         .created_at_us = row->time_us };
    ledger_rc rc = ldg_read_complete(run->source, item, 1, &run->arena, err);
    if (rc == LEDGER_OK)
        rc = ldg_origins_resolve(&run->origins, ldg_origins_store(run->sink, run->keeper),
                                 &item->event, err);
    if (rc != LEDGER_OK)
        return rc;
    *ret_ops = ldg_arena_calloc(&run->arena, ldg_plan_op_count(item), sizeof(**ret_ops));
    if (*ret_ops == NULL)
        return ldg_fail_nomem(err);
    *ret_count = ldg_plan_event(item, &log_row, 0, &rules, &run->arena, *ret_ops);
    return item->bad == NULL ? drop_trimmed(run, *ret_ops, ret_count, err) : LEDGER_OK;
}

static ledger_rc retry_row(struct retry_run *run, const struct ldg_parked_row *row,
                           ledger_error *err)
{
    struct ldg_batch_event item = { 0 };
    ledger_error why = { 0 };
    bool applied = false;
    size_t count = 0;
    struct ldg_op *ops = NULL;

    ledger_rc rc = ldg_event_decode(row->event, &run->arena, &item.event, &why);
    if (rc == LEDGER_ERR_NOMEM)
        return ldg_fail_nomem(err);
    if (rc != LEDGER_OK) {
        item.bad = why.message;
    } else {
        rc = plan_row(run, row, &item, &ops, &count, err);
        if (rc != LEDGER_OK)
            return rc;
    }
    if (item.bad != NULL)
        rc = ldg_store_parked_note(run->keeper, row->id, item.bad, err);
    else if (run->deliverer != NULL)
        rc = ldg_redeliver(run->deliverer, row, ops, count, &run->arena, &applied, err);
    else
        rc = ldg_store_parked_retry(run->keeper, row->id, ops, count, &applied, err);
    if (rc == LEDGER_ERR_NOT_FOUND && run->only == 0)
        return LEDGER_OK; /* gone since the list was read: a trim took it away, or somebody did */
    if (rc != LEDGER_OK)
        return rc;
    if (applied)
        run->applied++;
    else
        run->stay++;
    return LEDGER_OK;
}

static ledger_rc retry_all(struct retry_run *run, ledger_error *err)
{
    struct ldg_arena page;
    int64_t after = 0;
    bool found = false;
    ledger_rc rc = LEDGER_OK;
    ldg_arena_init(&page, 1 << 20);
    for (;;) {
        struct ldg_parked_row *rows = NULL;
        size_t count = 0;
        ldg_arena_reset(&page);
        rc = ldg_store_parked_list(run->keeper, after, PAGE_ROWS, &page, &rows, &count, err);
        if (rc != LEDGER_OK || count == 0)
            break;
        for (size_t i = 0; i < count && rc == LEDGER_OK; i++) {
            after = rows[i].id;
            if (strcmp(rows[i].source_uuid, run->origins.source_identity.uuid) != 0)
                continue;
            if (run->only != 0 && rows[i].id > run->only)
                break;
            if (run->only == 0 || rows[i].id == run->only) {
                ldg_arena_reset(&run->arena);
                found = true;
                rc = retry_row(run, &rows[i], err);
            }
        }
        if (rc != LEDGER_OK || (run->only != 0 && after >= run->only))
            break;
    }
    if (rc == LEDGER_OK && run->only != 0 && !found)
        rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no parked event of this source has id %lld",
                      (long long)run->only);
    ldg_arena_fini(&page);
    return rc;
}

static ledger_rc retry(struct retry_run *run, uint64_t *ret_applied, uint64_t *ret_left,
                       ledger_error *err)
{
    ldg_arena_init(&run->arena, 1 << 20);
    run->stay = 1;
    ledger_rc rc = ldg_origins_init(&run->origins, run->source, run->sink,
                                    run->deliverer != NULL ? run->keeper : NULL, "", err);
    /* One that came free may have held back another that was looked at before it. */
    for (uint64_t before = UINT64_MAX;
         rc == LEDGER_OK && run->applied != before && run->stay > 0;) {
        before = run->applied;
        run->stay = 0;
        rc = retry_all(run, err);
    }
    if (rc == LEDGER_OK) {
        if (ret_applied != NULL)
            *ret_applied = run->applied;
        if (ret_left != NULL)
            *ret_left = run->stay;
    }
    ldg_origins_fini(&run->origins);
    ldg_arena_fini(&run->arena);
    return rc;
}

ledger_rc ledger_bridge_parked_retry(ledger_store *source, ledger_store *sink, int64_t id,
                                     uint64_t *ret_applied, uint64_t *ret_left, ledger_error *err)
{
    ledger_error local;
    err = err != NULL ? err : &local;
    if (source == NULL || sink == NULL || id < 0)
        return ldg_fail(err, LEDGER_ERR_INVALID, "parked retry: a store is NULL or id negative");
    struct retry_run run = { .source = source, .sink = sink, .keeper = sink, .only = id };
    return retry(&run, ret_applied, ret_left, err);
}

ledger_rc ledger_bridge_retry(ledger_bridge *bridge, int64_t id, uint64_t *ret_applied,
                              uint64_t *ret_left, ledger_error *err)
{
    ledger_error local;
    struct ldg_pipe *pipe = NULL;
    err = err != NULL ? err : &local;
    ledger_rc rc = ldg_bridge_check(bridge, "retry", err);
    if (rc == LEDGER_OK && id < 0)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "retry: id is negative");
    if (rc == LEDGER_OK)
        rc = ldg_pipe_open(bridge, &bridge->poll_waits, &pipe, err);
    if (rc != LEDGER_OK)
        return rc;
    const bool delivers = pipe->state_store != NULL;
    struct retry_run run = {
        .source = pipe->source,
        .sink = pipe->sink,
        .keeper = delivers ? pipe->state_store : pipe->sink,
        .deliverer = delivers ? &pipe->deliverer : NULL,
        .only = id,
    };
    pthread_mutex_lock(&bridge->lone_mutex);
    rc = retry(&run, ret_applied, ret_left, err);
    pthread_mutex_unlock(&bridge->lone_mutex);
    ldg_pipe_close(&pipe);
    return rc;
}
