/* Findings about a store: what is missing, what will be in the way of a write, what may be lost.
 *
 * Hides nothing; changes nothing. */
#include "backend/sqlite/schema.h"

#include <string.h>

static const char looking[] = "looking at the tables";

/* Each row of a query, given to row(). */
static ledger_rc for_each_row(struct ldg_sqlite *s, const char *text,
                              void (*row)(void *ctx, sqlite3_stmt *stmt), void *ctx,
                              ledger_error *err)
{
    struct ldg_sql q;
    ldg_sql_begin_once(&q, s, looking, text, err);
    while (ldg_sql_row(&q))
        row(ctx, q.stmt);
    return ldg_sql_end(&q);
}

/* A view of a column; "" for NULL. */
static const char *text_at(sqlite3_stmt *stmt, int column)
{
    const char *text = (const char *)sqlite3_column_text(stmt, column);
    return text ? text : "";
}

struct findings {
    struct ldg_sqlite *s;
    ledger_finding_fn fn;
    void *ctx;
};

/* The first column of the only row, as text; "" without one. */
static ledger_rc ask(struct ldg_sqlite *s, const char *text, char out[64], ledger_error *err)
{
    struct ldg_sql q;
    ldg_sql_begin_once(&q, s, looking, text, err);
    sqlite3_snprintf(64, out, "%s", ldg_sql_row(&q) ? text_at(q.stmt, 0) : "");
    return ldg_sql_end(&q);
}

/* Every fault that two connections which write or checkpoint at once can meet is fixed in these. */
static bool has_wal_reset_fix(int version)
{
    return version >= 3051003 || (version >= 3050007 && version < 3051000) ||
           (version >= 3044006 && version < 3045000);
}

static const struct {
    uint32_t has;
    const char *name;
} additions[] = {
    { HAS_SOURCE_ID, "column source_id" },
    { HAS_ORIGIN, "column origin" },
    { HAS_SOURCE_POS, "column source_pos" },
    { HAS_MUTATION_POS, "column mutation_pos" },
    { HAS_TAGS_POS, "column tags_pos" },
    { HAS_ANNOTATIONS_POS, "column annotations_pos" },
    { HAS_IDX_DEDUP, "index idx_%s_dedup" },
    { HAS_IDX_STREAM, "index idx_%s_stream" },
    { HAS_IDX_ORIGIN, "index idx_%s_origin" },
    { HAS_IDX_KEY, "index idx_%s_key" },
    { HAS_CURSORS, "table %s_cursors" },
    { HAS_CURSOR_STATE, "column %s_cursors.state" },
    { HAS_CURSOR_MOVED, "column %s_cursors.moved_at" },
    { HAS_META, "table %s_meta" },
    { HAS_IDENTITY, "row of table %s_meta" },
    { HAS_ORIGINS, "table %s_origins" },
    { HAS_GO_IDS, "column %s_origins.go_ids" },
    { HAS_PARKED, "table %s_parked" },
    { HAS_ENTRY_ID, "column %s_parked.entry_id" },
    { HAS_IDX_PARKED, "index idx_%s_parked_entry" },
    { HAS_IDX_PARKED_KEY, "index idx_%s_parked_key" },
    { HAS_FOREIGN, "table %s_foreign" },
};

static void report_integrity(void *ctx, sqlite3_stmt *stmt)
{
    struct findings *f = ctx;
    const char *text = text_at(stmt, 0);
    if (strcmp(text, "ok") == 0)
        f->fn(f->ctx, LEDGER_FINDING_OK, "integrity", "quick_check found nothing");
    else
        f->fn(f->ctx, LEDGER_FINDING_ERROR, "integrity", text);
}

