/* Life-cycle part of the virtio PCI transport: construction and capabilities, activation and reset on the loop thread,
 * doorbells, interrupts. Lock order: the PCI bridge's lock is never taken with the transport's lock held; isr_lock may
 * be held while the bridge's lock is taken. */
#include "virtio/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/log.h"
#include "virtio/ids.h"
#include "virtio/pci_priv.h"

enum {
    VIRTIO_PCI_VENDOR = 0x1af4,
    VIRTIO_PCI_DEVICE_BASE = 0x1040,
    /* cfg_type of virtio_pci_cap (section 4.1.4) */
    VIRTIO_PCI_CAP_COMMON = 1,
    VIRTIO_PCI_CAP_NOTIFY = 2,
    VIRTIO_PCI_CAP_ISR = 3,
    VIRTIO_PCI_CAP_DEVICE = 4,
    VIRTIO_PCI_CAP_PCI = 5,
    /* Offsets in a capability, from its header on */
    VIRTIO_PCI_CAP_BAR = 4,
    VIRTIO_PCI_CAP_OFFSET = 8,
    VIRTIO_PCI_CAP_LENGTH = 12,
    VIRTIO_PCI_CAP_DATA = 16,
};

void virtio_pci_signal(int fd)
{
    uint64_t one = 1;

    /* Only a counter near 2^64 could make this fail, and then it is signalled anyway. */
    if (write(fd, &one, sizeof(one)) < 0)
        log_debug("virtio: eventfd write failed");
}

static void virtio_pci_drain(int fd)
{
    uint64_t count;

    if (read(fd, &count, sizeof(count)) < 0)
        log_debug("virtio: eventfd had no event");
}

/* ---- interrupts ---- */

static void virtio_pci_raise(struct virtio_pci *p, uint16_t vector, uint8_t isr_bit)
{
    if (pci_msix_enabled(p->pci)) {
        if (vector != VIRTIO_PCI_NO_VECTOR)
            pci_msix_notify(p->pci, vector);
        return;
    }
    pthread_mutex_lock(&p->isr_lock);
    p->isr |= isr_bit;
    pci_intx_set(p->pci, true);
    pthread_mutex_unlock(&p->isr_lock);
}

uint8_t virtio_pci_isr_read(struct virtio_pci *p)
{
    uint8_t isr;

    pthread_mutex_lock(&p->isr_lock);
    isr = p->isr;
    p->isr = 0;
    if (isr)
        pci_intx_set(p->pci, false);
    pthread_mutex_unlock(&p->isr_lock);
    return isr;
}

void virtio_pci_interrupt(struct virtio_pci *p, unsigned queue)
{
    struct virtq *q = virtio_pci_queue(p, queue);

    if (q && virtq_should_interrupt(q))
        virtio_pci_raise(p, p->queues[queue].vector, VIRTIO_PCI_ISR_QUEUE);
}

void virtio_pci_config_interrupt(struct virtio_pci *p)
{
    p->config_owed = p->held;
    if (!p->held)
        virtio_pci_raise(p, p->config_vector, VIRTIO_PCI_ISR_CONFIG);
}

/* ---- queues ---- */

struct virtq *virtio_pci_queue(struct virtio_pci *p, unsigned queue)
{
    CHECK(queue < p->n_queues);
    return p->live && p->queues[queue].vq.ready ? &p->queues[queue].vq : NULL;
}

void virtio_pci_requeue(struct virtio_pci *p, unsigned queue)
{
    virtio_pci_signal(p->queues[queue].notify_fd);
}

static void virtio_pci_needs_reset(struct virtio_pci *p)
{
    bool tell;

    pthread_mutex_lock(&p->lock);
    tell = p->active && !p->reset_pending && !(p->status & VIRTIO_STATUS_NEEDS_RESET);
    if (tell)
        p->status |= VIRTIO_STATUS_NEEDS_RESET;
    pthread_mutex_unlock(&p->lock);
    if (tell)
        virtio_pci_config_interrupt(p);
}

void virtio_pci_queue_broken(struct virtio_pci *p, unsigned queue)
{
    log_debug("virtio device type %u: queue %u is broken", p->cfg.device_id, queue);
    p->queues[queue].vq.broken = true;
    virtio_pci_needs_reset(p);
}

static void virtio_pci_notified(void *opaque, uint32_t events)
{
    struct virtio_pci_queue *q = opaque;

    (void)events;
    virtio_pci_drain(q->notify_fd);
    if (q->dev->live && !q->dev->held && q->vq.ready && !q->vq.broken)
        q->dev->cfg.ops->queue_notify(q->dev->cfg.opaque, (unsigned)(q - q->dev->queues));
}

