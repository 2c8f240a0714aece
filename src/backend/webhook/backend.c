/* The webhook backend: a sink that takes every kind of mutation by POST, and keeps nothing. Its
 * cursor, origins and parked events are in a state store.
 *
 * Invariant: nothing is posted but by apply(). Whether the endpoint can be reached is tried with a
 * connection alone, which asks it for nothing. */
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "backend/webhook/webhook.h"
#include "base/error.h"
#include "base/mem.h"

#define TIMEOUT_MS 30000
#define ARENA_KEEP_BYTES ((size_t)1024 * 1024)

/* --- life ------------------------------------------------------------------------------------ */

static ledger_rc take_url(struct ldg_webhook *webhook, const struct ldg_open *open,
                          ledger_error *err)
{
    const bool is_tls = strncasecmp(open->url, "https:", strlen("https:")) == 0;
    ledger_rc rc = ldg_http_url_parse(open->url, is_tls, 0, &webhook->url, err);
    if (rc == LEDGER_OK)
        rc = ldg_http_url_check(&webhook->url, open->http->insecure, "https", err);
    if (rc != LEDGER_OK)
        return rc;
    const struct ldg_http_url *url = &webhook->url;
    const size_t size = strlen(url->origin) + strlen(url->path) + strlen(url->query) + 2;
    webhook->target = ldg_malloc(size);
    if (webhook->target == NULL)
        return ldg_fail_nomem(err);
    (void)snprintf(webhook->target, size, "%s%s%s%s", url->origin, url->path,
                   url->query[0] != '\0' ? "?" : "", url->query);
    return LEDGER_OK;
}

static ledger_rc make_requests(struct ldg_webhook *webhook, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    webhook->requests = ldg_calloc(webhook->options->connections, sizeof(*webhook->requests));
    if (webhook->requests == NULL)
        return ldg_fail_nomem(err);
    webhook->request_count = webhook->options->connections;
    for (size_t i = 0; rc == LEDGER_OK && i < webhook->request_count; i++)
        rc = ldg_webhook_request_init(&webhook->requests[i], webhook->options->max_request_entries,
                                      err);
    return rc;
}

/* Name service, connection and handshake, and not a byte of a request. */
static ledger_rc try_connection(struct ldg_webhook *webhook, ledger_error *err)
{
    const struct ldg_http_request request = { .method = "GET",
                                              .url = webhook->target,
                                              .connects_only = true };
    struct ldg_http_exchange *exchange;
    ledger_rc rc = ldg_http_run(webhook->http, &request, &exchange, err);
    if (rc != LEDGER_OK)
        return rc;
    if (exchange->trouble != LDG_HTTP_OK)
        rc = ldg_http_fail(webhook->http, exchange, err);
    ldg_http_done(exchange);
    return rc;
}

static void webhook_close(void *ctx)
{
    struct ldg_webhook *webhook = ctx;
    ldg_http_close(&webhook->http);
    for (size_t i = 0; i < webhook->request_count; i++)
        ldg_webhook_request_fini(&webhook->requests[i]);
    ldg_free(webhook->requests);
    ldg_free(webhook->target);
    ldg_http_url_fini(&webhook->url);
    ldg_webhook_secrets_fini(&webhook->secrets);
    ldg_webhook_cuts_fini(&webhook->cuts);
    ldg_arena_fini(&webhook->arena);
    *webhook = (struct ldg_webhook){ 0 };
}

/* A bridge opens several handles of one that a program has opened: that one alone tries whether the
 * endpoint is there, as far as anything is to be sent. */
