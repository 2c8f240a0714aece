/* What the catalog says of the tables: which of them are there, whether they are what a ledger
 * needs, what the role may do with them.
 *
 * Invariant: only reads. What is there and cannot be ours is SCHEMA, with the statement that mends
 * it; what is missing is no error. */
#include "backend/postgres/schema.h"

#include <stdio.h>
#include <string.h>

#define CATALOG_MAX_BYTES ((size_t)16 * 1024)

enum {
    ROW_HOME,
    ROW_TABLE,
    ROW_COLUMN,
    ROW_INDEX,
    ROW_SEQUENCE,
    ROW_TRIGGER,
    ROW_FUNCTION,
    ROW_GUARD,
    ROW_KEY,
};
enum { KIND, N, NAME, A, B, X, Y };
enum {
    COLUMN_NOT_NULL = 1,
    COLUMN_FILLED = 2,
    COLUMN_KEY = 4,
    COLUMN_NUMBERED = 8, /* its default is the transaction's number, and nothing else */
    COLUMN_BLIND = 16,   /* its collation takes different bytes for equal */
    COLUMN_COMPUTED = 32,
    COLUMN_ROUNDED = 64,
    COLUMN_IDENTITY = 128, /* of another column than the id */
};
enum { INDEX_VALID = 1, INDEX_UNIQUE = 2, INDEX_BLIND = 4 };
enum {
    SEQUENCE_MAY_USE = 1,
    SEQUENCE_CYCLES = 2,
    SEQUENCE_OWNED = 4,
    SEQUENCE_DRAWN = 8,
    SEQUENCE_FALLS = 16
};

/* What statements find by their unqualified names, and what stands where ours would be made. All in
 * one look; rows in the order of their kind. Names are looked up in pg_class and not with regclass
 * or the like, which answers from the session's cache: another moment than the rest of the query's,
 * in which a table is not there whose index already is. What is compared are numbers of the
 * catalog, never a text that the server makes of them, which its settings change. */
