/* The source's side of the PostgreSQL backend: rows in the order of commits, whatever the writers
 * do; witnesses; other clusters. The writers are plain SQL on connections of their own. */
#include "reader.h"

#include <stdlib.h>

#include "alloc_fail.h"
#include "event_util.h"

#include "backend/postgres/source.h"

static int setup(void **state)
{
    return open_shared(state, "log");
}

/* The payloads that the last read gave: "a b c", and a + when there is more. */
static const char *got(void)
{
    static char text[4096];
    size_t size = 0;

    text[0] = '\0';
    for (size_t i = 0; i < batch.count; i++)
        size += (size_t)snprintf(text + size, sizeof(text) - size, "%s%.*s", i ? " " : "",
                                 (int)batch.rows[i].payload.size,
                                 (const char *)batch.rows[i].payload.data);
    snprintf(text + size, sizeof(text) - size, "%s", batch.more ? "+" : "");
    return text;
}

#define BEGIN(conn) tst_pg_sql(conn, "BEGIN")
#define COMMIT(conn) tst_pg_sql(conn, "COMMIT")

static PGconn *more(void)
{
    return tst_pg_connect_url(url);
}

static void check(const char *state, ledger_rc want)
{
    int64_t position = -1;
    ledger_error err = { 0 };
    ledger_rc rc = SOURCE->source->log_check(&pg, state, &position, &err);

    if (want == LEDGER_OK)
        tst_ok(rc, &err);
    else
        tst_fails(rc, want, &err);
}

static struct ldg_log_stat stat_of(const char *state)
{
    struct ldg_log_stat stat;
    ledger_error err = { 0 };

    tst_ok(SOURCE->source->log_stat(&pg, state, &stat, &err), &err);
    return stat;
}

/* --- the order of commits -------------------------------------------------------------------- */

static void test_w1_lower_id_commits_later(void **state)
{
    PGconn *a = more();

    (void)state;
    BEGIN(a);
    put(a, "a1");
    put(db, "b1");
    read_ok("", &wide);
    assert_string_equal(got(), "b1");
    assert_int_equal(batch.next_position, 2);
    put(db, "b2");
    read_next(10);
    assert_string_equal(got(), "b2");
    put(a, "a2");
    read_next(10);
    assert_string_equal(got(), "");
    COMMIT(a);
    put(db, "b3");
    read_next(1);
    assert_string_equal(got(), "a1+");
    assert_int_equal(batch.next_position, 3); /* the highest that was ever carried */
    check(batch.next_state, LEDGER_OK);
    read_next(1);
    assert_string_equal(got(), "a2+");
    reopen();
    read_next(1);
    assert_string_equal(got(), "b3");
    read_next(1);
    assert_string_equal(got(), "");
    PQfinish(a);
}

/* A page is not the whole difference: what commits meanwhile waits for the next. */
static void test_w1_pages_of_one_snapshot(void **state)
{
    PGconn *a = more();
    char text[8];

    (void)state;
    BEGIN(a);
    put(a, "a");
    for (int i = 0; i < 5; i++) {
        snprintf(text, sizeof(text), "%d", i);
        put(db, text);
    }
    read_ok("", &(struct ldg_log_limits){ 2, 1000 });
    assert_string_equal(got(), "0 1+");
    put(a, "b");
    COMMIT(a);
    put(db, "5");
    for (int round = 0; round < 2; round++) { /* the same by the text alone */
        char first[LDG_CURSOR_STATE_MAX];

        memcpy(first, batch.next_state, sizeof(first));
        read_next(2);
        assert_string_equal(got(), "2 3+");
        read_next(2);
        assert_string_equal(got(), "4+");
        read_next(2);
        assert_string_equal(got(), "a b+");
        read_next(2);
        assert_string_equal(got(), "5");
        memcpy(batch.next_state, first, sizeof(first));
        reopen();
    }
    PQfinish(a);
}

static void test_w1_kinds_of_transactions(void **state)
{
    PGconn *a = more(), *b = more(), *c = more();

    (void)state;
    tst_pg_sql(a, "BEGIN ISOLATION LEVEL SERIALIZABLE");
    put(a, "a1");
    tst_pg_sql(a, "SAVEPOINT x");
    put(a, "a2");
    tst_pg_sql(a, "SAVEPOINT y");
    put(a, "lost");
    tst_pg_sql(a, "ROLLBACK TO y");
    put(a, "a3");
    BEGIN(b);
    tst_pg_sql(b, "SAVEPOINT x");
    put(b, "b1");
    tst_pg_sql(b, "PREPARE TRANSACTION '%s'", url + strlen(url) - 8);
    BEGIN(c);
    put(c, "lost");
    put(db, "d1");
    read_ok("", &wide);
    assert_string_equal(got(), "d1");
    tst_pg_sql(c, "ROLLBACK");
    read_next(10);
    assert_string_equal(got(), "");
    COMMIT(a);
    read_next(2);
    assert_string_equal(got(), "a1 a2+");
    tst_pg_sql(b, "COMMIT PREPARED '%s'", url + strlen(url) - 8);
    reopen();
    read_next(2);
    assert_string_equal(got(), "a3+");
    read_next(2);
    assert_string_equal(got(), "b1");
    read_next(2);
    assert_string_equal(got(), "");
    PQfinish(a);
    PQfinish(b);
    PQfinish(c);
}

/* An entry's changes follow its lock, not the numbers of the transactions. */
static void test_w1_numbers_against_ids(void **state)
{
    PGconn *a = more(), *b = more();

    (void)state;
    BEGIN(a);
    put(a, "other"); /* a has its number now */
    put(b, "first"); /* a higher number, a lower id than … */
    put(a, "second");
    COMMIT(a);
    read_ok("", &(struct ldg_log_limits){ 1, 1000 });
    assert_string_equal(got(), "other+");
    read_next(1);
    assert_string_equal(got(), "first+");
    read_next(1);
    assert_string_equal(got(), "second");
    PQfinish(a);
    PQfinish(b);
}

