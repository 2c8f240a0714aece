/* Which file a name leads to, and whether it still is the one that is open.
 *
 * SQLite keeps the WAL beside the name by which it opens a file. So a file must have one name only,
 * and the name as it was given must go on leading to the file that is open. Hides links in the
 * path, second names (hard links, a file that is mounted alone), and files that were put in the
 * place of others. Invariant: once a second at most, but at each look of a bridge, the name is
 * compared with what is open; a handle whose name leads elsewhere does nothing any more. */
#include "backend/sqlite/sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define VERIFY_PAUSE_US (1000 * 1000)
#define WAL_PATH_MAX (PATH_MAX + sizeof("-wal"))
#define YOUNG_US (10 * 1000 * 1000)
#define SHOWN_MAX 200 /* of a name in a message, so that there is room for what to do */

/* --- words ----------------------------------------------------------------------------------- */

static ledger_rc code_of_errno(int error, ledger_rc otherwise)
{
    switch (error) {
    case EACCES:
    case EPERM:
    case EROFS:
        return LEDGER_ERR_PERMISSION;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: /* the largest file that the file system, or a limit of the user, allows */
        return LEDGER_ERR_FULL;
    case ENOMEM:
        return LEDGER_ERR_NOMEM;
    default:
        return otherwise;
    }
}

/* SQLite keeps the errno of the file, not of the WAL's map: then the file system itself tells. */
ledger_rc ldg_sqlite_code_of_disk(const char *path, int error, ledger_rc otherwise,
                                  const char **ret_hint)
{
    struct statvfs fs;
    ledger_rc rc = code_of_errno(error, otherwise);

    if (path == NULL || statvfs(path, &fs) != 0)
        return rc;
    if (rc == otherwise && (fs.f_flag & ST_RDONLY) != 0)
        rc = LEDGER_ERR_PERMISSION;
    else if (rc == otherwise && fs.f_bavail == 0 && fs.f_blocks > 0)
        rc = LEDGER_ERR_FULL;
    if (rc == LEDGER_ERR_PERMISSION && (fs.f_flag & ST_RDONLY) != 0)
        *ret_hint = "; its file system is mounted read-only, and a WAL database needs files beside "
                    "it: mount it writable";
    else if (rc == LEDGER_ERR_FULL)
        *ret_hint = "; there is no space left: make room on its disk";
    return rc;
}

bool ldg_sqlite_no_descriptors(int error)
{
    return error == EMFILE || error == ENFILE;
}

/* A name for a message: control characters can be seen (\r), and of a long one there is the end. */
static const char *shown(const char *name, char out[SHOWN_MAX])
{
    static const char letters[] = "abtnvfr"; /* of the characters from 7 on */
    size_t size = strlen(name), used = 0;

    if (size > SHOWN_MAX - 8) {
        name += size - (SHOWN_MAX - 8);
        while (((unsigned char)*name & 0xc0) == 0x80)
            name++;
        memcpy(out, "...", 3);
        used = 3;
    }
    for (; *name != '\0' && used < SHOWN_MAX - 5; name++) {
        unsigned char c = (unsigned char)*name;

        if (c >= ' ' && c != 127)
            out[used++] = (char)c;
        else if (c >= 7 && c <= 13)
            used += (size_t)snprintf(out + used, SHOWN_MAX - used, "\\%c", letters[c - 7]);
        else
            used += (size_t)snprintf(out + used, SHOWN_MAX - used, "\\x%02x", c);
    }
    out[used] = '\0';
    return out;
}

const char *ldg_sqlite_file_name(const struct ldg_sqlite *s)
{
    return s->path != NULL ? s->path : "the database";
}

static bool has_control(const char *name)
{
    for (; *name != '\0'; name++) {
        if ((unsigned char)*name < ' ' || *name == 127)
            return true;
    }
    return false;
}

