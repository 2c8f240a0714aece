/* Opening the tables: what may be missing, what is made, what an end of a bridge refuses.
 *
 * Invariants: opening a store that lacks nothing is one or two reads and no DDL,
 * so a role that may only use the tables can open it; nothing that is there is changed or dropped,
 * so the Go module goes on working on the same tables. */
#include "backend/postgres/schema.h"

#include <stdio.h>
#include <string.h>

#define WATCH_US (5 * INT64_C(1000000))

/* --- opening --------------------------------------------------------------------------------- */

/* In a schema of search_path that the role may not use, the table is as if it were not there. */
static const char hidden_schema[] =
    "SELECT format('%I', n.nspname), format('%I', current_user) FROM pg_class AS c "
    "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
    "WHERE c.relname = '{t}' AND NOT has_schema_privilege(n.oid, 'USAGE') AND ("
    "n.nspname = ANY (string_to_array(replace(replace(current_setting('search_path'), '\"', ''), "
    "' ', ''), ',')) OR (n.nspname = current_user "
    "AND strpos(current_setting('search_path'), '$user') > 0)) LIMIT 1";

static ledger_rc fail_missing_table(struct ldg_pg *pg, const struct ldg_pg_shape *shape,
                                    ledger_error *err)
{
    const bool plain = strcmp(pg->table, LEDGER_DEFAULT_TABLE) == 0;
    PGresult *result = NULL;
    bool hidden;
    ledger_rc rc =
        ldg_pg_run(pg, LDG_PG_FRESH, "looking for the table", hidden_schema, NULL, &result, err);

    hidden = rc == LEDGER_OK && PQntuples(result) > 0;
    if (hidden)
        rc =
            ldg_fail(err, LEDGER_ERR_PERMISSION,
                     "%s: role \"%s\" lacks a privilege: GRANT USAGE ON SCHEMA %s TO %s", pg->where,
                     shape->role, ldg_pg_get_text(result, 0, 0), ldg_pg_get_text(result, 0, 1));
    PQclear(result);
    if (rc != LEDGER_OK)
        return rc;
    return ldg_fail(err, LEDGER_ERR_SCHEMA,
                    "%s has no table \"%s\" in the schemas of search_path (first: \"%s\"); "
                    "`ledgerctl store init%s%s` makes it",
                    pg->where, pg->table, shape->schema, plain ? "" : " --table ",
                    plain ? "" : pg->table);
}

/* What the role lacks to add what is missing; "" when it lacks nothing. */
static void what_is_not_allowed(const struct ldg_pg *pg, uint32_t missing,
                                const struct ldg_pg_shape *shape, char *out, size_t out_size)
{
    char name[80];
    out[0] = '\0';
    for (size_t n = 0; n < LDG_PG_TABLE_COUNT && !out[0]; n++) {
        const bool there = ldg_pg_has_table(shape, n);
        bool alter = false;
        for (const struct ldg_pg_column *c = ldg_pg_tables[n].columns; c->name; c++)
            alter = alter || (c->has & missing);
        for (size_t i = 0; i < LDG_PG_INDEX_COUNT; i++)
            alter = alter ||
                    (ldg_pg_indexes[i].table == n && (missing & (uint32_t)LDG_PG_HAS_INDEX << i));
        if (n == LDG_PG_LOG)
            alter =
                alter ||
                (missing & (LDG_PG_HAS_TXID_DEFAULT | LDG_PG_HAS_TXID_GUARD | LDG_PG_HAS_NOTIFY));
        if (there && alter && !(shape->tables[n] & LDG_PG_MAY_ALTER))
            snprintf(out, out_size, "is not the owner (\"%s\") of table \"%s\"", shape->owners[n],
                     ldg_pg_name(pg, ldg_pg_tables[n].name, name));
        else if ((!there && (missing & (uint32_t)LDG_PG_HAS_TABLE << n)) && !shape->may_create)
            snprintf(out, out_size, "has no privilege CREATE on schema \"%s\"", shape->schema);
    }
    if (!out[0] && !shape->may_create && (missing & (LDG_PG_HAS_WORDS | LDG_PG_HAS_NOTIFY)))
        snprintf(out, out_size, "has no privilege CREATE on schema \"%s\"", shape->schema);
}

/* --- faults ---------------------------------------------------------------------------------- */

