/* Parked events: kept, waited for, tried again, dropped. */
#include "sink.h"

#include "base/clock.h"

static size_t list(struct sink *sink, struct ldg_parked_row **ret_rows)
{
    size_t count = 0;
    ledger_error err;
    ok(ldg_store_parked_list(sink->store, 0, 1000, &sink->env->arena, ret_rows, &count, &err));
    return count;
}

static void parked_are_kept(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    uint64_t count = 0;
    size_t listed;
    ledger_error err;
    assert_int_equal(list(sink, &rows), 0);
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_park(sink, 0, "", "not JSON")->event = (ledger_bytes){ "\0\x01 odd bytes", 12 };
    struct ldg_op *op = sink_park(sink, 9, "s", "unknown type"); /* and nothing else of it */
    op->type_name = NULL;
    op->log_time_us = LEDGER_NO_TIME;
    sink_append(sink, sink->a, 2, "s", "2", NULL);
    sink_run(sink);
    sink_is(sink, "appa");
    sink_holds(sink, "s", "1 2");
    assert_int_equal(list(sink, &rows), 2);
    assert_string_equal(rows[0].source_uuid, sink->a_identity.uuid);
    assert_int_equal(rows[0].log_position, 2);
    assert_int_equal(rows[0].key.number, 0);
    assert_string_equal(rows[0].stream, "");
    assert_string_equal(rows[0].type_name, "odd");
    assert_string_equal(rows[0].reason, "not JSON");
    assert_int_equal(rows[0].attempts, 1);
    assert_true(ldg_clock_now_us() - rows[0].parked_at_us < 60 * 1000000);
    assert_true(rows[0].time_us / 1000 == SINK_TIME_US / 1000);
    assert_int_equal(rows[0].event.size, 12);
    assert_memory_equal(rows[0].event.data, "\0\x01 odd bytes", 12);
    assert_int_equal(rows[1].key.number, 9);
    assert_string_equal(rows[1].stream, "s");
    assert_string_equal(rows[1].type_name, "");
    assert_true(rows[1].time_us == LEDGER_NO_TIME);
    assert_true(rows[1].id > rows[0].id);
    ok(ldg_store_parked_list(sink->store, rows[0].id, 1, &env->arena, &rows, &listed, &err));
    assert_int_equal(listed, 1);
    assert_int_equal(rows[0].key.number, 9);
    ok(ldg_store_parked_count(sink->store, NULL, &count, &err));
    assert_int_equal(count, 2);
    ok(ldg_store_parked_count(sink->store, sink->a_identity.uuid, &count, &err));
    assert_int_equal(count, 2);
    ok(ldg_store_parked_count(sink->store, sink->b_identity.uuid, &count, &err));
    assert_int_equal(count, 0);
    /* again: the same rows */
    sink->position = 1;
    sink_park(sink, 0, "", "not JSON");
    sink_run(sink);
    sink_is(sink, "p");
    assert_int_equal(list(sink, &rows), 2);
    assert_int_equal(rows[0].attempts, 2);
    /* of another log */
    sink_park(sink, 0, "", "not JSON")->source_uuid = sink->b_identity.uuid;
    sink_run(sink);
    assert_int_equal(list(sink, &rows), 3);
    assert_string_equal(rows[2].source_uuid, sink->b_identity.uuid);
    ok(ldg_store_parked_count(sink->store, sink->b_identity.uuid, &count, &err));
    assert_int_equal(count, 1);
    ok(ldg_store_parked_list(sink->store, 0, 1, &env->arena, &rows, &listed, &err));
    assert_int_equal(listed, 1);
}

static void events_wait_behind_parked_ones(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_append(sink, sink->a, 2, "s", "2", NULL);
    sink_park(sink, 1, "s", "first");           /* log position 3 */
    sink_tags(sink, sink->a, 1, "s", "behind"); /* 4 */
    sink_tags(sink, sink->a, 2, "s", "free");   /* 5 */
    sink_annotate(sink, sink->a, 1, "s", "k", "behind too");
    sink_tags(sink, sink->b, 1, "s", "of another origin");
    sink_run(sink);
    sink_is(sink, "aappapm");
    sink_holds(sink, "s", "1 2[free]");
    assert_int_equal(list(sink, &rows), 3);
    assert_string_equal(rows[1].reason, "behind parked event 3");
    sink_tags(sink, sink->a, 1, "s", "in a later batch");
    sink_run(sink);
    sink_is(sink, "p");
    assert_int_equal(list(sink, &rows), 4);
}