static void check_tables(struct findings *f, uint32_t has)
{
    struct ldg_sqlite *s = f->s;
    char name[NAME_MAX_BYTES];
    if (!(has & HAS_ENTRY)) {
        f->fn(f->ctx, LEDGER_FINDING_ERROR, s->table,
              "the table is missing; run `ledgerctl store init`");
        return;
    }
    for (size_t i = 0; i < sizeof(additions) / sizeof(additions[0]); i++) {
        sqlite3_snprintf((int)sizeof(name), name, additions[i].name, s->table);
        if (has & additions[i].has)
            f->fn(f->ctx, LEDGER_FINDING_OK, name, "there");
        else
            f->fn(f->ctx, LEDGER_FINDING_ERROR, name,
                  "missing; run `ledgerctl store init` with write permission");
    }
}

static ledger_rc check_autoincrement(struct findings *f, const char *text, const char *table,
                                     ledger_error *err)
{
    char answer[64];
    ledger_rc rc = ask(f->s, text, answer, err);
    if (rc == LEDGER_OK && strcmp(answer, "0") == 0)
        f->fn(f->ctx, LEDGER_FINDING_WARNING, table,
              "its id is not AUTOINCREMENT: the id of a deleted last row is given out again, and a "
              "bridge takes that for a replay");
    return rc;
}

/* SQLite gives the number behind both, the last one given (-1: it has lost that) and the highest
 * row. */
static void judge_ids(struct findings *f, const char *table, int64_t given, int64_t highest)
{
    char help[LDG_SQLITE_HELP_MAX], text[LDG_SQLITE_HELP_MAX + 200];
    const int64_t last = given > highest ? given : highest;

    if (given < 0)
        sqlite3_snprintf((int)sizeof(help), help,
                         "INSERT INTO sqlite_sequence(name, seq) SELECT '%s', max(id) FROM \"%s\"",
                         table, table);
    else
        ldg_sqlite_help_ids(table, help);
    if (given < highest) {
        sqlite3_snprintf(
            (int)sizeof(text), text,
            "sqlite_sequence lies behind its rows (%lld, and the highest id is %lld), "
            "so the id of a deleted last row may be given out again, and a bridge takes "
            "that for a replay: %s",
            given > 0 ? given : 0, highest, help);
        f->fn(f->ctx, LEDGER_FINDING_WARNING, table, text);
    }
    if (last < INT64_MAX / 10 * 9)
        return;
    sqlite3_snprintf((int)sizeof(text), text, "%s (%lld of %lld): %s",
                     last == INT64_MAX ? "it has run out of ids"
                                       : "less than a tenth of its ids is left",
                     last, INT64_MAX, highest == last ? "carry its rows into a new table" : help);
    f->fn(f->ctx, last == INT64_MAX ? LEDGER_FINDING_ERROR : LEDGER_FINDING_WARNING, table, text);
}

/* A row: a table, the last id given, the highest one. */
static void check_ids(void *ctx, sqlite3_stmt *stmt)
{
    judge_ids(ctx, text_at(stmt, 0), sqlite3_column_int64(stmt, 1), sqlite3_column_int64(stmt, 2));
}

/* A row: a table, a trigger of it, and whether it comes after its statement. */
static void report_trigger(void *ctx, sqlite3_stmt *stmt)
{
    struct findings *f = ctx;
    const bool after = sqlite3_column_int(stmt, 2);
    char text[320];

    sqlite3_snprintf((int)sizeof(text), text, "trigger %.128s %s", text_at(stmt, 1),
                     after
                         ? "(AFTER): where it fails, the write is refused"
                         : "may drop or refuse what is written; nothing of a ledger expects that");
    f->fn(f->ctx, after ? LEDGER_FINDING_OK : LEDGER_FINDING_WARNING, text_at(stmt, 0), text);
}

