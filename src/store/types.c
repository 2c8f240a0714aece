/* The values of types.h that own memory, the two id codecs, and the library's version. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "event/event.h"
#include "ledger/ledger.h"
#include "store/batch.h"

const char *ledger_version(void)
{
    return LEDGER_VERSION;
}

ledger_batch *ldg_batch_create(void)
{
    ledger_batch *batch = ldg_calloc(1, sizeof(*batch));
    if (batch)
        ldg_arena_init(&batch->arena, 0);
    return batch;
}

size_t ledger_batch_count(const ledger_batch *batch)
{
    return batch ? batch->count : 0;
}

const ledger_entry *ledger_batch_entry(const ledger_batch *batch, size_t index)
{
    return batch && index < batch->count ? &batch->entries[index] : NULL;
}

void ledger_batch_destroy(ledger_batch **batch)
{
    if (!batch || !*batch)
        return;
    ldg_arena_fini(&(*batch)->arena);
    ldg_free(*batch);
    *batch = NULL;
}

void ledger_ids_destroy(ledger_ids *ids)
{
    if (!ids)
        return;
    for (size_t i = 0; i < ids->count; i++)
        ldg_free((char *)ids->items[i].text);
    ldg_free(ids->items);
    *ids = (ledger_ids){ 0 };
}

void ledger_names_destroy(ledger_names *names)
{
    if (!names)
        return;
    for (size_t i = 0; i < names->count; i++)
        ldg_free(names->items[i]);
    ldg_free(names->items);
    *names = (ledger_names){ 0 };
}

/* --- codecs -------------------------------------------------------------------------------- */

static ledger_rc int64_encode(ledger_id id, char text[LEDGER_ID_TEXT_MAX], ledger_error *err)
{
    if (id.text)
        return ldg_fail(err, LEDGER_ERR_INVALID, "the int64 codec takes ids that are numbers");
    if (id.number < 0)
        return ldg_fail(err, LEDGER_ERR_INVALID, "a position is never negative: %lld",
                        (long long)id.number);
    snprintf(text, LEDGER_ID_TEXT_MAX, "%019lld", (long long)id.number);
    return LEDGER_OK;
}

static ledger_rc int64_decode(const char *text, ledger_id *ret_id, ledger_error *err)
{
    int64_t number;
    if (!text || !ldg_int64_parse(text, true, &number))
        return ldg_fail(err, LEDGER_ERR_INVALID, "\"%.64s\" is not a position: digits only",
                        text ? text : "");
    *ret_id = (ledger_id){ .number = number };
    return LEDGER_OK;
}

static ledger_id int64_zero(void)
{
    return (ledger_id){ 0 };
}

static bool int64_less(ledger_id a, ledger_id b)
{
    return a.number < b.number;
}

static ledger_rc string_encode(ledger_id id, char text[LEDGER_ID_TEXT_MAX], ledger_error *err)
{
    if (!id.text)
        return ldg_fail(err, LEDGER_ERR_INVALID, "the string codec takes ids that are text");
    size_t size = strlen(id.text);
    if (size >= LEDGER_ID_TEXT_MAX)
        return ldg_fail(err, LEDGER_ERR_TOO_LARGE, "an id has at most %d bytes, this one %zu",
                        LEDGER_ID_TEXT_MAX - 1, size);
    memcpy(text, id.text, size + 1);
    return LEDGER_OK;
}

static ledger_rc string_decode(const char *text, ledger_id *ret_id, ledger_error *err)
{
    if (!text)
        return ldg_fail(err, LEDGER_ERR_INVALID, "no position given");
    *ret_id = (ledger_id){ .text = text };
    return LEDGER_OK;
}

static ledger_id string_zero(void)
{
    return (ledger_id){ .text = "" };
}

static bool string_less(ledger_id a, ledger_id b)
{
    return strcmp(a.text ? a.text : "", b.text ? b.text : "") < 0;
}

const ledger_id_codec ledger_int64_codec = {
    .encode = int64_encode,
    .decode = int64_decode,
    .zero = int64_zero,
    .less = int64_less,
};

const ledger_id_codec ledger_string_codec = {
    .encode = string_encode,
    .decode = string_decode,
    .zero = string_zero,
    .less = string_less,
};