static void changes_wait_for_unknown_entries(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    struct ldg_parked_row *rows;
    uint64_t dropped;
    bool applied;
    ledger_error err;
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_park(sink, 0, "", "cannot be read");
    sink_tags(sink, sink->a, 1, "s", "here");    /* its entry is here */
    sink_tags(sink, sink->a, 2, "s", "perhaps"); /* its entry may be in the parked event */
    sink_append(sink, sink->a, 3, "s", "3", NULL);
    sink_run(sink);
    sink_is(sink, "apapa");
    sink_holds(sink, "s", "1[here] 3");
    assert_int_equal(list(sink, &rows), 2);
    assert_int_equal(rows[1].key.number, 2);
    assert_string_equal(rows[1].reason, "its entry may be in parked event 2");
    /* where the stream is known, in that one alone */
    ok(ldg_store_parked_drop(sink->store, 0, &dropped, &err));
    sink_park(sink, 0, "s", "of a later version");
    sink_tags(sink, sink->a, 7, "s", "perhaps");
    sink_tags(sink, sink->a, 8, "t", "just not here");
    const struct ldg_op tags = sink->ops[1];
    sink_run(sink);
    sink_is(sink, "ppm");
    assert_int_equal(list(sink, &rows), 2);
    assert_int_equal(rows[1].key.number, 7);
    /* tried again it waits as long as that one is there, and then finds that its entry is not */
    ok(ldg_store_parked_retry(sink->store, rows[1].id, &tags, 1, &applied, &err));
    assert_false(applied);
    ok(ldg_store_parked_retry(sink->store, rows[0].id, NULL, 0, &applied, &err));
    assert_true(applied);
    ok(ldg_store_parked_retry(sink->store, rows[1].id, &tags, 1, &applied, &err));
    assert_true(applied);
    assert_int_equal(list(sink, &rows), 0);
}

static void trim_drops_what_is_parked(struct conf_env *env)
{
    static const ledger_id kept[] = { { .number = 4 } };
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    struct ldg_parked_row *rows;
    for (int64_t i = 2; i <= 6; i++)
        sink_park(sink, i, i == 5 ? "t" : "s", "r");
    sink_park(sink, 0, "s", "unknown entry");
    sink_run(sink);
    struct ldg_op *op = sink_trim(sink, sink->a, 5, "s");
    op->survivors = kept;
    op->survivor_count = 1;
    sink_run(sink);
    sink_is(sink, "a");
    assert_int_equal(list(sink, &rows), 4); /* 4 is kept, 5 is of t, 6 is later, and the unknown */
    assert_int_equal(rows[0].key.number, 4);
    assert_int_equal(rows[1].key.number, 5);
    sink_trim(sink, sink->b, 100, "s");
    sink_run(sink);
    assert_int_equal(list(sink, &rows), 4);
    sink_trim(sink, sink->a, 100, "s");
    sink_run(sink);
    assert_int_equal(list(sink, &rows), 2);
}

static void parked_are_tried_again(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    bool applied = false;
    ledger_error err;
    sink_park(sink, 1, "s", "later");
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_tags(sink, sink->a, 1, "s", "t");
    struct ldg_op append = sink->ops[1], tags = sink->ops[2];
    sink->ops[1].log_position = sink->ops[0].log_position + 1;
    sink_run(sink);
    sink_is(sink, "ppp");
    assert_int_equal(list(sink, &rows), 3);
    /* not before the one in front of it */
    ok(ldg_store_parked_retry(sink->store, rows[2].id, &tags, 1, &applied, &err));
    assert_false(applied);
    assert_int_equal(list(sink, &rows), 3);
    assert_int_equal(rows[2].attempts, 2);
    assert_string_equal(rows[2].reason, "behind parked event 1");
    ok(ldg_store_parked_retry(sink->store, rows[0].id, NULL, 0, &applied, &err));
    assert_true(applied);
    ok(ldg_store_parked_retry(sink->store, rows[1].id, &append, 1, &applied, &err));
    assert_true(applied);
    ok(ldg_store_parked_retry(sink->store, rows[2].id, &tags, 1, &applied, &err));
    assert_true(applied);
    sink_holds(sink, "s", "1[t]");
    assert_int_equal(list(sink, &rows), 0);
    fails(ldg_store_parked_retry(sink->store, 1, &append, 1, &applied, &err), NOT_FOUND);
}

static void parked_go_when_they_work(struct conf_env *env)
{
    /* The cursor was set back, and what could not be done then can be done now. */
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    sink_park(sink, 1, "s", "refused");
    sink_run(sink);
    sink->position = 0;
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_run(sink);
    sink_is(sink, "a");
    sink_holds(sink, "s", "1");
    assert_int_equal(list(sink, &rows), 0);
}

