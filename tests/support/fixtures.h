/* Folders, stores and bridges for tests: everything a test makes lives in one struct tst_env and
 * goes away with it, also when the test fails. No test touches a path outside its folder.
 *
 * Names of this library start with tst_. All functions here fail the running cmocka test instead of
 * returning an error, unless they return a ledger_rc. */
#ifndef TESTS_SUPPORT_FIXTURES_H
#define TESTS_SUPPORT_FIXTURES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "ledger/ledger.h"
#include "store/intern.h"

/* As sources and sinks; then what is a sink only: without a log of its own (the bulk paths). */
enum tst_kind {
    TST_MEMORY,
    TST_SQLITE,
    TST_POSTGRES,
    TST_KIND_COUNT,
    TST_PLAIN = TST_KIND_COUNT, /* SQLite */
    TST_PLAIN_POSTGRES,
    TST_SINK_COUNT
};
const char *tst_kind_name(enum tst_kind kind);
/* False, and told once: no server of this kind can be started here (CI=true: the test fails). */
bool tst_kind_here(int kind);
static inline bool tst_kind_has_log(int kind)
{
    return kind < TST_KIND_COUNT;
}
static inline bool tst_is_postgres(int kind)
{
    return kind == TST_POSTGRES || kind == TST_PLAIN_POSTGRES;
}
static inline bool tst_is_sqlite(int kind)
{
    return kind == TST_SQLITE || kind == TST_PLAIN;
}

#define TST_STORES_MAX 64

struct tst_env {
    char dir[256];
    ledger_store *stores[TST_STORES_MAX];
    size_t store_count;
};

/* cmocka setup and teardown: *state is a struct tst_env. */
int tst_setup(void **state);
int tst_teardown(void **state);
/* Closes all stores and empties the folder: between the rounds of one test. */
void tst_env_reset(struct tst_env *env);

/* "sqlite:<dir>/<name>.db", "memory:<unique>-<name>", or a schema of the server that the tests of a
 * program share (made if need be); lives until the next call. */
const char *tst_url(struct tst_env *env, enum tst_kind kind, const char *name);
const char *tst_path(struct tst_env *env, const char *file); /* <dir>/<file>; four in turn */

/* Opens (and creates) a store with a log (TST_PLAIN: without); tst_open_with: with these options
 * (url NULL: made from kind and name). The env closes it. */
ledger_store *tst_open(struct tst_env *env, enum tst_kind kind, const char *name);
ledger_store *tst_open_with(struct tst_env *env, enum tst_kind kind, const char *name,
                            const ledger_store_options *options);
void tst_close(struct tst_env *env, ledger_store *store);

/* Checks that rc is OK and shows the error otherwise. */
#define tst_ok(rc, err) tst_ok_at((rc), (err), #rc, __FILE__, __LINE__)
void tst_ok_at(ledger_rc rc, const ledger_error *err, const char *text, const char *file, int line);
/* Checks that rc is that code, with a message to go with it. */
#define tst_fails(rc, code, err) tst_fails_at((rc), (code), (err), #rc, __FILE__, __LINE__)
void tst_fails_at(ledger_rc rc, ledger_rc code, const ledger_error *err, const char *text,
                  const char *file, int line);
/* Fails the test with a text. */
#define tst_fail(...) tst_fail_at(__FILE__, __LINE__, __VA_ARGS__)
void tst_fail_at(const char *file, int line, const char *fmt, ...) LEDGER_PRINTF(3, 4)
    __attribute__((noreturn));

/* One entry; all but stream and payload may be NULL. Returns its id, 0 when it was deduplicated. */
int64_t tst_append(ledger_store *store, const char *stream, const char *payload,
                   const char *dedup_key, const char *tag);
void tst_tag(ledger_store *store, const char *stream, int64_t id, const char *tag);
void tst_annotate(ledger_store *store, const char *stream, int64_t id, const char *key,
                  const char *value);
uint64_t tst_trim(ledger_store *store, const char *stream, int64_t before);
uint64_t tst_count(ledger_store *store, const char *stream);

/* A bridge that is polled by hand, or NULL options for the defaults with short pauses. */
ledger_bridge *tst_bridge(const ledger_store *source, const ledger_store *sink,
                          const ledger_bridge_options *options);
void tst_bridge_options(ledger_bridge_options *options);
/* Polls until nothing is left (FENCED: again); returns how many were read. */
uint64_t tst_drain(ledger_bridge *bridge);
/* Makes a bridge, drains, checks the counters, destroys it. */
uint64_t tst_bridge_once(const ledger_store *source, const ledger_store *sink,
                         const ledger_bridge_options *options);
/* read = applied + skipped + parked + deduplicated, and skipped = the sum of its reasons. */
void tst_check_counters(ledger_bridge *bridge);

