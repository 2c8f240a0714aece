/* A failing network: see proxy.h. One thread moves bytes between pairs of sockets; everything it
 * looks at is under one lock, and a pipe wakes it when something was changed. */
#include "proxy.h"

#include "fixtures.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LINKS_MAX 64
#define PIECE 16384
#define QUEUE_MAX ((size_t)1 << 20) /* then the sender has to wait */

struct piece {
    struct piece *next;
    int64_t due_us;
    size_t start, end;
    char data[PIECE];
};

/* One way of one connection. */
struct lane {
    struct piece *first, *last;
    size_t queued;
    bool ended; /* the sender has finished; told to the receiver once the queue is empty */
    bool told;
};

struct link {
    int client, server;   /* -1: free */
    struct lane lanes[2]; /* to the server, to the client */
    bool stalled;
};

struct tst_proxy {
    pthread_t thread;
    pthread_mutex_t mutex;
    struct link links[LINKS_MAX];
    int listener, wake[2], port;
    char socket_path[108];
    int server_port;
    bool stop, refuse;
    int stalled;
    int64_t delay_us;
    uint64_t bytes[2]; /* since armed */
    uint64_t armed_at[2];
    enum tst_proxy_act armed_act[2];
    bool hit;
};

static void reset_socket(int fd)
{
    const struct linger hard = { 1, 0 };
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
}

static void drop(struct link *link)
{
    for (int way = 0; way < 2; way++) {
        struct lane *lane = &link->lanes[way];
        while (lane->first != NULL) {
            struct piece *next = lane->first->next;
            free(lane->first);
            lane->first = next;
        }
    }
    reset_socket(link->client);
    reset_socket(link->server);
    memset(link, 0, sizeof *link);
    link->client = link->server = -1;
}

