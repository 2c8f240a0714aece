/* Bridges into webhooks: what a receiver gets, and what becomes of a delivery when receivers,
 * networks and certificates fail. The receiver is a program of its own, which checks each
 * signature, id and order (tests/support/receiver.h). */
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../unit/backend/webhook/ops.h"
#include "alloc_fail.h"
#include "certificate.h"
#include "fixtures.h"
#include "partner.h"
#include "proxy.h"
#include "receiver.h"

#define SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define SECRET_2 "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

struct rig {
    struct tst_env *env;
    struct tst_receiver *receiver;
    ledger_store *source;
    ledger_http_options http;
    ledger_bridge_options options;
};

static const char *put_file(struct tst_env *env, const char *name, const char *text)
{
    const char *path = tst_path(env, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    return path;
}

/* A source, a receiver that checks signatures, a cursor file. */
static void rig_up_from(struct rig *rig, enum tst_kind kind, void **state,
                        const struct tst_receiver_options *options)
{
    static char cursor_file[300], secrets[300];
    struct tst_receiver_options all = { 0 };
    if (options != NULL)
        all = *options;
    all.bodies = true; /* and the stream of each */
    *rig = (struct rig){ .env = *state };
    rig->receiver = tst_receiver_start(&all);
    rig->source = tst_open(rig->env, kind, "source");
    snprintf(cursor_file, sizeof cursor_file, "%s", tst_path(rig->env, "cursor.db"));
    snprintf(secrets, sizeof secrets, "%s", put_file(rig->env, "secrets", SECRET "\n"));
    ledger_http_options_defaults(&rig->http);
    rig->http.secret_file = secrets;
    rig->http.timeout_ms = 20000;
    tst_bridge_options(&rig->options);
    rig->options.cursor_file = cursor_file;
}

static void rig_up(struct rig *rig, void **state, const struct tst_receiver_options *options)
{
    rig_up_from(rig, TST_MEMORY, state, options);
}

static void rig_down(struct rig *rig)
{
    tst_receiver_destroy(&rig->receiver);
}

static ledger_rc open_url(struct rig *rig, const char *url, ledger_store **ret_sink,
                          ledger_error *err)
{
    ledger_store_options options;
    ledger_store_options_defaults(&options);
    options.url = url;
    options.http = &rig->http;
    return ledger_store_open(&options, ret_sink, err);
}

static ledger_bridge *bridge_to(struct rig *rig, const char *url)
{
    ledger_store *sink = NULL;
    ledger_error err;
    tst_ok(open_url(rig, url, &sink, &err), &err);
    ledger_bridge *bridge = tst_bridge(rig->source, sink, &rig->options);
    ledger_store_close(&sink);
    return bridge;
}

static ledger_bridge *bridge_up(struct rig *rig)
{
    return bridge_to(rig, tst_receiver_url(rig->receiver, 0));
}

/* Delivers all that there is, by a bridge of its own. */
static uint64_t carry(struct rig *rig)
{
    ledger_bridge *bridge = bridge_up(rig);
    const uint64_t read = tst_drain(bridge);
    tst_check_counters(bridge);
    ledger_bridge_destroy(&bridge);
    return read;
}

static void append(struct rig *rig, const char *stream, int count)
{
    char payload[64];
    for (int i = 0; i < count; i++) {
        snprintf(payload, sizeof payload, "{\"item\": \"%s-%d\"}", stream, i);
        tst_append(rig->source, stream, payload, NULL, NULL);
    }
}

/* --- what came ------------------------------------------------------------------------------- */

static const char *text_of(const json_t *request, const char *name)
{
    const char *text = json_string_value(json_object_get(request, name));
    return text != NULL ? text : "";
}

static const char *header_of(const json_t *request, const char *name)
{
    return text_of(json_object_get(request, "headers"), name);
}

static bool is_same_request(const json_t *a, const json_t *b)
{
    return strcmp(header_of(a, "webhook-id"), header_of(b, "webhook-id")) == 0 &&
           strcmp(text_of(a, "sha256"), text_of(b, "sha256")) == 0;
}

/* Numbers of entries in each request, "3 3 1"; of a stream (NULL: all). */
static void sizes_are(struct rig *rig, const char *stream, const char *want)
{
    json_t *all = tst_receiver_requests(rig->receiver), *one;
    char got[256] = "";
    size_t i;
    json_array_foreach(all, i, one)
    {
        const size_t used = strlen(got);
        if (stream == NULL || strcmp(text_of(one, "stream"), stream) == 0)
            snprintf(got + used, sizeof got - used, "%s%zu", used > 0 ? " " : "",
                     json_array_size(json_object_get(one, "entries")));
    }
    assert_string_equal(got, want);
    json_decref(all);
}

/* The entries of the requests that were answered with 2xx, in their order, each once. */
static void taken_are(struct rig *rig, const char *want)
{
    json_t *all = tst_receiver_requests(rig->receiver), *one, *id;
    char got[512] = "";
    size_t i, k;
    json_array_foreach(all, i, one)
    {
        if (json_integer_value(json_object_get(one, "status")) / 100 != 2)
            continue;
        json_array_foreach(json_object_get(one, "entries"), k, id)
        {
            const size_t used = strlen(got);
            snprintf(got + used, sizeof got - used, "%s%s", used > 0 ? " " : "",
                     json_string_value(id));
        }
    }
    assert_string_equal(got, want);
    json_decref(all);
}

/* --- whole histories ------------------------------------------------------------------------- */

static void all_forms_from(void **state, enum tst_kind kind)
{
    static const ledger_http_body forms[] = { LEDGER_HTTP_BODY_REFERENCE, LEDGER_HTTP_BODY_EVENT,
                                              LEDGER_HTTP_BODY_CLOUDEVENTS };
    static const char *const types[] = { "application/json", "application/json",
                                         "application/cloudevents-batch+json" };
    for (size_t f = 0; f < 3; f++) {
        struct rig rig;
        rig_up_from(&rig, kind, state,
                    &(const struct tst_receiver_options){ .secrets = SECRET "\n" });
        rig.http.body = forms[f];
        append(&rig, "a", 3);
        append(&rig, "b", 2);
        tst_tag(rig.source, "a", 2, "new");
        append(&rig, "a", 2);
        tst_annotate(rig.source, "b", 4, "k", "v");
        tst_trim(rig.source, "a", 1);
        assert_int_equal(carry(&rig), 10);
        assert_int_equal(carry(&rig), 0); /* by another bridge, from the cursor file */
        json_t *all = tst_receiver_requests(rig.receiver), *one;
        assert_int_equal(json_array_size(all), f == 0 ? 6 : 2);
        size_t i;
        json_array_foreach(all, i, one)
        {
            assert_string_equal(header_of(one, "content-type"), types[f]);
            assert_string_equal(header_of(one, "idempotency-key"), header_of(one, "webhook-id"));
            assert_string_equal(header_of(one, "x-ledger-signature"), "");
            assert_string_equal(text_of(one, "path"), "/hook");
        }
        json_decref(all);
        tst_receiver_check(rig.receiver);
        rig_down(&rig);
        tst_env_reset(rig.env);
    }
}

static void everything_arrives(void **state)
{
    struct tst_env *env = *state;
    TST_EACH_SOURCE(env, kind)
    {
        all_forms_from(state, (enum tst_kind)kind);
    }
}

static void requests_are_cut(void **state)
{
    struct rig rig;
    rig_up(&rig, state, NULL);
    append(&rig, "a", 7);
    rig.http.max_request_entries = 3;
    assert_int_equal(carry(&rig), 7);
    sizes_are(&rig, "a", "3 3 1");
    rig.http.max_request_bytes = 1;
    append(&rig, "b", 2);
    assert_int_equal(carry(&rig), 2);
    sizes_are(&rig, "b", "1 1");
    tst_receiver_check(rig.receiver);
    rig_down(&rig);
}

/* While one stream's receiver thinks, others go on; but no stream overtakes itself. */
static void streams_go_side_by_side(void **state)
{
    struct rig rig;
    rig_up(&rig, state, NULL);
    append(&rig, "slow", 2);
    append(&rig, "a", 1);
    append(&rig, "b", 1);
    rig.http.max_request_entries = 1;
    rig.http.connections = 2;
    tst_receiver_script(rig.receiver,
                        "{\"act\": \"slow\", \"seconds\": 0.5, \"match\": \"slow-0\"}\n");
    assert_int_equal(carry(&rig), 4);
    json_t *all = tst_receiver_requests(rig.receiver);
    assert_int_equal(json_array_size(all), 4);
    assert_string_equal(text_of(json_array_get(all, 3), "stream"), "slow");
    const char *last =
        json_string_value(json_array_get(json_object_get(json_array_get(all, 3), "entries"), 0));
    assert_string_equal(last, "2");
    json_decref(all);
    tst_receiver_check(rig.receiver);
    rig_down(&rig);
}

/* Answers that come at the same moment are all heard: nothing is sent a second time. */
static void no_answer_is_overlooked(void **state)
{
    struct rig rig;
    char stream[8];
    rig_up(&rig, state, NULL);
    rig.http.max_request_entries = 1;
    rig.http.connections = 8;
    tst_receiver_script(rig.receiver, "{\"act\": \"slow\", \"seconds\": 0.02, \"times\": 0}");
    for (int i = 0; i < 8; i++) {
        snprintf(stream, sizeof stream, "s%d", i);
        append(&rig, stream, 4);
    }
    assert_int_equal(carry(&rig), 32);
    assert_int_equal(tst_receiver_count(rig.receiver), 32);
    tst_receiver_check(rig.receiver);
    rig_down(&rig);
}

static void secrets_change(void **state)
{
    struct rig rig;
    rig_up(&rig, state, &(const struct tst_receiver_options){ .secrets = SECRET_2 "\n" });
    put_file(rig.env, "secrets", SECRET "\n" SECRET_2 "\n");
    rig.http.signature = LEDGER_HTTP_SIGNATURE_LEDGER;
    append(&rig, "a", 1);
    assert_int_equal(carry(&rig), 1);
    tst_receiver_check(rig.receiver); /* it knows the second one alone */
    json_t *all = tst_receiver_requests(rig.receiver);
    assert_int_equal(strlen(header_of(json_array_get(all, 0), "x-ledger-signature")), 64);
    json_decref(all);
    rig_down(&rig);
}

static void headers_of_the_user(void **state)
{
    struct rig rig;
    char url[200];
    rig_up(&rig, state, NULL);
    rig.http.header_file =
        put_file(rig.env, "headers", "# who we are\nX-Tenant: acme\nwebhook-id: forged\n");
    snprintf(url, sizeof url, "http://ann:p%%40ss@127.0.0.1:%s",
             strrchr(tst_receiver_url(rig.receiver, 0), ':') + 1);
    tst_append(rig.source, "a\r\nX-Evil: 1", "{}", NULL, NULL);
    ledger_bridge *bridge = bridge_to(&rig, url);
    assert_int_equal(tst_drain(bridge), 1);
    ledger_bridge_destroy(&bridge);
    json_t *all = tst_receiver_requests(rig.receiver), *one = json_array_get(all, 0);
    assert_string_equal(header_of(one, "x-tenant"), "acme");
    assert_string_equal(header_of(one, "authorization"), "Basic YW5uOnBAc3M=");
    assert_string_equal(header_of(one, "x-evil"), "");
    assert_string_not_equal(header_of(one, "webhook-id"), "forged");
    assert_string_equal(text_of(one, "stream"), "a\r\nX-Evil: 1");
    json_decref(all);
    rig_down(&rig);
}

/* --- faults of the reference ----------------------------------------------------------------- */

/* It sends the first 500 events for ever. */
static void w3_each_event_once(void **state)
{
    struct rig rig;
    char stream[8];
    bool seen[1801] = { false };
    rig_up(&rig, state, &(const struct tst_receiver_options){ .secrets = SECRET });
    for (int i = 0; i < 6; i++) {
        snprintf(stream, sizeof stream, "s%d", i);
        append(&rig, stream, 250);
    }
    assert_int_equal(carry(&rig), 1500);
    append(&rig, "s0", 300);
    assert_int_equal(carry(&rig), 300); /* by another bridge */
    assert_int_equal(carry(&rig), 0);
    json_t *all = tst_receiver_requests(rig.receiver), *one, *id;
    size_t i, k, count = 0;
    json_array_foreach(all, i, one)
    {
        json_array_foreach(json_object_get(one, "entries"), k, id)
        {
            const long number = strtol(json_string_value(id), NULL, 10);
            assert_true(number >= 1 && number <= 1800 && !seen[number]);
            seen[number] = true;
            count++;
        }
    }
    assert_int_equal(count, 1800);
    json_decref(all);
    tst_receiver_check(rig.receiver);
    rig_down(&rig);
}

/* It has no timeout, no key, and signs without the time. */
static void w17_timeout_key_and_time(void **state)
{
    struct rig rig;
    ledger_error err = { 0 };
    rig_up(&rig, state, &(const struct tst_receiver_options){ .secrets = SECRET });
    append(&rig, "a", 2);
    rig.http.timeout_ms = 1100; /* the clock of the header is another second then */
    ledger_bridge *bridge = bridge_up(&rig);
    tst_receiver_script(rig.receiver, "{\"act\": \"slow\", \"seconds\": 5}");
    tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_TIMEOUT, &err);
    tst_receiver_script(rig.receiver, "");
    assert_int_equal(tst_drain(bridge), 2);
    ledger_bridge_destroy(&bridge);
    json_t *all = tst_receiver_requests(rig.receiver);
    assert_int_equal(json_array_size(all), 2);
    const json_t *first = json_array_get(all, 0), *second = json_array_get(all, 1);
    assert_true(is_same_request(first, second));
    assert_string_equal(header_of(first, "idempotency-key"), header_of(second, "idempotency-key"));
    assert_string_not_equal(header_of(first, "webhook-timestamp"),
                            header_of(second, "webhook-timestamp"));
    assert_string_not_equal(header_of(first, "webhook-signature"),
                            header_of(second, "webhook-signature"));
    json_decref(all);
    tst_receiver_check(rig.receiver); /* of both signatures and times */
    rig_down(&rig);
}

