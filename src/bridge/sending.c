/* Which events a delivery is made of: a sink that keeps no state may join several into one request,
 * and a request that comes again has to be the same, byte for byte. After a failure the same events
 * are read again, and new ones with them. So they are numbered: those that were there at the first
 * try 1, what came with the second 2, and a request joins only events of one number.
 *
 * Hides how this outlives the process: before the first of a batch is sent, its numbers stand in
 * the state store, in a row of the bridge's own beside its cursor. Writing it is a fence, too: of
 * two bridges of one name only one goes on. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/hash.h"
#include "bridge/stages.h"

#define SUFFIX "/sending"
#define ITEMS_MAX ((size_t)1 << 21)

bool ldg_sending_is_name(const char *name)
{
    const size_t size = strlen(name), suffix = strlen(SUFFIX);
    return size >= suffix && strcmp(name + size - suffix, SUFFIX) == 0;
}

void ldg_sending_fini(struct ldg_sending *sending)
{
    ldg_free(sending->items);
    memset(sending, 0, sizeof(*sending));
}

static void forget(struct ldg_sending *sending)
{
    sending->count = 0;
    sending->last = 0;
    sending->is_cut = false;
}

static ledger_rc reserve(struct ldg_sending *sending, size_t count, ledger_error *err)
{
    if (count <= sending->cap)
        return LEDGER_OK;
    void *items = ldg_realloc(sending->items, count * sizeof(*sending->items));
    if (items == NULL)
        return ldg_fail_nomem(err);
    sending->items = items;
    sending->cap = count;
    return LEDGER_OK;
}

static int by_position(const void *a, const void *b)
{
    const struct ldg_sent *x = a, *y = b;
    return (x->position > y->position) - (x->position < y->position);
}

static int by_rank(const void *a, const void *b)
{
    const struct ldg_sent *x = a, *y = b;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* They come in order, but for what other tries have left between them. */
static void sort(struct ldg_sending *sending, int (*compare)(const void *a, const void *b))
{
    size_t i = 1;
    while (i < sending->count && compare(&sending->items[i - 1], &sending->items[i]) <= 0)
        i++;
    if (i < sending->count)
        qsort(sending->items, sending->count, sizeof(*sending->items), compare);
}

/* --- as text ---------------------------------------------------------------------------------- */

/* "1 HASH/100 1x99/200 1x3": the form, what the cursor was, and of each number the positions: each
 * as its distance from the one before it, and how often that comes in a row. "+" at its end: there
 * was no room for all. */
#define FORM "1 %016" PRIx64

static size_t run_of(const struct ldg_sent *items, size_t count, int64_t distance)
{
    size_t run = 1;
    while (run < count && items[run].number == items[0].number &&
           items[run].position - items[run - 1].position == distance)
        run++;
    return run;
}

/* Items in order of rank. Returns how many found room in `text`. */
static size_t write_items(uint64_t from_hash, const struct ldg_sent *items, size_t count,
                          char text[LDG_CURSOR_STATE_MAX])
{
    int used = snprintf(text, LDG_CURSOR_STATE_MAX, FORM, from_hash);
    size_t done = 0;
    while (done < count) {
        const bool is_first = done == 0 || items[done - 1].number != items[done].number;
        const int64_t distance = items[done].position - (is_first ? 0 : items[done - 1].position);
        const size_t run = is_first ? 1 : run_of(items + done, count - done, distance);
        const size_t room = LDG_CURSOR_STATE_MAX - 1 - (size_t)used; /* the "+" has its own */
        const int n =
            run > 1 ? snprintf(text + used, room, " %" PRId64 "x%zu", distance, run)
                    : snprintf(text + used, room, "%c%" PRId64, is_first ? '/' : ' ', distance);
        if (n < 0 || (size_t)n >= room) {
            memcpy(text + used, "+", 2);
            break;
        }
        used += n;
        done += run;
    }
    return done;
}

/* One token; false: there is none, or it is none of ours. */
static bool read_token(const char **at, bool *ret_is_first, int64_t *ret_distance, size_t *ret_run)
{
    char *end;
    if (**at != '/' && **at != ' ')
        return false;
    *ret_is_first = **at == '/';
    *ret_distance = strtoll(*at + 1, &end, 10);
    *ret_run = 1;
    if (end == *at + 1)
        return false;
    if (*end == 'x') {
        const char *digits = end + 1;
        *ret_run = strtoull(digits, &end, 10);
        if (end == digits)
            return false;
    }
    *at = end;
    return *ret_run > 0 && *ret_run <= ITEMS_MAX;
}