static int connect_server(const struct tst_proxy *p)
{
    int fd;
    if (p->socket_path[0] != '\0') {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        memcpy(address.sun_path, p->socket_path, sizeof address.sun_path);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
            return fd;
    } else {
        struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_port = htons((uint16_t)p->server_port) };
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
            return fd;
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

static void unblock(int fd)
{
    const int one = 1;
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* not on a Unix socket */
}

static void take_connection(struct tst_proxy *p)
{
    int client = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
    int server;
    struct link *link = p->links;
    if (client < 0)
        return;
    while (link < p->links + LINKS_MAX && link->client >= 0)
        link++;
    server = p->refuse || link == p->links + LINKS_MAX ? -1 : connect_server(p);
    if (server < 0) {
        reset_socket(client);
        return;
    }
    unblock(client);
    unblock(server);
    memset(link, 0, sizeof *link);
    link->client = client;
    link->server = server;
}

/* How many of these bytes may pass; *ret_act says what to do behind them. */
static size_t check_arm(struct tst_proxy *p, int way, size_t size, bool *ret_act)
{
    uint64_t at = p->armed_at[way];
    *ret_act = at != 0 && p->bytes[way] + size >= at;
    if (*ret_act) {
        size = (size_t)(at - 1 - p->bytes[way]);
        p->armed_at[way] = 0;
        p->hit = true;
    }
    p->bytes[way] += size;
    return size;
}

/* False: the connection is gone. */
static bool receive(struct tst_proxy *p, struct link *link, int way)
{
    struct lane *lane = &link->lanes[way];
    int from = way == 0 ? link->client : link->server;
    int to = way == 0 ? link->server : link->client;
    struct piece *piece = malloc(sizeof *piece);
    ssize_t n;
    bool act;
    size_t pass;
    if (piece == NULL)
        abort();
    n = recv(from, piece->data, sizeof piece->data, 0);
    if (n <= 0) {
        free(piece);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return true;
        if (n < 0) {
            drop(link);
            return false;
        }
        lane->ended = true;
        return true;
    }
    pass = check_arm(p, way, (size_t)n, &act);
    piece->next = NULL;
    piece->start = 0;
    piece->end = (size_t)n;
    piece->due_us = tst_mono_us() + p->delay_us;
    if (lane->first == NULL)
        lane->first = piece;
    else
        lane->last->next = piece;
    lane->last = piece;
    lane->queued += (size_t)n;
    if (!act)
        return true;
    /* What is before the byte has to arrive: closing with a reset would throw it away. */
    if (lane->first == piece)
        while (piece->start < pass &&
               (n = send(to, piece->data + piece->start, pass - piece->start, MSG_NOSIGNAL)) > 0) {
            piece->start += (size_t)n;
            lane->queued -= (size_t)n;
        }
    if (p->armed_act[way] == TST_PROXY_STALL) {
        link->stalled = true;
        return true;
    }
    (void)shutdown(to, SHUT_WR);
    tst_sleep_us(2000);
    drop(link);
    return false;
}

static bool deliver(struct link *link, int way)
{
    struct lane *lane = &link->lanes[way];
    int to = way == 0 ? link->server : link->client;
    while (lane->first != NULL && lane->first->due_us <= tst_mono_us()) {
        struct piece *piece = lane->first;
        if (piece->start < piece->end) {
            ssize_t n =
                send(to, piece->data + piece->start, piece->end - piece->start, MSG_NOSIGNAL);
            if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return true;
            if (n < 0) {
                drop(link);
                return false;
            }
            piece->start += (size_t)n;
            lane->queued -= (size_t)n;
        }
        if (piece->start == piece->end) {
            lane->first = piece->next;
            free(piece);
        }
    }
    if (lane->ended && !lane->told && lane->first == NULL) {
        (void)shutdown(to, SHUT_WR);
        lane->told = true;
        if (link->lanes[0].told && link->lanes[1].told) {
            drop(link);
            return false;
        }
    }
    return true;
}

/* When the first waiting piece is due: into *timeout_us. */
static short events_of(const struct tst_proxy *p, const struct link *link, bool client,
                       int64_t *timeout_us)
{
    const struct lane *in = &link->lanes[client ? 0 : 1], *out = &link->lanes[client ? 1 : 0];
    int in_way = client ? TST_TO_SERVER : TST_TO_CLIENT;
    int out_way = client ? TST_TO_CLIENT : TST_TO_SERVER;
    short events = 0;
    if (link->stalled)
        return 0;
    if (!in->ended && in->queued < QUEUE_MAX && !(p->stalled & in_way))
        events |= POLLIN;
    if (out->first != NULL && !(p->stalled & out_way)) {
        int64_t wait = out->first->due_us - tst_mono_us();
        if (wait <= 0)
            events |= POLLOUT;
        else if (wait < *timeout_us)
            *timeout_us = wait;
    }
    return events;
}

static void move_bytes(struct tst_proxy *p, struct link *link, short client, short server)
{
    if (link->client < 0)
        return;
    if (link->stalled || p->stalled == TST_BOTH_WAYS)
        return;
    if ((client & (POLLIN | POLLHUP | POLLERR)) && !link->lanes[0].ended &&
        !(p->stalled & TST_TO_SERVER) && !receive(p, link, 0))
        return;
    if ((server & (POLLIN | POLLHUP | POLLERR)) && !link->lanes[1].ended &&
        !(p->stalled & TST_TO_CLIENT) && !receive(p, link, 1))
        return;
    for (int way = 0; way < 2 && !link->stalled; way++)
        if (!(p->stalled & (way == 0 ? TST_TO_SERVER : TST_TO_CLIENT)) && !deliver(link, way))
            return;
}

/* A socket that nobody wants anything of is left out: that its peer has gone would be reported
 * again and again. */
static struct pollfd pollfd_of(const struct tst_proxy *p, const struct link *link, bool client,
                               int64_t *timeout_us)
{
    short events = link->client < 0 ? 0 : events_of(p, link, client, timeout_us);
    return (struct pollfd){
        .fd = events == 0 ? -1
              : client    ? link->client
                          : link->server,
        .events = events,
    };
}

static void *run(void *arg)
{
    struct tst_proxy *p = arg;
    (void)pthread_mutex_lock(&p->mutex);
    while (!p->stop) {
        struct pollfd fds[2 + 2 * LINKS_MAX];
        int64_t timeout_us = 1000000;
        char drain[64];
        int ready;
        fds[0] = (struct pollfd){ .fd = p->wake[0], .events = POLLIN };
        fds[1] = (struct pollfd){ .fd = p->listener, .events = POLLIN };
        for (int i = 0; i < LINKS_MAX; i++) {
            fds[2 + 2 * i] = pollfd_of(p, &p->links[i], true, &timeout_us);
            fds[3 + 2 * i] = pollfd_of(p, &p->links[i], false, &timeout_us);
        }
        (void)pthread_mutex_unlock(&p->mutex);
        ready = poll(fds, sizeof fds / sizeof fds[0], (int)((timeout_us + 999) / 1000));
        (void)pthread_mutex_lock(&p->mutex);
        if (ready < 0)
            continue;
        if (fds[0].revents)
            (void)!read(p->wake[0], drain, sizeof drain);
        for (int i = 0; i < LINKS_MAX; i++)
            move_bytes(p, &p->links[i], fds[2 + 2 * i].revents, fds[3 + 2 * i].revents);
        if (fds[1].revents)
            take_connection(p);
    }
    for (int i = 0; i < LINKS_MAX; i++)
        if (p->links[i].client >= 0)
            drop(&p->links[i]);
    (void)pthread_mutex_unlock(&p->mutex);
    return NULL;
}

/* --- from outside ------------------------------------------------------------------------------
 */

static void lock(const struct tst_proxy *p)
{
    (void)pthread_mutex_lock((pthread_mutex_t *)(uintptr_t)&p->mutex);
}

static void unlock(const struct tst_proxy *p)
{
    (void)pthread_mutex_unlock((pthread_mutex_t *)(uintptr_t)&p->mutex);
}

static void unlock_and_wake(struct tst_proxy *p)
{
    (void)!write(p->wake[1], "", 1);
    unlock(p);
}

static void aim(struct tst_proxy *p, const char *socket_path, int server_port)
{
    memset(p->socket_path, 0, sizeof p->socket_path);
    if (socket_path != NULL)
        snprintf(p->socket_path, sizeof p->socket_path, "%s", socket_path);
    p->server_port = server_port;
}

struct tst_proxy *tst_proxy_start(const char *socket_path, int server_port)
{
    struct tst_proxy *p = calloc(1, sizeof *p);
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_non_null(p);
    for (int i = 0; i < LINKS_MAX; i++)
        p->links[i].client = p->links[i].server = -1;
    aim(p, socket_path, server_port);
    assert_int_equal(pipe2(p->wake, O_CLOEXEC | O_NONBLOCK), 0);
    p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(p->listener >= 0);
    assert_int_equal(bind(p->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(p->listener, (struct sockaddr *)&address, &size), 0);
    assert_int_equal(listen(p->listener, 64), 0);
    p->port = ntohs(address.sin_port);
    assert_int_equal(pthread_mutex_init(&p->mutex, NULL), 0);
    assert_int_equal(pthread_create(&p->thread, NULL, run, p), 0);
    return p;
}

void tst_proxy_destroy(struct tst_proxy **proxy)
{
    struct tst_proxy *p = *proxy;
    if (p == NULL)
        return;
    lock(p);
    p->stop = true;
    unlock_and_wake(p);
    assert_int_equal(pthread_join(p->thread, NULL), 0);
    close(p->listener);
    close(p->wake[0]);
    close(p->wake[1]);
    (void)pthread_mutex_destroy(&p->mutex);
    free(p);
    *proxy = NULL;
}

int tst_proxy_port(const struct tst_proxy *proxy)
{
    return proxy->port;
}

void tst_proxy_aim(struct tst_proxy *proxy, const char *socket_path, int server_port)
{
    lock(proxy);
    aim(proxy, socket_path, server_port);
    unlock(proxy);
}

void tst_proxy_cut(struct tst_proxy *proxy)
{
    lock(proxy);
    for (int i = 0; i < LINKS_MAX; i++)
        if (proxy->links[i].client >= 0)
            drop(&proxy->links[i]);
    unlock_and_wake(proxy);
}

void tst_proxy_refuse(struct tst_proxy *proxy, bool refuse)
{
    lock(proxy);
    proxy->refuse = refuse;
    unlock_and_wake(proxy);
}

void tst_proxy_stall(struct tst_proxy *proxy, int ways)
{
    lock(proxy);
    proxy->stalled = ways;
    unlock_and_wake(proxy);
}

void tst_proxy_release(struct tst_proxy *proxy)
{
    lock(proxy);
    for (int i = 0; i < LINKS_MAX; i++)
        proxy->links[i].stalled = false;
    unlock_and_wake(proxy);
}

void tst_proxy_delay(struct tst_proxy *proxy, int64_t delay_us)
{
    lock(proxy);
    proxy->delay_us = delay_us;
    unlock_and_wake(proxy);
}

void tst_proxy_arm(struct tst_proxy *proxy, enum tst_proxy_way way, uint64_t n,
                   enum tst_proxy_act act)
{
    lock(proxy);
    for (int i = 0; i < 2; i++) {
        proxy->bytes[i] = 0;
        proxy->armed_at[i] = ((unsigned)way & (1U << i)) ? n : 0;
        proxy->armed_act[i] = act;
    }
    proxy->hit = false;
    unlock(proxy);
}

bool tst_proxy_hit(const struct tst_proxy *proxy)
{
    bool hit;
    lock(proxy);
    hit = proxy->hit;
    unlock(proxy);
    return hit;
}

uint64_t tst_proxy_bytes(const struct tst_proxy *proxy, enum tst_proxy_way way)
{
    uint64_t bytes;
    lock(proxy);
    bytes =
        (way & TST_TO_SERVER ? proxy->bytes[0] : 0) + (way & TST_TO_CLIENT ? proxy->bytes[1] : 0);
    unlock(proxy);
    return bytes;
}

unsigned tst_proxy_connections(const struct tst_proxy *proxy)
{
    unsigned count = 0;
    lock(proxy);
    for (int i = 0; i < LINKS_MAX; i++)
        count += proxy->links[i].client >= 0;
    unlock(proxy);
    return count;
}
