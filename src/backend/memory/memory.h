/* What the files of the memory backend share.
 *
 * data.c     databases, tables, rows, indexes, who sees what     tx.c      changes, commit, undo
 * backend.c  the roles, open, close, transactions, snapshots     query.c   a program's calls
 * log.c      source: the log as transactions commit              sink.c    the fenced batch
 * parked.c   parked events                                       gate.c    begin and end of a call
 *
 * Everything below belongs to one database and is touched only under its mutex. A transaction
 * changes rows in place but marks them as its own (struct ldg_mem_stamp); others see a row when its
 * transaction has committed. Each commit draws one number (`seq`); a snapshot is such a number. */
#ifndef LDG_BACKEND_MEMORY_MEMORY_H
#define LDG_BACKEND_MEMORY_MEMORY_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/error.h"
#include "base/mem.h"
#include "event/event.h"
#include "store/backend.h"

#define LDG_MEM_NOW INT64_MAX /* a snapshot that sees every commit */
#define LDG_MEM_EVENT_MAX_BYTES ((size_t)1024 * 1024 * 1024)
#define LDG_MEM_ID_DIGITS 24                             /* of an id that is a text */
#define LDG_MEM_ORIGIN_TEXT_MAX (LDG_UUID_TEXT_MAX + 24) /* "uuid:epoch" */

struct ldg_mem_tx;
struct ldg_mem_stream;

/* When a row came and went, and which open transaction is at it. */
struct ldg_mem_stamp {
    struct ldg_mem_tx *created_by; /* still open; NULL with created_seq 0: rolled back */
    int64_t created_seq;
    struct ldg_mem_tx *locked_by; /* changes or deletes it */
    bool deleting;
    int64_t deleted_seq; /* 0: never */
};

/* Where the last change of a kind stood in the log of a store that is not the entry's own. */
struct ldg_mem_mark {
    int origin;
    enum ldg_op_kind kind;
    int64_t position;
};

/* What tags and annotations were from one commit to the next. */
struct ldg_mem_version {
    struct ldg_mem_version *next; /* older */
    int64_t seq;
    ledger_list tags;
    ledger_map annotations;
    int64_t updated_at_us;
    int64_t tags_pos, annotations_pos; /* of their last changes in the entry's own log; 0: none */
    struct ldg_mem_mark *marks;        /* of other logs, in this block */
    size_t mark_count;
};

enum { LDG_MEM_BY_DEDUP, LDG_MEM_BY_ORIGIN, LDG_MEM_BY_SOURCE, LDG_MEM_INDEX_COUNT };

struct ldg_mem_row {
    struct ldg_mem_stamp stamp;
    int64_t id;
    struct ldg_mem_stream *stream;
    ledger_bytes payload;
    const char *order_key, *dedup_key;
    int schema_version;
    ledger_map metadata;
    int64_t created_at_us;
    int origin;                      /* 0: written here, or left by the Go bridge (source_id set) */
    ledger_id key;                   /* id at its origin; none: there is none */
    const char *source_id;           /* as the Go bridge left it; "" */
    struct ldg_mem_version *version; /* newest committed first */
    struct ldg_mem_version *pending; /* of stamp.locked_by */
    bool indexed[LDG_MEM_INDEX_COUNT];
    uint64_t hash[LDG_MEM_INDEX_COUNT];
    struct ldg_mem_row *link[LDG_MEM_INDEX_COUNT];
    /* the strings follow */
};

struct ldg_mem_rows {
    struct ldg_mem_row **items;
    size_t count, cap;
};

struct ldg_mem_stream {
    struct ldg_mem_stream *next; /* in its bucket */
    uint64_t hash;
    struct ldg_mem_rows rows; /* ascending by id, dead ones among them */
    size_t dead_count;
    char name[];
};

struct ldg_mem_index {
    struct ldg_mem_row **buckets;
    size_t bucket_count; /* a power of 2, or 0 */
    size_t count;
};

struct ldg_mem_origin {
    struct ldg_identity identity;
    char *name;
    bool adopted;
    struct ldg_mem_rows rows; /* by key when `sorted` */
    bool sorted;
};

struct ldg_mem_cursor_value {
    struct ldg_mem_cursor_value *next; /* older */
    int64_t seq;
    struct ldg_cursor cursor;
};

