/* The tables: their shape, their making and mending.
 *
 * Hides which of our additions a table already has. Invariants: nothing that is there is changed or
 * dropped, so the Go module goes on working on the same tables; whatever is missing is added in one
 * transaction, after a second look under the write lock, so that any number of programs may open
 * one database at once. */
#include "backend/sqlite/schema.h"

#include <string.h>

/* --- the shape of the tables ----------------------------------------------------------------- */

/* One by its definition, which begins with its name. A table without a column whose `has` is 0 has
 * another shape; the others are added, and set that bit when they are there. */
struct column {
    const char *definition;
    uint32_t has;
};

/* Same column names, types and text forms as the Go module's; ours come last. */
/* clang-format off */
static const struct column entry_columns[] = {
    { "id INTEGER PRIMARY KEY AUTOINCREMENT", 0 },
    { "stream TEXT NOT NULL", 0 },
    { "payload BLOB NOT NULL", 0 },
    { "order_key TEXT NOT NULL DEFAULT ''", 0 },
    { "dedup_key TEXT NOT NULL DEFAULT ''", 0 },
    { "schema_version INTEGER NOT NULL DEFAULT 1", 0 },
    { "metadata TEXT", 0 },
    { "tags TEXT NOT NULL DEFAULT '[]'", 0 },
    { "annotations TEXT", 0 },
    { "source_id TEXT NOT NULL DEFAULT ''", HAS_SOURCE_ID },
    { "created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f','now'))", 0 },
    { "updated_at TEXT", 0 },
#define GO_COLUMNS 12
    { "origin INTEGER NOT NULL DEFAULT 0", HAS_ORIGIN },
    { "source_pos INTEGER", HAS_SOURCE_POS },
    { "mutation_pos INTEGER", HAS_MUTATION_POS },
    { "tags_pos INTEGER", HAS_TAGS_POS },
    { "annotations_pos INTEGER", HAS_ANNOTATIONS_POS },
};
static const struct column log_columns[] = { /* that are used */
    { "id", 0 }, { "stream", 0 }, { "payload", 0 }, { "created_at", 0 }, { "schema_version", 0 },
};
static const struct column cursor_columns[] = {
    { "name TEXT NOT NULL PRIMARY KEY", 0 },
    { "cursor TEXT NOT NULL", 0 },
    { "state TEXT NOT NULL DEFAULT ''", HAS_CURSOR_STATE },
    { "moved_at TEXT", HAS_CURSOR_MOVED },
};
static const struct column meta_columns[] = {
    { "id INTEGER PRIMARY KEY CHECK (id = 1)", 0 },
    { "uuid TEXT NOT NULL", 0 },
    { "epoch INTEGER NOT NULL", 0 },
    { "created_at TEXT NOT NULL", 0 },
};
static const struct column origins_columns[] = {
    { "id INTEGER PRIMARY KEY", 0 },
    { "uuid TEXT NOT NULL", 0 },
    { "epoch INTEGER NOT NULL", 0 },
    { "name TEXT NOT NULL DEFAULT ''", 0 },
    { "adopted INTEGER NOT NULL DEFAULT 0", 0 },
    { "ordered INTEGER NOT NULL DEFAULT 1", 0 },
    { "go_ids INTEGER NOT NULL DEFAULT 0", HAS_GO_IDS },
};
static const struct column parked_columns[] = {
    { "id INTEGER PRIMARY KEY AUTOINCREMENT", 0 },
    { "source_uuid TEXT NOT NULL", 0 },
    { "origin INTEGER NOT NULL", 0 },
    { "log_position INTEGER NOT NULL", 0 },
    { "entry INTEGER NOT NULL DEFAULT 0", 0 },
    { "stream TEXT NOT NULL", 0 },
    { "type TEXT NOT NULL", 0 },
    { "reason TEXT NOT NULL", 0 },
    { "attempts INTEGER NOT NULL DEFAULT 1", 0 },
    { "parked_at TEXT NOT NULL", 0 },
    { "attempted_at TEXT", 0 },
    { "event_time TEXT", 0 },
    { "event BLOB", 0 },
    { "entry_id TEXT NOT NULL DEFAULT ''", HAS_ENTRY_ID },
};
static const struct column foreign_columns[] = {
    { "origin INTEGER NOT NULL", 0 },
    { "entry INTEGER NOT NULL", 0 },
    { "mutation_origin INTEGER NOT NULL", 0 },
    { "kind INTEGER NOT NULL", 0 },
    { "position INTEGER NOT NULL", 0 },
    { "id INTEGER NOT NULL", 0 },
};

