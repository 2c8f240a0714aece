/* The sink library: what a batch amounts to is decided here, once for every backend that keeps
 * entries in tables. The backend looks things up and writes.
 *
 *   plan.c     the entries, keys and streams that a range is about                (pure)
 *   known.c    what the backend answers                                           (pure)
 *   resolve.c  ops + what is known of the sink → rows, changes, trims, outcomes   (pure)
 *   parking.c  which op waits behind which parked event                           (pure)
 *   relay.c    the events for the sink's own log
 *   order.c    do the ids of an origin rise here as they do there?
 *   apply.c    the way of a batch: optimistic, informed, halved; the end of a retry
 *
 * What looks at the sink, or writes to it, runs in the backend's transaction, behind its fence and
 * before its cursor; only add() may come before the fence (ldg_sink_may_add_first()). The library
 * opens no connection and knows no SQL.
 *
 * A batch is tried in up to three ways:
 *   optimistic  Nothing is asked. Because the cursor moves with the data a replay is the exception:
 *               appends are taken for new, and a change is conditional: whoever writes it says
 *               whether its row was there and older.
 *   informed    The sink is asked once for all that the ops name, and resolve() knows each outcome
 *               before anything is written.
 *   halved      The database refuses something of an informed batch: the range is undone and
 *               halved until the culprit stands alone, and that op is parked. Where the backend
 *               knows the culprit it is tried alone at once, and what comes behind it in pieces,
 *               the smaller the closer refusals lie together. */
#ifndef LDG_SINK_SINK_H
#define LDG_SINK_SINK_H

#include "store/backend.h"

#define LDG_SINK_NONE UINT32_MAX

/* --- what a batch amounts to ----------------------------------------------------------------- */

/* Positions, in the log of an entry's origin, of the changes of one kind; 0: there are none. */
struct ldg_sink_span {
    int64_t first, last;
};

/* The last change that another log than the entry's own has made of it. */
struct ldg_sink_mark {
    struct ldg_sink_mark *next; /* of the same item */
    int origin;                 /* of the mutation */
    enum ldg_op_kind kind;
    int64_t position;
    bool is_new; /* to be written: the row of <table>_foreign, for the item's id */
};

/* An entry that the batch is about. */
struct ldg_sink_item {
    int origin;
    ledger_id key; /* its id at the origin; origin 0: its id here */
    const char *stream;
    enum {
        LDG_SINK_UNKNOWN, /* optimistic: if it is here, it was before the batch */
        LDG_SINK_ABSENT,
        LDG_SINK_STORED, /* was here before the batch */
        LDG_SINK_ADDED,  /* the batch adds it */
    } state;
    int64_t id; /* here; 0: none, or not known */
    /* ADDED: the row is op's entry. Else the first append that names it, to be compared with. */
    const struct ldg_op *append;
    uint32_t append_index;
    bool without_source_id; /* set by who looks up: Go's unique index has another row with it */
    /* STORED */
    const char *differs;               /* field in which it is not what `append` says; NULL: none */
    int64_t tags_pos, annotations_pos; /* positions of its last changes by its own log */
    bool unmergeable;                  /* its annotations are no JSON object of strings */
    /* What the ops make of it; the rest counts only when `changed`. */
    bool changed;
    const struct ldg_op *tags; /* the last SET_TAGS; NULL: none */
    bool annotated;
    ledger_map annotations; /* sorted; of a row that was here before a NULL value deletes */
    struct ldg_sink_span tags_at, annotations_at; /* by its own log */
    int64_t time_us; /* updated_at; LEDGER_NO_TIME: it stays as it is */
    struct ldg_sink_mark *marks;
    /* resolve.c's */
    const char *dedup_key; /* that it holds while it is here; NULL or "": none */
    uint32_t last_change;  /* of the ops that change it; plan->before[] has the others */
    uint32_t next;         /* of its stream and origin */
    bool unseen; /* optimistic: added and trimmed in one batch; nothing of it is written */
    struct ldg_sink_parked *parked;
};

/* A parked event, as far as others may wait behind it. */
struct ldg_sink_parked {
    int64_t id;
    const char *source_uuid;
    int64_t log_position;
    int origin;
    ledger_id key; /* 0: its entry is not known */
    const char *stream, *type_name;
    bool gone; /* parking.c's: done, or trimmed, by an op of the batch */
    struct ldg_sink_parked *next, *next_of_item;
};

