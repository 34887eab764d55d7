/* hw/pci: both ways to configuration space, BAR sizing and moving, capabilities, MSI-X masking and pending bits, INTx.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "hw/pci.h"

#define ECAM 0xe0000000ULL
#define WINDOW32 0xc0000000ULL
#define WINDOW64 0x4000000000ULL

struct fixture {
    struct bus *mmio, *pio;
    struct pci_host *host;
    struct pci_dev *dev;
    unsigned msi_count;
    uint64_t msi_addr;
    uint32_t msi_data;
    bool line[4];
    unsigned moves, written_off, reads;
    uint64_t moved_to[6];
    uint8_t cf9;
};

static void fix_msi(void *opaque, uint64_t addr, uint32_t data)
{
    struct fixture *f = opaque;

    f->msi_count++;
    f->msi_addr = addr;
    f->msi_data = data;
}

static void fix_line(void *opaque, unsigned gsi, bool level)
{
    struct fixture *f = opaque;

    f->line[gsi - 16] = level;
}

static void fix_cf9_read(void *dev, uint64_t off, void *data, unsigned len)
{
    memcpy(data, dev, len);
}

static void fix_cf9_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    memcpy(dev, data, len);
}

static const struct bus_ops fix_cf9_ops = { .read = fix_cf9_read, .write = fix_cf9_write };

static void fix_bar_read(void *dev, uint64_t off, void *data, unsigned len)
{
    memset(data, (int)(off & 0xff), len);
}

static void fix_bar_write(void *dev, uint64_t off, const void *data, unsigned len)
{
}

static const struct bus_ops fix_bar_ops = { .read = fix_bar_read, .write = fix_bar_write };

static void fix_moved(void *opaque, unsigned bar, uint64_t addr)
{
    struct fixture *f = opaque;

    f->moves++;
    f->moved_to[bar] = addr;
}

static void fix_written(void *opaque, unsigned off, unsigned len)
{
    struct fixture *f = opaque;

    f->written_off = off;
    assert_true(pci_bar_addr(f->dev, 0) != 1); /* the lock is free here */
}

static void fix_before_read(void *opaque, unsigned off, unsigned len)
{
    struct fixture *f = opaque;

    f->reads++;
    if (off == 0x54)
        pci_config_set(f->dev, 0x54, &(uint8_t){ (uint8_t)f->reads }, 1);
}

static const struct pci_dev_ops fix_ops = { .config_written = fix_written,
                                            .config_read = fix_before_read,
                                            .bar_moved = fix_moved };

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct pci_host_config hc = { 0 };
    struct pci_dev_config dc = { .vendor = 0x1af4,
                                 .device = 0x1042,
                                 .subsystem_vendor = 0x1af4,
                                 .subsystem = 0x40,
                                 .class_code = 0x018000,
                                 .revision = 1,
                                 .intx_pin = 1,
                                 .ops = &fix_ops };

    if (!f || bus_new(UINT64_MAX, &f->mmio) < 0 || bus_new(0xffff, &f->pio) < 0)
        return -1;
    hc = (struct pci_host_config){ .mmio = f->mmio,
                                   .pio = f->pio,
                                   .ecam_base = ECAM,
                                   .window32_base = WINDOW32,
                                   .window32_size = 0x20000000,
                                   .window64_base = WINDOW64,
                                   .window64_size = 1ULL << 38,
                                   .msi = { fix_msi, f },
                                   .cf9 = &fix_cf9_ops,
                                   .cf9_dev = &f->cf9 };
    for (unsigned i = 0; i < 4; i++)
        hc.intx[i] = (struct irq_line){ fix_line, f, 16 + i };
    dc.opaque = f;
    if (pci_host_new(&hc, &f->host) < 0 || pci_dev_new(f->host, -1, &dc, &f->dev) < 0)
        return -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    pci_host_free(f->host);
    bus_free(f->mmio);
    bus_free(f->pio);
    free(f);
    return 0;
}

static uint32_t cfg_read(struct fixture *f, unsigned slot, unsigned reg, unsigned len)
{
    uint32_t v = 0;

    assert_true(bus_read(f->mmio, ECAM + (slot << 15) + reg, &v, len));
    return v;
}

static void cfg_write(struct fixture *f, unsigned slot, unsigned reg, uint32_t v, unsigned len)
{
    assert_true(bus_write(f->mmio, ECAM + (slot << 15) + reg, &v, len));
}