struct ldg_mem_cursor {
    struct ldg_mem_cursor *next;
    struct ldg_mem_cursor_value *value;   /* newest committed first; NULL: made by an open tx */
    struct ldg_mem_cursor_value *pending; /* of locked_by */
    struct ldg_mem_tx *locked_by;         /* FOR UPDATE */
    size_t share_count;                   /* FOR SHARE */
    char name[];
};

struct ldg_mem_parked {
    struct ldg_mem_stamp stamp;
    struct ldg_parked_row row; /* views into this block, but for reason */
    int origin;
    char *reason;
};

/* One table and those beside it, but for the log. */
struct ldg_mem_table {
    struct ldg_mem_table *next;
    struct ldg_identity identity;
    int64_t last_id;
    struct ldg_memory *reserving; /* handles of whose ids not all are used */
    struct ldg_mem_rows rows;     /* ascending by id, dead ones among them */
    size_t dead_count;
    struct ldg_mem_stream **streams; /* hash table */
    size_t stream_bucket_count, stream_count;
    struct ldg_mem_stream **sorted_streams; /* by name; stale unless sorted_count == stream_count */
    size_t sorted_count;
    struct ldg_mem_index indexes[LDG_MEM_INDEX_COUNT];
    struct ldg_mem_origin *origins; /* number - 1 */
    size_t origin_count;
    bool skipped; /* changes of annotations were left out */
    struct ldg_mem_cursor *cursors;
    struct ldg_mem_parked **parked; /* ascending by id */
    size_t parked_count, parked_cap;
    int64_t last_parked_id;
    char name[];
};

struct ldg_mem_log_row {
    int64_t position; /* drawn when it is written: commits come in another order */
    int64_t seq;      /* of its commit */
    int64_t created_at_us;
    size_t size;
    char payload[];
};

struct ldg_mem_log {
    struct ldg_mem_log *next;
    struct ldg_mem_log_row **rows; /* as they were committed */
    size_t count, cap;
    int64_t last_position;
    int64_t seq;     /* of the last commit */
    size_t reserved; /* rows of open transactions: cap >= count + reserved */
    char name[];
};

struct ldg_mem_db {
    struct ldg_mem_db *next;
    size_t refs; /* open handles; under the list's mutex */
    pthread_mutex_t mutex;
    int64_t cluster; /* where its commits are numbered */
    int64_t seq;     /* of the last commit */
    size_t snapshot_count;
    bool text_ids; /* of entries, as others see them */
    struct ldg_mem_table *tables;
    struct ldg_mem_log *logs;
    char name[];
};

enum ldg_mem_action_kind {
    LDG_MEM_INSERT,
    LDG_MEM_UPDATE,
    LDG_MEM_DELETE,
    LDG_MEM_LOG,
    LDG_MEM_PARK,
    LDG_MEM_UNPARK,
    LDG_MEM_CURSOR,
};

/* One change of a transaction, enough to commit it or take it back. */
struct ldg_mem_action {
    enum ldg_mem_action_kind kind;
    struct ldg_mem_row *row;
    struct ldg_mem_version *old_pending;
    bool was_locked; /* by the same transaction, before this change */
    struct ldg_mem_log_row *log_row;
    struct ldg_mem_parked *parked;
    struct ldg_mem_cursor *cursor;
};

struct ldg_mem_tx {
    struct ldg_mem_action *actions;
    size_t count, cap;
};

/* One handle. */
struct ldg_memory {
    struct ldg_mem_db *db;
    struct ldg_mem_table *table;
    struct ldg_mem_log *log; /* NULL: off */
    const ledger_wait *wait; /* asked by calls that go through many rows */
    struct ldg_mem_tx tx;
    bool in_tx;
    bool in_snapshot;
    char id_texts[2][LEDGER_ID_TEXT_MAX]; /* what find and stat give lives here */
    int64_t snapshot_seq;
    int64_t snapshot_log_seq;
    char *wake_key; /* "memory:NAME" */
    struct ldg_arena scratch;
    struct ldg_buf event_buf;
    /* apply() with await_commit_order: the batch's ids are reserved beforehand */
    int64_t first_id; /* 0: given as entries are added */
    struct ldg_memory *next_reserving;
    int64_t reserved_id;        /* of the op in hand; 0: none */
    int64_t apply_us;           /* the moment of the batch in hand: for ops that have no time */
    struct ldg_refusals *brake; /* of the batch in hand; NULL: none */
    /* gate.c: what a test does to the call in hand */
    bool lose_ack, apply_half, hold;
    ledger_rc fault_code;
    uint32_t fault_flags;
};

