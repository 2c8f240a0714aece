/* A program's own sink: where a bridge delivers mutations when their destination is no store of
 * this library, but a search engine, a cache, a queue. The program says what became of each; the
 * bridge keeps the rest: the cursor, events that were refused, what waits behind them, retries,
 * counters (`ledger_bridge_create_to()`, bridge.h).
 *
 * Each mutation is delivered once while the process lives, and again after a crash if its cursor
 * was not written yet; always under the same key, and in order within a stream. So a sink that
 * remembers keys, or whose writes can be repeated, has each exactly once. */
#ifndef LEDGER_SINK_H
#define LEDGER_SINK_H

#include "ledger/event.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One change of one entry, or a trim of a stream. Everything in it is the bridge's and lives for
 * the call. Later versions may add fields at the end. */
typedef struct ledger_mutation {
    const char *key; /* of this delivery: "uuid:epoch:position" of the event in the source's log,
                        and ":n" for the n-th entry, from 0, of an append of several. Never
                        changes */
    ledger_mutation_type type; /* one that the sink takes; never UNKNOWN */
    const char *stream;
    const char *origin; /* "uuid:epoch" of the store where the entry was written */
    ledger_id id;       /* of the entry, at its origin; trim: entries with ids up to this one, in
                           this stream, of this origin are gone … */
    const ledger_id *survivors; /* … but for these; ascending */
    size_t survivor_count;
    const ledger_append_entry *entry; /* append, else NULL */
    ledger_list tags;                 /* set_tags: those that the entry has from now on */
    ledger_map annotations; /* set_annotations: a NULL value deletes the key, the rest stays */
    int64_t time_us;  /* append: created_at of the entry; else when it was changed; LEDGER_NO_TIME:
                         not known */
    int64_t position; /* in the source's log */
} ledger_mutation;

typedef enum ledger_delivery_code {
    LEDGER_DELIVERY_LATER = 0,   /* not now: the bridge waits, and delivers it again */
    LEDGER_DELIVERY_DONE = 1,    /* the sink has it, for good */
    LEDGER_DELIVERY_REFUSED = 2, /* never in this form: it is parked, with the reason */
} ledger_delivery_code;

#define LEDGER_DELIVERY_REASON_MAX 256

/* What became of one mutation. Given to deliver() as zeroes. */
typedef struct ledger_delivery {
    ledger_delivery_code code;
    char reason[LEDGER_DELIVERY_REASON_MAX]; /* UTF-8. REFUSED: required; LATER: for the log */
} ledger_delivery;

typedef struct ledger_sink {
    size_t size; /* set by ledger_sink_defaults() */
    void *ctx;   /* given to both functions */
    /* The types it takes: 1 << ledger_mutation_type; APPEND at least; default: all four. Others
     * must be in skip_types of the bridge. */
    uint32_t takes;
    /* Delivers mutations, in this order; count is at least 1 and at most the bridge's batch size
     * (an append of several entries counts as one there). Fills results[0] … and returns how many:
     * those that it has looked at. The rest comes in the next call, at once; 0 is as LATER for the
     * first. It may stop anywhere, and should stop at the first that is not DONE: what was done
     * behind that one is not known to the bridge and comes again.
     * What waits behind a refused mutation is parked by the bridge and does not come; the rest of
     * the batch does, in another call.
     * Anything else that it returns (more results than mutations, results behind those, a code that
     * does not exist, REFUSED without a reason) ends the bridge with INVALID, at that mutation: the
     * cursor stays before it.
     * Threads: the bridge's own, or that of ledger_bridge_poll() or _retry(); of one bridge never
     * two at a time (of two bridges that share a sink, side by side). Called from it, poll, wait
     * and retry of this bridge refuse (INVALID), destroy leaves the bridge alone, and stop does not
     * wait. It must not wait for a thread that is in one of these.
     * It has to return: no longjmp(), no exception, no end of the thread. It may block, so give
     * everything that it waits for a timeout: poll, retry and stop of other threads, and destroy,
     * wait for it. A stop says so in the log after five seconds. Where it never returns,
     * ledger_bridge_request_stop() and ledger_bridge_wait() with a timeout do, and TIMEOUT tells
     * since when it was called; the process can then end as it likes. What the cursor has not
     * passed comes again at the next start, under the same keys. */
    size_t (*deliver)(void *ctx, const ledger_mutation *const *mutations, size_t count,
                      ledger_delivery *results);
    /* Called once, by ledger_bridge_destroy(), when no call of deliver() will come any more. May be
     * NULL. */
    void (*close)(void *ctx);
} ledger_sink;

LEDGER_API void ledger_sink_init(ledger_sink *sink, size_t size);
static inline void ledger_sink_defaults(ledger_sink *sink)
{
    ledger_sink_init(sink, sizeof(*sink));
}

#ifdef __cplusplus
}
#endif
#endif