static void describe_sequence(const struct ldg_pg_sequence *q, char *text, size_t size)
{
    const bool caches = q->cache > 1;
    char what[64] = "";

    if (caches)
        snprintf(what, sizeof(what), " has CACHE %lld", (long long)q->cache);
    else if (q->falls)
        snprintf(what, sizeof(what), " counts down (INCREMENT)");
    else
        snprintf(what, sizeof(what), " begins anew at its end (CYCLE)");
    snprintf(text, size,
             "its sequence%s: ids do not follow the order of changes; ALTER SEQUENCE %s%s%s%s%s",
             what, q->name, caches ? " CACHE 1" : "",
             q->falls ? " INCREMENT BY 1 NO MINVALUE NO MAXVALUE RESTART WITH (the highest id + 1)"
                      : "",
             q->cycles ? " NO CYCLE" : "", caches ? ", and let all writers connect anew" : "");
}

bool ldg_pg_find_fault(const struct ldg_pg *pg, const struct ldg_pg_shape *shape,
                       enum ldg_pg_table table, enum ldg_pg_fault fault, ledger_rc *ret_rc,
                       char *text, size_t text_size)
{
    const struct ldg_pg_sequence *q = &shape->sequences[table];
    const uint32_t flags = shape->tables[table];
    bool found = false;
    char name[80];

    ldg_pg_name(pg, ldg_pg_tables[table].name, name);
    *ret_rc = fault == LDG_PG_FAULT_HIDDEN ? LEDGER_ERR_PERMISSION : LEDGER_ERR_SCHEMA;
    switch (fault) {
    case LDG_PG_FAULT_HIDDEN:
        found = flags & LDG_PG_ROWS_HIDDEN;
        if (found && (flags & LDG_PG_MAY_ALTER))
            snprintf(
                text, text_size,
                "row-level security hides rows of it from role \"%s\", though it is the owner: "
                "ALTER TABLE \"%s\" NO FORCE ROW LEVEL SECURITY",
                shape->role, name);
        else if (found)
            snprintf(text, text_size,
                     "row-level security hides rows of it from role \"%s\": ALTER ROLE \"%s\" "
                     "BYPASSRLS, or let the table's owner (\"%s\") do this",
                     shape->role, shape->role, shape->owners[table]);
        break;
    case LDG_PG_FAULT_KEPT:
        found = flags & (LDG_PG_UNLOGGED | LDG_PG_TEMPORARY);
        if (flags & LDG_PG_TEMPORARY)
            snprintf(text, text_size,
                     "TEMPORARY: the end of the session empties it; DROP TABLE pg_temp.\"%s\"",
                     name);
        else if (found)
            snprintf(text, text_size,
                     "UNLOGGED: a crash of the server empties it; ALTER TABLE \"%s\" SET LOGGED",
                     name);
        break;
    case LDG_PG_FAULT_CHILDREN:
        found = flags & LDG_PG_HAS_CHILDREN;
        snprintf(text, text_size,
                 "other tables inherit from it, whose rows it shows as its own without its keys; "
                 "ALTER TABLE … NO INHERIT \"%s\" for each of them",
                 name);
        break;
    case LDG_PG_FAULT_SEQUENCE:
        found = q->name[0] && (q->cache > 1 || q->falls || q->cycles);
        describe_sequence(q, text, text_size);
        break;
    case LDG_PG_FAULT_FED:
        found = shape->feeders[table][0] != '\0';
        snprintf(text, text_size,
                 "subscription \"%s\" (logical replication) fills it: rows bear the transaction "
                 "numbers of the publisher, which say nothing here; let the bridge read from the "
                 "publisher, or, when this is the primary now, DROP SUBSCRIPTION \"%s\"",
                 shape->feeders[table], shape->feeders[table]);
        break;
    default:
        break;
    }
    return found;
}