static void test_empty(void **state)
{
    PGconn *a = more();
    char before[LDG_CURSOR_STATE_MAX];

    (void)state;
    read_ok("", &wide);
    assert_string_equal(batch.next_state, "");
    assert_int_equal(batch.next_position, 0);
    put(db, "1");
    read_next(1);
    memcpy(before, batch.next_state, sizeof(before));
    BEGIN(a);
    put(a, "2");
    for (int i = 0; i < 3; i++) {
        BEGIN(db);
        put(db, "x");
        tst_pg_sql(db, "ROLLBACK");
        read_next(10);
        assert_string_equal(got(), "");
        assert_string_equal(batch.next_state, before);
        assert_int_equal(batch.next_position, 1);
    }
    COMMIT(a);
    read_ok(before, &wide);
    assert_string_equal(got(), "2");
    PQfinish(a);
}

/* Rows from before the column are carried first; they count as one old transaction. */
static void test_rows_without_number(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        put(db, i == 0 ? "a" : i == 1 ? "b" : "c");
    tst_pg_sql(db, "ALTER TABLE " LOG " ALTER txid DROP NOT NULL; UPDATE " LOG " SET txid = NULL");
    read_ok("", &(struct ldg_log_limits){ 2, 1000 });
    assert_string_equal(got(), "a b+");
    assert_int_equal(stat_of(batch.next_state).backlog_count, 1);
    reopen();
    read_next(2);
    assert_string_equal(got(), "c");
    read_next(2);
    assert_string_equal(got(), "");
    check(batch.next_state, LEDGER_OK);
    put(db, "d");
    reopen();
    read_next(2);
    assert_string_equal(got(), "d");
    check(batch.next_state, LEDGER_OK);
    /* a default that was lost is noticed */
    tst_pg_sql(db, "INSERT INTO " LOG " (stream, payload, txid) VALUES ('_', 'e', NULL)");
    check(batch.next_state, LEDGER_ERR_SCHEMA);
}

/* After a read that took long it would not look for the next row for a while. */
static ledger_rc read_and_look(const char *at, ledger_error *err)
{
    if (pg.source)
        pg.source->next_from_us = 0;
    return read_try(at, &wide, err);
}

/* A number that the server has not put there, or none, at any place among the others: the reader
 * that is at work says so, and after what it says nothing is missing. */
static void test_numbers_of_others(void **state)
{
    static const char *const numbers[] = { "NULL", "'3'", "'9000000000000'" };
    static const char *const wanted[] = { "x", "b x", "x c", "b x c" };
    ledger_error err;

    (void)state;
    tst_pg_sql(db, "ALTER TABLE " LOG " ALTER txid DROP NOT NULL");
    for (int known = 0; known < 2; known++) { /* a new handle that has only the cursor's text */
        for (int i = 0; i < 12; i++) {
            static char at[LDG_CURSOR_STATE_MAX];
            char all[64];

            put(db, "a");
            read_ok(batch.next_state, &wide);
            read_next(10); /* nothing left */
            memcpy(at, batch.next_state, sizeof(at));
            if (i % 4 & 1)
                put(db, "b");
            int64_t id = tst_pg_sql_int(
                db, "INSERT INTO " LOG "(stream, payload, txid) VALUES ('_', 'x', %s) RETURNING id",
                numbers[i / 4]);
            if (i % 4 & 2)
                put(db, "c");
            if (known)
                reopen();
            ledger_rc rc = read_and_look(at, &err);
            snprintf(all, sizeof(all), "%s", rc == LEDGER_OK ? got() : "");
            if (rc == LEDGER_OK) { /* what lies before it */
                memcpy(at, batch.next_state, sizeof(at));
                rc = read_and_look(at, &err);
            }
            assert_true(rc == LEDGER_ERR_SCHEMA || (known && rc == LEDGER_ERR_CURSOR_MISMATCH));
            if (rc == LEDGER_ERR_SCHEMA)
                assert_non_null(strstr(err.message, "SET txid = DEFAULT"));
            tst_pg_sql(db, "UPDATE " LOG " SET txid = DEFAULT WHERE id = %lld", (long long)id);
            read_ok(at, &wide);
            snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", *all ? " " : "", got());
            assert_string_equal(all, wanted[i % 4]);
        }
    }
}

/* The wait sees it, too: nothing that is new leads to it. Where it may not look for it at once, it
 * does so later, though nothing else happens in the cluster. */
static void test_wait_for_others_numbers(void **state)
{
    ledger_error err = { 0 };

    (void)state;
    put(db, "a");
    read_ok("", &wide);
    read_next(10);
    tst_pg_sql(db, "INSERT INTO " LOG "(stream, payload, txid) VALUES ('_', 'x', '3')");
    tst_pg_sql(db, "ALTER SYSTEM SET autovacuum = off");
    tst_pg_sql(db, "SELECT pg_reload_conf()");
    pg.checked_us = INT64_MAX / 2; /* nor are the tables looked at */
    pg.source->next_from_us = ldg_clock_mono_us() + 200000;
    tst_fails(SOURCE->source->log_wait(&pg, -1, 30000, &err), LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "another series"));
    tst_pg_sql(db, "ALTER SYSTEM RESET autovacuum");
    tst_pg_sql(db, "SELECT pg_reload_conf()");
}

