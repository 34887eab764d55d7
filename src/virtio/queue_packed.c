/* The packed ring format: one ring of descriptors that driver and device both write, ownership told by two flag bits
 * and a wrap counter on each side. Spec: virtio 1.2 section 2.8. */
#include <errno.h>

#include "base/bits.h"
#include "virtio/queue_priv.h"

enum {
    VIRTQ_PACKED_AVAIL = 1 << 7,
    VIRTQ_PACKED_USED = 1 << 15,
    /* Event suppression structures: off_wrap, flags (section 2.8.14). */
    VIRTQ_PACKED_EVENT_ENABLE = 0,
    VIRTQ_PACKED_EVENT_DISABLE = 1,
    VIRTQ_PACKED_EVENT_DESC = 2,
    VIRTQ_PACKED_EVENT_MASK = 3,
};

static uint8_t *virtq_packed_slot(const struct virtq *q, unsigned slot)
{
    return q->desc + VIRTQ_DESC_BYTES * slot;
}

int virtq_packed_init(struct virtq *q)
{
    if (q->cfg.desc.v % 16 || q->cfg.driver.v % 4 || q->cfg.device.v % 4)
        return -EINVAL;
    q->desc = mem_ptr(q->mem, q->cfg.desc, 16ULL * q->cfg.size);
    q->driver = mem_ptr(q->mem, q->cfg.driver, 4);
    q->device = mem_ptr(q->mem, q->cfg.device, 4);
    if (!q->desc || !q->driver || !q->device || mem_find(q->mem, q->cfg.desc.v)->read_only ||
        mem_find(q->mem, q->cfg.device.v)->read_only)
        return -EFAULT;
    return 0;
}

/* Whether the slot that is next belongs to the device; its flags as read. */
static bool virtq_packed_peek(struct virtq *q, uint16_t *ret_flags)
{
    uint16_t flags = virtq_load16_acquire(virtq_packed_slot(q, q->next_avail) + 14);

    *ret_flags = flags;
    return !!(flags & VIRTQ_PACKED_AVAIL) == q->avail_wrap && !!(flags & VIRTQ_PACKED_USED) != q->avail_wrap;
}

bool virtq_packed_available(struct virtq *q)
{
    uint16_t flags;

    return virtq_packed_peek(q, &flags);
}

static struct virtq_desc virtq_packed_desc(const uint8_t *p)
{
    struct virtq_desc d;

    d.addr = load_le64(p);
    d.len = load_le32(p + 8);
    d.next_or_id = load_le16(p + 12);
    d.flags = load_le16(p + 14);
    /* As in the split format: what is checked must be what is used. */
    __asm__ volatile("" ::: "memory");
    return d;
}

/* In a packed indirect table all descriptors count, in order; only the write flag has a meaning. */
static int virtq_packed_walk_indirect(struct virtq *q, struct virtq_chain *c, const struct virtq_desc *entry)
{
    const uint8_t *table;
    unsigned n;
    int res = virtq_indirect_table(q, entry->addr, entry->len, &table, &n);

    if (res < 0 || entry->flags & VIRTQ_DESC_NEXT)
        return -EFAULT;
    for (unsigned i = 0; i < n; i++) {
        struct virtq_desc d = virtq_packed_desc(table + VIRTQ_DESC_BYTES * i);

        if (d.flags & VIRTQ_DESC_INDIRECT)
            return -EFAULT;
        res = virtq_chain_add(q, c, d.addr, d.len, d.flags & VIRTQ_DESC_WRITE);
        if (res < 0)
            return res;
    }
    return 0;
}

/* Move a ring position by n <= size slots. */
static void virtq_packed_advance(const struct virtq *q, uint16_t *pos, bool *wrap, unsigned n)
{
    unsigned next = *pos + n;

    if (next >= q->cfg.size) {
        next -= q->cfg.size;
        *wrap = !*wrap;
    }
    *pos = (uint16_t)next;
}

