/* Bad chains in split rings, each against every device. A chain that cannot be understood must set DEVICE_NEEDS_RESET
 * (virtio 1.2 section 2.1.1); one that is only odd may be served or not. In both cases the other devices go on and a
 * reset brings the device back. Spec: section 2.7. */
#include "virtio.h"

enum expect { BROKEN, SERVED, ANY };

struct split_case {
    const char *name;
    void (*make)(struct vdev *d, unsigned q); /* fills the ring; the caller kicks */
    enum expect expect;
    uint64_t features;
};

/* One descriptor chain at the head 0. */
static void one(struct vdev *d, unsigned q, uint64_t addr, uint32_t len)
{
    struct ring *r = &d->q[q];

    /* As the device wants it: the entropy device writes, all others read first. */
    desc_set(r, 0, addr, len, d->type == VIRTIO_RNG ? DESC_WRITE : 0, 0);
    ring_publish(r, 0);
}

static void self_loop(struct vdev *d, unsigned q)
{
    desc_set(&d->q[q], 0, (uint64_t)d->q[q].buf, 16, DESC_NEXT, 0);
    ring_publish(&d->q[q], 0);
}

static void loop_of(struct vdev *d, unsigned q, unsigned n, uint32_t len, uint16_t flags)
{
    struct ring *r = &d->q[q];

    for (unsigned i = 0; i < n; i++)
        desc_set(r, i, (uint64_t)r->buf, len, flags | DESC_NEXT, (uint16_t)((i + 1) % n));
    ring_publish(r, 0);
}

static void loop_two(struct vdev *d, unsigned q)
{
    loop_of(d, q, 2, 16, 0);
}

static void loop_long(struct vdev *d, unsigned q)
{
    loop_of(d, q, d->q[q].size, 16, 0);
}

static void loop_write(struct vdev *d, unsigned q)
{
    loop_of(d, q, 3, 16, DESC_WRITE);
}

/* Zero lengths add nothing to a chain, so only the count of steps ends this one. */
static void loop_empty(struct vdev *d, unsigned q)
{
    loop_of(d, q, d->q[q].size, 0, 0);
}

static void next_far(struct vdev *d, unsigned q)
{
    desc_set(&d->q[q], 0, (uint64_t)d->q[q].buf, 16, DESC_NEXT, d->q[q].size);
    ring_publish(&d->q[q], 0);
}

static void next_max(struct vdev *d, unsigned q)
{
    desc_set(&d->q[q], 0, (uint64_t)d->q[q].buf, 16, DESC_NEXT, 0xffff);
    ring_publish(&d->q[q], 0);
}

static void head_far(struct vdev *d, unsigned q)
{
    ring_publish(&d->q[q], d->q[q].size);
}

static void head_max(struct vdev *d, unsigned q)
{
    ring_publish(&d->q[q], 0xffff);
}

#define ONE(name, addr, len)                     \
    static void name(struct vdev *d, unsigned q) \
    {                                            \
        one(d, q, addr, len);                    \
    }
ONE(addr_beyond, ram_end, 64)
ONE(addr_straddles, ram_end - 16, 64)
ONE(addr_hole, MMIO_HOLE, 64)
ONE(addr_bar, (uint64_t)d->bar, 64)
ONE(addr_ecam, ECAM, 64)
ONE(addr_lapic, LAPIC_BASE, 64)
ONE(addr_4g, 1ULL << 32, 64)
ONE(addr_2_63, 1ULL << 63, 64)
ONE(addr_wraps, ~0ULL - 15, 64)
ONE(addr_wraps_to_0, ~0ULL - 15, 16)
ONE(len_huge, 0x100000, 0xffffffff)
ONE(len_ram, 0x1000, (uint32_t)ram_end)
ONE(len_zero, (uint64_t)d->q[q].buf, 0)
ONE(len_one, (uint64_t)d->q[q].buf, 1)

/* Every piece lies in RAM, but together they are more than 32 bits can say. */
static void sum_overflow(struct vdev *d, unsigned q)
{
    struct ring *r = &d->q[q];
    uint32_t len = (uint32_t)ram_end; /* at least 64 of them */

    for (unsigned i = 0; i < r->size; i++)
        desc_set(r, i, 0, len,
                 (uint16_t)((d->type == VIRTIO_RNG ? DESC_WRITE : 0) | (i + 1u < r->size ? DESC_NEXT : 0)),
                 (uint16_t)(i + 1));
    ring_publish(r, 0);
}

