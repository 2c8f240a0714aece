/* drain-pg-mixed: 60 % append, 20 % set_tags, 15 % set_annotations, 5 % trim, PostgreSQL to
 * PostgreSQL, against native logical replication of the same changes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mixed.h"
#include "pg.h"

/* The bare statements, as one would write them without the library; rows as a sink holds them. */
static const char *const statements[] = {
    [BENCH_APPEND] = "INSERT INTO ledger_entries (id, stream, payload, order_key, dedup_key, "
                     "origin, source_pos) VALUES ($1::bigint, $2, convert_to($3, 'UTF8'), $4, $5, "
                     "1, $1)",
    [BENCH_SET_TAGS] = "UPDATE ledger_entries SET tags = $2::jsonb, updated_at = now(), "
                       "tags_pos = $3::bigint WHERE id = $1::bigint",
    [BENCH_SET_ANNOTATIONS] = "UPDATE ledger_entries SET annotations = coalesce(annotations, '{}') "
                              "|| $2::jsonb, updated_at = now(), annotations_pos = $3::bigint "
                              "WHERE id = $1::bigint",
    [BENCH_TRIM] = "DELETE FROM ledger_entries WHERE stream = $2 AND id <= $1::bigint",
};
static const char *const names[] = { "append", "tags", "annotations", "trim" };

static void write_changes(const char *url, const struct bench_mutation *list, size_t count)
{
    struct bench_statement *texts = bench_statements_make(list, count);
    int64_t start = bench_now_ns();
    PGconn *conn = bench_pg_connect(url);

    bench_pg_exec(conn, "SET synchronous_commit = off");
    for (size_t i = 0; i < sizeof(statements) / sizeof(*statements); i++)
        PQclear(PQprepare(conn, names[i], statements[i], 0, NULL));
    for (size_t i = 0; i < count; i++) {
        const struct bench_mutation *m = &list[i];
        const struct bench_statement *t = &texts[i];
        char entry[32], position[32];
        const char *values[5] = { entry, t->names.stream, t->payload, t->names.order_key,
                                  t->names.dedup_key };
        int value_count = m->kind == BENCH_APPEND ? 5 : m->kind == BENCH_TRIM ? 2 : 3;
        PGresult *result;

        snprintf(entry, sizeof(entry), "%lld", (long long)m->entry);
        snprintf(position, sizeof(position), "%zu", i + 1);
        if (m->kind == BENCH_SET_TAGS || m->kind == BENCH_SET_ANNOTATIONS) {
            values[1] = t->json;
            values[2] = position;
        }
        if (i % BENCH_PG_PER_TX == 0)
            bench_pg_exec(conn, "BEGIN");
        result = PQexecPrepared(conn, names[m->kind], value_count, values, NULL, NULL, 0);
        if (PQresultStatus(result) != PGRES_COMMAND_OK ||
            (m->kind != BENCH_TRIM && strcmp(PQcmdTuples(result), "1")))
            bench_die("%s: %s", names[m->kind], PQerrorMessage(conn));
        PQclear(result);
        if (i % BENCH_PG_PER_TX == BENCH_PG_PER_TX - 1 || i + 1 == count)
            bench_pg_exec(conn, "COMMIT");
    }
    PQfinish(conn);
    bench_release(texts);
    printf("publisher: the same changes in %.1f s\n", bench_seconds_since(start));
    fflush(stdout);
}

struct native {
    const char *source, *publisher;
    int64_t last;
};

static double native_run(void *ctx, const char *sink_url)
{
    return bench_pg_native_run(sink_url, ((const struct native *)ctx)->last);
}

static void native_prove(void *ctx, const char *sink_url)
{
    const struct native *native = ctx;

    bench_pg_same_rows(native->publisher, sink_url, true);
    bench_pg_same_rows(native->source, sink_url, false);
}

int main(void)
{
    size_t count = bench_scaled(300000, BENCH_PG_PER_TX);
    struct bench_mutation *list = bench_mutations_make(count);
    char source[BENCH_PATH_MAX], publisher[BENCH_PATH_MAX];
    struct native native = { source, publisher, list[count - 1].entry };
    const struct bench_pg_peer peer = { "native s", native_run, native_prove, &native };
    ledger_store *store;
    double ratio;

    bench_title("drain-pg-mixed", "60 % append, 20 % set_tags, 15 % set_annotations, 5 % trim, "
                                  "against native logical replication of the same changes");
    bench_pg_start("wal_level = logical\n");
    store = bench_pg_builder_open(source, "source");
    bench_mutations_write(store, list, count, BENCH_PG_PER_TX);
    ledger_store_close(&store);
    bench_pg_native_prepare(publisher);
    write_changes(publisher, list, count);
    ratio = bench_pg_drain_pairs(source, count, &peer);
    bench_release(list);
    printf("drain-pg-mixed %.2f 1.5\n", ratio);
    return 0;
}
