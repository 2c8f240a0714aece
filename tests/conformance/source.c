/* What a bridge needs of a source: log, cursor and witness, waiting, history, snapshots. */
#include "sink.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "roles.h"

struct reader {
    struct ldg_log_batch batch;
    char state[LDG_CURSOR_STATE_MAX];
};

static struct reader *reader_new(struct conf_env *env)
{
    struct reader *reader = ldg_arena_calloc(&env->arena, 1, sizeof(*reader));
    ldg_arena_init(&reader->batch.arena, 0);
    return reader;
}

static size_t next(struct reader *reader, ledger_store *store, size_t max_count, size_t max_bytes)
{
    const struct ldg_log_limits limits = { max_count, max_bytes };
    ledger_error err;
    ok(ldg_store_log_read(store, reader->state, &limits, &reader->batch, &err));
    memcpy(reader->state, reader->batch.next_state, sizeof(reader->state));
    return reader->batch.count;
}

static void log_in_pages(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    struct reader *reader = reader_new(env);
    char payload[32];
    assert_int_equal(next(reader, store, 10, SIZE_MAX), 0);
    assert_string_equal(reader->state, "");
    assert_int_equal(reader->batch.next_position, 0);
    assert_false(reader->batch.more);
    for (int i = 0; i < 25; i++) {
        snprintf(payload, sizeof(payload), "\"no %d\"", i);
        conf_append(store, i % 2 ? "s" : "t", payload);
    }
    int64_t last = 0;
    for (int i = 0, pages = 0; i < 25; pages++) {
        const size_t count = next(reader, store, 7, SIZE_MAX);
        assert_int_equal(count, pages < 3 ? 7 : 4);
        assert_int_equal(reader->batch.more, pages < 3);
        size_t bytes = 0;
        for (size_t k = 0; k < count; k++, i++) {
            const struct ldg_log_row *row = &reader->batch.rows[k];
            snprintf(payload, sizeof(payload), "\"no %d\"", i);
            assert_true(row->position > last);
            assert_non_null(memmem(row->payload.data, row->payload.size, payload, strlen(payload)));
            assert_true(row->created_at_us != LEDGER_NO_TIME);
            last = row->position;
            bytes += row->payload.size;
        }
        assert_int_equal(reader->batch.bytes, bytes);
        assert_int_equal(reader->batch.next_position, last);
    }
    char before[LDG_CURSOR_STATE_MAX];
    memcpy(before, reader->state, sizeof(before));
    assert_int_equal(next(reader, store, 7, SIZE_MAX), 0);
    assert_string_equal(reader->state, before);
    assert_int_equal(reader->batch.next_position, last);
    conf_append(store, "s", "1");
    assert_int_equal(next(reader, store, 7, SIZE_MAX), 1);
    assert_true(strlen(reader->state) > 0);
    ldg_arena_fini(&reader->batch.arena);
}

static void log_ends_by_bytes(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    struct reader *reader = reader_new(env);
    const struct ldg_log_limits none = { 0, 1 };
    ledger_error err;
    for (int i = 0; i < 10; i++)
        conf_append(store, "s", "\"0123456789\"");
    assert_int_equal(next(reader, store, 100, 1), 1); /* always one at least */
    assert_true(reader->batch.more);
    const size_t one = reader->batch.bytes;
    const size_t count = next(reader, store, 100, one * 3);
    assert_in_range(count, 2, 4);
    assert_true(reader->batch.more);
    assert_int_equal(next(reader, store, 100, SIZE_MAX), 9 - count);
    assert_false(reader->batch.more);
    fails(ldg_store_log_read(store, "", &none, &reader->batch, &err), INVALID);
    ldg_arena_fini(&reader->batch.arena);
}

