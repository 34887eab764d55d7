/* Legacy devices and the PCI bridge under a stream of port and MMIO accesses, with time and input passing between them.
 * Each step takes 12 bytes of input: what to do, a length, an address, a value. */
#include <stdio.h>

#include "../unit/hw_fake.h"
#include "base/check.h"
#include "hw/acpi_pm.h"
#include "hw/chipset.h"
#include "hw/i8042.h"
#include "hw/pci.h"
#include "hw/rtc.h"
#include "hw/uart.h"

#define STEP 12U
#define ECAM 0xe0000000U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct machine {
    struct fake fake;
    struct bus *mmio;
    struct chipset *chipset;
    struct pci_host *pci;
    struct pci_dev *dev;
    struct uart *uart;
    struct i8042 *keyboard;
    struct rtc *rtc;
    struct acpi_pm *pm;
};

static void fuzz_msi(void *opaque, uint64_t addr, uint32_t value)
{
}

static void fuzz_bar_read(void *dev, uint64_t off, void *data, unsigned len)
{
    memset(data, 0, len);
}

static void fuzz_bar_write(void *dev, uint64_t off, const void *data, unsigned len)
{
}

static size_t fuzz_sink(void *opaque, const uint8_t *data, size_t len)
{
    return data[0] & 1 ? len : len / 2;
}

static const struct bus_ops fuzz_bar_ops = { .read = fuzz_bar_read, .write = fuzz_bar_write };
static const struct uart_ops fuzz_uart_ops = { .write = fuzz_sink };

static void fuzz_machine_pci(struct machine *m)
{
    struct pci_host_config c = { .mmio = m->mmio,
                                 .pio = m->fake.pio,
                                 .ecam_base = ECAM,
                                 .window32_base = 0xc0000000,
                                 .window32_size = 0x20000000,
                                 .window64_base = 1ULL << 38,
                                 .window64_size = 1ULL << 38,
                                 .msi = { fuzz_msi, m },
                                 .cf9 = &chipset_cf9_ops,
                                 .cf9_dev = m->chipset };
    struct pci_dev_config dc = { .vendor = 1, .device = 2, .intx_pin = 1 };

    for (unsigned i = 0; i < 4; i++)
        c.intx[i] = fake_irq(&m->fake, 16 + i);
    CHECK(pci_host_new(&c, &m->pci) == 0);
    CHECK(pci_dev_new(m->pci, -1, &dc, &m->dev) == 0);
    CHECK(pci_dev_add_bar(m->dev, 0, 0x4000, true, &fuzz_bar_ops, m) == 0);
    CHECK(pci_dev_add_msix(m->dev, 4, 3) == 0);
}

static void fuzz_machine_new(struct machine *m)
{
    struct fake *f = &m->fake;

    *m = (struct machine){ .fake.utc_ns = 1700000000ULL * 1000000000 };
    CHECK(bus_new(0xffff, &f->pio) == 0 && bus_new(UINT64_MAX, &m->mmio) == 0);
    CHECK(chipset_new(&(struct chipset_config){ .pio = f->pio, .debug_exit = true }, &m->chipset) == 0);
    fuzz_machine_pci(m);
    CHECK(uart_new(&(struct uart_config){ .pio = f->pio, .base = 0x3f8, .irq = fake_irq(f, 4), .ops = &fuzz_uart_ops },
                   &m->uart) == 0);
    CHECK(i8042_new(&(struct i8042_config){ .pio = f->pio, .keyboard_irq = fake_irq(f, 1), .aux_irq = fake_irq(f, 12) },
                    &m->keyboard) == 0);
    CHECK(rtc_new(&(struct rtc_config){ .pio = f->pio, .irq = fake_irq(f, 8), .time = fake_time(f) }, &m->rtc) == 0);
    CHECK(acpi_pm_new(
              &(struct acpi_pm_config){ .pio = f->pio, .base = 0x600, .sci = fake_irq(f, 9), .time = fake_time(f) },
              &m->pm) == 0);
}

static void fuzz_machine_done(struct machine *m)
{
    acpi_pm_free(m->pm);
    rtc_free(m->rtc);
    i8042_free(m->keyboard);
    uart_free(m->uart);
    pci_host_free(m->pci);
    chipset_free(m->chipset);
    bus_free(m->mmio);
    bus_free(m->fake.pio);
}

/* Port ranges that somebody serves, picked by the first address byte, so that few accesses go astray. */
static uint16_t fuzz_port(const uint8_t *step)
{
    static const uint16_t ports[] = { 0x3f8, 0x60, 0x64, 0x70, 0x600, 0xcf8, 0x80, 0x92, 0xf4, 0 };

    return (uint16_t)(ports[step[2] % ARRAY_SIZE(ports)] + step[3] % 32);
}

static void fuzz_step(struct machine *m, const uint8_t *step)
{
    unsigned len = 1U << (step[1] & 3);
    uint32_t low;
    uint64_t addr;
    uint8_t value[8];

    memcpy(value, step + 4, 8);
    memcpy(&low, step + 2, 4);
    switch (step[0] % 10) {
    case 0:
        bus_read(m->fake.pio, fuzz_port(step), value, MIN(len, 4U));
        break;
    case 1:
        bus_write(m->fake.pio, fuzz_port(step), value, MIN(len, 4U));
        break;
    case 2:
        bus_read(m->mmio, ECAM + (low & 0xfffff), value, len);
        break;
    case 3: /* the device's registers */
        bus_write(m->mmio, ECAM + 0x8000 + (low & 0xff), value, len);
        break;
    case 4:
        addr = pci_bar_addr(m->dev, 4);
        if (addr)
            bus_write(m->mmio, addr + (low & 0x1fff), value, len);
        break;
    case 5:
        fake_pass(&m->fake, low);
        break;
    case 6:
        uart_receive(m->uart, step + 2, step[1] % 10);
        break;
    case 7:
        pci_msix_notify(m->dev, step[2]);
        pci_intx_set(m->dev, step[3] & 1);
        break;
    case 8:
        i8042_keyboard_push(m->keyboard, step + 2, step[1] % 10);
        uart_output_ready(m->uart);
        break;
    default:
        acpi_pm_raise_gpe(m->pm, step[2] & 15);
        acpi_pm_press_power(m->pm);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct machine m;

    fuzz_machine_new(&m);
    for (; len >= STEP; data += STEP, len -= STEP)
        fuzz_step(&m, data);
    fuzz_machine_done(&m);
    return 0;
}
