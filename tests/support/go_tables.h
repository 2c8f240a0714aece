/* Tables as the Go module makes them, and entries and events as it writes them: by plain SQL, on a
 * connection of the test's own, with nothing of ours. Payloads are kept as given in the entry, and
 * compacted and HTML-escaped in the event; events carry no time.
 *
 * All functions fail the running test instead of returning an error. */
#ifndef TESTS_SUPPORT_GO_TABLES_H
#define TESTS_SUPPORT_GO_TABLES_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "ledger/types.h"

/* <table> and <table>_cursors with all indexes; with_log: <table>_mutations the same way. May be
 * called again, as the Go module does each time it opens a store. */
void tst_go_create(sqlite3 *db, const char *table, bool with_log);
/* As the module was before it had source_id and cursors. */
void tst_go_create_old(sqlite3 *db, const char *table);

struct tst_go_entry {
    const char *payload;   /* JSON */
    const char *order_key; /* NULL = "" */
    const char *dedup_key; /* NULL = "" */
    int schema_version;    /* 0 = 1 */
    ledger_map metadata;
    ledger_list tags;
    const char *source_id; /* NULL = ""; else as Go's bridge writes it into a sink */
};

/* One transaction, with an event when with_log. Returns the id, 0 when it was ignored. */
int64_t tst_go_append(sqlite3 *db, const char *table, bool with_log, const char *stream,
                      const struct tst_go_entry *entry);
/* The short form: a payload alone. */
int64_t tst_go_put(sqlite3 *db, const char *table, bool with_log, const char *stream,
                   const char *payload);
void tst_go_set_tags(sqlite3 *db, const char *table, bool with_log, const char *stream, int64_t id,
                     ledger_list tags);
/* One key; value NULL deletes it. */
void tst_go_annotate(sqlite3 *db, const char *table, bool with_log, const char *stream, int64_t id,
                     const char *key, const char *value);
int64_t tst_go_trim(sqlite3 *db, const char *table, bool with_log, const char *stream,
                    int64_t before);
/* Moves forward only, by text. */
void tst_go_set_cursor(sqlite3 *db, const char *table, const char *name, const char *cursor);

#endif
