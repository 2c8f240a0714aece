/* What the files of the sink's side share: one batch under way.
 *
 * What its ops amount to is the sink library's. It takes a database with transactions for granted;
 * here rows are collected in its callbacks and sent in as few statements as can be, in an order in
 * which every part of a batch may be done again: trims, rows, parked events, cursor. */
#ifndef LDG_BACKEND_CLICKHOUSE_APPLY_H
#define LDG_BACKEND_CLICKHOUSE_APPLY_H

#include "backend/clickhouse/clickhouse.h"
#include "sink/sink.h"

struct ldg_ch_park {
    int64_t id;
    const struct ldg_op *op;
    const char *reason;
    const struct ldg_ch_parked *known; /* it was parked before; NULL: it was not */
    bool is_gone;                      /* done after all, or trimmed */
};

struct ldg_ch_batch {
    struct ldg_sink_batch s;
    struct ldg_clickhouse *ch;
    const struct ldg_apply *apply; /* NULL: a parked event is tried again */
    const struct ldg_op *ops;      /* as they came; s.ops have no dedup keys */
    uint64_t salt;                 /* of inserts */
    int64_t parked_salt;           /* in numbers of parked events */
    struct ldg_buf text;           /* of the row in hand: its tags, … */
    struct ldg_buf other;          /* … annotations, and foreign positions */
    struct ldg_arena merging;      /* of the row in hand */
    uint32_t *trims;               /* of the range in hand */
    size_t trim_count;
    struct ldg_ch_parked *near; /* parked events that were looked up */
    size_t near_count;
    struct ldg_ch_park *parks; /* to be written, behind the rows */
    size_t park_count, park_cap, park_saved;
    const struct ldg_ch_parked **unparked; /* to go, behind them */
    size_t unparked_count, unparked_cap, unparked_saved;
};

/* --- known.c: rows that are here ------------------------------------------------------------- */

/* An item, by what its row is found by. */
struct ldg_ch_wanted {
    const char *stream, *origin, *key;
    struct ldg_sink_item *item;
    bool found;
};
/* Of the plan's items of other stores: all, or those to be changed. Sorted; in the arena. */
ledger_rc ldg_ch_want(struct ldg_ch_batch *b, bool changed_only, struct ldg_ch_wanted **ret_wanted,
                      size_t *ret_count, ledger_error *err);
/* Gives the row of each that is here to fn, in the order of wanted; views until it returns, and fn
 * asks the server nothing. between (may be NULL) is called after some MiB. */
typedef ledger_rc (*ldg_ch_row_fn)(struct ldg_ch_batch *b, struct ldg_sink_item *item,
                                   const struct ldg_ch_row *row, ledger_error *err);
ledger_rc ldg_ch_find_rows(struct ldg_ch_batch *b, struct ldg_ch_wanted *wanted, size_t count,
                           ldg_ch_row_fn fn,
                           ledger_rc (*between)(struct ldg_ch_batch *b, ledger_error *err),
                           ledger_error *err);
/* Texts of JSON; REJECTED where they are none. */
ledger_rc ldg_ch_get_map(struct ldg_ch_batch *b, ledger_bytes text, ledger_map *ret_map,
                         ledger_error *err);
ledger_rc ldg_ch_look_up(void *ctx, struct ldg_sink_batch *s, ledger_error *err);

/* --- change.c: rows that are written --------------------------------------------------------- */

ledger_rc ldg_ch_change(void *ctx, struct ldg_sink_batch *s, ledger_error *err);
ledger_rc ldg_ch_add(void *ctx, struct ldg_sink_batch *s, ledger_error *err);

/* --- row.c: rows under way ------------------------------------------------------------------- */

/* The table's columns, in the order in which rows are written to it. */
#define LDG_CH_ROW_COLUMNS                                                                         \
    "id, stream, payload, order_key, dedup_key, schema_version, metadata, tags, source_id, "       \
    "created_at, annotations, updated_at, origin, entry_key, version, is_deleted, "                \
    "appended_position, tags_position, annotations_position, trimmed_position, foreign_positions"
/* The texts that a row is found by. */
struct ldg_ch_row_texts {
    char id[LEDGER_ID_TEXT_MAX], key[LDG_CH_KEY_MAX], source_id[LEDGER_ID_TEXT_MAX];
};
/* A row of which nothing is known but its entry; views texts, which it fills, origin and stream. */
void ldg_ch_row_begin(struct ldg_ch_row *row, struct ldg_ch_row_texts *texts,
                      const struct ldg_ch_origin *origin, ledger_id key, const char *stream);
/* The row says that its entry is gone: what it carried is left out. position: of the trim. */
void ldg_ch_row_bury(struct ldg_ch_row *row, int64_t position);
/* The same in a SELECT, as LDG_CH_ROW_COLUMNS: of e, a row that is here, and r, the trim. Signed
 * sums wrap round, and back. */
#define LDG_CH_ROW_BURIED                                                                          \
    "e.id, e.stream, '', '', '', e.schema_version, '{}', '[]', e.source_id, "                      \
    "e.created_at, '{}', e.updated_at, e.origin, e.entry_key, "                                    \
    "bitOr(toUInt64(e.version - e.trimmed_position + r.position), "                                \
    "bitShiftLeft(toUInt64(1), 63)), 1, "                                                          \
    "e.appended_position, e.tags_position, e.annotations_position, r.position, "                   \
    "e.foreign_positions"
/* Adds a row to ch->rows. */
void ldg_ch_put_row(struct ldg_ch_block *block, const struct ldg_ch_row *row);
/* Sends the rows that are collected. */
ledger_rc ldg_ch_flush(struct ldg_ch_batch *b, ledger_error *err);

/* --- trim.c ---------------------------------------------------------------------------------- */

/* Trims of the range: what is here goes. */
ledger_rc ldg_ch_trim(struct ldg_ch_batch *b, ledger_error *err);

/* --- parked.c -------------------------------------------------------------------------------- */

ledger_rc ldg_ch_parked_near_all(struct ldg_clickhouse *ch, const struct ldg_op *ops, size_t count,
                                 struct ldg_arena *arena, struct ldg_ch_parked **ret_parked,
                                 size_t *ret_count, ledger_error *err);
/* Those of a stream and origin up to a key that op does not keep: gone, and their entries with
 * them. *ret_any: there were. */
ledger_rc ldg_ch_parked_trim(struct ldg_ch_batch *b, const struct ldg_op *op, bool *ret_any,
                             ledger_error *err);

#endif
