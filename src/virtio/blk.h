/* virtio-blk: a block device in front of a disk image. Spec: virtio 1.2 section 5.2. */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include "base/attr.h"
#include "virtio/env.h"

struct blk_image;
struct virtio_blk;

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
/* vCPUs are stopped. Waits for requests in flight. On the loop thread, or when it does not run. NULL accepted. */
void virtio_blk_free(struct virtio_blk *b);

#endif
