/* A batch on its way: several requests at a time, one of each stream, and what their answers mean.
 *
 * Invariant: an op's outcome is set once its request was answered with 2xx, and never before. After
 * the first failure none is started any more; those under way are waited for, so that what they did
 * is known. */
#include <string.h>

#include "backend/webhook/webhook.h"
#include "base/error.h"

/* Which of several failures is told: what somebody has to change first, a refused event last, which
 * comes again and is refused again. */
enum weight { REFUSAL = 1, TRANSIENT, LASTING };

struct batch {
    struct ldg_webhook *webhook;
    const struct ldg_apply *apply;
    uint8_t *outcomes;
    struct ldg_webhook_queue queue;
    struct ldg_webhook_settings settings;
    enum weight weight; /* of `why`; 0: nothing has failed */
    ledger_error why;
    int64_t pause_ms;
};

enum ldg_webhook_verdict ldg_webhook_judge(int status)
{
    if (status >= 200 && status < 300)
        return LDG_WEBHOOK_TAKEN;
    if (status == 408 || status == 425 || status == 429 || status >= 500)
        return LDG_WEBHOOK_LATER;
    if (status < 400 || status == 401 || status == 407 || status == 410)
        return LDG_WEBHOOK_STOP;
    return LDG_WEBHOOK_REFUSED;
}

static void note(struct batch *batch, enum weight weight, const ledger_error *why)
{
    if (weight <= batch->weight)
        return;
    batch->weight = weight;
    batch->why = *why;
}

/* --- failures -------------------------------------------------------------------------------- */

static void note_trouble(struct batch *batch, const struct ldg_http_exchange *exchange)
{
    ledger_error why;
    ledger_rc rc = ldg_http_fail(batch->webhook->http, exchange, &why);
    if (rc == LEDGER_ERR_TOO_LARGE) /* of its headers: they are nobody's we know */
        rc = ldg_fail_native(&why, LEDGER_ERR_IO, LDG_WEBHOOK_NAME, exchange->status,
                             "the headers of the answer of %s are larger than anybody needs",
                             batch->webhook->url.server);
    /* Where a request that was refused is sent in parts, the handle has to live on: it knows them.
     */
    if ((why.flags & LEDGER_ERROR_RETRY) != 0 && rc != LEDGER_ERR_NOMEM &&
        batch->webhook->cuts.count > 0)
        why.code = LEDGER_ERR_BUSY;
    note(batch, (why.flags & LEDGER_ERROR_FATAL) != 0 ? LASTING : TRANSIENT, &why);
}

static void note_stop(struct batch *batch, int status, const char *excerpt)
{
    const char *server = batch->webhook->url.server;
    const char *gap = *excerpt != '\0' ? ": " : "";
    ledger_error why;
    if (status == 401)
        (void)ldg_fail_native(
            &why, LEDGER_ERR_PERMISSION, LDG_WEBHOOK_NAME, status,
            "%s answers 401: it wants other credentials; give a secret that it knows "
            "(--secret-file), a header (--header-file), or user and password in the URL%s%s",
            server, gap, excerpt);
    else if (status == 407)
        (void)ldg_fail_native(&why, LEDGER_ERR_PERMISSION, LDG_WEBHOOK_NAME, status,
                              "the proxy before %s answers 407: it wants credentials; write them "
                              "into the proxy's URL in the environment%s%s",
                              server, gap, excerpt);
    else if (status == 410)
        (void)ldg_fail_native(&why, LEDGER_ERR_REFUSED_ALL, LDG_WEBHOOK_NAME, status,
                              "%s answers 410: this endpoint is gone and wants no more; give "
                              "another URL, or retire the bridge%s%s",
                              server, gap, excerpt);
    else
        (void)ldg_fail_native(&why, LEDGER_ERR_REFUSED_ALL, LDG_WEBHOOK_NAME, status,
                              "%s answers %d, which is no success, and redirects are not followed: "
                              "give the URL that the endpoint has now%s%s",
                              server, status, gap, excerpt);
    note(batch, LASTING, &why);
}