static void cursor_at_a_position(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    struct reader *reader = reader_new(env);
    char state[LDG_CURSOR_STATE_MAX];
    int64_t positions[5], position = -1;
    ledger_error err;
    for (int i = 0; i < 5; i++)
        conf_append(store, "s", "1");
    assert_int_equal(next(reader, store, 5, SIZE_MAX), 5);
    for (int i = 0; i < 5; i++)
        positions[i] = reader->batch.rows[i].position;
    ok(ldg_store_log_cursor_at(store, 0, state, &err));
    ok(ldg_store_log_check(store, state, &position, &err));
    assert_int_equal(position, 0);
    memcpy(reader->state, state, sizeof(state));
    assert_int_equal(next(reader, store, 100, SIZE_MAX), 5);
    for (int i = 0; i < 5; i++) {
        ok(ldg_store_log_cursor_at(store, positions[i], state, &err));
        ok(ldg_store_log_check(store, state, &position, &err));
        assert_int_equal(position, positions[i]);
        memcpy(reader->state, state, sizeof(state));
        assert_int_equal(next(reader, store, 100, SIZE_MAX), 4 - i);
        if (i < 4)
            assert_int_equal(reader->batch.rows[0].position, positions[i + 1]);
    }
    ok(ldg_store_log_check(store, "", &position, &err));
    assert_int_equal(position, 0);
    /* a cursor that was made before any row holds afterwards too */
    ledger_store *empty = conf_open(env, "b");
    ok(ldg_store_log_cursor_at(empty, 0, state, &err));
    conf_append(empty, "s", "1");
    ok(ldg_store_log_check(conf_open(env, "b"), state, &position, &err));
    fails(ldg_store_log_cursor_at(store, -1, state, &err), INVALID);
    /* a position that the log has not reached comes from a later log than this */
    fails(ldg_store_log_cursor_at(store, positions[4] + 1000, state, &err), SOURCE_REWOUND);
    fails(ldg_store_log_cursor_at(conf_open(env, "c"), 1, state, &err), SOURCE_REWOUND);
    ldg_arena_fini(&reader->batch.arena);
}

static void cursor_of_another_source(struct conf_env *env)
{
    ledger_store *a = conf_open(env, "a"), *b = conf_open(env, "b");
    const struct ldg_log_limits limits = { 10, SIZE_MAX };
    struct reader *reader = reader_new(env);
    struct ldg_log_stat stat;
    int64_t position = -1;
    char broken[LDG_CURSOR_STATE_MAX];
    ledger_error err;
    conf_append(a, "s", "1");
    conf_append(b, "s", "1");
    next(reader, a, 10, SIZE_MAX);
    fails(ldg_store_log_read(b, reader->state, &limits, &reader->batch, &err), CURSOR_MISMATCH);
    fails(ldg_store_log_check(b, reader->state, &position, &err), CURSOR_MISMATCH);
    assert_true(err.flags & LEDGER_ERROR_FATAL);
    assert_int_equal(position, -1);
    static const char *const garbage[] = { "x", "1", "::::::", "sqlite:9:a:b:c:d:e",
                                           "0000000000000000001" };
    for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
        fails(ldg_store_log_check(a, garbage[i], &position, &err), DATA);
        fails(ldg_store_log_read(a, garbage[i], &limits, &reader->batch, &err), DATA);
    }
    /* one of another kind of source: a bridge of that one has this name */
    fails(ldg_store_log_check(a, "another:1:x", &position, &err), CURSOR_MISMATCH);
    assert_non_null(strstr(err.message, "--name"));
    /* every cut of a good cursor is refused */
    const size_t size = strlen(reader->state);
    for (size_t i = 1; i < size; i++) {
        memcpy(broken, reader->state, i);
        broken[i] = '\0';
        assert_int_not_equal(ldg_store_log_check(a, broken, &position, &err), LEDGER_OK);
    }
    ok(ldg_store_log_check(a, reader->state, &position, &err));
    ok(ldg_store_log_stat(a, reader->state, &stat, &err));
    fails(ldg_store_log_read(a, NULL, &limits, &reader->batch, &err), INVALID);
    ldg_arena_fini(&reader->batch.arena);
}