static void len_many_huge(struct vdev *d, unsigned q)
{
    struct ring *r = &d->q[q];

    for (unsigned i = 0; i < 8; i++)
        desc_set(r, i, (uint64_t)r->buf, 0xffffffff, i < 7 ? DESC_NEXT : 0, (uint16_t)(i + 1));
    ring_publish(r, 0);
}

static void write_first(struct vdev *d, unsigned q)
{
    desc_set(&d->q[q], 0, (uint64_t)d->q[q].buf, 64, DESC_WRITE | DESC_NEXT, 1);
    desc_set(&d->q[q], 1, (uint64_t)d->q[q].buf + 64, 64, 0, 0);
    ring_publish(&d->q[q], 0);
}

static void write_between(struct vdev *d, unsigned q)
{
    desc_set(&d->q[q], 0, (uint64_t)d->q[q].buf, 16, DESC_NEXT, 1);
    desc_set(&d->q[q], 1, (uint64_t)d->q[q].buf + 64, 64, DESC_WRITE | DESC_NEXT, 2);
    desc_set(&d->q[q], 2, (uint64_t)d->q[q].buf + 128, 64, 0, 0);
    ring_publish(&d->q[q], 0);
}

static void avail_jump(struct vdev *d, unsigned q)
{
    one(d, q, (uint64_t)d->q[q].buf, 64);
    d->q[q].driver[1] = (uint16_t)(d->q[q].avail + 1000);
}

static void avail_back(struct vdev *d, unsigned q)
{
    d->q[q].driver[1] = (uint16_t)(d->q[q].avail - 1);
}

/* All slots name the same chain: strange, but each is a request. */
static void avail_all(struct vdev *d, unsigned q)
{
    struct ring *r = &d->q[q];

    desc_set(r, 0, (uint64_t)r->buf, 64, d->type == VIRTIO_RNG ? DESC_WRITE : 0, 0);
    for (unsigned i = 0; i < r->size; i++)
        ring_publish(r, 0);
}

/* ---- indirect tables; features decide whether they are negotiated ---- */

static volatile struct desc *table_of(struct vdev *d, unsigned q)
{
    return (void *)(d->q[q].buf + 8192);
}

static void table_set(volatile struct desc *t, unsigned n, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    t[n].addr = addr;
    t[n].len = len;
    t[n].flags = flags;
    t[n].next = next;
}

static void indirect(struct vdev *d, unsigned q, uint64_t table, uint32_t len, uint16_t flags)
{
    desc_set(&d->q[q], 0, table, len, DESC_INDIRECT | flags, 1);
    desc_set(&d->q[q], 1, (uint64_t)d->q[q].buf, 64, 0, 0);
    ring_publish(&d->q[q], 0);
}

static void ind_plain(struct vdev *d, unsigned q)
{
    table_set(table_of(d, q), 0, (uint64_t)d->q[q].buf, 64, d->type == VIRTIO_RNG ? DESC_WRITE : 0, 0);
    indirect(d, q, (uint64_t)table_of(d, q), 16, 0);
}

static void ind_self_loop(struct vdev *d, unsigned q)
{
    table_set(table_of(d, q), 0, (uint64_t)d->q[q].buf, 16, DESC_NEXT, 0);
    indirect(d, q, (uint64_t)table_of(d, q), 16, 0);
}

static void ind_long_loop(struct vdev *d, unsigned q)
{
    for (unsigned i = 0; i < 1024; i++)
        table_set(table_of(d, q), i, (uint64_t)d->q[q].buf, 0, DESC_NEXT, (uint16_t)((i + 1) % 1024));
    indirect(d, q, (uint64_t)table_of(d, q), 1024 * 16, 0);
}

static void ind_next_far(struct vdev *d, unsigned q)
{
    table_set(table_of(d, q), 0, (uint64_t)d->q[q].buf, 16, DESC_NEXT, 2);
    table_set(table_of(d, q), 1, (uint64_t)d->q[q].buf, 16, 0, 0);
    table_set(table_of(d, q), 2, (uint64_t)d->q[q].buf, 16, 0, 0); /* fine, but not in the table */
    indirect(d, q, (uint64_t)table_of(d, q), 32, 0);
}

static void ind_nested(struct vdev *d, unsigned q)
{
    table_set(table_of(d, q), 0, (uint64_t)table_of(d, q) + 16, 16, DESC_INDIRECT, 0);
    table_set(table_of(d, q), 1, (uint64_t)d->q[q].buf, 16, 0, 0);
    indirect(d, q, (uint64_t)table_of(d, q), 32, 0);
}

static void ind_in_itself(struct vdev *d, unsigned q)
{
    indirect(d, q, (uint64_t)d->q[q].desc, 16u * d->q[q].size, 0);
}

