/* Tap devices. The kernel speaks struct virtio_net_hdr, of which struct net_hdr is the beginning. */
#include "net/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "net/backend.h"
#include "sys/loop.h"

enum {
    NET_TAP_BUDGET = 128, /* frames in one go */
    NET_TAP_USO = 0x60,   /* TUN_F_USO4 | TUN_F_USO6, younger than Debian's headers */
};
_Static_assert(sizeof(struct net_hdr) == 10, "the kernel's struct virtio_net_hdr");
_Static_assert(NET_TAP_NAME_MAX == IFNAMSIZ - 1, "names of interfaces");

struct net_tap {
    struct net_backend base;
    int fd;
    struct loop_fd *src;
    uint32_t watched; /* EPOLL* */
    bool blocked;     /* send said no */
    bool pending;     /* buffer holds a frame that the receiver had no room for */
    bool uso;         /* the kernel knows UDP segmentation */
    size_t len;       /* of that frame, with its header */
    char name[IFNAMSIZ];
    uint8_t buffer[sizeof(struct net_hdr) + NET_FRAME_MAX + 1];
};

/* Watch for what matters now. */
static void net_tap_watch(struct net_tap *t)
{
    uint32_t events = (t->pending ? 0u : EPOLLIN) | (t->blocked ? EPOLLOUT : 0u);

    if (!t->src || events == t->watched)
        return;
    if (loop_fd_set(t->src, events) == 0)
        t->watched = events;
}

/* ---- from the kernel ---- */

/* Offer the frame in the buffer. False: it is still there. */
static bool net_tap_offer(struct net_tap *t)
{
    struct net_hdr hdr;

    memcpy(&hdr, t->buffer, sizeof(hdr));
    t->pending = !net_backend_deliver(&t->base, &hdr, t->buffer + sizeof(hdr), t->len - sizeof(hdr));
    return !t->pending;
}

static void net_tap_consume(struct net_tap *t)
{
    for (unsigned i = 0; i < NET_TAP_BUDGET; i++) {
        ssize_t n = read(t->fd, t->buffer, sizeof(t->buffer));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break; /* nothing there, or the interface is down */
        if (n < (ssize_t)(sizeof(struct net_hdr) + NET_HEADER) || n == sizeof(t->buffer))
            continue; /* shorter or longer than a frame */
        t->len = (size_t)n;
        if (!net_tap_offer(t))
            break;
    }
    net_backend_deliver_done(&t->base);
}

static void net_tap_event(void *opaque, uint32_t events)
{
    struct net_tap *t = opaque;

    if (events & EPOLLERR) { /* the interface was removed */
        log_debug("net: tap %s is gone", t->name);
        loop_fd_free(t->src);
        t->src = NULL;
        return;
    }
    if (events & EPOLLOUT && t->blocked) {
        t->blocked = false;
        net_backend_send_ready(&t->base);
    }
    if (events & EPOLLIN && !t->pending)
        net_tap_consume(t);
    net_tap_watch(t);
}

static void net_tap_receive_ready(struct net_backend *b)
{
    struct net_tap *t = (struct net_tap *)b;

    if (!t->pending || !net_tap_offer(t))
        return;
    net_backend_deliver_done(b);
    net_tap_watch(t);
}

/* ---- to the kernel ---- */

static bool net_tap_send(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov,
                         size_t len)
{
    struct net_tap *t = (struct net_tap *)b;
    struct iovec all[NET_IOV_MAX + 1];
    ssize_t n;

    all[0] = (struct iovec){ .iov_base = (void *)(uintptr_t)hdr, .iov_len = sizeof(*hdr) };
    memcpy(all + 1, iov, n_iov * sizeof(*iov));
    do {
        n = writev(t->fd, all, (int)n_iov + 1);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN) {
        t->blocked = true;
        net_tap_watch(t);
        return false;
    }
    return true; /* an interface that is down loses frames, as a cable that is out */
}

static void net_tap_send_done(struct net_backend *b)
{
}

