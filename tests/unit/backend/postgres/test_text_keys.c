/* Entries whose ids at their origin are texts: tables that earlier versions made, roles that may
 * not mend them, Go's index, keys and rows that an index could not hold. */
#include "sink.h"

#include "go_pg_tables.h"

static struct sink k; /* large */

static const char *url(struct tst_env *env)
{
    return tst_url(env, TST_POSTGRES, "a");
}

static int setup(void **state)
{
    tst_pg_require();
    int rc = tst_setup(state);

    if (rc == 0)
        sink_open(&k, url(*state), LEDGER_MUTATION_LOG_OFF);
    return rc;
}

static int teardown(void **state)
{
    sink_close(&k);
    return tst_teardown(state);
}

static ledger_id key_of(const char *text)
{
    return (ledger_id){ .text = text };
}

static struct ldg_op *append(const char *key, const char *payload)
{
    struct ldg_op *op = sink_append(&k, "s", 0, payload, "");

    op->key = key_of(key);
    return op;
}

static struct ldg_op *tag(const char *key, const char *text)
{
    struct ldg_op *op = sink_tags(&k, "s", 0, text);

    op->key = key_of(key);
    return op;
}

/* The sink's handle again, as another role or with other tables. */
static void reopen(const char *as)
{
    SINK->close(&k.s);
    handle_open(&k.s, as, "t", LDG_ROLE_SINK, LEDGER_MUTATION_LOG_OFF, 0);
}

static size_t list(struct ldg_pg *pg, struct ldg_parked_row **ret_rows)
{
    size_t count = 0;
    ledger_error err = { 0 };

    tst_ok(SINK->state->parked_list(pg, 0, 100, &k.arena, ret_rows, &count, &err), &err);
    return count;
}

#define CONTENT                                                                                    \
    "SELECT string_agg(" SINK_KEY " || '=' || convert_from(payload, 'UTF8') || tags::text, ' ' "   \
    "ORDER BY id) FROM t"

/* --- tables that an earlier version made ------------------------------------------------------ */

static void make_older(void)
{
    sink_exec(&k, "DROP INDEX idx_t_origin_text; ALTER TABLE t_parked DROP COLUMN entry_id");
}

static void see_finding(void *ctx, ledger_severity severity, const char *subject, const char *text)
{
    char *found = ctx;

    if (severity == LEDGER_FINDING_ERROR)
        snprintf(found + strlen(found), 1024 - strlen(found), "%s: %s\n", subject, text);
}

static void check_is(const char *missing_column, const char *missing_index)
{
    char found[1024] = "";
    ledger_error err = { 0 };

    tst_ok(ldg_pg_check(&k.s, see_finding, found, &err), &err);
    assert_int_equal(strstr(found, missing_column) != NULL, strstr(found, missing_index) != NULL);
    assert_int_equal(strstr(found, missing_column) != NULL, k.s.has_text_keys ? 0 : 1);
}

/* Whoever may mend the tables does it when it opens them; what they hold stays. */
static void test_owner_mends(void **state)
{
    struct ldg_parked_row *rows;

    sink_append(&k, "s", 7, "1", "");
    sink_op(&k, LDG_OP_PARK, "s", 9)->reason = "odd";
    sink_apply(&k);
    make_older();
    reopen(url(*state));
    assert_true(k.s.has_entry_id && k.s.has_text_keys);
    check_is("t_parked.entry_id", "idx_t_origin_text");
    assert_int_equal(list(&k.s, &rows), 1);
    assert_int_equal(rows[0].key.number, 9);
    sink_begin(&k);
    append("k", "2");
    sink_op(&k, LDG_OP_PARK, "s", 0)->reason = "odd";
    k.ops[1].key = key_of("p");
    sink_apply(&k);
    assert_int_equal(list(&k.s, &rows), 2);
    assert_string_equal(rows[1].key.text, "p");
    sink_is(&k, CONTENT, "7=1[] k=2[]");
    /* an index by this name over something else is refused as any other */
    sink_exec(&k, "DROP INDEX idx_t_origin_text; CREATE UNIQUE INDEX idx_t_origin_text "
                  "ON t(source_id) WHERE source_pos IS NULL AND origin <> 0");
    SINK->close(&k.s);
    ledger_error err;
    tst_fails(handle_try(&k.s, url(*state), "t", LDG_ROLE_SINK, LEDGER_MUTATION_LOG_OFF, 0, &err),
              LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "idx_t_origin_text"));
    sink_exec(&k, "DROP INDEX idx_t_origin_text");
    handle_open(&k.s, url(*state), "t", LDG_ROLE_SINK, LEDGER_MUTATION_LOG_OFF, 0);
}