static void ind_with_next(struct vdev *d, unsigned q)
{
    table_set(table_of(d, q), 0, (uint64_t)d->q[q].buf, 16, 0, 0);
    indirect(d, q, (uint64_t)table_of(d, q), 16, DESC_NEXT);
}

#define INDIRECT(name, addr, len)                \
    static void name(struct vdev *d, unsigned q) \
    {                                            \
        indirect(d, q, addr, len, 0);            \
    }
INDIRECT(ind_empty, (uint64_t)table_of(d, q), 0)
INDIRECT(ind_odd, (uint64_t)table_of(d, q), 24)
INDIRECT(ind_short, (uint64_t)table_of(d, q), 15)
INDIRECT(ind_huge, (uint64_t)table_of(d, q), 0xfffffff0)
INDIRECT(ind_too_many, (uint64_t)table_of(d, q), 16 * 1025)
INDIRECT(ind_beyond, ram_end, 16)
INDIRECT(ind_straddles, ram_end - 16, 32)
INDIRECT(ind_hole, MMIO_HOLE, 16)
INDIRECT(ind_wraps, ~0ULL - 15, 32)

/* ---- buffers on top of the rings and of each other ---- */

static void over(struct vdev *d, unsigned q, volatile const void *at, uint32_t len)
{
    struct ring *r = &d->q[q];
    uint32_t *header = (void *)r->buf;

    memset(header, 0, 16);
    desc_set(r, 0, (uint64_t)header, 16, d->type == VIRTIO_RNG ? DESC_WRITE : 0, 1);
    desc_set(r, 1, (uint64_t)at, len, DESC_WRITE, 2);
    desc_set(r, 2, (uint64_t)r->buf + 16, 1, DESC_WRITE, 0);
    r->desc[0].flags |= DESC_NEXT;
    r->desc[1].flags |= DESC_NEXT;
    ring_publish(r, 0);
}

static void over_desc(struct vdev *d, unsigned q)
{
    over(d, q, d->q[q].desc, 4096);
}

static void over_avail(struct vdev *d, unsigned q)
{
    over(d, q, d->q[q].driver, 512);
}

static void over_used(struct vdev *d, unsigned q)
{
    over(d, q, d->q[q].device, 2048);
}

static void over_itself(struct vdev *d, unsigned q)
{
    over(d, q, d->q[q].buf, 512); /* header, data and status share their bytes */
}

static void over_same(struct vdev *d, unsigned q)
{
    struct ring *r = &d->q[q];

    for (unsigned i = 0; i < 32; i++)
        desc_set(r, i, (uint64_t)r->buf, 512, (uint16_t)((i ? DESC_WRITE : 0) | (i < 31 ? DESC_NEXT : 0)),
                 (uint16_t)(i + 1));
    ring_publish(r, 0);
}

static void flags_all(struct vdev *d, unsigned q)
{
    desc_set(&d->q[q], 0, (uint64_t)d->q[q].buf, 64, 0xfff8 | (d->type == VIRTIO_RNG ? DESC_WRITE : 0), 0);
    ring_publish(&d->q[q], 0);
}

