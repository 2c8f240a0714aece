/* The source's side: reading the mutation log behind a cursor.
 *
 * One writer at a time gives out ids in commit order, so "id > position" misses nothing. Hides the
 * cursor's text and its witness. Invariants: reading never
 * writes and never checkpoints; a read transaction ends with its batch, so the WAL can be reset; no
 * row is given out before the witness was found unchanged in the same transaction. */
#include "backend/sqlite/sqlite.h"

#include "base/hash.h"

#include <inttypes.h>
#include <string.h>

/* Payloads over this size go from the file into the arena without SQLite's copy in between; it is
 * the limit in LDG_SQLITE_IS_LARGE too. */
#define BLOB_PIECE_BYTES ((size_t)1024 * 1024)
#define FIRST_ROWS 64
#define BACKLOG_COUNT_MAX 1000

#define STATE_PREFIX "sqlite:1:"

/* --- cursor state ---------------------------------------------------------------------------- */

struct state {
    bool set; /* false: the beginning, of any source */
    struct ldg_identity identity;
    int64_t position;
    int64_t witness_position; /* 0: none */
    uint64_t witness_hash;
};

static bool take_number(const char **p, char end, int64_t *ret_value)
{
    int64_t value = 0;
    const char *c = *p;

    if (*c < '0' || *c > '9')
        return false;
    for (; *c >= '0' && *c <= '9'; c++) {
        if (value > (INT64_MAX - (*c - '0')) / 10)
            return false;
        value = value * 10 + (*c - '0');
    }
    if (*c != end)
        return false;
    *p = c + 1;
    *ret_value = value;
    return true;
}

static bool take_hash(const char *p, uint64_t *ret_hash)
{
    uint64_t value = 0;
    int i;

    for (i = 0; i < 16; i++) {
        char c = p[i];
        if (c >= '0' && c <= '9')
            value = value << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false;
    }
    *ret_hash = value;
    return p[16] == '\0';
}

static ledger_rc state_parse(const char *text, struct state *state, ledger_error *err)
{
    const char *p = text, *colon;
    bool ok = false;

    memset(state, 0, sizeof(*state));
    if (*text == '\0')
        return LEDGER_OK;
    if (strncmp(p, STATE_PREFIX, sizeof(STATE_PREFIX) - 1) != 0)
        goto out;
    p += sizeof(STATE_PREFIX) - 1;
    colon = strchr(p, ':');
    if (colon == NULL || colon == p || (size_t)(colon - p) >= sizeof(state->identity.uuid))
        goto out;
    memcpy(state->identity.uuid, p, (size_t)(colon - p));
    p = colon + 1;
    ok = take_number(&p, ':', &state->identity.epoch) && take_number(&p, ':', &state->position) &&
         take_number(&p, ':', &state->witness_position) && take_hash(p, &state->witness_hash);
    state->set = ok;
out:
    return ok ? LEDGER_OK : ldg_cursor_fail(text, "sqlite", "SQLite", err);
}

static void state_format(const struct ldg_sqlite *s, int64_t position, int64_t witness_position,
                         uint64_t witness_hash, char text[LDG_CURSOR_STATE_MAX])
{
    sqlite3_snprintf(LDG_CURSOR_STATE_MAX, text, STATE_PREFIX "%s:%lld:%lld:%lld:%016llx",
                     s->identity.uuid, (long long)s->identity.epoch, (long long)position,
                     (long long)witness_position, (unsigned long long)witness_hash);
}

/* The witness hash of a row: its payload, seeded with its position, then created_at as it is
 * stored. A source that was put back and then written alike has the same positions and often the
 * same payloads, but hardly the same times. Piece by piece, so that a large row is hashed without
 * being in memory. */
static uint64_t payload_hash(const void *data, size_t size, int64_t position)
{
    const char *p = data;
    uint64_t hash = (uint64_t)position;

    do {
        size_t piece = size < BLOB_PIECE_BYTES ? size : BLOB_PIECE_BYTES;
        hash = ldg_hash64(p, piece, hash);
        p += piece;
        size -= piece;
    } while (size > 0);
    return hash;
}

static uint64_t witness_hash(uint64_t hash, const char *time, size_t time_size)
{
    return ldg_hash64(time_size > 0 ? time : "", time_size, hash);
}

/* --- reading --------------------------------------------------------------------------------- */

