/* What is behind a cursor: which rows a new snapshot sees that the cursor has not, and whether the
 * log is still the one that the cursor was made of.
 *
 * The statement's own snapshot is the new one, so every row that it finds is seen by it. Numbers at
 * or above the cursor's xmax are one range of the index on (txid, id); those that were in progress
 * are looked up one by one, and only once they have ended: rows of an open transaction are never
 * passed over, however many they are. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "backend/postgres/source.h"
#include "base/hash.h"

#define KEEP_BYTES ((size_t)64 * 1024)
#define NEXT_CHEAP_US 20000
#define NEXT_SHARE 50

/* A transaction that reads its own log sees rows of its own, which may never be committed. */
#define NOT_OWN "(txid = pg_current_xact_id_if_assigned()) IS NOT TRUE"
#define XMAX "pg_snapshot_xmax(pg_current_snapshot())"
#define WITNESS_COLUMNS                                                                            \
    "id, txid, created_at, octet_length(payload)::int8, substring(payload FROM 1 FOR 4096)"
#define DIFF_HEAD                                                                                  \
    "SELECT pg_current_snapshot()::text, pg_is_in_recovery(), pg_current_xact_id_if_assigned(), "  \
    "w.id, w.txid, w.created_at, w.size, w.head, a.low, a.high, t.txid, t.id, "                    \
    "(SELECT id FROM \"{l}\" WHERE id <= 0 ORDER BY id LIMIT 1), "
#define DIFF_WITNESS                                                                               \
    " FROM (VALUES (1)) one (x) LEFT JOIN LATERAL (SELECT id, txid, created_at, "                  \
    "octet_length(payload)::int8 AS size, substring(payload FROM 1 FOR 4096) AS head "             \
    "FROM \"{l}\" WHERE id = $1) w ON true "

enum diff_column {
    DIFF_SNAPSHOT,
    DIFF_RECOVERY,
    DIFF_OWN,
    DIFF_WITNESS_ID,
    DIFF_LOW = DIFF_WITNESS_ID + 5,
    DIFF_HIGH,
    DIFF_TOP_TXID,
    DIFF_TOP_ID,
    DIFF_LOWEST,
    DIFF_FLOOR, /* the rest differs between the two statements */
    DIFF_ENDED = DIFF_FLOOR,
    DIFF_ENDED_LOW,
    DIFF_ENDED_HIGH,
    DIFF_ENDED_TOP,
    DIFF_NEXT,
    DIFF_NEXT_TXID,
    DIFF_FOREIGN,
};

/* $1 witness, $2 seen, $3 its xmax, $4 the cursor's xmax, $5 floor, $6 highest id that was carried,
 * or one that no row has. id + 0 keeps the planner from walking the primary key, whose end is where
 * the rows are.
 *
 * All this finds rows by their transaction numbers, so it trusts that these are what the server
 * would have put there. n, the row behind all that was carried, and f, one whose number was never
 * given out, show where another program has written them. */
static const char diff_new[] = DIFF_HEAD
    "b.ended, b.low, b.high, b.top, n.id, n.txid, f.id" DIFF_WITNESS
    "CROSS JOIN LATERAL (SELECT min(id + 0) AS low, max(id + 0) AS high FROM \"{l}\" "
    "WHERE txid >= $3 AND txid < " XMAX " AND id > $5 AND " NOT_OWN ") a "
    "LEFT JOIN LATERAL (SELECT txid, id FROM \"{l}\" "
    "WHERE txid >= $3 AND txid < " XMAX " AND id > $5 AND " NOT_OWN " "
    "ORDER BY txid DESC, id DESC LIMIT 1) t ON true "
    "CROSS JOIN (SELECT string_agg(txid::text, ',' ORDER BY txid) AS ended, "
    "min(lo.id) FILTER (WHERE txid >= $4) AS low, max(hi.id) AS high, "
    "(array_agg(hi.id ORDER BY txid DESC))[1] AS top "
    "FROM pg_snapshot_xip($2::pg_snapshot) AS x (txid) "
    "CROSS JOIN LATERAL (SELECT id FROM \"{l}\" WHERE txid = x.txid AND id > $5 "
    "ORDER BY id LIMIT 1) lo "
    "CROSS JOIN LATERAL (SELECT id FROM \"{l}\" WHERE txid = x.txid AND id > $5 "
    "ORDER BY id DESC LIMIT 1) hi "
    "WHERE pg_visible_in_snapshot(txid, (SELECT pg_current_snapshot())) AND " NOT_OWN ") b "
    "LEFT JOIN LATERAL (SELECT id, txid FROM \"{l}\" WHERE id > $6 ORDER BY id LIMIT 1) n ON true "
    "LEFT JOIN LATERAL (SELECT id FROM \"{l}\" "
    "WHERE txid >= " XMAX " AND id > $5 AND " NOT_OWN " ORDER BY txid LIMIT 1) f ON true";

