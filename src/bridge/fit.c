/* At a start: do sink and source fit what the sink's cursors say?
 *
 * A cursor proves its own source by the witness. But the cursor of another bridge may name this
 * source's identity and not fit it: then two stores are copies of one, and their entries would be
 * taken for each other's. And a sink that was emptied by hand holds nothing of what its cursor says
 * was carried. Both are looked for here, once per set of handles. */
#include <string.h>

#include "bridge/stages.h"

/* So much of the beginning of the log is looked at. */
#define LOOK_ROWS 500
#define LOOK_BYTES ((size_t)1024 * 1024)
#define PARKED_ROWS 64

static ledger_rc fail_copies(const char *other, ledger_error *err)
{
    return ldg_fail(
        err, LEDGER_ERR_CURSOR_MISMATCH,
        "cursor \"%s\" of this sink was left by a source of the same identity, but what it "
        "carried last is not in this one: the two are copies of one store. Give the copy an "
        "identity of its own with `ledgerctl store init --new-identity`; if that cursor is "
        "an old one of this very source, forget it with `ledgerctl bridge cursor reset "
        "--name %s`",
        other, other);
}

/* A source that moved to another cluster does not fit (CURSOR_MISMATCH), either, and is no copy. */
ledger_rc ldg_fit_check_others(const struct ldg_cursor_keeper *cursor, ledger_store *source,
                               ledger_error *err)
{
    struct ldg_cursor *row = ldg_calloc(1, sizeof(*row));
    ledger_names names = { 0 };
    ledger_error why;
    int64_t ignored;
    ledger_rc rc =
        row == NULL ? ldg_fail_nomem(err) : ldg_store_cursor_list(cursor->store, &names, err);
    for (size_t i = 0; rc == LEDGER_OK && i < names.count; i++) {
        if (strcmp(names.items[i], cursor->name) == 0 || ldg_sending_is_name(names.items[i]))
            continue;
        rc = ldg_store_cursor_get(cursor->store, names.items[i], false, row, &why);
        if (rc == LEDGER_OK && row->state[0] != '\0')
            rc = ldg_store_log_check(source, row->state, &ignored, &why);
        if (rc == LEDGER_ERR_SOURCE_REWOUND)
            rc = fail_copies(names.items[i], err);
        else if (rc == LEDGER_ERR_NOT_FOUND || rc == LEDGER_ERR_CURSOR_MISMATCH ||
                 rc == LEDGER_ERR_DATA) /* gone, of another source, or of another kind of one */
            rc = LEDGER_OK;
        else if (rc != LEDGER_OK && err != NULL)
            *err = why;
    }
    ledger_names_destroy(&names);
    ldg_free(row);
    return rc;
}

/* Is anything of this origin in the sink? *ret_empty: is the table empty? */
static ledger_rc look_at_sink(ledger_store *sink, int origin, struct ldg_arena *arena,
                              bool *ret_any, bool *ret_empty, ledger_error *err)
{
    struct ldg_history_row *rows = NULL;
    const ledger_read_options first = { .size = sizeof(first), .limit = 1 };
    ledger_batch *batch = NULL;
    size_t count = 0;
    ledger_rc rc =
        ldg_store_history(sink, origin, ldg_id_of(0), 1, LOOK_BYTES, arena, &rows, &count, err);
    *ret_any = count > 0;
    if (rc != LEDGER_OK || *ret_any)
        return rc;
    /* what cannot be read is there */
    *ret_empty = ledger_store_read(sink, NULL, &first, &batch, NULL) == LEDGER_OK &&
                 ledger_batch_count(batch) == 0;
    ledger_batch_destroy(&batch);
    return rc;
}

/* Log positions of this source's parked events: what those would bring is not missed. */
struct kept_aside {
    int64_t positions[LOOK_ROWS];
    size_t count;
    bool is_full; /* there are more */
};

static bool is_aside(const struct kept_aside *aside, int64_t position)
{
    for (size_t i = 0; i < aside->count; i++)
        if (aside->positions[i] == position)
            return true;
    return false;
}