/* Copies (out) and hashes the payload of a large row straight from the file. */
static ledger_rc blob_read(struct ldg_sqlite *s, int64_t id, struct ldg_arena *arena,
                           ledger_bytes *out, uint64_t *hash, ledger_error *err)
{
    sqlite3_blob *blob = NULL;
    LDG_AUTO_FREE char *piece = NULL;
    char *data = NULL;
    ledger_rc rc;
    int code;

    code = sqlite3_blob_open(s->db, "main", s->log_table, "payload", id, 0, &blob);
    if (code != SQLITE_OK) {
        rc = ldg_sqlite_fail(s, code, "reading a payload of the mutation log", err);
        goto out;
    }
    size_t size = (size_t)sqlite3_blob_bytes(blob);
    if (out != NULL)
        data = ldg_arena_alloc(arena, size);
    else
        piece = ldg_malloc(BLOB_PIECE_BYTES);
    if (data == NULL && piece == NULL) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    uint64_t h = (uint64_t)id;
    for (size_t done = 0; done < size;) {
        size_t part = size - done < BLOB_PIECE_BYTES ? size - done : BLOB_PIECE_BYTES;
        char *to = data != NULL ? data + done : piece;

        code = sqlite3_blob_read(blob, to, (int)part, (int)done);
        if (code != SQLITE_OK) {
            rc = ldg_sqlite_fail(s, code, "reading a payload of the mutation log", err);
            goto out;
        }
        h = ldg_hash64(to, part, h);
        done += part;
    }
    if (out != NULL)
        *out = (ledger_bytes){ data, size };
    *hash = h;
    rc = LEDGER_OK;
out:
    sqlite3_blob_close(blob);
    return rc;
}

static const char reading[] = "reading the mutation log";

/* Witness hash of the row at this position; *ret_found false: there is none. */
static ledger_rc row_hash(struct ldg_sqlite *s, int64_t position, bool *ret_found,
                          uint64_t *ret_hash, ledger_error *err)
{
    struct ldg_sql q;
    uint64_t hash = 0;

    ldg_sql_begin(&q, s, reading,
                  "SELECT " LDG_SQLITE_SMALL_PAYLOAD ", " LDG_SQLITE_LARGE_SIZE ", created_at "
                  "FROM main.\"%L\" WHERE id = ?1",
                  err);
    ldg_sql_int(&q, position);
    *ret_found = ldg_sql_row(&q);
    if (*ret_found) {
        if (sqlite3_column_int64(q.stmt, 1) > 0) {
            q.rc = blob_read(s, position, NULL, NULL, &hash, err);
        } else {
            ledger_bytes payload = ldg_sql_bytes(&q, 0);
            hash = payload_hash(payload.data != NULL ? payload.data : "", payload.size, position);
        }
        const char *time = (const char *)sqlite3_column_text(q.stmt, 2);
        *ret_hash =
            witness_hash(hash, time, time != NULL ? (size_t)sqlite3_column_bytes(q.stmt, 2) : 0);
    }
    return ldg_sql_end(&q);
}

static ledger_rc log_head(struct ldg_sqlite *s, int64_t *ret_head, ledger_error *err)
{
    *ret_head = 0;
    return ldg_sql_exec_ints(s, reading, "SELECT id FROM main.\"%L\" ORDER BY id DESC LIMIT 1",
                             LDG_NO_INTS, ret_head, err);
}

/* Reading begins behind position 0: a row at or below it would never be seen. */
static ledger_rc check_lowest(struct ldg_sqlite *s, ledger_error *err)
{
    int64_t lowest = INT64_MAX; /* none */
    ledger_rc rc = ldg_sql_exec_ints(s, reading,
                                     "SELECT id FROM main.\"%L\" WHERE id <= 0 ORDER BY id LIMIT 1",
                                     LDG_NO_INTS, &lowest, err);

    if (rc == LEDGER_OK && lowest <= 0)
        rc = ldg_log_fail_lowest(s->log_table, lowest, err);
    return rc;
}

static ledger_rc check_identity(const struct ldg_sqlite *s, const struct state *state,
                                ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (!state->set)
        goto out;
    if (strcmp(state->identity.uuid, s->identity.uuid) != 0)
        rc = ldg_fail(err, LEDGER_ERR_CURSOR_MISMATCH,
                      "the cursor belongs to source %s, but %s is %s: give this pair a name of its "
                      "own (--name), or start over on purpose with `ledgerctl bridge cursor set`",
                      state->identity.uuid, s->path != NULL ? s->path : "this database",
                      s->identity.uuid);
    else if (state->identity.epoch != s->identity.epoch)
        rc = ldg_fail(err, LEDGER_ERR_CURSOR_MISMATCH,
                      "the cursor belongs to source %s in epoch %" PRId64 ", which is now in epoch "
                      "%" PRId64 ": give this pair a name of its own (--name), or start over on "
                      "purpose with `ledgerctl bridge cursor set`",
                      state->identity.uuid, state->identity.epoch, s->identity.epoch);
out:
    return rc;
}

