#include "backend/postgres/postgres.h"

ledger_rc ldg_pg_append(void *ctx, const char *stream, const ledger_append_input *inputs,
                        size_t count, ledger_ids *ret_ids, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_append");
}

ledger_rc ldg_pg_set_tags(void *ctx, const char *stream, ledger_id id, ledger_list tags,
                          ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_set_tags");
}

ledger_rc ldg_pg_set_annotations(void *ctx, const char *stream, ledger_id id, ledger_map map,
                                 ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_set_annotations");
}

ledger_rc ldg_pg_trim(void *ctx, const char *stream, ledger_id before, uint64_t *ret_deleted,
                      ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_trim");
}

