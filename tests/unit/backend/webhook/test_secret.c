/* Secrets and signatures: the vector of Standard Webhooks, and files that hold no secret. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "backend/webhook/webhook.h"

/* The example of the specification, and of its libraries. */
#define SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define ID "msg_p5jXN8AQM9LWM0D4loKWxJek"
#define SECONDS "1614265330"
#define BODY "{\"test\": 2432232314}"
#define SIGNATURE "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
/* The bytes 0 to 31; both computed with Python's hmac. */
#define SECRET_2 "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define SIGNATURE_2 "v1,O4Gjv1HqPqsMrjmczoggs/sWA8gZD0VyHG+fLh4+ktI="
/* Of "s3cr3t", over the body alone. */
#define SECRET_GO "whsec_czNjcjN0"
#define HEX_GO "504457c5eeee4d79e4c541ab9296726c7511337240b2e9b374c45af6fbe44fbe"

static char path[64];

static int make_file(void **state)
{
    (void)snprintf(path, sizeof(path), "/tmp/ledger-test-secret-XXXXXX");
    const int fd = mkstemp(path);
    return fd >= 0 ? close(fd) : -1;
}

static int remove_file(void **state)
{
    return unlink(path);
}

static ledger_rc read_text(const char *text, ledger_http_signature signature,
                           struct ldg_webhook_secrets *secrets, ledger_error *err)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    return ldg_webhook_secrets_read(path, signature, secrets, err);
}

static struct ldg_buf body_of(const char *text)
{
    struct ldg_buf body;
    ldg_buf_init(&body, 1000);
    assert_int_equal(ldg_buf_puts(&body, text), LEDGER_OK);
    return body;
}

static void signs_as_the_standard_says(void **state)
{
    struct ldg_webhook_secrets secrets;
    struct ldg_buf body = body_of(BODY), empty;
    char text[LDG_WEBHOOK_SIGNATURE_MAX];
    ledger_error err;
    assert_int_equal(read_text(SECRET "\n", LEDGER_HTTP_SIGNATURE_STANDARD, &secrets, &err),
                     LEDGER_OK);
    assert_int_equal(secrets.count, 1);
    assert_int_equal(secrets.keys[0].size, 24);
    assert_int_equal(ldg_webhook_sign(&secrets, ID, SECONDS, &body, text, &err), LEDGER_OK);
    assert_string_equal(text, SIGNATURE);
    /* While secrets change there are two, and the receiver takes either. */
    assert_int_equal(read_text("# new one first\n" SECRET_2 "\n" SECRET,
                               LEDGER_HTTP_SIGNATURE_STANDARD, &secrets, &err),
                     LEDGER_OK);
    assert_int_equal(ldg_webhook_sign(&secrets, ID, SECONDS, &body, text, &err), LEDGER_OK);
    assert_string_equal(text, SIGNATURE_2 " " SIGNATURE);
    ldg_buf_init(&empty, 1);
    assert_int_equal(ldg_webhook_sign(&secrets, ID, SECONDS, &empty, text, &err), LEDGER_OK);
    assert_string_not_equal(text, SIGNATURE_2 " " SIGNATURE);
    ldg_webhook_secrets_fini(&secrets);
    assert_int_equal(secrets.count, 0);
    ldg_buf_fini(&body);
}

static void signs_as_the_go_module_does(void **state)
{
    struct ldg_webhook_secrets secrets;
    struct ldg_buf body = body_of(BODY);
    char hex[LDG_WEBHOOK_HEX_MAX];
    ledger_error err;
    assert_int_equal(read_text(SECRET_GO "\n" SECRET, LEDGER_HTTP_SIGNATURE_LEDGER, &secrets, &err),
                     LEDGER_OK);
    assert_int_equal(ldg_webhook_sign_body(&secrets, &body, hex, &err), LEDGER_OK);
    assert_string_equal(hex, HEX_GO);
    ldg_webhook_secrets_fini(&secrets);
    ldg_buf_fini(&body);
}

