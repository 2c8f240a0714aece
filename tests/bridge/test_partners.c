/* The partners of the HTTP sinks' tests are what they say: ClickHouse servers, receivers of
 * webhooks, certificates. Asked with libcurl, by nothing of the library. */
#include <curl/curl.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <time.h>

#include "certificate.h"
#include "clickhouse.h"
#include "fixtures.h"
#include "receiver.h"

struct answer {
    CURLcode rc;
    long status;
    char body[2000];
    size_t size; /* of all of it */
};

static size_t keep(char *data, size_t one, size_t size, void *ctx)
{
    struct answer *answer = ctx;
    size_t room = sizeof answer->body - 1, at = answer->size < room ? answer->size : room;
    memcpy(answer->body + at, data, size < room - at ? size : room - at);
    answer->size += size;
    return size;
}

struct post {
    const char *url, *user, *password, *ca_file, *certificate, *key;
    const void *body;
    size_t size;
    struct curl_slist *headers; /* taken */
};

static struct answer send_post(const struct post *post)
{
    struct answer answer = { 0 };
    CURL *curl = curl_easy_init();
    assert_non_null(curl);
    curl_easy_setopt(curl, CURLOPT_URL, post->url);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 20000L);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)post->size);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, post->body);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, post->headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, keep);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    if (post->user != NULL)
        curl_easy_setopt(curl, CURLOPT_USERNAME, post->user);
    if (post->password != NULL)
        curl_easy_setopt(curl, CURLOPT_PASSWORD, post->password);
    if (post->ca_file != NULL)
        curl_easy_setopt(curl, CURLOPT_CAINFO, post->ca_file);
    if (post->certificate != NULL)
        curl_easy_setopt(curl, CURLOPT_SSLCERT, post->certificate);
    if (post->key != NULL)
        curl_easy_setopt(curl, CURLOPT_SSLKEY, post->key);
    answer.rc = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer.status);
    curl_easy_cleanup(curl);
    curl_slist_free_all(post->headers);
    return answer;
}

/* --- ClickHouse -------------------------------------------------------------------------------
 */

static void engine_keeps_what_it_has(void **state)
{
    struct tst_ch *ch = tst_ch_start(TST_CH_ENGINE, NULL);
    tst_ch_database(ch, "d");
    tst_ch_sql(ch, "d",
               "CREATE TABLE t (a Int64, s String) ENGINE = ReplacingMergeTree ORDER BY a");
    tst_ch_sql(ch, "d", "INSERT INTO t VALUES (1, 'x;y'), (2, '\n\n')");
    tst_ch_kill(ch);
    tst_ch_run(ch);
    assert_int_equal(tst_ch_int(ch, "d", "SELECT sum(a) + sum(length(s)) FROM t"), 8);
    tst_ch_stop(ch);
    tst_ch_run(ch);
    assert_int_equal(tst_ch_int(ch, "d", "SELECT count() FROM t"), 2);
    assert_int_equal(tst_ch_requests(ch, "SELECT sum(a)"), 1);
    tst_ch_destroy(&ch);
}

/* Rows in binary form that look like empty lines come whole, however they are sent. */
static void engine_takes_binary_rows(void **state)
{
    enum { ROWS = 10000 };
    static const char statement[] =
        "INSERT INTO t (a, s) SETTINGS async_insert = 0 FORMAT RowBinary";
    struct tst_ch *ch = tst_ch_start(TST_CH_ENGINE, NULL);
    char *rows = malloc(sizeof statement + (size_t)ROWS * 11), *at, url[400], *escaped;
    struct post post = { .url = url };
    struct answer answer;
    assert_non_null(rows);
    at = rows + sizeof statement;
    for (int64_t i = 0; i < ROWS; i++, at += 11) {
        memcpy(at, &i, 8);
        memcpy(at + 8, "\x02\n\n", 3);
    }
    tst_ch_sql(ch, NULL,
               "CREATE TABLE t (a Int64, s String) ENGINE = MergeTree ORDER BY a "
               "SETTINGS non_replicated_deduplication_window = 10");
    escaped = curl_easy_escape(NULL, statement, 0);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/?insert_deduplication_token=1&query=%s",
             ch->partner->port, escaped);
    post.body = rows + sizeof statement;
    post.size = (size_t)ROWS * 11;
    for (int i = 0; i < 2; i++) {
        answer = send_post(&post);
        assert_int_equal(answer.status, 200);
        assert_int_equal(tst_ch_int(ch, NULL, "SELECT count() FROM t"), ROWS);
    }
    memcpy(rows, statement, sizeof statement - 1);
    rows[sizeof statement - 1] = '\n';
    post.body = rows;
    post.size += sizeof statement;
    snprintf(url, sizeof url, "http://127.0.0.1:%d/?insert_deduplication_token=2",
             ch->partner->port);
    answer = send_post(&post);
    assert_int_equal(answer.status, 200);
    assert_int_equal(tst_ch_int(ch, NULL, "SELECT sum(length(s)) FROM t"), 4 * ROWS);
    curl_free(escaped);
    free(rows);
    tst_ch_destroy(&ch);
}