/* $1 witness. Rows with numbers that this cluster has not given out came with a dump. */
static const char diff_all[] = DIFF_HEAD
    "f.floor" DIFF_WITNESS
    "LEFT JOIN LATERAL (SELECT NULL::int8 AS low, id AS high FROM \"{l}\" WHERE " NOT_OWN " "
    "ORDER BY id DESC LIMIT 1) a ON true "
    "CROSS JOIN LATERAL (SELECT coalesce(max(id + 0), 0) AS floor FROM \"{l}\" "
    "WHERE txid >= " XMAX " AND " NOT_OWN ") f "
    "LEFT JOIN LATERAL (SELECT txid, id FROM \"{l}\" "
    "WHERE txid < " XMAX " AND id > f.floor AND " NOT_OWN " "
    "ORDER BY txid DESC, id DESC LIMIT 1) t ON true";

/* $1 witness, $2 position, $3 s0, $4 floor. Columns: snapshot, the witness, the first row behind
 * the position that s0 calls carried, a row of a number that was never given out, and the tally of
 * the rows of $7 and not of $6 ($5, $8: their xmax; $11: $6 is empty) with ids from $9 to $10. */
static const char check_log[] =
    "SELECT pg_current_snapshot()::text, w.id, w.txid, w.created_at, w.size, w.head, p.id, "
    "p.txid, f.id, d.number, d.ids" DIFF_WITNESS
    "LEFT JOIN LATERAL (SELECT q.id, q.txid FROM (SELECT id, txid FROM \"{l}\" WHERE id > $2 "
    "ORDER BY id LIMIT 1000) q WHERE q.txid IS NULL OR "
    "pg_visible_in_snapshot(q.txid, $3::pg_snapshot) ORDER BY q.id LIMIT 1) p ON true "
    "LEFT JOIN LATERAL (SELECT id FROM \"{l}\" "
    "WHERE txid >= " XMAX " AND id > $4 AND " NOT_OWN " ORDER BY txid LIMIT 1) f ON true "
    "CROSS JOIN (SELECT count(*) AS number, coalesce(sum(u.id % 1000003), 0)::int8 AS ids FROM ("
    "SELECT id FROM \"{l}\" WHERE $11 AND id > $9 AND id <= $10 "
    "AND (id <= $12 OR txid IS NULL OR pg_visible_in_snapshot(txid, $7::pg_snapshot)) UNION ALL "
    "SELECT id FROM \"{l}\" WHERE NOT $11 AND txid >= $5 AND txid < $8 AND id > $9 "
    "AND id <= $10 AND id > $12 AND pg_visible_in_snapshot(txid, $7::pg_snapshot) UNION ALL "
    "SELECT r.id FROM pg_snapshot_xip($6::pg_snapshot) x CROSS JOIN LATERAL (SELECT id "
    "FROM \"{l}\" WHERE txid = x AND id > $9 AND id <= $10 AND id > $12) r "
    "WHERE NOT $11 AND pg_visible_in_snapshot(x, $7::pg_snapshot)) u) d";

enum check_column {
    CHECK_SNAPSHOT,
    CHECK_WITNESS,
    CHECK_PASSED = CHECK_WITNESS + 5,
    CHECK_PASSED_TXID,
    CHECK_FOREIGN,
    CHECK_COUNT,
    CHECK_SUM,
};

static const char witness_at[] = "SELECT " WITNESS_COLUMNS " FROM \"{l}\" WHERE id = $1";
static const char witness_near[] =
    "SELECT " WITNESS_COLUMNS " FROM \"{l}\" WHERE id <= $1 ORDER BY id DESC LIMIT 1";

static const char doing[] = "reading the mutation log";

/* --- what a handle keeps --------------------------------------------------------------------- */

