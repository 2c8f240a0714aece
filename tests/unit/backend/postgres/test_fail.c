/* Codes and words of what a server refuses, without a server: what a result says is made up here.
 */
#include "fixtures.h"

#include <string.h>

#include "backend/postgres/schema.h"

static struct ldg_pg pg;
static ledger_error err;

/* What the result says; libpq is asked for nothing else. */
static struct {
    const char *severity, *sqlstate, *message, *table, *column, *constraint;
} said;

char *PQresultErrorField(const PGresult *result, int field)
{
    const char *text = field == PG_DIAG_SEVERITY_NONLOCALIZED ? said.severity
                       : field == PG_DIAG_SQLSTATE            ? said.sqlstate
                       : field == PG_DIAG_MESSAGE_PRIMARY     ? said.message
                       : field == PG_DIAG_TABLE_NAME          ? said.table
                       : field == PG_DIAG_COLUMN_NAME         ? said.column
                       : field == PG_DIAG_CONSTRAINT_NAME     ? said.constraint
                                                              : NULL;
    return (char *)text;
}

static int setup(void **state)
{
    pg = (struct ldg_pg){ .where = (char *)"database \"d\"",
                          .table = (char *)"t",
                          .log_table = (char *)"l",
                          .own_conn = true };
    pg.ids[LDG_PG_ENTRIES] = (struct ldg_pg_ids){ "t_pkey", "t_id_seq" };
    memset(&said, 0, sizeof(said));
    said.severity = "ERROR";
    said.message = "no";
    return 0;
}

static void fails(ledger_rc code, const char *words)
{
    memset(&err, 0, sizeof(err));
    ledger_rc rc = ldg_pg_fail(&pg, NULL, "testing", "", &err);
    if (rc != code || err.code != code || !strstr(err.message, words))
        fail_msg("%s: %s: %s", said.sqlstate, ledger_rc_name(rc), err.message);
    if (strcmp(ldg_pg_sqlstate(&err), said.sqlstate ? said.sqlstate : "") != 0)
        fail_msg("SQLSTATE %s became %s", said.sqlstate, ldg_pg_sqlstate(&err));
}

static void test_codes(void **state)
{
    static const struct {
        const char *sqlstate;
        ledger_rc code;
        bool row;
    } rows[] = {
        { "08006", LEDGER_ERR_CONNECT, false },
        { "0A000", LEDGER_ERR_UNSUPPORTED, false },
        { "22021", LEDGER_ERR_DATA, true },
        { "23514", LEDGER_ERR_REJECTED, true },
        { "25006", LEDGER_ERR_READ_ONLY, false },
        { "25P02", LEDGER_ERR_INVALID, false },
        { "25P09", LEDGER_ERR_BUSY, false }, /* none of today's */
        { "28P01", LEDGER_ERR_PERMISSION, false },
        { "3D000", LEDGER_ERR_SCHEMA, false },
        { "40001", LEDGER_ERR_BUSY, false },
        { "40P01", LEDGER_ERR_BUSY, false },
        { "42501", LEDGER_ERR_PERMISSION, false },
        { "42601", LEDGER_ERR_INTERNAL, false },
        { "42P01", LEDGER_ERR_SCHEMA, false },
        { "53100", LEDGER_ERR_FULL, false },
        { "53200", LEDGER_ERR_NOMEM, false },
        { "53400", LEDGER_ERR_IO, false },
        { "54000", LEDGER_ERR_TOO_LARGE, true },
        { "55P03", LEDGER_ERR_BUSY, false },
        { "57014", LEDGER_ERR_BUSY, false },
        { "57P01", LEDGER_ERR_CONNECT, false },
        { "58030", LEDGER_ERR_IO, false },
        { "58P01", LEDGER_ERR_IO, false },
        { "P0001", LEDGER_ERR_REJECTED, true },
        { "XX000", LEDGER_ERR_IO, false },
        { "XX001", LEDGER_ERR_CORRUPT, false },
        /* codes that a trigger's author has made up */
        { "ZZZZZ", LEDGER_ERR_REJECTED, true },
        { "99001", LEDGER_ERR_REJECTED, true },
        /* nothing that an event holds decides */
        { "428C9", LEDGER_ERR_SCHEMA, false },
        { "42939", LEDGER_ERR_SCHEMA, false },
        { "55000", LEDGER_ERR_SCHEMA, false },
        { "01000", LEDGER_ERR_INTERNAL, false },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        said.sqlstate = rows[i].sqlstate;
        fails(rows[i].code, rows[i].sqlstate);
        assert_int_equal(ldg_pg_is_row_fault(&err), rows[i].row);
        assert_non_null(strstr(err.message, "database \"d\": while testing: no (SQLSTATE "));
    }
}

