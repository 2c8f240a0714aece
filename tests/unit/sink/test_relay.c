/* The sink's own log: one event comes, one goes out. */
#include "ops.h"

/* The events from `first` on as "type stream origin/position entry_origin source_id(id) …". */
static void events_are(size_t first, const char *want)
{
    char got[4096] = "";
    size_t used = 0;

    for (size_t i = first; i < f->now->event_count; i++) {
        ledger_event *event = NULL;
        const ledger_mutation_event *e;

        assert_int_equal(ledger_event_decode(f->now->events[i], &event, &err), LEDGER_OK);
        e = ledger_event_get(event);
        used += (size_t)snprintf(got + used, sizeof(got) - used, "%s%s %s %s/%" PRId64,
                                 i > first ? "; " : "", e->type_name, e->stream, e->origin,
                                 e->origin_pos);
        if (*e->entry_origin != '\0')
            used += (size_t)snprintf(got + used, sizeof(got) - used, " of %s", e->entry_origin);
        if (*e->source_id != '\0')
            used += (size_t)snprintf(got + used, sizeof(got) - used, " %s(%s%s)", e->source_id,
                                     e->entry_id, e->before_id);
        for (size_t k = 0; k < e->entry_count; k++)
            used += (size_t)snprintf(got + used, sizeof(got) - used, " %s(%s)",
                                     e->entries[k].source_id, e->entries[k].id);
        ledger_event_destroy(&event);
    }
    assert_string_equal(got, want);
}

static void each_kind(void **state)
{
    append(A, 41, "s", "1", "");
    append_key(A, txt("forty-two"), "s", "2", "");
    tag(A, 41, "s", "t");
    annotate(A, 41, "s", "k", "v");
    trim(A, 41, "s");
    run(FAKE_OPTIMISTIC, "aaaaa");
    events_are(0, "append s store-1:2/1 41(1); append s store-1:2/2 forty-two(2); "
                  "set_tags s store-1:2/3 41(1); set_annotations s store-1:2/4 41(1); "
                  "trim s store-1:2/5 41(1)");
}

static void what_changes_nothing_writes_none(void **state)
{
    append(A, 1, "s", "1", "k");
    run(FAKE_OPTIMISTIC, "a");
    append(A, 2, "s", "2", "k");
    tag(A, 9, "s", "t");
    trim(A, 0, "s");
    odd(7, "s", "odd");
    trim(A, 7, "t");
    at_position(1);
    append(A, 1, "s", "1", "k");
    f->fail_callback = "log_begin"; /* is not called */
    run(FAKE_OPTIMISTIC, "dmrprr");
    f->fail_callback = NULL;
    f->no_log = true;
    append(A, 3, "s", "3", "");
    run(FAKE_OPTIMISTIC, "a");
    assert_int_equal(f->now->event_count, 1);
    /* parked rows that a trim drops are nothing to whoever reads this log */
    f->no_log = false;
    trim(A, 9, "s")->survivors = (const ledger_id[]){ { .number = 1 }, { .number = 3 } };
    ops[0].survivor_count = 2;
    run(FAKE_OPTIMISTIC, "a");
    assert_int_equal(f->now->event_count, 1);
}

static void an_event_of_several_entries(void **state)
{
    append(A, 2, "s", "2", "k");
    run(FAKE_OPTIMISTIC, "a");
    for (int64_t i = 1; i <= 5; i++) {
        struct ldg_op *op =
            append(A, i, i == 5 ? "t" : "s", i == 2 ? "2" : "1", i == 2 || i == 4 ? "k" : "");

        op->event_index = 7;
        op->position = op->log_position = 10;
    }
    append(A, 6, "s", "6", "")->event_index = 8;
    tag(A, 6, "s", "t")->event_index = 8; /* not one of the append */
    run(FAKE_INFORMED, "aradaaa");
    events_are(1, "append s store-1:2/10 1(2) 3(3); append t store-1:2/10 5(4); "
                  "append s store-1:2/7 6(5); set_tags s store-1:2/8 6(5)");
}

static void an_event_names_who_made_it(void **state)
{
    append(A, 1, "s", "1", "");
    append(C, 5, "s", "5", "");
    tag(C, 5, "s", "t")->mutation_origin = A;
    annotate(C, 5, "s", "k", "v");
    trim(C, 5, "s")->mutation_origin = B;
    append(C, 6, "s", "6", "")->mutation_origin = B;
    run(FAKE_OPTIMISTIC, "aaaaaa");
    events_are(1, "append s store-3:4/2 5(2); set_tags s store-1:2/3 of store-3:4 5(2); "
                  "set_annotations s store-3:4/4 5(2); trim s store-2:3/5 of store-3:4 5(2); "
                  "append s store-2:3/6 of store-3:4 6(3)");
}

static void more_origins_than_at_first(void **state)
{
    for (int origin = 1; origin < FAKE_ORIGINS_MAX; origin++)
        append(origin, 1, "s", "1", "");
    run(FAKE_OPTIMISTIC, "aaaaaaa");
    assert_int_equal(f->now->event_count, 7);
}