static ledger_rc check_triggers(struct findings *f, ledger_error *err)
{
    /* One that is not told to come after its statement comes before it. */
    static const char pattern[] =
        "SELECT tbl_name, name, instr(upper(sql), ' AFTER ') BETWEEN 1 AND "
        "instr(upper(sql), ' ON ') FROM main.sqlite_master WHERE type = 'trigger' "
        "AND lower(tbl_name) IN (lower('%T'), lower('%T_cursors'), lower('%T_meta'), "
        "lower('%T_origins'), lower('%T_parked'), lower('%T_foreign'), lower('%L')) ORDER BY 1, 2";
    return for_each_row(f->s, pattern, report_trigger, f, err);
}

/* Only an AUTOINCREMENT has a last one given. */
#define IDS_OF(name)                                                                               \
    "SELECT '" name "', coalesce((SELECT max(seq) FROM main.sqlite_sequence WHERE name = '" name   \
    "' COLLATE NOCASE), -1), coalesce((SELECT max(id) FROM main.\"" name "\"), -1) FROM "          \
    "main.sqlite_master WHERE type = 'table' AND name = '" name "' COLLATE NOCASE "                \
    "AND sql LIKE '%AUTOINCREMENT%'"

/* What will meet every write, or may. */
static ledger_rc check_whole(struct findings *f, uint32_t has, ledger_error *err)
{
    char answer[64];
    ledger_rc rc = check_triggers(f, err);

    if (rc == LEDGER_OK)
        rc = ask(f->s, "SELECT count(*) FROM main.sqlite_master WHERE name = 'sqlite_sequence'",
                 answer, err);
    if (rc != LEDGER_OK || strcmp(answer, "0") == 0)
        return rc;
    if (has & HAS_ENTRY)
        rc = for_each_row(f->s, IDS_OF("%T"), check_ids, f, err);
    if (rc == LEDGER_OK && has & HAS_LOG)
        rc = for_each_row(f->s, IDS_OF("%L"), check_ids, f, err);
    if (rc == LEDGER_OK && has & HAS_PARKED)
        rc = for_each_row(f->s, IDS_OF("%T_parked"), check_ids, f, err);
    return rc;
}
#undef IDS_OF

static void check_library(struct findings *f)
{
    const bool safe = has_wal_reset_fix(sqlite3_libversion_number());
    char text[256];
    sqlite3_snprintf((int)sizeof(text), text, "SQLite %s%s", sqlite3_libversion(),
                     safe ? ""
                          : " can damage a WAL database when two connections write or checkpoint "
                            "at once; use 3.51.3, 3.50.7, 3.44.6 or later");
    f->fn(f->ctx, safe ? LEDGER_FINDING_OK : LEDGER_FINDING_WARNING, "library", text);
}

static void check_log_and_identity(struct findings *f, uint32_t has)
{
    char text[LDG_UUID_TEXT_MAX + 24];
    if (has & HAS_LOG)
        f->fn(f->ctx, LEDGER_FINDING_OK, f->s->log_table, "the mutation log is there");
    else
        f->fn(f->ctx, LEDGER_FINDING_WARNING, f->s->log_table,
              "no mutation log: the store can be a sink, but no source");
    if (has & HAS_IDENTITY) {
        sqlite3_snprintf((int)sizeof(text), text, "%s:%lld", f->s->identity.uuid,
                         (long long)f->s->identity.epoch);
        f->fn(f->ctx, LEDGER_FINDING_OK, "identity", text);
    }
}

static ledger_rc check_copy(struct findings *f, ledger_error *err)
{
    char answer[64];
    ledger_rc rc = ask(f->s,
                       "SELECT count(*) FROM main.\"%T_origins\" AS o JOIN main.\"%T_meta\" AS m "
                       "ON m.uuid = o.uuid AND m.epoch = o.epoch",
                       answer, err);
    if (rc == LEDGER_OK && strcmp(answer, "0") != 0)
        f->fn(f->ctx, LEDGER_FINDING_ERROR, "identity",
              "a source of this store has the same one: one is a copy of the other; give the copy "
              "its own with `ledgerctl store init --new-identity`");
    return rc;
}

