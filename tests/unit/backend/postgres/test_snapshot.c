/* Sets of transaction numbers against a plain model, and the cursor's text against hostile ones. */
#include "fixtures.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc_fail.h"
#include "backend/postgres/snapshot.h"
#include "base/hash.h"
#include "event_util.h"

static struct ldg_arena arena;

static int setup(void **state)
{
    (void)state;
    ldg_arena_init(&arena, 1 << 16);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ldg_arena_fini(&arena);
    return 0;
}

static struct ldg_pg_snapshot snapshot(const char *text)
{
    struct ldg_pg_snapshot s;

    assert_true(ldg_pg_snapshot_parse(text, &arena, &s));
    return s;
}

static void is_snapshot(const struct ldg_pg_snapshot *s, const char *text)
{
    struct ldg_buf out;

    ldg_buf_init(&out, SIZE_MAX);
    ldg_pg_snapshot_print(s, &out);
    assert_string_equal(out.data, text);
    ldg_buf_fini(&out);
}

/* --- sets ------------------------------------------------------------------------------------ */

static void test_parse(void **state)
{
    static const char *const good[] = { "1:1:", "10:20:", "10:20:10,14,15", "5:6:5",
                                        "9223372036854775806:9223372036854775807:" };
    static const char *const bad[] = {
        "",
        ":",
        "1",
        "1:",
        "1:1",
        "0:1:",
        "2:1:",
        "1:2:3",
        "5:9:4",
        "5:9:6,",
        "5:9:6,6",
        "5:9:7,6",
        "5:9: 6",
        "5:9:6 ",
        "-1:5:",
        "a:b:c",
        "5:9:,",
        "5:9:,6",
        "5:9:6,,7",
        "5:9:6:7",
        "1:9223372036854775808:",
        "1:99999999999999999999999:",
        "5:9:6,x",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct ldg_pg_snapshot s = snapshot(good[i]);

        /* xmin is what it has to be, so only the lists are compared where it says less */
        if (s.count > 0 || strcmp(good[i], "1:1:") == 0)
            is_snapshot(&s, good[i]);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct ldg_pg_snapshot s;

        if (ldg_pg_snapshot_parse(bad[i], &arena, &s))
            fail_msg("\"%s\" was taken", bad[i]);
    }
}

static void test_sees(void **state)
{
    struct ldg_pg_snapshot s = snapshot("10:20:10,14,15"), nothing = { 0 };

    (void)state;
    assert_true(ldg_pg_snapshot_sees(&s, 0));
    assert_true(ldg_pg_snapshot_sees(&s, 9));
    assert_false(ldg_pg_snapshot_sees(&s, 10));
    assert_true(ldg_pg_snapshot_sees(&s, 11));
    assert_false(ldg_pg_snapshot_sees(&s, 14));
    assert_false(ldg_pg_snapshot_sees(&s, 15));
    assert_true(ldg_pg_snapshot_sees(&s, 19));
    assert_false(ldg_pg_snapshot_sees(&s, 20));
    assert_false(ldg_pg_snapshot_sees(&nothing, 0));
    is_snapshot(&nothing, "1:1:");
}

static void test_cut_hide_settle(void **state)
{
    struct ldg_pg_snapshot s = snapshot("10:20:10,14,15"), later = snapshot("14:30:14,25"), out;
    const uint64_t keep[] = { 3, 15 };
    uint64_t *items;
    size_t count;

    (void)state;
    assert_true(ldg_pg_snapshot_cut(&s, 15, &arena, &out));
    is_snapshot(&out, "10:15:10,14");
    assert_true(ldg_pg_snapshot_cut(&s, 25, &arena, &out));
    is_snapshot(&out, "10:20:10,14,15");
    assert_true(ldg_pg_snapshot_cut(&s, 0, &arena, &out));
    assert_int_equal(out.xmax, 0);
    assert_int_equal(out.count, 0);
    assert_true(ldg_pg_snapshot_hide(&s, 12, &arena, &out));
    is_snapshot(&out, "10:20:10,12,14,15");
    assert_true(ldg_pg_snapshot_hide(&s, 9, &arena, &out));
    is_snapshot(&out, "9:20:9,10,14,15");
    assert_true(ldg_pg_snapshot_hide(&s, 19, &arena, &out));
    is_snapshot(&out, "10:20:10,14,15,19");
    assert_true(ldg_pg_snapshot_hide(&s, 14, &arena, &out));
    is_snapshot(&out, "10:20:10,14,15");
    assert_true(ldg_pg_snapshot_hide(&s, 20, &arena, &out));
    is_snapshot(&out, "10:20:10,14,15");
    assert_true(ldg_pg_snapshot_hide(&s, 0, &arena, &out)); /* no transaction of one's own */
    is_snapshot(&out, "10:20:10,14,15");
    assert_true(ldg_pg_snapshot_settle(&s, &later, keep, 2, &arena, &out));
    is_snapshot(&out, "14:20:14,15");
    assert_true(ldg_pg_snapshot_ended(&s, &later, &arena, &items, &count));
    assert_int_equal(count, 2);
    assert_int_equal(items[0], 10);
    assert_int_equal(items[1], 15);
}