static uint32_t port_read(struct fixture *f, uint32_t address, unsigned at, unsigned len)
{
    uint32_t v = 0;

    assert_true(bus_write(f->pio, 0xcf8, &address, 4));
    assert_true(bus_read(f->pio, 0xcfc + at, &v, len));
    return v;
}

static void test_config_access(void **state)
{
    struct fixture *f = *state;
    uint64_t q = 0;
    uint8_t b;

    assert_int_equal(pci_dev_slot(f->dev), 1);
    assert_int_equal(cfg_read(f, 0, 8, 4) >> 8, 0x060000);
    assert_int_equal(cfg_read(f, 1, 0, 4), 0x10421af4);
    assert_int_equal(cfg_read(f, 1, 3, 1), 0x10);
    assert_int_equal(cfg_read(f, 1, 0x2c, 4), 0x00401af4);
    assert_int_equal(cfg_read(f, 2, 0, 4), 0xffffffff);
    assert_int_equal(cfg_read(f, 1, 0x100, 4), 0);                       /* no extended capability */
    assert_true(bus_read(f->mmio, ECAM + (1 << 15) + (1 << 12), &q, 4)); /* function 1 */
    assert_true((uint32_t)q == 0xffffffff);
    assert_true(bus_read(f->mmio, ECAM + (1 << 15) + 0x2c, &q, 8));
    assert_true((uint32_t)q == 0x00401af4);
    assert_true(bus_read(f->mmio, ECAM + (1 << 15) + 0xffe, &q, 4)); /* across two functions */
    assert_true((uint32_t)q == 0xffffffff);

    assert_int_equal(port_read(f, 0x80000800, 0, 4), 0x10421af4);
    assert_int_equal(port_read(f, 0x80000800, 2, 2), 0x1042);
    assert_int_equal(port_read(f, 0x80000803, 0, 4), 0x10421af4); /* low bits are hardwired */
    assert_int_equal(port_read(f, 0x00000800, 0, 4), 0xffffffff); /* not enabled */
    assert_int_equal(port_read(f, 0x80010800, 0, 4), 0xffffffff); /* bus 1 */
    assert_int_equal(port_read(f, 0x80000900, 0, 4), 0xffffffff); /* function 1 */
    bus_read(f->pio, 0xcf8, &q, 4);
    assert_true((uint32_t)q == 0x80000900);
    /* a byte at 0xcf9 is the reset register and leaves the address alone */
    bus_write(f->pio, 0xcf9, &(uint8_t){ 6 }, 1);
    assert_int_equal(f->cf9, 6);
    bus_read(f->pio, 0xcf9, &b, 1);
    assert_int_equal(b, 6);
    bus_read(f->pio, 0xcf8, &q, 4);
    assert_true((uint32_t)q == 0x80000900);
    assert_false(bus_read(f->pio, 0xcfa, &q, 4));

    /* identity is read-only */
    cfg_write(f, 1, 0, 0, 4);
    assert_int_equal(cfg_read(f, 1, 0, 4), 0x10421af4);
    cfg_write(f, 1, 0x3c, 0xffff, 2);
    assert_int_equal(cfg_read(f, 1, 0x3c, 2), 0x01ff);
}

static void test_slots(void **state)
{
    struct fixture *f = *state;
    struct pci_dev_config dc = { .vendor = 1, .device = 2 };
    struct pci_dev *d;

    assert_int_equal(pci_dev_new(f->host, 1, &dc, &d), -EEXIST);
    assert_int_equal(pci_dev_new(f->host, 0, &dc, &d), -EEXIST);
    assert_int_equal(pci_dev_new(f->host, 32, &dc, &d), -EINVAL);
    for (unsigned i = 2; i < 32; i++) {
        assert_int_equal(pci_dev_new(f->host, -1, &dc, &d), 0);
        assert_int_equal(pci_dev_slot(d), i);
    }
    assert_int_equal(pci_dev_new(f->host, -1, &dc, &d), -ENOSPC);
    pci_dev_free(d);
    assert_int_equal(pci_dev_new(f->host, -1, &dc, &d), 0);
}

