/* Bridged mutations in the sink's own log, so that bridges can be chained.
 *
 * Hides how an event names its origin. Invariant: one event comes, one goes out, in the transaction
 * that applied it and behind its rows; what changed nothing here writes none. */
#include "backend/postgres/apply.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ORIGINS_KEPT 4
#define ID_TEXT_MAX 24

struct chain {
    struct ldg_pg_batch *b;
    struct ldg_pg_copy copy;
    bool by_copy;
    ledger_append_entry *entries; /* of the event in hand */
    size_t entries_cap;
    char (*texts)[ID_TEXT_MAX]; /* two per entry */
    struct origin_text {
        int number;
        char text[LDG_UUID_TEXT_MAX + ID_TEXT_MAX];
    } origins[ORIGINS_KEPT];
    size_t origin_count, origin_last;
    bool origins_full; /* there are more */
};

/* "uuid:epoch" of an origin; lives until two others are asked for. */
static ledger_rc origin_text(struct chain *c, int number, const char **ret_text, ledger_error *err)
{
    static const char get[] = "SELECT uuid, epoch FROM \"{t}_origins\" WHERE id = $1";
    struct ldg_pg *pg = c->b->pg;
    struct ldg_identity identity = pg->identity;
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    struct origin_text *item = NULL;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; i < c->origin_count; i++) {
        if (c->origins[i].number == number)
            item = &c->origins[i];
    }
    if (item != NULL)
        goto out;
    if (number != 0) {
        ldg_pg_arg_int32(&args, number);
        rc = ldg_pg_run(pg, LDG_PG_KEEP, "looking for an origin", get, &args, &result, err);
        if (rc == LEDGER_OK && PQntuples(result) == 0)
            rc = ldg_fail(err, LEDGER_ERR_SCHEMA, "table \"%s_origins\" has no row %d", pg->table,
                          number);
        if (rc == LEDGER_OK)
            rc = ldg_pg_take_identity(pg, result, 0, 0, &identity, err);
        if (rc != LEDGER_OK)
            goto out;
    }
    /* never the one that was asked for last: an event may name both */
    c->origins_full = c->origin_count == ORIGINS_KEPT;
    item = &c->origins[c->origins_full ? (c->origin_last + 1) % ORIGINS_KEPT : c->origin_count++];
    item->number = number;
    snprintf(item->text, sizeof(item->text), "%s:%" PRId64, identity.uuid, identity.epoch);
out:
    PQclear(result);
    if (rc == LEDGER_OK) {
        c->origin_last = (size_t)(item - c->origins);
        *ret_text = item->text;
    }
    return rc;
}

/* All texts before the COPY: no other statement runs meanwhile. */
static ledger_rc load_origins(struct chain *c, bool *ret_fit, ledger_error *err)
{
    const struct ldg_pg_batch *b = c->b;
    const char *ignored;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < b->count && !c->origins_full; i++) {
        if (b->ids[i] == 0)
            continue;
        rc = origin_text(c, b->ops[i].mutation_origin, &ignored, err);
        if (rc == LEDGER_OK && b->ops[i].origin != b->ops[i].mutation_origin)
            rc = origin_text(c, b->ops[i].origin, &ignored, err);
    }
    *ret_fit = !c->origins_full;
    return rc;
}

static ledger_rc log_event(struct chain *c, const ledger_mutation_event *event, ledger_error *err)
{
    static const char insert[] = "INSERT INTO \"{l}\" (stream, payload, schema_version, "
                                 "created_at) VALUES ('_', $1, 1, $2)";
    struct ldg_buf *text = &c->b->pg->event_buf;
    struct ldg_pg_args args = { 0 };
    ledger_rc rc;

    ldg_buf_reset(text);
    rc = ldg_event_encode(event, text, err);
    if (rc != LEDGER_OK)
        goto out;
    if (c->by_copy) {
        ldg_pg_copy_row(&c->copy, 4);
        ldg_pg_copy_text(&c->copy, "_");
        ldg_pg_copy_bytes(&c->copy, text->data, text->size);
        ldg_pg_copy_int32(&c->copy, 1);
        ldg_pg_copy_time(&c->copy, c->b->now_us);
        rc = c->copy.rc;
    } else {
        ldg_pg_arg_bytes(&args, text->data, text->size);
        ldg_pg_arg_time(&args, c->b->now_us);
        rc = ldg_pg_run(c->b->pg, LDG_PG_KEEP, "writing the log", insert, &args, NULL, err);
    }
out:
    if (text->cap > 16 * LDG_PG_COPY_BYTES) {
        size_t max = text->max;

        ldg_buf_fini(text);
        ldg_buf_init(text, max);
    }
    return rc;
}