static ledger_rc check_witness(struct ldg_sqlite *s, const struct state *state, ledger_error *err)
{
    bool found = true;
    uint64_t hash = 0;
    int64_t head = 0;
    ledger_rc rc = LEDGER_OK;

    if (!state->set || state->witness_position == 0)
        goto out;
    rc = row_hash(s, state->witness_position, &found, &hash, err);
    if (rc == LEDGER_OK && (!found || hash != state->witness_hash)) {
        rc = log_head(s, &head, err);
        if (rc == LEDGER_OK)
            rc = ldg_fail(
                err, LEDGER_ERR_SOURCE_REWOUND,
                "the cursor has passed row %" PRId64 " of the mutation log of %s, but that row %s "
                "(the log ends at %" PRId64 "): the source was restored from a backup or lost "
                "commits%s. Put the newer file back, or rewind on purpose with `ledgerctl bridge "
                "cursor set`",
                state->witness_position, s->path != NULL ? s->path : "the source",
                found ? "is another one now" : "is gone", head, found ? LDG_OR_A_COPY : "");
    }
out:
    return rc;
}

/* Growing leaves the smaller array in the arena: few steps, and none beyond the limit. */
static ledger_rc batch_grow(struct ldg_log_batch *batch, size_t *cap, size_t max_count,
                            ledger_error *err)
{
    size_t next = *cap == 0 ? FIRST_ROWS : *cap * 4;

    next = next < max_count ? next : max_count;
    struct ldg_log_row *rows = ldg_arena_calloc(&batch->arena, next, sizeof(*rows));

    if (rows == NULL)
        return ldg_fail_nomem(err);
    if (batch->count > 0)
        memcpy(rows, batch->rows, batch->count * sizeof(*rows));
    batch->rows = rows;
    *cap = next;
    return LEDGER_OK;
}

/* What the witness needs of the last row beside its payload. */
struct last_row {
    char *time; /* as stored; in the batch's arena */
    size_t time_size, time_cap;
    int64_t hashed; /* position of the row that payload_hash is of; 0: none was read in pieces */
    uint64_t payload_hash;
};

static bool last_take(struct last_row *last, struct ldg_arena *arena, const char *time, size_t size)
{
    if (size > last->time_cap) {
        last->time = ldg_arena_alloc(arena, size);
        last->time_cap = last->time != NULL ? size : 0;
    }
    last->time_size = size <= last->time_cap ? size : 0;
    if (last->time_size > 0)
        memcpy(last->time, time, size);
    return last->time_size == size;
}

/* Takes the row that the statement stands on. *ret_full: it would go over the limit. */
static ledger_rc batch_take(struct ldg_sqlite *s, sqlite3_stmt *stmt,
                            const struct ldg_log_limits *limits, struct ldg_log_batch *batch,
                            size_t *cap, struct last_row *last, bool *ret_full, ledger_error *err)
{
    struct ldg_log_row row = { .position = sqlite3_column_int64(stmt, 0) };
    int64_t large = sqlite3_column_int64(stmt, 3); /* size of a payload that was left out; else 0 */
    size_t size;
    ledger_rc rc = LEDGER_OK;

    size = large > 0 ? (size_t)large : (size_t)sqlite3_column_bytes(stmt, 2);
    *ret_full = batch->count > 0 && size > limits->max_bytes - batch->bytes;
    if (*ret_full)
        goto out;
    const char *time = (const char *)sqlite3_column_text(stmt, 1);
    size_t time_size = time != NULL ? (size_t)sqlite3_column_bytes(stmt, 1) : 0;
    if (time_size == 0 || !ldg_time_parse(time, time_size, &row.created_at_us))
        row.created_at_us = LEDGER_NO_TIME;
    if (!last_take(last, &batch->arena, time, time_size)) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    if (batch->count == *cap) {
        rc = batch_grow(batch, cap, limits->max_count, err);
        if (rc != LEDGER_OK)
            goto out;
    }
    if (large > 0) {
        rc = blob_read(s, row.position, &batch->arena, &row.payload, &last->payload_hash, err);
        last->hashed = row.position;
    } else {
        const void *data = sqlite3_column_blob(stmt, 2);
        char *copy = ldg_arena_alloc(&batch->arena, size);

        if (copy == NULL) {
            rc = ldg_fail_nomem(err);
            goto out;
        }
        if (size > 0 && data != NULL)
            memcpy(copy, data, size);
        row.payload = (ledger_bytes){ copy, size };
    }
    if (rc == LEDGER_OK) {
        batch->rows[batch->count++] = row;
        batch->bytes += size;
    }
out:
    return rc;
}

