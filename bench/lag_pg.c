/* lag-pg: from the return of a commit at the source until the entry can be read in the sink, with
 * eight writers, bridge and observer in three processes, between two servers.
 *
 * Each writer is a thread with its own connection, paced by absolute time (a late mutation does not
 * delay the next), and notes when each commit returned. The observer asks the sink for entries
 * behind the last it has seen, about every 250 us; its own period is part of the result and printed
 * besides. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "pg.h"

#define ROUNDS 3
#define PER_SECOND 1000
#define SECONDS 10
#define WRITERS 8
#define WARM_UP 500    /* mutations before those that count */
#define LOOK_NS 150000 /* pause between two looks; a look takes about 80 us */

struct shared {
    _Atomic bool bridge_ready, go, stop;
    _Atomic int writers_ready;
    int64_t start_ns;
    _Atomic int64_t commit_ns[]; /* by id of the entry, from 1 */
};

/* --- the writers -------------------------------------------------------------------------------
 */

struct writer {
    const char *url;
    struct shared *shared;
    size_t first, count; /* its mutations: first, first + WRITERS, … below count */
};

static void *writer_thread(void *ctx)
{
    const struct writer *w = ctx;
    char payload[BENCH_PAYLOAD_BYTES + 1];
    struct bench_names names;
    ledger_append_input input = { .payload = { payload, BENCH_PAYLOAD_BYTES },
                                  .order_key = names.order_key,
                                  .dedup_key = names.dedup_key };
    ledger_store *store = bench_store_open(w->url, LEDGER_MUTATION_LOG_ON);
    ledger_error err = { 0 };
    ledger_ids ids;

    prctl(PR_SET_TIMERSLACK, 1000);
    atomic_fetch_add(&w->shared->writers_ready, 1);
    while (!atomic_load(&w->shared->go))
        bench_pause_ns(1000000);
    for (size_t i = w->first; i < w->count; i += WRITERS) {
        bench_names(&names, (unsigned)(i % 100), i);
        bench_payload(payload, i);
        bench_pause_until(w->shared->start_ns + (int64_t)i * (1000000000 / PER_SECOND));
        bench_check(ledger_store_append(store, names.stream, &input, 1, &ids, &err), &err,
                    "append");
        if (ids.count != 1 || ids.items[0].number > (int64_t)w->count)
            bench_die("the source gave another id than expected");
        atomic_store(&w->shared->commit_ns[ids.items[0].number], bench_now_ns());
        ledger_ids_destroy(&ids);
    }
    ledger_store_close(&store);
    return NULL;
}

