/* What the files of this backend share: the open database, its statements, its names.
 *
 * backend.c  open, close, the roles         fail.c    what SQLite's results mean
 * db.c       statements (db.h)              tx.c      transactions
 * file.c     which file a name leads to, and if it still does
 * busy.c     waiting for a lock of the file
 * schema.c   tables, migration              check.c   findings about a store
 * write.c    append, set, trim              query.c   read, search, history
 * The source's side: log.c (rows, cursor, witness), watch.c (waiting for a commit). The sink's
 * side: cursors.c (origins, cursors), apply.c, known.c, change.c, add.c (the fenced batch:
 * apply.h), parked.c (parked events), durable.c (a thread that syncs the WAL while it is busy). */
#ifndef LDG_BACKEND_SQLITE_SQLITE_H
#define LDG_BACKEND_SQLITE_SQLITE_H

#include <sqlite3.h>
#include <sys/types.h>

#include "backend/sqlite/db.h"
#include "base/error.h"
#include "base/mem.h"
#include "event/event.h"
#include "store/backend.h"

/* A payload over 1 MiB is left out of the row, and its size given (else NULL): it is then read
 * straight into its place. */
#define LDG_SQLITE_IS_LARGE "typeof(payload) = 'blob' AND length(payload) > 1048576"
#define LDG_SQLITE_SMALL_PAYLOAD "CASE WHEN " LDG_SQLITE_IS_LARGE " THEN NULL ELSE payload END"
#define LDG_SQLITE_LARGE_SIZE "CASE WHEN " LDG_SQLITE_IS_LARGE " THEN length(payload) END"

#define LDG_SQLITE_SLOTS 64

struct ldg_sqlite_durable; /* durable.c */
struct ldg_sqlite_watch;   /* watch.c: inotify */

struct ldg_sqlite {
    sqlite3 *db;
    int64_t schema_version; /* of the file, when its tables were looked at */
    bool own_db;
    bool in_user_tx; /* between tx_begin and tx_commit */
    bool in_snapshot;
    bool has_log;
    bool has_ours;      /* our columns and side tables exist (a read-only Go table may lack them) */
    bool has_source_id; /* the column; a read-only table of an old Go module may lack it */
    bool parks_texts;   /* <table>_parked has keys that are texts; one of an earlier version that is
                           read-only may not */
    bool has_origins; /* <table>_origins has rows: entries may be bridged ones; trim looks again */
    enum ldg_role role;
    uint32_t flags;
    char *path;   /* the real one, which the WAL lies beside; NULL for a nameless database */
    char *given;  /* as the caller named it, from the root on, links as they are: for reopening */
    dev_t device; /* of the file that is open */
    ino_t inode;
    bool has_wal; /* there was one when it was opened: */
    bool no_wal;  /* when it was opened its journal was of another mode */
    dev_t wal_device;
    ino_t wal_inode;
    struct ldg_sqlite *next; /* file.c: of the handles that have a WAL */
    int64_t verified_us;     /* monotonic: when the name was compared with what is open */
    char *table;             /* checked names, safe to paste */
    char *log_table;
    struct ldg_identity identity;
    struct ldg_sqlite_prepared *prepared[LDG_SQLITE_SLOTS]; /* db.c */
    struct ldg_arena scratch;
    struct ldg_buf event_buf;
    struct ldg_arena merge_arena; /* of ldg_merge_annotations() */
    struct ldg_buf merge_buf;
    char wake_name[32]; /* of a nameless database */
    struct ldg_sqlite_watch *watch;
    struct ldg_sqlite_durable *durable;
    uint64_t applied_count; /* committed apply() calls */
    int64_t seen_version;   /* data_version of the last log_read: the witness was right then */
    bool seen;              /* there was one */
    bool was_known; /* the last one brought what was here: the next is asked about at once */
    const ledger_wait *wait;
    bool has_handlers; /* SQLite asks `wait` by itself; else it is asked between rows */
    bool undisturbed;  /* what is done now is done for good: work does not ask */
    int busy_timeout_ms;
    struct ldg_waiting waiting; /* for a lock */
};

