/* Rows, packed by zstd while they are written.
 *
 * Hides libzstd. Invariant: what a block takes is what is packed, and STAGED_BYTES; a write that
 * fails makes the whole block fail. */
#include "backend/clickhouse/block.h"

#include <string.h>
#include <zstd.h>

#include "backend/clickhouse/rowbinary.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/mem.h"

#define STAGED_BYTES ((size_t)64 * 1024)
#define KEPT_BYTES ((size_t)4 * 1024 * 1024)
/* A payload, a thousand such as there may be in tags and maps, and what zstd adds. */
#define PACKED_MAX_BYTES ((size_t)1024 * 1024 * 1024)
#define LEVEL 1

void ldg_ch_block_init(struct ldg_ch_block *block)
{
    *block = (struct ldg_ch_block){ 0 };
    ldg_buf_init(&block->packed, PACKED_MAX_BYTES);
}

void ldg_ch_block_fini(struct ldg_ch_block *block)
{
    (void)ZSTD_freeCCtx(block->zstd);
    ldg_buf_fini(&block->packed);
    ldg_free(block->staged);
    ldg_ch_block_init(block);
}

void ldg_ch_block_reset(struct ldg_ch_block *block)
{
    if (block->packed.cap > KEPT_BYTES)
        ldg_buf_fini(&block->packed);
    ldg_buf_reset(&block->packed);
    block->staged_size = 0;
    block->hash = 0;
    block->row_count = 0;
    block->rc = LEDGER_OK;
    if (block->zstd != NULL)
        (void)ZSTD_CCtx_reset(block->zstd, ZSTD_reset_session_only);
}

static bool is_ready(struct ldg_ch_block *block)
{
    if (block->staged == NULL)
        block->staged = ldg_malloc(STAGED_BYTES);
    if (block->zstd == NULL) {
        block->zstd = ZSTD_createCCtx();
        if (block->zstd != NULL)
            (void)ZSTD_CCtx_setParameter(block->zstd, ZSTD_c_compressionLevel, LEVEL);
    }
    if (block->rc == LEDGER_OK && (block->staged == NULL || block->zstd == NULL))
        block->rc = LEDGER_ERR_NOMEM;
    return block->rc == LEDGER_OK;
}

/* Packs these bytes. */
static void pack(struct ldg_ch_block *block, const void *data, size_t size, ZSTD_EndDirective how)
{
    char room[16 * 1024];
    ZSTD_inBuffer in = { data, size, 0 };
    size_t left = 1;

    if (size > 0)
        block->hash = ldg_hash64(data, size, block->hash);
    while (block->rc == LEDGER_OK && (in.pos < in.size || (how == ZSTD_e_end && left > 0))) {
        ZSTD_outBuffer out = { room, sizeof(room), 0 };

        left = ZSTD_compressStream2(block->zstd, &out, &in, how);
        if (ZSTD_isError(left))
            block->rc = LEDGER_ERR_INTERNAL;
        else
            block->rc = ldg_buf_append(&block->packed, room, out.pos);
    }
}

static void write_bytes(struct ldg_ch_block *block, const void *data, size_t size)
{
    if (!is_ready(block))
        return;
    if (size > STAGED_BYTES - block->staged_size) {
        pack(block, block->staged, block->staged_size, ZSTD_e_continue);
        block->staged_size = 0;
    }
    if (size >= STAGED_BYTES) {
        pack(block, data, size, ZSTD_e_continue);
    } else if (size > 0) {
        memcpy(block->staged + block->staged_size, data, size);
        block->staged_size += size;
    }
}

void ldg_ch_block_bytes(struct ldg_ch_block *block, ledger_bytes bytes)
{
    uint8_t length[LDG_CH_LENGTH_MAX];

    write_bytes(block, length, ldg_ch_put_length(bytes.size, length));
    write_bytes(block, bytes.data, bytes.size);
}

static void write_number(struct ldg_ch_block *block, uint64_t value, size_t size)
{
    uint8_t bytes[8];

    ldg_ch_put_number(value, size, bytes);
    write_bytes(block, bytes, size);
}

void ldg_ch_block_u8(struct ldg_ch_block *block, uint8_t value)
{
    write_number(block, value, 1);
}

void ldg_ch_block_i32(struct ldg_ch_block *block, int32_t value)
{
    write_number(block, (uint32_t)value, 4);
}

void ldg_ch_block_u64(struct ldg_ch_block *block, uint64_t value)
{
    write_number(block, value, 8);
}

void ldg_ch_block_row(struct ldg_ch_block *block)
{
    block->row_count++;
}

ledger_rc ldg_ch_block_end(struct ldg_ch_block *block, ledger_error *err)
{
    if (is_ready(block)) {
        pack(block, block->staged, block->staged_size, ZSTD_e_end);
        block->staged_size = 0;
    }
    switch ((int)block->rc) {
    case LEDGER_OK:
        return LEDGER_OK;
    case LEDGER_ERR_NOMEM:
        return ldg_fail_nomem(err);
    case LEDGER_ERR_TOO_LARGE:
        return ldg_fail(err, LEDGER_ERR_TOO_LARGE, "a batch is larger than %zu MiB when packed",
                        PACKED_MAX_BYTES >> 20);
    default: /* uncovered: libzstd takes whatever it is given */
        return ldg_fail(err, LEDGER_ERR_INTERNAL, "zstd cannot pack the rows");
    }
}
