/* MSI-X: capability, vector table and pending bits of a device, in an 8 KiB BAR: the table in the first page, the
 * pending bit array in the second. Messages are sent under the bridge's lock, so that none leaves after a guest's write
 * of a mask bit has returned. Spec: PCI 3.0 section 6.8.2. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "hw/pci_priv.h"

#define PCI_MSIX_BAR_SIZE 8192U
#define PCI_MSIX_PBA_OFFSET 4096U
#define PCI_MSIX_ENTRY_SIZE 16U

static bool pci_msix_open_locked(const struct pci_msix *x, unsigned vector)
{
    return x->enabled && !x->masked && !(x->table[vector].control & PCI_MSIX_ENTRY_MASKED);
}

static void pci_msix_send_locked(struct pci_dev *d, unsigned vector)
{
    const struct msi_sink *sink = &d->host->config.msi;
    const struct pci_msix_entry *e = &d->msix.table[vector];

    if (sink->send)
        sink->send(sink->opaque, e->addr, e->data);
}

/* Deliver a pending vector if nothing masks it any more. */
static void pci_msix_flush_locked(struct pci_dev *d, unsigned vector)
{
    uint64_t *word = &d->msix.pending[vector / 64];

    if (!(*word & BIT64(vector % 64)) || !pci_msix_open_locked(&d->msix, vector))
        return;
    *word &= ~BIT64(vector % 64);
    pci_msix_send_locked(d, vector);
}

void pci_msix_control_written_locked(struct pci_dev *d)
{
    uint16_t control = load_le16(&d->config[d->msix.cap + 2]);

    d->msix.enabled = control & PCI_MSIX_CONTROL_ENABLE;
    d->msix.masked = control & PCI_MSIX_CONTROL_MASK;
    for (unsigned vector = 0; vector < d->msix.n; vector++)
        pci_msix_flush_locked(d, vector);
}

static uint32_t pci_msix_dword_locked(const struct pci_msix *x, unsigned off)
{
    if (off >= PCI_MSIX_PBA_OFFSET) {
        unsigned word = (off - PCI_MSIX_PBA_OFFSET) / 8;

        return word < ARRAY_SIZE(x->pending) ? (uint32_t)(x->pending[word] >> (off & 4) * 8) : 0;
    }
    if (off / PCI_MSIX_ENTRY_SIZE < x->n) {
        const struct pci_msix_entry *e = &x->table[off / PCI_MSIX_ENTRY_SIZE];

        switch (off % PCI_MSIX_ENTRY_SIZE) {
        case 0:
            return (uint32_t)e->addr;
        case 4:
            return (uint32_t)(e->addr >> 32);
        case 8:
            return e->data;
        default:
            return e->control;
        }
    }
    return 0;
}

static void pci_msix_read(void *dev, uint64_t off, void *data, unsigned len)
{
    struct pci_dev *d = dev;
    uint8_t *bytes = data;

    pthread_mutex_lock(&d->host->lock);
    for (unsigned i = 0; i < len; i++) {
        unsigned at = (unsigned)off + i;

        bytes[i] = (uint8_t)(pci_msix_dword_locked(&d->msix, at & ~3U) >> (at & 3) * 8);
    }
    pthread_mutex_unlock(&d->host->lock);
}

static void pci_msix_write_dword_locked(struct pci_dev *d, unsigned off, uint32_t value)
{
    unsigned vector = off / PCI_MSIX_ENTRY_SIZE;
    struct pci_msix_entry *e;

    if (vector >= d->msix.n) /* also the PBA: read-only */
        return;
    e = &d->msix.table[vector];
    switch (off % PCI_MSIX_ENTRY_SIZE) {
    case 0:
        e->addr = (e->addr & ~0xffffffffULL) | (value & ~3U);
        break;
    case 4:
        e->addr = (uint32_t)e->addr | (uint64_t)value << 32;
        break;
    case 8:
        e->data = value;
        break;
    default:
        e->control = value & PCI_MSIX_ENTRY_MASKED;
        pci_msix_flush_locked(d, vector);
        break;
    }
}

/* Only aligned dwords and qwords are defined (section 6.8.2); other writes are dropped. */
static void pci_msix_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct pci_dev *d = dev;
    const uint8_t *bytes = data;

    if ((len != 4 && len != 8) || off % len != 0)
        return;
    pthread_mutex_lock(&d->host->lock);
    for (unsigned i = 0; i < len; i += 4)
        pci_msix_write_dword_locked(d, (unsigned)off + i, load_le32(bytes + i));
    pthread_mutex_unlock(&d->host->lock);
}

static const struct bus_ops pci_msix_ops = { .read = pci_msix_read, .write = pci_msix_write };

int pci_dev_add_msix(struct pci_dev *d, unsigned bar, unsigned n)
{
    uint8_t body[10] = { 0 }, writable[10] = { 0 };
    struct pci_msix_entry *table;
    int r;

    CHECK(n >= 1 && n <= PCI_MSIX_VECTORS_MAX && d->msix.n == 0);
    table = calloc(n, sizeof(*table));
    if (!table)
        return -ENOMEM;
    for (unsigned vector = 0; vector < n; vector++)
        table[vector].control = PCI_MSIX_ENTRY_MASKED;
    store_le16(&body[0], (uint16_t)(n - 1));
    store_le32(&body[2], bar); /* table: offset 0 in this BAR */
    store_le32(&body[6], PCI_MSIX_PBA_OFFSET | bar);
    store_le16(&writable[0], PCI_MSIX_CONTROL_ENABLE | PCI_MSIX_CONTROL_MASK);
    r = pci_dev_add_cap(d, PCI_CAP_MSIX, body, writable, sizeof(body));
    if (r < 0) {
        free(table);
        return r;
    }
    d->msix = (struct pci_msix){ .n = n, .cap = (unsigned)r, .table = table };
    return pci_dev_add_bar(d, bar, PCI_MSIX_BAR_SIZE, false, &pci_msix_ops, d);
}

void pci_msix_done(struct pci_dev *d)
{
    free(d->msix.table);
}

void pci_msix_notify(struct pci_dev *d, unsigned vector)
{
    pthread_mutex_lock(&d->host->lock);
    if (vector < d->msix.n && d->msix.enabled) {
        if (pci_msix_open_locked(&d->msix, vector))
            pci_msix_send_locked(d, vector);
        else
            d->msix.pending[vector / 64] |= BIT64(vector % 64);
    }
    pthread_mutex_unlock(&d->host->lock);
}

bool pci_msix_enabled(struct pci_dev *d)
{
    bool enabled;

    pthread_mutex_lock(&d->host->lock);
    enabled = d->msix.enabled;
    pthread_mutex_unlock(&d->host->lock);
    return enabled;
}
