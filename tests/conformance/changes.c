/* What a program sees of store.h: changes, transactions, the log they leave, cursors, health. */
#include "conformance.h"

#include "base/clock.h"

/* --- changes --------------------------------------------------------------------------------- */

static const ledger_entry *only(ledger_batch *batch)
{
    assert_int_equal(ledger_batch_count(batch), 1);
    return ledger_batch_entry(batch, 0);
}

static void tags_replace(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    int64_t id = conf_append(store, "s", "1");
    int64_t other = conf_append(store, "t", "1");
    ledger_error err;
    ok(ledger_store_set_tags(store, "s", conf_id(id), conf_list("b", "a", "b"), &err));
    ledger_batch *batch = conf_read(store, "s", NULL);
    assert_true(conf_list_is(only(batch)->tags, "b,a,b"));
    assert_true(only(batch)->updated_at_us >= only(batch)->created_at_us);
    assert_int_equal(only(batch)->updated_at_us % ldg_store_time_precision_us(store), 0);
    ledger_batch_destroy(&batch);
    ok(ledger_store_set_tags(store, "s", conf_id(id), (ledger_list){ 0 }, &err));
    batch = conf_read(store, "s", NULL);
    assert_int_equal(only(batch)->tags.count, 0);
    ledger_batch_destroy(&batch);
    batch = conf_read(store, "t", NULL);
    assert_true(only(batch)->updated_at_us == LEDGER_NO_TIME);
    ledger_batch_destroy(&batch);

    fails(ledger_store_set_tags(store, "s", conf_id(other), conf_list("x"), &err), NOT_FOUND);
    fails(ledger_store_set_tags(store, "s", conf_id(other + 1), conf_list("x"), &err), NOT_FOUND);
    fails(ledger_store_set_tags(store, "s", conf_id(0), conf_list("x"), &err), INVALID);
    fails(ledger_store_set_tags(store, "s", (ledger_id){ 1, "1" }, conf_list("x"), &err), INVALID);
    fails(ledger_store_set_tags(store, "s", conf_id(id), conf_list("\xff"), &err), DATA);
    fails(ledger_store_set_tags(store, NULL, conf_id(id), conf_list("x"), &err), INVALID);
}

static void annotations_merge(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    int64_t id = conf_append(store, "s", "1");
    ledger_error err;
    ok(ledger_store_set_annotations(
        store, "s", conf_id(id), conf_map({ "k.x", "1" }, { "a", "2" }, { "gone", NULL }), &err));
    ok(ledger_store_set_annotations(
        store, "s", conf_id(id),
        conf_map({ "b", "" }, { "a", NULL }, { "c\n", "q\"\\\xe2\x80\xa8" }), &err));
    ledger_batch *batch = conf_read(store, "s", NULL);
    assert_true(conf_map_is(only(batch)->annotations, "b=,c\n=q\"\\\xe2\x80\xa8,k.x=1"));
    assert_true(only(batch)->updated_at_us >= only(batch)->created_at_us);
    ledger_batch_destroy(&batch);
    ok(ledger_store_set_annotations(
        store, "s", conf_id(id), conf_map({ "b", NULL }, { "c\n", NULL }, { "k.x", NULL }), &err));
    ok(ledger_store_set_annotations(store, "s", conf_id(id), (ledger_map){ 0 }, &err));
    batch = conf_read(store, "s", NULL);
    assert_int_equal(only(batch)->annotations.count, 0);
    ledger_batch_destroy(&batch);
    fails(ledger_store_set_annotations(store, "t", conf_id(id), conf_map({ "k", "v" }), &err),
          NOT_FOUND);
    fails(ledger_store_set_annotations(store, "s", conf_id(id), conf_map({ NULL, "v" }), &err),
          INVALID);
    fails(ledger_store_set_annotations(store, "s", conf_id(id), conf_map({ "k", "\xff" }), &err),
          DATA);
}

