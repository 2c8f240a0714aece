/* Ids of entries, whatever their kind: a number (text NULL), or a text.
 *
 * An id at the entry's origin is the key by which every sink knows the entry. The text says the
 * kind, so that it stays the same on any way: what reads as a number, digits without leading zeros
 * that fit 64 bits, is one, and anything else a text. Order: numbers before texts, texts bytewise;
 * the ids of one store are all of one kind. */
#ifndef LDG_STORE_ID_H
#define LDG_STORE_ID_H

#include <stdint.h>

#include "ledger/types.h"

#include "base/arena.h"

static inline ledger_id ldg_id_of(int64_t number)
{
    return (ledger_id){ .number = number };
}

/* Is it none? Numbers of entries begin at 1. It stands before all ids. */
static inline bool ldg_id_is_none(ledger_id id)
{
    return id.text == NULL && id.number == 0;
}

/* Is id at or before `last`, in the order of their store? Of two kinds no id is. */
bool ldg_id_is_up_to(ledger_id id, ledger_id last);
/* < 0, 0, > 0 */
int ldg_id_compare(ledger_id a, ledger_id b);
static inline bool ldg_id_equal(ledger_id a, ledger_id b)
{
    return ldg_id_compare(a, b) == 0;
}
uint64_t ldg_id_hash(ledger_id id, uint64_t seed);

/* A copy whose text is in the arena. false: out of memory. */
bool ldg_id_copy(ledger_id id, struct ldg_arena *arena, ledger_id *ret_id);

/* An id that keeps its text itself; not to be copied. From zeroes: none. */
struct ldg_id_own {
    ledger_id id;
    char text[LEDGER_ID_TEXT_MAX];
};
void ldg_id_own_set(struct ldg_id_own *own, ledger_id id);

/* As events and tables write it; views the id, or `buffer`. */
const char *ldg_id_text(ledger_id id, char buffer[LEDGER_ID_TEXT_MAX]);
/* The id that is written so; views the text. false: none is, because the text is empty, longer than
 * LEDGER_ID_TEXT_MAX - 1 bytes or no UTF-8. Numbers may be below 1: no entry has such an id, but a
 * trim may name one. */
bool ldg_id_parse(const char *text, ledger_id *ret_id);

#endif
