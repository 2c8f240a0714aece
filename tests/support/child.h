/* What each program that a test starts has, be it PostgreSQL's server or one of partner.h: a folder
 * of its own with its log, a port, an end. */
#ifndef TESTS_SUPPORT_CHILD_H
#define TESTS_SUPPORT_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define TST_FOLDER_MAX 200

/* Makes an empty folder, "$TMPDIR/ledger-<name>-XXXXXX". */
void tst_folder_make(const char *name, char dir[TST_FOLDER_MAX]);
void tst_folder_remove(const char *dir);
/* The last lines of the folder's log, to stderr; nothing where there is none. */
void tst_show_log(const char *dir);
/* A port of 127.0.0.1 that nobody else is given while this process lives. Connections to it are
 * refused until a server listens, which has to have SO_REUSEADDR or, as our user, SO_REUSEPORT. */
int tst_free_port(void);
/* The same with this port, which is free now. */
void tst_hold_port(int port);
/* Waits for the end of a child; true: it has ended, and *pid is 0. */
bool tst_reap(pid_t *pid, int64_t wait_us);

#endif
