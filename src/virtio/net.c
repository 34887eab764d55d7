/* virtio-net: queue pairs and a control queue.
 *
 * Frames from the guest go to the back end as they lie in its memory; only their header is copied and checked first. A
 * back end without room stops the transmit queues until it has some. Frames to the guest go straight into its buffers,
 * several of them for one frame where negotiated; with too few buffers the back end keeps the frame, and the guest's
 * next notification of a receive queue asks for it again. Interrupts come once for a batch. Spec: virtio 1.2
 * section 5.1. */
#include "virtio/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/pack.h"
#include "net/offload.h"
#include "virtio/ids.h"
#include "virtio/net_priv.h"

enum { VNET_STATUS_LINK_UP = 1, VNET_DUPLEX_FULL = 1, VNET_SPEED_MBITS = 10000 };
/* Work in one call: a frame costs 1, and 1 more for each 4 KiB of it; a command 1. */
enum { VNET_BUDGET = 256, VNET_BUDGET_SHIFT = 12 };

/* ---- queues ---- */

static unsigned vnet_rx_queue(unsigned pair)
{
    return pair * 2;
}

static unsigned vnet_tx_queue(unsigned pair)
{
    return pair * 2 + 1;
}

/* Behind all pairs where the driver knows of more than one (section 5.1.2). */
static unsigned vnet_ctrl_queue(const struct virtio_net *n)
{
    return n->features & VNET_F_MQ ? n->pairs_max * 2 : 2;
}

/* ---- transmit ---- */

static void vnet_load_hdr(const uint8_t *p, struct net_hdr *ret)
{
    /* What DATA_VALID says of a frame from the driver is of no interest (section 5.1.6.2). */
    *ret = (struct net_hdr){ .flags = p[0] & NET_HDR_NEEDS_CSUM,
                             .gso_type = p[1],
                             .hdr_len = load_le16(p + 2),
                             .gso_size = load_le16(p + 4),
                             .csum_start = load_le16(p + 6),
                             .csum_offset = load_le16(p + 8) };
}

/* The pieces of the device-readable part (NET_IOV_MAX at most) behind its first skip bytes. Returns their number. */
static unsigned vnet_pieces(const struct virtq_chain *c, size_t skip, struct iovec iov[NET_IOV_MAX])
{
    unsigned n = 0;

    for (unsigned i = 0; i < c->n_out; i++) {
        size_t part = MIN(skip, c->iov[i].iov_len);

        skip -= part;
        if (part < c->iov[i].iov_len)
            iov[n++] =
                (struct iovec){ .iov_base = (uint8_t *)c->iov[i].iov_base + part, .iov_len = c->iov[i].iov_len - part };
    }
    return n;
}

/* Frames that make no sense, or use what was not negotiated, are dropped, as a wire would. False: no room for it now.
 */
static bool vnet_transmit(struct virtio_net *n, unsigned pair, const struct virtq_chain *c)
{
    struct iovec iov[NET_IOV_MAX];
    uint8_t raw[VNET_HDR], head[NET_HEAD_BYTES];
    struct net_hdr hdr;
    unsigned n_iov;
    size_t len;

    if (virtq_chain_read(c, 0, raw, VNET_HDR) < VNET_HDR || !n->link_up)
        return true;
    len = c->out_len - VNET_HDR;
    vnet_load_hdr(raw, &hdr);
    if (len > NET_FRAME_MAX || net_hdr_needs(&hdr) & ~n->tx_offloads)
        return true;
    if (hdr.gso_type == NET_GSO_NONE && !hdr.flags)
        hdr = (struct net_hdr){ 0 };
    if (n->pairs > 1)
        vnet_flow_sent(n, pair, head, virtq_chain_read(c, VNET_HDR, head, sizeof(head)));
    if (c->n_out <= NET_IOV_MAX) {
        n_iov = vnet_pieces(c, VNET_HDR, iov);
    } else {
        iov[0] = (struct iovec){ n->bounce, virtq_chain_read(c, VNET_HDR, n->bounce, len) };
        n_iov = 1;
    }
    return net_backend_send(n->backend, &hdr, iov, n_iov, len);
}

/* As virtq_pop, else the cost. */
static int vnet_tx_one(struct virtio_net *n, unsigned pair, struct virtq *q)
{
    int res = virtq_pop(q, n->chain);

    if (res <= 0)
        return res;
    if (!vnet_transmit(n, pair, n->chain)) {
        virtq_unpop(q, n->chain);
        n->tx_stopped = true; /* until vnet_send_ready */
        n->tx_waiting |= BIT(pair);
        return 0;
    }
    virtq_push(q, n->chain, 0);
    return 1 + (int)(MIN(n->chain->out_len, (uint32_t)NET_FRAME_MAX) >> VNET_BUDGET_SHIFT);
}

