/* The control queue of virtio-net: receive filter, MAC address, offloads, number of queue pairs. Spec: virtio 1.2
 * section 5.1.6.5. */
#include "virtio/net_priv.h"

#include <errno.h>
#include <string.h>

#include "base/pack.h"

enum { VNET_CTRL_OK = 0, VNET_CTRL_ERR = 1 };
/* Classes, and commands in them. */
enum {
    VNET_CLASS_RX = 0,
    VNET_RX_PROMISC = 0,
    VNET_RX_ALLMULTI = 1,
    VNET_CLASS_MAC = 1,
    VNET_MAC_TABLE_SET = 0,
    VNET_MAC_ADDR_SET = 1,
    VNET_CLASS_MQ = 4,
    VNET_MQ_PAIRS_SET = 0,
    VNET_CLASS_OFFLOADS = 5,
    VNET_OFFLOADS_SET = 0,
};

/* ---- filter ---- */

void vnet_filter_reset(struct virtio_net *n)
{
    memset(&n->filter, 0, sizeof(n->filter));
    n->filter.promisc = true;
    virtio_pci_config_get(n->pci, VNET_SPACE_MAC, n->filter.own, 6);
}

bool vnet_filter_passes(const struct vnet_filter *f, const uint8_t *frame)
{
    static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    unsigned group = frame[0] & 1;

    if (f->promisc || f->overflow[group] || (group && f->allmulti))
        return true;
    if (memcmp(frame, group ? broadcast : f->own, 6) == 0)
        return true;
    for (unsigned i = 0; i < f->count[group]; i++) {
        if (memcmp(frame, f->macs[group][i], 6) == 0)
            return true;
    }
    return false;
}

void vnet_filter_save(const struct vnet_filter *f, struct buf *b)
{
    pack_bool(b, f->promisc);
    pack_bool(b, f->allmulti);
    for (unsigned i = 0; i < 2; i++) {
        pack_bool(b, f->overflow[i]);
        pack_blob(b, f->macs[i], 6 * f->count[i]);
    }
    pack_bytes(b, f->own, 6);
}

void vnet_filter_restore(struct vnet_filter *f, struct unpack *in)
{
    memset(f, 0, sizeof(*f));
    f->promisc = unpack_bool(in);
    f->allmulti = unpack_bool(in);
    for (unsigned i = 0; i < 2; i++) {
        const uint8_t *macs;
        uint32_t len;

        f->overflow[i] = unpack_bool(in);
        macs = unpack_blob(in, sizeof(f->macs[i]), &len);
        if (len % 6 != 0)
            unpack_refuse(in);
        if (!in->error && len > 0)
            memcpy(f->macs[i], macs, len);
        f->count[i] = len / 6;
    }
    unpack_bytes(in, f->own, 6);
    if (f->own[0] & 1)
        unpack_refuse(in);
}

static uint8_t vnet_set_rx_mode(struct virtio_net *n, const struct virtq_chain *c, uint8_t cmd)
{
    uint8_t on;

    if (cmd > VNET_RX_ALLMULTI || virtq_chain_read(c, 2, &on, 1) < 1)
        return VNET_CTRL_ERR;
    if (cmd == VNET_RX_PROMISC)
        n->filter.promisc = on;
    else
        n->filter.allmulti = on;
    return VNET_CTRL_OK;
}

/* Two tables, unicast and group: count, then addresses. Where one does not fit, all of its kind pass. */
static uint8_t vnet_set_mac_table(struct virtio_net *n, const struct virtq_chain *c)
{
    struct vnet_filter next = n->filter;
    size_t at = 2;

    for (unsigned i = 0; i < 2; i++) {
        uint8_t raw[4];
        uint32_t count;

        if (virtq_chain_read(c, at, raw, 4) < 4)
            return VNET_CTRL_ERR;
        at += 4;
        count = load_le32(raw);
        if (count > (c->out_len - at) / 6)
            return VNET_CTRL_ERR;
        next.overflow[i] = count > VNET_MACS_MAX;
        next.count[i] = next.overflow[i] ? 0 : count;
        virtq_chain_read(c, at, next.macs[i], 6 * (size_t)next.count[i]);
        at += 6 * (size_t)count;
    }
    n->filter = next;
    return VNET_CTRL_OK;
}

