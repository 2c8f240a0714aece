/* What the files of this backend share: the connection, its statements, its names.
 *
 * The connection's side, from the bottom to the top; each calls only what stands before it:
 * value.c    our values <-> parameters        tables.c   the shape of the tables (schema.h)
 * fail.c     SQLSTATE -> our codes, pure      sql.c      the texts of statements (exec.h)
 * orphan.c   sessions left behind             conn.c     connecting, letting go
 * probe.c    asked on a second connection     exec.c     one request and its answer; COPY
 * settings.c what a session of ours is like   prepared.c prepared statements, pipelines
 * tx.c       transactions                     catalog.c  what the catalog says of the tables
 * grants.c   who may do what                  migrate.c  making and mending the tables
 * schema.c   opening them                     session.c  entering, connecting anew
 * Above them: check.c what `store check` finds; backend.c the roles, open, close, snapshots;
 * write.c  append, set, trim                  query.c   read, search, history
 * lookup.c counts, single look-ups            tail.c    which ids have settled
 * The source's side (source.h): snapshot.c sets of transactions and the cursor's text, pure;
 * log_diff.c what is new, the witness; log.c pages of rows; wait.c waiting for a commit.
 * The sink's side: cursors.c origins and cursors; apply.c the fenced batch, with begin.c, known.c,
 * order.c, change.c, add.c and copy.c (apply.h); parked.c parked events (parked.h).
 *
 * Behind a pooler in transaction mode a session is ours only for a transaction, so nothing here
 * lives in one: no session setting, no named statement, no LISTEN, where `pooled` is set; settings
 * are made with set_config(…, true) inside a transaction. */
#ifndef LDG_BACKEND_POSTGRES_POSTGRES_H
#define LDG_BACKEND_POSTGRES_POSTGRES_H

#include <libpq-fe.h>

#include "base/error.h"
#include "base/mem.h"
#include "event/event.h"
#include "store/backend.h"

#define LDG_PG_VERSION_MIN 130000
/* idx_<log>_txid has to fit into an identifier of 63 bytes, and <log> is <table>_mutations. */
#define LDG_PG_TABLE_MAX_BYTES 44
#define LDG_PG_LOG_TABLE_MAX_BYTES 54
#define LDG_PG_ARGS_MAX 24
/* A row of an index takes 2,704 bytes, compressed or not: a header of 8, stream, key, with 4 bytes
 * before each and up to 3 to align them, and an id in one index of the Go module's. */
#define LDG_PG_KEYS_MAX_BYTES 2670
#define LDG_PG_KEYS_MAX_TEXT "2,670"

#define LDG_PG_GRANT_MAX 256
#define LDG_PG_HOLDER_MAX 200
#define LDG_PG_TABLES 7 /* enum ldg_pg_table */

/* Where the ids of a table come from; "" where it has none. */
struct ldg_pg_ids {
    char key[64];       /* the constraint that keeps them unique */
    char sequence[160]; /* as SQL writes it */
};

struct ldg_pg_source; /* log.c, wait.c */
struct ldg_pg_sink;   /* apply.c */
struct ldg_pg_sql;    /* exec.h: a text with the names put in, and its prepared statement */

/* One statement of a pipeline that has been sent and whose result was not received yet. */
struct ldg_pg_sent {
    struct ldg_pg_sql *prepares; /* it is the preparation of this one; NULL: a statement */
    struct ldg_pg_sql *runs;     /* that was prepared; NULL: a text */
};

