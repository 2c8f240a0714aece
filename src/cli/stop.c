/* Stopping when a signal asks for it, and how long a store may be waited for. */
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "cli/cli.h"

/* --- stopping -------------------------------------------------------------------------------- */

/* One signal may come twice: to the group of processes, and from a program that passes it on. */
#define TWICE_US 300000

static atomic_llong stop_us; /* when a signal asked for it first; 0: not yet */
static _Atomic(ledger_bridge *) stop_bridge;

/* Only async-signal-safe calls. A second signal does not wait any longer: nothing is lost by it. */
static void on_signal(int number)
{
    const long long now_us = cli_mono_us();
    long long first_us = 0;
    if (!atomic_compare_exchange_strong(&stop_us, &first_us, now_us) && number != SIGHUP &&
        now_us - first_us > TWICE_US)
        _exit(128 + number);
    ledger_bridge *bridge = atomic_load(&stop_bridge);
    if (bridge != NULL)
        ledger_bridge_request_stop(bridge);
}

void cli_stop_catch(void)
{
    struct sigaction action = { .sa_handler = on_signal }; /* no SA_RESTART: poll() returns */
    struct sigaction before;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
        sigaction(SIGHUP, &action, NULL);
}

bool cli_stop_asked(void)
{
    return atomic_load(&stop_us) != 0;
}

void cli_stop_bridge(ledger_bridge *bridge)
{
    atomic_store(&stop_bridge, bridge);
    if (bridge != NULL && cli_stop_asked())
        ledger_bridge_request_stop(bridge); /* the signal came before */
}

/* --- waiting --------------------------------------------------------------------------------- */

#define WAIT_MIN_MS 1000

static _Atomic int64_t wait_until_us;

void cli_wait_until(int64_t give_up_us)
{
    atomic_store(&wait_until_us, give_up_us);
}

static ledger_wait_answer may_wait(void *ctx, int64_t waited_ms)
{
    const int64_t until_us = atomic_load(&wait_until_us);
    if (cli_stop_asked())
        return LEDGER_WAIT_STOP;
    return until_us != 0 && waited_ms >= WAIT_MIN_MS && cli_mono_us() >= until_us
               ? LEDGER_WAIT_ENOUGH
               : LEDGER_WAIT_ON;
}

static void tell_wait(void *ctx, const char *what)
{
    cli_note("warn %s", what);
}

const ledger_wait cli_wait = { .ask = may_wait, .waiting = tell_wait };
