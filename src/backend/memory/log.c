/* The source's side: the log in commit order, and the cursor into it.
 *
 * A row's position is drawn at its commit, so `position > cursor` misses nothing, whatever order
 * the entries' ids were drawn in. A cursor is
 *     memory:1:<uuid>:<epoch>:<position>:<witness position>:<witness hash>
 * The witness is the last row at or before the position, its hash that of payload and created_at;
 * 0:0000000000000000 when there is none. */
#include "backend/memory/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"

#define HASH_DIGITS 16
#define PART_COUNT 7

struct position {
    struct ldg_identity identity;
    int64_t position;
    int64_t witness_position;
    uint64_t witness_hash;
};

static size_t log_count(const struct ldg_memory *m)
{
    return m->in_snapshot ? m->snapshot_log_count : m->log->count;
}

static uint64_t row_hash(const struct ldg_mem_log_row *row)
{
    const uint64_t hash = ldg_hash64(row->payload, row->size, (uint64_t)row->position);
    return ldg_hash64(&row->created_at_us, sizeof(row->created_at_us), hash);
}

static void format_state(const struct ldg_memory *m, int64_t position, int64_t witness_position,
                         char state[LDG_CURSOR_STATE_MAX])
{
    const uint64_t hash = witness_position ? row_hash(m->log->rows[witness_position - 1]) : 0;
    snprintf(state, LDG_CURSOR_STATE_MAX,
             "memory:1:%s:%" PRId64 ":%" PRId64 ":%" PRId64 ":%016" PRIx64, m->table->identity.uuid,
             m->table->identity.epoch, position, witness_position, hash);
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
static bool parse_state(const char *state, struct position *ret_position)
{
    char copy[LDG_CURSOR_STATE_MAX];
    char *parts[PART_COUNT];
    size_t count = 0;
    struct position p = { 0 };

    memcpy(copy, state, strlen(state) + 1); /* store.c has checked the length */
    for (char *at = copy; at && count < PART_COUNT; count++) {
        parts[count] = at;
        at = strchr(at, ':');
        if (at)
            *at++ = '\0';
        if (at && count == PART_COUNT - 1)
            return false;
    }
    if (count != PART_COUNT || strcmp(parts[0], "memory") != 0 || strcmp(parts[1], "1") != 0 ||
        strlen(parts[2]) >= sizeof(p.identity.uuid) ||
        !ldg_int64_parse(parts[3], false, &p.identity.epoch) ||
        !ldg_int64_parse(parts[4], false, &p.position) ||
        !ldg_int64_parse(parts[5], false, &p.witness_position) ||
        !parse_hex(parts[6], &p.witness_hash) || p.witness_position > p.position)
        return false;
    memcpy(p.identity.uuid, parts[2], strlen(parts[2]) + 1);
    *ret_position = p;
    return true;
}

/* Reads a state and compares identity and witness with the log. */
static ledger_rc check_state(const struct ldg_memory *m, const char *state,
                             struct position *ret_position, ledger_error *err)
{
    const struct ldg_identity *own = &m->table->identity;
    struct position p = { 0 };
    if (*state) {
        if (!parse_state(state, &p))
            return ldg_fail_native(err, LEDGER_ERR_DATA, "memory", 0,
                                   "this is not a cursor of a memory store: \"%.64s\"", state);
        if (strcmp(p.identity.uuid, own->uuid) != 0 || p.identity.epoch != own->epoch)
            return ldg_fail_native(err, LEDGER_ERR_CURSOR_MISMATCH, "memory", 0,
                                   "the cursor belongs to store %s (epoch %" PRId64 "), this is %s "
                                   "(epoch %" PRId64 "); set the cursor on purpose to go on",
                                   p.identity.uuid, p.identity.epoch, own->uuid, own->epoch);
        if (p.witness_position > (int64_t)log_count(m) ||
            (p.witness_position &&
             row_hash(m->log->rows[p.witness_position - 1]) != p.witness_hash))
            return ldg_fail_native(err, LEDGER_ERR_SOURCE_REWOUND, "memory", 0,
                                   "log position %" PRId64 " is not what was carried over: the "
                                   "source was restored or has lost commits",
                                   p.witness_position);
    }
    *ret_position = p;
    return LEDGER_OK;
}

static ledger_rc read_log(struct ldg_memory *m, const char *state,
                          const struct ldg_log_limits *limits, struct ldg_log_batch *batch,
                          ledger_error *err)
{
    struct position p = { 0 };
    size_t count = 0, bytes = 0;
    ledger_rc rc = check_state(m, state, &p, err);
    if (rc != LEDGER_OK)
        return rc;
    const size_t begin = (size_t)p.position < log_count(m) ? (size_t)p.position : log_count(m);
    const size_t left = log_count(m) - begin;
    const size_t most = left < limits->max_count ? left : limits->max_count;

    ldg_arena_reset(&batch->arena);
    struct ldg_log_row *rows = ldg_arena_calloc(&batch->arena, most, sizeof(*rows));
    if (!rows)
        return ldg_fail_nomem(err);
    while (count < most && (count == 0 || bytes < limits->max_bytes)) {
        const struct ldg_mem_log_row *row = m->log->rows[begin + count];
        char *payload = ldg_arena_strndup(&batch->arena, row->payload, row->size);
        if (!payload)
            return ldg_fail_nomem(err);
        rows[count++] = (struct ldg_log_row){
            .position = row->position,
            .payload = { .data = payload, .size = row->size },
            .created_at_us = row->created_at_us,
        };
        bytes += row->size;
    }
    batch->rows = rows;
    batch->count = count;
    batch->bytes = bytes;
    batch->more = count < left;
    batch->next_position = count ? rows[count - 1].position : p.position;
    if (count)
        format_state(m, batch->next_position, batch->next_position, batch->next_state);
    else
        memmove(batch->next_state, state, strlen(state) + 1);
    return LEDGER_OK;
}

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
    ledger_rc rc = ldg_mem_enter(m, "log_cursor_at", err);
    if (rc != LEDGER_OK)
        return rc;
    const int64_t head = (int64_t)log_count(m);
    if (position > head)
        rc = ldg_fail_native(err, LEDGER_ERR_SOURCE_REWOUND, "memory", 0,
                             "the cursor stands at %" PRId64 ", but the log ends at %" PRId64
                             ": the source was restored, or the cursor was written by hand",
                             position, head);
    else
        format_state(m, position, position, state);
    return ldg_mem_leave(m, rc, err);
}

