/* Wake-ups inside one process: writers signal, bridges wait on an eventfd. Threads: any. */
#ifndef LDG_STORE_WAKE_H
#define LDG_STORE_WAKE_H

#include "ledger/error.h"

/* The fd stays the caller's and must be open until ldg_wake_remove() has returned. */
ledger_rc ldg_wake_add(const char *key, int event_fd, ledger_error *err);
void ldg_wake_remove(const char *key, int event_fd); /* one registration; none: nothing happens */
/* Adds 1 to every eventfd under the key. */
void ldg_wake_signal(const char *key);

#endif
