/* Following a store: entries that are committed below others, bounds, filters, the end. */
#include "fixtures.h"

#include "alloc_fail.h"

struct fixture {
    struct tst_env *env;
    ledger_store *store, *writer, *slow; /* handles on one database */
};

static int setup(void **state)
{
    struct fixture *f = test_calloc(1, sizeof(*f));
    void *env = NULL;

    if (tst_setup(&env) != 0)
        return -1;
    f->env = env;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    void *env = f->env;

    test_free(f);
    return tst_teardown(&env);
}

static void open_three(struct fixture *f)
{
    f->store = tst_open(f->env, TST_MEMORY, "a");
    f->writer = tst_open(f->env, TST_MEMORY, "a");
    f->slow = tst_open(f->env, TST_MEMORY, "a");
}

static void begin(ledger_store *store)
{
    ledger_error err = { 0 };
    tst_ok(ledger_store_begin(store, &err), &err);
}

static void commit(ledger_store *store)
{
    ledger_error err = { 0 };
    tst_ok(ledger_store_commit(store, &err), &err);
}

static ledger_tail *open_tail(struct fixture *f, const char *stream, const ledger_read_options *o,
                              bool at_end)
{
    ledger_error err = { 0 };
    ledger_tail *tail = NULL;
    tst_ok(ledger_tail_open(f->store, stream, o, at_end, &tail, &err), &err);
    return tail;
}

/* Ids of the next batch, as "1 2 3". */
static const char *next(ledger_tail *tail)
{
    static char text[512];
    ledger_error err = { 0 };
    ledger_batch *batch = NULL;

    tst_ok(ledger_tail_read(tail, &batch, &err), &err);
    text[0] = '\0';
    for (size_t i = 0; i < ledger_batch_count(batch); i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%lld", i ? " " : "",
                 (long long)ledger_batch_entry(batch, i)->id.number);
    ledger_batch_destroy(&batch);
    return text;
}

static void check_plain(struct fixture *f)
{
    const ledger_read_options after = { .size = sizeof(after),
                                        .has_after = true,
                                        .after = { .number = 2 } };
    const ledger_read_options two = { .size = sizeof(two), .limit = 2, .descending = true };
    const ledger_read_options tagged = { .size = sizeof(tagged), .tag = "x" };
    ledger_tail *all = open_tail(f, NULL, &two, false), *one = open_tail(f, "s", NULL, false);
    ledger_tail *some = open_tail(f, "s", &tagged, false);

    assert_string_equal(next(all), "");
    for (int i = 0; i < 4; i++)
        tst_append(f->store, i == 1 ? "t" : "s", "1", NULL, i == 2 ? "x" : NULL);
    assert_string_equal(next(all), "1 2");
    assert_string_equal(next(all), "3 4");
    assert_string_equal(next(all), "");
    assert_string_equal(next(one), "1 3 4");
    assert_string_equal(next(some), "3");
    ledger_tail *end = open_tail(f, NULL, NULL, true), *behind = open_tail(f, NULL, &after, false);
    assert_string_equal(next(end), "");
    tst_append(f->store, "s", "1", NULL, "x");
    assert_string_equal(next(all), "5");
    assert_string_equal(next(one), "5");
    assert_string_equal(next(some), "5");
    assert_string_equal(next(end), "5");
    assert_string_equal(next(end), "");
    assert_string_equal(next(behind), "3 4 5");
    assert_string_equal(next(behind), "");
    tst_trim(f->store, "s", 5);
    tst_append(f->store, "t", "1", NULL, NULL);
    assert_string_equal(next(one), "");
    assert_string_equal(next(all), "6");
    ledger_tail *tails[] = { all, one, some, end, behind };
    for (size_t i = 0; i < 5; i++) {
        ledger_tail_close(&tails[i]);
        assert_null(tails[i]);
    }
}

static void test_plain(void **state)
{
    struct fixture *f = *state;

    for (int kind = 0; kind < 2; kind++) {
        f->store = tst_open(f->env, kind == 0 ? TST_SQLITE : TST_MEMORY, "a");
        check_plain(f);
    }
}

static void test_committed_late(void **state)
{
    struct fixture *f = *state;

    open_three(f);
    ledger_tail *tail = open_tail(f, NULL, NULL, false), *one = open_tail(f, "s", NULL, false);
    tst_append(f->writer, "s", "1", NULL, NULL);
    begin(f->slow);
    tst_append(f->slow, "s", "2", NULL, NULL);
    tst_append(f->writer, "s", "3", NULL, NULL);
    tst_append(f->writer, "t", "4", NULL, NULL);
    assert_string_equal(next(tail), "1 3 4");
    assert_string_equal(next(one), "1 3");
    assert_string_equal(next(tail), "");
    tst_append(f->slow, "s", "5", NULL, NULL);
    tst_append(f->writer, "s", "6", NULL, NULL);
    assert_string_equal(next(tail), "6");
    tst_tag(f->writer, "s", 3, "x"); /* a change is no entry */
    commit(f->slow);
    assert_string_equal(next(tail), "2 5");
    assert_string_equal(next(one), "2");
    assert_string_equal(next(one), "5 6");
    assert_string_equal(next(tail), "");
    assert_string_equal(next(one), "");
    ledger_tail_close(&tail);
    ledger_tail_close(&one);
}

