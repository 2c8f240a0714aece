/* RowBinary, both ways. Pure.
 *
 * Hides the form of values. Invariant: no read leaves the answer, whatever it holds. */
#include "backend/clickhouse/rowbinary.h"

#define ROW_MARK 1

size_t ldg_ch_put_length(uint64_t length, uint8_t out[LDG_CH_LENGTH_MAX])
{
    size_t n = 0;

    while (length >= 0x80) {
        out[n++] = (uint8_t)(length | 0x80);
        length >>= 7;
    }
    out[n++] = (uint8_t)length;
    return n;
}

void ldg_ch_put_number(uint64_t value, size_t size, uint8_t *out)
{
    for (size_t i = 0; i < size; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

static void give_up(struct ldg_ch_reader *reader)
{
    reader->bad = true;
    reader->p = reader->end;
}

static uint64_t read_number(struct ldg_ch_reader *reader, size_t size)
{
    uint64_t value = 0;

    if ((size_t)(reader->end - reader->p) < size) {
        give_up(reader);
        return 0;
    }
    for (size_t i = 0; i < size; i++)
        value |= (uint64_t)*reader->p++ << (8 * i);
    return value;
}

bool ldg_ch_read_row(struct ldg_ch_reader *reader)
{
    if (reader->p == reader->end)
        return false;
    if (*reader->p != ROW_MARK) {
        reader->bad = true;
        return false;
    }
    reader->p++;
    return true;
}

uint8_t ldg_ch_read_byte(struct ldg_ch_reader *reader)
{
    return (uint8_t)read_number(reader, 1);
}

uint32_t ldg_ch_read_u32(struct ldg_ch_reader *reader)
{
    return (uint32_t)read_number(reader, 4);
}

uint64_t ldg_ch_read_u64(struct ldg_ch_reader *reader)
{
    return read_number(reader, 8);
}

ledger_bytes ldg_ch_read_bytes(struct ldg_ch_reader *reader)
{
    ledger_bytes bytes = { "", 0 };
    uint64_t length = 0;
    unsigned shift = 0;
    uint8_t byte;

    do {
        byte = ldg_ch_read_byte(reader);
        if (shift < 63)
            length |= (uint64_t)(byte & 0x7F) << shift;
        else if ((byte & 0x7F) != 0)
            give_up(reader);
        shift += 7;
    } while ((byte & 0x80) != 0 && !reader->bad);
    if (reader->bad || length > (uint64_t)(reader->end - reader->p)) {
        give_up(reader);
        return bytes;
    }
    if (length > 0)
        bytes = (ledger_bytes){ reader->p, (size_t)length };
    reader->p += length;
    return bytes;
}
