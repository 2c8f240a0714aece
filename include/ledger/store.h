/* A store: one table of entries, with its mutation log, in a database the caller already has.
 *
 * Streams come into being with their first entry. Every write puts its mutation event into the log
 * in the same transaction, so a bridge sees exactly what was committed.
 *
 * Threads: one handle, one thread at a time. Open another handle for another thread. Only
 * ledger_store_interrupt() may be called beside a call.
 * Every call may fail with INVALID, CLOSED, NOMEM, BUSY (retry), CONNECT (retry), IO (retry), FULL
 * (retry), PERMISSION, SCHEMA (somebody changed the tables since the store was opened), CORRUPT,
 * CANCELLED (the program interrupted the call, or its own connection), INTERNAL; with DATA or
 * TOO_LARGE for a name or key that is no UTF-8 or too long. Calls that write may fail with
 * READ_ONLY, calls that read entries with DATA (a row that another program has written cannot be
 * read). Only further errors are listed below. On failure ret_ values are untouched and nothing was
 * written. */
#ifndef LEDGER_STORE_H
#define LEDGER_STORE_H

#include "ledger/event.h"
#include "ledger/http.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ledger_store ledger_store;

#define LEDGER_DEFAULT_TABLE "ledger_entries"
#define LEDGER_READ_LIMIT_DEFAULT 100
#define LEDGER_READ_LIMIT_MAX 10000

typedef enum ledger_log_mode {
    LEDGER_MUTATION_LOG_AUTO = 0, /* write the log if its table exists; with `create`: make it */
    LEDGER_MUTATION_LOG_ON = 1,   /* the log must exist (or `create`), else SCHEMA */
    LEDGER_MUTATION_LOG_OFF = 2,  /* write no events, make no log: a pure sink */
} ledger_log_mode;

enum {
    LEDGER_STORE_CREATE = 1 << 0,       /* make what is missing: file, tables, columns, indexes */
    LEDGER_STORE_READ_ONLY = 1 << 1,    /* every write is READ_ONLY; a file is opened read-only */
    LEDGER_STORE_APPEND_ONLY = 1 << 2,  /* set_tags and set_annotations are UNSUPPORTED */
    LEDGER_OWN_CONN = 1 << 3,           /* ledger_store_close() also closes `connection` */
    LEDGER_STORE_NEW_IDENTITY = 1 << 4, /* with CREATE: a new uuid, for a copied database */
    LEDGER_STORE_NOTIFY = 1 << 5,       /* with CREATE: each write of the log notifies bridges at
                                           once (PostgreSQL; costs writers, and they can prepare
                                           no transaction any more: docs/POSTGRESQL.md) */
    LEDGER_STORE_FULL_TEXT = 1 << 6,    /* with CREATE: an index for full_text (PostgreSQL) */
};

/* Of which kind `connection` is. */
typedef enum ledger_connection_kind {
    LEDGER_CONNECTION_SQLITE = 0,   /* sqlite3 * */
    LEDGER_CONNECTION_POSTGRES = 1, /* PGconn * */
} ledger_connection_kind;

/* What a call may be told, each time it looks up from a wait. */
typedef enum ledger_wait_answer {
    LEDGER_WAIT_ON = 0,     /* go on, for as long as the timeouts allow */
    LEDGER_WAIT_ENOUGH = 1, /* end now, unless the database is at work on it */
    LEDGER_WAIT_STOP = 2,   /* end now, whatever the database does */
} ledger_wait_answer;

/* For a call that has to wait: for a connection, an answer, a lock, a commit. The functions are
 * called from the thread that waits (a handle that a bridge has made may wait in any of its
 * threads); they must not wait themselves and not call the library. */
typedef struct ledger_wait {
    /* Asked several times a second. A call that is ended so fails as a wait does that has lasted
     * too long (BUSY, CONNECT, UNKNOWN_OUTCOME for a commit), a statement that SQLite is at work on
     * as CANCELLED. */
    ledger_wait_answer (*ask)(void *ctx, int64_t waited_ms);
    /* Told once for each wait, after ten seconds: what is waited for, in words. May be NULL. */
    void (*waiting)(void *ctx, const char *what);
    void *ctx;
} ledger_wait;