#define COLUMNS(list) list, sizeof(list) / sizeof(list[0])
static const struct table {
    const char *suffix;
    uint32_t has;
    const struct column *columns;
    size_t count;
    const char *tail; /* of its definition: behind the columns */
} tables[] = {
    { "", HAS_ENTRY, COLUMNS(entry_columns), ")" },
    { "_cursors", HAS_CURSORS, COLUMNS(cursor_columns), ")" },
    { "_meta", HAS_META, COLUMNS(meta_columns), ")" },
    { "_origins", HAS_ORIGINS, COLUMNS(origins_columns), ", UNIQUE (uuid, epoch))" },
    { "_parked", HAS_PARKED, COLUMNS(parked_columns),
      ", UNIQUE (source_uuid, log_position, entry))" },
    /* last positions of changes that were made in another store than their entry */
    { "_foreign", HAS_FOREIGN, COLUMNS(foreign_columns),
      ", PRIMARY KEY (origin, entry, mutation_origin, kind)) WITHOUT ROWID" },
};
/* clang-format on */
#define TABLE_COUNT (sizeof(tables) / sizeof(tables[0]))

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
    { "key", "", HAS_IDX_KEY, true, true, { "origin", "source_id" },
      "CREATE UNIQUE INDEX main.\"idx_%T_key\" ON \"%T\"(origin, source_id) "
      "WHERE origin != 0 AND source_pos IS NULL" },
    { "parked_entry", "_parked", HAS_IDX_PARKED, false, false, { "origin", "entry" },
      "CREATE INDEX main.\"idx_%T_parked_entry\" ON \"%T_parked\"(origin, entry)" },
    { "parked_key", "_parked", HAS_IDX_PARKED_KEY, false, true, { "origin", "entry_id" },
      "CREATE INDEX main.\"idx_%T_parked_key\" ON \"%T_parked\"(origin, entry_id) "
      "WHERE entry_id != ''" },
};
/* clang-format on */
#define INDEX_COUNT (sizeof(indexes) / sizeof(indexes[0]))

static const char looking[] = "looking at the tables";

static ledger_rc fail_shape(const struct ldg_sqlite *s, const char *table, const char *what,
                            ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_SCHEMA,
                    "%s: table \"%s\" %s; it is no ledger table: choose another name with --table",
                    ldg_sqlite_file_name(s), table, what);
}

/* Its first word. */
static const char *name_of(const struct column *column, char name[NAME_MAX_BYTES])
{
    const char *definition = column->definition;
    sqlite3_snprintf(NAME_MAX_BYTES, name, "%.*s", (int)strcspn(definition, " "), definition);
    return name;
}

/* Is there such a table? A view or an index of that name is an error. */
static ledger_rc find_table(struct ldg_sqlite *s, const char *name, bool *ret_found,
                            ledger_error *err)
{
    struct ldg_sql q;
    char what[64];
    ldg_sql_begin_once(&q, s, looking,
                       "SELECT type, sql FROM main.sqlite_master WHERE name = ?1 COLLATE NOCASE",
                       err);
    ldg_sql_text(&q, name);
    *ret_found = ldg_sql_row(&q);
    if (*ret_found) {
        const char *type = (const char *)sqlite3_column_text(q.stmt, 0);
        const char *sql = (const char *)sqlite3_column_text(q.stmt, 1);
        sqlite3_snprintf((int)sizeof(what), what, "is a %s", type ? type : "thing");
        if (!type)
            q.rc = ldg_fail_nomem(err);
        else if (strcmp(type, "table") != 0)
            q.rc = fail_shape(s, name, what, err);
        else if (sql && sqlite3_strnicmp(sql, "CREATE VIRTUAL", 14) == 0)
            q.rc = fail_shape(s, name, "is a virtual table", err);
    }
    return ldg_sql_end(&q);
}