/* fail.c: turns a SQLite result into our code, with its text. */
ledger_rc ldg_sqlite_fail(struct ldg_sqlite *s, int sqlite_rc, const char *doing,
                          ledger_error *err);
/* CANCELLED: the program has interrupted the call. */
ledger_rc ldg_sqlite_fail_interrupted(const struct ldg_sqlite *s, const char *doing,
                                      ledger_error *err);
/* A failure to write what is ours alone (cursors, parked events …): no event's fault. */
ledger_rc ldg_sqlite_own_fail(struct ldg_sqlite *s, int code, const char *doing, ledger_error *err);
/* The statement that lets a table's ids go on behind its rows; complete enough to paste. */
#define LDG_SQLITE_HELP_MAX 400
void ldg_sqlite_help_ids(const char *table, char help[LDG_SQLITE_HELP_MAX]);
/* SCHEMA: no id is left for a row of this table. */
ledger_rc ldg_sqlite_fail_ids(struct ldg_sqlite *s, const char *table, ledger_error *err);

/* db.c */
/* What this very row runs into is REJECTED, with SQLite's (or a trigger's) own words; anything else
 * would hit every row. */
ledger_rc ldg_sqlite_op_fail(struct ldg_sqlite *s, int code, const char *doing, ledger_error *err);

/* tx.c */
/* BEGIN IMMEDIATE unless a transaction (tx_begin's or the caller's own) is already open; *ret_own
 * tells whether commit or rollback is ours. */
ledger_rc ldg_sqlite_begin_write(struct ldg_sqlite *s, bool *ret_own, ledger_error *err);
ledger_rc ldg_sqlite_commit(struct ldg_sqlite *s, ledger_error *err);
/* begin_write, or a savepoint inside a transaction that is not ours; end with the result of what
 * was done between: commits what worked, takes back what did not, returns the result of both. */
ledger_rc ldg_sqlite_write_begin(struct ldg_sqlite *s, bool *ret_own, ledger_error *err);
ledger_rc ldg_sqlite_write_end(struct ldg_sqlite *s, bool own, ledger_rc rc, ledger_error *err);
/* A savepoint, inside a transaction: set, then kept or taken back. */
ledger_rc ldg_sqlite_save(struct ldg_sqlite *s, ledger_error *err);
ledger_rc ldg_sqlite_release(struct ldg_sqlite *s, ledger_error *err);
ledger_rc ldg_sqlite_undo(struct ldg_sqlite *s, ledger_error *err);
/* Adds what became of the transaction to an error. */
void ldg_sqlite_add_note(ledger_error *err, const char *text);
/* One transaction around what is read, unless there is one. */
ledger_rc ldg_sqlite_read_begin(struct ldg_sqlite *s, bool *ret_own, ledger_error *err);
void ldg_sqlite_read_end(struct ldg_sqlite *s, bool own);
/* Another number than before: somebody else has committed. */
ledger_rc ldg_sqlite_data_version(struct ldg_sqlite *s, int64_t *ret_version, ledger_error *err);
ledger_rc ldg_sqlite_tx_begin(void *ctx, ledger_error *err);
ledger_rc ldg_sqlite_tx_commit(void *ctx, ledger_error *err);
ledger_rc ldg_sqlite_tx_rollback(void *ctx, ledger_error *err);
ledger_rc ldg_sqlite_snapshot_begin(void *ctx, ledger_error *err);
void ldg_sqlite_snapshot_end(void *ctx);

/* file.c */
ledger_rc ldg_sqlite_code_of_disk(const char *path, int error, ledger_rc otherwise,
                                  const char **ret_hint);
