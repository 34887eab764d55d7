/* virtio-net with one queue pair and a control queue.
 *
 * Frames from the guest are copied out, so that what is checked is what is sent; checksums that the guest left to the
 * device are filled in here. Frames to the guest go straight into its buffers, several of them for one frame where
 * negotiated; with too few buffers the back end keeps the frame, and the guest's next notification of the receive queue
 * asks for it again. The receive filter is open: nothing but the guest's own traffic reaches a back end's port. Spec:
 * virtio 1.2 section 5.1. */
#include "virtio/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "net/backend.h"
#include "virtio/ids.h"
#include "virtio/pci.h"

#define VNET_F_CSUM BIT64(0)
#define VNET_F_GUEST_CSUM BIT64(1)
#define VNET_F_MTU BIT64(3)
#define VNET_F_MAC BIT64(5)
#define VNET_F_MRG_RXBUF BIT64(15)
#define VNET_F_STATUS BIT64(16)
#define VNET_F_CTRL_VQ BIT64(17)
#define VNET_F_CTRL_RX BIT64(18)
#define VNET_F_CTRL_MAC_ADDR BIT64(23)

enum { VNET_RX = 0, VNET_TX = 1, VNET_CTRL = 2, VNET_QUEUES = 3 };
enum {
    VNET_QUEUE_SIZE = 256,
    VNET_CHAIN_CAP = 64,
    VNET_RX_CHAINS = 64, /* most buffers for one frame */
    VNET_BUDGET = 256,   /* frames or commands in one call */
    VNET_HDR = 12,       /* struct virtio_net_hdr with num_buffers */
};
enum { VNET_HDR_F_NEEDS_CSUM = 1, VNET_HDR_F_DATA_VALID = 2 };
enum { VNET_STATUS_LINK_UP = 1 };
enum { VNET_CTRL_OK = 0, VNET_CTRL_ERR = 1 };
/* Control classes and commands (section 5.1.6.5). */
enum { VNET_CLASS_RX = 0, VNET_CLASS_MAC = 1, VNET_RX_LAST = 1, VNET_MAC_TABLE_SET = 0, VNET_MAC_ADDR_SET = 1 };

/* Offsets in configuration space (section 5.1.4). */
enum { VNET_SPACE_MAC = 0, VNET_SPACE_STATUS = 6, VNET_SPACE_PAIRS = 8, VNET_SPACE_MTU = 10, VNET_SPACE_BYTES = 12 };

/* Loop thread only, but for construction. */
struct virtio_net {
    struct virtio_pci *pci;
    struct net_backend *backend;
    uint64_t features;         /* negotiated */
    struct virtq_chain *chain; /* for transmit and control */
    struct virtq_chain *rx[VNET_RX_CHAINS];
    uint8_t frame[VNET_HDR + NET_FRAME_MAX];
};

/* ---- transmit ---- */

/* Fill in the checksum over [start, len) at start + off, where the guest has put that of the pseudo header. False: the
 * header's numbers point outside the frame. */
static bool vnet_fill_checksum(uint8_t *frame, size_t len, size_t start, size_t off)
{
    uint64_t sum = 0;

    if (start + off + 2 > len)
        return false;
    for (size_t i = start; i + 1 < len; i += 2)
        sum += load_le16(frame + i);
    if ((len - start) & 1)
        sum += frame[len - 1];
    /* One's complement addition does not care about byte order, nor when carries are folded in. */
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    sum = ~sum & 0xffff;
    /* Zero would mean "no checksum" in UDP; all ones is the same number. */
    store_le16(frame + start + off, (uint16_t)(sum ? sum : 0xffff));
    return true;
}

