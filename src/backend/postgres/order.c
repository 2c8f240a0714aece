/* Do the ids of an origin's entries rise here as they do there? Where they do, in each stream, a
 * trim ends at its last entry; where an entry has come late it has to look at the whole stream.
 *
 * Hides how that is found out without a look at the table per entry. Invariant: an origin that
 * counts as ordered is; one that does not may be. So where others may add at the same time what is
 * not seen here, or with ids that they drew before, it counts as one no more. */
#include "backend/postgres/apply.h"

#include <stdlib.h>
#include <string.h>

/* Entries that come so late are taken for ones out of order without a look. */
#define LATE_MAX 50000

struct ldg_pg_order *ldg_pg_order_of(struct ldg_pg_batch *b, int origin)
{
    for (size_t i = 0; i < b->order_count; i++) {
        if (b->orders[i].origin == origin)
            return &b->orders[i];
    }
    return NULL;
}

/* One element for each origin that the batch adds to or trims. */
ledger_rc ldg_pg_orders_collect(struct ldg_pg_batch *b, ledger_error *err)
{
    size_t cap = 0;

    b->order_count = 0;
    b->orders = NULL;
    for (size_t i = 0; i < b->count; i++) {
        const struct ldg_op *op = &b->ops[i];
        struct ldg_pg_order *order;

        if (op->origin <= 0 || (op->kind != LDG_OP_APPEND && op->kind != LDG_OP_TRIM))
            continue;
        order = ldg_pg_order_of(b, op->origin);
        if (order == NULL) {
            if (b->order_count == cap) {
                struct ldg_pg_order *more;

                cap = cap == 0 ? 4 : cap * 2;
                more = ldg_arena_calloc(&b->sink->arena, cap, sizeof(*more));
                if (more == NULL)
                    return ldg_fail_nomem(err);
                if (b->order_count > 0)
                    memcpy(more, b->orders, b->order_count * sizeof(*more));
                b->orders = more;
            }
            order = &b->orders[b->order_count++];
            *order = (struct ldg_pg_order){ .origin = op->origin, .lowest_new = INT64_MAX };
        }
        if (op->kind != LDG_OP_APPEND)
            continue;
        if (op->key.number < order->lowest_new)
            order->lowest_new = op->key.number;
        if (op->key.number > order->highest_new)
            order->highest_new = op->key.number;
        order->new_count++;
    }
    return LEDGER_OK;
}

/* $1 origin, $2 and $3 the lowest and highest position of the batch, $4 whether others may lie
 * between them, $5 the lowest id of the batch: its rows may be in already. */
const char ldg_pg_order_get[] =
    "SELECT ordered, greatest("
    "(SELECT max(source_pos) FROM \"{t}\" WHERE origin = $1 AND source_pos > $3), "
    "(SELECT max(source_pos) FROM \"{t}\" WHERE origin = $1 AND source_pos < $2), "
    "CASE WHEN $4 THEN (SELECT max(source_pos) FROM \"{t}\" WHERE origin = $1 "
    "AND source_pos >= $2 AND source_pos <= $3 AND id < $5) END) "
    "FROM \"{t}_origins\" WHERE id = $1";

void ldg_pg_order_args(const struct ldg_pg_batch *b, const struct ldg_pg_order *order,
                       struct ldg_pg_args *args)
{
    const bool gaps = (uint64_t)order->highest_new - (uint64_t)order->lowest_new + 1 !=
                      (uint64_t)order->new_count;

    ldg_pg_arg_int32(args, order->origin);
    ldg_pg_arg_int64(args, order->lowest_new);
    ldg_pg_arg_int64(args, order->highest_new);
    ldg_pg_arg_bool(args, b->row_wise || (gaps && order->new_count > 0));
    ldg_pg_arg_int64(args, b->lowest_id);
}

ledger_rc ldg_pg_order_take(const struct ldg_pg_batch *b, struct ldg_pg_order *order,
                            const PGresult *result, ledger_error *err)
{
    bool ordered;

    if (PQntuples(result) == 0) /* it was there when the bridge began */
        return ldg_schema_fail_origins(b->pg->where != NULL ? b->pg->where : "the database",
                                       b->pg->table, err);
    ordered = ldg_pg_get_bool(result, 0, 0);
    order->disorder = b->beside && ordered && order->new_count > 0;
    order->ordered = ordered && !b->beside;
    order->highest = ldg_pg_get_int64(result, 0, 1);
    return LEDGER_OK;
}

/* Appends of the batch that may stand behind a later one of their stream. */
struct late {
    const struct ldg_op **ops;
    size_t count;
    int64_t lowest;
};

static int compare_late(const void *a, const void *b)
{
    const struct ldg_op *const *x = a, *const *y = b;
    int order = strcmp((*x)->stream, (*y)->stream);

    return order != 0 ? order : *x < *y ? -1 : *x > *y;
}

