/* Inside of the webhook backend: what its files share.
 *
 * The story: queue.c has the ops of a batch by stream; request.c takes the next request of a stream
 * from it, with body and headers; send.c has several under way and reads what the answers mean. */
#ifndef LDG_WEBHOOK_H
#define LDG_WEBHOOK_H

#include "http/http.h"

#define LDG_WEBHOOK_NAME "webhook"

/* --- secret.c: who signs --------------------------------------------------------------------- */

#define LDG_WEBHOOK_SECRETS_MAX 8
#define LDG_WEBHOOK_KEY_MIN 24 /* what Standard Webhooks asks for … */
#define LDG_WEBHOOK_KEY_MAX 64
#define LDG_WEBHOOK_KEY_MIN_LEDGER 1 /* … and what one of the Go module may have */

struct ldg_webhook_secrets {
    struct ldg_webhook_key {
        unsigned char bytes[LDG_WEBHOOK_KEY_MAX];
        size_t size;
    } keys[LDG_WEBHOOK_SECRETS_MAX];
    size_t count; /* 0: requests are not signed */
    size_t min_size;
};
/* path NULL: none. Errors: INVALID (no such file, a line that is no secret, none or too many of
 * them), PERMISSION, IO, NOMEM. */
ledger_rc ldg_webhook_secrets_read(const char *path, ledger_http_signature signature,
                                   struct ldg_webhook_secrets *ret_secrets, ledger_error *err);
void ldg_webhook_secrets_fini(struct ldg_webhook_secrets *secrets);
/* Adds "whsec_<base64>". number: of its line, for messages. Errors: INVALID. */
ledger_rc ldg_webhook_secrets_add(struct ldg_webhook_secrets *secrets, const char *text,
                                  size_t number, ledger_error *err);

#define LDG_WEBHOOK_SIGNATURE_MAX (LDG_WEBHOOK_SECRETS_MAX * 48 + 1)
#define LDG_WEBHOOK_HEX_MAX 65
/* "v1,<base64>", one for each secret, with blanks between them: over "id.seconds.body". */
ledger_rc ldg_webhook_sign(const struct ldg_webhook_secrets *secrets, const char *id,
                           const char *seconds, const struct ldg_buf *body,
                           char text[LDG_WEBHOOK_SIGNATURE_MAX], ledger_error *err);
/* Of the body alone, by the first secret, in hex. */
ledger_rc ldg_webhook_sign_body(const struct ldg_webhook_secrets *secrets,
                                const struct ldg_buf *body, char text[LDG_WEBHOOK_HEX_MAX],
                                ledger_error *err);

/* --- body.c: what is sent -------------------------------------------------------------------- */

#define LDG_WEBHOOK_BODY_MAX ((size_t)1 << 30)
/* What is behind the last entry, at most. */
#define LDG_WEBHOOK_TAIL_BYTES 2

/* The pieces of a body; the first op decides what it begins with. Failures stick in the buffer. */
void ldg_webhook_body_begin(struct ldg_buf *body, ledger_http_body form, const struct ldg_op *op);
void ldg_webhook_body_add(struct ldg_buf *body, ledger_http_body form, const struct ldg_op *op,
                          bool is_first);
void ldg_webhook_body_end(struct ldg_buf *body, ledger_http_body form, const struct ldg_op *op);
/* May `next` stand behind `first` in one body? Both are of one stream. */
bool ldg_webhook_body_joins(ledger_http_body form, const struct ldg_op *first,
                            const struct ldg_op *next);
const char *ldg_webhook_content_type(ledger_http_body form);

/* "uuid:epoch:position" of one op (and ":part"); of several that of the first, then
 * "-position" (and ":part") of the last, and "-count". No '.', which ends an id in a signature. */
#define LDG_WEBHOOK_ID_MAX (LDG_DELIVERY_KEY_MAX + 4 * 21)
void ldg_webhook_id(const struct ldg_op *first, const struct ldg_op *last, size_t count,
                    char text[LDG_WEBHOOK_ID_MAX]);

/* --- queue.c: whose turn it is --------------------------------------------------------------- */

/* Where requests end besides: a receiver has refused one, and its parts are sent alone, also when a
 * part comes again. Sorted by op. */
