/* Statements: prepared once and kept, bound, stepped, reset.
 *
 * Hides the statements of a handle and how the names of its tables come into their texts. Every
 * name is main.-qualified and quoted, so no attached database and no keyword can stand in for a
 * table of ours. Invariant: a statement is reset when its use ends, so that no read transaction
 * outlives the call that needed it. */
#include "backend/sqlite/sqlite.h"

#include <string.h>

/* --- texts ----------------------------------------------------------------------------------- */

/* The columns of an entry, in the order of query.c, of a table named e. */
#define ENTRY_COLUMNS                                                                              \
    "id, stream, " LDG_SQLITE_SMALL_PAYLOAD ", " LDG_SQLITE_LARGE_SIZE                             \
    ", order_key, dedup_key, schema_version, metadata, tags, annotations, created_at, updated_at"
#define ENTRY_ORIGIN                                                                               \
    "origin, source_pos, CASE WHEN origin = 0 THEN NULL ELSE "                                     \
    "(SELECT o.uuid FROM main.\"%s_origins\" AS o WHERE o.id = e.origin) END"

static void put_columns(const struct ldg_sqlite *s, sqlite3_str *out)
{
    sqlite3_str_appendall(out, ENTRY_COLUMNS);
    sqlite3_str_appendall(out, s->has_source_id ? ", source_id, " : ", '', ");
    if (s->has_ours)
        sqlite3_str_appendf(out, ENTRY_ORIGIN, s->table);
    else
        sqlite3_str_appendall(out, "0, NULL, NULL");
}

static void put_values(sqlite3_str *out, int columns, int rows)
{
    for (int row = 0; row < rows; row++) {
        sqlite3_str_appendall(out, row > 0 ? ", (?" : "(?");
        for (int i = 1; i < columns; i++)
            sqlite3_str_appendall(out, ", ?");
        sqlite3_str_appendall(out, ")");
    }
}

/* What a statement stands for besides its text. */
struct form {
    int columns, rows; /* of %V */
    bool by_text;      /* %K and %I: keys are texts */
};

/* The two places of a key: this is where the kind of an id chooses between them. */
static void put_key(sqlite3_str *out, bool by_text)
{
    sqlite3_str_appendall(out, by_text ? "source_id" : "source_pos");
}

static void put_is_keyed(sqlite3_str *out, bool by_text)
{
    sqlite3_str_appendall(out, by_text ? "origin != 0 AND source_pos IS NULL"
                                       : "source_pos IS NOT NULL");
}

static char *expand(const struct ldg_sqlite *s, const char *text, struct form form)
{
    sqlite3_str *out = sqlite3_str_new(s->db);

    for (const char *p = text; *p != '\0'; p++) {
        if (*p != '%') {
            size_t size = strcspn(p, "%");
            sqlite3_str_append(out, p, (int)size);
            p += size - 1;
            continue;
        }
        switch (*++p) {
        case 'T':
            sqlite3_str_appendall(out, s->table);
            break;
        case 'L':
            sqlite3_str_appendall(out, s->log_table);
            break;
        case 'C':
            put_columns(s, out);
            break;
        case 'V':
            put_values(out, form.columns, form.rows);
            break;
        case 'K':
            put_key(out, form.by_text);
            break;
        case 'I':
            put_is_keyed(out, form.by_text);
            break;
        default: /* of LIKE: stays */
            sqlite3_str_appendchar(out, 1, '%');
            p--;
            break;
        }
    }
    return sqlite3_str_finish(out);
}

char *ldg_sql_expand(const struct ldg_sqlite *s, const char *text)
{
    return expand(s, text, (struct form){ 0 });
}

/* --- the statements of a handle -------------------------------------------------------------- */

struct ldg_sqlite_prepared {
    struct ldg_sqlite_prepared *next; /* in its slot */
    const char *text;                 /* found by its address … */
    struct form form;                 /* … and this */
    sqlite3_stmt *stmt;
};

/* Our own text: only a missing or misshapen table, column or index can be wrong. */
static ledger_rc fail_text(struct ldg_sqlite *s, ledger_error *err)
{
    return ldg_fail_native(
        err, LEDGER_ERR_SCHEMA, "sqlite", SQLITE_ERROR,
        "%s%stable \"%s\": %s; run `ledgerctl store init` to make what is missing",
        s->path ? s->path : "", s->path ? ": " : "", s->table, sqlite3_errmsg(s->db));
}

static struct ldg_sqlite_prepared **slot_of(struct ldg_sqlite *s, const char *text,
                                            struct form form)
{
    const uint64_t hash =
        ((uintptr_t)text + (unsigned)form.rows + form.by_text) * UINT64_C(0x9e3779b97f4a7c15);

