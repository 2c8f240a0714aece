/* The n-th call of libpq goes wrong, for all n: cut before and after, out of memory, a result that
 * makes no sense, any transient SQLSTATE. A bridge goes on by itself, nothing is parked, and the
 * sink equals the source; a store's call has done what its result says. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "oracle.h"
#include "pg_script.h"
#include "pg_server.h"
#include "workload.h"

static const char *const sqlstates[] = {
    "40001", "40P01", "55P03", "57014", "53100", "53200", "53300", "53400", "57P01", "57P02",
    "57P03", "57P05", "08006", "08P01", "58000", "58030", "55006", "25006", "25P03",
};

static const char *fault_name(enum tst_pq_fault fault)
{
    static const char *const names[] = { "cut before", "cut after", "out of memory", "wrong status",
                                         "SQLSTATE" };
    return names[fault];
}

/* One row of a few events of each kind. */
static void write_some(ledger_store *source, uint64_t n)
{
    char key[32];
    snprintf(key, sizeof key, "k%" PRIu64, n);
    int64_t id = tst_append(source, n % 3 ? "a" : "b", "{\"n\": 1.50}", key, "x");
    tst_append(source, "c", "[]", NULL, NULL);
    if (n % 2)
        tst_tag(source, n % 3 ? "a" : "b", id, "y");
    else
        tst_annotate(source, n % 3 ? "a" : "b", id, "k", "v");
    if (n % 8 == 0)
        (void)tst_trim(source, "c", id - 4);
}

/* Polls until nothing is left; after the fault no more than a few errors, each to be retried. */
static size_t carry(ledger_store *source, ledger_store *sink, enum tst_pq_fault fault, uint64_t n)
{
    ledger_bridge *bridge = NULL;
    ledger_bridge_options o;
    size_t errors = 0;
    uint64_t read = 1;
    tst_bridge_options(&o);
    while (read > 0) {
        ledger_error err = { 0 };
        ledger_rc rc = LEDGER_OK;
        if (bridge == NULL)
            rc = ledger_bridge_create(source, sink, &o, &bridge, &err);
        if (rc == LEDGER_OK)
            rc = ledger_bridge_poll(bridge, &read, &err);
        if (bridge != NULL)
            tst_check_counters(bridge);
        if (rc == LEDGER_OK)
            continue;
        if (err.code != rc || err.message[0] == '\0')
            tst_fail("%s without a proper error", ledger_rc_name(rc));
        /* A result that makes no sense is a fault of the program, and it may say so. */
        if (!(err.flags & LEDGER_ERROR_RETRY) && fault != TST_PQ_STATUS)
            tst_fail("%s at call %" PRIu64 ", %s: would end the bridge: %s: %s", fault_name(fault),
                     n, tst_pq_hit_at(), ledger_rc_name(rc), err.message);
        if (++errors > 8)
            tst_fail("%s at call %" PRIu64 ", %s: no way through: %s: %s", fault_name(fault), n,
                     tst_pq_hit_at(), ledger_rc_name(rc), err.message);
        read = 1;
    }
    ledger_bridge_destroy(&bridge);
    return errors;
}

/* Every call where the connection is cut; of the other faults, and in a slow run, some by chance.
 */
static uint64_t next_n(uint64_t n, enum tst_pq_fault fault, uint64_t *random)
{
    bool all = fault == TST_PQ_CUT && tst_scale(100) >= 100;
    return n + 1 + (all || n < tst_scale(30) ? 0 : tst_random_below(random, 2 + n / 6));
}

