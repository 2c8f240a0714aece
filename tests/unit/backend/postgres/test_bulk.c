/* A batch at once comes to the same as its ops one by one: the same random ops in bulk, in bulk as
 * two batches that are under way at the same time, op by op and through the memory backend, which
 * says what is right. In some rounds the source's ids are texts. */
#include "sink.h"

#include <pthread.h>

#include "backend/postgres/apply.h"
#include "stage.h"
#include "workload.h"

extern const struct ldg_backend ldg_backend_memory;

static struct sink bulk, rows; /* large */
static uint64_t in_bulk;       /* batches */

static int setup(void **state)
{
    tst_pg_require();
    return tst_setup(state);
}

static struct ldg_pg ahead; /* a second handle of bulk's table */

static void open_both(struct tst_env *env, unsigned round, ledger_log_mode log)
{
    static const struct ldg_apply nothing;
    char name[32];
    ledger_error err = { 0 };

    snprintf(name, sizeof(name), "bulk%u", round);
    sink_open(&bulk, tst_url(env, TST_POSTGRES, name), log);
    handle_open(&ahead, tst_url(env, TST_POSTGRES, name), "t", LDG_ROLE_SINK, log, 0);
    tst_ok(SINK->sink->apply(&ahead, &nothing, NULL, &err), &err);
    snprintf(name, sizeof(name), "rows%u", round);
    sink_open(&rows, tst_url(env, TST_POSTGRES, name), log);
    tst_ok(SINK->sink->apply(&rows.s, &nothing, NULL, &err), &err);
    rows.s.sink->one_by_one = true;
}

static void close_both(void)
{
    handle_close(&ahead);
    sink_close(&bulk);
    sink_close(&rows);
}

/* --- two batches under way ------------------------------------------------------------------- */

enum { BEGUN, RESERVED, AWAITING, DONE };
struct half {
    struct ldg_pg *pg;
    struct ldg_apply apply;
    uint8_t *outcomes;
    struct half *other;
    int until; /* what the other one has to have reached for this one to go on */
    int stage;
    ledger_rc rc;
    ledger_error err;
};

static void half_reserved(void *ctx)
{
    struct half *half = ctx;

    tst_stage_reach(&half->stage, RESERVED);
}

/* The first half goes on only when the second has done whatever it may do before that. */
static ledger_rc half_await_order(void *ctx, ledger_error *err)
{
    struct half *half = ctx;

    tst_stage_reach(&half->stage, AWAITING);
    tst_stage_await(&half->other->stage, half->until);
    if (half->until == AWAITING || half->other->rc == LEDGER_OK)
        return LEDGER_OK;
    err->code = LEDGER_ERR_FENCED;
    return LEDGER_ERR_FENCED;
}

static void *half_run(void *ctx)
{
    struct half *half = ctx;

    half->rc = SINK->sink->apply(half->pg, &half->apply, half->outcomes, &half->err);
    tst_stage_reach(&half->stage, DONE);
    return NULL;
}

/* As the bridge does it: two that met in locks are done once more, one after the other. */
static void apply_in_two(struct sink *k, size_t first_count)
{
    struct ldg_cursor middle = k->cursor, next = k->cursor;
    struct half a = { .pg = &k->s, .outcomes = k->outcomes, .until = AWAITING };
    struct half b = { .pg = &ahead, .outcomes = k->outcomes + first_count, .until = DONE };
    pthread_t thread;

    snprintf(middle.state, sizeof(middle.state), "half:%lld", (long long)k->position);
    snprintf(next.state, sizeof(next.state), "state:%lld", (long long)k->position);
    a.other = &b;
    b.other = &a;
    a.apply = (struct ldg_apply){ .name = "default",
                                  .expected = &k->cursor,
                                  .next = &middle,
                                  .ops = k->ops,
                                  .count = first_count,
                                  .park_rejected = true,
                                  .await_commit_order = half_await_order,
                                  .ids_reserved = half_reserved,
                                  .overlap_ctx = &a };
    b.apply = a.apply;
    b.apply.expected = &middle;
    b.apply.next = &next;
    b.apply.ops = k->ops + first_count;
    b.apply.count = k->count - first_count;
    b.apply.overlap_ctx = &b;
    assert_int_equal(pthread_create(&thread, NULL, half_run, &a), 0);
    tst_stage_await(&a.stage, RESERVED);
    half_run(&b);
    pthread_join(thread, NULL);
    for (struct half *half = &a; half != NULL; half = half == &a ? &b : NULL) {
        if (half->rc == LEDGER_ERR_BUSY || half->rc == LEDGER_ERR_FENCED) {
            half->apply.await_commit_order = NULL;
            half_run(half);
        }
        tst_ok(half->rc, &half->err);
    }
    k->cursor = next;
}