struct ldg_pg {
    PGconn *conn;       /* NULL: lost, and ours to make anew */
    bool own_conn;      /* else the caller's: never closed, never made anew, no named statements */
    bool close_given;   /* the caller's, but LEDGER_OWN_CONN: close() closes it */
    bool pooled;        /* a pooler stands between: PQbackendPID() is not pg_backend_pid() */
    bool in_user_tx;    /* between tx_begin and tx_commit */
    bool in_snapshot;   /* between snapshot_begin and snapshot_end */
    bool has_log;       /* the log's table exists and is written */
    bool has_ours;      /* our columns and side tables exist (a read-only Go table may lack them) */
    bool has_txid;      /* the log has its column txid */
    bool has_source_id; /* the column; a table of an old Go module may lack it */
    bool has_notify;    /* the log has a trigger that notifies */
    bool has_full_text; /* the index of full text exists */
    bool has_origins;   /* <table>_origins has rows; trim looks again */
    bool has_entry_id;  /* the column of <table>_parked; older tables lack it */
    bool has_text_keys; /* that, and the index of bridged rows by texts */
    enum ldg_role role;
    uint32_t flags;
    int busy_timeout_ms;
    int server_version; /* 150018 */
    bool has_standbys;  /* commits wait for a standby, as it was set when we connected */
    char system_id[24]; /* of the cluster; "" where the role may not ask */
    char *url;          /* with its secrets; NULL with a connection */
    char *label;        /* application_name */
    char *table;        /* checked, folded to lower case as PostgreSQL folds it, safe to paste */
    char *log_table;
    char *wake_name; /* cluster, database, table */
    struct ldg_identity identity;
    struct ldg_pg_ids ids[LDG_PG_TABLES];
    char refused_by[64]; /* constraint or column that the last failure named; "" */
    size_t copy_line;    /* row of a COPY that the last failure named, from 1; 0: none */
    struct ldg_arena scratch;
    struct ldg_buf event_buf;
    struct ldg_pg_sql **sqls; /* by address of the template */
    size_t sql_count, sql_cap;
    uint64_t connect_count;   /* rises with each new connection */
    uint64_t name_count;      /* of prepared statements */
    char *where;              /* 'database "orders" at db1:5432', for messages */
    bool opened;              /* open has succeeded once: this was a primary of the right shape */
    bool must_set_up;         /* somebody has thrown away what this session had … */
    int taken_count;          /* … so often */
    bool lost_in_tx;          /* the connection broke inside tx_begin's transaction or a snapshot */
    bool reply_lost;          /* it broke while the last statement was under way */
    int backend_pid;          /* of this connection; 0 behind a pooler */
    int64_t backend_start_us; /* the two name one backend of the cluster, for ever */
    int64_t checked_us;       /* when the tables were checked last; 0: it is time to */
    int64_t explained_us;     /* when a missing privilege was last looked into … */
    char explained[LDG_PG_GRANT_MAX]; /* … and what it was */
    uint64_t explained_of;            /* hash of the server's text */
    int reply_timeout_ms; /* silence after which a second connection asks whether it still works */
    int silent_ms;        /* a bridge whose program says nothing for so long may be ended */
    const ledger_wait *wait;        /* NULL: nobody is asked or told */
    unsigned lock_failures;         /* waits for a lock that have ended without it, in a row */
    bool commits;                   /* a COMMIT or ROLLBACK is under way */
    bool writes_alone;              /* what is under way writes, and is a transaction of its own */
    bool cancelled;                 /* the statement under way, by us: enough waited for its lock */
    int64_t interrupted_us;         /* the same for an interrupt: since then; 0: it was not */
    char holder[LDG_PG_HOLDER_MAX]; /* who was last seen with a lock that was waited for; "" */
    /* pipeline */
    struct ldg_pg_sent *sent;
    size_t sent_first, sent_count, sent_cap;
    bool sync_sent;
    bool was_nonblocking;
    bool pipe_failed;
    ledger_error pipe_error; /* the first failure */
    struct ldg_pg_source *source;
    struct ldg_pg_sink *sink;
};

/* --- value.c: arguments ---------------------------------------------------------------------- */

/* Parameters $1, $2 … of one statement, in the order they are added; all binary or text as noted.
 * Texts and bytes are borrowed. */
struct ldg_pg_args {
    int count;
    ledger_rc rc; /* OK; TOO_LARGE: a value over 1 GB */
    Oid types[LDG_PG_ARGS_MAX];
    const char *values[LDG_PG_ARGS_MAX];
    int lengths[LDG_PG_ARGS_MAX];
    int formats[LDG_PG_ARGS_MAX];
    char numbers[LDG_PG_ARGS_MAX][8]; /* int8 in network order */
};
void ldg_pg_arg_text(struct ldg_pg_args *args, const char *text); /* NULL: null */
/* jsonb. text ends in a NUL, as a buffer's does; NULL: null. */
void ldg_pg_arg_json(struct ldg_pg_args *args, const char *text, size_t size);
void ldg_pg_arg_bytes(struct ldg_pg_args *args, const void *data, size_t size);
void ldg_pg_arg_int64(struct ldg_pg_args *args, int64_t value);
void ldg_pg_arg_int32(struct ldg_pg_args *args, int32_t value);
void ldg_pg_arg_bool(struct ldg_pg_args *args, bool value);
void ldg_pg_arg_time(struct ldg_pg_args *args, int64_t time_us); /* timestamptz; NO_TIME: null */
/* An array in binary form, built by ldg_pg_array_…(); type: of the array, e.g. LDG_PG_INT8_ARRAY */
void ldg_pg_arg_array(struct ldg_pg_args *args, Oid type, const struct ldg_buf *array);

/* A bridged row keeps its id at its origin in source_pos where that is a number, and in source_id
 * where it is a text; so a statement that names rows by it has a form for each kind. Texts compare
 * by their bytes. */
enum ldg_pg_kind { LDG_PG_NUMBERS, LDG_PG_TEXTS, LDG_PG_KINDS };
/* Rows of texts, of a table that the statement calls e ("e.", or ""), as their index has them; and
 * the text that it is on. */