/* Does an end of a bridge depend on it? */
static bool concerns(const struct ldg_pg *pg, enum ldg_pg_table table, enum ldg_pg_fault fault)
{
    if (pg->role == LDG_ROLE_SINK && table == LDG_PG_LOG)
        return pg->has_log && fault == LDG_PG_FAULT_HIDDEN;
    switch (fault) {
    case LDG_PG_FAULT_SEQUENCE:
        return pg->role == LDG_ROLE_SOURCE ? table == LDG_PG_LOG
                                           : table == LDG_PG_ENTRIES || table == LDG_PG_PARKED;
    case LDG_PG_FAULT_FED:
        return pg->role == LDG_ROLE_SOURCE && table == LDG_PG_LOG;
    case LDG_PG_FAULT_HIDDEN: /* a source's cursors and the like are not read */
        return pg->role == LDG_ROLE_SINK || (table != LDG_PG_CURSORS && table != LDG_PG_FOREIGN);
    default:
        return true;
    }
}

static ledger_rc check_faults(const struct ldg_pg *pg, const struct ldg_pg_shape *shape,
                              ledger_error *err)
{
    char text[400], table[80];
    ledger_rc code;

    for (int n = 0; n < LDG_PG_TABLE_COUNT; n++) {
        for (int fault = 0; fault < LDG_PG_FAULT_COUNT; fault++) {
            if (!ldg_pg_has_table(shape, n) ||
                !concerns(pg, (enum ldg_pg_table)n, (enum ldg_pg_fault)fault) ||
                !ldg_pg_find_fault(pg, shape, (enum ldg_pg_table)n, (enum ldg_pg_fault)fault, &code,
                                   text, sizeof(text)))
                continue;
            return ldg_fail(err, code, "%s: table \"%s\": %s", pg->where,
                            ldg_pg_name(pg, ldg_pg_tables[n].name, table), text);
        }
    }
    return LEDGER_OK;
}

static ledger_rc set_wake_name(struct ldg_pg *pg, const struct ldg_pg_shape *shape,
                               ledger_error *err)
{
    char text[256];
    if (pg->system_id[0])
        snprintf(text, sizeof(text), "postgres:%s:%lld:%lld", pg->system_id,
                 (long long)shape->database, (long long)shape->table);
    else
        snprintf(text, sizeof(text), "postgres:%s:%s:%lld:%lld",
                 PQhost(pg->conn) ? PQhost(pg->conn) : "", PQport(pg->conn) ? PQport(pg->conn) : "",
                 (long long)shape->database, (long long)shape->table);
    char *name = ldg_strdup(text);
    if (!name)
        return ldg_fail_nomem(err);
    ldg_free(pg->wake_name);
    pg->wake_name = name;
    return LEDGER_OK;
}

/* Takes over what was found, and refuses what this handle cannot work with. */
static ledger_rc take_shape(struct ldg_pg *pg, const struct ldg_pg_shape *shape, ledger_error *err)
{
    const uint32_t to_use = LDG_PG_NEEDS & ~(uint32_t)(LDG_PG_HAS_TABLE << LDG_PG_FOREIGN) &
                            ~(uint32_t)(LDG_PG_HAS_TAGS_POS | LDG_PG_HAS_ANNOTATIONS_POS |
                                        LDG_PG_HAS_GO_IDS | LDG_PG_HAS_ENTRY_ID) &
                            ~(uint32_t)(((1 << LDG_PG_INDEX_COUNT) - 1) * LDG_PG_HAS_INDEX);
    const uint32_t has = shape->has;
    char why[200];

    pg->has_source_id = has & LDG_PG_HAS_SOURCE_ID;
    pg->has_ours = (has & to_use) == to_use;
    pg->has_log = has & LDG_PG_HAS_LOG;
    pg->has_txid = has & LDG_PG_HAS_TXID;
    pg->has_notify = has & LDG_PG_HAS_NOTIFY;
    pg->has_entry_id = has & LDG_PG_HAS_ENTRY_ID;
    pg->has_text_keys = pg->has_ours && (has & LDG_PG_TEXT_NEEDS) == LDG_PG_TEXT_NEEDS;
    pg->has_full_text = (has & LDG_PG_HAS_FULL_TEXT) && (has & LDG_PG_HAS_WORDS);
    pg->has_origins = shape->has_origins;
    if (pg->has_ours)
        pg->identity = shape->identity;
    ledger_rc rc = set_wake_name(pg, shape, err);
    if (rc != LEDGER_OK || pg->role == LDG_ROLE_USER)
        return rc;

    const uint32_t need =
        pg->role == LDG_ROLE_SOURCE
            ? to_use | (pg->has_log ? LDG_PG_LOG_NEEDS : 0)
            : (LDG_PG_NEEDS & ~LDG_PG_TEXT_NEEDS) | (pg->has_log ? LDG_PG_HAS_LOG : 0);
    if ((has & need) == need) {
        rc = ldg_pg_check_role(pg, shape, err);
        return rc == LEDGER_OK ? check_faults(pg, shape, err) : rc;
    }
    what_is_not_allowed(pg, need & ~has, shape, why, sizeof(why));
    return ldg_fail(err, why[0] ? LEDGER_ERR_PERMISSION : LEDGER_ERR_SCHEMA,
                    "%s: the tables of \"%s\" lack what a bridge needs%s%s%s%s; run `ledgerctl "
                    "store init` as their owner",
                    pg->where, pg->table, why[0] ? ", and role \"" : "", why[0] ? shape->role : "",
                    why[0] ? "\" " : "", why);
}

