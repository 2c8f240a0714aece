#include "backend/postgres/postgres.h"

ledger_rc ldg_pg_log_read(void *ctx, const char *state, const struct ldg_log_limits *limits,
                          struct ldg_log_batch *batch, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_log_read");
}

ledger_rc ldg_pg_log_cursor_at(void *ctx, int64_t position, char state[LDG_CURSOR_STATE_MAX],
                               ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_log_cursor_at");
}

ledger_rc ldg_pg_log_check(void *ctx, const char *state, int64_t *ret_position, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_log_check");
}

ledger_rc ldg_pg_log_acknowledge(void *ctx, const char *state,
                                 char ret_state[LDG_CURSOR_STATE_MAX], ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_log_acknowledge");
}

ledger_rc ldg_pg_log_stat(void *ctx, const char *state, struct ldg_log_stat *ret_stat,
                          ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_log_stat");
}

ledger_rc ldg_pg_log_wait(void *ctx, int wake_fd, int64_t timeout_ms, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_log_wait");
}

void ldg_pg_source_free(struct ldg_pg *pg)
{
}