static const struct split_case attacks[] = {
    { "self-loop", self_loop, BROKEN, 0 },
    { "loop-of-two", loop_two, BROKEN, 0 },
    { "loop-of-all", loop_long, BROKEN, 0 },
    { "loop-writable", loop_write, BROKEN, 0 },
    { "loop-of-empty", loop_empty, BROKEN, 0 },
    { "next-out-of-range", next_far, BROKEN, 0 },
    { "next-65535", next_max, BROKEN, 0 },
    { "head-out-of-range", head_far, BROKEN, 0 },
    { "head-65535", head_max, BROKEN, 0 },
    { "addr-beyond-ram", addr_beyond, BROKEN, 0 },
    { "addr-over-end-of-ram", addr_straddles, BROKEN, 0 },
    { "addr-in-mmio-hole", addr_hole, BROKEN, 0 },
    { "addr-in-own-bar", addr_bar, BROKEN, 0 },
    { "addr-in-ecam", addr_ecam, BROKEN, 0 },
    { "addr-in-lapic", addr_lapic, BROKEN, 0 },
    { "addr-4g", addr_4g, BROKEN, 0 },
    { "addr-2^63", addr_2_63, BROKEN, 0 },
    { "addr-wraps", addr_wraps, BROKEN, 0 },
    { "addr-ends-at-2^64", addr_wraps_to_0, BROKEN, 0 },
    { "len-4g", len_huge, BROKEN, 0 },
    { "len-of-ram", len_ram, BROKEN, 0 },
    { "len-many-4g", len_many_huge, BROKEN, 0 },
    { "len-sum-overflows", sum_overflow, BROKEN, 0 },
    { "len-0", len_zero, ANY, 0 },
    { "len-1", len_one, ANY, 0 },
    { "write-before-read", write_first, BROKEN, 0 },
    { "write-between-reads", write_between, BROKEN, 0 },
    { "avail-jumps", avail_jump, BROKEN, 0 },
    { "avail-goes-back", avail_back, BROKEN, 0 },
    { "avail-all-the-same", avail_all, ANY, 0 },
    { "flags-unknown", flags_all, ANY, 0 },
    { "indirect-not-negotiated", ind_plain, BROKEN, 0 },
    { "indirect", ind_plain, ANY, F_INDIRECT },
    { "indirect-self-loop", ind_self_loop, BROKEN, F_INDIRECT },
    { "indirect-long-loop", ind_long_loop, BROKEN, F_INDIRECT },
    { "indirect-next-out-of-range", ind_next_far, BROKEN, F_INDIRECT },
    { "indirect-nested", ind_nested, BROKEN, F_INDIRECT },
    { "indirect-ring-itself", ind_in_itself, BROKEN, F_INDIRECT },
    { "indirect-and-next", ind_with_next, BROKEN, F_INDIRECT },
    { "indirect-empty", ind_empty, BROKEN, F_INDIRECT },
    { "indirect-odd-length", ind_odd, BROKEN, F_INDIRECT },
    { "indirect-short", ind_short, BROKEN, F_INDIRECT },
    { "indirect-4g", ind_huge, BROKEN, F_INDIRECT },
    { "indirect-too-many", ind_too_many, BROKEN, F_INDIRECT },
    { "indirect-beyond-ram", ind_beyond, BROKEN, F_INDIRECT },
    { "indirect-over-end-of-ram", ind_straddles, BROKEN, F_INDIRECT },
    { "indirect-in-mmio-hole", ind_hole, BROKEN, F_INDIRECT },
    { "indirect-wraps", ind_wraps, BROKEN, F_INDIRECT },
    { "data-over-descriptors", over_desc, ANY, 0 },
    { "data-over-avail", over_avail, ANY, F_EVENT_IDX },
    { "data-over-used", over_used, ANY, F_EVENT_IDX },
    { "data-over-header", over_itself, ANY, 0 },
    { "data-over-itself", over_same, ANY, 0 },
};

/* Queues to attack; the receive queue is looked at only when a frame comes, so it has one sent. */
static const struct {
    struct vdev **dev;
    unsigned q;
} targets[] = { { &disk0, 0 }, { &rng, 0 }, { &net, 1 }, { &net, 2 }, { &net, 0 } };

static void provoke_frame(struct vdev *d)
{
    static const uint8_t arp[] = { 8, 6, 0, 1, 8, 0, 6, 4, 0, 1 };
    uint8_t *out = d->q[1].buf;
    struct seg tx = { (uint64_t)out, 12 + 42, false };

    memset(out, 0, 12 + 42);
    memset(out + 12, 0xff, 6);
    for (unsigned i = 0; i < 6; i++)
        out[18 + i] = out[34 + i] = d->space[i];
    memcpy(out + 24, arp, sizeof(arp));
    memcpy(out + 40, (const uint8_t[]){ 10, 0, 2, 15 }, 4);
    memcpy(out + 50, (const uint8_t[]){ 10, 0, 2, 2 }, 4);
    CHECK(ring_request(d, 1, &tx, 1), "transmit stands with a bad receive ring");
}

static void attack(const struct split_case *c, struct vdev *d, unsigned q)
{
    CHECK(vdev_start(d, c->features), "%s does not start", d->name);
    c->make(d, q);
    vdev_kick(d, q);
    if (d == net && q == 0)
        provoke_frame(d);
    if (c->expect == BROKEN)
        CHECK(vdev_wait_broken(d), "%s: queue %u of %s is not broken", c->name, q, d->name);
    /* The other queues of the same device do not suffer either (driver and device may go on with them, section 2.1.1
     * leaves it open; ours do). */
    if (d == disk0 && d->n_queues > 1)
        CHECK(blk_request(d, 1, 0, 8, d->q[1].buf + 4096, 512, true) == 0, "%s: the other queue stands", c->name);
    if (d == net && q == 0) /* it would go on writing what comes in */
        vdev_reset(d);
    others_work(d);
    revive(d, c->name);
}

void split_run(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(attacks); i++) {
        guest_print("split: %s\n", attacks[i].name);
        for (unsigned t = 0; t < ARRAY_SIZE(targets); t++)
            attack(&attacks[i], *targets[t].dev, targets[t].q);
    }
}
