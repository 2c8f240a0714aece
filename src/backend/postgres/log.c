/* The source's side: reading the mutation log behind a cursor, in the order of commits.
 *
 * Ids are drawn before commit, so no id tells what was carried. A batch is what a new snapshot sees
 * and the cursor's did not; that difference is read in pages by id, its snapshot fixed, until it is
 * read out. Invariants: every row is given out in exactly one difference; what is stored is cut at
 * the highest transaction that was carried, because numbers above it may be given out again after a
 * crash, and guarded by that transaction's row, whose presence proves that those below it may not;
 * no row is given out before that row was found unchanged. */
#include <inttypes.h>
#include <string.h>

#include "backend/postgres/source.h"

#define BACKLOG_COUNT_MAX 1000
#define LOWEST_SCAN_MAX 100000
/* So many of a difference are counted, and what is counted begins anew behind them. */
#define TALLY_ROWS_MAX 50000
/* A larger payload comes in slices of this size: libpq would hold all of it in its buffer, for as
 * long as the connection lasts, and once more in the result. */
#define SLICE_BYTES 4194304
#define TEXT_OF(number) #number
#define DIGITS_OF(number) TEXT_OF(number)
/* A difference that has rows is followed by a page that holds them, unless they are deleted
 * between. */
#define ROUNDS_MAX 8

static const char doing[] = "reading the mutation log";

/* --- pages ----------------------------------------------------------------------------------- */

enum { KIND_SERVER, KIND_CARRIED, KIND_TOP, KIND_ROW };
enum page_column { PAGE_KIND, PAGE_ID, PAGE_TXID, PAGE_TIME, PAGE_SIZE, PAGE_PAYLOAD };

/* $1 carried, $2 top, $3 id from, $4 id to, $5 s1, $6 rows, $7 bytes. Sizes of values are known
 * without fetching them, so a page is cut before its payloads are loaded. */
#define WITNESS_ROW(kind, id)                                                                      \
    "SELECT " kind ", id, txid, created_at, octet_length(payload)::int8, "                         \
    "substring(payload FROM 1 FOR 4096) FROM \"{l}\" WHERE id = " id " UNION ALL "
#define PAGE_HEAD                                                                                  \
    "SELECT 0, pg_is_in_recovery()::int4::int8, NULL::xid8, NULL::timestamptz, NULL::int8, "       \
    "NULL::bytea UNION ALL " WITNESS_ROW("1", "$1") WITNESS_ROW(                                   \
        "2",                                                                                       \
        "$2") "SELECT 3, q.id, q.txid, q.created_at, octet_length(q.payload)::int8, "              \
              "CASE WHEN octet_length(q.payload) <= " DIGITS_OF(                                   \
                  SLICE_BYTES) " THEN q.payload END "                                              \
                               "FROM (SELECT p.*, sum(octet_length(p.payload)) OVER w AS bytes, "  \
                               "row_number() OVER w AS number FROM ("
#define PAGE_TAIL                                                                                  \
    ") p WINDOW w AS (ORDER BY p.id ROWS UNBOUNDED PRECEDING)) q "                                 \
    "WHERE q.bytes <= $7 OR q.number = 1"
#define ROWS "SELECT id, txid, created_at, payload FROM \"{l}\" WHERE "

/* Behind nothing. $8 floor. */
static const char page_all[] =
    PAGE_HEAD ROWS "id > $3 AND id <= $4 AND (id <= $8 OR txid IS NULL OR "
                   "pg_visible_in_snapshot(txid, $5::pg_snapshot)) ORDER BY id LIMIT $6" PAGE_TAIL;
/* $8 a set of all below the cursor's xmax; $9 s0, $10 the highest id that was carried: a row behind
 * that which s0 has is none of the difference, and its number was not the server's; nor is none a
 * number. Conditions that no index serves: the rows lie together
 * at the end of the primary key, and a plan by (txid, id) would sort them for every page. */
#define ROWS_NEW                                                                                   \
    ROWS "id > $3 AND id <= $4 AND ((pg_visible_in_snapshot(txid, $5::pg_snapshot) AND NOT "       \
         "pg_visible_in_snapshot(txid, $8::pg_snapshot)) OR (id > $10 AND (txid IS NULL OR "       \
         "pg_visible_in_snapshot(txid, $9::pg_snapshot)))) ORDER BY id LIMIT $6"
