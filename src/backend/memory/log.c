/* The source's side: the log as transactions commit, and the cursor into it.
 *
 * A row's position is drawn when it is written, so rows become visible out of the order of their
 * positions, as PostgreSQL's do. Each commit has a number (`seq`); what a cursor has not seen is
 * read in differences: the rows of commits seq0 < seq <= seq1, in order of position. A cursor is
 *     memory:2:<uuid>:<epoch>:<cluster>:<seq0>:<seq1>:<last>:<position>:<witness seq>:<witness
 *     position>:<witness hash>
 * seq1 = seq0: no difference is begun; else its rows up to position `last` are carried. `position`
 * is the highest that was ever carried. The witness is the carried row of the latest commit, its
 * hash that of payload and created_at; zeros when there is none. */
#include "backend/memory/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"

#define HASH_DIGITS 16
#define PART_COUNT 12
#define DIFFERENCE_ROWS 256 /* a small one: what comes out of order has to be met in tests */

struct cursor {
    struct ldg_identity identity;
    int64_t cluster;
    int64_t seq0, seq1, last;
    int64_t position;
    int64_t witness_seq, witness_position;
    uint64_t witness_hash;
};

static int64_t log_seq(const struct ldg_memory *m)
{
    return m->in_snapshot ? m->snapshot_log_seq : m->log->seq;
}

/* Index of the first row of a later commit. */
static size_t rows_after(const struct ldg_mem_log *log, int64_t seq)
{
    size_t low = 0, high = log->count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (log->rows[middle]->seq > seq)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static const struct ldg_mem_log_row *find_row(const struct ldg_mem_log *log, int64_t seq,
                                              int64_t position)
{
    const size_t end = rows_after(log, seq);
    for (size_t i = rows_after(log, seq - 1); i < end; i++) {
        if (log->rows[i]->position == position)
            return log->rows[i];
    }
    return NULL;
}

/* The row with the highest position at or before `position`; NULL: there is none. */
static const struct ldg_mem_log_row *nearest_row(const struct ldg_memory *m, int64_t position)
{
    const struct ldg_mem_log_row *nearest = NULL;
    const size_t end = rows_after(m->log, log_seq(m));
    for (size_t i = 0; i < end; i++) {
        const struct ldg_mem_log_row *row = m->log->rows[i];
        if (row->position <= position && (!nearest || row->position > nearest->position))
            nearest = row;
    }
    return nearest;
}

static uint64_t row_hash(const struct ldg_mem_log_row *row)
{
    const uint64_t hash = ldg_hash64(row->payload, row->size, (uint64_t)row->position);
    return ldg_hash64(&row->created_at_us, sizeof(row->created_at_us), hash);
}

/* --- the text -------------------------------------------------------------------------------- */

static void format_state(const struct ldg_memory *m, const struct cursor *c,
                         char state[LDG_CURSOR_STATE_MAX])
{
    snprintf(state, LDG_CURSOR_STATE_MAX,
             "memory:2:%s:%" PRId64 ":%" PRId64 ":%" PRId64 ":%" PRId64 ":%" PRId64 ":%" PRId64
             ":%" PRId64 ":%" PRId64 ":%016" PRIx64,
             m->table->identity.uuid, m->table->identity.epoch, m->db->cluster, c->seq0, c->seq1,
             c->last, c->position, c->witness_seq, c->witness_position, c->witness_hash);
}

static void set_witness(struct cursor *c, const struct ldg_mem_log_row *row)
{
    c->witness_seq = row ? row->seq : 0;
    c->witness_position = row ? row->position : 0;
    c->witness_hash = row ? row_hash(row) : 0;
}

static bool parse_hex(const char *text, uint64_t *ret_value)
{
    uint64_t value = 0;
    for (size_t i = 0; i < HASH_DIGITS; i++) {
        const char *digits = "0123456789abcdef";
        const char *digit = text[i] ? strchr(digits, text[i]) : NULL;
        if (!digit)
            return false;
        value = value << 4 | (uint64_t)(digit - digits);
    }
    *ret_value = value;
    return text[HASH_DIGITS] == '\0';
}

/* Splits and reads a state that is not empty. */
static bool parse_state(const char *state, struct cursor *ret_cursor)
{
    char copy[LDG_CURSOR_STATE_MAX];
    char *parts[PART_COUNT];
    size_t count = 0;
    struct cursor c = { 0 };

    memcpy(copy, state, strlen(state) + 1); /* store.c has checked the length */
    for (char *at = copy; at && count < PART_COUNT; count++) {
        parts[count] = at;
        at = strchr(at, ':');
        if (at)
            *at++ = '\0';
        if (at && count == PART_COUNT - 1)
            return false;
    }
    if (count != PART_COUNT || strcmp(parts[0], "memory") != 0 || strcmp(parts[1], "2") != 0 ||
        strlen(parts[2]) >= sizeof(c.identity.uuid))
        return false;
    int64_t *const numbers[] = {
        &c.identity.epoch, &c.cluster,  &c.seq0,        &c.seq1,
        &c.last,           &c.position, &c.witness_seq, &c.witness_position
    };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (!ldg_int64_parse(parts[3 + i], false, numbers[i]) || *numbers[i] < 0)
            return false;
    }
    if (!parse_hex(parts[PART_COUNT - 1], &c.witness_hash) || c.seq1 < c.seq0 ||
        c.witness_position > c.position)
        return false;
    memcpy(c.identity.uuid, parts[2], strlen(parts[2]) + 1);
    *ret_cursor = c;
    return true;
}