static void engine_fails_like_a_server(void **state)
{
    struct tst_ch *ch = tst_ch_start(
        TST_CH_ENGINE, &(struct tst_ch_options){ .user = "carrier", .password = "secret" });
    char url[100];
    struct post post = { .url = url, .user = "carrier", .password = "secret", .body = "SELECT x" };
    struct answer answer;
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", ch->partner->port);
    post.size = strlen(post.body);
    answer = send_post(&post);
    assert_int_equal(answer.status, 404);
    assert_memory_equal(answer.body, "Code: 47. DB::Exception: ", 25);
    post.password = "wrong";
    answer = send_post(&post);
    assert_int_equal(answer.status, 401);
    assert_memory_equal(answer.body, "Code: 516. ", 11);
    post.password = "secret";
    post.body = "SELECT 1; SELECT 2";
    post.size = strlen(post.body);
    answer = send_post(&post);
    assert_memory_equal(answer.body, "Code: 62. ", 10);
    tst_ch_destroy(&ch);
}

static void engine_fails_on_demand(void **state)
{
    struct tst_ch *ch = tst_ch_start(TST_CH_ENGINE, NULL);
    char url[100];
    struct post post = { .url = url, .body = "SELECT number FROM numbers(9)" };
    struct answer answer;
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", ch->partner->port);
    post.size = strlen(post.body);
    tst_ch_fault(ch, "{\"act\": \"cut\", \"bytes\": 3}\n"
                     "{\"act\": \"cut\", \"bytes\": -1}\n"
                     "{\"act\": \"late\", \"bytes\": 4, \"code\": 241}\n"
                     "{\"act\": \"tagged\", \"bytes\": 4, \"code\": 241}\n"
                     "{\"act\": \"error\", \"code\": 252, \"when\": \"before\"}\n"
                     "{\"act\": \"answer\", \"status\": 503, \"match\": \"number\", \"times\": 2}\n"
                     "{\"act\": \"error\", \"code\": 1, \"match\": \"another\"}\n");
    answer = send_post(&post);
    assert_true(answer.rc != CURLE_OK && answer.size == 3);
    answer = send_post(&post);
    assert_true(answer.rc != CURLE_OK && answer.status == 0);
    answer = send_post(&post);
    assert_true(answer.rc == CURLE_OK && answer.status == 200);
    assert_memory_equal(answer.body, "0\n1\nCode: 241. ", 14);
    answer = send_post(&post);
    assert_true(answer.rc != CURLE_OK && answer.status == 200);
    assert_memory_equal(answer.body, "0\n1\n\r\n__exception__\r\n", 21);
    answer = send_post(&post);
    assert_int_equal(answer.status, 500);
    for (int i = 0; i < 2; i++)
        assert_int_equal(send_post(&post).status, 503);
    answer = send_post(&post);
    assert_true(answer.status == 200 && answer.size == 18);
    tst_ch_destroy(&ch);
}

