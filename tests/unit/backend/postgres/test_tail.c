/* Following a table of PostgreSQL: transactions that commit out of order, whoever else is open. */
#include "handle.h"

#include <stdlib.h>

#include "alloc_fail.h"

static struct ldg_pg pg;
static ledger_error err;
static char url[300];
static PGconn *one, *two;
static ledger_store *store;

static int setup(void **state)
{
    tst_pg_require();
    if (tst_setup(state) != 0)
        return -1;
    snprintf(url, sizeof(url), "%s", tst_url(*state, TST_POSTGRES, "a"));
    store = tst_open(*state, TST_POSTGRES, "a");
    handle_open(&pg, url, LEDGER_DEFAULT_TABLE, LDG_ROLE_USER, LEDGER_MUTATION_LOG_AUTO, 0);
    one = tst_pg_connect_url(url);
    two = tst_pg_connect_url(url);
    memset(&err, 0, sizeof(err));
    return 0;
}

static int teardown(void **state)
{
    PQfinish(one);
    PQfinish(two);
    handle_close(&pg);
    return tst_teardown(state);
}

#define INSERT "INSERT INTO ledger_entries(stream, payload) VALUES ('s', '1'); "

static const char *next(ledger_tail *tail)
{
    static char text[512];
    ledger_batch *batch = NULL;

    tst_ok(ledger_tail_read(tail, &batch, &err), &err);
    text[0] = '\0';
    for (size_t i = 0; i < ledger_batch_count(batch); i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%lld", i ? " " : "",
                 (long long)ledger_batch_entry(batch, i)->id.number);
    ledger_batch_destroy(&batch);
    return text;
}

static ledger_tail *open_tail(bool at_end)
{
    ledger_tail *tail = NULL;
    tst_ok(ledger_tail_open(store, "s", NULL, at_end, &tail, &err), &err);
    return tail;
}

/* The lower id is committed later; meanwhile a change of what was given is no new entry. */
static void test_committed_late(void **state)
{
    ledger_tail *tail = open_tail(false);

    tst_pg_sql(one, "BEGIN; " INSERT);
    tst_pg_sql(two, INSERT INSERT);
    assert_string_equal(next(tail), "2 3");
    assert_string_equal(next(tail), "");
    ledger_tail *end = open_tail(true);
    assert_string_equal(next(end), "");
    tst_pg_sql(two, "UPDATE ledger_entries SET tags = '[\"x\"]'; " INSERT);
    tst_pg_sql(one, INSERT);
    assert_string_equal(next(tail), "4");
    assert_string_equal(next(end), "4");
    tst_pg_sql(one, "COMMIT");
    assert_string_equal(next(tail), "1");
    assert_string_equal(next(end), "1");
    assert_string_equal(next(tail), "5");
    assert_string_equal(next(end), "5");
    for (int i = 0; i < 3; i++) {
        assert_string_equal(next(tail), "");
        assert_string_equal(next(end), "");
    }
    ledger_tail_close(&tail);
    ledger_tail_close(&end);
}

