/* The cursor of a source whose transactions overlap, and of one that has moved to another cluster:
 * what commits late is carried, and nothing is passed over. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"
#include "memory_faults.h"
#include "oracle.h"

static const char *memory_name(const ledger_store *store)
{
    return ledger_store_url(store) + strlen("memory:");
}

static ledger_bridge_status status_of(ledger_store *source, ledger_store *sink)
{
    ledger_bridge_status status;
    ledger_error err = { 0 };
    tst_ok(ledger_bridge_status_get(source, sink, "default", &status, &err), &err);
    return status;
}

struct late {
    ledger_store *source, *sink, *writer;
};

/* A transaction that draws its position before others commit, and has not committed itself. */
static struct late late_begin(struct tst_env *env, enum tst_kind to)
{
    struct late late = { .source = tst_open(env, TST_MEMORY, "source"),
                         .sink = tst_open(env, to, "sink"),
                         .writer = tst_open(env, TST_MEMORY, "source") };
    ledger_error err = { 0 };
    for (int i = 0; i < 3; i++)
        tst_append(late.source, "s", "1", NULL, NULL);
    tst_ok(ledger_store_begin(late.writer, &err), &err);
    tst_append(late.writer, "late", "2", NULL, NULL);
    for (int i = 0; i < 3; i++)
        tst_append(late.source, "s", "3", NULL, NULL);
    assert_int_equal(tst_bridge_once(late.source, late.sink, NULL), 6);
    return late;
}

static void late_commit(struct late *late)
{
    ledger_error err = { 0 };
    tst_ok(ledger_store_commit(late->writer, &err), &err);
}

static void what_commits_late_is_backlog(void **state)
{
    struct tst_env *env = *state;
    struct late late = late_begin(env, TST_MEMORY);
    ledger_verify_result result;
    ledger_verify_options v;
    ledger_error err = { 0 };
    assert_int_equal(status_of(late.source, late.sink).backlog_count, 0);
    late_commit(&late);
    /* The position stands at the head, and yet it has not caught up. */
    ledger_bridge_status status = status_of(late.source, late.sink);
    assert_string_equal(status.position, status.head);
    assert_int_equal(status.backlog_count, 1);
    assert_true(status.lag_seconds > 0);
    ledger_verify_options_defaults(&v);
    tst_ok(ledger_bridge_verify(late.source, late.sink, &v, &result, &err), &err);
    assert_int_equal(result.difference_count, 0);
    assert_int_equal(result.pending_count, 1);
    assert_int_equal(tst_bridge_once(late.source, late.sink, NULL), 1);
    assert_int_equal(status_of(late.source, late.sink).backlog_count, 0);
    tst_assert_equal(late.source, late.sink, TST_CMP_ANY_ORDER);
}

/* Going back to a position that lies behind a late row goes back before that row. */
static void going_back_passes_over_nothing(void **state)
{
    struct tst_env *env = *state;
    for (int by_hand = 0; by_hand < 2; by_hand++, tst_env_reset(env)) {
        struct late late = late_begin(env, TST_SQLITE);
        ledger_error err = { 0 };
        late_commit(&late);
        if (by_hand) {
            sqlite3 *db = tst_sqlite(late.sink);
            tst_exec(db, "UPDATE ledger_entries_cursors SET cursor = '0000000000000000006'");
            assert_int_equal(sqlite3_close(db), SQLITE_OK);
        } else {
            tst_ok(ledger_bridge_cursor_set(late.source, late.sink, "default", "6", false, &err),
                   &err);
        }
        assert_true(tst_bridge_once(late.source, late.sink, NULL) >= 2);
        tst_assert_equal(late.source, late.sink, TST_CMP_ANY_ORDER);
    }
}

/* A skip that is asked for leaves it out, as it leaves out all the rest. */
static void a_skip_leaves_out_what_is_there(void **state)
{
    struct tst_env *env = *state;
    struct late late = late_begin(env, TST_MEMORY);
    ledger_error err = { 0 };
    char head[LEDGER_ID_TEXT_MAX];
    late_commit(&late);
    tst_append(late.source, "s", "4", NULL, NULL);
    memcpy(head, status_of(late.source, late.sink).head, sizeof head);
    tst_fails(ledger_bridge_cursor_set(late.source, late.sink, "default", head, false, &err),
              LEDGER_ERR_INVALID, &err);
    tst_ok(ledger_bridge_cursor_set(late.source, late.sink, "default", head, true, &err), &err);
    assert_int_equal(tst_bridge_once(late.source, late.sink, NULL), 0);
}

