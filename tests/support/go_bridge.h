/* The Go module's bridge, as far as its work shows in the tables, played by plain SQL between two
 * stores of SQLite or PostgreSQL: it reads the log by id behind its cursor, finds entries by stream
 * and source_id alone, drops a change or a trim whose entry it does not find, and writes its cursor
 * behind a batch, forward only. Events are read by the library's decoder. Fails the running test
 * where Go's bridge would end with an error. */
#ifndef TESTS_SUPPORT_GO_BRIDGE_H
#define TESTS_SUPPORT_GO_BRIDGE_H

#include "fixtures.h"

/* What Go adds to a table that we made when it opens it: its unique index on source_id. */
void tst_go_open(const ledger_store *store);
/* Carries everything behind the cursor `name`. Gives how many changes and trims were dropped. */
size_t tst_go_bridge(const ledger_store *source, const ledger_store *sink, const char *name);
/* The same, killed after `count` events in the middle of a batch: the cursor stays. */
void tst_go_bridge_killed(const ledger_store *source, const ledger_store *sink, const char *name,
                          size_t count);

#endif