/* ---- activation and reset, on the loop thread ---- */

struct virtq_config virtio_pci_queue_config(const struct virtio_pci_queue *q, uint64_t features)
{
    return (struct virtq_config){
        .size = q->size,
        .packed = features & VIRTIO_F_RING_PACKED,
        .event_idx = features & VIRTIO_F_EVENT_IDX,
        .indirect = features & VIRTIO_F_INDIRECT_DESC,
        .desc = GPA(q->desc),
        .driver = GPA(q->driver),
        .device = GPA(q->device),
    };
}

static void virtio_pci_activate(struct virtio_pci *p)
{
    bool bad = false;
    uint64_t features;

    pthread_mutex_lock(&p->lock);
    features = p->driver_features;
    for (unsigned i = 0; i < p->n_queues; i++) {
        struct virtio_pci_queue *q = &p->queues[i];
        struct virtq_config config = virtio_pci_queue_config(q, features);

        if (q->enabled && virtq_init(&q->vq, p->env.mem, &config) < 0)
            bad = true;
    }
    pthread_mutex_unlock(&p->lock);
    p->live = true;
    if (bad)
        virtio_pci_needs_reset(p);
    p->cfg.ops->activate(p->cfg.opaque, features);
    for (unsigned i = 0; i < p->n_queues; i++) {
        if (p->queues[i].vq.ready && !p->held)
            p->cfg.ops->queue_notify(p->cfg.opaque, i);
    }
}

void virtio_pci_reset_done(struct virtio_pci *p)
{
    (void)virtio_pci_isr_read(p);
    pthread_mutex_lock(&p->lock);
    virtio_pci_regs_reset_locked(p);
    p->reset_pending = p->reset_running = false;
    pthread_cond_broadcast(&p->reset_cond);
    pthread_mutex_unlock(&p->lock);
}

static void virtio_pci_reset_start(struct virtio_pci *p)
{
    bool was_live = p->live;

    p->live = false;
    for (unsigned i = 0; i < p->n_queues; i++)
        virtq_done(&p->queues[i].vq);
    if (!was_live || p->cfg.ops->reset(p->cfg.opaque))
        virtio_pci_reset_done(p);
}

static void virtio_pci_ctl(void *opaque, uint32_t events)
{
    struct virtio_pci *p = opaque;
    bool activate, reset;

    (void)events;
    virtio_pci_drain(p->ctl_fd);
    pthread_mutex_lock(&p->lock);
    activate = p->activate_pending;
    reset = p->reset_pending && !p->reset_running;
    p->activate_pending = false;
    if (reset)
        p->reset_running = true;
    pthread_mutex_unlock(&p->lock);
    if (reset)
        virtio_pci_reset_start(p);
    else if (activate)
        virtio_pci_activate(p);
}

/* ---- configuration space ---- */

void virtio_pci_config_get(struct virtio_pci *p, size_t off, void *data, size_t len)
{
    CHECK(off <= p->cfg.config_len && len <= p->cfg.config_len - off);
    pthread_mutex_lock(&p->lock);
    memcpy(data, p->config + off, len);
    pthread_mutex_unlock(&p->lock);
}

void virtio_pci_config_set(struct virtio_pci *p, size_t off, const void *data, size_t len)
{
    bool tell;

    CHECK(off <= p->cfg.config_len && len <= p->cfg.config_len - off);
    pthread_mutex_lock(&p->lock);
    memcpy(p->config + off, data, len);
    p->generation++;
    tell = p->active && !p->reset_pending;
    pthread_mutex_unlock(&p->lock);
    if (tell)
        virtio_pci_config_interrupt(p);
}

/* The driver reaches the BAR through configuration space (section 4.1.4.9): what bar, offset and length name is read
 * into, or written from, the data field. */
static void virtio_pci_window(struct virtio_pci *p, unsigned off, unsigned len, bool write)
{
    unsigned data_at = p->pci_cfg_cap + VIRTIO_PCI_CAP_DATA;
    uint8_t cap[VIRTIO_PCI_CAP_DATA + 4];
    uint32_t at, n;

    if (off + len <= data_at || off >= data_at + 4)
        return;
    pci_config_get(p->pci, p->pci_cfg_cap, cap, sizeof(cap));
    at = load_le32(cap + VIRTIO_PCI_CAP_OFFSET);
    n = load_le32(cap + VIRTIO_PCI_CAP_LENGTH);
    if (cap[VIRTIO_PCI_CAP_BAR] != VIRTIO_PCI_BAR || (n != 1 && n != 2 && n != 4) || at % n != 0 ||
        at >= VIRTIO_PCI_BAR_SIZE)
        return;
    if (write) {
        virtio_pci_bar_ops.write(p, at, cap + VIRTIO_PCI_CAP_DATA, n);
    } else {
        virtio_pci_bar_ops.read(p, at, cap + VIRTIO_PCI_CAP_DATA, n);
        pci_config_set(p->pci, data_at, cap + VIRTIO_PCI_CAP_DATA, n);
    }
}

