/* User-mode network on libslirp.
 *
 * libslirp wants to be asked before every sleep what to poll (pollfds_fill) and told after it what is ready
 * (pollfds_poll). Its descriptors live in an epoll instance of their own, of which the loop watches only the one
 * descriptor; after every entry into libslirp the set is brought up to date by its differences. Frames that the device
 * has no room for wait in a bounded queue; what does not fit is dropped, as on any network. */
#include "net/user.h"

#include <errno.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/bits.h"
#include "base/log.h"
#include "net/offload.h"
#include "sys/loop.h"

#define NET_USER_QUEUE_BYTES (4u << 20)
#define NET_USER_EVENTS 64
#define NET_USER_NET 0x0a000200U
#define NET_USER_GUEST (NET_USER_NET + 15)

/* State of a descriptor; indexed by its number. */
struct net_user_fd {
    uint32_t wanted, registered, ready; /* EPOLL*; registered == 0: not in the set */
    uint64_t round;                     /* in which wanted was asked for */
    bool listed;                        /* in net_user.fds */
};

struct net_user_frame {
    struct net_user_frame *next;
    size_t len;
    uint8_t data[];
};

struct net_user {
    struct net_backend base;
    Slirp *slirp;
    struct loop *loop;
    bool is_network; /* of many guests: none of them is meant where no address stands */
    int epfd;
    struct loop_fd *src;
    struct loop_timer *timer;
    struct net_user_fd *by_fd;
    int *fds; /* n_fds numbers of descriptors that libslirp asked for lately */
    unsigned n_by_fd, n_fds;
    uint64_t round;
    struct net_user_frame *queue, **queue_end; /* oldest first; queue_end: where the next one is hooked in */
    size_t queue_bytes;
    uint8_t frame[NET_FRAME_MAX]; /* the one being sent: libslirp looks at frames before it copies them */
};

/* A timer of libslirp. */
struct net_user_timer {
    struct net_user *user;
    struct loop_timer *timer;
    SlirpTimerCb cb;
    void *opaque;
};

static void net_user_refill(struct net_user *u);

static struct in_addr net_user_addr(uint32_t addr)
{
    return (struct in_addr){ .s_addr = htonl(addr) };
}

/* ---- frames to the guest ---- */

static bool net_user_deliver(struct net_user *u, const uint8_t *frame, size_t len)
{
    const struct net_hdr hdr = { 0 };

    return net_backend_deliver(&u->base, &hdr, frame, len);
}

static ssize_t net_user_cb_send_packet(const void *buf, size_t len, void *opaque)
{
    struct net_user *u = opaque;
    struct net_user_frame *f;

    if (!u->queue && net_user_deliver(u, buf, len))
        return (ssize_t)len;
    if (u->queue_bytes + len > NET_USER_QUEUE_BYTES)
        return (ssize_t)len;
    f = malloc(sizeof(*f) + len);
    if (!f)
        return (ssize_t)len;
    f->len = len;
    memcpy(f->data, buf, len);
    f->next = NULL;
    *u->queue_end = f;
    u->queue_end = &f->next;
    u->queue_bytes += len;
    return (ssize_t)len;
}

/* Forget the oldest frame, of which there is one. */
static void net_user_drop_frame(struct net_user *u)
{
    struct net_user_frame *f = u->queue;

    u->queue = f->next;
    if (!u->queue)
        u->queue_end = &u->queue;
    u->queue_bytes -= f->len;
    free(f);
}

static void net_user_receive_ready(struct net_backend *b)
{
    struct net_user *u = (struct net_user *)b;

    while (u->queue && net_user_deliver(u, u->queue->data, u->queue->len))
        net_user_drop_frame(u);
    net_backend_deliver_done(b);
}

/* ---- what libslirp asks of its host ---- */

static void net_user_cb_guest_error(const char *msg, void *opaque)
{
    (void)opaque;
    log_debug("net: guest: %s", msg);
}

