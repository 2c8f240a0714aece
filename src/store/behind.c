/* Who waits behind whom: an event that comes while an earlier one of its entry is parked has to
 * wait for that one, in a sink with transactions as in one that is delivered to.
 *
 * Hides how parked events of several logs are ordered. Pure: no I/O, no state. Invariant: events
 * never wait for each other, neither two nor several in a circle. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "store/backend.h"

bool ldg_op_is_of_log(const struct ldg_op *op, const char *source_uuid)
{
    return strcmp(ldg_or_empty(op->source_uuid), ldg_or_empty(source_uuid)) == 0;
}

struct ldg_place ldg_place_of(const struct ldg_op *op, int64_t own_row)
{
    return (struct ldg_place){ .op = op, .first = own_row };
}

void ldg_place_note(struct ldg_place *place, const char *source_uuid, int64_t log_position,
                    int64_t row)
{
    if (row < place->first && log_position > place->op->log_position &&
        ldg_op_is_of_log(place->op, source_uuid))
        place->first = row;
}

bool ldg_place_is_behind(const struct ldg_place *place, const char *source_uuid,
                         int64_t log_position, int64_t row)
{
    return ldg_op_is_of_log(place->op, source_uuid) ? log_position < place->op->log_position
                                                    : row < place->first;
}

bool ldg_op_may_come_by(const struct ldg_op *op, const char *source_uuid, int64_t log_position,
                        ledger_id key, const char *stream)
{
    return ldg_id_is_none(key) && log_position < op->log_position &&
           ldg_op_is_of_log(op, source_uuid) &&
           (*ldg_or_empty(stream) == '\0' || strcmp(ldg_or_empty(op->stream), stream) == 0);
}

void ldg_op_wait_reason(int64_t log_position, enum ldg_wait wait, char text[LDG_OP_WAIT_MAX])
{
    static const char *const before[] = {
        [LDG_WAIT_ENTRY] = "behind parked event ",
        [LDG_WAIT_MISSING] = "its entry may be in parked event ",
        [LDG_WAIT_KEY] = "its dedup key may be set free by parked event ",
    };

    snprintf(text, LDG_OP_WAIT_MAX, "%s%" PRId64, before[wait], log_position);
}

bool ldg_op_may_wait(const struct ldg_op *op, uint8_t outcome, enum ldg_wait *ret_wait)
{
    const bool changes = ldg_op_is_change(op);

    *ret_wait = changes ? LDG_WAIT_MISSING : LDG_WAIT_KEY;
    return (changes && outcome == LDG_OUTCOME_MISSING) ||
           (op->kind == LDG_OP_APPEND && outcome == LDG_OUTCOME_DEDUPLICATED);
}

bool ldg_op_may_trim(const char *type_name)
{
    const ledger_mutation_type type = ledger_mutation_type_parse(type_name);

    return type == LEDGER_MUTATION_TRIM || type == LEDGER_MUTATION_UNKNOWN;
}
