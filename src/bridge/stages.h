/* The stages of a bridge and what passes between them:
 *
 *   read.c    rows behind the cursor, completed where the event lacks bytes  (source only)
 *   decode.c  rows -> events                                                 (pure)
 *   plan.c    events + the user's choices -> ops, or why there are none      (pure)
 *   apply.c   ops -> sink, in one fenced transaction or by parallel workers  (only writer)
 *   deliver.c the same, into a sink that keeps no state: another store keeps it  (deliver.h)
 *   sending.c what one delivery is made of, so that it is the same when it comes again
 *   cursor.c  where the next batch begins                                    (owns positions)
 *   takeover.c  what the Go bridge left in the sink
 *
 *   fit.c     do sink and source fit the sink's cursors? at a start
 *   lag.c     how long events have waited                                    (pure)
 *   own.c     a program's own sink, as a backend
 *   state.c   where the state of a bridge is kept when its sink keeps none
 *   pipe.c    one poll: once through them, and its accounting
 *   bridge.c  a bridge's life: the loop over polls, and retries
 *
 * One ldg_pipe is one set of handles with these stages; a bridge has one for its thread and one for
 * poll(). A pipe belongs to one thread; its reader thread borrows the source handle between
 * ldg_read_ahead() and ldg_read_settle() or ldg_read_next(). */
#ifndef LDG_BRIDGE_STAGES_H
#define LDG_BRIDGE_STAGES_H

#include <pthread.h>
#include <stdatomic.h>

#include "ledger/bridge.h"

#include "base/error.h"
#include "base/mem.h"
#include "event/event.h"
#include "store/intern.h"

/* --- what passes between the stages --------------------------------------------------------- */

enum ldg_fate {
    LDG_FATE_OPS = 0,     /* it has ops; their outcomes decide */
    LDG_FATE_SKIP_OPTION, /* its type is in skip_types */
    LDG_FATE_SKIP_ORIGIN, /* it came from the sink */
};

/* One decoded row. */
struct ldg_batch_event {
    ledger_mutation_event event;
    const char *bad;            /* why it cannot be decoded or planned; NULL: it can */
    const ledger_id *survivors; /* trim: entries that the source still has */
    size_t survivor_count;
    bool is_completed; /* append: from rows of the source */
    uint8_t fate;      /* enum ldg_fate, from plan */
};

struct ldg_batch {
    struct ldg_log_batch log;       /* rows; its arena holds the events, too */
    struct ldg_batch_event *events; /* log.count of them */
    struct ldg_op *ops;
    size_t op_count;
    uint8_t *outcomes;     /* one per op */
    struct ldg_arena plan; /* ops and outcomes */
    bool has_origins;      /* some event names an origin */
    bool has_bad;
};

/* Small numbers of the origins that events name, as the sink knows them; with a state store as that
 * one does. */
struct ldg_origin_item {
    struct ldg_identity identity;
    int number;
};
struct ldg_origin_cache {
    struct ldg_origin_item *items;
    size_t count, cap;
    int source; /* of the store whose log is read */
    struct ldg_identity source_identity, sink_identity;
    bool source_has_texts; /* ids of its entries are texts; else numbers */
    bool sink_takes_texts; /* it knows entries by ids that are texts, too */
};

/* What plan() needs to know; no I/O behind it. */
struct ldg_plan_rules {
    uint32_t skip_types;
    const struct ldg_origin_cache *origins;
};

/* --- the parts of a pipe --------------------------------------------------------------------- */

/* cursor.c */
#define LDG_CURSOR_NAME_MAX 256
struct ldg_cursor_keeper {
    ledger_store *store; /* the sink; for a sink that keeps no cursors the state store */
    const char *name;
    const ledger_id_codec *codec;
    bool loaded;
    struct ldg_cursor row;           /* as it stands in that store */
    char from[LDG_CURSOR_STATE_MAX]; /* where the next batch begins */
};

