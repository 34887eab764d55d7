/* Saved state of the virtio PCI transport. A ring's own memory is the guest's; what is kept here is where the device
 * stands in it. Addresses are checked as at activation. */
#include "virtio/pci.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/pack.h"
#include "virtio/ids.h"
#include "virtio/pci_priv.h"

#define VIRTIO_PCI_STATUS_ALL                                                                                 \
    (VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FEATURES_OK | \
     VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED)

bool virtio_pci_held(const struct virtio_pci *p)
{
    return p->held;
}

void virtio_pci_hold(struct virtio_pci *p, bool hold)
{
    bool was_held = p->held, pending;

    p->held = hold;
    if (hold || !was_held)
        return;
    pthread_mutex_lock(&p->lock);
    pending = p->activate_pending || p->reset_pending;
    pthread_mutex_unlock(&p->lock);
    if (pending)
        virtio_pci_signal(p->ctl_fd);
    if (p->config_owed)
        virtio_pci_config_interrupt(p);
    for (unsigned i = 0; i < p->n_queues; i++) {
        virtio_pci_interrupt(p, i);
        if (virtio_pci_queue(p, i))
            virtio_pci_requeue(p, i);
    }
}

static void virtio_pci_queue_save(const struct virtio_pci_queue *q, bool live, struct buf *b)
{
    pack_u16(b, q->size);
    pack_bool(b, q->enabled);
    pack_u64(b, q->desc);
    pack_u64(b, q->driver);
    pack_u64(b, q->device);
    pack_u16(b, q->vector);
    pack_bool(b, live && q->vq.ready);
    if (!live || !q->vq.ready)
        return;
    pack_bool(b, q->vq.broken);
    pack_u16(b, q->vq.next_avail);
    pack_u16(b, q->vq.next_used);
    pack_bool(b, q->vq.avail_wrap);
    pack_bool(b, q->vq.used_wrap);
    pack_u32(b, q->vq.unsignalled);
}

bool virtio_pci_save(struct virtio_pci *p, struct buf *b)
{
    bool live;

    pthread_mutex_lock(&p->lock);
    /* A reset that was asked for is as good as begun: what the device was doing is of no interest any more. */
    live = p->live && !p->reset_pending;
    pack_u64(b, p->features);
    pack_u32(b, p->device_feature_select);
    pack_u32(b, p->driver_feature_select);
    pack_u64(b, p->driver_features);
    pack_u8(b, p->status);
    pack_u8(b, p->generation);
    pack_u16(b, p->queue_select);
    pack_bool(b, p->active);
    pack_bool(b, p->activate_pending);
    pack_bool(b, p->reset_pending);
    pack_bool(b, live);
    pack_bool(b, p->config_owed);
    pack_u16(b, p->config_vector);
    pack_u8(b, p->isr);
    pack_blob(b, p->config, (uint32_t)p->cfg.config_len);
    pack_u16(b, (uint16_t)p->n_queues);
    for (unsigned i = 0; i < p->n_queues; i++)
        virtio_pci_queue_save(&p->queues[i], live, b);
    pthread_mutex_unlock(&p->lock);
    return live;
}

/* Registers of a queue. Lock held. Returns whether its ring is in use. */
static bool virtio_pci_queue_unpack(struct virtio_pci *p, struct virtio_pci_queue *q, struct unpack *in)
{
    uint16_t vector;
    bool ready;

    q->size = unpack_u16(in);
    q->enabled = unpack_bool(in);
    q->desc = unpack_u64(in);
    q->driver = unpack_u64(in);
    q->device = unpack_u64(in);
    vector = unpack_u16(in);
    q->vector = vector;
    ready = unpack_bool(in);
    if (q->size == 0 || q->size > p->cfg.queue_size || (vector > p->n_queues && vector != VIRTIO_PCI_NO_VECTOR) ||
        (ready && !q->enabled))
        unpack_refuse(in);
    return ready && !in->error;
}

