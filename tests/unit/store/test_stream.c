#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "base/error.h"
#include "ledger/ledger.h"
#include "roles.h"
#include "store/handle.h"

/* Values are ints; payloads {"v":N}. Counts values that are alive. */
struct codec_ctx {
    int alive;
    ledger_rc fail_encode, fail_decode;
    bool silent; /* fails without filling err */
};

static ledger_rc encode(void *ctx, const void *value, char **ret_json, size_t *ret_size,
                        ledger_error *err)
{
    struct codec_ctx *c = ctx;
    if (c->fail_encode)
        return c->silent ? c->fail_encode : ldg_fail(err, c->fail_encode, "no encoding today");
    char *json = malloc(32);
    if (!json)
        return ldg_fail_nomem(err);
    *ret_size = (size_t)snprintf(json, 32, "{\"v\":%d}", *(const int *)value);
    *ret_json = json;
    return LEDGER_OK;
}

static ledger_rc decode(void *ctx, ledger_bytes json, void **ret_value, ledger_error *err)
{
    struct codec_ctx *c = ctx;
    if (c->fail_decode)
        return c->silent ? c->fail_decode : ldg_fail(err, c->fail_decode, "no decoding today");
    int *value = malloc(sizeof(*value));
    if (!value)
        return ldg_fail_nomem(err);
    char text[64];
    size_t size = json.size < sizeof(text) - 1 ? json.size : sizeof(text) - 1;
    memcpy(text, json.data, size);
    text[size] = '\0';
    const char *number = strrchr(text, ':');
    *value = number ? (int)strtol(number + 1, NULL, 10) : -1;
    c->alive++;
    *ret_value = value;
    return LEDGER_OK;
}

static void release(void *ctx, void *value)
{
    struct codec_ctx *c = ctx;
    c->alive--;
    free(value);
}

/* Multiplies by 10: {"v":7} -> {"v":70}. */
static ledger_rc upcast(void *ctx, ledger_bytes json, char **ret_json, size_t *ret_size,
                        ledger_error *err)
{
    if (ctx) { /* fails, or gives nothing */
        *ret_json = NULL;
        return *(ledger_rc *)ctx;
    }
    char *out = malloc(json.size + 1);
    if (!out)
        return ldg_fail_nomem(err);
    memcpy(out, json.data, json.size - 1);
    memcpy(out + json.size - 1, "0}", 2);
    *ret_json = out;
    *ret_size = json.size + 1;
    return LEDGER_OK;
}

static ledger_store *open_store(void)
{
    const ledger_store_options options = { .size = sizeof(options),
                                           .url = "memory:streams",
                                           .flags = LEDGER_STORE_CREATE };
    ledger_store *store = NULL;
    assert_int_equal(ledger_store_open(&options, &store, NULL), LEDGER_OK);
    return store;
}

static ledger_stream *make(ledger_store *store, struct codec_ctx *ctx, int version,
                           const ledger_upcaster *upcasters, size_t count)
{
    ledger_stream_options options;
    ledger_stream *stream = NULL;
    ledger_error err;
    ledger_stream_options_defaults(&options);
    options.id = "s";
    options.schema_version = version;
    options.codec = (ledger_codec){ ctx, encode, decode, release };
    options.upcasters = upcasters;
    options.upcaster_count = count;
    if (ledger_stream_create(store, &options, &stream, &err) != LEDGER_OK)
        fail_msg("%s", err.message);
    return stream;
}

static void put(ledger_stream *stream, int value)
{
    ledger_error err;
    const ledger_stream_input input = { .value = &value };
    assert_int_equal(ledger_stream_append(stream, &input, 1, NULL, &err), LEDGER_OK);
}

