/* Certificates for tests, made anew in a folder, for they run out. */
#ifndef TESTS_SUPPORT_CERTIFICATE_H
#define TESTS_SUPPORT_CERTIFICATE_H

/* Writes ca.pem (the authority, and the same name in PEM for --ca-file), and with a key each,
 * NAME.pem and NAME.key:
 *   good     for 127.0.0.1 and localhost, by ca
 *   other    for other.example, by ca
 *   expired  as good, but its time is over
 *   self     as good, but signed by itself
 *   client   of a client, by ca */
void tst_certificates_make(const char *folder);

#endif
