/* The source's side: reading the mutation log behind a cursor, and waiting for it to grow.
 *
 * One writer at a time gives out ids in commit order, so "id > position" misses nothing. Hides the
 * cursor's text, its witness, and how another process's commit is noticed. Invariants: reading never
 * writes and never checkpoints; a read transaction ends with its batch, so the WAL can be reset; no
 * row is given out before the witness was found unchanged in the same transaction. */
#include "backend/sqlite/sqlite.h"

#include "base/hash.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* Payloads over this size go from the file into the arena without SQLite's copy in between; it is
 * the limit in LDG_STMT_LOG_READ and LDG_STMT_LOG_ROW too. */
#define BLOB_PIECE_BYTES ((size_t)1024 * 1024)
#define FIRST_ROWS 64
#define BACKLOG_COUNT_MAX 100000

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
    return ok ? LEDGER_OK
              : ldg_fail(err, LEDGER_ERR_DATA,
                         "not a cursor of a SQLite source: \"%.80s\"; rewind the bridge with "
                         "`ledgerctl bridge cursor set`",
                         text);
}

static void state_format(const struct ldg_sqlite *s, int64_t position, int64_t witness_position,
                         uint64_t witness_hash, char text[LDG_CURSOR_STATE_MAX])
{
    sqlite3_snprintf(LDG_CURSOR_STATE_MAX, text, STATE_PREFIX "%s:%lld:%lld:%lld:%016llx",
                     s->identity.uuid, (long long)s->identity.epoch, (long long)position,
                     (long long)witness_position, (unsigned long long)witness_hash);
}

/* Piece by piece, so that a large row is hashed without being in memory; a row of one piece gives
 * ldg_hash64() over its bytes, seeded with its position. */
static uint64_t witness_hash(const void *data, size_t size, int64_t position)
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

/* --- reading --------------------------------------------------------------------------------- */

static ledger_rc read_begin(struct ldg_sqlite *s, bool *ret_own, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    *ret_own = sqlite3_get_autocommit(s->db) != 0;
    if (*ret_own)
        rc = ldg_sqlite_run(s, LDG_STMT_BEGIN, "beginning a read", err);
    return rc;
}

static void read_end(struct ldg_sqlite *s, bool own)
{
    ledger_error ignored = { 0 };

    if (own && ldg_sqlite_run(s, LDG_STMT_COMMIT, "ending a read", &ignored) != LEDGER_OK)
        ldg_sqlite_rollback(s);
}

/* Copies (out) or hashes (hash) the payload of a large row straight from the file. */
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

/* Hash of the row at this position; *ret_found false: there is none. */
static ledger_rc row_hash(struct ldg_sqlite *s, int64_t position, bool *ret_found,
                          uint64_t *ret_hash, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_LOG_ROW, err);
    ledger_rc rc = LEDGER_OK;

    if (stmt == NULL)
        return err->code;
    int code = sqlite3_bind_int64(stmt, 1, position);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW) {
        *ret_found = true;
        if (sqlite3_column_int(stmt, 1)) {
            rc = blob_read(s, position, NULL, NULL, ret_hash, err);
        } else {
            const void *data = sqlite3_column_blob(stmt, 0);
            *ret_hash = witness_hash(data != NULL ? data : "",
                                     (size_t)sqlite3_column_bytes(stmt, 0), position);
        }
    } else if (code == SQLITE_DONE) {
        *ret_found = false;
    } else {
        rc = ldg_sqlite_fail(s, code, "reading the mutation log", err);
    }
    sqlite3_reset(stmt);
    return rc;
}

