/* See workload.h. */
#include "workload.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

uint64_t tst_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

uint64_t tst_random_below(uint64_t *state, uint64_t n)
{
    return tst_random(state) % n;
}

/* Things that a careless path would change: white space, escapes, key order, long numbers, repeated
 * keys, and what Go's encoder rewrites. */
static const char *const odd_payloads[] = {
    "1",
    "0",
    "\"\"",
    "null",
    "true",
    "{}",
    "[]",
    " {} ",
    "\n\t[ 1 , 2 ]\r\n",
    "-0",
    "1E5",
    "1.0",
    "{\"b\":1,\"a\":2}",
    "{\"a\":1,\"a\":2}",
    "{ \"a\" : { \"b\" : [ ] } }",
    "{\"n\":123456789012345678901234567890.000000000000000000000001}",
    "{\"n\":1e400,\"m\":-1E-400}",
    "{\"html\":\"<a href='x'>&amp;</a>\"}",
    "{\"esc\":\"\\u003c\\u003E\\u0026\\/\\b\\f\\n\\r\\t\\\"\\\\\"}",
    "{\"nul\":\"a\\u0000b\"}",
    "{\"line\":\"\xE2\x80\xA8\xE2\x80\xA9\"}",
    "{\"emoji\":\"\xF0\x9F\x98\x80\"}",
    "{\"pair\":\"\\uD83D\\uDE00\"}",
    "{\"\":\"\"}",
    "{\"\xC3\xA9\":\"\xC3\xBC\"}",
    "\"\x7F\"",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    "  \"white space around\"\n\n",
    "{\"type\":\"append\",\"stream\":\"s\",\"entries\":[]}",
};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

char *tst_random_payload(uint64_t *state, bool small, size_t *ret_size)
{
    uint64_t kind = tst_random_below(state, 100);
    char *text;
    size_t size;
    if (kind < 35) {
        text = strdup(odd_payloads[tst_random_below(state, COUNT(odd_payloads))]);
        assert_non_null(text);
        *ret_size = strlen(text);
        return text;
    }
    size = kind < 90 ? 20 + tst_random_below(state, 200) : 200 + tst_random_below(state, 2000);
    if (kind == 99 && !small && tst_random_below(state, 4) == 0)
        size = 100 * 1024;
    if (small && size > 1000)
        size = 1000;
    text = malloc(size + 64);
    assert_non_null(text);
    int head = snprintf(text, 64, "{\"n\":%" PRIu64 ",\"text\":\"", tst_random(state) >> 16);
    for (size_t i = 0; i < size; i++)
        text[(size_t)head + i] = (char)('a' + tst_random_below(state, 26));
    memcpy(text + head + size, "\"}", 3);
    *ret_size = (size_t)head + size + 2;
    return text;
}

void tst_workload_init(struct tst_workload *w, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    w->seed = seed;
    w->state = seed;
    w->stream_count = 6;
    w->prefix = "s";
}

static void stream_name(const struct tst_workload *w, unsigned stream, char *name, size_t size)
{
    static const char *const odd[] = { "", "-\xC3\xA9", " with blanks", "'quoted\"", "%s", "." };
    snprintf(name, size, "%s%u%s", w->prefix, stream, stream < COUNT(odd) ? odd[stream] : "");
}

static void remember(struct tst_workload *w, unsigned stream, int64_t id)
{
    size_t i = w->known_count < TST_WORKLOAD_KNOWN
                   ? w->known_count++
                   : (size_t)tst_random_below(&w->state, TST_WORKLOAD_KNOWN);
    w->known[i].stream = stream;
    w->known[i].id = id;
}

static const char *const tag_words[] = {
    "red", "gr\xC3\xBCn", "blue sky",     "\"quoted\"", "<b>&",
    "",    "a.b$c",       "\xE2\x80\xA8", "\\",         "tab\t"
};
static const char *const key_words[] = { "k",   "a.b", "", "$x", "\xC3\xA9", "with \"quotes\"",
                                         "<&>", "z" };

static ledger_list random_tags(struct tst_workload *w, const char **items, size_t max)
{
    size_t count = (size_t)tst_random_below(&w->state, max + 1);
    for (size_t i = 0; i < count; i++)
        items[i] = tag_words[tst_random_below(&w->state, COUNT(tag_words))];
    return (ledger_list){ items, count };
}

/* Distinct keys: what a map with a repeated key means is tested elsewhere. */
static ledger_map random_map(struct tst_workload *w, ledger_pair *items, size_t max, bool deletes)
{
    size_t count = (size_t)tst_random_below(&w->state, max + 1);
    size_t first = (size_t)tst_random_below(&w->state, COUNT(key_words));
    for (size_t i = 0; i < count; i++) {
        items[i].key = key_words[(first + i) % COUNT(key_words)];
        items[i].value = deletes && tst_random_below(&w->state, 3) == 0
                             ? NULL
                             : tag_words[tst_random_below(&w->state, COUNT(tag_words))];
    }
    return (ledger_map){ items, count };
}