static ledger_rc webhook_open(void *ctx, const struct ldg_open *open, ledger_error *err)
{
    struct ldg_webhook *webhook = ctx;
    if ((open->flags & LEDGER_STORE_CREATE) != 0)
        return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                        "a webhook has no tables that could be made; it is there as soon as its "
                        "receiver is: give its URL to `ledgerctl bridge run --sink`");
    webhook->options = open->http;
    ldg_arena_init(&webhook->arena, ARENA_KEEP_BYTES);
    ledger_rc rc = take_url(webhook, open, err);
    const struct ldg_http_config config = { .url = &webhook->url,
                                            .options = open->http,
                                            .timeout_ms = TIMEOUT_MS,
                                            .backend = LDG_WEBHOOK_NAME,
                                            .wait = open->wait };
    if (rc == LEDGER_OK)
        rc = ldg_webhook_secrets_read(open->http->secret_file, open->http->signature,
                                      &webhook->secrets, err);
    if (rc == LEDGER_OK)
        rc = ldg_http_open(&config, &webhook->http, err);
    if (rc == LEDGER_OK)
        rc = make_requests(webhook, err);
    if (rc == LEDGER_OK && open->role == LDG_ROLE_USER &&
        (open->flags & LEDGER_STORE_READ_ONLY) == 0)
        rc = try_connection(webhook, err);
    if (rc != LEDGER_OK)
        webhook_close(webhook);
    return rc;
}

static ledger_rc webhook_health(void *ctx, ledger_error *err)
{
    return try_connection(ctx, err);
}

/* --- store check ----------------------------------------------------------------------------- */

static ledger_rc check_endpoint(struct ldg_webhook *webhook, ledger_finding_fn fn, void *fn_ctx,
                                ledger_error *err)
{
    char text[LEDGER_ERROR_MESSAGE_MAX];
    const ledger_rc rc = try_connection(webhook, err);
    if (rc == LEDGER_ERR_CANCELLED || rc == LEDGER_ERR_NOMEM)
        return rc;
    if (rc != LEDGER_OK) {
        fn(fn_ctx, LEDGER_FINDING_ERROR, "endpoint", err->message);
        return LEDGER_OK;
    }
    (void)snprintf(text, sizeof(text), "%s takes connections; nothing was posted to it",
                   webhook->url.server);
    fn(fn_ctx, LEDGER_FINDING_OK, "endpoint", text);
    return LEDGER_OK;
}

static void check_secrets(const struct ldg_webhook *webhook, ledger_finding_fn fn, void *fn_ctx)
{
    const char *path = webhook->options->secret_file;
    struct stat info;
    char text[128];
    if (webhook->secrets.count == 0) {
        fn(fn_ctx, LEDGER_FINDING_WARNING, "signature",
           "requests are not signed: a receiver cannot tell who sends them; give --secret-file");
        return;
    }
    (void)snprintf(text, sizeof(text), "requests are signed with %zu secret%s",
                   webhook->secrets.count, webhook->secrets.count > 1 ? "s" : "");
    fn(fn_ctx, LEDGER_FINDING_OK, "signature", text);
    if (stat(path, &info) == 0 && (info.st_mode & (S_IRWXG | S_IRWXO)) != 0)
        fn(fn_ctx, LEDGER_FINDING_WARNING, "secret file",
           "others than its owner may read it; `chmod 600` takes that away");
}

static ledger_rc webhook_check(void *ctx, ledger_finding_fn fn, void *fn_ctx, ledger_error *err)
{
    struct ldg_webhook *webhook = ctx;
    ledger_rc rc = check_endpoint(webhook, fn, fn_ctx, err);
    if (rc != LEDGER_OK)
        return rc;
    if (!webhook->url.is_tls && !webhook->url.is_loopback)
        fn(fn_ctx, LEDGER_FINDING_WARNING, "transport",
           "what is sent can be read on its way (--insecure)");
    check_secrets(webhook, fn, fn_ctx);
    return LEDGER_OK;
}

static const struct ldg_sink_role sink_role = {
    .takes =
        1 << LDG_OP_APPEND | 1 << LDG_OP_SET_TAGS | 1 << LDG_OP_SET_ANNOTATIONS | 1 << LDG_OP_TRIM,
    .apply = ldg_webhook_apply,
};

const struct ldg_backend ldg_backend_webhook = {
    .name = LDG_WEBHOOK_NAME,
    .scheme = "https",
    .caps = LDG_CAP_TEXT_KEYS,
    .ctx_size = sizeof(struct ldg_webhook),
    .open = webhook_open,
    .close = webhook_close,
    .health = webhook_health,
    .check = webhook_check,
    .sink = &sink_role,
};
