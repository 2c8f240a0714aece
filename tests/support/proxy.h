/* A network that fails on purpose: a proxy in a thread between clients and one server, which can
 * cut, stall, delay and swallow what passes, also at a chosen byte. Any number of connections; what
 * is said here goes for all of them. Call from any thread. */
#ifndef TESTS_SUPPORT_PROXY_H
#define TESTS_SUPPORT_PROXY_H

#include <stdbool.h>
#include <stdint.h>

struct tst_proxy;

enum tst_proxy_way {
    TST_TO_SERVER = 1,
    TST_TO_CLIENT = 2,
    TST_BOTH_WAYS = 3,
};

enum tst_proxy_act {
    TST_PROXY_CUT,   /* both ends are reset; what came before has been passed on */
    TST_PROXY_STALL, /* nothing passes either way any more, and nobody is told */
};

/* Listens on 127.0.0.1. Server: path of its Unix socket, or NULL and a port of 127.0.0.1. */
struct tst_proxy *tst_proxy_start(const char *socket_path, int server_port);
void tst_proxy_destroy(struct tst_proxy **proxy);
int tst_proxy_port(const struct tst_proxy *proxy);
/* New connections go to that port (or socket) from now on. */
void tst_proxy_aim(struct tst_proxy *proxy, const char *socket_path, int server_port);

void tst_proxy_cut(struct tst_proxy *proxy); /* all connections, now */
/* New connections are cut at once. */
void tst_proxy_refuse(struct tst_proxy *proxy, bool refuse);
/* ways: nothing passes that way until it is set to 0 again; new connections are made but get no
 * answer. */
void tst_proxy_stall(struct tst_proxy *proxy, int ways);
/* Each piece is passed on so much later. */
void tst_proxy_delay(struct tst_proxy *proxy, int64_t delay_us);

/* Act once, on the connection that would pass the n-th byte from now that way (1 = the next): the
 * n - 1 before it are passed on. n 0: never. A connection stalled this way stays so until it is
 * released or cut. */
void tst_proxy_arm(struct tst_proxy *proxy, enum tst_proxy_way way, uint64_t n,
                   enum tst_proxy_act act);
void tst_proxy_release(struct tst_proxy *proxy);   /* all that were stalled at a byte */
bool tst_proxy_hit(const struct tst_proxy *proxy); /* since it was armed */
uint64_t tst_proxy_bytes(const struct tst_proxy *proxy, enum tst_proxy_way way); /* since armed */
unsigned tst_proxy_connections(const struct tst_proxy *proxy);                   /* open now */

#endif
