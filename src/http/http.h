/* A small HTTP client, for backends that are reached so: requests to one server, several at a time.
 *
 * Hides libcurl: connections that are kept, TLS (always verified), HTTP/2, proxies of the
 * environment, timeouts, what its errors mean. Redirects are not followed, nothing but http and
 * https is spoken, and no message holds credentials, headers, or more of a URL than its server.
 *
 * Threads: one at a time per client. What waits looks up every LDG_WAIT_LOOK_MS and asks. */
#ifndef LDG_HTTP_HTTP_H
#define LDG_HTTP_HTTP_H

#include "ledger/http.h"

#include "base/buf.h"
#include "store/backend.h"

/* --- url.c ----------------------------------------------------------------------------------- */

/* A URL in its parts; heap. */
struct ldg_http_url {
    char *origin;   /* "https://host:8443": what the URL of a request begins with */
    char *server;   /* "host:8443", for messages */
    char *path;     /* "/db", as it is written; at least "/" */
    char *query;    /* behind the "?", as it is written; "": none */
    char *user;     /* decoded; NULL: none */
    char *password; /* decoded; NULL: none */
    bool is_tls;
    bool is_loopback; /* localhost, 127.0.0.0/8, [::1] */
};
/* url: of any scheme, which stands for https (is_tls) or http. default_port 0: the scheme's own.
 * On success *ret_url is the caller's: ldg_http_url_fini(). Errors: INVALID (no host, white space
 * or control characters, a fragment, a port of 0; the message shows nothing of the URL), NOMEM. */
ledger_rc ldg_http_url_parse(const char *url, bool is_tls, int default_port,
                             struct ldg_http_url *ret_url, ledger_error *err);
/* Takes zeroes, too. */
void ldg_http_url_fini(struct ldg_http_url *url);
/* Errors: INVALID (plain HTTP to another machine; the words name --insecure and the scheme
 * tls_scheme). */
ledger_rc ldg_http_url_check(const struct ldg_http_url *url, bool insecure, const char *tls_scheme,
                             ledger_error *err);

/* --- file.c: what stands in files ------------------------------------------------------------ */

#define LDG_HTTP_FILE_MAX_BYTES ((size_t)64 * 1024)
/* Reads a file of settings line by line: without line ends, blanks at both ends, empty lines and
 * those that begin with '#'. what: "the file of --secret-file", for messages, which show nothing of
 * the lines. Each line is called with its number, from 1; anything but OK ends it. The memory is
 * wiped afterwards. Errors: INVALID (not there, too large, NUL bytes), PERMISSION, IO, NOMEM. */
typedef ledger_rc (*ldg_http_line_fn)(void *ctx, const char *line, size_t number,
                                      ledger_error *err);
ledger_rc ldg_http_read_lines(const char *path, const char *what, ldg_http_line_fn fn, void *ctx,
                              ledger_error *err);

/* --- http.c: the client ---------------------------------------------------------------------- */

struct ldg_http;

struct ldg_http_config {
    const struct ldg_http_url *url;     /* borrowed for the open: server and credentials */
    const ledger_http_options *options; /* borrowed for the open: files, timeouts, connections */
    const char *user, *password; /* sent as basic authentication; NULL: those of url. user "": none
                                    at all, whatever url says */
    int timeout_ms;              /* of a request as a whole, where options say 0 */
    size_t slots;                /* requests at a time; 0: options->connections */
    const char *backend;         /* "webhook", for errors; lives as long as the client */
    const ledger_wait *wait;     /* may be NULL; lives as long as the client */
};
/* Connects to nobody. On success *ret_http is the caller's: ldg_http_close(). Errors: INVALID (a
 * file that cannot be used, a header of the header file that is none), PERMISSION, IO, NOMEM. */
ledger_rc ldg_http_open(const struct ldg_http_config *config, struct ldg_http **ret_http,
                        ledger_error *err);
/* Drops what is under way. NULL is fine; sets NULL. */
void ldg_http_close(struct ldg_http **http);

struct ldg_http_piece {
    const void *data;
    size_t size;
};

/* Borrowed, with all that it points to, until ldg_http_done(), or until it was dropped. */
struct ldg_http_request {
    const char *method;         /* "POST", "GET", "HEAD", … */
    const char *url;            /* whole; without credentials */
    const char *const *headers; /* "Name: value", beside those of the header file, which a name
                                   here beats; no line ends in them */
    size_t header_count;
    const struct ldg_http_piece *body; /* sent one behind the other, with their length */
    size_t body_count;                 /* 0: none (a POST then has an empty one) */
    bool connects_only; /* TLS included; nothing is sent, and the connection is closed again */
    size_t answer_max;  /* bytes of the answer's body that are kept */
    bool cut_answer;    /* a longer one ends there, is_cut, and is a success; else TOO_LARGE */
    int64_t stall_ms;   /* less than a KiB goes in so long, while body or answer's body is on
                           its way: STALLED; 0: only the whole timeout counts */
    int64_t timeout_ms; /* of this one; 0: the client's */
    void *ctx;          /* the caller's own */
};

