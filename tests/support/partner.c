/* Partners of tests: see partner.h. */
#include "partner.h"

#include "fixtures.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PARTNERS_MAX 16
#define START_US (60 * 1000000LL)

static struct tst_partner *partners[PARTNERS_MAX];
static pid_t owner; /* who has to clean up: not a child that we forked */

static void forget(size_t slot)
{
    if (partners[slot]->pid != 0) {
        (void)kill(partners[slot]->pid, SIGKILL); /* its data goes with it */
        (void)tst_reap(&partners[slot]->pid, START_US);
    }
    tst_folder_remove(partners[slot]->dir);
    free(partners[slot]);
    partners[slot] = NULL;
}

static void clean_up(void)
{
    for (size_t i = 0; i < PARTNERS_MAX && owner == getpid(); i++)
        if (partners[i] != NULL)
            forget(i);
}

struct tst_partner *tst_partner_make(const char *name)
{
    struct tst_partner *partner = calloc(1, sizeof *partner);
    size_t slot = 0;
    assert_non_null(partner);
    if (owner != getpid()) {
        owner = getpid();
        assert_int_equal(atexit(clean_up), 0);
    }
    tst_folder_make(name, partner->dir);
    while (slot < PARTNERS_MAX && partners[slot] != NULL)
        slot++;
    assert_true(slot < PARTNERS_MAX);
    partners[slot] = partner;
    return partner;
}

/* In the child. */
static void become(const struct tst_partner *partner, const char *const *args, pid_t parent)
{
    char path[300];
    int log;
    snprintf(path, sizeof path, "%s/log", partner->dir);
    log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
        _exit(126);
    if (chdir(partner->dir) != 0)
        _exit(125);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
        _exit(124);
    execv(args[0], (char *const *)(uintptr_t)args);
    _exit(127);
}

static bool takes_connections(const struct tst_partner *partner)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)partner->port) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool taken;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    taken = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    return taken;
}

static bool is_ready(struct tst_partner *partner)
{
    char *text;
    if (partner->port != 0)
        return takes_connections(partner);
    text = tst_partner_get(partner, "port");
    if (text == NULL)
        return false;
    partner->port = (int)strtol(text, NULL, 10);
    free(text);
    assert_true(partner->port > 0);
    return true;
}

void tst_partner_run(struct tst_partner *partner, const char *const *args)
{
    int64_t end = tst_mono_us() + tst_slow(START_US);
    pid_t parent = getpid();
    assert_int_equal(partner->pid, 0);
    partner->pid = fork();
    assert_true(partner->pid >= 0);
    if (partner->pid == 0)
        become(partner, args, parent);
    while (!is_ready(partner)) {
        int status;
        if (waitpid(partner->pid, &status, WNOHANG) == partner->pid) {
            partner->pid = 0;
            tst_partner_show_logs();
            tst_fail("%s has ended while it was starting, status %d", args[0], status);
        }
        if (tst_mono_us() > end) {
            tst_partner_show_logs();
            tst_fail("%s does not take connections", args[0]);
        }
        tst_sleep_us(2000);
    }
}

void tst_partner_stop(struct tst_partner *partner, int signal)
{
    assert_true(partner->pid > 0);
    (void)kill(partner->pid, signal);
    if (!tst_reap(&partner->pid, tst_slow(START_US)))
        tst_fail("the partner in %s does not stop", partner->dir);
    tst_hold_port(partner->port); /* it comes back to it */
}

void tst_partner_destroy(struct tst_partner **partner)
{
    for (size_t i = 0; i < PARTNERS_MAX; i++)
        if (*partner != NULL && partners[i] == *partner)
            forget(i);
    *partner = NULL;
}

/* --- files ------------------------------------------------------------------------------------
 */

void tst_partner_put(const struct tst_partner *partner, const char *name, const char *text)
{
    char path[300], whole[300];
    FILE *file;
    snprintf(path, sizeof path, "%s/%s.new", partner->dir, name);
    snprintf(whole, sizeof whole, "%s/%s", partner->dir, name);
    file = fopen(path, "we");
    if (file == NULL)
        tst_fail("%s: %s", path, strerror(errno));
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(rename(path, whole), 0);
}

char *tst_partner_get(const struct tst_partner *partner, const char *name)
{
    char path[300], *text;
    long size;
    FILE *file;
    snprintf(path, sizeof path, "%s/%s", partner->dir, name);
    file = fopen(path, "re");
    if (file == NULL)
        return NULL;
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    size = ftell(file);
    assert_true(size >= 0);
    rewind(file);
    text = malloc((size_t)size + 1);
    assert_non_null(text);
    text[fread(text, 1, (size_t)size, file)] = '\0';
    fclose(file);
    return text;
}

void tst_partner_show_logs(void)
{
    for (size_t i = 0; i < PARTNERS_MAX && owner == getpid(); i++)
        if (partners[i] != NULL)
            tst_show_log(partners[i]->dir);
}

/* --- what is here -----------------------------------------------------------------------------
 */

const char *tst_source_root(void)
{
    return TST_SOURCE_ROOT;
}

const char *tst_partner_place(const char *variable, const char *name)
{
    static char path[500];
    const char *named = getenv(variable);
    if (named != NULL && named[0] != '\0')
        return named;
    snprintf(path, sizeof path, "%s/build-partners/%s", tst_source_root(), name);
    return path;
}

void tst_skip(const char *why)
{
    print_message("%s\n", why);
    skip();
}
