/* A sink that only takes ops: no store, no state, no transaction. Cursor, origins and parked events
 * are in the bridge's state store; what a crash leaves comes again, with the same keys. */
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
    int fail_next;             /* so many calls fail first */
    size_t fail_at;            /* the call that comes to this op fails there, once; 0: none does */
    const char *refuse;        /* ops whose line has this are refused; NULL: none */
    const char *stuck;         /* nothing of this stream gets through */
    uint32_t numbers[64];      /* of the deliveries of `lines` */
    size_t too_many;           /* what it refuses lies so far behind what it means */
    bool in_order;             /* within one call positions never fall */
    bool says_so;              /* of each op at once that it is done */
    ledger_bridge *bridge;     /* whose counters are looked at then; NULL: none's */
    ledger_bridge_stats stats; /* at the last look */
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
    char *line = got.lines[got.count % 64];
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

/* As a sink without transactions fails: what came before it is done. */
static ledger_rc fail_at(size_t index, ledger_rc rc, const char *message, ledger_error *err)
{
    memset(err, 0, sizeof(*err));
    err->code = rc;
    err->flags = ledger_rc_flags(rc);
    err->done_count = index + got.too_many;
    snprintf(err->message, sizeof(err->message), "%s", message);
    return rc;
}

/* Counters never go back. */
static void look_at_counters(void)
{
    ledger_bridge_stats now;
    if (got.bridge == NULL)
        return;
    ledger_bridge_get_stats(got.bridge, &now);
    tst_check_counters(got.bridge);
    assert_true(now.read_count >= got.stats.read_count);
    assert_true(now.apply_count >= got.stats.apply_count);
    assert_true(now.park_count >= got.stats.park_count);
    got.stats = now;
}

static void note_done(const struct ldg_apply *apply, size_t index, uint8_t *ret_outcomes)
{
    ret_outcomes[index] = LDG_OUTCOME_APPLIED;
    if (got.says_so)
        ldg_apply_op_done(apply, index);
    look_at_counters();
}

