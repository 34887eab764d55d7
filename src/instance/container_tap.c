/* The network namespace of a container with its interface. A child makes it, since a process that is root of a user
 * namespace only could leave its network namespace but not come back. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "instance/container_priv.h"

#define TAP_INTERFACE "eth0"

enum tap_step { TAP_NAMESPACE, TAP_DEVICE, TAP_ATTACH, TAP_CONFIGURE, TAP_ADDRESS, TAP_DONE };

/* What the child says; with TAP_DONE and fds: namespace and tap. */
struct tap_report {
    enum tap_step step;
    int error;
};

/* ---- in the child ---- */

static int tap_set_up(int sock, const char *name)
{
    struct ifreq ifr = { 0 };

    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
    if (ioctl(sock, SIOCGIFFLAGS, &ifr) < 0)
        return -errno;
    ifr.ifr_flags |= IFF_UP | IFF_RUNNING;
    return ioctl(sock, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
}

static int tap_configure(int sock, const uint8_t mac[6], unsigned mtu)
{
    struct ifreq ifr = { .ifr_name = TAP_INTERFACE };
    int r = tap_set_up(sock, "lo");

    ifr.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(ifr.ifr_hwaddr.sa_data, mac, 6);
    if (r == 0 && ioctl(sock, SIOCSIFHWADDR, &ifr) < 0)
        r = -errno;
    ifr.ifr_mtu = (int)mtu;
    if (r == 0 && ioctl(sock, SIOCSIFMTU, &ifr) < 0)
        r = -errno;
    return r;
}

static struct sockaddr tap_sockaddr(uint32_t addr)
{
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr = { htonl(addr) } };
    struct sockaddr out;

    memcpy(&out, &in, sizeof(out));
    return out;
}

static int tap_address(int sock, const struct container_net *net)
{
    struct ifreq ifr = { .ifr_name = TAP_INTERFACE };
    struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY,
                             .rt_dst = tap_sockaddr(0),
                             .rt_genmask = tap_sockaddr(0) };
    int r = 0;

    if (net->ip) {
        ifr.ifr_addr = tap_sockaddr(net->ip);
        if (ioctl(sock, SIOCSIFADDR, &ifr) < 0)
            return -errno;
        ifr.ifr_netmask = tap_sockaddr(addr_mask4(net->prefix));
        if (ioctl(sock, SIOCSIFNETMASK, &ifr) < 0)
            return -errno;
    }
    r = tap_set_up(sock, TAP_INTERFACE);
    if (r == 0 && net->ip && net->gateway) {
        route.rt_gateway = tap_sockaddr(net->gateway);
        r = ioctl(sock, SIOCADDRT, &route) < 0 ? -errno : 0;
    }
    return r;
}

