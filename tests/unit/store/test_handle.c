/* Options: what is refused, and that the handle keeps its own copy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "store/handle.h"

static void options_are_checked(void **state)
{
    char long_name[LEDGER_MAX_TABLE_BYTES + 2];
    memset(long_name, 't', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    const struct {
        ledger_store_options options;
        ledger_rc want;
        const char *message;
    } rows[] = {
        { { .url = NULL }, LEDGER_ERR_INVALID, "URL is missing" },
        { { .url = "memory:" }, LEDGER_ERR_INVALID, "names no database" },
        { { .url = "memory" }, LEDGER_ERR_INVALID, "scheme" },
        { { .url = "foo:bar" }, LEDGER_ERR_UNSUPPORTED, "memory:" },
        { { .url = "memory:x", .connection = &long_name }, LEDGER_ERR_INVALID, "not both" },
        { { .url = "memory:x", .table = "a b" }, LEDGER_ERR_INVALID, "letters A-Z" },
        { { .url = "memory:x", .table = "" }, LEDGER_ERR_INVALID, "letters A-Z" },
        { { .url = "memory:x", .table = long_name }, LEDGER_ERR_INVALID, "48" },
        { { .url = "memory:x", .table = "x; DROP TABLE y" }, LEDGER_ERR_INVALID, "letters A-Z" },
        { { .url = "memory:x", .log_table = "1" }, LEDGER_ERR_INVALID, "log table" },
        { { .url = "memory:x", .table = "t", .log_table = "T" }, LEDGER_ERR_INVALID, "of its own" },
        { { .url = "memory:x", .table = "t", .log_table = "t_parked" },
          LEDGER_ERR_INVALID,
          "of its own" },
        { { .url = "memory:x", .flags = 1u << 20 }, LEDGER_ERR_INVALID, "unknown flags" },
        { { .url = "memory:x", .flags = LEDGER_STORE_CREATE | LEDGER_STORE_READ_ONLY },
          LEDGER_ERR_INVALID,
          "read-only" },
        { { .url = "memory:x", .flags = LEDGER_STORE_NEW_IDENTITY }, LEDGER_ERR_INVALID, "CREATE" },
        { { .url = "memory:x", .busy_timeout_ms = -1 }, LEDGER_ERR_INVALID, "busy_timeout_ms" },
        { { .url = "memory:x", .log = (ledger_log_mode)7 }, LEDGER_ERR_INVALID, "log mode" },
        { { .url = "memory:nowhere" }, LEDGER_ERR_SCHEMA, "create" },
        { { .url = "memory:x", .flags = LEDGER_STORE_NOTIFY }, LEDGER_ERR_INVALID, "CREATE" },
        { { .url = "memory:x", .flags = LEDGER_STORE_CREATE | LEDGER_STORE_NOTIFY },
          LEDGER_ERR_UNSUPPORTED,
          "notify" },
        { { .url = "memory:x", .flags = LEDGER_STORE_CREATE | LEDGER_STORE_FULL_TEXT },
          LEDGER_ERR_UNSUPPORTED,
          "full text" },
        { { .url = "memory:x", .label = "\xFF" }, LEDGER_ERR_DATA, "label" },
        { { .connection = long_name, .connection_kind = (ledger_connection_kind)9 },
          LEDGER_ERR_INVALID,
          "kind of connection" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        ledger_store *store = NULL;
        ledger_store_options options = rows[i].options;
        ledger_error err;
        options.size = sizeof(options);
        ledger_rc rc = ledger_store_open(&options, &store, &err);
        if (rc != rows[i].want || !strstr(err.message, rows[i].message))
            fail_msg("row %zu: %s: %s", i, ledger_rc_name(rc), err.message);
        assert_null(store);
        assert_int_equal(ledger_store_open(&options, &store, NULL), rows[i].want);
    }
    ledger_store *store = NULL;
    ledger_error err;
    assert_int_equal(ledger_store_open(NULL, &store, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ledger_store_open(&rows[0].options, NULL, &err), LEDGER_ERR_INVALID);
    ledger_store_options_defaults(NULL);
}

static void options_are_copied(void **state)
{
    char url[] = "memory:copied", table[] = "tab", log_table[] = "tab_log";
    const ledger_store_options options = { .size = sizeof(options),
                                           .url = url,
                                           .table = table,
                                           .log_table = log_table,
                                           .flags = LEDGER_STORE_CREATE };
    ledger_store *store = NULL;
    assert_int_equal(ledger_store_open(&options, &store, NULL), LEDGER_OK);
    memset(url, 'x', sizeof(url) - 1);
    memset(table, 'x', sizeof(table) - 1);
    memset(log_table, 'x', sizeof(log_table) - 1);
    assert_string_equal(ledger_store_url(store), "memory:copied");
    assert_string_equal(ledger_store_table(store), "tab");
    ledger_store *again = NULL;
    assert_int_equal(ldg_store_reopen(store, LDG_ROLE_SINK, NULL, &again, NULL), LEDGER_OK);
    assert_string_equal(ledger_store_table(again), "tab");
    assert_true(ledger_store_has_log(again));
    ledger_store_close(&again);
    ledger_store_close(&store);
    assert_string_equal(ledger_store_table(NULL), "");
    assert_string_equal(ledger_store_backend(NULL), "");
    assert_string_equal(ledger_store_url(NULL), "");
    assert_false(ledger_store_has_log(NULL));
    ledger_store_close(&store);
}

/* --- who is asked and told ------------------------------------------------------------------- */