/* What the owner changes under a reader at work. */
static void test_tables_are_watched(void **state)
{
    static const struct {
        const char *ddl, *said, *undo;
    } cases[] = {
        { "ALTER SEQUENCE " LOG "_id_seq CACHE 20", "CACHE 20",
          "ALTER SEQUENCE " LOG "_id_seq CACHE 1" },
        { "ALTER TABLE " LOG " SET UNLOGGED", "UNLOGGED", "ALTER TABLE " LOG " SET LOGGED" },
        { "ALTER TABLE " LOG " ALTER txid SET DEFAULT '7'", "default",
          "ALTER TABLE " LOG " ALTER txid SET DEFAULT pg_current_xact_id()" },
        { "CREATE SUBSCRIPTION watched CONNECTION 'dbname=nowhere' PUBLICATION p "
          "WITH (connect = false, slot_name = NONE); INSERT INTO pg_subscription_rel "
          "SELECT oid, '" LOG "'::regclass, 'r' FROM pg_subscription WHERE subname = 'watched'",
          "subscription \"watched\"", "DROP SUBSCRIPTION watched" },
    };
    ledger_error err;

    (void)state;
    put(db, "a");
    read_ok("", &wide);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        static char at[LDG_CURSOR_STATE_MAX];

        read_next(10);
        read_next(10);
        memcpy(at, batch.next_state, sizeof(at));
        tst_pg_sql(db, "%s", cases[i].ddl);
        pg.checked_us -= 10000000; /* that much later */
        ledger_rc rc = read_try(at, &wide, &err);
        tst_fails(rc, LEDGER_ERR_SCHEMA, &err);
        if (!strstr(err.message, cases[i].said))
            tst_fail("not \"%s\": %s", cases[i].said, err.message);
        tst_pg_sql(db, "%s", cases[i].undo);
        put(db, "b");
        pg.checked_us -= 10000000;
        read_ok(at, &wide);
        assert_string_equal(got(), "b");
    }
}

static void test_bytes(void **state)
{
    const struct ldg_log_limits small = { 100, 10 };

    (void)state;
    put(db, "12345");
    put(db, "67890");
    put(db, "x");
    tst_pg_sql(db, "INSERT INTO " LOG " (stream, payload) SELECT '_', convert_to(repeat(md5('a'), "
                   "100000), 'UTF8')");
    put(db, "y");
    read_ok("", &small);
    assert_string_equal(got(), "12345 67890+");
    read_ok(batch.next_state, &small);
    assert_string_equal(got(), "x+");
    read_ok(batch.next_state, &small);
    assert_int_equal(batch.count, 1);
    assert_int_equal(batch.bytes, 3200000);
    check(batch.next_state, LEDGER_OK);
    read_ok(batch.next_state, &small);
    assert_string_equal(got(), "y");
}

/* The reader's own transaction: what it wrote itself is not committed. */
/* Payloads beyond 4 MiB come in slices: none, one and a bit, whole slices; compressed and not. */
static void test_large_payloads(void **state)
{
    static const size_t sizes[] = { 4194304, 4194305, 8388608, 9000000 };

    tst_pg_sql(db, "INSERT INTO " LOG " (stream, payload) SELECT '_', convert_to("
                   "substr(repeat('0123456789abcdefg', 600000), 1, n), 'UTF8') "
                   "FROM unnest(ARRAY[4194304, 4194305, 8388608]) n");
    tst_pg_sql(db, "ALTER TABLE " LOG " ALTER COLUMN payload SET STORAGE EXTERNAL");
    tst_pg_sql(db, "INSERT INTO " LOG " (stream, payload) VALUES ('_', convert_to("
                   "substr(repeat('0123456789abcdefg', 600000), 1, 9000000), 'UTF8'))");
    read_ok("", &wide);
    assert_int_equal(batch.count, 4);
    for (size_t i = 0; i < batch.count; i++) {
        const char *payload = batch.rows[i].payload.data;

        assert_int_equal(batch.rows[i].payload.size, sizes[i]);
        for (size_t k = 0; k < sizes[i]; k++)
            if (payload[k] != "0123456789abcdefg"[k % 17])
                tst_fail("payload %zu differs at %zu", i, k);
    }
    /* The witness is the one that a read of all of it would have given. */
    check(batch.next_state, LEDGER_OK);
}

static void test_own_transaction(void **state)
{
    ledger_error err = { 0 };

    (void)state;
    put(db, "a");
    tst_ok(SOURCE->store->tx_begin(&pg, &err), &err);
    put(pg.conn, "own1");
    put(db, "b");
    read_ok("", &wide);
    assert_string_equal(got(), "a b");
    put(pg.conn, "own2");
    put(db, "c");
    read_next(10);
    assert_string_equal(got(), "c");
    read_next(10);
    assert_string_equal(got(), "");
    tst_ok(SOURCE->store->tx_commit(&pg, &err), &err);
    read_next(10);
    assert_string_equal(got(), "own1 own2");
}

static void test_inside_a_snapshot(void **state)
{
    PGconn *a = more();
    ledger_error err = { 0 };

    (void)state;
    BEGIN(a);
    put(a, "a");
    put(db, "b");
    tst_ok(SOURCE->verify->snapshot_begin(&pg, &err), &err);
    read_ok("", &wide);
    assert_string_equal(got(), "b");
    COMMIT(a);
    put(db, "c");
    read_next(10);
    assert_string_equal(got(), "");
    assert_int_equal(stat_of("").backlog_count, 1);
    SOURCE->verify->snapshot_end(&pg);
    read_next(10);
    assert_string_equal(got(), "a c");
    PQfinish(a);
}

/* --- cursors --------------------------------------------------------------------------------- */

