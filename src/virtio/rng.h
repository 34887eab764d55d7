/* virtio-rng: the host's random numbers for the guest. Spec: virtio 1.2 section 5.4. */
#ifndef VIRTIO_RNG_H
#define VIRTIO_RNG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "virtio/env.h"

struct buf;
struct unpack;
struct virtio_rng;

#define VIRTIO_RNG_STATE_VERSION 1

/* Before vCPUs run. slot: PCI slot or -1. -ENOMEM; errors of virtio_pci_new. */
int virtio_rng_new(const struct virtio_env *env, int slot, struct virtio_rng **ret_rng) MUST_USE;
/* vCPUs are stopped. On the loop thread, or when it does not run. NULL accepted. */
void virtio_rng_free(struct virtio_rng *r);

/* Held, the device serves no queue. Released, it goes on. */
void virtio_rng_hold(struct virtio_rng *r, bool hold);
/* Append its state (docs/snapshot-format.md). Held, the vCPUs stand. */
void virtio_rng_save(struct virtio_rng *r, struct buf *b);
/* Take a state over; before the vCPUs run. It is held until virtio_rng_hold(..., false). -EBADMSG: it makes no sense,
 * the device is to be freed. */
int virtio_rng_restore(struct virtio_rng *r, uint16_t version, struct unpack *in) MUST_USE;

#endif
