/* virtio-vsock: queues and packets. A packet of the guest is handled at once: its bytes go to the connection's socket
 * or, as far as the window that the guest was promised, into its buffer. Packets for the guest are made when it has a
 * buffer for them, by each connection in turn; nothing waits here but one bit for each kind of packet, and resets of
 * connections that are gone. Too many of those stop the transmit queue, so that a guest cannot make us keep more.
 * Spec: virtio 1.2 section 5.10. */
#include "virtio/vsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/pack.h"
#include "virtio/ids.h"
#include "virtio/vsock_priv.h"

#define VSOCK_F_STREAM BIT64(0)
#define VSOCK_FEATURES VSOCK_F_STREAM

enum {
    VSOCK_QUEUE_SIZE = 128,
    VSOCK_CHAIN_CAP = 64,
    VSOCK_BUDGET = 64, /* packets in one call */
    VSOCK_HOST_CID = 2,
    VSOCK_TYPE_STREAM = 1,
    VSOCK_EVENT_RESET = 0,
};

/* ---- headers ---- */

static void vsock_hdr_load(const uint8_t raw[VSOCK_HDR], struct vsock_hdr *h)
{
    *h = (struct vsock_hdr){ .src_cid = load_le64(raw),
                             .dst_cid = load_le64(raw + 8),
                             .src_port = load_le32(raw + 16),
                             .dst_port = load_le32(raw + 20),
                             .len = load_le32(raw + 24),
                             .type = load_le16(raw + 28),
                             .op = load_le16(raw + 30),
                             .flags = load_le32(raw + 32),
                             .buf_alloc = load_le32(raw + 36),
                             .fwd_cnt = load_le32(raw + 40) };
}

void vsock_hdr_store(const struct vsock_hdr *h, uint8_t raw[VSOCK_HDR])
{
    store_le64(raw, h->src_cid);
    store_le64(raw + 8, h->dst_cid);
    store_le32(raw + 16, h->src_port);
    store_le32(raw + 20, h->dst_port);
    store_le32(raw + 24, h->len);
    store_le16(raw + 28, h->type);
    store_le16(raw + 30, h->op);
    store_le32(raw + 32, h->flags);
    store_le32(raw + 36, h->buf_alloc);
    store_le32(raw + 40, h->fwd_cnt);
}

/* ---- to the guest ---- */

void vsock_reset(struct virtio_vsock *v, uint32_t host_port, uint32_t guest_port)
{
    /* Never full: each connection resets once, and the guest's packets stop at half. */
    if (v->n_resets == VSOCK_RESETS_MAX)
        return;
    v->resets[(v->first_reset + v->n_resets++) % VSOCK_RESETS_MAX] = (struct vsock_reset){ host_port, guest_port };
}

static bool vsock_resets_full(const struct virtio_vsock *v)
{
    return v->n_resets >= VSOCK_RESETS_MAX / 2;
}

static int vsock_send_reset(struct virtio_vsock *v, struct virtq_chain *c)
{
    const struct vsock_reset *r = &v->resets[v->first_reset];
    const struct vsock_hdr h = { .src_cid = VSOCK_HOST_CID,
                                 .dst_cid = v->guest_cid,
                                 .src_port = r->host_port,
                                 .dst_port = r->guest_port,
                                 .type = VSOCK_TYPE_STREAM,
                                 .op = VSOCK_OP_RST };
    uint8_t raw[VSOCK_HDR];

    vsock_hdr_store(&h, raw);
    (void)virtq_chain_write(c, 0, raw, VSOCK_HDR);
    v->first_reset = (v->first_reset + 1) % VSOCK_RESETS_MAX;
    v->n_resets--;
    return VSOCK_HDR;
}

/* The next packet, 0: none. */
static int vsock_next(struct virtio_vsock *v, struct virtq_chain *c)
{
    if (v->n_resets > 0)
        return vsock_send_reset(v, c);
    while (!list_empty(&v->ready)) {
        struct vsock_conn *conn = CONTAINER_OF(v->ready.next, struct vsock_conn, ready);
        int n;

        /* To the end of the list, or out of it. */
        list_remove(&conn->ready);
        list_init(&conn->ready);
        n = vsock_conn_fill(conn, c);
        if (n != -ECONNRESET)
            vsock_conn_update(conn);
        if (n > 0)
            return n;
        if (v->n_resets > 0)
            return vsock_send_reset(v, c);
    }
    return 0;
}