/* --- failures -------------------------------------------------------------------------------- */

/* Each fails the first poll with its code; the next one sends the same, byte for byte. */
static void what_passes_is_tried_again(void **state)
{
    static const struct {
        const char *script;
        ledger_rc want;
        const char *words;
        size_t came; /* requests that were written down */
    } rows[] = {
        { "{\"act\": \"answer\", \"status\": 500, \"text\": \"out of\\u001b[0m order\"}",
          LEDGER_ERR_BUSY, "answers 500 for now: out of [0m order", 2 },
        { "{\"act\": \"answer\", \"status\": 503}", LEDGER_ERR_BUSY, "answers 503", 2 },
        { "{\"act\": \"answer\", \"status\": 408}", LEDGER_ERR_BUSY, "answers 408", 2 },
        { "{\"act\": \"answer\", \"status\": 425}", LEDGER_ERR_BUSY, "answers 425", 2 },
        { "{\"act\": \"answer\", \"status\": 429}", LEDGER_ERR_BUSY, "answers 429", 2 },
        { "{\"act\": \"hang-up-after\"}", LEDGER_ERR_CONNECT, "without an answer", 2 },
        { "{\"act\": \"hang-up-before\"}", LEDGER_ERR_CONNECT, "without an answer", 1 },
        { "{\"act\": \"cut\", \"bytes\": 3}", LEDGER_ERR_IO, "broke off", 2 },
        { "{\"act\": \"slow\", \"seconds\": 3}", LEDGER_ERR_TIMEOUT, "--timeout", 2 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct rig rig;
        uint64_t read = 0;
        ledger_error err = { 0 };
        rig_up(&rig, state, &(const struct tst_receiver_options){ .secrets = SECRET });
        append(&rig, "a", 3);
        if (rows[i].want == LEDGER_ERR_TIMEOUT)
            rig.http.timeout_ms = 1000;
        ledger_bridge *bridge = bridge_up(&rig);
        tst_receiver_script(rig.receiver, rows[i].script);
        const ledger_rc rc = ledger_bridge_poll(bridge, &read, &err);
        if (rc != rows[i].want || strstr(err.message, rows[i].words) == NULL)
            tst_fail("%s: %s: %s", rows[i].script, ledger_rc_name(rc), err.message);
        assert_true((err.flags & LEDGER_ERROR_RETRY) != 0);
        tst_receiver_script(rig.receiver, "");
        append(&rig, "a", 1); /* what is new does not get into what was tried */
        assert_int_equal(tst_drain(bridge), 4);
        ledger_bridge_destroy(&bridge);
        json_t *all = tst_receiver_requests(rig.receiver);
        assert_int_equal(json_array_size(all), rows[i].came + 1);
        if (rows[i].came == 2)
            assert_true(is_same_request(json_array_get(all, 0), json_array_get(all, 1)));
        json_decref(all);
        tst_receiver_check(rig.receiver);
        rig_down(&rig);
        tst_env_reset(rig.env);
    }
}

/* Somebody has to change something: the bridge ends, nothing is parked, nothing is lost. */
static void what_lasts_ends_the_bridge(void **state)
{
    static const struct {
        int status;
        ledger_rc want;
        int exit_code;
        const char *words;
    } rows[] = {
        { 301, LEDGER_ERR_REFUSED_ALL, 78, "redirects are not followed" },
        { 304, LEDGER_ERR_REFUSED_ALL, 78, "answers 304" },
        { 401, LEDGER_ERR_PERMISSION, 77, "--header-file" },
        { 410, LEDGER_ERR_REFUSED_ALL, 78, "gone" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct rig rig;
        char script[200];
        ledger_error err = { 0 };
        rig_up(&rig, state, NULL);
        append(&rig, "a", 3);
        snprintf(script, sizeof script,
                 "{\"act\": \"answer\", \"status\": %d, \"headers\": {\"Location\": "
                 "\"https://h.example/?token=s3cr3t\"}}",
                 rows[i].status);
        ledger_bridge *bridge = bridge_up(&rig);
        tst_receiver_script(rig.receiver, script);
        tst_ok(ledger_bridge_start(bridge, &err), &err);
        tst_fails(ledger_bridge_wait(bridge, false, -1, &err), rows[i].want, &err);
        assert_int_equal(ledger_rc_exit_code(err.code), rows[i].exit_code);
        assert_non_null(strstr(err.message, rows[i].words));
        assert_null(strstr(err.message, "s3cr3t"));
        assert_int_equal(err.native_code, rows[i].status);
        ledger_bridge_destroy(&bridge);
        tst_receiver_script(rig.receiver, "");
        assert_int_equal(carry(&rig), 3);
        tst_receiver_check(rig.receiver);
        rig_down(&rig);
        tst_env_reset(rig.env);
    }
}

/* Only 64 KiB of an answer are read, be it ever so long. */
static void answers_without_end(void **state)
{
    struct rig rig;
    rig_up(&rig, state, NULL);
    append(&rig, "a", 2);
    rig.http.max_request_entries = 1;
    tst_receiver_script(rig.receiver, "{\"act\": \"long\"}\n"
                                      "{\"act\": \"long\", \"bytes\": 1073741824}\n");
    const int64_t begun_us = tst_mono_us();
    assert_int_equal(carry(&rig), 2);
    assert_true(tst_mono_us() - begun_us < tst_slow(10000000));
    sizes_are(&rig, NULL, "1 1");
    rig_down(&rig);
}

/* --- refused events -------------------------------------------------------------------------- */

static bool keep_reason(void *ctx, const ledger_parked *parked)
{
    char *text = ctx;
    const size_t used = strlen(text);
    snprintf(text + used, 600 - used, "%s:%s|", parked->entry_id, parked->reason);
    return true;
}

static void parked_is(struct rig *rig, char text[600])
{
    char url[400];
    ledger_store *store = NULL;
    ledger_store_options options;
    ledger_error err;
    snprintf(url, sizeof url, "sqlite:%s", rig->options.cursor_file);
    ledger_store_options_defaults(&options);
    options.url = url;
    options.table = LEDGER_BRIDGE_DEFAULT_STATE_TABLE;
    options.flags = LEDGER_STORE_READ_ONLY;
    text[0] = '\0';
    tst_ok(ledger_store_open(&options, &store, &err), &err);
    tst_ok(ledger_bridge_parked_list(store, keep_reason, text, &err), &err);
    ledger_store_close(&store);
}

/* One of ten is refused: the others arrive, in order, each once; it is parked with the receiver's
 * words, and goes when it is tried again. */
static void a_refused_event_is_found(void **state)
{
    for (int bad = 0; bad < 10; bad++) {
        struct rig rig;
        char script[200], reasons[600], want[64], taken[64] = "";
        uint64_t applied = 0, left = 0;
        ledger_error err = { 0 };
        rig_up(&rig, state, &(const struct tst_receiver_options){ .secrets = SECRET });
        append(&rig, "a", 10);
        snprintf(script, sizeof script,
                 "{\"act\": \"answer\", \"status\": 422, \"times\": 0, \"match\": \"a-%d\", "
                 "\"text\": \"no such\\n item\"}",
                 bad);
        tst_receiver_script(rig.receiver, script);
        assert_int_equal(carry(&rig), 10);
        parked_is(&rig, reasons);
        snprintf(want, sizeof want, "%d:127.0.0.1:", bad + 1);
        assert_memory_equal(reasons, want, strlen(want));
        assert_non_null(strstr(reasons, "refuses it with 422: no such item|"));
        for (int i = 1; i <= 10; i++)
            if (i != bad + 1)
                snprintf(taken + strlen(taken), sizeof taken - strlen(taken), "%s%d",
                         taken[0] != '\0' ? " " : "", i);
        taken_are(&rig, taken);
        tst_receiver_script(rig.receiver, "");
        ledger_bridge *bridge = bridge_up(&rig);
        tst_ok(ledger_bridge_retry(bridge, 0, &applied, &left, &err), &err);
        assert_int_equal(applied, 1);
        assert_int_equal(left, 0);
        ledger_bridge_destroy(&bridge);
        rig_down(&rig);
        tst_env_reset(rig.env);
    }
}

static void a_refused_event_may_stop_it(void **state)
{
    struct rig rig;
    ledger_error err = { 0 };
    rig_up(&rig, state, NULL);
    append(&rig, "a", 5);
    rig.options.on_bad_event = LEDGER_BAD_EVENT_STOP;
    tst_receiver_script(rig.receiver,
                        "{\"act\": \"answer\", \"status\": 400, \"times\": 0, \"match\": \"a-3\"}");
    ledger_bridge *bridge = bridge_up(&rig);
    /* The next poll ends before it, the one behind by it. */
    tst_ok(ledger_bridge_poll(bridge, NULL, &err), &err);
    tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_REJECTED, &err);
    assert_non_null(strstr(err.message, "400"));
    ledger_bridge_destroy(&bridge);
    taken_are(&rig, "1 2 3");
    rig_down(&rig);
}

/* An endpoint that refuses everything is not at odds with an event: the brake ends it. */
static void an_endpoint_that_refuses_all(void **state)
{
    struct rig rig;
    char reasons[600];
    ledger_error err = { 0 };
    rig_up(&rig, state, NULL);
    append(&rig, "a", 40);
    rig.options.refusal_limit = 3;
    tst_receiver_script(rig.receiver, "{\"act\": \"answer\", \"status\": 404, \"times\": 0}");
    ledger_bridge *bridge = bridge_up(&rig);
    tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_REFUSED_ALL, &err);
    ledger_bridge_destroy(&bridge);
    parked_is(&rig, reasons);
    assert_string_equal(reasons, "");
    tst_receiver_script(rig.receiver, "");
    assert_int_equal(carry(&rig), 40);
    rig_down(&rig);
}