ledger_rc ldg_mem_log_check(void *ctx, const char *state, int64_t *ret_position, ledger_error *err)
{
    struct ldg_memory *m = ctx;
    struct position p = { 0 };
    ledger_rc rc = ldg_mem_enter(m, "log_check", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_mem_leave(m, check_state(m, state, &p, err), err);
    if (rc == LEDGER_OK)
        *ret_position = p.position;
    return rc;
}

ledger_rc ldg_mem_log_stat(void *ctx, const char *state, struct ldg_log_stat *ret_stat,
                           ledger_error *err)
{
    struct ldg_memory *m = ctx;
    struct position p = { 0 };
    struct ldg_log_stat stat = { .oldest_us = LEDGER_NO_TIME };
    ledger_rc rc = ldg_mem_enter(m, "log_stat", err);
    if (rc != LEDGER_OK)
        return rc;
    rc = check_state(m, state, &p, err);
    if (rc == LEDGER_OK) {
        stat.head = (int64_t)log_count(m);
        if (p.position < stat.head) {
            stat.backlog_count = (uint64_t)(stat.head - p.position);
            stat.oldest_us = m->log->rows[p.position]->created_at_us;
        }
    }
    rc = ldg_mem_leave(m, rc, err);
    if (rc == LEDGER_OK)
        *ret_stat = stat;
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
