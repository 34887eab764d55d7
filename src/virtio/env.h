/* What every virtio device needs from the machine around it. All pointers are borrowed and outlive the devices. */
#ifndef VIRTIO_ENV_H
#define VIRTIO_ENV_H

#include "hw/doorbell.h"

struct mem;
struct loop;
struct pci_host;

struct virtio_env {
    struct mem *mem;
    struct loop *loop; /* device work and completions run on its thread */
    struct pci_host *pci;
    struct doorbell_sink doorbell; /* add == NULL: none */
    /* How long a vCPU that resets a device with requests in flight is held at most, in milliseconds, before the reset
     * goes on without it (drivers then poll the status register; some firmware does not, hence the wait). 0: not at
     * all. */
    unsigned reset_wait_ms;
};

#endif