/* Where the batch ends: behind its last row, which is the next witness. */
static void batch_end(const struct ldg_sqlite *s, struct ldg_log_batch *batch,
                      const struct last_row *last)
{
    const struct ldg_log_row *row = &batch->rows[batch->count - 1];
    uint64_t hash = last->hashed == row->position
                        ? last->payload_hash
                        : payload_hash(row->payload.data, row->payload.size, row->position);

    hash = witness_hash(hash, last->time, last->time_size);
    batch->next_position = row->position;
    state_format(s, row->position, row->position, hash, batch->next_state);
}

/* unchanged: nobody has written since the witness was compared. */
static ledger_rc read_rows(struct ldg_sqlite *s, const struct state *state, bool unchanged,
                           const struct ldg_log_limits *limits, struct ldg_log_batch *batch,
                           ledger_error *err)
{
    const int64_t limit =
        limits->max_count < INT64_MAX - 1 ? (int64_t)limits->max_count + 1 : INT64_MAX;
    struct last_row last = { .time = NULL };
    struct ldg_sql q;
    size_t cap = 0;
    bool full = false, more;

    ldg_sql_begin(&q, s, reading,
                  "SELECT id, created_at, " LDG_SQLITE_SMALL_PAYLOAD ", " LDG_SQLITE_LARGE_SIZE
                  " FROM main.\"%L\" WHERE id > ?1 ORDER BY id LIMIT ?2",
                  err);
    ldg_sql_int(&q, state->position);
    ldg_sql_int(&q, limit);
    more = ldg_sql_row(&q);
    if (q.rc == LEDGER_OK && !unchanged)
        q.rc = check_lowest(s, err);
    if (q.rc == LEDGER_OK && (more || !unchanged))
        q.rc = check_witness(s, state, err);
    while (q.rc == LEDGER_OK && more && !full) {
        full = batch->count > 0 &&
               (batch->count == limits->max_count || batch->bytes >= limits->max_bytes);
        if (!full)
            q.rc = batch_take(s, q.stmt, limits, batch, &cap, &last, &full, err);
        more = !full && ldg_sql_row(&q);
    }
    if (q.rc == LEDGER_OK) {
        batch->more = full;
        if (batch->count > 0)
            batch_end(s, batch, &last);
    }
    return ldg_sql_end(&q);
}

