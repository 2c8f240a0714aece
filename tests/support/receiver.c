/* The test's end of a receiver: see receiver.h. */
#include "receiver.h"

#include "fixtures.h"
#include "partner.h"

#include <jansson.h>
#include <signal.h>
#include <stdlib.h>

struct tst_receiver *tst_receiver_start(const struct tst_receiver_options *options)
{
    static const struct tst_receiver_options none = { 0 };
    struct tst_receiver *receiver = calloc(1, sizeof *receiver);
    size_t count = 0;
    assert_non_null(receiver);
    if (options == NULL)
        options = &none;
    receiver->args[count++] = getenv("LEDGER_TEST_RECEIVER");
    if (receiver->args[0] == NULL)
        tst_fail("LEDGER_TEST_RECEIVER is not set; run the tests through meson");
    receiver->partner = tst_partner_make("receiver");
    receiver->tls = options->certificate != NULL;
    receiver->args[count++] = receiver->partner->dir;
    if (receiver->tls) {
        receiver->args[count++] = "--certificate";
        receiver->args[count++] = options->certificate;
        receiver->args[count++] = "--key";
        receiver->args[count++] = options->key;
    }
    if (options->client_ca != NULL) {
        receiver->args[count++] = "--client-ca";
        receiver->args[count++] = options->client_ca;
    }
    if (options->bodies)
        receiver->args[count++] = "--bodies";
    if (options->secrets != NULL)
        tst_partner_put(receiver->partner, "secrets", options->secrets);
    tst_receiver_run(receiver);
    return receiver;
}

void tst_receiver_stop(struct tst_receiver *receiver)
{
    tst_partner_stop(receiver->partner, SIGTERM);
}

void tst_receiver_run(struct tst_receiver *receiver)
{
    const char *args[TST_PARTNER_ARGS_MAX] = { 0 };
    char port[16];
    size_t count = 0;
    while (receiver->args[count] != NULL) {
        args[count] = receiver->args[count];
        count++;
    }
    snprintf(port, sizeof port, "%d", receiver->partner->port);
    args[count++] = "--port";
    args[count++] = port;
    tst_partner_run(receiver->partner, args);
}

void tst_receiver_destroy(struct tst_receiver **receiver)
{
    if (*receiver == NULL)
        return;
    tst_partner_destroy(&(*receiver)->partner);
    free(*receiver);
    *receiver = NULL;
}

const char *tst_receiver_url(const struct tst_receiver *receiver, int port)
{
    static char urls[4][100];
    static size_t turn;
    char *url = urls[turn++ % 4];
    snprintf(url, sizeof urls[0], "http%s://127.0.0.1:%d/hook", receiver->tls ? "s" : "",
             port != 0 ? port : receiver->partner->port);
    return url;
}

void tst_receiver_script(const struct tst_receiver *receiver, const char *lines)
{
    tst_partner_put(receiver->partner, "script", lines);
}

json_t *tst_receiver_requests(const struct tst_receiver *receiver)
{
    char *text = tst_partner_get(receiver->partner, "requests");
    json_t *all = json_array();
    assert_non_null(all);
    for (char *line = text; line != NULL && *line != '\0';) {
        size_t size = strcspn(line, "\n");
        json_t *one = json_loadb(line, size, 0, NULL);
        assert_int_equal(json_array_append_new(all, one), 0);
        line += size + (line[size] == '\n');
    }
    free(text);
    return all;
}

size_t tst_receiver_count(const struct tst_receiver *receiver)
{
    json_t *all = tst_receiver_requests(receiver);
    size_t count = json_array_size(all);
    json_decref(all);
    return count;
}

char *tst_receiver_complaints(const struct tst_receiver *receiver)
{
    char *text = tst_partner_get(receiver->partner, "complaints");
    return text != NULL ? text : calloc(1, 1);
}

void tst_receiver_check(const struct tst_receiver *receiver)
{
    char *text = tst_receiver_complaints(receiver);
    if (text[0] != '\0')
        tst_fail("the receiver complains:\n%.1500s", text);
    free(text);
}
