/* The gate that every callback passes: what tests put in the way, then the database's mutex.
 *
 * Hides that there may be tests; in a program nothing stands in the way. */
#include "backend/memory/memory.h"

_Atomic(const struct ldg_mem_hooks *) ldg_mem_hooks;

ledger_rc ldg_mem_before_open(const char *name, ledger_error *err)
{
    const struct ldg_mem_hooks *hooks = ldg_mem_hooks;
    return hooks ? hooks->enter(name, "open", NULL, err) : LEDGER_OK;
}

ledger_rc ldg_mem_enter(struct ldg_memory *m, const char *callback, ledger_error *err)
{
    const struct ldg_mem_hooks *hooks = ldg_mem_hooks;
    ledger_rc rc = hooks ? hooks->enter(m->db->name, callback, m, err) : LEDGER_OK;
    if (rc == LEDGER_OK)
        pthread_mutex_lock(&m->db->mutex);
    return rc;
}

ledger_rc ldg_mem_leave(struct ldg_memory *m, ledger_rc rc, ledger_error *err)
{
    const struct ldg_mem_hooks *hooks = ldg_mem_hooks;
    pthread_mutex_unlock(&m->db->mutex);
    return rc == LEDGER_OK && hooks ? hooks->leave(m, err) : rc;
}

/* Rows between two looks: some microseconds. */
#define LOOK_ROWS 256

ledger_rc ldg_mem_look_up(const struct ldg_memory *m, size_t i, ledger_error *err)
{
    return i % LOOK_ROWS == 0 && ldg_wait_interrupted(m->wait)
               ? ldg_fail_native(err, LEDGER_ERR_CANCELLED, "memory", 0, "interrupted")
               : LEDGER_OK;
}

void ldg_mem_hold(struct ldg_memory *m)
{
    const struct ldg_mem_hooks *hooks = ldg_mem_hooks;
    if (hooks)
        hooks->hold(m);
}

bool ldg_mem_refuses(const struct ldg_memory *m, const struct ldg_op *op)
{
    const struct ldg_mem_hooks *hooks = ldg_mem_hooks;
    return hooks && hooks->refuses(m, op);
}
