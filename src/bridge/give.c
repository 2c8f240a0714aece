/* Ops to a sink that keeps no state, under its own numbers of origins.
 *
 * Hides those numbers, and what of the sink's answer can be believed. Invariant: an op with an
 * outcome is done, and is not undone. */
#include <string.h>

#include "bridge/deliver.h"

void ldg_deliverer_fini(struct ldg_deliverer *deliverer)
{
    ldg_free(deliverer->origins);
    deliverer->origins = NULL;
    deliverer->origin_count = deliverer->origin_cap = 0;
}

/* text: "uuid:epoch" of the origin; "": of the store whose log was read. */
static ledger_rc add_origin(struct ldg_deliverer *deliverer, const struct ldg_op *op, int number,
                            const char *text, ledger_error *err)
{
    struct ldg_identity identity = { .epoch = op->source_epoch };
    int at_sink = 0;
    memcpy(identity.uuid, op->source_uuid, strlen(op->source_uuid) + 1);
    if (text[0] != '\0' && !ldg_identity_parse(text, &identity))
        return ldg_fail(err, LEDGER_ERR_INTERNAL, "an op's origin is not uuid:epoch");
    ledger_rc rc = ldg_store_origin_get(deliverer->sink, &identity, "", &at_sink, err);
    if (rc == LEDGER_OK && deliverer->origin_count == deliverer->origin_cap) {
        const size_t cap = deliverer->origin_cap + 8;
        void *origins = ldg_realloc(deliverer->origins, cap * sizeof(*deliverer->origins));
        if (origins == NULL)
            return ldg_fail_nomem(err);
        deliverer->origins = origins;
        deliverer->origin_cap = cap;
    }
    if (rc == LEDGER_OK)
        deliverer->origins[deliverer->origin_count++] =
            (struct ldg_origin_pair){ .number = number, .at_sink = at_sink };
    return rc;
}

static ledger_rc number_at_sink(struct ldg_deliverer *deliverer, const struct ldg_op *op,
                                const char *text, int *number, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    size_t i = 0;
    while (i < deliverer->origin_count && deliverer->origins[i].number != *number)
        i++;
    if (i == deliverer->origin_count)
        rc = add_origin(deliverer, op, *number, text, err);
    if (rc == LEDGER_OK)
        *number = deliverer->origins[i].at_sink;
    return rc;
}

bool ldg_give_renumbers(const struct ldg_deliverer *deliverer)
{
    return (ldg_store_caps(deliverer->sink) & LDG_CAP_ORIGINS) != 0;
}

ledger_rc ldg_give_renumber(struct ldg_deliverer *deliverer, struct ldg_op *ops, size_t count,
                            ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    if (!ldg_give_renumbers(deliverer))
        return LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        rc = number_at_sink(deliverer, &ops[i], ops[i].origin_text, &ops[i].origin, err);
        if (rc == LEDGER_OK)
            rc = number_at_sink(deliverer, &ops[i], ops[i].mutation_origin_text,
                                &ops[i].mutation_origin, err);
    }
    return rc;
}

ledger_rc ldg_give(const struct ldg_deliverer *deliverer, const struct ldg_apply *apply,
                   uint8_t *outcomes, ledger_error *err)
{
    const bool is_atomic = (ldg_store_caps(deliverer->sink) & LDG_CAP_ATOMIC_BATCH) != 0;
    memset(outcomes, LDG_OUTCOME_NONE, apply->count);
    err->done_count = 0;
    ledger_rc rc = ldg_store_apply(deliverer->sink, apply, outcomes, err);
    if (rc != LEDGER_OK && is_atomic)
        memset(outcomes, LDG_OUTCOME_NONE, apply->count);
    if (rc == LEDGER_ERR_REJECTED &&
        (err->done_count >= apply->count || outcomes[err->done_count] != LDG_OUTCOME_NONE))
        return ldg_fail(err, LEDGER_ERR_INTERNAL, "the sink refuses what it was not given, or has");
    return rc;
}