static void virtio_pci_config_written(void *opaque, unsigned off, unsigned len)
{
    virtio_pci_window(opaque, off, len, true);
}

static void virtio_pci_config_read(void *opaque, unsigned off, unsigned len)
{
    virtio_pci_window(opaque, off, len, false);
}

/* The bridge's lock is held, which also serialises these calls. Doorbells stand as long as the BAR is mapped; rung
 * while the device is not live they have no effect. */
static void virtio_pci_bar_moved(void *opaque, unsigned bar, uint64_t addr)
{
    struct virtio_pci *p = opaque;
    const struct doorbell_sink *sink = &p->env.doorbell;

    if (bar != VIRTIO_PCI_BAR || !sink->add)
        return;
    for (unsigned i = 0; i < p->n_queues; i++) {
        struct virtio_pci_queue *q = &p->queues[i];
        uint64_t gpa = addr ? addr + VIRTIO_PCI_NOTIFY_OFF + i * VIRTIO_PCI_NOTIFY_STEP : 0;

        if (q->doorbell_gpa == gpa)
            continue;
        if (q->doorbell_gpa)
            sink->del(sink->opaque, q->doorbell_gpa, 2, q->notify_fd);
        q->doorbell_gpa = gpa && sink->add(sink->opaque, gpa, 2, q->notify_fd) == 0 ? gpa : 0;
    }
}

/* ---- construction ---- */

static const struct pci_dev_ops virtio_pci_pci_ops = {
    .config_written = virtio_pci_config_written,
    .config_read = virtio_pci_config_read,
    .bar_moved = virtio_pci_bar_moved,
};

/* One virtio_pci_cap (section 4.1.4); extra: the 32-bit field behind it that notify and PCI access have, else has_extra
 * false. Returns its offset or -ENOSPC. */
static int virtio_pci_add_cap(struct virtio_pci *p, uint8_t type, uint32_t off, uint32_t len, bool has_extra,
                              uint32_t extra)
{
    uint8_t body[VIRTIO_PCI_CAP_DATA + 4 - 2] = { 0 }, writable[sizeof(body)] = { 0 };
    unsigned n = has_extra ? sizeof(body) : sizeof(body) - 4;
    bool window = type == VIRTIO_PCI_CAP_PCI;

    body[0] = (uint8_t)(n + 2);
    body[1] = type;
    body[VIRTIO_PCI_CAP_BAR - 2] = window ? 0 : VIRTIO_PCI_BAR;
    store_le32(body + VIRTIO_PCI_CAP_OFFSET - 2, off);
    store_le32(body + VIRTIO_PCI_CAP_LENGTH - 2, len);
    store_le32(body + VIRTIO_PCI_CAP_DATA - 2, extra);
    if (window) {
        writable[VIRTIO_PCI_CAP_BAR - 2] = 0xff;
        memset(writable + VIRTIO_PCI_CAP_OFFSET - 2, 0xff, 12);
    }
    return pci_dev_add_cap(p->pci, PCI_CAP_VENDOR, body, writable, n);
}

static int virtio_pci_add_caps(struct virtio_pci *p)
{
    int res = virtio_pci_add_cap(p, VIRTIO_PCI_CAP_COMMON, VIRTIO_PCI_COMMON_OFF, 0x38, false, 0);

    if (res >= 0)
        res = virtio_pci_add_cap(p, VIRTIO_PCI_CAP_NOTIFY, VIRTIO_PCI_NOTIFY_OFF, p->n_queues * VIRTIO_PCI_NOTIFY_STEP,
                                 true, VIRTIO_PCI_NOTIFY_STEP);
    if (res >= 0)
        res = virtio_pci_add_cap(p, VIRTIO_PCI_CAP_ISR, VIRTIO_PCI_ISR_OFF, 1, false, 0);
    if (res >= 0 && p->cfg.config_len > 0)
        res =
            virtio_pci_add_cap(p, VIRTIO_PCI_CAP_DEVICE, VIRTIO_PCI_DEVICE_OFF, (uint32_t)p->cfg.config_len, false, 0);
    if (res >= 0)
        res = virtio_pci_add_cap(p, VIRTIO_PCI_CAP_PCI, 0, 0, true, 0);
    if (res < 0)
        return res;
    p->pci_cfg_cap = (unsigned)res;
    return 0;
}