/* Each operation against what it is to mean, number by number. */
static void test_model(void **state)
{
    uint64_t random = 1;

    (void)state;
    for (int round = 0; round < 2000; round++) {
        struct ldg_pg_snapshot a = { .xmax = random_below(&random, 40) + 1 }, b = a, out;
        uint64_t in_a[64], in_b[64], cut = random_below(&random, 60),
                                     own = random_below(&random, 60);
        uint64_t *ended;
        size_t ended_count, at = 0;

        ldg_arena_reset(&arena);
        b.xmax += random_below(&random, 10);
        for (uint64_t x = 1; x < a.xmax; x++)
            if (random_below(&random, 3) == 0)
                in_a[a.count++] = x;
        for (uint64_t x = 1; x < b.xmax; x++)
            if (x >= a.xmax ? random_below(&random, 2) == 0
                            : !ldg_pg_snapshot_sees(
                                  &(struct ldg_pg_snapshot){ a.xmax, a.count, in_a }, x) &&
                                  random_below(&random, 2) == 0)
                in_b[b.count++] = x;
        a.xip = in_a;
        b.xip = in_b;
        assert_true(ldg_pg_snapshot_cut(&a, cut, &arena, &out));
        for (uint64_t x = 0; x < 64; x++)
            assert_int_equal(ldg_pg_snapshot_sees(&out, x), ldg_pg_snapshot_sees(&a, x) && x < cut);
        assert_true(ldg_pg_snapshot_hide(&a, own, &arena, &out));
        for (uint64_t x = 0; x < 64; x++)
            assert_int_equal(ldg_pg_snapshot_sees(&out, x),
                             ldg_pg_snapshot_sees(&a, x) && (x != own || own == 0));
        assert_true(ldg_pg_snapshot_settle(&a, &b, NULL, 0, &arena, &out));
        for (uint64_t x = 0; x < 64; x++)
            assert_int_equal(ldg_pg_snapshot_sees(&out, x),
                             x < a.xmax &&
                                 (ldg_pg_snapshot_sees(&a, x) || ldg_pg_snapshot_sees(&b, x)));
        assert_true(ldg_pg_snapshot_ended(&a, &b, &arena, &ended, &ended_count));
        for (uint64_t x = 0; x < a.xmax; x++)
            if (!ldg_pg_snapshot_sees(&a, x) && ldg_pg_snapshot_sees(&b, x))
                assert_int_equal(ended[at++], x);
        assert_int_equal(at, ended_count);
    }
}

static void test_witness(void **state)
{
    const struct ldg_pg_witness none = { 0 }, low = { 9, 5, 1 }, high = { 3, 6, 2 },
                                same = { 10, 5, 3 }, old = { 4, 0, 4 };

    (void)state;
    assert_int_equal(ldg_pg_witness_higher(none, low).id, 9);
    assert_int_equal(ldg_pg_witness_higher(low, none).id, 9);
    assert_int_equal(ldg_pg_witness_higher(low, high).id, 3);
    assert_int_equal(ldg_pg_witness_higher(high, low).id, 3);
    assert_int_equal(ldg_pg_witness_higher(low, same).id, 10);
    assert_int_equal(ldg_pg_witness_higher(none, old).id, 4);
    assert_int_equal(ldg_pg_witness_higher(none, none).id, 0);
}

/* --- the cursor's text ----------------------------------------------------------------------- */

static struct ldg_pg_cursor sample(bool open)
{
    struct ldg_pg_cursor c = {
        .identity = { "0c3a4f0e-9f14-4a68-8d9a-0d2b4e5f6a7b", 3 },
        .system_id = "7312345678901234567",
        .position = 4711,
        .floor = 12,
        .carried = { 4700, 990, 0x0123456789abcdefULL },
        .tally_count = 3,
        .tally_sum = 14097,
        .since = 4600,
        .s0 = snapshot("900:991:900,950,990"),
        .open = open,
    };

