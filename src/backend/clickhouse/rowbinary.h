/* RowBinary, in which rows go to ClickHouse and come from it: integers as they are in memory of a
 * little-endian machine, a text as its length (seven bits a byte, lowest first) and its bytes. */
#ifndef LDG_BACKEND_CLICKHOUSE_ROWBINARY_H
#define LDG_BACKEND_CLICKHOUSE_ROWBINARY_H

#include "ledger/types.h"

#include "base/buf.h"

/* A length, to out; the bytes that it took. */
#define LDG_CH_LENGTH_MAX 10
size_t ldg_ch_put_length(uint64_t length, uint8_t out[LDG_CH_LENGTH_MAX]);
/* Little-endian, of 1, 4 or 8 bytes. */
void ldg_ch_put_number(uint64_t value, size_t size, uint8_t *out);

/* Reads an answer of ours: each row begins with the byte 1, so that no row is taken for the text of
 * an error, and no error for a row. From {data, data + size}. */
struct ldg_ch_reader {
    const uint8_t *p, *end;
    bool bad; /* the answer ends within a value, or is none of ours; then all that is read is empty
               */
};
/* Is there another row? Its first value is next. */
bool ldg_ch_read_row(struct ldg_ch_reader *reader);
uint8_t ldg_ch_read_byte(struct ldg_ch_reader *reader);
uint32_t ldg_ch_read_u32(struct ldg_ch_reader *reader);
uint64_t ldg_ch_read_u64(struct ldg_ch_reader *reader);
static inline int64_t ldg_ch_read_i64(struct ldg_ch_reader *reader)
{
    return (int64_t)ldg_ch_read_u64(reader);
}
/* A view; never NULL. */
ledger_bytes ldg_ch_read_bytes(struct ldg_ch_reader *reader);

#endif
