/* Saved state of the PCI bridge and its functions. Of a function's configuration space only what a guest can write is
 * taken over; all else says which function it is, and must be the same. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/pack.h"
#include "hw/pci_priv.h"

struct pci_dev *pci_host_dev(struct pci_host *h, unsigned slot)
{
    CHECK(slot < PCI_SLOTS);
    return h->devs[slot];
}

void pci_host_save(struct pci_host *h, struct buf *b)
{
    pthread_mutex_lock(&h->lock);
    pack_u32(b, h->address);
    pthread_mutex_unlock(&h->lock);
}

int pci_host_restore(struct pci_host *h, uint16_t version, struct unpack *in)
{
    uint32_t address = unpack_u32(in);
    int r = unpack_end(in);

    (void)version;
    if (r < 0)
        return r;
    pthread_mutex_lock(&h->lock);
    h->address = address & PCI_ADDRESS_BITS;
    pthread_mutex_unlock(&h->lock);
    return 0;
}

void pci_dev_save(struct pci_dev *d, struct buf *b)
{
    pthread_mutex_lock(&d->host->lock);
    pack_bytes(b, d->config, sizeof(d->config));
    pack_bool(b, d->intx_level);
    pack_u16(b, (uint16_t)d->msix.n);
    for (unsigned i = 0; i < d->msix.n; i++) {
        const struct pci_msix_entry *e = &d->msix.table[i];

        pack_u64(b, e->addr);
        pack_u32(b, e->data);
        pack_bool(b, e->control & PCI_MSIX_ENTRY_MASKED);
        pack_bool(b, d->msix.pending[i / 64] & BIT64(i % 64));
    }
    pthread_mutex_unlock(&d->host->lock);
}

/* Bytes that a guest cannot write must be what they are here. */
static bool pci_config_matches(const struct pci_dev *d, const uint8_t *config)
{
    for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++) {
        uint8_t fixed = (uint8_t)~d->writable[i];

        if (i == PCI_REG_STATUS)
            fixed &= (uint8_t)~PCI_STATUS_INTX; /* follows the pin */
        if ((config[i] ^ d->config[i]) & fixed)
            return false;
    }
    return true;
}

static void pci_msix_take_locked(struct pci_dev *d, const struct pci_msix_entry *table, const uint64_t *pending)
{
    struct pci_msix *x = &d->msix;
    uint16_t control;

    if (x->n == 0)
        return;
    control = load_le16(&d->config[x->cap + 2]);
    x->enabled = control & PCI_MSIX_CONTROL_ENABLE;
    x->masked = control & PCI_MSIX_CONTROL_MASK;
    memcpy(x->table, table, x->n * sizeof(*table));
    memcpy(x->pending, pending, sizeof(x->pending));
}

int pci_dev_restore(struct pci_dev *d, uint16_t version, struct unpack *in)
{
    struct pci_msix_entry table[PCI_MSIX_VECTORS_MAX];
    uint64_t pending[PCI_MSIX_VECTORS_MAX / 64] = { 0 };
    uint8_t config[PCI_CONFIG_BYTES];
    bool intx_level;
    int r;

    (void)version;
    unpack_bytes(in, config, sizeof(config));
    intx_level = unpack_bool(in);
    if (unpack_u16(in) != d->msix.n)
        unpack_refuse(in);
    for (unsigned i = 0; i < d->msix.n && !in->error; i++) {
        table[i].addr = unpack_u64(in) & ~3ULL;
        table[i].data = unpack_u32(in);
        table[i].control = unpack_bool(in) ? PCI_MSIX_ENTRY_MASKED : 0;
        pending[i / 64] |= unpack_bool(in) ? BIT64(i % 64) : 0;
    }
    r = unpack_end(in);
    if (r == 0 && !pci_config_matches(d, config))
        r = -EBADMSG;
    if (r < 0)
        return r;
    pthread_mutex_lock(&d->host->lock);
    for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++)
        d->config[i] = (uint8_t)((d->config[i] & ~d->writable[i]) | (config[i] & d->writable[i]));
    pci_msix_take_locked(d, table, pending);
    d->intx_level = intx_level;
    pci_map_bars_locked(d->host);
    pci_intx_update_locked(d);
    pthread_mutex_unlock(&d->host->lock);
    return 0;
}