static const char page_new[] = PAGE_HEAD ROWS_NEW PAGE_TAIL;
/* $11 transactions that were open then, $12 id from, of theirs. */
static const char page_mixed[] = PAGE_HEAD
    "SELECT * FROM ((" ROWS_NEW ") UNION ALL (SELECT r.* FROM "
    "unnest(string_to_array($11, ',')::xid8[]) x CROSS JOIN LATERAL (" ROWS
    "txid = x AND id > $12 AND id <= $4 ORDER BY id LIMIT $6) r)) u ORDER BY id LIMIT $6" PAGE_TAIL;

struct page {
    PGresult *result;
    int first_row, row_count;
    bool carried_ok, carried_found, top_ok;
};

static void print_list(const uint64_t *items, size_t count, struct ldg_buf *out)
{
    for (size_t i = 0; i < count; i++)
        ldg_buf_printf(out, i ? ",%" PRIu64 : "%" PRIu64, items[i]);
}

static ledger_rc judge_page(struct ldg_pg *pg, const struct ldg_pg_cursor *c, struct page *page,
                            ledger_error *err)
{
    int count = PQntuples(page->result), i = 0;

    page->carried_ok = c->carried.id == 0;
    page->top_ok = c->top.id == 0;
    for (; i < count; i++) {
        int64_t kind = ldg_pg_get_int64(page->result, i, PAGE_KIND);

        if (kind == KIND_ROW)
            break;
        if (kind == KIND_SERVER && ldg_pg_get_int64(page->result, i, PAGE_ID) != 0)
            return ldg_pg_fail_standby(pg, err);
        if (kind == KIND_CARRIED) {
            page->carried_found = true;
            page->carried_ok = ldg_pg_witness_is(&c->carried, page->result, i, PAGE_ID);
        } else if (kind == KIND_TOP) {
            page->top_ok = ldg_pg_witness_is(&c->top, page->result, i, PAGE_ID);
        }
    }
    page->first_row = i;
    page->row_count = count - i;
    return page->carried_ok ? LEDGER_OK
                            : ldg_pg_fail_witness(pg, &c->carried, page->carried_found, err);
}

/* The next rows of the open difference; low: none of those not below s0's xmax has a lower id. */
static ledger_rc read_page(struct ldg_pg *pg, const struct ldg_pg_cursor *c, int64_t low,
                           const struct ldg_log_limits *limits, struct page *page,
                           ledger_error *err)
{
    const struct ldg_pg_snapshot below = { .xmax = c->s0.xmax };
    struct ldg_buf s1, s0, list, carried;
    struct ldg_pg_args args = { 0 };
    const char *template = page_all;
    uint64_t *ended = NULL;
    size_t ended_count = 0;
    int64_t from = c->last;
    ledger_rc rc = LEDGER_OK;

    ldg_buf_init(&s1, SIZE_MAX);
    ldg_buf_init(&s0, SIZE_MAX);
    ldg_buf_init(&list, SIZE_MAX);
    ldg_buf_init(&carried, SIZE_MAX);
    ldg_pg_snapshot_print(&c->s1, &s1);
    ldg_pg_snapshot_print(&below, &s0);
    ldg_pg_snapshot_print(&c->s0, &carried);
    if (!ldg_pg_snapshot_ended(&c->s0, &c->s1, &pg->source->work, &ended, &ended_count))
        s0.rc = LEDGER_ERR_NOMEM;
    print_list(ended, ended_count, &list);
    if (s1.rc != LEDGER_OK || s0.rc != LEDGER_OK || list.rc != LEDGER_OK ||
        carried.rc != LEDGER_OK) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    if (c->s0.xmax > 0) {
        template = ended_count > 0 ? page_mixed : page_new;
        from = from > c->floor ? from : c->floor;
    }
    ldg_pg_arg_int64(&args, c->carried.id);
    ldg_pg_arg_int64(&args, c->top.id);
    ldg_pg_arg_int64(&args, from > low - 1 ? from : low - 1);
    ldg_pg_arg_int64(&args, c->end);
    ldg_pg_arg_text(&args, s1.data);
    ldg_pg_arg_int64(&args, limits->max_count < INT64_MAX ? (int64_t)limits->max_count : INT64_MAX);
    ldg_pg_arg_int64(&args, limits->max_bytes < INT64_MAX ? (int64_t)limits->max_bytes : INT64_MAX);
    if (template == page_all)
        ldg_pg_arg_int64(&args, c->floor);
    else
        ldg_pg_arg_text(&args, s0.data);
    if (template != page_all) {
        ldg_pg_arg_text(&args, carried.data);
        ldg_pg_arg_int64(&args, c->position > c->floor ? c->position : c->floor);
    }
    if (template == page_mixed) {
        ldg_pg_arg_text(&args, list.data);
        ldg_pg_arg_int64(&args, from);
    }
    rc = ldg_pg_run(pg, LDG_PG_KEEP, doing, template, &args, &page->result, err);
    if (rc == LEDGER_OK)
        rc = judge_page(pg, c, page, err);
out:
    ldg_buf_fini(&carried);
    ldg_buf_fini(&list);
    ldg_buf_fini(&s0);
    ldg_buf_fini(&s1);
    return rc;
}

