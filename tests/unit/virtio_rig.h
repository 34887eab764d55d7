/* A machine around one or more virtio devices, for tests: memory, buses, PCI, a loop on its own thread; and the
 * driver's way to a device: PCI configuration space, registers, MSI-X. The test's thread plays the vCPU. */
#ifndef TESTS_VIRTIO_RIG_H
#define TESTS_VIRTIO_RIG_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "hw/bus.h"
#include "hw/pci.h"
#include "mem/guest.h"
#include "sys/loop.h"
#include "virtio/env.h"
#include "virtq_driver.h"

#define RIG_RAM (32ULL << 20)
#define RIG_VECTORS 32

struct rig {
    struct mem *m;
    struct bus *mmio, *pio;
    struct pci_host *pci;
    struct loop *loop;
    struct virtio_env env;
    pthread_t thread;
    bool running;
    _Atomic unsigned msi[RIG_VECTORS]; /* messages by their data */
    int msi_event;                     /* eventfd that each message signals; 0: none */
    _Atomic bool intx[4];
};

/* A device as its driver finds it. */
struct rig_dev {
    struct rig *r;
    unsigned slot;
    uint64_t common, isr, notify, config; /* addresses; 0: no such capability */
    uint32_t notify_step;
    unsigned cfg_cap; /* PCI configuration access capability */
};

void rig_init(struct rig *r);
/* Start the loop; devices exist. */
void rig_start(struct rig *r);
/* Stop the loop, so that devices can be freed. */
void rig_stop(struct rig *r);
void rig_done(struct rig *r);

/* Walk the capabilities of the device in slot and enable MSI-X where asked for (vector n sends data n). */
void rig_find(struct rig *r, unsigned slot, bool msix, struct rig_dev *ret_dev);
uint64_t rig_read(struct rig *r, uint64_t addr, unsigned len);
void rig_write(struct rig *r, uint64_t addr, uint64_t v, unsigned len);
uint32_t rig_pci_read(struct rig *r, unsigned slot, unsigned off, unsigned len);
void rig_pci_write(struct rig *r, unsigned slot, unsigned off, uint32_t v, unsigned len);

/* Offsets of common configuration registers. */
enum {
    C_DF_SEL = 0,
    C_DF = 4,
    C_GF_SEL = 8,
    C_GF = 12,
    C_MSIX = 16,
    C_NUMQ = 18,
    C_STATUS = 20,
    C_GEN = 21,
    C_QSEL = 22,
    C_QSIZE = 24,
    C_QVEC = 26,
    C_QENABLE = 28,
    C_QNOTIFY = 30,
    C_QDESC = 32,
    C_QDRIVER = 40,
    C_QDEVICE = 48,
};
#define RIG_F_INDIRECT (1ULL << 28)
#define RIG_F_EVENT_IDX (1ULL << 29)
#define RIG_F_VERSION_1 (1ULL << 32)
#define RIG_F_PACKED (1ULL << 34)

/* Reset, then negotiate those of the wanted features that the device offers; returns them. */
uint64_t rig_negotiate(struct rig_dev *d, uint64_t wanted);
/* Tell the device of queue index at q, with MSI-X vector index + 1, and enable it. */
void rig_queue(struct rig_dev *d, unsigned index, const struct drv_queue *q);
void rig_driver_ok(struct rig_dev *d);
void rig_reset(struct rig_dev *d);
void rig_kick(struct rig_dev *d, unsigned index);
uint8_t rig_status(struct rig_dev *d);
/* Poll until cond(opaque) holds; fails the test after many seconds. */
void rig_wait(bool (*cond)(void *opaque), void *opaque);
/* Wait for the next completion of q and return its token. */
void *rig_complete(struct drv_queue *q, uint32_t *ret_len);

#endif
