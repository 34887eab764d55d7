/* The one table of what is saved of a machine's devices, and the walk over it. The device files know how; this file
 * knows which, in which order, and under which name. */
#include "vmm/save.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/pack.h"
#include "hw/acpi_pm.h"
#include "hw/chipset.h"
#include "hw/i8042.h"
#include "hw/pci.h"
#include "hw/rtc.h"
#include "block/image.h"
#include "hw/uart.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"
#include "vmm/devices_disk.h"
#include "vmm/machine_priv.h"

/* A kind of device. All members are called with what find gave. */
struct save_device {
    const char *kind;
    uint16_t version;
    unsigned n;                                          /* instances 0..n-1 may be there */
    void *(*find)(struct machine *m, unsigned instance); /* NULL: not there */
    void (*save)(void *dev, struct buf *b);
    int (*restore)(void *dev, uint16_t version, struct unpack *in);
};

/* The functions of a device file with the pointer types of the table. */
#define SAVE_FUNCTIONS(noun)                                                  \
    static void save_##noun(void *dev, struct buf *b)                         \
    {                                                                         \
        noun##_save(dev, b);                                                  \
    }                                                                         \
    static int restore_##noun(void *dev, uint16_t version, struct unpack *in) \
    {                                                                         \
        return noun##_restore(dev, version, in);                              \
    }

/* And a finder for a device of which there is at most one. */
#define SAVE_SINGLE(noun, member)                                  \
    SAVE_FUNCTIONS(noun)                                           \
    static void *find_##noun(struct machine *m, unsigned instance) \
    {                                                              \
        return instance == 0 ? m->member : NULL;                   \
    }

SAVE_SINGLE(chipset, chipset)
SAVE_SINGLE(pci_host, pci)
SAVE_FUNCTIONS(pci_dev)
SAVE_SINGLE(uart, uart)
SAVE_SINGLE(i8042, i8042)
SAVE_SINGLE(rtc, rtc)
SAVE_SINGLE(acpi_pm, pm)
SAVE_FUNCTIONS(virtio_blk)
SAVE_FUNCTIONS(virtio_net)
SAVE_SINGLE(virtio_console, hvc)
SAVE_SINGLE(virtio_rng, rng)
SAVE_SINGLE(virtio_vsock, vsock)

static void *find_pci_dev(struct machine *m, unsigned instance)
{
    return pci_host_dev(m->pci, instance);
}

static void *find_virtio_blk(struct machine *m, unsigned instance)
{
    return m->disks[instance] ? m->disks[instance]->blk : NULL;
}

static void *find_virtio_net(struct machine *m, unsigned instance)
{
    return m->nets[instance];
}

/* The order of the file. PCI functions come before the virtio devices behind them, so that doorbells stand. */
static const struct save_device save_devices[] = {
    { "chipset", CHIPSET_STATE_VERSION, 1, find_chipset, save_chipset, restore_chipset },
    { "pci-host", PCI_HOST_STATE_VERSION, 1, find_pci_host, save_pci_host, restore_pci_host },
    { "pci", PCI_DEV_STATE_VERSION, PCI_SLOTS, find_pci_dev, save_pci_dev, restore_pci_dev },
    { "uart", UART_STATE_VERSION, 1, find_uart, save_uart, restore_uart },
    { "i8042", I8042_STATE_VERSION, 1, find_i8042, save_i8042, restore_i8042 },
    { "rtc", RTC_STATE_VERSION, 1, find_rtc, save_rtc, restore_rtc },
    { "acpi-pm", ACPI_PM_STATE_VERSION, 1, find_acpi_pm, save_acpi_pm, restore_acpi_pm },
    { "virtio-blk", VIRTIO_BLK_STATE_VERSION, VM_DISKS_MAX, find_virtio_blk, save_virtio_blk, restore_virtio_blk },
    { "virtio-net", VIRTIO_NET_STATE_VERSION, VM_NICS_MAX, find_virtio_net, save_virtio_net, restore_virtio_net },
    { "virtio-console", VIRTIO_CONSOLE_STATE_VERSION, 1, find_virtio_console, save_virtio_console,
      restore_virtio_console },
    { "virtio-rng", VIRTIO_RNG_STATE_VERSION, 1, find_virtio_rng, save_virtio_rng, restore_virtio_rng },
    { "virtio-vsock", VIRTIO_VSOCK_STATE_VERSION, 1, find_virtio_vsock, save_virtio_vsock, restore_virtio_vsock },
};
_Static_assert(ARRAY_SIZE(save_devices) <= MACHINE_SAVED_KINDS, "a word of restored instances for each");

/* ---- standing still ---- */