static ledger_rc fail_rewound(int64_t position, ledger_error *err)
{
    return ldg_fail_native(err, LEDGER_ERR_SOURCE_REWOUND, "memory", 0,
                           "log position %" PRId64 " is not what was carried over: the source was "
                           "restored or has lost commits",
                           position);
}

/* Reads a state and compares who it belongs to. */
static ledger_rc check_owner(const struct ldg_memory *m, const char *state,
                             struct cursor *ret_cursor, ledger_error *err)
{
    const struct ldg_identity *own = &m->table->identity;
    if (!parse_state(state, ret_cursor))
        return ldg_cursor_fail(state, "memory", "memory", err);
    if (strcmp(ret_cursor->identity.uuid, own->uuid) != 0 ||
        ret_cursor->identity.epoch != own->epoch)
        return ldg_fail_native(err, LEDGER_ERR_CURSOR_MISMATCH, "memory", 0,
                               "the cursor belongs to store %s (epoch %" PRId64 "), this is %s "
                               "(epoch %" PRId64 "); set the cursor on purpose to go on",
                               ret_cursor->identity.uuid, ret_cursor->identity.epoch, own->uuid,
                               own->epoch);
    return LEDGER_OK;
}

/* Reads a state and compares identity, cluster and witness. "" is the beginning. */
static ledger_rc check_state(const struct ldg_memory *m, const char *state,
                             struct cursor *ret_cursor, ledger_error *err)
{
    struct cursor c = { 0 };
    if (*state) {
        ledger_rc rc = check_owner(m, state, &c, err);
        if (rc != LEDGER_OK)
            return rc;
        if (c.cluster != m->db->cluster)
            return ldg_fail_native(err, LEDGER_ERR_CURSOR_MISMATCH, "memory", 0,
                                   "the source has moved to another cluster; if all its rows came "
                                   "along, go on with `ledgerctl bridge cursor acknowledge`");
        const struct ldg_mem_log_row *row = find_row(m->log, c.witness_seq, c.witness_position);
        if (c.seq1 > log_seq(m) || c.witness_seq > log_seq(m) ||
            (c.witness_position && (!row || row_hash(row) != c.witness_hash)))
            return fail_rewound(c.witness_position, err);
    }
    *ret_cursor = c;
    return LEDGER_OK;
}

/* --- reading --------------------------------------------------------------------------------- */

static int compare_rows(const void *a, const void *b)
{
    const struct ldg_mem_log_row *x = *(struct ldg_mem_log_row *const *)a;
    const struct ldg_mem_log_row *y = *(struct ldg_mem_log_row *const *)b;
    return (x->position > y->position) - (x->position < y->position);
}

/* The rows of the cursor's difference that are not carried, in order; begins the next difference
 * when there are none. Count 0: the log holds nothing more. */