static ledger_rc step_append(struct tst_workload *w, ledger_store *store, size_t count,
                             ledger_error *err)
{
    ledger_append_input inputs[TST_WORKLOAD_APPEND_MAX] = { { { 0 } } };
    const char *tags[TST_WORKLOAD_APPEND_MAX][4];
    ledger_pair metadata[TST_WORKLOAD_APPEND_MAX][3];
    char order_keys[TST_WORKLOAD_APPEND_MAX][32], dedup_keys[TST_WORKLOAD_APPEND_MAX][32];
    char *payloads[TST_WORKLOAD_APPEND_MAX] = { NULL };
    unsigned stream = (unsigned)tst_random_below(&w->state, w->stream_count);
    char name[64];
    ledger_ids ids = { 0 };
    ledger_rc rc;
    stream_name(w, stream, name, sizeof name);
    for (size_t i = 0; i < count; i++) {
        uint64_t kind = tst_random_below(&w->state, 16);
        payloads[i] = tst_random_payload(&w->state, w->small, &inputs[i].payload.size);
        inputs[i].payload.data = payloads[i];
        if (kind & 1) {
            snprintf(order_keys[i], sizeof order_keys[i], "order-%" PRIu64,
                     tst_random_below(&w->state, 50));
            inputs[i].order_key = order_keys[i];
        }
        if ((kind & 6) == 6 && !w->no_dedup) {
            snprintf(dedup_keys[i], sizeof dedup_keys[i], "dedup-%" PRIu64,
                     tst_random_below(&w->state, 200));
            inputs[i].dedup_key = dedup_keys[i];
        }
        if (kind & 8) {
            inputs[i].metadata = random_map(w, metadata[i], 3, false);
            inputs[i].tags = random_tags(w, tags[i], 4);
            inputs[i].schema_version = (int)tst_random_below(&w->state, 4);
        }
    }
    rc = ledger_store_append(store, name, inputs, count, &ids, err);
    if (rc == LEDGER_OK) {
        for (size_t i = 0; i < ids.count; i++)
            if (i % 3 == 0)
                remember(w, stream, ids.items[i].number);
        ledger_ids_destroy(&ids);
    }
    for (size_t i = 0; i < count; i++)
        free(payloads[i]);
    return rc;
}

static ledger_rc step_change(struct tst_workload *w, ledger_store *store, bool tags,
                             ledger_error *err)
{
    size_t i = (size_t)tst_random_below(&w->state, w->known_count);
    ledger_id id = { .number = w->known[i].id };
    const char *items[4];
    ledger_pair pairs[4];
    char name[64];
    ledger_rc rc;
    stream_name(w, w->known[i].stream, name, sizeof name);
    if (tags)
        rc = ledger_store_set_tags(store, name, id, random_tags(w, items, 4), err);
    else
        rc = ledger_store_set_annotations(store, name, id, random_map(w, pairs, 4, true), err);
    if (rc == LEDGER_ERR_NOT_FOUND) {
        w->known[i] = w->known[--w->known_count];
        rc = LEDGER_OK;
    }
    return rc;
}

static ledger_rc step_trim(struct tst_workload *w, ledger_store *store, ledger_error *err)
{
    /* The id of one stream, now and then used for another: before_id need not be in the stream. */
    size_t i = (size_t)tst_random_below(&w->state, w->known_count);
    for (int k = 0; k < 4; k++) { /* an old one, so that much is left */
        size_t other = (size_t)tst_random_below(&w->state, w->known_count);
        if (w->known[other].id < w->known[i].id)
            i = other;
    }
    unsigned stream = tst_random_below(&w->state, 4) == 0
                          ? (unsigned)tst_random_below(&w->state, w->stream_count)
                          : w->known[i].stream;
    int64_t before = w->known[i].id;
    char name[64];
    stream_name(w, stream, name, sizeof name);
    return ledger_store_trim(store, name, (ledger_id){ .number = before }, NULL, err);
}

ledger_rc tst_workload_step(struct tst_workload *w, ledger_store *store, ledger_error *err)
{
    uint64_t kind = tst_random_below(&w->state, 100);
    w->call_count++;
    if (!w->no_transactions && kind >= 93) {
        ledger_rc rc;
        if (!w->in_transaction) {
            rc = ledger_store_begin(store, err);
            w->in_transaction = rc == LEDGER_OK;
        } else if (kind < 98) {
            rc = ledger_store_commit(store, err);
            w->in_transaction = rc != LEDGER_OK;
        } else {
            rc = ledger_store_rollback(store, err);
            w->in_transaction = rc != LEDGER_OK;
        }
        return rc;
    }
    if (kind < 50 || w->no_changes || w->known_count == 0)
        return step_append(
            w, store, kind < 42 ? 1 : 2 + tst_random_below(&w->state, TST_WORKLOAD_APPEND_MAX - 1),
            err);
    if (kind < 72)
        return step_change(w, store, true, err);
    if (kind < 90 || w->no_trim || tst_random_below(&w->state, 2) != 0)
        return step_change(w, store, false, err);
    return step_trim(w, store, err);
}

void tst_workload_learn(struct tst_workload *w, ledger_store *store)
{
    for (unsigned k = 0; k < 2 * w->stream_count; k++) { /* the oldest and the newest of each */
        ledger_read_options options = { .size = sizeof(options),
                                        .limit = TST_WORKLOAD_KNOWN / 16,
                                        .descending = k % 2 == 0 };
        ledger_batch *batch = NULL;
        ledger_error err = { 0 };
        char name[64];
        stream_name(w, k / 2, name, sizeof name);
        tst_ok(ledger_store_read(store, name, &options, &batch, &err), &err);
        for (size_t i = 0; i < ledger_batch_count(batch); i++)
            remember(w, k / 2, ledger_batch_entry(batch, i)->id.number);
        ledger_batch_destroy(&batch);
    }
}

void tst_workload_run(struct tst_workload *w, ledger_store *store, size_t count)
{
    for (size_t i = 0; i < count || w->in_transaction; i++) {
        ledger_error err = { 0 };
        ledger_rc rc = tst_workload_step(w, store, &err);
        if (rc != LEDGER_OK)
            tst_fail("workload with seed %" PRIu64 ", call %" PRIu64 ": %s: %s", w->seed,
                     w->call_count, ledger_rc_name(rc), err.message);
    }
}
