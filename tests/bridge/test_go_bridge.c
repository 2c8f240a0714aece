/* The Go module's bridge before, behind and after ours, in both databases: what it left is taken
 * over, what ours carried it finds, and neither does the other's work a second time. Go's bridge is
 * played by plain SQL (go_bridge.h). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "go_bridge.h"
#include "go_pg_tables.h"
#include "go_tables.h"
#include "oracle.h"
#include "workload.h"

#define T LEDGER_DEFAULT_TABLE
#define EACH_DATABASE(env, kind)                                                                   \
    TST_EACH_SOURCE(env, kind)                                                                     \
    if (kind != TST_MEMORY)

static enum tst_kind plain(int kind)
{
    return kind == TST_POSTGRES ? TST_PLAIN_POSTGRES : TST_PLAIN;
}

static int64_t count(const ledger_store *store, const char *where)
{
    return tst_query_int_on(store, "SELECT count(*) FROM " T " WHERE %s", where);
}

static int64_t cursor_of(const ledger_store *sink, const char *name)
{
    return tst_query_int_on(
        sink, "SELECT CAST(cursor AS BIGINT) FROM " T "_cursors WHERE name = '%s'", name);
}

static void exactly_equal(ledger_store *source, ledger_store *sink)
{
    ledger_verify_options options;
    ledger_verify_result result;
    ledger_error err = { 0 };
    ledger_verify_options_defaults(&options);
    tst_ok(ledger_bridge_verify(source, sink, &options, &result, &err), &err);
    assert_int_equal(result.difference_count, 0);
    assert_int_equal(result.pending_count, 0);
    tst_assert_equal(source, sink, TST_CMP_OWN | TST_CMP_ANY_TIME | TST_CMP_ANY_ORDER);
}

/* --- a Go bridge behind a sink of ours ------------------------------------------------------- */

/* It knows entries by their ids in the middle store: a trim has to name one of those. */
static void f3_a_go_bridge_behind_ours_trims(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source = tst_open(env, kind, "source");
        ledger_store *middle = tst_open(env, kind, "middle");
        ledger_store *end = tst_open(env, plain(kind), "end");
        int64_t ids[10];
        tst_go_open(end);
        (void)tst_append(middle, "s", "\"of the middle\"", NULL, NULL);
        (void)tst_append(end, "s", "\"of the end\"", NULL, NULL);
        for (int i = 0; i < 10; i++)
            ids[i] = tst_append(source, "s", "1", NULL, NULL);
        (void)tst_bridge_once(source, middle, NULL);
        assert_int_equal(tst_go_bridge(middle, end, "go"), 0);
        assert_int_equal(tst_count(end, "s"), 12);
        (void)tst_trim(source, "s", ids[3]);
        tst_tag(source, "s", ids[8], "x");
        (void)tst_bridge_once(source, middle, NULL);
        assert_int_equal(tst_go_bridge(middle, end, "go"), 0);
        /* Go's trim takes all that lies below, the entry of the middle, too, and "of the end". */
        assert_int_equal(count(end, "source_id != ''"), 6);
        /* A program trims the middle store: bridged entries and its own. */
        (void)tst_append(middle, "s", "\"of the middle\"", NULL, NULL);
        (void)tst_trim(middle, "s", tst_query_int_on(middle, "SELECT max(id) FROM " T) - 2);
        (void)tst_go_bridge(middle, end, "go");
        assert_int_equal(count(end, "source_id != ''"), 2);
    }
}

/* --- the cursor's readable form -------------------------------------------------------------- */

