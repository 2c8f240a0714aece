/* See fault_vfs.h. */
#include "fault_vfs.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <sqlite3.h>

struct fault_file {
    sqlite3_file base;
    char path[512];
    sqlite3_file *real; /* behind this struct */
};

static struct {
    pthread_mutex_t lock;
    sqlite3_vfs *real;
    sqlite3_vfs vfs;
    bool installed, armed, sticky;
    char path_part[512];
    uint32_t ops;
    long n, count, hits;
    int rc;
    void (*fn)(void *ctx);
    void *fn_ctx;
} shim = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int fault(const char *path, uint32_t op)
{
    int rc = SQLITE_OK;
    void (*fn)(void *ctx) = NULL;
    void *ctx = NULL;
    pthread_mutex_lock(&shim.lock);
    if (shim.armed && (shim.ops & op) != 0 && path != NULL &&
        strstr(path, shim.path_part) != NULL) {
        shim.count++;
        if (shim.n > 0 && (shim.count == shim.n || (shim.sticky && shim.count > shim.n))) {
            shim.hits++;
            fn = shim.fn;
            ctx = shim.fn_ctx;
            rc = fn == NULL ? shim.rc : SQLITE_OK;
        }
    }
    pthread_mutex_unlock(&shim.lock);
    if (fn != NULL)
        fn(ctx);
    return rc;
}

#define FILE_OF(f) ((struct fault_file *)(void *)(f))
#define REAL(f) (FILE_OF(f)->real)
#define FAULT(f, op)                                                                               \
    do {                                                                                           \
        int fault_rc = fault(FILE_OF(f)->path, (op));                                              \
        if (fault_rc != SQLITE_OK)                                                                 \
            return fault_rc;                                                                       \
    } while (0)

static int x_close(sqlite3_file *f)
{
    return REAL(f)->pMethods != NULL ? REAL(f)->pMethods->xClose(REAL(f)) : SQLITE_OK;
}

static int x_read(sqlite3_file *f, void *data, int size, sqlite3_int64 offset)
{
    FAULT(f, TST_FAULT_READ);
    return REAL(f)->pMethods->xRead(REAL(f), data, size, offset);
}

static int x_write(sqlite3_file *f, const void *data, int size, sqlite3_int64 offset)
{
    FAULT(f, TST_FAULT_WRITE);
    return REAL(f)->pMethods->xWrite(REAL(f), data, size, offset);
}

static int x_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    FAULT(f, TST_FAULT_TRUNCATE);
    return REAL(f)->pMethods->xTruncate(REAL(f), size);
}

static int x_sync(sqlite3_file *f, int flags)
{
    FAULT(f, TST_FAULT_SYNC);
    return REAL(f)->pMethods->xSync(REAL(f), flags);
}

static int x_file_size(sqlite3_file *f, sqlite3_int64 *size)
{
    return REAL(f)->pMethods->xFileSize(REAL(f), size);
}

static int x_lock(sqlite3_file *f, int lock)
{
    FAULT(f, TST_FAULT_LOCK);
    return REAL(f)->pMethods->xLock(REAL(f), lock);
}

static int x_unlock(sqlite3_file *f, int lock)
{
    return REAL(f)->pMethods->xUnlock(REAL(f), lock);
}

static int x_check_reserved(sqlite3_file *f, int *result)
{
    return REAL(f)->pMethods->xCheckReservedLock(REAL(f), result);
}

static int x_control(sqlite3_file *f, int op, void *arg)
{
    return REAL(f)->pMethods->xFileControl(REAL(f), op, arg);
}

static int x_sector_size(sqlite3_file *f)
{
    return REAL(f)->pMethods->xSectorSize(REAL(f));
}

static int x_characteristics(sqlite3_file *f)
{
    return REAL(f)->pMethods->xDeviceCharacteristics(REAL(f));
}

static int x_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **data)
{
    return REAL(f)->pMethods->xShmMap(REAL(f), page, size, extend, data);
}

static int x_shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
    if (flags & SQLITE_SHM_LOCK)
        FAULT(f, TST_FAULT_LOCK);
    return REAL(f)->pMethods->xShmLock(REAL(f), offset, n, flags);
}

static void x_shm_barrier(sqlite3_file *f)
{
    REAL(f)->pMethods->xShmBarrier(REAL(f));
}

