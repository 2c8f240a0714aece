/* Secrets and signatures: Standard Webhooks 1.0.0, and the header of the Go module.
 *
 * Hides OpenSSL. Invariant: no message shows a secret, and what was read of one is wiped. */
#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>

#include "backend/webhook/webhook.h"
#include "base/error.h"

#define PREFIX "whsec_"
#define DIGEST_BYTES 32

/* --- secrets --------------------------------------------------------------------------------- */

static int base64_value(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *found = c != '\0' ? strchr(digits, c) : NULL;
    return found != NULL ? (int)(found - digits) : -1;
}

/* With or without '=' at its end. False: it is none, or longer than max. */
static bool decode_base64(const char *text, unsigned char *out, size_t max, size_t *ret_size)
{
    size_t length = strlen(text), size = 0;
    uint32_t bits = 0;
    int bit_count = 0;
    if (length % 4 == 0)
        for (int i = 0; i < 2 && length > 0 && text[length - 1] == '='; i++)
            length--;
    for (size_t i = 0; i < length; i++) {
        const int value = base64_value(text[i]);
        if (value < 0)
            return false;
        bits = (bits << 6 | (uint32_t)value) & 0xfffff;
        bit_count += 6;
        if (bit_count < 8)
            continue;
        bit_count -= 8;
        if (size == max)
            return false;
        out[size++] = (unsigned char)(bits >> bit_count);
    }
    *ret_size = size;
    /* One digit alone, or bits that no byte has, are a text that was cut or mistyped. */
    return bit_count < 6 && (bits & ((1U << bit_count) - 1)) == 0;
}

ledger_rc ldg_webhook_secrets_add(struct ldg_webhook_secrets *secrets, const char *text,
                                  size_t number, ledger_error *err)
{
    if (secrets->count == LDG_WEBHOOK_SECRETS_MAX)
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "the secret file (--secret-file) has more than %d secrets; keep those that "
                        "receivers still check",
                        LDG_WEBHOOK_SECRETS_MAX);
    if (strncmp(text, PREFIX, strlen(PREFIX)) != 0)
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "line %zu of the secret file (--secret-file) does not begin with "
                        "\"" PREFIX "\"; a secret is that and its bytes in base64, as from "
                        "`echo " PREFIX "$(openssl rand -base64 32)`",
                        number);
    struct ldg_webhook_key *key = &secrets->keys[secrets->count];
    unsigned char bytes[256];
    size_t size = 0;
    const bool ok = decode_base64(text + strlen(PREFIX), bytes, sizeof(bytes), &size);
    ledger_rc rc = LEDGER_OK;
    if (!ok)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "line %zu of the secret file (--secret-file): what follows \"" PREFIX "\" is "
                      "not base64, or too long; copy the secret anew",
                      number);
    else if (size < secrets->min_size || size > LDG_WEBHOOK_KEY_MAX)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "line %zu of the secret file (--secret-file) holds a secret of %zu bytes; it "
                      "has to have %zu to %d%s",
                      number, size, secrets->min_size, LDG_WEBHOOK_KEY_MAX,
                      secrets->min_size > LDG_WEBHOOK_KEY_MIN_LEDGER
                          ? " (fewer only with --signature ledger)"
                          : "");
    if (rc == LEDGER_OK) {
        memcpy(key->bytes, bytes, size);
        key->size = size;
        secrets->count++;
    }
    explicit_bzero(bytes, sizeof(bytes));
    return rc;
}

static ledger_rc add_line(void *ctx, const char *line, size_t number, ledger_error *err)
{
    return ldg_webhook_secrets_add(ctx, line, number, err);
}

