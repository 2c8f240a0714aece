/* The oracle: one comparison of whole histories, used by every test of a bridge.
 *
 * It reads a store without the code it judges: SQLite and PostgreSQL by plain SQL with JSON read by
 * another library, memory through the public reading calls. An entry is known by where it was first
 * written: uuid of that store and its id there. So the histories of a source and its sink, of a
 * chain and of a mesh are compared by one rule: same entries, same fields, and within each stream
 * of an origin the same order of ids. */
#ifndef TESTS_SUPPORT_ORACLE_H
#define TESTS_SUPPORT_ORACLE_H

#include "fixtures.h"

struct tst_entry {
    char *origin;      /* uuid of the store that the entry was written in */
    int64_t source_id; /* its id there */
    int64_t id;        /* its id here */
    char *stream;
    char *payload;
    size_t payload_size;
    char *order_key;
    char *dedup_key;
    int64_t schema_version;
    char *metadata;    /* JSON with sorted keys; "{}" when there is none */
    char *tags;        /* "[]" */
    char *annotations; /* "{}" */
    int64_t created_ms;
    int64_t updated_ms; /* INT64_MIN: never */
};

struct tst_history {
    char uuid[64];             /* of the store */
    struct tst_entry *entries; /* by origin, stream, source_id */
    size_t count;
};

void tst_history_load(ledger_store *store, struct tst_history *ret_history);
void tst_history_free(struct tst_history *history);

enum {
    TST_CMP_OWN = 1 << 0,       /* only what `source` itself wrote; else all origins */
    TST_CMP_ANY_ORDER = 1 << 1, /* some entries were parked and retried */
    TST_CMP_ANY_TIME = 1 << 2,  /* Go wrote the events: they carry no times */
    TST_CMP_IDS = 1 << 3,       /* the same store at two moments: its own ids too */
};
/* False: ret_text says the first difference. */
bool tst_history_equal(const struct tst_history *source, const struct tst_history *sink,
                       uint32_t flags, char *ret_text, size_t size);

/* Fails the test with the first difference. */
#define tst_assert_equal(source, sink, flags)                                                      \
    tst_assert_equal_at((source), (sink), (flags), __FILE__, __LINE__)
void tst_assert_equal_at(ledger_store *source, ledger_store *sink, uint32_t flags, const char *file,
                         int line);
/* The sink holds the same as before, under the same ids. */
#define tst_assert_unchanged(before, store)                                                        \
    tst_assert_unchanged_at((before), (store), __FILE__, __LINE__)
void tst_assert_unchanged_at(const struct tst_history *before, ledger_store *store,
                             const char *file, int line);

/* The entry with this id at the store itself, or NULL. */
const struct tst_entry *tst_history_find(const struct tst_history *history, int64_t id);

/* Plays the source's own mutation log (not of memory; plain SQL) and compares what it leads to with
 * the source's entries: a write and its event are there together or not at all. */
void tst_assert_log_agrees(ledger_store *source);

#endif