/* Columns whose texts are compared with one another: a name, a key, an identity. */
static bool is_compared(const char *column)
{
    static const char *const names[] = { "stream", "order_key", "dedup_key", "source_id",
                                         "name",   "cursor",    "state",     "source_uuid",
                                         "uuid",   "entry_id" };
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
        ldg_sqlite_file_name(s), kind, name, *of ? " of table " : "", of, collation);
}

/* A column of ours whose texts are compared. */
static ledger_rc check_texts(struct ldg_sqlite *s, const char *table, const char *column,
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

/* What was found of a table's columns. */
struct columns_found {
    uint64_t seen;              /* by their place among the wanted ones */
    char extra[NAME_MAX_BYTES]; /* one that is none of ours, and has to be filled */
    bool id_is_key;
    int key_count;
};

/* A row: name, type, place in the key, has to be filled. */
static ledger_rc note_column(struct ldg_sqlite *s, const char *table, sqlite3_stmt *stmt,
                             const struct column *columns, size_t count,
                             struct columns_found *found, uint32_t *has, ledger_error *err)
{
    char wanted[NAME_MAX_BYTES];
    const char *name = (const char *)sqlite3_column_text(stmt, 0);
    const char *type = (const char *)sqlite3_column_text(stmt, 1);
    const bool key = sqlite3_column_int(stmt, 2) > 0;
    size_t i = 0;

    if (!name || !type)
        return ldg_fail_nomem(err);
    found->key_count += key;
    if (key && sqlite3_stricmp(name, "id") == 0 && sqlite3_stricmp(type, "INTEGER") == 0)
        found->id_is_key = true;
    while (i < count && sqlite3_stricmp(name, name_of(&columns[i], wanted)) != 0)
        i++;
    if (i < count) {
        found->seen |= (uint64_t)1 << i;
        *has |= columns[i].has;
        return is_compared(name) ? check_texts(s, table, name, type, err) : LEDGER_OK;
    }
    if (sqlite3_column_int(stmt, 3) && !found->extra[0])
        sqlite3_snprintf((int)sizeof(found->extra), found->extra, "%s", name);
    return LEDGER_OK;
}

/* Looks for the columns; one that is missing and cannot be added is an error. */
static ledger_rc check_columns(struct ldg_sqlite *s, const char *name, const struct column *columns,
                               size_t count, bool check_id, uint32_t *has, ledger_error *err)
{
    struct columns_found found = { 0 };
    char what[2 * NAME_MAX_BYTES], column[NAME_MAX_BYTES];
    struct ldg_sql q;
    ldg_sql_begin_once(&q, s, looking,
                       "SELECT name, type, pk, \"notnull\" AND dflt_value IS NULL AND hidden = 0 "
                       "FROM pragma_table_xinfo(?1, 'main')",
                       err);
    ldg_sql_text(&q, name);
    while (ldg_sql_row(&q))
        q.rc = note_column(s, name, q.stmt, columns, count, &found, has, err);
    ledger_rc rc = ldg_sql_end(&q);
    if (rc == LEDGER_OK && found.extra[0]) {
        sqlite3_snprintf((int)sizeof(what), what,
                         "has a column \"%s\" that has to be filled, which no ledger does",
                         found.extra);
        rc = fail_shape(s, name, what, err);
    }
    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        if (!columns[i].has && !(found.seen & (uint64_t)1 << i)) {
            sqlite3_snprintf((int)sizeof(what), what, "has no column \"%s\"",
                             name_of(&columns[i], column));
            rc = fail_shape(s, name, what, err);
        }
    }
    if (rc == LEDGER_OK && check_id && !(found.id_is_key && found.key_count == 1))
        rc = fail_shape(s, name, "has a column \"id\" that is not INTEGER PRIMARY KEY", err);
    return rc;
}