/* --- data.c: databases ----------------------------------------------------------------------- */

/* The database of that name; create: made if missing. NULL: there is none, or out of memory
 * (create). */
struct ldg_mem_db *ldg_mem_db_ref(const char *name, bool create);
void ldg_mem_db_unref(struct ldg_mem_db *db); /* the last one frees it */
struct ldg_mem_table *ldg_mem_table_find(struct ldg_mem_db *db, const char *name);
struct ldg_mem_table *ldg_mem_table_create(struct ldg_mem_db *db, const char *name);
struct ldg_mem_log *ldg_mem_log_find(struct ldg_mem_db *db, const char *name);
struct ldg_mem_log *ldg_mem_log_create(struct ldg_mem_db *db, const char *name);
void ldg_mem_row_free(struct ldg_mem_row *row);
/* Frees all content; the table itself stays. */
void ldg_mem_table_clear(struct ldg_mem_table *table);
void ldg_mem_log_clear(struct ldg_mem_log *log);

/* --- data.c: what a transaction sees --------------------------------------------------------- */

enum ldg_mem_state {
    LDG_MEM_GONE,    /* deleted, rolled back */
    LDG_MEM_LIVE,    /* there, for this transaction */
    LDG_MEM_FOREIGN, /* another open transaction makes or deletes it */
};
/* For writers: now, not in a snapshot. */
enum ldg_mem_state ldg_mem_state(const struct ldg_mem_stamp *stamp, const struct ldg_mem_tx *tx);
/* For readers: own changes and commits up to seq. */
bool ldg_mem_visible(const struct ldg_mem_stamp *stamp, const struct ldg_mem_tx *tx, int64_t seq);
const struct ldg_mem_version *ldg_mem_version_seen(const struct ldg_mem_row *row,
                                                   const struct ldg_mem_tx *tx, int64_t seq);
ledger_rc ldg_mem_fail_locked(const char *what, ledger_error *err);

/* --- data.c: look-ups ------------------------------------------------------------------------ */

struct ldg_mem_stream *ldg_mem_stream_find(const struct ldg_mem_table *table, const char *name);
/* By name, rebuilt when streams came; NULL: out of memory (or no stream). */
struct ldg_mem_stream **ldg_mem_streams_sorted(struct ldg_mem_table *table);
size_t ldg_mem_rows_after(const struct ldg_mem_rows *rows,
                          int64_t id); /* first index with a larger id */
struct ldg_mem_row *ldg_mem_row_by_id(const struct ldg_mem_table *table, int64_t id);
/* Rows of one hash; the caller compares. Begin with row NULL. */
struct ldg_mem_row *ldg_mem_index_next(const struct ldg_mem_table *table, int index, uint64_t hash,
                                       const struct ldg_mem_row *row);
uint64_t ldg_mem_hash_dedup(const struct ldg_mem_stream *stream, const char *dedup_key);
uint64_t ldg_mem_hash_origin(int origin, ledger_id key);
uint64_t ldg_mem_hash_source(const char *source_id);
/* The id as others see it: the number, or, where ids are texts, 24 hex digits that rise with it, as
 * those of an ObjectID do; they are in `text`. 0: none. */
ledger_id ldg_mem_id(const struct ldg_memory *m, int64_t number, char text[LEDGER_ID_TEXT_MAX]);
ledger_id ldg_mem_id_in(const struct ldg_memory *m, int64_t number, struct ldg_arena *arena);
/* The highest number whose id is at or before this one; 0: there is none. */
int64_t ldg_mem_id_floor(const struct ldg_memory *m, ledger_id id);
/* The row with this id here. */
struct ldg_mem_row *ldg_mem_row_of(const struct ldg_memory *m, ledger_id id);
/* The row's id at its origin, as text; "" for one written here. Views the row, or text. */
const char *ldg_mem_row_source_id(const struct ldg_mem_row *row, char text[LEDGER_ID_TEXT_MAX]);
void ldg_mem_origin_text(const struct ldg_mem_table *table, int origin,
                         char text[LDG_MEM_ORIGIN_TEXT_MAX]);

/* query.c: the stream's row that has the key; NULL: none. Errors: BUSY. */
ledger_rc ldg_mem_dedup_find(struct ldg_memory *m, const char *stream, const char *dedup_key,
                             struct ldg_mem_row **ret_row, ledger_error *err);