static void cursor_at(int64_t position, char at[LDG_CURSOR_STATE_MAX])
{
    ledger_error err = { 0 };

    tst_ok(SOURCE->source->log_cursor_at(&pg, position, at, &err), &err);
}

static void test_cursor_at(void **state)
{
    static char at[LDG_CURSOR_STATE_MAX];
    PGconn *a = more();
    ledger_error err = { 0 };

    (void)state;
    cursor_at(0, at);
    check(at, LEDGER_OK);
    put(db, "1");
    BEGIN(a);
    put(a, "2");
    put(db, "3");
    put(db, "4");
    read_ok(at, &wide);
    assert_string_equal(got(), "1 3 4");
    cursor_at(3, at);
    check(at, LEDGER_OK);
    assert_int_equal(stat_of(at).backlog_count, 1);
    COMMIT(a);
    assert_int_equal(stat_of(at).backlog_count, 2);
    assert_int_equal(stat_of(at).lowest, 2);
    read_ok(at, &wide);
    assert_string_equal(got(), "4+");
    read_next(10);
    assert_string_equal(got(), "2"); /* below the cursor, but committed after it was made */
    cursor_at(4, at);
    read_ok(at, &wide);
    assert_string_equal(got(), "");
    assert_int_equal(batch.next_position, 4);
    put(db, "5");
    read_next(10);
    assert_string_equal(got(), "5");
    tst_fails(SOURCE->source->log_cursor_at(&pg, 6, at, &err), LEDGER_ERR_SOURCE_REWOUND, &err);
    BEGIN(db);
    put(db, "6");
    tst_pg_sql(db, "ROLLBACK"); /* came and went */
    cursor_at(6, at);
    put(db, "7");
    read_ok(at, &wide);
    assert_string_equal(got(), "7");
    tst_pg_sql(db, "DELETE FROM " LOG);
    cursor_at(7, at);
    check(at, LEDGER_OK);
    put(db, "8");
    read_ok(at, &wide);
    assert_string_equal(got(), "8");
    PQfinish(a);
}

/* Of each cursor on the way: its check, its statistics, and the same rows from its text alone. */
static void test_every_phase(void **state)
{
    PGconn *a = more(), *b = more();
    int64_t total, done = 0;

    (void)state;
    BEGIN(a);
    put(a, "a");
    BEGIN(b);
    put(b, "b");
    for (int i = 0; i < 10; i++)
        put(db, "x");
    COMMIT(a);
    batch.next_state[0] = '\0';
    for (int page = 0; page < 30; page++) {
        static char at[LDG_CURSOR_STATE_MAX];
        struct ldg_log_stat stat;
        int64_t ids[3], first = 0;
        size_t count;

        memcpy(at, batch.next_state, sizeof(at));
        if (page == 3)
            put(db, "y");
        if (page == 5)
            COMMIT(b);
        check(at, LEDGER_OK);
        stat = stat_of(at);
        total = tst_pg_sql_int(db, "SELECT count(*) FROM " LOG);
        assert_int_equal(stat.backlog_count, total - done);
        assert_int_equal(stat.head, tst_pg_sql_int(db, "SELECT max(id) FROM " LOG));
        read_ok(at, &(struct ldg_log_limits){ 3, 1000 });
        count = batch.count;
        for (size_t i = 0; i < count; i++) {
            ids[i] = batch.rows[i].position;
            first = first == 0 || ids[i] < first ? ids[i] : first;
        }
        assert_true(stat.lowest <= first);
        assert_int_equal(stat.lowest > 0, count > 0);
        assert_int_equal(stat.oldest_us != LEDGER_NO_TIME, count > 0);
        done += (int64_t)count;
        assert_int_equal(batch.more, done < total);
        reopen();
        read_ok(at, &(struct ldg_log_limits){ 3, 1000 });
        assert_int_equal(batch.count, count);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(batch.rows[i].position, ids[i]);
        if (count == 0)
            break;
    }
    assert_int_equal(done, 13);
    PQfinish(a);
    PQfinish(b);
}

static void rewound(const char *at)
{
    ledger_error err;

    check(at, LEDGER_ERR_SOURCE_REWOUND);
    tst_fails(read_try(at, &wide, &err), LEDGER_ERR_SOURCE_REWOUND, &err);
    reopen();
    tst_fails(read_try(at, &wide, &err), LEDGER_ERR_SOURCE_REWOUND, &err);
}

static void test_witness(void **state)
{
    static char open[LDG_CURSOR_STATE_MAX], end[LDG_CURSOR_STATE_MAX];

    (void)state;
    for (int i = 0; i < 4; i++)
        put(db, "x");
    read_ok("", &(struct ldg_log_limits){ 2, 1000 });
    memcpy(open, batch.next_state, sizeof(open));
    read_next(2);
    memcpy(end, batch.next_state, sizeof(end));
    tst_pg_sql(db, "UPDATE " LOG " SET payload = 'y' WHERE id = 4");
    rewound(end);
    check(open, LEDGER_OK);
    tst_pg_sql(db, "UPDATE " LOG " SET payload = 'x' WHERE id = 4");
    check(end, LEDGER_OK);
    tst_pg_sql(db, "UPDATE " LOG " SET created_at = created_at + interval '1 us' WHERE id = 4");
    rewound(end);
    tst_pg_sql(db, "DELETE FROM " LOG " WHERE id = 4");
    rewound(end);
    check(open, LEDGER_OK);
    /* the end of its snapshot is gone, nothing that was carried: the rest comes, and the first
     * page once more */
    read_ok(open, &wide);
    assert_int_equal(batch.count, 3);
    tst_pg_sql(db, "DELETE FROM " LOG " WHERE id = 2");
    rewound(open);
    put(db, "z");
    rewound(open);
}