static void tags_and_annotations_live_side_by_side(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    const ledger_append_input input = { .payload = conf_bytes("1"),
                                        .tags = conf_list("first"),
                                        .metadata = conf_map({ "m", "1" }) };
    ledger_ids ids;
    ledger_error err;
    ok(ledger_store_append(store, "s", &input, 1, &ids, &err));
    const ledger_id id = ids.items[0];
    ok(ledger_store_set_annotations(store, "s", id, conf_map({ "k", "v" }), &err));
    ledger_batch *batch = conf_read(store, "s", NULL);
    assert_true(conf_list_is(only(batch)->tags, "first"));
    ledger_batch_destroy(&batch);
    ok(ledger_store_set_tags(store, "s", id, conf_list("second"), &err));
    batch = conf_read(store, "s", NULL);
    assert_true(conf_list_is(only(batch)->tags, "second"));
    assert_true(conf_map_is(only(batch)->annotations, "k=v"));
    assert_true(conf_map_is(only(batch)->metadata, "m=1"));
    ledger_batch_destroy(&batch);
    ledger_ids_destroy(&ids);
}

static void trim_deletes_up_to(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    int64_t ids[6];
    uint64_t deleted = 99;
    ledger_names names;
    ledger_error err;
    for (size_t i = 0; i < 6; i++)
        ids[i] = conf_append_dedup(store, i % 2 ? "t" : "s", "1", i == 0 ? "k" : NULL);
    ok(ledger_store_trim(store, "none", conf_id(ids[5]), &deleted, &err));
    assert_int_equal(deleted, 0);
    ok(ledger_store_trim(store, "s", conf_id(ids[3]), &deleted,
                         &err)); /* an id of the other stream */
    assert_int_equal(deleted, 2);
    conf_check_ids(store, "s", NULL, &ids[4], 1);
    assert_int_equal(conf_count(store, "t"), 3);
    assert_int_not_equal(conf_append_dedup(store, "s", "1", "k"), 0); /* the key is free again */
    ok(ledger_store_trim(store, "s", conf_id(INT64_MAX), NULL, NULL));
    ok(ledger_store_trim(store, "t", conf_id(INT64_MAX), &deleted, &err));
    assert_int_equal(deleted, 3);
    assert_int_equal(conf_count(store, NULL), 0);
    ok(ledger_store_list_streams(store, NULL, 0, &names, &err));
    assert_int_equal(names.count, 0);
    ledger_names_destroy(&names);
    assert_true(conf_append(store, "s", "1") > ids[5]);   /* ids are not used again */
    for (int64_t before = 0; before >= -5; before -= 5) { /* no entry has such an id */
        deleted = 7;
        ok(ledger_store_trim(store, "s", conf_id(before), &deleted, &err));
        assert_int_equal(deleted, 0);
    }
    fails(ledger_store_trim(store, "s", (ledger_id){ 0, "" }, &deleted, &err), INVALID);
    fails(ledger_store_trim(store, "\xff", conf_id(1), &deleted, &err), DATA);
    fails(ledger_store_set_tags(store, "s", conf_id(ids[0]), (ledger_list){ 0 }, &err), NOT_FOUND);
}

static void append_only_handle(struct conf_env *env)
{
    ledger_store *store = conf_open_with(env, "a", NULL, LEDGER_MUTATION_LOG_AUTO,
                                         LEDGER_STORE_CREATE | LEDGER_STORE_APPEND_ONLY);
    int64_t id = conf_append(store, "s", "1");
    ledger_error err;
    fails(ledger_store_set_tags(store, "s", conf_id(id), conf_list("x"), &err), UNSUPPORTED);
    fails(ledger_store_set_annotations(store, "s", conf_id(id), conf_map({ "k", "v" }), &err),
          UNSUPPORTED);
    assert_int_equal(ldg_store_caps(store) & (LDG_CAP_TAGS | LDG_CAP_ANNOTATIONS), 0);
    ok(ledger_store_trim(store, "s", conf_id(id), NULL, &err));
}