/* What went wrong on the way, so that no answer or no whole one is there. */
enum ldg_http_trouble {
    LDG_HTTP_OK = 0,        /* the answer is whole (or is_cut): look at its status */
    LDG_HTTP_UNKNOWN_HOST,  /* of the server, or the proxy */
    LDG_HTTP_NOT_CONNECTED, /* refused, no route, … */
    LDG_HTTP_CONNECT_TIMEOUT,
    LDG_HTTP_CERTIFICATE,        /* the server's was not accepted */
    LDG_HTTP_CLIENT_CERTIFICATE, /* ours cannot be used */
    LDG_HTTP_TLS,                /* the handshake failed otherwise */
    LDG_HTTP_TIMEOUT,            /* the whole one */
    LDG_HTTP_STALLED,
    LDG_HTTP_RESET,     /* the connection was lost before the answer came */
    LDG_HTTP_PARTIAL,   /* the answer has begun and has no end: its part is in `answer` */
    LDG_HTTP_TOO_LARGE, /* the answer is longer than answer_max, its headers than they may be */
    LDG_HTTP_PROTOCOL,  /* what came is no HTTP */
    LDG_HTTP_NOMEM,
    LDG_HTTP_OTHER,
};

/* A request under way, or finished. The client's; reading is free while it is finished. */
struct ldg_http_exchange {
    const struct ldg_http_request *request;
    int status; /* 0: no answer has begun */
    enum ldg_http_trouble trouble;
    struct ldg_buf answer; /* its body, with a NUL behind it */
    bool is_cut;
    bool was_sent;    /* some of the request may have reached the server */
    char detail[160]; /* trouble: what libcurl, or the system, calls it; no secret */
};

/* Starts a request in a free slot; nothing is sent before ldg_http_wait(). The exchange stays the
 * client's. Errors: NOMEM, INTERNAL (no free slot: the caller counts). */
ledger_rc ldg_http_start(struct ldg_http *http, const struct ldg_http_request *request,
                         struct ldg_http_exchange **ret_exchange, ledger_error *err);
/* Waits until any of those under way has finished, and gives it: the caller looks, then calls
 * ldg_http_done(). Trouble on the way is no failure of this call. Errors: CANCELLED (whoever waits
 * is to end: all that is under way was dropped, its outcome is not known), CONNECT (enough was
 * waited for a connection, and none is there: dropped likewise), NOMEM, INTERNAL (nothing is under
 * way). */
ledger_rc ldg_http_wait(struct ldg_http *http, struct ldg_http_exchange **ret_exchange,
                        ledger_error *err);
/* Frees the slot; its memory is kept for the next one. */
void ldg_http_done(struct ldg_http_exchange *exchange);
/* Drops all that is under way or finished and not done. Connections that were busy are closed. */
void ldg_http_drop(struct ldg_http *http);
/* Runs one, with nothing else under way: start and wait. On success the caller calls
 * ldg_http_done(). */
ledger_rc ldg_http_run(struct ldg_http *http, const struct ldg_http_request *request,
                       struct ldg_http_exchange **ret_exchange, ledger_error *err);

/* A header of the answer, the last of that name, case ignored; NULL: it has none. Lives until
 * ldg_http_done(). */
const char *ldg_http_header(const struct ldg_http_exchange *exchange, const char *name);

/* --- answer.c: what an answer means ---------------------------------------------------------- */

/* Fills err for an exchange in trouble, and returns the code: CONNECT, IO, TIMEOUT, NOMEM (retry),
 * UNTRUSTED, TOO_LARGE (fatal). The words name the server and what to change. */
ledger_rc ldg_http_fail(const struct ldg_http *http, const struct ldg_http_exchange *exchange,
                        ledger_error *err);

/* How long the server asks to be left alone (Retry-After, in seconds or as a date), never more
 * than the maximum; -1: it says nothing that can be read. */
#define LDG_HTTP_RETRY_AFTER_MAX_MS ((int64_t)5 * 60 * 1000)
int64_t ldg_http_retry_after_ms(const struct ldg_http_exchange *exchange);
/* value: of the header; may be NULL. now_us: the wall clock. */
int64_t ldg_http_parse_retry_after(const char *value, int64_t now_us);

/* The start of an answer's body for a message: one line, UTF-8 with what is none replaced, no
 * control characters, blanks in a row as one, cut with "…". */
#define LDG_HTTP_EXCERPT_MAX 200
void ldg_http_excerpt(const struct ldg_buf *answer, char text[LDG_HTTP_EXCERPT_MAX]);

#endif