/* --- memory ---------------------------------------------------------------------------------- */

struct memory {
    void *ctx;
    int origin;
};

static void memory_open(struct memory *m, unsigned round)
{
    static const struct ldg_identity identity = { .uuid = SOURCE_UUID, .epoch = 1 };
    char url[64];
    ledger_error err = { 0 };
    const struct ldg_open open = { .url = url,
                                   .path = url + 7,
                                   .table = "t",
                                   .log_table = "t_mutations",
                                   .log = LEDGER_MUTATION_LOG_OFF,
                                   .flags = LEDGER_STORE_CREATE,
                                   .label = "test",
                                   .role = LDG_ROLE_SINK };

    snprintf(url, sizeof(url), "memory:bulk-%u", round);
    m->ctx = ldg_calloc(1, ldg_backend_memory.ctx_size);
    assert_non_null(m->ctx);
    tst_ok(ldg_backend_memory.open(m->ctx, &open, &err), &err);
    tst_ok(ldg_backend_memory.state->origin_get(m->ctx, &identity, "source", &m->origin, &err),
           &err);
}

static void memory_close(struct memory *m)
{
    ldg_backend_memory.close(m->ctx);
    ldg_free(m->ctx);
}

static bool same_list(ledger_list a, ledger_list b)
{
    return ldg_list_equal(a, b);
}

static void compare_with_memory(struct memory *m, struct sink *k, uint64_t seed)
{
    struct ldg_arena a, b;
    struct ldg_history_row *x = NULL, *y = NULL;
    size_t x_count = 0, y_count = 0;
    ledger_error err = { 0 };

    ldg_arena_init(&a, 0);
    ldg_arena_init(&b, 0);
    tst_ok(ldg_backend_memory.verify->history(m->ctx, m->origin, ldg_id_of(0), 100000, 1 << 30, &a,
                                              &x, &x_count, &err),
           &err);
    tst_ok(SINK->verify->history(&k->s, k->origin, ldg_id_of(0), 100000, 1 << 30, &b, &y, &y_count,
                                 &err),
           &err);
    if (x_count != y_count)
        tst_fail("seed %llu: %zu entries, not %zu", (unsigned long long)seed, y_count, x_count);
    for (size_t i = 0; i < x_count; i++) {
        const ledger_entry *p = x[i].entry, *q = y[i].entry;
        if (!ldg_id_equal(x[i].key, y[i].key) || strcmp(p->stream, q->stream) != 0 ||
            strcmp(p->dedup_key, q->dedup_key) != 0 || !same_list(p->tags, q->tags) ||
            !ldg_map_equal(p->annotations, q->annotations) ||
            !ldg_map_equal(p->metadata, q->metadata) || p->payload.size != q->payload.size ||
            memcmp(p->payload.data, q->payload.data, p->payload.size) != 0 ||
            p->created_at_us != q->created_at_us || p->updated_at_us != q->updated_at_us)
            tst_fail("seed %llu: entry %s differs", (unsigned long long)seed,
                     ldg_id_text(x[i].key, (char[LEDGER_ID_TEXT_MAX]){ 0 }));
    }
    ldg_arena_fini(&a);
    ldg_arena_fini(&b);
}

/* --- ops ------------------------------------------------------------------------------------- */

#define STREAMS 4
#define POSITIONS 400