/* An op to be parked, in order of the log. */
struct ldg_sink_park {
    uint32_t index; /* of the op */
    const char *reason;
    bool refused; /* by the database */
};

/* The ops of a range, as something to write. In this order: changes, trims, rows; so an entry that
 * is added behind a trim stays, and its key is free. */
struct ldg_sink_plan {
    bool informed;
    bool only_adds; /* every op is an append of another store's entry; then there are no items */
    struct ldg_sink_item *items; /* in order of first mention */
    uint32_t item_count;
    uint32_t add_count, change_count, trim_count, unseen_count, mark_count;
    struct ldg_sink_park *parks;
    uint32_t park_count;
    const int64_t *unparked; /* parked rows whose event was done after all: to be deleted */
    size_t unparked_count;
    /* resolve.c's */
    struct ldg_sink_group *groups;
    uint32_t group_count;
    uint32_t *item_slots, *group_slots, *key_slots; /* open hashes: index + 1 */
    size_t mask;
    uint32_t *before;               /* per op: the one before it on its item, or the trim before */
    struct ldg_sink_parked *parked; /* all that are known */
    int64_t last_parked_id;
    bool has_trims, key_again;
};

/* --- one batch under way --------------------------------------------------------------------- */

/* What is known of an origin, so that a trim need not look at the whole stream. */
struct ldg_sink_order {
    int origin;
    bool ordered;    /* in each stream ids here rise with the ids there */
    bool disorder;   /* to be noted */
    int64_t highest; /* id there of any entry here, but for those of this batch */
    /* of the batch's appends */
    int64_t lowest_new, highest_new;
    size_t new_count;
    bool gaps; /* others may lie between them, or they themselves be here */
};

struct ldg_sink_batch {
    /* By the backend; the arena's contents last as long as the batch. */
    const struct ldg_sink *sink;
    void *ctx;
    struct ldg_arena *arena;
    const struct ldg_op *ops;
    size_t count;
    uint8_t *outcomes; /* per op */
    int64_t *ids;      /* per op: id here of the entry added or changed; of a trim the highest that
                          it deleted; 0: none */
    const int64_t *reserved; /* per op: the id for the entry of an append; 0, or NULL: none yet */
    int64_t lowest_reserved; /* INT64_MAX: none, or nobody adds entries behind the fence but us */
    bool can_park;           /* false: a parked event is tried again, and nothing is parked */
    bool park_rejected;      /* what the database refuses is parked; else REJECTED */
    int64_t parked_id;       /* the row that is tried again; else INT64_MAX */
    bool parked_any;         /* some event is parked */
    bool marks_any;          /* <table>_foreign has rows */
    bool beside; /* others may add entries of these origins meanwhile: no order is sure */
    bool has_log;
    size_t event_max; /* bytes of an event */
    int64_t now_us;
    const struct ldg_refusals *refusals; /* as they were before the batch */
    struct ldg_refusals *brake;          /* a copy, of this try; NULL: there is no brake */
    /* The range in hand: callbacks look at these ops, and at the plan. */
    size_t first, end;
    struct ldg_sink_plan *plan;
    size_t culprit; /* index of the op that was refused; SIZE_MAX: not known */
    /* By the backend: the op that the optimistic try was refused for, where it was not for a key
     * that is taken; SIZE_MAX: none. */
    size_t suspect;
    /* apply.c's */
    struct ldg_sink_order *orders; /* one for each origin that the batch adds to or trims */
    size_t order_count;
    struct ldg_sink_reason {
        bool is_set;
        ledger_error why;
        uint64_t reason;
    } * park_reason; /* per op that is parked without being tried; NULL: none is */
    /* For the backend: the batch has failed, BUSY, because one of its entries came by another way
     * with an id behind the one that is reserved for it. Whoever undoes it and draws ids anew, when
     * no later batch has drawn any, sets it back. */
    bool overtaken;
    size_t width; /* of a range at most; 0: no limit */
    bool rechecked;
    bool log_alone; /* which event was refused is not known: a statement for each */
};

