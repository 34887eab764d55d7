/* virtio over PCI (modern only): registers, feature negotiation, status, queues, interrupts. A device is a table of
 * operations plus its configuration space as bytes; it never sees a register.
 *
 * Threads: registers are served on vCPU threads under a lock of the transport; every operation of a device is called on
 * the loop thread. Nothing of the transport is locked while an operation runs. Life of a device: new -> (driver sets
 * DRIVER_OK) activate -> queue_notify ... -> reset -> activate ... -> free. Spec: virtio 1.2
 * sections 2.1, 2.4, 3.1, 4.1. */
#ifndef VIRTIO_PCI_H
#define VIRTIO_PCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "virtio/env.h"
#include "virtio/queue.h"

struct buf;
struct unpack;
struct virtio_pci;

#define VIRTIO_PCI_QUEUES_MAX 64
#define VIRTIO_PCI_CONFIG_MAX 256

/* All on the loop thread; dev: the opaque pointer of the configuration. */
struct virtio_dev_ops {
    /* The driver is ready: features are those it accepted, queues that it enabled are ready (virtio_pci_queue). Every
     * ready queue gets a queue_notify afterwards. */
    void (*activate)(void *dev, uint64_t features);
    /* Queue (ready, not broken) may have new chains. */
    void (*queue_notify)(void *dev, unsigned queue);
    /* Stop: the queues are gone already (virtio_pci_queue gives NULL). Return true when no request is in flight any
     * more and guest memory will not be touched; false: the device calls virtio_pci_reset_done once that is so. */
    bool (*reset)(void *dev);
};

struct virtio_pci_config {
    uint16_t device_id;               /* VIRTIO_ID_* */
    uint32_t pci_class;               /* 24 bits */
    int slot;                         /* -1: next free */
    uint64_t features;                /* device-specific bits; the transport adds its own */
    unsigned n_queues;                /* 1..VIRTIO_PCI_QUEUES_MAX */
    uint16_t queue_size;              /* largest, a power of two */
    const void *config;               /* initial bytes of device-specific configuration space, copied */
    const void *config_writable;      /* mask of bits that the driver may write, config_len bytes, or NULL: none */
    size_t config_len;                /* 0..VIRTIO_PCI_CONFIG_MAX */
    const struct virtio_dev_ops *ops; /* borrowed */
    void *opaque;
};

/* Before vCPUs run. env is copied, what it points to is borrowed. -EINVAL: bounds above; -ENOSPC; -ENOMEM; errors of
 * eventfd. */
int virtio_pci_new(const struct virtio_env *env, const struct virtio_pci_config *config,
                   struct virtio_pci **ret_dev) MUST_USE;
/* vCPUs are stopped and no request is in flight. On the loop thread, or when it does not run. Calls no operation. */
void virtio_pci_free(struct virtio_pci *p); /* NULL accepted */

/* Functions below: loop thread only. */

/* The queue, or NULL where it is not ready (never enabled, invalid, device reset). Valid until reset is called. */
struct virtq *virtio_pci_queue(struct virtio_pci *p, unsigned queue);
/* Interrupt the driver for a queue where it wants that (virtq_should_interrupt). */
void virtio_pci_interrupt(struct virtio_pci *p, unsigned queue);
/* A queue was found broken (or a request malformed beyond answering): it stops, the driver is told NEEDS_RESET; other
 * queues go on. */
void virtio_pci_queue_broken(struct virtio_pci *p, unsigned queue);
/* Call queue_notify again soon, after other events had their turn: how a device bounds its work per call. */
void virtio_pci_requeue(struct virtio_pci *p, unsigned queue);
/* A reset for which the operation returned false is complete. */
void virtio_pci_reset_done(struct virtio_pci *p);
/* Copy out of / into device configuration space; off + len <= config_len. _set tells the driver (generation,
 * interrupt). */
void virtio_pci_config_get(struct virtio_pci *p, size_t off, void *data, size_t len);
void virtio_pci_config_set(struct virtio_pci *p, size_t off, const void *data, size_t len);

/* Held, the device gets no queue_notify, and changes of configuration space are told to the driver later; registers
 * are served as ever, activation and reset too. Released, every ready queue gets one, and the interrupts come that are
 * owed. */
void virtio_pci_hold(struct virtio_pci *p, bool hold);
bool virtio_pci_held(const struct virtio_pci *p);
/* Append the transport's state, configuration space included. Held, the vCPUs stand. Returns whether it is that of a
 * live device (one whose reset is due is not). */
bool virtio_pci_save(struct virtio_pci *p, struct buf *b);
/* Take a state over from the front of in; before the vCPUs run, the device is held until virtio_pci_hold(p, false).
 * features: all that a device of this type can do, of which the saved one may have offered others than this one (they
 * hold until the next start of the VM). 1: the device is live, with *ret_features negotiated and its queues ready; its
 * maker does what activate would, but for looking at queues; 0: it is not; -EBADMSG. Configuration space is the saved
 * one. */
int virtio_pci_restore(struct virtio_pci *p, uint64_t features, struct unpack *in, uint64_t *ret_features) MUST_USE;

#endif
