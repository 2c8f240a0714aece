/* Programs that a test talks to over a port of 127.0.0.1: each is a child of this process in a
 * folder of its own under $TMPDIR, and gone with it when the program ends, however it ends (the
 * kernel stops it with us). Call from the main thread.
 *
 * What goes wrong here fails the test, with the end of the partner's log. */
#ifndef TESTS_SUPPORT_PARTNER_H
#define TESTS_SUPPORT_PARTNER_H

#include <stdbool.h>
#include <sys/types.h>

#include "child.h"

#define TST_PARTNER_ARGS_MAX 16

struct tst_partner {
    char dir[TST_FOLDER_MAX]; /* holds what it wants, and log */
    int port;  /* the same at each run; 0 before the first: it finds one itself and writes it
                  to <dir>/port */
    pid_t pid; /* 0: it does not run */
};

/* An empty folder for one, "ledger-<name>-XXXXXX". */
struct tst_partner *tst_partner_make(const char *name);
/* Starts args[0] (a whole path) and waits until it takes connections. Ends by NULL. */
void tst_partner_run(struct tst_partner *partner, const char *const *args);
/* SIGTERM, or any other, and waits for the end. */
void tst_partner_stop(struct tst_partner *partner, int signal);
void tst_partner_destroy(struct tst_partner **partner);

/* A file in its folder, written beside it and moved there, so that it is there whole or not. */
void tst_partner_put(const struct tst_partner *partner, const char *name, const char *text);
/* All of one; NULL: there is none. free(). */
char *tst_partner_get(const struct tst_partner *partner, const char *name);
/* The last lines of the log of each that there is, to stderr. */
void tst_partner_show_logs(void);

/* Where this tree's sources are; and build-partners/NAME in it, or what the environment variable
 * names. */
const char *tst_source_root(void);
const char *tst_partner_place(const char *variable, const char *name);
/* Skips the running test for this reason. Unlike PostgreSQL, what is fetched over the network may
 * be missing in CI, too. */
void tst_skip(const char *why);

#endif
