/* drain-sqlite-mixed: 60 % append, 20 % set_tags, 15 % set_annotations, 5 % trim through the
 * bridge, against the same statements bare on an identical table.
 *
 * The list of mutations is made once, in memory; it knows which entries live, so each change finds
 * its entry and trims take away about half of what is appended. */
#include <stdio.h>
#include <string.h>

#include "common.h"

#define PAIRS 5
#define PER_TX 2000
#define STREAMS 100
#define TRIM_MAX 11 /* a trim takes 1..TRIM_MAX entries; 12 appends come per trim */

/* The fastest form for one who knows that ids of a stream rise on both sides, as the library does.
 */
#define TRIM_SQL                                                                                   \
    "DELETE FROM ledger_entries WHERE stream = ?1 AND id <= (SELECT id FROM ledger_entries "       \
    "WHERE origin = ?2 AND source_pos = ?3) AND +origin = ?2 AND +source_pos <= ?3"

enum kind { APPEND, SET_TAGS, SET_ANNOTATIONS, TRIM };

struct mutation {
    enum kind kind;
    unsigned stream;
    int64_t entry; /* id at the source: of the new, the changed, or the last trimmed entry */
    unsigned a, b; /* what the change says */
};

/* Ids of a stream that still live: items[head..count). */
struct stream {
    int64_t *items;
    size_t head, count, capacity;
};

static const char *const tag_names[] = { "new",  "paid",     "sent",    "vip",
                                         "late", "returned", "checked", "gift" };
static const char *const note_names[] = { "carrier", "clerk", "desk",  "invoice",
                                          "note",    "route", "shelf", "weight" };

static void stream_push(struct stream *s, int64_t id)
{
    if (s->count == s->capacity) {
        size_t capacity = s->capacity ? s->capacity * 2 : 1024;
        int64_t *items = bench_alloc(capacity, sizeof(*items));

        if (s->count)
            memcpy(items, s->items, s->count * sizeof(*items));
        bench_release(s->items);
        s->items = items;
        s->capacity = capacity;
    }
    s->items[s->count++] = id;
}

static void mutations_make(struct mutation *list, size_t count)
{
    struct stream streams[STREAMS] = { 0 };
    uint64_t random = 4;
    int64_t next_id = 1;

    for (size_t i = 0; i < count; i++) {
        struct mutation *m = &list[i];
        unsigned dice = (unsigned)(bench_random(&random) % 100);
        struct stream *s;

        m->stream = (unsigned)(bench_random(&random) % STREAMS);
        m->a = (unsigned)(bench_random(&random) % 8);
        m->b = (unsigned)(bench_random(&random) % 1000);
        s = &streams[m->stream];
        m->kind = dice < 60 ? APPEND : dice < 80 ? SET_TAGS : dice < 95 ? SET_ANNOTATIONS : TRIM;
        if (s->head == s->count)
            m->kind = APPEND;
        if (m->kind == APPEND) {
            m->entry = next_id++;
            stream_push(s, m->entry);
        } else if (m->kind == TRIM) {
            size_t taken = 1 + bench_random(&random) % TRIM_MAX;

            if (taken > s->count - s->head)
                taken = s->count - s->head;
            s->head += taken;
            m->entry = s->items[s->head - 1];
        } else {
            m->entry = s->items[s->head + bench_random(&random) % (s->count - s->head)];
        }
    }
    for (int i = 0; i < STREAMS; i++)
        bench_release(streams[i].items);
}

static void names_of(const struct mutation *m, char stream[32], char order_key[32],
                     char dedup_key[32])
{
    snprintf(stream, 32, "customer-%07u", m->stream);
    snprintf(order_key, 32, "order-%u", m->stream);
    snprintf(dedup_key, 32, "order-%010lld", (long long)m->entry);
}