static void read_only_handle(struct conf_env *env)
{
    ledger_store *writer = conf_open(env, "a");
    int64_t id = conf_append(writer, "s", "1");
    ledger_store *store =
        conf_open_with(env, "a", NULL, LEDGER_MUTATION_LOG_AUTO, LEDGER_STORE_READ_ONLY);
    const ledger_append_input input = { .payload = conf_bytes("1") };
    struct ldg_cursor cursor;
    ledger_error err;
    fails(ledger_store_append(store, "s", &input, 1, NULL, &err), READ_ONLY);
    fails(ledger_store_set_tags(store, "s", conf_id(id), conf_list("x"), &err), READ_ONLY);
    fails(ledger_store_set_annotations(store, "s", conf_id(id), conf_map({ "k", "v" }), &err),
          READ_ONLY);
    fails(ledger_store_trim(store, "s", conf_id(id), NULL, &err), READ_ONLY);
    fails(ledger_store_begin(store, &err), READ_ONLY);
    fails(ledger_store_cursor_set(store, "c", "1", &err), READ_ONLY);
    fails(ldg_store_cursor_get(store, "c", true, &cursor, &err), READ_ONLY);
    fails(ldg_store_cursor_get(store, "c", false, &cursor, &err), NOT_FOUND);
    assert_int_equal(conf_count(store, "s"), 1);
    conf_append(writer, "s", "2");
    assert_int_equal(conf_count(store, "s"), 2);
    ok(ledger_store_health(store, &err));
}

/* --- transactions ---------------------------------------------------------------------------- */

static void transaction_commits(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a"), *other = conf_open(env, "a");
    ledger_mutation_event *events;
    ledger_error err;
    int64_t id = conf_append(store, "s", "0");
    ok(ledger_store_begin(store, &err));
    fails(ledger_store_begin(store, &err), INVALID);
    int64_t mine = conf_append(store, "s", "1");
    ok(ledger_store_set_tags(store, "s", conf_id(id), conf_list("x"), &err));
    ok(ledger_store_set_tags(store, "s", conf_id(mine), conf_list("y"), &err));
    ok(ledger_store_set_annotations(store, "s", conf_id(mine), conf_map({ "k", "v" }), &err));
    assert_int_equal(conf_count(store, "s"), 2); /* it sees what it did */
    assert_int_equal(conf_count(other, "s"), 1); /* nobody else does */
    assert_int_equal(conf_events(env, other, &events, NULL), 1);
    ledger_batch *batch = conf_read(other, "s", NULL);
    assert_int_equal(only(batch)->tags.count, 0);
    ledger_batch_destroy(&batch);
    ok(ledger_store_commit(store, &err));
    assert_int_equal(conf_count(other, "s"), 2);
    batch = conf_read(other, "s", NULL);
    assert_true(conf_list_is(ledger_batch_entry(batch, 0)->tags, "x"));
    assert_true(conf_list_is(ledger_batch_entry(batch, 1)->tags, "y"));
    assert_true(conf_map_is(ledger_batch_entry(batch, 1)->annotations, "k=v"));
    ledger_batch_destroy(&batch);
    assert_int_equal(conf_events(env, other, &events, NULL), 5);
    assert_int_equal(events[1].type, LEDGER_MUTATION_APPEND);
    assert_int_equal(events[2].type, LEDGER_MUTATION_SET_TAGS);
    assert_int_equal(events[4].type, LEDGER_MUTATION_SET_ANNOTATIONS);
    fails(ledger_store_commit(store, &err), INVALID);
}