/* One number of a statement whose only parameter is `argument` (INT64_MIN: it has none). */
static ledger_rc query_int(struct ldg_sqlite *s, enum ldg_sqlite_stmt_id id, int64_t argument,
                           bool *ret_found, int64_t *ret_value, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, id, err);
    ledger_rc rc = LEDGER_OK;
    int code = SQLITE_OK;

    if (stmt == NULL)
        return err->code;
    if (argument != INT64_MIN)
        code = sqlite3_bind_int64(stmt, 1, argument);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW) {
        *ret_found = true;
        *ret_value = sqlite3_column_int64(stmt, 0);
    } else if (code == SQLITE_DONE) {
        *ret_found = false;
    } else {
        rc = ldg_sqlite_fail(s, code, "reading the mutation log", err);
    }
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc log_head(struct ldg_sqlite *s, int64_t *ret_head, ledger_error *err)
{
    bool found;
    ledger_rc rc = query_int(s, LDG_STMT_LOG_HEAD, INT64_MIN, &found, ret_head, err);

    if (rc == LEDGER_OK && !found)
        *ret_head = 0;
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
                "commits. Put the newer file back, or rewind on purpose with `ledgerctl bridge "
                "cursor set`",
                state->witness_position, s->path != NULL ? s->path : "the source",
                found ? "is another one now" : "is gone", head);
    }
out:
    return rc;
}

/* The database file was deleted or another one stands in its place: what we read is history. */
static ledger_rc check_file(struct ldg_sqlite *s, ledger_error *err)
{
    int moved = 0;
    ledger_rc rc = LEDGER_OK;

    if (s->path != NULL &&
        sqlite3_file_control(s->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK && moved)
        rc = ldg_fail(err, LEDGER_ERR_CONNECT,
                      "%s was deleted or replaced by another file; it has to be opened again",
                      s->path);
    return rc;
}

static ledger_rc data_version(struct ldg_sqlite *s, int64_t *ret_version, ledger_error *err)
{
    bool found;

    return query_int(s, LDG_STMT_DATA_VERSION, INT64_MIN, &found, ret_version, err);
}

static ledger_rc batch_grow(struct ldg_log_batch *batch, size_t *cap, ledger_error *err)
{
    size_t next = *cap == 0 ? FIRST_ROWS : *cap * 2;
    struct ldg_log_row *rows = ldg_arena_calloc(&batch->arena, next, sizeof(*rows));

    if (rows == NULL)
        return ldg_fail_nomem(err);
    if (batch->count > 0)
        memcpy(rows, batch->rows, batch->count * sizeof(*rows));
    batch->rows = rows;
    *cap = next;
    return LEDGER_OK;
}

/* Takes the row that the statement stands on. *ret_full: it would go over the limit. */
static ledger_rc batch_take(struct ldg_sqlite *s, sqlite3_stmt *stmt,
                            const struct ldg_log_limits *limits, struct ldg_log_batch *batch,
                            size_t *cap, uint64_t *hash, bool *ret_full, ledger_error *err)
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
    if (time == NULL ||
        !ldg_time_parse(time, (size_t)sqlite3_column_bytes(stmt, 1), &row.created_at_us))
        row.created_at_us = LEDGER_NO_TIME;
    if (batch->count == *cap) {
        rc = batch_grow(batch, cap, err);
        if (rc != LEDGER_OK)
            goto out;
    }
    if (large > 0) {
        rc = blob_read(s, row.position, &batch->arena, &row.payload, hash, err);
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

static ledger_rc read_rows(struct ldg_sqlite *s, const struct state *state,
                           const struct ldg_log_limits *limits, struct ldg_log_batch *batch,
                           ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_LOG_READ, err);
    uint64_t hash = 0;
    size_t cap = 0;
    bool full = false, checked = s->witness_checked;
    ledger_rc rc = LEDGER_OK;
    int code;

    if (stmt == NULL)
        return err->code;
    int64_t limit = limits->max_count < INT64_MAX - 1 ? (int64_t)limits->max_count + 1 : INT64_MAX;
    code = sqlite3_bind_int64(stmt, 1, state->position);
    if (code == SQLITE_OK)
        code = sqlite3_bind_int64(stmt, 2, limit);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW || !checked) {
        rc = check_witness(s, state, err);
        if (rc != LEDGER_OK)
            goto out;
    }
    while (code == SQLITE_ROW && !full) {
        if (batch->count == limits->max_count || batch->bytes >= limits->max_bytes) {
            full = batch->count > 0;
            if (full)
                break;
        }
        rc = batch_take(s, stmt, limits, batch, &cap, &hash, &full, err);
        if (rc != LEDGER_OK)
            goto out;
        if (!full)
            code = sqlite3_step(stmt);
    }
    if (code != SQLITE_ROW && code != SQLITE_DONE) {
        rc = ldg_sqlite_fail(s, code, "reading the mutation log", err);
        goto out;
    }
    batch->more = full;
    if (batch->count > 0) {
        const struct ldg_log_row *last = &batch->rows[batch->count - 1];

        if (last->payload.size <= BLOB_PIECE_BYTES)
            hash = witness_hash(last->payload.data, last->payload.size, last->position);
        batch->next_position = last->position;
        state_format(s, last->position, last->position, hash, batch->next_state);
    }
out:
    sqlite3_reset(stmt);
    return rc;
}

