/* drain-sqlite-mixed: 60 % append, 20 % set_tags, 15 % set_annotations, 5 % trim through the
 * bridge, against the same statements bare on an identical table. */
#include <stdio.h>

#include "mixed.h"

#define PER_TX 2000

/* The fastest form for one who knows that ids of a stream rise on both sides, as the library does.
 */
#define TRIM_SQL                                                                                   \
    "DELETE FROM ledger_entries WHERE stream = ?1 AND id <= (SELECT id FROM ledger_entries "       \
    "WHERE origin = ?2 AND source_pos = ?3) AND +origin = ?2 AND +source_pos <= ?3"

static double bare_run(const char *path, const struct bench_mutation *list,
                       const struct bench_statement *texts, size_t count)
{
    static const char time_text[] = "2026-01-02T03:04:05.678";
    sqlite3 *db = bench_db_open(path, BENCH_BACKLOG_CHECKPOINT);
    sqlite3_stmt *begin = bench_prepare(db, "BEGIN IMMEDIATE");
    sqlite3_stmt *commit = bench_prepare(db, "COMMIT");
    sqlite3_stmt *append =
        bench_prepare(db, "INSERT INTO ledger_entries (stream, payload, order_key, dedup_key, "
                          "schema_version, created_at, origin, source_pos) "
                          "VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
    sqlite3_stmt *tags =
        bench_prepare(db, "UPDATE ledger_entries SET tags = ?, updated_at = ?, tags_pos = ? "
                          "WHERE origin = ? AND source_pos = ?");
    sqlite3_stmt *annotations =
        bench_prepare(db, "UPDATE ledger_entries SET annotations = "
                          "json_patch(coalesce(annotations, '{}'), ?), updated_at = ?, "
                          "annotations_pos = ? WHERE origin = ? AND source_pos = ?");
    sqlite3_stmt *trim = bench_prepare(db, TRIM_SQL);
    int64_t start = bench_now_ns();
    double seconds;

    for (size_t i = 0; i < count; i++) {
        const struct bench_mutation *m = &list[i];
        const struct bench_statement *t = &texts[i];
        sqlite3_stmt *stmt;

        if (i % PER_TX == 0)
            bench_step(begin);
        if (m->kind == BENCH_APPEND) {
            stmt = append;
            sqlite3_bind_text(stmt, 1, t->names.stream, -1, SQLITE_STATIC);
            sqlite3_bind_blob(stmt, 2, t->payload, BENCH_PAYLOAD_BYTES, SQLITE_STATIC);
            sqlite3_bind_text(stmt, 3, t->names.order_key, -1, SQLITE_STATIC);
            sqlite3_bind_text(stmt, 4, t->names.dedup_key, -1, SQLITE_STATIC);
            sqlite3_bind_int(stmt, 5, 1);
            sqlite3_bind_text(stmt, 6, time_text, -1, SQLITE_STATIC);
            sqlite3_bind_int(stmt, 7, 1);
            sqlite3_bind_int64(stmt, 8, m->entry);
        } else if (m->kind == BENCH_TRIM) {
            stmt = trim;
            sqlite3_bind_text(stmt, 1, t->names.stream, -1, SQLITE_STATIC);
            sqlite3_bind_int(stmt, 2, 1);
            sqlite3_bind_int64(stmt, 3, m->entry);
        } else {
            stmt = m->kind == BENCH_SET_TAGS ? tags : annotations;
            sqlite3_bind_text(stmt, 1, t->json, -1, SQLITE_STATIC);
            sqlite3_bind_text(stmt, 2, time_text, -1, SQLITE_STATIC);
            sqlite3_bind_int64(stmt, 3, (int64_t)i + 1);
            sqlite3_bind_int(stmt, 4, 1);
            sqlite3_bind_int64(stmt, 5, m->entry);
        }
        bench_step(stmt);
        if (i % PER_TX == PER_TX - 1 || i + 1 == count)
            bench_step(commit);
    }
    seconds = bench_seconds_since(start);
    bench_db_close(db);
    return seconds;
}

struct drain {
    size_t count;
    struct bench_mutation *list;
    struct bench_statement *texts;
    char source[BENCH_PATH_MAX], bridged[BENCH_PATH_MAX], bare[BENCH_PATH_MAX];
    ledger_bridge_options options;
};

static double run(void *ctx, bool is_peer)
{
    const struct drain *drain = ctx;
    struct bench_progress progress;

    bench_sink_make(is_peer ? drain->bare : drain->bridged);
    bench_settle();
    if (is_peer)
        return bare_run(drain->bare, drain->list, drain->texts, drain->count);
    bench_bridge_drain(drain->source, drain->bridged, &drain->options, drain->count, &progress);
    return progress.end.seconds;
}

static void prove(void *ctx)
{
    const struct drain *drain = ctx;

    bench_same_rows(drain->source, drain->bridged, true);
    bench_same_rows(drain->source, drain->bare, false);
}

int main(void)
{
    struct drain drain = { .count = bench_scaled(300000, PER_TX) };
    ledger_store *store;
    sqlite3 *db;
    double ratio;

    drain.list = bench_mutations_make(drain.count);
    bench_title("drain-sqlite-mixed",
                "60 % append, 20 % set_tags, 15 % set_annotations, 5 % trim, against the same "
                "statements bare");
    bench_path(drain.source, "source.db");
    bench_path(drain.bridged, "bridged.db");
    bench_path(drain.bare, "bare.db");
    store = bench_builder_open(drain.source, &db);
    bench_mutations_write(store, drain.list, drain.count, 10000);
    bench_builder_close(&store, &db);
    drain.texts = bench_statements_make(drain.list, drain.count);
    ledger_bridge_options_defaults(&drain.options);
    drain.options.batch_size = PER_TX;
    drain.options.backlog_batch_size = PER_TX;
    ratio = bench_pairs_run(&(struct bench_pairs){ .name = "bridge",
                                                   .peer_name = "bare",
                                                   .run = run,
                                                   .prove = prove,
                                                   .ctx = &drain,
                                                   .mutations = drain.count });
    bench_release(drain.list);
    bench_release(drain.texts);
    printf("drain-sqlite-mixed %.2f 0.9\n", ratio);
    return 0;
}