/* What the library asks of a backend. Each is called in the backend's transaction, about the range
 * in hand. REJECTED: the database refuses a row of it, or what was taken for granted is not so; a
 * backend that knows which op it was sets b->culprit. Whatever would meet every event has a code of
 * its own (see apply() in store/backend.h). */
struct ldg_sink {
    /* As parked_near() of store/backend.h, which may well be the same. Called only when parked_any.
     */
    ledger_rc (*find_parked)(void *ctx, const struct ldg_op *ops, size_t count,
                             struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                             size_t *ret_count, ledger_error *err);
    /* All at once: the rows of the plan's items (by origin and key; of origin 0 by id), the rows
     * that have the dedup key of an append in its stream: each to ldg_sink_found_entry(); then,
     * when marks_any, the marks of the items that are changed by other logs: to
     * ldg_sink_found_mark(). */
    ledger_rc (*look_up)(void *ctx, struct ldg_sink_batch *b, ledger_error *err);
    /* Parked rows that are done or trimmed (plan->unparked) are deleted; before all changes, so
     * that a trim that comes behind finds none of them. */
    ledger_rc (*unpark)(void *ctx, struct ldg_sink_batch *b, ledger_error *err);
    /* Changes and trims; each answered by ldg_sink_changed() and ldg_sink_trimmed(). First of all:
     * is the key, or the dedup key, of an `unseen` item here? REJECTED. */
    ledger_rc (*change)(void *ctx, struct ldg_sink_batch *b, ledger_error *err);
    /* The rows that are added. Where ids are not reserved: ldg_sink_added() for each. */
    ledger_rc (*add)(void *ctx, struct ldg_sink_batch *b, ledger_error *err);
    /* Marks that are new. */
    ledger_rc (*note)(void *ctx, struct ldg_sink_batch *b, ledger_error *err);
    /* *ret_new: it was not parked before. */
    ledger_rc (*park)(void *ctx, const struct ldg_op *op, const char *reason, bool *ret_new,
                      ledger_error *err);
    /* A savepoint, one inside the other. undo: back to it, and it is gone; *ret_lost: the database
     * has ended the whole transaction, and the batch begins again. */
    ledger_rc (*save)(void *ctx, ledger_error *err);
    ledger_rc (*release)(void *ctx, ledger_error *err);
    ledger_rc (*undo)(void *ctx, bool *ret_lost, ledger_error *err);
    /* Before anything is parked: is it the event, or are the tables no longer what they were?
     * Errors: SCHEMA, PERMISSION. */
    ledger_rc (*recheck)(void *ctx, ledger_error *err);
    /* What a refusal has in common with others (ldg_refusal_reason()). */
    uint64_t (*reason)(void *ctx, const ledger_error *err);
    /* The own log; NULL without one. origin: 0 is the sink itself. log_begin() … log_event() …
     * log_end(), nothing else between. */
    ledger_rc (*origin)(void *ctx, int number, struct ldg_identity *ret_identity,
                        ledger_error *err);
    ledger_rc (*log_begin)(void *ctx, ledger_error *err);
    ledger_rc (*log_event)(void *ctx, ledger_bytes event, ledger_error *err);
    ledger_rc (*log_end)(void *ctx, ledger_error *err);
    /* Fills in `ordered` and `highest`; a batch that asked before the fence may have them. */
    ledger_rc (*order_load)(void *ctx, struct ldg_sink_batch *b, struct ldg_sink_order *order,
                            ledger_error *err);
    /* Has one of these streams an entry of the origin with a higher id there than that of the
     * append, other than the plan's own rows, which may be in already when it is optimistic (then
     * their ids are reserved)? ops: appends with keys below order->highest. */
    ledger_rc (*order_late)(void *ctx, struct ldg_sink_batch *b, const struct ldg_sink_order *order,
                            const uint32_t *ops, size_t count, bool *ret_late, ledger_error *err);
    ledger_rc (*order_note)(void *ctx, int origin, ledger_error *err);
};

/* --- apply.c: for the backend's frame -------------------------------------------------------- */

