/* The process-wide list of waiters, by database.
 *
 * Invariant: a descriptor is written only under the mutex and only while it is registered, so it
 * may be closed as soon as ldg_wake_remove() returns. `waiter_count` lets a writer without any
 * waiter pass by without taking the mutex: a waiter registers before it looks at the log, a writer
 * commits before it looks at the count, so one of the two always sees the other. */
#include "store/wake.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mem.h"

struct waiter {
    struct waiter *next;
    int event_fd;
    char key[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct waiter *waiters;
static atomic_size_t waiter_count;

ledger_rc ldg_wake_add(const char *key, int event_fd, ledger_error *err)
{
    size_t size = strlen(key) + 1;
    struct waiter *waiter = ldg_malloc(sizeof(*waiter) + size);
    if (!waiter)
        return ldg_fail_nomem(err);
    waiter->event_fd = event_fd;
    memcpy(waiter->key, key, size);

    pthread_mutex_lock(&lock);
    waiter->next = waiters;
    waiters = waiter;
    atomic_fetch_add(&waiter_count, 1);
    pthread_mutex_unlock(&lock);
    return LEDGER_OK;
}

void ldg_wake_remove(const char *key, int event_fd)
{
    struct waiter *found = NULL;
    pthread_mutex_lock(&lock);
    for (struct waiter **at = &waiters; *at; at = &(*at)->next) {
        if ((*at)->event_fd == event_fd && strcmp((*at)->key, key) == 0) {
            found = *at;
            *at = found->next;
            atomic_fetch_sub(&waiter_count, 1);
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    ldg_free(found);
}

void ldg_wake_signal(const char *key)
{
    if (atomic_load(&waiter_count) == 0)
        return;
    pthread_mutex_lock(&lock);
    for (struct waiter *waiter = waiters; waiter; waiter = waiter->next) {
        if (strcmp(waiter->key, key) == 0) {
            const uint64_t one = 1;
            /* Fails only when the counter is full or the fd is none: the waiter is awake, or gone.
             */
            ssize_t ignored = write(waiter->event_fd, &one, sizeof(one));
            (void)ignored;
        }
    }
    pthread_mutex_unlock(&lock);
}