static void vnet_send_ready(void *opaque)
{
    struct virtio_net *n = opaque;

    n->tx_stopped = false;
    for (unsigned pair = 0; n->tx_waiting; pair++) {
        if (n->tx_waiting & BIT(pair))
            virtio_pci_requeue(n->pci, vnet_tx_queue(pair));
        n->tx_waiting &= ~BIT(pair);
    }
}

/* ---- receive ---- */

static void vnet_unpop(struct virtio_net *n, struct virtq *q, unsigned count)
{
    while (count > 0)
        virtq_unpop(q, n->rx[--count]);
}

/* Take buffers for total bytes. Returns their number; 0: not enough, the driver will notify of more; -EMSGSIZE: the
 * frame will never fit; -EFAULT: ring broken. */
static int vnet_rx_gather(struct virtio_net *n, struct virtq *q, size_t total)
{
    unsigned limit = n->features & VNET_F_MRG_RXBUF ? VNET_RX_CHAINS : 1, count = 0;
    size_t room = 0;

    while (room < total) {
        int res;

        if (count == limit) {
            vnet_unpop(n, q, count);
            return -EMSGSIZE;
        }
        res = virtq_pop(q, n->rx[count]);
        if (res < 0)
            return res;
        if (res == 0) {
            /* Asked for while all buffers are taken, the notification comes with the next one. */
            if (virtq_enable_notify(q))
                continue;
            vnet_unpop(n, q, count);
            return 0;
        }
        if (n->rx[count]->in_len == 0)
            return -EFAULT;
        room += n->rx[count++]->in_len;
    }
    return (int)count;
}

static void vnet_store_hdr(uint8_t *p, const struct net_hdr *hdr, const uint8_t *frame, size_t len, unsigned count)
{
    struct net_layers l;

    p[0] = hdr->flags;
    p[1] = hdr->gso_type;
    store_le16(p + 2, 0);
    /* The driver may rely on it (section 5.1.6.4.1), so the other end's word is not enough. */
    if (hdr->gso_type != NET_GSO_NONE && net_layers_find(frame, len, &l))
        store_le16(p + 2, (uint16_t)l.payload);
    store_le16(p + 4, hdr->gso_size);
    store_le16(p + 6, hdr->csum_start);
    store_le16(p + 8, hdr->csum_offset);
    store_le16(p + 10, (uint16_t)count);
}

/* Spread header and frame over count buffers and hand them over at once. */
static void vnet_rx_fill(struct virtio_net *n, struct virtq *q, unsigned count, const uint8_t hdr[VNET_HDR],
                         const uint8_t *frame, size_t len)
{
    uint32_t lens[VNET_RX_CHAINS];
    size_t done = 0;

    for (unsigned i = 0; i < count; i++) {
        struct virtq_chain *c = n->rx[i];
        size_t at = 0;

        if (done < VNET_HDR)
            at = virtq_chain_write(c, 0, hdr + done, VNET_HDR - done);
        done += at;
        if (done >= VNET_HDR) {
            size_t part = virtq_chain_write(c, at, frame + (done - VNET_HDR), len - (done - VNET_HDR));

            done += part;
            at += part;
        }
        lens[i] = (uint32_t)at;
    }
    virtq_push_many(q, n->rx, lens, count);
}

static bool vnet_receive(void *opaque, const struct net_hdr *hdr, const uint8_t *frame, size_t len)
{
    struct virtio_net *n = opaque;
    unsigned pair = vnet_flow_pair(n, frame, len);
    struct virtq *q = virtio_pci_queue(n->pci, vnet_rx_queue(pair));
    uint8_t raw[VNET_HDR];
    int count;

    if (virtio_pci_held(n->pci))
        return false;
    if (!q || q->broken || !n->link_up || !vnet_filter_passes(&n->filter, frame))
        return true; /* nobody listens */
    count = vnet_rx_gather(n, q, VNET_HDR + len);
    if (count == 0)
        return false;
    if (count == -EFAULT)
        virtio_pci_queue_broken(n->pci, vnet_rx_queue(pair));
    if (count < 0)
        return true;
    vnet_store_hdr(raw, hdr, frame, len, (unsigned)count);
    vnet_rx_fill(n, q, (unsigned)count, raw, frame, len);
    n->rx_pending |= BIT(pair);
    return true;
}

static void vnet_receive_done(void *opaque)
{
    struct virtio_net *n = opaque;

    for (unsigned pair = 0; n->rx_pending; pair++) {
        if (n->rx_pending & BIT(pair))
            virtio_pci_interrupt(n->pci, vnet_rx_queue(pair));
        n->rx_pending &= ~BIT(pair);
    }
}

/* ---- operations of the transport ---- */