/* clang-format off */
static const char *const catalog[] = {
    /* the tables, and the schema of the entries */
    "WITH path AS (SELECT n.oid AS ns, s.place FROM unnest(current_schemas(true)) "
    "WITH ORDINALITY AS s(name, place) JOIN pg_namespace AS n ON n.nspname = s.name), "
    "rels AS (SELECT DISTINCT ON (w.n) w.n, c.* FROM (VALUES (0, '{t}'), (1, '{t}_cursors'), "
    "(2, '{t}_meta'), (3, '{t}_origins'), (4, '{t}_parked'), (5, '{t}_foreign'), (6, '{l}')) "
    "AS w(n, name) JOIN pg_class AS c ON c.relname = w.name JOIN path ON path.ns = c.relnamespace "
    "ORDER BY w.n, path.place), "
    "home AS (SELECT coalesce((SELECT relnamespace FROM rels WHERE n = 0), "
    "(SELECT oid FROM pg_namespace WHERE nspname = current_schema())) AS ns) "
    "SELECT 0 AS kind, 0 AS n, "
    "coalesce((SELECT nspname::text FROM pg_namespace WHERE oid = ns), '') AS name, "
    "current_user::text AS a, '' AS b, "
    "(SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS x, "
    "coalesce(has_schema_privilege(ns, 'CREATE'), false)::int::bigint AS y FROM home ",
    /* each table */
    "UNION ALL SELECT 1, n, pg_get_userbyid(relowner)::text, "
    "relkind::text || relpersistence::text, "
    "CASE WHEN EXISTS (SELECT FROM pg_subscription_rel AS f WHERE f.srrelid = rels.oid) THEN "
    "coalesce((SELECT string_agg(DISTINCT s.subname::text, ', ') FROM pg_subscription_rel AS f "
    "JOIN pg_stat_subscription AS s ON s.subid = f.srsubid WHERE f.srrelid = rels.oid), '?') "
    "ELSE '' END, oid::bigint, "
    "(pg_has_role(relowner, 'USAGE')::int "
    "+ 2 * has_any_column_privilege(oid, 'SELECT')::int "
    "+ 4 * has_any_column_privilege(oid, 'INSERT')::int "
    "+ 8 * has_any_column_privilege(oid, 'UPDATE')::int "
    "+ 16 * has_table_privilege(oid, 'DELETE')::int "
    "+ 32 * row_security_active(oid)::int "
    "+ 256 * EXISTS (SELECT FROM pg_inherits AS h WHERE h.inhparent = rels.oid)::int)::bigint "
    "FROM rels ",
    /* each column */
    "UNION ALL SELECT 2, r.n, a.attname::text, format_type(a.atttypid, a.atttypmod), "
    "coalesce((SELECT c.collname::text FROM pg_collation AS c WHERE c.oid = a.attcollation), ''), "
    "a.atttypid::bigint, "
    "(a.attnotnull::int + 2 * (a.atthasdef OR a.attidentity != '' OR a.attgenerated != '')::int "
    "+ 4 * EXISTS (SELECT 1 FROM pg_index AS p WHERE p.indrelid = r.oid AND p.indisprimary "
    "AND p.indnkeyatts = 1 AND p.indkey[0] = a.attnum)::int "
    "+ 8 * EXISTS (SELECT FROM pg_attrdef AS d WHERE d.adrelid = a.attrelid "
    "AND d.adnum = a.attnum AND a.attgenerated = '' AND starts_with(d.adbin::text, "
    "'{FUNCEXPR :funcid ' || 'pg_catalog.pg_current_xact_id()'::regprocedure::oid || ' '))::int "
    "+ 16 * EXISTS (SELECT FROM pg_collation AS c WHERE c.oid = a.attcollation "
    "AND NOT c.collisdeterministic)::int "
    "+ 32 * (a.attgenerated != '')::int "
    "+ 64 * (a.atttypid = 'timestamptz'::regtype AND a.atttypmod BETWEEN 0 AND 5)::int "
    "+ 128 * (a.attidentity != '' AND a.attname != 'id')::int)::bigint "
    "FROM rels AS r JOIN pg_attribute AS a ON a.attrelid = r.oid "
    "WHERE a.attnum > 0 AND NOT a.attisdropped ",
    /* each index by the name of one of ours */
    "UNION ALL SELECT 3, coalesce(r.n, -1), c.relname::text, "
    "CASE WHEN r.n IS NULL THEN coalesce((SELECT t.relname::text FROM pg_class AS t "
    "WHERE t.oid = i.indrelid), '') ELSE coalesce((SELECT string_agg("
    "coalesce(a.attname::text, '?'), ',' ORDER BY k.o) "
    "FROM unnest(i.indkey) WITH ORDINALITY AS k(num, o) LEFT JOIN pg_attribute AS a "
    "ON a.attrelid = i.indrelid AND a.attnum = k.num), '') END, "
    "CASE WHEN i.indpred IS NULL THEN '' ELSE 'partial' END, 0, "
    "coalesce(i.indisvalid::int + 2 * i.indisunique::int + 4 * EXISTS ("
    "SELECT FROM unnest(i.indcollation) AS k(oid) JOIN pg_collation AS o ON o.oid = k.oid "
    "WHERE NOT o.collisdeterministic)::int, 0)::bigint "
    "FROM (VALUES ('idx_{t}_stream_id'), ('idx_{t}_dedup'), ('idx_{t}_origin'), "
    "('idx_{t}_origin_text'), "
    "('idx_{t}_parked_entry'), ('idx_{l}_txid'), ('idx_{t}_fts')) AS w(name) "
    "JOIN pg_class AS c ON c.relname = w.name JOIN home ON c.relnamespace = home.ns "
    "LEFT JOIN pg_index AS i ON i.indexrelid = c.oid LEFT JOIN rels AS r ON r.oid = i.indrelid ",
    /* each sequence of an id: the one that belongs to the column, the one its default draws from */
    "UNION ALL SELECT 4, q.n, s.seqrelid::regclass::text, '', '', s.seqcache, "
    "(has_sequence_privilege(s.seqrelid, 'USAGE')::int + 2 * s.seqcycle::int "
    "+ 4 * q.owned::int + 8 * q.drawn::int + 16 * (s.seqincrement < 0)::int)::bigint "
    "FROM (SELECT u.n, u.seq, bool_or(u.owned) AS owned, bool_or(u.drawn) AS drawn FROM ("
    "SELECT r.n, d.objid AS seq, true AS owned, a.attidentity != '' AS drawn FROM rels AS r "
    "JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attname = 'id' "
    "JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid "
    "AND d.refobjsubid = a.attnum AND d.classid = 'pg_class'::regclass "
    "AND d.deptype IN ('a', 'i') "
    "UNION ALL SELECT r.n, d.refobjid, false, true FROM rels AS r "
    "JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attname = 'id' "
    "JOIN pg_attrdef AS f ON f.adrelid = r.oid AND f.adnum = a.attnum "
    "JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid "
    "AND d.refclassid = 'pg_class'::regclass) AS u GROUP BY u.n, u.seq) AS q "
    "JOIN pg_sequence AS s ON s.seqrelid = q.seq ",
    /* what `store init` makes on request, and the guard of txid */
    "UNION ALL SELECT 5, r.n, t.tgname::text, '', '', 0, (t.tgenabled != 'D')::int::bigint "
    "FROM rels AS r JOIN pg_trigger AS t ON t.tgrelid = r.oid "
    "WHERE r.n = 6 AND t.tgname = '{l}_notify' "
    "UNION ALL SELECT 6, 0, p.proname::text, '', '', 0, 0 FROM pg_proc AS p "
    "JOIN home ON p.pronamespace = home.ns WHERE p.proname = '{t}_words' "
    "UNION ALL SELECT 7, r.n, k.conname::text, '', '', 0, 0 FROM rels AS r "
    "JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attname = 'txid' "
    "JOIN pg_constraint AS k ON k.conrelid = r.oid AND k.contype = 'c' "
    "AND k.conkey = ARRAY[a.attnum] WHERE r.n = 6 AND k.conname = '" LDG_PG_TXID_GUARD "' ",
    /* each primary key, by which a refusal is known */
    "UNION ALL SELECT 8, r.n, c.relname::text, '', '', 0, 0 FROM rels AS r JOIN pg_index AS p "
    "ON p.indrelid = r.oid AND p.indisprimary JOIN pg_class AS c ON c.oid = p.indexrelid "
    "ORDER BY 1, 2",
};
/* clang-format on */

