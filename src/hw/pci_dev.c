/* PCI devices: the configuration header, capabilities, BARs and the INTx pin.
 *
 * A BAR is on the bus while memory decoding is on and its address is free there. A guest may put BARs on top of each
 * other or of other devices; then the one that came first answers, and the other is mapped as soon as there is room. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "hw/pci_priv.h"

static int pci_slot_pick(struct pci_host *h, int slot)
{
    if (slot >= (int)PCI_SLOTS)
        return -EINVAL;
    if (slot >= 0)
        return h->devs[slot] ? -EEXIST : slot;
    for (int at = 1; at < (int)PCI_SLOTS; at++) {
        if (!h->devs[at])
            return at;
    }
    return -ENOSPC;
}

static struct irq_line *pci_intx_wire(struct pci_dev *d)
{
    return &d->host->config.intx[(d->slot + d->config[PCI_REG_IRQ_PIN] - 1U) % 4];
}

static void pci_header_init(struct pci_dev *d, const struct pci_dev_config *config)
{
    uint8_t *c = d->config;

    store_le16(&c[PCI_REG_VENDOR], config->vendor);
    store_le16(&c[PCI_REG_DEVICE], config->device);
    c[PCI_REG_REVISION] = config->revision;
    c[PCI_REG_CLASS] = (uint8_t)config->class_code;
    store_le16(&c[PCI_REG_CLASS + 1], (uint16_t)(config->class_code >> 8));
    store_le16(&c[PCI_REG_SUBSYSTEM_VENDOR], config->subsystem_vendor);
    store_le16(&c[PCI_REG_SUBSYSTEM], config->subsystem);
    c[PCI_REG_IRQ_PIN] = config->intx_pin;
    if (config->intx_pin)
        c[PCI_REG_IRQ_LINE] = (uint8_t)pci_intx_wire(d)->gsi;
    store_le16(&d->writable[PCI_REG_COMMAND],
               PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR | PCI_COMMAND_INTX_OFF);
    d->writable[PCI_REG_CACHE_LINE] = 0xff;
    d->writable[PCI_REG_IRQ_LINE] = 0xff;
    d->cap_end = PCI_REG_DEVICE_SPECIFIC;
    d->cap_link = PCI_REG_CAPABILITIES;
}

int pci_dev_new(struct pci_host *h, int slot, const struct pci_dev_config *config, struct pci_dev **ret_dev)
{
    struct pci_dev *d;

    CHECK(config->intx_pin <= 4);
    slot = pci_slot_pick(h, slot);
    if (slot < 0)
        return slot;
    d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    d->host = h;
    d->slot = (unsigned)slot;
    d->ops = config->ops;
    d->opaque = config->opaque;
    pci_header_init(d, config);
    h->devs[slot] = d;
    *ret_dev = d;
    return 0;
}

void pci_dev_free(struct pci_dev *d)
{
    if (!d)
        return;
    pci_intx_set(d, false);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        if (d->bars[i].mapped)
            bus_remove(d->host->config.mmio, d->bars[i].mapped, d->bars[i].opaque);
    }
    d->host->devs[d->slot] = NULL;
    pci_msix_done(d);
    free(d);
}

unsigned pci_dev_slot(const struct pci_dev *d)
{
    return d->slot;
}

int pci_dev_add_cap(struct pci_dev *d, uint8_t id, const void *body, const void *writable, unsigned len)
{
    unsigned at = d->cap_end;
    uint16_t status;

    if (len > PCI_CONFIG_BYTES || at + 2 + len > PCI_CONFIG_BYTES)
        return -ENOSPC;
    pthread_mutex_lock(&d->host->lock);
    d->config[at] = id;
    d->config[at + 1] = 0;
    memcpy(&d->config[at + 2], body, len);
    if (writable)
        memcpy(&d->writable[at + 2], writable, len);
    d->config[d->cap_link] = (uint8_t)at;
    d->cap_link = at + 1;
    d->cap_end = (unsigned)align_up(at + 2 + len, 4);
    status = load_le16(&d->config[PCI_REG_STATUS]) | PCI_STATUS_CAPABILITIES;
    store_le16(&d->config[PCI_REG_STATUS], status);
    pthread_mutex_unlock(&d->host->lock);
    return (int)at;
}

/* The address that the BAR's register holds, whether mapped or not. */
static uint64_t pci_bar_register_locked(const struct pci_dev *d, unsigned bar)
{
    const uint8_t *reg = &d->config[PCI_REG_BAR0 + 4 * bar];
    uint64_t addr = load_le32(reg) & ~0xfULL;

    if (d->bars[bar].is_64)
        addr |= (uint64_t)load_le32(reg + 4) << 32;
    return addr;
}

static void pci_bar_move_locked(struct pci_dev *d, unsigned bar, uint64_t addr)
{
    struct pci_bar *b = &d->bars[bar];

    if (b->mapped)
        bus_remove(d->host->config.mmio, b->mapped, b->opaque);
    b->mapped = 0;
    if (addr && bus_add(d->host->config.mmio, addr, b->size, b->ops, b->opaque) == 0)
        b->mapped = addr;
}

static uint64_t pci_bar_wanted_locked(const struct pci_dev *d, unsigned bar)
{
    uint64_t addr;

    if (d->bars[bar].size == 0 || !(load_le16(&d->config[PCI_REG_COMMAND]) & PCI_COMMAND_MEMORY))
        return 0;
    addr = pci_bar_register_locked(d, bar);
    if (!d->bars[bar].is_64 && addr + d->bars[bar].size > 1ULL << 32)
        return 0;
    return addr;
}