/* read.c */
#define LDG_READER_BATCHES 3
struct ldg_reader {
    ledger_store *source;
    struct ldg_batch batches[LDG_READER_BATCHES];
    int batch_count; /* read ahead, in hand, and, where batches overlap, under way */
    int current;     /* the one in hand */
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    enum { LDG_READER_IDLE, LDG_READER_ASKED, LDG_READER_DONE, LDG_READER_QUIT } state;
    struct ldg_log_limits limits; /* of the asked batch */
    char from[LDG_CURSOR_STATE_MAX];
    ledger_rc rc;
    ledger_error err;
};

/* apply.c: one batch on its way into the sink, and the handle it goes by */
struct ldg_inflight {
    struct ldg_applier *applier;
    ledger_store *sink;
    uint64_t applied_count; /* batches that were committed by this handle */
    uint64_t durable_count; /* of those: known to be on disk at the last look */
    struct ldg_batch *batch;
    struct ldg_apply apply;
    struct ldg_cursor expected, next;
    pthread_t thread;
    bool has_thread;
    /* under the applier's mutex */
    enum { LDG_INFLIGHT_IDLE, LDG_INFLIGHT_BEGUN, LDG_INFLIGHT_RESERVED, LDG_INFLIGHT_DONE } state;
    struct ldg_inflight *lead; /* the batch before it, while that is under way */
    ledger_rc lead_rc;         /* what became of it */
    bool after_new;            /* it, or the one before, appended what was not here */
    bool was_new;              /* so did this one */
    ledger_rc rc;
    ledger_error err;
};

/* A committed batch: by which handle, and which of its commits. */
struct ldg_ticket {
    int slot;
    uint64_t count;
};

struct ldg_applier {
    ledger_store *sink;
    struct ldg_apply_worker *workers; /* parallel streams; NULL: one after the other */
    size_t worker_count;
    struct ldg_inflight inflight[2]; /* [0] goes by `sink`; [1] has a handle once it is needed */
    int first;
    size_t count; /* under way: inflight[first] and the other one */
    /* So many batches go alone: after a collision; and one at the beginning, and after a failure,
     * so that it shows whether the sink takes anything before more is begun than is ended. */
    size_t serial_left;
    bool collided;          /* what failed last may have been in each other's way: try again */
    bool backlog;           /* as hinted */
    struct ldg_ticket last; /* the last batch that was committed */
    bool last_new;          /* nothing was here of what it appended */
    struct ldg_refusals refusals; /* of whichever batch has its turn */
    pthread_mutex_t mutex;
    pthread_cond_t cond;
};

/* delivered.c: ops that the sink has and the state store does not know of yet. */
struct ldg_delivered_op {
    int64_t log_position;
    uint32_t part;
    uint8_t outcome;
};
/* The same of a parked event, whose row is as it was then. */
struct ldg_retried_op {
    int64_t row, log_position;
    uint64_t attempts;
    uint32_t part;
};
struct ldg_delivered {
    char from[LDG_CURSOR_STATE_MAX]; /* their batch began there … */
    char next[LDG_CURSOR_STATE_MAX]; /* … and was to lead there when it was last committed */
    struct ldg_delivered_op *ops;
    size_t count, cap;
    struct ldg_retried_op *retried;
    size_t retried_count, retried_cap;
    /* Events that were delivered as a whole, ever; any thread may look. */
    atomic_ullong event_count;
};
/* sending.c: an event of the batch that begins where the cursor stands. */
struct ldg_sent {
    int64_t position;
    uint32_t number; /* of its delivery */
    uint32_t rank;   /* among all of them, as they came */
};
/* … and what the source's tables told of it when it was read, which another reading need not find:
 * of an append how much later than its log row the entry is, in us, of a trim its survivors. */
