/* Stores whose ids are texts (memory:NAME?ids=text): as sources, as sinks, in a chain with one
 * whose ids are numbers, and what becomes of ids of the wrong kind. */
#include <stdlib.h>
#include <string.h>

#include "fixtures.h"

#define TEXTS "?ids=text"

/* The source is memory. */
static const struct {
    const char *source, *sink;
    enum tst_kind sink_kind;
} pairs[] = {
    { "a" TEXTS, "b", TST_MEMORY },         { "a" TEXTS, "b" TEXTS, TST_MEMORY },
    { "a", "b" TEXTS, TST_MEMORY },         { "a" TEXTS, "b", TST_SQLITE },
    { "a" TEXTS, "b", TST_PLAIN },          { "a" TEXTS, "b", TST_POSTGRES },
    { "a" TEXTS, "b", TST_PLAIN_POSTGRES },
};
#define PAIR_COUNT (sizeof(pairs) / sizeof(*pairs))

/* NULL: it cannot be had here, or takes no such keys. */
static ledger_store *open_sink(struct tst_env *env, enum tst_kind kind, const char *name)
{
    ledger_store *sink;
    if (!tst_kind_here((int)kind))
        return NULL;
    sink = tst_open(env, kind, name);
    return (ldg_store_caps(sink) & LDG_CAP_TEXT_KEYS) != 0 ? sink : NULL;
}

/* False: this pair cannot be had. */
static bool open_pair(struct tst_env *env, size_t pair, ledger_store **ret_source,
                      ledger_store **ret_sink)
{
    tst_env_reset(env);
    *ret_source = tst_open(env, TST_MEMORY, pairs[pair].source);
    *ret_sink = open_sink(env, pairs[pair].sink_kind, pairs[pair].sink);
    return *ret_sink != NULL;
}

/* The id of a new entry, in what the program never frees before it ends. */
static ledger_id append(ledger_store *store, const char *stream, const char *payload)
{
    static char texts[4096][LEDGER_ID_TEXT_MAX];
    static size_t used;
    const ledger_append_input input = { .payload = { payload, strlen(payload) } };
    ledger_ids ids = { 0 };
    ledger_error err = { 0 };
    tst_ok(ledger_store_append(store, stream, &input, 1, &ids, &err), &err);
    assert_int_equal(ids.count, 1);
    ledger_id id = ids.items[0];
    if (id.text != NULL) {
        assert_true(used < sizeof(texts) / sizeof(*texts));
        assert_int_equal(strlen(id.text), 24);
        id.text = memcpy(texts[used++], id.text, 25);
    }
    ledger_ids_destroy(&ids);
    return id;
}

static void tag(ledger_store *store, const char *stream, ledger_id id, const char *tag)
{
    ledger_error err = { 0 };
    tst_ok(ledger_store_set_tags(store, stream, id, (ledger_list){ &tag, 1 }, &err), &err);
}

static void annotate(ledger_store *store, const char *stream, ledger_id id, const char *value)
{
    const ledger_pair pair = { "k", value };
    ledger_error err = { 0 };
    tst_ok(ledger_store_set_annotations(store, stream, id, (ledger_map){ &pair, 1 }, &err), &err);
}

static uint64_t trim(ledger_store *store, const char *stream, ledger_id before)
{
    uint64_t deleted = 0;
    ledger_error err = { 0 };
    tst_ok(ledger_store_trim(store, stream, before, &deleted, &err), &err);
    return deleted;
}

/* "PAYLOAD[TAG]{ANNOTATION} …" of a stream, in its order. by_origin: each with its id at its
 * origin, which is its own at the source. */
static const char *stream_text(ledger_store *store, const char *stream, bool with_ids, char *out,
                               size_t size)
{
    ledger_batch *batch = NULL;
    ledger_error err = { 0 };
    char buffer[LEDGER_ID_TEXT_MAX];
    out[0] = '\0';
    tst_ok(ledger_store_read(store, stream, NULL, &batch, &err), &err);
    for (size_t i = 0; i < ledger_batch_count(batch); i++) {
        const ledger_entry *e = ledger_batch_entry(batch, i);
        const char *id = *e->source_id ? e->source_id : ldg_id_text(e->id, buffer);
        snprintf(out + strlen(out), size - strlen(out), "%s%.*s[%s]{%s}%s", i ? " " : "",
                 (int)e->payload.size, (const char *)e->payload.data,
                 e->tags.count ? e->tags.items[0] : "",
                 e->annotations.count ? e->annotations.items[0].value : "", with_ids ? id : "");
    }
    ledger_batch_destroy(&batch);
    return out;
}

