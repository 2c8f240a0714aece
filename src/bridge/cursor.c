/* The cursor: where the next batch begins. The only owner of positions.
 *
 * The text that counts is the row's `state`, issued by the source; the column `cursor` beside it is
 * the position in the reference's form. The Go bridge knows only that column, and so does a person
 * with a SQL prompt. So when the two disagree the lower one wins: going back only repeats what the
 * sink already has, going forward would lose events. A batch never moves that column back: where Go
 * has run ahead, its position stays until ours has passed it.
 *
 * A sink that keeps no cursors has them in a state store. */
#include <stdio.h>
#include <string.h>

#include "bridge/stages.h"

ledger_rc ldg_cursor_not_lost(const char *name, const struct ldg_cursor *row, ledger_error *err)
{
    if (strcmp(row->state, LDG_CURSOR_LOST) != 0)
        return LEDGER_OK;
    return ldg_fail(
        err, LEDGER_ERR_CURSOR_MISMATCH,
        "cursor \"%s\" stands at \"%s\", but the sink's tables were made anew since: what "
        "was carried before is not in them. Carry all of it again with `ledgerctl bridge "
        "cursor reset --name %s`, or go on from a position on purpose with `ledgerctl "
        "bridge cursor set --allow-skip`",
        name, row->readable, name);
}

/* Position in the column `cursor`; false: it holds none. */
static ledger_rc readable_position(const struct ldg_cursor_keeper *cursor, int64_t *ret_position,
                                   ledger_error *err)
{
    ledger_id id = { 0 };
    if (cursor->row.readable[0] == '\0') {
        *ret_position = 0;
        return LEDGER_OK;
    }
    if (cursor->codec->decode(cursor->row.readable, &id, NULL) != LEDGER_OK || id.text != NULL)
        return ldg_fail(err, LEDGER_ERR_DATA,
                        "cursor \"%s\" holds \"%s\", which is no position; set it with "
                        "`ledgerctl bridge cursor set`",
                        cursor->name, cursor->row.readable);
    *ret_position = id.number;
    return LEDGER_OK;
}

/* The new cursor is made before the old one is asked what it has left out: for the new one all up
 * to its position is carried that it sees, so nothing may be committed there between the two looks.
 */
ledger_rc ldg_cursor_back(ledger_store *source, const char *state, int64_t position,
                          char ret_state[LDG_CURSOR_STATE_MAX], int64_t *ret_position,
                          ledger_error *err)
{
    struct ldg_log_stat stat;
    bool again = true;
    ledger_rc rc = LEDGER_OK;
    while (rc == LEDGER_OK && again) {
        rc = ldg_store_log_cursor_at(source, position, ret_state, err);
        if (rc == LEDGER_OK)
            rc = ldg_store_log_stat(source, state, &stat, err);
        again =
            rc == LEDGER_OK && stat.backlog_count > 0 && stat.lowest <= position && position > 0;
        if (again)
            position = stat.lowest > 0 ? stat.lowest - 1 : 0;
    }
    if (rc == LEDGER_OK)
        *ret_position = position;
    return rc;
}