/* A row straight into the mutation log, as a broken or later program might write it. */
void tst_log_raw(ledger_store *store, const void *event, size_t size);
static inline void tst_log_text(ledger_store *store, const char *text)
{
    tst_log_raw(store, text, strlen(text));
}
/* The database refuses new entries and changes in this stream (a constraint of the user's own);
 * NULL: in none any more. */
void tst_refuse(ledger_store *store, const char *stream);

/* A second connection to a SQLite store's file. */
sqlite3 *tst_sqlite(const ledger_store *store);
void tst_exec(sqlite3 *db, const char *fmt, ...) LEDGER_PRINTF(2, 3);
int64_t tst_query_int(sqlite3 *db, const char *fmt, ...) LEDGER_PRINTF(2, 3);
/* On any database; the text has to suit it. */
void tst_exec_on(const ledger_store *store, const char *fmt, ...) LEDGER_PRINTF(2, 3);
int64_t tst_query_int_on(const ledger_store *store, const char *fmt, ...) LEDGER_PRINTF(2, 3);
void tst_copy_file(const char *from, const char *to);
bool tst_file_exists(const char *path);

/* A program in a process of its own, with pipes at its stdin and stdout. */
struct tst_child {
    pid_t pid;
    FILE *in;  /* we write */
    FILE *out; /* we read */
};
/* The tests' writer (tests/bridge/writer.c), found by LEDGER_TEST_WRITER; NULL ends the arguments.
 */
void tst_writer(struct tst_child *child, const char *verb, ...) __attribute__((sentinel));
void tst_child_expect(struct tst_child *child, const char *line);
int tst_child_end(struct tst_child *child, int signal); /* 0: waits; gives the status of waitpid */

/* n per cent of LEDGER_TEST_SCALE (default 100; less where LEDGER_TEST_SANITIZED names a slow way
 * of running), at least 1. */
size_t tst_scale(size_t n);
/* The same for rounds of a pair (TST_EACH_PAIR): a quarter where an end is PostgreSQL, which takes
 * ten times as long for each. */
size_t tst_pair_scale(size_t n);
int64_t tst_slow(int64_t us); /* a time limit, larger in a slow run */
/* For what comes sooner or later: only what hangs takes so long. */
#define TST_PATIENCE_MS tst_slow(60000)
/* Until it is true. */
#define TST_AWAIT(is_true)                                                                         \
    do {                                                                                           \
        const int64_t end_us_ = tst_mono_us() + 1000 * TST_PATIENCE_MS;                            \
        while (!(is_true)) {                                                                       \
            if (tst_mono_us() > end_us_)                                                           \
                tst_fail("%s:%d: it does not become true: " #is_true, __FILE__, __LINE__);         \
            tst_sleep_us(500);                                                                     \
        }                                                                                          \
    } while (0)
/* A seed of the moment, or LEDGER_TEST_SEED; told when a check fails. */
uint64_t tst_seed(void);
int64_t tst_mono_us(void);
void tst_sleep_us(int64_t us);

/* Runs the body for each pair of backends, with a clean env each time. TST_EACH_PAIR: of those with
 * PostgreSQL, the ones that differ in what the databases do; TST_ALL_PAIRS: truly all. */
#define TST_EACH_PAIR(env, source_kind, sink_kind)                                                 \
    TST_ALL_PAIRS(env, source_kind, sink_kind)                                                     \
    if (tst_pair_is_telling(source_kind, sink_kind))
#define TST_ALL_PAIRS(env, source_kind, sink_kind)                                                 \
    for (int source_kind = 0; source_kind < TST_KIND_COUNT || tst_pairs_done(); source_kind++)     \
        for (int sink_kind = 0; sink_kind < TST_SINK_COUNT; tst_env_reset(env), sink_kind++)       \
            if (tst_note_pair(source_kind, sink_kind))
#define TST_EACH_SOURCE(env, kind)                                                                 \
    for (int kind = 0; kind < TST_KIND_COUNT; tst_env_reset(env), kind++)                          \
        if (tst_kind_here(kind))
#define TST_EACH_SINK(env, kind)                                                                   \
    for (int kind = 0; kind < TST_SINK_COUNT; tst_env_reset(env), kind++)                          \
        if (tst_kind_here(kind))
/* Told when a check fails. False: one of them cannot be had here. */
bool tst_note_pair(int source_kind, int sink_kind);
bool tst_pairs_done(void); /* always false */
/* False for the pairs with PostgreSQL that others stand for: memory at the other end (SQLite is),
 * and of the sinks without log all but one for each database. For a sanitizer, which looks for
 * wrong code, PostgreSQL to itself and SQLite to a PostgreSQL without log have all of it. */
bool tst_pair_is_telling(int source_kind, int sink_kind);

#endif