/* Who has drawn an id and who is prepared, but not a reader that stays open. */
static void test_settle(void **state)
{
    struct tst_pg *server = tst_pg_shared();
    struct ldg_watermark s = { 0 };

    tst_pg_sql(two, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ledger_entries");
    tst_pg_sql(one, INSERT);
    tst_ok(ldg_pg_watermark(&pg, &s, &err), &err);
    assert_int_equal(s.settled, 1);
    assert_null(s.writers);

    /* An id that is drawn and not used yet. */
    tst_pg_sql(one, "BEGIN; SELECT nextval('ledger_entries_id_seq')");
    tst_append(store, "s", "1", NULL, NULL);
    tst_ok(ldg_pg_watermark(&pg, &s, &err), &err);
    assert_int_equal(s.settled, 1);
    assert_int_equal(s.mark, 3);
    assert_non_null(s.writers);
    tst_append(store, "s", "1", NULL, NULL);
    tst_ok(ldg_pg_watermark(&pg, &s, &err), &err);
    assert_int_equal(s.mark, 3); /* still that look */
    tst_pg_sql(one, "INSERT INTO ledger_entries(id, stream, payload) VALUES (2, 's', '1'); "
                    "PREPARE TRANSACTION 'p'");
    for (int i = 0; i < 2; i++) {
        tst_ok(ldg_pg_watermark(&pg, &s, &err), &err);
        assert_int_equal(s.settled, 1);
    }
    /* Prepared transactions outlive the server. */
    PQfinish(one);
    PQfinish(two);
    tst_pg_stop(server, TST_PG_FAST);
    tst_pg_run(server);
    one = tst_pg_connect_url(url);
    two = tst_pg_connect_url(url);
    while (ldg_pg_watermark(&pg, &s, &err) == LEDGER_ERR_CONNECT)
        ;
    for (int i = 0; i < 2; i++) {
        tst_ok(ldg_pg_watermark(&pg, &s, &err), &err);
        assert_int_equal(s.settled, 1);
        assert_int_equal(s.mark, 3);
    }
    tst_pg_sql(one, "COMMIT PREPARED 'p'");
    tst_ok(ldg_pg_watermark(&pg, &s, &err), &err);
    assert_int_equal(s.settled, 4);
    assert_null(s.writers);

    /* Neither another table nor one of the same name elsewhere is waited for. */
    tst_pg_sql(one, "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.ledger_entries(id BIGSERIAL)");
    tst_pg_sql(one, "BEGIN; INSERT INTO elsewhere.ledger_entries DEFAULT VALUES");
    tst_ok(ldg_pg_watermark(&pg, &s, &err), &err);
    assert_null(s.writers);
    tst_pg_sql(one, "ROLLBACK");
    tst_pg_sql(one, "DROP SCHEMA elsewhere CASCADE");
    ldg_free(s.writers);
}

/* One writer ends and others come: what one look saw settles without them. */
static void test_writers_in_turn(void **state)
{
    struct ldg_watermark s = { 0 };

    for (int64_t i = 1; i <= 6; i++) {
        tst_pg_sql(i % 2 ? one : two, "BEGIN; " INSERT);
        if (i > 1)
            tst_pg_sql(i % 2 ? two : one, "COMMIT");
        tst_ok(ldg_pg_watermark(&pg, &s, &err), &err);
        assert_non_null(s.writers);
        assert_true(s.settled >= i - 3);
        assert_true(s.settled < i);
    }
    tst_pg_sql(two, "ROLLBACK");
    ldg_free(s.writers);
}

static void test_refusals(void **state)
{
    struct ldg_watermark s = { 0 };

    static const char *const changes[][2] = {
        { "CACHE 10", "CACHE 1" },
        { "INCREMENT -1 MINVALUE -1000", "INCREMENT 1 NO MINVALUE" },
        { "CYCLE", "NO CYCLE" },
    };

    for (size_t i = 0; i < 3; i++) {
        tst_pg_sql(one, "ALTER SEQUENCE ledger_entries_id_seq %s", changes[i][0]);
        tst_fails(ldg_pg_watermark(&pg, &s, &err), LEDGER_ERR_SCHEMA, &err);
        tst_pg_sql(one, "ALTER SEQUENCE ledger_entries_id_seq %s", changes[i][1]);
        tst_ok(ldg_pg_watermark(&pg, &s, &err), &err);
    }
    ldg_free(s.writers);
}

static ledger_rc oom_run(void *ctx)
{
    struct ldg_watermark s = { 0 };
    ledger_error local = { 0 };
    ledger_rc rc = ldg_pg_watermark(&pg, &s, &local);

    ldg_free(s.writers);
    return rc;
}

static void test_out_of_memory(void **state)
{
    tst_pg_sql(one, "BEGIN; " INSERT);
    alloc_fail_each(oom_run, NULL);
    tst_pg_sql(one, "COMMIT");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_committed_late), TEST(test_settle),        TEST(test_writers_in_turn),
        TEST(test_refusals),       TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
