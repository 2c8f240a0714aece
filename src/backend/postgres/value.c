#include "backend/postgres/postgres.h"

int64_t ldg_pg_get_int64(const PGresult *result, int row, int column)
{
    return 0;
}

bool ldg_pg_get_bool(const PGresult *result, int row, int column)
{
    return 0;
}

int64_t ldg_pg_get_time(const PGresult *result, int row, int column)
{
    return 0;
}

ledger_bytes ldg_pg_get_bytes(const PGresult *result, int row, int column)
{
    return (ledger_bytes){ 0 };
}

const char *ldg_pg_get_text(const PGresult *result, int row, int column)
{
    return "";
}

ledger_rc ldg_pg_get_map(const PGresult *result, int row, int column, struct ldg_arena *arena,
                         ledger_map *ret_map, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_get_map");
}

ledger_rc ldg_pg_get_list(const PGresult *result, int row, int column, struct ldg_arena *arena,
                          ledger_list *ret_list, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_get_list");
}

ledger_rc ldg_pg_get_int64s(const PGresult *result, int row, int column, struct ldg_arena *arena,
                            int64_t **ret_items, size_t *ret_count, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_get_int64s");
}