static void pci_bar_report_locked(struct pci_dev *d, unsigned bar)
{
    if (d->ops && d->ops->bar_moved)
        d->ops->bar_moved(d->opaque, bar, d->bars[bar].mapped);
}

void pci_map_bars_locked(struct pci_host *h)
{
    /* First take away what moves, then map: a guest may exchange the places of two BARs. */
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < PCI_SLOTS * PCI_BARS; i++) {
            struct pci_dev *d = h->devs[i / PCI_BARS];
            unsigned bar = i % PCI_BARS;
            uint64_t wanted;

            if (!d)
                continue;
            wanted = pci_bar_wanted_locked(d, bar);
            if (wanted == d->bars[bar].mapped || (pass == 0 && !d->bars[bar].mapped))
                continue;
            pci_bar_move_locked(d, bar, pass == 0 ? 0 : wanted);
            if (pass == 0 || d->bars[bar].mapped)
                pci_bar_report_locked(d, bar);
        }
    }
}

/* First fit in a window among the addresses that all BARs hold. 0: full. */
static uint64_t pci_window_pick_locked(struct pci_host *h, uint64_t base, uint64_t window_size, uint64_t size)
{
    uint64_t addr = align_up(base, size);

    for (unsigned i = 0; i < PCI_SLOTS * PCI_BARS; i++) {
        struct pci_dev *d = h->devs[i / PCI_BARS];
        unsigned bar = i % PCI_BARS;
        uint64_t other;

        if (!d || d->bars[bar].size == 0)
            continue;
        other = pci_bar_register_locked(d, bar);
        if (addr < other + d->bars[bar].size && other < addr + size) {
            addr = align_up(other + d->bars[bar].size, size);
            if (addr < base || addr - base > window_size)
                return 0;
            i = UINT32_MAX; /* start again with the new place; addr grows within the window, so this ends */
        }
    }
    if (addr < base || addr - base > window_size || size > window_size - (addr - base))
        return 0;
    return addr;
}

int pci_dev_add_bar(struct pci_dev *d, unsigned bar, uint64_t size, bool is_64, const struct bus_ops *ops, void *opaque)
{
    struct pci_host *h = d->host;
    uint8_t *reg = &d->config[PCI_REG_BAR0 + 4 * bar], *mask = &d->writable[PCI_REG_BAR0 + 4 * bar];
    uint16_t command;
    uint64_t addr;

    CHECK(bar + (is_64 ? 1U : 0U) < PCI_BARS && is_pow2(size) && size >= 4096 && d->bars[bar].size == 0);
    pthread_mutex_lock(&h->lock);
    addr = is_64 ? pci_window_pick_locked(h, h->config.window64_base, h->config.window64_size, size)
                 : pci_window_pick_locked(h, h->config.window32_base, h->config.window32_size, size);
    if (!addr) {
        pthread_mutex_unlock(&h->lock);
        return -ENOSPC;
    }
    d->bars[bar] = (struct pci_bar){ .size = size, .is_64 = is_64, .ops = ops, .opaque = opaque };
    store_le32(reg, (uint32_t)addr | (is_64 ? 4 : 0));
    store_le32(mask, (uint32_t) ~(size - 1));
    if (is_64) {
        store_le32(reg + 4, (uint32_t)(addr >> 32));
        store_le32(mask + 4, (uint32_t)(~(size - 1) >> 32));
    }
    command = load_le16(&d->config[PCI_REG_COMMAND]) | PCI_COMMAND_MEMORY;
    store_le16(&d->config[PCI_REG_COMMAND], command);
    pci_map_bars_locked(h);
    pthread_mutex_unlock(&h->lock);
    return 0;
}

uint64_t pci_bar_addr(struct pci_dev *d, unsigned bar)
{
    uint64_t addr;

    CHECK(bar < PCI_BARS);
    pthread_mutex_lock(&d->host->lock);
    addr = d->bars[bar].mapped;
    pthread_mutex_unlock(&d->host->lock);
    return addr;
}

void pci_intx_update_locked(struct pci_dev *d)
{
    struct pci_host *h = d->host;
    uint16_t status = load_le16(&d->config[PCI_REG_STATUS]);
    bool drive = d->intx_level && !d->msix.enabled && !(load_le16(&d->config[PCI_REG_COMMAND]) & PCI_COMMAND_INTX_OFF);
    unsigned wire;

    if (d->config[PCI_REG_IRQ_PIN] == 0)
        return;
    /* The status bit shows the request even while the pin is off (PCI 3.0 section 6.2.3). */
    status = (uint16_t)(d->intx_level && !d->msix.enabled ? status | PCI_STATUS_INTX : status & ~PCI_STATUS_INTX);
    store_le16(&d->config[PCI_REG_STATUS], status);
    if (drive == d->intx_driven)
        return;
    d->intx_driven = drive;
    wire = (unsigned)(pci_intx_wire(d) - h->config.intx);
    h->intx_users[wire] += drive ? 1U : -1U;
    /* Under the lock, so that two devices on one wire cannot set it in the wrong order. */
    if (h->intx_users[wire] == (drive ? 1U : 0U))
        irq_set(&h->config.intx[wire], drive);
}

void pci_intx_set(struct pci_dev *d, bool level)
{
    pthread_mutex_lock(&d->host->lock);
    d->intx_level = level;
    pci_intx_update_locked(d);
    pthread_mutex_unlock(&d->host->lock);
}