/* Whoever wrote something else there has made it forgotten: then nothing was sent before. */
static ledger_rc read_items(struct ldg_sending *sending, const char *text, uint64_t from_hash,
                            ledger_error *err)
{
    char head[32];
    int64_t distance, position = 0;
    bool is_first;
    size_t run;
    const int size = snprintf(head, sizeof(head), FORM, from_hash);
    forget(sending);
    if (strncmp(text, head, (size_t)size) != 0)
        return LEDGER_OK;
    for (const char *at = text + size; *at != '\0';) {
        if (strcmp(at, "+") == 0) {
            sending->is_cut = true;
            break;
        }
        if (!read_token(&at, &is_first, &distance, &run) || sending->count + run > ITEMS_MAX ||
            (sending->last == 0 && !is_first)) {
            forget(sending);
            return LEDGER_OK;
        }
        if (sending->count + run > sending->cap) {
            ledger_rc rc = reserve(sending, 2 * (sending->count + run), err);
            if (rc != LEDGER_OK)
                return rc;
        }
        sending->last += is_first;
        if (is_first)
            position = 0;
        for (size_t i = 0; i < run; i++) {
            position = (int64_t)((uint64_t)position + (uint64_t)distance);
            sending->items[sending->count] = (struct ldg_sent){ .position = position,
                                                                .number = sending->last,
                                                                .rank = (uint32_t)sending->count };
            sending->count++;
        }
    }
    return LEDGER_OK;
}

/* --- in the state store ----------------------------------------------------------------------- */

static ledger_rc load(struct ldg_sending *sending, ledger_store *state, const char *name,
                      uint64_t from_hash, ledger_error *err)
{
    ledger_rc rc = ldg_store_cursor_get(state, name, true, &sending->row, err);
    if (rc == LEDGER_OK)
        rc = read_items(sending, sending->row.state, from_hash, err);
    if (rc == LEDGER_OK) {
        sort(sending, by_position);
        sending->from_hash = from_hash;
        sending->is_loaded = true;
    }
    return rc;
}

/* Writes all items. Those that find no room in the row get a number each: nobody would know any
 * more what they were joined with. */
static ledger_rc keep(struct ldg_sending *sending, ledger_store *state, const char *name,
                      ledger_error *err)
{
    struct ldg_cursor *next = ldg_calloc(1, sizeof(*next));
    if (next == NULL)
        return ldg_fail_nomem(err);
    sort(sending, by_rank);
    const size_t kept =
        write_items(sending->from_hash, sending->items, sending->count, next->state);
    next->moved_at_us = ldg_clock_now_us();
    ledger_rc rc = ldg_store_cursor_set(state, name, &sending->row, next, err);
    if (rc == LEDGER_OK) {
        sending->is_cut = kept < sending->count;
        for (size_t i = kept; i < sending->count; i++)
            sending->items[i].number = ++sending->last;
        sending->row = *next;
    }
    sort(sending, by_position);
    ldg_free(next);
    return rc;
}

/* --- a batch ---------------------------------------------------------------------------------- */

static const struct ldg_sent *find(const struct ldg_sending *sending, size_t count,
                                   int64_t position)
{
    const struct ldg_sent wanted = { .position = position };
    return count == 0 ? NULL : bsearch(&wanted, sending->items, count, sizeof(wanted), by_position);
}

/* Adds the events that no earlier try had, with the next number; one each where some of an earlier
 * try may be among them that found no room in the row. */
static ledger_rc add_new(struct ldg_sending *sending, const struct ldg_op *ops, size_t count,
                         size_t *ret_new, ledger_error *err)
{
    const size_t known = sending->count;
    ledger_rc rc = reserve(sending, known + count, err);
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        const int64_t position = ops[i].log_position;
        if ((i > 0 && ops[i - 1].log_position == position) ||
            find(sending, known, position) != NULL)
            continue;
        sending->last += sending->count == known || sending->is_cut;
        sending->items[sending->count] = (struct ldg_sent){ .position = position,
                                                            .number = sending->last,
                                                            .rank = (uint32_t)sending->count };
        sending->count++;
    }
    *ret_new = sending->count - known;
    return rc;
}

/* Ops come in the order of the items, so the one behind the last is it, as a rule. */
static void number_ops(const struct ldg_sending *sending, struct ldg_op *ops, size_t count)
{
    const struct ldg_sent *at = sending->items, *end = at + sending->count;
    for (size_t i = 0; i < count; i++) {
        const int64_t position = ops[i].log_position;
        if (at + 1 < end && at->position != position)
            at++;
        if (at->position != position)
            at = find(sending, sending->count, position);
        ops[i].delivery = at->number;
    }
}

ledger_rc ldg_sending_begin(struct ldg_sending *sending, ledger_store *state,
                            const struct ldg_cursor_keeper *cursor, struct ldg_op *ops,
                            size_t count, ledger_error *err)
{
    const uint64_t from_hash = ldg_hash64(cursor->from, strlen(cursor->from), 0);
    char name[LDG_CURSOR_NAME_MAX + sizeof(SUFFIX)];
    size_t added = 0;
    ledger_rc rc = LEDGER_OK;
    (void)snprintf(name, sizeof(name), "%s" SUFFIX, cursor->name);
    if (!sending->is_loaded)
        rc = load(sending, state, name, from_hash, err);
    if (sending->from_hash != from_hash) {
        forget(sending);
        sending->from_hash = from_hash;
    }
    if (rc == LEDGER_OK)
        rc = add_new(sending, ops, count, &added, err);
    if (rc == LEDGER_OK && added > 0)
        rc = keep(sending, state, name, err);
    if (rc != LEDGER_OK) { /* what the row holds is asked for again */
        sending->is_loaded = false;
        return rc;
    }
    number_ops(sending, ops, count);
    return LEDGER_OK;
}
