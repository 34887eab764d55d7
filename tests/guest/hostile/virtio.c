/* The driver half of the hostile guest (virtio.h). */
#include "virtio.h"

#define WAIT_MS 30000
#define PM_TIMER 0x608

struct vdev devices[8];
struct vdev *disk0, *disk1, *net, *rng;
unsigned n_devices;
uint64_t ram_end;

extern uint32_t boot_info;

/* Limit of every wait. After the first that was in vain the verdict is clear, and the rest need not take as long. */
static uint64_t wait_ms = WAIT_MS;

static bool waited_until(uint64_t until)
{
    if (now_ms() <= until)
        return false;
    wait_ms = 500;
    return true;
}

uint64_t now_ms(void)
{
    static uint32_t last;
    static uint64_t ticks;
    uint32_t now = inl(PM_TIMER);

    ticks += (uint32_t)(now - last);
    last = now;
    return ticks / 3580;
}

/* ---- PCI ---- */

static uint32_t port_config_read(unsigned slot, unsigned reg)
{
    outl(0xcf8, 0x80000000u | slot << 11 | reg);
    return inl(0xcfc);
}

static void vdev_add_cap(struct vdev *d, unsigned at)
{
    volatile uint8_t *cap = d->config + at;
    unsigned bar = cap[4];
    volatile uint8_t *where;

    if (cap[0] == 0x11)
        d->msix_cap = at;
    if (cap[0] != 0x09)
        return;
    if (cap[3] == 5) {
        d->pci_cap = at;
        return;
    }
    where = (volatile uint8_t *)(uint64_t)(rd32(d->config + 0x10 + 4 * bar) & ~15u) + rd32(cap + 8);
    d->bar_index = bar;
    d->bar = (volatile uint8_t *)(uint64_t)(rd32(d->config + 0x10 + 4 * bar) & ~15u);
    if (cap[3] == 1)
        d->common = where;
    if (cap[3] == 3)
        d->isr = where;
    if (cap[3] == 4)
        d->space = where;
    if (cap[3] == 2) {
        d->notify = where;
        d->notify_step = rd32(cap + 16);
    }
}

static void vdev_find(unsigned slot)
{
    struct vdev *d = &devices[n_devices];

    d->config = (volatile uint8_t *)(ECAM + slot * 0x8000ULL);
    if (rd16(d->config) != 0x1af4 || rd16(d->config + 2) < 0x1040)
        return;
    d->slot = slot;
    d->type = rd16(d->config + 2) - 0x1040u;
    wr16(d->config + 4, 6);
    for (unsigned at = d->config[0x34]; at; at = d->config[at + 1])
        vdev_add_cap(d, at);
    if (!d->common || !d->notify || !d->isr || !d->pci_cap || !d->msix_cap)
        guest_panic("slot %u lacks capabilities", slot);
    d->msix =
        (volatile uint8_t *)(uint64_t)(rd32(d->config + 0x10 + 4 * (rd32(d->config + d->msix_cap + 4) & 7)) & ~15u);
    d->n_queues = rd16(d->common + C_NUM_QUEUES);
    if (d->n_queues > QUEUES_MAX)
        guest_panic("slot %u has %u queues", slot, d->n_queues);
    for (unsigned i = 0; i < d->n_queues; i++) {
        d->q[i].desc = page_alloc();
        d->q[i].driver = page_alloc();
        d->q[i].device = page_alloc();
        d->q[i].buf = pages_alloc(BUF_BYTES / 4096 + 1, 4096);
    }
    if (d->type == VIRTIO_NET) {
        net = d;
        d->name = "net";
    } else if (d->type == VIRTIO_VSOCK) {
        d->name = "vsock";
    } else if (d->type == VIRTIO_RNG) {
        rng = d;
        d->name = "rng";
    } else if (d->type == VIRTIO_BLK && !disk0) {
        disk0 = d;
        d->name = "disk0";
    } else if (d->type == VIRTIO_BLK) {
        disk1 = d;
        d->name = "disk1";
    }
    n_devices++;
}

