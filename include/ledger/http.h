/* What a store, or a sink, that is reached over HTTP is told beside its URL: whom it trusts, who it
 * is, how long it waits, and how much goes into a request (ledger_store_options.http).
 *
 * Used by https:, http: (a webhook), clickhouse: and clickhouses:. The others leave it aside. */
#ifndef LEDGER_HTTP_H
#define LEDGER_HTTP_H

#include "ledger/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the body of a webhook's request is. */
typedef enum ledger_http_body {
    LEDGER_HTTP_BODY_REFERENCE = 0, /* {"stream":…,"entries":[…]} for appends, as the Go module
                                       sends it; everything else as the event of the log */
    LEDGER_HTTP_BODY_EVENT = 1,     /* each mutation as the event of the log */
    LEDGER_HTTP_BODY_CLOUDEVENTS = 2, /* CloudEvents 1.0, a batch in JSON */
} ledger_http_body;

/* What a webhook's request is signed with, where there are secrets. */
typedef enum ledger_http_signature {
    LEDGER_HTTP_SIGNATURE_STANDARD = 0, /* Standard Webhooks: webhook-signature */
    LEDGER_HTTP_SIGNATURE_LEDGER = 1,   /* that, and X-Ledger-Signature of the Go module: the
                                           HMAC-SHA256 of the body by the first secret, in hex */
} ledger_http_signature;

#define LEDGER_HTTP_CONNECTIONS_DEFAULT 4
#define LEDGER_HTTP_CONNECTIONS_MAX 256
#define LEDGER_HTTP_TIMEOUT_MAX_MS 86400000
#define LEDGER_HTTP_REQUEST_ENTRIES_DEFAULT 100
#define LEDGER_HTTP_REQUEST_ENTRIES_MAX 10000
#define LEDGER_HTTP_REQUEST_BYTES_DEFAULT ((size_t)1024 * 1024)
#define LEDGER_HTTP_REQUEST_BYTES_MAX ((size_t)256 * 1024 * 1024)

/* Files are read when the store is opened, and again when a bridge makes its own handles of it.
 * NULL: none, or the system's. */
typedef struct ledger_http_options {
    size_t size;                  /* set by ledger_http_options_defaults() */
    const char *ca_file;          /* PEM: certificates to trust instead of the system's */
    const char *client_cert_file; /* PEM: shown to a server that asks who we are … */
    const char *client_key_file;  /* … and its key; NULL: it is in the same file */
    const char *header_file;      /* headers for each request, one "Name: value" a line */
    const char *secret_file;      /* webhook: signing secrets, one "whsec_…" a line, each of which
                                     signs; ClickHouse: the password, alone in its first line */
    bool insecure;                /* plain HTTP to another machine, too; certificates are checked
                                     all the same */
    int timeout_ms;               /* of a request as a whole; 0: as long as fits the backend */
    int connect_timeout_ms;       /* of them until it is connected; 0: 10000 */
    size_t max_request_entries;   /* webhook: a request ends when it holds so many … */
    size_t max_request_bytes;     /* … or its body would get larger than that; one entry always
                                     goes */
    size_t connections;           /* webhook: requests for different streams go side by side */
    ledger_http_body body;        /* webhook */
    ledger_http_signature signature; /* webhook */
} ledger_http_options;

LEDGER_API void ledger_http_options_init(ledger_http_options *options, size_t size);
static inline void ledger_http_options_defaults(ledger_http_options *options)
{
    ledger_http_options_init(options, sizeof(*options));
}

#ifdef __cplusplus
}
#endif
#endif