static void values_round_trip(void **state)
{
    struct codec_ctx ctx = { 0 };
    ledger_store *store = open_store();
    ledger_stream *stream = make(store, &ctx, 3, NULL, 0);
    const int numbers[] = { 1, 2 };
    const char *const tags[] = { "t" };
    const ledger_pair pairs[] = { { "k", "v" } };
    const ledger_stream_input inputs[] = {
        { .value = &numbers[0],
          .order_key = "o",
          .dedup_key = "d",
          .metadata = { pairs, 1 },
          .tags = { tags, 1 } },
        { .value = &numbers[1] },
    };
    ledger_ids ids;
    ledger_values *values = NULL;
    ledger_error err;
    assert_string_equal(ledger_stream_id(stream), "s");
    assert_int_equal(ledger_stream_schema_version(stream), 3);
    assert_int_equal(ledger_stream_append(stream, inputs, 2, &ids, &err), LEDGER_OK);
    assert_int_equal(ids.count, 2);
    assert_int_equal(ledger_stream_set_tags(stream, ids.items[1], (ledger_list){ tags, 1 }, &err),
                     LEDGER_OK);
    assert_int_equal(
        ledger_stream_set_annotations(stream, ids.items[1], (ledger_map){ pairs, 1 }, &err), 0);
    ledger_ids_destroy(&ids);
    assert_int_equal(ledger_stream_append(stream, inputs, 1, &ids, &err), LEDGER_OK);
    assert_int_equal(ids.count, 0); /* known */
    ledger_ids_destroy(&ids);

    const ledger_read_options filter = { .size = sizeof(filter), .tag = "t" };
    assert_int_equal(ledger_stream_read(stream, &filter, &values, &err), LEDGER_OK);
    assert_int_equal(ledger_values_count(values), 2);
    assert_int_equal(ctx.alive, 2);
    assert_int_equal(*(int *)ledger_values_value(values, 0), 1);
    assert_int_equal(*(int *)ledger_values_value(values, 1), 2);
    assert_null(ledger_values_value(values, 2));
    assert_null(ledger_values_entry(values, 2));
    const ledger_entry *entry = ledger_values_entry(values, 0);
    assert_int_equal(entry->schema_version, 3);
    assert_string_equal(entry->order_key, "o");
    assert_string_equal(entry->dedup_key, "d");
    assert_int_equal(entry->metadata.count, 1);
    assert_int_equal(ledger_values_entry(values, 1)->annotations.count, 1);
    ledger_values_destroy(&values);
    assert_null(values);
    assert_int_equal(ctx.alive, 0);
    assert_int_equal(ledger_stream_append(stream, NULL, 0, &ids, &err), LEDGER_OK);
    ledger_ids_destroy(&ids);
    ledger_stream_destroy(&stream);
    assert_null(stream);
    ledger_store_close(&store);
}

static void values_without_release_are_freed(void **state)
{
    struct codec_ctx ctx = { 0 };
    ledger_store *store = open_store();
    ledger_stream_options options;
    ledger_stream *stream = NULL;
    ledger_values *values = NULL;
    ledger_stream_options_defaults(&options);
    options.id = "s";
    options.codec = (ledger_codec){ &ctx, encode, decode, NULL };
    assert_int_equal(ledger_stream_create(store, &options, &stream, NULL), LEDGER_OK);
    put(stream, 1);
    assert_int_equal(ledger_stream_read(stream, NULL, &values, NULL), LEDGER_OK);
    ledger_values_destroy(&values);
    ledger_stream_destroy(&stream);
    ledger_store_close(&store);
}