static void old_server_is_a_real_one(void **state)
{
    struct tst_ch *ch =
        tst_ch_start(TST_CH_OLD, &(struct tst_ch_options){ .user = "me", .password = "secret" });
    char url[100], *version = tst_ch_text(ch, NULL, "SELECT version()");
    struct post post = { .url = url, .user = "me", .password = "wrong", .body = "SELECT 1" };
    struct answer answer;
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", ch->partner->port);
    post.size = strlen(post.body);
    answer = send_post(&post);
    assert_int_equal(answer.status, 401);
    assert_memory_equal(answer.body, "Code: 193, ", 11);
    print_message("the old server is %s\n", version);
    free(version);
    tst_ch_sql(ch, NULL, "CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a");
    tst_ch_sql(ch, NULL, "INSERT INTO t VALUES (7)");
    tst_ch_kill(ch);
    tst_ch_run(ch);
    assert_int_equal(tst_ch_int(ch, NULL, "SELECT sum(a) FROM t"), 7);
    tst_ch_destroy(&ch);
}

/* --- receivers ---------------------------------------------------------------------------------
 */

static const char secret_key[] = "0123456789abcdef01234567";

/* A body with this id, signed with this key. */
static struct post hook(const char *url, const char *id, const char *body, const char *key)
{
    struct post post = { .url = url, .body = body, .size = strlen(body) };
    unsigned char digest[32], base64[64];
    char text[1000];
    long long now = (long long)time(NULL);
    int size = snprintf(text, sizeof text, "%s.%lld.%s", id, now, body);
    HMAC(EVP_sha256(), key, (int)strlen(key), (unsigned char *)text, (size_t)size, digest, NULL);
    EVP_EncodeBlock(base64, digest, sizeof digest);
    snprintf(text, sizeof text, "webhook-id: %s", id);
    post.headers = curl_slist_append(NULL, text);
    snprintf(text, sizeof text, "webhook-timestamp: %lld", now);
    post.headers = curl_slist_append(post.headers, text);
    snprintf(text, sizeof text, "webhook-signature: v1,AAAA v1,%s", (char *)base64);
    post.headers = curl_slist_append(post.headers, text);
    snprintf(text, sizeof text, "Idempotency-Key: %s", id);
    post.headers = curl_slist_append(post.headers, text);
    return post;
}

static long deliver(const struct tst_receiver *receiver, const char *id, const char *body,
                    const char *key)
{
    struct post post = hook(tst_receiver_url(receiver, 0), id, body, key);
    return send_post(&post).status;
}

static void expect_complaint(const struct tst_receiver *receiver, const char *text)
{
    char *all = tst_receiver_complaints(receiver);
    if (strstr(all, text) == NULL)
        tst_fail("no complaint '%s' in:\n%s", text, all);
    free(all);
}