#define LDG_PG_OF_TEXTS(e) e "origin <> 0 AND " e "source_pos IS NULL"
#define LDG_PG_TEXT_OF(e) e "source_id COLLATE \"C\""
/* Row e of the table is the one that row x names by origin and key. */
#define LDG_PG_IS_NUMBER "e.origin = x.origin AND e.source_pos = x.key"
#define LDG_PG_IS_TEXT                                                                             \
    "e.origin = x.origin AND " LDG_PG_TEXT_OF("e.") " = x.key AND " LDG_PG_OF_TEXTS("e.")
static inline enum ldg_pg_kind ldg_pg_kind_of(ledger_id key)
{
    return key.text != NULL ? LDG_PG_TEXTS : LDG_PG_NUMBERS;
}
/* Ids as parameters: int8, or text. */
void ldg_pg_arg_key(struct ldg_pg_args *args, ledger_id key);
void ldg_pg_array_keys_begin(struct ldg_buf *buf, enum ldg_pg_kind kind);
void ldg_pg_array_key(struct ldg_buf *buf, ledger_id key); /* of that kind */
void ldg_pg_arg_keys(struct ldg_pg_args *args, enum ldg_pg_kind kind, const struct ldg_buf *array);

enum { /* pg_type.dat; fixed for ever */
       LDG_PG_BOOL = 16,
       LDG_PG_BYTEA = 17,
       LDG_PG_INT8 = 20,
       LDG_PG_INT4 = 23,
       LDG_PG_TEXT = 25,
       LDG_PG_TIMESTAMPTZ = 1184,
       LDG_PG_JSONB = 3802,
       LDG_PG_XID8 = 5069,
       LDG_PG_BOOL_ARRAY = 1000,
       LDG_PG_BYTEA_ARRAY = 1001,
       LDG_PG_INT4_ARRAY = 1007,
       LDG_PG_INT8_ARRAY = 1016,
       LDG_PG_TEXT_ARRAY = 1009,
       LDG_PG_TIMESTAMPTZ_ARRAY = 1185,
       LDG_PG_JSONB_ARRAY = 3807,
};
/* Binary arrays of one dimension: begin (empties the buffer), one item at a time (data NULL: null),
 * end. The buffer keeps the first failure (buf->rc). jsonb items need the version byte:
 * ldg_pg_array_jsonb(). */
void ldg_pg_array_begin(struct ldg_buf *buf, Oid element);
void ldg_pg_array_bytes(struct ldg_buf *buf, const void *data, size_t size);
void ldg_pg_array_text(struct ldg_buf *buf, const char *text);
void ldg_pg_array_jsonb(struct ldg_buf *buf, const char *text, size_t size);
void ldg_pg_array_int64(struct ldg_buf *buf, int64_t value);
void ldg_pg_array_int32(struct ldg_buf *buf, int32_t value);
void ldg_pg_array_time(struct ldg_buf *buf, int64_t time_us);
void ldg_pg_array_null(struct ldg_buf *buf);
void ldg_pg_array_position(struct ldg_buf *buf, int64_t position); /* int8; 0: null */
void ldg_pg_array_bool(struct ldg_buf *buf, bool value);
void ldg_pg_array_end(struct ldg_buf *buf, size_t count);
/* Tags, metadata, annotations as jsonb text; the set and the unset part of a change of annotations.
 */
ledger_rc ldg_pg_put_list(struct ldg_buf *buf, ledger_list list, ledger_error *err);
ledger_rc ldg_pg_put_map(struct ldg_buf *buf, ledger_map map, struct ldg_arena *arena,
                         ledger_error *err);
/* ret_unset: keys of values that are NULL. Both in the arena. */
ledger_rc ldg_pg_split_map(ledger_map map, struct ldg_arena *arena, ledger_map *ret_set,
                           ledger_list *ret_unset, ledger_error *err);

/* --- sql.c, exec.c, prepared.c: statements -----------------------------------------------------
 */

/* Templates are string literals, found again by their address. In them {t} is the table's name,
 * {l} the log's, pasted as they are, so write the quotes: "{t}_cursors"; {e} the columns of an
 * entry, of a table that the statement calls e. */
enum { /* columns of {e} */
       LDG_PG_E_ID,
       LDG_PG_E_STREAM,
       LDG_PG_E_PAYLOAD,
       LDG_PG_E_ORDER_KEY,
       LDG_PG_E_DEDUP_KEY,
       LDG_PG_E_SCHEMA_VERSION, /* int4 */
       LDG_PG_E_METADATA,
       LDG_PG_E_TAGS,
       LDG_PG_E_ANNOTATIONS,
       LDG_PG_E_CREATED_AT,
       LDG_PG_E_UPDATED_AT,
       LDG_PG_E_SOURCE_ID,   /* '' where the table lacks it */
       LDG_PG_E_ORIGIN,      /* int4; 0 where the table lacks it */
       LDG_PG_E_SOURCE_POS,  /* null where the table lacks it */
       LDG_PG_E_ORIGIN_UUID, /* null for origin 0 */
       LDG_PG_E_COUNT
};