static void options_are_checked(void **state)
{
    ledger_store *store = open_store();
    const size_t size = sizeof(ledger_stream_options);
    const ledger_codec codec = { NULL, encode, decode, release };
    const ledger_upcaster twice[] = { { 2, NULL, upcast },
                                      { 1, NULL, upcast },
                                      { 2, NULL, upcast } };
    const ledger_upcaster zero = { 0, NULL, upcast }, last = { 3, NULL, upcast };
    const ledger_upcaster none = { 1, NULL, NULL };
    const struct {
        ledger_stream_options options;
        const char *message;
    } rows[] = {
        { { size, NULL, 1, false, codec, NULL, 0 }, "id" },
        { { size, "s", 0, false, codec, NULL, 0 }, "schema_version" },
        { { size, "s", -1, false, codec, NULL, 0 }, "schema_version" },
        { { size, "s", 1, false, { NULL, NULL, decode, NULL }, NULL, 0 }, "codec" },
        { { size, "s", 1, false, { NULL, encode, NULL, NULL }, NULL, 0 }, "codec" },
        { { size, "s", 3, false, codec, NULL, 1 }, "upcasters" },
        { { size, "s", 3, false, codec, twice, 3 }, "two upcasters from version 2" },
        { { size, "s", 3, false, codec, &zero, 1 }, "version 0" },
        { { size, "s", 3, false, codec, &last, 1 }, "version 3" },
        { { size, "s", 3, false, codec, &none, 1 }, "no function" },
    };
    ledger_stream *stream = NULL;
    ledger_error err;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(ledger_stream_create(store, &rows[i].options, &stream, &err),
                         LEDGER_ERR_INVALID);
        if (!strstr(err.message, rows[i].message))
            fail_msg("row %zu: %s", i, err.message);
        assert_null(stream);
    }
    assert_int_equal(ledger_stream_create(NULL, &rows[0].options, &stream, &err),
                     LEDGER_ERR_INVALID);
    assert_int_equal(ledger_stream_create(store, NULL, &stream, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_stream_create(store, &rows[0].options, NULL, NULL), LEDGER_ERR_INVALID);
    ledger_stream_options_defaults(NULL);
    ledger_store_close(&store);
}

static void old_versions_are_upcast(void **state)
{
    struct codec_ctx ctx = { 0 };
    ledger_store *store = open_store();
    const ledger_upcaster chain[] = { { 3, NULL, upcast },
                                      { 1, NULL, upcast },
                                      { 2, NULL, upcast } };
    ledger_values *values = NULL;
    ledger_error err;
    for (int version = 1; version <= 4; version++) {
        ledger_stream *writer = make(store, &ctx, version, NULL, 0);
        put(writer, version);
        ledger_stream_destroy(&writer);
    }
    ledger_stream *reader = make(store, &ctx, 4, chain, 3);
    assert_int_equal(ledger_stream_read(reader, NULL, &values, &err), LEDGER_OK);
    assert_int_equal(*(int *)ledger_values_value(values, 0), 1000);
    assert_int_equal(*(int *)ledger_values_value(values, 1), 200);
    assert_int_equal(*(int *)ledger_values_value(values, 2), 30);
    assert_int_equal(*(int *)ledger_values_value(values, 3), 4);
    /* the entry is as stored */
    assert_int_equal(ledger_values_entry(values, 0)->schema_version, 1);
    assert_memory_equal(ledger_values_entry(values, 0)->payload.data, "{\"v\":1}", 7);
    ledger_values_destroy(&values);
    ledger_stream_destroy(&reader);
    ledger_store_close(&store);
}

static void gaps_and_newer_entries_fail(void **state)
{
    struct codec_ctx ctx = { 0 };
    ledger_store *store = open_store();
    const ledger_upcaster chain[] = { { 1, NULL, upcast }, { 3, NULL, upcast } };
    ledger_values *values = NULL;
    ledger_error err;
    ledger_stream *writer = make(store, &ctx, 4, NULL, 0);
    put(writer, 4);
    ledger_stream_destroy(&writer);
    writer = make(store, &ctx, 1, NULL, 0);
    put(writer, 1);
    /* the writer's own version is 1, an entry has 4 */
    assert_int_equal(ledger_stream_read(writer, NULL, &values, &err), LEDGER_ERR_UPCAST);
    assert_non_null(strstr(err.message, "stream \"s\""));
    assert_non_null(strstr(err.message, "entry 1 "));
    assert_non_null(strstr(err.message, "version 4"));
    ledger_stream_destroy(&writer);
    /* What can be read is given before it; then it is the first of its page, and named. */
    ledger_read_options after = { .size = sizeof(after),
                                  .has_after = true,
                                  .after = { .number = 1 } };
    ledger_stream *reader = make(store, &ctx, 4, chain, 2);
    assert_int_equal(ledger_stream_read(reader, NULL, &values, &err), LEDGER_OK);
    assert_int_equal(ledger_values_count(values), 1);
    ledger_values_destroy(&values);
    assert_int_equal(ledger_stream_read(reader, &after, &values, &err), LEDGER_ERR_UPCAST);
    assert_non_null(strstr(err.message, "entry 2 "));
    assert_non_null(strstr(err.message, "from version 2 to 3"));
    assert_null(values);
    assert_int_equal(ctx.alive, 0); /* what was decoded before is released */
    ledger_stream_destroy(&reader);
    reader = make(store, &ctx, 4, NULL, 0);
    assert_int_equal(ledger_stream_read(reader, &after, &values, NULL), LEDGER_ERR_UPCAST);
    ledger_stream_destroy(&reader);
    ledger_store_close(&store);
}

