/* Connections of virtio-vsock, and the Unix sockets behind them.
 *
 * A socket is watched for input only while there is none known of; then it waits its turn to send to the guest, as far
 * as the guest gave credit. Bytes of the guest that a socket does not take at once are kept, at most VSOCK_WINDOW, and
 * the guest gets its credit back as they are written. An end of either side is told to the other; when both have ended
 * the connection is reset, which frees the guest's. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "virtio/vsock_priv.h"

enum { VSOCK_HOST_CID = 2, VSOCK_TYPE_STREAM = 1, VSOCK_PACKET_MAX = 65536, VSOCK_IOV_MAX = 64 };

/* The pieces of a packet's payload of len bytes, of n pieces with the header in front. Returns their number. */
static unsigned vsock_pieces(const struct iovec *from, unsigned n, uint32_t len, struct iovec to[VSOCK_IOV_MAX])
{
    size_t skip = VSOCK_HDR, left = len;
    unsigned count = 0;

    for (unsigned i = 0; i < n && left > 0 && count < VSOCK_IOV_MAX; i++) {
        size_t cut = MIN(skip, from[i].iov_len), part = MIN(left, from[i].iov_len - cut);

        skip -= cut;
        if (part > 0)
            to[count++] = (struct iovec){ (uint8_t *)from[i].iov_base + cut, part };
        left -= part;
    }
    return count;
}

/* ---- life ---- */

static int vsock_conn_new(struct virtio_vsock *v, int fd, enum vsock_state state, struct vsock_conn **ret_conn)
{
    struct vsock_conn *conn = v->n_conns < VIRTIO_VSOCK_CONNS_MAX ? calloc(1, sizeof(*conn)) : NULL;

    if (!conn)
        return -ENOMEM;
    conn->v = v;
    conn->fd = fd;
    conn->state = state;
    list_init(&conn->ready);
    list_add_before(&v->conns, &conn->link);
    v->n_conns++;
    *ret_conn = conn;
    return 0;
}

void vsock_conn_free(struct vsock_conn *conn)
{
    loop_fd_free(conn->src);
    close(conn->fd);
    list_remove(&conn->ready);
    list_remove(&conn->link);
    conn->v->n_conns--;
    free(conn->out);
    free(conn);
}

struct vsock_conn *vsock_conn_find(struct virtio_vsock *v, uint32_t host_port, uint32_t guest_port)
{
    struct vsock_conn *conn;

    LIST_FOR_EACH(conn, &v->conns, link) {
        if (conn->host_port == host_port && conn->guest_port == guest_port && conn->state != VSOCK_HANDSHAKE &&
            conn->state != VSOCK_DRAINING)
            return conn;
    }
    return NULL;
}

/* The guest's end is no more, and was told so where it did not say so itself. What it sent before is still written. */
static void vsock_conn_end(struct vsock_conn *conn, bool tell)
{
    if (tell)
        vsock_reset(conn->v, conn->host_port, conn->guest_port);
    conn->state = VSOCK_DRAINING;
    conn->owed = 0;
    if (conn->out_len == 0)
        vsock_conn_free(conn);
    else
        vsock_conn_update(conn);
}

/* Nothing more can be done for it. */
static void vsock_conn_abort(struct vsock_conn *conn)
{
    if (conn->state == VSOCK_OPEN || conn->state == VSOCK_CONNECTING)
        vsock_reset(conn->v, conn->host_port, conn->guest_port);
    vsock_conn_free(conn);
}

/* ---- what is watched ---- */

static uint32_t vsock_conn_credit(const struct vsock_conn *conn)
{
    uint32_t under_way = conn->sent - conn->peer_fwd;

    return under_way < conn->peer_alloc ? conn->peer_alloc - under_way : 0;
}

/* Whether bytes of the host are to be looked for. */
static bool vsock_conn_reads(const struct vsock_conn *conn)
{
    return conn->state == VSOCK_OPEN && !conn->host_done && !conn->guest_deaf;
}

static void vsock_conn_event(void *opaque, uint32_t events);

static void vsock_conn_watch(struct vsock_conn *conn, uint32_t want)
{
    int res;

    /* A hang-up is reported all the same, again and again; it ends a call that the guest has not answered yet. */
    if (want == 0 && conn->state != VSOCK_CONNECTING) {
        loop_fd_free(conn->src);
        conn->src = NULL;
        return;
    }
    res = conn->src ? loop_fd_set(conn->src, want)
                    : loop_fd_add(conn->v->loop, conn->fd, want, vsock_conn_event, conn, &conn->src);
    if (res < 0)
        conn->lost = true;
}