static void each_call_of_a_bridge(struct tst_env *env, enum tst_pq_fault fault)
{
    static const enum tst_kind pairs[][2] = { { TST_POSTGRES, TST_MEMORY },
                                              { TST_MEMORY, TST_POSTGRES },
                                              { TST_MEMORY, TST_PLAIN_POSTGRES } };
    tst_pg_require();
    for (size_t p = 0; p < sizeof pairs / sizeof pairs[0]; p++, tst_env_reset(env)) {
        ledger_store *source = tst_open(env, pairs[p][0], "source");
        ledger_store *sink = tst_open(env, pairs[p][1], "sink");
        bool hit = true;
        size_t hits = 0, errors = 0;
        uint64_t random = tst_seed(), last = 0;
        if (!tst_note_pair(pairs[p][0], pairs[p][1]))
            continue;
        for (uint64_t n = 1; hit; last = n, n = next_n(n, fault, &random)) {
            ledger_error err = { 0 };
            ledger_bridge_status status;
            write_some(source, hits + 1);
            tst_pq_arm(NULL, n, fault, sqlstates[n % (sizeof sqlstates / sizeof sqlstates[0])]);
            errors += carry(source, sink, fault, n);
            hit = tst_pq_hit();
            hits += hit;
            tst_pq_disarm();
            tst_ok(ledger_bridge_status_get(source, sink, NULL, &status, &err), &err);
            if (status.parked_count != 0 || status.backlog_count != 0)
                tst_fail("%s at call %" PRIu64 ", %s: %" PRIu64 " parked, backlog %" PRIu64,
                         fault_name(fault), n, tst_pq_hit_at(), status.parked_count,
                         status.backlog_count);
            if (hits % 16 == 0 || !hit)
                tst_assert_equal(source, sink, 0);
        }
        assert_true(hits > 5);
        print_message("%s -> %s, %s: %zu of %" PRIu64 " calls went wrong, %zu errors\n",
                      tst_kind_name(pairs[p][0]), tst_kind_name(pairs[p][1]), fault_name(fault),
                      hits, last, errors);
    }
    (void)tst_pairs_done();
}

static void bridge_cut_before_each_call(void **state)
{
    each_call_of_a_bridge(*state, TST_PQ_CUT);
}

static void bridge_cut_after_each_call(void **state)
{
    each_call_of_a_bridge(*state, TST_PQ_CUT_AFTER);
}

static void bridge_without_memory_at_each_call(void **state)
{
    each_call_of_a_bridge(*state, TST_PQ_FAIL);
}

static void bridge_with_each_result_wrong(void **state)
{
    each_call_of_a_bridge(*state, TST_PQ_STATUS);
}

static void bridge_with_each_statement_refused(void **state)
{
    each_call_of_a_bridge(*state, TST_PQ_SQLSTATE);
}

/* --- the calls of a store ----------------------------------------------------------------------
 */

enum verb { APPEND, SET_TAGS, ANNOTATE, TRIM, IN_TRANSACTION, READ, SEARCH, STAT, LIST, VERBS };

static ledger_rc call(ledger_store *store, enum verb verb, int64_t id, ledger_error *err)
{
    const char *tag = "t";
    ledger_pair pair = { "k", "v" };
    ledger_append_input input = { .payload = { "{}", 2 } };
    ledger_read_options options = { .size = sizeof(options), .limit = 10 };
    ledger_batch *batch = NULL;
    ledger_names names = { 0 };
    ledger_stream_stat stat;
    ledger_rc rc;
    switch (verb) {
    case APPEND:
        return ledger_store_append(store, "s", &input, 1, NULL, err);
    case SET_TAGS:
        return ledger_store_set_tags(store, "s", (ledger_id){ .number = id },
                                     (ledger_list){ &tag, 1 }, err);
    case ANNOTATE:
        return ledger_store_set_annotations(store, "s", (ledger_id){ .number = id },
                                            (ledger_map){ &pair, 1 }, err);
    case TRIM:
        return ledger_store_trim(store, "gone", (ledger_id){ .number = id }, NULL, err);
    case IN_TRANSACTION:
        rc = ledger_store_begin(store, err);
        if (rc == LEDGER_OK)
            rc = ledger_store_append(store, "s", &input, 1, NULL, err);
        if (rc == LEDGER_OK)
            rc = ledger_store_append(store, "s", &input, 1, NULL, err);
        if (rc == LEDGER_OK)
            return ledger_store_commit(store, err);
        ledger_error ignored = { 0 };
        (void)!ledger_store_rollback(store, &ignored);
        return rc;
    case READ:
    case SEARCH:
        rc = verb == READ ? ledger_store_read(store, "s", &options, &batch, err)
                          : ledger_store_search(store, "s", "x", &options, &batch, err);
        ledger_batch_destroy(&batch);
        return rc;
    case STAT:
        return ledger_store_stat(store, "s", &stat, err);
    default:
        rc = ledger_store_list_streams(store, NULL, 10, &names, err);
        ledger_names_destroy(&names);
        return rc;
    }
}

