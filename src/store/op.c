/* What an op and its fence mean, whatever the database: for the backends, so that none has an
 * opinion of its own. Pure: no I/O, no state. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "event/event.h"
#include "store/backend.h"

ledger_mutation_type ldg_op_type(enum ldg_op_kind kind)
{
    static const ledger_mutation_type types[] = {
        [LDG_OP_APPEND] = LEDGER_MUTATION_APPEND,
        [LDG_OP_SET_TAGS] = LEDGER_MUTATION_SET_TAGS,
        [LDG_OP_SET_ANNOTATIONS] = LEDGER_MUTATION_SET_ANNOTATIONS,
        [LDG_OP_TRIM] = LEDGER_MUTATION_TRIM,
        [LDG_OP_PARK] = LEDGER_MUTATION_UNKNOWN,
    };

    return types[kind];
}

bool ldg_op_was_made_here(const struct ldg_op *op)
{
    return op->mutation_origin == 0 && op->kind != LDG_OP_APPEND && op->kind != LDG_OP_PARK;
}

bool ldg_op_any_known(const struct ldg_op *ops, const uint8_t *outcomes, size_t count)
{
    bool known = false;

    for (size_t i = 0; i < count && !known; i++)
        known = ops[i].kind == LDG_OP_APPEND &&
                (outcomes[i] == LDG_OUTCOME_REPLAYED || outcomes[i] == LDG_OUTCOME_DEDUPLICATED);
    return known;
}

ledger_mutation_event ldg_op_event(const struct ldg_op *op, int64_t now_us)
{
    const int64_t time_us = op->time_us != LEDGER_NO_TIME ? op->time_us : now_us;
    ledger_mutation_event event = ldg_event_blank(ldg_op_type(op->kind), op->stream, time_us);

    event.tags = op->tags;
    event.annotations = op->annotations;
    event.origin_pos = op->position;
    return event;
}

void ldg_op_event_ids(const struct ldg_op *op, const char *id, const char *source_id,
                      ledger_mutation_event *event)
{
    if (op->kind == LDG_OP_TRIM)
        event->before_id = id;
    else
        event->entry_id = id;
    event->source_id = source_id;
}

void ldg_op_delivery_key(const struct ldg_op *op, char text[LDG_DELIVERY_KEY_MAX])
{
    const int size = snprintf(text, LDG_DELIVERY_KEY_MAX, "%s:%" PRId64 ":%" PRId64,
                              op->source_uuid, op->source_epoch, op->log_position);

    if (op->parts > 1)
        snprintf(text + size, LDG_DELIVERY_KEY_MAX - (size_t)size, ":%" PRIu32, op->part);
}

/* --- is it the same entry? ------------------------------------------------------------------- */

