/* Register part of the virtio PCI transport: common configuration, ISR, device configuration and notification, as the
 * driver sees them in the BAR. Every access is bounded, and its effect is either a change under the lock or a signal to
 * the loop thread. Must not know devices. Spec: virtio 1.2 sections 4.1.4.3 to 4.1.4.6. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "virtio/ids.h"
#include "virtio/pci_priv.h"

/* Offsets in the common configuration structure (section 4.1.4.3). */
enum {
    REG_DEVICE_FEATURE_SELECT = 0x00,
    REG_DEVICE_FEATURE = 0x04,
    REG_DRIVER_FEATURE_SELECT = 0x08,
    REG_DRIVER_FEATURE = 0x0c,
    REG_CONFIG_VECTOR = 0x10,
    REG_NUM_QUEUES = 0x12,
    REG_STATUS = 0x14,
    REG_GENERATION = 0x15,
    REG_QUEUE_SELECT = 0x16,
    REG_QUEUE_SIZE = 0x18,
    REG_QUEUE_VECTOR = 0x1a,
    REG_QUEUE_ENABLE = 0x1c,
    REG_QUEUE_NOTIFY_OFF = 0x1e,
    REG_QUEUE_DESC = 0x20,
    REG_QUEUE_DRIVER = 0x28,
    REG_QUEUE_DEVICE = 0x30,
    REG_END = 0x38,
};

void virtio_pci_regs_reset_locked(struct virtio_pci *p)
{
    p->device_feature_select = p->driver_feature_select = 0;
    p->driver_features = 0;
    p->status = 0;
    p->queue_select = 0;
    p->active = p->activate_pending = false;
    p->config_vector = VIRTIO_PCI_NO_VECTOR;
    for (unsigned i = 0; i < p->n_queues; i++) {
        struct virtio_pci_queue *q = &p->queues[i];

        q->size = p->cfg.queue_size;
        q->enabled = false;
        q->desc = q->driver = q->device = 0;
        q->vector = VIRTIO_PCI_NO_VECTOR;
    }
}

static struct virtio_pci_queue *virtio_pci_selected(struct virtio_pci *p)
{
    return p->queue_select < p->n_queues ? &p->queues[p->queue_select] : NULL;
}

