/* Rows on their way to ClickHouse: packed as they are written, so that no row stands in memory
 * twice. */
#ifndef LDG_BACKEND_CLICKHOUSE_BLOCK_H
#define LDG_BACKEND_CLICKHOUSE_BLOCK_H

#include <string.h>

#include "ledger/types.h"

#include "base/buf.h"

struct ldg_ch_block {
    void *zstd; /* of libzstd; made with the first row, kept */
    struct ldg_buf packed;
    uint8_t *staged; /* not packed yet */
    size_t staged_size;
    uint64_t hash; /* of all that was written */
    size_t row_count;
    ledger_rc rc; /* of the first write that failed; then all others do nothing */
};

/* Allocates nothing. */
void ldg_ch_block_init(struct ldg_ch_block *block);
void ldg_ch_block_fini(struct ldg_ch_block *block);
/* Empty again; keeps the memory, unless it is much. */
void ldg_ch_block_reset(struct ldg_ch_block *block);

void ldg_ch_block_bytes(struct ldg_ch_block *block, ledger_bytes bytes); /* a String */
/* A text as a String. */
static inline ledger_bytes ldg_ch_bytes_of(const char *text)
{
    return (ledger_bytes){ text, strlen(text) };
}
static inline void ldg_ch_block_text(struct ldg_ch_block *block, const char *text)
{
    ldg_ch_block_bytes(block, ldg_ch_bytes_of(text));
}
void ldg_ch_block_u8(struct ldg_ch_block *block, uint8_t value);
void ldg_ch_block_i32(struct ldg_ch_block *block, int32_t value);
void ldg_ch_block_u64(struct ldg_ch_block *block, uint64_t value);
static inline void ldg_ch_block_i64(struct ldg_ch_block *block, int64_t value)
{
    ldg_ch_block_u64(block, (uint64_t)value);
}
/* The row that was written is whole. */
void ldg_ch_block_row(struct ldg_ch_block *block);
/* No more rows: block->packed is what is sent, with Content-Encoding: zstd. Errors: NOMEM,
 * TOO_LARGE, INTERNAL. */
ledger_rc ldg_ch_block_end(struct ldg_ch_block *block, ledger_error *err);

#endif
