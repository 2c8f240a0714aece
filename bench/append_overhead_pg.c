/* append-overhead-pg: what the mutation log costs a writer. Appends with the log on against plain
 * prepared inserts into an identical table without it, 100 entries per transaction and one round
 * trip per entry on both sides.
 *
 * Both wait for the disk at each commit, as PostgreSQL does by default: a writer of an outbox wants
 * that. What the CPU alone costs shows in the comparison that does not wait. */
#include <stdio.h>
#include <string.h>

#include "pg.h"

#define PAIRS 5
#define PER_TX 100

struct mode {
    const char *name;
    bool one_call, durable;
};

static const struct mode modes[] = {
    { "one call per entry", false, true },
    { "for comparison: one call of 100 entries, against one insert per entry", true, true },
    { "for comparison: one call per entry, not waiting for the disk", false, false },
};
#define MODES (sizeof(modes) / sizeof(*modes))

struct text {
    struct bench_names names;
    char payload[BENCH_PAYLOAD_BYTES + 1];
};

/* A call is for one stream; calls go through the streams in turn. */
static void text_make(struct text *t, size_t entry, const struct mode *mode)
{
    bench_names(&t->names, (unsigned)((mode->one_call ? entry / PER_TX : entry) % 100), entry);
    bench_payload(t->payload, entry);
}

/* With this setting for all connections that are made from now on. */
static void database_make(char url[BENCH_PATH_MAX], const char *name, const struct mode *mode,
                          ledger_log_mode log)
{
    char sql[128];
    PGconn *conn;

    bench_pg_database(url, BENCH_PG_SOURCE, name, log);
    conn = bench_pg_connect(url);
    snprintf(sql, sizeof(sql), "ALTER DATABASE %s SET synchronous_commit = %s", name,
             mode->durable ? "on" : "off");
    bench_pg_exec(conn, sql);
    PQfinish(conn);
    bench_pg_settle();
}

static void check_count(const char *url, const char *sql, size_t expected)
{
    PGconn *conn = bench_pg_connect(url);

    if (bench_pg_int(conn, sql) != (int64_t)expected)
        bench_die("wrong data: entries or events are missing");
    PQfinish(conn);
}

static double ours_run(const struct text *texts, size_t count, const struct mode *mode)
{
    ledger_append_input inputs[PER_TX] = { 0 };
    ledger_error err = { 0 };
    char url[BENCH_PATH_MAX];
    ledger_store *store;
    double seconds;
    int64_t start;

    database_make(url, "ours", mode, LEDGER_MUTATION_LOG_ON);
    store = bench_store_open(url, LEDGER_MUTATION_LOG_ON);
    start = bench_now_ns();
    for (size_t i = 0; i < count; i += PER_TX) {
        for (size_t k = 0; k < PER_TX; k++) {
            inputs[k].payload = (ledger_bytes){ texts[i + k].payload, BENCH_PAYLOAD_BYTES };
            inputs[k].order_key = texts[i + k].names.order_key;
            inputs[k].dedup_key = texts[i + k].names.dedup_key;
        }
        bench_check(ledger_store_begin(store, &err), &err, "begin");
        for (size_t k = 0; !mode->one_call && k < PER_TX; k++)
            bench_check(
                ledger_store_append(store, texts[i + k].names.stream, &inputs[k], 1, NULL, &err),
                &err, "append");
        if (mode->one_call)
            bench_check(
                ledger_store_append(store, texts[i].names.stream, inputs, PER_TX, NULL, &err), &err,
                "append");
        bench_check(ledger_store_commit(store, &err), &err, "commit");
    }
    seconds = bench_seconds_since(start);
    ledger_store_close(&store);
    check_count(url, "SELECT count(*) FROM ledger_entries", count);
    check_count(url, "SELECT count(*) FROM ledger_entries_mutations",
                mode->one_call ? count / PER_TX : count);
    return seconds;
}

static void insert(PGconn *conn, const struct text *t)
{
    static const int formats[] = { 0, 1, 0, 0 };
    const char *const values[] = { t->names.stream, t->payload, t->names.order_key,
                                   t->names.dedup_key };
    const int lengths[] = { 0, BENCH_PAYLOAD_BYTES, 0, 0 };
    PGresult *result = PQexecPrepared(conn, "insert", 4, values, lengths, formats, 1);

    if (PQresultStatus(result) != PGRES_COMMAND_OK)
        bench_die("insert: %s", PQerrorMessage(conn));
    PQclear(result);
}

static double plain_run(const struct text *texts, size_t count, const struct mode *mode)
{
    char url[BENCH_PATH_MAX];
    double seconds;
    int64_t start;
    PGconn *conn;

    database_make(url, "plain", mode, LEDGER_MUTATION_LOG_OFF);
    conn = bench_pg_connect(url);
    bench_pg_exec(conn, "PREPARE insert (text, bytea, text, text) AS INSERT INTO ledger_entries "
                        "(stream, payload, order_key, dedup_key) VALUES ($1, $2, $3, $4)");
    start = bench_now_ns();
    for (size_t i = 0; i < count; i += PER_TX) {
        bench_pg_exec(conn, "BEGIN");
        for (size_t k = 0; k < PER_TX; k++)
            insert(conn, &texts[i + k]);
        bench_pg_exec(conn, "COMMIT");
    }
    seconds = bench_seconds_since(start);
    PQfinish(conn);
    check_count(url, "SELECT count(*) FROM ledger_entries", count);
    return seconds;
}

int main(void)
{
    size_t count = bench_scaled(100000, PER_TX);
    struct text *texts = bench_alloc(count, sizeof(*texts));
    double medians[MODES];

    bench_title("append-overhead-pg",
                "appends with the log against plain inserts without it, PostgreSQL");
    bench_pg_start(NULL);
    for (size_t m = 0; m < MODES; m++) {
        const struct mode *mode = &modes[m];
        double ratios[PAIRS], ours_times[PAIRS], plain_times[PAIRS];

        for (size_t i = 0; i < count; i++)
            text_make(&texts[i], i, mode);
        printf("%s\n%-6s %12s %12s %8s\n", mode->name, "pair", "ledger s", "plain s", "ratio");
        for (int i = 0; i < PAIRS; i++) {
            for (int side = 0; side < 2; side++) {
                if ((side ^ i) & 1)
                    plain_times[i] = plain_run(texts, count, mode);
                else
                    ours_times[i] = ours_run(texts, count, mode);
            }
            ratios[i] = ours_times[i] / plain_times[i];
            printf("%-6d %12.3f %12.3f %8.3f\n", i + 1, ours_times[i], plain_times[i], ratios[i]);
            fflush(stdout);
        }
        medians[m] = bench_median(ratios, PAIRS);
        printf("%-6s %12.3f %12.3f %8.3f\n", "median", bench_median(ours_times, PAIRS),
               bench_median(plain_times, PAIRS), medians[m]);
    }
    bench_release(texts);
    printf("append-overhead-pg %.2f 1.4\n", medians[0]);
    return 0;
}
