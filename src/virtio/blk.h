/* virtio-blk: a block device in front of a disk image. Spec: virtio 1.2 section 5.2. */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "virtio/env.h"

struct blk_image;
struct buf;
struct unpack;
struct virtio_blk;

#define VIRTIO_BLK_STATE_VERSION 1

#define VIRTIO_BLK_QUEUES_MAX 16
#define VIRTIO_BLK_SERIAL_MAX 20

struct virtio_blk_config {
    struct blk_image *image; /* borrowed until virtio_blk_free; nobody else submits to it */
    const char *serial;      /* copied, cut at VIRTIO_BLK_SERIAL_MAX bytes; NULL: none */
    unsigned n_queues;       /* 1..VIRTIO_BLK_QUEUES_MAX; 0 stands for 1 */
    int slot;                /* PCI slot, -1: next free */
};

/* Before vCPUs run. -EINVAL: n_queues; -ENOMEM; errors of virtio_pci_new. */
int virtio_blk_new(const struct virtio_env *env, const struct virtio_blk_config *config,
                   struct virtio_blk **ret_blk) MUST_USE;
/* The node behind the image was resized: the driver gets the new capacity and an interrupt. Loop thread.
 * Spec: section 5.2.5 */
void virtio_blk_resized(struct virtio_blk *b);
/* vCPUs are stopped. Waits for requests in flight. On the loop thread, or when it does not run. NULL accepted. */
void virtio_blk_free(struct virtio_blk *b);

/* Held, the device serves no queue. Released, it goes on. */
void virtio_blk_hold(struct virtio_blk *b, bool hold);
/* Append its state (docs/snapshot-format.md). Held, the vCPUs stand, no request is at the image's host any more
 * (blk_image_quiesce); those that wait before its gate are part of the state. */
void virtio_blk_save(struct virtio_blk *b, struct buf *out);
/* Take a state over; before the vCPUs run. It is held until virtio_blk_hold(..., false). -ENOSPC: the image is smaller
 * than the one saved; -EBADMSG: it makes no sense. In both cases the device is to be freed. */
int virtio_blk_restore(struct virtio_blk *b, uint16_t version, struct unpack *in) MUST_USE;

#endif
