#include "vmm/devices.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "hw/acpi_pm.h"
#include "hw/bus.h"
#include "hw/chipset.h"
#include "hw/i8042.h"
#include "hw/pci.h"
#include "hw/rtc.h"
#include "hw/time.h"
#include "hw/uart.h"
#include "sys/loop.h"
#include "virtio/console.h"
#include "virtio/rng.h"
#include "vmm/devices_disk.h"
#include "vmm/devices_net.h"
#include "vmm/devices_vsock.h"
#include "vmm/layout.h"
#include "vmm/machine_priv.h"
#include "vmm/serial.h"

/* ---- wires to the engine ---- */

static void devices_irq(void *opaque, unsigned gsi, bool level)
{
    struct machine *m = opaque;

    m->ops->irq_line(m->vm, gsi, level);
}

static void devices_msi(void *opaque, uint64_t addr, uint32_t data)
{
    struct machine *m = opaque;

    m->ops->signal_msi(m->vm, addr, data);
}

static int devices_doorbell_add(void *opaque, uint64_t gpa, unsigned len, int fd)
{
    struct machine *m = opaque;
    const struct cpu_doorbell bell = { .addr = gpa, .len = len, .fd = fd };

    return m->ops->doorbell_add(m->vm, &bell);
}

static void devices_doorbell_del(void *opaque, uint64_t gpa, unsigned len, int fd)
{
    struct machine *m = opaque;
    const struct cpu_doorbell bell = { .addr = gpa, .len = len, .fd = fd };

    m->ops->doorbell_del(m->vm, &bell);
}

static struct irq_line devices_line(struct machine *m, unsigned gsi)
{
    return (struct irq_line){ .set = devices_irq, .opaque = m, .gsi = gsi };
}

/* ---- the parts ---- */

static int devices_new_buses(struct machine *m, const struct machine_guest_ops *guest)
{
    struct chipset_config chipset = {
        .debug_exit = m->spec->debug_exit, .reset = guest->reset, .exit = guest->exit, .opaque = m
    };
    struct pci_host_config pci = {
        .ecam_base = LAYOUT_ECAM_BASE,
        .window32_base = LAYOUT_WINDOW32_BASE,
        .window32_size = LAYOUT_WINDOW32_SIZE,
        .window64_base = m->layout.window64_base,
        .window64_size = LAYOUT_WINDOW64_SIZE,
        .msi = { .send = devices_msi, .opaque = m },
    };
    int r = bus_new(0xffff, &m->pio);

    if (r >= 0)
        r = bus_new(UINT64_MAX, &m->mmio);
    if (r >= 0)
        r = hw_loop_time_new(m->loop, &m->time);
    chipset.pio = m->pio;
    if (r >= 0)
        r = chipset_new(&chipset, &m->chipset);
    if (r < 0)
        return r;
    pci.mmio = m->mmio;
    pci.pio = m->pio;
    pci.cf9 = &chipset_cf9_ops;
    pci.cf9_dev = m->chipset;
    for (unsigned i = 0; i < 4; i++)
        pci.intx[i] = devices_line(m, LAYOUT_PCI_INTX_GSI + i);
    return pci_host_new(&pci, &m->pci);
}

static size_t devices_uart_receive(void *opaque, const uint8_t *data, size_t len)
{
    struct machine *m = opaque;

    return uart_receive(m->uart, data, len);
}

static void devices_uart_output_ready(void *opaque)
{
    struct machine *m = opaque;

    uart_output_ready(m->uart);
}

/* The first serial port is always there; it is the console unless virtio-console was asked for. */
static int devices_new_serial(struct machine *m)
{
    static const struct uart_ops ops = { .write = vmm_serial_write, .input_wanted = vmm_serial_input_wanted };
    const bool console = m->spec->console_device == VM_CONSOLE_SERIAL;
    const struct uart_config config = { .pio = m->pio,
                                        .base = LAYOUT_COM1_PORT,
                                        .irq = devices_line(m, LAYOUT_COM1_IRQ),
                                        .ops = console ? &ops : NULL,
                                        .opaque = m->serial };
    const struct vmm_serial_port port = { .receive = devices_uart_receive,
                                          .output_ready = devices_uart_output_ready,
                                          .opaque = m };
    int r = uart_new(&config, &m->uart);

    return r < 0 || !console ? r : vmm_serial_attach(m->serial, &port);
}

