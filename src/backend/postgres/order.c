/* What the table says of the order of an origin's entries (sink/order.c).
 *
 * Hides the statements. Invariant: an origin that was once noted as out of order stays so. */
#include "backend/postgres/apply.h"

#include <string.h>

/* clang-format off */
/* $1 origin, $2 and $3 the lowest and highest key of the batch, $4 whether others may lie between
 * them, $5 the lowest id that is reserved: the batch's rows may be in already. */
static const char get_order[] =
    "SELECT ordered, greatest("
        "(SELECT max(source_pos) FROM \"{t}\" WHERE origin = $1 AND source_pos > $3), "
        "(SELECT max(source_pos) FROM \"{t}\" WHERE origin = $1 AND source_pos < $2), "
        "CASE WHEN $4 THEN (SELECT max(source_pos) FROM \"{t}\" WHERE origin = $1 "
            "AND source_pos >= $2 AND source_pos <= $3 AND id < $5) END) "
    "FROM \"{t}_origins\" WHERE id = $1";
/* clang-format on */

static void order_args(const struct ldg_sink_batch *s, const struct ldg_sink_order *order,
                       struct ldg_pg_args *args)
{
    ldg_pg_arg_int32(args, order->origin);
    ldg_pg_arg_int64(args, order->lowest_new);
    ldg_pg_arg_int64(args, order->highest_new);
    ldg_pg_arg_bool(args, order->gaps);
    ldg_pg_arg_int64(args, s->lowest_reserved);
}

static ledger_rc take_order(const struct ldg_pg_batch *b, struct ldg_sink_order *order,
                            const PGresult *result, ledger_error *err)
{
    if (PQntuples(result) == 0) /* it was there when the bridge began */
        return ldg_schema_fail_origins(b->pg->where != NULL ? b->pg->where : "the database",
                                       b->pg->table, err);
    order->ordered = ldg_pg_get_bool(result, 0, 0);
    order->highest = ldg_pg_get_int64(result, 0, 1);
    return LEDGER_OK;
}

ledger_rc ldg_pg_orders_send(struct ldg_pg_batch *b, const char *doing, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < b->s.order_count; i++) {
        struct ldg_pg_args args = { 0 };

        order_args(&b->s, &b->s.orders[i], &args);
        rc = ldg_pg_pipe_send(b->pg, doing, get_order, &args, err);
    }
    return rc;
}

ledger_rc ldg_pg_orders_receive(struct ldg_pg_batch *b, const char *doing, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < b->s.order_count; i++) {
        PGresult *result = NULL;

        rc = ldg_pg_pipe_receive(b->pg, doing, &result, err);
        b->s.orders[i].disorder = false;
        if (rc == LEDGER_OK)
            rc = take_order(b, &b->s.orders[i], result, err);
        PQclear(result);
    }
    return rc;
}

ledger_rc ldg_pg_order_load(void *ctx, struct ldg_sink_batch *s, struct ldg_sink_order *order,
                            ledger_error *err)
{
    struct ldg_pg_batch *b = ctx;
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    ledger_rc rc;

    order_args(s, order, &args);
    rc = ldg_pg_run(b->pg, LDG_PG_KEEP, "looking for an origin", get_order, &args, &result, err);
    if (rc == LEDGER_OK)
        rc = take_order(b, order, result, err);
    PQclear(result);
    return rc;
}

ledger_rc ldg_pg_order_late(void *ctx, struct ldg_sink_batch *s, const struct ldg_sink_order *order,
                            const uint32_t *ops, size_t count, bool *ret_late, ledger_error *err)
{
    /* clang-format off */
    static const char find[] =
        "SELECT count(*) FROM (SELECT FROM \"{t}\" AS e "
            "JOIN unnest($1::text[], $2::int8[]) AS x(stream, pos) "
                "ON x.stream = e.stream AND x.pos < e.source_pos "
            "WHERE e.origin = $3 AND e.source_pos > $4 AND e.id < $5 LIMIT 1) AS s";
    /* clang-format on */
    struct ldg_pg_batch *b = ctx;
    struct ldg_buf *streams = &b->sink->arrays[0], *positions = &b->sink->arrays[1];
    struct ldg_pg_args args = { 0 };
    int64_t found = 0;
    ledger_rc rc;

    ldg_pg_array_begin(streams, LDG_PG_TEXT);
    ldg_pg_array_begin(positions, LDG_PG_INT8);
    for (size_t i = 0; i < count; i++) {
        ldg_pg_array_text(streams, s->ops[ops[i]].stream);
        ldg_pg_array_int64(positions, s->ops[ops[i]].key.number);
    }
    ldg_pg_array_end(streams, count);
    ldg_pg_array_end(positions, count);
    ldg_pg_arg_array(&args, LDG_PG_TEXT_ARRAY, streams);
    ldg_pg_arg_array(&args, LDG_PG_INT8_ARRAY, positions);
    ldg_pg_arg_int32(&args, order->origin);
    ldg_pg_arg_int64(&args, order->lowest_new);
    ldg_pg_arg_int64(&args, s->plan->informed ? INT64_MAX : s->lowest_reserved);
    rc = ldg_pg_run_int64(b->pg, "looking for later entries", find, &args, NULL, &found, err);
    *ret_late = found != 0;
    return rc;
}

ledger_rc ldg_pg_order_note(void *ctx, int origin, ledger_error *err)
{
    static const char note[] =
        "UPDATE \"{t}_origins\" SET ordered = false WHERE id = $1 AND ordered";
    struct ldg_pg_batch *b = ctx;
    struct ldg_pg_args args = { 0 };

    ldg_pg_arg_int32(&args, origin);
    return ldg_pg_run(b->pg, LDG_PG_KEEP, "noting a late entry", note, &args, NULL, err);
}
