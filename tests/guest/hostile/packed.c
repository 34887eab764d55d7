/* Bad chains in packed rings (virtio 1.2 section 2.8), and a run that shows that good ones work across the wrap. */
#include "virtio.h"

enum expect { BROKEN, IGNORED, ANY };

static uint16_t mine(const struct ring *r, bool wrap)
{
    (void)r;
    return wrap ? DESC_AVAIL : DESC_USED;
}

static void put(struct ring *r, unsigned at, uint64_t addr, uint32_t len, uint16_t id, uint16_t flags)
{
    r->desc[at].addr = addr;
    r->desc[at].len = len;
    r->desc[at].id = id;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    r->desc[at].pflags = flags;
}

static void wrong_wrap(struct vdev *d, unsigned q)
{
    put(&d->q[q], 0, (uint64_t)d->q[q].buf, 64, 0, mine(&d->q[q], false) | DESC_WRITE);
}

static void both_flags(struct vdev *d, unsigned q)
{
    put(&d->q[q], 0, (uint64_t)d->q[q].buf, 64, 0, DESC_AVAIL | DESC_USED | DESC_WRITE);
}

static void no_end(struct vdev *d, unsigned q)
{
    struct ring *r = &d->q[q];

    for (unsigned i = r->size; i-- > 0;)
        put(r, i, (uint64_t)r->buf, 16, (uint16_t)i, mine(r, true) | DESC_NEXT);
}

static void no_end_empty(struct vdev *d, unsigned q)
{
    struct ring *r = &d->q[q];

    for (unsigned i = r->size; i-- > 0;)
        put(r, i, (uint64_t)r->buf, 0, (uint16_t)i, mine(r, true) | DESC_NEXT);
}

/* The rest of the chain is not available: its bytes are taken as they lie there (zeroes: a read-only piece of nothing).
 */
static void cut_off(struct vdev *d, unsigned q)
{
    put(&d->q[q], 0, (uint64_t)d->q[q].buf, 16, 0, mine(&d->q[q], true) | DESC_NEXT);
}

static void id_far(struct vdev *d, unsigned q)
{
    put(&d->q[q], 0, (uint64_t)d->q[q].buf, 64, 0xffff, mine(&d->q[q], true) | (d == rng ? DESC_WRITE : 0));
}

static void ids_equal(struct vdev *d, unsigned q)
{
    struct ring *r = &d->q[q];

    for (unsigned i = r->size; i-- > 0;)
        put(r, i, (uint64_t)r->buf, 64, 7, mine(r, true) | (d == rng ? DESC_WRITE : 0));
}

static void addr_beyond(struct vdev *d, unsigned q)
{
    put(&d->q[q], 0, ram_end - 8, 64, 0, mine(&d->q[q], true));
}

static void addr_wraps(struct vdev *d, unsigned q)
{
    put(&d->q[q], 0, ~0ULL - 7, 64, 0, mine(&d->q[q], true));
}

static void len_huge(struct vdev *d, unsigned q)
{
    put(&d->q[q], 0, 0x1000, 0xffffffff, 0, mine(&d->q[q], true));
}

static void write_first(struct vdev *d, unsigned q)
{
    put(&d->q[q], 1, (uint64_t)d->q[q].buf, 16, 1, mine(&d->q[q], true));
    put(&d->q[q], 0, (uint64_t)d->q[q].buf, 16, 1, mine(&d->q[q], true) | DESC_WRITE | DESC_NEXT);
}

static void over_ring(struct vdev *d, unsigned q)
{
    struct ring *r = &d->q[q];

    memset(r->buf, 0, 64);
    put(r, 2, (uint64_t)r->buf + 16, 1, 3, mine(r, true) | DESC_WRITE);
    put(r, 1, (uint64_t)r->desc, 4096, 3, mine(r, true) | DESC_WRITE | DESC_NEXT);
    put(r, 0, (uint64_t)r->buf, 16, 3, mine(r, true) | DESC_NEXT | (d == rng ? DESC_WRITE : 0));
}

static void indirect_bad(struct vdev *d, unsigned q)
{
    volatile struct desc *t = (void *)(d->q[q].buf + 8192);

    t[0].addr = (uint64_t)(t + 1);
    t[0].len = 16;
    t[0].id = 0;
    t[0].pflags = DESC_INDIRECT;
    put(&d->q[q], 0, (uint64_t)t, 16, 0, mine(&d->q[q], true) | DESC_INDIRECT);
}

static void indirect_huge(struct vdev *d, unsigned q)
{
    put(&d->q[q], 0, 0, 0xfffffff0, 0, mine(&d->q[q], true) | DESC_INDIRECT);
}

static const struct {
    const char *name;
    void (*make)(struct vdev *d, unsigned q);
    enum expect expect;
    uint64_t features;
} attacks[] = {
    { "wrong-wrap-counter", wrong_wrap, IGNORED, 0 },
    { "available-and-used", both_flags, IGNORED, 0 },
    { "chain-without-end", no_end, BROKEN, 0 },
    { "empty-chain-without-end", no_end_empty, BROKEN, 0 },
    { "chain-cut-off", cut_off, ANY, 0 },
    { "id-65535", id_far, ANY, 0 },
    { "ids-equal", ids_equal, ANY, 0 },
    { "addr-over-end-of-ram", addr_beyond, BROKEN, 0 },
    { "addr-wraps", addr_wraps, BROKEN, 0 },
    { "len-4g", len_huge, BROKEN, 0 },
    { "write-before-read", write_first, BROKEN, 0 },
    { "data-over-ring", over_ring, ANY, 0 },
    { "indirect-nested", indirect_bad, BROKEN, F_INDIRECT },
    { "indirect-4g", indirect_huge, BROKEN, F_INDIRECT },
    { "indirect-not-negotiated", indirect_huge, BROKEN, 0 },
};

static const struct {
    struct vdev **dev;
    unsigned q;
} targets[] = { { &disk0, 0 }, { &rng, 0 }, { &net, 1 }, { &net, 2 } };

static void attack(unsigned i, struct vdev *d, unsigned q)
{
    CHECK(vdev_start(d, F_PACKED | attacks[i].features), "%s does not start", d->name);
    attacks[i].make(d, q);
    vdev_kick(d, q);
    if (attacks[i].expect == BROKEN)
        CHECK(vdev_wait_broken(d), "%s: queue %u of %s is not broken", attacks[i].name, q, d->name);
    others_work(d);
    if (attacks[i].expect == IGNORED) {
        CHECK(!(vdev_status(d) & ST_NEEDS_RESET), "%s: %s is broken", attacks[i].name, d->name);
        d->q[q].desc[0].pflags = 0;
        CHECK(vdev_works(d), "%s: %s stands", attacks[i].name, d->name);
    }
    revive(d, attacks[i].name);
}

void packed_run(void)
{
    guest_print("packed: well-behaved\n");
    for (unsigned i = 0; i < n_devices; i++) {
        CHECK(vdev_start(&devices[i], F_PACKED | F_EVENT_IDX), "%s has no packed ring", devices[i].name);
        for (unsigned n = 0; n < 100; n++)
            CHECK(vdev_works(&devices[i]), "%s does not work with a packed ring", devices[i].name);
        revive(&devices[i], "packed ring");
    }
    for (unsigned i = 0; i < ARRAY_SIZE(attacks); i++) {
        guest_print("packed: %s\n", attacks[i].name);
        for (unsigned t = 0; t < ARRAY_SIZE(targets); t++)
            attack(i, *targets[t].dev, targets[t].q);
    }
}
