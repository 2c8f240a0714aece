/* One request: as many ops of a stream as it may hold, its body, its headers.
 *
 * Invariant: ops of one delivery that stand in one stream are cut the same way on every try, from
 * the front; nothing that a user wrote gets into a header. */
#include <inttypes.h>
#include <stdio.h>

#include "backend/webhook/webhook.h"
#include "base/error.h"
#include "base/mem.h"

#define ANSWER_MAX_BYTES ((size_t)64 * 1024)
#define STALL_MS 20000
/* Larger ones are given back once they were sent. */
#define BODY_KEEP_BYTES ((size_t)4 * 1024 * 1024)

ledger_rc ldg_webhook_request_init(struct ldg_webhook_request *request, size_t max_entries,
                                   ledger_error *err)
{
    ldg_buf_init(&request->body, LDG_WEBHOOK_BODY_MAX);
    request->ops = ldg_calloc(max_entries, sizeof(*request->ops));
    return request->ops != NULL ? LEDGER_OK : ldg_fail_nomem(err);
}

void ldg_webhook_request_fini(struct ldg_webhook_request *request)
{
    ldg_buf_fini(&request->body);
    ldg_free(request->ops);
    request->ops = NULL;
}

static void cut_back(struct ldg_buf *body, size_t size)
{
    body->size = size;
    body->data[size] = '\0';
}

/* From the lane's head on, until one does not fit. */
static void fill_body(struct ldg_webhook_request *request,
                      const struct ldg_webhook_settings *settings,
                      const struct ldg_webhook_queue *queue)
{
    const ledger_http_options *options = settings->options;
    const struct ldg_op *first = &queue->ops[request->lane->head];
    struct ldg_buf *body = &request->body;
    uint32_t at = request->lane->head;
    bool ends = false;
    request->count = 0;
    ldg_webhook_body_begin(body, options->body, first);
    while (!ends && at != LDG_WEBHOOK_NO_OP) {
        const struct ldg_op *op = &queue->ops[at];
        const size_t size = body->size;
        if (request->count > 0 && !ldg_webhook_body_joins(options->body, first, op))
            break;
        ldg_webhook_body_add(body, options->body, op, request->count == 0);
        if (request->count > 0 && body->rc != LEDGER_ERR_NOMEM &&
            (body->rc != LEDGER_OK ||
             body->size + LDG_WEBHOOK_TAIL_BYTES > options->max_request_bytes)) {
            body->rc = LEDGER_OK;
            cut_back(body, size);
            break;
        }
        request->ops[request->count++] = at;
        ends = body->rc != LEDGER_OK || request->count == options->max_request_entries ||
               ldg_webhook_cuts_has(settings->cuts, op);
        at = queue->next[at];
    }
    request->behind = at;
    ldg_webhook_body_end(body, options->body, first);
}

static ledger_rc fill_headers(struct ldg_webhook_request *request,
                              const struct ldg_webhook_settings *settings, const char *id,
                              ledger_error *err)
{
    char seconds[24], signature[LDG_WEBHOOK_SIGNATURE_MAX], hex[LDG_WEBHOOK_HEX_MAX];
    size_t count = 0;
    ledger_rc rc = LEDGER_OK;
    (void)snprintf(seconds, sizeof(seconds), "%" PRId64, ldg_clock_now_us() / 1000000);
    (void)snprintf(request->id_line, sizeof(request->id_line), "webhook-id: %s", id);
    (void)snprintf(request->key_line, sizeof(request->key_line), "Idempotency-Key: %s", id);
    (void)snprintf(request->time_line, sizeof(request->time_line), "webhook-timestamp: %s",
                   seconds);
    request->headers[count++] = ldg_webhook_content_type(settings->options->body);
    request->headers[count++] = request->id_line;
    request->headers[count++] = request->key_line;
    request->headers[count++] = request->time_line;
    if (settings->secrets->count > 0) {
        rc = ldg_webhook_sign(settings->secrets, id, seconds, &request->body, signature, err);
        if (rc == LEDGER_OK)
            (void)snprintf(request->signature_line, sizeof(request->signature_line),
                           "webhook-signature: %s", signature);
        request->headers[count++] = request->signature_line;
    }
    if (rc == LEDGER_OK && settings->options->signature == LEDGER_HTTP_SIGNATURE_LEDGER) {
        rc = ldg_webhook_sign_body(settings->secrets, &request->body, hex, err);
        if (rc == LEDGER_OK)
            (void)snprintf(request->ledger_line, sizeof(request->ledger_line),
                           "X-Ledger-Signature: %s", hex);
        request->headers[count++] = request->ledger_line;
    }
    request->http.headers = request->headers;
    request->http.header_count = count;
    return rc;
}

ledger_rc ldg_webhook_request_fill(struct ldg_webhook_request *request,
                                   const struct ldg_webhook_settings *settings,
                                   const struct ldg_webhook_queue *queue,
                                   struct ldg_webhook_lane *lane, ledger_error *err)
{
    char id[LDG_WEBHOOK_ID_MAX];
    if (request->body.cap > BODY_KEEP_BYTES)
        ldg_buf_fini(&request->body);
    ldg_buf_reset(&request->body);
    request->lane = lane;
    fill_body(request, settings, queue);
    if (request->body.rc == LEDGER_ERR_NOMEM)
        return ldg_fail_nomem(err);
    if (request->body.rc != LEDGER_OK)
        return ldg_fail(err, LEDGER_ERR_REJECTED,
                        "the body of a request with this event alone is larger than 1 GiB, or "
                        "the event cannot be written as JSON");
    ldg_webhook_id(&queue->ops[request->ops[0]], &queue->ops[request->ops[request->count - 1]],
                   request->count, id);
    request->piece =
        (struct ldg_http_piece){ .data = request->body.data, .size = request->body.size };
    request->http = (struct ldg_http_request){
        .method = "POST",
        .url = settings->url,
        .body = &request->piece,
        .body_count = 1,
        .answer_max = ANSWER_MAX_BYTES,
        .cut_answer = true,
        .stall_ms = STALL_MS,
        .ctx = request,
    };
    return fill_headers(request, settings, id, err);
}