static void f9_the_readable_position_never_goes_back(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source = tst_open(env, kind, "source");
        ledger_store *sink = tst_open(env, plain(kind), "sink");
        ledger_bridge_options options;
        ledger_error err = { 0 };
        uint64_t read = 1;
        int64_t last = 20;
        tst_bridge_options(&options);
        options.batch_size = options.backlog_batch_size = 3;
        for (int i = 0; i < 10; i++)
            (void)tst_append(source, "s", "1", NULL, NULL);
        (void)tst_bridge_once(source, sink, NULL);
        for (int i = 0; i < 15; i++)
            (void)tst_append(source, "s", "1", NULL, NULL);
        tst_exec_on(sink, "UPDATE " T "_cursors SET cursor = '%019d' WHERE name = 'default'", 20);
        ledger_bridge *bridge = tst_bridge(source, sink, &options);
        while (read > 0) {
            tst_ok(ledger_bridge_poll(bridge, &read, &err), &err);
            assert_true(cursor_of(sink, "default") >= last);
            last = cursor_of(sink, "default");
        }
        assert_int_equal(last, 25);
        ledger_bridge_destroy(&bridge);
        exactly_equal(source, sink);
        /* On purpose it does. */
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", "4", false, &err), &err);
        assert_int_equal(cursor_of(sink, "default"), 4);
    }
}

/* --- before ours ----------------------------------------------------------------------------- */

static ledger_rc poll(ledger_bridge *bridge, ledger_error *err)
{
    uint64_t read = 0;
    memset(err, 0, sizeof(*err));
    return ledger_bridge_poll(bridge, &read, err);
}

static void write_some(ledger_store *source, int from, int count_)
{
    char payload[64];
    for (int i = from; i < from + count_; i++) {
        snprintf(payload, sizeof payload, "{ \"n\": %d, \"html\": \"<%d>\" }", i, i);
        (void)tst_append(source, i % 2 ? "a" : "b", payload, NULL, NULL);
    }
}

/* Source and sink as Go's programs have opened them. */
static void open_pair(struct tst_env *env, int kind, ledger_store **ret_source,
                      ledger_store **ret_sink)
{
    *ret_source = tst_open(env, kind, "source");
    *ret_sink = tst_open(env, plain(kind), "sink");
    tst_go_open(*ret_sink);
}

static void f1_a_cursor_of_another_name(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source, *sink;
        ledger_bridge_options options;
        ledger_error err;
        open_pair(env, kind, &source, &sink);
        write_some(source, 0, 10);
        assert_int_equal(tst_go_bridge(source, sink, "orders"), 0);
        write_some(source, 10, 5);
        ledger_bridge *bridge = tst_bridge(source, sink, NULL);
        tst_fails(poll(bridge, &err), LEDGER_ERR_FOREIGN_BRIDGE, &err);
        assert_non_null(strstr(err.message, "--name orders"));
        tst_fails(poll(bridge, &err), LEDGER_ERR_FOREIGN_BRIDGE, &err);
        ledger_bridge_destroy(&bridge);
        assert_int_equal(count(sink, "true"), 10);
        tst_bridge_options(&options);
        options.name = "orders";
        (void)tst_bridge_once(source, sink, &options);
        assert_int_equal(count(sink, "true"), 15);
        assert_int_equal(count(sink, "origin = 0"), 0);
        tst_assert_equal(source, sink, TST_CMP_OWN | TST_CMP_ANY_TIME);
    }
}

