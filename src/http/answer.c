/* What came of a request, in our terms: libcurl's results, and what an answer's head asks for.
 *
 * Invariant: a message names the server and nothing else of the URL; what libcurl says goes through
 * the redactor. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "http/slot.h"

/* --- what went wrong ------------------------------------------------------------------------- */

static const struct {
    CURLcode code;
    enum ldg_http_trouble trouble;
} troubles[] = {
    { CURLE_COULDNT_RESOLVE_HOST, LDG_HTTP_UNKNOWN_HOST },
    { CURLE_COULDNT_RESOLVE_PROXY, LDG_HTTP_UNKNOWN_HOST },
    { CURLE_COULDNT_CONNECT, LDG_HTTP_NOT_CONNECTED },
    { CURLE_PROXY, LDG_HTTP_NOT_CONNECTED },
    { CURLE_PEER_FAILED_VERIFICATION, LDG_HTTP_CERTIFICATE },
    { CURLE_SSL_CACERT_BADFILE, LDG_HTTP_CERTIFICATE },
    { CURLE_SSL_ISSUER_ERROR, LDG_HTTP_CERTIFICATE },
    { CURLE_SSL_CERTPROBLEM, LDG_HTTP_CLIENT_CERTIFICATE },
    { CURLE_SSL_CLIENTCERT, LDG_HTTP_CLIENT_CERTIFICATE },
    { CURLE_SSL_CONNECT_ERROR, LDG_HTTP_TLS },
    { CURLE_SSL_CIPHER, LDG_HTTP_TLS },
    { CURLE_OUT_OF_MEMORY, LDG_HTTP_NOMEM },
    { CURLE_GOT_NOTHING, LDG_HTTP_RESET },
    { CURLE_SEND_ERROR, LDG_HTTP_RESET },
    { CURLE_RECV_ERROR, LDG_HTTP_RESET },
    { CURLE_SEND_FAIL_REWIND, LDG_HTTP_RESET },
    { CURLE_HTTP2, LDG_HTTP_RESET },
    { CURLE_HTTP2_STREAM, LDG_HTTP_RESET },
    { CURLE_PARTIAL_FILE, LDG_HTTP_PARTIAL },
    { CURLE_UNSUPPORTED_PROTOCOL, LDG_HTTP_PROTOCOL }, /* HTTP/0.9, or none at all */
    { CURLE_WEIRD_SERVER_REPLY, LDG_HTTP_PROTOCOL },
};

static enum ldg_http_trouble trouble_of(const struct ldg_http_slot *slot, CURLcode code)
{
    const struct ldg_http_exchange *exchange = &slot->exchange;
    enum ldg_http_trouble trouble = LDG_HTTP_OTHER;
    if (exchange->answer.rc != LEDGER_OK)
        return exchange->answer.rc == LEDGER_ERR_NOMEM ? LDG_HTTP_NOMEM : LDG_HTTP_TOO_LARGE;
    if (code == CURLE_OK || exchange->is_cut)
        return LDG_HTTP_OK;
    if (code == CURLE_OPERATION_TIMEDOUT)
        return exchange->was_sent ? LDG_HTTP_TIMEOUT : LDG_HTTP_CONNECT_TIMEOUT;
    for (size_t i = 0; i < sizeof(troubles) / sizeof(troubles[0]); i++)
        if (troubles[i].code == code)
            trouble = troubles[i].trouble;
    if (trouble == LDG_HTTP_RESET && exchange->status != 0)
        trouble = LDG_HTTP_PARTIAL;
    return trouble;
}

static void note_detail(struct ldg_http_slot *slot, CURLcode code)
{
    struct ldg_http_exchange *exchange = &slot->exchange;
    const char *text = slot->message[0] != '\0' ? slot->message : curl_easy_strerror(code);
    long os_error = 0;
    (void)curl_easy_getinfo(slot->easy, CURLINFO_OS_ERRNO, &os_error);
    /* libcurl's words for it repeat the host and how long it took. */
    if (exchange->trouble == LDG_HTTP_NOT_CONNECTED && os_error != 0 && code != CURLE_PROXY)
        text = strerror((int)os_error);
    if (exchange->trouble == LDG_HTTP_PROTOCOL && code == CURLE_OK)
        text = "a status below 200, or not of three digits";
    ldg_mask_url(text, exchange->detail, sizeof(exchange->detail));
}