/* --- another cluster ------------------------------------------------------------------------- */

static void poll_fails(ledger_store *source, ledger_store *sink, ledger_rc want)
{
    ledger_error err = { 0 };
    uint64_t read;
    ledger_bridge *bridge = tst_bridge(source, sink, NULL);
    tst_fails(ledger_bridge_poll(bridge, &read, &err), want, &err);
    if (want == LEDGER_ERR_CURSOR_MISMATCH)
        assert_non_null(strstr(err.message, "bridge cursor acknowledge"));
    ledger_bridge_destroy(&bridge);
}

static void acknowledge_goes_on_in_another_cluster(void **state)
{
    struct tst_env *env = *state;
    for (int commit_first = 0; commit_first < 2; commit_first++, tst_env_reset(env)) {
        struct late late = late_begin(env, TST_MEMORY);
        ledger_error err = { 0 };
        bool changed = true;
        tst_ok(ledger_bridge_cursor_acknowledge(late.source, late.sink, NULL, &changed, &err),
               &err);
        assert_false(changed);
        if (commit_first)
            late_commit(&late);
        tst_append(late.source, "s", "5", NULL, NULL);
        assert_int_equal(ldg_memory_move(memory_name(late.source)), LEDGER_OK);
        poll_fails(late.source, late.sink, LEDGER_ERR_CURSOR_MISMATCH);
        tst_ok(ledger_bridge_cursor_acknowledge(late.source, late.sink, NULL, &changed, &err),
               &err);
        assert_true(changed);
        if (!commit_first)
            late_commit(&late);
        assert_true(tst_bridge_once(late.source, late.sink, NULL) >= 2);
        tst_assert_equal(late.source, late.sink, TST_CMP_ANY_ORDER);
        tst_ok(ledger_bridge_cursor_acknowledge(late.source, late.sink, NULL, &changed, &err),
               &err);
        assert_false(changed);
    }
}

static void acknowledge_refuses_what_is_not_a_move(void **state)
{
    struct tst_env *env = *state;
    struct late late = late_begin(env, TST_MEMORY);
    ledger_store *other = tst_open(env, TST_MEMORY, "other");
    ledger_store *file = tst_open(env, TST_SQLITE, "file");
    ledger_error err = { 0 };
    bool changed = true;
    tst_fails(ledger_bridge_cursor_acknowledge(late.source, late.sink, "none", &changed, &err),
              LEDGER_ERR_NOT_FOUND, &err);
    tst_fails(ledger_bridge_cursor_acknowledge(other, late.sink, NULL, &changed, &err),
              LEDGER_ERR_CURSOR_MISMATCH, &err);
    tst_fails(ledger_bridge_cursor_acknowledge(NULL, late.sink, NULL, &changed, &err),
              LEDGER_ERR_INVALID, &err);

    /* The last row that was carried did not come along. */
    assert_int_equal(ldg_memory_move(memory_name(late.source)), LEDGER_OK);
    assert_int_equal(ldg_memory_log_damage(memory_name(late.source), "ledger_entries_mutations", 7),
                     LEDGER_OK);
    tst_fails(ledger_bridge_cursor_acknowledge(late.source, late.sink, NULL, &changed, &err),
              LEDGER_ERR_SOURCE_REWOUND, &err);
    assert_true(changed);

    /* A kind of source that does not move. */
    tst_append(file, "s", "1", NULL, NULL);
    ledger_store *sink = tst_open(env, TST_MEMORY, "file-sink");
    (void)tst_bridge_once(file, sink, NULL);
    tst_ok(ledger_bridge_cursor_acknowledge(file, sink, NULL, &changed, NULL), NULL);
    assert_false(changed);
    ledger_store *file2 = tst_open(env, TST_SQLITE, "file2");
    tst_fails(ledger_bridge_cursor_acknowledge(file2, sink, NULL, &changed, &err),
              LEDGER_ERR_CURSOR_MISMATCH, &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)
        T(what_commits_late_is_backlog),           T(going_back_passes_over_nothing),
        T(a_skip_leaves_out_what_is_there),        T(acknowledge_goes_on_in_another_cluster),
        T(acknowledge_refuses_what_is_not_a_move),
    };
    return cmocka_run_group_tests_name("cursor", tests, NULL, NULL);
}
