/* virtio-rng: the host's random numbers for the guest. Spec: virtio 1.2 section 5.4. */
#ifndef VIRTIO_RNG_H
#define VIRTIO_RNG_H

#include "base/attr.h"
#include "virtio/env.h"

struct virtio_rng;

/* Before vCPUs run. slot: PCI slot or -1. -ENOMEM; errors of virtio_pci_new. */
int virtio_rng_new(const struct virtio_env *env, int slot, struct virtio_rng **ret_rng) MUST_USE;
/* vCPUs are stopped. On the loop thread, or when it does not run. NULL accepted. */
void virtio_rng_free(struct virtio_rng *r);

#endif