static void cursor_of_a_rewound_source(struct conf_env *env)
{
    const struct ldg_log_limits limits = { 10, SIZE_MAX };
    ledger_store *store = conf_open(env, "a");
    struct reader *reader = reader_new(env);
    int64_t position;
    ledger_error err;
    char log_table[80], ahead[LDG_CURSOR_STATE_MAX];
    snprintf(log_table, sizeof(log_table), "%s_mutations", LEDGER_DEFAULT_TABLE);
    conf_append(store, "s", "\"first\"");
    conf_append(store, "s", "\"second\"");
    next(reader, store, 1, SIZE_MAX);
    memcpy(ahead, reader->state, sizeof(ahead));
    next(reader, store, 1, SIZE_MAX);
    const int64_t second = reader->batch.next_position;
    env->backend->damage_log(conf_url(env, "a"), log_table, second);
    ledger_store *again = conf_open(env, "a"); /* every connection looks */
    fails(ldg_store_log_check(again, reader->state, &position, &err), SOURCE_REWOUND);
    fails(ldg_store_log_read(again, reader->state, &limits, &reader->batch, &err), SOURCE_REWOUND);
    conf_append(store, "s", "\"third\"");
    fails(ldg_store_log_read(store, reader->state, &limits, &reader->batch, &err), SOURCE_REWOUND);
    ok(ldg_store_log_check(again, ahead, &position, &err));
    ldg_arena_fini(&reader->batch.arena);
}

static void log_stat_counts_the_backlog(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    struct reader *reader = reader_new(env);
    struct ldg_log_stat stat;
    ledger_error err;
    ok(ldg_store_log_stat(store, "", &stat, &err));
    assert_int_equal(stat.head, 0);
    assert_int_equal(stat.backlog_count, 0);
    assert_true(stat.oldest_us == LEDGER_NO_TIME);
    for (int i = 0; i < 5; i++)
        conf_append(store, "s", "1");
    next(reader, store, 2, SIZE_MAX);
    const int64_t second_us = reader->batch.rows[1].created_at_us;
    ok(ldg_store_log_stat(store, reader->state, &stat, &err));
    assert_int_equal(stat.backlog_count, 3);
    assert_true(stat.oldest_us >= second_us);
    next(reader, store, 10, SIZE_MAX);
    ok(ldg_store_log_stat(store, reader->state, &stat, &err));
    assert_int_equal(stat.head, reader->batch.next_position);
    assert_int_equal(stat.backlog_count, 0);
    assert_true(stat.oldest_us == LEDGER_NO_TIME);
    ldg_arena_fini(&reader->batch.arena);
}

struct waiting {
    ledger_store *store;
    int fd;
    ledger_rc rc;
};

static void *wait_for_log(void *ctx)
{
    struct waiting *w = ctx;
    w->rc = ldg_store_log_wait(w->store, w->fd, 60000, NULL);
    return NULL;
}

