/* Faults by script, for tests: what a memory database does to its callers on purpose. By name of
 * the database ("NAME" of memory:NAME), which need not be open yet. Threads: any.
 *
 * Callback names are those of struct ldg_backend: "append", "apply", "log_read", "tx_commit"… */
#ifndef TESTS_SUPPORT_MEMORY_FAULTS_H
#define TESTS_SUPPORT_MEMORY_FAULTS_H

#include <stdbool.h>

#include "ledger/types.h"
#include "store/backend.h"

enum ldg_memory_fault_kind {
    LDG_MEMORY_FAIL,       /* does nothing and fails */
    LDG_MEMORY_LOSE_ACK,   /* does it, then fails: default UNKNOWN_OUTCOME */
    LDG_MEMORY_APPLY_HALF, /* apply: commits half of the ops, not the cursor, then PARTIAL */
    LDG_MEMORY_HOLD, /* apply: stops before its commit, rows and cursor locked, until released */
};

struct ldg_memory_fault {
    const char *callback; /* NULL: any */
    enum ldg_memory_fault_kind kind;
    uint64_t nth;   /* which call from now on: 1 = the next; 0 counts as 1 */
    uint64_t times; /* how many calls from there; 0 counts as 1; UINT64_MAX: all */
    ledger_rc code; /* 0: CONNECT for FAIL, UNKNOWN_OUTCOME for LOSE_ACK */
    uint32_t flags; /* added to the code's own */
};
ledger_rc ldg_memory_fault_add(const char *name, const struct ldg_memory_fault *spec);

/* Called at the entry of every callback, in its thread, without any lock: it may use other handles.
 * handle: tells handles apart. NULL: none. */
typedef void (*ldg_memory_hook_fn)(void *hook_ctx, const char *callback, const void *handle);
ledger_rc ldg_memory_set_hook(const char *name, ldg_memory_hook_fn fn, void *hook_ctx);

/* The ops for which fn returns true are refused by the database (REJECTED, or parked). */
typedef bool (*ldg_memory_refuse_fn)(void *refuse_ctx, const struct ldg_op *op);
ledger_rc ldg_memory_set_refuse(const char *name, ldg_memory_refuse_fn fn, void *refuse_ctx);

/* Waits until an apply() is held; false: not within timeout_ms. */
bool ldg_memory_wait_held(const char *name, int timeout_ms);
void ldg_memory_release(const char *name); /* those that are held now */
/* How often a callback (NULL: any) was entered since the first script for this database. */
uint64_t ldg_memory_call_count(const char *name, const char *callback);
/* Removes all scripts of the database; lets go what is held. */
void ldg_memory_faults_clear(const char *name);

/* An entry as the Go bridge leaves it in a sink: source_id, no origin. *ret_id may be NULL. */
ledger_rc ldg_memory_put_legacy(const char *name, const char *table, const char *stream,
                                const char *payload, const char *source_id, int64_t *ret_id);

/* Changes the log row at a position, as a source does that was restored and went another way. */
ledger_rc ldg_memory_log_damage(const char *name, const char *log_table, int64_t position);

/* Moves the database to another cluster, rows and all: a dump that was restored elsewhere. */
ledger_rc ldg_memory_move(const char *name);

/* Makes the content of database `to` that of `from`, as it is committed now: a backup, or one that
 * is put back, identities too. Both must have an open handle, and `to` no transaction. */
ledger_rc ldg_memory_copy(const char *from, const char *to);

#endif
