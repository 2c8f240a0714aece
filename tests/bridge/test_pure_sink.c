/* A sink that only takes ops: no store, no state, no transaction. Cursor and origins are in the
 * bridge's state store; what a crash leaves comes again, with the same keys. */
#include <stdlib.h>

#include "fixtures.h"
#include "roles.h"
#include "store/registry.h"

#define ALL_TYPES                                                                                  \
    (1U << LDG_OP_APPEND | 1U << LDG_OP_SET_TAGS | 1U << LDG_OP_SET_ANNOTATIONS | 1U << LDG_OP_TRIM)

/* What was delivered, a line per op; how the next calls go. */
static struct {
    char lines[64][128];
    size_t count;
    int fail_next; /* so many calls fail first */
    bool in_order; /* within one call positions never fall */
} got;

static ledger_rc pure_open(void *ctx, const struct ldg_open *open, ledger_error *err)
{
    *(const char **)ctx = open->path;
    return LEDGER_OK;
}

static void pure_close(void *ctx)
{
}

static ledger_rc pure_health(void *ctx, ledger_error *err)
{
    return LEDGER_OK;
}

static void note_op(const struct ldg_op *op)
{
    char *line = got.lines[got.count++ % 64];
    const size_t size = sizeof(got.lines[0]);
    const long long id = op->key.number;
    switch (op->kind) {
    case LDG_OP_APPEND:
        snprintf(line, size, "%d:%lld %s append %.*s", op->origin, id, op->stream,
                 (int)op->entry->payload.size, (const char *)op->entry->payload.data);
        break;
    case LDG_OP_SET_TAGS:
        snprintf(line, size, "%d:%lld %s tags %s", op->origin, id, op->stream,
                 op->tags.count ? op->tags.items[0] : "");
        break;
    case LDG_OP_SET_ANNOTATIONS:
        snprintf(line, size, "%d:%lld %s annotate %s=%s", op->origin, id, op->stream,
                 op->annotations.items[0].key, op->annotations.items[0].value);
        break;
    case LDG_OP_TRIM:
        snprintf(line, size, "%d:%lld %s trim but %zu", op->origin, id, op->stream,
                 op->survivor_count);
        break;
    case LDG_OP_PARK:
        snprintf(line, size, "parked");
        break;
    }
}

static ledger_rc pure_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                            ledger_error *err)
{
    assert_null(apply->name);
    assert_null(apply->next);
    assert_null(apply->await_commit_order);
    assert_string_equal(*(const char **)ctx, "there");
    if (got.fail_next > 0) {
        got.fail_next--;
        memset(err, 0, sizeof(*err));
        err->code = LEDGER_ERR_CONNECT;
        err->flags = LEDGER_ERROR_RETRY;
        snprintf(err->message, sizeof(err->message), "nobody answers");
        return LEDGER_ERR_CONNECT;
    }
    for (size_t i = 0; i < apply->count; i++) {
        if (i > 0 && apply->ops[i].log_position < apply->ops[i - 1].log_position)
            got.in_order = false;
        note_op(&apply->ops[i]);
        ret_outcomes[i] = LDG_OUTCOME_APPLIED;
    }
    return LEDGER_OK;
}

static struct ldg_sink_role pure_sink = { .takes = ALL_TYPES, .apply = pure_apply };
static const struct ldg_backend pure_backend = {
    .name = "pure",
    .scheme = "pure",
    .ctx_size = sizeof(const char *),
    .open = pure_open,
    .close = pure_close,
    .health = pure_health,
    .sink = &pure_sink,
};

static ledger_store *open_pure(void)
{
    const ledger_store_options options = { .size = sizeof(options), .url = "pure:there" };
    ledger_store *sink = NULL;
    ledger_error err;
    assert_null(ldg_registry_problem(&pure_backend));
    memset(&got, 0, sizeof(got));
    got.in_order = true;
    pure_sink.takes = ALL_TYPES;
    tst_ok(ldg_store_open_as(&pure_backend, &options, LDG_ROLE_USER, &sink, &err), &err);
    return sink;
}

static void pure_options(ledger_bridge_options *o, const char *cursor_file)
{
    tst_bridge_options(o);
    o->on_bad_event = LEDGER_BAD_EVENT_STOP;
    o->cursor_file = cursor_file;
}

static void check_lines(const char *const *lines, size_t count)
{
    for (size_t i = 0; i < count && i < got.count; i++)
        assert_string_equal(got.lines[i], lines[i]);
    assert_int_equal(got.count, count);
    assert_true(got.in_order);
}

/* Every kind of op comes once, in order; a bridge that is started again goes on from its file; one
 * with another file delivers all once more, under the same keys. */
static void takes_what_comes(void **state)
{
    static const char *const lines[] = {
        "1:1 s append {\"n\":1}", "1:2 s append {\"n\":2}", "1:3 t append {\"n\":3}",
        "1:2 s tags blue",        "1:3 t annotate k=v",     "1:1 s trim but 0",
        "1:4 s append {\"n\":4}",
    };
    TST_EACH_SOURCE(*state, kind)
    {
        ledger_store *source = tst_open(*state, (enum tst_kind)kind, "source"), *sink = open_pure();
        ledger_bridge_options o;
        ledger_bridge_stats stats;
        pure_options(&o, tst_path(*state, "cursors.db"));
        tst_append(source, "s", "{\"n\":1}", NULL, NULL);
        tst_append(source, "s", "{\"n\":2}", NULL, NULL);
        tst_append(source, "t", "{\"n\":3}", NULL, NULL);
        tst_tag(source, "s", 2, "blue");
        tst_annotate(source, "t", 3, "k", "v");
        assert_int_equal(tst_trim(source, "s", 1), 1);
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        assert_int_equal(tst_drain(bridge), 6);
        ledger_bridge_get_stats(bridge, &stats);
        assert_int_equal(stats.apply_count, 6);
        tst_check_counters(bridge);
        ledger_bridge_destroy(&bridge);
        assert_int_equal(tst_bridge_once(source, sink, &o), 0);
        tst_append(source, "s", "{\"n\":4}", NULL, NULL);
        assert_int_equal(tst_bridge_once(source, sink, &o), 1);
        check_lines(lines, 7);
        got.count = 0;
        pure_options(&o, tst_path(*state, "others.db"));
        assert_int_equal(tst_bridge_once(source, sink, &o), 7);
        check_lines(lines, 7);
        ledger_store_close(&sink);
    }
}

