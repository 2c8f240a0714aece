/* What the files of a delivery share:
 *
 *   delivered.c  what the sink has and the state store does not know of yet
 *   hold.c       which ops are kept from the sink: the parked ones, and what waits behind them
 *   give.c       ops to the sink, under its own numbers of origins
 *   deliver.c    one batch
 *   redeliver.c  one parked event, tried again */
#ifndef LDG_BRIDGE_DELIVER_H
#define LDG_BRIDGE_DELIVER_H

#include "bridge/stages.h"

/* --- delivered.c ----------------------------------------------------------------------------- */

/* Before a batch that begins at `from`: finds which of its ops an earlier try has delivered, sets
 * is_done and outcomes of those, and makes room for the others. Errors: NOMEM. */
ledger_rc ldg_delivered_recall(struct ldg_delivered *delivered, const char *from,
                               const struct ldg_op *ops, size_t count, bool *is_done,
                               uint8_t *outcomes, ledger_error *err);
/* The sink has it. */
void ldg_delivered_add(struct ldg_delivered *delivered, const struct ldg_op *op, uint8_t outcome);
/* The batch leads to `next`, and is about to be committed: when the commit fails it may have taken
 * place all the same. */
void ldg_delivered_set_next(struct ldg_delivered *delivered, const char *next);
/* The batch is committed. It may be shorter than one that was tried before: what was delivered
 * behind its end is part of the next one. */
void ldg_delivered_forget(struct ldg_delivered *delivered, const struct ldg_op *ops, size_t count);

/* --- hold.c ---------------------------------------------------------------------------------- */

#define LDG_NOT_PARKED INT64_MAX

struct ldg_hold {
    struct ldg_arena *arena;
    const struct ldg_op *ops;
    size_t count;
    const bool *is_done; /* per op: the sink has it, so it waits for nothing. The caller's; NULL: it
                            has none of them */
    const char **reasons;        /* per op: why it is parked; NULL: it is not */
    int64_t own_row;             /* of the parked event that is tried again; else LDG_NOT_PARKED */
    bool own_is_there;           /* it still is on the list */
    struct ldg_hold_slot *slots; /* by entry, then in order of the log; NULL: nobody asked yet */
    struct ldg_place *places;    /* per op: among the events parked on its entry; likewise */
};
ledger_rc ldg_hold_init(struct ldg_hold *hold, const struct ldg_op *ops, size_t count,
                        const bool *is_done, int64_t own_row, struct ldg_arena *arena,
                        ledger_error *err);
/* Parks what waits behind an event that is parked in the state store, and what could not be planned
 * with what waits behind it. Others may park there, try again and drop at any time, so this is
 * asked for each batch. */
ledger_rc ldg_hold_find(struct ldg_hold *hold, ledger_store *state, ledger_error *err);
/* Parks one, and what waits behind it. */
ledger_rc ldg_hold_park(struct ldg_hold *hold, size_t index, const char *reason, ledger_error *err);

/* --- give.c ---------------------------------------------------------------------------------- */

/* Does the sink number origins itself? Then it goes by its own numbers, not by those of the state
 * store, and what is given to it are copies. */
bool ldg_give_renumbers(const struct ldg_deliverer *deliverer);
/* Puts the sink's numbers of origins in place of the state store's, if it has any. */
ledger_rc ldg_give_renumber(struct ldg_deliverer *deliverer, struct ldg_op *ops, size_t count,
                            ledger_error *err);
/* Ops whose outcome is not NONE are done and stay so, whatever is returned. */
ledger_rc ldg_give(const struct ldg_deliverer *deliverer, const struct ldg_apply *apply,
                   uint8_t *outcomes, ledger_error *err);

#endif