/* --- tx.c: changes, all part of m->tx ------------------------------------------------------ */

/* What a new row is made of; strings are copied. */
struct ldg_mem_new_row {
    int64_t id; /* 0: the next one */
    const char *stream;
    ledger_bytes payload;
    const char *order_key, *dedup_key, *source_id;
    int schema_version;
    ledger_map metadata;
    ledger_list tags;
    int64_t created_at_us;
    int origin;
    ledger_id key;
};
ledger_rc ldg_mem_insert(struct ldg_memory *m, const struct ldg_mem_new_row *in,
                         struct ldg_mem_row **ret_row, ledger_error *err);
/* A new version; op: the bridged change that it comes from, NULL: a local one. Errors: BUSY. */
ledger_rc ldg_mem_update(struct ldg_memory *m, struct ldg_mem_row *row, ledger_list tags,
                         ledger_map annotations, int64_t updated_at_us, const struct ldg_op *op,
                         ledger_error *err);
/* A new version like one of another row. */
ledger_rc ldg_mem_update_as(struct ldg_memory *m, struct ldg_mem_row *row,
                            const struct ldg_mem_version *from, ledger_error *err);
/* Does op come from the log of the entry's own origin? */
bool ldg_mem_is_guarded(const struct ldg_op *op);
/* Has the entry had this change of a log, or a later one? */
bool ldg_mem_change_known(const struct ldg_mem_version *version, const struct ldg_op *op);
/* updated_at after op, which was made at time_us. */
int64_t ldg_mem_change_time(const struct ldg_mem_version *version, const struct ldg_op *op,
                            int64_t time_us);
ledger_rc ldg_mem_delete(struct ldg_memory *m, struct ldg_mem_row *row, ledger_error *err);
/* Encodes the event into the log, if there is one. */
ledger_rc ldg_mem_log_event(struct ldg_memory *m, const ledger_mutation_event *event,
                            int64_t time_us, ledger_error *err);
/* The event of one op; one that is parked already is replaced and counts an attempt
 * more. *ret_new (may be NULL): it was not. */
ledger_rc ldg_mem_park(struct ldg_memory *m, const struct ldg_op *op, const char *reason,
                       bool *ret_new, ledger_error *err);
/* Counts an attempt, with its reason. Not undone. */
ledger_rc ldg_mem_parked_again(struct ldg_mem_parked *parked, const char *reason,
                               ledger_error *err);
ledger_rc ldg_mem_unpark(struct ldg_memory *m, struct ldg_mem_parked *parked, ledger_error *err);
ledger_rc ldg_mem_cursor_write(struct ldg_memory *m, struct ldg_mem_cursor *cursor,
                               const struct ldg_cursor *next, ledger_error *err);
struct ldg_mem_cursor *ldg_mem_cursor_find(const struct ldg_mem_table *table, const char *name);
/* Without a value: nobody sees it until one is written and committed. NULL: out of memory. */
struct ldg_mem_cursor *ldg_mem_cursor_make(struct ldg_mem_table *table, const char *name);
/* Puts a row under an origin, for ldg_mem_insert and adoption. */
ledger_rc ldg_mem_origin_rows_add(struct ldg_mem_table *table, struct ldg_mem_row *row,
                                  ledger_error *err);
ledger_rc ldg_mem_index_add(struct ldg_mem_table *table, int index, struct ldg_mem_row *row,
                            uint64_t hash, ledger_error *err);
void ldg_mem_index_remove(struct ldg_mem_table *table, int index, struct ldg_mem_row *row);

/* Takes back what was done since the transaction had `mark` actions. */
void ldg_mem_undo(struct ldg_memory *m, size_t mark);
/* Cannot fail: all memory was taken before. */
void ldg_mem_commit(struct ldg_memory *m);
/* End of a call that wrote: commits unless a user's transaction is open; rc: takes back to mark. */
ledger_rc ldg_mem_finish(struct ldg_memory *m, size_t mark, ledger_rc rc);

int64_t ldg_mem_now_us(void); /* whole milliseconds */
int64_t ldg_mem_trunc_ms(int64_t time_us);
int64_t ldg_mem_seq(const struct ldg_memory *m); /* what this handle's reads may see */

/* --- gate.c ---------------------------------------------------------------------------------- */