void ldg_http_slot_finish(struct ldg_http_slot *slot, CURLcode code)
{
    struct ldg_http_exchange *exchange = &slot->exchange;
    long status = 0, request_bytes = 0;
    (void)curl_easy_getinfo(slot->easy, CURLINFO_RESPONSE_CODE, &status);
    (void)curl_easy_getinfo(slot->easy, CURLINFO_REQUEST_SIZE, &request_bytes);
    /* libcurl lets any number pass; behind one below 200 the answer was still to come. */
    exchange->status = status >= 200 && status <= 999 ? (int)status : 0;
    exchange->was_sent = request_bytes > 0;
    exchange->trouble = trouble_of(slot, code);
    if (exchange->trouble == LDG_HTTP_OK && exchange->status == 0 &&
        !exchange->request->connects_only)
        exchange->trouble = LDG_HTTP_PROTOCOL;
    if (exchange->trouble != LDG_HTTP_OK)
        note_detail(slot, code);
}

void ldg_http_slot_give_up(struct ldg_http_slot *slot, enum ldg_http_trouble trouble,
                           const char *detail)
{
    ldg_http_slot_finish(slot, CURLE_OK);
    slot->exchange.trouble = trouble;
    (void)snprintf(slot->exchange.detail, sizeof(slot->exchange.detail), "%s", detail);
}

/* --- in words -------------------------------------------------------------------------------- */

static ledger_rc fail_time(const struct ldg_http *http, const struct ldg_http_exchange *exchange,
                           ledger_error *err)
{
    const struct ldg_http_request *request = exchange->request;
    const int64_t whole_ms = request->timeout_ms > 0 ? request->timeout_ms : http->timeout_ms;
    if (exchange->trouble == LDG_HTTP_CONNECT_TIMEOUT)
        return ldg_fail_native(
            err, LEDGER_ERR_CONNECT, http->backend, 0,
            "no connection to %s within %lld ms (--connect-timeout); is the "
            "server up, and does a firewall let us through?",
            http->server,
            (long long)(whole_ms < http->connect_timeout_ms ? whole_ms : http->connect_timeout_ms));
    if (exchange->trouble == LDG_HTTP_STALLED)
        return ldg_fail_native(err, LEDGER_ERR_TIMEOUT, http->backend, 0,
                               "the transfer to or from %s stands still for %lld s", http->server,
                               (long long)request->stall_ms / 1000);
    return ldg_fail_native(err, LEDGER_ERR_TIMEOUT, http->backend, 0,
                           "%s did not answer within %lld ms (--timeout)", http->server,
                           (long long)whole_ms);
}

static ledger_rc fail_trust(const struct ldg_http *http, const struct ldg_http_exchange *exchange,
                            ledger_error *err)
{
    if (exchange->trouble == LDG_HTTP_CLIENT_CERTIFICATE)
        return ldg_fail_native(err, LEDGER_ERR_UNTRUSTED, http->backend, 0,
                               "the client certificate or its key (--client-cert, --client-key) "
                               "cannot be used: %s; both are PEM, the key without a passphrase",
                               exchange->detail);
    return ldg_fail_native(err, LEDGER_ERR_UNTRUSTED, http->backend, 0,
                           "the certificate of %s is not accepted: %s; have it renewed, or its "
                           "name corrected, or name the authority that issued it with --ca-file",
                           http->server, exchange->detail);
}

static ledger_rc fail_connection(const struct ldg_http *http,
                                 const struct ldg_http_exchange *exchange, ledger_error *err)
{
    switch (exchange->trouble) {
    case LDG_HTTP_UNKNOWN_HOST:
        return ldg_fail_native(err, LEDGER_ERR_CONNECT, http->backend, 0,
                               "the name of %s, or of the proxy in the environment, is not known "
                               "(%s); is it spelled right, and does name service work here?",
                               http->server, exchange->detail);
    case LDG_HTTP_NOT_CONNECTED:
        return ldg_fail_native(err, LEDGER_ERR_CONNECT, http->backend, 0,
                               "no connection to %s: %s; is the server up, and the port right?",
                               http->server, exchange->detail);
    case LDG_HTTP_TLS:
        return ldg_fail_native(err, LEDGER_ERR_CONNECT, http->backend, 0,
                               "no TLS with %s: %s; does it speak TLS at that port, and does it "
                               "ask for a client certificate (--client-cert)?",
                               http->server, exchange->detail);
    case LDG_HTTP_RESET:
        return ldg_fail_native(err, LEDGER_ERR_CONNECT, http->backend, 0,
                               "%s closed the connection without an answer: %s%s", http->server,
                               exchange->detail,
                               /* TLS 1.3 hears of it behind its handshake */
                               http->is_tls ? "; does it ask for another client certificate "
                                              "(--client-cert)?"
                                            : "");
    case LDG_HTTP_PARTIAL:
        return ldg_fail_native(err, LEDGER_ERR_IO, http->backend, exchange->status,
                               "the answer of %s (status %d) broke off: %s", http->server,
                               exchange->status, exchange->detail);
    case LDG_HTTP_PROTOCOL:
        return ldg_fail_native(err, LEDGER_ERR_IO, http->backend, 0,
                               "what %s answers is not HTTP: %s; is the port right?", http->server,
                               exchange->detail);
    default:
        return ldg_fail_native(err, LEDGER_ERR_IO, http->backend, exchange->status,
                               "the request to %s failed: %s", http->server, exchange->detail);
    }
}