static int x_shm_unmap(sqlite3_file *f, int delete_flag)
{
    return REAL(f)->pMethods->xShmUnmap(REAL(f), delete_flag);
}

static int x_fetch(sqlite3_file *f, sqlite3_int64 offset, int size, void **data)
{
    return REAL(f)->pMethods->xFetch(REAL(f), offset, size, data);
}

static int x_unfetch(sqlite3_file *f, sqlite3_int64 offset, void *data)
{
    return REAL(f)->pMethods->xUnfetch(REAL(f), offset, data);
}

static const sqlite3_io_methods methods = {
    .iVersion = 3,
    .xClose = x_close,
    .xRead = x_read,
    .xWrite = x_write,
    .xTruncate = x_truncate,
    .xSync = x_sync,
    .xFileSize = x_file_size,
    .xLock = x_lock,
    .xUnlock = x_unlock,
    .xCheckReservedLock = x_check_reserved,
    .xFileControl = x_control,
    .xSectorSize = x_sector_size,
    .xDeviceCharacteristics = x_characteristics,
    .xShmMap = x_shm_map,
    .xShmLock = x_shm_lock,
    .xShmBarrier = x_shm_barrier,
    .xShmUnmap = x_shm_unmap,
    .xFetch = x_fetch,
    .xUnfetch = x_unfetch,
};

static int x_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file, int flags,
                  int *ret_flags)
{
    struct fault_file *f = FILE_OF(file);
    int rc;
    f->base.pMethods = NULL;
    f->real = (sqlite3_file *)(void *)&f[1];
    snprintf(f->path, sizeof f->path, "%s", name != NULL ? name : "");
    rc = fault(f->path, TST_FAULT_OPEN);
    if (rc != SQLITE_OK)
        return rc == SQLITE_IOERR ? SQLITE_CANTOPEN : rc;
    rc = shim.real->xOpen(shim.real, name, f->real, flags, ret_flags);
    if (f->real->pMethods != NULL)
        f->base.pMethods = &methods;
    return rc;
}

static int x_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
    int rc = fault(name, TST_FAULT_DELETE);
    return rc != SQLITE_OK ? rc : shim.real->xDelete(shim.real, name, sync);
}

void tst_fault_vfs_install(void)
{
    if (shim.installed)
        return;
    shim.real = sqlite3_vfs_find(NULL);
    shim.vfs = *shim.real; /* all but opening and deleting is the real one's */
    shim.vfs.pNext = NULL;
    shim.vfs.zName = "tst_fault";
    shim.vfs.szOsFile = (int)sizeof(struct fault_file) + shim.real->szOsFile;
    shim.vfs.xOpen = x_open;
    shim.vfs.xDelete = x_delete;
    sqlite3_vfs_register(&shim.vfs, 1);
    shim.installed = true;
}

void tst_fault_vfs_remove(void)
{
    if (!shim.installed)
        return;
    sqlite3_vfs_unregister(&shim.vfs);
    sqlite3_vfs_register(shim.real, 1);
    shim.installed = false;
}

void tst_fault_arm(const char *path_part, uint32_t ops, long n, int sqlite_rc, bool sticky)
{
    pthread_mutex_lock(&shim.lock);
    snprintf(shim.path_part, sizeof shim.path_part, "%s", path_part);
    shim.ops = ops;
    shim.n = n;
    shim.rc = sqlite_rc;
    shim.sticky = sticky;
    shim.count = 0;
    shim.hits = 0;
    shim.fn = NULL;
    shim.armed = true;
    pthread_mutex_unlock(&shim.lock);
}

void tst_fault_on_hit(void (*fn)(void *ctx), void *ctx)
{
    pthread_mutex_lock(&shim.lock);
    shim.fn = fn;
    shim.fn_ctx = ctx;
    pthread_mutex_unlock(&shim.lock);
}

void tst_fault_disarm(void)
{
    pthread_mutex_lock(&shim.lock);
    shim.armed = false;
    shim.fn = NULL;
    pthread_mutex_unlock(&shim.lock);
}

long tst_fault_count(void)
{
    pthread_mutex_lock(&shim.lock);
    long count = shim.count;
    pthread_mutex_unlock(&shim.lock);
    return count;
}

long tst_fault_hits(void)
{
    pthread_mutex_lock(&shim.lock);
    long hits = shim.hits;
    pthread_mutex_unlock(&shim.lock);
    return hits;
}
