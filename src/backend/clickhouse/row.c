/* Rows of the table of entries, on their way there.
 *
 * Invariants: values come in the order of LDG_CH_ROW_COLUMNS; a row has the version that its
 * positions give it; of an entry that is gone it keeps no more than says so. */
#include "backend/clickhouse/apply.h"

static void clear(struct ldg_ch_row *row)
{
    row->payload = row->order_key = row->dedup_key = ldg_ch_bytes_of("");
    row->metadata = row->annotations = ldg_ch_bytes_of("{}");
    row->tags = ldg_ch_bytes_of("[]");
}

void ldg_ch_row_begin(struct ldg_ch_row *row, struct ldg_ch_row_texts *texts,
                      const struct ldg_ch_origin *origin, ledger_id key, const char *stream)
{
    ldg_ch_key(key, texts->key);
    ldg_ch_id(texts->key, origin->number, texts->id);
    *row = (struct ldg_ch_row){
        .id = ldg_ch_bytes_of(texts->id),
        .stream = ldg_ch_bytes_of(stream),
        .source_id = ldg_ch_bytes_of(ldg_id_text(key, texts->source_id)),
        .created_at_us = LEDGER_NO_TIME,
        .updated_at_us = LEDGER_NO_TIME,
        .origin = ldg_ch_bytes_of(origin->text),
        .entry_key = ldg_ch_bytes_of(texts->key),
        .foreign = ldg_ch_bytes_of(""),
    };
    clear(row);
}

void ldg_ch_row_bury(struct ldg_ch_row *row, int64_t position)
{
    clear(row);
    row->positions.trimmed = position;
    row->is_deleted = true;
}

void ldg_ch_put_row(struct ldg_ch_block *block, const struct ldg_ch_row *row)
{
    ldg_ch_block_bytes(block, row->id);
    ldg_ch_block_bytes(block, row->stream);
    ldg_ch_block_bytes(block, row->payload);
    ldg_ch_block_bytes(block, row->order_key);
    ldg_ch_block_bytes(block, row->dedup_key);
    ldg_ch_block_i32(block, row->schema_version);
    ldg_ch_block_bytes(block, row->metadata);
    ldg_ch_block_bytes(block, row->tags);
    ldg_ch_block_bytes(block, row->source_id);
    ldg_ch_block_i64(block, row->created_at_us);
    ldg_ch_block_bytes(block, row->annotations);
    ldg_ch_block_u8(block, row->updated_at_us == LEDGER_NO_TIME);
    if (row->updated_at_us != LEDGER_NO_TIME)
        ldg_ch_block_i64(block, row->updated_at_us);
    ldg_ch_block_bytes(block, row->origin);
    ldg_ch_block_bytes(block, row->entry_key);
    ldg_ch_block_u64(block, ldg_ch_version(&row->positions));
    ldg_ch_block_u8(block, row->is_deleted);
    ldg_ch_block_i64(block, row->positions.appended);
    ldg_ch_block_i64(block, row->positions.tags);
    ldg_ch_block_i64(block, row->positions.annotations);
    ldg_ch_block_i64(block, row->positions.trimmed);
    ldg_ch_block_bytes(block, row->foreign);
    ldg_ch_block_row(block);
}

ledger_rc ldg_ch_flush(struct ldg_ch_batch *b, ledger_error *err)
{
    struct ldg_clickhouse *ch = b->ch;

    if (ch->rows.row_count == 0)
        return LEDGER_OK;
    return ldg_ch_insert(ch, "writing entries", "", "(" LDG_CH_ROW_COLUMNS ")", b->salt, err);
}
