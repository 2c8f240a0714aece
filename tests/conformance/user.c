/* What a program sees of store.h: opening, appending, bad input, reading. */
#include "conformance.h"

/* --- open ------------------------------------------------------------------------------------ */

static ledger_rc try_open(struct conf_env *env, const char *database, const char *table,
                          ledger_log_mode log, uint32_t flags, ledger_store **ret_store,
                          ledger_error *err)
{
    ledger_store_options options;
    ledger_store_options_defaults(&options);
    options.url = conf_url(env, database);
    options.table = table;
    options.log = log;
    options.flags = flags;
    return ledger_store_open(&options, ret_store, err);
}

static void open_without_create(struct conf_env *env)
{
    ledger_store *store = NULL;
    ledger_error err;
    assert_int_not_equal(try_open(env, "a", NULL, LEDGER_MUTATION_LOG_AUTO, 0, &store, &err),
                         LEDGER_OK);
    assert_null(store);
    conf_open(env, "a");
    fails(try_open(env, "a", "other", LEDGER_MUTATION_LOG_AUTO, 0, &store, &err), SCHEMA);
    ok(try_open(env, "a", NULL, LEDGER_MUTATION_LOG_AUTO, 0, &store, &err));
    assert_true(ledger_store_has_log(store));
    ledger_store_close(&store);
    assert_null(store);
}

static void open_log_modes(struct conf_env *env)
{
    ledger_store *store = NULL;
    ledger_error err;
    ledger_store *off = conf_open_with(env, "a", "t", LEDGER_MUTATION_LOG_OFF, 0);
    assert_false(ledger_store_has_log(off));
    conf_append(off, "s", "1");
    fails(try_open(env, "a", "t", LEDGER_MUTATION_LOG_ON, 0, &store, &err), SCHEMA);
    ok(try_open(env, "a", "t", LEDGER_MUTATION_LOG_AUTO, 0, &store, &err));
    assert_false(ledger_store_has_log(store));
    ledger_store_close(&store);
    ok(try_open(env, "a", "t", LEDGER_MUTATION_LOG_ON, LEDGER_STORE_CREATE, &store, &err));
    assert_true(ledger_store_has_log(store));
    ledger_store_close(&store);
    ok(try_open(env, "a", "t", LEDGER_MUTATION_LOG_AUTO, 0, &store, &err));
    assert_true(ledger_store_has_log(store));
    ledger_store_close(&store);
}

static void open_describes_itself(struct conf_env *env)
{
    ledger_store *store = conf_open_with(env, "a", "orders", LEDGER_MUTATION_LOG_AUTO, 0);
    assert_string_equal(ledger_store_table(store), "orders");
    assert_string_equal(ledger_store_backend(store), env->backend->name);
    assert_string_equal(ledger_store_url(store), conf_url(env, "a"));
    assert_string_equal(ledger_store_table(conf_open(env, "b")), LEDGER_DEFAULT_TABLE);
}

static void identity_stays(struct conf_env *env)
{
    struct ldg_identity first, again, other, fresh;
    ledger_error err;
    ledger_store *a = conf_open(env, "a");
    ok(ldg_store_identity(a, &first, &err));
    assert_int_equal(strlen(first.uuid), 36);
    ok(ldg_store_identity(conf_open(env, "a"), &again, &err));
    assert_string_equal(first.uuid, again.uuid);
    assert_int_equal(first.epoch, again.epoch);
    ok(ldg_store_identity(conf_open_with(env, "a", "t2", LEDGER_MUTATION_LOG_AUTO, 0), &other,
                          &err));
    assert_string_not_equal(first.uuid, other.uuid);
    ok(ldg_store_identity(conf_open_with(env, "a", NULL, LEDGER_MUTATION_LOG_AUTO,
                                         LEDGER_STORE_CREATE | LEDGER_STORE_NEW_IDENTITY),
                          &fresh, &err));
    assert_string_not_equal(first.uuid, fresh.uuid);
}

static void tables_are_apart(struct conf_env *env)
{
    ledger_store *t1 = conf_open_with(env, "a", "t1", LEDGER_MUTATION_LOG_AUTO, 0);
    ledger_store *t2 = conf_open_with(env, "a", "t2", LEDGER_MUTATION_LOG_AUTO, 0);
    ledger_mutation_event *events;
    conf_append_dedup(t1, "s", "1", "k");
    assert_int_equal(conf_count(t2, NULL), 0);
    assert_int_not_equal(conf_append_dedup(t2, "s", "2", "k"), 0);
    assert_int_equal(conf_count(t1, NULL), 1);
    assert_int_equal(conf_events(env, t1, &events, NULL), 1);
    assert_int_equal(conf_events(env, t2, &events, NULL), 1);
}

/* --- append ---------------------------------------------------------------------------------- */