/* Serve a transmit or the control queue. */
static void vnet_serve(struct virtio_net *n, unsigned queue, bool ctrl)
{
    struct virtq *q = virtio_pci_queue(n->pci, queue);
    unsigned pair = queue / 2;
    int budget = VNET_BUDGET, res = 0;

    virtq_disable_notify(q);
    if (!ctrl && n->tx_stopped) {
        n->tx_waiting |= BIT(pair);
        return;
    }
    do {
        while (budget > 0 && (res = ctrl ? vnet_ctrl_one(n, q) : vnet_tx_one(n, pair, q)) > 0)
            budget -= res;
    } while (res == 0 && budget > 0 && (ctrl || !n->tx_stopped) && virtq_enable_notify(q) && --budget > 0);
    if (!ctrl)
        net_backend_send_done(n->backend);
    virtio_pci_interrupt(n->pci, queue);
    if (res < 0)
        virtio_pci_queue_broken(n->pci, queue);
    else if (budget <= 0)
        virtio_pci_requeue(n->pci, queue);
}

static void vnet_queue_notify(void *dev, unsigned queue)
{
    struct virtio_net *n = dev;
    bool ctrl = queue == vnet_ctrl_queue(n);

    if (ctrl || queue & 1) {
        vnet_serve(n, queue, ctrl);
        return;
    }
    virtq_disable_notify(virtio_pci_queue(n->pci, queue)); /* until a frame finds no buffers */
    net_backend_receive_ready(n->backend);
}

static void vnet_activate(void *dev, uint64_t features)
{
    struct virtio_net *n = dev;

    n->features = features;
    n->pairs = 1;
    n->tx_stopped = false;
    n->tx_waiting = n->rx_pending = 0;
    memset(n->flows, 0, sizeof(n->flows));
    vnet_filter_reset(n);
    n->tx_offloads = 0;
    if (features & VNET_F_CSUM) { /* which the others need (section 5.1.3.1) */
        n->tx_offloads |= NET_OFF_CSUM | (features & VNET_F_HOST_TSO4 ? NET_OFF_TSO4 : 0);
        n->tx_offloads |= features & VNET_F_HOST_TSO6 ? NET_OFF_TSO6 : 0;
        n->tx_offloads |= features & VNET_F_HOST_ECN ? NET_OFF_ECN : 0;
        n->tx_offloads |= features & VNET_F_HOST_USO ? NET_OFF_USO : 0;
    }
    vnet_set_guest_offloads(n, features);
}

static bool vnet_reset(void *dev)
{
    struct virtio_net *n = dev;

    n->tx_stopped = false;
    n->tx_waiting = n->rx_pending = 0;
    /* What waits for the driver that was is not for the next one: with no queue it is taken and dropped. */
    net_backend_receive_ready(n->backend);
    net_backend_set_receive_offloads(n->backend, 0);
    return true;
}

static const struct virtio_dev_ops vnet_ops = {
    .activate = vnet_activate,
    .queue_notify = vnet_queue_notify,
    .reset = vnet_reset,
};

void virtio_net_set_link(struct virtio_net *n, bool up)
{
    uint8_t status[2] = { up ? VNET_STATUS_LINK_UP : 0, 0 };

    n->link_up = up;
    virtio_pci_config_set(n->pci, VNET_SPACE_STATUS, status, sizeof(status));
}

/* ---- construction ---- */

/* What this code can do; a driver that was saved may have found more or less of it offered. */
#define VNET_FEATURES                                                                                           \
    (VNET_F_MTU | VNET_F_MAC | VNET_F_MRG_RXBUF | VNET_F_STATUS | VNET_F_CTRL_VQ | VNET_F_CTRL_RX | VNET_F_MQ | \
     VNET_F_CTRL_MAC_ADDR | VNET_F_SPEED_DUPLEX | VNET_F_HOST_OFFLOADS | VNET_F_GUEST_OFFLOADS |                \
     VNET_F_CTRL_GUEST_OFFLOADS)

static uint64_t vnet_features(const struct virtio_net_config *config)
{
    uint64_t features = VNET_F_MTU | VNET_F_MAC | VNET_F_MRG_RXBUF | VNET_F_STATUS | VNET_F_CTRL_VQ | VNET_F_CTRL_RX |
                        VNET_F_CTRL_MAC_ADDR | VNET_F_SPEED_DUPLEX;

    if (config->pairs > 1)
        features |= VNET_F_MQ;
    if (!config->no_offloads)
        features |= VNET_F_HOST_OFFLOADS | VNET_F_GUEST_OFFLOADS | VNET_F_CTRL_GUEST_OFFLOADS;
    return features;
}