static void own_entries_are_changed_by_others(void **state)
{
    ledger_append_entry own = { .payload = { "1", 1 }, .order_key = "", .dedup_key = "" };

    fake_put(f, 0, num(0), "s", &own, TIME_US);
    tag(0, 1, "s", "t")->mutation_origin = A;
    run(FAKE_OPTIMISTIC, "a");
    events_are(0, "set_tags s store-1:2/1 of store-0:1 1(1)");
}

static void a_large_event(void **state)
{
    const size_t size = (size_t)3 * 1024 * 1024;
    char *payload = malloc(size + 1);

    assert_non_null(payload);
    memset(payload, 'x', size);
    payload[0] = payload[size - 1] = '"';
    payload[size] = '\0';
    f->event_max = 4 * size;
    append(A, 1, "s", payload, "");
    append(A, 2, "s", "2", "");
    run(FAKE_OPTIMISTIC, "aa");
    assert_int_equal(f->now->event_count, 2);
    assert_true(f->now->events[0].size > size);
    f->event_max = size / 2;
    append(A, 3, "s", payload, "");
    assert_int_equal(try_batch(FAKE_OPTIMISTIC), LEDGER_ERR_TOO_LARGE);
    assert_int_equal(f->now->row_count, 2);
    free(payload);
}

/* --- the log refuses an event ---------------------------------------------------------------- */

static bool has_no(ledger_bytes event)
{
    return memmem(event.data, event.size, "\"no\"", 4) != NULL;
}

static void a_refused_event_is_parked(void **state)
{
    for (int way = FAKE_OPTIMISTIC; way <= FAKE_INFORMED; way++) {
        const int64_t key = 10 * way;

        f->refuses_event = has_no;
        append(A, key + 1, "s", "1", "");
        append(A, key + 2, "s", "\"no\"", "");
        tag(A, key + 1, "s", "no");
        tag(A, key + 2, "s", "t");
        run((enum fake_way)way, "appp");
        assert_int_equal(f->restarts, 2);
        assert_int_equal(f->rechecks, 1);
    }
    holds("s", "1 1 1");
}

/* Written in one statement, they are refused as one: then each alone. */
static void the_refused_one_is_found(void **state)
{
    f->refuses_event = has_no;
    f->log_at_once = true;
    for (int64_t lost = 0; lost < 2; lost++) {
        f->loses = lost != 0;
        append(A, 10 * lost + 1, "s", "1", "");
        append(A, 10 * lost + 2, "s", "\"no\"", "");
        append(A, 10 * lost + 3, "s", "3", "");
        run(FAKE_OPTIMISTIC, "apa");
        assert_int_equal(f->restarts, 1 + lost);
    }
    holds("s", "1 3 1 3");
    parked_are("2:the event is refused, 5:the event is refused");
    /* one that is refused only with others is nobody's */
    f->loses = false;
    f->refuses_event = NULL;
    f->refuses_end = true;
    append(A, 21, "s", "1", "");
    assert_int_equal(try_batch(FAKE_INFORMED), LEDGER_ERR_REJECTED);
    assert_int_equal(f->now->parked_count, 2);
}

/* A trim is done once more beside the one that is parked, which is not. */
static void a_refused_trim_is_parked(void **state)
{
    for (int at_once = 0; at_once < 2; at_once++) {
        const int64_t key = 10 * at_once;

        f->refuses_event = NULL;
        f->log_at_once = at_once != 0;
        append(A, key + 1, "s", "1", "");
        append(A, key + 2, "no", "2", "");
        run(FAKE_OPTIMISTIC, "aa");
        f->refuses_event = has_no;
        trim(A, key + 1, "s");
        trim(A, key + 2, "no");
        trim(A, key + 2, "s");
        run(FAKE_OPTIMISTIC, "apr");
    }
    holds("s", "");
    holds("no", "2 2");
    parked_are("4:the event is refused, 9:the event is refused");
}

static void or_ends_the_batch(void **state)
{
    f->refuses_event = has_no;
    f->lets_reject = true;
    append(A, 1, "s", "\"no\"", "");
    assert_int_equal(try_batch(FAKE_INFORMED), LEDGER_ERR_REJECTED);
    assert_int_equal(err.done_count, 0);
    assert_int_equal(f->now->row_count, 0);
    f->lets_reject = false;
    append(A, 1, "s", "\"no\"", "");
    run(FAKE_INFORMED, "p");
    at_position(2);
    append(A, 1, "s", "\"no\"", "");
    assert_false(retry_row(0)); /* refused for good */
    assert_int_equal(f->now->row_count, 0);
    parked_are("2:the event is refused");
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(each_kind),
        TEST(what_changes_nothing_writes_none),
        TEST(an_event_of_several_entries),
        TEST(an_event_names_who_made_it),
        TEST(more_origins_than_at_first),
        TEST(own_entries_are_changed_by_others),
        TEST(a_large_event),
        TEST(a_refused_event_is_parked),
        TEST(the_refused_one_is_found),
        TEST(a_refused_trim_is_parked),
        TEST(or_ends_the_batch),
    };

    return cmocka_run_group_tests_name("sink relay", tests, NULL, NULL);
}