static void append_gives_ids(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    ledger_append_input inputs[3] = { { .payload = conf_bytes("1") },
                                      { .payload = conf_bytes("2") },
                                      { .payload = conf_bytes("3") } };
    ledger_ids ids = { 0 };
    ledger_error err;
    ok(ledger_store_append(store, "s", inputs, 3, &ids, &err));
    assert_int_equal(ids.count, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_true(ids.items[i].number > (i ? ids.items[i - 1].number : 0));
        assert_null(ids.items[i].text);
    }
    ledger_ids_destroy(&ids);
    assert_null(ids.items);
    assert_int_equal(ids.count, 0);
    ok(ledger_store_append(store, "s", inputs, 1, NULL, NULL));
    ok(ledger_store_append(store, "s", NULL, 0, &ids, &err));
    assert_int_equal(ids.count, 0);
    ledger_ids_destroy(&ids);
    assert_int_equal(conf_count(store, "s"), 4);
}

static void append_keeps_every_byte(struct conf_env *env)
{
    static const char *const payloads[] = {
        "{\"b\":1,\"a\":2}",
        " { \"a\" : 1.00e+2 , \"a\" : [ ] }\n",
        "\t123456789012345678901234567890.00000000001\r\n",
        "\"<script>&\\u003c\\/ \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"",
        "null",
        "true",
        "\"\"",
        "[]",
        "-0",
    };
    const size_t count = sizeof(payloads) / sizeof(payloads[0]);
    ledger_store *store = conf_open(env, "a");
    const ledger_append_input full = {
        .payload = conf_bytes("{}"),
        .order_key = "order \xe2\x82\xac '\"",
        .dedup_key = "dedup%_",
        .schema_version = 7,
        .metadata =
            conf_map({ "z", "" }, { "a\"b", "c\\d\n" }, { "k.l", "\xc3\xa9" }, { "z", "last" }),
        .tags = conf_list("two words", "a\"b", "a\"b", ""),
    };
    ledger_error err;
    for (size_t i = 0; i < count; i++)
        conf_append(store, "stream \xc3\xa9/'\"%", payloads[i]);
    ok(ledger_store_append(store, "stream \xc3\xa9/'\"%", &full, 1, NULL, &err));

    const int64_t now_us = ldg_clock_now_us();
    ledger_batch *batch = conf_read(store, "stream \xc3\xa9/'\"%", NULL);
    assert_int_equal(ledger_batch_count(batch), count + 1);
    for (size_t i = 0; i < count; i++) {
        const ledger_entry *e = ledger_batch_entry(batch, i);
        assert_int_equal(e->payload.size, strlen(payloads[i]));
        assert_memory_equal(e->payload.data, payloads[i], e->payload.size);
        assert_string_equal(e->stream, "stream \xc3\xa9/'\"%");
        assert_string_equal(e->order_key, "");
        assert_string_equal(e->dedup_key, "");
        assert_int_equal(e->schema_version, 1);
        assert_int_equal(e->metadata.count + e->tags.count + e->annotations.count, 0);
        assert_string_equal(e->source_id, "");
        assert_string_equal(e->origin, "");
        assert_true(e->updated_at_us == LEDGER_NO_TIME);
        assert_int_equal(e->created_at_us % ldg_store_time_precision_us(store), 0);
        assert_true(e->created_at_us <= now_us && e->created_at_us > now_us - 600000000);
    }
    const ledger_entry *e = ledger_batch_entry(batch, count);
    assert_string_equal(e->order_key, full.order_key);
    assert_string_equal(e->dedup_key, full.dedup_key);
    assert_int_equal(e->schema_version, 7);
    assert_true(conf_map_is(e->metadata, "a\"b=c\\d\n,k.l=\xc3\xa9,z=last"));
    assert_true(conf_list_is(e->tags, "two words,a\"b,a\"b,"));
    assert_null(ledger_batch_entry(batch, count + 1));
    ledger_batch_destroy(&batch);
    assert_null(batch);
}

static void append_skips_known_keys(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    const ledger_append_input inputs[] = {
        { .payload = conf_bytes("1"), .dedup_key = "k1" },
        { .payload = conf_bytes("2"), .dedup_key = "k1" },
        { .payload = conf_bytes("3"), .dedup_key = "" },
        { .payload = conf_bytes("4") },
        { .payload = conf_bytes("5"), .dedup_key = "k2" },
        { .payload = conf_bytes("6"), .dedup_key = "K1" },
    };
    ledger_mutation_event *events;
    ledger_ids ids;
    ledger_error err;
    ok(ledger_store_append(store, "s", inputs, 6, &ids, &err));
    assert_int_equal(ids.count, 5);
    ledger_ids_destroy(&ids);
    ok(ledger_store_append(store, "s", inputs, 6, &ids, &err));
    assert_int_equal(ids.count, 2);
    ledger_ids_destroy(&ids);
    ok(ledger_store_append(store, "s", inputs, 2, &ids, &err));
    assert_int_equal(ids.count, 0);
    ledger_ids_destroy(&ids);
    assert_int_not_equal(conf_append_dedup(store, "t", "1", "k1"), 0);
    assert_int_equal(conf_count(store, "s"), 7);

    ledger_batch *batch = conf_read(store, "s", NULL);
    assert_memory_equal(ledger_batch_entry(batch, 0)->payload.data, "1", 1);
    ledger_batch_destroy(&batch);
    /* the events carry what was written, and there is none for nothing */
    assert_int_equal(conf_events(env, store, &events, NULL), 3);
    assert_int_equal(events[0].entry_count, 5);
    assert_int_equal(events[1].entry_count, 2);
    assert_int_equal(events[2].entry_count, 1);
}

