/* check(): what an operator should know about a store, its server and its settings.
 *
 * Invariant: only reads, and none that grows with the tables. */
#include "backend/postgres/schema.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct findings {
    struct ldg_pg *pg;
    ledger_finding_fn fn;
    void *ctx;
};

static void tell(const struct findings *f, ledger_severity severity, const char *subject,
                 const char *fmt, ...) LEDGER_PRINTF(4, 5);
static void tell(const struct findings *f, ledger_severity severity, const char *subject,
                 const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    f->fn(f->ctx, severity, subject, text);
}

/* --- tables ---------------------------------------------------------------------------------- */

/* What an end of a bridge refuses at its start. A program that only writes entries works all the
 * same where its ids do not rise. */
static void check_faults(const struct findings *f, const struct ldg_pg_shape *shape, size_t n,
                         const char *name)
{
    char text[400];
    ledger_rc code;
    for (int fault = 0; fault < LDG_PG_FAULT_COUNT; fault++) {
        ledger_severity severity = LEDGER_FINDING_ERROR;
        if (!ldg_pg_find_fault(f->pg, shape, (enum ldg_pg_table)n, (enum ldg_pg_fault)fault, &code,
                               text, sizeof(text)))
            continue;
        if ((fault == LDG_PG_FAULT_SEQUENCE || fault == LDG_PG_FAULT_FED) && n != LDG_PG_LOG)
            severity = LEDGER_FINDING_WARNING;
        tell(f, severity, name, "%s", text);
    }
    if (n == LDG_PG_ENTRIES && (shape->tables[n] & LDG_PG_ROUNDS_TIMES))
        tell(f, LEDGER_FINDING_WARNING, name,
             "its times keep less than microseconds, so `bridge verify` finds them different; "
             "ALTER TABLE \"%s\" ALTER COLUMN … TYPE timestamptz",
             name);
}

static void check_table(const struct findings *f, const struct ldg_pg_shape *shape, size_t n)
{
    char name[80], subject[160];
    ldg_pg_name(f->pg, ldg_pg_tables[n].name, name);
    if (!ldg_pg_has_table(shape, n)) {
        tell(f, LEDGER_FINDING_ERROR, name, "the table is missing; run `ledgerctl store init`");
        return;
    }
    tell(f, LEDGER_FINDING_OK, name, "there");
    check_faults(f, shape, n, name);
    if (n == LDG_PG_ORIGINS)
        return;
    for (const struct ldg_pg_column *c = ldg_pg_tables[n].columns; c->name; c++) {
        if (!c->ddl)
            continue;
        snprintf(subject, sizeof(subject), "%s.%s", name, c->name);
        if (shape->has & c->has)
            tell(f, LEDGER_FINDING_OK, subject, "there");
        else
            tell(f, LEDGER_FINDING_ERROR, subject,
                 "the column is missing; run `ledgerctl store init` as the table's owner (\"%s\")",
                 shape->owners[n]);
    }
}

static void check_indexes(const struct findings *f, const struct ldg_pg_shape *shape)
{
    char name[80];
    for (size_t i = 0; i < LDG_PG_INDEX_COUNT; i++) {
        const enum ldg_pg_table table = ldg_pg_indexes[i].table;
        ldg_pg_name(f->pg, ldg_pg_indexes[i].name, name);
        if (!ldg_pg_has_table(shape, table))
            continue;
        if (shape->has & (uint32_t)LDG_PG_HAS_INDEX << i)
            tell(f, LEDGER_FINDING_OK, name, "there");
        else if (shape->invalid & 1u << i)
            tell(f, LEDGER_FINDING_ERROR, name,
                 "invalid: its building goes on, or was broken off; then `ledgerctl store init` "
                 "makes it anew");
        else if (i != LDG_PG_IDX_FULL_TEXT)
            tell(f, LEDGER_FINDING_ERROR, name,
                 "the index is missing; run `ledgerctl store init` as the table's owner");
    }
}