/* Does the batch itself bring an entry behind a later one of its stream? */
static ledger_rc late_within(struct ldg_pg_batch *b, int origin, bool *ret_late, ledger_error *err)
{
    const struct ldg_op **ops = NULL;
    int64_t last = INT64_MIN;
    bool rises = true, late = false;
    size_t count = 0;

    for (size_t i = 0; i < b->count && rises; i++) {
        if (b->ops[i].kind != LDG_OP_APPEND || b->ops[i].origin != origin)
            continue;
        rises = b->ops[i].key.number > last;
        last = b->ops[i].key.number;
    }
    *ret_late = false;
    if (rises)
        return LEDGER_OK;
    ops = ldg_arena_calloc(&b->sink->arena, b->count, sizeof(const struct ldg_op *));
    if (ops == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < b->count; i++) {
        if (b->ops[i].kind == LDG_OP_APPEND && b->ops[i].origin == origin)
            ops[count++] = &b->ops[i];
    }
    qsort(ops, count, sizeof(const struct ldg_op *), compare_late);
    for (size_t i = 1; i < count && !late; i++)
        late = ops[i]->key.number < ops[i - 1]->key.number &&
               strcmp(ops[i]->stream, ops[i - 1]->stream) == 0;
    *ret_late = late;
    return LEDGER_OK;
}

/* Has one of these streams a later entry? */
static ledger_rc late_look(struct ldg_pg_batch *b, const struct ldg_pg_order *order, bool *ret_late,
                           ledger_error *err)
{
    static const char find[] =
        "SELECT count(*) FROM (SELECT FROM \"{t}\" AS e JOIN unnest($1::text[], $2::int8[]) "
        "AS x(stream, pos) ON x.stream = e.stream AND x.pos < e.source_pos "
        "WHERE e.origin = $3 AND e.source_pos > $4 AND e.id < $5 LIMIT 1) AS s";
    struct ldg_buf *streams = &b->sink->arrays[0], *positions = &b->sink->arrays[1];
    struct ldg_pg_args args = { 0 };
    int64_t found = 0;
    size_t count = 0;
    ledger_rc rc;

    ldg_pg_array_begin(streams, LDG_PG_TEXT);
    ldg_pg_array_begin(positions, LDG_PG_INT8);
    for (size_t i = 0; i < b->count; i++) {
        const struct ldg_op *op = &b->ops[i];

        if (op->kind != LDG_OP_APPEND || op->origin != order->origin ||
            op->key.number >= order->highest)
            continue;
        ldg_pg_array_text(streams, op->stream);
        ldg_pg_array_int64(positions, op->key.number);
        count++;
    }
    ldg_pg_array_end(streams, count);
    ldg_pg_array_end(positions, count);
    ldg_pg_arg_array(&args, LDG_PG_TEXT_ARRAY, streams);
    ldg_pg_arg_array(&args, LDG_PG_INT8_ARRAY, positions);
    ldg_pg_arg_int32(&args, order->origin);
    ldg_pg_arg_int64(&args, order->lowest_new);
    ldg_pg_arg_int64(&args, b->lowest_id);
    rc = ldg_pg_run_int64(b->pg, "looking for later entries", find, &args, NULL, &found, err);
    *ret_late = found != 0;
    return rc;
}

/* Before a batch goes in at once: which origins are no longer in order with it? Trims look at whole
 * streams then. */
ledger_rc ldg_pg_orders_check(struct ldg_pg_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < b->order_count; i++) {
        struct ldg_pg_order *order = &b->orders[i];
        bool late = false;

        if (!order->ordered || order->new_count == 0)
            continue;
        if (order->highest > order->lowest_new && order->highest - order->lowest_new > LATE_MAX)
            late = true;
        else if (order->highest > order->lowest_new)
            rc = late_look(b, order, &late, err);
        if (rc == LEDGER_OK && !late)
            rc = late_within(b, order->origin, &late, err);
        order->ordered = !late;
        order->disorder = late;
    }
    return rc;
}

ledger_rc ldg_pg_orders_load(struct ldg_pg_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < b->order_count; i++) {
        struct ldg_pg_args args = { 0 };
        PGresult *result = NULL;

        ldg_pg_order_args(b, &b->orders[i], &args);
        rc = ldg_pg_run(b->pg, LDG_PG_KEEP, "looking for an origin", ldg_pg_order_get, &args,
                        &result, err);
        if (rc == LEDGER_OK)
            rc = ldg_pg_order_take(b, &b->orders[i], result, err);
        PQclear(result);
    }
    return rc;
}

static const char note_disorder[] =
    "UPDATE \"{t}_origins\" SET ordered = false WHERE id = $1 AND ordered";

ledger_rc ldg_pg_orders_note(struct ldg_pg_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < b->order_count; i++) {
        struct ldg_pg_args args = { 0 };

        if (!b->orders[i].disorder)
            continue;
        ldg_pg_arg_int32(&args, b->orders[i].origin);
        rc = ldg_pg_run(b->pg, LDG_PG_KEEP, "noting a late entry", note_disorder, &args, NULL, err);
    }
    return rc;
}