static int virtio_pci_add_to_bus(struct virtio_pci *p)
{
    struct pci_dev_config config = {
        .vendor = VIRTIO_PCI_VENDOR,
        .device = (uint16_t)(VIRTIO_PCI_DEVICE_BASE + p->cfg.device_id),
        .subsystem_vendor = VIRTIO_PCI_VENDOR,
        .subsystem = (uint16_t)(VIRTIO_PCI_DEVICE_BASE + p->cfg.device_id),
        .class_code = p->cfg.pci_class,
        .revision = 1,
        .intx_pin = 1,
        .ops = &virtio_pci_pci_ops,
        .opaque = p,
    };
    int res = pci_dev_new(p->env.pci, p->cfg.slot, &config, &p->pci);

    if (res == 0)
        res = virtio_pci_add_caps(p);
    if (res == 0)
        res = pci_dev_add_msix(p->pci, VIRTIO_PCI_MSIX_BAR, p->n_queues + 1);
    /* Below 4 GiB, so that 32-bit kernels without PAE reach it. */
    if (res == 0)
        res = pci_dev_add_bar(p->pci, VIRTIO_PCI_BAR, VIRTIO_PCI_BAR_SIZE, false, &virtio_pci_bar_ops, p);
    return res;
}

/* An eventfd watched by the loop. */
static int virtio_pci_add_event(struct virtio_pci *p, void (*cb)(void *, uint32_t), void *opaque, int *ret_fd,
                                struct loop_fd **ret_src)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), res;

    if (fd < 0)
        return -errno;
    *ret_fd = fd; /* the destructor closes it, whatever happens next */
    res = loop_fd_add(p->env.loop, fd, EPOLLIN, cb, opaque, ret_src);
    return res;
}

static int virtio_pci_init(struct virtio_pci *p)
{
    int res = virtio_pci_add_event(p, virtio_pci_ctl, p, &p->ctl_fd, &p->ctl_src);

    for (unsigned i = 0; i < p->n_queues && res == 0; i++) {
        struct virtio_pci_queue *q = &p->queues[i];

        res = virtio_pci_add_event(p, virtio_pci_notified, q, &q->notify_fd, &q->notify_src);
    }
    return res < 0 ? res : virtio_pci_add_to_bus(p);
}

static void virtio_pci_init_locks(struct virtio_pci *p)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->reset_cond, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&p->lock, NULL);
    pthread_mutex_init(&p->isr_lock, NULL);
}

int virtio_pci_new(const struct virtio_env *env, const struct virtio_pci_config *config, struct virtio_pci **ret_dev)
{
    struct virtio_pci *p;
    int res;

    if (config->n_queues == 0 || config->n_queues > VIRTIO_PCI_QUEUES_MAX || !is_pow2(config->queue_size) ||
        config->config_len > VIRTIO_PCI_CONFIG_MAX)
        return -EINVAL;
    p = calloc(1, sizeof(*p) + config->n_queues * sizeof(p->queues[0]));
    if (!p)
        return -ENOMEM;
    p->env = *env;
    p->cfg = *config;
    p->features = config->features | VIRTIO_PCI_FEATURES;
    p->n_queues = config->n_queues;
    p->ctl_fd = -1;
    for (unsigned i = 0; i < p->n_queues; i++) {
        p->queues[i].dev = p;
        p->queues[i].notify_fd = -1;
    }
    if (config->config_len > 0)
        memcpy(p->config, config->config, config->config_len);
    if (config->config_writable)
        memcpy(p->config_writable, config->config_writable, config->config_len);
    virtio_pci_init_locks(p);
    virtio_pci_regs_reset_locked(p);
    res = virtio_pci_init(p);
    if (res < 0) {
        virtio_pci_free(p);
        return res;
    }
    *ret_dev = p;
    return 0;
}

void virtio_pci_free(struct virtio_pci *p)
{
    if (!p)
        return;
    pci_dev_free(p->pci);
    loop_fd_free(p->ctl_src);
    if (p->ctl_fd >= 0)
        close(p->ctl_fd);
    for (unsigned i = 0; i < p->n_queues; i++) {
        struct virtio_pci_queue *q = &p->queues[i];

        if (q->doorbell_gpa)
            p->env.doorbell.del(p->env.doorbell.opaque, q->doorbell_gpa, 2, q->notify_fd);
        loop_fd_free(q->notify_src);
        if (q->notify_fd >= 0)
            close(q->notify_fd);
    }
    pthread_cond_destroy(&p->reset_cond);
    pthread_mutex_destroy(&p->lock);
    pthread_mutex_destroy(&p->isr_lock);
    free(p);
}
