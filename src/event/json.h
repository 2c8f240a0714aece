/* The strict JSON scanner, for the files of this folder only. It walks bytes that it does not own,
 * never recurses, and stops at the first fault: `fault` says what is wrong at `at`. */
#ifndef LDG_EVENT_JSON_H
#define LDG_EVENT_JSON_H

#include "event/event.h"

struct ldg_json {
    const char *start, *p, *end;
    const char *fault; /* NULL: none yet */
    const char *at;    /* of the fault */
    bool nomem;        /* the fault is ours, not the text's */
};

/* A string between its quotes, as written. */
struct ldg_json_str {
    const char *raw;
    size_t size;
    bool escaped;        /* has a backslash */
    const char *illegal; /* first escape that cannot be text of ours: NUL or half a pair; or NULL */
};

void ldg_json_init(struct ldg_json *json, ledger_bytes bytes);
/* Notes the first fault. Always false. */
bool ldg_json_fault(struct ldg_json *json, const char *fault, const char *at);
/* The fault as an error: "<what>: <fault> at byte N". */
ledger_rc ldg_json_fail(const struct ldg_json *json, const char *what, ledger_error *err);

void ldg_json_skip_space(struct ldg_json *json);
/* The next byte that is not white space, not consumed; '\0' at the end (no JSON token is NUL). */
char ldg_json_peek(struct ldg_json *json);
/* Consumes c, with white space before it. */
bool ldg_json_expect(struct ldg_json *json, char c, const char *fault);
/* Nothing but white space is left. */
bool ldg_json_finish(struct ldg_json *json);

/* Consumes one value of any kind; ret_raw (may be NULL) is its text without outer white space. */
bool ldg_json_skip_value(struct ldg_json *json, size_t max_depth, ledger_bytes *ret_raw);
/* Consumes a string. */
bool ldg_json_scan_string(struct ldg_json *json, struct ldg_json_str *ret_str);
/* Unescapes into out (at least str->size bytes) and returns the size. str->illegal must be NULL. */
size_t ldg_json_unescape(const struct ldg_json_str *str, char *out);
/* Consumes a string and puts it NUL-terminated into the arena; *ret_text is never NULL. */
bool ldg_json_read_string(struct ldg_json *json, struct ldg_arena *arena, const char **ret_text);
/* Consumes `null` if it is next. */
bool ldg_json_read_null(struct ldg_json *json);
/* Consumes "key :" of an object's next member. Call first with *first = true. False at the closing
 * brace (consumed) and on a fault. */
bool ldg_json_next_key(struct ldg_json *json, bool *first, struct ldg_json_str *ret_key);
/* The same for an array: true when an element follows. */
bool ldg_json_next_item(struct ldg_json *json, bool *first);

/* Consume a map or a list, or null. */
bool ldg_json_read_map(struct ldg_json *json, bool allow_null, struct ldg_arena *arena,
                       ledger_map *ret_map);
bool ldg_json_read_list(struct ldg_json *json, struct ldg_arena *arena, ledger_list *ret_list);

/* ldg_json_put_string for text that need not end in NUL. */
ledger_rc ldg_json_put_text(struct ldg_buf *out, const char *s, size_t size);

/* Room for one more item in an array of the arena: doubles it when full. False: out of memory. */
bool ldg_json_grow(struct ldg_arena *arena, void **items, size_t count, size_t *cap,
                   size_t item_size);

#endif