static const char identity_query[] =
    "SELECT EXISTS (SELECT 1 FROM \"{t}_origins\"), m.uuid, m.epoch "
    "FROM (SELECT 1) AS one LEFT JOIN \"{t}_meta\" AS m ON m.id = 1";

static ledger_rc fail_shape(const struct ldg_pg *pg, const char *table, const char *what,
                            ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_SCHEMA,
                    "%s: table \"%s\" %s; it is no ledger table: choose another name with --table",
                    pg->where, table, what);
}

static const char *type_name(Oid type)
{
    switch (type) {
    case LDG_PG_BOOL:
        return "boolean";
    case LDG_PG_BYTEA:
        return "bytea";
    case LDG_PG_INT8:
        return "bigint";
    case LDG_PG_INT4:
        return "integer";
    case LDG_PG_TIMESTAMPTZ:
        return "timestamp with time zone";
    case LDG_PG_JSONB:
        return "jsonb";
    case LDG_PG_XID8:
        return "xid8";
    default:
        return "text";
    }
}

static void copy_text(char *out, size_t size, const PGresult *result, int row, int column)
{
    snprintf(out, size, "%s", ldg_pg_get_text(result, row, column));
}

static ledger_rc take_table(struct ldg_pg *pg, const PGresult *result, int row, int n,
                            struct ldg_pg_shape *shape, ledger_error *err)
{
    static const struct {
        char kind;
        const char *what;
    } others[] = {
        { 'v', "is a view" },          { 'm', "is a materialized view" },
        { 'f', "is a foreign table" }, { 'p', "is a partitioned table" },
        { 'S', "is a sequence" },      { 'i', "is an index" },
        { 'I', "is an index" },        { 'c', "is a type" },
    };
    char name[80];
    const char *kind = ldg_pg_get_text(result, row, A);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        if (kind[0] == others[i].kind)
            return fail_shape(pg, ldg_pg_name(pg, ldg_pg_tables[n].name, name), others[i].what,
                              err);
    }
    shape->has |= (uint32_t)LDG_PG_HAS_TABLE << n;
    shape->tables[n] = (uint32_t)ldg_pg_get_int64(result, row, Y);
    if (kind[1] == 'u')
        shape->tables[n] |= LDG_PG_UNLOGGED;
    if (kind[1] == 't')
        shape->tables[n] |= LDG_PG_TEMPORARY;
    copy_text(shape->feeders[n], sizeof(shape->feeders[n]), result, row, B);
    copy_text(shape->owners[n], sizeof(shape->owners[n]), result, row, NAME);
    if (n == LDG_PG_ENTRIES)
        shape->table = ldg_pg_get_int64(result, row, X);
    return LEDGER_OK;
}

