/* Waiting for a lock of a database file, and who holds it.
 *
 * Hides SQLite's busy handler and progress handler, and the kernel's list of locks. Invariant: no
 * file of the database is opened to ask for its locks, because closing it would drop this process's
 * own. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "backend/sqlite/sqlite.h"

/* Opcodes of SQLite's machine between two looks: about a millisecond. */
#define LOOK_OPCODES 20000
#define LINE_MAX_BYTES 256

/* --- who holds it ---------------------------------------------------------------------------- */

/* Bytes of a file on which SQLite's processes shut each other out (SQLite's file format and WAL
 * format): of the database file PENDING and RESERVED, and the pages of a writer without WAL; of the
 * WAL's index the locks of the writer, the checkpoint and the recovery. */
#define PENDING_BYTE INT64_C(0x40000000)
struct lock_range {
    const char *suffix;
    const char *kind; /* WRITE, READ: as the list of locks has it */
    int64_t first, last;
};
static const struct lock_range lock_ranges[] = {
    { "-shm", "WRITE", 120, 122 },
    { "", "WRITE", PENDING_BYTE, PENDING_BYTE + 511 },
};
/* Without WAL a reader keeps a writer from committing; with it everybody has this lock. */
static const struct lock_range readers = { "", "READ", PENDING_BYTE + 2, PENDING_BYTE + 511 };

struct file_lock {
    char kind[8];
    int pid;
    unsigned major_number, minor_number; /* of the device */
    uint64_t inode;
    int64_t first, last;
};

/* One line of /proc/locks: "1: POSIX  ADVISORY  WRITE 4711 fd:01:1234 120 120". */
static bool read_lock(const char *line, struct file_lock *lock)
{
    char last[24];
    /* NOLINTNEXTLINE(cert-err34-c): the kernel wrote the numbers */
    int count = sscanf(line, "%*d: POSIX %*s %7s %d %x:%x:%" SCNu64 " %" SCNd64 " %23s", lock->kind,
                       &lock->pid, &lock->major_number, &lock->minor_number, &lock->inode,
                       &lock->first, last);
    if (count != 7)
        return false;
    if (strcmp(last, "EOF") != 0)
        return ldg_int64_parse(last, false, &lock->last);
    lock->last = INT64_MAX;
    return true;
}

static bool is_in_range(const struct file_lock *lock, const struct stat *st,
                        const struct lock_range *range)
{
    return strcmp(lock->kind, range->kind) == 0 && lock->inode == st->st_ino &&
           lock->major_number == major(st->st_dev) && lock->minor_number == minor(st->st_dev) &&
           lock->first <= range->last && lock->last >= range->first;
}

/* Another process that has a lock in the range, else, if need be, this one; 0: none is seen. */
static int find_holder(const char *path, const struct lock_range *range)
{
    char name[4096 + 8], line[LINE_MAX_BYTES];
    struct file_lock lock;
    struct stat st;
    const int own = (int)getpid();
    int holder = 0;
    int size = snprintf(name, sizeof(name), "%s%s", path, range->suffix);
    if (size < 0 || (size_t)size >= sizeof(name) || stat(name, &st) != 0)
        return 0;
    FILE *locks = fopen("/proc/locks", "re");
    while (locks && (!holder || holder == own) && fgets(line, sizeof(line), locks)) {
        if (read_lock(line, &lock) && is_in_range(&lock, &st, range) && lock.pid > 0)
            holder = lock.pid;
    }
    if (locks)
        (void)fclose(locks);
    return holder;
}

/* "" where it is not known. */
static void name_process(int pid, char *out, size_t out_size)
{
    char path[64];
    out[0] = '\0';
    (void)snprintf(path, sizeof(path), "/proc/%d/comm", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    if (!fgets(out, (int)out_size, file))
        out[0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    (void)fclose(file);
}

void ldg_sqlite_holder(const struct ldg_sqlite *s, char out[LDG_SQLITE_HOLDER_MAX])
{
    const int own = (int)getpid();
    char name[32];
    int pid = 0;
    for (size_t i = 0; s->path && !pid && i < sizeof(lock_ranges) / sizeof(lock_ranges[0]); i++)
        pid = find_holder(s->path, &lock_ranges[i]);
    if (s->path && (!pid || pid == own) && s->no_wal) {
        int reader = find_holder(s->path, &readers);
        pid = reader && reader != own ? reader : pid;
    }
    if (pid == 0)
        (void)snprintf(out, LDG_SQLITE_HOLDER_MAX, "another connection");
    else if (pid == own)
        (void)snprintf(out, LDG_SQLITE_HOLDER_MAX, "another connection of this process");
    else {
        name_process(pid, name, sizeof(name));
        (void)snprintf(out, LDG_SQLITE_HOLDER_MAX, "process %d%s%s%s", pid, *name ? " (" : "", name,
                       *name ? ")" : "");
    }
}

/* --- waiting --------------------------------------------------------------------------------- */

/* SQLite calls it each time that it finds the lock taken. 0: it is not to try again. */
static int on_busy(void *ctx, int count)
{
    static const int pauses_ms[] = { 1, 2, 5, 10, 15, 20, 25, 25, 25, 50, 50 };
    const int steps = (int)(sizeof(pauses_ms) / sizeof(pauses_ms[0]));
    struct ldg_sqlite *s = ctx;
    char holder[LDG_SQLITE_HOLDER_MAX];

    if (count == 0)
        s->waiting = (struct ldg_waiting){ .wait = s->wait };
    int64_t left_ms = s->busy_timeout_ms - ldg_waiting_ms(&s->waiting);
    if (left_ms <= 0 || ldg_waiting_ask(&s->waiting) != LEDGER_WAIT_ON)
        return 0;
    if (ldg_waiting_is_long(&s->waiting)) {
        ldg_sqlite_holder(s, holder);
        ldg_wait_tell(s->wait, "%s: waits for the lock of the file, which %s holds",
                      s->path ? s->path : "", holder);
    }
    int pause_ms = count < steps ? pauses_ms[count] : LDG_WAIT_LOOK_MS;
    sqlite3_sleep(pause_ms < left_ms ? pause_ms : (int)left_ms);
    return 1;
}

/* A statement at work hears of a stop and of an interrupt, and of nothing else. Not 0: it ends.
 * SQLite counts the opcodes of a prepared statement from one run to the next, and may also call
 * this when the statement has done all that it does: a COMMIT then fails that has committed. */
static int on_progress(void *ctx)
{
    const struct ldg_sqlite *s = ctx;
    struct ldg_waiting now = { .wait = s->wait };
    const ledger_wait_answer answer = s->undisturbed ? LEDGER_WAIT_ON : ldg_waiting_ask(&now);
    return answer == LEDGER_WAIT_STOP || answer == LDG_WAIT_INTERRUPTED;
}

int ldg_sqlite_wait_setup(struct ldg_sqlite *s)
{
    if (s->wait)
        sqlite3_progress_handler(s->db, LOOK_OPCODES, on_progress, s);
    s->has_handlers = true;
    return sqlite3_busy_handler(s->db, on_busy, s);
}