static void test_words(void **state)
{
    said.sqlstate = "55P03";
    said.message = "first line postgresql://u:secret@h/d\nsecond line";
    fails(LEDGER_ERR_BUSY, "another session holds the lock");
    assert_null(strstr(err.message, "secret"));
    assert_null(strstr(err.message, "second line"));
    assert_int_equal(ldg_pg_fail(&pg, NULL, "testing", "ask P for it", &err), LEDGER_ERR_BUSY);
    assert_non_null(strstr(err.message, "(SQLSTATE 55P03); ask P for it"));
    assert_null(strstr(err.message, "another session"));
    said.sqlstate = NULL;
    fails(LEDGER_ERR_CONNECT, "no connection to the server");
}

/* An error that also ends the session says nothing of the statement. */
static void test_end_of_session(void **state)
{
    said.severity = "FATAL";
    said.sqlstate = "57014";
    fails(LEDGER_ERR_CONNECT, "statement_timeout");
    said.sqlstate = "23514";
    fails(LEDGER_ERR_REJECTED, "");
}

static void test_demoted(void **state)
{
    said.sqlstate = "25006";
    pg.opened = true;
    fails(LEDGER_ERR_CONNECT, "could be written before");
    pg.flags = LEDGER_STORE_READ_ONLY;
    fails(LEDGER_ERR_READ_ONLY, "name the primary");
    pg.flags = 0;
    pg.own_conn = false;
    fails(LEDGER_ERR_READ_ONLY, "name the primary");
}

/* What no event can be blamed for. */
static void test_faults_of_a_table(void **state)
{
    said.table = "t";
    said.sqlstate = "23505";
    said.constraint = "t_pkey";
    memset(&err, 0, sizeof(err));
    assert_int_equal(ldg_pg_fail(&pg, NULL, "testing", "", &err), LEDGER_ERR_SCHEMA);
    assert_non_null(strstr(err.message, "SELECT setval('t_id_seq', (SELECT max(id) FROM \"t\"))"));
    said.constraint = "idx_t_dedup";
    fails(LEDGER_ERR_REJECTED, "SQLSTATE 23505");

    said.sqlstate = "23502";
    said.column = "theirs";
    fails(LEDGER_ERR_SCHEMA, "ALTER TABLE \"t\" ALTER COLUMN \"theirs\" DROP NOT NULL");
    said.column = "payload";
    fails(LEDGER_ERR_REJECTED, "SQLSTATE 23502");
    said.table = "another";
    said.column = "theirs";
    fails(LEDGER_ERR_REJECTED, "SQLSTATE 23502");

    said.sqlstate = "2200H";
    said.message = "nextval: reached maximum value of sequence \"t_id_seq\" (9)";
    fails(LEDGER_ERR_SCHEMA, "ALTER SEQUENCE t_id_seq AS bigint");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_codes, setup),
        cmocka_unit_test_setup(test_words, setup),
        cmocka_unit_test_setup(test_end_of_session, setup),
        cmocka_unit_test_setup(test_demoted, setup),
        cmocka_unit_test_setup(test_faults_of_a_table, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