/* What tests put in the way of the calls (tests/support/memory_faults.c). NULL: nothing. */
struct ldg_mem_hooks {
    /* At the entry of a callback, without any lock; m is NULL at an open. May make it fail, or say
     * in `m` what is to happen to it. */
    ledger_rc (*enter)(const char *name, const char *callback, struct ldg_memory *m,
                       ledger_error *err);
    /* Behind a call that has worked, without any lock; may make it fail. */
    ledger_rc (*leave)(const struct ldg_memory *m, ledger_error *err);
    /* With the mutex held, which it may release for a time. */
    void (*hold)(struct ldg_memory *m);
    bool (*refuses)(const struct ldg_memory *m, const struct ldg_op *op);
};
extern _Atomic(const struct ldg_mem_hooks *) ldg_mem_hooks;

/* Every callback begins and ends with these: hook, then mutex. */
ledger_rc ldg_mem_enter(struct ldg_memory *m, const char *callback, ledger_error *err);
ledger_rc ldg_mem_leave(struct ldg_memory *m, ledger_rc rc, ledger_error *err);
/* For the loops of a program's calls, at each row `i`: CANCELLED once the call was interrupted. */
ledger_rc ldg_mem_look_up(const struct ldg_memory *m, size_t i, ledger_error *err);
/* Hook only (there is no mutex yet). */
ledger_rc ldg_mem_before_open(const char *name, ledger_error *err);
/* In apply(), before the commit; the mutex is held before and after. */
void ldg_mem_hold(struct ldg_memory *m);
/* Is this op one that the database refuses? */
bool ldg_mem_refuses(const struct ldg_memory *m, const struct ldg_op *op);

/* --- callbacks ------------------------------------------------------------------------------- */

/* query.c */
ledger_rc ldg_mem_append(void *ctx, const char *stream, const ledger_append_input *inputs,
                         size_t count, ledger_ids *ret_ids, ledger_error *err);
ledger_rc ldg_mem_watermark(void *ctx, struct ldg_watermark *watermark, ledger_error *err);
ledger_rc ldg_mem_read_gaps(void *ctx, const char *stream, const ledger_read_options *options,
                            const int64_t *known, size_t known_count, struct ldg_arena *arena,
                            ledger_entry **ret_entries, size_t *ret_count, ledger_error *err);
ledger_rc ldg_mem_read(void *ctx, const char *stream, const char *search,
                       const ledger_read_options *options, struct ldg_arena *arena,
                       ledger_entry **ret_entries, size_t *ret_count, ledger_error *err);
ledger_rc ldg_mem_count(void *ctx, const char *stream, uint64_t *ret_count, ledger_error *err);
ledger_rc ldg_mem_stat(void *ctx, const char *stream, ledger_stream_stat *ret_stat,
                       ledger_error *err);
ledger_rc ldg_mem_list_streams(void *ctx, const char *after, size_t limit, ledger_names *ret_names,
                               ledger_error *err);
ledger_rc ldg_mem_set_tags(void *ctx, const char *stream, ledger_id id, ledger_list tags,
                           ledger_error *err);
ledger_rc ldg_mem_set_annotations(void *ctx, const char *stream, ledger_id id, ledger_map map,
                                  ledger_error *err);
ledger_rc ldg_mem_trim(void *ctx, const char *stream, ledger_id before, uint64_t *ret_deleted,
                       ledger_error *err);
ledger_rc ldg_mem_find_by_source_id(void *ctx, const char *stream, const char *source_id,
                                    ledger_id *ret_id, ledger_error *err);
ledger_rc ldg_mem_entries_by_id(void *ctx, const ledger_id *ids, size_t count,
                                struct ldg_arena *arena, ledger_entry **ret_entries,
                                ledger_error *err);
ledger_rc ldg_mem_trim_survivors(void *ctx, int origin, const char *stream, ledger_id before,
                                 struct ldg_arena *arena, ledger_id **ret_ids, size_t *ret_count,
                                 ledger_error *err);
ledger_rc ldg_mem_history_of(void *ctx, int origin, const ledger_id *keys, size_t count,
                             size_t max_bytes, struct ldg_arena *arena,
                             struct ldg_history_row **ret_rows, size_t *ret_count,
                             ledger_error *err);
ledger_rc ldg_mem_history(void *ctx, int origin, ledger_id after, size_t limit, size_t max_bytes,
                          struct ldg_arena *arena, struct ldg_history_row **ret_rows,
                          size_t *ret_count, ledger_error *err);