enum ldg_pg_plan {
    LDG_PG_KEEP,  /* prepared once where that lasts; a generic plan is as good */
    LDG_PG_FRESH, /* planned each time with the very values */
};

/* Runs one statement and waits for it. args may be NULL. *ret_result (PQclear) has status TUPLES_OK
 * or COMMAND_OK; ret_result NULL: not wanted. Results come in binary form. In an open transaction a
 * failure leaves it failed, as PostgreSQL has it. */
ledger_rc ldg_pg_run(struct ldg_pg *pg, enum ldg_pg_plan plan, const char *doing,
                     const char *template, const struct ldg_pg_args *args, PGresult **ret_result,
                     ledger_error *err);
/* The same (KEEP) for a statement that writes. Outside of a transaction it is one of its own, and a
 * lost answer is UNKNOWN_OUTCOME; a lost answer inside one is CONNECT, as in ldg_pg_run(). */
ledger_rc ldg_pg_run_write(struct ldg_pg *pg, const char *doing, const char *template,
                           const struct ldg_pg_args *args, PGresult **ret_result,
                           ledger_error *err);
/* A text made for this one call (names put in as above). */
ledger_rc ldg_pg_run_text(struct ldg_pg *pg, const char *doing, const char *text,
                          const struct ldg_pg_args *args, PGresult **ret_result, ledger_error *err);
/* One row, one int8 column; *ret_found may be NULL (then no row is INTERNAL). */
ledger_rc ldg_pg_run_int64(struct ldg_pg *pg, const char *doing, const char *template,
                           const struct ldg_pg_args *args, bool *ret_found, int64_t *ret_value,
                           ledger_error *err);

/* Did it fail because the tables were altered, or prepared statements thrown away, since it was
 * prepared? All are prepared again by then: what is done once more from the start of its
 * transaction may work. A statement alone is, by ldg_pg_run(). */
bool ldg_pg_is_outdated(ledger_rc rc, const ledger_error *err);

/* Several statements in one round trip (pipeline mode): begin, send each, flush, then receive each
 * in the same order, then end. The first that fails makes those behind it fail, too; end() waits
 * for all, gives the first failure and leaves pipeline mode. No COPY inside. Outside of a
 * transaction they are one transaction. */
ledger_rc ldg_pg_pipe_begin(struct ldg_pg *pg, ledger_error *err);
ledger_rc ldg_pg_pipe_send(struct ldg_pg *pg, const char *doing, const char *template,
                           const struct ldg_pg_args *args, ledger_error *err);
ledger_rc ldg_pg_pipe_flush(struct ldg_pg *pg, ledger_error *err);
ledger_rc ldg_pg_pipe_receive(struct ldg_pg *pg, const char *doing, PGresult **ret_result,
                              ledger_error *err);
ledger_rc ldg_pg_pipe_end(struct ldg_pg *pg, ledger_error *err);

/* COPY … FROM STDIN (FORMAT binary): begin, put, end. What is put is sent as it is: signature, rows
 * and trailer are the caller's; in pieces of some 64 KB. begin fails with UNSUPPORTED where the
 * server refuses COPY (row-level security). end tells how many rows came in, which a trigger can
 * make fewer. cancel ends it with an error at the server. */
ledger_rc ldg_pg_copy_begin(struct ldg_pg *pg, const char *template, ledger_error *err);
ledger_rc ldg_pg_copy_put(struct ldg_pg *pg, const void *data, size_t size, ledger_error *err);
ledger_rc ldg_pg_copy_end(struct ldg_pg *pg, uint64_t *ret_rows, ledger_error *err);
void ldg_pg_copy_cancel(struct ldg_pg *pg);

/* The same as ldg_pg_fail(), with what the server leaves out: the missing GRANT, who has the lock.
 * The connection is dropped when it is broken. */
ledger_rc ldg_pg_failed(struct ldg_pg *pg, const PGresult *result, const char *doing,
                        ledger_error *err);
/* Has any handle of this process waited for a lock in vain in the last seconds? */
bool ldg_pg_locked_of_late(void);

/* Forgets all texts and prepared statements: has_… or the connection changed. */
void ldg_pg_forget(struct ldg_pg *pg);

/* --- fail.c ---------------------------------------------------------------------------------- */

/* Turns a failed result (or, with NULL, the connection's state) into our code, with its text, which
 * names what was done. Codes: by SQLSTATE alone. help stands behind it; "": the usual hint. */