/* $1 id, $2 from, $3 bytes */
static const char slice[] = "SELECT substring(payload FROM $2 FOR $3) FROM \"{l}\" WHERE id = $1";

static ledger_rc read_slices(struct ldg_pg *pg, int64_t id, char *data, size_t size,
                             ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t at = 0; rc == LEDGER_OK && at < size; at += SLICE_BYTES) {
        size_t want = size - at < SLICE_BYTES ? size - at : SLICE_BYTES;
        struct ldg_pg_args args = { 0 };
        PGresult *result = NULL;

        ldg_pg_arg_int64(&args, id);
        ldg_pg_arg_int32(&args, (int32_t)at + 1);
        ldg_pg_arg_int32(&args, SLICE_BYTES);
        rc = ldg_pg_run(pg, LDG_PG_KEEP, doing, slice, &args, &result, err);
        if (rc == LEDGER_OK) {
            ledger_bytes got = { NULL, 0 };

            if (PQntuples(result) > 0)
                got = ldg_pg_get_bytes(result, 0, 0);
            if (got.size == want)
                memcpy(data + at, got.data, want);
            else
                rc = ldg_fail(err, LEDGER_ERR_BUSY,
                              "row %" PRId64 " of the mutation log \"%s\" was deleted or changed "
                              "while it was read",
                              id, pg->log_table);
        }
        PQclear(result);
    }
    return rc;
}

/* Into the batch's arena. */
static ledger_rc take_payload(struct ldg_pg *pg, const PGresult *result, int row,
                              struct ldg_arena *arena, ledger_bytes *ret_payload, ledger_error *err)
{
    const bool whole = !PQgetisnull(result, row, PAGE_PAYLOAD);
    ledger_bytes payload = { NULL, (size_t)ldg_pg_get_int64(result, row, PAGE_SIZE) };
    ledger_rc rc = LEDGER_OK;
    char *copy;

    if (whole)
        payload = ldg_pg_get_bytes(result, row, PAGE_PAYLOAD);
    copy = ldg_arena_alloc(arena, payload.size);
    if (!copy)
        return ldg_fail_nomem(err);
    if (!whole)
        rc = read_slices(pg, ldg_pg_get_int64(result, row, PAGE_ID), copy, payload.size, err);
    else if (payload.size > 0)
        memcpy(copy, payload.data, payload.size);
    if (rc == LEDGER_OK)
        *ret_payload = (ledger_bytes){ copy, payload.size };
    return rc;
}

/* Copies the rows into the batch, and carries them. */
static ledger_rc take_rows(struct ldg_pg *pg, const struct page *page, struct ldg_pg_cursor *c,
                           struct ldg_log_batch *batch, ledger_error *err)
{
    const PGresult *result = page->result;