static void streams_equal(ledger_store *source, ledger_store *sink)
{
    static const char *const streams[] = { "s", "t", "u" };
    char want[32768], is[32768];
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(stream_text(sink, streams[i], true, is, sizeof(is)),
                            stream_text(source, streams[i], true, want, sizeof(want)));
}

static void verify_equal(ledger_store *source, ledger_store *sink, uint64_t count)
{
    ledger_verify_result result;
    ledger_error err = { 0 };
    tst_ok(ledger_bridge_verify(source, sink, NULL, &result, &err), &err);
    assert_int_equal(result.difference_count, 0);
    assert_int_equal(result.source_count, count);
    assert_int_equal(result.sink_count, count);
}

struct difference {
    char id[LEDGER_ID_TEXT_MAX];
    ledger_difference_kind kind;
};

static void see_difference(void *ctx, const ledger_difference *difference)
{
    struct difference *seen = ctx;
    snprintf(seen->id, sizeof(seen->id), "%s", difference->source_id);
    seen->kind = difference->kind;
}

static void every_kind_of_event(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source, *sink;
    for (size_t p = 0; p < PAIR_COUNT; p++) {
        ledger_id first = { 0 }, ids[40];
        ledger_error err = { 0 };
        if (!open_pair(env, p, &source, &sink))
            continue;
        for (int i = 0; i < 40; i++) {
            char payload[24];
            snprintf(payload, sizeof(payload), "{\"n\":%d}", i);
            ids[i] = append(source, i % 3 == 0 ? "t" : "s", payload);
            if (i == 10)
                first = ids[i];
            if (i % 7 == 0)
                (void)tst_bridge_once(source, sink, NULL);
            if (i % 4 == 1)
                tag(source, i % 3 == 0 ? "t" : "s", ids[i], "x");
            if (i % 5 == 1)
                annotate(source, i % 3 == 0 ? "t" : "s", ids[i], "y");
        }
        (void)tst_bridge_once(source, sink, NULL);
        streams_equal(source, sink);
        verify_equal(source, sink, 40);
        assert_int_equal(trim(source, "s", first), 7);
        tag(source, "s", ids[11], "after the trim");
        (void)tst_bridge_once(source, sink, NULL);
        streams_equal(source, sink);
        verify_equal(source, sink, 33);
        /* once more from the beginning: nothing changes */
        tst_ok(ledger_bridge_cursor_set(source, sink, "default", "0", false, &err), &err);
        assert_true(tst_bridge_once(source, sink, NULL) > 40);
        streams_equal(source, sink);
        verify_equal(source, sink, 33);
    }
}

/* What is missing in the sink is told by its id at the origin. */
static void verify_names_the_entry(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source = tst_open(env, TST_MEMORY, "a" TEXTS);
    ledger_store *sink = tst_open(env, TST_MEMORY, "b" TEXTS);
    struct difference seen = { "", LEDGER_DIFF_EXTRA };
    ledger_verify_options options;
    ledger_verify_result result;
    ledger_stream_stat stat;
    ledger_error err = { 0 };
    append(sink, "other", "0"); /* ids of the two differ */
    const ledger_id id = append(source, "s", "1");
    append(source, "t", "2");
    (void)tst_bridge_once(source, sink, NULL);
    tst_ok(ledger_store_stat(sink, "s", &stat, &err), &err);
    assert_string_not_equal(stat.last_id.text, id.text);
    assert_int_equal(trim(sink, "s", stat.last_id), 1);
    ledger_verify_options_defaults(&options);
    options.fn = see_difference;
    options.ctx = &seen;
    tst_ok(ledger_bridge_verify(source, sink, &options, &result, &err), &err);
    assert_int_equal(result.difference_count, 1);
    assert_int_equal(seen.kind, LEDGER_DIFF_MISSING);
    assert_string_equal(seen.id, id.text);
}

