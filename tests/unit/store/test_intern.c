/* The bridge's calls against a backend with holes, and against errors: what works is for the
 * conformance suite. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "memory_faults.h"
#include "roles.h"
#include "store/handle.h"
#include "store/registry.h"

static ledger_store *open_memory(const char *url)
{
    const ledger_store_options options = { .size = sizeof(options),
                                           .url = url,
                                           .flags = LEDGER_STORE_CREATE };
    ledger_store *store = NULL;
    ledger_error err;
    if (ledger_store_open(&options, &store, &err) != LEDGER_OK)
        fail_msg("%s", err.message);
    return store;
}

/* Every call of the inside, with arguments that are good enough to get to the backend. */
struct all {
    ledger_rc rc[24];
    size_t count;
};

static void call_all(ledger_store *store, struct all *all, ledger_error *err)
{
    const struct ldg_log_limits limits = { 1, 1 };
    struct ldg_log_batch batch = { 0 };
    struct ldg_identity identity = { .uuid = "6d1a7c1e-0000-4000-8000-000000000001", .epoch = 1 };
    struct ldg_identity *identities;
    struct ldg_arena arena;
    struct ldg_cursor cursor = { 0 };
    struct ldg_log_stat stat;
    struct ldg_parked_row *parked;
    struct ldg_history_row *history;
    const struct ldg_apply apply = { 0 };
    ledger_entry *entry;
    ledger_names names = { 0 };
    char state[LDG_CURSOR_STATE_MAX];
    uint64_t n;
    int64_t position;
    ledger_id id;
    size_t count;
    int origin, *numbers;
    bool applied;
    uint8_t outcome;
    ldg_arena_init(&batch.arena, 0);
    ldg_arena_init(&arena, 0);
    const struct all result = {
        .rc = { ldg_store_identity(store, &identity, err),
                ldg_store_log_read(store, "", &limits, &batch, err),
                ldg_store_log_cursor_at(store, 0, state, err),
                ldg_store_log_check(store, "", &position, err),
                ldg_store_log_stat(store, "", &stat, err),
                ldg_store_log_wait(store, -1, 0, err),
                ldg_store_entries_by_id(store, &(ledger_id){ .number = 1 }, 1, &arena, &entry, err),
                ldg_store_origin_get(store, &identity, NULL, &origin, err),
                ldg_store_origin_list(store, &arena, &identities, &numbers, &count, err),
                ldg_store_origin_adopt(store, 1, NULL, 0, &n, err),
                ldg_store_origin_last(store, 1, &arena, &id, err),
                ldg_store_origin_rewind(store, 1, 1, err),
                ldg_store_apply(store, &apply, &outcome, err),
                ldg_store_cursor_get(store, "c", true, &cursor, err),
                ldg_store_cursor_set(store, "c", NULL, &cursor, err),
                ldg_store_cursor_list(store, &names, err),
                ldg_store_parked_list(store, 0, 1, &arena, &parked, &count, err),
                ldg_store_parked_count(store, NULL, &n, err),
                ldg_store_parked_retry(store, 1, NULL, 0, &applied, err),
                ldg_store_parked_note(store, 1, "r", err),
                ldg_store_parked_drop(store, 1, &n, err),
                ldg_store_history(store, 0, ldg_id_of(0), 1, 1, &arena, &history, &count, err),
                ldg_store_history_of(store, 0, &(ledger_id){ .number = 1 }, 1, 1, &arena, &history,
                                     &count, err),
                ldg_store_snapshot_begin(store, err) },
        .count = 23,
    };
    ldg_store_snapshot_end(store);
    ledger_names_destroy(&names);
    ldg_arena_fini(&arena);
    ldg_arena_fini(&batch.arena);
    *all = result;
}