ledger_rc ldg_sqlite_log_read(void *ctx, const char *state_text,
                              const struct ldg_log_limits *limits, struct ldg_log_batch *batch,
                              ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct state state;
    int64_t version = 0;
    bool own = false;
    ledger_rc rc;

    ldg_arena_reset(&batch->arena);
    batch->rows = NULL;
    batch->count = 0;
    batch->bytes = 0;
    batch->more = false;
    rc = state_parse(state_text, &state, err);
    if (rc == LEDGER_OK)
        rc = check_identity(s, &state, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_read_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    sqlite3_snprintf(sizeof(batch->next_state), batch->next_state, "%s", state_text);
    batch->next_position = state.position;
    /* Inside the transaction it is the version of what is read. It changes also when a backup is
     * put back into the same file, while the log may then hold nothing behind the cursor. */
    rc = ldg_sqlite_data_version(s, &version, err);
    if (rc == LEDGER_OK)
        rc = read_rows(s, &state, s->seen && version == s->seen_version, limits, batch, err);
    ldg_sqlite_read_end(s, own);
    /* Where the name leads to another file now, what was read is history. */
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_file_verify(s, batch->count == 0, err);
    if (rc == LEDGER_OK) {
        s->seen_version = version;
        s->seen = true;
    }
out:
    if (rc != LEDGER_OK) {
        batch->count = 0;
        batch->rows = NULL;
        batch->more = false;
    }
    return rc;
}

/* A position that the log never had yet; a row that came and went has counted (AUTOINCREMENT). */
static ledger_rc check_end(struct ldg_sqlite *s, int64_t position, ledger_error *err)
{
    /* clang-format off */
    static const char last_given_out[] =
        "SELECT max(coalesce((SELECT seq FROM main.sqlite_sequence "
                             "WHERE name = '%L' COLLATE NOCASE), 0), "
                   "coalesce((SELECT max(id) FROM main.\"%L\"), 0))";
    /* clang-format on */
    int64_t end;
    ledger_rc rc = log_head(s, &end, err);

    if (rc == LEDGER_OK && position > end)
        rc = ldg_sql_exec_ints(s, reading, last_given_out, LDG_NO_INTS, &end, err);
    if (rc == LEDGER_OK && position > end)
        rc = ldg_fail(err, LEDGER_ERR_SOURCE_REWOUND,
                      "the cursor stands at %" PRId64 ", but the mutation log of %s ends at "
                      "%" PRId64 ": the source was restored from a backup, or the cursor was "
                      "written by hand. Put the newer file back, or rewind on purpose with "
                      "`ledgerctl bridge cursor set`",
                      position, s->path != NULL ? s->path : "the source", end);
    return rc;
}

ledger_rc ldg_sqlite_log_cursor_at(void *ctx, int64_t position, char state[LDG_CURSOR_STATE_MAX],
                                   ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    bool own = false, found = false;
    int64_t witness = -1; /* none */
    uint64_t hash = 0;
    ledger_rc rc;

    rc = ldg_sqlite_read_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = check_end(s, position, err);
    if (rc == LEDGER_OK)
        rc = ldg_sql_exec_ints(s, reading,
                               "SELECT id FROM main.\"%L\" WHERE id <= ?1 ORDER BY id DESC LIMIT 1",
                               LDG_INTS(position), &witness, err);
    if (rc == LEDGER_OK && witness >= 0)
        rc = row_hash(s, witness, &found, &hash, err);
    if (rc == LEDGER_OK)
        state_format(s, position, found ? witness : 0, found ? hash : 0, state);
    ldg_sqlite_read_end(s, own);
out:
    return rc;
}

ledger_rc ldg_sqlite_log_check(void *ctx, const char *state_text, int64_t *ret_position,
                               ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct state state;
    bool own = false;
    ledger_rc rc;

    rc = state_parse(state_text, &state, err);
    if (rc == LEDGER_OK)
        rc = check_identity(s, &state, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_read_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = check_witness(s, &state, err);
    ldg_sqlite_read_end(s, own);
    if (rc == LEDGER_OK)
        *ret_position = state.position;
out:
    return rc;
}

/* Time of the first row behind the cursor. */
static ledger_rc log_oldest(struct ldg_sqlite *s, int64_t position, int64_t *ret_time_us,
                            ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin(&q, s, reading,
                  "SELECT created_at FROM main.\"%L\" WHERE id > ?1 ORDER BY id LIMIT 1", err);
    ldg_sql_int(&q, position);
    *ret_time_us = ldg_sql_row(&q) ? ldg_sql_column_time(q.stmt, 0) : LEDGER_NO_TIME;
    return ldg_sql_end(&q);
}

ledger_rc ldg_sqlite_log_stat(void *ctx, const char *state_text, struct ldg_log_stat *ret_stat,
                              ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct ldg_log_stat stat = { .oldest_us = LEDGER_NO_TIME };
    struct state state;
    bool own = false;
    int64_t count = 0;
    ledger_rc rc;

    rc = state_parse(state_text, &state, err);
    if (rc == LEDGER_OK)
        rc = check_identity(s, &state, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_read_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = log_head(s, &stat.head, err);
    if (rc == LEDGER_OK && stat.head > state.position) {
        rc = ldg_sql_exec_ints(
            s, reading, "SELECT count(*) FROM (SELECT 1 FROM main.\"%L\" WHERE id > ?1 LIMIT 1001)",
            LDG_INTS(state.position), &count, err);
        /* Beyond that, counting costs more than it tells: ids have few gaps. */
        stat.backlog_count =
            count > BACKLOG_COUNT_MAX ? (uint64_t)(stat.head - state.position) : (uint64_t)count;
        if (rc == LEDGER_OK)
            rc = log_oldest(s, state.position, &stat.oldest_us, err);
        stat.lowest = count > 0 ? state.position + 1 : 0;
    }
    ldg_sqlite_read_end(s, own);
    if (rc == LEDGER_OK)
        *ret_stat = stat;
out:
    return rc;
}