/* The same numbers, in the same streams, from another source. */
static void f1_what_go_carried_from_another_source(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source, *sink, *other = tst_open(env, kind, "other");
        ledger_bridge_options options;
        open_pair(env, kind, &source, &sink);
        write_some(other, 100, 10);
        (void)tst_go_bridge(other, sink, "other");
        write_some(source, 0, 12);
        tst_bridge_options(&options);
        options.name = "ours";
        (void)tst_bridge_once(source, sink, &options);
        assert_int_equal(count(sink, "true"), 22);
        assert_int_equal(count(sink, "origin = 0 AND source_id != ''"), 10);
        assert_int_equal(count(sink, "origin != 0 AND source_id = ''"), 12);
        tst_assert_equal(source, sink, TST_CMP_OWN | TST_CMP_ANY_TIME);
        /* The Go bridge is not in its way, nor the other way round. */
        write_some(other, 110, 3);
        tst_tag(other, "b", 1, "x");
        assert_int_equal(tst_go_bridge(other, sink, "other"), 0);
        write_some(source, 12, 3);
        (void)tst_bridge_once(source, sink, &options);
        assert_int_equal(count(sink, "true"), 28);
        tst_assert_equal(source, sink, TST_CMP_OWN | TST_CMP_ANY_TIME);
        /* When that one is taken over, its rows are the ones that go on to carry the number. */
        options.name = "other";
        write_some(other, 113, 3);
        (void)tst_bridge_once(other, sink, &options);
        assert_int_equal(count(sink, "true"), 31);
        assert_int_equal(count(sink, "source_id != ''"), 16);
        tst_assert_equal(other, sink, TST_CMP_OWN | TST_CMP_ANY_TIME);
        tst_assert_equal(source, sink, TST_CMP_OWN | TST_CMP_ANY_TIME);
    }
}

/* Of rows whose number the source has not, or no more, its log says whose they are. */
static void f1_numbers_that_the_source_does_not_have(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source, *sink, *second = tst_open(env, kind, "second");
        ledger_bridge_options options;
        open_pair(env, kind, &source, &sink);
        tst_bridge_options(&options);
        options.name = "second";
        write_some(source, 0, 10);
        tst_go_bridge_killed(source, sink, "default", 8);
        /* Fewer than what Go has carried of the other one. */
        (void)tst_append(second, "c", "[1]", NULL, NULL);
        tst_exec_on(second, "DELETE FROM " T); /* that would tell */
        (void)tst_append(second, "c", "[2]", NULL, NULL);
        tst_exec_on(sink, "DELETE FROM " T " WHERE source_id IN ('1', '2')");
        (void)tst_bridge_once(second, sink, &options);
        assert_int_equal(count(sink, "origin = 0"), 6);
        for (int i = 0; i < 12; i++)
            (void)tst_append(second, "c", "[3]", NULL, NULL);
        (void)tst_bridge_once(second, sink, &options);
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(count(sink, "origin = 0"), 0);
        exactly_equal(source, sink);
    }
}

/* A cursor that is set, or reset, before the first run is one, too. */
static void f1_a_cursor_that_is_set_first(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source, *sink;
        ledger_error err = { 0 };
        open_pair(env, kind, &source, &sink);
        write_some(source, 0, 10);
        (void)tst_append(source, "a", "[1]", "k", NULL);
        tst_go_bridge_killed(source, sink, "default", 11);
        (void)tst_trim(source, "b", 5);
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(count(sink, "origin = 0"), 0);
        exactly_equal(source, sink);
        sink = tst_open(env, plain(kind), "other_sink");
        tst_go_open(sink);
        (void)tst_go_bridge(source, sink, "orders");
        tst_fails(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err),
                  LEDGER_ERR_FOREIGN_BRIDGE, &err);
        assert_non_null(strstr(err.message, "--name orders"));
    }
}

/* Two Go bridges into one table; what each has carried goes to its own source, also what that has
 * trimmed since. */
static void f1_two_go_bridges_into_one_table(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source, *sink, *other = tst_open(env, kind, "other");
        ledger_bridge_options options;
        open_pair(env, kind, &source, &sink);
        tst_bridge_options(&options);
        options.name = "other";
        write_some(source, 0, 10);
        (void)tst_go_bridge(source, sink, "default");
        write_some(other, 100, 10);
        tst_exec_on(other, "DELETE FROM " T);
        tst_exec_on(other, "DELETE FROM " T "_mutations"); /* Go would stop, or drop those */
        write_some(other, 110, 10);
        (void)tst_go_bridge(other, sink, "other");
        assert_int_equal(count(sink, "true"), 20);
        (void)tst_trim(source, "b", 7);
        (void)tst_trim(other, "b", 17);
        write_some(source, 10, 3);
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(count(sink, "origin = 0"), 10);
        exactly_equal(source, sink);
        (void)tst_bridge_once(other, sink, &options);
        assert_int_equal(count(sink, "origin = 0"), 0);
        tst_assert_equal(source, sink, TST_CMP_OWN | TST_CMP_ANY_TIME);
        tst_assert_equal(other, sink, TST_CMP_OWN | TST_CMP_ANY_TIME);
        assert_int_equal(count(sink, "true"), 13 - 4 + 10 - 4);
    }
}