static void note_later(struct batch *batch, const struct ldg_http_exchange *exchange,
                       const char *excerpt)
{
    const int64_t pause_ms = ldg_http_retry_after_ms(exchange);
    ledger_error why;
    (void)ldg_fail_native(&why, LEDGER_ERR_BUSY, LDG_WEBHOOK_NAME, exchange->status,
                          "%s answers %d for now%s%s", batch->webhook->url.server, exchange->status,
                          *excerpt != '\0' ? ": " : "", excerpt);
    if (pause_ms > batch->pause_ms)
        batch->pause_ms = pause_ms;
    note(batch, TRANSIENT, &why);
}

/* Until the batch is done the event may come first in its stream again, with a gap behind it where
 * others were taken: what was lost behind that gap shall not be joined with it. */
static ledger_rc note_refusal(struct batch *batch, const struct ldg_webhook_request *request,
                              int status, const char *excerpt, ledger_error *err)
{
    ledger_error why;
    (void)ldg_fail_native(&why, LEDGER_ERR_REJECTED, LDG_WEBHOOK_NAME, status,
                          "%s refuses it with %d%s%s", batch->webhook->url.server, status,
                          *excerpt != '\0' ? ": " : "", excerpt);
    why.done_count = request->ops[0];
    note(batch, REFUSAL, &why);
    return ldg_webhook_cuts_add(&batch->webhook->cuts, &batch->apply->ops[request->ops[0]], err);
}

/* One of its events may be at fault, and which one only the receiver knows: each half is sent
 * alone, and its halves, if need be. */
static ledger_rc halve(struct batch *batch, const struct ldg_webhook_request *request,
                       ledger_error *err)
{
    struct ldg_webhook_cuts *cuts = &batch->webhook->cuts;
    const struct ldg_op *ops = batch->apply->ops;
    ledger_rc rc = ldg_webhook_cuts_add(cuts, &ops[request->ops[(request->count - 1) / 2]], err);
    if (rc == LEDGER_OK)
        rc = ldg_webhook_cuts_add(cuts, &ops[request->ops[request->count - 1]], err);
    if (rc == LEDGER_OK)
        ldg_webhook_queue_put(&batch->queue, request->lane, request->ops[0]);
    return rc;
}

/* --- one answer ------------------------------------------------------------------------------ */

static void take_success(struct batch *batch, const struct ldg_webhook_request *request)
{
    for (size_t i = 0; i < request->count; i++) {
        batch->outcomes[request->ops[i]] = LDG_OUTCOME_APPLIED;
        ldg_apply_op_done(batch->apply, request->ops[i]);
    }
    ldg_webhook_queue_put(&batch->queue, request->lane, request->behind);
}

static ledger_rc take_failure(struct batch *batch, const struct ldg_http_exchange *exchange,
                              enum ldg_webhook_verdict verdict, ledger_error *err)
{
    const struct ldg_webhook_request *request = exchange->request->ctx;
    char excerpt[LDG_HTTP_EXCERPT_MAX];
    ldg_http_excerpt(&exchange->answer, excerpt);
    if (verdict == LDG_WEBHOOK_LATER)
        note_later(batch, exchange, excerpt);
    else if (verdict == LDG_WEBHOOK_STOP)
        note_stop(batch, exchange->status, excerpt);
    else if (request->count > 1)
        return halve(batch, request, err);
    else
        return note_refusal(batch, request, exchange->status, excerpt, err);
    return LEDGER_OK;
}

