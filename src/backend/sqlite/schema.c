/* The tables: their shape, their making and mending, and check().
 *
 * Hides which of our additions a table already has. Invariants: nothing that is there is changed or
 * dropped, so the Go module goes on working on the same tables; whatever is missing is added in one
 * transaction, after a second look under the write lock, so that any number of programs may open
 * one database at once. */
#include "backend/sqlite/sql.h"
#include "backend/sqlite/sqlite.h"

#include <string.h>

/* --- the shape of the tables ----------------------------------------------------------------- */

enum {
    HAS_ENTRY = 1 << 0,
    HAS_SOURCE_ID = 1 << 1,
    HAS_ORIGIN = 1 << 2,
    HAS_SOURCE_POS = 1 << 3,
    HAS_MUTATION_POS = 1 << 4,
    HAS_IDX_DEDUP = 1 << 5,
    HAS_IDX_STREAM = 1 << 6,
    HAS_IDX_ORIGIN = 1 << 7,
    HAS_CURSORS = 1 << 8,
    HAS_CURSOR_STATE = 1 << 9,
    HAS_CURSOR_MOVED = 1 << 10,
    HAS_META = 1 << 11,
    HAS_IDENTITY = 1 << 12,
    HAS_ORIGINS = 1 << 13,
    HAS_PARKED = 1 << 14,
    HAS_IDX_PARKED = 1 << 15,
    HAS_FOREIGN = 1 << 16,
    HAS_TAGS_POS = 1 << 17,
    HAS_ANNOTATIONS_POS = 1 << 18,
    HAS_GO_IDS = 1 << 19,
    HAS_LOG = 1 << 20,
    HAS_ALL_BUT_LOG = (1 << 20) - 1,
    HAS_TO_READ =
        HAS_ALL_BUT_LOG & ~(HAS_FOREIGN | HAS_TAGS_POS | HAS_ANNOTATIONS_POS | HAS_GO_IDS),
};

static const struct column {
    const char *name;
    uint32_t has;    /* set when it is there */
    const char *ddl; /* NULL: a table without it has another shape */
} entry_columns[] = {
    { "id", 0, NULL },
    { "stream", 0, NULL },
    { "payload", 0, NULL },
    { "order_key", 0, NULL },
    { "dedup_key", 0, NULL },
    { "schema_version", 0, NULL },
    { "metadata", 0, NULL },
    { "tags", 0, NULL },
    { "annotations", 0, NULL },
    { "created_at", 0, NULL },
    { "updated_at", 0, NULL },
    { "source_id", HAS_SOURCE_ID, "source_id TEXT NOT NULL DEFAULT ''" },
    { "origin", HAS_ORIGIN, "origin INTEGER NOT NULL DEFAULT 0" },
    { "source_pos", HAS_SOURCE_POS, "source_pos INTEGER" },
    { "mutation_pos", HAS_MUTATION_POS, "mutation_pos INTEGER" },
    { "tags_pos", HAS_TAGS_POS, "tags_pos INTEGER" },
    { "annotations_pos", HAS_ANNOTATIONS_POS, "annotations_pos INTEGER" },
    { NULL, 0, NULL },
};
static const struct column log_columns[] = {
    { "id", 0, NULL },         { "stream", 0, NULL },         { "payload", 0, NULL },
    { "created_at", 0, NULL }, { "schema_version", 0, NULL }, { NULL, 0, NULL },
};
static const struct column cursor_columns[] = {
    { "name", 0, NULL },
    { "cursor", 0, NULL },
    { "state", HAS_CURSOR_STATE, "state TEXT NOT NULL DEFAULT ''" },
    { "moved_at", HAS_CURSOR_MOVED, "moved_at TEXT" },
    { NULL, 0, NULL },
};
static const struct column meta_columns[] = {
    { "id", 0, NULL },         { "uuid", 0, NULL }, { "epoch", 0, NULL },
    { "created_at", 0, NULL }, { NULL, 0, NULL },
};
static const struct column origins_columns[] = {
    { "id", 0, NULL },
    { "uuid", 0, NULL },
    { "epoch", 0, NULL },
    { "name", 0, NULL },
    { "adopted", 0, NULL },
    { "ordered", 0, NULL },
    { "go_ids", HAS_GO_IDS, "go_ids INTEGER NOT NULL DEFAULT 0" },
    { NULL, 0, NULL },
};
static const struct column parked_columns[] = {
    { "id", 0, NULL },           { "source_uuid", 0, NULL },  { "origin", 0, NULL },
    { "log_position", 0, NULL }, { "entry", 0, NULL },        { "stream", 0, NULL },
    { "type", 0, NULL },         { "reason", 0, NULL },       { "attempts", 0, NULL },
    { "parked_at", 0, NULL },    { "attempted_at", 0, NULL }, { "event_time", 0, NULL },
    { "event", 0, NULL },        { NULL, 0, NULL },
};
static const struct column foreign_columns[] = {
    { "origin", 0, NULL }, { "entry", 0, NULL },    { "mutation_origin", 0, NULL },
    { "kind", 0, NULL },   { "position", 0, NULL }, { "id", 0, NULL },
    { NULL, 0, NULL },
};