/* A part of a refused request gets no answer: it comes again as it was, and nothing of it in
 * another one. */
static void parts_come_again_as_they_were(void **state)
{
    struct rig rig;
    ledger_error err = { 0 };
    rig_up(&rig, state, NULL);
    append(&rig, "a", 8);
    rig.http.max_request_entries = 6;
    /* 6 refused, 3 taken, 3 lost; then 3 again. */
    tst_receiver_script(rig.receiver, "{\"act\": \"answer\", \"status\": 422}\n"
                                      "{\"act\": \"answer\", \"status\": 200}\n"
                                      "{\"act\": \"slow\", \"seconds\": 3}\n");
    rig.http.timeout_ms = 1000;
    ledger_bridge *bridge = bridge_up(&rig);
    tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_BUSY, &err);
    assert_non_null(strstr(err.message, "--timeout"));
    assert_int_equal(tst_drain(bridge), 8);
    ledger_bridge_destroy(&bridge);
    sizes_are(&rig, NULL, "6 3 3 3 2");
    json_t *all = tst_receiver_requests(rig.receiver);
    assert_true(is_same_request(json_array_get(all, 2), json_array_get(all, 3)));
    json_decref(all);
    tst_receiver_check(rig.receiver);
    rig_down(&rig);
}

/* What was lost behind an event that was refused comes again as it was, too: that event is tried
 * again, and is joined with nothing behind it. */
