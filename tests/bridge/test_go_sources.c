/* One table, the Go module's bridge, and more than one source: whose the rows are that Go has left,
 * in both databases. They carry a number and no name, so what is not proven is not taken, and what
 * may have been passed over is carried. Go's bridge is played by plain SQL (go_bridge.h). */
#include <string.h>

#include "fixtures.h"
#include "go_bridge.h"
#include "oracle.h"

#define T LEDGER_DEFAULT_TABLE
#define EACH_DATABASE(env, kind)                                                                   \
    TST_EACH_SOURCE(env, kind)                                                                     \
    if (kind != TST_MEMORY)

/* The table of a sink that a Go program has opened, and two sources. */
struct three {
    ledger_store *first, *second, *sink;
};

static struct three open_three(struct tst_env *env, int kind)
{
    struct three s = {
        .first = tst_open(env, kind, "first"),
        .second = tst_open(env, kind, "second"),
        .sink = tst_open(env, kind == TST_POSTGRES ? TST_PLAIN_POSTGRES : TST_PLAIN, "sink"),
    };
    tst_go_open(s.sink);
    return s;
}

static int64_t count(const ledger_store *store, const char *where)
{
    return tst_query_int_on(store, "SELECT count(*) FROM " T " WHERE %s", where);
}

/* The same in each store that writes the same range. */
static void write_range(ledger_store *store, int from, int to)
{
    char payload[32];
    for (int i = from; i < to; i++) {
        snprintf(payload, sizeof payload, "{ \"n\": %d }", i);
        (void)tst_append(store, i % 2 ? "a" : "b", payload, NULL, NULL);
    }
}

static ledger_bridge_options under(const char *name)
{
    ledger_bridge_options options;
    tst_bridge_options(&options);
    options.name = name;
    return options;
}

static void carry(const ledger_store *source, const ledger_store *sink, const char *name)
{
    const ledger_bridge_options options = under(name);
    (void)tst_bridge_once(source, sink, &options);
}

static void refused(const ledger_store *source, const ledger_store *sink, const char *name,
                    ledger_rc expected, const char *words)
{
    const ledger_bridge_options options = under(name);
    ledger_bridge *bridge = tst_bridge(source, sink, &options);
    uint64_t read = 0;
    for (int i = 0; i < 2; i++) {
        ledger_error err = { 0 };
        tst_fails(ledger_bridge_poll(bridge, &read, &err), expected, &err);
        if (strstr(err.message, words) == NULL)
            tst_fail("\"%s\" is not in: %s", words, err.message);
    }
    ledger_bridge_destroy(&bridge);
}

static void is_equal(ledger_store *source, ledger_store *sink, const char *name)
{
    ledger_verify_options options;
    ledger_verify_result result;
    ledger_error err = { 0 };
    ledger_verify_options_defaults(&options);
    options.name = name;
    tst_ok(ledger_bridge_verify(source, sink, &options, &result, &err), &err);
    assert_int_equal(result.difference_count, 0);
    tst_assert_equal(source, sink, TST_CMP_OWN | TST_CMP_ANY_TIME | TST_CMP_ANY_ORDER);
}

/* --- rows --------------------------------------------------------------------------------------
 */

/* It gave no number out, so none of Go's can be its own. */
static void a_source_that_has_nothing_takes_nothing(void **state)
{
    struct tst_env *env = *state;
    for (int in_turns = 0; in_turns < 2; in_turns++)
        EACH_DATABASE(env, kind)
        {
            struct three s = open_three(env, kind);
            if (in_turns) {
                write_range(s.first, 0, 5);
                carry(s.first, s.sink, "default");
            }
            write_range(s.first, 5, 15);
            tst_go_bridge_killed(s.first, s.sink, "default", 10);
            carry(s.second, s.sink, "second");
            assert_int_equal(count(s.sink, "origin = 0"), 10);
            write_range(s.second, 100, 112);
            carry(s.second, s.sink, "second");
            carry(s.first, s.sink, "default");
            assert_int_equal(count(s.sink, "origin = 0"), 0);
            assert_int_equal(count(s.sink, "true"), in_turns ? 27 : 22);
            is_equal(s.first, s.sink, "default");
            is_equal(s.second, s.sink, "second");
        }
}

/* The source whose rows carry source_id is the one that Go carries: no other one takes what Go has
 * left in its turn, not even an equal entry. */