static int64_t net_user_cb_clock(void *opaque)
{
    (void)opaque;
    return (int64_t)sys_now_ns();
}

static void net_user_timer_fired(void *opaque)
{
    struct net_user_timer *t = opaque;

    t->cb(t->opaque);
    net_backend_deliver_done(&t->user->base);
    net_user_refill(t->user);
}

static void *net_user_cb_timer_new(SlirpTimerCb cb, void *cb_opaque, void *opaque)
{
    struct net_user_timer *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->user = opaque;
    t->cb = cb;
    t->opaque = cb_opaque;
    if (loop_timer_new(t->user->loop, net_user_timer_fired, t, &t->timer) < 0) {
        free(t);
        return NULL;
    }
    return t;
}

static void net_user_cb_timer_free(void *timer, void *opaque)
{
    struct net_user_timer *t = timer;

    (void)opaque;
    if (t)
        loop_timer_free(t->timer);
    free(t);
}

static void net_user_cb_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    struct net_user_timer *t = timer;

    (void)opaque;
    if (t)
        loop_timer_set(t->timer, expire_ms > 0 ? (uint64_t)expire_ms * 1000000 : 1);
}

/* A new descriptor under this number, or the old one is about to be closed: either way the set must not hold it. */
static void net_user_cb_forget_fd(int fd, void *opaque)
{
    struct net_user *u = opaque;

    if (fd < 0 || (unsigned)fd >= u->n_by_fd)
        return;
    if (u->by_fd[fd].registered)
        (void)epoll_ctl(u->epfd, EPOLL_CTL_DEL, fd, NULL);
    u->by_fd[fd].registered = 0;
    u->by_fd[fd].ready = 0;
}

static void net_user_cb_notify(void *opaque)
{
    (void)opaque; /* every entry into libslirp ends with net_user_refill already */
}

static const SlirpCb net_user_callbacks = {
    .send_packet = net_user_cb_send_packet,
    .guest_error = net_user_cb_guest_error,
    .clock_get_ns = net_user_cb_clock,
    .timer_new = net_user_cb_timer_new,
    .timer_free = net_user_cb_timer_free,
    .timer_mod = net_user_cb_timer_mod,
    .register_poll_fd = net_user_cb_forget_fd,
    .unregister_poll_fd = net_user_cb_forget_fd,
    .notify = net_user_cb_notify,
};

/* ---- polling ---- */

/* Room for descriptor number fd in both tables. */
static bool net_user_grow(struct net_user *u, unsigned fd)
{
    unsigned n = MAX(fd + 1, u->n_by_fd * 2);
    struct net_user_fd *by_fd;
    int *fds;

    if (fd < u->n_by_fd)
        return true;
    by_fd = realloc(u->by_fd, n * sizeof(*by_fd));
    if (!by_fd)
        return false;
    u->by_fd = by_fd;
    fds = realloc(u->fds, n * sizeof(*fds));
    if (!fds)
        return false;
    u->fds = fds;
    memset(by_fd + u->n_by_fd, 0, (n - u->n_by_fd) * sizeof(*by_fd));
    u->n_by_fd = n;
    return true;
}

static int net_user_add_poll(int fd, int events, void *opaque)
{
    struct net_user *u = opaque;
    struct net_user_fd *p;

    if (fd < 0 || !net_user_grow(u, (unsigned)fd))
        return -1;
    p = &u->by_fd[fd];
    if (p->round != u->round)
        p->wanted = 0;
    p->round = u->round;
    p->wanted |= (events & SLIRP_POLL_IN ? EPOLLIN : 0u) | (events & SLIRP_POLL_OUT ? EPOLLOUT : 0u) |
                 (events & SLIRP_POLL_PRI ? EPOLLPRI : 0u) | (events & SLIRP_POLL_ERR ? EPOLLERR : 0u) |
                 (events & SLIRP_POLL_HUP ? EPOLLHUP : 0u);
    if (!p->listed)
        u->fds[u->n_fds++] = fd;
    p->listed = true;
    return fd;
}

