/* Inside view of a store handle, for the bridge: typed wrappers around the roles. Like the public
 * calls they check and translate; a missing optional callback becomes UNSUPPORTED here. */
#ifndef LDG_STORE_INTERN_H
#define LDG_STORE_INTERN_H

#include "store/backend.h"

/* What a handle can do as its backend's roles and its own flags say, beside the bits of backend.h.
 */
enum {
    LDG_CAP_MUTATION_LOG = 1 << 16, /* can be a source */
    LDG_CAP_TX_CURSOR = 1 << 17,    /* a sink whose apply() moves the cursor */
    LDG_CAP_ORIGINS = 1 << 18, /* numbers origins and finds their entries: replays are no-ops */
    LDG_CAP_TAGS = 1 << 19,
    LDG_CAP_ANNOTATIONS = 1 << 20,
    LDG_CAP_TRIM = 1 << 21,
    LDG_CAP_TRANSACTIONS = 1 << 22,
    LDG_CAP_PARK = 1 << 23,   /* a sink that keeps events aside */
    LDG_CAP_VERIFY = 1 << 24, /* what it holds can be compared */
};
uint64_t ldg_store_caps(const ledger_store *store);
/* The kinds of op that a bridge may give it, as bits 1 << LDG_OP_…; 0: it is no sink. */
uint32_t ldg_store_takes(const ledger_store *store);
/* Opens in a role; backend NULL: the one that the URL, or the connection, names. */
ledger_rc ldg_store_open_as(const struct ldg_backend *backend, const ledger_store_options *options,
                            enum ldg_role role, ledger_store **ret_store, ledger_error *err);
/* Is it the name of a table that belongs to the store and does not hold its entries: its mutation
 * log, or one of those beside it? */
bool ldg_store_has_table(const ledger_store *store, const char *table);
/* Another handle with the same options, of the same backend, in a role; never creates. use (may be
 * NULL) is put behind the store's label: "ledgerctl" becomes "ledgerctl/orders". */
ledger_rc ldg_store_reopen(const ledger_store *store, enum ldg_role role, const char *use,
                           ledger_store **ret_store, ledger_error *err);
/* The same for somebody else's waits; wait NULL: the store's own. */
ledger_rc ldg_store_reopen_for(const ledger_store *store, enum ldg_role role, const char *use,
                               const ledger_wait *wait, ledger_store **ret_store,
                               ledger_error *err);
/* What stored times are cut to; at least 1. */
int64_t ldg_store_time_precision_us(const ledger_store *store);

/* Are the ids of its entries texts? Else numbers. */
bool ldg_store_has_text_ids(const ledger_store *store);
/* Can one of its entries have the id: is it of that kind? */
bool ldg_store_may_have(const ledger_store *store, ledger_id id);

/* One wrapper per callback below; names, contracts and errors as in backend.h. err may be NULL. */
ledger_rc ldg_store_identity(ledger_store *store, struct ldg_identity *ret_identity,
                             ledger_error *err);
ledger_rc ldg_store_log_read(ledger_store *store, const char *state,
                             const struct ldg_log_limits *limits, struct ldg_log_batch *batch,
                             ledger_error *err);
ledger_rc ldg_store_log_cursor_at(ledger_store *store, int64_t position,
                                  char state[LDG_CURSOR_STATE_MAX], ledger_error *err);
ledger_rc ldg_store_log_check(ledger_store *store, const char *state, int64_t *ret_position,
                              ledger_error *err);
ledger_rc ldg_store_log_stat(ledger_store *store, const char *state, struct ldg_log_stat *ret_stat,
                             ledger_error *err);
ledger_rc ldg_store_log_wait(ledger_store *store, int wake_fd, int64_t timeout_ms,
                             ledger_error *err);
/* A backend without the callback needs none: *ret_needed false. */
ledger_rc ldg_store_log_acknowledge(ledger_store *store, const char *state, bool *ret_needed,
                                    char ret_state[LDG_CURSOR_STATE_MAX], ledger_error *err);
/* count 0: NULL. */
ledger_rc ldg_store_entries_by_id(ledger_store *store, const ledger_id *ids, size_t count,
                                  struct ldg_arena *arena, ledger_entry **ret_entries,
                                  ledger_error *err);