/* Frames that make no sense are dropped, as a wire would. */
static void vnet_transmit(struct virtio_net *n, const struct virtq_chain *c)
{
    size_t len = virtq_chain_read(c, 0, n->frame, sizeof(n->frame));
    const uint8_t *hdr = n->frame;
    uint8_t *frame = n->frame + VNET_HDR;

    if (c->out_len > sizeof(n->frame) || len < VNET_HDR + NET_HEADER)
        return;
    len -= VNET_HDR;
    if (hdr[1] != 0) /* segmentation offload, which is not offered */
        return;
    if (hdr[0] & VNET_HDR_F_NEEDS_CSUM &&
        (!(n->features & VNET_F_CSUM) || !vnet_fill_checksum(frame, len, load_le16(hdr + 6), load_le16(hdr + 8))))
        return;
    net_backend_send(n->backend, frame, len);
}

static int vnet_tx_one(struct virtio_net *n, struct virtq *q)
{
    int res = virtq_pop(q, n->chain);

    if (res <= 0)
        return res;
    vnet_transmit(n, n->chain);
    virtq_push(q, n->chain, 0);
    return 1;
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

/* Spread header and frame over count buffers and hand them over at once. */
static void vnet_rx_fill(struct virtio_net *n, struct virtq *q, unsigned count, const uint8_t *frame, size_t len)
{
    uint8_t hdr[VNET_HDR] = { 0 };
    uint32_t lens[VNET_RX_CHAINS];
    size_t done = 0;

    if (n->features & VNET_F_GUEST_CSUM && n->backend->checksums_good)
        hdr[0] = VNET_HDR_F_DATA_VALID;
    store_le16(hdr + 10, (uint16_t)count);
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

static bool vnet_receive(void *opaque, const uint8_t *frame, size_t len)
{
    struct virtio_net *n = opaque;
    struct virtq *q = virtio_pci_queue(n->pci, VNET_RX);
    int count;

    if (!q || q->broken)
        return true; /* nobody listens */
    count = vnet_rx_gather(n, q, VNET_HDR + len);
    if (count == 0)
        return false;
    if (count == -EFAULT)
        virtio_pci_queue_broken(n->pci, VNET_RX);
    if (count < 0)
        return true;
    vnet_rx_fill(n, q, (unsigned)count, frame, len);
    virtio_pci_interrupt(n->pci, VNET_RX);
    return true;
}

/* ---- control ---- */

static uint8_t vnet_set_mac_table(const struct virtq_chain *c)
{
    size_t at = 2;

    /* Two tables, unicast and multicast: count, then addresses. Filtering is best effort by specification; ours lets
     * all pass, so only the form is checked. */
    for (unsigned i = 0; i < 2; i++) {
        uint8_t count[4];

        if (virtq_chain_read(c, at, count, 4) < 4)
            return VNET_CTRL_ERR;
        at += 4;
        if (load_le32(count) > (c->out_len - at) / 6)
            return VNET_CTRL_ERR;
        at += 6 * (size_t)load_le32(count);
    }
    return VNET_CTRL_OK;
}

static uint8_t vnet_command(struct virtio_net *n, const struct virtq_chain *c)
{
    uint8_t cmd[2], mac[6], on;

    if (virtq_chain_read(c, 0, cmd, 2) < 2)
        return VNET_CTRL_ERR;
    if (cmd[0] == VNET_CLASS_RX && cmd[1] <= VNET_RX_LAST)
        return virtq_chain_read(c, 2, &on, 1) == 1 ? VNET_CTRL_OK : VNET_CTRL_ERR;
    if (cmd[0] == VNET_CLASS_MAC && cmd[1] == VNET_MAC_TABLE_SET)
        return vnet_set_mac_table(c);
    if (cmd[0] == VNET_CLASS_MAC && cmd[1] == VNET_MAC_ADDR_SET) {
        if (virtq_chain_read(c, 2, mac, 6) < 6 || mac[0] & 1)
            return VNET_CTRL_ERR;
        virtio_pci_config_set(n->pci, VNET_SPACE_MAC, mac, 6);
        return VNET_CTRL_OK;
    }
    return VNET_CTRL_ERR;
}

static int vnet_ctrl_one(struct virtio_net *n, struct virtq *q)
{
    uint8_t ack;
    int res = virtq_pop(q, n->chain);

    if (res <= 0)
        return res;
    if (n->chain->in_len == 0)
        return -EFAULT;
    ack = vnet_command(n, n->chain);
    virtq_push(q, n->chain, (uint32_t)virtq_chain_write(n->chain, 0, &ack, 1));
    return 1;
}

/* ---- operations of the transport ---- */

static void vnet_queue_notify(void *dev, unsigned queue)
{
    struct virtio_net *n = dev;
    struct virtq *q = virtio_pci_queue(n->pci, queue);
    unsigned budget = VNET_BUDGET;
    int res = 0;

    if (queue == VNET_RX) {
        virtq_disable_notify(q); /* until a frame finds no buffers */
        net_backend_receive_ready(n->backend);
        return;
    }
    virtq_disable_notify(q);
    do {
        while (budget > 0 && (res = queue == VNET_TX ? vnet_tx_one(n, q) : vnet_ctrl_one(n, q)) > 0)
            budget--;
    } while (res == 0 && budget > 0 && virtq_enable_notify(q) && --budget > 0);
    if (queue == VNET_TX)
        net_backend_send_done(n->backend);
    virtio_pci_interrupt(n->pci, queue);
    if (res < 0)
        virtio_pci_queue_broken(n->pci, queue);
    else if (budget == 0)
        virtio_pci_requeue(n->pci, queue);
}

static void vnet_activate(void *dev, uint64_t features)
{
    struct virtio_net *n = dev;

    n->features = features;
}

static bool vnet_reset(void *dev)
{
    struct virtio_net *n = dev;

    /* What waits for the driver that was is not for the next one: with no queue it is taken and dropped. */
    net_backend_receive_ready(n->backend);
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

    virtio_pci_config_set(n->pci, VNET_SPACE_STATUS, status, sizeof(status));
}

/* ---- construction ---- */

static int vnet_init(struct virtio_net *n, const struct virtio_env *env, const struct virtio_net_config *config)
{
    uint8_t space[VNET_SPACE_BYTES] = { 0 };
    struct virtio_pci_config pci = {
        .device_id = VIRTIO_ID_NET,
        .pci_class = 0x020000, /* network, Ethernet */
        .slot = config->slot,
        .features = VNET_F_CSUM | VNET_F_GUEST_CSUM | VNET_F_MTU | VNET_F_MAC | VNET_F_MRG_RXBUF | VNET_F_STATUS |
                    VNET_F_CTRL_VQ | VNET_F_CTRL_RX | VNET_F_CTRL_MAC_ADDR,
        .n_queues = VNET_QUEUES,
        .queue_size = VNET_QUEUE_SIZE,
        .config = space,
        .config_len = sizeof(space),
        .ops = &vnet_ops,
        .opaque = n,
    };
    int res = virtq_chain_new(VNET_CHAIN_CAP, &n->chain);

    for (unsigned i = 0; i < VNET_RX_CHAINS && res == 0; i++)
        res = virtq_chain_new(VNET_CHAIN_CAP, &n->rx[i]);
    if (res < 0)
        return res;
    memcpy(space + VNET_SPACE_MAC, config->mac, 6);
    store_le16(space + VNET_SPACE_STATUS, VNET_STATUS_LINK_UP);
    store_le16(space + VNET_SPACE_PAIRS, 1);
    store_le16(space + VNET_SPACE_MTU, n->backend->mtu);
    return virtio_pci_new(env, &pci, &n->pci);
}

int virtio_net_new(const struct virtio_env *env, const struct virtio_net_config *config, struct virtio_net **ret_net)
{
    struct virtio_net *n = calloc(1, sizeof(*n));
    int res;

    if (!n)
        return -ENOMEM;
    n->backend = config->backend;
    res = vnet_init(n, env, config);
    if (res < 0) {
        virtio_net_free(n);
        return res;
    }
    net_backend_connect(n->backend, &(struct net_receiver){ .receive = vnet_receive, .opaque = n });
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