static void check_log(const struct findings *f, const struct ldg_pg_shape *shape)
{
    const char *log = f->pg->log_table;
    if (!(shape->has & LDG_PG_HAS_LOG)) {
        tell(f, LEDGER_FINDING_WARNING, log,
             "no mutation log: the store can be a sink, but no source");
        return;
    }
    check_table(f, shape, LDG_PG_LOG);
    if ((shape->has & LDG_PG_HAS_TXID) && !(shape->has & LDG_PG_HAS_TXID_DEFAULT))
        tell(f, LEDGER_FINDING_ERROR, log,
             "column txid lacks its default pg_current_xact_id(): a bridge loses rows that are "
             "written now; run `ledgerctl store init`");
    if ((shape->has & LDG_PG_HAS_TXID) && !(shape->has & LDG_PG_HAS_TXID_GUARD))
        tell(f, LEDGER_FINDING_WARNING, log,
             "column txid takes NULL, and a row without a number is not carried; run `ledgerctl "
             "store init`, which adds a constraint for new rows");
    tell(f, LEDGER_FINDING_OK, log, "%s",
         shape->has & LDG_PG_HAS_NOTIFY ? "each write notifies bridges at once; a transaction "
                                          "that writes cannot be prepared (two-phase commit)"
                                        : "bridges find what is written by asking");
}

/* --- what others have made on the tables ------------------------------------------------------ */

/* A trigger's bits: 2 before, 4 insert, 8 delete, 16 update, 32
 * truncate, 64 instead. */
/* clang-format off */
static const char meddlers[] =
    "WITH ours AS (SELECT c.oid, c.relname::text AS name FROM (VALUES ('{t}'), ('{t}_cursors'), "
    "('{t}_meta'), ('{t}_origins'), ('{t}_parked'), ('{t}_foreign'), ('{l}')) AS w(name) "
    "JOIN pg_class AS c ON c.relname = w.name AND pg_table_is_visible(c.oid)) "
    "SELECT o.name, 'trigger ' || t.tgname || ' (' || CASE t.tgtype::int & 66 "
    "WHEN 2 THEN 'BEFORE ' WHEN 64 THEN 'INSTEAD OF ' ELSE 'AFTER ' END || array_to_string(ARRAY["
    "CASE WHEN t.tgtype::int & 4 > 0 THEN 'INSERT' END, "
    "CASE WHEN t.tgtype::int & 16 > 0 THEN 'UPDATE' END, "
    "CASE WHEN t.tgtype::int & 8 > 0 THEN 'DELETE' END], ' OR ') || ')', "
    "t.tgtype::int & 66 > 0 "
    "FROM ours AS o JOIN pg_trigger AS t ON t.tgrelid = o.oid "
    "WHERE NOT t.tgisinternal AND t.tgenabled NOT IN ('D', 'R') AND t.tgtype::int & 28 > 0 "
    "AND NOT (o.name = '{l}' AND t.tgname = '{l}_notify') "
    "UNION ALL SELECT o.name, 'rule ' || w.rulename, true "
    "FROM ours AS o JOIN pg_rewrite AS w ON w.ev_class = o.oid "
    "WHERE w.ev_enabled NOT IN ('D', 'R') ORDER BY 1, 2";
/* clang-format on */

static ledger_rc check_meddlers(const struct findings *f, ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc =
        ldg_pg_run(f->pg, LDG_PG_FRESH, "looking for triggers", meddlers, NULL, &result, err);

    for (int row = 0; rc == LEDGER_OK && row < PQntuples(result); row++) {
        const char *table = ldg_pg_get_text(result, row, 0);
        const char *what = ldg_pg_get_text(result, row, 1);

        if (ldg_pg_get_bool(result, row, 2))
            tell(f, LEDGER_FINDING_WARNING, table,
                 "%s may change, drop or refuse what is written; nothing of a ledger expects that",
                 what);
        else
            tell(f, LEDGER_FINDING_OK, table, "%s: where it fails, the write is refused", what);
    }
    PQclear(result);
    return rc;
}

