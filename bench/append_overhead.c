/* append-overhead: what the mutation log costs a writer. Appends with the log on against bare
 * inserts into an identical table without it, 100 entries per transaction on both sides: one call
 * per entry, and one call of 100 entries.
 *
 * Both sides use a connection opened the same way, with the default durability of SQLite: a writer
 * of an outbox wants its commits on disk. What the CPU alone costs shows in the last comparison. */
#include <stdio.h>

#include "common.h"

#define PAIRS 5
#define PER_TX 100

struct mode {
    const char *name;
    bool one_call, keys, durable;
};

static const struct mode modes[] = {
    { "one call per entry", false, true, true },
    { "one call of 100 entries", true, true, true },
    { "for comparison: one call per entry, without keys", false, false, true },
    { "for comparison: one call of 100 entries, without keys", true, false, true },
    { "for comparison: one call per entry, not waiting for the disk", false, true, false },
    { "for comparison: one call of 100 entries, not waiting for the disk", true, true, false },
};
#define MODES (sizeof(modes) / sizeof(*modes))

struct text {
    char order_key[24], dedup_key[24], payload[BENCH_PAYLOAD_BYTES + 1];
};

static char streams[100][24];

/* A call is for one stream; calls go through the streams in turn. */
static const char *stream_name(const struct mode *mode, size_t entry)
{
    return streams[(mode->one_call ? entry / PER_TX : entry) % 100];
}

/* As SQLite and the library leave a writer by default: a commit waits for the disk. */
static sqlite3 *writer_open(const char *path, const struct mode *mode)
{
    sqlite3 *db = bench_db_open(path, 1000);

    if (mode->durable)
        bench_exec(db, "PRAGMA synchronous = FULL");
    return db;
}

static double ours_run(const char *path, const struct text *texts, size_t count,
                       const struct mode *mode)
{
    ledger_append_input inputs[PER_TX] = { 0 };
    ledger_store_options options;
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    int64_t start;
    double seconds;
    sqlite3 *db;

    bench_source_make(path);
    db = writer_open(path, mode);
    ledger_store_options_defaults(&options);
    options.connection = db;
    options.log = LEDGER_MUTATION_LOG_ON;
    bench_check(ledger_store_open(&options, &store, &err), &err, "open store");
    bench_settle();

    start = bench_now_ns();
    for (size_t i = 0; i < count; i += PER_TX) {
        for (size_t k = 0; k < PER_TX; k++) {
            inputs[k].payload = (ledger_bytes){ texts[i + k].payload, BENCH_PAYLOAD_BYTES };
            if (mode->keys) {
                inputs[k].order_key = texts[i + k].order_key;
                inputs[k].dedup_key = texts[i + k].dedup_key;
            }
        }
        bench_check(ledger_store_begin(store, &err), &err, "begin");
        for (size_t k = 0; !mode->one_call && k < PER_TX; k++)
            bench_check(
                ledger_store_append(store, stream_name(mode, i + k), &inputs[k], 1, NULL, &err),
                &err, "append");
        if (mode->one_call)
            bench_check(
                ledger_store_append(store, stream_name(mode, i), inputs, PER_TX, NULL, &err), &err,
                "append");
        bench_check(ledger_store_commit(store, &err), &err, "commit");
    }
    seconds = bench_seconds_since(start);
    ledger_store_close(&store);
    if (bench_int(db, "SELECT count(*) FROM ledger_entries") != (int64_t)count ||
        bench_int(db, "SELECT count(*) FROM ledger_entries_mutations") !=
            (int64_t)(mode->one_call ? count / PER_TX : count))
        bench_die("wrong data: entries or events are missing");
    bench_db_close(db);
    return seconds;
}

static double bare_run(const char *path, const struct text *texts, size_t count,
                       const struct mode *mode)
{
    sqlite3_stmt *begin, *commit, *insert;
    int64_t start;
    double seconds;
    sqlite3 *db;

    bench_sink_make(path);
    db = writer_open(path, mode);
    begin = bench_prepare(db, "BEGIN IMMEDIATE");
    commit = bench_prepare(db, "COMMIT");
    insert = bench_prepare(db, "INSERT INTO ledger_entries (stream, payload, order_key, dedup_key, "
                               "schema_version, created_at) VALUES (?, ?, ?, ?, ?, ?)");
    bench_settle();

    start = bench_now_ns();
    for (size_t i = 0; i < count; i += PER_TX) {
        bench_step(begin);
        for (size_t k = 0; k < PER_TX; k++) {
            const struct text *t = &texts[i + k];

            sqlite3_bind_text(insert, 1, stream_name(mode, i + k), -1, SQLITE_STATIC);
            sqlite3_bind_blob(insert, 2, t->payload, BENCH_PAYLOAD_BYTES, SQLITE_STATIC);
            sqlite3_bind_text(insert, 3, mode->keys ? t->order_key : "", -1, SQLITE_STATIC);
            sqlite3_bind_text(insert, 4, mode->keys ? t->dedup_key : "", -1, SQLITE_STATIC);
            sqlite3_bind_int(insert, 5, 1);
            sqlite3_bind_text(insert, 6, "2026-01-02T03:04:05.678", -1, SQLITE_STATIC);
            bench_step(insert);
        }
        bench_step(commit);
    }
    seconds = bench_seconds_since(start);
    if (bench_int(db, "SELECT count(*) FROM ledger_entries") != (int64_t)count)
        bench_die("wrong data: bare rows are missing");
    bench_db_close(db);
    return seconds;
}

int main(void)
{
    size_t count = bench_scaled(100000, PER_TX);
    char ours[BENCH_PATH_MAX], bare[BENCH_PATH_MAX];
    struct text *texts = bench_alloc(count, sizeof(*texts));
    double medians[MODES];

    bench_title("append-overhead", "appends with the log against bare inserts without it");
    bench_path(ours, "ours.db");
    bench_path(bare, "bare.db");
    for (size_t i = 0; i < 100; i++)
        snprintf(streams[i], sizeof(streams[i]), "customer-%07zu", i);
    for (size_t i = 0; i < count; i++) {
        snprintf(texts[i].order_key, sizeof(texts[i].order_key), "order-%zu", i % 100);
        snprintf(texts[i].dedup_key, sizeof(texts[i].dedup_key), "order-%010zu", i);
        bench_payload(texts[i].payload, i);
    }
    for (size_t m = 0; m < MODES; m++) {
        const struct mode *mode = &modes[m];
        double ratios[PAIRS], ours_times[PAIRS], bare_times[PAIRS];

        printf("%s\n%-6s %12s %12s %8s\n", mode->name, "pair", "ledger s", "bare s", "ratio");
        for (int i = 0; i < PAIRS; i++) {
            for (int side = 0; side < 2; side++) {
                if ((side ^ i) & 1)
                    bare_times[i] = bare_run(bare, texts, count, mode);
                else
                    ours_times[i] = ours_run(ours, texts, count, mode);
            }
            ratios[i] = ours_times[i] / bare_times[i];
            printf("%-6d %12.3f %12.3f %8.3f\n", i + 1, ours_times[i], bare_times[i], ratios[i]);
            fflush(stdout);
        }
        medians[m] = bench_median(ratios, PAIRS);
        printf("%-6s %12.3f %12.3f %8.3f\n", "median", bench_median(ours_times, PAIRS),
               bench_median(bare_times, PAIRS), medians[m]);
    }
    bench_release(texts);
    printf("append-overhead %.2f %.2f 1.25 1.15\n", medians[0], medians[1]);
    return 0;
}