static void own_changes_never_wait(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_park(sink, 1, "s", "r");
    sink_tags(sink, sink->a, 1, "s", "t")->mutation_origin = 0;
    sink_tags(sink, sink->a, 1, "s", "t");
    sink_run(sink);
    sink_is(sink, "aprp");
    assert_int_equal(list(sink, &rows), 2);
    sink->position = 1; /* and take away what is parked in their place */
    sink_tags(sink, sink->a, 1, "s", "t")->mutation_origin = 0;
    sink_run(sink);
    sink_is(sink, "r");
    assert_int_equal(list(sink, &rows), 1);
    assert_int_equal(rows[0].log_position, 4);
    sink_holds(sink, "s", "1");
}

static void parked_trims_go_when_they_come_again(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    sink_park(sink, 0, "", "cannot be read")->type_name = "";
    sink_run(sink);
    sink->position = 0;
    sink_trim(sink, sink->a, 5, "s");
    sink_run(sink);
    sink_is(sink, "r");
    assert_int_equal(list(sink, &rows), 0);
}

static void a_retry_parks_nothing_anew(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    bool applied = true;
    ledger_error err;
    sink_park(sink, 1, "s", "first");
    struct ldg_op op = sink->ops[0];
    sink_run(sink);
    list(sink, &rows);
    op.reason = "again";
    ok(ldg_store_parked_retry(sink->store, rows[0].id, &op, 1, &applied, &err));
    assert_false(applied);
    assert_int_equal(list(sink, &rows), 1);
    assert_int_equal(rows[0].attempts, 2);
    assert_string_equal(rows[0].reason, "again");
}

static void parked_of_others_change_nothing(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_ON);
    struct ldg_parked_row *rows;
    ledger_mutation_event *events;
    struct ldg_op *op = sink_park(sink, 1, "s", "r"); /* the same id and stream, of b */
    op->origin = sink->b;
    op->source_uuid = sink->b_identity.uuid;
    sink_park(sink, 7, "t", "r");
    sink_run(sink);
    sink_append(sink, sink->a, 1, "s", "1", "k");
    sink_append(sink, sink->a, 2, "s", "2", "k");
    sink_append(sink, sink->a, 3, "s", "3", NULL);
    sink_tags(sink, sink->a, 3, "s", "t");
    sink_annotate(sink, sink->a, 3, "s", "k", "v");
    sink_tags(sink, sink->a, 4, "s", "t");
    sink_trim(sink, sink->a, 1, "s");
    sink_run(sink);
    sink_is(sink, "adaaama");
    sink_holds(sink, "s", "3[t]{k=v}");
    assert_int_equal(list(sink, &rows), 2);
    assert_int_equal(conf_events(env, sink->store, &events, NULL), 5);
}

static void parked_again_is_replaced(struct conf_env *env)
{
    /* The source was put back, and another event has the position now. */
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    ledger_error err;
    sink_park(sink, 3, "s", "first");
    sink_park(sink, 4, "s", "another");
    sink_append(sink, sink->a, 9, "s", "9", NULL);
    sink_run(sink);
    const int64_t id = (list(sink, &rows), rows[0].id);
    for (int fails_too = 1; fails_too >= 0; fails_too--) {
        sink->position = 0;
        struct ldg_op *op = sink_park(sink, 3, "t", "second");
        op->origin = sink->b;
        op->type_name = "later";
        op->event = conf_bytes("{\"v\":2}");
        op->log_time_us += 5000000;
        if (fails_too) {
            sink_append(sink, sink->a, 9, "s", "other", NULL);
            fails(sink_try(sink, &err), POSITION_REUSED);
            assert_int_equal(list(sink, &rows), 2);
            assert_string_equal(rows[0].reason, "first");
            assert_int_equal(rows[0].attempts, 1);
        } else {
            sink_run(sink);
        }
    }
    assert_int_equal(list(sink, &rows), 2);
    assert_true(rows[0].id == id && rows[1].id > id);
    assert_int_equal(rows[0].attempts, 2);
    assert_string_equal(rows[0].reason, "second");
    assert_string_equal(rows[0].stream, "t");
    assert_string_equal(rows[0].type_name, "later");
    assert_int_equal(rows[0].event.size, 7);
    assert_memory_equal(rows[0].event.data, "{\"v\":2}", 7);
    assert_true(rows[0].time_us / 1000 == (SINK_TIME_US + 5000000) / 1000);
    sink_trim(sink, sink->b, 3, "t"); /* it is b's entry now */
    sink_run(sink);
    assert_int_equal(list(sink, &rows), 1);
}

