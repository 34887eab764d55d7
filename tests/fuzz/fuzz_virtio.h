/* A machine with one virtio device for the fuzz targets, made once a process and stepped by hand: memory image in,
 * doorbells rung, loop run until idle, device reset. */
#ifndef TESTS_FUZZ_VIRTIO_H
#define TESTS_FUZZ_VIRTIO_H

#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "hw/bus.h"
#include "hw/pci.h"
#include "mem/guest.h"
#include "sys/loop.h"
#include "virtio/env.h"

#define FUZZ_RAM (1U << 16)

struct fuzz_machine {
    struct mem *m;
    struct bus *mmio, *pio;
    struct pci_host *pci;
    struct loop *loop;
    struct virtio_env env;
};

static void fuzz_msi(void *opaque, uint64_t addr, uint32_t data)
{
}

static inline void fuzz_machine_init(struct fuzz_machine *f)
{
    struct pci_host_config c = { .ecam_base = 0xe0000000, .window32_base = 0xc0000000, .window32_size = 1U << 28 };

    CHECK(mem_new(&f->m) == 0 && mem_add_ram(f->m, 0, FUZZ_RAM, false, NULL) == 0);
    CHECK(bus_new(~0ULL >> 8, &f->mmio) == 0 && bus_new(0xffff, &f->pio) == 0 && loop_new(&f->loop) == 0);
    c.mmio = f->mmio;
    c.pio = f->pio;
    c.msi = (struct msi_sink){ .send = fuzz_msi };
    CHECK(pci_host_new(&c, &f->pci) == 0);
    f->env = (struct virtio_env){ .mem = f->m, .loop = f->loop, .pci = f->pci };
}

/* The register BAR of the device in slot 1. */
static inline uint64_t fuzz_bar(struct fuzz_machine *f)
{
    uint32_t bar = 0;

    (void)bus_read(f->mmio, 0xe0000000 + (1 << 15) + 0x20, &bar, 4);
    return bar & ~0xfU;
}

static inline void fuzz_write(struct fuzz_machine *f, uint64_t off, uint64_t v, unsigned len)
{
    (void)bus_write(f->mmio, fuzz_bar(f) + off, &v, len);
}

/* Let the loop work; bounded, as the guest's requests may ask for more and more of it. */
static inline void fuzz_run(struct fuzz_machine *f)
{
    for (unsigned i = 0, idle = 0; i < 64 && idle < 2; i++)
        idle = loop_run_once(f->loop) > 0 ? 0 : idle + 1;
}

static inline void fuzz_reset(struct fuzz_machine *f)
{
    uint8_t status = 1;

    fuzz_write(f, 0x14, 0, 1);
    while (status) {
        CHECK(loop_run_once(f->loop) >= 0);
        (void)bus_read(f->mmio, fuzz_bar(f) + 0x14, &status, 1);
    }
}

/* data[0]: features (bits: indirect, event index, packed, all but the device's bits 22 and 23); the rest is guest
 * memory from address 0 on, where every queue q lies at 0x3000 * q: descriptors, 0x1000 further the driver area, 0x2000
 * the device area. Ring all doorbells, run, reset. */
static inline void fuzz_queues(struct fuzz_machine *f, unsigned n_queues, const uint8_t *data, size_t size)
{
    uint32_t own = data[0] & 8 ? 0x3fffff : 0xffffff, low = (uint32_t)(data[0] & 3) << 28 | own, high = 0x81c00000;

    memset(mem_ptr(f->m, GPA(0), FUZZ_RAM), 0, FUZZ_RAM);
    memcpy(mem_ptr(f->m, GPA(0), FUZZ_RAM), data + 1, MIN(size - 1, FUZZ_RAM));
    for (unsigned half = 0; half < 2; half++) {
        uint32_t offered = 0;

        fuzz_write(f, 0x00, half, 4);
        (void)bus_read(f->mmio, fuzz_bar(f) + 4, &offered, 4);
        fuzz_write(f, 0x08, half, 4);
        fuzz_write(f, 0x0c, half ? 1 | (data[0] & 4) | (offered & high) : offered & low, 4);
    }
    fuzz_write(f, 0x14, 11, 1);
    for (unsigned q = 0; q < n_queues; q++) {
        fuzz_write(f, 0x16, q, 2);
        fuzz_write(f, 0x18, 16, 2);
        fuzz_write(f, 0x20, 0x200 * q, 8);
        fuzz_write(f, 0x28, 0x200 * q + 0x100, 8);
        fuzz_write(f, 0x30, 0x200 * q + 0x140, 8);
        fuzz_write(f, 0x1c, 1, 2);
    }
    fuzz_write(f, 0x14, 15, 1);
    fuzz_run(f);
    for (unsigned q = 0; q < n_queues; q++)
        fuzz_write(f, 0x3000 + 4 * q, q, 2);
    fuzz_run(f);
    fuzz_reset(f);
}

#endif