static int net_user_get_revents(int idx, void *opaque)
{
    struct net_user *u = opaque;
    uint32_t ready;

    if (idx < 0 || (unsigned)idx >= u->n_by_fd)
        return 0;
    ready = u->by_fd[idx].ready;
    return (ready & EPOLLIN ? SLIRP_POLL_IN : 0) | (ready & EPOLLOUT ? SLIRP_POLL_OUT : 0) |
           (ready & EPOLLPRI ? SLIRP_POLL_PRI : 0) | (ready & EPOLLERR ? SLIRP_POLL_ERR : 0) |
           (ready & EPOLLHUP ? SLIRP_POLL_HUP : 0);
}

static void net_user_register(struct net_user *u, int fd, struct net_user_fd *p)
{
    struct epoll_event ev = { .events = p->wanted, .data.fd = fd };
    int res = epoll_ctl(u->epfd, p->registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &ev);

    /* The number may have changed hands unseen: what the kernel says counts. */
    if (res < 0 && (errno == ENOENT || errno == EEXIST))
        res = epoll_ctl(u->epfd, errno == ENOENT ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &ev);
    p->registered = res == 0 ? p->wanted : 0;
}

/* Ask libslirp what to poll, and until when; apply the differences. */
static void net_user_refill(struct net_user *u)
{
    uint32_t timeout_ms = UINT32_MAX;
    unsigned kept = 0;

    u->round++;
    slirp_pollfds_fill(u->slirp, &timeout_ms, net_user_add_poll, u);
    for (unsigned i = 0; i < u->n_fds; i++) {
        int fd = u->fds[i];
        struct net_user_fd *p = &u->by_fd[fd];

        if (p->round != u->round || p->wanted == 0) {
            net_user_cb_forget_fd(fd, u);
            p->listed = false;
            continue;
        }
        if (p->wanted != p->registered)
            net_user_register(u, fd, p);
        u->fds[kept++] = fd;
    }
    u->n_fds = kept;
    loop_timer_set(u->timer, timeout_ms == UINT32_MAX ? 0 : sys_now_ns() + timeout_ms * 1000000ULL);
}

static void net_user_poll(struct net_user *u)
{
    struct epoll_event events[NET_USER_EVENTS];
    int n = epoll_wait(u->epfd, events, NET_USER_EVENTS, 0);

    for (int i = 0; i < n; i++)
        u->by_fd[events[i].data.fd].ready = events[i].events;
    slirp_pollfds_poll(u->slirp, n < 0, net_user_get_revents, u);
    for (int i = 0; i < n; i++)
        u->by_fd[events[i].data.fd].ready = 0;
    net_backend_deliver_done(&u->base);
    net_user_refill(u);
}

static void net_user_event(void *opaque, uint32_t events)
{
    (void)events;
    net_user_poll(opaque);
}

static void net_user_timeout(void *opaque)
{
    net_user_poll(opaque);
}

/* ---- operations ---- */

/* TCP of any length is welcome uncut: its content goes into a socket anyway. */
static bool net_user_send(struct net_backend *b, const struct net_hdr *hdr, const struct iovec *iov, unsigned n_iov,
                          size_t len)
{
    struct net_user *u = (struct net_user *)b;

    net_gather(u->frame, iov, n_iov, len);
    if (net_hdr_check(hdr, u->frame, len, len) && net_offload_whole(hdr, u->frame, len))
        slirp_input(u->slirp, u->frame, (int)len);
    return true;
}

static void net_user_send_done(struct net_backend *b)
{
    net_backend_deliver_done(b);
    net_user_refill((struct net_user *)b);
}

static void net_user_close(struct net_backend *b)
{
    struct net_user *u = (struct net_user *)b;

    if (u->slirp)
        slirp_cleanup(u->slirp);
    while (u->queue)
        net_user_drop_frame(u);
    loop_timer_free(u->timer);
    loop_fd_free(u->src);
    if (u->epfd >= 0)
        close(u->epfd);
    free(u->by_fd);
    free(u->fds);
    free(u);
}