/* --- ids that are left ------------------------------------------------------------------------ */

struct ids {
    int64_t highest;      /* of the rows; 0: none */
    int64_t drawn, limit; /* the last number given, the last that can be */
};

/* The number that comes next is known to who may read the sequence; else only the last one that
 * was given, if any was. *ret_known false: nothing can be said. */
static ledger_rc ask_ids(const struct findings *f, const char *table, const char *sequence,
                         struct ids *ids, bool *ret_known, ledger_error *err)
{
    /* $1 the sequence, $2 the table, as they are written in a statement */
    static const char may_ask[] =
        "SELECT q.seqmax, has_sequence_privilege(q.seqrelid, 'SELECT'), "
        "has_sequence_privilege(q.seqrelid, 'USAGE') "
        "AND pg_sequence_last_value(q.seqrelid) IS NOT NULL, "
        "has_column_privilege($2::regclass, 'id', 'SELECT') AND q.seqincrement > 0 "
        "FROM pg_sequence AS q WHERE q.seqrelid = $1::regclass";
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    char quoted[84], text[600];
    bool may_read = false, may_use = false;

    *ret_known = false;
    snprintf(quoted, sizeof(quoted), "\"%s\"", table);
    ldg_pg_arg_text(&args, sequence);
    ldg_pg_arg_text(&args, quoted);
    ledger_rc rc =
        ldg_pg_run(f->pg, LDG_PG_FRESH, "looking at a sequence", may_ask, &args, &result, err);
    if (rc == LEDGER_OK && PQntuples(result) == 1 && ldg_pg_get_bool(result, 0, 3)) {
        ids->limit = ldg_pg_get_int64(result, 0, 0);
        may_read = ldg_pg_get_bool(result, 0, 1);
        may_use = ldg_pg_get_bool(result, 0, 2);
    }
    PQclear(result);
    result = NULL;
    if (rc != LEDGER_OK || !(may_read || may_use))
        return rc;
    if (may_read)
        snprintf(text, sizeof(text),
                 "SELECT coalesce((SELECT max(id) FROM %s), 0), "
                 "last_value - (NOT is_called)::int::bigint FROM %s",
                 quoted, sequence);
    else
        snprintf(text, sizeof(text),
                 "SELECT coalesce((SELECT max(id) FROM %s), 0), "
                 "pg_sequence_last_value('%s'::regclass)",
                 quoted, sequence);
    rc = ldg_pg_run_text(f->pg, "looking at a sequence", text, NULL, &result, err);
    if (rc == LEDGER_OK) {
        ids->highest = ldg_pg_get_int64(result, 0, 0);
        ids->drawn = ldg_pg_get_int64(result, 0, 1);
        *ret_known = true;
    }
    PQclear(result);
    return rc;
}

static void judge_ids(const struct findings *f, const char *table, const char *sequence,
                      const struct ids *ids)
{
    const int64_t left = ids->limit - ids->drawn;
    char help[LDG_PG_HELP_MAX];

    if (ids->highest > ids->drawn) {
        ldg_pg_help_behind(sequence, table, help);
        tell(f, LEDGER_FINDING_ERROR, table,
             "sequence %s lies behind its rows (%lld, and the highest id is %lld), so new ones are "
             "refused: %s",
             sequence, (long long)ids->drawn, (long long)ids->highest, help);
    }
    if (left >= ids->limit / 10)
        return;
    if (ids->limit < INT64_MAX)
        ldg_pg_help_exhausted(sequence, help);
    else if (ids->highest < ids->limit / 10 * 9)
        ldg_pg_help_behind(sequence, table, help);
    else
        snprintf(help, sizeof(help), "carry the rows into a new table");
    tell(f, left <= 0 ? LEDGER_FINDING_ERROR : LEDGER_FINDING_WARNING, table,
         "sequence %s %s (%lld of %lld): %s", sequence,
         left <= 0 ? "has run out of ids" : "has less than a tenth of its ids left",
         (long long)ids->drawn, (long long)ids->limit, help);
}

