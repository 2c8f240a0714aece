/* A bridge: carries every change of one store's mutation log into another store.
 *
 * Each event is applied exactly once in effect, in the order of the log, however often either side
 * or the bridge is killed. Progress is a named cursor that commits in the sink together with the
 * data; any number of bridges may run on one pair, since a batch applies only while the cursor
 * still is where the batch was read from. What cannot be applied is parked (kept, with its reason)
 * or stops the bridge, as the caller chose. */
#ifndef LEDGER_BRIDGE_H
#define LEDGER_BRIDGE_H

#include "ledger/sink.h"
#include "ledger/store.h"
#include "ledger/telemetry.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ledger_bridge ledger_bridge;

#define LEDGER_BRIDGE_DEFAULT_NAME "default"
#define LEDGER_BRIDGE_DEFAULT_STATE_TABLE "ledger_state"
#define LEDGER_BRIDGE_DEFAULT_METER "github.com/rbaliyan/ledger/bridge"

typedef enum ledger_bad_event_policy {
    LEDGER_BAD_EVENT_PARK = 0, /* keep it in <table>_parked with its reason, and go on */
    LEDGER_BAD_EVENT_STOP = 1, /* stop with a clear error; the cursor stays before it */
} ledger_bad_event_policy;

typedef struct ledger_bridge_options {
    size_t size;               /* set by ledger_bridge_options_defaults() */
    const char *name;          /* of the cursor; unique per pair; default "default" */
    int64_t interval_ms;       /* longest wait between two looks at the source; default 5000 */
    size_t batch_size;         /* mutations per poll; default 500 */
    size_t backlog_batch_size; /* while more is waiting, batches are joined up to this many
                                  mutations in one sink transaction; default 5000; never below
                                  batch_size; set it equal to batch_size to join none */
    size_t max_batch_bytes;    /* a batch ends at this size, after at least one event; 4 MiB */
    uint32_t skip_types;       /* 1 << ledger_mutation_type: dropped and counted, not applied */
    size_t parallel_streams;   /* sink workers that apply distinct streams side by side, where the
                                  sink has several writers; 0 and 1: serial. A webhook has
                                  ledger_http_options.connections instead */
    ledger_bad_event_policy on_bad_event;
    /* With PARK: when the sink's database refuses so many operations in a row for one reason, or
     * half as many of a kind in one batch and takes none of that kind, it is no fault of the
     * events: the batch is undone, nothing of it is parked, and the bridge ends with REFUSED_ALL.
     * What is parked already, or waits behind it, does not count. 0: park however many there are;
     * default 10. */
    uint32_t refusal_limit;
    int64_t retry_min_ms; /* first pause after a transient error, doubled each time, with
                             jitter; default 50 */
    int64_t retry_max_ms; /* longest pause; default 10000 */
    int64_t retry_for_ms; /* give up after failing so long without progress; default -1: never. A
                             wait counts, and is ended when the time is over (but no wait before
                             it has lasted a second, and no work of the database) */
    /* For a sink that keeps no cursor and no parked events (its backend only takes what it is
     * given, or it is a program's own): the store that keeps them. Any of ours with transactions;
     * it is made if it is not there. A table in the database of the source will do. Bridges that
     * share a sink have to share this, too: what is kept elsewhere they cannot see. Give each sink
     * a table of its own: a table has one list of parked events, whatever the names of the cursors,
     * and takes an event off once one sink has it. Default: this process's memory, as long as the
     * bridge. INVALID together with cursor_file. */
    const char *state_url;
    const char *state_table;         /* default LEDGER_BRIDGE_DEFAULT_STATE_TABLE */
    const char *cursor_file;         /* short for state_url "sqlite:" and this path */
    const ledger_id_codec *id_codec; /* of the readable position; default ledger_int64_codec */
    ledger_logger logger;            /* .log NULL: silent */
    bool metrics_enabled;            /* default false */
    ledger_meter meter;
    const char *meter_name; /* default LEDGER_BRIDGE_DEFAULT_METER */
    bool traces_enabled;    /* default false */
    ledger_tracer tracer;
    const char *tracer_name; /* default LEDGER_BRIDGE_DEFAULT_METER */
} ledger_bridge_options;

LEDGER_API void ledger_bridge_options_init(ledger_bridge_options *options, size_t size);
static inline void ledger_bridge_options_defaults(ledger_bridge_options *options)
{
    ledger_bridge_options_init(options, sizeof(*options));
}

