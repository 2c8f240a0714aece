/* What libcurl is told of a request.
 *
 * Hides its options and callbacks. Invariant: a handle speaks http and https only, follows nothing,
 * verifies every certificate, raises no signal and asks nobody for a password. */
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/mem.h"
#include "http/slot.h"
#include "ledger/ledger.h"

#define READ_BUFFER_BYTES 65536L
/* Of an answer's headers: enough for any server, and an end for one that has none. */
#define HEAD_MAX_BYTES ((size_t)256 * 1024)
/* More than that is not kept for the slot's next answer. */
#define ANSWER_KEEP_BYTES ((size_t)1024 * 1024)

/* --- callbacks ------------------------------------------------------------------------------- */

static size_t take_body(char *data, size_t size, size_t count, void *ctx)
{
    struct ldg_http_slot *slot = ctx;
    struct ldg_http_exchange *exchange = &slot->exchange;
    const struct ldg_http_request *request = exchange->request;
    const size_t bytes = size * count;
    const size_t room = request->answer_max - exchange->answer.size;
    if (bytes <= room)
        return ldg_buf_append(&exchange->answer, data, bytes) == LEDGER_OK ? bytes : 0;
    exchange->is_cut = request->cut_answer;
    if (!request->cut_answer)
        exchange->answer.rc = LEDGER_ERR_TOO_LARGE;
    else
        (void)ldg_buf_append(&exchange->answer, data, room);
    return 0;
}

static size_t take_header(char *data, size_t size, size_t count, void *ctx)
{
    struct ldg_http_slot *slot = ctx;
    const size_t bytes = size * count;
    slot->head_bytes += bytes;
    if (slot->head_bytes <= HEAD_MAX_BYTES)
        return bytes;
    slot->exchange.answer.rc = LEDGER_ERR_TOO_LARGE;
    return 0;
}

static size_t give_body(char *data, size_t size, size_t count, void *ctx)
{
    struct ldg_http_slot *slot = ctx;
    const struct ldg_http_request *request = slot->exchange.request;
    const size_t room = size * count;
    size_t given = 0;
    while (given < room && slot->piece < request->body_count) {
        const struct ldg_http_piece *piece = &request->body[slot->piece];
        size_t bytes = piece->size - slot->piece_offset;
        if (bytes > room - given)
            bytes = room - given;
        if (bytes > 0)
            memcpy(data + given, (const char *)piece->data + slot->piece_offset, bytes);
        given += bytes;
        slot->piece_offset += bytes;
        if (slot->piece_offset == piece->size) {
            slot->piece++;
            slot->piece_offset = 0;
        }
    }
    return given;
}

/* A kept connection turned out to be closed: the body is sent again on another one. */
static int rewind_body(void *ctx, curl_off_t offset, int origin)
{
    struct ldg_http_slot *slot = ctx;
    if (offset != 0 || origin != SEEK_SET)
        return CURL_SEEKFUNC_CANTSEEK;
    slot->piece = slot->piece_offset = 0;
    return CURL_SEEKFUNC_OK;
}

/* --- what is the same for each request ------------------------------------------------------- */

#define SET(option, value) (bad |= curl_easy_setopt(easy, (option), (value)) != CURLE_OK)

static bool set_transport(CURL *easy)
{
    bool bad = false;
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_PATH_AS_IS, 1L);
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_BUFFERSIZE, READ_BUFFER_BYTES);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    /* A look-up of a name that nobody answers does not hold up a stop. */
    SET(CURLOPT_QUICK_EXIT, 1L);
    return bad;
}

static bool set_trust(const struct ldg_http *http, CURL *easy)
{
    bool bad = false;
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    /* One connection may carry them all (HTTP/2): a second one waits to hear of it. */
    SET(CURLOPT_PIPEWAIT, http->is_tls ? 1L : 0L);
    if (http->ca_file != NULL) {
        SET(CURLOPT_CAINFO, http->ca_file);
        SET(CURLOPT_CAPATH, NULL);
    }
    if (http->client_cert_file != NULL) {
        SET(CURLOPT_SSLCERT, http->client_cert_file);
        SET(CURLOPT_SSLKEY,
            http->client_key_file != NULL ? http->client_key_file : http->client_cert_file);
        /* OpenSSL would ask for one on the terminal. */
        SET(CURLOPT_KEYPASSWD, "");
    }
    if (http->user != NULL) {
        SET(CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
        SET(CURLOPT_USERNAME, http->user);
        SET(CURLOPT_PASSWORD, http->password != NULL ? http->password : "");
    }
    /* What is meant for this machine does not go to a proxy, in the clear. */
    if (http->is_loopback)
        SET(CURLOPT_NOPROXY, "*");
    return bad;
}

ledger_rc ldg_http_slot_open(struct ldg_http_slot *slot, ledger_error *err)
{
    CURL *easy = curl_easy_init();
    char agent[64] = "ledger/";
    bool bad = false;
    if (easy == NULL)
        return ldg_fail_nomem(err);
    slot->easy = easy;
    strncat(agent, ledger_version(), sizeof(agent) - sizeof("ledger/"));
    bad |= set_transport(easy);
    bad |= set_trust(slot->http, easy);
    SET(CURLOPT_USERAGENT, agent);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)slot->http->connect_timeout_ms);
    SET(CURLOPT_ERRORBUFFER, slot->message);
    SET(CURLOPT_PRIVATE, slot);
    SET(CURLOPT_WRITEFUNCTION, take_body);
    SET(CURLOPT_WRITEDATA, slot);
    SET(CURLOPT_HEADERFUNCTION, take_header);
    SET(CURLOPT_HEADERDATA, slot);
    SET(CURLOPT_READFUNCTION, give_body);
    SET(CURLOPT_READDATA, slot);
    SET(CURLOPT_SEEKFUNCTION, rewind_body);
    SET(CURLOPT_SEEKDATA, slot);
    if (!bad)
        return LEDGER_OK;
    curl_easy_cleanup(easy);
    slot->easy = NULL;
    return ldg_fail_nomem(err);
}