struct random {
    uint64_t state;
    int64_t next;  /* position of the next entry */
    bool keys;     /* dedup keys that meet */
    bool overlaps; /* entries may come late */
    bool foreign;  /* changes of a third store, own ones that come back */
    int third;
};

static unsigned below(struct random *r, unsigned n)
{
    return (unsigned)tst_random_below(&r->state, n);
}

static void stream_of(int64_t pos, char text[16])
{
    snprintf(text, 16, "s%lld", (long long)(pos * 7 / 3 % STREAMS));
}

/* Whenever an entry comes it is the same one: its content follows from its position. */
static void add_append(struct sink *k, struct random *r, int64_t pos)
{
    static const ledger_pair pairs[] = { { "m", "1" }, { "n", "\"\xc3\xa9\\" } };
    static const char *const tags[] = { "a", "b" };
    char stream[16], key[24] = "", payload[48];
    struct ldg_op *op;
    ledger_append_entry *entry;

    stream_of(pos, stream);
    snprintf(payload, sizeof(payload), "{ \"n\":%lld}", (long long)pos);
    if (r->keys && pos % 3 != 0)
        snprintf(key, sizeof(key), "k%lld", (long long)(pos * 5 % 37));
    else if (pos % 2 == 0)
        snprintf(key, sizeof(key), "own%lld", (long long)pos);
    op = sink_append(k, stream, pos, payload, key);
    op->time_us = 1764000000000000 + pos * 1000;
    entry = ldg_arena_memdup(&k->arena, op->entry, sizeof(*entry));
    entry->created_at_us = op->time_us;
    if (pos % 4 == 0)
        entry->metadata = (ledger_map){ pairs, 2 };
    if (pos % 5 == 0)
        entry->tags = (ledger_list){ tags, 2 };
    op->entry = entry;
}

static void add_change(struct sink *k, struct random *r)
{
    static const char *const values[] = { "v", "w", NULL };
    static const char *const keys[] = { "x", "y", "z" };
    int64_t pos = below(r, 3) != 0 && r->next > 12 ? r->next - 1 - below(r, 10)
                                                   : 1 + below(r, (unsigned)r->next + 2);
    char stream[16];
    struct ldg_op *op;

    stream_of(below(r, 20) == 0 ? pos + 1 : pos, stream);
    if (below(r, 2) == 0) {
        op = sink_tags(k, stream, pos, values[below(r, 2)]);
    } else {
        unsigned count = 1 + below(r, 3);
        ledger_pair *items = ldg_arena_calloc(&k->arena, count, sizeof(*items));
        op = sink_annotate(k, stream, pos, "x", NULL);
        for (unsigned i = 0; i < count; i++)
            items[i] = (ledger_pair){ keys[i], values[below(r, 3)] };
        op->annotations = (ledger_map){ items, count };
    }
    if (r->foreign && below(r, 6) == 0)
        op->mutation_origin = below(r, 2) == 0 ? 0 : r->third;
}

static void add_trim(struct sink *k, struct random *r)
{
    int64_t before = below(r, 3) != 0 && r->next > 40 ? r->next - 30 - below(r, 10)
                                                      : below(r, (unsigned)r->next + 2);
    char stream[16];
    struct ldg_op *op;

    snprintf(stream, sizeof(stream), "s%u", below(r, STREAMS));
    op = sink_trim(k, stream, before);
    if (below(r, 4) == 0 && before > 3) {
        ledger_id *kept = ldg_arena_calloc(&k->arena, 3, sizeof(*kept));
        kept[0] = ldg_id_of(before - 3);
        kept[1] = ldg_id_of(before - 1);
        kept[2] = ldg_id_of(before);
        op->survivors = kept;
        op->survivor_count = 3;
    }
}

static void add_op(struct sink *k, struct random *r)
{
    unsigned dice = below(r, 100);

    if (dice < 50) {
        int64_t pos = r->next++;
        if (r->overlaps) /* pairs come the wrong way round */
            pos = pos % 2 == 0 ? pos - 1 : pos + 1;
        add_append(k, r, pos);
    } else if (dice < 52) {
        add_append(k, r, 1 + below(r, (unsigned)r->next));
    } else if (dice < 93) {
        add_change(k, r);
    } else {
        add_trim(k, r);
    }
}