ledger_rc ldg_pg_fail(const struct ldg_pg *pg, const PGresult *result, const char *doing,
                      const char *help, ledger_error *err);
/* PQresultErrorField(), "" for NULL. */
const char *ldg_pg_error_field(const PGresult *result, int field);
/* SQLSTATE of the last failure, "" when there was none: "23505". */
const char *ldg_pg_sqlstate(const ledger_error *err);
/* Was it what this very row ran into (data, constraint, limits), and not the database's state? Of a
 * failure that ldg_pg_fail() has made: what the tables as such refuse is SCHEMA there. */
bool ldg_pg_is_row_fault(const ledger_error *err);
/* The statements that mend a sequence which lies behind its table's rows, or has run out. */
#define LDG_PG_HELP_MAX 300
void ldg_pg_help_behind(const char *sequence, const char *table, char help[LDG_PG_HELP_MAX]);
void ldg_pg_help_exhausted(const char *sequence, char help[LDG_PG_HELP_MAX]);
/* The ids of a table are taken already: its sequence lies behind its rows. */
ledger_rc ldg_pg_fail_behind(const struct ldg_pg *pg, int table, ledger_error *err);
/* What a refusal has in common with others: constraint or column, and SQLSTATE. */
uint64_t ldg_pg_refusal_reason(const struct ldg_pg *pg, const ledger_error *err);
/* A failure of an op: what its very row runs into is REJECTED. OK and REJECTED stay. */
ledger_rc ldg_pg_op_fail(ledger_rc rc, ledger_error *err);
/* A failure to write what is ours alone (cursors, parked events …) is no event's fault. */
ledger_rc ldg_pg_fail_own(ledger_rc rc, ledger_error *err);
/* A failure without a result: by its SQLSTATE ("": none, CONNECT). hint NULL: the usual one. */
ledger_rc ldg_pg_fail_state(ledger_error *err, const char *sqlstate, const char *text,
                            const char *hint);
/* DATA: what another program has written into this row cannot be read. */
ledger_rc ldg_pg_fail_row(const struct ldg_pg *pg, int64_t id, const char *column, const char *why,
                          ledger_error *err);
/* The first line of a text from the server or libpq, without a secret that it may echo; at most
 * some 300 bytes. The same for PQerrorMessage(). */
void ldg_pg_show(const char *text, char *out, size_t out_size);
void ldg_pg_message(const PGconn *conn, char *out, size_t out_size);

/* --- tx.c ------------------------------------------------------------------------------------ */

/* READ COMMITTED READ WRITE, unless tx_begin's or the caller's own is open; *ret_own tells whether
 * the end is ours. With `settings` (a template of one SELECT set_config(…)…, may be NULL) in the
 * same round trip. */
ledger_rc ldg_pg_begin_write(struct ldg_pg *pg, const char *settings, bool *ret_own,
                             ledger_error *err);
/* Commits what worked, rolls back what did not; returns the result of both. A commit that got no
 * answer is UNKNOWN_OUTCOME. */
ledger_rc ldg_pg_end(struct ldg_pg *pg, bool own, ledger_rc rc, ledger_error *err);
void ldg_pg_rollback(struct ldg_pg *pg);
/* Around a COMMIT and its answer: it is never cancelled. After a good one: no lock is in the way.
 */
void ldg_pg_commit_begin(struct ldg_pg *pg);
void ldg_pg_commit_end(struct ldg_pg *pg, ledger_rc rc);
/* The pieces: BEGIN … with settings; COMMIT as ldg_pg_end() does it; INVALID: an earlier statement
 * of this transaction failed. */
ledger_rc ldg_pg_begin(struct ldg_pg *pg, const char *begin, const char *settings,
                       ledger_error *err);
ledger_rc ldg_pg_commit(struct ldg_pg *pg, ledger_error *err);
ledger_rc ldg_pg_fail_in_tx(struct ldg_pg *pg, ledger_error *err);

/* --- conn.c ---------------------------------------------------------------------------------- */

/* A connection with pg's parameters; while it is made, wait (may be NULL) is asked. */
ledger_rc ldg_pg_dial(const struct ldg_pg *pg, const ledger_wait *wait, PGconn **ret_conn,
                      ledger_error *err);
/* False: the server has closed it, or said that it will. Waits for nothing. */
bool ldg_pg_is_alive(struct ldg_pg *pg);
/* Breaks the connection off; the next enter() makes a new one. */
void ldg_pg_drop(struct ldg_pg *pg);
void ldg_pg_close_conn(struct ldg_pg *pg);

/* --- session.c ------------------------------------------------------------------------------- */

/* First thing in every callback: a lost connection is made anew (never inside a transaction), with
 * all checks of open. Errors: CONNECT; PERMISSION, SCHEMA, READ_ONLY when it is not what it was;
 * INVALID: the transaction that was open is gone with its connection. */