static ledger_rc fail_path(ledger_error *err, int error, ledger_rc otherwise, const char *path,
                           const char *advice)
{
    char text[SHOWN_MAX];
    return ldg_fail_native(err, code_of_errno(error, otherwise), "sqlite", error, "%s: %s%s%s",
                           shown(path, text), strerror(error), *advice ? "; " : "", advice);
}

/* A bridge opens what its caller had open: somebody is moving it, or puts a backup in its place,
 * and it may be there again at the next try. */
static ledger_rc fail_missing(const struct ldg_open *open, const char *path, ledger_error *err)
{
    char text[SHOWN_MAX];
    shown(path, text);
    if (open->role != LDG_ROLE_USER)
        return ldg_fail(err, LEDGER_ERR_CONNECT,
                        "no such file: %s; it was there when the bridge was made: put it back",
                        text);
    return ldg_fail(err, LEDGER_ERR_SCHEMA,
                    "no such file: %s; `ledgerctl store init --store sqlite:%s` makes it", text,
                    text);
}

/* --- finding it ------------------------------------------------------------------------------ */

/* The name from the root on, with its links as they are: a link may be changed later, and so may
 * the folder that the process works in. Empty: it cannot be said; then the real path stands for it.
 */
static void name_from_root(const char *name, char out[PATH_MAX])
{
    char folder[PATH_MAX];
    int size;

    out[0] = '\0';
    if (*name == '/')
        size = snprintf(out, PATH_MAX, "%s", name);
    else if (getcwd(folder, sizeof(folder)) != NULL && folder[0] == '/')
        size = snprintf(out, PATH_MAX, "%s/%s", strcmp(folder, "/") == 0 ? "" : folder, name);
    else
        return;
    if (size < 0 || size >= PATH_MAX)
        out[0] = '\0';
}

/* The real path of a file that may not exist yet: that of its folder, and the last part. An
 * absolute path also keeps SQLite from reading "file:…" as a URI. */
static ledger_rc real_path(const char *name, const struct ldg_open *open, char out[PATH_MAX],
                           ledger_error *err)
{
    char folder[PATH_MAX], text[SHOWN_MAX];
    if (realpath(name, out))
        return LEDGER_OK;
    if (errno != ENOENT)
        return fail_path(err, errno, LEDGER_ERR_INVALID, name, "");
    const char *slash = strrchr(name, '/');
    const char *last = slash ? slash + 1 : name;
    size_t folder_size = slash ? (size_t)(slash - name) + 1 : 0;
    if (folder_size >= sizeof(folder) || !*last)
        return ldg_fail(err, LEDGER_ERR_INVALID, "%s: not a file name", shown(name, text));
    memcpy(folder, name, folder_size);
    folder[folder_size] = '\0';
    if (!realpath(folder_size ? folder : ".", out)) {
        if (errno == ENOENT && open->role != LDG_ROLE_USER)
            return fail_missing(open, name, err);
        if (errno == ENOENT)
            return ldg_fail(err, LEDGER_ERR_SCHEMA, "no such folder: %s; make it first",
                            shown(folder, text));
        return fail_path(err, errno, LEDGER_ERR_INVALID, folder, "");
    }
    /* SQLite tries to read the file when it may not make it, and then tells that it is not there.
     */
    if (open->flags & LEDGER_STORE_CREATE && faccessat(AT_FDCWD, out, W_OK | X_OK, AT_EACCESS) != 0)
        return fail_path(err, errno, LEDGER_ERR_PERMISSION, out,
                         "give this user write permission on the folder");
    size_t size = strlen(out);
    if (size + 1 + strlen(last) + 1 > PATH_MAX)
        return ldg_fail(err, LEDGER_ERR_INVALID, "%s: file name too long", shown(name, text));
    if (out[size - 1] != '/')
        out[size++] = '/';
    memcpy(out + size, last, strlen(last) + 1);
    return LEDGER_OK;
}