static void missing_callbacks_are_unsupported(void **state)
{
    ledger_store *store = open_memory("memory:holes");
    const struct ldg_backend *whole = store->backend;
    const struct ldg_state_role nameless = { .identity = whole->state->identity };
    struct ldg_backend holes = {
        .name = "holes",
        .caps = UINT64_MAX,
        .ctx_size = whole->ctx_size,
        .close = whole->close,
        .state = &nameless,
    };
    struct ldg_arena arena;
    ledger_id *ids;
    size_t count = 7;
    bool any = true;
    int number = 7;
    struct all all;
    ledger_error err;
    store->backend = &holes;
    call_all(store, &all, &err);
    assert_int_equal(all.rc[0], LEDGER_OK);
    holes.state = NULL;
    call_all(store, &all, &err);
    for (size_t i = 0; i < all.count; i++) {
        if (all.rc[i] != LEDGER_ERR_UNSUPPORTED)
            fail_msg("call %zu: %s", i, ledger_rc_name(all.rc[i]));
    }
    assert_non_null(strstr(err.message, "holes"));
    call_all(store, &all, NULL);
    assert_int_equal(all.rc[1], LEDGER_ERR_UNSUPPORTED);

    ldg_arena_init(&arena, 0);
    assert_int_equal(
        ldg_store_trim_survivors(store, 0, "s", ldg_id_of(1), &arena, &ids, &count, NULL),
        LEDGER_OK);
    assert_int_equal(count, 0);
    ldg_arena_fini(&arena);
    assert_int_equal(ldg_store_origin_unclaimed(store, &any, NULL), LEDGER_OK);
    assert_false(any);
    assert_int_equal(ldg_store_origin_carry_ids(store, &number, NULL), LEDGER_OK);
    assert_int_equal(number, 0);
    assert_int_equal(ldg_store_durable_count(store, 42), 42);
    ldg_store_hint_backlog(store, true);
    assert_int_equal(ldg_store_origin_skips(store, 1, NULL), LEDGER_OK);
    assert_int_equal(ldg_store_origin_unguard(store, NULL), LEDGER_OK);
    assert_int_equal(ldg_store_takes(store), 0);
    assert_int_equal(ldg_store_wake_add(store, -1, NULL), LEDGER_OK); /* nothing wakes it */
    ldg_store_wake_remove(store, -1);
    ldg_store_wrote(store);
    store->backend = whole;
    ledger_store_close(&store);
}

/* What a sink cannot take never gets to it; nor does a cursor where it keeps none. */
static void a_sink_is_given_what_it_takes(void **state)
{
    static const char *const names[] = { "append", "tags", "annotations", "trim", "parked events" };
    ledger_store *store = open_memory("memory:takes");
    const struct ldg_backend *whole = store->backend;
    struct tst_backend less;
    uint8_t outcome;
    ledger_error err;
    tst_backend_copy(&less, whole);
    store->backend = &less.backend;
    less.sink.takes = 0;
    for (int kind = LDG_OP_APPEND; kind <= LDG_OP_PARK; kind++) {
        const struct ldg_op op = { .kind = (enum ldg_op_kind)kind, .stream = "s" };
        const struct ldg_apply apply = { .ops = &op, .count = 1 };
        assert_int_equal(ldg_store_apply(store, &apply, &outcome, &err), LEDGER_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.message, names[kind]));
    }
    less.state.cursor_get = NULL;
    const struct ldg_apply fenced = { .name = "c" };
    assert_int_equal(ldg_store_apply(store, &fenced, &outcome, &err), LEDGER_ERR_UNSUPPORTED);
    store->backend = whole;
    ledger_store_close(&store);
}

static void closed_stores_say_so(void **state)
{
    struct all all;
    ledger_error err;
    ledger_id *ids;
    size_t count;
    bool any;
    ledger_store *again = NULL;
    assert_int_equal(ldg_store_wake_add(NULL, 0, NULL), LEDGER_ERR_CLOSED);
    ldg_store_wake_remove(NULL, 0);
    call_all(NULL, &all, &err);
    for (size_t i = 0; i < all.count; i++) {
        if (all.rc[i] != LEDGER_ERR_CLOSED)
            fail_msg("call %zu: %s", i, ledger_rc_name(all.rc[i]));
    }
    assert_int_equal(ldg_store_trim_survivors(NULL, 0, "s", ldg_id_of(1), NULL, &ids, &count, &err),
                     LEDGER_ERR_CLOSED);
    assert_int_equal(ldg_store_origin_unclaimed(NULL, &any, &err), LEDGER_ERR_CLOSED);
    assert_int_equal(ldg_store_origin_skips(NULL, 1, &err), LEDGER_ERR_CLOSED);
    assert_int_equal(ldg_store_origin_unguard(NULL, &err), LEDGER_ERR_CLOSED);
    assert_int_equal(ldg_store_reopen(NULL, LDG_ROLE_SINK, NULL, &again, &err), LEDGER_ERR_CLOSED);
    ldg_store_snapshot_end(NULL);
}