static void source_make(const char *path, const struct mutation *list, size_t count)
{
    char stream[32], order_key[32], dedup_key[32], value[16], payload[BENCH_PAYLOAD_BYTES + 1];
    int64_t start = bench_now_ns();
    ledger_error err = { 0 };
    ledger_store *store;
    ledger_ids ids;
    sqlite3 *db;

    store = bench_builder_open(path, &db);
    for (size_t i = 0; i < count; i++) {
        const struct mutation *m = &list[i];
        const ledger_append_input input = { .payload = { payload, BENCH_PAYLOAD_BYTES },
                                            .order_key = order_key,
                                            .dedup_key = dedup_key };
        const char *tags[] = { tag_names[m->a], tag_names[m->b % 8] };
        ledger_pair note = { note_names[m->a], value };
        ledger_id id = { .number = m->entry };

        if (i % 10000 == 0)
            bench_check(ledger_store_begin(store, &err), &err, "begin");
        names_of(m, stream, order_key, dedup_key);
        switch (m->kind) {
        case APPEND:
            bench_payload(payload, (uint64_t)m->entry);
            bench_check(ledger_store_append(store, stream, &input, 1, &ids, &err), &err, "append");
            if (ids.count != 1 || ids.items[0].number != m->entry)
                bench_die("the source gave another id than expected");
            ledger_ids_destroy(&ids);
            break;
        case SET_TAGS:
            bench_check(ledger_store_set_tags(store, stream, id, (ledger_list){ tags, 2 }, &err),
                        &err, "set tags");
            break;
        case SET_ANNOTATIONS:
            snprintf(value, sizeof(value), "value %u", m->b);
            bench_check(
                ledger_store_set_annotations(store, stream, id, (ledger_map){ &note, 1 }, &err),
                &err, "set annotations");
            break;
        case TRIM:
            bench_check(ledger_store_trim(store, stream, id, NULL, &err), &err, "trim");
            break;
        }
        if (i % 10000 == 9999 || i + 1 == count)
            bench_check(ledger_store_commit(store, &err), &err, "commit");
    }
    printf("source: %zu mutations in %.1f s, %lld entries left\n", count,
           bench_seconds_since(start),
           (long long)bench_int(db, "SELECT count(*) FROM ledger_entries"));
    fflush(stdout);
    bench_builder_close(&store, &db);
}

/* Everything as text beforehand, as the bridge's rows are beforehand in the log. */
struct statement {
    char stream[24], order_key[24], dedup_key[24], json[40];
    char payload[BENCH_PAYLOAD_BYTES + 1];
};

static struct statement *statements_make(const struct mutation *list, size_t count)
{
    struct statement *texts = bench_alloc(count, sizeof(*texts));
    char stream[32], order_key[32], dedup_key[32];

    for (size_t i = 0; i < count; i++) {
        const struct mutation *m = &list[i];
        struct statement *t = &texts[i];

        names_of(m, stream, order_key, dedup_key);
        memcpy(t->stream, stream, sizeof(t->stream));
        memcpy(t->order_key, order_key, sizeof(t->order_key));
        memcpy(t->dedup_key, dedup_key, sizeof(t->dedup_key));
        if (m->kind == APPEND)
            bench_payload(t->payload, (uint64_t)m->entry);
        else if (m->kind == SET_TAGS)
            snprintf(t->json, sizeof(t->json), "[\"%s\",\"%s\"]", tag_names[m->a],
                     tag_names[m->b % 8]);
        else if (m->kind == SET_ANNOTATIONS)
            snprintf(t->json, sizeof(t->json), "{\"%s\":\"value %u\"}", note_names[m->a], m->b);
    }
    return texts;
}