static void transaction_rolls_back(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    ledger_mutation_event *events;
    ledger_error err;
    int64_t id = conf_append_dedup(store, "s", "0", "k0");
    ok(ledger_store_set_tags(store, "s", conf_id(id), conf_list("before"), &err));
    ok(ledger_store_begin(store, &err));
    conf_append_dedup(store, "s", "1", "k1");
    conf_append(store, "new", "1");
    ok(ledger_store_set_tags(store, "s", conf_id(id), conf_list("x"), &err));
    ok(ledger_store_set_annotations(store, "s", conf_id(id), conf_map({ "k", "v" }), &err));
    ok(ledger_store_trim(store, "s", conf_id(id), NULL, &err));
    assert_int_equal(conf_count(store, "s"), 1);
    ok(ledger_store_rollback(store, &err));
    ledger_batch *batch = conf_read(store, "s", NULL);
    assert_int_equal(only(batch)->id.number, id);
    assert_true(conf_list_is(only(batch)->tags, "before"));
    assert_int_equal(only(batch)->annotations.count, 0);
    ledger_batch_destroy(&batch);
    assert_int_equal(conf_count(store, NULL), 1);
    assert_int_equal(conf_events(env, store, &events, NULL), 2);
    assert_int_not_equal(conf_append_dedup(store, "s", "1", "k1"), 0);
    assert_int_equal(conf_append_dedup(store, "s", "1", "k0"), 0);
    /* a failing call inside a transaction undoes itself alone */
    ok(ledger_store_begin(store, &err));
    conf_append(store, "tx", "1");
    fails(ledger_store_set_tags(store, "tx", conf_id(id), conf_list("x"), &err), NOT_FOUND);
    conf_append(store, "tx", "2");
    ok(ledger_store_commit(store, &err));
    assert_int_equal(conf_count(store, "tx"), 2);
    /* closing rolls back */
    ledger_store *other = conf_open(env, "a");
    ok(ledger_store_begin(store, &err));
    conf_append(store, "tx", "3");
    conf_close(env, store);
    assert_int_equal(conf_count(other, "tx"), 2);
}

static void transaction_holds_its_rows(struct conf_env *env)
{
    ledger_store *a = conf_open(env, "a"), *b = conf_open(env, "a");
    ledger_error err;
    int64_t id = conf_append(a, "s", "0");
    ok(ledger_store_begin(a, &err));
    ok(ledger_store_set_tags(a, "s", conf_id(id), conf_list("a"), &err));
    fails(ledger_store_set_tags(b, "s", conf_id(id), conf_list("b"), &err), BUSY);
    assert_true(err.flags & LEDGER_ERROR_RETRY);
    ok(ledger_store_commit(a, &err));
    ok(ledger_store_set_tags(b, "s", conf_id(id), conf_list("b"), &err));
}

/* Only where transactions overlap: ids are drawn before the commit, the log is read by commits.
 */