struct ldg_webhook_cuts {
    struct ldg_webhook_cut {
        int64_t log_position;
        uint32_t part;
    } * items;
    size_t count, cap;
};
void ldg_webhook_cuts_fini(struct ldg_webhook_cuts *cuts);
/* A request ends with this op. Errors: NOMEM. */
ledger_rc ldg_webhook_cuts_add(struct ldg_webhook_cuts *cuts, const struct ldg_op *op,
                               ledger_error *err);
bool ldg_webhook_cuts_has(const struct ldg_webhook_cuts *cuts, const struct ldg_op *op);

#define LDG_WEBHOOK_NO_OP UINT32_MAX
/* Ops by stream, each in its order, and streams in the order of their turns. One request of a
 * stream is under way at a time. */
struct ldg_webhook_queue {
    const struct ldg_op *ops;
    uint32_t *next; /* per op: the one behind it in its stream, or NO_OP */
    struct ldg_webhook_lane {
        uint32_t head; /* its first op that is not done */
        uint32_t tail;
    } * lanes;
    size_t lane_count;
    uint32_t *ring; /* lanes that wait for their turn */
    size_t ring_first, ring_count;
};
/* All in the arena; borrows ops. Errors: NOMEM. */
ledger_rc ldg_webhook_queue_init(struct ldg_webhook_queue *queue, const struct ldg_op *ops,
                                 size_t count, struct ldg_arena *arena, ledger_error *err);
/* The lane whose turn it is, with an op at least; NULL: none waits. Not given again before it was
 * put back. */
struct ldg_webhook_lane *ldg_webhook_queue_take(struct ldg_webhook_queue *queue);
/* Its ops before head (NO_OP: all) are done. */
void ldg_webhook_queue_put(struct ldg_webhook_queue *queue, struct ldg_webhook_lane *lane,
                           uint32_t head);

/* --- request.c: one request ------------------------------------------------------------------ */

enum { LDG_WEBHOOK_HEADERS_MAX = 6 };
struct ldg_webhook_request {
    struct ldg_http_request http; /* refers to what follows */
    struct ldg_webhook_lane *lane;
    uint32_t *ops; /* those in it; room for max_request_entries */
    size_t count;
    uint32_t behind; /* the next op of the lane, or NO_OP */
    struct ldg_buf body;
    struct ldg_http_piece piece;
    const char *headers[LDG_WEBHOOK_HEADERS_MAX];
    char id_line[LDG_WEBHOOK_ID_MAX + 16];
    char key_line[LDG_WEBHOOK_ID_MAX + 24];
    char time_line[48];
    char signature_line[LDG_WEBHOOK_SIGNATURE_MAX + 24];
    char ledger_line[LDG_WEBHOOK_HEX_MAX + 24];
};
/* What is the same for all of them. */
struct ldg_webhook_settings {
    const char *url;
    const ledger_http_options *options;
    const struct ldg_webhook_secrets *secrets;
    const struct ldg_webhook_cuts *cuts;
};
/* Room for its ops. Errors: NOMEM. */
ledger_rc ldg_webhook_request_init(struct ldg_webhook_request *request, size_t max_entries,
                                   ledger_error *err);
void ldg_webhook_request_fini(struct ldg_webhook_request *request);
/* Takes from the head of a lane as much as one request holds: ops of one delivery, as many as
 * entries, bytes and cuts allow; one at least. The same ops give the same request. */
ledger_rc ldg_webhook_request_fill(struct ldg_webhook_request *request,
                                   const struct ldg_webhook_settings *settings,
                                   const struct ldg_webhook_queue *queue,
                                   struct ldg_webhook_lane *lane, ledger_error *err);

/* --- send.c ---------------------------------------------------------------------------------- */

struct ldg_webhook {
    struct ldg_http *http;
    struct ldg_http_url url;
    char *target; /* the whole URL, without credentials */
    const ledger_http_options *options;
    struct ldg_webhook_secrets secrets;
    struct ldg_webhook_cuts cuts;
    struct ldg_webhook_request *requests;
    size_t request_count;
    struct ldg_arena arena; /* of one apply() */
};
/* As apply() of a sink without transactions. */
ledger_rc ldg_webhook_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                            ledger_error *err);

/* What an answer means for what was sent. */
enum ldg_webhook_verdict {
    LDG_WEBHOOK_TAKEN,
    LDG_WEBHOOK_REFUSED, /* this request, or an event in it */
    LDG_WEBHOOK_LATER,   /* the same again, after a pause */
    LDG_WEBHOOK_STOP,    /* somebody has to change something */
};
enum ldg_webhook_verdict ldg_webhook_judge(int status);

#endif