ledger_rc ldg_pg_source_get(struct ldg_pg *pg, struct ldg_pg_source **ret_source, ledger_error *err)
{
    if (!pg->source) {
        pg->source = ldg_calloc(1, sizeof(*pg->source));
        if (!pg->source)
            return ldg_fail_nomem(err);
        ldg_arena_init(&pg->source->work, KEEP_BYTES);
        ldg_arena_init(&pg->source->kept, KEEP_BYTES);
    }
    ldg_arena_reset(&pg->source->work);
    *ret_source = pg->source;
    return LEDGER_OK;
}

void ldg_pg_source_free(struct ldg_pg *pg)
{
    if (pg->source) {
        ldg_arena_fini(&pg->source->work);
        ldg_arena_fini(&pg->source->kept);
        ldg_free(pg->source);
        pg->source = NULL;
    }
}

bool ldg_pg_source_knows(const struct ldg_pg *pg, const char *state)
{
    const struct ldg_pg_source *s = pg->source;

    return s && s->known && s->connect_count == pg->connect_count && strcmp(s->state, state) == 0;
}

const struct ldg_pg_snapshot *ldg_pg_source_seen(const struct ldg_pg *pg, const char *state,
                                                 const struct ldg_pg_cursor *cursor)
{
    return !pg->pooled && ldg_pg_source_knows(pg, state) ? &pg->source->seen : &cursor->s0;
}

ledger_rc ldg_pg_source_keep(struct ldg_pg *pg, const char *state,
                             const struct ldg_pg_snapshot *seen, const struct ldg_pg_log_diff *diff,
                             ledger_error *err)
{
    struct ldg_pg_source *s = pg->source;
    struct ldg_pg_snapshot copy;

    s->known = s->has_diff = s->spent = false;
    if (!seen)
        return LEDGER_OK;
    /* By way of the work arena, because it may be what is kept now. */
    if (!ldg_pg_snapshot_copy(seen, &s->work, &copy))
        return ldg_fail_nomem(err);
    ldg_arena_reset(&s->kept);
    if (!ldg_pg_snapshot_copy(&copy, &s->kept, &s->seen))
        return ldg_fail_nomem(err);
    if (diff && !pg->pooled) {
        s->diff = *diff;
        s->diff.ended = ldg_arena_calloc(&s->kept, diff->ended_count, sizeof(*s->diff.ended));
        if (!s->diff.ended || !ldg_pg_snapshot_copy(&diff->s1, &s->kept, &s->diff.s1))
            return ldg_fail_nomem(err);
        if (diff->ended_count > 0)
            memcpy(s->diff.ended, diff->ended, diff->ended_count * sizeof(*s->diff.ended));
        s->has_diff = true;
    }
    if (s->state != state)
        memcpy(s->state, state, strlen(state) + 1);
    s->connect_count = pg->connect_count;
    s->known = true;
    return LEDGER_OK;
}

/* --- the witness ----------------------------------------------------------------------------- */

void ldg_pg_arg_txid(struct ldg_pg_args *args, uint64_t txid)
{
    ldg_pg_arg_int64(args, (int64_t)txid);
    args->types[args->count - 1] = LDG_PG_XID8;
}

uint64_t ldg_pg_get_txid(const PGresult *result, int row, int column)
{
    const uint64_t txid = (uint64_t)ldg_pg_get_int64(result, row, column);

    return txid < LDG_PG_TXID_TOP ? txid : LDG_PG_TXID_TOP;
}

uint64_t ldg_pg_witness_hash(int64_t id, ledger_bytes head, int64_t size, int64_t time_us)
{
    const int64_t rest[2] = { size, time_us };
    size_t used = head.size < LDG_PG_WITNESS_BYTES ? head.size : LDG_PG_WITNESS_BYTES;
    uint64_t hash = ldg_hash64(used ? head.data : "", used, (uint64_t)id);

    return ldg_hash64(rest, sizeof(rest), hash);
}

static struct ldg_pg_witness get_witness(const PGresult *result, int row, int column)
{
    struct ldg_pg_witness w = {
        .id = ldg_pg_get_int64(result, row, column),
        .txid = ldg_pg_get_txid(result, row, column + 1),
    };

    w.hash = ldg_pg_witness_hash(w.id, ldg_pg_get_bytes(result, row, column + 4),
                                 ldg_pg_get_int64(result, row, column + 3),
                                 ldg_pg_get_time(result, row, column + 2));
    return w;
}

