/* The client: its life, and waiting for requests that are under way.
 *
 * Hides libcurl's multi interface. Invariant: a slot that is FREE or FINISHED is not in libcurl's
 * hands, and what is borrowed of a request is not touched any more. */
#include "http/http.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mem.h"
#include "http/slot.h"

#define CONNECT_TIMEOUT_MS 10000
#define TIMEOUT_MS 30000
#define HEADERS_MAX 64
#define STALL_BYTES 1024

/* --- life ------------------------------------------------------------------------------------ */

static CURLcode global_code;
static pthread_once_t global_once = PTHREAD_ONCE_INIT;

/* Never undone: other parts of the process may use libcurl as well. */
static void init_global(void)
{
    global_code = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static ledger_rc copy_text(const char *text, char **ret_copy, ledger_error *err)
{
    if (text == NULL)
        return LEDGER_OK;
    *ret_copy = ldg_strdup(text);
    return *ret_copy != NULL ? LEDGER_OK : ldg_fail_nomem(err);
}

/* What libcurl would find out with the first connection only. */
static ledger_rc copy_file(const char *path, const char *option, char **ret_copy, ledger_error *err)
{
    if (path == NULL)
        return LEDGER_OK;
    if (access(path, R_OK) != 0)
        return ldg_fail(err, errno == EACCES ? LEDGER_ERR_PERMISSION : LEDGER_ERR_INVALID,
                        "the file of %s cannot be read: %s", option, strerror(errno));
    return copy_text(path, ret_copy, err);
}

/* "Name: value". These say how the body is sent, which is not the user's to say. */
static ledger_rc check_header(const char *line, size_t number, ledger_error *err)
{
    static const char *const ours[] = { "Content-Length:", "Transfer-Encoding:",
                                        "Connection:",     "Content-Encoding:",
                                        "Expect:",         "Upgrade:" };
    static const char token[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                "0123456789!#$%&'*+-.^_`|~";
    const size_t name_size = strspn(line, token);
    bool is_bad = name_size == 0 || line[name_size] != ':';
    for (const char *p = line; *p != '\0'; p++)
        is_bad |= ((unsigned char)*p < ' ' && *p != '\t') || *p == 0x7f;
    if (is_bad || line[name_size + 1 + strspn(line + name_size + 1, " \t")] == '\0')
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "line %zu of the header file (--header-file) is no header; write "
                        "\"Name: value\"",
                        number);
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
        if (ldg_http_same_name(line, ours[i]))
            return ldg_fail(err, LEDGER_ERR_INVALID,
                            "line %zu of the header file (--header-file) sets \"%.*s\", which "
                            "belongs to the transfer; remove it",
                            number, (int)name_size, line);
    return LEDGER_OK;
}

static ledger_rc add_header(void *ctx, const char *line, size_t number, ledger_error *err)
{
    struct ldg_http *http = ctx;
    ledger_rc rc = check_header(line, number, err);
    if (rc == LEDGER_OK && http->header_count == HEADERS_MAX)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "the header file (--header-file) has more than %d headers", HEADERS_MAX);
    if (rc == LEDGER_OK)
        rc = copy_text(line, &http->headers[http->header_count], err);
    http->header_count += rc == LEDGER_OK;
    return rc;
}

