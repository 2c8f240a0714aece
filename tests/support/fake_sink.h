/* A sink's tables in memory, behind the callbacks of src/sink/: what a backend with transactions
 * does, without a database. It refuses what breaks a key, and what a test wants refused; it checks
 * that trims which end early delete the same as those that look at all rows. */
#ifndef TEST_SUPPORT_FAKE_SINK_H
#define TEST_SUPPORT_FAKE_SINK_H

#include "sink/sink.h"

#define FAKE_ROWS_MAX 1024
#define FAKE_MARKS_MAX 2048
#define FAKE_PARKED_MAX 1024
#define FAKE_EVENTS_MAX 8192
#define FAKE_ORIGINS_MAX 8
#define FAKE_SAVES_MAX 8

/* Texts of rows live in the fake's arena, or as long as the ops. */
struct fake_row {
    int64_t id;
    int origin;
    ledger_id key;
    const char *stream;
    const ledger_append_entry *entry;
    int64_t created_at_us, updated_at_us;
    ledger_list tags;
    ledger_map annotations;
    int64_t tags_pos, annotations_pos;
    bool unmergeable;
};

struct fake_mark {
    int64_t id, position;
    int origin;
    enum ldg_op_kind kind;
};

struct fake_parked {
    struct ldg_sink_parked row;
    const char *reason;
    uint64_t attempts;
};

/* What a transaction changes, and an undo puts back. */
struct fake_state {
    struct fake_row rows[FAKE_ROWS_MAX];
    struct fake_mark marks[FAKE_MARKS_MAX];
    struct fake_parked parked[FAKE_PARKED_MAX];
    ledger_bytes events[FAKE_EVENTS_MAX];
    size_t row_count, mark_count, parked_count, event_count;
    bool disordered[FAKE_ORIGINS_MAX];
};

struct fake {
    struct fake_state *now, *begun, *saves[FAKE_SAVES_MAX];
    size_t save_count;
    int64_t last_id, last_parked_id; /* sequences: no undo takes them back */
    struct ldg_arena arena;
    struct ldg_arena batch_arena;
    struct ldg_identity identities[FAKE_ORIGINS_MAX];
    /* how it behaves */
    bool reserves;  /* ids are drawn before the batch */
    bool tells;     /* a refusal names its op */
    bool shows_all; /* find_parked() gives rows that do not concern the range, too */
    bool loses;     /* undo ends the transaction */
    bool cannot_park, lets_reject;
    bool beside, no_log;
    size_t event_max; /* 0: no limit of the batch's */
    bool (*refuses)(void *refuses_ctx, const struct ldg_op *op);
    void *refuses_ctx;
    bool (*refuses_event)(ledger_bytes event);
    bool log_at_once; /* which event is refused is not known, unless each is written alone */
    bool refuses_end; /* of the log, whatever is in it */
    bool is_beaten;   /* another transaction is in the way of each change */
    ledger_rc fail_recheck;
    const char *fail_callback;              /* fails with NOMEM: "look_up", … */
    const struct ldg_sink_mark *stray_mark; /* look_up() gives it for rows that it is not of */
    struct ldg_refusals *brake;
    /* what it has seen */
    size_t tries, ranges, looked_up, rechecks, restarts, order_looks, ended_early, ahead;
    bool was_optimistic;
    struct ldg_sink_batch *batch; /* under way */
    size_t events_refused;
};

enum fake_way { FAKE_OPTIMISTIC, FAKE_OVERLAP, FAKE_INFORMED };

struct fake *fake_new(void);
void fake_free(struct fake *f);
/* One transaction, as a backend's apply() does it. */
ledger_rc fake_apply(struct fake *f, enum fake_way way, const struct ldg_op *ops, size_t count,
                     uint8_t *outcomes, ledger_error *err);
/* As parked_retry() does it, of the row at `index`. */
ledger_rc fake_retry(struct fake *f, size_t index, const struct ldg_op *ops, size_t count,
                     bool *ret_applied, ledger_error *err);
/* An entry of the sink's own, or one that came another way. */
struct fake_row *fake_put(struct fake *f, int origin, ledger_id key, const char *stream,
                          const ledger_append_entry *entry, int64_t created_at_us);
struct fake_row *fake_find(struct fake *f, int origin, ledger_id key);

#endif