static const struct table {
    const char *suffix;
    uint32_t has;
    const struct column *columns;
    const char *ddl; /* all %s: table name */
} tables[] = {
    { "", HAS_ENTRY, entry_columns, NULL },
    { "_cursors", HAS_CURSORS, cursor_columns,
      "CREATE TABLE main.\"%T_cursors\" (name TEXT NOT NULL PRIMARY KEY, cursor TEXT NOT NULL, "
      "state TEXT NOT NULL DEFAULT '', moved_at TEXT)" },
    { "_meta", HAS_META, meta_columns,
      "CREATE TABLE main.\"%T_meta\" (id INTEGER PRIMARY KEY CHECK (id = 1), uuid TEXT NOT NULL, "
      "epoch INTEGER NOT NULL, created_at TEXT NOT NULL)" },
    { "_origins", HAS_ORIGINS, origins_columns,
      "CREATE TABLE main.\"%T_origins\" (id INTEGER PRIMARY KEY, uuid TEXT NOT NULL, "
      "epoch INTEGER NOT NULL, name TEXT NOT NULL DEFAULT '', adopted INTEGER NOT NULL DEFAULT 0, "
      "ordered INTEGER NOT NULL DEFAULT 1, go_ids INTEGER NOT NULL DEFAULT 0, "
      "UNIQUE (uuid, epoch))" },
    { "_parked", HAS_PARKED, parked_columns,
      "CREATE TABLE main.\"%T_parked\" (id INTEGER PRIMARY KEY AUTOINCREMENT, "
      "source_uuid TEXT NOT NULL, origin INTEGER NOT NULL, log_position INTEGER NOT NULL, "
      "entry INTEGER NOT NULL DEFAULT 0, stream TEXT NOT NULL, type TEXT NOT NULL, "
      "reason TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 1, parked_at TEXT NOT NULL, "
      "attempted_at TEXT, event_time TEXT, event BLOB, "
      "UNIQUE (source_uuid, log_position, entry))" },
    /* last positions of changes that were made in another store than their entry */
    { "_foreign", HAS_FOREIGN, foreign_columns,
      "CREATE TABLE main.\"%T_foreign\" (origin INTEGER NOT NULL, entry INTEGER NOT NULL, "
      "mutation_origin INTEGER NOT NULL, kind INTEGER NOT NULL, position INTEGER NOT NULL, "
      "id INTEGER NOT NULL, PRIMARY KEY (origin, entry, mutation_origin, kind)) WITHOUT ROWID" },
};
#define TABLE_COUNT (sizeof(tables) / sizeof(tables[0]))

/* Same column names, types and text forms as the Go module's; ours come last. */
#define ENTRY_DDL                                                                                  \
    "(id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, payload BLOB NOT NULL, "         \
    "order_key TEXT NOT NULL DEFAULT '', dedup_key TEXT NOT NULL DEFAULT '', "                     \
    "schema_version INTEGER NOT NULL DEFAULT 1, metadata TEXT, tags TEXT NOT NULL DEFAULT '[]', "  \
    "annotations TEXT, source_id TEXT NOT NULL DEFAULT '', "                                       \
    "created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f','now')), updated_at TEXT"
#define ENTRY_DDL_OURS                                                                             \
    ", origin INTEGER NOT NULL DEFAULT 0, source_pos INTEGER, mutation_pos INTEGER, "              \
    "tags_pos INTEGER, annotations_pos INTEGER"

static const struct index {
    const char *name;   /* idx_<table>_<name> */
    const char *suffix; /* of its table */
    uint32_t has;
    bool unique, partial;
    const char *columns[2];
    const char *ddl;
    /* clang-format off */
} indexes[] = {
    { "dedup", "", HAS_IDX_DEDUP, true, true, { "stream", "dedup_key" },
      "CREATE UNIQUE INDEX main.\"idx_%T_dedup\" ON \"%T\"(stream, dedup_key) "
      "WHERE dedup_key != ''" },
    { "stream", "", HAS_IDX_STREAM, false, false, { "stream", NULL },
      "CREATE INDEX main.\"idx_%T_stream\" ON \"%T\"(stream)" },
    { "origin", "", HAS_IDX_ORIGIN, true, true, { "origin", "source_pos" },
      "CREATE UNIQUE INDEX main.\"idx_%T_origin\" ON \"%T\"(origin, source_pos) "
      "WHERE source_pos IS NOT NULL" },
    { "parked_entry", "_parked", HAS_IDX_PARKED, false, false, { "origin", "entry" },
      "CREATE INDEX main.\"idx_%T_parked_entry\" ON \"%T_parked\"(origin, entry)" },
};
/* clang-format on */
#define INDEX_COUNT (sizeof(indexes) / sizeof(indexes[0]))

#define NAME_MAX_BYTES 128

static const char *file_of(const struct ldg_sqlite *s)
{
    return s->path ? s->path : "the database";
}

static ledger_rc fail_shape(const struct ldg_sqlite *s, const char *table, const char *what,
                            ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_SCHEMA,
                    "%s: table \"%s\" %s; it is no ledger table: choose another name with --table",
                    file_of(s), table, what);
}

static sqlite3_stmt *prepare(struct ldg_sqlite *s, const char *sql, ledger_error *err)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(s->db, sql, -1, &stmt, NULL);
    if (rc != SQLITE_OK)
        ldg_sqlite_fail(s, rc, "looking at the tables", err);
    return rc == SQLITE_OK ? stmt : NULL;
}

