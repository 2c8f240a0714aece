#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ldg_config.h"
#include "roles.h"
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
    assert_int_equal(count, 1 + LDG_WITH_SQLITE + LDG_WITH_POSTGRES + LDG_WITH_WEBHOOK +
                                LDG_WITH_CLICKHOUSE);
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
#if LDG_WITH_CLICKHOUSE
        { "clickhouse://u:secret@h/d", LEDGER_OK, "" },
        { "clickhouses://u:secret@h/d", LEDGER_OK, "" },
#else
        { "clickhouse://u:secret@h/d", LEDGER_ERR_UNSUPPORTED, "clickhouse" },
        { "clickhouses://u:secret@h/d", LEDGER_ERR_UNSUPPORTED, "clickhouse" },
#endif
#if LDG_WITH_POSTGRES
        { "postgresql://u:secret@h/d", LEDGER_OK, "" },
        { "postgres://u:secret@h/d", LEDGER_OK, "" },
#else
        { "postgresql://u:secret@h/d", LEDGER_ERR_UNSUPPORTED, "postgresql" },
        { "postgres://u:secret@h/d", LEDGER_ERR_UNSUPPORTED, "postgresql" },
#endif
        { "postgre://u:secret@h/d", LEDGER_ERR_UNSUPPORTED, "postgre" },
#if LDG_WITH_WEBHOOK
        { "https://u:secret@h/p", LEDGER_OK, "" },
#else
        { "https://u:secret@h/p", LEDGER_ERR_UNSUPPORTED, "built without https" },
#endif
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
            assert_int_equal(strncmp(backend->scheme, rows[i].url, 5), 0);
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

/* Where a callback stands in a copy of a backend. */
#define AT(table, callback)                                                                        \
    (offsetof(struct tst_backend, table) +                                                         \
     offsetof(__typeof__(((struct tst_backend *)0)->table), callback))

/* The pointers from `first` to the end of a table: each is left out in turn. What may be missing
 * alone is optional; without any other something is wrong. */
static void check_holes(size_t first, size_t end, const size_t *optional, size_t optional_count)
{
    for (size_t at = first; at < end; at += sizeof(void (*)(void))) {
        struct tst_backend broken;
        bool may_be_null = false;
        tst_backend_copy(&broken, memory());
        memset((char *)&broken + at, 0, sizeof(void (*)(void)));
        for (size_t i = 0; i < optional_count; i++)
            may_be_null = may_be_null || optional[i] == at;
        if (!ldg_registry_problem(&broken.backend) != may_be_null)
            fail_msg("callback at offset %zu", at);
    }
}

static void every_hole_is_found(void **state)
{
    static const size_t optional[] = {
        AT(backend, describe),        AT(backend, check),          AT(backend, verify),
        AT(store, set_tags),          AT(store, set_annotations),  AT(store, trim),
        AT(store, find_by_source_id), AT(source, log_acknowledge), AT(source, trim_survivors),
        AT(sink, durable_count),      AT(sink, hint_backlog),      AT(state, origin_carry_ids),
        AT(state, origin_skips),      AT(state, origin_unguard),   AT(state, origin_unclaimed),
        AT(backend, source),          AT(backend, has_text_ids),
    };
    static const size_t tables[][2] = {
        { AT(backend, open), sizeof(struct ldg_backend) },
        { AT(store, append), AT(store, append) + sizeof(struct ldg_store_role) },
        { AT(source, log_read), AT(source, log_read) + sizeof(struct ldg_source_role) },
        { AT(sink, apply), offsetof(struct tst_backend, sink) + sizeof(struct ldg_sink_role) },
        { AT(state, identity), AT(state, identity) + sizeof(struct ldg_state_role) },
        { AT(verify, history), AT(verify, history) + sizeof(struct ldg_verify_role) },
    };
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
        check_holes(tables[i][0], tables[i][1], optional, sizeof(optional) / sizeof(optional[0]));
}

static void what_every_backend_has(void **state)
{
    struct ldg_backend broken = *memory();
    broken.name = NULL;
    assert_non_null(ldg_registry_problem(&broken));
    broken.name = "a name that is too long";
    assert_non_null(ldg_registry_problem(&broken));
    broken = *memory();
    broken.scheme = NULL;
    assert_non_null(ldg_registry_problem(&broken));
    broken = *memory();
    broken.ctx_size = 0;
    assert_non_null(ldg_registry_problem(&broken));
}