static ledger_rc take_options(struct ldg_http *http, const struct ldg_http_config *config,
                              ledger_error *err)
{
    const ledger_http_options *options = config->options;
    const bool has_own = config->user != NULL;
    const char *user = has_own ? config->user : config->url->user;
    const char *password = has_own ? config->password : config->url->password;
    http->backend = config->backend;
    http->waiting.wait = config->wait;
    http->is_tls = config->url->is_tls;
    http->is_loopback = config->url->is_loopback;
    http->timeout_ms = options->timeout_ms > 0  ? options->timeout_ms
                       : config->timeout_ms > 0 ? config->timeout_ms
                                                : TIMEOUT_MS;
    http->connect_timeout_ms =
        options->connect_timeout_ms > 0 ? options->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    http->slot_count = config->slots > 0 ? config->slots : options->connections;
    ledger_rc rc = copy_text(config->url->server, &http->server, err);
    if (rc == LEDGER_OK && user != NULL && *user != '\0')
        rc = copy_text(user, &http->user, err);
    if (rc == LEDGER_OK && http->user != NULL)
        rc = copy_text(password, &http->password, err);
    if (rc == LEDGER_OK)
        rc = copy_file(options->ca_file, "--ca-file", &http->ca_file, err);
    if (rc == LEDGER_OK)
        rc = copy_file(options->client_cert_file, "--client-cert", &http->client_cert_file, err);
    if (rc == LEDGER_OK)
        rc = copy_file(options->client_key_file, "--client-key", &http->client_key_file, err);
    if (rc == LEDGER_OK && http->client_key_file != NULL && http->client_cert_file == NULL)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "--client-key is the key of a certificate; give that with --client-cert");
    return rc;
}

static ledger_rc open_multi(struct ldg_http *http, ledger_error *err)
{
    pthread_once(&global_once, init_global);
    if (global_code != CURLE_OK)
        return ldg_fail(err, LEDGER_ERR_INTERNAL, "libcurl cannot be used: %s",
                        curl_easy_strerror(global_code));
    http->slots = ldg_calloc(http->slot_count, sizeof(*http->slots));
    http->multi = http->slots != NULL ? curl_multi_init() : NULL;
    if (http->multi == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < http->slot_count; i++) {
        http->slots[i].http = http;
        ldg_buf_init(&http->slots[i].exchange.answer, 0);
    }
    if (curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long)http->slot_count + 1) !=
            CURLM_OK ||
        curl_multi_setopt(http->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)http->slot_count) !=
            CURLM_OK)
        return ldg_fail(err, LEDGER_ERR_INTERNAL, "libcurl does not take its options");
    return LEDGER_OK;
}

ledger_rc ldg_http_open(const struct ldg_http_config *config, struct ldg_http **ret_http,
                        ledger_error *err)
{
    struct ldg_http *http = ldg_calloc(1, sizeof(*http));
    if (http == NULL)
        return ldg_fail_nomem(err);
    ledger_rc rc = take_options(http, config, err);
    if (rc == LEDGER_OK && config->options->header_file != NULL) {
        http->headers = ldg_calloc(HEADERS_MAX, sizeof(*http->headers));
        rc = http->headers != NULL ? LEDGER_OK : ldg_fail_nomem(err);
    }
    if (rc == LEDGER_OK && http->headers != NULL)
        rc = ldg_http_read_lines(config->options->header_file, "the header file (--header-file)",
                                 add_header, http, err);
    if (rc == LEDGER_OK)
        rc = open_multi(http, err);
    if (rc == LEDGER_OK) {
        *ret_http = http;
        http = NULL;
    }
    ldg_http_close(&http);
    return rc;
}

void ldg_http_close(struct ldg_http **http_pointer)
{
    struct ldg_http *http = *http_pointer;
    if (http == NULL)
        return;
    *http_pointer = NULL;
    if (http->multi != NULL)
        ldg_http_drop(http);
    for (size_t i = 0; http->slots != NULL && i < http->slot_count; i++) {
        curl_easy_cleanup(http->slots[i].easy);
        ldg_buf_fini(&http->slots[i].exchange.answer);
    }
    if (http->multi != NULL)
        curl_multi_cleanup(http->multi);
    for (size_t i = 0; i < http->header_count; i++)
        ldg_free_secret(http->headers[i]);
    ldg_free_secret(http->user);
    ldg_free_secret(http->password);
    ldg_free(http->headers);
    ldg_free(http->server);
    ldg_free(http->ca_file);
    ldg_free(http->client_cert_file);
    ldg_free(http->client_key_file);
    ldg_free(http->slots);
    ldg_free(http);
}

/* --- starting and dropping ------------------------------------------------------------------- */

