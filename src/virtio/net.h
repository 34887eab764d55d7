/* virtio-net: an Ethernet device in front of a network back end. Spec: virtio 1.2 section 5.1. */
#ifndef VIRTIO_NET_H
#define VIRTIO_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "virtio/env.h"

struct buf;
struct net_backend;
struct unpack;
struct virtio_net;

#define VIRTIO_NET_STATE_VERSION 1

#define VIRTIO_NET_PAIRS_MAX 8

struct virtio_net_config {
    struct net_backend *backend; /* borrowed until virtio_net_free; connected to this device alone */
    uint8_t mac[6];              /* unicast */
    uint16_t mtu;                /* what the guest is told; 0: the back end's */
    unsigned pairs;              /* of queues, 1..VIRTIO_NET_PAIRS_MAX; 0: 1 */
    bool no_offloads;            /* checksums and segmentation are the guest's own work, in both directions */
    int slot;                    /* PCI slot, -1: next free */
};

/* Before vCPUs run. -EINVAL: pairs; -ENOMEM; errors of virtio_pci_new. */
int virtio_net_new(const struct virtio_env *env, const struct virtio_net_config *config,
                   struct virtio_net **ret_net) MUST_USE;
/* vCPUs are stopped. On the loop thread, or when it does not run. NULL accepted. */
void virtio_net_free(struct virtio_net *n);
/* Plug or pull the cable: without it frames are lost in both directions. Loop thread. */
void virtio_net_set_link(struct virtio_net *n, bool up);

/* Held, the device serves no queue and takes no frame from its back end. Released, it goes on. */
void virtio_net_hold(struct virtio_net *n, bool hold);
/* Append its state (docs/snapshot-format.md). Held, the vCPUs stand. */
void virtio_net_save(struct virtio_net *n, struct buf *b);
/* Take a state over; before the vCPUs run. It is held until virtio_net_hold(..., false). The link is as it was before.
 * -EBADMSG: it makes no sense, the device is to be freed. */
int virtio_net_restore(struct virtio_net *n, uint16_t version, struct unpack *in) MUST_USE;

#endif
