/* The connection: statements, pipelines, COPY, transactions, errors, and all the ways to lose it.
 */
#include "fixtures.h"
#include "pg_server.h"
#include "proxy.h"

#include <dlfcn.h>
#include <endian.h>
#include <netdb.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/postgres/postgres.h"
#include "base/clock.h"

static struct ldg_pg pg;
static ledger_error err;
static PGconn *other;    /* a superuser's */
static PGconn *observer; /* another, outside of any transaction, at the server that pg is at */

/* Four in turn. */
static const char *text_of(const char *fmt, ...) LEDGER_PRINTF(1, 2);
static const char *text_of(const char *fmt, ...)
{
    static char texts[4][1000];
    static int next;
    char *text = texts[next++ % 4];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(texts[0]), fmt, args);
    va_end(args);
    return text;
}

static void prepare_handle(const char *url)
{
    memset(&pg, 0, sizeof(pg));
    pg.url = url ? ldg_strdup(url) : NULL;
    pg.label = ldg_strdup("test/label");
    pg.table = ldg_strdup("t");
    pg.log_table = ldg_strdup("l");
    pg.busy_timeout_ms = 300;
    pg.reply_timeout_ms = 20000;
    pg.has_ours = pg.has_source_id = true;
}

static void release_handle(void)
{
    ldg_pg_close_conn(&pg);
    ldg_free(pg.url);
    ldg_free(pg.label);
    ldg_free(pg.table);
    ldg_free(pg.log_table);
    ldg_free(pg.where);
    memset(&pg, 0, sizeof(pg));
}

static void must(ledger_rc rc)
{
    if (rc != LEDGER_OK)
        fail_msg("%s: %s", ledger_rc_name(rc), err.message);
}

static void connect_to(const char *url)
{
    release_handle();
    prepare_handle(url);
    must(ldg_pg_connect(&pg, &err));
}

static int setup(void **state)
{
    struct tst_pg *server = tst_pg_shared();
    other = tst_pg_connect(server, NULL);
    observer = tst_pg_connect(server, NULL);
    tst_pg_sql(other, "DROP TABLE IF EXISTS t, l");
    tst_pg_sql(other, "CREATE TABLE t(id int8 PRIMARY KEY, v text CHECK (v != 'bad'))");
    tst_pg_sql(other, "CREATE TABLE l(id int8)");
    prepare_handle(tst_pg_url(server, NULL, NULL, NULL));
    must(ldg_pg_connect(&pg, &err));
    return 0;
}

static int teardown(void **state)
{
    release_handle();
    PQfinish(other);
    PQfinish(observer);
    return 0;
}

static PGresult *run(enum ldg_pg_plan plan, const char *template, const struct ldg_pg_args *args)
{
    PGresult *result = NULL;
    must(ldg_pg_run(&pg, plan, "asking", template, args, &result, &err));
    return result;
}

static int64_t ask_int(const char *text)
{
    PGresult *result = NULL;
    must(ldg_pg_run_text(&pg, "asking", text, NULL, &result, &err));
    int64_t value = ldg_pg_get_int64(result, 0, 0);
    PQclear(result);
    return value;
}

static bool says(const char *part)
{
    if (strstr(err.message, part))
        return true;
    print_message("not in \"%s\": \"%s\"\n", err.message, part);
    return false;
}

/* --- statements ------------------------------------------------------------------------------ */

static const char insert_row[] = "INSERT INTO \"{t}\"(id, v) VALUES ($1, $2)";

static int session_count(int pid)
{
    return (int)tst_pg_sql_int(observer, "SELECT count(*) FROM pg_stat_activity WHERE pid = %d",
                               pid);
}

static void await_end_of(int pid)
{
    tst_pg_await(observer, "SELECT (count(*) = 0)::int FROM pg_stat_activity WHERE pid = %d", pid);
}

static ledger_rc insert(int64_t id, const char *value)
{
    struct ldg_pg_args args = { 0 };
    ldg_pg_arg_int64(&args, id);
    ldg_pg_arg_text(&args, value);
    return ldg_pg_run(&pg, LDG_PG_KEEP, "inserting", insert_row, &args, NULL, &err);
}

static void test_statements(void **state)
{
    static const char count_names[] = "SELECT count(*) FROM pg_prepared_statements";
    static const char twice[] = "SELECT '{t}_x {l}{t}{'::text, 1::int8 AS \"{l}\"";
    for (int64_t i = 0; i < 10; i++)
        must(insert(i, "x"));
    assert_int_equal(ask_int(count_names), 1);
    for (int i = 0; i < 3; i++) {
        PGresult *r = run(i == 1 ? LDG_PG_FRESH : LDG_PG_KEEP, twice, NULL);
        assert_string_equal(ldg_pg_get_text(r, 0, 0), "t_x lt{");
        assert_string_equal(PQfname(r, 1), "l");
        PQclear(r);
    }
    assert_int_equal(ask_int(count_names), 2);
    bool found = true;
    int64_t value = 0;
    static const char one[] = "SELECT id FROM {t} WHERE id = 3";
    static const char none[] = "SELECT id FROM {t} WHERE id = 300";
    must(ldg_pg_run_int64(&pg, "asking", one, NULL, NULL, &value, &err));
    assert_int_equal(value, 3);
    must(ldg_pg_run_int64(&pg, "asking", none, NULL, &found, &value, &err));
    assert_false(found);
    assert_int_equal(ldg_pg_run_int64(&pg, "asking", none, NULL, NULL, &value, &err),
                     LEDGER_ERR_INTERNAL);
}

/* Prepared statements that somebody threw away, or whose tables were altered, are made again; a
 * transaction has to begin again for it. */