static void two_never_wait_for_each_other(struct conf_env *env)
{
    /* Two logs bring changes of one entry, and one of them was read again from before. */
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    static const int64_t positions[] = { 2, 1, 1 };
    struct ldg_parked_row *rows;
    struct ldg_op retry[3];
    bool applied;
    ledger_error err;
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    sink_run(sink);
    for (size_t i = 0; i < 3; i++) {
        sink_park(sink, 1, "s", "r");
        retry[i] = sink->ops[0];
        retry[i].kind = LDG_OP_SET_TAGS;
        retry[i].log_position = sink->ops[0].log_position = positions[i];
        if (i == 1)
            retry[i].source_uuid = sink->ops[0].source_uuid = sink->b_identity.uuid;
        sink_run(sink);
    }
    assert_int_equal(list(sink, &rows), 3);
    static const struct {
        int row;
        bool works;
    } steps[] = { { 0, false }, { 1, false }, { 2, true }, { 1, false }, { 0, true }, { 1, true } };
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        const int row = steps[i].row;
        ok(ldg_store_parked_retry(sink->store, rows[row].id, &retry[row], 1, &applied, &err));
        assert_int_equal(applied, steps[i].works);
    }
    assert_int_equal(list(sink, &rows), 0);
}

static void replays_are_never_parked(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    sink->park_rejected = true;
    sink_append(sink, sink->a, 1, "bad", "1", NULL);
    sink_run(sink);
    env->backend->refuse(conf_url(env, "sink"), LEDGER_DEFAULT_TABLE, "bad");
    sink_tags(sink, sink->a, 1, "bad", "t");
    sink_run(sink);
    sink_is(sink, "p");
    sink->position = 0; /* the cursor was set back */
    sink_append(sink, sink->a, 1, "bad", "1", NULL);
    sink_tags(sink, sink->a, 1, "bad", "t");
    sink_run(sink);
    sink_is(sink, "rp");
    sink_append(sink, sink->a, 1, "bad", "1", NULL); /* by another way, behind what is parked */
    sink->ops[0].source_uuid = sink->b_identity.uuid;
    sink->ops[0].time_us = SINK_TIME_US + 1000000; /* of the first one */
    sink_run(sink);
    sink_is(sink, "r");
    assert_int_equal(list(sink, &rows), 1);
    assert_int_equal(rows[0].log_position, 2);
}

/* A row that was trimmed or dropped meanwhile must not bring its entry back. */
static void parked_rows_that_are_gone(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    struct ldg_parked_row *rows;
    uint64_t dropped = 99;
    bool applied = true;
    ledger_error err;
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    const struct ldg_op append = sink->ops[0];
    sink->count = 0;
    for (int trim = 0; trim < 2; trim++) {
        sink->position = 0;
        sink_park(sink, 1, "s", "r");
        sink_run(sink);
        assert_int_equal(list(sink, &rows), 1);
        if (trim) {
            sink_trim(sink, sink->a, 1, "s");
            sink_run(sink);
        } else {
            ok(ldg_store_parked_drop(sink->store, rows[0].id, &dropped, &err));
            assert_int_equal(dropped, 1);
        }
        fails(ldg_store_parked_retry(sink->store, rows[0].id, &append, 1, &applied, &err),
              NOT_FOUND);
        fails(ldg_store_parked_retry(sink->store, rows[0].id, NULL, 0, &applied, &err), NOT_FOUND);
        fails(ldg_store_parked_note(sink->store, rows[0].id, "r", &err), NOT_FOUND);
        sink_holds(sink, "s", "");
    }
}

static void a_retry_does_not_reuse_a_position(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    struct ldg_parked_row *rows;
    bool applied = true;
    ledger_error err;
    sink_append(sink, sink->a, 1, "s", "1", NULL);
    const struct ldg_op append = sink->ops[0];
    sink->count = 0;
    sink->position = 0;
    sink_park(sink, 0, "", "cannot be read"); /* yet, and what nobody knows keeps no append */
    sink_append(sink, sink->a, 1, "s", "7", NULL);
    sink_run(sink);
    sink_is(sink, "pa");
    list(sink, &rows);
    ok(ldg_store_parked_retry(sink->store, rows[0].id, &append, 1, &applied, &err));
    assert_false(applied);
    assert_int_equal(list(sink, &rows), 1);
    assert_int_equal(rows[0].attempts, 2);
    assert_non_null(strstr(rows[0].reason, "was carried before with another payload"));
    sink_holds(sink, "s", "7");
}

static void parked_notes_and_drops(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    uint64_t dropped = 0;
    ledger_error err;
    for (int64_t i = 1; i <= 4; i++)
        sink_park(sink, i, "s", "r");
    sink_run(sink);
    list(sink, &rows);
    ok(ldg_store_parked_note(sink->store, rows[1].id, "still \"odd\"", &err));
    fails(ldg_store_parked_note(sink->store, rows[3].id + 1, "x", &err), NOT_FOUND);
    list(sink, &rows);
    assert_int_equal(rows[1].attempts, 2);
    assert_string_equal(rows[1].reason, "still \"odd\"");
    ok(ldg_store_parked_drop(sink->store, rows[0].id, &dropped, &err));
    assert_int_equal(dropped, 1);
    fails(ldg_store_parked_drop(sink->store, rows[0].id, &dropped, &err), NOT_FOUND);
    ok(ldg_store_parked_drop(sink->store, 0, &dropped, &err));
    assert_int_equal(dropped, 3);
    ok(ldg_store_parked_drop(sink->store, 0, &dropped, &err));
    assert_int_equal(dropped, 0);
}