static ledger_rc end_of_rows(struct ldg_sqlite *s, int rc, ledger_error *err)
{
    return rc == SQLITE_DONE || rc == SQLITE_ROW
               ? LEDGER_OK
               : ldg_sqlite_fail(s, rc, "looking at the tables", err);
}

/* Is there such a table? A view or an index of that name is an error. */
static ledger_rc look_for_table(struct ldg_sqlite *s, const char *name, bool *ret_found,
                                ledger_error *err)
{
    bool found = false;
    ledger_rc result = LEDGER_OK;
    sqlite3_stmt *stmt = prepare(s,
                                 "SELECT type, sql FROM main.sqlite_master "
                                 "WHERE name = ?1 COLLATE NOCASE",
                                 err);
    if (!stmt)
        return err->code;
    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        const char *type = (const char *)sqlite3_column_text(stmt, 0);
        const char *sql = (const char *)sqlite3_column_text(stmt, 1);
        char what[64];
        sqlite3_snprintf((int)sizeof(what), what, "is a %s", type ? type : "thing");
        if (!type)
            result = ldg_fail_nomem(err);
        else if (strcmp(type, "table") != 0)
            result = fail_shape(s, name, what, err);
        else if (sql && sqlite3_strnicmp(sql, "CREATE VIRTUAL", 14) == 0)
            result = fail_shape(s, name, "is a virtual table", err);
        else
            found = true;
    } else {
        result = end_of_rows(s, rc, err);
    }
    sqlite3_finalize(stmt);
    if (result == LEDGER_OK)
        *ret_found = found;
    return result;
}

/* Columns whose texts are compared with one another: a name, a key, an identity. */
static bool is_compared(const char *column)
{
    static const char *const names[] = { "stream", "order_key", "dedup_key",   "source_id", "name",
                                         "cursor", "state",     "source_uuid", "uuid" };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (sqlite3_stricmp(column, names[i]) == 0)
            return true;
    }
    return false;
}

/* Does a column of this declared type keep a text as it is? By the rules of SQLite, in their order;
 * a number's type makes 7 of '007'. */
static bool keeps_texts(const char *type)
{
    static const char *const texts[] = { "%CHAR%", "%CLOB%", "%TEXT%", "%BLOB%" };
    bool keeps = *type == '\0' || sqlite3_stricmp(type, "ANY") == 0;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        keeps = keeps || sqlite3_strlike(texts[i], type, 0) == 0;
    return keeps && sqlite3_strlike("%INT%", type, 0) != 0;
}

static ledger_rc fail_collation(const struct ldg_sqlite *s, const char *kind, const char *name,
                                const char *of, const char *collation, ledger_error *err)
{
    return ldg_fail(
        err, LEDGER_ERR_SCHEMA,
        "%s: %s \"%s\"%s%s has the collation %s, which takes different texts for equal, "
        "where a ledger compares bytes (BINARY)",
        file_of(s), kind, name, *of ? " of table " : "", of, collation);
}

/* A column of ours whose texts are compared. */
static ledger_rc look_at_texts(struct ldg_sqlite *s, const char *table, const char *column,
                               const char *type, ledger_error *err)
{
    const char *collation = NULL;
    char what[NAME_MAX_BYTES * 2];
    int rc;
    if (!keeps_texts(type)) {
        sqlite3_snprintf((int)sizeof(what), what,
                         "has a column \"%s\" of type %s, which changes texts, where a ledger has "
                         "TEXT",
                         column, type);
        return fail_shape(s, table, what, err);
    }
    rc = sqlite3_table_column_metadata(s->db, "main", table, column, NULL, &collation, NULL, NULL,
                                       NULL);
    if (rc != SQLITE_OK)
        return ldg_sqlite_fail(s, rc, "looking at the tables", err);
    return collation && sqlite3_stricmp(collation, "BINARY") != 0
               ? fail_collation(s, "column", column, table, collation, err)
               : LEDGER_OK;
}

/* Looks for the columns; one without DDL that is missing is an error. */
static ledger_rc look_at_columns(struct ldg_sqlite *s, const char *name,
                                 const struct column *columns, bool check_id, uint32_t *has,
                                 ledger_error *err)
{
    uint64_t seen = 0;
    char what[2 * NAME_MAX_BYTES], extra[NAME_MAX_BYTES] = "";
    bool id_is_key = false;
    int key_columns = 0, rc;
    ledger_rc result = LEDGER_OK;
    sqlite3_stmt *stmt =
        prepare(s,
                "SELECT name, type, pk, \"notnull\" AND dflt_value IS NULL AND hidden = 0 "
                "FROM pragma_table_xinfo(?1, 'main')",
                err);
    if (!stmt)
        return err->code;
    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *column = (const char *)sqlite3_column_text(stmt, 0);
        const char *type = (const char *)sqlite3_column_text(stmt, 1);
        bool key = sqlite3_column_int(stmt, 2) > 0;
        if (!column || !type) {
            rc = SQLITE_NOMEM;
            break;
        }
        key_columns += key;
        bool ours = false;
        if (key && sqlite3_stricmp(column, "id") == 0 && sqlite3_stricmp(type, "INTEGER") == 0)
            id_is_key = true;
        for (size_t i = 0; columns[i].name; i++) {
            if (sqlite3_stricmp(column, columns[i].name) == 0) {
                seen |= (uint64_t)1 << i;
                *has |= columns[i].has;
                ours = true;
                if (result == LEDGER_OK && is_compared(column))
                    result = look_at_texts(s, name, column, type, err);
            }
        }
        if (!ours && sqlite3_column_int(stmt, 3) && !extra[0])
            sqlite3_snprintf((int)sizeof(extra), extra, "%s", column);
    }
    if (result == LEDGER_OK)
        result = end_of_rows(s, rc, err);
    sqlite3_finalize(stmt);
    if (result == LEDGER_OK && extra[0]) {
        sqlite3_snprintf((int)sizeof(what), what,
                         "has a column \"%s\" that has to be filled, which no ledger does", extra);
        result = fail_shape(s, name, what, err);
    }
    for (size_t i = 0; result == LEDGER_OK && columns[i].name; i++) {
        if (!columns[i].ddl && !(seen & (uint64_t)1 << i)) {
            sqlite3_snprintf((int)sizeof(what), what, "has no column \"%s\"", columns[i].name);
            result = fail_shape(s, name, what, err);
        }
    }
    if (result == LEDGER_OK && check_id && !(id_is_key && key_columns == 1))
        result = fail_shape(s, name, "has a column \"id\" that is not INTEGER PRIMARY KEY", err);
    return result;
}

