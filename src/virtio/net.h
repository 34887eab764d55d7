/* virtio-net: an Ethernet device in front of a network back end. Spec: virtio 1.2 section 5.1. */
#ifndef VIRTIO_NET_H
#define VIRTIO_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "virtio/env.h"

struct net_backend;
struct virtio_net;

struct virtio_net_config {
    struct net_backend *backend; /* borrowed until virtio_net_free; connected to this device alone */
    uint8_t mac[6];              /* unicast */
    int slot;                    /* PCI slot, -1: next free */
};

/* Before vCPUs run. -ENOMEM; errors of virtio_pci_new. */
int virtio_net_new(const struct virtio_env *env, const struct virtio_net_config *config,
                   struct virtio_net **ret_net) MUST_USE;
/* vCPUs are stopped. On the loop thread, or when it does not run. NULL accepted. */
void virtio_net_free(struct virtio_net *n);
/* Plug or pull the cable. Loop thread. */
void virtio_net_set_link(struct virtio_net *n, bool up);

#endif