static void log_wait_wakes_up(struct conf_env *env)
{
    ledger_store *reading = conf_open(env, "a"), *writing = conf_open(env, "a");
    struct waiting w = { .store = reading, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
    pthread_t thread;
    uint64_t counter = 0;
    ledger_error err;
    assert_true(w.fd >= 0);
    ok(ldg_store_log_wait(reading, w.fd, 0, &err));
    ok(ldg_store_log_wait(reading, w.fd, 1, &err));
    ok(ldg_store_wake_add(reading, w.fd, &err));
    assert_int_equal(pthread_create(&thread, NULL, wait_for_log, &w), 0);
    conf_append(writing, "s", "1"); /* before or while it waits: it comes back either way */
    pthread_join(thread, NULL);
    ok_at(w.rc, &err, "wait", __FILE__, __LINE__);
    assert_int_equal(read(w.fd, &counter, sizeof(counter)), sizeof(counter));
    /* a transaction wakes at its commit */
    ok(ledger_store_begin(writing, &err));
    conf_append(writing, "s", "2");
    assert_int_equal(read(w.fd, &counter, sizeof(counter)), -1);
    ok(ledger_store_commit(writing, &err));
    assert_int_equal(read(w.fd, &counter, sizeof(counter)), sizeof(counter));
    ldg_store_wake_remove(reading, w.fd);
    conf_append(writing, "s", "3");
    assert_int_equal(read(w.fd, &counter, sizeof(counter)), -1);
    close(w.fd);
}

static void kept_are(struct sink *sink, int origin, const char *stream, int64_t before,
                     const char *want)
{
    char text[128] = "";
    ledger_id *ids = NULL;
    size_t count = 0;
    ledger_error err;
    ok(ldg_store_trim_survivors(sink->store, origin, stream, ldg_id_of(before), &sink->env->arena,
                                &ids, &count, &err));
    for (size_t i = 0; i < count; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%lld", i ? " " : "",
                 (long long)ids[i].number);
    assert_string_equal(text, want);
}

/* For the log of a store in the middle of a chain: a trim of bridged entries by their own ids. */
static void trim_leaves_bridged_entries(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    kept_are(sink, sink->a, "s", 100, "");
    for (int64_t i = 3; i <= 6; i++)
        sink_append(sink, sink->a, i, "s", "1", NULL);
    sink_append(sink, sink->a, 7, "t", "1", NULL);
    sink_append(sink, sink->b, 4, "s", "1", NULL);
    sink_run(sink);
    int64_t local = conf_append(sink->store, "s", "1");
    kept_are(sink, sink->a, "s", 2, "");
    kept_are(sink, sink->a, "s", 5, "3 4 5");
    kept_are(sink, sink->a, "s", 100, "3 4 5 6");
    kept_are(sink, sink->a, "t", 100, "7");
    kept_are(sink, sink->a, "u", 100, "");
    kept_are(sink, sink->b, "s", 100, "4");
    kept_are(sink, sink->b + 1, "s", 100, ""); /* no such origin */
    char text[24];
    snprintf(text, sizeof(text), "%lld", (long long)local);
    kept_are(sink, 0, "s", local, text);
    kept_are(sink, 0, "s", local - 1, "");
    /* an event that came late, and some that are parked: one of an entry that is here */
    sink_append(sink, sink->a, 2, "s", "1", NULL);
    sink_park(sink, 1, "s", "r");
    sink_park(sink, 4, "s", "r");
    sink_park(sink, 8, "s", "r");
    sink_park(sink, 5, "t", "r");
    sink_park(sink, 0, "s", "unknown entry");
    sink_run(sink);
    sink_is(sink, "appppp");
    kept_are(sink, sink->a, "s", 4, "1 2 3 4");
    kept_are(sink, sink->a, "s", 100, "1 2 3 4 5 6 8");
    kept_are(sink, sink->a, "t", 100, "5 7");
    kept_are(sink, sink->b, "s", 100, "4");
    kept_are(sink, 0, "s", 100, text);
}

/* By the text that Go has left, or by the number at the origin; and those of Go are the store's
 * own.
 */
static void found_by_source_id(struct conf_env *env)
{
    static const char *const there[] = { "70", "00009", "60" }, *const none[] = { "80", "070", "1",
                                                                                  "x", "999" };
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_OFF);
    char text[64];
    ledger_id id;
    ledger_error err;
    const int64_t local = conf_append(sink->store, "s", "0");
    sink_append(sink, sink->a, 70, "s", "1", NULL);
    sink_append(sink, sink->a, 80, "t", "1", NULL);
    sink_run(sink);
    env->backend->put_legacy(conf_url(env, "sink"), LEDGER_DEFAULT_TABLE, "s", "2", "00009");
    sink_append(sink, sink->b, 60, "s", "3", NULL);
    sink_run(sink);
    ledger_batch *batch = conf_read(sink->store, "s", NULL);
    assert_int_equal(ledger_batch_count(batch), 4);
    for (size_t i = 0; i < 3; i++) {
        ok(ledger_store_find_by_source_id(sink->store, "s", there[i], &id, &err));
        assert_int_equal(id.number, ledger_batch_entry(batch, i + 1)->id.number);
    }
    const ledger_id last = id, of_go = ledger_batch_entry(batch, 2)->id;
    ledger_batch_destroy(&batch);
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
        fails(ledger_store_find_by_source_id(sink->store, "s", none[i], &id, &err), NOT_FOUND);
    assert_int_equal(id.number, last.number);
    snprintf(text, sizeof(text), "%lld %lld", (long long)local, (long long)of_go.number);
    kept_are(sink, 0, "s", last.number, text);
    kept_are(sink, 0, "none", last.number, "");
}