/* A crash that takes back the last commits may spare the highest number: a long transaction that
 * committed last is gone. */
static void test_lost_commits_below_the_witness(void **state)
{
    static char at[LDG_CURSOR_STATE_MAX], open[LDG_CURSOR_STATE_MAX];
    PGconn *a = more();

    (void)state;
    put(db, "x");
    BEGIN(a);
    put(a, "a1");
    put(a, "a2");
    put(db, "y");
    read_ok("", &wide);
    COMMIT(a);
    put(db, "z");
    read_next(1);
    memcpy(open, batch.next_state, sizeof(open));
    assert_string_equal(got(), "a1+");
    read_next(10);
    assert_string_equal(got(), "a2 z");
    memcpy(at, batch.next_state, sizeof(at));
    check(at, LEDGER_OK);
    check(open, LEDGER_OK);
    tst_pg_sql(db, "DELETE FROM " LOG " WHERE id = 3");
    check(open, LEDGER_OK);
    check(at, LEDGER_ERR_SOURCE_REWOUND);
    reopen();
    ledger_error err;
    tst_fails(read_try(at, &wide, &err), LEDGER_ERR_SOURCE_REWOUND, &err);
    tst_pg_sql(db, "DELETE FROM " LOG " WHERE id = 2");
    check(open, LEDGER_ERR_SOURCE_REWOUND);
    PQfinish(a);
}

/* --- other clusters -------------------------------------------------------------------------- */

static void acknowledge(const char *at, char next[LDG_CURSOR_STATE_MAX])
{
    ledger_error err = { 0 };

    tst_ok(SOURCE->source->log_acknowledge(&pg, at, next, &err), &err);
}

/* All numbers as from a cluster that has counted further. */
static void shift_numbers(int64_t by)
{
    tst_pg_sql(db, "UPDATE " LOG " SET txid = (txid::text::int8 + %lld)::text::xid8",
               (long long)by);
}

static void shift_set(struct ldg_pg_snapshot *s, uint64_t by)
{
    s->xmax += by;
    for (size_t i = 0; i < s->count; i++)
        s->xip[i] += by;
}

/* The cursor as that cluster's reader had it. */
static void shift_cursor(char at[LDG_CURSOR_STATE_MAX], uint64_t by)
{
    struct ldg_pg_cursor c;
    struct ldg_arena arena;
    ledger_error err = { 0 };

    ldg_arena_init(&arena, 0);
    tst_ok(ldg_pg_cursor_parse(at, &arena, &c, &err), &err);
    if (c.s0.xmax > 0)
        shift_set(&c.s0, by);
    shift_set(&c.s1, by);
    if (c.before.xmax > 0)
        shift_set(&c.before, by);
    c.carried.txid += by;
    c.top.txid += by;
    c.system_id[0] = '\0';
    tst_ok(ldg_pg_cursor_format(&c, at, &err), &err);
    ldg_arena_fini(&arena);
}

static void test_another_system(void **state)
{
    static char at[LDG_CURSOR_STATE_MAX], next[LDG_CURSOR_STATE_MAX];
    PGconn *a = more();
    ledger_error err;

    (void)state;
    BEGIN(a);
    put(a, "a");
    put(db, "b");
    read_ok("", &wide);
    memcpy(at, batch.next_state, sizeof(at));
    COMMIT(a);
    pg.system_id[0] = pg.system_id[0] == '1' ? '2' : '1';
    check(at, LEDGER_ERR_CURSOR_MISMATCH);
    tst_fails(read_try(at, &wide, &err), LEDGER_ERR_CURSOR_MISMATCH, &err);
    assert_non_null(strstr(err.message, "bridge cursor acknowledge"));
    acknowledge(at, next);
    check(next, LEDGER_OK);
    read_ok(next, &wide);
    assert_string_equal(got(), "a b");
    put(db, "c");
    read_next(10);
    assert_string_equal(got(), "c");
    /* nothing left: stays where it is */
    memcpy(at, batch.next_state, sizeof(at));
    acknowledge(at, next);
    read_ok(next, &wide);
    assert_string_equal(got(), "");
    put(db, "d");
    read_next(10);
    assert_string_equal(got(), "d");
    acknowledge("", next);
    assert_string_equal(next, "");
    /* not without its rows */
    memcpy(at, batch.next_state, sizeof(at));
    tst_pg_sql(db, "DELETE FROM " LOG " WHERE id = 4");
    tst_fails(SOURCE->source->log_acknowledge(&pg, at, next, &err), LEDGER_ERR_SOURCE_REWOUND,
              &err);
    PQfinish(a);
}