static void go_carries_one_source_in_turns(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        struct three s = open_three(env, kind);
        write_range(s.first, 0, 10);
        carry(s.first, s.sink, "default");
        write_range(s.first, 10, 20);
        assert_int_equal(tst_go_bridge(s.first, s.sink, "default"), 0);
        write_range(s.second, 0, 25);
        carry(s.second, s.sink, "second");
        assert_int_equal(count(s.sink, "origin = 0"), 10);
        tst_tag(s.first, "a", 16, "of the first");
        tst_tag(s.second, "a", 18, "of the second");
        assert_int_equal(tst_go_bridge(s.first, s.sink, "default"), 0);
        carry(s.second, s.sink, "second");
        carry(s.first, s.sink, "default");
        assert_int_equal(count(s.sink, "origin = 0"), 0);
        assert_int_equal(count(s.sink, "source_id != ''"), 20);
        is_equal(s.first, s.sink, "default");
        is_equal(s.second, s.sink, "second");
    }
}

enum { ORDER_KEY, DEDUP_KEY, SCHEMA_VERSION, METADATA, FIELD_COUNT };

static int64_t append_with(ledger_store *store, int field, const char *value)
{
    const ledger_pair pair = { "k", value };
    ledger_append_input input = { .payload = { "1", 1 } };
    ledger_ids ids = { 0 };
    ledger_error err = { 0 };
    if (field == ORDER_KEY)
        input.order_key = value;
    if (field == DEDUP_KEY)
        input.dedup_key = value;
    if (field == SCHEMA_VERSION)
        input.schema_version = value[0];
    if (field == METADATA)
        input.metadata = (ledger_map){ &pair, 1 };
    tst_ok(ledger_store_append(store, "a", &input, 1, &ids, &err), &err);
    const int64_t id = ids.items[0].number;
    ledger_ids_destroy(&ids);
    return id;
}

/* The same number, stream and payload: the rest of what no change touches tells them apart, in the
 * source's entry as in its log. */
static void each_field_tells_entries_apart(void **state)
{
    struct tst_env *env = *state;
    for (int field = 0; field < FIELD_COUNT; field++)
        for (int trimmed = 0; trimmed < 2; trimmed++)
            EACH_DATABASE(env, kind)
            {
                struct three s = open_three(env, kind);
                (void)append_with(s.first, field, "x");
                assert_int_equal(tst_go_bridge(s.first, s.sink, "default"), 0);
                const int64_t id = append_with(s.second, field, "y");
                if (trimmed)
                    (void)tst_trim(s.second, "a", id);
                carry(s.second, s.sink, "second");
                assert_int_equal(count(s.sink, "origin = 0"), 1);
                carry(s.first, s.sink, "default");
                assert_int_equal(count(s.sink, "origin = 0"), 0);
                is_equal(s.first, s.sink, "default");
                is_equal(s.second, s.sink, "second");
                /* Its own it knows by the same fields. */
                ledger_error err = { 0 };
                tst_ok(ledger_bridge_cursor_set(s.first, s.sink, "default", "0", false, &err),
                       &err);
                carry(s.first, s.sink, "default");
                is_equal(s.first, s.sink, "default");
            }
}

/* Two Go bridges in one table. The second source has trimmed what it had of the first one's
 * numbers, and its log knows nothing of them any more. */
static void numbers_that_two_sources_gave_out(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        struct three s = open_three(env, kind);
        write_range(s.first, 0, 5);
        assert_int_equal(tst_go_bridge(s.first, s.sink, "default"), 0);
        write_range(s.second, 100, 110);
        tst_exec_on(s.second, "DELETE FROM " T);
        tst_exec_on(s.second, "DELETE FROM " T "_mutations");
        write_range(s.second, 110, 115);
        assert_int_equal(tst_go_bridge(s.second, s.sink, "second"), 0);
        carry(s.second, s.sink, "second");
        assert_int_equal(count(s.sink, "origin = 0"), 5);
        carry(s.first, s.sink, "default");
        assert_int_equal(count(s.sink, "origin = 0"), 0);
        is_equal(s.first, s.sink, "default");
        is_equal(s.second, s.sink, "second");
    }
}

/* Of a source that is alone all is taken that Go has left, so that it can be trimmed. */
static void a_log_that_was_pruned(void **state)
{
    struct tst_env *env = *state;
    for (int alone = 0; alone < 2; alone++)
        EACH_DATABASE(env, kind)
        {
            struct three s = open_three(env, kind);
            if (!alone) {
                write_range(s.second, 100, 103);
                carry(s.second, s.sink, "second");
                tst_exec_on(s.sink, "UPDATE " T " SET source_id = ''");
                tst_exec_on(s.sink, "UPDATE " T "_origins SET go_ids = 0");
            }
            write_range(s.first, 0, 10);
            assert_int_equal(tst_go_bridge(s.first, s.sink, "default"), 0);
            tst_exec_on(s.first, "DELETE FROM " T "_mutations");
            (void)tst_trim(s.first, "b", 5);
            carry(s.first, s.sink, "default");
            assert_int_equal(count(s.sink, "origin = 0"), alone ? 0 : 3);
            is_equal(s.first, s.sink, "default");
        }
}