ledger_rc ldg_webhook_secrets_read(const char *path, ledger_http_signature signature,
                                   struct ldg_webhook_secrets *ret_secrets, ledger_error *err)
{
    static const char what[] = "the secret file (--secret-file)";
    struct ldg_webhook_secrets secrets = {
        .min_size = signature == LEDGER_HTTP_SIGNATURE_LEDGER ? LDG_WEBHOOK_KEY_MIN_LEDGER
                                                              : LDG_WEBHOOK_KEY_MIN,
    };
    ledger_rc rc = LEDGER_OK;
    if (path != NULL)
        rc = ldg_http_read_lines(path, what, add_line, &secrets, err);
    if (rc == LEDGER_OK && path != NULL && secrets.count == 0)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "%s holds no secret; write one a line, \"" PREFIX "\" and base64", what);
    if (rc == LEDGER_OK && path == NULL && signature == LEDGER_HTTP_SIGNATURE_LEDGER)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "--signature ledger signs with a secret; name its file with --secret-file");
    if (rc == LEDGER_OK)
        *ret_secrets = secrets;
    ldg_webhook_secrets_fini(&secrets);
    return rc;
}

void ldg_webhook_secrets_fini(struct ldg_webhook_secrets *secrets)
{
    explicit_bzero(secrets, sizeof(*secrets));
}

/* --- signatures ------------------------------------------------------------------------------ */

static bool digest(const struct ldg_webhook_key *key, const struct ldg_http_piece *pieces,
                   size_t count, unsigned char out[DIGEST_BYTES])
{
    char name[] = "SHA256";
    const OSSL_PARAM params[] = { OSSL_PARAM_construct_utf8_string("digest", name, 0),
                                  OSSL_PARAM_construct_end() };
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *ctx = mac != NULL ? EVP_MAC_CTX_new(mac) : NULL;
    size_t size = 0;
    bool ok = ctx != NULL && EVP_MAC_init(ctx, key->bytes, key->size, params) == 1;
    for (size_t i = 0; ok && i < count; i++)
        ok = EVP_MAC_update(ctx, pieces[i].data, pieces[i].size) == 1;
    ok = ok && EVP_MAC_final(ctx, out, &size, DIGEST_BYTES) == 1 && size == DIGEST_BYTES;
    EVP_MAC_CTX_free(ctx);
    EVP_MAC_free(mac);
    return ok;
}

static ledger_rc fail_digest(ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_INTERNAL, "OpenSSL cannot compute HMAC-SHA256");
}

ledger_rc ldg_webhook_sign(const struct ldg_webhook_secrets *secrets, const char *id,
                           const char *seconds, const struct ldg_buf *body,
                           char text[LDG_WEBHOOK_SIGNATURE_MAX], ledger_error *err)
{
    const struct ldg_http_piece pieces[] = {
        { id, strlen(id) },
        { ".", 1 },
        { seconds, strlen(seconds) },
        { ".", 1 },
        { body->size > 0 ? body->data : "", body->size },
    };
    char *out = text;
    for (size_t i = 0; i < secrets->count; i++) {
        unsigned char mac[DIGEST_BYTES];
        if (!digest(&secrets->keys[i], pieces, sizeof(pieces) / sizeof(pieces[0]), mac))
            return fail_digest(err);
        memcpy(out, i > 0 ? " v1," : "v1,", i > 0 ? 4 : 3);
        out += i > 0 ? 4 : 3;
        out += EVP_EncodeBlock((unsigned char *)out, mac, DIGEST_BYTES);
    }
    *out = '\0';
    return LEDGER_OK;
}

ledger_rc ldg_webhook_sign_body(const struct ldg_webhook_secrets *secrets,
                                const struct ldg_buf *body, char text[LDG_WEBHOOK_HEX_MAX],
                                ledger_error *err)
{
    const struct ldg_http_piece piece = { body->size > 0 ? body->data : "", body->size };
    unsigned char mac[DIGEST_BYTES];
    if (!digest(&secrets->keys[0], &piece, 1, mac))
        return fail_digest(err);
    for (size_t i = 0; i < DIGEST_BYTES; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", mac[i]);
    return LEDGER_OK;
}