/* May the batch go without being asked about? Looks at the ops alone. */
bool ldg_sink_is_plain(const struct ldg_op *ops, size_t count);
/* First of all: which origins does the batch add to or trim? */
ledger_rc ldg_sink_begin(struct ldg_sink_batch *b, ledger_error *err);
/* Optimistic, behind the fence, unless the backend has asked along with it (order_load() tells
 * how): what is known of those origins. Without it each counts as out of order. */
ledger_rc ldg_sink_orders_load(struct ldg_sink_batch *b, ledger_error *err);
/* Optimistic: the plan for all ops; nothing is looked up. REJECTED, here and below, is no verdict:
 * undo, and ldg_sink_apply(). */
ledger_rc ldg_sink_plan(struct ldg_sink_batch *b, ledger_error *err);
/* Behind the fence: may one of the ops have to wait behind a parked event? Then not this way. */
ledger_rc ldg_sink_may_wait(struct ldg_sink_batch *b, bool *ret_may, ledger_error *err);
/* Is it the same if the rows come in before the changes and trims? Then the backend may call its
 * own add() ahead, where an earlier batch is still under way. */
bool ldg_sink_may_add_first(const struct ldg_sink_batch *b);
/* Writes the plan (added: its rows are in already), and the own log. */
ledger_rc ldg_sink_write(struct ldg_sink_batch *b, bool added, ledger_error *err);
/* Informed, and halved where the database refuses. *ret_again: the try has to begin once more, in a
 * transaction of its own: something is parked from the start then. Errors: REJECTED with
 * err->done_count, POSITION_REUSED, REFUSED_ALL, and whatever callbacks give. */
ledger_rc ldg_sink_apply(struct ldg_sink_batch *b, bool *ret_again, ledger_error *err);

/* The end of parked_retry(): rc, and err, are what the try has come to, which is undone if it
 * failed. An event that was refused once more is noted, by the backend's parked_note(), and that is
 * no failure. */
ledger_rc ldg_sink_retried(ledger_rc rc, void *ctx, int64_t id,
                           ledger_rc (*parked_note)(void *ctx, int64_t id, const char *reason,
                                                    ledger_error *err),
                           bool *ret_applied, ledger_error *err);

/* --- answers, in callbacks ------------------------------------------------------------------- */

/* A row of the sink. stored NULL: no append names it. Where the plan has an item of it already it
 * is the same. */
struct ldg_sink_found {
    int origin;
    ledger_id key; /* at its origin; origin 0: its id */
    int64_t id;
    const char *stream, *dedup_key;    /* need not outlive the call */
    int64_t tags_pos, annotations_pos; /* 0: none */
    bool unmergeable;
    const struct ldg_stored *stored;
    const char *differs; /* a field of the row that cannot be read, so that it differs from any
                            append; NULL: none */
};
ledger_rc ldg_sink_found_entry(struct ldg_sink_batch *b, const struct ldg_sink_found *found,
                               ledger_error *err);
/* id: the one that the entry had here when the mark was written. */
ledger_rc ldg_sink_found_mark(struct ldg_sink_batch *b, int origin, ledger_id key, int64_t id,
                              const struct ldg_sink_mark *mark, ledger_error *err);
/* The change of an item was written (`changed`), or not: then what is there. id 0: no row. Of an
 * informed plan a row that is there, is older and was not changed is for the backend to refuse. */
ledger_rc ldg_sink_changed(struct ldg_sink_batch *b, const struct ldg_sink_item *item, bool changed,
                           int64_t id, int64_t tags_pos, int64_t annotations_pos,
                           ledger_error *err);
/* A trim has deleted rows up to this id (0: none), and perhaps parked ones. */
void ldg_sink_trimmed(struct ldg_sink_batch *b, size_t index, int64_t highest, bool unparked);
/* The entry of op `index` has this id; item NULL: of a plan that only adds. */
void ldg_sink_added(struct ldg_sink_batch *b, struct ldg_sink_item *item, size_t index, int64_t id);

/* --- what the plan says, for callbacks ------------------------------------------------------- */

/* The item has a row to change? */
static inline bool ldg_sink_changes(const struct ldg_sink_item *item)
{
    return item->changed && (item->state == LDG_SINK_STORED || item->state == LDG_SINK_UNKNOWN);
}
/* The appends that are written, in order of the log. *at: 0 at first. *ret_item NULL: as the op
 * is. False: there are no more. */
