/* Numbers of the virtio specification that transport and devices share. Spec: virtio 1.2 sections 2.1, 5 and 6. */
#ifndef VIRTIO_IDS_H
#define VIRTIO_IDS_H

#include "base/bits.h"

/* Device types (section 5). */
enum { VIRTIO_ID_NET = 1, VIRTIO_ID_BLOCK = 2, VIRTIO_ID_CONSOLE = 3, VIRTIO_ID_RNG = 4, VIRTIO_ID_VSOCK = 19 };

/* Device status bits (section 2.1). */
enum {
    VIRTIO_STATUS_ACKNOWLEDGE = 1,
    VIRTIO_STATUS_DRIVER = 2,
    VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8,
    VIRTIO_STATUS_NEEDS_RESET = 64,
    VIRTIO_STATUS_FAILED = 128,
};

/* Device-independent features (section 6). */
#define VIRTIO_F_INDIRECT_DESC BIT64(28)
#define VIRTIO_F_EVENT_IDX BIT64(29)
#define VIRTIO_F_VERSION_1 BIT64(32)
#define VIRTIO_F_RING_PACKED BIT64(34)

#endif
