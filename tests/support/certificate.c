/* Certificates for tests: see certificate.h. */
#include "certificate.h"

#include "fixtures.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#define DAY_S (24L * 3600)

struct signer {
    X509 *certificate;
    EVP_PKEY *key;
};

static void add(X509 *certificate, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *extension;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, certificate, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(certificate, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

/* names: "IP:…,DNS:…"; NULL: an authority. signer NULL: itself. ends_s: from now. */
static struct signer make(const char *name, const char *names, const struct signer *signer,
                          long ends_s)
{
    static long serial;
    struct signer made = { X509_new(), EVP_EC_gen("P-256") };
    X509_NAME *subject;
    assert_non_null(made.certificate);
    assert_non_null(made.key);
    X509_set_version(made.certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(made.certificate), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(made.certificate), -2 * DAY_S);
    X509_gmtime_adj(X509_getm_notAfter(made.certificate), ends_s);
    X509_set_pubkey(made.certificate, made.key);
    subject = X509_get_subject_name(made.certificate);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(made.certificate,
                         signer != NULL ? X509_get_subject_name(signer->certificate) : subject);
    add(made.certificate, signer != NULL ? signer->certificate : made.certificate,
        NID_basic_constraints, names == NULL ? "critical,CA:TRUE" : "CA:FALSE");
    if (names != NULL && names[0] != '\0')
        add(made.certificate, made.certificate, NID_subject_alt_name, names);
    assert_true(X509_sign(made.certificate, signer != NULL ? signer->key : made.key, EVP_sha256()) >
                0);
    return made;
}

static FILE *create(const char *folder, const char *name, const char *suffix)
{
    char path[400];
    FILE *file;
    snprintf(path, sizeof path, "%s/%s.%s", folder, name, suffix);
    file = fopen(path, "we");
    if (file == NULL)
        tst_fail("cannot write %s", path);
    return file;
}

static void write_and_free(struct signer made, const char *folder, const char *name)
{
    FILE *file = create(folder, name, "pem");
    assert_int_equal(PEM_write_X509(file, made.certificate), 1);
    fclose(file);
    file = create(folder, name, "key");
    assert_int_equal(PEM_write_PrivateKey(file, made.key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(file);
    X509_free(made.certificate);
    EVP_PKEY_free(made.key);
}

void tst_certificates_make(const char *folder)
{
    static const char here[] = "IP:127.0.0.1,DNS:localhost";
    struct signer ca = make("the tests' authority", NULL, NULL, 30 * DAY_S);
    write_and_free(make("good", here, &ca, 30 * DAY_S), folder, "good");
    write_and_free(make("other", "DNS:other.example", &ca, 30 * DAY_S), folder, "other");
    write_and_free(make("expired", here, &ca, -DAY_S), folder, "expired");
    write_and_free(make("self", here, NULL, 30 * DAY_S), folder, "self");
    write_and_free(make("client", "", &ca, 30 * DAY_S), folder, "client");
    write_and_free(ca, folder, "ca");
}