static void requests_behind_a_refused_event_come_again_as_they_were(void **state)
{
    struct rig rig;
    ledger_error err = { 0 };
    rig_up(&rig, state, NULL);
    append(&rig, "a", 1);
    assert_int_equal(carry(&rig), 1);
    tst_append(rig.source, "a", "\"bad\"", NULL, NULL);
    tst_tag(rig.source, "a", 1, "between");
    tst_append(rig.source, "a", "\"lost\"", NULL, NULL);
    tst_append(rig.source, "a", "4", NULL, NULL);
    tst_receiver_script(rig.receiver,
                        "{\"act\": \"answer\", \"status\": 422, \"times\": 0, \"match\": "
                        "\"bad\"}\n{\"act\": \"cut\", \"bytes\": 5, \"match\": \"lost\"}\n");
    ledger_bridge *bridge = bridge_up(&rig);
    tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_BUSY, &err);
    assert_int_equal(tst_drain(bridge), 4);
    ledger_bridge_destroy(&bridge);
    sizes_are(&rig, NULL, "1 1 0 2 1 2");
    json_t *all = tst_receiver_requests(rig.receiver);
    assert_true(is_same_request(json_array_get(all, 3), json_array_get(all, 5)));
    json_decref(all);
    tst_receiver_check(rig.receiver);
    rig_down(&rig);
}