/* log.c */
ledger_rc ldg_mem_log_read(void *ctx, const char *state, const struct ldg_log_limits *limits,
                           struct ldg_log_batch *batch, ledger_error *err);
ledger_rc ldg_mem_log_cursor_at(void *ctx, int64_t position, char state[LDG_CURSOR_STATE_MAX],
                                ledger_error *err);
ledger_rc ldg_mem_log_check(void *ctx, const char *state, int64_t *ret_position, ledger_error *err);
ledger_rc ldg_mem_log_acknowledge(void *ctx, const char *state,
                                  char ret_state[LDG_CURSOR_STATE_MAX], ledger_error *err);
ledger_rc ldg_mem_log_stat(void *ctx, const char *state, struct ldg_log_stat *ret_stat,
                           ledger_error *err);
ledger_rc ldg_mem_log_wait(void *ctx, int wake_fd, int64_t timeout_ms, ledger_error *err);

/* sink.c */
ledger_rc ldg_mem_origin_get(void *ctx, const struct ldg_identity *identity, const char *name,
                             int *ret_origin, ledger_error *err);
ledger_rc ldg_mem_origin_list(void *ctx, struct ldg_arena *arena, struct ldg_identity **ret_items,
                              int **ret_numbers, size_t *ret_count, ledger_error *err);
ledger_rc ldg_mem_origin_adopt(void *ctx, int origin, const struct ldg_claim *claims, size_t count,
                               uint64_t *ret_adopted, ledger_error *err);
ledger_rc ldg_mem_origin_last(void *ctx, int origin, struct ldg_arena *arena, ledger_id *ret_id,
                              ledger_error *err);
ledger_rc ldg_mem_origin_rewind(void *ctx, int origin, int64_t position, ledger_error *err);
ledger_rc ldg_mem_origin_skips(void *ctx, int origin, ledger_error *err);
ledger_rc ldg_mem_origin_unguard(void *ctx, ledger_error *err);
ledger_rc ldg_mem_origin_unclaimed(void *ctx, bool *ret_any, ledger_error *err);
ledger_rc ldg_mem_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                        ledger_error *err);
ledger_rc ldg_mem_cursor_get(void *ctx, const char *name, bool create,
                             struct ldg_cursor *ret_cursor, ledger_error *err);
ledger_rc ldg_mem_cursor_set(void *ctx, const char *name, const struct ldg_cursor *expected,
                             const struct ldg_cursor *next, ledger_error *err);
ledger_rc ldg_mem_cursor_list(void *ctx, ledger_names *ret_names, ledger_error *err);
ledger_rc ldg_mem_parked_retry(void *ctx, int64_t id, const struct ldg_op *ops, size_t count,
                               bool *ret_applied, ledger_error *err);

/* parked.c */
/* Log position of the parked event that op must wait behind, for this reason; 0: none. KEY: `found`
 * has op's dedup key. */
int64_t ldg_mem_parked_before(const struct ldg_memory *m, const struct ldg_op *op, int64_t own_id,
                              enum ldg_wait wait, const struct ldg_mem_row *found);
bool ldg_mem_parked_any(const struct ldg_memory *m);
/* NULL: NOT_FOUND. */
struct ldg_mem_parked *ldg_mem_parked_find(const struct ldg_memory *m, int64_t id,
                                           ledger_error *err);
/* The op was applied: a row in which it was parked before goes. */
ledger_rc ldg_mem_parked_done(struct ldg_memory *m, const struct ldg_op *op, ledger_error *err);
ledger_rc ldg_mem_parked_trim(struct ldg_memory *m, const struct ldg_op *op, uint64_t *ret_deleted,
                              ledger_error *err);
ledger_rc ldg_mem_parked_list(void *ctx, int64_t after, size_t limit, struct ldg_arena *arena,
                              struct ldg_parked_row **ret_rows, size_t *ret_count,
                              ledger_error *err);
ledger_rc ldg_mem_parked_near(void *ctx, const struct ldg_op *ops, size_t count,
                              struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                              size_t *ret_count, ledger_error *err);
ledger_rc ldg_mem_parked_count(void *ctx, const char *source_uuid, uint64_t *ret_count,
                               ledger_error *err);
ledger_rc ldg_mem_parked_note(void *ctx, int64_t id, const char *reason, ledger_error *err);
ledger_rc ldg_mem_parked_drop(void *ctx, int64_t id, uint64_t *ret_dropped, ledger_error *err);

#endif