ledger_rc ldg_store_origin_get(ledger_store *store, const struct ldg_identity *identity,
                               const char *name, int *ret_origin, ledger_error *err);
ledger_rc ldg_store_origin_list(ledger_store *store, struct ldg_arena *arena,
                                struct ldg_identity **ret_items, int **ret_numbers,
                                size_t *ret_count, ledger_error *err);
ledger_rc ldg_store_origin_adopt(ledger_store *store, int origin, const struct ldg_claim *claims,
                                 size_t count, uint64_t *ret_adopted, ledger_error *err);
ledger_rc ldg_store_origin_last(ledger_store *store, int origin, struct ldg_arena *arena,
                                ledger_id *ret_id, ledger_error *err);
/* A backend without the callback has no such tables: 0. */
ledger_rc ldg_store_origin_carry_ids(ledger_store *store, int *ret_origin, ledger_error *err);
/* A backend without the callbacks has nothing to note, or to forget. */
ledger_rc ldg_store_origin_skips(ledger_store *store, int origin, ledger_error *err);
ledger_rc ldg_store_origin_unguard(ledger_store *store, ledger_error *err);
ledger_rc ldg_store_origin_rewind(ledger_store *store, int origin, int64_t position,
                                  ledger_error *err);
/* A backend without the callback has none: false. */
ledger_rc ldg_store_origin_unclaimed(ledger_store *store, bool *ret_any, ledger_error *err);
ledger_rc ldg_store_apply(ledger_store *store, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                          ledger_error *err);
ledger_rc ldg_store_cursor_get(ledger_store *store, const char *name, bool create,
                               struct ldg_cursor *ret_cursor, ledger_error *err);
ledger_rc ldg_store_cursor_set(ledger_store *store, const char *name,
                               const struct ldg_cursor *expected, const struct ldg_cursor *next,
                               ledger_error *err);
ledger_rc ldg_store_cursor_list(ledger_store *store, ledger_names *ret_names, ledger_error *err);
ledger_rc ldg_store_parked_list(ledger_store *store, int64_t after, size_t limit,
                                struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                                size_t *ret_count, ledger_error *err);
/* count 0: none. */
ledger_rc ldg_store_parked_near(ledger_store *store, const struct ldg_op *ops, size_t count,
                                struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                                size_t *ret_count, ledger_error *err);
ledger_rc ldg_store_parked_count(ledger_store *store, const char *source_uuid, uint64_t *ret_count,
                                 ledger_error *err);
ledger_rc ldg_store_parked_retry(ledger_store *store, int64_t id, const struct ldg_op *ops,
                                 size_t count, bool *ret_applied, ledger_error *err);
ledger_rc ldg_store_parked_note(ledger_store *store, int64_t id, const char *reason,
                                ledger_error *err);
ledger_rc ldg_store_parked_drop(ledger_store *store, int64_t id, uint64_t *ret_dropped,
                                ledger_error *err);
ledger_rc ldg_store_history(ledger_store *store, int origin, ledger_id after, size_t limit,
                            size_t max_bytes, struct ldg_arena *arena,
                            struct ldg_history_row **ret_rows, size_t *ret_count,
                            ledger_error *err);
ledger_rc ldg_store_history_of(ledger_store *store, int origin, const ledger_id *keys, size_t count,
                               size_t max_bytes, struct ldg_arena *arena,
                               struct ldg_history_row **ret_rows, size_t *ret_count,
                               ledger_error *err);
ledger_rc ldg_store_snapshot_begin(ledger_store *store, ledger_error *err);
void ldg_store_snapshot_end(ledger_store *store);
/* A backend without the callback has none: count 0. */
ledger_rc ldg_store_trim_survivors(ledger_store *store, int origin, const char *stream,
                                   ledger_id before, struct ldg_arena *arena, ledger_id **ret_ids,
                                   size_t *ret_count, ledger_error *err);
uint64_t ldg_store_durable_count(ledger_store *store, uint64_t applied_count);
void ldg_store_hint_backlog(ledger_store *store, bool backlog);

/* Wake-ups inside one process: a successful write signals every eventfd registered for the
 * database. Threads: any. */
ledger_rc ldg_store_wake_add(ledger_store *store, int event_fd, ledger_error *err);
void ldg_store_wake_remove(ledger_store *store, int event_fd);

#endif