/* Makes a bridge from source (its mutation log) to sink. Both stores are borrowed for this call
 * only: the bridge opens its own handles with the same options. A store on a caller's own
 * connection is opened again by its file name, or by what it was connected with. options NULL: the
 * defaults. Options are copied; what their pointers hold inside id_codec, logger, meter and tracer
 * must outlive the bridge.
 * *ret_bridge is the caller's: ledger_bridge_destroy().
 * Errors: any of ledger_store_open(), INVALID (a value out of range, source and sink are the same
 * table, metrics enabled without a meter, a store that no second handle can open), UNSUPPORTED (the
 * sink lacks a capability and the type is not skipped), SCHEMA (no mutation log), PERMISSION (a
 * table of the Go module that cannot be written, so it has no identity), INTERNAL (an instrument
 * could not be made). */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_bridge_create(const ledger_store *source,
                                                          const ledger_store *sink,
                                                          const ledger_bridge_options *options,
                                                          ledger_bridge **ret_bridge,
                                                          ledger_error *err);
/* The same, to a program's own sink, which is copied; on success its close() is called when the
 * bridge is destroyed, on failure never. Unless options say where the state is kept, another
 * process begins anew. Errors besides: INVALID (no deliver(); `takes` lacks APPEND, or names a type
 * that does not exist; another bridge of this process carries the source to the same deliver and
 * ctx and has its state elsewhere, or carries it to another sink and has its state in the same
 * table). */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_bridge_create_to(const ledger_store *source,
                                                             const ledger_sink *sink,
                                                             const ledger_bridge_options *options,
                                                             ledger_bridge **ret_bridge,
                                                             ledger_error *err);
/* Stops first. NULL is fine; sets NULL. From within deliver() of the own sink it only asks for the
 * stop and logs an error: the bridge stays, and so does *bridge; destroy it later, from elsewhere.
 */
LEDGER_API void ledger_bridge_destroy(ledger_bridge **bridge);

/* One poll: reads at most batch_size mutations, applies them, moves the cursor. ret_read (may be
 * NULL): how many were read; 0 = nothing to do. Safe beside start and stop, and from several
 * threads: such calls take turns.
 * Errors: any of store.h, CURSOR_MISMATCH, SOURCE_REWOUND, POSITION_REUSED, REJECTED and DATA (a
 * bad event and the policy STOP), REFUSED_ALL (refusal_limit), FENCED (another bridge was faster:
 * call again). */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_bridge_poll(ledger_bridge *bridge, uint64_t *ret_read,
                                                        ledger_error *err);

/* Starts bridging in a thread: drains until the log is empty, waits for a change or the interval,
 * and so on. Transient errors are retried with backoff; any other ends the thread. A second call
 * does nothing, also after a stop: make another bridge. Errors: NOMEM (no thread). */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_bridge_start(ledger_bridge *bridge, ledger_error *err);

/* Asks the thread to end after the batch in hand and waits for it. May be called any number of
 * times, also without start. A batch that still waits for a database after four seconds (a lock, an
 * answer, a connection, a commit) is given up: its transaction is rolled back, or, if the commit
 * was sent, the next start finds out; nothing is lost or doubled. So the end comes within ten
 * seconds, unless deliver() of a program's own sink does not return (sink.h): that is waited for.
 * From within deliver() this only asks. */
LEDGER_API void ledger_bridge_stop(ledger_bridge *bridge);

/* As stop, without waiting. Async-signal-safe. */
LEDGER_API void ledger_bridge_request_stop(ledger_bridge *bridge);

/* Waits until the thread has ended (OK: it was stopped; else why it gave up), or, with until_empty,
 * until a look at the source found nothing more to carry. timeout_ms < 0: for ever.
 * Errors: TIMEOUT (it is still running, and nothing else: a bridge that gave up because a store did
 * not answer in time ends with BUSY), CANCELLED (stopped before the log was empty), INVALID (it was
 * not started). */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_bridge_wait(ledger_bridge *bridge, bool until_empty,
                                                        int64_t timeout_ms, ledger_error *err);

/* Counters since the bridge was made. Always:
 * read_count = apply_count + skip_count + park_count + dedup_count.
 * They move with the cursor, batch by batch; but what a sink that keeps no state has been delivered
 * counts at once, and only once, also when the batch comes again for what is left of it. */