bool ldg_pg_witness_is(const struct ldg_pg_witness *witness, const PGresult *result, int row,
                       int column)
{
    if (witness->id == 0)
        return true;
    return !PQgetisnull(result, row, column) &&
           get_witness(result, row, column).hash == witness->hash;
}

ledger_rc ldg_pg_witness_read(struct ldg_pg *pg, int64_t id, bool nearest,
                              struct ldg_pg_witness *ret_witness, ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;

    ldg_pg_arg_int64(&args, id);
    ledger_rc rc = ldg_pg_run(pg, LDG_PG_FRESH, doing, nearest ? witness_near : witness_at, &args,
                              &result, err);
    if (rc == LEDGER_OK)
        *ret_witness =
            PQntuples(result) > 0 ? get_witness(result, 0, 0) : (struct ldg_pg_witness){ 0 };
    PQclear(result);
    return rc;
}

ledger_rc ldg_pg_fail_witness(const struct ldg_pg *pg, const struct ldg_pg_witness *witness,
                              bool found, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_SOURCE_REWOUND,
                    "the cursor has passed row %" PRId64
                    " of the mutation log \"%s\", but that row "
                    "%s: the source was restored from a backup, lost commits, or its log was "
                    "emptied ahead of the bridge%s. Put the newer data back, or rewind on purpose "
                    "with `ledgerctl bridge cursor set`",
                    witness->id, pg->log_table, found ? "is another one now" : "is gone",
                    found ? LDG_OR_A_COPY : "");
}

ledger_rc ldg_pg_fail_standby(struct ldg_pg *pg, ledger_error *err)
{
    /* A source that was a primary may be one again, elsewhere: the next connection will tell. */
    bool may_return = pg->own_conn && pg->role == LDG_ROLE_SOURCE;

    if (may_return)
        ldg_pg_drop(pg);
    return ldg_fail(err, may_return ? LEDGER_ERR_CONNECT : LEDGER_ERR_READ_ONLY,
                    "the source is a standby, which cannot tell the order of commits; name the "
                    "primary");
}

/* --- is it the cursor's log? ----------------------------------------------------------------- */

static ledger_rc fail_cluster(const struct ldg_pg *pg, const char *why, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_CURSOR_MISMATCH,
                    "%s, so the mutation log \"%s\" was moved from one PostgreSQL cluster to "
                    "another (a dump restored, pg_upgrade): when it was moved whole, go on with "
                    "`ledgerctl bridge cursor acknowledge`",
                    why, pg->log_table);
}

ledger_rc ldg_pg_check_cursor(const struct ldg_pg *pg, const struct ldg_pg_cursor *c,
                              bool any_cluster, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (!pg->has_txid)
        rc = ldg_fail(err, LEDGER_ERR_SCHEMA,
                      "the mutation log \"%s\" has no column txid, so the order of its commits is "
                      "not known; `ledgerctl store init` adds it",
                      pg->log_table);
    else if (c->set && strcmp(c->identity.uuid, pg->identity.uuid) != 0)
        rc = ldg_fail(err, LEDGER_ERR_CURSOR_MISMATCH,
                      "the cursor belongs to source %s, but \"%s\" is %s: give this pair a name of "
                      "its own (--name), or start over on purpose with `ledgerctl bridge cursor "
                      "set`",
                      c->identity.uuid, pg->table, pg->identity.uuid);
    else if (c->set && c->identity.epoch != pg->identity.epoch)
        rc = ldg_fail(err, LEDGER_ERR_CURSOR_MISMATCH,
                      "the cursor belongs to source %s in epoch %" PRId64 ", which is now in epoch "
                      "%" PRId64 ": give this pair a name of its own (--name), or start over on "
                      "purpose with `ledgerctl bridge cursor set`",
                      c->identity.uuid, c->identity.epoch, pg->identity.epoch);
    else if (c->set && !any_cluster && c->system_id[0] && pg->system_id[0] &&
             strcmp(c->system_id, pg->system_id) != 0)
        rc = fail_cluster(pg, "the source has another system identifier than the cursor", err);
    return rc;
}

/* Numbers that the cursor has and the cluster has not yet. */
static ledger_rc check_xmax(const struct ldg_pg *pg, const struct ldg_pg_cursor *c,
                            const struct ldg_pg_snapshot *now, ledger_error *err)
{
    return now->xmax >= c->s0.xmax
               ? LEDGER_OK
               : fail_cluster(pg, "the source counts its transactions from further back", err);
}