/* Are the descriptors of the process, or of the machine, used up? */
bool ldg_sqlite_no_descriptors(int error);
#define LDG_SQLITE_NO_DESCRIPTORS                                                                  \
    "; too many open files: raise the limit (`ulimit -n`, systemd's LimitNOFILE)"
/* Finds the file and sets s->path and s->given. Errors: SCHEMA, CONNECT (it is not there), INVALID,
 * PERMISSION (no file that could be a database), UNSUPPORTED (it has a second name). For the roles
 * of a bridge the last one may pass: RETRY. */
ledger_rc ldg_sqlite_file_find(struct ldg_sqlite *s, const struct ldg_open *open, const char *name,
                               ledger_error *err);
/* The same for the file of a connection that the caller brought; it may be gone. */
ledger_rc ldg_sqlite_file_of_connection(struct ldg_sqlite *s, const char *name, ledger_error *err);
/* After SQLite has opened it: remembers which file that is. Errors: as file_verify; CONNECT, FATAL
 * (another handle of this process has the same file open, with a WAL that is gone). */
ledger_rc ldg_sqlite_file_opened(struct ldg_sqlite *s, ledger_error *err);
/* After the first read: remembers which WAL this connection has open, until forget. */
void ldg_sqlite_file_keep_wal(struct ldg_sqlite *s);
void ldg_sqlite_file_forget(struct ldg_sqlite *s);
/* Does the name as given still lead to the file that is open, and to it alone? Asked once a second
 * at most, or at once; of a connection that the caller brought only at once. Errors: CONNECT (it
 * leads elsewhere, or the WAL was taken away), UNSUPPORTED (a second name); both RETRY for a
 * bridge, as it opens its handles again. */
ledger_rc ldg_sqlite_file_verify(struct ldg_sqlite *s, bool at_once, ledger_error *err);
/* Opening it failed with rc: may it be a copy that is still being written? It is empty, or damaged,
 * and was written to in the last seconds. A whole database that lacks a table is none. */
bool ldg_sqlite_file_may_grow(const struct ldg_sqlite *s, ledger_rc rc);
/* For a message: its path, or "the database". */
const char *ldg_sqlite_file_name(const struct ldg_sqlite *s);
/* Is something mounted at this very path? For kernels before 5.8, which cannot say it of a file. */
bool ldg_sqlite_file_in_mountinfo(const char *path);
/* Name of a file system that other machines may share; NULL: it is a local one. */
const char *ldg_sqlite_file_remote(unsigned long magic);
void ldg_sqlite_file_check(struct ldg_sqlite *s, ledger_finding_fn fn, void *fn_ctx);

/* busy.c */
/* How this connection of ours waits for locks: as long as busy_timeout_ms and s->wait allow. Gives
 * SQLite's code. */
int ldg_sqlite_wait_setup(struct ldg_sqlite *s);
#define LDG_SQLITE_HOLDER_MAX 80
/* Who holds the lock of the file, in words: "process 4711 (python3)", "another connection". */
void ldg_sqlite_holder(const struct ldg_sqlite *s, char out[LDG_SQLITE_HOLDER_MAX]);

/* schema.c */
ledger_rc ldg_sqlite_schema_open(struct ldg_sqlite *s, const struct ldg_open *open,
                                 ledger_error *err);
/* Looks at the tables again if any table of the file was changed since. Errors: as open. */
ledger_rc ldg_sqlite_schema_refresh(struct ldg_sqlite *s, ledger_error *err);
/* Sets has_origins. */
ledger_rc ldg_sqlite_schema_origins(struct ldg_sqlite *s, ledger_error *err);
/* Are the tables still what they should be? Errors: SCHEMA. */
ledger_rc ldg_sqlite_schema_verify(struct ldg_sqlite *s, ledger_error *err);

/* check.c */
ledger_rc ldg_sqlite_check(void *ctx, ledger_finding_fn fn, void *fn_ctx, ledger_error *err);