static void note_kind(void *ctx, const ledger_difference *difference)
{
    assert_int_equal(difference->kind, LEDGER_DIFF_DOUBLE);
    ++*(int *)ctx;
}

static void f1_verify_counts_doubles(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source = tst_open(env, kind, "source");
        ledger_store *sink = tst_open(env, plain(kind), "sink");
        ledger_verify_options options;
        ledger_verify_result result;
        ledger_error err = { 0 };
        int told = 0;
        write_some(source, 0, 5);
        (void)tst_bridge_once(source, sink, NULL);
        exactly_equal(source, sink);
        /* As earlier versions left them; of another payload it is another entry. */
        tst_exec_on(sink, "INSERT INTO " T " (stream, payload, source_id) SELECT stream, payload, "
                          "CAST(source_pos AS TEXT) FROM " T " WHERE source_pos <= 3");
        tst_exec_on(sink, "INSERT INTO " T " (stream, payload, source_id) SELECT stream, "
                          "payload, '4' FROM " T " WHERE source_pos = 2");
        ledger_verify_options_defaults(&options);
        options.fn = note_kind;
        options.ctx = &told;
        tst_ok(ledger_bridge_verify(source, sink, &options, &result, &err), &err);
        assert_int_equal(result.difference_count, 3);
        assert_int_equal(told, 3);
    }
}

/* --- after ours, and in turns ---------------------------------------------------------------- */

/* Every entry of the source is in the sink, once, as it is there; whoever carried it. */
static void same_content(ledger_store *source, ledger_store *sink)
{
    const ledger_read_options options = { .size = sizeof(options), .limit = 5000 };
    ledger_batch *a = NULL, *b = NULL;
    ledger_error err = { 0 };
    for (const char *stream = "a"; *stream <= 'b'; stream = *stream == 'a' ? "b" : "c") {
        tst_ok(ledger_store_read(source, stream, &options, &a, &err), &err);
        tst_ok(ledger_store_read(sink, stream, &options, &b, &err), &err);
        assert_int_equal(ledger_batch_count(a), ledger_batch_count(b));
        for (size_t i = 0; i < ledger_batch_count(a); i++) {
            const ledger_entry *x = ledger_batch_entry(a, i), *y = NULL;
            char id[32];
            snprintf(id, sizeof id, "%lld", (long long)x->id.number);
            for (size_t k = 0; k < ledger_batch_count(b); k++)
                if (strcmp(ledger_batch_entry(b, k)->source_id, id) == 0) {
                    assert_null(y);
                    y = ledger_batch_entry(b, k);
                }
            assert_non_null(y);
            assert_int_equal(x->tags.count, y->tags.count);
            for (size_t t = 0; t < x->tags.count; t++)
                assert_string_equal(x->tags.items[t], y->tags.items[t]);
            assert_int_equal(x->annotations.count, y->annotations.count);
            for (size_t t = 0; t < x->annotations.count; t++)
                assert_string_equal(x->annotations.items[t].value, y->annotations.items[t].value);
        }
        ledger_batch_destroy(&a);
        ledger_batch_destroy(&b);
    }
}