ledger_rc ldg_pg_fail_number(const struct ldg_pg *pg, int64_t id, bool none, ledger_error *err)
{
    if (none)
        return ldg_fail(
            err, LEDGER_ERR_SCHEMA,
            "row %" PRId64 " of the mutation log \"%s\" was written without a transaction "
            "number (txid), so no cursor tells whether it was carried: another program "
            "writes NULL there, or the column has lost its default, which `ledgerctl "
            "store init` restores; then, as the owner: UPDATE \"%s\" SET txid = DEFAULT "
            "WHERE txid IS NULL AND id >= %" PRId64,
            id, pg->log_table, pg->log_table, id);
    return ldg_fail(
        err, LEDGER_ERR_SCHEMA,
        "row %" PRId64 " of the mutation log \"%s\" bears a transaction number (txid) of "
        "another series than this cluster's: a replication or another program writes it "
        "along with the row, or a trigger changes it, and such rows would be passed "
        "over. Let it write the column's default; then, as the owner: UPDATE \"%s\" SET "
        "txid = DEFAULT WHERE id = %" PRId64 " (and what follows it)",
        id, pg->log_table, pg->log_table, id);
}

static ledger_rc judge_log(struct ldg_pg *pg, const struct ldg_pg_cursor *c, const PGresult *result,
                           ledger_error *err)
{
    struct ldg_pg_snapshot now;
    bool passed = !PQgetisnull(result, 0, CHECK_PASSED);
    bool foreign = !PQgetisnull(result, 0, CHECK_FOREIGN);
    ledger_rc rc;

    if (!ldg_pg_snapshot_parse(ldg_pg_get_text(result, 0, CHECK_SNAPSHOT), &pg->source->work, &now))
        return ldg_fail_nomem(err);
    if (!ldg_pg_witness_is(&c->carried, result, 0, CHECK_WITNESS))
        return ldg_pg_fail_witness(pg, &c->carried, !PQgetisnull(result, 0, CHECK_WITNESS), err);
    rc = check_xmax(pg, c, &now, err);
    if (rc != LEDGER_OK)
        return rc;
    if (c->tally_count > 0 &&
        ((uint64_t)ldg_pg_get_int64(result, 0, CHECK_COUNT) != c->tally_count ||
         (uint64_t)ldg_pg_get_int64(result, 0, CHECK_SUM) != c->tally_sum))
        rc =
            ldg_fail(err, LEDGER_ERR_SOURCE_REWOUND,
                     "of the last %" PRIu64 " rows of the mutation log \"%s\" that the cursor has "
                     "passed, %" PRId64 " are there: the source lost commits, or was restored from "
                     "a backup. Put the newer data back, or rewind on purpose with `ledgerctl "
                     "bridge cursor set`",
                     c->tally_count, pg->log_table, ldg_pg_get_int64(result, 0, CHECK_COUNT));
    else if (passed && PQgetisnull(result, 0, CHECK_PASSED_TXID))
        rc = ldg_pg_fail_number(pg, ldg_pg_get_int64(result, 0, CHECK_PASSED), true, err);
    else if (passed || foreign)
        rc = fail_cluster(pg, "rows behind the cursor bear transaction numbers of another series",
                          err);
    return rc;
}

/* The rows that the tally is of. */
static void args_of_tally(struct ldg_pg_args *args, const struct ldg_pg_cursor *c,
                          const char *base_text, const char *upper_text)
{
    const struct ldg_pg_snapshot *base = c->open ? &c->s0 : &c->before;
    const struct ldg_pg_snapshot *upper = c->open ? &c->s1 : &c->s0;
    int64_t upto = c->tally_count == 0 ? 0 : c->open ? c->last : c->position;

    ldg_pg_arg_txid(args, base->xmax);
    ldg_pg_arg_text(args, base_text);
    ldg_pg_arg_text(args, upper_text);
    ldg_pg_arg_txid(args, upper->xmax);
    ldg_pg_arg_int64(args, c->since);
    ldg_pg_arg_int64(args, upto);
    ldg_pg_arg_bool(args, base->xmax == 0);
    ldg_pg_arg_int64(args, c->floor);
}