static uint32_t virtio_pci_half(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

/* The whole structure as bytes, from which a read takes its part. Lock held. */
static void virtio_pci_common_image(struct virtio_pci *p, uint8_t *image)
{
    const struct virtio_pci_queue *q = virtio_pci_selected(p);

    memset(image, 0, REG_END);
    store_le32(image + REG_DEVICE_FEATURE_SELECT, p->device_feature_select);
    store_le32(image + REG_DEVICE_FEATURE, virtio_pci_half(p->features, p->device_feature_select));
    store_le32(image + REG_DRIVER_FEATURE_SELECT, p->driver_feature_select);
    store_le32(image + REG_DRIVER_FEATURE, virtio_pci_half(p->driver_features, p->driver_feature_select));
    store_le16(image + REG_CONFIG_VECTOR, p->config_vector);
    store_le16(image + REG_NUM_QUEUES, (uint16_t)p->n_queues);
    image[REG_STATUS] = p->status;
    image[REG_GENERATION] = p->generation;
    store_le16(image + REG_QUEUE_SELECT, p->queue_select);
    store_le16(image + REG_QUEUE_VECTOR, VIRTIO_PCI_NO_VECTOR);
    if (!q)
        return; /* size 0: no such queue */
    store_le16(image + REG_QUEUE_SIZE, q->size);
    store_le16(image + REG_QUEUE_VECTOR, q->vector);
    store_le16(image + REG_QUEUE_ENABLE, q->enabled);
    store_le16(image + REG_QUEUE_NOTIFY_OFF, p->queue_select);
    store_le64(image + REG_QUEUE_DESC, q->desc);
    store_le64(image + REG_QUEUE_DRIVER, q->driver);
    store_le64(image + REG_QUEUE_DEVICE, q->device);
}

static void virtio_pci_common_read(struct virtio_pci *p, uint64_t off, uint8_t *data, unsigned len)
{
    uint8_t image[REG_END];

    if (off >= REG_END || len > REG_END - off)
        return;
    pthread_mutex_lock(&p->lock);
    virtio_pci_common_image(p, image);
    pthread_mutex_unlock(&p->lock);
    memcpy(data, image + off, len);
}

/* Reset was asked for. With the device active the loop thread has to let go of the queues first: hold the vCPU for a
 * bounded time, so that firmware that never polls the status finds the work done. Lock held. */
static void virtio_pci_write_reset_locked(struct virtio_pci *p)
{
    struct timespec until;
    uint64_t at_ns;

    if (!p->active) {
        virtio_pci_regs_reset_locked(p);
        return;
    }
    if (!p->reset_pending) {
        p->reset_pending = true;
        p->activate_pending = false;
        virtio_pci_signal(p->ctl_fd);
    }
    at_ns = sys_now_ns() + p->env.reset_wait_ms * 1000000ULL;
    until = (struct timespec){ .tv_sec = (time_t)(at_ns / 1000000000), .tv_nsec = (long)(at_ns % 1000000000) };
    while (p->reset_pending && p->env.reset_wait_ms > 0) {
        if (pthread_cond_timedwait(&p->reset_cond, &p->lock, &until) == ETIMEDOUT)
            break;
    }
}

/* Section 3.1.1: bits are only ever added; 0 resets. Lock held. */
static void virtio_pci_write_status_locked(struct virtio_pci *p, uint8_t value)
{
    uint8_t added = value & (uint8_t)~p->status &
                    (VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK |
                     VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_FAILED);

    if (value == 0) {
        virtio_pci_write_reset_locked(p);
        return;
    }
    if (added & VIRTIO_STATUS_FEATURES_OK &&
        (p->driver_features & ~p->features || !(p->driver_features & VIRTIO_F_VERSION_1)))
        added &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
    if (added & VIRTIO_STATUS_DRIVER_OK && !((p->status | added) & VIRTIO_STATUS_FEATURES_OK))
        added &= (uint8_t)~VIRTIO_STATUS_DRIVER_OK;
    p->status |= added;
    if (added & VIRTIO_STATUS_DRIVER_OK) {
        p->active = p->activate_pending = true;
        virtio_pci_signal(p->ctl_fd);
    }
}

static void virtio_pci_write_features_locked(struct virtio_pci *p, uint32_t value)
{
    unsigned shift = 32 * p->driver_feature_select;

    if (p->driver_feature_select > 1 || p->status & VIRTIO_STATUS_FEATURES_OK)
        return;
    p->driver_features = (p->driver_features & ~(0xffffffffULL << shift)) | (uint64_t)value << shift;
}

/* A vector that does not exist reads back as none, which tells the driver (section 4.1.5.1.2). */
static uint16_t virtio_pci_checked_vector(const struct virtio_pci *p, uint16_t value)
{
    return value <= p->n_queues ? value : VIRTIO_PCI_NO_VECTOR;
}

/* One half, or all, of a queue address. Lock held. */
static bool virtio_pci_write_addr(uint64_t *addr, uint64_t off, const uint8_t *data, unsigned len)
{
    if (len == 8 && off == 0)
        *addr = load_le64(data);
    else if (len == 4 && off == 0)
        *addr = (*addr & ~0xffffffffULL) | load_le32(data);
    else if (len == 4 && off == 4)
        *addr = (*addr & 0xffffffffULL) | (uint64_t)load_le32(data) << 32;
    else
        return false;
    return true;
}

/* Fields of the selected queue. An enabled queue does not move any more: its registers keep what was validated, or will
 * be, at activation. Lock held. */
static void virtio_pci_write_queue_locked(struct virtio_pci *p, uint64_t off, const uint8_t *data, unsigned len)
{
    struct virtio_pci_queue *q = virtio_pci_selected(p);
    uint16_t v = len == 2 ? load_le16(data) : 0;

    if (!q)
        return;
    if (off == REG_QUEUE_VECTOR && len == 2)
        q->vector = virtio_pci_checked_vector(p, v);
    if (q->enabled)
        return;
    if (off == REG_QUEUE_SIZE && len == 2) {
        if (v > 0 && v <= p->cfg.queue_size)
            q->size = v;
    } else if (off == REG_QUEUE_ENABLE && len == 2) {
        /* Section 4.1.4.3.2: queues are enabled before DRIVER_OK. */
        q->enabled = v == 1 && !(p->status & VIRTIO_STATUS_DRIVER_OK);
    } else if (off >= REG_QUEUE_DEVICE) {
        (void)virtio_pci_write_addr(&q->device, off - REG_QUEUE_DEVICE, data, len);
    } else if (off >= REG_QUEUE_DRIVER) {
        (void)virtio_pci_write_addr(&q->driver, off - REG_QUEUE_DRIVER, data, len);
    } else if (off >= REG_QUEUE_DESC) {
        (void)virtio_pci_write_addr(&q->desc, off - REG_QUEUE_DESC, data, len);
    }
}

/* Writes that do not match a field in place and width have no effect. */
static void virtio_pci_common_write(struct virtio_pci *p, uint64_t off, const uint8_t *data, unsigned len)
{
    pthread_mutex_lock(&p->lock);
    if (p->reset_pending) {
        /* Section 2.4: nothing counts until the device shows that reset is complete; a second 0 may wait again. */
        if (off == REG_STATUS && len == 1 && data[0] == 0)
            virtio_pci_write_reset_locked(p);
    } else if (off == REG_DEVICE_FEATURE_SELECT && len == 4) {
        p->device_feature_select = load_le32(data);
    } else if (off == REG_DRIVER_FEATURE_SELECT && len == 4) {
        p->driver_feature_select = load_le32(data);
    } else if (off == REG_DRIVER_FEATURE && len == 4) {
        virtio_pci_write_features_locked(p, load_le32(data));
    } else if (off == REG_CONFIG_VECTOR && len == 2) {
        p->config_vector = virtio_pci_checked_vector(p, load_le16(data));
    } else if (off == REG_STATUS && len == 1) {
        virtio_pci_write_status_locked(p, data[0]);
    } else if (off == REG_QUEUE_SELECT && len == 2) {
        p->queue_select = load_le16(data);
    } else if (off >= REG_QUEUE_SIZE && off < REG_END) {
        virtio_pci_write_queue_locked(p, off, data, len);
    }
    pthread_mutex_unlock(&p->lock);
}

/* The one checked copy out of device configuration space. Bytes behind its end read as zero. */
static void virtio_pci_device_read(struct virtio_pci *p, uint64_t off, uint8_t *data, unsigned len)
{
    if (off >= p->cfg.config_len)
        return;
    pthread_mutex_lock(&p->lock);
    memcpy(data, p->config + off, MIN(len, p->cfg.config_len - off));
    pthread_mutex_unlock(&p->lock);
}

static void virtio_pci_device_write(struct virtio_pci *p, uint64_t off, const uint8_t *data, unsigned len)
{
    pthread_mutex_lock(&p->lock);
    for (uint64_t i = off; i < p->cfg.config_len && i - off < len; i++) {
        uint8_t mask = p->config_writable[i];

        p->config[i] = (uint8_t)((p->config[i] & ~mask) | (data[i - off] & mask));
    }
    pthread_mutex_unlock(&p->lock);
}

static void virtio_pci_bar_read(void *dev, uint64_t off, void *data, unsigned len)
{
    struct virtio_pci *p = dev;

    memset(data, 0, len);
    if (off >= VIRTIO_PCI_NOTIFY_OFF)
        return;
    if (off >= VIRTIO_PCI_DEVICE_OFF)
        virtio_pci_device_read(p, off - VIRTIO_PCI_DEVICE_OFF, data, len);
    else if (off == VIRTIO_PCI_ISR_OFF)
        *(uint8_t *)data = virtio_pci_isr_read(p);
    else if (off < VIRTIO_PCI_ISR_OFF)
        virtio_pci_common_read(p, off - VIRTIO_PCI_COMMON_OFF, data, len);
}

static void virtio_pci_bar_write(void *dev, uint64_t off, const void *data, unsigned len)
{
    struct virtio_pci *p = dev;

    if (off >= VIRTIO_PCI_NOTIFY_OFF) {
        /* The engine knows no doorbells, or did not take this one. */
        uint64_t queue = (off - VIRTIO_PCI_NOTIFY_OFF) / VIRTIO_PCI_NOTIFY_STEP;

        if (queue < p->n_queues)
            virtio_pci_signal(p->queues[queue].notify_fd);
    } else if (off >= VIRTIO_PCI_DEVICE_OFF) {
        virtio_pci_device_write(p, off - VIRTIO_PCI_DEVICE_OFF, data, len);
    } else if (off < VIRTIO_PCI_ISR_OFF) {
        virtio_pci_common_write(p, off - VIRTIO_PCI_COMMON_OFF, data, len);
    }
}

const struct bus_ops virtio_pci_bar_ops = { .read = virtio_pci_bar_read, .write = virtio_pci_bar_write };