static size_t devices_hvc_receive(void *opaque, const uint8_t *data, size_t len)
{
    struct machine *m = opaque;

    return virtio_console_input(m->hvc, data, len);
}

static void devices_hvc_output_ready(void *opaque)
{
    struct machine *m = opaque;

    virtio_console_writable(m->hvc);
}

static int devices_new_hvc(struct machine *m, const struct virtio_env *env, struct err *e)
{
    const struct virtio_console_config config = {
        .host = { .write = vmm_serial_write, .input_ready = vmm_serial_input_wanted, .opaque = m->serial }, .slot = -1
    };
    const struct vmm_serial_port port = { .receive = devices_hvc_receive,
                                          .output_ready = devices_hvc_output_ready,
                                          .opaque = m };
    int r = virtio_console_new(env, &config, &m->hvc);

    if (r >= 0)
        r = vmm_serial_attach(m->serial, &port);
    return r < 0 ? err_set(e, -r, "cannot make the virtio console: %s", strerror(-r)) : 0;
}

static int devices_new_legacy(struct machine *m, const struct machine_guest_ops *guest)
{
    const struct hw_time time = hw_loop_time_get(m->time);
    const struct i8042_config i8042 = { .pio = m->pio,
                                        .keyboard_irq = devices_line(m, LAYOUT_KEYBOARD_IRQ),
                                        .aux_irq = devices_line(m, LAYOUT_MOUSE_IRQ),
                                        .reset = guest->reset,
                                        .opaque = m };
    const struct rtc_config rtc = { .pio = m->pio,
                                    .irq = devices_line(m, LAYOUT_RTC_IRQ),
                                    .time = time,
                                    .ram_below_4g = m->layout.ram_low,
                                    .ram_above_4g = m->layout.ram_high };
    const struct acpi_pm_config pm = { .pio = m->pio,
                                       .base = LAYOUT_PM_PORT,
                                       .sci = devices_line(m, LAYOUT_SCI_IRQ),
                                       .time = time,
                                       .power_off = guest->power_off,
                                       .opaque = m };
    int r = devices_new_serial(m);

    if (r >= 0)
        r = i8042_new(&i8042, &m->i8042);
    if (r >= 0)
        r = rtc_new(&rtc, &m->rtc);
    if (r >= 0)
        r = acpi_pm_new(&pm, &m->pm);
    return r;
}

static int devices_new_virtio(struct machine *m, struct err *e)
{
    const struct virtio_env env = {
        .mem = m->mem,
        .loop = m->loop,
        .pci = m->pci,
        .doorbell = { .add = devices_doorbell_add, .del = devices_doorbell_del, .opaque = m },
        .reset_wait_ms = 100,
    };
    int r;

    r = machine_disks_new(m, &env, e);
    if (r < 0)
        return r;
    r = devices_net_new(m, &env, e);
    if (r < 0)
        return r;
    if (m->spec->console_device == VM_CONSOLE_VIRTIO) {
        r = devices_new_hvc(m, &env, e);
        if (r < 0)
            return r;
    }
    r = virtio_rng_new(&env, -1, &m->rng);
    if (r < 0)
        return err_set(e, -r, "cannot make the entropy device: %s", strerror(-r));
    return devices_vsock_new(m, &env, e);
}

int machine_devices_new(struct machine *m, const struct machine_guest_ops *guest, struct err *e)
{
    int r = devices_new_buses(m, guest);

    if (r >= 0)
        r = devices_new_legacy(m, guest);
    if (r < 0)
        return err_set(e, -r, "cannot make the machine's devices: %s", strerror(-r));
    return devices_new_virtio(m, e);
}

void machine_devices_free(struct machine *m)
{
    devices_vsock_free(m);
    virtio_rng_free(m->rng);
    virtio_console_free(m->hvc);
    devices_net_free(m);
    machine_disks_free(m);
    pci_host_free(m->pci);
    chipset_free(m->chipset);
    acpi_pm_free(m->pm);
    rtc_free(m->rtc);
    i8042_free(m->i8042);
    uart_free(m->uart);
    bus_free(m->mmio);
    bus_free(m->pio);
}