/* An index of that name on another table, as of one that was renamed, keeps ours from being made.
 */
static ledger_rc check_index_is_free(struct ldg_sqlite *s, const char *name, const char *table,
                                     ledger_error *err)
{
    struct ldg_sql q;
    ldg_sql_begin_once(&q, s, looking,
                       "SELECT tbl_name FROM main.sqlite_master WHERE type = 'index' "
                       "AND name = ?1 COLLATE NOCASE AND tbl_name != ?2 COLLATE NOCASE",
                       err);
    ldg_sql_text(&q, name);
    ldg_sql_text(&q, table);
    if (ldg_sql_row(&q))
        q.rc = ldg_fail(err, LEDGER_ERR_SCHEMA,
                        "%s: index \"%s\", which table \"%s\" needs, belongs to table \"%s\"; drop "
                        "it (`DROP INDEX \"%s\"`), and run `ledgerctl store init`",
                        ldg_sqlite_file_name(s), name, table,
                        (const char *)sqlite3_column_text(q.stmt, 0), name);
    return ldg_sql_end(&q);
}

/* Is the index there and of use to us? One of that name over other columns is an error. */
static ledger_rc check_index(struct ldg_sqlite *s, const struct index *index, uint32_t *has,
                             ledger_error *err)
{
    char name[NAME_MAX_BYTES], table[NAME_MAX_BYTES];
    bool same = true, binary = true;
    int columns = 0;
    struct ldg_sql q;
    sqlite3_snprintf((int)sizeof(name), name, "idx_%s_%s", s->table, index->name);
    sqlite3_snprintf((int)sizeof(table), table, "%s%s", s->table, index->suffix);
    ldg_sql_begin_once(&q, s, looking,
                       "SELECT l.\"unique\", l.partial, i.name, i.coll = 'BINARY' COLLATE NOCASE "
                       "FROM pragma_index_list(?1, 'main') AS l "
                       "JOIN pragma_index_xinfo(l.name, 'main') AS i "
                       "WHERE l.name = ?2 COLLATE NOCASE AND i.key ORDER BY i.seqno",
                       err);
    ldg_sql_text(&q, table);
    ldg_sql_text(&q, name);
    for (; ldg_sql_row(&q); columns++) {
        const char *column = (const char *)sqlite3_column_text(q.stmt, 2);
        const char *want = columns < 2 ? index->columns[columns] : NULL;
        binary = binary && sqlite3_column_int(q.stmt, 3);
        same = same && sqlite3_column_int(q.stmt, 0) == index->unique &&
               sqlite3_column_int(q.stmt, 1) == index->partial && column && want &&
               sqlite3_stricmp(column, want) == 0;
    }
    ledger_rc rc = ldg_sql_end(&q);
    if (rc != LEDGER_OK)
        return rc;
    if (columns == 0)
        return check_index_is_free(s, name, table, err);
    if (!binary)
        return ldg_fail(err, LEDGER_ERR_SCHEMA,
                        "%s: index \"%s\" has a collation that takes different texts for equal, "
                        "where a ledger compares bytes (BINARY); drop it, and run `ledgerctl store "
                        "init`",
                        ldg_sqlite_file_name(s), name);
    if (!same || (columns < 2 && index->columns[columns]))
        return ldg_fail(err, LEDGER_ERR_SCHEMA,
                        "%s: index \"%s\" is not the one a ledger needs; drop it, and run "
                        "`ledgerctl store init`",
                        ldg_sqlite_file_name(s), name);
    *has |= index->has;
    return LEDGER_OK;
}