ledger_rc ldg_pg_enter(struct ldg_pg *pg, ledger_error *err);
/* Connects with pg->url; checks version, encoding, recovery, cluster. */
ledger_rc ldg_pg_connect(struct ldg_pg *pg, ledger_error *err);
ledger_rc ldg_pg_take(struct ldg_pg *pg, PGconn *conn, ledger_error *err);
/* Ends the sessions that broken connections of this process have left at this server (orphan.c).
 * Outside of transactions. NOMEM is the only error. */
ledger_rc ldg_pg_orphans_end(struct ldg_pg *pg, ledger_error *err);

/* --- settings.c ------------------------------------------------------------------------------ */

/* Of a connection that we made; behind a pooler it does nothing. */
ledger_rc ldg_pg_settings_apply(struct ldg_pg *pg, ledger_error *err);
/* After somebody threw away what a session had (DISCARD ALL): the same again, outside of
 * transactions. Does nothing where nobody did. */
ledger_rc ldg_pg_settings_renew(struct ldg_pg *pg, ledger_error *err);
/* One SELECT with what a transaction of ours needs where the session is not ours to set. */
extern const char ldg_pg_transaction_settings[];
/* An expression: in this transaction the limits of a list ('{a,b}', less those that the server does
 * not know) do not count. */
#define LDG_PG_NO_LIMITS(list)                                                                     \
    "(SELECT count(set_config(n.name, '0', true)) FROM unnest('{" list "}'::text[]) AS n(name) "   \
    "WHERE current_setting(n.name, true) != '0')"

/* --- orphan.c: sessions that a broken connection of this process has left at the server ------ */

struct ldg_pg_orphan {
    uint64_t server; /* as pg->where names it */
    int64_t start_us;
    int64_t next_us; /* tried again then */
    int pid;
};
/* Of the connection that is about to be given up. */
void ldg_pg_orphan_note(struct ldg_pg *pg);
/* One at the server that pg is connected to; false: there is none, or it is not yet time. Any
 * thread's pg. */
bool ldg_pg_orphan_take(const struct ldg_pg *pg, struct ldg_pg_orphan *ret_orphan);
/* It could not be ended: a second later once more. */
void ldg_pg_orphan_again(struct ldg_pg_orphan orphan);

/* --- probe.c: asked on a second connection --------------------------------------------------- */

/* What a session is seen at. */
enum ldg_pg_sight {
    LDG_PG_LOST,    /* it is not there, waits for its client, or nobody answers */
    LDG_PG_AT_WORK, /* or it cannot be known, and the server lives */
    LDG_PG_WAITS,   /* for another session, or for a standby */
    LDG_PG_WAITS_FOR_LOCK,
};
#define LDG_PG_SIGHT_MAX 320
/* After a silence: what is the server at with what this connection has asked for? In words, which
 * go on after "…: ". Names in pg->holder who has the lock that it waits for. Where that is a bridge
 * of the same role whose program has been silent for a minute, its session is ended. hurry: it need
 * not be found out at any price. */
enum ldg_pg_sight ldg_pg_server_probe(struct ldg_pg *pg, bool hurry, char words[LDG_PG_SIGHT_MAX]);
/* Makes a statement that waits for a lock fail, so that its session can be used again. False: it
 * does not wait for one any more, or cannot be reached. */
bool ldg_pg_cancel(struct ldg_pg *pg);
enum ldg_pg_signal {
    LDG_PG_SIGNALLED,
    LDG_PG_NOT_NOW,  /* it must not be now, or the statement has ended */
    LDG_PG_NO_ANSWER /* or there is no way to the server */
};
/* Makes the statement that is under way fail, whatever it does; never while it waits for a standby:
 * then its transaction has committed. */
enum ldg_pg_signal ldg_pg_interrupt(struct ldg_pg *pg);
/* Ends the session that this connection is about to leave behind in the middle of something, so
 * that it holds nobody up; never while it waits for a standby: it has committed. */
void ldg_pg_end_session(struct ldg_pg *pg);
/* The GRANT that is missing, after the server's text of a 42501; "": not known. */
void ldg_pg_explain_denied(struct ldg_pg *pg, const char *message, char *out, size_t out_size);

/* --- value.c: results ------------------------------------------------------------------------ */

int64_t ldg_pg_get_int64(const PGresult *result, int row,
                         int column); /* also int4, xid8; null: 0 */
