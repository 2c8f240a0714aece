/* Two handles of one sink, as a bridge has them while two batches are under way. */
#include "base/error.h"
#include "sink.h"

/* What the other handle's batch does meanwhile. */
struct watch {
    struct sink *sink;
    size_t reserved, awaited;
    ledger_rc give;                /* what became of it */
    const struct ldg_cursor *move; /* somebody sets the cursor; NULL: nobody */
};

static void ids_reserved(void *ctx)
{
    struct watch *watch = ctx;
    assert_int_equal(watch->reserved++, 0);
    assert_int_equal(watch->awaited, 0);
}

static ledger_rc await_commit_order(void *ctx, ledger_error *err)
{
    struct watch *watch = ctx;
    assert_int_equal(watch->awaited++, 0);
    if (watch->move != NULL) {
        ledger_store *other = conf_open(watch->sink->env, "sink");
        ok_at(ldg_store_cursor_set(other, "c", NULL, watch->move, err), err, "cursor_set", __FILE__,
              __LINE__);
        conf_close(watch->sink->env, other);
    }
    if (watch->give != LEDGER_OK)
        return ldg_fail(err, watch->give, "the batch before was not committed");
    return LEDGER_OK;
}

/* The batch that was made up, begun while another one is under way. */
static ledger_rc overlapped(struct sink *sink, struct watch *watch, ledger_error *err)
{
    struct ldg_cursor next = { .moved_at_us = SINK_TIME_US };
    snprintf(next.state, sizeof(next.state), "state %lld", (long long)sink->position);
    snprintf(next.readable, sizeof(next.readable), "%019lld", (long long)sink->position);
    const struct ldg_apply apply = { .name = "c",
                                     .expected = &sink->cursor,
                                     .next = &next,
                                     .ops = sink->ops,
                                     .count = sink->count,
                                     .await_commit_order = await_commit_order,
                                     .ids_reserved = ids_reserved,
                                     .overlap_ctx = watch };
    watch->sink = sink;
    watch->reserved = watch->awaited = 0;
    memset(sink->outcomes, 0xff, sizeof(sink->outcomes));
    const ledger_rc rc = ldg_store_apply(sink->store, &apply, sink->outcomes, err);
    if (rc == LEDGER_OK)
        sink->cursor = next;
    sink->count = 0;
    return rc;
}

static void a_batch_waits_for_the_one_before(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    struct watch watch = { 0 };
    ledger_error err;
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_run(sink);
    for (int64_t i = 2; i < 4; i++) {
        sink_append(sink, sink->a, i, "s", i == 2 ? "2" : "3", NULL);
        ok(overlapped(sink, &watch, &err));
        assert_int_equal(watch.awaited, 1);
        sink_is(sink, "a");
    }
    /* The one before fails: this one does not count, and comes again as it is. */
    watch.give = LEDGER_ERR_FENCED;
    sink_append(sink, sink->a, 4, "s", "4", NULL);
    fails(overlapped(sink, &watch, &err), FENCED);
    assert_int_equal(watch.awaited, 1);
    assert_int_equal(sink->outcomes[0], 0xff);
    watch.give = LEDGER_OK;
    sink->position--;
    sink_append(sink, sink->a, 4, "s", "4", NULL);
    sink_append(sink, sink->a, 5, "s", "5", NULL);
    ok(overlapped(sink, &watch, &err));
    sink_holds(sink, "s", "1 2 3 4 5");
    /* The fence is looked at behind it. */
    struct ldg_cursor moved = sink->cursor;
    moved.state[0] = 'x';
    watch.move = &moved;
    sink_append(sink, sink->a, 6, "s", "6", NULL);
    fails(overlapped(sink, &watch, &err), FENCED);
    assert_int_equal(watch.awaited, 1);
}

/* Of what one handle knows of the table nothing is true any more once the other was at work. */
static void a_late_entry_of_the_other_is_trimmed(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    ledger_store *first = sink->store, *second = NULL;
    struct ldg_op *trim;
    ledger_error err;
    ok(ldg_store_reopen(first, LDG_ROLE_SINK, NULL, &second, &err));
    conf_keep(env, second);
    sink_append(sink, sink->a, 5, "s", "5", NULL);
    sink_run(sink);
    trim = sink_trim(sink, sink->a, 5, "s");
    assert_int_equal(trim->survivor_count, 0);
    sink_run(sink);
    sink_holds(sink, "s", "");
    sink->store = second;
    sink_append(sink, sink->a, 3, "s", "3", NULL);
    sink_append(sink, sink->a, 7, "s", "7", NULL);
    sink_run(sink);
    sink_holds(sink, "s", "3 7");
    sink->store = first;
    sink_trim(sink, sink->a, 6, "s");
    sink_run(sink);
    sink_holds(sink, "s", "7");
}

/* Where a batch is no transaction, what fails may have brought an entry that the next batch finds
 * here, below what this handle has trimmed before. */
static void a_late_entry_of_a_batch_that_failed_is_trimmed(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    struct watch watch = { .give = LEDGER_ERR_FENCED };
    ledger_store *first = sink->store, *second = NULL;
    ledger_error err;
    ok(ldg_store_reopen(first, LDG_ROLE_SINK, NULL, &second, &err));
    conf_keep(env, second);
    sink_append(sink, sink->a, 5, "s", "5", NULL);
    sink_run(sink);
    sink->store = second;
    sink_append(sink, sink->a, 7, "s", "7", NULL);
    sink_run(sink);
    sink->store = first;
    sink_trim(sink, sink->a, 6, "s");
    sink_run(sink);
    sink->store = second;
    sink_append(sink, sink->a, 3, "s", "3", NULL);
    fails(overlapped(sink, &watch, &err), FENCED);
    sink->store = first;
    sink->position--;
    sink_append(sink, sink->a, 3, "s", "3", NULL);
    sink_trim(sink, sink->a, 6, "s");
    sink_park(sink, 9, "t", "so that it looks what is here");
    sink_run(sink);
    sink_holds(sink, "s", "7");
}

#define SINK (LDG_CAP_TX_CURSOR | LDG_CAP_ORIGINS)
const struct conf_case conf_handle_cases[] = {
    { "a batch waits for the one before", a_batch_waits_for_the_one_before,
      SINK | LDG_CAP_OVERLAP_APPLY, 0, .alone = true },
    { "a late entry of the other is trimmed", a_late_entry_of_the_other_is_trimmed,
      SINK | LDG_CAP_TRIM, 0, .alone = true },
    { "a late entry of a batch that failed is trimmed",
      a_late_entry_of_a_batch_that_failed_is_trimmed,
      SINK | LDG_CAP_TRIM | LDG_CAP_PARK | LDG_CAP_OVERLAP_APPLY, 0, .alone = true },
};
const size_t conf_handle_case_count = sizeof(conf_handle_cases) / sizeof(conf_handle_cases[0]);
