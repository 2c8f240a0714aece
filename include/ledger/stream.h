/* A typed stream: one stream of one store, with a codec, a schema version and upcasters.
 *
 * Entries are written with the stream's schema version. On read an entry of an older version passes
 * the chain of upcasters, one version at a time, before the codec decodes it. A version of 0 or
 * less means none (the Go module writes 0): such an entry passes no upcaster. */
#ifndef LEDGER_STREAM_H
#define LEDGER_STREAM_H

#include "ledger/store.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Turns the program's values into payloads and back. ctx is the program's. Both may fail with any
 * code; the call that used them returns it. */
typedef struct ledger_codec {
    void *ctx;
    /* value -> payload; *ret_json is from malloc(), the library frees it. */
    ledger_rc (*encode)(void *ctx, const void *value, char **ret_json, size_t *ret_size,
                        ledger_error *err);
    /* payload -> value; *ret_value belongs to the ledger_values and goes to `release`. */
    ledger_rc (*decode)(void *ctx, ledger_bytes json, void **ret_value, ledger_error *err);
    void (*release)(void *ctx, void *value); /* NULL: free() */
} ledger_codec;

/* Rewrites a payload of version `from` as one of version from + 1; *ret_json is from malloc(). */
typedef struct ledger_upcaster {
    int from;
    void *ctx;
    ledger_rc (*upcast)(void *ctx, ledger_bytes json, char **ret_json, size_t *ret_size,
                        ledger_error *err);
} ledger_upcaster;

typedef struct ledger_stream_options {
    size_t size;        /* set by ledger_stream_options_defaults() */
    const char *id;     /* stream id */
    int schema_version; /* of new entries; at least 1 */
    bool read_only;     /* append, set_tags and set_annotations are READ_ONLY, and the codec needs
                           no encode: for sinks, which only their bridge may write */
    ledger_codec codec;
    const ledger_upcaster *upcasters; /* copied; any order; each `from` once */
    size_t upcaster_count;
} ledger_stream_options;

LEDGER_API void ledger_stream_options_init(ledger_stream_options *options, size_t size);
static inline void ledger_stream_options_defaults(ledger_stream_options *options)
{
    ledger_stream_options_init(options, sizeof(*options));
}

typedef struct ledger_stream ledger_stream;

/* The store is borrowed and must outlive the stream. Errors: INVALID. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_stream_create(ledger_store *store,
                                                          const ledger_stream_options *options,
                                                          ledger_stream **ret_stream,
                                                          ledger_error *err);
LEDGER_API void ledger_stream_destroy(ledger_stream **stream);

LEDGER_API const char *ledger_stream_id(const ledger_stream *stream);
LEDGER_API int ledger_stream_schema_version(const ledger_stream *stream);

/* As ledger_append_input, with a value for the codec instead of a payload. */
typedef struct ledger_stream_input {
    const void *value;
    const char *order_key;
    const char *dedup_key;
    ledger_map metadata;
    ledger_list tags;
} ledger_stream_input;

LEDGER_API LEDGER_MUST_USE ledger_rc ledger_stream_append(ledger_stream *stream,
                                                          const ledger_stream_input *inputs,
                                                          size_t count, ledger_ids *ret_ids,
                                                          ledger_error *err);

/* Decoded entries; entry(i) is as stored (payload and version before upcasting). */
typedef struct ledger_values ledger_values;
LEDGER_API size_t ledger_values_count(const ledger_values *values);
LEDGER_API void *ledger_values_value(const ledger_values *values, size_t index);
LEDGER_API const ledger_entry *ledger_values_entry(const ledger_values *values, size_t index);
LEDGER_API void ledger_values_destroy(ledger_values **values);

/* Errors, besides those of ledger_store_read(): UPCAST (no upcaster for an entry's version, or the
 * entry is newer than the stream's schema version), whatever codec and upcasters return. An entry
 * that cannot be decoded ends the page before it; only as the first of a page it is an error, which
 * names it. So the end of a stream is a page without values, not a short one. */
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_stream_read(ledger_stream *stream,
                                                        const ledger_read_options *options,
                                                        ledger_values **ret_values,
                                                        ledger_error *err);
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_stream_set_tags(ledger_stream *stream, ledger_id id,
                                                            ledger_list tags, ledger_error *err);
LEDGER_API LEDGER_MUST_USE ledger_rc ledger_stream_set_annotations(ledger_stream *stream,
                                                                   ledger_id id,
                                                                   ledger_map annotations,
                                                                   ledger_error *err);

#ifdef __cplusplus
}
#endif
#endif