/* One of ours, and not as a ledger needs it: what is wrong with it, else "", and the statement that
 * mends it, or "". */
struct verdict {
    char what[256], help[200];
};

/* Every value of the one is a value of the other, but for numbers that are too large. */
static bool is_kin(Oid type, Oid wanted)
{
    enum { NAME_TYPE = 19, INT2 = 21, BPCHAR = 1042, VARCHAR = 1043, NUMERIC = 1700 };
    const bool number =
        type == INT2 || type == LDG_PG_INT4 || type == LDG_PG_INT8 || type == NUMERIC;
    const bool text = type == NAME_TYPE || type == BPCHAR || type == VARCHAR;

    return ((wanted == LDG_PG_INT4 || wanted == LDG_PG_INT8) && number) ||
           (wanted == LDG_PG_TEXT && text);
}

/* A column of ours that has nothing to do with the type wanted may be the user's, by chance of the
 * same name; Go's columns and what was once of the right type are made that again. */
static void help_type(Oid type, const struct ldg_pg_column *column, struct verdict *v)
{
    const char *name = column->name;

    if (is_kin(type, column->type))
        snprintf(v->help, sizeof(v->help), "ALTER COLUMN \"%s\" TYPE %s", name,
                 type_name(column->type));
    else if (column->ddl)
        snprintf(v->help, sizeof(v->help),
                 "RENAME COLUMN \"%s\" TO another name, and `ledgerctl store init` adds it", name);
    else if (column->type == LDG_PG_TIMESTAMPTZ)
        snprintf(v->help, sizeof(v->help),
                 "ALTER COLUMN \"%s\" TYPE timestamptz USING \"%s\" AT TIME ZONE 'UTC' (or the "
                 "zone that they are meant in)",
                 name, name);
    else if (column->type == LDG_PG_BYTEA)
        snprintf(v->help, sizeof(v->help),
                 "ALTER COLUMN \"%s\" TYPE bytea USING convert_to(\"%s\"::text, 'UTF8')", name,
                 name);
    else
        snprintf(v->help, sizeof(v->help), "ALTER COLUMN \"%s\" TYPE %s USING \"%s\"::text::%s",
                 name, type_name(column->type), name, type_name(column->type));
}

static void judge_column(const struct ldg_pg *pg, const PGresult *result, int row, int n,
                         const struct ldg_pg_column *column, struct verdict *v)
{
    const int64_t flags = ldg_pg_get_int64(result, row, Y);
    char table[80];

    ldg_pg_name(pg, ldg_pg_tables[n].name, table);
    if ((Oid)ldg_pg_get_int64(result, row, X) != column->type) {
        snprintf(v->what, sizeof(v->what), "of type %s, where a ledger has %s",
                 ldg_pg_get_text(result, row, A), type_name(column->type));
        help_type((Oid)ldg_pg_get_int64(result, row, X), column, v);
    } else if (flags & COLUMN_BLIND) {
        snprintf(v->what, sizeof(v->what),
                 "whose collation \"%s\" (nondeterministic) takes different texts for equal, where "
                 "a ledger compares bytes",
                 ldg_pg_get_text(result, row, B));
        snprintf(v->help, sizeof(v->help), "ALTER COLUMN \"%s\" TYPE text COLLATE \"C\"",
                 column->name);
    } else if (flags & (COLUMN_COMPUTED | COLUMN_IDENTITY)) {
        snprintf(v->what, sizeof(v->what),
                 "that the server fills by itself (GENERATED), where a ledger writes");
        snprintf(v->help, sizeof(v->help), "ALTER COLUMN \"%s\" DROP %s", column->name,
                 flags & COLUMN_IDENTITY ? "IDENTITY" : "EXPRESSION");
    } else if (strcmp(column->name, "id") == 0 && n != LDG_PG_FOREIGN && !(flags & COLUMN_KEY)) {
        snprintf(v->what, sizeof(v->what), "that is not its primary key");
    }
}

static ledger_rc fail_column(const struct ldg_pg *pg, int n, const char *column,
                             const struct verdict *v, ledger_error *err)
{
    char table[80], what[400];

    ldg_pg_name(pg, ldg_pg_tables[n].name, table);
    snprintf(what, sizeof(what), "has a column \"%.64s\" %s", column, v->what);
    if (!v->help[0])
        return fail_shape(pg, table, what, err);
    return ldg_fail(err, LEDGER_ERR_SCHEMA, "%s: table \"%s\" %s: ALTER TABLE \"%s\" %s", pg->where,
                    table, what, table, v->help);
}