typedef struct ledger_store_options {
    size_t size;           /* set by ledger_store_options_defaults() */
    const char *url;       /* "sqlite:PATH", "postgresql://HOST/DATABASE" as libpq takes it,
                              "clickhouse://HOST/DATABASE", "memory:NAME" (NAME is shared in the
                              process); for the sink of a bridge alone "https://HOST/PATH", a
                              webhook (docs/WEBHOOK.md) */
    const char *table;     /* NULL: LEDGER_DEFAULT_TABLE; ^[A-Za-z_][A-Za-z0-9_]*$ */
    const char *log_table; /* NULL: "<table>_mutations" */
    ledger_log_mode log;
    uint32_t flags;      /* LEDGER_STORE_… */
    int busy_timeout_ms; /* how long a call waits for a lock before BUSY; default 5000 */
    void *connection;    /* the caller's own instead of url; see ledger_store_open() */
    ledger_connection_kind connection_kind;
    const char *label; /* who connects, for a database server to show (application_name); a bridge
                          adds "/NAME"; NULL: "ledger" */
    const ledger_wait *wait; /* must outlive the store, and every bridge that is made from it; NULL:
                                calls wait as long as their timeouts allow, and tell nobody */
    const ledger_http_options *http; /* for a URL that is reached over HTTP; copied; NULL: their
                                        defaults */
} ledger_store_options;

LEDGER_API void ledger_store_options_init(ledger_store_options *options, size_t size);
static inline void ledger_store_options_defaults(ledger_store_options *options)
{
    ledger_store_options_init(options, sizeof(*options));
}

/* Opens a store. Options are copied. On success *ret_store is the caller's: ledger_store_close().
 * Tables that the Go module made are taken as they are; columns and indexes that we need are added
 * to them (unless READ_ONLY), none is changed or dropped.
 * With `connection` the handle stays the caller's (unless LEDGER_OWN_CONN, on success) and must
 * outlive the store; calls made while it is inside a transaction take part in that transaction and
 * neither commit nor roll it back. A PGconn that is lost is not made anew.
 * Errors: SCHEMA (tables missing without CREATE, or of another shape), PERMISSION, UNSUPPORTED
 * (unknown or disabled URL scheme; a flag that this backend cannot follow). */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_open(const ledger_store_options *options,
                                                       ledger_store **ret_store, ledger_error *err);

/* Closes; an open transaction of ledger_store_begin() is rolled back. NULL is fine; sets NULL. */
LEDGER_API void ledger_store_close(ledger_store **store);

/* Ends the call that runs on this handle, also one on a tail or stream of it: soon (a wait looks up
 * ten times a second, work more often) it fails with CANCELLED, nothing of it was written, and the
 * store goes on. NULL is fine. Threads: any, and a signal handler, while the store is open.
 *
 * A call that was about to end ends with its own result, and so does one whose COMMIT is under way,
 * however long that takes (one of SQLite that waits for a lock has not begun: it is rolled back);
 * rolling back and closing are not interrupted. When no call runs nothing happens, also not to the
 * next one: each forgets at its entry what came before. Who means a call that may not have begun
 * yet interrupts again until it has returned.
 *
 * Inside of ledger_store_begin()'s transaction: call ledger_store_rollback() after CANCELLED.
 * PostgreSQL takes nothing else then, and SQLite has undone all of it if a write was interrupted.
 *
 * PostgreSQL is told on a second connection to cancel the statement. A server that does not answer
 * for some seconds, and any behind a pooler, loses the connection instead, and the next call makes
 * a new one; the outcome of a write that is a transaction of its own is then UNKNOWN_OUTCOME.
 * On a `connection` of the caller's: SQLite hears of it between two rows only, and not while it
 * waits for a lock; PostgreSQL by PQcancel(), so the call ends when the server answers.
 * A bridge has handles of its own: ledger_bridge_request_stop(). */
LEDGER_API void ledger_store_interrupt(ledger_store *store);