ledger_rc ldg_cursor_load(struct ldg_cursor_keeper *cursor, ledger_store *source, bool create,
                          bool *ret_adopt, ledger_error *err)
{
    int64_t readable = 0, position = 0;
    bool adopt = false;
    ledger_rc rc = ldg_store_cursor_get(cursor->store, cursor->name, create, &cursor->row, err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_cursor_not_lost(cursor->name, &cursor->row, err);
    if (rc == LEDGER_OK)
        rc = readable_position(cursor, &readable, err);
    if (rc != LEDGER_OK)
        return rc;
    if (cursor->row.state[0] == '\0') {
        cursor->from[0] = '\0';
        if (readable > 0) { /* the Go bridge was here */
            adopt = true;
            rc = ldg_store_log_cursor_at(source, readable, cursor->from, err);
        }
    } else {
        rc = ldg_store_log_check(source, cursor->row.state, &position, err);
        if (rc != LEDGER_OK)
            return rc;
        (void)snprintf(cursor->from, sizeof(cursor->from), "%s", cursor->row.state);
        if (cursor->row.readable[0] != '\0' && readable < position)
            rc = ldg_cursor_back(source, cursor->row.state, readable, cursor->from, &position, err);
        else if (readable > position)
            adopt = true;
    }
    if (rc == LEDGER_OK) {
        cursor->loaded = true;
        *ret_adopt = adopt;
    }
    return rc;
}

ledger_rc ldg_cursor_restart(struct ldg_cursor_keeper *cursor, ledger_store *source,
                             ledger_error *err)
{
    struct ldg_cursor *next = ldg_malloc(sizeof(*next));
    ledger_rc rc = next != NULL ? LEDGER_OK : ldg_fail_nomem(err);
    if (rc == LEDGER_OK) {
        *next = cursor->row;
        next->moved_at_us = ldg_clock_now_us();
        rc = ldg_store_log_cursor_at(source, 0, next->state, err);
    }
    if (rc == LEDGER_OK)
        rc = ldg_store_origin_unguard(cursor->store, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_cursor_set(cursor->store, cursor->name, &cursor->row, next, err);
    if (rc == LEDGER_OK)
        ldg_cursor_moved(cursor, next);
    ldg_free(next);
    return rc;
}

ledger_rc ldg_cursor_look(struct ldg_cursor_keeper *cursor, ledger_store *source,
                          int64_t *ret_position, ledger_error *err)
{
    int64_t position = 0;
    ledger_rc rc = ldg_store_cursor_get(cursor->store, cursor->name, false, &cursor->row, err);
    if (rc == LEDGER_OK)
        rc = ldg_cursor_not_lost(cursor->name, &cursor->row, err);
    if (rc == LEDGER_OK && cursor->row.state[0] != '\0') {
        rc = ldg_store_log_check(source, cursor->row.state, &position, err);
        (void)snprintf(cursor->from, sizeof(cursor->from), "%s", cursor->row.state);
    } else if (rc == LEDGER_OK) {
        rc = readable_position(cursor, &position, err);
        cursor->from[0] = '\0';
        if (rc == LEDGER_OK && position > 0)
            rc = ldg_store_log_cursor_at(source, position, cursor->from, err);
    }
    if (rc == LEDGER_OK)
        *ret_position = position;
    return rc;
}

ledger_rc ldg_cursor_of_go(const struct ldg_cursor_keeper *cursor, char name[LDG_CURSOR_NAME_MAX],
                           ledger_error *err)
{
    ledger_names names = { 0 };
    struct ldg_cursor *row = ldg_calloc(1, sizeof(*row));
    ledger_rc rc =
        row == NULL ? ldg_fail_nomem(err) : ldg_store_cursor_list(cursor->store, &names, err);
    name[0] = '\0';
    for (size_t i = 0; i < names.count && rc == LEDGER_OK && name[0] == '\0'; i++) {
        if (strcmp(names.items[i], cursor->name) == 0)
            continue;
        rc = ldg_store_cursor_get(cursor->store, names.items[i], false, row, err);
        if (rc == LEDGER_ERR_NOT_FOUND)
            rc = LEDGER_OK;
        else if (rc == LEDGER_OK && row->state[0] == '\0' && row->readable[0] != '\0')
            (void)snprintf(name, LDG_CURSOR_NAME_MAX, "%s", names.items[i]);
    }
    ledger_names_destroy(&names);
    ldg_free(row);
    return rc;
}

ledger_rc ldg_cursor_next(const struct ldg_cursor_keeper *cursor, const struct ldg_cursor *before,
                          const struct ldg_log_batch *batch, struct ldg_cursor *ret_next,
                          ledger_error *err)
{
    ledger_id id = { .number = batch->next_position }, old = { 0 };
    if (before->readable[0] != '\0' &&
        cursor->codec->decode(before->readable, &old, NULL) == LEDGER_OK && old.number > id.number)
        id.number = old.number;
    ret_next->moved_at_us = ldg_clock_now_us();
    (void)snprintf(ret_next->state, sizeof(ret_next->state), "%s", batch->next_state);
    return cursor->codec->encode(id, ret_next->readable, err);
}

void ldg_cursor_moved(struct ldg_cursor_keeper *cursor, const struct ldg_cursor *next)
{
    cursor->row = *next;
    (void)snprintf(cursor->from, sizeof(cursor->from), "%s", next->state);
}