/* Adds what is missing, or says why not. */
static ledger_rc complete(struct ldg_pg *pg, const struct ldg_open *open, uint32_t need,
                          bool new_identity, struct ldg_pg_shape *shape, ledger_error *err)
{
    const bool create = open->flags & LEDGER_STORE_CREATE;
    const bool want_log = open->log != LEDGER_MUTATION_LOG_OFF;
    char why[200];

    if (PQtransactionStatus(pg->conn) != PQTRANS_IDLE) {
        /* its owner's transaction: it may not want new tables */
        if (!create)
            return LEDGER_OK;
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "tables of \"%s\" are missing and cannot be made inside the caller's "
                        "transaction; open the store before it",
                        pg->table);
    }
    if (!shape->schema[0])
        return ldg_fail(err, LEDGER_ERR_SCHEMA,
                        "%s: search_path names no schema that exists; CREATE SCHEMA, or set "
                        "options=-csearch_path%%3D… in the URL",
                        pg->where);
    what_is_not_allowed(pg, need & ~shape->has, shape, why, sizeof(why));
    if (why[0] && !create)
        return LEDGER_OK; /* what Go made can be used as it is */
    if (why[0])
        return ldg_fail(err, LEDGER_ERR_PERMISSION,
                        "%s: the tables of \"%s\" are not complete, and role \"%s\" %s; run "
                        "`ledgerctl store init` as a role that may",
                        pg->where, pg->table, shape->role, why);
    return ldg_pg_migrate(pg, need, want_log, new_identity, shape, err);
}

ledger_rc ldg_pg_schema_open(struct ldg_pg *pg, const struct ldg_open *open, ledger_error *err)
{
    struct ldg_pg_shape shape;
    const bool read_only = open->flags & LEDGER_STORE_READ_ONLY;
    const bool create = open->flags & LEDGER_STORE_CREATE && !read_only;
    const bool want_log = open->log != LEDGER_MUTATION_LOG_OFF;
    const bool new_identity = create && open->flags & LEDGER_STORE_NEW_IDENTITY;

    if (strcmp(pg->table, pg->log_table) == 0)
        return ldg_fail(err, LEDGER_ERR_INVALID, "table and log table are both \"%s\"", pg->table);
    ledger_rc rc = ldg_pg_catalog_read(pg, want_log, &shape, err);
    if (rc != LEDGER_OK)
        return rc;
    if (!ldg_pg_has_table(&shape, LDG_PG_ENTRIES) && !create)
        return fail_missing_table(pg, &shape, err);

    uint32_t need = LDG_PG_NEEDS;
    if (want_log && (create || shape.has & LDG_PG_HAS_LOG))
        need |= LDG_PG_LOG_NEEDS;
    if (create && want_log)
        need |= LDG_PG_HAS_TXID_GUARD;
    if (create && want_log && open->flags & LEDGER_STORE_NOTIFY)
        need |= LDG_PG_HAS_NOTIFY;
    if (create && open->flags & LEDGER_STORE_FULL_TEXT)
        need |= LDG_PG_HAS_WORDS | LDG_PG_HAS_FULL_TEXT;
    if (((shape.has & need) != need || new_identity) && !read_only)
        rc = complete(pg, open, need, new_identity, &shape, err);
    if (rc == LEDGER_OK)
        rc = take_shape(pg, &shape, err);
    if (rc == LEDGER_OK && open->log == LEDGER_MUTATION_LOG_ON && !pg->has_log)
        rc = ldg_fail(err, LEDGER_ERR_SCHEMA,
                      "%s has no log table \"%s\"; `ledgerctl store init --table %s` makes it",
                      pg->where, pg->log_table, pg->table);
    return rc;
}

