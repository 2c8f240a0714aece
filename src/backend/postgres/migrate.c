/* Making and mending tables while others use them.
 *
 * Hides how the locks are had. Invariants: a lock that writers would have to wait behind is waited
 * for no longer than LOCK_MS, and then not again before a pause; an index of a table that was there
 * before is built without holding writers up; each step looks first at what is there, so that any
 * number of programs may do this at once, and one that was killed is completed by the next. */
#include "backend/postgres/schema.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"

#define LOCK_MS "100"
#define PAUSE_MIN_MS 100
#define PAUSE_MAX_MS 1000
#define LIMIT_US INT64_C(300000000)
#define STEPS_MAX 64 /* there are not half as many things to make */
#define TEXT_MAX_BYTES ((size_t)64 * 1024)

static const char settings[] =
    "SELECT set_config('lock_timeout', '" LOCK_MS "ms', true), " LDG_PG_NO_LIMITS(
        "statement_timeout,transaction_timeout,idle_in_transaction_session_timeout");

struct migration {
    struct ldg_pg *pg;
    uint32_t need;
    bool want_log, new_identity;
    int64_t key; /* of the advisory lock that programs doing this share */
    struct ldg_pg_shape shape;
};

static ledger_rc run(struct ldg_pg *pg, const char *doing, const char *text, ledger_error *err)
{
    return ldg_pg_run_text(pg, doing, text, NULL, NULL, err);
}

static bool lacks(const struct migration *m, uint32_t has)
{
    return has & m->need & ~m->shape.has;
}

/* --- columns of tables that are there -------------------------------------------------------- */

/* The columns that a table lacks; false: none. */
static bool put_columns(const struct migration *m, size_t table, struct ldg_buf *out)
{
    bool any = false;
    if (!ldg_pg_has_table(&m->shape, table))
        return false;
    ldg_buf_printf(out, "ALTER TABLE \"%s\"", ldg_pg_tables[table].name);
    for (const struct ldg_pg_column *c = ldg_pg_tables[table].columns; c->name; c++) {
        if (!lacks(m, c->has))
            continue;
        ldg_buf_printf(out, "%s ADD COLUMN IF NOT EXISTS %s", any ? "," : "", c->ddl);
        any = true;
    }
    /* In one statement with the column: rows that are there keep NULL, and nothing is rewritten. */
    if (table == LDG_PG_LOG && lacks(m, LDG_PG_HAS_TXID_DEFAULT)) {
        ldg_buf_printf(out, "%s ALTER COLUMN txid SET DEFAULT pg_current_xact_id()",
                       any ? "," : "");
        any = true;
    }
    /* For new rows alone: what was written before the column came keeps its NULL, unread. */
    if (table == LDG_PG_LOG && lacks(m, LDG_PG_HAS_TXID_GUARD)) {
        ldg_buf_printf(out,
                       "%s ADD CONSTRAINT " LDG_PG_TXID_GUARD " CHECK (txid IS NOT NULL) NOT VALID",
                       any ? "," : "");
        any = true;
    }
    return any;
}