/* An index of that name on another table, as of one that was renamed, keeps ours from being made.
 */
static ledger_rc look_elsewhere(struct ldg_sqlite *s, const char *name, const char *table,
                                ledger_error *err)
{
    ledger_rc result;
    sqlite3_stmt *stmt = prepare(s,
                                 "SELECT tbl_name FROM main.sqlite_master WHERE type = 'index' "
                                 "AND name = ?1 COLLATE NOCASE AND tbl_name != ?2 COLLATE NOCASE",
                                 err);
    if (!stmt)
        return err->code;
    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, table, -1, SQLITE_STATIC);
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        result =
            ldg_fail(err, LEDGER_ERR_SCHEMA,
                     "%s: index \"%s\", which table \"%s\" needs, belongs to table \"%s\"; drop "
                     "it (`DROP INDEX \"%s\"`), and run `ledgerctl store init`",
                     file_of(s), name, table, (const char *)sqlite3_column_text(stmt, 0), name);
    else
        result = end_of_rows(s, rc, err);
    sqlite3_finalize(stmt);
    return result;
}

/* Is the index there and of use to us? One of that name over other columns is an error. */
static ledger_rc look_at_index(struct ldg_sqlite *s, const struct index *index, uint32_t *has,
                               ledger_error *err)
{
    char name[NAME_MAX_BYTES], table[NAME_MAX_BYTES];
    bool found = false, same = true, binary = true;
    int column = 0, rc;
    sqlite3_snprintf((int)sizeof(name), name, "idx_%s_%s", s->table, index->name);
    sqlite3_snprintf((int)sizeof(table), table, "%s%s", s->table, index->suffix);
    sqlite3_stmt *stmt =
        prepare(s,
                "SELECT l.\"unique\", l.partial, i.name, i.coll = 'BINARY' COLLATE NOCASE "
                "FROM pragma_index_list(?1, 'main') AS l "
                "JOIN pragma_index_xinfo(l.name, 'main') AS i WHERE l.name = ?2 COLLATE NOCASE "
                "AND i.key ORDER BY i.seqno",
                err);
    if (!stmt)
        return err->code;
    sqlite3_bind_text(stmt, 1, table, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, name, -1, SQLITE_STATIC);
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(stmt, 2);
        const char *want = column < 2 ? index->columns[column] : NULL;
        found = true;
        binary = binary && sqlite3_column_int(stmt, 3);
        column++;
        same = same && sqlite3_column_int(stmt, 0) == index->unique &&
               sqlite3_column_int(stmt, 1) == index->partial && text && want &&
               sqlite3_stricmp(text, want) == 0;
    }
    ledger_rc result = end_of_rows(s, rc, err);
    sqlite3_finalize(stmt);
    if (result == LEDGER_OK && found && !binary)
        result =
            ldg_fail(err, LEDGER_ERR_SCHEMA,
                     "%s: index \"%s\" has a collation that takes different texts for equal, "
                     "where a ledger compares bytes (BINARY); drop it, and run `ledgerctl store "
                     "init`",
                     file_of(s), name);
    if (result == LEDGER_OK && found && (!same || (column < 2 && index->columns[column])))
        result = ldg_fail(err, LEDGER_ERR_SCHEMA,
                          "%s: index \"%s\" is not the one a ledger needs; drop it, and run "
                          "`ledgerctl store init`",
                          file_of(s), name);
    if (result == LEDGER_OK && found)
        *has |= index->has;
    return result == LEDGER_OK && !found ? look_elsewhere(s, name, table, err) : result;
}