/* --- pauses and stops ------------------------------------------------------------------------ */

static void a_receiver_asks_for_a_pause(void **state)
{
    struct rig rig;
    ledger_error err = { 0 };
    rig_up(&rig, state, NULL);
    append(&rig, "a", 1);
    tst_receiver_script(rig.receiver, "{\"act\": \"answer\", \"status\": 429, \"headers\": "
                                      "{\"Retry-After\": \"1\"}}");
    const int64_t begun_us = tst_mono_us();
    ledger_bridge *bridge = bridge_up(&rig);
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    TST_AWAIT(tst_receiver_count(rig.receiver) >= 2);
    const int64_t took_us = tst_mono_us() - begun_us;
    assert_int_equal(tst_receiver_count(rig.receiver), 2);
    if (took_us < 1000000) /* without it: some milliseconds */
        tst_fail("again after %lld us", (long long)took_us);
    /* A long one is ended by a stop, at once. */
    tst_receiver_script(rig.receiver, "{\"act\": \"answer\", \"status\": 503, \"headers\": "
                                      "{\"Retry-After\": \"3600\"}}");
    append(&rig, "a", 1);
    TST_AWAIT(tst_receiver_count(rig.receiver) >= 3);
    const int64_t stopped_us = tst_mono_us();
    ledger_bridge_stop(bridge);
    assert_true(tst_mono_us() - stopped_us < 600 * 1000000LL);
    ledger_bridge_destroy(&bridge);
    assert_int_equal(tst_receiver_count(rig.receiver), 3);
    rig_down(&rig);
}