static void entries_by_id(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    ledger_entry *entry = NULL;
    ledger_error err;
    const int64_t id = conf_append_dedup(store, "s", " [1] ", "k");
    const int64_t other = conf_append(store, "t", "2");
    const ledger_id ids[] = {
        { .number = other }, { .number = id }, { .number = other + 1 }, { .number = id }
    };
    ok(ldg_store_entries_by_id(store, ids, 4, &env->arena, &entry, &err));
    assert_int_equal(entry[0].id.number, other);
    assert_string_equal(entry[0].stream, "t");
    assert_int_equal(entry[2].id.number, 0);
    assert_int_equal(entry[3].id.number, id);
    assert_memory_equal(entry[3].payload.data, " [1] ", 5);
    entry++;
    assert_int_equal(entry->id.number, id);
    assert_string_equal(entry->stream, "s");
    assert_string_equal(entry->dedup_key, ""); /* only what is asked for */
    assert_true(entry->created_at_us != LEDGER_NO_TIME);
    assert_true(entry->updated_at_us == LEDGER_NO_TIME);
    assert_int_equal(entry->payload.size, 5);
    assert_memory_equal(entry->payload.data, " [1] ", 5);
    ok(ldg_store_entries_by_id(store, NULL, 0, &env->arena, &entry, &err));
    assert_null(entry);
}

static void history_of_local_entries(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    struct ldg_history_row *rows;
    size_t count;
    int64_t ids[10], after = 0;
    ledger_error err;
    for (int i = 0; i < 10; i++)
        ids[i] = conf_append(store, i % 3 ? "s" : "t", "\"0123456789\"");
    for (size_t at = 0; at < 10; at += count) {
        ok(ldg_store_history(store, 0, ldg_id_of(after), 4, SIZE_MAX, &env->arena, &rows, &count,
                             &err));
        assert_int_equal(count, at < 8 ? 4 : 2);
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(rows[i].key.number, ids[at + i]);
            assert_int_equal(rows[i].entry->id.number, ids[at + i]);
        }
        after = rows[count - 1].key.number;
    }
    ok(ldg_store_history(store, 0, ldg_id_of(after), 4, SIZE_MAX, &env->arena, &rows, &count,
                         &err));
    assert_int_equal(count, 0);
    ok(ldg_store_history(store, 0, ldg_id_of(0), 100, 1, &env->arena, &rows, &count, &err));
    assert_int_equal(count, 1);
}

/* A table that the Go bridge writes to and that logs, too: its log has those entries. */
static void history_has_what_go_left(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    struct ldg_history_row *rows;
    size_t count;
    ledger_error err;
    conf_append(store, "s", "1");
    env->backend->put_legacy(conf_url(env, "a"), LEDGER_DEFAULT_TABLE, "s", "2", "77");
    conf_append(store, "s", "3");
    ok(ldg_store_history(store, 0, ldg_id_of(0), 10, SIZE_MAX, &env->arena, &rows, &count, &err));
    assert_int_equal(count, 3);
    assert_int_equal(rows[1].key.number, rows[1].entry->id.number);
    assert_string_equal(rows[1].entry->source_id, "77");
}