ledger_rc ldg_pg_check_log(struct ldg_pg *pg, const struct ldg_pg_cursor *c, bool always,
                           ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    struct ldg_buf s0, base, upper;
    PGresult *result = NULL;
    ledger_rc rc = LEDGER_OK;

    if (!c->set || (!always && pg->source->checked_count == pg->connect_count))
        return LEDGER_OK;
    ldg_buf_init(&s0, SIZE_MAX);
    ldg_buf_init(&base, SIZE_MAX);
    ldg_buf_init(&upper, SIZE_MAX);
    ldg_pg_snapshot_print(&c->s0, &s0);
    ldg_pg_snapshot_print(c->open ? &c->s0 : &c->before, &base);
    ldg_pg_snapshot_print(c->open ? &c->s1 : &c->s0, &upper);
    if (s0.rc != LEDGER_OK || base.rc != LEDGER_OK || upper.rc != LEDGER_OK) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    int64_t behind = c->position > c->floor ? c->position : c->floor;
    bool settled = c->s0.xmax > 0;
    ldg_pg_arg_int64(&args, c->carried.id);
    ldg_pg_arg_int64(&args, settled ? behind : INT64_MAX);
    ldg_pg_arg_text(&args, s0.data);
    ldg_pg_arg_int64(&args, settled || c->open ? c->floor : INT64_MAX);
    args_of_tally(&args, c, base.data, upper.data);
    rc = ldg_pg_run(pg, LDG_PG_FRESH, "comparing the cursor with the mutation log", check_log,
                    &args, &result, err);
    if (rc == LEDGER_OK)
        rc = judge_log(pg, c, result, err);
    if (rc == LEDGER_OK)
        pg->source->checked_count = pg->connect_count;
out:
    PQclear(result);
    ldg_buf_fini(&upper);
    ldg_buf_fini(&base);
    ldg_buf_fini(&s0);
    return rc;
}

/* --- the difference -------------------------------------------------------------------------- */

/* "12,15,40": those below xmax are kept; *ret_top: the last one of the others. */
static bool take_ended(const char *text, uint64_t xmax, struct ldg_arena *arena,
                       struct ldg_pg_log_diff *diff, uint64_t *ret_top)
{
    size_t room = 1;

    for (const char *p = text; *p; p++)
        room += *p == ',';
    diff->ended = ldg_arena_calloc(arena, room, sizeof(*diff->ended));
    *ret_top = 0;
    if (!diff->ended)
        return false;
    for (const char *p = text; *p;) {
        char *end;
        uint64_t txid = strtoull(p, &end, 10);

        if (txid < xmax)
            diff->ended[diff->ended_count++] = txid;
        else
            *ret_top = txid;
        p = *end ? end + 1 : end;
    }
    return true;
}

static int64_t lower(int64_t a, int64_t b) /* 0: none */
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static bool take_diff(struct ldg_pg *pg, const struct ldg_pg_cursor *c, bool all,
                      const PGresult *result, struct ldg_pg_log_diff *diff)
{
    struct ldg_arena *arena = &pg->source->work;
    struct ldg_pg_snapshot now;
    uint64_t own = (uint64_t)ldg_pg_get_int64(result, 0, DIFF_OWN), top;

    if (!ldg_pg_snapshot_parse(ldg_pg_get_text(result, 0, DIFF_SNAPSHOT), arena, &now) ||
        !ldg_pg_snapshot_hide(&now, own, arena, &diff->s1))
        return false;
    diff->low = ldg_pg_get_int64(result, 0, DIFF_LOW);
    diff->end = ldg_pg_get_int64(result, 0, DIFF_HIGH);
    diff->top_txid = (uint64_t)ldg_pg_get_int64(result, 0, DIFF_TOP_TXID);
    diff->top_id = ldg_pg_get_int64(result, 0, DIFF_TOP_ID);
    if (all) {
        diff->floor = ldg_pg_get_int64(result, 0, DIFF_FLOOR);
    } else {
        int64_t high = ldg_pg_get_int64(result, 0, DIFF_ENDED_HIGH);

        if (!take_ended(ldg_pg_get_text(result, 0, DIFF_ENDED), c->s0.xmax, arena, diff, &top))
            return false;
        diff->low = lower(diff->low, ldg_pg_get_int64(result, 0, DIFF_ENDED_LOW));
        diff->end = diff->end > high ? diff->end : high;
        if (top > diff->top_txid) {
            diff->top_txid = top;
            diff->top_id = ldg_pg_get_int64(result, 0, DIFF_ENDED_TOP);
        }
    }
    diff->any = diff->end > 0;
    return true;
}

/* Whoever asks for the row behind the last one meets the rows of a transaction that is still open
 * there, however many they are; then it asks less often. */