static void transactions_overlap(struct conf_env *env)
{
    if (!env->backend->overlapping)
        return;
    ledger_store *a = conf_open(env, "a"), *b = conf_open(env, "a"), *c = conf_open(env, "a");
    const struct ldg_log_limits limits = { 100, SIZE_MAX };
    struct ldg_log_batch batch = { 0 };
    struct ldg_log_stat stat;
    char state[LDG_CURSOR_STATE_MAX];
    ledger_mutation_event event;
    ledger_id *kept;
    size_t kept_count;
    uint64_t deleted;
    ledger_error err;
    ok(ledger_store_begin(a, &err));
    int64_t first = conf_append_dedup(a, "s", "1", "k");
    const ledger_append_input same_key = { .payload = conf_bytes("1"), .dedup_key = "k" };
    fails(ledger_store_append(b, "s", &same_key, 1, NULL, &err), BUSY);
    int64_t second = conf_append(b, "s", "2");
    assert_true(first < second);
    ok(ledger_store_trim(b, "s", conf_id(second), &deleted, &err));
    assert_int_equal(deleted, 1); /* only what it saw */
    ldg_arena_init(&batch.arena, 0);
    ok(ldg_store_log_read(c, "", &limits, &batch, &err));
    assert_int_equal(batch.count, 2);
    ok(ldg_event_decode(batch.rows[1].payload, &env->arena, &event, &err));
    assert_int_equal(event.type, LEDGER_MUTATION_TRIM);
    const int64_t trimmed_at = batch.rows[1].position;
    assert_int_equal(batch.next_position, trimmed_at);
    ok(ldg_store_trim_survivors(c, 0, "s", ldg_id_of(second), &env->arena, &kept, &kept_count,
                                &err));
    assert_int_equal(kept_count, 0);
    /* what commits late comes late, under a position that is lower than what was read */
    memcpy(state, batch.next_state, sizeof(state));
    ok(ledger_store_commit(a, &err));
    ok(ldg_store_log_stat(c, state, &stat, &err));
    assert_int_equal(stat.backlog_count, 1);
    assert_int_equal(stat.head, trimmed_at);
    assert_true(stat.lowest > 0 && stat.lowest < trimmed_at);
    ok(ldg_store_log_read(c, state, &limits, &batch, &err));
    assert_int_equal(batch.count, 1);
    ok(ldg_event_decode(batch.rows[0].payload, &env->arena, &event, &err));
    assert_string_equal(event.entries[0].dedup_key, "k");
    assert_true(batch.rows[0].position < trimmed_at);
    assert_true(stat.lowest <= batch.rows[0].position);
    assert_int_equal(batch.next_position, trimmed_at);
    assert_false(batch.more);
    /* a cursor at a position passes over what is there now, not over what commits later */
    ok(ldg_store_log_cursor_at(c, trimmed_at, state, &err));
    ok(ldg_store_log_read(c, state, &limits, &batch, &err));
    assert_int_equal(batch.count, 0);
    ldg_arena_fini(&batch.arena);
    ok(ldg_store_trim_survivors(c, 0, "s", ldg_id_of(second), &env->arena, &kept, &kept_count,
                                &err));
    assert_int_equal(kept_count, 1);
    assert_int_equal(kept[0].number, first);
    /* a trim does not take an entry that another transaction changes */
    ok(ledger_store_begin(a, &err));
    ok(ledger_store_set_tags(a, "s", conf_id(first), conf_list("x"), &err));
    fails(ledger_store_trim(b, "s", conf_id(first), &deleted, &err), BUSY);
    ok(ledger_store_rollback(a, &err));
    /* nor does the dedup key of a deleted entry come free before the commit */
    ok(ledger_store_begin(a, &err));
    ok(ledger_store_trim(a, "s", conf_id(first), &deleted, &err));
    assert_int_not_equal(conf_append_dedup(a, "s", "\"again\"", "k"), 0);
    fails(ledger_store_append(b, "s", &same_key, 1, NULL, &err), BUSY);
    ok(ledger_store_rollback(a, &err));
    assert_int_equal(conf_append_dedup(b, "s", "1", "k"), 0);
}

/* --- the log --------------------------------------------------------------------------------- */