static ledger_rc check_ids(const struct findings *f, const struct ldg_pg_shape *shape, size_t n,
                           ledger_error *err)
{
    const char *sequence = shape->sequences[n].name;
    struct ids ids = { 0 };
    bool known = false;
    char table[80];
    ledger_rc rc = LEDGER_OK;

    ldg_pg_name(f->pg, ldg_pg_tables[n].name, table);
    if (*sequence && !(shape->tables[n] & LDG_PG_ROWS_HIDDEN))
        rc = ask_ids(f, table, sequence, &ids, &known, err);
    if (rc == LEDGER_OK && known)
        judge_ids(f, table, sequence, &ids);
    return rc;
}

/* --- what the role may not do ----------------------------------------------------------------- */

static void check_role(const struct findings *f, const struct ldg_pg_shape *shape)
{
    static const char *const uses[LDG_PG_USE_COUNT] = {
        [LDG_PG_USE_PROGRAM] = "a program that writes entries",
        [LDG_PG_USE_SOURCE] = "a bridge that reads from here",
        [LDG_PG_USE_SINK] = "a bridge that writes here",
    };
    char lacking[400];
    bool all = true;

    for (int use = 0; use < LDG_PG_USE_COUNT; use++) {
        if (use == LDG_PG_USE_SOURCE && !(shape->has & LDG_PG_HAS_LOG))
            continue;
        if (!ldg_pg_lacks_grants(f->pg, shape, (enum ldg_pg_use)use, true, lacking,
                                 sizeof(lacking)))
            continue;
        tell(f, LEDGER_FINDING_WARNING, "role", "for %s \"%s\" lacks a privilege: %s", uses[use],
             shape->role, lacking);
        all = false;
    }
    if (all)
        tell(f, LEDGER_FINDING_OK, "role", "\"%s\" may do what programs and bridges do here",
             shape->role);
}

/* --- rows ------------------------------------------------------------------------------------- */

static ledger_rc count(const struct findings *f, const char *template, int64_t *ret_count,
                       ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc = ldg_pg_run(f->pg, LDG_PG_FRESH, "checking", template, NULL, &result, err);
    if (rc == LEDGER_OK)
        *ret_count = ldg_pg_get_int64(result, 0, 0);
    PQclear(result);
    return rc;
}

static bool may_read(const struct ldg_pg_shape *shape, enum ldg_pg_table table)
{
    return (shape->tables[table] & LDG_PG_MAY_SELECT) != 0;
}

/* Entries of stores that <table>_origins does not know. */
static ledger_rc check_orphans(const struct findings *f, const struct ldg_pg_shape *shape,
                               ledger_error *err)
{
    /* Each step jumps to the next origin in an index: of numbers, of texts. */
#define ORPHANS(of)                                                                                \
    "WITH RECURSIVE o(n) AS (SELECT min(origin) FROM \"{t}\" WHERE " of " "                        \
    "UNION ALL SELECT (SELECT min(origin) FROM \"{t}\" WHERE " of " "                              \
    "AND origin > o.n) FROM o WHERE o.n IS NOT NULL) SELECT count(*) FROM o "                      \
    "WHERE n IS NOT NULL AND NOT EXISTS (SELECT 1 FROM \"{t}_origins\" AS k WHERE k.id = n)"
    static const char orphans[] = ORPHANS("source_pos IS NOT NULL");
    static const char orphans_text[] = ORPHANS(LDG_PG_OF_TEXTS(""));
    int64_t n = 0, texts = 0;
    ledger_rc rc = count(f, orphans, &n, err);

    if (rc == LEDGER_OK && shape->has & (LDG_PG_HAS_INDEX << LDG_PG_IDX_ORIGIN_TEXT))
        rc = count(f, orphans_text, &texts, err);
    if (rc == LEDGER_OK && n + texts)
        tell(f, LEDGER_FINDING_ERROR, f->pg->table,
             "entries of %lld origins that table \"%s_origins\" does not know: its rows were "
             "deleted, or not restored with the rest",
             (long long)n + texts, f->pg->table);
    return rc;
}