/* An entry whose transaction had drawn its id before the trim, and commits after it, stays. */
static void a_trim_keeps_what_commits_around_it(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source, *sink;
    for (size_t p = 0; p < PAIR_COUNT; p++) {
        char text[256];
        ledger_error err = { 0 };
        if (!open_pair(env, p, &source, &sink))
            continue;
        ledger_store *late = tst_open(env, TST_MEMORY, pairs[p].source);
        append(source, "s", "1");
        tst_ok(ledger_store_begin(late, &err), &err);
        append(late, "s", "2");
        const ledger_id last = append(source, "s", "3");
        assert_int_equal(trim(source, "s", last), 2);
        tst_ok(ledger_store_commit(late, &err), &err);
        (void)tst_bridge_once(source, sink, NULL);
        assert_string_equal(stream_text(sink, "s", false, text, sizeof(text)), "2[]{}");
        streams_equal(source, sink);
    }
}

/* A text store, one with numbers behind it, and a third at the end: keys stay what they are. */
static void chain(struct tst_env *env, ledger_store *a, ledger_store *b, ledger_store *c)
{
    char text[256];
    const ledger_id first = append(a, "s", "1"), own = append(b, "s", "\"b\"");
    append(a, "s", "2");
    tag(a, "s", first, "x");
    for (int round = 0; round < 2; round++) {
        (void)tst_bridge_once(a, b, NULL);
        (void)tst_bridge_once(b, c, NULL);
        streams_equal(b, c);
        tag(b, "s", own, "y");
    }
    assert_string_equal(stream_text(c, "s", false, text, sizeof(text)), "\"b\"[y]{} 1[x]{} 2[]{}");
    /* a change in the middle of an entry from the beginning */
    ledger_error err = { 0 };
    ledger_id here;
    tst_ok(ledger_store_find_by_source_id(b, "s", first.text, &here, &err), &err);
    tag(b, "s", here, "of b");
    assert_int_equal(trim(a, "s", first), 1);
    append(a, "s", "3");
    (void)tst_bridge_once(b, c, NULL);
    assert_string_equal(stream_text(c, "s", false, text, sizeof(text)),
                        "\"b\"[y]{} 1[of b]{} 2[]{}");
    (void)tst_bridge_once(a, b, NULL);
    (void)tst_bridge_once(b, c, NULL);
    assert_string_equal(stream_text(c, "s", false, text, sizeof(text)), "\"b\"[y]{} 2[]{} 3[]{}");
    streams_equal(b, c);
    /* and a trim in the middle, of both origins */
    ledger_stream_stat stat;
    tst_ok(ledger_store_stat(b, "s", &stat, &err), &err);
    assert_int_equal(trim(b, "s", stat.last_id), 3);
    (void)tst_bridge_once(b, c, NULL);
    assert_int_equal(tst_count(c, "s"), 0);
    /* what committed around a trim stays at the end of the chain, too */
    ledger_store *late = tst_open(env, TST_MEMORY, "a" TEXTS);
    tst_ok(ledger_store_begin(late, &err), &err);
    append(late, "s", "\"late\"");
    assert_int_equal(trim(a, "s", append(a, "s", "5")), 3);
    tst_ok(ledger_store_commit(late, &err), &err);
    (void)tst_bridge_once(a, b, NULL);
    (void)tst_bridge_once(b, c, NULL);
    assert_string_equal(stream_text(c, "s", false, text, sizeof(text)), "\"late\"[]{}");
    streams_equal(b, c);
}

static void a_chain_of_both_kinds(void **state)
{
    static const struct {
        enum tst_kind middle_kind, end_kind;
        const char *end;
    } chains[] = {
        { TST_MEMORY, TST_MEMORY, "c" TEXTS },   { TST_SQLITE, TST_SQLITE, "c" },
        { TST_SQLITE, TST_MEMORY, "c" TEXTS },   { TST_MEMORY, TST_PLAIN, "c" },
        { TST_POSTGRES, TST_POSTGRES, "c" },     { TST_POSTGRES, TST_SQLITE, "c" },
        { TST_SQLITE, TST_PLAIN_POSTGRES, "c" },
    };
    struct tst_env *env = *state;
    for (size_t i = 0; i < sizeof(chains) / sizeof(*chains); i++) {
        tst_env_reset(env);
        ledger_store *b = open_sink(env, chains[i].middle_kind, "b");
        ledger_store *c = open_sink(env, chains[i].end_kind, chains[i].end);
        if (b != NULL && c != NULL)
            chain(env, tst_open(env, TST_MEMORY, "a" TEXTS), b, c);
    }
}

struct parked {
    size_t count;
    char entries[512], reasons[4096];
};

