#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "store/backend.h"

static int64_t now_us = 5000000;

static int64_t fake_clock(void)
{
    return now_us;
}

static ledger_wait_answer answer;
static int64_t asked_ms;
static int told_count;
static char told[256];

static ledger_wait_answer ask(void *ctx, int64_t waited_ms)
{
    asked_ms = waited_ms;
    return answer;
}

static void tell(void *ctx, const char *what)
{
    told_count++;
    (void)snprintf(told, sizeof(told), "%s", what);
}

static const ledger_wait wait_of = { .ask = ask, .waiting = tell };

static int setup(void **state)
{
    ldg_clock_set_mono(fake_clock);
    answer = LEDGER_WAIT_ON;
    told_count = 0;
    return 0;
}

static int teardown(void **state)
{
    ldg_clock_set_mono(NULL);
    return 0;
}

static void who_waits_asks(void **state)
{
    struct ldg_waiting w = { .wait = &wait_of };
    assert_int_equal(ldg_waiting_ask(&w), LEDGER_WAIT_ON);
    assert_int_equal(asked_ms, 0);
    now_us += 2500000;
    answer = LEDGER_WAIT_ENOUGH;
    assert_int_equal(ldg_waiting_ask(&w), LEDGER_WAIT_ENOUGH);
    assert_int_equal(asked_ms, 2500);
    ldg_waiting_again(&w);
    answer = LEDGER_WAIT_STOP;
    assert_int_equal(ldg_waiting_ask(&w), LEDGER_WAIT_STOP);
    assert_int_equal(asked_ms, 0);
}

/* A stop is more than an interrupt, and that is more than the rest; a COMMIT does not hear of it.
 */
static void an_interrupt_is_an_answer(void **state)
{
    static const ledger_wait_answer answers[] = { LEDGER_WAIT_ON, LEDGER_WAIT_ENOUGH,
                                                  LEDGER_WAIT_STOP };
    struct ldg_waiting w = { .wait = &wait_of }, commits = { .wait = &wait_of, .commits = true };
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        const bool stop = answers[i] == LEDGER_WAIT_STOP;
        answer = answers[i];
        assert_false(ldg_wait_interrupted(&wait_of));
        answer = (ledger_wait_answer)((unsigned)answers[i] | LDG_WAIT_INTERRUPTED);
        assert_int_equal(ldg_waiting_ask(&w), stop ? LEDGER_WAIT_STOP : LDG_WAIT_INTERRUPTED);
        assert_int_equal(ldg_wait_interrupted(&wait_of), !stop);
        assert_int_equal(ldg_waiting_ask(&commits), answers[i]);
    }
    assert_false(ldg_wait_interrupted(NULL));
}

static void long_waits_are_told_once(void **state)
{
    struct ldg_waiting w = { .wait = &wait_of };
    assert_int_equal(ldg_waiting_ms(&w), 0);
    now_us += 9999000;
    assert_false(ldg_waiting_is_long(&w));
    now_us += 1000;
    assert_true(ldg_waiting_is_long(&w));
    ldg_wait_tell(w.wait, "waits for process %d", 7);
    assert_string_equal(told, "waits for process 7");
    now_us += 60000000;
    assert_false(ldg_waiting_is_long(&w));
    ldg_waiting_again(&w);
    assert_false(ldg_waiting_is_long(&w));
    now_us += 10000000;
    assert_true(ldg_waiting_is_long(&w));
    assert_int_equal(told_count, 1);
}

static void nobody_has_to_hear(void **state)
{
    static const ledger_wait silent;
    struct ldg_waiting alone = { 0 }, empty = { .wait = &silent };
    assert_int_equal(ldg_waiting_ask(&alone), LEDGER_WAIT_ON);
    assert_int_equal(ldg_waiting_ask(&empty), LEDGER_WAIT_ON);
    now_us += 20000000;
    assert_false(ldg_waiting_is_long(&alone));
    assert_false(ldg_waiting_is_long(&empty));
    ldg_wait_tell(NULL, "x");
    ldg_wait_tell(&silent, "x");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(who_waits_asks, setup, teardown),
        cmocka_unit_test_setup_teardown(an_interrupt_is_an_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(long_waits_are_told_once, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_has_to_hear, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