struct ldg_sent_detail {
    int64_t position;
    uint32_t part;
    size_t first, count; /* of the values */
};
struct ldg_sending {
    bool is_loaded;
    struct ldg_cursor row;  /* as it stands in the state store */
    uint64_t from_hash;     /* of the cursor */
    struct ldg_sent *items; /* by position */
    size_t count, cap;
    uint32_t last; /* the highest number */
    bool is_cut;   /* the row had no room for all of them */
    struct ldg_sent_detail *details;
    ledger_id *values;
    size_t detail_count, detail_cap, value_count, value_cap;
    bool details_are_cut; /* the row had no room for all of these */
};
/* What a sink that numbers origins itself calls one of the state store's. */
struct ldg_origin_pair {
    int number, at_sink;
};
struct ldg_deliverer {
    ledger_store *sink, *state;
    struct ldg_origin_pair *origins;
    size_t origin_count, origin_cap;
    struct ldg_delivered *delivered; /* the bridge's, and so is … */
    struct ldg_sending *sending;     /* … this */
    int64_t pause_ms; /* after a failure: the sink asks to be left alone for so long */
    struct ldg_refusals refusals;
};

/* lag.c: what a bridge has seen of its log; monotonic times, 0: never */
struct ldg_backlog {
    int64_t since_us; /* events wait, seen first then; counted anew from each progress */
    int64_t empty_us; /* the last look that found none */
};

struct ldg_pipe {
    struct ledger_bridge *bridge;
    ledger_store *source, *sink, *state_store;
    struct ldg_reader reader;
    struct ldg_applier applier;
    struct ldg_deliverer deliverer; /* with a state store */
    struct ldg_cursor_keeper cursor;
    struct ldg_origin_cache origins;
    size_t limit_once; /* next batch ends before a bad event; 0: no such limit */
    bool fitted;       /* sink and source were compared with all cursors */
    bool redo;         /* batches were dropped and are to be read again */
    struct {
        struct ldg_ticket ticket;
        char position[LEDGER_ID_TEXT_MAX];
    } pending_durable[32]; /* ring: positions not yet known to be on disk */
    size_t durable_head, durable_tail;
    bool looked;        /* for what the Go bridge left, since the pipe was opened */
    int go_origin;      /* the origin whose rows in the sink carry source_id; 0: none's do */
    bool backlog;       /* more was waiting at the last look */
    int64_t stat_at_us; /* monotonic: when the backlog was last counted */
};

/* telemetry.c */
struct ldg_telemetry {
    ledger_logger logger;
    bool metrics_enabled, traces_enabled;
    ledger_meter meter;
    ledger_tracer tracer;
    const char *tracer_name, *bridge_name;
    void *polls, *poll_duration, *applied, *skipped, *errors, *lag;
};

struct ledger_bridge {
    ledger_bridge_options options; /* strings are ours */
    char *strings[6]; /* name, cursor_file, meter_name, tracer_name, state_url, state_table */
    ledger_store *source, *sink; /* templates: every pipe opens its own from them */
    ledger_store *state_store;   /* keeps the cursors of a sink that does not; else NULL */
    struct ldg_own_sink *own;    /* the program's sink; else NULL */
    pthread_mutex_t lone_mutex;  /* with a state store polls take turns: for `delivered` and
                                    `sending`, and because a delivery cannot be taken back */
    struct ldg_delivered delivered;
    struct ldg_sending sending;
    struct ldg_telemetry telemetry;
    int wake_fd, stop_fd; /* eventfds; stop_fd stays readable once set */
    atomic_bool stopping;
    atomic_llong stop_us;    /* monotonic: when the first stop was asked for; 0: not yet */
    atomic_llong failing_us; /* since when the thread has failed; 0: it does not */
    ledger_wait waits;       /* of the thread's handles: they hear of a stop */
    ledger_wait poll_waits;  /* of poll()'s, which may be called after a stop */
    atomic_ullong wait_told; /* hash of what was last said of a wait; 0: nothing since it went well
                              */
    pthread_mutex_t poll_mutex; /* poll() calls take turns */
    struct ldg_pipe *poll_pipe;
    bool poll_was_open;    /* once at least */
    pthread_mutex_t mutex; /* everything below */
    pthread_cond_t cond;
    bool started, running, joined, is_whole;
    pthread_t thread;
    uint64_t looks, empty_looks; /* looks begun; the last of them that found nothing */
    ledger_rc end_rc;
    ledger_error end_err;
    ledger_bridge_stats stats;
    uint64_t delivered_count; /* of those in stats: delivered, and counted there when they were */
    struct ldg_backlog seen;
};