static int tap_send(int sock, enum tap_step step, int error, const int fds[2])
{
    struct tap_report report = { step, error };
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(2 * sizeof(int))];
    } control = { 0 };
    struct iovec iov = { &report, sizeof(report) };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (fds) {
        m.msg_control = &control;
        m.msg_controllen = sizeof(control);
        control.head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(2 * sizeof(int)),
                                         .cmsg_level = SOL_SOCKET,
                                         .cmsg_type = SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.head), fds, 2 * sizeof(int));
    }
    return sendmsg(sock, &m, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* fds: namespace and tap. */
static int tap_make(const uint8_t mac[6], unsigned mtu, int ret_fds[2], int *ret_sock, enum tap_step *ret_step)
{
    struct ifreq ifr = { .ifr_name = TAP_INTERFACE, .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };

    *ret_step = TAP_NAMESPACE;
    if (unshare(CLONE_NEWNET) < 0)
        return -errno;
    ret_fds[0] = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    *ret_sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (ret_fds[0] < 0 || *ret_sock < 0)
        return -errno;
    *ret_step = TAP_DEVICE;
    ret_fds[1] = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (ret_fds[1] < 0)
        return -errno;
    *ret_step = TAP_ATTACH;
    if (ioctl(ret_fds[1], TUNSETIFF, &ifr) < 0)
        return -errno;
    *ret_step = TAP_CONFIGURE;
    return tap_configure(*ret_sock, mac, mtu);
}

static _Noreturn void tap_child(int sock, const uint8_t mac[6], unsigned mtu)
{
    int fds[2] = { -1, -1 }, inet = -1;
    enum tap_step step;
    struct container_net net;
    int r = tap_make(mac, mtu, fds, &inet, &step);

    if (r == 0)
        r = tap_send(sock, TAP_DONE, 0, fds);
    else
        r = tap_send(sock, step, -r, NULL) < 0 ? -EIO : r;
    /* Nothing comes where the parent gave up. */
    if (r == 0 && recv(sock, &net, sizeof(net), 0) == (ssize_t)sizeof(net)) {
        r = tap_address(inet, &net);
        r = tap_send(sock, r < 0 ? TAP_ADDRESS : TAP_DONE, -r, NULL);
    }
    _exit(r < 0);
}

/* ---- in the parent ---- */

static int tap_failed(const struct tap_report *t, struct err *e)
{
    const char *why = strerror(t->error);

    switch (t->step) {
    case TAP_NAMESPACE:
        return err_set(e, t->error, "cannot make a network namespace: %s; use --network host", why);
    case TAP_DEVICE:
        if (t->error == EACCES || t->error == EPERM)
            return err_set(e, t->error,
                           "no right to /dev/net/tun; as root: chmod 666 /dev/net/tun, or use --network none or host");
        return err_set(e, t->error, "cannot open /dev/net/tun: %s; load the kernel module tun", why);
    case TAP_ATTACH:
        return err_set(e, t->error, "cannot make the container's network interface: %s; use --network none or host",
                       why);
    default:
        return err_set(e, t->error, "cannot set up the container's network interface: %s", why);
    }
}

/* ret_fds: NULL where none should come. */
static int tap_receive(int sock, int *ret_fds, struct err *e)
{
    struct tap_report report;
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(2 * sizeof(int))];
    } control;
    struct iovec iov = { &report, sizeof(report) };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
    const struct cmsghdr *c;
    ssize_t n;

    do
        n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof(report))
        return err_set(e, EIO, "the process that makes the container's network ended early");
    if (report.step != TAP_DONE)
        return tap_failed(&report, e);
    c = CMSG_FIRSTHDR(&m);
    if (ret_fds && (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(2 * sizeof(int))))
        return err_set(e, EMFILE, "the container's network cannot be had: too many open files");
    if (ret_fds)
        memcpy(ret_fds, CMSG_DATA(c), 2 * sizeof(int));
    return 0;
}

int container_tap_open(const uint8_t mac[6], unsigned mtu, struct container_tap *ret_tap, struct err *e)
{
    int pair[2], fds[2], r;
    struct container_tap t = { .sock = -1, .netns = -1, .tap = -1 };

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(e, errno, "cannot make the container's network: %s", strerror(errno));
    t.pid = fork();
    if (t.pid == 0) {
        close(pair[0]);
        tap_child(pair[1], mac, mtu);
    }
    t.sock = pair[0];
    close(pair[1]);
    r = t.pid < 0 ? err_set(e, EAGAIN, "cannot make the container's network: no more processes")
                  : tap_receive(t.sock, fds, e);
    if (r < 0) {
        container_tap_done(&t);
        return r;
    }
    t.netns = fds[0];
    t.tap = fds[1];
    *ret_tap = t;
    return 0;
}

int container_tap_finish(struct container_tap *t, const struct container_net *net, struct err *e)
{
    if (send(t->sock, net, sizeof(*net), MSG_NOSIGNAL) < 0)
        return err_set(e, errno, "the process that makes the container's network ended early");
    return tap_receive(t->sock, NULL, e);
}

void container_tap_done(struct container_tap *t)
{
    base_closep(&t->sock);
    base_closep(&t->netns);
    base_closep(&t->tap);
    while (t->pid > 0 && waitpid(t->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    *t = (struct container_tap){ .sock = -1, .netns = -1, .tap = -1 };
}
