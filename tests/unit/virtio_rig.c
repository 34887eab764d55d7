/* See virtio_rig.h. */
#include "virtio_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"

#define ECAM 0xe0000000ULL

static void rig_msi(void *opaque, uint64_t addr, uint32_t data)
{
    struct rig *r = opaque;

    (void)addr;
    if (data < RIG_VECTORS)
        r->msi[data]++;
    if (r->msi_event > 0)
        assert_int_equal(eventfd_write(r->msi_event, 1), 0);
}

static void rig_intx(void *opaque, unsigned gsi, bool level)
{
    struct rig *r = opaque;

    r->intx[gsi % 4] = level;
}

void rig_init(struct rig *r)
{
    struct pci_host_config c = {
        .ecam_base = ECAM,
        .window32_base = 0xc0000000,
        .window32_size = 0x10000000,
        .window64_base = 1ULL << 36,
        .window64_size = 1ULL << 30,
    };

    memset(r, 0, sizeof(*r));
    assert_int_equal(mem_new(&r->m), 0);
    assert_int_equal(mem_add_ram(r->m, 0, RIG_RAM, false, NULL), 0);
    assert_int_equal(bus_new(~0ULL >> 8, &r->mmio), 0);
    assert_int_equal(bus_new(0xffff, &r->pio), 0);
    c.mmio = r->mmio;
    c.pio = r->pio;
    c.msi = (struct msi_sink){ .send = rig_msi, .opaque = r };
    for (unsigned i = 0; i < 4; i++)
        c.intx[i] = (struct irq_line){ .set = rig_intx, .opaque = r, .gsi = 16 + i };
    assert_int_equal(pci_host_new(&c, &r->pci), 0);
    assert_int_equal(loop_new(&r->loop), 0);
    r->env = (struct virtio_env){ .mem = r->m, .loop = r->loop, .pci = r->pci, .reset_wait_ms = 100 };
}

static void *rig_main(void *opaque)
{
    struct rig *r = opaque;

    return loop_run(r->loop) < 0 ? r : NULL;
}

void rig_start(struct rig *r)
{
    assert_int_equal(pthread_create(&r->thread, NULL, rig_main, r), 0);
    r->running = true;
}

void rig_stop(struct rig *r)
{
    if (r->running) {
        loop_stop(r->loop, 0);
        pthread_join(r->thread, NULL);
    }
    r->running = false;
}

void rig_done(struct rig *r)
{
    rig_stop(r);
    pci_host_free(r->pci);
    loop_free(r->loop);
    bus_free(r->mmio);
    bus_free(r->pio);
    mem_free(r->m);
}

uint64_t rig_read(struct rig *r, uint64_t addr, unsigned len)
{
    uint64_t v = 0;

    assert_true(bus_read(r->mmio, addr, &v, len));
    return v;
}

void rig_write(struct rig *r, uint64_t addr, uint64_t v, unsigned len)
{
    assert_true(bus_write(r->mmio, addr, &v, len));
}

uint32_t rig_pci_read(struct rig *r, unsigned slot, unsigned off, unsigned len)
{
    return (uint32_t)rig_read(r, ECAM + (slot << 15) + off, len);
}

void rig_pci_write(struct rig *r, unsigned slot, unsigned off, uint32_t v, unsigned len)
{
    rig_write(r, ECAM + (slot << 15) + off, v, len);
}

static uint64_t rig_bar(struct rig *r, unsigned slot, unsigned bar)
{
    return rig_pci_read(r, slot, 0x10 + 4 * bar, 4) & ~0xfULL;
}

static void rig_enable_msix(struct rig *r, unsigned slot, unsigned cap)
{
    unsigned n = (rig_pci_read(r, slot, cap + 2, 2) & 0x7ff) + 1;
    uint32_t where = rig_pci_read(r, slot, cap + 4, 4);
    uint64_t table = rig_bar(r, slot, where & 7) + (where & ~7U);

    for (unsigned i = 0; i < n; i++) {
        rig_write(r, table + 16 * i, 0xfee00000, 4);
        rig_write(r, table + 16 * i + 4, 0, 4);
        rig_write(r, table + 16 * i + 8, i, 4);
        rig_write(r, table + 16 * i + 12, 0, 4);
    }
    rig_pci_write(r, slot, cap + 2, 0x8000, 2);
}