static void append_all_or_nothing(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    ledger_append_input inputs[] = { { .payload = conf_bytes("1") },
                                     { .payload = conf_bytes("oops") },
                                     { .payload = conf_bytes("3") } };
    ledger_mutation_event *events;
    ledger_ids ids = { .count = 77 };
    ledger_error err;
    fails(ledger_store_append(store, "s", inputs, 3, &ids, &err), DATA);
    assert_int_equal(ids.count, 77);
    assert_non_null(strstr(err.message, "entry 2 of 3"));
    assert_non_null(strstr(err.message, "wrap plain text in quotes"));
    assert_int_equal(conf_count(store, NULL), 0);
    assert_int_equal(conf_events(env, store, &events, NULL), 0);
}

static void append_to_empty_name(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    ledger_names names;
    ledger_error err;
    conf_append(store, "", "1");
    assert_int_equal(conf_count(store, ""), 1);
    ok(ledger_store_list_streams(store, NULL, 0, &names, &err));
    assert_int_equal(names.count, 1);
    assert_string_equal(names.items[0], "");
    ledger_names_destroy(&names);
    ok(ledger_store_list_streams(store, "", 0, &names, &err));
    assert_int_equal(names.count, 0);
    ledger_names_destroy(&names);
}

/* --- bad input ------------------------------------------------------------------------------- */

static char *repeat(struct conf_env *env, char c, size_t count)
{
    char *text = ldg_arena_alloc(&env->arena, count + 1);
    memset(text, c, count);
    text[count] = '\0';
    return text;
}

static void bad_payloads(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    char *deep = repeat(env, '[', 10000);
    const struct {
        const char *payload;
        ledger_rc want;
    } rows[] = {
        { "", LEDGER_ERR_INVALID },
        { " ", LEDGER_ERR_DATA },
        { "hello", LEDGER_ERR_DATA },
        { "{\"a\":1", LEDGER_ERR_DATA },
        { "{'a':1}", LEDGER_ERR_DATA },
        { "[1,]", LEDGER_ERR_DATA },
        { "1 2", LEDGER_ERR_DATA },
        { "01", LEDGER_ERR_DATA },
        { "NaN", LEDGER_ERR_DATA },
        { "\"\xff\"", LEDGER_ERR_DATA },
        { "\"\xed\xa0\x80\"", LEDGER_ERR_DATA },
        { "\"a\nb\"", LEDGER_ERR_DATA },
        { deep, LEDGER_ERR_DATA },
    };
    ledger_error err;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const ledger_append_input input = { .payload = conf_bytes(rows[i].payload) };
        fails_at(ledger_store_append(store, "s", &input, 1, NULL, &err), rows[i].want, &err,
                 rows[i].payload, __FILE__, __LINE__);
        assert_int_equal(err.flags & LEDGER_ERROR_RETRY, 0);
    }
    const ledger_append_input huge = { .payload = { "1", (size_t)1 << 30 } };
    fails(ledger_store_append(store, "s", &huge, 1, NULL, &err), TOO_LARGE);
    const ledger_append_input none = { .payload = { NULL, 3 } };
    fails(ledger_store_append(store, "s", &none, 1, NULL, &err), INVALID);
    assert_int_equal(conf_count(store, NULL), 0);
}