/* Ops [first, end): appends of one event. */
static ledger_rc log_appends(struct chain *c, size_t first, size_t end, ledger_error *err)
{
    const struct ldg_pg_batch *b = c->b;
    const struct ldg_op *op = &b->ops[first];
    ledger_mutation_event event = ldg_op_event(op, b->now_us);
    size_t count = 0;
    ledger_rc rc = LEDGER_OK;

    if (end - first > c->entries_cap) {
        c->entries_cap = end - first;
        c->entries = ldg_arena_calloc(&b->sink->arena, c->entries_cap, sizeof(*c->entries));
        c->texts = ldg_arena_calloc(&b->sink->arena, c->entries_cap, 2 * sizeof(*c->texts));
        if (c->entries == NULL || c->texts == NULL)
            return ldg_fail_nomem(err);
    }
    for (size_t i = first; i < end; i++) {
        ledger_append_entry *entry = &c->entries[count];
        char *id = c->texts[2 * count], *source_id = c->texts[2 * count + 1];

        if (b->ids[i] == 0)
            continue;
        snprintf(id, ID_TEXT_MAX, "%" PRId64, b->ids[i]);
        snprintf(source_id, ID_TEXT_MAX, "%" PRId64, b->ops[i].key.number);
        *entry = *b->ops[i].entry;
        entry->id = id;
        entry->source_id = source_id;
        entry->created_at_us = ldg_pg_op_time(b, &b->ops[i]);
        count++;
    }
    if (count > 0)
        rc = origin_text(c, op->mutation_origin, &event.origin, err);
    if (rc == LEDGER_OK && count > 0 && op->origin != op->mutation_origin)
        rc = origin_text(c, op->origin, &event.entry_origin, err);
    if (rc == LEDGER_OK && count > 0) {
        event.created_at_us = c->entries[0].created_at_us;
        event.entries = c->entries;
        event.entry_count = count;
        rc = log_event(c, &event, err);
    }
    return rc;
}

static ledger_rc log_change(struct chain *c, size_t i, ledger_error *err)
{
    const struct ldg_op *op = &c->b->ops[i];
    char id[ID_TEXT_MAX], source_id[ID_TEXT_MAX];
    ledger_mutation_event event = ldg_op_event(op, c->b->now_us);
    ledger_rc rc = origin_text(c, op->mutation_origin, &event.origin, err);

    if (rc == LEDGER_OK && op->origin != op->mutation_origin)
        rc = origin_text(c, op->origin, &event.entry_origin, err);
    if (rc != LEDGER_OK)
        return rc;
    snprintf(id, sizeof(id), "%" PRId64, c->b->ids[i]);
    snprintf(source_id, sizeof(source_id), "%" PRId64, op->key.number);
    ldg_op_event_ids(op, id, source_id, &event);
    return log_event(c, &event, err);
}

static bool same_event(const struct ldg_op *a, const struct ldg_op *b)
{
    return b->kind == LDG_OP_APPEND && a->event_index == b->event_index &&
           (a->stream == b->stream || strcmp(a->stream, b->stream) == 0);
}

static ledger_rc log_all(struct chain *c, ledger_error *err)
{
    const struct ldg_pg_batch *b = c->b;
    ledger_rc rc = LEDGER_OK;
    size_t at = 0;

    for (size_t i = 0, end; rc == LEDGER_OK && i < b->count; i = end) {
        at = i;
        end = i + 1;
        if (b->ops[i].kind == LDG_OP_APPEND) {
            while (end < b->count && same_event(&b->ops[i], &b->ops[end]))
                end++;
            rc = log_appends(c, i, end, err);
        } else if (b->ids[i] != 0) {
            rc = log_change(c, i, err);
        }
    }
    if (rc != LEDGER_OK)
        err->done_count = at;
    return rc;
}

ledger_rc ldg_pg_chain_write(struct ldg_pg_batch *b, bool copy, ledger_error *err)
{
    static const char copy_log[] = "COPY \"{l}\" (stream, payload, schema_version, created_at) "
                                   "FROM STDIN (FORMAT binary)";
    struct chain c = { .b = b };
    bool any = false;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; b->pg->has_log && i < b->count && !any; i++)
        any = b->ids[i] != 0;
    if (!any)
        return LEDGER_OK;
    if (copy)
        rc = load_origins(&c, &c.by_copy, err);
    if (rc == LEDGER_OK && c.by_copy)
        rc = ldg_pg_copy_open(&c.copy, b, copy_log, err);
    if (rc != LEDGER_OK) {
        err->done_count = SIZE_MAX;
        return rc;
    }
    rc = log_all(&c, err);
    if (c.by_copy && rc == LEDGER_OK) {
        rc = ldg_pg_copy_close(&c.copy, err);
        if (rc != LEDGER_OK)
            err->done_count = SIZE_MAX;
    }
    return rc;
}