static int odd_version;
static ledger_rc read_odd_version(void *ctx, const char *stream, const char *search,
                                  const ledger_read_options *options, struct ldg_arena *arena,
                                  ledger_entry **ret_entries, size_t *ret_count, ledger_error *err)
{
    static ledger_entry entry = { .stream = "s", .payload = { "{\"v\":7}", 7 } };
    entry.schema_version = odd_version;
    *ret_entries = &entry;
    *ret_count = 1;
    return LEDGER_OK;
}

/* Go writes 0 for "none". */
static void no_version_is_read_as_it_is(void **state)
{
    static const int versions[] = { 0, -1, INT32_MIN };
    struct codec_ctx ctx = { 0 };
    ledger_store *store = open_store();
    const struct ldg_backend *whole = store->backend;
    struct tst_backend odd;
    const ledger_upcaster chain[] = { { 1, NULL, upcast }, { 2, NULL, upcast } };
    tst_backend_copy(&odd, whole);
    odd.store.read = read_odd_version;
    store->backend = &odd.backend;
    for (size_t i = 0; i < 6; i++) {
        ledger_values *values = NULL;
        ledger_error err;
        ledger_stream *reader = make(store, &ctx, i % 2 ? 3 : 1, chain, i % 2 ? 2 : 0);
        odd_version = versions[i / 2];
        assert_int_equal(ledger_stream_read(reader, NULL, &values, &err), LEDGER_OK);
        assert_int_equal(*(int *)ledger_values_value(values, 0), 7);
        assert_int_equal(ledger_values_entry(values, 0)->schema_version, versions[i / 2]);
        ledger_values_destroy(&values);
        ledger_stream_destroy(&reader);
    }
    store->backend = whole;
    ledger_store_close(&store);
}

static ledger_rc read_text_ids(void *ctx, const char *stream, const char *search,
                               const ledger_read_options *options, struct ldg_arena *arena,
                               ledger_entry **ret_entries, size_t *ret_count, ledger_error *err)
{
    static ledger_entry entry = {
        .id = { .text = "65a1b2" }, .stream = "s", .schema_version = 9, .payload = { "1", 1 }
    };
    *ret_entries = &entry;
    *ret_count = 1;
    return LEDGER_OK;
}

static void text_ids_are_named(void **state)
{
    struct codec_ctx ctx = { 0 };
    ledger_store *store = open_store();
    const struct ldg_backend *whole = store->backend;
    struct tst_backend texts;
    ledger_stream *stream = make(store, &ctx, 1, NULL, 0);
    ledger_values *values = NULL;
    ledger_error err;
    tst_backend_copy(&texts, whole);
    texts.store.read = read_text_ids;
    store->backend = &texts.backend;
    assert_int_equal(ledger_stream_read(stream, NULL, &values, &err), LEDGER_ERR_UPCAST);
    assert_non_null(strstr(err.message, "entry 65a1b2 "));
    store->backend = whole;
    ledger_stream_destroy(&stream);
    ledger_store_close(&store);
}