/* What is there can be ours: is all of it there, and fit for what comes? */
static ledger_rc check_catalog(struct findings *f, uint32_t has, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    check_tables(f, has);
    check_log_and_identity(f, has);
    if (has & HAS_ENTRY)
        rc = check_autoincrement(f,
                                 "SELECT sql LIKE '%AUTOINCREMENT%' FROM main.sqlite_master "
                                 "WHERE type = 'table' AND name = '%T' COLLATE NOCASE",
                                 f->s->table, err);
    if (rc == LEDGER_OK && has & HAS_LOG)
        rc = check_autoincrement(f,
                                 "SELECT sql LIKE '%AUTOINCREMENT%' FROM main.sqlite_master "
                                 "WHERE type = 'table' AND name = '%L' COLLATE NOCASE",
                                 f->s->log_table, err);
    if (rc == LEDGER_OK)
        rc = check_whole(f, has, err);
    if (rc == LEDGER_OK && has & HAS_IDENTITY && has & HAS_ORIGINS)
        rc = check_copy(f, err);
    return rc;
}

static ledger_rc check_cursors(struct findings *f, ledger_error *err)
{
    char answer[64];
    ledger_rc rc =
        ask(f->s, "SELECT count(*) FROM main.\"%T_cursors\" WHERE state = '" LDG_CURSOR_LOST "'",
            answer, err);
    if (rc == LEDGER_OK && strcmp(answer, "0") != 0)
        f->fn(f->ctx, LEDGER_FINDING_WARNING, "cursors",
              "tables were made anew since some of them moved: `ledgerctl bridge cursor reset "
              "--name NAME` carries all of the log again");
    return rc;
}

static ledger_rc check_settings(struct findings *f, ledger_error *err)
{
    char answer[64];
    ledger_rc rc = ask(f->s, "PRAGMA main.journal_mode", answer, err);
    if (rc == LEDGER_OK && strcmp(answer, "wal") == 0)
        f->fn(f->ctx, LEDGER_FINDING_OK, "journal_mode", "wal");
    else if (rc == LEDGER_OK && f->s->path)
        f->fn(f->ctx, LEDGER_FINDING_WARNING, "journal_mode",
              "not wal: readers and writers wait for each other; `PRAGMA journal_mode=WAL` changes "
              "it for good");
    if (rc == LEDGER_OK)
        rc = ask(f->s, "PRAGMA main.synchronous", answer, err);
    if (rc == LEDGER_OK && answer[0] >= '2')
        f->fn(f->ctx, LEDGER_FINDING_OK, "synchronous", "full");
    else if (rc == LEDGER_OK)
        f->fn(f->ctx, LEDGER_FINDING_WARNING, "synchronous",
              "below FULL on this connection: a power loss may take back commits that a bridge has "
              "carried already; it then stops with SOURCE_REWOUND");
    return rc;
}

ledger_rc ldg_sqlite_check(void *ctx, ledger_finding_fn fn, void *fn_ctx, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct findings f = { .s = s, .fn = fn, .ctx = fn_ctx };
    uint32_t has = 0;

    ldg_sqlite_file_check(s, fn, fn_ctx);
    check_library(&f);
    ledger_rc rc = ldg_sqlite_catalog_read(s, true, &has, err);
    if (rc == LEDGER_ERR_SCHEMA || rc == LEDGER_ERR_DATA) {
        fn(fn_ctx, LEDGER_FINDING_ERROR, s->table, err->message);
        rc = LEDGER_OK;
    } else if (rc == LEDGER_OK) {
        rc = check_catalog(&f, has, err);
    }
    if (rc == LEDGER_OK && has & HAS_CURSOR_STATE)
        rc = check_cursors(&f, err);
    if (rc == LEDGER_OK)
        rc = check_settings(&f, err);
    if (rc == LEDGER_OK)
        rc = for_each_row(s, "PRAGMA main.quick_check(10)", report_integrity, &f, err);
    return rc;
}