    return &s->prepared[hash >> 58];
}
_Static_assert(LDG_SQLITE_SLOTS == 1 << (64 - 58), "slots by the upper bits of the hash");

static ledger_rc prepare(struct ldg_sqlite *s, const char *text, struct form form,
                         sqlite3_stmt **ret_stmt, ledger_error *err)
{
    struct ldg_sqlite_prepared **slot = slot_of(s, text, form), *item;
    ledger_rc rc = LEDGER_OK;
    char *sql = NULL;

    for (item = *slot; item != NULL; item = item->next) {
        if (item->text == text && item->form.rows == form.rows &&
            item->form.by_text == form.by_text) {
            *ret_stmt = item->stmt;
            return LEDGER_OK;
        }
    }
    item = ldg_calloc(1, sizeof(*item));
    sql = expand(s, text, form);
    if (item == NULL || sql == NULL) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    *item = (struct ldg_sqlite_prepared){ .next = *slot, .text = text, .form = form };
    int code = sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &item->stmt, NULL);
    if (code == SQLITE_ERROR)
        rc = fail_text(s, err);
    else if (code != SQLITE_OK)
        rc = ldg_sqlite_fail(s, code, "preparing a statement", err);
    if (rc != LEDGER_OK)
        goto out;
    *ret_stmt = item->stmt;
    *slot = item;
    item = NULL;
out:
    ldg_free(item);
    sqlite3_free(sql);
    return rc;
}

ledger_rc ldg_sql_prepare(struct ldg_sqlite *s, const char *text, ledger_error *err)
{
    sqlite3_stmt *stmt;

    return prepare(s, text, (struct form){ 0 }, &stmt, err);
}

ledger_rc ldg_sql_check(struct ldg_sqlite *s, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; i < LDG_SQLITE_SLOTS; i++) {
        for (struct ldg_sqlite_prepared *item = s->prepared[i]; rc == LEDGER_OK && item != NULL;
             item = item->next) {
            sqlite3_stmt *again = NULL;
            if (sqlite3_prepare_v2(s->db, sqlite3_sql(item->stmt), -1, &again, NULL) ==
                SQLITE_ERROR)
                rc = fail_text(s, err);
            sqlite3_finalize(again);
        }
    }
    return rc;
}

void ldg_sql_fini(struct ldg_sqlite *s)
{
    for (size_t i = 0; i < LDG_SQLITE_SLOTS; i++) {
        struct ldg_sqlite_prepared *item = s->prepared[i], *next;

        for (; item != NULL; item = next) {
            next = item->next;
            sqlite3_finalize(item->stmt);
            ldg_free(item);
        }
        s->prepared[i] = NULL;
    }
}

/* --- one use of a statement ------------------------------------------------------------------ */

static void note(struct ldg_sql *q, int code)
{
    if (code != SQLITE_OK && q->rc == LEDGER_OK)
        q->rc = q->fail(q->s, code, q->doing, q->err);
}

static void start(struct ldg_sql *q, struct ldg_sqlite *s, const char *doing, ledger_error *err)
{
    *q = (struct ldg_sql){ .fail = ldg_sqlite_fail, .s = s, .doing = doing, .err = err };
}

void ldg_sql_begin_rows(struct ldg_sql *q, struct ldg_sqlite *s, const char *doing,
                        const char *text, int columns, int rows, ledger_error *err)
{
    start(q, s, doing, err);
    q->rc = prepare(s, text, (struct form){ .columns = columns, .rows = rows }, &q->stmt, err);
}

void ldg_sql_begin_key(struct ldg_sql *q, struct ldg_sqlite *s, const char *doing, const char *text,
                       int origin, ledger_id key, ledger_error *err)
{
    start(q, s, doing, err);
    q->rc = prepare(s, text, (struct form){ .by_text = key.text != NULL }, &q->stmt, err);
    ldg_sql_int(q, origin);
    if (key.text != NULL)
        ldg_sql_text(q, key.text);
    else
        ldg_sql_int(q, key.number);
}

void ldg_sql_begin(struct ldg_sql *q, struct ldg_sqlite *s, const char *doing, const char *text,
                   ledger_error *err)
{
    ldg_sql_begin_rows(q, s, doing, text, 0, 0, err);
}