/* --- one request ----------------------------------------------------------------------------- */

bool ldg_http_same_name(const char *a, const char *b)
{
    const size_t size = strcspn(a, ":");
    return size == strcspn(b, ":") && strncasecmp(a, b, size) == 0;
}

static bool add_header(struct ldg_http_slot *slot, const char *header)
{
    struct curl_slist *list = curl_slist_append(slot->headers, header);
    if (list != NULL)
        slot->headers = list;
    return list != NULL;
}

static bool set_headers(struct ldg_http_slot *slot, const struct ldg_http_request *request)
{
    const struct ldg_http *http = slot->http;
    bool ok = add_header(slot, "Expect:"); /* no waiting for "100 Continue" */
    for (size_t i = 0; ok && i < request->header_count; i++)
        ok = add_header(slot, request->headers[i]);
    for (size_t i = 0; ok && i < http->header_count; i++) {
        bool is_beaten = false;
        for (size_t k = 0; k < request->header_count; k++)
            is_beaten |= ldg_http_same_name(http->headers[i], request->headers[k]);
        if (!is_beaten)
            ok = add_header(slot, http->headers[i]);
    }
    return ok && curl_easy_setopt(slot->easy, CURLOPT_HTTPHEADER, slot->headers) == CURLE_OK;
}

static bool set_body(CURL *easy, struct ldg_http_slot *slot, const struct ldg_http_request *request)
{
    bool bad = false;
    slot->body_bytes = 0;
    for (size_t i = 0; i < request->body_count; i++)
        slot->body_bytes += request->body[i].size;
    SET(CURLOPT_POST, 1L);
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)slot->body_bytes);
    /* One piece is sent from where it is; of several give_body() is asked. */
    if (slot->body_bytes == 0)
        SET(CURLOPT_POSTFIELDS, "");
    else if (request->body_count == 1)
        SET(CURLOPT_POSTFIELDS, request->body[0].data);
    else
        SET(CURLOPT_POSTFIELDS, NULL);
    return bad;
}

static bool set_method(CURL *easy, struct ldg_http_slot *slot,
                       const struct ldg_http_request *request)
{
    const char *method = request->method;
    const bool is_post = strcmp(method, "POST") == 0;
    const bool is_head = strcmp(method, "HEAD") == 0;
    bool bad = false;
    slot->body_bytes = 0;
    SET(CURLOPT_CUSTOMREQUEST, NULL);
    SET(CURLOPT_NOBODY, 0L);
    SET(CURLOPT_HTTPGET, 1L);
    if (is_head)
        SET(CURLOPT_NOBODY, 1L);
    else if (is_post || request->body_count > 0)
        bad |= set_body(easy, slot, request);
    if (!is_post && !is_head && strcmp(method, "GET") != 0)
        SET(CURLOPT_CUSTOMREQUEST, method);
    return bad;
}

ledger_rc ldg_http_slot_prepare(struct ldg_http_slot *slot, const struct ldg_http_request *request,
                                ledger_error *err)
{
    CURL *easy = slot->easy;
    const int64_t timeout_ms =
        request->timeout_ms > 0 ? request->timeout_ms : slot->http->timeout_ms;
    bool bad = false;
    slot->exchange.request = request;
    slot->exchange.answer.max =
        request->answer_max < SIZE_MAX / 2 ? request->answer_max : SIZE_MAX / 2;
    slot->mark_bytes = -1;
    SET(CURLOPT_URL, request->url);
    SET(CURLOPT_CONNECT_ONLY, request->connects_only ? 1L : 0L);
    SET(CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    bad = bad || set_method(easy, slot, request) || !set_headers(slot, request);
    return bad ? ldg_fail_nomem(err) : LEDGER_OK;
}

void ldg_http_slot_clear(struct ldg_http_slot *slot)
{
    struct ldg_buf answer = slot->exchange.answer;
    const struct ldg_http_request *request = slot->exchange.request;
    if (request != NULL && request->connects_only) { /* else its connection stays with it */
        curl_easy_cleanup(slot->easy);
        slot->easy = NULL;
    }
    if (slot->easy != NULL) {
        (void)curl_easy_setopt(slot->easy, CURLOPT_HTTPHEADER, NULL);
        (void)curl_easy_setopt(slot->easy, CURLOPT_POSTFIELDS, NULL);
    }
    curl_slist_free_all(slot->headers);
    slot->headers = NULL;
    if (answer.cap > ANSWER_KEEP_BYTES)
        ldg_buf_fini(&answer);
    ldg_buf_reset(&answer);
    slot->exchange = (struct ldg_http_exchange){ .answer = answer };
    slot->piece = slot->piece_offset = slot->body_bytes = slot->head_bytes = 0;
    slot->message[0] = '\0';
    slot->state = LDG_HTTP_FREE;
}