static void callbacks_may_fail(void **state)
{
    struct codec_ctx ctx = { 0 };
    ledger_store *store = open_store();
    ledger_rc refuse = LEDGER_ERR_DATA;
    const ledger_upcaster refusing = { 1, &refuse, upcast };
    ledger_stream *stream = make(store, &ctx, 1, NULL, 0);
    ledger_stream *newer = make(store, &ctx, 2, &refusing, 1);
    ledger_values *values = NULL;
    ledger_error err;
    int value = 1;
    const ledger_stream_input inputs[] = { { .value = &value }, { .value = &value } };
    put(stream, 1);
    for (int silent = 0; silent < 2; silent++) {
        ctx.silent = silent;
        ctx.fail_encode = LEDGER_ERR_TOO_LARGE;
        assert_int_equal(ledger_stream_append(stream, inputs, 2, NULL, &err), LEDGER_ERR_TOO_LARGE);
        assert_int_equal(err.code, LEDGER_ERR_TOO_LARGE);
        assert_true(*err.message);
        ctx.fail_encode = LEDGER_OK;
        ctx.fail_decode = LEDGER_ERR_DATA;
        assert_int_equal(ledger_stream_read(stream, NULL, &values, &err), LEDGER_ERR_DATA);
        assert_int_equal(err.code, LEDGER_ERR_DATA);
        assert_true(*err.message);
        ctx.fail_decode = LEDGER_OK;
    }
    assert_int_equal(ledger_stream_read(newer, NULL, &values, &err), LEDGER_ERR_DATA);
    assert_non_null(strstr(err.message, "upcaster"));
    refuse = LEDGER_OK;
    assert_int_equal(ledger_stream_read(newer, NULL, &values, &err), LEDGER_ERR_INTERNAL);
    assert_null(values);
    ledger_stream_destroy(&stream);
    ledger_stream_destroy(&newer);
    ledger_store_close(&store);
}