void ldg_sql_begin_once(struct ldg_sql *q, struct ldg_sqlite *s, const char *doing,
                        const char *text, ledger_error *err)
{
    char *sql = ldg_sql_expand(s, text);

    start(q, s, doing, err);
    q->once = true;
    if (sql == NULL)
        q->rc = ldg_fail_nomem(err);
    else
        note(q, sqlite3_prepare_v2(s->db, sql, -1, &q->stmt, NULL));
    sqlite3_free(sql);
}

void ldg_sql_int(struct ldg_sql *q, int64_t value)
{
    if (q->rc == LEDGER_OK)
        note(q, sqlite3_bind_int64(q->stmt, ++q->bound, value));
}

void ldg_sql_text(struct ldg_sql *q, const char *text)
{
    if (q->rc == LEDGER_OK)
        note(q, sqlite3_bind_text(q->stmt, ++q->bound, text, -1, SQLITE_STATIC));
}

void ldg_sql_text_n(struct ldg_sql *q, const char *text, size_t size)
{
    if (q->rc == LEDGER_OK)
        note(q, sqlite3_bind_text64(q->stmt, ++q->bound, text, size, SQLITE_STATIC, SQLITE_UTF8));
}

void ldg_sql_blob(struct ldg_sql *q, const void *data, size_t size)
{
    /* A NULL pointer would bind NULL. */
    if (q->rc == LEDGER_OK)
        note(q,
             sqlite3_bind_blob64(q->stmt, ++q->bound, size > 0 ? data : "", size, SQLITE_STATIC));
}

void ldg_sql_time(struct ldg_sql *q, int64_t time_us)
{
    char text[LDG_TIME_TEXT_MAX];

    if (time_us == LEDGER_NO_TIME) {
        ldg_sql_text(q, NULL);
    } else if (q->rc == LEDGER_OK) {
        ldg_time_format_ms(time_us, text);
        note(q, sqlite3_bind_text(q->stmt, ++q->bound, text, -1, SQLITE_TRANSIENT));
    }
}

void ldg_sql_key_number(struct ldg_sql *q, ledger_id key)
{
    if (key.text != NULL)
        ldg_sql_text(q, NULL);
    else
        ldg_sql_int(q, key.number);
}

void ldg_sql_position(struct ldg_sql *q, int64_t position)
{
    if (position != 0)
        ldg_sql_int(q, position);
    else
        ldg_sql_text(q, NULL);
}

bool ldg_sql_row(struct ldg_sql *q)
{
    int code;

    if (q->rc == LEDGER_OK && !q->s->has_handlers && !q->s->undisturbed &&
        ldg_wait_interrupted(q->s->wait))
        q->rc = ldg_sqlite_fail_interrupted(q->s, q->doing, q->err);
    if (q->rc != LEDGER_OK)
        return false;
    code = sqlite3_step(q->stmt);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        note(q, code);
    return code == SQLITE_ROW;
}

void ldg_sql_again(struct ldg_sql *q)
{
    sqlite3_reset(q->stmt);
    q->bound = 0;
}

ledger_rc ldg_sql_end(struct ldg_sql *q)
{
    if (q->once)
        sqlite3_finalize(q->stmt);
    else
        sqlite3_reset(q->stmt);
    q->stmt = NULL;
    return q->rc;
}

ledger_rc ldg_sql_run(struct ldg_sql *q)
{
    (void)ldg_sql_row(q);
    return ldg_sql_end(q);
}

ledger_rc ldg_sql_exec(struct ldg_sqlite *s, const char *doing, const char *text, ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin(&q, s, doing, text, err);
    return ldg_sql_run(&q);
}

ledger_rc ldg_sql_control(struct ldg_sqlite *s, const char *doing, const char *text,
                          ledger_error *err)
{
    s->undisturbed = true;
    ledger_rc rc = ldg_sql_exec(s, doing, text, err);
    s->undisturbed = false;
    return rc;
}

ledger_rc ldg_sql_exec_ints(struct ldg_sqlite *s, const char *doing, const char *text,
                            const int64_t *values, size_t count, int64_t *ret_value,
                            ledger_error *err)
{
    struct ldg_sql q;

    ldg_sql_begin(&q, s, doing, text, err);
    for (size_t i = 0; i < count; i++)
        ldg_sql_int(&q, values[i]);
    if (ldg_sql_row(&q) && ret_value != NULL)
        *ret_value = sqlite3_column_int64(q.stmt, 0);
    return ldg_sql_end(&q);
}

ledger_rc ldg_sqlite_exec(struct ldg_sqlite *s, const char *doing, ledger_error *err,
                          const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *sql = sqlite3_vmprintf(fmt, args);
    va_end(args);
    if (!sql)
        return ldg_fail_nomem(err);
    int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    ledger_rc result = rc == SQLITE_OK ? LEDGER_OK : ldg_sqlite_fail(s, rc, doing, err);
    sqlite3_free(sql);
    return result;
}