static void refused_events_stop_or_park(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    ledger_mutation_event *events;
    bool applied = true;
    ledger_error err;
    env->backend->refuse(conf_url(env, "sink"), LEDGER_DEFAULT_TABLE, "bad");
    for (int park = 0; park < 2; park++) {
        sink->park_rejected = park;
        sink->position = 0;
        sink_append(sink, sink->a, 1, "good", "1", NULL);
        sink_append(sink, sink->a, 2, "bad", "2", NULL);
        sink_append(sink, sink->a, 3, "good", "3", NULL);
        sink_tags(sink, sink->a, 2, "bad", "t");
        sink_tags(sink, sink->a, 3, "good", "t");
        if (!park) {
            const struct ldg_cursor before = sink->cursor;
            fails(sink_try(sink, &err), REJECTED);
            assert_int_equal(err.done_count, 1);
            assert_non_null(strstr(err.message, "refuse")); /* as the database says it */
            ok(ldg_store_cursor_get(sink->store, "c", false, &sink->cursor, &err));
            assert_string_equal(sink->cursor.state, before.state);
            assert_int_equal(conf_count(sink->store, NULL), 0);
            assert_int_equal(conf_events(env, sink->store, &events, NULL), 0);
        } else {
            sink_run(sink);
            sink_is(sink, "apapa");
        }
    }
    sink_holds(sink, "good", "1 3[t]");
    assert_int_equal(conf_events(env, sink->store, &events, NULL), 3);
    assert_int_equal(events[0].origin_pos, 1);
    assert_int_equal(events[1].origin_pos, 3);
    assert_int_equal(events[2].origin_pos, 5);
    assert_int_equal(list(sink, &rows), 2);
    assert_int_equal(rows[0].log_position, 2);
    assert_int_equal(rows[0].key.number, 2);
    assert_string_equal(rows[0].stream, "bad");
    assert_string_equal(rows[0].type_name, "append");
    assert_non_null(strstr(rows[0].reason, "refuse"));
    assert_int_equal(rows[0].event.size, 11);
    assert_memory_equal(rows[0].event.data, "{\"event\":2}", 11);
    assert_int_equal(rows[1].log_position, 4);
    assert_string_equal(rows[1].type_name, "set_tags");
    assert_string_equal(rows[1].reason, "behind parked event 2");

    sink->position = 1;
    sink_append(sink, sink->a, 2, "bad", "2", NULL);
    struct ldg_op op = sink->ops[0];
    sink->count = 0;
    ok(ldg_store_parked_retry(sink->store, rows[0].id, &op, 1, &applied, &err));
    assert_false(applied);
    assert_int_equal(list(sink, &rows), 2);
    assert_int_equal(rows[0].attempts, 2);
    env->backend->refuse(conf_url(env, "sink"), LEDGER_DEFAULT_TABLE, NULL);
    ok(ldg_store_parked_retry(sink->store, rows[0].id, &op, 1, &applied, &err));
    assert_true(applied);
    sink_holds(sink, "bad", "2");
    assert_int_equal(conf_events(env, sink->store, &events, NULL), 4);
}

static bool retry(struct sink *sink, size_t row, const struct ldg_op *op)
{
    struct ldg_parked_row *rows;
    bool applied = false;
    ledger_error err;
    assert_true(list(sink, &rows) > row);
    ok(ldg_store_parked_retry(sink->store, rows[row].id, op, op != NULL, &applied, &err));
    return applied;
}

