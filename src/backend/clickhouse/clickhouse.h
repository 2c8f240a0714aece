/* What the files of this folder share: the handle, the form of a row, and one query.
 *
 *   rowbinary.c block.c fail.c     values; rows that are sent; errors                  (pure)
 *   entry.c                        keys, ids and versions of entries                   (pure)
 *   request.c                      a query: its text, what is bound, its answer
 *   schema.c check.c backend.c     the tables; `store check`; opening, roles
 *   query.c history.c              a program's reads; verification
 *   cursors.c parked.c             who is who, where a bridge stands, what is kept aside
 *   known.c row.c change.c         a batch: what is here, rows under way, what they are made of
 *   trim.c trimmed.c apply.c       … what goes, what is known to be gone, the way of all of it */
#ifndef LDG_BACKEND_CLICKHOUSE_CLICKHOUSE_H
#define LDG_BACKEND_CLICKHOUSE_CLICKHOUSE_H

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "event/event.h"
#include "http/http.h"
#include "store/backend.h"

#include "backend/clickhouse/block.h"
#include "backend/clickhouse/fail.h"
#include "backend/clickhouse/rowbinary.h"

#define LDG_CH_ORIGIN_TEXT_MAX (LDG_UUID_TEXT_MAX + 24) /* "uuid:epoch" */

struct ldg_ch_origin {
    int number; /* 0: the table itself */
    struct ldg_identity identity;
    char text[LDG_CH_ORIGIN_TEXT_MAX];
};

/* history.c: keys of the next pages of a verification. */
struct ldg_ch_ahead {
    struct ldg_arena arena;
    struct ldg_ch_ahead_key {
        const char *stream, *key;
    } * keys;
    size_t count, next;
    int origin;
    struct ldg_id_own from; /* they are those behind this one … */
    bool is_last;           /* … and there are no more */
    bool is_set;
};

struct ldg_clickhouse {
    struct ldg_http *http;
    char *base;       /* "http://host:8123/?database=db&…": what each URL begins with */
    char *user, *key; /* headers */
    char *database;   /* for messages */
    char *table;      /* of entries; those beside it have its name and a suffix */
    char *wake_key;
    struct ldg_ch_origin *origins; /* as they were seen last; the first is the table itself */
    size_t origin_count;
    struct ldg_arena scratch; /* of one call */
    struct ldg_ch_block rows; /* under way */
    struct ldg_ch_ahead ahead;
    struct ldg_ch_trimmed *trimmed; /* trimmed.c's; NULL: nothing is known */
    size_t trimmed_count;
    char first_id[LEDGER_ID_TEXT_MAX], last_id[LEDGER_ID_TEXT_MAX]; /* of the last stat */
    uint64_t nonce;    /* salt of inserts without a cursor */
    bool may_be_known; /* the next batch may bring what is here: the last one did, or failed, or
                          there was none yet */
    bool parked_any;   /* some event was parked at the last look; true before it */
    uint64_t cursor_version; /* of the cursor that this handle has written last; 0: none */
};

/* --- entry.c: keys, ids, versions ------------------------------------------------------------ */

/* Column entry_key: the id at the origin, so that bytes sort as ids do. A number has 19 digits; a
 * text stands behind ':', which comes after all digits. */
#define LDG_CH_KEY_MAX (LEDGER_ID_TEXT_MAX + 1)
void ldg_ch_key(ledger_id id, char text[LDG_CH_KEY_MAX]);
/* Views the text. false: it is no key of ours. */
bool ldg_ch_key_parse(const char *text, ledger_id *ret_id);
/* Column id: unique in the table, in the order of keys: the key and the number of its origin; of a
 * text that is too long its start and a hash. */
void ldg_ch_id(const char *key, int origin, char text[LEDGER_ID_TEXT_MAX]);

/* The positions that made an entry what it is; 0: there was no such change. */
struct ldg_ch_positions {
    int64_t appended, tags, annotations, trimmed;
    uint64_t foreign; /* the sum of those in other logs than the entry's own */
};
/* Column version: their sum, which grows with each change that counts and is the same on a replay;
 * with the highest bit set once the entry was trimmed, so that nothing that comes late brings it
 * back. */
#define LDG_CH_TRIMMED ((uint64_t)1 << 63)
uint64_t ldg_ch_version(const struct ldg_ch_positions *positions);

/* Changes by other logs, as column foreign_positions keeps them: {"t uuid:epoch":"12"}; "": none.
 * Sorted maps of texts. */
