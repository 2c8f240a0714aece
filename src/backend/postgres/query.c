#include "backend/postgres/postgres.h"

ledger_rc ldg_pg_read(void *ctx, const char *stream, const char *search,
                      const ledger_read_options *options, struct ldg_arena *arena,
                      ledger_entry **ret_entries, size_t *ret_count, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_read");
}

ledger_rc ldg_pg_count(void *ctx, const char *stream, uint64_t *ret_count, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_count");
}

ledger_rc ldg_pg_stat(void *ctx, const char *stream, ledger_stream_stat *ret_stat,
                      ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_stat");
}

ledger_rc ldg_pg_list_streams(void *ctx, const char *after, size_t limit, ledger_names *ret_names,
                              ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_list_streams");
}

ledger_rc ldg_pg_find_by_source_id(void *ctx, const char *stream, const char *source_id,
                                   ledger_id *ret_id, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_find_by_source_id");
}

ledger_rc ldg_pg_entries_by_id(void *ctx, const int64_t *ids, size_t count, struct ldg_arena *arena,
                               ledger_entry **ret_entries, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_entries_by_id");
}

ledger_rc ldg_pg_trim_kept(void *ctx, int origin, const char *stream, int64_t before,
                           struct ldg_arena *arena, int64_t **ret_ids, size_t *ret_count,
                           ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_trim_kept");
}

ledger_rc ldg_pg_history(void *ctx, int origin, int64_t after, size_t limit, size_t max_bytes,
                         struct ldg_arena *arena, struct ldg_history_row **ret_rows,
                         size_t *ret_count, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_history");
}

