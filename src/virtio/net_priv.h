/* Insides of virtio-net, shared by its files only: net.c (frames, construction), net_ctrl.c (control queue, filter),
 * net_flow.c (steering). */
#ifndef VIRTIO_NET_PRIV_H
#define VIRTIO_NET_PRIV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/bits.h"
#include "net/backend.h"
#include "virtio/net.h"
#include "virtio/pci.h"

/* Section 5.1.3; those of UDP segmentation as in Linux's uapi/linux/virtio_net.h. */
#define VNET_F_CSUM BIT64(0)
#define VNET_F_GUEST_CSUM BIT64(1)
#define VNET_F_CTRL_GUEST_OFFLOADS BIT64(2)
#define VNET_F_MTU BIT64(3)
#define VNET_F_MAC BIT64(5)
#define VNET_F_GUEST_TSO4 BIT64(7)
#define VNET_F_GUEST_TSO6 BIT64(8)
#define VNET_F_GUEST_ECN BIT64(9)
#define VNET_F_HOST_TSO4 BIT64(11)
#define VNET_F_HOST_TSO6 BIT64(12)
#define VNET_F_HOST_ECN BIT64(13)
#define VNET_F_MRG_RXBUF BIT64(15)
#define VNET_F_STATUS BIT64(16)
#define VNET_F_CTRL_VQ BIT64(17)
#define VNET_F_CTRL_RX BIT64(18)
#define VNET_F_MQ BIT64(22)
#define VNET_F_CTRL_MAC_ADDR BIT64(23)
#define VNET_F_GUEST_USO4 BIT64(54)
#define VNET_F_GUEST_USO6 BIT64(55)
#define VNET_F_HOST_USO BIT64(56)
#define VNET_F_SPEED_DUPLEX BIT64(63)

#define VNET_F_GUEST_OFFLOADS                                                                           \
    (VNET_F_GUEST_CSUM | VNET_F_GUEST_TSO4 | VNET_F_GUEST_TSO6 | VNET_F_GUEST_ECN | VNET_F_GUEST_USO4 | \
     VNET_F_GUEST_USO6)
#define VNET_F_HOST_OFFLOADS (VNET_F_CSUM | VNET_F_HOST_TSO4 | VNET_F_HOST_TSO6 | VNET_F_HOST_ECN | VNET_F_HOST_USO)

enum {
    VNET_QUEUE_SIZE = 256,
    VNET_RX_CAP = 64,    /* pieces of one receive buffer */
    VNET_RX_CHAINS = 64, /* most buffers for one frame */
    VNET_HDR = 12,       /* struct virtio_net_hdr with num_buffers */
    VNET_MACS_MAX = 64,  /* addresses in each table of the filter */
    VNET_FLOWS = 256,    /* slots of the steering table, a power of two */
};

/* Offsets in configuration space (section 5.1.4). */
enum {
    VNET_SPACE_MAC = 0,
    VNET_SPACE_STATUS = 6,
    VNET_SPACE_PAIRS = 8,
    VNET_SPACE_MTU = 10,
    VNET_SPACE_SPEED = 12,
    VNET_SPACE_DUPLEX = 16,
    VNET_SPACE_BYTES = 17,
};

/* What the driver wants to receive (section 5.1.6.5.1, .2). */
struct vnet_filter {
    bool promisc, allmulti; /* all frames; all group addresses */
    bool overflow[2];       /* more addresses than fit: all of the kind pass. [0]: unicast, [1]: group */
    unsigned count[2];
    uint8_t macs[2][VNET_MACS_MAX][6];
    uint8_t own[6];
};

/* Loop thread only, but for construction. */
struct virtio_net {
    struct virtio_pci *pci;
    struct net_backend *backend;
    uint64_t features;       /* negotiated */
    uint64_t guest_offloads; /* VNET_F_GUEST_* that the driver takes now */
    unsigned tx_offloads;    /* NET_OFF_* that the driver may use */
    uint8_t mac[6];          /* that the device was made with; configuration space has what the driver made of it */
    unsigned pairs_max;      /* that the device has */
    unsigned pairs;          /* in use */
    bool link_up;
    bool tx_stopped;           /* the back end has no room: no frame is taken off a queue until it says so */
    uint32_t tx_waiting;       /* transmit queues (bit: pair) that were notified meanwhile */
    uint32_t rx_pending;       /* receive queues (bit: pair) with buffers filled since the last interrupt */
    struct vnet_filter filter; /* of what is received */
    struct virtq_chain *chain; /* for transmit and control */
    struct virtq_chain *rx[VNET_RX_CHAINS];
    uint8_t flows[VNET_FLOWS];     /* pair + 1 on which the flow transmitted last; 0: none */
    uint8_t bounce[NET_FRAME_MAX]; /* a frame of more pieces than a back end takes */
};

/* Serve one chain of the control queue. As virtq_pop; -EFAULT: the caller breaks the queue. */
int vnet_ctrl_one(struct virtio_net *n, struct virtq *q) MUST_USE;
/* As after a reset: all passes. */
void vnet_filter_reset(struct virtio_net *n);
/* Whether the driver wants a frame, of NET_HEADER bytes or more. */
bool vnet_filter_passes(const struct vnet_filter *f, const uint8_t *frame);
/* Append the filter, or read one; what makes no sense is refused in in. */
void vnet_filter_save(const struct vnet_filter *f, struct buf *b);
void vnet_filter_restore(struct vnet_filter *f, struct unpack *in);
/* Tell the back end what the driver takes: offloads are VNET_F_GUEST_* of those negotiated. */
void vnet_set_guest_offloads(struct virtio_net *n, uint64_t offloads);

/* Remember on which pair the flow of a frame transmits; head: its first bytes, private memory. */
void vnet_flow_sent(struct virtio_net *n, unsigned pair, const uint8_t *head, size_t head_len);
/* The pair on which a frame is received: that on which its flow transmitted last, else one by hash. < n->pairs */
unsigned vnet_flow_pair(const struct virtio_net *n, const uint8_t *frame, size_t len);

#endif