static ledger_rc watch_get(struct ldg_sqlite *s, struct ldg_sqlite_watch **ret_watch,
                           ledger_error *err);
static void watch_seen(struct ldg_sqlite_watch *w, int64_t version);

ledger_rc ldg_sqlite_log_read(void *ctx, const char *state_text,
                              const struct ldg_log_limits *limits, struct ldg_log_batch *batch,
                              ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct ldg_sqlite_watch *watch;
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
        rc = watch_get(s, &watch, err);
    if (rc == LEDGER_OK)
        rc = read_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    sqlite3_snprintf(sizeof(batch->next_state), batch->next_state, "%s", state_text);
    batch->next_position = state.position;
    rc = read_rows(s, &state, limits, batch, err);
    /* Inside the transaction it is the version of what was read. */
    if (rc == LEDGER_OK)
        rc = data_version(s, &version, err);
    read_end(s, own);
    if (rc == LEDGER_OK && batch->count == 0)
        rc = check_file(s, err);
    if (rc == LEDGER_OK) {
        s->witness_checked = true;
        watch_seen(watch, version);
    }
out:
    if (rc != LEDGER_OK) {
        batch->count = 0;
        batch->rows = NULL;
        batch->more = false;
    }
    return rc;
}

ledger_rc ldg_sqlite_log_cursor_at(void *ctx, int64_t position, char state[LDG_CURSOR_STATE_MAX],
                                   ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    bool own = false, found = false;
    int64_t witness = 0;
    uint64_t hash = 0;
    ledger_rc rc;

    rc = read_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = query_int(s, LDG_STMT_LOG_NEAREST, position, &found, &witness, err);
    if (rc == LEDGER_OK && found)
        rc = row_hash(s, witness, &found, &hash, err);
    if (rc == LEDGER_OK)
        state_format(s, position, found ? witness : 0, found ? hash : 0, state);
    read_end(s, own);
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
        rc = read_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = check_witness(s, &state, err);
    read_end(s, own);
    if (rc == LEDGER_OK)
        *ret_position = state.position;
out:
    return rc;
}

static ledger_rc log_oldest(struct ldg_sqlite *s, int64_t position, int64_t *ret_time_us,
                            ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_LOG_OLDEST, err);
    ledger_rc rc = LEDGER_OK;

    if (stmt == NULL)
        return err->code;
    *ret_time_us = LEDGER_NO_TIME;
    int code = sqlite3_bind_int64(stmt, 1, position);
    if (code == SQLITE_OK)
        code = sqlite3_step(stmt);
    if (code == SQLITE_ROW) {
        const char *time = (const char *)sqlite3_column_text(stmt, 0);
        int64_t time_us;

        if (time != NULL && ldg_time_parse(time, (size_t)sqlite3_column_bytes(stmt, 0), &time_us))
            *ret_time_us = time_us;
    } else if (code != SQLITE_DONE) {
        rc = ldg_sqlite_fail(s, code, "reading the mutation log", err);
    }
    sqlite3_reset(stmt);
    return rc;
}