static void bad_values(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    const char *long_stream = repeat(env, 's', LEDGER_MAX_STREAM_BYTES + 1);
    const char *long_key = repeat(env, 'k', LEDGER_MAX_KEY_BYTES + 1);
    const char *long_value = repeat(env, 'v', LEDGER_MAX_VALUE_BYTES + 1);
    const char **many = ldg_arena_calloc(&env->arena, LEDGER_MAX_ITEMS + 1, sizeof(*many));
    for (size_t i = 0; i <= LEDGER_MAX_ITEMS; i++)
        many[i] = "t";
    const ledger_bytes p = conf_bytes("1");
    const struct {
        const char *stream;
        ledger_append_input input;
        ledger_rc want;
    } rows[] = {
        { NULL, { .payload = p }, LEDGER_ERR_INVALID },
        { "\xff", { .payload = p }, LEDGER_ERR_DATA },
        { "\xc0\xaf", { .payload = p }, LEDGER_ERR_DATA },
        { long_stream, { .payload = p }, LEDGER_ERR_TOO_LARGE },
        { "s", { .payload = p, .order_key = "\xff" }, LEDGER_ERR_DATA },
        { "s", { .payload = p, .order_key = long_key }, LEDGER_ERR_TOO_LARGE },
        { "s", { .payload = p, .dedup_key = "\xff" }, LEDGER_ERR_DATA },
        { "s", { .payload = p, .dedup_key = long_key }, LEDGER_ERR_TOO_LARGE },
        { "s", { .payload = p, .schema_version = -1 }, LEDGER_ERR_INVALID },
        { "s", { .payload = p, .tags = conf_list("\xff") }, LEDGER_ERR_DATA },
        { "s", { .payload = p, .tags = conf_list(long_key) }, LEDGER_ERR_TOO_LARGE },
        { "s", { .payload = p, .tags = { many, LEDGER_MAX_ITEMS + 1 } }, LEDGER_ERR_TOO_LARGE },
        { "s", { .payload = p, .tags = { NULL, 1 } }, LEDGER_ERR_INVALID },
        { "s", { .payload = p, .metadata = conf_map({ "k", NULL }) }, LEDGER_ERR_INVALID },
        { "s", { .payload = p, .metadata = conf_map({ NULL, "v" }) }, LEDGER_ERR_INVALID },
        { "s", { .payload = p, .metadata = conf_map({ "\xff", "v" }) }, LEDGER_ERR_DATA },
        { "s", { .payload = p, .metadata = conf_map({ "k", "\xff" }) }, LEDGER_ERR_DATA },
        { "s", { .payload = p, .metadata = conf_map({ long_key, "v" }) }, LEDGER_ERR_TOO_LARGE },
        { "s", { .payload = p, .metadata = conf_map({ "k", long_value }) }, LEDGER_ERR_TOO_LARGE },
        { "s", { .payload = p, .metadata = { NULL, 1 } }, LEDGER_ERR_INVALID },
    };
    ledger_error err;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char row[32];
        snprintf(row, sizeof(row), "row %zu", i);
        fails_at(ledger_store_append(store, rows[i].stream, &rows[i].input, 1, NULL, &err),
                 rows[i].want, &err, row, __FILE__, __LINE__);
        assert_int_equal(ledger_store_append(store, rows[i].stream, &rows[i].input, 1, NULL, NULL),
                         rows[i].want);
    }
    fails(ledger_store_append(store, "s", NULL, 1, NULL, &err), INVALID);
    const ledger_append_input good = { .payload = p };
    fails(ledger_store_append(store, "s", &good, LEDGER_MAX_APPEND_ENTRIES + 1, NULL, &err),
          TOO_LARGE);
    assert_int_equal(conf_count(store, NULL), 0);
    /* just within the limits */
    const ledger_append_input largest = {
        .payload = p,
        .order_key = long_key + 1,
        .dedup_key = long_key + 1,
        .metadata = conf_map({ long_key + 1, long_value + 1 }),
        .tags = { many, LEDGER_MAX_ITEMS },
    };
    ok(ledger_store_append(store, long_stream + 1, &largest, 1, NULL, &err));
    assert_int_equal(conf_count(store, long_stream + 1), 1);
}

