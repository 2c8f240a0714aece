/* A libpq that fails by script: the n-th of its calls that we make goes wrong, in a way that a
 * server does not produce on demand. Works in executables linked with pg_script_link_args (--wrap);
 * everything else goes through to the real library and a real server. Calls are counted only in
 * our own objects, not inside libpq. Any thread. */
#ifndef TESTS_SUPPORT_PG_SCRIPT_H
#define TESTS_SUPPORT_PG_SCRIPT_H

#include <stdbool.h>
#include <stdint.h>

enum tst_pq_fault {
    /* The connection is cut before the call, which then is made. */
    TST_PQ_CUT,
    /* … after the call; a request has reached the server by then, which carries it out: a COMMIT
     * without an answer. */
    TST_PQ_CUT_AFTER,
    /* The call is not made and fails, as when libpq has no memory: NULL, 0, -1. A result is thrown
     * away, and a failed one without SQLSTATE comes in its place. */
    TST_PQ_FAIL,
    /* Results: thrown away, another status comes in their place (PGRES_EMPTY_QUERY). */
    TST_PQ_STATUS,
    /* Requests: instead of this statement the server runs one that fails with the script's
     * SQLSTATE; so its transaction is as it would be. */
    TST_PQ_SQLSTATE,
};

/* function: "PQgetResult", NULL for any that the fault applies to. n: 1 = the next; 0: only counts.
 * sqlstate: for TST_PQ_SQLSTATE. Once. */
void tst_pq_arm(const char *function, uint64_t n, enum tst_pq_fault fault, const char *sqlstate);
void tst_pq_disarm(void);
bool tst_pq_hit(void);           /* since it was armed */
const char *tst_pq_hit_at(void); /* "PQgetResult", "" */
uint64_t tst_pq_count(void);     /* calls that matched since then */

#endif
