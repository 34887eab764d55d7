/* PCI host bridge (one root bus, ECAM and ports 0xcf8/0xcfc) and the part that all PCI devices share: configuration
 * space as bytes with a write mask, BARs on the buses, capabilities, MSI-X, INTx. Devices are added before vCPUs run
 * and freed after they stopped. Thread rule: register handlers come on vCPU threads; one lock in the host bridge guards
 * configuration spaces, MSI-X tables and BAR mappings; it is not held while a device's callbacks run, except bar_moved.
 * Spec: PCI Local Bus 3.0, PCI Express Base (ECAM, section 7.2.2). */
#ifndef HW_PCI_H
#define HW_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "hw/bus.h"
#include "hw/irq.h"

struct buf;
struct pci_dev;
struct pci_host;
struct unpack;

/* Of the bridge itself, and of a function. */
#define PCI_HOST_STATE_VERSION 1
#define PCI_DEV_STATE_VERSION 1
#define PCI_SLOTS 32U

struct pci_host_config {
    struct bus *mmio, *pio;                /* borrowed */
    uint64_t ecam_base;                    /* 1 MiB for bus 0; size PCI_ECAM_SIZE */
    uint64_t window32_base, window32_size; /* for 32-bit BARs; below 4 GiB */
    uint64_t window64_base, window64_size; /* for 64-bit BARs; above 4 GiB */
    struct msi_sink msi;
    struct irq_line intx[4];   /* a device in slot s with pin INTA + p (p = 0..3) uses intx[(s + p) % 4] */
    const struct bus_ops *cf9; /* byte register 0xcf9, which lies inside the bridge's port range; NULL: nothing there */
    void *cf9_dev;
};
#define PCI_ECAM_SIZE (1ULL << 20)

int pci_host_new(const struct pci_host_config *config, struct pci_host **ret_host) MUST_USE;
void pci_host_free(struct pci_host *h); /* frees the devices that are left; NULL accepted */

/* Optional callbacks of a device. */
struct pci_dev_ops {
    /* Device-specific part of configuration space was written (after masking): e.g. virtio's PCI cfg access capability.
     */
    void (*config_written)(void *opaque, unsigned off, unsigned len);
    /* Before such a read, so that the device may refresh bytes by pci_config_set. */
    void (*config_read)(void *opaque, unsigned off, unsigned len);
    /* BAR bar is now mapped at addr, or unmapped (addr == 0). The bridge's lock is held: do not call pci_* here. */
    void (*bar_moved)(void *opaque, unsigned bar, uint64_t addr);
};

struct pci_dev_config {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* 24 bits: base class, subclass, interface */
    uint8_t revision;
    uint8_t intx_pin;              /* 0 none, 1..4 = INTA..INTD */
    const struct pci_dev_ops *ops; /* may be NULL */
    void *opaque;
};

/* slot: 0..31 or -1 for the next free one. Function 0 only. -EEXIST, -ENOSPC, -ENOMEM. The bridge itself is slot 0. */
int pci_dev_new(struct pci_host *h, int slot, const struct pci_dev_config *config, struct pci_dev **ret_dev) MUST_USE;
void pci_dev_free(struct pci_dev *d); /* NULL accepted; vCPUs are stopped */
unsigned pci_dev_slot(const struct pci_dev *d);

/* Append a capability: header is made here, body follows it (len bytes; writable: mask of guest-writable bits of the
 * body or NULL). Returns its offset in configuration space, or -ENOSPC. */
int pci_dev_add_cap(struct pci_dev *d, uint8_t id, const void *body, const void *writable, unsigned len) MUST_USE;
/* size: power of two >= 4096. is_64: takes bar and bar+1. An address is assigned at once and memory decoding is on.
 * Handlers get offsets into the BAR. -ENOSPC: window full. */
int pci_dev_add_bar(struct pci_dev *d, unsigned bar, uint64_t size, bool is_64, const struct bus_ops *ops,
                    void *opaque) MUST_USE;
/* MSI-X with n vectors (1..256) in a BAR of its own (the bridge serves table and PBA). */
int pci_dev_add_msix(struct pci_dev *d, unsigned bar, unsigned n) MUST_USE;
/* Present mapped address of a BAR, 0 when unmapped. Any thread. */
uint64_t pci_bar_addr(struct pci_dev *d, unsigned bar);

/* Signal MSI-X vector (ignored beyond n; set pending where masked). Any thread. */
void pci_msix_notify(struct pci_dev *d, unsigned vector);
bool pci_msix_enabled(struct pci_dev *d);
/* Level of the INTx pin; ignored while MSI-X is on or INTx is disabled in the command register. Any thread. */
void pci_intx_set(struct pci_dev *d, bool level);

/* Raw access to configuration bytes for the device itself. */
void pci_config_get(struct pci_dev *d, unsigned off, void *data, unsigned len);
void pci_config_set(struct pci_dev *d, unsigned off, const void *data, unsigned len);

/* The function in a slot, NULL where there is none. vCPUs stand. */
struct pci_dev *pci_host_dev(struct pci_host *h, unsigned slot);
/* Append the state of the bridge, and of one function: registers, BARs, MSI-X table and pending bits, level of its pin
 * (docs/snapshot-format.md). The vCPUs stand. */
void pci_host_save(struct pci_host *h, struct buf *b);
void pci_dev_save(struct pci_dev *d, struct buf *b);
/* Take a state over; before the vCPUs run. BARs move to where they were and wires are driven. The function must be of
 * the same kind: identity, capabilities, sizes. -EBADMSG: it is not, or the state makes no sense. */
int pci_host_restore(struct pci_host *h, uint16_t version, struct unpack *in) MUST_USE;
int pci_dev_restore(struct pci_dev *d, uint16_t version, struct unpack *in) MUST_USE;

/* PCI capability identifiers */
enum { PCI_CAP_VENDOR = 0x09, PCI_CAP_PCIE = 0x10, PCI_CAP_MSIX = 0x11 };

#endif