static void test_bar_sizing(void **state)
{
    struct fixture *f = *state;
    uint32_t old;

    assert_int_equal(pci_dev_add_bar(f->dev, 0, 0x4000, true, &fix_bar_ops, f), 0);
    assert_int_equal(pci_dev_add_bar(f->dev, 2, 0x1000, false, &fix_bar_ops, f), 0);
    assert_true(pci_bar_addr(f->dev, 0) == WINDOW64);
    assert_true(pci_bar_addr(f->dev, 2) == WINDOW32);
    assert_true(f->moved_to[0] == WINDOW64);
    /* size as kernels do it: decoding off, all ones, read back, restore */
    cfg_write(f, 1, 4, 0, 2);
    assert_true(pci_bar_addr(f->dev, 0) == 0);
    assert_true(f->moved_to[0] == 0);
    old = cfg_read(f, 1, 0x10, 4);
    assert_int_equal(old, 4); /* 64-bit, not prefetchable */
    cfg_write(f, 1, 0x10, 0xffffffff, 4);
    cfg_write(f, 1, 0x14, 0xffffffff, 4);
    assert_int_equal(cfg_read(f, 1, 0x10, 4), 0xffffc004);
    assert_int_equal(cfg_read(f, 1, 0x14, 4), 0xffffffff);
    cfg_write(f, 1, 0x18, 0xffffffff, 4);
    assert_int_equal(cfg_read(f, 1, 0x18, 4), 0xfffff000);
    cfg_write(f, 1, 0x24, 0xffffffff, 4); /* an absent BAR reads zero */
    assert_int_equal(cfg_read(f, 1, 0x24, 4), 0);
    cfg_write(f, 1, 0x10, old, 4);
    cfg_write(f, 1, 0x14, WINDOW64 >> 32, 4);
    cfg_write(f, 1, 0x18, (uint32_t)WINDOW32, 4);
    cfg_write(f, 1, 4, 2, 2);
    assert_true(pci_bar_addr(f->dev, 0) == WINDOW64);
    assert_true(pci_bar_addr(f->dev, 2) == WINDOW32);
}

static void test_bar_move(void **state)
{
    struct fixture *f = *state;
    uint8_t b = 0;

    assert_int_equal(pci_dev_add_bar(f->dev, 0, 0x1000, false, &fix_bar_ops, f), 0);
    assert_int_equal(pci_dev_add_bar(f->dev, 1, 0x1000, false, &fix_bar_ops, f), 0);
    assert_true(pci_bar_addr(f->dev, 1) == WINDOW32 + 0x1000);
    assert_true(bus_read(f->mmio, WINDOW32 + 0x12, &b, 1));
    assert_int_equal(b, 0x12);
    cfg_write(f, 1, 0x10, 0xd0000000, 4);
    assert_false(bus_read(f->mmio, WINDOW32 + 0x12, &b, 1));
    assert_true(bus_read(f->mmio, 0xd0000012, &b, 1));
    assert_true(f->moved_to[0] == 0xd0000000);
    /* on top of the other BAR, of ECAM, and nowhere: not mapped, and back when there is room */
    cfg_write(f, 1, 0x10, WINDOW32 + 0x1000, 4);
    assert_true(pci_bar_addr(f->dev, 0) == 0);
    assert_true(pci_bar_addr(f->dev, 1) == WINDOW32 + 0x1000);
    cfg_write(f, 1, 0x14, WINDOW32, 4);
    assert_true(pci_bar_addr(f->dev, 0) == WINDOW32 + 0x1000);
    assert_true(pci_bar_addr(f->dev, 1) == WINDOW32);
    cfg_write(f, 1, 0x10, (uint32_t)ECAM, 4);
    assert_true(pci_bar_addr(f->dev, 0) == 0);
    cfg_write(f, 1, 0x10, 0, 4);
    assert_true(pci_bar_addr(f->dev, 0) == 0);
    cfg_write(f, 1, 0x10, 0xfffff000, 4);
    assert_true(pci_bar_addr(f->dev, 0) == 0xfffff000);
    cfg_write(f, 1, 4, 0, 2);
    assert_true(pci_bar_addr(f->dev, 0) == 0);
    assert_false(bus_read(f->mmio, 0xfffff000, &b, 1));
}