/* Views; live as long as the store. */
LEDGER_API const char *ledger_store_table(const ledger_store *store);
LEDGER_API const char *ledger_store_backend(const ledger_store *store); /* "sqlite" */
LEDGER_API const char *ledger_store_url(const ledger_store *store);     /* secrets masked */
LEDGER_API bool ledger_store_has_log(const ledger_store *store);

/* --- transactions -------------------------------------------------------------------------- */

/* Several writes in one transaction of this handle. No nesting: INVALID. Errors: UNSUPPORTED. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_begin(ledger_store *store, ledger_error *err);
/* After BUSY the transaction is still open: commit again, or roll back. After any other error it is
 * over, and nothing of it was written. Errors: UNKNOWN_OUTCOME (retry: all of it, or nothing). */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_commit(ledger_store *store, ledger_error *err);
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_rollback(ledger_store *store, ledger_error *err);

/* --- writing ------------------------------------------------------------------------------- */

/* Appends entries to one stream, in order. An entry whose dedup_key its stream already has is left
 * out, silently. inputs: borrowed. ret_ids (may be NULL): one id per new entry, in order; the
 * caller's: ledger_ids_destroy(). Atomic, with one mutation event for the call. count 0: nothing.
 * Errors: DATA (payload is not JSON), TOO_LARGE. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_append(ledger_store *store, const char *stream,
                                                         const ledger_append_input *inputs,
                                                         size_t count, ledger_ids *ret_ids,
                                                         ledger_error *err);

/* Replaces all tags of an entry. Errors: NOT_FOUND, TOO_LARGE, UNSUPPORTED. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_set_tags(ledger_store *store, const char *stream,
                                                           ledger_id id, ledger_list tags,
                                                           ledger_error *err);

/* Merges annotations into an entry's; a NULL value deletes its key. Errors as set_tags. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_set_annotations(ledger_store *store,
                                                                  const char *stream, ledger_id id,
                                                                  ledger_map annotations,
                                                                  ledger_error *err);

/* Deletes the stream's entries with id <= before; none with an id of 0 or less (an empty text).
 * ret_deleted may be NULL. Errors: UNSUPPORTED. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_trim(ledger_store *store, const char *stream,
                                                       ledger_id before, uint64_t *ret_deleted,
                                                       ledger_error *err);

/* --- reading ------------------------------------------------------------------------------- */

/* Filters combine with "and". */
typedef struct ledger_read_options {
    size_t size; /* set by ledger_read_options_defaults(); sizeof(ledger_read_options) with all else
                    0 is the same */
    bool descending;
    bool full_text; /* search only: whole words, in any order, each of them; UNSUPPORTED where the
                       database has no such search (PostgreSQL has) */
    bool has_after;
    ledger_id after; /* ascending: id > after; descending: id < after; 0 or less, or an empty text:
                        from the beginning, in either order */
    size_t limit;    /* 0: LEDGER_READ_LIMIT_DEFAULT; at most LEDGER_READ_LIMIT_MAX */
    const char *order_key; /* NULL or "": any */
    const char *tag;       /* NULL or "": any */
    ledger_list all_tags;  /* entry has each of them */
    ledger_map metadata;   /* entry has each key with this very value */
    ledger_map annotations;
    size_t max_bytes; /* ends the batch early, after at least one entry; 0: 64 MiB */
} ledger_read_options;
LEDGER_API void ledger_read_options_init(ledger_read_options *options, size_t size);
static inline void ledger_read_options_defaults(ledger_read_options *options)
{
    ledger_read_options_init(options, sizeof(*options));
}

/* Entries of one stream (NULL: of the whole store), in id order. options may be NULL. *ret_batch is
 * the caller's: ledger_batch_destroy(). */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_read(ledger_store *store, const char *stream,
                                                       const ledger_read_options *options,
                                                       ledger_batch **ret_batch, ledger_error *err);