/* Appends, and changes of entries that are there, whoever has carried them. */
static void write_round(ledger_store *source, int round)
{
    int64_t first, last;
    char value[16];
    write_some(source, round * 100, 20);
    snprintf(value, sizeof value, "v%d", round);
    last = tst_query_int_on(source, "SELECT max(id) FROM " T);
    first = tst_query_int_on(source, "SELECT min(id) FROM " T);
    for (int64_t id = last; id >= first; id -= 7) {
        const char *stream =
            tst_query_int_on(source, "SELECT count(*) FROM " T " WHERE id = %lld AND stream = 'a'",
                             (long long)id)
                ? "a"
                : "b";
        if (!tst_query_int_on(source, "SELECT count(*) FROM " T " WHERE id = %lld", (long long)id))
            continue;
        tst_tag(source, stream, id, value);
        tst_annotate(source, stream, id, "k", value);
    }
    (void)tst_trim(source, "a",
                   tst_query_int_on(source, "SELECT min(id) FROM " T " WHERE stream = 'a'") + 4);
}

static void f2_turns(void **state)
{
    struct tst_env *env = *state;
    for (int ours_first = 0; ours_first < 2; ours_first++)
        EACH_DATABASE(env, kind)
        {
            ledger_store *source, *sink;
            open_pair(env, kind, &source, &sink);
            for (int round = 0; round < 6; round++) {
                write_round(source, round);
                if (round % 2 == !ours_first) {
                    (void)tst_bridge_once(source, sink, NULL);
                    exactly_equal(source, sink);
                    assert_int_equal(count(sink, "source_id = ''"), 0);
                } else {
                    assert_int_equal(tst_go_bridge(source, sink, "default"), 0);
                }
                same_content(source, sink);
            }
            (void)tst_bridge_once(source, sink, NULL);
            exactly_equal(source, sink);
        }
}

/* Its rows have no number of their own that Go could take for the other's. */
static void f2_a_second_source_leaves_source_id_empty(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source, *sink, *second = tst_open(env, kind, "second");
        ledger_bridge_options options;
        open_pair(env, kind, &source, &sink);
        tst_bridge_options(&options);
        options.name = "second";
        write_some(source, 0, 10);
        (void)tst_bridge_once(source, sink, NULL);
        for (int i = 0; i < 12; i++)
            (void)tst_append(second, "c", "[1]", NULL, NULL);
        (void)tst_bridge_once(second, sink, &options);
        assert_int_equal(count(sink, "origin = 1 AND source_id = CAST(source_pos AS TEXT)"), 10);
        assert_int_equal(count(sink, "origin = 2 AND source_id = ''"), 12);
        write_round(source, 1);
        assert_int_equal(tst_go_bridge(source, sink, "default"), 0);
        tst_tag(second, "c", 3, "x");
        (void)tst_bridge_once(second, sink, &options);
        write_round(source, 2);
        (void)tst_bridge_once(source, sink, NULL);
        exactly_equal(source, sink);
        tst_assert_equal(second, sink, TST_CMP_OWN | TST_CMP_ANY_TIME);
    }
}

/* Carried before a Go program opened the table; then it lacks its index no more. */
static void f2_entries_of_before_get_their_source_id(void **state)
{
    struct tst_env *env = *state;
    for (int by_init = 0; by_init < 2; by_init++)
        EACH_DATABASE(env, kind)
        {
            ledger_store *source = tst_open(env, kind, "source");
            ledger_store *sink = tst_open(env, plain(kind), "sink");
            write_some(source, 0, 30);
            (void)tst_bridge_once(source, sink, NULL);
            assert_int_equal(count(sink, "source_id != ''"), 0);
            tst_go_open(sink);
            if (by_init)
                (void)tst_open(env, plain(kind), "sink");
            else
                (void)tst_bridge_once(source, sink, NULL);
            assert_int_equal(count(sink, "source_id = CAST(source_pos AS TEXT)"), 30);
            write_round(source, 1);
            assert_int_equal(tst_go_bridge(source, sink, "default"), 0);
            (void)tst_bridge_once(source, sink, NULL);
            exactly_equal(source, sink);
        }
}