static bool see_parked(void *ctx, const ledger_parked *parked)
{
    struct parked *seen = ctx;
    seen->count++;
    snprintf(seen->entries + strlen(seen->entries), sizeof(seen->entries) - strlen(seen->entries),
             "%s|", parked->entry_id);
    snprintf(seen->reasons + strlen(seen->reasons), sizeof(seen->reasons) - strlen(seen->reasons),
             "%s|", parked->reason);
    return true;
}

static struct parked parked_in(ledger_store *sink)
{
    struct parked seen = { 0 };
    ledger_error err = { 0 };
    tst_ok(ledger_bridge_parked_list(sink, see_parked, &seen, &err), &err);
    return seen;
}

static void parked_events_of_an_entry_wait_in_order(void **state)
{
    struct tst_env *env = *state;
    ledger_store *source, *sink;
    for (size_t p = 0; p < PAIR_COUNT; p++) {
        char want[256], text[256], buffer[2][LEDGER_ID_TEXT_MAX];
        uint64_t applied = 0, left = 0;
        ledger_error err = { 0 };
        if (!open_pair(env, p, &source, &sink))
            continue;
        tst_refuse(sink, "s");
        const ledger_id first = append(source, "s", "1"), second = append(source, "s", "2");
        tag(source, "s", first, "x");
        append(source, "t", "3");
        (void)tst_bridge_once(source, sink, NULL);
        struct parked seen = parked_in(sink);
        snprintf(want, sizeof(want), "%s|%s|%s|", ldg_id_text(first, buffer[0]),
                 ldg_id_text(second, buffer[1]), ldg_id_text(first, buffer[0]));
        assert_string_equal(seen.entries, want);
        assert_non_null(strstr(seen.reasons, "behind parked event"));
        assert_string_equal(stream_text(sink, "t", false, text, sizeof(text)), "3[]{}");
        tst_refuse(sink, NULL);
        /* what the source trims meanwhile is dropped there, too */
        assert_int_equal(trim(source, "s", first), 1);
        (void)tst_bridge_once(source, sink, NULL);
        seen = parked_in(sink);
        snprintf(want, sizeof(want), "%s|", ldg_id_text(second, buffer[1]));
        assert_string_equal(seen.entries, want);
        tst_ok(ledger_bridge_parked_retry(source, sink, 0, &applied, &left, &err), &err);
        assert_int_equal(applied, 1);
        assert_int_equal(left, 0);
        streams_equal(source, sink);
        verify_equal(source, sink, 2);
    }
}

/* Ids that no entry of the source can have. */
static void ids_of_the_wrong_kind_are_parked(void **state)
{
    static const char long_id[] =
        "0123456789012345678901234567890123456789012345678901234567890123";
    static const struct {
        const char *source, *id, *reason;
    } rows[] = {
        { "a" TEXTS, "5", "is a number, and the source's ids are texts: \"5\"" },
        { "a" TEXTS, "-5", "is a number" },
        { "a" TEXTS, long_id, "a text of 1 to 63 bytes" },
        { "a" TEXTS, "", "id" },
        { "a" TEXTS, "\\u0000", "NUL" },
        { "a" TEXTS, "\xff", "UTF-8" },
        { "a", "65f0a1b20000000000000001", "not a number" },
        { "a", "007", "not a number" },
        { "a", long_id, "not a number" },
    };
    static const char *const events[][2] = {
        { "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[{\"id\":\"", "\",\"payload\":1}]}" },
        { "{\"type\":\"set_tags\",\"stream\":\"s\",\"entry_id\":\"", "\",\"tags\":[\"x\"]}" },
        { "{\"type\":\"set_annotations\",\"stream\":\"s\",\"entry_id\":\"",
          "\",\"annotations\":{\"k\":\"v\"}}" },
        { "{\"type\":\"trim\",\"stream\":\"s\",\"before_id\":\"", "\"}" },
    };
    static const enum tst_kind kinds[] = { TST_MEMORY, TST_SQLITE, TST_POSTGRES };
    struct tst_env *env = *state;
    for (size_t n = 0; n < 3 * sizeof(rows) / sizeof(*rows); n++) {
        const size_t r = n / 3;
        tst_env_reset(env);
        ledger_store *source = tst_open(env, TST_MEMORY, rows[r].source);
        ledger_store *sink = open_sink(env, kinds[n % 3], "b");
        if (sink == NULL)
            continue;
        append(source, "s", "1");
        for (size_t i = 0; i < 4; i++) {
            char event[256];
            snprintf(event, sizeof(event), "%s%s%s", events[i][0], rows[r].id, events[i][1]);
            tst_log_text(source, event);
        }
        append(source, "s", "2");
        (void)tst_bridge_once(source, sink, NULL);
        struct parked seen = parked_in(sink);
        if (seen.count != 4 || strstr(seen.reasons, rows[r].reason) == NULL)
            tst_fail("id \"%s\" of \"%s\": %zu parked: %s", rows[r].id, rows[r].source, seen.count,
                     seen.reasons);
        streams_equal(source, sink); /* nothing else waited, and nothing was deleted */
    }
}