/* Entries whose payload contains text (ASCII case ignored). stream NULL: every stream.
 * Errors: UNSUPPORTED without the capability. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_search(ledger_store *store, const char *stream,
                                                         const char *text,
                                                         const ledger_read_options *options,
                                                         ledger_batch **ret_batch,
                                                         ledger_error *err);

/* Following: each entry once, those that are there and those that come. In PostgreSQL a transaction
 * may commit an entry with a lower id than others that were given before it; it is given, too, when
 * it is committed. So ids need not rise from one call to the next; within a batch they do. */
typedef struct ledger_tail ledger_tail;

/* options (may be NULL; copied, what they point to is borrowed until the close): after, limit and
 * max_bytes of each batch, filters; `descending` is left aside. An entry is held against filters of
 * tags and annotations when it is met. at_end: only what is committed from now on. stream NULL:
 * every stream. The store must outlive the tail. *ret_tail: ledger_tail_close().
 * Errors: UNSUPPORTED (a PostgreSQL standby, which does not know the primary's transactions). */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_tail_open(ledger_store *store, const char *stream,
                                                      const ledger_read_options *options,
                                                      bool at_end, ledger_tail **ret_tail,
                                                      ledger_error *err);
/* What came since the last call, perhaps nothing; never waits. A failed call has given nothing, and
 * may be made again. *ret_batch is the caller's: ledger_batch_destroy(). Errors: as open. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_tail_read(ledger_tail *tail, ledger_batch **ret_batch,
                                                      ledger_error *err);
/* NULL is fine; sets NULL. */
LEDGER_API void ledger_tail_close(ledger_tail **tail);

/* Entries in one stream; stream NULL: in the store. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_count(ledger_store *store, const char *stream,
                                                        uint64_t *ret_count, ledger_error *err);

typedef struct ledger_stream_stat {
    uint64_t count;
    ledger_id first_id, last_id;     /* 0 when empty */
    int64_t first_at_us, last_at_us; /* created_at of them; LEDGER_NO_TIME when empty */
} ledger_stream_stat;
/* stream NULL: of the whole store. Ids that are texts live until the next call with this handle. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_stat(ledger_store *store, const char *stream,
                                                       ledger_stream_stat *ret_stat,
                                                       ledger_error *err);

/* Names of streams that have entries, ascending bytewise, after `after` (NULL: from the start), at
 * most limit (0: LEDGER_READ_LIMIT_DEFAULT). *ret_names: ledger_names_destroy(). */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_list_streams(ledger_store *store,
                                                               const char *after, size_t limit,
                                                               ledger_names *ret_names,
                                                               ledger_error *err);

/* The entry that was carried here under this id of its origin. Errors: NOT_FOUND, UNSUPPORTED. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_find_by_source_id(ledger_store *store,
                                                                    const char *stream,
                                                                    const char *source_id,
                                                                    ledger_id *ret_id,
                                                                    ledger_error *err);

/* --- cursors and health -------------------------------------------------------------------- */

/* A named position, as the Go module's CursorStore: the text that was set last. A bridge's cursor
 * is one too, but setting it here cuts what binds it to its source: see ledger_bridge_cursor_set().
 * text: at most LEDGER_ID_TEXT_MAX bytes with NUL.
 * Errors: NOT_FOUND, UNSUPPORTED; INVALID: set inside a transaction. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_cursor_get(ledger_store *store, const char *name,
                                                             char text[LEDGER_ID_TEXT_MAX],
                                                             ledger_error *err);
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_cursor_set(ledger_store *store, const char *name,
                                                             const char *text, ledger_error *err);

/* Asks the database for a sign of life. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_health(ledger_store *store, ledger_error *err);

typedef enum ledger_severity {
    LEDGER_FINDING_OK,
    LEDGER_FINDING_WARNING,
    LEDGER_FINDING_ERROR,
} ledger_severity;
/* Called once per finding; text lives for the call. */
typedef void (*ledger_finding_fn)(void *ctx, ledger_severity severity, const char *subject,
                                  const char *text);
/* Looks at tables, columns, indexes, settings and library version; writes nothing. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_store_check(ledger_store *store, ledger_finding_fn fn,
                                                        void *ctx, ledger_error *err);

#ifdef __cplusplus
}
#endif
#endif
