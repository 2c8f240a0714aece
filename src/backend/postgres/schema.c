#include "backend/postgres/postgres.h"

ledger_rc ldg_pg_schema_open(struct ldg_pg *pg, const struct ldg_open *open, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_schema_open");
}

ledger_rc ldg_pg_schema_look(struct ldg_pg *pg, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_schema_look");
}

ledger_rc ldg_pg_check(void *ctx, ledger_finding_fn fn, void *fn_ctx, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_check");
}

