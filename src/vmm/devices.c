#include "vmm/devices.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "block/image.h"
#include "hw/acpi_pm.h"
#include "hw/bus.h"
#include "hw/chipset.h"
#include "hw/i8042.h"
#include "hw/pci.h"
#include "hw/rtc.h"
#include "hw/time.h"
#include "hw/uart.h"
#include "sys/loop.h"
#include "net/user.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"
#include "virtio/rng.h"
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

static int devices_disk_error(const char *path, bool read_only, int code, struct err *e)
{
    switch (code) {
    case EBUSY:
        return err_set(e, EBUSY, "disk %s: in use by another VM or program%s", path,
                       read_only ? " that writes to it; stop that one first"
                                 : "; stop that one, or open it read-only in both with ,ro");
    case ENOMEDIUM:
        return err_set(e, EINVAL, "disk %s: empty; make it bigger, e.g. with truncate -s 1G %s", path, path);
    case EMEDIUMTYPE:
        return err_set(
            e, EINVAL,
            "disk %s: size is not a multiple of 512 bytes, so it is no disk image; fix it with truncate -s %%512 %s",
            path, path);
    case EISDIR:
        return err_set(e, EINVAL, "disk %s: a directory; name an image file or a block device", path);
    case ENOTBLK:
        return err_set(e, EINVAL, "disk %s: neither a file nor a block device; name one of these", path);
    case ENOENT:
        return err_set(e, ENOENT, "disk %s: no such file; check the name, or make it with truncate -s 1G %s", path,
                       path);
    case EACCES:
    case EPERM:
    case EROFS:
        return err_set(e, code, "disk %s: %s; %s", path, strerror(code),
                       read_only ? "check the file's permissions"
                                 : "check the file's permissions, or open it read-only with ,ro");
    default:
        return err_set(e, code, "disk %s: %s", path, strerror(code));
    }
}

static int devices_new_disk(struct machine *m, const struct virtio_env *env, unsigned i, struct err *e)
{
    const struct vm_disk *d = &m->spec->disks[i];
    const struct blk_open_config open = { .path = d->path, .read_only = d->read_only, .aio = BLK_AIO_AUTO };
    struct virtio_blk_config config = { .serial = d->serial, .n_queues = MIN(m->spec->cpus, 4U), .slot = -1 };
    int r = blk_raw_open(&open, m->loop, &m->images[i]);

    if (r < 0)
        return devices_disk_error(d->path, d->read_only, -r, e);
    config.image = m->images[i];
    r = virtio_blk_new(env, &config, &m->disks[i]);
    return r < 0 ? err_set(e, -r, "disk %s: cannot make its device: %s", d->path, strerror(-r)) : 0;
}

/* A locally administered address that stays the same for a VM of the same name (FNV-1a). */
static void devices_mac(const char *name, uint8_t mac[6])
{
    uint64_t hash = 0xcbf29ce484222325ULL;

    for (const char *p = name ? name : ""; *p; p++)
        hash = (hash ^ (uint8_t)*p) * 0x100000001b3ULL;
    memcpy(mac, (const uint8_t[]){ 0x52, 0x54, 0x00 }, 3);
    memcpy(mac + 3, &hash, 3);
}

static int devices_net_error(const struct vm_spec *spec, int forward, int code, struct err *e)
{
    const struct vm_forward *f = forward >= 0 ? &spec->forwards[forward] : NULL;

    if (!f)
        return err_set(e, code, "user network: %s", strerror(code));
    if (code == EADDRINUSE)
        return err_set(e, code,
                       "port forward: %s port %u of the host is already in use; choose another with --net user,fwd=",
                       f->udp ? "UDP" : "TCP", f->host_port);
    if (code == EACCES)
        return err_set(e, code, "port forward: %s port %u of the host needs root; choose one above 1023",
                       f->udp ? "UDP" : "TCP", f->host_port);
    return err_set(e, code, "port forward: %s port %u of the host: %s", f->udp ? "UDP" : "TCP", f->host_port,
                   strerror(code));
}

static int devices_new_net(struct machine *m, const struct virtio_env *env, struct err *e)
{
    struct net_user_forward forwards[VM_FORWARDS_MAX];
    const struct net_user_config config = { .forwards = forwards, .n_forwards = m->spec->n_forwards };
    struct virtio_net_config net = { .slot = -1 };
    int forward = -1, r;

    for (unsigned i = 0; i < m->spec->n_forwards; i++) {
        const struct vm_forward *f = &m->spec->forwards[i];

        forwards[i] = (struct net_user_forward){ .udp = f->udp,
                                                 .host_addr.s_addr = htonl(INADDR_LOOPBACK),
                                                 .host_port = f->host_port,
                                                 .guest_port = f->guest_port };
    }
    r = net_user_new(&config, m->loop, &forward, &m->net_backend);
    if (r < 0)
        return devices_net_error(m->spec, forward, -r, e);
    net.backend = m->net_backend;
    devices_mac(m->spec->name, net.mac);
    r = virtio_net_new(env, &net, &m->net);
    return r < 0 ? err_set(e, -r, "cannot make the network device: %s", strerror(-r)) : 0;
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

    for (unsigned i = 0; i < m->spec->n_disks; i++) {
        r = devices_new_disk(m, &env, i, e);
        if (r < 0)
            return r;
    }
    if (m->spec->net == VM_NET_USER) {
        r = devices_new_net(m, &env, e);
        if (r < 0)
            return r;
    }
    if (m->spec->console_device == VM_CONSOLE_VIRTIO) {
        r = devices_new_hvc(m, &env, e);
        if (r < 0)
            return r;
    }
    r = virtio_rng_new(&env, -1, &m->rng);
    return r < 0 ? err_set(e, -r, "cannot make the entropy device: %s", strerror(-r)) : 0;
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
    virtio_rng_free(m->rng);
    virtio_console_free(m->hvc);
    virtio_net_free(m->net);
    net_backend_close(m->net_backend);
    for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
        virtio_blk_free(m->disks[i]);
        blk_image_close(m->images[i]);
    }
    pci_host_free(m->pci);
    chipset_free(m->chipset);
    acpi_pm_free(m->pm);
    rtc_free(m->rtc);
    i8042_free(m->i8042);
    uart_free(m->uart);
    bus_free(m->mmio);
    bus_free(m->pio);
}
