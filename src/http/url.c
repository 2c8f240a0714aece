/* The URL of a server in its parts.
 *
 * Hides libcurl's parser of URLs, and what counts as this machine. Messages show nothing of a URL
 * that cannot be read: where it ends and its secret begins is not known then. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <curl/curl.h>

#include "base/error.h"
#include "base/mem.h"
#include "http/http.h"

void ldg_http_url_fini(struct ldg_http_url *url)
{
    ldg_free(url->origin);
    ldg_free(url->server);
    ldg_free(url->path);
    ldg_free(url->query);
    ldg_free(url->user);
    ldg_free_secret(url->password);
    *url = (struct ldg_http_url){ 0 };
}

/* A part, as a copy of ours; NULL: there is none. */
static ledger_rc get_part(CURLU *handle, CURLUPart part, unsigned flags, char **ret_text,
                          ledger_error *err)
{
    char *text = NULL;
    const CURLUcode code = curl_url_get(handle, part, &text, flags);
    ledger_rc rc = LEDGER_OK;
    if (code == CURLUE_OK) {
        *ret_text = ldg_strdup(text);
        rc = *ret_text != NULL ? LEDGER_OK : ldg_fail_nomem(err);
        explicit_bzero(text, strlen(text));
    } else if (code == CURLUE_OUT_OF_MEMORY) {
        rc = ldg_fail_nomem(err);
    } else if (code == CURLUE_URLDECODE) {
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "user or password in the URL hold a control character (%%00 to %%1f); write "
                      "another one");
    }
    curl_free(text);
    return rc;
}

/* Of "[::1]", "127.0.0.1", "localhost". */
static bool is_loopback(const char *host)
{
    struct in_addr address;
    if (strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0)
        return true;
    return inet_pton(AF_INET, host, &address) == 1 && ntohl(address.s_addr) >> 24 == 127;
}

static ledger_rc join(char **ret_text, ledger_error *err, const char *scheme, const char *host,
                      const char *port)
{
    const size_t size = strlen(scheme) + strlen(host) + strlen(port) + 2;
    *ret_text = ldg_malloc(size);
    if (*ret_text == NULL)
        return ldg_fail_nomem(err);
    (void)snprintf(*ret_text, size, "%s%s:%s", scheme, host, port);
    return LEDGER_OK;
}

static ledger_rc take_parts(CURLU *handle, bool is_tls, int default_port, struct ldg_http_url *url,
                            ledger_error *err)
{
    LDG_AUTO_FREE char *host = NULL;
    LDG_AUTO_FREE char *port = NULL;
    char usual_port[16];
    const int usual = default_port > 0 ? default_port : is_tls ? 443 : 80;
    (void)snprintf(usual_port, sizeof(usual_port), "%d", usual);
    ledger_rc rc = get_part(handle, CURLUPART_HOST, 0, &host, err);
    if (rc == LEDGER_OK && (host == NULL || *host == '\0'))
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "the URL names no host");
    if (rc == LEDGER_OK)
        rc = get_part(handle, CURLUPART_PORT, 0, &port, err);
    if (rc == LEDGER_OK && port != NULL && strcmp(port, "0") == 0)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "the port in the URL is 0");
    if (rc == LEDGER_OK)
        rc = join(&url->origin, err, is_tls ? "https://" : "http://", host,
                  port != NULL ? port : usual_port);
    if (rc == LEDGER_OK)
        rc = join(&url->server, err, "", host, port != NULL ? port : usual_port);
    if (rc == LEDGER_OK)
        rc = get_part(handle, CURLUPART_PATH, 0, &url->path, err);
    if (rc == LEDGER_OK)
        rc = get_part(handle, CURLUPART_QUERY, 0, &url->query, err);
    if (rc == LEDGER_OK)
        rc = get_part(handle, CURLUPART_USER, CURLU_URLDECODE, &url->user, err);
    if (rc == LEDGER_OK)
        rc = get_part(handle, CURLUPART_PASSWORD, CURLU_URLDECODE, &url->password, err);
    if (rc == LEDGER_OK) {
        url->is_tls = is_tls;
        url->is_loopback = is_loopback(host);
    }
    return rc;
}

static ledger_rc check_text(const char *url, ledger_error *err)
{
    const char *rest = strchr(url, ':');
    if (rest == NULL || strncmp(rest, "://", 3) != 0)
        return ldg_fail(err, LEDGER_ERR_INVALID, "the URL has no \"://\" behind its scheme");
    if (rest[3] == '/') /* libcurl would skip it */
        return ldg_fail(err, LEDGER_ERR_INVALID, "the URL names no host");
    for (const char *p = url; *p != '\0'; p++) {
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f)
            return ldg_fail(err, LEDGER_ERR_INVALID,
                            "the URL holds a blank, a control character or a letter that is not "
                            "ASCII; write it with %%, a blank as %%20");
        if (*p == '#')
            return ldg_fail(err, LEDGER_ERR_INVALID,
                            "the URL holds a \"#\", and what is behind it is never sent; write it "
                            "as %%23");
    }
    return LEDGER_OK;
}

ledger_rc ldg_http_url_parse(const char *url, bool is_tls, int default_port,
                             struct ldg_http_url *ret_url, ledger_error *err)
{
    struct ldg_http_url parts = { 0 };
    CURLU *handle = NULL;
    ledger_rc rc = check_text(url, err);
    if (rc == LEDGER_OK && (handle = curl_url()) == NULL)
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK) {
        const CURLUcode code = curl_url_set(handle, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME);
        if (code == CURLUE_OUT_OF_MEMORY)
            rc = ldg_fail_nomem(err);
        else if (code != CURLUE_OK)
            rc = ldg_fail(err, LEDGER_ERR_INVALID,
                          "the URL cannot be read: %s; it is SCHEME://HOST:PORT/PATH, and special "
                          "characters in user and password are written with %%",
                          curl_url_strerror(code));
    }
    if (rc == LEDGER_OK)
        rc = take_parts(handle, is_tls, default_port, &parts, err);
    if (rc == LEDGER_OK && parts.path == NULL && (parts.path = ldg_strdup("/")) == NULL)
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK && parts.query == NULL && (parts.query = ldg_strdup("")) == NULL)
        rc = ldg_fail_nomem(err);
    if (rc == LEDGER_OK)
        *ret_url = parts;
    else
        ldg_http_url_fini(&parts);
    curl_url_cleanup(handle);
    return rc;
}

ledger_rc ldg_http_url_check(const struct ldg_http_url *url, bool insecure, const char *tls_scheme,
                             ledger_error *err)
{
    if (url->is_tls || url->is_loopback || insecure)
        return LEDGER_OK;
    return ldg_fail(err, LEDGER_ERR_INVALID,
                    "what is sent to %s could be read on the way; write %s://, or give --insecure "
                    "if that network is yours alone",
                    url->server, tls_scheme);
}