bool ldg_pg_get_bool(const PGresult *result, int row, int column);
int64_t ldg_pg_get_time(const PGresult *result, int row, int column); /* null, ±infinity: NO_TIME */
ledger_bytes ldg_pg_get_bytes(const PGresult *result, int row, int column); /* views the result */
/* A view of the result, "" for null. libpq puts a NUL behind every value. */
const char *ldg_pg_get_text(const PGresult *result, int row, int column);
/* The id in two columns: a text, or where that is null or empty the number. Views the result. */
ledger_id ldg_pg_get_key(const PGresult *result, int row, int number, int text);
/* jsonb -> map, list; in the arena. Errors: DATA (what another program has written there). */
ledger_rc ldg_pg_get_map(const PGresult *result, int row, int column, struct ldg_arena *arena,
                         ledger_map *ret_map, ledger_error *err);
ledger_rc ldg_pg_get_list(const PGresult *result, int row, int column, struct ldg_arena *arena,
                          ledger_list *ret_list, ledger_error *err);
/* int8[] -> the arena. */
ledger_rc ldg_pg_get_int64s(const PGresult *result, int row, int column, struct ldg_arena *arena,
                            int64_t **ret_items, size_t *ret_count, ledger_error *err);

/* --- schema.c, migrate.c, check.c ------------------------------------------------------------ */

/* What the index of full text is on. The function is made with it, and gives the words of the
 * payload's keys, strings and numbers; of what is no JSON, of the text. */
#define LDG_PG_FULL_TEXT "\"{t}_words\"(payload)"

/* After every connect (also a renewed one): looks at the tables, makes or mends them as the flags
 * say (only the first time), fills has_…, identity, wake_name. */
ledger_rc ldg_pg_schema_open(struct ldg_pg *pg, const struct ldg_open *open, ledger_error *err);
ledger_rc ldg_pg_schema_recheck(struct ldg_pg *pg, ledger_error *err); /* after a reconnect */
/* For an end of a bridge, which lives for months while others change its tables: some seconds after
 * the last look, another. Errors: what open would say. */
ledger_rc ldg_pg_schema_watch(struct ldg_pg *pg, ledger_error *err);
/* A statement has failed because a table was not found (else *err stays): may the role not see it?
 * Returns err->code. */
ledger_rc ldg_pg_schema_missing(struct ldg_pg *pg, ledger_error *err);
bool ldg_pg_schema_check_due(const struct ldg_pg *pg);
/* For who would write an id that is a text. Errors: SCHEMA, with what the tables lack. */
ledger_rc ldg_pg_schema_check_texts(const struct ldg_pg *pg, ledger_error *err);
ledger_rc ldg_pg_check(void *ctx, ledger_finding_fn fn, void *fn_ctx, ledger_error *err);

/* --- write.c --------------------------------------------------------------------------------- */

ledger_rc ldg_pg_append(void *ctx, const char *stream, const ledger_append_input *inputs,
                        size_t count, ledger_ids *ret_ids, ledger_error *err);
ledger_rc ldg_pg_set_tags(void *ctx, const char *stream, ledger_id id, ledger_list tags,
                          ledger_error *err);
ledger_rc ldg_pg_set_annotations(void *ctx, const char *stream, ledger_id id, ledger_map map,
                                 ledger_error *err);
ledger_rc ldg_pg_trim(void *ctx, const char *stream, ledger_id before, uint64_t *ret_deleted,
                      ledger_error *err);

/* --- query.c --------------------------------------------------------------------------------- */

ledger_rc ldg_pg_read(void *ctx, const char *stream, const char *search,
                      const ledger_read_options *options, struct ldg_arena *arena,
                      ledger_entry **ret_entries, size_t *ret_count, ledger_error *err);
ledger_rc ldg_pg_read_gaps(void *ctx, const char *stream, const ledger_read_options *options,
                           const int64_t *known, size_t known_count, struct ldg_arena *arena,
                           ledger_entry **ret_entries, size_t *ret_count, ledger_error *err);
ledger_rc ldg_pg_history_of(void *ctx, int origin, const ledger_id *keys, size_t count,
                            size_t max_bytes, struct ldg_arena *arena,
                            struct ldg_history_row **ret_rows, size_t *ret_count,
                            ledger_error *err);
ledger_rc ldg_pg_history(void *ctx, int origin, ledger_id after, size_t limit, size_t max_bytes,
                         struct ldg_arena *arena, struct ldg_history_row **ret_rows,
                         size_t *ret_count, ledger_error *err);

/* --- lookup.c -------------------------------------------------------------------------------- */

ledger_rc ldg_pg_count(void *ctx, const char *stream, uint64_t *ret_count, ledger_error *err);
ledger_rc ldg_pg_stat(void *ctx, const char *stream, ledger_stream_stat *ret_stat,
                      ledger_error *err);
ledger_rc ldg_pg_list_streams(void *ctx, const char *after, size_t limit, ledger_names *ret_names,
                              ledger_error *err);
ledger_rc ldg_pg_find_by_source_id(void *ctx, const char *stream, const char *source_id,
                                   ledger_id *ret_id, ledger_error *err);