/* Distinct streams side by side: all but one are done, in whatever order they came. */
static ledger_rc do_other_streams(const struct ldg_apply *apply, uint8_t *ret_outcomes,
                                  ledger_error *err)
{
    for (size_t i = 0; i < apply->count; i++) {
        if (strcmp(apply->ops[i].stream, got.stuck) == 0)
            continue;
        note_op(&apply->ops[i]);
        got.numbers[got.count++ % 64] = apply->ops[i].delivery;
        note_done(apply, i, ret_outcomes);
    }
    return fail_at(0, LEDGER_ERR_CONNECT, "one stream is stuck", err);
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
        return fail_at(0, LEDGER_ERR_CONNECT, "nobody answers", err);
    }
    if (got.stuck != NULL)
        return do_other_streams(apply, ret_outcomes, err);
    for (size_t i = 0; i < apply->count; i++) {
        if (i > 0 && apply->ops[i].log_position < apply->ops[i - 1].log_position)
            got.in_order = false;
        got.numbers[got.count % 64] = apply->ops[i].delivery;
        note_op(&apply->ops[i]);
        if (got.fail_at > 0 && got.count + 1 == got.fail_at) {
            got.fail_at = 0;
            return fail_at(i, LEDGER_ERR_CONNECT, "cut off", err);
        }
        if (got.refuse != NULL && strstr(got.lines[got.count % 64], got.refuse) != NULL)
            return fail_at(i, LEDGER_ERR_REJECTED, "no such thing here", err);
        got.count++;
        note_done(apply, i, ret_outcomes);
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
    tst_ok(ledger_bridge_wait(bridge, true, TST_PATIENCE_MS, &err), &err);
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

/* --- parked, and behind parked --------------------------------------------------------------- */

/* Where the state of a bridge from this source is kept: beside a PostgreSQL source, else a file. */
static void state_options(struct tst_env *env, ledger_store *source, enum tst_kind kind,
                          ledger_bridge_options *o)
{
    static char url[1024];
    pure_options(o, NULL);
    o->on_bad_event = LEDGER_BAD_EVENT_PARK;
    if (kind == TST_POSTGRES)
        assert_true(source->backend->describe(source->ctx, url, sizeof(url)));
    else
        snprintf(url, sizeof(url), "sqlite:%s", tst_path(env, "state.db"));
    o->state_url = url;
}

static ledger_store *open_state(const ledger_bridge_options *o)
{
    ledger_store_options options;
    ledger_store *state = NULL;
    ledger_error err;
    ledger_store_options_defaults(&options);
    options.url = o->state_url;
    options.table = o->state_table != NULL ? o->state_table : LEDGER_BRIDGE_DEFAULT_STATE_TABLE;
    tst_ok(ledger_store_open(&options, &state, &err), &err);
    return state;
}

struct parked_seen {
    size_t count;
    char reasons[8][64];
    int64_t positions[8];
};

static bool see_parked(void *ctx, const ledger_parked *parked)
{
    struct parked_seen *seen = ctx;
    assert_true(seen->count < 8);
    snprintf(seen->reasons[seen->count], sizeof(seen->reasons[0]), "%s", parked->reason);
    seen->positions[seen->count++] = parked->position;
    return true;
}

/* What is refused is parked, what is on the same entry waits behind it, all else goes on in order;
 * then a retry delivers them, in order. All of it through the state store, over a restart. */
static void parks_in_the_state_store(void **state)
{
    static const char *const first[] = { "1:1 s append 1", "1:3 s append 3", "1:3 s tags red" };
    static const char *const later[] = { "1:4 s append 4" };
    static const char *const retried[] = { "1:2 s append 2", "1:2 s tags blue",
                                           "1:2 s annotate k=v" };
    TST_EACH_SOURCE(*state, kind)
    {
        ledger_store *source = tst_open(*state, (enum tst_kind)kind, "source"), *sink = open_pure();
        ledger_bridge_options o;
        ledger_bridge_stats stats;
        ledger_bridge_status status;
        ledger_error err;
        struct parked_seen seen = { 0 };
        uint64_t applied = 0, left = 0, dropped = 0;
        state_options(*state, source, (enum tst_kind)kind, &o);
        tst_append(source, "s", "1", NULL, NULL);
        tst_append(source, "s", "2", NULL, NULL);
        tst_append(source, "s", "3", NULL, NULL);
        tst_tag(source, "s", 2, "blue");
        tst_tag(source, "s", 3, "red");
        got.refuse = "append 2";
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        assert_int_equal(tst_drain(bridge), 5);
        ledger_bridge_get_stats(bridge, &stats);
        assert_int_equal(stats.apply_count, 3);
        assert_int_equal(stats.park_count, 2);
        tst_check_counters(bridge);
        ledger_bridge_destroy(&bridge);
        check_lines(first, 3);

        /* Another batch, of another bridge: it waits behind what the first one parked. */
        got.count = 0;
        tst_annotate(source, "s", 2, "k", "v");
        tst_append(source, "s", "4", NULL, NULL);
        bridge = tst_bridge(source, sink, &o);
        assert_int_equal(tst_drain(bridge), 2);
        check_lines(later, 1);

        ledger_store *kept = open_state(&o);
        tst_ok(ledger_bridge_status_get(source, kept, NULL, &status, &err), &err);
        assert_int_equal(status.parked_count, 3);
        assert_int_equal(status.backlog_count, 0);
        tst_ok(ledger_bridge_parked_list(kept, see_parked, &seen, &err), &err);
        assert_int_equal(seen.count, 3);
        assert_string_equal(seen.reasons[0], "no such thing here");
        assert_string_equal(seen.reasons[1], "behind parked event 2");
        assert_string_equal(seen.reasons[2], "behind parked event 2");
        assert_int_equal(seen.positions[2], 6);

        got.count = 0;
        tst_ok(ledger_bridge_retry(bridge, 0, &applied, &left, &err), &err);
        assert_int_equal(applied, 0);
        assert_int_equal(left, 3);
        assert_int_equal(got.count, 0);
        got.refuse = NULL;
        tst_fails(ledger_bridge_retry(bridge, 99, NULL, NULL, &err), LEDGER_ERR_NOT_FOUND, &err);
        tst_ok(ledger_bridge_retry(bridge, 0, &applied, &left, &err), &err);
        assert_int_equal(applied, 3);
        assert_int_equal(left, 0);
        check_lines(retried, 3);

        /* The cursor is set there, too: all comes again, under the same ids. */
        got.count = 0;
        got.refuse = "append 2";
        tst_ok(ledger_bridge_cursor_set(source, kept, NULL, "0", false, &err), &err);
        assert_int_equal(tst_drain(bridge), 7);
        assert_int_equal(got.count, 4);
        tst_ok(ledger_bridge_parked_drop(kept, 0, &dropped, &err), &err);
        assert_int_equal(dropped, 3);
        ledger_bridge_destroy(&bridge);
        ledger_store_close(&kept);
        ledger_store_close(&sink);
    }
}

/* The state store's parked events, of all logs. */
static size_t parked_of(ledger_store *kept, struct parked_seen *seen)
{
    ledger_error err;
    memset(seen, 0, sizeof(*seen));
    tst_ok(ledger_bridge_parked_list(kept, see_parked, seen, &err), &err);
    return seen->count;
}

/* Two logs with events of one entry, by one state store. The first log is read again, and of two
 * refused events the earlier one is parked last: no three wait for each other in a circle. */
static void no_circle_of_two_logs(void **state)
{
    static const char *const lines[] = { "1:1 s append 1", "1:1 s tags five", "1:1 s tags nine",
                                         "1:1 s append 1", "1:1 s tags b" };
    ledger_store *first = tst_open(*state, TST_SQLITE, "first"), *sink = open_pure();
    ledger_store *second = tst_open(*state, TST_SQLITE, "second");
    ledger_bridge_options a, b;
    ledger_error err;
    struct parked_seen seen;
    uint64_t applied = 0, left = 0;
    state_options(*state, first, TST_SQLITE, &a);
    b = a;
    a.name = "first";
    b.name = "second";
    tst_append(first, "s", "1", NULL, NULL);
    tst_tag(first, "s", 1, "five");
    tst_tag(first, "s", 1, "nine");
    assert_int_equal(tst_bridge_once(first, second, NULL), 3);
    tst_tag(second, "s", 1, "b");
    b.skip_types = 1U << LEDGER_MUTATION_TRIM;
    ledger_bridge *from_first = tst_bridge(first, sink, &a);
    ledger_bridge *from_second = tst_bridge(second, sink, &b);
    got.refuse = "nine";
    assert_int_equal(tst_drain(from_first), 3);
    assert_int_equal(got.count, 2);
    assert_int_equal(tst_drain(from_second), 4); /* its events of the entry wait behind that one */
    assert_int_equal(got.count, 2);
    ledger_store *kept = open_state(&a);
    assert_int_equal(parked_of(kept, &seen), 5);
    /* again, from before */
    got.refuse = "five";
    got.count = 0;
    tst_ok(ledger_bridge_cursor_set(first, kept, "first", "0", false, &err), &err);
    assert_int_equal(tst_drain(from_first), 3);
    assert_int_equal(got.count, 1);
    assert_int_equal(parked_of(kept, &seen), 6);
    assert_string_equal(seen.reasons[5], "no such thing here");
    assert_int_equal(seen.positions[5], 2);
    got.refuse = NULL;
    tst_ok(ledger_bridge_retry(from_second, 0, &applied, &left, &err), &err);
    assert_int_equal(applied, 0); /* behind the first log's */
    tst_ok(ledger_bridge_retry(from_first, 0, &applied, &left, &err), &err);
    assert_int_equal(applied, 2);
    assert_int_equal(left, 0);
    tst_ok(ledger_bridge_retry(from_second, 0, &applied, &left, &err), &err);
    assert_int_equal(left, 0);
    assert_int_equal(parked_of(kept, &seen), 0);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(got.lines[i], lines[i]);
    assert_string_equal(got.lines[got.count - 1], lines[4]);
    ledger_bridge_destroy(&from_first);
    ledger_bridge_destroy(&from_second);
    ledger_store_close(&kept);
    ledger_store_close(&sink);
}

/* What others do to the parked events meanwhile counts at once: a bridge remembers none. */
static void others_drop_and_retry(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source"), *sink = open_pure();
    ledger_bridge_options o;
    ledger_error err;
    struct parked_seen seen;
    uint64_t applied = 0, left = 0, dropped = 0;
    state_options(*state, source, TST_SQLITE, &o);
    tst_append(source, "s", "1", NULL, NULL);
    tst_append(source, "s", "2", NULL, NULL);
    got.refuse = "append";
    ledger_bridge *bridge = tst_bridge(source, sink, &o), *other = tst_bridge(source, sink, &o);
    assert_int_equal(tst_drain(bridge), 2);
    ledger_store *kept = open_state(&o);
    assert_int_equal(parked_of(kept, &seen), 2);
    got.refuse = NULL;
    tst_ok(ledger_bridge_parked_drop(kept, 1, &dropped, &err), &err);
    tst_ok(ledger_bridge_retry(other, 2, &applied, &left, &err), &err);
    assert_int_equal(applied, 1);
    tst_tag(source, "s", 1, "x");
    tst_tag(source, "s", 2, "y");
    assert_int_equal(tst_drain(bridge), 2);
    check_lines((const char *const[]){ "1:2 s append 2", "1:1 s tags x", "1:2 s tags y" }, 3);
    /* and what another one parks */
    got.refuse = "tags";
    tst_tag(source, "s", 1, "z");
    assert_int_equal(tst_drain(other), 1);
    got.refuse = NULL;
    tst_annotate(source, "s", 1, "k", "v");
    assert_int_equal(tst_drain(bridge), 1);
    assert_int_equal(got.count, 3);
    assert_int_equal(parked_of(kept, &seen), 2);
    assert_string_equal(seen.reasons[1], "behind parked event 5");
    ledger_bridge_destroy(&bridge);
    ledger_bridge_destroy(&other);
    ledger_store_close(&kept);
    ledger_store_close(&sink);
}

/* A trim takes what is parked below it along; what is parked when it comes again stays so. */
static void trims_what_is_parked(void **state)
{
    static const char *const lines[] = { "1:2 s append 2", "1:2 s trim but 0" };
    ledger_store *source = tst_open(*state, TST_SQLITE, "source"), *sink = open_pure();
    ledger_bridge_options o;
    ledger_bridge_status status;
    ledger_error err;
    state_options(*state, source, TST_SQLITE, &o);
    tst_append(source, "s", "1", NULL, NULL);
    tst_append(source, "s", "2", NULL, NULL);
    got.refuse = "append 1";
    assert_int_equal(tst_bridge_once(source, sink, &o), 2);
    ledger_store *kept = open_state(&o);
    got.refuse = NULL;
    got.count = 0;
    tst_ok(ledger_bridge_cursor_set(source, kept, NULL, "0", false, &err), &err);
    assert_int_equal(tst_bridge_once(source, sink, &o), 2);
    assert_int_equal(tst_trim(source, "s", 2), 2);
    assert_int_equal(tst_bridge_once(source, sink, &o), 1);
    check_lines(lines, 2);
    tst_ok(ledger_bridge_status_get(source, kept, NULL, &status, &err), &err);
    assert_int_equal(status.parked_count, 0);
    ledger_store_close(&kept);
    ledger_store_close(&sink);
}

/* What was delivered before a failure does not come again while the process lives. */
static void delivers_each_once(void **state)
{
    static const char *const lines[] = { "1:1 s append 1", "1:2 s append 2", "1:3 s append 3",
                                         "1:3 s tags t" };
    ledger_store *source = tst_open(*state, TST_SQLITE, "source"), *sink = open_pure();
    ledger_bridge_options o;
    ledger_error err;
    uint64_t read = 0;
    state_options(*state, source, TST_SQLITE, &o);
    tst_append(source, "s", "1", NULL, NULL);
    tst_append(source, "s", "2", NULL, NULL);
    tst_append(source, "s", "3", NULL, NULL);
    tst_tag(source, "s", 3, "t");
    ledger_bridge *bridge = tst_bridge(source, sink, &o);
    for (size_t n = 2; n <= 4; n++) {
        got.fail_at = n;
        tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_CONNECT, &err);
        assert_int_equal(got.count, n - 1);
    }
    assert_int_equal(tst_drain(bridge), 4);
    check_lines(lines, 4);

    /* Refused, and the policy is to stop: what lies before it counts, and is not given again. */
    o.on_bad_event = LEDGER_BAD_EVENT_STOP;
    ledger_bridge_destroy(&bridge);
    bridge = tst_bridge(source, sink, &o);
    got.count = 0;
    got.refuse = "append 5";
    tst_append(source, "s", "4", NULL, NULL);
    tst_append(source, "s", "5", NULL, NULL);
    tst_ok(ledger_bridge_poll(bridge, &read, &err), &err);
    assert_int_equal(read, 1);
    tst_fails(ledger_bridge_poll(bridge, &read, &err), LEDGER_ERR_REJECTED, &err);
    check_lines((const char *const[]){ "1:4 s append 4" }, 1);
    ledger_bridge_destroy(&bridge);
    ledger_store_close(&sink);
}

