/* Result codes and the error struct that every fallible call fills.
 *
 * One list makes the enum, the names, the texts, the default flags and the exit codes of ledgerctl
 * (docs/ERRORS.md is generated from it). Numbers are stable: a code is never renumbered or reused.
 * Nothing here allocates; an error can be kept, copied and thrown away like an int. */
#ifndef LEDGER_ERROR_H
#define LEDGER_ERROR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define LEDGER_API __attribute__((visibility("default")))
#define LEDGER_MUST_USE __attribute__((warn_unused_result))
#define LEDGER_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define LEDGER_API
#define LEDGER_MUST_USE
#define LEDGER_PRINTF(fmt, args)
#endif

/* What a caller may do about an error. */
enum {
    LEDGER_ERROR_RETRY = 1 << 0,   /* the same call may succeed later; nothing was done
                                      (UNKNOWN_OUTCOME: all or nothing) */
    LEDGER_ERROR_FATAL = 1 << 1,   /* repeating cannot help; something has to be changed first */
    LEDGER_ERROR_PARTIAL = 1 << 2, /* a part was done: see done_count */
};

/* X(NAME, number, default flags, exit code of ledgerctl, text) */
#define LEDGER_ERROR_LIST(X)                                                                       \
    X(OK, 0, 0, 0, "ok")                                                                           \
    X(INVALID, 1, LEDGER_ERROR_FATAL, 2, "invalid argument")                                       \
    X(NOMEM, 2, LEDGER_ERROR_RETRY, 75, "out of memory")                                           \
    X(CLOSED, 3, LEDGER_ERROR_FATAL, 1, "store or stream is closed")                               \
    X(NOT_FOUND, 4, 0, 1, "entry not found")                                                       \
    X(READ_ONLY, 5, LEDGER_ERROR_FATAL, 77, "read-only")                                           \
    X(UNSUPPORTED, 6, LEDGER_ERROR_FATAL, 78, "not supported by this store")                       \
    X(DATA, 7, LEDGER_ERROR_FATAL, 65, "malformed data")                                           \
    X(TOO_LARGE, 8, LEDGER_ERROR_FATAL, 65, "value over its limit")                                \
    X(BUSY, 9, LEDGER_ERROR_RETRY, 75, "database is locked by somebody else")                      \
    X(CONNECT, 10, LEDGER_ERROR_RETRY, 69, "database cannot be reached")                           \
    X(IO, 11, LEDGER_ERROR_RETRY, 69, "input or output error")                                     \
    X(FULL, 12, LEDGER_ERROR_RETRY, 75, "disk or quota is full")                                   \
    X(PERMISSION, 13, LEDGER_ERROR_FATAL, 77, "permission denied")                                 \
    X(SCHEMA, 14, LEDGER_ERROR_FATAL, 78, "table is missing or has another shape")                 \
    X(CORRUPT, 15, LEDGER_ERROR_FATAL, 65, "not a database, or a damaged one")                     \
    X(CURSOR_MISMATCH, 16, LEDGER_ERROR_FATAL, 78, "cursor belongs to another source")             \
    X(SOURCE_REWOUND, 17, LEDGER_ERROR_FATAL, 78, "source is older than the cursor")               \
    X(POSITION_REUSED, 18, LEDGER_ERROR_FATAL, 65, "source has used a position twice")             \
    X(FENCED, 19, LEDGER_ERROR_RETRY, 75, "another bridge has moved the cursor")                   \
    X(REJECTED, 20, LEDGER_ERROR_FATAL, 65, "sink refuses this event")                             \
    X(CANCELLED, 21, 0, 1, "cancelled")                                                            \
    X(PARTIAL, 22, LEDGER_ERROR_PARTIAL, 1, "done in part")                                        \
    X(UPCAST, 23, LEDGER_ERROR_FATAL, 65, "no upcaster for this schema version")                   \
    X(UNKNOWN_OUTCOME, 24, LEDGER_ERROR_RETRY, 75, "commit sent, its outcome is not known")        \
    X(INTERNAL, 25, LEDGER_ERROR_FATAL, 1, "internal error")                                       \
    X(TIMEOUT, 26, LEDGER_ERROR_RETRY, 75, "not done within the time given")                       \
    X(REFUSED_ALL, 27, LEDGER_ERROR_FATAL, 78, "sink refuses every event")                         \
    X(FOREIGN_BRIDGE, 28, LEDGER_ERROR_FATAL, 78, "the Go module's bridge is at this sink, too")   \
    X(UNTRUSTED, 29, LEDGER_ERROR_FATAL, 78, "certificate is not accepted")

typedef enum ledger_rc {
#define X(name, number, flags, exit, text) LEDGER_ERR_##name = number,
    LEDGER_ERROR_LIST(X)
#undef X
} ledger_rc;

#define LEDGER_OK LEDGER_ERR_OK

#define LEDGER_ERROR_MESSAGE_MAX 512

/* Filled by a failing call; the caller's own, on the stack. Every call takes NULL instead. */
typedef struct ledger_error {
    ledger_rc code;
    uint32_t flags;      /* LEDGER_ERROR_… */
    uint64_t done_count; /* with LEDGER_ERROR_PARTIAL: how many were done */
    int native_code;     /* of the backend: SQLite's result code, errno, PostgreSQL's SQLSTATE as
                            a number in base 36; 0 = none */
    char backend[16];    /* "sqlite", "postgres", "memory" or "" */
    char message[LEDGER_ERROR_MESSAGE_MAX]; /* one line: what to change; never holds a secret */
} ledger_error;

/* All three take any number and never return NULL. Threads: any. */
LEDGER_API const char *ledger_rc_name(ledger_rc code); /* "LEDGER_ERR_BUSY" */
LEDGER_API const char *ledger_rc_text(ledger_rc code); /* "database is locked by somebody else" */
LEDGER_API uint32_t ledger_rc_flags(ledger_rc code);   /* default flags of the code */
LEDGER_API int ledger_rc_exit_code(ledger_rc code);    /* exit code of ledgerctl */

#ifdef __cplusplus
}
#endif
#endif