static ledger_rc read_identity(struct ldg_sqlite *s, uint32_t *has, ledger_error *err)
{
    ledger_rc result = LEDGER_OK;
    char *sql = ldg_sql_expand(s, "SELECT uuid, epoch FROM main.\"%T_meta\" WHERE id = 1");
    sqlite3_stmt *stmt = NULL;
    if (!sql)
        return ldg_fail_nomem(err);
    stmt = prepare(s, sql, err);
    sqlite3_free(sql);
    if (!stmt)
        return err->code;
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        const char *uuid = (const char *)sqlite3_column_text(stmt, 0);
        size_t size = uuid ? strlen(uuid) : 0;
        if (size == 0 || size >= sizeof(s->identity.uuid)) {
            result = uuid || sqlite3_column_type(stmt, 0) == SQLITE_NULL
                         ? ldg_fail(err, LEDGER_ERR_DATA,
                                    "%s: table \"%s_meta\" holds no valid uuid; write one, or run "
                                    "`ledgerctl store init` with a new identity",
                                    file_of(s), s->table)
                         : ldg_fail_nomem(err);
        } else {
            memcpy(s->identity.uuid, uuid, size + 1);
            s->identity.epoch = sqlite3_column_int64(stmt, 1);
            *has |= HAS_IDENTITY;
        }
    } else {
        result = end_of_rows(s, rc, err);
    }
    sqlite3_finalize(stmt);
    return result;
}

/* Finds out what is there. Errors: SCHEMA for what is there but cannot be ours. */
static ledger_rc look(struct ldg_sqlite *s, bool want_log, uint32_t *ret_has, ledger_error *err)
{
    uint32_t has = 0;
    bool found = false;
    char name[NAME_MAX_BYTES];
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < TABLE_COUNT; i++) {
        sqlite3_snprintf((int)sizeof(name), name, "%s%s", s->table, tables[i].suffix);
        rc = look_for_table(s, name, &found, err);
        if (rc == LEDGER_OK && found) {
            has |= tables[i].has;
            rc = look_at_columns(s, name, tables[i].columns, tables[i].has == HAS_ENTRY, &has, err);
        }
    }
    for (size_t i = 0; rc == LEDGER_OK && i < INDEX_COUNT; i++)
        rc = look_at_index(s, &indexes[i], &has, err);
    if (rc == LEDGER_OK && has & HAS_META)
        rc = read_identity(s, &has, err);
    if (rc == LEDGER_OK && want_log) {
        rc = look_for_table(s, s->log_table, &found, err);
        if (rc == LEDGER_OK && found) {
            has |= HAS_LOG;
            rc = look_at_columns(s, s->log_table, log_columns, true, &has, err);
        }
    }
    if (rc == LEDGER_OK)
        *ret_has = has;
    return rc;
}

static ledger_rc fail_missing_table(const struct ldg_sqlite *s, ledger_error *err)
{
    bool plain = strcmp(s->table, LEDGER_DEFAULT_TABLE) == 0;
    return ldg_fail(err, LEDGER_ERR_SCHEMA,
                    "%s has no table \"%s\"; `ledgerctl store init --store sqlite:%s%s%s` makes it",
                    file_of(s), s->table, s->path ? s->path : "PATH", plain ? "" : " --table ",
                    plain ? "" : s->table);
}

ledger_rc ldg_sqlite_schema_look(struct ldg_sqlite *s, ledger_error *err)
{
    uint32_t has = 0;
    ledger_rc rc = look(s, s->has_log, &has, err);
    if (rc == LEDGER_OK && !(has & HAS_ENTRY))
        rc = fail_missing_table(s, err);
    else if (rc == LEDGER_OK &&
             (((has & HAS_ALL_BUT_LOG) != HAS_ALL_BUT_LOG) || (s->has_log && !(has & HAS_LOG))))
        rc = ldg_fail(err, LEDGER_ERR_SCHEMA,
                      "%s: the tables of \"%s\" lack what they had when the store was opened; run "
                      "`ledgerctl store init`",
                      file_of(s), s->table);
    return rc;
}

/* --- making and mending ---------------------------------------------------------------------- */

static ledger_rc run_ddl(struct ldg_sqlite *s, const char *text, ledger_error *err)
{
    char *sql = ldg_sql_expand(s, text);
    if (!sql)
        return ldg_fail_nomem(err);
    int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    ledger_rc result =
        rc == SQLITE_OK ? LEDGER_OK : ldg_sqlite_fail(s, rc, "making the tables", err);
    /* Only a unique index over rows that are there already can be refused. */
    if (result == LEDGER_ERR_REJECTED)
        result = ldg_fail_native(err, LEDGER_ERR_SCHEMA, "sqlite", rc,
                                 "%s: table \"%s\" has two entries with the same key, where a "
                                 "ledger has one: %s",
                                 file_of(s), s->table, sqlite3_errmsg(s->db));
    sqlite3_free(sql);
    return result;
}

static ledger_rc add_columns(struct ldg_sqlite *s, const struct table *table, uint32_t has,
                             ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    for (const struct column *c = table->columns; rc == LEDGER_OK && c->name; c++) {
        if (c->ddl && !(has & c->has))
            rc = ldg_sqlite_exec(s, "adding a column", err,
                                 "ALTER TABLE main.\"%s%s\" ADD COLUMN %s", s->table, table->suffix,
                                 c->ddl);
    }
    return rc;
}

static ledger_rc write_identity(struct ldg_sqlite *s, ledger_error *err)
{
    struct ldg_identity identity = { .epoch = 1 };
    char now[LDG_TIME_TEXT_MAX];
    ldg_uuid_new(identity.uuid);
    ldg_time_format_ms(ldg_clock_now_us(), now);
    ledger_rc rc = ldg_sqlite_exec(s, "writing the identity", err,
                                   "INSERT INTO main.\"%s_meta\"(id, uuid, epoch, created_at) "
                                   "VALUES (1, '%s', 1, '%s') ON CONFLICT (id) DO UPDATE SET "
                                   "uuid = excluded.uuid, epoch = 1, "
                                   "created_at = excluded.created_at",
                                   s->table, identity.uuid, now);
    if (rc == LEDGER_OK)
        s->identity = identity;
    return rc;
}

