/* Syncs the sink's WAL from a thread while commits go on, so that a commit need not wait for the
 * disk and a checkpoint finds little left to sync.
 *
 * It opens the WAL file only, through a descriptor of its own: closing a descriptor of the database
 * file would drop this process's POSIX locks on it. Invariant: `durable` counts commits whose WAL
 * frames were written before an fdatasync that succeeded; it never runs ahead. */
#include "backend/sqlite/sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SYNC_PAUSE_NS (15 * 1000 * 1000L)

struct ldg_sqlite_durable {
    char *wal_path; /* NULL: a database without a file */
    char *db_path;
    dev_t db_device; /* of the database this handle has open: its WAL, and no other's, counts */
    ino_t db_inode;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool running; /* the thread was started */
    bool stop;    /* under mutex, as the next two */
    bool idle;    /* the thread waits for a commit */
    uint64_t committed;
    _Atomic uint64_t durable;
    /* The thread's own. */
    int fd;
    dev_t device;
    ino_t inode;
    bool broken;
};

/* Does the name still stand for the database that this handle has open? */
static bool is_our_database(const struct ldg_sqlite_durable *d)
{
    struct stat st;

    return stat(d->db_path, &st) == 0 && st.st_dev == d->db_device && st.st_ino == d->db_inode;
}

/* Opens the WAL, again when the file was made anew. false with ret_absent: there is no WAL. */
static bool follow_file(struct ldg_sqlite_durable *d, bool *ret_absent)
{
    struct stat st;
    bool ok = false;

    *ret_absent = false;
    if (stat(d->wal_path, &st) != 0) {
        *ret_absent = errno == ENOENT;
        goto out;
    }
    if (d->fd >= 0 && (st.st_dev != d->device || st.st_ino != d->inode)) {
        close(d->fd);
        d->fd = -1;
    }
    if (d->fd < 0) {
        d->fd = open(d->wal_path, O_RDONLY | O_CLOEXEC);
        if (d->fd < 0) {
            *ret_absent = errno == ENOENT;
            goto out;
        }
        if (fstat(d->fd, &st) != 0)
            goto out;
        d->device = st.st_dev;
        d->inode = st.st_ino;
        d->broken = !is_our_database(d); /* looked at later than the WAL, so it is of the same */
    }
    ok = !d->broken;
out:
    return ok;
}

/* Where there never was a WAL, a commit is on disk when it returns. */
static bool sync_file(struct ldg_sqlite_durable *d)
{
    bool absent, ok = false;

    if (d->broken)
        goto out;
    if (follow_file(d, &absent)) {
        ok = fdatasync(d->fd) == 0;
        /* The kernel reports a lost write once and then forgets it: a later success would prove
         * nothing about the commits before it. */
        d->broken = !ok;
    } else if (absent) {
        ok = d->fd < 0 && is_our_database(d);
        d->broken = !ok; /* somebody took the WAL, or all of it, away from under us */
    }
out:
    return ok;
}

static void *sync_loop(void *arg)
{
    struct ldg_sqlite_durable *d = arg;
    uint64_t looked_at = 0;

    pthread_mutex_lock(&d->mutex);
    while (!d->stop) {
        struct timespec until;

        if (d->committed == looked_at) {
            d->idle = true;
            pthread_cond_wait(&d->cond, &d->mutex);
            continue;
        }
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += SYNC_PAUSE_NS;
        if (until.tv_nsec >= 1000000000L) {
            until.tv_nsec -= 1000000000L;
            until.tv_sec++;
        }
        while (!d->stop && pthread_cond_timedwait(&d->cond, &d->mutex, &until) != ETIMEDOUT)
            ;
        if (d->stop)
            break;
        uint64_t target = d->committed;
        pthread_mutex_unlock(&d->mutex);
        bool ok = sync_file(d);
        if (ok)
            atomic_store(&d->durable, target);
        if (ok || d->broken)
            looked_at = target;
        pthread_mutex_lock(&d->mutex);
    }
    pthread_mutex_unlock(&d->mutex);
    if (d->fd >= 0)
        close(d->fd);
    return NULL;
}

ledger_rc ldg_sqlite_durable_start(struct ldg_sqlite *s, ledger_error *err)
{
    struct ldg_sqlite_durable *d = NULL;
    pthread_condattr_t attr;
    ledger_rc rc;

    d = ldg_calloc(1, sizeof(*d));
    if (d == NULL) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    d->fd = -1;
    pthread_mutex_init(&d->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&d->cond, &attr);
    pthread_condattr_destroy(&attr);
    if (s->path != NULL) {
        struct stat st;
        size_t size = strlen(s->path);

        if (stat(s->path, &st) == 0) {
            d->db_device = st.st_dev;
            d->db_inode = st.st_ino;
        }
        d->db_path = ldg_strdup(s->path);
        d->wal_path = ldg_malloc(size + sizeof("-wal"));
        if (d->wal_path == NULL || d->db_path == NULL) {
            rc = ldg_fail_nomem(err);
            goto out;
        }
        memcpy(d->wal_path, s->path, size);
        memcpy(d->wal_path + size, "-wal", sizeof("-wal"));
        int code = pthread_create(&d->thread, NULL, sync_loop, d);
        if (code != 0) {
            rc = ldg_fail_native(err, LEDGER_ERR_NOMEM, "sqlite", code,
                                 "cannot start the thread that syncs the WAL: %s", strerror(code));
            goto out;
        }
        d->running = true;
    }
    s->durable = d;
    d = NULL;
    rc = LEDGER_OK;
out:
    if (d != NULL) {
        pthread_cond_destroy(&d->cond);
        pthread_mutex_destroy(&d->mutex);
        ldg_free(d->wal_path);
        ldg_free(d->db_path);
        ldg_free(d);
    }
    return rc;
}

void ldg_sqlite_durable_stop(struct ldg_sqlite *s)
{
    struct ldg_sqlite_durable *d = s->durable;

    if (d == NULL)
        return;
    if (d->running) {
        pthread_mutex_lock(&d->mutex);
        d->stop = true;
        pthread_cond_signal(&d->cond);
        pthread_mutex_unlock(&d->mutex);
        pthread_join(d->thread, NULL);
    }
    pthread_cond_destroy(&d->cond);
    pthread_mutex_destroy(&d->mutex);
    ldg_free(d->wal_path);
    ldg_free(d->db_path);
    ldg_free(d);
    s->durable = NULL;
}

void ldg_sqlite_durable_committed(struct ldg_sqlite *s)
{
    struct ldg_sqlite_durable *d = s->durable;

    if (d == NULL)
        return;
    if (!d->running) {
        atomic_store(&d->durable, s->applied_count);
        return;
    }
    pthread_mutex_lock(&d->mutex);
    d->committed = s->applied_count;
    if (d->idle) { /* a thread in its pause looks when that is over */
        d->idle = false;
        pthread_cond_signal(&d->cond);
    }
    pthread_mutex_unlock(&d->mutex);
}

uint64_t ldg_sqlite_durable_count(void *ctx)
{
    const struct ldg_sqlite *s = ctx;

    return s->durable != NULL ? atomic_load(&s->durable->durable) : s->applied_count;
}
