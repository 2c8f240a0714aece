/* See frame.h. */
#include "frame.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common.h"
#include "fixtures.h"

static void (*show_servers_logs)(void);

/* --- of fixtures.c ---------------------------------------------------------------------------- */

void tst_fail_at(const char *file, int line, const char *fmt, ...)
{
    char text[600];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (show_servers_logs)
        show_servers_logs();
    bench_die("%s:%d: %s", file, line, text);
}

int64_t tst_mono_us(void)
{
    return bench_now_ns() / 1000;
}

void tst_sleep_us(int64_t us)
{
    bench_pause_ns(us * 1000);
}

int64_t tst_slow(int64_t us)
{
    return us;
}

/* --- signals ---------------------------------------------------------------------------------- */

/* Stopping servers and removing their folders is more than a signal's handler may do. */
static void *end_on_signal(void *ctx)
{
    const sigset_t *signals = ctx;
    int number;

    while (sigwait(signals, &number))
        ;
    bench_quiet_end();
    exit(128 + number);
}

void bench_frame_begin(void (*show_logs)(void))
{
    static sigset_t signals;
    pthread_t thread;

    show_servers_logs = show_logs;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    if (pthread_sigmask(SIG_BLOCK, &signals, NULL) ||
        pthread_create(&thread, NULL, end_on_signal, &signals))
        bench_die("cannot start a thread");
    pthread_detach(thread);
}