/* Each row of a query, given to row(). */
static ledger_rc for_each_row(struct ldg_sqlite *s, const char *pattern,
                              void (*row)(void *ctx, sqlite3_stmt *stmt), void *ctx,
                              ledger_error *err)
{
    char *sql = ldg_sql_expand(s, pattern);
    ledger_rc result = LEDGER_OK;
    int rc;
    if (!sql)
        return ldg_fail_nomem(err);
    sqlite3_stmt *stmt = prepare(s, sql, err);
    sqlite3_free(sql);
    if (!stmt)
        return err->code;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
        row(ctx, stmt);
    result = end_of_rows(s, rc, err);
    sqlite3_finalize(stmt);
    return result;
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
    char text[64]; /* the last one: copied, for later */
};

static void keep_text(void *ctx, sqlite3_stmt *stmt)
{
    struct findings *f = ctx;
    sqlite3_snprintf((int)sizeof(f->text), f->text, "%s", text_at(stmt, 0));
}

/* Something of a store is gone that its cursors, which are still there, rely on. */
static ledger_rc note_lost(struct ldg_sqlite *s, uint32_t has, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    struct findings f = { .s = s };

    if (has & HAS_ENTRY && has & HAS_ORIGIN && !(has & HAS_ORIGINS)) {
        rc = for_each_row(s, "SELECT EXISTS (SELECT 1 FROM main.\"%T\" WHERE origin > 0)",
                          keep_text, &f, err);
        if (rc == LEDGER_OK && strcmp(f.text, "0") != 0)
            rc = ldg_schema_fail_origins(file_of(s), s->table, err);
    }
    if (rc == LEDGER_OK && has & HAS_CURSORS && !(has & HAS_ENTRY))
        rc = run_ddl(s,
                     "UPDATE main.\"%T_cursors\" SET state = '" LDG_CURSOR_LOST "' "
                     "WHERE state != '' OR cursor != ''",
                     err);
    else if (rc == LEDGER_OK && has & HAS_CURSOR_STATE && !(has & HAS_PARKED))
        rc = run_ddl(s,
                     "UPDATE main.\"%T_cursors\" SET state = '" LDG_CURSOR_LOST "' "
                     "WHERE state != ''",
                     err);
    return rc;
}

/* Adds what is missing. Inside the transaction. */
static ledger_rc make_missing(struct ldg_sqlite *s, uint32_t has, bool make_log, bool new_identity,
                              ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < TABLE_COUNT; i++) {
        if (has & tables[i].has)
            rc = add_columns(s, &tables[i], has, err);
        else if (tables[i].ddl)
            rc = run_ddl(s, tables[i].ddl, err);
        else
            rc = run_ddl(s, "CREATE TABLE main.\"%T\" " ENTRY_DDL ENTRY_DDL_OURS ")", err);
    }
    for (size_t i = 0; rc == LEDGER_OK && i < INDEX_COUNT; i++) {
        if (!(has & indexes[i].has))
            rc = run_ddl(s, indexes[i].ddl, err);
    }
    if (rc == LEDGER_OK)
        rc = note_lost(s, has, err);
    if (rc == LEDGER_OK && (new_identity || !(has & HAS_IDENTITY)))
        rc = write_identity(s, err);
    if (rc == LEDGER_OK && make_log && !(has & HAS_LOG))
        rc = run_ddl(s, "CREATE TABLE main.\"%L\" " ENTRY_DDL ")", err);
    return rc;
}

/* Second look under the write lock, then whatever is missing, in one transaction. */
static ledger_rc mend(struct ldg_sqlite *s, const struct ldg_open *open, bool create, bool want_log,
                      uint32_t *ret_has, ledger_error *err)
{
    uint32_t has = 0;
    bool new_identity = create && open->flags & LEDGER_STORE_NEW_IDENTITY;
    ledger_rc rc = ldg_sqlite_exec(s, "waiting for the write lock", err, "BEGIN IMMEDIATE");
    if (rc != LEDGER_OK)
        return rc;
    rc = look(s, want_log, &has, err);
    if (rc == LEDGER_OK && !(has & HAS_ENTRY) && !create)
        rc = fail_missing_table(s, err);
    if (rc == LEDGER_OK)
        rc = make_missing(s, has, want_log && create, new_identity, err);
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_exec(s, "committing", err, "COMMIT");
    if (rc != LEDGER_OK) {
        ldg_sqlite_rollback(s);
        return rc;
    }
    *ret_has = HAS_ALL_BUT_LOG | (want_log && create ? HAS_LOG : has & HAS_LOG);
    return LEDGER_OK;
}

static ledger_rc read_version(struct ldg_sqlite *s, int64_t *ret_version, ledger_error *err)
{
    sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_SCHEMA_VERSION, err);
    if (!stmt)
        return err->code;
    int step = sqlite3_step(stmt);
    if (step == SQLITE_ROW)
        *ret_version = sqlite3_column_int64(stmt, 0);
    ledger_rc rc = end_of_rows(s, step, err);
    sqlite3_reset(stmt);
    return rc;
}

