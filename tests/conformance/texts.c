/* Entries whose ids at their origin are texts, as those of a document database are: everything that
 * a sink does with a number. */
#include "sink.h"

#include <stdlib.h>

/* In the order of their bytes, none of them a number, some of them nearly the same. */
static const char *const keys[] = {
    "\x01",
    " 12",
    "%_",
    "'\"\\",
    "+1",
    "--",
    "007",
    "00",
    "012",
    "12 ",
    "12.0",
    "1e5",
    "65f0a1b2c3",
    "65F0A1B2C",
    "9223372036854775808",
    "9223372036854775808 ",
    "A",
    "A ",
    "NULL",
    "a",
    "a ",
    "a  ",
    "a b",
    "b",
    "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
    "\xc3\xa4",
    "\xc3\xa9",
    "\xf0\x9f\x98\x80",
};
#define KEYS (sizeof keys / sizeof keys[0])

static ledger_id key_of(const char *text)
{
    return (ledger_id){ .text = text };
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static const char *const *sorted_keys(struct conf_env *env)
{
    const char **sorted = ldg_arena_memdup(&env->arena, keys, sizeof keys);
    qsort(sorted, KEYS, sizeof *sorted, compare_texts);
    return sorted;
}

static struct ldg_op *append(struct sink *sink, int origin, const char *key, const char *payload)
{
    struct ldg_op *op = sink_append(sink, origin, 0, "s", payload, NULL);
    ((ledger_append_entry *)op->entry)->id = key;
    op->key = key_of(key);
    return op;
}

static struct ldg_op *tag(struct sink *sink, int origin, const char *key, const char *text)
{
    struct ldg_op *op = sink_tags(sink, origin, 0, "s", text);
    op->key = key_of(key);
    return op;
}

static struct ldg_op *trim(struct sink *sink, int origin, const char *key)
{
    struct ldg_op *op = sink_trim(sink, origin, 0, "s");
    op->key = key_of(key);
    return op;
}

/* The keys of an origin's entries, in pages. */
static void history_is(struct sink *sink, int origin, const char *const *want, size_t want_count)
{
    ledger_id after = ldg_id_of(0);
    struct ldg_history_row *rows;
    size_t count = 0, seen = 0;
    ledger_error err;
    do {
        ok(ldg_store_history(sink->store, origin, after, 3, SIZE_MAX, &sink->env->arena, &rows,
                             &count, &err));
        for (size_t i = 0; i < count; i++) {
            char text[LEDGER_ID_TEXT_MAX];
            assert_true(seen < want_count);
            assert_string_equal(ldg_id_text(rows[i].key, text), want[seen]);
            assert_string_equal(rows[i].entry->source_id, want[seen++]);
            assert_false(rows[i].has_source_id); /* nobody but a bridge of ours has written it */
            after = rows[i].key;
        }
    } while (count > 0);
    assert_int_equal(seen, want_count);
}

static void survivors_are(struct sink *sink, int origin, ledger_id before, const char *want)
{
    char text[1024] = "", buffer[LEDGER_ID_TEXT_MAX];
    ledger_id *ids = NULL;
    size_t count = 0;
    ledger_error err;
    ok(ldg_store_trim_survivors(sink->store, origin, "s", before, &sink->env->arena, &ids, &count,
                                &err));
    for (size_t i = 0; i < count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i > 0 ? "|" : "",
                 ldg_id_text(ids[i], buffer));
    assert_string_equal(text, want);
}

/* Both ways that a batch can take: as new, and asked about. */
static void texts_are_compared_by_bytes(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    const char *const *sorted = sorted_keys(env);
    struct ldg_history_row *rows;
    ledger_id last, id;
    size_t count;
    ledger_error err;
    for (int round = 0; round < 2; round++) {
        sink->position = 0;
        for (size_t i = 0; i < KEYS; i++) {
            char *payload = ldg_arena_alloc(&env->arena, 8);
            snprintf(payload, 8, "%zu", i);
            append(sink, sink->a, keys[i], payload);
        }
        tag(sink, sink->a, "a ", "one space");
        tag(sink, sink->a, "A", "upper case");
        tag(sink, sink->a, "a   ", "nobody's");
        sink_run(sink);
        for (size_t i = 0; i < KEYS + 2; i++)
            assert_int_equal(sink->outcomes[i],
                             round > 0 ? LDG_OUTCOME_REPLAYED : LDG_OUTCOME_APPLIED);
        assert_int_equal(sink->outcomes[KEYS + 2], LDG_OUTCOME_MISSING);
        assert_int_equal(conf_count(sink->store, "s"), KEYS);
        history_is(sink, sink->a, sorted, KEYS);
    }
    ledger_batch *batch = conf_read(sink->store, "s", NULL);
    for (size_t i = 0; i < KEYS; i++) {
        const ledger_entry *e = ledger_batch_entry(batch, i);
        assert_string_equal(e->source_id, keys[i]);
        assert_string_equal(e->origin, sink->a_identity.uuid);
        assert_int_equal(e->tags.count, strcmp(keys[i], "a ") == 0 || strcmp(keys[i], "A") == 0);
        ok(ledger_store_find_by_source_id(sink->store, "s", keys[i], &id, &err));
        assert_int_equal(id.number, e->id.number);
        if (strcmp(keys[i], sorted[KEYS - 1]) == 0) {
            ok(ldg_store_origin_last(sink->store, sink->a, &env->arena, &last, &err));
            assert_int_equal(last.number, e->id.number);
        }
    }
    ledger_batch_destroy(&batch);
    fails(ledger_store_find_by_source_id(sink->store, "s", "a   ", &id, &err), NOT_FOUND);
    fails(ledger_store_find_by_source_id(sink->store, "t", "a", &id, &err), NOT_FOUND);
    const ledger_id some[] = { ldg_id_of(12), key_of("012"), key_of("13"), key_of("a ") };
    ok(ldg_store_history_of(sink->store, sink->a, some, 4, SIZE_MAX, &env->arena, &rows, &count,
                            &err));
    assert_int_equal(count, 2);
    assert_string_equal(rows[0].key.text, "012");
    assert_string_equal(rows[1].key.text, "a ");
    ok(ldg_store_history_of(sink->store, sink->b, some, 4, SIZE_MAX, &env->arena, &rows, &count,
                            &err));
    assert_int_equal(count, 0);
}

static void texts_are_trimmed_in_their_order(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    const char *const *sorted = sorted_keys(env);
    const size_t half = KEYS / 2;
    const ledger_id kept[] = { key_of(sorted[1]), key_of(sorted[half]) };
    const char *left[KEYS] = { sorted[1], sorted[half], "0 of t" };
    size_t left_count = 3;
    conf_append(sink->store, "s", "\"own\"");
    for (size_t i = 0; i < KEYS; i++)
        append(sink, sink->a, keys[i], "1");
    append(sink, sink->b, sorted[0], "\"b\"");
    struct ldg_op *other = append(sink, sink->a, "0 of t", "1");
    other->stream = "t";
    sink_run(sink);
    struct ldg_op *op = trim(sink, sink->a, sorted[half]);
    op->survivors = kept;
    op->survivor_count = 2;
    sink_run(sink);
    sink_is(sink, "a");
    for (size_t i = half + 1; i < KEYS; i++)
        left[left_count++] = sorted[i];
    qsort(left, left_count, sizeof *left, compare_texts);
    history_is(sink, sink->a, left, left_count);
    trim(sink, sink->a, sorted[half]);
    trim(sink, sink->a, "\x01"); /* before all that are left */
    sink_run(sink);
    sink_is(sink, "ar");
    history_is(sink, sink->b, sorted, 1);
    trim(sink, sink->a, "\xf4\x8f\xbf\xbf");
    sink_run(sink);
    sink_is(sink, "a");
    sink_holds(sink, "s", "\"own\" \"b\"");
    sink_holds(sink, "t", "1");
    /* one batch brings and takes */
    append(sink, sink->a, "b", "1");
    append(sink, sink->a, "c", "2");
    tag(sink, sink->a, "b", "gone");
    trim(sink, sink->a, "b");
    tag(sink, sink->a, "b", "late");
    tag(sink, sink->a, "c", "here");
    sink_run(sink);
    sink_is(sink, "aaaama");
    sink_holds(sink, "s", "\"own\" \"b\" 2[here]");
}

/* No store has both, but what is read of a third one in the log of a second can be anything. */
static void numbers_and_texts_of_one_origin(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    static const char *const all[] = { "2", "12", "100", "012", "2x", "z" };
    sink_append(sink, sink->a, 12, "s", "\"n12\"", NULL);
    append(sink, sink->a, "012", "\"t012\"");
    sink_append(sink, sink->a, 100, "s", "\"n100\"", NULL);
    append(sink, sink->a, "2x", "\"t2x\"");
    sink_append(sink, sink->a, 2, "s", "\"n2\"", NULL);
    append(sink, sink->a, "z", "\"tz\"");
    sink_run(sink);
    sink_is(sink, "aaaaaa");
    history_is(sink, sink->a, all, 6);
    survivors_are(sink, sink->a, ldg_id_of(50), "2|12");
    survivors_are(sink, sink->a, key_of("3"), "012|2x");
    survivors_are(sink, sink->b, key_of("3"), "");
    sink_tags(sink, sink->a, 12, "s", "n");
    tag(sink, sink->a, "012", "t");
    sink_run(sink);
    sink_holds(sink, "s", "\"n12\"[n] \"t012\"[t] \"n100\" \"t2x\" \"n2\" \"tz\"");
    sink_trim(sink, sink->a, 50, "s");
    sink_run(sink);
    sink_holds(sink, "s", "\"t012\"[t] \"n100\" \"t2x\" \"tz\"");
    trim(sink, sink->a, "3");
    sink_run(sink);
    sink_holds(sink, "s", "\"n100\" \"tz\"");
    sink_trim(sink, sink->a, 1000, "s");
    sink_run(sink);
    sink_holds(sink, "s", "\"tz\"");
}

/* Events that name an entry of the sink itself by an id that none of its entries can have. */
static void texts_are_no_ids_of_the_sink(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    char id[32];
    snprintf(id, sizeof id, "0%lld", (long long)conf_append(sink->store, "s", "\"own\""));
    tag(sink, 0, id, "x")->mutation_origin = sink->b;
    append(sink, 0, id, "\"own\"");
    trim(sink, 0, id)->mutation_origin = sink->b;
    sink_run(sink);
    sink_is(sink, "mmr");
    sink_holds(sink, "s", "\"own\"");
}

/* By the entry's own log, and by another one; what is deleted and carried again begins anew. */
static void changes_of_texts_count_once(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    ledger_error err;
    append(sink, sink->a, "k", "1");
    sink_append(sink, sink->a, 1, "s", "2", NULL); /* its row may have the number of another's */
    sink_append(sink, sink->a, 2, "s", "3", NULL);
    sink_run(sink);
    for (int way = 0; way < 2; way++) {
        tag(sink, sink->a, "k", "of b")->position = 5;
        sink_tags(sink, sink->a, 1, "s", "of b")->position = 6;
        sink->ops[0].mutation_origin = sink->ops[1].mutation_origin = sink->b;
        tag(sink, sink->a, "k", "of a")->position = 1;
        sink_run(sink);
        sink_is(sink, way == 0 ? "aaa" : "rrr");
        sink_holds(sink, "s", "1[of a] 2[of b] 3");
    }
    tag(sink, sink->a, "k", "older")->position = 4;
    tag(sink, sink->a, "k", "newer")->position = 6;
    sink->ops[0].mutation_origin = sink->ops[1].mutation_origin = sink->b;
    sink_tags(sink, sink->a, 2, "s", "its first")->position = 4;
    sink->ops[2].mutation_origin = sink->b;
    sink_run(sink);
    sink_is(sink, "raa");
    ok(ldg_store_origin_rewind(sink->store, sink->a, 0, &err));
    ok(ldg_store_origin_rewind(sink->store, sink->b, 5, &err));
    tag(sink, sink->a, "k", "new of a")->position = 1;
    tag(sink, sink->a, "k", "new of b")->position = 6;
    sink->ops[1].mutation_origin = sink->b;
    sink_run(sink);
    sink_is(sink, "aa");
    sink_holds(sink, "s", "1[new of b] 2[of b] 3[its first]");
    trim(sink, sink->a, "k");
    append(sink, sink->a, "k", "1");
    tag(sink, sink->a, "k", "again")->position = 5;
    sink->ops[2].mutation_origin = sink->b;
    sink_run(sink);
    sink_is(sink, "aaa");
    sink_holds(sink, "s", "2[of b] 3[its first] 1[again]");
}

/* What is handed on, of changes from outside and of those made here. */
static void texts_in_the_log_of_the_middle(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_ON);
    ledger_mutation_event *events;
    char a[64];
    ledger_id here;
    ledger_error err;
    snprintf(a, sizeof a, "%s:1", sink->a_identity.uuid);
    append(sink, sink->a, "b ", "1");
    append(sink, sink->a, "B", "2");
    append(sink, sink->a, "a", "3");
    tag(sink, sink->a, "B", "x");
    sink_run(sink);
    ok(ledger_store_find_by_source_id(sink->store, "s", "B", &here, &err));
    ok(ledger_store_set_tags(sink->store, "s", here, conf_list("here"), &err));
    ok(ledger_store_find_by_source_id(sink->store, "s", "a", &here, &err));
    ok(ledger_store_trim(sink->store, "s", here, NULL, &err));
    const size_t count = conf_events(env, sink->store, &events, NULL);
    assert_int_equal(count, 7);
    assert_string_equal(events[0].origin, a);
    assert_string_equal(events[0].entries[0].source_id, "b ");
    assert_string_equal(events[3].source_id, "B");
    assert_string_equal(events[4].entry_origin, a);
    assert_string_equal(events[4].source_id, "B");
    assert_string_equal(events[4].tags.items[0], "here");
    assert_string_equal(events[5].source_id, ""); /* of what was written here */
    assert_string_equal(events[6].entry_origin, a);
    assert_string_equal(events[6].source_id, "b ");
    assert_int_equal(conf_count(sink->store, "s"), 0);
}