/* Append, tags, annotations of one entry: each only behind the one before it. */
static void refused_events_go_in_order(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    struct ldg_parked_row *rows;
    struct ldg_op ops[3];
    sink->park_rejected = true;
    env->backend->refuse(conf_url(env, "sink"), LEDGER_DEFAULT_TABLE, "bad");
    sink_append(sink, sink->a, 1, "bad", "1", NULL);
    sink_tags(sink, sink->a, 1, "bad", "x");
    sink_annotate(sink, sink->a, 1, "bad", "a", "b");
    memcpy(ops, sink->ops, sizeof(ops));
    sink_run(sink);
    sink_is(sink, "ppp");
    assert_false(retry(sink, 0, &ops[0]));
    assert_false(retry(sink, 1, &ops[1])); /* still behind the first */
    assert_int_equal(list(sink, &rows), 3);
    assert_non_null(strstr(rows[0].reason, "refuse"));
    assert_string_equal(rows[1].reason, "behind parked event 1");
    assert_string_equal(rows[2].reason, "behind parked event 1");
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(rows[i].attempts, i < 2 ? 2 : 1);
    env->backend->refuse(conf_url(env, "sink"), LEDGER_DEFAULT_TABLE, NULL);
    assert_false(retry(sink, 2, &ops[2]));
    for (size_t i = 0; i < 3; i++)
        assert_true(retry(sink, 0, &ops[i]));
    sink_holds(sink, "bad", "1[x]{a=b}");
    assert_int_equal(list(sink, &rows), 0);
    sink_tags(sink, sink->a, 1, "bad", "y"); /* what comes next goes straight through */
    sink_run(sink);
    sink_is(sink, "a");
    sink_holds(sink, "bad", "1[y]{a=b}");
}

/* Once the database takes them, they leave the list when they come again. */
static void refused_events_come_again(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    struct ldg_parked_row *rows;
    sink->park_rejected = true;
    env->backend->refuse(conf_url(env, "sink"), LEDGER_DEFAULT_TABLE, "bad");
    for (uint64_t attempt = 1; attempt <= 3; attempt++) {
        if (attempt == 3)
            env->backend->refuse(conf_url(env, "sink"), LEDGER_DEFAULT_TABLE, NULL);
        sink->position = 0;
        sink_append(sink, sink->a, 1, "bad", "1", NULL);
        sink_run(sink);
        sink_is(sink, attempt < 3 ? "p" : "a");
        assert_int_equal(list(sink, &rows), attempt < 3);
        if (attempt < 3)
            assert_int_equal(rows[0].attempts, attempt);
    }
    sink_holds(sink, "bad", "1");
}

/* An event of several entries is kept as one for each, with all that the entry has. */
static void refused_entries_keep_their_keys(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    ledger_mutation_event event = ldg_event_blank(LEDGER_MUTATION_APPEND, "bad", SINK_TIME_US);
    ledger_append_entry entries[2];
    struct ldg_parked_row *rows;
    struct ldg_buf buf;
    ledger_error err;
    sink->park_rejected = true;
    env->backend->refuse(conf_url(env, "sink"), LEDGER_DEFAULT_TABLE, "bad");
    entries[0] = *sink_append(sink, sink->a, 1, "bad", "1", "first")->entry;
    entries[1] = *sink_append(sink, sink->a, 2, "bad", "2", "second")->entry;
    event.entries = entries;
    event.entry_count = 2;
    ldg_buf_init(&buf, 65536);
    ok(ldg_event_encode(&event, &buf, &err));
    for (size_t i = 0; i < 2; i++) {
        sink->ops[i].event = (ledger_bytes){ buf.data, buf.size };
        sink->ops[i].log_position = 1;
    }
    sink_run(sink);
    ldg_buf_fini(&buf);
    sink_is(sink, "pp");
    assert_int_equal(list(sink, &rows), 2);
    for (size_t i = 0; i < 2; i++) {
        ok(ldg_event_decode(rows[i].event, &env->arena, &event, &err));
        assert_int_equal(event.entry_count, 1);
        assert_string_equal(event.entries[0].id, entries[i].id);
        assert_string_equal(event.entries[0].dedup_key, entries[i].dedup_key);
    }
}

/* A trim that the sink refused, as it is kept. */
static void park_trim(struct sink *sink, int origin, int64_t before, const char *stream)
{
    struct ldg_op *op = sink_park(sink, before, stream, "refused");
    op->type_name = "trim";
    op->origin = origin;
}

static void appends_wait_for_their_key(struct conf_env *env)
{
    /* The trim would have set the key free: what uses it again waits, with what belongs to it. */
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    sink_append(sink, sink->a, 1, "s", "1", "k");
    sink_append(sink, sink->a, 2, "s", "2", "later");
    sink_run(sink);
    park_trim(sink, sink->a, 1, "s");                 /* log position 3 */
    sink_append(sink, sink->a, 3, "s", "3", "k");     /* waits */
    sink_tags(sink, sink->a, 3, "s", "t");            /* of that entry */
    sink_append(sink, sink->a, 4, "s", "4", "later"); /* the trim does not reach that far */
    sink_append(sink, sink->a, 5, "t", "5", "k");     /* another stream */
    sink_append(sink, sink->a, 6, "s", "6", "free");
    const struct ldg_op append = sink->ops[1], tags = sink->ops[2];
    struct ldg_op trim = sink->ops[0];
    sink_run(sink);
    sink_is(sink, "pppdaa");
    assert_int_equal(list(sink, &rows), 3);
    assert_string_equal(rows[1].reason, "its dedup key may be set free by parked event 3");
    assert_string_equal(rows[2].reason, "behind parked event 4");
    sink_append(sink, sink->a, 7, "s", "7", "k"); /* in a batch of its own */
    const struct ldg_op again = sink->ops[0];
    sink_run(sink);
    sink_is(sink, "p");
    sink_append(sink, sink->a, 8, "s", "8", "new"); /* others go on */
    sink_run(sink);
    sink_is(sink, "a");
    assert_false(retry(sink, 1, &append)); /* not before the trim */
    trim.kind = LDG_OP_TRIM;
    assert_true(retry(sink, 0, &trim));
    assert_true(retry(sink, 0, &append));
    assert_true(retry(sink, 0, &tags));
    assert_true(retry(sink, 0, &again)); /* a duplicate now */
    assert_int_equal(list(sink, &rows), 0);
    sink_holds(sink, "s", "2 6 8 3[t]");
}

