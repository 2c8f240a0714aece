/* Waiting: when one who waits is to look up, what he asks then, and when he says what he waits for.
 *
 * Hides the clock of a wait. Invariant: nobody is told of a wait that is shorter than ten seconds,
 * or twice of one. */
#include <stdarg.h>
#include <stdio.h>

#include "base/clock.h"
#include "store/backend.h"

#define LONG_MS 10000

void ldg_waiting_again(struct ldg_waiting *waiting)
{
    waiting->since_us = 0;
    waiting->told = false;
}

int64_t ldg_waiting_ms(struct ldg_waiting *waiting)
{
    const int64_t now_us = ldg_clock_mono_us();
    if (waiting->since_us == 0)
        waiting->since_us = now_us;
    return (now_us - waiting->since_us) / 1000;
}

ledger_wait_answer ldg_waiting_ask(struct ldg_waiting *waiting)
{
    const ledger_wait *wait = waiting->wait;
    if (wait == NULL || wait->ask == NULL)
        return LEDGER_WAIT_ON;
    const unsigned all = wait->ask(wait->ctx, ldg_waiting_ms(waiting));
    const ledger_wait_answer answer = all & ~(unsigned)LDG_WAIT_INTERRUPTED;
    return answer == all || answer == LEDGER_WAIT_STOP || waiting->commits ? answer
                                                                           : LDG_WAIT_INTERRUPTED;
}

bool ldg_wait_interrupted(const ledger_wait *wait)
{
    struct ldg_waiting now = { .wait = wait };
    return ldg_waiting_ask(&now) == LDG_WAIT_INTERRUPTED;
}

bool ldg_waiting_is_long(struct ldg_waiting *waiting)
{
    const ledger_wait *wait = waiting->wait;
    if (wait == NULL || wait->waiting == NULL || waiting->told || ldg_waiting_ms(waiting) < LONG_MS)
        return false;
    waiting->told = true;
    return true;
}

void ldg_wait_tell(const ledger_wait *wait, const char *fmt, ...)
{
    char text[LEDGER_ERROR_MESSAGE_MAX];
    va_list args;
    if (wait == NULL || wait->waiting == NULL)
        return;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    wait->waiting(wait->ctx, text);
}
