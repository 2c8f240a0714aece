/* What is known to be gone: of each stream up to which entry all were trimmed, so that the next
 * trim need not look at those again. A stream that is trimmed for years would cost more with each
 * trim.
 *
 * Hides a small hash table, which forgets all when it is full. Invariant: up to the key that it
 * gives, no entry of that stream and origin is here: each was deleted through this handle, with
 * nothing that the source had kept, and none has come since. Of other bridges at the same log, and
 * of a batch that failed, none can bring one that counts: what they add late loses to what this one
 * has deleted, or is an entry that this one has yet to meet in the log; and a bridge that takes
 * this one's place makes its fence fail. Whoever is not sure forgets: so does a sink whose state
 * another store keeps, which has no fence. */
#include "backend/clickhouse/clickhouse.h"

#include <string.h>

#include "base/hash.h"

#define SLOTS 8192
#define STREAMS_MAX (SLOTS / 2)

struct ldg_ch_trimmed {
    int origin;
    char *stream; /* NULL: free */
    char *key;
};

static struct ldg_ch_trimmed *slot_of(const struct ldg_clickhouse *ch, int origin,
                                      const char *stream)
{
    size_t at = ldg_hash64(stream, strlen(stream), (uint64_t)origin) % SLOTS;

    while (ch->trimmed[at].stream != NULL &&
           (ch->trimmed[at].origin != origin || strcmp(ch->trimmed[at].stream, stream) != 0))
        at = (at + 1) % SLOTS;
    return &ch->trimmed[at];
}

void ldg_ch_trimmed_forget(struct ldg_clickhouse *ch)
{
    for (size_t i = 0; ch->trimmed != NULL && i < SLOTS; i++) {
        ldg_free(ch->trimmed[i].stream);
        ldg_free(ch->trimmed[i].key);
    }
    ldg_free(ch->trimmed);
    ch->trimmed = NULL;
    ch->trimmed_count = 0;
}

const char *ldg_ch_trimmed_to(const struct ldg_clickhouse *ch, int origin, const char *stream)
{
    const struct ldg_ch_trimmed *slot = ch->trimmed != NULL ? slot_of(ch, origin, stream) : NULL;

    return slot != NULL && slot->stream != NULL ? slot->key : NULL;
}

static ledger_rc note_trim(struct ldg_clickhouse *ch, const struct ldg_op *op, ledger_error *err)
{
    struct ldg_ch_trimmed *slot;
    char key[LDG_CH_KEY_MAX], *copy;

    if (ch->trimmed == NULL)
        ch->trimmed = ldg_calloc(SLOTS, sizeof(*ch->trimmed));
    if (ch->trimmed == NULL)
        return ldg_fail_nomem(err);
    slot = slot_of(ch, op->origin, op->stream);
    ldg_ch_key(op->key, key);
    if (slot->stream != NULL && strcmp(slot->key, key) >= 0)
        return LEDGER_OK;
    copy = ldg_strdup(key);
    if (copy != NULL && slot->stream == NULL) {
        slot->stream = ldg_strdup(op->stream);
        slot->origin = op->origin;
        ch->trimmed_count += slot->stream != NULL;
    }
    if (copy == NULL || slot->stream == NULL) {
        ldg_free(copy);
        return ldg_fail_nomem(err);
    }
    ldg_free(slot->key);
    slot->key = copy;
    if (ch->trimmed_count > STREAMS_MAX)
        ldg_ch_trimmed_forget(ch);
    return LEDGER_OK;
}

/* Entries may come late, below a trim. */
static void note_append(struct ldg_clickhouse *ch, const struct ldg_op *op)
{
    struct ldg_ch_trimmed *slot = slot_of(ch, op->origin, op->stream);
    char key[LDG_CH_KEY_MAX];

    ldg_ch_key(op->key, key);
    if (slot->stream != NULL && strcmp(key, slot->key) <= 0)
        slot->key[0] = '\0';
}

void ldg_ch_trimmed_meet(struct ldg_clickhouse *ch, const struct ldg_op *ops, size_t count)
{
    for (size_t i = 0; ch->trimmed != NULL && i < count; i++) {
        if (ops[i].kind == LDG_OP_APPEND)
            note_append(ch, &ops[i]);
    }
}

ledger_rc ldg_ch_trimmed_note(struct ldg_clickhouse *ch, const struct ldg_op *ops,
                              const uint8_t *outcomes, size_t count, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        const struct ldg_op *op = &ops[i];

        if (op->kind == LDG_OP_TRIM && op->survivor_count == 0 && op->origin > 0 &&
            outcomes[i] != LDG_OUTCOME_PARKED && !ldg_op_was_made_here(op))
            rc = note_trim(ch, op, err);
        else if (op->kind == LDG_OP_APPEND && ch->trimmed != NULL)
            note_append(ch, op);
    }
    return rc;
}