/* --- the stages ------------------------------------------------------------------------------ */

void ldg_batch_init(struct ldg_batch *batch);
void ldg_batch_fini(struct ldg_batch *batch);

void ldg_reader_init(struct ldg_reader *reader, ledger_store *source);
void ldg_reader_fini(struct ldg_reader *reader);
/* The next batch behind `from`: the one read ahead, if it began there, else read now. Its memory is
 * the reader's, and lasts until the next call; where batches overlap until the one after it. */
ledger_rc ldg_read_next(struct ldg_reader *reader, const char *from,
                        const struct ldg_log_limits *limits, struct ldg_batch **ret_batch,
                        ledger_error *err);
/* Lets the reader thread read the batch behind `from` while the present one is applied. */
void ldg_read_ahead(struct ldg_reader *reader, const char *from,
                    const struct ldg_log_limits *limits);
/* Waits until the reader thread no longer uses the source; what it read stays for
 * ldg_read_next(). */
void ldg_read_settle(struct ldg_reader *reader);
/* Waits for the reader thread and throws away what it read. */
void ldg_read_discard(struct ldg_reader *reader);
/* What events do not carry, from the source, into the arena: bytes and times of Go's appends while
 * their rows are there; what the source still has below a trim. */
ledger_rc ldg_read_complete(ledger_store *source, struct ldg_batch_event *items, size_t count,
                            struct ldg_arena *arena, ledger_error *err);

/* Fills batch->events from batch->log. What cannot be decoded gets its reason. Errors: NOMEM. */
ledger_rc ldg_decode(struct ldg_batch *batch, ledger_error *err);

/* "uuid:epoch" -> identity. */
bool ldg_identity_parse(const char *text, struct ldg_identity *ret_identity);
/* Asks the store of origins for those that events of the batch name and the cache does not have. */
ledger_rc ldg_origins_resolve(struct ldg_origin_cache *origins, ledger_store *store,
                              const ledger_mutation_event *event, ledger_error *err);
/* Who both are, and what number the sink has for the source, made with `name` on first use; a sink
 * that knows no origins: what its state store has. Errors: INVALID (they are one and the same). */
ledger_rc ldg_origins_init(struct ldg_origin_cache *origins, ledger_store *source,
                           ledger_store *sink, ledger_store *state_store, const char *name,
                           ledger_error *err);
void ldg_origins_fini(struct ldg_origin_cache *origins);

/* Fills batch->ops and ->outcomes, and each event's fate. Errors: NOMEM. */
ledger_rc ldg_plan(struct ldg_batch *batch, const struct ldg_plan_rules *rules, ledger_error *err);
/* The same for one event: sets item's fate and what is bad about it, fills ops (as many as
 * ldg_plan_op_count() says) and gives their number. Short of memory it only shortens a reason. */
size_t ldg_plan_event(struct ldg_batch_event *item, const struct ldg_log_row *row, uint32_t index,
                      const struct ldg_plan_rules *rules, struct ldg_arena *arena,
                      struct ldg_op *ops);
size_t ldg_plan_op_count(const struct ldg_batch_event *item); /* upper bound */

/* refusal_limit: of the brake; 0: there is none. */
ledger_rc ldg_applier_init(struct ldg_applier *applier, ledger_store *sink, size_t parallel,
                           uint32_t refusal_limit, ledger_error *err);
void ldg_applier_fini(struct ldg_applier *applier);
/* May the batch be under way while the next is read, planned and begun? */
bool ldg_apply_may_overlap(struct ldg_applier *applier, const struct ldg_batch *batch);
/* Begins to apply a batch that lies behind all that are under way (at most one; none unless it may
 * overlap). With `ahead` it may be left under way when the next one is begun. */
