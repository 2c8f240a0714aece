/* The texts of statements: templates with the names of this store put in, kept by their address.
 *
 * Hides where they are kept. What is kept dies with the connection, for with it die the statements
 * that were prepared of it, and what is known of the tables. */
#include "backend/postgres/exec.h"

#include <string.h>

static void put_entry_columns(const struct ldg_pg *pg, struct ldg_buf *out)
{
    ldg_buf_puts(out, "e.id, e.stream, e.payload, e.order_key, e.dedup_key, e.schema_version, "
                      "e.metadata, e.tags, e.annotations, e.created_at, e.updated_at, ");
    ldg_buf_puts(out, pg->has_source_id ? "e.source_id, " : "''::text, ");
    if (!pg->has_ours) {
        ldg_buf_puts(out, "0::int4, NULL::int8, NULL::text");
        return;
    }
    ldg_buf_puts(out, "e.origin, e.source_pos, CASE WHEN e.origin = 0 THEN NULL ELSE "
                      "(SELECT o.uuid FROM \"");
    ldg_buf_puts(out, pg->table);
    ldg_buf_puts(out, "_origins\" AS o WHERE o.id = e.origin) END");
}

ledger_rc ldg_pg_expand(const struct ldg_pg *pg, const char *template, struct ldg_buf *out)
{
    for (const char *p = template; *p;) {
        if (strncmp(p, "{t}", 3) == 0)
            ldg_buf_puts(out, pg->table);
        else if (strncmp(p, "{l}", 3) == 0)
            ldg_buf_puts(out, pg->log_table);
        else if (strncmp(p, "{e}", 3) == 0)
            put_entry_columns(pg, out);
        else {
            size_t size = 1 + strcspn(p + 1, "{");
            ldg_buf_append(out, p, size);
            p += size;
            continue;
        }
        p += 3;
    }
    return out->rc;
}

/* Index of the first kept text whose template is not before this one. */
static size_t lower_bound(const struct ldg_pg *pg, const char *template)
{
    size_t low = 0, high = pg->sql_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uintptr_t)pg->sqls[middle]->template <(uintptr_t) template)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool reserve_sql(struct ldg_pg *pg)
{
    if (pg->sql_count < pg->sql_cap)
        return true;
    size_t cap = pg->sql_cap ? pg->sql_cap * 2 : 32;
    struct ldg_pg_sql **sqls = ldg_realloc(pg->sqls, cap * sizeof(struct ldg_pg_sql *));
    if (!sqls)
        return false;
    pg->sqls = sqls;
    pg->sql_cap = cap;
    return true;
}

struct ldg_pg_sql *ldg_pg_sql_get(struct ldg_pg *pg, const char *template, ledger_error *err)
{
    struct ldg_buf text;
    struct ldg_pg_sql *sql = NULL;
    size_t at = lower_bound(pg, template);
    ldg_buf_init(&text, LDG_PG_SQL_MAX_BYTES);
    if (at < pg->sql_count && pg->sqls[at]->template == template) {
        sql = pg->sqls[at];
        goto out;
    }
    if (ldg_pg_expand(pg, template, &text) == LEDGER_OK && reserve_sql(pg))
        sql = ldg_calloc(1, sizeof(*sql));
    if (!sql) {
        ldg_fail_nomem(err);
        goto out;
    }
    sql->template = template;
    sql->text = ldg_buf_take(&text);
    memmove(pg->sqls + at + 1, pg->sqls + at, (pg->sql_count - at) * sizeof(pg->sqls[0]));
    pg->sqls[at] = sql;
    pg->sql_count++;
out:
    ldg_buf_fini(&text);
    return sql;
}

void ldg_pg_forget(struct ldg_pg *pg)
{
    for (size_t i = 0; i < pg->sql_count; i++) {
        ldg_free(pg->sqls[i]->text);
        ldg_free(pg->sqls[i]);
    }
    ldg_free(pg->sqls);
    ldg_free(pg->sent);
    pg->sqls = NULL;
    pg->sent = NULL;
    pg->sql_count = pg->sql_cap = 0;
    pg->sent_first = pg->sent_count = pg->sent_cap = 0;
}