static ledger_rc difference(const struct ldg_memory *m, struct cursor *c, size_t least,
                            struct ldg_arena *arena, struct ldg_mem_log_row ***ret_rows,
                            size_t *ret_count, ledger_error *err)
{
    const struct ldg_mem_log *log = m->log;
    const size_t end = rows_after(log, log_seq(m));
    struct ldg_mem_log_row **rows = NULL;
    size_t count = 0;
    while (count == 0) {
        const size_t begin = rows_after(log, c->seq0);
        size_t stop = rows_after(log, c->seq1);
        if (c->seq1 == c->seq0) {
            if (begin >= end)
                break;
            stop = end - begin > least ? begin + least : end;
            c->seq1 = log->rows[stop - 1]->seq;
            c->last = 0;
            stop = rows_after(log, c->seq1); /* never half a commit */
        }
        rows = ldg_arena_alloc(arena, (stop - begin + 1) * sizeof(struct ldg_mem_log_row *));
        if (!rows)
            return ldg_fail_nomem(err);
        for (size_t i = begin; i < stop; i++) {
            if (log->rows[i]->position > c->last)
                rows[count++] = log->rows[i];
        }
        if (count == 0)
            c->seq0 = c->seq1;
    }
    if (count)
        qsort(rows, count, sizeof(struct ldg_mem_log_row *), compare_rows);
    *ret_rows = rows;
    *ret_count = count;
    return LEDGER_OK;
}

static ledger_rc read_log(struct ldg_memory *m, const char *state,
                          const struct ldg_log_limits *limits, struct ldg_log_batch *batch,
                          ledger_error *err)
{
    const size_t least = limits->max_count > DIFFERENCE_ROWS ? limits->max_count : DIFFERENCE_ROWS;
    struct cursor c = { 0 };
    struct ldg_mem_log_row **from = NULL;
    size_t count = 0, bytes = 0, left = 0;
    ledger_rc rc = check_state(m, state, &c, err);
    if (rc != LEDGER_OK)
        return rc;
    ldg_arena_reset(&batch->arena);
    rc = difference(m, &c, least, &batch->arena, &from, &left, err);
    if (rc != LEDGER_OK)
        return rc;
    const size_t most = left < limits->max_count ? left : limits->max_count;
    struct ldg_log_row *rows = ldg_arena_calloc(&batch->arena, most, sizeof(*rows));
    if (!rows)
        return ldg_fail_nomem(err);
    while (count < most && (count == 0 || bytes < limits->max_bytes)) {
        const struct ldg_mem_log_row *row = from[count];
        char *payload = ldg_arena_strndup(&batch->arena, row->payload, row->size);
        if (!payload)
            return ldg_fail_nomem(err);
        rows[count++] = (struct ldg_log_row){
            .position = row->position,
            .payload = { .data = payload, .size = row->size },
            .created_at_us = row->created_at_us,
        };
        bytes += row->size;
        c.last = row->position;
        if (row->position > c.position)
            c.position = row->position;
        if (row->seq >= c.witness_seq)
            set_witness(&c, row);
    }
    batch->rows = rows;
    batch->count = count;
    batch->bytes = bytes;
    batch->more =
        count < left || (count && rows_after(m->log, c.seq1) < rows_after(m->log, log_seq(m)));
    batch->next_position = c.position;
    if (count && count == left) {
        c.seq0 = c.seq1;
        c.last = 0;
    }
    if (count)
        format_state(m, &c, batch->next_state);
    else
        memmove(batch->next_state, state, strlen(state) + 1);
    return LEDGER_OK;
}

/* Every row that is visible now and has a position <= `position` counts as carried; what commits
 * later with such a position does not. */
static void format_at(const struct ldg_memory *m, int64_t position,
                      char state[LDG_CURSOR_STATE_MAX])
{
    struct cursor c = { .position = position, .last = position };
    if (position)
        c.seq1 = log_seq(m);
    set_witness(&c, nearest_row(m, position));
    format_state(m, &c, state);
}

static bool is_carried(const struct cursor *c, const struct ldg_mem_log_row *row)
{
    return row->seq <= c->seq0 || (row->seq <= c->seq1 && row->position <= c->last);
}

static struct ldg_log_stat stat_of(const struct ldg_memory *m, const struct cursor *c)
{
    struct ldg_log_stat stat = { .oldest_us = LEDGER_NO_TIME };
    const size_t end = rows_after(m->log, log_seq(m));
    for (size_t i = 0; i < end; i++) {
        const struct ldg_mem_log_row *row = m->log->rows[i];
        if (row->position > stat.head)
            stat.head = row->position;
        if (is_carried(c, row))
            continue;
        if (stat.backlog_count == 0 || row->created_at_us < stat.oldest_us)
            stat.oldest_us = row->created_at_us;
        if (stat.backlog_count == 0 || row->position < stat.lowest)
            stat.lowest = row->position;
        stat.backlog_count++;
    }
    return stat;
}

/* --- callbacks ------------------------------------------------------------------------------- */