static void test_outdated(void **state)
{
    static const char ask[] = "SELECT v FROM \"{t}\" WHERE id = 1";
    static const char ask_id[] = "SELECT id FROM \"{t}\" WHERE id = 1";
    static const char unsupported[] = "SELECT ledger_test_unsupported()";
    static const char *const alters[] = {
        "ALTER TABLE t ALTER v TYPE text COLLATE \"C\"",
        "ALTER TABLE t ALTER v TYPE text",
        "ALTER TABLE t ALTER v TYPE varchar(100)",
        "ALTER TABLE t DROP COLUMN v, ADD COLUMN v text",
    };
    PGresult *result = NULL;
    bool own = false;
    must(insert(1, "x"));
    for (size_t i = 0; i < sizeof(alters) / sizeof(alters[0]); i++) {
        /* alone */
        PQclear(run(LDG_PG_KEEP, ask, NULL));
        PQclear(run(LDG_PG_KEEP, ask_id, NULL));
        tst_pg_sql(other, "%s", alters[i]);
        PQclear(run(LDG_PG_KEEP, ask, NULL));
        PQclear(run(LDG_PG_KEEP, ask_id, NULL));
        tst_pg_sql(other, "%s", alters[(i + 1) % 3]);

        /* in a transaction, in a pipeline or not */
        for (int piped = 0; piped < 2; piped++) {
            tst_pg_sql(other, "%s", alters[piped]);
            PQclear(run(LDG_PG_KEEP, ask, NULL));
            tst_pg_sql(other, "%s", alters[1 - piped]);
            must(ldg_pg_begin_write(&pg, NULL, &own, &err));
            ledger_rc rc;
            if (piped) {
                must(ldg_pg_pipe_begin(&pg, &err));
                must(ldg_pg_pipe_send(&pg, "asking", ask_id, NULL, &err));
                must(ldg_pg_pipe_send(&pg, "asking", ask, NULL, &err));
                must(ldg_pg_pipe_send(&pg, "asking", ask_id, NULL, &err));
                must(ldg_pg_pipe_receive(&pg, "asking", NULL, &err));
                rc = ldg_pg_pipe_receive(&pg, "asking", NULL, &err);
                assert_int_equal(ldg_pg_pipe_end(&pg, &err), rc);
            } else {
                rc = ldg_pg_run(&pg, LDG_PG_KEEP, "asking", ask, NULL, NULL, &err);
            }
            tst_fails(rc, LEDGER_ERR_BUSY, &err);
            assert_true(ldg_pg_is_outdated(rc, &err));
            assert_int_equal(ldg_pg_end(&pg, own, rc, &err), rc);
            must(ldg_pg_begin_write(&pg, NULL, &own, &err));
            PQclear(run(LDG_PG_KEEP, ask, NULL));
            must(ldg_pg_end(&pg, own, LEDGER_OK, &err));
        }
    }

    /* In a snapshot nothing is named. */
    PQclear(run(LDG_PG_KEEP, ask, NULL));
    tst_pg_sql(other, "ALTER TABLE t ALTER v TYPE text COLLATE \"POSIX\"");
    pg.in_snapshot = true;
    must(ldg_pg_begin(&pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", NULL, &err));
    PQclear(run(LDG_PG_KEEP, ask, NULL));
    ldg_pg_rollback(&pg);
    pg.in_snapshot = false;

    /* What is not supported is told as that. */
    tst_pg_sql(other, "CREATE OR REPLACE FUNCTION ledger_test_unsupported() RETURNS void LANGUAGE "
                      "plpgsql AS $$BEGIN RAISE SQLSTATE '0A000'; END$$");
    tst_fails(ldg_pg_run(&pg, LDG_PG_KEEP, "asking", unsupported, NULL, NULL, &err),
              LEDGER_ERR_UNSUPPORTED, &err);

    /* All that the session had, thrown away; and again, and again. */
    for (int i = 0; i < 4; i++) {
        PQclear(run(LDG_PG_FRESH, i == 0 ? "DISCARD ALL" : "DEALLOCATE ALL", NULL));
        PQclear(run(LDG_PG_KEEP, ask, NULL));
        must(ldg_pg_run_text(&pg, "asking", "SELECT current_setting('lock_timeout')", NULL, &result,
                             &err));
        assert_string_equal(ldg_pg_get_text(result, 0, 0), "300ms");
        PQclear(result);
    }
    assert_int_equal(ask_int("SELECT count(*) FROM pg_prepared_statements"), 0);
    for (int i = 0; i < 2; i++) {
        PQclear(run(LDG_PG_FRESH, "DEALLOCATE ALL", NULL));
        must(insert(200 + i, "x"));
    }
}

static void test_errors(void **state)
{
    static const struct {
        const char *text, *sqlstate;
        ledger_rc rc;
        bool row_fault;
    } cases[] = {
        { "SELECT 1/0", "22012", LEDGER_ERR_DATA, true },
        { "INSERT INTO t VALUES (1), (1)", "23505", LEDGER_ERR_REJECTED, true },
        { "INSERT INTO t VALUES (1, 'bad')", "23514", LEDGER_ERR_REJECTED, true },
        { "INSERT INTO t VALUES (NULL)", "23502", LEDGER_ERR_REJECTED, true },
        { "SELECT nothing FROM t", "42703", LEDGER_ERR_SCHEMA, false },
        { "SELECT 1 FROM nothing", "42P01", LEDGER_ERR_SCHEMA, false },
        { "DO $$BEGIN RAISE 'a line\nanother password=x'; END$$", "P0001", LEDGER_ERR_REJECTED,
          true },
        /* a code that a trigger's author has made up */
        { "DO $$BEGIN RAISE SQLSTATE 'ZZZZZ'; END$$", "ZZZZZ", LEDGER_ERR_REJECTED, true },
        { "DO $$BEGIN ASSERT false; END$$", "P0004", LEDGER_ERR_REJECTED, true },
        { "SELECT", NULL, LEDGER_OK, false },
        { "SET lock_timeout = '10ms'", NULL, LEDGER_OK, false },
        { "LOCK TABLE t", "25P01", LEDGER_ERR_INTERNAL, false },
        { "SELECT 1 FROM t FOR UPDATE", "55P03", LEDGER_ERR_BUSY, false },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        tst_pg_sql(other, "COMMIT; BEGIN");
        if (i + 1 == sizeof(cases) / sizeof(cases[0]))
            tst_pg_sql(other, "LOCK TABLE t");
        memset(&err, 0, sizeof(err));
        ledger_rc rc = ldg_pg_run_text(&pg, "trying", cases[i].text, NULL, NULL, &err);
        if (rc != cases[i].rc)
            fail_msg("%s: %s %s", cases[i].text, ledger_rc_name(rc), err.message);
        if (rc == LEDGER_OK)
            continue;
        assert_string_equal(ldg_pg_sqlstate(&err), cases[i].sqlstate);
        assert_string_equal(err.backend, "postgres");
        assert_int_equal(ldg_pg_is_row_fault(&err), cases[i].row_fault);
        assert_true(says("while trying"));
        assert_true(says("database \"postgres\""));
        assert_null(strstr(err.message, "another password"));
        assert_non_null(pg.conn);
        assert_false(pg.reply_lost);
    }
    tst_pg_sql(other, "COMMIT");
    memset(&err, 0, sizeof(err));
    assert_string_equal(ldg_pg_sqlstate(&err), "");
    assert_int_equal(ask_int("SELECT 1::int8"), 1);
}

/* --- pipelines ------------------------------------------------------------------------------- */

static ledger_rc pipe_insert(int64_t id, const char *value)
{
    struct ldg_pg_args args = { 0 };
    ldg_pg_arg_int64(&args, id);
    ldg_pg_arg_text(&args, value);
    return ldg_pg_pipe_send(&pg, "inserting", insert_row, &args, &err);
}

static void test_pipeline(void **state)
{
    static const char select_row[] = "SELECT v FROM {t} WHERE id = $1";
    static char big[200000];
    PGresult *r = NULL;
    memset(big, 'x', sizeof(big) - 1);
    /* Both ways more than the buffers between hold. */
    must(ldg_pg_pipe_begin(&pg, &err));
    for (int64_t i = 0; i < 100; i++) {
        struct ldg_pg_args args = { 0 };
        must(pipe_insert(i, big));
        ldg_pg_arg_int64(&args, i);
        must(ldg_pg_pipe_send(&pg, "reading", select_row, &args, &err));
    }
    must(ldg_pg_pipe_flush(&pg, &err));
    for (int64_t i = 0; i < 100; i++) {
        must(ldg_pg_pipe_receive(&pg, "inserting", NULL, &err));
        must(ldg_pg_pipe_receive(&pg, "reading", &r, &err));
        assert_int_equal(ldg_pg_get_bytes(r, 0, 0).size, sizeof(big) - 1);
        PQclear(r);
    }
    must(ldg_pg_pipe_end(&pg, &err));
    assert_int_equal(ask_int("SELECT count(*) FROM t"), 100);
    assert_int_equal(ask_int("SELECT count(*) FROM pg_prepared_statements"), 2);

    /* Nothing received: the end takes all. */
    must(ldg_pg_pipe_begin(&pg, &err));
    must(pipe_insert(200, ""));
    must(pipe_insert(201, ""));
    must(ldg_pg_pipe_end(&pg, &err));
    must(ldg_pg_pipe_begin(&pg, &err));
    must(ldg_pg_pipe_end(&pg, &err));
    assert_int_equal(ask_int("SELECT count(*) FROM t"), 102);

    /* The second fails: nothing of the transaction stays, and everybody hears of the first. */
    must(ldg_pg_pipe_begin(&pg, &err));
    for (int i = 0; i < 3; i++)
        must(pipe_insert(i == 1 ? 200 : 300 + i, "x"));
    must(ldg_pg_pipe_receive(&pg, "inserting", NULL, &err));
    for (int i = 0; i < 3; i++) {
        memset(&err, 0, sizeof(err));
        assert_int_equal(ldg_pg_pipe_receive(&pg, "inserting", NULL, &err), LEDGER_ERR_REJECTED);
        assert_string_equal(ldg_pg_sqlstate(&err), "23505");
    }
    assert_int_equal(ldg_pg_pipe_send(&pg, "more", insert_row, NULL, &err), LEDGER_ERR_REJECTED);
    assert_int_equal(ldg_pg_pipe_end(&pg, &err), LEDGER_ERR_REJECTED);
    assert_int_equal(ask_int("SELECT count(*) FROM t"), 102);
    must(insert(400, "x"));

    /* A statement whose preparation fails, unprepared ones behind it. */
    static const char broken[] = "SELECT nothing FROM {t}";
    static const char behind[] = "SELECT 17::int8";
    must(ldg_pg_pipe_begin(&pg, &err));
    must(ldg_pg_pipe_send(&pg, "asking", broken, NULL, &err));
    must(ldg_pg_pipe_send(&pg, "asking", behind, NULL, &err));
    assert_int_equal(ldg_pg_pipe_end(&pg, &err), LEDGER_ERR_SCHEMA);
    r = run(LDG_PG_KEEP, behind, NULL);
    assert_int_equal(ldg_pg_get_int64(r, 0, 0), 17);
    PQclear(r);

    /* In a transaction of its own, which is rolled back from the middle of the pipeline. */
    bool own = false;
    must(ldg_pg_begin_write(&pg, NULL, &own, &err));
    must(ldg_pg_pipe_begin(&pg, &err));
    must(pipe_insert(500, "x"));
    must(pipe_insert(501, "x"));
    must(ldg_pg_pipe_receive(&pg, "inserting", NULL, &err));
    assert_int_equal(ldg_pg_end(&pg, own, LEDGER_ERR_FENCED, &err), LEDGER_ERR_FENCED);
    assert_int_equal(ask_int("SELECT count(*) FROM t"), 103);
    assert_int_equal(PQtransactionStatus(pg.conn), PQTRANS_IDLE);

    /* Cut in the middle. */
    must(ldg_pg_pipe_begin(&pg, &err));
    must(pipe_insert(600, "x"));
    tst_pg_terminate(other, pg.backend_pid);
    assert_int_equal(ldg_pg_pipe_receive(&pg, "inserting", NULL, &err), LEDGER_ERR_CONNECT);
    assert_int_equal(ldg_pg_pipe_receive(&pg, "inserting", NULL, &err), LEDGER_ERR_CONNECT);
    assert_int_equal(ldg_pg_pipe_end(&pg, &err), LEDGER_ERR_CONNECT);
    assert_null(pg.conn);
}

/* --- COPY ------------------------------------------------------------------------------------ */

static size_t copy_row(char *out, int64_t id, const char *value)
{
    uint16_t columns = htobe16(2);
    uint32_t size = htobe32(8), text_size = htobe32((uint32_t)strlen(value));
    uint64_t number = htobe64((uint64_t)id);
    char *p = out;
    p = (char *)memcpy(p, &columns, 2) + 2;
    p = (char *)memcpy(p, &size, 4) + 4;
    p = (char *)memcpy(p, &number, 8) + 8;
    p = (char *)memcpy(p, &text_size, 4) + 4;
    p = (char *)memcpy(p, value, strlen(value)) + strlen(value);
    return (size_t)(p - out);
}

static const char copy_rows[] = "COPY \"{t}\"(id, v) FROM STDIN (FORMAT binary)";
static const char signature[19] = "PGCOPY\n\377\r\n";

static ledger_rc put_rows(int64_t from, int64_t to, const char *value)
{
    char row[512];
    ledger_rc rc = ldg_pg_copy_put(&pg, signature, sizeof(signature), &err);
    for (int64_t i = from; rc == LEDGER_OK && i < to; i++)
        rc = ldg_pg_copy_put(&pg, row, copy_row(row, i, value), &err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_copy_put(&pg, "\xff\xff", 2, &err);
    return rc;
}

static void test_copy(void **state)
{
    static char value[300];
    bool own = false;
    memset(value, 'x', sizeof(value) - 1);
    must(ldg_pg_begin_write(&pg, NULL, &own, &err));
    must(ldg_pg_copy_begin(&pg, copy_rows, &err));
    must(put_rows(0, 20000, value));
    must(ldg_pg_copy_end(&pg, NULL, &err));
    must(ldg_pg_end(&pg, own, LEDGER_OK, &err));
    assert_int_equal(ask_int("SELECT count(*) FROM t WHERE length(v) = 299"), 20000);

    must(ldg_pg_begin_write(&pg, NULL, &own, &err));
    must(ldg_pg_copy_begin(&pg, copy_rows, &err));
    must(put_rows(30000, 30001, "x"));
    ldg_pg_copy_cancel(&pg);
    assert_int_equal(PQtransactionStatus(pg.conn), PQTRANS_INERROR);
    assert_int_equal(ldg_pg_end(&pg, own, LEDGER_ERR_BUSY, &err), LEDGER_ERR_BUSY);

    /* Rolled back from the middle of it. */
    must(ldg_pg_begin_write(&pg, NULL, &own, &err));
    must(ldg_pg_copy_begin(&pg, copy_rows, &err));
    assert_int_equal(ldg_pg_end(&pg, own, LEDGER_ERR_BUSY, &err), LEDGER_ERR_BUSY);
    assert_int_equal(PQtransactionStatus(pg.conn), PQTRANS_IDLE);

    /* A key that is there. The server may say so while we still send. */
    must(ldg_pg_begin_write(&pg, NULL, &own, &err));
    must(ldg_pg_copy_begin(&pg, copy_rows, &err));
    ledger_rc rc = put_rows(19999, 60000, value);
    if (rc == LEDGER_OK)
        rc = ldg_pg_copy_end(&pg, NULL, &err);
    assert_int_equal(rc, LEDGER_ERR_REJECTED);
    assert_string_equal(ldg_pg_sqlstate(&err), "23505");
    assert_int_equal(ldg_pg_end(&pg, own, rc, &err), LEDGER_ERR_REJECTED);
    assert_int_equal(ask_int("SELECT count(*) FROM t"), 20000);

    /* Where the server refuses. */
    tst_pg_sql(other, "DROP ROLE IF EXISTS copier; CREATE ROLE copier LOGIN; "
                      "GRANT ALL ON t TO copier; ALTER TABLE t ENABLE ROW LEVEL SECURITY");
    connect_to(tst_pg_url(tst_pg_shared(), NULL, "copier", NULL));
    must(ldg_pg_begin_write(&pg, NULL, &own, &err));
    assert_int_equal(ldg_pg_copy_begin(&pg, copy_rows, &err), LEDGER_ERR_PERMISSION);
    assert_non_null(strstr(err.message, "BYPASSRLS"));
    assert_int_equal(ldg_pg_end(&pg, own, LEDGER_ERR_PERMISSION, &err), LEDGER_ERR_PERMISSION);
    tst_pg_sql(other, "DROP TABLE t; DROP ROLE copier");
    assert_int_equal(ldg_pg_copy_begin(&pg, copy_rows, &err), LEDGER_ERR_SCHEMA);
}

/* --- transactions ---------------------------------------------------------------------------- */

static void test_transactions(void **state)
{
    static const char settings[] = "SELECT set_config('statement_timeout', '0', true), "
                                   "set_config('my.{t}', 'seen', true)";
    bool own = false;
    PGresult *r = NULL;
    must(ldg_pg_begin_write(&pg, settings, &own, &err));
    assert_true(own);
    must(ldg_pg_run_text(&pg, "asking",
                         "SELECT current_setting('my.t'), current_setting('transaction_isolation'),"
                         " current_setting('transaction_read_only'), "
                         "current_setting('application_name'), current_setting('lock_timeout'), "
                         "current_setting('jit')",
                         NULL, &r, &err));
    assert_string_equal(ldg_pg_get_text(r, 0, 0), "seen");
    assert_string_equal(ldg_pg_get_text(r, 0, 1), "read committed");
    assert_string_equal(ldg_pg_get_text(r, 0, 2), "off");
    assert_string_equal(ldg_pg_get_text(r, 0, 3), "test/label");
    assert_string_equal(ldg_pg_get_text(r, 0, 4), "300ms");
    assert_string_equal(ldg_pg_get_text(r, 0, 5), "off");
    PQclear(r);
    must(insert(1, "x"));
    must(ldg_pg_end(&pg, own, LEDGER_OK, &err));
    must(ldg_pg_begin_write(&pg, NULL, &own, &err));
    must(insert(2, "x"));
    bool inner = true;
    must(ldg_pg_begin_write(&pg, settings, &inner, &err));
    assert_false(inner);
    must(ldg_pg_end(&pg, inner, LEDGER_OK, &err));
    assert_int_equal(ldg_pg_end(&pg, own, LEDGER_ERR_NOMEM, &err), LEDGER_ERR_NOMEM);
    assert_int_equal(ask_int("SELECT count(*) FROM t"), 1);

    /* What failed cannot be committed, and says so. */
    must(ldg_pg_begin_write(&pg, NULL, &own, &err));
    must(insert(3, "x"));
    assert_int_equal(insert(1, "x"), LEDGER_ERR_REJECTED);
    assert_int_equal(insert(4, "x"), LEDGER_ERR_INVALID);
    assert_int_equal(ldg_pg_begin_write(&pg, NULL, &inner, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ldg_pg_end(&pg, own, LEDGER_OK, &err), LEDGER_ERR_INVALID);
    assert_int_equal(PQtransactionStatus(pg.conn), PQTRANS_IDLE);
    assert_int_equal(ask_int("SELECT count(*) FROM t"), 1);

    /* A settings statement that fails begins nothing. */
    assert_int_equal(ldg_pg_begin_write(&pg, "SELECT set_config('no_such', '', true)", &own, &err),
                     LEDGER_ERR_SCHEMA);
    assert_int_equal(PQtransactionStatus(pg.conn), PQTRANS_IDLE);

    /* A constraint that is looked at by the commit alone. */
    tst_pg_sql(other, "CREATE TABLE d(id int8 REFERENCES t DEFERRABLE INITIALLY DEFERRED)");
    must(ldg_pg_begin_write(&pg, NULL, &own, &err));
    PQclear(run(LDG_PG_FRESH, "INSERT INTO d VALUES (77)", NULL));
    assert_int_equal(ldg_pg_end(&pg, own, LEDGER_OK, &err), LEDGER_ERR_REJECTED);
    /* … also of a single statement, whose result comes before. */
    static const char write_d[] = "INSERT INTO d VALUES (78) RETURNING id";
    assert_int_equal(ldg_pg_run_write(&pg, "writing", write_d, NULL, NULL, &err),
                     LEDGER_ERR_REJECTED);
    must(ldg_pg_pipe_begin(&pg, &err));
    must(ldg_pg_pipe_send(&pg, "writing", write_d, NULL, &err));
    must(ldg_pg_pipe_receive(&pg, "writing", NULL, &err));
    assert_int_equal(ldg_pg_pipe_end(&pg, &err), LEDGER_ERR_REJECTED);
    tst_pg_sql(other, "DROP TABLE d");
}

/* --- losing it ------------------------------------------------------------------------------- */

static void test_terminated(void **state)
{
    bool own = false;
    int pid = pg.backend_pid;
    assert_int_equal(pid, PQbackendPID(pg.conn));
    must(ldg_pg_begin_write(&pg, NULL, &own, &err));
    must(insert(1, "x"));
    tst_pg_terminate(other, pid);
    assert_int_equal(insert(2, "x"), LEDGER_ERR_CONNECT);
    assert_string_equal(ldg_pg_sqlstate(&err), "57P01");
    assert_null(pg.conn);
    assert_int_equal(insert(3, "x"), LEDGER_ERR_CONNECT);
    assert_int_equal(ldg_pg_end(&pg, own, LEDGER_OK, &err), LEDGER_ERR_CONNECT);
    assert_int_equal(pg.backend_pid, 0);
    must(ldg_pg_connect(&pg, &err));
    assert_int_not_equal(pg.backend_pid, pid);
    assert_int_equal(ask_int("SELECT count(*) FROM t"), 0);
}

static struct tst_proxy *through_proxy(void)
{
    struct tst_pg *server = tst_pg_shared();
    struct tst_proxy *proxy =
        tst_proxy_start(text_of("%s/.s.PGSQL.%d", server->dir, server->port), 0);
    connect_to(text_of("postgresql://postgres@127.0.0.1:%d/postgres?sslmode=disable&gssencmode="
                       "disable",
                       tst_proxy_port(proxy)));
    return proxy;
}

/* The commit goes out, its answer does not come back; or it does not even go out. */
static void test_unknown_outcome(void **state)
{
    for (int way = 0; way < 2; way++) {
        struct tst_proxy *proxy = through_proxy();
        bool own = false;
        must(ldg_pg_begin_write(&pg, NULL, &own, &err));
        must(insert(way, "x"));
        tst_proxy_arm(proxy, way ? TST_TO_SERVER : TST_TO_CLIENT, 1, TST_PROXY_CUT);
        assert_int_equal(ldg_pg_end(&pg, own, LEDGER_OK, &err), LEDGER_ERR_UNKNOWN_OUTCOME);
        assert_int_equal(err.flags, LEDGER_ERROR_RETRY);
        assert_null(pg.conn);
        must(ldg_pg_connect(&pg, &err));
        assert_int_equal(ask_int("SELECT count(*) FROM t WHERE id = 0"), 1);
        assert_int_equal(ask_int("SELECT count(*) FROM t WHERE id = 1"), 0);

        /* One statement of its own: the same. In a transaction it is simply lost. */
        static const char write_one[] = "INSERT INTO \"{t}\" VALUES ((SELECT max(id) + 10 FROM t))";
        tst_proxy_arm(proxy, way ? TST_TO_SERVER : TST_TO_CLIENT, way ? 1 : 40, TST_PROXY_CUT);
        assert_int_equal(ldg_pg_run_write(&pg, "writing", write_one, NULL, NULL, &err),
                         way ? LEDGER_ERR_CONNECT : LEDGER_ERR_UNKNOWN_OUTCOME);
        must(ldg_pg_connect(&pg, &err));
        must(ldg_pg_begin_write(&pg, NULL, &own, &err));
        tst_proxy_arm(proxy, TST_TO_CLIENT, 1, TST_PROXY_CUT);
        assert_int_equal(ldg_pg_run_write(&pg, "writing", write_one, NULL, NULL, &err),
                         LEDGER_ERR_CONNECT);
        assert_int_equal(ldg_pg_end(&pg, own, LEDGER_ERR_CONNECT, &err), LEDGER_ERR_CONNECT);
        release_handle();
        tst_proxy_destroy(&proxy);
    }
}

/* A backend that hears nothing of the cut keeps its locks, in the middle of a COPY for ever; any
 * handle at the same server ends it, also one that had its connection all the time. */
static void test_orphan(void **state)
{
    static const char lock[] = "SELECT 1 FROM {t} WHERE id = 1 FOR UPDATE NOWAIT";
    struct tst_proxy *proxy = through_proxy();
    struct ldg_pg second = pg; /* a connection of its own with the same parameters */
    bool own = false;
    second.conn = NULL;
    second.where = NULL;
    second.sqls = NULL;
    second.sql_count = second.sql_cap = 0;
    must(insert(1, "x"));
    must(ldg_pg_connect(&second, &err));
    must(ldg_pg_begin_write(&pg, NULL, &own, &err));
    PQclear(run(LDG_PG_FRESH, lock, NULL));
    must(ldg_pg_copy_begin(&pg, copy_rows, &err));
    tst_proxy_arm(proxy, TST_TO_SERVER, 1, TST_PROXY_STALL);
    assert_int_equal(PQputCopyData(pg.conn, "PGCOPY", 6), 1);
    assert_int_equal(PQflush(pg.conn), 0);
    while (!tst_proxy_hit(proxy))
        usleep(1000);
    const int pid = pg.backend_pid;
    ldg_pg_drop(&pg);
    assert_int_equal(ldg_pg_run(&second, LDG_PG_FRESH, "locking", lock, NULL, NULL, &err),
                     LEDGER_ERR_BUSY);
    must(ldg_pg_orphans_end(&second, &err));
    await_end_of(pid);
    must(ldg_pg_run(&second, LDG_PG_FRESH, "locking", lock, NULL, NULL, &err));

    /* A number that was given out again is somebody else's. */
    PGconn *other_one = tst_pg_connect(tst_pg_shared(), NULL);
    must(ldg_pg_connect(&pg, &err));
    pg.backend_pid = PQbackendPID(other_one);
    pg.backend_start_us = 12345;
    ldg_pg_drop(&pg);
    must(ldg_pg_orphans_end(&second, &err));
    usleep(50000);
    tst_pg_sql(other_one, "SELECT 1");
    PQfinish(other_one);
    ldg_pg_close_conn(&second);
    ldg_free(second.where);
    release_handle();
    tst_proxy_destroy(&proxy);
}

static const struct tst_proxy *probed_through;
static bool was_probed;

/* Once a second connection has asked about the first, that one's work comes to its end. */
static ledger_wait_answer end_work_when_probed(void *ctx, int64_t waited_ms)
{
    if (was_probed || tst_proxy_connections(probed_through) == 1)
        return LEDGER_WAIT_ON;
    was_probed = true;
    pg.reply_timeout_ms = 20000; /* the next time that it asks */
    tst_pg_sql(other, "INSERT INTO t VALUES (1)");
    return LEDGER_WAIT_ON;
}

static void work_outlives_a_probe(const struct tst_proxy *proxy)
{
    static const ledger_wait probed = { .ask = end_work_when_probed };
    tst_pg_sql(other, "CREATE OR REPLACE FUNCTION work() RETURNS int8 LANGUAGE plpgsql AS $$BEGIN "
                      "WHILE NOT EXISTS (SELECT FROM t WHERE id = 1) LOOP "
                      "PERFORM pg_sleep(0.01); END LOOP; RETURN 5; END$$");
    probed_through = proxy;
    was_probed = false;
    pg.wait = &probed;
    pg.reply_timeout_ms = 1000;
    assert_int_equal(ask_int("SELECT work()"), 5);
    assert_true(was_probed);
    pg.wait = NULL;
}

/* Silence: long work goes on, a connection that does not answer any more is given up. */
static void test_silence(void **state)
{
    struct tst_proxy *proxy = through_proxy();
    char *url = pg.url;
    work_outlives_a_probe(proxy);
    pg.reply_timeout_ms = 100;
    /* A probe of a stalled network waits as long as connecting may take. */
    pg.url = ldg_strdup(text_of("%s&connect_timeout=2", url));
    tst_proxy_stall(proxy, TST_TO_CLIENT);
    assert_int_equal(ldg_pg_run_text(&pg, "asking", "SELECT 1", NULL, NULL, &err),
                     LEDGER_ERR_CONNECT);
    assert_true(says("no answer"));
    assert_null(pg.conn);
    tst_proxy_stall(proxy, 0);
    ldg_free(pg.url);
    pg.url = url;
    pg.reply_timeout_ms = 20000;
    must(ldg_pg_connect(&pg, &err));
    pg.reply_timeout_ms = 100;

    /* Only this connection is stalled, and the server waits for its next statement. */
    tst_proxy_arm(proxy, TST_TO_SERVER, 1, TST_PROXY_STALL);
    assert_int_equal(ldg_pg_run_text(&pg, "asking", "SELECT 1", NULL, NULL, &err),
                     LEDGER_ERR_CONNECT);
    release_handle();
    tst_proxy_destroy(&proxy);
}

/* --- whoever waits is asked ------------------------------------------------------------------ */

static ledger_wait_answer answer;
static const char *answer_event; /* once the session waits for it, that is the answer … */
static int64_t answer_from_us;   /* … and by then; before, to go on */
static char told[4][400];
static int told_count;

static bool session_waits_for(const char *event)
{
    return tst_pg_sql_int(observer,
                          "SELECT count(*) FROM pg_stat_activity WHERE pid = %d AND wait_event = "
                          "'%s'",
                          PQbackendPID(pg.conn), event) > 0;
}

static ledger_wait_answer ask(void *ctx, int64_t waited_ms)
{
    if (answer_event && session_waits_for(answer_event)) {
        answer_event = NULL;
        answer_from_us = ldg_clock_mono_us();
    }
    return !answer_event && ldg_clock_mono_us() >= answer_from_us ? answer : LEDGER_WAIT_ON;
}

static void tell(void *ctx, const char *what)
{
    snprintf(told[told_count % 4], sizeof(told[0]), "%s", what);
    told_count++;
}

static const ledger_wait asked = { .ask = ask, .waiting = tell };

static void answer_in(int64_t ms, ledger_wait_answer is)
{
    answer = is;
    answer_event = NULL;
    answer_from_us = ldg_clock_mono_us() + ms * 1000;
    told_count = 0;
    memset(told, 0, sizeof(told));
}

/* Not before the server is at it. */
static void answer_at(const char *event, ledger_wait_answer is)
{
    answer_in(0, is);
    answer_event = event;
}

/* It was the answer that ended it: by itself it takes 20 seconds and more. */
static void soon(void)
{
    assert_null(answer_event);
    assert_in_range(ldg_clock_mono_us(), answer_from_us, answer_from_us + 15 * 1000000);
}

static bool told_of(const char *part)
{
    for (int i = 0; i < 4; i++) {
        if (strstr(told[i], part))
            return true;
    }
    print_message("told %d: %s; %s\n", told_count, told[0], told[1]);
    return false;
}

/* A statement, a COPY, a COMMIT: each in the middle of what it waits for. */
static void test_stop(void **state)
{
    const int pid = pg.backend_pid;
    pg.wait = &asked;
    answer_at("PgSleep", LEDGER_WAIT_STOP);
    assert_int_equal(ldg_pg_run_text(&pg, "asking", "SELECT pg_sleep(60)", NULL, NULL, &err),
                     LEDGER_ERR_CONNECT);
    soon();
    assert_null(pg.conn);
    await_end_of(pid); /* nobody is held up by what is left of it */

    answer_in(0, LEDGER_WAIT_STOP);
    assert_int_equal(ldg_pg_connect(&pg, &err), LEDGER_ERR_CONNECT);
    answer = LEDGER_WAIT_ON;
    must(ldg_pg_connect(&pg, &err));
    must(ldg_pg_run_text(&pg, "asking", "SET lock_timeout = 0", NULL, NULL, &err));
    tst_pg_sql(other, "BEGIN; LOCK t");
    answer_at("relation", LEDGER_WAIT_STOP);
    assert_int_equal(insert(1, "x"), LEDGER_ERR_CONNECT);
    soon();
    tst_pg_sql(other, "ROLLBACK");
}

/* Enough is waited, but it is at work: it goes on. A lock: it is told who has it, and its wait is
 * cancelled; the connection stays. */
static void test_enough(void **state)
{
    pg.wait = &asked;
    answer_at("PgSleep", LEDGER_WAIT_ENOUGH);
    assert_int_equal(ask_int("SELECT 5::int8 FROM pg_sleep(1)"), 5);

    tst_pg_sql(other, "BEGIN; LOCK t");
    must(ldg_pg_run_text(&pg, "asking", "SET lock_timeout = 0", NULL, NULL, &err));
    answer_at("relation", LEDGER_WAIT_ENOUGH);
    assert_int_equal(insert(1, "x"), LEDGER_ERR_BUSY);
    soon();
    assert_true(says(text_of("process %d ", PQbackendPID(other))));
    assert_true(says("pg_terminate_backend"));
    assert_non_null(pg.conn);
    tst_pg_sql(other, "ROLLBACK");
    must(insert(1, "x"));
}

/* A server of the test's own; from now on it is the observed one. */
static struct tst_pg *server_with_table(void)
{
    struct tst_pg *server = tst_pg_start(NULL);
    PQfinish(observer);
    observer = tst_pg_connect(server, NULL);
    tst_pg_sql(observer, "CREATE TABLE t(id int8 PRIMARY KEY, v text)");
    return server;
}

static bool waits_for_standby(int pid)
{
    return tst_pg_sql_int(observer,
                          "SELECT count(*) FROM pg_stat_activity WHERE pid = %d AND "
                          "wait_event = 'SyncRep'",
                          pid) > 0;
}

/* Each commit waits from now on. It is the checkpointer that makes them wait, at a moment of its
 * own, so commits are tried until one does. */
static void take_standby_away(struct tst_pg *server)
{
    PGconn *trial = tst_pg_connect(server, NULL);
    const int pid = PQbackendPID(trial);
    bool waits = false;
    tst_pg_sql(observer, "CREATE TABLE IF NOT EXISTS trial(n int8)");
    tst_pg_configure(server, "synchronous_standby_names = 'nobody'");
    tst_pg_reload(server);
    while (!waits) {
        assert_int_equal(PQsendQuery(trial, "INSERT INTO trial VALUES (1)"), 1);
        while (!waits && PQisBusy(trial)) {
            waits = waits_for_standby(pid);
            assert_int_equal(PQconsumeInput(trial), 1);
        }
        for (PGresult *result; !waits && (result = PQgetResult(trial)) != NULL;)
            PQclear(result);
    }
    tst_pg_terminate(observer, pid);
    PQfinish(trial);
}

/* The COMMIT waits for a standby. Whoever gives it up may neither say that it has failed, nor make
 * it seen before it is safe. */
static void test_standby_away(void **state)
{
    /* An interrupt changes nothing of it. */
    static const ledger_wait_answer ends[] = { LEDGER_WAIT_STOP, LEDGER_WAIT_ENOUGH,
                                               (ledger_wait_answer)(LEDGER_WAIT_ENOUGH |
                                                                    LDG_WAIT_INTERRUPTED) };
    struct tst_pg *server = server_with_table();
    take_standby_away(server);
    for (int i = 0; i < 3; i++) {
        connect_to(tst_pg_url(server, NULL, NULL, NULL));
        pg.wait = &asked;
        answer = LEDGER_WAIT_ON;
        must(ldg_pg_begin(&pg, "BEGIN", NULL, &err));
        must(insert(i, "x"));
        answer_at("SyncRep", ends[i]);
        assert_int_equal(ldg_pg_commit(&pg, &err), LEDGER_ERR_UNKNOWN_OUTCOME);
        soon();
        if (ends[i] != LEDGER_WAIT_STOP)
            assert_true(says("SyncRep"));
        assert_null(pg.conn);
        answer = LEDGER_WAIT_ON;
        must(ldg_pg_connect(&pg, &err));
        must(ldg_pg_orphans_end(&pg, &err));
        assert_int_equal(tst_pg_sql_int(observer, "SELECT count(*) FROM t WHERE id = %d", i), 0);
    }
    assert_int_equal(
        tst_pg_sql_int(observer,
                       "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"),
        3);
    tst_pg_configure(server, "synchronous_standby_names = ''");
    tst_pg_reload(server);
    tst_pg_await(observer, "SELECT (count(*) = 3)::int FROM t");
    release_handle();
    tst_pg_destroy(&server);
}

/* --- interrupts ------------------------------------------------------------------------------ */

static const char sleep_sql[] = "SELECT pg_sleep(60)";

static ledger_rc insert_alone(int64_t id)
{
    struct ldg_pg_args args = { 0 };
    ldg_pg_arg_int64(&args, id);
    ldg_pg_arg_text(&args, "x");
    return ldg_pg_run_write(&pg, "inserting", insert_row, &args, NULL, &err);
}

static pid_t frozen_pid;

/* Goes on when it has been interrupted for a while. */
static ledger_wait_answer ask_frozen(void *ctx, int64_t waited_ms)
{
    if (ldg_clock_mono_us() >= answer_from_us + 200 * 1000)
        kill(frozen_pid, SIGCONT);
    return ask(ctx, waited_ms);
}

/* A session that has not read the statement yet lets the request pass; so it is told again. */
static void interrupt_before_it_is_read(void)
{
    static const ledger_wait asked_of_frozen = { .ask = ask_frozen, .waiting = tell };
    frozen_pid = PQbackendPID(pg.conn);
    kill(frozen_pid, SIGSTOP);
    pg.wait = &asked_of_frozen;
    answer_in(0, LDG_WAIT_INTERRUPTED);
    assert_int_equal(ldg_pg_run_text(&pg, "asking", sleep_sql, NULL, NULL, &err),
                     LEDGER_ERR_CANCELLED);
    soon();
    pg.wait = &asked;
    assert_non_null(pg.conn);
}

/* A statement fails, whatever it does; the connection goes on. */
static void test_interrupt(void **state)
{
    const int pid = pg.backend_pid;
    pg.wait = &asked;
    answer_at("PgSleep", LDG_WAIT_INTERRUPTED);
    assert_int_equal(ldg_pg_run_text(&pg, "asking", sleep_sql, NULL, NULL, &err),
                     LEDGER_ERR_CANCELLED);
    soon();
    assert_true(says("interrupted"));
    interrupt_before_it_is_read();

    answer = LEDGER_WAIT_ON;
    must(ldg_pg_run_text(&pg, "asking", "SET lock_timeout = 0", NULL, NULL, &err));
    tst_pg_sql(other, "BEGIN; LOCK t");
    answer_at("relation", LDG_WAIT_INTERRUPTED);
    assert_int_equal(insert_alone(1), LEDGER_ERR_CANCELLED);
    soon();
    tst_pg_sql(other, "ROLLBACK");

    /* What ends a transaction is not interrupted. */
    for (int i = 0; i < 2; i++) {
        answer = LEDGER_WAIT_ON;
        must(ldg_pg_begin(&pg, "BEGIN", NULL, &err));
        must(insert(2, "x"));
        answer_in(0, LDG_WAIT_INTERRUPTED);
        if (i == 0) {
            assert_int_equal(ldg_pg_run_text(&pg, "asking", sleep_sql, NULL, NULL, &err),
                             LEDGER_ERR_CANCELLED);
            ldg_pg_rollback(&pg);
        } else {
            must(ldg_pg_commit(&pg, &err));
        }
        answer = LEDGER_WAIT_ON;
        assert_int_equal(ask_int("SELECT count(*) FROM t"), i);
    }
    assert_int_equal(pg.backend_pid, pid);
}

static void test_interrupt_given(void **state)
{
    PGconn *given = tst_pg_connect(tst_pg_shared(), NULL);
    release_handle();
    prepare_handle(NULL);
    must(ldg_pg_take(&pg, given, &err));
    pg.wait = &asked;
    answer_at("PgSleep", LDG_WAIT_INTERRUPTED);
    assert_int_equal(ldg_pg_run_text(&pg, "asking", sleep_sql, NULL, NULL, &err),
                     LEDGER_ERR_CANCELLED);
    soon();
    answer = LEDGER_WAIT_ON;
    must(insert(1, "x"));
    tst_pg_sql(given, "BEGIN");
    answer_in(0, LDG_WAIT_INTERRUPTED);
    assert_int_equal(ldg_pg_run_text(&pg, "asking", sleep_sql, NULL, NULL, &err),
                     LEDGER_ERR_CANCELLED);
    assert_int_equal(PQtransactionStatus(given), PQTRANS_INERROR);
    tst_pg_sql(given, "ROLLBACK");
    interrupt_before_it_is_read();
    ldg_pg_close_conn(&pg);
    PQfinish(given);
}

/* A server, or a session, that is stopped: there is no answer, so the connection goes. */
static void test_interrupt_no_answer(void **state)
{
    static const struct {
        bool server, writes;
        ledger_rc want;
    } cases[] = {
        { true, false, LEDGER_ERR_CANCELLED },
        { true, true, LEDGER_ERR_UNKNOWN_OUTCOME },
        { false, false, LEDGER_ERR_CANCELLED },
    };
    struct tst_pg *server = server_with_table();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        connect_to(tst_pg_url(server, NULL, NULL, NULL));
        must(insert_alone(10 + (int64_t)i)); /* prepared: else nothing would be run yet */
        const int pid = pg.backend_pid;
        pg.wait = &asked;
        kill(pid, SIGSTOP);
        if (cases[i].server)
            kill(server->pid, SIGSTOP);
        answer_in(300, LDG_WAIT_INTERRUPTED);
        ledger_rc rc = cases[i].writes
                           ? insert_alone(1)
                           : ldg_pg_run_text(&pg, "asking", "SELECT 1", NULL, NULL, &err);
        kill(server->pid, SIGCONT);
        kill(pid, SIGCONT);
        assert_int_equal(rc, cases[i].want);
        soon();
        assert_null(pg.conn);
        answer = LEDGER_WAIT_ON;
        must(ldg_pg_connect(&pg, &err));
        assert_int_equal(ask_int("SELECT 5::int8"), 5);
    }
    release_handle();
    tst_pg_destroy(&server);
}

static struct tst_pg *to_mend; /* NULL: it was mended */

static ledger_wait_answer ask_and_mend(void *ctx, int64_t waited_ms)
{
    if (to_mend && !answer_event && ldg_clock_mono_us() >= answer_from_us + 1500000) {
        tst_pg_configure(to_mend, "synchronous_standby_names = ''");
        tst_pg_reload(to_mend);
        to_mend = NULL;
    }
    return ask(ctx, waited_ms);
}

/* What waits for a standby has committed. It would be told so before it is safe if the wait were
 * ended. */
static void test_interrupt_standby_away(void **state)
{
    static const ledger_wait mends = { .ask = ask_and_mend };
    struct tst_pg *server = server_with_table();
    PGconn *holder = tst_pg_connect(server, NULL), *given = NULL;
    for (int i = 0; i < 3; i++) {
        take_standby_away(server);
        if (i < 2) {
            connect_to(tst_pg_url(server, NULL, NULL, NULL));
        } else {
            release_handle();
            prepare_handle(NULL);
            given = tst_pg_connect(server, NULL);
            must(ldg_pg_take(&pg, given, &err));
        }
        pg.wait = &mends;
        if (i == 1) { /* a lock is not yet a commit */
            must(ldg_pg_run_text(&pg, "asking", "SET lock_timeout = 0", NULL, NULL, &err));
            tst_pg_sql(holder, "BEGIN; LOCK t");
            answer_at("relation", LDG_WAIT_INTERRUPTED);
            assert_int_equal(insert_alone(i), LEDGER_ERR_CANCELLED);
            tst_pg_sql(holder, "ROLLBACK");
            answer = LEDGER_WAIT_ON;
        }
        if (i == 0) {
            must(ldg_pg_begin(&pg, "BEGIN", NULL, &err));
            must(insert(i, "x"));
        }
        to_mend = server;
        answer_at("SyncRep", LDG_WAIT_INTERRUPTED);
        must(i == 0 ? ldg_pg_commit(&pg, &err) : insert_alone(i));
        assert_null(to_mend);
        assert_int_equal(tst_pg_sql_int(observer, "SELECT count(*) FROM t WHERE id = %d", i), 1);
        answer = LEDGER_WAIT_ON;
    }
    release_handle();
    PQfinish(given);
    PQfinish(holder);
    tst_pg_destroy(&server);
}

/* Who has the lock was told: that is enough. */
static ledger_wait_answer ask_until_told(void *ctx, int64_t waited_ms)
{
    return told_count > 0 ? LEDGER_WAIT_ENOUGH : LEDGER_WAIT_ON;
}

static const ledger_wait until_told = { .ask = ask_until_told, .waiting = tell };

/* A lock that was not had before is looked at: a bridge that does not move is ended, in a COPY and
 * between two statements; anybody else is named. */
static void test_frozen(void **state)
{
    static const struct {
        const char *name;
        bool copies, ends;
    } cases[] = {
        { "ledgerctl/orders", false, true },
        { "ledgerctl/orders", true, true },
        { "test/label", false, true }, /* our own */
        { "psql", false, false },
        { "ledgerctl", true, false },
    };
    pg.wait = &asked;
    answer = LEDGER_WAIT_ON;
    pg.busy_timeout_ms = 60000;
    must(ldg_pg_run_text(&pg, "asking", "SET lock_timeout = '60s'", NULL, NULL, &err));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        PGconn *frozen = tst_pg_connect_url(
            tst_pg_url(tst_pg_shared(), NULL, NULL, text_of("application_name=%s", cases[i].name)));
        const int pid = PQbackendPID(frozen);
        tst_pg_sql(frozen, "BEGIN; INSERT INTO t VALUES (%d, 'theirs')", 100 + (int)i);
        if (cases[i].copies)
            PQclear(PQexec(frozen, "COPY t FROM STDIN"));
        pg.silent_ms = 100;
        pg.lock_failures = 1;
        pg.wait = cases[i].ends ? &asked : &until_told;
        answer_in(0, LEDGER_WAIT_ON);
        ledger_rc rc = insert(100 + (int64_t)i, "ours");
        assert_int_equal(rc, cases[i].ends ? LEDGER_OK : LEDGER_ERR_BUSY);
        assert_true(told_of(text_of("process %d ", pid)));
        if (cases[i].ends)
            await_end_of(pid);
        else
            assert_int_equal(session_count(pid), 1);
        if (!cases[i].ends)
            assert_true(says(text_of("pg_terminate_backend(%d)", pid)));
        PQfinish(frozen);
        pg.lock_failures = 0;
    }
    /* One that was heard of a moment ago is left alone. */
    PGconn *busy = tst_pg_connect_url(
        tst_pg_url(tst_pg_shared(), NULL, NULL, "application_name=ledgerctl/orders"));
    tst_pg_sql(busy, "BEGIN; INSERT INTO t VALUES (200, 'theirs')");
    pg.silent_ms = 60000;
    pg.lock_failures = 1;
    pg.wait = &until_told;
    answer_in(0, LEDGER_WAIT_ON);
    assert_int_equal(insert(200, "ours"), LEDGER_ERR_BUSY);
    tst_pg_sql(busy, "COMMIT");
    PQfinish(busy);
}

/* Names are looked up inside of libpq, which blocks. */
static atomic_bool name_service_hangs;

__attribute__((visibility("default"))) int getaddrinfo(const char *node, const char *service,
                                                       const struct addrinfo *hints,
                                                       struct addrinfo **ret)
{
    static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    while (node && strcmp(node, "hanging.invalid") == 0 && atomic_load(&name_service_hangs))
        usleep(10000);
    return real(node, service, hints, ret);
}

static _Atomic int64_t hasty_us;

static int64_t hasty_clock(void)
{
    return atomic_fetch_add(&hasty_us, 1000000) + 1000000;
}

static void stop_connecting(const char *url, const char *waits_for)
{
    release_handle();
    prepare_handle(url);
    pg.wait = &asked;
    answer_in(300, LEDGER_WAIT_STOP);
    assert_int_equal(ldg_pg_connect(&pg, &err), LEDGER_ERR_CONNECT);
    soon();
    answer_in(300, LDG_WAIT_INTERRUPTED);
    assert_int_equal(ldg_pg_connect(&pg, &err), LEDGER_ERR_CANCELLED);
    soon();
    /* By a clock on which ten seconds are soon over. */
    answer_in(30000, LEDGER_WAIT_ENOUGH);
    hasty_us = ldg_clock_mono_us();
    ldg_clock_set_mono(hasty_clock);
    assert_int_equal(ldg_pg_connect(&pg, &err), LEDGER_ERR_CONNECT);
    ldg_clock_set_mono(NULL);
    assert_int_equal(told_count, 1);
    assert_true(told_of(waits_for));
}

static void test_stop_connecting(void **state)
{
    struct tst_pg *server = tst_pg_shared();
    char socket_path[300];
    snprintf(socket_path, sizeof(socket_path), "%s/.s.PGSQL.%d", server->dir, server->port);
    struct tst_proxy *proxy = tst_proxy_start(socket_path, 0);
    const int port = tst_proxy_port(proxy);
    tst_proxy_stall(proxy, TST_BOTH_WAYS);
    stop_connecting(text_of("postgresql://u@127.0.0.1:%d/d?connect_timeout=0", port),
                    "an answer of the server");
    stop_connecting(
        text_of("postgresql://u@127.0.0.1:%d,127.0.0.1:%d/d?connect_timeout=0", port, port),
        "an answer of the servers");
    atomic_store(&name_service_hangs, true);
    stop_connecting("postgresql://u@hanging.invalid/d?connect_timeout=0&sslmode=disable",
                    "the name service");
    atomic_store(&name_service_hangs, false);
    tst_proxy_stall(proxy, 0);
    tst_proxy_cut(proxy);
    usleep(200000); /* what was left behind ends, and frees itself */
    tst_proxy_destroy(&proxy);
}

/* --- connecting ------------------------------------------------------------------------------ */

static ledger_rc try_url(const char *url)
{
    release_handle();
    prepare_handle(url);
    memset(&err, 0, sizeof(err));
    ledger_rc rc = ldg_pg_connect(&pg, &err);
    if (rc != LEDGER_OK)
        assert_null(pg.conn);
    assert_null(strstr(err.message, "s3cret"));
    return rc;
}

static void test_refused(void **state)
{
    const struct tst_pg_options options = {
        .hba = "local all walled reject\nlocal all locked scram-sha-256\nhost all locked "
               "127.0.0.1/32 scram-sha-256\n",
        .tcp = true,
    };
    struct tst_pg *server = tst_pg_start(&options);
    tst_pg_exec(server, NULL,
                "CREATE ROLE locked LOGIN PASSWORD 's3cret'; "
                "CREATE ROLE walled LOGIN");
    tst_pg_exec(server, NULL,
                "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    unsetenv("PGPASSWORD");
    assert_int_equal(try_url(tst_pg_url(server, NULL, "locked", NULL)), LEDGER_ERR_PERMISSION);
    assert_true(says("PGPASSWORD"));
    assert_int_equal(try_url(tst_pg_url(server, NULL, "locked", "password=wrongs3cret")),
                     LEDGER_ERR_PERMISSION);
    assert_string_equal(ldg_pg_sqlstate(&err), "28P01");
    assert_int_equal(try_url(tst_pg_url(server, NULL, "locked", "password=s3cret")), LEDGER_OK);
    setenv("PGPASSWORD", "s3cret", 1);
    assert_int_equal(try_url(tst_pg_url_tcp(server, NULL, "locked", NULL)), LEDGER_OK);
    unsetenv("PGPASSWORD");
    assert_int_equal(try_url(tst_pg_url(server, NULL, "walled", NULL)), LEDGER_ERR_PERMISSION);
    assert_int_equal(try_url(tst_pg_url(server, NULL, "nobody_here", NULL)), LEDGER_ERR_PERMISSION);
    assert_int_equal(try_url(tst_pg_url(server, "nothing", NULL, NULL)), LEDGER_ERR_SCHEMA);
    assert_string_equal(ldg_pg_sqlstate(&err), "3D000");
    assert_int_equal(try_url(tst_pg_url(server, "latin", NULL, NULL)), LEDGER_ERR_SCHEMA);
    assert_true(says("UTF8"));
    assert_int_equal(try_url(text_of("postgresql://u:s3cret@127.0.0.1:%d/x", tst_free_port())),
                     LEDGER_ERR_CONNECT);
    assert_true(says("check host"));
    assert_int_equal(try_url("postgresql://u:s3cret@no-such-host.invalid/x"), LEDGER_ERR_CONNECT);
    assert_int_equal(try_url("postgresql:host=/nowhere password=s3cret dbname=x"),
                     LEDGER_ERR_CONNECT);
    assert_int_equal(try_url("postgresql://h/x?pasword=s3cret"), LEDGER_ERR_INVALID);
    assert_int_equal(try_url("postgresql://h:port/x"), LEDGER_ERR_INVALID);
    assert_int_equal(try_url("postgresql://h:1,i:70000/x"), LEDGER_ERR_INVALID);
    assert_int_equal(try_url("postgresql://h/x?service=no_such_service"), LEDGER_ERR_INVALID);
    assert_int_equal(try_url("postgresql://h/x?sslmode=wrong"), LEDGER_ERR_INVALID);
    assert_true(says("wrong"));
    assert_int_equal(try_url("postgresql://h/x?hostaddr=127.0.0.1,127.0.0.2"), LEDGER_ERR_INVALID);
    assert_int_equal(try_url(text_of("postgresql:host=%s port=%d user=postgres dbname=postgres",
                                     server->dir, server->port)),
                     LEDGER_OK);

    /* A refused role among several hosts still says why. */
    assert_int_equal(
        try_url(text_of("postgresql://locked:wrong@127.0.0.1:%d,127.0.0.1:%d/postgres?sslmode="
                        "disable",
                        tst_free_port(), server->port)),
        LEDGER_ERR_PERMISSION);
    assert_string_equal(ldg_pg_sqlstate(&err), "28P01");

    tst_pg_stop(server, TST_PG_FAST);
    assert_int_equal(try_url(tst_pg_url(server, NULL, NULL, NULL)), LEDGER_ERR_CONNECT);
    tst_pg_destroy(&server);
}

static void test_many_hosts(void **state)
{
    struct tst_pg *server = tst_pg_shared();
    struct tst_pg *standby = tst_pg_standby(server);
    assert_int_equal(try_url(tst_pg_url(standby, NULL, NULL, NULL)), LEDGER_ERR_READ_ONLY);
    assert_true(says("standby"));

    release_handle();
    prepare_handle(tst_pg_url(standby, NULL, NULL, NULL));
    pg.flags = LEDGER_STORE_READ_ONLY;
    must(ldg_pg_connect(&pg, &err));
    pg.role = LDG_ROLE_SOURCE;
    ldg_pg_close_conn(&pg);
    assert_int_equal(ldg_pg_connect(&pg, &err), LEDGER_ERR_READ_ONLY);

    /* One that was a primary: it may be one again. */
    pg.opened = true;
    assert_int_equal(ldg_pg_connect(&pg, &err), LEDGER_ERR_CONNECT);

    /* Of several hosts the one that takes writes. */
    char *url = ldg_strdup(text_of("postgresql:host=%s,%s port=%d,%d user=postgres dbname=postgres",
                                   standby->dir, server->dir, standby->port, server->port));
    assert_int_equal(try_url(url), LEDGER_OK);
    assert_int_equal(ask_int("SELECT pg_is_in_recovery()::int4"), 0);
    assert_int_equal(try_url(text_of("%s target_session_attrs=any", url)), LEDGER_ERR_READ_ONLY);
    ldg_free(url);

    /* A host that takes connections and says nothing holds up for its time, no longer. */
    struct tst_proxy *proxy =
        tst_proxy_start(text_of("%s/.s.PGSQL.%d", server->dir, server->port), 0);
    tst_proxy_stall(proxy, TST_BOTH_WAYS);
    const char *silent = text_of("postgresql:host=127.0.0.1,%s port=%d,%d user=postgres "
                                 "dbname=postgres connect_timeout=2 sslmode=disable",
                                 server->dir, tst_proxy_port(proxy), server->port);
    int64_t from_us = ldg_clock_mono_us();
    assert_int_equal(try_url(silent), LEDGER_OK);
    assert_in_range(ldg_clock_mono_us() - from_us, 1000000, 60000000);
    from_us = ldg_clock_mono_us();
    assert_int_equal(
        try_url(text_of("postgresql://127.0.0.1:%d/x?connect_timeout=2", tst_proxy_port(proxy))),
        LEDGER_ERR_CONNECT);
    assert_true(says("no answer"));
    assert_in_range(ldg_clock_mono_us() - from_us, 1000000, 60000000);
    tst_proxy_destroy(&proxy);
    tst_pg_destroy(&standby);
}

/* What could be written and cannot any more: another server may be the primary now. */
static void test_demoted(void **state)
{
    must(insert(1, "x"));
    pg.opened = true;
    PQclear(run(LDG_PG_FRESH, "SET default_transaction_read_only = on", NULL));
    assert_int_equal(insert(2, "x"), LEDGER_ERR_CONNECT);
    assert_string_equal(ldg_pg_sqlstate(&err), "25006");
    assert_int_equal(err.flags, LEDGER_ERROR_RETRY);
    assert_null(pg.conn);
    must(ldg_pg_connect(&pg, &err));
    must(insert(2, "x"));

    /* Opened for reading, it is what was asked for. */
    pg.flags = LEDGER_STORE_READ_ONLY;
    ldg_pg_close_conn(&pg);
    must(ldg_pg_connect(&pg, &err));
    assert_int_equal(insert(3, "x"), LEDGER_ERR_READ_ONLY);
    assert_non_null(pg.conn);
}

/* --- the caller's connection ----------------------------------------------------------------- */

static void test_given(void **state)
{
    struct tst_pg *server = tst_pg_shared();
    PGconn *given = tst_pg_connect(server, NULL);
    bool own = false;
    release_handle();
    prepare_handle(NULL);
    must(ldg_pg_take(&pg, given, &err));
    must(ldg_pg_enter(&pg, &err));
    must(insert(1, "x"));
    assert_int_equal(ask_int("SELECT count(*) FROM pg_prepared_statements"), 0);

    tst_pg_sql(given, "BEGIN");
    must(ldg_pg_begin_write(&pg, NULL, &own, &err));
    assert_false(own);
    must(ldg_pg_pipe_begin(&pg, &err));
    must(pipe_insert(2, "x"));
    must(ldg_pg_pipe_receive(&pg, "inserting", NULL, &err));
    must(ldg_pg_pipe_end(&pg, &err));
    assert_false(PQisnonblocking(given));
    must(ldg_pg_end(&pg, own, LEDGER_OK, &err));
    assert_int_equal(PQtransactionStatus(given), PQTRANS_INTRANS);
    assert_int_equal(insert(2, "x"), LEDGER_ERR_REJECTED);
    assert_int_equal(ldg_pg_enter(&pg, &err), LEDGER_ERR_INVALID);
    tst_pg_sql(given, "ROLLBACK");
    must(ldg_pg_enter(&pg, &err));
    assert_int_equal(ask_int("SELECT count(*) FROM t"), 1);

    /* Ours, on it: settings only of the transaction. */
    must(ldg_pg_begin_write(&pg, NULL, &own, &err));
    assert_true(own);
    char *timeout = tst_pg_sql_text(given, "SHOW lock_timeout");
    assert_string_equal(timeout, "300ms");
    free(timeout);
    must(ldg_pg_end(&pg, own, LEDGER_OK, &err));
    timeout = tst_pg_sql_text(given, "SHOW lock_timeout");
    assert_string_equal(timeout, "0");
    free(timeout);

    assert_true(PQenterPipelineMode(given));
    assert_int_equal(ldg_pg_enter(&pg, &err), LEDGER_ERR_INVALID);
    assert_true(PQexitPipelineMode(given));
    tst_pg_terminate(other, PQbackendPID(given));
    assert_int_equal(insert(3, "x"), LEDGER_ERR_CONNECT);
    assert_int_equal(ldg_pg_enter(&pg, &err), LEDGER_ERR_CONNECT);
    PQreset(given);
    must(ldg_pg_enter(&pg, &err));
    ldg_pg_close_conn(&pg);
    assert_int_equal(PQstatus(given), CONNECTION_OK);

    PQsetClientEncoding(given, "LATIN1");
    assert_int_equal(ldg_pg_take(&pg, given, &err), LEDGER_ERR_INVALID);
    assert_true(says("PQsetClientEncoding"));
    PQfinish(given);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_statements),
        TEST(test_outdated),
        TEST(test_errors),
        TEST(test_pipeline),
        TEST(test_copy),
        TEST(test_transactions),
        TEST(test_terminated),
        TEST(test_unknown_outcome),
        TEST(test_orphan),
        TEST(test_silence),
        TEST(test_stop),
        TEST(test_enough),
        TEST(test_standby_away),
        TEST(test_interrupt),
        TEST(test_interrupt_given),
        TEST(test_interrupt_no_answer),
        TEST(test_interrupt_standby_away),
        TEST(test_frozen),
        TEST(test_stop_connecting),
        TEST(test_refused),
        TEST(test_many_hosts),
        TEST(test_given),
        TEST(test_demoted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