ledger_rc ldg_http_start(struct ldg_http *http, const struct ldg_http_request *request,
                         struct ldg_http_exchange **ret_exchange, ledger_error *err)
{
    struct ldg_http_slot *slot = NULL;
    ledger_rc rc = LEDGER_OK;
    for (size_t i = 0; i < http->slot_count && slot == NULL; i++)
        if (http->slots[i].state == LDG_HTTP_FREE)
            slot = &http->slots[i];
    if (slot == NULL)
        return ldg_fail(err, LEDGER_ERR_INTERNAL, "more requests at a time than there are slots");
    if (slot->easy == NULL)
        rc = ldg_http_slot_open(slot, err);
    if (rc == LEDGER_OK)
        rc = ldg_http_slot_prepare(slot, request, err);
    if (rc == LEDGER_OK && curl_multi_add_handle(http->multi, slot->easy) != CURLM_OK)
        rc = ldg_fail_nomem(err);
    if (rc != LEDGER_OK) {
        ldg_http_slot_clear(slot);
        return rc;
    }
    slot->state = LDG_HTTP_RUNNING;
    http->started = true;
    *ret_exchange = &slot->exchange;
    return LEDGER_OK;
}

/* From libcurl's hands. A connection that is in the midst of it is closed. */
static void take_back(struct ldg_http_slot *slot)
{
    (void)curl_multi_remove_handle(slot->http->multi, slot->easy);
    slot->state = LDG_HTTP_FINISHED;
}

void ldg_http_done(struct ldg_http_exchange *exchange)
{
    struct ldg_http_slot *slot = (struct ldg_http_slot *)exchange;
    if (slot->state == LDG_HTTP_RUNNING)
        take_back(slot);
    ldg_http_slot_clear(slot);
}

void ldg_http_drop(struct ldg_http *http)
{
    for (size_t i = 0; i < http->slot_count; i++)
        if (http->slots[i].state != LDG_HTTP_FREE)
            ldg_http_done(&http->slots[i].exchange);
}

static bool is_idle(const struct ldg_http *http)
{
    bool idle = true;
    for (size_t i = 0; i < http->slot_count && idle; i++)
        idle = http->slots[i].state == LDG_HTTP_FREE;
    return idle;
}

/* --- waiting --------------------------------------------------------------------------------- */

static bool was_sent(const struct ldg_http_slot *slot)
{
    long bytes = 0;
    return curl_easy_getinfo(slot->easy, CURLINFO_REQUEST_SIZE, &bytes) == CURLE_OK && bytes > 0;
}

/* Bytes of the bodies, while one of them is on its way; else -1. */
static int64_t bytes_moved(const struct ldg_http_slot *slot)
{
    curl_off_t up = 0, down = 0;
    (void)curl_easy_getinfo(slot->easy, CURLINFO_SIZE_UPLOAD_T, &up);
    (void)curl_easy_getinfo(slot->easy, CURLINFO_SIZE_DOWNLOAD_T, &down);
    const bool is_moving = down > 0 || (up > 0 && (size_t)up < slot->body_bytes);
    return is_moving ? up + down : -1;
}

static void look_for_stall(struct ldg_http_slot *slot)
{
    const int64_t stall_ms = slot->exchange.request->stall_ms;
    const int64_t bytes = bytes_moved(slot);
    const int64_t now_us = ldg_clock_mono_us();
    if (bytes < 0 || slot->mark_bytes < 0 || bytes - slot->mark_bytes >= STALL_BYTES) {
        slot->mark_bytes = bytes;
        slot->mark_us = now_us;
    } else if (stall_ms > 0 && (now_us - slot->mark_us) / 1000 >= stall_ms) {
        ldg_http_slot_give_up(slot, LDG_HTTP_STALLED, "");
        take_back(slot);
    }
}

static ledger_rc stop_waiting(struct ldg_http *http, ledger_wait_answer answer, bool is_sent,
                              ledger_error *err)
{
    ldg_http_drop(http);
    if (answer == LEDGER_WAIT_ENOUGH)
        return ldg_fail_native(err, LEDGER_ERR_CONNECT, http->backend, 0,
                               "no connection to %s within the time that there was", http->server);
    return ldg_fail_native(err, LEDGER_ERR_CANCELLED, http->backend, 0,
                           is_sent ? "stopped while %s had not answered yet"
                                   : "stopped before %s could be asked",
                           http->server);
}