static size_t list(struct sink *sink, struct ldg_parked_row **ret_rows)
{
    size_t count = 0;
    ledger_error err;
    ok(ldg_store_parked_list(sink->store, 0, 1000, &sink->env->arena, ret_rows, &count, &err));
    return count;
}

static struct ldg_op *park(struct sink *sink, const char *key)
{
    struct ldg_op *op = sink_park(sink, 0, "s", "odd");
    op->key = key_of(key);
    return op;
}

static void texts_that_are_parked(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    struct ldg_parked_row *rows;
    struct ldg_op waits;
    bool applied = true;
    ledger_error err;
    for (int round = 1; round <= 2; round++) {
        sink->position = 0;
        park(sink, "a"); /* three of one event, and a number of the same row of the log */
        park(sink, "A")->log_position = 1;
        park(sink, "a ")->log_position = 1;
        sink_park(sink, 7, "s", "odd")->log_position = 1;
        waits = *tag(sink, sink->a, "a ", "waits");
        tag(sink, sink->b, "a ", "of another origin");
        tag(sink, sink->a, "a  ", "of another entry");
        sink_run(sink);
        sink_is(sink, "pppppmm");
        assert_int_equal(list(sink, &rows), 5);
        assert_string_equal(rows[0].key.text, "a");
        assert_string_equal(rows[1].key.text, "A");
        assert_string_equal(rows[2].key.text, "a ");
        assert_null(rows[3].key.text);
        assert_int_equal(rows[3].key.number, 7);
        assert_string_equal(rows[4].key.text, "a ");
        assert_string_equal(rows[4].reason, "behind parked event 1");
        for (size_t i = 0; i < 5; i++)
            assert_int_equal(rows[i].attempts, round);
    }
    survivors_are(sink, sink->a, key_of("a"), "A|a");
    survivors_are(sink, sink->a, ldg_id_of(100), "7");
    struct ldg_op op = *append(sink, sink->a, "a ", "1");
    sink->count = 0;
    op.log_position = 1;
    ok(ldg_store_parked_retry(sink->store, rows[4].id, &waits, 1, &applied, &err));
    assert_false(applied); /* behind the one that brings it */
    ok(ldg_store_parked_retry(sink->store, rows[2].id, &op, 1, &applied, &err));
    assert_true(applied);
    assert_int_equal(list(sink, &rows), 4);
    /* trims of numbers leave texts, and those of texts numbers */
    sink->position = 20;
    sink_trim(sink, sink->a, 100, "s");
    sink_run(sink);
    assert_int_equal(list(sink, &rows), 3);
    const ledger_id kept = key_of("A");
    struct ldg_op *up_to = trim(sink, sink->a, "a");
    up_to->survivors = &kept;
    up_to->survivor_count = 1;
    sink_run(sink);
    assert_int_equal(list(sink, &rows), 2);
    assert_string_equal(rows[0].key.text, "A");
    trim(sink, sink->a, "a");
    sink_run(sink);
    assert_int_equal(list(sink, &rows), 1);
    assert_string_equal(rows[0].key.text, "a ");
    sink_holds(sink, "s", "1");
}

