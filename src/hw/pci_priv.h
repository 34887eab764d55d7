/* Insides of the PCI host bridge and its devices, shared by pci.c (bridge, configuration access), pci_dev.c (devices,
 * BARs, capabilities, INTx) and pci_msix.c. Functions with _locked want the bridge's lock. */
#ifndef HW_PCI_PRIV_H
#define HW_PCI_PRIV_H

#include <pthread.h>

#include "hw/pci.h"

#define PCI_CONFIG_BYTES 256U
#define PCI_BARS 6U
#define PCI_MSIX_VECTORS_MAX 256U

/* Offsets in the type 0 configuration header (PCI 3.0 section 6.1). */
enum {
    PCI_REG_VENDOR = 0x00,
    PCI_REG_DEVICE = 0x02,
    PCI_REG_COMMAND = 0x04,
    PCI_REG_STATUS = 0x06,
    PCI_REG_REVISION = 0x08,
    PCI_REG_CLASS = 0x09,
    PCI_REG_CACHE_LINE = 0x0c,
    PCI_REG_BAR0 = 0x10,
    PCI_REG_SUBSYSTEM_VENDOR = 0x2c,
    PCI_REG_SUBSYSTEM = 0x2e,
    PCI_REG_CAPABILITIES = 0x34,
    PCI_REG_IRQ_LINE = 0x3c,
    PCI_REG_IRQ_PIN = 0x3d,
    PCI_REG_DEVICE_SPECIFIC = 0x40,
};

enum {
    PCI_COMMAND_MEMORY = 0x0002,
    PCI_COMMAND_MASTER = 0x0004,
    PCI_COMMAND_PARITY = 0x0040,
    PCI_COMMAND_SERR = 0x0100,
    PCI_COMMAND_INTX_OFF = 0x0400,
    PCI_STATUS_INTX = 0x0008,
    PCI_STATUS_CAPABILITIES = 0x0010,
};

enum { PCI_MSIX_CONTROL_ENABLE = 0x8000, PCI_MSIX_CONTROL_MASK = 0x4000, PCI_MSIX_ENTRY_MASKED = 1 };

#define PCI_ADDRESS_BITS 0x80fffffcU /* those that CONFIG_ADDRESS has */

struct pci_bar {
    uint64_t size; /* 0: absent */
    bool is_64;
    const struct bus_ops *ops;
    void *opaque;
    uint64_t mapped; /* address on the bus, 0 = not mapped */
};

struct pci_msix_entry {
    uint64_t addr;
    uint32_t data;
    uint32_t control; /* bit 0: masked */
};

struct pci_msix {
    unsigned n;           /* 0: the device has no MSI-X */
    unsigned cap;         /* offset in configuration space */
    bool enabled, masked; /* copies of the message control bits */
    struct pci_msix_entry *table;
    uint64_t pending[PCI_MSIX_VECTORS_MAX / 64];
};

struct pci_dev {
    struct pci_host *host;
    unsigned slot;
    const struct pci_dev_ops *ops;
    void *opaque;
    uint8_t config[PCI_CONFIG_BYTES], writable[PCI_CONFIG_BYTES];
    unsigned cap_end;  /* first free byte for capabilities */
    unsigned cap_link; /* where the next capability's offset is to be written */
    struct pci_bar bars[PCI_BARS];
    struct pci_msix msix;
    bool intx_level;  /* what the device asks for */
    bool intx_driven; /* what it drives on its wire now */
};

struct pci_host {
    struct pci_host_config config;
    pthread_mutex_t lock;
    uint32_t address; /* CONFIG_ADDRESS, port 0xcf8 */
    struct pci_dev *devs[PCI_SLOTS];
    unsigned intx_users[4]; /* devices that drive each wire */
};

/* Bring every BAR's place on the bus into line with the registers. */
void pci_map_bars_locked(struct pci_host *h);
/* Bring the device's INTx wire into line with level, MSI-X state and command register. */
void pci_intx_update_locked(struct pci_dev *d);
/* Message control was written: deliver what has become deliverable. */
void pci_msix_control_written_locked(struct pci_dev *d);
void pci_msix_done(struct pci_dev *d);

#endif