bool ldg_sink_next_add(const struct ldg_sink_batch *b, size_t *at, struct ldg_sink_item **ret_item,
                       size_t *ret_index);
/* Op i is a trim that is to be done: not our own that came back, and not one that is parked? */
static inline bool ldg_sink_trims(const struct ldg_sink_batch *b, size_t i)
{
    return b->ops[i].kind == LDG_OP_TRIM && !ldg_op_was_made_here(&b->ops[i]) &&
           b->outcomes[i] != LDG_OUTCOME_PARKED;
}
/* Optimistic: does the batch add an entry with this dedup key to the stream of the trim, before it?
 * If the trim deletes a row that has the key, the entry would not have come in: REJECTED. */
bool ldg_sink_adds_key_before(const struct ldg_sink_batch *b, size_t index, const char *key);
/* Positions compare only within one log. Those of changes by the entry's own log are kept with the
 * entry, those of others in marks; between two logs the one that comes last wins. */
static inline bool ldg_sink_is_guarded(const struct ldg_op *op)
{
    return op->origin != 0 && op->mutation_origin == op->origin;
}
/* A change by another log than the entry's own, for which a mark may stand? What was made here has
 * none. */
static inline bool ldg_sink_is_foreign(const struct ldg_op *op)
{
    return ldg_op_is_change(op) && op->mutation_origin != 0 && !ldg_sink_is_guarded(op);
}
/* May a trim of this origin end at the first entry that stays? */
bool ldg_sink_is_ordered(const struct ldg_sink_batch *b, int origin);
static inline int64_t ldg_sink_time(const struct ldg_sink_batch *b, const struct ldg_op *op)
{
    return op->time_us != LEDGER_NO_TIME ? op->time_us : b->now_us;
}

/* --- between the files ----------------------------------------------------------------------- */

/* known.c: the items of a range that is asked about. */
void ldg_sink_collect(struct ldg_sink_batch *b);
/* resolve.c: the plan, and outcomes. Errors: REJECTED where an optimistic plan cannot tell, or a
 * retry has to wait; POSITION_REUSED. */
ledger_rc ldg_sink_resolve(struct ldg_sink_batch *b, ledger_error *err);

/* parking.c. Asks for the parked events that may concern the range. */
ledger_rc ldg_sink_find_parked(struct ldg_sink_batch *b, ledger_error *err);
/* Log position of the event behind which op has to wait; 0: none. holder: the entry that
 * has op's dedup key, for LDG_WAIT_KEY. */
int64_t ldg_sink_parked_before(const struct ldg_sink_batch *b, const struct ldg_op *op,
                               enum ldg_wait wait, const struct ldg_sink_item *item,
                               const struct ldg_sink_item *holder);
/* Op is to be parked. */
ledger_rc ldg_sink_park(struct ldg_sink_batch *b, size_t index, const char *reason, bool refused,
                        ledger_error *err);
/* Op was done: its own row goes. */
void ldg_sink_park_done(struct ldg_sink_batch *b, const struct ldg_op *op);
/* What is parked below a trim goes, but for survivors. True: some of it was known. */
bool ldg_sink_park_trim(struct ldg_sink_batch *b, const struct ldg_op *op);
/* plan->unparked */
ledger_rc ldg_sink_park_end(struct ldg_sink_batch *b, ledger_error *err);

/* order.c */
ledger_rc ldg_sink_orders_collect(struct ldg_sink_batch *b, ledger_error *err);
/* Before the rows of the plan come in: which origins are no longer in order with them? */
ledger_rc ldg_sink_orders_check(struct ldg_sink_batch *b, ledger_error *err);
ledger_rc ldg_sink_orders_note(struct ldg_sink_batch *b, ledger_error *err);
/* An entry that came by another way, with an id behind those that are reserved: what is added after
 * it may get a lower one. */
void ldg_sink_orders_seen(struct ldg_sink_batch *b, int origin, int64_t id);

/* relay.c: one event comes, one goes out, for what changed something here. On failure
 * err->done_count is the index of the op whose event it was, or SIZE_MAX. */
ledger_rc ldg_sink_relay(struct ldg_sink_batch *b, ledger_error *err);

#endif