/* A stop does not wait for a receiver that thinks. */
static void a_stop_ends_a_request(void **state)
{
    struct rig rig;
    ledger_error err = { 0 };
    rig_up(&rig, state, NULL);
    append(&rig, "a", 1);
    rig.http.timeout_ms = 600000;
    ledger_bridge *bridge = bridge_up(&rig);
    tst_receiver_script(rig.receiver, "{\"act\": \"slow\", \"seconds\": 600}");
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    TST_AWAIT(tst_receiver_count(rig.receiver) >= 1);
    const int64_t stopped_us = tst_mono_us();
    ledger_bridge_stop(bridge);
    assert_true(tst_mono_us() - stopped_us < 300 * 1000000LL);
    ledger_bridge_destroy(&bridge);
    tst_receiver_script(rig.receiver, "");
    assert_int_equal(carry(&rig), 1);
    json_t *all = tst_receiver_requests(rig.receiver);
    assert_int_equal(json_array_size(all), 2);
    assert_true(is_same_request(json_array_get(all, 0), json_array_get(all, 1)));
    json_decref(all);
    rig_down(&rig);
}

static uint64_t read_count_of(ledger_bridge *bridge)
{
    ledger_bridge_stats stats;
    ledger_bridge_get_stats(bridge, &stats);
    return stats.read_count;
}

/* What was answered counts while the batch is still under way, and once. */
static void what_is_taken_counts_at_once(void **state)
{
    struct rig rig;
    ledger_error err = { 0 };
    rig_up(&rig, state, NULL);
    append(&rig, "a", 6);
    rig.http.timeout_ms = 600000;
    rig.http.connections = 1;
    rig.http.max_request_entries = 1;
    ledger_bridge *bridge = bridge_up(&rig);
    tst_receiver_script(rig.receiver, "{\"act\": \"answer\", \"times\": 3}\n"
                                      "{\"act\": \"slow\", \"seconds\": 600}");
    tst_ok(ledger_bridge_start(bridge, &err), &err);
    const int64_t begun_us = tst_mono_us();
    while (read_count_of(bridge) < 3 && tst_mono_us() - begun_us < tst_slow(20000000))
        tst_sleep_us(5000);
    assert_int_equal(read_count_of(bridge), 3);
    tst_receiver_stop(rig.receiver);
    tst_receiver_script(rig.receiver, "");
    tst_receiver_run(rig.receiver);
    tst_ok(ledger_bridge_wait(bridge, true, tst_slow(20000), &err), &err);
    assert_int_equal(read_count_of(bridge), 6);
    tst_check_counters(bridge);
    ledger_bridge_destroy(&bridge);
    rig_down(&rig);
}

/* --- networks -------------------------------------------------------------------------------- */

/* Cut at every so many bytes of request and answer: it comes again, the same. */
static void cut_anywhere(void **state)
{
    for (int way = TST_TO_SERVER; way <= TST_TO_CLIENT; way++) {
        for (uint64_t at = 1; at < 600; at += 97) {
            struct rig rig;
            ledger_error err = { 0 };
            rig_up(&rig, state, &(const struct tst_receiver_options){ .secrets = SECRET });
            struct tst_proxy *proxy = tst_proxy_start(NULL, rig.receiver->partner->port);
            append(&rig, "a", 4);
            ledger_bridge *bridge =
                bridge_to(&rig, tst_receiver_url(rig.receiver, tst_proxy_port(proxy)));
            tst_proxy_arm(proxy, (enum tst_proxy_way)way, at, TST_PROXY_CUT);
            const ledger_rc rc = ledger_bridge_poll(bridge, NULL, &err);
            if (tst_proxy_hit(proxy)) {
                if (rc != LEDGER_ERR_CONNECT && rc != LEDGER_ERR_IO)
                    tst_fail("way %d, byte %d: %s: %s", way, (int)at, ledger_rc_name(rc),
                             err.message);
                assert_int_equal(tst_drain(bridge), 4);
            } else {
                tst_ok(rc, &err);
            }
            ledger_bridge_destroy(&bridge);
            tst_receiver_check(rig.receiver);
            json_t *all = tst_receiver_requests(rig.receiver);
            assert_true(json_array_size(all) >= 1 && json_array_size(all) <= 2);
            for (size_t i = 1; i < json_array_size(all); i++)
                assert_true(is_same_request(json_array_get(all, 0), json_array_get(all, i)));
            json_decref(all);
            tst_proxy_destroy(&proxy);
            rig_down(&rig);
            tst_env_reset(rig.env);
        }
    }
}

static void nobody_answers(void **state)
{
    struct rig rig;
    ledger_store *sink = NULL;
    ledger_error err = { 0 };
    rig_up(&rig, state, NULL);
    rig.http.connect_timeout_ms = 500;
    tst_fails(open_url(&rig, "http://127.0.0.1:1/", &sink, &err), LEDGER_ERR_CONNECT, &err);
    assert_non_null(strstr(err.message, "127.0.0.1:1: Connection refused"));
    tst_fails(open_url(&rig, "https://127.0.0.1:1/", &sink, &err), LEDGER_ERR_CONNECT, &err);
    tst_fails(open_url(&rig, "https://no-such-host.invalid/secret", &sink, &err),
              LEDGER_ERR_CONNECT, &err);
    assert_non_null(strstr(err.message, "no-such-host.invalid:443"));
    assert_null(strstr(err.message, "secret"));
    /* It does not speak TLS, and may take its time to say so. */
    char url[100];
    rig.http.connect_timeout_ms = 20000;
    snprintf(url, sizeof url, "https%s", tst_receiver_url(rig.receiver, 0) + strlen("http"));
    tst_fails(open_url(&rig, url, &sink, &err), LEDGER_ERR_CONNECT, &err);
    assert_non_null(strstr(err.message, "does it speak TLS"));
    assert_int_equal(tst_receiver_count(rig.receiver), 0);
    rig_down(&rig);
}

