#include "backend/postgres/postgres.h"

ledger_rc ldg_pg_parked_list(void *ctx, int64_t after, size_t limit, struct ldg_arena *arena,
                             struct ldg_parked_row **ret_rows, size_t *ret_count,
                             ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_parked_list");
}

ledger_rc ldg_pg_parked_count(void *ctx, const char *source_uuid, uint64_t *ret_count,
                              ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_parked_count");
}

ledger_rc ldg_pg_parked_retry(void *ctx, int64_t id, const struct ldg_op *ops, size_t count,
                              bool *ret_applied, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_parked_retry");
}

ledger_rc ldg_pg_parked_note(void *ctx, int64_t id, const char *reason, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_parked_note");
}

ledger_rc ldg_pg_parked_drop(void *ctx, int64_t id, uint64_t *ret_dropped, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_parked_drop");
}