/* A role that may not works on with numbers; of texts it says what has to be done. */
static void test_lesser_role(void **state)
{
    const struct ldg_claim claim = { ldg_id_of(1), key_of("k") };
    const struct ldg_identity third = { .uuid = OTHER_UUID, .epoch = 1 };
    char *schema = tst_pg_sql_text(k.db, "SELECT current_schema()");
    char role[64], more[128], as[400];
    struct ldg_parked_row *rows;
    struct ldg_history_row *history;
    struct ldg_pg reader;
    ledger_id id, *ids;
    uint64_t adopted;
    size_t count;
    int origin;
    ledger_error err = { 0 };

    snprintf(role, sizeof(role), "app_%s", schema);
    snprintf(more, sizeof(more), "options=-csearch_path%%3D%s", schema);
    snprintf(as, sizeof(as), "%s", tst_pg_url(tst_pg_shared(), NULL, role, more));
    sink_exec(&k, "CREATE ROLE \"%s\" LOGIN; GRANT USAGE ON SCHEMA \"%s\" TO \"%s\"", role, schema,
              role);
    sink_exec(&k,
              "GRANT SELECT, INSERT, UPDATE, DELETE ON t, t_cursors, t_origins, t_parked, "
              "t_foreign TO \"%s\"; GRANT SELECT ON t_meta TO \"%s\"; "
              "GRANT USAGE ON SEQUENCE t_id_seq, t_parked_id_seq TO \"%s\"",
              role, role, role);
    make_older();
    reopen(as);
    assert_false(k.s.has_entry_id || k.s.has_text_keys);
    check_is("t_parked.entry_id", "idx_t_origin_text");
    sink_append(&k, "s", 7, "1", "");
    sink_append(&k, "s", 8, "1", "");
    sink_tags(&k, "s", 7, "x");
    sink_op(&k, LDG_OP_PARK, "s", 9)->reason = "odd";
    sink_tags(&k, "s", 9, "waits");
    sink_trim(&k, "s", 9)->survivors = (const ledger_id[]){ ldg_id_of(7), ldg_id_of(9) };
    k.ops[5].survivor_count = 2;
    sink_apply(&k);
    sink_is(&k, CONTENT, "7=1[\"x\"]");
    assert_int_equal(list(&k.s, &rows), 2);
    assert_int_equal(rows[1].key.number, 9);
    tst_ok(SINK->state->origin_get(&k.s, &third, "", &origin, &err), &err);
    tst_ok(SINK->state->origin_last(&k.s, k.origin, &k.arena, &id, &err), &err);
    assert_int_equal(id.number, sink_int(&k, "SELECT max(id) FROM t"));
    /* texts: nothing is written, and nothing kept aside */
    for (int way = 0; way < 2; way++) {
        const struct ldg_cursor before = k.cursor;

        sink_begin(&k);
        if (way == 0)
            append("k", "2");
        else
            sink_op(&k, LDG_OP_PARK, "s", 0)->key = key_of("p");
        tst_fails(sink_try(&k, &err), LEDGER_ERR_SCHEMA, &err);
        assert_string_equal(before.state, k.cursor.state);
    }
    assert_int_equal(list(&k.s, &rows), 2);
    sink_is(&k, CONTENT, "7=1[\"x\"]");
    tst_fails(SINK->state->origin_adopt(&k.s, k.origin, &claim, 1, &adopted, &err),
              LEDGER_ERR_SCHEMA, &err);
    assert_non_null(strstr(err.message, "run `ledgerctl store init`"));
    /* … of which there can be none, for one who only reads */
    handle_open(&reader, as, "t", LDG_ROLE_USER, LEDGER_MUTATION_LOG_OFF, LEDGER_STORE_READ_ONLY);
    assert_int_equal(list(&reader, &rows), 2);
    tst_ok(SINK->verify->history(&reader, k.origin, ldg_id_of(7), 9, 1000, &k.arena, &history,
                                 &count, &err),
           &err);
    assert_int_equal(count, 0);
    tst_ok(SINK->verify->history_of(&reader, k.origin, (const ledger_id[]){ key_of("k") }, 1, 1000,
                                    &k.arena, &history, &count, &err),
           &err);
    assert_int_equal(count, 0);
    tst_ok(SINK->source->trim_survivors(&reader, k.origin, "s", key_of("z"), &k.arena, &ids, &count,
                                        &err),
           &err);
    assert_int_equal(count, 0);
    tst_fails(SINK->store->find_by_source_id(&reader, "s", "k", &id, &err), LEDGER_ERR_NOT_FOUND,
              &err);
    handle_close(&reader);
    /* what the words say */
    tst_fails(sink_try(&k, &err), LEDGER_ERR_SCHEMA, &err);
    char *alter = strstr(err.message, "ALTER TABLE"), *create = strstr(alter, "; ");
    *create = '\0';
    sink_exec(&k, "%s", alter);
    sink_exec(&k, "%s", create + 2);
    reopen(as);
    assert_true(k.s.has_text_keys);
    check_is("t_parked.entry_id", "idx_t_origin_text");
    sink_begin(&k);
    append("k", "2");
    tag("k", "y");
    sink_apply(&k);
    sink_is(&k, CONTENT, "7=1[\"x\"] k=2[\"y\"]");
    SINK->close(&k.s);
    sink_exec(&k, "DROP OWNED BY \"%s\"; DROP ROLE \"%s\"", role, role);
    handle_open(&k.s, url(*state), "t", LDG_ROLE_SINK, LEDGER_MUTATION_LOG_OFF, 0);
    free(schema);
}