    if (!open) {
        c.before = snapshot("800:800:");
    } else {
        c.s1 = snapshot("900:2000:900,1990,1999");
        c.last = 4705;
        c.end = 5000;
        c.top = (struct ldg_pg_witness){ 4990, 1998, 42 };
    }
    return c;
}

static void same_set(const struct ldg_pg_snapshot *a, const struct ldg_pg_snapshot *b)
{
    assert_int_equal(a->xmax, b->xmax);
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++)
        assert_int_equal(a->xip[i], b->xip[i]);
}

static void round_trip(const struct ldg_pg_cursor *c)
{
    static char text[LDG_CURSOR_STATE_MAX], again[LDG_CURSOR_STATE_MAX];
    struct ldg_pg_cursor d;
    ledger_error err = { 0 };

    tst_ok(ldg_pg_cursor_format(c, text, &err), &err);
    tst_ok(ldg_pg_cursor_parse(text, &arena, &d, &err), &err);
    assert_true(d.set);
    assert_string_equal(d.identity.uuid, c->identity.uuid);
    assert_int_equal(d.identity.epoch, c->identity.epoch);
    assert_string_equal(d.system_id, c->system_id);
    assert_int_equal(d.position, c->position);
    assert_int_equal(d.floor, c->floor);
    assert_memory_equal(&d.carried, &c->carried, sizeof(d.carried));
    assert_int_equal(d.tally_count, c->tally_count);
    assert_int_equal(d.tally_sum, c->tally_sum);
    assert_int_equal(d.since, c->since);
    same_set(&d.s0, &c->s0);
    if (!c->open)
        same_set(&d.before, &c->before);
    assert_int_equal(d.open, c->open);
    if (c->open) {
        same_set(&d.s1, &c->s1);
        assert_int_equal(d.last, c->last);
        assert_int_equal(d.end, c->end);
        assert_memory_equal(&d.top, &c->top, sizeof(d.top));
    }
    tst_ok(ldg_pg_cursor_format(&d, again, &err), &err);
    assert_string_equal(again, text);
}

static void test_round_trip(void **state)
{
    struct ldg_pg_cursor c = sample(false), d = sample(true), bare = { .identity = { "u", 0 } };

    (void)state;
    round_trip(&c);
    round_trip(&d);
    round_trip(&bare);
    d.s0 = (struct ldg_pg_snapshot){ 0 };
    round_trip(&d);
    c.s0 = snapshot("1:9223372036854775807:1,2,9223372036854775806");
    c.position = c.floor = INT64_MAX;
    c.system_id[0] = '\0';
    round_trip(&c);
}

static struct ldg_pg_snapshot many(size_t count, uint64_t step)
{
    struct ldg_pg_snapshot s = { .xmax = 4000000000ULL };

    s.xip = ldg_arena_calloc(&arena, count, sizeof(*s.xip));
    assert_non_null(s.xip);
    for (s.count = 0; s.count < count; s.count++)
        s.xip[s.count] = s.xmax - (count - s.count) * step;
    return s;
}

static void test_many_open(void **state)
{
    static char text[LDG_CURSOR_STATE_MAX];
    struct ldg_pg_cursor c = sample(true);
    ledger_error err = { 0 };

    (void)state;
    c.s0 = many(1000, 100000);
    c.s1 = many(1000, 100000);
    round_trip(&c);
    c.s0 = many(9000, 1);
    c.s1 = (struct ldg_pg_snapshot){ .xmax = c.s0.xmax };
    tst_fails(ldg_pg_cursor_format(&c, text, &err), LEDGER_ERR_BUSY, &err);
    assert_true(err.flags & LEDGER_ERROR_RETRY);
    assert_string_equal(text, "");
}

static void refused(const char *text)
{
    struct ldg_pg_cursor c = { .position = 77 };
    ledger_error err = { 0 };

    tst_fails(ldg_pg_cursor_parse(text, &arena, &c, &err), LEDGER_ERR_DATA, &err);
    assert_int_equal(c.position, 77);
}