static ledger_id text_of(struct sink *k, ledger_id id)
{
    char text[24];

    if (id.text != NULL)
        return id;
    snprintf(text, sizeof(text), "e%06lld", (long long)id.number);
    return (ledger_id){ .text = ldg_arena_strdup(&k->arena, text) };
}

/* The same of a store whose ids are texts. */
static void make_texts(struct sink *k)
{
    for (size_t i = 0; i < k->count; i++) {
        struct ldg_op *op = &k->ops[i];
        ledger_id *kept = ldg_arena_calloc(&k->arena, op->survivor_count, sizeof(*kept));

        op->key = text_of(k, op->key);
        for (size_t n = 0; n < op->survivor_count; n++)
            kept[n] = text_of(k, op->survivors[n]);
        op->survivors = kept;
    }
}

/* The third handle's numbers of origins may be others. */
static void apply_to_memory(struct memory *m, const struct sink *k, uint8_t *outcomes)
{
    static struct ldg_op ops[SINK_OPS_MAX];
    ledger_error err = { 0 };
    const struct ldg_apply apply = { .ops = ops, .count = k->count, .park_rejected = true };

    memcpy(ops, k->ops, k->count * sizeof(ops[0]));
    for (size_t i = 0; i < k->count; i++)
        ops[i].origin = ops[i].origin == k->origin ? m->origin : ops[i].origin;
    for (size_t i = 0; i < k->count; i++)
        ops[i].mutation_origin =
            ops[i].mutation_origin == k->origin ? m->origin : ops[i].mutation_origin;
    tst_ok(ldg_backend_memory.sink->apply(m->ctx, &apply, outcomes, &err), &err);
}

#define LOG_ALL                                                                                    \
    "SELECT string_agg(regexp_replace(convert_from(payload, 'UTF8'), "                             \
    "'\"(id|entry_id|before_id)\":\"[0-9]+\"', '', 'g'), ' ' ORDER BY id) FROM t_mutations"
#define ORDER_ALL "SELECT string_agg(stream || " SINK_KEY ", ' ' ORDER BY stream, id) FROM t"
/* Of an entry whose key is a text they name the id here, which is another one on each way. */
#define MARKS_ALL                                                                                  \
    "SELECT string_agg(m, ',' ORDER BY m) FROM (SELECT origin || ' ' || CASE WHEN entry < 0 THEN " \
    "(SELECT source_id FROM t WHERE id = -entry) ELSE entry::text END || ' ' || position AS m "    \
    "FROM t_foreign) AS s"

static void compare_texts(const char *sql, uint64_t seed)
{
    char *a = tst_pg_sql_text(bulk.db, "%s", sql), *b = tst_pg_sql_text(rows.db, "%s", sql);

    if (strcmp(a ? a : "", b ? b : "") != 0)
        tst_fail("seed %llu differs: %s\nin bulk: %.3000s\nop by op: %.3000s",
                 (unsigned long long)seed, sql, a ? a : "", b ? b : "");
    free(a);
    free(b);
}

/* An origin that counts as ordered is. One that does not may be: entries that are added and trimmed
 * in one batch are seen on one way only. */
static void check_order(const struct sink *k, uint64_t seed)
{
    if (tst_pg_sql_int(k->db, "SELECT count(*) FROM t_origins AS o JOIN t AS a ON a.origin = o.id "
                              "JOIN t AS b ON b.origin = o.id AND b.stream = a.stream "
                              "AND b.id > a.id AND b.source_pos < a.source_pos WHERE o.ordered"))
        tst_fail("seed %llu: an origin counts as ordered and is not", (unsigned long long)seed);
    if (tst_pg_sql_int(k->db, "SELECT count(*) FROM t_origins AS o JOIN t ON t.origin = o.id "
                              "WHERE o.ordered AND t.source_pos IS NULL"))
        tst_fail("seed %llu: an origin of texts counts as ordered", (unsigned long long)seed);
}

