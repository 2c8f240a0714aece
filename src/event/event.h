/* One mutation <-> bytes, and the small pieces of JSON that tables keep. Pure: no I/O, no state.
 *
 * The scanner is strict (RFC 8259), iterative with a depth limit, and checks UTF-8. Of a repeated
 * key the last value counts, as in Go. Strings come out NUL-terminated in the arena; payloads come
 * out as slices of the input, which must outlive the event. */
#ifndef LDG_EVENT_EVENT_H
#define LDG_EVENT_EVENT_H

#include "ledger/event.h"

#include "base/arena.h"
#include "base/buf.h"

/* Decodes into *ret_event; views json and arena. Errors: DATA, TOO_LARGE, NOMEM. On DATA and
 * TOO_LARGE, ret_event->stream, ->type, ->type_name and ->entry_id are still set when they could be
 * read ("" otherwise), for the one who parks the event; the rest of it is empty. An event of an
 * unknown type needs only to be JSON with a type: when its other fields are not ours, they come out
 * empty. */
ledger_rc ldg_event_decode(ledger_bytes json, struct ldg_arena *arena,
                           ledger_mutation_event *ret_event, ledger_error *err);

/* An event with these and nothing else: its other texts are "". Views stream. */
ledger_mutation_event ldg_event_blank(ledger_mutation_type type, const char *stream,
                                      int64_t created_at_us);

/* Appends the event to out. Payloads must be checked JSON (ldg_json_check); only their surrounding
 * white space is looked at. Errors: out's (NOMEM, TOO_LARGE); DATA: an empty payload, a time that
 * RFC 3339 cannot write, an unknown type without name. Required fields are not checked. */
ledger_rc ldg_event_encode(const ledger_mutation_event *event, struct ldg_buf *out,
                           ledger_error *err);

/* The same for an append whose ids are not known yet: they are left out, as "". Places are offsets
 * in out. */
struct ldg_event_place {
    size_t start;  /* the entry's '{' */
    size_t id;     /* where the text of its id belongs, between its quotes */
    size_t behind; /* what follows the entry: ',' or ']' */
};
ledger_rc ldg_event_encode_places(const ledger_mutation_event *event, struct ldg_buf *out,
                                  struct ldg_event_place *ret_places, ledger_error *err);

/* Is it one JSON value, no deeper than LEDGER_MAX_JSON_DEPTH, valid UTF-8? Errors: DATA with the
 * byte offset. */
ledger_rc ldg_json_check(ledger_bytes bytes, ledger_error *err);

/* Is text what Go's encoder makes of this payload: the same but for white space outside of strings
 * (all of it, or the outer alone) and the escapes of <, >, &, U+2028 and U+2029? */
bool ldg_json_is_reencoded(ledger_bytes payload, ledger_bytes text);

/* Valid UTF-8 (no surrogates, no overlong forms, at most U+10FFFF)? */
bool ldg_utf8_valid(const char *s, size_t size);

/* Canonical text: keys ascending, no white space, only what must be escaped is escaped.
 * A NULL value in a map is written as null. */
ledger_rc ldg_json_put_string(struct ldg_buf *out, const char *s);
ledger_rc ldg_json_put_map(struct ldg_buf *out, ledger_map map);
ledger_rc ldg_json_put_list(struct ldg_buf *out, ledger_list list);

/* Reads an object of strings (null values allowed only with allow_null) or an array of strings into
 * the arena; a map comes out sorted by key (bytewise), each key once. JSON null: an empty one. */
ledger_rc ldg_json_get_map(ledger_bytes bytes, bool allow_null, struct ldg_arena *arena,
                           ledger_map *ret_map, ledger_error *err);
ledger_rc ldg_json_get_list(ledger_bytes bytes, struct ldg_arena *arena, ledger_list *ret_list,
                            ledger_error *err);

/* base with changes merged in (NULL deletes), sorted. Views both inputs; items in the arena. */
ledger_rc ldg_map_merge(ledger_map base, ledger_map changes, struct ldg_arena *arena,
                        ledger_map *ret_map, ledger_error *err);
/* Sorted copy of items in the arena, last of a repeated key wins; views the strings. */
ledger_rc ldg_map_sort(ledger_map map, struct ldg_arena *arena, ledger_map *ret_map,
                       ledger_error *err);
bool ldg_map_equal(ledger_map a, ledger_map b); /* both sorted */
bool ldg_list_equal(ledger_list a, ledger_list b);

/* Are two JSON texts the same once Go has encoded them? That takes the white space between tokens
 * away and writes <, >, & and the line separators U+2028 and U+2029 as escapes. */
bool ldg_json_equal_in_go(ledger_bytes a, ledger_bytes b);
uint64_t ldg_json_hash_in_go(ledger_bytes json, uint64_t seed); /* equal for those */

/* "123" -> 123; only digits, no sign, fits int64, no leading zero unless padded is set. */
bool ldg_int64_parse(const char *text, bool padded, int64_t *ret_value);

#endif