/* A group of callbacks is there whole, or not at all: without its first n, for every n. */
static void groups_are_whole_or_not_there(void **state)
{
    static const struct {
        size_t callbacks[8];
        const char *word;
    } groups[] = {
        { { AT(store, tx_begin), AT(store, tx_commit), AT(store, tx_rollback) }, "tx_" },
        { { AT(store, watermark), AT(store, read_gaps) }, "watermark" },
        { { AT(state, origin_adopt), AT(state, origin_last), AT(state, origin_rewind) },
          "origin_adopt" },
        { { AT(state, cursor_get), AT(state, cursor_set), AT(state, cursor_list) }, "cursor_" },
        { { AT(state, parked_list), AT(state, parked_near), AT(state, parked_count),
            AT(state, parked_retry), AT(state, parked_note), AT(state, parked_drop) },
          "parked_" },
    };
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        struct tst_backend b;
        tst_backend_copy(&b, memory());
        b.backend.caps = 0; /* which may need a group */
        b.sink.takes = 1 << LDG_OP_APPEND;
        for (size_t n = 0; groups[i].callbacks[n] != 0; n++) {
            memset((char *)&b + groups[i].callbacks[n], 0, sizeof(void (*)(void)));
            const char *problem = ldg_registry_problem(&b.backend);
            if ((groups[i].callbacks[n + 1] != 0) != (problem != NULL))
                fail_msg("%s without %zu: %s", groups[i].word, n + 1, problem ? problem : "fine");
            if (problem)
                assert_non_null(strstr(problem, groups[i].word));
        }
    }
}

/* What one role, or a capability, needs of another. */
static void roles_need_each_other(void **state)
{
    struct tst_backend b;
    tst_backend_copy(&b, memory());
    b.state.origin_adopt = NULL;
    b.state.origin_last = NULL;
    b.state.origin_rewind = NULL;
    assert_null(ldg_registry_problem(&b.backend));
    b.state.origin_get = NULL;
    assert_non_null(ldg_registry_problem(&b.backend));
    b.state.origin_list = NULL;
    assert_non_null(strstr(ldg_registry_problem(&b.backend), "cursor_"));
    b.backend.caps = 0;
    b.state.cursor_get = NULL;
    b.state.cursor_set = NULL;
    b.state.cursor_list = NULL;
    assert_null(ldg_registry_problem(&b.backend));

    const struct {
        uint64_t caps;
        const char *word;
    } rows[] = {
        { LDG_CAP_FULL_TEXT, "SEARCH" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        tst_backend_copy(&b, memory());
        b.backend.caps = rows[i].caps;
        assert_non_null(strstr(ldg_registry_problem(&b.backend), rows[i].word));
    }
    static const uint32_t takes[] = { 0, 1 << LDG_OP_TRIM,
                                      1 << LDG_OP_APPEND | 1 << (LDG_OP_PARK + 1) };
    for (size_t i = 0; i < sizeof(takes) / sizeof(takes[0]); i++) {
        tst_backend_copy(&b, memory());
        b.sink.takes = takes[i];
        assert_non_null(strstr(ldg_registry_problem(&b.backend), "takes"));
    }
}

/* A sink needs no more than to be opened and closed, and to take what comes. */
static void a_sink_may_be_small(void **state)
{
    const struct ldg_sink_role sink = { .takes = 1 << LDG_OP_APPEND,
                                        .apply = memory()->sink->apply };
    struct ldg_backend small = {
        .name = "small",
        .scheme = "small",
        .ctx_size = 1,
        .open = memory()->open,
        .close = memory()->close,
        .health = memory()->health,
        .sink = &sink,
    };
    assert_null(ldg_registry_problem(&small));
    small.caps = LDG_CAP_SEARCH;
    assert_non_null(ldg_registry_problem(&small));
    small.caps = LDG_CAP_OVERLAP_APPLY | LDG_CAP_ATOMIC_BATCH;
    assert_non_null(strstr(ldg_registry_problem(&small), "cursor_"));
    small.caps = LDG_CAP_ATOMIC_BATCH;
    assert_null(ldg_registry_problem(&small));
    small.sink = NULL;
    assert_non_null(ldg_registry_problem(&small));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_backend_is_whole), cmocka_unit_test(finds_by_scheme),
        cmocka_unit_test(finds_for_a_connection), cmocka_unit_test(every_hole_is_found),
        cmocka_unit_test(what_every_backend_has), cmocka_unit_test(groups_are_whole_or_not_there),
        cmocka_unit_test(roles_need_each_other),  cmocka_unit_test(a_sink_may_be_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