static ledger_rc add_columns(struct migration *m, const struct ldg_buf *text, ledger_error *err)
{
    bool own = false;
    if (text->rc != LEDGER_OK)
        return ldg_fail_nomem(err);
    ledger_rc rc = ldg_pg_begin_write(m->pg, settings, &own, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_end(m->pg, own, run(m->pg, "adding columns", text->data, err), err);
    return rc;
}

/* --- tables, identity, trigger: one transaction ---------------------------------------------- */

static const char notify_function[] =
    "CREATE OR REPLACE FUNCTION \"{l}_notify\"() RETURNS trigger LANGUAGE plpgsql AS $ledger$ "
    "BEGIN PERFORM pg_catalog.pg_notify('ledger_{l}', ''); RETURN NULL; END $ledger$";
static const char notify_drop[] = "DROP TRIGGER IF EXISTS \"{l}_notify\" ON \"{l}\"";
static const char notify_trigger[] =
    "CREATE TRIGGER \"{l}_notify\" AFTER INSERT ON \"{l}\" FOR EACH STATEMENT "
    "EXECUTE FUNCTION \"{l}_notify\"()";
/* Nothing that a row holds may fail here, else it could not be written. What is too long for an
 * index of words is cut. */
static const char words_function[] =
    "CREATE OR REPLACE FUNCTION \"{t}_words\"(payload bytea) RETURNS tsvector LANGUAGE plpgsql "
    "IMMUTABLE STRICT AS $ledger$ BEGIN "
    "RETURN pg_catalog.jsonb_to_tsvector('pg_catalog.simple'::pg_catalog.regconfig, "
    "pg_catalog.convert_from(payload, 'UTF8')::pg_catalog.jsonb, '[\"all\"]'::pg_catalog.jsonb); "
    "EXCEPTION WHEN OTHERS THEN BEGIN "
    "RETURN pg_catalog.to_tsvector('pg_catalog.simple'::pg_catalog.regconfig, "
    "pg_catalog.left(pg_catalog.convert_from(payload, 'UTF8'), 200000)); "
    "EXCEPTION WHEN OTHERS THEN "
    "RETURN pg_catalog.to_tsvector('pg_catalog.simple'::pg_catalog.regconfig, "
    "pg_catalog.left(pg_catalog.encode(payload, 'escape'), 200000)); END; END $ledger$";

static ledger_rc create_index(struct ldg_pg *pg, size_t i, bool beside_writers, ledger_error *err)
{
    const struct ldg_pg_index_def *def = &ldg_pg_indexes[i];
    struct ldg_buf text;
    ldg_buf_init(&text, TEXT_MAX_BYTES);
    ldg_buf_printf(&text, "CREATE %sINDEX %sIF NOT EXISTS %s", def->unique ? "UNIQUE " : "",
                   beside_writers ? "CONCURRENTLY " : "", def->ddl);
    ledger_rc rc =
        text.rc == LEDGER_OK ? run(pg, "making an index", text.data, err) : ldg_fail_nomem(err);
    ldg_buf_fini(&text);
    return rc;
}

static ledger_rc create_table(struct migration *m, size_t table, ledger_error *err)
{
    struct ldg_buf text;
    ldg_buf_init(&text, TEXT_MAX_BYTES);
    ldg_buf_printf(&text, "CREATE TABLE IF NOT EXISTS \"%s\" %s", ldg_pg_tables[table].name,
                   ldg_pg_tables[table].ddl);
    ledger_rc rc =
        text.rc == LEDGER_OK ? run(m->pg, "making a table", text.data, err) : ldg_fail_nomem(err);
    ldg_buf_fini(&text);
    for (size_t i = 0; rc == LEDGER_OK && i < LDG_PG_INDEX_COUNT; i++) {
        if (ldg_pg_indexes[i].table == table && lacks(m, (uint32_t)LDG_PG_HAS_INDEX << i))
            rc = create_index(m->pg, i, false, err);
    }
    return rc;
}

static ledger_rc write_identity(struct migration *m, ledger_error *err)
{
    static const char keep[] = "INSERT INTO \"{t}_meta\"(id, uuid, epoch, created_at) "
                               "VALUES (1, $1, 1, $2) ON CONFLICT (id) DO NOTHING";
    static const char replace[] = "INSERT INTO \"{t}_meta\"(id, uuid, epoch, created_at) "
                                  "VALUES (1, $1, 1, $2) ON CONFLICT (id) DO UPDATE SET "
                                  "uuid = excluded.uuid, epoch = 1, "
                                  "created_at = excluded.created_at";
    char uuid[LDG_UUID_TEXT_MAX];
    struct ldg_pg_args args = { 0 };
    ldg_uuid_new(uuid);
    ldg_pg_arg_text(&args, uuid);
    ldg_pg_arg_time(&args, ldg_clock_now_us());
    return ldg_pg_run(m->pg, LDG_PG_FRESH, "writing the identity", m->new_identity ? replace : keep,
                      &args, NULL, err);
}

/* One program at a time, and new tables go where the entries are. */
static ledger_rc enter_schema(struct migration *m, ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    ldg_pg_arg_int64(&args, m->key);
    ldg_pg_arg_text(&args, m->shape.schema);
    return ldg_pg_run(m->pg, LDG_PG_FRESH, "waiting for others who make the tables",
                      "SELECT pg_advisory_xact_lock($1), set_config('search_path', "
                      "quote_ident($2), true)",
                      &args, NULL, err);
}

/* Something of a store is gone that its cursors, which are still there, rely on. Before what is
 * missing is made. */
static ledger_rc note_lost(struct migration *m, ledger_error *err)
{
    static const char foreign[] =
        "SELECT count(*) FROM (SELECT FROM \"{t}\" WHERE origin > 0 LIMIT 1) AS s";
    static const char lost[] = "UPDATE \"{t}_cursors\" SET state = '" LDG_CURSOR_LOST "' "
                               "WHERE state <> '' OR cursor <> ''";
    static const char lost_parked[] = "UPDATE \"{t}_cursors\" SET state = '" LDG_CURSOR_LOST "' "
                                      "WHERE state <> ''";
    const uint32_t has = m->shape.has, columns = LDG_PG_HAS_ORIGIN | LDG_PG_HAS_SOURCE_POS;
    int64_t any = 0;
    ledger_rc rc = LEDGER_OK;

    if (ldg_pg_has_table(&m->shape, LDG_PG_ENTRIES) && (has & columns) == columns &&
        !ldg_pg_has_table(&m->shape, LDG_PG_ORIGINS)) {
        rc = ldg_pg_run_int64(m->pg, "looking for entries of other stores", foreign, NULL, NULL,
                              &any, err);
        if (rc == LEDGER_OK && any)
            rc = ldg_schema_fail_origins(m->pg->where, m->pg->table, err);
    }
    if (rc == LEDGER_OK && ldg_pg_has_table(&m->shape, LDG_PG_CURSORS) &&
        has & LDG_PG_HAS_CURSOR_STATE) {
        if (!ldg_pg_has_table(&m->shape, LDG_PG_ENTRIES))
            rc = run(m->pg, "marking cursors", lost, err);
        else if (!ldg_pg_has_table(&m->shape, LDG_PG_PARKED))
            rc = run(m->pg, "marking cursors", lost_parked, err);
    }
    return rc;
}

static ledger_rc make_missing(struct migration *m, ledger_error *err)
{
    ledger_rc rc = enter_schema(m, err);
    if (rc == LEDGER_OK) /* somebody may have been faster */
        rc = ldg_pg_catalog_read(m->pg, m->want_log, &m->shape, err);
    if (rc == LEDGER_OK)
        rc = note_lost(m, err);
    /* before the index that is on it */
    if (rc == LEDGER_OK && lacks(m, LDG_PG_HAS_WORDS))
        rc = run(m->pg, "making a function", words_function, err);
    for (size_t n = 0; rc == LEDGER_OK && n < LDG_PG_TABLE_COUNT; n++) {
        if (lacks(m, (uint32_t)LDG_PG_HAS_TABLE << n))
            rc = create_table(m, n, err);
    }
    if (rc == LEDGER_OK && (m->new_identity || lacks(m, LDG_PG_HAS_IDENTITY)))
        rc = write_identity(m, err);
    if (rc == LEDGER_OK && lacks(m, LDG_PG_HAS_NOTIFY)) {
        rc = run(m->pg, "making a function", notify_function, err);
        if (rc == LEDGER_OK) /* a disabled one */
            rc = run(m->pg, "making a trigger", notify_drop, err);
        if (rc == LEDGER_OK)
            rc = run(m->pg, "making a trigger", notify_trigger, err);
    }
    return rc;
}

static ledger_rc make_tables(struct migration *m, ledger_error *err)
{
    bool own = false;
    ledger_rc rc = ldg_pg_begin_write(m->pg, settings, &own, err);
    if (rc != LEDGER_OK)
        return rc;
    rc = ldg_pg_end(m->pg, own, make_missing(m, err), err);
    if (rc == LEDGER_OK)
        m->new_identity = false;
    return rc;
}

/* --- indexes of tables that are there -------------------------------------------------------- */

/* What a broken build left. The lock keeps out whoever builds or drops it now, and no writer. */
static ledger_rc drop_invalid(struct migration *m, size_t i, ledger_error *err)
{
    char name[80], text[256];
    bool own = false;
    ledger_rc rc = ldg_pg_begin_write(m->pg, settings, &own, err);
    if (rc != LEDGER_OK)
        return rc;
    snprintf(text, sizeof(text), "LOCK TABLE \"%s\" IN SHARE UPDATE EXCLUSIVE MODE",
             ldg_pg_tables[ldg_pg_indexes[i].table].name);
    rc = run(m->pg, "waiting for others who make the index", text, err);
    if (rc == LEDGER_OK)
        rc = ldg_pg_catalog_read(m->pg, m->want_log, &m->shape, err);
    if (rc == LEDGER_OK && m->shape.invalid & 1u << i) {
        snprintf(text, sizeof(text), "DROP INDEX \"%s\"",
                 ldg_pg_name(m->pg, ldg_pg_indexes[i].name, name));
        rc = run(m->pg, "dropping an index whose building was broken off", text, err);
    }
    return ldg_pg_end(m->pg, own, rc, err);
}

/* Session settings for the time of a build, which cannot be in a transaction: waiting for old
 * transactions holds nobody up. Given back afterwards. */
enum { LOCK_TIMEOUT, STATEMENT_TIMEOUT, TRANSACTION_TIMEOUT, TIMEOUTS };
struct timeouts {
    char values[TIMEOUTS][32]; /* "": this server has no such limit */
};

static ledger_rc set_timeouts(struct ldg_pg *pg, const struct timeouts *timeouts,
                              struct timeouts *ret_old, ledger_error *err)
{
    static const char set[] =
        "WITH old AS MATERIALIZED (SELECT t.n, t.name, t.value, coalesce(current_setting(t.name, "
        "true), '') AS was FROM (VALUES (1, 'lock_timeout', $1), (2, 'statement_timeout', $2), "
        "(3, 'transaction_timeout', $3)) AS t(n, name, value)) "
        "SELECT was, CASE WHEN was != '' THEN set_config(name, value, false) END FROM old "
        "ORDER BY n";
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    for (int i = 0; i < TIMEOUTS; i++)
        ldg_pg_arg_text(&args, timeouts->values[i]);
    ledger_rc rc = ldg_pg_run(pg, LDG_PG_FRESH, "setting timeouts", set, &args, &result, err);
    for (int i = 0; rc == LEDGER_OK && ret_old && i < TIMEOUTS; i++)
        snprintf(ret_old->values[i], sizeof(ret_old->values[i]), "%s",
                 ldg_pg_get_text(result, i, 0));
    PQclear(result);
    return rc;
}

/* Not waiting: whoever waits for it has a snapshot, and a build waits for old snapshots. */
static ledger_rc try_lock(struct migration *m, ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    PGresult *result = NULL;
    ldg_pg_arg_int64(&args, m->key + 1);
    ledger_rc rc = ldg_pg_run(m->pg, LDG_PG_FRESH, "waiting for others who make the index",
                              "SELECT pg_try_advisory_lock($1)", &args, &result, err);
    if (rc == LEDGER_OK && !ldg_pg_get_bool(result, 0, 0))
        rc = ldg_fail(err, LEDGER_ERR_BUSY, "%s: another program makes an index of table \"%s\"",
                      m->pg->where, m->pg->table);
    PQclear(result);
    return rc;
}

static ledger_rc unlock(struct migration *m, ledger_error *err)
{
    struct ldg_pg_args args = { 0 };
    ldg_pg_arg_int64(&args, m->key + 1);
    return ldg_pg_run(m->pg, LDG_PG_FRESH, "giving a lock back", "SELECT pg_advisory_unlock($1)",
                      &args, NULL, err);
}

static ledger_rc build_index(struct migration *m, size_t i, int64_t left_us, ledger_error *err)
{
    struct ldg_pg *pg = m->pg;
    const bool session = !pg->pooled; /* else the next statement may be in another one */
    struct timeouts limits = { { "", "0", "0" } }, old = { { "" } };
    ledger_error second;
    ledger_rc rc = LEDGER_OK;

    if (m->shape.invalid & 1u << i)
        return drop_invalid(m, i, err);
    if (session)
        rc = try_lock(m, err);
    if (rc != LEDGER_OK)
        return rc;
    snprintf(limits.values[LOCK_TIMEOUT], sizeof(limits.values[LOCK_TIMEOUT]), "%lldms",
             (long long)(left_us > 1000 ? left_us / 1000 : 1));
    if (session)
        rc = set_timeouts(pg, &limits, &old, err);
    if (rc == LEDGER_OK)
        rc = create_index(pg, i, true, err);
    if (session && old.values[LOCK_TIMEOUT][0] && pg->conn)
        (void)!set_timeouts(pg, &old, NULL, &second);
    if (session && pg->conn)
        (void)!unlock(m, &second);
    /* Only a unique index over rows that are there already can be refused. It would go on refusing
     * new ones. */
    if (rc == LEDGER_ERR_REJECTED) {
        ledger_error why = *err;
        if (pg->conn && ldg_pg_catalog_read(pg, m->want_log, &m->shape, &second) == LEDGER_OK &&
            m->shape.invalid & 1u << i)
            (void)!drop_invalid(m, i, &second);
        rc = ldg_fail_native(err, LEDGER_ERR_SCHEMA, why.backend, why.native_code,
                             "table \"%s\" has two entries with the same key, where a ledger has "
                             "one: %s",
                             pg->table, why.message);
    }
    return rc;
}

/* --- step by step ---------------------------------------------------------------------------- */

/* The next thing to do, done. */
static ledger_rc step(struct migration *m, int64_t left_us, ledger_error *err)
{
    struct ldg_buf text;
    ledger_rc rc = LEDGER_OK;
    ldg_buf_init(&text, TEXT_MAX_BYTES);
    for (size_t n = 0; n < LDG_PG_TABLE_COUNT; n++) {
        ldg_buf_reset(&text);
        if (put_columns(m, n, &text)) {
            rc = add_columns(m, &text, err);
            goto out;
        }
    }
    if (m->new_identity ||
        lacks(m, (uint32_t)((1 << LDG_PG_TABLE_COUNT) - 1) | LDG_PG_HAS_IDENTITY |
                     LDG_PG_HAS_NOTIFY | LDG_PG_HAS_WORDS)) {
        rc = make_tables(m, err);
        goto out;
    }
    for (size_t i = 0; i < LDG_PG_INDEX_COUNT; i++) {
        if (lacks(m, (uint32_t)LDG_PG_HAS_INDEX << i)) {
            rc = build_index(m, i, left_us, err);
            goto out;
        }
    }
out:
    ldg_buf_fini(&text);
    return rc;
}

/* A lock that was not had, a deadlock, or somebody who made or dropped the same at the same time
 * (for functions the server has no code of its own: XX000). */
static bool may_repeat(ledger_rc rc, const ledger_error *err)
{
    static const char *const states[] = { "55P03", "40P01", "40001", "23505", "42P07",
                                          "42710", "42701", "XX000", "42704" };
    const char *sqlstate = ldg_pg_sqlstate(err);
    if (rc == LEDGER_ERR_BUSY && !*sqlstate)
        return true;
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        if (strcmp(sqlstate, states[i]) == 0)
            return rc != LEDGER_ERR_SCHEMA || strncmp(sqlstate, "42", 2) == 0;
    }
    return false;
}