static void append_three(ledger_store *source, const char *stream)
{
    const ledger_append_input inputs[] = { { .payload = { "1", 1 } },
                                           { .payload = { "2", 1 } },
                                           { .payload = { "3", 1 } } };
    ledger_error err;
    tst_ok(ledger_store_append(source, stream, inputs, 3, NULL, &err), &err);
}

static void counters_are(ledger_bridge *bridge, uint64_t read, uint64_t applied, uint64_t parked)
{
    got.bridge = bridge;
    look_at_counters();
    assert_int_equal(got.stats.read_count, read);
    assert_int_equal(got.stats.apply_count, applied);
    assert_int_equal(got.stats.park_count, parked);
}

/* What is delivered counts before its batch is done, event by event; and once, whatever fails, is
 * refused, or is taken over by another bridge. */
static void counts_what_is_delivered(void **state)
{
    TST_EACH_SOURCE(*state, kind)
    {
        ledger_store *source = tst_open(*state, (enum tst_kind)kind, "source"), *sink = open_pure();
        ledger_bridge_options o;
        ledger_bridge_stats stats;
        ledger_error err;
        state_options(*state, source, (enum tst_kind)kind, &o);
        got.says_so = true;
        append_three(source, "s");
        tst_append(source, "s", "4", NULL, NULL);
        tst_append(source, "s", "5", NULL, NULL);
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        counters_are(bridge, 0, 0, 0);
        got.fail_at = 3; /* in the middle of the first event */
        tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_CONNECT, &err);
        counters_are(bridge, 0, 0, 0);
        got.fail_at = 5;
        tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_CONNECT, &err);
        counters_are(bridge, 2, 2, 0);
        assert_int_equal(got.stats.last_progress_us, LEDGER_NO_TIME); /* the cursor did not move */
        assert_int_equal(tst_drain(bridge), 3);
        counters_are(bridge, 3, 3, 0);

        /* Of one event a part is refused; the rest of it is delivered, and no success. */
        got.refuse = "append 2";
        append_three(source, "t");
        tst_append(source, "s", "6", NULL, NULL);
        assert_int_equal(tst_drain(bridge), 2);
        counters_are(bridge, 5, 4, 1);
        got.refuse = NULL;

        /* Another one of the same name delivers all of it, and moves the cursor. */
        tst_append(source, "s", "7", NULL, NULL);
        tst_append(source, "s", "8", NULL, NULL);
        got.fail_at = got.count + 2;
        tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_CONNECT, &err);
        counters_are(bridge, 6, 5, 1);
        got.bridge = NULL;
        assert_int_equal(tst_bridge_once(source, sink, &o), 2);
        tst_append(source, "s", "9", NULL, NULL);
        assert_int_equal(tst_drain(bridge), 1);
        counters_are(bridge, 7, 6, 1);

        /* A sink that says nothing before it is done. */
        got.says_so = false;
        got.bridge = NULL;
        tst_append(source, "s", "10", NULL, NULL);
        assert_int_equal(tst_drain(bridge), 1);
        ledger_bridge_get_stats(bridge, &stats);
        assert_int_equal(stats.read_count, 8);
        got.bridge = NULL;
        ledger_bridge_destroy(&bridge);
        ledger_store_close(&sink);
    }
}