static int asked_count, told_count;

static ledger_wait_answer ask(void *ctx, int64_t waited_ms)
{
    ++*(int *)ctx;
    return LEDGER_WAIT_ENOUGH;
}

static void tell(void *ctx, const char *what)
{
    assert_string_equal(what, "x");
    assert_ptr_equal(ctx, &asked_count);
    told_count++;
}

/* Of the interrupt, and whom the program named; a handle that is made from this one asks
 * that one, too, and hears nothing of the interrupt. */
static void the_program_is_asked(void **state)
{
    const ledger_wait wait = { .ask = ask, .waiting = tell, .ctx = &asked_count };
    const ledger_wait silent = { 0 };
    ledger_store_options options = {
        .size = sizeof(options), .url = "memory:asked", .flags = LEDGER_STORE_CREATE, .wait = &wait
    };
    ledger_store *store = NULL, *again = NULL;
    struct ldg_waiting waiting = { 0 };
    uint64_t count;
    assert_int_equal(ledger_store_open(&options, &store, NULL), LEDGER_OK);
    waiting.wait = store->open.wait;
    assert_int_equal(ldg_waiting_ask(&waiting), LEDGER_WAIT_ENOUGH);
    assert_int_equal(asked_count, 1);
    ldg_wait_tell(store->open.wait, "x");
    assert_int_equal(told_count, 1);
    ledger_store_interrupt(store);
    assert_int_equal(ldg_waiting_ask(&waiting), LDG_WAIT_INTERRUPTED);
    assert_int_equal(asked_count, 2);
    assert_true(ldg_wait_interrupted(store->open.wait));
    assert_int_equal(ldg_store_reopen(store, LDG_ROLE_USER, NULL, &again, NULL), LEDGER_OK);
    assert_true(ldg_wait_interrupted(store->open.wait));
    waiting.wait = again->open.wait;
    asked_count = 0;
    assert_int_equal(ldg_waiting_ask(&waiting), LEDGER_WAIT_ENOUGH);
    assert_int_equal(asked_count, 1);
    ledger_store_close(&again);
    assert_int_equal(ledger_store_count(store, NULL, &count, NULL), LEDGER_OK);
    assert_false(ldg_wait_interrupted(store->open.wait));
    ledger_store_close(&store);

    options.wait = &silent;
    assert_int_equal(ledger_store_open(&options, &store, NULL), LEDGER_OK);
    waiting.wait = store->open.wait;
    assert_int_equal(ldg_waiting_ask(&waiting), LEDGER_WAIT_ON);
    assert_null(store->open.wait->waiting);
    ledger_store_close(&store);
    assert_int_equal(ldg_store_reopen(NULL, LDG_ROLE_USER, NULL, &again, NULL), LEDGER_ERR_CLOSED);
    ledger_store_interrupt(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(options_are_copied),
        cmocka_unit_test(the_program_is_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
