#include "backend/postgres/postgres.h"

ledger_rc ldg_pg_origin_get(void *ctx, const struct ldg_identity *identity, const char *name,
                            int *ret_origin, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_origin_get");
}

ledger_rc ldg_pg_origin_list(void *ctx, struct ldg_arena *arena, struct ldg_identity **ret_items,
                             int **ret_numbers, size_t *ret_count, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_origin_list");
}

ledger_rc ldg_pg_origin_adopt(void *ctx, int origin, uint64_t *ret_adopted, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_origin_adopt");
}

ledger_rc ldg_pg_origin_rewind(void *ctx, int origin, int64_t position, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_origin_rewind");
}

ledger_rc ldg_pg_origin_unclaimed(void *ctx, bool *ret_any, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_origin_unclaimed");
}

ledger_rc ldg_pg_cursor_get(void *ctx, const char *name, bool create, struct ldg_cursor *ret_cursor,
                            ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_cursor_get");
}

ledger_rc ldg_pg_cursor_set(void *ctx, const char *name, const struct ldg_cursor *expected,
                            const struct ldg_cursor *next, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_cursor_set");
}

ledger_rc ldg_pg_cursor_list(void *ctx, ledger_names *ret_names, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_cursor_list");
}