static double bare_run(const char *path, const struct mutation *list, const struct statement *texts,
                       size_t count)
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
        bench_prepare(db, "UPDATE ledger_entries SET tags = ?, updated_at = ?, mutation_pos = ? "
                          "WHERE origin = ? AND source_pos = ?");
    sqlite3_stmt *annotations =
        bench_prepare(db, "UPDATE ledger_entries SET annotations = "
                          "json_patch(coalesce(annotations, '{}'), ?), updated_at = ?, "
                          "mutation_pos = ? WHERE origin = ? AND source_pos = ?");
    sqlite3_stmt *trim = bench_prepare(db, TRIM_SQL);
    int64_t start = bench_now_ns();
    double seconds;

    for (size_t i = 0; i < count; i++) {
        const struct mutation *m = &list[i];
        const struct statement *t = &texts[i];
        sqlite3_stmt *stmt;

        if (i % PER_TX == 0)
            bench_step(begin);
        if (m->kind == APPEND) {
            stmt = append;
            sqlite3_bind_text(stmt, 1, t->stream, -1, SQLITE_STATIC);
            sqlite3_bind_blob(stmt, 2, t->payload, BENCH_PAYLOAD_BYTES, SQLITE_STATIC);
            sqlite3_bind_text(stmt, 3, t->order_key, -1, SQLITE_STATIC);
            sqlite3_bind_text(stmt, 4, t->dedup_key, -1, SQLITE_STATIC);
            sqlite3_bind_int(stmt, 5, 1);
            sqlite3_bind_text(stmt, 6, time_text, -1, SQLITE_STATIC);
            sqlite3_bind_int(stmt, 7, 1);
            sqlite3_bind_int64(stmt, 8, m->entry);
        } else if (m->kind == TRIM) {
            stmt = trim;
            sqlite3_bind_text(stmt, 1, t->stream, -1, SQLITE_STATIC);
            sqlite3_bind_int(stmt, 2, 1);
            sqlite3_bind_int64(stmt, 3, m->entry);
        } else {
            stmt = m->kind == SET_TAGS ? tags : annotations;
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

int main(void)
{
    size_t count = bench_scaled(300000, PER_TX);
    char source[BENCH_PATH_MAX], bridged[BENCH_PATH_MAX], bare[BENCH_PATH_MAX];
    double ratios[PAIRS], bridge_times[PAIRS], bare_times[PAIRS];
    struct mutation *list = bench_alloc(count, sizeof(*list));
    ledger_bridge_options options;
    struct bench_progress progress;
    struct statement *texts;

    bench_title("drain-sqlite-mixed",
                "60 % append, 20 % set_tags, 15 % set_annotations, 5 % trim, against the same "
                "statements bare");
    bench_path(source, "source.db");
    bench_path(bridged, "bridged.db");
    bench_path(bare, "bare.db");
    mutations_make(list, count);
    source_make(source, list, count);
    texts = statements_make(list, count);
    ledger_bridge_options_defaults(&options);
    options.batch_size = PER_TX;
    options.backlog_batch_size = PER_TX;

    printf("%-6s %12s %12s %12s %12s %8s\n", "pair", "bridge s", "bare s", "bridge/s", "bare/s",
           "ratio");
    for (int i = 0; i < PAIRS; i++) {
        bench_sink_make(bridged);
        bench_sink_make(bare);
        for (int side = 0; side < 2; side++) {
            bench_settle();
            if ((side ^ i) & 1) {
                bare_times[i] = bare_run(bare, list, texts, count);
            } else {
                bench_bridge_drain(source, bridged, &options, count, &progress, NULL);
                bridge_times[i] = progress.end.seconds;
            }
        }
        bench_same_rows(source, bridged, true);
        bench_same_rows(source, bare, false);
        ratios[i] = bare_times[i] / bridge_times[i];
        printf("%-6d %12.3f %12.3f %12.0f %12.0f %8.3f\n", i + 1, bridge_times[i], bare_times[i],
               (double)count / bridge_times[i], (double)count / bare_times[i], ratios[i]);
        fflush(stdout);
    }
    printf("%-6s %12.3f %12.3f %12.0f %12.0f %8.3f\n", "median", bench_median(bridge_times, PAIRS),
           bench_median(bare_times, PAIRS), (double)count / bench_median(bridge_times, PAIRS),
           (double)count / bench_median(bare_times, PAIRS), bench_median(ratios, PAIRS));
    bench_release(list);
    bench_release(texts);
    printf("drain-sqlite-mixed %.2f 0.9\n", bench_median(ratios, PAIRS));
    return 0;
}
