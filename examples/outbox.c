/* An outbox in PostgreSQL: a service changes its own table and tells the world in one transaction
 * of its own connection. Either both are there, or neither.
 *
 * outbox CONNINFO: "postgresql://…" or "host=… dbname=…", as libpq takes it. Makes the table
 * outbox_orders and, if need be, the ledger; places an order, tries another one that fails. */
#include <stdio.h>
#include <string.h>

#include <ledger/ledger.h>
#include <libpq-fe.h>

static bool run(PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    const ExecStatusType status = PQresultStatus(result);
    PQclear(result);
    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

/* The order, and the entry that tells of it, which bridges carry on once this has committed. */
static bool place_order(PGconn *conn, ledger_store *store, const char *item, const char *amount)
{
    const char *const values[] = { item, amount };
    char payload[256];
    ledger_append_input input = { .payload = { payload, 0 }, .order_key = item };
    ledger_error err = { 0 };
    PGresult *result;
    bool ok;

    ok = run(conn, "BEGIN");
    /* Bad amounts are left to the database here, to show what happens then. */
    snprintf(payload, sizeof payload, "{\"item\": \"%s\", \"amount\": \"%s\"}", item, amount);
    input.payload.size = strlen(payload);
    if (ok && ledger_store_append(store, "orders", &input, 1, NULL, &err) != LEDGER_OK) {
        fprintf(stderr, "outbox: %s\n", err.message);
        ok = false;
    }
    if (ok) {
        result = PQexecParams(conn, "INSERT INTO outbox_orders (item, amount) VALUES ($1, $2)", 2,
                              NULL, values, NULL, NULL, 0);
        ok = PQresultStatus(result) == PGRES_COMMAND_OK;
        PQclear(result);
    }
    if (ok)
        return run(conn, "COMMIT"); /* both */
    run(conn, "ROLLBACK");          /* neither */
    return false;
}

int main(int argc, char **argv)
{
    ledger_store_options options;
    ledger_store *store = NULL;
    ledger_error err = { 0 };
    uint64_t entries = 0;
    int status = 1;
    bool first, second;
    PGconn *conn;

    if (argc != 2) {
        fprintf(stderr, "usage: %s CONNINFO\n", argv[0]);
        return 2;
    }
    conn = PQconnectdb(argv[1]);
    if (PQstatus(conn) != CONNECTION_OK ||
        !run(conn, "SET client_min_messages = warning; CREATE TABLE IF NOT EXISTS outbox_orders "
                   "(item text NOT NULL, amount integer NOT NULL)")) {
        fprintf(stderr, "outbox: %s", PQerrorMessage(conn));
        goto out;
    }

    /* The store works through the service's connection and takes part in its transactions. */
    ledger_store_options_defaults(&options);
    options.connection = conn;
    options.connection_kind = LEDGER_CONNECTION_POSTGRES;
    options.log = LEDGER_MUTATION_LOG_ON;
    options.flags = LEDGER_STORE_CREATE;
    if (ledger_store_open(&options, &store, &err) != LEDGER_OK) {
        fprintf(stderr, "outbox: %s\n", err.message);
        goto out;
    }

    first = place_order(conn, store, "apples", "12");
    second = place_order(conn, store, "pears", "a dozen"); /* no integer */
    if (ledger_store_count(store, "orders", &entries, &err) != LEDGER_OK) {
        fprintf(stderr, "outbox: %s\n", err.message);
        goto out;
    }
    printf("apples: %s, pears: %s, entries: %llu\n", first ? "placed" : "refused",
           second ? "placed" : "refused", (unsigned long long)entries);
    status = 0;

out:
    ledger_store_close(&store);
    PQfinish(conn);
    return status;
}
