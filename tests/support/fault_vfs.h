/* A SQLite file system that fails on purpose: the n-th operation of some kinds on files whose path
 * contains some text. It passes everything else to the real one. Threads: any. */
#ifndef TESTS_SUPPORT_FAULT_VFS_H
#define TESTS_SUPPORT_FAULT_VFS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    TST_FAULT_OPEN = 1 << 0,
    TST_FAULT_READ = 1 << 1,
    TST_FAULT_WRITE = 1 << 2,
    TST_FAULT_SYNC = 1 << 3,
    TST_FAULT_TRUNCATE = 1 << 4,
    TST_FAULT_LOCK = 1 << 5, /* of the shared memory too */
    TST_FAULT_DELETE = 1 << 6,
    TST_FAULT_ALL = (1 << 7) - 1,
};

/* Becomes the default; open databases keep theirs. */
void tst_fault_vfs_install(void);
void tst_fault_vfs_remove(void); /* after all its files are closed */

/* From now on the n-th such operation (1 = the next) gives sqlite_rc; sticky: all later ones too.
 * n 0: only counts. */
void tst_fault_arm(const char *path_part, uint32_t ops, long n, int sqlite_rc, bool sticky);
void tst_fault_disarm(void);
long tst_fault_count(void); /* operations that matched since it was armed */
long tst_fault_hits(void);  /* how many of them failed */

/* Called (if set) in the thread that does the n-th operation, before it is passed on; the operation
 * then works. NULL: none. */
void tst_fault_on_hit(void (*fn)(void *ctx), void *ctx);

#endif