static void test_bar_windows(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(pci_dev_add_bar(f->dev, 0, 0x40000000, false, &fix_bar_ops, f), -ENOSPC);
    assert_int_equal(pci_dev_add_bar(f->dev, 0, 0x10000000, false, &fix_bar_ops, f), 0);
    assert_int_equal(pci_dev_add_bar(f->dev, 1, 0x1000, false, &fix_bar_ops, f), 0);
    assert_int_equal(pci_dev_add_bar(f->dev, 2, 0x10000000, false, &fix_bar_ops, f), -ENOSPC);
    assert_int_equal(pci_dev_add_bar(f->dev, 2, 0x8000000, false, &fix_bar_ops, f), 0);
    assert_true(pci_bar_addr(f->dev, 2) == WINDOW32 + 0x18000000);
    assert_int_equal(pci_dev_add_bar(f->dev, 3, 1ULL << 36, true, &fix_bar_ops, f), 0);
    assert_int_equal(cfg_read(f, 1, 0x1c, 4), 4);
    cfg_write(f, 1, 0x1c, 0xffffffff, 4);
    cfg_write(f, 1, 0x20, 0xffffffff, 4);
    assert_int_equal(cfg_read(f, 1, 0x1c, 4), 4);
    assert_int_equal(cfg_read(f, 1, 0x20, 4), 0xfffffff0);
}

static void test_capabilities(void **state)
{
    struct fixture *f = *state;
    uint8_t body[14] = { 0x10, 5 }, mask[14] = { 0, 0xff };
    int a, b;

    assert_int_equal(cfg_read(f, 1, 6, 2) & 0x10, 0);
    a = pci_dev_add_cap(f->dev, PCI_CAP_VENDOR, body, mask, sizeof(body));
    b = pci_dev_add_cap(f->dev, PCI_CAP_VENDOR, body, NULL, 7);
    assert_int_equal(a, 0x40);
    assert_int_equal(b, 0x50);
    assert_int_equal(cfg_read(f, 1, 6, 2) & 0x10, 0x10);
    assert_int_equal(cfg_read(f, 1, 0x34, 1), a);
    assert_int_equal(cfg_read(f, 1, 0x40, 4), 0x05105009);
    assert_int_equal(cfg_read(f, 1, 0x50, 2), 0x0009);
    cfg_write(f, 1, 0x40, 0xffffffff, 4);
    assert_int_equal(cfg_read(f, 1, 0x40, 4), 0xff105009);
    assert_int_equal(f->written_off, 0x40);
    f->reads = 0;
    assert_int_equal(cfg_read(f, 1, 0x54, 1), 1);
    assert_int_equal(cfg_read(f, 1, 0x54, 1), 2);
    assert_int_equal(pci_dev_add_cap(f->dev, PCI_CAP_VENDOR, body, NULL, 200), -ENOSPC);
}

static void msix_entry(struct fixture *f, unsigned vector, uint64_t addr, uint32_t data, uint32_t control)
{
    uint64_t at = pci_bar_addr(f->dev, 4) + vector * 16;

    assert_true(bus_write(f->mmio, at, &addr, 8));
    assert_true(bus_write(f->mmio, at + 8, &data, 4));
    assert_true(bus_write(f->mmio, at + 12, &control, 4));
}

static uint64_t msix_pending(struct fixture *f)
{
    uint64_t pba = 0;

    assert_true(bus_read(f->mmio, pci_bar_addr(f->dev, 4) + (cfg_read(f, 1, 0x48, 4) & ~7U), &pba, 8));
    return pba;
}