/* seen: a bit per column of the definition that was found. */
static ledger_rc take_column(struct ldg_pg *pg, const PGresult *result, int row, int n,
                             struct ldg_pg_shape *shape, uint64_t *seen, ledger_error *err)
{
    const struct ldg_pg_column *columns = ldg_pg_tables[n].columns;
    const char *name = ldg_pg_get_text(result, row, NAME);
    const int64_t flags = ldg_pg_get_int64(result, row, Y);
    struct verdict v = { "", "" };
    size_t i = 0;

    while (columns[i].name && strcmp(columns[i].name, name) != 0)
        i++;
    if (columns[i].name)
        judge_column(pg, result, row, n, &columns[i], &v);
    /* The rest of an entry table's columns are in Go's log, too, all of them with defaults. */
    else if ((flags & COLUMN_NOT_NULL) && !(flags & COLUMN_FILLED))
        snprintf(v.what, sizeof(v.what), "that has to be filled, which no ledger does");
    if (v.what[0])
        return fail_column(pg, n, name, &v, err);
    if (columns[i].name) {
        *seen |= (uint64_t)1 << i;
        shape->has |= columns[i].has;
        if (columns[i].has == LDG_PG_HAS_TXID && (flags & COLUMN_NUMBERED))
            shape->has |= LDG_PG_HAS_TXID_DEFAULT;
        if (columns[i].has == LDG_PG_HAS_TXID && (flags & COLUMN_NOT_NULL))
            shape->has |= LDG_PG_HAS_TXID_GUARD;
        if ((flags & COLUMN_ROUNDED))
            shape->tables[n] |= LDG_PG_ROUNDS_TIMES;
    }
    return LEDGER_OK;
}

/* An index of another table, or something else of that name: after a swap of tables it went along
 * with the old one, which need not lose it. */
static ledger_rc fail_foreign_index(const struct ldg_pg *pg, const char *name, const char *table,
                                    ledger_error *err)
{
    if (!*table)
        return ldg_fail(err, LEDGER_ERR_SCHEMA,
                        "%s: \"%s\" has the name of an index that a ledger needs; rename it, and "
                        "run `ledgerctl store init`",
                        pg->where, name);
    return ldg_fail(err, LEDGER_ERR_SCHEMA,
                    "%s: index \"%s\" is not the one a ledger needs: it belongs to table \"%s\"; "
                    "give it another name (ALTER INDEX \"%s\" RENAME TO \"%.50s_old\"), and run "
                    "`ledgerctl store init`",
                    pg->where, name, table, name, name);
}

static ledger_rc take_index(struct ldg_pg *pg, const PGresult *result, int row, int n,
                            struct ldg_pg_shape *shape, ledger_error *err)
{
    const char *name = ldg_pg_get_text(result, row, NAME);
    const int64_t flags = ldg_pg_get_int64(result, row, Y);
    char ours[80];
    for (size_t i = 0; i < LDG_PG_INDEX_COUNT; i++) {
        const struct ldg_pg_index_def *def = &ldg_pg_indexes[i];
        if (strcmp(ldg_pg_name(pg, def->name, ours), name) != 0)
            continue;
        if (n < 0)
            return fail_foreign_index(pg, name, ldg_pg_get_text(result, row, A), err);
        if (flags & INDEX_BLIND)
            return ldg_fail(err, LEDGER_ERR_SCHEMA,
                            "%s: index \"%s\" is not the one a ledger needs: its collation "
                            "(nondeterministic) takes different texts for equal; drop it, and run "
                            "`ledgerctl store init`",
                            pg->where, name);
        if (n != (int)def->table || ((flags & INDEX_UNIQUE) != 0) != def->unique ||
            (*ldg_pg_get_text(result, row, B) != '\0') != def->partial ||
            (def->columns && strcmp(def->columns, ldg_pg_get_text(result, row, A)) != 0))
            return ldg_fail(err, LEDGER_ERR_SCHEMA,
                            "%s: index \"%s\" is not the one a ledger needs; drop it, and run "
                            "`ledgerctl store init`",
                            pg->where, name);
        if (flags & INDEX_VALID)
            shape->has |= (uint32_t)LDG_PG_HAS_INDEX << i;
        else
            shape->invalid |= 1u << i;
    }
    return LEDGER_OK;
}