ledger_rc ldg_apply_start(struct ldg_applier *applier, const struct ldg_cursor_keeper *cursor,
                          struct ldg_batch *batch, bool park, bool ahead, ledger_error *err);
/* Ends the oldest batch under way (there is one) and moves the cursor to its end. All or nothing
 * for a serial sink with atomic batches; whatever happened, a repeated apply of the same events is
 * a no-op. After a failure nothing is under way any more: what came behind has given up. */
ledger_rc ldg_apply_finish(struct ldg_applier *applier, struct ldg_cursor_keeper *cursor,
                           struct ldg_batch **ret_batch, ledger_error *err);
/* Where the next batch begins: behind what is under way. */
const char *ldg_apply_end(const struct ldg_applier *applier,
                          const struct ldg_cursor_keeper *cursor);
/* Is a committed batch known to be on disk? */
bool ldg_apply_is_durable(struct ldg_applier *applier, struct ldg_ticket ticket);
/* Nothing may be under way. */
void ldg_apply_hint_backlog(struct ldg_applier *applier, bool backlog);

/* Carries a batch into a sink that keeps no state, and moves the cursor in the state store. One
 * caller at a time of all that share `delivered`. REJECTED, where nothing may be parked:
 * err->done_count is the op. What was delivered stays so, and is left out of the next try. */
ledger_rc ldg_deliver(struct ldg_deliverer *deliverer, struct ldg_cursor_keeper *cursor,
                      struct ldg_batch *batch, bool may_park, ledger_error *err);
/* redeliver.c: the ops of a parked event, and then it is parked no longer. What does not work out
 * (it has to wait, or is refused) is noted as another attempt. */
ledger_rc ldg_redeliver(struct ldg_deliverer *deliverer, const struct ldg_parked_row *row,
                        const struct ldg_op *ops, size_t count, struct ldg_arena *arena,
                        bool *ret_applied, ledger_error *err);
void ldg_delivered_fini(struct ldg_delivered *delivered);
void ldg_deliverer_fini(struct ldg_deliverer *deliverer);

/* Sets op->delivery of a batch that begins where the cursor stands, and has it in the state store
 * before it returns; the times of appends become those of the first try, and with `trims` their
 * survivors, which belong to this. Errors: FENCED (another bridge of this name is at work). */
ledger_rc ldg_sending_begin(struct ldg_sending *sending, ledger_store *state,
                            const struct ldg_cursor_keeper *cursor, struct ldg_op *ops,
                            size_t count, bool trims, ledger_error *err);
void ldg_sending_fini(struct ldg_sending *sending);
/* Is this the name of such a row beside a cursor? */
bool ldg_sending_is_name(const char *name);

/* Reads the cursor and finds where to begin; takes over what the Go bridge left (*ret_adopt). */
ledger_rc ldg_cursor_load(struct ldg_cursor_keeper *cursor, ledger_store *source, bool create,
                          bool *ret_adopt, ledger_error *err);
/* CURSOR_MISMATCH: the sink was made anew (LDG_CURSOR_LOST). */
ledger_rc ldg_cursor_not_lost(const char *name, const struct ldg_cursor *row, ledger_error *err);
/* For one who only looks: where the cursor stands by its state, and `from`. The readable position
 * may be in the form of a codec that is not known here; it counts where there is nothing else, as
 * the Go bridge leaves it. Errors as load. */
ledger_rc ldg_cursor_look(struct ldg_cursor_keeper *cursor, ledger_store *source,
                          int64_t *ret_position, ledger_error *err);
/* A cursor at `position`, which lies before that of `state`, or lower still: a row may lie behind
 * `state` although its position is lower (it was committed late), and must not be passed over. */
ledger_rc ldg_cursor_back(ledger_store *source, const char *state, int64_t position,
                          char ret_state[LDG_CURSOR_STATE_MAX], int64_t *ret_position,
                          ledger_error *err);
/* From the beginning of the log once more, in the row as well; the readable position stays. Errors:
 * FENCED. */
ledger_rc ldg_cursor_restart(struct ldg_cursor_keeper *cursor, ledger_store *source,
                             ledger_error *err);
