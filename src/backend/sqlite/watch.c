/* Waiting for another process's commit: inotify, and PRAGMA data_version behind it.
 *
 * A file event comes before its commit is visible, and one event may stand for two commits, so
 * after an event data_version is looked at in growing steps. Invariants: a commit between the last
 * read and the wait is seen before the wait begins; nothing wakes an idle wait but the interval. */
#include "backend/sqlite/sqlite.h"

#include <poll.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* With a rollback journal the database file itself is watched, else the WAL, which comes and goes.
 * Names are views into `folder`. */
struct ldg_sqlite_watch {
    int64_t event_us; /* of the last file event: its commit may not have shown yet */
    int inotify_fd;   /* -1: not available */
    int folder_wd;
    int file_wd; /* of the WAL, or of the database file; -1: none */
    char *folder;
    const char *name; /* of the database file in the folder */
    size_t name_size;
    char *wal_path;
};

/* A commit becomes visible after its file event: with synchronous=FULL after an fsync that takes
 * milliseconds, on a slow disk much longer. So looks are dense at first and end late. */
static const int64_t first_looks_us[] = { 30, 60, 200, 1000 };
#define LOOK_MAX_US (50 * 1000)
#define LOOK_DENSE_US (500 * 1000)
#define LOOK_TOTAL_US (10 * 1000 * 1000)

/* Without inotify. */
#define POLL_MIN_US 1000
#define POLL_MAX_US (50 * 1000)

static void watch_free(struct ldg_sqlite_watch *w)
{
    if (w != NULL) {
        if (w->inotify_fd >= 0)
            close(w->inotify_fd);
        ldg_free(w->folder);
        ldg_free(w->wal_path);
        ldg_free(w);
    }
}

void ldg_sqlite_watch_close(struct ldg_sqlite *s)
{
    watch_free(s->watch);
    s->watch = NULL;
}

static ledger_rc watch_get(struct ldg_sqlite *s, struct ldg_sqlite_watch **ret_watch,
                           ledger_error *err)
{
    struct ldg_sqlite_watch *w = s->watch;
    ledger_rc rc = LEDGER_OK;

    if (w == NULL) {
        w = ldg_calloc(1, sizeof(*w));
        if (w == NULL) {
            rc = ldg_fail_nomem(err);
            goto out;
        }
        w->inotify_fd = -1;
        w->folder_wd = -1;
        w->file_wd = -1;
        s->watch = w;
    }
    *ret_watch = w;
out:
    return rc;
}

/* Watches the file that the next commit is written to. A watch follows the inode, not the name, so
 * it is set again whenever a name has changed. */
static void watch_file(struct ldg_sqlite *s, struct ldg_sqlite_watch *w)
{
    int wd = inotify_add_watch(w->inotify_fd, w->wal_path, IN_MODIFY);

    if (wd < 0)
        wd = inotify_add_watch(w->inotify_fd, s->path, IN_MODIFY);
    if (w->file_wd >= 0 && w->file_wd != wd)
        (void)inotify_rm_watch(w->inotify_fd, w->file_wd); /* fails when its file is gone */
    w->file_wd = wd;
}