static void pause_ms(int ms)
{
    /* Not all at once again. */
    poll(NULL, 0, ms / 2 + (int)(ldg_random_u64() % (unsigned)ms));
}

ledger_rc ldg_pg_migrate(struct ldg_pg *pg, uint32_t need, bool want_log, bool new_identity,
                         struct ldg_pg_shape *shape, ledger_error *err)
{
    const int64_t end_us = ldg_clock_mono_us() + LIMIT_US;
    struct migration m = { .pg = pg,
                           .need = need,
                           .want_log = want_log,
                           .new_identity = new_identity,
                           .key = (int64_t)ldg_hash64(pg->table, strlen(pg->table), 0x1ed9e4),
                           .shape = *shape };
    int wait_ms = PAUSE_MIN_MS, done = 0;
    ledger_rc rc = LEDGER_OK;

    while (rc == LEDGER_OK && ((m.shape.has & need) != need || m.new_identity)) {
        const int64_t left_us = end_us - ldg_clock_mono_us();
        rc = ++done > STEPS_MAX
                 ? ldg_fail(err, LEDGER_ERR_INTERNAL,
                            "tables of \"%s\": what is made is not found again", pg->table)
                 : step(&m, left_us, err);
        if (rc != LEDGER_OK && may_repeat(rc, err) && pg->conn) {
            if (left_us <= 0) {
                ledger_error why = *err;
                rc = ldg_fail_native(err, LEDGER_ERR_BUSY, why.backend, why.native_code,
                                     "tables of \"%s\" could not be completed within %d seconds, "
                                     "because another transaction holds them; what was done stays, "
                                     "run it again: %.300s",
                                     pg->table, (int)(LIMIT_US / 1000000), why.message);
                break;
            }
            pause_ms(wait_ms);
            wait_ms = wait_ms * 2 < PAUSE_MAX_MS ? wait_ms * 2 : PAUSE_MAX_MS;
            rc = LEDGER_OK;
            done--;
        }
        if (rc == LEDGER_OK)
            rc = ldg_pg_catalog_read(pg, want_log, &m.shape, err);
    }
    if (rc == LEDGER_OK)
        *shape = m.shape;
    return rc;
}