static ledger_rc check_log_rows(const struct findings *f, ledger_error *err)
{
    static const char later[] =
        "SELECT count(*) FROM (SELECT 1 FROM \"{l}\" "
        "WHERE txid >= pg_snapshot_xmax(pg_current_snapshot()) LIMIT 1) AS s";
    static const char unnumbered[] =
        "SELECT count(*) FROM (SELECT id FROM \"{l}\" WHERE txid IS NULL ORDER BY txid DESC, id "
        "DESC "
        "LIMIT 1) AS n WHERE EXISTS (SELECT FROM (SELECT txid FROM \"{l}\" AS b WHERE b.id < n.id "
        "ORDER BY b.id DESC LIMIT 1000) AS q WHERE txid IS NOT NULL)";
    int64_t n = 0;
    ledger_rc rc = count(f, later, &n, err);

    if (rc == LEDGER_OK && n)
        tell(f, LEDGER_FINDING_ERROR, f->pg->log_table,
             "it holds transaction numbers that this server has not reached: it was restored "
             "from another one; `ledgerctl bridge cursor acknowledge` lets its bridges go on");
    if (rc == LEDGER_OK)
        rc = count(f, unnumbered, &n, err);
    if (rc == LEDGER_OK && n)
        tell(f, LEDGER_FINDING_ERROR, f->pg->log_table,
             "rows behind ones with a transaction number have none, and a bridge does not carry "
             "them: UPDATE \"%s\" SET txid = DEFAULT for each row with txid NULL that was not "
             "carried",
             f->pg->log_table);
    return rc;
}

static ledger_rc check_rows(const struct findings *f, const struct ldg_pg_shape *shape,
                            ledger_error *err)
{
    static const char copies[] = "SELECT count(*) FROM \"{t}_origins\" AS o JOIN \"{t}_meta\" AS m "
                                 "ON m.uuid = o.uuid AND m.epoch = o.epoch";
    static const char lost[] =
        "SELECT count(*) FROM \"{t}_cursors\" WHERE state = '" LDG_CURSOR_LOST "'";
    const uint32_t with_origins =
        LDG_PG_HAS_ORIGIN | LDG_PG_HAS_SOURCE_POS | (LDG_PG_HAS_INDEX << LDG_PG_IDX_ORIGIN);
    int64_t n = 0;
    ledger_rc rc = LEDGER_OK;

    if ((shape->has & LDG_PG_HAS_IDENTITY) && may_read(shape, LDG_PG_ORIGINS)) {
        tell(f, LEDGER_FINDING_OK, "identity", "%s:%lld", shape->identity.uuid,
             (long long)shape->identity.epoch);
        rc = count(f, copies, &n, err);
        if (rc == LEDGER_OK && n)
            tell(f, LEDGER_FINDING_ERROR, "identity",
                 "a source of this store has the same one: one is a copy of the other; give the "
                 "copy its own with `ledgerctl store init --new-identity`");
    }
    if (rc == LEDGER_OK && (shape->has & LDG_PG_HAS_IDENTITY) &&
        (shape->has & with_origins) == with_origins && may_read(shape, LDG_PG_ENTRIES) &&
        may_read(shape, LDG_PG_ORIGINS))
        rc = check_orphans(f, shape, err);
    if (rc == LEDGER_OK && (shape->has & LDG_PG_HAS_CURSOR_STATE) &&
        may_read(shape, LDG_PG_CURSORS)) {
        rc = count(f, lost, &n, err);
        if (rc == LEDGER_OK && n)
            tell(f, LEDGER_FINDING_WARNING, "cursors",
                 "tables were made anew since %lld of them moved: `ledgerctl bridge cursor reset "
                 "--name NAME` carries all of the log again",
                 (long long)n);
    }
    if (rc == LEDGER_OK && (shape->has & LDG_PG_HAS_LOG) && (shape->has & LDG_PG_HAS_TXID) &&
        may_read(shape, LDG_PG_LOG))
        rc = check_log_rows(f, err);
    return rc;
}