/* What inotify refuses (too many watches, no such call) leaves polling, which always works. */
static ledger_rc watch_open(struct ldg_sqlite *s, struct ldg_sqlite_watch *w, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    if (w->folder != NULL || s->path == NULL)
        goto out;
    size_t size = strlen(s->path);
    const char *slash = strrchr(s->path, '/');
    w->wal_path = ldg_malloc(size + sizeof("-wal"));
    w->folder = ldg_malloc(size + 3); /* "./" for a bare name, and the NUL between */
    if (w->wal_path == NULL || w->folder == NULL) {
        ldg_free(w->wal_path);
        ldg_free(w->folder);
        w->wal_path = w->folder = NULL;
        rc = ldg_fail_nomem(err);
        goto out;
    }
    memcpy(w->wal_path, s->path, size);
    memcpy(w->wal_path + size, "-wal", sizeof("-wal"));
    size_t folder_size = slash == NULL ? 0 : slash == s->path ? 1 : (size_t)(slash - s->path);
    memcpy(w->folder, slash == NULL ? "." : s->path, slash == NULL ? 1 : folder_size);
    w->folder[slash == NULL ? 1 : folder_size] = '\0';
    w->name = slash == NULL ? s->path : slash + 1;
    w->name_size = strlen(w->name);
    w->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (w->inotify_fd < 0)
        goto out;
    w->folder_wd = inotify_add_watch(w->inotify_fd, w->folder,
                                     IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_MOVED_FROM);
    watch_file(s, w);
    w->event_us = ldg_clock_mono_us(); /* a commit may be on its way already */
    if (w->folder_wd < 0 || w->file_wd < 0) {
        close(w->inotify_fd);
        w->inotify_fd = -1;
    }
out:
    return rc;
}

struct events {
    bool file;  /* something that a commit may have caused */
    bool moved; /* the database file itself came or went */
};

/* Reads what inotify has; never blocks. */
static struct events watch_drain(struct ldg_sqlite *s, struct ldg_sqlite_watch *w)
{
    _Alignas(struct inotify_event) char data[4096];
    struct events events = { false, false };
    bool renew = false;
    ssize_t size;

    while ((size = read(w->inotify_fd, data, sizeof(data))) > 0) {
        const struct inotify_event *event;

        for (char *p = data; p < data + size; p += sizeof(*event) + event->len) {
            event = (const struct inotify_event *)(void *)p;
            if (event->mask & IN_Q_OVERFLOW) {
                events.file = true;
                renew = true;
            } else if (event->wd == w->file_wd) {
                events.file = true;
                renew = renew || (event->mask & IN_IGNORED);
            } else if (event->wd == w->folder_wd && event->len > 0 &&
                       strncmp(event->name, w->name, w->name_size) == 0) {
                const char *rest = event->name + w->name_size;

                if (*rest == '\0')
                    events.moved = true;
                else if (strcmp(rest, "-wal") == 0)
                    renew = true;
                else if (strcmp(rest, "-journal") != 0)
                    continue;
                events.file = true;
            }
        }
    }
    if (renew)
        watch_file(s, w);
    if (events.file)
        w->event_us = ldg_clock_mono_us();
    return events;
}

enum wake { WAKE_TIMEOUT, WAKE_CALLER, WAKE_FILE, WAKE_MOVED };

/* Sleeps on the descriptors; us < 0: for ever. */
static enum wake watch_poll(struct ldg_sqlite *s, struct ldg_sqlite_watch *w, int wake_fd,
                            int64_t us)
{
    struct pollfd fds[2] = { { .fd = wake_fd, .events = POLLIN },
                             { .fd = w->inotify_fd, .events = POLLIN } };
    struct timespec time = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
    enum wake wake = WAKE_TIMEOUT;
    int n = ppoll(fds, 2, us < 0 ? NULL : &time, NULL); /* a negative fd is passed over */

    if (n < 0 || fds[0].revents != 0) {
        wake = WAKE_CALLER; /* a signal too: waits may end early */
    } else if (fds[1].revents != 0) {
        struct events events = watch_drain(s, w);

        wake = events.moved ? WAKE_MOVED : events.file ? WAKE_FILE : WAKE_TIMEOUT;
    }
    return wake;
}

static int64_t next_look(int64_t us, unsigned *step)
{
    size_t count = sizeof(first_looks_us) / sizeof(first_looks_us[0]);

    if (*step < count)
        return first_looks_us[(*step)++];
    us *= 2;
    return us < LOOK_MAX_US ? us : LOOK_MAX_US;
}

/* After a file event: looks until a commit shows, or so long that none can follow. *ret_done: stop
 * waiting. */