/* Go has a cursor, and all that it has carried is trimmed: its source has not come to us yet, and
 * the numbers of another one must not stand in Go's way. */
static void a_go_bridge_that_has_nothing_here(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        struct three s = open_three(env, kind);
        write_range(s.first, 0, 4);
        (void)tst_trim(s.first, "a", 4);
        (void)tst_trim(s.first, "b", 3);
        assert_int_equal(tst_go_bridge(s.first, s.sink, "default"), 0);
        assert_int_equal(count(s.sink, "true"), 0);
        write_range(s.second, 100, 110);
        carry(s.second, s.sink, "second");
        write_range(s.first, 4, 14);
        assert_int_equal(tst_go_bridge(s.first, s.sink, "default"), 0);
        assert_int_equal(count(s.sink, "true"), 20);
        carry(s.second, s.sink, "second");
        carry(s.first, s.sink, "default");
        assert_int_equal(count(s.sink, "origin = 0"), 0);
        is_equal(s.first, s.sink, "default");
        is_equal(s.second, s.sink, "second");
    }
}

/* --- cursors -----------------------------------------------------------------------------------
 */

/* Whose it is it does not say. Where all that Go has left is another source's, so is the cursor. */
static void a_cursor_that_go_has_left_for_another_source(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        struct three s = open_three(env, kind);
        ledger_error err = { 0 };
        write_range(s.first, 0, 10);
        assert_int_equal(tst_go_bridge(s.first, s.sink, "default"), 0);
        write_range(s.second, 100, 112);
        refused(s.second, s.sink, "default", LEDGER_ERR_CURSOR_MISMATCH, "another --name");
        assert_int_equal(count(s.sink, "true"), 10);
        /* On purpose it does, and nothing is passed over on either side. */
        tst_ok(ledger_bridge_cursor_set(s.second, s.sink, "default", "0", false, &err), &err);
        carry(s.second, s.sink, "default");
        is_equal(s.second, s.sink, "default");
        carry(s.first, s.sink, "first");
        assert_int_equal(count(s.sink, "origin = 0"), 0);
        is_equal(s.first, s.sink, "first");
    }
}

/* Two sources have the same entry under the same number. A row cannot tell whose it is; whoever
 * comes to take it, the other one's entry comes, too. */
static void an_entry_that_two_sources_have(void **state)
{
    struct tst_env *env = *state;
    for (int of_first = 0; of_first < 2; of_first++)
        EACH_DATABASE(env, kind)
        {
            struct three s = open_three(env, kind);
            write_range(s.first, 0, 10);
            write_range(s.second, 0, 1);
            write_range(s.second, 100, 111);
            assert_int_equal(tst_go_bridge(s.first, s.sink, "default"), 0);
            refused(s.second, s.sink, "second", LEDGER_ERR_FOREIGN_BRIDGE, "--name default");
            carry(of_first ? s.first : s.second, s.sink, "default");
            carry(of_first ? s.second : s.first, s.sink, "other");
            assert_int_equal(count(s.sink, "true"), 22);
            is_equal(s.first, s.sink, of_first ? "default" : "other");
            is_equal(s.second, s.sink, of_first ? "other" : "default");
        }
}

/* What was claimed before the takeover stopped is not looked for again. */
static void a_takeover_that_was_interrupted(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        struct three s = open_three(env, kind);
        write_range(s.first, 0, 10);
        assert_int_equal(tst_go_bridge(s.first, s.sink, "default"), 0);
        write_range(s.second, 100, 110);
        tst_exec_on(s.second, "DELETE FROM " T);
        tst_exec_on(s.second, "DELETE FROM " T "_mutations"); /* Go would stop, or drop those */
        write_range(s.second, 110, 120);
        assert_int_equal(tst_go_bridge(s.second, s.sink, "second"), 0);
        carry(s.first, s.sink, "default");
        assert_int_equal(count(s.sink, "origin = 0"), 10);
        tst_exec_on(s.sink, "UPDATE " T "_cursors SET state = '' WHERE name = 'default'");
        write_range(s.first, 10, 13);
        carry(s.first, s.sink, "default");
        is_equal(s.first, s.sink, "default");
        carry(s.second, s.sink, "second");
        is_equal(s.second, s.sink, "second");
        assert_int_equal(count(s.sink, "origin = 0"), 0);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
#undef T
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(a_source_that_has_nothing_takes_nothing),
        T(go_carries_one_source_in_turns),
        T(each_field_tells_entries_apart),
        T(numbers_that_two_sources_gave_out),
        T(a_log_that_was_pruned),
        T(a_go_bridge_that_has_nothing_here),
        T(a_cursor_that_go_has_left_for_another_source),
        T(an_entry_that_two_sources_have),
        T(a_takeover_that_was_interrupted),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("go_sources", tests, NULL, NULL);
}