static void snapshot_is_one_moment(struct conf_env *env)
{
    ledger_store *reading = conf_open(env, "a"), *writing = conf_open(env, "a");
    struct ldg_history_row *rows;
    struct ldg_log_stat stat;
    const ledger_append_input input = { .payload = conf_bytes("1") };
    size_t count;
    ledger_error err;
    int64_t a = conf_append(writing, "s", "1"), b = conf_append(writing, "s", "2");
    ok(ledger_store_set_tags(writing, "s", conf_id(a), conf_list("before"), &err));
    ok(ldg_store_snapshot_begin(reading, &err));
    assert_int_equal(conf_count(reading, "s"), 2); /* the moment is the first read, at the latest */
    ok(ledger_store_set_tags(writing, "s", conf_id(a), conf_list("after"), &err));
    ok(ledger_store_set_tags(writing, "s", conf_id(a), conf_list("later"), &err));
    ok(ledger_store_trim(writing, "s", conf_id(a), NULL, &err));
    ok(ledger_store_set_annotations(writing, "s", conf_id(b), conf_map({ "k", "v" }), &err));
    conf_append(writing, "s", "3");
    ok(ldg_store_history(reading, 0, ldg_id_of(0), 10, SIZE_MAX, &env->arena, &rows, &count, &err));
    assert_int_equal(count, 2);
    assert_true(conf_list_is(rows[0].entry->tags, "before"));
    assert_int_equal(rows[1].entry->annotations.count, 0);
    assert_int_equal(conf_count(reading, "s"), 2);
    ok(ldg_store_log_stat(reading, "", &stat, &err));
    assert_int_equal(stat.backlog_count, 3);
    fails(ledger_store_append(reading, "s", &input, 1, NULL, &err), INVALID);
    fails(ledger_store_begin(reading, &err), INVALID);
    fails(ldg_store_snapshot_begin(reading, &err), INVALID);
    ldg_store_snapshot_end(reading);
    ldg_store_snapshot_end(reading);
    assert_int_equal(conf_count(reading, "s"), 2); /* b and the third */
    ok(ldg_store_history(reading, 0, ldg_id_of(0), 10, SIZE_MAX, &env->arena, &rows, &count, &err));
    assert_int_equal(count, 2);
    assert_true(conf_map_is(rows[0].entry->annotations, "k=v"));
    conf_append(reading, "s", "4");
}

static void reopen_in_a_role(struct conf_env *env)
{
    static const enum ldg_role roles[] = { LDG_ROLE_SOURCE, LDG_ROLE_SINK, LDG_ROLE_USER };
    ledger_store *store = conf_open_with(env, "a", "orders", LEDGER_MUTATION_LOG_AUTO, 0),
                 *again = NULL;
    ledger_error err;
    conf_append(store, "s", "1");
    tst_cut(store, TST_CUT_CURSORS);
    for (size_t i = 0; i < 3; i++) {
        ok(ldg_store_reopen(store, roles[i], NULL, &again, &err));
        assert_string_equal(ledger_store_table(again), "orders");
        assert_int_equal(ldg_store_caps(again), ldg_store_caps(store));
        assert_true(ledger_store_has_log(again));
        assert_int_equal(conf_count(again, "s"), 1);
        conf_append(store, "s", "2");
        assert_int_equal(conf_count(again, "s"), 2);
        ok(ledger_store_trim(store, "s", conf_id(INT64_MAX), NULL, &err));
        conf_append(store, "s", "1");
        ledger_store_close(&again);
    }
}

