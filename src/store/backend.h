/* What a backend implements. One `extern const struct ldg_backend` per backend is its only exported
 * symbol; registry.c is the only place that names it; only this folder calls a callback.
 *
 * Contract for every callback: arguments were checked before (names valid, strings UTF-8 and
 * within limits, payloads JSON, ids of the right kind, the op is one that it takes, store not
 * read-only). Inputs are borrowed until return. ret_ values are set on success and untouched on
 * failure. A failed call has written nothing, unless it says otherwise. `err` is never NULL here.
 * One thread at a time per ctx; a ctx may move between threads. */
#ifndef LDG_STORE_BACKEND_H
#define LDG_STORE_BACKEND_H

#include "ledger/event.h"
#include "ledger/store.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "store/id.h"

/* What no pointer of a role tells; behaviour, not brand. */
enum {
    LDG_CAP_ATOMIC_BATCH = 1 << 0,   /* apply() is one transaction */
    LDG_CAP_PARALLEL_APPLY = 1 << 1, /* several connections apply side by side */
    LDG_CAP_OVERLAP_APPLY = 1 << 2,  /* apply() heeds await_commit_order: two batches may be under
                                        way */
    LDG_CAP_SEARCH = 1 << 3,         /* read() heeds `search` */
    LDG_CAP_NOTIFY = 1 << 4,         /* LEDGER_STORE_NOTIFY */
    LDG_CAP_FULL_TEXT = 1 << 5,      /* LEDGER_STORE_FULL_TEXT, full_text of a search */
    LDG_CAP_TEXT_KEYS = 1 << 6,      /* as a sink it knows entries by ids that are texts, too */
};

/* How a store was opened; strings live as long as the store. */
struct ldg_open {
    const char *url;  /* whole, with its secrets; NULL with a connection */
    const char *path; /* behind the scheme's colon; NULL with a connection */
    const char *table;
    const char *log_table;
    ledger_log_mode log;
    uint32_t flags; /* LEDGER_STORE_… */
    int busy_timeout_ms;
    void *connection; /* of the backend's own kind */
    const struct ldg_backend *backend;
    const char *label; /* what the server is told about who connects: "ledgerctl/orders"; never
                          NULL, any length */
    const ledger_wait *wait; /* NULL: nobody is asked or told. With `connection` it tells of an
                                interrupt, and of nothing else */
    const ledger_http_options *http; /* never NULL; of this version, within their limits */
    enum ldg_role {
        LDG_ROLE_USER,   /* opened by a program */
        LDG_ROLE_SOURCE, /* a bridge's reading end: never checkpoints, never blocks writers */
        LDG_ROLE_SINK,   /* a bridge's writing end: commits need not wait for the disk, because the
                            cursor falls back together with the data */
        LDG_ROLE_STATE,  /* a bridge's own store of cursors, for a sink that keeps none */
    } role;
};

/* Who a store is; travels with a backup, so it proves nothing alone. */
struct ldg_identity {
    char uuid[LDG_UUID_TEXT_MAX];
    int64_t epoch;
};

/* PostgreSQL's holds a number for each transaction that was open. */
#define LDG_CURSOR_STATE_MAX 16384

/* The state of a cursor that had moved when a table was made anew in which what it stands for was:
 * carried entries, or parked events. No source takes it for one of its own. */
#define LDG_CURSOR_LOST "sink made anew"

/* One row of <table>_cursors. */
struct ldg_cursor {
    char state[LDG_CURSOR_STATE_MAX];  /* the cursor, as its source issued it; "" = none (new, or
                                          left by the Go bridge, or set by SetCursor) */
    char readable[LEDGER_ID_TEXT_MAX]; /* column `cursor`: position in the codec's form */
    int64_t moved_at_us;               /* LEDGER_NO_TIME: unknown */
};

/* One row of the mutation log. */
struct ldg_log_row {
    int64_t position;     /* its id */
    ledger_bytes payload; /* in the batch's arena */
    int64_t created_at_us;
};

/* Rows in commit-safe order, and the cursor behind them. Positions need not rise from one batch to
 * the next where transactions overlap: a row may be committed after others with higher ones. */
struct ldg_log_batch {
    struct ldg_arena arena;   /* the reader's; reset before each read */
    struct ldg_log_row *rows; /* in the arena */
    size_t count;
    size_t bytes;
    bool more;                             /* the log holds more behind this batch */
    char next_state[LDG_CURSOR_STATE_MAX]; /* = the state read from, when count is 0 */
    int64_t next_position;                 /* of the cursor after this batch: the highest position
                                              that was ever carried; never falls */
};

struct ldg_log_limits {
    size_t max_count; /* at least 1 */
    size_t max_bytes; /* the batch ends when payloads reach this; at least one row */
};

struct ldg_log_stat {
    int64_t head;           /* highest position; 0 when empty */
    uint64_t backlog_count; /* rows behind the cursor */
    int64_t oldest_us;      /* created_at of the first of them; LEDGER_NO_TIME when none */
    int64_t lowest;         /* none of them has a lower position; 0 when none */
};