typedef struct ledger_bridge_stats {
    uint64_t poll_count;         /* polls */
    uint64_t read_count;         /* mutations whose outcome is decided */
    uint64_t apply_count;        /* written to the sink */
    uint64_t skip_count;         /* dropped, for one of these reasons: */
    uint64_t skip_option_count;  /*   skip_types */
    uint64_t skip_replay_count;  /*   the sink had it already */
    uint64_t skip_missing_count; /*   its entry is not there: trimmed, or older than the log */
    uint64_t skip_origin_count;  /*   it came from the sink in the first place */
    uint64_t park_count;
    uint64_t dedup_count;    /* appends whose dedup keys the sink's stream already had */
    uint64_t error_count;    /* failed polls */
    uint64_t backlog_count;  /* mutations in the log behind the cursor, at the last look */
    double lag_seconds;      /* age of the oldest of them, as far as what the bridge has seen allows
                                it: at least as long as it has seen events wait, at most since it
                                last saw none; 0 when there is none */
    int64_t last_success_us; /* end of the last poll without error; LEDGER_NO_TIME: none yet */
    int64_t last_progress_us;          /* last time the cursor moved; LEDGER_NO_TIME: not yet */
    char position[LEDGER_ID_TEXT_MAX]; /* applied */
    char durable_position[LEDGER_ID_TEXT_MAX]; /* known to be on the sink's disk */
} ledger_bridge_stats;
/* A snapshot; any thread, any time. */
LEDGER_API void ledger_bridge_get_stats(ledger_bridge *bridge, ledger_bridge_stats *ret_stats);

/* --- looking at a pair from outside -------------------------------------------------------- */

/* Stores are borrowed. name NULL: LEDGER_BRIDGE_DEFAULT_NAME. Status and verify go by
 * the cursor's state, whatever the bridge's id_codec writes beside it. The calls that move a cursor
 * write that position with ledger_int64_codec: a bridge with another id_codec finds DATA there. A
 * sink that keeps no cursors is UNSUPPORTED: its state store takes its place as `sink` (but for
 * verify, and for a retry: ledger_bridge_retry()). */

typedef struct ledger_bridge_status {
    char source_uuid[40];
    bool has_cursor;
    char position[LEDGER_ID_TEXT_MAX]; /* of the cursor; "" without one */
    char head[LEDGER_ID_TEXT_MAX];     /* last position of the source's log */
    uint64_t backlog_count;
    double lag_seconds; /* age of the oldest of them, 0 without one, never negative; with
                           wrong_time: since the cursor last moved */
    bool wrong_time;    /* the time of the oldest cannot be true (in the future, before the year
                           2000, none at all): its writer's clock is wrong */
    bool lag_unknown;   /* nor can the cursor's: something waits, and lag_seconds is 0 */
    int64_t oldest_us;  /* the time that the oldest carries; LEDGER_NO_TIME: none */
    uint64_t parked_count;
    int64_t moved_at_us; /* when the cursor last moved, by the bridge's clock; LEDGER_NO_TIME:
                            unknown */
} ledger_bridge_status;
/* Reads both stores; writes nothing. No cursor is no error: has_cursor tells, and all of the log is
 * backlog. Errors: CURSOR_MISMATCH, SOURCE_REWOUND. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_bridge_status_get(ledger_store *source,
                                                              ledger_store *sink, const char *name,
                                                              ledger_bridge_status *ret_status,
                                                              ledger_error *err);

/* Sets the cursor on purpose: position is a log position of the source, or "0" for the beginning.
 * Going back is safe (what is there already is left alone; where transactions overlap it may go
 * further back than asked, before a row that came late); going forward skips events for good and is
 * refused unless allow_skip. Also binds the cursor to the source as it is now.
 * Errors: INVALID (no position of this log, or forward without allow_skip), FENCED (a bridge moved
 * the cursor meanwhile: stop it first), FOREIGN_BRIDGE (there was no such cursor, and the Go
 * module's bridge has carried this source under another one). */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_bridge_cursor_set(ledger_store *source,
                                                              ledger_store *sink, const char *name,
                                                              const char *position, bool allow_skip,
                                                              ledger_error *err);