static void bad_arguments(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    ledger_batch *batch = NULL;
    ledger_names names = { 0 };
    ledger_stream_stat stat;
    uint64_t count = 0;
    char text[LEDGER_ID_TEXT_MAX];
    ledger_error err;
    ledger_read_options o = { .size = sizeof(o), .limit = LEDGER_READ_LIMIT_MAX + 1 };
    fails(ledger_store_read(store, "s", &o, &batch, &err), INVALID);
    o = (ledger_read_options){ .size = sizeof(o), .has_after = true, .after = { 0, "x" } };
    fails(ledger_store_read(store, "s", &o, &batch, &err), INVALID);
    o = (ledger_read_options){ .size = sizeof(o), .metadata = conf_map({ "k", NULL }) };
    fails(ledger_store_read(store, "s", &o, &batch, &err), INVALID);
    o = (ledger_read_options){ .size = sizeof(o), .tag = "\xff" };
    fails(ledger_store_read(store, "s", &o, &batch, &err), DATA);
    fails(ledger_store_read(store, "s", NULL, NULL, &err), INVALID);
    fails(ledger_store_count(store, "s", NULL, &err), INVALID);
    fails(ledger_store_count(store, "\xff", &count, &err), DATA);
    fails(ledger_store_stat(store, "s", NULL, &err), INVALID);
    fails(ledger_store_list_streams(store, NULL, 0, NULL, &err), INVALID);
    fails(ledger_store_list_streams(store, NULL, LEDGER_READ_LIMIT_MAX + 1, &names, &err), INVALID);
    fails(ledger_store_check(store, NULL, NULL, &err), INVALID);
    fails(ledger_store_commit(store, &err), INVALID);
    fails(ledger_store_rollback(store, &err), INVALID);
    assert_null(batch);
    /* a closed store */
    fails(ledger_store_append(NULL, "s", NULL, 0, NULL, &err), CLOSED);
    fails(ledger_store_set_tags(NULL, "s", conf_id(1), (ledger_list){ 0 }, &err), CLOSED);
    fails(ledger_store_set_annotations(NULL, "s", conf_id(1), (ledger_map){ 0 }, &err), CLOSED);
    fails(ledger_store_trim(NULL, "s", conf_id(1), NULL, &err), CLOSED);
    fails(ledger_store_read(NULL, "s", NULL, &batch, &err), CLOSED);
    fails(ledger_store_search(NULL, "s", "x", NULL, &batch, &err), CLOSED);
    fails(ledger_store_count(NULL, "s", &count, &err), CLOSED);
    fails(ledger_store_stat(NULL, "s", &stat, &err), CLOSED);
    fails(ledger_store_list_streams(NULL, NULL, 0, &names, &err), CLOSED);
    fails(ledger_store_begin(NULL, &err), CLOSED);
    fails(ledger_store_commit(NULL, &err), CLOSED);
    fails(ledger_store_rollback(NULL, &err), CLOSED);
    fails(ledger_store_health(NULL, &err), CLOSED);
    fails(ledger_store_cursor_get(NULL, "c", text, &err), CLOSED);
    fails(ledger_store_cursor_set(NULL, "c", "1", &err), CLOSED);
    assert_int_equal(ledger_store_count(NULL, NULL, &count, NULL), LEDGER_ERR_CLOSED);
    ledger_store_close(NULL);
}

/* --- reading --------------------------------------------------------------------------------- */

void conf_check_ids(ledger_store *store, const char *stream, const ledger_read_options *o,
                    const int64_t *want, size_t count)
{
    ledger_batch *batch = conf_read(store, stream, o);
    assert_int_equal(ledger_batch_count(batch), count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ledger_batch_entry(batch, i)->id.number, want[i]);
    ledger_batch_destroy(&batch);
}

static void read_in_pages(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    int64_t ids[250], all[400];
    size_t all_count = 0;
    for (size_t i = 0; i < 250; i++) {
        ids[i] = all[all_count++] = conf_append(store, "s", "1");
        if (i % 3 == 0)
            all[all_count++] = conf_append(store, "other", "2");
    }
    ledger_read_options o = { .size = sizeof(o) };
    conf_check_ids(store, "s", NULL, ids, LEDGER_READ_LIMIT_DEFAULT);
    conf_check_ids(store, "s", &o, ids, LEDGER_READ_LIMIT_DEFAULT);
    o.limit = LEDGER_READ_LIMIT_MAX;
    conf_check_ids(store, "s", &o, ids, 250);
    o = (ledger_read_options){ .size = sizeof(o), .limit = 7, .has_after = true };
    for (size_t at = 0; at < 250; at += 7) {
        const size_t left = 250 - at;
        conf_check_ids(store, "s", &o, &ids[at], left < 7 ? left : 7);
        o.after.number = ids[at + (left < 7 ? left : 7) - 1];
    }
    conf_check_ids(store, "s", &o, NULL, 0);

    int64_t down[250];
    for (size_t i = 0; i < 250; i++)
        down[i] = ids[249 - i];
    o = (ledger_read_options){ .size = sizeof(o), .limit = 11, .descending = true };
    for (size_t at = 0; at < 250; at += 11) {
        const size_t left = 250 - at;
        conf_check_ids(store, "s", &o, &down[at], left < 11 ? left : 11);
        o.has_after = true;
        o.after.number = down[at + (left < 11 ? left : 11) - 1];
    }
    conf_check_ids(store, "s", &o, NULL, 0);
    /* No entry has such an id: from the beginning. */
    for (int64_t after = 0; after >= -1; after--) {
        o = (ledger_read_options){
            .size = sizeof(o), .limit = 5, .has_after = true, .after = conf_id(after)
        };
        conf_check_ids(store, "s", &o, ids, 5);
        o.descending = true;
        conf_check_ids(store, "s", &o, down, 5);
    }
    o = (ledger_read_options){ .size = sizeof(o), .has_after = true, .after = conf_id(INT64_MIN) };
    conf_check_ids(store, "s", &o, ids, LEDGER_READ_LIMIT_DEFAULT);
    o = (ledger_read_options){ .size = sizeof(o), .has_after = true, .after = conf_id(INT64_MAX) };
    conf_check_ids(store, "s", &o, NULL, 0);
    o.descending = true;
    o.limit = 3;
    conf_check_ids(store, "s", &o, down, 3);
    conf_check_ids(store, "no such stream", NULL, NULL, 0);
    o = (ledger_read_options){ .size = sizeof(o), .limit = LEDGER_READ_LIMIT_MAX };
    conf_check_ids(store, NULL, &o, all, all_count);
}