static void certificates(void **state)
{
    static const struct {
        const char *name;
        ledger_rc want;
        const char *words;
    } rows[] = {
        { "good", LEDGER_OK, "" },
        { "other", LEDGER_ERR_UNTRUSTED, "no alternative" },
        { "expired", LEDGER_ERR_UNTRUSTED, "expired" },
        { "self", LEDGER_ERR_UNTRUSTED, "--ca-file" },
    };
    struct tst_env *env = *state;
    char ca[300];
    tst_certificates_make(env->dir);
    snprintf(ca, sizeof ca, "%s/ca.pem", env->dir);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct rig rig;
        char certificate[300], key[300];
        ledger_store *sink = NULL;
        ledger_error err = { 0 };
        snprintf(certificate, sizeof certificate, "%s/%s.pem", env->dir, rows[i].name);
        snprintf(key, sizeof key, "%s/%s.key", env->dir, rows[i].name);
        rig_up(&rig, state,
               &(const struct tst_receiver_options){ .certificate = certificate, .key = key });
        const char *url = tst_receiver_url(rig.receiver, 0);
        /* Of an authority that nobody here knows: never, with --insecure neither. */
        rig.http.insecure = true;
        tst_fails(open_url(&rig, url, &sink, &err), LEDGER_ERR_UNTRUSTED, &err);
        assert_int_equal(ledger_rc_exit_code(err.code), 78);
        rig.http.ca_file = ca;
        const ledger_rc rc = open_url(&rig, url, &sink, &err);
        if (rc != rows[i].want || (rc != LEDGER_OK && strstr(err.message, rows[i].words) == NULL))
            tst_fail("%s: %s: %s", rows[i].name, ledger_rc_name(rc), err.message);
        ledger_store_close(&sink);
        if (rc == LEDGER_OK) {
            append(&rig, "a", 2);
            assert_int_equal(carry(&rig), 2);
            sizes_are(&rig, NULL, "2");
        }
        assert_int_equal(tst_receiver_count(rig.receiver), rc == LEDGER_OK ? 1 : 0);
        rig_down(&rig);
        unlink(tst_path(env, "cursor.db"));
    }
}

static void a_client_s_certificate(void **state)
{
    struct rig rig;
    struct tst_env *env = *state;
    char ca[300], certificate[300], key[300], client[300], client_key[300];
    ledger_store *sink = NULL;
    ledger_error err = { 0 };
    tst_certificates_make(env->dir);
    snprintf(ca, sizeof ca, "%s/ca.pem", env->dir);
    snprintf(certificate, sizeof certificate, "%s/good.pem", env->dir);
    snprintf(key, sizeof key, "%s/good.key", env->dir);
    snprintf(client, sizeof client, "%s/client.pem", env->dir);
    snprintf(client_key, sizeof client_key, "%s/client.key", env->dir);
    rig_up(&rig, state,
           &(const struct tst_receiver_options){
               .certificate = certificate, .key = key, .client_ca = ca });
    rig.http.ca_file = ca;
    append(&rig, "a", 1);
    rig.options.on_bad_event = LEDGER_BAD_EVENT_STOP;
    ledger_bridge *bridge = bridge_up(&rig);
    tst_fails(ledger_bridge_poll(bridge, NULL, &err), LEDGER_ERR_REJECTED, &err);
    assert_int_equal(err.native_code, 403);
    ledger_bridge_destroy(&bridge);
    rig.http.client_cert_file = client;
    rig.http.client_key_file = client_key;
    assert_int_equal(carry(&rig), 1);
    /* A key that is not the certificate's. */
    rig.http.client_key_file = key;
    tst_fails(open_url(&rig, tst_receiver_url(rig.receiver, 0), &sink, &err), LEDGER_ERR_UNTRUSTED,
              &err);
    assert_non_null(strstr(err.message, "--client-key"));
    rig.http.client_cert_file = NULL;
    tst_fails(open_url(&rig, tst_receiver_url(rig.receiver, 0), &sink, &err), LEDGER_ERR_INVALID,
              &err);
    rig.http.client_key_file = "/nowhere";
    rig.http.client_cert_file = client;
    tst_fails(open_url(&rig, tst_receiver_url(rig.receiver, 0), &sink, &err), LEDGER_ERR_INVALID,
              &err);
    assert_non_null(strstr(err.message, "--client-key cannot be read"));
    rig_down(&rig);
}

/* --- bad input ------------------------------------------------------------------------------- */

static void bad_headers(void **state)
{
    static const struct {
        const char *text, *words;
    } rows[] = {
        { "no header s3cr3t\n", "line 1" },
        { "X-A: 1\nX B: s3cr3t\n", "line 2" },
        { "X-A:   \n", "line 1" },
        { ": s3cr3t\n", "line 1" },
        { "X-A: s3cr3t\x01\n", "line 1" },
        { "content-length: 3\n", "content-length" },
        { "Transfer-Encoding: chunked\n", "Transfer-Encoding" },
    };
    struct rig rig;
    rig_up(&rig, state, NULL);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ledger_store *sink = NULL;
        ledger_error err = { 0 };
        rig.http.header_file = put_file(rig.env, "headers", rows[i].text);
        tst_fails(open_url(&rig, tst_receiver_url(rig.receiver, 0), &sink, &err),
                  LEDGER_ERR_INVALID, &err);
        if (strstr(err.message, rows[i].words) == NULL)
            tst_fail("row %zu: %s", i, err.message);
        assert_null(strstr(err.message, "s3cr3t"));
    }
    rig_down(&rig);
}