static void nothing(void *ctx)
{
    (void)ctx;
}

struct meanwhile {
    struct fixture *f;
    ledger_tail *tail;
};

static ledger_rc others_append(void *ctx, ledger_error *err)
{
    struct meanwhile *m = ctx;

    (void)err;
    tst_append(m->f->writer, "s", "1", NULL, NULL);
    assert_string_equal(next(m->tail), "4");
    assert_string_equal(next(m->tail), "");
    assert_string_equal(next(m->tail), "");
    return LEDGER_OK;
}

/* A batch that has drawn ids, and waits for an earlier one before it uses them. */
static void test_drawn_ids(void **state)
{
    static const struct ldg_identity source = { .uuid = "00000000-0000-4000-8000-000000000001",
                                                .epoch = 1 };
    struct fixture *f = *state;
    ledger_error err = { 0 };
    uint8_t outcomes[2];
    int origin = 0;

    open_three(f);
    struct meanwhile m = { f, open_tail(f, NULL, NULL, false) };
    tst_append(f->writer, "s", "1", NULL, NULL);
    assert_string_equal(next(m.tail), "1");
    tst_ok(ldg_store_origin_get(f->slow, &source, "", &origin, &err), &err);
    const ledger_append_entry entry = {
        .id = "7", .payload = { "1", 1 }, .order_key = "", .dedup_key = "", .source_id = ""
    };
    const struct ldg_op ops[] = {
        { .kind = LDG_OP_TRIM,
          .origin = origin,
          .mutation_origin = origin,
          .stream = "s",
          .key.number = 6,
          .position = 1,
          .log_position = 1,
          .event = { "{}", 2 } },
        { .kind = LDG_OP_APPEND,
          .origin = origin,
          .mutation_origin = origin,
          .stream = "s",
          .key.number = 7,
          .position = 2,
          .log_position = 2,
          .entry = &entry,
          .event = { "{}", 2 },
          .event_index = 1 },
    };
    const struct ldg_apply apply = { .ops = ops,
                                     .count = 2,
                                     .await_commit_order = others_append,
                                     .ids_reserved = nothing,
                                     .overlap_ctx = &m };
    tst_ok(ldg_store_apply(f->slow, &apply, outcomes, &err), &err);
    assert_int_equal(outcomes[1], LDG_OUTCOME_APPLIED);
    assert_string_equal(next(m.tail), "3");
    ledger_tail_close(&m.tail);
}

static void test_rolled_back(void **state)
{
    struct fixture *f = *state;
    const ledger_read_options two = { .size = sizeof(two), .limit = 2 };
    ledger_error err = { 0 };

    open_three(f);
    ledger_tail *tail = open_tail(f, NULL, &two, false);
    begin(f->slow);
    tst_append(f->slow, "s", "1", NULL, NULL);
    for (int i = 0; i < 5; i++)
        tst_append(f->writer, "s", "1", NULL, NULL);
    assert_string_equal(next(tail), "2 3");
    assert_string_equal(next(tail), "4 5");
    tst_ok(ledger_store_rollback(f->slow, &err), &err);
    assert_string_equal(next(tail), "6");
    begin(f->slow);
    tst_append(f->slow, "s", "1", NULL, NULL);
    tst_append(f->writer, "s", "1", NULL, NULL);
    assert_string_equal(next(tail), "8");
    commit(f->slow);
    assert_string_equal(next(tail), "7");
    assert_string_equal(next(tail), "");
    ledger_tail_close(&tail);
}

/* What is there counts as given, and what is committed later does not, whatever its id. */
static void test_at_end(void **state)
{
    struct fixture *f = *state;

    open_three(f);
    for (int i = 0; i < 50; i++)
        tst_append(f->writer, "s", "1", NULL, NULL);
    begin(f->slow);
    tst_append(f->slow, "s", "51", NULL, NULL);
    for (int i = 0; i < 100; i++)
        tst_append(f->writer, "s", "1", NULL, NULL);
    ledger_tail *tail = open_tail(f, NULL, NULL, true), *one = open_tail(f, "none", NULL, true);
    assert_string_equal(next(tail), "");
    tst_append(f->writer, "s", "152", NULL, NULL);
    assert_string_equal(next(tail), "152");
    commit(f->slow);
    assert_string_equal(next(tail), "51");
    assert_string_equal(next(tail), "");
    assert_string_equal(next(one), "");
    ledger_tail_close(&tail);
    ledger_tail_close(&one);

    /* So far back and no further. */
    char payload[] = "1";
    ledger_append_input *inputs = test_calloc(11000, sizeof(*inputs));
    ledger_error err = { 0 };
    for (size_t i = 0; i < 11000; i++)
        inputs[i].payload = (ledger_bytes){ payload, 1 };
    begin(f->slow);
    tst_append(f->slow, "s", "1", NULL, NULL);
    tst_ok(ledger_store_append(f->writer, "s", inputs, 11000, NULL, &err), &err);
    tail = open_tail(f, NULL, NULL, true);
    assert_string_equal(next(tail), "");
    commit(f->slow);
    assert_string_equal(next(tail), "");
    ledger_tail_close(&tail);
    test_free(inputs);
}