static void each_call_of_a_store(struct tst_env *env, enum tst_pq_fault fault)
{
    tst_pg_require();
    ledger_store *store = tst_open(env, TST_POSTGRES, "store");
    int64_t id = tst_append(store, "s", "{}", NULL, NULL);
    for (int verb = 0; verb < VERBS; verb++) {
        bool hit = true;
        for (uint64_t n = 1; hit; n++) {
            ledger_error err = { 0 };
            int64_t before =
                tst_query_int_on(store, "SELECT count(*) FROM ledger_entries_mutations");
            tst_pq_arm(NULL, n, fault, sqlstates[n % (sizeof sqlstates / sizeof sqlstates[0])]);
            ledger_rc rc = call(store, (enum verb)verb, id, &err);
            hit = tst_pq_hit();
            tst_pq_disarm();
            int64_t written =
                tst_query_int_on(store, "SELECT count(*) FROM ledger_entries_mutations") - before;
            int64_t whole = verb == IN_TRANSACTION ? 2 : verb <= ANNOTATE ? 1 : 0;
            /* EMPTY_QUERY in place of the result that says it was done: what can be known? */
            bool may_lie = rc == LEDGER_ERR_UNKNOWN_OUTCOME || fault == TST_PQ_STATUS ||
                           (fault == TST_PQ_FAIL && rc != LEDGER_OK);
            if (verb == TRIM)
                whole = written > 0; /* an event although nothing was there: as the store does it */
            if (written != 0 && written != whole)
                tst_fail("verb %d, %s at call %" PRIu64 ", %s: half was written", verb,
                         fault_name(fault), n, tst_pq_hit_at());
            if (!may_lie && written != (rc == LEDGER_OK ? whole : 0))
                tst_fail("verb %d, %s at call %" PRIu64 ", %s: %s: %s, but %" PRId64
                         " events were written",
                         verb, fault_name(fault), n, tst_pq_hit_at(), ledger_rc_name(rc),
                         err.message, written);
            if (rc != LEDGER_OK && (err.code != rc || err.message[0] == '\0'))
                tst_fail("verb %d: %s without a proper error", verb, ledger_rc_name(rc));
            /* The handle is as good as new. */
            ledger_rc again = ledger_store_health(store, &err);
            if (again != LEDGER_OK)
                tst_fail("verb %d, %s at call %" PRIu64 ", %s: the next call: %s: %s", verb,
                         fault_name(fault), n, tst_pq_hit_at(), ledger_rc_name(again), err.message);
        }
    }
    tst_assert_log_agrees(store);
}

static void store_cut_before_each_call(void **state)
{
    each_call_of_a_store(*state, TST_PQ_CUT);
}

static void store_cut_after_each_call(void **state)
{
    each_call_of_a_store(*state, TST_PQ_CUT_AFTER);
}

static void store_without_memory_at_each_call(void **state)
{
    each_call_of_a_store(*state, TST_PQ_FAIL);
}

static void store_with_each_result_wrong(void **state)
{
    each_call_of_a_store(*state, TST_PQ_STATUS);
}

static void store_with_each_statement_refused(void **state)
{
    each_call_of_a_store(*state, TST_PQ_SQLSTATE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(store_cut_before_each_call),        T(store_cut_after_each_call),
        T(store_without_memory_at_each_call), T(store_with_each_result_wrong),
        T(store_with_each_statement_refused), T(bridge_cut_before_each_call),
        T(bridge_cut_after_each_call),        T(bridge_without_memory_at_each_call),
        T(bridge_with_each_result_wrong),     T(bridge_with_each_statement_refused),
    };
    return cmocka_run_group_tests_name("libpq by script", tests, NULL, NULL);
}