static void missing_roles(struct conf_env *env)
{
    ledger_store *store = conf_open(env, "a");
    char text[LEDGER_ID_TEXT_MAX];
    ledger_batch *batch = NULL;
    struct reader *reader = reader_new(env);
    const struct ldg_log_limits limits = { 10, SIZE_MAX };
    uint64_t count;
    ledger_id id;
    ledger_error err;
    tst_cut(store, TST_CUT_ALL);
    assert_int_equal(ldg_store_caps(store), 0);
    int64_t entry = conf_append(store, "s", "1");
    fails(ledger_store_set_tags(store, "s", conf_id(entry), conf_list("x"), &err), UNSUPPORTED);
    assert_non_null(strstr(err.message, env->backend->name));
    fails(ledger_store_set_annotations(store, "s", conf_id(entry), conf_map({ "k", "v" }), &err),
          UNSUPPORTED);
    fails(ledger_store_trim(store, "s", conf_id(entry), NULL, &err), UNSUPPORTED);
    fails(ledger_store_search(store, "s", "x", NULL, &batch, &err), UNSUPPORTED);
    fails(ledger_store_begin(store, &err), UNSUPPORTED);
    fails(ledger_store_cursor_get(store, "c", text, &err), UNSUPPORTED);
    fails(ledger_store_cursor_set(store, "c", "1", &err), UNSUPPORTED);
    fails(ledger_store_find_by_source_id(store, "s", "1", &id, &err), UNSUPPORTED);
    fails(ldg_store_log_read(store, "", &limits, &reader->batch, &err), UNSUPPORTED);
    fails(ldg_store_parked_count(store, NULL, &count, &err), UNSUPPORTED);
    const struct ldg_op trim = { .kind = LDG_OP_TRIM, .stream = "s" };
    const struct ldg_apply with_cursor = { .name = "c" }, without = { .ops = &trim, .count = 1 };
    uint8_t outcome;
    fails(ldg_store_apply(store, &with_cursor, &outcome, &err), UNSUPPORTED);
    fails(ldg_store_apply(store, &without, &outcome, &err), UNSUPPORTED);
}

#define LOG LDG_CAP_MUTATION_LOG
#define SINK                                                                                       \
    (LDG_CAP_ATOMIC_BATCH | LDG_CAP_TX_CURSOR | LDG_CAP_ORIGINS | LDG_CAP_PARK | LDG_CAP_TRIM)
const struct conf_case conf_source_cases[] = {
    { "log in pages", log_in_pages, LOG, 0 },
    { "log ends by bytes", log_ends_by_bytes, LOG, 0 },
    { "cursor at a position", cursor_at_a_position, LOG, 0 },
    { "cursor of another source", cursor_of_another_source, LOG, 0 },
    { "cursor of a rewound source", cursor_of_a_rewound_source, LOG,
      offsetof(struct conf_backend, damage_log) },
    { "log stat counts the backlog", log_stat_counts_the_backlog, LOG, 0 },
    { "log wait wakes up", log_wait_wakes_up, LOG | LDG_CAP_TRANSACTIONS, 0 },
    { "trim leaves bridged entries", trim_leaves_bridged_entries, LOG | SINK, 0 },
    { "found by source id", found_by_source_id, LOG | SINK,
      offsetof(struct conf_backend, put_legacy) },
    { "entries by id", entries_by_id, LOG, 0 },
    { "history of local entries", history_of_local_entries, LOG, 0 },
    { "history has what Go left", history_has_what_go_left, LOG,
      offsetof(struct conf_backend, put_legacy) },
    { "snapshot is one moment", snapshot_is_one_moment,
      LOG | LDG_CAP_TAGS | LDG_CAP_ANNOTATIONS | LDG_CAP_TRIM, 0 },
    { "reopen in a role", reopen_in_a_role, LOG | LDG_CAP_TRIM, 0 },
    { "missing roles", missing_roles, 0, 0 },
};
const size_t conf_source_case_count = sizeof(conf_source_cases) / sizeof(conf_source_cases[0]);