static const struct net_backend_ops net_user_ops = {
    .name = "user",
    .send = net_user_send,
    .send_done = net_user_send_done,
    .receive_ready = net_user_receive_ready,
    .close = net_user_close,
};

/* ---- forwards ---- */

/* One end of a forward; returns the length of the address. */
static socklen_t net_user_sockaddr(const struct net_user_forward *f, bool host, struct sockaddr_storage *ret_addr)
{
    uint16_t port = htons(host ? f->host_port : f->guest_port);

    memset(ret_addr, 0, sizeof(*ret_addr));
    if (f->ip6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret_addr;

        in6->sin6_family = AF_INET6;
        in6->sin6_port = port;
        in6->sin6_addr = host ? f->host_addr6 : f->guest_addr6;
        return sizeof(*in6);
    }
    *(struct sockaddr_in *)ret_addr = (struct sockaddr_in){ .sin_family = AF_INET,
                                                            .sin_port = port,
                                                            .sin_addr = host ? f->host_addr : f->guest_addr };
    return sizeof(struct sockaddr_in);
}

static int net_user_forward_flags(const struct net_user_forward *f)
{
    return (f->udp ? SLIRP_HOSTFWD_UDP : 0) | (f->ip6 ? SLIRP_HOSTFWD_V6ONLY : 0);
}