    batch->rows = ldg_arena_calloc(&batch->arena, (size_t)page->row_count, sizeof(*batch->rows));
    if (!batch->rows)
        return ldg_fail_nomem(err);
    if (c->tally_count >= TALLY_ROWS_MAX) {
        c->tally_count = c->tally_sum = 0;
        c->since = c->last;
    }
    for (int i = page->first_row; i < page->first_row + page->row_count; i++) {
        int64_t id = ldg_pg_get_int64(result, i, PAGE_ID);
        int64_t time_us = ldg_pg_get_time(result, i, PAGE_TIME);
        struct ldg_pg_witness w = { id, ldg_pg_get_txid(result, i, PAGE_TXID), 0 };
        const bool none = PQgetisnull(result, i, PAGE_TXID);
        ledger_bytes payload;

        if (c->s0.xmax > 0 && (none || ldg_pg_snapshot_sees(&c->s0, w.txid)))
            return ldg_pg_fail_number(pg, id, none, err);
        if (id <= c->last)
            return ldg_fail(err, LEDGER_ERR_INTERNAL,
                            "the log's rows came out of order: %" PRId64 " after %" PRId64, id,
                            c->last);
        ledger_rc rc = take_payload(pg, result, i, &batch->arena, &payload, err);
        if (rc != LEDGER_OK)
            return rc;
        batch->rows[batch->count++] = (struct ldg_log_row){ id, payload, time_us };
        batch->bytes += payload.size;
        if (ldg_pg_witness_higher(c->carried, w).id == id) {
            w.hash = ldg_pg_witness_hash(id, payload, (int64_t)payload.size, time_us);
            c->carried = w;
        }
        c->tally_count++;
        c->tally_sum += (uint64_t)id % LDG_PG_TALLY;
        c->last = id;
        c->position = id > c->position ? id : c->position;
    }
    return LEDGER_OK;
}

/* --- differences ----------------------------------------------------------------------------- */

static bool open_difference(struct ldg_pg *pg, struct ldg_pg_cursor *c,
                            const struct ldg_pg_log_diff *diff)
{
    struct ldg_arena *arena = &pg->source->work;
    uint64_t xmax = diff->top_txid + 1 > c->s0.xmax ? diff->top_txid + 1 : c->s0.xmax;

    if (!ldg_pg_snapshot_settle(&c->s0, &diff->s1, diff->ended, diff->ended_count, arena, &c->s0) ||
        !ldg_pg_snapshot_cut(&diff->s1, xmax, arena, &c->s1))
        return false;
    c->open = true;
    c->last = c->since = 0;
    c->tally_count = c->tally_sum = 0;
    c->end = diff->end;
    c->top = (struct ldg_pg_witness){ 0 };
    if (c->s0.xmax == 0 && diff->floor > c->floor)
        c->floor = diff->floor;
    return true;
}

/* The difference is read out. */
static bool close_difference(struct ldg_pg *pg, struct ldg_pg_cursor *c)
{
    c->carried = ldg_pg_witness_higher(c->carried, c->top);
    c->top = (struct ldg_pg_witness){ 0 };
    c->open = false;
    c->before = c->s0;
    uint64_t xmax = c->carried.txid + 1 > c->s0.xmax ? c->carried.txid + 1 : c->s0.xmax;
    return ldg_pg_snapshot_cut(&c->s1, xmax, &pg->source->work, &c->s0);
}

/* One call of log_read. */
struct reading {
    struct ldg_pg *pg;
    const char *state;
    struct ldg_pg_cursor cursor;
    const struct ldg_pg_snapshot *seen; /* whole snapshot of the difference; NULL: not known */
    struct ldg_pg_log_diff diff;
    bool fresh; /* the difference was read by this call */
};

/* What is behind the cursor, found now or by the wait before this call. */
static ledger_rc read_diff(struct reading *r, ledger_error *err)
{
    struct ldg_pg_source *s = r->pg->source;
    ledger_rc rc = LEDGER_OK;

    if (s->has_diff && ldg_pg_source_knows(r->pg, r->state))
        r->diff = s->diff;
    else
        rc = ldg_pg_log_diff_read(r->pg, &r->cursor,
                                  r->fresh ? &r->cursor.s0
                                           : ldg_pg_source_seen(r->pg, r->state, &r->cursor),
                                  &r->diff, err);
    s->has_diff = false;
    r->fresh = true;
    r->seen = &r->diff.s1;
    return rc;
}

/* After a page that did not end the difference: its highest transaction has to be guarded, too. */
static ledger_rc guard_top(struct reading *r, const struct ldg_pg_log_diff *diff, ledger_error *err)
{
    if (diff->top_id == 0 || diff->top_id == r->cursor.carried.id)
        return LEDGER_OK;
    ledger_rc rc = ldg_pg_witness_read(r->pg, diff->top_id, false, &r->cursor.top, err);
    r->cursor.top.id = diff->top_id; /* gone: then the next page finds that, too */
    r->cursor.top.txid = diff->top_txid;
    return rc;
}