static void read_ends_by_bytes(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    char *payload = repeat(env, '1', 1000);
    int64_t ids[5];
    for (size_t i = 0; i < 5; i++)
        ids[i] = conf_append(store, "s", payload);
    ledger_read_options o = { .size = sizeof(o), .max_bytes = 1 };
    conf_check_ids(store, "s", &o, ids, 1);
    o.max_bytes = 1000 * 1000;
    conf_check_ids(store, "s", &o, ids, 5);
    o.max_bytes = 2500;
    ledger_batch *batch = conf_read(store, "s", &o);
    assert_in_range(ledger_batch_count(batch), 2, 3);
    ledger_batch_destroy(&batch);
}

static void read_with_filters(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    const ledger_append_input inputs[] = {
        { .payload = conf_bytes("0"),
          .order_key = "a",
          .tags = conf_list("x", "y"),
          .metadata = conf_map({ "k", "1" }, { "l", "2" }) },
        { .payload = conf_bytes("1"),
          .order_key = "a",
          .tags = conf_list("x"),
          .metadata = conf_map({ "k", "1" }) },
        { .payload = conf_bytes("2"), .order_key = "b", .tags = conf_list("y", "z", "x") },
        { .payload = conf_bytes("3"), .metadata = conf_map({ "k", "2" }) },
        { .payload = conf_bytes("4"), .order_key = "A", .tags = conf_list("X", "xy", "a\"b") },
        { .payload = conf_bytes("5"),
          .tags = conf_list("\"q\\\n\xc3\xa4"),
          .metadata = conf_map({ "\"k", "v\\" }) },
    };
    ledger_ids got;
    ledger_error err;
    ok(ledger_store_append(store, "s", inputs, 6, &got, &err));
    int64_t id[6];
    for (size_t i = 0; i < 6; i++)
        id[i] = got.items[i].number;
    ledger_ids_destroy(&got);
    ok(ledger_store_append(store, "t", inputs, 1, NULL, &err)); /* is not asked for */
    ledger_read_options o = { .size = sizeof(o), .order_key = "a" };
    conf_check_ids(store, "s", &o, id, 2);
    o = (ledger_read_options){ .size = sizeof(o), .tag = "x" };
    conf_check_ids(store, "s", &o, id, 3);
    o = (ledger_read_options){ .size = sizeof(o), .tag = "a\"b" };
    conf_check_ids(store, "s", &o, &id[4], 1);
    o = (ledger_read_options){ .size = sizeof(o), .tag = "x", .limit = 1, .descending = true };
    conf_check_ids(store, "s", &o, &id[2], 1);
    o = (ledger_read_options){ .size = sizeof(o), .tag = "x", .all_tags = conf_list("y") };
    conf_check_ids(store, "s", &o, (int64_t[]){ id[0], id[2] }, 2);
    o = (ledger_read_options){ .size = sizeof(o),
                               .tag = "\"q\\\n\xc3\xa4",
                               .all_tags = conf_list("\"q\\\n\xc3\xa4"),
                               .metadata = conf_map({ "\"k", "v\\" }) };
    conf_check_ids(store, "s", &o, &id[5], 1);
    o = (ledger_read_options){ .size = sizeof(o), .tag = "%" };
    conf_check_ids(store, "s", &o, NULL, 0);
    o = (ledger_read_options){ .size = sizeof(o), .all_tags = conf_list("y", "x") };
    conf_check_ids(store, "s", &o, (int64_t[]){ id[0], id[2] }, 2);
    o = (ledger_read_options){ .size = sizeof(o), .metadata = conf_map({ "k", "1" }) };
    conf_check_ids(store, "s", &o, id, 2);
    o = (ledger_read_options){ .size = sizeof(o),
                               .metadata = conf_map({ "l", "2" }, { "k", "1" }) };
    conf_check_ids(store, "s", &o, id, 1);
    o = (ledger_read_options){ .size = sizeof(o), .metadata = conf_map({ "k", "" }) };
    conf_check_ids(store, "s", &o, NULL, 0);
    o = (ledger_read_options){ .size = sizeof(o),
                               .metadata = conf_map({ "k", "1" }, { "k", "2" }) };
    conf_check_ids(store, "s", &o, NULL, 0);
    o = (ledger_read_options){
        .size = sizeof(o), .order_key = "a", .tag = "x", .has_after = true, .after = conf_id(id[0])
    };
    conf_check_ids(store, "s", &o, &id[1], 1);
    o = (ledger_read_options){ .size = sizeof(o),
                               .order_key = "a",
                               .tag = "x",
                               .all_tags = conf_list("x", "x"),
                               .metadata = conf_map({ "k", "1" }),
                               .descending = true,
                               .limit = 1 };
    conf_check_ids(store, "s", &o, &id[1], 1);
    o.has_after = true;
    o.after = conf_id(id[1]);
    conf_check_ids(store, "s", &o, &id[0], 1);
    o = (ledger_read_options){ .size = sizeof(o), .order_key = "", .tag = "" };
    conf_check_ids(store, "s", &o, id, 6);
    conf_check_ids(store, "", &o, NULL, 0);
}

