#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ldg_config.h"
#include "store/registry.h"

static const struct ldg_backend *memory(void)
{
    const struct ldg_backend *backend = NULL;
    const char *path;
    ledger_error err;
    assert_int_equal(ldg_registry_find("memory:x", &backend, &path, &err), LEDGER_OK);
    return backend;
}

static void every_backend_is_whole(void **state)
{
    size_t count = 0;
    for (; ldg_registry_get(count); count++) {
        const struct ldg_backend *backend = ldg_registry_get(count);
        const char *problem = ldg_registry_problem(backend);
        if (problem)
            fail_msg("%s: %s", backend->name, problem);
        for (size_t i = 0; i < count; i++)
            assert_string_not_equal(ldg_registry_get(i)->scheme, backend->scheme);
    }
    assert_int_equal(count, 1 + LDG_WITH_SQLITE + LDG_WITH_POSTGRES);
}

static void finds_by_scheme(void **state)
{
    static const struct {
        const char *url;
        ledger_rc want;
        const char *message;
    } rows[] = {
        { "memory:a:b", LEDGER_OK, "" },
        { "memory:", LEDGER_OK, "" },
        { "", LEDGER_ERR_INVALID, "memory:" },
        { "orders.db", LEDGER_ERR_INVALID, "sqlite:orders.db" },
        { ":x", LEDGER_ERR_INVALID, "no scheme" },
        { "/tmp/a:b", LEDGER_ERR_INVALID, "no scheme" },
        { "MEMORY:x", LEDGER_ERR_UNSUPPORTED, "MEMORY" },
        { "memor:x", LEDGER_ERR_UNSUPPORTED, "memory:" },
        { "a-scheme-that-is-longer-than-any-that-there-is:x", LEDGER_ERR_UNSUPPORTED,
          "\"a-scheme-that-is-longer-than-any\"" },
        { "memory2:x", LEDGER_ERR_UNSUPPORTED, "memory2" },
#if LDG_WITH_POSTGRES
        { "postgresql://u:secret@h/d", LEDGER_OK, "" },
        { "postgres://u:secret@h/d", LEDGER_OK, "" },
#else
        { "postgresql://u:secret@h/d", LEDGER_ERR_UNSUPPORTED, "postgresql" },
        { "postgres://u:secret@h/d", LEDGER_ERR_UNSUPPORTED, "postgresql" },
#endif
        { "postgre://u:secret@h/d", LEDGER_ERR_UNSUPPORTED, "postgre" },
#if LDG_WITH_SQLITE
        { "sqlite:a.db", LEDGER_OK, "" },
#else
        { "sqlite:a.db", LEDGER_ERR_UNSUPPORTED, "built without sqlite" },
#endif
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct ldg_backend *backend = NULL;
        const char *path = NULL;
        ledger_error err;
        assert_int_equal(ldg_registry_find(rows[i].url, &backend, &path, &err), rows[i].want);
        if (rows[i].want == LEDGER_OK) {
            assert_ptr_equal(path, strchr(rows[i].url, ':') + 1);
            assert_int_equal(strncmp(backend->scheme, rows[i].url, 6), 0);
        } else {
            assert_null(backend);
            assert_non_null(strstr(err.message, rows[i].message));
            assert_null(strstr(err.message, "secret"));
        }
    }
}

static void finds_for_a_connection(void **state)
{
    const struct ldg_backend *backend = NULL;
    ledger_error err;
    assert_int_equal(ldg_registry_find_connection(LEDGER_CONNECTION_SQLITE, &backend, &err),
                     LDG_WITH_SQLITE ? LEDGER_OK : LEDGER_ERR_UNSUPPORTED);
    if (LDG_WITH_SQLITE)
        assert_string_equal(backend->scheme, "sqlite");
    assert_int_equal(ldg_registry_find_connection(LEDGER_CONNECTION_POSTGRES, &backend, &err),
                     LDG_WITH_POSTGRES ? LEDGER_OK : LEDGER_ERR_UNSUPPORTED);
    if (LDG_WITH_POSTGRES)
        assert_string_equal(backend->scheme, "postgresql");
    assert_int_equal(ldg_registry_find_connection((ledger_connection_kind)7, &backend, &err),
                     LEDGER_ERR_INVALID);
}