static int vnet_init(struct virtio_net *n, const struct virtio_env *env, const struct virtio_net_config *config)
{
    uint8_t space[VNET_SPACE_BYTES] = { 0 };
    struct virtio_pci_config pci = {
        .device_id = VIRTIO_ID_NET,
        .pci_class = 0x020000, /* network, Ethernet */
        .slot = config->slot,
        .features = vnet_features(config),
        .n_queues = n->pairs_max * 2 + 1,
        .queue_size = VNET_QUEUE_SIZE,
        .config = space,
        .config_len = sizeof(space),
        .ops = &vnet_ops,
        .opaque = n,
    };
    int res = virtq_chain_new(VIRTQ_INDIRECT_MAX, &n->chain);

    for (unsigned i = 0; i < VNET_RX_CHAINS && res == 0; i++)
        res = virtq_chain_new(VNET_RX_CAP, &n->rx[i]);
    if (res < 0)
        return res;
    memcpy(space + VNET_SPACE_MAC, config->mac, 6);
    store_le16(space + VNET_SPACE_STATUS, VNET_STATUS_LINK_UP);
    store_le16(space + VNET_SPACE_PAIRS, (uint16_t)n->pairs_max);
    store_le16(space + VNET_SPACE_MTU, config->mtu ? config->mtu : n->backend->mtu);
    store_le32(space + VNET_SPACE_SPEED, VNET_SPEED_MBITS);
    space[VNET_SPACE_DUPLEX] = VNET_DUPLEX_FULL;
    return virtio_pci_new(env, &pci, &n->pci);
}

int virtio_net_new(const struct virtio_env *env, const struct virtio_net_config *config, struct virtio_net **ret_net)
{
    struct virtio_net *n;
    int res;

    if (config->pairs > VIRTIO_NET_PAIRS_MAX)
        return -EINVAL;
    n = calloc(1, sizeof(*n));
    if (!n)
        return -ENOMEM;
    n->backend = config->backend;
    memcpy(n->mac, config->mac, 6);
    n->pairs_max = MAX(config->pairs, 1U);
    n->pairs = 1;
    n->link_up = true;
    res = vnet_init(n, env, config);
    if (res < 0) {
        virtio_net_free(n);
        return res;
    }
    vnet_filter_reset(n);
    net_backend_connect(n->backend, &(struct net_receiver){ .receive = vnet_receive,
                                                            .receive_done = vnet_receive_done,
                                                            .send_ready = vnet_send_ready,
                                                            .opaque = n });
    *ret_net = n;
    return 0;
}

void virtio_net_free(struct virtio_net *n)
{
    if (!n)
        return;
    net_backend_connect(n->backend, NULL);
    virtio_pci_free(n->pci);
    virtq_chain_free(n->chain);
    for (unsigned i = 0; i < VNET_RX_CHAINS; i++)
        virtq_chain_free(n->rx[i]);
    free(n);
}

/* ---- saved state ---- */

void virtio_net_hold(struct virtio_net *n, bool hold)
{
    virtio_pci_hold(n->pci, hold);
    if (!hold)
        net_backend_receive_ready(n->backend);
}

void virtio_net_save(struct virtio_net *n, struct buf *b)
{
    (void)virtio_pci_save(n->pci, b);
    pack_u16(b, (uint16_t)n->pairs);
    pack_u64(b, n->guest_offloads);
    vnet_filter_save(&n->filter, b);
    pack_bytes(b, n->mac, 6);
}

int virtio_net_restore(struct virtio_net *n, uint16_t version, struct unpack *in)
{
    uint8_t own[2], saved[2], mac[6];
    struct vnet_filter filter;
    uint64_t features, offloads;
    unsigned pairs;
    int live, res;

    (void)version;
    virtio_pci_config_get(n->pci, VNET_SPACE_STATUS, own, sizeof(own));
    live = virtio_pci_restore(n->pci, VNET_FEATURES, in, &features);
    if (live < 0)
        return live;
    pairs = unpack_u16(in);
    offloads = unpack_u64(in);
    vnet_filter_restore(&filter, in);
    unpack_bytes(in, mac, sizeof(mac));
    res = unpack_end(in);
    if (res == 0 && (pairs < 1 || pairs > n->pairs_max || offloads & ~features))
        res = -EBADMSG;
    if (res < 0)
        return res;
    if (live) {
        vnet_activate(n, features);
        vnet_set_guest_offloads(n, offloads);
        n->pairs = pairs;
        n->filter = filter;
    }
    /* Another address than it had: the driver reads it when it starts the next time. */
    if (memcmp(mac, n->mac, sizeof(mac)) != 0)
        virtio_pci_config_set(n->pci, VNET_SPACE_MAC, n->mac, sizeof(mac));
    /* The cable is this machine's. */
    virtio_pci_config_get(n->pci, VNET_SPACE_STATUS, saved, sizeof(saved));
    if (memcmp(own, saved, sizeof(own)) != 0)
        virtio_pci_config_set(n->pci, VNET_SPACE_STATUS, own, sizeof(own));
    return 0;
}