/* What apply() is to do, in log order. */
enum ldg_op_kind {
    LDG_OP_APPEND,
    LDG_OP_SET_TAGS,
    LDG_OP_SET_ANNOTATIONS,
    LDG_OP_TRIM,
    LDG_OP_PARK, /* the bridge could not decode or plan it: keep event and reason */
};
struct ldg_op {
    enum ldg_op_kind kind;
    int origin;           /* of the entry, from origin_get(): 0 = the sink itself */
    int mutation_origin;  /* of the mutation; usually the same */
    int64_t position;     /* of the mutation in its origin's log */
    int64_t log_position; /* of the event in the log that was read */
    const char *stream;   /* PARK: "" when unknown */
    ledger_id key;   /* entry's id at its origin; TRIM: delete ids <= this, in the order of that
                        store's ids (store/id.h); PARK: none = unknown */
    int64_t time_us; /* APPEND: created_at; SET_*: updated_at; LEDGER_NO_TIME: that of the batch */
    const ledger_append_entry *entry; /* APPEND */
    bool inexact;  /* APPEND: the payload is Go's compacted form of the bytes */
    bool from_row; /* APPEND: payload and time are those of the source's row, not of the event */
    ledger_list tags;                 /* SET_TAGS */
    ledger_map annotations;           /* SET_ANNOTATIONS; NULL value deletes */
    const ledger_id *survivors;       /* TRIM: ids <= key that the source still has, ascending */
    size_t survivor_count;
    const char *type_name;   /* for <table>_parked */
    const char *reason;      /* PARK */
    const char *source_uuid; /* of the store whose log was read */
    int64_t log_time_us;     /* created_at of the log row */
    ledger_bytes event;      /* the event as read */
    uint32_t event_index;    /* ops of one event share it; ascending */
    uint32_t part, parts;    /* it is this one of the event's, from 0, and so many there are */
    int64_t source_epoch;    /* with source_uuid */
    const char *origin_text; /* "uuid:epoch" of `origin`; "": of the store whose log was read */
    const char *mutation_origin_text; /* the same of `mutation_origin` */
    uint32_t delivery; /* of a sink without state: ops come in order of it, and what is joined with
                          others of the same number, and of no other, comes again as it was */
};

static inline bool ldg_op_is_change(const struct ldg_op *op)
{
    return op->kind == LDG_OP_SET_TAGS || op->kind == LDG_OP_SET_ANNOTATIONS;
}

/* Does it bring an entry whose dedup key may be taken? */
static inline bool ldg_op_has_dedup_key(const struct ldg_op *op)
{
    return op->kind == LDG_OP_APPEND && op->entry->dedup_key[0] != '\0';
}

/* The texts of ops and of parked events: NULL is as good as "". */
static inline const char *ldg_or_empty(const char *text)
{
    return text != NULL ? text : "";
}

/* What became of an op. Of the ops of one event the highest value counts. */
enum ldg_outcome {
    LDG_OUTCOME_MISSING = 0,  /* its entry is not here */
    LDG_OUTCOME_REPLAYED,     /* was here already, unchanged */
    LDG_OUTCOME_DEDUPLICATED, /* its dedup key was here under another id */
    LDG_OUTCOME_APPLIED,
    LDG_OUTCOME_PARKED,      /* kept aside: refused, undecodable, or behind a parked event */
    LDG_OUTCOME_NONE = 0xff, /* not done */
};

/* What a sink's database has refused of late: the brake of refusals.c, below. */
#define LDG_REFUSAL_REASONS 8
struct ldg_refusals {
    uint32_t limit; /* of one reason in a row; 0: there is no brake */
    struct ldg_refusal_run {
        uint64_t reason;
        uint32_t count;
    } runs[LDG_REFUSAL_REASONS]; /* since an op was applied */
    size_t run_count;
    struct {
        struct ldg_refusal_kind {
            uint32_t refused;
            uint64_t reason;     /* of the last one */
            bool applied, mixed; /* one was; there were several reasons */
        } kinds[LDG_OP_PARK + 1];
        ledger_error why; /* the last one was refused */
    } batch;
};