static void what_it_is_not(void **state)
{
    struct rig rig;
    ledger_store *sink = NULL;
    ledger_store_options options;
    ledger_error err = { 0 };
    ledger_batch *batch = NULL;
    ledger_verify_result result;
    const char *url;
    rig_up(&rig, state, NULL);
    url = tst_receiver_url(rig.receiver, 0);
    ledger_store_options_defaults(&options);
    options.url = url;
    options.flags = LEDGER_STORE_CREATE;
    tst_fails(ledger_store_open(&options, &sink, &err), LEDGER_ERR_UNSUPPORTED, &err);
    assert_non_null(strstr(err.message, "no tables"));
    tst_ok(open_url(&rig, url, &sink, &err), &err);
    assert_string_equal(ledger_store_backend(sink), "webhook");
    assert_false(ledger_store_has_log(sink));
    tst_fails(ledger_store_read(sink, NULL, NULL, &batch, &err), LEDGER_ERR_UNSUPPORTED, &err);
    assert_non_null(strstr(err.message, "no store"));
    tst_fails(ledger_bridge_verify(rig.source, sink, NULL, &result, &err), LEDGER_ERR_UNSUPPORTED,
              &err);
    assert_non_null(strstr(err.message, "cannot be compared"));
    assert_int_equal(ledger_rc_exit_code(err.code), 78);
    tst_ok(ledger_store_health(sink, &err), &err);
    tst_receiver_stop(rig.receiver);
    tst_fails(ledger_store_health(sink, &err), LEDGER_ERR_CONNECT, &err);
    tst_receiver_run(rig.receiver);
    tst_ok(ledger_store_health(sink, &err), &err);
    ledger_store_close(&sink);
    tst_fails(open_url(&rig, "http://h.example/", &sink, &err), LEDGER_ERR_INVALID, &err);
    assert_non_null(strstr(err.message, "--insecure"));
    tst_fails(open_url(&rig, "https:h.example", &sink, &err), LEDGER_ERR_INVALID, &err);
    assert_int_equal(tst_receiver_count(rig.receiver), 0); /* all this has posted nothing */
    rig_down(&rig);
}

struct findings {
    char text[1000];
};

static void note_finding(void *ctx, ledger_severity severity, const char *subject, const char *text)
{
    struct findings *findings = ctx;
    const size_t used = strlen(findings->text);
    snprintf(findings->text + used, sizeof findings->text - used, "%d %s|", (int)severity, subject);
}

static void a_check_posts_nothing(void **state)
{
    struct rig rig;
    struct findings findings = { "" };
    ledger_store *sink = NULL;
    ledger_store_options options;
    ledger_error err = { 0 };
    rig_up(&rig, state, NULL);
    assert_int_equal(chmod(rig.http.secret_file, 0644), 0);
    tst_ok(open_url(&rig, tst_receiver_url(rig.receiver, 0), &sink, &err), &err);
    tst_ok(ledger_store_check(sink, note_finding, &findings, &err), &err);
    assert_string_equal(findings.text, "0 endpoint|0 signature|1 secret file|");
    ledger_store_close(&sink);
    tst_receiver_stop(rig.receiver);
    ledger_store_options_defaults(&options);
    options.url = tst_receiver_url(rig.receiver, 0);
    options.flags = LEDGER_STORE_READ_ONLY; /* nothing is to be sent: it opens all the same */
    tst_ok(ledger_store_open(&options, &sink, &err), &err);
    findings.text[0] = '\0';
    tst_ok(ledger_store_check(sink, note_finding, &findings, &err), &err);
    assert_string_equal(findings.text, "2 endpoint|1 signature|");
    ledger_store_close(&sink);
    assert_int_equal(tst_receiver_count(rig.receiver), 0);
    rig_down(&rig);
}

/* --- memory ---------------------------------------------------------------------------------- */

struct delivery {
    struct rig *rig;
    struct test_ops ops;
    const char *url;
};

static ledger_rc deliver_once(void *ctx)
{
    struct delivery *delivery = ctx;
    struct test_ops *all = &delivery->ops;
    const struct ldg_apply apply = { .ops = all->ops, .count = all->count };
    uint8_t outcomes[OPS_MAX];
    ledger_store *sink = NULL;
    ledger_rc rc = open_url(delivery->rig, delivery->url, &sink, NULL);
    if (rc == LEDGER_OK)
        rc = ldg_store_apply(sink, &apply, outcomes, NULL);
    ledger_store_close(&sink);
    return rc;
}

static void out_of_memory(void **state)
{
    struct rig rig;
    rig_up(&rig, state, NULL);
    rig.http.header_file = put_file(rig.env, "headers", "X-Tenant: acme\n");
    rig.http.max_request_entries = 3;
    struct delivery delivery = { .rig = &rig, .url = tst_receiver_url(rig.receiver, 0) };
    for (int i = 0; i < 5; i++)
        test_op(&delivery.ops, LDG_OP_APPEND, i % 2 == 0 ? "a" : "b");
    test_op(&delivery.ops, LDG_OP_SET_TAGS, "a");
    assert_true(alloc_fail_each(deliver_once, &delivery) > 20);
    rig_down(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(everything_arrives, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(requests_are_cut, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(streams_go_side_by_side, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(no_answer_is_overlooked, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(secrets_change, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(headers_of_the_user, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(w3_each_event_once, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(w17_timeout_key_and_time, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(what_passes_is_tried_again, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(what_lasts_ends_the_bridge, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(answers_without_end, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(a_refused_event_is_found, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(a_refused_event_may_stop_it, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(an_endpoint_that_refuses_all, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(parts_come_again_as_they_were, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(requests_behind_a_refused_event_come_again_as_they_were,
                                        tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(a_receiver_asks_for_a_pause, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(a_stop_ends_a_request, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(what_is_taken_counts_at_once, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(cut_anywhere, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(nobody_answers, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(certificates, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(a_client_s_certificate, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(bad_headers, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(what_it_is_not, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(a_check_posts_nothing, tst_setup, tst_teardown),
        cmocka_unit_test_setup_teardown(out_of_memory, tst_setup, tst_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