void ldg_ch_foreign_name(enum ldg_op_kind kind, const char *origin,
                         char name[LDG_CH_ORIGIN_TEXT_MAX + 2]);
/* The kind, and a view of the origin. false: the name is none of ours. */
bool ldg_ch_foreign_parse(const char *name, enum ldg_op_kind *ret_kind, const char **ret_origin);
uint64_t ldg_ch_foreign_sum(ledger_map foreign);

/* "uuid:epoch" */
void ldg_ch_origin_text(const struct ldg_identity *identity, char text[LDG_CH_ORIGIN_TEXT_MAX]);

/* --- request.c: one query -------------------------------------------------------------------- */

/* An answer that may be of any size. */
#define LDG_CH_ANSWER_ANY ((size_t)1 << 40)
/* From ldg_ch_begin() to ldg_ch_end(). What fails on the way makes ldg_ch_run() fail. */
struct ldg_ch_query {
    struct ldg_clickhouse *ch;
    const char *doing; /* "reading entries", for errors */
    struct ldg_buf url, sql;
    const struct ldg_buf *data; /* packed rows; NULL: none */
    size_t answer_max;
    struct ldg_http_exchange *exchange;
    struct ldg_ch_reader reader; /* of the answer, once it ran */
    ledger_rc rc;
};
void ldg_ch_begin(struct ldg_ch_query *q, struct ldg_clickhouse *ch, const char *doing);
/* Adds to the statement. Names that were checked may be pasted; values are bound. */
void ldg_ch_sql(struct ldg_ch_query *q, const char *fmt, ...) LEDGER_PRINTF(2, 3);
/* The value of {name:String}. */
void ldg_ch_bind(struct ldg_ch_query *q, const char *name, const char *value);
/* The value of {name:Int64}. */
void ldg_ch_bind_int(struct ldg_ch_query *q, const char *name, int64_t value);
/* Of {name:UInt64}. */
void ldg_ch_bind_u64(struct ldg_ch_query *q, const char *name, uint64_t value);
/* For this query alone. The name and value are pasted into its URL as they are. */
void ldg_ch_setting(struct ldg_ch_query *q, const char *name, const char *value);
/* A list of texts within a statement, which the server takes apart: each as the digits of its
 * bytes, so that nothing in it is ever read as SQL. begin: a SELECT of `columns`, in which field n
 * of an item is unhex(p[n]); then for each item its fields; end. */
void ldg_ch_list_begin(struct ldg_ch_query *q, const char *columns);
void ldg_ch_list_item(struct ldg_ch_query *q, size_t index); /* from 0 */
void ldg_ch_list_field(struct ldg_ch_query *q, const char *text);
void ldg_ch_list_end(struct ldg_ch_query *q);
/* Runs it. Errors: what ldg_ch_code() gives for the server's answer; CONNECT, IO, TIMEOUT, … of the
 * way there; CANCELLED. */
ledger_rc ldg_ch_run(struct ldg_ch_query *q, ledger_error *err);
/* The next row of the answer. */
bool ldg_ch_row(struct ldg_ch_query *q);
/* Text of the arena; NULL: out of memory, and q->rc says so. */
char *ldg_ch_copy(struct ldg_ch_query *q, struct ldg_arena *arena);
/* Into a buffer; what does not fit is cut. */
void ldg_ch_take(struct ldg_ch_query *q, char *text, size_t size);
/* Frees all, and gives the first failure: of the query, of an answer that is not whole, or q->rc as
 * the caller has set it (then err is filled already). */
ledger_rc ldg_ch_end(struct ldg_ch_query *q, ledger_error *err);
/* Run and end of a query for names, a row each, or for one number. */
ledger_rc ldg_ch_end_names(struct ldg_ch_query *q, ledger_names *ret_names, ledger_error *err);
ledger_rc ldg_ch_end_count(struct ldg_ch_query *q, uint64_t *ret_count, ledger_error *err);
/* A statement without an answer, run at once. */
ledger_rc ldg_ch_exec(struct ldg_clickhouse *ch, const char *doing, ledger_error *err,
                      const char *fmt, ...) LEDGER_PRINTF(4, 5);
/* The rows of ch->rows go into a table, as one INSERT; the block is empty afterwards. columns:
 * "(a, b)". salt: the same rows with the same salt are added once, as far as the server remembers
 * (insert_deduplication_token); 0: it does not look. */
ledger_rc ldg_ch_insert(struct ldg_clickhouse *ch, const char *doing, const char *suffix,
                        const char *columns, uint64_t salt, ledger_error *err);