static void net_tap_set_receive_offloads(struct net_backend *b, unsigned offloads)
{
    struct net_tap *t = (struct net_tap *)b;
    unsigned long flags = 0;

    if (offloads & NET_OFF_CSUM) {
        flags = TUN_F_CSUM;
        flags |= offloads & NET_OFF_TSO4 ? TUN_F_TSO4 : 0;
        flags |= offloads & NET_OFF_TSO6 ? TUN_F_TSO6 : 0;
        if (offloads & NET_OFF_ECN && offloads & (NET_OFF_TSO4 | NET_OFF_TSO6))
            flags |= TUN_F_TSO_ECN;
        flags |= offloads & NET_OFF_USO && t->uso ? NET_TAP_USO : 0;
    }
    /* What the kernel sends nevertheless is finished by net_backend_deliver. */
    if (ioctl(t->fd, TUNSETOFFLOAD, flags) < 0)
        log_debug("net: tap %s: TUNSETOFFLOAD: %m", t->name);
}

static void net_tap_close(struct net_backend *b)
{
    struct net_tap *t = (struct net_tap *)b;

    loop_fd_free(t->src);
    if (t->fd >= 0)
        close(t->fd);
    free(t);
}

static const struct net_backend_ops net_tap_ops = {
    .name = "tap",
    .send = net_tap_send,
    .send_done = net_tap_send_done,
    .receive_ready = net_tap_receive_ready,
    .set_receive_offloads = net_tap_set_receive_offloads,
    .close = net_tap_close,
};

/* ---- opening ---- */

static int net_tap_ioctl(int fd, unsigned long request, void *arg)
{
    return ioctl(fd, request, arg) < 0 ? -errno : 0;
}

static int net_tap_attach(struct net_tap *t, const struct net_tap_config *config)
{
    struct ifreq ifr = { 0 };
    bool there = config->name[0] && if_nametoindex(config->name) > 0;
    int r;

    if (strlen(config->name) >= IFNAMSIZ || (!config->create && !config->name[0]))
        return -EINVAL;
    if (!config->create && !there)
        return -ENODEV;
    if (config->create && there)
        return -EEXIST;
    memcpy(ifr.ifr_name, config->name, strlen(config->name));
    ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    r = net_tap_ioctl(t->fd, TUNSETIFF, &ifr);
    if (r == -EINVAL && there) { /* one with several queues wants to be asked so */
        ifr.ifr_flags |= IFF_MULTI_QUEUE;
        r = net_tap_ioctl(t->fd, TUNSETIFF, &ifr);
    }
    if (r < 0)
        return r;
    memcpy(t->name, ifr.ifr_name, sizeof(t->name));
    /* It may have gone between the question and the attachment, which then made a new one. */
    if (!config->create && (net_tap_ioctl(t->fd, TUNGETIFF, &ifr) < 0 || !(ifr.ifr_flags & IFF_PERSIST)))
        return ifr.ifr_flags & IFF_MULTI_QUEUE ? 0 : -ENODEV;
    return 0;
}

/* Sizes and offloads of the header that kernel and we exchange. */
static int net_tap_set_header(struct net_tap *t)
{
    int size = sizeof(struct net_hdr), little = 1, r;

    r = net_tap_ioctl(t->fd, TUNSETVNETHDRSZ, &size);
    if (r == 0)
        r = net_tap_ioctl(t->fd, TUNSETVNETLE, &little);
    if (r < 0)
        return r;
    t->uso = ioctl(t->fd, TUNSETOFFLOAD, (unsigned long)(TUN_F_CSUM | NET_TAP_USO)) == 0;
    t->base.offloads = NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_TSO6 | NET_OFF_ECN | (t->uso ? NET_OFF_USO : 0u);
    net_tap_set_receive_offloads(&t->base, 0);
    return 0;
}

static int net_tap_set_mtu(struct net_tap *t, int sock, uint16_t mtu)
{
    struct ifreq ifr = { 0 };
    int r;

    memcpy(ifr.ifr_name, t->name, sizeof(ifr.ifr_name));
    r = net_tap_ioctl(sock, SIOCGIFMTU, &ifr);
    if (r == 0 && mtu && ifr.ifr_mtu != mtu) {
        ifr.ifr_mtu = mtu;
        r = net_tap_ioctl(sock, SIOCSIFMTU, &ifr);
    }
    if (r == 0)
        t->base.mtu = (uint16_t)MIN(ifr.ifr_mtu, NET_MTU_MAX);
    return r;
}