static bool may_ask_next(const struct ldg_pg_source *s, int64_t now_us)
{
    return now_us >= s->next_from_us;
}

static void note_cost(struct ldg_pg_source *s, int64_t began_us)
{
    const int64_t now_us = ldg_clock_mono_us(), cost_us = now_us - began_us;

    s->next_from_us = cost_us > NEXT_CHEAP_US ? now_us + cost_us * NEXT_SHARE : 0;
}

/* Is a number not what the server would have put there? Rows of `seen` are carried, so one behind
 * all of those is not among them. */
static ledger_rc judge_numbers(const struct ldg_pg *pg, const struct ldg_pg_snapshot *seen,
                               const PGresult *result, ledger_error *err)
{
    const bool none = PQgetisnull(result, 0, DIFF_NEXT_TXID);

    if (!PQgetisnull(result, 0, DIFF_NEXT) &&
        (none || ldg_pg_snapshot_sees(seen, ldg_pg_get_txid(result, 0, DIFF_NEXT_TXID))))
        return ldg_pg_fail_number(pg, ldg_pg_get_int64(result, 0, DIFF_NEXT), none, err);
    if (!PQgetisnull(result, 0, DIFF_FOREIGN))
        return ldg_pg_fail_number(pg, ldg_pg_get_int64(result, 0, DIFF_FOREIGN), false, err);
    return LEDGER_OK;
}

/* The tables of a source that nobody writes to need not be looked at, either. */
static ledger_rc watch(struct ldg_pg *pg, ledger_error *err)
{
    pg->source->unwatched = !ldg_pg_schema_check_due(pg);
    return ldg_pg_schema_watch(pg, err);
}

ledger_rc ldg_pg_log_diff_read(struct ldg_pg *pg, const struct ldg_pg_cursor *c,
                               const struct ldg_pg_snapshot *seen, struct ldg_pg_log_diff *ret_diff,
                               ledger_error *err)
{
    struct ldg_pg_log_diff diff = { .any = false };
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    struct ldg_buf text;
    bool all = seen->xmax == 0;
    const int64_t began_us = ldg_clock_mono_us();
    const bool ask_next = !all && may_ask_next(pg->source, began_us);
    ledger_rc rc = LEDGER_OK;

    pg->source->unasked = !all && !ask_next;

    ldg_buf_init(&text, SIZE_MAX);
    ldg_pg_snapshot_print(seen, &text);
    if (text.rc != LEDGER_OK) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    ldg_pg_arg_int64(&args, c->carried.id);
    if (!all) {
        ldg_pg_arg_text(&args, text.data);
        ldg_pg_arg_txid(&args, seen->xmax);
        ldg_pg_arg_txid(&args, c->s0.xmax);
        ldg_pg_arg_int64(&args, c->floor);
        ldg_pg_arg_int64(&args, !ask_next                ? INT64_MAX
                                : c->position > c->floor ? c->position
                                                         : c->floor);
    }
    rc = ldg_pg_run(pg, LDG_PG_KEEP, doing, all ? diff_all : diff_new, &args, &result, err);
    if (rc == LEDGER_ERR_SCHEMA)
        rc = ldg_pg_schema_missing(pg, err);
    if (rc != LEDGER_OK)
        goto out;
    if (ask_next)
        note_cost(pg->source, began_us);
    if (ldg_pg_get_bool(result, 0, DIFF_RECOVERY))
        rc = ldg_pg_fail_standby(pg, err);
    else if (!ldg_pg_witness_is(&c->carried, result, 0, DIFF_WITNESS_ID))
        rc = ldg_pg_fail_witness(pg, &c->carried, !PQgetisnull(result, 0, DIFF_WITNESS_ID), err);
    else if (!PQgetisnull(result, 0, DIFF_LOWEST))
        rc = ldg_log_fail_lowest(pg->log_table, ldg_pg_get_int64(result, 0, DIFF_LOWEST), err);
    else if (!take_diff(pg, c, all, result, &diff))
        rc = ldg_fail_nomem(err);
    else
        rc = check_xmax(pg, c, &diff.s1, err);
    if (rc == LEDGER_OK && !all)
        rc = judge_numbers(pg, seen, result, err);
    if (rc == LEDGER_OK)
        rc = watch(pg, err);
    if (rc == LEDGER_OK)
        *ret_diff = diff;
out:
    PQclear(result);
    ldg_buf_fini(&text);
    return rc;
}