/* Says what is wrong with the file in words, where SQLite would only say "unable to open". */
static ledger_rc check_kind(const char *path, const struct ldg_open *open, ledger_error *err)
{
    char text[SHOWN_MAX];
    struct stat st;
    shown(path, text);
    if (stat(path, &st) != 0) {
        if (errno != ENOENT)
            return fail_path(err, errno, LEDGER_ERR_CONNECT, path, "");
        if (!(open->flags & LEDGER_STORE_CREATE))
            return fail_missing(open, path, err);
        if (has_control(path))
            return ldg_fail(err, LEDGER_ERR_INVALID,
                            "%s: no file is made whose name has a control character; take it out "
                            "of the name (\\r at its end comes from a file with the line ends of "
                            "Windows)",
                            text);
        return LEDGER_OK;
    }
    if (S_ISDIR(st.st_mode))
        return ldg_fail(err, LEDGER_ERR_PERMISSION, "%s is a folder; name a file in it", text);
    if (!S_ISREG(st.st_mode))
        return ldg_fail(err, LEDGER_ERR_PERMISSION, "%s is not a regular file", text);
    if (access(path, R_OK) != 0)
        return fail_path(err, errno, LEDGER_ERR_PERMISSION, path, "this user may not read it");
    return LEDGER_OK;
}

/* --- second names ---------------------------------------------------------------------------- */

/* Undoes \040 and the like. In place. */
static void unescape(char *text)
{
    char *to = text;

    for (; *text != '\0'; to++) {
        if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] >= '0' &&
            text[2] <= '7' && text[3] >= '0' && text[3] <= '7') {
            *to = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
            text += 4;
        } else {
            *to = *text++;
        }
    }
    *to = '\0';
}

bool ldg_sqlite_file_in_mountinfo(const char *path)
{
    char *line = NULL, *place;
    size_t cap = 0;
    bool found = false;
    FILE *file = fopen("/proc/self/mountinfo", "re");

    while (file != NULL && !found && getline(&line, &cap, file) > 0) {
        place = line;
        for (int field = 0; field < 4 && place != NULL; field++) {
            place = strchr(place, ' ');
            place = place != NULL ? place + 1 : NULL;
        }
        if (place == NULL)
            continue;
        place[strcspn(place, " \n")] = '\0';
        unescape(place);
        found = strcmp(place, path) == 0;
    }
    free(line); /* getline()'s own */
    if (file != NULL)
        fclose(file);
    return found;
}

/* Is the file itself a place where something is mounted? Its device tells nothing: an overlay shows
 * others for files than for their folders. */
static bool is_mounted_alone(const char *path)
{
    struct statx sx;

    if (statx(AT_FDCWD, path, 0, STATX_TYPE, &sx) == 0 &&
        (sx.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) != 0)
        return (sx.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
    return ldg_sqlite_file_in_mountinfo(path);
}

/* Fills err when the file has a second name. In whatever journal mode: what a rollback journal
 * holds after a crash is not seen by the other name either. */
static ledger_rc check_names(const char *path, const struct stat *st, ledger_error *err)
{
    char text[SHOWN_MAX];

    if (st->st_nlink > 1)
        return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                        "%s has a second name (a hard link). SQLite keeps a WAL beside each name, "
                        "and commits made by the one are lost or overwritten by the other: end "
                        "the programs that use it and leave the file one name (`find / -xdev "
                        "-samefile FILE` lists them)",
                        shown(path, text));
    if (is_mounted_alone(path))
        return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                        "%s is mounted alone, without the WAL beside it, so commits made by its "
                        "other name are not seen or get lost: mount its folder instead (docker: -v "
                        "FOLDER:FOLDER in place of -v FILE:FILE)",
                        shown(path, text));
    return LEDGER_OK;
}

/* A bridge that runs waits until there is one name again, as it waits for a file that is gone. */
static ledger_rc fail_by_role(enum ldg_role role, ledger_rc rc, ledger_error *err)
{
    if (rc != LEDGER_OK && role != LDG_ROLE_USER)
        err->flags = LEDGER_ERROR_RETRY;
    return rc;
}