ledger_rc ldg_sqlite_schema_open(struct ldg_sqlite *s, const struct ldg_open *open,
                                 ledger_error *err)
{
    uint32_t has = 0;
    const bool read_only = open->flags & LEDGER_STORE_READ_ONLY;
    const bool create = open->flags & LEDGER_STORE_CREATE && !read_only;
    const bool want_log = open->log != LEDGER_MUTATION_LOG_OFF;
    const bool new_identity = create && open->flags & LEDGER_STORE_NEW_IDENTITY;
    const bool in_transaction = !sqlite3_get_autocommit(s->db);
    ledger_rc rc = LEDGER_OK;

    if (strcmp(s->table, s->log_table) == 0)
        return ldg_fail(err, LEDGER_ERR_INVALID, "table and log table are both \"%s\"", s->table);
    rc = look(s, want_log, &has, err);
    if (rc != LEDGER_OK)
        return rc;
    if (!(has & HAS_ENTRY) && !create)
        return fail_missing_table(s, err);

    uint32_t need = HAS_ALL_BUT_LOG | (create && want_log ? HAS_LOG : 0);
    if ((has & need) != need || new_identity) {
        ledger_error local = { 0 };
        if (read_only || sqlite3_db_readonly(s->db, "main") == 1)
            rc = LEDGER_ERR_PERMISSION;
        else if (in_transaction)
            rc = LEDGER_ERR_INVALID; /* its owner's transaction: it may not want new tables */
        else
            rc = mend(s, open, create, want_log, &has, &local);
        if (rc == LEDGER_ERR_PERMISSION && create)
            return local.code ? (*err = local, rc)
                              : ldg_fail(err, rc,
                                         "%s cannot be written; open it with write "
                                         "permission to make its tables",
                                         file_of(s));
        if (rc == LEDGER_ERR_INVALID && create)
            return ldg_fail(err, rc,
                            "tables of \"%s\" are missing and cannot be made inside the "
                            "caller's transaction; open the store before it",
                            s->table);
        if (rc != LEDGER_OK && rc != LEDGER_ERR_PERMISSION && !(rc == LEDGER_ERR_INVALID)) {
            *err = local;
            return rc;
        }
        /* What Go made can be read as it is. */
    }

    rc = read_version(s, &s->schema_version, err);
    if (rc != LEDGER_OK)
        return rc;
    s->has_source_id = has & HAS_SOURCE_ID;
    s->has_ours = (has & HAS_TO_READ) == HAS_TO_READ;
    s->has_log = has & HAS_LOG;
    if (open->log == LEDGER_MUTATION_LOG_ON && !s->has_log)
        return ldg_fail(err, LEDGER_ERR_SCHEMA,
                        "%s has no log table \"%s\"; `ledgerctl store init --store sqlite:%s "
                        "--table %s` makes it",
                        file_of(s), s->log_table, s->path ? s->path : "PATH", s->table);
    if (s->has_ours) {
        sqlite3_stmt *stmt = ldg_sqlite_stmt(s, LDG_STMT_HAS_ORIGINS, err);
        if (!stmt)
            return err->code;
        int step = sqlite3_step(stmt);
        s->has_origins = step == SQLITE_ROW && sqlite3_column_int(stmt, 0);
        rc = end_of_rows(s, step, err);
        sqlite3_reset(stmt);
        return rc;
    }
    return LEDGER_OK;
}

/* --- while it is open ------------------------------------------------------------------------ */

/* Another program has changed some table since the last look? Then ours may be others. Inside the
 * transaction of a write, which has locked the file. */
ledger_rc ldg_sqlite_schema_watch(struct ldg_sqlite *s, ledger_error *err)
{
    const struct ldg_identity identity = s->identity;
    int64_t version = 0;
    uint32_t has = 0;
    ledger_rc rc = read_version(s, &version, err);
    if (rc != LEDGER_OK || version == s->schema_version)
        return rc;
    rc = look(s, s->has_log, &has, err);
    s->identity = identity; /* who this handle is was settled when it was opened */
    if (rc == LEDGER_OK && !(has & HAS_ENTRY))
        rc = fail_missing_table(s, err);
    if (rc == LEDGER_OK)
        s->schema_version = version;
    return rc;
}

/* --- check ----------------------------------------------------------------------------------- */

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
    { HAS_CURSORS, "table %s_cursors" },
    { HAS_CURSOR_STATE, "column %s_cursors.state" },
    { HAS_CURSOR_MOVED, "column %s_cursors.moved_at" },
    { HAS_META, "table %s_meta" },
    { HAS_IDENTITY, "row of table %s_meta" },
    { HAS_ORIGINS, "table %s_origins" },
    { HAS_GO_IDS, "column %s_origins.go_ids" },
    { HAS_PARKED, "table %s_parked" },
    { HAS_IDX_PARKED, "index idx_%s_parked_entry" },
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