/* One fenced batch. */
struct ldg_apply {
    const char *name; /* of the cursor; NULL: no fence, no cursor (it keeps none) */
    const struct ldg_cursor *expected; /* the row as it was when the batch was read */
    const struct ldg_cursor *next;     /* NULL: check the fence, do not move (parallel worker) */
    const struct ldg_op *ops;
    size_t count;
    int64_t *ret_pause_ms; /* may be NULL. A failure that may be retried sets it: the sink asks to
                              be left alone for so long */
    /* Of a sink without transactions, which calls it once an op is done, while others are not yet:
     * its outcome is APPLIED, whatever becomes of the batch. NULL: nobody asks. */
    void (*op_done)(void *done_ctx, size_t index);
    void *done_ctx;
    bool park_rejected; /* an op that the database refuses is parked; else REJECTED */
    /* NULL: no brake. Kept as it is unless the batch is committed. With park_rejected. */
    struct ldg_refusals *refusals;
    /* Not NULL (only with OVERLAP_APPLY): an earlier batch may still be under way on another
     * handle, and a later one begin before this one has ended.
     * await_commit_order() waits until the earlier one is committed; anything but OK: give up and
     * return that. It must be called once, before the fence is compared and before anything is done
     * that the earlier batch could change the outcome of. What may be done before it: adding
     * entries that hit no key. Where a batch is no transaction, both are of appends alone. A wait
     * for a lock that the other batch holds must end soon, as BUSY:
     * then both are tried again, one after the other. The later batch begins when this one calls
     * ids_reserved(), at the latest when it calls await_commit_order(): by then the ids of all
     * entries that this batch may add are reserved, and these very ones are used on whatever path
     * it goes, so that ids in the sink follow the order of the log; until they are, watermark()
     * passes none of them. ids_reserved() may be called once, before await_commit_order(), or
     * never. A batch whose entry is here already, with an id behind the one that it has reserved
     * for it (another bridge has added it meanwhile), is BUSY: what follows that entry, in this
     * batch or in the later one, would get a lower id. */
    ledger_rc (*await_commit_order)(void *overlap_ctx, ledger_error *err);
    void (*ids_reserved)(void *overlap_ctx);
    void *overlap_ctx;
    /* Of what the batch before this one appended nothing was here already; it may have gone by
     * another handle. False: something was, or nobody knows. To be looked at behind
     * await_commit_order(). A hint: this batch may still bring what is here. NULL: none. */
    const bool *after_new;
};

static inline void ldg_apply_op_done(const struct ldg_apply *apply, size_t index)
{
    if (apply->op_done != NULL)
        apply->op_done(apply->done_ctx, index);
}

struct ldg_parked_row {
    int64_t id;
    char source_uuid[LDG_UUID_TEXT_MAX]; /* of the store whose log was read */
    int64_t log_position;
    int origin;    /* of its entry, as of an op */
    ledger_id key; /* as of an op; in the arena */
    const char *type_name, *stream, *reason;
    uint64_t attempts;
    int64_t parked_at_us;
    int64_t time_us; /* created_at of the log row */
    ledger_bytes event;
};

/* How far the ids of a table have settled, for one who follows it. */
struct ldg_watermark {
    int64_t settled; /* no entry with an id up to this one will be seen that was not seen before */
    /* the backend's own, from zeroes on */
    int64_t mark;  /* highest id of an earlier look … */
    char *writers; /* … and who could still commit one below it; NULL: nobody is waited for */
};

/* A row of the Go bridge, and the id of its entry at the origin that claims it. */
struct ldg_claim {
    ledger_id id;
    ledger_id key;
};
#define LDG_ORIGIN_UNCLAIMED (-1) /* in history(): rows of the Go bridge that no origin has */

/* An entry as verification sees it: by its origin's id. */
struct ldg_history_row {
    ledger_id key;      /* id at its origin; in the arena */
    bool has_source_id; /* as a text of its own: the Go bridge may have written the row */
    const ledger_entry *entry;
};

/* A backend is its name, its life, and a table of functions for each role that it can play. A role
 * that is NULL is a thing it cannot do. Inside a role a callback may be NULL where it says
 * "optional", or the group that it stands in does: then that is a thing it cannot do, or need not.
 * Of a group all are there or none. */

/* What a program asks of a store. */
struct ldg_store_role {
    /* Optional; NULL: a program only reads it. */
    ledger_rc (*append)(void *ctx, const char *stream, const ledger_append_input *inputs,
                        size_t count, ledger_ids *ret_ids, ledger_error *err);
    /* stream NULL: all. search NULL: plain read. All in the arena. */
    ledger_rc (*read)(void *ctx, const char *stream, const char *search,
                      const ledger_read_options *options, struct ldg_arena *arena,
                      ledger_entry **ret_entries, size_t *ret_count, ledger_error *err);
    ledger_rc (*count)(void *ctx, const char *stream, uint64_t *ret_count, ledger_error *err);
    ledger_rc (*stat)(void *ctx, const char *stream, ledger_stream_stat *ret_stat,
                      ledger_error *err);
    ledger_rc (*list_streams)(void *ctx, const char *after, size_t limit, ledger_names *ret_names,
                              ledger_error *err);

    /* Optional, each. */
    ledger_rc (*set_tags)(void *ctx, const char *stream, ledger_id id, ledger_list tags,
                          ledger_error *err);
    ledger_rc (*set_annotations)(void *ctx, const char *stream, ledger_id id, ledger_map map,
                                 ledger_error *err);
    ledger_rc (*trim)(void *ctx, const char *stream, ledger_id before, uint64_t *ret_deleted,
                      ledger_error *err);
    /* Optional, one group. */
    ledger_rc (*tx_begin)(void *ctx, ledger_error *err);
    /* BUSY leaves the transaction open, to be committed again; any other failure ends it. */
    ledger_rc (*tx_commit)(void *ctx, ledger_error *err);
    ledger_rc (*tx_rollback)(void *ctx, ledger_error *err);
    /* Optional. */
    ledger_rc (*find_by_source_id)(void *ctx, const char *stream, const char *source_id,
                                   ledger_id *ret_id, ledger_error *err);
    /* Optional, one group: following a table, where ids are numbers. NULL: ids rise in the order of
     * commits, and what is new lies behind the last id. Else an entry may be committed below ids
     * that were seen before it. */
    /* Moves watermark->settled up, never down: every entry up to it that will ever be is there for
     * a read that begins after this call. watermark->writers: ldg_free() when the following ends.
     */
    ledger_rc (*watermark)(void *ctx, struct ldg_watermark *watermark, ledger_error *err);
    /* As read without search, ascending: entries behind options->after and before the last of the
     * ids `known` (ascending, at least one) that are not among them. */
    ledger_rc (*read_gaps)(void *ctx, const char *stream, const ledger_read_options *options,
                           const int64_t *known, size_t known_count, struct ldg_arena *arena,
                           ledger_entry **ret_entries, size_t *ret_count, ledger_error *err);
};