/* One transaction that stays open costs so much memory and no more; nothing is lost by it. */
static void test_many_given(void **state)
{
    struct fixture *f = *state;
    const ledger_read_options page = { .size = sizeof(page), .limit = LEDGER_READ_LIMIT_MAX };
    const size_t count = 100000;
    ledger_append_input *inputs = test_calloc(count, sizeof(*inputs));
    ledger_batch *batch = NULL;
    ledger_error err = { 0 };
    size_t got = 0;

    for (size_t i = 0; i < count; i++)
        inputs[i].payload = (ledger_bytes){ "1", 1 };
    open_three(f);
    ledger_tail *tail = open_tail(f, NULL, &page, false);
    begin(f->slow);
    tst_append(f->slow, "s", "1", NULL, NULL);
    tst_ok(ledger_store_append(f->writer, "s", inputs, count, NULL, &err), &err);
    tst_append(f->writer, "s", "1", NULL, NULL);
    test_free(inputs);
    for (int i = 0; i < 11; i++) {
        tst_ok(ledger_tail_read(tail, &batch, &err), &err);
        got += ledger_batch_count(batch);
        ledger_batch_destroy(&batch);
    }
    assert_int_equal(got, count);
    assert_string_equal(next(tail), "");
    commit(f->slow);
    assert_string_equal(next(tail), "1");
    assert_string_equal(next(tail), ""); /* now there is room again */
    assert_string_equal(next(tail), "100002");
    assert_string_equal(next(tail), "");
    ledger_tail_close(&tail);
}

static void test_bad_calls(void **state)
{
    struct fixture *f = *state;
    const ledger_read_options too_many = { .size = sizeof(too_many),
                                           .limit = LEDGER_READ_LIMIT_MAX + 1 };
    ledger_error err = { 0 };
    ledger_tail *tail = NULL;
    ledger_batch *batch = NULL;

    open_three(f);
    tst_fails(ledger_tail_open(NULL, NULL, NULL, false, &tail, &err), LEDGER_ERR_CLOSED, &err);
    tst_fails(ledger_tail_open(f->store, NULL, NULL, false, NULL, &err), LEDGER_ERR_INVALID, &err);
    tst_fails(ledger_tail_open(f->store, "\xff", NULL, false, &tail, &err), LEDGER_ERR_DATA, &err);
    assert_int_equal(ledger_tail_open(f->store, NULL, NULL, false, NULL, NULL), LEDGER_ERR_INVALID);
    assert_null(tail);
    tst_fails(ledger_tail_read(NULL, &batch, &err), LEDGER_ERR_INVALID, &err);
    tail = open_tail(f, NULL, &too_many, false);
    tst_fails(ledger_tail_read(tail, NULL, &err), LEDGER_ERR_INVALID, &err);
    tst_fails(ledger_tail_read(tail, &batch, &err), LEDGER_ERR_INVALID, &err);
    assert_int_equal(ledger_tail_read(tail, &batch, NULL), LEDGER_ERR_INVALID);
    ledger_tail_close(&tail);
    ledger_tail_close(&tail);
    ledger_tail_close(NULL);
}

static ledger_rc oom_run(void *ctx)
{
    struct fixture *f = ctx;
    ledger_tail *tail = NULL;
    ledger_batch *batch = NULL;
    ledger_rc rc = LEDGER_OK;

    for (int at_end = 0; rc == LEDGER_OK && at_end < 2; at_end++) {
        rc = ledger_tail_open(f->store, "s", NULL, at_end, &tail, NULL);
        for (int i = 0; rc == LEDGER_OK && i < 2; i++) {
            rc = ledger_tail_read(tail, &batch, NULL);
            ledger_batch_destroy(&batch);
        }
        ledger_tail_close(&tail);
    }
    return rc;
}

static void test_out_of_memory(void **state)
{
    struct fixture *f = *state;

    open_three(f);
    begin(f->slow);
    tst_append(f->slow, "s", "1", NULL, NULL);
    tst_append(f->writer, "s", "1", NULL, NULL);
    alloc_fail_each(oom_run, f);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_plain),         TEST(test_committed_late), TEST(test_rolled_back),
        TEST(test_at_end),        TEST(test_many_given),     TEST(test_bad_calls),
        TEST(test_out_of_memory), TEST(test_drawn_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