ledger_rc ldg_pg_entries_by_id(void *ctx, const ledger_id *ids, size_t count,
                               struct ldg_arena *arena, ledger_entry **ret_entries,
                               ledger_error *err);
ledger_rc ldg_pg_trim_survivors(void *ctx, int origin, const char *stream, ledger_id before,
                                struct ldg_arena *arena, ledger_id **ret_ids, size_t *ret_count,
                                ledger_error *err);
/* The texts of the first column. */
ledger_rc ldg_pg_take_names(const PGresult *result, ledger_names *ret_names, ledger_error *err);

/* --- tail.c ---------------------------------------------------------------------------------- */

ledger_rc ldg_pg_watermark(void *ctx, struct ldg_watermark *watermark, ledger_error *err);

/* --- log.c, wait.c --------------------------------------------------------------------------- */

ledger_rc ldg_pg_log_read(void *ctx, const char *state, const struct ldg_log_limits *limits,
                          struct ldg_log_batch *batch, ledger_error *err);
ledger_rc ldg_pg_log_cursor_at(void *ctx, int64_t position, char state[LDG_CURSOR_STATE_MAX],
                               ledger_error *err);
ledger_rc ldg_pg_log_check(void *ctx, const char *state, int64_t *ret_position, ledger_error *err);
ledger_rc ldg_pg_log_acknowledge(void *ctx, const char *state, char ret_state[LDG_CURSOR_STATE_MAX],
                                 ledger_error *err);
ledger_rc ldg_pg_log_stat(void *ctx, const char *state, struct ldg_log_stat *ret_stat,
                          ledger_error *err);
ledger_rc ldg_pg_log_wait(void *ctx, int wake_fd, int64_t timeout_ms, ledger_error *err);
void ldg_pg_source_free(struct ldg_pg *pg); /* at close */

/* --- cursors.c ------------------------------------------------------------------------------- */

ledger_rc ldg_pg_origin_get(void *ctx, const struct ldg_identity *identity, const char *name,
                            int *ret_origin, ledger_error *err);
ledger_rc ldg_pg_origin_list(void *ctx, struct ldg_arena *arena, struct ldg_identity **ret_items,
                             int **ret_numbers, size_t *ret_count, ledger_error *err);
ledger_rc ldg_pg_origin_adopt(void *ctx, int origin, const struct ldg_claim *claims, size_t count,
                              uint64_t *ret_adopted, ledger_error *err);
ledger_rc ldg_pg_origin_last(void *ctx, int origin, struct ldg_arena *arena, ledger_id *ret_id,
                             ledger_error *err);
ledger_rc ldg_pg_origin_carry_ids(void *ctx, int *ret_origin, ledger_error *err);
ledger_rc ldg_pg_origin_rewind(void *ctx, int origin, int64_t position, ledger_error *err);
ledger_rc ldg_pg_origin_skips(void *ctx, int origin, ledger_error *err);
ledger_rc ldg_pg_origin_unguard(void *ctx, ledger_error *err);
ledger_rc ldg_pg_origin_unclaimed(void *ctx, bool *ret_any, ledger_error *err);
ledger_rc ldg_pg_cursor_get(void *ctx, const char *name, bool create, struct ldg_cursor *ret_cursor,
                            ledger_error *err);
ledger_rc ldg_pg_cursor_set(void *ctx, const char *name, const struct ldg_cursor *expected,
                            const struct ldg_cursor *next, ledger_error *err);
ledger_rc ldg_pg_cursor_list(void *ctx, ledger_names *ret_names, ledger_error *err);

/* --- apply.c --------------------------------------------------------------------------------- */

ledger_rc ldg_pg_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                       ledger_error *err);
uint64_t ldg_pg_durable_count(void *ctx);
void ldg_pg_sink_free(struct ldg_pg *pg); /* at close */

/* --- parked.c -------------------------------------------------------------------------------- */

ledger_rc ldg_pg_parked_list(void *ctx, int64_t after, size_t limit, struct ldg_arena *arena,
                             struct ldg_parked_row **ret_rows, size_t *ret_count,
                             ledger_error *err);
ledger_rc ldg_pg_parked_near(void *ctx, const struct ldg_op *ops, size_t count,
                             struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                             size_t *ret_count, ledger_error *err);
ledger_rc ldg_pg_parked_count(void *ctx, const char *source_uuid, uint64_t *ret_count,
                              ledger_error *err);
ledger_rc ldg_pg_parked_retry(void *ctx, int64_t id, const struct ldg_op *ops, size_t count,
                              bool *ret_applied, ledger_error *err);
ledger_rc ldg_pg_parked_note(void *ctx, int64_t id, const char *reason, ledger_error *err);
ledger_rc ldg_pg_parked_drop(void *ctx, int64_t id, uint64_t *ret_dropped, ledger_error *err);

#endif