ledger_rc ldg_sqlite_log_stat(void *ctx, const char *state_text, struct ldg_log_stat *ret_stat,
                              ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct ldg_log_stat stat = { .oldest_us = LEDGER_NO_TIME };
    struct state state;
    bool own = false, found;
    int64_t count = 0;
    ledger_rc rc;

    rc = state_parse(state_text, &state, err);
    if (rc == LEDGER_OK)
        rc = check_identity(s, &state, err);
    if (rc == LEDGER_OK)
        rc = read_begin(s, &own, err);
    if (rc != LEDGER_OK)
        goto out;
    rc = log_head(s, &stat.head, err);
    if (rc == LEDGER_OK && stat.head > state.position) {
        rc = query_int(s, LDG_STMT_LOG_BACKLOG, state.position, &found, &count, err);
        /* Beyond that, counting costs more than it tells: ids have few gaps. */
        stat.backlog_count = count > BACKLOG_COUNT_MAX ? (uint64_t)(stat.head - state.position)
                                                       : (uint64_t)count;
        if (rc == LEDGER_OK)
            rc = log_oldest(s, state.position, &stat.oldest_us, err);
    }
    read_end(s, own);
    if (rc == LEDGER_OK)
        *ret_stat = stat;
out:
    return rc;
}

/* --- waiting --------------------------------------------------------------------------------- */

/* With a rollback journal the database file itself is watched, else the WAL, which comes and goes.
 * Names are views into `folder`. */
struct ldg_sqlite_watch {
    int64_t seen_version; /* of the last read */
    bool seen;
    int64_t event_us;     /* of the last file event: its commit may not have shown yet */
    int inotify_fd;       /* -1: not available */
    int folder_wd;
    int file_wd;          /* of the WAL, or of the database file; -1: none */
    bool file_is_wal;
    char *folder;
    const char *name;     /* of the database file in the folder */
    size_t name_size;
    char *wal_path;
};

/* A commit becomes visible after its file event: with synchronous=FULL after an fsync that takes
 * milliseconds, on a slow disk much longer. So looks are dense at first and end late. */
static const int64_t first_looks_us[] = { 30, 60, 200, 1000 };
#define LOOK_MAX_US (50 * 1000)
#define LOOK_DENSE_US (500 * 1000)
#define LOOK_TOTAL_US (10 * 1000 * 1000)

/* Without inotify. */
#define POLL_MIN_US 1000
#define POLL_MAX_US (50 * 1000)

static void watch_free(struct ldg_sqlite_watch *w)
{
    if (w != NULL) {
        if (w->inotify_fd >= 0)
            close(w->inotify_fd);
        ldg_free(w->folder);
        ldg_free(w->wal_path);
        ldg_free(w);
    }
}

void ldg_sqlite_watch_close(struct ldg_sqlite *s)
{
    watch_free(s->watch);
    s->watch = NULL;
}

static ledger_rc watch_get(struct ldg_sqlite *s, struct ldg_sqlite_watch **ret_watch,
                           ledger_error *err)
{
    struct ldg_sqlite_watch *w = s->watch;
    ledger_rc rc = LEDGER_OK;

    if (w == NULL) {
        w = ldg_calloc(1, sizeof(*w));
        if (w == NULL) {
            rc = ldg_fail_nomem(err);
            goto out;
        }
        w->inotify_fd = -1;
        w->folder_wd = -1;
        w->file_wd = -1;
        s->watch = w;
    }
    *ret_watch = w;
out:
    return rc;
}

static void watch_seen(struct ldg_sqlite_watch *w, int64_t version)
{
    w->seen = true;
    w->seen_version = version;
}

/* Watches the file that the next commit is written to. A watch follows the inode, not the name, so
 * it is set again whenever a name has changed. */
static void watch_file(struct ldg_sqlite *s, struct ldg_sqlite_watch *w)
{
    int wd = inotify_add_watch(w->inotify_fd, w->wal_path, IN_MODIFY);
    bool is_wal = wd >= 0;

    if (!is_wal)
        wd = inotify_add_watch(w->inotify_fd, s->path, IN_MODIFY);
    if (w->file_wd >= 0 && w->file_wd != wd)
        (void)inotify_rm_watch(w->inotify_fd, w->file_wd); /* fails when its file is gone */
    w->file_wd = wd;
    w->file_is_wal = is_wal;
}