/* The cursor behind what was taken, and whether more follows. */
static ledger_rc finish(struct reading *r, struct ldg_log_batch *batch, ledger_error *err)
{
    struct ldg_pg_cursor *c = &r->cursor;
    struct ldg_pg *pg = r->pg;
    struct ldg_pg_log_diff next = { .any = false };
    bool read_out = c->last >= c->end;
    ledger_rc rc = LEDGER_OK;

    if (read_out) {
        if (!close_difference(pg, c))
            rc = ldg_fail_nomem(err);
    } else if (r->fresh) {
        rc = guard_top(r, &r->diff, err);
    }
    if (rc == LEDGER_OK && read_out && !r->fresh)
        rc = ldg_pg_log_diff_read(pg, c, r->seen ? r->seen : &c->s0, &next, err);
    c->set = true;
    c->identity = pg->identity;
    if (pg->system_id[0])
        memcpy(c->system_id, pg->system_id, sizeof(c->system_id));
    if (rc == LEDGER_OK)
        rc = ldg_pg_cursor_format(c, batch->next_state, err);
    if (rc == LEDGER_OK) {
        batch->more = !read_out || next.any;
        batch->next_position = c->position;
        rc = ldg_pg_source_keep(pg, batch->next_state, read_out && !r->fresh ? &next.s1 : r->seen,
                                next.any ? &next : NULL, err);
    }
    return rc;
}

static ledger_rc read_behind(struct reading *r, const struct ldg_log_limits *limits,
                             struct ldg_log_batch *batch, ledger_error *err)
{
    struct ldg_pg_cursor *c = &r->cursor;
    const struct ldg_pg_cursor given = *c;
    struct page page = { NULL };
    ledger_rc rc = LEDGER_OK;

    if (c->open && !r->pg->pooled && ldg_pg_source_knows(r->pg, r->state))
        r->seen = &r->pg->source->seen;
    for (int round = 0; rc == LEDGER_OK && batch->count == 0; round++) {
        if (round == ROUNDS_MAX)
            rc = ldg_fail(err, LEDGER_ERR_INTERNAL, "rows of the log come and go");
        if (rc == LEDGER_OK && !c->open) {
            rc = read_diff(r, err);
            if (rc != LEDGER_OK || !r->diff.any)
                break;
            if (!open_difference(r->pg, c, &r->diff))
                rc = ldg_fail_nomem(err);
        }
        PQclear(page.result);
        page.result = NULL;
        if (rc == LEDGER_OK)
            rc = read_page(r->pg, c, r->fresh ? r->diff.low : 0, limits, &page, err);
        if (rc != LEDGER_OK)
            break;
        if (!page.top_ok) {
            /* The cluster has lost the last commits of the snapshot, none of which was carried;
             * their numbers may be in use again. What was carried of the rest comes once more. */
            *c = given;
            c->open = false;
            c->top = (struct ldg_pg_witness){ 0 };
            r->seen = NULL;
            r->pg->source->known = false;
        } else if (page.row_count > 0) {
            rc = take_rows(r->pg, &page, c, batch, err);
        } else if (!close_difference(r->pg, c)) {
            rc = ldg_fail_nomem(err);
        } else {
            r->pg->source->has_diff = false;
        }
    }
    PQclear(page.result);
    if (rc == LEDGER_OK && batch->count > 0)
        rc = finish(r, batch, err);
    if (rc == LEDGER_OK && batch->count == 0) {
        rc = ldg_pg_source_keep(r->pg, r->state, r->seen, NULL, err);
        r->pg->source->spent = rc == LEDGER_OK;
    }
    return rc;
}