static void log_holds_the_appends(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    const ledger_append_input inputs[] = {
        { .payload = conf_bytes(" {\"a\" : 1.0} "),
          .order_key = "o",
          .dedup_key = "d",
          .schema_version = 3,
          .metadata = conf_map({ "z", "1" }, { "a", "2" }),
          .tags = conf_list("y", "x") },
        { .payload = conf_bytes("2") },
    };
    ledger_mutation_event *events;
    struct ldg_log_row *rows;
    ledger_error err;
    ok(ledger_store_append(store, "s \xc3\xa9", inputs, 2, NULL, &err));
    assert_int_equal(conf_events(env, store, &events, &rows), 1);
    ledger_batch *batch = conf_read(store, "s \xc3\xa9", NULL);
    assert_int_equal(events[0].type, LEDGER_MUTATION_APPEND);
    assert_string_equal(events[0].stream, "s \xc3\xa9");
    assert_int_equal(events[0].entry_count, 2);
    assert_string_equal(events[0].origin, "");
    assert_int_equal(events[0].origin_pos, 0);
    for (size_t i = 0; i < 2; i++) {
        const ledger_append_entry *e = &events[0].entries[i];
        const ledger_entry *row = ledger_batch_entry(batch, i);
        char id[32];
        snprintf(id, sizeof(id), "%lld", (long long)row->id.number);
        assert_string_equal(e->id, id);
        assert_int_equal(e->payload.size, row->payload.size);
        assert_memory_equal(e->payload.data, inputs[i].payload.data, inputs[i].payload.size);
        assert_string_equal(e->order_key, row->order_key);
        assert_string_equal(e->dedup_key, row->dedup_key);
        assert_int_equal(e->schema_version, row->schema_version);
        assert_true(ldg_map_equal(e->metadata, row->metadata));
        assert_true(ldg_list_equal(e->tags, row->tags));
        assert_true(e->created_at_us == row->created_at_us);
        assert_string_equal(e->source_id, "");
    }
    assert_true(events[0].created_at_us == ledger_batch_entry(batch, 0)->created_at_us);
    assert_true(rows[0].created_at_us == events[0].created_at_us);
    ledger_batch_destroy(&batch);
}

static void log_holds_the_changes(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    ledger_mutation_event *events;
    ledger_error err;
    char id[32], before[32];
    int64_t a = conf_append(store, "s", "1"), b = conf_append(store, "s", "2");
    snprintf(id, sizeof(id), "%lld", (long long)b);
    snprintf(before, sizeof(before), "%lld", (long long)a);
    ok(ledger_store_set_tags(store, "s", conf_id(b), conf_list("y", "x"), &err));
    ledger_batch *batch = conf_read(store, "s", NULL);
    const int64_t tagged_us = ledger_batch_entry(batch, 1)->updated_at_us;
    ledger_batch_destroy(&batch);
    ok(ledger_store_set_annotations(store, "s", conf_id(b), conf_map({ "z", NULL }, { "a", "1" }),
                                    &err));
    batch = conf_read(store, "s", NULL);
    const int64_t annotated_us = ledger_batch_entry(batch, 1)->updated_at_us;
    ledger_batch_destroy(&batch);
    const int64_t now_us = ldg_clock_now_us();
    ok(ledger_store_trim(store, "s", conf_id(a), NULL, &err));
    assert_int_equal(conf_events(env, store, &events, NULL), 5);
    assert_int_equal(events[2].type, LEDGER_MUTATION_SET_TAGS);
    assert_string_equal(events[2].stream, "s");
    assert_string_equal(events[2].entry_id, id);
    assert_true(conf_list_is(events[2].tags, "y,x"));
    assert_true(events[2].created_at_us == tagged_us);
    assert_string_equal(events[2].origin, "");
    assert_string_equal(events[2].entry_origin, "");
    assert_string_equal(events[2].source_id, "");
    assert_int_equal(events[3].type, LEDGER_MUTATION_SET_ANNOTATIONS);
    assert_string_equal(events[3].entry_id, id);
    assert_true(conf_map_is(events[3].annotations, "a=1,z=(null)"));
    assert_true(events[3].created_at_us == annotated_us);
    assert_int_equal(events[4].type, LEDGER_MUTATION_TRIM);
    assert_string_equal(events[4].before_id, before);
    assert_in_range(events[4].created_at_us, now_us - 999, ldg_clock_now_us());
    /* what fails leaves no event */
    fails(ledger_store_set_tags(store, "s", conf_id(a), conf_list("x"), &err), NOT_FOUND);
    assert_int_equal(conf_events(env, store, &events, NULL), 5);
    /* a trim that finds nothing leaves one: elsewhere there may be something */
    ok(ledger_store_trim(store, "none", conf_id(b), NULL, &err));
    ok(ledger_store_set_tags(store, "s", conf_id(b), (ledger_list){ 0 }, &err));
    assert_int_equal(conf_events(env, store, &events, NULL), 7);
    assert_int_equal(events[5].type, LEDGER_MUTATION_TRIM);
    assert_string_equal(events[5].stream, "none");
    assert_int_equal(events[6].tags.count, 0);
}

