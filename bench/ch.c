/* See ch.h. */
#include "ch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_PER_LOOK 100000

struct tst_ch *bench_ch_start(bool records)
{
    const char *why;

    if (!tst_ch_here(TST_CH_ENGINE, &why))
        bench_die("%s", why);
    return tst_ch_start(TST_CH_ENGINE, &(struct tst_ch_options){ .record = records });
}

void bench_ch_make(struct tst_ch *ch, char url[BENCH_URL_MAX])
{
    tst_ch_sql(ch, NULL, "DROP DATABASE IF EXISTS bench SYNC");
    snprintf(url, BENCH_URL_MAX, "%s", tst_ch_database(ch, "bench"));
    bench_sink_make(url);
}

/* One text per entry, the same on both sides. */
#define SOURCE_LINE                                                                                \
    "SELECT printf('%019d', id) || char(9) || stream || char(9) || hex(payload) || char(9) || "    \
    "coalesce(order_key, '') || char(9) || coalesce(dedup_key, '') || char(9) || "                 \
    "schema_version || char(9) || json(tags) || char(9) || "                                       \
    "(SELECT json_group_object(key, value) FROM (SELECT key, value "                               \
    "FROM json_each(coalesce(annotations, '{}')) ORDER BY key)) || char(9) || created_at || "      \
    "char(9) || coalesce(updated_at, '') FROM ledger_entries ORDER BY id"
#define MOMENT(column) "substring(replaceOne(toString(" column "), ' ', 'T'), 1, 23)"
#define SINK_LINE                                                                                  \
    "SELECT entry_key, stream, hex(payload), order_key, dedup_key, schema_version, "               \
    "toJSONString(JSONExtract(tags, 'Array(String)')), "                                           \
    "toJSONString(mapSort(JSONExtract(annotations, 'Map(String, String)'))), " MOMENT(             \
        "created_at") ", ifNull(" MOMENT("updated_at") ", '') "                                    \
                                                       "FROM ledger_entries FINAL WHERE "          \
                                                       "is_deleted = 0 AND entry_key > '%s' "      \
                                                       "ORDER BY entry_key LIMIT %d FORMAT TSVRaw"

/* Compares the rows of one answer with what follows at the source; how many there were. */
static size_t compare_lines(sqlite3_stmt *source, char *lines, char last_key[32])
{
    size_t count = 0;

    for (char *line = lines; *line != '\0'; count++) {
        const size_t size = strcspn(line, "\n");
        const char *wanted = sqlite3_step(source) == SQLITE_ROW
                                 ? (const char *)sqlite3_column_text(source, 0)
                                 : "nothing more";

        if (strlen(wanted) != size || memcmp(wanted, line, size) != 0)
            bench_die("wrong data in ClickHouse: it has\n%.*s\nthe source has\n%.2000s",
                      (int)(size < 2000 ? size : 2000), line, wanted);
        snprintf(last_key, 32, "%.*s", (int)strcspn(line, "\t"), line);
        line += size + (line[size] == '\n');
    }
    return count;
}

void bench_ch_same_rows(const struct tst_ch *ch, const char *source_path)
{
    sqlite3 *db = bench_db_open(source_path, 1000);
    sqlite3_stmt *source = bench_prepare(db, SOURCE_LINE);
    char last_key[32] = "";
    size_t count;

    do {
        char *lines = tst_ch_text(ch, "bench", SINK_LINE, last_key, ROWS_PER_LOOK);

        count = compare_lines(source, lines, last_key);
        free(lines);
    } while (count == ROWS_PER_LOOK);
    if (sqlite3_step(source) != SQLITE_DONE)
        bench_die("wrong data in ClickHouse: entries behind %s are missing", last_key);
    sqlite3_finalize(source);
    bench_db_close(db);
}