/* write.c */
/* Merges changes into the annotations text of a row (NULL data: none yet) and appends the canonical
 * text to out. Errors: DATA (old is no object of strings), NOMEM, TOO_LARGE. The SQL function
 * ldg_merge_annotations(old, changes), on connections of our own, does the same. */
ledger_rc ldg_sqlite_merge(struct ldg_sqlite *s, ledger_bytes old, ledger_map changes,
                           struct ldg_buf *out, ledger_error *err);
int ldg_sqlite_register_functions(struct ldg_sqlite *s);
ledger_rc ldg_sqlite_append(void *ctx, const char *stream, const ledger_append_input *inputs,
                            size_t count, ledger_ids *ret_ids, ledger_error *err);
ledger_rc ldg_sqlite_set_tags(void *ctx, const char *stream, ledger_id id, ledger_list tags,
                              ledger_error *err);
ledger_rc ldg_sqlite_set_annotations(void *ctx, const char *stream, ledger_id id, ledger_map map,
                                     ledger_error *err);
ledger_rc ldg_sqlite_trim(void *ctx, const char *stream, ledger_id before, uint64_t *ret_deleted,
                          ledger_error *err);
/* Writes one event into the log, with this time. */
ledger_rc ldg_sqlite_log_event(struct ldg_sqlite *s, ledger_bytes event, const char *time_text,
                               ledger_error *err);

/* query.c */
#define LDG_SQLITE_INT64_MAX 24
/* A view of text. */
const char *ldg_sqlite_int64_text(int64_t value, char text[LDG_SQLITE_INT64_MAX]);
/* DATA: what another program has written into this row cannot be read. */
ledger_rc ldg_sqlite_fail_row(const struct ldg_sqlite *s, int64_t id, const char *column,
                              const char *why, ledger_error *err);
ledger_rc ldg_sqlite_read(void *ctx, const char *stream, const char *search,
                          const ledger_read_options *options, struct ldg_arena *arena,
                          ledger_entry **ret_entries, size_t *ret_count, ledger_error *err);
ledger_rc ldg_sqlite_count(void *ctx, const char *stream, uint64_t *ret_count, ledger_error *err);
ledger_rc ldg_sqlite_stat(void *ctx, const char *stream, ledger_stream_stat *ret_stat,
                          ledger_error *err);
ledger_rc ldg_sqlite_list_streams(void *ctx, const char *after, size_t limit,
                                  ledger_names *ret_names, ledger_error *err);
ledger_rc ldg_sqlite_find_by_source_id(void *ctx, const char *stream, const char *source_id,
                                       ledger_id *ret_id, ledger_error *err);
ledger_rc ldg_sqlite_entries_by_id(void *ctx, const ledger_id *ids, size_t count,
                                   struct ldg_arena *arena, ledger_entry **ret_entries,
                                   ledger_error *err);
ledger_rc ldg_sqlite_trim_survivors(void *ctx, int origin, const char *stream, ledger_id before,
                                    struct ldg_arena *arena, ledger_id **ret_ids, size_t *ret_count,
                                    ledger_error *err);
ledger_rc ldg_sqlite_history_of(void *ctx, int origin, const ledger_id *keys, size_t count,
                                size_t max_bytes, struct ldg_arena *arena,
                                struct ldg_history_row **ret_rows, size_t *ret_count,
                                ledger_error *err);
ledger_rc ldg_sqlite_history(void *ctx, int origin, ledger_id after, size_t limit, size_t max_bytes,
                             struct ldg_arena *arena, struct ldg_history_row **ret_rows,
                             size_t *ret_count, ledger_error *err);

/* log.c */
ledger_rc ldg_sqlite_log_read(void *ctx, const char *state, const struct ldg_log_limits *limits,
                              struct ldg_log_batch *batch, ledger_error *err);
ledger_rc ldg_sqlite_log_cursor_at(void *ctx, int64_t position, char state[LDG_CURSOR_STATE_MAX],
                                   ledger_error *err);