static void receiver_checks_what_it_gets(void **state)
{
    static const char one[] = "{\"stream\":\"s\",\"entries\":[{\"source_id\":\"1\"}]}";
    struct tst_receiver *receiver = tst_receiver_start(&(struct tst_receiver_options){
        .secrets = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3\n", .bodies = true });
    json_t *all;
    assert_int_equal(deliver(receiver, "u:1:1", one, secret_key), 200);
    assert_int_equal(deliver(receiver, "u:1:1", one, secret_key), 200);
    assert_int_equal(deliver(receiver, "u:1:5", one, secret_key), 200);
    tst_receiver_check(receiver);
    deliver(receiver, "u:1:1", "{\"stream\":\"s\",\"entries\":[]}", secret_key);
    expect_complaint(receiver, "again: u:1:1");
    deliver(receiver, "u:1:3", one, secret_key);
    expect_complaint(receiver, "order: u:1:3 of stream s");
    deliver(receiver, "u:1:6", one, "another key");
    expect_complaint(receiver, "signature: ");
    deliver(receiver, "u:1:7", "[]", secret_key);
    expect_complaint(receiver, "body: of u:1:7");
    all = tst_receiver_requests(receiver);
    assert_int_equal(json_array_size(all), 7);
    assert_string_equal(json_string_value(json_object_get(json_array_get(all, 1), "body")), one);
    assert_string_equal(
        json_string_value(json_array_get(json_object_get(json_array_get(all, 0), "entries"), 0)),
        "1");
    json_decref(all);
    tst_receiver_destroy(&receiver);
}

static void receiver_answers_by_script(void **state)
{
    struct tst_receiver *receiver = tst_receiver_start(NULL);
    static const char body[] = "{\"stream\":\"s\"}";
    struct post post;
    struct answer answer;
    tst_receiver_script(
        receiver, "{\"act\": \"hang-up-before\"}\n{\"act\": \"hang-up-after\"}\n"
                  "{\"act\": \"cut\", \"bytes\": 10}\n"
                  "{\"act\": \"answer\", \"status\": 410}\n"
                  "{\"act\": \"long\", \"bytes\": 1000000}\n"
                  "{\"act\": \"answer\", \"status\": 400, \"match\": \"bad\", \"times\": 0}\n");
    assert_int_equal(deliver(receiver, "u:1:1", body, ""), 0);
    assert_int_equal(tst_receiver_count(receiver), 0);
    assert_int_equal(deliver(receiver, "u:1:1", body, ""), 0);
    assert_int_equal(tst_receiver_count(receiver), 1);
    post = hook(tst_receiver_url(receiver, 0), "u:1:1", body, "");
    answer = send_post(&post);
    assert_true(answer.rc == CURLE_PARTIAL_FILE && answer.size == 10);
    assert_int_equal(deliver(receiver, "u:1:1", body, ""), 410);
    post = hook(tst_receiver_url(receiver, 0), "u:1:1", body, "");
    answer = send_post(&post);
    assert_true(answer.status == 200 && answer.size == 1000000);
    assert_int_equal(deliver(receiver, "u:1:1", body, ""), 200);
    for (int i = 2; i < 4; i++)
        assert_int_equal(deliver(receiver, "u:1:9", "{\"stream\":\"bad\"}", ""), 400);
    tst_receiver_stop(receiver);
    assert_int_equal(deliver(receiver, "u:1:1", body, ""), 0);
    tst_receiver_run(receiver);
    assert_int_equal(deliver(receiver, "u:1:1", body, ""), 200);
    tst_receiver_check(receiver);
    tst_receiver_destroy(&receiver);
}

static CURLcode over_tls(const struct tst_env *env, const char *name, bool client, long *ret_status)
{
    char files[6][400];
    static const char *const names[] = { "ca.pem", "client.pem", "client.key" };
    struct tst_receiver *receiver;
    struct post post;
    struct answer answer;
    for (size_t i = 0; i < 3; i++)
        snprintf(files[i], sizeof files[i], "%s/%s", env->dir, names[i]);
    snprintf(files[3], sizeof files[3], "%s/%s.pem", env->dir, name);
    snprintf(files[4], sizeof files[4], "%s/%s.key", env->dir, name);
    receiver = tst_receiver_start(&(struct tst_receiver_options){
        .certificate = files[3], .key = files[4], .client_ca = files[0] });
    post = hook(tst_receiver_url(receiver, 0), "u:1:1", "{\"stream\":\"s\"}", "");
    post.ca_file = files[0];
    post.certificate = client ? files[1] : NULL;
    post.key = client ? files[2] : NULL;
    answer = send_post(&post);
    *ret_status = answer.status;
    tst_receiver_destroy(&receiver);
    return answer.rc;
}

static void certificates_are_good_and_bad(void **state)
{
    static const char *const bad[] = { "other", "expired", "self" };
    struct tst_env *env = *state;
    long status;
    tst_certificates_make(env->dir);
    assert_int_equal(over_tls(env, "good", true, &status), CURLE_OK);
    assert_int_equal(status, 200);
    assert_int_equal(over_tls(env, "good", false, &status), CURLE_OK);
    assert_int_equal(status, 403);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(over_tls(env, bad[i], true, &status), CURLE_PEER_FAILED_VERIFICATION);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(engine_keeps_what_it_has),
        cmocka_unit_test(engine_takes_binary_rows),
        cmocka_unit_test(engine_fails_like_a_server),
        cmocka_unit_test(engine_fails_on_demand),
        cmocka_unit_test(old_server_is_a_real_one),
        cmocka_unit_test(receiver_checks_what_it_gets),
        cmocka_unit_test(receiver_answers_by_script),
        cmocka_unit_test_setup_teardown(certificates_are_good_and_bad, tst_setup, tst_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