static void test_numbers_ahead(void **state)
{
    static char at[LDG_CURSOR_STATE_MAX], half[LDG_CURSOR_STATE_MAX], next[LDG_CURSOR_STATE_MAX];
    PGconn *a = more();
    ledger_error err;

    (void)state;
    for (int i = 0; i < 6; i++)
        put(db, i % 2 ? "o" : "e");
    shift_numbers(1000000000);
    /* a reader that begins here */
    put(db, "n1");
    read_ok("", &(struct ldg_log_limits){ 4, 1000 });
    assert_string_equal(got(), "e o e o+");
    BEGIN(a);
    put(a, "n2");
    put(db, "n3");
    reopen();
    read_next(4);
    assert_string_equal(got(), "e o n1+");
    read_next(4);
    assert_string_equal(got(), "n3");
    COMMIT(a);
    check(batch.next_state, LEDGER_OK);
    assert_int_equal(stat_of(batch.next_state).backlog_count, 1);
    reopen();
    read_next(4);
    assert_string_equal(got(), "n2");
    memcpy(at, batch.next_state, sizeof(at));
    check(at, LEDGER_OK);
    /* one that comes from there */
    tst_pg_sql(db, "DELETE FROM " LOG " WHERE id > 6");
    shift_numbers(-1000000000);
    read_ok("", &(struct ldg_log_limits){ 4, 1000 });
    memcpy(half, batch.next_state, sizeof(half));
    read_next(4);
    memcpy(at, batch.next_state, sizeof(at));
    put(db, "p1");
    shift_numbers(1000000000);
    shift_cursor(half, 1000000000);
    shift_cursor(at, 1000000000);
    check(at, LEDGER_ERR_CURSOR_MISMATCH);
    reopen();
    tst_fails(read_try(at, &wide, &err), LEDGER_ERR_CURSOR_MISMATCH, &err);
    tst_fails(read_try(half, &wide, &err), LEDGER_ERR_CURSOR_MISMATCH, &err);
    acknowledge(at, next);
    check(next, LEDGER_OK);
    BEGIN(a);
    put(a, "n4");
    put(db, "n5");
    read_ok(next, &wide);
    assert_string_equal(got(), "p1+");
    read_next(10);
    assert_string_equal(got(), "n5");
    COMMIT(a);
    read_next(10);
    assert_string_equal(got(), "n4");
    check(batch.next_state, LEDGER_OK);
    acknowledge(half, next);
    read_ok(next, &wide);
    assert_string_equal(got(), "e o p1 n4 n5");
    PQfinish(a);
}

/* Numbers up to the end of their type, in rows that are there before the first bridge. */
static void test_numbers_of_no_server(void **state)
{
    static const char *const numbers[] = { "9223372036854775806", "9223372036854775807",
                                           "9223372036854775808", "18446744073709551615" };

    (void)state;
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        tst_pg_sql(db, "DELETE FROM " LOG);
        put(db, "a");
        tst_pg_sql(db, "INSERT INTO " LOG "(stream, payload, txid) VALUES ('_', 'x', '%s')",
                   numbers[i]);
        put(db, "b");
        reopen();
        read_ok("", &wide);
        assert_string_equal(got(), "a x b");
        for (int n = 0; n < 2; n++) {
            check(batch.next_state, LEDGER_OK);
            read_next(10);
            assert_string_equal(got(), "");
            put(db, "c");
            reopen();
            read_next(10);
            assert_string_equal(got(), "c");
        }
    }
}

/* The cursor has numbers that the cluster has not reached. */
static void test_numbers_behind(void **state)
{
    static char at[LDG_CURSOR_STATE_MAX], next[LDG_CURSOR_STATE_MAX];
    ledger_error err;

    (void)state;
    put(db, "a");
    read_ok("", &wide);
    memcpy(at, batch.next_state, sizeof(at));
    shift_cursor(at, 1000000);
    put(db, "b");
    check(at, LEDGER_ERR_CURSOR_MISMATCH);
    tst_fails(read_try(at, &wide, &err), LEDGER_ERR_CURSOR_MISMATCH, &err);
    acknowledge(at, next);
    put(db, "c");
    read_ok(next, &wide);
    assert_string_equal(got(), "b+");
    read_next(10);
    assert_string_equal(got(), "c");
    check(batch.next_state, LEDGER_OK);
}

/* --- t3: a trim around an append ------------------------------------------------------------- */

static void test_t3_trim_around_an_append(void **state)
{
    static struct ldg_pg trimmer, appender;
    const ledger_append_input input = { .payload = { "1", 1 } };
    struct ldg_arena arena;
    ledger_ids ids = { 0 };
    uint64_t deleted = 0;
    ledger_id *kept;
    int64_t id;
    size_t count;
    ledger_error err = { 0 };

    (void)state;
    ldg_arena_init(&arena, 0);
    handle_open(&trimmer, url, LEDGER_DEFAULT_TABLE, LDG_ROLE_USER, LEDGER_MUTATION_LOG_AUTO, 0);
    handle_open(&appender, url, LEDGER_DEFAULT_TABLE, LDG_ROLE_USER, LEDGER_MUTATION_LOG_AUTO, 0);
    tst_ok(SOURCE->store->tx_begin(&appender, &err), &err);
    tst_ok(SOURCE->store->append(&appender, "s", &input, 1, &ids, &err), &err);
    id = ids.items[0].number;
    tst_ok(SOURCE->store->tx_begin(&trimmer, &err), &err);
    tst_ok(SOURCE->store->trim(&trimmer, "s", (ledger_id){ .number = id + 10 }, &deleted, &err),
           &err);
    assert_int_equal(deleted, 0);
    tst_ok(SOURCE->store->tx_commit(&appender, &err), &err);
    read_ok("", &wide);
    assert_int_equal(batch.count, 1);
    assert_non_null(memmem(batch.rows[0].payload.data, batch.rows[0].payload.size, "append", 6));
    tst_ok(SOURCE->store->tx_commit(&trimmer, &err), &err);
    read_next(10);
    if (batch.count > 0) { /* a trim that deleted nothing may leave no event at all */
        assert_non_null(memmem(batch.rows[0].payload.data, batch.rows[0].payload.size, "trim", 4));
        tst_ok(SOURCE->source->trim_survivors(&pg, 0, "s", ldg_id_of(id + 10), &arena, &kept,
                                              &count, &err),
               &err);
        assert_int_equal(count, 1);
        assert_int_equal(kept[0].number, id);
    }
    ledger_ids_destroy(&ids);
    handle_close(&trimmer);
    handle_close(&appender);
    ldg_arena_fini(&arena);
}

/* --- t10: a standby -------------------------------------------------------------------------- */