ledger_rc ldg_mem_log_read(void *ctx, const char *state, const struct ldg_log_limits *limits,
                           struct ldg_log_batch *batch, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    ledger_rc rc = ldg_mem_enter(m, "log_read", err);
    if (rc != LEDGER_OK)
        return rc;
    return ldg_mem_leave(m, read_log(m, state, limits, batch, err), err);
}

ledger_rc ldg_mem_log_cursor_at(void *ctx, int64_t position, char state[LDG_CURSOR_STATE_MAX],
                                ledger_error *err)
{
    struct ldg_memory *m = ctx;
    const struct cursor beginning = { 0 };
    ledger_rc rc = ldg_mem_enter(m, "log_cursor_at", err);
    if (rc != LEDGER_OK)
        return rc;
    const int64_t head = stat_of(m, &beginning).head;
    if (position > head)
        rc = ldg_fail_native(err, LEDGER_ERR_SOURCE_REWOUND, "memory", 0,
                             "the cursor stands at %" PRId64 ", but the log ends at %" PRId64
                             ": the source was restored, or the cursor was written by hand",
                             position, head);
    else
        format_at(m, position, state);
    return ldg_mem_leave(m, rc, err);
}

ledger_rc ldg_mem_log_check(void *ctx, const char *state, int64_t *ret_position, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    struct cursor c = { 0 };
    ledger_rc rc = ldg_mem_enter(m, "log_check", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_mem_leave(m, check_state(m, state, &c, err), err);
    if (rc == LEDGER_OK)
        *ret_position = c.position;
    return rc;
}

ledger_rc ldg_mem_log_stat(void *ctx, const char *state, struct ldg_log_stat *ret_stat,
                           ledger_error *err)
{
    struct ldg_memory *m = ctx;
    struct cursor c = { 0 };
    struct ldg_log_stat stat = { 0 };
    ledger_rc rc = ldg_mem_enter(m, "log_stat", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = check_state(m, state, &c, err);
    if (rc == LEDGER_OK)
        stat = stat_of(m, &c);
    rc = ldg_mem_leave(m, rc, err);
    if (rc == LEDGER_OK)
        *ret_stat = stat;
    return rc;
}

/* The commits of the new cluster are other ones: only positions and the witness still mean what
 * they did. So all before the lowest row that was not carried counts as carried. */
static ledger_rc acknowledge(const struct ldg_memory *m, const char *state,
                             char ret_state[LDG_CURSOR_STATE_MAX], ledger_error *err)
{
    struct cursor c = { 0 };
    ledger_rc rc = check_owner(m, state, &c, err);
    if (rc != LEDGER_OK)
        return rc;
    const struct ldg_mem_log_row *row = nearest_row(m, c.witness_position);
    if (c.witness_position &&
        (!row || row->position != c.witness_position || row_hash(row) != c.witness_hash))
        return fail_rewound(c.witness_position, err);
    const struct ldg_log_stat stat = stat_of(m, &c);
    format_at(m, stat.backlog_count && stat.lowest <= c.position ? stat.lowest - 1 : c.position,
              ret_state);
    return LEDGER_OK;
}

ledger_rc ldg_mem_log_acknowledge(void *ctx, const char *state,
                                  char ret_state[LDG_CURSOR_STATE_MAX], ledger_error *err)
{
    struct ldg_memory *m = ctx;
    char next[LDG_CURSOR_STATE_MAX];
    ledger_rc rc = ldg_mem_enter(m, "log_acknowledge", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_mem_leave(m, acknowledge(m, state, next, err), err);
    if (rc == LEDGER_OK)
        memcpy(ret_state, next, strlen(next) + 1);
    return rc;
}

/* All writers are in this process, so the wake-up of store.c is all there is to wait for. */
ledger_rc ldg_mem_log_wait(void *ctx, int wake_fd, int64_t timeout_ms, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    struct pollfd poll_fd = { .fd = wake_fd, .events = POLLIN };
    const struct timespec timeout = {
        .tv_sec = timeout_ms > 0 ? timeout_ms / 1000 : 0,
        .tv_nsec = timeout_ms > 0 ? timeout_ms % 1000 * 1000000 : 0,
    };
    ledger_rc rc = ldg_mem_enter(m, "log_wait", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_mem_leave(m, LEDGER_OK, err);
    if (rc == LEDGER_OK && ppoll(&poll_fd, 1, timeout_ms < 0 ? NULL : &timeout, NULL) < 0 &&
        errno != EINTR)
        rc = ldg_fail_native(err, LEDGER_ERR_IO, "memory", errno, "cannot wait for a wake-up");
    return rc;
}
