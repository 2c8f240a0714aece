#include "backend/postgres/parked.h"

ledger_rc ldg_pg_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                       ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_apply");
}

uint64_t ldg_pg_durable_count(void *ctx)
{
    return 0;
}

void ldg_pg_hint_backlog(void *ctx, bool backlog)
{
}

void ldg_pg_sink_free(struct ldg_pg *pg)
{
}


ledger_rc ldg_pg_apply_ops(struct ldg_pg *pg, const struct ldg_op *ops, size_t count,
                           int64_t parked_id, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_apply_ops");
}
