/* The split ring format. Spec: virtio 1.2 section 2.7. */
#include <errno.h>

#include "base/bits.h"
#include "virtio/queue_priv.h"

enum { VIRTQ_AVAIL_NO_INTERRUPT = 1, VIRTQ_USED_NO_NOTIFY = 1 };

/* Driver area: flags, idx, ring[size], used_event. Device area: flags, idx, {id, len}[size], avail_event. */
static const uint8_t *virtq_split_avail(const struct virtq *q, unsigned slot)
{
    return q->driver + 4 + 2 * slot;
}

static uint8_t *virtq_split_used(const struct virtq *q, unsigned slot)
{
    return q->device + 4 + 8 * slot;
}

int virtq_split_init(struct virtq *q)
{
    uint64_t size = q->cfg.size;

    if (!is_pow2(size) || q->cfg.desc.v % 16 || q->cfg.driver.v % 2 || q->cfg.device.v % 4)
        return -EINVAL;
    q->desc = mem_ptr(q->mem, q->cfg.desc, 16 * size);
    q->driver = mem_ptr(q->mem, q->cfg.driver, 6 + 2 * size);
    q->device = mem_ptr(q->mem, q->cfg.device, 6 + 8 * size);
    if (!q->desc || !q->driver || !q->device || mem_find(q->mem, q->cfg.device.v)->read_only)
        return -EFAULT;
    return 0;
}

bool virtq_split_available(struct virtq *q)
{
    return virtq_load16_acquire(q->driver + 2) != q->next_avail;
}

/* Copy one descriptor out of guest memory. p need not be aligned (indirect tables). */
static struct virtq_desc virtq_split_desc(const uint8_t *p)
{
    struct virtq_desc d;

    d.addr = load_le64(p);
    d.len = load_le32(p + 8);
    d.flags = load_le16(p + 12);
    d.next_or_id = load_le16(p + 14);
    /* Keep the compiler from reading guest memory again later: the copy must not change after it was checked. */
    __asm__ volatile("" ::: "memory");
    return d;
}

static int virtq_split_walk_indirect(struct virtq *q, struct virtq_chain *c, const struct virtq_desc *entry)
{
    const uint8_t *table;
    unsigned n, at = 0;
    int res = virtq_indirect_table(q, entry->addr, entry->len, &table, &n);

    if (res < 0 || entry->flags & VIRTQ_DESC_NEXT)
        return -EFAULT;
    for (unsigned steps = 0; steps < n; steps++) {
        struct virtq_desc d = virtq_split_desc(table + VIRTQ_DESC_BYTES * at);

        if (d.flags & VIRTQ_DESC_INDIRECT)
            return -EFAULT;
        res = virtq_chain_add(q, c, d.addr, d.len, d.flags & VIRTQ_DESC_WRITE);
        if (res < 0)
            return res;
        if (!(d.flags & VIRTQ_DESC_NEXT))
            return 0;
        at = d.next_or_id;
        if (at >= n)
            return -EFAULT;
    }
    return -EFAULT; /* more steps than descriptors: a loop */
}

static int virtq_split_walk(struct virtq *q, struct virtq_chain *c, unsigned head)
{
    unsigned at = head;

    for (unsigned steps = 0; steps < q->cfg.size; steps++) {
        struct virtq_desc d;
        int res;

        if (at >= q->cfg.size)
            return -EFAULT;
        d = virtq_split_desc(q->desc + VIRTQ_DESC_BYTES * at);
        if (d.flags & VIRTQ_DESC_INDIRECT)
            return virtq_split_walk_indirect(q, c, &d);
        res = virtq_chain_add(q, c, d.addr, d.len, d.flags & VIRTQ_DESC_WRITE);
        if (res < 0)
            return res;
        if (!(d.flags & VIRTQ_DESC_NEXT))
            return 0;
        at = d.next_or_id;
    }
    return -EFAULT; /* a loop */
}

int virtq_split_pop(struct virtq *q, struct virtq_chain *c)
{
    uint16_t waiting = (uint16_t)(virtq_load16_acquire(q->driver + 2) - q->next_avail);
    uint16_t head;
    int res;

    if (waiting == 0)
        return 0;
    if (waiting > q->cfg.size)
        return -EFAULT;
    head = virtq_load16(virtq_split_avail(q, q->next_avail & (q->cfg.size - 1u)));
    res = virtq_split_walk(q, c, head);
    if (res < 0)
        return res;
    c->id = head;
    c->n_slots = 1;
    q->next_avail++;
    return 1;
}

void virtq_split_push(struct virtq *q, struct virtq_chain *const *chains, const uint32_t *lens, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint8_t *used = virtq_split_used(q, (uint16_t)(q->next_used + i) & (q->cfg.size - 1u));

        virtq_store32(used, chains[i]->id);
        virtq_store32(used + 4, lens[i]);
        virtq_mark(q, q->device, q->cfg.device, used, 8);
    }
    q->next_used = (uint16_t)(q->next_used + n);
    q->unsignalled += n;
    virtq_store16_release(q->device + 2, q->next_used);
    virtq_mark(q, q->device, q->cfg.device, q->device + 2, 2);
}

bool virtq_split_should_interrupt(struct virtq *q)
{
    if (!q->cfg.event_idx)
        return !(virtq_load16(q->driver) & VIRTQ_AVAIL_NO_INTERRUPT);
    if (q->unsignalled > UINT16_MAX)
        return true;
    return virtq_event_passed(virtq_load16(virtq_split_avail(q, q->cfg.size)), q->next_used, (uint16_t)q->unsignalled);
}

void virtq_split_set_notify(struct virtq *q, bool on)
{
    uint8_t *at = q->device;

    if (q->cfg.event_idx) {
        /* Left behind, the event index is passed only once: that is suppression enough while polling. */
        if (!on)
            return;
        at = virtq_split_used(q, q->cfg.size);
        virtq_store16(at, q->next_avail);
    } else {
        virtq_store16(at, on ? 0 : VIRTQ_USED_NO_NOTIFY);
    }
    virtq_mark(q, q->device, q->cfg.device, at, 2);
}