/* libslirp only says that a forward failed; binding once ourselves tells why. */
int net_user_forward_probe(const struct net_user_forward *f)
{
    struct sockaddr_storage addr;
    socklen_t len = net_user_sockaddr(f, true, &addr);
    AUTO_FD int fd = socket(addr.ss_family, (f->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    int one = 1;

    if (fd < 0)
        return -errno;
    /* As libslirp does: a TCP port whose last connection is in TIME_WAIT is free, but a UDP port that somebody else has
     * is not, whatever he thinks about sharing it. */
    if ((!f->udp && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0) ||
        (f->ip6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0) ||
        bind(fd, (struct sockaddr *)&addr, len) < 0 || (!f->udp && listen(fd, 1) < 0))
        return -errno;
    return 0;
}

int net_user_forward_add(struct net_backend *b, const struct net_user_forward *f)
{
    struct net_user *u = (struct net_user *)b;
    struct sockaddr_storage host, guest;
    socklen_t len = net_user_sockaddr(f, true, &host);
    int res;

    (void)net_user_sockaddr(f, false, &guest);
    if (f->host_port == 0 || f->guest_port == 0 || (f->ip6 && IN6_IS_ADDR_UNSPECIFIED(&f->guest_addr6)))
        return -EINVAL;
    if (!f->ip6 && f->guest_addr.s_addr == INADDR_ANY) {
        if (u->is_network)
            return -EINVAL;
        ((struct sockaddr_in *)&guest)->sin_addr = net_user_addr(NET_USER_GUEST);
    }
    res = net_user_forward_probe(f);
    if (res < 0)
        return res;
    if (slirp_add_hostxfwd(u->slirp, (struct sockaddr *)&host, len, (struct sockaddr *)&guest, len,
                           net_user_forward_flags(f)) < 0)
        return -EADDRINUSE;
    net_user_refill(u);
    return 0;
}

int net_user_forward_remove(struct net_backend *b, const struct net_user_forward *f)
{
    struct net_user *u = (struct net_user *)b;
    struct sockaddr_storage host;
    socklen_t len = net_user_sockaddr(f, true, &host);
    int res = slirp_remove_hostxfwd(u->slirp, (struct sockaddr *)&host, len, net_user_forward_flags(f));

    net_user_refill(u);
    return res < 0 ? -ENOENT : 0;
}

/* ---- construction ---- */

void net_user_gateway_mac(uint32_t gateway, uint8_t ret_mac[6])
{
    ret_mac[0] = 0x52;
    ret_mac[1] = 0x55;
    store_be32(ret_mac + 2, gateway);
}

/* The world of one guest. */
static void net_user_set_alone(SlirpConfig *config)
{
    static const struct in6_addr net6 = { .s6_addr = { 0xfd, 0x10, 0, 0, 0, 2 } };

    config->in_enabled = true;
    config->vnetwork = net_user_addr(NET_USER_NET);
    config->vnetmask = net_user_addr(0xffffff00);
    config->vhost = net_user_addr(NET_USER_NET + 2);
    config->vdhcp_start = net_user_addr(NET_USER_GUEST);
    config->vnameserver = net_user_addr(NET_USER_NET + 3);
    config->in6_enabled = true;
    config->vprefix_addr6 = config->vhost6 = config->vnameserver6 = net6;
    config->vprefix_len = 64;
    config->vhost6.s6_addr[15] = 2;
    config->vnameserver6.s6_addr[15] = 3;
}

/* The name server that libslirp leads to the host's is the gateway's address: so DNS by TCP finds its way, and no other
 * port of the host's loopback is in reach. */
static void net_user_set_network(SlirpConfig *config, const struct net_user_network *n)
{
    config->disable_dhcp = true;
    config->disable_host_loopback = true;
    config->in_enabled = n->subnet.prefix != 0;
    config->vnetwork = net_user_addr(n->subnet.addr);
    config->vnetmask = net_user_addr(addr_mask4(n->subnet.prefix));
    config->vhost = config->vnameserver = config->vdhcp_start = net_user_addr(n->gateway);
    config->in6_enabled = n->subnet6.prefix != 0;
    memcpy(&config->vprefix_addr6, n->subnet6.addr, 16);
    config->vprefix_len = n->subnet6.prefix;
    memcpy(&config->vhost6, n->gateway6, 16);
    config->vnameserver6 = config->vhost6;
}

static int net_user_init(struct net_user *u, const struct net_user_network *network, struct loop *loop)
{
    SlirpConfig config = {
        .version = 4,
        .vhostname = "caisson",
        .if_mtu = u->base.mtu,
        .if_mru = u->base.mtu,
    };
    int res;

    u->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (u->epfd < 0)
        return -errno;
    res = loop_timer_new(loop, net_user_timeout, u, &u->timer);
    if (res == 0)
        res = loop_fd_add(loop, u->epfd, EPOLLIN, net_user_event, u, &u->src);
    if (res < 0)
        return res;
    u->is_network = network != NULL;
    if (network)
        net_user_set_network(&config, network);
    else
        net_user_set_alone(&config);
    u->slirp = slirp_new(&config, &net_user_callbacks, u);
    return u->slirp ? 0 : -ENOMEM;
}

int net_user_new(const struct net_user_config *config, struct loop *loop, int *ret_forward,
                 struct net_backend **ret_backend)
{
    unsigned mtu = config->mtu ? config->mtu : NET_USER_MTU;
    struct net_user *u;
    int res;

    *ret_forward = -1;
    if (mtu < 576 || mtu > NET_MTU_MAX)
        return -EINVAL;
    u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    u->base = (struct net_backend){ .ops = &net_user_ops,
                                    .mtu = (uint16_t)mtu,
                                    .checksums_good = true,
                                    .offloads = NET_OFF_CSUM | NET_OFF_TSO4 | NET_OFF_ECN };
    /* In IPv6 libslirp refuses what is longer than its MTU, even whole TCP segments. */
    if (mtu >= NET_USER_MTU)
        u->base.offloads |= NET_OFF_TSO6;
    u->loop = loop;
    u->epfd = -1;
    u->queue_end = &u->queue;
    res = net_user_init(u, config->network, loop);
    for (unsigned i = 0; i < config->n_forwards && res == 0; i++) {
        res = net_user_forward_add(&u->base, &config->forwards[i]);
        if (res < 0)
            *ret_forward = (int)i;
    }
    if (res < 0) {
        net_user_close(&u->base);
        return res;
    }
    net_user_refill(u);
    *ret_backend = &u->base;
    return 0;
}
