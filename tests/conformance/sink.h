/* Batches of operations, as a bridge makes them, for the cases of a sink. */
#ifndef TEST_CONFORMANCE_SINK_H
#define TEST_CONFORMANCE_SINK_H

#include "conformance.h"

#define SINK_OPS_MAX 64
#define SINK_TIME_US 1700000000123456

/* A sink, opened as a bridge's, two origins, a cursor, and the batch that is being made up. */
struct sink {
    struct conf_env *env;
    ledger_store *store;
    int a, b; /* origins */
    struct ldg_identity a_identity, b_identity;
    struct ldg_cursor cursor;
    struct ldg_op ops[SINK_OPS_MAX];
    uint8_t outcomes[SINK_OPS_MAX];
    size_t count;
    int64_t position; /* of the last op in the log that was read */
    bool park_rejected;
};

struct sink *sink_new(struct conf_env *env, ledger_log_mode log);
/* Each adds one op, an event of its own, and returns it for changes. */
struct ldg_op *sink_append(struct sink *sink, int origin, int64_t source_pos, const char *stream,
                           const char *payload, const char *dedup_key);
struct ldg_op *sink_tags(struct sink *sink, int origin, int64_t source_pos, const char *stream,
                         const char *tag);
struct ldg_op *sink_annotate(struct sink *sink, int origin, int64_t source_pos, const char *stream,
                             const char *key, const char *value);
struct ldg_op *sink_trim(struct sink *sink, int origin, int64_t source_pos, const char *stream);
struct ldg_op *sink_park(struct sink *sink, int64_t source_pos, const char *stream,
                         const char *reason);
/* Applies the batch and moves the cursor; the batch is empty again after either. */
void sink_run(struct sink *sink);
ledger_rc sink_try(struct sink *sink, ledger_error *err);
/* The letters of the outcomes of the last batch: missing replayed dedup applied parked. */
#define sink_is(sink, letters) sink_is_at((sink), (letters), __FILE__, __LINE__)
void sink_is_at(const struct sink *sink, const char *letters, const char *file, int line);

/* The entries of a stream as "payload[tags]{annotations} …". */
#define sink_holds(sink, stream, want) sink_holds_at((sink), (stream), (want), __FILE__, __LINE__)
void sink_holds_at(const struct sink *sink, const char *stream, const char *want, const char *file,
                   int line);

#endif
