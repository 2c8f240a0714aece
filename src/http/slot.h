/* Inside of the client: its slots, each with a handle of libcurl that is used again and again.
 * Only this folder sees libcurl. */
#ifndef LDG_HTTP_SLOT_H
#define LDG_HTTP_SLOT_H

#include <curl/curl.h>

#include "http/http.h"

enum ldg_http_slot_state {
    LDG_HTTP_FREE = 0,
    LDG_HTTP_RUNNING,
    LDG_HTTP_FINISHED, /* not under libcurl's eyes any more */
};

struct ldg_http_slot {
    struct ldg_http_exchange exchange; /* first: what callers hold */
    struct ldg_http *http;
    enum ldg_http_slot_state state;
    CURL *easy;                 /* made with the slot's first request */
    struct curl_slist *headers; /* of this request */
    size_t piece, piece_offset; /* next byte of a body in pieces */
    size_t body_bytes;
    size_t head_bytes;  /* of the answer's headers */
    int64_t mark_us;    /* since then fewer than STALL_BYTES went … */
    int64_t mark_bytes; /* … beyond these; -1: nothing is on its way */
    char message[CURL_ERROR_SIZE];
};

struct ldg_http {
    CURLM *multi;
    struct ldg_http_slot *slots;
    size_t slot_count;
    size_t turn;  /* the slot that is looked at first */
    bool started; /* a request that libcurl has not looked at yet */
    struct ldg_waiting waiting;
    const char *backend;
    char *server; /* "host:8443" */
    char *user, *password;
    char *ca_file, *client_cert_file, *client_key_file;
    char **headers; /* of the header file */
    size_t header_count;
    bool is_tls, is_loopback;
    int timeout_ms, connect_timeout_ms;
};

/* --- easy.c ---------------------------------------------------------------------------------- */

/* The handle, with what is the same for each request. Errors: NOMEM. */
ledger_rc ldg_http_slot_open(struct ldg_http_slot *slot, ledger_error *err);
/* Everything of this request. Errors: NOMEM. */
ledger_rc ldg_http_slot_prepare(struct ldg_http_slot *slot, const struct ldg_http_request *request,
                                ledger_error *err);
/* Forgets the request. */
void ldg_http_slot_clear(struct ldg_http_slot *slot);
/* Are two headers of the same name? */
bool ldg_http_same_name(const char *a, const char *b);

/* --- answer.c -------------------------------------------------------------------------------- */

/* libcurl is done with it: status and trouble. */
void ldg_http_slot_finish(struct ldg_http_slot *slot, CURLcode code);
/* We are: it was removed from libcurl's hands before its end. */
void ldg_http_slot_give_up(struct ldg_http_slot *slot, enum ldg_http_trouble trouble,
                           const char *detail);

#endif