int virtq_packed_pop(struct virtq *q, struct virtq_chain *c)
{
    uint16_t head_flags;

    if (!virtq_packed_peek(q, &head_flags))
        return 0;
    for (unsigned n = 0; n < q->cfg.size; n++) {
        struct virtq_desc d = virtq_packed_desc(virtq_packed_slot(q, (q->next_avail + n) % q->cfg.size));
        int res;

        if (n == 0)
            d.flags = head_flags;
        if (d.flags & VIRTQ_DESC_INDIRECT)
            res = virtq_packed_walk_indirect(q, c, &d);
        else
            res = virtq_chain_add(q, c, d.addr, d.len, d.flags & VIRTQ_DESC_WRITE);
        if (res < 0)
            return res;
        if (!(d.flags & VIRTQ_DESC_NEXT)) {
            c->id = d.next_or_id;
            c->n_slots = (uint16_t)(n + 1);
            virtq_packed_advance(q, &q->next_avail, &q->avail_wrap, n + 1);
            return 1;
        }
    }
    return -EFAULT; /* the whole ring says "next" */
}

void virtq_packed_unpop(struct virtq *q, const struct virtq_chain *c)
{
    if (q->next_avail < c->n_slots) {
        q->next_avail = (uint16_t)(q->next_avail + q->cfg.size);
        q->avail_wrap = !q->avail_wrap;
    }
    q->next_avail = (uint16_t)(q->next_avail - c->n_slots);
}

void virtq_packed_push(struct virtq *q, struct virtq_chain *const *chains, const uint32_t *lens, unsigned n)
{
    uint8_t *first = virtq_packed_slot(q, q->next_used);
    uint16_t first_flags = 0;

    for (unsigned i = 0; i < n; i++) {
        uint8_t *slot = virtq_packed_slot(q, q->next_used);
        uint16_t flags = q->used_wrap ? VIRTQ_PACKED_AVAIL | VIRTQ_PACKED_USED : 0;

        if (lens[i] > 0)
            flags |= VIRTQ_DESC_WRITE;
        virtq_store32(slot + 8, lens[i]);
        virtq_store16(slot + 12, chains[i]->id);
        if (i == 0) {
            first_flags = flags;
        } else {
            virtq_store16_release(slot + 14, flags);
            virtq_mark(q, q->desc, q->cfg.desc, slot + 8, 8);
        }
        virtq_packed_advance(q, &q->next_used, &q->used_wrap, chains[i]->n_slots);
        q->unsignalled += chains[i]->n_slots;
    }
    /* The driver looks at slots in order, so the flags of the first one publish them all. */
    virtq_store16_release(first + 14, first_flags);
    virtq_mark(q, q->desc, q->cfg.desc, first + 8, 8);
}

bool virtq_packed_should_interrupt(struct virtq *q)
{
    uint16_t flags = virtq_load16_acquire(q->driver + 2) & VIRTQ_PACKED_EVENT_MASK;
    uint16_t off_wrap, event;

    if (flags != VIRTQ_PACKED_EVENT_DESC || !q->cfg.event_idx)
        return flags != VIRTQ_PACKED_EVENT_DISABLE;
    if (q->unsignalled > q->cfg.size)
        return true;
    off_wrap = virtq_load16(q->driver);
    event = off_wrap & 0x7fff;
    /* An event slot of the previous lap lies one ring length back on the line of which next_used is a point. */
    if ((off_wrap >> 15) != q->used_wrap)
        event = (uint16_t)(event - q->cfg.size);
    return virtq_event_passed(event, q->next_used, (uint16_t)q->unsignalled);
}

void virtq_packed_set_notify(struct virtq *q, bool on)
{
    uint16_t flags = VIRTQ_PACKED_EVENT_DISABLE;

    if (on && q->cfg.event_idx) {
        virtq_store16(q->device, (uint16_t)(q->next_avail | q->avail_wrap << 15));
        flags = VIRTQ_PACKED_EVENT_DESC;
    } else if (on) {
        flags = VIRTQ_PACKED_EVENT_ENABLE;
    }
    virtq_store16_release(q->device + 2, flags);
    virtq_mark(q, q->device, q->cfg.device, q->device, 4);
}