/* In bulk, by workers, and where a parked event is tried again. */
static void f2_every_way_in_writes_source_id(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source, *sink;
        ledger_bridge_options options;
        ledger_error err = { 0 };
        uint64_t applied = 0, left = 0;
        open_pair(env, kind, &source, &sink);
        write_some(source, 0, 300);
        (void)tst_append(source, "a", "[1]", "k", "t");
        (void)tst_bridge_once(source, sink, NULL);
        tst_bridge_options(&options);
        options.parallel_streams = 3;
        write_some(source, 300, 50);
        (void)tst_bridge_once(source, sink, &options);
        tst_refuse(sink, "a");
        write_some(source, 400, 4);
        (void)tst_append(source, "a", "[1]", "k", "t"); /* a key that is there: op by op */
        write_some(source, 404, 4);
        (void)tst_bridge_once(source, sink, NULL);
        tst_refuse(sink, NULL);
        tst_ok(ledger_bridge_parked_retry(source, sink, 0, &applied, &left, &err), &err);
        assert_int_equal(applied, 4);
        assert_int_equal(left, 0);
        assert_int_equal(count(sink, "source_id = CAST(source_pos AS TEXT)"), 359);
        assert_int_equal(count(sink, "true"), 359);
        exactly_equal(source, sink);
    }
}

/* A turn of anybody. True: something was left out that only the whole log brings. In PostgreSQL a
 * Go bridge that was killed in a batch never gets past what it has added already: *stuck. */
static bool random_turn(ledger_store *source, ledger_store *sink, bool *stuck, uint64_t *random)
{
    static const int skips[] = { LEDGER_MUTATION_SET_TAGS, LEDGER_MUTATION_SET_ANNOTATIONS };
    const uint64_t dice = *stuck ? 9 : tst_random_below(random, 10);
    ledger_bridge_options options;
    ledger_error err = { 0 };
    tst_bridge_options(&options);
    if (dice < 3)
        return tst_go_bridge(source, sink, "default") > 0;
    if (dice < 5) {
        tst_go_bridge_killed(source, sink, "default", 1 + tst_random_below(random, 40));
        *stuck = strcmp(ledger_store_backend(sink), "postgres") == 0;
        return true;
    }
    *stuck = false;
    if (dice == 5)
        options.parallel_streams = 4;
    if (dice == 6)
        options.skip_types = 1u << skips[tst_random_below(random, 2)];
    if (dice == 7)
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
    if (dice == 8)
        options.batch_size = options.backlog_batch_size = 1 + (int)tst_random_below(random, 50);
    (void)tst_bridge_once(source, sink, &options);
    return options.skip_types != 0;
}

/* Any turns of any histories, and a second source of ours in the same table. What a killed Go
 * bridge does twice, and what it drops, the whole log puts right once more. */
static void random_turns(void **state)
{
    struct tst_env *env = *state;
    const uint64_t seed = tst_seed();
    for (uint64_t round = 0; round < tst_scale(6); round++)
        EACH_DATABASE(env, kind)
        {
            ledger_store *source, *sink, *second = tst_open(env, kind, "second");
            struct tst_workload w, w2;
            ledger_bridge_options options;
            ledger_error err = { 0 };
            bool left_out = false, stuck = false;
            uint64_t random = seed + round;
            open_pair(env, kind, &source, &sink);
            tst_workload_init(&w, tst_random(&random));
            tst_workload_init(&w2, tst_random(&random));
            w.small = w2.small = w2.no_dedup = true;
            w2.prefix = "c";
            tst_bridge_options(&options);
            options.name = "second";
            for (int turn = 0; turn < 8; turn++) {
                tst_workload_run(&w, source, 25);
                left_out = random_turn(source, sink, &stuck, &random) || left_out;
                if (turn % 3 != 1)
                    continue;
                tst_workload_run(&w2, second, 10);
                (void)tst_bridge_once(second, sink, &options);
            }
            (void)tst_bridge_once(source, sink, NULL);
            if (left_out) {
                tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
                (void)tst_bridge_once(source, sink, NULL);
            }
            exactly_equal(source, sink);
            tst_assert_equal(second, sink, TST_CMP_OWN | TST_CMP_ANY_TIME);
            assert_int_equal(count(sink, "origin = 0"), 0);
        }
}