ledger_rc ldg_sqlite_log_check(void *ctx, const char *state, int64_t *ret_position,
                               ledger_error *err);
ledger_rc ldg_sqlite_log_stat(void *ctx, const char *state, struct ldg_log_stat *ret_stat,
                              ledger_error *err);
/* watch.c */
ledger_rc ldg_sqlite_log_wait(void *ctx, int wake_fd, int64_t timeout_ms, ledger_error *err);
void ldg_sqlite_watch_close(struct ldg_sqlite *s);

/* cursors.c */
ledger_rc ldg_sqlite_origin_get(void *ctx, const struct ldg_identity *identity, const char *name,
                                int *ret_origin, ledger_error *err);
ledger_rc ldg_sqlite_origin_list(void *ctx, struct ldg_arena *arena,
                                 struct ldg_identity **ret_items, int **ret_numbers,
                                 size_t *ret_count, ledger_error *err);
ledger_rc ldg_sqlite_origin_adopt(void *ctx, int origin, const struct ldg_claim *claims,
                                  size_t count, uint64_t *ret_adopted, ledger_error *err);
ledger_rc ldg_sqlite_origin_last(void *ctx, int origin, struct ldg_arena *arena, ledger_id *ret_id,
                                 ledger_error *err);
ledger_rc ldg_sqlite_origin_carry_ids(void *ctx, int *ret_origin, ledger_error *err);
ledger_rc ldg_sqlite_origin_rewind(void *ctx, int origin, int64_t position, ledger_error *err);
ledger_rc ldg_sqlite_origin_skips(void *ctx, int origin, ledger_error *err);
ledger_rc ldg_sqlite_origin_unguard(void *ctx, ledger_error *err);
ledger_rc ldg_sqlite_origin_unclaimed(void *ctx, bool *ret_any, ledger_error *err);
ledger_rc ldg_sqlite_cursor_get(void *ctx, const char *name, bool create,
                                struct ldg_cursor *ret_cursor, ledger_error *err);
ledger_rc ldg_sqlite_cursor_set(void *ctx, const char *name, const struct ldg_cursor *expected,
                                const struct ldg_cursor *next, ledger_error *err);
ledger_rc ldg_sqlite_cursor_list(void *ctx, ledger_names *ret_names, ledger_error *err);

/* apply.c */
ledger_rc ldg_sqlite_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                           ledger_error *err);
ledger_rc ldg_sqlite_parked_retry(void *ctx, int64_t id, const struct ldg_op *ops, size_t count,
                                  bool *ret_applied, ledger_error *err);

/* parked.c */
ledger_rc ldg_sqlite_parked_list(void *ctx, int64_t after, size_t limit, struct ldg_arena *arena,
                                 struct ldg_parked_row **ret_rows, size_t *ret_count,
                                 ledger_error *err);
ledger_rc ldg_sqlite_parked_near(void *ctx, const struct ldg_op *ops, size_t count,
                                 struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                                 size_t *ret_count, ledger_error *err);
ledger_rc ldg_sqlite_parked_count(void *ctx, const char *source_uuid, uint64_t *ret_count,
                                  ledger_error *err);
ledger_rc ldg_sqlite_parked_note(void *ctx, int64_t id, const char *reason, ledger_error *err);
ledger_rc ldg_sqlite_parked_drop(void *ctx, int64_t id, uint64_t *ret_dropped, ledger_error *err);

/* durable.c: syncs the WAL through a descriptor of its own, never a second SQLite connection. */
ledger_rc ldg_sqlite_durable_start(struct ldg_sqlite *s, ledger_error *err);
void ldg_sqlite_durable_stop(struct ldg_sqlite *s);
void ldg_sqlite_durable_committed(struct ldg_sqlite *s); /* after each commit of apply() */
uint64_t ldg_sqlite_durable_count(void *ctx);

#endif