/* The source's side of a bridge: a mutation log. Needs `state`, for its identity. */
struct ldg_source_role {
    /* Rows behind `state` ("" = from the beginning), one consistent look. The witness in `state` is
     * compared first, unless no rows follow and nothing was written since the last look.
     * Errors: CURSOR_MISMATCH, SOURCE_REWOUND, DATA (not a cursor of this backend). */
    ledger_rc (*log_read)(void *ctx, const char *state, const struct ldg_log_limits *limits,
                          struct ldg_log_batch *batch, ledger_error *err);
    /* A cursor at `position` (0 = beginning), its witness taken from the log as it is now: rows
     * that are there now with positions up to it count as carried, those that commit later do not.
     * When no row has that very position the nearest one before it is the witness. Errors:
     * SOURCE_REWOUND (the log never was that long). */
    ledger_rc (*log_cursor_at)(void *ctx, int64_t position, char state[LDG_CURSOR_STATE_MAX],
                               ledger_error *err);
    /* Compares identity and witness of `state`, and gives its position. Errors as log_read. */
    ledger_rc (*log_check)(void *ctx, const char *state, int64_t *ret_position, ledger_error *err);
    ledger_rc (*log_stat)(void *ctx, const char *state, struct ldg_log_stat *ret_stat,
                          ledger_error *err);
    /* Waits until the log may have grown, wake_fd (an eventfd, drained by the caller) becomes
     * readable, or timeout_ms is over. May return early. Opens no lasting transaction. */
    ledger_rc (*log_wait)(void *ctx, int wake_fd, int64_t timeout_ms, ledger_error *err);
    /* Of each entry's row, if it is still there: id, stream, payload and created_at_us as stored
     * (LEDGER_NO_TIME: no time that can be read); the rest is empty, and nothing else of the row is
     * read. For events that do not carry them byte for byte (Go compacts payloads and sends no
     * times). ids: of this store's kind, at least one, in any order, the same one perhaps twice.
     * *ret_entries: one element per id, in the same order, in the arena; id none: gone, or its
     * stream cannot be read. */
    ledger_rc (*entries_by_id)(void *ctx, const ledger_id *ids, size_t count,
                               struct ldg_arena *arena, ledger_entry **ret_entries,
                               ledger_error *err);
    /* Optional; NULL: a cursor of this backend never needs it. `state` no longer passes log_check
     * because the source moved to another cluster with all its rows (pg_upgrade, a dump restored):
     * the same place in the log as the source is now. May go back, never forward; rows before it
     * stay as they are. Errors: SOURCE_REWOUND (the witness is not there: rows are missing), DATA.
     */
    ledger_rc (*log_acknowledge)(void *ctx, const char *state, char ret_state[LDG_CURSOR_STATE_MAX],
                                 ledger_error *err);
    /* Optional; NULL: there are none. Ids of the stream's entries with id <= before that the source
     * still has, ascending, in the arena, seen now or later than the log row of the trim was:
     * appended after the trim, or, where transactions overlap, committed around it. origin 0:
     * entries written here. Else a number of this store's own origins: ids are those at the origin,
     * and an entry that is parked here counts as one that survives. */
    ledger_rc (*trim_survivors)(void *ctx, int origin, const char *stream, ledger_id before,
                                struct ldg_arena *arena, ledger_id **ret_ids, size_t *ret_count,
                                ledger_error *err);
};