static uint8_t vnet_set_mac(struct virtio_net *n, const struct virtq_chain *c)
{
    uint8_t mac[6];

    if (virtq_chain_read(c, 2, mac, 6) < 6 || mac[0] & 1)
        return VNET_CTRL_ERR;
    memcpy(n->filter.own, mac, 6);
    virtio_pci_config_set(n->pci, VNET_SPACE_MAC, mac, 6);
    return VNET_CTRL_OK;
}

/* ---- offloads, queues ---- */

void vnet_set_guest_offloads(struct virtio_net *n, uint64_t offloads)
{
    const uint64_t uso = VNET_F_GUEST_USO4 | VNET_F_GUEST_USO6;
    unsigned takes = 0;

    n->guest_offloads = offloads & VNET_F_GUEST_OFFLOADS;
    if (offloads & VNET_F_GUEST_CSUM) {
        takes |= NET_OFF_CSUM | (offloads & VNET_F_GUEST_TSO4 ? NET_OFF_TSO4 : 0);
        takes |= offloads & VNET_F_GUEST_TSO6 ? NET_OFF_TSO6 : 0;
        takes |= offloads & VNET_F_GUEST_ECN ? NET_OFF_ECN : 0;
        takes |= (offloads & uso) == uso ? NET_OFF_USO : 0;
    }
    net_backend_set_receive_offloads(n->backend, takes);
}

static uint8_t vnet_set_offloads(struct virtio_net *n, const struct virtq_chain *c)
{
    uint8_t raw[8];

    if (!(n->features & VNET_F_CTRL_GUEST_OFFLOADS) || virtq_chain_read(c, 2, raw, 8) < 8 ||
        load_le64(raw) & ~(n->features & VNET_F_GUEST_OFFLOADS))
        return VNET_CTRL_ERR;
    vnet_set_guest_offloads(n, load_le64(raw));
    return VNET_CTRL_OK;
}

static uint8_t vnet_set_pairs(struct virtio_net *n, const struct virtq_chain *c)
{
    uint8_t raw[2];
    unsigned pairs;

    if (!(n->features & VNET_F_MQ) || virtq_chain_read(c, 2, raw, 2) < 2)
        return VNET_CTRL_ERR;
    pairs = load_le16(raw);
    if (pairs < 1 || pairs > n->pairs_max)
        return VNET_CTRL_ERR;
    n->pairs = pairs;
    return VNET_CTRL_OK;
}

/* ---- commands ---- */

static uint8_t vnet_command(struct virtio_net *n, const struct virtq_chain *c)
{
    uint8_t cmd[2];

    if (virtq_chain_read(c, 0, cmd, 2) < 2)
        return VNET_CTRL_ERR;
    if (cmd[0] == VNET_CLASS_RX)
        return vnet_set_rx_mode(n, c, cmd[1]);
    if (cmd[0] == VNET_CLASS_MAC && cmd[1] == VNET_MAC_TABLE_SET)
        return vnet_set_mac_table(n, c);
    if (cmd[0] == VNET_CLASS_MAC && cmd[1] == VNET_MAC_ADDR_SET)
        return vnet_set_mac(n, c);
    if (cmd[0] == VNET_CLASS_MQ && cmd[1] == VNET_MQ_PAIRS_SET)
        return vnet_set_pairs(n, c);
    if (cmd[0] == VNET_CLASS_OFFLOADS && cmd[1] == VNET_OFFLOADS_SET)
        return vnet_set_offloads(n, c);
    return VNET_CTRL_ERR;
}

int vnet_ctrl_one(struct virtio_net *n, struct virtq *q)
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