/* A program's own calls take and give such ids. */
static void a_store_with_text_ids(void **state)
{
    struct tst_env *env = *state;
    ledger_store *store = tst_open(env, TST_MEMORY, "a" TEXTS);
    ledger_read_options options;
    ledger_batch *batch = NULL;
    ledger_tail *tail = NULL;
    ledger_stream_stat stat;
    ledger_id ids[4];
    char text[256];
    ledger_error err = { 0 };
    for (int i = 0; i < 4; i++)
        ids[i] = append(store, "s", i % 2 ? "1" : "0");
    for (int i = 1; i < 4; i++)
        assert_true(strcmp(ids[i - 1].text, ids[i].text) < 0);
    tst_ok(ledger_store_stat(store, NULL, &stat, &err), &err);
    assert_string_equal(stat.first_id.text, ids[0].text);
    assert_string_equal(stat.last_id.text, ids[3].text);
    ledger_read_options_defaults(&options);
    options.has_after = true;
    options.after = ids[1];
    tst_ok(ledger_store_read(store, "s", &options, &batch, &err), &err);
    assert_int_equal(ledger_batch_count(batch), 2);
    assert_string_equal(ledger_batch_entry(batch, 0)->id.text, ids[2].text);
    ledger_batch_destroy(&batch);
    options.descending = true;
    tst_ok(ledger_store_read(store, "s", &options, &batch, &err), &err);
    assert_int_equal(ledger_batch_count(batch), 1);
    assert_string_equal(ledger_batch_entry(batch, 0)->id.text, ids[0].text);
    ledger_batch_destroy(&batch);
    options.after.text = "65f0a1b2ffffffffffffffff"; /* behind all, and nobody's */
    tst_ok(ledger_store_read(store, "s", &options, &batch, &err), &err);
    assert_int_equal(ledger_batch_count(batch), 4);
    ledger_batch_destroy(&batch);
    tst_fails(ledger_store_set_tags(store, "s", ldg_id_of(1), (ledger_list){ 0 }, &err),
              LEDGER_ERR_INVALID, &err);
    tst_fails(ledger_store_set_tags(store, "s", (ledger_id){ .text = "nobody's" },
                                    (ledger_list){ 0 }, &err),
              LEDGER_ERR_NOT_FOUND, &err);
    assert_non_null(strstr(err.message, "nobody's"));
    assert_int_equal(trim(store, "s", (ledger_id){ .text = "65f0" }), 0); /* before all of them */
    assert_int_equal(trim(store, "s", ids[1]), 2);
    /* a tail from the end on */
    tst_ok(ledger_tail_open(store, "s", NULL, true, &tail, &err), &err);
    tst_ok(ledger_tail_read(tail, &batch, &err), &err);
    assert_int_equal(ledger_batch_count(batch), 0);
    ledger_batch_destroy(&batch);
    const ledger_id fifth = append(store, "s", "5");
    tst_ok(ledger_tail_read(tail, &batch, &err), &err);
    assert_int_equal(ledger_batch_count(batch), 1);
    assert_string_equal(ledger_batch_entry(batch, 0)->id.text, fifth.text);
    ledger_batch_destroy(&batch);
    ledger_tail_close(&tail);
    assert_string_equal(stream_text(store, "s", false, text, sizeof(text)), "0[]{} 1[]{} 5[]{}");
    /* the same name without the option is another database */
    assert_int_equal(tst_count(tst_open(env, TST_MEMORY, "a"), NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_kind_of_event, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(verify_names_the_entry, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(a_trim_keeps_what_commits_around_it, tst_setup,
                                        tst_teardown),
        cmocka_unit_test_setup_teardown(a_chain_of_both_kinds, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(parked_events_of_an_entry_wait_in_order, tst_setup,
                                        tst_teardown),
        cmocka_unit_test_setup_teardown(ids_of_the_wrong_kind_are_parked, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(a_store_with_text_ids, tst_setup, tst_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