static void bad_arguments(void **state)
{
    struct codec_ctx ctx = { 0 };
    ledger_store *store = open_store();
    ledger_stream *stream = make(store, &ctx, 1, NULL, 0), *none = NULL;
    ledger_values *values = NULL;
    const ledger_id id = { .number = 1 };
    const ledger_read_options bad = { .size = sizeof(bad), .limit = LEDGER_READ_LIMIT_MAX + 1 };
    const ledger_stream_input input = { 0 };
    ledger_error err;
    assert_int_equal(ledger_stream_append(stream, NULL, 1, NULL, &err), LEDGER_ERR_INVALID);
    assert_int_equal(
        ledger_stream_append(stream, &input, LEDGER_MAX_APPEND_ENTRIES + 1, NULL, NULL),
        LEDGER_ERR_TOO_LARGE);
    assert_int_equal(ledger_stream_read(stream, NULL, NULL, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_stream_read(stream, &bad, &values, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_stream_append(NULL, &input, 1, NULL, &err), LEDGER_ERR_CLOSED);
    assert_int_equal(ledger_stream_read(NULL, NULL, &values, &err), LEDGER_ERR_CLOSED);
    assert_int_equal(ledger_stream_set_tags(NULL, id, (ledger_list){ 0 }, &err), LEDGER_ERR_CLOSED);
    assert_int_equal(ledger_stream_set_annotations(NULL, id, (ledger_map){ 0 }, &err),
                     LEDGER_ERR_CLOSED);
    assert_string_equal(ledger_stream_id(NULL), "");
    assert_int_equal(ledger_stream_schema_version(NULL), 0);
    assert_int_equal(ledger_values_count(NULL), 0);
    assert_null(ledger_values_value(NULL, 0));
    assert_null(ledger_values_entry(NULL, 0));
    ledger_values_destroy(NULL);
    ledger_values_destroy(&values);
    ledger_stream_destroy(NULL);
    ledger_stream_destroy(&none);
    ledger_stream_destroy(&stream);
    ledger_store_close(&store);
}

static void read_only_refuses_writes(void **state)
{
    struct codec_ctx ctx = { 0 };
    ledger_store *store = open_store();
    ledger_stream *writable = make(store, &ctx, 2, NULL, 0), *stream = NULL;
    ledger_stream_options options;
    ledger_values *values = NULL;
    ledger_ids ids = { 0 };
    const ledger_id id = { .number = 1 };
    const char *tag = "t";
    const ledger_pair pair = { "k", "v" };
    int value = 1;
    const ledger_stream_input input = { .value = &value };
    ledger_error err;
    put(writable, 5);
    ledger_stream_options_defaults(&options);
    assert_false(options.read_only);
    options.id = "s";
    options.schema_version = 2;
    options.read_only = true;
    options.codec = (ledger_codec){ &ctx, NULL, decode, release };
    assert_int_equal(ledger_stream_create(store, &options, &stream, &err), LEDGER_OK);
    assert_int_equal(ledger_stream_append(stream, &input, 1, &ids, &err), LEDGER_ERR_READ_ONLY);
    assert_non_null(strstr(err.message, "bridge"));
    assert_int_equal(ledger_stream_append(stream, NULL, 0, NULL, NULL), LEDGER_ERR_READ_ONLY);
    assert_int_equal(ledger_stream_set_tags(stream, id, (ledger_list){ &tag, 1 }, &err),
                     LEDGER_ERR_READ_ONLY);
    assert_int_equal(ledger_stream_set_annotations(stream, id, (ledger_map){ &pair, 1 }, NULL),
                     LEDGER_ERR_READ_ONLY);
    assert_int_equal(ledger_stream_read(stream, NULL, &values, &err), LEDGER_OK);
    assert_int_equal(ledger_values_count(values), 1);
    assert_int_equal(*(int *)ledger_values_value(values, 0), 5);
    assert_int_equal(ledger_values_entry(values, 0)->tags.count, 0);
    assert_int_equal(ledger_values_entry(values, 0)->annotations.count, 0);
    ledger_values_destroy(&values);
    put(writable, 6); /* the flag is of the one handle */
    ledger_stream_destroy(&stream);
    options.codec.decode = NULL;
    assert_int_equal(ledger_stream_create(store, &options, &stream, &err), LEDGER_ERR_INVALID);
    ledger_stream_destroy(&writable);
    ledger_store_close(&store);
}

static ledger_rc run_everything(void *ctx)
{
    ledger_store *store = ctx;
    struct codec_ctx codec = { 0 };
    static const ledger_upcaster up = { 1, NULL, upcast };
    ledger_stream_options options;
    ledger_stream *stream = NULL;
    ledger_values *values = NULL;
    int value = 3;
    const ledger_stream_input input = { .value = &value, .dedup_key = "one" };
    ledger_stream_options_defaults(&options);
    options.id = "s";
    options.schema_version = 2;
    options.codec = (ledger_codec){ &codec, encode, decode, release };
    options.upcasters = &up;
    options.upcaster_count = 1;
    ledger_rc rc = ledger_stream_create(store, &options, &stream, NULL);
    if (rc == LEDGER_OK)
        rc = ledger_stream_append(stream, &input, 1, NULL, NULL);
    if (rc == LEDGER_OK)
        rc = ledger_stream_read(stream, NULL, &values, NULL);
    ledger_values_destroy(&values);
    ledger_stream_destroy(&stream);
    assert_int_equal(codec.alive, 0);
    return rc;
}

static void out_of_memory(void **state)
{
    struct codec_ctx ctx = { 0 };
    ledger_store *store = open_store();
    ledger_stream *old = make(store, &ctx, 1, NULL, 0);
    put(old, 1);
    put(old, 2);
    ledger_stream_destroy(&old);
    assert_true(alloc_fail_each(run_everything, store) > 10);
    ledger_store_close(&store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_round_trip),
        cmocka_unit_test(values_without_release_are_freed),
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(old_versions_are_upcast),
        cmocka_unit_test(gaps_and_newer_entries_fail),
        cmocka_unit_test(no_version_is_read_as_it_is),
        cmocka_unit_test(text_ids_are_named),
        cmocka_unit_test(callbacks_may_fail),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(read_only_refuses_writes),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