/* Released, disks come last: what they complete may wake everybody else. */
static void save_hold(struct machine *m, bool hold)
{
    m->quiesce.on = hold;
    uart_hold(m->uart, hold);
    if (!hold)
        uart_output_ready(m->uart);
    if (m->hvc)
        virtio_console_hold(m->hvc, hold);
    virtio_rng_hold(m->rng, hold);
    virtio_vsock_hold(m->vsock, hold);
    for (unsigned i = 0; i < VM_NICS_MAX; i++) {
        if (m->nets[i])
            virtio_net_hold(m->nets[i], hold);
    }
    for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
        if (m->disks[i])
            virtio_blk_hold(m->disks[i]->blk, hold);
    }
}

static void save_one_is_quiet(void *opaque)
{
    struct machine *m = opaque;

    if (--m->quiesce.waiting == 0)
        m->quiesce.done(m->quiesce.opaque);
}

int vmm_quiesce(struct machine *m, void (*done)(void *opaque), void *opaque)
{
    if (m->quiesce.on)
        return -EBUSY;
    m->quiesce.done = done;
    m->quiesce.opaque = opaque;
    m->quiesce.waiting = 1; /* for this function */
    save_hold(m, true);
    for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
        int r;

        m->quiesce.waiting += m->disks[i] != NULL; /* first: it may be quiet at once */
        r = m->disks[i] ? blk_image_quiesce(m->disks[i]->image, save_one_is_quiet, m) : 0;
        if (r < 0) {
            while (i-- > 0) {
                if (m->disks[i])
                    blk_image_resume(m->disks[i]->image);
            }
            save_hold(m, false);
            return r;
        }
    }
    save_one_is_quiet(m);
    return 0;
}

void vmm_unquiesce(struct machine *m)
{
    if (!m->quiesce.on)
        return;
    for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
        if (m->disks[i])
            blk_image_resume(m->disks[i]->image);
    }
    save_hold(m, false);
}

/* ---- sections ---- */

int vmm_save_devices(struct machine *m,
                     int (*each)(void *opaque, const char *kind, uint32_t instance, uint16_t version, const void *data,
                                 size_t len),
                     void *opaque)
{
    int r = 0;

    for (size_t k = 0; k < ARRAY_SIZE(save_devices); k++) {
        const struct save_device *d = &save_devices[k];

        for (unsigned i = 0; i < d->n && r >= 0; i++) {
            void *dev = d->find(m, i);
            struct buf b;

            if (!dev)
                continue;
            buf_init(&b, VMM_SECTION_MAX);
            d->save(dev, &b);
            r = buf_error(&b);
            if (r >= 0)
                r = each(opaque, d->kind, i, d->version, b.data, b.len);
            buf_done(&b);
        }
    }
    return r;
}

static int save_restore_error(const struct save_device *d, uint32_t instance, int r, struct err *e)
{
    if (r == -ENOMEM)
        return err_set(e, ENOMEM, "out of memory");
    if (r == -ENOSPC)
        return err_set(
            e, ENOSPC,
            "disk %u is smaller than the one that the VM was saved with; give the same one, or one that is larger",
            instance);
    return err_set(e, -r,
                   "the saved state of device %s %u makes no sense here (%s); the file is damaged, or the VM is given "
                   "other devices than it had",
                   d->kind, instance, strerror(-r));
}

int vmm_restore_device(struct machine *m, const char *kind, uint32_t instance, uint16_t version, const void *data,
                       size_t len, struct err *e)
{
    for (size_t k = 0; k < ARRAY_SIZE(save_devices); k++) {
        const struct save_device *d = &save_devices[k];
        void *dev = strcmp(d->kind, kind) == 0 && instance < d->n ? d->find(m, instance) : NULL;
        struct unpack in;
        int r;

        if (!dev)
            continue;
        if (m->restored[k] & BIT64(instance))
            return err_set(e, EEXIST, "the saved VM has device %s %u twice; the file is damaged", kind, instance);
        if (version == 0 || version > d->version)
            return err_set(
                e, ENOTSUP,
                "the saved state of device %s has version %u, and this Caisson knows up to %u; use a newer one", kind,
                version, d->version);
        if (!m->quiesce.on)
            save_hold(m, true);
        unpack_init(&in, data, len);
        r = d->restore(dev, version, &in);
        if (r < 0)
            return save_restore_error(d, instance, r, e);
        m->restored[k] |= BIT64(instance);
        return 0;
    }
    return err_set(
        e, ENOENT,
        "the saved VM has a device %.32s %u, which this one has not; restore it with the devices that it had", kind,
        instance);
}

int vmm_restore_end(struct machine *m, bool catch_up, struct err *e)
{
    for (size_t k = 0; k < ARRAY_SIZE(save_devices); k++) {
        const struct save_device *d = &save_devices[k];

        for (unsigned i = 0; i < d->n; i++) {
            if (!(m->restored[k] & BIT64(i)) && d->find(m, i))
                return err_set(
                    e, EBADMSG,
                    "the saved VM has no device %s %u, which this one has; restore it with the devices that it had",
                    d->kind, i);
        }
    }
    if (catch_up)
        rtc_catch_up(m->rtc);
    return 0;
}