static int net_tap_join(const struct net_tap *t, int sock, const char *bridge)
{
    struct ifreq ifr = { .ifr_ifindex = (int)if_nametoindex(t->name) };

    if (strlen(bridge) >= IFNAMSIZ)
        return -ENODEV;
    memcpy(ifr.ifr_name, bridge, strlen(bridge));
    return net_tap_ioctl(sock, SIOCBRADDIF, &ifr);
}

static int net_tap_set_up(const struct net_tap *t, int sock)
{
    struct ifreq ifr = { 0 };
    int r;

    memcpy(ifr.ifr_name, t->name, sizeof(ifr.ifr_name));
    r = net_tap_ioctl(sock, SIOCGIFFLAGS, &ifr);
    if (r < 0 || ifr.ifr_flags & IFF_UP)
        return r;
    ifr.ifr_flags |= IFF_UP;
    return net_tap_ioctl(sock, SIOCSIFFLAGS, &ifr);
}

static int net_tap_open(struct net_tap *t, const struct net_tap_config *config, struct loop *l, enum net_tap_step *step)
{
    AUTO_FD int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int r;

    *step = NET_TAP_MEMORY;
    if (sock < 0)
        return -errno;
    *step = NET_TAP_DEVICE;
    t->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (t->fd < 0)
        return -errno;
    *step = NET_TAP_ATTACH;
    r = net_tap_attach(t, config);
    if (r == 0)
        r = net_tap_set_header(t);
    if (r < 0)
        return r;
    *step = NET_TAP_MTU;
    r = net_tap_set_mtu(t, sock, config->mtu);
    if (r < 0)
        return r;
    *step = NET_TAP_BRIDGE;
    r = config->bridge ? net_tap_join(t, sock, config->bridge) : 0;
    if (r < 0)
        return r;
    *step = NET_TAP_UP;
    r = config->up ? net_tap_set_up(t, sock) : 0;
    if (r < 0)
        return r;
    *step = NET_TAP_MEMORY;
    t->watched = EPOLLIN;
    return loop_fd_add(l, t->fd, t->watched, net_tap_event, t, &t->src);
}

int net_tap_new(const struct net_tap_config *config, struct loop *l, enum net_tap_step *ret_step,
                struct net_backend **ret_backend)
{
    struct net_tap *t = calloc(1, sizeof(*t));
    int r;

    *ret_step = NET_TAP_MEMORY;
    if (!t)
        return -ENOMEM;
    t->base.ops = &net_tap_ops;
    t->fd = -1;
    r = net_tap_open(t, config, l, ret_step);
    if (r < 0) {
        net_tap_close(&t->base);
        return r;
    }
    *ret_backend = &t->base;
    return 0;
}

int net_tap_adopt(int fd, uint16_t mtu, struct loop *l, struct net_backend **ret_backend)
{
    struct net_tap *t = calloc(1, sizeof(*t));
    struct ifreq ifr = { 0 };
    int flags = fcntl(fd, F_GETFL), r;

    if (!t)
        return -ENOMEM;
    t->base.ops = &net_tap_ops;
    t->base.mtu = (uint16_t)MIN(mtu, NET_MTU_MAX);
    t->fd = fd;
    t->watched = EPOLLIN;
    r = net_tap_ioctl(fd, TUNGETIFF, &ifr);
    if (r == 0 && (ifr.ifr_flags & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)) != (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        r = -EINVAL;
    if (r == 0)
        r = net_tap_set_header(t);
    if (r == 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        r = -errno;
    if (r == 0)
        r = loop_fd_add(l, fd, t->watched, net_tap_event, t, &t->src);
    if (r < 0) {
        t->fd = -1; /* the caller's */
        net_tap_close(&t->base);
        return r == -ENOTTY || r == -EBADFD ? -EINVAL : r;
    }
    memcpy(t->name, ifr.ifr_name, sizeof(t->name));
    *ret_backend = &t->base;
    return 0;
}

const char *net_tap_name(const struct net_backend *b)
{
    return ((const struct net_tap *)b)->name;
}