void vsock_conn_update(struct vsock_conn *conn)
{
    bool reads = vsock_conn_reads(conn), ready;
    uint32_t want = conn->out_len > 0 ? EPOLLOUT : 0;

    if (conn->state == VSOCK_HANDSHAKE || (reads && !conn->readable))
        want |= EPOLLIN;
    vsock_conn_watch(conn, want);
    if (reads && conn->readable && vsock_conn_credit(conn) == 0 && !conn->asked_credit) {
        conn->asked_credit = true;
        conn->owed |= BIT(VSOCK_OP_CREDIT_REQUEST);
    }
    ready = conn->lost || conn->owed || (reads && conn->readable && vsock_conn_credit(conn) > 0);
    list_remove(&conn->ready);
    list_init(&conn->ready);
    if (ready)
        list_add_before(&conn->v->ready, &conn->ready);
}

/* ---- to the host ---- */

/* Bytes of the guest were written: it may send as many more. */
static void vsock_conn_forwarded(struct vsock_conn *conn, uint32_t n)
{
    conn->fwd += n;
    if (conn->state == VSOCK_OPEN && conn->fwd - conn->told_fwd >= VSOCK_WINDOW / 4)
        conn->owed |= BIT(VSOCK_OP_CREDIT_UPDATE);
}