static void backend_errors_come_through(void **state)
{
    static const char *const names[] = {
        "identity",    "log_read",      "log_cursor_at", "log_check",     "log_stat",
        "log_wait",    "entries_by_id", "origin_get",    "origin_list",   "origin_adopt",
        "origin_last", "origin_rewind", "apply",         "cursor_get",    "cursor_set",
        "cursor_list", "parked_list",   "parked_count",  "parked_retry",  "parked_note",
        "parked_drop", "history",       "history_of",    "snapshot_begin"
    };
    ledger_store *store = open_memory("memory:inside");
    struct all all;
    ledger_error err;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const struct ldg_memory_fault fault = { .callback = names[i],
                                                .code = LEDGER_ERR_IO,
                                                .times = UINT64_MAX };
        assert_int_equal(ldg_memory_fault_add("inside", &fault), LEDGER_OK);
        call_all(store, &all, &err);
        if (all.rc[i] != LEDGER_ERR_IO)
            fail_msg("%s: %s", names[i], ledger_rc_name(all.rc[i]));
        ldg_memory_faults_clear("inside");
    }
    ledger_store_close(&store);
}

static bool describe_none(void *ctx, char *url, size_t url_size)
{
    return false;
}

static bool is_backlog;
static void note_backlog(void *ctx, bool backlog)
{
    is_backlog = backlog;
}

static uint64_t count_seven(void *ctx)
{
    return 7;
}

/* A database server is told who connects: the program, and which bridge of it. */
static void labels_grow_by_the_use(void **state)
{
    ledger_store_options options = { .size = sizeof(options),
                                     .url = "memory:label",
                                     .flags = LEDGER_STORE_CREATE };
    ledger_store *store = NULL, *bridge = NULL, *pipe = NULL;
    ledger_error err;
    assert_int_equal(ledger_store_open(&options, &store, &err), LEDGER_OK);
    assert_string_equal(store->open.label, "ledger");
    ledger_store_close(&store);
    options.label = "ledgerctl";
    assert_int_equal(ledger_store_open(&options, &store, &err), LEDGER_OK);
    assert_int_equal(ldg_store_reopen(store, LDG_ROLE_USER, "orders", &bridge, &err), LEDGER_OK);
    assert_int_equal(ldg_store_reopen(bridge, LDG_ROLE_SINK, NULL, &pipe, &err), LEDGER_OK);
    assert_string_equal(store->open.label, "ledgerctl");
    assert_string_equal(pipe->open.label, "ledgerctl/orders");
    ledger_store_close(&pipe);
    ledger_store_close(&bridge);
    ledger_store_close(&store);
}

/* Whole words are searched only where there is such a search. */
static void full_text_is_a_capability(void **state)
{
    ledger_store *store = open_memory("memory:words");
    const ledger_read_options options = { .size = sizeof(options), .full_text = true };
    ledger_batch *batch = NULL;
    ledger_error err;
    assert_int_equal(ledger_store_search(store, NULL, "x", &options, &batch, &err),
                     LEDGER_ERR_UNSUPPORTED);
    assert_null(batch);
    assert_int_equal(ledger_store_read(store, NULL, &options, &batch, &err), LEDGER_OK);
    ledger_batch_destroy(&batch);
    ledger_store_close(&store);
}

static void optional_callbacks_are_used(void **state)
{
    ledger_store *store = open_memory("memory:optional"), *again = NULL;
    const struct ldg_backend *whole = store->backend;
    struct tst_backend more;
    ledger_error err;
    tst_backend_copy(&more, whole);
    more.backend.describe = describe_none;
    more.sink.hint_backlog = note_backlog;
    more.sink.durable_count = count_seven;
    store->backend = &more.backend;
    ldg_store_hint_backlog(store, true);
    assert_true(is_backlog);
    assert_int_equal(ldg_store_durable_count(store, 42), 7);
    assert_int_equal(ldg_store_reopen(store, LDG_ROLE_SINK, NULL, &again, &err),
                     LEDGER_ERR_INVALID);
    assert_non_null(strstr(err.message, "no name"));
    assert_null(again);
    /* without a description: by the URL that it was opened by, and of the same backend */
    more.backend.describe = NULL;
    assert_int_equal(ldg_store_reopen(store, LDG_ROLE_SINK, NULL, &again, &err), LEDGER_OK);
    assert_ptr_equal(again->backend, store->backend);
    assert_string_equal(ledger_store_url(again), "memory:optional");
    ledger_store_close(&again);
    store->backend = whole;
    ledger_store_close(&store);
}