static void log_off_writes_none(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    ledger_store *off = conf_open_with(env, "a", NULL, LEDGER_MUTATION_LOG_OFF, 0);
    const struct ldg_log_limits limits = { 1, 1 };
    struct ldg_log_batch batch = { 0 };
    ledger_mutation_event *events;
    ledger_error err;
    int64_t id = conf_append(off, "s", "1");
    ok(ledger_store_set_tags(off, "s", conf_id(id), conf_list("x"), &err));
    ok(ledger_store_trim(off, "s", conf_id(id), NULL, &err));
    assert_int_equal(conf_events(env, store, &events, NULL), 0);
    fails(ldg_store_log_read(off, "", &limits, &batch, &err), SCHEMA);
}

/* --- cursors and health ---------------------------------------------------------------------- */

static void cursors_by_name(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    char text[LEDGER_ID_TEXT_MAX], longest[LEDGER_ID_TEXT_MAX + 1];
    ledger_names names;
    ledger_error err;
    memset(longest, '7', sizeof(longest));
    longest[LEDGER_ID_TEXT_MAX] = '\0';
    fails(ledger_store_cursor_get(store, "c", text, &err), NOT_FOUND);
    ok(ledger_store_cursor_set(store, "c", "0000000000000000005", &err));
    ok(ledger_store_cursor_set(store, "d \xc3\xa9'", "x", &err));
    ok(ledger_store_cursor_get(store, "c", text, &err));
    assert_string_equal(text, "0000000000000000005");
    ok(ledger_store_cursor_set(store, "c", "3", &err));
    ok(ledger_store_cursor_get(conf_open(env, "a"), "c", text, &err));
    assert_string_equal(text, "3");
    ok(ledger_store_cursor_get(store, "d \xc3\xa9'", text, &err));
    assert_string_equal(text, "x");
    ok(ledger_store_cursor_set(store, "c", longest + 1, &err));
    ok(ledger_store_cursor_get(store, "c", text, &err));
    assert_string_equal(text, longest + 1);
    ok(ldg_store_cursor_list(store, &names, &err));
    assert_int_equal(names.count, 2);
    assert_string_equal(names.items[0], "c");
    ledger_names_destroy(&names);
    ok(ledger_store_cursor_set(store, "D", "x", &err));
    ok(ldg_store_cursor_list(store, &names, &err));
    assert_int_equal(names.count, 3);
    assert_string_equal(names.items[0], "D"); /* bytewise */
    assert_string_equal(names.items[1], "c");
    assert_string_equal(names.items[2], "d \xc3\xa9'");
    ledger_names_destroy(&names);
    fails(ledger_store_cursor_set(store, "c", longest, &err), TOO_LARGE);
    fails(ledger_store_cursor_set(store, "c", NULL, &err), INVALID);
    fails(ledger_store_cursor_set(store, "", "1", &err), INVALID);
    fails(ledger_store_cursor_set(store, NULL, "1", &err), INVALID);
    fails(ledger_store_cursor_set(store, "c", "\xff", &err), DATA);
    fails(ledger_store_cursor_get(store, "c", NULL, &err), INVALID);
}

static void count_finding(void *ctx, ledger_severity severity, const char *subject,
                          const char *text)
{
    size_t *counts = ctx;
    assert_true((unsigned)severity <= LEDGER_FINDING_ERROR);
    assert_non_null(subject);
    assert_true(*text);
    counts[severity]++;
}

static void health_and_check(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    size_t counts[3] = { 0 };
    ledger_error err;
    ok(ledger_store_health(store, &err));
    ok(ledger_store_health(store, NULL));
    ok(ledger_store_check(store, count_finding, counts, &err));
    assert_true(counts[LEDGER_FINDING_OK] > 0);
    assert_int_equal(counts[LEDGER_FINDING_ERROR], 0);
}

