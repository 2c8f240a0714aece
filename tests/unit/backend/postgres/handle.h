/* A handle of the PostgreSQL backend without store.c around it, for tests that look inside. */
#ifndef TESTS_UNIT_BACKEND_POSTGRES_HANDLE_H
#define TESTS_UNIT_BACKEND_POSTGRES_HANDLE_H

#include <string.h>

#include "fixtures.h"
#include "pg_server.h"

#include "backend/postgres/parked.h"

extern const struct ldg_backend ldg_backend_postgres;

/* How long a handle waits for a lock: short, where nobody lets go of it; long, where somebody does.
 */
#define HANDLE_BUSY_MS 300
#define HANDLE_PATIENT_MS 60000
static int handle_busy_ms = HANDLE_BUSY_MS; /* of those that are opened from now on */

static inline ledger_rc handle_try(struct ldg_pg *pg, const char *url, const char *table,
                                   enum ldg_role role, ledger_log_mode log, uint32_t flags,
                                   ledger_error *err)
{
    char log_table[80];
    const struct ldg_open open = {
        .url = url,
        .path = strchr(url, ':') + 1,
        .table = table,
        .log_table = log_table,
        .log = log,
        .flags = flags,
        .busy_timeout_ms = handle_busy_ms,
        .label = "test",
        .role = role,
    };
    snprintf(log_table, sizeof(log_table), "%s_mutations", table);
    memset(pg, 0, sizeof(*pg));
    memset(err, 0, sizeof(*err));
    return ldg_backend_postgres.open(pg, &open, err);
}

static inline void handle_open(struct ldg_pg *pg, const char *url, const char *table,
                               enum ldg_role role, ledger_log_mode log, uint32_t flags)
{
    ledger_error err;
    ledger_rc rc = handle_try(pg, url, table, role, log, flags, &err);
    tst_ok(rc, &err);
}

static inline void handle_open_patient(struct ldg_pg *pg, const char *url, const char *table,
                                       enum ldg_role role, ledger_log_mode log, uint32_t flags)
{
    handle_busy_ms = HANDLE_PATIENT_MS;
    handle_open(pg, url, table, role, log, flags);
    handle_busy_ms = HANDLE_BUSY_MS;
}

static inline void handle_close(struct ldg_pg *pg)
{
    ldg_backend_postgres.close(pg);
}

#endif