static ledger_rc read_identity(struct ldg_sqlite *s, uint32_t *has, ledger_error *err)
{
    struct ldg_sql q;
    ldg_sql_begin_once(&q, s, looking, "SELECT uuid, epoch FROM main.\"%T_meta\" WHERE id = 1",
                       err);
    if (ldg_sql_row(&q)) {
        const char *uuid = (const char *)sqlite3_column_text(q.stmt, 0);
        size_t size = uuid ? strlen(uuid) : 0;
        if (size > 0 && size < sizeof(s->identity.uuid)) {
            memcpy(s->identity.uuid, uuid, size + 1);
            s->identity.epoch = sqlite3_column_int64(q.stmt, 1);
            *has |= HAS_IDENTITY;
        } else if (!uuid && sqlite3_column_type(q.stmt, 0) != SQLITE_NULL) {
            q.rc = ldg_fail_nomem(err);
        } else {
            q.rc = ldg_fail(err, LEDGER_ERR_DATA,
                            "%s: table \"%s_meta\" holds no valid uuid; write one, or run "
                            "`ledgerctl store init` with a new identity",
                            ldg_sqlite_file_name(s), s->table);
        }
    }
    return ldg_sql_end(&q);
}

/* Finds out what is there. Errors: SCHEMA for what is there but cannot be ours. */
ledger_rc ldg_sqlite_catalog_read(struct ldg_sqlite *s, bool want_log, uint32_t *ret_has,
                                  ledger_error *err)
{
    uint32_t has = 0;
    bool found = false;
    char name[NAME_MAX_BYTES];
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < TABLE_COUNT; i++) {
        sqlite3_snprintf((int)sizeof(name), name, "%s%s", s->table, tables[i].suffix);
        rc = find_table(s, name, &found, err);
        if (rc == LEDGER_OK && found) {
            has |= tables[i].has;
            rc = check_columns(s, name, tables[i].columns, tables[i].count,
                               tables[i].has == HAS_ENTRY, &has, err);
        }
    }
    for (size_t i = 0; rc == LEDGER_OK && i < INDEX_COUNT; i++)
        rc = check_index(s, &indexes[i], &has, err);
    if (rc == LEDGER_OK && has & HAS_META)
        rc = read_identity(s, &has, err);
    if (rc == LEDGER_OK && want_log) {
        rc = find_table(s, s->log_table, &found, err);
        if (rc == LEDGER_OK && found) {
            has |= HAS_LOG;
            rc = check_columns(s, s->log_table, COLUMNS(log_columns), true, &has, err);
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
                    ldg_sqlite_file_name(s), s->table, s->path ? s->path : "PATH",
                    plain ? "" : " --table ", plain ? "" : s->table);
}

ledger_rc ldg_sqlite_schema_verify(struct ldg_sqlite *s, ledger_error *err)
{
    uint32_t has = 0;
    ledger_rc rc = ldg_sqlite_catalog_read(s, s->has_log, &has, err);
    if (rc == LEDGER_OK && !(has & HAS_ENTRY))
        rc = fail_missing_table(s, err);
    else if (rc == LEDGER_OK &&
             (((has & HAS_ALL_BUT_LOG) != HAS_ALL_BUT_LOG) || (s->has_log && !(has & HAS_LOG))))
        rc = ldg_fail(err, LEDGER_ERR_SCHEMA,
                      "%s: the tables of \"%s\" lack what they had when the store was opened; run "
                      "`ledgerctl store init`",
                      ldg_sqlite_file_name(s), s->table);
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
                                 ldg_sqlite_file_name(s), s->table, sqlite3_errmsg(s->db));
    sqlite3_free(sql);
    return result;
}

/* name: with %T or %L. */
static ledger_rc create_table(struct ldg_sqlite *s, const char *name, const struct column *columns,
                              size_t count, const char *tail, ledger_error *err)
{
    sqlite3_str *text = sqlite3_str_new(s->db);
    sqlite3_str_appendf(text, "CREATE TABLE main.\"%s\" (", name);
    for (size_t i = 0; i < count; i++)
        sqlite3_str_appendf(text, "%s%s", i > 0 ? ", " : "", columns[i].definition);
    sqlite3_str_appendall(text, tail);
    char *sql = sqlite3_str_finish(text);
    ledger_rc rc = sql ? run_ddl(s, sql, err) : ldg_fail_nomem(err);
    sqlite3_free(sql);
    return rc;
}