static void many_entries(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    ledger_append_input *inputs = ldg_arena_calloc(&env->arena, 1000, sizeof(*inputs));
    char(*keys)[32] = ldg_arena_calloc(&env->arena, 1000, sizeof(*keys));
    uint64_t deleted = 0;
    ledger_error err;
    for (size_t round = 0; round < 20; round++) {
        for (size_t i = 0; i < 1000; i++) {
            snprintf(keys[i], sizeof(keys[i]), "%zu-%zu", round, i);
            inputs[i] = (ledger_append_input){ .payload = conf_bytes("1"), .dedup_key = keys[i] };
        }
        ok(ledger_store_append(store, round % 2 ? "a" : "b", inputs, 1000, NULL, &err));
    }
    assert_int_equal(conf_count(store, NULL), 20000);
    ledger_stream_stat stat;
    ok(ledger_store_stat(store, "a", &stat, &err));
    for (int64_t before = stat.first_id.number; before < stat.last_id.number; before += 997)
        ok(ledger_store_trim(store, "a", conf_id(before), &deleted, &err));
    ok(ledger_store_trim(store, "a", stat.last_id, &deleted, &err));
    assert_int_equal(conf_count(store, NULL), 10000);
    assert_int_equal(conf_count(store, "a"), 0);
    assert_int_not_equal(conf_append_dedup(store, "a", "1", "1-0"), 0);
    assert_int_equal(conf_append_dedup(store, "b", "1", "0-0"), 0);
}

#define TAGS_AND_LOG (LDG_CAP_TAGS | LDG_CAP_MUTATION_LOG)
#define ALL_CHANGES (TAGS_AND_LOG | LDG_CAP_ANNOTATIONS | LDG_CAP_TRIM)
const struct conf_case conf_change_cases[] = {
    { "tags replace", tags_replace, LDG_CAP_TAGS, 0 },
    { "annotations merge", annotations_merge, LDG_CAP_ANNOTATIONS, 0 },
    { "tags and annotations side by side", tags_and_annotations_live_side_by_side,
      LDG_CAP_TAGS | LDG_CAP_ANNOTATIONS, 0 },
    { "trim deletes up to", trim_deletes_up_to, LDG_CAP_TRIM | LDG_CAP_TAGS, 0 },
    { "append-only handle", append_only_handle, LDG_CAP_TRIM, 0 },
    { "read-only handle", read_only_handle, LDG_CAP_TX_CURSOR | LDG_CAP_TRANSACTIONS | ALL_CHANGES,
      0 },
    { "transaction commits", transaction_commits, LDG_CAP_TRANSACTIONS | ALL_CHANGES, 0 },
    { "transaction rolls back", transaction_rolls_back, LDG_CAP_TRANSACTIONS | ALL_CHANGES, 0 },
    { "transaction holds its rows", transaction_holds_its_rows, LDG_CAP_TRANSACTIONS | LDG_CAP_TAGS,
      0 },
    { "transactions overlap", transactions_overlap, LDG_CAP_TRANSACTIONS | ALL_CHANGES, 0 },
    { "log holds the appends", log_holds_the_appends, LDG_CAP_MUTATION_LOG, 0 },
    { "log holds the changes", log_holds_the_changes, ALL_CHANGES, 0 },
    { "log off writes none", log_off_writes_none, ALL_CHANGES, 0 },
    { "cursors by name", cursors_by_name, LDG_CAP_TX_CURSOR, 0, .alone = true },
    { "health and check", health_and_check, 0, 0, .alone = true },
    { "many entries", many_entries, LDG_CAP_TRIM, 0 },
};
const size_t conf_change_case_count = sizeof(conf_change_cases) / sizeof(conf_change_cases[0]);
