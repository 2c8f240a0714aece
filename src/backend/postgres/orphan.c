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

struct orphan {
    uint64_t server; /* as pg->where names it */
    int64_t start_us;
    int64_t next_us; /* tried again then */
    int pid;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct orphan orphans[ORPHANS_MAX]; /* the oldest first */
static atomic_size_t orphan_count;

static uint64_t server_of(const struct ldg_pg *pg)
{
    return ldg_hash64(pg->where, strlen(pg->where), 0);
}

static void put(const struct orphan *orphan)
{
    pthread_mutex_lock(&mutex);
    size_t count = orphan_count;
    if (count == ORPHANS_MAX) /* of servers that nobody connects to any more */
        memmove(orphans, orphans + 1, --count * sizeof(*orphans));
    orphans[count] = *orphan;
    orphan_count = count + 1;
    pthread_mutex_unlock(&mutex);
}

static bool take(uint64_t server, struct orphan *ret_orphan)
{
    const int64_t now_us = ldg_clock_mono_us();
    bool found = false;
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
    put(&(struct orphan){
        .server = server_of(pg), .start_us = pg->backend_start_us, .pid = pg->backend_pid });
    pg->backend_pid = 0;
}

ledger_rc ldg_pg_orphans_end(struct ldg_pg *pg, ledger_error *err)
{
    static const char text[] = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                               "WHERE pid = $1 AND backend_start = $2 AND pid != pg_backend_pid() "
                               /* It has committed, and would be seen before it is safe. */
                               "AND wait_event IS DISTINCT FROM 'SyncRep'";
    struct orphan orphan;
    ledger_rc rc = LEDGER_OK;
    if (orphan_count == 0 || pg->pooled || !pg->where)
        return LEDGER_OK;
    while (rc == LEDGER_OK && pg->conn && take(server_of(pg), &orphan)) {
        struct ldg_pg_args args = { 0 };
        ledger_error why;
        ldg_pg_arg_int32(&args, orphan.pid);
        ldg_pg_arg_time(&args, orphan.start_us);
        if (ldg_pg_run_text(pg, "ending an old session", text, &args, NULL, &why) == LEDGER_OK)
            continue;
        orphan.next_us = ldg_clock_mono_us() + AGAIN_US;
        put(&orphan);
        if (why.code == LEDGER_ERR_NOMEM)
            rc = ldg_fail_nomem(err);
    }
    return rc;
}
