/* PCI host bridge: slots, and the two ways to configuration space: ports 0xcf8/0xcfc (mechanism #1) and ECAM. Guest
 * accesses of any size and alignment come down to pci_config_read/write with 1..4 bytes inside one aligned dword of one
 * function.
 *
 * Port 0xcf8 answers dword accesses only; bytes at 0xcf9 belong to the chipset's reset register, which has no range of
 * its own on the bus because ranges may not overlap, and is reached through pci_host_config.cf9. It must not know
 * device types or engines. Spec: PCI 3.0 section 3.2.2.3.2; PCI Express Base 7.2.2. */
#include "hw/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "hw/pci_priv.h"

#define PCI_PORT_BASE 0xcf8
#define PCI_ADDRESS_ENABLE BIT(31)

static struct pci_dev *pci_find(struct pci_host *h, unsigned bus, unsigned devfn)
{
    if (bus != 0 || (devfn & 7) != 0)
        return NULL;
    return h->devs[devfn >> 3];
}

/* Functions on the bus are fixed while vCPUs run, so the lookup needs no lock. off + len <= 4096. */
static void pci_config_read(struct pci_dev *d, unsigned off, void *data, unsigned len)
{
    if (!d)
        return; /* the caller has put all ones there */
    if (off + len > PCI_CONFIG_BYTES) {
        memset(data, 0, len); /* no extended capabilities */
        return;
    }
    if (d->ops && d->ops->config_read && off + len > PCI_REG_DEVICE_SPECIFIC)
        d->ops->config_read(d->opaque, off, len);
    pci_config_get(d, off, data, len);
}

static bool pci_touches(unsigned off, unsigned len, unsigned reg, unsigned reg_len)
{
    return off < reg + reg_len && reg < off + len;
}

static void pci_config_write(struct pci_dev *d, unsigned off, const void *data, unsigned len)
{
    const uint8_t *bytes = data;

    if (!d || off + len > PCI_CONFIG_BYTES)
        return;
    pthread_mutex_lock(&d->host->lock);
    for (unsigned i = 0; i < len; i++) {
        uint8_t mask = d->writable[off + i];

        d->config[off + i] = (uint8_t)((d->config[off + i] & ~mask) | (bytes[i] & mask));
    }
    if (pci_touches(off, len, PCI_REG_COMMAND, 2) || pci_touches(off, len, PCI_REG_BAR0, 4 * PCI_BARS))
        pci_map_bars_locked(d->host);
    if (d->msix.n && pci_touches(off, len, d->msix.cap + 2, 2))
        pci_msix_control_written_locked(d);
    pci_intx_update_locked(d);
    pthread_mutex_unlock(&d->host->lock);
    if (d->ops && d->ops->config_written && off + len > PCI_REG_DEVICE_SPECIFIC)
        d->ops->config_written(d->opaque, off, len);
}

/* The function and register that CONFIG_ADDRESS selects; NULL where it selects none. */
static struct pci_dev *pci_port_target(struct pci_host *h, unsigned *ret_reg)
{
    uint32_t address;

    pthread_mutex_lock(&h->lock);
    address = h->address;
    pthread_mutex_unlock(&h->lock);
    if (!(address & PCI_ADDRESS_ENABLE))
        return NULL;
    *ret_reg = address & 0xfc;
    return pci_find(h, (address >> 16) & 0xff, (address >> 8) & 0xff);
}

static void pci_address_port_read(void *dev, uint64_t off, void *data, unsigned len)
{
    struct pci_host *h = dev;

    memset(data, 0xff, len);
    if (off == 0 && len == 4) {
        pthread_mutex_lock(&h->lock);
        store_le32(data, h->address);
        pthread_mutex_unlock(&h->lock);
    } else if (off == 1 && len == 1 && h->config.cf9) {
        h->config.cf9->read(h->config.cf9_dev, 0, data, 1);
    }
}

static void pci_address_port_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct pci_host *h = dev;

    if (off == 0 && len == 4) {
        pthread_mutex_lock(&h->lock);
        h->address = load_le32(data) & PCI_ADDRESS_BITS;
        pthread_mutex_unlock(&h->lock);
    } else if (off == 1 && len == 1 && h->config.cf9) {
        h->config.cf9->write(h->config.cf9_dev, 0, data, 1);
    }
}