/* --- Go's index ------------------------------------------------------------------------------ */

static void make_go_index(void)
{
    sink_exec(&k, "CREATE UNIQUE INDEX idx_t_source ON t(source_id) WHERE source_id != ''");
}

/* It takes an id once, of whatever store: the second one is parked, and nothing is lost. */
static void test_go_index(void **state)
{
    const struct ldg_identity third = { .uuid = OTHER_UUID, .epoch = 1 };
    struct ldg_parked_row *rows;
    struct ldg_op op;
    int other;
    bool applied = false;
    ledger_error err = { 0 };

    (void)state;
    make_go_index();
    tst_ok(SINK->state->origin_get(&k.s, &third, "", &other, &err), &err);
    append("k1", "1");
    append("k2", "2");
    sink_apply(&k);
    sink_begin(&k);
    append("k2", "3");
    append("k3", "4");
    tag("k2", "waits");
    for (size_t i = 0; i < k.count; i++) {
        k.ops[i].origin = k.ops[i].mutation_origin = other;
        k.ops[i].source_uuid = OTHER_UUID;
    }
    op = k.ops[0];
    sink_apply(&k);
    sink_is(&k, CONTENT, "k1=1[] k2=2[] k3=4[]");
    assert_int_equal(list(&k.s, &rows), 2);
    assert_int_equal(rows[0].origin, other);
    assert_string_equal(rows[0].key.text, "k2");
    assert_non_null(strstr(rows[0].reason, "DROP INDEX \"idx_t_source\""));
    /* a number is never written as such a text, so those of the origin that Go knows meet none */
    sink_exec(&k, "UPDATE t_origins SET go_ids = 2 WHERE id = %d", other);
    sink_begin(&k);
    sink_append(&k, "s", 12, "5", "")->origin = other;
    k.ops[0].mutation_origin = other;
    append("k4", "6");
    sink_apply(&k);
    sink_is(&k, "SELECT string_agg(source_id, ' ' ORDER BY id) FROM t", "k1 k2 k3 12 k4");
    /* without the index both are here */
    sink_exec(&k, "DROP INDEX idx_t_source");
    tst_ok(SINK->state->parked_retry(&k.s, rows[0].id, &op, 1, &applied, &err), &err);
    assert_true(applied);
    sink_is(&k,
            "SELECT string_agg(origin || source_id, ' ' ORDER BY id) FROM t WHERE "
            "source_id = 'k2'",
            other == 2 ? "1k2 2k2" : "2k2 1k2");
}

/* An entry that the Go bridge has carried, too. */
static void test_go_bridge_beside(void **state)
{
    ledger_error err = { 0 };

    (void)state;
    make_go_index();
    tst_go_pg_append(k.db, "t", false, "s", "{\"n\":1}", NULL, "k1");
    tst_go_pg_append(k.db, "t", false, "s", "{\"n\":2}", NULL, "k2");
    sink_exec(&k, "UPDATE t SET order_key = 'o'"); /* as entries here have it */
    append("k1", "{ \"n\": 1 }");
    tst_fails(sink_try(&k, &err), LEDGER_ERR_FOREIGN_BRIDGE, &err);
    assert_non_null(strstr(err.message, "entry k1 of stream \"s\""));
    /* one of another store by the same text is no such entry */
    sink_begin(&k);
    append("k2", "3");
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_PARKED);
    assert_int_equal(sink_int(&k, "SELECT count(*) FROM t"), 2);
}