static ledger_rc make_table(struct ldg_sqlite *s, const struct table *table, ledger_error *err)
{
    char name[NAME_MAX_BYTES];
    sqlite3_snprintf((int)sizeof(name), name, "%%T%s", table->suffix);
    return create_table(s, name, table->columns, table->count, table->tail, err);
}

static ledger_rc add_columns(struct ldg_sqlite *s, const struct table *table, uint32_t has,
                             ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; rc == LEDGER_OK && i < table->count; i++) {
        if (table->columns[i].has & ~has)
            rc = ldg_sqlite_exec(s, "adding a column", err,
                                 "ALTER TABLE main.\"%s%s\" ADD COLUMN %s", s->table, table->suffix,
                                 table->columns[i].definition);
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

/* Something of a store is gone that its cursors, which are still there, rely on. */
static ledger_rc note_lost(struct ldg_sqlite *s, uint32_t has, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    int64_t any = 0;

    if (has & HAS_ENTRY && has & HAS_ORIGIN && !(has & HAS_ORIGINS)) {
        rc = ldg_sql_exec_ints(s, looking,
                               "SELECT EXISTS (SELECT 1 FROM main.\"%T\" WHERE origin > 0)",
                               LDG_NO_INTS, &any, err);
        if (rc == LEDGER_OK && any != 0)
            rc = ldg_schema_fail_origins(ldg_sqlite_file_name(s), s->table, err);
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
        rc = has & tables[i].has ? add_columns(s, &tables[i], has, err)
                                 : make_table(s, &tables[i], err);
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
        rc = create_table(s, "%L", entry_columns, GO_COLUMNS, ")", err);
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
    rc = ldg_sqlite_catalog_read(s, want_log, &has, err);
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
    return ldg_sql_exec_ints(s, looking, "PRAGMA main.schema_version", LDG_NO_INTS, ret_version,
                             err);
}

ledger_rc ldg_sqlite_schema_origins(struct ldg_sqlite *s, ledger_error *err)
{
    int64_t any = 0;
    ledger_rc rc = ldg_sql_exec_ints(
        s, looking, "SELECT EXISTS (SELECT 1 FROM main.\"%T_origins\")", LDG_NO_INTS, &any, err);
    if (rc == LEDGER_OK)
        s->has_origins = any != 0;
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
    rc = ldg_sqlite_catalog_read(s, want_log, &has, err);
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
                                         ldg_sqlite_file_name(s));
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
    s->parks_texts = has & HAS_ENTRY_ID;
    s->has_log = has & HAS_LOG;
    if (open->log == LEDGER_MUTATION_LOG_ON && !s->has_log)
        return ldg_fail(err, LEDGER_ERR_SCHEMA,
                        "%s has no log table \"%s\"; `ledgerctl store init --store sqlite:%s "
                        "--table %s` makes it",
                        ldg_sqlite_file_name(s), s->log_table, s->path ? s->path : "PATH",
                        s->table);
    return s->has_ours ? ldg_sqlite_schema_origins(s, err) : LEDGER_OK;
}

/* --- while it is open ------------------------------------------------------------------------ */

/* Another program has changed some table since the last look? Then ours may be others. Inside the
 * transaction of a write, which has locked the file. */
ledger_rc ldg_sqlite_schema_refresh(struct ldg_sqlite *s, ledger_error *err)
{
    const struct ldg_identity identity = s->identity;
    int64_t version = 0;
    uint32_t has = 0;
    ledger_rc rc = read_version(s, &version, err);
    if (rc != LEDGER_OK || version == s->schema_version)
        return rc;
    rc = ldg_sqlite_catalog_read(s, s->has_log, &has, err);
    s->identity = identity; /* who this handle is was settled when it was opened */
    if (rc == LEDGER_OK && !(has & HAS_ENTRY))
        rc = fail_missing_table(s, err);
    if (rc == LEDGER_OK)
        s->schema_version = version;
    return rc;
}
