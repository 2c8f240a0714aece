/* Bridged mutations in the sink's own log, so that bridges can be chained.
 *
 * Hides how an event names its origin. Invariant: one event comes, one goes out, in the transaction
 * that applied it; what changed nothing here writes none. */
#include "backend/sqlite/apply.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* "uuid:epoch" of an origin; lives until two others are asked for. */
static ledger_rc origin_text(struct ldg_sqlite_batch *b, int number, const char **ret_text,
                             ledger_error *err)
{
    struct ldg_identity identity = b->s->identity;
    struct origin_text *item = NULL;
    sqlite3_stmt *stmt = NULL;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; i < b->origin_text_count; i++) {
        if (b->origin_texts[i].number == number)
            item = &b->origin_texts[i];
    }
    if (item != NULL)
        goto out;
    if (number != 0) {
        stmt = ldg_sqlite_stmt(b->s, LDG_STMT_ORIGIN_IDENTITY, err);
        if (stmt == NULL)
            return err->code;
        int code = sqlite3_bind_int(stmt, 1, number);
        if (code == SQLITE_OK)
            code = sqlite3_step(stmt);
        if (code == SQLITE_ROW)
            rc = ldg_sqlite_take_identity(b->s, stmt, 0, &identity, err);
        else if (code == SQLITE_DONE)
            rc = ldg_fail(err, LEDGER_ERR_SCHEMA, "table \"%s_origins\" has no row %d", b->s->table,
                          number);
        else
            rc = ldg_sqlite_fail(b->s, code, "looking for an origin", err);
        sqlite3_reset(stmt);
        if (rc != LEDGER_OK)
            goto out;
    }
    /* never the one that was asked for last: an event may name both */
    item = &b->origin_texts[b->origin_text_count < 2 ? b->origin_text_count++
                                                     : 1 - b->origin_text_last];
    item->number = number;
    snprintf(item->text, sizeof(item->text), "%s:%" PRId64, identity.uuid, identity.epoch);
out:
    if (rc == LEDGER_OK) {
        b->origin_text_last = (size_t)(item - b->origin_texts);
        *ret_text = item->text;
    }
    return rc;
}

/* Writes the event of the appends that were gathered: one event came, one goes out. */
ledger_rc ldg_sqlite_chain_flush(struct ldg_sqlite_batch *b, ledger_error *err)
{
    ledger_mutation_event event;
    ledger_rc rc = LEDGER_OK;

    if (b->chain_count == 0)
        goto out;
    event = ldg_op_event(b->chain_op, b->now_us);
    event.created_at_us = b->chain[0].created_at_us;
    rc = origin_text(b, b->chain_op->mutation_origin, &event.origin, err);
    if (rc == LEDGER_OK && b->chain_op->origin != b->chain_op->mutation_origin)
        rc = origin_text(b, b->chain_op->origin, &event.entry_origin, err);
    if (rc != LEDGER_OK)
        goto out;
    event.entries = b->chain;
    event.entry_count = b->chain_count;
    rc = ldg_sqlite_log_event(b->s, &event, b->now_us, err);
    b->chain_count = 0;
out:
    return rc;
}

static ledger_rc id_text(struct ldg_sqlite_batch *b, int64_t id, const char **ret_text,
                         ledger_error *err)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRId64, id);
    *ret_text = ldg_arena_strdup(&b->s->scratch, text);
    return *ret_text != NULL ? LEDGER_OK : ldg_fail_nomem(err);
}

ledger_rc ldg_sqlite_chain_append(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t id,
                                  ledger_error *err)
{
    ledger_append_entry entry = *op->entry;
    ledger_rc rc = LEDGER_OK;

    if (!b->s->has_log)
        goto out;
    if (b->chain_count > 0 && (b->chain_op->event_index != op->event_index ||
                               strcmp(b->chain_op->stream, op->stream) != 0)) {
        rc = ldg_sqlite_chain_flush(b, err);
        if (rc != LEDGER_OK)
            goto out;
    }
    if (b->chain == NULL) {
        b->chain = ldg_arena_calloc(&b->s->scratch, b->count, sizeof(*b->chain));
        if (b->chain == NULL) {
            rc = ldg_fail_nomem(err);
            goto out;
        }
    }
    rc = id_text(b, id, &entry.id, err);
    if (rc == LEDGER_OK)
        rc = id_text(b, op->key.number, &entry.source_id, err);
    if (rc != LEDGER_OK)
        goto out;
    entry.created_at_us = op->time_us != LEDGER_NO_TIME ? op->time_us : b->now_us;
    b->chain[b->chain_count++] = entry;
    b->chain_op = op;
out:
    return rc;
}

/* A change (id: of the entry here) or a trim (the highest that it deletes). */
ledger_rc ldg_sqlite_chain_change(struct ldg_sqlite_batch *b, const struct ldg_op *op, int64_t id,
                                  ledger_error *err)
{
    ledger_mutation_event event = ldg_op_event(op, b->now_us);
    const char *id_here, *source_id;
    ledger_rc rc = LEDGER_OK;

    if (!b->s->has_log)
        goto out;
    rc = ldg_sqlite_chain_flush(b, err);
    if (rc == LEDGER_OK)
        rc = origin_text(b, op->mutation_origin, &event.origin, err);
    if (rc == LEDGER_OK)
        rc = id_text(b, id, &id_here, err);
    if (rc == LEDGER_OK)
        rc = id_text(b, op->key.number, &source_id, err);
    if (rc == LEDGER_OK)
        ldg_op_event_ids(op, id_here, source_id, &event);
    if (rc == LEDGER_OK && op->origin != op->mutation_origin)
        rc = origin_text(b, op->origin, &event.entry_origin, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = ldg_sqlite_log_event(b->s, &event, b->now_us, err);
out:
    return rc;
}
