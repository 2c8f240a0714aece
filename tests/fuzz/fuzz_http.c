/* Any bytes as the answer of an HTTP server: a listener of our own sends them to the client of the
 * sinks, from the status line to the end of the body, and hangs up. Whatever comes out of it has to
 * stay within its bounds. The same bytes go straight to what reads parts of an answer, too. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "event/event.h"
#include "http/http.h"
#include "ldg_config.h"

#if LDG_WITH_CLICKHOUSE
#include "backend/clickhouse/fail.h"
#endif

#define ANSWER_MAX 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good)
        abort();
}

/* --- the server ------------------------------------------------------------------------------ */

static struct {
    pthread_mutex_t mutex;
    int listener, port;
    const uint8_t *data; /* of the answer to whoever connects next */
    size_t size;
} server = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static void serve(int fd)
{
    const struct timeval second = { 1, 0 };
    char request[4096];
    size_t size = 0, sent = 0;
    ssize_t got;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second));
    while (size < sizeof(request) &&
           (got = recv(fd, request + size, sizeof(request) - size, 0)) > 0) {
        size += (size_t)got;
        if (memmem(request, size, "\r\n\r\n", 4) != NULL)
            break;
    }
    (void)pthread_mutex_lock(&server.mutex);
    while (sent < server.size &&
           (got = send(fd, server.data + sent, server.size - sent, MSG_NOSIGNAL)) > 0)
        sent += (size_t)got;
    (void)pthread_mutex_unlock(&server.mutex);
    (void)shutdown(fd, SHUT_WR);
    while (recv(fd, request, sizeof(request), 0) > 0)
        ;
    close(fd);
}

static void *run_server(void *ctx)
{
    for (;;) {
        int fd = accept(server.listener, NULL, NULL);
        check(fd >= 0);
        serve(fd);
    }
    return NULL;
}

static void set_answer(const uint8_t *data, size_t size)
{
    (void)pthread_mutex_lock(&server.mutex);
    server.data = data;
    server.size = size;
    (void)pthread_mutex_unlock(&server.mutex);
}

static void start_server(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t size = sizeof(address);
    pthread_t thread;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(server.listener >= 0 &&
          bind(server.listener, (struct sockaddr *)&address, sizeof(address)) == 0 &&
          listen(server.listener, 16) == 0 &&
          getsockname(server.listener, (struct sockaddr *)&address, &size) == 0);
    server.port = ntohs(address.sin_port);
    check(pthread_create(&thread, NULL, run_server, NULL) == 0 && pthread_detach(thread) == 0);
}

/* --- what is read out of an answer ----------------------------------------------------------- */

static void check_message(const ledger_error *err, ledger_rc rc)
{
    check(rc != LEDGER_OK && err->code == rc);
    check(err->message[0] != '\0' && ldg_utf8_valid(err->message, strlen(err->message)));
}

static void check_excerpt(const struct ldg_buf *answer)
{
    char text[LDG_HTTP_EXCERPT_MAX];
    ldg_http_excerpt(answer, text);
    check(strlen(text) < sizeof(text) && ldg_utf8_valid(text, strlen(text)));
    for (const char *p = text; *p != '\0'; p++)
        check((unsigned char)*p >= ' ' && *p != 0x7f);
}

static void check_retry_after(const char *value)
{
    static const int64_t moments_us[] = { 0, 1796000000000000, 4102444800000000 };
    for (size_t i = 0; i < sizeof(moments_us) / sizeof(moments_us[0]); i++) {
        int64_t wait_ms = ldg_http_parse_retry_after(value, moments_us[i]);
        check(wait_ms >= -1 && wait_ms <= LDG_HTTP_RETRY_AFTER_MAX_MS);
    }
}

static void check_clickhouse(ledger_bytes body, const char *tag)
{
#if LDG_WITH_CLICKHOUSE
    const char *start = body.data;
    struct ldg_ch_error error;
    ledger_error err = { 0 };
    if (!ldg_ch_find_error(body, tag, &error))
        return;
    check(error.code >= 0);
    check(error.text.size == 0 ||
          ((const char *)error.text.data >= start &&
           (const char *)error.text.data + error.text.size <= start + body.size));
    check_message(&err, ldg_ch_fail("fuzzing", &error, &err));
#endif
}

/* Any bytes as a part of an answer. */
static void check_parts(const uint8_t *data, size_t size)
{
    struct ldg_buf buf;
    char *text = malloc(size + 1);
    check(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    check_retry_after(text);
    check_clickhouse((ledger_bytes){ data, size }, "tag");
    ldg_buf_init(&buf, (size_t)1 << 30);
    check(ldg_buf_append(&buf, data, size) == LEDGER_OK);
    check_excerpt(&buf);
    ldg_buf_fini(&buf);
    free(text);
}

static void check_answer(const struct ldg_http *http, const struct ldg_http_exchange *exchange)
{
    const char *retry_after = ldg_http_header(exchange, "Retry-After");
    const int64_t wait_ms = ldg_http_retry_after_ms(exchange);
    ledger_error err = { 0 };
    check(exchange->answer.size <= ANSWER_MAX);
    check(exchange->status == 0 || (exchange->status >= 100 && exchange->status <= 999));
    check(exchange->trouble != LDG_HTTP_OK || exchange->status != 0);
    check(wait_ms >= -1 && wait_ms <= LDG_HTTP_RETRY_AFTER_MAX_MS);
    if (retry_after != NULL)
        check_retry_after(retry_after);
    check_excerpt(&exchange->answer);
    check_clickhouse((ledger_bytes){ exchange->answer.data, exchange->answer.size },
                     ldg_http_header(exchange, "X-ClickHouse-Exception-Tag"));
    if (exchange->trouble != LDG_HTTP_OK)
        check_message(&err, ldg_http_fail(http, exchange, &err));
}

static void check_whole(const uint8_t *data, size_t size)
{
    static const ledger_http_options options = { .size = sizeof(options),
                                                 .timeout_ms = 5000,
                                                 .connections = 1 };
    struct ldg_http_url parts;
    struct ldg_http_exchange *exchange;
    struct ldg_http *http;
    ledger_error err = { 0 };
    char url[64];
    struct ldg_http_request request = { .method = "POST", .url = url, .answer_max = ANSWER_MAX };
    set_answer(data, size);
    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%d/", server.port);
    request.cut_answer = size % 2 == 0;
    check(ldg_http_url_parse(url, false, 0, &parts, &err) == LEDGER_OK);
    check(ldg_http_open(
              &(struct ldg_http_config){ .url = &parts, .options = &options, .backend = "webhook" },
              &http, &err) == LEDGER_OK);
    check(ldg_http_run(http, &request, &exchange, &err) == LEDGER_OK);
    check_answer(http, exchange);
    ldg_http_done(exchange);
    ldg_http_close(&http);
    ldg_http_url_fini(&parts);
    set_answer(NULL, 0); /* a client that has enough leaves before the server */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (server.port == 0)
        start_server();
    check_parts(data, size);
    check_whole(data, size);
    return 0;
}