ledger_rc ldg_http_fail(const struct ldg_http *http, const struct ldg_http_exchange *exchange,
                        ledger_error *err)
{
    switch (exchange->trouble) {
    case LDG_HTTP_NOMEM:
        return ldg_fail_nomem(err);
    case LDG_HTTP_TOO_LARGE:
        return ldg_fail_native(err, LEDGER_ERR_TOO_LARGE, http->backend, exchange->status,
                               "the answer of %s (status %d) is longer than %zu bytes, or its "
                               "headers are too long",
                               http->server, exchange->status, exchange->request->answer_max);
    case LDG_HTTP_TIMEOUT:
    case LDG_HTTP_CONNECT_TIMEOUT:
    case LDG_HTTP_STALLED:
        return fail_time(http, exchange, err);
    case LDG_HTTP_CERTIFICATE:
    case LDG_HTTP_CLIENT_CERTIFICATE:
        return fail_trust(http, exchange, err);
    default:
        return fail_connection(http, exchange, err);
    }
}

/* --- headers --------------------------------------------------------------------------------- */

const char *ldg_http_header(const struct ldg_http_exchange *exchange, const char *name)
{
    const struct ldg_http_slot *slot = (const struct ldg_http_slot *)exchange;
    struct curl_header *header = NULL;
    if (curl_easy_header(slot->easy, name, 0, CURLH_HEADER, -1, &header) != CURLHE_OK)
        return NULL;
    if (header->index + 1 < header->amount)
        (void)curl_easy_header(slot->easy, name, header->amount - 1, CURLH_HEADER, -1, &header);
    return header->value;
}

int64_t ldg_http_parse_retry_after(const char *value, int64_t now_us)
{
    const int64_t max_seconds = LDG_HTTP_RETRY_AFTER_MAX_MS / 1000;
    int64_t seconds = 0;
    if (value == NULL)
        return -1;
    value += strspn(value, " \t");
    const size_t digits = strspn(value, "0123456789");
    if (digits > 0 && value[digits + strspn(value + digits, " \t")] == '\0') {
        for (size_t i = 0; i < digits && seconds < max_seconds; i++)
            seconds = seconds * 10 + (value[i] - '0');
    } else {
        const time_t at = curl_getdate(value, NULL);
        if (digits > 0 || at == (time_t)-1)
            return -1;
        /* To the next whole second, so that it is never too early. */
        seconds = (int64_t)at - now_us / 1000000;
        seconds = seconds > 0 ? seconds : 0;
    }
    return (seconds < max_seconds ? seconds : max_seconds) * 1000;
}

int64_t ldg_http_retry_after_ms(const struct ldg_http_exchange *exchange)
{
    return ldg_http_parse_retry_after(ldg_http_header(exchange, "Retry-After"), ldg_clock_now_us());
}

/* --- the start of a body --------------------------------------------------------------------- */

/* Bytes of the UTF-8 character at p, 0 where there is none. */
static size_t character_bytes(const unsigned char *p, size_t left)
{
    const size_t size = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (size == 0 || p[0] > 0xf4 || size > left)
        return 0;
    for (size_t i = 1; i < size; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return size;
}

/* C0, DEL, and C1, which terminals heed as well. */
static bool is_control(const unsigned char *p, size_t size)
{
    return (size == 1 && (p[0] < ' ' || p[0] == 0x7f)) ||
           (size == 2 && p[0] == 0xc2 && p[1] < 0xa0);
}

void ldg_http_excerpt(const struct ldg_buf *answer, char text[LDG_HTTP_EXCERPT_MAX])
{
    static const char more[] = "…";
    const unsigned char *p = (const unsigned char *)answer->data;
    size_t at = 0, used = 0;
    const size_t room = LDG_HTTP_EXCERPT_MAX - sizeof(more);
    while (at < answer->size) {
        const size_t size = character_bytes(p + at, answer->size - at);
        const bool is_blank = size == 0 ? false : p[at] == ' ' || is_control(p + at, size);
        const size_t step = size > 0 ? size : 1;
        if (used + step > room) {
            memcpy(text + used, more, sizeof(more) - 1);
            used += sizeof(more) - 1;
            break;
        }
        if (size == 0)
            text[used++] = '?';
        else if (is_blank && used > 0 && text[used - 1] != ' ')
            text[used++] = ' ';
        else if (!is_blank) {
            memcpy(text + used, p + at, size);
            used += size;
        }
        at += step;
    }
    while (used > 0 && text[used - 1] == ' ')
        used--;
    text[used] = '\0';
}