/* The ring of a queue that is in use. Lock held. */
static void virtio_pci_ring_unpack(struct virtio_pci *p, struct virtio_pci_queue *q, struct unpack *in)
{
    struct virtq_config config = virtio_pci_queue_config(q, p->driver_features);

    if (virtq_init(&q->vq, p->env.mem, &config) < 0) {
        unpack_refuse(in);
        return;
    }
    q->vq.broken = unpack_bool(in);
    q->vq.next_avail = unpack_u16(in);
    q->vq.next_used = unpack_u16(in);
    q->vq.avail_wrap = unpack_bool(in);
    q->vq.used_wrap = unpack_bool(in);
    q->vq.unsignalled = unpack_u32(in);
    /* Packed: slots of the ring; split: no more chains with the device than there are descriptors. */
    if (config.packed ? q->vq.next_avail >= config.size || q->vq.next_used >= config.size
                      : (uint16_t)(q->vq.next_avail - q->vq.next_used) > config.size)
        unpack_refuse(in);
}

/* All but the queues. Lock held. */
static void virtio_pci_regs_unpack(struct virtio_pci *p, uint64_t features, struct unpack *in)
{
    const uint8_t *config;
    uint16_t vector;
    uint32_t len;

    p->features = unpack_u64(in);
    p->device_feature_select = unpack_u32(in);
    p->driver_feature_select = unpack_u32(in);
    p->driver_features = unpack_u64(in);
    p->status = unpack_u8(in);
    p->generation = unpack_u8(in);
    p->queue_select = unpack_u16(in);
    p->active = unpack_bool(in);
    p->activate_pending = unpack_bool(in);
    p->reset_pending = unpack_bool(in);
    p->live = unpack_bool(in);
    p->config_owed = unpack_bool(in);
    vector = unpack_u16(in);
    p->config_vector = vector;
    p->isr = unpack_u8(in);
    config = unpack_blob(in, VIRTIO_PCI_CONFIG_MAX, &len);
    if (len != p->cfg.config_len || p->features & ~(features | VIRTIO_PCI_FEATURES) ||
        p->status & ~VIRTIO_PCI_STATUS_ALL || p->isr & ~(VIRTIO_PCI_ISR_QUEUE | VIRTIO_PCI_ISR_CONFIG) ||
        (vector > p->n_queues && vector != VIRTIO_PCI_NO_VECTOR))
        unpack_refuse(in);
    else if (len > 0)
        memcpy(p->config, config, len);
    /* What the status register lets happen (virtio_pci_write_status_locked). */
    if (p->status & VIRTIO_STATUS_FEATURES_OK &&
        (p->driver_features & ~p->features || !(p->driver_features & VIRTIO_F_VERSION_1)))
        unpack_refuse(in);
    if ((p->status & VIRTIO_STATUS_DRIVER_OK && !(p->status & VIRTIO_STATUS_FEATURES_OK)) ||
        p->active != !!(p->status & VIRTIO_STATUS_DRIVER_OK) ||
        p->active != (p->live || p->activate_pending || p->reset_pending) || (p->live && p->reset_pending))
        unpack_refuse(in);
}

int virtio_pci_restore(struct virtio_pci *p, uint64_t features, struct unpack *in, uint64_t *ret_features)
{
    bool live;

    pthread_mutex_lock(&p->lock);
    virtio_pci_regs_unpack(p, features, in);
    if (unpack_u16(in) != p->n_queues)
        unpack_refuse(in);
    for (unsigned i = 0; i < p->n_queues && !in->error; i++) {
        bool ready = virtio_pci_queue_unpack(p, &p->queues[i], in);

        if (ready && !p->live)
            unpack_refuse(in);
        else if (ready)
            virtio_pci_ring_unpack(p, &p->queues[i], in);
    }
    live = p->live;
    /* Without its maker's knowledge it must not be used. */
    p->live = live && !in->error;
    p->held = true;
    *ret_features = p->driver_features;
    pthread_mutex_unlock(&p->lock);
    return in->error < 0 ? in->error : live;
}