static void test_t10_standby(void **state)
{
    struct tst_pg *primary = tst_pg_start(NULL), *standby;
    struct ldg_pg handle;
    char there[300];
    ledger_error err;

    (void)state;
    snprintf(there, sizeof(there), "%s", tst_pg_url(primary, NULL, NULL, NULL));
    handle_open(&handle, there, LEDGER_DEFAULT_TABLE, LDG_ROLE_USER, LEDGER_MUTATION_LOG_ON,
                LEDGER_STORE_CREATE);
    handle_close(&handle);
    standby = tst_pg_standby(primary);
    snprintf(there, sizeof(there), "%s", tst_pg_url(standby, NULL, NULL, NULL));
    assert_int_not_equal(handle_try(&handle, there, LEDGER_DEFAULT_TABLE, LDG_ROLE_SOURCE,
                                    LEDGER_MUTATION_LOG_AUTO, 0, &err),
                         LEDGER_OK);
    assert_non_null(strstr(err.message, "standby"));
    handle_open(&handle, there, LEDGER_DEFAULT_TABLE, LDG_ROLE_USER, LEDGER_MUTATION_LOG_AUTO,
                LEDGER_STORE_READ_ONLY);
    tst_fails(SOURCE->source->log_read(&handle, "", &wide, &batch, &err), LEDGER_ERR_READ_ONLY,
              &err);
    tst_fails(SOURCE->source->log_cursor_at(&handle, 0, batch.next_state, &err),
              LEDGER_ERR_READ_ONLY, &err);
    handle_close(&handle);
    tst_pg_destroy(&standby);
    tst_pg_destroy(&primary);
}

/* --- t11: what a poll costs ------------------------------------------------------------------ */

/* Blocks that reading from a state touches, of the log and its indexes. */
static int64_t blocks_of_read(const char *at, size_t max_count, size_t want)
{
    static const char blocks[] =
        "SELECT pg_stat_get_xact_blocks_fetched('" LOG "'::regclass) + "
        "(SELECT sum(pg_stat_get_xact_blocks_fetched(indexrelid)) FROM pg_index "
        "WHERE indrelid = '" LOG "'::regclass)";
    ledger_error err = { 0 };
    int64_t before, after;

    tst_ok(SOURCE->store->tx_begin(&pg, &err), &err);
    before = tst_pg_sql_int(pg.conn, "%s", blocks);
    read_ok(at, &(struct ldg_log_limits){ max_count, (size_t)1 << 30 });
    after = tst_pg_sql_int(pg.conn, "%s", blocks);
    tst_ok(SOURCE->store->tx_rollback(&pg, &err), &err);
    assert_int_equal(batch.count, want);
    return after - before;
}

static void fill(PGconn *conn, int64_t count)
{
    tst_pg_sql(conn,
               "INSERT INTO " LOG " (stream, payload) SELECT '_', convert_to(repeat('x', 100), "
               "'UTF8') FROM generate_series(1, %lld)",
               (long long)count);
}

static void test_t11_long_transaction(void **state)
{
    static char at[LDG_CURSOR_STATE_MAX];
    PGconn *a = more(), *b = more();
    int64_t blocks;

    (void)state;
    BEGIN(a);
    put(a, "open"); /* before all others */
    for (int i = 0; i < 50; i++)
        fill(db, 2000);
    tst_pg_sql(db, "ANALYZE " LOG);
    read_ok("", &wide);
    assert_int_equal(batch.count, 100000);
    memcpy(at, batch.next_state, sizeof(at));
    reopen();
    read_ok(at, &wide); /* a new connection compares what was carried last */
    blocks = blocks_of_read(at, 500, 0);
    if (blocks > 60)
        fail_msg("an empty poll reads %lld blocks", (long long)blocks);
    /* a large transaction on its way: its rows are passed over no more than once */
    BEGIN(b);
    fill(b, 20000);
    put(db, "y");
    read_ok(at, &wide);
    assert_string_equal(got(), "y");
    memcpy(at, batch.next_state, sizeof(at));
    put(db, "z");
    blocks = blocks_of_read(at, 500, 1);
    if (blocks > 100)
        fail_msg("a poll beside a large transaction reads %lld blocks", (long long)blocks);
    COMMIT(b);
    blocks = blocks_of_read(at, 500, 500);
    if (blocks > 800)
        fail_msg("the first page of a large transaction reads %lld blocks", (long long)blocks);
    for (int i = 0; i < 20; i++)
        fill(db, 1000);
    blocks = blocks_of_read(at, 500, 500);
    if (blocks > 1500) /* once per difference the range of its index is read */
        fail_msg("the first page reads %lld blocks", (long long)blocks);
    memcpy(at, batch.next_state, sizeof(at));
    blocks = blocks_of_read(at, 500, 500);
    if (blocks > 600)
        fail_msg("a page of 500 reads %lld blocks", (long long)blocks);
    read_ok(at, &wide);
    memcpy(at, batch.next_state, sizeof(at));
    COMMIT(a);
    blocks = blocks_of_read(at, 500, 1);
    assert_string_equal(got(), "open");
    if (blocks > 200)
        fail_msg("the late row costs %lld blocks", (long long)blocks);
    PQfinish(a);
    PQfinish(b);
}

/* --- refusals -------------------------------------------------------------------------------- */

static void test_no_column(void **state)
{
    ledger_error err;
    struct ldg_log_stat stat;

    (void)state;
    put(db, "a");
    tst_pg_sql(db, "ALTER TABLE " LOG " DROP COLUMN txid");
    handle_close(&pg);
    ledger_rc rc = handle_try(&pg, url, LEDGER_DEFAULT_TABLE, LDG_ROLE_USER,
                              LEDGER_MUTATION_LOG_AUTO, LEDGER_STORE_READ_ONLY, &err);
    tst_ok(rc, &err);
    tst_fails(read_try("", &wide, &err), LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "ledgerctl store init"));
    tst_fails(SOURCE->source->log_stat(&pg, "", &stat, &err), LEDGER_ERR_SCHEMA, &err);
}

