#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "store/handle.h"
#include "store/registry.h"

static void fill(char *text, char c, size_t size)
{
    memset(text, c, size);
    text[size] = '\0';
}

static void table_names(void **state)
{
    char longest[LEDGER_MAX_TABLE_BYTES + 2];
    fill(longest, 't', LEDGER_MAX_TABLE_BYTES + 1);
    const struct {
        const char *name;
        bool good;
    } rows[] = {
        { "t", true },         { "_", true },         { "Orders_2", true }, { "a1", true },
        { longest + 1, true }, { longest, false },    { "", false },        { "1a", false },
        { "a b", false },      { "a-b", false },      { "a.b", false },     { "a\"b", false },
        { "\xc3\xa9", false }, { "a;--", false },     { "a\n", false },     { "a\x7f", false },
        { "sqlite_x", false }, { "SQLite_x", false }, { "sqlite", true },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        ledger_error err;
        ledger_rc rc = ldg_check_table_name(rows[i].name, LEDGER_MAX_TABLE_BYTES, "table", &err);
        if (rc != (rows[i].good ? LEDGER_OK : LEDGER_ERR_INVALID))
            fail_msg("\"%s\": %d", rows[i].name, rc);
        if (rc != LEDGER_OK) {
            assert_non_null(strstr(err.message, "table"));
            assert_null(strchr(err.message, '\n'));
        }
    }
}

static void log_tables(void **state)
{
    static const struct {
        const char *log_table;
        bool good;
    } rows[] = { { "orders_mutations", true }, { "log", true },
                 { "orders", false },          { "Orders", false },
                 { "orders_meta", false },     { "orders_CURSORS", false },
                 { "orders_origins", false },  { "orders_parked", false },
                 { "orders2", true },          { "order", true } };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        ledger_error err;
        assert_int_equal(ldg_check_log_table("orders", rows[i].log_table, &err),
                         rows[i].good ? LEDGER_OK : LEDGER_ERR_INVALID);
    }
}

static bool always(void *ctx)
{
    return ctx == NULL;
}

static void ids(void **state)
{
    struct ldg_backend text_backend = *ldg_registry_get(0);
    text_backend.has_text_ids = always;
    const struct ledger_store numbers = { .backend = ldg_registry_get(0) };
    const struct ledger_store texts = { .backend = &text_backend };
    char longest[LEDGER_ID_TEXT_MAX + 1];
    fill(longest, 'a', LEDGER_ID_TEXT_MAX);
    const struct {
        const struct ledger_store *store;
        ledger_id id;
        int64_t least;
        ledger_rc want;
    } rows[] = {
        { &numbers, { 1, NULL }, 1, LEDGER_OK },
        { &numbers, { 0, NULL }, 1, LEDGER_ERR_INVALID },
        { &numbers, { 0, NULL }, 0, LEDGER_OK },
        { &numbers, { -1, NULL }, 0, LEDGER_ERR_INVALID },
        { &numbers, { 1, "1" }, 1, LEDGER_ERR_INVALID },
        { &numbers, { INT64_MAX, NULL }, 1, LEDGER_OK },
        { &texts, { 0, "65a1" }, 1, LEDGER_OK },
        { &texts, { 1, NULL }, 1, LEDGER_ERR_INVALID },
        { &texts, { 0, longest + 1 }, 1, LEDGER_OK },
        { &texts, { 0, longest }, 1, LEDGER_ERR_TOO_LARGE },
        { &texts, { 0, "\xff" }, 1, LEDGER_ERR_DATA },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        ledger_error err;
        assert_int_equal(ldg_check_id(rows[i].store, rows[i].id, rows[i].least, "entry id", &err),
                         rows[i].want);
    }
}