ledger_rc ldg_pg_schema_recheck(struct ldg_pg *pg, ledger_error *err)
{
    const struct ldg_identity known = pg->identity;
    const bool had_ours = pg->has_ours, had_log = pg->has_log;
    struct ldg_pg_shape shape;
    ledger_rc rc = ldg_pg_catalog_read(pg, had_log, &shape, err);
    if (rc != LEDGER_OK)
        return rc;
    if (!ldg_pg_has_table(&shape, LDG_PG_ENTRIES))
        return fail_missing_table(pg, &shape, err);
    if (had_log && !(shape.has & LDG_PG_HAS_LOG))
        return ldg_fail(err, LEDGER_ERR_SCHEMA, "%s has no log table \"%s\" any more", pg->where,
                        pg->log_table);
    if (had_ours && (!(shape.has & LDG_PG_HAS_IDENTITY) || shape.identity.epoch != known.epoch ||
                     strcmp(shape.identity.uuid, known.uuid) != 0))
        return ldg_fail(err, LEDGER_ERR_SCHEMA,
                        "%s: table \"%s\" is of another store than before the connection was lost "
                        "(uuid %s, was %s)",
                        pg->where, pg->table, shape.identity.uuid, known.uuid);
    return take_shape(pg, &shape, err);
}

ledger_rc ldg_pg_schema_check_texts(const struct ldg_pg *pg, ledger_error *err)
{
    if (pg->has_text_keys)
        return LEDGER_OK;
    return ldg_fail(
        err, LEDGER_ERR_SCHEMA,
        "%s: the tables of \"%s\" are of an earlier version, and cannot hold entries "
        "whose ids are texts: run `ledgerctl store init` as their owner, or ALTER TABLE "
        "\"%s_parked\" ADD entry_id text NOT NULL DEFAULT ''; CREATE UNIQUE INDEX "
        "CONCURRENTLY \"idx_%s_origin_text\" ON \"%s\"(origin, source_id COLLATE "
        "\"C\") WHERE " LDG_PG_OF_TEXTS(""),
        pg->where ? pg->where : "the database", pg->table, pg->table, pg->table, pg->table);
}

ledger_rc ldg_pg_schema_missing(struct ldg_pg *pg, ledger_error *err)
{
    ledger_error why;

    if (strcmp(ldg_pg_sqlstate(err), "42P01") == 0 && pg->conn != NULL &&
        PQtransactionStatus(pg->conn) == PQTRANS_IDLE &&
        ldg_pg_schema_recheck(pg, &why) == LEDGER_ERR_PERMISSION)
        *err = why;
    return err->code;
}

bool ldg_pg_schema_check_due(const struct ldg_pg *pg)
{
    return pg->role != LDG_ROLE_USER &&
           (pg->checked_us == 0 || ldg_clock_mono_us() - pg->checked_us >= WATCH_US);
}

/* What is missing for a moment, because somebody makes it anew, is told by whoever needs it. */
ledger_rc ldg_pg_schema_watch(struct ldg_pg *pg, ledger_error *err)
{
    struct ldg_pg_shape shape;
    ledger_rc rc = LEDGER_OK;

    if (!ldg_pg_schema_check_due(pg))
        return LEDGER_OK;
    rc = ldg_pg_catalog_read_tables(pg, pg->has_log, &shape, err);
    if (rc == LEDGER_OK && pg->role == LDG_ROLE_SOURCE && pg->has_log &&
        (shape.has & LDG_PG_HAS_LOG) && !(shape.has & LDG_PG_HAS_TXID_DEFAULT))
        rc = ldg_fail(err, LEDGER_ERR_SCHEMA,
                      "%s: column txid of the mutation log \"%s\" has lost its default "
                      "pg_current_xact_id(), so rows that are written now cannot be carried; "
                      "`ledgerctl store init`, as the owner, restores it",
                      pg->where, pg->log_table);
    if (rc == LEDGER_OK)
        rc = ldg_pg_check_role(pg, &shape, err);
    return rc == LEDGER_OK ? check_faults(pg, &shape, err) : rc;
}
