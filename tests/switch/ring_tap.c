/* A VM that is a network namespace: a port of a running switch, tied to a tap for the kernel's stack behind it.
 *
 *     ring_tap SOCKET NUMBER IF
 *
 * Makes the tap IF with the port's address 52:54:00:00:01:NUMBER for the caller to use, says "ready", runs until stdin
 * ends. */
#include <json-c/json.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/num.h"
#include "net/backend.h"
#include "net/ring.h"
#include "net/tap.h"
#include "proto/net_msg.h"
#include "sys/loop.h"

static void on_stdin(void *opaque, uint32_t events)
{
    char c;

    if (read(STDIN_FILENO, &c, 1) <= 0)
        loop_stop(opaque, 0);
}

/* What one end receives the other sends; who has no room is waited for. opaque: the other end. */
static bool pass(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct iovec iov = { (void *)(uintptr_t)frame, len };

    return net_backend_send(opaque, hdr, &iov, 1, len);
}

static void pass_done(void *opaque)
{
    net_backend_send_done(opaque);
}

static void pass_ready(void *opaque)
{
    net_backend_receive_ready(opaque);
}

static void tie(struct net_backend *a, struct net_backend *b)
{
    net_backend_connect(a, &(struct net_receiver){ pass, pass_done, pass_ready, b });
    net_backend_connect(b, &(struct net_receiver){ pass, pass_done, pass_ready, a });
    net_backend_set_receive_offloads(a, b->offloads);
    net_backend_set_receive_offloads(b, a->offloads);
}

static struct net_backend *attach(const char *path, uint8_t number, const uint8_t mac[6], struct loop *loop)
{
    struct net_msg_request r = { .op = NET_MSG_ATTACH };
    struct net_ring_config c = { .side = NET_RING_VM, .mtu = 1500 };
    struct net_backend *b;
    struct json_object *reply = NULL;
    struct err e = { 0 };
    int fds[NET_MSG_FDS_MAX], sock;
    unsigned n = 0;

    snprintf(r.attach.vm, sizeof(r.attach.vm), "vm%u", number);
    memcpy(r.attach.mac, mac, 6);
    if (net_msg_connect(path, &sock) < 0 || net_msg_call(sock, path, &r, NULL, 0, 10000, &reply, fds, &n, &e) < 0) {
        fprintf(stderr, "ring_tap: %s: %s\n", path, e.text);
        exit(1);
    }
    CHECK(n == NET_RING_FDS);
    c.fds = (struct net_ring_fds){ fds[0], fds[1], fds[2] };
    CHECK(net_ring_backend_new(&c, loop, &b) == 0);
    json_object_put(reply);
    close(sock);
    return b;
}

static void set_mac(const char *name, const uint8_t mac[6])
{
    struct ifreq ifr = { .ifr_hwaddr.sa_family = ARPHRD_ETHER };
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
    memcpy(ifr.ifr_hwaddr.sa_data, mac, 6);
    CHECK(ioctl(sock, SIOCSIFHWADDR, &ifr) == 0);
    close(sock);
}

int main(int argc, char **argv)
{
    uint8_t mac[6] = { 0x52, 0x54, 0, 0, 1 };
    struct net_backend *tap, *ring;
    struct loop *loop;
    struct loop_fd *src;
    enum net_tap_step step;
    uint64_t number;

    signal(SIGPIPE, SIG_IGN);
    if (argc != 4 || num_parse_u64(argv[2], 1, 255, &number) < 0)
        return 2;
    mac[5] = (uint8_t)number;
    CHECK(loop_new(&loop) == 0 && loop_fd_add(loop, STDIN_FILENO, EPOLLIN, on_stdin, loop, &src) == 0);
    CHECK(net_tap_new(&(struct net_tap_config){ .name = argv[3], .create = true }, loop, &step, &tap) == 0);
    set_mac(argv[3], mac);
    ring = attach(argv[1], mac[5], mac, loop);
    tie(tap, ring);
    puts("ready");
    fflush(stdout);
    CHECK(loop_run(loop) == 0);
    net_backend_close(tap);
    net_backend_close(ring);
    loop_fd_free(src);
    loop_free(loop);
    return 0;
}