static void read_by_annotation(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    int64_t a = conf_append(store, "s", "1"), b = conf_append(store, "s", "2");
    ledger_error err;
    ok(ledger_store_set_annotations(store, "s", conf_id(a), conf_map({ "a.b", "1" }, { "q", "\"" }),
                                    &err));
    ok(ledger_store_set_annotations(store, "s", conf_id(b), conf_map({ "a.b", "2" }), &err));
    ledger_read_options o = { .size = sizeof(o), .annotations = conf_map({ "a.b", "1" }) };
    conf_check_ids(store, "s", &o, &a, 1);
    o.annotations = conf_map({ "a.b", "1" }, { "q", "\"" });
    conf_check_ids(store, "s", &o, &a, 1);
    o.annotations = conf_map({ "a.b", "2" }, { "q", "\"" });
    conf_check_ids(store, "s", &o, NULL, 0);
    o.annotations = conf_map({ "a", "1" });
    conf_check_ids(store, "s", &o, NULL, 0);
}

static void search_payloads(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    const struct {
        const char *stream, *text;
        size_t count;
    } rows[] = {
        { "s", "brown", 2 },     { "s", "BROWN", 2 },    { "s", "100%", 1 },
        { "s", "%", 1 },         { "s", "_", 0 },        { NULL, "brown", 4 },
        { "s", "fox\"", 1 },     { "none", "brown", 0 }, { NULL, "\xc3\xa9", 1 },
        { NULL, "\xc3\x89", 0 }, { "s", "BROWN f", 1 },  { "u", "5% o", 1 },
        { "u", "of_i", 1 },      { "u", "o%i", 0 },      { "u", "\\\\", 1 },
    };
    ledger_batch *batch = NULL;
    ledger_error err;
    conf_append(store, "s", "\"quick brown fox\"");
    int64_t second = conf_append(store, "s", "{\"colour\":\"Brown\",\"share\":\"100%\"}");
    conf_append(store, "s", "\"nothing\"");
    conf_append(store, "t", "\"brown caf\xc3\xa9\"");
    const ledger_append_input tagged = { .payload = conf_bytes("\"5% of_it\\\\\""),
                                         .tags = conf_list("x") };
    ok(ledger_store_append(store, "u", &tagged, 1, NULL, &err));
    const ledger_append_input last = { .payload = conf_bytes("\"a brown one\""),
                                       .tags = conf_list("x") };
    ok(ledger_store_append(store, "v", &last, 1, NULL, &err));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        ok(ledger_store_search(store, rows[i].stream, rows[i].text, NULL, &batch, &err));
        if (ledger_batch_count(batch) != rows[i].count)
            fail_msg("\"%s\": %zu", rows[i].text, ledger_batch_count(batch));
        ledger_batch_destroy(&batch);
    }
    ledger_read_options o = { .size = sizeof(o), .tag = "x" };
    ok(ledger_store_search(store, NULL, "brown", &o, &batch, &err));
    assert_int_equal(ledger_batch_count(batch), 1);
    assert_string_equal(ledger_batch_entry(batch, 0)->stream, "v");
    ledger_batch_destroy(&batch);
    o = (ledger_read_options){ .size = sizeof(o), .limit = 1, .descending = true };
    ok(ledger_store_search(store, "s", "brown", &o, &batch, &err));
    assert_int_equal(ledger_batch_count(batch), 1);
    assert_int_equal(ledger_batch_entry(batch, 0)->id.number, second);
    ledger_batch_destroy(&batch);
    fails(ledger_store_search(store, "s", "", NULL, &batch, &err), INVALID);
    fails(ledger_store_search(store, "s", NULL, NULL, &batch, &err), INVALID);
}

