/* Decoding: log rows into events. Pure; everything made lies in the batch's arena, payloads stay
 * slices of the rows. A row that is no event keeps its reason and is planned as one to park. */
#include <string.h>

#include "bridge/stages.h"

ledger_rc ldg_decode(struct ldg_batch *batch, ledger_error *err)
{
    struct ldg_arena *arena = &batch->log.arena;
    struct ldg_batch_event *events = ldg_arena_calloc(arena, batch->log.count + 1, sizeof(*events));
    if (events == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < batch->log.count; i++) {
        struct ldg_batch_event *item = &events[i];
        ledger_error why = { 0 };
        ledger_rc rc = ldg_event_decode(batch->log.rows[i].payload, arena, &item->event, &why);
        if (rc == LEDGER_ERR_NOMEM)
            return ldg_fail_nomem(err);
        if (rc != LEDGER_OK) {
            item->bad = ldg_arena_strdup(arena, why.message);
            if (item->bad == NULL)
                return ldg_fail_nomem(err);
            item->event.origin = "";
            item->event.entry_origin = "";
            batch->has_bad = true;
        } else if (item->event.origin[0] != '\0' || item->event.entry_origin[0] != '\0') {
            batch->has_origins = true;
        }
    }
    batch->events = events;
    return LEDGER_OK;
}