static ssize_t vsock_conn_send(struct vsock_conn *conn, struct iovec *iov, unsigned n)
{
    struct msghdr m = { .msg_iov = iov, .msg_iovlen = n };
    ssize_t sent;

    do
        sent = sendmsg(conn->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
    return sent;
}

/* Write what is kept. -errno: the socket is of no use any more. */
static int vsock_conn_flush(struct vsock_conn *conn)
{
    while (conn->out_len > 0) {
        uint32_t first = MIN(conn->out_len, VSOCK_WINDOW - conn->out_head);
        struct iovec iov[2] = { { conn->out + conn->out_head, first }, { conn->out, conn->out_len - first } };
        ssize_t n = vsock_conn_send(conn, iov, first < conn->out_len ? 2 : 1);

        if (n <= 0)
            return (int)n;
        conn->out_head = (conn->out_head + (uint32_t)n) % VSOCK_WINDOW;
        conn->out_len -= (uint32_t)n;
        vsock_conn_forwarded(conn, (uint32_t)n);
    }
    free(conn->out);
    conn->out = NULL;
    conn->out_head = 0;
    if (conn->guest_done)
        (void)shutdown(conn->fd, SHUT_WR);
    return 0;
}

/* Keep the bytes of the chain from off on, len of them, which fit. */
static int vsock_conn_keep(struct vsock_conn *conn, const struct virtq_chain *c, size_t off, uint32_t len)
{
    uint32_t at = (conn->out_head + conn->out_len) % VSOCK_WINDOW, first = MIN(len, VSOCK_WINDOW - at);

    if (!conn->out)
        conn->out = malloc(VSOCK_WINDOW);
    if (!conn->out)
        return -ENOMEM;
    (void)virtq_chain_read(c, off, conn->out + at, first);
    (void)virtq_chain_read(c, off + first, conn->out, len - first);
    conn->out_len += len;
    return 0;
}

/* Payload of len bytes. The guest's memory goes to the socket as it is. -errno: the connection is to be reset. */
static int vsock_conn_take(struct vsock_conn *conn, const struct virtq_chain *c, uint32_t len)
{
    struct iovec iov[VSOCK_IOV_MAX];
    unsigned n = vsock_pieces(c->iov, c->n_out, len, iov);
    ssize_t sent = 0;

    if (conn->state != VSOCK_OPEN || conn->guest_done || len > VSOCK_WINDOW - (conn->received - conn->fwd))
        return -EPROTO;
    conn->received += len;
    if (conn->out_len == 0 && n > 0)
        sent = vsock_conn_send(conn, iov, n);
    if (sent < 0)
        return (int)sent;
    vsock_conn_forwarded(conn, (uint32_t)sent);
    return (uint32_t)sent < len ? vsock_conn_keep(conn, c, VSOCK_HDR + (size_t)sent, len - (uint32_t)sent) : 0;
}

/* ---- packets of the guest ---- */

static void vsock_conn_shutdown(struct vsock_conn *conn, uint32_t flags)
{
    conn->guest_deaf |= flags & VSOCK_SHUTDOWN_RCV;
    conn->guest_done |= flags & VSOCK_SHUTDOWN_SEND;
    if (conn->guest_done && conn->out_len == 0)
        (void)shutdown(conn->fd, SHUT_WR);
    if (conn->guest_deaf)
        (void)shutdown(conn->fd, SHUT_RD);
    if (conn->guest_done && (conn->guest_deaf || conn->host_done))
        vsock_conn_end(conn, true);
    else
        vsock_conn_update(conn);
}

static void vsock_conn_accepted(struct vsock_conn *conn)
{
    char line[VSOCK_LINE];
    int n = snprintf(line, sizeof(line), "OK %" PRIu32 "\n", conn->host_port);
    struct iovec iov = { line, (size_t)n };

    if (conn->state != VSOCK_CONNECTING || vsock_conn_send(conn, &iov, 1) != n) {
        vsock_conn_abort(conn);
        return;
    }
    conn->state = VSOCK_OPEN;
    vsock_conn_update(conn);
}

void vsock_conn_packet(struct vsock_conn *conn, const struct vsock_hdr *h, const struct virtq_chain *c)
{
    conn->peer_alloc = h->buf_alloc;
    conn->peer_fwd = h->fwd_cnt;
    conn->asked_credit = conn->asked_credit && vsock_conn_credit(conn) == 0;
    switch (h->op) {
    case VSOCK_OP_RESPONSE:
        vsock_conn_accepted(conn);
        return;
    case VSOCK_OP_RST:
        vsock_conn_end(conn, false);
        return;
    case VSOCK_OP_SHUTDOWN:
        vsock_conn_shutdown(conn, h->flags);
        return;
    case VSOCK_OP_RW:
        if (vsock_conn_take(conn, c, h->len) < 0) {
            vsock_conn_abort(conn);
            return;
        }
        break;
    case VSOCK_OP_CREDIT_UPDATE:
        break;
    case VSOCK_OP_CREDIT_REQUEST:
        conn->owed |= BIT(VSOCK_OP_CREDIT_UPDATE);
        break;
    default:
        vsock_conn_abort(conn);
        return;
    }
    vsock_conn_update(conn);
}

/* ---- packets for the guest ---- */

static int vsock_conn_put(struct vsock_conn *conn, struct virtq_chain *c, uint16_t op, uint32_t flags, uint32_t len)
{
    const struct vsock_hdr h = { .src_cid = VSOCK_HOST_CID,
                                 .dst_cid = conn->v->guest_cid,
                                 .src_port = conn->host_port,
                                 .dst_port = conn->guest_port,
                                 .len = len,
                                 .type = VSOCK_TYPE_STREAM,
                                 .op = op,
                                 .flags = flags,
                                 .buf_alloc = VSOCK_WINDOW,
                                 .fwd_cnt = conn->fwd };
    uint8_t raw[VSOCK_HDR];

    vsock_hdr_store(&h, raw);
    (void)virtq_chain_write(c, 0, raw, VSOCK_HDR);
    conn->told_fwd = conn->fwd;
    conn->owed &= ~BIT(VSOCK_OP_CREDIT_UPDATE); /* every packet says it */
    return VSOCK_HDR + (int)len;
}

/* The host's end, or both where nobody is there to listen any more. */
static void vsock_conn_host_done(struct vsock_conn *conn)
{
    struct pollfd p = { .fd = conn->fd };

    conn->host_done = true;
    conn->told_done = poll(&p, 1, 0) > 0 && p.revents & POLLHUP ? VSOCK_SHUTDOWN_BOTH : VSOCK_SHUTDOWN_SEND;
    conn->owed |= BIT(VSOCK_OP_SHUTDOWN);
}

/* Bytes of the host straight into the guest's buffer. As vsock_conn_fill. */
static int vsock_conn_read(struct vsock_conn *conn, struct virtq_chain *c)
{
    uint32_t room = MIN(MIN(c->in_len - VSOCK_HDR, vsock_conn_credit(conn)), (uint32_t)VSOCK_PACKET_MAX);
    struct iovec iov[VSOCK_IOV_MAX];
    unsigned n = vsock_pieces(c->iov + c->n_out, c->n_in, room, iov);
    ssize_t got;

    got = readv(conn->fd, iov, (int)n);
    if (got > 0) {
        conn->sent += (uint32_t)got;
        return vsock_conn_put(conn, c, VSOCK_OP_RW, 0, (uint32_t)got);
    }
    if (got < 0 && errno == EINTR)
        return 0;
    conn->readable = false;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    vsock_conn_host_done(conn); /* its error is no other end */
    return 0;
}

int vsock_conn_fill(struct vsock_conn *conn, struct virtq_chain *c)
{
    static const uint16_t first[] = { VSOCK_OP_REQUEST, VSOCK_OP_RESPONSE, VSOCK_OP_CREDIT_REQUEST };
    int n;

    if (conn->lost) {
        vsock_conn_abort(conn);
        return -ECONNRESET;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(first); i++) {
        if (conn->owed & BIT(first[i])) {
            conn->owed &= ~BIT(first[i]);
            return vsock_conn_put(conn, c, first[i], 0, 0);
        }
    }
    if (vsock_conn_reads(conn) && conn->readable && vsock_conn_credit(conn) > 0) {
        n = vsock_conn_read(conn, c);
        if (n != 0)
            return n;
    }
    if (conn->owed & BIT(VSOCK_OP_SHUTDOWN)) {
        conn->owed &= ~BIT(VSOCK_OP_SHUTDOWN);
        if (conn->guest_done) {
            vsock_conn_end(conn, true);
            return -ECONNRESET;
        }
        return vsock_conn_put(conn, c, VSOCK_OP_SHUTDOWN, conn->told_done, 0);
    }
    return conn->owed & BIT(VSOCK_OP_CREDIT_UPDATE) ? vsock_conn_put(conn, c, VSOCK_OP_CREDIT_UPDATE, 0, 0) : 0;
}

/* ---- the host's sockets ---- */

/* The first line, once it is complete. 0: not yet; 1: the guest is called; -errno: this is no caller. */
static int vsock_conn_handshake(struct vsock_conn *conn)
{
    char line[VSOCK_LINE];
    ssize_t n = recv(conn->fd, line, sizeof(line), MSG_PEEK | MSG_DONTWAIT);
    const char *end = n > 0 ? memchr(line, '\n', (size_t)n) : NULL;
    uint64_t port;
    size_t len;

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (!end) /* it ended, or this line is too long */
        return n == 0 || (size_t)n == sizeof(line) ? -EPROTO : 0;
    len = (size_t)(end - line);
    if (recv(conn->fd, line, len + 1, MSG_DONTWAIT) != (ssize_t)len + 1)
        return -EPROTO;
    line[len] = '\0';
    if (strncmp(line, "CONNECT ", 8) != 0 || num_parse_u64(line + 8, 0, UINT32_MAX, &port) < 0)
        return -EPROTO;
    conn->guest_port = (uint32_t)port;
    do
        conn->host_port = conn->v->next_port++;
    while (conn->host_port < 1U << 30 || vsock_conn_find(conn->v, conn->host_port, conn->guest_port));
    conn->state = VSOCK_CONNECTING;
    conn->owed = BIT(VSOCK_OP_REQUEST);
    conn->readable = true;
    return 1;
}

static void vsock_conn_event(void *opaque, uint32_t events)
{
    struct vsock_conn *conn = opaque;
    struct virtio_vsock *v = conn->v;
    int res = 0;

    if (conn->state == VSOCK_HANDSHAKE)
        res = !virtio_pci_queue(v->pci, VSOCK_RX) ? -ECONNREFUSED : vsock_conn_handshake(conn);
    else if (conn->state == VSOCK_CONNECTING && events & (EPOLLHUP | EPOLLERR))
        res = -ECONNRESET; /* the caller is gone */
    else if (events & (EPOLLOUT | EPOLLERR) && conn->out_len > 0)
        res = vsock_conn_flush(conn);
    if (res < 0) {
        vsock_conn_abort(conn);
    } else if (conn->state == VSOCK_DRAINING && conn->out_len == 0) {
        vsock_conn_free(conn);
    } else {
        conn->readable |= events & (EPOLLIN | EPOLLHUP | EPOLLERR);
        vsock_conn_update(conn);
    }
    vsock_run(v);
}

void vsock_accept(void *opaque, uint32_t events)
{
    struct virtio_vsock *v = opaque;
    struct vsock_conn *conn;
    int fd = accept4(v->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)events;
    if (fd < 0)
        return;
    if (vsock_conn_new(v, fd, VSOCK_HANDSHAKE, &conn) < 0) {
        close(fd);
        return;
    }
    vsock_conn_update(conn);
    if (!conn->src) /* no memory to watch it */
        vsock_conn_free(conn);
}

/* Connect to PREFIX_PORT. -errno. */
static int vsock_connect(const struct virtio_vsock *v, uint32_t port)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    AUTO_FD int fd = -1;

    if (!v->prefix ||
        snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%" PRIu32, v->prefix, port) >= (int)sizeof(addr.sun_path))
        return -ECONNREFUSED;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* To a Unix socket at once, or not at all. */
    if (fd < 0 || connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
        return -errno;
    return STEAL_FD(fd);
}

void vsock_conn_call(struct virtio_vsock *v, const struct vsock_hdr *h)
{
    int fd = vsock_connect(v, h->dst_port);
    struct vsock_conn *conn;

    if (fd < 0 || vsock_conn_new(v, fd, VSOCK_OPEN, &conn) < 0) {
        if (fd >= 0)
            close(fd);
        vsock_reset(v, h->dst_port, h->src_port);
        return;
    }
    conn->host_port = h->dst_port;
    conn->guest_port = h->src_port;
    conn->peer_alloc = h->buf_alloc;
    conn->peer_fwd = h->fwd_cnt;
    conn->owed = BIT(VSOCK_OP_RESPONSE);
    vsock_conn_update(conn);
}