/* The sink's side of a bridge. */
struct ldg_sink_role {
    /* The kinds of op that apply() takes: bits 1 << LDG_OP_…; at least APPEND. With PARK it keeps
     * events aside itself, in the rows that `state` lists. */
    uint32_t takes;
    /* Applies one batch: fence, ops, cursor, commit. ret_outcomes: one per op, by the caller.
     * An entry that is added gets a higher id than those before it in its stream and the batch,
     * also when one of these was added by others meanwhile.
     * Of each op, first what is here already: it neither waits nor is refused. A change or a trim
     * with mutation_origin 0 was made here: REPLAYED. The entry of an append is compared with the
     * one that is here: the same is REPLAYED, another one POSITION_REUSED. That goes for the sink's
     * own entries too (origin 0) when they come back; one that is not here was trimmed: MISSING.
     * Then whether it waits behind a parked event of its entry (or, below, enum ldg_wait): only
     * what is parked of its own entry, stream or log can keep it; all else changes nothing.
     * An op that is not parked takes the event away that is parked in its place: of its log and
     * position, with its entry or with none.
     * The sink's own log gets the event of what was changed, as it came: its time to the
     * microsecond (of an append the first entry's; where none came the one that was stored), and
     * entry_origin wherever that is not the mutation's, of appends too. An append of several
     * entries may go out in parts.
     * Errors: FENCED, REJECTED (err->done_count = index of the op), POSITION_REUSED, REFUSED_ALL
     * (the brake), FOREIGN_BRIDGE (the Go bridge has added an op's entry), UNKNOWN_OUTCOME; all of
     * them leave nothing behind, except UNKNOWN_OUTCOME.
     * Without ATOMIC_BATCH ops may be done in part: whatever fails, those are done, and do not come
     * again, whose outcome was set (before the call each is NONE). Of one stream they are done in
     * order; distinct streams may go side by side.
     * REJECTED, and parking, is for what an event itself runs into. What would meet every event (a
     * table of another shape, ids that have run out, a missing privilege, a full disk) has codes
     * of its own, and parks nothing. */
    ledger_rc (*apply)(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                       ledger_error *err);
    /* Optional; NULL: as soon as apply() returns. How many apply() calls of this handle are known
     * to be on disk (1 = the first). */
    uint64_t (*durable_count)(void *ctx);
    /* Optional. Is a backlog worked off (larger checkpoints), or a tail followed? */
    void (*hint_backlog)(void *ctx, bool backlog);
};

/* What a bridge must find again: who the store is, cursors, origins, events kept aside. Of a sink
 * without it nothing is asked but to take ops; another store keeps all this for it. */
struct ldg_state_role {
    ledger_rc (*identity)(void *ctx, struct ldg_identity *ret_identity, ledger_error *err);

    /* Optional, one group, with origins. With a sink: apply() moves the cursor in its transaction.
     */
    /* Reads the row; create: makes and commits it first when it is missing (state and readable "").
     * Without create a missing row is NOT_FOUND. */
    ledger_rc (*cursor_get)(void *ctx, const char *name, bool create, struct ldg_cursor *ret_cursor,
                            ledger_error *err);
    /* Writes the row as it is given; expected not NULL: only if it still is that, else FENCED. */
    ledger_rc (*cursor_set)(void *ctx, const char *name, const struct ldg_cursor *expected,
                            const struct ldg_cursor *next, ledger_error *err);
    ledger_rc (*cursor_list)(void *ctx, ledger_names *ret_names, ledger_error *err);

    /* Optional, one group. With a sink: it finds bridged entries by their origin, so that replays
     * are no-ops. */
    /* Small number of an origin, made on first use. The sink's own identity gives 0. */
    ledger_rc (*origin_get)(void *ctx, const struct ldg_identity *identity, const char *name,
                            int *ret_origin, ledger_error *err);
    /* Known origins, ascending by number, without 0; in the arena. */
    ledger_rc (*origin_list)(void *ctx, struct ldg_arena *arena, struct ldg_identity **ret_items,
                             int **ret_numbers, size_t *ret_count, ledger_error *err);
    /* Optional, one group, with origins: what the Go bridge left, and a log that was put back. */
    /* Rows that the Go bridge left (source_id, no origin) get this origin and key, and keep
     * their source_id; the origin is marked as one that took over. One transaction. Left alone:
     * what is gone or has an origin meanwhile, and what the origin has already. ret_adopted: how
     * many were changed. */
    ledger_rc (*origin_adopt)(void *ctx, int origin, const struct ldg_claim *claims, size_t count,
                              uint64_t *ret_adopted, ledger_error *err);
    /* Id here, in the arena, of the entry with the highest id at the origin; none: none is here. */
    ledger_rc (*origin_last)(void *ctx, int origin, struct ldg_arena *arena, ledger_id *ret_id,
                             ledger_error *err);
    /* Forgets that changes behind `position` of this origin's log were applied, so that the ones
     * which now have those positions are taken for new. For a source whose log was put back. */
    ledger_rc (*origin_rewind)(void *ctx, int origin, int64_t position, ledger_error *err);
    /* Optional, each. */
    /* Where the table has Go's unique index on source_id, the rows of one origin carry it, for Go's
     * programs and its bridge: of the first one that took over from the Go bridge, else of the
     * first. Chooses that one, unless rows are there that nobody has claimed, or, where no origin
     * took over, a cursor of Go's: the numbers may be another source's; and gives the rows that
     * lack it their source_id, in short transactions. *ret_origin 0: none is chosen. From then on
     * apply() writes it. NULL: never. */
    ledger_rc (*origin_carry_ids)(void *ctx, int *ret_origin, ledger_error *err);
    /* A bridge leaves out changes of annotations. They merge, so a later one does not stand for
     * those: from now on origin_unguard() forgets the positions of all. NULL: there are none. */
    ledger_rc (*origin_skips)(void *ctx, int origin, ledger_error *err);
    /* A cursor goes back, so that all comes again in the order of the log. Forgets positions that
     * would keep out what was skipped: of annotations after origin_skips(), and those that stood
     * for both kinds before tags and annotations had one each. NULL: there are none. */
    ledger_rc (*origin_unguard)(void *ctx, ledger_error *err);
    /* Does the table hold rows of the Go bridge (source_id) that no origin has? NULL: never. */
    ledger_rc (*origin_unclaimed)(void *ctx, bool *ret_any, ledger_error *err);