/* Another cursor that looks as if the Go bridge had left it; "": there is none. */
ledger_rc ldg_cursor_of_go(const struct ldg_cursor_keeper *cursor, char name[LDG_CURSOR_NAME_MAX],
                           ledger_error *err);
/* The row that a batch leads to from the row `before`. */
ledger_rc ldg_cursor_next(const struct ldg_cursor_keeper *cursor, const struct ldg_cursor *before,
                          const struct ldg_log_batch *batch, struct ldg_cursor *ret_next,
                          ledger_error *err);
/* The row was written. */
void ldg_cursor_moved(struct ldg_cursor_keeper *cursor, const struct ldg_cursor *next);

/* own.c: the program's sink, copied. Errors: INVALID. */
ledger_rc ldg_own_create(const ledger_sink *sink, struct ldg_own_sink **ret_own, ledger_error *err);
/* *own may be NULL. close: the program's close() is called. */
void ldg_own_destroy(struct ldg_own_sink **own, bool close);
ledger_rc ldg_own_open(const struct ldg_own_sink *own, ledger_store **ret_store, ledger_error *err);
/* The bridge carries this source to it, and keeps its state there; until it is destroyed. Errors:
 * INVALID (a bridge of this process does the same with another state store, or carries the source
 * to another sink with this one). */
ledger_rc ldg_own_enter(struct ldg_own_sink *own, const char *source_uuid, const char *state_uuid,
                        ledger_error *err);
/* Is this thread in its deliver()? own may be NULL. */
bool ldg_own_is_inside(const struct ldg_own_sink *own);
/* How long the call of deliver() has taken that is under way; 0: none is. own may be NULL. */
int64_t ldg_own_inside_ms(struct ldg_own_sink *own);

/* state.c: opens the state store, if the sink needs one, and tells source, sink and state apart.
 * Errors: INVALID, UNSUPPORTED. */
ledger_rc ldg_state_open(struct ledger_bridge *bridge, ledger_error *err);

/* How long the oldest of a backlog has waited, as somebody sees it who comes by: oldest_us, when it
 * was written by its writer's clock; moved_us, when the cursor moved last. */
struct ldg_lag {
    double seconds;  /* never negative */
    bool wrong_time; /* the event's time cannot be true: counted from the cursor's last move */
    bool known;      /* false: nor does the cursor tell; seconds is 0 */
};
struct ldg_lag ldg_lag_of_pair(int64_t now_us, int64_t oldest_us, int64_t moved_us);
/* A look at the log behind the cursor; a batch that was applied, with more behind it or not. */
void ldg_backlog_look(struct ldg_backlog *seen, bool any, int64_t mono_us);
void ldg_backlog_progress(struct ldg_backlog *seen, bool more, int64_t mono_us);
/* age_us, what the event's own time says, between what the bridge has seen itself. In seconds. */
double ldg_backlog_lag(const struct ldg_backlog *seen, int64_t age_us, int64_t mono_us);

/* fit.c. CURSOR_MISMATCH: another cursor of the sink names this source's identity and does not fit
 * it, so this source or the other is a copy. */
ledger_rc ldg_fit_check_others(const struct ldg_cursor_keeper *cursor, ledger_store *source,
                               ledger_error *err);
/* Does the sink hold nothing of this source, although the cursor has passed entries that the source
 * still has? */
ledger_rc ldg_fit_is_emptied(const struct ldg_cursor_keeper *cursor, ledger_store *source,
                             ledger_store *sink, const struct ldg_origin_cache *origins,
                             bool *ret_emptied, ledger_error *err);