void rig_find(struct rig *r, unsigned slot, bool msix, struct rig_dev *d)
{
    unsigned cap = rig_pci_read(r, slot, 0x34, 1);

    *d = (struct rig_dev){ .r = r, .slot = slot };
    assert_int_equal(rig_pci_read(r, slot, 0, 2), 0x1af4);
    for (unsigned n = 0; cap != 0; cap = rig_pci_read(r, slot, cap + 1, 1)) {
        uint8_t id = (uint8_t)rig_pci_read(r, slot, cap, 1);
        uint64_t at = rig_bar(r, slot, rig_pci_read(r, slot, cap + 4, 1) & 7) + rig_pci_read(r, slot, cap + 8, 4);

        assert_true(n++ < 16);
        if (id == PCI_CAP_MSIX && msix)
            rig_enable_msix(r, slot, cap);
        if (id != PCI_CAP_VENDOR)
            continue;
        switch (rig_pci_read(r, slot, cap + 3, 1)) {
        case 1:
            d->common = at;
            break;
        case 2:
            d->notify = at;
            d->notify_step = rig_pci_read(r, slot, cap + 16, 4);
            break;
        case 3:
            d->isr = at;
            break;
        case 4:
            d->config = at;
            break;
        case 5:
            d->cfg_cap = cap;
            break;
        }
    }
    assert_true(d->common && d->notify && d->isr && d->cfg_cap);
}

uint8_t rig_status(struct rig_dev *d)
{
    return (uint8_t)rig_read(d->r, d->common + C_STATUS, 1);
}

static bool rig_is_reset(void *opaque)
{
    return rig_status(opaque) == 0;
}

void rig_reset(struct rig_dev *d)
{
    rig_write(d->r, d->common + C_STATUS, 0, 1);
    rig_wait(rig_is_reset, d);
}

uint64_t rig_negotiate(struct rig_dev *d, uint64_t wanted)
{
    uint64_t offered = 0, features;

    rig_reset(d);
    rig_write(d->r, d->common + C_STATUS, 1, 1);
    rig_write(d->r, d->common + C_STATUS, 3, 1);
    for (unsigned i = 0; i < 2; i++) {
        rig_write(d->r, d->common + C_DF_SEL, i, 4);
        offered |= rig_read(d->r, d->common + C_DF, 4) << (32 * i);
    }
    features = offered & wanted;
    for (unsigned i = 0; i < 2; i++) {
        rig_write(d->r, d->common + C_GF_SEL, i, 4);
        rig_write(d->r, d->common + C_GF, (features >> (32 * i)) & 0xffffffff, 4);
    }
    rig_write(d->r, d->common + C_STATUS, 11, 1);
    assert_int_equal(rig_status(d), 11);
    rig_write(d->r, d->common + C_MSIX, 0, 2);
    return features;
}

void rig_queue(struct rig_dev *d, unsigned index, const struct drv_queue *q)
{
    rig_write(d->r, d->common + C_QSEL, index, 2);
    assert_true(rig_read(d->r, d->common + C_QSIZE, 2) >= q->size);
    rig_write(d->r, d->common + C_QSIZE, q->size, 2);
    rig_write(d->r, d->common + C_QDESC, q->desc & 0xffffffff, 4);
    rig_write(d->r, d->common + C_QDESC + 4, q->desc >> 32, 4);
    rig_write(d->r, d->common + C_QDRIVER, q->driver, 8);
    rig_write(d->r, d->common + C_QDEVICE, q->device, 8);
    rig_write(d->r, d->common + C_QVEC, index + 1, 2);
    assert_int_equal(rig_read(d->r, d->common + C_QVEC, 2), index + 1);
    rig_write(d->r, d->common + C_QENABLE, 1, 2);
}

void rig_driver_ok(struct rig_dev *d)
{
    rig_write(d->r, d->common + C_STATUS, 15, 1);
}

void rig_kick(struct rig_dev *d, unsigned index)
{
    rig_write(d->r, d->notify + index * d->notify_step, index, 2);
}

void rig_wait(bool (*cond)(void *opaque), void *opaque)
{
    for (unsigned i = 0; i < 300000; i++) {
        if (cond(opaque))
            return;
        usleep(100);
    }
    fail_msg("nothing happened");
}

struct rig_completion {
    struct drv_queue *q;
    void *token;
    uint32_t len;
};

static bool rig_try_complete(void *opaque)
{
    struct rig_completion *c = opaque;

    c->token = drv_get_used(c->q, &c->len);
    return c->token != NULL;
}

void *rig_complete(struct drv_queue *q, uint32_t *ret_len)
{
    struct rig_completion c = { .q = q };

    rig_wait(rig_try_complete, &c);
    if (ret_len)
        *ret_len = c.len;
    return c.token;
}
