/* Values that pass through every call: bytes, ids, maps, lists, entries.
 *
 * Strings are UTF-8, end in NUL and hold no other NUL. A view (a const pointer in a struct below)
 * lives as long as its owner: the caller for inputs, the batch for results. */
#ifndef LEDGER_TYPES_H
#define LEDGER_TYPES_H

#include <stdbool.h>

#include "ledger/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LEDGER_MAX_PAYLOAD_BYTES ((size_t)256 * 1024 * 1024) /* payload of one entry */
#define LEDGER_MAX_STREAM_BYTES 1024                         /* stream id */
#define LEDGER_MAX_KEY_BYTES 4096 /* order or dedup key, tag, map key; PostgreSQL: see below */
#define LEDGER_MAX_VALUE_BYTES ((size_t)1024 * 1024) /* one metadata or annotation value */
#define LEDGER_MAX_ITEMS 10000                       /* tags or pairs of one entry */
#define LEDGER_MAX_APPEND_ENTRIES 100000 /* entries of one append; events may hold more */
#define LEDGER_MAX_JSON_DEPTH 1000       /* nesting of a payload */
#define LEDGER_MAX_TABLE_BYTES 48        /* table name; PostgreSQL: 44 */

/* Stream and dedup key together are a row of an index. PostgreSQL takes 2,670 bytes of both, more
 * only if they compress well; in a table that the Go module made, which has an index for it, of
 * stream and order key, too. TOO_LARGE there; an event of another store is parked in such a sink.
 */

/* A time is microseconds since 1970-01-01 UTC. */
#define LEDGER_NO_TIME INT64_MIN

typedef struct ledger_bytes {
    const void *data;
    size_t size;
} ledger_bytes;

/* A struct of options begins with its size, as the program was compiled with it, so that later
 * versions can add fields at its end. `ledger_…_options_defaults()` sets it, and every option to
 * its default; then set what differs. Older and newer programs and libraries go together: an
 * option that the program does not know has its default. INVALID: the defaults were forgotten, or
 * an option is set that only a later library knows.
 * `ledger_…_options_init()` is the same with the size handed in, for programs in languages that
 * cannot use an inline function of C. NULL is fine for both. */

/* Id of an entry: a number (SQLite, PostgreSQL, memory: text is NULL), or a text
 * (memory:NAME?ids=text). */
typedef struct ledger_id {
    int64_t number;
    const char *text;
} ledger_id;

/* In annotations that are being set, a NULL value deletes the key. */
typedef struct ledger_pair {
    const char *key;
    const char *value;
} ledger_pair;

typedef struct ledger_map {
    const ledger_pair *items; /* results: ascending by key, each key once */
    size_t count;
} ledger_map;

typedef struct ledger_list {
    const char *const *items;
    size_t count;
} ledger_list;

/* One entry to append. Zero-initialise, then set what is needed. */
typedef struct ledger_append_input {
    ledger_bytes payload;  /* JSON (RFC 8259), kept byte for byte */
    const char *order_key; /* NULL = "" */
    const char *dedup_key; /* NULL = ""; else unique in its stream */
    int schema_version;    /* 0 = 1 */
    ledger_map metadata;
    ledger_list tags;
} ledger_append_input;

/* One stored entry. */
typedef struct ledger_entry {
    ledger_id id;
    const char *stream;
    ledger_bytes payload;
    const char *order_key;
    const char *dedup_key;
    int schema_version;
    ledger_map metadata;
    ledger_list tags;
    ledger_map annotations;
    const char *source_id; /* id at its origin; "" when it was written here */
    const char *origin;    /* uuid of the store it was written in; "" when it was written here */
    int64_t created_at_us;
    int64_t updated_at_us; /* LEDGER_NO_TIME: never tagged or annotated */
} ledger_entry;

/* The result of a read: owns its entries and all they point to. Thread: one at a time. */
typedef struct ledger_batch ledger_batch;
LEDGER_API size_t ledger_batch_count(const ledger_batch *batch);
/* index < count; lives as long as the batch. */
LEDGER_API const ledger_entry *ledger_batch_entry(const ledger_batch *batch, size_t index);
/* NULL and a pointer to NULL are fine; sets *batch to NULL. */
LEDGER_API void ledger_batch_destroy(ledger_batch **batch);

/* Ids or stream names that a call returns; owns them. */
typedef struct ledger_ids {
    ledger_id *items;
    size_t count;
} ledger_ids;
LEDGER_API void ledger_ids_destroy(ledger_ids *ids); /* frees the content, zeroes the struct */

typedef struct ledger_names {
    char **items;
    size_t count;
} ledger_names;
LEDGER_API void ledger_names_destroy(ledger_names *names);

/* Turns ids into cursor text and back (the reference's IDCodec). `encode` writes at most
 * LEDGER_ID_TEXT_MAX bytes with NUL and is one-to-one; `less` is the order of positions. */
#define LEDGER_ID_TEXT_MAX 64
typedef struct ledger_id_codec {
    ledger_rc (*encode)(ledger_id id, char text[LEDGER_ID_TEXT_MAX], ledger_error *err);
    ledger_rc (*decode)(const char *text, ledger_id *ret_id, ledger_error *err); /* views text */
    ledger_id (*zero)(void);
    bool (*less)(ledger_id a, ledger_id b);
} ledger_id_codec;

/* 19 digits, zero padded, so that text order is number order. Negative ids: LEDGER_ERR_INVALID. */
LEDGER_API extern const ledger_id_codec ledger_int64_codec;
/* The text itself; bytewise order. */
LEDGER_API extern const ledger_id_codec ledger_string_codec;

#ifdef __cplusplus
}
#endif
#endif