/* Leaves one callback out of a whole table: something must be wrong with it, unless the callback is
 * one that stands alone. */
static void every_hole_is_found(void **state)
{
    const size_t optional[] = {
        offsetof(struct ldg_backend, origin_unclaimed),
        offsetof(struct ldg_backend, origin_carry_ids),
        offsetof(struct ldg_backend, origin_skips),
        offsetof(struct ldg_backend, origin_unguard),
        offsetof(struct ldg_backend, has_text_ids),
        offsetof(struct ldg_backend, trim_kept),
        offsetof(struct ldg_backend, durable_count),
        offsetof(struct ldg_backend, hint_backlog),
        offsetof(struct ldg_backend, log_acknowledge),
    };
    for (size_t at = offsetof(struct ldg_backend, open); at < sizeof(struct ldg_backend);
         at += sizeof(void (*)(void))) {
        struct ldg_backend broken = *memory();
        bool may_be_null = false;
        memset((char *)&broken + at, 0, sizeof(void (*)(void)));
        for (size_t i = 0; i < sizeof(optional) / sizeof(optional[0]); i++)
            may_be_null = may_be_null || optional[i] == at;
        if (!ldg_registry_problem(&broken) != may_be_null)
            fail_msg("callback at offset %zu", at);
    }
    struct ldg_backend broken = *memory();
    broken.name = NULL;
    assert_non_null(ldg_registry_problem(&broken));
    broken = *memory();
    broken.name = "a name that is too long";
    assert_non_null(ldg_registry_problem(&broken));
    broken = *memory();
    broken.scheme = NULL;
    assert_non_null(ldg_registry_problem(&broken));
    broken = *memory();
    broken.ctx_size = 0;
    assert_non_null(ldg_registry_problem(&broken));
}

/* Without capabilities the callbacks need not be there, but never half of a pair. */
static void pairs_are_whole_or_not_there(void **state)
{
    struct ldg_backend b = *memory();
    b.caps = 0;
    b.log_read = NULL;
    b.log_wait = NULL;
    b.set_tags = NULL;
    b.set_annotations = NULL;
    b.trim = NULL;
    b.apply = NULL;
    b.find_by_source_id = NULL;
    assert_null(ldg_registry_problem(&b));
    b.cursor_get = NULL;
    assert_non_null(ldg_registry_problem(&b));
    b.cursor_set = NULL;
    assert_non_null(ldg_registry_problem(&b));
    b.cursor_list = NULL;
    assert_null(ldg_registry_problem(&b));
    b.tx_begin = NULL;
    assert_non_null(ldg_registry_problem(&b));
    b.tx_commit = NULL;
    assert_non_null(ldg_registry_problem(&b));
    b.tx_rollback = NULL;
    assert_null(ldg_registry_problem(&b));
    b.snapshot_begin = NULL;
    assert_non_null(ldg_registry_problem(&b));
    b.snapshot_end = NULL;
    assert_null(ldg_registry_problem(&b));
    b.settle = NULL;
    assert_non_null(ldg_registry_problem(&b));
    b.read_gaps = NULL;
    assert_null(ldg_registry_problem(&b));
    b.origin_get = NULL;
    assert_non_null(ldg_registry_problem(&b));
    b.origin_list = NULL;
    assert_non_null(ldg_registry_problem(&b)); /* adoption needs origins */
    b.origin_adopt = NULL;
    assert_non_null(ldg_registry_problem(&b));
    b.origin_rewind = NULL;
    assert_non_null(ldg_registry_problem(&b));
    b.origin_last = NULL;
    assert_null(ldg_registry_problem(&b));
    b.parked_list = NULL;
    assert_non_null(ldg_registry_problem(&b));
    b.parked_count = NULL;
    b.parked_retry = NULL;
    b.parked_note = NULL;
    assert_non_null(ldg_registry_problem(&b));
    b.parked_drop = NULL;
    assert_null(ldg_registry_problem(&b));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_backend_is_whole),       cmocka_unit_test(finds_by_scheme),
        cmocka_unit_test(finds_for_a_connection),       cmocka_unit_test(every_hole_is_found),
        cmocka_unit_test(pairs_are_whole_or_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