void devices_find(void)
{
    const uint32_t *info = (const void *)(uint64_t)boot_info;

    ram_end = 0x100000 + info[2] * 1024ULL;
    for (unsigned slot = 0; slot < 32; slot++) {
        uint32_t id = port_config_read(slot, 0);

        if (id != rd32((volatile void *)(ECAM + slot * 0x8000ULL)))
            guest_panic("ECAM and port 0xcf8 differ in slot %u", slot);
        if (id != 0xffffffff)
            vdev_find(slot);
    }
    if (!disk0 || !disk1 || !net || !rng)
        guest_panic("devices are missing");
}

/* ---- start and reset ---- */

uint8_t vdev_status(struct vdev *d)
{
    return rd8(d->common + C_STATUS);
}

void vdev_set_status(struct vdev *d, uint8_t status)
{
    wr8(d->common + C_STATUS, status);
}

bool vdev_reset(struct vdev *d)
{
    uint64_t until = now_ms() + wait_ms;

    vdev_set_status(d, 0);
    while (vdev_status(d) != 0) {
        if (waited_until(until))
            return false;
    }
    return true;
}

bool vdev_begin(struct vdev *d, uint64_t features)
{
    features |= F_VERSION_1;
    if (!vdev_reset(d))
        return false;
    d->features = features;
    d->packed = features & F_PACKED;
    vdev_set_status(d, ST_ACK);
    vdev_set_status(d, ST_ACK | ST_DRIVER);
    for (unsigned i = 0; i < 2; i++) {
        wr32(d->common + C_DRIVER_FEATURE_SELECT, i);
        wr32(d->common + C_DRIVER_FEATURE, (uint32_t)(features >> 32 * i));
    }
    vdev_set_status(d, ST_ACK | ST_DRIVER | ST_FEATURES_OK);
    return vdev_status(d) & ST_FEATURES_OK;
}

void vdev_set_queue(struct vdev *d, unsigned i, uint16_t size, uint64_t desc, uint64_t driver, uint64_t device)
{
    wr16(d->common + C_QUEUE_SELECT, (uint16_t)i);
    wr16(d->common + C_QUEUE_SIZE, size);
    wr64(d->common + C_QUEUE_DESC, desc);
    wr64(d->common + C_QUEUE_DRIVER, driver);
    wr64(d->common + C_QUEUE_DEVICE, device);
}

void vdev_enable_queue(struct vdev *d, unsigned i)
{
    wr16(d->common + C_QUEUE_SELECT, (uint16_t)i);
    wr16(d->common + C_QUEUE_ENABLE, 1);
}

/* By whole words: an interpreter takes a step for each. */
static void clear(volatile void *at, unsigned bytes)
{
    uint64_t words = bytes / 8;

    __asm__ volatile("rep stosq" : "+D"(at), "+c"(words) : "a"(0) : "memory");
}

void ring_clear(struct vdev *d, unsigned i)
{
    struct ring *r = &d->q[i];

    wr16(d->common + C_QUEUE_SELECT, (uint16_t)i);
    r->size = rd16(d->common + C_QUEUE_SIZE);
    if (r->size > RING_SIZE)
        guest_panic("%s: queue of %u", d->name, r->size);
    clear(r->desc, 4096);
    clear(r->driver, 1024);
    clear(r->device, 4096);
    r->avail = r->used = 0;
    r->avail_wrap = r->used_wrap = true;
}

bool vdev_start(struct vdev *d, uint64_t features)
{
    if (!vdev_begin(d, features))
        return false;
    for (unsigned i = 0; i < d->n_queues; i++) {
        struct ring *r = &d->q[i];

        ring_clear(d, i);
        vdev_set_queue(d, i, r->size, (uint64_t)r->desc, (uint64_t)r->driver, (uint64_t)r->device);
        vdev_enable_queue(d, i);
    }
    vdev_set_status(d, ST_ACK | ST_DRIVER | ST_FEATURES_OK | ST_DRIVER_OK);
    return vdev_status(d) & ST_DRIVER_OK;
}