static int writers(const char *url, struct shared *shared, size_t count)
{
    struct writer list[WRITERS];
    pthread_t threads[WRITERS];

    for (size_t i = 0; i < WRITERS; i++) {
        list[i] = (struct writer){ url, shared, i, count };
        if (pthread_create(&threads[i], NULL, writer_thread, &list[i]))
            bench_die("cannot start a thread");
    }
    for (size_t i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}

/* --- the bridge --------------------------------------------------------------------------------
 */

static int bridge(const char *source_url, const char *sink_url, struct shared *shared)
{
    bench_bridge_follow(source_url, sink_url, &shared->bridge_ready, &shared->stop);
    return 0;
}

/* --- the observer ------------------------------------------------------------------------------
 */

struct observer {
    PGconn *conn;
    int64_t last_id; /* of the sink */
    int64_t *seen_ns;
    size_t seen, count;
};

/* Whatever has come since the last look. The sink's ids are in the order of its commits: one bridge
 * writes there. */
static int64_t look(struct observer *o)
{
    char last[32];
    const char *const values[] = { last };
    PGresult *result;
    int64_t now;

    snprintf(last, sizeof(last), "%lld", (long long)o->last_id);
    result = PQexecPrepared(o->conn, "look", 1, values, NULL, NULL, 0);
    now = bench_now_ns();
    if (PQresultStatus(result) != PGRES_TUPLES_OK)
        bench_die("the observer cannot read the sink: %s", PQerrorMessage(o->conn));
    for (int row = 0; row < PQntuples(result); row++) {
        size_t entry = (size_t)strtoull(PQgetvalue(result, row, 1), NULL, 10);

        o->last_id = strtoll(PQgetvalue(result, row, 0), NULL, 10);
        if (entry < 1 || entry > o->count || o->seen_ns[entry])
            bench_die("the sink shows entry %zu, which is not expected", entry);
        o->seen_ns[entry] = now;
        o->seen++;
    }
    PQclear(result);
    return now;
}

static void observer_open(struct observer *o, const char *url, size_t count)
{
    *o = (struct observer){ .conn = bench_pg_connect(url),
                            .seen_ns = bench_alloc(count + 1, sizeof(*o->seen_ns)),
                            .count = count };
    bench_pg_exec(o->conn, "SET plan_cache_mode = force_generic_plan");
    bench_pg_exec(o->conn, "SET enable_seqscan = off");
    bench_pg_exec(o->conn, "PREPARE look AS SELECT id, source_pos FROM ledger_entries "
                           "WHERE id > $1 ORDER BY id");
}

/* How long it takes from look to look when nothing comes, in us. */
static void observer_measure(struct observer *o, double *ret_p50, double *ret_p99)
{
    double *gaps = bench_alloc(10000, sizeof(*gaps));
    int64_t before = look(o), end = before + 500000000;
    size_t count = 0;

    while (before < end && count < 10000) {
        int64_t now;

        bench_pause_ns(LOOK_NS);
        now = look(o);
        gaps[count++] = (double)(now - before) / 1e3;
        before = now;
    }
    qsort(gaps, count, sizeof(*gaps), bench_compare_double);
    *ret_p50 = bench_percentile(gaps, count, 0.5);
    *ret_p99 = bench_percentile(gaps, count, 0.99);
    bench_release(gaps);
}

static void observer_run(struct observer *o, struct shared *shared)
{
    int64_t end;

    shared->start_ns = bench_now_ns() + 100000000;
    atomic_store(&shared->go, true);
    end =
        shared->start_ns + (int64_t)o->count * (1000000000 / PER_SECOND) + 15 * INT64_C(1000000000);
    while (o->seen < o->count) {
        bench_pause_ns(LOOK_NS);
        if (look(o) > end)
            bench_die("only %zu of %zu entries arrived", o->seen, o->count);
    }
}

/* --- a round -----------------------------------------------------------------------------------
 */

static pid_t spawn(const char *what, const char *source, const char *sink, size_t count, int fd)
{
    char count_text[32], fd_text[32];

    snprintf(count_text, sizeof(count_text), "%zu", count);
    snprintf(fd_text, sizeof(fd_text), "%d", fd);
    return bench_spawn((const char *const[]){ what, source, sink, count_text, fd_text, NULL });
}

/* Returns p50 and p99 in ms. */
static void round_run(struct shared *shared, int fd, size_t count, double *ret_p50, double *ret_p99)
{
    double *lags = bench_alloc(count, sizeof(*lags)), look_p50, look_p99, cpu[2];
    char source[BENCH_PATH_MAX], sink[BENCH_PATH_MAX];
    struct rusage bridge_usage, writer_usage;
    int64_t first = INT64_MAX, last = 0;
    size_t lag_count = 0;
    struct observer o;
    pid_t pids[2];

    bench_pg_database(source, BENCH_PG_SOURCE, "source", LEDGER_MUTATION_LOG_ON);
    bench_pg_database(sink, BENCH_PG_SINK, "sink", LEDGER_MUTATION_LOG_OFF);
    bench_pg_settle();
    atomic_store(&shared->go, false);
    atomic_store(&shared->stop, false);
    atomic_store(&shared->bridge_ready, false);
    atomic_store(&shared->writers_ready, 0);
    for (size_t i = 0; i <= count; i++)
        atomic_store(&shared->commit_ns[i], 0);
    pids[0] = spawn("bridge", source, sink, count, fd);
    pids[1] = spawn("writers", source, sink, count, fd);
    while (!atomic_load(&shared->bridge_ready) || atomic_load(&shared->writers_ready) < WRITERS)
        bench_pause_ns(1000000);

    observer_open(&o, sink, count);
    observer_measure(&o, &look_p50, &look_p99);
    cpu[0] = bench_pg_cpu_seconds(BENCH_PG_SOURCE);
    cpu[1] = bench_pg_cpu_seconds(BENCH_PG_SINK);
    observer_run(&o, shared);
    cpu[0] = bench_pg_cpu_seconds(BENCH_PG_SOURCE) - cpu[0];
    cpu[1] = bench_pg_cpu_seconds(BENCH_PG_SINK) - cpu[1];
    atomic_store(&shared->stop, true);
    bench_join(pids[0], &bridge_usage);
    bench_join(pids[1], &writer_usage);
    bench_pg_same_rows(source, sink, true);

    for (size_t i = WARM_UP + 1; i <= count; i++) {
        int64_t committed = atomic_load(&shared->commit_ns[i]);

        lags[lag_count++] = (double)(o.seen_ns[i] - committed) / 1e6;
        first = committed < first ? committed : first;
        last = committed > last ? committed : last;
    }
    qsort(lags, lag_count, sizeof(*lags), bench_compare_double);
    *ret_p50 = bench_percentile(lags, lag_count, 0.5);
    *ret_p99 = bench_percentile(lags, lag_count, 0.99);
    printf("%9.0f %8.3f %8.3f %8.3f %8.3f %8.3f %9.0f %9.0f %8.1f %8.1f %8.1f %8.1f\n",
           (double)(count - WARM_UP) / ((double)(last - first) / 1e9), *ret_p50,
           bench_percentile(lags, lag_count, 0.9), *ret_p99,
           bench_percentile(lags, lag_count, 0.999), lags[lag_count - 1], look_p50, look_p99,
           100 * bench_cpu_seconds(&bridge_usage) / ((double)count / PER_SECOND),
           100 * bench_cpu_seconds(&writer_usage) / ((double)count / PER_SECOND),
           100 * cpu[0] / ((double)count / PER_SECOND),
           100 * cpu[1] / ((double)count / PER_SECOND));
    fflush(stdout);
    PQfinish(o.conn);
    bench_release(o.seen_ns);
    bench_release(lags);
}

int main(int argc, char **argv)
{
    size_t count = WARM_UP + bench_scaled(PER_SECOND * SECONDS, PER_SECOND);
    double p50[ROUNDS], p99[ROUNDS];
    struct shared *shared;
    size_t size;
    int fd;

    if (argc == 6) {
        bench_pg_child();
        count = (size_t)strtoull(argv[4], NULL, 10);
        size = sizeof(*shared) + (count + 1) * sizeof(shared->commit_ns[0]);
        shared = bench_shared_map((int)strtol(argv[5], NULL, 10), size);
        return argv[1][0] == 'w' ? writers(argv[2], shared, count)
                                 : bridge(argv[2], argv[3], shared);
    }
    bench_title("lag-pg",
                "from commit at the source to visible in the sink, 1,000 mutations/s on 8 "
                "connections");
    bench_pg_start(NULL);
    size = sizeof(*shared) + (count + 1) * sizeof(shared->commit_ns[0]);
    shared = bench_shared_make(size, &fd);
    prctl(PR_SET_TIMERSLACK, 1000);
    printf("times in ms; observer: time between two looks at a quiet sink, in us; CPU in %% of a "
           "core\n");
    printf("%9s %8s %8s %8s %8s %8s %9s %9s %8s %8s %8s %8s\n", "commits/s", "p50", "p90", "p99",
           "p99.9", "max", "look p50", "look p99", "bridge", "writers", "source", "sink");
    for (int i = 0; i < ROUNDS; i++)
        round_run(shared, fd, count, &p50[i], &p99[i]);
    printf("lag-pg %.2fms %.2fms 3ms 15ms\n", bench_median(p50, ROUNDS), bench_median(p99, ROUNDS));
    return 0;
}