/* --- keys ------------------------------------------------------------------------------------ */

/* The longest that there are; and what others have in the column, which the index does not hold. */
static void test_long_texts(void **state)
{
    char key[LEDGER_ID_TEXT_MAX];
    ledger_id id;
    ledger_error err = { 0 };

    (void)state;
    memset(key, '~', sizeof(key));
    key[sizeof(key) - 1] = '\0';
    append(key, "1");
    tag(key, "x");
    sink_apply(&k);
    sink_begin(&k);
    tag(key, "y");
    append(key, "1")->time_us = k.ops[0].time_us;
    sink_exec(&k, "INSERT INTO t(stream, payload, source_id) SELECT 's', '2', "
                  "string_agg(md5(n::text), '') FROM generate_series(1, 1000) AS n");
    k.ops[1].time_us = SINK_TIME_US + 1000; /* as the first */
    sink_apply(&k);
    assert_int_equal(k.outcomes[0], LDG_OUTCOME_APPLIED);
    assert_int_equal(k.outcomes[1], LDG_OUTCOME_REPLAYED);
    tst_ok(SINK->store->find_by_source_id(&k.s, "s", key, &id, &err), &err);
    assert_int_equal(id.number, sink_int(&k, "SELECT min(id) FROM t"));
    sink_is(&k, "SELECT tags::text FROM t ORDER BY id LIMIT 1", "[\"y\"]");
}

/* As text of an array, as JSON and as a pattern they mean nothing. */
static void test_odd_texts(void **state)
{
    static const char *const keys[] = { "NULL", "null", "{}",  "{\"a\",b}", "\\",       "\"",
                                        "'",    "a,b",  " ",   "%",         "\\x00",    "$1",
                                        "\x01", "\x7f", "{t}", "\xc3\xa9",  "e\xcc\x81" };
    const size_t count = sizeof(keys) / sizeof(*keys);
    ledger_id kept[2];
    struct ldg_op *op;

    (void)state;
    for (int way = 0; way < 2; way++) {
        for (size_t i = 0; i < count; i++)
            append(keys[i], "1")->time_us = SINK_TIME_US;
        sink_apply(&k);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(k.outcomes[i], way == 0 ? LDG_OUTCOME_APPLIED : LDG_OUTCOME_REPLAYED);
        sink_begin(&k);
    }
    for (size_t i = 0; i < count; i++)
        tag(keys[i], keys[i]);
    sink_apply(&k);
    assert_int_equal(sink_int(&k, "SELECT count(*) FROM t WHERE tags ->> 0 = source_id"),
                     (int64_t)count);
    /* each stays once, alone but for one that is far away */
    for (size_t i = 0; i < count; i++) {
        const bool before = strcmp(keys[i], "\xc3\xa9") < 0;

        sink_begin(&k);
        kept[before ? 0 : 1] = key_of(keys[i]);
        kept[before ? 1 : 0] = key_of("\xc3\xa9");
        op = sink_trim(&k, "s", 0);
        op->key = key_of("\xf4\x8f\xbf\xbf");
        op->survivors = kept;
        op->survivor_count = strcmp(keys[i], "\xc3\xa9") == 0 ? 1 : 2;
        sink_apply(&k);
        assert_int_equal(sink_int(&k, "SELECT count(*) FROM t"), (int64_t)op->survivor_count);
        sink_begin(&k);
        for (size_t n = 0; n < count; n++)
            append(keys[n], "1")->time_us = SINK_TIME_US;
        sink_apply(&k);
        assert_int_equal(sink_int(&k, "SELECT count(*) FROM t"), (int64_t)count);
    }
}

static const char *join(char out[256], const ledger_id *ids, size_t count)
{
    out[0] = '\0';
    for (size_t i = 0; i < count; i++)
        snprintf(out + strlen(out), 256 - strlen(out), "%s%s", i > 0 ? " " : "", ids[i].text);
    return out;
}

static const char *history(char out[256])
{
    struct ldg_history_row *rows;
    ledger_id ids[16];
    size_t count;
    ledger_error err = { 0 };

    tst_ok(SINK->verify->history(&k.s, k.origin, ldg_id_of(0), 16, 1 << 20, &k.arena, &rows, &count,
                                 &err),
           &err);
    for (size_t i = 0; i < count; i++)
        ids[i] = rows[i].key;
    return join(out, ids, count);
}