/* --- both at once ---------------------------------------------------------------------------- */

static void f2_a_foreign_hand_on_the_cursor(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source, *sink;
        ledger_error err;
        open_pair(env, kind, &source, &sink);
        write_some(source, 0, 10);
        ledger_bridge *bridge = tst_bridge(source, sink, NULL);
        tst_ok(poll(bridge, &err), &err);
        write_some(source, 10, 10);
        (void)tst_go_bridge(source, sink, "default");
        write_some(source, 20, 10);
        tst_fails(poll(bridge, &err), LEDGER_ERR_FOREIGN_BRIDGE, &err);
        assert_int_equal(ledger_rc_exit_code(LEDGER_ERR_FOREIGN_BRIDGE), 78);
        ledger_bridge_destroy(&bridge);
        assert_int_equal(count(sink, "true"), 20);
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(count(sink, "true"), 30);
        exactly_equal(source, sink);
    }
}

/* Go adds its entries first and moves its cursor afterwards. */
static void f2_entries_of_a_foreign_hand(void **state)
{
    struct tst_env *env = *state;
    for (int at_once = 0; at_once < 2; at_once++)
        EACH_DATABASE(env, kind)
        {
            ledger_store *source, *sink;
            ledger_error err;
            open_pair(env, kind, &source, &sink);
            write_some(source, 0, 10);
            ledger_bridge *bridge = tst_bridge(source, sink, NULL);
            tst_ok(poll(bridge, &err), &err);
            write_some(source, 10, 10);
            tst_go_bridge_killed(source, sink, "default", 6);
            if (at_once) {
                tst_fails(poll(bridge, &err), LEDGER_ERR_FOREIGN_BRIDGE, &err);
                assert_non_null(strstr(err.message, "Stop the Go bridge"));
            }
            ledger_bridge_destroy(&bridge);
            (void)tst_bridge_once(source, sink, NULL);
            assert_int_equal(count(sink, "true"), 20);
            exactly_equal(source, sink);
        }
}

/* A row with this number that is another entry's, of whoever wrote it: ours is no less carried. */
static void f2_a_number_that_is_taken(void **state)
{
    struct tst_env *env = *state;
    EACH_DATABASE(env, kind)
    {
        ledger_store *source, *sink;
        open_pair(env, kind, &source, &sink);
        write_some(source, 0, 10);
        (void)tst_bridge_once(source, sink, NULL);
        for (int i = 11; i < 14; i++)
            tst_exec_on(sink,
                        "INSERT INTO " T " (stream, payload, source_id) SELECT '%s', payload, "
                        "'%d' FROM " T " WHERE source_pos = 1",
                        i == 12 ? "z" : "a", i);
        write_some(source, 10, 10);
        (void)tst_bridge_once(source, sink, NULL);
        assert_int_equal(count(sink, "origin != 0 AND source_id = ''"), 3);
        assert_int_equal(count(sink, "origin != 0"), 20);
        exactly_equal(source, sink);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
#undef T
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(f3_a_go_bridge_behind_ours_trims),
        T(f9_the_readable_position_never_goes_back),
        T(f1_a_cursor_of_another_name),
        T(f1_what_go_carried_from_another_source),
        T(f1_numbers_that_the_source_does_not_have),
        T(f1_a_cursor_that_is_set_first),
        T(f1_two_go_bridges_into_one_table),
        T(f1_verify_counts_doubles),
        T(f2_turns),
        T(random_turns),
        T(f2_a_second_source_leaves_source_id_empty),
        T(f2_entries_of_before_get_their_source_id),
        T(f2_every_way_in_writes_source_id),
        T(f2_a_foreign_hand_on_the_cursor),
        T(f2_entries_of_a_foreign_hand),
        T(f2_a_number_that_is_taken),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("go_bridge", tests, NULL, NULL);
}