static void count_and_stat(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    ledger_stream_stat stat;
    ledger_error err;
    ok(ledger_store_stat(store, NULL, &stat, &err));
    assert_int_equal(stat.count, 0);
    assert_int_equal(stat.first_id.number, 0);
    assert_true(stat.first_at_us == LEDGER_NO_TIME && stat.last_at_us == LEDGER_NO_TIME);
    int64_t a = conf_append(store, "s", "1");
    int64_t b = conf_append(store, "t", "1");
    int64_t c = conf_append(store, "s", "1");
    ok(ledger_store_stat(store, "s", &stat, &err));
    assert_int_equal(stat.count, 2);
    assert_int_equal(stat.first_id.number, a);
    assert_int_equal(stat.last_id.number, c);
    assert_null(stat.first_id.text);
    ledger_batch *batch = conf_read(store, "s", NULL);
    assert_true(stat.first_at_us == ledger_batch_entry(batch, 0)->created_at_us);
    assert_true(stat.last_at_us == ledger_batch_entry(batch, 1)->created_at_us);
    ledger_batch_destroy(&batch);
    ok(ledger_store_stat(store, "t", &stat, &err));
    assert_int_equal(stat.first_id.number, b);
    assert_int_equal(stat.last_id.number, b);
    ok(ledger_store_stat(store, "none", &stat, &err));
    assert_int_equal(stat.count, 0);
    ok(ledger_store_stat(store, NULL, &stat, &err));
    assert_int_equal(stat.count, 3);
    assert_int_equal(conf_count(store, "s"), 2);
    assert_int_equal(conf_count(store, "none"), 0);
    assert_int_equal(conf_count(store, NULL), 3);
}

static void list_streams_in_pages(struct conf_env *env)
{
    static const char *const want[] = { "A", "a", "a b", "b", "\xc3\xa9", "\xf0\x9f\x98\x80" };
    ledger_store *store = conf_open(env, "a");
    ledger_names names;
    ledger_error err;
    ok(ledger_store_list_streams(store, NULL, 0, &names, &err));
    assert_int_equal(names.count, 0);
    ledger_names_destroy(&names);
    for (size_t i = 0; i < 6; i++)
        conf_append(store, want[(i * 5 + 3) % 6], "1");
    conf_append(store, "b", "2");
    ok(ledger_store_list_streams(store, NULL, 0, &names, &err));
    assert_int_equal(names.count, 6);
    for (size_t i = 0; i < 6; i++)
        assert_string_equal(names.items[i], want[i]);
    ledger_names_destroy(&names);
    const char *after = NULL;
    for (size_t at = 0; at < 6; at += 2) {
        ok(ledger_store_list_streams(store, after, 2, &names, &err));
        assert_int_equal(names.count, 2);
        assert_string_equal(names.items[0], want[at]);
        assert_string_equal(names.items[1], want[at + 1]);
        after = want[at + 1];
        ledger_names_destroy(&names);
    }
    ok(ledger_store_list_streams(store, "a a", 1, &names, &err));
    assert_string_equal(names.items[0], "a b");
    ledger_names_destroy(&names);
    ok(ledger_store_list_streams(store, want[5], 2, &names, &err));
    assert_int_equal(names.count, 0);
    ledger_names_destroy(&names);
    conf_append(store, "", "1"); /* comes first */
    ok(ledger_store_list_streams(store, NULL, 0, &names, &err));
    assert_int_equal(names.count, 7);
    assert_string_equal(names.items[0], "");
    ledger_names_destroy(&names);
    ok(ledger_store_list_streams(store, "", 0, &names, &err));
    assert_int_equal(names.count, 6);
    assert_string_equal(names.items[0], want[0]);
    ledger_names_destroy(&names);
}

const struct conf_case conf_user_cases[] = {
    { "open without create", open_without_create, LDG_CAP_MUTATION_LOG, 0 },
    { "open log modes", open_log_modes, LDG_CAP_MUTATION_LOG, 0 },
    { "open describes itself", open_describes_itself, 0, 0, .alone = true },
    { "identity stays", identity_stays, 0, 0, .alone = true },
    { "tables are apart", tables_are_apart, LDG_CAP_MUTATION_LOG, 0 },
    { "append gives ids", append_gives_ids, 0, 0 },
    { "append keeps every byte", append_keeps_every_byte, 0, 0 },
    { "append skips known keys", append_skips_known_keys, LDG_CAP_MUTATION_LOG, 0 },
    { "append all or nothing", append_all_or_nothing, LDG_CAP_MUTATION_LOG, 0 },
    { "append to the empty name", append_to_empty_name, 0, 0 },
    { "bad payloads", bad_payloads, 0, 0 },
    { "bad values", bad_values, 0, 0 },
    { "bad arguments", bad_arguments, 0, 0 },
    { "read in pages", read_in_pages, 0, 0 },
    { "read ends by bytes", read_ends_by_bytes, 0, 0 },
    { "read with filters", read_with_filters, 0, 0 },
    { "read by annotation", read_by_annotation, LDG_CAP_ANNOTATIONS, 0 },
    { "search payloads", search_payloads, LDG_CAP_SEARCH, 0 },
    { "count and stat", count_and_stat, 0, 0 },
    { "list streams in pages", list_streams_in_pages, 0, 0 },
};
const size_t conf_user_case_count = sizeof(conf_user_cases) / sizeof(conf_user_cases[0]);
