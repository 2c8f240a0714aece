/* See pg.h. */
#include "pg.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "frame.h"
#include "pg_server.h"

/* As a fresh installation has it; pg_server.c sets what suits tests. */
static const char usual_settings[] = "fsync = on\nfull_page_writes = on\nshared_buffers = 128MB\n"
                                     "max_connections = 100\nmax_prepared_transactions = 0\n"
                                     "autovacuum_naptime = 1min\nlog_checkpoints = on\n";

static struct tst_pg *servers[2];

/* --- servers -----------------------------------------------------------------------------------
 */

void bench_pg_start(const char *settings)
{
    char text[1024];
    const struct tst_pg_options options = { .settings = text };
    const char *why;

    if (!tst_pg_here(&why))
        bench_die("%s", why);
    bench_frame_begin(tst_pg_show_logs);
    snprintf(text, sizeof(text), "%s%s", usual_settings, settings ? settings : "");
    for (int i = 0; i < 2; i++)
        servers[i] = tst_pg_start(&options);
}

void bench_pg_child(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

void bench_pg_url(char url[BENCH_PATH_MAX], enum bench_pg_side side, const char *database)
{
    snprintf(url, BENCH_PATH_MAX, "%s", tst_pg_url(servers[side], database, NULL, NULL));
}

PGconn *bench_pg_connect(const char *url)
{
    return tst_pg_connect_url(url);
}

void bench_pg_exec(PGconn *conn, const char *sql)
{
    tst_pg_sql(conn, "%s", sql);
}

int64_t bench_pg_int(PGconn *conn, const char *sql)
{
    return tst_pg_sql_int(conn, "%s", sql);
}

void bench_pg_result(PGconn *conn, ExecStatusType expected, const char *doing)
{
    PGresult *result = PQgetResult(conn);

    if (PQresultStatus(result) != expected)
        bench_die("%s: %s", doing, PQerrorMessage(conn));
    PQclear(result);
}

double bench_pg_cpu_seconds(enum bench_pg_side side)
{
    pid_t pids[512];
    size_t count = bench_children(servers[side]->pid, pids, 511);
    double seconds = 0;

    pids[count++] = servers[side]->pid;
    for (size_t i = 0; i < count; i++)
        seconds += bench_process_cpu_seconds(pids[i]);
    return seconds;
}

void bench_pg_database_empty(char url[BENCH_PATH_MAX], enum bench_pg_side side, const char *name)
{
    tst_pg_exec(servers[side], NULL, "DROP DATABASE IF EXISTS \"%s\"", name);
    tst_pg_create_database(servers[side], name);
    bench_pg_url(url, side, name);
}

void bench_pg_database(char url[BENCH_PATH_MAX], enum bench_pg_side side, const char *name,
                       ledger_log_mode log)
{
    ledger_store *store;

    bench_pg_database_empty(url, side, name);
    store = bench_store_open(url, log);
    ledger_store_close(&store);
}

void bench_pg_vacuum(const char *url)
{
    PGconn *conn = bench_pg_connect(url);

    bench_pg_exec(conn, "VACUUM ANALYZE");
    PQfinish(conn);
}

void bench_pg_settle(void)
{
    for (int i = 0; i < 2; i++)
        tst_pg_exec(servers[i], NULL, "CHECKPOINT");
    bench_settle();
}

ledger_store *bench_pg_builder_open(char url[BENCH_PATH_MAX], const char *name)
{
    bench_pg_database(url, BENCH_PG_SOURCE, name, LEDGER_MUTATION_LOG_ON);
    tst_pg_exec(servers[BENCH_PG_SOURCE], NULL,
                "ALTER DATABASE \"%s\" SET synchronous_commit = off", name);
    return bench_store_open(url, LEDGER_MUTATION_LOG_ON);
}

void bench_pg_source_build(char url[BENCH_PATH_MAX], const char *name,
                           const struct bench_fill *fill)
{
    ledger_store *store = bench_pg_builder_open(url, name);

    bench_store_fill(store, fill);
    ledger_store_close(&store);
    bench_pg_vacuum(url);
}

/* --- proof -------------------------------------------------------------------------------------
 */

/* pos: the entry's id at its origin, in a source and in a sink. */
#define POS "coalesce(source_pos, id)"
#define DIGEST(times)                                                                              \
    "SELECT count(*) || ' ' || coalesce(md5(string_agg(md5((" POS ", stream, md5(payload), "       \
    "order_key, dedup_key, schema_version, metadata, tags, annotations" times ")::text), '' "      \
    "ORDER BY " POS ")), '') FROM ledger_entries WHERE "

static char *digest(PGconn *conn, bool times, const char *where)
{
    return tst_pg_sql_text(conn, "%s%s", times ? DIGEST(", created_at, updated_at") : DIGEST(""),
                           where);
}

void bench_pg_same_rows_where(const char *source_url, const char *source_where,
                              const char *sink_url, const char *sink_where, bool times)
{
    PGconn *source = bench_pg_connect(source_url), *sink = bench_pg_connect(sink_url);
    char *ours = digest(source, times, source_where), *theirs = digest(sink, times, sink_where);
    int64_t wrong;

    if (strcmp(ours, theirs))
        bench_die("wrong data: the source's entries and their digest are %s, the sink's %s", ours,
                  theirs);
    wrong = tst_pg_sql_int(
        sink,
        "SELECT count(*) FROM (SELECT source_pos, lag(source_pos) OVER "
        "(PARTITION BY stream ORDER BY id) AS previous FROM ledger_entries WHERE %s) "
        "AS t WHERE previous >= source_pos OR source_pos IS NULL",
        sink_where);
    if (wrong)
        bench_die("wrong data: %lld entries of the sink are out of order in their stream",
                  (long long)wrong);
    free(ours);
    free(theirs);
    PQfinish(source);
    PQfinish(sink);
}

void bench_pg_same_rows(const char *source_url, const char *sink_url, bool times)
{
    bench_pg_same_rows_where(source_url, "true", sink_url, "true", times);
}

/* --- pairs -------------------------------------------------------------------------------------
 */

#define PAIRS 5

double bench_pg_drain_pairs(const char *source_url, size_t mutations,
                            const struct bench_pg_peer *peer)
{
    double ratios[PAIRS], bridge_times[PAIRS], peer_times[PAIRS], bridge_median, peer_median;
    double cpu[3] = { 0 }; /* per mutation in us: of the sink's server, for the bridge and for the
                      peer, and all that the bridge takes: source, sink, itself */
    char bridged[BENCH_PATH_MAX], other[BENCH_PATH_MAX];
    struct bench_progress progress;
    ledger_bridge_options options;

    ledger_bridge_options_defaults(&options);
    options.backlog_batch_size = BENCH_PG_PER_TX;
    printf(
        "CPU per mutation in us: of the sink's server, by bridge and by peer; of all by bridge\n");
    printf("%-6s %12s %12s %12s %12s %9s %9s %9s %8s\n", "pair", "bridge s", peer->name, "bridge/s",
           "peer/s", "CPU", "peer CPU", "all CPU", "ratio");
    for (int i = 0; i < PAIRS; i++) {
        bench_pg_database(bridged, BENCH_PG_SINK, "bridged", LEDGER_MUTATION_LOG_OFF);
        bench_pg_database(other, BENCH_PG_SINK, "peer", LEDGER_MUTATION_LOG_OFF);
        for (int side = 0; side < 2; side++) {
            const bool is_peer = (side ^ i) & 1;
            double before, all;

            bench_pg_settle();
            before = bench_pg_cpu_seconds(BENCH_PG_SINK);
            all = before + bench_pg_cpu_seconds(BENCH_PG_SOURCE) + bench_own_cpu_seconds();
            if (is_peer) {
                peer_times[i] = peer->run(peer->ctx, other);
            } else {
                bench_bridge_drain(source_url, bridged, &options, mutations, &progress);
                bridge_times[i] = progress.end.seconds;
            }
            all = bench_pg_cpu_seconds(BENCH_PG_SINK) + bench_pg_cpu_seconds(BENCH_PG_SOURCE) +
                  bench_own_cpu_seconds() - all;
            cpu[is_peer] = (bench_pg_cpu_seconds(BENCH_PG_SINK) - before) * 1e6 / (double)mutations;
            if (!is_peer)
                cpu[2] = all * 1e6 / (double)mutations;
        }
        bench_pg_same_rows(source_url, bridged, true);
        if (peer->prove)
            peer->prove(peer->ctx, other);
        else
            bench_pg_same_rows(source_url, other, true);
        ratios[i] = peer_times[i] / bridge_times[i];
        printf("%-6d %12.3f %12.3f %12.0f %12.0f %9.1f %9.1f %9.1f %8.3f\n", i + 1, bridge_times[i],
               peer_times[i], (double)mutations / bridge_times[i],
               (double)mutations / peer_times[i], cpu[0], cpu[1], cpu[2], ratios[i]);
        fflush(stdout);
    }
    bridge_median = bench_median(bridge_times, PAIRS);
    peer_median = bench_median(peer_times, PAIRS);
    printf("%-6s %12.3f %12.3f %12.0f %12.0f %29s %8.3f\n", "median", bridge_median, peer_median,
           (double)mutations / bridge_median, (double)mutations / peer_median, "",
           bench_median(ratios, PAIRS));
    return bench_median(ratios, PAIRS);
}

/* --- COPY --------------------------------------------------------------------------------------
 */

/* The columns that a bridged row fills; its id is given, so that no sequence is asked. */
#define COPY_COLUMNS                                                                               \
    "id, stream, payload, order_key, dedup_key, schema_version, created_at, origin, source_pos"

static void piece_put(struct bench_pg_piece *piece, size_t *capacity, const void *data, size_t size)
{
    if (piece->size + size > *capacity) {
        size_t larger = (piece->size + size) * 2;
        char *copy = bench_alloc(1, larger);

        if (piece->size)
            memcpy(copy, piece->data, piece->size);
        bench_release(piece->data);
        piece->data = copy;
        *capacity = larger;
    }
    memcpy(piece->data + piece->size, data, size);
    piece->size += size;
}

void bench_pg_copies_load(const char *source_url, struct bench_pg_copies *ret_copies)
{
    /* Signature, flags, no extension; the trailer is a field count of -1. */
    static const char header[19] = "PGCOPY\n\377\r\n";
    static const char trailer[2] = "\377\377";
    PGconn *conn = bench_pg_connect(source_url);
    size_t rows = (size_t)bench_pg_int(conn, "SELECT count(*) FROM ledger_entries");
    struct bench_pg_copies copies = { .count = (rows + BENCH_PG_PER_TX - 1) / BENCH_PG_PER_TX };
    size_t capacity = 0, row = 0;
    PGresult *result;
    char *data;
    int size;

    copies.items = bench_alloc(copies.count, sizeof(*copies.items));
    result = PQexec(conn, "COPY (SELECT id, stream, payload, order_key, dedup_key, schema_version, "
                          "created_at, 1 AS origin, id AS source_pos FROM ledger_entries "
                          "ORDER BY id) TO STDOUT (FORMAT binary)");
    if (PQresultStatus(result) != PGRES_COPY_OUT)
        bench_die("COPY: %s", PQerrorMessage(conn));
    PQclear(result);
    while ((size = PQgetCopyData(conn, &data, 0)) > 0) {
        /* libpq gives a row at a time: the first one with the header before it. */
        const char *from = row ? data : data + sizeof(header);
        size_t length = row ? (size_t)size : (size_t)size - sizeof(header);

        if (length > sizeof(trailer)) {
            struct bench_pg_piece *piece = &copies.items[row / BENCH_PG_PER_TX];

            if (row % BENCH_PG_PER_TX == 0) {
                capacity = 0;
                piece_put(piece, &capacity, header, sizeof(header));
            }
            piece_put(piece, &capacity, from, length);
            row++;
            if (row % BENCH_PG_PER_TX == 0 || row == rows)
                piece_put(piece, &capacity, trailer, sizeof(trailer));
        }
        PQfreemem(data);
    }
    bench_pg_result(conn, PGRES_COMMAND_OK, "COPY");
    if (row != rows)
        bench_die("the source gave %zu rows of %zu", row, rows);
    PQfinish(conn);
    *ret_copies = copies;
}

void bench_pg_copies_free(struct bench_pg_copies *copies)
{
    for (size_t i = 0; i < copies->count; i++)
        bench_release(copies->items[i].data);
    bench_release(copies->items);
    *copies = (struct bench_pg_copies){ 0 };
}

double bench_pg_copies_write(const struct bench_pg_copies *copies, const char *url)
{
    int64_t start = bench_now_ns();
    PGconn *conn = bench_pg_connect(url);
    double seconds;

    bench_pg_exec(conn, "SET synchronous_commit = off");
    for (size_t i = 0; i < copies->count; i++) {
        const struct bench_pg_piece *piece = &copies->items[i];
        PGresult *result =
            PQexec(conn, "COPY ledger_entries (" COPY_COLUMNS ") FROM STDIN (FORMAT binary)");

        if (PQresultStatus(result) != PGRES_COPY_IN ||
            PQputCopyData(conn, piece->data, (int)piece->size) != 1 ||
            PQputCopyEnd(conn, NULL) != 1)
            bench_die("COPY: %s", PQerrorMessage(conn));
        PQclear(result);
        bench_pg_result(conn, PGRES_COMMAND_OK, "COPY");
        if (PQgetResult(conn))
            bench_die("COPY: a second result");
    }
    seconds = bench_seconds_since(start);
    PQfinish(conn);
    return seconds;
}

/* --- native logical replication ----------------------------------------------------------------
 */

#define NATIVE_DATABASE "native"

void bench_pg_native_prepare(char publisher_url[BENCH_PATH_MAX])
{
    PGconn *conn;

    bench_pg_database(publisher_url, BENCH_PG_SOURCE, NATIVE_DATABASE, LEDGER_MUTATION_LOG_OFF);
    conn = bench_pg_connect(publisher_url);
    bench_pg_exec(conn, "CREATE PUBLICATION bench FOR TABLE ledger_entries");
    bench_pg_exec(conn, "SELECT pg_create_logical_replication_slot('bench', 'pgoutput')");
    PQfinish(conn);
}

/* A server starts an apply worker only so long after it last started one
 * (wal_retrieve_retry_interval), and the waiting is none of replication's work. */
#define NATIVE_START_NS (6 * INT64_C(1000000000))

double bench_pg_native_run(const char *sink_url, int64_t last_source_pos)
{
    static int64_t earliest;
    char publisher_url[BENCH_PATH_MAX], sql[BENCH_PATH_MAX + 256];
    PGconn *publisher, *sink;
    double seconds;
    int64_t start;

    bench_pg_url(publisher_url, BENCH_PG_SOURCE, NATIVE_DATABASE);
    publisher = bench_pg_connect(publisher_url);
    sink = bench_pg_connect(sink_url);
    bench_pg_exec(publisher, "SELECT pg_copy_logical_replication_slot('bench', 'bench_round')");
    snprintf(sql, sizeof(sql),
             "CREATE SUBSCRIPTION bench CONNECTION '%s' PUBLICATION bench WITH (enabled = false, "
             "create_slot = false, slot_name = 'bench_round', copy_data = false)",
             publisher_url);
    bench_pg_exec(sink, sql);
    snprintf(sql, sizeof(sql),
             "SELECT count(*) FROM ledger_entries WHERE origin = 1 AND source_pos = %lld",
             (long long)last_source_pos);
    bench_pg_settle();
    bench_pause_until(earliest);

    start = bench_now_ns();
    earliest = start + NATIVE_START_NS;
    bench_pg_exec(sink, "ALTER SUBSCRIPTION bench ENABLE");
    while (bench_pg_int(sink, sql) != 1)
        bench_pause_ns(5000000);
    seconds = bench_seconds_since(start);

    bench_pg_exec(sink, "ALTER SUBSCRIPTION bench DISABLE");
    bench_pg_exec(sink, "DROP SUBSCRIPTION bench");
    PQfinish(publisher);
    PQfinish(sink);
    return seconds;
}
