/* A bridge at work between two PostgreSQL servers, to be disturbed: each server stands behind a
 * proxy that only the bridge uses; writers write to the source without it, each in streams of its
 * own. After a disturbance the bridge has to come back by itself; at the end the sink has to equal
 * the source.
 *
 *     struct tst_rig *rig = tst_rig_start(env, &options);
 *     … disturb …; tst_rig_await(rig, "after the disturbance");
 *     tst_rig_end(&rig, "what was done"); */
#ifndef TESTS_SUPPORT_PG_RIG_H
#define TESTS_SUPPORT_PG_RIG_H

#include "fixtures.h"
#include "pg_server.h"
#include "proxy.h"

enum tst_side { TST_SOURCE_SIDE, TST_SINK_SIDE, TST_SIDES };
const char *tst_side_name(enum tst_side side);

#define TST_RIG_WRITERS_MAX 8

struct tst_rig_options {
    size_t writer_count;    /* 0: 2 */
    bool chained;           /* the sink has a log of its own: no bulk path, durable commits */
    bool asynchronous;      /* writers commit with synchronous_commit = off */
    bool with_standby;      /* of `side`, synchronous; everybody names both servers */
    enum tst_side side;     /* of the standby, or of the tablespace */
    const char *tablespace; /* folder for the tables of `side`; NULL: none */
    const char *settings;   /* of both servers; NULL: none */
    size_t batch_size;      /* 0: 50 */
    bool no_bridge;         /* not yet: tst_rig_bridge() */
    int64_t await_us;       /* how long it may take to come back; 0: a minute */
};

struct tst_rig_writer; /* a thread */

struct tst_rig {
    struct tst_env *env;
    struct tst_rig_options options;
    struct tst_pg *pg[TST_SIDES];
    struct tst_pg *standby; /* of options.side */
    struct tst_proxy *proxy[TST_SIDES];
    char url[TST_SIDES][900];     /* straight to the server */
    char through[TST_SIDES][900]; /* by the proxy */
    ledger_store *store[TST_SIDES];
    ledger_store *bridge_store[TST_SIDES];
    ledger_bridge *bridge;
    struct tst_rig_writer *writers[TST_RIG_WRITERS_MAX];
    size_t writer_count;
    uint64_t marks;
    uint64_t writer_errors[64]; /* by ledger_rc; after the end */
    uint64_t events;            /* of the source's log; after the end */
    int64_t longest_us;         /* until a mark arrived */
    uint64_t errors;            /* failed polls of the bridges */
};

struct tst_rig *tst_rig_start(struct tst_env *env, const struct tst_rig_options *options);
/* Makes a bridge and starts it; the one before has to be destroyed. */
void tst_rig_bridge(struct tst_rig *rig);
void tst_rig_unbridge(struct tst_rig *rig); /* stops it, checks its counters, destroys it */
/* An entry that is written now arrives in the sink, through the same bridge. */
void tst_rig_await(struct tst_rig *rig, const char *what);
/* The number of failed polls has grown by one at least: the disturbance was felt. */
void tst_rig_await_error(struct tst_rig *rig, uint64_t before, const char *what);
uint64_t tst_rig_error_count(const struct tst_rig *rig);
/* Ends each session of the bridge on that side; how many. */
int64_t tst_rig_terminate(struct tst_rig *rig, enum tst_side side);
void tst_rig_stop_writers(struct tst_rig *rig);
/* Stops the writers, waits for the bridge, compares, and says what was done: "30 cuts". */
void tst_rig_end(struct tst_rig **rig, const char *fmt, ...) LEDGER_PRINTF(2, 3);

#endif