static void bad_arguments(void **state)
{
    ledger_store *store = open_memory("memory:bad");
    static char endless[LDG_CURSOR_STATE_MAX + 1];
    const struct ldg_op odd = { .kind = (enum ldg_op_kind)9, .stream = "s" };
    const struct ldg_apply apply = { .ops = &odd, .count = 1 };
    struct ldg_cursor cursor;
    int64_t position;
    uint8_t outcome;
    bool applied;
    ledger_error err;
    memset(endless, 'x', sizeof(endless) - 1);
    assert_int_equal(ldg_store_log_check(store, endless, &position, &err), LEDGER_ERR_DATA);
    assert_int_equal(ldg_store_log_check(store, NULL, &position, &err), LEDGER_ERR_INVALID);
    const struct ldg_log_limits limits = { 1, 1 };
    assert_int_equal(ldg_store_log_read(store, "", NULL, NULL, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ldg_store_log_read(store, "", &limits, NULL, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ldg_store_apply(store, &apply, &outcome, &err), LEDGER_ERR_INTERNAL);
    assert_int_equal(ldg_store_parked_retry(store, 1, &odd, 1, &applied, &err),
                     LEDGER_ERR_INTERNAL);
    assert_int_equal(ldg_store_cursor_get(store, NULL, true, &cursor, &err), LEDGER_ERR_INVALID);
    assert_int_equal(ldg_store_cursor_set(store, "", NULL, &cursor, &err), LEDGER_ERR_INVALID);
    ledger_store_close(&store);
}

/* A read-only handle knows itself and the origins that are there, and makes none. */
static void read_only_origins(void **state)
{
    ledger_store *store = open_memory("memory:origins"), *reader = NULL;
    const ledger_store_options options = { .size = sizeof(options),
                                           .url = "memory:origins",
                                           .flags = LEDGER_STORE_READ_ONLY };
    struct ldg_identity own, other = { .uuid = "6d1a7c1e-0000-4000-8000-000000000001", .epoch = 1 };
    int made = -1, number = -1;
    ledger_error err;
    assert_int_equal(ledger_store_open(&options, &reader, &err), LEDGER_OK);
    assert_int_equal(ldg_store_identity(reader, &own, NULL), LEDGER_OK);
    assert_int_equal(ldg_store_origin_get(reader, &own, "", &number, NULL), LEDGER_OK);
    assert_int_equal(number, 0);
    assert_int_equal(ldg_store_origin_get(reader, &other, "", &number, &err), LEDGER_ERR_READ_ONLY);
    assert_int_equal(ldg_store_origin_get(store, &other, NULL, &made, &err), LEDGER_OK);
    assert_int_equal(ldg_store_origin_get(reader, &other, "", &number, &err), LEDGER_OK);
    assert_int_equal(number, made);
    other.epoch = 2;
    assert_int_equal(ldg_store_origin_get(reader, &other, "", &number, &err), LEDGER_ERR_READ_ONLY);
    own.epoch = 2;
    assert_int_equal(ldg_store_origin_get(reader, &own, "", &number, &err), LEDGER_ERR_READ_ONLY);
    static const char *const names[] = { "identity", "origin_list" };
    for (int i = 0; i < 2; i++) {
        const struct ldg_memory_fault fault = { .callback = names[i], .code = LEDGER_ERR_IO };
        assert_int_equal(ldg_memory_fault_add("origins", &fault), LEDGER_OK);
        assert_int_equal(ldg_store_origin_get(reader, &other, "", &number, &err), LEDGER_ERR_IO);
        ldg_memory_faults_clear("origins");
    }
    ledger_store_close(&reader);
    ledger_store_close(&store);
}

static void reopened_handles_create_nothing(void **state)
{
    ledger_store *store = open_memory("memory:reopen"), *again = NULL;
    ledger_error err;
    const struct ldg_memory_fault fault = { .callback = "open", .code = LEDGER_ERR_IO };
    assert_int_equal(ldg_memory_fault_add("reopen", &fault), LEDGER_OK);
    assert_int_equal(ldg_store_reopen(store, LDG_ROLE_SINK, NULL, &again, &err), LEDGER_ERR_IO);
    assert_null(again);
    assert_int_equal(ldg_store_reopen(store, LDG_ROLE_SINK, NULL, &again, &err), LEDGER_OK);
    assert_int_equal(again->open.flags & LEDGER_STORE_CREATE, 0);
    assert_int_equal(again->open.role, LDG_ROLE_SINK);
    ldg_memory_faults_clear("reopen");
    ledger_store_close(&again);
    ledger_store_close(&store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_callbacks_are_unsupported),
        cmocka_unit_test(a_sink_is_given_what_it_takes),
        cmocka_unit_test(closed_stores_say_so),
        cmocka_unit_test(backend_errors_come_through),
        cmocka_unit_test(labels_grow_by_the_use),
        cmocka_unit_test(full_text_is_a_capability),
        cmocka_unit_test(optional_callbacks_are_used),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(read_only_origins),
        cmocka_unit_test(reopened_handles_create_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