static void pci_data_port_read(void *dev, uint64_t off, void *data, unsigned len)
{
    unsigned reg = 0;
    struct pci_dev *d = pci_port_target(dev, &reg);

    memset(data, 0xff, len);
    pci_config_read(d, reg + (unsigned)off, data, len);
}

static void pci_data_port_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    unsigned reg = 0;
    struct pci_dev *d = pci_port_target(dev, &reg);

    pci_config_write(d, reg + (unsigned)off, data, len);
}

static void pci_ecam_read(void *dev, uint64_t off, void *data, unsigned len)
{
    struct pci_host *h = dev;
    struct pci_dev *d = pci_find(h, (unsigned)(off >> 20), (unsigned)(off >> 12) & 0xff);
    unsigned reg = (unsigned)off & 0xfff;
    uint8_t *bytes = data;

    memset(data, 0xff, len);
    if (reg + len > 4096)
        return;
    for (unsigned done = 0; done < len;) {
        unsigned part = MIN(len - done, 4 - ((reg + done) & 3));

        pci_config_read(d, reg + done, bytes + done, part);
        done += part;
    }
}

static void pci_ecam_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct pci_host *h = dev;
    struct pci_dev *d = pci_find(h, (unsigned)(off >> 20), (unsigned)(off >> 12) & 0xff);
    unsigned reg = (unsigned)off & 0xfff;
    const uint8_t *bytes = data;

    if (reg + len > 4096)
        return;
    for (unsigned done = 0; done < len;) {
        unsigned part = MIN(len - done, 4 - ((reg + done) & 3));

        pci_config_write(d, reg + done, bytes + done, part);
        done += part;
    }
}

static const struct bus_ops pci_address_port_ops = { .read = pci_address_port_read, .write = pci_address_port_write };
static const struct bus_ops pci_data_port_ops = { .read = pci_data_port_read, .write = pci_data_port_write };
static const struct bus_ops pci_ecam_ops = { .read = pci_ecam_read, .write = pci_ecam_write };

/* The bridge's own function, slot 0: the generic PCIe host bridge identity, for which no guest has quirks. */
static const struct pci_dev_config pci_bridge_function = {
    .vendor = 0x1b36,
    .device = 0x0008,
    .subsystem_vendor = 0x1af4,
    .subsystem = 0x1100,
    .class_code = 0x060000,
};

int pci_host_new(const struct pci_host_config *config, struct pci_host **ret_host)
{
    struct pci_host *h = calloc(1, sizeof(*h));
    struct pci_dev *bridge;
    int r;

    if (!h)
        return -ENOMEM;
    h->config = *config;
    r = -pthread_mutex_init(&h->lock, NULL);
    if (r < 0) {
        free(h);
        return r;
    }
    r = bus_add(config->pio, PCI_PORT_BASE, 4, &pci_address_port_ops, h);
    if (r < 0)
        goto fail;
    r = bus_add(config->pio, PCI_PORT_BASE + 4, 4, &pci_data_port_ops, h);
    if (r < 0)
        goto fail;
    r = bus_add(config->mmio, config->ecam_base, PCI_ECAM_SIZE, &pci_ecam_ops, h);
    if (r < 0)
        goto fail;
    r = pci_dev_new(h, 0, &pci_bridge_function, &bridge);
    if (r < 0)
        goto fail;
    *ret_host = h;
    return 0;
fail:
    pci_host_free(h);
    return r;
}

void pci_host_free(struct pci_host *h)
{
    if (!h)
        return;
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
        pci_dev_free(h->devs[slot]);
    bus_remove(h->config.mmio, h->config.ecam_base, h);
    bus_remove(h->config.pio, PCI_PORT_BASE + 4, h);
    bus_remove(h->config.pio, PCI_PORT_BASE, h);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

void pci_config_get(struct pci_dev *d, unsigned off, void *data, unsigned len)
{
    CHECK(off <= PCI_CONFIG_BYTES && len <= PCI_CONFIG_BYTES - off);
    pthread_mutex_lock(&d->host->lock);
    memcpy(data, &d->config[off], len);
    pthread_mutex_unlock(&d->host->lock);
}

void pci_config_set(struct pci_dev *d, unsigned off, const void *data, unsigned len)
{
    CHECK(off <= PCI_CONFIG_BYTES && len <= PCI_CONFIG_BYTES - off);
    pthread_mutex_lock(&d->host->lock);
    memcpy(&d->config[off], data, len);
    pthread_mutex_unlock(&d->host->lock);
}