/* --- the server ------------------------------------------------------------------------------ */

static const struct setting {
    const char *name, *wanted;
    ledger_severity severity; /* when it is not what is wanted */
    const char *text;
} settings[] = {
    { "fsync", "on", LEDGER_FINDING_WARNING,
      "a crash of the machine can destroy the database, or take back what bridges have carried" },
    { "full_page_writes", "on", LEDGER_FINDING_WARNING,
      "a crash of the machine can damage tables (unless the file system writes whole pages)" },
    { "synchronous_commit", NULL, LEDGER_FINDING_WARNING,
      "a crash of the server takes back commits of the last moments; a bridge that has carried "
      "them stops with SOURCE_REWOUND" },
    { "zero_damaged_pages", "off", LEDGER_FINDING_WARNING, "damaged rows vanish without an error" },
    { "default_transaction_read_only", "off", LEDGER_FINDING_WARNING,
      "other programs cannot write with this role and database by default" },
    { "default_transaction_isolation", "read committed", LEDGER_FINDING_WARNING,
      "appends of the same dedup key at once can fail as serialization failures, and have to be "
      "tried again" },
    { "statement_timeout", "0", LEDGER_FINDING_WARNING,
      "long statements of other programs of this role and database are broken off" },
    { "transaction_timeout", "0", LEDGER_FINDING_WARNING,
      "long transactions of other programs of this role and database are broken off" },
};

/* The values that sessions get, not the ones that this connection has set for itself. */
static const char settings_query[] =
    "SELECT s.name, CASE WHEN s.source = 'session' THEN s.reset_val ELSE s.setting END, "
    "coalesce(s.unit, '') FROM pg_settings AS s WHERE s.name = ANY ($1)";

static void judge(const struct findings *f, const char *name, const char *value, const char *unit)
{
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        const struct setting *s = &settings[i];
        if (strcmp(s->name, name) != 0)
            continue;
        const bool fine = s->wanted ? strcmp(value, s->wanted) == 0 : strcmp(value, "off") != 0;
        tell(f, fine ? LEDGER_FINDING_OK : s->severity, name, "%s%s%s%s", value,
             strcmp(value, "0") != 0 ? unit : "", fine ? "" : ": ", fine ? "" : s->text);
    }
    if (strcmp(name, "max_prepared_transactions") == 0)
        tell(f, LEDGER_FINDING_OK, name, "%s%s", value,
             strcmp(value, "0") == 0 ? ": no two-phase commits"
                                     : ": one that is forgotten holds its own events back");
}

static ledger_rc check_settings(const struct findings *f, ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    struct ldg_buf names;
    PGresult *result = NULL;
    size_t n = 0;
    ledger_rc rc;
    ldg_buf_init(&names, 4096);
    ldg_pg_array_begin(&names, LDG_PG_TEXT);
    for (; n < sizeof(settings) / sizeof(settings[0]); n++)
        ldg_pg_array_text(&names, settings[n].name);
    ldg_pg_array_text(&names, "max_prepared_transactions");
    ldg_pg_array_end(&names, n + 1);
    if (names.rc != LEDGER_OK) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    ldg_pg_arg_array(&args, LDG_PG_TEXT_ARRAY, &names);
    rc = ldg_pg_run(f->pg, LDG_PG_FRESH, "looking at the settings", settings_query, &args, &result,
                    err);
    for (int row = 0; rc == LEDGER_OK && row < PQntuples(result); row++)
        judge(f, ldg_pg_get_text(result, row, 0), ldg_pg_get_text(result, row, 1),
              ldg_pg_get_text(result, row, 2));
out:
    PQclear(result);
    ldg_buf_fini(&names);
    return rc;
}