/* A delivery that fails moves nothing, and comes again as a whole. */
static void comes_again_after_a_failure(void **state)
{
    static const char *const lines[] = { "1:1 s append 1", "1:2 s append 2" };
    ledger_store *source = tst_open(*state, TST_SQLITE, "source"), *sink = open_pure();
    ledger_bridge_options o;
    ledger_error err;
    uint64_t read = 0;
    pure_options(&o, tst_path(*state, "cursors.db"));
    tst_append(source, "s", "1", NULL, NULL);
    tst_append(source, "s", "2", NULL, NULL);
    got.fail_next = 1;
    ledger_bridge *bridge = tst_bridge(source, sink, &o);
    tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_CONNECT, &err);
    assert_int_equal(got.count, 0);
    got.fail_next = 3;
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    tst_ok(ledger_bridge_wait(bridge, true, tst_slow(20000), &err), &err);
    ledger_bridge_destroy(&bridge);
    check_lines(lines, 2);
    ledger_store_close(&sink);
}

/* Entries of another store, carried on: their origin has a number of its own, the same after a
 * restart, for the state store keeps it. */
static void knows_origins_apart(void **state)
{
    static const char *const lines[] = { "2:1 s append 1", "1:2 s append 2", "2:2 s append 3" };
    ledger_store *first = tst_open(*state, TST_SQLITE, "first");
    ledger_store *source = tst_open(*state, TST_SQLITE, "source"), *sink = open_pure();
    ledger_bridge_options o;
    tst_append(first, "s", "1", NULL, NULL);
    assert_int_equal(tst_bridge_once(first, source, NULL), 1);
    tst_append(source, "s", "2", NULL, NULL);
    pure_options(&o, tst_path(*state, "cursors.db"));
    assert_int_equal(tst_bridge_once(source, sink, &o), 2);
    tst_append(first, "s", "3", NULL, NULL);
    assert_int_equal(tst_bridge_once(first, source, NULL), 1);
    pure_options(&o, tst_path(*state, "cursors.db"));
    assert_int_equal(tst_bridge_once(source, sink, &o), 1);
    check_lines(lines, 3);
    ledger_store_close(&sink);
}

/* What it cannot do is said when the bridge is made, or when it is asked for. */
static void says_what_it_cannot_do(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source"), *sink = open_pure();
    const ledger_append_input input = { .payload = { "1", 1 } };
    ledger_bridge *bridge = NULL;
    ledger_bridge_options o;
    ledger_bridge_status status;
    ledger_error err;
    pure_options(&o, NULL);
    o.on_bad_event = LEDGER_BAD_EVENT_PARK;
    tst_fails(ledger_bridge_create(source, sink, &o, &bridge, &err), LEDGER_ERR_UNSUPPORTED, &err);
    assert_non_null(strstr(err.message, "cannot park"));
    o.on_bad_event = LEDGER_BAD_EVENT_STOP;
    pure_sink.takes = 1U << LDG_OP_APPEND;
    tst_fails(ledger_bridge_create(source, sink, &o, &bridge, &err), LEDGER_ERR_UNSUPPORTED, &err);
    assert_non_null(strstr(err.message, "set_tags"));
    o.skip_types = 1U << LEDGER_MUTATION_SET_TAGS | 1U << LEDGER_MUTATION_SET_ANNOTATIONS |
                   1U << LEDGER_MUTATION_TRIM;
    tst_tag(source, "s", tst_append(source, "s", "1", NULL, NULL), "blue");
    assert_int_equal(tst_bridge_once(source, sink, &o), 2);
    check_lines((const char *const[]){ "1:1 s append 1" }, 1);

    tst_fails(ledger_bridge_create(sink, source, &o, &bridge, &err), LEDGER_ERR_UNSUPPORTED, &err);
    assert_non_null(strstr(err.message, "cannot be a source"));
    tst_fails(ledger_bridge_status_get(source, sink, NULL, &status, &err), LEDGER_ERR_UNSUPPORTED,
              &err);
    tst_fails(ledger_store_append(sink, "s", &input, 1, NULL, &err), LEDGER_ERR_UNSUPPORTED, &err);
    tst_ok(ledger_store_health(sink, &err), &err);
    assert_false(ledger_store_has_log(sink));
    assert_string_equal(ledger_store_backend(sink), "pure");
    ledger_store_close(&sink);

    tst_cut(source, TST_CUT_ALL);
    tst_fails(ledger_bridge_create(tst_open(*state, TST_MEMORY, "m"), source, &o, &bridge, &err),
              LEDGER_ERR_UNSUPPORTED, &err);
    assert_non_null(strstr(err.message, "cannot be a sink"));
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(takes_what_comes),
        T(comes_again_after_a_failure),
        T(knows_origins_apart),
        T(says_what_it_cannot_do),
    };
    return cmocka_run_group_tests_name("pure sink", tests, NULL, NULL);
}