static ledger_rc begin(struct ldg_pg *pg, const char *state, struct ldg_pg_cursor *cursor,
                       bool any_cluster, ledger_error *err)
{
    struct ldg_pg_source *s;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc == LEDGER_OK)
        rc = ldg_pg_source_get(pg, &s, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_cursor_parse(state, &s->work, cursor, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_check_cursor(pg, cursor, any_cluster, err);
    return rc;
}

ledger_rc ldg_pg_log_read(void *ctx, const char *state, const struct ldg_log_limits *limits,
                          struct ldg_log_batch *batch, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    struct reading r = { .pg = pg, .state = state };
    ledger_rc rc;

    ldg_arena_reset(&batch->arena);
    batch->rows = NULL;
    batch->count = 0;
    batch->bytes = 0;
    batch->more = false;
    rc = begin(pg, state, &r.cursor, false, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_check_log(pg, &r.cursor, false, err);
    if (rc != LEDGER_OK)
        goto out;
    batch->next_position = r.cursor.position;
    memmove(batch->next_state, state, strlen(state) + 1);
    rc = read_behind(&r, limits, batch, err);
    if (rc == LEDGER_OK && batch->count > 0)
        pg->source->pause_us = 0;
out:
    if (rc != LEDGER_OK) {
        batch->count = 0;
        batch->rows = NULL;
        batch->more = false;
        if (pg->source)
            pg->source->known = false;
    }
    return rc;
}

/* --- cursors made without reading ------------------------------------------------------------ */

/* The end of the sequence, where the role may ask: a row that came and went has counted. */
static const char sequence_end[] =
    "SELECT CASE WHEN has_sequence_privilege(s, 'SELECT') THEN pg_sequence_last_value(s::regclass) "
    "END FROM pg_get_serial_sequence('\"{l}\"', 'id') s";

static ledger_rc check_end(struct ldg_pg *pg, int64_t position, int64_t head, ledger_error *err)
{
    bool found;
    int64_t end = 0;
    ledger_rc rc = LEDGER_OK;

    if (position > head)
        rc = ldg_pg_run_int64(pg, doing, sequence_end, NULL, &found, &end, err);
    end = end > head ? end : head;
    if (rc == LEDGER_OK && position > end)
        rc = ldg_fail(err, LEDGER_ERR_SOURCE_REWOUND,
                      "the cursor stands at %" PRId64 ", but the mutation log \"%s\" ends at "
                      "%" PRId64 ": the source was restored from a backup, or the cursor was "
                      "written by hand. Put the newer data back, or rewind on purpose with "
                      "`ledgerctl bridge cursor set`",
                      position, pg->log_table, end);
    return rc;
}

/* A cursor for which the rows that the difference has up to id `last` are carried, and no others.
 */
static ledger_rc cursor_from(struct ldg_pg *pg, const struct ldg_pg_log_diff *diff, int64_t last,
                             struct ldg_pg_cursor *c, ledger_error *err)
{
    struct ldg_pg_witness top = { 0 };
    ledger_rc rc = LEDGER_OK;

    c->set = true;
    c->identity = pg->identity;
    memcpy(c->system_id, pg->system_id, sizeof(c->system_id));
    c->floor = diff->floor;
    c->open = false;
    c->s0 = (struct ldg_pg_snapshot){ 0 };
    if (last == 0 || !diff->any)
        return LEDGER_OK;
    if (diff->top_id > 0)
        rc = ldg_pg_witness_read(pg, diff->top_id, false, &top, err);
    if (rc == LEDGER_OK && !open_difference(pg, c, diff))
        rc = ldg_fail_nomem(err);
    c->last = c->since = last;
    c->top = top;
    if (rc == LEDGER_OK && c->end <= last && !close_difference(pg, c))
        rc = ldg_fail_nomem(err);
    return rc;
}

ledger_rc ldg_pg_log_cursor_at(void *ctx, int64_t position, char state[LDG_CURSOR_STATE_MAX],
                               ledger_error *err)
{
    static const struct ldg_pg_snapshot nothing = { 0 };
    struct ldg_pg *pg = ctx;
    struct ldg_pg_cursor c = { .position = position };
    struct ldg_pg_log_diff diff;
    ledger_rc rc = begin(pg, "", &c, false, err);

    if (rc == LEDGER_OK)
        rc = ldg_pg_log_diff_read(pg, &c, &nothing, &diff, err);
    if (rc == LEDGER_OK)
        rc = check_end(pg, position, diff.end, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_witness_read(pg, position, true, &c.carried, err);
    c.position = position;
    if (rc == LEDGER_OK)
        rc = cursor_from(pg, &diff, position, &c, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_cursor_format(&c, state, err);
    return rc;
}

ledger_rc ldg_pg_log_check(void *ctx, const char *state, int64_t *ret_position, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    struct ldg_pg_cursor c;
    ledger_rc rc = begin(pg, state, &c, false, err);

    if (rc == LEDGER_OK)
        rc = ldg_pg_check_log(pg, &c, true, err);
    if (rc == LEDGER_OK)
        *ret_position = c.position;
    return rc;
}

/* --- acknowledging a move -------------------------------------------------------------------- */

/* Lowest id that the old cursor has not carried. $1 carried up to; $2, $3 the set that those up to
 * there belong to, its xmax first; $4 floor. */
static const char lowest_left[] =
    "SELECT least((SELECT id FROM \"{l}\" WHERE id > $1 ORDER BY id LIMIT 1), "
    "(SELECT min(id + 0) FROM \"{l}\" WHERE txid >= $2 AND id <= $1 AND id > $4), "
    "(SELECT min(r.id) FROM pg_snapshot_xip($3::pg_snapshot) x CROSS JOIN LATERAL "
    "(SELECT id FROM \"{l}\" WHERE txid = x AND id <= $1 AND id > $4 ORDER BY id LIMIT 1) r))";

static ledger_rc find_left(struct ldg_pg *pg, const struct ldg_pg_cursor *c, bool *ret_found,
                           int64_t *ret_id, ledger_error *err)
{
    const struct ldg_pg_snapshot *set = c->open ? &c->s1 : &c->s0;
    int64_t upto = c->open ? c->last : c->s0.xmax == 0 ? 0 : c->position;
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    struct ldg_buf text;
    ledger_rc rc = LEDGER_OK;

    ldg_buf_init(&text, SIZE_MAX);
    ldg_pg_snapshot_print(set, &text);
    if (text.rc != LEDGER_OK) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    ldg_pg_arg_int64(&args, upto);
    ldg_pg_arg_txid(&args, set->xmax);
    ldg_pg_arg_text(&args, text.data);
    ldg_pg_arg_int64(&args, c->floor);
    rc = ldg_pg_run(pg, LDG_PG_FRESH, doing, lowest_left, &args, &result, err);
    if (rc == LEDGER_OK) {
        *ret_found = !PQgetisnull(result, 0, 0);
        *ret_id = ldg_pg_get_int64(result, 0, 0);
    }
out:
    PQclear(result);
    ldg_buf_fini(&text);
    return rc;
}

ledger_rc ldg_pg_log_acknowledge(void *ctx, const char *state, char ret_state[LDG_CURSOR_STATE_MAX],
                                 ledger_error *err)
{
    static const struct ldg_pg_snapshot nothing = { 0 };
    struct ldg_pg *pg = ctx;
    struct ldg_pg_cursor old, c;
    struct ldg_pg_log_diff diff;
    bool left = false;
    int64_t lowest = 0;
    ledger_rc rc = begin(pg, state, &old, true, err);

    if (rc == LEDGER_OK && !old.set) {
        ret_state[0] = '\0';
        return LEDGER_OK;
    }
    c = (struct ldg_pg_cursor){ .position = old.position, .carried = old.carried };
    if (rc == LEDGER_OK)
        rc = ldg_pg_log_diff_read(pg, &c, &nothing, &diff, err);
    if (rc == LEDGER_OK)
        rc = find_left(pg, &old, &left, &lowest, err);
    if (rc == LEDGER_OK) {
        int64_t last = left && lowest <= old.position ? lowest - 1 : old.position;

        /* A number of the other cluster would outdo all that are carried from now on. */
        if (c.carried.txid >= diff.s1.xmax)
            c.carried.txid = 0;
        rc = cursor_from(pg, &diff, last, &c, err);
    }
    if (rc == LEDGER_OK)
        rc = ldg_pg_cursor_format(&c, ret_state, err);
    return rc;
}

/* --- how far behind -------------------------------------------------------------------------- */

/* $1, $2, $3: rows with higher ids that the set does not have (true: nor those without a number);
 * $4, $5: of numbers at or above $4, and of those in progress in $5, the rows with ids up to $6;
 * $7 floor. The first 1,001 are counted. */
static const char stat_log[] =
    "SELECT h.id, p.number, p.oldest, p.lowest, r.number, r.oldest, x.number, x.oldest, x.lowest, "
    "m.number, m.lowest FROM (VALUES (1)) one (x) "
    "LEFT JOIN LATERAL (SELECT id FROM \"{l}\" ORDER BY id DESC LIMIT 1) h ON true "
    "CROSS JOIN (SELECT count(*) AS number, min(created_at) AS oldest, min(id) AS lowest FROM "
    "(SELECT id, created_at FROM \"{l}\" WHERE id > $1 AND (($2 AND txid IS NULL) OR NOT "
    "pg_visible_in_snapshot(txid, $3::pg_snapshot)) ORDER BY id LIMIT 1001) q) p "
    "CROSS JOIN (SELECT count(*) AS number, min(created_at) AS oldest FROM "
    "(SELECT id, created_at FROM \"{l}\" WHERE txid >= $4 AND id > $7 ORDER BY txid LIMIT 1001) q "
    "WHERE id <= $6) r "
    "CROSS JOIN (SELECT count(*) AS number, min(o.created_at) AS oldest, min(o.id) AS lowest "
    "FROM pg_snapshot_xip($5::pg_snapshot) t CROSS JOIN LATERAL (SELECT id, created_at "
    "FROM \"{l}\" WHERE txid = t AND id <= $6 AND id > $7 ORDER BY id LIMIT 1001) o "
    "WHERE pg_visible_in_snapshot(t, (SELECT pg_current_snapshot()))) x "
    "CROSS JOIN (SELECT count(*) AS number, min(id) FILTER (WHERE id <= $6 AND id > $7) AS lowest "
    "FROM (SELECT id FROM \"{l}\" WHERE txid >= $4 ORDER BY txid LIMIT 100000) q) m";

static void args_of_stat(struct ldg_pg_args *args, const struct ldg_pg_cursor *c, const char *s0,
                         const char *later)
{
    bool begun = c->s0.xmax > 0;
    bool by_id = c->open || !begun; /* the beginning is a difference of which nothing was read */
    int64_t last = !by_id ? INT64_MAX : c->open ? c->last : 0;
    int64_t from = begun && c->floor > last ? c->floor : last;

    ldg_pg_arg_int64(args, by_id ? from : INT64_MAX);
    ldg_pg_arg_bool(args, !begun);
    ldg_pg_arg_text(args, s0);
    ldg_pg_arg_txid(args, c->open ? c->s1.xmax : begun ? c->s0.xmax : INT64_MAX);
    ldg_pg_arg_text(args, later);
    ldg_pg_arg_int64(args, last);
    ldg_pg_arg_int64(args, c->floor);
}

static int64_t lower(int64_t a, int64_t b) /* 0: none */
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a == LEDGER_NO_TIME || (b != LEDGER_NO_TIME && b < a) ? b : a;
}

static struct ldg_log_stat stat_of(const struct ldg_pg_cursor *c, const PGresult *result)
{
    int64_t base = c->open ? c->last : c->s0.xmax > 0 ? c->position : 0;
    int64_t count = ldg_pg_get_int64(result, 0, 1) + ldg_pg_get_int64(result, 0, 4) +
                    ldg_pg_get_int64(result, 0, 6);
    struct ldg_log_stat stat = {
        .head = ldg_pg_get_int64(result, 0, 0),
        .oldest_us = earlier(ldg_pg_get_time(result, 0, 2),
                             earlier(ldg_pg_get_time(result, 0, 5), ldg_pg_get_time(result, 0, 7))),
        .lowest = lower(ldg_pg_get_int64(result, 0, 3),
                        lower(ldg_pg_get_int64(result, 0, 8), ldg_pg_get_int64(result, 0, 10))),
    };

    /* Beyond that, counting costs more than it tells: ids have few gaps. */
    if (count > BACKLOG_COUNT_MAX && stat.head - base > count)
        count = stat.head - base;
    if (ldg_pg_get_int64(result, 0, 9) >= LOWEST_SCAN_MAX)
        stat.lowest = 1;
    stat.backlog_count = (uint64_t)count;
    return stat;
}

ledger_rc ldg_pg_log_stat(void *ctx, const char *state, struct ldg_log_stat *ret_stat,
                          ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    struct ldg_pg_cursor c;
    struct ldg_pg_args args = { 0 };
    struct ldg_buf s0, later;
    PGresult *result = NULL;
    ledger_rc rc = begin(pg, state, &c, false, err);

    ldg_buf_init(&s0, SIZE_MAX);
    ldg_buf_init(&later, SIZE_MAX);
    if (rc != LEDGER_OK)
        goto out;
    ldg_pg_snapshot_print(&c.s0, &s0);
    ldg_pg_snapshot_print(c.open ? &c.s1 : &c.s0, &later);
    if (s0.rc != LEDGER_OK || later.rc != LEDGER_OK) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    args_of_stat(&args, &c, s0.data, later.data);
    rc = ldg_pg_run(pg, LDG_PG_FRESH, "counting what is left of the mutation log", stat_log, &args,
                    &result, err);
    if (rc == LEDGER_OK)
        *ret_stat = stat_of(&c, result);
out:
    PQclear(result);
    ldg_buf_fini(&later);
    ldg_buf_fini(&s0);
    return rc;
}