static void compare_outcomes(const uint8_t *memory, uint64_t seed, int batch)
{
    for (size_t i = 0; i < bulk.count; i++) {
        if (bulk.outcomes[i] != memory[i] || rows.outcomes[i] != memory[i])
            tst_fail("seed %llu batch %d op %zu (kind %d of %s): in bulk %d, op by op %d, not %d",
                     (unsigned long long)seed, batch, i, (int)bulk.ops[i].kind,
                     ldg_id_text(bulk.ops[i].key, (char[LEDGER_ID_TEXT_MAX]){ 0 }),
                     bulk.outcomes[i], rows.outcomes[i], memory[i]);
    }
}

static void one_round(struct tst_env *env, uint64_t seed, bool in_two)
{
    static const struct ldg_identity third = { .uuid = OTHER_UUID, .epoch = 1 };
    struct random r = { .state = seed, .next = 1 };
    uint8_t outcomes[SINK_OPS_MAX];
    ledger_error err = { 0 };
    struct memory m;
    int number = 0;

    r.keys = seed % 2 == 0;
    r.overlaps = seed % 3 == 0;
    r.foreign = seed % 5 == 0;
    open_both(env, (unsigned)seed,
              seed % 4 == 1 ? LEDGER_MUTATION_LOG_ON : LEDGER_MUTATION_LOG_OFF);
    memory_open(&m, (unsigned)seed);
    tst_ok(SINK->state->origin_get(&bulk.s, &third, "", &r.third, &err), &err);
    tst_ok(SINK->state->origin_get(&rows.s, &third, "", &number, &err), &err);
    assert_int_equal(number, r.third);
    tst_ok(ldg_backend_memory.state->origin_get(m.ctx, &third, "", &number, &err), &err);
    assert_int_equal(number, r.third);
    for (int batch = 0; batch < 12; batch++) {
        size_t size = 1 + below(&r, batch % 2 == 0 ? 90 : 8);

        if (batch == 0 || below(&r, 5) != 0) { /* else the same once more */
            sink_begin(&bulk);
            for (size_t i = 0; i < size; i++)
                add_op(&bulk, &r);
            if (seed % 7 < 3)
                make_texts(&bulk);
        }
        memcpy(rows.ops, bulk.ops, bulk.count * sizeof(bulk.ops[0]));
        rows.count = bulk.count;
        rows.position = bulk.position;
        if (in_two)
            apply_in_two(&bulk, below(&r, (unsigned)bulk.count + 1));
        else
            sink_apply(&bulk);
        sink_apply(&rows);
        apply_to_memory(&m, &bulk, outcomes);
        compare_outcomes(outcomes, seed, batch);
    }
    compare_texts(SINK_ALL, seed);
    compare_texts(ORDER_ALL, seed);
    compare_texts("SELECT string_agg(id || uuid || epoch, ' ' ORDER BY id) FROM t_origins", seed);
    check_order(&bulk, seed);
    check_order(&rows, seed);
    compare_texts(MARKS_ALL, seed);
    if (seed % 4 == 1)
        compare_texts(LOG_ALL, seed);
    compare_with_memory(&m, &bulk, seed);
    assert_int_equal(rows.s.sink->optimistic_count, 0);
    in_bulk += bulk.s.sink->optimistic_count + ahead.sink->optimistic_count;
    memory_close(&m);
    close_both();
}

static void test_random_three_ways(void **state)
{
    in_bulk = 0;
    for (uint64_t seed = 1; seed <= tst_scale(20); seed++)
        one_round(*state, seed, false);
    assert_true(in_bulk >= tst_scale(20)); /* else this compares one way with itself */
    one_round(*state, 157, false);         /* an entry twice in a batch: logged once */
}

static void test_random_in_two(void **state)
{
    in_bulk = 0;
    for (uint64_t seed = 1; seed <= tst_scale(20); seed++)
        one_round(*state, seed, true);
    assert_true(in_bulk >= tst_scale(20) * 6);
}