void vsock_run(struct virtio_vsock *v)
{
    struct virtq *q = virtio_pci_queue(v->pci, VSOCK_RX);
    unsigned budget = VSOCK_BUDGET;
    int res = 0;

    if (!q || q->broken || virtio_pci_held(v->pci))
        return;
    while (budget > 0 && (v->n_resets > 0 || !list_empty(&v->ready))) {
        int n;

        budget--;
        res = virtq_pop(q, v->rx);
        if (res == 0 && virtq_enable_notify(q))
            continue;
        if (res <= 0)
            break;
        if (v->rx->in_len <= VSOCK_HDR) { /* no place for a byte: of no use to us */
            res = -EFAULT;
            break;
        }
        n = vsock_next(v, v->rx);
        if (n == 0)
            virtq_unpop(q, v->rx);
        else
            virtq_push(q, v->rx, (uint32_t)n);
    }
    virtio_pci_interrupt(v->pci, VSOCK_RX);
    if (res < 0)
        virtio_pci_queue_broken(v->pci, VSOCK_RX);
    else if (budget == 0)
        virtio_pci_requeue(v->pci, VSOCK_RX);
    if (v->tx_stopped && !vsock_resets_full(v)) {
        v->tx_stopped = false;
        virtio_pci_requeue(v->pci, VSOCK_TX);
    }
}

/* ---- from the guest ---- */

static void vsock_packet(struct virtio_vsock *v, const struct virtq_chain *c)
{
    uint8_t raw[VSOCK_HDR];
    struct vsock_conn *conn;
    struct vsock_hdr h;

    if (virtq_chain_read(c, 0, raw, VSOCK_HDR) < VSOCK_HDR)
        return;
    vsock_hdr_load(raw, &h);
    /* Section 5.10.6.4.1: from its own address, and for us; what else there is goes nowhere. */
    if (h.src_cid != v->guest_cid || h.dst_cid != VSOCK_HOST_CID)
        return;
    conn = h.type == VSOCK_TYPE_STREAM ? vsock_conn_find(v, h.dst_port, h.src_port) : NULL;
    if (conn && h.len <= c->out_len - VSOCK_HDR)
        vsock_conn_packet(conn, &h, c);
    else if (!conn && h.type == VSOCK_TYPE_STREAM && h.op == VSOCK_OP_REQUEST)
        vsock_conn_call(v, &h);
    else if (h.op != VSOCK_OP_RST)
        vsock_reset(v, h.dst_port, h.src_port);
}

static void vsock_transmit(struct virtio_vsock *v)
{
    struct virtq *q = virtio_pci_queue(v->pci, VSOCK_TX);
    unsigned budget = VSOCK_BUDGET;
    int res = 0;

    virtq_disable_notify(q);
    while (budget > 0) {
        v->tx_stopped = vsock_resets_full(v);
        if (v->tx_stopped)
            break;
        res = virtq_pop(q, v->tx);
        if (res == 0 && virtq_enable_notify(q) && --budget > 0)
            continue;
        if (res <= 0)
            break;
        vsock_packet(v, v->tx);
        virtq_push(q, v->tx, 0);
        budget--;
    }
    virtio_pci_interrupt(v->pci, VSOCK_TX);
    if (res < 0)
        virtio_pci_queue_broken(v->pci, VSOCK_TX);
    else if (budget == 0)
        virtio_pci_requeue(v->pci, VSOCK_TX);
    vsock_run(v);
}

/* Tell the driver that everything it knew is gone, when it has a place for that. */
static void vsock_send_event(struct virtio_vsock *v)
{
    struct virtq *q = virtio_pci_queue(v->pci, VSOCK_EVENT);
    uint8_t event[4] = { VSOCK_EVENT_RESET };
    int res;

    if (!v->reset_owed || !q || virtio_pci_held(v->pci))
        return;
    do
        res = virtq_pop(q, v->rx);
    while (res == 0 && virtq_enable_notify(q));
    if (res > 0 && v->rx->in_len >= sizeof(event)) {
        v->reset_owed = false;
        virtq_push(q, v->rx, (uint32_t)virtq_chain_write(v->rx, 0, event, sizeof(event)));
        virtio_pci_interrupt(v->pci, VSOCK_EVENT);
    } else if (res != 0) {
        virtio_pci_queue_broken(v->pci, VSOCK_EVENT);
    }
}

/* ---- operations of the transport ---- */