static ledger_rc look_at_parked(ledger_store *sink, const char *source_uuid,
                                struct ldg_arena *arena, struct kept_aside *aside,
                                ledger_error *err)
{
    struct ldg_parked_row *rows = NULL;
    uint64_t left = 0;
    int64_t after = 0;
    size_t count = 1;
    ledger_rc rc = LEDGER_OK;
    if ((ldg_store_caps(sink) & LDG_CAP_PARK) != 0)
        rc = ldg_store_parked_count(sink, source_uuid, &left, err);
    aside->is_full = left > LOOK_ROWS;
    while (rc == LEDGER_OK && count > 0 && aside->count < left && !aside->is_full) {
        ldg_arena_reset(arena);
        rc = ldg_store_parked_list(sink, after, PARKED_ROWS, arena, &rows, &count, err);
        for (size_t i = 0; rc == LEDGER_OK && i < count && aside->count < left; i++) {
            after = rows[i].id;
            if (strcmp(rows[i].source_uuid, source_uuid) == 0)
                aside->positions[aside->count++] = rows[i].log_position;
        }
    }
    return rc;
}

/* Is an entry still in the source that the cursor has passed? One with a dedup key may be a
 * duplicate in the sink, where that holds anything. */
static ledger_rc look_at_source(ledger_store *source, int64_t position, bool keyed,
                                const struct kept_aside *aside, struct ldg_batch *batch,
                                bool *ret_found, ledger_error *err)
{
    const struct ldg_log_limits limits = { .max_count = LOOK_ROWS, .max_bytes = LOOK_BYTES };
    ledger_entry *entries = NULL;
    ledger_id id;
    ledger_rc rc = ldg_store_log_read(source, "", &limits, &batch->log, err);
    if (rc == LEDGER_OK)
        rc = ldg_decode(batch, err);
    for (size_t i = 0; rc == LEDGER_OK && i < batch->log.count && !*ret_found; i++) {
        const ledger_mutation_event *event = &batch->events[i].event;
        if (batch->events[i].bad != NULL || event->type != LEDGER_MUTATION_APPEND ||
            event->origin[0] != '\0' || batch->log.rows[i].position > position ||
            is_aside(aside, batch->log.rows[i].position) ||
            (event->entries[0].dedup_key[0] != '\0' && !keyed) ||
            !ldg_id_parse(event->entries[0].id, &id) || !ldg_store_may_have(source, id))
            continue;
        rc = ldg_store_entries_by_id(source, &id, 1, &batch->log.arena, &entries, err);
        *ret_found = rc == LEDGER_OK && !ldg_id_is_none(entries[0].id);
    }
    return rc;
}

ledger_rc ldg_fit_is_emptied(const struct ldg_cursor_keeper *cursor, ledger_store *source,
                             ledger_store *sink, const struct ldg_origin_cache *origins,
                             bool *ret_emptied, ledger_error *err)
{
    struct ldg_batch *batch = NULL;
    struct kept_aside *aside = NULL;
    struct ldg_arena arena;
    bool any = false, empty = false;
    int64_t position = 0;
    ledger_rc rc = LEDGER_OK;

    *ret_emptied = false;
    if (cursor->row.state[0] == '\0')
        return LEDGER_OK;
    ldg_arena_init(&arena, 0);
    rc = look_at_sink(sink, origins->source, &arena, &any, &empty, err);
    if (rc == LEDGER_OK && !any)
        rc = ldg_store_log_check(source, cursor->from, &position, err);
    if (rc != LEDGER_OK || any || position == 0)
        goto out;
    aside = ldg_calloc(1, sizeof(*aside));
    batch = ldg_calloc(1, sizeof(*batch));
    if (aside == NULL || batch == NULL) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    rc = look_at_parked(sink, origins->source_identity.uuid, &arena, aside, err);
    if (rc != LEDGER_OK || aside->is_full)
        goto out;
    ldg_batch_init(batch);
    rc = look_at_source(source, position, empty, aside, batch, ret_emptied, err);
    ldg_batch_fini(batch);
out:
    ldg_free(batch);
    ldg_free(aside);
    ldg_arena_fini(&arena);
    return rc;
}