bool vdev_wait_broken(struct vdev *d)
{
    uint64_t until = now_ms() + wait_ms;

    while (!(vdev_status(d) & ST_NEEDS_RESET)) {
        if (waited_until(until))
            return false;
    }
    return true;
}

void vdev_kick(struct vdev *d, unsigned i)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    wr16(d->notify + i * d->notify_step, (uint16_t)i);
}

/* ---- rings ---- */

void desc_set(struct ring *r, unsigned n, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    r->desc[n].addr = addr;
    r->desc[n].len = len;
    r->desc[n].flags = flags;
    r->desc[n].next = next;
}

void ring_publish(struct ring *r, uint16_t head)
{
    r->driver[2 + r->avail % r->size] = head;
    r->avail++;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    r->driver[1] = r->avail;
}

static void ring_add_packed(struct ring *r, const struct seg *segs, unsigned n)
{
    uint16_t head_flags = 0, head = r->avail;

    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = r->avail_wrap ? DESC_AVAIL : DESC_USED;

        flags |= (uint16_t)((segs[i].write ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0));
        r->desc[r->avail].addr = segs[i].addr;
        r->desc[r->avail].len = segs[i].len;
        r->desc[r->avail].id = (uint16_t)n; /* the id is ours to choose: the slots to skip when it comes back */
        if (i == 0)
            head_flags = flags;
        else
            r->desc[r->avail].pflags = flags;
        if (++r->avail == r->size) {
            r->avail = 0;
            r->avail_wrap = !r->avail_wrap;
        }
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    r->desc[head].pflags = head_flags;
}

void ring_add(struct vdev *d, unsigned q, const struct seg *segs, unsigned n)
{
    struct ring *r = &d->q[q];
    unsigned at = r->avail * 4u % r->size; /* chains of up to four, side by side */

    if (d->packed) {
        ring_add_packed(r, segs, n);
        return;
    }
    for (unsigned i = 0; i < n; i++)
        desc_set(r, at + i, segs[i].addr, segs[i].len,
                 (uint16_t)((segs[i].write ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0)), (uint16_t)(at + i + 1));
    ring_publish(r, (uint16_t)at);
}

bool ring_poll(struct vdev *d, unsigned q)
{
    struct ring *r = &d->q[q];

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (d->packed) {
        volatile struct desc *at = &r->desc[r->used];

        if (!!(at->pflags & DESC_USED) != r->used_wrap || !!(at->pflags & DESC_AVAIL) != r->used_wrap)
            return false;
        r->used_len = at->len;
        r->used = (uint16_t)(r->used + at->id);
        if (r->used >= r->size) {
            r->used = (uint16_t)(r->used - r->size);
            r->used_wrap = !r->used_wrap;
        }
        return true;
    }
    if (r->device[1] == r->used)
        return false;
    r->used_len = *(volatile uint32_t *)(volatile void *)(r->device + 4 + 4 * (r->used % r->size));
    r->used++;
    return true;
}

bool ring_wait(struct vdev *d, unsigned q)
{
    uint64_t until = now_ms() + wait_ms;

    while (!ring_poll(d, q)) {
        if (waited_until(until))
            return false;
    }
    return true;
}

bool ring_request(struct vdev *d, unsigned q, const struct seg *segs, unsigned n)
{
    ring_add(d, q, segs, n);
    vdev_kick(d, q);
    return ring_wait(d, q);
}

/* ---- health ---- */

uint64_t blk_word(const struct vdev *d, uint64_t n)
{
    return n * 0x9e3779b97f4a7c15ULL + (d == disk0 ? 1 : 2);
}

uint8_t blk_request(struct vdev *d, unsigned q, uint32_t type, uint64_t sector, void *data, uint32_t len, bool write)
{
    uint32_t *header = (void *)d->q[q].buf;
    volatile uint8_t *status = d->q[q].buf + 16;
    struct seg segs[3] = { { (uint64_t)header, 16, false },
                           { (uint64_t)data, len, write },
                           { (uint64_t)status, 1, true } };

    header[0] = type;
    header[1] = 0;
    header[2] = (uint32_t)sector;
    header[3] = (uint32_t)(sector >> 32);
    *status = 0xff;
    if (len == 0)
        segs[1] = segs[2];
    return ring_request(d, q, segs, len ? 3 : 2) ? *status : 0xff;
}