/* --- the calls ------------------------------------------------------------------------------- */

static ledger_rc keep_names(struct ldg_sqlite *s, const char *given, const char *path,
                            ledger_error *err)
{
    s->path = ldg_strdup(path);
    s->given = ldg_strdup(*given ? given : path);
    return s->path != NULL && s->given != NULL ? LEDGER_OK : ldg_fail_nomem(err);
}

ledger_rc ldg_sqlite_file_find(struct ldg_sqlite *s, const struct ldg_open *open, const char *name,
                               ledger_error *err)
{
    char path[PATH_MAX], given[PATH_MAX];
    struct stat st;
    ledger_rc rc = real_path(name, open, path, err);

    if (rc == LEDGER_OK)
        rc = check_kind(path, open, err);
    if (rc == LEDGER_OK && stat(path, &st) == 0)
        rc = fail_by_role(open->role, check_names(path, &st, err), err);
    if (rc == LEDGER_OK) {
        name_from_root(name, given);
        rc = keep_names(s, given, path, err);
    }
    return rc;
}

ledger_rc ldg_sqlite_file_of_connection(struct ldg_sqlite *s, const char *name, ledger_error *err)
{
    char path[PATH_MAX];
    struct stat st;
    ledger_rc rc = LEDGER_OK;

    if (!realpath(name, path))
        snprintf(path, sizeof(path), "%s", name);
    if (stat(path, &st) == 0)
        rc = check_names(path, &st, err);
    return rc == LEDGER_OK ? keep_names(s, "", path, err) : rc;
}

static ledger_rc fail_moved(const struct ldg_sqlite *s, const char *name, const char *what,
                            ledger_error *err)
{
    char text[SHOWN_MAX];

    ldg_fail(err, LEDGER_ERR_CONNECT, "%s %s; it has to be opened again", shown(name, text), what);
    if (s->role == LDG_ROLE_USER)
        err->flags = LEDGER_ERROR_FATAL; /* this handle will never see the other file */
    return LEDGER_ERR_CONNECT;
}

static bool find_wal(const struct ldg_sqlite *s, char wal[WAL_PATH_MAX], struct stat *st)
{
    snprintf(wal, WAL_PATH_MAX, "%s-wal", s->path);
    return stat(wal, st) == 0;
}

/* While a connection stands, SQLite itself never takes the WAL away that it has open; somebody did
 * who put a backup into the file, and what is written there now is not seen here. */
static ledger_rc check_wal(const struct ldg_sqlite *s, ledger_error *err)
{
    char wal[WAL_PATH_MAX];
    struct stat st;

    if (!s->has_wal ||
        (find_wal(s, wal, &st) && st.st_dev == s->wal_device && st.st_ino == s->wal_inode))
        return LEDGER_OK;
    return fail_moved(s, wal,
                      "was deleted or replaced while the database was open: somebody has put "
                      "another file in its place, or taken its WAL away",
                      err);
}

/* Handles of this process that have a WAL open. SQLite gives connections on one file one map of its
 * WAL, as long as any of them stands: one that is opened after the WAL was taken away would look
 * into the new WAL by the map of the old one. */
static pthread_mutex_t handles_lock = PTHREAD_MUTEX_INITIALIZER;
static struct ldg_sqlite *handles;