/* What a source asks of its role: to read the log, the entries, and who the store is. */
static void test_least_privileges(void **state)
{
    struct ldg_pg reader;
    char where[300], sql[400];
    const char *schema = tst_pg_sql_text(db, "SELECT current_schema()");
    ledger_error err = { 0 };

    (void)state;
    put(db, "a");
    put(db, "b");
    tst_pg_sql(db, "DO $$ BEGIN CREATE ROLE log_reader LOGIN; EXCEPTION WHEN duplicate_object THEN "
                   "NULL; END $$");
    snprintf(sql, sizeof(sql),
             "GRANT USAGE ON SCHEMA %s TO log_reader; GRANT SELECT ON " LOG
             ", ledger_entries, ledger_entries_meta, ledger_entries_origins TO log_reader",
             schema);
    tst_pg_sql(db, "%s", sql);
    snprintf(sql, sizeof(sql), "options=-csearch_path%%3D%s", schema);
    snprintf(where, sizeof(where), "%s", tst_pg_url(tst_pg_shared(), NULL, "log_reader", sql));
    tst_ok(handle_try(&reader, where, LEDGER_DEFAULT_TABLE, LDG_ROLE_SOURCE,
                      LEDGER_MUTATION_LOG_AUTO, 0, &err),
           &err);
    static char at[LDG_CURSOR_STATE_MAX];
    struct ldg_log_stat stat;
    int64_t position;
    tst_ok(SOURCE->source->log_read(&reader, "", &(struct ldg_log_limits){ 1, 1000 }, &batch, &err),
           &err);
    assert_string_equal(got(), "a+");
    memcpy(at, batch.next_state, sizeof(at));
    tst_ok(SOURCE->source->log_check(&reader, at, &position, &err), &err);
    tst_ok(SOURCE->source->log_stat(&reader, at, &stat, &err), &err);
    tst_ok(SOURCE->source->log_cursor_at(&reader, 1, at, &err), &err);
    tst_ok(SOURCE->source->log_acknowledge(&reader, batch.next_state, at, &err), &err);
    tst_ok(SOURCE->source->log_wait(&reader, -1, 0, &err), &err);
    tst_fails(SOURCE->source->log_cursor_at(&reader, 9, at, &err), LEDGER_ERR_SOURCE_REWOUND, &err);
    tst_ok(SOURCE->source->log_read(&reader, at, &wide, &batch, &err), &err);
    assert_string_equal(got(), "b");
    handle_close(&reader);
    free((void *)schema);
}

static ledger_rc oom_run(void *ctx)
{
    static char at[LDG_CURSOR_STATE_MAX];
    const struct ldg_log_limits two = { 2, 1000 };
    struct ldg_log_stat stat;
    int64_t position;
    ledger_error err;
    char *from = ctx;
    ledger_rc rc;

    if (pg.source)
        ldg_pg_source_free(&pg);
    ldg_arena_fini(&batch.arena);
    ldg_arena_init(&batch.arena, 0);
    rc = SOURCE->source->log_read(&pg, from, &two, &batch, &err);
    if (rc == LEDGER_OK) {
        memcpy(at, batch.next_state, sizeof(at));
        rc = SOURCE->source->log_read(&pg, at, &wide, &batch, &err);
    }
    if (rc == LEDGER_OK) {
        memcpy(at, batch.next_state, sizeof(at));
        rc = SOURCE->source->log_wait(&pg, -1, 0, &err);
    }
    if (rc == LEDGER_OK)
        rc = SOURCE->source->log_check(&pg, at, &position, &err);
    if (rc == LEDGER_OK)
        rc = SOURCE->source->log_stat(&pg, from, &stat, &err);
    if (rc == LEDGER_OK)
        rc = SOURCE->source->log_acknowledge(&pg, at, at, &err);
    if (rc == LEDGER_OK)
        rc = SOURCE->source->log_cursor_at(&pg, 3, at, &err);
    return rc;
}

static void test_out_of_memory(void **state)
{
    static char at[LDG_CURSOR_STATE_MAX];
    PGconn *a = more();

    (void)state;
    BEGIN(a);
    put(a, "a");
    put(db, "b");
    read_ok("", &wide);
    memcpy(at, batch.next_state, sizeof(at));
    COMMIT(a);
    for (int i = 0; i < 4; i++)
        put(db, "c");
    alloc_fail_each(oom_run, at);
    alloc_fail_each(oom_run, (char[]){ "" });
    PQfinish(a);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_w1_lower_id_commits_later),
        TEST(test_w1_pages_of_one_snapshot),
        TEST(test_w1_kinds_of_transactions),
        TEST(test_w1_numbers_against_ids),
        TEST(test_empty),
        TEST(test_rows_without_number),
        TEST(test_numbers_of_others),
        TEST(test_wait_for_others_numbers),
        TEST(test_tables_are_watched),
        TEST(test_bytes),
        TEST(test_large_payloads),
        TEST(test_own_transaction),
        TEST(test_inside_a_snapshot),
        TEST(test_cursor_at),
        TEST(test_every_phase),
        TEST(test_witness),
        TEST(test_lost_commits_below_the_witness),
        TEST(test_another_system),
        TEST(test_numbers_ahead),
        TEST(test_numbers_of_no_server),
        TEST(test_numbers_behind),
        TEST(test_t3_trim_around_an_append),
        TEST(test_t10_standby),
        TEST(test_t11_long_transaction),
        TEST(test_no_column),
        TEST(test_least_privileges),
        TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