static ledger_rc watch_look(struct ldg_sqlite *s, struct ldg_sqlite_watch *w, int wake_fd,
                            int64_t deadline_us, bool *ret_done, ledger_error *err)
{
    int64_t pause = 0;
    unsigned step = 0;
    ledger_rc rc;

    *ret_done = true;
    while (true) {
        int64_t version, now = ldg_clock_mono_us(), age = now - w->event_us;
        enum wake wake;

        rc = ldg_sqlite_data_version(s, &version, err);
        if (rc != LEDGER_OK || !s->seen || version != s->seen_version || now >= deadline_us)
            break;
        if (age >= LOOK_TOTAL_US) {
            *ret_done = false;
            break;
        }
        /* Late looks are for one slow fsync: a thousandth of a core at most. */
        pause = age < LOOK_DENSE_US ? next_look(pause, &step) : age / 8;
        if (pause > deadline_us - now)
            pause = deadline_us - now;
        wake = watch_poll(s, w, wake_fd, pause);
        if (wake == WAKE_CALLER || wake == WAKE_MOVED)
            break;
        if (wake == WAKE_FILE)
            step = 0;
    }
    return rc;
}

static ledger_rc wait_inotify(struct ldg_sqlite *s, struct ldg_sqlite_watch *w, int wake_fd,
                              int64_t deadline_us, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    bool done = false;

    while (!done) {
        int64_t now = ldg_clock_mono_us();

        /* Also for an event that an earlier wait has taken: it may have belonged to two commits. */
        rc = watch_look(s, w, wake_fd, deadline_us, &done, err);
        if (rc != LEDGER_OK || done || now >= deadline_us)
            break;
        enum wake wake =
            watch_poll(s, w, wake_fd, deadline_us == INT64_MAX ? -1 : deadline_us - now);
        done = wake == WAKE_CALLER || wake == WAKE_MOVED;
    }
    return rc;
}

static ledger_rc wait_polling(struct ldg_sqlite *s, struct ldg_sqlite_watch *w, int wake_fd,
                              int64_t deadline_us, ledger_error *err)
{
    int64_t pause = POLL_MIN_US;
    ledger_rc rc = LEDGER_OK;

    while (true) {
        int64_t version, now = ldg_clock_mono_us();

        if (now >= deadline_us)
            break;
        if (watch_poll(s, w, wake_fd, pause < deadline_us - now ? pause : deadline_us - now) ==
            WAKE_CALLER)
            break;
        rc = ldg_sqlite_data_version(s, &version, err);
        if (rc != LEDGER_OK || version != s->seen_version)
            break;
        pause = pause * 2 < POLL_MAX_US ? pause * 2 : POLL_MAX_US;
    }
    return rc;
}

ledger_rc ldg_sqlite_log_wait(void *ctx, int wake_fd, int64_t timeout_ms, ledger_error *err)
{
    static _Thread_local bool slack_set;
    struct ldg_sqlite *s = ctx;
    struct ldg_sqlite_watch *w = NULL;
    int64_t version, deadline_us, now = ldg_clock_mono_us();
    ledger_rc rc;

    if (!slack_set) { /* 50 µs by default: as much as the whole wait after an event */
        (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
        slack_set = true;
    }
    deadline_us = timeout_ms < 0 || timeout_ms > (INT64_MAX - now) / 1000 ? INT64_MAX
                                                                          : now + timeout_ms * 1000;
    rc = watch_get(s, &w, err);
    if (rc == LEDGER_OK)
        rc = watch_open(s, w, err);
    /* The watch stands; what was committed between the last read and now shows here. */
    if (rc == LEDGER_OK)
        rc = ldg_sqlite_data_version(s, &version, err);
    if (rc != LEDGER_OK || !s->seen || version != s->seen_version)
        goto out;
    if (w->inotify_fd >= 0)
        rc = wait_inotify(s, w, wake_fd, deadline_us, err);
    else
        rc = wait_polling(s, w, wake_fd, deadline_us, err);
out:
    return rc;
}