/* takeover.c: rows of the sink that the Go bridge left. */
struct ldg_takeover {
    size_t same;  /* in the source, or its log, as well, in the same stream with the same payload */
    size_t other; /* with the number of another entry of the source, or of none */
    size_t gone;  /* with a number that the source has no entry and no event of any more */
    uint64_t adopted;
};
/* Who takes over, and from where. */
struct ldg_taker {
    const struct ldg_cursor_keeper *cursor; /* its row was read */
    ledger_store *source, *sink;
    int origin;    /* the source's number in the sink */
    int go_origin; /* the one whose rows carry source_id for Go; 0: none is chosen */
};
/* Compares those with ids behind `after` with the source's entries, and adopts what is the same;
 * what the source has no more is taken for its own where nothing says that it may be another's. */
ledger_rc ldg_takeover_adopt(const struct ldg_taker *taker, ledger_id after,
                             struct ldg_takeover *ret, ledger_error *err);
/* Before the first run under a name. Rows without a cursor are left by a Go bridge that was killed
 * in its first batch; if it has a cursor under another name, that is the one to go on from. Errors:
 * FOREIGN_BRIDGE. */
ledger_rc ldg_takeover_first(const struct ldg_taker *taker, struct ldg_takeover *ret,
                             ledger_error *err);
/* Calls fn with entries of the source that such rows stand for, page by page, each ascending. */
struct ldg_left {
    ledger_id key;
    const ledger_entry *row;
};
typedef ledger_rc (*ldg_takeover_fn)(void *ctx, const struct ldg_left *left, size_t count,
                                     ledger_error *err);
ledger_rc ldg_takeover_each(ledger_store *source, ledger_store *sink, ldg_takeover_fn fn, void *ctx,
                            ledger_error *err);
/* When a cursor was loaded: takes over what the Go bridge left for it. `before`: the row as this
 * pipe knew it, or NULL. Errors: FOREIGN_BRIDGE, CURSOR_MISMATCH (Go has left the cursor, and rows
 * of another source alone), FENCED. */
ledger_rc ldg_takeover_run(struct ldg_pipe *pipe, const struct ldg_cursor *before, bool moved,
                           ledger_error *err);
/* After an apply() that met the Go bridge: so that the next start finds its rows claimed. */
void ldg_takeover_after(struct ldg_pipe *pipe);

ledger_rc ldg_telemetry_init(struct ldg_telemetry *t, const ledger_bridge_options *options,
                             ledger_error *err);
void ldg_log(const struct ldg_telemetry *t, ledger_log_level level, const char *message,
             const ledger_error *err);
void *ldg_telemetry_poll_start(const struct ldg_telemetry *t);
void ldg_telemetry_poll_end(const struct ldg_telemetry *t, void *span, double seconds,
                            const ledger_error *err);
void ldg_telemetry_count(const struct ldg_telemetry *t, void *counter, ledger_mutation_type type,
                         uint64_t n);
void ldg_telemetry_lag(const struct ldg_telemetry *t, double seconds);

/* Who knows the origins of a sink's entries by numbers, and has an identity: the state store, or
 * the sink where there is none. */
ledger_store *ldg_origins_store(ledger_store *sink, ledger_store *state_store);
/* Who both are. Errors: INVALID (they are one and the same). */
ledger_rc ldg_pair_identities(ledger_store *source, ledger_store *sink,
                              struct ldg_identity *ret_source, struct ldg_identity *ret_sink,
                              ledger_error *err);
/* Errors: INVALID (there is no bridge; the thread is in its own sink's deliver(), which `call`
 * would wait for). */
ledger_rc ldg_bridge_check(const ledger_bridge *bridge, const char *call, ledger_error *err);
/* Opens handles, which wait as `waits` says, compares identities, finds the origin. */
ledger_rc ldg_pipe_open(struct ledger_bridge *bridge, const ledger_wait *waits,
                        struct ldg_pipe **ret_pipe, ledger_error *err);
/* Waits for what is under way and counts it. */
void ldg_pipe_drain(struct ldg_pipe *pipe);
void ldg_pipe_close(struct ldg_pipe **pipe); /* drains first */
/* One poll: once through the stages; counts its outcomes. *ret_read 0: the log was empty behind the
 * cursor. */
ledger_rc ldg_pipe_poll(struct ldg_pipe *pipe, bool joined, size_t *ret_read, ledger_error *err);

#endif