static const char rollback_text[] = "ROLLBACK";

ledger_rc ldg_sqlite_rollback_ready(struct ldg_sqlite *s, ledger_error *err)
{
    return ldg_sql_prepare(s, rollback_text, err);
}

void ldg_sqlite_rollback(struct ldg_sqlite *s)
{
    sqlite3_stmt *stmt;
    ledger_error ignored;

    /* Without a transaction SQLite has ended it itself. The text is run directly: this must work
     * when memory for a statement is short. */
    if (!sqlite3_get_autocommit(s->db) && sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL) &&
        prepare(s, rollback_text, (struct form){ 0 }, &stmt, &ignored) == LEDGER_OK) {
        sqlite3_step(stmt);
        sqlite3_reset(stmt);
    }
}

/* --- columns --------------------------------------------------------------------------------- */

ledger_bytes ldg_sql_bytes(struct ldg_sql *q, int column)
{
    const void *data = sqlite3_column_blob(q->stmt, column);
    const ledger_bytes bytes = { data, (size_t)sqlite3_column_bytes(q->stmt, column) };

    if (bytes.size > 0 && data == NULL && q->rc == LEDGER_OK)
        q->rc = ldg_fail_nomem(q->err);
    return bytes;
}

ledger_id ldg_sql_key(struct ldg_sql *q, int column)
{
    const char *text;

    if (sqlite3_column_type(q->stmt, column) != SQLITE_TEXT)
        return (ledger_id){ .number = sqlite3_column_int64(q->stmt, column) };
    text = (const char *)sqlite3_column_text(q->stmt, column);
    if (text == NULL && q->rc == LEDGER_OK)
        q->rc = ldg_fail_nomem(q->err);
    return (ledger_id){ .text = text };
}

const char *ldg_sql_copy(struct ldg_sql *q, int column, struct ldg_arena *arena)
{
    const char *text = (const char *)sqlite3_column_text(q->stmt, column);
    char *copy = ldg_arena_strdup(arena, text != NULL ? text : "");

    if (copy == NULL && q->rc == LEDGER_OK)
        q->rc = ldg_fail_nomem(q->err);
    return copy;
}

void ldg_sql_add_name(struct ldg_sql *q, ledger_names *names, size_t *cap)
{
    const char *text = (const char *)sqlite3_column_text(q->stmt, 0);
    const size_t next = *cap == 0 ? 16 : *cap * 2;

    if (names->count == *cap) {
        char **more = ldg_realloc(names->items, next * sizeof(*more));
        if (more == NULL) {
            q->rc = ldg_fail_nomem(q->err);
            return;
        }
        names->items = more;
        *cap = next;
    }
    names->items[names->count] = ldg_strdup(text != NULL ? text : "");
    if (names->items[names->count] == NULL)
        q->rc = ldg_fail_nomem(q->err);
    else
        names->count++;
}

int64_t ldg_sql_column_time(sqlite3_stmt *stmt, int column)
{
    const char *text = (const char *)sqlite3_column_text(stmt, column);
    int64_t time_us;

    if (text == NULL || !ldg_time_parse(text, (size_t)sqlite3_column_bytes(stmt, column), &time_us))
        time_us = LEDGER_NO_TIME;
    return time_us;
}

/* --- refusals ----------------------------------------------------------------------------------
 */

/* A statement that can be prepared meets an SQLITE_ERROR only in a trigger or a generated column;
 * one that cannot be, because a table is no longer what it was when it was prepared first, would
 * meet it with any row. */
ledger_rc ldg_sqlite_op_fail(struct ldg_sqlite *s, int code, const char *doing, ledger_error *err)
{
    const int primary = code & 0xff;
    const bool known = (sqlite3_errcode(s->db) & 0xff) == primary;
    ledger_error rejected;
    ledger_rc rc;

    if (primary != SQLITE_CONSTRAINT && primary != SQLITE_TOOBIG && primary != SQLITE_MISMATCH &&
        primary != SQLITE_ERROR)
        return ldg_sqlite_fail(s, code, doing, err);
    rc = ldg_fail_native(&rejected, LEDGER_ERR_REJECTED, "sqlite",
                         known ? sqlite3_extended_errcode(s->db) : code, "%s",
                         known ? sqlite3_errmsg(s->db) : sqlite3_errstr(code));
    if (primary == SQLITE_ERROR && ldg_sql_check(s, err) != LEDGER_OK)
        rc = err->code;
    else
        *err = rejected;
    return rc;
}