/* What a try began with keeps its number over failures and a restart; what came meanwhile has the
 * next one, and what other streams have is not given again. */
static void numbers_stay_as_they_were(void **state)
{
    TST_EACH_SOURCE(*state, kind)
    {
        ledger_store *source = tst_open(*state, (enum tst_kind)kind, "source"), *sink = open_pure();
        ledger_bridge_options o;
        ledger_error err;
        state_options(*state, source, (enum tst_kind)kind, &o);
        tst_append(source, "s", "1", NULL, NULL);
        tst_append(source, "t", "2", NULL, NULL);
        tst_append(source, "s", "3", NULL, NULL);
        ledger_bridge *bridge = tst_bridge(source, sink, &o);
        got.stuck = "s";
        tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_CONNECT, &err);
        check_lines((const char *const[]){ "1:2 t append 2" }, 1);
        tst_append(source, "t", "4", NULL, NULL);
        tst_append(source, "s", "5", NULL, NULL);
        tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_CONNECT, &err);
        check_lines((const char *const[]){ "1:2 t append 2", "1:4 t append 4" }, 2);
        assert_int_equal(got.numbers[0], 1);
        assert_int_equal(got.numbers[1], 2);
        ledger_bridge_destroy(&bridge);

        got.count = 0;
        got.stuck = NULL;
        tst_append(source, "s", "6", NULL, NULL);
        assert_int_equal(tst_bridge_once(source, sink, &o), 6);
        check_lines((const char *const[]){ "1:1 s append 1", "1:2 t append 2", "1:3 s append 3",
                                           "1:4 t append 4", "1:5 s append 5", "1:6 s append 6" },
                    6);
        for (size_t i = 0; i < 6; i++)
            assert_int_equal(got.numbers[i], i < 3 ? 1 : i < 5 ? 2 : 3);
        ledger_store_close(&sink);
    }
}

