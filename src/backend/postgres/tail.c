/* Which ids have settled, for one who follows the table.
 *
 * A transaction that has drawn an id holds a lock on the sequence until it ends, and one that has
 * inserted a row holds one on the table, whether it has a number yet or not. So: look up the
 * highest id that can be seen, then who holds such locks; when all of those have ended, no id up to
 * that one is outstanding. Nobody else in the cluster is waited for, however long it stays open. An
 * id that a program draws in one transaction and inserts in another is beyond this. */
#include "backend/postgres/postgres.h"

#include <string.h>

#define SEQUENCE "pg_get_serial_sequence('\"{t}\"', 'id')::regclass"

/* The snapshot, and with it the highest id, is older than the look at the locks. A prepared
 * transaction has no pid; it keeps the virtual number it had until the server is restarted, which
 * gives it one that begins with -1. */
static const char look[] =
    "SELECT coalesce((SELECT max(id) FROM \"{t}\"), 0), string_agg(w.number, ' '), "
    "string_agg(w.number, ' ') FILTER (WHERE w.number LIKE '-1/%'), pg_is_in_recovery(), "
    "EXISTS (SELECT FROM pg_catalog.pg_sequence WHERE seqrelid = " SEQUENCE
    " AND (seqcache > 1 OR seqincrement < 0 OR seqcycle)) "
    "FROM (SELECT DISTINCT l.virtualtransaction AS number FROM pg_catalog.pg_locks AS l "
    "WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted "
    "AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) "
    "AND l.relation IN ('\"{t}\"'::regclass, " SEQUENCE ") "
    "AND l.pid IS DISTINCT FROM pg_backend_pid()) AS w";
enum {
    LOOK_HIGHEST,
    LOOK_WRITERS,
    LOOK_RECOVERED,
    LOOK_IN_RECOVERY,
    LOOK_DISORDER,
};

/* Is one word of `some` among those of `all`? Words end at a space. */
static bool share_word(const char *some, const char *all)
{
    bool found = false;

    while (*some && !found) {
        const size_t size = strcspn(some, " ");
        for (const char *p = all; *p && !found;) {
            const size_t other = strcspn(p, " ");
            found = other == size && memcmp(p, some, size) == 0;
            p += other + (p[other] == ' ');
        }
        some += size + (some[size] == ' ');
    }
    return found;
}

static ledger_rc check_look(const struct ldg_pg *pg, const PGresult *result, ledger_error *err)
{
    if (ldg_pg_get_bool(result, 0, LOOK_IN_RECOVERY))
        return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                        "a standby does not know which transactions of the primary are open, so "
                        "entries could be missed; follow the primary");
    if (ldg_pg_get_bool(result, 0, LOOK_DISORDER))
        return ldg_fail(err, LEDGER_ERR_SCHEMA,
                        "the sequence of table \"%s\" hands out ids that do not rise (a cache, a "
                        "negative increment, a cycle), so entries could be missed; ALTER SEQUENCE "
                        "... CACHE 1 INCREMENT BY 1 NO CYCLE",
                        pg->table);
    return LEDGER_OK;
}

static ledger_rc take_look(const PGresult *result, struct ldg_watermark *watermark,
                           ledger_error *err)
{
    const int64_t highest = ldg_pg_get_int64(result, 0, LOOK_HIGHEST);
    const char *writers = ldg_pg_get_text(result, 0, LOOK_WRITERS);
    const char *recovered = ldg_pg_get_text(result, 0, LOOK_RECOVERED);
    /* Of those that the last look saw, who is left? One that is gone may have come back with
     * another number. */
    const bool waits = watermark->writers && share_word(watermark->writers, writers);
    const bool renamed = watermark->writers && !waits && *recovered;
    const char *next = renamed ? recovered : writers;
    char *copy = NULL;

    if (waits)
        return LEDGER_OK;
    if (*next && !(copy = ldg_strdup(next)))
        return ldg_fail_nomem(err);
    if (!renamed) {
        /* They have ended, and what they wrote is seen by reads from now on. */
        if (watermark->writers && watermark->mark > watermark->settled)
            watermark->settled = watermark->mark;
        if (!*writers && highest > watermark->settled)
            watermark->settled = highest;
        watermark->mark = highest;
    }
    ldg_free(watermark->writers);
    watermark->writers = copy;
    return LEDGER_OK;
}

ledger_rc ldg_pg_watermark(void *ctx, struct ldg_watermark *watermark, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_enter(pg, err);

    if (rc == LEDGER_OK)
        rc = ldg_pg_run(pg, LDG_PG_KEEP, "looking for open transactions", look, NULL, &result, err);
    if (rc == LEDGER_OK)
        rc = check_look(pg, result, err);
    if (rc == LEDGER_OK)
        rc = take_look(result, watermark, err);
    PQclear(result);
    return rc;
}