/* Without keys that meet, nothing of that is left to the slow way. */
static void test_mixed_is_bulk(void **state)
{
    open_both(*state, 0, LEDGER_MUTATION_LOG_OFF);
    for (int64_t pos = 1; pos <= 60; pos++) {
        sink_append(&bulk, pos % 2 ? "a" : "b", pos, "{}", pos % 3 ? "" : "k");
        bulk.ops[bulk.count - 1].stream = pos % 3 ? bulk.ops[bulk.count - 1].stream : "k";
        if (pos % 3 == 0)
            sink_trim(&bulk, "k", pos); /* t6: K, trim, K again */
        sink_tags(&bulk, pos % 2 ? "a" : "b", pos, "x");
        sink_annotate(&bulk, pos % 2 ? "a" : "b", pos / 2 + 1, "n", pos % 5 ? "v" : NULL);
    }
    sink_apply(&bulk);
    sink_begin(&bulk);
    for (int64_t pos = 40; pos <= 60; pos++) {
        sink_tags(&bulk, pos % 2 ? "a" : "b", pos, "y");
        sink_annotate(&bulk, pos % 2 ? "a" : "b", pos, "n", "w");
        sink_annotate(&bulk, pos % 2 ? "a" : "b", pos, "m", NULL);
    }
    sink_trim(&bulk, "a", 50);
    sink_tags(&bulk, "a", 49, "z"); /* gone */
    sink_apply(&bulk);
    assert_int_equal(bulk.outcomes[bulk.count - 1], LDG_OUTCOME_MISSING);
    assert_int_equal(bulk.outcomes[bulk.count - 2], LDG_OUTCOME_APPLIED);
    assert_int_equal(bulk.s.sink->optimistic_count, 2);
    close_both();
}

/* Larger than any piece, beside small ones; nothing of it is copied. */
static void test_large_payloads(void **state)
{
    const size_t size = (size_t)3 * 1024 * 1024 + 17;
    char *large = malloc(size + 1);

    assert_non_null(large);
    open_both(*state, 0, LEDGER_MUTATION_LOG_OFF);
    memset(large, '7', size);
    large[size] = '\0';
    for (int64_t pos = 1; pos <= 5; pos++)
        sink_append(&bulk, "s", pos, pos % 2 ? large : "{}", "");
    bulk.ops[0].entry =
        ldg_arena_memdup(&bulk.arena, bulk.ops[0].entry, sizeof(*bulk.ops[0].entry));
    sink_apply(&bulk);
    assert_int_equal(bulk.s.sink->optimistic_count, 1);
    sink_is(&bulk, "SELECT string_agg(length(payload)::text, ' ' ORDER BY id) FROM t",
            "3145745 2 3145745 2 3145745");
    assert_int_equal(tst_pg_sql_int(bulk.db, "SELECT count(*) FROM t WHERE length(payload) > 2 AND "
                                             "payload <> convert_to(repeat('7', 3145745), 'UTF8')"),
                     0);
    free(large);
    close_both();
}

/* Positions around the piece's end: every length of a row that can straddle it. */
static void test_pieces(void **state)
{
    static char payload[2 * LDG_PG_COPY_BYTES];

    open_both(*state, 0, LEDGER_MUTATION_LOG_OFF);
    memset(payload, '1', sizeof(payload) - 1);
    for (int i = 0; i < 40; i++) {
        char *p = payload + sizeof(payload) - 1 - LDG_PG_COPY_BYTES + (size_t)i * 5;
        sink_append(&bulk, "s", i + 1, p, "");
    }
    sink_apply(&bulk);
    assert_int_equal(tst_pg_sql_int(bulk.db, "SELECT count(*) FROM t WHERE length(payload) = "
                                             "65536 - (source_pos - 1) * 5"),
                     40);
    close_both();
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, tst_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_random_three_ways), TEST(test_random_in_two), TEST(test_mixed_is_bulk),
        TEST(test_large_payloads),    TEST(test_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