/* Before the first read. */
static ledger_rc check_handles(const struct ldg_sqlite *s, ledger_error *err)
{
    char wal[WAL_PATH_MAX], text[SHOWN_MAX];
    struct stat st = { 0 };
    bool is_there = find_wal(s, wal, &st), stale = false;

    pthread_mutex_lock(&handles_lock);
    for (const struct ldg_sqlite *other = handles; other != NULL; other = other->next) {
        if (other->device == s->device && other->inode == s->inode)
            stale = stale || !is_there || st.st_dev != other->wal_device ||
                    st.st_ino != other->wal_inode;
    }
    pthread_mutex_unlock(&handles_lock);
    if (!stale)
        return LEDGER_OK;
    ldg_fail(err, LEDGER_ERR_CONNECT,
             "%s was deleted or replaced while this process had the database open: somebody has "
             "put another file in its place, or taken its WAL away; start this process anew",
             shown(wal, text));
    err->flags = LEDGER_ERROR_FATAL;
    return LEDGER_ERR_CONNECT;
}

void ldg_sqlite_file_keep_wal(struct ldg_sqlite *s)
{
    char wal[WAL_PATH_MAX];
    struct stat st;

    if (s->path == NULL || !find_wal(s, wal, &st))
        return;
    s->has_wal = true;
    s->wal_device = st.st_dev;
    s->wal_inode = st.st_ino;
    pthread_mutex_lock(&handles_lock);
    s->next = handles;
    handles = s;
    pthread_mutex_unlock(&handles_lock);
}

void ldg_sqlite_file_forget(struct ldg_sqlite *s)
{
    pthread_mutex_lock(&handles_lock);
    for (struct ldg_sqlite **at = &handles; *at != NULL; at = &(*at)->next) {
        if (*at == s) {
            *at = s->next;
            break;
        }
    }
    pthread_mutex_unlock(&handles_lock);
    s->has_wal = false;
}

