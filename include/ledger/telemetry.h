/* Where a bridge sends its log lines, measurements and spans: small structs of functions, so that a
 * program can plug in its own. Every function may be called from any thread, must not block for
 * long and must not call back into the bridge. Attribute arrays live for the call. */
#ifndef LEDGER_TELEMETRY_H
#define LEDGER_TELEMETRY_H

#include "ledger/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ledger_attr {
    const char *key;
    const char *value;
} ledger_attr;

typedef enum ledger_log_level {
    LEDGER_LOG_DEBUG,
    LEDGER_LOG_INFO,
    LEDGER_LOG_WARN,
    LEDGER_LOG_ERROR,
} ledger_log_level;

typedef struct ledger_logger {
    void *ctx;
    void (*log)(void *ctx, ledger_log_level level, const char *message, const ledger_attr *attrs,
                size_t attr_count);
} ledger_logger;

typedef enum ledger_instrument_kind {
    LEDGER_COUNTER,   /* add(value) */
    LEDGER_HISTOGRAM, /* record(value) */
} ledger_instrument_kind;

typedef struct ledger_meter {
    void *ctx;
    /* Makes an instrument of the named meter; NULL is a failure. Names, units and attributes:
     * docs/REFERENCE.md. The same name again gives the same instrument. */
    void *(*instrument)(void *ctx, const char *meter, ledger_instrument_kind kind, const char *name,
                        const char *unit, const char *description);
    void (*record)(void *ctx, void *instrument, double value, const ledger_attr *attrs,
                   size_t attr_count);
} ledger_meter;

typedef struct ledger_tracer {
    void *ctx;
    /* Starts a span of the named tracer; NULL: not sampled. */
    void *(*start)(void *ctx, const char *tracer, const char *name, const ledger_attr *attrs,
                   size_t attr_count);
    /* Ends it; error NULL: ok. */
    void (*end)(void *ctx, void *span, const ledger_attr *attrs, size_t attr_count,
                const char *error);
} ledger_tracer;

#ifdef __cplusplus
}
#endif
#endif