/* Go's StringCodec left rows whose source_id is a text. */
static void adopt_texts_that_go_left(struct conf_env *env)
{
    struct sink *sink = sink_new(env, LEDGER_MUTATION_LOG_AUTO);
    const char *url = conf_url(env, "sink");
    struct ldg_history_row *rows;
    size_t count;
    uint64_t adopted = 0;
    bool any = false;
    ledger_error err;
    env->backend->put_legacy(url, LEDGER_DEFAULT_TABLE, "s", "\"g1\"", "65f0a1");
    env->backend->put_legacy(url, LEDGER_DEFAULT_TABLE, "s", "\"g2\"", "65f0a2");
    ok(ldg_store_history(sink->store, LDG_ORIGIN_UNCLAIMED, ldg_id_of(0), 9, SIZE_MAX, &env->arena,
                         &rows, &count, &err));
    assert_int_equal(count, 2);
    const struct ldg_claim claims[] = { { rows[0].key, key_of("65f0a1") },
                                        { rows[1].key, key_of("another") } };
    ok(ldg_store_origin_adopt(sink->store, sink->a, claims, 1, &adopted, &err));
    assert_int_equal(adopted, 1);
    ok(ldg_store_origin_adopt(sink->store, sink->a, claims, 1, &adopted, &err));
    assert_int_equal(adopted, 0);
    ok(ldg_store_origin_unclaimed(sink->store, &any, &err));
    assert_true(any);
    struct ldg_op *op = append(sink, sink->a, "65f0a1", "\"g1\"");
    ((ledger_append_entry *)op->entry)->order_key = "";
    ((ledger_append_entry *)op->entry)->schema_version = 1;
    tag(sink, sink->a, "65f0a1", "t");
    sink_run(sink);
    sink_is(sink, "ra");
    sink_holds(sink, "s", "\"g1\"[t] \"g2\"");
    ok(ldg_store_history(sink->store, sink->a, ldg_id_of(0), 9, SIZE_MAX, &env->arena, &rows,
                         &count, &err));
    assert_int_equal(count, 1);
    assert_string_equal(rows[0].key.text, "65f0a1");
    assert_true(rows[0].has_source_id);
}