    /* Optional, one group: events kept aside. A sink that takes PARK has it. */
    /* Rows with id > after, in order of id, at most limit, in the arena. */
    ledger_rc (*parked_list)(void *ctx, int64_t after, size_t limit, struct ldg_arena *arena,
                             struct ldg_parked_row **ret_rows, size_t *ret_count,
                             ledger_error *err);
    /* Rows that may concern these ops (at least one; all of one log): with the id at the origin of
     * one of them (and its origin), its log position, with no entry (when there are changes), that
     * may be trims of a stream in which an append has a dedup key. Rather too many than too few,
     * and perhaps twice; without their events, in any order, in the arena. */
    ledger_rc (*parked_near)(void *ctx, const struct ldg_op *ops, size_t count,
                             struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                             size_t *ret_count, ledger_error *err);
    ledger_rc (*parked_count)(void *ctx, const char *source_uuid, uint64_t *ret_count,
                              ledger_error *err); /* uuid NULL: all */
    /* One transaction: removes the row, then applies ops as apply() without cursor and with
     * park_rejected off: they do not see the row, and nothing is parked anew. When one is refused,
     * must still wait, is POSITION_REUSED, or is a PARK, all is undone, an attempt is counted, and
     * the row keeps the new reason. ops may be empty. *ret_applied tells which. */
    ledger_rc (*parked_retry)(void *ctx, int64_t id, const struct ldg_op *ops, size_t count,
                              bool *ret_applied, ledger_error *err);
    /* Counts an attempt with a reason (it still cannot be decoded). */
    ledger_rc (*parked_note)(void *ctx, int64_t id, const char *reason, ledger_error *err);
    ledger_rc (*parked_drop)(void *ctx, int64_t id, uint64_t *ret_dropped, ledger_error *err);
};

/* What verification reads. */
struct ldg_verify_role {
    /* Entries of one origin with id at the origin > after, ascending by it, ends by limit and
     * bytes; in the arena. origin 0: by their own id all that have no origin, also what the Go
     * bridge left; LDG_ORIGIN_UNCLAIMED: by their own id what it left, alone. A damaged column does
     * not end the run: it comes as the text that is there, as the only tag or as the value of "", a
     * time as LEDGER_NO_TIME. */
    ledger_rc (*history)(void *ctx, int origin, ledger_id after, size_t limit, size_t max_bytes,
                         struct ldg_arena *arena, struct ldg_history_row **ret_rows,
                         size_t *ret_count, ledger_error *err);
    /* The same of those with these ids at the origin (ascending, each once, at least one), and of
     * no other: a large payload that stands between them is not touched. It ends by bytes only:
     * *ret_rows answers for all keys up to its last one; when it is empty, none of them is
     * there. */
    ledger_rc (*history_of)(void *ctx, int origin, const ledger_id *keys, size_t count,
                            size_t max_bytes, struct ldg_arena *arena,
                            struct ldg_history_row **ret_rows, size_t *ret_count,
                            ledger_error *err);
    /* Reads until snapshot_end see one moment. Not nested. */
    ledger_rc (*snapshot_begin)(void *ctx, ledger_error *err);
    void (*snapshot_end)(void *ctx);
};

struct ldg_backend {
    const char *name;   /* "sqlite" */
    const char *scheme; /* "sqlite" for sqlite:PATH */
    uint64_t caps;
    size_t ctx_size;           /* store.c allocates it zeroed */
    int64_t time_precision_us; /* stored times are cut to this, LDG_TIME_COARSEST_US at most; 0:
                                  whole microseconds */

    /* On failure close() is not called. Creates or migrates as the flags say. */
    ledger_rc (*open)(void *ctx, const struct ldg_open *open, ledger_error *err);
    void (*close)(void *ctx);
    ledger_rc (*health)(void *ctx, ledger_error *err);
    /* Optional; NULL: it is the one that it was opened by. URL under which another handle on the
     * same data can be opened; false: there is none. */
    bool (*describe)(void *ctx, char *url, size_t url_size);
    /* With `source`, else optional. */
    bool (*has_log)(void *ctx);
    /* Optional; NULL: never. Are ids of entries texts, ordered bytewise? Else positive numbers. */
    bool (*has_text_ids)(void *ctx);
    /* With `store` or `source`, else optional. Key for in-process wake-ups: equal for handles on
     * one database. */
    const char *(*wake_key)(void *ctx);
    /* Optional. */
    ledger_rc (*check)(void *ctx, ledger_finding_fn fn, void *fn_ctx, ledger_error *err);