static void as_many_as_there_may_be(void **state)
{
    struct ldg_webhook_secrets secrets = { .min_size = LDG_WEBHOOK_KEY_MIN };
    struct ldg_buf body = body_of(BODY);
    char text[LDG_WEBHOOK_SIGNATURE_MAX];
    ledger_error err;
    for (size_t i = 0; i < LDG_WEBHOOK_SECRETS_MAX; i++)
        assert_int_equal(ldg_webhook_secrets_add(&secrets, SECRET, i + 1, &err), LEDGER_OK);
    assert_int_equal(ldg_webhook_secrets_add(&secrets, SECRET, 9, &err), LEDGER_ERR_INVALID);
    assert_non_null(strstr(err.message, "more than 8"));
    assert_int_equal(ldg_webhook_sign(&secrets, ID, SECONDS, &body, text, &err), LEDGER_OK);
    assert_int_equal(strlen(text), 8 * strlen(SIGNATURE) + 7);
    ldg_buf_fini(&body);
}

static void what_is_no_secret(void **state)
{
    static const struct {
        const char *text;
        ledger_http_signature signature;
        const char *words;
    } rows[] = {
        { "", LEDGER_HTTP_SIGNATURE_STANDARD, "holds no secret" },
        { "# only a comment\n\n", LEDGER_HTTP_SIGNATURE_STANDARD, "holds no secret" },
        { "hunter2hunter2hunter2hunter2\n", LEDGER_HTTP_SIGNATURE_STANDARD, "line 1" },
        { "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", LEDGER_HTTP_SIGNATURE_STANDARD, "whsec_" },
        { "\n" SECRET " # mine", LEDGER_HTTP_SIGNATURE_STANDARD, "line 2" },
        { "whsec_", LEDGER_HTTP_SIGNATURE_STANDARD, "0 bytes" },
        { SECRET_GO, LEDGER_HTTP_SIGNATURE_STANDARD,
          "6 bytes; it has to have 24 to 64 (fewer only" },
        { "whsec_", LEDGER_HTTP_SIGNATURE_LEDGER, "0 bytes" },
        { "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa!w", LEDGER_HTTP_SIGNATURE_STANDARD, "not base64" },
        { "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", LEDGER_HTTP_SIGNATURE_STANDARD, "not base64" },
        { "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwA", LEDGER_HTTP_SIGNATURE_STANDARD, "not base64" },
        { "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa=w", LEDGER_HTTP_SIGNATURE_STANDARD, "not base64" },
        { "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaL===", LEDGER_HTTP_SIGNATURE_STANDARD, "not base64" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct ldg_webhook_secrets secrets;
        ledger_error err;
        if (read_text(rows[i].text, rows[i].signature, &secrets, &err) != LEDGER_ERR_INVALID)
            fail_msg("row %zu passes", i);
        if (strstr(err.message, rows[i].words) == NULL)
            fail_msg("row %zu: %s", i, err.message);
        assert_null(strstr(err.message, "hunter2"));
        assert_null(strstr(err.message, "MfKQ"));
        assert_null(strstr(err.message, "czNj"));
    }
    char text[200] = "whsec_";
    struct ldg_webhook_secrets secrets;
    ledger_error err;
    memset(text + 6, 'A', 88); /* 66 bytes */
    assert_int_equal(read_text(text, LEDGER_HTTP_SIGNATURE_STANDARD, &secrets, &err),
                     LEDGER_ERR_INVALID);
    assert_non_null(strstr(err.message, "66 bytes"));
}

static void without_a_file(void **state)
{
    struct ldg_webhook_secrets secrets;
    ledger_error err;
    assert_int_equal(ldg_webhook_secrets_read(NULL, LEDGER_HTTP_SIGNATURE_STANDARD, &secrets, &err),
                     LEDGER_OK);
    assert_int_equal(secrets.count, 0);
    assert_int_equal(ldg_webhook_secrets_read(NULL, LEDGER_HTTP_SIGNATURE_LEDGER, &secrets, &err),
                     LEDGER_ERR_INVALID);
    assert_non_null(strstr(err.message, "--secret-file"));
    assert_int_equal(
        ldg_webhook_secrets_read("/nowhere", LEDGER_HTTP_SIGNATURE_STANDARD, &secrets, &err),
        LEDGER_ERR_INVALID);
    assert_non_null(strstr(err.message, "No such file"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signs_as_the_standard_says),
        cmocka_unit_test(signs_as_the_go_module_does),
        cmocka_unit_test(as_many_as_there_may_be),
        cmocka_unit_test(what_is_no_secret),
        cmocka_unit_test(without_a_file),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