/* After the source has moved to another database cluster with all its rows (pg_upgrade, a dump that
 * was restored): binds the cursor to the source as it is now, at the same place in the log or
 * before it; what is carried twice is left alone. ret_changed (may be NULL): false = nothing had to
 * be done. The source's handle must be writable.
 * Errors: NOT_FOUND (no cursor of that name), SOURCE_REWOUND (the last row that was carried is not
 * in the log: rows are missing), CURSOR_MISMATCH (another store, or a kind of source that does not
 * move), DATA, FENCED, PERMISSION. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_bridge_cursor_acknowledge(ledger_store *source,
                                                                      ledger_store *sink,
                                                                      const char *name,
                                                                      bool *ret_changed,
                                                                      ledger_error *err);

/* One parked event. */
typedef struct ledger_parked {
    int64_t id;
    const char *source_uuid;
    int64_t position; /* in the source's log */
    const char *type;
    const char *stream;   /* "" when it could not be read */
    const char *entry_id; /* at its origin; "" when unknown */
    const char *reason;
    uint64_t attempts;
    int64_t parked_at_us;
    ledger_bytes event; /* as read */
} ledger_parked;
/* Return true to go on. Views live for the call. */
typedef bool (*ledger_parked_fn)(void *ctx, const ledger_parked *parked);
/* In order of id: the order in which they were parked. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_bridge_parked_list(ledger_store *sink,
                                                               ledger_parked_fn fn, void *ctx,
                                                               ledger_error *err);
/* Tries parked events of this source again, in order; id 0: all. What works leaves the list, what
 * does not stays with one attempt more. ret_ may be NULL. Errors: NOT_FOUND. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_bridge_parked_retry(ledger_store *source,
                                                                ledger_store *sink, int64_t id,
                                                                uint64_t *ret_applied,
                                                                uint64_t *ret_left,
                                                                ledger_error *err);
/* The same by a bridge's own means, which every sink has, a program's own too; the source of the
 * events is the bridge's. Takes turns with its polls. Errors besides: those of poll. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_bridge_retry(ledger_bridge *bridge, int64_t id,
                                                         uint64_t *ret_applied, uint64_t *ret_left,
                                                         ledger_error *err);
/* Deletes one, or all with id 0. Errors: NOT_FOUND. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_bridge_parked_drop(ledger_store *sink, int64_t id,
                                                               uint64_t *ret_dropped,
                                                               ledger_error *err);

/* --- proof of equality --------------------------------------------------------------------- */

typedef enum ledger_difference_kind {
    LEDGER_DIFF_MISSING, /* in the source, not in the sink */
    LEDGER_DIFF_EXTRA,   /* carried into the sink, no longer in the source */
    LEDGER_DIFF_FIELD,   /* in both, with another value */
    LEDGER_DIFF_DOUBLE,  /* stands in the sink twice: the Go bridge has carried it, too */
} ledger_difference_kind;

typedef struct ledger_difference {
    ledger_difference_kind kind;
    const char *stream;
    const char *source_id;
    const char *field;        /* FIELD: column name; else "" */
    const char *source_value; /* shortened for print */
    const char *sink_value;
} ledger_difference;
typedef void (*ledger_difference_fn)(void *ctx, const ledger_difference *difference);

typedef struct ledger_verify_options {
    size_t size;                                    /* set by ledger_verify_options_defaults() */
    const char *name;                               /* of the cursor; default "default" */
    size_t max_reported;                            /* differences given to fn; default 10 */
    ledger_difference_fn fn;                        /* may be NULL */
    void (*progress)(void *ctx, uint64_t compared); /* may be NULL; about ten times a second */
    void *ctx;
    ledger_store *state; /* keeps cursor and parked events of a bridge that has state_url; NULL: the
                            sink does */
} ledger_verify_options;
LEDGER_API void ledger_verify_options_init(ledger_verify_options *options, size_t size);
static inline void ledger_verify_options_defaults(ledger_verify_options *options)
{
    ledger_verify_options_init(options, sizeof(*options));
}

typedef struct ledger_verify_result {
    uint64_t source_count;     /* entries at the source that the cursor has passed */
    uint64_t sink_count;       /* entries of this source in the sink */
    uint64_t stream_count;     /* streams of the source that were compared */
    uint64_t difference_count; /* 0: equal */
    uint64_t pending_count;    /* entries that events behind the cursor still change */
    uint64_t parked_count;     /* entries that differ because an event of theirs is parked; also
                                  counted as differences */
    uint64_t time_difference_count;   /* differ only in a time that the log did not carry (Go wrote
                                      it), or of a row with a source_id, which the Go bridge may
                                      have carried under a time of its own; no difference */
    uint64_t payload_reencoded_count; /* payloads that the Go bridge carried in its encoder's form:
                                         the same value without white space between its tokens,
                                         <, >, &, U+2028 and U+2029 escaped; no difference */
    char position[LEDGER_ID_TEXT_MAX];
} ledger_verify_result;

/* Compares the whole history up to the cursor: every entry, every field. Memory is bounded; writers
 * and bridges may go on meanwhile: what differs is looked at again together with the events that
 * the cursor has not reached. Differences are no error: see difference_count.
 * Errors: any of store.h, CURSOR_MISMATCH, SOURCE_REWOUND, NOT_FOUND (no cursor of that name). */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_bridge_verify(ledger_store *source, ledger_store *sink,
                                                          const ledger_verify_options *options,
                                                          ledger_verify_result *ret_result,
                                                          ledger_error *err);

#ifdef __cplusplus
}
#endif
#endif
