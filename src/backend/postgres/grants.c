/* Which privileges a role needs for what it does with the tables, and lacks.
 *
 * Invariant: the list in docs/POSTGRESQL.md is this one. */
#include "backend/postgres/schema.h"

#include <stdio.h>
#include <string.h>

#define S LDG_PG_MAY_SELECT
#define I LDG_PG_MAY_INSERT
#define U LDG_PG_MAY_UPDATE
#define D LDG_PG_MAY_DELETE
/* always: without these nothing works. more: changes, trims, what is shown and kept aside */
static const struct needs {
    enum ldg_pg_table table;
    uint32_t always[LDG_PG_USE_COUNT], more[LDG_PG_USE_COUNT]; /* program, source, sink */
} needs[] = {
    { LDG_PG_ENTRIES, { S | I, S, S | I }, { U | D, 0, U | D } },
    { LDG_PG_CURSORS, { 0, 0, S | I | U }, { 0, 0, 0 } },
    { LDG_PG_META, { S, S, S }, { 0, 0, 0 } },
    { LDG_PG_ORIGINS, { S, S, S | I }, { 0, 0, U } },
    { LDG_PG_PARKED, { 0, 0, S | I }, { 0, S, U | D } },
    { LDG_PG_FOREIGN, { 0, 0, S }, { 0, 0, I | U | D } },
    { LDG_PG_LOG, { I, S, I }, { 0, 0, 0 } },
};
#undef S
#undef I
#undef U
#undef D

static void name_privileges(uint32_t bits, char *out, size_t out_size)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } names[] = {
        { LDG_PG_MAY_SELECT, "SELECT" },
        { LDG_PG_MAY_INSERT, "INSERT" },
        { LDG_PG_MAY_UPDATE, "UPDATE" },
        { LDG_PG_MAY_DELETE, "DELETE" },
    };
    size_t size = 0;

    out[0] = '\0';
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && size < out_size; i++) {
        if (bits & names[i].bit)
            size += (size_t)snprintf(out + size, out_size - size, "%s%s", size > 0 ? ", " : "",
                                     names[i].name);
    }
}

/* A statement that is cut off would not help: what does not fit is told after the first ones are
 * given. */
static void add_statement(const char *statement, char *out, size_t out_size)
{
    const size_t size = strlen(out);

    if (size + strlen(statement) + 3 <= out_size)
        snprintf(out + size, out_size - size, "%s%s", size > 0 ? "; " : "", statement);
}

bool ldg_pg_lacks_grants(const struct ldg_pg *pg, const struct ldg_pg_shape *shape,
                         enum ldg_pg_use use, bool all, char *out, size_t out_size)
{
    char table[80], list[64], statement[320];

    out[0] = '\0';
    for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
        const enum ldg_pg_table n = needs[i].table;
        const uint32_t need = needs[i].always[use] | (all ? needs[i].more[use] : 0);
        const struct ldg_pg_sequence *q = &shape->sequences[n];

        if (!ldg_pg_has_table(shape, n))
            continue;
        if (need & ~shape->tables[n]) {
            name_privileges(need & ~shape->tables[n], list, sizeof(list));
            snprintf(statement, sizeof(statement), "GRANT %s ON \"%s\" TO \"%s\"", list,
                     ldg_pg_name(pg, ldg_pg_tables[n].name, table), shape->role);
            add_statement(statement, out, out_size);
        }
        if ((need & LDG_PG_MAY_INSERT) && q->name[0] && !q->may_use) {
            snprintf(statement, sizeof(statement), "GRANT USAGE ON SEQUENCE %s TO \"%s\"", q->name,
                     shape->role);
            add_statement(statement, out, out_size);
        }
    }
    return out[0] != '\0';
}

ledger_rc ldg_pg_check_role(const struct ldg_pg *pg, const struct ldg_pg_shape *shape,
                            ledger_error *err)
{
    const enum ldg_pg_use use = pg->role == LDG_ROLE_SINK ? LDG_PG_USE_SINK : LDG_PG_USE_SOURCE;
    char lacking[400];

    if (!ldg_pg_lacks_grants(pg, shape, use, false, lacking, sizeof(lacking)))
        return LEDGER_OK;
    return ldg_fail(err, LEDGER_ERR_PERMISSION, "%s: role \"%s\" lacks a privilege: %s", pg->where,
                    shape->role, lacking);
}
