/* Sessions whose client is gone, and that may not know it: silent in the middle of a COPY a server
 * keeps them, and the locks of their transaction, for hours.
 *
 * Hides which of them this process has left behind. Any handle at the same server ends them, not
 * only the one that lost its connection: that one may not be used again until the lock is free. A
 * backend is named by its number and its start, so nobody else's is ever ended. */
#include "backend/postgres/postgres.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"

#define ORPHANS_MAX 64
#define AGAIN_US INT64_C(1000000)

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct ldg_pg_orphan orphans[ORPHANS_MAX]; /* the oldest first */
static atomic_size_t orphan_count;

static uint64_t server_of(const struct ldg_pg *pg)
{
    return ldg_hash64(pg->where, strlen(pg->where), 0);
}

static void put(const struct ldg_pg_orphan *orphan)
{
    pthread_mutex_lock(&mutex);
    size_t count = orphan_count;
    if (count == ORPHANS_MAX) /* of servers that nobody connects to any more */
        memmove(orphans, orphans + 1, --count * sizeof(*orphans));
    orphans[count] = *orphan;
    orphan_count = count + 1;
    pthread_mutex_unlock(&mutex);
}

bool ldg_pg_orphan_take(const struct ldg_pg *pg, struct ldg_pg_orphan *ret_orphan)
{
    const int64_t now_us = ldg_clock_mono_us();
    bool found = false;
    if (orphan_count == 0 || !pg->where)
        return false;
    const uint64_t server = server_of(pg);
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < orphan_count && !found; i++) {
        if (orphans[i].server != server || orphans[i].next_us > now_us)
            continue;
        found = true;
        *ret_orphan = orphans[i];
        orphan_count--;
        memmove(orphans + i, orphans + i + 1, (orphan_count - i) * sizeof(*orphans));
    }
    pthread_mutex_unlock(&mutex);
    return found;
}

void ldg_pg_orphan_note(struct ldg_pg *pg)
{
    if (!pg->backend_pid || !pg->where)
        return;
    put(&(struct ldg_pg_orphan){
        .server = server_of(pg), .start_us = pg->backend_start_us, .pid = pg->backend_pid });
    pg->backend_pid = 0;
}

void ldg_pg_orphan_again(struct ldg_pg_orphan orphan)
{
    orphan.next_us = ldg_clock_mono_us() + AGAIN_US;
    put(&orphan);
}