static const char *survivors(const char *before, char out[256])
{
    ledger_id *ids;
    size_t count;
    ledger_error err = { 0 };

    tst_ok(SINK->source->trim_survivors(&k.s, k.origin, "s", key_of(before), &k.arena, &ids, &count,
                                        &err),
           &err);
    return join(out, ids, count);
}

/* In English A comes behind a, and B behind both. */
static void test_bytes_in_any_locale(void **state)
{
    static const char *const keys[] = { "b", "a", "B", "A", "a b", "ab", "a-c" };
    struct tst_pg *server = tst_pg_shared();
    char text[256], english[400];
    ledger_id last;
    uint64_t deleted;
    ledger_error err = { 0 };

    if (tst_pg_int(server, NULL, "SELECT count(*) FROM pg_database WHERE datname = 'texts'") == 0)
        tst_pg_exec(server, NULL,
                    "CREATE DATABASE texts TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C' "
                    "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'");
    sink_close(&k);
    snprintf(english, sizeof(english), "%s", tst_pg_url(server, "texts", NULL, NULL));
    sink_open(&k, english, LEDGER_MUTATION_LOG_ON);
    assert_true(tst_pg_sql_int(k.db, "SELECT ('a' < 'A' AND 'A' < 'b')::int") == 1);
    for (size_t i = 0; i < 7; i++)
        append(keys[i], "1");
    for (size_t i = 0; i < 3; i++) /* parked ones survive, too */
        sink_op(&k, LDG_OP_PARK, "s", 0)->key = key_of((const char *[]){ "0", "C", "c" }[i]);
    sink_apply(&k);
    assert_string_equal(history(text), "A B a a b a-c ab b");
    assert_string_equal(survivors("a", text), "0 A B C a");
    assert_string_equal(survivors("c", text), "0 A B C a a b a-c ab b c");
    tst_ok(SINK->state->origin_last(&k.s, k.origin, &k.arena, &last, &err), &err);
    assert_int_equal(last.number, sink_int(&k, "SELECT id FROM t WHERE source_id = 'b'"));
    /* here it is said in bytes, too, which is the last one */
    tst_ok(SINK->store->trim(&k.s, "s", ldg_id_of(2), &deleted, &err), &err);
    assert_int_equal(deleted, 2);
    assert_non_null(strstr(sink_text(&k, "SELECT convert_from(payload, 'UTF8') FROM t_mutations "
                                         "ORDER BY id DESC LIMIT 1"),
                           "\"source_id\":\"b\""));
    sink_begin(&k);
    sink_trim(&k, "s", 0)->key = key_of("a b");
    sink_apply(&k);
    assert_string_equal(history(text), "a-c ab");
    assert_string_equal(survivors("c", text), "a-c ab c");
    sink_exec(&k, "DROP TABLE t, t_mutations, t_cursors, t_meta, t_origins, t_parked, t_foreign");
    sink_close(&k);
    sink_open(&k, url(*state), LEDGER_MUTATION_LOG_OFF);
}

/* A row of texts is looked for in its index, whatever the planner takes the table for. */
static void test_is_found_by_its_index(void **state)
{
    (void)state;
    append("k", "1");
    sink_apply(&k);
    sink_exec(&k,
              "INSERT INTO t(stream, payload, origin, source_id) "
              "SELECT 's' || n %% 10, '1', %d, 'n' || n FROM generate_series(1, 20000) AS n",
              k.origin);
    sink_exec(&k, "ANALYZE t");
    sink_exec(&k, "SET plan_cache_mode = force_generic_plan");
    sink_exec(&k, "PREPARE look(int4[], text[]) AS SELECT count(*) FROM unnest($1, $2) "
                  "AS x(origin, key) JOIN t AS e ON " LDG_PG_IS_TEXT);
    char *plan = tst_pg_sql_text(k.db, "EXPLAIN (FORMAT JSON) EXECUTE look('{1}', '{k}')");
    assert_non_null(strstr(plan, "\"idx_t_origin_text\""));
    free(plan);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_owner_mends),           TEST(test_lesser_role),         TEST(test_go_index),
        TEST(test_go_bridge_beside),      TEST(test_long_texts),          TEST(test_odd_texts),
        TEST(test_is_found_by_its_index), TEST(test_bytes_in_any_locale),
    };
    return cmocka_run_group_tests_name("postgres: text keys", tests, NULL, NULL);
}