#define TEXTS                                                                                      \
    (LDG_CAP_TEXT_KEYS | LDG_CAP_ATOMIC_BATCH | LDG_CAP_TX_CURSOR | LDG_CAP_ORIGINS |              \
     LDG_CAP_PARK | LDG_CAP_TAGS | LDG_CAP_ANNOTATIONS | LDG_CAP_TRIM | LDG_CAP_MUTATION_LOG)
const struct conf_case conf_text_cases[] = {
    { "texts are compared by bytes", texts_are_compared_by_bytes, TEXTS, 0 },
    { "texts are trimmed in their order", texts_are_trimmed_in_their_order, TEXTS, 0 },
    { "numbers and texts of one origin", numbers_and_texts_of_one_origin, TEXTS, 0 },
    { "texts are no ids of the sink", texts_are_no_ids_of_the_sink, TEXTS, 0 },
    { "changes of texts count once", changes_of_texts_count_once, TEXTS, 0 },
    { "texts in the log of the middle", texts_in_the_log_of_the_middle, TEXTS, 0 },
    { "texts that are parked", texts_that_are_parked, TEXTS, 0 },
    { "adopt texts that Go left", adopt_texts_that_go_left, TEXTS,
      offsetof(struct conf_backend, put_legacy) },
};
const size_t conf_text_case_count = sizeof(conf_text_cases) / sizeof(conf_text_cases[0]);
