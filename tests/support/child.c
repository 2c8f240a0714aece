/* Programs that tests start: see child.h. */
#include "child.h"

#include "fixtures.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOG_LINES 12

void tst_folder_make(const char *name, char dir[TST_FOLDER_MAX])
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, TST_FOLDER_MAX, "%s/ledger-%s-XXXXXX", tmp != NULL ? tmp : "/tmp", name);
    if (mkdtemp(dir) == NULL)
        tst_fail("cannot make a folder %s: %s", dir, strerror(errno));
}

void tst_folder_remove(const char *dir)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-rf", "--", dir, (char *)NULL);
        _exit(127);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
}

void tst_show_log(const char *dir)
{
    char path[TST_FOLDER_MAX + 8], text[8192];
    int lines = LOG_LINES;
    size_t size, start;
    FILE *file;
    snprintf(path, sizeof path, "%s/log", dir);
    file = fopen(path, "re");
    if (file == NULL)
        return;
    if (fseek(file, -(long)(sizeof text - 1), SEEK_END) != 0)
        rewind(file);
    size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = '\0';
    for (start = size; start > 0 && lines >= 0; start--)
        if (text[start - 1] == '\n' && lines-- == 0)
            break;
    if (size > 0)
        fprintf(stderr, "the end of the log in %s:\n%s", dir, text + start);
}

/* The socket stays open, and does not listen: so the kernel gives the port to no one who asks for
 * any, and to no connection. */
static int hold_port(int port)
{
    const int one = 1;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one), 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    return ntohs(address.sin_port);
}

int tst_free_port(void)
{
    return hold_port(0);
}

void tst_hold_port(int port)
{
    (void)hold_port(port);
}

bool tst_reap(pid_t *pid, int64_t wait_us)
{
    int64_t end = tst_mono_us() + wait_us;
    while (*pid != 0) {
        int status;
        pid_t rc = waitpid(*pid, &status, WNOHANG);
        if (rc == *pid || (rc < 0 && errno == ECHILD))
            *pid = 0;
        else if (tst_mono_us() >= end)
            return false;
        else
            tst_sleep_us(1000);
    }
    return true;
}