    const struct ldg_store_role *store;
    const struct ldg_source_role *source;
    const struct ldg_sink_role *sink;
    const struct ldg_state_role *state;
    const struct ldg_verify_role *verify;
};

/* --- wait.c: waiting, in every backend ------------------------------------------------------- */

/* Whoever waits looks up at least so often. */
#define LDG_WAIT_LOOK_MS 100

/* One wait. From zeroes with `wait`; begins with the first look. */
struct ldg_waiting {
    const ledger_wait *wait; /* may be NULL */
    bool commits;            /* for the answer to a COMMIT: an interrupt does not end that */
    int64_t since_us;
    bool told;
};
/* Something has come: what follows is another wait. */
void ldg_waiting_again(struct ldg_waiting *waiting);
/* Waited for so long; 0 at the first look. */
int64_t ldg_waiting_ms(struct ldg_waiting *waiting);
/* May it go on? Without a `wait` always. */
ledger_wait_answer ldg_waiting_ask(struct ldg_waiting *waiting);
/* Also an answer, unless STOP is: the program has interrupted the call. It ends with CANCELLED as
 * soon as it can, and its connection is kept. The answer stays the same until the next call begins,
 * so what has to be done for good (a rollback, taking back) does not ask. The `wait` that a store
 * gives its backend adds it to what the program answers. */
#define LDG_WAIT_INTERRUPTED ((ledger_wait_answer)4)
/* Is that the answer? For work that is no wait. */
bool ldg_wait_interrupted(const ledger_wait *wait);
/* Is it time to say what is waited for? True once for each wait, and never where nobody hears. */
bool ldg_waiting_is_long(struct ldg_waiting *waiting);
/* Says it. */
void ldg_wait_tell(const ledger_wait *wait, const char *fmt, ...) LEDGER_PRINTF(2, 3);

/* --- op.c: what is the same in every backend ------------------------------------------------- */

/* The type that its event has in a log; of PARK UNKNOWN. */
ledger_mutation_type ldg_op_type(enum ldg_op_kind kind);
/* The op as an event for the sink's own log; views the op. Left to the backend, and "" or empty:
 * origin (of the mutation), entry_origin, ids, entries. now_us: where the op has no time. */
ledger_mutation_event ldg_op_event(const struct ldg_op *op, int64_t now_us);
/* Its ids, of a change or a trim, which it borrows. source_id: at the origin. id: here, of the
 * entry that was changed, or the highest of those that were deleted: it is what a Go bridge behind
 * this store goes by; ours go by source_id. */
void ldg_op_event_ids(const struct ldg_op *op, const char *id, const char *source_id,
                      ledger_mutation_event *event);
/* "uuid:epoch:position", and ":part" of an event with several: names a delivery for ever, so that
 * who gets it twice can tell. */
#define LDG_DELIVERY_KEY_MAX (LDG_UUID_TEXT_MAX + 3 * 21)
void ldg_op_delivery_key(const struct ldg_op *op, char text[LDG_DELIVERY_KEY_MAX]);
/* A change or a trim that was made in this store: it has it already. */
bool ldg_op_was_made_here(const struct ldg_op *op);
/* Did a batch that was applied bring an entry that was here? Then the next one may, too. */
bool ldg_op_any_known(const struct ldg_op *ops, const uint8_t *outcomes, size_t count);
/* The entry that a sink has at the place of an append's, as far as it says whether they are one. */
struct ldg_stored {
    ledger_bytes stream, payload, order_key, dedup_key;
    int64_t schema_version;
    ledger_map metadata;   /* in any order */
    int64_t created_at_us; /* LEDGER_NO_TIME: none that can be read */
    bool by_go; /* Go's bridge wrote the row: payload in Go's form, own time, perhaps no metadata */
};
/* Is it the same entry, by the fields that verify compares and no later change touches? Else
 * *ret_field names the first that differs (NULL: none does). Times are compared at the precision of
 * the coarsest store, for an entry may come by more than one way. Errors: NOMEM. */
#define LDG_TIME_COARSEST_US 1000
ledger_rc ldg_op_compare(const struct ldg_op *op, const struct ldg_stored *stored,
                         struct ldg_arena *arena, const char **ret_field, ledger_error *err);
/* POSITION_REUSED: `field` is not what was carried. */
ledger_rc ldg_op_fail_reused(const struct ldg_op *op, const char *field, ledger_error *err);
/* `state` cannot be read as a cursor of this kind of source ("sqlite"; shown: "SQLite"). Errors:
 * CURSOR_MISMATCH (it is one of another kind: it begins with that one's name), else DATA. */
ledger_rc ldg_cursor_fail(const char *state, const char *kind, const char *shown,
                          ledger_error *err);
/* The fence. Errors: FENCED unless `found`, the row of the cursor `name` (NULL: there is none),
 * still is what the batch was read from. */
ledger_rc ldg_cursor_compare(const char *name, const struct ldg_cursor *found,
                             const struct ldg_cursor *expected, ledger_error *err);
/* SCHEMA: the table holds entries of other stores, and <table>_origins, which names those, is gone.
 */