static void take_sequence(const PGresult *result, int row, int n, struct ldg_pg_shape *shape)
{
    struct ldg_pg_sequence *sequence = &shape->sequences[n];
    const int64_t flags = ldg_pg_get_int64(result, row, Y);

    if (flags & SEQUENCE_OWNED)
        copy_text(sequence->owned, sizeof(sequence->owned), result, row, NAME);
    if (!(flags & SEQUENCE_DRAWN))
        return;
    copy_text(sequence->name, sizeof(sequence->name), result, row, NAME);
    sequence->cache = ldg_pg_get_int64(result, row, X);
    sequence->may_use = flags & SEQUENCE_MAY_USE;
    sequence->cycles = flags & SEQUENCE_CYCLES;
    sequence->falls = flags & SEQUENCE_FALLS;
}

/* The column draws from one sequence, and that one belongs to it: what is drawn by its name and
 * what the default gives are one series. */
static ledger_rc check_sequence(const struct ldg_pg *pg, const struct ldg_pg_shape *shape, size_t n,
                                ledger_error *err)
{
    const struct ldg_pg_sequence *sequence = &shape->sequences[n];
    char table[80], what[400];

    ldg_pg_name(pg, ldg_pg_tables[n].name, table);
    if (sequence->name[0] && strcmp(sequence->name, sequence->owned) == 0)
        return LEDGER_OK;
    if (sequence->name[0])
        snprintf(what, sizeof(what),
                 "has a column \"id\" without a sequence of its own: the one that it draws from "
                 "belongs to another table, or to none: ALTER SEQUENCE %s OWNED BY \"%s\".\"id\"",
                 sequence->name, table);
    else if (sequence->owned[0])
        snprintf(what, sizeof(what),
                 "has a column \"id\" that does not draw from its sequence: ALTER TABLE \"%s\" "
                 "ALTER COLUMN \"id\" SET DEFAULT nextval('%s')",
                 table, sequence->owned);
    else
        snprintf(what, sizeof(what),
                 "has a column \"id\" without a sequence of its own: ALTER TABLE \"%s\" ALTER "
                 "COLUMN \"id\" ADD GENERATED BY DEFAULT AS IDENTITY, after ALTER COLUMN \"id\" "
                 "DROP DEFAULT, and let it begin behind the highest id (RESTART)",
                 table);
    return ldg_fail(err, LEDGER_ERR_SCHEMA, "%s: table \"%s\" %s", pg->where, table, what);
}

/* What a table is without cannot be ours. */
static ledger_rc check_complete(struct ldg_pg *pg, const struct ldg_pg_shape *shape,
                                const uint64_t seen[LDG_PG_TABLE_COUNT], ledger_error *err)
{
    char table[80], what[128];
    for (size_t n = 0; n < LDG_PG_TABLE_COUNT; n++) {
        const struct ldg_pg_column *columns = ldg_pg_tables[n].columns;
        if (!ldg_pg_has_table(shape, n))
            continue;
        ldg_pg_name(pg, ldg_pg_tables[n].name, table);
        for (size_t i = 0; columns[i].name; i++) {
            if (columns[i].ddl || (seen[n] & (uint64_t)1 << i))
                continue;
            snprintf(what, sizeof(what), "has no column \"%s\"", columns[i].name);
            return fail_shape(pg, table, what, err);
        }
        if (n == LDG_PG_ENTRIES || n == LDG_PG_LOG || n == LDG_PG_PARKED) {
            ledger_rc rc = check_sequence(pg, shape, n, err);
            if (rc != LEDGER_OK)
                return rc;
        }
    }
    return LEDGER_OK;
}

static ledger_rc read_identity(struct ldg_pg *pg, struct ldg_pg_shape *shape, ledger_error *err)
{
    PGresult *result = NULL;
    ledger_rc rc =
        ldg_pg_run(pg, LDG_PG_FRESH, "reading the identity", identity_query, NULL, &result, err);
    if (rc == LEDGER_OK) {
        shape->has_origins = ldg_pg_get_bool(result, 0, 0);
        if (!PQgetisnull(result, 0, 1)) {
            const char *uuid = ldg_pg_get_text(result, 0, 1);
            size_t size = strlen(uuid);
            if (size == 0 || size >= sizeof(shape->identity.uuid)) {
                rc = ldg_fail(err, LEDGER_ERR_DATA,
                              "%s: table \"%s_meta\" holds no valid uuid; write one, or run "
                              "`ledgerctl store init` with a new identity",
                              pg->where, pg->table);
            } else {
                memcpy(shape->identity.uuid, uuid, size + 1);
                shape->identity.epoch = ldg_pg_get_int64(result, 0, 2);
                shape->has |= LDG_PG_HAS_IDENTITY;
            }
        }
    }
    PQclear(result);
    return rc;
}