ledger_rc ldg_sqlite_file_verify(struct ldg_sqlite *s, bool at_once, ledger_error *err)
{
    struct stat st;
    int moved = 0;
    ledger_rc rc;

    if (s->given == NULL)
        return LEDGER_OK;
    if (!at_once && (!s->own_db || ldg_clock_mono_us() - s->verified_us < VERIFY_PAUSE_US))
        return LEDGER_OK;
    s->verified_us = ldg_clock_mono_us();
    if (stat(s->given, &st) != 0)
        return fail_moved(s, s->given,
                          errno == ENOENT ? "was deleted or renamed while it was open"
                                          : "cannot be reached any more by this name",
                          err);
    if (st.st_dev != s->device || st.st_ino != s->inode)
        return fail_moved(s, s->given,
                          "leads to another file now than to the one that is open: the file was "
                          "replaced, or a link in its path was changed",
                          err);
    /* The name may lead to it by another way, but the WAL lies beside the path it was opened by. */
    if (sqlite3_file_control(s->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK && moved)
        return fail_moved(s, s->path, "was deleted or replaced while it was open", err);
    rc = fail_by_role(s->role, check_names(s->path, &st, err), err);
    if (rc == LEDGER_OK)
        rc = check_wal(s, err);
    return rc;
}

ledger_rc ldg_sqlite_file_opened(struct ldg_sqlite *s, ledger_error *err)
{
    char path[PATH_MAX];
    struct stat st;

    if (s->path == NULL)
        return LEDGER_OK;
    /* A link that led to no file yet: SQLite has made the file that it leads to. */
    if (s->own_db && realpath(s->path, path) && strcmp(path, s->path) != 0) {
        char *copy = ldg_strdup(path);
        if (copy == NULL)
            return ldg_fail_nomem(err);
        ldg_free(s->path);
        s->path = copy;
    }
    if (stat(s->path, &st) == 0) {
        s->device = st.st_dev;
        s->inode = st.st_ino;
    }
    if (!s->own_db)
        return LEDGER_OK;
    ledger_rc rc = ldg_sqlite_file_verify(s, true, err);
    return rc == LEDGER_OK ? check_handles(s, err) : rc;
}

bool ldg_sqlite_file_may_grow(const struct ldg_sqlite *s, ledger_rc rc)
{
    struct stat st;
    if (s->path == NULL || stat(s->path, &st) != 0)
        return false;
    if (rc != LEDGER_ERR_CORRUPT && (rc != LEDGER_ERR_SCHEMA || st.st_size != 0))
        return false;
    int64_t age_us = ldg_clock_now_us() - (int64_t)st.st_mtim.tv_sec * 1000000;
    return age_us < YOUNG_US && age_us > -YOUNG_US;
}

/* --- check ----------------------------------------------------------------------------------- */

static const struct {
    unsigned long magic;
    const char *name;
} remote_systems[] = {
    { 0x6969, "NFS" },
    { 0x517b, "SMB" },
    { 0xff534d42, "CIFS" },
    { 0xfe534d42, "SMB2" },
    { 0x01021997, "9p" },
    { 0x65735546, "FUSE or virtiofs" },
    { 0x00c36400, "CephFS" },
    { 0x5346414f, "AFS" },
    { 0x6b414653, "kAFS" },
    { 0x73757245, "Coda" },
    { 0x0bd00bd0, "Lustre" },
    { 0x47504653, "GPFS" },
    { 0x786f4256, "shared folders of VirtualBox" },
    { 0xbacbacbc, "shared folders of VMware" },
};

const char *ldg_sqlite_file_remote(unsigned long magic)
{
    for (size_t i = 0; i < sizeof(remote_systems) / sizeof(remote_systems[0]); i++) {
        if (remote_systems[i].magic == magic)
            return remote_systems[i].name;
    }
    return NULL;
}

/* May this user write a file and its folder, where a journal or a WAL lies? 0, or the errno of
 * what keeps it from that; what: the one of the two. */
static int why_unwritable(const char *path, char *what, size_t size)
{
    const char *slash = strrchr(path, '/');
    int error = 0;

    snprintf(what, size, "%s", path);
    if (faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0)
        return errno;
    snprintf(what, size, "%.*s", slash != NULL ? (int)(slash - path) + 1 : 1,
             slash != NULL ? path : ".");
    if (faccessat(AT_FDCWD, what, W_OK | X_OK, AT_EACCESS) != 0)
        error = errno;
    return error;
}

static void check_writable(const char *path, ledger_finding_fn fn, void *fn_ctx)
{
    char what[PATH_MAX], text[PATH_MAX + 200];
    const int error = why_unwritable(path, what, sizeof(what));

    if (error == 0)
        return;
    snprintf(text, sizeof(text),
             error == EROFS
                 ? "%s lies on a file system that is mounted read-only, so nobody writes "
                   "here: mount -o remount,rw"
                 : "this user may not write to %s, so no program and no bridge of this "
                   "user can write here: chmod or chown it, and its folder",
             what);
    fn(fn_ctx, LEDGER_FINDING_WARNING, "file", text);
}

void ldg_sqlite_file_check(struct ldg_sqlite *s, ledger_finding_fn fn, void *fn_ctx)
{
    char text[160];
    struct statfs fs;
    ledger_error err = { 0 };
    ledger_rc rc;

    if (s->path == NULL) {
        fn(fn_ctx, LEDGER_FINDING_OK, "file", "a database in memory");
        return;
    }
    rc = ldg_sqlite_file_verify(s, true, &err);
    if (rc != LEDGER_OK)
        fn(fn_ctx, LEDGER_FINDING_ERROR, "file", err.message);
    else
        fn(fn_ctx, LEDGER_FINDING_OK, "file", s->path);
    check_writable(s->path, fn, fn_ctx);
    if (statfs(s->path, &fs) != 0)
        return;
    /* f_type is signed on some machines. */
    const char *remote = ldg_sqlite_file_remote((unsigned long)fs.f_type & 0xffffffffUL);
    if (remote != NULL) {
        snprintf(text, sizeof(text),
                 "it lies on a file system of %s: SQLite's locks and its WAL cannot be trusted "
                 "where several machines use it; keep it on a local disk",
                 remote);
        fn(fn_ctx, LEDGER_FINDING_WARNING, "file system", text);
    }
}