/* What inotify refuses (too many watches, no such call) leaves polling, which always works. */
static ledger_rc watch_open(struct ldg_sqlite *s, struct ldg_sqlite_watch *w, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (w->folder != NULL || s->path == NULL)
        goto out;
    size_t size = strlen(s->path);
    const char *slash = strrchr(s->path, '/');
    w->wal_path = ldg_malloc(size + sizeof("-wal"));
    w->folder = ldg_malloc(size + 3); /* "./" for a bare name, and the NUL between */
    if (w->wal_path == NULL || w->folder == NULL) {
        ldg_free(w->wal_path);
        ldg_free(w->folder);
        w->wal_path = w->folder = NULL;
        rc = ldg_fail_nomem(err);
        goto out;
    }
    memcpy(w->wal_path, s->path, size);
    memcpy(w->wal_path + size, "-wal", sizeof("-wal"));
    size_t folder_size = slash == NULL ? 0 : slash == s->path ? 1 : (size_t)(slash - s->path);
    memcpy(w->folder, slash == NULL ? "." : s->path, slash == NULL ? 1 : folder_size);
    w->folder[slash == NULL ? 1 : folder_size] = '\0';
    w->name = slash == NULL ? s->path : slash + 1;
    w->name_size = strlen(w->name);
    w->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (w->inotify_fd < 0)
        goto out;
    w->folder_wd = inotify_add_watch(w->inotify_fd, w->folder,
                                     IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_MOVED_FROM);
    watch_file(s, w);
    w->event_us = ldg_clock_mono_us(); /* a commit may be on its way already */
    if (w->folder_wd < 0 || w->file_wd < 0) {
        close(w->inotify_fd);
        w->inotify_fd = -1;
    }
out:
    return rc;
}

struct events {
    bool file;   /* something that a commit may have caused */
    bool moved;  /* the database file itself came or went */
};

/* Reads what inotify has; never blocks. */
static struct events watch_drain(struct ldg_sqlite *s, struct ldg_sqlite_watch *w)
{
    _Alignas(struct inotify_event) char data[4096];
    struct events events = { false, false };
    bool renew = false;
    ssize_t size;

    while ((size = read(w->inotify_fd, data, sizeof(data))) > 0) {
        const struct inotify_event *event;

        for (char *p = data; p < data + size; p += sizeof(*event) + event->len) {
            event = (const struct inotify_event *)(void *)p;
            if (event->mask & IN_Q_OVERFLOW) {
                events.file = true;
                renew = true;
            } else if (event->wd == w->file_wd) {
                events.file = true;
                renew = renew || (event->mask & IN_IGNORED);
            } else if (event->wd == w->folder_wd && event->len > 0 &&
                       strncmp(event->name, w->name, w->name_size) == 0) {
                const char *rest = event->name + w->name_size;

                if (*rest == '\0')
                    events.moved = true;
                else if (strcmp(rest, "-wal") == 0)
                    renew = true;
                else if (strcmp(rest, "-journal") != 0)
                    continue;
                events.file = true;
            }
        }
    }
    if (renew)
        watch_file(s, w);
    if (events.file)
        w->event_us = ldg_clock_mono_us();
    return events;
}

enum wake { WAKE_TIMEOUT, WAKE_CALLER, WAKE_FILE, WAKE_MOVED };

/* Sleeps on the descriptors; us < 0: for ever. */
static enum wake watch_poll(struct ldg_sqlite *s, struct ldg_sqlite_watch *w, int wake_fd,
                            int64_t us)
{
    struct pollfd fds[2] = { { .fd = wake_fd, .events = POLLIN },
                             { .fd = w->inotify_fd, .events = POLLIN } };
    struct timespec time = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
    enum wake wake = WAKE_TIMEOUT;
    int n = ppoll(fds, 2, us < 0 ? NULL : &time, NULL); /* a negative fd is passed over */

    if (n < 0 || fds[0].revents != 0) {
        wake = WAKE_CALLER; /* a signal too: waits may end early */
    } else if (fds[1].revents != 0) {
        struct events events = watch_drain(s, w);

        wake = events.moved ? WAKE_MOVED : events.file ? WAKE_FILE : WAKE_TIMEOUT;
    }
    return wake;
}

static int64_t next_look(int64_t us, unsigned *step)
{
    size_t count = sizeof(first_looks_us) / sizeof(first_looks_us[0]);

    if (*step < count)
        return first_looks_us[(*step)++];
    us *= 2;
    return us < LOOK_MAX_US ? us : LOOK_MAX_US;
}