/* --- schema.c -------------------------------------------------------------------------------- */

/* Are server and table such that we can work with them? Creates what is missing, as flags say.
 * Errors: SCHEMA, PERMISSION, UNSUPPORTED (the server is too old). */
ledger_rc ldg_ch_schema_open(struct ldg_clickhouse *ch, uint32_t flags, ledger_error *err);
/* The table of entries is still what it was. */
ledger_rc ldg_ch_schema_verify(struct ldg_clickhouse *ch, ledger_error *err);
ledger_rc ldg_ch_check(void *ctx, ledger_finding_fn fn, void *fn_ctx, ledger_error *err);

/* --- cursors.c ------------------------------------------------------------------------------- */

/* Makes the identity of a table that has none, or a new one. */
ledger_rc ldg_ch_identity_make(struct ldg_clickhouse *ch, bool anew, ledger_error *err);
ledger_rc ldg_ch_identity(void *ctx, struct ldg_identity *ret_identity, ledger_error *err);
/* As they are now. */
ledger_rc ldg_ch_origins_load(struct ldg_clickhouse *ch, ledger_error *err);
/* NULL: it has none of the number, or text, as far as was loaded. */
const struct ldg_ch_origin *ldg_ch_origin_of(const struct ldg_clickhouse *ch, int number);
const struct ldg_ch_origin *ldg_ch_origin_named(const struct ldg_clickhouse *ch, const char *text);
/* The same, loaded if need be. Errors: SCHEMA. */
ledger_rc ldg_ch_origin_find(struct ldg_clickhouse *ch, int number,
                             const struct ldg_ch_origin **ret_origin, ledger_error *err);
ledger_rc ldg_ch_origin_get(void *ctx, const struct ldg_identity *identity, const char *name,
                            int *ret_origin, ledger_error *err);
ledger_rc ldg_ch_origin_list(void *ctx, struct ldg_arena *arena, struct ldg_identity **ret_items,
                             int **ret_numbers, size_t *ret_count, ledger_error *err);
ledger_rc ldg_ch_origin_adopt(void *ctx, int origin, const struct ldg_claim *claims, size_t count,
                              uint64_t *ret_adopted, ledger_error *err);
ledger_rc ldg_ch_origin_last(void *ctx, int origin, struct ldg_arena *arena, ledger_id *ret_id,
                             ledger_error *err);
ledger_rc ldg_ch_origin_rewind(void *ctx, int origin, int64_t position, ledger_error *err);

/* A row of <table>_cursors, and what a batch has to know beside it. */
struct ldg_ch_cursor_row {
    bool is_there;
    struct ldg_cursor cursor;
    uint64_t version;
    uint64_t parked_count, origin_count;
};
ledger_rc ldg_ch_cursor_look(struct ldg_clickhouse *ch, const char *name,
                             struct ldg_ch_cursor_row *ret_row, ledger_error *err);
/* version: higher than that of the row it was read as. */
ledger_rc ldg_ch_cursor_write(struct ldg_clickhouse *ch, const char *name,
                              const struct ldg_cursor *cursor, uint64_t version, ledger_error *err);
ledger_rc ldg_ch_cursor_get(void *ctx, const char *name, bool create, struct ldg_cursor *ret_cursor,
                            ledger_error *err);
ledger_rc ldg_ch_cursor_set(void *ctx, const char *name, const struct ldg_cursor *expected,
                            const struct ldg_cursor *next, ledger_error *err);
ledger_rc ldg_ch_cursor_list(void *ctx, ledger_names *ret_names, ledger_error *err);

/* --- parked.c -------------------------------------------------------------------------------- */

/* A parked event as the table has it. */
struct ldg_ch_parked {
    struct ldg_parked_row row;
    const char *origin; /* "uuid:epoch" of its entry's; "" where it has none */
    uint64_t version;
};
/* Rows of ch->rows: the row as it is, or gone. */
void ldg_ch_parked_put(struct ldg_clickhouse *ch, const struct ldg_ch_parked *parked, bool is_gone);
ledger_rc ldg_ch_parked_insert(struct ldg_clickhouse *ch, ledger_error *err);
ledger_rc ldg_ch_parked_list(void *ctx, int64_t after, size_t limit, struct ldg_arena *arena,
                             struct ldg_parked_row **ret_rows, size_t *ret_count,
                             ledger_error *err);
ledger_rc ldg_ch_parked_near(void *ctx, const struct ldg_op *ops, size_t count,
                             struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                             size_t *ret_count, ledger_error *err);