static void test_cut_and_changed(void **state)
{
    static char text[LDG_CURSOR_STATE_MAX], broken[LDG_CURSOR_STATE_MAX];
    struct ldg_pg_cursor c, d;
    ledger_error err = { 0 };

    (void)state;
    tst_ok(ldg_pg_cursor_parse("", &arena, &c, &err), &err);
    assert_false(c.set);
    for (int open = 0; open < 2; open++) {
        d = sample(open);
        tst_ok(ldg_pg_cursor_format(&d, text, &err), &err);
        for (size_t i = 1; i < strlen(text); i++) {
            snprintf(broken, sizeof(broken), "%.*s", (int)i, text);
            refused(broken);
        }
        for (size_t i = 0; text[i]; i++) {
            memcpy(broken, text, sizeof(broken));
            broken[i] = broken[i] == '1' ? '2' : '1';
            refused(broken);
        }
        snprintf(broken, sizeof(broken), "%s0", text);
        refused(broken);
    }
    refused("x");
    refused("postgres:1:");
    refused("postgres:1::::::::::::::::::::");
    assert_int_equal(ldg_pg_cursor_parse("sqlite:1:u:1:2:3:0123456789abcdef", &arena, &c, &err),
                     LEDGER_ERR_CURSOR_MISMATCH);
}

/* Texts with the right hash, whatever they say: taken or refused, and what is taken is sound. */
static void sign(char *text, size_t size)
{
    char hash[24];

    snprintf(hash, sizeof(hash), ":%016llx", (unsigned long long)ldg_hash64(text, size, 0));
    memcpy(text + size, hash, 18);
}

static void sound(const struct ldg_pg_snapshot *s)
{
    for (size_t i = 0; i < s->count; i++) {
        assert_true(s->xip[i] > 0 && s->xip[i] < s->xmax);
        assert_true(i == 0 || s->xip[i] > s->xip[i - 1]);
    }
}

static void test_hostile(void **state)
{
    static const char *const parts = ":.-09azA, \x80";
    static char good[LDG_CURSOR_STATE_MAX], text[LDG_CURSOR_STATE_MAX];
    uint64_t random = 2;
    ledger_error err;
    size_t taken = 0;

    (void)state;
    for (int round = 0; round < 40000; round++) {
        struct ldg_pg_cursor c = sample(round % 2), d;

        ldg_arena_reset(&arena);
        c = sample(round % 2);
        assert_int_equal(ldg_pg_cursor_format(&c, good, &err), LEDGER_OK);
        size_t size = strlen(good) - 17;
        memcpy(text, good, size);
        for (uint64_t n = random_below(&random, 4); n > 0; n--) {
            size_t at = random_below(&random, size);
            size_t rest = random_below(&random, size - at) + 1;

            switch (random_below(&random, 4)) {
            case 0:
                text[at] = parts[random_below(&random, strlen(parts))];
                break;
            case 1: /* a piece left out */
                memmove(text + at, text + at + rest, size - at - rest);
                size -= rest < size - 12 ? rest : 0;
                break;
            case 2: /* a piece twice */
                memmove(text + at + rest, text + at, size - at);
                size += rest;
                break;
            default:
                memset(text + at, '9', rest < 30 ? rest : 30);
            }
        }
        sign(text, size);
        ledger_rc rc = ldg_pg_cursor_parse(text, &arena, &d, &err);
        if (rc == LEDGER_OK) {
            taken++;
            sound(&d.s0);
            sound(&d.s1);
            sound(&d.before);
        } else { /* with another word in front it is another kind of source's */
            assert_true(rc == LEDGER_ERR_DATA || rc == LEDGER_ERR_CURSOR_MISMATCH);
        }
    }
    assert_true(taken > 1000);
}

static ledger_rc oom_run(void *ctx)
{
    struct ldg_arena own;
    struct ldg_pg_cursor c;
    char *text = ctx;
    static char again[LDG_CURSOR_STATE_MAX];
    ledger_error err;

    ldg_arena_init(&own, 0);
    ledger_rc rc = ldg_pg_cursor_parse(text, &own, &c, &err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_cursor_format(&c, again, &err);
    ldg_arena_fini(&own);
    return rc;
}

static void test_out_of_memory(void **state)
{
    static char text[LDG_CURSOR_STATE_MAX];
    struct ldg_pg_cursor c = sample(true);
    ledger_error err = { 0 };

    (void)state;
    c.s0 = many(1000, 3);
    c.s1 = many(1000, 5);
    tst_ok(ldg_pg_cursor_format(&c, text, &err), &err);
    alloc_fail_each(oom_run, text);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_parse),           TEST(test_sees),
        TEST(test_cut_hide_settle), TEST(test_model),
        TEST(test_witness),         TEST(test_round_trip),
        TEST(test_many_open),       TEST(test_cut_and_changed),
        TEST(test_hostile),         TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