static void texts(void **state)
{
    char text[LEDGER_MAX_STREAM_BYTES + 2];
    ledger_error err;
    fill(text, 's', LEDGER_MAX_STREAM_BYTES + 1);
    assert_int_equal(ldg_check_stream("", &err), LEDGER_OK);
    assert_int_equal(ldg_check_stream(text + 1, &err), LEDGER_OK);
    assert_int_equal(ldg_check_stream(text, &err), LEDGER_ERR_TOO_LARGE);
    assert_non_null(strstr(err.message, "1025"));
    assert_non_null(strstr(err.message, "1024"));
    assert_int_equal(ldg_check_stream(NULL, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ldg_check_stream("a\xf8", &err), LEDGER_ERR_DATA);
    assert_int_equal(ldg_check_cursor_name("c", &err), LEDGER_OK);
    assert_int_equal(ldg_check_cursor_name("", &err), LEDGER_ERR_INVALID);
    assert_int_equal(ldg_check_cursor_name(NULL, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ldg_check_cursor_name("\xff", &err), LEDGER_ERR_DATA);
}

static void lists_and_maps(void **state)
{
    static const char *many[LEDGER_MAX_ITEMS + 1];
    static ledger_pair pairs[LEDGER_MAX_ITEMS + 1];
    ledger_error err;
    for (size_t i = 0; i <= LEDGER_MAX_ITEMS; i++) {
        many[i] = "t";
        pairs[i] = (ledger_pair){ "k", "v" };
    }
    assert_int_equal(ldg_check_list((ledger_list){ 0 }, "tag", &err), LEDGER_OK);
    assert_int_equal(ldg_check_list((ledger_list){ NULL, 1 }, "tag", &err), LEDGER_ERR_INVALID);
    assert_int_equal(ldg_check_list((ledger_list){ many, LEDGER_MAX_ITEMS }, "tag", &err), 0);
    assert_int_equal(ldg_check_list((ledger_list){ many, LEDGER_MAX_ITEMS + 1 }, "tag", &err),
                     LEDGER_ERR_TOO_LARGE);
    many[3] = NULL;
    assert_int_equal(ldg_check_list((ledger_list){ many, 4 }, "tag", &err), LEDGER_ERR_INVALID);

    assert_int_equal(ldg_check_map((ledger_map){ 0 }, false, "k", "v", &err), LEDGER_OK);
    assert_int_equal(ldg_check_map((ledger_map){ NULL, 1 }, false, "k", "v", &err),
                     LEDGER_ERR_INVALID);
    assert_int_equal(ldg_check_map((ledger_map){ pairs, LEDGER_MAX_ITEMS }, false, "k", "v", &err),
                     LEDGER_OK);
    assert_int_equal(
        ldg_check_map((ledger_map){ pairs, LEDGER_MAX_ITEMS + 1 }, false, "k", "v", &err),
        LEDGER_ERR_TOO_LARGE);
    pairs[1].value = NULL;
    assert_int_equal(ldg_check_map((ledger_map){ pairs, 2 }, true, "k", "v", &err), LEDGER_OK);
    assert_int_equal(ldg_check_map((ledger_map){ pairs, 2 }, false, "k", "v", &err),
                     LEDGER_ERR_INVALID);
    pairs[1] = (ledger_pair){ NULL, "v" };
    assert_int_equal(ldg_check_map((ledger_map){ pairs, 2 }, true, "k", "v", &err),
                     LEDGER_ERR_INVALID);
}

static void payloads(void **state)
{
    ledger_append_input input = { .payload = { "{\"a\":1}", 7 } };
    ledger_error err;
    assert_int_equal(ldg_check_input(&input, &err), LEDGER_OK);
    input.payload.size = 6;
    assert_int_equal(ldg_check_input(&input, &err), LEDGER_ERR_DATA);
    assert_non_null(strstr(err.message, "payload is not JSON"));
    assert_non_null(strstr(err.message, "wrap plain text in quotes"));
    input.payload.size = 0;
    assert_int_equal(ldg_check_input(&input, &err), LEDGER_ERR_INVALID);
    input.payload = (ledger_bytes){ NULL, 7 };
    assert_int_equal(ldg_check_input(&input, &err), LEDGER_ERR_INVALID);
    input.payload = (ledger_bytes){ "1", LEDGER_MAX_PAYLOAD_BYTES + 1 };
    assert_int_equal(ldg_check_input(&input, &err), LEDGER_ERR_TOO_LARGE);
}

static void uses(void **state)
{
    struct ledger_store store = { .backend = ldg_registry_get(0) };
    ledger_error err;
    assert_int_equal(ldg_check_use(NULL, LDG_USE_READ, true, "x", &err), LEDGER_ERR_CLOSED);
    assert_int_equal(ldg_check_use(&store, LDG_USE_WRITE, true, "x", &err), LEDGER_OK);
    assert_int_equal(ldg_check_use(&store, LDG_USE_READ, false, "flying", &err),
                     LEDGER_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "flying"));
    assert_non_null(strstr(err.message, store.backend->name));
    assert_int_equal(ldg_check_not_append_only(&store, &err), LEDGER_OK);
    store.open.flags = LEDGER_STORE_APPEND_ONLY;
    assert_int_equal(ldg_check_not_append_only(&store, &err), LEDGER_ERR_UNSUPPORTED);
    assert_int_equal(ldg_check_use(&store, LDG_USE_WRITE, true, "x", &err), LEDGER_OK);
    assert_int_equal(ldg_store_caps(&store) & (LDG_CAP_TAGS | LDG_CAP_ANNOTATIONS | LDG_CAP_TRIM),
                     LDG_CAP_TRIM);
    assert_int_equal(ldg_store_takes(&store),
                     1 << LDG_OP_APPEND | 1 << LDG_OP_TRIM | 1 << LDG_OP_PARK);
    store.open.flags = LEDGER_STORE_READ_ONLY;
    assert_int_equal(ldg_check_use(&store, LDG_USE_WRITE, true, "x", &err), LEDGER_ERR_READ_ONLY);
    assert_int_equal(ldg_check_use(&store, LDG_USE_READ, true, "x", &err), LEDGER_OK);
    store.open.flags = 0;
    store.in_snapshot = true;
    assert_int_equal(ldg_check_use(&store, LDG_USE_WRITE, true, "x", &err), LEDGER_ERR_INVALID);
    assert_int_equal(ldg_check_use(&store, LDG_USE_READ, true, "x", &err), LEDGER_OK);
    store.in_snapshot = false;
    store.in_tx = true;
    assert_int_equal(ldg_check_use(&store, LDG_USE_WRITE, true, "x", &err), LEDGER_OK);
    assert_int_equal(ldg_check_use_alone(&store, LDG_USE_WRITE, true, "x", &err),
                     LEDGER_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_names), cmocka_unit_test(log_tables),     cmocka_unit_test(ids),
        cmocka_unit_test(texts),       cmocka_unit_test(lists_and_maps), cmocka_unit_test(payloads),
        cmocka_unit_test(uses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