/* One, with its event, in the arena. Errors: NOT_FOUND. */
ledger_rc ldg_ch_parked_find(struct ldg_clickhouse *ch, int64_t id, struct ldg_arena *arena,
                             struct ldg_ch_parked *ret_parked, ledger_error *err);
ledger_rc ldg_ch_parked_count(void *ctx, const char *source_uuid, uint64_t *ret_count,
                              ledger_error *err);
ledger_rc ldg_ch_parked_note(void *ctx, int64_t id, const char *reason, ledger_error *err);
ledger_rc ldg_ch_parked_drop(void *ctx, int64_t id, uint64_t *ret_dropped, ledger_error *err);

/* --- trimmed.c ------------------------------------------------------------------------------- */

/* Up to this key no entry of the origin is in the stream; NULL: that is not known. */
const char *ldg_ch_trimmed_to(const struct ldg_clickhouse *ch, int origin, const char *stream);
/* These are to be done. Entries may come late, below a trim, and may be here before their batch is
 * done: it was tried before, or another bridge was faster. */
void ldg_ch_trimmed_meet(struct ldg_clickhouse *ch, const struct ldg_op *ops, size_t count);
/* These were done, in this order. Errors: NOMEM; then forget. */
ledger_rc ldg_ch_trimmed_note(struct ldg_clickhouse *ch, const struct ldg_op *ops,
                              const uint8_t *outcomes, size_t count, ledger_error *err);
void ldg_ch_trimmed_forget(struct ldg_clickhouse *ch);

/* --- query.c, history.c ---------------------------------------------------------------------- */

/* A row of the table of entries; views. */
struct ldg_ch_row {
    ledger_bytes id, stream, payload, order_key, dedup_key, metadata, tags, annotations, source_id,
        origin, entry_key, foreign;
    int32_t schema_version;
    int64_t created_at_us, updated_at_us; /* LEDGER_NO_TIME: never changed */
    struct ldg_ch_positions positions;
    bool is_deleted;
};
/* A page of rows that are there, which ends by bytes: begin, a list or SELECT of (stream, origin,
 * entry_key), end. order: "id". Then each row is one of the two: */
void ldg_ch_page_begin(struct ldg_ch_query *q, const char *order, size_t max_bytes);
void ldg_ch_page_end(struct ldg_ch_query *q, const char *order);
/* Views the answer; positions.foreign is left aside. */
void ldg_ch_take_row(struct ldg_ch_query *q, struct ldg_ch_row *row);
/* In the arena. Errors, in q->rc: DATA, NOMEM. lenient: a damaged column comes as it is. */
void ldg_ch_take_entry(struct ldg_ch_query *q, struct ldg_arena *arena, bool lenient,
                       ledger_entry *entry, ledger_error *err);
ledger_rc ldg_ch_read(void *ctx, const char *stream, const char *search,
                      const ledger_read_options *options, struct ldg_arena *arena,
                      ledger_entry **ret_entries, size_t *ret_count, ledger_error *err);
ledger_rc ldg_ch_count(void *ctx, const char *stream, uint64_t *ret_count, ledger_error *err);
ledger_rc ldg_ch_stat(void *ctx, const char *stream, ledger_stream_stat *ret_stat,
                      ledger_error *err);
ledger_rc ldg_ch_list_streams(void *ctx, const char *after, size_t limit, ledger_names *ret_names,
                              ledger_error *err);
ledger_rc ldg_ch_find_by_source_id(void *ctx, const char *stream, const char *source_id,
                                   ledger_id *ret_id, ledger_error *err);
ledger_rc ldg_ch_history(void *ctx, int origin, ledger_id after, size_t limit, size_t max_bytes,
                         struct ldg_arena *arena, struct ldg_history_row **ret_rows,
                         size_t *ret_count, ledger_error *err);
ledger_rc ldg_ch_history_of(void *ctx, int origin, const ledger_id *keys, size_t count,
                            size_t max_bytes, struct ldg_arena *arena,
                            struct ldg_history_row **ret_rows, size_t *ret_count,
                            ledger_error *err);
ledger_rc ldg_ch_snapshot_begin(void *ctx, ledger_error *err);
void ldg_ch_snapshot_end(void *ctx);

/* --- apply.c --------------------------------------------------------------------------------- */

ledger_rc ldg_ch_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                       ledger_error *err);
ledger_rc ldg_ch_parked_retry(void *ctx, int64_t id, const struct ldg_op *ops, size_t count,
                              bool *ret_applied, ledger_error *err);

#endif