static void keys_are_dropped_with_their_trim(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    uint64_t dropped;
    ledger_error err;
    sink_append(sink, sink->a, 1, "s", "1", "k");
    park_trim(sink, sink->a, 1, "s");
    sink_append(sink, sink->a, 2, "s", "2", "k");
    const struct ldg_op append = sink->ops[2];
    sink_run(sink);
    sink_is(sink, "app");
    list(sink, &rows);
    ok(ldg_store_parked_drop(sink->store, rows[0].id, &dropped, &err));
    assert_true(retry(sink, 0, &append));
    assert_int_equal(list(sink, &rows), 0);
    sink_holds(sink, "s", "1");
}

static void a_later_trim_ends_the_wait(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    sink_append(sink, sink->a, 1, "s", "1", "k");
    park_trim(sink, sink->a, 1, "s");
    sink_append(sink, sink->a, 2, "s", "2", "k");
    sink_trim(sink, sink->a, 2, "s"); /* takes along what the parked one was to delete */
    sink_append(sink, sink->a, 3, "s", "3", "k");
    sink_run(sink);
    sink_is(sink, "appaa");
    assert_int_equal(list(sink, &rows), 0);
    sink_holds(sink, "s", "3");
}

static void keys_wait_for_their_own_trim_only(struct conf_env *env)
{
    static const struct {
        int type; /* 0 trim of a, 1 trim of b, 2 of a later version, 3 cannot be read, 4 append */
        int64_t entry;
        const char *stream;
        bool waits, other_waits; /* an append of the same log, of another one */
    } cases[] = {
        { 0, 1, "s", true, true },   { 0, 2, "s", true, true },   { 0, 1, "t", false, false },
        { 0, 0, "s", true, false },  { 1, 1, "s", false, false }, { 2, 0, "s", true, false },
        { 2, 9, "s", true, false },  { 2, 0, "", true, false },   { 2, 0, "t", false, false },
        { 3, 0, "s", true, false },  { 3, 0, "", true, false },   { 4, 0, "s", false, false },
        { 4, 8, "s", false, false },
    };
    static const char *const types[] = { "trim", "trim", "erase", "", "append" };
    struct ldg_parked_row *rows;
    uint64_t dropped;
    ledger_error err;
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    sink_append(sink, sink->a, 1, "s", "1", "k");
    sink_run(sink);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ldg_op *op = sink_park(sink, cases[i].entry, cases[i].stream, "r");
        op->type_name = types[cases[i].type];
        op->origin = cases[i].type == 1 ? sink->b : sink->a;
        sink_append(sink, sink->a, 5, "s", "5", "k");
        sink_append(sink, sink->b, 5, "s", "5", "k")->source_uuid = sink->b_identity.uuid;
        sink_run(sink);
        assert_int_equal(sink->outcomes[1],
                         cases[i].waits ? LDG_OUTCOME_PARKED : LDG_OUTCOME_DEDUPLICATED);
        assert_int_equal(sink->outcomes[2],
                         cases[i].other_waits ? LDG_OUTCOME_PARKED : LDG_OUTCOME_DEDUPLICATED);
        list(sink, &rows);
        ok(ldg_store_parked_drop(sink->store, 0, &dropped, &err));
    }
    sink_holds(sink, "s", "1");
}

