/* The vtable, opening and closing, transactions and snapshots. */
#include "backend/postgres/postgres.h"

ledger_rc ldg_pg_fail_row(const struct ldg_pg *pg, int64_t id, const char *column, const char *why,
                          ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_DATA, "%s: entry %lld: column %s: %s", pg->table, (long long)id,
                    column, why);
}

static ledger_rc pg_open(void *ctx, const struct ldg_open *open, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet");
}

static void pg_close(void *ctx)
{
}

static bool pg_describe(void *ctx, char *url, size_t url_size)
{
    return false;
}

static bool pg_has_log(void *ctx)
{
    return false;
}

static const char *pg_wake_key(void *ctx)
{
    return "";
}

static ledger_rc pg_health(void *ctx, ledger_error *err)
{
    return LEDGER_OK;
}

static ledger_rc pg_identity(void *ctx, struct ldg_identity *ret_identity, ledger_error *err)
{
    return LEDGER_OK;
}

const struct ldg_backend ldg_backend_postgres = {
    .name = "postgres",
    .scheme = "postgresql",
    .ctx_size = sizeof(struct ldg_pg),
    .open = pg_open,
    .close = pg_close,
    .describe = pg_describe,
    .has_log = pg_has_log,
    .wake_key = pg_wake_key,
    .append = ldg_pg_append,
    .read = ldg_pg_read,
    .count = ldg_pg_count,
    .stat = ldg_pg_stat,
    .list_streams = ldg_pg_list_streams,
    .health = pg_health,
    .check = ldg_pg_check,
    .identity = pg_identity,
};