static void test_msix(void **state)
{
    struct fixture *f = *state;
    uint64_t v = 0;

    assert_int_equal(pci_dev_add_msix(f->dev, 4, 5), 0);
    assert_int_equal(cfg_read(f, 1, 0x40, 4), 0x00040011);
    assert_int_equal(cfg_read(f, 1, 0x44, 4), 4);
    assert_true(bus_read(f->mmio, pci_bar_addr(f->dev, 4) + 12, &v, 4));
    assert_int_equal(v, 1); /* vectors come up masked */

    pci_msix_notify(f->dev, 0); /* not enabled: nothing, not even pending */
    assert_true(msix_pending(f) == 0);
    cfg_write(f, 1, 0x42, 0x8000, 2);
    assert_true(pci_msix_enabled(f->dev));
    pci_msix_notify(f->dev, 2);
    pci_msix_notify(f->dev, 2);
    pci_msix_notify(f->dev, 5); /* beyond the table */
    assert_true(msix_pending(f) == 4);
    assert_int_equal(f->msi_count, 0);
    msix_entry(f, 2, 0xfee01003, 0x4041, 0); /* unmasking delivers once; address bits 1..0 are hardwired */
    assert_int_equal(f->msi_count, 1);
    assert_true(f->msi_addr == 0xfee01000 && f->msi_data == 0x4041);
    assert_true(msix_pending(f) == 0);
    pci_msix_notify(f->dev, 2);
    assert_int_equal(f->msi_count, 2);

    cfg_write(f, 1, 0x42, 0xc000, 2); /* function mask */
    pci_msix_notify(f->dev, 2);
    pci_msix_notify(f->dev, 3);
    assert_int_equal(f->msi_count, 2);
    assert_true(msix_pending(f) == 0xc);
    cfg_write(f, 1, 0x42, 0x8000, 2); /* vector 3 stays pending behind its own mask */
    assert_int_equal(f->msi_count, 3);
    assert_true(msix_pending(f) == 8);

    /* undefined accesses change nothing */
    assert_true(bus_write(f->mmio, pci_bar_addr(f->dev, 4) + 0x2c, &(uint16_t){ 1 }, 2));
    assert_true(bus_write(f->mmio, pci_bar_addr(f->dev, 4) + 0x22, &(uint32_t){ 7 }, 4));
    assert_true(bus_write(f->mmio, pci_bar_addr(f->dev, 4) + 4096, &(uint64_t){ 0 }, 8));
    assert_true(msix_pending(f) == 8);
    pci_msix_notify(f->dev, 2);
    assert_int_equal(f->msi_count, 4);
    assert_true(f->msi_addr == 0xfee01000);
    assert_true(bus_read(f->mmio, pci_bar_addr(f->dev, 4) + 5 * 16, &v, 8)); /* past the table, inside the BAR */
    assert_true(v == 0);
    assert_true(bus_read(f->mmio, pci_bar_addr(f->dev, 4) + 8184, &v, 8));
}

static void test_msix_256(void **state)
{
    struct fixture *f = *state;
    uint64_t v = 0;

    assert_int_equal(pci_dev_add_msix(f->dev, 4, 256), 0);
    cfg_write(f, 1, 0x42, 0x8000, 2);
    pci_msix_notify(f->dev, 255);
    assert_true(bus_read(f->mmio, pci_bar_addr(f->dev, 4) + 4096 + 31, &v, 1));
    assert_int_equal(v, 0x80);
    msix_entry(f, 255, 0xfee00000, 1, 0);
    assert_int_equal(f->msi_count, 1);
}

static void test_intx(void **state)
{
    struct fixture *f = *state;
    struct pci_dev_config dc = { .vendor = 1, .device = 2, .intx_pin = 1 };
    struct pci_dev *twin;

    assert_int_equal(cfg_read(f, 1, 0x3c, 2), 0x0111);        /* slot 1, INTA: GSI 17 */
    assert_int_equal(pci_dev_new(f->host, 5, &dc, &twin), 0); /* the same wire */
    pci_intx_set(f->dev, true);
    assert_true(f->line[1]);
    assert_int_equal(cfg_read(f, 1, 6, 2) & 8, 8);
    pci_intx_set(twin, true);
    pci_intx_set(f->dev, false);
    assert_true(f->line[1]); /* still held by the twin */
    pci_intx_set(twin, false);
    assert_false(f->line[1]);
    assert_false(f->line[0] || f->line[2] || f->line[3]);

    cfg_write(f, 1, 4, 0x400, 2);
    pci_intx_set(f->dev, true);
    assert_false(f->line[1]);
    assert_int_equal(cfg_read(f, 1, 6, 2) & 8, 8); /* the status shows it all the same */
    cfg_write(f, 1, 4, 0, 2);
    assert_true(f->line[1]);
    assert_int_equal(pci_dev_add_msix(f->dev, 4, 1), 0);
    cfg_write(f, 1, 0x42, 0x8000, 2); /* MSI-X takes over */
    assert_false(f->line[1]);
    cfg_write(f, 1, 0x42, 0, 2);
    assert_true(f->line[1]);
    pci_dev_free(f->dev);
    assert_false(f->line[1]);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_config_access), TEST(test_slots), TEST(test_bar_sizing), TEST(test_bar_move), TEST(test_bar_windows),
        TEST(test_capabilities),  TEST(test_msix),  TEST(test_msix_256),   TEST(test_intx),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