static bool bytes_equal(ledger_bytes a, ledger_bytes b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static bool text_equal(ledger_bytes stored, const char *text)
{
    return bytes_equal(stored, (ledger_bytes){ text, strlen(text) });
}

static bool time_equal(int64_t a, int64_t b)
{
    const int64_t unit = LDG_TIME_COARSEST_US;

    return a / unit - (a % unit < 0) == b / unit - (b % unit < 0);
}

ledger_rc ldg_op_compare(const struct ldg_op *op, const struct ldg_stored *stored,
                         struct ldg_arena *arena, const char **ret_field, ledger_error *err)
{
    const ledger_append_entry *entry = op->entry;
    /* An event of Go's without its row has the payload in Go's form, and no time of the entry; a
     * row that Go's bridge wrote may lack what that did not carry. */
    const bool exact = !op->inexact && !stored->by_go;
    const bool timed =
        exact && op->time_us != LEDGER_NO_TIME && stored->created_at_us != LEDGER_NO_TIME;
    ledger_map ours, theirs;
    ledger_rc rc = ldg_map_sort(entry->metadata, arena, &ours, err);

    if (rc == LEDGER_OK)
        rc = ldg_map_sort(stored->metadata, arena, &theirs, err);
    if (rc != LEDGER_OK)
        return rc;
    *ret_field = NULL;
    if (!text_equal(stored->stream, op->stream))
        *ret_field = "stream";
    else if (!bytes_equal(stored->payload, entry->payload) &&
             (exact || !ldg_json_equal_in_go(stored->payload, entry->payload)))
        *ret_field = "payload";
    else if (!text_equal(stored->order_key, entry->order_key))
        *ret_field = "order_key";
    else if (!text_equal(stored->dedup_key, entry->dedup_key))
        *ret_field = "dedup_key";
    else if (stored->schema_version != entry->schema_version)
        *ret_field = "schema_version";
    else if (!(stored->by_go && theirs.count == 0) && !ldg_map_equal(theirs, ours))
        *ret_field = "metadata";
    else if (timed && !time_equal(stored->created_at_us, op->time_us))
        *ret_field = "created_at";
    return LEDGER_OK;
}

ledger_rc ldg_op_fail_reused(const struct ldg_op *op, const char *field, ledger_error *err)
{
    char id[LEDGER_ID_TEXT_MAX];

    if (op->origin == 0)
        return ldg_fail(err, LEDGER_ERR_POSITION_REUSED,
                        "entry %s of stream \"%.80s\" was written here, and comes back "
                        "with another %s. This store was restored or lost commits, and gives ids "
                        "out twice: put the newer one back, or give this one an identity of its "
                        "own (`ledgerctl store init --new-identity`)",
                        ldg_id_text(op->key, id), op->stream, field);
    return ldg_fail(err, LEDGER_ERR_POSITION_REUSED,
                    "entry %s of stream \"%.80s\" was carried before with another %s. A "
                    "source that was restored or lost commits gives ids out twice: put the newer "
                    "one back, or bridge it into a new, empty sink table. A copied store that "
                    "lives on beside the first needs an identity of its own: `ledgerctl store "
                    "init --new-identity` on the source",
                    ldg_id_text(op->key, id), op->stream, field);
}

ledger_rc ldg_cursor_fail(const char *state, const char *kind, const char *shown, ledger_error *err)
{
    const size_t size = strspn(state, "abcdefghijklmnopqrstuvwxyz");
    const bool is_own = size == strlen(kind) && strncmp(state, kind, size) == 0;

    if (size > 0 && size < 32 && !is_own && strncmp(state + size, ":1:", 3) == 0)
        return ldg_fail(err, LEDGER_ERR_CURSOR_MISMATCH,
                        "the cursor belongs to a %.*s source, and this is a %s source: give the "
                        "bridge of this one another --name, or set the cursor on purpose with "
                        "`ledgerctl bridge cursor set`",
                        (int)size, state, kind);
    return ldg_fail(err, LEDGER_ERR_DATA,
                    "not a cursor of a %s source: \"%.80s\"; rewind the bridge with `ledgerctl "
                    "bridge cursor set`",
                    shown, state);
}

ledger_rc ldg_cursor_compare(const char *name, const struct ldg_cursor *found,
                             const struct ldg_cursor *expected, ledger_error *err)
{
    if (!found)
        return ldg_fail(err, LEDGER_ERR_FENCED, "cursor \"%s\" was deleted", name);
    if (strcmp(found->state, expected->state) != 0 ||
        strcmp(found->readable, expected->readable) != 0)
        return ldg_fail(err, LEDGER_ERR_FENCED,
                        "another bridge has moved cursor \"%s\" from \"%s\" to \"%s\"", name,
                        expected->readable, found->readable);
    return LEDGER_OK;
}

ledger_rc ldg_schema_fail_origins(const char *where, const char *table, ledger_error *err)
{
    return ldg_fail(
        err, LEDGER_ERR_SCHEMA,
        "%s: table \"%s\" holds entries of other stores, and table \"%s_origins\", which "
        "says of which, is gone: put that one back from a backup, or bridge into a new, "
        "empty table (--table)",
        where, table, table);
}

ledger_rc ldg_schema_fail_kept_out(const char *table, const char *name, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_SCHEMA,
                    "a trigger or a rule of table \"%s_%s\" keeps rows out: drop it", table, name);
}

ledger_rc ldg_log_fail_lowest(const char *log_table, int64_t lowest, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_SCHEMA,
                    "mutation log \"%s\" holds a row with the id %" PRId64
                    ": ids begin at 1, and a "
                    "row below is never carried; write it again without an id, and delete this one",
                    log_table, lowest);
}

ledger_rc ldg_op_fail_foreign(const struct ldg_op *op, const char *table, ledger_error *err)
{
    char id[LEDGER_ID_TEXT_MAX];

    return ldg_fail(err, LEDGER_ERR_FOREIGN_BRIDGE,
                    "entry %s of stream \"%.80s\" is in table \"%s\" already: the Go "
                    "module's bridge has carried it, and both at once are not supported. Stop the "
                    "Go bridge for good, then start this one again: it takes over what the other "
                    "has carried",
                    ldg_id_text(op->key, id), op->stream, table);
}

bool ldg_op_survives(const struct ldg_op *op, ledger_id key)
{
    size_t low = 0, high = op->survivor_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (ldg_id_compare(op->survivors[middle], key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < op->survivor_count && ldg_id_equal(op->survivors[low], key);
}

bool ldg_op_trims(const struct ldg_op *op, ledger_id key)
{
    return ldg_id_is_up_to(key, op->key) && !ldg_op_survives(op, key);
}

ledger_rc ldg_op_parked_event(const struct ldg_op *op, struct ldg_buf *buf, ledger_bytes *ret_event,
                              ledger_error *err)
{
    struct ldg_arena arena;
    ledger_mutation_event event;
    ledger_append_entry entry;
    ledger_bytes result = op->event;
    ledger_error ignored = { 0 };
    ledger_rc rc = LEDGER_OK;

    ldg_arena_init(&arena, 0);
    if (op->kind != LDG_OP_APPEND)
        goto out;
    rc = ldg_event_decode(op->event, &arena, &event, &ignored);
    if (rc == LEDGER_ERR_NOMEM) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    if (rc != LEDGER_OK || event.entry_count <= 1) { /* as it was read is best */
        rc = LEDGER_OK;
        goto out;
    }
    entry = *op->entry;
    if (entry.created_at_us == LEDGER_NO_TIME)
        entry.created_at_us = op->time_us;
    event.entries = &entry;
    event.entry_count = 1;
    rc = ldg_event_encode(&event, buf, err);
    result = (ledger_bytes){ .data = buf->data, .size = buf->size };
out:
    ldg_arena_fini(&arena);
    if (rc == LEDGER_OK)
        *ret_event = result;
    return rc;
}