/* An answer that broke off behind a status of failure says enough. */
static ledger_rc take_answer(struct batch *batch, struct ldg_http_exchange *exchange,
                             ledger_error *err)
{
    struct ldg_webhook_request *request = exchange->request->ctx;
    const enum ldg_webhook_verdict verdict = ldg_webhook_judge(exchange->status);
    const bool is_taken = verdict == LDG_WEBHOOK_TAKEN;
    ledger_rc rc = LEDGER_OK;
    if (exchange->trouble != LDG_HTTP_OK && (exchange->status == 0 || is_taken))
        note_trouble(batch, exchange);
    else if (is_taken)
        take_success(batch, request);
    else
        rc = take_failure(batch, exchange, verdict, err);
    request->lane = NULL;
    ldg_http_done(exchange);
    return rc;
}

/* --- a batch --------------------------------------------------------------------------------- */

static struct ldg_webhook_request *find_free(struct ldg_webhook *webhook)
{
    for (size_t i = 0; i < webhook->request_count; i++)
        if (webhook->requests[i].lane == NULL)
            return &webhook->requests[i];
    return NULL;
}

/* As many as there are connections and streams for. */
static ledger_rc start_requests(struct batch *batch, ledger_error *err)
{
    struct ldg_webhook *webhook = batch->webhook;
    struct ldg_webhook_request *request;
    struct ldg_webhook_lane *lane;
    struct ldg_http_exchange *exchange;
    ledger_rc rc = LEDGER_OK;
    while (rc == LEDGER_OK && batch->weight == 0 && (request = find_free(webhook)) != NULL &&
           (lane = ldg_webhook_queue_take(&batch->queue)) != NULL) {
        rc = ldg_webhook_request_fill(request, &batch->settings, &batch->queue, lane, err);
        if (rc == LEDGER_ERR_REJECTED) {
            err->done_count = request->ops[0];
            note(batch, REFUSAL, err);
            request->lane = NULL;
            return LEDGER_OK;
        }
        if (rc == LEDGER_OK)
            rc = ldg_http_start(webhook->http, &request->http, &exchange, err);
    }
    return rc;
}

/* Several may have finished at once: their answers are waited for like any other. */
static bool is_busy(const struct ldg_webhook *webhook)
{
    for (size_t i = 0; i < webhook->request_count; i++)
        if (webhook->requests[i].lane != NULL)
            return true;
    return false;
}

static ledger_rc run(struct batch *batch, ledger_error *err)
{
    struct ldg_http *http = batch->webhook->http;
    struct ldg_http_exchange *exchange;
    ledger_rc rc = start_requests(batch, err);
    while (rc == LEDGER_OK && is_busy(batch->webhook)) {
        rc = ldg_http_wait(http, &exchange, err);
        if (rc == LEDGER_OK)
            rc = take_answer(batch, exchange, err);
        if (rc == LEDGER_OK)
            rc = start_requests(batch, err);
    }
    return rc;
}

ledger_rc ldg_webhook_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                            ledger_error *err)
{
    struct ldg_webhook *webhook = ctx;
    struct batch batch = {
        .webhook = webhook,
        .apply = apply,
        .outcomes = ret_outcomes,
        .settings = { .url = webhook->target,
                      .options = webhook->options,
                      .secrets = &webhook->secrets,
                      .cuts = &webhook->cuts },
    };
    memset(ret_outcomes, LDG_OUTCOME_NONE, apply->count);
    ldg_arena_reset(&webhook->arena);
    for (size_t i = 0; i < webhook->request_count; i++)
        webhook->requests[i].lane = NULL;
    ledger_rc rc =
        ldg_webhook_queue_init(&batch.queue, apply->ops, apply->count, &webhook->arena, err);
    if (rc == LEDGER_OK)
        rc = run(&batch, err);
    ldg_http_drop(webhook->http);
    if (rc == LEDGER_OK && batch.weight != 0) {
        *err = batch.why;
        rc = err->code;
    }
    if (rc == LEDGER_OK)
        webhook->cuts.count = 0; /* all is done: what comes is new */
    if (apply->ret_pause_ms != NULL)
        *apply->ret_pause_ms = batch.pause_ms;
    return rc;
}
