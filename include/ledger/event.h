/* A mutation event: one change of a store, as its mutation log keeps it in JSON.
 *
 * Field names and omission rules are those of the Go module's MutationEvent and AppendEntry. Added
 * are, and readers that do not know them ignore: created_at (time of the change; of the entry
 * inside `entries`), origin, origin_pos, entry_origin and source_id (of a change that a bridge
 * brought here), payload_head and payload_tail (white space around a payload, which JSON cannot
 * keep). */
#ifndef LEDGER_EVENT_H
#define LEDGER_EVENT_H

#include "ledger/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The wire names are "append", "set_tags", "set_annotations", "trim". */
typedef enum ledger_mutation_type {
    LEDGER_MUTATION_APPEND = 0,
    LEDGER_MUTATION_SET_TAGS = 1,
    LEDGER_MUTATION_SET_ANNOTATIONS = 2,
    LEDGER_MUTATION_TRIM = 3,
    LEDGER_MUTATION_UNKNOWN = 4, /* a later version's type: decodes, cannot be applied */
} ledger_mutation_type;
#define LEDGER_MUTATION_TYPE_COUNT 5

LEDGER_API const char *ledger_mutation_type_name(ledger_mutation_type type); /* never NULL */
LEDGER_API ledger_mutation_type ledger_mutation_type_parse(const char *name);

typedef struct ledger_append_entry {
    const char *id;        /* required */
    ledger_bytes payload;  /* required; raw JSON */
    const char *order_key; /* never NULL after decoding: "" when absent */
    const char *dedup_key;
    int schema_version; /* absent: 1 */
    ledger_map metadata;
    ledger_list tags;
    int64_t created_at_us; /* absent: the event's; LEDGER_NO_TIME: neither has one (Go
                              wrote it) */
    const char *source_id; /* "" unless the event has an origin: id at the origin */
} ledger_append_entry;

typedef struct ledger_mutation_event {
    ledger_mutation_type type;
    const char *type_name;              /* as written */
    const char *stream;                 /* required */
    const ledger_append_entry *entries; /* append: at least one */
    size_t entry_count;
    const char *entry_id; /* set_tags, set_annotations: required; else "" */
    ledger_list tags;
    ledger_map annotations; /* NULL value: delete */
    const char *before_id;  /* trim: required unless it has an origin; else "" */
    int64_t created_at_us;  /* LEDGER_NO_TIME: absent */
    const char *origin;     /* "uuid:epoch" of the store that made the change; "" = this one */
    int64_t origin_pos;     /* its log position there; 0 = absent */
    const char
        *entry_origin;     /* set_*: as origin, of the store that made the entry; "" = the same */
    const char *source_id; /* set_*, trim: entry_id or before_id at the entry's origin; "" = none */
} ledger_mutation_event;

/* A decoded event and all it points to. */
typedef struct ledger_event ledger_event;

/* Decodes one event. json: borrowed; payloads are copied. Unknown fields are ignored, of a repeated
 * key the last counts. On success *ret_event is the caller's: ledger_event_destroy(). Thread: any.
 * Errors: DATA (not strict RFC 8259, bad UTF-8, NUL in a string, missing or ill-typed field; says
 * which and where), TOO_LARGE, NOMEM. An unknown `type` is no error: LEDGER_MUTATION_UNKNOWN. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_event_decode(ledger_bytes json,
                                                         ledger_event **ret_event,
                                                         ledger_error *err);
LEDGER_API const ledger_mutation_event *ledger_event_get(const ledger_event *event);
LEDGER_API void ledger_event_destroy(ledger_event **event);

/* Encodes one event as compact JSON. *ret_json (NUL behind it, not counted) is the caller's:
 * free(). Payloads go in as they are and must be valid JSON. NULL strings count as "". Thread: any.
 * Errors: DATA, TOO_LARGE, NOMEM. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_event_encode(const ledger_mutation_event *event,
                                                         char **ret_json, size_t *ret_size,
                                                         ledger_error *err);

#ifdef __cplusplus
}
#endif
#endif