ledger_rc ldg_schema_fail_origins(const char *where, const char *table, ledger_error *err);
/* SCHEMA: what was written to <table>_<name> is not there, and nothing said why. */
ledger_rc ldg_schema_fail_kept_out(const char *table, const char *name, ledger_error *err);
/* In the words of SOURCE_REWOUND where the row of the witness is another one. */
#define LDG_OR_A_COPY                                                                              \
    "; or it is a copy of the store that was carried, which needs an identity of its own "         \
    "(`ledgerctl store init --new-identity`)"
/* SCHEMA: the log holds a row with the id `lowest`, which is not positive and so never read. */
ledger_rc ldg_log_fail_lowest(const char *log_table, int64_t lowest, ledger_error *err);
/* FOREIGN_BRIDGE: a row that the Go bridge left, with the id of the op's entry as its source_id, is
 * that entry. */
ledger_rc ldg_op_fail_foreign(const struct ldg_op *op, const char *table, ledger_error *err);
/* TRIM: does the source still have the entry with this id? */
bool ldg_op_survives(const struct ldg_op *op, ledger_id key);
/* TRIM: does it delete the entry of its origin and stream with this id? */
bool ldg_op_trims(const struct ldg_op *op, ledger_id key);
/* The event to park an op with, so that each can be tried again alone: of an append of several
 * entries the part that is this op's, everything else as it was. *ret_event views the op, or buf,
 * which comes empty. Errors: NOMEM, TOO_LARGE (buf's). */
ledger_rc ldg_op_parked_event(const struct ldg_op *op, struct ldg_buf *buf, ledger_bytes *ret_event,
                              ledger_error *err);

/* --- behind.c: who waits behind whom, in every kind of sink ----------------------------------- */

/* What an op may have to wait for behind a parked event. */
enum ldg_wait {
    LDG_WAIT_ENTRY,   /* the event is one of op's own entry */
    LDG_WAIT_MISSING, /* op's entry is not here: the event may be the one that brings it */
    LDG_WAIT_KEY,     /* op's dedup key is here: the event may be the trim that deletes its entry */
};
/* Was it read from this source's log? */
bool ldg_op_is_of_log(const struct ldg_op *op, const char *source_uuid);
/* Where an op stands among the events that are parked on its entry. Of its own log those with lower
 * positions go before it. Positions of two logs cannot be compared: there the event that was parked
 * first goes first, together with what its own log has before it. */
struct ldg_place {
    const struct ldg_op *op;
    int64_t first; /* the lowest row of op and of what its log has behind it */
};
/* own_row: of the parked event that op is; INT64_MAX: it is not parked. */
struct ldg_place ldg_place_of(const struct ldg_op *op, int64_t own_row);
/* First each event that is parked on the entry is noted … */
void ldg_place_note(struct ldg_place *place, const char *source_uuid, int64_t log_position,
                    int64_t row);
/* … then it can be told of each whether op has to wait behind it. */
bool ldg_place_is_behind(const struct ldg_place *place, const char *source_uuid,
                         int64_t log_position, int64_t row);
/* Op's entry is not known to be here: may this parked event be the one that brings it? */
bool ldg_op_may_come_by(const struct ldg_op *op, const char *source_uuid, int64_t log_position,
                        ledger_id key, const char *stream);
/* Why an op waits behind the parked event at log_position. */
#define LDG_OP_WAIT_MAX 80
void ldg_op_wait_reason(int64_t log_position, enum ldg_wait wait, char text[LDG_OP_WAIT_MAX]);
/* Must an op whose outcome is `outcome` be asked for that it waits, and for what? */
bool ldg_op_may_wait(const struct ldg_op *op, uint8_t outcome, enum ldg_wait *ret_wait);
/* May an event parked with this type name be a trim? One of a later version may be anything. */
bool ldg_op_may_trim(const char *type_name);

/* --- refusals.c: the brake ------------------------------------------------------------------- */

/* apply->refusals are copied before each try (by src/sink, where a backend uses that), what is done
 * op by op is noted on the copy, and it is copied back once the batch is committed. */
void ldg_refusals_begin(struct ldg_refusals *refusals); /* of a try */
void ldg_refusals_applied(struct ldg_refusals *refusals, enum ldg_op_kind kind);
/* The same for those of the ops that were applied. */
void ldg_refusals_outcomes(struct ldg_refusals *refusals, const struct ldg_op *ops,
                           const uint8_t *outcomes, size_t count);
/* The database refuses an op that was not parked before: `why` its error (it may be err), reason
 * what it has in common with others. Errors: REFUSED_ALL (so many in a row). */
ledger_rc ldg_refusals_note(struct ldg_refusals *refusals, enum ldg_op_kind kind, uint64_t reason,
                            const ledger_error *why, ledger_error *err);
/* All ops are done. Errors: REFUSED_ALL (every one that was tried was refused, for one reason). */
ledger_rc ldg_refusals_end(struct ldg_refusals *refusals, ledger_error *err);
/* From the native code and the name of what refused it (constraint, column; "": none). */
uint64_t ldg_refusal_reason(const ledger_error *err, const char *name);

#endif