static void vsock_queue_notify(void *dev, unsigned queue)
{
    struct virtio_vsock *v = dev;

    if (queue == VSOCK_RX)
        vsock_run(v);
    else if (queue == VSOCK_TX)
        vsock_transmit(v);
    else
        vsock_send_event(v);
}

static void vsock_activate(void *dev, uint64_t features)
{
    (void)dev;
    (void)features;
}

static bool vsock_dev_reset(void *dev)
{
    struct virtio_vsock *v = dev;

    while (!list_empty(&v->conns))
        vsock_conn_free(CONTAINER_OF(v->conns.next, struct vsock_conn, link));
    v->n_resets = 0;
    v->tx_stopped = v->reset_owed = false;
    return true;
}

static const struct virtio_dev_ops vsock_ops = {
    .activate = vsock_activate,
    .queue_notify = vsock_queue_notify,
    .reset = vsock_dev_reset,
};

/* ---- construction ---- */

static int vsock_init(struct virtio_vsock *v, const struct virtio_env *env, const struct virtio_vsock_config *config)
{
    uint8_t space[8];
    const struct virtio_pci_config pci = {
        .device_id = VIRTIO_ID_VSOCK,
        .pci_class = 0x078000, /* communication, other */
        .slot = config->slot,
        .features = VSOCK_FEATURES,
        .n_queues = VSOCK_QUEUES,
        .queue_size = VSOCK_QUEUE_SIZE,
        .config = space,
        .config_len = sizeof(space),
        .ops = &vsock_ops,
        .opaque = v,
    };
    int res = virtq_chain_new(VSOCK_CHAIN_CAP, &v->rx);

    store_le64(space, config->guest_cid);
    if (res == 0)
        res = virtq_chain_new(VSOCK_CHAIN_CAP, &v->tx);
    if (res == 0 && config->prefix) {
        v->prefix = strdup(config->prefix);
        res = v->prefix ? 0 : -ENOMEM;
    }
    if (res == 0)
        res = virtio_pci_new(env, &pci, &v->pci);
    if (res == 0 && config->listen_fd >= 0)
        res = loop_fd_add(env->loop, config->listen_fd, EPOLLIN, vsock_accept, v, &v->listen_src);
    return res;
}

int virtio_vsock_new(const struct virtio_env *env, const struct virtio_vsock_config *config,
                     struct virtio_vsock **ret_vsock)
{
    struct virtio_vsock *v;
    int res;

    if (config->guest_cid <= VSOCK_HOST_CID)
        return -EINVAL;
    v = calloc(1, sizeof(*v));
    if (!v)
        return -ENOMEM;
    v->loop = env->loop;
    v->guest_cid = config->guest_cid;
    v->listen_fd = -1;
    v->next_port = 1U << 30;
    list_init(&v->conns);
    list_init(&v->ready);
    res = vsock_init(v, env, config);
    if (res < 0) {
        virtio_vsock_free(v);
        return res;
    }
    v->listen_fd = config->listen_fd;
    *ret_vsock = v;
    return 0;
}

void virtio_vsock_free(struct virtio_vsock *v)
{
    if (!v)
        return;
    loop_fd_free(v->listen_src);
    if (v->listen_fd >= 0)
        close(v->listen_fd);
    (void)vsock_dev_reset(v);
    virtio_pci_free(v->pci);
    virtq_chain_free(v->rx);
    virtq_chain_free(v->tx);
    free(v->prefix);
    free(v);
}

/* ---- saved state ---- */

void virtio_vsock_hold(struct virtio_vsock *v, bool hold)
{
    virtio_pci_hold(v->pci, hold);
    vsock_send_event(v);
}

void virtio_vsock_save(struct virtio_vsock *v, struct buf *b)
{
    (void)virtio_pci_save(v->pci, b);
}

int virtio_vsock_restore(struct virtio_vsock *v, uint16_t version, struct unpack *in)
{
    uint8_t cid[8];
    uint64_t features;
    int live = virtio_pci_restore(v->pci, VSOCK_FEATURES, in, &features), res;

    (void)version;
    res = live < 0 ? live : unpack_end(in);
    if (res < 0)
        return res;
    /* The address is this machine's; the driver asks for it after the event. */
    store_le64(cid, v->guest_cid);
    virtio_pci_config_set(v->pci, 0, cid, sizeof(cid));
    v->reset_owed = live;
    return 0;
}