/* Nothing has finished: is it to go on? */
static ledger_rc look_up(struct ldg_http *http, ledger_error *err)
{
    bool is_sent = false;
    for (size_t i = 0; i < http->slot_count; i++) {
        if (http->slots[i].state != LDG_HTTP_RUNNING)
            continue;
        is_sent |= was_sent(&http->slots[i]);
        look_for_stall(&http->slots[i]);
    }
    const ledger_wait_answer answer = ldg_waiting_ask(&http->waiting);
    /* With ENOUGH the server still may end what it is at work on. */
    if (answer != LEDGER_WAIT_ON && !(answer == LEDGER_WAIT_ENOUGH && is_sent))
        return stop_waiting(http, answer, is_sent, err);
    if (ldg_waiting_is_long(&http->waiting))
        ldg_wait_tell(http->waiting.wait,
                      is_sent ? "%s has not answered yet" : "%s has not taken the connection yet",
                      http->server);
    return LEDGER_OK;
}

/* Lets libcurl do what it can without waiting. */
static ledger_rc perform(struct ldg_http *http, ledger_error *err)
{
    int running, left;
    CURLMcode code = curl_multi_perform(http->multi, &running);
    http->started = false;
    for (CURLMsg *message; (message = curl_multi_info_read(http->multi, &left)) != NULL;) {
        char *private = NULL;
        const CURLcode result = message->data.result; /* gone with the handle */
        (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &private);
        struct ldg_http_slot *slot = (struct ldg_http_slot *)(void *)private;
        ldg_http_slot_finish(slot, result);
        take_back(slot);
    }
    if (code == CURLM_OUT_OF_MEMORY)
        return ldg_fail_nomem(err);
    return code == CURLM_OK ? LEDGER_OK
                            : ldg_fail_native(err, LEDGER_ERR_INTERNAL, http->backend, (int)code,
                                              "libcurl: %s", curl_multi_strerror(code));
}

/* In turns: one that is used again at once does not keep the others from being seen. */
static struct ldg_http_exchange *find_finished(struct ldg_http *http)
{
    for (size_t i = 0; i < http->slot_count; i++) {
        const size_t at = (http->turn + i) % http->slot_count;
        if (http->slots[at].state != LDG_HTTP_FINISHED)
            continue;
        http->turn = (at + 1) % http->slot_count;
        return &http->slots[at].exchange;
    }
    return NULL;
}

ledger_rc ldg_http_wait(struct ldg_http *http, struct ldg_http_exchange **ret_exchange,
                        ledger_error *err)
{
    struct ldg_http_exchange *finished = NULL;
    ledger_rc rc = LEDGER_OK;
    ldg_waiting_again(&http->waiting);
    if (http->started)
        rc = perform(http, err);
    while (rc == LEDGER_OK && (finished = find_finished(http)) == NULL) {
        if (is_idle(http))
            return ldg_fail(err, LEDGER_ERR_INTERNAL, "no request is under way");
        rc = look_up(http, err);
        if (rc == LEDGER_OK)
            (void)curl_multi_poll(http->multi, NULL, 0, LDG_WAIT_LOOK_MS, NULL);
        if (rc == LEDGER_OK)
            rc = perform(http, err);
    }
    if (rc == LEDGER_OK)
        *ret_exchange = finished;
    return rc;
}

ledger_rc ldg_http_run(struct ldg_http *http, const struct ldg_http_request *request,
                       struct ldg_http_exchange **ret_exchange, ledger_error *err)
{
    struct ldg_http_exchange *exchange;
    ledger_rc rc = ldg_http_start(http, request, &exchange, err);
    if (rc == LEDGER_OK)
        rc = ldg_http_wait(http, ret_exchange, err);
    if (rc != LEDGER_OK)
        ldg_http_drop(http);
    return rc;
}