/* A trim that is tried again takes parked events with it that were on the list when the retry
 * looked: these are not delivered any more, and do not end it. */
static void a_retried_trim_takes_others_away(void **state)
{
    static const char *const log[] = {
        "{\"type\":\"trim\",\"stream\":\"s\",\"before_id\":\"3\"}",
        "{\"type\":\"trim\",\"stream\":\"s\",\"before_id\":\"2\"}",
        "{\"type\":\"trim\",\"stream\":\"t\",\"before_id\":\"1\"}",
    };
    static const char *const retried[] = { "1:3 s trim but 0", "1:1 t trim but 0" };
    ledger_store *source = tst_open(*state, TST_SQLITE, "source"), *sink = open_pure();
    ledger_bridge_options o;
    ledger_error err;
    uint64_t applied = 0, left = 9;
    state_options(*state, source, TST_SQLITE, &o);
    for (size_t i = 0; i < 3; i++)
        tst_log_text(source, log[i]);
    ledger_bridge *bridge = tst_bridge(source, sink, &o);
    got.refuse = "trim";
    assert_int_equal(tst_drain(bridge), 3);
    got.refuse = NULL;
    got.count = 0;
    tst_ok(ledger_bridge_retry(bridge, 0, &applied, &left, &err), &err);
    assert_int_equal(applied, 2);
    assert_int_equal(left, 0);
    check_lines(retried, 2);
    ledger_bridge_destroy(&bridge);
    ledger_store_close(&sink);
}