static ledger_rc check_server(const struct findings *f, ledger_error *err)
{
    struct ldg_pg *pg = f->pg;
    PGresult *result = NULL;
    ledger_rc rc =
        ldg_pg_run(pg, LDG_PG_FRESH, "checking",
                   "SELECT pg_is_in_recovery(), (SELECT count(*) FROM pg_prepared_xacts "
                   "WHERE database = current_database() AND prepared < now() - interval '1 hour'), "
                   "(SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                   "AND xact_start < now() - interval '1 hour')",
                   NULL, &result, err);
    if (rc == LEDGER_OK) {
        tell(f, LEDGER_FINDING_OK, "server", "PostgreSQL %d.%d%s", pg->server_version / 10000,
             pg->server_version % 10000, ldg_pg_get_bool(result, 0, 0) ? ", a standby" : "");
        if (pg->pooled)
            tell(f, LEDGER_FINDING_OK, "pooler",
                 "there is one between, in which a session may change with each transaction: no "
                 "prepared statements, no LISTEN");
        if (ldg_pg_get_int64(result, 0, 1))
            tell(f, LEDGER_FINDING_WARNING, "prepared transactions",
                 "%lld are older than an hour: their events wait, and VACUUM cannot clean up; see "
                 "pg_prepared_xacts",
                 (long long)ldg_pg_get_int64(result, 0, 1));
        if (ldg_pg_get_int64(result, 0, 2))
            tell(f, LEDGER_FINDING_WARNING, "transactions",
                 "%lld are open for more than an hour: their events wait, and VACUUM cannot clean "
                 "up; see pg_stat_activity",
                 (long long)ldg_pg_get_int64(result, 0, 2));
        if (!pg->system_id[0])
            tell(f, LEDGER_FINDING_WARNING, "cluster",
                 "role may not call pg_control_system(): a dump that was restored in another "
                 "cluster is noticed only by what its log holds; GRANT EXECUTE ON FUNCTION "
                 "pg_control_system() TO it");
    }
    PQclear(result);
    return rc;
}

/* Then the server refuses to count. */
static bool sees_part(const struct ldg_pg_shape *shape)
{
    bool part = false;
    for (size_t n = 0; n < LDG_PG_TABLE_COUNT; n++)
        part = part || (shape->tables[n] & LDG_PG_ROWS_HIDDEN);
    return part;
}

ledger_rc ldg_pg_check(void *ctx, ledger_finding_fn fn, void *fn_ctx, ledger_error *err)
{
    struct ldg_pg *pg = ctx;
    const struct findings f = { .pg = pg, .fn = fn, .ctx = fn_ctx };
    struct ldg_pg_shape shape;

    ledger_rc rc = ldg_pg_enter(pg, err);
    if (rc == LEDGER_OK)
        rc = check_server(&f, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_catalog_read(pg, true, &shape, err);
    if (rc == LEDGER_ERR_SCHEMA || rc == LEDGER_ERR_DATA) {
        tell(&f, LEDGER_FINDING_ERROR, pg->table, "%s", err->message);
        rc = LEDGER_OK;
    } else if (rc == LEDGER_OK) {
        for (size_t n = 0; n < LDG_PG_LOG; n++)
            check_table(&f, &shape, n);
        check_log(&f, &shape);
        check_indexes(&f, &shape);
        check_role(&f, &shape);
        rc = check_meddlers(&f, err);
        for (size_t n = 0; rc == LEDGER_OK && n < LDG_PG_TABLE_COUNT; n++)
            rc = check_ids(&f, &shape, n, err);
        if (rc == LEDGER_OK && !sees_part(&shape))
            rc = check_rows(&f, &shape, err);
    }
    if (rc == LEDGER_OK)
        rc = check_settings(&f, err);
    return rc;
}
