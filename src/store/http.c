/* Options of the stores that are reached over HTTP: their defaults, their limits, and a copy of
 * them that lives as long as a handle.
 *
 * Invariant: a handle has options of this version, within their limits; what they mean is the
 * backend's. */
#include <string.h>

#include "base/options.h"
#include "store/handle.h"

#define STRINGS_MAX 5

static const struct ldg_options http_options = {
    .name = "ledger_http_options",
    .defaults =
        &(const ledger_http_options){
            .size = sizeof(ledger_http_options),
            .max_request_entries = LEDGER_HTTP_REQUEST_ENTRIES_DEFAULT,
            .max_request_bytes = LEDGER_HTTP_REQUEST_BYTES_DEFAULT,
            .connections = LEDGER_HTTP_CONNECTIONS_DEFAULT,
        },
    .size = sizeof(ledger_http_options),
    .least = LDG_OPTIONS_UP_TO(ledger_http_options, signature),
};

void ledger_http_options_init(ledger_http_options *options, size_t size)
{
    ldg_options_init(&http_options, options, size);
}

static ledger_rc check_range(const char *name, size_t value, size_t most, ledger_error *err)
{
    return value >= 1 && value <= most
               ? LEDGER_OK
               : ldg_fail(err, LEDGER_ERR_INVALID,
                          "%s of ledger_http_options is %zu; it is 1 to %zu", name, value, most);
}

static ledger_rc check(const ledger_http_options *o, ledger_error *err)
{
    if (o->timeout_ms < 0 || o->timeout_ms > LEDGER_HTTP_TIMEOUT_MAX_MS ||
        o->connect_timeout_ms < 0 || o->connect_timeout_ms > LEDGER_HTTP_TIMEOUT_MAX_MS)
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "timeout_ms and connect_timeout_ms of ledger_http_options are 0 to %d",
                        LEDGER_HTTP_TIMEOUT_MAX_MS);
    if ((unsigned)o->body > LEDGER_HTTP_BODY_CLOUDEVENTS)
        return ldg_fail(err, LEDGER_ERR_INVALID, "unknown form of a body %d", (int)o->body);
    if ((unsigned)o->signature > LEDGER_HTTP_SIGNATURE_LEDGER)
        return ldg_fail(err, LEDGER_ERR_INVALID, "unknown kind of signature %d", (int)o->signature);
    ledger_rc rc = check_range("connections", o->connections, LEDGER_HTTP_CONNECTIONS_MAX, err);
    if (rc == LEDGER_OK)
        rc = check_range("max_request_entries", o->max_request_entries,
                         LEDGER_HTTP_REQUEST_ENTRIES_MAX, err);
    if (rc == LEDGER_OK)
        rc = check_range("max_request_bytes", o->max_request_bytes, LEDGER_HTTP_REQUEST_BYTES_MAX,
                         err);
    return rc;
}

ledger_rc ldg_http_options_copy(const ledger_http_options *options, ledger_http_options **ret_copy,
                                ledger_error *err)
{
    struct {
        ledger_http_options options; /* first: it is what is freed */
        char strings[];
    } *copy = NULL;
    ledger_http_options taken;
    ledger_rc rc = ldg_options_take(&http_options, options, &taken, err);
    if (rc == LEDGER_OK)
        rc = check(&taken, err);
    if (rc != LEDGER_OK)
        return rc;
    const char **const strings[STRINGS_MAX] = { &taken.ca_file, &taken.client_cert_file,
                                                &taken.client_key_file, &taken.header_file,
                                                &taken.secret_file };
    size_t bytes = 0, used = 0;
    for (size_t i = 0; i < STRINGS_MAX; i++)
        bytes += *strings[i] != NULL ? strlen(*strings[i]) + 1 : 0;
    copy = ldg_calloc(1, sizeof(*copy) + bytes);
    if (copy == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < STRINGS_MAX; i++) {
        if (*strings[i] == NULL)
            continue;
        const size_t size = strlen(*strings[i]) + 1;
        memcpy(copy->strings + used, *strings[i], size);
        *strings[i] = copy->strings + used;
        used += size;
    }
    copy->options = taken;
    *ret_copy = &copy->options;
    return LEDGER_OK;
}