/* A sink that refuses what it was not given is broken, and nobody can tell what it means: neither a
 * batch nor a retry goes on. */
static void refuses_no_more_than_was_given(void **state)
{
    static const size_t too_many[] = { 1, SIZE_MAX };
    ledger_store *source = tst_open(*state, TST_SQLITE, "source"), *sink = open_pure();
    ledger_bridge_options o;
    ledger_error err;
    uint64_t applied = 0, left = 0;
    state_options(*state, source, TST_SQLITE, &o);
    tst_append(source, "s", "1", NULL, NULL);
    ledger_bridge *bridge = tst_bridge(source, sink, &o);
    got.refuse = "append 1";
    for (size_t i = 0; i < 2; i++) {
        got.too_many = too_many[i];
        tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_INTERNAL, &err);
    }
    got.too_many = 0;
    assert_int_equal(tst_drain(bridge), 1);

    for (size_t i = 0; i < 2; i++) {
        got.too_many = too_many[i];
        tst_fails(ledger_bridge_retry(bridge, 0, NULL, NULL, &err), LEDGER_ERR_INTERNAL, &err);
    }
    got.too_many = 0;
    got.refuse = NULL;
    tst_ok(ledger_bridge_retry(bridge, 0, &applied, &left, &err), &err);
    assert_int_equal(applied, 1);
    assert_int_equal(left, 0);
    check_lines((const char *const[]){ "1:1 s append 1" }, 1);
    ledger_bridge_destroy(&bridge);
    ledger_store_close(&sink);
}