static ledger_rc run_query(struct ldg_pg *pg, PGresult **ret_result, ledger_error *err)
{
    struct ldg_buf text;
    ldg_buf_init(&text, CATALOG_MAX_BYTES);
    for (size_t i = 0; i < sizeof(catalog) / sizeof(catalog[0]); i++)
        ldg_buf_puts(&text, catalog[i]);
    ledger_rc rc = text.rc == LEDGER_OK ? ldg_pg_run_text(pg, "looking at the tables", text.data,
                                                          NULL, ret_result, err)
                                        : ldg_fail_nomem(err);
    ldg_buf_fini(&text);
    return rc;
}

ledger_rc ldg_pg_catalog_read_tables(struct ldg_pg *pg, bool want_log,
                                     struct ldg_pg_shape *ret_shape, ledger_error *err)
{
    struct ldg_pg_shape shape = { 0 };
    uint64_t seen[LDG_PG_TABLE_COUNT] = { 0 };
    PGresult *result = NULL;
    ledger_rc rc = run_query(pg, &result, err);
    for (int row = 0; rc == LEDGER_OK && row < PQntuples(result); row++) {
        const int n = (int)ldg_pg_get_int64(result, row, N);
        if (n == LDG_PG_LOG && !want_log)
            continue; /* it may be anything */
        switch (ldg_pg_get_int64(result, row, KIND)) {
        case ROW_HOME:
            copy_text(shape.schema, sizeof(shape.schema), result, row, NAME);
            copy_text(shape.role, sizeof(shape.role), result, row, A);
            shape.database = ldg_pg_get_int64(result, row, X);
            shape.may_create = ldg_pg_get_int64(result, row, Y);
            break;
        case ROW_TABLE:
            rc = take_table(pg, result, row, n, &shape, err);
            break;
        case ROW_COLUMN:
            rc = take_column(pg, result, row, n, &shape, &seen[n], err);
            break;
        case ROW_INDEX:
            rc = take_index(pg, result, row, n, &shape, err);
            break;
        case ROW_SEQUENCE:
            take_sequence(result, row, n, &shape);
            snprintf(pg->ids[n].sequence, sizeof(pg->ids[n].sequence), "%s",
                     shape.sequences[n].name);
            break;
        case ROW_TRIGGER:
            if (ldg_pg_get_int64(result, row, Y))
                shape.has |= LDG_PG_HAS_NOTIFY;
            break;
        case ROW_FUNCTION:
            shape.has |= LDG_PG_HAS_WORDS;
            break;
        case ROW_GUARD:
            shape.has |= LDG_PG_HAS_TXID_GUARD;
            break;
        case ROW_KEY:
            copy_text(pg->ids[n].key, sizeof(pg->ids[n].key), result, row, NAME);
            break;
        default:
            break;
        }
    }
    PQclear(result);
    if (rc == LEDGER_OK)
        rc = check_complete(pg, &shape, seen, err);
    if (rc == LEDGER_OK)
        *ret_shape = shape;
    pg->checked_us = ldg_clock_mono_us();
    return rc;
}

ledger_rc ldg_pg_catalog_read(struct ldg_pg *pg, bool want_log, struct ldg_pg_shape *ret_shape,
                              ledger_error *err)
{
    const uint32_t for_identity =
        (uint32_t)LDG_PG_HAS_TABLE << LDG_PG_META | (uint32_t)LDG_PG_HAS_TABLE << LDG_PG_ORIGINS;
    struct ldg_pg_shape shape;
    ledger_rc rc = ldg_pg_catalog_read_tables(pg, want_log, &shape, err);
    if (rc == LEDGER_OK && (shape.has & for_identity) == for_identity)
        rc = read_identity(pg, &shape, err);
    if (rc == LEDGER_OK)
        *ret_shape = shape;
    return rc;
}
