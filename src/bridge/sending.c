/* Which events a delivery is made of: a sink that keeps no state may join several into one request,
 * and a request that comes again has to be the same, byte for byte. After a failure the same events
 * are read again, and new ones with them. So they are numbered: those that were there at the first
 * try 1, what came with the second 2, and a request joins only events of one number. What was read
 * beside the log, from tables that have changed since, is as it was at the first try.
 *
 * Hides how this outlives the process: before the first of a batch is sent, all of it stands in the
 * state store, in a row of the bridge's own beside its cursor. Writing it is a fence, too: of two
 * bridges of one name only one goes on. */
#include <inttypes.h>
#include <stdarg.h>
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
    ldg_free(sending->details);
    ldg_free(sending->values);
    memset(sending, 0, sizeof(*sending));
}

static void forget(struct ldg_sending *sending)
{
    sending->count = 0;
    sending->last = 0;
    sending->is_cut = false;
    sending->detail_count = sending->value_count = 0;
    sending->details_are_cut = false;
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

/* Has room for one more than `count`. NULL: no memory; what is there stays. */
static void *grow(void *items, size_t item_size, size_t count, size_t *cap)
{
    const size_t more = 2 * *cap + 16;
    if (count < *cap)
        return items;
    void *grown = ldg_realloc(items, more * item_size);
    if (grown != NULL)
        *cap = more;
    return grown;
}

static ledger_rc add_detail(struct ldg_sending *sending, int64_t position, uint32_t part,
                            ledger_error *err)
{
    void *details = grow(sending->details, sizeof(*sending->details), sending->detail_count,
                         &sending->detail_cap);
    if (details == NULL)
        return ldg_fail_nomem(err);
    sending->details = details;
    sending->details[sending->detail_count++] = (struct ldg_sent_detail){
        .position = position, .part = part, .first = sending->value_count
    };
    return LEDGER_OK;
}

/* Of the last detail. */
static ledger_rc add_value(struct ldg_sending *sending, int64_t value, ledger_error *err)
{
    void *values =
        grow(sending->values, sizeof(*sending->values), sending->value_count, &sending->value_cap);
    if (values == NULL)
        return ldg_fail_nomem(err);
    sending->values = values;
    sending->values[sending->value_count++] = ldg_id_of(value);
    sending->details[sending->detail_count - 1].count++;
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
 * was no room for all. Behind it the details, "@100.2:1000 @5.0:7,9": position, as its distance
 * from the one before, part, and values; "@+" where there was no room for all. */
#define FORM "1 %016" PRIx64
/* Neither takes room from the other, so what was written once is not left out later. */
#define ITEMS_TEXT_MAX (LDG_CURSOR_STATE_MAX - DETAILS_TEXT_MAX)
#define DETAILS_TEXT_MAX 6144
#define DETAILS_CUT "@+"

/* Whatever stands in the row: they wrap round, and back. */
static int64_t distance_of(int64_t position, int64_t before)
{
    return (int64_t)((uint64_t)position - (uint64_t)before);
}

static int64_t moved(int64_t position, int64_t distance)
{
    return (int64_t)((uint64_t)position + (uint64_t)distance);
}

static size_t run_of(const struct ldg_sent *items, size_t count, int64_t distance)
{
    size_t run = 1;
    while (run < count && items[run].number == items[0].number &&
           distance_of(items[run].position, items[run - 1].position) == distance)
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
        const int64_t distance =
            distance_of(items[done].position, is_first ? 0 : items[done - 1].position);
        const size_t run = is_first ? 1 : run_of(items + done, count - done, distance);
        const size_t room = ITEMS_TEXT_MAX - 1 - (size_t)used; /* the "+" has its own */
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

/* false: there is no room. */
static bool put_text(char *text, size_t *at, size_t end, const char *format, ...)
    LEDGER_PRINTF(4, 5);
static bool put_text(char *text, size_t *at, size_t end, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(text + *at, end - *at, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= end - *at)
        return false;
    *at += (size_t)n;
    return true;
}

static bool put_detail(const struct ldg_sending *sending, size_t i, char *text, size_t *at,
                       size_t end)
{
    const struct ldg_sent_detail *detail = &sending->details[i];
    const int64_t before = i > 0 ? detail[-1].position : 0;
    bool fits = put_text(text, at, end, "@%" PRId64 ".%" PRIu32,
                         distance_of(detail->position, before), detail->part);
    for (size_t k = 0; fits && k < detail->count; k++)
        fits = put_text(text, at, end, "%c%" PRId64, k == 0 ? ':' : ',',
                        sending->values[detail->first + k].number);
    return fits;
}

/* Behind the items. */
static void write_details(const struct ldg_sending *sending, char text[LDG_CURSOR_STATE_MAX])
{
    size_t at = strlen(text), whole = at;
    const size_t end = at + DETAILS_TEXT_MAX - sizeof(DETAILS_CUT) + 1;
    bool fit = true;
    for (size_t i = 0; fit && i < sending->detail_count; i++) {
        fit = put_detail(sending, i, text, &at, end);
        if (fit)
            whole = at;
    }
    memcpy(text + whole, !fit || sending->details_are_cut ? DETAILS_CUT : "",
           !fit || sending->details_are_cut ? sizeof(DETAILS_CUT) : 1);
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

static bool read_number(const char **at, int64_t *ret_number)
{
    char *end;
    *ret_number = strtoll(*at, &end, 10);
    const bool any = end != *at;
    *at = end;
    return any;
}

/* *ret_ours: nobody else has written there. */
static ledger_rc read_details(struct ldg_sending *sending, const char *at, bool *ret_ours,
                              ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    int64_t position = 0, number, part;
    bool ours = true;
    while (rc == LEDGER_OK && ours && *at == '@' && strcmp(at, DETAILS_CUT) != 0) {
        at++;
        ours = read_number(&at, &number) && *at == '.';
        at += ours;
        ours = ours && read_number(&at, &part) && part >= 0 && part <= UINT32_MAX;
        if (!ours)
            break;
        position = moved(position, number);
        rc = add_detail(sending, position, (uint32_t)part, err);
        while (rc == LEDGER_OK && ours && (*at == ':' || *at == ',')) {
            at++;
            ours = read_number(&at, &number);
            if (ours)
                rc = add_value(sending, number, err);
        }
    }
    sending->details_are_cut = strcmp(at, DETAILS_CUT) == 0;
    *ret_ours = ours && (*at == '\0' || sending->details_are_cut);
    return rc;
}

/* Whoever wrote something else there has made it forgotten: then nothing was sent before. */
static ledger_rc read_row(struct ldg_sending *sending, const char *text, uint64_t from_hash,
                          ledger_error *err)
{
    char head[32];
    int64_t distance, position = 0;
    bool is_first, ours;
    size_t run;
    const char *at = text;
    const int size = snprintf(head, sizeof(head), FORM, from_hash);
    forget(sending);
    if (strncmp(text, head, (size_t)size) != 0)
        return LEDGER_OK;
    for (at += size; *at != '\0' && *at != '@';) {
        if (*at == '+' && (at[1] == '\0' || at[1] == '@')) {
            sending->is_cut = true;
            at++;
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
            position = moved(position, distance);
            sending->items[sending->count] = (struct ldg_sent){ .position = position,
                                                                .number = sending->last,
                                                                .rank = (uint32_t)sending->count };
            sending->count++;
        }
    }
    ledger_rc rc = read_details(sending, at, &ours, err);
    if (rc == LEDGER_OK && !ours)
        forget(sending);
    return rc;
}

/* --- in the state store ----------------------------------------------------------------------- */

static ledger_rc load(struct ldg_sending *sending, ledger_store *state, const char *name,
                      uint64_t from_hash, ledger_error *err)
{
    ledger_rc rc = ldg_store_cursor_get(state, name, true, &sending->row, err);
    if (rc == LEDGER_OK)
        rc = read_row(sending, sending->row.state, from_hash, err);
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
    write_details(sending, next->state);
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

/* --- what is new ------------------------------------------------------------------------------ */

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

/* --- what came from other tables ------------------------------------------------------------- */

static bool has_detail(const struct ldg_op *op, bool trims)
{
    return op->kind == LDG_OP_TRIM ? trims
                                   : op->kind == LDG_OP_APPEND && (op->from_row || op->inexact) &&
                                         op->log_time_us != LEDGER_NO_TIME;
}

static ledger_rc note_op(struct ldg_sending *sending, const struct ldg_op *op, ledger_error *err)
{
    const bool is_trim = op->kind == LDG_OP_TRIM;
    ledger_rc rc = LEDGER_OK;
    if (is_trim ? op->survivor_count == 0 : op->time_us == op->log_time_us)
        return LEDGER_OK;
    for (size_t i = 0; i < op->survivor_count; i++) {
        if (op->survivors[i].text != NULL) {
            sending->details_are_cut = true;
            return LEDGER_OK;
        }
    }
    rc = add_detail(sending, op->log_position, op->part, err);
    if (rc == LEDGER_OK && !is_trim)
        rc = add_value(sending, op->time_us - op->log_time_us, err);
    for (size_t i = 0; rc == LEDGER_OK && i < op->survivor_count; i++)
        rc = add_value(sending, op->survivors[i].number, err);
    return rc;
}

static void recall_op(const struct ldg_sending *sending, struct ldg_op *op)
{
    const struct ldg_sent_detail *detail = NULL;
    for (size_t i = 0; detail == NULL && i < sending->detail_count; i++) {
        if (sending->details[i].position == op->log_position &&
            sending->details[i].part == op->part)
            detail = &sending->details[i];
    }
    if (detail == NULL && sending->details_are_cut)
        return;
    if (op->kind == LDG_OP_TRIM) {
        op->survivors = detail != NULL ? sending->values + detail->first : NULL;
        op->survivor_count = detail != NULL ? detail->count : 0;
    } else {
        op->time_us = op->log_time_us;
        if (detail != NULL && detail->count == 1)
            op->time_us = moved(op->log_time_us, sending->values[detail->first].number);
    }
}

/* What earlier tries had, `known` events, becomes as it was then; of the others it is noted. */
static ledger_rc settle_details(struct ldg_sending *sending, size_t known, bool trims,
                                struct ldg_op *ops, size_t count, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        if (has_detail(&ops[i], trims) && find(sending, known, ops[i].log_position) == NULL)
            rc = note_op(sending, &ops[i], err);
    }
    for (size_t i = 0; rc == LEDGER_OK && known > 0 && i < count; i++) {
        if (has_detail(&ops[i], trims) && find(sending, known, ops[i].log_position) != NULL)
            recall_op(sending, &ops[i]);
    }
    return rc;
}

/* --- a batch ---------------------------------------------------------------------------------- */

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
                            size_t count, bool trims, ledger_error *err)
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
    if (rc == LEDGER_OK)
        rc = settle_details(sending, sending->count - added, trims, ops, count, err);
    if (rc == LEDGER_OK && added > 0)
        rc = keep(sending, state, name, err);
    if (rc != LEDGER_OK) { /* what the row holds is asked for again */
        sending->is_loaded = false;
        return rc;
    }
    number_ops(sending, ops, count);
    return LEDGER_OK;
}