/* The state store is away when all was delivered: it is waited for, and nothing comes twice. */
static void waits_for_the_state_store(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source"), *sink = open_pure();
    ledger_bridge_options o;
    ledger_error err;
    char path[1024], away[1024];
    state_options(*state, source, TST_SQLITE, &o);
    snprintf(path, sizeof(path), "%s", tst_path(*state, "state.db"));
    snprintf(away, sizeof(away), "%s", tst_path(*state, "away.db"));
    tst_append(source, "s", "1", NULL, NULL);
    ledger_bridge *bridge = tst_bridge(source, sink, &o);
    assert_int_equal(tst_drain(bridge), 1);
    tst_append(source, "s", "2", NULL, NULL);
    assert_int_equal(rename(path, away), 0);
    ledger_rc rc = ledger_bridge_poll(bridge, NULL, &err);
    assert_int_not_equal(rc, LEDGER_OK);
    assert_true((err.flags & LEDGER_ERROR_RETRY) != 0);
    assert_int_equal(rename(away, path), 0);
    assert_int_equal(tst_drain(bridge), 1);
    assert_int_equal(got.count, 2);
    ledger_bridge_destroy(&bridge);
    ledger_store_close(&sink);
}

/* A state store that is another table of the pair's. */
static void keeps_state_apart(void **state)
{
    ledger_store *source = tst_open(*state, TST_SQLITE, "source"), *sink = open_pure();
    ledger_store *store = tst_open(*state, TST_SQLITE, "store");
    char url[1024], beside[80];
    ledger_bridge *bridge = NULL;
    ledger_bridge_options o;
    ledger_error err;
    pure_options(&o, NULL);
    snprintf(url, sizeof(url), "%s", ledger_store_url(source));
    o.state_url = url;
    o.state_table = ledger_store_table(source);
    tst_fails(ledger_bridge_create(source, sink, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
    assert_non_null(strstr(err.message, "the state store (--state) is the table of the source"));
    static const char *const suffixes[] = { "_mutations", "_cursors", "_parked" };
    for (size_t i = 0; i < 3; i++) {
        snprintf(beside, sizeof(beside), "%s%s", ledger_store_table(source), suffixes[i]);
        o.state_table = beside;
        tst_fails(ledger_bridge_create(source, sink, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
        assert_non_null(strstr(err.message, "--state-table"));
    }
    /* In the words of what was given. */
    o.state_url = NULL;
    o.state_table = NULL;
    o.cursor_file = url + strlen("sqlite:");
    tst_fails(ledger_bridge_create(source, sink, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
    assert_non_null(strstr(err.message, "--cursor-file"));
    assert_non_null(strstr(err.message, "is the file of the source itself"));
    assert_int_equal(tst_query_int_on(source, "SELECT count(*) FROM sqlite_master WHERE name LIKE "
                                              "'ledger_state%%'"),
                     0);
    const char *copy = tst_path(*state, "copy.db");
    tst_exec_on(source, "VACUUM INTO '%s'", copy);
    o.cursor_file = copy;
    o.state_table = ledger_store_table(source);
    tst_fails(ledger_bridge_create(source, sink, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
    assert_non_null(
        strstr(err.message, "the state store (--cursor-file) is the table of the source"));
    tst_fails(ledger_bridge_create(source, store, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
    assert_non_null(strstr(err.message, "leave --cursor-file out"));
    o.state_url = url;
    o.state_table = NULL;
    o.cursor_file = "cursors.db";
    tst_fails(ledger_bridge_create(source, sink, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
    assert_non_null(strstr(err.message, "one of the two"));
    o.cursor_file = NULL;
    tst_fails(ledger_bridge_create(source, store, &o, &bridge, &err), LEDGER_ERR_INVALID, &err);
    assert_non_null(strstr(err.message, "leave --state"));
    o.state_url = "nosuch:thing";
    tst_fails(ledger_bridge_create(source, sink, &o, &bridge, &err), LEDGER_ERR_UNSUPPORTED, &err);
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

/* A sink that does not know entries by texts is given none, and nothing is lost. */
static void keeps_texts_aside(void **state)
{
    static const char reason[] = "entry id is a text, which this kind of sink cannot keep:";
    ledger_store *source = tst_open(*state, TST_MEMORY, "a?ids=text"), *sink = open_pure();
    const ledger_append_input input = { .payload = { "1", 1 } };
    struct parked_seen seen = { 0 };
    ledger_bridge_options o;
    ledger_ids ids;
    ledger_error err;
    state_options(*state, source, TST_MEMORY, &o);
    tst_ok(ledger_store_append(source, "s", &input, 1, &ids, &err), &err);
    tst_ok(ledger_store_trim(source, "s", ids.items[0], NULL, &err), &err);
    assert_int_equal(tst_bridge_once(source, sink, &o), 2);
    assert_int_equal(got.count, 0);
    ledger_store *kept = open_state(&o);
    tst_ok(ledger_bridge_parked_list(kept, see_parked, &seen, &err), &err);
    ledger_store_close(&kept);
    assert_int_equal(seen.count, 2);
    for (size_t i = 0; i < 2; i++)
        assert_memory_equal(seen.reasons[i], reason, sizeof(reason) - 1);
    ledger_ids_destroy(&ids);
    ledger_store_close(&sink);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, tst_setup, tst_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(takes_what_comes),
        T(comes_again_after_a_failure),
        T(knows_origins_apart),
        T(parks_in_the_state_store),
        T(trims_what_is_parked),
        T(delivers_each_once),
        T(counts_what_is_delivered),
        T(no_circle_of_two_logs),
        T(others_drop_and_retry),
        T(waits_for_the_state_store),
        T(keeps_state_apart),
        T(says_what_it_cannot_do),
        T(keeps_texts_aside),
        T(numbers_stay_as_they_were),
        T(a_retried_trim_takes_others_away),
        T(refuses_no_more_than_was_given),
    };
    return cmocka_run_group_tests_name("pure sink", tests, NULL, NULL);
}