/* A state store is asked for those that may concern a batch, and not for all that it has. */
static void parked_near_a_batch(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    size_t count = 99;
    ledger_error err;
    sink_append(sink, sink->a, 7, "s", "7", NULL);
    ok(ldg_store_parked_near(sink->store, sink->ops, 1, &env->arena, &rows, &count, &err));
    assert_int_equal(count, 0);
    sink->count = 0;
    for (int64_t i = 1; i <= 100; i++) {
        sink->count = 0;
        sink_park(sink, i, i % 2 ? "s" : "t", "r")->log_position = 1000 + i;
        sink_run(sink);
    }
    sink_park(sink, 0, "u", "of a stream")->log_position = 2000;
    sink_park(sink, 0, "", "of no stream")->log_position = 2001;
    sink_park(sink, 7, "s", "of another origin")->origin = sink->b;
    sink->ops[2].log_position = 2002;
    sink_run(sink);
    /* its own event, its entry's, and what may have brought it */
    sink_tags(sink, sink->a, 7, "u", "t")->log_position = 1042;
    ok(ldg_store_parked_near(sink->store, sink->ops, 1, &env->arena, &rows, &count, &err));
    sink->count = 0;
    bool own = false, entry = false, stream = false, unknown = false;
    for (size_t i = 0; i < count; i++) {
        own |= rows[i].log_position == 1042 && rows[i].key.number == 42;
        entry |= rows[i].log_position == 1007 && rows[i].origin == sink->a &&
                 strcmp(rows[i].stream, "s") == 0 && strcmp(rows[i].reason, "r") == 0 &&
                 strcmp(rows[i].source_uuid, sink->a_identity.uuid) == 0 && rows[i].id > 0;
        stream |= rows[i].log_position == 2000;
        unknown |= rows[i].log_position == 2001;
        assert_int_equal(rows[i].event.size, 0);
    }
    assert_true(own && entry && stream && unknown);
    assert_true(count < 12); /* perhaps the other origin's, perhaps one twice */
    ok(ldg_store_parked_near(sink->store, NULL, 0, &env->arena, &rows, &count, &err));
    assert_int_equal(count, 0);
}

#define PARKING                                                                                    \
    (LDG_CAP_ATOMIC_BATCH | LDG_CAP_TX_CURSOR | LDG_CAP_ORIGINS | LDG_CAP_PARK | LDG_CAP_TAGS |    \
     LDG_CAP_ANNOTATIONS | LDG_CAP_TRIM | LDG_CAP_MUTATION_LOG)
const struct conf_case conf_parked_cases[] = {
    { "parked are kept", parked_are_kept, PARKING, 0, .alone = true },
    { "events wait behind parked ones", events_wait_behind_parked_ones, PARKING, 0, .alone = true },
    { "changes wait for unknown entries", changes_wait_for_unknown_entries, PARKING, 0,
      .alone = true },
    { "trim drops what is parked", trim_drops_what_is_parked, PARKING, 0, .alone = true },
    { "parked are tried again", parked_are_tried_again, PARKING, 0, .alone = true },
    { "parked go when they work", parked_go_when_they_work, PARKING, 0, .alone = true },
    { "own changes never wait", own_changes_never_wait, PARKING, 0, .alone = true },
    { "parked trims go when they come again", parked_trims_go_when_they_come_again, PARKING, 0,
      .alone = true },
    { "a retry parks nothing anew", a_retry_parks_nothing_anew, PARKING, 0, .alone = true },
    { "parked of others change nothing", parked_of_others_change_nothing, PARKING, 0 },
    { "parked again is replaced", parked_again_is_replaced, PARKING, 0, .alone = true },
    { "parked near a batch", parked_near_a_batch, PARKING, 0, .alone = true },
    { "two never wait for each other", two_never_wait_for_each_other, PARKING, 0, .alone = true },
    { "appends wait for their key", appends_wait_for_their_key, PARKING, 0 },
    { "keys are dropped with their trim", keys_are_dropped_with_their_trim, PARKING, 0 },
    { "a later trim ends the wait", a_later_trim_ends_the_wait, PARKING, 0 },
    { "keys wait for their own trim only", keys_wait_for_their_own_trim_only, PARKING, 0 },
    { "replays are never parked", replays_are_never_parked, PARKING,
      offsetof(struct conf_backend, refuse), .alone = true },
    { "parked notes and drops", parked_notes_and_drops, PARKING, 0, .alone = true },
    { "refused events stop or park", refused_events_stop_or_park, PARKING,
      offsetof(struct conf_backend, refuse) },
    { "parked rows that are gone", parked_rows_that_are_gone, PARKING, 0, .alone = true },
    { "a retry does not reuse a position", a_retry_does_not_reuse_a_position, PARKING, 0,
      .alone = true },
    { "refused events go in order", refused_events_go_in_order, PARKING,
      offsetof(struct conf_backend, refuse), .alone = true },
    { "refused events come again", refused_events_come_again, PARKING,
      offsetof(struct conf_backend, refuse), .alone = true },
    { "refused entries keep their keys", refused_entries_keep_their_keys, PARKING,
      offsetof(struct conf_backend, refuse), .alone = true },
};
const size_t conf_parked_case_count = sizeof(conf_parked_cases) / sizeof(conf_parked_cases[0]);
