/* State of the PCI transport, shared by its register part (pci_regs.c) and its life-cycle part (pci.c). */
#ifndef VIRTIO_PCI_PRIV_H
#define VIRTIO_PCI_PRIV_H

#include <pthread.h>

#include "hw/bus.h"
#include "hw/pci.h"
#include "sys/loop.h"
#include "virtio/pci.h"

/* Layout of the register BAR. */
enum {
    VIRTIO_PCI_BAR = 4,
    VIRTIO_PCI_MSIX_BAR = 1,
    VIRTIO_PCI_COMMON_OFF = 0x0000,
    VIRTIO_PCI_ISR_OFF = 0x1000,
    VIRTIO_PCI_DEVICE_OFF = 0x2000,
    VIRTIO_PCI_NOTIFY_OFF = 0x3000,
    VIRTIO_PCI_BAR_SIZE = 0x4000,
    VIRTIO_PCI_NOTIFY_STEP = 4, /* notify_off_multiplier: a doorbell address for each queue */
};

#define VIRTIO_PCI_NO_VECTOR 0xffff

/* Bits of the ISR register. */
enum { VIRTIO_PCI_ISR_QUEUE = 1, VIRTIO_PCI_ISR_CONFIG = 2 };

struct virtio_pci_queue {
    struct virtio_pci *dev;
    /* Registers, under the lock. */
    uint16_t size;
    bool enabled;
    uint64_t desc, driver, device;
    _Atomic uint16_t vector;
    /* Loop thread. */
    struct virtq vq;
    int notify_fd; /* eventfd: doorbell */
    struct loop_fd *notify_src;
    /* Bridge's lock (bar_moved): address under which the doorbell stands with the engine, 0 = none. */
    uint64_t doorbell_gpa;
};

struct virtio_pci {
    struct virtio_env env;
    struct virtio_pci_config cfg; /* config pointers are not valid after new */
    uint64_t features;            /* offered */
    struct pci_dev *pci;
    unsigned pci_cfg_cap; /* offset of the PCI configuration access capability */

    pthread_mutex_t lock; /* registers below, up to config */
    pthread_cond_t reset_cond;
    uint32_t device_feature_select, driver_feature_select;
    uint64_t driver_features;
    uint8_t status, generation;
    uint16_t queue_select;
    bool active; /* DRIVER_OK was accepted: the loop thread knows the queues or soon will */
    bool activate_pending, reset_pending, reset_running;
    uint8_t config[VIRTIO_PCI_CONFIG_MAX], config_writable[VIRTIO_PCI_CONFIG_MAX];
    _Atomic uint16_t config_vector;

    pthread_mutex_t isr_lock; /* ISR and the INTx level, which must change together */
    uint8_t isr;

    /* Loop thread. */
    bool live; /* activate was called and reset was not */
    bool held;
    bool config_owed; /* the driver is to be told of configuration space when the device is released */
    int ctl_fd;       /* eventfd: activate_pending or reset_pending was set */
    struct loop_fd *ctl_src;

    unsigned n_queues;
    struct virtio_pci_queue queues[];
};

/* Handlers of the register BAR; dev: struct virtio_pci. vCPU threads. */
extern const struct bus_ops virtio_pci_bar_ops;

/* Registers to their state after reset. Lock held. */
void virtio_pci_regs_reset_locked(struct virtio_pci *p);
void virtio_pci_signal(int fd);
/* What the registers of a queue say, with the features negotiated. Lock held. */
struct virtq_config virtio_pci_queue_config(const struct virtio_pci_queue *q, uint64_t features);
/* Tell the driver that configuration space changed, or will have when the device is released. */
void virtio_pci_config_interrupt(struct virtio_pci *p);

/* What the transport adds to every device's features. */
#define VIRTIO_PCI_FEATURES (VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX)
/* Read the ISR register: clears it and lowers INTx. */
uint8_t virtio_pci_isr_read(struct virtio_pci *p);

#endif
