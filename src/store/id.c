/* Comparing, hashing, writing and reading ids of entries. Pure.
 *
 * Hides which kind an id is of. Invariant: texts compare by their bytes, in every store. */
#include "store/id.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "event/event.h"

int ldg_id_compare(ledger_id a, ledger_id b)
{
    if (a.text && b.text)
        return strcmp(a.text, b.text);
    if (a.text || b.text)
        return a.text ? 1 : -1;
    return (a.number > b.number) - (a.number < b.number);
}

bool ldg_id_is_up_to(ledger_id id, ledger_id last)
{
    return (id.text == NULL) == (last.text == NULL) && ldg_id_compare(id, last) <= 0;
}

uint64_t ldg_id_hash(ledger_id id, uint64_t seed)
{
    return id.text ? ldg_hash64(id.text, strlen(id.text), seed)
                   : ldg_hash64(&id.number, sizeof(id.number), seed);
}

bool ldg_id_copy(ledger_id id, struct ldg_arena *arena, ledger_id *ret_id)
{
    const bool is_text = id.text != NULL;

    if (is_text)
        id.text = ldg_arena_strdup(arena, id.text);
    *ret_id = id;
    return !is_text || id.text;
}

void ldg_id_own_set(struct ldg_id_own *own, ledger_id id)
{
    own->id = id;
    if (id.text) {
        snprintf(own->text, sizeof(own->text), "%s", id.text);
        own->id.text = own->text;
    }
}

const char *ldg_id_text(ledger_id id, char buffer[LEDGER_ID_TEXT_MAX])
{
    if (id.text)
        return id.text;
    snprintf(buffer, LEDGER_ID_TEXT_MAX, "%" PRId64, id.number);
    return buffer;
}

bool ldg_id_parse(const char *text, ledger_id *ret_id)
{
    const size_t size = strlen(text);
    int64_t number;

    if (ldg_int64_parse(text, false, &number)) {
        *ret_id = ldg_id_of(number);
        return true;
    }
    if (text[0] == '-' && ldg_int64_parse(text + 1, false, &number)) {
        *ret_id = ldg_id_of(-number);
        return true;
    }
    if (size == 0 || size >= LEDGER_ID_TEXT_MAX || !ldg_utf8_valid(text, size))
        return false;
    *ret_id = (ledger_id){ .text = text };
    return true;
}