/* After a file event: looks until a commit shows, or so long that none can follow. *ret_done: stop
 * waiting. */
static ledger_rc watch_look(struct ldg_sqlite *s, struct ldg_sqlite_watch *w, int wake_fd,
                            int64_t deadline_us, bool *ret_done, ledger_error *err)
{
    int64_t pause = 0;
    unsigned step = 0;
    ledger_rc rc;

    *ret_done = true;
    while (true) {
        int64_t version, now = ldg_clock_mono_us(), age = now - w->event_us;
        enum wake wake;

        rc = data_version(s, &version, err);
        if (rc != LEDGER_OK || !w->seen || version != w->seen_version || now >= deadline_us)
            break;
        if (age >= LOOK_TOTAL_US) {
            *ret_done = false;
            break;
        }
        /* Late looks are for one slow fsync: a thousandth of a core at most. */
        pause = age < LOOK_DENSE_US ? next_look(pause, &step) : age / 8;
        if (pause > deadline_us - now)
            pause = deadline_us - now;
        wake = watch_poll(s, w, wake_fd, pause);
        if (wake == WAKE_CALLER || wake == WAKE_MOVED)
            break;
        if (wake == WAKE_FILE)
            step = 0;
    }
    return rc;
}

static ledger_rc wait_inotify(struct ldg_sqlite *s, struct ldg_sqlite_watch *w, int wake_fd,
                              int64_t deadline_us, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    bool done = false;

    while (!done) {
        int64_t now = ldg_clock_mono_us();

        /* Also for an event that an earlier wait has taken: it may have belonged to two commits. */
        rc = watch_look(s, w, wake_fd, deadline_us, &done, err);
        if (rc != LEDGER_OK || done || now >= deadline_us)
            break;
        enum wake wake =
            watch_poll(s, w, wake_fd, deadline_us == INT64_MAX ? -1 : deadline_us - now);
        done = wake == WAKE_CALLER || wake == WAKE_MOVED;
    }
    return rc;
}

static ledger_rc wait_polling(struct ldg_sqlite *s, struct ldg_sqlite_watch *w, int wake_fd,
                              int64_t deadline_us, ledger_error *err)
{
    int64_t pause = POLL_MIN_US;
    ledger_rc rc = LEDGER_OK;

    while (true) {
        int64_t version, now = ldg_clock_mono_us();

        if (now >= deadline_us)
            break;
        if (watch_poll(s, w, wake_fd, pause < deadline_us - now ? pause : deadline_us - now) ==
            WAKE_CALLER)
            break;
        rc = data_version(s, &version, err);
        if (rc != LEDGER_OK || version != w->seen_version)
            break;
        pause = pause * 2 < POLL_MAX_US ? pause * 2 : POLL_MAX_US;
    }
    return rc;
}

ledger_rc ldg_sqlite_log_wait(void *ctx, int wake_fd, int64_t timeout_ms, ledger_error *err)
{
    static _Thread_local bool slack_set;
    struct ldg_sqlite *s = ctx;
    struct ldg_sqlite_watch *w;
    int64_t version, deadline_us, now = ldg_clock_mono_us();
    ledger_rc rc;

    if (!slack_set) { /* 50 µs by default: as much as the whole wait after an event */
        (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
        slack_set = true;
    }
    deadline_us = timeout_ms < 0 || timeout_ms > (INT64_MAX - now) / 1000 ? INT64_MAX
                                                                          : now + timeout_ms * 1000;
    rc = watch_get(s, &w, err);
    if (rc == LEDGER_OK)
        rc = watch_open(s, w, err);
    /* The watch stands; what was committed between the last read and now shows here. */
    if (rc == LEDGER_OK)
        rc = data_version(s, &version, err);
    if (rc != LEDGER_OK || !w->seen || version != w->seen_version)
        goto out;
    if (w->inotify_fd >= 0)
        rc = wait_inotify(s, w, wake_fd, deadline_us, err);
    else
        rc = wait_polling(s, w, wake_fd, deadline_us, err);
out:
    return rc;
}