static ledger_rc check_autoincrement(struct findings *f, const char *pattern, const char *table,
                                     ledger_error *err)
{
    f->text[0] = '\0';
    ledger_rc rc = for_each_row(f->s, pattern, keep_text, f, err);
    if (rc == LEDGER_OK && strcmp(f->text, "0") == 0)
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

static ledger_rc check_meddlers(struct findings *f, ledger_error *err)
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
    ledger_rc rc = check_meddlers(f, err);

    if (rc == LEDGER_OK)
        rc = for_each_row(f->s,
                          "SELECT count(*) FROM main.sqlite_master WHERE name = 'sqlite_sequence'",
                          keep_text, f, err);
    if (rc != LEDGER_OK || strcmp(f->text, "0") == 0)
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

ledger_rc ldg_sqlite_check(void *ctx, ledger_finding_fn fn, void *fn_ctx, ledger_error *err)
{
    struct ldg_sqlite *s = ctx;
    struct findings f = { .s = s, .fn = fn, .ctx = fn_ctx };
    char text[256];
    uint32_t has = 0;
    ledger_rc rc = LEDGER_OK;

    ldg_sqlite_file_check(s, fn, fn_ctx);
    sqlite3_snprintf((int)sizeof(text), text, "SQLite %s%s", sqlite3_libversion(),
                     has_wal_reset_fix(sqlite3_libversion_number())
                         ? ""
                         : " can damage a WAL database when two connections write or checkpoint at "
                           "once; use 3.51.3, 3.50.7, 3.44.6 or later");
    fn(fn_ctx,
       has_wal_reset_fix(sqlite3_libversion_number()) ? LEDGER_FINDING_OK : LEDGER_FINDING_WARNING,
       "library", text);

    rc = look(s, true, &has, err);
    if (rc == LEDGER_ERR_SCHEMA || rc == LEDGER_ERR_DATA) {
        fn(fn_ctx, LEDGER_FINDING_ERROR, s->table, err->message);
        rc = LEDGER_OK;
    } else if (rc == LEDGER_OK) {
        check_tables(&f, has);
        if (has & HAS_LOG)
            fn(fn_ctx, LEDGER_FINDING_OK, s->log_table, "the mutation log is there");
        else
            fn(fn_ctx, LEDGER_FINDING_WARNING, s->log_table,
               "no mutation log: the store can be a sink, but no source");
        if (has & HAS_IDENTITY) {
            sqlite3_snprintf((int)sizeof(text), text, "%s:%lld", s->identity.uuid,
                             (long long)s->identity.epoch);
            fn(fn_ctx, LEDGER_FINDING_OK, "identity", text);
        }
        if (has & HAS_ENTRY)
            rc = check_autoincrement(&f,
                                     "SELECT sql LIKE '%AUTOINCREMENT%' FROM main.sqlite_master "
                                     "WHERE type = 'table' AND name = '%T' COLLATE NOCASE",
                                     s->table, err);
        if (rc == LEDGER_OK && has & HAS_LOG)
            rc = check_autoincrement(&f,
                                     "SELECT sql LIKE '%AUTOINCREMENT%' FROM main.sqlite_master "
                                     "WHERE type = 'table' AND name = '%L' COLLATE NOCASE",
                                     s->log_table, err);
        if (rc == LEDGER_OK)
            rc = check_whole(&f, has, err);
        if (rc == LEDGER_OK && has & HAS_IDENTITY && has & HAS_ORIGINS) {
            f.text[0] = '\0';
            rc = for_each_row(s,
                              "SELECT count(*) FROM main.\"%T_origins\" AS o JOIN main.\"%T_meta\" "
                              "AS m ON m.uuid = o.uuid AND m.epoch = o.epoch",
                              keep_text, &f, err);
            if (rc == LEDGER_OK && strcmp(f.text, "0") != 0)
                fn(fn_ctx, LEDGER_FINDING_ERROR, "identity",
                   "a source of this store has the same one: one is a copy of the other; give the "
                   "copy its own with `ledgerctl store init --new-identity`");
        }
    }
    if (rc == LEDGER_OK && has & HAS_CURSOR_STATE) {
        f.text[0] = '\0';
        rc = for_each_row(s,
                          "SELECT CASE WHEN count(*) > 0 THEN count(*) END FROM "
                          "main.\"%T_cursors\" WHERE state = '" LDG_CURSOR_LOST "'",
                          keep_text, &f, err);
        if (rc == LEDGER_OK && f.text[0] != '\0')
            fn(fn_ctx, LEDGER_FINDING_WARNING, "cursors",
               "tables were made anew since some of them moved: `ledgerctl bridge cursor reset "
               "--name NAME` carries all of the log again");
    }
    if (rc == LEDGER_OK) {
        rc = for_each_row(s, "PRAGMA main.journal_mode", keep_text, &f, err);
        if (rc == LEDGER_OK && strcmp(f.text, "wal") == 0)
            fn(fn_ctx, LEDGER_FINDING_OK, "journal_mode", "wal");
        else if (rc == LEDGER_OK && s->path)
            fn(fn_ctx, LEDGER_FINDING_WARNING, "journal_mode",
               "not wal: readers and writers wait for each other; `PRAGMA journal_mode=WAL` "
               "changes it for good");
    }
    if (rc == LEDGER_OK) {
        rc = for_each_row(s, "PRAGMA main.synchronous", keep_text, &f, err);
        if (rc == LEDGER_OK && f.text[0] >= '2')
            fn(fn_ctx, LEDGER_FINDING_OK, "synchronous", "full");
        else if (rc == LEDGER_OK)
            fn(fn_ctx, LEDGER_FINDING_WARNING, "synchronous",
               "below FULL on this connection: a power loss may take back commits that a bridge "
               "has carried already; it then stops with SOURCE_REWOUND");
    }
    if (rc == LEDGER_OK)
        rc = for_each_row(s, "PRAGMA main.quick_check(10)", report_integrity, &f, err);
    return rc;
}
