#include "backend/postgres/postgres.h"

void ldg_pg_arg_text(struct ldg_pg_args *args, const char *text)
{
}

void ldg_pg_arg_text_n(struct ldg_pg_args *args, const char *text, size_t size)
{
}

void ldg_pg_arg_json(struct ldg_pg_args *args, const char *text, size_t size)
{
}

void ldg_pg_arg_bytes(struct ldg_pg_args *args, const void *data, size_t size)
{
}

void ldg_pg_arg_int64(struct ldg_pg_args *args, int64_t value)
{
}

void ldg_pg_arg_int32(struct ldg_pg_args *args, int32_t value)
{
}

void ldg_pg_arg_bool(struct ldg_pg_args *args, bool value)
{
}

void ldg_pg_arg_time(struct ldg_pg_args *args, int64_t time_us)
{
}

void ldg_pg_arg_array(struct ldg_pg_args *args, Oid type, const struct ldg_buf *array)
{
}

void ldg_pg_array_begin(struct ldg_buf *buf, Oid element)
{
}

void ldg_pg_array_bytes(struct ldg_buf *buf, const void *data, size_t size)
{
}

void ldg_pg_array_text(struct ldg_buf *buf, const char *text)
{
}

void ldg_pg_array_jsonb(struct ldg_buf *buf, const char *text, size_t size)
{
}

void ldg_pg_array_int64(struct ldg_buf *buf, int64_t value)
{
}

void ldg_pg_array_int32(struct ldg_buf *buf, int32_t value)
{
}

void ldg_pg_array_time(struct ldg_buf *buf, int64_t time_us)
{
}

void ldg_pg_array_end(struct ldg_buf *buf, size_t count)
{
}

ledger_rc ldg_pg_enter(struct ldg_pg *pg, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_enter");
}

ledger_rc ldg_pg_run(struct ldg_pg *pg, enum ldg_pg_plan plan, const char *doing,
                     const char *template, const struct ldg_pg_args *args, PGresult **ret_result,
                     ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_run");
}

ledger_rc ldg_pg_run_text(struct ldg_pg *pg, const char *doing, const char *text,
                          const struct ldg_pg_args *args, PGresult **ret_result, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_run_text");
}

ledger_rc ldg_pg_run_int64(struct ldg_pg *pg, const char *doing, const char *template,
                           const struct ldg_pg_args *args, bool *ret_found, int64_t *ret_value,
                           ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_run_int64");
}

ledger_rc ldg_pg_pipe_begin(struct ldg_pg *pg, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_pipe_begin");
}

ledger_rc ldg_pg_pipe_send(struct ldg_pg *pg, const char *doing, const char *template,
                           const struct ldg_pg_args *args, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_pipe_send");
}

ledger_rc ldg_pg_pipe_flush(struct ldg_pg *pg, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_pipe_flush");
}

ledger_rc ldg_pg_pipe_receive(struct ldg_pg *pg, const char *doing, PGresult **ret_result,
                              ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_pipe_receive");
}

ledger_rc ldg_pg_pipe_end(struct ldg_pg *pg, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_pipe_end");
}

ledger_rc ldg_pg_copy_begin(struct ldg_pg *pg, const char *template, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_copy_begin");
}

ledger_rc ldg_pg_copy_put(struct ldg_pg *pg, const void *data, size_t size, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_copy_put");
}

ledger_rc ldg_pg_copy_end(struct ldg_pg *pg, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_copy_end");
}

void ldg_pg_copy_cancel(struct ldg_pg *pg)
{
}

ledger_rc ldg_pg_fail(struct ldg_pg *pg, const PGresult *result, const char *doing,
                      ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_fail");
}

const char *ldg_pg_sqlstate(const ledger_error *err)
{
    return "";
}

bool ldg_pg_is_row_fault(const ledger_error *err)
{
    return 0;
}

void ldg_pg_drop(struct ldg_pg *pg)
{
}

ledger_rc ldg_pg_begin_write(struct ldg_pg *pg, const char *settings, bool *ret_own,
                             ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_begin_write");
}

ledger_rc ldg_pg_end(struct ldg_pg *pg, bool own, ledger_rc rc, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_end");
}

void ldg_pg_rollback(struct ldg_pg *pg)
{
}

ledger_rc ldg_pg_connect(struct ldg_pg *pg, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_connect");
}

ledger_rc ldg_pg_take(struct ldg_pg *pg, PGconn *conn, ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_UNSUPPORTED, "not built yet: ldg_pg_take");
}

void ldg_pg_close_conn(struct ldg_pg *pg)
{
}