static bool blk_works(struct vdev *d)
{
    for (unsigned q = 0; q < d->n_queues; q++) {
        uint64_t *data = (void *)(d->q[q].buf + 4096);

        clear(data, 1024);
        if (blk_request(d, q, 0, 8, data, 1024, true) != 0)
            return false;
        for (unsigned i = 0; i < 128; i++) {
            if (data[i] != blk_word(d, 512 + i)) {
                guest_print("%s: word %u is 0x%X\n", d->name, i, data[i]);
                return false;
            }
        }
    }
    return true;
}

static bool rng_works(struct vdev *d)
{
    struct seg seg = { (uint64_t)d->q[0].buf, 64, true };
    unsigned zeroes = 0;

    memset(d->q[0].buf, 0, 64);
    if (!ring_request(d, 0, &seg, 1))
        return false;
    for (unsigned i = 0; i < 64; i++)
        zeroes += d->q[0].buf[i] == 0;
    return d->q[0].used_len == 64 && zeroes < 32;
}

/* Ask the gateway for its address and wait for the answer among whatever else comes in. */
static bool net_works(struct vdev *d)
{
    uint8_t *out = d->q[1].buf, *in = d->q[0].buf;
    struct seg rx = { (uint64_t)in, 2048, true }, tx = { (uint64_t)out, 12 + 42, false };
    static const uint8_t arp[] = { 8, 6, 0, 1, 8, 0, 6, 4, 0, 1 };

    memset(out, 0, 12 + 42);
    memset(out + 12, 0xff, 6);
    for (unsigned i = 0; i < 6; i++)
        out[18 + i] = out[34 + i] = d->space[i];
    memcpy(out + 24, arp, sizeof(arp));
    memcpy(out + 40, (const uint8_t[]){ 10, 0, 2, 15 }, 4);
    memcpy(out + 50, (const uint8_t[]){ 10, 0, 2, 2 }, 4);
    clear(in, 64);
    ring_add(d, 0, &rx, 1);
    vdev_kick(d, 0);
    if (!ring_request(d, 1, &tx, 1))
        return false;
    for (unsigned tries = 0; tries < 1000; tries++) {
        if (!ring_wait(d, 0))
            return false;
        if (in[24] == 8 && in[25] == 6 && in[33] == 2 && in[40] == 10 && in[43] == 2)
            return true;
        ring_add(d, 0, &rx, 1);
        vdev_kick(d, 0);
    }
    return false;
}

/* A reset of a connection that is not there is taken, and answered by nothing. */
static bool vsock_works(struct vdev *d)
{
    uint8_t *out = d->q[1].buf;
    struct seg seg = { (uint64_t)out, 44, false };

    memset(out, 0, 44);
    out[0] = 3;  /* from this guest */
    out[8] = 2;  /* to the host */
    out[28] = 1; /* a stream */
    out[30] = 3; /* VIRTIO_VSOCK_OP_RST */
    return ring_request(d, 1, &seg, 1);
}

bool vdev_works(struct vdev *d)
{
    if (vdev_status(d) & ST_NEEDS_RESET)
        return false;
    if (d->type == VIRTIO_BLK)
        return blk_works(d);
    if (d->type == VIRTIO_VSOCK)
        return vsock_works(d);
    return d->type == VIRTIO_NET ? net_works(d) : rng_works(d);
}

void others_work(const struct vdev *victim)
{
    for (unsigned i = 0; i < n_devices; i++) {
        if (&devices[i] != victim)
            CHECK(vdev_works(&devices[i]), "%s does not work any more", devices[i].name);
    }
}

void revive(struct vdev *d, const char *what)
{
    CHECK(vdev_start(d, 0), "%s: %s does not start again", what, d->name);
    CHECK(vdev_works(d), "%s: %s does not work after a reset", what, d->name);
}
