/* Keys, ids and versions of entries. Pure.
 *
 * Hides how an id becomes a column that sorts, and how positions become a version that only grows.
 * Invariant: of two states of an entry the one that has seen more of the log has the higher
 * version, whoever wrote it, and one that was trimmed stays so. */
#include "backend/clickhouse/clickhouse.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"

#define TEXT_MARK ':'

void ldg_ch_key(ledger_id id, char text[LDG_CH_KEY_MAX])
{
    if (id.text != NULL)
        (void)snprintf(text, LDG_CH_KEY_MAX, "%c%s", TEXT_MARK, id.text);
    else if (id.number > 0)
        (void)snprintf(text, LDG_CH_KEY_MAX, "%019" PRId64, id.number);
    else
        text[0] = '\0'; /* no entry has it; before all that one has */
}

bool ldg_ch_key_parse(const char *text, ledger_id *ret_id)
{
    if (text[0] == TEXT_MARK) {
        *ret_id = (ledger_id){ .text = text + 1 };
        return text[1] != '\0' && strlen(text + 1) < LEDGER_ID_TEXT_MAX;
    }
    *ret_id = (ledger_id){ 0 };
    return text[0] == '\0' || ldg_int64_parse(text, true, &ret_id->number);
}

void ldg_ch_id(const char *key, int origin, char text[LEDGER_ID_TEXT_MAX])
{
    const char *plain = key[0] == TEXT_MARK ? key + 1 : key;
    size_t size = strlen(plain);
    char tail[40];
    int n = snprintf(tail, sizeof(tail), "-%d", origin);

    if (size + (size_t)n >= LEDGER_ID_TEXT_MAX) {
        n = snprintf(tail, sizeof(tail), "~%016" PRIx64 "-%d", ldg_hash64(plain, size, 0), origin);
        size = LEDGER_ID_TEXT_MAX - 1 - (size_t)n;
        while (size > 0 && ((unsigned char)plain[size] & 0xC0) == 0x80)
            size--; /* no half character */
    }
    (void)snprintf(text, LEDGER_ID_TEXT_MAX, "%.*s%s", (int)size, plain, tail);
}

static uint64_t add(uint64_t sum, uint64_t more)
{
    const uint64_t most = LDG_CH_TRIMMED - 1;

    return more > most - sum ? most : sum + more;
}

static uint64_t add_position(uint64_t sum, int64_t position)
{
    return position > 0 ? add(sum, (uint64_t)position) : sum;
}

uint64_t ldg_ch_version(const struct ldg_ch_positions *positions)
{
    uint64_t sum = 0;

    sum = add_position(sum, positions->appended);
    sum = add_position(sum, positions->tags);
    sum = add_position(sum, positions->annotations);
    sum = add_position(sum, positions->trimmed);
    sum = add(sum, positions->foreign);
    return positions->trimmed > 0 ? sum | LDG_CH_TRIMMED : sum;
}

void ldg_ch_foreign_name(enum ldg_op_kind kind, const char *origin,
                         char name[LDG_CH_ORIGIN_TEXT_MAX + 2])
{
    (void)snprintf(name, LDG_CH_ORIGIN_TEXT_MAX + 2, "%c %s", kind == LDG_OP_SET_TAGS ? 't' : 'a',
                   origin);
}

bool ldg_ch_foreign_parse(const char *name, enum ldg_op_kind *ret_kind, const char **ret_origin)
{
    if ((name[0] != 't' && name[0] != 'a') || name[1] != ' ')
        return false;
    *ret_kind = name[0] == 't' ? LDG_OP_SET_TAGS : LDG_OP_SET_ANNOTATIONS;
    *ret_origin = name + 2;
    return true;
}

uint64_t ldg_ch_foreign_sum(ledger_map foreign)
{
    uint64_t sum = 0;
    int64_t position;

    for (size_t i = 0; i < foreign.count; i++) {
        if (ldg_int64_parse(foreign.items[i].value, false, &position))
            sum = add_position(sum, position);
    }
    return sum;
}

void ldg_ch_origin_text(const struct ldg_identity *identity, char text[LDG_CH_ORIGIN_TEXT_MAX])
{
    (void)snprintf(text, LDG_CH_ORIGIN_TEXT_MAX, "%s:%" PRId64, identity->uuid, identity->epoch);
}
